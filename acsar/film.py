"""The caption branch of AC-SAR: word features become one vector, modulated by the skeleton that the caption describes (eq. 5 and 8)."""

from typing import Literal

import torch
from torch import Generator, Tensor, nn

Interaction = Literal["film", "none"]


class TextBranch(nn.Module):
    """Word features [B,L,D] and global skeleton features q_g [B,out] -> text features [B,out], before normalisation.

    Per token a linear map D -> 1, then over the L tokens a linear map to `hidden`, ReLU, a linear map to `out` (eq. 5); then
    gamma(q_g) * text + beta(q_g) with linear gamma and beta (eq. 8), or with interaction="none" the text as it is.
    The paper does not say how wide the hidden layer is, nor what happens to padding: `hidden` is `out` unless said otherwise, and with
    mask_padding the positions after the end token count as zero (where it is not known, those whose features are all zero)."""

    def __init__(self, tokens: int, features: int, out: int, hidden: int, interaction: Interaction, mask_padding: bool) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        self.score = nn.Linear(features, 1)
        self.first = nn.Linear(tokens, hidden)
        self.second = nn.Linear(hidden, out)
        self.gamma = nn.Linear(out, out) if interaction == "film" else None
        self.beta = nn.Linear(out, out) if interaction == "film" else None

    def forward(self, text: Tensor, q_g: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.modulate(self.embed(text, valid), q_g)

    def embed(self, text: Tensor, valid: Tensor | None = None) -> Tensor:
        """Eq. 5: [B,L,D] of any float type -> [B,out]; `valid` [B] is Batch.text_tokens, which mask_padding looks at.

        Raises ValueError when L or D is not what the branch was built for."""
        tokens, features = self.first.in_features, self.score.in_features
        if text.shape[1:] != (tokens, features):
            raise ValueError(
                f"text is {tuple(text.shape[1:])} per sample, the method was built for {(tokens, features)}; pass text_shape to build"
            )
        words = self.score(text.to(self.score.weight.dtype)).squeeze(2)
        if self.mask_padding:
            words = words * _present(text, valid)
        embedded: Tensor = self.second(self.first(words).relu())
        return embedded

    def modulate(self, embedded: Tensor, q_g: Tensor) -> Tensor:
        """Eq. 8: both [B,out]. The gradient also reaches the skeleton."""
        if self.gamma is None or self.beta is None:
            return embedded
        modulated: Tensor = self.gamma(q_g) * embedded + self.beta(q_g)
        return modulated


def _present(text: Tensor, valid: Tensor | None) -> Tensor:
    """[B,L]: the first valid[i] positions of row i; where that is 0 or not told, those with any feature but zero."""
    some = text.any(2)
    if valid is None:
        return some
    positions = torch.arange(text.shape[1], device=text.device)
    return torch.where(valid[:, None] > 0, positions < valid[:, None], some)


@torch.no_grad()
def initialise(branch: TextBranch, generator: Generator) -> None:
    """The paper does not say: weights Xavier-uniform, biases 0, except that gamma's bias is 1, so that the text counts from the start."""
    for part in branch.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            part.bias.zero_()
    if branch.gamma is not None:
        branch.gamma.bias.fill_(1.0)
