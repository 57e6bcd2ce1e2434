"""What the ranks of a unit say of themselves (jobs/heartbeat.py), and which of them is slow or silent.

No clock is trusted: a beat moves when its count grows between two looks, and a rank lags when the others are further in steps.
Times of different hosts only decide whether a second look is worth its seconds.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLOW = 1.5  # times the median of the other ranks' busy time
SLOW_MS = 20.0  # and at least so much longer
SILENT = "no beat"
QUIET = 8.0  # seconds without a beat, by the hosts' own clocks, after which a second look is worth it


@dataclass(frozen=True)
class Rank:
    """The newest beat of one rank."""

    rank: int
    host: str
    pid: int
    tag: str  # of the start of ranks that it belongs to; "" = not under a scheduler
    attempt: int  # 0 = not claimed yet
    step: int
    phase: str
    busy_ms: float | None  # median time of a step before the ranks exchange
    count: int
    time: float  # of its own host's clock

    @property
    def start(self) -> dict[str, Any]:
        """What jobs/replay.py asks to tell whether the process lives."""
        return {"host": self.host, "pid": self.pid, "time": self.time}


def ranks(folder: Path, ours: Callable[[Mapping[str, Any]], bool]) -> list[Rank]:
    """The beats below RUNS/NAME/STREAM that are `ours`, by rank; one that is being written is left out."""
    found = []
    for path in sorted((folder / "heartbeat").glob("[0-9]*.json")):
        try:
            beat = json.loads(path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        if ours(beat):
            found.append(
                Rank(
                    rank=int(beat["rank"]),
                    host=str(beat["host"]),
                    pid=int(beat["pid"]),
                    tag=str(beat.get("tag") or ""),
                    attempt=int(beat.get("attempt") or 0),
                    step=int(beat.get("step") or 0),
                    phase=str(beat.get("phase") or ""),
                    busy_ms=None if beat.get("busy_ms") is None else float(beat["busy_ms"]),
                    count=int(beat["count"]),
                    time=float(beat["time"]),
                )
            )
    return sorted(found, key=lambda rank: rank.rank)


def doing(beats: Sequence[Rank]) -> str:
    """What the ranks are at, where that is no training step: "" most of the time."""
    phases = [beat.phase for beat in beats if beat.phase in ("starting", "loading", "evaluate", "save")]
    return statistics.mode(phases) if phases else ""


def doubtful(beats: Sequence[Rank]) -> bool:
    """Is a second look worth it? When a beat seems old, or when all ranks but one wait in an exchange."""
    if len(beats) < 2:
        return False
    newest, furthest = max(beat.time for beat in beats), max(beat.step for beat in beats)
    late = [b for b in beats if b.phase != "ended" and (newest - b.time > QUIET or furthest - b.step > 1)]
    computing = [beat for beat in beats if beat.phase != "exchange"]
    return bool(late) or (len(computing) == 1 and len(beats) > 2)


def remarks(beats: Sequence[Rank], before: Sequence[Rank]) -> list[str]:
    """A sentence for every silent rank and for the slow one; `before`: the same ranks at an earlier look."""
    silent = _silent(beats, before)
    said = [_silence(beat, [b for b in beats if b not in silent]) for beat in silent]
    slow = _slow([beat for beat in beats if beat not in silent])
    return [*said, slow] if slow else said


def _silent(beats: Sequence[Rank], before: Sequence[Rank]) -> list[Rank]:
    """Ranks whose count stands while another's grows (when none grows, the disk may be showing old content)."""
    then = {(beat.rank, beat.tag, beat.attempt, beat.pid): beat.count for beat in before}
    known = [(beat, then[key]) for beat in beats if (key := (beat.rank, beat.tag, beat.attempt, beat.pid)) in then]
    if not any(beat.count > count for beat, count in known):
        return []
    return [beat for beat, count in known if beat.count == count and beat.phase != "ended"]


def _silence(beat: Rank, others: Sequence[Rank]) -> str:
    furthest = max(others, key=lambda other: other.step)
    age = max(other.time for other in others) - beat.time
    since = f"{SILENT} for {age:.0f} s" if age > QUIET else f"{SILENT} between two looks"
    phases = statistics.mode(other.phase for other in others)
    return f"rank {beat.rank} on {beat.host}: {since} (step {beat.step}, {beat.phase}) while others are at step {furthest.step} in {phases}"


def _slow(beats: Sequence[Rank]) -> str:
    busy = {beat: beat.busy_ms for beat in beats if beat.busy_ms}
    if len(busy) < 2:
        return ""
    worst = max(busy, key=lambda beat: busy[beat])
    usual = statistics.median(ms for beat, ms in busy.items() if beat is not worst)
    if busy[worst] < SLOW * usual or busy[worst] - usual < SLOW_MS:
        return ""
    pace = f"{busy[worst] / usual:.1f}x the median busy time ({busy[worst]:.0f} ms per step, others {usual:.0f})"
    return f"rank {worst.rank} on {worst.host}: {pace}"
