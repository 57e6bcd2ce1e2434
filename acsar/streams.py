"""The three inputs derived from joint coordinates: the joints themselves, bones and motion (SCD-Net code, feeders)."""

from typing import Literal

import torch
from torch import Tensor

from acsar.dense import recording
from acsar.skeleton import Skeleton

Stream = Literal["joint", "bone", "motion"]
STREAMS: tuple[Stream, ...] = ("joint", "bone", "motion")
LETTERS: dict[str, str] = {"joint": "J", "bone": "B", "motion": "M"}  # in the names of fusions: J+B+M
_WORDS = {4: torch.float32, 8: torch.float64, 16: torch.complex128}


def stream(x: Tensor, name: Stream, skeleton: Skeleton) -> Tensor:
    """The named stream of joints x [B,C,T,V,M] -> same shape; "joint" returns x itself. Raises ValueError listing the streams."""
    if name == "joint":
        return x
    if name == "bone":
        return bone(x, skeleton)
    if name == "motion":
        return motion(x)
    raise ValueError(f"no stream is called {name!r}; streams: {', '.join(STREAMS)}")


def bone(x: Tensor, skeleton: Skeleton) -> Tensor:
    """x [B,C,T,V,M] -> each joint minus the one it hangs on; zero where a joint is its own parent."""
    return x - take_joints(x, torch.tensor([skeleton.parent], device=x.device))


def motion(x: Tensor) -> Tensor:
    """x [B,C,T,V,M] -> next frame minus this one; the last frame is zero."""
    return torch.cat([x[:, :, 1:] - x[:, :, :-1], torch.zeros_like(x[:, :, :1])], 2)


def take_joints(x: Tensor, joints: Tensor) -> Tensor:
    """x [B,C,T,V,M] with joint v replaced by joint joints[b,v] of sample b; joints [B,V], or [1,V] for all samples."""
    b, c, t, v, m = x.shape
    rows = x.reshape(b, c * t, v * m)
    # The people of one joint lie side by side: where there is a number of that size they move as one (it carries no gradient).
    wide = None if x.requires_grad or recording() else _WORDS.get(m * x.element_size())
    words = rows if wide is None else rows.view(wide)
    width = words.shape[2] // v
    columns = (joints[:, None, :, None] * width + torch.arange(width, device=x.device)).flatten(2)
    taken = words.gather(2, columns.expand(words.shape))
    return (taken if wide is None else taken.view(x.dtype)).view(x.shape)
