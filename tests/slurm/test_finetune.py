"""Fine-tuning and semi-supervised classifiers as jobs of a real Slurm: several nodes, a pre-emption, one result."""

import json
from pathlib import Path

import pytest

from jobs.run_folder import read_json
from launch.unit import Unit
from tests.moves import finished_run, packed_moves
from tests.slurm.box import Box
from tests.slurm.conftest import launch
from tests.slurm.small_run import STEPS, SmallRun

pytestmark = [pytest.mark.slurm, pytest.mark.cluster]


def tuned(box: Box, run: Path, name: str, *words: str) -> SmallRun:
    """A trial of the joint stream on two nodes, submitted."""
    profile = run.parent / "profile.toml"
    profile.write_text('cpus_per_task = 1\ntime = "20"\n')
    where = ["--cluster", "slurm", "--cluster-profile", profile, "--run", run, "--name", name, "--nodes", "2", *words]
    done = launch("finetune", *where, "--streams", "joint", "--steps", str(STEPS), "--batch-size", "8", "--save-every", "5")
    assert done.returncode == 0, done.stderr
    return SmallRun(box, Unit(run / "finetune" / name, "joint"), run, 2)


def test_a_pre_empted_trial_goes_on_and_loses_nothing(box: Box, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "runs" / "tiny", packed_moves(tmp_path / "packed"))
    reference = tuned(box, run, "undisturbed", "--wait")
    trial = tuned(box, run, "disturbed")
    with trial.held(after=6) as ranks:
        assert len(ranks) == 2
        box.run("sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    trial.check_whole(reference)
    assert trial.decisions() == [("preempted", "requeue"), ("finished", "done")]
    result, expected = (read_json(one.folder.result) for one in (trial, reference))
    assert (result["top1"], result["n"]) == (expected["top1"], 24) and result["attempts"] == 2
    status = launch("status", "disturbed", "--runs", trial.unit.run.parent, "--json")
    (view,) = json.loads(status.stdout)["comparisons"]["disturbed"]
    assert (view["state"], view["stage"], view["step"]) == ("finished", "finetune", STEPS)


def test_few_labels_as_a_job(box: Box, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "runs" / "tiny", packed_moves(tmp_path / "packed"))
    words = ["--run", run, "--fractions", "0.5", "--repeats", "2", "--cluster", "slurm", "--wait", "--json"]
    done = launch("semi", *words)
    assert done.returncode == 0, done.stderr
    told, kept = json.loads(done.stdout)["joint"], read_json(run / "semi" / "split" / "joint.json")
    assert told["sentences"] == kept["sentences"] and told["encoder_sha256"] == kept["encoder_sha256"]
    assert told["rows"][0]["mean"] == pytest.approx(kept["rows"][0]["mean"]) and len(kept["rows"][0]["repeats"]) == 2
