"""Which recordings the public benchmarks consist of, by name: what a complete raw set holds, without having it.

NTU RGB+D: every set-up has its performers; each does every class twice before three cameras, classes 1 to 60 in set-ups 1 to 17 and 61 to
120 in the others. The table is read off the list of available skeletons that the public repository Uason-Chen/CTR-GCN carries
(data/ntu120/statistics). PKU-MMD II: how many actions each untrimmed video holds, counted from the sample names of the descriptions that
the public repository cseeyangchen/C2VL carries (text/pkuv2_language.zip).
"""

from collections.abc import Mapping

from shards.errors import InputError
from shards.samples import Sample

NTU_PERFORMERS: Mapping[int, str] = {
    1: "1 2 3 4 5 6 7 8",
    2: "3 7 8 9 10 11 12 13 14",
    3: "1 2 7 8 15 16 17 18 19",
    4: "3 7 8 20",
    5: "4 10 13 15 16 17 18 21",
    6: "1 7 8 15 16 17 19 22 23 24",
    7: "1 7 8 15 16 17 18 19 25 26 27 28",
    8: "1 7 8 15 19 25 29 30 31 32 33 34 35 36",
    9: "7 8 15 16 17 19 25",
    10: "7 8 13 15 16 17 18 19 21 25",
    11: "1 2 7 8 15 16 17 18 19 25 27 28 38",
    12: "7 8 15 16 17 18 19 25 27 28 37",
    13: "7 8 15 16 17 18 19 25 27 28 37",
    14: "7 8 15 17 19 25 27 37 39",
    15: "7 8 15 16 17 19 25 37",
    16: "7 8 19 21 25 39 40",
    17: "3 7 8 9 15 16 17 20",
    18: "8 41 42 43 44 45",
    19: "8 41 42 46 47 48 49 50 51",
    20: "8 41 43 44 52 53 54",
    21: "55 56 57 58 59 60",
    22: "61 62 63 64 65 66 67",
    23: "55 56 57 58 59 60 61 62 63 64 65 66 67 68",
    24: "57 60 61 62 63 64 67",
    25: "55 56 58 59 65 66 68",
    26: "8 41 44 49 50 51 69 70 71 72 74 75 76 77",
    27: "6 8 11 41 43 44 78 79 80 81 82 83 84 85 86",
    28: "8 41 42 43 46 48 70 73 87",
    29: "6 8 41 43 44 48 49 51 67 74 75 80 88 89 90",
    30: "8 11 41 43 44 48 67 75 76 81 85 88 91 92 93 94 95 96",
    31: "6 8 41 42 43 44 51 67 82 85 96 97 98 99 100 101",
    32: "8 41 43 44 67 102 103 104 105 106",
}
"""Performers by set-up."""

PKU2_ACTIONS: tuple[str, ...] = (
    "777 777 777 777 777 777 777 777 777 877 877 777 777",
    "888 788 888 868 888 888 888 888 888 888 888 888 888",
    "787 777 777 777 777 777 777 777 777 777 777 777 777",
    "666 666 666 656 666 666 666 666 666 666 666 666 666",
    "777 777 777 606 777 777 777 877 667 777 777 777 777",
    "777 777 777 777 777 777 777 777 777 777 777 787 777",
    "666 666 666 666 666 666 666 666 666 666 666 606 666",
    "666 666 666 666 666 666 666 666 666 666 666 606 666",
    "777 777 777 777 777 777 999 777 999 777 777 777 999",
    "888 888 888 888 877 888 988 888 988 888 888 889 888",
    "777 777 777 777 777 777 777 777 877 777 777 777 777",
    "777 777 777 777 777 777 777 777 777 777 777 777 777",
    "777 777 777 777 777 777 777 777 777 777 787 777 676",
    "777 777 777 777 777 777 777 666 777 777 787 707 777",
    "888 888 888 888 888 888 888 888 888 888 888 888 888",
    "777 777 676 666 777 777 777 777 777 777 777 777 777",
    "777 777 777 777 777 777 777 777 666 777 777 777 777",
    "666 666 666 666 666 666 666 666 666 666 666 666 666",
    "666 666 666 666 666 666 666 666 676 666 666 666 666",
    "707 777 767 767 767 777 767 767 767 767 777 788 767",
    "777 777 777 777 777 777 777 777 777 777 777 777 777",
    "666 666 666 666 666 666 666 666 666 666 666 666 666",
    "777 777 777 777 777 777 777 787 787 777 777 777 777",
    "777 777 777 777 767 777 777 777 777 777 777 777 777",
    "777 779 777 778 777 777 777 777 777 777 777 777 777",
    "778 777 777 777 777 777 676 777 777 777 777 777 777",
)
"""By scene (A01 to A26): for each subject (N01 to N13) the number of actions in views L, M and R; 0 = there is no such video."""


def recordings(benchmark: str) -> list[Sample]:
    """Every recording of "ntu60" or "ntu120" by name, those without skeletons too (shards.facts.missing), or every action of "pku2".

    What a protocol looks at is as the readers give it. The class of a PKU-MMD action is not known here (label -1), and it is named by its
    video and place there. InputError for another benchmark."""
    if benchmark == "pku2":
        return [sample for scene, row in enumerate(PKU2_ACTIONS, 1) for sample in _actions(scene, row)]
    if benchmark not in ("ntu60", "ntu120"):
        raise InputError(f"the recordings of {benchmark!r} are not known by name; those of ntu60, ntu120 and pku2 are")
    last = 17 if benchmark == "ntu60" else 32
    return [
        Sample(f"S{setup:03d}C{camera:03d}P{performer:03d}R{take:03d}A{label + 1:03d}", label, performer, camera, setup, take)
        for setup, performers in NTU_PERFORMERS.items()
        if setup <= last
        for camera in (1, 2, 3)
        for performer in map(int, performers.split())
        for take in (1, 2)
        for label in (range(60) if setup <= 17 else range(60, 120))
    ]


def _actions(scene: int, row: str) -> list[Sample]:
    """The actions of a scene's videos."""
    return [
        Sample(f"A{scene:02d}N{subject:02d}-{'LMR'[view]}_L{line:03d}", -1, subject, view + 1, scene)
        for subject, counts in enumerate(row.split(), 1)
        for view, count in enumerate(map(int, counts))
        for line in range(1, count + 1)
    ]
