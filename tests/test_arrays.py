"""AGCN folders and CTR-GCN files: valid frames, names, labels without unpickling code, mapped not loaded."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acsar.skeleton import NTU25
from shards import npz
from shards.arrays import read_labels
from shards.errors import InputError
from shards.normalise import normalise
from shards.protocols import parts, served
from shards.sources import open_source

NAMES = {"train": ["S001C002P001R001A001", "S001C003P002R001A060"], "val": ["S001C001P003R001A002"]}


def agcn(root: Path, names: dict[str, list[str]] = NAMES, joints: int = 25, suffix: str = ".skeleton") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, stems in names.items():
        data = rng.standard_normal((len(stems), 3, 300, joints, 2)).astype(np.float32)
        data[0, ..., 1] = 0
        np.save(root / f"{part}_data_joint.npy", data)
        np.save(root / f"{part}_num_frame.npy", np.array([40 + 300 * i for i in range(len(stems))]))
        labels = [int(stem[-3:]) - 1 if stem[-3:].isdigit() else i for i, stem in enumerate(stems)]
        (root / f"{part}_label.pkl").write_bytes(pickle.dumps(([stem + suffix for stem in stems], labels)))
    return root


def test_agcn_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    source = open_source(agcn(tmp_path))
    assert (source.format, source.benchmark, source.normalised, len(source.classes)) == ("agcn", "ntu60", True, 60)
    samples = {s.key: s for s in source.samples()}
    assert sorted(samples) == sorted(NAMES["train"] + NAMES["val"])
    first = samples["S001C002P001R001A001"]
    assert (first.label, first.camera, first.subject, first.split, first.frames) == (0, 2, 1, "train", 40)
    assert samples["S001C003P002R001A060"].frames == 300, "counts beyond the array are clamped"
    data = np.load(tmp_path / "train_data_joint.npy")
    source = pickle.loads(pickle.dumps(source))
    clip = source.read(first.key)
    np.testing.assert_array_equal(clip.bodies.transpose(3, 1, 2, 0), data[0, :, :40])
    np.testing.assert_array_equal(normalise(clip, "none", NTU25), data[0, :, :40, :, :1])
    assert len({source.digest(key) for key in samples}) == 3


def test_the_parts_are_a_split_and_ntu_names_serve_the_other_protocols(tmp_path: Path) -> None:
    source = open_source(agcn(tmp_path))
    assert served(source.samples(), source.benchmark) == ["split", "xsub", "xview"]
    assert parts(source.samples(), "split", source.benchmark) == (NAMES["train"], NAMES["val"])


def test_other_names_and_twenty_joints(tmp_path: Path) -> None:
    source = open_source(agcn(tmp_path, {"train": ["walk_a", "run_b"], "test": ["sit_c"]}, joints=20))
    assert source.skeleton == "ucla20" and source.benchmark == "arrays" and source.classes == ("0", "1")
    assert parts(source.samples(), "split", "arrays") == (["run_b", "walk_a"], ["sit_c"])


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((Evil(), [0]), "builtins.exec"),
        ((["a"], np.array([0])), "numpy"),
        ((["a"], [np.int64(0)]), "numpy"),
        ({"names": ["a"], "labels": [0]}, "pair"),
        ((["a", "b"], [0]), "equally long"),
        ((["a"], [0.0]), "whole numbers"),
        ((["a"], [True]), "whole numbers"),
        ((["a"], [-1]), "whole numbers"),
        (([b"a"], [0]), "_codecs|pair"),
        ("text", "pair"),
    ],
)
def test_labels_are_read_from_plain_lists_only(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "train_label.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_labels(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_labels_of_every_pickle_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "label.pkl"
    path.write_bytes(pickle.dumps((("S001C001P001R001A001.skeleton", "b"), [300, 70000]), protocol))
    assert read_labels(path) == (["S001C001P001R001A001", "b"], [300, 70000])


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", b"\x80\x04\x95\xff"])
def test_a_damaged_label_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train_label.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train_label\.pkl"):
        read_labels(path)


def broken(root: Path, what: str) -> None:
    file = root / "train_num_frame.npy"
    match what:
        case "no counts":
            file.unlink()
        case "fewer counts":
            np.save(file, np.array([40]))
        case "zero count":
            np.save(file, np.array([40, 0]))
        case "no labels":
            (root / "train_label.pkl").unlink()
        case "shape":
            np.save(root / "train_data_joint.npy", np.zeros((2, 300, 150), np.float32))
        case "joints":
            np.save(root / "train_data_joint.npy", np.zeros((2, 3, 300, 17, 2), np.float32))
        case "cut":
            whole = (root / "train_data_joint.npy").read_bytes()
            (root / "train_data_joint.npy").write_bytes(whole[: len(whole) // 2])
        case "label":
            (root / "train_label.pkl").write_bytes(pickle.dumps((NAMES["train"], [0, 1])))
        case "twice":
            (root / "train_label.pkl").write_bytes(pickle.dumps(([NAMES["val"][0]] * 2, [1, 1])))
        case "dot":
            (root / "train_label.pkl").write_bytes(pickle.dumps((["a.b", "c"], [0, 0])))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no counts", r"train_num_frame\.npy: missing"),
        ("fewer counts", "2 clips, 1 frame counts"),
        ("zero count", "0 frames for S001C003P002R001A060"),
        ("no labels", r"train_label\.pkl: missing"),
        ("shape", "expected \\[samples, 3"),
        ("joints", "17 joints"),
        ("cut", r"train_data_joint\.npy"),
        ("label", "S001C003P002R001A060 has label 1, its name says 59"),
        ("twice", "duplicate key S001C001P003R001A002"),
        ("dot", "'a.b'"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(tmp_path: Path, what: str, message: str) -> None:
    broken(agcn(tmp_path), what)
    with pytest.raises(InputError, match=message) as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_clip_of_zeros_or_with_nan_is_found_when_read(tmp_path: Path) -> None:
    data = np.load(agcn(tmp_path) / "train_data_joint.npy")
    data[0] = 0
    data[1, 0, 7] = np.nan
    np.save(tmp_path / "train_data_joint.npy", data)
    source = open_source(tmp_path)
    for key, reason in zip(NAMES["train"], ("no person", "not finite")):
        with pytest.raises(InputError, match=key) as caught:
            source.read(key)
        assert caught.value.reason == reason


def ctrgcn(path: Path, compressed: bool = False, classes: int = 60) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 300, 150)).astype(np.float32)
    x[:, 50:] = 0
    x[1, :, 75:] = 0
    y = np.eye(classes)[[4, 2, 7]]
    save = np.savez_compressed if compressed else np.savez
    save(path, x_train=x, y_train=y, x_test=x[:2] * 2, y_test=y[:2])
    return x


@pytest.mark.parametrize("compressed", [False, True])
def test_ctrgcn_rows_are_mapped_and_cut_to_their_valid_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool) -> None:
    monkeypatch.setattr(npz, "LOADED_MAX", 5000)
    x = ctrgcn(tmp_path / "set.npz", compressed)
    source = open_source(tmp_path / "set.npz")
    assert (source.format, source.benchmark, source.normalised, len(source.classes)) == ("ctrgcn", "ntu60", True, 60)
    said = [("test000000", 4), ("test000001", 2), ("train000000", 4), ("train000001", 2), ("train000002", 7)]
    assert [(s.key, s.label) for s in source.samples()] == said and all(s.key.startswith(s.split) for s in source.samples())
    assert isinstance(source.arrays["x_train"], np.memmap)  # type: ignore[attr-defined]
    copy = pickle.loads(pickle.dumps(source))
    clip = copy.read("train000001")
    np.testing.assert_array_equal(clip.bodies, x[1, :50].reshape(50, 2, 25, 3).transpose(1, 0, 2, 3))
    assert normalise(clip, "none", NTU25).shape == (3, 50, 25, 1)
    assert normalise(copy.read("test000000"), "none", NTU25).shape == (3, 50, 25, 2)
    assert copy.digest("train000001") == source.digest("train000001") != source.digest("train000000")
    assert served(source.samples(), source.benchmark) == ["split"], "without names there are no subjects"


def test_ctrgcn_files_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, x_train=np.zeros((2, 10, 150), np.float32))
    with pytest.raises(InputError, match="no y_train"):
        open_source(path)
    np.savez(path, x_train=np.zeros((2, 10, 140), np.float32), y_train=np.zeros(2, int))
    with pytest.raises(InputError, match="expected"):
        open_source(path)
    np.savez(path, x_train=np.zeros((2, 10, 150), np.float32), y_train=np.array([0, 1]))
    source = open_source(path)
    assert source.classes == ("0", "1")
    with pytest.raises(InputError, match="train000000") as caught:
        source.read("train000000")
    assert caught.value.reason == "no person"
    np.savez(path, x_train=np.array([None] * 2), y_train=np.zeros(2, int))
    with pytest.raises(InputError, match="pickled"):
        open_source(path)


def test_what_is_no_data_set_is_refused_with_what_is_accepted(tmp_path: Path) -> None:
    accepted = "accepted are.*skeleton.*PKU-MMD.*AGCN.*CTR-GCN.*exchange"
    with pytest.raises(InputError, match=f"no such file.*{accepted}"):
        open_source(tmp_path / "absent")
    with pytest.raises(InputError, match=f"no data set in this folder.*{accepted}"):
        open_source(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=accepted):
        open_source(tmp_path / "notes.txt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(InputError, match=f"a zip without a data set.*{accepted}"):
        open_source(tmp_path / "a.zip")
    (tmp_path / "x.skeleton").write_text("1")
    with pytest.raises(InputError, match="give the folder"):
        open_source(tmp_path / "x.skeleton")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="packed set already"):
        open_source(tmp_path / "packed")
    agcn(tmp_path / "both" / "xsub")
    agcn(tmp_path / "both" / "xview")
    with pytest.raises(InputError, match=r"several sets.*xsub"):
        open_source(tmp_path / "both")
    with pytest.raises(InputError, match=r"--label label,correct"):
        open_source(tmp_path / "both" / "xsub", ("label", "correct"))
