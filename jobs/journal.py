"""The journal of one stream: what training says about itself, one JSON record a line, one file an attempt.

Records have "type" and "time" (unix seconds, this host's clock, never compared between hosts):
  start {attempt, step, resumed_from, steps, steps_per_epoch, world, host, pid, threads, tag, job}
  step  {step (completed, from 1), epoch, loss, losses{name: value}, lr, step_ms, data_wait_ms, samples_per_s, equal_captions or null}
  eval  {step, metrics{name: value}}        save {step, path, ms, bytes}        note {text}
  end   {step, status: finished|stopped|interrupted|nonfinite|failed, message}
"""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs.run_folder import RunFolder, attempts, writing
from shards.manifest import sync_folder

Record = dict[str, Any]


class Journal:
    """Append-only writer; each record is one write() and is flushed at once. Without a path (other ranks) it writes nothing."""

    def __init__(self, path: Path | None, step: int = 0) -> None:
        self.step = step  # completed steps, as far as was written
        self._file = None
        if path is not None:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("ab", buffering=0)
                sync_folder(path.parent)
                sync_folder(path.parent.parent)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one record, whole or not at all. Raises InputError when the disk does not take it."""
        if self._file is not None:
            rest = (json.dumps({"type": kind, "time": round(time.time(), 3), **fields}) + "\n").encode()
            end = self._file.seek(0, os.SEEK_END)
            with writing(Path(self._file.name)):
                try:
                    while rest:  # a disk that gets full takes a part first, and refuses at the next write
                        rest = rest[self._file.write(rest) :]
                except OSError:
                    self._file.truncate(end)  # nothing may be appended to half a line
                    raise
        if kind == "step":
            self.step = fields["step"]

    def sync(self) -> None:
        """Make what was written durable (called at saves)."""
        if self._file is not None:
            with writing(Path(self._file.name)):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            try:
                self.sync()
            finally:
                self._file.close()
                self._file = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read(stream_dir: Path) -> list[Record]:
    """All records of RUNS/NAME/STREAM by attempt, each with "attempt"; step, eval and save records that a later attempt's start
    step has undone are left out, so every step appears once. start, note and end records are history and stay.

    A last line cut short by a kill is ignored. Nothing is ever appended to one: every attempt has a file of its own, and a writer that
    lives to write again has taken its half line back."""
    folder = RunFolder(stream_dir)
    starts = {a.number: a.step for a in attempts(folder) if a.step is not None}
    records = []
    for path in sorted(folder.journal(0).parent.glob("[0-9]*.jsonl")):
        number = int(path.stem)
        limit = min((step for later, step in starts.items() if later > number), default=None)
        for record in _lines(path):
            undone = limit is not None and record["type"] in ("step", "eval", "save") and record["step"] > limit
            if not undone:
                records.append({**record, "attempt": number})
    return records


def last(records: list[Record], kind: str) -> Record | None:
    """The newest record of this type, or None."""
    return next((record for record in reversed(records) if record["type"] == kind), None)


def _lines(path: Path) -> list[Record]:
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
