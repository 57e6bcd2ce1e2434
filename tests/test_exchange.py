"""Exchange files: what is written is read, both versions, label columns, where texts come from, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards import npz
from shards.errors import InputError
from shards.exchange import write_exchange
from shards.protocols import parts
from shards.samples import Clip
from shards.sources import open_source

Clips = list[NDArray[np.float32]]


def clips(count: int = 3, seed: int = 0, joints: int = 25) -> Clips:
    """[T,M,V,3] of different lengths and numbers of bodies, the second body absent now and then."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        clip = rng.standard_normal((3 + i, 1 + i % 2, joints, 3)).astype(np.float32) + np.float32(2)
        if i % 2:
            clip[1, 1] = 0
        made.append(clip)
    return made


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as z:
        return {name: z[name] for name in z.files}


def version1(path: Path, **changed: Any) -> Path:
    """A file as the first version had it: one body, differences, no mask; None takes an array out."""
    rng = np.random.default_rng(0)
    arrays = {
        "delta": rng.integers(-40, 40, (9, 1, 25, 3)).astype(np.int16),
        "offsets": np.array([0, 4, 9]),
        "origin": np.array([[0, 1, 3], [0.5, 1, 2]], np.float32),
        "scale": np.float32(0.0005),
        "label": np.array([1, 0], np.int32),
        "subject": np.array([3, 4], np.int32),
        "camera": np.array([1, 2], np.int32),
        "repetition": np.array([1, 1], np.int32),
        "name": np.array(["b", "a"]),
        "text": np.array(["jumps", "walks"]),
        "split": np.array(["train", "test"]),
        "meta": np.array('{"classes": ["walk", "jump"]}'),
    }
    np.savez(path, **{k: v for k, v in (arrays | changed).items() if v is not None})
    return path


def test_version_1_is_read_as_its_recipe_says(tmp_path: Path) -> None:
    path = version1(tmp_path / "set.npz")
    z, source = arrays_of(path), open_source(path)
    assert [s.key for s in source.samples()] == ["a", "b"]
    b = source.samples()[1]
    assert (b.label, b.subject, b.camera, b.replication, b.split, b.frames, b.text) == (1, 3, 1, 1, "train", 4, "jumps")
    want = np.cumsum(z["delta"][:4], axis=0, dtype=np.int32) * float(z["scale"]) + z["origin"][0]
    np.testing.assert_allclose(source.read("b").bodies, want.transpose(1, 0, 2, 3), atol=1e-6)
    assert source.classes == ("walk", "jump") and source.benchmark == source.format == "exchange" and source.skeleton == "ntu25"
    assert open_source(tmp_path).samples() == source.samples(), "the folder of one file is that file"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([20, 25]), st.booleans())
def test_writing_then_reading_gives_the_clips_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, joints: int, delta: bool
) -> None:
    made = clips(count, seed, joints)
    path = tmp_path_factory.mktemp("exchange") / "set.npz"
    said = {
        "label": [i % 2 for i in range(count)],
        "subject": range(count),
        "camera": [2] * count,
        "repetition": [i + 1 for i in range(count)],
    }
    texts = {
        "name": [f"clip{i}" for i in range(count)],
        "text": [f"tëxt {i}" for i in range(count)],
        "split": ["train", "test", "", "", ""][:count],
    }
    write_exchange(path, made, **{k: list(v) for k, v in said.items()}, **texts, meta={"classes": ["one", "two"]}, delta=delta)  # type: ignore[arg-type]
    source = open_source(path)
    assert source.classes == ("one", "two") and source.skeleton == ("ntu25" if joints == 25 else "ucla20")
    for i, sample in enumerate(source.samples()):
        assert (sample.key, sample.label, sample.subject, sample.camera, sample.replication) == (f"clip{i}", i % 2, i, 2, i + 1)
        assert (sample.text, sample.split, sample.frames) == (f"tëxt {i}", texts["split"][i], len(made[i]))
        read = source.read(sample.key).bodies
        want = np.zeros((read.shape[0], *made[i].transpose(1, 0, 2, 3).shape[1:]), np.float32)
        want[: made[i].shape[1]] = made[i].transpose(1, 0, 2, 3)
        np.testing.assert_allclose(read, want, atol=0.000251 if delta else 0)
        assert np.array_equal(read.any((2, 3)), want.any((2, 3))), "an absent body stays exactly absent"


def test_the_same_clips_give_the_same_bytes_and_digests(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_exchange(tmp_path / f"{name}.npz", clips(), label=[0, 1, 1])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    write_exchange(tmp_path / "c.npz", clips(), label=[0, 1, 0])
    a, c = open_source(tmp_path / "a.npz"), open_source(tmp_path / "c.npz")
    assert [a.digest(k) == c.digest(k) for k in ("000000", "000001", "000002")] == [True, True, False]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz", "c.npz"], "no draft stays behind"


def test_a_clip_can_be_written_as_it_was_read(tmp_path: Path) -> None:
    write_exchange(tmp_path / "a.npz", clips(), label=[0, 1, 1])
    source = open_source(tmp_path / "a.npz")
    write_exchange(tmp_path / "b.npz", [source.read(s.key) for s in source.samples()], label=[s.label for s in source.samples()])
    for sample in source.samples():
        assert np.array_equal(open_source(tmp_path / "b.npz").read(sample.key).bodies, source.read(sample.key).bodies)


def test_label_columns_multiply_in_the_order_given(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    write_exchange(
        path,
        clips(4),
        label=[0, 0, 1, 1],
        columns={"correct": [1, 0, 0, 1], "side": ["r", "l", "l", "l"]},
        meta={"classes": ["sit", "walk"]},
    )
    one = open_source(path, ("label", "correct"))
    assert one.classes == ("sit / correct 0", "sit / correct 1", "walk / correct 0", "walk / correct 1")
    assert [s.label for s in one.samples()] == [1, 0, 2, 3] and one.options == {"label": "label,correct"}
    two = open_source(path, ("side", "label"))
    assert two.classes == ("side l / sit", "side l / walk", "side r / sit", "side r / walk") and [s.label for s in two.samples()] == [
        2,
        0,
        1,
        1,
    ]
    with pytest.raises(InputError, match=r"no column 'colour'.*correct.*side"):
        open_source(path, ("colour",))


@pytest.mark.parametrize(
    ("texts", "said", "want"),
    [
        (["", "", "", ""], None, ""),
        (["sit", "sit", "walk", "walk"], None, "label"),
        (["sit", "sit", "walk", "walk"], "vlm", "label"),
        (["sit", "sits", "walk", "walk"], None, "import"),
        (["sit", "sits", "walk", "walk"], "vlm", "vlm"),
        (["same", "same", "same", "same"], None, "label"),
    ],
)
def test_where_texts_come_from(tmp_path: Path, texts: list[str], said: str | None, want: str) -> None:
    write_exchange(tmp_path / "a.npz", clips(4), label=[0, 0, 1, 1], text=texts, meta={"text_provenance": said} if said else {})
    assert open_source(tmp_path / "a.npz").provenance == want


def test_long_clips_keep_their_first_300_frames(tmp_path: Path) -> None:
    long = np.random.default_rng(0).standard_normal((310, 1, 25, 3)).astype(np.float32)
    write_exchange(tmp_path / "a.npz", [long], label=[0])
    clip = open_source(tmp_path / "a.npz").read("000000")
    assert clip.bodies.shape == (1, 300, 25, 3) and clip.frames == 310 and clip.cut


def test_large_arrays_are_mapped_or_extracted_once_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "LOADED_MAX", 512)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    for name, delta in (("stored", False), ("packed", True)):
        write_exchange(tmp_path / f"{name}.npz", clips(), label=[0, 1, 1], delta=delta)
        source = open_source(tmp_path / f"{name}.npz")
        first = source.read("000001").bodies
        motion = source.arrays["delta" if delta else "joints"]  # type: ignore[attr-defined]
        assert isinstance(motion, np.memmap)
        assert len(list((tmp_path / "scratch").iterdir())) == int(delta)
        copy = pickle.loads(pickle.dumps(source))
        assert np.array_equal(copy.read("000001").bodies, first)
        assert len(list((tmp_path / "scratch").iterdir())) == int(delta), "a worker's copy uses the same file"
        del copy, motion, source
    assert not list((tmp_path / "scratch").iterdir())


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("version", {"version": np.array(3)}, "version 3.*1 and 2"),
    ("label missing", {"label": None}, "no `label` column"),
    ("label of classes", {"label": np.array([0, 2])}, "label 2 is none of 2 classes"),
    ("label negative", {"label": np.array([0, -1])}, "label -1"),
    ("label kind", {"label": np.array([0.5, 1])}, "class indices"),
    ("label length", {"label": np.array([0, 1, 1])}, "no column 'label'"),
    ("pickled", {"name": np.array([{"a": 1}, None], object)}, "pickled"),
    ("pickled motion", {"delta": np.array([{"a": 1}] * 9, object)}, "pickled"),
    ("joints", {"delta": np.zeros((9, 1, 24, 3), np.int16)}, "24 joints.*25"),
    ("offsets", {"offsets": np.array([0, 4, 8])}, "from 0 to 9"),
    ("offsets fall", {"offsets": np.array([0, 10, 9])}, "from 0 to 9"),
    ("axes", {"delta": np.zeros((9, 25, 3), np.int16)}, "bodies, joints, 3"),
    ("origin", {"origin": np.zeros((3, 3))}, "`origin`"),
    ("present", {"present": np.ones((9, 2), bool)}, "`present`"),
    ("dot", {"name": np.array(["a.b", "c"])}, "dot or a slash"),
    ("slash", {"name": np.array(["a/b", "c"])}, "dot or a slash"),
    ("twice", {"name": np.array(["a", "a"])}, "duplicate key a"),
    ("split", {"split": np.array(["train", "val"])}, "'val' of a"),
    ("subject", {"subject": np.array(["x", "y"])}, "`subject` must hold whole numbers"),
    ("text", {"text": np.array(["x"])}, "`text`"),
    ("meta", {"meta": np.array("{")}, "not JSON"),
    ("meta list", {"meta": np.array("[]")}, "JSON object"),
    ("provenance", {"meta": np.array('{"text_provenance": "guess"}'), "label": np.array([0, 0])}, "'guess'.*vlm"),
]


@pytest.mark.parametrize(("changed", "message"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_wrong_file_is_one_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = version1(tmp_path / "set.npz", **changed)
    with pytest.raises(InputError, match=message) as caught:
        open_source(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cut_short_or_pickled_whole_is_refused(tmp_path: Path) -> None:
    path = version1(tmp_path / "set.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="unreadable zip"):
        open_source(path)
    path.write_bytes(pickle.dumps({"label": [0]}))
    with pytest.raises(InputError, match="unreadable zip"):
        open_source(path)


def test_broken_clips_are_found_when_read(tmp_path: Path) -> None:
    joints = np.ones((9, 1, 25, 3), np.float32)
    joints[:4] = 0
    joints[6, 0, 3, 1] = np.nan
    source = open_source(version1(tmp_path / "set.npz", joints=joints, delta=None, version=np.array(2)))
    for key, reason in (("b", "no person"), ("a", "not finite")):
        with pytest.raises(InputError, match=f"{key}: ") as caught:
            source.read(key)
        assert caught.value.reason == reason


UNWRITABLE: list[tuple[Callable[[], dict[str, Any]], str]] = [
    (lambda: {"clips": []}, "no clips"),
    (lambda: {"clips": [np.full((2, 1, 25, 3), np.nan)]}, "clip 0.*not finite"),
    (lambda: {"clips": [np.zeros((2, 1, 24, 3))]}, "24 joints"),
    (lambda: {"clips": [np.zeros((2, 25, 3))]}, "shape"),
    (lambda: {"clips": [np.ones((2, 1, 25, 3)), np.ones((2, 1, 20, 3))], "label": [0, 0]}, "clip 1"),
    (lambda: {"label": [0, 1]}, "`label`"),
    (lambda: {"name": ["a", "b"]}, "`name`"),
    (lambda: {"columns": {"meta": [1]}}, "'meta'"),
    (lambda: {"columns": {"thing": [object()]}}, "`thing`"),
    (lambda: {"clips": [np.array([[[[1.0] * 3] * 25]], float) * [[[[1]]], [[[90]]]]], "delta": True}, "moves more than 16.* m in a frame"),
]


@pytest.mark.parametrize(("given_", "message"), UNWRITABLE)
def test_what_does_not_fit_is_not_written(tmp_path: Path, given_: Callable[[], dict[str, Any]], message: str) -> None:
    arguments = {"clips": [np.ones((2, 1, 25, 3))], "label": [0]} | given_()
    with pytest.raises(InputError, match=message):
        write_exchange(tmp_path / "a.npz", arguments.pop("clips"), **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.realdata
def test_real_motion_capture_is_read_whole(real_data: Path) -> None:
    source = open_source(real_data / "uiprmd", ("label", "correct"))
    samples = source.samples()
    assert len(samples) == 2000 and len(source.classes) == 20 and {s.label for s in samples} == set(range(20))
    assert source.classes[1] == "deep squat / correct 1" and source.provenance == "label"
    train, test = parts(samples, "split", source.benchmark)
    assert len(train) == len(test) == 1000
    assert sum(s.frames for s in samples) == 151158
    for sample in samples[::50]:
        clip: Clip = source.read(sample.key)
        assert clip.bodies.shape == (1, sample.frames, 25, 3) and 0.5 < np.linalg.norm(clip.bodies[0, 0, 3] - clip.bodies[0, 0, 0]) < 1.1


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "count", "classes", "provenance"), [("cmu_clips", 410, 11, "import"), ("irds_subset", 188, 9, "label")])
def test_the_other_real_sets(real_data: Path, name: str, count: int, classes: int, provenance: str) -> None:
    source = open_source(real_data / name)
    assert (len(source.samples()), len(source.classes), source.provenance) == (count, classes, provenance)
    assert all(len(set(part)) == len(part) > 0 for part in parts(source.samples(), "split", source.benchmark))
