"""Captioning: clips per second of each of its parts, on one core.

python -m benchmarks.captioning

Rates are clips per second of processor time, so that what else the machine does changes them little. Videos are as NTU RGB+D and PKU-MMD
have them: 1920 x 1080, MPEG-4 in AVI, 30 frames a second, a key frame every 4 seconds; a clip is 3 seconds long.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.table import Row, show
from jobs.caption_people import Yolo, injected, ultralytics, whole
from jobs.caption_record import VideoClip
from jobs.caption_strip import make_strip
from jobs.caption_videos import read_frames, uniform_frames
from shards import render
from shards.kinect import camera
from shards.synthetic import performance, write_synthetic

FRAMES, ROUNDS = 5, 5
CLIP, UNTRIMMED = 90, 1800


def strips() -> list[Row]:
    """Decoding, against decoding every frame up to the last one wanted; persons; whole strips."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [*_decoding(folder), *_detection(folder), *_strips(folder)]


def _decoding(folder: Path) -> list[Row]:
    return [_clip_of(folder, CLIP, "a clip of 3 s"), _clip_of(folder, UNTRIMMED, "the last 3 s of a minute")]


def _clip_of(folder: Path, frames: int, what: str) -> Row:
    """The last CLIP frames of a video."""
    path = _film(folder / f"{frames}.avi", frames)
    clip = VideoClip("k", path, frames - CLIP, frames)
    numbers = uniform_frames(clip.start, frames, FRAMES)
    by_number, plainly = _rate(lambda: read_frames(clip, numbers)), _rate(lambda: _plainly(path, numbers))
    return Row(f"{FRAMES} frames of {what}, 1080p", by_number, "clips/s", plainly, by_number / plainly)


def _film(path: Path, frames: int) -> Path:
    """A 1080p video: somebody who acts, again and again, before a wall with a grain."""
    import av

    joints = performance(0, 1, 5, 1).joints
    grain = np.random.default_rng(0).integers(-12, 12, (1080, 1920, 1))
    turn = []
    for picture in render.pictures(joints, camera(2, 1), (render.look(1),)):
        large = picture.repeat(render.SHRINK, 0).repeat(render.SHRINK, 1)
        turn.append(av.VideoFrame.from_ndarray(np.clip(large + grain, 0, 255).astype(np.uint8), format="rgb24").reformat(format="yuv420p"))
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=30, options={"g": "120"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 1920, 1080, "yuv420p", 12_000_000
        for number in range(frames):
            frame = turn[number % len(turn)]
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _plainly(path: Path, numbers: tuple[int, ...]) -> list[np.ndarray]:
    """The same frames by decoding from the beginning."""
    import av

    with av.open(path) as container:
        kept = []
        for number, frame in enumerate(container.decode(video=0)):
            if number in numbers:
                kept.append(frame.to_ndarray(format="rgb24"))
            if number == numbers[-1]:
                return kept
    raise AssertionError(path)


def _detection(folder: Path) -> list[Row]:
    """Random weights cost what trained ones cost, but for the few boxes that are kept."""
    import torch

    torch.set_num_threads(1)
    detector = Yolo(ultralytics().YOLO("yolov5mu.yaml", task="detect"), "random", "cpu")
    clip = VideoClip("k", folder / f"{CLIP}.avi")
    numbers = uniform_frames(0, CLIP, FRAMES)
    frames = read_frames(clip, numbers)
    return [Row(f"persons in {FRAMES} frames, yolov5mu with random weights", _rate(lambda: detector(clip, numbers, frames)), "clips/s")]


def _strips(folder: Path) -> list[Row]:
    clip = VideoClip("k", folder / f"{CLIP}.avi")
    full = _rate(lambda: make_strip(clip, FRAMES, whole()))
    write_synthetic(folder / "raw", subjects=1, actions=1, cameras=(2,), videos=True)
    small, boxes = VideoClip("S001C002P001R001A001", folder / "raw/videos/S001C002P001R001A001.avi"), injected(folder / "raw/boxes.jsonl")
    return [
        Row(f"strips of {FRAMES} whole frames, 1080p", full, "clips/s"),
        Row(
            f"strips of {FRAMES} crops with injected boxes, {render.WIDTH} x {render.HEIGHT}",
            _rate(lambda: make_strip(small, FRAMES, boxes)),
            "clips/s",
        ),
    ]


def _rate(work: Callable[[], object]) -> float:
    """Times per second of processor time, the median of ROUNDS after one that does not count."""
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return 1 / median(seconds[1:])


def main() -> None:
    """Print the table."""
    show(strips())


if __name__ == "__main__":
    main()
