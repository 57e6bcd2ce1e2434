"""What a person sees while streams train: bars on a terminal, a plain line now and then in a log. Reads journals, asks nobody."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY = 15.0  # seconds between plain lines
TAIL = 65536  # bytes: enough for the newest records of any journal


@dataclass
class Seen:
    """The newest facts of one stream's journal."""

    step: int = 0
    steps: int = 0
    loss: float = float("nan")
    rate: float = 0.0
    note: str = "starting"


def look(stream_dir: Path) -> Seen:
    """Read the end of the newest attempt's journal; nothing there yet is no error."""
    seen = Seen()
    journals = sorted((stream_dir / "journal").glob("[0-9]*.jsonl"))
    if not journals:
        return seen
    for record in tail(journals[-1]):
        kind = record.get("type")
        if kind == "start":
            seen.steps, seen.step, seen.note = record["steps"], record["step"], "first step"
        elif kind == "step":
            seen.step, seen.loss, seen.rate, seen.note = record["step"], record["loss"], record["samples_per_s"], ""
        elif kind == "eval":
            seen.note = "  ".join(f"{name} {value:.2f}" for name, value in record["metrics"].items() if isinstance(value, float))
        elif kind == "end":
            seen.note = record["status"]
    return seen


def tail(path: Path) -> list[dict[str, Any]]:
    """The first record of a journal and its newest ones; lines cut short are left out."""
    with path.open("rb") as file:
        first = file.readline()
        size = file.seek(0, os.SEEK_END)
        file.seek(max(len(first), size - TAIL))
        lines = file.read().rpartition(b"\n")[0].splitlines()
    if size - TAIL > len(first):
        lines = lines[1:]  # the first one may be cut
    return [json.loads(line) for line in [first, *lines] if line.endswith((b"}", b"}\n"))]


class Display:
    """One display for all streams of a comparison. Use as a context manager and call `show` now and then."""

    def __init__(self, run: Path, streams: tuple[str, ...], steps: int) -> None:
        self.run, self.streams, self.steps = run, streams, steps
        self.terminal = sys.stderr.isatty()
        self.last_line = dict.fromkeys(streams, 0.0)
        self.printed = dict.fromkeys(streams, "")
        self.bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description:<7}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:>6.0f}/{task.total:.0f}"),
            TextColumn("loss {task.fields[loss]:7.3f}  {task.fields[rate]:7.1f} clips/s"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not self.terminal,
        )

    def __enter__(self) -> "Display":
        self.progress.start()
        for stream in self.streams:
            self.bars[stream] = self.progress.add_task(stream, total=self.steps, loss=float("nan"), rate=0.0, note="waiting")
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, running: set[str], ended: dict[str, int]) -> None:
        """Bring the display up to date; streams in neither set are waiting for their turn."""
        for stream in self.streams:
            if stream not in running and stream not in ended:
                continue
            seen = look(self.run / stream)
            if self.terminal:
                self.progress.update(self.bars[stream], completed=seen.step, loss=seen.loss, rate=seen.rate, note=seen.note)
            else:
                self._line(stream, seen, final=stream in ended)

    def _line(self, stream: str, seen: Seen, final: bool) -> None:
        now = time.monotonic()
        done = f"{stream:<7} step {seen.step}/{seen.steps or self.steps}"
        text = f"{done}  loss {seen.loss:.3f}  {seen.rate:.1f} clips/s  {seen.note}".rstrip()
        if text != self.printed[stream] and (final or now - self.last_line[stream] >= LINE_EVERY):
            print(text, file=sys.stderr, flush=True)
            self.last_line[stream], self.printed[stream] = now, text
