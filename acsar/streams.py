"""The three inputs derived from joint coordinates: the joints themselves, bones and motion (SCD-Net code, feeders)."""

from typing import Literal

import torch
from torch import Tensor

from acsar.skeleton import Skeleton

Stream = Literal["joint", "bone", "motion"]
STREAMS: tuple[Stream, ...] = ("joint", "bone", "motion")


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
    people = x.shape[4]
    # Rows of V*M neighbours in memory: several times faster than selecting along V.
    columns = torch.tensor([parent * people + m for parent in skeleton.parent for m in range(people)], device=x.device)
    rows = x.reshape(-1, len(columns))
    return (rows - rows.index_select(1, columns)).view(x.shape)


def motion(x: Tensor) -> Tensor:
    """x [B,C,T,V,M] -> next frame minus this one; the last frame is zero."""
    return torch.cat([x[:, :, 1:] - x[:, :, :-1], torch.zeros_like(x[:, :, :1])], 2)
