"""The state of every unit of a comparison: from its files first, squeue next, sacct last. Reads only.

    waiting    not begun: its turn has not come, or another job must end first
    queued     submitted; Slurm says why it does not start yet
    running    its ranks work, or are being started in their nodes
    requeued   left (pre-empted, out of time, a dead node) and stands in Slurm's queue again
    finished   result.json says so (of a stage: jobs/stages.py)
    stopped    left in order before the schedule's end, and nobody starts it again
    cancelled  by launch/cancel.py, by scancel, or by Slurm because what it waited for failed
    failed     said itself why: its last end record, its journal, or a job that ended before it could write anything
    killed     began, left no last word, and nobody knows its job or process as alive
    lost       was submitted or begun, and nobody here can tell what became of it

Slurm is only asked about what files leave open, and files are read again when it says that a job is over.
"""

import shlex
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


from jobs import InputError, stages
from jobs.replay import STREAMS, process_alive
from jobs.run_folder import RunFolder, read_json, step_of, trusted
from launch import beats, scheduler
from launch.beats import Rank
from launch.evidence import End
from launch.traces import Part, Traces, gather, keys_of, order
from launch.unit import Unit

ALIVE = ("running", "requeued", "queued", "waiting")  # somebody starts it or goes on with it
MENDABLE = ("failed", "killed", "lost", "cancelled")  # nobody will, unless asked to
BY_HAND = "by launch/cancel.py"
REASONS = {
    "Priority": "jobs of higher priority come first",
    "Resources": "it is next, as soon as enough nodes are free",
    "Dependency": "another job must end well first",
    "DependencyNeverSatisfied": "a job that it waits for failed",
    "BeginTime": "its time to start has not come yet (a job that was put back waits a moment)",
    "JobArrayTaskLimit": "as many parts run at once as the cluster profile permits",
    "JobHeldUser": "held by its user; scontrol release frees it",
    "JobHeldAdmin": "held by an administrator",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "PartitionDown": "its partition is closed",
    "PartitionInactive": "its partition is closed",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives to one job",
    "PartitionTimeLimit": "it asks for more time than its partition gives",
    "PartitionConfig": "it asks for more than its partition has",
    "BadConstraints": "no node has what it asks for",
    "QOS": "a limit of its quality of service is reached",
    "Assoc": "a limit of its account is reached",
    "Reservation": "waits for its reservation",
    "Licenses": "waits for a licence",
    "launch failed requeued held": "could not be started and is held; scontrol release frees it",
}

Known = dict[str, scheduler.Job] | None  # what Slurm knows of jobs; None = nobody answers
Ask = Callable[[Sequence[str]], Known]


@dataclass(frozen=True)
class UnitView:
    """All that is known of one unit, as JSON values."""

    name: str  # of the comparison
    key: str
    stage: str
    state: str
    why: str = ""  # the state's reason, in words
    next: str = ""  # what to type now
    step: int | None = None
    steps: int | None = None
    counted: str = ""  # what the steps are where they are no steps of training: clips, texts
    loss: float | None = None
    samples_per_s: float | None = None
    left_s: float | None = None  # until the schedule's end, at the pace of the last steps
    jobs: list[str] = field(default_factory=list)  # of the newest submission
    history: list[str] = field(default_factory=list)  # of earlier ones
    after: list[str] = field(default_factory=list)  # jobs that had to succeed first
    nodes: int = 0
    hosts: list[str] = field(default_factory=list)
    attempts: int = 0  # how often its ranks claimed the run folder
    restarts: int = 0  # how often Slurm started its job again
    checkpoint: str = ""  # the newest one that can be trusted
    behind: int | None = None  # steps since that checkpoint
    remarks: list[str] = field(default_factory=list)  # slow and silent ranks
    last_end: str = ""  # why its ranks ended the last time
    error: str = ""  # what was wrong first
    parts: dict[str, int] = field(default_factory=dict)  # state: how many parts
    missing: list[str] = field(default_factory=list)  # parts that nobody works on and that are not finished
    ranks: list[Rank] = field(default_factory=list)


@dataclass
class Slurm:
    """Slurm's knowledge of jobs, asked at most every `every` seconds for the same jobs."""

    every: float = 0.0
    _asked: dict[tuple[str, ...], tuple[float, dict[str, scheduler.Job]]] = field(default_factory=dict)

    def __call__(self, ids: Sequence[str]) -> Known:
        """What is known of each job; None when nobody answers."""
        key = tuple(ids)
        if key not in self._asked or time.monotonic() - self._asked[key][0] >= self.every:
            try:
                found = scheduler.jobs(ids)
            except InputError:
                return None
            self._asked = {key: (time.monotonic(), found)}
        return self._asked[key][1]


def look(run: Path, ask: bool | Ask = True, before: Sequence[UnitView] = ()) -> list[UnitView]:
    """Every unit of RUNS/NAME in the order of the work.

    ask: whether Slurm is asked for what files leave open; before: an earlier look, by which silent ranks are found.
    Raises InputError when a file is damaged."""
    return look_at([run], ask, before)[run]


def look_at(runs: Iterable[Path], ask: bool | Ask = True, before: Sequence[UnitView] = ()) -> dict[Path, list[UnitView]]:
    """The units of several comparisons; Slurm is asked once for all."""
    slurm = Slurm() if ask is True else ask
    seen = {run: [gather(Unit(run, key)) for key in keys_of(run)] for run in runs}
    known = _ask(slurm, seen)
    # a job that is over may have written its last word, or have been submitted again, between our reading and Slurm's answer
    seen = {run: [facts if _alive(known, facts) else gather(facts.unit) for facts in found] for run, found in seen.items()}
    if known is not None and any(job not in known for found in seen.values() for facts in found for job in facts.open_jobs()):
        known = _ask(slurm, seen)
    earlier = {(view.name, view.key): view for view in before}
    views = {run: [_view(unit, known, earlier.get((run.name, unit.unit.key))) for unit in facts] for run, facts in seen.items()}
    return {run: [_in_chain(view, found) for view in found] for run, found in views.items()}


def upstream(view: UnitView, views: Iterable[UnitView]) -> list[UnitView]:
    """The units whose jobs had to succeed before this one's."""
    return [other for other in views if {*other.jobs, *other.history} & set(view.after)]


def doubtful(views: Iterable[UnitView]) -> bool:
    """Is a second look, a few seconds later, worth it?"""
    return any(
        (view.state == "running" and beats.doubtful(view.ranks)) or (view.state == "lost" and view.ranks and not view.jobs)
        for view in views
    )


def silent(view: UnitView) -> bool:
    """Is a rank of it silent, or its life unknown?"""
    return any(beats.SILENT in words for words in view.remarks) or (view.state == "lost" and bool(view.ranks))


def _view(facts: Traces, known: Known, earlier: UnitView | None) -> UnitView:
    """Everything about one unit in words and numbers."""
    unit, submission = facts.unit, facts.submission
    told = [_part(facts, part, known, earlier) for part in facts.parts]
    state, why = _together(told)
    if state == "running" and not why:
        why = beats.doing(facts.ranks)
    jobs = {part.job: job for part in facts.parts if known and (job := known.get(part.job))}
    ends = [part.end for part in facts.parts if part.end]
    error = next((part.error for part in facts.parts if part.error), None)
    folder = RunFolder(unit.folder)
    checkpoints = trusted(folder)
    checkpoint = checkpoints[0].name if checkpoints else ""
    start, newest = facts.start or {}, facts.steps[-1] if facts.steps else None
    step = int(newest["step"]) if newest else start.get("step", step_of(checkpoint) if checkpoint else None)
    steps = start.get("steps") or _planned_steps(unit)
    result = read_json(folder.result) if folder.result.is_file() else {}
    pace = statistics.median(float(record["step_ms"]) for record in facts.steps) / 1e3 if facts.steps else None
    count = stages.progress(submission.stage, Path(submission.description), submission.parts) if submission else None
    view = UnitView(
        name=unit.run.name,
        key=unit.key,
        stage=submission.stage if submission else "pretrain",
        state=state,
        why=why,
        step=result.get("steps", step),
        steps=steps,
        loss=float(newest["loss"]) if newest else None,
        samples_per_s=statistics.median(float(record["samples_per_s"]) for record in facts.steps) if facts.steps else None,
        left_s=round(pace * (steps - step), 1) if state == "running" and pace and steps and step is not None else None,
        jobs=[job for job, _, _ in submission.jobs] if submission else [],
        history=submission.history if submission else [],
        after=submission.after if submission else [],
        nodes=submission.nodes if submission else 0,
        hosts=_hosts(facts, jobs.values()),
        attempts=facts.attempts,
        restarts=max((job.restarts for job in jobs.values()), default=max((int(end.restart) for end in ends), default=0)),
        checkpoint=checkpoint,
        behind=step - step_of(checkpoint) if checkpoint and step is not None else None,
        remarks=beats.remarks(facts.ranks, earlier.ranks if earlier else ()) if state == "running" else [],
        last_end=_in_words(max(ends, key=lambda end: order(end.tag))) if ends else "",
        error=_in_a_line(error) if error else next((str(end.error) for end in ends if end.error), ""),
        parts=dict(Counter(one for one, _ in told)),
        missing=[part.name for part, (one, _) in zip(facts.parts, told) if one in (*MENDABLE, "stopped")],
        ranks=facts.ranks,
    )
    if count is not None:
        left = count.left_s if state == "running" else None
        view = replace(view, step=count.done, steps=count.total, counted=count.what, samples_per_s=count.rate, left_s=left)
    return replace(view, next=_next(unit, view))


def _part(facts: Traces, part: Part, known: Known, earlier: UnitView | None) -> tuple[str, str]:
    """(state, why) of one part."""
    if part.finished:
        return "finished", ""
    if not part.job:
        return _without_scheduler(facts, part, earlier)
    if (end := part.said_last()) is not None:
        return ("cancelled", BY_HAND) if part.cancelled else _last_word(end)
    job = known.get(part.job) if known is not None else None
    if job is not None and not scheduler.over(job.state):
        return _with_job(part, job)
    if part.here:
        return _without_scheduler(facts, part, earlier)
    if part.cancelled:
        return "cancelled", BY_HAND
    if known is None:
        return ("running" if part.began and part.last is None else "queued"), "Slurm does not answer; so far the files tell"
    return _job_gone(facts, part, job)


def _with_job(part: Part, job: scheduler.Job) -> tuple[str, str]:
    """Slurm knows the job as alive."""
    late = "it was cancelled, but Slurm has not ended it yet" if part.cancelled else ""
    if job.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"):
        why = late or reason_in_words(job.reason)
        if job.reason.startswith("Dependency"):
            return "waiting", why
        again = job.restarts > 0 or part.end is not None or part.began
        return ("requeued", f"{_in_words(part.end)}; {why}" if part.end else why) if again else ("queued", why)
    return "running", late or ("suspended by Slurm" if job.state == "SUSPENDED" else "")


def _last_word(end: End) -> tuple[str, str]:
    """What the end of the ranks said, when nobody starts them again."""
    if end.cause == "cancelled":
        return "cancelled", end.why
    if end.action == "done":
        return "stopped", end.why if end.cause != "finished" else f"{end.why}, but its result is not there"
    return "failed", _in_words(end)


def _in_words(end: End) -> str:
    """How the ranks ended and what was decided."""
    return "; ".join(word for word in (end.cause if end.interruption else "", end.error, end.why) if word)


def _job_gone(facts: Traces, part: Part, job: scheduler.Job | None) -> tuple[str, str]:
    """The job ended, or nobody knows it, and no end record decides."""
    if job is not None and job.state.startswith("CANCELLED"):
        return "cancelled", f"job {part.job} was cancelled: by scancel, or by Slurm because a job that it waited for failed"
    how = f"job {part.job} ended ({job.state})" if job else f"Slurm no longer knows job {part.job}"
    if not part.wrote:
        if job is None:
            return "lost", f"{how}, and it wrote nothing"
        return "failed", f"{how} before it could write below {facts.unit.logs}: is that on a disk that all nodes share?"
    said = _in_order_or_failed(part.last) if part.last else None
    if said is not None:
        return said
    if part.error is not None:
        return "failed", _in_a_line(part.error)
    return "killed", f"{how} without a last word"


def _in_order_or_failed(last: Mapping[str, Any]) -> tuple[str, str] | None:
    """What the end record of a journal means when nobody goes on; None when it says finished (the result is missing)."""
    message = str(last.get("message") or "")
    if last["status"] in ("failed", "nonfinite"):
        return "failed", message
    if last["status"] in ("stopped", "interrupted"):
        return "stopped", f"{message or last['status']}, at step {last['step']}"
    return None


def _without_scheduler(facts: Traces, part: Part, earlier: UnitView | None) -> tuple[str, str]:
    """A run on somebody's machine: its journal, its processes if they are here, its beats if not."""
    starts = [rank.start for rank in facts.ranks if rank.phase != "ended"]
    alive = [process_alive(start) for start in [*starts, *([facts.start] if facts.start and not part.last else [])]]
    if any(alive):
        return "running", ""
    if part.last is not None:
        said = _in_order_or_failed(part.last)
        if said is not None:
            return ("cancelled", BY_HAND) if part.cancelled and said[0] == "stopped" else said
    if not part.began:
        return "waiting", "it has not begun"
    if part.cancelled:
        return "cancelled", BY_HAND
    if None in alive:
        return _elsewhere(facts, earlier)
    return "killed", "its process is gone, and it left no last word"


def _elsewhere(facts: Traces, earlier: UnitView | None) -> tuple[str, str]:
    """Only another host could tell whether its processes live; beats that move say so from here."""
    host = facts.ranks[0].host if facts.ranks else (facts.start or {}).get("host", "another host")
    then = {(rank.rank, rank.pid): rank.count for rank in earlier.ranks} if earlier else {}
    if any(rank.count > then.get((rank.rank, rank.pid), rank.count) for rank in facts.ranks):
        return "running", f"on {host}"
    return "lost", f"it runs, or ran, on {host} without a scheduler; only there can be seen whether it lives"


def _in_chain(view: UnitView, views: Sequence[UnitView]) -> UnitView:
    """With the names of what it waits for; a job that vanished because what it waited for went wrong was cancelled by Slurm."""
    first = upstream(view, views)
    wrong = [f"{other.key} {other.state}" for other in first if other.state in MENDABLE]
    if view.state == "waiting" and first:
        return replace(view, why=f"for {', '.join(other.key for other in first if other.state != 'finished')} ({view.why})")
    if view.state in ("lost", "cancelled") and view.why != BY_HAND and wrong:
        return replace(view, state="cancelled", why=f"by Slurm, since it waited for what went wrong: {', '.join(wrong)}")
    return view


def _together(told: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The state of a unit from its parts': what somebody still does comes first, then what went wrong."""
    for state in (*ALIVE, *MENDABLE, "stopped"):
        whys = [why for one, why in told if one == state]
        if whys:
            return state, whys[0]
    return "finished", ""


def _ask(slurm: Ask | bool, seen: Mapping[Path, Sequence[Traces]]) -> Known:
    """What Slurm knows of all jobs that files leave open; None when it is not asked or does not answer."""
    ids = sorted({job for found in seen.values() for facts in found for job in facts.open_jobs()})
    if isinstance(slurm, bool):
        return None
    return slurm(ids) if ids else {}


def _alive(known: Known, facts: Traces) -> bool:
    """Does Slurm know all jobs that files leave open as alive?"""
    return known is not None and all(job in known and not scheduler.over(known[job].state) for job in facts.open_jobs())


def _hosts(facts: Traces, jobs: Iterable[scheduler.Job]) -> list[str]:
    """Where its ranks are or were."""
    held = [host for job in jobs if job.state == "RUNNING" for host in scheduler.hosts(job.nodes)]
    told = held or [rank.host for rank in facts.ranks] or ([str(facts.start["host"])] if facts.start else [])
    return list(dict.fromkeys(told))


def _planned_steps(unit: Unit) -> int | None:
    """The schedule's length as its configuration says it, before or after the ranks run."""
    config = RunFolder(unit.folder).config
    if config.is_file():
        return int(read_json(config)["facts"]["steps"])
    job = unit.run / "job.json"
    steps = read_json(job).get("steps") if unit.key in STREAMS and job.is_file() else None
    return int(steps) if steps else None


def _in_a_line(error: Mapping[str, Any]) -> str:
    words = str(error["message"]).strip().splitlines()
    return f"{error['kind']} on rank {error['rank']} ({error['host']}): {words[0] if words else ''}"


def reason_in_words(reason: str) -> str:
    """Slurm's reason for a pending job, and what it means."""
    meaning = next((REASONS[r] for r in sorted(REASONS, key=len, reverse=True) if r and reason.startswith(r)), "")
    return ": ".join(word for word in (reason, meaning) if word) or "Slurm has not looked at it yet"


def _next(unit: Unit, view: UnitView) -> str:
    """What to type now, "" when there is nothing to do but wait."""
    return command("retry", unit.run, view.key) if view.state in (*MENDABLE, "stopped") else ""


def command(script: str, run: Path, *words: str) -> str:
    """A command line for people: launch/SCRIPT.py about RUNS/NAME."""
    runs = () if run.parent == Path("runs").resolve() else ("--runs", str(run.parent))
    return shlex.join(["python", f"launch/{script}.py", run.name, *words, *runs])
