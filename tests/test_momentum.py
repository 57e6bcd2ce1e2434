"""The moving average is exact, and the queue is a deque."""

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acsar.momentum import Queue, ema_


@given(st.integers(1, 7), st.lists(st.integers(0, 16), max_size=8))
def test_queue_is_a_deque(length: int, batches: list[int]) -> None:
    queue = Queue(2, length, seed=0)
    expected = deque((row for row in queue.keys.clone()), maxlen=length)
    value = 0
    for size in batches:
        keys = torch.arange(value, value + 2 * size, dtype=torch.float32).view(size, 2)
        value += 2 * size
        queue.push(keys)
        expected.extend(keys)
        assert torch.equal(queue.oldest_first(), torch.stack(list(expected)))
        assert 0 <= int(queue.position) < length


def test_queue_starts_from_its_seed_with_unit_rows() -> None:
    state = torch.random.get_rng_state()
    one, same, other = Queue(8, 16, seed=1), Queue(8, 16, seed=1), Queue(8, 16, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.keys, same.keys)
    assert not torch.equal(one.keys, other.keys)
    assert torch.allclose(one.keys.norm(dim=1), torch.ones(16))
    assert set(one.state_dict()) == {"keys", "position"}
    assert one.keys.dtype == torch.float32


def test_a_queue_goes_on_where_it_was_saved() -> None:
    one, other = Queue(2, 5, seed=0), Queue(2, 5, seed=1)
    one.push(torch.ones(3, 2))
    other.load_state_dict(one.state_dict())
    for queue in (one, other):
        queue.push(torch.full((4, 2), 2.0))
    assert torch.equal(one.keys, other.keys)


def test_an_empty_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        Queue(2, 0, seed=0)


@pytest.mark.parametrize("by_lerp", [True, False])
def test_moving_average_is_exact(by_lerp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not by_lerp:
        monkeypatch.delattr(torch, "_foreach_lerp_")
    generator = torch.Generator().manual_seed(0)
    target = [torch.randn(size, dtype=torch.float64, generator=generator) for size in ((3, 4), (5,), ())]
    source = [torch.randn(x.shape, dtype=torch.float64, generator=generator) for x in target]
    places = [x.data_ptr() for x in target]
    expected = [x.clone() for x in target]
    for _ in range(3):
        expected = [0.99 * k + 0.01 * q for k, q in zip(expected, source)]
        ema_(iter(target), iter(source), 0.99)
    assert all(torch.allclose(x, y, rtol=1e-14, atol=1e-15) for x, y in zip(target, expected))
    assert places == [x.data_ptr() for x in target]
