"""One line of a benchmark's table, and how it is printed."""

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """A median in `unit`; peer and ratio (above 1 = ours is better, unless `name` says otherwise) are None when not measured."""

    name: str
    ours: float
    unit: str
    peer: float | None = None
    ratio: float | None = None


def show(rows: Iterable[Row]) -> None:
    """Print the rows, with the ratio to the peer that ran in the same benchmark."""
    for row in rows:
        against = "peer not measured" if row.peer is None else f"{row.peer:>10.4g} {row.unit:<12} ratio {row.ratio:.2f}"
        print(f"{row.name:<52} {row.ours:>10.4g} {row.unit:<12} {against}", flush=True)
