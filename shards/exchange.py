"""The exchange file: one `.npz` without pickles that carries a whole set of labelled, described clips.

    joints [F,M,V,3] float32            positions in metres of all clips' frames together,
      or delta [F,M,V,3] int16,         their differences in time, in steps of
         scale, origin [N,3]            `scale` metres from `origin` (joint 0 of body 0 in frame 0)
    present [F,M] bool (optional)       where false a body is absent and its joints are exactly 0
    offsets [N+1]                       clip i is frames offsets[i]:offsets[i+1]
    label, subject, repetition, camera  [N] integers;  setup [N] optional
    name, text, split                   [N] strings; split is "train", "test" or ""
    meta                                JSON: {"classes": [...], "text_provenance": "vlm", ...}
    version                             1 (or absent) or 2

Axes as the Kinect camera's: y up, z away from the camera; 30 frames per second; joint order as acsar.skeleton names it.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acsar.skeleton import by_joints
from shards.errors import InputError
from shards.npz import Npz
from shards.samples import FRAMES_MAX, Clip, Sample, Source, unique, whole_clip

PROVENANCES = ("label", "import", "program", "motion", "vlm")
_MOTION = ("joints", "delta", "origin", "scale", "present", "offsets")
_EACH = ("label", "subject", "repetition", "camera", "name", "text", "split")
_RESERVED = (*_MOTION, *_EACH, "meta", "version", "file", "allow_pickle")


@dataclass
class ExchangeSource(Source):
    """Clips by row; everything but the motion is in memory."""

    arrays: Npz = field(kw_only=True)
    by_key: dict[str, Sample] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def samples(self) -> list[Sample]:
        return [self.by_key[key] for key in sorted(self.by_key)]

    def read(self, key: str) -> Clip:
        row = self.rows[key]
        start, stop = (int(v) for v in self.arrays["offsets"][row : row + 2])
        last = min(stop, start + FRAMES_MAX)
        if "joints" in self.arrays:
            joints = np.asarray(self.arrays["joints"][start:last], np.float32)
        else:
            steps = np.cumsum(self.arrays["delta"][start:last], axis=0, dtype=np.int32)
            joints = (steps * float(self.arrays["scale"]) + self.arrays["origin"][row]).astype(np.float32)
        if "present" in self.arrays:
            joints = np.where(self.arrays["present"][start:last, :, None, None], joints, np.float32(0))
        clip = whole_clip(joints.transpose(1, 0, 2, 3), f"{self.path}: {key}")
        return Clip(clip.bodies, frames=stop - start)

    def digest(self, key: str) -> str:
        row = self.rows[key]
        start, stop = (int(v) for v in self.arrays["offsets"][row : row + 2])
        digest = hashlib.sha256(json.dumps(asdict(self.by_key[key]), sort_keys=True).encode())
        for name in ("joints", "delta", "present"):
            if name in self.arrays:
                digest.update(np.ascontiguousarray(self.arrays[name][start:stop]).tobytes())
        if "delta" in self.arrays:
            digest.update(self.arrays["origin"][row].tobytes() + self.arrays["scale"].tobytes())
        return digest.hexdigest()


def open_exchange(path: Path, arrays: Npz, label: Sequence[str] = ("label",)) -> ExchangeSource:
    """The source of an exchange file; `label` names the columns whose cross product is the class. Without any (), every clip has the
    same class and the file needs no labels: for clips whose action is asked for.

    InputError where the version, a shape, a label or a name is wrong; nothing is unpickled."""
    version = int(arrays["version"]) if "version" in arrays else 1
    if version not in (1, 2):
        raise InputError(f"{path}: exchange format version {version}; this reader knows 1 and 2: update it, or write version 2")
    if label and "label" not in arrays:
        raise InputError(f"{path}: no `label` column; give every clip its class (write_exchange(..., label=...))")
    count, joints = _check_shapes(path, arrays)
    meta = _meta(path, arrays)
    labels, classes = _classes(path, arrays, tuple(label), count, meta)
    names = _column(path, arrays, "name", count, [f"{i:06d}" for i in range(count)])
    bad = next((n for n in names if not n or set(n) & set("./\\")), None)
    if bad is not None:
        raise InputError(f"{path}: name {bad!r} is empty or has a dot or a slash; rename the clip")
    unique((name, f"{path} row {i}") for i, name in enumerate(names))
    texts = _column(path, arrays, "text", count, [""] * count)
    splits = _column(path, arrays, "split", count, [""] * count)
    wrong = next((i for i, s in enumerate(splits) if s not in ("", "train", "test")), None)
    if wrong is not None:
        raise InputError(f"{path}: split {splits[wrong]!r} of {names[wrong]}; write train, test or nothing")
    subject, camera, setup, repetition = (_numbers(path, arrays, column, count) for column in ("subject", "camera", "setup", "repetition"))
    lengths = np.diff(arrays["offsets"]).tolist()
    source = ExchangeSource(
        path, "exchange", "exchange", classes, by_joints(joints).name, options={"label": ",".join(label)}, arrays=arrays
    )
    for i, name in enumerate(names):
        source.by_key[name] = Sample(name, labels[i], subject[i], camera[i], setup[i], repetition[i], splits[i], lengths[i], texts[i])
        source.rows[name] = i
    source.provenance = _provenance(path, texts, labels, meta)
    return source


def _check_shapes(path: Path, arrays: Npz) -> tuple[int, int]:
    """Numbers of clips and joints, once every array is seen to fit the others."""
    offsets = arrays["offsets"]
    count = len(offsets) - 1
    motion = arrays["joints" if "joints" in arrays else "delta"]
    if offsets.ndim != 1 or count < 1 or offsets[0] != 0 or (np.diff(offsets) < 0).any() or offsets[-1] != len(motion):
        raise InputError(f"{path}: `offsets` must rise from 0 to {len(motion)}, the number of frames; write the file again")
    if motion.ndim != 4 or motion.shape[3] != 3:
        raise InputError(f"{path}: motion of shape {motion.shape}; expected [frames, bodies, joints, 3]")
    try:
        by_joints(motion.shape[2])
    except ValueError as error:
        raise InputError(f"{path}: {error}", reason="wrong joint count") from None
    if "joints" not in arrays and (arrays["origin"].shape != (count, 3) or arrays["scale"].shape != ()):
        raise InputError(f"{path}: `delta` needs `origin` [{count}, 3] and one `scale`; write the file again")
    if "present" in arrays and arrays["present"].shape != motion.shape[:2]:
        raise InputError(f"{path}: `present` of shape {arrays['present'].shape}; expected {motion.shape[:2]}")
    return count, motion.shape[2]


def _meta(path: Path, arrays: Npz) -> dict[str, Any]:
    try:
        meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    except ValueError as error:
        raise InputError(f"{path}: `meta` is not JSON ({error}); write the file again") from None
    if not isinstance(meta, dict):
        raise InputError(f"{path}: `meta` must be a JSON object; write the file again")
    return meta


def _column(path: Path, arrays: Npz, name: str, count: int, absent: list[Any]) -> list[Any]:
    if name not in arrays:
        return absent
    if arrays[name].shape != (count,):
        raise InputError(f"{path}: column `{name}` of shape {arrays[name].shape}; expected one value for each of {count} clips")
    values: list[Any] = arrays[name].tolist()
    return values


def _numbers(path: Path, arrays: Npz, name: str, count: int) -> list[int]:
    values = _column(path, arrays, name, count, [0] * count)
    if not all(type(value) is int for value in values):
        raise InputError(f"{path}: column `{name}` must hold whole numbers; number the values from 1")
    return values


def _classes(path: Path, arrays: Npz, columns: tuple[str, ...], count: int, meta: Mapping[str, Any]) -> tuple[list[int], tuple[str, ...]]:
    """Labels and class names of the cross product of the columns; the last column varies fastest."""
    labels = np.zeros(count, np.int64)
    parts: list[list[str]] = []
    for column in columns:
        if column not in arrays or arrays[column].shape != (count,):
            known = ", ".join(n for n in arrays.names if n not in ("delta", "joints") and arrays[n].shape == (count,))
            raise InputError(f"{path}: no column {column!r} to label by; there are {known}")
        values = arrays[column]
        if column == "label":
            names, index = _named(path, values, meta)
        else:
            known_values, index = np.unique(values, return_inverse=True)
            names = [f"{column} {value}" for value in known_values.tolist()]
        labels = labels * len(names) + index
        parts.append(names)
    return labels.tolist(), tuple(" / ".join(names) for names in itertools.product(*parts))


def _named(path: Path, values: NDArray[Any], meta: Mapping[str, Any]) -> tuple[list[str], NDArray[np.int64]]:
    if values.dtype.kind not in "iu":
        raise InputError(f"{path}: `label` holds {values.dtype}; write class indices from 0")
    names = [str(name) for name in meta.get("classes", range(int(values.max()) + 1))]
    if values.min() < 0 or values.max() >= len(names):
        worst = int(values.min()) if values.min() < 0 else int(values.max())
        raise InputError(f"{path}: label {worst} is none of {len(names)} classes; name them all in meta['classes']")
    return names, values.astype(np.int64)


def _provenance(path: Path, texts: Sequence[str], labels: Sequence[int], meta: Mapping[str, Any]) -> str:
    """Where texts come from: "label" whenever the class alone says the text, whatever the file claims."""
    if not any(texts):
        return ""
    if len(set(zip(labels, texts))) == len(set(labels)):
        return "label"
    said = str(meta.get("text_provenance", "import"))
    if said not in PROVENANCES:
        raise InputError(f"{path}: text_provenance {said!r} in `meta`; one of {', '.join(PROVENANCES)}")
    return said


def write_exchange(
    path: Path | str,
    clips: Sequence[NDArray[Any] | Clip],
    *,
    label: ArrayLike,
    subject: ArrayLike | None = None,
    camera: ArrayLike | None = None,
    repetition: ArrayLike | None = None,
    name: Sequence[str] | None = None,
    text: Sequence[str] | None = None,
    split: Sequence[str] | None = None,
    meta: Mapping[str, Any] | None = None,
    columns: Mapping[str, ArrayLike] | None = None,
    delta: bool = False,
    scale: float = 0.0005,
) -> None:
    """Write clips, [T,M,V,3] in metres each (or Clip), as an exchange file of version 2: the inverse of `open_source`.

    A body that is all zero in a frame is absent there. Everything else has one value per clip; `columns` are further ones (to label
    by, say). delta=True stores int16 steps of `scale` metres, compressed: smaller, and exact to scale / 2. The file is there whole or
    not at all. InputError where lengths, joints, names or numbers do not fit.
    """
    path, count = Path(path), len(clips)
    moves = [np.asarray(c.bodies.transpose(1, 0, 2, 3) if isinstance(c, Clip) else c, np.float32) for c in clips]
    _check_clips(path, moves)
    bodies, joints = max(m.shape[1] for m in moves), moves[0].shape[2]
    whole = np.zeros((sum(len(m) for m in moves), bodies, joints, 3), np.float32)
    offsets = np.cumsum([0, *(len(m) for m in moves)])
    for start, move in zip(offsets, moves):
        whole[start : start + len(move), : move.shape[1]] = move
    present = whole.any((2, 3))
    arrays: dict[str, NDArray[Any]] = _steps(path, whole, present, offsets, scale) if delta else {"joints": whole}
    arrays |= {
        "present": np.asarray(present),
        "offsets": offsets.astype(np.int64),
        "label": _whole_numbers(label),
        "subject": _whole_numbers(subject, count),
        "repetition": _whole_numbers(repetition, count),
        "camera": _whole_numbers(camera, count),
        "name": np.array([f"{i:06d}" for i in range(count)] if name is None else list(name), np.str_),
        "text": np.array([""] * count if text is None else list(text), np.str_),
        "split": np.array([""] * count if split is None else list(split), np.str_),
    }
    for column, values in (columns or {}).items():
        if column in _RESERVED or not column.isidentifier():
            raise InputError(f"{path}: a further column cannot be called {column!r}; choose another name")
        arrays[column] = np.asarray(values)
    for column in (*_EACH, *(columns or {})):
        if arrays[column].shape != (count,) or arrays[column].dtype.hasobject:
            raise InputError(f"{path}: column `{column}` needs one number or string for each of {count} clips, got {arrays[column].shape}")
    arrays |= {"meta": np.array(json.dumps(dict(meta or {}), ensure_ascii=False)), "version": np.array(2)}
    _save(path, arrays, compressed=delta)


def _whole_numbers(values: ArrayLike | None, count: int = 0) -> NDArray[np.int32]:
    return np.zeros(count, np.int32) if values is None else np.asarray(values).astype(np.int32)


def _check_clips(path: Path, moves: list[NDArray[np.float32]]) -> None:
    if not moves:
        raise InputError(f"{path}: no clips to write; give one at least")
    for i, move in enumerate(moves):
        if move.ndim != 4 or move.shape[3] != 3 or move.shape[2] != moves[0].shape[2]:
            raise InputError(f"{path}: clip {i} has shape {move.shape}; expected [frames, bodies, {moves[0].shape[-2]} joints, 3]")
        if not np.isfinite(move).all():
            raise InputError(f"{path}: clip {i} has a coordinate that is not finite; set absent bodies to 0", reason="not finite")
    try:
        by_joints(moves[0].shape[2])
    except ValueError as error:
        raise InputError(f"{path}: {error}", reason="wrong joint count") from None


def _steps(path: Path, whole: NDArray[np.float32], present: Any, offsets: NDArray[Any], scale: float) -> dict[str, NDArray[Any]]:
    """Positions on a grid of `scale`, then differences: rounding errors do not add up."""
    origins = np.zeros((len(offsets) - 1, 3), np.float32)
    delta = np.zeros(whole.shape, np.int16)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        if start == stop:
            continue
        here = present[start:stop]
        frame = int(np.argmax(here.any(1)))
        origins[i] = whole[start + frame, int(np.argmax(here[frame])), 0]
        grid = np.rint((whole[start:stop].astype(np.float64) - origins[i]) / scale)
        # An absent body stays where it was last seen, so that its differences are 0.
        seen = np.maximum.accumulate(np.where(here, np.arange(len(here))[:, None], -1), axis=0)
        held = np.where(seen[:, :, None, None] >= 0, grid[np.maximum(seen, 0), np.arange(here.shape[1])], 0)
        steps = np.diff(held, axis=0, prepend=0)
        if np.abs(steps).max() > np.iinfo(np.int16).max:
            raise InputError(f"{path}: clip {i} moves more than {32767 * scale:g} m in a frame; take delta=False or a larger scale")
        delta[start:stop] = steps
    return {"delta": delta, "origin": origins, "scale": np.array(scale, np.float32)}


def _save(path: Path, arrays: dict[str, NDArray[Any]], compressed: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as out:
            (np.savez_compressed if compressed else np.savez)(out, **arrays)  # type: ignore[arg-type]
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
