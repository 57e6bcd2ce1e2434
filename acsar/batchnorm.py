"""Batch normalisation over the whole global batch, on gloo as well as NCCL; with one rank it is torch's own.

Each rank's (count, mean, squared deviation) is gathered once and merged by the pairwise rule of Chan, Golub and LeVeque (1979):
no cancellation, and every rank computes the same bits.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from acsar.gather import all_gather_constant, world_size

# From this many values on, one rank on a CPU takes its statistics from `_moments`.
LARGE = 2**16


class BatchNorm(nn.Module):
    """Normalises dimension 1 of [B,F], [B,F,L] or [B,F,T,V] with statistics over all other dimensions and all ranks.

    Parameters, buffers, eps and momentum are nn.BatchNorm's. Running statistics: the variance is unbiased over the global count.
    With `synchronised` False a rank keeps to its own rows: for ranks that go through different batches, each by itself."""

    synchronised = True
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """x [B,F,...] -> same shape. Training needs more than one value per feature in the global batch (ValueError)."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, self.momentum, self.eps)
        self.num_batches_tracked += 1
        alone = not self.synchronised or world_size() == 1
        if alone and x.device.type == "cpu" and x.numel() >= LARGE and x.ndim > 2 and x.dtype == self.weight.dtype:
            arguments = (x, self.weight, self.bias, (self.running_mean, self.running_var), self.momentum, self.eps)
            return _OneRank.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
        if alone:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps)
        count, mean, var = _global_statistics(x.detach(), self.weight.dtype)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        return _Normalise.apply(x, self.weight, self.bias, count, mean, var, self.eps)  # type: ignore[no-any-return, no-untyped-call]

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}, momentum={self.momentum}"


def _global_statistics(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Count (0-d, float64), mean [F] and biased variance [F] (float64) over all ranks; one gather of 2F+1 numbers."""
    features = x.shape[1]
    count = x.numel() // features if features else 0
    own = torch.zeros(1 + 2 * features, dtype=torch.float64, device=x.device)
    if count:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.to(dtype)
        own[0] = count
        own[1 : 1 + features], own[1 + features :] = _moments(wide)
    parts = all_gather_constant(own[None])
    counts, means, variances = parts[:, :1], parts[:, 1 : 1 + features], parts[:, 1 + features :]
    total = counts.sum()
    # A rank with several values knows that the total is large enough; only tiny batches pay for reading it back from the device.
    if count <= 1 and int(total) <= 1:
        raise ValueError(f"batch norm needs more than one value per feature in training, got {tuple(x.shape)} on every rank")
    share = counts / total
    mean = (share * means).sum(0)
    return total, mean, (share * (variances + (means - mean) ** 2)).sum(0)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [F] and biased variance [F], in float64, of x [B,F,...] on this rank.

    Per row (sample, feature) in the precision of x, centred; rows are merged in float64. On a CPU an order faster than torch.var_mean."""
    if x.ndim == 2:
        var, mean = torch.var_mean(x.double(), 0, correction=0)
        return mean, var
    rows = x.flatten(2)
    means = rows.mean(2, keepdim=True)
    spreads = torch.linalg.vector_norm(rows - means, dim=2).double().square() / rows.shape[2]
    of_rows = means.squeeze(2).double()
    mean = of_rows.mean(0)
    return mean, (spreads + (of_rows - mean).square()).mean(0)


class _OneRank(torch.autograd.Function):
    """F.batch_norm in training, with `_moments`: torch's own CPU statistics take most of its time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor], momentum: float, eps: float) -> Tensor:
        mean, var = _moments(x)
        count = x.numel() // x.shape[1]
        running[0].lerp_(mean.to(running[0].dtype), momentum)
        running[1].lerp_((var * count / (count - 1)).to(running[1].dtype), momentum)
        ctx.save_for_backward(x, weight, mean.to(x.dtype), (var + eps).rsqrt().to(x.dtype))
        ctx.eps = eps
        return F.batch_norm(x, mean.to(x.dtype), var.to(x.dtype), weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], True, True]
        grads = torch.ops.aten.native_batch_norm_backward(grad, x, weight, mean, mean, mean, inverse, True, ctx.eps, wanted)
        return *grads, None, None, None


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias where mean and var depend on the rows of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, count: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        mean, var = mean.to(weight.dtype), var.to(weight.dtype)
        ctx.save_for_backward(x, weight, count, mean, var)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, count, mean, var = ctx.saved_tensors
        if x.numel():
            # With fixed statistics the kernel gives all at once: grad * weight / deviation, sum(grad * normalised x) and sum(grad).
            own, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, var, None, None, False, ctx.eps, [ctx.needs_input_grad[0], True, True]
            )
        else:
            own, grad_weight, grad_bias = torch.zeros_like(x), torch.zeros_like(mean), torch.zeros_like(mean)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, grad_bias, None, None, None, None
        # Parameters keep the gradient of this rank's rows (the engine averages over ranks); x needs the sums over all of them.
        sums = torch.stack([grad_weight, grad_bias])
        dist.all_reduce(sums)
        scale = weight / torch.sqrt(var + ctx.eps)
        slope, offset = (sums.to(torch.float64) / count).to(weight.dtype) * scale
        through_statistics = F.batch_norm(x, mean, var, slope, offset, False, 0.0, ctx.eps)
        return own.sub_(through_statistics), grad_weight, grad_bias, None, None, None, None
