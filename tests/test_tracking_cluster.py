"""Tracking from several hosts, through outages and requeues: one run each, every step once, and no job waits for it."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import ViewType

from jobs import replay, tracking, tracking_address
from jobs.journal import Record
from jobs.run_folder import write_json
from jobs.tracking_address import address, without_secrets
from launch.forwarder import Forwarder, forwarding
from launch.presence import in_its_job
from launch.tracking import prepared
from shards.errors import InputError
from tests import runs_example as example
from tests.tracker import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server")).start()
    yield made
    made.stop()


@pytest.fixture
def client(server: Server) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=server.uri)


@pytest.fixture(autouse=True)
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwarders here are a job's: they ask no scheduler."""
    monkeypatch.setenv("ACSAR_TAG", "7.0.1")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


def submitted(runs: Path, name: str, steps: int = 100) -> Path:
    """What a launcher leaves of three streams in the queue."""
    write_json(runs / name / "job.json", {"name": name, "streams": list(example.STREAMS)})
    for stream in example.STREAMS:
        write_json(runs / name / stream / "logs" / "submission.json", {})
    return runs / name


def begin(run: Path, stream: str, attempt: int = 1, start: str = "", steps: int = 100, **changes: object) -> Path:
    """An attempt of a job somewhere on a cluster."""
    write_json(run / stream / "config.json", example.config(run.name, stream, steps))
    example.begin(
        run / stream, attempt, start, steps, **{"host": "n1", "time": time.time(), "job": "7", "tag": f"7.{attempt}.1", **changes}
    )
    return run / stream


def sync(runs: Path, uri: str, name: str, stream: str = "") -> tracking.Comparison:
    report = tracking.sync(runs, uri, name, stream=stream, witness=in_its_job)
    assert report.problems == []
    return report.comparisons[name]


def history(client: mlflow.MlflowClient, run_id: str) -> dict[str, list[int]]:
    """The steps of every metric, as often as the page has them."""
    metrics = client.get_run(run_id).data.metrics
    return {key: sorted(point.step for point in client.get_metric_history(run_id, key)) for key in metrics}


def family(client: mlflow.MlflowClient, name: str, view: int = ViewType.ACTIVE_ONLY) -> list[str]:
    """Titles of the comparison's runs."""
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    found = client.search_runs([experiment], f"tags.comparison = '{name}'", view)
    return sorted(run.info.run_name for run in found)


def titles(name: str) -> list[str]:
    return sorted([name, *(f"{stream} {name}" for stream in example.STREAMS)])


def test_forwarders_of_three_hosts_make_one_comparison(tmp_path: Path, server: Server, client: mlflow.MlflowClient, name: str) -> None:
    """Nobody prepared anything, and all three begin at the same moment."""
    run = submitted(tmp_path, name)
    for stream in example.STREAMS:
        example.training(begin(run, stream), 1, 40)
    start = threading.Barrier(3)

    def forward(stream: str) -> None:
        start.wait()
        for _ in range(3):
            tracking.sync(tmp_path, server.uri, name, stream=stream, witness=in_its_job)

    threads = [threading.Thread(target=forward, args=(stream,)) for stream in example.STREAMS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = sync(tmp_path, server.uri, name)
    assert family(client, name) == titles(name)
    for run_id in made.streams.values():
        assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == made.parent
        assert history(client, run_id)["loss"] == list(range(1, 41))


def test_a_run_that_two_hosts_made_is_one_again(tmp_path: Path, server: Server, client: mlflow.MlflowClient, name: str) -> None:
    run = submitted(tmp_path, name)
    joint = begin(run, "joint")
    example.training(joint, 1, 30)
    first = sync(tmp_path, server.uri, name, "joint")
    for run_id in (first.parent, first.streams["joint"]):  # what another host made that saw none
        tags = {key: value for key, value in client.get_run(run_id).data.tags.items() if key in (tracking.FOLDER, tracking.PART)}
        client.create_run(first_experiment(client), tags={**tags, "comparison": name}, run_name=client.get_run(run_id).info.run_name)
    example.training(joint, 31, 60)
    made = sync(tmp_path, server.uri, name, "joint")
    assert family(client, name) == sorted([name, f"joint {name}"])
    assert len(family(client, name, ViewType.ALL)) == 4
    assert client.get_run(made.streams["joint"]).data.tags["mlflow.parentRunId"] == made.parent
    assert history(client, made.streams["joint"])["loss"] == list(range(1, 61))


def first_experiment(client: mlflow.MlflowClient) -> str:
    return str(client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id)


def test_streams_that_end_together_finish_their_comparison(tmp_path: Path, server: Server, client: mlflow.MlflowClient, name: str) -> None:
    run = submitted(tmp_path, name, steps=20)
    for stream in example.STREAMS:
        example.training(begin(run, stream, steps=20), 1, 20)
        parent = sync(tmp_path, server.uri, name, stream).parent
    assert client.get_run(parent).info.status == "RUNNING"
    for stream in example.STREAMS:
        example.end(run / stream, 20)
    threads = [threading.Thread(target=tracking.sync, args=(tmp_path, server.uri, name, 10.0, stream)) for stream in example.STREAMS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get_run(parent).info.status == "FINISHED"


def test_the_launcher_makes_the_comparison_before_jobs_start(
    tmp_path: Path,
    server: Server,
    client: mlflow.MlflowClient,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    write_json(tmp_path / name / "job.json", {"name": name, "streams": ["joint"]})
    with prepared(tmp_path, name, on=True):
        pass
    assert family(client, name) == [name]
    parent = client.search_runs([first_experiment(client)], f"tags.comparison = '{name}'")[0]
    assert parent.info.status == "SCHEDULED"
    assert f"1 comparison(s), 0 new points, 0 new files -> {server.uri}" in capfd.readouterr().err
    submitted(tmp_path, name)
    assert sync(tmp_path, server.uri, name, "bone").parent == parent.info.run_id
    assert client.get_run(parent.info.run_id).info.status == "SCHEDULED"


def test_a_server_that_is_down_costs_the_launcher_a_line(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:s3cret@127.0.0.1:9")
    submitted(tmp_path, name)
    with prepared(tmp_path, name, on=True):
        pass
    said = capfd.readouterr().err
    assert "not forwarded" in said
    assert said.count("\n") == 1
    assert (tmp_path / name / "tracking.json").is_file()  # so that the jobs agree who they are
    assert "s3cret" not in said + (tmp_path / name / "logs" / "tracking.log").read_text()


def test_a_server_that_goes_and_comes_back_has_every_step_once(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Server(tmp_path / "server").start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own.uri)
    run = submitted(tmp_path, name, steps=400)
    joint = begin(run, "joint", steps=400)
    worst = 0.0
    try:
        with Forwarder(tmp_path, name, every=0.2, stream="joint") as forwarder:
            for step in range(1, 401):
                before = time.monotonic()
                example.training(joint, step, step)
                worst = max(worst, time.monotonic() - before)
                time.sleep(0.04)
                if step == 150:
                    own.stop()
                if step == 300:
                    own.start()
            example.end(joint, 400)
            report = forwarder.stop()
        assert worst < 1.0
        assert report.problems == []
        client = mlflow.MlflowClient(tracking_uri=own.uri)
        found = history(client, report.comparisons[name].streams["joint"])
        assert found["loss"] == list(range(1, 401))
        assert found["held_aside_knn1"] == list(range(30, 401, 30))
        assert client.get_run(report.comparisons[name].streams["joint"]).info.status == "FINISHED"
    finally:
        own.stop()


def test_the_end_of_a_job_does_not_wait_for_a_server_that_hangs(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = submitted(tmp_path, name)
    begin(run, "joint")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)  # takes connections and never answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with forwarding(run / "joint"):
            began = time.monotonic()
        assert time.monotonic() - began < 15
    assert "dashboard.py sync" in capfd.readouterr().out


def test_signals_to_a_job_pass_the_forwarder_by(
    tmp_path: Path, server: Server, client: mlflow.MlflowClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run = submitted(tmp_path, name, steps=50)
    joint = begin(run, "joint", steps=50)
    with Forwarder(tmp_path, name, every=0.2, stream="joint") as forwarder:
        assert forwarder.process is not None
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):  # before it has imported anything
            os.kill(forwarder.process.pid, number)
        example.training(joint, 1, 50)
        example.end(joint, 50)
        os.kill(forwarder.process.pid, signal.SIGTERM)
        report = forwarder.stop()
    assert report.problems == []
    assert history(client, report.comparisons[name].streams["joint"])["loss"] == list(range(1, 51))


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, "an sqlite file belongs to the submitting host"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "RANK": "1"}, "rank 0 forwards"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "ACSAR_TRACK": "0"}, "switched off"),
    ],
)
def test_jobs_start_no_forwarder_where_none_is_wanted(
    tmp_path: Path, name: str, variables: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    joint = begin(submitted(tmp_path, name), "joint")
    with forwarding(joint):
        pass
    assert not (joint / "logs" / "tracking.log").exists(), why
    assert not (tmp_path / "mlflow.db").exists()


def test_a_requeued_run_goes_on_under_its_id_with_every_step_once(
    tmp_path: Path, server: Server, client: mlflow.MlflowClient, name: str
) -> None:
    """The first attempt had told 60 steps; it is resumed from 40, so 41-60 are trained again."""
    run = submitted(tmp_path, name)
    joint = begin(run, "joint")
    example.training(joint, 1, 60)
    first = sync(tmp_path, server.uri, name, "joint").streams["joint"]
    example.training(joint, 61, 66)
    example.end(joint, 66, "interrupted")
    begin(run, "joint", 2, "step_40.a1", tag="7.1.1")  # 61-66 were told to nobody: the journal hides them
    example.training(joint, 41, 100, attempt=2, shift=5.0)
    client.set_tag(first, tracking.MARKS, "{}")  # the server died between the points and their mark
    example.end(joint, 100, attempt=2)
    made = sync(tmp_path, server.uri, name, "joint")
    assert made.streams["joint"] == first
    found = history(client, first)
    assert found["loss"] == found["loss/gs"] == found["lr"] == list(range(1, 101))
    assert found["held_aside_knn1"] == [30, 60, 90]
    assert found["step_ms_p50"] == [100]
    values = {point.step: point.value for point in client.get_metric_history(first, "loss/gs")}
    assert values[60] == pytest.approx(example.step_record(60)["losses"]["gs"])  # what was told stays
    assert values[61] == pytest.approx(example.step_record(61, 5.0)["losses"]["gs"])
    assert client.get_run(first).data.tags["attempts"] == "2"


def test_attempts_that_end_at_the_same_step_are_summed_up_once(
    tmp_path: Path, server: Server, client: mlflow.MlflowClient, name: str
) -> None:
    joint = begin(submitted(tmp_path, name), "joint")
    example.training(joint, 1, 20)
    example.end(joint, 20, "interrupted")
    sync(tmp_path, server.uri, name, "joint")
    example.begin(joint, 2, "step_20.a1", 100)
    example.append(joint, 2, [{"type": "end", "time": time.time(), "step": 20, "status": "interrupted", "message": ""}])
    made = sync(tmp_path, server.uri, name, "joint")
    assert history(client, made.streams["joint"])["step_ms_p50"] == [20]


def test_a_witness_knows_what_the_journal_does_not_tell(tmp_path: Path, server: Server, client: mlflow.MlflowClient, name: str) -> None:
    """A killed run ends KILLED; while it waits for its next start it is SCHEDULED; when it comes back it goes on under the same id."""
    joint = begin(submitted(tmp_path, name), "joint")
    example.training(joint, 1, 20)
    seen: list[tuple[str, str]] = []

    def told(word: str | None) -> tracking.Comparison:
        def witness(stream: Path, start: Record | None, end: Record | None) -> str | None:
            seen.append((stream.name, "" if start is None else str(start["job"])))
            return word if stream.name == "joint" else None

        return tracking.sync(tmp_path, server.uri, name, witness=witness).comparisons[name]

    def status(run_id: str) -> str:
        return str(client.get_run(run_id).info.status)

    made = told(replay.RUNNING)
    run_id = made.streams["joint"]
    assert status(run_id) == "RUNNING"
    assert seen == [("joint", "7"), ("bone", ""), ("motion", "")]
    told(replay.KILLED)
    assert status(run_id) == "KILLED"
    assert status(made.parent) == "RUNNING"  # two streams wait in the queue
    told(replay.SCHEDULED)
    assert (status(run_id), status(made.streams["bone"])) == ("SCHEDULED", "SCHEDULED")
    begin(tmp_path / name, "joint", 2, "step_20.a1")
    example.training(joint, 21, 100, attempt=2)
    assert told(replay.RUNNING).streams["joint"] == run_id
    assert status(run_id) == "RUNNING"
    example.end(joint, 100, attempt=2)
    told(replay.KILLED)  # whatever anybody says: its end is written
    assert status(run_id) == "FINISHED"
    assert history(client, run_id)["loss"] == list(range(1, 101))


def test_an_interrupted_job_is_not_killed_for_its_own_forwarder(tmp_path: Path) -> None:
    joint = begin(submitted(tmp_path, "n"), "joint")
    example.end(joint, 30, "interrupted")
    assert replay.course(tmp_path / "n", "joint", in_its_job).status == "SCHEDULED"
    assert replay.course(tmp_path / "n", "joint").status == "KILLED"
    write_json(joint / "logs" / "cancelled.json", {"jobs": ["7"]})  # launch/cancel.py was here
    assert replay.course(tmp_path / "n", "joint", in_its_job).status == "KILLED"


NFS = "/dev/sda1 / ext4 rw 0 0\nserver:/home {home} nfs4 rw 0 0\nserver:/runs {runs} lustre rw 0 0\n"


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """RUNS and the home directory on file servers, the temporary folder on a disk."""
    for folder in ("home", "runs", "scratch"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(tracking_address.tempfile, "gettempdir", lambda: str(tmp_path / "scratch"))
    return NFS.format(home=tmp_path / "home", runs=tmp_path / "runs")


def test_sqlite_keeps_away_from_network_file_systems(tmp_path: Path, mounts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = address(tmp_path / "runs", mounts=mounts)
    assert found.database is not None
    assert found.database.is_relative_to(tmp_path / "scratch" / f"acsar-{os.getuid()}")
    assert "is lustre, where sqlite files break" in found.why
    for folder in (found.database.parent, found.database.parents[1]):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert address(tmp_path / "runs", mounts=mounts) == found
    assert address(tmp_path / "runs" / "other", mounts=mounts).uri != found.uri
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert address(tmp_path / "runs", mounts=mounts).uri.startswith(f"sqlite:///{tmp_path}/state/acsar/runs-")
    local = address(tmp_path / "elsewhere", mounts=mounts)
    assert (local.uri, local.why) == (f"sqlite:///{tmp_path}/elsewhere/mlflow.db", "")


def test_a_database_that_was_put_on_a_network_file_system_is_refused(tmp_path: Path, mounts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs/mine.db")
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI=sqlite:.*is lustre.*name a local disk or a server"):
        address(tmp_path / "runs", mounts=mounts)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert address(tmp_path / "runs", mounts=mounts).server


def test_a_folder_that_may_be_somebody_elses_is_not_used(tmp_path: Path, mounts: str) -> None:
    (tmp_path / "trap").mkdir()
    (tmp_path / "scratch" / f"acsar-{os.getuid()}").symlink_to(tmp_path / "trap")
    with pytest.raises(InputError, match="no local disk for the tracking database"):
        address(tmp_path / "runs", mounts=mounts)


def test_a_sync_beside_a_network_file_system_says_where_it_went(tmp_path: Path, mounts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text(mounts)
    monkeypatch.setattr("jobs.filesystem.MOUNTS", table)
    example.comparison(tmp_path / "runs", "n", steps=10, streams=["joint"])
    report = tracking.sync(tmp_path / "runs")
    assert report.problems == []
    assert f"{tmp_path}/scratch/acsar-" in report.line()
    assert "where sqlite files break: the database is on this host" in report.line()
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    assert not (tmp_path / "runs" / ".tracking.lock").exists()


def test_credentials_are_never_printed() -> None:
    assert without_secrets("https://me:p@ss@host:5000/x failed") == "https://***@host:5000/x failed"
    assert without_secrets("postgresql://u:pw@db/mlflow?sslpassword=abc&x=1") == "postgresql://***@db/mlflow?sslpassword=***&x=1"
    assert without_secrets("sqlite:////a/b.db and http://host:1/a@b") == "sqlite:////a/b.db and http://host:1/a@b"
