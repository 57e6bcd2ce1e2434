"""SCD-Net (Wu et al. 2024): temporal, spatial and global features of two views, contrasted across domains against three queues."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acsar import encoder
from acsar.augment import Augmentation, centre_view, views
from acsar.encoder import FRAMES, PEOPLE, Encoder, ProjectedEncoder, Stem
from acsar.gather import all_gather_constant
from acsar.losses import info_nce
from acsar.momentum import Queue, ema_
from acsar.skeleton import Skeleton
from acsar.streams import Stream, stream
from acsar.types import Batch, Method

# Samples that encode() and project() take at a time.
CHUNK = 16


@dataclass(frozen=True)
class SCDNetConfig:
    """Hyper-parameters of SCD-Net; the defaults are the published run on NTU RGB+D 60."""

    stream: Stream = "joint"  # what the encoder sees; the launcher sets it, one model per --streams
    stem: Stem = "split"  # split: a trunk per branch, as the published code; shared: one trunk feeds both, as AC-SAR's text
    c1: int = 64  # channels of the trunk's output
    width: int = 2048  # features of a token, and of v_t and v_s
    heads: int = 8  # attention heads
    out: int = 128  # features in the contrast
    queue: int = 8192  # negatives per queue
    tau: float = 0.2  # temperature of the contrast
    ema: float = 0.999  # share of the key encoder that stays at each step
    dropout: float = 0.1  # in the two transformer layers
    augmentation: Augmentation = field(default_factory=Augmentation)  # of the two views


class SCDNet(Method):
    """Query and key encoder, three queues, four InfoNCE terms.

    Losses by (query, key): "gs", "gt", "sg", "tg". In training mode a forward pass moves the key encoder towards the query encoder of
    the last optimiser step before it encodes keys, and pushes the keys of all ranks into the queues after the losses."""

    def __init__(self, config: SCDNetConfig, skeleton: Skeleton, seed: int) -> None:
        super().__init__()
        self.config, self.skeleton = config, skeleton
        # torch's constructors draw start values that are replaced at once; the caller's generator must not notice.
        with torch.random.fork_rng(devices=[]):
            body = Encoder(skeleton, config.stem, config.c1, config.width, config.heads, config.dropout)
            self.query = ProjectedEncoder(body, config.width, config.out)
        encoder.initialise(self.query, torch.Generator().manual_seed(seed))
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.queue_t, self.queue_s, self.queue_g = (Queue(config.out, config.queue, 3 * seed + i) for i in range(3))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        losses, _ = self.contrast(*self.views(batch))
        return losses

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The query's and the key's view of the batch, each [B,3,64,V,M]."""
        c = self.config
        return views(batch.joints, batch.frames, batch.draws, c.stream, self.skeleton, c.augmentation)

    def contrast(self, query_view: Tensor, key_view: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The four losses of two views [B,3,64,V,M], and the query's global feature [B,out] before normalisation."""
        z = self.query(query_view)
        k_t, k_s, k_g = self.keys(key_view)
        q_t, q_s, q_g = (normalise(part) for part in z)
        # The backward pass needs the queues as they were before the keys below are pushed.
        old_t, old_s, old_g = (queue.keys.clone() for queue in (self.queue_t, self.queue_s, self.queue_g))
        tau = self.config.tau
        losses = {
            "gs": info_nce(q_g, k_s, old_s, tau),
            "gt": info_nce(q_g, k_t, old_t, tau),
            "sg": info_nce(q_s, k_g, old_g, tau),
            "tg": info_nce(q_t, k_g, old_g, tau),
        }
        if self.training:
            self.enqueue(k_t, k_s, k_g)
        return losses, z[2]

    @torch.no_grad()
    def keys(self, key_view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit keys (k_t, k_s, k_g), each [B,out], of the key encoder, after its momentum step in training mode. Never in low precision."""
        with torch.autocast(key_view.device.type, enabled=False):
            if self.training:
                ema_(self.key.parameters(), self.query.parameters(), self.config.ema)
            k_t, k_s, k_g = (normalise(part) for part in self.key(key_view))
            return k_t, k_s, k_g

    @torch.no_grad()
    def enqueue(self, k_t: Tensor, k_s: Tensor, k_g: Tensor) -> None:
        """Pushes the keys of all ranks, in batch order; one exchange for the three kinds."""
        of_all = all_gather_constant(torch.cat([k_t, k_s, k_g], 1))
        for queue, keys in zip((self.queue_t, self.queue_s, self.queue_g), of_all.tensor_split(3, 1)):
            queue.push(keys)

    def encode(self, joints: Tensor, frames: Tensor | None = None) -> Tensor:
        """[v_t, v_s] [B,2*width] of joints [B,3,T,V,M]; see Method.encode."""
        with evaluating(self):
            return torch.cat([torch.cat(self.query.encoder(x), 1) for x in self._clips(joints, frames)])

    def project(self, joints: Tensor, frames: Tensor | None = None) -> dict[str, Tensor]:
        """The projections "t", "s", "g", each [B,out], before normalisation, of the input and with the arithmetic of `encode`."""
        with evaluating(self):
            parts = zip(*[self.query(x) for x in self._clips(joints, frames)])
            return {kind: torch.cat(z) for kind, z in zip("tsg", parts)}

    def _clips(self, joints: Tensor, frames: Tensor | None) -> Iterator[Tensor]:
        """The stream of joints [B,3,T,V,M] over 64 frames, a few samples at a time. Raises ValueError naming a wrong shape."""
        expected = (3, self.skeleton.size, PEOPLE)
        if joints.ndim != 5 or (joints.shape[1], *joints.shape[3:]) != expected:
            raise ValueError(f"joints are {tuple(joints.shape)}, expected [B,3,T,V,M] with V={expected[1]} and M={PEOPLE}")
        if frames is None and joints.shape[2] != FRAMES:
            raise ValueError(f"clips of {joints.shape[2]} frames; give `frames` to have them cropped and resized to {FRAMES}")
        for start in range(0, len(joints), CHUNK):
            some = joints[start : start + CHUNK]
            if frames is None:
                yield stream(some, self.config.stream, self.skeleton)
            else:
                yield centre_view(some, frames[start : start + CHUNK], self.config.stream, self.skeleton)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation arithmetic without gradient inside; afterwards every part is in the mode it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def normalise(z: Tensor) -> Tensor:
    """Unit rows, at least in float32: [B,D] -> [B,D]."""
    return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)
