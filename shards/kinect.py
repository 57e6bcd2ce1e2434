"""A depth camera looking at the stage: its view, its noise, what it loses, and the `.skeleton` text it leaves.

Camera axes as Kinect v2 has them: metres, y up, z away from the camera, x to the camera's left.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acsar.skeleton import NTU25
from shards.kinematics import JOINT, Array, about_x, about_y
from shards.ntu import Recording

YAW: Mapping[int, float] = {1: -45.0, 2: 0.0, 3: 45.0}
"""Degrees by camera number; camera 2 is the one that people face."""

TRACKED, INFERRED = 2, 1

_TRUNK, _LIMB, _END, _TIP = 0.005, 0.011, 0.016, 0.026
_NOISE = np.array([
    _TIP if "Tip" in name or "Thumb" in name
    else _END if name.startswith(("Wrist", "Hand", "Ankle", "Foot"))
    else _LIMB if name.startswith(("Elbow", "Knee"))
    else _TRUNK
    for name in NTU25.joints
])  # fmt: skip
"""Metres of jitter per joint when it is in full view, one standard deviation."""

_SIDES = tuple(np.array([v for v, name in enumerate(NTU25.joints) if side in name]) for side in ("Right", "Left"))
_ENDS = np.array([v for v, noise in enumerate(_NOISE) if noise >= _END])
_LEAVES = np.array([v for v in range(NTU25.size) if v not in {p for c, p in enumerate(NTU25.parent) if c != p}])
_FLAGS = 6


@dataclass(frozen=True)
class Camera:
    """Where a camera stands: degrees around the stage, metres above the floor and from the middle, degrees of downward tilt."""

    yaw: float
    height: float
    distance: float
    tilt: float

    def view(self, points: Array) -> Array:
        """Stage points [...,3] in camera axes."""
        turned = points @ about_y(self.yaw) - np.array([0, self.height, -self.distance])
        return np.asarray(turned @ about_x(-self.tilt).T)


def camera(number: int, setup: int) -> Camera:
    """The camera of that number in a set-up: heights and distances differ from set-up to set-up and from camera to camera."""
    height = 0.9 + 0.2 * ((number + setup) % 3) + 0.05 * (setup % 4)
    distance = 3.1 + 0.25 * (setup % 4) + 0.1 * number
    return Camera(YAW[number], height, distance, tilt=float(np.rad2deg(np.arctan2(height - 0.95, distance))))


COLOUR_WIDTH, COLOUR_HEIGHT, COLOUR_FOCUS = 1920, 1080, 1060.0
"""Pixels of the colour camera, and its focal length in pixels."""


def colour_pixels(xyz: Array) -> Array:
    """[...,2] x, y in the colour camera's picture of points [...,3] in camera axes. The picture is a mirror image, as the sensor gives it:
    x grows to the camera's left."""
    ray = xyz[..., :2] / np.maximum(xyz[..., 2:], 0.3) * np.array([1, -1])
    return np.asarray(COLOUR_FOCUS * (ray + (0.05, 0)) + (925.0, 566.0))


def observe(joints: Array, view: Camera, rng: np.random.Generator) -> Recording:
    """What the camera records of joints [T,M,25,3] on the stage: jitter that lasts, most at hands and feet and on the hidden side;
    frames without anybody, a body that is gone for a while, slots that change places, a short-lived third body."""
    seen = view.view(joints)
    state = np.where(rng.random(seen.shape[:3]) < _hidden(seen), INFERRED, TRACKED)
    seen = seen + _jitter(state, rng) + _slips(state, rng)
    present = _presence(len(seen), seen.shape[1], rng)
    order = _slots(len(seen), seen.shape[1], rng)
    if rng.random() < 0.08:
        seen, state, present, order = _with_ghost(seen, state, present, order, rng)
    ids = 72057594037927936 + np.asarray(rng.choice(99999, seen.shape[1], replace=False))
    frame, slot = np.nonzero(np.take_along_axis(present, order, 1))
    body = order[frame, slot]
    slot = np.concatenate([np.arange(count) for count in np.bincount(frame, minlength=len(seen))])
    return _recording(len(seen), frame, slot, ids[body], seen[frame, body], state[frame, body], rng)


def _hidden(seen: Array) -> Array:
    """[T,M,25] chance that a joint is guessed: the side turned away, what is behind the trunk, who stands behind another."""
    across = seen[:, :, JOINT["ShoulderRight"]] - seen[:, :, JOINT["ShoulderLeft"]]
    away = across[..., 2] / np.linalg.norm(across, axis=-1)
    chance: Array = np.full(seen.shape[:3], 0.02)
    for side, sign in zip(_SIDES, (1, -1)):
        chance[..., side] += 0.45 * np.clip(sign * away, 0, 1)[..., None]
    spine = seen[:, :, [JOINT["SpineMid"]]]
    chance += 0.4 * ((seen[..., 2] > spine[..., 2] + 0.08) & (np.abs(seen[..., 0] - spine[..., 0]) < 0.16))
    if seen.shape[1] == 2:
        ray = seen[..., :2] / seen[..., 2:]
        for m, other in ((0, 1), (1, 0)):
            near = np.abs(ray[:, m] - ray[:, [other], JOINT["SpineMid"]]) < np.array([0.05, 0.12])
            chance[:, m] += 0.5 * (near.all(-1) & (seen[:, m, :, 2] > spine[:, other, :, 2] + 0.1))
    return np.asarray(np.clip(chance, 0, 0.9))


def _jitter(state: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """[T,M,25,3]: a fixed error per clip and one that forgets within a few frames; larger in depth, threefold where a joint is guessed."""
    frames = len(state)
    fresh = rng.normal(0, 1, (*state.shape, 3))
    kept = np.empty_like(fresh)
    kept[0] = fresh[0]
    for t in range(1, frames):
        kept[t] = 0.75 * kept[t - 1] + 0.66 * fresh[t]
    scale = _NOISE[:, None] * np.array([1.0, 1.0, 1.4])
    grown = np.where(state == INFERRED, 3.0, 1.0)[..., None]
    return np.asarray(scale * (kept * grown + rng.normal(0, 1, state.shape[1:] + (3,))))


def _slips(state: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """[T,M,25,3]: now and then the end of a limb is taken for something else for a few frames; marks it as guessed."""
    out = np.zeros((*state.shape, 3))
    for _ in range(rng.poisson(0.8)):
        start, length, m, v = rng.integers(len(state)), rng.integers(2, 9), rng.integers(state.shape[1]), rng.choice(_ENDS)
        out[start : start + length, m, v] += rng.normal(0, 0.12, 3)
        state[start : start + length, m, v] = INFERRED
    return out


def _presence(frames: int, bodies: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[T,M]: who is tracked. The last frames are never empty, so that the length of a clip is what it says."""
    present = np.ones((frames, bodies), bool)
    if bodies == 2 and rng.random() < 0.25:
        start = rng.integers(frames // 4, frames)
        present[start : start + rng.integers(3, 16), rng.integers(2)] = False
    if rng.random() < 0.15:
        start = rng.integers(1, frames - 6)
        present[start : start + rng.integers(1, 5)] = False
    return present


def _slots(frames: int, bodies: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[T,M]: the body in each slot; two may change places in mid-clip, their ids go with them."""
    order = np.tile(rng.permutation(bodies), (frames, 1))
    if bodies == 2 and rng.random() < 0.15:
        order[rng.integers(1, frames) :] = order[0, ::-1]
    return order


def _with_ghost(
    seen: Array, state: NDArray[np.int64], present: NDArray[np.bool_], order: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """One body more, in the last slot: something in the room taken for a person for less than half a second."""
    frames, bodies = present.shape
    beside = seen[0, 0] * np.array([0.9, 0.9, 1.0]) + np.array([rng.choice([-1.2, 1.2]), 0, 0.5])
    ghost = beside + rng.normal(0, 0.05, (frames, 1, NTU25.size, 3))
    life = np.zeros((frames, 1), bool)
    start = rng.integers(0, frames)
    life[start : start + rng.integers(3, 12)] = True
    return (
        np.concatenate([seen, ghost], 1),
        np.concatenate([state, np.full((frames, 1, NTU25.size), INFERRED)], 1),
        np.concatenate([present, life & present.any(1, keepdims=True)], 1),
        np.concatenate([order, np.full((frames, 1), bodies)], 1),
    )


def _recording(
    frames: int, frame: NDArray[np.int64], slot: NDArray[np.int64], ids: NDArray[np.int64], xyz: Array, state: NDArray[np.int64],
    rng: np.random.Generator,
) -> Recording:  # fmt: skip
    """All fields of records [R]: pixels by two pinhole cameras, orientations by the bones, hands open or closed at random."""
    joints = np.zeros((len(frame), NTU25.size, 12))
    ray = xyz[..., :2] / np.maximum(xyz[..., 2:], 0.3) * np.array([1, -1])
    joints[..., :3] = xyz
    joints[..., 3:5] = 365.5 * ray + (257.0, 207.5)
    joints[..., 5:7] = colour_pixels(xyz)
    joints[..., 7:11] = _orientations(xyz)
    joints[..., 11] = state
    flags = np.zeros((len(frame), _FLAGS), np.int64)
    flags[:, [1, 3]] = rng.integers(0, 2, (len(frame), 2))
    flags[:, [2, 4]] = rng.integers(0, 5, (len(frame), 2))
    spine = xyz[:, JOINT["SpineShoulder"]] - xyz[:, JOINT["SpineBase"]]
    lean = np.clip(spine[:, [0, 2]] / np.linalg.norm(spine, axis=1, keepdims=True), -1, 1)
    return Recording(frames, frame, slot, ids.astype(np.uint64), flags, lean, np.full(len(frame), TRACKED), joints)


def _orientations(xyz: Array) -> Array:
    """[R,25,4] wxyz: the shortest turn from the vertical to the joint's bone; zeros at the ends of limbs, as the sensor has it."""
    bone = xyz - xyz[:, list(NTU25.parent)]
    bone = bone / np.maximum(np.linalg.norm(bone, axis=-1, keepdims=True), 1e-6)
    turn = np.stack([1 + bone[..., 1], bone[..., 2], np.zeros(bone.shape[:2]), -bone[..., 0]], -1)
    turn /= np.maximum(np.linalg.norm(turn, axis=-1, keepdims=True), 1e-6)
    turn[:, _LEAVES] = 0
    return np.asarray(turn)


_JOINT_LINE = "%.5f %.5f %.5f %.2f %.2f %.2f %.2f %.4f %.4f %.4f %.4f %d\n"
_BODY_LINES = "%d %d %d %d %d %d %d %.5f %.5f %d\n25\n" + _JOINT_LINE * NTU25.size


def skeleton_text(recording: Recording) -> str:
    """The `.skeleton` file of a recording (layout: shards/ntu.py). One format for the whole file: most of the time goes here."""
    bodies: list[int] = np.bincount(recording.frame, minlength=recording.frames).tolist()
    layout = f"{recording.frames}\n" + "".join(f"{count}\n" + _BODY_LINES * count for count in bodies)
    values: list[float] = []
    rows = zip(recording.body_id.tolist(), recording.flags.tolist(), recording.lean.tolist(), recording.tracking.tolist(),
               recording.joints.reshape(len(recording.joints), -1).tolist())  # fmt: skip
    for body, flags, lean, tracking, joints in rows:
        values += (body, *flags, *lean, tracking, *joints)
    return layout % tuple(values)
