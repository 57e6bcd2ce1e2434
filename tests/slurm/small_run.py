"""One stream of a small comparison as a job of the box: submit it, watch it, hold its ranks still while something happens to it."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from jobs import journal
from jobs.run_folder import RunFolder, read_json
from launch import scheduler
from launch.evidence import End, read_end
from launch.unit import Submission, Unit
from tests.clips import TINY
from tests.slurm.box import Box
from tests.slurm.conftest import launch, wait_for

STEPS, EVERY = 24, 5  # of the whole run, between checkpoints
PATIENCE = 240.0  # seconds for what takes ten on an idle machine


@dataclass(frozen=True)
class SmallRun:
    """RUNS/NAME/joint on a number of nodes, one rank each, with the recipe's dropout."""

    box: Box
    unit: Unit
    packed: Path
    nodes: int

    @classmethod
    def submitted(cls, box: Box, runs: Path, packed: Path, nodes: int, *profile: str, name: str = "run") -> "SmallRun":
        """Submit it; `profile`: lines of the cluster profile."""
        run = cls(box, Unit(runs / name, "joint"), packed, nodes)
        runs.mkdir(exist_ok=True)
        path = runs / f"{name}.toml"
        path.write_text("\n".join(["cpus_per_task = 1", 'time = "20"', *profile]))
        where = f"--cluster slurm --cluster-profile {path} --runs {runs} --name {name} --no-track --data {packed}"
        what = f"--recipe scdnet-small --streams joint --steps {STEPS} --save-every {EVERY} --nodes {nodes}"
        done = launch("pretrain", *where.split(), *what.split(), *TINY, SLURM_CONF=str(box.conf))
        assert done.returncode == 0, done.stderr
        return run

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.unit.folder)

    @property
    def submission(self) -> Submission:
        submission = self.unit.submitted()
        assert submission is not None
        return submission

    @property
    def job(self) -> str:
        """Slurm's number of the newest submission."""
        return self.submission.job_of(0)

    def slurm(self) -> dict[str, str]:
        """What scontrol says of the job."""
        words = self.box.run("scontrol", "show", "job", "--oneliner", self.job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in journal.read(self.folder.path) if record["type"] == kind]

    def step(self, attempt: int = 1) -> int:
        """Steps completed by an attempt; 0 before its first."""
        with suppress(OSError, IndexError, ValueError):
            lines = self.folder.journal(attempt).read_text().splitlines()
            return max(int(record["step"]) for record in map(json.loads, lines) if record["type"] == "step")
        return 0

    def ends(self) -> list[End]:
        """How the starts of the ranks ended, in their order."""
        ends = [end for end in map(read_end, self.unit.ends.glob("*.json")) if end is not None]
        return sorted(ends, key=lambda end: (int(end.job), end.restart, end.round))

    def decisions(self) -> list[tuple[str, str]]:
        return [(end.cause, end.action) for end in self.ends()]

    def ranks(self, *nodes: str) -> list[int]:
        """Process ids of the ranks on these nodes (default: all)."""
        return [pid for node in nodes or self.box.names for pid in self.box.pids(node) if _is_rank(pid, str(self.unit.logs))]

    @contextmanager
    def held(self, after: int, attempt: int = 1) -> Iterator[list[int]]:
        """Once the attempt has completed so many steps its ranks stand still; they go on at the end of the block."""
        wait_for(lambda: self.step(attempt) >= after, PATIENCE, every=0.01)
        pids = self.ranks()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert self.step(attempt) < STEPS, "it was too late to hold the ranks"
            yield pids
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def wait_over(self) -> None:
        """Until Slurm will never run the job again."""
        wait_for(lambda: scheduler.over(self.slurm()["JobState"]), PATIENCE)

    def check_whole(self, reference: "SmallRun | None" = None) -> None:
        """It finished, its journal has every step once, and it is bit for bit what an uninterrupted run came to."""
        wait_for(lambda: self.folder.result.is_file() or scheduler.over(self.slurm()["JobState"]), PATIENCE)
        assert self.folder.result.is_file(), self.unit.log(self.job).read_text()[-3000:]
        self.wait_over()
        assert self.slurm()["JobState"] == "COMPLETED"
        assert read_json(self.folder.result)["status"] == "finished"
        assert [record["step"] for record in self.records("step")] == list(range(1, STEPS + 1))
        assert not list(self.folder.path.rglob("*.tmp*"))
        if reference is not None:
            assert [r["losses"] for r in self.records("step")] == [r["losses"] for r in reference.records("step")]
            ours, theirs = (load_file(run.folder.encoder) for run in (self, reference))  # metadata stand in no fixed order in the file
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that stands still; also true when it is gone."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return True
    return bool((int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)) >> (number - 1) & 1)


def _is_rank(pid: int, logs: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return False
    return "submitit.core._submit" in words and logs in words and "srun" not in words[0]
