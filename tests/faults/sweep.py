"""Which faults to inject, and what must hold after each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs import checkpoint, journal
from jobs.run_folder import RunFolder
from tests.faults.shim import Fault, Operation, read_log


def logs(folder: Path, world: int) -> list[list[Operation]]:
    """Each rank's operations."""
    return [read_log(folder / str(rank)) for rank in range(world)]


def faults(operations: list[list[Operation]], thin: bool = False) -> Iterator[tuple[Fault, Operation]]:
    """SIGKILL before and after each rank's every operation, and in the middle of each write.

    thin: of many writes to one file in a row the first, the middle and the last."""
    for rank, own in enumerate(operations):
        for k, operation in enumerate(own):
            if thin and k not in _ends(own, k):
                continue
            for harm in ("before", "after", "torn") if operation.kind == "write" else ("before", "after"):
                yield Fault(rank, harm, k + 1), operation


def _ends(own: list[Operation], k: int) -> tuple[int, int, int]:
    """First, middle and last of the writes to one file around k."""
    first = last = k
    while own[k].kind == "write" and first > 0 and own[first - 1].kind == "write" and own[first - 1].path == own[k].path:
        first -= 1
    while own[k].kind == "write" and last + 1 < len(own) and own[last + 1].kind == "write" and own[last + 1].path == own[k].path:
        last += 1
    return first, (first + last) // 2, last


def newest_whole(stream: Path) -> str:
    """The checkpoint of the highest step that has COMPLETE; "" without any. Right as long as every attempt starts from the newest."""
    found = [path.parent.name for path in RunFolder(stream).checkpoints.glob("*/COMPLETE")]
    return max(found, key=lambda name: [int(part) for part in name.removeprefix("step_").split(".a")], default="")


def loader_finds(stream: Path, world: int, zero: int = 0) -> str:
    """What the next attempt would start from; AssertionError unless it is the newest whole checkpoint, without a complaint."""
    folder = RunFolder(stream)
    number = max((int(path.stem) for path in folder.attempts.glob("[0-9]*.json")), default=0) + 1
    found, notes = checkpoint.choose(folder, number, world, zero)
    assert found == newest_whole(stream), (found, newest_whole(stream), notes)
    assert not [note for note in notes if "not used" in note], notes
    return found


def hashes(stream: Path, name: str) -> dict[str, Any]:
    """{file: sha256} of a checkpoint, as COMPLETE says."""
    marker = checkpoint.read_json(RunFolder(stream).checkpoints / name / "COMPLETE")
    return {entry["name"]: entry["sha256"] for entry in marker["files"]}


def losses(stream: Path) -> list[float]:
    """The losses of steps 1, 2, ...; AssertionError unless the journal has each exactly once, in order."""
    steps = [record for record in journal.read(stream) if record["type"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, len(steps) + 1)), [record["step"] for record in steps]
    return [record["loss"] for record in steps]
