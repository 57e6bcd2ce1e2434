"""What lags behind the query encoder: exponential moving average of its parameters, and queues of earlier keys."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def ema_(target: Iterable[Tensor], source: Iterable[Tensor], m: float) -> None:
    """target <- m * target + (1 - m) * source, in place, all tensors in one pass (AC-SAR eq. 1)."""
    targets, sources = list(target), list(source)
    if hasattr(torch, "_foreach_lerp_"):
        torch._foreach_lerp_(targets, sources, 1.0 - m)
        return
    torch._foreach_mul_(targets, m)
    torch._foreach_add_(targets, sources, alpha=1.0 - m)


class Queue(nn.Module):
    """The latest `length` keys, first in first out: rows of `keys` [K,D], unit length; `position` is where the next key goes.

    Starts with normal vectors from `seed`, so all ranks start alike. Any number of keys may be pushed at a time: the queue wraps."""

    keys: Tensor
    position: Tensor

    def __init__(self, dim: int, length: int, seed: int) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"a queue holds at least one key, got length {length}")
        start = torch.randn(length, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("keys", nn.functional.normalize(start, dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replaces the oldest keys by `keys` [n,D], in their order; of more than K only the last K stay."""
        length = len(self.keys)
        skipped = max(0, len(keys) - length)
        fresh = keys[skipped:].to(self.keys.dtype)
        slots = (self.position + skipped + torch.arange(len(fresh), device=self.keys.device)) % length
        self.keys.index_copy_(0, slots, fresh)
        self.position.add_(len(keys)).remainder_(length)

    def oldest_first(self) -> Tensor:
        """[K,D] in the order of arrival."""
        return self.keys.roll(-int(self.position), 0)
