"""The graph and temporal units against values of the published code, in float64; and the CPU's way of aggregating against the plain one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acsar import interop
from acsar.ctrgcn import Block, GraphUnit, Pointwise, TemporalUnit, Trunk, _Aggregate, _aggregate, _peak, initialise
from acsar.skeleton import NTU25, UCLA20
from tests.filled import assert_values, fill, inp

A = NTU25.adjacency()


def ours(x: Tensor) -> Tensor:
    """[N,C,T,V], the layout of the printed values, to and from [N,C,V,T]."""
    return x.transpose(2, 3).contiguous()


def graph_unit(inputs: int, outputs: int) -> GraphUnit:
    unit = GraphUnit(inputs, outputs, A)
    parts = [(theirs, name.removeprefix("unit."), index) for theirs, name, index in interop._graph_unit("unit", "unit")]
    fill(unit, parts)
    return unit


@pytest.mark.parametrize(
    ("inputs", "outputs", "subset", "alpha", "values"),
    [
        (3, 64, 1, 1.0, (-4.58761833e-01, 1.40072302e04, [1.23944040, 0.50879830, 0.66220747, -0.07898293], -0.90973665)),
        (64, 256, 2, 0.5, (2.09524867, 3.29789147e04, [0.62593414, -0.17783607, -0.19420410, 0.51526933], -0.58081756)),
    ],
)
def test_one_subset(inputs: int, outputs: int, subset: int, alpha: float, values: tuple[float, float, list[float], float]) -> None:
    unit = graph_unit(inputs, outputs)
    with torch.no_grad():
        unit.strength.fill_(alpha)
        for other in {0, 1, 2} - {subset}:
            unit.value_weight[:, other] = 0
    assert_values(ours(unit.aggregate(ours(inp(2, inputs, 8, 25)))), *values)


GRAPH = [
    (3, 64, False, (2.42847047e04, 5.79811275e04, [2.90453083, 1.70908992, 1.97356057, 1.96737364], 0.0)),
    (3, 64, True, (2.23100014e04, 4.84054795e04, [2.42461241, 1.73901510, 1.95368619, 1.99297614], 0.0)),
    (64, 64, False, (2.42478584e04, 6.55416064e04, [0.71917730, 1.32261188, 1.07497539, 1.26607500], 1.29732123)),
    (64, 64, True, (1.27617770e04, 1.94030236e04, [0.36358222, 0.68716269, 0.63058141, 0.76777238], 0.82654608)),
    (64, 256, False, (1.14019691e05, 3.34066780e05, [1.27377383, 1.72263030, 1.31641884, 1.34653106], 0.0)),
    (64, 256, True, (8.24956659e04, 1.67293351e05, [1.32504890, 1.45543129, 1.19751062, 1.12723262], 0.0)),
]


@pytest.mark.parametrize(("inputs", "outputs", "training", "values"), GRAPH)
def test_graph_unit(inputs: int, outputs: int, training: bool, values: tuple[float, float, list[float], float]) -> None:
    unit = graph_unit(inputs, outputs).train(training)
    assert_values(ours(unit(ours(inp(2, inputs, 8, 25)))), *values)


TEMPORAL = [
    (64, False, (8.56328220e02, 1.86872651e02, [0.03724594, 0.03883627, 0.03997277, 0.03995375], 0.03457333)),
    (64, True, (0.0, 5.11119461e04, [2.49880003, 2.56385552, 2.61161499, 2.58412335], 1.40132896)),
    (256, False, (1.24133714e03, 5.80662904e01, [-0.00272830, -0.00268903, -0.00262061, -0.00251927], -0.02423749)),
    (256, True, (0.0, 2.03542165e05, [-1.77378345, -1.77022584, -1.72223273, -1.68842009], -1.05519594)),
]


@pytest.mark.parametrize(("channels", "training", "values"), TEMPORAL)
def test_temporal_unit(channels: int, training: bool, values: tuple[float, float, list[float], float]) -> None:
    unit = TemporalUnit(channels)
    parts = [(theirs, name.removeprefix("unit."), index) for theirs, name, index in interop._temporal_unit("unit", "unit", channels // 4)]
    fill(unit, parts)
    assert_values(ours(unit.train(training)(ours(inp(2, channels, 16, 25)))), *values)


BLOCKS = [
    (3, 64, False, (2.04513152e03, 2.56122333e02, [0.08349238, 0.07976894, 0.06419775, 0.07283969], 0.0)),
    (3, 64, True, (2.15569911e04, 2.48387564e04, [0.29663634, 0.80215489, 0.49023335, 0.52602536], 0.91154868)),
    (64, 256, False, (6.25118506e03, 5.45611814e02, [0.04114376, 0.05170252, 0.06186816, 0.07105214], 0.09642529)),
    (64, 256, True, (1.17177556e05, 2.05955946e05, [0.11831006, 0.64383779, 0.49482321, 0.55706473], 2.55724564)),
    (256, 64, False, (5.96879342e02, 1.71801767e01, [0.0, 0.0, 0.0, 0.0], 0.0)),
    (256, 64, True, (3.37233651e04, 6.36775266e04, [0.0, 0.0, 0.0, 0.0], 0.0)),
]


@pytest.mark.parametrize(("inputs", "outputs", "training", "values"), BLOCKS)
def test_block(inputs: int, outputs: int, training: bool, values: tuple[float, float, list[float], float]) -> None:
    block = Block(inputs, outputs, A, residual=inputs != 3)
    parts = interop._block("block", "block", outputs, projected=True)
    fill(block, [(theirs, name.removeprefix("block."), index) for theirs, name, index in parts])
    assert_values(ours(block.train(training)(ours(inp(2, inputs, 16, 25)))), *values)


def test_trunk() -> None:
    trunk = Trunk(64, NTU25)
    parts = [(theirs, name.removeprefix("trunk."), index) for theirs, name, index in interop._trunk("trunk", "trunk", 64)]
    fill(trunk, parts, rounded=True)
    out = ours(trunk.eval()(inp(2, 3, 64, 25, 2)))
    assert_values(out, 3.59856622e02, 1.07784418, [0.00028210, 0.00000451, 0.00148068, 0.00203655], 0.0, tolerance=1e-7)


def test_identity_residual_adds_the_input() -> None:
    block = Block(16, 16, A).eval()
    initialise(block, torch.Generator().manual_seed(0))
    x = torch.randn(2, 16, 25, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(block(x), (block.temporal(block.graph(x)) + x).relu())
    assert block.residual is None


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 3),
    inputs=st.sampled_from([3, 8, 16]),
    outputs=st.sampled_from([8, 16]),
    frames=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_aggregation_on_a_cpu_equals_the_plain_one(n: int, inputs: int, outputs: int, frames: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    unit = GraphUnit(inputs, outputs, UCLA20.adjacency())
    with torch.no_grad():
        for p in unit.parameters():
            p.normal_(0, 0.3, generator=generator)
    x = torch.randn(n, inputs, 20, frames, generator=generator)
    start = (x, unit._relations(x), unit._refinement(), unit.value_weight, unit.value_bias)
    fast = [part.detach().clone().requires_grad_() for part in start]
    plain = [part.detach().double().requires_grad_() for part in start]
    y, y_plain = _Aggregate.apply(*fast), _aggregate(*plain)
    grad = torch.randn(y.shape, generator=generator)
    y.backward(grad)
    y_plain.backward(grad.double())
    for one, other in [(y, y_plain), *((a.grad, b.grad) for a, b in zip(fast, plain))]:
        assert (one - other).abs().max() <= 1e-5 * other.abs().max() + 1e-6


@pytest.mark.parametrize("strided", [False, True])
def test_pointwise_is_a_convolution(strided: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layer, x, grad = Pointwise(6, 5), torch.randn(3, 6, 4, 7, generator=generator), torch.randn(3, 5, 4, 7, generator=generator)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.bias.normal_(generator=generator)
    if strided:
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    x.requires_grad_()

    def all_of(y: Tensor) -> list[Tensor]:
        return [y, *torch.autograd.grad(y, [x, layer.weight, layer.bias], grad)]

    for one, other in zip(all_of(layer(x)), all_of(F.conv2d(x, layer.weight[:, :, None, None], layer.bias))):
        assert torch.allclose(one, other, atol=1e-5)


def test_peak_is_max_pooling_with_its_gradient() -> None:
    # Whole numbers: many ties, which must go to the earliest frame.
    x = torch.randint(0, 3, (2, 4, 5, 16), generator=torch.Generator().manual_seed(0)).float()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    # Both come after a ReLU, so what falls to a zero next to the border does not matter: compare behind one.
    y, z = _peak(a.relu()), F.max_pool2d(b.relu(), (1, 3), 1, (0, 1))
    assert torch.equal(y, z)
    (y * weight).sum().backward()
    (z * weight).sum().backward()
    assert torch.equal(a.grad, b.grad)


COUNTS = {"norm": 300, "blocks.0": 12_052, "blocks.1": 204_420, "blocks.2": 147_156}


def test_parameter_counts() -> None:
    trunk = Trunk(64, NTU25)
    assert sum(p.numel() for p in trunk.parameters()) == 363_928
    # The published trunk has 3,850 buffers: these and one counter for each of its 30 norms, some of which are one here.
    assert sum(b.numel() for b in trunk.buffers() if b.ndim) == 3_850 - 30
    for name, count in COUNTS.items():
        assert sum(p.numel() for p in trunk.get_submodule(name).parameters()) == count
    sizes = [(5_076, 6_976, 0), (79_492, 107_776, 17_152), (123_604, 6_976, 16_576)]
    for block, (graph, temporal, residual) in zip(trunk.blocks, sizes):
        assert sum(p.numel() for p in block.graph.parameters()) == graph
        assert sum(p.numel() for p in block.temporal.parameters()) == temporal
        rest = [block.residual, block.norm_residual]
        assert sum(p.numel() for part in rest if part is not None for p in part.parameters()) == residual


def test_initialisation() -> None:
    trunk = Trunk(64, NTU25)
    initialise(trunk, torch.Generator().manual_seed(0))
    graph, temporal = trunk.blocks[1].graph, trunk.blocks[1].temporal
    assert torch.equal(graph.topology, torch.from_numpy(A))
    assert graph.strength.item() == 0
    assert torch.all(graph.norm.weight == 1e-6)
    assert torch.all(graph.norm_skip.weight == 1)
    for weight, fan_out in [
        (graph.relation_weight, 8),
        (graph.refine_weight, 256),
        (graph.value_weight, 256),
        (graph.skip.weight, 256),
        (temporal.entry.weight, 64),
        (temporal.kernel, 64 * 5),
        (trunk.blocks[1].residual.weight, 256),
    ]:
        assert abs(weight.std().item() / (2 / fan_out) ** 0.5 - 1) < 0.05
    assert 0.01 < temporal.norm_entry.weight.std().item() < 0.03
    assert all(not part.bias.any() for part in trunk.modules() if isinstance(part, Pointwise))


def test_a_width_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="c1 must be a multiple of 8"):
        Trunk(20, NTU25)
