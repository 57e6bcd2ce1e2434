"""What a user can get wrong on a cluster: one line with the scheduler's own words, exit code 2, and nothing left in the queue."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.unit import Unit
from tests.clips import TINY
from tests.moves import finished_run, packed_moves
from tests.slurm.box import Box
from tests.slurm.conftest import ROOT, launch, new_box, wait_for

COMMANDS = ("sinfo", "squeue", "scontrol", "sacct", "scancel", "srun", "sbatch")


def words(packed: Path, runs: Path, *more: str | Path) -> list[str | Path]:
    """The command line of one tiny stream on Slurm."""
    what = [
        "--data",
        packed,
        "--runs",
        runs,
        "--name",
        "run",
        "--recipe",
        "scdnet-small",
        "--streams",
        "joint",
        "--steps",
        "4",
        "--no-track",
    ]
    return [*what, *TINY, "--cluster", "slurm", *more]


def refused(ended: "subprocess.CompletedProcess[str]", told: str) -> None:
    """The command ended with one line that says it, and code 2."""
    assert ended.returncode == 2, ended.stderr
    assert told in ended.stderr.strip().splitlines()[-1] and "Traceback" not in ended.stderr


def profile(path: Path, text: str) -> list[str | Path]:
    """A cluster profile as flags."""
    path.write_text(text)
    return ["--cluster-profile", path]


def commands_without(folder: Path, *left_out: str) -> str:
    """A PATH that has Slurm's commands but these."""
    folder.mkdir()
    for name in (*COMMANDS, "git"):
        found = shutil.which(name)
        if found and name not in left_out:
            (folder / name).symlink_to(found)
    return str(folder)


def test_slurm_s_commands_are_missing(box: Box, packed: Path, tmp_path: Path) -> None:
    refused(launch("pretrain", *words(packed, tmp_path), PATH=commands_without(tmp_path / "none", *COMMANDS)), "--cluster slurm")
    refused(launch("pretrain", *words(packed, tmp_path), PATH=commands_without(tmp_path / "some", "sbatch")), "sbatch is not on the PATH")
    refused(launch("pretrain", *words(packed, tmp_path), SLURM_CONF=os.devnull), "no controller answers")
    assert not box.run("squeue", "-h", "-t", "all", "-n", "run-joint")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('constraint = "a100"', "Invalid feature specification"),
        ('exclude = ["n77"]', "Invalid node name specified"),
        ("mem_gb = 4000", "Memory specification can not be satisfied"),
        ("gpus_per_node = 2", "Requested node configuration is not available"),
        ('sbatch = {begin = "yesterday at noon"}', "Invalid --begin specification"),
        ('partition = "mian"', "partition 'mian' does not exist; name one of"),
        ("cpus_per_task = 40", "a node of partition main has 4"),
        ('partitoin = "main"', "did you mean partition?"),
        ('time = "tomorrow"', "time"),
    ],
)
def test_the_cluster_profile_asks_for_what_is_not_there(text: str, told: str, box: Box, packed: Path, tmp_path: Path) -> None:
    refused(launch("pretrain", *words(packed, tmp_path / "runs", *profile(tmp_path / "profile.toml", text))), told)
    assert not box.run("squeue", "-h")
    assert Unit(tmp_path / "runs" / "run", "joint").submitted() is None


def test_a_refused_run_goes_once_the_profile_is_mended(box: Box, packed: Path, tmp_path: Path) -> None:
    refused(launch("pretrain", *words(packed, tmp_path, *profile(tmp_path / "profile.toml", 'constraint = "a100"'))), "Invalid feature")
    ended = launch("pretrain", *words(packed, tmp_path, "--wait", *profile(tmp_path / "profile.toml", 'time = "10"')))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "joint" / "result.json").is_file()


def test_more_than_the_partition_has(box: Box, packed: Path, tmp_path: Path) -> None:
    refused(launch("pretrain", *words(packed, tmp_path, "--nodes", "8")), "--nodes 8: partition main has 4 nodes")
    box.run("scontrol", "update", "PartitionName=urgent", "MaxTime=30")
    try:
        long = profile(tmp_path / "profile.toml", 'partition = "urgent"\ntime = "2:00:00"')
        refused(launch("pretrain", *words(packed, tmp_path, *long)), "partition urgent ends jobs after 30 minutes")
    finally:
        box.run("scontrol", "update", "PartitionName=urgent", "MaxTime=INFINITE")
    assert not box.run("squeue", "-h")


def test_runs_on_a_disk_that_no_node_has(box: Box, packed: Path) -> None:
    """The login node's own disk: the job cannot write a word, so status has to say it."""
    runs = box.node_local / "runs"
    try:
        ended = launch("pretrain", *words(packed, runs, "--nodes", "2", "--wait"))
        assert ended.returncode != 0 and "Traceback" not in ended.stderr
        assert "on a disk that all nodes share?" in ended.stderr
        told = json.loads(launch("status", "run", "--runs", runs, "--json").stdout)
        assert "on a disk that all nodes share?" in json.dumps(told) and str(runs) in json.dumps(told)
    finally:
        shutil.rmtree(runs)


def test_runs_on_a_disk_that_one_node_has(box: Box, packed: Path, tmp_path: Path) -> None:
    """Submitted on a node, inside a job, with its own disk for the runs: the other node finds out and names itself."""
    runs = box.node_local / "runs"
    pinned = profile(tmp_path / "profile.toml", 'cpus_per_task = 1\nsbatch = {nodelist = "n2,n3"}')
    typed = [sys.executable, ROOT / "launch" / "pretrain.py", *words(packed, runs, "--nodes", "2", "--wait", *pinned)]
    with pytest.raises(subprocess.CalledProcessError) as ended:
        box.run("srun", "--nodelist=n2", *typed, timeout=200)
    assert "n3: " in ended.value.stderr and f"{runs}/run/joint/logs is not there" in ended.value.stderr, ended.value.stderr
    assert "Traceback" not in ended.value.stderr
    (end,) = json.loads("[" + box.run("srun", "--nodelist=n2", "sh", "-c", f"cat {runs}/run/joint/logs/ends/*.json") + "]")
    assert (end["cause"], end["action"], end["code"]) == ("input", "stop", 2)
    job = end["job"]
    wait_for(lambda: box.run("sacct", "-n", "-X", "-o", "State,ExitCode", "-j", job).split() == ["FAILED", "2:0"], 30)


@pytest.fixture
def narrow(slurm: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A cluster whose arrays hold two elements."""
    up = new_box(nodes=2, max_array_size=2)
    monkeypatch.setenv("SLURM_CONF", str(up.conf))
    yield up
    up.down()


def test_an_array_above_the_cluster_s_limit_is_split(narrow: Box, tmp_path: Path) -> None:
    streams = ("joint", "bone", "motion")
    run = finished_run(tmp_path / "run", packed_moves(tmp_path / "packed"), streams)
    ended = launch("probe", "--run", run, "--cluster", "slurm", "--wait")
    assert ended.returncode == 0, ended.stderr
    submission = Unit(run, "probe").submitted()
    assert submission is not None
    assert [(first, count) for _, first, count in submission.jobs] == [(0, 2), (2, 1)]
    numbers = [job for job, _, _ in submission.jobs]
    assert submission.job_ids() == [f"{numbers[0]}_0", f"{numbers[0]}_1", numbers[1]]  # one element that is left over is a job, no array
    wait_for(lambda: not narrow.run("squeue", "-h"), 60)
    ran = narrow.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
    assert sorted(ran) == sorted(f"{job} COMPLETED" for job in submission.job_ids())
    for stream, job in zip(streams, submission.job_ids()):
        assert (run / "probe" / "split" / f"{stream}.json").is_file()
        assert stream in Unit(run, "probe").log(job).read_text()
    assert len(list(Unit(run, "probe").ends.glob("*.json"))) == 3
