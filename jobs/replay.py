"""What the files of a comparison tell a tracker: one `Part` per stream and probe, and one for the whole; no tracker is known here.

Everything is derived again from RUNS/NAME at each call; `marks` say what was told before, so only news are in `entries`.
"""

import dataclasses
import hashlib
import os
import re
import socket
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs import journal
from jobs.run_folder import RunFolder, read_json

STREAMS = ("joint", "bone", "motion")
POINTS = 2000  # per metric and schedule: longer ones are told as means over equal stretches of steps
SCHEDULED, RUNNING, FINISHED, FAILED, KILLED = "SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"
STATUS = {"finished": FINISHED, "failed": FAILED, "nonfinite": FAILED, "stopped": KILLED, "interrupted": KILLED}
# where a run lies and how it was started, not what it is: tags, so that they never stand in a comparison's axes
PLACES = (
    *("data", "runs", "name", "streams", "stop_after", "save_every", "keep_last", "keep_every", "keep_best"),
    *("workers", "allow_label_text", "allow_large_queue"),
    *("host", "pid", "threads", "cpus", "platform", "devices"),
)
BESIDE = re.compile(
    r"(random_|raw_)?(linear|knn1)(_low|_high)?|linear_last|linear_best_on_test|top5"
)  # what of a probe stands beside its stream's curves
PICTURES = {".png", ".gif", ".mp4"}
# lists and settings of a report, which are no results
NO_METRIC = {"weights", "held_aside_subjects", "asked", "seed", "pretrain_seed"}
VERSION = 2  # of what a stream is told to be: another one is told once more
TABLE = ("linear", "knn1", "random_linear", "random_knn1", "raw_linear", "raw_knn1")

Marks = Mapping[str, str]


@dataclass(frozen=True)
class Point:
    """One value of one metric; time in milliseconds."""

    key: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class Entry:
    """Points that come from one place; when they are told, `marks[source] = mark` is to be remembered with them."""

    source: str
    mark: str
    points: tuple[Point, ...]
    by_step: bool = False  # a curve: what the tracker has up to a step is not told again, whatever the marks say


@dataclass(frozen=True)
class Part:
    """One line of the tracker: a stream, a probe, a fine-tuning, or (key "") the comparison they belong to."""

    key: str
    title: str
    kind: Literal["comparison", "stream", "probe", "finetune"]
    status: str
    began: int  # milliseconds
    ended: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    artifacts: dict[str, Path] = field(default_factory=dict)  # name in the tracker's folder -> file


@dataclass(frozen=True)
class Course:
    """How a stream goes or went: what its comparison needs of it. Times in milliseconds."""

    status: str
    began: int
    ended: int | None


# (RUNS/NAME/STREAM, its newest start record or None, the end record after it or None) -> SCHEDULED, RUNNING or KILLED by somebody
# who knows more than the journal (a scheduler, the host itself); None: the journal's own word holds
Witness = Callable[[Path, journal.Record | None, journal.Record | None], str | None]


def this_host(stream: Path, start: journal.Record | None, end: journal.Record | None) -> str | None:
    """What this host's processes say of a stream that has begun and not ended."""
    alive = None if start is None or end is not None else process_alive(start)
    return None if alive is None else RUNNING if alive else KILLED


def process_alive(start: Mapping[str, Any]) -> bool | None:
    """Does the process of a journal's start record still run? None when only another host could tell.

    A process id that was given to a younger process counts as gone."""
    if start.get("host") != socket.gethostname() or not Path("/proc/self/stat").is_file():
        return None
    try:
        ticks = int(Path(f"/proc/{int(start['pid'])}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return False
    boot = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return boot + ticks / os.sysconf("SC_CLK_TCK") <= float(start["time"]) + 2


def comparisons(runs: Path) -> list[str]:
    """Names of the comparisons in RUNS (a folder with a job, a stream or a probe in it), the newest stream last."""
    found: dict[Path, float] = {}
    for path in runs.glob("*/*/config.json"):
        if path.parent.name in STREAMS:
            found[path.parent.parent] = max(found.get(path.parent.parent, 0.0), path.stat().st_mtime)
    for path in runs.glob("*/job.json"):
        found.setdefault(path.parent, path.stat().st_mtime)
    for path in runs.glob("*/probe/*/*.json"):
        found.setdefault(path.parents[2], 0.0)
    return [folder.name for folder, _ in sorted(found.items(), key=lambda item: (item[1], item[0].name))]


def streams(comparison: Path) -> list[str]:
    """The streams of RUNS/NAME that have a configuration or wait in a scheduler's queue for it, in the usual order."""
    return [name for name in STREAMS if _config(comparison / name).is_file()]


def _config(stream: Path) -> Path:
    """The stream's configuration; before its first start, what was submitted for it."""
    folder = RunFolder(stream)
    return folder.config if folder.config.is_file() else folder.logs / "submission.json"


def state(comparison: Path, stream: str) -> str:
    """Names and sizes of the files that a stream's part is made of: equal state, equal part."""
    folder = RunFolder(comparison / stream)
    files = [
        _config(folder.path),
        folder.result,
        *sorted(folder.journal(0).parent.glob("*.jsonl")),
        *sorted(folder.attempts.glob("*.json")),
    ]
    files += [*sorted((comparison / "probe").glob(f"*/{stream}.json")), *sorted((comparison / "semi").glob(f"*/{stream}.json"))]
    seen: list[object] = [VERSION]
    seen += [(path.name, stat.st_size, stat.st_mtime_ns) for path in files if path.is_file() for stat in [path.stat()]]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def course(comparison: Path, stream: str, witness: Witness = this_host) -> Course:
    """How RUNS/NAME/STREAM goes or went. Raises InputError when a file is damaged."""
    return _course(RunFolder(comparison / stream), journal.read(comparison / stream), witness)


def _course(folder: RunFolder, records: list[journal.Record], witness: Witness) -> Course:
    start, end = _ends(records)
    if (end is not None and end["status"] == "finished") or (end is None and folder.result.is_file()):
        status = FINISHED
    else:
        own = STATUS.get(str(end["status"]), FAILED) if end is not None else SCHEDULED if start is None else RUNNING
        status = witness(folder.path, start, end) or own
    times = [record["time"] for record in records]
    began = _ms(min(times)) if times else _mtime(_config(folder.path))
    return Course(status, began, None if status in (SCHEDULED, RUNNING) else _ms(max(times)) if times else began)


def _ends(records: list[journal.Record]) -> tuple[journal.Record | None, journal.Record | None]:
    """The newest start, and the end that came after it."""
    start, end = journal.last(records, "start"), journal.last(records, "end")
    return start, None if start is not None and end is not None and end["attempt"] < start["attempt"] else end


def stream_part(comparison: Path, stream: str, marks: Marks, witness: Witness = this_host) -> Part:
    """RUNS/NAME/STREAM: parameters, the journal's numbers, the probes' numbers beside them, and how it ended.

    Raises InputError when a file is damaged."""
    folder = RunFolder(comparison / stream)
    config = read_json(folder.config) if folder.config.is_file() else {}
    records = journal.read(folder.path)
    start, end = _ends(records)
    how = _course(folder, records, witness)
    params, tags = _facts(config)
    params["stream"] = stream
    if start is not None:
        params["world"] = str(start["world"])
        tags |= {"host": str(start["host"]), "attempts": str(start["attempt"])}
    if end is not None:
        tags |= {"end": str(end["status"]), "end.message": str(end.get("message") or "")}
    entries = [*_step_entries(records, marks), *_eval_entries(records, marks)]
    if end is not None and int(marks.get("end", 0)) < end["attempt"]:
        entries.append(Entry("end", str(end["attempt"]), tuple(_summary(records, end)), by_step=True))
    for path in sorted((comparison / "probe").glob(f"*/{stream}.json")):
        prefix = _prefix(path.parent.name, params)
        for entry in _document(path, f"probe/{path.parent.name}", marks, prefix):
            kept = tuple(point for point in entry.points if BESIDE.fullmatch(point.key.removeprefix(prefix)))
            entries.append(dataclasses.replace(entry, points=kept))
    for path in sorted((comparison / "semi").glob(f"*/{stream}.json")):
        entries += _semi_entries(path, marks, _prefix(path.parent.name, params))
    return Part(
        key=stream,
        title=f"{stream} {comparison.name}",
        kind="stream",
        status=how.status,
        began=how.began,
        ended=how.ended,
        params=params,
        tags={**tags, "stream": stream},
        entries=tuple(entries),
        artifacts={path.name: path for path in (folder.config, folder.result) if path.is_file()},
    )


def trials(comparison: Path) -> list[str]:
    """Fine-tunings of a comparison that have begun: finetune/TRIAL/STREAM."""
    found = sorted((comparison / "finetune").glob("*/*/config.json"))
    return [path.parent.relative_to(comparison).as_posix() for path in found if path.parent.name in STREAMS]


def trial_part(comparison: Path, key: str, marks: Marks, witness: Witness = this_host) -> Part:
    """RUNS/NAME/finetune/TRIAL/STREAM: a course as a stream's, what it came to, and the comparison's parameters that it shares."""
    _, trial, stream = key.split("/")
    path = comparison / key
    part = stream_part(comparison, key, marks, witness)
    pretrained = comparison / stream / "config.json"
    params, tags = _facts(read_json(pretrained)) if pretrained.is_file() else ({}, {})
    entries = _tuned_entries(path / "result.json", marks) if (path / "result.json").is_file() else []
    return dataclasses.replace(
        part,
        title=f"{stream} finetune {trial} {comparison.name}",
        kind="finetune",
        params={**params, **part.params, "stream": stream, "trial": trial},
        tags={**tags, **part.tags, "stream": stream, "trial": trial},
        entries=(*part.entries, *entries),
    )


def probe_reports(comparison: Path) -> list[Path]:
    """RUNS/NAME/probe/SETTING/STREAM.json, sorted; what a scheduler leaves beside them (probe/logs) is none."""
    return sorted(path for path in (comparison / "probe").glob("*/*.json") if path.stem in STREAMS)


def probe_parts(comparison: Path, marks: Mapping[str, Marks]) -> list[Part]:
    """RUNS/NAME/probe/PROTOCOL/STREAM.json, one part each; `marks` by part key."""
    parts = []
    for path in probe_reports(comparison):
        stream, protocol = path.stem, path.parent.name
        key = f"probe/{protocol}/{stream}"
        config = comparison / stream / "config.json"
        params, tags = _facts(read_json(config)) if config.is_file() else ({}, {})
        document = read_json(path)
        words = {name: value for name, value in document.items() if isinstance(value, str | bool)}
        said = {name: str(words[name]) for name in ("protocol", "schedule", "transfer") if words.get(name)}
        parts.append(
            Part(
                key=key,
                title=f"{stream} probe {protocol} {comparison.name}",
                kind="probe",
                status=FINISHED,
                began=_mtime(path),
                ended=_mtime(path),
                params={**params, "stream": stream, "protocol": protocol, **said, "setting": protocol},
                tags={
                    **tags,
                    "stream": stream,
                    **({"transductive": "true"} if document.get("transductive", params.get("protocol", protocol) != protocol) else {}),
                    **{f"probe.{_key(name)}": str(value) for name, value in words.items()},
                },
                entries=tuple(_document(path, key, marks.get(key, {}), "")),
                artifacts={path.name: path},
            )
        )
    return parts


def comparison_part(comparison: Path, children: Sequence[Part | Course], marks: Marks) -> Part:
    """The whole of RUNS/NAME: what its streams share, fused and single numbers, figures; `children` are all its streams."""
    paths = {stream: comparison / stream / "config.json" for stream in streams(comparison)}
    configs = {stream: _facts(read_json(path)) for stream, path in paths.items() if path.is_file()}
    shared: dict[str, str] = {}
    tags: dict[str, str] = {}
    if configs:
        first_params, first_tags = next(iter(configs.values()))
        shared = {k: v for k, v in first_params.items() if all(params.get(k) == v for params, _ in configs.values())}
        tags = {k: v for k, v in first_tags.items() if all(other.get(k) == v for _, other in configs.values())}
    entries: list[Entry] = []
    for path in probe_reports(comparison):
        protocol, stream = path.parent.name, path.stem
        source = f"probe/{protocol}/{stream}"
        for entry in _document(path, source, marks, _prefix(protocol, shared)):
            kept = [Point(f"{p.key}_{stream}", p.value, p.time, p.step) for p in entry.points if p.key.rpartition("/")[2] in TABLE]
            entries.append(Entry(source, entry.mark, tuple(kept)))
    for path in fusions(comparison):
        entries += _document(path, f"fuse/{path.stem}", marks, _prefix(path.stem, shared) + "fused_")
    ends = [child.ended or child.began for child in children]
    known = {child.status for child in children}
    status = next((s for s in (RUNNING, FAILED, KILLED, FINISHED) if s in known), SCHEDULED)
    if SCHEDULED in known and len(known) > 1:
        status = RUNNING
    return Part(
        key="",
        title=comparison.name,
        kind="comparison",
        status=status,
        began=min((child.began for child in children), default=_mtime(comparison)),
        ended=None if status in (RUNNING, SCHEDULED) else max(ends, default=_mtime(comparison)),
        params={**shared, "stream": ",".join(paths)} if configs else {},
        tags={**tags, "mlflow.note.content": _note(comparison)},
        entries=tuple(entries),
        artifacts={str(path.relative_to(comparison)): path for path in _figures(comparison / "figures")},
    )


def fusions(comparison: Path) -> list[Path]:
    """RUNS/NAME/fuse/SETTING.json, sorted; the job's description beside them is none."""
    return sorted(path for path in (comparison / "fuse").glob("*.json") if path.stem != "job")


def _pictures(comparison: Path) -> list[Path]:
    """All that was drawn or filmed."""
    return sorted(path for path in (comparison / "figures").rglob("*") if path.suffix in PICTURES and not path.name.startswith("."))


def numbers(document: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a JSON document by a flat name; a pair of numbers is an interval: NAME_low and NAME_high.

    The word "intervals" in a name says nothing that low and high do not, and is left out. Weights of fused streams are no results."""
    found: dict[str, float] = {}
    for name, value in document.items():
        if name == "weights":
            continue
        key = prefix if name in ("interval", "intervals") else f"{prefix}_{name}" if prefix else str(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[_key(key)] = float(value)
        elif isinstance(value, Mapping):
            found |= numbers(value, key)
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            found[_key(f"{key}_low")], found[_key(f"{key}_high")] = float(value[0]), float(value[1])
    return found


def _step_entries(records: Sequence[Mapping[str, Any]], marks: Marks) -> list[Entry]:
    """The step records after the mark; a long schedule is told by the mean of each stretch of steps."""
    total = max((record["steps"] for record in records if record["type"] == "start"), default=0)
    stretch = max(1, -(-total // POINTS))
    told = int(marks.get("step", 0))
    entries: list[Entry] = []
    waiting: list[Mapping[str, Any]] = []
    for record in records:
        if record["type"] != "step" or record["step"] <= told:
            continue
        waiting.append(record)
        if record["step"] % stretch == 0 or record["step"] == total:
            entries.append(Entry("step", str(record["step"]), tuple(_step_points(waiting)), by_step=True))
            waiting = []
    return entries


def _step_points(stretch: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Means over a stretch of steps, at its last step."""
    columns: dict[str, list[float]] = {}
    for record in stretch:
        row = {
            "loss": record["loss"],
            **{f"loss/{name}": value for name, value in record["losses"].items()},
            "lr": record["lr"],
            "step_ms": record["step_ms"],
            "samples_per_s": record["samples_per_s"],
            "data_wait_share": _wait_share([record]),
            "equal_captions": record.get("equal_captions"),
        }
        for key, value in row.items():
            if value is not None:
                columns.setdefault(_key(key), []).append(float(value))
    newest = stretch[-1]
    return [Point(key, sum(values) / len(values), _ms(newest["time"]), newest["step"]) for key, values in columns.items()]


def _eval_entries(records: Sequence[Mapping[str, Any]], marks: Marks) -> list[Entry]:
    told = int(marks.get("eval", 0))
    return [
        Entry(
            "eval",
            str(record["step"]),
            tuple(Point(_key(k), float(v), _ms(record["time"]), record["step"]) for k, v in record["metrics"].items() if v is not None),
            by_step=True,
        )
        for record in records
        if record["type"] == "eval" and record["step"] > told
    ]


def _summary(records: Sequence[Mapping[str, Any]], end: Mapping[str, Any]) -> list[Point]:
    """Speed over all steps that count: medians, the 95th percentile, and the share of time spent waiting for data."""
    steps = [record for record in records if record["type"] == "step"]
    if not steps:
        return []
    times = sorted(float(record["step_ms"]) for record in steps)
    values = {
        "step_ms_p50": statistics.median(times),
        "step_ms_p95": times[min(len(times) - 1, int(0.95 * len(times)))],
        "samples_per_s_p50": statistics.median(float(record["samples_per_s"]) for record in steps),
        "data_wait_share_total": _wait_share(steps),
        "steps_done": float(steps[-1]["step"]),
    }
    return [Point(key, value, _ms(end["time"]), int(end["step"])) for key, value in values.items()]


def _wait_share(steps: Sequence[Mapping[str, Any]]) -> float:
    """Waiting for data as a share of the step times, which contain it."""
    whole = sum(float(record["step_ms"]) for record in steps)
    return sum(float(record["data_wait_ms"]) for record in steps) / whole if whole else 0.0


def _document(path: Path, source: str, marks: Marks, prefix: str) -> list[Entry]:
    """The numbers of one JSON file, told again only when its content changes."""
    content = path.read_bytes()
    mark = hashlib.sha256(content).hexdigest()[:16]
    if marks.get(source) == mark:
        return []
    stamp = _mtime(path)
    found = numbers({name: value for name, value in read_json(path).items() if name not in NO_METRIC})
    # what a comparison is about comes first: trackers show the first metric by default
    ordered = {key: found[key] for key in (*TABLE, *sorted(found)) if key in found}
    return [Entry(source, mark, tuple(Point(prefix + key, value, stamp, 0) for key, value in ordered.items()))]


def _semi_entries(path: Path, marks: Marks, prefix: str) -> list[Entry]:
    """Semi-supervised numbers of a stream: semi_1, semi_5, ... (percent of the labels), with interval, and the random encoder's."""
    source, mark, stamp = f"semi/{path.parent.name}", hashlib.sha256(path.read_bytes()).hexdigest()[:16], _mtime(path)
    if marks.get(source) == mark:
        return []
    points = []
    for row in read_json(path)["rows"]:
        share = f"{100 * row['fraction']:g}"
        name = f"{prefix}semi_{share}"
        found = {name: row["mean"], f"{name}_low": row["interval"][0], f"{name}_high": row["interval"][1]}
        found |= {f"{name}_{kind}": row[f"{kind}_mean"] for kind in ("random", "raw") if row.get(f"{kind}_mean") is not None}
        points += [Point(key, float(value), stamp, 0) for key, value in found.items()]
    return [Entry(source, mark, tuple(points))]


def _tuned_entries(path: Path, marks: Marks) -> list[Entry]:
    """What a fine-tuning came to."""
    mark, stamp, result = hashlib.sha256(path.read_bytes()).hexdigest()[:16], _mtime(path), read_json(path)
    if marks.get("result") == mark:
        return []
    found = {name: result[name] for name in ("top1", "top5", "best_on_test", "labelled", "fraction") if result.get(name) is not None}
    found |= dict(zip(("top1_low", "top1_high"), result.get("interval") or ()))
    return [Entry("result", mark, tuple(Point(name, float(value), stamp, 0) for name, value in found.items()))]


def _prefix(protocol: str, params: Mapping[str, str]) -> str:
    """Numbers of another protocol than the trained one carry its name."""
    return "" if params.get("protocol", protocol) == protocol else f"{protocol}/"


def _facts(config: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """(parameters, tags) of a stream's config.json: what may differ between runs to compare, and the rest."""
    job, facts = dict(config.get("job", {})), dict(config.get("facts", {}))
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    versions = facts.pop("versions", {})
    if isinstance(versions, Mapping):
        tags |= {f"version.{name}": str(value) for name, value in versions.items()}
    for name, value in {**_flat(job), **_flat(facts)}.items():
        if name in PLACES or name == "method.stream":
            tags[name] = value
        else:
            params[name] = value
    method = job.get("method")
    if isinstance(method, Mapping):
        text = "tau_cross" in method
        params["method"] = "acsar" if text else "scdnet"
        # axes that every run has: a chart of parallel coordinates leaves out runs without one
        params["interaction"] = str(method.get("interaction", "none")) if text else "no text"
        params["caption_source"] = str(facts.get("provenance") or "unknown") if text else "no text"
    if "data" in job:
        params["data_set"] = Path(str(job["data"])).name
    for name in ("content_id", "commit"):
        if name in params:
            tags[name] = params[name]
            short, plus, changes = params[name].partition("+")  # +changes: not all of it was committed
            params[name] = short[:12] + plus + changes
    if tags.get("commit"):
        tags["mlflow.source.git.commit"] = tags["commit"].partition("+")[0]
    for name in ("recipe", "protocol", "benchmark", "supervision", "provenance", "transductive"):
        if name in params:
            tags[name] = params[name]
    return params, tags


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            found[_key(prefix + str(name))] = ",".join(str(v) for v in value)
        else:
            found[_key(prefix + str(name))] = "none" if value is None else str(value)
    return found


def _note(comparison: Path) -> str:
    """A table of the probes' and the fused numbers, as markdown."""
    rows: dict[str, list[str]] = {}
    sentences: list[str] = []
    for path in probe_reports(comparison):
        document = read_json(path)
        sentences += [f"- {sentence}" for sentence in document.get("sentences", [])]
        found = numbers(document)
        cells = [f"{found[name]:.1f}" if name in found else "" for name in TABLE]
        rows.setdefault(path.parent.name, []).append("| " + " | ".join([path.stem, *cells]) + " |")
    lines = []
    for protocol, found_rows in rows.items():
        lines += [f"**{protocol}** (percent)", "", "| " + " | ".join(["stream", *TABLE]) + " |", "|" + " --- |" * (len(TABLE) + 1)]
        lines += [*found_rows, ""]
    for path in fusions(comparison):
        found = numbers(read_json(path))
        words = [f"top-{k} {found[f'top{k}']:.1f}" for k in (1, 5) if f"top{k}" in found]
        lines.append(f"Fused, {path.stem}: {', '.join(words)}")
    return "\n".join([*lines, "", *sentences])


def _figures(folder: Path) -> list[Path]:
    """Pictures and films below RUNS/NAME/figures, those in subfolders too."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".gif", ".mp4") and not path.name.startswith("."))


def _key(name: str) -> str:
    """A name with the characters that trackers accept."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _mtime(path: Path) -> int:
    return _ms(path.stat().st_mtime)
