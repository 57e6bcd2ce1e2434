"""Fine-tuning: a pretrained query encoder under a linear classifier of [v_t, v_s], trained on labels (SCD-Net code, CMD code)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acsar.augment import Augmentation, centre_view, view
from acsar.scdnet import CHUNK, SCDNet, evaluating
from acsar.streams import stream
from acsar.types import Batch, Method


def crop_only(min_crop: float) -> Augmentation:
    """A training view that is a random crop in time and nothing else: CMD's fine-tuning crops a share U(min_crop, 1) of the frames."""
    return Augmentation(probability=0.0, min_crop=min_crop)


class FineTuned(Method):
    """Query encoder of `pretrained` (its own modules, not a copy) and a new classifier, weights N(0, 0.01) and bias 0.

    Loss: "cross_entropy" of one augmented view of each clip. With `frozen` the encoder keeps its weights and its running statistics, and
    only the classifier learns."""

    def __init__(self, pretrained: SCDNet, classes: int, augmentation: Augmentation, frozen: bool, seed: int) -> None:
        super().__init__()
        self.config, self.skeleton, self.augmentation, self.frozen = pretrained.config, pretrained.skeleton, augmentation, frozen
        self.encoder = pretrained.query.encoder.requires_grad_(not frozen)
        with torch.random.fork_rng(devices=[]):  # the constructor's draw is replaced at once
            self.classifier = nn.Linear(2 * self.config.width, classes)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.classifier.bias)

    def train(self, mode: bool = True) -> "FineTuned":
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.label is not None, "fine-tuning needs labels"
        x = view(batch.joints, batch.frames, batch.draws, 0, self.config.stream, self.skeleton, self.augmentation)
        logits = self.classifier(torch.cat(self.encoder(x), 1))
        return {"cross_entropy": F.cross_entropy(logits.float(), batch.label)}

    def encode(self, joints: Tensor, frames: Tensor | None = None) -> Tensor:
        rows = []
        with evaluating(self):
            for start in range(0, len(joints), CHUNK):
                some, name = joints[start : start + CHUNK], self.config.stream
                if frames is None:
                    x = stream(some, name, self.skeleton)
                else:
                    x = centre_view(some, frames[start : start + CHUNK], name, self.skeleton)
                rows.append(torch.cat(self.encoder(x), 1))
        return torch.cat(rows)

    def logits(self, joints: Tensor, frames: Tensor | None = None) -> Tensor:
        """Scores [B,N] of joints [B,C,T,V,M], of the input and with the arithmetic of `encode`."""
        features = self.encode(joints, frames)
        with torch.no_grad():
            scores: Tensor = self.classifier(features)
        return scores
