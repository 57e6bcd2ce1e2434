"""The caption branch of AC-SAR: caption features become one vector, in which the skeleton that they describe has its say (eq. 5 and 8)."""

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn

Interaction = Literal["none", "linear", "gated", "cross-attention", "film"]


class TextBranch(nn.Module):
    """Caption features [B,L,D] and global skeleton features q = q_g [B,out] -> text features [B,out], before normalisation.

    Eq. 5 makes one vector t [B,out] of a caption: per token a linear map D -> 1, then over the L scores a linear map to `hidden`, ReLU, a
    linear map to `out`. A sentence's feature (L = 1) has no tokens that could be scored: its D features stand in the scores' place.
    Then, by `interaction`,

        none             t
        linear           W [t, q] + b                                            linear fusion
        gated            g * t + (1 - g) * q,  g = sigmoid(W [t, q] + b)         gated fusion
        film             gamma(q) * t + beta(q),  gamma and beta linear          eq. 8
        cross-attention  sum_l a_l value(x_l),  a = softmax_l( query(q) . key(x_l) / sqrt(out) )

    where cross-attention takes the tokens x_l [D] themselves instead of t: there is nothing to choose from in one vector. query, key and
    value are linear, one head. Of these formulas the paper gives eq. 8 alone; the others are the plainest that go by their names. Like
    FiLM's beta, linear and gated fusion can copy q; cross-attention only chooses among tokens, though it can follow q among those that
    all captions share.

    The paper does not say how wide the hidden layer is, nor what happens to padding: `hidden` is `out` unless said otherwise, and with
    mask_padding the positions after the end token (where it is not known, those whose features are all zero) score zero, and get no
    attention. Raises ValueError for cross-attention to a sentence."""

    def __init__(self, tokens: int, features: int, out: int, hidden: int, interaction: Interaction, mask_padding: bool) -> None:
        super().__init__()
        self.shape = (tokens, features)
        self.interaction, self.mask_padding = interaction, mask_padding
        attends, sentence = interaction == "cross-attention", tokens == 1
        if attends and sentence:
            raise ValueError(
                "interaction cross-attention chooses among a caption's tokens, and a sentence feature has none; use word features"
            )
        self.score = nn.Linear(features, 1) if not (attends or sentence) else None
        self.first = nn.Linear(features if sentence else tokens, hidden) if not attends else None
        self.second = nn.Linear(hidden, out) if not attends else None
        self.gamma = nn.Linear(out, out) if interaction == "film" else None
        self.beta = nn.Linear(out, out) if interaction == "film" else None
        self.mix = nn.Linear(2 * out, out) if interaction in ("linear", "gated") else None
        self.query = nn.Linear(out, out) if attends else None
        self.key = nn.Linear(features, out) if attends else None
        self.value = nn.Linear(features, out) if attends else None

    def forward(self, text: Tensor, q_g: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.modulate(self.embed(text, valid), q_g)

    def embed(self, text: Tensor, valid: Tensor | None = None) -> Tensor:
        """What can be said of captions [B,L,D] of any float type before their skeletons are known: eq. 5's [B,out], or for cross-attention
        [B,L,2*out+1], of each token its key, its value, and what is added to its score (0; padding that is masked -inf).

        `valid` [B] is Batch.text_tokens, which mask_padding looks at. Raises ValueError when L or D is not what the branch was built
        for."""
        if text.shape[1:] != self.shape:
            raise ValueError(f"text is {tuple(text.shape[1:])} per sample, the method was built for {self.shape}; pass text_shape to build")
        if self.key is not None and self.value is not None:
            tokens = text.to(self.key.weight.dtype)
            shift = torch.zeros_like(tokens[:, :, 0])
            if self.mask_padding:
                present = _present(text, valid)
                # a sample without caption has nowhere to look: it looks everywhere, and the loss leaves it out
                shift = shift.masked_fill(~present & present.any(1, keepdim=True), -torch.inf)
            return torch.cat([self.key(tokens), self.value(tokens), shift[:, :, None]], 2)
        assert self.first is not None and self.second is not None
        if self.score is None:
            words = text[:, 0].to(self.first.weight.dtype)
        else:
            words = self.score(text.to(self.score.weight.dtype)).squeeze(2)
            if self.mask_padding:
                words = words * _present(text, valid)
        embedded: Tensor = self.second(self.first(words).relu())
        return embedded

    def modulate(self, embedded: Tensor, q_g: Tensor) -> Tensor:
        """The interaction of what `embed` gave with q_g [B,out] -> [B,out]. The gradient also reaches the skeleton."""
        if self.gamma is not None and self.beta is not None:
            modulated: Tensor = self.gamma(q_g) * embedded + self.beta(q_g)
        elif self.mix is not None:
            modulated = self.mix(torch.cat([embedded, q_g], 1))
            if self.interaction == "gated":
                gate = modulated.sigmoid()
                modulated = gate * embedded + (1 - gate) * q_g
        elif self.query is not None:
            out = self.query.out_features
            keys, values, shift = embedded.tensor_split((out, 2 * out), 2)
            scores = (keys @ self.query(q_g)[:, :, None]) / math.sqrt(out) + shift
            modulated = (scores.softmax(1) * values).sum(1)
        else:
            modulated = embedded
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
