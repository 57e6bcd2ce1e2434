"""t-SNE of a trained stream: its captions before and after modulation beside its skeletons (AC-SAR figure 6)."""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jobs.figure_style import short
from jobs.maps import Cloud
from jobs.representations import BEFORE, Array, Ints

LISTED = 60  # classes whose names are listed below the maps
COLUMNS, LINE = 5, 0.155  # of that list; inches


def tsne_figure(clouds: Sequence[Cloud], labels: Ints, classes: Sequence[str], title: str, notes: Sequence[str]) -> Figure:
    """A column per cloud: above coloured by k-means, below by class, with the class's number where most of it lies; names and notes below.

    labels [n] of the clouds' rows; classes: their names; title: what the maps show."""
    count = len(clouds)
    lines = [line for note in notes for line in textwrap.wrap(note, 84 * count)]
    names = [f"{i} {short(name, 34)}" for i, name in enumerate(classes)] if 1 < len(classes) <= LISTED else []
    listed = -(-len(names) // COLUMNS)
    heading = textwrap.wrap(title, 56 * count)
    below, above = LINE * (len(lines) + listed + 2), 0.2 * len(heading) + 0.45
    tall, wide = above + 2 * 4.6 + below, 4.6 * count + 0.3
    figure = Figure(figsize=(wide, tall))
    grid = figure.subplots(2, count, squeeze=False)
    figure.subplots_adjust(0.15 / wide, below / tall, 1 - 0.15 / wide, 1 - above / tall, 0.04, 0.09)
    figure.text(0.15 / wide, 1 - 0.12 / tall, "\n".join(heading), fontsize=12, va="top")
    palette = colours(max(len(classes), *(int(cloud.cluster.max()) + 1 for cloud in clouds)))
    for column, cloud in enumerate(clouds):
        shared = f" ({cloud.distinct} distinct)" if cloud.name == BEFORE and cloud.distinct < len(labels) else ""
        clusters = int(cloud.cluster.max()) + 1
        _scatter(grid[0, column], cloud.place, _apart(cloud.place, cloud.cluster), palette)
        grid[0, column].set_title(f"{cloud.name}{shared}: k-means, k = {clusters}", fontsize=10, loc="left")
        _scatter(grid[1, column], cloud.place, labels, palette)
        grid[1, column].set_title(f"by class; clusters agree with classes by {cloud.agreement:.2f}", fontsize=10, loc="left")
        _number(grid[1, column], cloud.place, labels)
        for axis in grid[:, column]:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#cccccc")
    for column in range(COLUMNS):
        text = "\n".join(names[column * listed : (column + 1) * listed])
        place = (0.15 + column * (wide - 0.3) / COLUMNS) / wide
        figure.text(place, 1 - (above + 2 * 4.6 + LINE) / tall, text, fontsize=7.5, va="top", color="#333333", linespacing=1.15)
    figure.text(0.15 / wide, 0.1 / tall, "\n".join(lines), fontsize=8, va="bottom", color="#555555")
    return figure


def colours(count: int) -> list[Any]:
    """`count` colours; up to eight colour-blind readers tell apart (Okabe and Ito); more only help who can see them."""
    first = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a7a7a", "#b8a800"]
    if count <= len(first):
        return first[:count]
    table = [matplotlib.colormaps[name](i) for i in range(20) for name in ("tab20", "tab20b", "tab20c")]
    return [table[i % len(table)] for i in range(count)]


def _scatter(axis: Any, place: Array, group: Ints, palette: Sequence[Any]) -> None:
    size = float(np.clip(24_000 / len(place), 3, 26))
    axis.scatter(*place.T, s=size, c=[palette[i] for i in group], linewidths=0, alpha=0.75)


def _apart(place: Array, cluster: Ints) -> Ints:
    """Clusters numbered so that neighbours on the map get colours from different parts of the palette."""
    count = int(cluster.max()) + 1
    middle = np.stack([np.median(place[cluster == i], axis=0) if (cluster == i).any() else np.zeros(2) for i in range(count)])
    order = np.argsort(middle[:, 0] + 0.3 * middle[:, 1], kind="stable")
    step = next(s for s in range(max(1, round(0.382 * count)), 2 * count + 2) if np.gcd(s, count) == 1)
    number = np.empty(count, np.int64)
    number[order] = (np.arange(count) * step) % count
    return number[cluster]


def _number(axis: Any, place: Array, labels: Ints) -> None:
    """The number of each class at the sample that is nearest to the class's median."""
    for label in np.unique(labels):
        own = place[labels == label]
        x, y = own[np.abs(own - np.median(own, axis=0)).sum(1).argmin()]
        box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        axis.text(x, y, str(label), fontsize=8, fontweight="bold", ha="center", va="center", bbox=box, color="#111111")
