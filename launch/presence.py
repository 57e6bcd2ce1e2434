"""Is a stream still coming along? What the scheduler says of runs whose journal does not tell their end."""

from pathlib import Path

from jobs import InputError, replay
from jobs.journal import Record
from jobs.run_folder import read_json
from launch import scheduler
from launch.unit import Unit


def by_scheduler(stream: Path, start: Record | None, end: Record | None) -> str | None:
    """RUNNING or SCHEDULED while the newest job of RUNS/NAME/STREAM lives; KILLED when it is gone and the journal has no end.

    None where nobody can tell more than the journal. What was never submitted is this host's own matter."""
    submission = Unit(stream.parent, stream.name).submitted()
    if submission is None:
        return replay.this_host(stream, start, end)
    job = submission.job_of(submission.parts.index(stream.name))
    try:
        found = scheduler.jobs([job]).get(job)
    except InputError:
        return None
    if found is not None and not scheduler.over(found.state):
        return replay.SCHEDULED if found.state == "PENDING" else replay.RUNNING
    if end is not None:
        return None
    if start is not None and not start.get("job"):  # it went on without a scheduler
        return replay.this_host(stream, start, end)
    return replay.KILLED


def in_its_job(stream: Path, start: Record | None, end: Record | None) -> str | None:
    """What a process of the job itself says, asking nobody: what was interrupted goes back into the queue, unless it was cancelled."""
    if start is None or end is None or end["status"] != "interrupted":
        return None
    path = Unit(stream.parent, stream.name).cancelled
    cancelled = read_json(path)["jobs"] if path.is_file() else []
    return None if start.get("job") in cancelled else replay.SCHEDULED
