"""Slices of a caption set: which clips each has, what has been written of it, what is finished. Any process may die at any moment.

    OUT/plan.jsonl                 written once: what is asked (the first line), then the clips, sorted by key
    OUT/attempts/0007.0002.jsonl   records of the second process that worked on slice 0007, appended batch by batch
    OUT/slices/0007.jsonl          the finished slice: a record per clip in the plan's order, and a last line with their count and sha256
    OUT/hidden/0007/KEY.npy        the captioner's own features of a caption, where they were asked for
    OUT/captions.jsonl             the records of all slices (jobs/caption.py, once the gate has passed)

A slice is a range of the plan, whatever the number of the job that works on it. An attempt claims its number with O_EXCL, and from then on
older attempts are superseded: what they still write is not read, and they leave before their next batch. A slice is finished by a hard
link, which fails where the name exists: the first whole slice stays. No lock, and no clock of another host, decides anything.
"""

import hashlib
import json
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from jobs.stages import Progress
from shards.errors import InputError
from shards.manifest import canonical, sync_folder, write_file

PLAN, SLICES, ATTEMPTS, HIDDEN, CAPTIONS = "plan.jsonl", "slices", "attempts", "hidden", "captions.jsonl"
WINDOW = 600.0  # seconds over which the rate is taken

Record = dict[str, Any]
"""JSON values with a "key"."""


@dataclass(frozen=True)
class Plan:
    """The first line of OUT/plan.jsonl: `clips` clips of this configuration, `per_slice` in each slice but the last."""

    out: Path
    configuration: dict[str, Any]
    clips: int
    per_slice: int
    sha256: str  # of the clips

    @property
    def names(self) -> list[str]:
        """The slices in order."""
        count = -(-self.clips // self.per_slice)
        return [f"{i:0{max(4, len(str(count - 1)))}d}" for i in range(count)]

    def size(self, name: str) -> int:
        """Clips of a slice."""
        return min(self.per_slice, self.clips - int(name) * self.per_slice)

    @property
    def unfinished(self) -> list[str]:
        """The slices that are still to be done."""
        return [name for name in self.names if not is_finished(self.out, name)]


def write_plan(out: Path, configuration: Mapping[str, Any], clips: Sequence[Record], per_slice: int) -> Plan:
    """Write OUT/plan.jsonl, or find it there already; clips are in the order of their keys, each key once.

    Raises InputError naming what differs when another set is being captioned in OUT, and when OUT cannot be written."""
    lines = [_line(clip) for clip in clips]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    plan = Plan(out, json.loads(canonical(dict(configuration))), len(clips), per_slice, digest)
    head = {"configuration": plan.configuration, "clips": plan.clips, "per_slice": per_slice, "sha256": digest}
    try:
        for folder in (SLICES, ATTEMPTS):
            (out / folder).mkdir(parents=True, exist_ok=True)
        if not (out / PLAN).is_file():
            _link_whole(out / PLAN, [_line(head), *lines])
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    there = read_plan(out)
    if there != plan:
        raise InputError(f"{out} has captions of another kind: {_differences(there, plan)}; give another --out, or remove that folder")
    return there


def read_plan(out: Path) -> Plan:
    """The plan of a caption folder. InputError when there is none or it is damaged."""
    path = out / PLAN
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline())
        return Plan(out, head["configuration"], int(head["clips"]), int(head["per_slice"]), str(head["sha256"]))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{out} is no caption folder (no {PLAN}); launch/caption.py --out {out} makes one") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove {out} and caption again") from None


def clips_of(plan: Plan, name: str = "") -> list[Record]:
    """The clips of one slice, or of all. InputError for a slice that is not in the plan, and for a plan whose clips are damaged."""
    if name and name not in plan.names:
        raise InputError(f"{plan.out} has no slice {name!r}; it has {plan.names[0]} to {plan.names[-1]}")
    lines = (plan.out / PLAN).read_bytes().split(b"\n")[1:-1]
    if hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest() != plan.sha256:
        raise InputError(f"{plan.out / PLAN} is damaged (its sum differs); remove {plan.out} and caption again")
    first = int(name or 0) * plan.per_slice
    return [json.loads(line) for line in (lines[first : first + plan.per_slice] if name else lines)]


# --- writing


@dataclass(frozen=True)
class Attempt:
    """This process's work on one slice, from `begin` to `finish`.

    known: records that earlier attempts left, by key; these clips are not asked for again."""

    out: Path
    name: str
    number: int
    known: dict[str, Record]
    file: BinaryIO

    @classmethod
    def begin(cls, out: Path, name: str, **facts: Any) -> "Attempt":
        """Claim the next number of a slice, and read what earlier ones left; `facts` stand in the file's first line."""
        number = max([number for number, _ in attempts(out, name)], default=0)
        while True:
            number += 1
            try:
                handle = os.open(_attempt_path(out, name, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o666)
                break
            except FileExistsError:
                continue
        file = os.fdopen(handle, "wb")
        known = written(out, name)  # after the claim: what older attempts write from now on does not count
        attempt = cls(out, name, number, known, file)
        attempt._write([{"attempt": number, "known": len(known), "host": socket.gethostname(), "pid": os.getpid(), **facts}])
        sync_folder(out / ATTEMPTS)
        return attempt

    @property
    def superseded(self) -> bool:
        """Whether a newer attempt has claimed this slice."""
        return _attempt_path(self.out, self.name, self.number + 1).exists()

    def append(self, records: Iterable[Record]) -> None:
        """Add a batch: on the disk when this returns. InputError when a newer attempt has taken over, or the disk is full."""
        if self.superseded:
            who = f"attempt {self.number} of slice {self.name} in {self.out}"
            raise InputError(f"{who} stops after {len(self.known)} clips: a newer attempt has taken over")
        kept = list(records)
        self._write([{"time": round(time.time(), 1), **record} for record in kept])
        self.known.update({record["key"]: record for record in kept})

    def at(self, key: str, alone: bool) -> None:
        """Say what is about to be worked on, so that it is known if this process dies of it: a batch from this clip on, or it alone."""
        self._write([{"at": key, "alone": alone}])

    def leave(self, why: str) -> None:
        """Say that the end of this attempt is no clip's fault."""
        with suppress(InputError):
            self._write([{"left": why}])

    def finish(self, keys: Sequence[str]) -> Path:
        """Give the slice its final name, complete; where another attempt has done so, its slice stays. The path."""
        lines = [_line(self.known[key]) for key in keys]
        last = {"records": len(keys), "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
        path = final(self.out, self.name)
        with _writing(path):
            _link_whole(path, [*lines, _line(last)])
        return path

    def close(self) -> None:
        """Leave the file as it is."""
        self.file.close()

    def _write(self, records: Sequence[Record]) -> None:
        with _writing(self.out / ATTEMPTS):
            self.file.write(b"".join(map(_line, records)))
            self.file.flush()
            os.fsync(self.file.fileno())


@dataclass(frozen=True)
class Deaths:
    """How earlier attempts at a slice died.

    careful  the newest one before its first batch was written, or going clip by clip
    alone    how often a clip was the only one that was worked on"""

    careful: bool
    alone: Counter[str]

    @classmethod
    def before(cls, attempt: Attempt) -> "Deaths":
        """Those before this attempt; a clip whose record was taken back has a clean sheet."""
        careful, alone = False, Counter[str]()
        for number, path in attempts(attempt.out, attempt.name):
            if number < attempt.number and (lines := read_attempt(path)):
                for line in lines:
                    if line.get("forget"):
                        del alone[line["key"]]
                careful = "at" in lines[-1]
                alone.update([lines[-1]["at"]] if lines[-1].get("alone") else [])
        return cls(careful, alone)


def _attempt_path(out: Path, name: str, number: int) -> Path:
    return out / ATTEMPTS / f"{name}.{number:04d}.jsonl"


def forget(out: Path, name: str, keys: Sequence[str]) -> None:
    """Take the records of these clips back, also out of a finished slice: the next attempt asks about them again."""
    attempt = Attempt.begin(out, name)
    attempt._write([{"key": key, "forget": True} for key in keys])
    attempt.close()
    final(out, name).unlink(missing_ok=True)


def hidden_path(out: Path, name: str, key: str) -> Path:
    """Where the captioner's own features of a clip lie."""
    return out / HIDDEN / name / f"{key}.npy"


# --- reading


def final(out: Path, name: str) -> Path:
    """The file of a finished slice."""
    return out / SLICES / f"{name}.jsonl"


def is_finished(out: Path, name: str) -> bool:
    """Whether a slice is done; its bytes are checked when it is read."""
    return final(out, name).is_file()


def read_slice(out: Path, name: str) -> list[Record]:
    """The records of a finished slice. InputError when it is damaged."""
    path = final(out, name)
    try:
        *lines, last = path.read_bytes().splitlines(keepends=True)
        said = json.loads(last)
        if (said["records"], said["sha256"]) != (len(lines), hashlib.sha256(b"".join(lines)).hexdigest()):
            raise ValueError("its sum differs")
        return [json.loads(line) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        again = "remove it and give the same command again: what attempts wrote is found"
        raise InputError(f"{path} is damaged ({error}); {again}") from None


def attempts(out: Path, name: str) -> list[tuple[int, Path]]:
    """(number, file) of every attempt at a slice, by number."""
    return sorted((int(path.name.split(".")[1]), path) for path in (out / ATTEMPTS).glob(f"{name}.[0-9]*.jsonl"))


def written(out: Path, name: str) -> dict[str, Record]:
    """What the attempts at a slice have written so far, by key; a newer attempt's record replaces an older one's."""
    found = {record["key"]: record for _, path in attempts(out, name) for record in read_attempt(path) if "key" in record}
    return {key: record for key, record in found.items() if not record.get("forget")}


def read_attempt(path: Path, times: bool = False) -> list[Record]:
    """Whole lines of an attempt's file, its first line included; a line that a kill cut short ends it. times: records keep "time"."""
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:  # of a machine that lost its power: what comes after it cannot be trusted either
            break
        if not times:
            record.pop("time", None)
        found.append(record)
    return found


def progress(out: Path) -> Progress:
    """How far the set has come, by its files alone: clips that have a record, and clips/s over the last minutes that were worked.

    The rate uses the writers' clocks, and is shown to people only."""
    plan = read_plan(out)
    unfinished = set(plan.unfinished)
    done = sum(plan.size(name) for name in plan.names if name not in unfinished) + sum(len(written(out, name)) for name in unfinished)
    rate = _rate(out)
    return Progress(done, plan.clips, rate, (plan.clips - done) / rate if rate and done < plan.clips else None)


def reached(out: Path, name: str, tag: str) -> tuple[int, int]:
    """Clips of a slice that had a record when the attempt of this tag began (now, where it left none), and that have one now."""
    now = len(written(out, name))
    heads = [read_attempt(path)[:1] for _, path in attempts(out, name)]
    return next((int(head[0]["known"]) for head in heads if head and head[0].get("tag") == tag), now), now


def _rate(out: Path) -> float | None:
    """Records per second over the newest WINDOW of work; None while there are too few to tell."""
    files = [(path.stat().st_mtime, path) for path in (out / ATTEMPTS).glob("*.jsonl")]
    newest = max((stamp for stamp, _ in files), default=0.0)
    times = sorted(
        float(record["time"])
        for stamp, path in files
        if stamp >= newest - WINDOW
        for record in read_attempt(path, times=True)
        if "time" in record
    )
    recent = [moment for moment in times if moment >= times[-1] - WINDOW]
    first = sum(moment == recent[0] for moment in recent) if recent else 0  # the first batch was made before the time that counts
    seconds = recent[-1] - recent[0] if recent else 0.0
    return (len(recent) - first) / seconds if seconds > 0 else None


def _differences(there: Plan, asked: Plan) -> str:
    """What differs between two plans, in words."""
    fields = sorted({*there.configuration, *asked.configuration})
    told = [
        f"{name} was {json.dumps(there.configuration.get(name))}, now {json.dumps(asked.configuration.get(name))}"
        for name in fields
        if there.configuration.get(name) != asked.configuration.get(name)
    ]
    if there.per_slice != asked.per_slice:
        told.append(f"slice was {there.per_slice}, now {asked.per_slice}")
    if there.sha256 != asked.sha256:
        told.append(f"it is of {there.clips} clips, now {asked.clips}" if there.clips != asked.clips else "its clips are others")
    return "; ".join(told)


def _line(value: Record) -> bytes:
    """One line of ASCII, whatever characters are in it."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"


def _link_whole(path: Path, lines: Sequence[bytes]) -> None:
    """Write a file that is complete from the moment of its name; one that has the name already stays."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write_file(beside, lines)
        with suppress(FileExistsError):
            os.link(beside, path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Inside, a full disk or a quota is an InputError that names the path."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; make room, and give the same command again") from error
