"""Rendered videos of the synthetic set: bytes by the seed, figures where the boxes are, as long as the clips; the set with them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.caption_videos import find_clips, read_frames, span
from shards import render
from shards.kinect import camera, colour_pixels, observe
from shards.kinematics import JOINT
from shards.sources import open_source
from shards.synthetic import FOLDER, performance, write_synthetic

SET = {"seed": 2, "subjects": 1, "actions": 2, "cameras": (1, 2), "frames": (20, 20)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "raw"
    write_synthetic(out, **SET, videos=True)  # type: ignore[arg-type]
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def boxes_of(folder: Path) -> dict[tuple[str, int], list[list[float]]]:
    lines = [json.loads(line) for line in (folder / "boxes.jsonl").read_text().splitlines()]
    return {(line["key"], line["frame"]): line["boxes"] for line in lines}


def test_bytes_are_a_function_of_the_seed(written: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "again", **SET, videos=True, jobs=2)  # type: ignore[arg-type]
    assert contents(tmp_path / "again") == contents(written)
    write_synthetic(tmp_path / "without", **SET)  # type: ignore[arg-type]
    plain, full = contents(tmp_path / "without"), contents(written)
    assert set(full) - set(plain) == {"boxes.jsonl", *(f"videos/{clip.key}.avi" for clip in find_clips(written / "videos"))}
    assert {name for name in plain if plain[name] != full[name]} == {"README.txt"}


def test_a_set_with_videos_is_read_as_one_without(written: Path) -> None:
    source = open_source(written)
    clips = find_clips(written / "videos")
    assert [clip.key for clip in clips] == [sample.key for sample in source.samples()] and len(clips) == 4
    boxes = boxes_of(written)
    for clip in clips:
        frames = source.read(clip.key).bodies.shape[1]
        assert span(clip) == (0, frames)
        assert [frame for key, frame in boxes if key == clip.key] == list(range(frames))
    persons = {clip.key[-4:]: len(boxes[clip.key, 0]) for clip in clips}
    assert persons == {"A001": 1, "A002": 2}


@pytest.mark.parametrize("action", [2, 5, 16])
def test_boxes_hold_what_is_drawn(action: int) -> None:
    done, view = performance(0, 1, action, 1, (20, 20)), camera(3, 1)
    looks = (render.look(0), render.look(3))
    behind = next(iter(render.pictures(done.joints[:1, :0], view, ()))).astype(int)
    for picture, boxes in zip(render.pictures(done.joints, view, looks), render.boxes(done.joints, view)):
        rows, columns = np.nonzero(np.abs(picture - behind).sum(2) > 20)
        drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        around = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))
        np.testing.assert_allclose(drawn, around, atol=8)
        assert (drawn[0] >= around[0] - 1.5) and (drawn[1] >= around[1] - 1.5)
        assert (drawn[2] <= around[2] + 1.5) and (drawn[3] <= around[3] + 1.5)


def test_a_video_shows_its_pictures(written: Path) -> None:
    clip = find_clips(written / "videos")[1]
    done = performance(2, 1, 2, 1, (20, 20))
    drawn = list(render.pictures(done.joints, camera(1, 1), (render.look(1), render.look(4)), 1))
    for number, image in zip((0, 10), read_frames(clip, (0, 10))):
        assert image.shape == (render.HEIGHT, render.WIDTH, 3)
        assert np.abs(image.astype(int) - drawn[number]).mean() < 4
    assert np.abs(drawn[0].astype(int) - drawn[10]).mean() > 0.1


def test_joints_are_drawn_where_the_skeleton_file_says() -> None:
    done, view = performance(0, 1, 5, 1), camera(2, 1)
    shown = observe(done.joints, view, np.random.default_rng(0))
    chest = shown.joints[:, JOINT["SpineMid"], 5:7] / render.SHRINK
    x1, y1, x2, y2 = render.boxes(done.joints, view)[shown.frame, 0].T
    assert ((x1 < chest[:, 0]) & (chest[:, 0] < x2) & (y1 < chest[:, 1]) & (chest[:, 1] < y2)).mean() > 0.95
    np.testing.assert_allclose(colour_pixels(shown.joints[..., :3]), shown.joints[..., 5:7])


def test_who_is_nearer_is_in_front_and_who_turns_away_shows_hair() -> None:
    one = performance(0, 1, 1, 1).joints[:1]
    view, looks = camera(2, 1), (render.look(0), render.look(1))
    two = np.concatenate([one, one + (0.0, 0.0, 0.6)], 1)
    picture = next(iter(render.pictures(two, view, looks)))
    alone = next(iter(render.pictures(one, view, looks)))
    x, y = np.rint(colour_pixels(view.view(one[0, 0, JOINT["SpineMid"]])) / render.SHRINK).astype(int)
    assert np.array_equal(picture[y, x], alone[y, x])
    hair = replace(looks[0], hair=(255, 0, 0))
    faced = next(iter(render.pictures(one, view, (hair,))))
    away = next(iter(render.pictures(one * (-1, 1, -1), view, (hair,))))
    red = [int((np.abs(image[: y - 20].astype(int) - (255, 0, 0)).sum(2) < 40).sum()) for image in (faced, away)]
    assert red[1] > red[0] + 100


def test_people_look_different() -> None:
    assert len({render.look(number) for number in range(28)}) == 28


def test_a_video_is_not_larger_than_it_must_be(written: Path) -> None:
    sizes = [path.stat().st_size for path in (written / "videos").iterdir()]
    assert max(sizes) < 200_000
    assert not list((written / FOLDER).glob("*.avi"))
