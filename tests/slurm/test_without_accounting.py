"""Accounting is off, and the controller forgets jobs that are over: status and retry still tell the truth, from files and the queue."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.journal import read
from launch import scheduler
from launch.unit import Unit
from tests.slurm.box import Box
from tests.slurm.conftest import launch, new_box, wait_for
from tests.slurm.test_status import PATIENCE, status, submit, trains


@pytest.fixture
def bare(slurm: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A box without accounting whose controller forgets jobs some seconds after their end."""
    up = new_box(accounting=False)
    try:
        up.conf.write_text(up.conf.read_text().replace("MinJobAge=86400", "MinJobAge=2"))
        up.run("scontrol", "reconfigure")
        monkeypatch.setenv("SLURM_CONF", str(up.conf))
        yield up
    finally:
        up.down()


def kill_everything(box: Box, nodes: Sequence[str]) -> None:
    """kill -9 all that runs on the nodes but Slurm's own daemons; batch scripts first."""
    found = [(pid, name_of(pid)) for node in nodes for pid in box.pids(node)]
    for pid, name in sorted(found, key=lambda one: one[1] != "slurm_script"):
        if not name.startswith("slurmd") and not name.startswith("slurmstepd"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def name_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def test_status_and_retry_tell_the_truth_without_accounting(bare: Box, packed: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert not scheduler.accounting()
    submit(packed, runs, "joint", steps=6, name="short")
    wait_for(lambda: status(runs, "short")["joint"].state == "finished", PATIENCE, every=1)
    submit(packed, runs, "joint", profile=["signal_s = 5"])
    wait_for(lambda: trains(runs, "joint", 20), PATIENCE, every=0.5)
    first = status(runs)["joint"]

    # pre-empted: it saves, leaves, and stands in the queue again
    urgent = bare.run(
        "sbatch", "--parsable", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap", "sleep 3600"
    )
    wait_for(lambda: status(runs)["joint"].state == "requeued", PATIENCE, every=0.5)
    waiting = status(runs)["joint"]
    assert "preempted" in waiting.why and waiting.jobs == first.jobs and waiting.restarts == 1 and waiting.behind == 0
    bare.run("scancel", urgent)
    wait_for(lambda: trains(runs, "joint", waiting.step or 0), PATIENCE, every=0.5)
    assert status(runs)["joint"].attempts == 2

    # killed as a whole, the batch script first, so that nobody is left to write a last word
    job = first.jobs[0]
    kill_everything(bare, status(runs)["joint"].hosts)
    wait_for(lambda: job in scheduler.jobs([job]) and scheduler.over(scheduler.jobs([job])[job].state), 60)
    killed = status(runs)["joint"]
    assert killed.state == "killed" and "without a last word" in killed.why and f"job {job} ended" in killed.why, killed
    wait_for(lambda: job not in scheduler.jobs([job]), 240, every=1)
    forgotten = status(runs)["joint"]
    assert forgotten.state == "killed" and f"Slurm no longer knows job {job}" in forgotten.why
    assert status(runs, "short")["joint"].state == "finished"

    # retry: only what is missing, from the newest checkpoint, and only once
    again = launch("retry", "one", "--runs", runs, "--json")
    assert again.returncode == 0, again.stderr
    (done,) = json.loads(again.stdout)["units"]
    assert done["action"] == "submitted" and done["jobs"] != [job]
    (left,) = json.loads(launch("retry", "short", "--runs", runs, "--json").stdout)["units"]
    assert left["action"] == "left" and left["why"] == "finished"
    wait_for(lambda: trains(runs, "joint", killed.step or 0), PATIENCE, every=0.5)
    (left,) = json.loads(launch("retry", "one", "--runs", runs, "--json").stdout)["units"]
    assert left["action"] == "left" and status(runs)["joint"].jobs == done["jobs"]
    steps = [record["step"] for record in read(Unit(runs / "one", "joint").folder) if record["type"] == "step"]
    assert steps == list(range(1, len(steps) + 1)) and status(runs)["joint"].attempts == 3

    # a controller that is gone: files tell what they can, and nothing is submitted on top of what may still run
    pid = int((bare.root / "run" / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not scheduler.answers(), 60)
    seen = status(runs)["joint"]
    assert seen.state == "running" and "Slurm does not answer" in seen.why
    refused = launch("retry", "one", "--runs", runs)
    assert refused.returncode == 2 and "nothing was submitted" in refused.stderr
