"""Rows of all ranks, in batch order: with gradient for the text contrast, without for keys that only feed queues."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks that share the global batch; 1 when torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_gather(x: Tensor) -> Tensor:
    """x [b,...] of this rank -> [world*b,...], rank r's rows at [r*b, (r+1)*b); every rank holds the same number of rows.

    Differentiable: each rank computes a loss from all rows, so the gradient of the own rows is the sum over the ranks' losses."""
    return x if world_size() == 1 else _AllGather.apply(x)  # type: ignore[no-untyped-call]


@torch.no_grad()
def all_gather_constant(x: Tensor) -> Tensor:
    """As `all_gather`, without gradient."""
    return x.detach() if world_size() == 1 else _rows_of_all(x)


def _rows_of_all(x: Tensor) -> Tensor:
    out = x.new_empty((dist.get_world_size(), *x.shape))
    dist.all_gather(list(out), x.contiguous())
    return out.flatten(0, 1)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return _rows_of_all(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(0, dist.get_rank() * ctx.rows, ctx.rows)
