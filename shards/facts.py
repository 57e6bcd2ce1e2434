"""Facts about the public benchmarks: who trains, how many samples there should be, which recordings lack skeletons.

The missing lists are those of the data set's authors (302 names for NTU RGB+D 60, 535 for 120), as the public repository
Uason-Chen/CTR-GCN carries them under data/ntu*/statistics; only the names are kept here, sorted.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

_NTU60_TRAIN = frozenset((1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38))
_NTU120_MORE = frozenset(
    (45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103)
)

TRAIN_SUBJECTS: Mapping[str, frozenset[int]] = {
    "ntu60": _NTU60_TRAIN,
    "ntu120": _NTU60_TRAIN | _NTU120_MORE,
    "pku2": frozenset(range(1, 14)) - {2, 3, 7},
    "synthetic": frozenset(range(1, 1000, 2)),
}
"""Subjects that train under x-sub; the others test. Part I of PKU-MMD does not name its subjects: its split file decides."""

TRAIN_CAMERAS: Mapping[str, frozenset[int]] = {
    "ntu60": frozenset((2, 3)),
    "pku1": frozenset((2, 3)),
    "pku2": frozenset((2, 3)),
    "synthetic": frozenset((2, 3)),
}
"""Cameras that train under x-view (PKU-MMD: 1 = L, 2 = M, 3 = R); the others test."""

EVEN_SETUPS: frozenset[str] = frozenset(("ntu120", "synthetic"))
"""Benchmarks with an x-set protocol: even set-ups train, odd ones test."""

SAMPLES: Mapping[str, tuple[int, int]] = {"ntu60": (56880, 56578), "ntu120": (114480, 113945), "pku2": (6952, 6952)}
"""Recordings in the raw set, and how many remain without the missing list."""

COUNTS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "ntu60": {"xsub": (40091, 16487), "xview": (37646, 18932)},
    "ntu120": {"xsub": (63026, 50919), "xset": (54468, 59477)},
    "pku2": {"xsub": (5339, 1613), "xview": (4622, 2330)},
}
"""Train and test samples by protocol. PKU-MMD II by names; papers say 5335 / 1610, 7 fewer, without saying which."""


@cache
def missing(benchmark: str) -> frozenset[str]:
    """Names of the recordings whose skeletons are missing or incomplete; empty for a benchmark without such a list."""
    if benchmark not in ("ntu60", "ntu120"):
        return frozenset()
    return frozenset(Path(__file__).with_name(f"missing_{benchmark}.txt").read_text().split())


def compare(benchmark: str, protocol: str, train: int, test: int) -> str:
    """One line that says whether a packed set has the benchmark's counts; empty where none are known."""
    expected = COUNTS.get(benchmark, {}).get(protocol)
    if expected is None:
        return ""
    verdict = "as published" if expected == (train, test) else f"differs by {train - expected[0]:+d} / {test - expected[1]:+d}"
    return f"{benchmark} {protocol}: expected {expected[0]} / {expected[1]}, packed {train} / {test}: {verdict}"
