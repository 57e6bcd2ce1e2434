"""Pack, probe and fuse: stages of one process each. What their commands have in common: where they run, and how they are queued."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.stages import write_job
from launch.cli import print_json
from launch.cluster import Cluster, profile_for, shape
from launch.data import say
from launch.queued import DONE, submit_missing, wait, what_next
from launch.snapshot import snapshot
from launch.submission import script
from launch.unit import Unit


@dataclass(frozen=True)
class Where:
    """Where a stage runs, and what its command prints."""

    cluster: Cluster = "auto"  # auto = Slurm if its controller answers, else this machine
    cluster_profile: Path | None = None  # TOML file: partition, account, time, modules, ... (docs/cluster.toml); or $ACSAR_CLUSTER_PROFILE
    wait: bool = False  # on Slurm: stay until it has ended, and print what came out
    dry_run: bool = False  # say what would be done, do nothing
    json: bool = False  # print one JSON document and nothing else


def queue(where: Where, unit: Unit, stage: str, job: Any, parts: Sequence[str], nodes: int = 1) -> int:
    """Submit those of the parts that are neither finished nor queued, and with --wait stay until they have ended; the exit code.

    The job's paths must not depend on a working directory. On one node a part is one process, on several a rank per GPU or node."""
    profile = profile_for(where.cluster_profile)
    asked = shape(profile, nodes, 1)
    one = asked if nodes > 1 else replace(asked, tasks_per_node=1, gpus_per_node=min(1, asked.gpus_per_node))
    if where.dry_run:
        print(script(unit, one, profile, unit.run.parent / ".code" / "HASH", len(parts)))
        return 0
    description = write_job(job, unit.folder / "job.json")
    jobs = submit_missing(unit, stage, description, parts, one, profile, snapshot(unit.run.parent))
    if where.wait:
        ended = wait(unit.run, [unit.key], 0, track=False)
        return 0 if all(view.state in DONE for view in ended) else 1
    what_next(unit.run)
    if where.json:
        print_json({"run": str(unit.run), "jobs": jobs})
    else:
        say("the same command with --wait prints the result")
    return 0
