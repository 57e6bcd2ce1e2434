"""Reading a packed set: samples by offset or from memory, and the batches of each training step.

The global batch of a step depends on (seed, epoch, sorted keys) alone: not on shards, ranks, worker threads or where the bytes lie."""

import ast
import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shards import manifest
from shards.errors import InputError
from shards.manifest import Manifest, SampleEntry, sha256_of
from shards.pack import check_sizes

Ints: TypeAlias = NDArray[np.int64]
OPEN_FILES = 256
MEMORY_MOST = 4 << 30
MAGIC = b"\x93NUMPY\x01\x00"
NO_TEXT = -1
"""The text_id of a row without caption; those of captions are not negative."""

WhichCaption = Literal["first", "each-epoch"]


@dataclass(frozen=True, slots=True)
class Text:
    """A further caption of a sample: its id, (offset, size) of its features, their valid positions (0: not known)."""

    id: int
    place: tuple[int, int] | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Record:
    """One packed sample as the manifest tells it; joints, json and text are (offset, size) in shard number `shard`.

    text, text_id and tokens (valid positions, 0: not known) are of its first caption, None and 0 where there is none; `more` has the
    further ones."""

    key: str
    label: int
    subject: int
    camera: int
    setup: int
    replication: int
    split: str
    frames: int
    persons: int
    text_id: int | None
    shard: int
    joints: tuple[int, int]
    json: tuple[int, int]
    text: tuple[int, int] | None
    tokens: int = 0
    more: tuple[Text, ...] = ()

    def with_caption(self, i: int) -> "Record":
        """The same sample with its caption i (0: the first) as the one that is read."""
        if i == 0:
            return self
        chosen = self.more[i - 1]
        return replace(self, text=chosen.place, text_id=chosen.id, tokens=chosen.tokens)

    def with_each_caption(self) -> "list[Record]":
        """The same sample with each of its captions."""
        return [self.with_caption(i) for i in range(1 + len(self.more))]


@dataclass(frozen=True)
class Rows:
    """Samples side by side, in the order asked for.

    joints [B,C,T,V,2] float32, zero-padded to the longest clip and to two persons; frames [B] valid frames; label [B];
    text [B,L,D] float16 or None; text_id [B] or None: equal captions have equal ids; text_tokens [B] or None: valid positions of the text,
    0 where not known; has_text [B] or None: which rows have a caption where some samples have none (their text is 0, their id NO_TEXT)."""

    keys: list[str]
    joints: NDArray[np.float32]
    frames: Ints
    text: NDArray[np.float16] | None
    text_id: Ints | None
    label: Ints
    text_tokens: Ints | None = None
    has_text: NDArray[np.bool_] | None = None


class PackedSet:
    """A folder of shards, opened for reading. Can be pickled and forked; threads may share it."""

    def __init__(self, path: Path, about: Manifest) -> None:
        self.path = path
        self.manifest = about
        self.samples = [_record(entry, i) for i, shard in enumerate(about["shards"]) for entry in shard.pop("samples")]
        self.index = {record.key: i for i, record in enumerate(self.samples)}
        self._files = _Files([path / shard["name"] for shard in about["shards"]])

    @classmethod
    def open(cls, path: Path | str) -> "PackedSet":
        """InputError when there is no packed set at `path`, its version is another, or a shard is missing or cut short."""
        folder = Path(path).absolute()
        about = manifest.read(folder)
        check_sizes(folder, about["shards"])
        return cls(folder, about)

    @property
    def content_id(self) -> str:
        """What this set is made of, as one sha256."""
        return self.manifest["content_id"]

    @property
    def text_shape(self) -> tuple[int, int] | None:
        """(L, D) of the text features, None when there are none."""
        text = self.manifest["text"]
        return (text["shape"][0], text["shape"][1]) if text and text["shape"] else None

    def verify(self) -> None:
        """Read everything and compare the sums. InputError naming the first shard whose bytes are not those that were packed."""
        for shard in self.manifest["shards"]:
            path = self.path / shard["name"]
            if sha256_of(path) != shard["sha256"]:
                raise InputError(f"{path} is damaged: its bytes are not those its manifest names; pack again with --mode overwrite")

    def load(self, keys: Sequence[str]) -> Rows:
        """The samples with these keys, in this order."""
        return self.read([self._at(key) for key in keys])

    def read(self, indices: Sequence[int]) -> Rows:
        """The samples at these places of `samples`, in this order, from the files."""
        records = [self.samples[i] for i in indices]
        return _rows(records, self, self.text_shape, lacks_text(self, records))

    def metadata(self, key: str) -> bytes:
        """KEY.json, which has the caption's own words too."""
        record = self.samples[self._at(key)]
        return self._files.read(record.shard, record.json)

    def joints(self, record: Record) -> NDArray[Any]:
        """[C,T,V,M] as stored."""
        clip = self._files.array(record.shard, record.joints)
        if clip.ndim != 4 or (clip.shape[1], clip.shape[3]) != (record.frames, record.persons):
            raise InputError(
                f"{self._files.paths[record.shard]} is damaged: {record.key} has shape {clip.shape}; pack again with --mode overwrite"
            )
        return clip

    def text(self, record: Record) -> NDArray[Any]:
        """[L,D] as stored."""
        assert record.text is not None
        return self._files.array(record.shard, record.text)

    def _at(self, key: str) -> int:
        if key not in self.index:
            raise InputError(f"{self.path} has no sample {key!r}")
        return self.index[key]


class Reader(Protocol):
    """Where the arrays of a sample come from: the files, or memory."""

    def joints(self, record: Record) -> NDArray[Any]: ...
    def text(self, record: Record) -> NDArray[Any]: ...


class InMemory:
    """Some samples of a set in two arrays: all joints end to end, and each distinct text's features once."""

    def __init__(self, packed: PackedSet, records: Sequence[Record], captions: WhichCaption = "first") -> None:
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._rows: dict[Name, int] = {}
        self._by_sample = _by_sample(packed)
        stored = np.dtype(packed.manifest["options"].get("dtype", "float32"))
        # headers are a little more than the numbers, and the unused end is never touched
        self._joints = np.empty(sum(record.joints[1] for record in records) // stored.itemsize, stored)
        at = 0
        for record in records:
            clip = packed.joints(record)
            self._joints[at : at + clip.size] = clip.ravel()
            self._places[record.key] = (at, clip.shape)
            at += clip.size
        distinct = _distinct(records, captions, self._by_sample)
        self._texts = np.empty((len(distinct), *(packed.text_shape or ())), np.float16)
        for row, (name, record) in enumerate(distinct.items()):
            self._rows[name] = row
            self._texts[row] = packed.text(record)

    @staticmethod
    def size(packed: PackedSet, records: Sequence[Record], captions: WhichCaption = "first") -> int:
        """Bytes that holding these samples would take."""
        texts = _distinct(records, captions, _by_sample(packed)).values()
        return sum(record.joints[1] for record in records) + sum(record.text[1] for record in texts if record.text)

    def joints(self, record: Record) -> NDArray[Any]:
        """[C,T,V,M], a view."""
        at, shape = self._places[record.key]
        return self._joints[at : at + int(np.prod(shape))].reshape(shape)

    def text(self, record: Record) -> NDArray[Any]:
        """[L,D], a view."""
        features: NDArray[np.float16] = self._texts[self._rows[_name(record, self._by_sample)]]
        return features


Name: TypeAlias = int | tuple[int, tuple[int, int] | None] | None


def _name(record: Record, by_sample: bool) -> Name:
    """What tells one text's features from another's: equal words have equal ones, unless they belong to the sample."""
    return (record.shard, record.text) if by_sample else record.text_id


def _by_sample(packed: PackedSet) -> bool:
    text = packed.manifest["text"]
    return text is not None and text.get("by") == "key"


def _distinct(records: Sequence[Record], captions: WhichCaption, by_sample: bool) -> dict[Name, Record]:
    """A record for each distinct text that the samples may be read with."""
    described = records if captions == "first" else (one for record in records for one in record.with_each_caption())
    return {_name(record, by_sample): record for record in described if record.text}


def lacks_text(packed: PackedSet, records: Iterable[Record]) -> bool:
    """The set has captions, but not for all of these samples."""
    return packed.manifest["text"] is not None and any(record.text_id is None for record in records)


def caption_of_epoch(key: str, seed: int, epoch: int, count: int) -> int:
    """Which of a sample's `count` captions an epoch uses: another one each epoch, each once in `count` epochs, from a start by key."""
    start = int.from_bytes(hashlib.sha256(f"{seed}:caption:{key}".encode()).digest()[:8], "big")
    return (start + epoch) % count


def of_epoch(record: Record, captions: WhichCaption, seed: int, epoch: int) -> Record:
    """The sample with the caption that it has in an epoch."""
    if captions == "first" or not record.more:
        return record
    return record.with_caption(caption_of_epoch(record.key, seed, epoch, 1 + len(record.more)))


def epoch_order(keys: Sequence[str], seed: int, epoch: int) -> Ints:
    """Indices [N] into the sorted keys, in the order of the sha256 of "seed:epoch:key"."""
    start = f"{seed}:{epoch}:".encode()
    digests = [hashlib.sha256(start + key.encode()).digest() for key in sorted(keys)]
    return np.array(sorted(range(len(digests)), key=digests.__getitem__), np.int64)


def batches(
    packed: PackedSet,
    keys: Sequence[str],
    batch: int,
    seed: int,
    first_step: int,
    steps: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    memory: bool | Literal["auto"] = "auto",
    captions: WhichCaption = "first",
) -> Iterator[Rows]:
    """Rows [rank*b, (rank+1)*b) of the global batches of steps first_step ... steps - 1, b = batch / world.

    Step s belongs to epoch s // floor(N / batch); what is left over of an epoch's order is not used. workers is the number of threads
    that read ahead, which never changes the order. memory: hold the samples ("auto": where they are small and this machine has room).
    captions: of a sample that has several, the first, or another one each epoch, a function of (seed, epoch, key).

    InputError, at the call: fewer samples than a batch, a batch that the ranks do not divide, a key that is not in the set."""
    if batch < 1 or batch % world:
        below = batch // world * world
        near = " or ".join(str(size) for size in (below, below + world) if size > 0)
        raise InputError(f"a batch of {batch} cannot be divided among {world} ranks; use --batch-size {near}")
    names = sorted(set(keys))
    if len(names) < len(keys):
        raise InputError(f"{len(keys) - len(names)} keys are named twice")
    if len(names) < batch:
        raise InputError(
            f"{len(names)} training samples do not fill a batch of {batch}; use --batch-size {len(names)} or less, or more data"
        )
    records = [packed.samples[packed._at(key)] for key in names]
    held = _fits(InMemory.size(packed, records, captions), world) if memory == "auto" else memory
    reader: Reader = InMemory(packed, records, captions) if held else packed
    lacking = lacks_text(packed, records)
    own = slice(rank * (batch // world), (rank + 1) * (batch // world))

    def build(place: tuple[int, Ints]) -> Rows:
        epoch, indices = place
        chosen = [of_epoch(records[i], captions, seed, epoch) for i in indices]
        return _rows(chosen, reader, packed.text_shape, lacking)

    steps_indices = _indices(names, batch, seed, first_step, steps, own)
    return (build(indices) for indices in steps_indices) if workers < 1 else _ahead(build, steps_indices, workers)


def _indices(names: list[str], batch: int, seed: int, first: int, steps: int, own: slice) -> Iterator[tuple[int, Ints]]:
    """The epoch and this rank's places in the sorted keys, step by step."""
    per_epoch = len(names) // batch
    order, current = np.empty(0, np.int64), -1
    for step in range(first, steps):
        epoch, place = divmod(step, per_epoch)
        if epoch != current:
            order, current = epoch_order(names, seed, epoch), epoch
        yield epoch, order[place * batch : (place + 1) * batch][own]


def _ahead(build: Callable[[tuple[int, Ints]], Rows], steps: Iterator[tuple[int, Ints]], workers: int) -> Iterator[Rows]:
    """Batches built by threads, two ahead for each, handed out in order; stopping the iterator ends the threads."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="stream")
    waiting: deque[Future[Rows]] = deque()
    try:
        for place in steps:
            waiting.append(pool.submit(build, place))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _rows(records: list[Record], reader: Reader, text_shape: tuple[int, int] | None, lacking: bool) -> Rows:
    """lacking: some samples in use have no caption, be they among these rows or not."""
    frames = np.array([record.frames for record in records], np.int64)
    clips = [reader.joints(record) for record in records]
    coordinates, _, joints, _ = clips[0].shape if clips else (3, 0, 0, 0)
    out = np.empty((len(records), coordinates, int(frames.max(initial=0)), joints, 2), np.float32)
    for row, clip in zip(out, clips):
        length, persons = clip.shape[1], clip.shape[3]
        row[:, :length, :, :persons] = clip
        row[:, :length, :, persons:] = 0
        row[:, length:] = 0
    text = None
    if text_shape:
        text = np.empty((len(records), *text_shape), np.float16)
        for i, record in enumerate(records):
            text[i] = reader.text(record) if record.text or not lacking else 0
    ids = [NO_TEXT if record.text_id is None and lacking else record.text_id for record in records]
    tokens = np.array([record.tokens for record in records], np.int64)
    return Rows(
        keys=[record.key for record in records],
        joints=out,
        frames=frames,
        text=text,
        text_id=None if None in ids else np.array(ids, np.int64),
        label=np.array([record.label for record in records], np.int64),
        text_tokens=tokens if text_shape and tokens.any() else None,
        has_text=np.array([id != NO_TEXT for id in ids], np.bool_) if lacking else None,
    )


def _fits(size: int, world: int) -> bool:
    """Whether every rank of this machine (all, to be safe) may hold `size` bytes: a quarter of the free memory together, 4 GiB each."""
    return size < MEMORY_MOST and size * world < free_memory() / 4


def free_memory() -> int:
    """Bytes that can be had without swapping; 0 where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 0
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines.get("MemAvailable", "0 kB").split()[0]) * 1024


def _record(entry: SampleEntry, shard: int) -> Record:
    return Record(
        key=entry["key"],
        label=entry["label"],
        subject=entry["subject"],
        camera=entry["camera"],
        setup=entry["setup"],
        replication=entry["replication"],
        split=entry["split"],
        frames=entry["frames"],
        persons=entry["persons"],
        text_id=entry["text_id"],
        shard=shard,
        joints=(entry["joints"][0], entry["joints"][1]),
        json=(entry["json"][0], entry["json"][1]),
        text=_place(entry["text"]),
        tokens=entry.get("tokens", 0),
        more=tuple(Text(one["text_id"], _place(one["text"]), one["tokens"]) for one in entry.get("more", ())),
    )


def _place(found: list[int] | None) -> tuple[int, int] | None:
    return (found[0], found[1]) if found else None


class _Files:
    """Shards opened when first read, a few hundred at most; reads by offset need no common position."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._open: dict[int, io.FileIO] = {}
        self._headers: dict[bytes, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def __reduce__(self) -> tuple[type["_Files"], tuple[list[Path]]]:
        return _Files, (self.paths,)

    def read(self, shard: int, place: tuple[int, int]) -> bytes:
        """`size` bytes at `offset` of a shard."""
        offset, size = place
        file = self._open.get(shard)
        if file is None:
            file = io.FileIO(self.paths[shard])
            if len(self._open) < OPEN_FILES:
                file = self._open.setdefault(shard, file)
        data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise InputError(f"{self.paths[shard]} is cut short at byte {offset + len(data)}; pack again with --mode overwrite")
        return data

    def array(self, shard: int, place: tuple[int, int]) -> NDArray[Any]:
        """The .npy member at this place, read-only; each distinct header is parsed once."""
        data = self.read(shard, place)
        length = 10 + int.from_bytes(data[8:10], "little")
        head = data[:length]
        try:
            if head not in self._headers:
                self._headers[head] = _parsed(head)
            dtype, shape = self._headers[head]
            return np.frombuffer(data, dtype, offset=length).reshape(shape)
        except ValueError as error:
            raise InputError(f"{self.paths[shard]} is damaged at byte {place[0]} ({error}); pack again with --mode overwrite") from None


def _parsed(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape that a .npy header of version 1 names. ValueError for anything that packing does not write."""
    try:
        about = ast.literal_eval(head[len(MAGIC) + 2 :].decode("latin-1").strip())
        dtype, shape = np.dtype(about["descr"]), tuple(int(n) for n in about["shape"])
    except (SyntaxError, TypeError, KeyError) as error:
        raise ValueError(f"no .npy header: {error}") from None
    if not head.startswith(MAGIC) or about.get("fortran_order") is not False or dtype.kind not in "fiu":
        raise ValueError(f"an array of {dtype} that packing does not write")
    return dtype, shape
