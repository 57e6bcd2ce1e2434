"""What every part of captioning agrees on: a clip of a video, its strip, what a captioner is asked and answers, and the record of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.samples import Clip

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the full frame; x2 and y2 are one past the last."""

Crop = Literal["person", "union", "full"]


@dataclass(frozen=True)
class VideoClip:
    """Frames start to stop - 1 of a video file; stop=None: to its end."""

    key: str
    path: Path
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Strip:
    """k frames of one clip, cropped and pasted left to right.

    image   [H,W,3] uint8 RGB
    frames  numbers of the frames in the file
    boxes   what was cropped from each
    crop    person: the main one; union: of two that interact; full: nobody was found, so whole frames
    mirrored  each frame is turned left to right, as the video's pictures are mirror images"""

    key: str
    image: NDArray[np.uint8]
    frames: tuple[int, ...]
    boxes: tuple[Box, ...]
    crop: Crop
    mirrored: bool = False


@dataclass(frozen=True)
class Ask:
    """One question: the clip's key, the prompt's words, and what the captioner looks at (its `sees` says which)."""

    key: str
    prompt: str = ""
    strip: Strip | None = None
    skeleton: Clip | None = None


@dataclass(frozen=True)
class Answer:
    """texts   the caption; several only where a published file has several of one clip
    hidden  [L,D] float16: the captioner's own features of the generated tokens, where they were asked for
    error   why there is no caption: an endpoint that gave up on this clip, a clip without body"""

    texts: tuple[str, ...] = ()
    hidden: NDArray[np.float16] | None = None
    error: str = ""


class Captioner(Protocol):
    """Something that describes clips. Loading happens when it is made; an InputError names every missing file.

    name        as typed: ovis2, deepseek-vl, motion, import, endpoint, or a model's own name
    model       what it is exactly: repository or folder, URL and model, file
    revision    commit, or sha256 of what was read; "" where there is none
    provenance  "vlm", "motion" or "import"
    sees        what an Ask must carry
    decode      settings of generation, as JSON values"""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def provenance(self) -> str: ...
    @property
    def sees(self) -> Literal["strip", "skeleton", "nothing"]: ...
    @property
    def decode(self) -> dict[str, Any]: ...

    def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer for each question, in order. What is wrong with a single clip is its answer's `error`; InputError is for what
        stops them all."""


@dataclass(frozen=True)
class CaptionRecord:
    """All that is kept of one clip: one line of a caption file.

    text     the caption, "" where there is none (then `error` says why)
    texts    further captions of the same clip, where a published file has several
    flags    what the quality gate holds against it, after the last prompt; a flagged caption is not used for training
    notes    what was done to it and is no fault: "cut" to a sentence's end
    prompt   id of the prompt that it answers; `asked`: ids of all that were tried
    frames, boxes, crop, mirrored, detector, video: how its strip was made"""

    key: str
    text: str
    provenance: str
    captioner: str
    model: str
    revision: str = ""
    prompt: str = ""
    asked: tuple[str, ...] = ()
    decode: dict[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    tokens: int = 0  # CLIP tokens between start and end
    video: str = ""
    frames: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()
    crop: str = ""
    mirrored: bool = False
    detector: str = ""

    @property
    def usable(self) -> bool:
        """There is a caption and the gate holds nothing against it."""
        return bool(self.text) and not self.flags and not self.error

    def as_json(self) -> dict[str, Any]:
        """JSON values, without fields that say nothing."""
        return {name: value for name, value in asdict(self).items() if value or name in ("key", "text")}

    @classmethod
    def of(cls, value: dict[str, Any], where: str) -> "CaptionRecord":
        """The record that `as_json` described. InputError naming `where` for unknown or missing fields."""
        unknown, missing = sorted(set(value) - set(cls.__dataclass_fields__)), [name for name in ("key", "provenance") if name not in value]
        if unknown or missing:
            raise InputError(f"{where}: not a caption record of this version (unknown {unknown}, missing {missing})")
        given: dict[str, Any] = {"text": "", "captioner": "", "model": "", **value}
        for name in ("asked", "texts", "flags", "notes", "frames"):
            given[name] = tuple(given.get(name, ()))
        given["boxes"] = tuple(tuple(box) for box in given.get("boxes", ()))
        return cls(**given)
