"""The doctor at a real Slurm: what the cluster has, whether it would take a job, and what its nodes see."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from jobs import InputError
from launch import slurm_checks
from launch.checks import Check
from launch.profiles import Profile
from launch.slurm_checks import cluster, controller, try_nodes
from tests.slurm.box import Box
from tests.slurm.conftest import launch, wait_for


def by_name(found: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_a_healthy_cluster(box: Box, tmp_path: Path) -> None:
    ended = launch("doctor", "--runs", tmp_path, "--try-nodes", "4", "--json", CUDA_VISIBLE_DEVICES="")
    document = json.loads(ended.stdout)
    told = {check["name"]: check["said"] for check in document["checks"]}
    assert ended.returncode == 0 and document["ok"], ended.stdout + ended.stderr
    assert told["slurm"].startswith("box answers, version ")
    assert told["partition main"] == "4 of 4 nodes usable; 4 CPUs, 4 GiB each; no time limit; the default"
    assert told["arrays"].startswith("up to 1,001 tasks")
    assert told["accounting"] == "on"
    assert told["pre-emption"] == "pre-empted jobs are requeued and go on"
    assert told["cluster profile"] == "Slurm would take a job of one node in the default partition"
    assert told["nodes"].startswith("n1, n2, n3, n4 see ")
    assert list(tmp_path.iterdir()) == []
    assert box.run("squeue", "-h") == ""


def test_nodes_that_do_not_see_the_runs_folder(box: Box, tmp_path: Path) -> None:
    """Every node has another disk under this path, as a /tmp or /scratch of its own."""
    [told] = try_nodes(2, box.node_local / "runs", Profile())
    assert told.status == "fail"
    assert told.said == f"n1, n2: no sight of {box.node_local} as it is here"


def test_nodes_without_the_packages(box: Box, tmp_path: Path) -> None:
    [told] = try_nodes(1, tmp_path, Profile(python="/none/bin/python", partition="urgent", exclude=("n1",), setup=("echo hello doctor",)))
    assert told.status == "fail"
    assert told.said == "n2: `/none/bin/python` does not find torch, deepspeed and submitit"


def test_more_nodes_than_there_are(box: Box, tmp_path: Path) -> None:
    [told] = try_nodes(9, tmp_path, Profile())
    assert told.status == "fail"
    assert told.said == "--nodes 9: partition main has 4 nodes (4 usable now)"


def test_nodes_that_are_busy(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box.run("sbatch", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600")
    wait_for(lambda: box.idle() == 0, 60)
    monkeypatch.setattr(slurm_checks, "QUEUE_PATIENCE", 3)
    [told] = try_nodes(1, tmp_path, Profile())
    assert told.status == "fail"
    assert "Requested nodes are busy" in told.said


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (Profile(partition="gpu"), "partition 'gpu' does not exist; name one of main, urgent"),
        (Profile(constraint="a100"), "Slurm would refuse a job of one node: sbatch --test-only: allocation failure: Invalid feature"),
        (Profile(gpus_per_node=4), "Slurm would refuse a job of one node: .*Requested node configuration is not available"),
        (Profile(mem_gb=64), "Slurm would refuse a job of one node: "),
        (Profile(sbatch={"no-such-option": "1"}), "Slurm would refuse a job of one node: .*unrecognized option"),
    ],
    ids=["partition", "constraint", "gpus", "memory", "option"],
)
def test_profiles_that_slurm_would_not_take(box: Box, tmp_path: Path, profile: Profile, said: str) -> None:
    told = by_name(cluster(profile, tmp_path))["cluster profile"]
    assert told.status == "fail"
    assert told.fix.startswith("change the cluster profile")
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(told.said)
    assert box.run("squeue", "-h") == ""


def test_a_limit_that_is_too_long(box: Box, tmp_path: Path) -> None:
    box.run("scontrol", "update", "partitionname=main", "maxtime=2:00:00")
    try:
        told = by_name(cluster(Profile(), tmp_path))
    finally:
        box.run("scontrol", "update", "partitionname=main", "maxtime=infinite")
    assert told["partition main"].said.endswith("at most 2 h; the default")
    assert "a time of 1-00:00:00: partition main ends jobs after 120 minutes" in told["cluster profile"].said


def test_a_partition_without_nodes(box: Box, tmp_path: Path) -> None:
    box.run("scontrol", "update", "nodename=n[1-4]", "state=drain", "reason=test")
    told = by_name(cluster(Profile(), tmp_path))["partition main"]
    assert told.status == "warn"
    assert told.said.startswith("0 of 4 nodes usable")


def test_accounting_off_and_a_controller_that_is_gone(bare: Box, tmp_path: Path) -> None:
    told = by_name(cluster(Profile(), tmp_path))
    assert told["accounting"].status == "warn"
    assert told["cluster profile"].status == "ok"
    bare.run("scontrol", "shutdown", "slurmctld")
    wait_for(lambda: not controller(asked=True)[1], 60)
    assert [controller(asked)[0].status for asked in (True, False)] == ["fail", "warn"]
    with pytest.raises(InputError):
        list(cluster(Profile(), tmp_path))
