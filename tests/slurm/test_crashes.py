"""Ranks that crash: once, always, or on one host."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.box import Box
from tests.slurm.conftest import launch, wait_for
from tests.slurm.small_run import EVERY, PATIENCE, SmallRun

pytestmark = [pytest.mark.slurm, pytest.mark.cluster]


def test_a_rank_killed_once_goes_on_in_the_same_place(
    box: Box, undisturbed: Callable[[int], SmallRun], packed: Path, tmp_path: Path
) -> None:
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 2)
    with run.held(after=8):
        (pid,) = run.ranks("n2")
        os.kill(pid, signal.SIGKILL)
    run.check_whole(undisturbed(2))
    assert run.decisions() == [("crash", "again"), ("finished", "done")]
    first, second = run.ends()
    assert (first.host, first.error, first.step_after) == ("n2", "rank 1 on n2: Killed", EVERY)
    assert first.nodes == second.nodes
    assert run.slurm()["Restarts"] == "0"


def test_a_rank_that_always_crashes(box: Box, packed: Path, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.mkdir()
    (fault / "sitecustomize.py").write_text(
        "import sys\n"
        "class NoLibrary:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'deepspeed':\n"
        "            raise ImportError('libcudart.so.12: cannot open shared object file')\n"
        "sys.meta_path.insert(0, NoLibrary())\n"
    )
    python = python_where(tmp_path, f'[ "$SLURM_PROCID" != 1 ] || export PYTHONPATH="{fault}:$PYTHONPATH"')
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 2, python)
    first = run.job
    wait_for(lambda: len(run.ends()) == 3, PATIENCE)
    run.wait_over()
    assert run.slurm()["JobState"] == "FAILED"
    # twice on n2, so that it is left out; the third time on another host: it is not the host
    assert run.decisions() == [("crash", "again"), ("crash", "resubmit"), ("crash", "stop")]
    last = run.ends()[-1]
    assert [end.host for end in run.ends()] == ["n2", "n2", last.nodes[1]] and "n2" not in last.nodes
    assert last.error == f"rank 1 on {last.host}: ImportError: libcudart.so.12: cannot open shared object file"
    assert "3 crashes in a row without progress" in last.why
    assert (run.submission.exclude, run.submission.carried) == (["n2"], [first])
    shown = launch("status", "run", "--runs", str(tmp_path / "runs"))
    assert "libcudart.so.12" in shown.stdout
    assert not run.folder.result.exists()


def test_a_bad_host_is_left_out_where_another_is_free(box: Box, packed: Path, tmp_path: Path) -> None:
    python = python_where(tmp_path, '[ "$SLURMD_NODENAME" != n2 ] || { echo "no GPU"; exit 1; }')
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 2, python)
    wait_for(lambda: run.submission.history, PATIENCE)
    run.check_whole()
    assert run.decisions() == [("crash", "again"), ("crash", "resubmit"), ("finished", "done")]
    assert len(run.ends()[-1].nodes) == 2 and "n2" not in run.ends()[-1].nodes
    assert run.records("start")[-1]["world"] == 2


def test_a_bad_host_shrinks_the_ranks_where_none_is_free(box: Box, packed: Path, tmp_path: Path) -> None:
    python = python_where(tmp_path, '[ "$SLURMD_NODENAME" != n3 ] || { echo "no GPU"; exit 1; }')
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 4, python)
    run.check_whole()
    assert run.decisions() == [("crash", "again"), ("crash", "again"), ("finished", "done")]
    assert run.ends()[1].words == ["--exclude=n3", "--nodes=2", "--ntasks=2"]  # three would not divide a batch of eight
    assert run.records("start")[-1]["world"] == 2
    assert run.slurm()["Restarts"] == "0"


def python_where(folder: Path, line: str) -> str:
    """A profile's line: a Python before which every rank runs a line of shell."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$*" in *submitit*) {line} ;; esac\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return f'python = "{path}"'
