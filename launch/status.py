"""The state of every comparison, or of one in detail: files first, squeue next, sacct last. Right without accounting, and without Slurm.

States: waiting, queued, running, requeued, finished, stopped, cancelled, failed, killed, lost; launch/view.py says what each means.

    python launch/status.py                     every comparison, the newest last
    python launch/status.py NAME                one in detail: ranks, checkpoints, why, what to type next
    python launch/status.py NAME --watch        drawn again every 5 s, until nothing runs or waits any more
    python launch/status.py NAME --json
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from jobs import InputError
from launch.cli import finish, parse, print_json
from launch.traces import find, names
from launch.shown import details, line_of, table
from launch.view import ALIVE, Slurm, UnitView, doubtful, look_at, silent

REDRAW = 5.0  # seconds
ASK_EVERY = 10.0  # seconds between two questions to Slurm while watching
LOOK_AGAIN = 3.0  # seconds until beats are compared: ranks write theirs about every two
LOOKS = 2  # that must find a rank silent


@dataclass(frozen=True)
class Status:
    """Flags of `status`."""

    # the comparison to show in detail; default: all, in one list
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    runs: Path = field(default_factory=lambda: Path(os.environ.get("ACSAR_RUNS", "runs")))  # folder of all runs
    watch: bool = False  # draw again every 5 s until nothing runs or waits any more; Slurm is asked every 10 s
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Look, a second time where a rank may be silent, and show."""
    command = parse(Status, argv, __doc__ or "")
    runs = command.runs.resolve()
    chosen = [find(runs, command.name)] if command.name else [runs / name for name in names(runs)]
    if not chosen:
        raise InputError(f"no runs in {runs}: `python launch/pretrain.py` makes one, --runs names another folder")
    if command.watch and not command.json:
        watch(chosen, detailed=command.name is not None)
        return 0
    views = look_closely(chosen)
    if command.json:
        print_json({"runs": str(runs), "comparisons": {run.name: [asdict(view) for view in found] for run, found in views.items()}})
    else:
        Console(soft_wrap=True, highlight=False).print(drawn(views, detailed=command.name is not None))
    return 0


def look_closely(runs: Sequence[Path]) -> dict[Path, list[UnitView]]:
    """One look; where a rank may be silent a second one a few seconds later, and a third before it is said."""
    slurm = Slurm(every=ASK_EVERY)
    views = look_at(runs, slurm)
    first = everything(views)
    for _ in range(LOOKS if doubtful(first) else 0):
        time.sleep(LOOK_AGAIN)
        views = look_at(runs, slurm, before=first)
        if not any(silent(view) for view in everything(views)):
            break
    return views


def looks(runs: Sequence[Path]) -> Iterator[dict[Path, list[UnitView]]]:
    """Look every few seconds until nothing runs or waits any more; beats are compared with those of the look before the last."""
    slurm, earlier = Slurm(every=ASK_EVERY), deque[list[UnitView]]([[]], maxlen=2)
    while True:
        views = look_at(runs, slurm, before=earlier[0])
        earlier.append(everything(views))
        yield views
        if not any(view.state in ALIVE for view in earlier[-1]):
            return
        time.sleep(REDRAW)


def everything(views: dict[Path, list[UnitView]]) -> list[UnitView]:
    """The units of all comparisons."""
    return [view for found in views.values() for view in found]


def watch(runs: Sequence[Path], detailed: bool) -> None:
    """Draw every look on a terminal; in a log only lines that changed."""
    if sys.stdout.isatty():
        with Live(auto_refresh=False) as live:
            for views in looks(runs):
                live.update(drawn(views, detailed, rows=live.console.height - 2), refresh=True)
        return
    printed = set[str]()
    for views in looks(runs):
        lines = [line_of(view) for view in everything(views)]
        for line in lines:
            if line not in printed:
                print(line, flush=True)
        printed = set(lines)


def drawn(views: dict[Path, list[UnitView]], detailed: bool, rows: int = 0) -> RenderableType:
    """All about each unit, or a list of all: the last `rows` of them where there is no room for more."""
    units = everything(views)
    if detailed:
        return Group(*(details(view) for view in units), *(Text(words) for words in afterwards(views)))
    if sys.stdout.isatty():
        return table(units[-rows:])
    return Text("\n".join(line_of(view) for view in units))


def afterwards(views: dict[Path, list[UnitView]]) -> list[str]:
    """What to type once all streams of a comparison, or of a trial of fine-tuning, are finished."""
    done = [run for run, found in views.items() if found and all(view.state == "finished" for view in found)]
    tuned = [run for run in done if run.parent.name == "finetune"]
    fuse = [f"next: python launch/fuse.py --run {run.parents[1]} --finetune {run.name}" for run in tuned if len(views[run]) > 1]
    return fuse + [f"next: python launch/probe.py --run {run}" for run in done if run not in tuned and not (run / "probe").is_dir()]


if __name__ == "__main__":
    finish(main)
