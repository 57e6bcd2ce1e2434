"""The stages of a comparison by name: which dataclass each is, how one part of it is run, which file says that it is finished.

A description is the stage's dataclass as JSON (jobs/codec.py), with paths that do not depend on a working directory.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.codec import decode, encode
from jobs.run_folder import read_json, write_json
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
    run = _run_of(job)
    return Path(run, "probe", job["protocol"] or _protocol(run), f"{part}.json").is_file()


def _fused(job: Description, part: str) -> bool:
    """The fused number stands, and every stream in it is the one that was probed last."""
    run = _run_of(job)
    protocol = job["protocol"] or _protocol(run)
    fused = run / "fuse" / f"{protocol}.json"
    if not fused.is_file():
        return False
    wanted = job["streams"] or [probed.stem for probed in (run / "probe" / protocol).glob("*.json")]
    encoders: dict[str, str] = read_json(fused)["encoders"]
    probes = {stream: run / "probe" / protocol / f"{stream}.json" for stream in wanted}
    return all(path.is_file() and read_json(path)["encoder_sha256"] == encoders.get(stream) for stream, path in probes.items())


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


def _run_of(job: Description) -> Path:
    return Path(job["run"])


def _protocol(run: Path) -> str:
    """The protocol of a run: what its streams were trained by."""
    for config in sorted(run.glob("*/config.json")):
        return str(read_json(config)["job"]["protocol"])
    return ""


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
    "prepare": Stage("jobs.prepare", "Prepare", lambda job, part: job(), _prepared),
    "probe": Stage("jobs.probe", "Probe", lambda job, part: (replace(job, streams=(part,)) if part else job)(print), _probed),
    "recaption": Stage("jobs.recaption", "Recaption", lambda job, part: job(print), _recaptioned),
    "fuse": Stage("jobs.fuse", "Fuse", lambda job, part: job(), _fused),
}
