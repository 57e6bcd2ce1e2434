"""What every reader of raw data gives: a list of samples, and a clip for each key.

Readers are picklable (worker processes read too) and lazy.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError

FRAMES_MAX = 300


@dataclass(frozen=True)
class Sample:
    """What is known about one clip without reading its motion.

    label is 0-based; subject, camera, setup and replication are as the source numbers them (from 1; 0 = unknown).
    split is "", "train" or "test", or the part per protocol where a source ships several lists ("xsub:train xview:test").
    frames is the raw length (0 = unknown until read).
    """

    key: str
    label: int
    subject: int = 0
    camera: int = 0
    setup: int = 0
    replication: int = 0
    split: str = ""
    frames: int = 0
    text: str = ""


@dataclass(frozen=True)
class Clip:
    """One clip's raw motion, its first 300 frames at most.

    bodies [M,T,V,C] float32 by slot (metres, camera axes; an absent body is zero in that frame);
    by_id  (body id, first frame, joints [t,V,C]) in order of appearance, or None where the source has no ids. First frame counts
           the frames that hold any body, and a body that leaves and returns stays contiguous (as CTR-GCN's preparation has it);
    frames raw length: T, or more where the clip was cut to its first 300 frames (0 = T).
    """

    bodies: NDArray[np.float32]
    by_id: list[tuple[int, int, NDArray[np.float32]]] | None = None
    frames: int = 0

    @property
    def cut(self) -> bool:
        """Whether the raw clip was longer than what is kept."""
        return bool(self.frames > self.bodies.shape[1])


@dataclass
class Source(ABC):
    """A data set as it lies on disk.

    format      "ntu", "pku", "agcn", "ctrgcn" or "exchange"
    benchmark   "ntu60", "ntu120", "pku1", "pku2", "synthetic", "exchange" or "arrays": which protocols and facts apply
    classes     names, by label
    normalised  the arrays are already normalised: packing leaves them alone
    provenance  where the samples' texts come from: "" (there are none), "label", "import", "program", "motion" or "vlm"
    options     what was asked for when it was opened and changes its samples
    """

    path: Path
    format: str = ""
    benchmark: str = ""
    classes: tuple[str, ...] = ()
    skeleton: str = "ntu25"
    normalised: bool = False
    provenance: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @abstractmethod
    def samples(self) -> list[Sample]:
        """All samples, sorted by key. Duplicate keys are an InputError that names key and files."""

    @abstractmethod
    def read(self, key: str) -> Clip:
        """The motion of one sample. InputError (with a short `reason`) where it is broken or shows nobody."""

    @abstractmethod
    def digest(self, key: str) -> str:
        """sha256, in hex, of everything the source says about this sample."""

    def excluded(self) -> Mapping[str, str]:
        """Keys that are listed but are not to be used, with the reason (the missing-skeleton lists)."""
        return {}


def unique(entries: Iterable[tuple[str, str]]) -> dict[str, str]:
    """(key, place) pairs as a mapping; two places for one key are an InputError that names both."""
    places: dict[str, list[str]] = defaultdict(list)
    for key, place in entries:
        places[key].append(place)
    for key, found in places.items():
        if len(found) > 1:
            raise InputError(f"duplicate key {key}: {found[0]} and {found[1]}; keep one of them", reason="duplicate key")
    return {key: found[0] for key, found in places.items()}


def whole_clip(bodies: NDArray[np.float32], where: str) -> Clip:
    """Check bodies [M,T,V,C] and cut them to 300 frames. InputError where a number is not finite or nobody is in the clip."""
    kept = np.ascontiguousarray(bodies[:, :FRAMES_MAX], dtype=np.float32)
    if not np.isfinite(kept).all():
        frame = int(np.argwhere(~np.isfinite(kept))[:, 1].min())
        raise InputError(f"{where}: a coordinate in frame {frame} is not finite; repair or remove this sample", reason="not finite")
    if not kept.any():
        raise InputError(f"{where}: no body in any frame; remove this sample", reason="no person")
    return Clip(kept, frames=bodies.shape[1])
