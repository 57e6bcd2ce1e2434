"""A small packed set whose classes are told apart by their motion, and run folders as pretraining leaves them, without pretraining."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import acsar
from acsar.scdnet import SCDNetConfig
from jobs import weights
from jobs.run_folder import RunFolder, write_json
from shards.manifest import sha256_of
from shards.pack import pack
from shards.samples import Clip, Sample, Source
from shards.stream import PackedSet

TINY = SCDNetConfig(c1=8, width=16, heads=2, out=8, queue=16)


@dataclass
class Moves(Source):
    """`per` clips of each class by each subject (odd ones train, even ones test); class c swings its joints at a frequency of its own."""

    path: Path = Path("moves")
    format: str = "toy"
    benchmark: str = "exchange"
    classes: tuple[str, ...] = ("slow", "middle", "fast")
    normalised: bool = True
    per: int = 4
    subjects: int = 4
    noise: float = 0.3
    seed: int = 0

    def samples(self) -> list[Sample]:
        made = []
        for subject in range(1, 1 + self.subjects):
            for label in range(len(self.classes)):
                for i in range(self.per):
                    key, split = f"s{subject}c{label}r{i:02d}", "train" if subject % 2 else "test"
                    made.append(Sample(key, label, subject=subject, camera=1 + i % 2, replication=i + 1, split=split))
        return made

    def read(self, key: str) -> Clip:
        rng = np.random.default_rng(list(self.digest(key).encode()))
        frames, label = int(rng.integers(40, 90)), int(key[3])
        time = np.linspace(0, 1, frames)[None, :, None, None]
        shape = np.random.default_rng(label).standard_normal((1, 1, 25, 3))
        swing = shape * np.sin(2 * np.pi * (1 + label) * time)
        return Clip((swing + self.noise * rng.standard_normal((1, frames, 25, 3))).astype(np.float32))

    def digest(self, key: str) -> str:
        return hashlib.sha256(f"{self.seed}:{self.noise}:{key}".encode()).hexdigest()


def packed_moves(out: Path, **changes: Any) -> PackedSet:
    """The set, packed."""
    pack(replace(Moves(), **changes), out)
    return PackedSet.open(out)


def finished_run(run: Path, packed: PackedSet, streams: Sequence[str] = ("joint",), protocol: str = "split", seed: int = 5) -> Path:
    """RUNS/NAME with config.json, encoder.safetensors and result.json of each stream; weights drawn from `seed` stand for trained ones."""
    for stream in streams:
        folder = RunFolder(run / stream)
        config = weights.with_stream(TINY, stream)
        skeleton = packed.manifest["skeleton"]
        facts = {
            "content_id": packed.content_id,
            "protocol": protocol,
            "supervision": "none",
            "benchmark": packed.manifest["benchmark"],
            "steps": 4,
        }
        job = {"data": str(packed.path), "recipe": "tiny", "streams": list(streams), "protocol": protocol, "seed": 0}
        write_json(folder.config, {"job": job, "stream": stream, "facts": facts})
        weights.save_encoder(folder.encoder, acsar.build(config, skeleton, seed=seed), config, skeleton, {"content_id": packed.content_id})
        write_json(folder.result, {"status": "finished", "encoder_sha256": sha256_of(folder.encoder)})
    return run
