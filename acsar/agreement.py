"""Which captions does a trained method not believe? How well each caption agrees with its own skeleton, others' captions in its place.

A loss cannot tell: FiLM's offset may copy the skeleton, and then every caption fits. Here the skeleton stays and the caption is exchanged,
so what the offset copies is in both terms of the difference.
"""

import torch
from torch import Tensor

from acsar.ac_sar import ACSAR
from acsar.film import TextBranch
from acsar.losses import text_contrast_rows
from acsar.reliance import exchange
from acsar.scdnet import normalise

BLOCK = 1024  # skeletons, and captions, that meet at a time: three float64 tables of 8 MB


@torch.no_grad()
def agreement(branch: TextBranch, z_g: Tensor, captions: Tensor, own: Tensor, block: int = BLOCK) -> Tensor:
    """sim(FiLM(text_i; z_i), z_i) - mean over the other captions j of sim(FiLM(text_j; z_i), z_i), for each sample i -> [N] float64.

    z_g       [N,out] global skeleton features before normalisation
    captions  [M,...] what `TextBranch.embed` makes of the distinct captions: a caption that many samples share counts once
    own       [N] int64: whose row of `captions` is sample i's
    sim is the cosine, in [-1, 1]; a score near or below 0 says that other captions fit the skeleton as well.
    Work and memory: N * M * out multiplications in tables of `block` by `block`; interactions other than film and none meet pair by pair,
    which costs `modulate` N * M times. Raises ValueError with fewer than two captions."""
    if len(captions) < 2:
        raise ValueError(f"{len(captions)} distinct captions: there is no other one to compare with")
    scores = []
    for start in range(0, len(z_g), block):
        rows, mine = z_g[start : start + block].double(), own[start : start + block]
        true = torch.zeros(len(rows), dtype=torch.float64, device=z_g.device)
        total = torch.zeros_like(true)
        for first in range(0, len(captions), block):
            table = _similarities(branch, rows, captions[first : first + block])
            total += table.sum(1)
            here = ((mine >= first) & (mine < first + block)).nonzero()[:, 0]
            true[here] = table[here, mine[here] - first]
        scores.append(true - (total - true) / (len(captions) - 1))
    return torch.cat(scores)


def _similarities(branch: TextBranch, z: Tensor, captions: Tensor) -> Tensor:
    """cos(modulate(c_j, z_i), z_i) for all pairs, [b,D] and [m,...] -> [b,m] float64.

    FiLM's without the [b,m,D] in between: the product with unit z_i is linear in c_j, the squared length quadratic, so three matrix
    products in float64."""
    if branch.interaction == "none":
        return normalise(z) @ normalise(captions.double()).T
    if branch.gamma is None or branch.beta is None:
        rows = [normalise(branch.modulate(captions, one.expand(len(captions), -1).to(captions.dtype)).double()) for one in z]
        return torch.stack([texts @ unit for texts, unit in zip(rows, normalise(z))])
    captions = captions.double()
    gamma, beta = branch.gamma(z.to(branch.gamma.weight.dtype)).double(), branch.beta(z.to(branch.beta.weight.dtype)).double()
    unit = normalise(z)
    along = (gamma * unit) @ captions.T + (beta * unit).sum(1, keepdim=True)
    squared = gamma.square() @ captions.square().T + 2 * (gamma * beta) @ captions.T + beta.square().sum(1, keepdim=True)
    cosines: Tensor = along / squared.clamp(min=1e-24).sqrt()
    return cosines


@torch.no_grad()
def reliance_by_sample(method: ACSAR, z_g: Tensor, captions: Tensor, text_id: Tensor, draws: Tensor) -> Tensor:
    """What each sample adds to text_reliance: its loss with exchanged captions minus its loss with the true ones -> [n] float64.

    z_g [n,out] and captions [n,out] as in `agreement`, a row per sample; text_id [n]; draws [E,n]: one exchange for each of the E rows.
    The mean over the exchanges; nan where a sample was left out of every exchange (its caption holds the majority, or is the only one)."""
    c = method.config
    total, count = torch.zeros(len(z_g), dtype=torch.float64), torch.zeros(len(z_g))
    for drawn in draws:
        rows, partners = exchange(text_id, drawn)
        if len(rows) < 2:
            continue
        unit = normalise(z_g[rows])
        true, exchanged = (
            text_contrast_rows(
                unit, normalise(method.text.modulate(captions[who], z_g[rows])), c.tau_cross, text_id[who], c.duplicate_text, False
            )
            for who in (rows, partners)
        )
        total.index_add_(0, rows.cpu(), (exchanged - true).double().cpu())
        count.index_add_(0, rows.cpu(), torch.ones(len(rows)))
    return total / count
