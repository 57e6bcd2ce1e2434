"""Pictures of a probed run: accuracies beside their reference points, confusions of the fused scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from acsar import probes
from acsar.streams import LETTERS
from jobs.figure_style import FUSED, NAMED, dress, short
from jobs.fuse import fused
from jobs.scores import Scores
from shards.class_names import named as names_of

BARS = {"": ("pretrained", "#0072b2"), "random_": ("random encoder", "#9aa5ad"), "raw_": ("raw clips, no network", "#e0c27a")}


def accuracy_bars(probed: Mapping[str, Mapping[str, Any]], fusion: Mapping[str, Any] | None = None) -> Figure:
    """Bars of the linear probe per stream (pretrained, random encoder, raw clips) with intervals, 1-NN as diamonds, fused streams last."""
    figure = Figure(figsize=(2.6 + 2.1 * (len(probed) + (fusion is not None)), 4.8), layout="constrained")
    axis = figure.subplots()
    for place, report in enumerate(probed.values()):
        for slot, (prefix, (label, colour)) in enumerate(BARS.items()):
            x, name = place + 0.27 * (slot - 1), f"{prefix}linear"
            _bar(axis, x, report[name], report["intervals"][name], colour, label if place == 0 else None)
            one = "1-NN instead of linear" if place == 0 and slot == 2 else None
            axis.plot(x + 0.07, report[f"{prefix}knn1"], "D", color="white", markeredgecolor="#333333", markersize=4.5, label=one, ls="")
    names = list(probed)
    if fusion is not None and len(fusion["streams"]) > 1:
        _bar(axis, len(names), fusion["top1"], fusion["intervals"]["top1"], FUSED, "fused streams")
        names.append("+".join(LETTERS[name] for name in fusion["streams"]) + "\nfused")
    first = next(iter(probed.values()))
    axis.axhline(first["chance"], color="#666666", linewidth=1, linestyle=":")
    chance = f"chance {first['chance']:.1f} %"
    axis.text(len(names) - 0.46, first["chance"] + 0.7, chance, ha="right", va="bottom", fontsize=8, color="#666666")
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.55, len(names) - 0.45)
    axis.set_ylim(0, 108)
    axis.set_yticks(range(0, 101, 20))
    over = f"{first['test_subjects']} test subjects" if first["interval_over"] == "subjects" else "test clips"
    marks = "".join(
        f"\n{text}"
        for text, true in (
            ("transductive: the encoder may have seen test clips", first["transductive"]),
            ("supervision=text-from-label", first["supervision"] == "text-from-label"),
        )
        if true
    )
    size = f"{first['test']} test clips, {first['classes']} classes"
    title = f"{_found(probed)}Linear probe of frozen features: {size}\nlines: 95 % intervals over {over}{marks}"
    dress(axis, "", "test accuracy, %", title)
    handles = dict(sorted(zip(*reversed(axis.get_legend_handles_labels())), key=lambda item: "1-NN" in item[0]))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def confusion_matrix(streams: Mapping[str, Scores]) -> Figure:
    """Which class the fused streams take for which: rows are true classes, each adds up to 100 %."""
    first = next(iter(streams.values()))
    predictions, count = fused(list(streams.values())).argmax(1), len(first.classes)
    table = probes.confusion(predictions, first.labels, count).double()
    share = (100 * table / table.sum(1, keepdim=True).clamp(min=1)).numpy()
    named = count <= NAMED
    side = min(4 + 0.32 * count, 12.5) if named else 10
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    bar = figure.colorbar(image, ax=axis, shrink=0.75, label="% of the true class's clips")
    bar.outline.set_visible(False)
    if named:
        names = [short(name) for name in names_of(first.classes)]
        axis.set_xticks(range(count), names, rotation=90, fontsize=8)
        axis.set_yticks(range(count), names, fontsize=8)
        for row, column in np.argwhere(np.round(share) >= 1):
            colour = "white" if share[row, column] > 55 else "#222222"
            axis.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(20, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(20, integer=True))
    right = 100 * float((predictions == first.labels).double().mean())
    which = "+".join(LETTERS[name] for name in streams) + (" fused" if len(streams) > 1 else "")
    title = f"{which}: {right:.1f} % of {len(first.keys)} test clips right{_most_confused(share, names_of(first.classes))}"
    dress(axis, "predicted class", "true class", title)
    axis.grid(False)
    axis.tick_params(length=0)
    return figure


def _found(probed: Mapping[str, Mapping[str, Any]]) -> str:
    """Which streams beat their references, a line; nothing where the reports hold no differences."""
    if not all("differences" in report for report in probed.values()):
        return ""
    told = []
    for reference, what in (("random", "its random encoder"), ("raw", "the raw clips")):
        better = [name for name, report in probed.items() if report["differences"][f"linear_over_{reference}"]["interval"][0] > 0]
        told.append(f"{what} in {', '.join(better) or 'no stream'}")
    return f"Pretraining beats {told[0]}; {told[1]} (beyond the 95 % interval of the difference)\n"


def _most_confused(share: NDArray[Any], classes: Sequence[str]) -> str:
    wrong = share * (1 - np.eye(len(share)))
    row, column = divmod(int(wrong.argmax()), len(share))
    if wrong[row, column] <= 0:
        return ", no confusion"
    return f"\nmost often taken for another: {short(classes[row], 40)} for {short(classes[column], 40)} ({wrong[row, column]:.0f} %)"


def _bar(axis: Any, x: float, value: float, interval: Sequence[float], colour: str, label: str | None) -> None:
    low, high = max(0.0, value - interval[0]), max(0.0, interval[1] - value)
    axis.bar(x, value, 0.25, color=colour, label=label)
    axis.errorbar(x, value, [[low], [high]], color="#222222", linewidth=1.2, capsize=3)
    axis.text(x, max(value, interval[1]) + 1.5, f"{value:.1f}", ha="center", va="bottom", fontsize=8)
