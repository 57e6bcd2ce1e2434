"""Strips: what is cropped and pasted, again from a record, of real clips and of the synthetic set's videos; contact sheets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.caption import Caption
from jobs.caption_people import injected, whole
from jobs.caption_record import CaptionRecord, Strip, VideoClip
from jobs.caption_strip import contact_sheet, make_strip, pasted, strip_again
from jobs.caption_videos import find_clips
from shards.actions import ACTIONS
from shards.errors import InputError
from shards.synthetic import write_synthetic
from tests.films import film, number_of

SQUATS = [
    {"frame": 6, "boxes": [[285, 315, 650, 1060, 0.9]]},
    {"frame": 19, "boxes": [[230, 165, 640, 1060, 0.9]]},
    {"frame": 32, "boxes": []},
    {"frame": 45, "boxes": [[190, 150, 500, 1060, 0.9]]},
    {"frame": 58, "boxes": [[235, 410, 600, 1060, 0.9], [20, 530, 90, 640, 0.3]]},
]
"""Boxes by eye of the person in five frames of the real clip, with one frame lost and one thing that is no person."""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "raw"
    write_synthetic(out, seed=1, subjects=1, actions=7, cameras=(2,), frames=(20, 20), videos=True)
    return out


def test_frames_go_from_left_to_right(tmp_path: Path) -> None:
    clip = VideoClip("k", film(tmp_path / "k.avi", 50))
    strip = make_strip(clip, 5, whole(), height=96)
    assert (strip.key, strip.crop, strip.frames) == ("k", "full", (5, 15, 25, 35, 45))
    assert strip.boxes == ((0, 0, 64, 48),) * 5 and strip.image.shape == (96, 5 * 128, 3) and strip.image.dtype == np.uint8
    assert [number_of(part) for part in np.split(strip.image, 5, 1)] == list(strip.frames)
    assert len(make_strip(clip, 3, whole()).frames) == 3 and len(make_strip(clip, 8, whole()).frames) == 8


def test_a_box_is_what_is_in_the_strip(tmp_path: Path) -> None:
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[20:60, 150:190] = (10, 200, 30)
    image = pasted([frame, frame], [(150, 20, 190, 60), (110, 20, 190, 60)], 80)
    assert image.shape == (80, 80 + 160, 3)
    assert (image[5:75, 5:75] == (10, 200, 30)).all()
    assert not image[:, 85:150].any() and (image[5:75, 165:235] == (10, 200, 30)).all()


def test_a_wide_picture_makes_no_endless_strip() -> None:
    assert pasted([np.zeros((20, 2000, 3), np.uint8)], [(0, 0, 2000, 20)], 448).shape == (18, 1792, 3)


def test_a_clip_of_one_frame(tmp_path: Path) -> None:
    strip = make_strip(VideoClip("k", film(tmp_path / "k.mp4", 1, "libx264")), 5, whole(), height=48)
    assert strip.frames == (0,) * 5 and strip.image.shape == (48, 320, 3)


def test_what_is_no_video_says_why(tmp_path: Path) -> None:
    (tmp_path / "k.avi").write_bytes(b"")
    with pytest.raises(InputError) as error:
        make_strip(VideoClip("k", tmp_path / "k.avi"), 5, whole())
    assert error.value.reason == "unreadable video"


@pytest.mark.parametrize("action", range(1, 8))
def test_strips_of_rendered_videos_hold_all_who_act(action: int, rendered: Path) -> None:
    clip = find_clips(rendered / "videos")[action - 1]
    detector = injected(rendered / "boxes.jsonl")
    strip = make_strip(clip, 5, detector)
    assert strip.key.endswith(f"A{action:03d}") and strip.image.shape[0] == 448
    assert strip.crop == ("union" if ACTIONS[action - 1].pair else "person")
    for box, people in zip(strip.boxes, detector(clip, strip.frames, [])):
        for x1, y1, x2, y2 in (person.box for person in people):
            assert box[0] <= x1 + 1 and box[1] <= y1 + 1 and box[2] >= x2 - 1 and box[3] >= y2 - 1
    shirt = (np.abs(strip.image.astype(int) - (52, 96, 168)).sum(2) < 60).any(0)
    assert all(part.any() for part in np.array_split(shirt, 5))


def test_mirror_images_are_turned_frame_by_frame(rendered: Path, tmp_path: Path) -> None:
    clip, boxes = find_clips(rendered / "videos")[0], injected(rendered / "boxes.jsonl")
    plain, turned = make_strip(clip, 5, boxes), make_strip(clip, 5, boxes, mirrored=True)
    parts = [np.split(strip.image, 5, axis=1) for strip in (plain, turned)]
    assert (turned.frames, turned.boxes, turned.mirrored, plain.mirrored) == (plain.frames, plain.boxes, True, False)
    for left, right in zip(*parts, strict=True):
        np.testing.assert_array_equal(left[:, ::-1], right)
    again = strip_again(clip, turned.frames, turned.boxes, turned.crop, mirrored=True)
    np.testing.assert_array_equal(again.image, turned.image)
    job = Caption(out=tmp_path / "out")
    assert job.mirrors(clip.key) and not job.mirrors("somebody-waves")
    assert not replace(job, mirror="no").mirrors(clip.key) and replace(job, mirror="yes").mirrors("somebody-waves")


def test_a_strip_again_from_its_record(rendered: Path) -> None:
    clip = find_clips(rendered / "videos")[1]
    strip = make_strip(clip, 5, injected(rendered / "boxes.jsonl"))
    record = CaptionRecord(strip.key, "text", "vlm", "c", "m", frames=strip.frames, boxes=strip.boxes, crop=strip.crop)
    read = CaptionRecord.of(record.as_json(), "here")
    again = strip_again(clip, read.frames, read.boxes, strip.crop)
    assert np.array_equal(again.image, strip.image)
    assert (again.key, again.frames, again.boxes, again.crop) == (strip.key, strip.frames, strip.boxes, strip.crop)
    with pytest.raises(InputError, match="belongs to another video"):
        strip_again(clip, strip.frames, ((0, 0, 4000, 10),) * 5, "person")
    with pytest.raises(InputError, match="ends before frame 4000"):
        strip_again(clip, (4000,), ((0, 0, 40, 10),), "person")


def test_a_contact_sheet(tmp_path: Path, rendered: Path) -> None:
    clips = find_clips(rendered / "videos")
    rows: list[tuple[str, Strip | str]] = [(clip.key, make_strip(clip, 5, whole())) for clip in clips[:2]]
    rows += [("bad\x1b[31m\nkey", "unreadable video\t<b>"), ("日本", "no")]
    contact_sheet(rows, tmp_path / "sheet.png")
    contact_sheet([], tmp_path / "empty.png")
    contact_sheet(rows[:1], tmp_path / "one.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    one = np.asarray(Image.open(tmp_path / "one.png"))
    assert len(one) < len(sheet) and np.array_equal(sheet[:100], one[:100])
    assert np.ptp(sheet[-60:].reshape(-1, 3), axis=0).max() > 100  # the reasons are written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.png", "one.png", "sheet.png"]


@pytest.mark.realdata
def test_a_real_clip_with_injected_boxes(real_data: Path, tmp_path: Path) -> None:
    import json

    (tmp_path / "boxes.jsonl").write_text("\n".join(json.dumps({"key": "pose_squats", **line}) for line in SQUATS))
    clips = {clip.key: clip for clip in find_clips(real_data / "video_samples")}
    strip = make_strip(clips["pose_squats"], 5, injected(tmp_path / "boxes.jsonl"))
    assert strip.crop == "person" and strip.frames == (6, 19, 32, 45, 58) and len(set(strip.boxes)) == 1
    for (x1, y1, x2, y2), line in zip(strip.boxes, SQUATS):
        for left, top, right, bottom, score in line["boxes"]:  # type: ignore[attr-defined]
            assert score < 0.5 or (x1 <= left and y1 <= top and x2 >= right and y2 >= bottom)
    pink = (np.abs(strip.image.astype(int) - (225, 20, 100)).sum(2) < 90).mean(0)
    assert all(part.max() > 0.1 for part in np.array_split(pink, 5))  # her shirt is in every fifth
    assert make_strip(clips["pose_1"], 3, injected(tmp_path / "boxes.jsonl")).crop == "full"
