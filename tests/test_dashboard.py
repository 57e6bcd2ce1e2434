"""The dashboard as people use it: forwarded runs, a server on this machine only, addresses that work, an end without leftovers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.tracking import Comparison
from launch import dashboard
from tests import runs_example as example

SCRIPT = Path(dashboard.__file__)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    example.comparison(folder, "older", steps=10, streams=["joint"])
    time.sleep(0.05)
    example.comparison(folder, "newer", steps=10, seed=1)
    return folder


def start(runs: Path, *words: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACSAR_RUNS": str(runs)}
    # another working directory than the checkout, as from a user's shell
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *words], env=environment, cwd=runs, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def served(runs: Path) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    """A running dashboard and the addresses that it printed."""
    process = start(runs)
    assert process.stdout is not None
    found: dict[str, str] = {}
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("newer, "):
            what, address = line.removeprefix("newer, ").split()
            found[what.rstrip(":")] = address
        if line.startswith("all comparisons: "):
            found["all"] = line.split()[-1]
        if line.startswith("Ctrl-C"):
            break
    assert found, "".join(lines) + (process.stderr.read() if process.stderr else "")
    found["tunnel"] = next(line for line in lines if "ssh -N -L" in line)
    yield process, found
    process.kill()
    process.wait()


def members(group: int) -> list[int]:
    """Processes of a session, read from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def children(parent: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def post(base: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"{base}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


def test_it_serves_the_newest_comparison_and_ends_without_leftovers(served: tuple["subprocess.Popen[str]", dict[str, str]]) -> None:
    process, pages = served
    assert set(pages) == {"all", "charts", "streams", "probes", "summary", "tunnel"}
    base = pages["streams"].split("/#/")[0]
    port = int(base.rpartition(":")[2])
    assert base == f"http://127.0.0.1:{port}"
    assert f"-L {port}:127.0.0.1:{port}" in pages["tunnel"]

    query = urllib.parse.parse_qs(pages["streams"].partition("?")[2])
    ids, experiments = json.loads(query["runs"][0]), json.loads(query["experiments"][0])
    found = post(base, "runs/search", {"experiment_ids": experiments, "filter": "tags.kind = 'stream' and tags.comparison = 'newer'"})
    assert {run["info"]["run_id"] for run in found["runs"]} == set(ids)
    assert len(ids) == 3
    parent = pages["summary"].rpartition("/")[2]
    with urllib.request.urlopen(f"{base}/get-artifact?path=figures/confusion.png&run_uuid={parent}", timeout=30) as answer:
        assert answer.read() == example.PIXEL
    view = urllib.parse.parse_qs(pages["charts"].partition("?")[2])["viewStateShareKey"][0]
    with urllib.request.urlopen(f"{base}/api/2.0/mlflow/experiments/get?experiment_id={experiments[0]}", timeout=30) as answer:
        tags = {tag["key"]: tag["value"] for tag in json.load(answer)["experiment"]["tags"]}
    charts = json.loads(tags[f"mlflow.sharedViewState.{view}"])["compareRunCharts"]
    assert charts[0]["type"] == "PARALLEL"
    assert charts[0]["selectedMetrics"] == ["loss", "knn1", "linear"]
    view = urllib.parse.parse_qs(pages["all"].partition("?")[2])["viewStateShareKey"][0]
    both = json.loads(tags[f"mlflow.sharedViewState.{view}"])
    found = post(base, "runs/search", {"experiment_ids": experiments, "filter": both["searchFilter"]})
    tagged = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in found["runs"]]
    assert {(run["comparison"], run["kind"]) for run in tagged} == {(c, k) for c in ("older", "newer") for k in ("stream", "comparison")}
    streams, fused = (chart for chart in both["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert (streams["selectedParams"], streams["selectedMetrics"]) == (["seed", "stream"], ["knn1", "linear"])
    assert fused["selectedMetrics"] == ["linear_joint", "linear_bone", "linear_motion", "fused_top1"]

    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))  # another address of this machine

    group = children(process.pid)[0]
    assert len(members(group)) <= 2  # the command and its one worker, no helpers
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert members(group) == []


def test_sync_only_forwards(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboard.main(["sync", "--runs", str(runs)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "2 comparison(s)" in out


def test_what_a_user_can_mend_is_one_line(runs: Path, tmp_path: Path) -> None:
    process = start(runs, "--name", "nobody")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors == f"dashboard.py: no comparison 'nobody' in {runs}; there are older, newer\n"
    with pytest.raises(dashboard.InputError, match=r"no runs in .*pretrain\.py"):
        dashboard.main(["--runs", str(tmp_path)])


def test_a_taken_port_is_refused_and_otherwise_the_next_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(dashboard.InputError, match=f"--port {port} is taken"):
            dashboard.free_port(port)
    assert dashboard.FIRST_PORT <= dashboard.free_port(None) < dashboard.FIRST_PORT + 200


def test_a_comparison_of_probes_alone_has_pages() -> None:
    found = dashboard.pages("http://host", "3", Comparison("n", "p", {}, {"xsub/joint": "r"}, "v", running=False))
    assert list(found) == ["charts", "probes", "summary"]
    assert found["probes"] == "http://host/#/compare-runs?runs=%5B%22r%22%5D&experiments=%5B%223%22%5D"
