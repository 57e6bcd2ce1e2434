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
) -> Tensor:
    """Mean of the cross entropies text -> skeleton and skeleton -> text over the global batch, targets on the diagonal (AC-SAR eq. 10-12).

    skeleton, text [b,D]: unit rows of this rank; both are gathered with gradient, the loss is the mean over this rank's rows.
    Captions with equal text_id [b] are false negatives of each other: "paper" leaves them so, "positives" lets them share the target's
    mass, "masked" takes them out of the negatives. With across_ranks=False the rows given are the whole batch."""
    return text_contrast_rows(skeleton, text, tau, text_id, duplicate_text, across_ranks).mean()


def text_contrast_rows(
    skeleton: Tensor,
    text: Tensor,
    tau: float,
    text_id: Tensor | None = None,
    duplicate_text: DuplicateText = "paper",
    across_ranks: bool = True,
) -> Tensor:
    """What each of this rank's rows adds to `text_contrast` -> [b]: the mean of its two cross entropies."""
    if duplicate_text != "paper" and text_id is None:
        raise ValueError(f'duplicate_text="{duplicate_text}" needs the captions\' ids: give Batch.text_id, or use "paper"')
    gathered = across_ranks and world_size() > 1
    first = dist.get_rank() * len(text) if gathered else 0
    with torch.autocast(text.device.type, enabled=False):
        skeleton, text = _at_least_float32(skeleton), _at_least_float32(text)
        all_skeletons, all_texts = (all_gather(skeleton), all_gather(text)) if gathered else (skeleton, text)
        own = torch.arange(first, first + len(text), device=text.device)
        equal = None
        if text_id is not None and duplicate_text != "paper":
            ids = all_gather_constant(text_id) if gathered else text_id
            equal = text_id[:, None] == ids[None, :]
        rows = [text @ all_skeletons.T / tau, skeleton @ all_texts.T / tau]
        return torch.stack([_cross_entropy(scores, own, equal, duplicate_text) for scores in rows]).mean(0)


def _cross_entropy(scores: Tensor, target: Tensor, equal: Tensor | None, duplicate_text: DuplicateText) -> Tensor:
    """[b] of scores [b,N], target [b] column of each row, equal [b,N] or None."""
    if equal is None:
        return torch.nn.functional.cross_entropy(scores, target, reduction="none")
    if duplicate_text == "positives":
        return torch.nn.functional.cross_entropy(scores, equal.to(scores.dtype) / equal.sum(1, keepdim=True), reduction="none")
    others = equal.scatter(1, target[:, None], False)
    return torch.nn.functional.cross_entropy(scores.masked_fill(others, -torch.inf), target, reduction="none")


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def equal_captions(text_id: Tensor) -> float:
    """Share of the samples whose caption another sample of the batch has too; text_id [B]."""
    counts = (text_id[:, None] == text_id[None, :]).sum(1)
    return float((counts > 1).float().mean())
