"""What a comparison's jobs printed: the first error first, then the last lines of the newest log.

Without KEY: the units that went wrong, else all.

    python launch/logs.py NAME
    python launch/logs.py NAME joint --rank 3 --lines 200
    python launch/logs.py NAME --follow
    python launch/logs.py NAME --errors         only what failed ranks said, every rank of the newest start
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs import InputError
from launch.cli import finish, parse, print_json
from launch.traces import errors_of, find
from launch.unit import Unit
from launch.view import ALIVE, MENDABLE, Slurm, UnitView, look

BLOCK = 65536  # bytes read at a time, from the end
POLL = 0.5  # seconds between two looks at a log that is followed
LOOK_EVERY = 10.0  # seconds between two looks at whether anybody still writes


@dataclass(frozen=True)
class Logs:
    """Flags of `logs`."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]  # of the comparison
    # joint, bone, motion, pack, probe or fuse; default: what went wrong, else all
    key: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[KEY]")] = None
    runs: Path = field(default_factory=lambda: Path(os.environ.get("ACSAR_RUNS", "runs")))  # folder of all runs
    rank: int | None = None  # whose log; default: of the rank that failed first, else rank 0
    lines: int = 40  # how many from the end
    follow: bool = False  # go on printing what is written, until nobody works on it any more
    errors: bool = False  # only what failed ranks said
    json: bool = False  # print one JSON document and nothing else


@dataclass(frozen=True)
class Found:
    """The newest log of a unit, and what failed ranks said in the newest start."""

    view: UnitView
    rank: int
    path: Path | None
    size: int  # of the log when it was found
    failures: list[dict[str, Any]]


def main(argv: list[str]) -> int:
    """Find the logs and print them."""
    command = parse(Logs, argv, __doc__ or "")
    run = find(command.runs.resolve(), command.name, [command.key] if command.key else [])
    found = [find_log(run, view, command.rank) for view in chosen(look(run), command.key)]
    if command.json:
        print_json({"run": str(run), "units": [document(one, command.lines) for one in found]})
    elif command.errors:
        for one in found:
            print("\n".join(said(one)))
    else:
        for one in found:
            print("\n".join(shown(one, command.lines)), flush=True)
        if command.follow:
            follow(run, found)
    return 0


def chosen(views: list[UnitView], key: str | None) -> list[UnitView]:
    """The named unit, else those that went wrong, else all."""
    if key:
        return [view for view in views if view.key == key]
    return [view for view in views if view.state in MENDABLE] or views


def find_log(run: Path, view: UnitView, rank: int | None) -> Found:
    """The newest log of a unit. Raises InputError naming the ranks that have one when this rank has none."""
    unit = Unit(run, view.key)
    failures = errors_of(unit)
    wanted = rank if rank is not None else failures[0]["rank"] if failures else 0
    path = newest(unit, view, wanted)
    if path is None and rank is not None:
        known = sorted({int(file.stem.split("_")[-2 if file.suffix == ".out" else -1]) for file in files(unit)})
        raise InputError(f"rank {rank} of {unit.folder} has no log; there are {', '.join(map(str, known)) or 'none'}")
    if path is None:
        wanted, path = 0, newest(unit, view, 0)
    return Found(view, wanted, path, path.stat().st_size if path else 0, failures)


def files(unit: Unit) -> list[Path]:
    """Every log of a unit: scheduler's jobs, submitit's local jobs, ranks of the local pool."""
    return [path for pattern in ("*_log.out", "submitit/*/*_log.out", "rank_*.log") for path in unit.logs.glob(pattern)]


def newest(unit: Unit, view: UnitView, rank: int) -> Path | None:
    """The log of this rank that was written last; of an array, of a part that went wrong if there is one."""
    of_rank = [path for path in files(unit) if path.name.endswith((f"_{rank}_log.out", f"rank_{rank:05d}.log"))]
    submission = unit.submitted()
    wrong = [job for part, job in zip(submission.parts, submission.job_ids()) if part in view.missing] if submission else []
    of_jobs = [path for path in of_rank if path.name.removesuffix(f"_{rank}_log.out") in wrong]
    return max(of_jobs or of_rank, key=lambda path: path.stat().st_mtime_ns, default=None)


def tail(path: Path | None, size: int, lines: int) -> list[str]:
    """The last lines of a file's first `size` bytes."""
    if path is None or lines < 1:
        return []
    position, content = size, b""
    with path.open("rb") as file:
        while position > 0 and content.count(b"\n") <= lines:
            step = min(BLOCK, position)
            position = file.seek(position - step)
            content = file.read(step) + content
    return content.decode(errors="replace").splitlines()[-lines:]


def said(found: Found) -> list[str]:
    """What failed ranks said, the cause before its echoes."""
    if not found.failures:
        return [f"== {found.view.key} ({found.view.state}): no rank left an error" + (f"; {found.view.why}" if found.view.why else "")]
    lines = []
    for failure in found.failures:
        lines.append(f"== {found.view.key}: rank {failure['rank']} on {failure['host']}: {failure['kind']}: {failure['message']}")
        lines += [f"   {line}" for line in failure.get("trace", [])]
    return lines


def shown(found: Found, lines: int) -> list[str]:
    """Heading, first error, last lines."""
    view = found.view
    head = [f"== {view.key} ({view.state}): {found.path or f'no log in {view.key}/logs yet'}"]
    head += [f"   {words}" for words in dict.fromkeys((view.why, view.error)) if words]
    return [*head, *tail(found.path, found.size, lines)]


def document(found: Found, lines: int) -> dict[str, Any]:
    """The same as JSON values."""
    view = found.view
    last = tail(found.path, found.size, lines)
    return {
        "key": view.key,
        "state": view.state,
        "why": view.why,
        "log": found.path and str(found.path),
        "errors": found.failures,
        "lines": last,
    }


def follow(run: Path, found: list[Found]) -> None:
    """Print what is appended, newer logs of the same units too, until nobody works on them any more."""
    slurm, ranks = Slurm(), {one.view.key: one.rank for one in found}
    places = {one.view.key: (one.path, one.size) for one in found}
    looked, alive = 0.0, True
    while True:
        for key, (path, position) in places.items():
            if path is not None:
                places[key] = (path, position + _print_from(path, position, key if len(ranks) > 1 else ""))
        if not alive:
            return
        if time.monotonic() - looked >= LOOK_EVERY:
            views = [view for view in look(run, slurm) if view.key in ranks]
            alive, looked = any(view.state in ALIVE for view in views), time.monotonic()
            for view in views:
                path = newest(Unit(run, view.key), view, ranks[view.key])
                if path != places[view.key][0]:
                    places[view.key] = (path, 0)
        time.sleep(POLL if alive else 0)


def _print_from(path: Path, position: int, prefix: str) -> int:
    """Print whole lines from a position on; how many bytes they were."""
    with path.open("rb") as file:
        file.seek(position)
        whole, newline, _ = file.read().rpartition(b"\n")
    for line in whole.decode(errors="replace").splitlines():
        print(f"{prefix} | {line}" if prefix else line, flush=True)
    return len(whole) + len(newline)


if __name__ == "__main__":
    finish(main)
