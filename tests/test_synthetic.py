"""The synthetic set: a function of the seed, true to its captions, read back by the reader of real files."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from acsar.skeleton import NTU25
from shards import kinect, synthetic
from shards.actions import ACTIONS
from shards.errors import InputError
from shards.kinect import camera, observe, skeleton_text
from shards.kinematics import CHANNELS, INDEX, JOINT, draw_body, forward
from shards.normalise import normalise
from shards.ntu import parse
from shards.performance import Performance, draw_manner, draw_performer, perform
from shards.protocols import parts, served
from shards.sources import open_source
from shards.synthetic import performance, write_synthetic
from shards.wording import LONGEST, caption

SUBJECTS, ACTIONS_WRITTEN = 4, 7
Joints = NDArray[np.float64]
takes = st.tuples(st.integers(0, 5), st.integers(1, 40), st.integers(1, len(ACTIONS)), st.integers(1, 3))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "raw"
    assert write_synthetic(out, seed=3, subjects=SUBJECTS, repetitions=1, actions=ACTIONS_WRITTEN) == SUBJECTS * ACTIONS_WRITTEN * 3
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def said(done: Performance, seed: int = 0) -> str:
    return caption(done, np.random.default_rng(seed))


def number_of(name: str) -> int:
    return [action.name for action in ACTIONS].index(name) + 1


def travel(joints: Joints, joint: str, relative_to: str) -> float:
    """Metres that a joint of the first person covers, seen from another joint."""
    path = joints[:, 0, JOINT[joint]] - joints[:, 0, JOINT[relative_to]]
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def test_bytes_are_a_function_of_the_seed(written: Path, tmp_path: Path) -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - that the global generator is left alone is what is tested
    write_synthetic(tmp_path / "again", seed=3, subjects=SUBJECTS, repetitions=1, actions=ACTIONS_WRITTEN, jobs=2)
    assert contents(tmp_path / "again") == contents(written)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    write_synthetic(tmp_path / "part", seed=3, subjects=1, repetitions=2, cameras=(2,), actions=2)
    alike = contents(tmp_path / "part" / synthetic.FOLDER)
    assert len(alike) == 4
    assert {name for name, data in alike.items() if contents(written / synthetic.FOLDER).get(name) == data} == {
        "S001C002P001R001A001.skeleton",
        "S001C002P001R001A002.skeleton",
    }
    write_synthetic(tmp_path / "other", seed=4, subjects=1, repetitions=1, cameras=(2,), actions=1)
    other = contents(tmp_path / "other" / synthetic.FOLDER)
    assert other["S001C002P001R001A001.skeleton"] != alike["S001C002P001R001A001.skeleton"]


def test_set_is_whole_and_read_like_real_files(written: Path) -> None:
    source = open_source(written)
    samples = source.samples()
    assert (source.benchmark, source.provenance) == ("synthetic", "program")
    assert source.classes == tuple(json.loads((written / "classes.json").read_text())) == tuple(a.name for a in ACTIONS[:ACTIONS_WRITTEN])
    assert {(s.subject, s.label, s.camera, s.replication) for s in samples} == {
        (p, a, c, 1) for p in range(1, SUBJECTS + 1) for a in range(ACTIONS_WRITTEN) for c in (1, 2, 3)
    }
    captions = [json.loads(line) for line in (written / "captions.jsonl").read_text().splitlines()]
    assert [c["key"] for c in captions] == [s.key for s in samples]
    assert {c["provenance"] for c in captions} == {"program"}
    assert "never" in (written / "README.txt").read_text()
    assert served(samples, "synthetic") == ["xsub", "xview", "xset"]
    for protocol in ("xsub", "xview", "xset"):
        train, test = parts(samples, protocol, "synthetic")
        assert {key[-4:] for key in train} == {key[-4:] for key in test}


def test_two_person_clips_have_two_bodies(written: Path) -> None:
    source = open_source(written)
    for sample in source.samples():
        clip = source.read(sample.key)
        pair = ACTIONS[sample.label].pair
        assert clip.by_id is not None
        longest = sorted((len(joints) for _, _, joints in clip.by_id), reverse=True)
        assert 40 <= clip.bodies.shape[1] <= 90
        if pair:
            assert longest[1] > 0.4 * clip.bodies.shape[1]
        else:
            assert len(longest) == 1 or longest[1] < 12
        assert 1.4 < np.median(clip.bodies[:, :, JOINT["SpineMid"], 2][clip.bodies.any((2, 3))]) < 6


@settings(max_examples=15, deadline=None)
@given(takes)
def test_text_says_what_was_recorded(take: tuple[int, int, int, int]) -> None:
    done = performance(*take)
    recording = observe(done.joints, camera(1 + take[1] % 3, 1), np.random.default_rng(take))
    again = parse(skeleton_text(recording).encode(), "text")
    for name in ("frame", "slot", "body_id", "flags", "tracking"):
        np.testing.assert_array_equal(getattr(again, name), getattr(recording, name))
    assert again.frames == recording.frames == len(done.joints)
    np.testing.assert_allclose(again.joints[..., :3], recording.joints[..., :3], atol=6e-6)
    np.testing.assert_allclose(again.joints, recording.joints, atol=6e-3)
    assert np.isfinite(again.joints).all()
    np.testing.assert_allclose(np.linalg.norm(recording.joints[..., 7:11], axis=-1).round(3) % 1, 0)


@settings(max_examples=25, deadline=None)
@given(takes)
def test_figures_are_rigid_and_stand_on_the_floor(take: tuple[int, int, int, int]) -> None:
    done = performance(*take)
    assert done.joints.shape[1:] == (1 + ACTIONS[take[2] - 1].pair, 25, 3)
    bones = np.linalg.norm(done.joints - done.joints[:, :, NTU25.parent], axis=-1)
    np.testing.assert_allclose(bones, np.broadcast_to(bones[:1], bones.shape), atol=1e-9)
    feet = done.joints[:, :, [JOINT["AnkleLeft"], JOINT["AnkleRight"]], 1]
    assert feet.min() > 0.05
    assert done.joints[..., 1].max() < 2.7
    steps = np.abs(np.diff(done.joints, axis=0)).max((0, 1, 3))
    assert steps.max() < 0.8, "no joint jumps between two frames"
    assert steps[JOINT["SpineBase"]] < 0.25


def test_subjects_differ_in_their_limbs_and_keep_them() -> None:
    bones = [np.linalg.norm((j := performance(0, p, a, 1).joints[0, 0]) - j[list(NTU25.parent)], axis=-1) for p in (1, 2) for a in (1, 3)]
    np.testing.assert_allclose(bones[0], bones[1])
    np.testing.assert_allclose(bones[2], bones[3])
    assert np.abs(bones[0] - bones[2]).max() > 0.01


def test_channels_do_what_they_are_called() -> None:
    body = draw_body(np.random.default_rng(0))

    def pose(**channels: float) -> Joints:
        angles = np.zeros((2, len(CHANNELS)))
        for name, value in channels.items():
            angles[1, INDEX[name.replace("_", ".")]] = value
        return forward(body, angles)[1]

    still = pose()
    assert still[JOINT["Head"], 1] > 0.85 * body.height
    assert still[JOINT["HandRight"], 0] > 0 > still[JOINT["HandLeft"], 0]
    assert still[JOINT["FootRight"], 2] < still[JOINT["AnkleRight"], 2]
    assert pose(right_lift=90)[JOINT["HandRight"], 0] == pytest.approx(still[JOINT["ShoulderRight"], 0] + np.linalg.norm(
        still[JOINT["HandRight"]] - still[JOINT["ShoulderRight"]]))  # fmt: skip
    assert pose(left_lift=90, left_plane=90)[JOINT["HandLeft"], 2] < -0.5
    assert pose(right_elbow=90, right_plane=90)[JOINT["HandRight"], 2] < -0.2
    assert pose(bend=60)[JOINT["Head"], 2] < -0.2
    assert pose(lean=30)[JOINT["Head"], 0] > 0.1
    assert pose(turn=40)[JOINT["ShoulderRight"], 2] < -0.05
    sitting = pose(right_swing=85, left_swing=85, right_knee=85, left_knee=85)
    assert sitting[JOINT["SpineBase"], 1] < 0.65 * still[JOINT["SpineBase"], 1]
    np.testing.assert_allclose(sitting[JOINT["AnkleLeft"]], still[JOINT["AnkleLeft"]], atol=0.03)
    assert pose(rise=0.1)[JOINT["AnkleLeft"], 1] - still[JOINT["AnkleLeft"], 1] == pytest.approx(0.1 * body.height)


@pytest.mark.parametrize("name", ["throw", "handshaking", "kicking something", "put on jacket", "walking apart"])
def test_left_handed_performance_is_the_mirror_image(name: str) -> None:
    action = ACTIONS[number_of(name) - 1]
    people = [draw_performer(np.random.default_rng(seed)) for seed in range(1 + action.pair)]
    manner = draw_manner(action, people[0], np.random.default_rng(1), np.random.default_rng(2))
    right, left = (
        perform(action, replace(manner, side=side), people, np.random.default_rng(1), np.random.default_rng(2))
        for side in ("right", "left")
    )
    between = lambda x: np.linalg.norm(x[..., :, None, :] - x[..., None, :, :], axis=-1)
    np.testing.assert_allclose(between(left.joints), between(right.joints[:, :, NTU25.mirror]), atol=1e-9)
    hands = ("HandRight", "HandLeft") if name != "kicking something" else ("FootRight", "FootLeft")
    near, far = (travel(right.joints, joint, "SpineBase") for joint in hands)
    assert travel(left.joints, hands[1], "SpineBase") == pytest.approx(near)
    assert near > 1.3 * far or name in ("put on jacket", "walking apart")
    other = {"right": "left", "left": "right"}
    assert re.sub("right|left", lambda found: other[found.group()], said(right)) == said(left)


def test_captions_name_the_limb_that_moves_most() -> None:
    seen = {"hand": 0, "foot": 0}
    for subject in range(1, 13):
        for number, action in enumerate(ACTIONS, 1):
            done = performance(1, subject, number, 1)
            for limb, root, words in (("Hand", "SpineShoulder", "hand|arm|fist|elbow|forearm"), ("Foot", "SpineBase", "foot|leg|knee")):
                right, left = (travel(done.joints, limb + side, root) for side in ("Right", "Left"))
                side = "right" if right > left else "left"
                if max(right, left) > 2.5 * min(right, left) and max(right, left) > 1 and not action.name.startswith("walking"):
                    seen[limb.lower()] += 1
                    assert re.search(rf"\b{side} ({words})\b", said(done)), (action.name, said(done))
    assert seen["hand"] > 40
    assert seen["foot"] > 10


def test_captions_count_what_happens() -> None:
    for subject in range(1, 25):
        jump = performance(2, subject, number_of("jump up"), 1)
        airborne = jump.joints[:, 0, [JOINT["AnkleLeft"], JOINT["AnkleRight"]], 1].min(1) > jump.joints[0, 0, JOINT["AnkleLeft"], 1] + 0.06
        leaps = int((np.diff(np.concatenate([[0], airborne.astype(int)])) == 1).sum())
        assert leaps == jump.manner.count
        assert {1: "once", 2: "twice"}[leaps] in said(jump)


def test_captions_tell_tempo_extent_and_distance() -> None:
    action, people = ACTIONS[number_of("handshaking") - 1], [draw_performer(np.random.default_rng(seed)) for seed in (5, 6)]
    manner = draw_manner(action, people[0], np.random.default_rng(1), np.random.default_rng(2))
    texts: dict[float, str] = {}
    for tempo in (0.7, 1.0, 1.4):
        slow = perform(action, replace(manner, tempo=tempo), people, np.random.default_rng(1), np.random.default_rng(2))
        texts[tempo] = " ".join(said(slow, seed) for seed in range(20))
        apart = np.linalg.norm(slow.joints[0, 0, JOINT["SpineBase"]] - slow.joints[0, 1, JOINT["SpineBase"]])
        assert apart == pytest.approx(slow.gap, abs=0.15)
    assert re.search("slow|without haste", texts[0.7])
    assert not re.search("quick|brisk|fast", texts[0.7])
    assert re.search("quick|brisk|fast", texts[1.4])
    assert not re.search("slow|without haste|quick|brisk|fast", texts[1.0])


def test_captions_differ_within_a_class_and_are_short() -> None:
    texts = {n: [said(performance(0, p, n, 1), p) for p in range(1, 21)] for n in range(1, len(ACTIONS) + 1)}
    for number, mine in texts.items():
        assert len(set(mine)) >= 15, ACTIONS[number - 1].name
        assert max(len(text.split()) for text in mine) <= LONGEST
        assert all(re.fullmatch(r"[A-Z][A-Za-z ,'.]+\.", text) and "{" not in text and "  " not in text for text in mine), mine
    words = {word for mine in texts.values() for text in mine for word in re.findall("[a-z]+", text.lower())}
    assert 100 < len(words) < 400


def test_hidden_side_is_noisier_and_limb_ends_jitter_most() -> None:
    done = performance(0, 1, 3, 1)
    still = np.repeat(done.joints[:1], 80, axis=0)

    def noise(number: int, joints: str) -> float:
        view = camera(number, 1)
        errors = [observe(still, view, np.random.default_rng(seed)) for seed in range(30)]
        found = [np.abs(np.diff(r.joints[r.slot == 0][:, JOINT[joints], :3], axis=0)).mean() for r in errors]
        return float(np.mean(found))

    assert noise(2, "HandRight") > 2 * noise(2, "SpineMid")
    turned = [noise(number, "ElbowRight") / noise(number, "ElbowLeft") for number in (1, 3)]
    assert max(turned) > 1.2
    assert min(turned) < 1 / 1.2


def test_sensor_loses_bodies_and_frames() -> None:
    done = performance(0, 1, number_of("handshaking"), 1)
    records = [observe(done.joints, camera(2, 1), np.random.default_rng(seed)) for seed in range(80)]
    counts = [np.bincount(r.frame, minlength=r.frames) for r in records]
    assert any((c == 0).any() for c in counts)
    assert any((c == 1).any() for c in counts)
    assert any((c == 3).any() for c in counts)
    assert any((c == 2).all() for c in counts)
    first = [r.body_id[r.slot == 0] for r in records]
    assert any(len(set(ids.tolist())) == 2 for ids in first), "slots change places, ids stay with their body"
    assert all((c > 0).sum() >= 0.8 * len(c) for c in counts)
    assert all(r.body_id.min() > 2**55 for r in records)


def test_classes_can_be_told_apart_but_not_trivially(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "raw", subjects=8, repetitions=1, cameras=(2,))
    source = open_source(tmp_path / "raw")
    samples = source.samples()
    rows = np.zeros((len(samples), 3, 32, 25, 2), np.float32)
    for row, sample in zip(rows, samples):
        x = normalise(source.read(sample.key), "agcn", NTU25)
        row[..., : x.shape[-1]] = x[:, np.linspace(0, x.shape[1] - 1, 32).round().astype(int)]
    flat = rows.reshape(len(rows), -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    train, test = (np.array([s.key in set(keys) for s in samples]) for keys in parts(samples, "xsub", "synthetic"))
    labels = np.array([s.label for s in samples])
    found = labels[train][(flat[test] @ flat[train].T).argmax(1)]
    assert 0.5 < (found == labels[test]).mean() < 0.88


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_synthetic(tmp_path / "raw", subjects=1, repetitions=1, actions=1)
    assert list(tmp_path.iterdir()) == []


def test_progress_and_what_is_there_already(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_synthetic(tmp_path / "raw", subjects=1, repetitions=1, actions=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 6), (6, 6)]
    with pytest.raises(InputError, match="is there already"):
        write_synthetic(tmp_path / "raw")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"actions": 21}, "actions is 21"),
        ({"subjects": 0}, "subjects is 0"),
        ({"cameras": (1, 4)}, "cameras are"),
        ({"cameras": ()}, "cameras are"),
        ({"frames": (90, 40)}, "frames are"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path: Path, wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_synthetic(tmp_path / "raw", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "raw").exists()


def test_cameras_see_the_middle_of_the_stage() -> None:
    for number in kinect.YAW:
        for setup in range(1, synthetic.SETUPS + 1):
            middle = camera(number, setup).view(np.array([0.0, 0.95, 0.0]))
            assert np.abs(middle[:2]).max() < 0.05
            assert 2.5 < middle[2] < 5
    right = np.array([0.5, 1.0, 0.0])
    assert camera(2, 1).view(right)[0] > 0.4
    assert camera(1, 1).view(right)[2] != pytest.approx(camera(3, 1).view(right)[2], abs=0.2)
