"""Look at everything a run needs before it is started: packages, devices, Slurm, disks, tracking. One line each, with the way out.

    python launch/doctor.py
    python launch/doctor.py --runs /scratch/ann/runs --cluster-profile my-cluster.toml
    python launch/doctor.py --runs /scratch/ann/runs --try-nodes 4     # also from four nodes, by one short srun

Exit code 0 when nothing failed (warnings are none), 1 when something did, 2 for a wrong flag.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
import os
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jobs import InputError
from launch import checks, slurm_checks
from launch.checks import Check
from launch.cli import finish, parse, print_json
from launch.profiles import VARIABLE, read_profile

COLOURS = {"ok": "\033[32m", "warn": "\033[33m", "fail": "\033[31m"}


@dataclass(frozen=True)
class Doctor:
    """Flags of `doctor`."""

    runs: Path = field(default_factory=lambda: Path(os.environ.get("ACSAR_RUNS", "runs")))  # folder of all runs
    cluster_profile: Path | None = None  # TOML file, see docs/cluster.toml; default: $ACSAR_CLUSTER_PROFILE
    try_nodes: int = 0  # start a short task on so many nodes: do they see the runs folder?
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Look at one thing after the other."""
    command = parse(Doctor, argv, __doc__ or "")
    if command.try_nodes < 0:
        raise InputError(f"--try-nodes {command.try_nodes}: a number of nodes is wanted")
    found = []
    for check in look(command):
        found.append(check)
        if not command.json:
            show(check)
    failed = sum(check.status == "fail" for check in found)
    if command.json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in found]})
    else:
        warned = sum(check.status == "warn" for check in found)
        print(f"{len(found)} checks: {failed} failed, {warned} warned")
    return 1 if failed else 0


def look(command: Doctor) -> Iterator[Check]:
    """Every check, in the order in which they matter."""
    runs = command.runs.resolve()
    yield from checks.packages()
    yield from checks.devices()
    yield from checks.machine()
    line, answers = slurm_checks.controller(asked=bool(command.cluster_profile or os.environ.get(VARIABLE) or command.try_nodes))
    yield line
    profile = None
    try:
        profile = read_profile(command.cluster_profile)
        if answers:
            yield from slurm_checks.cluster(profile, runs)
    except InputError as error:
        yield Check("cluster profile", "fail", str(error), "docs/cluster.toml shows every key")
    from_there = answers and profile is not None and command.try_nodes > 0
    yield from checks.runs_folder(runs, slurm=answers and not from_there)
    if from_there and profile is not None:
        yield from slurm_checks.try_nodes(command.try_nodes, runs, profile)
    yield from checks.tracking(runs)
    yield from checks.assets()


def show(check: Check) -> None:
    """One line, and the way out below it."""
    on = sys.stdout.isatty()
    status = f"{COLOURS[check.status] if on else ''}{check.status:<4}{chr(27) + '[0m' if on else ''}"
    print(f"{status}  {check.name:<18} {check.said}", flush=True)
    if check.fix:
        print(textwrap.indent(f"-> {check.fix}", " " * 25), flush=True)


if __name__ == "__main__":
    finish(main)
