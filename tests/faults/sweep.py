"""What must hold after a fault: what the next attempt finds, and what the journal says."""

from pathlib import Path
from typing import Any

from jobs import checkpoint, journal
from jobs.run_folder import RunFolder


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
