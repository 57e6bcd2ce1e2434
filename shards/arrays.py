"""The arrays that labs already hold: AGCN / SCD-Net folders of `.npy`, and CTR-GCN's `.npz`. Both are already normalised.

Parts "train" and "val" (or "test") become the splits train and test. Keys: AGCN names its samples in label.pkl; CTR-GCN does
not, so its keys are part and row (train000000).
"""

import hashlib
import json
import pickle
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acsar.skeleton import by_joints
from shards import facts
from shards.errors import InputError
from shards.npz import Npz
from shards.ntu import sample_of
from shards.samples import FRAMES_MAX, Clip, Sample, Source, unique, whole_clip

PARTS = {"train": "train", "val": "test", "test": "test"}
_NTU_NAME = re.compile(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}")


class _ListsOnly(pickle.Unpickler):
    """Builds lists, tuples, strings and whole numbers; refuses every global, which is what could run code."""

    place = ""

    def find_class(self, module: str, name: str) -> Any:
        raise InputError(
            f"{self.place}: holds {module}.{name}, which could run code; only lists, tuples, strings and whole numbers are read: "
            "write (names, labels) again from plain lists",
            reason="pickled",
        )


def read_labels(path: Path) -> tuple[list[str], list[int]]:
    """Names and 0-based labels of a label.pkl, a pickled pair of lists. InputError for anything else in it."""
    try:
        with path.open("rb") as file:
            unpickler = _ListsOnly(file, encoding="latin1")
            unpickler.place = str(path)
            content = unpickler.load()
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: missing; labels and names come from there") from None
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{path}: not a readable pickle ({error}); write (names, labels) again", reason="damaged") from None
    if isinstance(content, list | tuple) and len(content) == 2 and all(isinstance(part, list | tuple) for part in content):
        names, labels = list(content[0]), list(content[1])
        if all(type(n) is str for n in names) and all(type(v) is int and v >= 0 for v in labels) and len(names) == len(labels):
            return [n.rsplit("/", 1)[-1].removesuffix(".skeleton") for n in names], labels
    raise InputError(f"{path}: expected a pair (names, labels) of equally long lists of strings and whole numbers; write it so")


@dataclass
class AGCNSource(Source):
    """Rows of {part}_data_joint.npy [N,C,T,V,M], memory-mapped."""

    by_key: dict[str, Sample] = field(default_factory=dict)
    rows: dict[str, tuple[str, int]] = field(default_factory=dict)
    _mapped: dict[str, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)

    def samples(self) -> list[Sample]:
        return [self.by_key[key] for key in sorted(self.by_key)]

    def read(self, key: str) -> Clip:
        return whole_clip(self._row(key).transpose(3, 1, 2, 0), f"{self.path}: {key}")

    def digest(self, key: str) -> str:
        return _digest(self.by_key[key], self._row(key))

    def excluded(self) -> dict[str, str]:
        return {key: "missing skeleton list" for key in facts.missing(self.benchmark) if key in self.by_key}

    def _row(self, key: str) -> NDArray[np.float32]:
        part, row = self.rows[key]
        if part not in self._mapped:
            self._mapped[part] = np.load(self.path / f"{part}_data_joint.npy", mmap_mode="r", allow_pickle=False)
        return self._mapped[part][row, :, : self.by_key[key].frames]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}


def open_agcn(path: Path) -> AGCNSource:
    """The source of a folder with {part}_data_joint.npy, {part}_num_frame.npy and {part}_label.pkl for one protocol."""
    source = AGCNSource(path, "agcn", "arrays", normalised=True)
    found: list[tuple[str, str]] = []
    for part in PARTS:
        if not (path / f"{part}_data_joint.npy").is_file():
            continue
        data, frames = _load(path / f"{part}_data_joint.npy"), _load(path / f"{part}_num_frame.npy").reshape(-1)
        place = path / f"{part}_label.pkl"
        names, labels = read_labels(place)
        if data.ndim != 5 or data.shape[1] != 3 or data.shape[4] not in (1, 2):
            raise InputError(f"{path}/{part}_data_joint.npy: shape {data.shape}; expected [samples, 3, frames, joints, persons]")
        if not len(data) == len(frames) == len(names):
            raise InputError(f"{path}: {part} has {len(data)} clips, {len(frames)} frame counts and {len(names)} names; they must agree")
        source.skeleton = _skeleton(path, data.shape[3])
        for row, (name, label, count) in enumerate(zip(names, labels, frames.tolist())):
            if not name or set(name) & set("./\\"):
                raise InputError(f"{place}: name {name!r} is empty or has a dot or a slash; rename the clip")
            if int(count) < 1:
                raise InputError(f"{path}/{part}_num_frame.npy: {count} frames for {name}; write its raw frame count")
            known = _from_name(name, label, place)
            source.by_key[name] = replace(known, split=PARTS[part], frames=min(int(count), FRAMES_MAX, data.shape[2]))
            source.rows[name] = (part, row)
            found.append((name, f"{part} row {row}"))
    unique((name, f"{path} {place}") for name, place in found)
    if not found:
        raise InputError(f"{path}: no clip in any *_data_joint.npy; write the arrays again")
    _classify(source)
    return source


def _load(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise InputError(f"{path}: missing; it holds one value for each clip of the data file beside it") from None
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable array ({error}); write it again with numpy.save", reason="damaged") from None


def _skeleton(path: Path, joints: int) -> str:
    try:
        return by_joints(joints).name
    except ValueError as error:
        raise InputError(f"{path}: {error}", reason="wrong joint count") from None


def _from_name(name: str, label: int, place: Path) -> Sample:
    """What an NTU name says; a label that contradicts it is an InputError (files of two protocols got mixed)."""
    if not _NTU_NAME.fullmatch(name):
        return Sample(name, label)
    sample = sample_of(name, str(place))
    if sample.label != label:
        raise InputError(f"{place}: {name} has label {label}, its name says {sample.label}; names and labels are out of step")
    return sample


def _classify(source: AGCNSource) -> None:
    samples = list(source.by_key.values())
    if all(_NTU_NAME.fullmatch(s.key) for s in samples):
        small = all(s.setup <= 17 and s.label < 60 for s in samples)
        source.benchmark = "ntu60" if small else "ntu120"
        source.classes = tuple(f"A{a + 1:03d}" for a in range(60 if small else 120))
    else:
        source.classes = tuple(str(i) for i in range(max(s.label for s in samples) + 1))


@dataclass
class CTRGCNSource(Source):
    """Rows of x_{part} [N,T,2*V*3]; a row's valid frames are its frames that do not sum to zero."""

    arrays: Npz = field(kw_only=True)
    by_key: dict[str, Sample] = field(default_factory=dict)

    def samples(self) -> list[Sample]:
        return [self.by_key[key] for key in sorted(self.by_key)]

    def read(self, key: str) -> Clip:
        row = self._row(key)
        valid = row[: int(np.count_nonzero(row.sum(1)))]
        return whole_clip(valid.reshape(len(valid), 2, row.shape[1] // 6, 3).transpose(1, 0, 2, 3), f"{self.path}: {key}")

    def digest(self, key: str) -> str:
        return _digest(self.by_key[key], self._row(key))

    def _row(self, key: str) -> NDArray[np.float32]:
        row: NDArray[np.float32] = np.asarray(self.arrays[f"x_{key[:-6]}"][int(key[-6:])], np.float32)
        return row


def open_ctrgcn(path: Path, arrays: Npz) -> CTRGCNSource:
    """The source of an .npz with x_{part} [N,T,150] and y_{part} (one-hot [N,classes], or labels [N])."""
    source = CTRGCNSource(path, "ctrgcn", "arrays", normalised=True, arrays=arrays)
    width = 0
    for part in PARTS:
        if f"x_{part}" not in arrays:
            continue
        if f"y_{part}" not in arrays:
            raise InputError(f"{path}: x_{part} has no y_{part}; labels come from there")
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.ndim != 3 or x.shape[2] % 6 or len(x) != len(y) or len(x) > 999999:
            raise InputError(f"{path}: x_{part} {x.shape} with y_{part} {y.shape}; expected [samples, frames, 150] and one label each")
        source.skeleton = _skeleton(path, x.shape[2] // 6)
        labels = (y.argmax(1) if y.ndim == 2 else y).astype(np.int64).tolist()
        width = max([width, y.shape[1] if y.ndim == 2 else 0, *(v + 1 for v in labels)])
        for row, label in enumerate(labels):
            source.by_key[f"{part}{row:06d}"] = Sample(f"{part}{row:06d}", label, split=PARTS[part])
    if not source.by_key:
        raise InputError(f"{path}: no clip in any x_train, x_test; write the arrays again")
    source.benchmark = {60: "ntu60", 120: "ntu120"}.get(width, "arrays")
    source.classes = tuple(f"A{i + 1:03d}" if width in (60, 120) else str(i) for i in range(width))
    return source


def _digest(sample: Sample, row: NDArray[np.float32]) -> str:
    said = json.dumps(asdict(sample), sort_keys=True).encode()
    return hashlib.sha256(said + np.ascontiguousarray(row).tobytes()).hexdigest()
