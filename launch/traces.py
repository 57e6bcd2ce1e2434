"""What the files of a unit say: its submission, attempts, journal, ends, errors and beats. No scheduler is asked, nothing is concluded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import InputError, failures, stages
from jobs.replay import STREAMS, process_alive
from jobs.run_folder import RunFolder, attempts, read_json
from launch import beats
from launch.beats import Rank
from launch.evidence import End, read_end
from launch.progress import tail
from launch.unit import Submission, Unit, in_order, units

RECENT = 50  # steps that tell the speed


@dataclass(frozen=True)
class Part:
    """What files say of one part of a unit."""

    name: str
    job: str  # "" = it was never submitted
    here: bool  # what was done last was done without a scheduler
    finished: bool
    cancelled: bool = False
    end: End | None = None  # the last end of this job's ranks
    outrun: bool = False  # ranks were started after that end
    error: dict[str, Any] | None = None  # the first failure of the newest start
    began: bool = False  # the newest attempt is this job's (without a job: there is one)
    last: dict[str, Any] | None = None  # the newest attempt's end in its journal
    wrote: bool = False  # any file of this job is there

    def said_last(self) -> End | None:
        """The end record after which nobody starts the ranks again."""
        return self.end if self.end is not None and not self.outrun and self.end.action in ("stop", "done") else None


@dataclass(frozen=True)
class Traces:
    """What files say of a unit."""

    unit: Unit
    submission: Submission | None
    parts: list[Part]
    start: dict[str, Any] | None = None  # of the newest attempt's journal
    attempts: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)  # newest step records
    ranks: list[Rank] = field(default_factory=list)

    def open_jobs(self) -> list[str]:
        """Jobs that only the scheduler knows more about."""
        return [part.job for part in self.parts if part.job and not part.finished and not part.said_last()]


def names(runs: Path) -> list[str]:
    """The comparisons in RUNS, the one that was begun last at the end."""
    begun: dict[str, float] = {}
    for pattern in ("*/job.json", "*/*/config.json", "*/*/logs/submission.json"):
        for path in runs.glob(pattern):
            name = path.relative_to(runs).parts[0]
            if not name.startswith("."):
                begun[name] = max(begun.get(name, 0.0), path.stat().st_mtime)
    return sorted(begun, key=lambda name: (begun[name], name))


def find(runs: Path, name: str, keys: Sequence[str] = ()) -> Path:
    """RUNS/NAME. Raises InputError naming what there is when the comparison, or one of its units, does not exist."""
    there = names(runs)
    if name not in there:
        told = f"known: {', '.join(there)}" if there else "there is none"
        raise InputError(f"no comparison {name!r} in {runs}; {told} (--runs names another folder)")
    known = keys_of(runs / name)
    for key in keys:
        if key not in known:
            raise InputError(f"{runs / name} has no unit {key!r}; known: {', '.join(known)}")
    return runs / name


def keys_of(run: Path) -> list[str]:
    """Units that were submitted, begun, or planned by the job file."""
    job = run / "job.json"
    planned = read_json(job).get("streams", []) if job.is_file() else []
    begun = [stream for stream in STREAMS if (run / stream / "config.json").is_file() or (run / stream / "attempts").is_dir()]
    return in_order({*planned, *begun, *(unit.key for unit in units(run))})


def gather(unit: Unit) -> Traces:
    """Read the files of a unit. Raises InputError when one is damaged."""
    submission, folder = unit.submitted(), RunFolder(unit.folder)
    newest, claim = _claim(folder)
    records = tail(folder.journal(newest)) if newest and folder.journal(newest).is_file() else []
    owner = str(claim.get("job") or "")
    here = submission is None or (bool(claim) and not owner)  # never submitted, or somebody went on without the scheduler
    jobs = submission.job_ids() if submission else [""]
    ranks = _ranks(unit.folder, [] if here else jobs, newest)
    ends = [end for end in map(read_end, unit.ends.glob("*.json")) if end]
    cancelled = read_json(unit.cancelled) if unit.cancelled.is_file() else None
    begun = [tag for tag in (claim.get("tag"), *(rank.tag for rank in ranks)) if tag]
    parts = []
    for name, job in zip(submission.parts if submission else [unit.key], jobs):
        end = max((end for end in ends if end.job == job), key=lambda end: order(end.tag), default=None)
        mine = bool(newest) and (here or owner == job)
        errors = _errors(unit, job)
        parts.append(
            Part(
                name=name,
                job=job,
                here=here,
                finished=_finished(unit, submission, name),
                cancelled=cancelled is not None and (cancelled["attempt"] >= newest if here else job in cancelled["jobs"]),
                end=end,
                outrun=end is not None and any(job_of(tag) == job and order(tag) > order(end.tag) for tag in begun),
                error=errors[0] if errors else None,
                began=mine,
                last=next((record for record in records if record["type"] == "end"), None) if mine else None,
                wrote=mine or end is not None or bool(errors) or (bool(job) and unit.log(job).is_file()),
            )
        )
    return Traces(
        unit,
        submission,
        parts,
        start=next((record for record in records if record["type"] == "start"), None),
        attempts=newest,
        steps=[record for record in records if record["type"] == "step"][-RECENT:],
        ranks=ranks,
    )


def errors_of(unit: Unit) -> list[dict[str, Any]]:
    """What failed ranks of the newest submission said, each job's newest start, the cause before its echoes."""
    submission = unit.submitted()
    return [error for job in submission.job_ids() for error in _errors(unit, job)] if submission else []


def order(tag: str) -> tuple[int, int]:
    """(restart, round) of a start of ranks."""
    _, restart, number = tag.rsplit(".", 2)
    return int(restart), int(number)


def job_of(tag: str) -> str:
    """The job of a start of ranks."""
    return tag.rsplit(".", 2)[0]


def _claim(folder: RunFolder) -> tuple[int, dict[str, Any]]:
    """The newest attempt's number (0 = none) and what it recorded."""
    claims = attempts(folder)
    if not claims:
        return 0, {}
    number = claims[-1].number
    return number, json.loads((folder.attempts / f"{number:04d}.json").read_text() or "{}")


def _finished(unit: Unit, submission: Submission | None, part: str) -> bool:
    if submission is None or submission.stage in stages.TRAINING:
        return RunFolder(unit.folder).result.is_file()
    return stages.finished(submission.stage, Path(submission.description), part)


def _errors(unit: Unit, job: str) -> list[dict[str, Any]]:
    """What failed ranks of a job's newest start said; complaints about broken communication are echoes and come last."""
    tags = {path.name.rsplit(".", 2)[0] for path in unit.errors.glob(f"{job}.*.json")} if job else set()
    if not tags:
        return []
    return sorted(failures.read(unit.logs, max(tags, key=order)), key=lambda error: (error["communication"], error["rank"]))


def _ranks(folder: Path, jobs: list[str], attempt: int) -> list[Rank]:
    """Beats of the newest start of ranks: by its tag under a scheduler, else (no jobs) by its attempt."""
    if not jobs:
        found = beats.ranks(folder, lambda beat: not beat.get("tag"))
        return [beat for beat in found if beat.attempt == attempt or process_alive(beat.start)]
    found = beats.ranks(folder, lambda beat: job_of(beat.get("tag") or "..") in jobs)
    newest = max((order(beat.tag) for beat in found), default=None)
    return [beat for beat in found if order(beat.tag) == newest]
