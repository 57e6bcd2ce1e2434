"""End a comparison's jobs, or some of its units'. What they have trained stays; launch/retry.py goes on with it.

Jobs that wait for a cancelled one are cancelled too. Runs without a scheduler: their processes on this machine are asked to save and leave.

    python launch/cancel.py NAME
    python launch/cancel.py NAME bone motion
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import tyro

from jobs.replay import process_alive
from jobs.run_folder import read_json, write_json
from launch import scheduler
from launch.beats import Rank
from launch.cli import finish, parse, print_json
from launch.traces import find
from launch.unit import Unit
from launch.view import ALIVE, UnitView, look, upstream

LAUNCHERS = ("pretrain.py", "finetune.py", "demo.py", "pipeline.py")  # that start ranks on this machine


@dataclass(frozen=True)
class Cancel:
    """Flags of `cancel`."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]  # of the comparison
    # joint, bone, motion, caption, gather, pack, probe, fuse, ...; default: all
    keys: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="[KEY ...]")] = field(default_factory=list)
    runs: Path = field(default_factory=lambda: Path(os.environ.get("ACSAR_RUNS", "runs")))  # folder of all runs
    json: bool = False  # print one JSON document and nothing else


@dataclass(frozen=True)
class Done:
    """What was done about one unit."""

    key: str
    state: str  # before
    why: str
    jobs: list[str] = field(default_factory=list)  # that were cancelled
    processes: list[int] = field(default_factory=list)  # that were asked to leave


def main(argv: list[str]) -> int:
    """Write down what is cancelled, then do it, and say so."""
    command = parse(Cancel, argv, __doc__ or "")
    run = find(command.runs.resolve(), command.name, command.keys)
    views = look(run)
    done = end(run, with_dependents([view for view in views if view.key in (command.keys or [view.key])], views), whole=not command.keys)
    if command.json:
        print_json({"run": str(run), "units": [asdict(one) for one in done]})
    else:
        for one in done:
            print(f"{one.key}: {one.why}")
    return 0


def with_dependents(chosen: Sequence[UnitView], views: Sequence[UnitView]) -> list[UnitView]:
    """The chosen units, and those in the queue that wait for one of them."""
    keys = {view.key for view in chosen}
    for view in views:  # in the order of the work, so that chains are followed to their end
        if view.state in ALIVE and view.jobs and any(first.key in keys and first.state in ALIVE for first in upstream(view, views)):
            keys.add(view.key)
    return [view for view in views if view.key in keys]


def end(run: Path, chosen: Sequence[UnitView], whole: bool) -> list[Done]:
    """End what is alive of these units; whole: nothing of the comparison is to go on.

    Raises InputError with Slurm's words when it refuses."""
    alive = [view for view in chosen if view.state in ALIVE and (view.jobs or view.ranks)]
    for view in alive:
        remember(Unit(run, view.key), view)
    queued = [view for view in alive if view.jobs and all(rank.tag for rank in view.ranks)]
    scheduler.cancel([job for view in queued for job in view.jobs])
    if whole:  # first, so that it does not start the next stream
        for pid in {pid for view in alive if view not in queued for rank in lives_here(view) for pid in launchers_of(rank.pid)}:
            tell(pid, signal.SIGINT)
    done = []
    for view in chosen:
        if view not in alive:
            done.append(Done(view.key, view.state, f"nothing to cancel: {view.state}"))
        elif view in queued:
            done.append(Done(view.key, view.state, f"was {view.state}; job {', '.join(view.jobs)} is being ended{_stays(view)}", view.jobs))
        else:
            done.append(leave(view))
    return done


def remember(unit: Unit, view: UnitView) -> None:
    """Write cancelled.json before anything is ended, so that nobody starts it again."""
    submission = unit.submitted()
    before = read_json(unit.cancelled)["jobs"] if unit.cancelled.is_file() else []
    jobs = submission.job_ids() if submission else []
    write_json(unit.cancelled, {"jobs": sorted({*before, *jobs, *view.jobs}), "attempt": view.attempts})


def leave(view: UnitView) -> Done:
    """Ask the processes of a run without a scheduler to save and leave, as far as they are on this machine."""
    here = lives_here(view)
    for rank in here:
        tell(rank.pid, signal.SIGTERM)
    told = [f"{len(here)} process(es) here were asked to save and leave{_stays(view)}"] if here else []
    others = sorted({rank.host for rank in view.ranks if process_alive(rank.start) is None})
    told += [f"its processes on {host} can only be ended there: launch/cancel.py on that host" for host in others]
    return Done(view.key, view.state, f"was {view.state}; {'; '.join(told)}", processes=[rank.pid for rank in here])


def lives_here(view: UnitView) -> list[Rank]:
    """Ranks whose processes run on this machine."""
    return [rank for rank in view.ranks if process_alive(rank.start)]


def tell(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def launchers_of(pid: int) -> list[int]:
    """The launch script that started this process, if it still runs."""
    with contextlib.suppress(psutil.Error):
        parents = psutil.Process(pid).parents()
        return [parent.pid for parent in parents if any(Path(word).name in LAUNCHERS for word in parent.cmdline()[1:3])][:1]
    return []


def _stays(view: UnitView) -> str:
    return f"; its newest checkpoint {view.checkpoint} stays" if view.checkpoint else ""


if __name__ == "__main__":
    finish(main)
