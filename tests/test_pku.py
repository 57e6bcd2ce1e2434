"""PKU-MMD folders: cutting by label files, names, views, split files of both parts, and what is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from shards.errors import InputError
from shards.protocols import parts, served
from shards.samples import Source
from shards.sources import open_source

PART2 = ("A01N01-L", "A01N01-M", "A02N02-R", "A02N07-L")


def rows(frames: int, seed: int, persons: int = 2) -> np.ndarray:
    """[T,150]; the second body is zero if there is one person."""
    values = np.random.default_rng(seed).standard_normal((frames, 2, 25, 3)).round(4) + 2
    values[:, persons:] = 0
    return values.reshape(frames, 150)


def folder(root: Path, stems: tuple[str, ...], labels: str = "3,10,40,1\n51,50,90,2\n", frames: int = 100) -> Path:
    (root / "skeleton").mkdir(parents=True)
    (root / "label").mkdir()
    for i, stem in enumerate(stems):
        text = "\n".join(" ".join(f"{v:.4f}" for v in row) for row in rows(frames, i, 1 + i % 2))
        (root / "skeleton" / f"{stem}.txt").write_text(text + "\n")
        (root / "label" / f"{stem}.txt").write_text(labels)
    return root


def split_file(path: Path, train: list[str], test: list[str]) -> None:
    path.write_text(f"Training videos:\n{', '.join(train)}\nValidataion videos:\n{', '.join(test)}\n")


def keys_of(source: Source) -> list[str]:
    return [s.key for s in source.samples()]


def test_part_two_names_say_scene_subject_and_view(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, PART2))
    assert (source.format, source.benchmark, len(source.classes), source.skeleton) == ("pku", "pku2", 51, "ntu25")
    assert keys_of(source) == sorted(f"{stem}_C{c:03d}_L{line:03d}" for stem in PART2 for c, line in ((3, 1), (51, 2)))
    sample = {s.key: s for s in source.samples()}["A02N07-L_C051_L002"]
    assert (sample.label, sample.subject, sample.camera, sample.setup) == (50, 7, 1, 2)
    assert not any(set(key) & set("./\\") for key in keys_of(source))


def test_an_action_is_the_rows_from_start_to_before_end(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, PART2))
    clip = pickle.loads(pickle.dumps(source)).read("A01N01-M_C003_L001")
    want = rows(100, 1, 2)[10:40].reshape(30, 2, 25, 3).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(clip.bodies, want, atol=1e-6)
    assert clip.frames == 30 and clip.by_id is None
    assert not source.read("A01N01-L_C003_L001").bodies[1].any()
    digests = {source.digest(key) for key in keys_of(source)}
    assert len(digests) == 8 and source.digest(keys_of(source)[0]) in digests


def test_the_end_is_clamped_to_the_rows_there_are_and_to_300(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, ("A01N01-L",), "1,0,305,1\n2,90,400,1\n3,330,340,1\n", frames=320))
    long, late, outside = keys_of(source)
    assert source.read(long).bodies.shape[1] == 300 and source.read(long).frames == 305 and source.read(long).cut
    assert source.read(late).bodies.shape[1] == 230
    with pytest.raises(InputError, match=r"starts at row 330 of 320") as caught:
        source.read(outside)
    assert caught.value.reason == "truncated"


def test_part_two_protocols_follow_from_the_names(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, PART2))
    samples = source.samples()
    assert served(samples, "pku2") == ["xsub", "xview"]
    assert {k[:8] for k in parts(samples, "xsub", "pku2")[0]} == {"A01N01-L", "A01N01-M"}
    assert {k[:8] for k in parts(samples, "xview", "pku2")[0]} == {"A01N01-M", "A02N02-R"}


def test_split_files_decide_where_they_are_there(tmp_path: Path) -> None:
    root = folder(tmp_path, PART2)
    split_file(root / "cross_subject_v2.txt", ["A02N02-R", "A01N01-L"], ["A01N01-M"])
    samples = open_source(root).samples()
    train, test = parts(samples, "xsub", "pku2")
    assert {k[:8] for k in train} == {"A02N02-R", "A01N01-L"} and {k[:8] for k in test} == {"A01N01-M"}
    assert {k[:8] for k in parts(samples, "xview", "pku2")[1]} == {"A01N01-L", "A02N07-L"}


def test_part_one_needs_its_split_file_for_subjects_but_not_for_views(tmp_path: Path) -> None:
    root = folder(tmp_path, ("0002-L", "0002-M", "0007-R"))
    source = open_source(root)
    assert source.benchmark == "pku1" and served(source.samples(), "pku1") == ["xview"]
    with pytest.raises(InputError, match=r"'xsub'.*xview"):
        parts(source.samples(), "xsub", "pku1")
    (root / "Split").mkdir()
    split_file(root / "Split" / "cross-subject.txt", ["0002-L", "0002-M"], ["0007-R"])
    train, test = parts(open_source(root).samples(), "xsub", "pku1")
    assert len(train) == 4 and test == ["0007-R_C003_L001", "0007-R_C051_L002"]


def test_absent_persons_and_numbers_that_are_none(tmp_path: Path) -> None:
    root = folder(tmp_path, ("A01N01-L",), "3,0,5,1\n3,5,10,1\n3,10,15,1\n3,15,20,1\n")
    file = root / "skeleton" / "A01N01-L.txt"
    lines = file.read_text().splitlines()
    lines[0:5] = [" ".join(["0"] * 150)] * 5
    lines[7] = lines[7].replace(lines[7].split()[3], "nan", 1)
    lines[12] = lines[12].rsplit(" ", 3)[0]
    lines[17] = "x" + lines[17]
    file.write_text("\n".join(lines))
    source = open_source(root)
    for key, reason in zip(keys_of(source), ("no person", "not finite", "wrong joint count", "damaged")):
        with pytest.raises(InputError, match=r"A01N01-L\.txt") as caught:
            source.read(key)
        assert caught.value.reason == reason, key
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("52,1,2,1\n", "line 1: unknown class 52"),
        ("3,1,2,1\n\n0,1,2,1\n", "line 3: unknown class 0"),
        ("3,5,5,1\n", "frames 5 to 5"),
        ("3 5 9\n", "not class,start,end"),
        ("\n", "no action"),
    ],
)
def test_a_bad_label_file_is_named_with_its_line(tmp_path: Path, labels: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(folder(tmp_path, ("A01N01-L",), labels))


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'walk' is no PKU-MMD name"):
        open_source(folder(tmp_path / "a", ("walk",)))
    with pytest.raises(InputError, match="part I and part II"):
        open_source(folder(tmp_path / "b", ("A01N01-L", "0002-L")))
    root = folder(tmp_path / "c", PART2)
    (root / "skeleton" / "A01N01-L.txt").unlink()
    with pytest.raises(InputError, match=r"A01N01-L\.txt: missing"):
        open_source(root)
    root = folder(tmp_path / "d", PART2)
    split_file(root / "cross_view.txt", ["A01N01-L"], ["A01N01-L"])
    with pytest.raises(InputError, match="trains and tests"):
        open_source(root)
    split_file(root / "cross_view.txt", ["A01N01-L"], ["A01N01-M"])
    split_file(root / "cross_view_v2.txt", ["A01N01-L"], ["A01N01-M"])
    with pytest.raises(InputError, match="a second list for xview"):
        open_source(root)
