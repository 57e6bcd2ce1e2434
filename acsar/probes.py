"""Probes of frozen features: nearest neighbour, linear classifier, score fusion, and how sure their numbers are.

Pure functions on feature tensors [n,D], labels [n] and scores [n,N]; n samples, D features, N classes. Matrix products go in
blocks, so that memory stays near that of the features themselves, which may be memory-mapped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from acsar.dense import on_cpu, product
from acsar.recipes import BENCHMARKS

ROWS = 2048  # rows of a block


@dataclass(frozen=True)
class ProbeSchedule:
    """How a linear classifier is trained: SGD from weights N(0, init) and bias 0; the last epoch is the result.

    min_batches shrinks the batch until an epoch of a small set has that many; unit centres features on the training mean and
    divides them by one number, the root mean square of the training rows' norms: the largest curvature is then below 1/2, so
    lr 2 cannot diverge whatever the units of the data, and no feature is weighed up against another."""

    lr: float = 2.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch: int = 1024
    epochs: int = 80
    drops: tuple[int, ...] = (50, 70)
    factor: float = 0.1
    init: float = 0.01
    min_batches: int = 1
    unit: bool = False

    def batch_of(self, samples: int) -> int:
        """Rows of a batch for a training set of this size."""
        return max(1, min(self.batch, samples // self.min_batches))

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.lr * float(self.factor ** sum(epoch >= drop for drop in self.drops))


@dataclass(frozen=True)
class LinearResult:
    """scores [n,N] logits of the test rows; losses: mean training loss of each epoch; weight [N,D] and bias [N] for raw features."""

    scores: Tensor
    losses: list[float]
    weight: Tensor
    bias: Tensor


def official(benchmark: str = "") -> ProbeSchedule:
    """The linear probe of SCD-Net's code (lr 2, batch 1024, 80 epochs, x0.1 at 50 and 70), with AC-SAR's lr and batch for PKU-MMD II.

    At least 16 batches an epoch: none of the published benchmarks notices, and on a few hundred clips lr 2 has not come to rest after
    80 steps (UI-PRMD, one batch of 1000: training loss 228 at the end, 51 % of the test clips right; 16 batches: 0.0 and 60 %)."""
    known = BENCHMARKS.get(benchmark)
    return ProbeSchedule(min_batches=16) if known is None else ProbeSchedule(known.probe_lr, batch=known.probe_batch, min_batches=16)


def unit() -> ProbeSchedule:
    """The same schedule on features that are centred and divided by one number, for coordinates, which have units."""
    return replace(official(), unit=True)


def schedule_for(benchmark: str) -> ProbeSchedule:
    """For encoders: `official` where a published probe exists; elsewhere `unit`, so that encoders and raw clips have one classifier."""
    return official(benchmark) if benchmark in BENCHMARKS else unit()


def knn1(gallery: Tensor, labels: Tensor, queries: Tensor, rows: int = ROWS) -> Tensor:
    """Labels [q] of each query's nearest gallery row by cosine; of equals, the one with the smallest index.

    gallery [n,D], labels [n], queries [q,D]; a row of zeros has cosine 0 with everything. Memory beyond the inputs: one block of
    normalised rows of each and their rows x rows products. (SCD-Net code, action_retrieval, k = 1.)"""
    _check(gallery, labels)
    best = torch.full((len(queries),), -torch.inf, device=queries.device)
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for start, block in _blocks(gallery, rows):
        block = F.normalize(block.to(queries.device).float())
        for q, query in _blocks(queries, rows):
            value, where = _product(F.normalize(query.float()), block.T).max(1)
            nearer = value > best[q : q + rows]
            best[q : q + rows] = torch.where(nearer, value, best[q : q + rows])
            index[q : q + rows] = torch.where(nearer, where + start, index[q : q + rows])
    return labels.to(queries.device)[index]


def linear_probe(train_x: Tensor, train_y: Tensor, test_x: Tensor, classes: int, schedule: ProbeSchedule, seed: int = 0) -> LinearResult:
    """Softmax regression on train_x [n,D], train_y [n] by SGD with the closed-form gradient; scores of test_x [q,D] at the last epoch.

    The order of the batches depends on (seed, epoch) only; the last, shorter batch counts as any other. Gradient of the mean
    cross-entropy: (softmax - onehot)^T x / b. Raises ValueError for fewer than two classes or labels outside [0, classes)."""
    _check(train_x, train_y)
    if classes < 2 or int(train_y.min()) < 0 or int(train_y.max()) >= classes:
        raise ValueError(f"labels {int(train_y.min())}..{int(train_y.max())} do not fit {classes} classes; a probe needs at least two")
    device, size = train_x.device, schedule.batch_of(len(train_x))
    mean, scale = _unit(train_x) if schedule.unit else (None, 1.0)
    weight = (torch.randn(classes, train_x.shape[1], generator=_generator(seed, -1)) * schedule.init).to(device)
    bias = torch.zeros(classes, device=device)
    weight_step, bias_step = torch.zeros_like(weight), torch.zeros_like(bias)
    taken = train_x.new_empty(size, train_x.shape[1])
    losses = []
    for epoch in range(schedule.epochs):
        rate, total = schedule.rate(epoch), torch.zeros((), dtype=torch.float64, device=device)
        order = torch.randperm(len(train_x), generator=_generator(seed, epoch)).to(device)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            x, y = torch.index_select(train_x, 0, chosen, out=taken[: len(chosen)]).float(), train_y[chosen]
            if mean is not None:
                x.sub_(mean).mul_(scale)
            share = torch.log_softmax(_product(x, weight.T, bias), 1)
            rows = torch.arange(len(y), device=device)
            total -= share[rows, y].sum(dtype=torch.float64)
            share.exp_()[rows, y] -= 1
            share /= len(y)
            weight_step.mul_(schedule.momentum).add_(_product(share.T, x)).add_(weight, alpha=schedule.weight_decay)
            bias_step.mul_(schedule.momentum).add_(share.sum(0)).add_(bias, alpha=schedule.weight_decay)
            weight.sub_(weight_step, alpha=rate)
            bias.sub_(bias_step, alpha=rate)
        losses.append(float(total) / len(train_x))
    if mean is not None:
        weight *= scale
        bias -= weight @ mean
    scores = [_product(block.to(device).float(), weight.T, bias) for _, block in _blocks(test_x, ROWS)]
    return LinearResult(torch.cat(scores) if scores else bias.new_zeros(0, classes), losses, weight, bias)


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


def fuse_scores(scores: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """[n,N]: softmax probabilities of each stream's scores [n,N] times its weight (0.5 unless given), added (AC-SAR section 3.6)."""
    if not scores or len({s.shape for s in scores}) != 1:
        raise ValueError(f"streams to fuse need scores of one shape, got {[tuple(s.shape) for s in scores]}")
    shares = [0.5] * len(scores) if weights is None else list(weights)
    if len(shares) != len(scores):
        raise ValueError(f"{len(shares)} weights for {len(scores)} streams")
    total = torch.zeros_like(scores[0])
    for share, score in zip(shares, scores):
        total += share * torch.softmax(score, 1)
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


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(x):
        raise ValueError(f"features {tuple(x.shape)} and labels {tuple(y.shape)}: need [n,D] and [n], n > 0")


def _blocks(x: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a [N,I] times b [I,O] plus bias [O], by the fastest product there is."""
    if on_cpu(a, b):
        return product(a.contiguous(), b, bias)
    return a @ b if bias is None else torch.addmm(bias, a, b)


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + number + 1) & (2**63 - 1))


def _unit(x: Tensor) -> tuple[Tensor, float]:
    """Mean [D] of the rows, and 1 / root mean square of the norms of the centred rows."""
    mean = torch.stack([block.double().sum(0) for _, block in _blocks(x, ROWS)]).sum(0) / len(x)
    square = sum(float((block - mean).square().sum()) for _, block in _blocks(x, ROWS)) / len(x)
    return mean.float(), square**-0.5 if square > 0 else 1.0
