"""Who is in a frame: detectors of persons, behind one small interface.

yolo      YOLOv5-m as ultralytics has it today (yolov5mu: the same backbone, another head than the v7.0 that the paper cites)
injected  boxes from a file: another detector's, or ground truth
whole     finds nobody, so that whole frames are taken
"""

import atexit
import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jobs.assets import require
from jobs.caption_crop import Person
from jobs.caption_record import VideoClip
from jobs.caption_videos import Image
from shards.errors import InputError
from shards.manifest import sha256_of

SIDE, CONFIDENCE, PERSON = 640, 0.25, 0
"""Letter-box in pixels, least confidence and the class of persons: as the paper has them."""
DETECTOR = "yolov5mu"


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

    places: the bytes of the file that hold a key's lines, from and to, so that millions of boxes need little memory."""

    path: Path
    name: str
    places: dict[str, tuple[int, int]] = field(repr=False)

    def __call__(self, clip: VideoClip, numbers: Sequence[int], frames: Sequence[Image]) -> list[list[Person]]:
        start, stop = self.places.get(clip.key, (0, 0))
        with self.path.open("rb") as file:
            file.seek(start)
            lines = file.read(stop - start).splitlines()
        found = {frame: people for _, frame, people in (_parsed(line, str(self.path)) for line in lines if line.strip())}
        return [found.get(number, []) for number in numbers]


@dataclass(frozen=True)
class Yolo:
    """A network of ultralytics' YOLO class that knows the classes of COCO, on one device."""

    network: Any
    name: str
    device: str

    def __call__(self, clip: VideoClip, numbers: Sequence[int], frames: Sequence[Image]) -> list[list[Person]]:
        pictures = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]  # arrays are taken for blue, green, red
        results = self.network.predict(
            pictures, imgsz=SIDE, rect=False, conf=CONFIDENCE, classes=[PERSON], batch=len(pictures), device=self.device, verbose=False
        )
        rows = (result.boxes.data[:, :5].cpu().numpy().astype(np.float64).tolist() for result in results)
        return [[Person((x1, y1, x2, y2), score) for x1, y1, x2, y2, score in found] for found in rows]


def yolo(weights: str = DETECTOR, device: str = "cpu", assets: Path | None = None) -> Detector:
    """The detector of a weight file, or of a name that launch/fetch_assets.py has fetched. Nothing is downloaded.

    Files are unpickled by the library's restricted loader, which builds known layers and runs no code of the file. InputError where the
    file is missing, damaged, or not of this library (YOLOv5's own repository writes another format)."""
    file = require({"detector": weights}, assets)["detector"].path
    if file.suffix != ".pt":
        raise InputError(f"{file}: --detector takes a .pt file of ultralytics, or the name of one that was fetched")
    library = ultralytics()
    try:
        network = library.YOLO(file, task="detect")
        names = network.names
    except Exception as error:  # whatever a damaged file makes of unpickling
        raise InputError(
            f"{file}: no weights that ultralytics reads safely ({str(error).splitlines()[0]}); fetch {weights} again"
        ) from error
    if names.get(PERSON) not in ("person", str(PERSON)):
        raise InputError(f"{file}: its class {PERSON} is {names.get(PERSON)!r}, not person; take a detector of the COCO classes")
    return Yolo(network, f"{file.stem} sha256:{sha256_of(file)[:12]}", device)


def ultralytics() -> Any:
    """The library, imported so that it neither downloads, reports, installs, nor unpickles code."""
    from jobs.torchvision_ops import mend_torchvision

    settings = tempfile.mkdtemp(prefix="acsar-yolo-")  # it writes settings when it is imported; tasks of an array would do so at once
    atexit.register(shutil.rmtree, settings, ignore_errors=True)
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false", ULTRALYTICS_SAFE_LOAD="true")
    os.environ.setdefault("YOLO_CONFIG_DIR", settings)
    mend_torchvision()
    import ultralytics as library

    if not getattr(library.utils, "SAFE_LOAD", False):
        raise InputError(f"ultralytics {library.__version__} reads weight files by running them; install ultralytics>=8.4.190")
    library.settings.update({"sync": False, "mlflow": False})
    return library


def whole() -> Detector:
    """The detector that finds nobody; its name is "none"."""
    return Whole()


def injected(path: Path) -> Detector:
    """Boxes from a JSONL file, a line per frame: {"key": "...", "frame": 12, "boxes": [[x1, y1, x2, y2, score], ...]}.

    The lines of a key follow each other. InputError naming the line that is wrong, or the file that cannot be read."""
    places: dict[str, tuple[int, int]] = {}
    start, last, frames = 0, "", set[int]()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    key, frame, _ = _parsed(line, f"{path}: line {number}")
                    if key != last:
                        last, frames = key, set()
                        if key in places:
                            raise InputError(f"{path}: line {number}: {key} comes again; sort the file, so that its lines are together")
                    if frame in frames:
                        raise InputError(f"{path}: line {number}: frame {frame} of {key} comes twice; keep one of the lines")
                    frames.add(frame)
                    places[key] = (places.get(key, (start, 0))[0], start + len(line))
                start += len(line)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); --boxes takes a JSONL file of boxes") from None
    return Injected(path, f"boxes {path.name} sha256:{sha256_of(path)[:12]}", places)


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
