"""Where a job runs: the one decision, and its arithmetic."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from jobs import InputError, cores
from launch.pool import Ranks
from launch.submission import LocalJob

Cluster = Literal["auto", "slurm", "local"]


class Running(Protocol):
    """One stream while it runs, wherever that is."""

    stream: str

    def poll(self) -> int | None: ...
    def interrupt(self) -> None: ...
    def kill(self) -> None: ...
    def log(self) -> Path: ...


@dataclass(frozen=True)
class Place:
    """Where streams run and how many fit side by side."""

    kind: Literal["submitit-local", "pool"]
    nodes: int
    gpus: int
    at_once: int
    threads: int

    @property
    def world(self) -> int:
        """Ranks of one stream: one per GPU of a node, one per node without GPUs."""
        return ranks_of(self.nodes, self.gpus)

    def start(self, job: Path, stream: str, logs: Path) -> Running:
        """Start one stream of the job file here."""
        if self.kind == "submitit-local":
            return LocalJob.start(job, stream, logs, self.gpus, self.threads)
        return Ranks.start(job, stream, logs, self.world, self.gpus, self.threads)

    def describe(self) -> str:
        """One sentence for the user."""
        through = "submitit's local executor" if self.kind == "submitit-local" else f"{self.nodes} simulated nodes (gloo processes)"
        device = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else "CPU"
        counts = f"{self.world} rank(s) per stream, {self.at_once} stream(s) at once, {self.threads} thread(s) per rank"
        return f"this machine, {device}: {through}, {counts}"


def place(cluster: Cluster, nodes: int, streams: int) -> Place:
    """Decide where `streams` jobs of `nodes` nodes each run.

    "auto" means Slurm if its controller answers (an installed srun alone says nothing). Raises InputError for what cannot be had."""
    if nodes < 1:
        raise InputError(f"--nodes {nodes}: at least one node is needed")
    if cluster == "slurm":
        why = "its controller does not answer (sinfo)" if not slurm_answers() else "this version does not submit to it yet"
        raise InputError(f"--cluster slurm: {why}; --cluster local runs the same command on this machine")
    gpus = gpu_count()
    ranks = ranks_of(nodes, gpus)
    at_once = 1 if gpus else max(1, min(streams, cores() // ranks))
    threads = max(1, cores() // (at_once * ranks))
    return Place("submitit-local" if nodes == 1 else "pool", nodes, gpus, at_once, threads)


def ranks_of(nodes: int, gpus: int) -> int:
    """Ranks of one stream: the GPUs shared out among the nodes, at least one rank each."""
    return nodes * max(1, gpus // nodes)


def slurm_answers() -> bool:
    """True when a Slurm controller answers within a few seconds."""
    try:
        return subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=10).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def gpu_count() -> int:
    """GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip()])
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return 0
    return len(listed.stdout.splitlines()) if listed.returncode == 0 else 0
