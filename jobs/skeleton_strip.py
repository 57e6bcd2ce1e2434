"""A strip of stick figures: what there is to look at where a clip has no video."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from acsar.skeleton import Skeleton
from jobs.caption_record import Strip

COLOURS = ((0x24, 0x55, 0x7A), (0xB0, 0x4A, 0x12))  # first and second person; the left side of the body is drawn lighter
PAPER = (0xF6, 0xF7, 0xF9)
MARGIN = 0.08  # of a frame's height, around the figures


def skeleton_strip(key: str, joints: NDArray[np.float32], layout: Skeleton, k: int = 5, height: int = 224) -> Strip:
    """The middle frames of k equal parts of joints [C,T,V,M] side by side, seen from the front: x to the right, upwards as the spine stands
    (y of a camera; z where packing has aligned the spine with it).

    All frames have one scale and one window, so that a body's way through the room is seen; absent people (all zero) are not drawn."""
    frames = tuple(int((2 * i + 1) * joints.shape[1] / (2 * k)) for i in range(k))
    there = np.asarray(joints[:, frames].any((0, 2)))  # [k,M]
    up, sign = upwards(joints, layout)
    chosen = np.asarray(joints, np.float64)[[0, up]][:, frames] * np.array([1, sign])[:, None, None, None]
    flat = chosen.transpose(1, 3, 2, 0)[there]  # [people in frames, V, 2]
    low, high = flat.min((0, 1)), flat.max((0, 1))
    size = float(max(high[1] - low[1], (high[0] - low[0]) / 2, 1e-6))
    scale = height * (1 - 2 * MARGIN) / size
    width = max(height // 2, round((high[0] - low[0]) * scale + 2 * MARGIN * height))
    middle = (low + high) / 2
    picture = Image.new("RGB", (width * k, height), PAPER)
    draw = ImageDraw.Draw(picture)
    left = left_side(layout)
    for i in range(k):
        draw.line([(width * i, 0), (width * i, height)], (0xDD, 0xE2, 0xE8))
        for person in np.flatnonzero(there[i]):
            at = chosen[:, i, :, person].T
            x = width * (i + 0.5) + (at[:, 0] - middle[0]) * scale
            y = height / 2 - (at[:, 1] - middle[1]) * scale
            strong = COLOURS[int(person) % len(COLOURS)]
            for child, parent in layout.edges():
                colour = tuple((c + 0xFF) // 2 for c in strong) if child in left else strong
                draw.line([(x[child], y[child]), (x[parent], y[parent])], colour, max(2, height // 75))
    boxes = ((0, 0, width, height),) * k
    return Strip(key, np.asarray(picture), frames, boxes, "full")


def upwards(joints: NDArray[np.float32], layout: Skeleton) -> tuple[int, int]:
    """The axis that the spine lies along, y or z, and its sign."""
    foot, top = layout.spine
    spine = (joints[1:, :, top] - joints[1:, :, foot]).mean((1, 2))
    axis = int(np.abs(spine).argmax())
    return 1 + axis, -1 if spine[axis] < 0 else 1


def left_side(layout: Skeleton) -> set[int]:
    """Joints of the left half of the body."""
    return {v for v, name in enumerate(layout.joints) if "Left" in name}
