"""The skeleton encoder of SCD-Net and AC-SAR: CTR-GCN trunk, temporal and spatial tokens, one Transformer layer and a maximum each."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from acsar import ctrgcn
from acsar.ctrgcn import Trunk
from acsar.dense import Dense, dense
from acsar.skeleton import Skeleton

Stem = Literal["split", "shared"]

FRAMES = 64
PEOPLE = 2


class TokenEmbedding(nn.Module):
    """Linear, LayerNorm, ReLU, linear: [B,L,I] -> [B,L,width]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first = Dense(inputs, width)
        self.norm = nn.LayerNorm(width)
        self.second = Dense(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.second(self.norm(self.first(tokens)).relu_())
        return out


class TransformerLayer(nn.Module):
    """One post-norm Transformer layer, ReLU, feed-forward as wide as the tokens, no positions: [B,L,width] -> [B,L,width].

    Dropout acts on the attention weights, after the attention, inside and after the feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.attend = Dense(width, 3 * width)
        self.mix = Dense(width, width)
        self.norm_attention = nn.LayerNorm(width)
        self.widen = Dense(width, width)
        self.narrow = Dense(width, width)
        self.norm_feedforward = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        b, length, width = x.shape
        q, k, v = dense(x, self.attend.weight, self.attend.bias).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        mixed = self.mix(attended.transpose(1, 2).reshape(b, length, width))
        x = self.norm_attention(x + self._drop(mixed))
        out: Tensor = self.norm_feedforward(x + self._drop(self.narrow(self._drop(self.widen(x).relu_()))))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Encoder(nn.Module):
    """Joints of one stream [B,3,64,V,M] -> (v_t, v_s), each [B,width].

    Temporal tokens are frames (features: people, joints, channels); spatial tokens are joints of people (features: frames, channels).
    stem="split": each branch has a trunk of its own, as the published SCD-Net code; "shared": one trunk feeds both, as AC-SAR's text."""

    def __init__(self, skeleton: Skeleton, stem: Stem, c1: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.trunk = Trunk(c1, skeleton, PEOPLE)
        self.trunk_s = Trunk(c1, skeleton, PEOPLE) if stem == "split" else None
        self.embed_t = TokenEmbedding(PEOPLE * skeleton.size * c1, width)
        self.embed_s = TokenEmbedding(FRAMES * c1, width)
        self.refine_t = TransformerLayer(width, heads, dropout)
        self.refine_s = TransformerLayer(width, heads, dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, _, t, v, m = x.shape
        trunk_t = self.trunk(x)
        tokens_t = trunk_t.view(b, m, -1, v, t).permute(0, 4, 1, 3, 2).reshape(b, t, -1)
        v_t = self.refine_t(self.embed_t(tokens_t)).amax(1)
        trunk_s = trunk_t if self.trunk_s is None else self.trunk_s(x)
        tokens_s = trunk_s.view(b, m, -1, v, t).permute(0, 1, 3, 4, 2).reshape(b, m * v, -1)
        return v_t, self.refine_s(self.embed_s(tokens_s)).amax(1)


class Projector(nn.Module):
    """Linear, ReLU, linear: [B,I] -> [B,out]."""

    def __init__(self, inputs: int, width: int, out: int) -> None:
        super().__init__()
        self.first = Dense(inputs, width)
        self.second = Dense(width, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).relu_())
        return out


class ProjectedEncoder(nn.Module):
    """Encoder and its three projectors: x [B,3,64,V,M] -> (z_t, z_s, z_g), each [B,out], before normalisation."""

    def __init__(self, encoder: Encoder, width: int, out: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.project_t = Projector(width, width, out)
        self.project_s = Projector(width, width, out)
        self.project_g = Projector(2 * width, width, out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v_t, v_s = self.encoder(x)
        return self.project_t(v_t), self.project_s(v_s), self.project_g(torch.cat([v_t, v_s], 1))


@torch.no_grad()
def initialise(module: nn.Module, generator: Generator) -> None:
    """Published start: every dense weight Xavier-uniform (the attention's three maps as one matrix), attention biases 0, other dense
    biases uniform within 1/sqrt(inputs), LayerNorm 1 and 0; trunks as acsar.ctrgcn.initialise."""
    for part in module.modules():
        if isinstance(part, Trunk):
            ctrgcn.initialise(part, generator)
        elif isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            bound = part.in_features**-0.5
            part.bias.uniform_(-bound, bound, generator=generator)
    for part in module.modules():
        if isinstance(part, TransformerLayer):
            part.attend.bias.zero_()
            part.mix.bias.zero_()
