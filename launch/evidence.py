"""What is known when the ranks of a submitted job have ended: the unit's folder, and what Slurm said, as facts to decide by.

Read from files and from the batch script's environment (launch/batch.sh); damaged files count as absent, and no command is called.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from jobs import InputError, failures, stages
from jobs.run_folder import RunFolder, read_json, step_of, trusted
from launch import scheduler
from launch.unit import Submission, Unit

TAIL = 1 << 20  # bytes of a log, or of a journal, that are looked at

Value = TypeVar("Value")


@dataclass(frozen=True)
class End:
    """LOGS/ends/TAG.json: how one start of the ranks ended and what was decided."""

    tag: str
    job: str
    restart: int
    round: int
    code: int  # srun's
    cause: str  # finished, stopped, interrupted, timeout, preempted, crash, input, cancelled, unknown
    action: str  # done, again, requeue, resubmit, stop
    why: str  # one sentence
    words: list[str] = field(default_factory=list)  # what the batch script needs for the action
    host: str = ""  # that the end is attributed to
    error: str = ""  # the first error, in one line
    step_before: int = 0  # of the newest trusted checkpoint
    step_after: int = 0
    seconds: int = 0
    nodes: list[str] = field(default_factory=list)
    time: float = 0.0

    @property
    def progress(self) -> bool:
        return self.step_after > self.step_before

    @property
    def interruption(self) -> bool:
        return self.cause in ("interrupted", "timeout", "preempted")

    @property
    def line(self) -> str:
        """The decision, for the batch script."""
        return " ".join([self.action, *self.words])


@dataclass(frozen=True)
class Facts:
    """All that the decision depends on."""

    tag: str
    code: int
    seconds: int = 0  # since the ranks were started
    nodes: list[str] = field(default_factory=list)  # hosts of the job
    left_out: list[str] = field(default_factory=list)  # those of them without ranks
    tasks_per_node: int = 1
    usable: list[str] = field(default_factory=list)  # hosts of the partition that take jobs, these included
    slurm: dict[str, str] | None = field(default_factory=dict)  # scontrol's words of the job: {} cannot be asked, None gives no answer
    signal_s: int = 120  # Slurm announces a time-out this early
    cancelled: bool = False  # by launch/cancel.py
    refused: str = ""  # why the ranks were not started at all
    done: bool = True  # as far as files tell: srun's code is 0 also when it lost a node
    status: str = ""  # of the journal's end record; "" when the ranks of this start wrote none
    step_before: int = 0
    step_after: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)  # jobs/failures.py
    said: list[tuple[str, int, str]] = field(default_factory=list)  # srun: (host, rank, words) of ranks, in the order of their ends
    earlier: list[End] = field(default_factory=list)  # ends that count, oldest first
    batch: int = 0  # global batch; 0 = not to be divided among fewer ranks
    zero: int = 0

    @property
    def job(self) -> str:
        return self.tag.rsplit(".", 2)[0]

    @property
    def preempted(self) -> bool:
        return self._slurm("PreemptTime") not in ("", "None", "N/A", "Unknown")

    @property
    def ended(self) -> bool:
        """Slurm itself is ending the job, or has given it another start already."""
        return self.queued or self._slurm("JobState") not in ("", "RUNNING")

    @property
    def timed_out(self) -> bool:
        return self._slurm("Reason") == "TimeLimit" or self._slurm("JobState") == "TIMEOUT"

    @property
    def queued(self) -> bool:
        """Slurm, or a person, has put the job back into the queue."""
        return self._slurm("Restarts") not in ("", self.tag.split(".")[-2])

    @property
    def left_s(self) -> float:
        """Seconds to the time limit."""
        limit = scheduler.seconds(self._slurm("TimeLimit"))
        return limit - scheduler.seconds(self._slurm("RunTime")) if limit else float("inf")

    def _slurm(self, key: str) -> str:
        return (self.slurm or {}).get(key, "")


def collect(unit: Unit, code: int, environment: dict[str, str]) -> Facts:
    """The facts of the start that just ended, from the unit's folder and the batch script's environment; damaged files count as absent."""
    tag = environment["ACSAR_TAG"]
    submission = _or_none(unit.submitted)
    description = _or_none(lambda: read_json(Path(submission.description))) if submission and submission.stage in stages.TRAINING else None
    folder = RunFolder(unit.folder)
    attempt, start = _attempt(folder, tag)
    after = step_of(checkpoints[0].name) if (checkpoints := _or_none(lambda: trusted(folder))) else 0
    before, after = _items(submission, tag) or (start if attempt else after, after)
    excluded = {*submission.exclude, *submission.profile.get("exclude", ())} if submission else set()
    fewer = dict(word.lstrip("-").split("=", 1) for word in environment.get("ACSAR_FEWER", "").split())
    said = environment.get("ACSAR_JOB", "")
    slurm = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", said)) if said != "silent" else None
    return Facts(
        tag=tag,
        code=code,
        seconds=int(environment.get("ACSAR_SECONDS") or 0),
        nodes=scheduler.hosts(environment.get("SLURM_JOB_NODELIST", "")),
        left_out=fewer.get("exclude", "").split(",") if "exclude" in fewer else [],
        tasks_per_node=submission.tasks_per_node if submission else 1,
        usable=[name for name in scheduler.hosts(",".join(environment.get("ACSAR_USABLE", "").split())) if name not in excluded],
        slurm=slurm,
        signal_s=int(submission.profile.get("signal_s", 120)) if submission else 120,
        cancelled=_cancelled(unit, tag.rsplit(".", 2)[0]),
        refused=environment.get("ACSAR_REFUSED", ""),
        done=_done(folder, submission, tag),
        status=_status(folder.journal(attempt)) if attempt else "",
        step_before=before,
        step_after=after,
        failures=failures.read(unit.logs, tag),
        said=said_by_srun(unit.log(tag.rsplit(".", 2)[0]), tag),
        earlier=earlier(unit, submission, tag),
        batch=int(description["batch_size"]) if description else 0,
        zero=int(description["zero"]) if description else 0,
    )


def earlier(unit: Unit, submission: Submission | None, tag: str) -> list[End]:
    """The ends before this one that count: of this job, and of jobs that were given up for it without anybody looking."""
    job = tag.rsplit(".", 2)[0]
    jobs = [*(submission.carried if submission else []), job]
    ends = [end for end in map(read_end, unit.ends.glob("*.json")) if end and end.job in jobs and end.tag != tag]
    return sorted(ends, key=lambda end: (jobs.index(end.job), end.restart, end.round))


def read_end(path: Path) -> End | None:
    """One end record; None for a damaged one."""
    known = {item.name for item in fields(End)}
    return _or_none(lambda: End(**{key: value for key, value in dict(read_json(path)).items() if key in known}))


def said_by_srun(log: Path, tag: str) -> list[tuple[str, int, str]]:
    """(host, rank, words) of what srun complained about since this start, before it ended the other ranks; a whole node is rank -1."""
    found = []
    text = _tail(log).rpartition(f"{tag}: starts on")[2]
    for line in text.splitlines():
        if "CANCELLED AT" in line:
            break
        if lost := re.match(r"srun: error: Node failure on (\S+)", line):
            found += [(host, -1, "node failure") for host in scheduler.hosts(lost[1])]
        # "srun: error: n3: task 2: Killed", "srun: error: n[1-2]: tasks 0-1: Exited with exit code 1"
        match = re.match(r"srun: error: (\S+): tasks? ([\d,-]+): (.*)", line)
        if match:
            hosts, ranks = scheduler.hosts(match[1]), scheduler.hosts(f"[{match[2]}]")
            found += [(hosts[i * len(hosts) // len(ranks)], int(rank), match[3]) for i, rank in enumerate(ranks)]
    return found


def _attempt(folder: RunFolder, tag: str) -> tuple[int, int]:
    """(number, first step) of the attempt that this start made; (0, 0) when it did not get as far."""
    for path in sorted(folder.attempts.glob("[0-9]*.json"), reverse=True):
        claim = _or_none(lambda: read_json(path))  # noqa: B023
        if claim and claim.get("tag") == tag:
            return int(path.stem), step_of(claim["start"])
    return 0, 0


def _items(submission: Submission | None, tag: str) -> tuple[int, int] | None:
    """Of a part of a stage that counts its items: how many there were before this start, and how many there are now."""
    if submission is None or not (part := _part(submission, tag)):
        return None
    return _or_none(lambda: stages.reached(submission.stage, Path(submission.description), part, tag))


def _done(folder: RunFolder, submission: Submission | None, tag: str) -> bool:
    """Whether files say that the work is done; of a stage that does not count its items nothing is asked."""
    if submission is None:
        return True
    if submission.stage in stages.TRAINING:
        return folder.result.is_file()
    if _items(submission, tag) is None:
        return True
    return _or_none(lambda: stages.finished(submission.stage, Path(submission.description), _part(submission, tag))) or False


def _part(submission: Submission, tag: str) -> str:
    """The part that the job of this tag does."""
    return dict(zip(submission.job_ids(), submission.parts)).get(tag.rsplit(".", 2)[0], "")


def _status(journal: Path) -> str:
    """The status of a journal's end record, "" when it has none."""
    found = re.findall(r'^\{"type": "end".*"status": "(\w+)".*\}$', _tail(journal), re.MULTILINE)
    return found[-1] if found else ""


def _cancelled(unit: Unit, job: str) -> bool:
    """launch/cancel.py names the job, or the array that it is an element of."""
    named = _or_none(lambda: set(read_json(unit.cancelled)["jobs"])) or set()
    return bool(named & {job, job.split("_")[0]})


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _or_none(read: Callable[[], Value]) -> Value | None:
    """What `read` gives, None where the file is missing, damaged or another version's."""
    try:
        return read()
    except (InputError, OSError, ValueError, TypeError, KeyError):
        return None
