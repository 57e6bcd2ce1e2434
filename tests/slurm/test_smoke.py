"""The shortest proof that a real Slurm runs our things: four nodes, an array, a function through submitit, a stream on two nodes."""

import os
import sys
from pathlib import Path

import submitit

from jobs.run_folder import read_json
from tests.clips import TINY
from tests.slurm.box import Box
from tests.slurm.conftest import launch, wait_for


def test_four_nodes_have_their_own_names_and_addresses(box: Box) -> None:
    told = [line.split() for line in box.run("srun", "-N4", "sh", "-c", 'echo $(hostname) $(hostname -I) "$SLURM_CONF"').splitlines()]
    assert sorted(name for name, _, _ in told) == ["n1", "n2", "n3", "n4"]
    assert len({address for _, address, _ in told}) == 4
    assert {conf for _, _, conf in told} == {str(box.conf)}


def test_an_array_runs_each_element_once(box: Box, tmp_path: Path) -> None:
    job = box.run(
        "sbatch", "--parsable", "--array=0-7%4", f"--output={tmp_path}/%A_%a.out", "--wrap", f"echo >> {tmp_path}/$SLURM_ARRAY_TASK_ID"
    )
    wait_for(lambda: not box.run("squeue", "-h", "-j", job), 60)
    wait_for(lambda: box.run("sacct", "-n", "-X", "-o", "State", "-j", job).split() == ["COMPLETED"] * 8, 30)
    assert [len((tmp_path / str(i)).read_text()) for i in range(8)] == [1] * 8


def test_submitit_brings_a_function_to_a_node(box: Box, tmp_path: Path) -> None:
    executor = submitit.SlurmExecutor(folder=tmp_path, python=sys.executable)
    executor.update_parameters(time=5, nodes=2, ntasks_per_node=1)
    job = executor.submit(os.uname)
    wait_for(lambda: len(list(tmp_path.glob("*_result.pkl"))) == 2, 60)
    assert [result.nodename for result in job.results()] == ["n1", "n2"]
    wait_for(lambda: box.run("sacct", "-n", "-X", "-o", "State", "-j", job.job_id) == "COMPLETED", 30)


def test_a_stream_pretrains_on_two_nodes(box: Box, packed: Path, tmp_path: Path) -> None:
    what = ["--data", packed, "--recipe", "scdnet-small", "--streams", "joint", "--steps", "4", *TINY]
    ended = launch("pretrain", *what, "--runs", tmp_path, "--name", "run", "--nodes", "2", "--cluster", "slurm", "--wait", "--no-track")
    assert ended.returncode == 0, ended.stderr
    assert read_json(tmp_path / "run" / "joint" / "result.json")["status"] == "finished"
    (attempt,) = (tmp_path / "run" / "joint" / "attempts").glob("*.json")
    assert read_json(attempt)["world"] == 2 and read_json(attempt)["host"] == "n1"
