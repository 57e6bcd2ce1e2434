"""t-SNE of a trained stream: its captions before and after modulation beside its skeletons (AC-SAR figure 6).

A map shows who is whose neighbour; distances between groups, their sizes and the empty space mean nothing. Modulated captions hold the
skeleton's own feature, so their map would look like the skeletons' if the captions said nothing: the numbers beside the maps tell.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jobs.figure_style import NAMED, short
from jobs.representations import Array, Ints, Points

PERPLEXITY, STEPS, COMPONENTS, STARTS = 30.0, 1000, 50, 4
FEWEST = 8  # distinct rows that a map is worth
WIDE = 150  # letters of a line under the maps


@dataclass(frozen=True)
class Cloud:
    """A map: place [n,2]; cluster [n] by k-means of the features that were mapped; agreement of the clusters with the classes: adjusted
    mutual information, 0 = as by chance, 1 = the same partition; distinct rows."""

    name: str
    place: Array
    cluster: Ints
    agreement: float
    distinct: int


def mapped(points: Points, labels: Ints, clusters: int, seed: int, flat: bool = True) -> Cloud | None:
    """The map of n samples and their k-means clusters; None where fewer than FEWEST rows are distinct. flat=False: no map (place 0).

    Principal components first (COMPONENTS at most); t-SNE of the distinct rows, started from two of the components; rows that are equal
    are spread over a little disc around their place, so that all of them are seen. A function of the features and the seed."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.metrics import adjusted_mutual_info_score

    _, first, member, counts = np.unique(points.same, return_index=True, return_inverse=True, return_counts=True)
    if len(first) < FEWEST:
        return None
    rows = points.features[first].astype(np.float64)
    rows = PCA(min(COMPONENTS, *rows.shape), svd_solver="full").fit_transform(rows)
    clustered = KMeans(min(clusters, len(rows)), n_init=STARTS, random_state=seed).fit(rows, sample_weight=counts).labels_[member]
    agreement = float(adjusted_mutual_info_score(labels, clustered))
    place = np.zeros((len(labels), 2), np.float32)
    if flat:
        perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, max_iter=STEPS, init="pca", learning_rate="auto", random_state=seed, method="barnes_hut")
        place = spread(tsne.fit_transform(rows.astype(np.float32)), member)
    return Cloud(points.name, place, clustered.astype(np.int64), agreement, len(first))


def spread(centres: Array, member: Ints) -> Array:
    """[n,2]: each sample beside the place of its group, centres [g,2], member [n]; a group's samples fill a disc of area in proportion to
    their number, as a sunflower's seeds do; single ones stay where they are."""
    extent = float(np.ptp(centres, axis=0).max()) or 1.0
    order = np.argsort(member, kind="stable")
    sizes = np.bincount(member, minlength=len(centres))
    seed = np.arange(len(member)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # 0, 1, 2, ... within each group
    radius = 0.55 * extent / np.sqrt(len(member)) * np.sqrt(seed)
    turn = np.pi * (3 - np.sqrt(5)) * seed
    place = np.asarray(centres, np.float32)[member[order]]
    place += (radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)).astype(np.float32) * 0.5
    found = np.empty_like(place)
    found[order] = place
    return found


def settings(seed: int) -> str:
    """What t-SNE and k-means were told, in a line for the figure."""
    words = f"t-SNE (scikit-learn {version('scikit-learn')}): at most {COMPONENTS} principal components, perplexity {PERPLEXITY:g}"
    return f"{words}, {STEPS} steps, started from the components, seed {seed}; k-means: {STARTS} starts, of the same components"


def tsne_figure(clouds: Mapping[str, Cloud | None], labels: Ints, classes: Sequence[str], notes: Sequence[str]) -> Figure:
    """A column per representation: above coloured by k-means, below by class, with the class's number where most of it lies.

    clouds: by name, None where too few rows were distinct to draw a map; labels [n]; notes: sentences below."""
    shown = list(clouds)
    keyed = len(classes) <= NAMED and any(name != str(i) for i, name in enumerate(classes))
    lines = [line for note in notes for line in textwrap.wrap(note, 62 * len(shown))]
    figure = Figure(
        figsize=(4.9 * len(shown), 9.9 + 0.17 * len(lines) + (0.17 * -(-len(classes) // 6) if keyed else 0)), layout="constrained"
    )
    grid = figure.subplots(2, len(shown), squeeze=False)
    palette = colours(max(len(classes), max((int(c.cluster.max()) + 1 for c in clouds.values() if c is not None), default=1)))
    for column, name in enumerate(shown):
        cloud = clouds[name]
        for axis in grid[:, column]:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#cccccc")
        if cloud is None:
            for axis in grid[:, column]:
                axis.text(
                    0.5, 0.5, f"{name}:\ntoo few are distinct for a map", ha="center", va="center", fontsize=9, transform=axis.transAxes
                )
            continue
        said = f"{cloud.distinct} distinct" if cloud.distinct < len(labels) else f"{len(labels)} clips"
        _scatter(grid[0, column], cloud.place, _apart(cloud.place, cloud.cluster), palette)
        count = int(cloud.cluster.max()) + 1
        grid[0, column].set_title(f"{name}, {said}\ncoloured by k-means, k = {count}", fontsize=10, loc="left")
        _scatter(grid[1, column], cloud.place, labels, palette)
        grid[1, column].set_title(f"coloured by class; clusters agree by {cloud.agreement:.2f}", fontsize=10, loc="left")
        _number(grid[1, column], cloud.place, labels)
    if keyed:
        names = [f"{i} {short(name, 30)}" for i, name in enumerate(classes)]
        rows = -(-len(names) // 6)
        text = "\n".join("   ".join(f"{name:<32}" for name in names[row::rows]) for row in range(rows))
        lines = [*text.splitlines(), *lines]
    figure.supxlabel("\n".join(lines), fontsize=8, ha="left", x=0.01, family="monospace" if keyed else None, color="#333333")
    return figure


def colours(count: int) -> list[Any]:
    """`count` colours; up to eight colour-blind readers tell apart (Okabe and Ito); more only help who can see them."""
    first = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a7a7a", "#b8a800"]
    if count <= len(first):
        return first[:count]
    table = [matplotlib.colormaps[name](i) for i in range(20) for name in ("tab20", "tab20b", "tab20c")]
    return [table[i % len(table)] for i in range(count)]


def _scatter(axis: Any, place: Array, group: Ints, palette: Sequence[Any]) -> None:
    size = float(np.clip(24_000 / len(place), 2, 26))
    axis.scatter(*place.T, s=size, c=[palette[i] for i in group], linewidths=0, alpha=0.75, rasterized=True)


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
        axis.text(x, y, str(label), fontsize=7, ha="center", va="center", bbox=box, color="#111111")


def findings(clouds: Mapping[str, Cloud | None], control: float | None) -> list[str]:
    """What the maps show, in words, by the agreement of clusters with classes; `control`: that of exchanged captions."""
    before, after = clouds.get("captions before modulation"), clouds.get("captions after modulation")
    skeleton = clouds.get("skeletons")
    lines = []
    if before is not None and after is not None:
        told = "closer to" if after.agreement > before.agreement else "no closer to"
        lines.append(
            f"Modulation brings the captions' clusters {told} the classes: {before.agreement:.2f} before, {after.agreement:.2f} after."
        )
    if after is not None and control is not None:
        lines.append(
            f"With captions exchanged among the clips the modulated ones reach {control:.2f}: "
            "as much of it is the skeleton's own, which modulation adds, and no caption's."
        )
    if skeleton is not None:
        lines.append(f"Skeletons: {skeleton.agreement:.2f}.")
    lines.append("Agreement is adjusted mutual information of k-means clusters and classes: 0 as by chance, 1 the same partition.")
    lines.append(
        "k-means colours are cut from the very points they colour, so they look tidy whatever was learnt; "
        "distances between groups, their sizes and the space between them mean nothing in t-SNE."
    )
    return lines
