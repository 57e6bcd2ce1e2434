"""Where a job runs: the one decision, and its arithmetic."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from jobs import InputError, cores
from launch import scheduler
from launch.pool import Ranks
from launch.profiles import Profile, minutes, read_profile
from launch.submission import Shape
from launch.local_job import LocalJob

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

    def start(self, job: Path, stream: str, logs: Path, stage: str = "pretrain") -> Running:
        """Start one stream of the job file here."""
        if self.kind == "submitit-local":
            return LocalJob.start(job, stream, logs, self.gpus, self.threads, stage)
        return Ranks.start(job, stream, logs, self.world, self.gpus, self.threads, stage)

    def describe(self) -> str:
        """One sentence for the user."""
        through = "submitit's local executor" if self.kind == "submitit-local" else f"{self.nodes} simulated nodes (gloo processes)"
        device = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else "CPU"
        counts = f"{self.world} rank(s) per stream, {self.at_once} stream(s) at once, {self.threads} thread(s) per rank"
        return f"this machine, {device}: {through}, {counts}"


def on_slurm(cluster: Cluster) -> bool:
    """Submit to Slurm, or run here? "auto" means Slurm if its controller answers (an installed srun alone says nothing).

    Raises InputError when Slurm was asked for and does not answer."""
    if cluster == "local":
        return False
    try:
        scheduler.ask("sinfo", "--noheader")
    except InputError as error:
        if cluster == "slurm":
            told = f"no controller answers ({error})"
            raise InputError(f"--cluster slurm: {told}; --cluster local runs the same command on this machine") from None
        if "SLURM_CONF" in os.environ:  # somebody meant a cluster
            print(f"not on Slurm, but here: {error} (SLURM_CONF={os.environ['SLURM_CONF']})", file=sys.stderr)
        return False
    return True


def place(nodes: int, streams: int) -> Place:
    """How `streams` jobs of `nodes` nodes each run on this machine. Raises InputError for what cannot be had."""
    check_nodes(nodes)
    gpus = gpu_count()
    ranks = ranks_of(nodes, gpus)
    at_once = 1 if gpus else max(1, min(streams, cores() // ranks))
    threads = max(1, cores() // (at_once * ranks))
    return Place("submitit-local" if nodes == 1 else "pool", nodes, gpus, at_once, threads)


def shape(profile: Profile, nodes: int, side_by_side: int) -> Shape:
    """What one of `side_by_side` jobs of `nodes` nodes asks Slurm for: a rank per GPU, or one per node without GPUs.

    Raises InputError for a partition that does not exist, is too small, or does not give what the profile asks for."""
    check_nodes(nodes)
    found = partition_of(profile)
    if nodes > found.nodes:
        raise InputError(f"--nodes {nodes}: partition {found.name} has {found.nodes} nodes ({found.usable} usable now)")
    gpus = found.gpus_per_node if profile.gpus_per_node is None else profile.gpus_per_node
    cpus = profile.cpus_per_task or max(1, found.cpus_per_node // (gpus or side_by_side))
    if cpus * max(1, gpus) > found.cpus_per_node:
        asked = f"{cpus} processors for each of {max(1, gpus)} rank(s)"
        raise InputError(f"{asked}: a node of partition {found.name} has {found.cpus_per_node}; lower cpus_per_task in the cluster profile")
    if found.limit_minutes is not None and minutes(profile) > found.limit_minutes:
        ends = f"partition {found.name} ends jobs after {found.limit_minutes} minutes"
        raise InputError(f"a time of {profile.time}: {ends}; say time = {found.limit_minutes} in the cluster profile")
    return Shape(nodes, max(1, gpus), cpus, gpus)


def profile_for(path: Path | None) -> Profile:
    """The cluster profile; a time that nobody chose is cut to what its partition gives. Raises InputError for a profile that is wrong."""
    profile = read_profile(path)
    limit = partition_of(profile).limit_minutes
    if profile.time == Profile().time and limit is not None and limit < minutes(profile):
        return replace(profile, time=str(limit))
    return profile


def partition_of(profile: Profile) -> scheduler.Partition:
    """The profile's partition, or the cluster's default one. Raises InputError naming what there is."""
    partitions = {partition.name: partition for partition in scheduler.partitions()}
    found = partitions.get(profile.partition) if profile.partition else next((p for p in partitions.values() if p.default), None)
    if found is None:
        named = f"partition {profile.partition!r} does not exist" if profile.partition else "the cluster has no default partition"
        raise InputError(f"{named}; name one of {', '.join(partitions)} in the cluster profile")
    return found


def check_nodes(nodes: int) -> None:
    """Raise InputError for less than one node."""
    if nodes < 1:
        raise InputError(f"--nodes {nodes}: at least one node is needed")


def ranks_of(nodes: int, gpus: int) -> int:
    """Ranks of one stream: the GPUs shared out among the nodes, at least one rank each."""
    return nodes * max(1, gpus // nodes)


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


def gpu_name() -> str:
    """What the first GPU of this machine calls itself."""
    listed = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=30)
    return (listed.stdout.splitlines() or ["gpu"])[0]
