"""CTR-GCN blocks (Chen et al. 2021) in the shape SCD-Net uses them: graph unit, multi-scale temporal unit, a trunk of three blocks.

Inside the trunk people are rows and time is the innermost axis, [N,C,V,T] with N = B*M: then the graph aggregation is one small matrix
product per person and channel, and a shift in time is a shift in memory. Where layers of the published network are linear maps of the
same input they are stored as one tensor: acsar.interop knows which slice is which.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from acsar.batchnorm import BatchNorm
from acsar.dense import on_cpu, product
from acsar.skeleton import Skeleton

DILATIONS = (1, 2)
KERNEL = 5


class Pointwise(nn.Module):
    """1x1 convolution: x [N,I,V,T] -> [N,O,V,T]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        if on_cpu(x, self.weight):
            return _Pointwise.apply(x.contiguous(), self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class _Pointwise(torch.autograd.Function):
    """A 1x1 convolution on a CPU: one product per person, where torch's convolution would reorder input and output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x.new_empty(len(x), len(weight), *x.shape[2:])
        for x_n, y_n in zip(x.flatten(2), y.flatten(2)):
            torch.add(product(weight, x_n), bias[:, None], out=y_n)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        to_weight, to_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
        for i, (x_n, grad_n) in enumerate(zip(x.flatten(2), grad.flatten(2))):
            to_weight += product(grad_n, x_n.t())
            to_bias += grad_n.sum(1)
            if to_x is not None:
                to_x[i].view_as(x_n).copy_(product(weight.t(), grad_n))
        return to_x, to_weight, to_bias


class GraphUnit(nn.Module):
    """Channel-wise topology refinement over the K partitions of the skeleton graph, plus skip, ReLU: [N,I,V,T] -> [N,O,V,T].

    For subset k: a, b = linear maps of the mean of x over time; D[u,v] = tanh(a[u] - b[v]);
    R = strength * refine(D) + topology[k]; y[c,u,t] = sum over k and v of R[c,u,v] * value(x)[c,v,t]."""

    def __init__(self, inputs: int, outputs: int, adjacency: NDArray[Any]) -> None:
        super().__init__()
        subsets = len(adjacency)
        relations = relation_channels(inputs)
        self.topology = nn.Parameter(torch.tensor(adjacency, dtype=torch.float32))
        self.strength = nn.Parameter(torch.zeros(1))
        self.relation_weight = nn.Parameter(torch.empty(2, subsets, relations, inputs))
        self.relation_bias = nn.Parameter(torch.zeros(2, subsets, relations))
        self.refine_weight = nn.Parameter(torch.empty(subsets, outputs, relations))
        self.refine_bias = nn.Parameter(torch.zeros(subsets, outputs))
        self.value_weight = nn.Parameter(torch.empty(outputs, subsets, inputs))
        self.value_bias = nn.Parameter(torch.zeros(outputs, subsets))
        self.norm = BatchNorm(outputs)
        self.skip = None if inputs == outputs else Pointwise(inputs, outputs)
        self.norm_skip = None if inputs == outputs else BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.aggregate(x))
        skip = x if self.skip is None or self.norm_skip is None else self.norm_skip(self.skip(x))
        return y.add_(skip).relu_()

    def aggregate(self, x: Tensor) -> Tensor:
        """The sum over the subsets, before normalisation: [N,I,V,T] -> [N,O,V,T]."""
        operands = (x.contiguous(), self._relations(x), self._refinement(), self.value_weight, self.value_bias)
        if on_cpu(*operands):
            return _Aggregate.apply(*operands)  # type: ignore[no-any-return, no-untyped-call]
        return _aggregate(*operands)

    def _relations(self, x: Tensor) -> Tensor:
        """Per subset k the r maps D, the topology and a row of ones, each as [v,u]: [N,K,r+2,V*V]. The mean over time comes first."""
        n, _, v, _ = x.shape
        _, k, r, _ = self.relation_weight.shape
        maps = self.relation_weight.flatten(0, 2) @ x.mean(3) + self.relation_bias.flatten()[:, None]
        a, b = maps.view(n, 2, k, r, v).unbind(1)
        d = torch.tanh(a[..., None, :] - b[..., :, None]).flatten(3)
        topology = self.topology.transpose(1, 2).reshape(1, k, 1, v * v).expand(n, k, 1, v * v).to(d.dtype)
        return torch.cat([d, topology, torch.ones_like(topology)], 2)

    def _refinement(self) -> Tensor:
        """The weights that go with `_relations`: [K,O,r+2]."""
        one = torch.ones_like(self.refine_bias)
        return torch.cat([self.strength * self.refine_weight, one[..., None], (self.strength * self.refine_bias)[..., None]], 2)


def _aggregate(x: Tensor, relations: Tensor, refinement: Tensor, value_weight: Tensor, value_bias: Tensor) -> Tensor:
    """Graphs [N,O,(k,v),u] from relations [N,K,r+2,V*V] and refinement [K,O,r+2], values [N,O,(k,v),t], and their product."""
    n, inputs, v, t = x.shape
    outputs, k = value_bias.shape
    graph = torch.stack([refinement[i] @ relations[:, i] for i in range(k)], 2).view(n * outputs, k * v, v)
    values = F.conv2d(x, value_weight.view(outputs * k, inputs, 1, 1), value_bias.flatten()).view(n * outputs, k * v, t)
    return torch.bmm(graph.transpose(1, 2), values).view(n, outputs, v, t)


class _Aggregate(torch.autograd.Function):
    """`_aggregate` on a CPU: one person at a time, so that graphs and values stay in the cache. The backward pass computes them again,
    which is cheaper than writing them to memory and reading them back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, relations: Tensor, refinement: Tensor, value_weight: Tensor, value_bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, relations, refinement, value_weight, value_bias)
        y = x.new_empty(len(x), len(value_weight), *x.shape[2:])
        for i in range(len(x)):
            graph, values = _person(x[i], relations[i], refinement, value_weight, value_bias)
            torch.bmm(graph.transpose(1, 2), values, out=y[i])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, relations, refinement, value_weight, value_bias = ctx.saved_tensors
        grad = grad.contiguous()
        outputs, k, inputs = value_weight.shape
        weight = value_weight.view(outputs * k, inputs)
        to_x, to_relations = torch.empty_like(x), torch.empty_like(relations)
        to_refinement, to_weight, to_bias = torch.zeros_like(refinement), torch.zeros_like(weight), torch.zeros_like(value_bias)
        for i in range(len(x)):
            graph, values = _person(x[i], relations[i], refinement, value_weight, value_bias)
            to_values = torch.bmm(graph, grad[i]).view(outputs * k, -1)
            to_x[i] = product(weight.t(), to_values).view_as(x[i])
            to_weight += product(to_values, x[i].flatten(1).t())
            to_bias += to_values.sum(1).view_as(to_bias)
            to_graph = torch.bmm(values, grad[i].transpose(1, 2)).view(outputs, k, -1).transpose(0, 1)
            torch.bmm(refinement.transpose(1, 2), to_graph, out=to_relations[i])
            to_refinement.baddbmm_(to_graph, relations[i].transpose(1, 2))
        return to_x, to_relations, to_refinement, to_weight.view_as(value_weight), to_bias


def _person(x: Tensor, relations: Tensor, refinement: Tensor, value_weight: Tensor, value_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Graph [O,(k,v),u] and values [O,(k,v),t] of one person x [I,V,T] with relations [K,r+2,V*V]."""
    inputs, v, t = x.shape
    outputs, k = value_bias.shape
    graph = x.new_empty(outputs, k, v * v)
    for subset in range(k):
        torch.mm(refinement[subset], relations[subset], out=graph[:, subset])
    values = product(value_weight.view(outputs * k, inputs), x.view(inputs, v * t))
    values += value_bias.view(outputs * k, 1)
    return graph.view(outputs, k * v, v), values.view(outputs, k * v, t)


class TemporalUnit(nn.Module):
    """Multi-scale temporal convolution: [N,C,V,T] -> [N,C,V,T], C divisible by 4.

    Four branches of C/4 channels: two convolutions over 5 frames (dilation 1 and 2), a maximum over 3 frames, a plain map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter = channels // 4
        self.entry = Pointwise(channels, channels)
        self.norm_entry = BatchNorm(channels)
        self.kernel = nn.Parameter(torch.empty(len(DILATIONS), quarter, quarter, KERNEL))
        self.kernel_bias = nn.Parameter(torch.zeros(len(DILATIONS), quarter))
        self.norm_exit = BatchNorm(3 * quarter)

    def forward(self, x: Tensor) -> Tensor:
        quarter = self.kernel.shape[1]
        near, far, peak, plain = self.norm_entry(self.entry(x)).split_with_sizes([quarter] * 4, 1)
        scales = [
            F.conv2d(branch.relu(), weight[:, :, None], bias, padding=(0, dilation * (KERNEL // 2)), dilation=(1, dilation))
            for branch, weight, bias, dilation in zip((near, far), self.kernel, self.kernel_bias, DILATIONS)
        ]
        return torch.cat([self.norm_exit(torch.cat([*scales, _peak(peak.relu())], 1)), plain], 1)


def _peak(x: Tensor) -> Tensor:
    """Maximum over t-1, t, t+1 of x >= 0; among equal values the earliest gets the gradient, as torch's max pooling has it."""
    before, here, after = (F.pad(x, (1, 1))[..., i : i + x.shape[-1]] for i in range(3))
    largest = torch.where(here > before, here, before)
    return torch.where(after > largest, after, largest)


class Block(nn.Module):
    """Graph unit, temporal unit, residual, ReLU: [N,I,V,T] -> [N,O,V,T]."""

    def __init__(self, inputs: int, outputs: int, adjacency: NDArray[Any], residual: bool = True) -> None:
        super().__init__()
        self.graph = GraphUnit(inputs, outputs, adjacency)
        self.temporal = TemporalUnit(outputs)
        self.add_input = residual and inputs == outputs
        projected = residual and inputs != outputs
        self.residual = Pointwise(inputs, outputs) if projected else None
        self.norm_residual = BatchNorm(outputs) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.temporal(self.graph(x))
        if self.residual is not None and self.norm_residual is not None:
            y.add_(self.norm_residual(self.residual(x)))
        elif self.add_input:
            y.add_(x)
        return y.relu_()


class Trunk(nn.Module):
    """Normalised joints through three blocks, 3 -> c1 -> 4*c1 -> c1: x [B,3,T,V,M] -> [B*M,c1,V,T]."""

    def __init__(self, c1: int, skeleton: Skeleton, people: int = 2) -> None:
        super().__init__()
        if c1 % 8:
            raise ValueError(f"c1 must be a multiple of 8 (four temporal branches, an eighth for relations), got {c1}")
        adjacency = skeleton.adjacency()
        self.norm = BatchNorm(people * skeleton.size * 3)
        self.blocks = nn.ModuleList(
            [Block(3, c1, adjacency, residual=False), Block(c1, 4 * c1, adjacency), Block(4 * c1, c1, adjacency)],
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, v, m = x.shape
        x = self.norm(x.permute(0, 4, 3, 1, 2).reshape(b, m * v * c, t))
        x = x.view(b, m, v, c, t).transpose(2, 3).reshape(b * m, c, v, t)
        for block in self.blocks:
            x = block(x)
        return x


def relation_channels(inputs: int) -> int:
    """Channels r in which joints are compared: 8 for raw coordinates, else an eighth of the input's."""
    return 8 if inputs in (3, 9) else inputs // 8


@torch.no_grad()
def initialise(trunk: nn.Module, generator: Generator) -> None:
    """Published start: convolutions normal with standard deviation sqrt(2 / fan-out) and no bias, norms 1, except that the norm after
    the aggregation starts at 1e-6, the norms of a temporal unit at N(1, 0.02) and the refinement at strength 0."""
    for unit in trunk.modules():
        if isinstance(unit, Pointwise):
            _normal(unit.weight, len(unit.weight), generator)
        elif isinstance(unit, GraphUnit):
            _normal(unit.relation_weight, unit.relation_weight.shape[2], generator)
            _normal(unit.refine_weight, unit.refine_weight.shape[1], generator)
            _normal(unit.value_weight, unit.value_weight.shape[0], generator)
            unit.norm.weight.fill_(1e-6)
    for unit in trunk.modules():
        if isinstance(unit, TemporalUnit):
            quarter = unit.kernel.shape[1]
            _normal(unit.entry.weight, quarter, generator)
            _normal(unit.kernel, quarter * KERNEL, generator)
            for norm in (unit.norm_entry, unit.norm_exit):
                norm.weight.normal_(1.0, 0.02, generator=generator)


def _normal(weight: Tensor, fan_out: int, generator: Generator) -> None:
    weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
