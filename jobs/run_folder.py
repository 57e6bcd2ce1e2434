"""One stream's folder, RUNS/NAME/STREAM: where everything lies, who may write, which checkpoint counts.

Attempts claim a number with O_EXCL and record the checkpoint they start from. A checkpoint counts if it is COMPLETE and on the
newest attempt's chain of starts. No lock, modification time or clock of another host is trusted.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import InputError
from shards.manifest import sync_folder, write_file

CHECKPOINT = re.compile(r"step_(\d+)\.a(\d+)")


@dataclass(frozen=True)
class Attempt:
    """One claim: its number, and the checkpoint it starts from ("" = from the beginning); start is None until it is recorded."""

    number: int
    start: str | None

    @property
    def step(self) -> int | None:
        """Completed steps at its start."""
        return None if self.start is None else step_of(self.start)


@dataclass(frozen=True)
class RunFolder:
    """The paths of RUNS/NAME/STREAM."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    @property
    def checkpoints(self) -> Path:
        return self.path / "ckpt"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @property
    def encoder(self) -> Path:
        return self.path / "encoder.safetensors"

    @property
    def text(self) -> Path:
        return self.path / "text.safetensors"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def journal(self, attempt: int) -> Path:
        return self.path / "journal" / f"{attempt:04d}.jsonl"

    def checkpoint(self, step: int, attempt: int) -> Path:
        return self.checkpoints / f"step_{step}.a{attempt}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, an OSError (a full disk, a quota, no permission) becomes an InputError that names the path."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}; make room or choose another --runs, and give the same command again") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, [content])


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, default=str) + "\n").encode())


def read_json(path: Path) -> Any:
    """The file's JSON. Raises InputError when it is damaged, FileNotFoundError when it is not there."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}); move the folder away or give another --name") from None


def step_of(checkpoint: str) -> int:
    """Completed steps in a checkpoint's name ("" = 0)."""
    return _position(checkpoint)[0] if checkpoint else 0


def attempts(folder: RunFolder) -> list[Attempt]:
    """All claims by number."""
    claims = []
    for path in sorted(folder.attempts.glob("[0-9]*.json")):
        text = path.read_text()
        # an empty file was claimed by an attempt that died (or has not got) before it recorded its start: it trained nothing
        claims.append(Attempt(int(path.stem), json.loads(text)["start"] if text else None))
    return claims


def claim(folder: RunFolder) -> int:
    """Claim the next attempt number: from now on every older attempt is superseded."""
    folder.attempts.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        numbers = [a.number for a in attempts(folder)]
        number = max([number - 1, *numbers]) + 1
        try:
            os.close(os.open(folder.attempts / f"{number:04d}.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        # the claim, and the names of the folders above it, whoever made them
        for changed in (folder.attempts, folder.path, *folder.path.parents[:2]):
            sync_folder(changed)
        return number


def record_start(folder: RunFolder, number: int, start: str, facts: dict[str, Any]) -> None:
    """Say which checkpoint the claimed attempt starts from ("" = none)."""
    write_json(folder.attempts / f"{number:04d}.json", {"attempt": number, "start": start, **facts})


def superseded(folder: RunFolder, number: int) -> bool:
    """True when a newer attempt has claimed a number, whatever became of it."""
    return any(int(path.stem) > number for path in folder.attempts.glob("[0-9]*.json"))


def chain(claims: list[Attempt], before: int | None = None) -> dict[int, float]:
    """{attempt: last step of it that counts} along the newest recorded attempt's chain of starts.

    With `before`, the newest attempt older than that number."""
    recorded = {a.number: a.start for a in claims if a.start is not None and (before is None or a.number < before)}
    limits: dict[int, float] = {}
    number, limit = max(recorded, default=0), float("inf")
    while number in recorded and number not in limits:
        limits[number] = limit
        start = recorded[number]
        if not start:
            break
        step, number = _position(start)
        limit = step
    return limits


def trusted(folder: RunFolder, before: int | None = None) -> list[Path]:
    """Checkpoint folders that are COMPLETE and on the chain, newest step first; their files are not verified here."""
    limits = chain(attempts(folder), before)
    found = []
    for marker in folder.checkpoints.glob("step_*.a*/COMPLETE"):
        if CHECKPOINT.fullmatch(marker.parent.name) is None:
            continue
        step, number = _position(marker.parent.name)
        if step <= limits.get(number, -1):
            found.append((step, number, marker.parent))
    return [path for _, _, path in sorted(found, reverse=True)]


def _position(checkpoint: str) -> tuple[int, int]:
    match = CHECKPOINT.fullmatch(checkpoint)
    if match is None:
        raise ValueError(f"{checkpoint!r} is no checkpoint name (step_N.aATTEMPT)")
    return int(match[1]), int(match[2])
