"""The strip of a clip: k frames, cropped around who acts, scaled to one height and pasted left to right; sheets of strips to look at."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from jobs.caption_crop import crops
from jobs.caption_people import Detector
from jobs.caption_record import Box, Crop, Strip, VideoClip
from jobs.caption_videos import Image, read_frames, span, uniform_frames
from shards.errors import InputError
from shards.manifest import write_file

HEIGHT = 448
"""Pixels: the side of a tile of the default captioner."""
_WIDEST = 4
"""Most width of one frame's part of the strip, in heights."""
_NARROWEST, _WIDEST_ROW, _ROW, _LINE, _GAP = 800, 1400, 200, 18, 8


def make_strip(clip: VideoClip, k: int, detector: Detector, height: int = HEIGHT, mirrored: bool = False) -> Strip:
    """k uniform frames of the clip, cropped as jobs/caption_crop.py says. InputError with a reason where the video cannot be read.

    mirrored: the video's pictures are mirror images, and are turned, so that a left hand is one for who looks."""
    numbers = uniform_frames(*span(clip), k)
    frames = read_frames(clip, numbers)
    first = frames[0].shape[:2]
    if any(frame.shape[:2] != first for frame in frames):
        raise InputError(f"{clip.path}: {clip.key}: the picture changes its size; convert the video", reason="unreadable video")
    boxes, crop = crops(detector(clip, numbers, frames), first[1], first[0])
    return Strip(clip.key, pasted(frames, boxes, height, mirrored), numbers, boxes, crop, mirrored)


def strip_again(
    clip: VideoClip, frames: Sequence[int], boxes: Sequence[Box], crop: Crop, height: int = HEIGHT, mirrored: bool = False
) -> Strip:
    """The strip that a record describes, without a detector. InputError where the video cannot be read or is not the one recorded."""
    images = read_frames(clip, frames)
    for image, (x1, y1, x2, y2) in zip(images, boxes, strict=True):
        if not (0 <= x1 < x2 <= image.shape[1] and 0 <= y1 < y2 <= image.shape[0]):
            said = f"{(x1, y1, x2, y2)} does not lie in frames of {image.shape[1]} x {image.shape[0]}"
            raise InputError(f"{clip.path}: the box {said}; the record of {clip.key} belongs to another video")
    return Strip(clip.key, pasted(images, boxes, height, mirrored), tuple(frames), tuple(boxes), crop, mirrored)


def pasted(frames: Sequence[Image], boxes: Sequence[Box], height: int, mirrored: bool = False) -> Image:
    """[height,W,3]: the boxes of the frames, one beside the other, each scaled to that height (less, where one would be too wide), and
    where they are mirror images turned left to right; their order stays."""
    parts = []
    for frame, (x1, y1, x2, y2) in zip(frames, boxes, strict=True):
        scale = min(height / (y2 - y1), _WIDEST * height / (x2 - x1))
        size = (max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale)))
        part = np.asarray(Pillow.fromarray(frame).resize(size, Pillow.Resampling.BICUBIC, (x1, y1, x2, y2), reducing_gap=2.0))
        parts.append(part[:, ::-1] if mirrored else part)
    return np.ascontiguousarray(np.concatenate(parts, 1))


def contact_sheet(rows: Sequence[tuple[str, Strip | str]], path: Path) -> None:
    """A PNG with a row for each (key, strip): the strip, its key, what was cropped, frame numbers; or why there is no strip."""
    pictures = [None if isinstance(strip, str) else _thumbnail(strip) for _, strip in rows]
    heights = [_LINE + _GAP + (picture.height if picture else 0) for picture in pictures]
    width = max([_NARROWEST, *(picture.width for picture in pictures if picture)]) + 2 * _GAP
    sheet = Pillow.new("RGB", (width, sum(heights) + _GAP), (250, 250, 250))
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(13), _GAP
    for (key, strip), picture, height in zip(rows, pictures, heights):
        said = f"no strip: {strip}" if isinstance(strip, str) else _said(strip)
        colour = (170, 20, 20) if isinstance(strip, str) else (170, 90, 0) if strip.crop == "full" else (20, 20, 20)
        draw.text((_GAP, top), _printable(f"{key}   {said}"), colour, font)
        if picture is not None:
            sheet.paste(picture, (_GAP, top + _LINE))
        top += height
    png = BytesIO()
    sheet.save(png, "PNG")
    write_file(path, [png.getvalue()])


def _thumbnail(strip: Strip) -> Pillow.Image:
    picture = Pillow.fromarray(strip.image)
    picture.thumbnail((_WIDEST_ROW, _ROW), Pillow.Resampling.BICUBIC)
    return picture


def _said(strip: Strip) -> str:
    (x1, y1, x2, y2), (high, wide, _) = strip.boxes[0], strip.image.shape
    turned = ", turned" if strip.mirrored else ""
    return f"crop: {strip.crop}{turned}, {x2 - x1} x {y2 - y1} pixels   frames {', '.join(map(str, strip.frames))}   strip {wide} x {high}"


def _printable(text: str) -> str:
    """One line that the sheet's font can draw or mark as missing."""
    return "".join(c if c.isprintable() else "?" for c in text)
