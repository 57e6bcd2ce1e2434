"""Two views of a clip: crop and resize in time, rotate, flip, shear, mask joints, mask frames (SCD-Net code, feeder/augmentations).

Batched on the clips' own device. All chance comes from acsar.draws; rotation and shear are one 3x3 matrix per sample, the flip is a
permutation of joints that commutes with both, and the two masks are one product.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from acsar.draws import uniform
from acsar.skeleton import Skeleton
from acsar.streams import Stream, stream, take_joints

FRAMES = 64


@dataclass(frozen=True)
class Augmentation:
    """How strongly views are disturbed; the defaults are SCD-Net's."""

    probability: float = 0.5  # of each of rotation, flip, shear, joint mask and frame mask
    min_crop: float = 0.1  # smallest share of the valid frames that a crop keeps, but never fewer than 64 frames where there are as many
    rotate: float = 30.0  # degrees: largest angle about the main axis
    tilt: float = 1.0  # degrees: largest angle about the two other axes
    shear: float = 1.0  # largest size of the six off-diagonal entries
    flip: Literal["permute", "mirror", "none"] = "permute"  # left and right joints change places; mirror also changes the sign of x
    masked_joints: int = 8  # joints that the joint mask hides
    anchors: int = 5  # joints drawn; their neighbourhoods vote for the masked ones
    cubes: int = 16  # equal stretches of the 64 frames
    masked_cubes: int = 6  # stretches that the frame mask hides

    def __post_init__(self) -> None:
        if not (0 <= self.probability <= 1 and 0 <= self.min_crop <= 1):
            raise ValueError(f"probability {self.probability} and min_crop {self.min_crop} are shares between 0 and 1")
        if self.cubes < 1 or FRAMES % self.cubes or not 0 <= self.masked_cubes <= self.cubes:
            raise ValueError(f"cubes {self.cubes} must divide {FRAMES} frames and masked_cubes {self.masked_cubes} be at most as many")
        if self.flip not in ("permute", "mirror", "none"):
            raise ValueError(f"flip {self.flip!r} is none of permute, mirror, none")


@dataclass(frozen=True)
class ViewDraws:
    """All that chance decides about B views.

    start, length [B] int64: the crop; matrix [B,3,3] float32: rotation, mirror and shear in one; flipped [B] bool;
    joints [B,V] and frames [B,64] bool: what the masks keep."""

    start: Tensor
    length: Tensor
    matrix: Tensor
    flipped: Tensor
    joints: Tensor
    frames: Tensor


@torch.no_grad()
def views(joints: Tensor, frames: Tensor, draws: Tensor, name: Stream, skeleton: Skeleton, config: Augmentation) -> tuple[Tensor, Tensor]:
    """Views 0 and 1 of joints [B,3,T,V,M] with `frames` [B] valid frames -> two [B,3,64,V,M] of the stream called `name`.

    The same bits as two calls of `view`, sooner."""
    first, second = _augmented(joints, frames, draws, (0, 1), name, skeleton, config).chunk(2)
    return first, second


@torch.no_grad()
def view(joints: Tensor, frames: Tensor, draws: Tensor, view: int, name: Stream, skeleton: Skeleton, config: Augmentation) -> Tensor:
    """View number `view` of joints [B,3,T,V,M] with `frames` [B] valid frames -> [B,3,64,V,M] of the stream called `name`.

    A function of its arguments alone: row i is the same whatever the other rows are, and no generator is touched."""
    return _augmented(joints, frames, draws, (view,), name, skeleton, config)


def _augmented(
    joints: Tensor, frames: Tensor, draws: Tensor, numbers: tuple[int, ...], name: Stream, skeleton: Skeleton, config: Augmentation
) -> Tensor:
    drawn = draws_for(draws, numbers, frames.clamp(max=joints.shape[2]), skeleton, config)
    x = stream(crop_resize(joints, drawn.start, drawn.length), name, skeleton)
    x = transform(x, drawn.matrix)
    if config.flip != "none":
        x = flip(x, drawn.flipped, skeleton)
    return mask_(x, drawn.joints, drawn.frames)


@torch.no_grad()
def centre_view(joints: Tensor, frames: Tensor, name: Stream, skeleton: Skeleton, ratio: float = 0.95) -> Tensor:
    """The view without chance, for evaluation: centre crop of joints [B,3,T,V,M], resize, stream -> [B,3,64,V,M]."""
    start, length = centre_crop(frames.clamp(max=joints.shape[2]), ratio)
    return stream(crop_resize(joints, start, length), name, skeleton)


def draws_for(draws: Tensor, numbers: tuple[int, ...], frames: Tensor, skeleton: Skeleton, config: Augmentation) -> ViewDraws:
    """What the views with these numbers are made of, for samples with bases `draws` [B] and `frames` [B] valid frames.

    Rows: first view of all samples, second view of all samples, ...
    Order of the uniform numbers of one row: crop 2, gates 5, rotation 4, shear 6, anchors, cubes, ties V."""
    sizes = [2, 5, 4, 6, config.anchors, config.cubes, skeleton.size]
    # float64 from here to the rounded matrix: an angle's last bit may differ between devices, its float32 rounding does not.
    u = torch.cat([uniform(draws, number, sum(sizes)) for number in numbers]).double()
    frames = frames.repeat(len(numbers))
    crop, gates, turn, skew, anchors, cubes, ties = u.split_with_sizes(sizes, 1)
    rotated, flipped, sheared, hidden, skipped = (gates < config.probability).unbind(1)
    start, length = random_crop(frames, crop, config.min_crop)
    matrix = _gated(rotated, rotation(turn, config.rotate, config.tilt))
    if config.flip == "mirror":
        mirrored = torch.diag(matrix.new_tensor([-1, 1, 1])).expand_as(matrix)
        matrix = _gated(flipped, mirrored) @ matrix
    matrix = _gated(sheared, shear(skew, config.shear)) @ matrix
    kept_joints = spatial_mask((anchors * skeleton.size).long(), ties, config.masked_joints, skeleton)
    kept_frames = temporal_mask(cubes, config.masked_cubes)
    return ViewDraws(start, length, matrix.float(), flipped, kept_joints | ~hidden[:, None], kept_frames | ~skipped[:, None])


def random_crop(frames: Tensor, u: Tensor, minimum: float = 0.1) -> tuple[Tensor, Tensor]:
    """(start, length), both [B] int64, of a training crop: frames [B] valid frames, u [B,2] uniform (size, place).

    A share U(minimum,1) of the frames, at least 64 of them, at most all; every place is equally likely."""
    share = minimum + (1 - minimum) * u[:, 0].double()
    length = torch.minimum((frames * share).floor().long().clamp(min=FRAMES), frames)
    return ((frames - length + 1) * u[:, 1].double()).long(), length


def centre_crop(frames: Tensor, ratio: float = 0.95) -> tuple[Tensor, Tensor]:
    """(start, length), both [B] int64, of the evaluation crop of `frames` [B] valid frames: (1-ratio)/2 is cut off each end."""
    start = ((1 - ratio) * frames.double() / 2).long()
    return start, frames - 2 * start


def crop_resize(x: Tensor, start: Tensor, length: Tensor, out: int = FRAMES) -> Tensor:
    """Frames [start, start+length) of clips x [B,C,T,V,M], resized along time -> [K*B,C,out,V,M].

    start, length [K*B] int64: row i is cut out of clip i modulo B.
    Linear between the two nearest frames at (j+0.5)*length/out - 0.5, clamped to the crop; no smoothing when frames are dropped.
    Crops stay inside the clip (the caller clamps them to T)."""
    b, c, t, v, m = x.shape
    place = torch.arange(out, dtype=torch.float64, device=x.device) + 0.5
    place = (place * (length[:, None].double() / out) - 0.5).clamp(min=0)
    last = length[:, None] - 1
    first = torch.minimum(place.long(), last)
    taps = torch.stack([first, torch.minimum(first + 1, last)], 2) + start[:, None, None]
    far = place - first
    weights = torch.stack([1 - far, far], 2).to(x.dtype)
    # A clip is a table of rows of V*M numbers; each new row is a weighted sum of two, in one pass over the frames that are needed.
    clips = torch.arange(0, b * c * t, t, device=x.device).view(1, b, c, 1, 1)
    rows = clips + taps.view(-1, b, 1, out, 2)
    weights = weights.view(-1, b, 1, out, 2).expand(rows.shape)
    table = x.reshape(b * c * t, v * m)
    mixed = F.embedding_bag(rows.view(-1, 2), table, mode="sum", per_sample_weights=weights.reshape(-1, 2))
    return mixed.view(-1, c, out, v, m)


def rotation(u: Tensor, main: float = 30.0, other: float = 1.0) -> Tensor:
    """Rz Ry Rx [B,3,3] from u [B,4] uniform: the main axis, then an angle about x, y and z.

    U(0,main) degrees about the main axis, U(0,other) about the two others, clockwise as SCD-Net turns."""
    chosen = (u[:, :1] * 3).long() == torch.arange(3, device=u.device)
    angle = u[:, 1:] * torch.where(chosen, u.new_tensor(math.radians(main)), u.new_tensor(math.radians(other)))
    # Rodrigues, I + sin K + (1 - cos) K^2, with the generator K of each axis.
    turn = u.new_tensor([[[0, 0, 0], [0, 0, 1], [0, -1, 0]], [[0, 0, -1], [0, 0, 0], [1, 0, 0]], [[0, 1, 0], [-1, 0, 0], [0, 0, 0]]])
    sine, cosine = angle.sin()[:, :, None, None], angle.cos()[:, :, None, None]
    x, y, z = (torch.eye(3, dtype=u.dtype, device=u.device) + sine * turn + (1 - cosine) * (turn @ turn)).unbind(1)
    return z @ y @ x


def shear(u: Tensor, size: float = 1.0) -> Tensor:
    """[B,3,3] with ones on the diagonal and U(-size,size) elsewhere, from u [B,6] uniform."""
    entries = torch.cat([torch.ones_like(u[:, :1]), (2 * u - 1) * size], 1)
    return entries[:, [0, 1, 2, 3, 0, 4, 5, 6, 0]].view(-1, 3, 3)


def transform(x: Tensor, matrix: Tensor) -> Tensor:
    """p -> matrix p for every point of x [B,3,T,V,M] with matrix [B,3,3].

    Three products instead of a matrix multiplication: autocast leaves them alone and the bits do not depend on the batch."""
    flat = x.flatten(2)
    out = matrix[:, :, 0:1] * flat[:, 0:1]
    out.addcmul_(matrix[:, :, 1:2], flat[:, 1:2]).addcmul_(matrix[:, :, 2:3], flat[:, 2:3])
    return out.view(x.shape)


def flip(x: Tensor, flipped: Tensor, skeleton: Skeleton) -> Tensor:
    """x [B,C,T,V,M] with left and right joints exchanged in the samples where flipped [B]; coordinates keep their sign."""
    joints = torch.tensor([range(skeleton.size), skeleton.mirror], device=x.device)
    return take_joints(x, joints[flipped.long()])


def spatial_mask(anchors: Tensor, ties: Tensor, masked: int, skeleton: Skeleton) -> Tensor:
    """Joints that stay [B,V] bool: the `masked` ones that most two-step walks from the anchors [B,A] reach are dropped.

    ties [B,V] in [0,1) decide between equal scores, so that no joint is favoured by its number."""
    reach = torch.from_numpy(skeleton.two_step()).to(device=ties.device, dtype=torch.float64)
    score = reach[anchors].sum(1)
    order = (score + ties).argsort(dim=1, descending=True, stable=True)
    return torch.ones_like(score, dtype=torch.bool).scatter_(1, order[:, :masked], False)


def temporal_mask(u: Tensor, masked: int, frames: int = FRAMES) -> Tensor:
    """Frames that stay [B,frames] bool: `masked` of the cubes, drawn without replacement by u [B,cubes] uniform, are dropped."""
    order = u.argsort(dim=1, stable=True)
    kept = torch.ones_like(u, dtype=torch.bool).scatter_(1, order[:, :masked], False)
    return kept.repeat_interleave(frames // u.shape[1], 1)


def mask_(x: Tensor, joints: Tensor, frames: Tensor) -> Tensor:
    """x [B,C,T,V,M] contiguous, with zeros written where joints [B,V] or frames [B,T] say False."""
    b, c, t, v, m = x.shape
    columns = joints.to(x.dtype).repeat_interleave(m, 1)
    kept = frames.to(x.dtype)[:, :, None] * columns[:, None]
    x.view(b, c, t * v * m).mul_(kept.view(b, 1, t * v * m))
    return x


def _gated(on: Tensor, matrix: Tensor) -> Tensor:
    return torch.where(on[:, None, None], matrix, torch.eye(3, dtype=matrix.dtype, device=matrix.device))
