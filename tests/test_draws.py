"""Draws: same bits whatever the batch or device, and nothing in common between views, epochs, keys and counters."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acsar.draws import base, key_id, uniform

INT64 = st.integers(-(2**63), 2**63 - 1)
MASK = 2**64 - 1


PINNED_BASE = [8602677784853257311, -6440323421447094611]
PINNED_UNIFORM = [[5871459, 12371653], [12439496, 3316328]]


def ids(count: int) -> Tensor:
    return torch.tensor([key_id(f"S001C001P001R001A{i:03d}") for i in range(count)])


def splitmix(state: int) -> int:
    """The published generator's output function, in exact integers."""
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_key_id_is_the_start_of_sha256() -> None:
    digest = hashlib.sha256(b"S001C001P001R001A001").hexdigest()
    assert key_id("S001C001P001R001A001") % 2**64 == int(digest[:16], 16)
    assert -(2**63) <= key_id("x") < 2**63


@given(draw=INT64, view=st.integers(0, 5))
def test_uniform_equals_exact_integer_arithmetic(draw: int, view: int) -> None:
    gamma = 0x9E3779B97F4A7C15
    expected = [(splitmix(draw + gamma * (view * 2**32 + c)) >> 40) / 2**24 for c in range(1, 8)]
    assert uniform(torch.tensor([draw]), view, 7)[0].tolist() == expected


@given(values=st.lists(INT64, min_size=1, max_size=8), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
def test_rows_do_not_depend_on_the_batch(values: list[int], seed: int, epoch: int) -> None:
    together = base(seed, epoch, torch.tensor(values))
    alone = torch.cat([base(seed, epoch, torch.tensor([v])) for v in values])
    assert torch.equal(together, alone)
    rows = torch.cat([uniform(alone[i : i + 1], 1, 5) for i in range(len(values))])
    assert torch.equal(uniform(together, 1, 5), rows)


def test_a_larger_count_only_appends() -> None:
    draws = base(0, 0, ids(16))
    assert torch.equal(uniform(draws, 0, 40)[:, :7], uniform(draws, 0, 7))
    assert uniform(draws, 0, 0).shape == (16, 0)


def test_values_are_known() -> None:
    """Pins the sequence: a run resumed under another version must draw the same."""
    draws = base(7, 3, torch.tensor([key_id("a"), key_id("b")]))
    assert draws.tolist() == PINNED_BASE
    assert (uniform(draws, 1, 2) * 2**24).to(torch.int64).tolist() == PINNED_UNIFORM


def test_uniform_is_uniform() -> None:
    u = uniform(base(0, 0, ids(2000)), 0, 200).double()
    assert u.dtype == torch.float64 and float(u.min()) >= 0 and float(u.max()) < 1
    n = u.numel()
    assert abs(float(u.mean()) - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    counts = torch.histc(u, 64, 0, 1)
    chi = float(((counts - n / 64) ** 2 / (n / 64)).sum())
    assert chi < 63 + 5 * (2 * 63) ** 0.5


@pytest.mark.parametrize("what", ["views", "epochs", "seeds", "keys", "counters"])
def test_streams_are_uncorrelated(what: str) -> None:
    names = ids(3000)
    first = base(0, 0, names)
    a, b = {
        "views": lambda: (uniform(first, 0, 30), uniform(first, 1, 30)),
        "epochs": lambda: (uniform(first, 0, 30), uniform(base(0, 1, names), 0, 30)),
        "seeds": lambda: (uniform(first, 0, 30), uniform(base(1, 0, names), 0, 30)),
        "keys": lambda: (uniform(first, 0, 30)[:-1], uniform(first, 0, 30)[1:]),
        "counters": lambda: (uniform(first, 0, 31)[:, :-1], uniform(first, 0, 31)[:, 1:]),
    }[what]()
    assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 5 / a.numel() ** 0.5
    assert float((a == b).float().mean()) < 1e-4


def test_neighbouring_ids_are_as_good_as_hashes() -> None:
    u = uniform(base(0, 0, torch.arange(5000)), 0, 4).double()
    assert float((torch.corrcoef(u.T) - torch.eye(4)).abs().max()) < 5 / 5000**0.5
    assert abs(float(torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1])) < 5 / 5000**0.5


def test_seed_and_epoch_are_not_interchangeable() -> None:
    name = ids(1)
    seen = {int(base(seed, epoch, name)) for seed in range(40) for epoch in range(40)}
    assert len(seen) == 1600


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_same_bits_on_the_accelerator() -> None:
    here = base(1, 2, ids(100))
    there = base(1, 2, ids(100).cuda())
    assert torch.equal(here, there.cpu())
    assert torch.equal(uniform(here, 1, 100), uniform(there, 1, 100).cpu())
