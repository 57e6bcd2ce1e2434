"""A method of a few hundred parameters, for tests of what surrounds a method: dropout, state that training moves, frozen parameters."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from acsar import draws
from acsar.gather import all_gather_constant
from acsar.types import Batch, Method


class Tiny(Method):
    """Two losses, a momentum copy without gradient, and a queue."""

    queue: Tensor

    def __init__(self, seed: int = 0, dropout: float = 0.2) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.query = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 4))
            self.key = nn.Linear(6, 4).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(4))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = batch.joints.flatten(1)
        q = self.query(x)
        with torch.no_grad():
            for own in self.key.parameters():
                own.lerp_(torch.ones_like(own), 0.01)
            k = self.key(x)
            self.queue.copy_(all_gather_constant(k).mean(0))
        return {"pull": (q - k).pow(2).mean(), "push": (q - self.queue).abs().mean()}


def batch_of(step: int, size: int, rank: int = 0, world: int = 1) -> Batch:
    """A rank's rows of a step's global batch: a function of the step."""
    ids = torch.arange(step * size, (step + 1) * size)
    joints = draws.uniform(draws.base(0, 0, ids), 0, 6).reshape(size, 3, 1, 2, 1)
    rows = slice(rank * size // world, (rank + 1) * size // world)
    return Batch(joints[rows], torch.ones(size, dtype=torch.int64)[rows], ids[rows], [f"k{i}" for i in ids.tolist()][rows])


def batches(first: int, steps: int, size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """The batches of steps first ... steps - 1."""
    return (batch_of(step, size, rank, world) for step in range(first, steps))
