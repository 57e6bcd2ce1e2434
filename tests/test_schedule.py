"""The learning rate: AC-SAR's numbers, warm-up, and nothing but the step decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.schedule import Schedule, scaled_lr


def test_the_papers_schedule() -> None:
    """0.01 until epoch 350 of 450, then 0.001; ten steps an epoch."""
    schedule = Schedule(steps=4500, lr=0.01)
    assert schedule(0) == schedule(3499) == 0.01
    assert schedule(3500) == schedule(4499) == pytest.approx(0.001)


@given(epochs=st.integers(1, 60), per_epoch=st.integers(1, 700))
def test_the_drop_falls_on_an_epochs_first_step(epochs: int, per_epoch: int) -> None:
    steps = 450 * epochs * per_epoch
    schedule = Schedule(steps=steps, lr=1.0)
    assert schedule(350 * epochs * per_epoch - 1) == 1.0
    assert schedule(350 * epochs * per_epoch) == pytest.approx(0.1)


def test_warm_up_is_linear_and_never_zero() -> None:
    schedule = Schedule(steps=100, lr=0.4, warmup=4)
    assert [schedule(step) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_the_rate_of_another_batch() -> None:
    assert scaled_lr(0.01, 64, 64, warmup=0, steps=1000, steps_per_epoch=10) == (0.01, 0)
    assert scaled_lr(0.01, 64, 256, warmup=0, steps=1000, steps_per_epoch=10) == (pytest.approx(0.04), 50)
    assert scaled_lr(0.01, 64, 256, warmup=0, steps=100, steps_per_epoch=10) == (pytest.approx(0.04), 10)
    assert scaled_lr(0.004, 32, 64, warmup=10, steps=75, steps_per_epoch=1) == (pytest.approx(0.008), 10)
    assert scaled_lr(0.01, 64, 16, warmup=3, steps=1000, steps_per_epoch=10) == (pytest.approx(0.0025), 3)
