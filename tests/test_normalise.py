"""Normalisations against the reference outputs, against literal restatements in loops, and their invariances."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from acsar.skeleton import NTU25, UCLA20
from shards.errors import InputError
from shards.normalise import NORMALISATIONS, align, energy, loop_padded, normalise, rotation_between, two_strongest
from shards.ntu import parse_clip
from shards.samples import Clip

DATA = Path(__file__).parent / "data"
Array = NDArray[np.float32]


def figures(persons: int = 1, frames: int = 20, seed: int = 0, joints: int = 25) -> Array:
    """Random bodies [M,T,V,C] that drift."""
    rng = np.random.default_rng(seed)
    still = rng.standard_normal((persons, 1, joints, 3)) * rng.uniform(0.2, 0.6, (persons, 1, 1, 1)) * (0.4, 1, 0.3) + (0, 0, 3)
    return np.asarray(
        still
        + np.cumsum(rng.standard_normal((persons, frames, 1, 3)) * 0.02, 1)
        + rng.standard_normal((persons, frames, joints, 3)) * 0.02,
        np.float32,
    )


@pytest.mark.golden
@pytest.mark.parametrize("name", ["S001C001P001R001A001", "S002C002P003R002A050", "S003C003P008R001A023"])
def test_agcn_is_the_published_preparation(name: str) -> None:
    want = np.load(DATA / "ntu_prep.npz")[f"{name}_normalised"]
    file = DATA / "golden_raw" / f"{name}.skeleton"
    clip = parse_clip(file.read_bytes(), str(file))
    got = normalise(clip, "agcn", NTU25)
    frames, persons = got.shape[1], got.shape[3]
    assert frames == clip.frames and persons == np.any(want, axis=(0, 1, 2)).sum()
    np.testing.assert_allclose(got, want[:, :frames, :, :persons], atol=1e-6)
    # Longer arrays repeat what is valid: our frames say all that the padded ones say.
    again = loop_padded(np.concatenate([clip.bodies, np.zeros_like(clip.bodies)], 1))
    np.testing.assert_array_equal(again[:, :frames], loop_padded(clip.bodies))


def test_reference_values_of_the_alignment() -> None:
    x = (np.sin(0.37 * (np.arange(3 * 12 * 25 * 2) + 1)) + 0.5).astype(np.float32).reshape(3, 12, 25, 2)
    bodies = np.ascontiguousarray(x.transpose(3, 1, 2, 0))
    bodies[0, 0] = bodies[:, 9:] = bodies[1, :4] = bodies[1, 6, 5] = 0
    got = align(loop_padded(bodies), NTU25)
    assert got.sum(dtype=np.float64) == pytest.approx(-560.327453, abs=2e-4)
    assert (got.astype(np.float64) ** 2).sum() == pytest.approx(1793.857277, abs=2e-4)
    np.testing.assert_allclose(got[0, 0, 0], (0.5266856, 0.01950158, -0.71100336), atol=1e-6)
    np.testing.assert_allclose(got[0, 0, 4] - got[0, 0, 8], (-2.432274, 0, 0), atol=1e-6)
    np.testing.assert_allclose(got[1, 0, 0], (0.46950457, 0.04187118, -1.5265696), atol=1e-6)
    np.testing.assert_allclose(got[1, 11, 20], (-1.1026089, -0.03475358, 1.2670717), atol=1e-6)
    np.testing.assert_array_equal(got[0, [8, 11]], got[0, [0, 3]])


def test_reference_value_of_the_energy() -> None:
    body = np.sin(0.21 * (np.arange(5 * 25 * 3) + 1)).reshape(5, 25, 3)
    body[2] = 0
    assert energy(body) == pytest.approx(2.118738644400396, rel=1e-12)  # type: ignore[arg-type]


def test_the_two_bodies_of_most_energy_come_first() -> None:
    bodies = np.concatenate([figures(1, seed=1) * 0.1, figures(1, seed=2), np.zeros((1, 20, 25, 3), np.float32), figures(1, seed=3) * 3])
    order = two_strongest(bodies)
    np.testing.assert_array_equal(order, bodies[[3, 1]])
    assert normalise(Clip(bodies), "none", NTU25).shape == (3, 20, 25, 2)


@pytest.mark.parametrize("seed", range(6))
def test_agcn_equals_a_literal_restatement(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bodies = figures(2, 30, seed)
    for body in bodies:
        start, end = rng.integers(0, 5), rng.integers(20, 31)
        body[:start] = body[end:] = body[12:14] = 0
        body[15, int(rng.integers(25))] = 0
    slow = agcn_slowly(bodies, vertical=seed % 2 == 0)
    got = normalise(Clip(bodies), "agcn" if seed % 2 == 0 else "agcn-noz", NTU25)
    np.testing.assert_allclose(got, slow.transpose(3, 1, 2, 0), atol=2e-6)


def agcn_slowly(bodies: Array, vertical: bool) -> Array:
    """Joint by joint, as the preparation is described."""
    order = sorted(range(len(bodies)), key=lambda m: -energy(bodies[m]))
    s = bodies[order].copy()
    frames = s.shape[1]
    for person in s:
        if not person[0].any():
            kept = [frame.copy() for frame in person if frame.any()]
            person[:] = 0
            person[: len(kept)] = kept
        last = max(t for t in range(frames) if person[t].any()) + 1
        for t in range(last, frames):
            person[t] = person[t % last]
    centre = s[0, :, 1].copy()
    for person in s:
        for t in range(frames):
            for v in range(25):
                person[t, v] = person[t, v] - centre[t] if person[t, v].any() else 0
    for start, end, target in [(0, 1, (0, 0, 1)), (4, 8, (1, 0, 0))][0 if vertical else 1 :]:
        line = (s[0, 0, end] - s[0, 0, start]).astype(np.float64)
        axis, angle = np.cross(line, target), np.arccos(np.dot(line, target) / np.linalg.norm(line))
        a, (b, c, d) = np.cos(angle / 2), -axis / np.linalg.norm(axis) * np.sin(angle / 2)
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c + a * d), 2 * (b * d - a * c)],
                [2 * (b * c - a * d), a * a + c * c - b * b - d * d, 2 * (c * d + a * b)],
                [2 * (b * d + a * c), 2 * (c * d - a * b), a * a + d * d - b * b - c * c],
            ]
        )
        for person in s:
            for t in range(frames):
                for v in range(25):
                    person[t, v] = turn @ person[t, v]
    return s


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.floats(-3, 3)] * 3), st.floats(0, 6.28))
def test_agcn_ignores_where_the_person_stands_and_which_way_it_is_turned(seed: int, shift: tuple[float, float, float], turn: float) -> None:
    bodies = figures(2, 8, seed)
    c, s = np.cos(turn), np.sin(turn)
    for matrix in (np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])):
        moved = np.asarray(bodies @ matrix.T + shift, np.float32)
        if (two_strongest(moved)[0] == moved[0]).all() != (two_strongest(bodies)[0] == bodies[0]).all():
            continue  # energies are taken per axis, so a rotation may swap the persons
        one, two = (normalise(Clip(b), "agcn", NTU25) for b in (bodies, moved))
        # After both alignments the shoulders lie on x; what is left free is a rotation about x, so lengths and x agree.
        np.testing.assert_allclose(one[0], two[0], atol=2e-3)
        np.testing.assert_allclose(np.linalg.norm(one, axis=0), np.linalg.norm(two, axis=0), atol=1e-4)


def test_after_alignment_the_shoulders_lie_along_x_and_the_spine_at_the_origin() -> None:
    got = normalise(Clip(figures(1)), "agcn", NTU25)[..., 0]
    assert not got[:, :, 1].any()
    line = got[:, 0, 8] - got[:, 0, 4]
    assert line[0] > 0 and np.abs(line[1:]).max() < 1e-5
    only = normalise(Clip(figures(1)), "agcn-noz", NTU25)[:, 0, 8, 0] - normalise(Clip(figures(1)), "agcn-noz", NTU25)[:, 0, 4, 0]
    assert only[0] > 0 and np.abs(only[1:]).max() < 1e-5


def test_rotations_keep_the_thresholds_of_the_public_code() -> None:
    x, z = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
    np.testing.assert_allclose(rotation_between(np.array([0, 3.0, 0]), z) @ [0, 3.0, 0], [0, 0, 3], atol=1e-12)
    for source in (np.zeros(3), x, 5 * x, -x, np.array([1, 1e-7, 0]), np.full(3, 3e-7)):
        np.testing.assert_array_equal(rotation_between(source, x), np.eye(3))
    assert not np.array_equal(rotation_between(np.array([1, 2e-6, 0]), x), np.eye(3))


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_only_valid_frames_and_present_persons_as_float32(name: str) -> None:
    bodies = np.concatenate([figures(1, 320), np.zeros((1, 320, 25, 3), np.float32)])
    got = normalise(Clip(bodies), name, NTU25)
    assert got.shape == (3, 300, 25, 1) and got.dtype == np.float32 and got.flags.c_contiguous
    assert normalise(Clip(bodies), name, NTU25, frames_max=50).shape == (3, 50, 25, 1)
    twenty = normalise(Clip(figures(2, 30, joints=20)), name, UCLA20)
    assert twenty.shape[0::2] == (3, 20)
    with pytest.raises(InputError) as caught:
        normalise(Clip(np.zeros((2, 5, 25, 3), np.float32)), name, NTU25)
    assert caught.value.reason == "no person"


def test_an_unknown_normalisation_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'agnc'.*agcn, agcn-noz, ctrgcn, none"):
        normalise(Clip(figures()), "agnc", NTU25)


def test_ctrgcn_moves_the_first_actor_to_the_origin_once() -> None:
    body = figures(1, 20)
    got = normalise(Clip(body), "ctrgcn", NTU25)
    np.testing.assert_allclose(got[..., 0].transpose(1, 2, 0), body[0] - body[0, 0, 1], atol=1e-6)
    both = normalise(Clip(body), "ctrgcn", NTU25, second="copy")
    assert both.shape[3] == 2
    np.testing.assert_array_equal(both[..., 0], both[..., 1])
    np.testing.assert_array_equal(both[..., :1], got)


def test_ctrgcn_drops_empty_frames_short_bodies_and_wide_ones() -> None:
    tall, other = figures(2, 30, seed=4)
    short = figures(1, 30, seed=5)[0]
    short[11:] = 0
    wide = other * np.float32([9, 0.1, 1])
    bodies = np.stack([tall, short, wide])
    bodies[:, 20:23] = 0
    got = normalise(Clip(bodies), "ctrgcn", NTU25)
    assert got.shape == (3, 27, 25, 1)
    np.testing.assert_allclose(got[..., 0].transpose(1, 2, 0), np.delete(tall, range(20, 23), 0) - tall[0, 1], atol=1e-6)
    assert normalise(Clip(bodies[1:2, :5]), "ctrgcn", NTU25).shape == (3, 5, 25, 1)
    assert normalise(Clip(np.stack([short, short * 2])[:, :8]), "ctrgcn", NTU25).shape == (3, 8, 25, 1)


def test_ctrgcn_gives_one_actor_to_bodies_that_follow_each_other() -> None:
    # One person whose id changes half way, and a second one who moves less and stays throughout.
    rng = np.random.default_rng(1)
    pose = rng.standard_normal((1, 25, 3)).astype(np.float32) * np.float32([0.2, 1, 0.2])
    walk = pose + np.linspace(0, 3, 40, dtype=np.float32)[:, None, None]
    calm = pose * np.float32(0.5) + np.zeros((40, 1, 1), np.float32)
    clip = Clip(np.stack([walk, calm]), [(7, 0, walk[:22]), (8, 22, walk[22:]), (9, 0, calm)])
    got = normalise(clip, "ctrgcn", NTU25)
    assert got.shape == (3, 40, 25, 2)
    np.testing.assert_allclose(got.transpose(3, 1, 2, 0), np.stack([walk, calm]) - walk[0, 1] * 1, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_ctrgcn_never_gives_more_than_two_persons_nor_loses_all(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    bodies = figures(count, 40, seed)
    for body in bodies:
        body[: rng.integers(0, 20)] = body[rng.integers(21, 41) :] = 0
    got = normalise(Clip(bodies), "ctrgcn", NTU25)
    assert got.shape[3] in (1, 2) and got.any((0, 1, 2)).all() and got.any((0, 2, 3)).all()
