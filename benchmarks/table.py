"""One line of a benchmark's table, and how it is printed."""

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """A median in `unit`, or None and why; peer and ratio (above 1 = ours is better, unless `name` says otherwise) are None when not
    measured."""

    name: str
    ours: float | None
    unit: str
    peer: float | None = None
    ratio: float | None = None
    why: str = ""


def show(rows: Iterable[Row]) -> None:
    """Print the rows, with the ratio to the peer that ran in the same benchmark."""
    for row in rows:
        if row.ours is None:
            print(f"{row.name:<52} not measured: {row.why}", flush=True)
            continue
        against = "peer not measured" if row.peer is None else f"{row.peer:>10.4g} {row.unit:<12} ratio {row.ratio:.2f}"
        print(f"{row.name:<52} {row.ours:>10.4g} {row.unit:<12} {against}", flush=True)
