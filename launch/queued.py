"""Units of a comparison in Slurm's queue: submit what is missing, say where everything is, wait if asked to."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import InputError, stages
from jobs.codec import encode
from jobs.configuration import differences
from jobs.prepare import describe
from jobs.pretrain import STREAMS, Pretrain
from jobs.run_folder import read_json
from launch import scheduler
from launch.data import say
from launch.profiles import Profile
from launch.progress import Display
from launch.snapshot import snapshot
from launch.submission import Shape, submit
from launch.tracking import tracked
from launch.unit import Unit
from launch.view import ALIVE, Slurm, UnitView, look

ASK_EVERY = 10.0  # seconds between two questions to the scheduler while waiting
POLL = 1.0
DONE = ("finished", "stopped")  # states of units with which all is well


def described(job: Pretrain) -> Path:
    """Write RUNS/NAME/job.json. Raises InputError when streams of another configuration trained under this name, or wait in the queue:
    they read the file when they start."""
    refuse_another(job.runs / job.name, job)
    return describe(job)


def refuse_another(run: Path, job: Any) -> None:
    """Raise InputError when streams of another configuration than this job's (a dataclass) wait in the queue for the folder `run`."""
    waiting = [number for stream in STREAMS for number in in_queue(Unit(run, stream)).values()]
    told = differences(read_json(run / "job.json"), encode(job)) if waiting else ""
    if told:
        raise InputError(f"{run} has jobs of another configuration in the queue ({', '.join(waiting)}): {told}; give another --name")


def submit_streams(job: Pretrain, shape: Shape, profile: Profile, after: Sequence[str] = ()) -> dict[str, list[str]]:
    """A job for every stream that is neither finished nor in the queue; {stream: job ids} of those that are in the queue now.

    Raises InputError with the scheduler's words when it refuses; streams that were submitted before that stay."""
    run = job.runs / job.name
    code = snapshot(job.runs)
    units = {stream: Unit(run, stream) for stream in job.streams}
    return {s: submit_missing(unit, "pretrain", run / "job.json", [s], shape, profile, code, after) for s, unit in units.items()}


def submit_missing(
    unit: Unit, stage: str, description: Path, parts: Sequence[str], shape: Shape, profile: Profile, code: Path, after: Sequence[str] = ()
) -> list[str]:
    """Submit the parts of a unit that are neither finished nor in the queue, and say so; the job ids that are in the queue now."""
    earlier, queued = unit.submitted(), in_queue(unit)
    missing = [part for part in parts if part not in queued and not stages.finished(stage, description, part)]
    for job in queued.values():
        say(f"{unit.key}: job {job} is in the queue already")
    if queued and missing:  # a unit has one newest submission, by which its parts are found
        say(f"{unit.key}: {', '.join(missing)} can be submitted again when these have ended")
    if queued:
        return list(queued.values())
    if not missing:
        say(f"{unit.key}: finished before")
        return []
    submission = submit(unit, stage, description, missing, shape, profile, code, after, earlier=earlier)
    jobs = [job for job, _, _ in submission.jobs]
    waits = f" after {', '.join(after)}" if after else ""
    say(f"{unit.key}: job {', '.join(jobs)}{waits}, log {unit.log(submission.job_of(0))}")
    return jobs


def in_queue(unit: Unit) -> dict[str, str]:
    """{part: job id} of the unit's newest submission, where the job is not over yet."""
    submission = unit.submitted()
    if submission is None:
        return {}
    known = scheduler.jobs(submission.job_ids())
    parts = dict(zip(submission.parts, submission.job_ids()))
    return {part: job for part, job in parts.items() if job in known and not scheduler.over(known[job].state)}


def wait(run: Path, keys: Sequence[str], until: int, track: bool) -> list[UnitView]:
    """Stay until nobody works on any of these units any more, under a live display of the streams; what each came to.

    Ctrl-C leaves the display, not the jobs."""
    slurm, streams = Slurm(every=ASK_EVERY), tuple(key for key in keys if key in STREAMS)
    try:
        with tracked(run.parent, run.name, track), Display(run, streams, until) as display:
            while True:
                views = [view for view in look(run, slurm) if view.key in keys]
                ended = {view.key: 0 for view in views if view.state not in ALIVE}
                display.show({view.key for view in views if view.state == "running"}, ended)
                if len(ended) == len(keys):
                    break
                time.sleep(POLL)
    except KeyboardInterrupt:
        say("the jobs go on without this display")
        raise
    for view in views:
        say(f"{view.key}: {view.state}" + (f": {view.why}" if view.why else ""))
    return views


def what_next(run: Path) -> None:
    """The commands that a person wants after submitting."""
    where = "" if run.parent == Path("runs").resolve() else f" --runs {run.parent}"
    say(f"follow:    python launch/status.py {run.name}{where} --watch")
    say(f"logs:      python launch/logs.py {run.name}{where} --follow")
    say(f"cancel:    python launch/cancel.py {run.name}{where}")
    say(f"dashboard: python launch/dashboard.py --name {run.name}{where}")
