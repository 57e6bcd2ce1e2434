"""Rendered videos of the synthetic set: the figures as the colour camera sees them, before a plain wall; and the boxes around them.
Films of any pictures.

What is drawn is what happened on the stage, without the depth camera's noise and losses. Bytes are a function of the arguments (and of
the FFmpeg that encodes them).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.kinect import COLOUR_FOCUS, COLOUR_HEIGHT, COLOUR_WIDTH, Camera, colour_pixels
from shards.kinematics import JOINT, Array, about_y
from shards.performance import FRAMES_PER_SECOND

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Codec = Literal["mpeg4", "libx264"]
SHRINK = 3
WIDTH, HEIGHT = COLOUR_WIDTH // SHRINK, COLOUR_HEIGHT // SHRINK
_FINER = 2  # drawn larger and averaged, so that edges are smooth
_BITS_PER_SECOND = 1_000_000
_WALL_BEHIND = 1.6  # metres behind the middle of the stage

_SHIRTS = ((178, 58, 62), (52, 96, 168), (62, 138, 86), (206, 150, 52), (126, 84, 150), (70, 140, 150), (190, 110, 130))
_TROUSERS = ((58, 60, 70), (84, 72, 60), (40, 58, 92), (96, 100, 104))
_SKIN = ((236, 196, 166), (202, 152, 116), (146, 102, 74))
_HAIR = ((52, 40, 34), (24, 24, 28), (120, 86, 50))
_WALLS = ((206, 208, 202), (190, 200, 210), (212, 202, 190), (198, 208, 196))
_FLOORS = ((150, 142, 132), (136, 138, 142), (158, 146, 128), (142, 136, 128))

_SIDES = ("Right", "Left")
_PARTS: tuple[tuple[str, str, float, str], ...] = (
    ("SpineBase", "SpineMid", 0.125, "shirt"),
    ("SpineMid", "SpineShoulder", 0.135, "shirt"),
    ("ShoulderRight", "ShoulderLeft", 0.07, "shirt"),
    ("HipRight", "HipLeft", 0.095, "trousers"),
    ("SpineShoulder", "Head", 0.05, "skin"),
    *(
        (f"{a}{side}", f"{b}{side}", radius, what)
        for side in _SIDES
        for a, b, radius, what in (
            ("Shoulder", "Elbow", 0.052, "shirt"),
            ("Elbow", "Wrist", 0.042, "skin"),
            ("Wrist", "HandTip", 0.04, "skin"),
            ("Hand", "Thumb", 0.02, "skin"),
            ("Hip", "Knee", 0.078, "trousers"),
            ("Knee", "Ankle", 0.058, "trousers"),
            ("Ankle", "Foot", 0.045, "hair"),
        )
    ),
)
"""From joint, to joint, thickness in metres, colour."""
_HEAD, _FACE = 0.105, 0.035
"""Radius of a head, and how far hair and face lie apart from its middle, in metres."""


@dataclass(frozen=True)
class Look:
    """Colours of one figure."""

    shirt: tuple[int, int, int]
    trousers: tuple[int, int, int]
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]


def look(number: int) -> Look:
    """The colours of a person by number; neighbours differ."""
    lists = (_SHIRTS, _TROUSERS, _SKIN, _HAIR)
    shirt, trousers, skin, hair = (colours[(number * step) % len(colours)] for colours, step in zip(lists, (1, 1, 2, 1)))
    return Look(shirt, trousers, skin, hair)


def video(joints: Array, view: Camera, looks: tuple[Look, ...], room: int = 0) -> bytes:
    """An AVI file (MPEG-4, WIDTH x HEIGHT, 30 frames a second) of joints [T,M,25,3] on the stage, seen by that camera."""
    return _encoded(pictures(joints, view, looks, room), (WIDTH, HEIGHT), FRAMES_PER_SECOND, "avi", "mpeg4", _BITS_PER_SECOND)


def film(frames: Iterable[NDArray[np.uint8]], size: tuple[int, int], rate: int) -> bytes:
    """An MP4 file that browsers play, of pictures [height,width,3] uint8 of an even size (width, height), `rate` a second.

    H.264 where this FFmpeg can, else MPEG-4. Raises ImportError without PyAV."""
    import av

    if "libx264" in av.codecs_available:
        return _encoded(frames, size, rate, "mp4", "libx264", None)
    return _encoded(frames, size, rate, "mp4", "mpeg4", _BITS_PER_SECOND)


def _encoded(frames: Iterable[NDArray[np.uint8]], size: tuple[int, int], rate: int, kind: str, codec: Codec, bits: int | None) -> bytes:
    """A film by one thread, without a word about when and by what it was made; bits a second, None: the codec's own quality."""
    import av

    file = BytesIO()
    with av.open(file, "w", format=kind, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if bits is not None:
            stream.bit_rate = bits
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= int(av.codec.context.Flags.bitexact)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def pictures(joints: Array, view: Camera, looks: tuple[Look, ...], room: int = 0) -> Iterator[NDArray[np.uint8]]:
    """The frames [HEIGHT,WIDTH,3] of joints [T,M,25,3]."""
    behind = _empty_room(view, room)
    for people in view.view(joints):
        picture = behind.copy()
        _draw(picture, people, looks)
        yield np.asarray(picture.reduce(_FINER))


def boxes(joints: Array, view: Camera) -> NDArray[np.float64]:
    """[T,M,4] x1, y1, x2, y2 in pixels of the video around each figure, within the frame."""
    seen = view.view(joints)
    ends = [_pixels(seen[..., [JOINT[a], JOINT[b]], :], radius) for a, b, radius, _ in _PARTS]
    ends.append(_pixels(seen[..., [JOINT["Head"]], :], _HEAD + _FACE))
    low = np.concatenate([xy - r[..., None] for xy, r in ends], -2).min(-2)
    high = np.concatenate([xy + r[..., None] for xy, r in ends], -2).max(-2)
    return np.asarray(np.clip(np.concatenate([low, high], -1), 0, (WIDTH, HEIGHT, WIDTH, HEIGHT)))


def _pixels(points: Array, radius: float) -> tuple[Array, Array]:
    """([...,2], [...]): places and sizes in the video of balls of that radius in metres, at points [...,3] in camera axes."""
    return colour_pixels(points) / SHRINK, radius * COLOUR_FOCUS / SHRINK / np.maximum(points[..., 2], 0.3)


def _empty_room(view: Camera, room: int) -> "Picture":
    """Wall and floor, drawn _FINER times as large."""
    from PIL import Image, ImageDraw

    edge = view.view(np.array([0.0, 0.0, _WALL_BEHIND]) @ about_y(view.yaw).T)
    level = float(_pixels(edge, 0.0)[0][1]) * _FINER
    picture = Image.new("RGB", (WIDTH * _FINER, HEIGHT * _FINER), _WALLS[room % len(_WALLS)])
    ImageDraw.Draw(picture).rectangle((0, level, WIDTH * _FINER, HEIGHT * _FINER), fill=_FLOORS[room % len(_FLOORS)])
    return picture


def _draw(picture: "Picture", people: Array, looks: tuple[Look, ...]) -> None:
    """All figures [M,25,3] in camera axes, the farthest parts first, darker with distance from the figure's middle."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    parts: list[tuple[float, Array, float, Any]] = []
    for person, colours in zip(people, looks):
        middle = float(person[:, 2].mean())
        for a, b, radius, what in _PARTS:
            ends = person[[JOINT[a], JOINT[b]]]
            parts.append((float(ends[:, 2].mean()), ends, radius, _shaded(getattr(colours, what), float(ends[:, 2].mean()) - middle)))
        head, ahead = person[JOINT["Head"]], _ahead(person)
        for offset, colour in ((-_FACE, colours.hair), (_FACE, colours.skin)):
            ball = head + offset * ahead
            parts.append((float(ball[2]), np.stack([ball, ball]), _HEAD, colour))
    for _, ends, radius, colour in sorted(parts, key=lambda part: -part[0]):
        xy, sizes = _pixels(ends, radius)
        size = float(sizes.mean()) * _FINER
        (x1, y1), (x2, y2) = (xy * _FINER).tolist()
        draw.line((x1, y1, x2, y2), fill=colour, width=max(1, round(2 * size)))
        for x, y in ((x1, y1), (x2, y2)):
            draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)


def _ahead(person: Array) -> Array:
    """[3] where the chest faces, of joints [25,3]."""
    across = person[JOINT["ShoulderRight"]] - person[JOINT["ShoulderLeft"]]
    up = person[JOINT["SpineShoulder"]] - person[JOINT["SpineBase"]]
    ahead = np.cross(up, across)
    return np.asarray(ahead / max(float(np.linalg.norm(ahead)), 1e-9))


def _shaded(colour: tuple[int, int, int], farther: float) -> tuple[int, ...]:
    factor = min(1.12, max(0.7, 1 - 0.5 * farther))
    return tuple(min(255, round(value * factor)) for value in colour)
