"""Who is in a frame: detectors of persons, behind one small interface.

yolo      YOLOv5-m as ultralytics has it today (yolov5mu: the same backbone, another head than the v7.0 that the paper cites)
injected  boxes from a file: another detector's, or ground truth
whole     finds nobody, so that whole frames are taken
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jobs.caption_crop import Person
from jobs.caption_record import VideoClip
from jobs.caption_videos import Image
from shards.errors import InputError
from shards.manifest import sha256_of


class Detector(Protocol):
    """Finds persons. name: what it is exactly, for the records."""

    @property
    def name(self) -> str: ...

    def __call__(self, clip: VideoClip, numbers: Sequence[int], frames: Sequence[Image]) -> list[list[Person]]:
        """The persons in each of these frames of the clip."""


@dataclass(frozen=True)
class Whole:
    """Finds nobody."""

    name: str = "none"

    def __call__(self, clip: VideoClip, numbers: Sequence[int], frames: Sequence[Image]) -> list[list[Person]]:
        return [[] for _ in numbers]


@dataclass(frozen=True)
class Injected:
    """Boxes of a file, looked up by key and frame number; what the file does not have shows nobody.

    lines: where in the file the lines of a key begin, so that a set of millions of boxes needs little memory."""

    path: Path
    name: str
    lines: dict[str, list[int]] = field(repr=False)

    def __call__(self, clip: VideoClip, numbers: Sequence[int], frames: Sequence[Image]) -> list[list[Person]]:
        found: dict[int, list[Person]] = {}
        with self.path.open("rb") as file:
            for start in self.lines.get(clip.key, ()):
                file.seek(start)
                _, frame, people = _parsed(file.readline(), f"{self.path}: byte {start}")
                found[frame] = people
        return [found.get(number, []) for number in numbers]


def whole() -> Detector:
    """The detector that finds nobody; its name is "none"."""
    return Whole()


def injected(path: Path) -> Detector:
    """Boxes from a JSONL file, a line per frame: {"key": "...", "frame": 12, "boxes": [[x1, y1, x2, y2, score], ...]}.

    InputError naming the line that is none, or the file that cannot be read."""
    lines: dict[str, list[int]] = {}
    seen: set[tuple[str, int]] = set()
    start = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    key, frame, _ = _parsed(line, f"{path}: line {number}")
                    if (key, frame) in seen:
                        raise InputError(f"{path}: line {number}: frame {frame} of {key} comes twice; keep one of the lines")
                    seen.add((key, frame))
                    lines.setdefault(key, []).append(start)
                start += len(line)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); --boxes takes a JSONL file of boxes") from None
    return Injected(path, f"boxes {path.name} sha256:{sha256_of(path)[:12]}", lines)


def _parsed(line: bytes, where: str) -> tuple[str, int, list[Person]]:
    """(key, frame, persons) of a line."""
    try:
        value = json.loads(line)
        key, frame, boxes = value["key"], value["frame"], value["boxes"]
        people = [Person((float(x1), float(y1), float(x2), float(y2)), float(score)) for x1, y1, x2, y2, score in boxes]
        right = isinstance(key, str) and type(frame) is int and all(map(math.isfinite, (v for p in people for v in (*p.box, p.score))))
    except (ValueError, TypeError, KeyError, UnicodeDecodeError):
        right = False
    if not right:
        raise InputError(f'{where}: not {{"key": "...", "frame": 12, "boxes": [[x1, y1, x2, y2, score], ...]}}; mend the line')
    return key, frame, people
