"""Checkpoints that are whole or do not count, over engines that write files in place.

Every rank writes and fsyncs its files and sends (name, bytes, sha256) to rank 0, which writes COMPLETE last, unless a newer attempt
has taken over. A reader checks every size and hash.
"""

import contextlib
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from jobs import engine as deepspeed
from jobs.journal import Journal, read
from jobs.run_folder import (
    RunFolder,
    attempts,
    claim,
    read_json,
    record_start,
    step_of,
    superseded,
    trusted,
    write_bytes,
    write_json,
    writing,
)
from jobs.schedule import Schedule
from shards.errors import InputError
from shards.manifest import sha256_of, sync_folder

PATIENCE = 20.0  # seconds for a network file system to show a new file on every host


@dataclass(frozen=True)
class Start:
    """What an attempt begins with: its number and the checkpoint ("" = none)."""

    attempt: int
    checkpoint: str
    notes: list[str]

    @property
    def step(self) -> int:
        return step_of(self.checkpoint)


@dataclass
class Keep:
    """Which checkpoints are kept: the newest, those at multiples of a number of steps, and the best."""

    last: int = 2
    every: int = 0  # steps; 0 = none
    best: int | None = None  # the step that was judged best so far

    def of(self, newest_first: list[Path]) -> list[Path]:
        """Those of the checkpoints that are kept."""
        steps = [(path, step_of(path.name)) for path in newest_first]
        return [p for i, (p, s) in enumerate(steps) if i < self.last or s == self.best or (self.every and s % self.every == 0)]


def begin(folder: RunFolder, ranks: deepspeed.Ranks, zero: int, facts: dict[str, Any]) -> Start:
    """Claim an attempt and choose its checkpoint, on rank 0 for all ranks.

    Raises InputError on every rank, before anything of the run is touched, when ZeRO shards belong to another number of ranks or when
    a host does not see the run folder; also when progress is recorded but nothing of it can be loaded."""
    deepspeed.on_first(ranks, lambda: _refuse_shards(trusted(folder), ranks.world, zero))
    _check_shared(folder, ranks)

    def start() -> Start:
        with writing(folder.path):
            attempt = claim(folder)
            checkpoint, notes = choose(folder, attempt, ranks.world, zero)
            record_start(folder, attempt, checkpoint, {**facts, "world": ranks.world})
        return Start(attempt, checkpoint, notes)

    return deepspeed.on_first(ranks, start)


def _check_shared(folder: RunFolder, ranks: deepspeed.Ranks) -> None:
    """Raise InputError on every rank, naming the hosts, unless every rank reads what rank 0 writes in the run folder."""
    if ranks.world == 1:
        return

    def write() -> str:
        token = secrets.token_hex(8)
        with writing(folder.path):
            write_bytes(folder.path / f".shared.{token}", token.encode())
        return token

    token = deepspeed.on_first(ranks, write)
    path = folder.path / f".shared.{token}"  # a new name: no host can have looked for it before, and remember that it is not there
    blind: list[Any] = [None] * ranks.world
    dist.all_gather_object(blind, None if _appears(path, token) else socket.gethostname())
    if ranks.rank == 0:
        path.unlink(missing_ok=True)
    hosts = sorted({host for host in blind if host is not None})
    if hosts:
        raise InputError(
            f"{folder.path} is not on a disk that all nodes share: {', '.join(hosts)} cannot see what "
            f"rank 0 writes there; give --runs a folder on a shared file system"
        )


def _appears(path: Path, content: str) -> bool:
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if path.read_text() == content:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def choose(folder: RunFolder, attempt: int, world: int, zero: int) -> tuple[str, list[str]]:
    """Name of the newest checkpoint that this attempt can trust ("" = start at 0), and what to say about it."""
    notes: list[str] = []
    candidates = trusted(folder, before=attempt)
    for path in candidates:
        fault = verify(path)
        if fault is None:
            _refuse_shards([path], world, zero)
            return path.name, notes
        notes.append(f"{path.name} is not used: {fault}")
    started_later = any(claim.step for claim in attempts(folder))
    if candidates or started_later or any(record["type"] == "save" for record in read(folder.path)):
        raise InputError(
            f"{folder.path} has made progress but no checkpoint of it can be loaded ({'; '.join(notes) or 'none is left'}); "
            f"restore {folder.checkpoints} or start again under another --name"
        )
    if attempt > 1:
        notes.append("no earlier attempt got as far as a checkpoint: starting at step 0")
    return "", notes


def _refuse_shards(checkpoints: list[Path], world: int, zero: int) -> None:
    for path in checkpoints if zero else ():
        then = read_json(path / "COMPLETE")["world"]
        if then != world:
            raise InputError(
                f"{path} was saved by {then} ranks with ZeRO {zero}, its optimiser shards do not fit {world}; "
                f"resume with {then} ranks, or start a run with --zero 0 under another --name"
            )


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
    engine: deepspeed.DeepSpeedEngine,
    folder: RunFolder,
    attempt: int,
    step: int,
    ranks: deepspeed.Ranks,
    journal: Journal,
    keep: Keep,
) -> None:
    """Save after `step` completed steps, on all ranks together, say so in the journal, and forget what need not be kept.

    Raises InputError on every rank when a newer attempt has taken over (the checkpoint then stays without COMPLETE), and when a rank
    cannot write (then what was written is removed); earlier checkpoints stay as they are."""
    began = time.perf_counter()
    path = folder.checkpoint(step, attempt)
    needed = deepspeed.state_bytes(engine)

    def prepare() -> None:
        _leave_if_superseded(folder, attempt, step)
        path.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path).free < needed:
            raise OSError("the disk is full")

    deepspeed.on_first(ranks, _or_removed(folder, path, needed, prepare))
    files: list[dict[str, Any]] = []
    fault = ""
    try:
        files = _written(engine, path)
    except OSError as error:
        fault = f"{error} on {socket.gethostname()}"
    gathered: list[Any] = [None] * ranks.world
    dist.all_gather_object(gathered, (files, fault))
    files = [entry for own, _ in gathered for entry in own]

    def complete() -> None:
        _leave_if_superseded(folder, attempt, step)
        for _, found in gathered:
            if found:
                raise OSError(found)
        journal.sync()  # a power cut must not leave a checkpoint without the steps that led to it
        write_json(path / "COMPLETE", {"step": step, "attempt": attempt, "world": ranks.world, "files": files})
        sync_folder(folder.checkpoints)
        sync_folder(folder.path)

    deepspeed.on_first(ranks, _or_removed(folder, path, needed, complete))
    if ranks.rank == 0:
        _forget(folder, attempt, keep)
    milliseconds = round((time.perf_counter() - began) * 1e3, 3)
    journal.write("save", step=step, path=path.name, ms=milliseconds, bytes=sum(entry["bytes"] for entry in files))
    journal.sync()


def _leave_if_superseded(folder: RunFolder, attempt: int, step: int) -> None:
    if superseded(folder, attempt):
        raise InputError(f"attempt {attempt} of {folder.path} stops at step {step}: a newer attempt has taken over this run")


def _written(engine: deepspeed.DeepSpeedEngine, path: Path) -> list[dict[str, Any]]:
    """Write this rank's files and make them durable; their names, sizes and sums."""
    own = []
    for file in deepspeed.save(engine, path):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        own.append({"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)})
    sync_folder(path)
    return own


def _or_removed(folder: RunFolder, path: Path, needed: int, action: Callable[[], None]) -> Callable[[], None]:
    """The action; where it cannot write, the unfinished checkpoint is removed and the OSError becomes an InputError."""

    def call() -> None:
        try:
            action()
        except OSError as error:
            remove(path)
            free = shutil.disk_usage(folder.path).free
            good = [found.name for found in trusted(folder)]
            raise InputError(
                f"checkpoint {path.name} could not be written to {folder.checkpoints}: {error} ({free / 1e6:.0f} MB are free, "
                f"it takes {needed / 1e6:.0f} MB or more); {good[0] if good else 'no earlier one'} stays good; "
                "make room and give the same command again"
            ) from error

    return call


def _forget(folder: RunFolder, attempt: int, keep: Keep) -> None:
    """Remove what need not be kept, and what older attempts left unfinished.

    A newer attempt claims first and looks at the checkpoints then: either its claim is seen here and nothing is removed, or it finds
    the checkpoint that was completed just before and starts from that one, which is kept."""
    if superseded(folder, attempt):
        return
    kept = keep.of(trusted(folder))
    for path in folder.checkpoints.glob("step_*.a*"):
        if kept and path not in kept and int(path.name.rpartition(".a")[2]) <= attempt:
            remove(path)


def remove(path: Path) -> None:
    """Remove a checkpoint, COMPLETE first: a part of one is never taken for whole. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        (path / "COMPLETE").unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
