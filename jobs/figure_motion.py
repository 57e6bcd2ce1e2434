"""Mistakes to look at: each clip that was taken for another class, moving, beside one that the class was right for; GIF, MP4, a sheet."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from acsar import probes
from acsar.skeleton import Skeleton
from jobs.run_folder import write_bytes
from jobs.scores import Scores
from jobs.skeleton_strip import COLOURS, PAPER, left_side, upwards
from shards.performance import FRAMES_PER_SECOND
from shards.render import film

Clip = NDArray[np.float32]
Picture = NDArray[np.uint8]

WIDTH, HEIGHT, HEAD = 300, 320, 46  # pixels of one clip, and of the words above
TURN = 25.0  # degrees that the camera is turned, so that depth is seen
GIF_EVERY, GIF_PAUSE = 2, 70  # every other frame, milliseconds: GIFs know hundredths of a second only
POSES = 6  # of a clip, on the sheet
_FINER = 2  # drawn larger and averaged, so that edges are smooth
_HOW_TO_READ = "above the clip, below one that the taken class is right for; time from left to right, the body's left side paler"
_INK, _FAINT, _RIGHT, _WRONG = (0x22, 0x22, 0x22), (0xDD, 0xE2, 0xE8), (0x00, 0x72, 0xB2), (0xB0, 0x4A, 0x12)


@dataclass(frozen=True)
class Mistake:
    """A test clip whose highest score is another class's: the probability of that class and of its own, and `like`: the clip of the taken
    class that was recognised with the highest probability ("" where none was)."""

    key: str
    true: str
    taken: str
    taken_probability: float
    true_probability: float
    like: str
    like_probability: float


@dataclass(frozen=True)
class Row:
    """A mistake with the joints [C,T,V,M] of its clip and of the clip that it is like (None where there is none)."""

    mistake: Mistake
    clip: Clip
    like: Clip | None


def mistakes(streams: Sequence[Scores], names: Sequence[str], most: int) -> list[Mistake]:
    """The surest mistakes of the fused streams, rows of one order; of each pair (true class, taken class) only the surest, so that they
    differ. Probabilities are the mean of the streams' softmax; of equals the first key."""
    first = streams[0]
    chances = probes.fuse_scores([scores.scores for scores in streams], [1 / len(streams)] * len(streams))
    best, taken = chances.max(1)
    order = torch.argsort(best, descending=True, stable=True).tolist()
    labels = first.labels.tolist()
    typical: dict[int, int] = {}
    for i in order:
        if int(taken[i]) == labels[i]:
            typical.setdefault(labels[i], i)
    found: dict[tuple[int, int], Mistake] = {}
    for i in order:
        pair = (labels[i], int(taken[i]))
        if pair[0] == pair[1] or pair in found or len(found) == most:
            continue
        like = typical.get(pair[1])
        told = (names[pair[0]], names[pair[1]], float(best[i]), float(chances[i, pair[0]]))
        found[pair] = Mistake(first.keys[i], *told, "" if like is None else first.keys[like], 0.0 if like is None else float(best[like]))
    return list(found.values())


class View:
    """A camera that stays where it is for a whole clip: joints [C,T,V,M] seen from the front, a little from the side, upwards as the spine
    stands. People that are absent (all zero) are not drawn."""

    def __init__(self, joints: Clip, layout: Skeleton, width: int = WIDTH, height: int = HEIGHT) -> None:
        up, sign = upwards(joints, layout)
        away, turn = joints[2] if up == 1 else -joints[1], np.deg2rad(TURN)
        x = np.cos(turn) * joints[0] + np.sin(turn) * away
        self._depth = np.cos(turn) * away - np.sin(turn) * joints[0]
        self._at = np.stack([x, -sign * joints[up]], -1)  # [T,V,M,2]
        self._there: NDArray[np.bool_] = np.any(joints, axis=(0, 2))  # [T,M]
        self._layout, self._left = layout, left_side(layout)
        seen = self._at.transpose(0, 2, 1, 3)[self._there]  # [people in frames, V, 2]
        low, high = (seen.min((0, 1)), seen.max((0, 1))) if len(seen) else (np.zeros(2), np.ones(2))
        self.size = (width, height)
        self._scale = _FINER * 0.84 * float(min(width / max(high[0] - low[0], 1e-6), height / max(high[1] - low[1], 1e-6)))
        self._middle = (low + high) / 2
        head = layout.joints.index("Head")
        neck = np.linalg.norm(joints[:, :, head] - joints[:, :, layout.parent[head]], axis=0)[self._there]
        self._head = 0.55 * float(np.median(neck)) if len(neck) else 0.0  # one size: a sensor's jitter makes no head grow

    def frame(self, t: int) -> Image.Image:
        """Frame t; after the last one, the last one stays."""
        t = min(t, len(self._at) - 1)
        width, height = (_FINER * side for side in self.size)
        picture = Image.new("RGB", (width, height), PAPER)
        draw = ImageDraw.Draw(picture)
        people = [m for m in range(self._there.shape[1]) if self._there[t, m]]
        for m in sorted(people, key=lambda m: -float(self._depth[t, :, m].mean())):
            at = (self._at[t, :, m] - self._middle) * self._scale + (width / 2, height / 2)
            self._person(draw, at, COLOURS[m % len(COLOURS)])
        return picture.reduce(_FINER)

    def _person(self, draw: ImageDraw.ImageDraw, at: NDArray[np.floating], strong: tuple[int, int, int]) -> None:
        """Bones of the layout, the left side lighter; a ball for the head."""
        thick = max(3, round(self.size[1] * _FINER / 64))
        pale = (strong[0] // 2 + 0x80, strong[1] // 2 + 0x80, strong[2] // 2 + 0x80)
        for child, parent in sorted(self._layout.edges(), key=lambda edge: edge[0] not in self._left):
            colour = pale if child in self._left else strong
            draw.line([tuple(at[child]), tuple(at[parent])], colour, thick)
            for x, y in (at[child], at[parent]):
                draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), colour)
        x, y = at[self._layout.joints.index("Head")]
        size = max(self._head * self._scale, 1.4 * thick)
        draw.ellipse((x - size, y - size, x + size, y + size), strong)


def animated(row: Row, layout: Skeleton) -> list[Image.Image]:
    """The frames of a mistake: its clip at the left, at the right the clip of the taken class; a bar below tells the time."""
    mistake = row.mistake
    sides = [(View(row.clip, layout), row.clip.shape[1], "was: " + mistake.true, f"own class {mistake.true_probability:.0%}", _INK)]
    words = (f"taken for: {mistake.taken}", f"with {mistake.taken_probability:.0%}")
    if row.like is None:
        sides.append((View(row.clip[:, :1] * 0, layout), 1, *words, _WRONG))
    else:
        shown = f"{words[1]}; here a clip that is one ({mistake.like_probability:.0%})"
        sides.append((View(row.like, layout), row.like.shape[1], words[0], shown, _WRONG))
    length = max(count for _, count, *_ in sides)
    head = Image.new("RGB", (2 * WIDTH, HEAD), (255, 255, 255))
    draw = ImageDraw.Draw(head)
    for i, (_, _, title, below, colour) in enumerate(sides):
        draw.text((WIDTH * i + 10, 5), fitted(title, 15, WIDTH - 20), colour, font(15))
        draw.text((WIDTH * i + 10, 26), fitted(below, 11, WIDTH - 20), (0x55, 0x55, 0x55), font(11))
    frames = []
    for t in range(length):
        picture = Image.new("RGB", (2 * WIDTH, HEAD + HEIGHT), (255, 255, 255))
        picture.paste(head, (0, 0))
        draw = ImageDraw.Draw(picture)
        for i, (view, count, *_) in enumerate(sides):
            picture.paste(view.frame(t), (WIDTH * i, HEAD))
            done = min(t + 1, count) / count
            colour = _FAINT if done < 1 else (0xBB, 0xBB, 0xBB)
            draw.rectangle((WIDTH * i, HEAD + HEIGHT - 4, WIDTH * i + done * (WIDTH - 2), HEAD + HEIGHT), colour)
        draw.line([(WIDTH, HEAD), (WIDTH, HEAD + HEIGHT)], (255, 255, 255), 2)
        frames.append(picture)
    return frames


def write_gif(frames: Sequence[Image.Image], path: Path) -> Path:
    """Every other frame, in one palette for all; endless. Whole or not at all."""
    palette = frames[len(frames) // 2].quantize(64, dither=Image.Dither.NONE)
    shown = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames[::GIF_EVERY]]
    buffer = BytesIO()
    pauses = [GIF_PAUSE] * (len(shown) - 1) + [900]
    shown[0].save(buffer, "GIF", save_all=True, append_images=shown[1:], duration=pauses, loop=0, optimize=False, disposal=1)
    write_bytes(path, buffer.getvalue())
    return path


def write_mp4(frames: Sequence[Image.Image], path: Path) -> Path:
    """All frames, 30 a second. Raises ImportError without PyAV."""
    write_bytes(path, film((np.asarray(frame) for frame in frames), frames[0].size, FRAMES_PER_SECOND))
    return path


def can_film() -> bool:
    """Is PyAV there? It comes with the extra `caption`."""
    return find_spec("av") is not None


def png(picture: Image.Image) -> bytes:
    """The bytes of a PNG."""
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def sheet(rows: Sequence[Row], layout: Skeleton, title: str) -> Image.Image:
    """All mistakes on one page: for each its poses, and below those of the clip that it is like."""
    size, line, gap = (112, 128), 20, 16
    block = 2 * line + 2 * size[1] + gap
    page = Image.new("RGB", (2 * gap + POSES * size[0] + 190, 3 * gap + line + block * len(rows)), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    draw.text((gap, gap - 4), fitted(title, 16, page.width - 2 * gap), _INK, font(16))
    draw.text((gap, gap + line), _HOW_TO_READ, (0x55, 0x55, 0x55), font(11))
    for i, row in enumerate(rows):
        top, mistake = 3 * gap + line + block * i, row.mistake
        draw.line([(gap, top - gap / 2), (page.width - gap, top - gap / 2)], _FAINT)
        sure = f"{mistake.taken_probability:.0%}, own class {mistake.true_probability:.0%}"
        words = f"{i + 1}. {mistake.true} taken for {mistake.taken}: {sure}"
        draw.text((gap, top), fitted(words, 14, page.width - 2 * gap), _INK, font(14))
        sides = [(row.clip, f"{mistake.key}\nis {mistake.true}", _INK)]
        if row.like is not None:
            sides.append((row.like, f"{mistake.like}\nis {mistake.taken}", _WRONG))
        for j, (clip, said, colour) in enumerate(sides):
            view, level = View(clip, layout, *size), top + line + j * (size[1] + 4)
            for pose in range(POSES):
                page.paste(view.frame(int((2 * pose + 1) * clip.shape[1] / (2 * POSES))), (gap + pose * size[0], level))
            lines = [line for part in said.splitlines() for line in textwrap.wrap(part, 25)][:6]
            for k, text in enumerate(lines):
                draw.text((gap + POSES * size[0] + 10, level + 62 - 9 * len(lines) + 18 * k), fitted(text, 12, 172), colour, font(12))
    return page


def font(size: int) -> ImageFont.FreeTypeFont:
    """The one font that is surely there, in pixels."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def fitted(text: str, size: int, width: int) -> str:
    """The text, cut where it would be wider than so many pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
