"""Jobs that Slurm interrupts in the middle of training: they save, leave in time, come back once, and lose nothing."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.slurm.box import Box
from tests.slurm.conftest import wait_for
from tests.slurm.small_run import EVERY, PATIENCE, SmallRun, pending

pytestmark = [pytest.mark.slurm, pytest.mark.cluster]


def test_pre_empted_in_the_middle(
    box: Box, undisturbed: Callable[[int], SmallRun], packed: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    reference = undisturbed(4)
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 4)
    with run.held(after=8) as ranks:
        assert len(ranks) == 4
        box.run("sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
        wait_for(lambda: all(pending(pid, signal.SIGUSR2) for pid in ranks), PATIENCE)
        asked = time.monotonic()
    wait_for(run.ends, PATIENCE, every=0.02)
    seconds = time.monotonic() - asked
    record_property("seconds from signal to decision", round(seconds, 2))
    assert seconds < box.grace / 2
    run.check_whole(reference)
    assert run.decisions() == [("preempted", "requeue"), ("finished", "done")]
    assert run.slurm()["Restarts"] == "1"
    assert run.records("start")[1]["step"] == run.ends()[0].step_after >= 8  # saved where it was asked to leave, and gone on from there
    assert [record["status"] for record in run.records("end")] == ["interrupted", "finished"]
    log = run.unit.log(run.job).read_text()
    assert f"{run.job}.0.1: starts on 4 node(s)" in log and f"{run.job}.1.1: starts on 4 node(s)" in log


def test_timed_out_in_the_middle(
    box: Box, undisturbed: Callable[[int], SmallRun], packed: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    reference = undisturbed(4)
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 4, "signal_s = 60")
    with run.held(after=8) as ranks:
        # one to two minutes are left, of which Slurm announces the end a minute (and up to half a minute more) ahead
        minutes = time_limit(run, ahead=1)
        wait_for(lambda: all(pending(pid, signal.SIGUSR2) for pid in ranks), PATIENCE)
        asked = time.monotonic()
    wait_for(run.ends, PATIENCE, every=0.02)
    record_property("seconds from signal to decision", round(time.monotonic() - asked, 2))
    time_limit(run, minutes + 20)
    run.check_whole(reference)
    assert run.decisions() == [("timeout", "requeue"), ("finished", "done")]
    assert run.slurm()["Restarts"] == "1"
    assert run.records("start")[1]["step"] == run.ends()[0].step_after >= 8


def test_ranks_that_hang_beyond_the_time_limit(box: Box, undisturbed: Callable[[int], SmallRun], packed: Path, tmp_path: Path) -> None:
    reference = undisturbed(4)
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 4)
    with run.held(after=8) as ranks, hanging(ranks):
        time_limit(run, 1)
        wait_for(lambda: not run.ranks(), PATIENCE)  # Slurm has ended them
        wait_for(lambda: run.slurm()["Restarts"] == "1", PATIENCE)
        time_limit(run, 20)
    run.check_whole(reference)
    assert run.decisions() == [("timeout", "requeue"), ("finished", "done")]
    assert run.slurm()["Restarts"] == "1"
    assert run.records("start")[1]["step"] == run.ends()[0].step_after == EVERY  # the newest checkpoint from before


def test_cancelled_jobs_stay_away(box: Box, packed: Path, tmp_path: Path) -> None:
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 2)
    with run.held(after=8):
        box.run("scancel", run.job)
    run.wait_over()
    time.sleep(2)
    assert run.slurm()["JobState"] == "CANCELLED"
    assert run.slurm()["Restarts"] == "0"
    assert run.decisions() == [("cancelled", "stop")]


def time_limit(run: SmallRun, minutes: int = 0, ahead: int = 0) -> int:
    """Set the job's time limit: in minutes, or so many whole minutes from now; the limit."""
    if ahead:
        hours, minute, _ = map(int, run.slurm()["RunTime"].split(":"))
        minutes = 60 * hours + minute + 1 + ahead
    run.box.run("scontrol", "update", f"JobId={run.job}", f"TimeLimit={minutes}")
    return minutes


@contextmanager
def hanging(ranks: list[int]) -> Iterator[None]:
    """Ranks that stand still and stay so although Slurm tells them to go on: as in a read from a disk that is gone."""
    over = threading.Event()

    def hold() -> None:
        while not over.wait(0.002):
            for pid in ranks:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
