"""What a trained stream makes of clips and of their captions, as its contrast sees them: the unit vectors that a map is drawn of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acsar import draws
from acsar.ac_sar import ACSAR
from acsar.reliance import exchange
from acsar.scdnet import SCDNet, normalise
from jobs.batches import to_batch
from jobs.features import BATCH, tensors
from shards.stream import PackedSet

Array = NDArray[np.float32]
Ints = NDArray[np.int64]

SKELETONS, BEFORE, AFTER = "skeletons", "captions before modulation", "captions after modulation"
EXCHANGED = "exchanged captions after modulation"


@dataclass(frozen=True)
class Points:
    """n samples of one representation: unit features [n,D]; same [n]: rows with one number are equal (a caption that clips share)."""

    name: str
    features: Array
    same: Ints
    control: bool = False  # a number to compare with, no map


def represented(
    method: SCDNet, packed: PackedSet, keys: Sequence[str], device: torch.device, features: Tensor | None = None
) -> list[Points]:
    """What a stream makes of these clips, as its contrast sees it: z_g of the skeletons (eq. 2), and where the method has a caption branch,
    the captions before (eq. 5) and after modulation (eq. 8), and after modulation by the right skeletons of exchanged captions.

    `features` [n,2*width]: rows of Method.encode of these very keys, where they are at hand; nothing is encoded then."""
    with torch.no_grad():
        z = skeletons(method, packed, keys, device, features)
    alone = np.arange(len(keys))
    found = [Points(SKELETONS, _unit(z), alone)]
    if not isinstance(method, ACSAR):
        return found
    before, ids = captions(method, packed, keys, keys, z, device, modulated=False)
    if method.config.interaction == "none":
        return [Points(BEFORE, before, ids), *found]
    after, _ = captions(method, packed, keys, keys, z, device, modulated=True)
    found = [Points(BEFORE, before, ids), Points(AFTER, after, alone), *found]
    drawn = draws.base(0, 0, torch.tensor([draws.key_id(key) for key in keys], dtype=torch.int64))
    rows, partners = exchange(torch.from_numpy(ids), drawn)
    if len(rows) == len(keys):  # nobody holds the majority
        partner = np.empty(len(keys), np.int64)
        partner[rows.numpy()] = partners.numpy()
        exchanged, _ = captions(method, packed, keys, [keys[i] for i in partner.tolist()], z, device, modulated=True)
        found.append(Points(EXCHANGED, exchanged, alone, control=True))
    return found


def skeletons(method: SCDNet, packed: PackedSet, keys: Sequence[str], device: torch.device, features: Tensor | None) -> Tensor:
    """z_g [n,out] on the device, before normalisation; from `features` through the projector, else from the clips."""
    blocks = range(0, len(keys), BATCH)
    if features is not None:
        return torch.cat([method.query.project_g(features[start : start + BATCH].to(device)) for start in blocks])
    return torch.cat([method.project(*tensors(packed.load(keys[start : start + BATCH]), device))["g"] for start in blocks])


@torch.no_grad()
def captions(
    method: ACSAR, packed: PackedSet, keys: Sequence[str], said: Sequence[str], z: Tensor, device: torch.device, modulated: bool
) -> tuple[Array, Ints]:
    """Unit features [n,out] of the captions of the clips `said`, modulated by the skeletons z [n,out] or as they are, and their ids [n].

    Before modulation there is no one vector where the skeleton chooses among the tokens (cross-attention): then the mean of the caption's
    features [n,D] stands for it."""
    rows, ids = [], []
    for start in range(0, len(said), BATCH):
        batch = to_batch(packed.load(said[start : start + BATCH]), 0, 0).to(device)
        assert batch.text is not None and batch.text_id is not None
        embedded = method.text.embed(batch.text, batch.text_tokens)
        if modulated:
            row = method.text.modulate(embedded, z[start : start + BATCH])
        else:
            row = embedded if embedded.ndim == 2 else batch.text.mean(1)
        rows.append(_unit(row))
        ids.append(batch.text_id.cpu().numpy())
    return np.concatenate(rows), np.concatenate(ids)


def _unit(z: Tensor) -> Array:
    return normalise(z).float().cpu().numpy()
