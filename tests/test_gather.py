"""The gather on real processes: rows in batch order, gradients of the global mean."""

import pytest
import torch
from torch import Tensor

from acsar.gather import all_gather, all_gather_constant, world_size
from tests.ranks import run_ranks

ROWS, FEATURES = 8, 5


def contrast(x: Tensor) -> Tensor:
    """Per-row loss [B] in which every row meets every other row."""
    return torch.logsumexp(x @ x.T, 1) - (x * x.sin()).sum(1)


def inputs() -> Tensor:
    return torch.sin(0.3 * torch.arange(1, ROWS * FEATURES + 1, dtype=torch.float64)).reshape(ROWS, FEATURES)


def on_rank(rank: int, world: int) -> dict[str, Tensor]:
    own = ROWS // world
    x = inputs()[rank * own : (rank + 1) * own].requires_grad_()
    everything = all_gather(x)
    # Each rank's loss is the mean over its own rows; averaging over ranks then gives the global mean.
    contrast(everything)[rank * own : (rank + 1) * own].mean().div(world).backward()
    assert x.grad is not None
    constant = all_gather_constant(x)
    half = all_gather(x.detach().to(torch.bfloat16))
    return {"rows": everything.detach(), "grad": x.grad, "constant": constant, "half": half}


@pytest.mark.distributed
@pytest.mark.parametrize("world", [1, 2, 4])
def test_gather_equals_one_process(world: int) -> None:
    x = inputs().requires_grad_()
    contrast(x).mean().backward()
    assert x.grad is not None
    results = run_ranks(on_rank, world)
    for r in results:
        assert torch.equal(r["rows"], inputs())
        assert torch.equal(r["constant"], inputs()) and not r["constant"].requires_grad
        assert torch.equal(r["half"], inputs().to(torch.bfloat16))
    grad = torch.cat([r["grad"] for r in results])
    assert float((grad - x.grad).abs().max()) < 1e-9


def test_without_processes_the_gather_is_the_identity() -> None:
    x = inputs().requires_grad_()
    assert world_size() == 1
    assert all_gather(x) is x
    assert not all_gather_constant(x).requires_grad and torch.equal(all_gather_constant(x), x)
