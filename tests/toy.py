"""A small source that makes its clips up from their keys, and a packed set of it."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.errors import InputError
from shards.samples import Clip, Sample, Source


@dataclass
class Toy(Source):
    """`count` clips of 5 to 40 frames, one or two persons; some broken, some excluded; slow or deadly if asked."""

    path: Path = Path("toy")
    format: str = "toy"
    benchmark: str = "synthetic"
    classes: tuple[str, ...] = ("a", "b", "c")
    normalised: bool = True
    count: int = 20
    seed: int = 0
    texts: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0
    dies_at: str = ""

    def samples(self) -> list[Sample]:
        return [self._sample(i) for i in range(self.count)]

    def _sample(self, i: int) -> Sample:
        text = self.texts[i % len(self.texts)] if self.texts else ""
        return Sample(f"K{i:05d}", i % 3, subject=1 + i % 4, camera=1 + i % 3, setup=1 + i % 2, replication=1, text=text)

    def read(self, key: str) -> Clip:
        time.sleep(self.seconds)
        if key == self.dies_at:
            os._exit(9)
        if key in self.broken:
            raise InputError(f"{self.path}/{key}: cut short", reason="truncated")
        rng = np.random.default_rng(list(self.digest(key).encode()))
        frames, persons = int(rng.integers(5, 41)), int(rng.integers(1, 3))
        return Clip(rng.standard_normal((persons, frames, 25, 3)).astype(np.float32))

    def digest(self, key: str) -> str:
        return hashlib.sha256(f"{self.seed}:{key}".encode()).hexdigest()

    def excluded(self) -> dict[str, str]:
        return dict.fromkeys(self.left_out, "missing skeleton list")
