"""Pictures of a training: the loss, each of its terms, and what was measured on the way."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from jobs.figure_style import COLOURS, dress

Records = Sequence[Mapping[str, Any]]
TERMS = {
    "gs": "gs: global query, spatial keys",
    "gt": "gt: global query, temporal keys",
    "sg": "sg: spatial query, global keys",
    "tg": "tg: temporal query, global keys",
    "text": "text: captions, with its weight",
}
MEASURED = {
    "held_aside_knn1": ("1-NN accuracy, %", "1-NN on held-aside training subjects"),
    "text_reliance_share": ("share of ln(samples)", "text_reliance: 0 = captions are ignored"),
}


def loss_curves(journals: Mapping[str, Records]) -> Figure:
    """Total loss of each stream over the steps, and the 1-NN accuracy on held-aside training subjects where it was measured."""
    steps = {name: [r for r in records if r["type"] == "step"] for name, records in journals.items()}
    steps = {name: records for name, records in steps.items() if records}
    metric = "held_aside_knn1"
    evals = {name: [r for r in journals[name] if r["type"] == "eval" and metric in r["metrics"]] for name in steps}
    both = any(evals.values())
    figure = Figure(figsize=(11 if both else 7, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    for name, records in steps.items():
        x, y = np.array([r["step"] for r in records]), np.array([r["loss"] for r in records])
        axes[0].plot(*thinned(x, y, 20_000), color=COLOURS[name], alpha=0.25, linewidth=0.8)
        axes[0].plot(*thinned(x, smooth(y)), color=COLOURS[name], linewidth=1.8, label=name)
        if both:
            at, value = [r["step"] for r in evals[name]], [r["metrics"][metric] for r in evals[name]]
            axes[1].plot(at, value, color=COLOURS[name], marker="o", markersize=4, label=name)
    name, records = next(iter(steps.items()))
    y = smooth(np.array([r["loss"] for r in records]))
    dress(axes[0], "step", "loss, sum of all terms", f"Pretraining loss, {name} {y[0]:.2f} at first, {y[-1]:.2f} at last")
    axes[0].legend(frameon=False, title="stream (thin: every step)", title_fontsize=8)
    if both:
        last = ", ".join(f"{name} {found[-1]['metrics'][metric]:.0f}" for name, found in evals.items() if found)
        dress(axes[1], "step", "1-NN accuracy, %", f"Held-aside training subjects, % at last: {last}")
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def loss_terms(journals: Mapping[str, Records], guesses: Mapping[str, Mapping[str, float]] | None = None) -> Figure:
    """Each term of the loss in a panel of its own, and each measurement that was taken on the way; streams by colour.

    guesses: {stream: {term: its loss where all similarities are equal}}, a dotted line."""
    steps = {name: [r for r in records if r["type"] == "step"] for name, records in journals.items()}
    steps = {name: records for name, records in steps.items() if records}
    terms = list(dict.fromkeys(term for records in steps.values() for term in records[0].get("losses", {})))
    measured = [m for m in MEASURED if any(r["metrics"].get(m) is not None for rs in journals.values() for r in rs if r["type"] == "eval")]
    columns = min(4, len(terms) + len(measured))
    rows = -(-(len(terms) + len(measured)) // columns)
    figure = Figure(figsize=(3.7 * columns, 2.9 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, term in zip(grid, terms):
        ends = []
        for name, records in steps.items():
            x = np.array([r["step"] for r in records])
            y = smooth(np.array([r["losses"].get(term, np.nan) for r in records]))
            axis.plot(*thinned(x, y), color=COLOURS[name], linewidth=1.6, label=name)
            ends.append(f"{y[-1]:.2f}")
            guess = (guesses or {}).get(name, {}).get(term)
            if guess is not None:
                axis.axhline(guess, color="#888888", linewidth=1, linestyle=":")
        dress(axis, "step", "", f"{TERMS.get(term, term)}\nat last {', '.join(ends)}")
    for axis, metric in zip(grid[len(terms) :], measured):
        y_name, title = MEASURED[metric]
        for name, journal in journals.items():
            evals = [r for r in journal if r["type"] == "eval" and r["metrics"].get(metric) is not None]
            at, value = [r["step"] for r in evals], [r["metrics"][metric] for r in evals]
            axis.plot(at, value, color=COLOURS[name], marker="o", markersize=3, label=name)
        if metric == "text_reliance_share":
            axis.axhline(0, color="#888888", linewidth=1, linestyle=":")
        dress(axis, "step", y_name, title)
    for axis in grid[len(terms) + len(measured) :]:
        axis.set_axis_off()
    for axis in grid:
        axis.title.set_fontsize(9)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    if guesses:
        figure.supxlabel("dotted: the loss of guessing", fontsize=8.5, color="#666666", x=0.99, ha="right")
    return figure


def thinned(x: NDArray[Any], y: NDArray[Any], most: int = 2000) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most so many points of a smooth curve, its last one among them."""
    every = -(-len(x) // most)
    chosen = np.unique(np.append(np.arange(0, len(x), every), len(x) - 1))
    return x[chosen], y[chosen]


def smooth(y: NDArray[Any]) -> NDArray[Any]:
    """Running mean over about a fifteenth of the curve, without a lag at its ends."""
    half = len(y) // 30
    total = np.concatenate([[0.0], np.cumsum(y)])
    low = np.maximum(np.arange(len(y)) - half, 0)
    high = np.minimum(np.arange(len(y)) + half + 1, len(y))
    mean: NDArray[Any] = (total[high] - total[low]) / (high - low)
    return mean
