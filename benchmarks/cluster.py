"""What a cluster costs: from submission to the first step on four nodes, from a signal to the exit, a save and a resume.

python -m benchmarks.cluster        The four nodes are a real Slurm on this machine (tests/slurm/box.py), which takes root.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

import acsar
from acsar.encoder import FRAMES
from acsar.recipes import RECIPES
from acsar.types import Batch
from benchmarks.table import Row, show
from jobs import checkpoint, journal
from jobs import engine as deepspeed
from jobs.run_folder import RunFolder
from jobs.schedule import Schedule
from launch.evidence import read_end
from launch.unit import Unit
from tests.clips import TINY, packed_clips
from tests.slurm.box import Box, missing, sweep

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3
NODES = 4
PATIENCE = 300.0
STARTS = ("command to its prompt", "submission to first step", "signal to saved", "signal to exit")
FULL_SIZE = "acsar"

Found = TypeVar("Found")


def measure() -> list[Row]:
    """Medians of three; of one at full size, whose checkpoint is 1.1 GB."""
    rows = [row for recipe in ("demo", "acsar-small", FULL_SIZE) for row in of_checkpoints(recipe)]
    why = missing()
    if why:
        return [Row(f"{NODES}-node job, {name}", None, "s", why=why) for name in STARTS] + rows
    return of_jobs() + rows


def of_jobs() -> list[Row]:
    """Seconds of a job of four nodes, one rank each, with a tiny network: what remains is what every job pays."""
    sweep()
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory(prefix="acsar-box-") as root:
        box = Box(Path(root), nodes=NODES, owned=True).up()
        try:
            packed = packed_clips(Path(place))
            taken = [_job(box, packed, Path(place) / "runs", f"r{i}") for i in range(REPEATS)]
        finally:
            box.down()
    return [Row(f"{NODES}-node job, {name}", median(values), "s") for name, values in zip(STARTS, zip(*taken))]


def of_checkpoints(recipe: str) -> list[Row]:
    """A save (hashed and on disk) and a resume (hashes checked, loaded) by one rank; the file system is that of temporary files."""
    repeats = 1 if recipe == FULL_SIZE else REPEATS
    r = RECIPES[recipe]
    schedule, saves, resumes, size = Schedule(10, r.lr), list[float](), list[float](), 0
    with deepspeed.join() as ranks, tempfile.TemporaryDirectory() as place, journal.Journal(Path(place) / "journal.jsonl") as records:
        folder = RunFolder(Path(place))
        method = acsar.build(r.method).train()
        engine = deepspeed.wrap(method, ranks, batch_size=2, momentum=r.momentum, weight_decay=r.weight_decay, zero=0, bf16=False)
        deepspeed.set_lr(engine, schedule(0))
        engine.backward(torch.stack(list(engine(_batch(2).to(ranks.device), 0).values())).sum())
        engine.step()
        for _ in range(repeats):
            start = checkpoint.begin(folder, ranks, 0, {})
            saves.append(_seconds(lambda start=start: checkpoint.save(engine, folder, start.attempt, 1, ranks, records, checkpoint.Keep())))
            size = sum(file.stat().st_size for file in folder.checkpoint(1, start.attempt).iterdir())

            def resume() -> None:
                checkpoint.resume(engine, folder, checkpoint.begin(folder, ranks, 0, {}), schedule)

            resumes.append(_seconds(resume))
        engine.destroy()
    found = []
    for what, spent in (("save", saves), ("resume", resumes)):
        found.append(Row(f"checkpoint of {recipe}, {size / 1e6:.1f} MB, {what}", 1e3 * median(spent), "ms"))
        found.append(Row(f"checkpoint of {recipe}, {what}", size / 1e6 / median(spent), "MB/s"))
    return found


def _job(box: Box, packed: Path, runs: Path, name: str) -> tuple[float, ...]:
    """One job, in the order of STARTS."""
    unit = Unit(runs / name, "joint")
    runs.mkdir(exist_ok=True)
    profile = runs / "profile.toml"
    profile.write_text('cpus_per_task = 1\ntime = "20"\n')
    where = ["--cluster", "slurm", "--cluster-profile", profile, "--runs", runs, "--name", name, "--no-track", "--data", packed]
    what = ["--recipe", "scdnet-small", "--streams", "joint", "--steps", "100000", "--evaluate-every", "0", "--nodes", NODES, *TINY]
    began = time.time()
    command = [sys.executable, str(ROOT / "launch" / "pretrain.py"), *map(str, [*where, *what])]
    done = subprocess.run(command, env={**os.environ, **box.env}, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise SystemExit(f"the submission failed: {done.stderr}")
    prompt = time.time()
    submission = unit.submitted()
    assert submission is not None

    def record(kind: str) -> journal.Record | None:
        return next((r for r in journal.read(unit.folder) if r["type"] == kind), None)

    first = _wait(lambda: record("step"), unit)
    time.sleep(3)  # some steps more
    asked = time.time()
    box.run("scancel", "--signal=USR2", submission.job_of(0))
    saved = _wait(lambda: record("end"), unit)
    left = _wait(lambda: next((end for end in map(read_end, unit.ends.glob("*.json")) if end), None), unit)
    box.run("scancel", submission.job_of(0))
    box.reset()
    return prompt - began, first["time"] - submission.time, saved["time"] - asked, left.time - asked


def _wait(look: Callable[[], Found | None], unit: Unit) -> Found:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found is not None:
            return found
        time.sleep(0.1)
    raise SystemExit(f"nothing within {PATIENCE:.0f} s; see the logs below {unit.logs}")


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _batch(rows: int) -> Batch:
    ids = torch.arange(rows)
    clips = torch.randn(rows, 3, FRAMES, 25, 2, generator=torch.Generator().manual_seed(0))
    return Batch(clips, torch.full((rows,), FRAMES), ids, [str(i) for i in range(rows)], torch.ones(rows, 77, 512), ids)


if __name__ == "__main__":
    show(measure())
