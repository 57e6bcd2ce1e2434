"""Small NTU `.skeleton` texts, for tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Frames = Sequence[Sequence[tuple[int, Array]]]


def skeleton_text(frames: Frames, joints: int = 25) -> str:
    """The text of a file: per frame a list of (body id, positions [V,3])."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body, positions in bodies:
            lines += [f"{body} 0 1 1 0 0 0 0.25 -0.5 2", str(joints)]
            lines += [" ".join(f"{v:.6f}" for v in p) + " 250.5 170.25 960 540 0.1 0.2 0.3 0.9 2" for p in positions]
    return "\n".join(lines) + "\n"


def moving(frames: int = 6, bodies: int = 1, seed: int = 0, joints: int = 25) -> Frames:
    """Random figures that drift; ids start at 72057594037931101."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((bodies, joints, 3)) + (0, 0, 3)
    drift = rng.standard_normal((frames, bodies, 1, 3)) * 0.1
    return [[(72057594037931101 + m, base[m] + drift[t, m]) for m in range(bodies)] for t in range(frames)]
