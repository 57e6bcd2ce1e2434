"""NTU `.skeleton` files: every field, bodies by slot and by id, folders and zips, and what is wrong with broken ones."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.errors import InputError
from shards.ntu import NTUSource, parse, parse_clip, sample_of
from shards.samples import Source
from shards.sources import open_source
from tests.skeleton_text import moving, skeleton_text

DATA = Path(__file__).parent / "data"
NAMES = ("S001C001P001R001A001", "S002C002P003R002A050", "S003C003P008R001A023")


def folder_of(root: Path, *names: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (root / f"{name}.skeleton").write_text(skeleton_text(moving(seed=i)))
    return root


def opened(path: Path) -> NTUSource:
    source = open_source(path)
    assert isinstance(source, NTUSource)
    return source


@pytest.mark.golden
@pytest.mark.parametrize("name", NAMES)
def test_bodies_by_slot_are_those_of_the_published_reader(name: str) -> None:
    raw = np.load(DATA / "ntu_prep.npz")[f"{name}_raw"]
    bodies = opened(DATA / "golden_raw").read(name).bodies.transpose(3, 1, 2, 0)
    present = [m for m in range(2) if raw[..., m].any()]
    assert bodies.shape[3] == len(present)
    for m in present:
        assert any(np.array_equal(raw[..., m], bodies[..., slot]) for slot in range(bodies.shape[3]))


def test_every_field_is_parsed() -> None:
    frames = moving(3, bodies=2)
    recording = parse(skeleton_text(frames).encode(), "here")
    assert recording.frames == 3
    assert recording.frame.tolist() == [0, 0, 1, 1, 2, 2] and recording.slot.tolist() == [0, 1] * 3
    # The two ids are the same number in float64: they must be read as integers.
    assert recording.body_id.tolist() == [72057594037931101, 72057594037931102] * 3
    assert (recording.flags == [0, 1, 1, 0, 0, 0]).all() and (recording.lean == [0.25, -0.5]).all() and (recording.tracking == 2).all()
    np.testing.assert_allclose(recording.joints[3, :, :3], frames[1][1][1], atol=1e-6)
    np.testing.assert_allclose(recording.joints[0, 7, 3:], [250.5, 170.25, 960, 540, 0.1, 0.2, 0.3, 0.9, 2])


def test_pixels_and_orientations_may_be_odd_but_positions_may_not() -> None:
    text = skeleton_text(moving(2)).replace(" 250.5 170.25", " -1.#IND nan", 1)
    assert np.isnan(parse(text.encode(), "here").joints[0, 0, 3:5]).all()
    assert parse_clip(text.encode(), "here").bodies.shape == (1, 2, 25, 3)


def test_windows_line_ends_read_the_same() -> None:
    text = skeleton_text(moving(4, bodies=2))
    a, b = (parse_clip(t.encode(), "here") for t in (text, text.replace("\n", "\r\n")))
    assert np.array_equal(a.bodies, b.bodies)


def test_bodies_by_id_follow_a_person_through_slots_and_gaps() -> None:
    a, b = moving(1, bodies=2)[0]
    frames = [[], [a], [b, a], [b], [], [a, b]]
    clip = parse_clip(skeleton_text(frames).encode(), "here")
    assert clip.bodies.shape == (2, 6, 25, 3) and not clip.bodies[:, [0, 4]].any()
    assert np.array_equal(clip.bodies[0, 1], clip.bodies[1, 2])
    assert clip.by_id is not None
    assert [(body, first, len(joints)) for body, first, joints in clip.by_id] == [(a[0], 0, 3), (b[0], 1, 3)]


def test_four_slots_at_most_and_three_hundred_frames() -> None:
    clip = parse_clip(skeleton_text(moving(301, bodies=6)).encode(), "here")
    assert clip.bodies.shape == (4, 300, 25, 3) and clip.frames == 301 and clip.cut
    assert clip.by_id is not None and len(clip.by_id) == 6 and all(len(joints) == 300 for *_, joints in clip.by_id)
    assert not parse_clip(skeleton_text(moving(300)).encode(), "here").cut


def spoilt(change: Callable[[str], str], frames: int = 3) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_clip(change(skeleton_text(moving(frames))).encode(), "dir/X.skeleton")
    assert str(caught.value).startswith("dir/X.skeleton: ") and "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: "", "empty"),
        (lambda t: "\n\n", "empty"),
        (lambda t: t[: len(t) // 2], "truncated"),
        (lambda t: t.rsplit("\n", 2)[0], "truncated"),
        (lambda t: t.replace("3\n", "9\n", 1), "truncated"),
        (lambda t: t.replace("\n25\n", "\n24\n", 1), "wrong joint count"),
        (lambda t: skeleton_text(moving(3, joints=20), 20), "wrong joint count"),
        (lambda t: t.replace("\n25\n", "\nmany\n", 1), "damaged"),
        (lambda t: t.replace(" 250.5", "", 1), "damaged"),
        (lambda t: "hello\n", "damaged"),
        (lambda t: skeleton_text([[], []]), "no person"),
        (lambda t: "0\n", "no person"),
        (lambda t: skeleton_text([[(1, np.zeros((25, 3)))]] * 4), "no person"),
        (lambda t: skeleton_text([[(1, np.full((25, 3), np.nan))]] * 4), "not finite"),
        (lambda t: skeleton_text([[(1, np.full((25, 3), np.inf))]] * 4), "not finite"),
        (lambda t: skeleton_text([[*moving(1, bodies=5)[0], (6, np.full((25, 3), np.nan))]]), "not finite"),
    ],
)
def test_a_broken_file_is_one_line_with_its_reason(change: Callable[[str], str], reason: str) -> None:
    assert spoilt(change).reason == reason


def test_a_word_among_positions_is_named_with_its_line() -> None:
    def change(text: str) -> str:
        lines = text.split("\n")
        lines[40] = "x" + lines[40]
        return "\n".join(lines)

    error = spoilt(change)
    assert error.reason == "damaged" and "line 41" in str(error)


def test_every_cut_of_a_file_is_noticed() -> None:
    text = skeleton_text(moving(2, bodies=2))
    lines = text.split("\n")
    for count in range(len(lines) - 2):
        with pytest.raises(InputError) as caught:
            parse_clip("\n".join(lines[: count + 1]).encode(), "here")
        assert caught.value.reason in ("truncated", "no person", "empty")


def test_names_say_label_subject_camera_setup_and_replication() -> None:
    sample = sample_of("S017C002P040R001A060", "x")
    assert (sample.setup, sample.camera, sample.subject, sample.replication, sample.label) == (17, 2, 40, 1, 59)


@pytest.mark.parametrize(
    "name", ["S001C004P001R001A001", "S001C000P001R001A001", "S001C001P001R001A121", "S033C001P001R001A001", "walking", "S1C1"]
)
def test_a_bad_name_is_refused_with_its_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=name) as caught:
        open_source(folder_of(tmp_path / "set", "S001C001P001R001A001", name)).samples()
    assert caught.value.reason == "bad name"


def test_folder_at_any_depth_and_zip_give_the_same(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "deep" / "er", *NAMES)
    (folder / "notes.txt").write_text("not a skeleton")
    (folder / "._S001C001P001R001A001.skeleton").write_text("of a foreign file system")
    with zipfile.ZipFile(tmp_path / "one.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, f"nturgb+d_skeletons/{file.name}")
    sources: list[Source] = [open_source(tmp_path / "deep"), open_source(tmp_path / "one.zip")]
    (tmp_path / "zips").mkdir()
    (tmp_path / "one.zip").rename(tmp_path / "zips" / "one.zip")
    sources[1] = open_source(tmp_path / "zips" / "one.zip")
    sources.append(open_source(tmp_path / "zips"))
    assert [s.key for s in sources[0].samples()] == sorted(NAMES)
    for other in sources[1:]:
        assert other.samples() == sources[0].samples()
        for key in NAMES:
            copy = pickle.loads(pickle.dumps(other))
            assert copy.digest(key) == sources[0].digest(key) == hashlib.sha256((folder / f"{key}.skeleton").read_bytes()).hexdigest()
            assert np.array_equal(copy.read(key).bodies, sources[0].read(key).bodies)


def test_duplicate_keys_name_both_files(tmp_path: Path) -> None:
    folder_of(tmp_path / "a", NAMES[0])
    folder_of(tmp_path / "b", NAMES[0])
    with pytest.raises(InputError, match=f"{NAMES[0]}.*a/.*b/") as caught:
        open_source(tmp_path)
    assert caught.value.reason == "duplicate key"


def test_an_unreadable_zip_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InputError, match=r"bad\.zip.*unreadable"):
        open_source(bad)
    folder = folder_of(tmp_path / "set", NAMES[0])
    with pytest.raises(InputError, match=r"bad\.zip"):
        open_source(tmp_path)
    good = tmp_path / "set" / "good.zip"
    with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / f"{NAMES[0]}.skeleton")
    content = bytearray(good.read_bytes())
    content[200:240] = bytes(40)
    good.write_bytes(content)
    with pytest.raises(InputError, match=r"good\.zip"):
        open_source(good).read(NAMES[0])


def test_the_benchmark_follows_from_the_names(tmp_path: Path) -> None:
    small = open_source(folder_of(tmp_path / "a", "S017C001P001R001A060"))
    assert small.benchmark == "ntu60" and len(small.classes) == 60 and small.skeleton == "ntu25" and not small.normalised
    assert open_source(folder_of(tmp_path / "b", "S018C001P001R001A060")).benchmark == "ntu120"
    large = open_source(folder_of(tmp_path / "c", "S001C001P001R001A061"))
    assert large.benchmark == "ntu120" and len(large.classes) == 120


def test_recordings_on_the_missing_list_are_excluded_with_the_reason(tmp_path: Path) -> None:
    source = open_source(folder_of(tmp_path, "S001C002P005R002A008", "S001C001P001R001A001"))
    assert source.excluded() == {"S001C002P005R002A008": "missing skeleton list"}


def test_a_set_of_another_origin_describes_itself(tmp_path: Path) -> None:
    folder_of(tmp_path, "S001C002P005R002A002")
    about = tmp_path / "about.json"
    about.write_text(json.dumps({"benchmark": "synthetic", "classes": ["walk", "sit"], "provenance": "program"}))
    source = open_source(tmp_path)
    assert (source.benchmark, source.classes, source.provenance) == ("synthetic", ("walk", "sit"), "program")
    about.write_text(json.dumps({"benchmark": "synthetic", "classes": ["walk"]}))
    with pytest.raises(InputError, match=r"about\.json.*1 classes.*class 2"):
        open_source(tmp_path)
    about.write_text("{")
    with pytest.raises(InputError, match=r"about\.json"):
        open_source(tmp_path)


def test_all_fields_of_a_golden_file() -> None:
    recording = opened(DATA / "golden_raw").recording(NAMES[1])
    assert recording.frames == 14 and recording.joints.shape == (28, 25, 12)
    assert sorted(set(recording.body_id.tolist())) == [72057594037931691, 72057594037931692]
