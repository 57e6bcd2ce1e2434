"""The only door to MLflow: replays run folders into it, as often as wanted and without doubling anything.

Jobs write journals; `sync` forwards them: a parent run per comparison (RUNS/NAME), a child per stream and probe. Nothing here
runs inside training, so a tracking server that is slow, locked or gone costs no step.

An sqlite file has one writer at a time, on one host. Several hosts may write to a server at once, and nothing between them is
locked: they find runs by tags, forward the same journals, and of two runs made for one part at the same moment all keep the same one.
"""

import contextlib
import dataclasses
import fcntl
import getpass
import json
import logging
import os
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import replay
from jobs.replay import Course, Entry, Part, Witness
from jobs.run_folder import read_json, write_json
from jobs.tracking_address import Address, address, without_secrets
from shards.errors import InputError
from shards.manifest import sha256_of

EXPERIMENT = "acsar"
BLOCK = 900  # metric points in one request; MLflow takes 1000
PARAMS = 90  # parameters or tags in one request; MLflow takes 100
EVERYTHING = "comparisons"  # key of the charts page of all comparisons
MARKS = "acsar.marks"  # tag: what was forwarded, written in the same request as the points
FOLDER = "acsar.folder"  # tag: the comparison's identity, from RUNS/NAME/tracking.json
PART = "acsar.part"
STATE = "acsar.state"
COLOURS = {"joint": "#0072b2", "bone": "#d55e00", "motion": "#009e73"}  # apart for colour-blind eyes too
# a server that does not answer is a line in a report, not minutes of waiting; addresses, which may hold a password, are not printed;
# and nobody is told that MLflow is used
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
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
    finetuned: dict[str, str] = field(default_factory=dict)  # TRIAL/STREAM -> run id


@dataclass
class SyncReport:
    """What one sync did. `problems` is empty when everything was forwarded."""

    uri: str  # without credentials
    experiment: str = ""
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    points: int = 0
    artifacts: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    why: str = ""  # why it goes elsewhere than into the runs folder
    everything: str = ""  # key of the charts page of all comparisons, where there are several

    def line(self) -> str:
        """One line for a terminal."""
        news = f"{self.points} new points, {self.artifacts} new files"
        words = [f"{len(self.comparisons)} comparison(s), {news} -> {self.uri or 'MLflow'} ({self.seconds:.1f} s)"]
        words += [self.why] if self.why else []
        words += [f"not forwarded: {'; '.join(self.problems)}"] if self.problems else []
        return "; ".join(words)


def sync(
    runs: Path, uri: str | None = None, name: str | None = None, wait: float = 10.0, stream: str = "", witness: Witness = replay.this_host
) -> SyncReport:
    """Forward what RUNS/NAME (default: every comparison in RUNS) tells and MLflow does not know yet.

    Idempotent; a sync that was interrupted is completed by the next one. What MLflow or the network refuse, and damaged files,
    are `problems` of the report and raise nothing. `wait`: seconds to wait for another sync to the same sqlite file to end;
    `stream`: of the children only this one is forwarded; `witness` knows about runs whose journal has no end."""
    began = time.monotonic()
    report = SyncReport("")
    names = replay.comparisons(runs) if name is None else [name] if (runs / name).is_dir() else []
    try:
        where = address(runs, uri)
        report.uri, report.why = without_secrets(where.uri), where.why
        if names:
            with _turn(where, wait):
                _sync(runs, where, names, stream, witness, report)
    except InputError as error:
        report.problems.append(str(error))
    except _trouble() as error:
        report.problems.append(_reason(error))
    report.seconds = time.monotonic() - began
    return report


def _sync(runs: Path, where: Address, names: Sequence[str], stream: str, witness: Witness, report: SyncReport) -> None:
    for one in names:
        identity_of(runs / one)
    tracker = _Tracker.open(runs, where)
    report.experiment = tracker.experiment
    for one in names:
        try:
            report.comparisons[one] = _forward(tracker, runs / one, stream, witness, report)
        except InputError as error:
            report.problems.append(str(error))
    report.everything = tracker.view_everything(changed=bool(report.points or report.artifacts))


def _forward(tracker: "_Tracker", folder: Path, only: str, witness: Witness, report: SyncReport) -> Comparison:
    """One comparison: its streams and probes first say what is new, then the parent and they are told."""
    identity = identity_of(folder)
    known = tracker.known(identity, folder.name)
    marks = {part: _marks(run) for part, run in known.items()}
    streams, trials = replay.streams(folder), replay.trials(folder)
    news: list[Part] = []
    others: dict[str, Course] = {}
    for stream in [*streams, *trials]:
        state = replay.state(folder, stream)
        run = known.get(stream)
        if only not in ("", stream):
            others[stream] = replay.course(folder, stream, witness)
        elif run is not None and run.data.tags.get(STATE) == state and run.info.status == replay.FINISHED:
            others[stream] = Course(run.info.status, run.info.start_time, run.info.end_time)
        else:
            tell = replay.trial_part if stream in trials else replay.stream_part
            part = tell(folder, stream, marks.get(stream, {}), witness)
            news.append(dataclasses.replace(part, tags={**part.tags, STATE: state}))
    probes = [] if only else replay.probe_parts(folder, marks)
    children: list[Part | Course] = [*news, *others.values()]
    whole = replay.comparison_part(folder, children or probes, marks.get("", {}))
    parent = known.get("") or tracker.create(whole, identity, folder.name, None)
    for part in [*news, *probes]:
        known[part.key] = known.get(part.key) or tracker.create(part, identity, folder.name, parent.info.run_id)
        tracker.tell(known[part.key], _below(part, parent), report)
    tracker.tell(parent, whole, report)
    if only and whole.ended is None and any(part.ended is not None for part in news):
        # the streams' last forwarders may end at the same moment, each too early for the other's end: whoever writes last looks again
        now = replay.comparison_part(folder, [replay.course(folder, stream, witness) for stream in streams], marks.get("", {}))
        if now.status != whole.status:
            tracker.settle(parent.info.run_id, now)
    metrics = {stream: set(known[stream].data.metrics) if stream in known else set() for stream in streams}
    for part in (part for part in news if part.key in metrics):
        metrics[part.key] |= {point.key for entry in part.entries for point in entry.points}
    begun = [keys for keys in metrics.values() if keys]
    if begun:
        tracker.view(identity, folder.name, set.intersection(*begun))
    return Comparison(
        name=folder.name,
        parent=parent.info.run_id,
        streams={stream: known[stream].info.run_id for stream in streams if stream in known},
        probes={part.key.removeprefix("probe/"): known[part.key].info.run_id for part in probes},
        view=identity,
        running=whole.ended is None,
        finetuned={trial.removeprefix("finetune/"): known[trial].info.run_id for trial in trials if trial in known},
    )


def _below(part: Part, parent: Any) -> Part:
    """The part as this parent's child."""
    return dataclasses.replace(part, tags={**part.tags, "mlflow.parentRunId": parent.info.run_id})


@dataclass(frozen=True)
class _Tracker:
    """An MLflow client and the one experiment that everything goes to."""

    client: Any
    experiment: str
    tags: dict[str, str]  # of the experiment

    @classmethod
    def open(cls, runs: Path, where: Address) -> "_Tracker":
        """Connect; makes the database and the experiment at first use (5-7 s)."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if where.database is not None:
            _readable(where.database)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        import mlflow
        from mlflow.exceptions import MlflowException

        client = mlflow.MlflowClient(tracking_uri=where.uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return cls(client, experiment.experiment_id, experiment.tags)
        # with a server, the server says where artifacts lie
        location = (runs.resolve() / "mlartifacts").as_uri() if where.database is not None else None
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
        """The runs of this comparison by part key, deleted ones too: what somebody deleted is not made again.

        Of several active ones for a part (two hosts made one each at the same moment) one is kept, the same by everybody, and the
        others are deleted: the journal is forwarded to the one that stays, whatever the others had got."""
        from mlflow.entities import LifecycleStage

        found: dict[str, Any] = {}
        for run in self._search(f"tags.`{FOLDER}` = '{identity}'"):
            if run.data.tags.get("comparison") != name:
                continue
            before = found.get(run.data.tags[PART])
            if before is None or before.info.lifecycle_stage != LifecycleStage.ACTIVE:
                found[run.data.tags[PART]] = run
            elif run.info.lifecycle_stage == LifecycleStage.ACTIVE:
                self.client.delete_run(run.info.run_id)
        return found

    def _search(self, query: str) -> list[Any]:
        """All runs, by id."""
        from mlflow.entities import ViewType

        runs: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, ViewType.ALL, 1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return sorted(runs, key=lambda run: str(run.info.run_id))

    def view(self, identity: str, name: str, metrics: set[str]) -> None:
        """The comparison's charts page, under its identity: streams as parallel coordinates, then bars and curves."""
        key, state = f"mlflow.sharedViewState.{identity}", json.dumps(_charts(name, metrics))
        if self.tags.get(key) != state:
            self.client.set_experiment_tag(self.experiment, key, state)

    def view_everything(self, changed: bool) -> str:
        """The charts page of all comparisons, streams and fusions, when there are several; its key, or "". Looks again after news only."""
        if not changed and f"mlflow.sharedViewState.{EVERYTHING}" in self.tags:
            return EVERYTHING
        runs = self.client.search_runs([self.experiment], "tags.kind != 'probe'", max_results=1000)
        if len({run.data.tags.get("comparison") for run in runs}) < 2:
            return ""
        found = {kind: [run for run in runs if run.data.tags.get("kind") == kind] for kind in ("stream", "comparison")}
        metrics = {kind: {key for run in found[kind] for key in run.data.metrics} for kind in found}
        params = {kind: [run.data.params for run in found[kind]] for kind in found}
        key, state = f"mlflow.sharedViewState.{EVERYTHING}", json.dumps(_all_charts(metrics, params))
        if self.tags.get(key) != state:
            self.client.set_experiment_tag(self.experiment, key, state)
            self.tags[key] = state
        return EVERYTHING

    def create(self, part: Part, identity: str, name: str, parent: str | None) -> Any:
        tags = {FOLDER: identity, PART: part.key, "comparison": name, "kind": part.kind, "mlflow.user": getpass.getuser()}
        tags["mlflow.source.name"] = {"probe": "probe.py", "finetune": "finetune.py"}.get(part.kind, "pretrain.py")
        if part.key in COLOURS:
            tags["mlflow.runColor"] = COLOURS[part.key]
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        self.client.create_run(self.experiment, start_time=part.began, tags=tags, run_name=part.title)
        return self.known(identity, name)[part.key]  # another host's, when both made one

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
        newest = {metric.key: metric.step for metric in run.data.to_proto().metrics}
        for block in _blocks(_untold(part.entries, newest)):
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
            self.settle(run_id, part)
        if state is not None and run.data.tags.get(STATE) != state:
            self.client.set_tag(run_id, STATE, state)

    def settle(self, run_id: str, part: Part) -> None:
        """Set a run's status."""
        if part.ended is not None:
            self.client.set_terminated(run_id, part.status, part.ended)
        else:
            self.client.update_run(run_id, part.status)


AXES = ("data_set", "protocol", "recipe", "method", "interaction", "caption_source", "seed", "stream")
LINES = {
    **{"type": "LINE", "xAxisKey": "step", "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "lineSmoothness": 0},
    **{"scaleType": "linear", "xAxisScaleType": "linear", "yAxisKey": "metric", "yAxisExpressions": [], "range": {}},
}


def _charts(name: str, metrics: set[str]) -> dict[str, Any]:
    """What MLflow's runs page keeps when somebody shares a view of it, for the metrics that all streams have."""
    shown = [key for key in ("loss", "held_aside_knn1", "knn1", "linear") if key in metrics]
    cards: list[dict[str, Any]] = [{"type": "PARALLEL", "showAllRuns": True, "selectedParams": ["stream"], "selectedMetrics": shown}]
    cards += [{"type": "BAR", "metricKey": key, "displayName": key} for key in ("linear", "knn1") if key in metrics]
    curves = [key for key in ("loss", "held_aside_knn1", "text_reliance") if key in metrics]
    cards += [{**LINES, "metricKey": key, "displayName": key} for key in curves]
    query = f"tags.comparison = '{name}' and tags.kind = 'stream'"
    return _page(query, {name: cards}, "linear" if "linear" in metrics else "", 10)


def _all_charts(metrics: dict[str, set[str]], params: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """The page of all comparisons: streams, then fused streams, by methods, captions and seeds; for what any of them has.

    An axis is a parameter that not all have alike; a run without a value on an axis is left out of that chart."""

    def parallel(kind: str, keys: Sequence[str]) -> dict[str, Any]:
        telling = [axis for axis in AXES if len({one.get(axis) for one in params[kind]}) > 1 and all(axis in one for one in params[kind])]
        pairs = {(one.get("recipe"), one.get("method")) for one in params[kind]}
        if len(pairs) == len({method for _, method in pairs}):  # a method has one recipe: one axis says it
            telling = [axis for axis in telling if axis != "recipe"]
        found = [key for key in keys if key in metrics[kind]]
        return {"type": "PARALLEL", "showAllRuns": True, "selectedParams": telling, "selectedMetrics": found, "displayName": kind}

    def bars(kind: str, keys: Iterable[str]) -> list[dict[str, Any]]:
        return [{"type": "BAR", "metricKey": key, "displayName": key} for key in keys if key in metrics[kind]]

    single, fused = ("knn1", "linear"), ("linear_joint", "linear_bone", "linear_motion", "fused_top1")
    curves = [key for key in ("loss", "held_aside_knn1", "text_reliance") if key in metrics["stream"]]
    sections = {
        "Streams: methods, captions, seeds": [parallel("stream", single)],
        "Accuracy by stream": bars("stream", reversed(single)),
        "Comparisons: streams and their fusion": [parallel("comparison", fused)],
        "Fused and joint accuracy": bars("comparison", ("fused_top1", "linear_joint")),
        "Pretraining": [{**LINES, "metricKey": key, "displayName": key} for key in curves],
    }
    return _page("tags.kind != 'probe' and tags.kind != 'finetune'", sections, "linear" if "linear" in metrics["stream"] else "", 100)


def _page(query: str, sections: dict[str, list[dict[str, Any]]], order: str, runs: int) -> dict[str, Any]:
    """The state of a runs page: which runs, sorted by which metric (by time the parent would hide its children), which charts."""
    charts, heads = [], []
    for place, (title, cards) in enumerate(sections.items()):
        section = "acsar" if len(sections) == 1 else f"acsar-{place}"
        common = {"metricSectionId": section, "deleted": False, "isGenerated": False, "runsCountToCompare": runs}
        charts += [{"uuid": f"{section}-{i}", **common, **card} for i, card in enumerate(cards)]
        wide = {"columns": 1, "cardHeight": 420} if len(sections) > 1 and [card["type"] for card in cards] == ["PARALLEL"] else {}
        heads.append({"uuid": section, "name": title, "display": True, "isReordered": True, "deleted": False, "isGenerated": False, **wide})
    return {
        "searchFilter": query,
        "orderByKey": f"metrics.`{order or 'loss'}`",
        "orderByAsc": not order,
        "isAccordionReordered": True,
        "compareRunCharts": charts,
        "compareRunSections": heads,
        **({"runsHiddenMode": "SHOWALL"} if runs > 10 else {}),
    }


def _untold(entries: Sequence[Entry], newest: dict[str, int]) -> list[Entry]:
    """Entries without the curves' points up to the step that MLflow has: a tracker that died after the points and before their mark
    leaves no doubles, not even when those steps were done again since."""
    return [
        dataclasses.replace(entry, points=tuple(p for p in entry.points if p.step > newest.get(p.key, -1))) if entry.by_step else entry
        for entry in entries
    ]


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


def identity_of(folder: Path) -> str:
    """The comparison's own id, made once: it stays when the runs folder is moved or seen from another host."""
    path = folder / "tracking.json"
    if not path.is_file():
        draft = folder / f".tracking-{uuid.uuid4().hex}.json"
        write_json(draft, {"id": uuid.uuid4().hex})
        try:
            os.link(draft, path)  # unlike renaming: the first one stays, between hosts too
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            draft.replace(path)
        draft.unlink(missing_ok=True)
    return str(read_json(path)["id"])


@contextlib.contextmanager
def _turn(where: Address, wait: float) -> Iterator[None]:
    """One sync to an sqlite file at a time; the lock goes with the process. A server needs none."""
    if where.database is None:
        yield
        return
    if not where.database.parent.is_dir():
        raise FileNotFoundError(f"no folder {where.database.parent} for the database")
    with (where.database.parent / ".tracking.lock").open("w") as file:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(f"another sync to {where.database} is at work since {wait:.0f} s; it forwards the same") from None
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


def _reason(error: Exception) -> str:
    first = without_secrets((str(error).strip() or type(error).__name__).splitlines()[0])
    hint = "; an sqlite file needs a local disk: MLFLOW_TRACKING_URI=sqlite:////local/disk/mlflow.db" if "lock" in first else ""
    return f"{type(error).__name__}: {first[:300]}{hint}"


def server_command(runs: Path, uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """(command, environment) of an MLflow server for a database, reachable from this machine only and without helper processes."""
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--artifacts-destination", str(runs.resolve() / "mlartifacts")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # everybody on this machine can read a command, so the database's address, which may hold a password, goes another way
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return command, {**os.environ, **ENVIRONMENT, **environment}
