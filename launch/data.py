"""From what the user named to a packed set: a packed folder as it is, raw data packed once, nothing named = the synthetic set."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.prepare import SYNTHETIC, Texts, packed_folder, packing
from launch.cli import print_json

Result = TypeVar("Result")


def packed_set(data: Path, runs: Path, label: str, texts: Texts | None = None) -> Path:
    """The packed folder of `data`, made below RUNS/.data when it is raw (with texts that were made for it); prints what it did.

    Raises InputError when there is nothing at `data`."""
    make, out = packing(data, runs, label, texts), packed_folder(data, runs, label, texts)
    if make is None:
        return out
    if data == SYNTHETIC:
        say("no --data: making the synthetic set (a stand-in for trying things, never quoted as a result)")
        with_bar("synthetic", make)
        return out
    say(f"packing {data} into {out} (once)")
    for line in with_bar("packing", make).get("lines", []):
        say(line)
    return out


def with_bar(what: str, job: Callable[[Callable[[int, int], None]], Result]) -> Result:
    """Run a job that reports (done, total) under a progress bar; in a log only its start and end are said."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(what, total=None)
        return job(lambda done, total: progress.update(bar, completed=done, total=total))


def tell(report: Mapping[str, Any], as_json: bool) -> None:
    """What a stage came to: its "lines" for people, or all of it as one JSON document."""
    if as_json:
        print_json(report)
    else:
        for line in report["lines"]:
            say(line)


def say(line: str) -> None:
    """A line for people, on standard error so that --json stays clean."""
    print(line, file=sys.stderr, flush=True)
