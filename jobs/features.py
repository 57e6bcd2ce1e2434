"""Frozen features: each clip of a packed set goes through an encoder once, and the rows are kept by sample key.

What stands beside a pretrained encoder is made here too: the clip itself without any network, and the same network untrained.
Several ranks share the blocks of 32 clips out among them: block i is rank (i mod world)'s, so that rows are the same bits for any world.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

import acsar
from acsar.augment import centre_view
from acsar.batchnorm import BatchNorm
from acsar.gather import all_gather_constant
from acsar.scdnet import SCDNetConfig
from acsar.skeleton import SKELETONS
from acsar.streams import Stream
from acsar.types import Method
from jobs.engine import Ranks
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

    def rows(self, keys: Sequence[str]) -> Tensor:
        """Where the features of these keys stand [m]. Raises InputError naming a key that has none."""
        at = {key: row for row, key in enumerate(self.keys)}
        missing = [key for key in keys if key not in at]
        if missing:
            raise InputError(f"{len(missing)} of {len(keys)} samples have no features, for example {missing[0]}; extract them again")
        return torch.tensor([at[key] for key in keys], dtype=torch.int64)

    def of(self, keys: Sequence[str]) -> Tensor:
        """A copy [m,D] of the rows of these keys, in their order. Raises InputError naming a key that has none."""
        return self.values[self.rows(keys)]


def place(folder: Path, content_id: str, stream: str) -> Path:
    """Where a run (or whatever stands for one) keeps the features of a packed set: one file for every protocol, schedule and fraction."""
    return folder / "features" / content_id[:12] / f"{stream}.npz"


def encoded(encode: Encode, packed: PackedSet, keys: Sequence[str], device: torch.device, batch: int = BATCH) -> Iterator[Tensor]:
    """Feature rows [b,D] on the CPU, block by block, in the order of `keys`; encode(joints [b,C,T,V,M], frames [b]) makes them."""
    for start in range(0, len(keys), batch):
        yield _block(encode, packed, keys[start : start + batch], device).cpu()


def shared_out(encode: Encode, packed: PackedSet, keys: Sequence[str], ranks: Ranks) -> Iterator[Tensor]:
    """What `encoded` yields, computed by all ranks; only rank 0 gets the rows, and every rank has to go through it to the end."""
    if ranks.world == 1:
        yield from encoded(encode, packed, keys, ranks.device)
        return
    starts, width = range(0, len(keys), BATCH), torch.zeros(1, dtype=torch.int64, device=_exchange(ranks))
    for first in range(0, len(starts), ranks.world):
        mine = starts[first : first + ranks.world][ranks.rank : ranks.rank + 1]
        rows = _block(encode, packed, keys[mine[0] : mine[0] + BATCH], ranks.device) if mine else None
        if first == 0:  # a rank without a block knows the width from rank 0, which always has one
            width.fill_(0 if rows is None else rows.shape[1])
            dist.broadcast(width, 0)
        padded = torch.zeros(BATCH, int(width), device=width.device)
        if rows is not None:
            padded[: len(rows)] = rows
        blocks = [torch.empty_like(padded) for _ in range(ranks.world)] if ranks.rank == 0 else None
        dist.gather(padded, blocks)
        for start, block in zip(starts[first : first + ranks.world], blocks or ()):
            yield block[: len(keys) - start].cpu()


def _exchange(ranks: Ranks) -> torch.device:
    """Where tensors have to lie that ranks exchange."""
    return ranks.device if ranks.backend == "nccl" else torch.device("cpu")


def _block(encode: Encode, packed: PackedSet, keys: Sequence[str], device: torch.device) -> Tensor:
    rows = packed.load(keys)
    with torch.no_grad():
        return encode(*tensors(rows, device)).float()


def tensors(rows: Rows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Joints [B,C,T,V,M] and valid frames [B] of packed rows, on the device."""
    return torch.from_numpy(rows.joints).to(device), torch.from_numpy(rows.frames).to(device)


def raw_encode(stream: Stream, skeleton: str) -> Encode:
    """No network: the evaluation crop's 64 frames of a stream, flattened to C*64*V*M numbers."""
    layout = SKELETONS[skeleton]
    return lambda joints, frames: centre_view(joints, frames, stream, layout, CROP).flatten(1)


def random_encoder(
    config: SCDNetConfig,
    skeleton: str,
    packed: PackedSet,
    train: Sequence[str],
    seed: int,
    device: torch.device,
    ranks: Ranks | None = None,
) -> Method:
    """The recipe's network with the weights that pretraining with this seed starts from; one pass over the training part (shared out among
    the ranks) fills its norm statistics."""
    method = acsar.build(config, skeleton=skeleton, seed=seed).to(device)
    order = epoch_order(sorted(train), seed, 0)
    mixed = [sorted(train)[i] for i in order]

    def view(keys: Sequence[str]) -> Tensor:
        joints, frames = tensors(packed.load(keys), device)
        return centre_view(joints, frames, config.stream, SKELETONS[skeleton], CROP)

    blocks = [mixed[i : i + BATCH] for i in range(0, len(mixed), BATCH)]
    fill_statistics(query(method), [partial(view, keys) for keys in blocks], ranks)
    return method.eval()


@torch.no_grad()
def fill_statistics(encoder: nn.Module, views: Sequence[Callable[[], Tensor]], ranks: Ranks | None = None) -> None:
    """Set an encoder's running statistics to their mean over the views [B,C,64,V,M], each batch by its number of clips.

    Statistics are those of training mode (a layer sees what the layer before made of this very batch); dropout stays off. View i is
    made and passed by rank (i mod world); every rank adds all of them in the same order, so that any world has the same bits."""
    rank, world = (ranks.rank, ranks.world) if ranks else (0, 1)
    norms = [module for module in encoder.modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.train()
        norm.momentum, norm.synchronised = 1.0, False  # the running statistics are those of the last batch, and of this rank's
    own = _statistics(norms)
    total, seen = torch.zeros_like(own), torch.zeros((), dtype=torch.float64, device=own.device)
    for first in range(0, len(views), world):
        told = own.new_zeros(1 + len(own))
        if first + rank < len(views):
            view = views[first + rank]()
            encoder(view)
            told[0], told[1:] = len(view), _statistics(norms)
        for clips in told[None] if ranks is None else all_gather_constant(told[None].to(_exchange(ranks))).to(own.device):
            total += clips[0] * clips[1:]
            seen += clips[0]
    mean_of_all, at = total / seen, 0
    for norm, momentum in zip(norms, momenta):
        for running in (norm.running_mean, norm.running_var):
            running.copy_(mean_of_all[at : at + len(running)])
            at += len(running)
        norm.momentum, norm.synchronised = momentum, True
    encoder.eval()


def _statistics(norms: Sequence[BatchNorm]) -> Tensor:
    """All running means and variances, one after the other, float64."""
    return torch.cat([values.double() for norm in norms for values in (norm.running_mean, norm.running_var)])


def kept(path: Path, keys: Sequence[str], spec: dict[str, Any], rows: Callable[[], Iterable[Tensor]], ranks: Ranks | None = None) -> None:
    """Leave `path` with the features of these keys, made as `spec` says: by `rows()`, unless they lie there already.

    With ranks, rank 0 looks and writes, and all of them go through `rows()`."""
    first = ranks is None or ranks.rank == 0
    missing = not (first and _is_kept(path, keys, spec))
    if ranks is not None and ranks.world > 1:
        said = [missing]
        dist.broadcast_object_list(said, device=_exchange(ranks))
        missing = said[0]
    if not missing:
        return
    if first:
        write(path, keys, spec, rows())
    else:
        for _ in rows():
            pass


def _is_kept(path: Path, keys: Sequence[str], spec: dict[str, Any]) -> bool:
    if not path.is_file():
        return False
    try:
        found = read(path)
    except InputError:  # damaged, and ours: made again
        return False
    return found.keys == list(keys) and found.spec == spec


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


def read(path: Path, encoder: str | None = None, content_id: str | None = None) -> Features:
    """Features of a file, mapped into memory. With `encoder` (its sha256) or `content_id`, raises InputError when another encoder made
    them, or they are of another packed set."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys, spec = archive["keys"].tolist(), json.loads(str(archive["spec"]))
        values = torch.from_numpy(_mapped(path, "features.npy"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no file of features ({error}); delete it and probe again") from None
    if encoder is not None and spec.get("encoder") != encoder:
        raise InputError(f"{path} holds features of encoder {str(spec.get('encoder'))[:12]}, not of {encoder[:12]}; probe the run again")
    if content_id is not None and spec.get("content_id") != content_id:
        raise InputError(f"{path} holds features of set {str(spec.get('content_id'))[:12]}, not of {content_id[:12]}; extract them again")
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
