"""The two things every part of the suite agrees on: a batch of skeletons, and what a method can do with it.

Axis letters, everywhere: B samples, C coordinates (3), T frames, V joints, M people, D features, K queue length,
L text tokens, N classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch; rows are in global batch order.

    joints  [B,C,T,V,M] float32 normalised clips, zero-padded to the longest one; an absent person is all zero
    frames  [B] int64   number of valid frames of each clip
    draws   [B] int64   base of every random draw for the sample in this epoch (acsar.draws.base)
    keys    B sample names, for messages and journals
    text    [B,L,D] float, or None: caption features
    text_id [B] int64, or None: equal captions have equal ids
    label   [B] int64, or None: only supervised methods may look
    text_tokens [B] int64, or None: valid positions of the text, start and end among them; 0 where that is not known
    has_text [B] bool, or None: which samples have a caption, where some of the training samples have none (their text is zero); None on
            every rank, or on no rank
    """

    joints: Tensor
    frames: Tensor
    draws: Tensor
    keys: Sequence[str]
    text: Tensor | None = None
    text_id: Tensor | None = None
    label: Tensor | None = None
    text_tokens: Tensor | None = None
    has_text: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        return Batch(
            self.joints.to(device, non_blocking=True),
            self.frames.to(device, non_blocking=True),
            self.draws.to(device, non_blocking=True),
            self.keys,
            move(self.text),
            move(self.text_id),
            move(self.label),
            move(self.text_tokens),
            move(self.has_text),
        )


class Method(nn.Module):
    """A way to learn from skeletons. The training loop and the probes know these three calls and nothing else."""

    needs_text: bool = False

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of this rank's rows (each the mean over them); the loop sums them.

        In training mode this may also update the method's own state (momentum encoder, queues, running statistics)."""
        raise TypeError(f"{type(self).__name__} defines no losses")

    def encode(self, joints: Tensor, frames: Tensor | None = None) -> Tensor:
        """Frozen features [B,D] of joints [B,C,T,V,M]: no text, no video, no gradient, evaluation mode's arithmetic.

        Without `frames`, 64-frame clips are used as they are; with it, the centre crop (0.95) and the resize to 64
        frames come first, then the method's stream."""
        raise TypeError(f"{type(self).__name__} defines no features")

    def report(self, batch: Batch) -> dict[str, float]:
        """Diagnostics on one batch that was not trained on, by name; often empty. Changes no state."""
        return {}
