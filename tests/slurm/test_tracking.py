"""MLflow and a real Slurm: streams become children, a requeue goes on under the same id, a kill is seen, an outage costs nothing."""

import itertools
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from jobs import journal
from launch.unit import Unit
from tests.clips import TINY
from tests.slurm.box import Box
from tests.slurm.conftest import launch, wait_for
from tests.tracker import Server

STREAMS = ("joint", "bone", "motion")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def server(box: Box, tmp_path: Path) -> Iterator[Server]:
    """On the login node, where all nodes reach it."""
    made = Server(tmp_path / "server", box.address).start()
    yield made
    made.stop()


def pretrain(runs: Path, packed: Path, nodes: int, steps: int, *words: str, **environment: str) -> None:
    flags = ["--recipe", "scdnet-small", "--name", "one", "--cluster", "slurm", "--nodes", str(nodes), "--steps", str(steps), *TINY]
    done = launch("pretrain", "--data", packed, "--runs", runs, *flags, *words, **environment)
    assert done.returncode == 0, done.stderr


def sync(runs: Path, **environment: str) -> None:
    done = launch("dashboard", "sync", "--runs", runs, **environment)
    assert done.returncode == 0, done.stdout + done.stderr


def family(uri: str) -> dict[str, Any]:
    """The comparison's runs by their part; "" is the parent."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("acsar").experiment_id], "tags.comparison = 'one'")
    runs = {run.data.tags["acsar.part"]: run for run in found}
    assert len(runs) == len(found), "a part has two runs"
    return runs


def losses(uri: str, run_id: str) -> list[int]:
    return sorted(point.step for point in mlflow.MlflowClient(tracking_uri=uri).get_metric_history(run_id, "loss"))


def steps(runs: Path, stream: str = "joint") -> list[dict[str, Any]]:
    """The journal's steps so far."""
    folder = runs / "one" / stream
    return [record for record in journal.read(folder) if record["type"] == "step"] if (folder / "journal").is_dir() else []


def job_of(runs: Path, stream: str = "joint") -> str:
    submission = Unit(runs / "one", stream).submitted()
    assert submission is not None
    return submission.job_of(0)


def finished(runs: Path, stream: str = "joint") -> bool:
    return (runs / "one" / stream / "result.json").is_file()


def wait_for_queue(box: Box, seconds: float) -> None:
    """Until no job is left."""
    wait_for(lambda: not box.run("squeue", "-h"), seconds, every=1)


def test_three_streams_on_four_nodes_are_three_children_of_one_run(box: Box, runs: Path, packed: Path) -> None:
    pretrain(runs, packed, 4, 12)
    wait_for_queue(box, 400)
    assert all(finished(runs, stream) for stream in STREAMS)
    sync(runs)
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    found = family(uri)
    assert set(found) == {"", *STREAMS}
    parent = found.pop("")
    assert (parent.info.status, parent.data.params["stream"], parent.data.params["nodes"]) == ("FINISHED", "joint,bone,motion", "4")
    for stream, run in found.items():
        assert (run.info.status, run.data.tags["mlflow.parentRunId"]) == ("FINISHED", parent.info.run_id)
        assert run.data.params["world"] == "4"
        assert losses(uri, run.info.run_id) == list(range(1, 13)), stream


def test_a_requeued_run_goes_on_and_a_killed_one_is_seen(box: Box, runs: Path, packed: Path) -> None:
    """Requeued and held: SCHEDULED; released: RUNNING; everything of the job killed: KILLED; submitted again: FINISHED; one id."""
    words = ("--streams", "joint", "--save-every", "10")
    pretrain(runs, packed, 1, 160, *words)
    uri, job = f"sqlite:///{runs / 'mlflow.db'}", job_of(runs)
    wait_for(lambda: len(steps(runs)) > 20, 240)
    sync(runs)
    run = family(uri)["joint"]
    assert run.info.status == family(uri)[""].info.status == "RUNNING"

    box.run("scontrol", "requeuehold", job)
    wait_for(lambda: box.run("squeue", "-h", "-o", "%T", "-j", job) == "PENDING", 60)
    sync(runs)
    assert family(uri)["joint"].info.status == family(uri)[""].info.status == "SCHEDULED"

    reached = len(steps(runs))
    box.run("scontrol", "release", job)
    wait_for(lambda: len(steps(runs)) > reached + 20, 240)
    box.run("scancel", "--full", "--signal=KILL", job)
    wait_for_queue(box, 60)
    assert not finished(runs)
    sync(runs)
    assert family(uri)["joint"].info.status == family(uri)[""].info.status == "KILLED"

    pretrain(runs, packed, 1, 160, *words)
    wait_for_queue(box, 600)
    sync(runs)
    found = family(uri)
    assert found["joint"].info.run_id == run.info.run_id
    assert found["joint"].info.status == found[""].info.status == "FINISHED"
    assert int(found["joint"].data.tags["attempts"]) >= 3
    assert losses(uri, run.info.run_id) == list(range(1, 161))


def test_a_server_that_hangs_and_dies_and_comes_back_costs_nothing(box: Box, server: Server, runs: Path, packed: Path) -> None:
    pretrain(runs, packed, 1, 180, "--streams", "joint", MLFLOW_TRACKING_URI=server.uri)
    wait_for(lambda: len(steps(runs)) > 10 and "joint" in family(server.uri), 240)
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)  # takes connections and answers nobody
    hung, quiet = time.time(), len(steps(runs))
    time.sleep(3)
    wait_for(lambda: len(steps(runs)) > quiet + 10, 120)
    server.stop()
    gone = len(steps(runs))
    wait_for(lambda: len(steps(runs)) > gone + 20, 120)
    server.start()
    back = time.time()
    wait_for_queue(box, 600)
    sync(runs, MLFLOW_TRACKING_URI=server.uri)
    found = family(server.uri)
    assert set(found) == {"", "joint"}
    assert losses(server.uri, found["joint"].info.run_id) == list(range(1, 181))
    assert found["joint"].info.status == found[""].info.status == "FINISHED"
    assert not (runs / "mlflow.db").exists()
    assert found["joint"].data.tags["host"] != socket.gethostname()
    times = [record["time"] for record in steps(runs)]
    gaps: dict[bool, list[float]] = {True: [], False: []}
    for earlier, later in itertools.pairwise(times):
        gaps[hung < later < back].append(later - earlier)
    assert max(gaps[True]) < 1 + 2 * max(gaps[False]), "a step waited for the server"
