"""Slices of captioning: what starting again costs, what the stage itself takes per clip, and the useful share of an array's time.

python -m benchmarks.slices [--size small|1b]

Seconds of processor time, so that what else the machine does changes them little; `read` is what loading the weights took by the clock.
The useful share is arithmetic: describing time over all time of a job that loads its model once and describes 500 clips.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.table import Row, show
from jobs import caption_slices as slices
from jobs.caption import Caption
from jobs.stages import write_job
from shards.synthetic import write_synthetic

SLICE, RECORD = 500, 1500  # clips, bytes of a record
RATES = (0.5, 1.0, 4.0)  # clips/s of a model
OVERHEAD = 5.0  # seconds of a job before Python runs: the scheduler's start, a look at the nodes, srun (docs/log.md)


def stage() -> list[Row]:
    """The stage without a captioner: records onto the disk, a slice finished and read again."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        keys = [f"K{i:06d}" for i in range(SLICE)]
        slices.write_plan(out, {}, [{"key": key} for key in keys], SLICE)
        began = time.perf_counter()
        attempt = slices.Attempt.begin(out, "0000")
        for at in range(0, SLICE, 32):
            attempt.append([{"key": key, "text": "x" * RECORD} for key in keys[at : at + 32]])
        attempt.finish(keys)
        wrote = time.perf_counter() - began
        began = time.perf_counter()
        again = slices.Attempt.begin(out, "0000")
        known = time.perf_counter() - began
        assert len(again.known) == SLICE
        return [
            Row(f"{SLICE} records in batches of 32, each on the disk, and the slice finished", wrote, "s"),
            Row(f"taking up a slice with {SLICE} records", known, "s"),
        ]


def restarts(size: str) -> list[Row]:
    """A process that takes up a half-done slice: its processor time without and with a model, and the model's load by the clock."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_synthetic(folder / "raw", subjects=2, cameras=(2,), actions=4, frames=(20, 24), videos=True)
        motion = Caption(folder / "motion", data=folder / "raw", all=True, batch=1)
        rows.append(Row("restart inside a slice, motion", _restart(motion, folder)[0], "s"))
        model = replace(motion, out=folder / "model", videos=folder / "raw" / "videos", detector="none", model=str(_model(folder, size)))
        work, told = _restart(replace(model, captioner="ovis2", max_tokens=1, tiles=1, height=112, device="cpu"), folder)
        rows.append(Row(f"restart inside a slice, Ovis2 of size {size} with random weights", work, "s"))
        rows.append(Row(f"read: weights of size {size} and their classes", told["load_s"], "s"))
    return rows


def _model(folder: Path, size: str) -> Path:
    """A model's files with random weights."""
    from tests.tiny_models import tiny_ovis2

    if size == "small":
        return tiny_ovis2(folder / "weights")
    from benchmarks.caption_model import model

    made = model(size, "cpu", 1, 1)
    made.network.save_pretrained(folder / "weights")
    made.processor.save_pretrained(folder / "weights")
    return folder / "weights"


def _restart(job: Caption, folder: Path) -> tuple[float, dict[str, Any]]:
    """(processor seconds of a process that has one clip left to do, what it says)."""
    plan, _ = job.plan()
    entries = slices.clips_of(plan, "0000")
    attempt = slices.Attempt.begin(job.out, "0000")
    attempt.append([{"key": entry["key"], "text": "done before", "provenance": "vlm"} for entry in entries[:-1]])
    description = write_job(job, folder / f"{job.out.name}.json")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.worker", str(description), "0000", "caption"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(done.stdout)


def shares(load_s: float) -> list[Row]:
    """The share of a job's time in which clips are described, at SLICE clips and one load of the model."""
    return [
        Row(f"useful share at {rate:g} clips/s, load {load_s:g} s, {SLICE} clips", SLICE / rate / (SLICE / rate + load_s + OVERHEAD), "")
        for rate in RATES
    ]


def main() -> None:
    """Print all of it as one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=("small", "1b"), default="small")
    size = parser.parse_args().size
    rows = [*stage(), *restarts(size)]
    show([*rows, *shares(10.0), *shares(60.0)])


if __name__ == "__main__":
    main()
