"""The whole chain as jobs that wait for each other: what is missing is submitted, what cannot run is cancelled, nothing is stuck."""

import json
from pathlib import Path

import pytest

from launch import scheduler
from launch.unit import Unit, units
from shards.stream import PackedSet
from tests.clips import TINY
from tests.slurm.conftest import launch, wait_for

TEXTS = ["caption", "captions", "encode-text"]
STAGES = [*TEXTS, "pack", "joint", "bone", "probe", "fuse"]
pytestmark = pytest.mark.usefixtures("box")


def state(unit: Unit) -> set[str]:
    """Slurm's states of the unit's newest jobs."""
    submission = unit.submitted()
    assert submission is not None
    return {job.state for job in scheduler.jobs(submission.job_ids()).values()}


def test_a_chain_breaks_is_mended_and_does_only_what_is_missing(packed: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    raw = ["--data", packed.parent / "moves.npz", "--runs", runs, "--name", "chain", "--no-track", "--cluster", "slurm", "--nodes", "2"]
    flags = ["--recipe", "scdnet-small", "--streams", "joint,bone", "--steps", "2", *TINY]
    flags += ["--describe", "--caption.slice", "5", "--caption.gate", "report", "--encode.encoder", "hash"]
    # the queue's length can only be judged once the data are packed: the streams refuse, and nothing after them may wait for ever
    first = launch("pipeline", *raw, *flags, "--method.queue", "16", "--json")
    assert first.returncode == 0, first.stderr
    jobs = json.loads(first.stdout)["jobs"]
    assert list(jobs) == STAGES
    wait_for(lambda: all(map(scheduler.over, {s for unit in units(runs / "chain") for s in state(unit)})), 300)
    states = {unit.key: state(unit) for unit in units(runs / "chain")}
    done, failed, never = {"COMPLETED"}, {"FAILED"}, {"CANCELLED"}
    ends = {"pack": done, "joint": failed, "bone": failed, "probe": never, "fuse": never}
    assert states == {**dict.fromkeys(TEXTS, done), **ends}
    assert "--allow-large-queue" in Unit(runs / "chain", "joint").log(jobs["joint"][0]).read_text()

    second = launch("pipeline", *raw, *flags, "--method.queue", "8", "--json")
    assert second.returncode == 0, second.stderr
    again = json.loads(second.stdout)["jobs"]
    assert list(again) == STAGES[4:] and not {job for ids in again.values() for job in ids} & {job for ids in jobs.values() for job in ids}
    assert launch("pipeline", *raw, *flags, "--method.queue", "8").stderr.count("in the queue already") >= 4
    wait_for(lambda: all(map(scheduler.over, {s for unit in units(runs / "chain") for s in state(unit)})), 400)
    assert {s for unit in units(runs / "chain") for s in state(unit)} == {"COMPLETED"}
    fused = json.loads((runs / "chain" / "fuse" / "split.json").read_text())
    assert fused["streams"] == ["joint", "bone"] and fused["n"] == 24

    third = launch("pipeline", *raw, *flags, "--method.queue", "8", "--json")
    assert third.returncode == 0 and json.loads(third.stdout)["jobs"] == {key: [] for key in STAGES[4:]}
    assert third.stderr.count("finished before") == 4
    told = PackedSet.open(json.loads((runs / "chain" / "joint" / "config.json").read_text())["job"]["data"]).manifest["text"]
    assert told is not None and (told["provenance"], told["encoder"]) == ("motion", "hash")
    shown = launch("fuse", "--run", runs / "chain", "--cluster", "slurm", "--wait", "--json")
    assert shown.returncode == 0 and json.loads(shown.stdout)["streams"] == ["joint", "bone"]
