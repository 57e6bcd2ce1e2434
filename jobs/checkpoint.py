"""Checkpoints that are whole or do not count, over engines that write files in place.

Every rank writes and fsyncs its files and sends (name, bytes, sha256) to rank 0, which writes COMPLETE last, unless a newer attempt
has taken over. A reader checks every size and hash.
"""

import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from jobs import engine as deepspeed
from jobs.journal import Journal, read
from jobs.run_folder import (
    RunFolder,
    claim,
    read_json,
    record_start,
    step_of,
    superseded,
    trusted,
    write_json,
)
from jobs.schedule import Schedule
from shards.errors import InputError
from shards.manifest import sha256_of, sync_folder

KEEP = 2


@dataclass(frozen=True)
class Start:
    """What an attempt begins with: its number and the checkpoint ("" = none)."""

    attempt: int
    checkpoint: str
    notes: list[str]

    @property
    def step(self) -> int:
        return step_of(self.checkpoint)


def begin(folder: RunFolder, ranks: deepspeed.Ranks, zero: int, facts: dict[str, Any]) -> Start:
    """Claim an attempt and choose its checkpoint, on rank 0 for all ranks.

    Raises InputError on every rank when progress is recorded but nothing of it can be loaded, or when ZeRO shards belong to another
    number of ranks."""
    outcome: list[Any] = [None]
    if ranks.rank == 0:
        try:
            attempt = claim(folder)
            checkpoint, notes = choose(folder, attempt, ranks.world, zero)
            record_start(folder, attempt, checkpoint, {**facts, "world": ranks.world})
            outcome = [Start(attempt, checkpoint, notes)]
        except InputError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], InputError):
        raise outcome[0]
    start: Start = outcome[0]
    return start


def choose(folder: RunFolder, attempt: int, world: int, zero: int) -> tuple[str, list[str]]:
    """Name of the newest checkpoint that this attempt can trust ("" = start at 0), and what to say about it."""
    notes: list[str] = []
    candidates = trusted(folder, before=attempt)
    for path in candidates:
        fault = verify(path)
        if fault is None:
            marker = read_json(path / "COMPLETE")
            if zero and marker["world"] != world:
                raise InputError(
                    f"{path} was saved by {marker['world']} ranks with ZeRO {zero}, its optimiser shards do not fit {world}; "
                    f"resume with {marker['world']} ranks, or start a run with --zero 0 under another --name"
                )
            return path.name, notes
        notes.append(f"{path.name} is not used: {fault}")
    if candidates or any(record["type"] == "save" for record in read(folder.path)):
        raise InputError(
            f"{folder.path} has made progress but no checkpoint of it can be loaded ({'; '.join(notes) or 'none is left'}); "
            f"restore {folder.checkpoints} or start again under another --name"
        )
    if attempt > 1:
        notes.append("no earlier attempt got as far as a checkpoint: starting at step 0")
    return "", notes


def verify(path: Path) -> str | None:
    """What is wrong with a COMPLETE checkpoint; None when every file has the size and hash that were recorded."""
    for entry in read_json(path / "COMPLETE")["files"]:
        file = path / entry["name"]
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{file} has {file.stat().st_size} bytes instead of {entry['bytes']}"
        if sha256_of(file) != entry["sha256"]:
            return f"{file} has another checksum than when it was written"
    return None


def resume(engine: deepspeed.DeepSpeedEngine, folder: RunFolder, start: Start, schedule: Schedule) -> None:
    """Load the start's checkpoint, on all ranks together, and check that it stands where its name says."""
    deepspeed.load(engine, folder.checkpoints / start.checkpoint)
    assert engine.global_steps == start.step, (engine.global_steps, start)
    assert math.isclose(deepspeed.get_lr(engine), schedule(start.step - 1)), (deepspeed.get_lr(engine), schedule)


def save(
    engine: deepspeed.DeepSpeedEngine, folder: RunFolder, attempt: int, step: int, ranks: deepspeed.Ranks, journal: Journal
) -> None:
    """Save after `step` completed steps, on all ranks together, and say so in the journal.

    Raises InputError on every rank when a newer attempt has taken over: then the checkpoint stays without COMPLETE."""
    began = time.perf_counter()
    path = folder.checkpoint(step, attempt)
    own = []
    for file in deepspeed.save(engine, path):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        own.append({"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)})
    sync_folder(path)
    gathered: list[Any] = [None] * ranks.world
    dist.all_gather_object(gathered, own)
    files = [entry for rank in gathered for entry in rank]
    left = [False]
    if ranks.rank == 0:
        left = [superseded(folder, attempt)]
        if not left[0]:
            marker = {"step": step, "attempt": attempt, "world": ranks.world, "files": files}
            write_json(path / "COMPLETE", marker)
            sync_folder(folder.checkpoints)
            _forget(folder, attempt)
    dist.broadcast_object_list(left)
    if left[0]:
        raise InputError(f"attempt {attempt} of {folder.path} stops at step {step}: a newer attempt has taken over this run")
    milliseconds = round((time.perf_counter() - began) * 1e3, 3)
    journal.write("save", step=step, path=path.name, ms=milliseconds, bytes=sum(entry["bytes"] for entry in files))
    journal.sync()


def _forget(folder: RunFolder, attempt: int) -> None:
    """Remove all but the newest checkpoints, and what older attempts left unfinished."""
    keep = trusted(folder)[:KEEP]
    for path in folder.checkpoints.glob("step_*.a*"):
        if path not in keep and int(path.name.rpartition(".a")[2]) <= attempt:
            (path / "COMPLETE").unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
