"""What a forked rank does in each test, with harm at one of its operations. The server imports this once: all that is slow is here."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed.ops
import deepspeed.runtime.zero.muon.muon_optimizer
import torch
import torch._dynamo  # noqa: F401
from torch import Tensor

import acsar
from acsar.types import Batch
from jobs import checkpoint
from jobs.pretrain import Pretrain
from jobs.run_folder import write_json
from shards.pack import Mode, pack
from shards.sources import open_source
from tests.faults.shim import Fault, armed
from tests.test_checkpoint import attempt
from tests.tiny import Tiny

deepspeed.ops.__compatible_ops__  # noqa: B018  (probed at first use, with a compiler)


def digest(state: dict[str, Tensor]) -> str:
    """sha256 over a model's bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def tiny(rank: int, folder: Path, until: int, zero: int, out: Path | None = None) -> None:
    """An attempt of the tiny method up to step `until` of 8; OUT/RANK gets the digest of the final state."""
    state = attempt(folder, until=until, zero=zero)
    if out is not None:
        (out / str(rank)).write_text(digest(state))


def tiny_save(rank: int, folder: Path, until: int, zero: int, fault: Fault, log: Path, broken: str = "") -> None:
    """As `tiny`, with harm in its save."""
    if broken:
        BROKEN[broken]()
    original = checkpoint.save

    def save(*arguments: Any, **named: Any) -> None:
        with armed(fault, rank, folder, log / str(rank)):
            original(*arguments, **named)

    checkpoint.save = save
    attempt(folder, until=until, zero=zero)


def tiny_attempt(rank: int, folder: Path, until: int, zero: int, fault: Fault, log: Path) -> None:
    """As `tiny`, with harm anywhere in RUNS (RUNS/NAME/STREAM is `folder`)."""
    with armed(fault, rank, folder.parents[1], log / str(rank)):
        attempt(folder, until=until, zero=zero)


class Small(Tiny):
    """The tiny method on packed clips, of which it sees two joints of the first frame."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return super().forward(replace(batch, joints=batch.joints[:, :, :1, :2, :1]))

    def encode(self, joints: Tensor, frames: Tensor | None = None) -> Tensor:
        return self.key(joints[:, :, :1, :2, :1].flatten(1))


def pretrain(rank: int, job: Pretrain) -> None:
    """One attempt at a whole stream."""
    job("joint")


def small_pretrain(rank: int, job: Pretrain, fault: Fault, log: Path) -> None:
    """One attempt at a whole stream of the small method, with harm anywhere in it."""
    acsar.build = lambda config, skeleton, shape, seed: Small(seed)
    with armed(fault, rank, job.runs, log / str(rank)):
        job("joint")


def _complete_first() -> None:
    """A save that says COMPLETE before its files are there."""
    original = checkpoint.deepspeed.save

    def save(engine: Any, folder: Path) -> list[Path]:
        if engine.global_rank == 0:
            marker = {"step": engine.global_steps, "attempt": 2, "world": 2, "files": []}
            write_json(folder / "COMPLETE", marker)
        return original(engine, folder)

    checkpoint.deepspeed.save = save


def _removes_first() -> None:
    """A save that makes room by removing the older checkpoints."""
    original = checkpoint.deepspeed.save

    def save(engine: Any, folder: Path) -> list[Path]:
        for path in folder.parent.glob("step_*") if engine.global_rank == 0 else ():
            shutil.rmtree(path)
        return original(engine, folder)

    checkpoint.deepspeed.save = save


def _trusts_sizes() -> None:
    """A save that adds to a file after its sum was taken."""
    original = checkpoint.sha256_of

    def sum_of(path: Path) -> str:
        found = original(path)
        with path.open("ab") as file:
            file.write(b"more")
        return found

    checkpoint.sha256_of = sum_of


BROKEN = {"complete first": _complete_first, "removes first": _removes_first, "adds afterwards": _trusts_sizes}


def packing(rank: int, raw: Path, out: Path, mode: Mode, fault: Fault, log: Path) -> None:
    """Pack three shards, with harm."""
    source = open_source(raw)
    with armed(fault, rank, out.parent, log):
        pack(source, out, per_shard=9, mode=mode)
