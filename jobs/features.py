"""Frozen features: each clip of a packed set goes through an encoder once, and the rows are kept by sample key.

What stands beside a pretrained encoder is made here too: the clip itself without any network, and the same network untrained.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import acsar
from acsar.augment import centre_view
from acsar.batchnorm import BatchNorm
from acsar.scdnet import SCDNetConfig
from acsar.skeleton import SKELETONS
from acsar.streams import Stream
from acsar.types import Method
from jobs.weights import query
from shards.errors import InputError
from shards.manifest import sync_folder
from shards.stream import PackedSet, Rows, epoch_order

BATCH = 32  # clips that pass through an encoder at once
CROP = 0.95  # share of the valid frames that evaluation keeps (SCD-Net code)
Encode = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Features:
    """keys: n sample names; values [n,D] float32, mapped from the file where there is one; spec: what they were made from and by."""

    keys: list[str]
    values: Tensor
    spec: dict[str, Any]


def encoded(encode: Encode, packed: PackedSet, keys: Sequence[str], device: torch.device, batch: int = BATCH) -> Iterator[Tensor]:
    """Feature rows [b,D] on the CPU, block by block, in the order of `keys`; encode(joints [b,C,T,V,M], frames [b]) makes them."""
    for start in range(0, len(keys), batch):
        rows = packed.load(keys[start : start + batch])
        with torch.no_grad():
            yield encode(*tensors(rows, device)).float().cpu()


def tensors(rows: Rows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Joints [B,C,T,V,M] and valid frames [B] of packed rows, on the device."""
    return torch.from_numpy(rows.joints).to(device), torch.from_numpy(rows.frames).to(device)


def raw_encode(stream: Stream, skeleton: str) -> Encode:
    """No network: the evaluation crop's 64 frames of a stream, flattened to C*64*V*M numbers."""
    layout = SKELETONS[skeleton]
    return lambda joints, frames: centre_view(joints, frames, stream, layout, CROP).flatten(1)


def random_encoder(config: SCDNetConfig, skeleton: str, packed: PackedSet, train: Sequence[str], seed: int, device: torch.device) -> Method:
    """The recipe's network with the weights that pretraining with this seed starts from; one pass over the training part fills its norm
    statistics."""
    method = acsar.build(config, skeleton=skeleton, seed=seed).to(device)
    order = epoch_order(sorted(train), seed, 0)
    mixed = [sorted(train)[i] for i in order]
    clips = (tensors(packed.load(mixed[i : i + BATCH]), device) for i in range(0, len(mixed), BATCH))
    views = (centre_view(joints, frames, config.stream, SKELETONS[skeleton], CROP) for joints, frames in clips)
    fill_statistics(query(method), views)
    return method.eval()


@torch.no_grad()
def fill_statistics(encoder: nn.Module, views: Iterable[Tensor]) -> None:
    """Set an encoder's running statistics to their mean over the views [B,C,64,V,M], each batch by its number of clips.

    Statistics are those of training mode (a layer sees what the layer before made of this very batch); dropout stays off."""
    norms = [module for module in encoder.modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.train()
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
    seen = 0
    for view in views:
        seen += len(view)
        for norm in norms:
            norm.momentum = len(view) / seen
        encoder(view)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    encoder.eval()


def kept(path: Path, keys: Sequence[str], spec: dict[str, Any], rows: Callable[[], Iterable[Tensor]]) -> Features:
    """The features in `path` if they are these keys' and were made as `spec` says; else made by `rows()` and kept there."""
    if path.is_file():
        found = read(path)
        if found.keys == list(keys) and found.spec == spec:
            return found
    write(path, keys, spec, rows())
    return read(path)


def write(path: Path, keys: Sequence[str], spec: dict[str, Any], rows: Iterable[Tensor]) -> None:
    """Write an .npz of features (stored, so that it can be mapped), keys and spec, whole or not at all. Blocks are written as they come.

    Raises InputError where a feature is not finite, naming the sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                _write_rows(archive, keys, rows, path)
                for name, array in (("keys", np.array(keys)), ("spec", np.array(json.dumps(spec, sort_keys=True)))):
                    with archive.open(f"{name}.npy", "w") as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def _write_rows(archive: zipfile.ZipFile, keys: Sequence[str], rows: Iterable[Tensor], path: Path) -> None:
    with archive.open("features.npy", "w", force_zip64=True) as member:
        done = 0
        for block in rows:
            array = np.ascontiguousarray(block.numpy(), dtype="<f4")
            if not np.isfinite(array).all():
                row = done + int(np.argwhere(~np.isfinite(array))[0, 0])
                raise InputError(f"{path}: the features of sample {keys[row]} are not finite; its encoder is broken: train again")
            if done == 0:
                shape = (len(keys), array.shape[1])
                np.lib.format.write_array_header_2_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
            member.write(array.data)
            done += len(array)
    if done != len(keys):
        raise ValueError(f"{done} feature rows for {len(keys)} keys")


def read(path: Path, encoder: str | None = None) -> Features:
    """Features of a file, mapped into memory. With `encoder` (its sha256), raises InputError when another encoder made them."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys, spec = archive["keys"].tolist(), json.loads(str(archive["spec"]))
        values = torch.from_numpy(_mapped(path, "features.npy"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no file of features ({error}); delete it and probe again") from None
    if encoder is not None and spec.get("encoder") != encoder:
        raise InputError(f"{path} holds features of encoder {str(spec.get('encoder'))[:12]}, not of {encoder[:12]}; probe the run again")
    return Features(keys, values, spec)


def _mapped(path: Path, name: str) -> NDArray[np.float32]:
    """A stored member of an .npz as an array mapped from the file (copy on write): nothing is read until it is used."""
    with path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            start = archive.getinfo(name).header_offset
        file.seek(start + 26)  # the local header ends with two lengths: of the member's name, of its extra field
        lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
        file.seek(start + 30 + lengths)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        return np.memmap(path, dtype=dtype, mode="c", offset=file.tell(), shape=shape)


def fingerprint(value: Any) -> str:
    """Twelve hex digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
