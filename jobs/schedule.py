"""The learning rate as a pure function of the step, so that a resumed run cannot have another one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `lr`, then `lr`, then a tenth of it from `drop_at` (a share of all steps) on.

    AC-SAR section 5.1 has 0.01 and 0.001 from epoch 350 of 450: one drop, as SCD-Net's code."""

    steps: int
    lr: float
    warmup: int = 0
    drop_at: float = 350 / 450

    def __call__(self, step: int) -> float:
        """Learning rate of step 0, 1, ... steps - 1."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * (0.1 if step >= round(self.drop_at * self.steps) else 1.0)
