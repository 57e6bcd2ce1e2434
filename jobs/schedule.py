"""The learning rate as a pure function of the step, so that a resumed run cannot have another one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `lr`, then `lr`, and a tenth of what it was from each of `drops` (shares of all steps) on.

    AC-SAR section 5.1 has 0.01 and 0.001 from epoch 350 of 450: one drop, as SCD-Net's code."""

    steps: int
    lr: float
    warmup: int = 0
    drops: tuple[float, ...] = (350 / 450,)

    def __call__(self, step: int) -> float:
        """Learning rate of step 0, 1, ... steps - 1."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * float(0.1 ** sum(step >= round(share * self.steps) for share in self.drops))


def scaled_lr(lr: float, batch: int, other: int, warmup: int, steps: int, steps_per_epoch: int) -> tuple[float, int]:
    """(rate, steps of warm-up) for a batch of `other` where (lr, batch, warmup) were tuned: the linear scaling rule of Goyal et al. (2017).

    The rate grows with the batch, and takes five epochs to get there, a tenth of the schedule at most. A smaller batch needs no more
    warm-up than before."""
    if other <= batch:
        return lr * other / batch, warmup
    return lr * other / batch, max(warmup, min(5 * steps_per_epoch, steps // 10))
