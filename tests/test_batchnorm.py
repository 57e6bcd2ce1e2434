"""Batch norm over all ranks equals one process in float64; with one rank it equals torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import acsar.batchnorm
from acsar.batchnorm import BatchNorm
from tests.ranks import run_ranks

SHAPES = [(8, 5), (8, 5, 7), (8, 5, 3, 4)]
BATCHES = 3


def inputs(shape: tuple[int, ...], batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * len(shape) + batch)
    scale = torch.linspace(0.1, 20, shape[1], dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 2))
    # Far from zero: a sum-of-squares variance would lose digits here.
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale + 50 * scale


def prepared(module: nn.Module, features: int) -> nn.Module:
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, -2, features))
        module.bias.copy_(torch.linspace(-1, 1, features))
    return module.double()


def trained(module: nn.Module, shape: tuple[int, ...], rank: int, world: int) -> dict[str, Tensor]:
    """Outputs and gradients of this rank's rows after some batches, then evaluation mode."""
    own, out, grads = shape[0] // world, [], []
    for batch in range(BATCHES):
        x = inputs(shape, batch)[rank * own : (rank + 1) * own].clone().requires_grad_()
        y = module(x)
        ((y.sin() * x).flatten(1).sum(1).sum() / shape[0]).backward()
        assert x.grad is not None
        out.append(y.detach())
        grads.append(x.grad)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()
    final = module(inputs(shape, BATCHES)[rank * own : (rank + 1) * own]).detach()
    return {
        "out": torch.stack(out),
        "grad": torch.stack(grads),
        "weight": module.weight.grad,
        "bias": module.bias.grad,
        "mean": state["running_mean"],
        "var": state["running_var"],
        "batches": state["num_batches_tracked"],
        "eval": final,
    }


def on_rank(rank: int, world: int, synchronised: bool) -> list[dict[str, Tensor]]:
    if not synchronised:
        acsar.batchnorm.world_size = lambda: 1
    return [trained(prepared(BatchNorm(shape[1]), shape[1]), shape, rank, world) for shape in SHAPES]


def worst(world: int, synchronised: bool) -> dict[str, float]:
    """Largest difference from one process with nn.BatchNorm, per quantity, over shapes."""
    results = run_ranks(on_rank, world, synchronised)
    gaps: dict[str, float] = {}
    for index, shape in enumerate(SHAPES):
        module = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](shape[1])
        one = trained(prepared(module, shape[1]), shape, 0, 1)
        ranks = [r[index] for r in results]
        for name, expected in one.items():
            if name in ("out", "grad"):
                got = [torch.cat([r[name] for r in ranks], 1)]
            elif name == "eval":
                got = [torch.cat([r[name] for r in ranks])]
            elif name in ("weight", "bias"):
                got = [torch.stack([r[name] for r in ranks]).sum(0)]
            else:
                got = [r[name] for r in ranks]
            gap = max(float((g - expected).abs().max()) for g in got)
            gaps[name] = max(gap, gaps.get(name, 0.0))
    return gaps


@pytest.mark.distributed
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_equal_one_process(world: int) -> None:
    assert {name: gap for name, gap in worst(world, True).items() if not gap < 1e-9} == {}


@pytest.mark.distributed
def test_without_synchronisation_the_comparison_fails() -> None:
    gaps = worst(2, False)
    assert all(gaps[name] > 1e-3 for name in ("out", "grad", "mean", "var"))


def corners(rank: int, world: int) -> dict[str, Tensor | str]:
    uneven = prepared(BatchNorm(5), 5)
    rows = inputs((8, 5), 0)
    share = rows[:0] if rank == 0 else rows
    out = uneven(share.clone().requires_grad_())
    out.sum().backward()
    single = rows[rank : rank + 1]
    pair = prepared(BatchNorm(5), 5)(single)
    try:
        BatchNorm(5).double()(rows[: 1 if rank == 0 else 0])
        message = "no error"
    except ValueError as error:
        message = str(error)
    return {"out": out.detach(), "mean": uneven.running_mean, "var": uneven.running_var, "pair": pair.detach(), "message": message}


@pytest.mark.distributed
def test_a_rank_without_rows_and_a_rank_with_one() -> None:
    first, second = run_ranks(corners, 2)
    rows = inputs((8, 5), 0)
    one = prepared(nn.BatchNorm1d(5), 5)
    expected = one(rows)
    assert first["out"].shape == (0, 5)
    torch.testing.assert_close(second["out"], expected, rtol=0, atol=1e-9)
    for r in (first, second):
        torch.testing.assert_close(r["mean"], one.running_mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(r["var"], one.running_var, rtol=0, atol=1e-9)
        assert "more than one value per feature" in r["message"]
    pair = prepared(nn.BatchNorm1d(5), 5)(rows[:2])
    torch.testing.assert_close(torch.cat([first["pair"], second["pair"]]), pair, rtol=0, atol=1e-9)


def half_precision(rank: int, world: int) -> dict[str, Tensor]:
    module = BatchNorm(5)
    x = inputs((8, 5, 7), 0)[rank * 4 : rank * 4 + 4].to(torch.bfloat16).requires_grad_()
    out = module(x)
    out.float().square().sum().backward()
    assert x.grad is not None
    return {"out": out.detach(), "grad": x.grad, "mean": module.running_mean}


@pytest.mark.distributed
def test_half_precision_input_keeps_full_precision_statistics() -> None:
    results = run_ranks(half_precision, 2)
    x = inputs((8, 5, 7), 0).to(torch.bfloat16).float()
    expected = nn.BatchNorm1d(5)(x)
    out = torch.cat([r["out"] for r in results])
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.02)
    for r in results:
        assert r["mean"].dtype == torch.float32 and r["grad"].dtype == torch.bfloat16
        torch.testing.assert_close(r["mean"], 0.1 * x.mean((0, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_inputs_of_one_rank_have_torchs_statistics_and_gradients(dtype: torch.dtype) -> None:
    """From acsar.batchnorm.LARGE values on, a CPU takes its statistics another way."""
    x = inputs((16, 8, 32, 25), 0).to(dtype)
    assert x.numel() >= acsar.batchnorm.LARGE
    got = []
    for module in (BatchNorm(8), nn.BatchNorm2d(8)):
        prepared(module, 8).to(dtype)
        y = x.clone().requires_grad_()
        out = module(y)
        (out.sin() * x).sum().backward()
        got.append([out, y.grad, module.weight.grad, module.bias.grad, module.running_mean, module.running_var])
    near = 1e-9 if dtype == torch.float64 else 2e-3
    for ours, theirs in zip(*got):
        torch.testing.assert_close(ours, theirs, rtol=near, atol=near)


@given(shape=st.sampled_from(SHAPES), training=st.booleans())
@settings(max_examples=10, deadline=None)
def test_one_rank_is_torchs_own(shape: tuple[int, ...], training: bool) -> None:
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](shape[1])
    ours = BatchNorm(shape[1])
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    ours.train(training)
    theirs.train(training)
    x = inputs(shape, 0).float()
    assert torch.equal(ours(x), theirs(x))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
