"""Reading batches: ours by offset and from memory, against plain webdataset decoding and batching the same shards, one process each.

python -m benchmarks.streaming
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.table import Row, show
from jobs.text import HashText
from shards.pack import pack
from shards.samples import Clip, Sample, Source
from shards.stream import PackedSet, batches

SAMPLES, BATCH, ROUNDS = 1024, 64, 15
FRAMES = (40, 150)
PAIRS = 6
"""One clip in so many shows two persons, about as in NTU RGB+D."""


@dataclass
class Invented(Source):
    """Clips of NTU RGB+D's usual lengths, made up from their number."""

    path: Path = Path("invented")
    format: str = "invented"
    benchmark: str = "synthetic"
    classes: tuple[str, ...] = ("a", "b")
    normalised: bool = True
    count: int = SAMPLES
    texts: bool = False

    def samples(self) -> list[Sample]:
        """One after another."""
        return [Sample(f"K{i:06d}", i % 2, subject=1, text=f"text number {i // 2}" if self.texts else "") for i in range(self.count)]

    def read(self, key: str) -> Clip:
        """One or two persons, FRAMES long."""
        rng = np.random.default_rng(int(key[1:]))
        persons = 2 if int(key[1:]) % PAIRS == 0 else 1
        return Clip(rng.standard_normal((persons, int(rng.integers(*FRAMES)), 25, 3), dtype=np.float32))

    def digest(self, key: str) -> str:
        """The key says it all."""
        return key


def measure() -> list[Row]:
    """Rows with and without text features; one thread, runs of ours and webdataset's alternating."""
    rows = []
    for texts in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            pack(Invented(texts=texts), Path(folder) / "set", features=HashText(), jobs=2)
            rows += _rows(PackedSet.open(Path(folder) / "set"), "joints and text" if texts else "joints")
    return rows


def _rows(packed: PackedSet, what: str) -> list[Row]:
    keys = [record.key for record in packed.samples]
    held = batches(packed, keys, BATCH, 0, 0, 10**9, memory=True)
    steps = len(keys) // BATCH

    def by_offset() -> int:
        return sum(len(rows.keys) for rows in batches(packed, keys, BATCH, 0, 0, steps, memory=False))

    def from_memory() -> int:
        return sum(len(next(held).keys) for _ in range(steps))

    def plain() -> int:
        return sum(len(rows["keys"]) for rows in plain_batches(packed))

    offset, memory, peer = alternate([by_offset, from_memory, plain])
    return [
        Row(f"stream {what}, by offset", offset, "samples/s", peer, offset / peer),
        Row(f"stream {what}, in memory", memory, "samples/s", peer, memory / peer),
    ]


def plain_batches(packed: PackedSet) -> Any:
    """webdataset as its documentation has it: decode, batch with a padding collation; in shard order, without a shuffle."""
    os.environ.setdefault("WDS_SECURE", "1")
    import webdataset

    urls = [str(packed.path / shard["name"]) for shard in packed.manifest["shards"]]
    return webdataset.WebDataset(urls, shardshuffle=False).decode().batched(BATCH, collation_fn=_padded, partial=False)


def _padded(samples: list[dict[str, Any]]) -> dict[str, Any]:
    clips = [sample["joints.npy"] for sample in samples]
    joints = np.zeros((len(clips), 3, max(clip.shape[1] for clip in clips), 25, 2), np.float32)
    for row, clip in zip(joints, clips):
        row[:, : clip.shape[1], :, : clip.shape[3]] = clip
    batch = {"joints": joints, "keys": [s["__key__"] for s in samples], "label": np.array([s["json"]["label"] for s in samples])}
    if "text.npy" in samples[0]:
        batch["text"] = np.stack([sample["text.npy"] for sample in samples])
    return batch


def alternate(runs: list[Callable[[], int]]) -> list[float]:
    """Samples per second of each run, the median of ROUNDS after one that does not count; the runs take turns."""
    rates: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS + 1):
        for run, found in zip(runs, rates):
            began = time.perf_counter()
            count = run()
            found.append(count / (time.perf_counter() - began))
    return [median(found[1:]) for found in rates]


def main() -> None:
    """Print the table."""
    show(measure())


if __name__ == "__main__":
    main()
