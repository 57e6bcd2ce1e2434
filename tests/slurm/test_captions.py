"""Captions as an array of forty slices on a real Slurm: tasks killed at random and a node cut off lose no clip and double none."""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from jobs import caption_slices as slices
from launch.unit import Unit
from shards.synthetic import write_synthetic
from tests.slurm.box import Box
from tests.slurm.conftest import launch, wait_for

SLICES, EACH = 40, 6
KILLS = 10
PATIENCE = 200.0  # seconds for what takes sixty on an idle machine
# a disk on which every fsync takes its time: the kills come in the middle of slices, and no processor is used up
SLOW_DISK = """import os, time
real = os.fsync
def fsync(handle):
    real(handle)
    time.sleep(0.2)
os.fsync = fsync
"""


def tasks(box: Box, logs: Path, *nodes: str) -> dict[int, str]:
    """{process id: element of the array} of the captioning tasks on these nodes."""
    found = {}
    for pid in (pid for node in nodes for pid in box.pids(node)):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if "submitit.core._submit" in words and str(logs) in words and "srun" not in words[0]:
                environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
                found[pid] = next(line.partition("=")[2] for line in environment if line.startswith("SLURM_ARRAY_TASK_ID="))
    return found


def begun(out: Path) -> list[str]:
    """Slices with some records, but not all."""
    plan = slices.read_plan(out)
    return [name for name in plan.unfinished if 0 < len(slices.written(out, name)) < plan.size(name)]


def writing(out: Path) -> set[int]:
    """Process ids that are in the middle of a slice."""
    newest = [path for name in begun(out) for _, path in slices.attempts(out, name)[-1:]]
    return {head["pid"] for path in newest for head in slices.read_attempt(path)[:1]}  # claimed this moment, it is empty


def test_forty_slices_of_which_many_are_killed(box: Box, tmp_path: Path) -> None:
    raw, out, runs = tmp_path / "raw", tmp_path / "captions", tmp_path / "runs"
    assert write_synthetic(raw, subjects=6, cameras=(1, 2), actions=20, frames=(20, 30), jobs=2) == SLICES * EACH
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(SLOW_DISK)
    python = tmp_path / "python"
    # the packages of a task are on the path already: this comes first
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *submitit*) export PYTHONPATH="{tmp_path}/fault:$PYTHONPATH" ;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    profile = tmp_path / "profile.toml"
    profile.write_text(f'cpus_per_task = 1\ntime = "20"\npython = "{python}"\n')
    command = ["--data", raw, "--out", out, "--captioner", "motion", "--all", "--slice", str(EACH), "--batch", "1"]
    where = ["--cluster", "slurm", "--cluster-profile", profile, "--array", "12"]
    foretold = launch("caption", *command, *where, "--dry-run", ACSAR_RUNS=str(runs))
    assert f"#SBATCH --array=0-{SLICES - 1}%12" in foretold.stdout and not out.exists(), foretold.stderr
    submitted = launch("caption", *command, *where, "--json", ACSAR_RUNS=str(runs))
    assert submitted.returncode == 0, submitted.stderr
    told = json.loads(submitted.stdout)
    assert (told["slices"], told["clips"]) == (SLICES, SLICES * EACH) and len(told["jobs"]["gather"]) == 1
    unit = Unit(runs / "caption-captions", "caption")

    wait_for(lambda: tasks(box, unit.logs, "n3") and begun(out), PATIENCE, every=0.05)
    box.cut("n3")  # its tasks do not notice: they go on writing, and Slurm starts their slices again elsewhere
    assert tasks(box, unit.logs, "n3")
    rng, killed = random.Random(0), Counter[str]()
    while killed.total() < KILLS and slices.read_plan(out).unfinished:
        # three in a row before the first clip would be a slice that crashes, which a person has to look at
        alive = {pid: element for pid, element in tasks(box, unit.logs, "n1", "n2", "n4").items() if killed[element] < 2}
        # every other one in the middle of its slice; the others wherever they are
        if chosen := sorted(writing(out) & set(alive) if killed.total() % 2 == 0 else alive):
            pid = rng.choice(chosen)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed[alive[pid]] += 1
                time.sleep(rng.uniform(0.0, 0.6))
        time.sleep(0.1)
    seen = launch("status", "caption-captions", "--runs", runs)
    assert f"/{SLICES * EACH} clips" in seen.stdout and f"/{SLICES} parts" in seen.stdout, seen.stdout

    report = out / "report.json"
    wait_for(lambda: report.is_file() or not box.run("squeue", "-h"), PATIENCE)
    assert report.is_file(), box.run("squeue") + launch("status", "caption-captions", "--runs", runs).stdout
    wait_for(lambda: not box.run("squeue", "-h"), 60)
    check_whole(out)
    heads = {name: [slices.read_attempt(path)[0] for _, path in slices.attempts(out, name)] for name in slices.read_plan(out).names}
    again = [head for found in heads.values() for head in found[1:]]
    assert killed.total() == KILLS and len(again) >= KILLS // 2
    assert any(0 < head["known"] < EACH for head in again), "no slice was taken up in its middle"
    assert any(found[0]["host"] == "n3" for found in heads.values())
    box.mend("n3")

    before = (out / slices.CAPTIONS).read_bytes()
    third = launch("caption", *command, *where, "--wait", "--json", ACSAR_RUNS=str(runs))
    assert third.returncode == 0, third.stderr
    assert third.stderr.count("finished before") == 2 and (out / slices.CAPTIONS).read_bytes() == before


def check_whole(out: Path) -> None:
    """Every clip of the plan has exactly one record, in the slices and in the whole, and what it says is that of a run nobody disturbed."""
    plan = slices.read_plan(out)
    keys = [clip["key"] for clip in slices.clips_of(plan)]
    assert len(keys) == len(set(keys)) == SLICES * EACH
    assert [record["key"] for name in plan.names for record in slices.read_slice(out, name)] == keys
    records = [json.loads(line) for line in (out / slices.CAPTIONS).read_text().splitlines()]
    assert [record["key"] for record in records] == keys and all(record["text"] for record in records)
