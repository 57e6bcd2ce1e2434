"""The stages of a comparison by name: which dataclass each is, how one part of it is run, which file says that it is finished.

A description is the stage's dataclass as JSON (jobs/codec.py), with paths that do not depend on a working directory.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.codec import decode, encode
from jobs.replay import probe_reports
from jobs.run_folder import read_json, write_json
from jobs.settings import semi_setting, setting
from shards.errors import InputError

Description = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a stage of many items has come, by its files."""

    done: int
    total: int
    rate: float | None = None  # items per second, of all processes together
    left_s: float | None = None
    what: str = "clips"


@dataclass(frozen=True)
class Stage:
    """One stage. Its module is imported when it is run: looking at what is finished, or how far it has come, needs no torch."""

    module: str
    name: str  # of the dataclass
    run: Callable[[Any, str], Any]  # (job, part) -> what the part came to
    finished: Callable[[Description, str], bool]
    progress: Callable[[Description, Sequence[str]], Progress | None] | None = None  # of these parts; None: it is not counted
    # (description, part, tag) -> items of a part that were there before the start of ranks of this tag, and that are there now
    reached: Callable[[Description, str, str], tuple[int, int]] | None = None


def write_job(job: Any, path: Path) -> Path:
    """Write a stage's dataclass as a description; returns the path."""
    write_json(path, encode(job))
    return path


def run(stage: str, description: Path, part: str) -> Any:
    """Run one part ("" = all of it) of the described job in this process; what it came to, as JSON values.

    Raises InputError for what the user can mend."""
    if not description.is_file():
        raise InputError(f"{description} does not exist; it is the JSON file that a launch script writes for its workers")
    known = STAGES[stage]
    job = decode(getattr(importlib.import_module(known.module), known.name), read_json(description))
    return known.run(job, part)


def finished(stage: str, description: Path, part: str) -> bool:
    """Has this part been done to its end? A description that another stage has yet to write says no."""
    if not description.is_file():
        return False
    done: bool = STAGES[stage].finished(read_json(description), part)
    return done


def progress(stage: str, description: Path, parts: Sequence[str]) -> Progress | None:
    """How far these parts have come; None where the stage does not count, or has not begun."""
    count = STAGES[stage].progress
    return count(read_json(description), parts) if count is not None and description.is_file() else None


def reached(stage: str, description: Path, part: str, tag: str) -> tuple[int, int] | None:
    """How many items of a part there were before this start of ranks, and how many there are now; None where the stage does not count."""
    count = STAGES[stage].reached
    return count(read_json(description), part, tag) if count is not None and description.is_file() else None


def _prepared(job: Description, part: str) -> bool:
    return Path(job["job"]["runs"], job["job"]["name"], "job.json").is_file()


def _probed(job: Description, part: str) -> bool:
    return Path(_run_of(job), "probe", _setting(job), f"{part}.json").is_file()


def _semi(job: Description, part: str) -> bool:
    """All the fractions stand, from as many subsets."""
    transfer = Path(job["transfer"]).name if job["transfer"] else ""
    name = semi_setting(job["protocol"] or _protocol(_run_of(job)), job["draw"], job["schedule"], transfer)
    path = _run_of(job) / "semi" / name / f"{part}.json"
    if not path.is_file():
        return False
    rows = read_json(path)["rows"]
    return [row["fraction"] for row in rows] == job["fractions"] and all(len(row["repeats"]) == job["repeats"] for row in rows)


def _fused(job: Description, part: str) -> bool:
    """The fused number stands, by these weights and this rule, and every stream in it is the one that was probed or fine-tuned last."""
    run, trial = _run_of(job), job.get("finetune")
    name = f"finetune-{trial}" if trial else _setting(job)
    fused = run / "fuse" / f"{name}.json"
    if not fused.is_file():
        return False
    said = read_json(fused)
    if any(said.get("asked", {}).get(way, otherwise) != job.get(way, otherwise) for way, otherwise in AS_THE_PAPER.items()):
        return False
    folder, file = (run / "finetune" / trial, "*/result.json") if trial else (run / "probe" / name, "*.json")
    results = {path.parent.name if trial else path.stem: path for path in folder.glob(file)}
    wanted = job["streams"] or list(results)
    return all(name in results and read_json(results[name])["encoder_sha256"] == said["encoders"].get(name) for name in wanted)


AS_THE_PAPER = {"weights": "paper", "rule": "softmax"}  # how streams are fused unless something else is asked for


def _captioned(job: Description, part: str) -> bool:
    """A slice that has its final name, or (gather) all captions and what this gate says of them."""
    out = Path(job["out"])
    if part not in ("gather", ""):
        return (out / "slices" / f"{part}.jsonl").is_file()
    report = out / "report.json"
    if not (report.is_file() and (out / "captions.jsonl").is_file()):
        return False
    said = read_json(report)
    through: bool = said["passed"] or job["gate"] == "report"
    return through and said["gate"] == {"gate": job["gate"], "limits": job["limits"]}


def _captions(job: Description, parts: Sequence[str]) -> Progress | None:
    from jobs import caption_slices

    out = Path(job["out"])
    return None if list(parts) == ["gather"] or not (out / caption_slices.PLAN).is_file() else caption_slices.progress(out)


def _described(job: Description, part: str, tag: str) -> tuple[int, int]:
    from jobs import caption_slices

    return caption_slices.reached(Path(job["out"]), part, tag)


def _encoded(job: Description, part: str) -> bool:
    """A slice that has its final name, or (gather) the whole store."""
    out = Path(job["out"])
    return (out / ("index.jsonl" if part in ("gather", "") else f"slices/{part}.jsonl")).is_file()


def _encoding(job: Description, parts: Sequence[str]) -> Progress | None:
    told = _captions(job, parts)
    return replace(told, what="captions") if told else None


def _recaptioned(job: Description, part: str) -> bool:
    """The new captions are packed, or (list_only) the worst are listed."""
    return Path(job["out"], "worst.html" if job["list_only"] else "report.json").is_file()


def _drawn(job: Description, part: str) -> bool:
    """The figures stand, and were drawn from the probes and results that are there now."""
    from jobs import drawn

    return drawn.up_to_date(job)


def _reported(job: Description, part: str) -> bool:
    """The report stands, and is of what its runs' probes say now."""
    out = Path(job["out"] or Path(job["folder"] or "runs", "reports", job["name"]))
    if not (out / "report.json").is_file():
        return False
    probes: dict[str, str] = read_json(out / "report.json")["probes"]
    return probes == {str(path): read_json(path)["encoder_sha256"] for run in job["runs"] for path in probe_reports(Path(run))}


def _run_of(job: Description) -> Path:
    return Path(job["run"])


def _setting(job: Description) -> str:
    """Which folder of RUNS/NAME/probe a probe or a fusion is about."""
    transfer = job.get("transfer")
    return setting(job["protocol"] or _protocol(_run_of(job)), job.get("schedule", "official"), Path(transfer).name if transfer else "")


def _protocol(run: Path) -> str:
    """The protocol of a run: what its streams were trained by."""
    for config in sorted(run.glob("*/config.json")):
        return str(read_json(config)["job"]["protocol"])
    return ""


# a stream of these has a run folder: a signal asks it to save and leave, and the same command goes on
TRAINING = ("pretrain", "finetune")

STAGES = {
    "caption": Stage("jobs.caption", "Caption", lambda job, part: job(part), _captioned, _captions, _described),
    "encode-text": Stage("jobs.encode_text", "EncodeText", lambda job, part: job(part), _encoded, _encoding, _described),
    "pack": Stage("jobs.pack", "Pack", lambda job, part: job(), lambda job, part: (Path(job["out"]) / "manifest.json").is_file()),
    "pretrain": Stage(
        "jobs.pretrain",
        "Pretrain",
        lambda job, part: job(part),
        lambda job, part: (Path(job["runs"]) / job["name"] / part / "result.json").is_file(),
    ),
    "finetune": Stage(
        "jobs.finetune",
        "Finetune",
        lambda job, part: job(part),
        lambda job, part: Path(job["run"], "finetune", job["name"], part, "result.json").is_file(),
    ),
    "semi": Stage(
        "jobs.semi",
        "Semi",
        lambda job, part: (replace(job, streams=(part,)) if part else job)(print),
        _semi,
    ),
    "prepare": Stage("jobs.prepare", "Prepare", lambda job, part: job(), _prepared),
    "probe": Stage("jobs.probe", "Probe", lambda job, part: (replace(job, streams=(part,)) if part else job)(print), _probed),
    "recaption": Stage("jobs.recaption", "Recaption", lambda job, part: job(print), _recaptioned),
    "fuse": Stage("jobs.fuse", "Fuse", lambda job, part: job(), _fused),
    "report": Stage("jobs.report", "Report", lambda job, part: job(), _reported),
    "figures": Stage("jobs.figures", "Figures", lambda job, part: [str(path) for path in job(print)], _drawn),
}
