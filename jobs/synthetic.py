"""The embedded default: makes the synthetic set (raw NTU-format files, captions from the motion program) and packs it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jobs.pack import Pack
from shards.synthetic import write_synthetic
from shards.workers import cores


@dataclass(frozen=True)
class Synthetic:
    """Write OUT/raw and pack it into OUT/packed; what is already there is left alone. A stand-in for trying things."""

    out: Path  # folder of the set
    seed: int = 0  # everything in the set is a function of it
    subjects: int = 16
    repetitions: int = 1
    jobs: int = 0  # processes; 0 = all cores

    def __call__(self, progress: Callable[[int, int], None] | None = None) -> Path:
        """The packed folder."""
        raw, packed = self.out / "raw", self.out / "packed"
        if not (packed / "manifest.json").is_file():
            workers = self.jobs or cores()
            if not raw.is_dir():
                write_synthetic(raw, seed=self.seed, subjects=self.subjects, repetitions=self.repetitions, jobs=workers, progress=progress)
            Pack(data=raw, out=packed, captions=raw / "captions.jsonl", jobs=workers)(progress)
        return packed
