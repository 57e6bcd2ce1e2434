"""A unit: what one submission does for a comparison. Its logs folder holds all that schedulers and launchers leave behind.

    RUNS/NAME/KEY/logs/submission.json             the newest submission: what, where, which jobs
    RUNS/NAME/KEY/logs/ends/JOB.RESTART.ROUND.json how each start of its ranks ended, and what was decided (launch/aftermath.py)
    RUNS/NAME/KEY/logs/errors/JOB.RESTART.ROUND.RANK.json   what a rank that failed said (jobs/failures.py)
    RUNS/NAME/KEY/logs/cancelled.json              the jobs that launch/cancel.py ended

KEY is a stream (joint, bone, motion) or a stage (caption, encode-text, gather, pack, probe, semi, fuse, figures). A start of the ranks is
named by its TAG, JOB.RESTART.ROUND: Slurm's job id (123, or 123_4 in an array), how often Slurm restarted the job, how often the ranks were
started within it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.run_folder import read_json, write_json

ORDER = ("caption", "captions", "encode-text", "gather", "pack", "joint", "bone", "motion", "probe", "semi", "fuse", "figures")


@dataclass(frozen=True)
class Submission:
    """What was submitted for a unit. Part i of `parts` is done by job `job_of(i)`."""

    stage: str  # pretrain, pack, caption, ...: jobs/stages.py
    description: str  # JSON file of the stage's dataclass
    parts: list[str]  # pretrain: the stream; of captions the slices; [""] = the whole stage
    jobs: list[tuple[str, int, int]]  # (Slurm job id, first part, number of parts): one row, or several where an array had to be split
    nodes: int
    tasks_per_node: int
    cpus_per_task: int
    gpus_per_node: int
    profile: dict[str, Any]
    snapshot: str  # folder of the code that the job runs
    exclude: list[str] = field(default_factory=list)  # hosts that are kept out
    after: list[str] = field(default_factory=list)  # job ids that must succeed first
    history: list[str] = field(default_factory=list)  # job ids of earlier submissions, oldest first
    carried: list[str] = field(default_factory=list)  # those of them whose crashes still count: nobody has looked since
    host: str = ""  # where it was submitted
    time: float = 0.0  # when, by that host's clock

    def job_of(self, part: int) -> str:
        """Slurm's job id of part i: 123, or 123_4 in an array (submitit makes no array of a single part)."""
        for job, first, count in self.jobs:
            if first <= part < first + count:
                return f"{job}_{part - first}" if count > 1 else job
        raise IndexError(f"part {part} of {len(self.parts)} has no job")

    def job_ids(self) -> list[str]:
        """One id per part."""
        return [self.job_of(i) for i in range(len(self.parts))]


@dataclass(frozen=True)
class Unit:
    """The paths of one unit, RUNS/NAME/KEY."""

    run: Path
    key: str

    @property
    def folder(self) -> Path:
        return self.run / self.key

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def submission(self) -> Path:
        return self.logs / "submission.json"

    @property
    def ends(self) -> Path:
        return self.logs / "ends"

    @property
    def errors(self) -> Path:
        return self.logs / "errors"

    @property
    def cancelled(self) -> Path:
        return self.logs / "cancelled.json"

    def log(self, job: str, rank: int = 0) -> Path:
        """What a rank printed; rank 0's file also has what the batch script and srun said."""
        return self.logs / f"{job}_{rank}_log.out"

    def submitted(self) -> Submission | None:
        """The newest submission, None when nothing was submitted to a scheduler."""
        if not self.submission.is_file():
            return None
        document = read_json(self.submission)
        return Submission(**{**document, "jobs": [tuple(row) for row in document["jobs"]]})

    def record(self, submission: Submission) -> None:
        """Write the newest submission, whole or not at all."""
        write_json(self.submission, asdict(submission))


def units(run: Path) -> list[Unit]:
    """The units of RUNS/NAME that were submitted, in the order of the work."""
    return [Unit(run, key) for key in in_order(path.parents[1].name for path in run.glob("*/logs/submission.json"))]


def in_order(keys: Iterable[str]) -> list[str]:
    """Keys in the order of the work; unknown ones last."""
    return sorted(keys, key=lambda key: (ORDER.index(key) if key in ORDER else len(ORDER), key))
