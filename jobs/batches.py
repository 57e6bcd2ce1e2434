"""From a packed set to batches on the device: which samples are trained on, and in what order they come."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from acsar import draws
from acsar.types import Batch
from shards import protocols, stream
from shards.errors import InputError
from shards.stream import PackedSet, Record, Rows, WhichCaption


@dataclass(frozen=True)
class TrainingSet:
    """The training part of one protocol, in pieces; every list is sorted.

    keys     trained on
    aside    never trained on: some samples of the held-aside training subjects, for text_reliance
    queries  all samples of the held-aside training subjects (1-NN during training asks these)
    gallery  the rest of the training part
    """

    keys: list[str]
    aside: list[str]
    queries: list[str]
    gallery: list[str]
    test_count: int


def choose(packed: PackedSet, protocol: str, seed: int, aside: int) -> TrainingSet:
    """Split the protocol's training part; `aside` samples at most (and a tenth of the part) are kept out of training.

    Which ones depends on (seed, key) and the sorted subject ids alone."""
    train, test = protocols.parts(packed.samples, protocol, packed.manifest["benchmark"])
    entries = {entry.key: entry for entry in packed.samples}
    held = sorted(protocols.held_aside([entries[key] for key in train], seed))
    kept_out = set(by_hash(held, seed)[: min(aside, len(train) // 10)])
    return TrainingSet(
        keys=[key for key in sorted(train) if key not in kept_out],
        aside=sorted(kept_out),
        queries=held,
        gallery=sorted(set(train) - set(held)),
        test_count=len(test),
    )


def by_hash(keys: Sequence[str], seed: int) -> list[str]:
    """The keys in an order that depends on the seed and each key alone."""
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())


def check_batch(size: int, samples: int, world: int) -> None:
    """Raise InputError when the ranks do not divide the batch or the samples do not fill one."""
    if size % world:
        below = size // world * world
        sizes = " or ".join(str(s) for s in (below, below + world) if s)
        raise InputError(f"a batch of {size} cannot be divided among {world} ranks; use --batch-size {sizes}")
    if samples < size:
        raise InputError(f"{samples} training samples do not fill a batch of {size}; use --batch-size {samples} or less, or more data")


def without_text(packed: PackedSet) -> PackedSet:
    """The same set for methods that use no text: none of it is read or held."""
    plain = copy.copy(packed)
    plain.manifest = {**packed.manifest, "text": None}
    plain.samples = [replace(record, text=None, text_id=None, tokens=0, more=()) for record in packed.samples]
    return plain


def batches(
    packed: PackedSet,
    keys: Sequence[str],
    size: int,
    seed: int,
    first_step: int,
    steps: int,
    rank: int,
    world: int,
    workers: int,
    device: torch.device,
    captions: WhichCaption = "first",
    labels: bool = False,
) -> Iterator[Batch]:
    """This rank's rows of the global batches of steps first_step ... steps - 1, on the device; with labels only where that is asked for."""
    rows = stream.batches(packed, keys, size, seed, first_step, steps, rank=rank, world=world, workers=workers, captions=captions)
    for step, row in enumerate(rows, first_step):
        yield to_batch(row, seed, step // (len(keys) // size), labels).to(device)


def to_batch(rows: Rows, seed: int, epoch: int, labels: bool = False) -> Batch:
    """Rows as tensors, with the base of every random draw of this epoch. Labels stay behind unless asked for: pretraining may not look."""
    ids = torch.tensor([draws.key_id(key) for key in rows.keys], dtype=torch.int64)
    return Batch(
        joints=torch.from_numpy(rows.joints),
        frames=torch.from_numpy(rows.frames),
        draws=draws.base(seed, epoch, ids),
        keys=rows.keys,
        text=None if rows.text is None else torch.from_numpy(rows.text).float(),
        text_id=None if rows.text_id is None else torch.from_numpy(rows.text_id),
        label=torch.from_numpy(rows.label) if labels else None,
        text_tokens=None if rows.text_tokens is None else torch.from_numpy(rows.text_tokens),
        has_text=None if rows.has_text is None else torch.from_numpy(rows.has_text),
    )


class EqualCaptions:
    """The share of a step's captions, over the global batch, that another sample of it has too; 0 where no sample has one."""

    def __init__(self, entries: Sequence[Record], keys: Sequence[str], size: int, seed: int, captions: WhichCaption = "first") -> None:
        records = {entry.key: entry for entry in entries}
        self._keys, self._size, self._seed, self._captions = sorted(keys), size, seed, captions
        self._records = [records[key] for key in self._keys]
        self._epoch, self._order = -1, list[int]()

    def __call__(self, step: int) -> float:
        epoch, place = divmod(step, len(self._keys) // self._size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, stream.epoch_order(self._keys, self._seed, epoch).tolist()
        rows = [self._records[i] for i in self._order[place * self._size : (place + 1) * self._size]]
        ids = [stream.of_epoch(row, self._captions, self._seed, epoch).text_id for row in rows if row.text_id is not None]
        return sum(ids.count(i) > 1 for i in ids) / max(1, len(ids))
