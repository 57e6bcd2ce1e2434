"""What happens in a clip, as events with words, and the few words that all kinds of events share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.caption_figures import FRAMES_PER_SECOND, Array

_TIMES = ("", "once", "twice", "three times", "four times", "five times", "six times")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_METRES = ((0.35, "a short way"), (0.7, "half a metre"), (1.3, "about a metre"), (2.2, "about two metres"))


@dataclass(frozen=True)
class Event:
    """Something that happens in frames start to stop - 1.

    limb    whose movement it is: "left hand", "both hands", "right leg", "trunk", "head", "body"
    words   a verb and what belongs to it, third person
    weight  how much it matters when not all fits: about 1 for what is barely seen, 5 for what moves the whole body
    after   what is said of the stay that follows"""

    start: int
    stop: int
    limb: str
    words: str
    weight: float
    after: str = ""


def often(count: int) -> str:
    """The count in words."""
    return _TIMES[count] if count < len(_TIMES) else "many times"


def number(count: int) -> str:
    """The number in words."""
    return _NUMBERS[count] if count < len(_NUMBERS) else "many"


def way_long(metres: float) -> str:
    """How far somebody goes."""
    return next((words for most, words in _METRES if metres < most), "more than two metres")


def pace(metres_per_second: float) -> str:
    """An adverb for the highest speed of a hand or foot; none for usual ones."""
    return "fast" if metres_per_second > 3.2 else "slowly" if metres_per_second < 0.7 else ""


def speed(x: Array, start: int, stop: int) -> float:
    """Metres per second of x [T,3] at the quicker moments between two frames; 1 where there is too little to tell."""
    part = x[max(start - 1, 0) : stop + 2]
    if len(part) < 3:
        return 1.0
    return float(np.quantile(np.linalg.norm(np.diff(part, axis=0), axis=1), 0.9)) * FRAMES_PER_SECOND


def spans(where: NDArray[np.bool_], least: int = 1, gap: int = 0) -> list[tuple[int, int]]:
    """(start, stop) of the runs of true frames that last `least` frames, those less than `gap` frames apart joined."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(int), [0]])))
    found: list[tuple[int, int]] = []
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist()):
        if found and start - found[-1][1] < gap:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return [(start, stop) for start, stop in found if stop - start >= least]
