"""Who is cropped from which frame: tracks on hand-made boxes, injected boxes, and the detector's real classes with random weights."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import caption_people
from jobs.caption_crop import MARGIN, Person, crops, filled, main_person, meet, moved, partner, smoothed, windows
from jobs.caption_people import injected, whole, yolo
from jobs.caption_record import VideoClip
from shards.errors import InputError

WIDTH, HEIGHT = 1920, 1080
CLIP = VideoClip("k", Path("k.avi"))


def person(x: float, tall: float = 500, score: float = 0.9, floor: float = 900, wide: float = 0.4) -> Person:
    """Somebody who stands with the feet at `floor`, the middle at x."""
    return Person((x - wide * tall / 2, floor - tall, x + wide * tall / 2, floor), score)


def middle(box: tuple[float, ...]) -> float:
    return (box[0] + box[2]) / 2


def inside(box: tuple[int, ...], of: Person) -> bool:
    x1, y1, x2, y2 = of.box
    return box[0] <= x1 + 1 and box[1] <= y1 + 1 and box[2] >= x2 - 1 and box[3] >= y2 - 1


def test_nobody_is_the_whole_frame() -> None:
    assert crops([[]] * 5, WIDTH, HEIGHT) == (((0, 0, WIDTH, HEIGHT),) * 5, "full")
    outside = Person((-300, -300, -100, -100)), Person((float("nan"), 0, 5, 5)), Person((10, 10, 10, 10))
    assert crops([list(outside)] * 3, WIDTH, HEIGHT) == (((0, 0, WIDTH, HEIGHT),) * 3, "full")


def test_seen_in_too_few_frames_is_the_whole_frame() -> None:
    one = [person(900)]
    assert crops([one, [], [], [], one], WIDTH, HEIGHT)[1] == "full"
    assert crops([one, [], one, [], one], WIDTH, HEIGHT)[1] == "person"


def test_one_person_who_stands_is_cropped_with_a_margin() -> None:
    boxes, crop = crops([[person(900 + dx)] for dx in (0, 4, -6, 3, 0)], WIDTH, HEIGHT)
    assert crop == "person" and len(set(boxes)) == 1
    x1, y1, x2, y2 = boxes[0]
    assert (x1, x2) == pytest.approx((794 - MARGIN * 500, 1004 + MARGIN * 500), abs=1)
    assert (y1, y2) == pytest.approx((400 - MARGIN * 500, 900 + MARGIN * 500), abs=1)


def test_a_lost_frame_lies_between_its_neighbours() -> None:
    track = main_person([[person(400)], [], [person(600)], [person(700)], []])
    np.testing.assert_allclose([middle(box) for box in filled(track)], [400, 500, 600, 700, 700])
    boxes, crop = crops([[person(400)], [], [person(600)], [person(700)], [person(800)]], WIDTH, HEIGHT)
    assert crop == "person" and boxes[0][0] < boxes[1][0] < boxes[2][0]


def test_who_walks_is_followed_by_crops_of_one_size() -> None:
    people = [[person(x, tall)] for x, tall in ((300, 400), (600, 420), (900, 440), (1200, 460), (1500, 480))]
    boxes, crop = crops(people, WIDTH, HEIGHT)
    assert crop == "person"
    assert len({(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes}) == 1
    assert all(inside(box, found[0]) for box, found in zip(boxes, people))
    assert boxes[0][2] - boxes[0][0] < 400


def test_who_sits_down_and_who_jumps_is_seen_by_a_crop_that_stands_still() -> None:
    for people in (
        [[person(900, tall)] for tall in (500, 480, 400, 350, 350)],
        [[person(900, floor=y)] for y in (900, 850, 800, 850, 900)],
    ):
        boxes, _ = crops(people, WIDTH, HEIGHT)
        assert len(set(boxes)) == 1 and all(inside(boxes[0], found[0]) for found in people)


def test_the_largest_of_four_persons_is_the_main_one() -> None:
    people = [[person(200, 300), person(900, 520), person(1300, 260), person(1700, 310)] for _ in range(5)]
    assert [p.box for p in main_person(people) if p] == [person(900, 520).box] * 5
    boxes, crop = crops(people, WIDTH, HEIGHT)
    assert crop == "person" and all(box[0] > 700 and box[2] < 1100 for box in boxes)


def test_a_bystander_who_is_larger_or_alone_for_a_frame_is_not_jumped_to() -> None:
    me, other = person(600), person(1500, 600)
    for people in ([[me], [me], [me, other], [me], [me]], [[me], [me], [other], [me], [me]]):
        track = main_person(people)
        assert [p.box if p else None for p in track] == [me.box, me.box, me.box if len(people[2]) == 2 else None, me.box, me.box]
        boxes, crop = crops(people, WIDTH, HEIGHT)
        assert crop == "person" and len(set(boxes)) == 1


def test_who_stays_behind_is_not_who_left() -> None:
    track = main_person(
        [[person(600), person(1700, 350)], [person(600), person(1700, 350)], [person(600), person(1700, 350)], [person(1700, 350)]]
    )
    assert [p is not None and p.box == person(600).box for p in track] == [True, True, True, False]


def test_order_and_doubles_of_a_detector_do_not_matter() -> None:
    people = [[person(600), person(1400, 350), person(602, 505, score=0.4)] for _ in range(5)]
    assert crops(people, WIDTH, HEIGHT)[0] == crops([found[::-1] for found in people], WIDTH, HEIGHT)[0]


def test_two_who_shake_hands_are_cropped_together() -> None:
    people = [[person(600 + step), person(1300 - step, 480)] for step in (0, 120, 240, 240, 120)]
    boxes, crop = crops(people, WIDTH, HEIGHT)
    assert crop == "union"
    assert all(inside(box, p) for box, found in zip(boxes, people) for p in found)
    assert len({(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes}) == 1


def test_the_other_one_may_be_lost_for_a_frame() -> None:
    people = [[person(800), person(1000)], [person(800)], [person(800), person(1000)]]
    boxes, crop = crops(people, WIDTH, HEIGHT)
    assert crop == "union" and all(inside(box, person(1000)) for box in boxes)


def test_who_stands_far_or_behind_takes_no_part() -> None:
    main = [person(800)] * 3
    assert partner([[p, person(1400, 490)] for p in main], list(main)) is None
    assert partner([[p, person(850, 200, floor=650)] for p in main], list(main)) is None
    found = partner([[p, person(1400, 490), person(950, 400)] for p in main], list(main))
    assert found is not None and [p.box for p in found if p] == [person(950, 400).box] * 3


def test_a_second_box_around_the_same_person_is_nobody_else() -> None:
    people = [[person(800), Person((720, 405, 890, 700), 0.6)] for _ in range(5)]
    boxes, crop = crops(people, WIDTH, HEIGHT)
    assert crop == "person" and boxes == crops([found[:1] for found in people], WIDTH, HEIGHT)[0]
    hug = [[person(800), person(x, 480)] for x in (1300, 1100, 830, 830, 1100)]
    boxes, crop = crops(hug, WIDTH, HEIGHT)
    assert crop == "union" and inside(boxes[1], person(1100, 480))


def test_meeting_and_moving_are_measured_in_body_heights() -> None:
    assert meet(person(800), person(1000)) and meet(person(800), person(1090)) and not meet(person(800), person(1110))
    assert moved(person(100), person(600)) == pytest.approx(1)
    assert moved(person(100), person(100)) == 0


def test_one_frame_and_a_person_larger_than_the_frame() -> None:
    boxes, crop = crops([[Person((-50, -80, 2500, 1500))]], WIDTH, HEIGHT)
    assert (boxes, crop) == (((0, 0, WIDTH, HEIGHT),), "person")


def test_no_crop_is_a_thread() -> None:
    boxes, _ = crops([[Person((10, 100, 14, 1000))]], WIDTH, HEIGHT)
    assert boxes[0][2] - boxes[0][0] >= 0.25 * 1080 - 1


@given(
    st.lists(
        st.lists(st.tuples(*[st.floats(-200, 900)] * 4, st.floats(0, 1)), max_size=4),
        min_size=1,
        max_size=8,
    )
)
def test_crops_lie_in_the_frame_whatever_is_found(found: list[list[tuple[float, ...]]]) -> None:
    boxes, crop = crops([[Person(tuple(values[:4]), values[4]) for values in one] for one in found], 640, 480)  # type: ignore[arg-type]
    assert len(boxes) == len(found) and crop in ("person", "union", "full")
    assert all(0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 480 for x1, y1, x2, y2 in boxes)
    assert len({(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes}) == 1


def test_smoothing_keeps_what_is_straight() -> None:
    path = np.stack([np.arange(5.0), np.full(5, 3.0)], 1)
    np.testing.assert_allclose(smoothed(path)[1:-1], path[1:-1])
    zigzag = np.array([[0.0, 0], [10, 0], [0, 0], [10, 0]])
    assert np.ptp(smoothed(zigzag)[:, 0]) < 6
    assert windows(np.array([[10.0, 10, 20, 30]]), 0, 100, 100) == ((10, 10, 20, 30),)


def frames(count: int, width: int = 320, height: int = 180) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (height, width, 3), np.uint8) for _ in range(count)]


def test_injected_boxes_are_found_by_key_and_frame(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    boxes = [[0, 0, 9, 9, 1], [2, 2, 8, 8, 0.7]]
    lines = [("o", 3, [[5, 5, 9, 9, 1]]), ("k", 3, [[1, 2, 30, 40, 0.5]]), ("k", 9, []), ("k", 10, boxes)]
    path.write_text("\n\n".join(json.dumps({"key": key, "frame": frame, "boxes": boxes}) for key, frame, boxes in lines))
    detector = injected(path)
    assert detector(CLIP, [3, 9, 10, 11], []) == [[Person((1, 2, 30, 40), 0.5)], [], [Person((0, 0, 9, 9)), Person((2, 2, 8, 8), 0.7)], []]
    assert detector(VideoClip("unknown", Path("u.avi")), [3], []) == [[]]
    assert detector.name.startswith("boxes boxes.jsonl sha256:")
    assert (whole().name, whole()(CLIP, [1, 2], [])) == ("none", [[], []])


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '{"key": "k", "frame": 1}',
        '{"key": "k", "frame": "1", "boxes": []}',
        '{"key": "k", "frame": 1, "boxes": [[1, 2, 3, 4]]}',
        '{"key": "k", "frame": 1, "boxes": [[1, 2, 3, NaN, 1]]}',
        '{"key": "k", "frame": 0, "boxes": []}',
    ],
)
def test_injected_boxes_that_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.jsonl").write_text('{"key": "k", "frame": 0, "boxes": []}\n' + line + "\n")
    with pytest.raises(InputError, match=r"boxes\.jsonl: line 2: "):
        injected(tmp_path / "boxes.jsonl")
    (tmp_path / "apart.jsonl").write_text("".join(f'{{"key": "{key}", "frame": 0, "boxes": []}}\n' for key in "aba"))
    with pytest.raises(InputError, match="line 3: a comes again"):
        injected(tmp_path / "apart.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        injected(tmp_path / "absent.jsonl")


@pytest.fixture(scope="module")
def library() -> Any:
    """ultralytics, as the stage imports it."""
    return caption_people.ultralytics()


@pytest.fixture(scope="module")
def eager(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of the smallest YOLOv5u: random weights, but sure that everything is a person."""
    torch = pytest.importorskip("torch")
    file = tmp_path_factory.mktemp("weights") / "yolov5nu.pt"
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = library.YOLO("yolov5nu.yaml", task="detect")
        for head in network.model.model[-1].cv3:
            head[-1].bias[caption_people.PERSON] = 4.0
    network.save(file)
    return file


@pytest.fixture
def nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nothing_is_written")
def test_yolo_gives_boxes_in_pixels_of_the_frame(eager: Path) -> None:
    detector = yolo(str(eager))
    assert detector.name.startswith("yolov5nu sha256:")
    found = detector(CLIP, [0, 1], frames(2))
    assert len(found) == 2 and all(found)
    for one in found[0]:
        x1, y1, x2, y2 = one.box
        assert 0 <= x1 <= x2 <= 320 and 0 <= y1 <= y2 <= 180 and caption_people.CONFIDENCE <= one.score <= 1
    assert max(one.box[2] for one in found[0]) > 250


def test_yolo_with_random_weights_finds_nobody(library: Any) -> None:
    network = library.YOLO("yolov5nu.yaml", task="detect")
    assert caption_people.Yolo(network, "random", "cpu")(CLIP, [0], frames(1)) == [[]]


def test_pictures_reach_the_network_as_blue_green_red() -> None:
    class Spy:
        def predict(self, pictures: list[np.ndarray], **settings: Any) -> list[Any]:
            self.pictures, self.settings = pictures, settings
            return []

    spy, picture = Spy(), frames(1)
    assert caption_people.Yolo(spy, "spy", "cpu")(CLIP, [0], picture) == []
    np.testing.assert_array_equal(spy.pictures[0], picture[0][..., ::-1])
    assert {name: spy.settings[name] for name in ("imgsz", "rect", "conf", "classes")} == {
        "imgsz": 640,
        "rect": False,
        "conf": 0.25,
        "classes": [0],
    }


def test_weights_that_are_missing_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    monkeypatch.setenv("ACSAR_ASSETS", str(tmp_path / "assets"))
    with pytest.raises(InputError, match=r"yolov5mu is neither a path.*(?s:.)*fetch_assets"):
        yolo()
    (tmp_path / "model.yaml").write_text("nc: 80\n")
    with pytest.raises(InputError, match=r"takes a \.pt file"):
        yolo(str(tmp_path / "model.yaml"))
    for content in (b"", b"not a model", np.random.default_rng(0).bytes(3000)):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.pt: no weights that ultralytics reads safely"):
            yolo(str(tmp_path / "bad.pt"))
    assert library.settings["sync"] is False


class _Runs:
    """Something that runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_weight_file_runs_no_code(tmp_path: Path, library: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"model": _Runs(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil\.pt: no weights"):
        yolo(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_detector_of_other_things_is_refused(eager: Path, library: Any, tmp_path: Path) -> None:
    network = library.YOLO(eager, task="detect")
    network.model.names = {0: "cat", 1: "dog"}
    network.save(tmp_path / "cats.pt")
    with pytest.raises(InputError, match="class 0 is 'cat', not person"):
        yolo(str(tmp_path / "cats.pt"))
