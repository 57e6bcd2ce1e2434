"""From what the user named to a packed set: a packed folder as it is, raw data packed once, nothing named = the synthetic set."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs import InputError
from jobs.pack import Pack
from jobs.synthetic import Synthetic

Result = TypeVar("Result")
STORE = ".data"  # below the folder of runs: sets that the suite packed by itself


def packed_set(data: Path | None, runs: Path, label: str) -> Path:
    """The packed folder of `data`, made below RUNS/.data when it is raw; prints one line about what it did.

    Raises InputError when there is nothing at `data`."""
    if data is None:
        folder = runs / STORE / "synthetic"
        if not (folder / "packed" / "manifest.json").is_file():
            say("no --data: making the synthetic set (a stand-in for trying things, never quoted as a result)")
        return with_bar("synthetic", Synthetic(out=folder))
    if (data / "manifest.json").is_file():
        return data
    if not data.exists():
        raise InputError(f"--data {data}: nothing there; name raw data, an exchange .npz or a packed folder")
    mark = hashlib.sha256(f"{data.resolve()}:{label}".encode()).hexdigest()[:8]
    out = runs / STORE / f"{data.stem}-{mark}"
    if not (out / "manifest.json").is_file():
        say(f"packing {data} into {out} (once)")
        report = with_bar("packing", Pack(data=data, out=out, label=label))
        for line in report.get("lines", []):
            say(line)
    return out


def with_bar(what: str, job: Callable[[Callable[[int, int], None]], Result]) -> Result:
    """Run a job that reports (done, total) under a progress bar; in a log only its start and end are said."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(what, total=None)
        return job(lambda done, total: progress.update(bar, completed=done, total=total))


def say(line: str) -> None:
    """A line for people, on standard error so that --json stays clean."""
    print(line, file=sys.stderr, flush=True)
