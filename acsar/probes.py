"""Probes of frozen features: nearest neighbour, linear classifier, score fusion, and how sure their numbers are.

Pure functions on feature tensors [n,D], labels [n] and scores [n,N]; n samples, D features, N classes. Matrix products go in
blocks, so that memory stays near that of the features themselves, which may be memory-mapped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acsar.dense import fastest
from acsar.nearest import nearest
from acsar.recipes import BENCHMARKS

ROWS = 2048  # rows of a block


@dataclass(frozen=True)
class ProbeSchedule:
    """How a linear classifier is trained: SGD from weights N(0, init) and bias 0.

    Where `course` watches an accuracy, plateau and stop count the epochs since its last gain (an accuracy above all before): at every
    plateau-th of them the rate is multiplied by factor, after stop of them training ends; 0 = never. With plateau 0, and where nobody
    watches, the rate falls at the epochs `drops` (counted from 0). min_batches shrinks the batch until an epoch of a small set has
    that many. unit centres features on the training mean and divides them by one number, the root mean square of the training rows'
    norms: the largest curvature is then below 1/2, so lr 2 cannot diverge whatever the units of the data, and no feature is weighed
    up against another."""

    lr: float = 2.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch: int = 1024
    epochs: int = 80
    drops: tuple[int, ...] = (50, 70)
    factor: float = 0.1
    init: float = 0.01
    plateau: int = 0
    stop: int = 0
    min_batches: int = 1
    unit: bool = False

    def batch_of(self, samples: int) -> int:
        """Rows of a batch for a training set of this size."""
        return max(1, min(self.batch, samples // self.min_batches))

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0, where nobody watches an accuracy."""
        return self.lr * float(self.factor ** sum(epoch >= drop for drop in self.drops))


@dataclass(frozen=True)
class Course:
    """What classifier A settled: the epoch of its best accuracy on the held-aside rows (from 1; of equals, the earliest), the
    learning rate of every epoch that it ran, and the accuracy (share of held-aside rows) after each."""

    epoch: int
    rates: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class LinearResult:
    """A linear classifier, at the course's epoch, or at the last one where there was no course.

    scores [q,N] logits of the test rows; losses: mean training loss of each epoch; weight [N,D] and bias [N] for features as they
    come; last [q,N]: logits after the last epoch; accuracy: share of test rows right after each epoch, where their labels were given."""

    scores: Tensor
    losses: list[float]
    weight: Tensor
    bias: Tensor
    last: Tensor
    accuracy: tuple[float, ...] = ()


def official(benchmark: str = "") -> ProbeSchedule:
    """The linear probe of SCD-Net's code (lr 2, batch 1024, 80 epochs, x0.1 at 50 and 70), with AC-SAR's lr and batch for PKU-MMD II.

    At least 16 batches an epoch: none of the published benchmarks notices, and on a few hundred clips lr 2 has not come to rest after
    80 steps (UI-PRMD, one batch of 1000: training loss 228 at the end, 51 % of the test clips right; 16 batches: 0.0 and 60 %)."""
    known = BENCHMARKS.get(benchmark)
    return ProbeSchedule(min_batches=16) if known is None else ProbeSchedule(known.probe_lr, batch=known.probe_batch, min_batches=16)


def paper(benchmark: str = "") -> ProbeSchedule:
    """The linear probe of AC-SAR's section 5.1: the rate falls after 3 epochs without a gain in accuracy, and 5 end it.

    lr 2 and batch 1024; for PKU-MMD II 0.032, 256 and weight decay 1e-3. The paper does not say the factor, the largest number of
    epochs, whose accuracy is watched, nor momentum and initial weights. Chosen: 0.1, 80, that of held-aside training subjects
    (`course`), and those of `official`. Epochs without a gain are counted from the best one and a lower rate does not start them
    again, so that 5 can end it after one fall of the rate."""
    known = BENCHMARKS.get(benchmark)
    decay = 0.0 if known is None else known.probe_weight_decay
    return replace(official(benchmark), weight_decay=decay, plateau=3, stop=5)


SCHEDULES = {"official": official, "paper": paper}


def unit(name: str = "official") -> ProbeSchedule:
    """The same schedule on features that are centred and divided by one number, for coordinates, which have units."""
    return replace(SCHEDULES[name](), unit=True)


def schedule_for(benchmark: str, name: str = "official") -> ProbeSchedule:
    """For encoders: `official` (or `paper`) where a published probe exists; elsewhere `unit`, so that encoders and raw clips have one
    classifier."""
    return SCHEDULES[name](benchmark) if benchmark in BENCHMARKS else unit(name)


def knn1(gallery: Tensor, labels: Tensor, queries: Tensor, rows: int = 1024) -> Tensor:
    """Labels [q] of each query's nearest gallery row by cosine; of equals, the one with the smallest index.

    gallery [n,D], labels [n], queries [q,D]; a row of zeros has cosine 0 with everything. The answer is exact (see acsar/nearest.py).
    (SCD-Net code, action_retrieval, k = 1.)"""
    _check(gallery, labels)
    return labels.to(queries.device)[nearest(gallery, queries, rows)]


def course(x: Tensor, y: Tensor, aside: Tensor, classes: int, schedule: ProbeSchedule, seed: int = 0) -> tuple[Course, Tensor]:
    """Classifier A: trains on the rows of x [n,D], y [n] that are not aside [n] bool, and watches its accuracy on those that are.

    Returns the course that it settled, and the logits [m,N] of the m held-aside rows (in their order) at its best epoch. What
    classifier B needs to know: how long to train and by which rates, without one test clip. Raises ValueError as `linear_probe`
    does, and where all rows or none are held aside."""
    _check(x, y)
    if aside.shape != y.shape or not bool(aside.any()) or bool(aside.all()):
        raise ValueError(f"{int(aside.sum())} of {len(y)} rows are held aside; some must be, and some must be left to train on")
    watched = torch.nonzero(aside).flatten()
    softmax = _Softmax(x, y, torch.nonzero(~aside).flatten(), classes, schedule, seed)
    rates: list[float] = []
    accuracy: list[float] = []
    best, kept, rate = 0, x.new_empty(0), schedule.lr
    for epoch in range(schedule.epochs):
        since = epoch - best
        if not schedule.plateau:
            rate = schedule.rate(epoch)
        elif since and since % schedule.plateau == 0:
            rate *= schedule.factor
        if schedule.stop and since >= schedule.stop:
            break
        softmax.epoch(rate)
        rates.append(rate)
        scores = softmax.scores(x, watched)
        accuracy.append(top_k(scores, y[watched]))
        if epoch == 0 or accuracy[-1] > accuracy[best - 1]:
            best, kept = epoch + 1, scores
    return Course(best, tuple(rates), tuple(accuracy)), kept


def linear_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    classes: int,
    schedule: ProbeSchedule,
    seed: int = 0,
    course: Course | None = None,
    test_y: Tensor | None = None,
) -> LinearResult:
    """Classifier B: softmax regression on train_x [n,D], train_y [n] by SGD with the closed-form gradient; scores of test_x [q,D].

    With a course, the same number of epochs by the same rates, and the result is that of the course's epoch; without, the schedule's
    epochs and its last one. test_y [q] steers nothing: where given, the accuracy after each epoch is told. The order of the batches
    depends on (seed, epoch) only; the last, shorter batch counts as any other. Gradient of the mean cross-entropy:
    (softmax - onehot)^T x / b. Raises ValueError for fewer than two classes, labels outside [0, classes), or scores that are not
    finite."""
    _check(train_x, train_y)
    softmax = _Softmax(train_x, train_y, torch.arange(len(train_x), device=train_x.device), classes, schedule, seed)
    rates = [schedule.rate(epoch) for epoch in range(schedule.epochs)] if course is None else course.rates
    wanted = len(rates) if course is None else course.epoch
    losses: list[float] = []
    accuracy: list[float] = []
    taken = last = softmax.scores(test_x)
    weight, bias = softmax.plain()
    for epoch, rate in enumerate(rates, start=1):
        losses.append(softmax.epoch(rate))
        if epoch in (wanted, len(rates)) or test_y is not None:
            last = softmax.scores(test_x)
        if test_y is not None:
            accuracy.append(top_k(last, test_y.to(last.device)))
        if epoch == wanted:
            taken, (weight, bias) = last, softmax.plain()
    return LinearResult(taken, losses, weight, bias, last, tuple(accuracy))


def hits(scores: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """[n] bool: is the label among the k highest of its row of scores [n,N]? Of equal scores the smaller class comes first."""
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores are not finite")
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1) < k


def top_k(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of rows whose label is among the k highest of scores [n,N]."""
    return float(hits(scores, labels, k).double().mean())


def confusion(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """[N,N] int64: rows are true classes, columns predicted ones."""
    return torch.bincount(labels * classes + predictions, minlength=classes * classes).view(classes, classes)


def fuse_scores(scores: Sequence[Tensor], weights: Sequence[float] | None = None, rule: str = "softmax") -> Tensor:
    """[n,N]: each stream's scores [n,N] times its weight (0.5 unless given), added.

    Rule "softmax" adds softmax probabilities (AC-SAR section 3.6), "logits" the scores as they are (AimCLR's code). Raises ValueError
    for scores of different shapes, another number of weights than of streams, or another rule."""
    if rule not in ("softmax", "logits"):
        raise ValueError(f"no fusion rule is called {rule!r}; one of softmax, logits")
    if not scores or len({s.shape for s in scores}) != 1:
        raise ValueError(f"streams to fuse need scores of one shape, got {[tuple(s.shape) for s in scores]}")
    shares = [0.5] * len(scores) if weights is None else list(weights)
    if len(shares) != len(scores):
        raise ValueError(f"{len(shares)} weights for {len(scores)} streams")
    total = torch.zeros_like(scores[0])
    for share, score in zip(shares, scores):
        total += share * (torch.softmax(score, 1) if rule == "softmax" else score)
    return total


def interval(values: Tensor, groups: Tensor | None = None, draws: int = 1000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of values [n].

    With groups [n] (test subjects), whole groups are drawn with replacement, so that clips of one person are not taken for
    independent; without, samples are. The difference of two probes on the same rows gives the paired interval. One group only:
    the interval has no width and says nothing. Raises ValueError without values."""
    if not len(values):
        raise ValueError("no values to draw from")
    values = values.detach().double().cpu()
    if groups is None:
        sums, counts = values, torch.ones_like(values)
    else:
        _, member = torch.unique(groups.cpu(), return_inverse=True)
        counts = torch.bincount(member).double()
        sums = torch.zeros_like(counts).index_add_(0, member, values)
    generator, means = _generator(seed, len(sums)), []
    at_once = max(1, (1 << 22) // len(sums))
    for start in range(0, draws, at_once):
        drawn = torch.randint(len(sums), (min(at_once, draws - start), len(sums)), generator=generator)
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = torch.quantile(torch.cat(means), torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


class _Softmax:
    """Softmax regression on the rows `chosen` of x [n,D] with labels y [n], trained epoch by epoch."""

    def __init__(self, x: Tensor, y: Tensor, chosen: Tensor, classes: int, schedule: ProbeSchedule, seed: int) -> None:
        low, high = int(y.min()), int(y.max())
        if classes < 2 or low < 0 or high >= classes:
            raise ValueError(f"labels {low}..{high} do not fit {classes} classes; a probe needs at least two")
        self.x, self.y, self.chosen, self.schedule, self.seed, self.done = x, y, chosen, schedule, seed, 0
        self.size = schedule.batch_of(len(chosen))
        self.mean: Tensor | None = None
        self.scale = 1.0
        if schedule.unit:
            self.mean, self.scale = _unit(x, chosen)
        self.weight = (torch.randn(classes, x.shape[1], generator=_generator(seed, -1)) * schedule.init).to(x.device)
        self.bias = torch.zeros(classes, device=x.device)
        self.weight_step, self.bias_step = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.room = x.new_empty(self.size, x.shape[1])

    def epoch(self, rate: float) -> float:
        """One pass over the rows in the order of (seed, epoch); the mean loss."""
        order = self.chosen[torch.randperm(len(self.chosen), generator=_generator(self.seed, self.done)).to(self.x.device)]
        self.done += 1
        total = torch.zeros((), dtype=torch.float64, device=self.x.device)
        for start in range(0, len(order), self.size):
            total += self._step(order[start : start + self.size], rate)
        return float(total) / len(order)

    def _step(self, rows: Tensor, rate: float) -> Tensor:
        decay, momentum = self.schedule.weight_decay, self.schedule.momentum
        x, y = torch.index_select(self.x, 0, rows, out=self.room[: len(rows)]).float(), self.y[rows]
        if self.mean is not None:
            x.sub_(self.mean).mul_(self.scale)
        share = torch.log_softmax(fastest(x, self.weight.T, self.bias), 1)
        place = torch.arange(len(y), device=y.device)
        loss = -share[place, y].sum(dtype=torch.float64)
        share.exp_()[place, y] -= 1
        self.weight_step.mul_(momentum).add_(fastest(share.T, x), alpha=1 / len(y))
        self.bias_step.mul_(momentum).add_(share.sum(0), alpha=1 / len(y))
        if decay:
            self.weight_step.add_(self.weight, alpha=decay)
            self.bias_step.add_(self.bias, alpha=decay)
        self.weight.sub_(self.weight_step, alpha=rate)
        self.bias.sub_(self.bias_step, alpha=rate)
        return loss

    def plain(self) -> tuple[Tensor, Tensor]:
        """A copy of weight [N,D] and bias [N], for features as they come."""
        weight = self.weight * self.scale
        return weight, self.bias.clone() if self.mean is None else self.bias - weight @ self.mean

    def scores(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits [q,N] of x [q,D], or of some of its rows."""
        weight, bias = self.plain()
        blocks = (block for _, block in _blocks(x, ROWS)) if rows is None else (x[some] for _, some in _blocks(rows, ROWS))
        scores = [fastest(block.to(weight.device).float(), weight.T, bias) for block in blocks]
        return torch.cat(scores) if scores else bias.new_zeros(0, len(bias))


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(x):
        raise ValueError(f"features {tuple(x.shape)} and labels {tuple(y.shape)}: need [n,D] and [n], n > 0")


def _blocks(x: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + number + 1) & (2**63 - 1))


def _unit(x: Tensor, chosen: Tensor) -> tuple[Tensor, float]:
    """Mean [D] of the chosen rows, and 1 / root mean square of the norms of these rows, centred."""
    mean = torch.stack([x[rows].double().sum(0) for _, rows in _blocks(chosen, ROWS)]).sum(0) / len(chosen)
    square = sum(float((x[rows] - mean).square().sum()) for _, rows in _blocks(chosen, ROWS)) / len(chosen)
    return mean.float(), square**-0.5 if square > 0 else 1.0
