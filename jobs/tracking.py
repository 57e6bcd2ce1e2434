"""The only door to MLflow: replays run folders into it, as often as wanted and without doubling anything.

Jobs write journals; `sync` forwards them: a parent run per comparison (RUNS/NAME), a child per stream and probe. Nothing here
runs inside training, so a tracking server that is slow, locked or gone costs no step.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import getpass
import json
import logging
import os
import select
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs import replay
from jobs.replay import Entry, Known, Part
from jobs.run_folder import read_json, write_json
from shards.errors import InputError
from shards.manifest import sha256_of

EXPERIMENT = "acsar"
BLOCK = 900  # metric points in one request; MLflow takes 1000
PARAMS = 90  # parameters or tags in one request; MLflow takes 100
MARKS = "acsar.marks"  # tag: what was forwarded, written in the same request as the points
FOLDER = "acsar.folder"  # tag: the comparison's identity, from RUNS/NAME/tracking.json
PART = "acsar.part"
STATE = "acsar.state"
COLOURS = {"joint": "#0072b2", "bone": "#d55e00", "motion": "#009e73"}  # apart for colour-blind eyes too
# a server that does not answer is a line in a report, not minutes of waiting; and nobody is told that MLflow is used
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Comparison:
    """Where one RUNS/NAME stands in MLflow: run ids."""

    name: str
    parent: str
    streams: dict[str, str]  # stream -> run id
    probes: dict[str, str]  # PROTOCOL/STREAM -> run id
    view: str  # key of its charts page
    running: bool  # some stream still runs


@dataclass
class SyncReport:
    """What one sync did. `problems` is empty when everything was forwarded."""

    uri: str
    experiment: str = ""
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    points: int = 0
    artifacts: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        """One line for a terminal."""
        news = f"{self.points} new points, {self.artifacts} new files"
        done = f"{len(self.comparisons)} comparison(s), {news} -> {self.uri} ({self.seconds:.1f} s)"
        return done if not self.problems else f"{done}; not forwarded: {'; '.join(self.problems)}"


def tracking_uri(runs: Path, uri: str | None = None) -> str:
    """The tracker's address: as given, else $MLFLOW_TRACKING_URI, else an sqlite file in the runs folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.resolve() / 'mlflow.db'}"


def sync(runs: Path, uri: str | None = None, name: str | None = None, wait: float = 10.0) -> SyncReport:
    """Forward what RUNS/NAME (default: every comparison in RUNS) tells and MLflow does not know yet.

    Idempotent; a sync that was interrupted is completed by the next one. What MLflow or the network refuse, and damaged files,
    are `problems` of the report and raise nothing. `wait`: seconds to wait for another sync of the same RUNS to end."""
    began = time.monotonic()
    report = SyncReport(tracking_uri(runs, uri))
    names = [one for one in replay.comparisons(runs) if name in (None, one)]
    if names:
        try:
            with _turn(runs, wait):
                _sync(runs, names, report)
        except _trouble() as error:
            report.problems.append(_reason(error))
    report.seconds = time.monotonic() - began
    return report


def _sync(runs: Path, names: Sequence[str], report: SyncReport) -> None:
    tracker = _Tracker.open(runs, report.uri)
    report.experiment = tracker.experiment
    for one in names:
        try:
            report.comparisons[one] = _forward(tracker, runs / one, report)
        except InputError as error:
            report.problems.append(str(error))


def _forward(tracker: "_Tracker", folder: Path, report: SyncReport) -> Comparison:
    """One comparison: its streams and probes first say what is new, then the parent and they are told."""
    identity = _identity(folder)
    known = tracker.known(identity, folder.name)
    marks = {part: _marks(run) for part, run in known.items()}
    news: list[Part] = []
    told: dict[str, Known] = {}
    for stream in replay.streams(folder):
        state = replay.state(folder, stream)
        run = known.get(stream)
        if run is not None and run.data.tags.get(STATE) == state and run.info.status == replay.FINISHED:
            told[stream] = Known(run.info.status, run.info.start_time, run.info.end_time)
        else:
            part = replay.stream_part(folder, stream, marks.get(stream, {}))
            news.append(dataclasses.replace(part, tags={**part.tags, STATE: state}))
    of_streams: list[Part | Known] = [*news, *told.values()]
    probes = replay.probe_parts(folder, marks)
    whole = replay.comparison_part(folder, of_streams or probes, marks.get("", {}))
    parent = known.get("") or tracker.create(whole, identity, folder.name, None)
    ids = {stream: known[stream].info.run_id for stream in told}
    for part in [*news, *probes]:
        run = known.get(part.key) or tracker.create(part, identity, folder.name, parent.info.run_id)
        ids[part.key] = run.info.run_id
        tracker.tell(run, part, report)
    tracker.tell(parent, whole, report)
    metrics = {stream: set(known[stream].data.metrics) if stream in known else set() for stream in replay.streams(folder)}
    for part in news:
        metrics[part.key] |= {point.key for entry in part.entries for point in entry.points}
    if metrics:
        tracker.view(identity, folder.name, set.intersection(*metrics.values()))
    return Comparison(
        name=folder.name,
        parent=parent.info.run_id,
        streams={stream: ids[stream] for stream in replay.streams(folder)},
        probes={key.removeprefix("probe/"): run_id for key, run_id in ids.items() if key.startswith("probe/")},
        view=identity,
        running=any(child.status == replay.RUNNING for child in of_streams),
    )


@dataclass(frozen=True)
class _Tracker:
    """An MLflow client and the one experiment that everything goes to."""

    client: Any
    experiment: str
    tags: dict[str, str]  # of the experiment

    @classmethod
    def open(cls, runs: Path, uri: str) -> "_Tracker":
        """Connect; makes the database and the experiment at first use (5-7 s)."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if uri.startswith("sqlite:///"):
            _readable(Path(uri.removeprefix("sqlite:///")))
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        import mlflow
        from mlflow.exceptions import MlflowException

        client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return cls(client, experiment.experiment_id, experiment.tags)
        # with a server, the server says where artifacts lie
        location = (runs.resolve() / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        try:
            # the tag opens MLflow's pages for training, not those for language models
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return cls(client, client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags), tags)
        except MlflowException:
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                raise
            return cls(client, experiment.experiment_id, experiment.tags)  # another host was quicker

    def known(self, identity: str, name: str) -> dict[str, Any]:
        """The runs of this comparison by part key, deleted ones too: what somebody deleted is not made again."""
        from mlflow.entities import ViewType

        query = f"tags.`{FOLDER}` = '{identity}'"
        found: dict[str, Any] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, ViewType.ALL, 1000, ["attributes.start_time DESC"], token)
            for run in page:
                if run.data.tags.get("comparison") == name:
                    found[run.data.tags[PART]] = run
            token = page.token
            if not token:
                return found

    def view(self, identity: str, name: str, metrics: set[str]) -> None:
        """The comparison's charts page, under its identity: streams as parallel coordinates, then bars and curves."""
        key, state = f"mlflow.sharedViewState.{identity}", json.dumps(_charts(name, metrics))
        if self.tags.get(key) != state:
            self.client.set_experiment_tag(self.experiment, key, state)

    def create(self, part: Part, identity: str, name: str, parent: str | None) -> Any:
        tags = {FOLDER: identity, PART: part.key, "comparison": name, "kind": part.kind, "mlflow.user": getpass.getuser()}
        tags["mlflow.source.name"] = "probe.py" if part.kind == "probe" else "pretrain.py"
        if part.key in COLOURS:
            tags["mlflow.runColor"] = COLOURS[part.key]
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        return self.client.create_run(self.experiment, start_time=part.began, tags=tags, run_name=part.title)

    def tell(self, run: Any, part: Part, report: SyncReport) -> None:
        """Forward one part: parameters once, changed tags, new points in blocks with their marks, new files, the status."""
        from mlflow.entities import LifecycleStage, Metric, Param, RunTag

        run_id = run.info.run_id
        if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
            report.problems.append(f"{part.title} was deleted in MLflow: restore it there, or `mlflow gc` and sync again")
            return
        tags = {key: value[:8000] for key, value in part.tags.items()}
        state = tags.pop(STATE, None)
        # parameters cannot change in MLflow; what a later attempt did otherwise (say, the number of ranks) becomes a tag
        tags |= {f"param.{k}": v for k, v in part.params.items() if run.data.params.get(k, v) != v}
        params = [Param(k, v[:6000]) for k, v in part.params.items() if k not in run.data.params]
        changed = [RunTag(k, v) for k, v in tags.items() if run.data.tags.get(k) != v]
        for first in range(0, max(len(params), len(changed)), PARAMS):
            self.client.log_batch(run_id, params=params[first : first + PARAMS], tags=changed[first : first + PARAMS])
        marks = _marks(run)
        for block in _blocks(part.entries):
            marks |= {entry.source: entry.mark for entry in block}
            points = [Metric(p.key, p.value, p.time, p.step) for entry in block for p in entry.points]
            self.client.log_batch(run_id, metrics=points, tags=[RunTag(MARKS, json.dumps(marks))])
            report.points += len(points)
        for name, path in part.artifacts.items():
            mark = sha256_of(path)[:16]
            if marks.get(f"file:{name}") != mark:
                self.client.log_artifact(run_id, str(path), str(Path(name).parent) if "/" in name else None)
                marks[f"file:{name}"] = mark
                self.client.set_tag(run_id, MARKS, json.dumps(marks))
                report.artifacts += 1
        if run.info.status != part.status or (part.ended is not None and run.info.end_time != part.ended):
            if part.ended is not None:
                self.client.set_terminated(run_id, part.status, part.ended)
            else:
                self.client.update_run(run_id, part.status)
        if state is not None and run.data.tags.get(STATE) != state:
            self.client.set_tag(run_id, STATE, state)


def _charts(name: str, metrics: set[str]) -> dict[str, Any]:
    """What MLflow's runs page keeps when somebody shares a view of it, for the metrics that all streams have."""
    section = "acsar"
    shown = [key for key in ("loss", "held_aside_knn1", "knn1", "linear") if key in metrics]
    cards: list[dict[str, Any]] = [{"type": "PARALLEL", "showAllRuns": True, "selectedParams": ["stream"], "selectedMetrics": shown}]
    cards += [{"type": "BAR", "metricKey": key, "displayName": key} for key in ("linear", "knn1") if key in metrics]
    lines = {"type": "LINE", "xAxisKey": "step", "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "lineSmoothness": 0}
    lines |= {"scaleType": "linear", "xAxisScaleType": "linear", "yAxisKey": "metric", "yAxisExpressions": [], "range": {}}
    curves = [key for key in ("loss", "held_aside_knn1", "text_reliance") if key in metrics]
    cards += [{**lines, "metricKey": key, "displayName": key} for key in curves]
    common = {"metricSectionId": section, "deleted": False, "isGenerated": False, "runsCountToCompare": 10}
    front = {"uuid": section, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {
        "searchFilter": f"tags.comparison = '{name}' and tags.kind = 'stream'",
        "orderByKey": "metrics.`linear`" if "linear" in metrics else "metrics.`loss`",  # by time the parent would hide its children
        "orderByAsc": "linear" not in metrics,
        "isAccordionReordered": True,
        "compareRunCharts": [{"uuid": f"{section}-{i}", **common, **card} for i, card in enumerate(cards)],
        "compareRunSections": [front],
    }


def _blocks(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries in order, as many together as one request takes."""
    block: list[Entry] = []
    size = 0
    for entry in entries:
        if block and size + len(entry.points) > BLOCK:
            yield block
            block, size = [], 0
        block.append(entry)
        size += len(entry.points)
    if block:
        yield block


def _marks(run: Any) -> dict[str, str]:
    return dict(json.loads(run.data.tags.get(MARKS, "{}")))


def _identity(folder: Path) -> str:
    """The comparison's own id, made at its first sync: it stays when the runs folder is moved or seen from another host."""
    path = folder / "tracking.json"
    if not path.is_file():
        write_json(path, {"id": uuid.uuid4().hex})
    return str(read_json(path)["id"])


@contextlib.contextmanager
def _turn(runs: Path, wait: float) -> Iterator[None]:
    """One sync of RUNS at a time on this host; the lock goes with the process."""
    with (runs / ".tracking.lock").open("w") as file:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(f"another sync of {runs} is at work since {wait:.0f} s; it forwards the same") from None
                time.sleep(0.1)
        yield


def _trouble() -> tuple[type[Exception], ...]:
    """What a tracker, a network or a disk may do to us; everything else is a bug and keeps its traceback."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, OSError


def _readable(database: Path) -> None:
    """Ask the file itself: MLflow would try a locked or damaged one again for minutes."""
    if database.is_file():
        with contextlib.closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=rw", uri=True, timeout=10)) as connection:
            connection.execute("PRAGMA schema_version")
    elif not database.parent.is_dir():
        raise FileNotFoundError(f"no folder {database.parent} for the database")


def _reason(error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    hint = "; an sqlite file needs a local disk: MLFLOW_TRACKING_URI=sqlite:////local/disk/mlflow.db" if "lock" in first else ""
    return f"{type(error).__name__}: {first[:300]}{hint}"


def server_command(runs: Path, uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """(command, environment) of an MLflow server for a database, reachable from this machine only and without helper processes."""
    artifacts = runs.resolve() / "mlartifacts"
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--backend-store-uri", uri, "--artifacts-destination", str(artifacts)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return command, {**os.environ, **ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class Forwarder:
    """A process of its own that syncs RUNS/NAME every few seconds, and once more at the end.

    It ends when its standard input ends, so also when the launcher is killed; Ctrl-C in the launcher's terminal passes it by."""

    def __init__(self, runs: Path, name: str, uri: str | None = None, every: float = 5.0) -> None:
        self.runs = runs.resolve()
        self.name = name
        self.uri = tracking_uri(self.runs, uri)
        self.every = every
        self.process: subprocess.Popen[str] | None = None
        self.trouble = ""

    def start(self) -> None:
        """Start watching. What it has to say besides its report goes to RUNS/NAME/logs/tracking.log. Raises nothing: see stop()."""
        log = self.runs / self.name / "logs" / "tracking.log"
        # -P: a folder named jobs where the user happens to stand must not be imported
        command = [sys.executable, "-P", "-m", "jobs.tracking", str(self.runs), "--name", self.name, "--uri", self.uri]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as errors:
                self.process = subprocess.Popen(
                    [*command, "--every", str(self.every)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        except OSError as error:
            self.trouble = f"the forwarder did not start: {error}"

    def stop(self, limit: float = 60.0) -> SyncReport:
        """Last sync, then the end; after `limit` seconds it is left unfinished, for a later `dashboard.py sync`."""
        report = SyncReport(self.uri)
        process, self.process = self.process, None
        if process is None:
            report.problems += [self.trouble] if self.trouble else []
            return report
        try:
            out, _ = process.communicate(input="", timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            report.problems.append(f"MLflow did not take everything within {limit:.0f} s; `python launch/dashboard.py sync` goes on")
            return report
        last = out.strip().rpartition("\n")[2]
        if process.returncode != 0 or not last:
            report.problems.append(f"forwarder ended with {process.returncode}, see {self.runs / self.name / 'logs' / 'tracking.log'}")
            return report
        return _report(json.loads(last))

    def __enter__(self) -> "Forwarder":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _report(document: Mapping[str, Any]) -> SyncReport:
    found = {name: Comparison(**value) for name, value in document["comparisons"].items()}
    return SyncReport(**{**document, "comparisons": found})


def watch(runs: Path, name: str, uri: str, every: float) -> SyncReport:
    """Sync until standard input ends, then once more. Takes at most a tenth of a core, however long the journal gets."""
    points = artifacts = 0
    problems: list[str] = []
    while True:
        ended = bool(select.select([sys.stdin], [], [], 0)[0]) and not sys.stdin.read(1)
        report = sync(runs, uri, name)
        points, artifacts = points + report.points, artifacts + report.artifacts
        if report.problems != problems:
            print(report.line(), file=sys.stderr, flush=True)
        problems = report.problems
        if ended:
            return dataclasses.replace(report, points=points, artifacts=artifacts)
        select.select([sys.stdin], [], [], max(every, 9 * report.seconds))


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m jobs.tracking RUNS --name NAME`: what Forwarder starts."""
    parser = argparse.ArgumentParser(description=watch.__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--every", type=float, default=5.0)
    arguments = parser.parse_args(argv)
    os.nice(10)
    report = watch(arguments.runs, arguments.name, arguments.uri, arguments.every)
    print(json.dumps(dataclasses.asdict(report)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
