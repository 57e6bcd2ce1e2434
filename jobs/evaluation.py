"""What a run says about itself while it trains, on samples it is not judged by later: training subjects held aside, never a test key."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from acsar.probes import knn1
from acsar.types import Method
from jobs.batches import TrainingSet, by_hash, to_batch
from jobs.features import encoded
from shards.stream import PackedSet

GALLERY, QUERIES = 2000, 500  # at most, chosen by hash


class Evaluation:
    """1-NN accuracy (cosine, percent) of held-aside training subjects, and the method's own report on samples never trained on."""

    def __init__(self, method: Method, packed: PackedSet, data: TrainingSet, seed: int, device: torch.device) -> None:
        self._method, self._packed, self._aside, self._seed, self._device = method, packed, data.aside, seed, device
        self._queries, self._gallery = by_hash(data.queries, seed)[:QUERIES], by_hash(data.gallery, seed)[:GALLERY]
        self._labels = {entry.key: entry.label for entry in packed.samples}

    @torch.no_grad()
    def __call__(self) -> dict[str, float | None]:
        """The metrics, None where one is not defined; the method's mode is as before. Needs no other rank."""
        training = self._method.training
        self._method.eval()
        metrics: dict[str, float | None] = {}
        if self._queries and self._gallery:
            found = knn1(self._features(self._gallery), self._label(self._gallery), self._features(self._queries))
            metrics["held_aside_knn1"] = 100 * float((found == self._label(self._queries)).float().mean())
        if len(self._aside) > 1:
            batch = to_batch(self._packed.load(self._aside), self._seed, 0).to(self._device)
            metrics |= {name: value if math.isfinite(value) else None for name, value in self._method.report(batch).items()}
        self._method.train(training)
        return metrics

    def _features(self, keys: Sequence[str]) -> Tensor:
        return torch.cat(list(encoded(self._method.encode, self._packed, keys, self._device)))

    def _label(self, keys: Sequence[str]) -> Tensor:
        return torch.tensor([self._labels[key] for key in keys])
