"""Nodes that die under a job: Slurm starts it again elsewhere, and what the orphans still do cannot hurt the run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.run_folder import read_json
from tests.slurm.box import Box
from tests.slurm.conftest import wait_for
from tests.slurm.small_run import EVERY, PATIENCE, STEPS, SmallRun

pytestmark = [pytest.mark.slurm, pytest.mark.cluster]
HELD = 8  # the step at which the disaster happens
SAVED = HELD // EVERY * EVERY


def test_orphans_that_train_on_beside_the_new_start(box: Box, undisturbed: Callable[[int], SmallRun], packed: Path, tmp_path: Path) -> None:
    reference = undisturbed(2)
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 2)
    with run.held(after=HELD) as orphans:
        for node in ("n1", "n2"):
            box.kill_slurmd(node)
        wait_for(lambda: run.step(attempt=2) > SAVED, PATIENCE)
    # the orphans go on where they were, with all they need: but for the newer attempt they would save step 10, 15, ... too
    run.check_whole(reference)
    wait_for(lambda: not set(orphans) & set(run.ranks()), PATIENCE)
    assert [(r["host"], r["step"]) for r in run.records("start")] == [("n1", 0), ("n3", SAVED)]  # n3 and n4 are all that is left
    whole = {path.parent.name for path in run.folder.checkpoints.glob("*/COMPLETE")}
    assert whole == {f"step_{STEPS}.a2", f"step_{(STEPS - 1) // EVERY * EVERY}.a2"}
    said = [read_json(path) for path in run.unit.errors.glob("*.0.1.*.json")]
    assert {entry["rank"] for entry in said} == {0, 1}
    assert all("a newer attempt has taken over" in entry["message"] for entry in said)
    assert run.slurm()["Restarts"] == "1"
    assert [end.tag for end in run.ends() if end.cause == "finished"] == [f"{run.job}.1.1"]


def test_a_cut_link(box: Box, undisturbed: Callable[[int], SmallRun], packed: Path, tmp_path: Path) -> None:
    reference = undisturbed(2)
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 2)
    with run.held(after=HELD):
        box.cut("n2")
    run.check_whole(reference)  # half a minute of waiting for each other, until Slurm gives the node up
    assert [r["step"] for r in run.records("start")] == [0, SAVED]
    assert run.slurm()["Restarts"] == "1"
    assert "n2" not in run.ends()[-1].nodes
    box.mend("n2")
    wait_for(lambda: not run.ranks(), PATIENCE)  # the orphan on n2 ends too
    run.check_whole(reference)


def test_without_a_spare_it_waits_for_the_node(box: Box, undisturbed: Callable[[int], SmallRun], packed: Path, tmp_path: Path) -> None:
    reference = undisturbed(4)
    run = SmallRun.submitted(box, tmp_path / "runs", packed, 4)
    with run.held(after=HELD):
        box.kill_slurmd("n3")
        wait_for(lambda: run.slurm()["JobState"] == "PENDING", PATIENCE)
    box.start_slurmd("n3")
    run.check_whole(reference)
    assert [r["step"] for r in run.records("start")] == [0, SAVED]
    assert run.ends()[-1].nodes == ["n1", "n2", "n3", "n4"]
    assert run.slurm()["Restarts"] == "1"
