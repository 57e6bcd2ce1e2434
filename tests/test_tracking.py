"""Run folders in MLflow: nothing twice, nothing lost, nothing that training could wait for."""

import math
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from jobs import replay, tracking
from jobs.run_folder import write_json
from jobs.tracking_address import address
from launch.forwarder import Forwarder
from tests import runs_example as example


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One runs folder with one database for all tests (making a database takes seconds); tests differ by comparison."""
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture
def client(runs: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=address(runs).uri)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


def sync(runs: Path, name: str) -> tracking.Comparison:
    report = tracking.sync(runs, name=name)
    assert report.problems == []
    return report.comparisons[name]


def live(runs: Path, name: str, steps: int = 100, **changes: Any) -> Path:
    """A stream that has been started."""
    folder = runs / name / "joint"
    write_json(folder / "config.json", example.config(name, "joint", steps))
    example.begin(folder, 1, "", steps, **{"time": time.time(), **changes})
    return folder


def steps_of(client: mlflow.MlflowClient, run_id: str, key: str = "loss") -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run_id, key))


def counts(client: mlflow.MlflowClient, comparison: tracking.Comparison) -> dict[str, int]:
    """Points of every metric of every run."""
    found = {}
    for run_id in [comparison.parent, *comparison.streams.values(), *comparison.probes.values()]:
        for key in client.get_run(run_id).data.metrics:
            found[f"{run_id}/{key}"] = len(client.get_metric_history(run_id, key))
    return found


def test_a_comparison_becomes_a_parent_with_streams_and_probes(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    example.comparison(runs, name)
    made = sync(runs, name)
    experiment = client.get_experiment_by_name("acsar")
    assert experiment.artifact_location == (runs / "mlartifacts").as_uri()
    assert set(made.streams) == {"joint", "bone", "motion"}
    assert set(made.probes) == {"xsub/joint", "xsub/bone", "xsub/motion"}
    for run_id in [*made.streams.values(), *made.probes.values()]:
        run = client.get_run(run_id)
        assert run.info.experiment_id == experiment.experiment_id
        assert run.data.tags["mlflow.parentRunId"] == made.parent
        assert run.info.status == "FINISHED"
    assert client.search_runs(["0"]) == []  # none in Default
    joint = client.get_run(made.streams["joint"])
    assert joint.data.metrics["linear"] == 71.5
    assert (joint.data.metrics["linear_low"], joint.data.metrics["linear_high"]) == (67.5, 75.5)
    assert {"loss/gs", "lr", "step_ms", "step_ms_p50", "step_ms_p95", "samples_per_s", "data_wait_share"} <= set(joint.data.metrics)
    assert {"equal_captions", "held_aside_knn1", "text_reliance", "random_knn1", "raw_linear"} <= set(joint.data.metrics)
    wanted = {"recipe": "demo", "method": "acsar", "stream": "joint", "protocol": "xsub", "benchmark": "synthetic", "world": "4"}
    wanted |= {"content_id": "5a" * 6, "provenance": "program", "supervision": "text-from-label"}
    wanted |= {"lr": "0.01", "seed": "0", "batch_size": "32"}
    assert wanted.items() <= joint.data.params.items()
    assert joint.data.params["commit"] == "c0ffeec0ffee+changes"
    assert "sample_intervals_linear_low" not in joint.data.metrics
    probe = client.get_run(made.probes["xsub/joint"]).data.metrics
    assert (probe["sample_intervals_linear_low"], probe["differences_linear_over_random_value"]) == (67.5, 16.5)
    assert joint.data.tags["version.torch"] == "2.6.0"
    assert joint.data.tags["content_id"] == "5a" * 32
    parent = client.get_run(made.parent)
    assert (parent.data.metrics["fused_top1"], parent.data.metrics["fused_top5"]) == (76.0, 95.0)
    assert (parent.data.metrics["linear_bone"], parent.data.metrics["fused_subsets_J_top1"]) == (68.5, 71.5)
    assert "lr" in parent.data.params
    assert parent.data.params["stream"] == "joint,bone,motion"
    assert "- joint: linear is above its random encoder" in parent.data.tags["mlflow.note.content"]
    assert "| joint | 71.5 |" in parent.data.tags["mlflow.note.content"]
    assert [item.path for item in client.list_artifacts(made.parent, "figures")] == ["figures/confusion.png"]


def test_a_second_sync_adds_nothing(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    example.comparison(runs, name, steps=60)
    first = counts(client, sync(runs, name))
    report = tracking.sync(runs, name=name)
    assert (report.points, report.artifacts) == (0, 0)
    assert counts(client, report.comparisons[name]) == first
    assert sorted(set(first.values())) == [1, 2, 60]  # probe numbers and summaries, evaluations, steps
    found = client.search_runs([report.experiment], f"tags.comparison = '{name}'")
    assert len(found) == 7


def test_a_live_run_is_followed(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    folder = live(runs, name)
    assert client.get_run(sync(runs, name).streams["joint"]).info.status == "RUNNING"
    for last in (20, 21, 70, 100):
        example.training(folder, len(steps_of(client, sync(runs, name).streams["joint"])) + 1, last)
        made = sync(runs, name)
        assert steps_of(client, made.streams["joint"]) == list(range(1, last + 1))
        assert made.running
    assert steps_of(client, made.streams["joint"], "held_aside_knn1") == [30, 60, 90]
    example.end(folder, 100)
    made = sync(runs, name)
    assert not made.running
    assert client.get_run(made.streams["joint"]).info.status == "FINISHED"
    assert client.get_run(made.parent).info.status == "FINISHED"


def test_steps_done_again_after_a_rollback_are_not_doubled(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    folder = live(runs, name)
    example.training(folder, 1, 60)
    sync(runs, name)
    example.begin(folder, 2, "step_40.a1", 100)
    example.training(folder, 41, 100, attempt=2, shift=5.0)
    joint = sync(runs, name).streams["joint"]
    assert steps_of(client, joint) == list(range(1, 101))
    assert steps_of(client, joint, "held_aside_knn1") == [30, 60, 90]
    values = {point.step: point.value for point in client.get_metric_history(joint, "loss/gs")}
    assert values[50] == pytest.approx(example.step_record(50)["losses"]["gs"])
    assert values[61] == pytest.approx(example.step_record(61, 5.0)["losses"]["gs"])


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_an_interrupted_sync_goes_on(
    runs: Path, client: mlflow.MlflowClient, name: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = live(runs, name, steps=300)
    example.training(folder, 1, 300)
    real, left = mlflow.MlflowClient.log_batch, [calls]

    def dies(self: mlflow.MlflowClient, *args: Any, **kwargs: Any) -> None:
        if not left[0]:
            raise ConnectionResetError("gone")
        left[0] -= 1
        real(self, *args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", dies)
    report = tracking.sync(runs, name=name)
    assert report.problems == ["ConnectionResetError: gone"]
    monkeypatch.undo()
    assert steps_of(client, sync(runs, name).streams["joint"]) == list(range(1, 301))


def test_points_without_their_mark_are_not_doubled(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    """MLflow stores a request's points and its tags one after the other: a kill between them loses the tag only."""
    example.comparison(runs, name, steps=40, streams=["joint"])
    made = sync(runs, name)
    before = counts(client, made)
    for run_id in (made.parent, made.streams["joint"], made.probes["xsub/joint"]):
        client.set_tag(run_id, tracking.MARKS, "{}")
        client.set_tag(run_id, tracking.STATE, "")
    report = tracking.sync(runs, name=name)
    assert 0 < report.points < 100  # the probe's numbers; curves are not told again
    assert counts(client, report.comparisons[name]) == before


def test_requests_keep_to_what_mlflow_takes(runs: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int, int]] = []
    real = mlflow.MlflowClient.log_batch

    def measured(self: mlflow.MlflowClient, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        sizes.append((len(metrics), len(params), len(tags)))
        real(self, run_id, metrics, params, tags)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", measured)
    folder = live(runs, name, steps=400)
    config = example.config(name, "joint", 400)
    config["job"] |= {f"extra_{i}": i for i in range(150)}
    write_json(folder / "config.json", config)
    example.training(folder, 1, 400)
    sync(runs, name)
    assert sum(metrics for metrics, _, _ in sizes) > 4000
    assert len(sizes) < 12
    assert all(metrics <= 1000 and params <= 100 and tags <= 100 and metrics + params + tags <= 1000 for metrics, params, tags in sizes)


def test_a_parameter_that_changed_becomes_a_tag(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    folder = live(runs, name)
    example.training(folder, 1, 10)
    sync(runs, name)
    example.begin(folder, 2, "step_10.a1", 100, world=2)
    example.training(folder, 11, 20, attempt=2)
    joint = client.get_run(sync(runs, name).streams["joint"])
    assert joint.data.params["world"] == "4"
    assert joint.data.tags["param.world"] == "2"
    assert joint.data.tags["attempts"] == "2"


@pytest.mark.parametrize(
    ("end", "status"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("nonfinite", "FAILED"), ("stopped", "KILLED"), ("interrupted", "KILLED")],
)
def test_the_end_record_decides_the_status(tmp_path: Path, end: str, status: str) -> None:
    folder = live(tmp_path, "n")
    example.training(folder, 1, 30)
    example.end(folder, 30, end)
    assert replay.stream_part(tmp_path / "n", "joint", {}).status == status


def test_a_stopped_run_is_reopened_when_it_goes_on(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    folder = live(runs, name)
    example.training(folder, 1, 30)
    example.end(folder, 30, "interrupted")
    made = sync(runs, name)
    assert client.get_run(made.streams["joint"]).info.status == client.get_run(made.parent).info.status == "KILLED"
    example.begin(folder, 2, "step_30.a1", 100, time=time.time())
    sync(runs, name)
    assert client.get_run(made.streams["joint"]).info.status == client.get_run(made.parent).info.status == "RUNNING"
    example.training(folder, 31, 100, attempt=2)
    example.end(folder, 100, attempt=2)
    sync(runs, name)
    assert client.get_run(made.streams["joint"]).info.status == client.get_run(made.parent).info.status == "FINISHED"
    assert steps_of(client, made.streams["joint"], "step_ms_p50") == [30, 100]


def test_a_run_whose_process_is_gone_is_killed_and_another_hosts_is_left_alone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    live(tmp_path, "gone", pid=gone.pid)
    live(tmp_path, "elsewhere", pid=gone.pid, host="another-host")
    live(tmp_path, "here")
    live(tmp_path, "reused", time=1.0)  # the process of that number is younger than the run
    write_json(tmp_path / "waiting" / "joint" / "config.json", example.config("waiting", "joint", 10))
    found = {path.name: replay.stream_part(path, "joint", {}).status for path in tmp_path.iterdir()}
    assert found == {"gone": "KILLED", "elsewhere": "RUNNING", "here": "RUNNING", "reused": "KILLED", "waiting": "SCHEDULED"}


def test_a_probe_done_again_replaces_the_number_and_another_protocol_has_its_own(
    runs: Path, client: mlflow.MlflowClient, name: str
) -> None:
    folder = example.comparison(runs, name, steps=30, streams=["joint"])
    sync(runs, name)
    time.sleep(0.01)
    write_json(folder / "probe" / "xsub" / "joint.json", {"linear": 80.0})
    write_json(folder / "probe" / "xview" / "joint.json", {"linear": 90.0})
    made = sync(runs, name)
    joint = client.get_run(made.streams["joint"]).data.metrics
    assert (joint["linear"], joint["xview/linear"]) == (80.0, 90.0)
    assert client.get_run(made.probes["xsub/joint"]).data.metrics["linear"] == 80.0
    assert client.get_run(made.probes["xview/joint"]).data.tags["transductive"] == "true"
    assert client.get_run(made.parent).data.metrics["linear_joint"] == 80.0


def test_a_run_deleted_in_mlflow_stays_deleted(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    folder = live(runs, name)
    example.training(folder, 1, 10)
    joint = sync(runs, name).streams["joint"]
    client.delete_run(joint)
    example.training(folder, 11, 20)
    report = tracking.sync(runs, name=name)
    assert len(report.problems) == 1
    assert "was deleted in MLflow" in report.problems[0]
    client.restore_run(joint)
    sync(runs, name)
    assert steps_of(client, joint) == list(range(1, 21))


def test_a_damaged_comparison_does_not_stop_the_others(tmp_path: Path, runs: Path, name: str) -> None:
    example.comparison(tmp_path, "good", steps=10, streams=["joint"])
    example.comparison(tmp_path, "bad", steps=10, streams=["joint"])
    (tmp_path / "bad" / "joint" / "config.json").write_text('{"job": ')
    report = tracking.sync(tmp_path, uri=address(runs).uri)
    assert list(report.comparisons) == ["good"]
    assert len(report.problems) == 1
    assert "bad/joint/config.json" in report.problems[0]


def refused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_tracker_that_is_gone_is_a_line_in_the_report(runs: Path, tmp_path: Path, name: str) -> None:
    live(runs, name)
    (tmp_path / "damaged.db").write_text("this is no database, " * 100)
    for uri in (f"http://127.0.0.1:{refused_port()}", f"sqlite:///{tmp_path}/damaged.db", f"sqlite:///{tmp_path}/none/mlflow.db"):
        report = tracking.sync(runs, uri=uri, name=name)
        assert len(report.problems) == 1, uri
        assert report.seconds < 30
        assert "not forwarded" in report.line()


def test_a_locked_database_is_a_line_in_the_report(runs: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    live(runs, name)
    sync(runs, name)
    other = sqlite3.connect(runs / "mlflow.db", isolation_level=None)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **{**kwargs, "timeout": 0.2}))
    other.execute("BEGIN EXCLUSIVE")
    try:
        report = tracking.sync(runs, name=name)
    finally:
        other.rollback()
        other.close()
    assert len(report.problems) == 1
    assert "locked" in report.problems[0]
    assert "MLFLOW_TRACKING_URI" in report.problems[0]


def test_one_sync_at_a_time(runs: Path, name: str) -> None:
    live(runs, name)
    with tracking._turn(address(runs), 0.0):
        report = tracking.sync(runs, name=name, wait=0.2)
    assert "another sync" in report.problems[0]


def test_two_syncs_at_once_make_each_run_once(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    example.training(live(runs, name), 1, 20)
    threads = [threading.Thread(target=tracking.sync, args=(runs, None, name)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = tracking.sync(runs, name=name)
    assert len(client.search_runs([report.experiment], f"tags.comparison = '{name}'")) == 2
    assert steps_of(client, report.comparisons[name].streams["joint"]) == list(range(1, 21))


def test_importing_the_door_does_not_import_mlflow() -> None:
    code = "import sys, jobs.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def forwarder(runs: Path, name: str) -> Iterator[Forwarder]:
    live(runs, name)
    made = Forwarder(runs, name, every=0.2)
    made.start()
    yield made
    made.stop(0.0)


def test_the_forwarder_follows_and_completes(runs: Path, client: mlflow.MlflowClient, forwarder: Forwarder) -> None:
    folder = runs / forwarder.name / "joint"
    example.training(folder, 1, 50)
    query = f"tags.comparison = '{forwarder.name}' and tags.kind = 'stream'"
    experiment = client.get_experiment_by_name("acsar").experiment_id
    until = time.monotonic() + 40
    while time.monotonic() < until:
        found = client.search_runs([experiment], query)
        if found and len(steps_of(client, found[0].info.run_id)) == 50:
            break
        time.sleep(0.3)
    assert found, "the live run was not forwarded"
    example.training(folder, 51, 100)
    example.end(folder, 100)
    report = forwarder.stop()
    assert report.problems == []
    assert report.points > 1000
    joint = report.comparisons[forwarder.name].streams["joint"]
    assert steps_of(client, joint) == list(range(1, 101))
    assert client.get_run(joint).info.status == "FINISHED"


def test_the_forwarders_end_has_a_time_limit(runs: Path, forwarder: Forwarder) -> None:
    began = time.monotonic()
    report = forwarder.stop(limit=0.05)
    assert time.monotonic() - began < 5
    assert "dashboard.py sync" in report.problems[0]


def test_a_forwarder_that_breaks_is_a_line_in_the_report(runs: Path, name: str) -> None:
    live(runs, name)
    forwarder = Forwarder(runs, name, every=-1.0)
    forwarder.start()
    assert forwarder.process is not None
    forwarder.process.kill()
    report = forwarder.stop()
    assert "tracking.log" in report.problems[0]


def test_a_forwarder_that_cannot_start_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("a file where the comparison's folder should be")
    forwarder = Forwarder(tmp_path, "n")
    forwarder.start()
    assert "did not start" in forwarder.stop().problems[0]


def test_long_schedules_are_told_as_means(tmp_path: Path) -> None:
    steps = 3 * replay.POINTS
    folder = live(tmp_path, "n", steps=steps)
    example.append(folder, 1, [example.step_record(step) for step in range(1, 32)])
    part = replay.stream_part(tmp_path / "n", "joint", {})
    told = [entry for entry in part.entries if entry.source == "step"]
    assert [entry.mark for entry in told] == [str(step) for step in range(3, 31, 3)]
    first = {point.key: point.value for point in told[0].points}
    assert first["loss"] == pytest.approx(sum(example.step_record(step)["loss"] for step in (1, 2, 3)) / 3)
    rest = replay.stream_part(tmp_path / "n", "joint", {"step": "30"})
    assert [entry for entry in rest.entries if entry.source == "step"] == []


def test_a_loss_that_is_not_finite_is_forwarded(runs: Path, client: mlflow.MlflowClient, name: str) -> None:
    folder = live(runs, name)
    example.append(folder, 1, [{**example.step_record(1), "loss": math.nan}])
    example.end(folder, 1, "nonfinite")
    joint = sync(runs, name).streams["joint"]
    sync(runs, name)
    assert steps_of(client, joint) == [1]
    assert math.isnan(client.get_metric_history(joint, "loss")[0].value)
    assert client.get_run(joint).info.status == "FAILED"


def test_numbers_are_flat_and_intervals_are_low_and_high() -> None:
    document = {"linear": 1, "ok": True, "words": "x", "intervals": {"linear": [0, 2]}, "many": [1, 2, 3]}
    found = replay.numbers({**document, "seeds": {"knn1": 3.5, "interval": [1, 2]}})
    assert found == {"linear": 1, "linear_low": 0, "linear_high": 2, "seeds_knn1": 3.5, "seeds_low": 1, "seeds_high": 2}


def test_what_a_scheduler_leaves_beside_probes_is_no_probe(tmp_path: Path) -> None:
    run = example.comparison(tmp_path, "queued", streams=("joint",))
    write_json(run / "probe" / "logs" / "submission.json", {"stage": "probe", "time": 1.0})
    assert [part.key for part in replay.probe_parts(run, {})] == ["probe/xsub/joint"]
    assert [path.stem for path in replay.probe_reports(run)] == ["joint"]
