"""Movement in a trajectory: turning points, repetitions, and the poses between which it goes. Signals in, numbers out; no words."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# A repetition: at least so many swings to or fro, the narrowest and the quickest at least such a share of the widest and slowest (with
# only three swings more alike than with more), none longer or shorter than so many frames.
_SWINGS, _LIKE, _LIKE_THREE, _SLOWEST, _QUICKEST = 3, 0.4, 0.5, 45, 3


@dataclass(frozen=True)
class Repetition:
    """Swings to and fro in frames start to stop - 1: along which coordinate, how wide (in the signal's units), how often there and back."""

    start: int
    stop: int
    axis: int
    width: float
    count: int


@dataclass(frozen=True)
class Pose:
    """A place where a trajectory turns (in frame `turn`) or rests, in frames start to stop - 1."""

    start: int
    stop: int
    turn: int
    place: Array


def turning_points(x: Array, swing: float) -> list[int]:
    """Frames of the extremes of x [T] between which it changes by at least `swing`, alternately high and low; first and last frame
    where they are such extremes."""
    low = high = 0
    found: list[int] = []
    rising = 0
    for t, value in enumerate(x):
        if value > x[high]:
            high = t
        if value < x[low]:
            low = t
        if rising >= 0 and x[high] - value >= swing and (rising or high <= t):
            if rising == 0 and x[low] <= x[high] - swing and low < high:
                found.append(low)
            found.append(high)
            rising, low, high = -1, t, t
        elif rising <= 0 and value - x[low] >= swing:
            if rising == 0 and high < low and x[high] >= x[low] + swing:
                found.append(high)
            found.append(low)
            rising, low, high = 1, t, t
    if found:
        last = high if rising > 0 else low
        if last != found[-1]:
            found.append(last)
    return sorted(set(found))


def repetition(signals: Array, swing: float) -> Repetition | None:
    """The most pronounced run of alike swings in any coordinate of signals [T,K]; None where there is none.

    n cycles have 2n extremes, so 2n - 1 swings between them: three swings are two cycles."""
    best: tuple[float, Repetition] | None = None
    for axis, x in enumerate(signals.T):
        points = turning_points(x, swing)
        for i in range(len(points)):
            for j in range(i + _SWINGS, len(points)):
                width, gaps = np.abs(np.diff(x[points[i : j + 1]])), np.diff(points[i : j + 1])
                like = _LIKE_THREE if j - i == _SWINGS else _LIKE
                if gaps.max() > _SLOWEST or gaps.min() < _QUICKEST:
                    break
                if width.min() < like * width.max() or gaps.min() < like * gaps.max():
                    continue
                score = float(width.mean()) * (j - i)
                if best is None or score > best[0]:
                    best = score, Repetition(points[i], points[j] + 1, axis, float(width.mean()), (j - i + 1) // 2)
    return best[1] if best else None


def poses(x: Array, apart: float, rest: float) -> list[Pose]:
    """The places [K] through which a trajectory x [T,K] goes: its ends and where it departs by more than `apart` from a straight way
    between others. Each lasts as long as the trajectory stays within `rest` of it."""
    if len(x) < 2:
        return [Pose(0, len(x), 0, x.mean(0))]
    kept = sorted({0, len(x) - 1, *_bends(x, 0, len(x) - 1, apart)})
    found: list[Pose] = []
    for t in kept:
        near = np.linalg.norm(x - x[t], axis=1) < rest
        start, stop = t, t + 1
        while start > 0 and near[start - 1]:
            start -= 1
        while stop < len(x) and near[stop]:
            stop += 1
        if found and (start < found[-1].stop - 1 or np.linalg.norm(x[t] - found[-1].place) < rest):
            if np.linalg.norm(x[t] - found[-1].place) < 1.5 * rest:
                stop = max(stop, found[-1].stop)
                found[-1] = Pose(found[-1].start, stop, found[-1].turn, x[found[-1].start : stop].mean(0))
                continue
            start = max(start, found[-1].stop)
        found.append(Pose(start, max(stop, start + 1), t, x[t]))
    return found


def _bends(x: Array, first: int, last: int, apart: float) -> list[int]:
    """Douglas and Peucker's choice of points (1973): the one farthest from the chord, where that is far enough, and so on in both parts."""
    if last - first < 2:
        return []
    chord, offset = x[last] - x[first], x[first : last + 1] - x[first]
    share = np.clip(offset @ chord / max(float(chord @ chord), 1e-9), 0, 1)
    distance = np.linalg.norm(offset - share[:, None] * chord, axis=1)
    middle = first + int(distance.argmax())
    if distance.max() < apart:
        return []
    return [*_bends(x, first, middle, apart), middle, *_bends(x, middle, last, apart)]
