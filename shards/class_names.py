"""What the classes of NTU RGB+D and PKU-MMD are called; their files only number them.

Names of NTU RGB+D: the list of the data set's authors (public repository shahroudy/NTURGB-D, README), in their spelling. PKU-MMD numbers
most of the same actions by the alphabet; that the order is right shows in part II, which lacks ten classes: eight of them are those for
two people, the other two are about pockets.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_KNOWN = (("ntu", re.compile(r"A(\d{3})")), ("pku", re.compile(r"C(\d{2})")))


def named(classes: Sequence[str]) -> tuple[str, ...]:
    """The classes of a packed set as people call them: A001, A002, ... (NTU) and C01, C02, ... (PKU) by name, others as they are."""
    for benchmark, numbered in _KNOWN:
        found = [numbered.fullmatch(name) for name in classes]
        numbers = [int(match[1]) for match in found if match is not None]
        known = _names(benchmark)
        if classes and len(numbers) == len(classes) and min(numbers) >= 1 and max(numbers) <= len(known):
            return tuple(known[number - 1] for number in numbers)
    return tuple(classes)


@cache
def _names(benchmark: str) -> tuple[str, ...]:
    return tuple(Path(__file__).with_name(f"classes_{benchmark}.txt").read_text().splitlines())
