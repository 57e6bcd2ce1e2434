"""Videos: which clips a folder holds, and single frames of a clip, decoded from the key frame before them.

    NTU RGB+D     S001C001P001R001A001_rgb.avi -> key S001C001P001R001A001
    PKU-MMD       untrimmed videos beside a label/ folder: a clip for each line of the label files, keys as shards/pku.py has them
    other folders a clip for each video file, named by key

Frames are numbered as they are shown, from 0. Numbers and the key frame before each come from reading the packets, which decodes nothing.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jobs.caption_record import VideoClip
from shards import pku
from shards.errors import InputError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

Image: TypeAlias = NDArray[np.uint8]
"""[H,W,3] RGB."""

SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
UNREADABLE = "unreadable video"

# What FFmpeg may make of a file: containers only. A play list that calls itself .avi would otherwise open other files and addresses.
_OPTIONS = {"format_whitelist": "avi,mov,matroska,mpeg,asf", "protocol_whitelist": "file"}
_WHOLE = 0.9  # recorders count frames that they dropped, so a few may be missing in a whole file
_LARGEST = 1 << 26  # pixels of a frame, twice what is sold as 8K: a damaged header would have memory for more
_NTU = re.compile(r"(S\d{3}C\d{3}P\d{3}R\d{3}A\d{3})_rgb")


def find_clips(videos: Path) -> list[VideoClip]:
    """Every clip below a folder, sorted by key.

    InputError where there is none, a name cannot be a key (a dot, an unprintable character), two files have one key, or an untrimmed
    video of PKU-MMD has no label file."""
    files = _video_files(videos)
    untrimmed = any(pku.STEM.fullmatch(file.stem) for file in files)
    labels = (pku.label_folder(videos) or pku.label_folder(videos.parent)) if untrimmed else None
    clips: dict[str, VideoClip] = {}
    for file in files:
        for clip in _clips_of(file, labels):
            if clip.key in clips:
                raise InputError(f"{file} and {clips[clip.key].path} are both named {clip.key}; keep one of them below {videos}")
            clips[clip.key] = clip
    if not clips:
        raise InputError(f"{videos}: the label files name no action of the {len(files)} videos; --videos takes a folder of videos")
    return [clips[key] for key in sorted(clips)]


def _video_files(videos: Path) -> list[Path]:
    if not videos.is_dir():
        raise InputError(f"{videos} is no folder; --videos takes a folder of videos")
    files = []
    for folder, folders, names in os.walk(videos, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(folder) / name for name in sorted(names) if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not files:
        raise InputError(f"{videos}: no video in it ({', '.join(SUFFIXES)}); --videos takes a folder of videos")
    return files


def _clips_of(file: Path, labels: Path | None) -> Iterator[VideoClip]:
    """The one clip of a trimmed video, or the labelled ones of an untrimmed video."""
    stem = file.stem
    if pku.STEM.fullmatch(stem):
        if labels is None:
            raise InputError(f"{file}: an untrimmed video of PKU-MMD, but no label/ folder of .txt files in {file.parent} or beside it")
        if not (labels / f"{stem}.txt").is_file():
            raise InputError(f"{labels / stem}.txt: missing, though {file} is there; fetch it or take the video away")
        yield from (VideoClip(key, file, start, stop) for key, _, start, stop in pku.labelled(labels / f"{stem}.txt"))
        return
    match = _NTU.fullmatch(stem)
    key = match[1] if match else stem
    if "." in key or not key.isprintable():
        raise InputError(f"{file}: {key!r} cannot be a key (a dot or an unprintable character); rename the file")
    yield VideoClip(key, file)


def uniform_frames(start: int, stop: int, k: int) -> tuple[int, ...]:
    """The frames in the middle of k equal parts of [start, stop); fewer frames than k: some come twice. ValueError if there is none."""
    if not (start < stop and k > 0):
        raise ValueError(f"{k} frames of {start} to {stop}")
    return tuple(start + (2 * i + 1) * (stop - start) // (2 * k) for i in range(k))


def span(clip: VideoClip) -> tuple[int, int]:
    """[first, last + 1) frame of a clip, counted in the file without decoding.

    InputError (reason "unreadable video") where the file is none that can be read; (reason "truncated") where it ends before the clip."""
    count = _packets(clip.path).count
    if clip.start >= count:
        where = f"{clip.path}: {clip.key} starts at frame {clip.start} of {count}"
        raise InputError(f"{where}; fetch the video again, or mend its label file", reason="truncated")
    return clip.start, count if clip.stop is None else min(clip.stop, count)


def read_frames(clip: VideoClip, numbers: Sequence[int]) -> list[Image]:
    """These frames of the clip's file, upright: turned as the file says that they are to be shown. In the order asked for; repeats allowed.

    InputError (reason "unreadable video") where the file is damaged, ends early, or has no video that FFmpeg knows."""
    wanted = sorted(set(numbers))
    index = _packets(clip.path)
    found: dict[int, Image] = {}
    with _opened(clip.path) as (container, stream):
        at, frame, frames = -1, None, _numbered(container, stream, index)
        for number in wanted:
            key = index.key_before(number)
            if key.shown > max(at, 0):
                container.seek(key.time, stream=stream)
                frames = _numbered(container, stream, index)
            at, frame = next((numbered for numbered in frames if numbered[0] >= number), (-1, None))
            # seeking may go too far, and a file may begin with what cannot be decoded: then the first whole picture from its beginning on
            found[number] = _upright(frame if at == number else _counted(clip.path, index, number))
    return [found[number] for number in numbers]


def _counted(path: Path, index: "_Packets", number: int) -> Any:
    """The frame of that number, or the first after it, decoded from the file's beginning."""
    with _opened(path) as (container, stream):
        for at, frame in _numbered(container, stream, index):
            if at >= number:
                return frame
    raise _unreadable(path, f"it ends before frame {number} of {index.count}")


@dataclass(frozen=True)
class _Key:
    """A key frame: its number and the time stamp that seeking takes."""

    shown: int
    time: int


@dataclass(frozen=True)
class _Packets:
    """How many frames a file has, and its key frames: in order, and by the packet's stamp."""

    count: int
    keys: tuple[_Key, ...]
    by_stamp: dict[int, _Key]

    def key_before(self, number: int) -> _Key:
        """The last key frame at or before that number; the beginning where there is none."""
        at = bisect_right(self.keys, number, key=lambda key: key.shown)
        return self.keys[at - 1] if at else _Key(0, 0)


def _packets(path: Path) -> _Packets:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    return _scanned(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)  # the actions of an untrimmed video come one after the other
def _scanned(path: Path, changed: int, size: int) -> _Packets:
    with _opened(path) as (container, stream):
        packets = [(_stamp(packet), packet.dts, packet.is_keyframe) for packet in container.demux(stream) if packet.size]
        announced = stream.frames  # 0 where the container does not say
        by_presentation = container.format.name.startswith(("mov", "matroska"))  # how these seek; the others by time of decoding
    if not packets:
        raise _unreadable(path, "there is no frame in it")
    if len(packets) < _WHOLE * announced:
        raise _unreadable(path, f"it has {len(packets)} of the {announced} frames that it announces")
    order = sorted(stamp for stamp, _, _ in packets if stamp is not None)
    if len(set(order)) < len(packets):
        return _Packets(len(packets), (), {})  # stamps that tell no frame from another: such a file is read from its beginning
    number = {stamp: i for i, stamp in enumerate(order)}
    by_stamp = {
        stamp: _Key(number[stamp], stamp if by_presentation or decoded is None else decoded)
        for stamp, decoded, key in packets
        if key and stamp is not None
    }
    return _Packets(len(packets), tuple(sorted(by_stamp.values(), key=lambda key: key.shown)), by_stamp)


def _stamp(packet: Any) -> int | None:
    """When a packet's frame is shown. AVI knows the order of decoding only; what FFmpeg puts in its place follows that order."""
    stamp: int | None = packet.dts if packet.pts is None else packet.pts
    return stamp


def _numbered(container: "InputContainer", stream: "VideoStream", index: _Packets) -> Iterator[tuple[int, Any]]:
    """(number, frame) from the next key frame of an open file on."""
    number = None if index.keys else 0
    begun = not index.keys
    for packet in container.demux(stream):
        if number is None:
            key = index.by_stamp.get(_stamp(packet)) if packet.is_keyframe else None  # type: ignore[arg-type]
            if key is None:
                continue
            number = key.shown
        for frame in packet.decode():
            # pictures that refer to what came before the key frame are shown before it; some decoders still give them
            begun = begun or frame.key_frame
            if begun:
                yield number, frame
                number += 1


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """A video file and its first video stream. FFmpeg's errors become InputErrors."""
    import av

    try:
        with av.open(path, options=_OPTIONS) as container:
            if not container.streams.video:
                raise _unreadable(path, "there is no video in it")
            stream = container.streams.video[0]
            if getattr(stream, "codec_context", None) is None:
                raise _unreadable(path, "its codec is unknown to FFmpeg")
            if stream.width * stream.height > _LARGEST:
                raise _unreadable(path, f"it claims frames of {stream.width} x {stream.height}")
            yield container, stream
    except av.FFmpegError as error:
        raise _unreadable(path, error.strerror or str(error)) from None


def _upright(frame: Any) -> Image:
    image: Image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(f"{path}: cannot be read as a video ({why}); fetch it again or take it away", reason=UNREADABLE)
