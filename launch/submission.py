"""Units of work to Slurm through submitit: what stands in the batch script, and what is remembered of a submission."""

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env

from jobs import InputError, stages
from launch import scheduler
from launch.pool import KEEP_MEMORY
from launch.profiles import Profile, minutes, profile_of
from launch.task import run_and_exit
from launch.unit import Submission, Unit


@dataclass(frozen=True)
class Shape:
    """What one job asks for: nodes, ranks on each, processors and GPUs."""

    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    gpus_per_node: int = 0

    @property
    def world(self) -> int:
        """Ranks of the job."""
        return self.nodes * self.tasks_per_node

    def describe(self) -> str:
        """One sentence for the user."""
        each = f"{self.tasks_per_node} rank(s) and {self.gpus_per_node} GPU(s)" if self.gpus_per_node else f"{self.tasks_per_node} rank(s)"
        return f"Slurm: a job per stream, {self.nodes} node(s) with {each} each, {self.cpus_per_task} processor(s) per rank"


def submit(
    unit: Unit,
    stage: str,
    description: Path,
    parts: Sequence[str],
    shape: Shape,
    profile: Profile,
    snapshot: Path,
    after: Sequence[str] = (),
    exclude: Sequence[str] = (),
    earlier: Submission | None = None,
    looked: bool = True,
) -> Submission:
    """Submit the parts of a unit: one job for one part, else an array (or several, where the cluster's limit is smaller).

    `after`: job ids that must succeed first; `earlier`: the submission that this one replaces; `looked`: a person asks for it, so that
    earlier crashes are forgotten. Raises InputError with the scheduler's own words when it refuses."""
    unit.logs.mkdir(parents=True, exist_ok=True)
    executor = executor_of(unit, shape, profile, snapshot, after, exclude)
    rows: list[tuple[str, int, int]] = []
    for first, count in windows(len(parts), scheduler.max_array_size() if len(parts) > 1 else 1):
        with _clean_environment():
            try:
                with executor.batch():
                    jobs = [executor.submit(run_and_exit, str(description), part, stage) for part in parts[first : first + count]]
            except FileNotFoundError as error:  # the command itself
                raise InputError(f"{error.filename} is not on the PATH: submit from a machine that has Slurm's commands") from None
            except (FailedJobError, FailedSubmissionError) as error:
                scheduler.cancel([job for job, _, _ in rows])
                raise InputError(f"Slurm refused {unit.run.name} {unit.key}: {_words(error)}") from None
        rows.append((jobs[0].job_id.split("_")[0], first, count))
    before = [] if earlier is None else [job for job, _, _ in earlier.jobs]
    submission = Submission(
        stage=stage,
        description=str(description),
        parts=list(parts),
        jobs=rows,
        nodes=shape.nodes,
        tasks_per_node=shape.tasks_per_node,
        cpus_per_task=shape.cpus_per_task,
        gpus_per_node=shape.gpus_per_node,
        profile=asdict(profile),
        snapshot=str(snapshot),
        exclude=list(exclude),
        after=list(after),
        history=[] if earlier is None else [*earlier.history, *before],
        carried=[] if earlier is None or looked else [*earlier.carried, *before],
        host=socket.gethostname(),
        time=round(time.time(), 3),
    )
    unit.record(submission)
    return submission


def resubmit(unit: Unit, exclude: Sequence[str] = (), looked: bool = True, after: Sequence[str] = ()) -> Submission:
    """Submit again what is missing of a unit, in the words of its newest submission; `exclude` adds to the hosts that are kept out,
    `looked`: a person asks for it, so that earlier crashes are forgotten; `after`: job ids that must succeed first.

    Raises InputError when nothing was ever submitted for it, or nothing is missing."""
    old = unit.submitted()
    if old is None:
        raise InputError(f"{unit.folder} was never submitted to Slurm; the command that started it goes on")
    missing = [part for part in old.parts if not stages.finished(old.stage, Path(old.description), part)]
    if not missing:
        raise InputError(f"{unit.folder} is finished")
    return submit(
        unit,
        old.stage,
        Path(old.description),
        missing,
        Shape(old.nodes, old.tasks_per_node, old.cpus_per_task, old.gpus_per_node),
        profile_of(old.profile, str(unit.submission)),
        Path(old.snapshot),
        after=after,
        exclude=sorted({*old.exclude, *exclude}),
        earlier=old,
        looked=looked,
    )


def executor_of(
    unit: Unit, shape: Shape, profile: Profile, snapshot: Path, after: Sequence[str] = (), exclude: Sequence[str] = ()
) -> submitit.SlurmExecutor:
    """submitit's executor with everything that the batch script says."""
    executor = submitit.SlurmExecutor(folder=unit.logs, python=python_of(profile))
    given = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "mem": None if profile.mem_gb is None else f"{round(profile.mem_gb * 1024)}MB",
        "gpus_per_node": shape.gpus_per_node or None,
        "exclude": ",".join([*profile.exclude, *exclude]) or None,
        "dependency": "afterok:" + ":".join(after) if after else None,
    }
    more: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes", **profile.sbatch}
    if profile.reservation:
        more["reservation"] = profile.reservation
    executor.update_parameters(
        job_name=f"{unit.run.name}-{unit.key}",
        time=minutes(profile),
        nodes=shape.nodes,
        ntasks_per_node=shape.tasks_per_node,
        cpus_per_task=shape.cpus_per_task,
        signal_delay_s=profile.signal_s,
        stderr_to_stdout=True,
        array_parallelism=profile.at_once or 256,
        setup=setup(unit, shape, profile, snapshot),
        teardown=["after $? || break", "done", 'exit "$code"'],
        srun_args=["--kill-on-bad-exit=1", *profile.srun],
        additional_parameters=more,
        **{name: value for name, value in given.items() if value},
    )
    return executor


def setup(unit: Unit, shape: Shape, profile: Profile, snapshot: Path) -> list[str]:
    """The lines before srun: the profile's own, what the job needs to know, and the loop around the ranks (launch/batch.sh)."""
    environment = {
        **KEEP_MEMORY,
        "OMP_NUM_THREADS": str(shape.cpus_per_task),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # a job started inside a checkout must not import from it
        "PYTHONPATH": str(snapshot),
        "ACSAR_LOGS": str(unit.logs),
        "ACSAR_PYTHON": python_of(profile),
        **profile.environment,
    }
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return [*profile.setup, *exports, f". {shlex.quote(str(snapshot / 'launch' / 'batch.sh'))}", "while begin; do"]


def script(unit: Unit, shape: Shape, profile: Profile, snapshot: Path, parts: int = 1) -> str:
    """The text of the batch script, for people; nothing is submitted."""
    executor = executor_of(unit, shape, profile, snapshot)
    if parts > 1:
        executor.parameters["map_count"] = parts
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")  # submitit has no public name for it
    return text


def python_of(profile: Profile) -> str:
    """The shell words that start Python on a node."""
    return profile.python or shlex.quote(sys.executable)


def windows(parts: int, limit: int) -> Iterator[tuple[int, int]]:
    """(first, count) of consecutive arrays of at most `limit` elements each."""
    for first in range(0, parts, max(1, limit)):
        yield first, min(max(1, limit), parts - first)


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Without the variables of a job that we may be in ourselves; which cluster it is stays said."""
    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield


def _words(error: Exception) -> str:
    """sbatch's own words in one line."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line) or type(error).__name__
