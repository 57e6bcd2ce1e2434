"""Figures of single classes: two results class by class (AC-SAR figure 4), their confusions side by side (figure 7), confusable pairs."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from jobs.class_comparison import ClassRow, Comparison, confusion, pairs
from jobs.figure_style import NAMED, dress, short
from jobs.scores import Scores
from shards.class_names import named

FIRST, SECOND = "#0072b2", "#d55e00"  # Okabe and Ito: told apart by colour-blind readers
FAINT = {FIRST: "#b3d1e4", SECOND: "#f2c7a6"}  # the same where an interval holds zero
FRAMES = 6  # cells that are framed in the confusion matrices


def class_bars(comparison: Comparison) -> Figure:
    """Accuracy of two results by class, and the difference with its interval; classes sorted by difference."""
    rows = comparison.ranked()[::-1]
    tall = max(3.4, 2.0 + (0.3 if len(rows) <= NAMED else 0.17) * len(rows))
    size = 8.5 if len(rows) <= NAMED else 7
    figure = Figure(figsize=(11, tall), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))
    y = np.arange(len(rows))
    left.barh(y + 0.2, [row.first for row in rows], 0.38, color=FIRST, label=comparison.first)
    left.barh(y - 0.2, [row.second for row in rows], 0.38, color=SECOND, label=comparison.second)
    left.set_yticks(y, [f"{short(row.name, 38)} ({row.clips})" for row in rows], fontsize=size)
    left.set_xlim(0, 100)
    left.set_ylim(-0.7, len(rows) - 0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    ends = np.array([row.interval for row in rows])
    values = np.array([row.difference for row in rows])
    right.barh(y, values, 0.62, color=[_colour(row) for row in rows])
    whiskers = np.abs(np.stack([np.minimum(ends[:, 0] - values, 0), np.maximum(ends[:, 1] - values, 0)]))
    right.errorbar(values, y, xerr=whiskers, fmt="none", ecolor="#444444", elinewidth=0.8, capsize=1.6)
    right.axvline(0, color="#222222", linewidth=0.8)
    dress(left, "accuracy, % of the class's test clips (in brackets: how many)", "", "")
    names = (comparison.first, comparison.second)
    minus = " minus ".join(names if max(map(len, names)) <= 20 else ("the first", "the second"))
    dress(right, f"{minus}, points (faint: interval holds zero)", "", "")
    _headline(figure, comparison.sentences())
    for axis in (left, right):
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.tick_params(axis="y", length=0)
        axis.xaxis.label.set_fontsize(9)
    return figure


def confusion_pair(first: Scores, second: Scores, titles: tuple[str, str]) -> Figure:
    """Confusion matrices of two results on the same classes side by side; the confusions that changed most are framed and listed.

    titles: what the two are, as "without modulation" and "with modulation". Raises ValueError for other classes."""
    if first.classes != second.classes:
        raise ValueError(f"{titles[0]} and {titles[1]} have other classes ({len(first.classes)} and {len(second.classes)})")
    names, shares = named(first.classes), [_shares(scores) for scores in (first, second)]
    count = len(names)
    side = max(4.5, 1.6 + 0.3 * count) if count <= NAMED else 8.2 if count <= 70 else 12.5  # of one matrix, inches
    figure = Figure(figsize=(2 * side + 3.3, side + 3.4), layout="compressed")
    axes = figure.subplots(1, 2, sharey=True)
    changed = _changed(*shares)
    for axis, scores, share, title in zip(axes, (first, second), shares, titles):
        image = axis.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
        _ticks(axis, names)
        if count <= NAMED:
            _numbers(axis, share)
        for number, (row, column) in enumerate(changed, 1):
            _frame(axis, number, row, column, count)
        right = 100 * float((scores.scores.argmax(1) == scores.labels).double().mean())
        dress(axis, "predicted class", "true class" if axis is axes[0] else "", "")
        told = wrap(f"{title}: {right:.1f} % of {len(scores.keys)} test clips right", int(10 * side))
        axis.set_title("\n".join(told), fontsize=11, loc="left", pad=13)
        axis.grid(False)
        axis.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, label="% of the true class's clips", ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.outline.set_visible(False)
    lines = [
        f"{number}  {names[row]} taken for {names[column]}: {shares[0][row, column]:.0f} → {shares[1][row, column]:.0f} %"
        for number, (row, column) in enumerate(changed, 1)
    ]
    heading = "Framed, what changed most from left to right:" if lines else "The two do not differ."
    _headline(figure, [heading, *lines])
    return figure


def confusable_pairs(scores: Scores, title: str, against: Scores | None = None, against_title: str = "", most: int = 20) -> Figure:
    """The pairs of classes that `scores` takes for each other most often; a mark beside each bar says what `against` does.

    title, against_title: what the two results are."""
    found = pairs(scores)[:most][::-1]
    other = {(pair.first, pair.second): pair.share for pair in pairs(against)} if against is not None else {}
    figure = Figure(figsize=(9.5, max(2.4, 1.5 + 0.3 * len(found))), layout="constrained")
    axis = figure.subplots()
    y = np.arange(len(found))
    there = np.array([100 * pair.there / pair.clips for pair in found])
    back = np.array([100 * pair.back / pair.clips for pair in found])
    axis.barh(y, there, 0.66, color=FIRST, label="first taken for second")
    axis.barh(y, back, 0.66, left=there, color="#7db8da", label="second taken for first")
    for at, pair in enumerate(found):
        said = f"{pair.there} + {pair.back} of {pair.clips} clips"
        place = max(pair.share, other.get((pair.first, pair.second), 0))
        axis.annotate(said, (place, at), (6, 0), textcoords="offset points", va="center", fontsize=7.5, color="#555555")
    if against is not None:
        its = [other.get((pair.first, pair.second), 0.0) for pair in found]
        axis.plot(its, y, "D", color="white", markeredgecolor=SECOND, markeredgewidth=1.6, markersize=5, label=against_title, ls="")
    axis.set_yticks(y, [f"{short(pair.first, 34)} ↔ {short(pair.second, 34)}" for pair in found], fontsize=8.5)
    axis.set_xlim(0, 1.3 * max([*there + back, *other.values(), 1.0]))
    axis.set_ylim(-0.7, max(len(found), 1) - 0.3)
    wrong = int((scores.scores.argmax(1) != scores.labels).sum())
    shown = sum(pair.there + pair.back for pair in found)
    held = "1 pair holds" if len(found) == 1 else f"{len(found)} pairs hold"
    share = f"{held} {100 * shown / wrong:.0f} % of its {wrong} mistakes" if wrong else "no mistake"
    dress(axis, "% of both classes' test clips taken for the other class", "", "")
    _headline(figure, [f"{title}: {share}"])
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(8))
    if found:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def _headline(figure: Figure, lines: Sequence[str]) -> None:
    """What the figure shows, in words above it, wrapped at its width (names of runs are long)."""
    wide = int(13 * figure.get_figwidth())  # characters of this size
    figure.suptitle("\n".join(part for line in lines for part in wrap(line, wide)), fontsize=10, x=0.01, ha="left")


def _colour(row: ClassRow) -> str:
    colour = FIRST if row.difference > 0 else SECOND
    return colour if row.beyond else FAINT[colour]


def _shares(scores: Scores) -> NDArray[Any]:
    """[N,N] percent: rows are true classes and add up to 100, or 0 for a class without test clips."""
    table = confusion(scores).double()
    shares: NDArray[Any] = (100 * table / table.sum(1, keepdim=True).clamp(min=1)).numpy()
    return shares


def _changed(first: NDArray[Any], second: NDArray[Any]) -> list[tuple[int, int]]:
    """Cells off the diagonal that differ most, largest change first; of equals in the order of the rows."""
    change = np.abs(second - first) * (1 - np.eye(len(first)))
    order = np.argsort(-change, axis=None, kind="stable")[:FRAMES]
    return [(int(at) // len(first), int(at) % len(first)) for at in order if change.flat[at] > 0]


def _ticks(axis: Any, names: Sequence[str]) -> None:
    """Names of the classes on both axes, as large as there is room for."""
    count = len(names)
    size = 8 if count <= NAMED else 6.2 if count <= 70 else 4.8
    labels = [short(name, 26 if count <= NAMED else 32) for name in names]
    axis.set_xticks(range(count), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(count), labels, fontsize=size)


def _numbers(axis: Any, share: NDArray[Any]) -> None:
    for row, column in np.argwhere(np.round(share) >= 1):
        colour = "white" if share[row, column] > 40 else "#222222"
        axis.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=6.5, color=colour)


def _frame(axis: Any, number: int, row: int, column: int, count: int) -> None:
    """A frame around a cell, wide enough to be found, with its number."""
    wide = 0.5 if count <= NAMED else 0.9
    axis.add_patch(Rectangle((column - wide, row - wide), 2 * wide, 2 * wide, fill=False, edgecolor=SECOND, linewidth=1.4))
    place = {"ha": "left", "va": "bottom", "fontsize": 8, "color": SECOND, "fontweight": "bold"}
    axis.text(column + wide, row - wide, f"{number}", **place)
