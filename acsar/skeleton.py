"""Skeleton layouts as facts: joint names, parents, left-right mirror. No torch, so that packing needs none.

Sources: Kinect v2 / NTU RGB+D joint order (shahroudy/NTURGB-D); bone pairs as CTR-GCN and SCD-Net use them;
the 20-joint Kinect v1 layout of NW-UCLA as CTR-GCN uses it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Skeleton:
    """One layout.

    parent[v] is the joint that v hangs on (the root has itself); mirror[v] is the joint of the other side;
    centre, spine (from, to) and shoulders (left, right) are what normalisation aligns by.
    """

    name: str
    joints: tuple[str, ...]
    parent: tuple[int, ...]
    mirror: tuple[int, ...]
    centre: int
    spine: tuple[int, int]
    shoulders: tuple[int, int]

    @property
    def size(self) -> int:
        """Number of joints V."""
        return len(self.joints)

    def edges(self) -> list[tuple[int, int]]:
        """Directed bones (child, parent), the root's own pair left out."""
        return [(v, p) for v, p in enumerate(self.parent) if v != p]

    def adjacency(self) -> NDArray[np.float32]:
        """[3,V,V]: identity, inward (child to parent, columns sum to 1) and outward partition (CTR-GCN code)."""
        inward = np.zeros((self.size, self.size), np.float32)
        for child, parent in self.edges():
            inward[parent, child] = 1
        outward = inward.T
        return np.stack([np.eye(self.size, dtype=np.float32), _columns_to_one(inward), _columns_to_one(outward)])

    def two_step(self) -> NDArray[np.float32]:
        """[V,V]: walks of two steps on the undirected graph with self loops, the "response" of the spatial mask."""
        one = np.eye(self.size, dtype=np.float32)
        for child, parent in self.edges():
            one[child, parent] = one[parent, child] = 1
        return one @ one


def _columns_to_one(a: NDArray[np.float32]) -> NDArray[np.float32]:
    total = a.sum(0)
    return (a / np.where(total > 0, total, 1)).astype(np.float32)


NTU25 = Skeleton(
    name="ntu25",
    joints=(
        "SpineBase", "SpineMid", "Neck", "Head", "ShoulderLeft", "ElbowLeft", "WristLeft", "HandLeft",
        "ShoulderRight", "ElbowRight", "WristRight", "HandRight", "HipLeft", "KneeLeft", "AnkleLeft", "FootLeft",
        "HipRight", "KneeRight", "AnkleRight", "FootRight", "SpineShoulder", "HandTipLeft", "ThumbLeft", "HandTipRight", "ThumbRight",
    ),
    parent=(1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11),
    mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22),
    centre=1,
    spine=(0, 1),
    shoulders=(4, 8),
)  # fmt: skip

UCLA20 = Skeleton(
    name="ucla20",
    joints=(
        "HipCenter", "Spine", "ShoulderCenter", "Head", "ShoulderLeft", "ElbowLeft", "WristLeft", "HandLeft",
        "ShoulderRight", "ElbowRight", "WristRight", "HandRight", "HipLeft", "KneeLeft", "AnkleLeft", "FootLeft",
        "HipRight", "KneeRight", "AnkleRight", "FootRight",
    ),
    parent=(1, 2, 2, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
    mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15),
    centre=1,
    spine=(0, 1),
    shoulders=(4, 8),
)  # fmt: skip

SKELETONS = {s.name: s for s in (NTU25, UCLA20)}


def by_joints(count: int) -> Skeleton:
    """The layout with this many joints. Raises ValueError naming the known ones."""
    for s in SKELETONS.values():
        if s.size == count:
            return s
    known = ", ".join(f"{s.size} ({s.name})" for s in SKELETONS.values())
    raise ValueError(f"no skeleton layout has {count} joints; known: {known}")
