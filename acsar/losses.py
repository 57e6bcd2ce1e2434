"""The two contrasts: a query against its key and a queue, and skeletons against captions within the global batch."""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from acsar.gather import all_gather, all_gather_constant, world_size

DuplicateText = Literal["paper", "positives", "masked"]


def info_nce(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Tensor:
    """Mean over rows of -log( h(q,k) / (h(q,k) + sum over queue of h(q,m)) ), h(u,v) = exp(u.v / tau) (AC-SAR eq. 4) -> scalar.

    q, k [b,D] and queue [K,D] have unit rows; k and queue get no gradient. Products in the queue's precision, also under autocast."""
    with torch.autocast(q.device.type, enabled=False):
        q, k = q.to(queue.dtype), k.detach().to(queue.dtype)
        positive = (q * k).sum(1) / tau
        negative = torch.logsumexp(q @ queue.detach().T / tau, 1)
        return (torch.logaddexp(positive, negative) - positive).mean()


def text_contrast(
    skeleton: Tensor,
    text: Tensor,
    tau: float,
    text_id: Tensor | None = None,
    duplicate_text: DuplicateText = "paper",
    across_ranks: bool = True,
    has_text: Tensor | None = None,
) -> Tensor:
    """Mean of the cross entropies text -> skeleton and skeleton -> text over the global batch, targets on the diagonal (AC-SAR eq. 10-12).

    skeleton, text [b,D]: unit rows of this rank; both are gathered with gradient, the loss is the mean over this rank's rows.
    Captions with equal text_id [b] are false negatives of each other: "paper" leaves them so, "positives" lets them share the target's
    mass, "masked" takes them out of the negatives. With across_ranks=False the rows given are the whole batch.
    Where has_text [b] is False, row and column are left out, over all ranks: the global mean is over the rows with a caption (0 if there
    are none), and this rank's loss is its own rows' part of it, so that the mean over the ranks is still the global one."""
    with torch.autocast(text.device.type, enabled=False):
        scores, own, equal = _scores(skeleton, text, tau, text_id, duplicate_text, across_ranks)
        if has_text is None:
            return torch.stack([_cross_entropy(s, own, equal, duplicate_text, "mean") for s in scores]).mean()
        of_all = all_gather_constant(has_text.to(torch.uint8)).bool() if scores[0].shape[1] > len(has_text) else has_text
        # a row without caption keeps its own column, so that its cross entropy is a number, which the product below makes zero
        hidden = (~of_all).expand_as(scores[0]).scatter(1, own[:, None], False)
        if equal is not None:
            equal = (equal & of_all).scatter(1, own[:, None], True)
        each = [_cross_entropy(_without(s, hidden), own, equal, duplicate_text, "none") for s in scores]
        ranks = len(of_all) // len(has_text)
        return (torch.stack(each).mean(0) * has_text).sum() * ranks / of_all.sum().clamp(min=1)


def text_contrast_rows(
    skeleton: Tensor,
    text: Tensor,
    tau: float,
    text_id: Tensor | None = None,
    duplicate_text: DuplicateText = "paper",
    across_ranks: bool = True,
) -> Tensor:
    """What each of this rank's rows adds to `text_contrast` -> [b]: the mean of its two cross entropies."""
    with torch.autocast(text.device.type, enabled=False):
        scores, own, equal = _scores(skeleton, text, tau, text_id, duplicate_text, across_ranks)
        return torch.stack([_cross_entropy(s, own, equal, duplicate_text, "none") for s in scores]).mean(0)


def _scores(
    skeleton: Tensor, text: Tensor, tau: float, text_id: Tensor | None, duplicate_text: DuplicateText, across_ranks: bool
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor | None]:
    """Scores of this rank's texts with all skeletons and of its skeletons with all texts, each [b,N]; the target column of each row [b];
    which captions are equal [b,N], None where that does not count."""
    if duplicate_text != "paper" and text_id is None:
        raise ValueError(f'duplicate_text="{duplicate_text}" needs the captions\' ids: give Batch.text_id, or use "paper"')
    gathered = across_ranks and world_size() > 1
    first = dist.get_rank() * len(text) if gathered else 0
    skeleton, text = _at_least_float32(skeleton), _at_least_float32(text)
    all_skeletons, all_texts = (all_gather(skeleton), all_gather(text)) if gathered else (skeleton, text)
    own = torch.arange(first, first + len(text), device=text.device)
    equal = None
    if text_id is not None and duplicate_text != "paper":
        ids = all_gather_constant(text_id) if gathered else text_id
        equal = text_id[:, None] == ids[None, :]
    return (text @ all_skeletons.T / tau, skeleton @ all_texts.T / tau), own, equal


def _cross_entropy(
    scores: Tensor, target: Tensor, equal: Tensor | None, duplicate_text: DuplicateText, reduction: Literal["mean", "none"]
) -> Tensor:
    """Of scores [b,N], target [b] column of each row, equal [b,N] or None; the mean over the rows, or [b]."""
    if equal is None:
        return torch.nn.functional.cross_entropy(scores, target, reduction=reduction)
    if duplicate_text == "positives":
        return torch.nn.functional.cross_entropy(scores, equal.to(scores.dtype) / equal.sum(1, keepdim=True), reduction=reduction)
    others = equal.scatter(1, target[:, None], False)
    return torch.nn.functional.cross_entropy(scores.masked_fill(others, -torch.inf), target, reduction=reduction)


def _without(scores: Tensor, hidden: Tensor) -> Tensor:
    """Hidden columns get a probability of exactly 0; finite, because "positives" multiplies their logarithm by a target of 0."""
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def equal_captions(text_id: Tensor) -> float:
    """Share of the samples whose caption another sample of the batch has too; text_id [B]."""
    counts = (text_id[:, None] == text_id[None, :]).sum(1)
    return float((counts > 1).float().mean())
