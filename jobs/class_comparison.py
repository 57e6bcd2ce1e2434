"""Two results on the same test clips, class by class (AC-SAR figure 4), and which classes a result takes for each other (figure 7)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from acsar import probes
from jobs.scores import Scores
from shards.class_names import named


@dataclass(frozen=True)
class ClassRow:
    """One class: accuracy of both results in percent of its `clips` test clips, first minus second, and the 95 % interval of that
    difference, by drawing test subjects, or clips where fewer than two subjects are known to have performed it."""

    name: str
    clips: int
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    over: str  # "subjects" or "clips"

    @property
    def beyond(self) -> bool:
        """The interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Comparison:
    """Result `first` against result `second`: all clips together, and every class that has test clips in the order of the classes."""

    first: str
    second: str
    whole: ClassRow
    rows: tuple[ClassRow, ...]

    def ranked(self) -> list[ClassRow]:
        """Rows by difference, the first result's best classes first; of equals in the order of the classes."""
        return sorted(self.rows, key=lambda row: -row.difference)

    def sentences(self) -> list[str]:
        """What the numbers say, in words."""
        better, worse = (sum(row.beyond and sign * row.difference > 0 for row in self.rows) for sign in (1, -1))
        low, high = self.whole.interval
        told = "beyond" if self.whole.beyond else "within"
        chance = 0.05 * len(self.rows)
        return [
            f"{self.first} {self.whole.first:.1f}, {self.second} {self.whole.second:.1f}: "
            f"difference {self.whole.difference:+.1f}, {told} the interval [{low:+.1f}, {high:+.1f}] over {self.whole.over}",
            f"{self.first} is better in {better} classes and worse in {worse} of {len(self.rows)} beyond the class's own interval; "
            f"by chance alone there would be {f'about {chance:.0f}' if chance >= 1 else 'one at most'}",
        ]


@dataclass(frozen=True)
class Pair:
    """Two classes that are taken for each other: `there` clips of the first for the second, `back` the other way, of `clips` of both."""

    first: str
    second: str
    there: int
    back: int
    clips: int

    @property
    def share(self) -> float:
        """Percent of the clips of both classes."""
        return 100 * (self.there + self.back) / self.clips


def compare(first: Scores, second: Scores, names: tuple[str, str], seed: int = 0) -> Comparison:
    """Both results' accuracies by class; rows of the scores in one order (jobs.scores.joined). `seed` is that of the intervals.

    Raises ValueError for rows that are not of the same clips."""
    if first.keys != second.keys or not torch.equal(first.labels, second.labels):
        raise ValueError(f"{names[0]} and {names[1]} are not results on the same clips in one order")
    right, other = (probes.hits(scores.scores, scores.labels) for scores in (first, second))
    classes, rows = named(first.classes), []
    for label in torch.unique(first.labels).tolist():
        at = first.labels == label
        rows.append(_row(classes[label], right[at], other[at], first.subjects[at], seed))
    return Comparison(*names, _row("all classes", right, other, first.subjects, seed), tuple(rows))


def pairs(scores: Scores) -> list[Pair]:
    """Pairs of classes with any confusion between them, by the share of their clips, largest first; of equals in the order of classes."""
    names, table = named(scores.classes), confusion(scores)
    clips, found = table.sum(1), []
    for a, b in torch.triu(table + table.T, diagonal=1).nonzero().tolist():
        there, back = int(table[a, b]), int(table[b, a])
        found.append(Pair(names[a], names[b], there, back, int(clips[a] + clips[b])))
    return sorted(found, key=lambda pair: -pair.share)


def confusion(scores: Scores) -> Tensor:
    """[N,N] clips: rows are true classes, columns the highest score's."""
    return probes.confusion(scores.scores.argmax(1), scores.labels, len(scores.classes))


def _row(name: str, first: Tensor, second: Tensor, subjects: Tensor, seed: int) -> ClassRow:
    gap = first.double() - second.double()
    over: Tensor | None = subjects if len(torch.unique(subjects)) > 1 else None
    low, high = probes.interval(gap, over, seed=seed)
    own, its, difference = (100 * float(values.double().mean()) for values in (first, second, gap))
    return ClassRow(name, len(gap), own, its, difference, (100 * low, 100 * high), "clips" if over is None else "subjects")
