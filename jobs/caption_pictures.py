"""What a clip looks like, for people who judge captions: the strip that the captioner saw, another one of the video, or stick figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from acsar.skeleton import SKELETONS, Skeleton
from jobs.caption_record import CaptionRecord, Crop, Strip, VideoClip
from jobs.skeleton_strip import skeleton_strip
from shards.errors import InputError
from shards.sources import open_source
from shards.stream import PackedSet


@dataclass(frozen=True)
class Pictures:
    """videos  clips by key; root: the folder that records' `video` is relative to
    joints     [C,T,V,M] of a key, where there are skeletons"""

    root: Path | None = None
    videos: Mapping[str, VideoClip] | None = None
    skeletons: "Skeletons | None" = None

    @classmethod
    def of(cls, videos: Path | None, data: Path | None) -> "Pictures":
        """From a folder of videos, and skeletons (packed or raw). InputError where one of them is not what it should be."""
        if videos is None:
            return cls(skeletons=Skeletons.of(data) if data else None)
        from jobs.caption_videos import find_clips

        return cls(videos, {clip.key: clip for clip in find_clips(videos)}, Skeletons.of(data) if data else None)

    def __call__(self, record: CaptionRecord) -> Strip | str:
        """The strip of a record's clip, made as the record says where it says so; or why there is none."""
        try:
            if self.root is not None and self.videos is not None:
                crop = next((crop for crop in get_args(Crop) if crop == record.crop), None)
                if record.video and record.frames and crop:
                    from jobs.caption_strip import strip_again

                    clip = VideoClip(record.key, self.root / record.video)
                    return strip_again(clip, record.frames, record.boxes, crop, mirrored=record.mirrored)
                if record.key in self.videos:
                    from jobs.caption_people import whole
                    from jobs.caption_strip import make_strip

                    return make_strip(self.videos[record.key], 5, whole())
            if self.skeletons is not None:
                return skeleton_strip(record.key, self.skeletons.joints(record.key), self.skeletons.layout)
        except InputError as error:
            return str(error)
        return "neither a video nor a skeleton of it was given"


@dataclass(frozen=True)
class Skeletons:
    """The motion of clips by key, from a packed set or from raw data."""

    layout: Skeleton
    packed: PackedSet | None = None
    raw: Path | None = None

    @classmethod
    def of(cls, data: Path) -> "Skeletons":
        """InputError where there is neither a packed set nor raw data."""
        if (data / "manifest.json").is_file():
            packed = PackedSet.open(data)
            return cls(SKELETONS[packed.manifest["skeleton"]], packed=packed)
        return cls(SKELETONS[open_source(data).skeleton], raw=data)

    def joints(self, key: str) -> NDArray[np.float32]:
        """[C,T,V,M]. InputError for a key that is not there."""
        if self.packed is not None:
            frames: NDArray[np.float32] = self.packed.load([key]).joints[0]
            return frames
        assert self.raw is not None
        return open_source(self.raw).read(key).bodies.transpose(3, 1, 2, 0)
