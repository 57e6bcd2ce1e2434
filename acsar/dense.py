"""Dense products. On a CPU in float32 they run in oneDNN: the same sums, about twice as fast as the BLAS that torch calls on processors
whose vector units that BLAS does not recognise, and no slower elsewhere."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dense(nn.Linear):
    """nn.Linear with a faster product: x [...,I] -> [...,O]."""

    def forward(self, x: Tensor) -> Tensor:
        return dense(x, self.weight, self.bias)


def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [...,I] times weight [O,I] transposed plus bias [O] -> [...,O]."""
    if x.numel() == 0 or not on_cpu(x, weight):
        return F.linear(x, weight, bias)
    return _Dense.apply(x.flatten(0, -2), weight, bias).view(*x.shape[:-1], -1)  # type: ignore[no-any-return, no-untyped-call]


def on_cpu(*tensors: Tensor) -> bool:
    """Whether `product` takes these: float32 on the CPU, no autocast, a torch with oneDNN; never while the network is written down."""
    return (
        not recording()
        and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def recording() -> bool:
    """Whether torch is writing down what is computed (torch.jit.trace): file formats know plain operators only."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a [N,I] times b [I,O] plus bias [O] -> [N,O], without gradient, in oneDNN. Only for what `on_cpu` accepts."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")  # type: ignore[no-any-return]


def fastest(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a [N,I] times b [I,O] plus bias [O] -> [N,O], without gradient, by the fastest product there is for where and what they are."""
    if on_cpu(a, b):
        return product(a.contiguous(), b, bias)
    return a @ b if bias is None else torch.addmm(bias, a, b)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        to_x = product(grad, weight) if ctx.needs_input_grad[0] else None
        return to_x, product(grad.t(), x), grad.sum(0)
