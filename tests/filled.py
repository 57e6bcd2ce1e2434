"""Weights and inputs by rule, as the reference values for the published SCD-Net code were made: from shape and flat index alone."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from acsar.interop import Part


def fill(module: nn.Module, parts: Iterable[Part], rounded: bool = False) -> None:
    """Make the module float64 and set every published tensor: with two axes or more sin(i+1) / sqrt(numbers per output), biases 0,
    other vectors 1 (alpha too); topology and running statistics keep their start. rounded: to float32 first."""
    module.double()
    state = module.state_dict()
    for official, name, index in parts:
        if name not in state or official.endswith(("PA", "running_mean", "running_var", "num_batches_tracked")):
            continue
        target = state[name][index]
        if target.ndim > 1:
            n = target.numel()
            values = torch.sin(torch.arange(n, dtype=torch.float64) + 1) / math.sqrt(n / target.shape[0])
            target.copy_((values.float() if rounded else values).view(target.shape))
        else:
            target.fill_(0.0 if official.endswith("bias") else 1.0)


def inp(*shape: int) -> Tensor:
    """sin(0.1 (i+1)), row-major, float64."""
    return torch.sin(0.1 * (torch.arange(math.prod(shape), dtype=torch.float64) + 1)).view(shape)


def assert_values(x: Tensor, total: float, squares: float, first: list[float], last: float, tolerance: float = 2e-8) -> None:
    """Compare with printed values: sum and sum of squares over all outputs, first four and last entry."""
    flat = x.detach().flatten()
    size = math.sqrt(squares)
    assert abs(float(flat.sum()) - total) <= tolerance * max(abs(total), size), float(flat.sum())
    assert abs(float(flat.square().sum()) - squares) <= tolerance * squares, float(flat.square().sum())
    printed = torch.tensor([*first, last], dtype=flat.dtype)
    assert torch.allclose(torch.cat([flat[:4], flat[-1:]]), printed, rtol=1e-6, atol=1e-8), (flat[:4], flat[-1])
