"""Maps of what a stream makes of clips: k-means and t-SNE of unit features, how far clusters agree with classes; kept beside the figures.

A map shows who is whose neighbour; distances between groups, their sizes and the empty space mean nothing. Modulated captions hold the
skeleton's own feature, so their map would look like the skeletons' if the captions said nothing: the numbers beside the maps tell.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from jobs.representations import AFTER, BEFORE, EXCHANGED, SKELETONS, Array, Ints, Points
from jobs.scores import read_arrays, write_arrays
from shards.errors import InputError

PERPLEXITY, STEPS, COMPONENTS, STARTS = 30.0, 1000, 50, 4
FEWEST = 8  # distinct rows that a map is worth
HOW_TO_READ = (
    "Agreement: adjusted mutual information of k-means clusters and classes, 0 as by chance, 1 the same partition. Colours of k-means are "
    "cut from the very points that they colour, so they look tidy whatever was learnt.",
    "In t-SNE neighbours mean something; distances between groups, their sizes and the space between them do not. Clips that share a "
    "caption are spread around its place.",
)


@dataclass(frozen=True)
class Cloud:
    """A map of n rows: place [n,2]; cluster [n] by k-means of the features that were mapped; agreement of the clusters with the classes:
    adjusted mutual information, 0 = as by chance, 1 = the same partition; distinct: how many rows differ; control: not mapped."""

    name: str
    place: Array
    cluster: Ints
    agreement: float
    distinct: int
    control: bool = False


def mapped(points: Points, labels: Ints, clusters: int, seed: int) -> Cloud | None:
    """The map of n samples and their k-means clusters; None where fewer than FEWEST rows are distinct.

    Principal components first (COMPONENTS at most); t-SNE of the distinct rows, started from two of the components; rows that are equal
    are spread over a little disc around their place, so that all of them are seen. A control is clustered, not mapped: its places are 0.
    A function of the features and the seed."""
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
    if not points.control:
        perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, max_iter=STEPS, init="pca", learning_rate="auto", random_state=seed, method="barnes_hut")
        place = spread(tsne.fit_transform(rows.astype(np.float32)), member)
    return Cloud(points.name, place, clustered.astype(np.int64), agreement, len(first), points.control)


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


def kept(path: Path, spec: dict[str, Any], make: Callable[[], Sequence[Cloud | None]]) -> list[Cloud]:
    """The clouds in `path` if they were made as `spec` says; else made by `make` and kept there: minutes for thousands of points."""
    if path.is_file():
        try:
            arrays, found = read_arrays(path)
        except InputError:
            arrays, found = {}, {}
        told = found.pop("clouds", [])
        if found == spec:
            return [Cloud(place=arrays[f"place{i}"], cluster=arrays[f"cluster{i}"], **one) for i, one in enumerate(told)]
    clouds = [cloud for cloud in make() if cloud is not None]
    told = [{name: getattr(cloud, name) for name in ("name", "agreement", "distinct", "control")} for cloud in clouds]
    arrays = {f"place{i}": cloud.place for i, cloud in enumerate(clouds)} | {f"cluster{i}": cloud.cluster for i, cloud in enumerate(clouds)}
    write_arrays(path, {**spec, "clouds": told}, **arrays)
    return clouds


def findings(clouds: Mapping[str, Cloud]) -> list[str]:
    """What the maps show, in words, by the agreement of clusters with classes; the first sentence stands for all."""
    before, after, exchanged, skeletons = (clouds.get(name) for name in (BEFORE, AFTER, EXCHANGED, SKELETONS))
    lines = []
    if before is not None and after is not None:
        still = "" if exchanged is None else f", {exchanged.agreement:.2f} after with captions exchanged among the clips"
        lines.append(
            f"Captions' clusters agree with the classes by {before.agreement:.2f} before modulation, {after.agreement:.2f} after{still}"
        )
    elif before is not None:
        lines.append(f"Captions' clusters agree with the classes by {before.agreement:.2f}")
    if skeletons is not None:
        lines.append(f"Skeletons' clusters agree with the classes by {skeletons.agreement:.2f}")
    if exchanged is not None:
        lines.append("What modulated captions reach with another clip's caption comes from the skeleton, which modulation mixes in")
    return lines
