"""How much each stream counts when streams are fused: the paper's 0.5 each, numbers that are given, or the best on held-aside people."""

import itertools
import math
from collections.abc import Sequence

from acsar import probes
from jobs.scores import Scores
from shards.errors import InputError

WEIGHT = 0.5  # AC-SAR section 3.6
PARTS = 12  # of the grid: two and three streams can both have equal shares, 6 + 6 and 4 + 4 + 4


def given(text: str, streams: Sequence[str]) -> dict[str, float]:
    """`0.6,0.6,0.4` as {stream: weight}, in the order of the streams. Raises InputError unless there is a positive number for each."""
    words = [word.strip() for word in text.split(",")]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise InputError(f"--weights {text!r}: give paper, held-aside, or one number per stream, for example 0.6,0.6,0.4") from None
    if len(numbers) != len(streams):
        raise InputError(f"--weights {text}: {len(numbers)} weights for {len(streams)} streams ({', '.join(streams)}); give one each")
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise InputError(f"--weights {text}: weights must be above 0; leave a stream out with --streams")
    return dict(zip(streams, numbers))


def chosen(aside: Sequence[Scores], rule: str) -> tuple[float, ...]:
    """The weights on `grid` by which most held-aside clips are right; of equals the most equal ones, then those of the earlier streams.

    aside: the streams' scores of the same held-aside clips in one order, by classifiers that never saw them (design: classifier A)."""
    labels = aside[0].labels
    best, found = -1, (WEIGHT,) * len(aside)
    for weights in grid(len(aside)):
        right = int(probes.hits(probes.fuse_scores([scores.scores for scores in aside], weights, rule), labels).sum())
        if right > best:
            best, found = right, weights
    return found


def grid(streams: int) -> list[tuple[float, ...]]:
    """Every division of PARTS equal parts among the streams, a stream without any too, times a number that makes equal shares 0.5 each:
    13 for two streams, 91 for three. The most equal first, then by the parts of the earlier streams."""
    shares = (parts for parts in itertools.product(range(PARTS + 1), repeat=streams) if sum(parts) == PARTS)
    ordered = sorted(shares, key=lambda parts: (sum(part * part for part in parts), [-part for part in parts]))
    return [tuple(WEIGHT * streams * part / PARTS for part in parts) for parts in ordered]
