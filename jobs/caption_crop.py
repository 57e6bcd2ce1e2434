"""What to crop from each frame of a clip, from the boxes of the persons in it: pure functions on boxes.

The main person is the one that is large and stays near itself from frame to frame; somebody whose box meets the main person's and who is
not much smaller takes part, and both are cropped together. All crops of a clip have one size, so that what a body does stays visible; they
stand still if they can, and otherwise follow a smoothed path.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.caption_record import Box, Crop


class Person(NamedTuple):
    """One person in one frame: x1, y1, x2, y2 in pixels of the full frame, and the detector's confidence."""

    box: tuple[float, float, float, float]
    score: float = 1.0


MARGIN = 0.1
"""What is added around a person, as a share of its height on each side."""
SEEN_AT_LEAST = 0.5
"""Share of the frames in which the main person must be found; below it the whole frames are taken."""
TAKES_PART = 0.5
"""Least height of somebody who takes part, as a share of the main person's; people in the background are smaller."""
WITHIN = 0.85
"""Share of a box that is nearly all of it: what always lies in the main person's box is that person again, such as a box of the trunk."""
NARROWEST = 0.25
"""Least width of a crop as a share of its height, and least height as a share of its width."""
STEADY = 1.35
"""A crop stands still if that makes it at most so much larger."""
_STRIDE = 1.2
"""Body heights that somebody who walks or runs covers between two of the frames; a longer way is a jump to another person."""
_WALK, _JUMP = 0.5, 2.0
"""What a body height costs, up to that and beyond; the largest person of the clip, surely there, is worth 1 per frame."""
_CROWD = 20
"""Persons per frame that are looked at, the largest."""

Track = list[Person | None]
"""One person through the frames; None where it was not found."""


def crops(people: Sequence[Sequence[Person]], width: int, height: int) -> tuple[tuple[Box, ...], Crop]:
    """The boxes to crop from frames of that size, all of one size, and what they show. people: the persons found in each frame."""
    whole: tuple[Box, ...] = ((0, 0, width, height),) * len(people)
    inside = [[p for p in (clipped(person, width, height) for person in found) if p is not None] for found in people]
    main = main_person(inside)
    if sum(person is not None for person in main) < SEEN_AT_LEAST * len(people) or not people:
        return whole, "full"
    other = partner(inside, main)
    boxes = filled(main)
    if other is not None:
        theirs = filled(other)
        boxes = np.concatenate([np.minimum(boxes, theirs)[:, :2], np.maximum(boxes, theirs)[:, 2:]], 1)
    tall = np.median([person.box[3] - person.box[1] for person in main if person is not None])
    return windows(boxes, float(MARGIN * tall), width, height), "person" if other is None else "union"


def clipped(person: Person, width: int, height: int) -> Person | None:
    """The person's box within the frame, or None where nothing of it lies there or a number is not finite."""
    if not all(map(math.isfinite, (*person.box, person.score))):
        return None
    x1, y1, x2, y2 = person.box
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    return Person((x1, y1, x2, y2), person.score) if x2 - x1 >= 1 and y2 - y1 >= 1 else None


def main_person(people: Sequence[Sequence[Person]]) -> Track:
    """The track of the largest person that stays near itself: the best path through the frames, by dynamic programming.

    A frame is worth the square root of the box's area times its confidence, relative to the clip's best; a move costs by its length in
    body heights, divided by the number of frames it takes. Frames may be left out, which is worth nothing."""
    nodes = [(t, person) for t, found in enumerate(people) for person in sorted(found, key=_weight, reverse=True)[:_CROWD]]
    if not nodes:
        return [None] * len(people)
    sizes = np.array([_weight(person) for _, person in nodes])
    worth = sizes / max(sizes.max(), 1e-9)
    best, before = worth.copy(), [-1] * len(nodes)
    for i, (t, person) in enumerate(nodes):
        for j, (earlier, last) in enumerate(nodes[:i]):
            if earlier < t:
                far = moved(last, person) / (t - earlier)
                total = best[j] + worth[i] - _WALK * far - _JUMP * max(0.0, far - _STRIDE)
                if total > best[i]:
                    best[i], before[i] = total, j
    track: Track = [None] * len(people)
    at = int(best.argmax())
    while at >= 0:
        t, person = nodes[at]
        track[t], at = person, before[at]
    return track


def moved(a: Person, b: Person) -> float:
    """How far a body went and how much it grew, in body heights: between the middles of the boxes, plus the change in height."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.box, b.box
    tall = max(ay2 - ay1, by2 - by1)
    return (math.hypot(bx1 + bx2 - ax1 - ax2, by1 + by2 - ay1 - ay2) / 2 + abs((by2 - by1) - (ay2 - ay1)) / 2) / tall


def partner(people: Sequence[Sequence[Person]], main: Track) -> Track | None:
    """The largest other person whose box, with its margin, meets the main person's in some frame, or None.

    Only persons of at least TAKES_PART of the main one's height count, and boxes that do not always lie in the main person's."""
    rest = [
        [p for p in found if p is not mine and (mine is None or p.box[3] - p.box[1] >= TAKES_PART * (mine.box[3] - mine.box[1]))]
        for found, mine in zip(people, main)
    ]
    while any(rest):
        track = main_person(rest)
        both = [(mine, theirs) for mine, theirs in zip(main, track) if mine is not None and theirs is not None]
        if any(meet(*pair) for pair in both) and not all(within(theirs, mine) for mine, theirs in both):
            return track
        rest = [[p for p in found if p is not theirs] for found, theirs in zip(rest, track)]
    return None


def within(a: Person, b: Person) -> bool:
    """Whether nearly all of the first box lies in the second."""
    (x1, y1, x2, y2), (left, top, right, bottom) = a.box, b.box
    shared = max(0.0, min(x2, right) - max(x1, left)) * max(0.0, min(y2, bottom) - max(y1, top))
    return shared >= WITHIN * (x2 - x1) * (y2 - y1)


def meet(a: Person, b: Person) -> bool:
    """Whether two boxes overlap when each has its margin."""
    gap = MARGIN * (a.box[3] - a.box[1] + b.box[3] - b.box[1])
    return all(min(a.box[i + 2], b.box[i + 2]) - max(a.box[i], b.box[i]) > -gap for i in (0, 1))


def filled(track: Track) -> NDArray[np.float64]:
    """[T,4] boxes of a track: frames without the person lie evenly between their neighbours, the ends repeat."""
    seen = [t for t, person in enumerate(track) if person is not None]
    boxes = np.array([person.box for person in track if person is not None], np.float64)
    return np.stack([np.interp(np.arange(len(track)), seen, boxes[:, side]) for side in range(4)], 1)


def windows(boxes: NDArray[np.float64], margin: float, width: int, height: int) -> tuple[Box, ...]:
    """Crops of one size within the frame, each with its box of boxes [T,4] and, where the frame has room, the margin.

    Across and down apart: where all boxes together need little more than the largest one the crop stands still, so that a jump and
    sitting down are seen as such; otherwise it is as large as the largest and follows the smoothed middles."""
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    largest, all_of_them = (high - low).max(0), high.max(0) - low.min(0)
    still = all_of_them <= STEADY * largest
    sizes = np.where(still, all_of_them, largest)
    sizes = np.maximum(sizes, NARROWEST * sizes[::-1])
    w, h = (min(math.ceil(size), most) for size, most in zip(sizes, (width, height)))
    middles = np.where(still, (low.min(0) + high.max(0)) / 2, smoothed((low + high) / 2))
    out: list[Box] = []
    for (x, y), (x1, y1, x2, y2) in zip(middles, boxes):
        left = round(min(max(min(max(x - w / 2, x2 - w), x1), 0), width - w))
        top = round(min(max(min(max(y - h / 2, y2 - h), y1), 0), height - h))
        out.append((left, top, left + w, top + h))
    return tuple(out)


def smoothed(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T,2] points, each with a quarter of its neighbours; the ends repeat."""
    padded = np.concatenate([path[:1], path, path[-1:]])
    return np.asarray((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4)


def _weight(person: Person) -> float:
    x1, y1, x2, y2 = person.box
    return math.sqrt((x2 - x1) * (y2 - y1)) * person.score
