"""A jointed figure of 25 Kinect v2 joints: limb lengths, angle channels, forward kinematics.

The figure's own frame: x to its right, y up from the floor, z backwards (it faces -z), metres.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from acsar.skeleton import NTU25

Array: TypeAlias = NDArray[np.float64]

SIDED = ("lift", "plane", "twist", "elbow", "wrist", "swing", "spread", "knee")
CHANNELS = (
    *(f"right.{name}" for name in SIDED),
    *(f"left.{name}" for name in SIDED),
    "bend", "lean", "turn", "nod", "look", "rise", "forward",
)  # fmt: skip
"""Degrees, but `rise` and `forward`, which are shares of the body height. Zero everywhere = upright, arms hanging.

lift: upper arm from hanging (0) over level (90) to straight up (180); plane: of that lift, 0 sideways, 90 to the front, above 90 across the
chest, negative backwards; elbow: flexion; twist: where the forearm folds to, 0 along the lift, 90 inwards; wrist: flexion.
swing: thigh to the front; spread: thigh sideways; knee: flexion. bend, lean (to the right), turn (to the left): trunk; nod, look
(to the left): head.
"""
INDEX: Mapping[str, int] = {name: i for i, name in enumerate(CHANNELS)}
JOINT: Mapping[str, int] = {name: v for v, name in enumerate(NTU25.joints)}

_LENGTHS: Mapping[str, float] = {
    "pelvis": 0.175, "chest": 0.14, "neck": 0.045, "head": 0.085, "shoulder": 0.105, "upper_arm": 0.16, "forearm": 0.142, "palm": 0.045,
    "fingers": 0.045, "thumb": 0.04, "hip": 0.048, "thigh": 0.225, "shank": 0.225, "foot": 0.075, "ankle": 0.045,
}  # fmt: skip


@dataclass(frozen=True)
class Body:
    """Limb lengths in metres; the two sides are alike, so that a mirrored performance is an exact mirror."""

    height: float
    lengths: Mapping[str, float]


def draw_body(rng: np.random.Generator) -> Body:
    """A person: height around 1.70 m, every limb's share of it varied by about 4 %."""
    height = float(np.clip(rng.normal(1.70, 0.09), 1.48, 1.96))
    factors = np.clip(rng.normal(1.0, 0.04, len(_LENGTHS)), 0.88, 1.12)
    return Body(height, {name: share * height * float(f) for (name, share), f in zip(_LENGTHS.items(), factors)})


def forward(body: Body, angles: Array, planted: bool = True) -> Array:
    """Joint positions [T,25,3] of the channels `angles` [T,K] (order CHANNELS).

    The lower foot stands on the floor (y = 0 at the sole), raised by `rise`. planted: the standing foot also keeps its place, so
    that sitting moves the pelvis and not the feet; without it the pelvis moves by `forward` alone, as walking does.
    """
    a = dict(zip(CHANNELS, np.deg2rad(angles).T))
    size, frames = body.lengths, len(angles)
    out = np.zeros((frames, NTU25.size, 3))

    hips = _turned(0.25 * a["bend"], 0.3 * a["lean"], 0.15 * a["turn"])
    chest = hips @ _turned(0.75 * a["bend"], 0.7 * a["lean"], 0.85 * a["turn"])
    face = chest @ _turned(a["nod"], np.zeros(frames), a["look"])
    out[:, JOINT["SpineMid"]] = hips @ (0, size["pelvis"], 0)
    out[:, JOINT["SpineShoulder"]] = out[:, JOINT["SpineMid"]] + chest @ (0, size["chest"], 0)
    out[:, JOINT["Neck"]] = out[:, JOINT["SpineShoulder"]] + chest @ (0, size["neck"], 0)
    out[:, JOINT["Head"]] = out[:, JOINT["Neck"]] + face @ (0, size["head"], -0.2 * size["head"])
    for side, sign in (("right", 1.0), ("left", -1.0)):
        mirror = np.array([sign, 1.0, 1.0])
        arm = _arm(size, {name: a[f"{side}.{name}"] for name in SIDED}) * mirror
        shoulder = out[:, JOINT["SpineShoulder"]] + chest @ (sign * size["shoulder"], -0.15 * size["shoulder"], 0)
        names = ("Shoulder", "Elbow", "Wrist", "Hand", "HandTip", "Thumb")
        for name, offset in zip(names, np.moveaxis(arm, 1, 0)):
            out[:, JOINT[name + side.title()]] = shoulder + np.einsum("tij,tj->ti", chest, offset)
        leg = _leg(size, {name: a[f"{side}.{name}"] for name in SIDED}) * mirror
        hip = hips @ (sign * size["hip"], -0.5 * size["hip"], 0)
        for name, offset in zip(("Hip", "Knee", "Ankle", "Foot"), np.moveaxis(leg, 1, 0)):
            out[:, JOINT[name + side.title()]] = hip + offset
    ankles = out[:, [JOINT["AnkleRight"], JOINT["AnkleLeft"]]]
    root = np.zeros((frames, 3))
    root[:, 1] = size["ankle"] - ankles[..., 1].min(1) + angles[:, INDEX["rise"]] * body.height
    root[:, 2] = -angles[:, INDEX["forward"]] * body.height
    if planted:
        stance = _stance(ankles)
        root[:, [0, 2]] -= stance - stance[:1]
    return out + root[:, None]


def mirrored(joints: Array) -> Array:
    """[...,25,3] as the other-handed performer does it: sides exchanged, x negated."""
    return np.asarray(joints[..., NTU25.mirror, :] * np.array([-1.0, 1.0, 1.0]))


def about_y(angle: float) -> Array:
    """[3,3] rotation by `angle` degrees about the vertical (positive: to the figure's left)."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def about_x(angle: float) -> Array:
    """[3,3] rotation by `angle` degrees about x (positive: what is in front moves up)."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _turned(bend: Array, lean: Array, turn: Array) -> Array:
    """[T,3,3]: turned about y, leant about z, then bent about x; radians [T]."""
    zero, one = np.zeros_like(bend), np.ones_like(bend)
    cb, sb, cl, sl, ct, st = np.cos(bend), -np.sin(bend), np.cos(lean), -np.sin(lean), np.cos(turn), np.sin(turn)
    x = _matrices([one, zero, zero, zero, cb, -sb, zero, sb, cb])
    z = _matrices([cl, -sl, zero, sl, cl, zero, zero, zero, one])
    y = _matrices([ct, zero, st, zero, one, zero, -st, zero, ct])
    return y @ z @ x


def _matrices(entries: list[Array]) -> Array:
    return np.stack(entries, -1).reshape(-1, 3, 3)


def _arm(size: Mapping[str, float], a: Mapping[str, Array]) -> Array:
    """[T,6,3]: shoulder, elbow, wrist, hand, hand tip, thumb of a right arm, from the shoulder, in the chest's frame."""
    sin_l, cos_l, sin_p, cos_p = np.sin(a["lift"]), np.cos(a["lift"]), np.sin(a["plane"]), np.cos(a["plane"])
    upper = np.stack([sin_l * cos_p, -cos_l, -sin_l * sin_p], -1)
    along = np.stack([cos_l * cos_p, sin_l, -cos_l * sin_p], -1)
    inward = np.stack([-sin_p, np.zeros_like(sin_p), -cos_p], -1)
    fold = np.cos(a["twist"])[:, None] * along + np.sin(a["twist"])[:, None] * inward
    hinge = np.cross(upper, fold)
    lower = _between(upper, fold, a["elbow"])
    palm = _between(upper, fold, a["elbow"] + a["wrist"])
    elbow = size["upper_arm"] * upper
    wrist = elbow + size["forearm"] * lower
    hand = wrist + size["palm"] * palm
    tip = hand + size["fingers"] * palm
    thumb = hand + size["thumb"] * (0.6 * palm + 0.8 * hinge)
    return np.stack([np.zeros_like(elbow), elbow, wrist, hand, tip, thumb], 1)


def _leg(size: Mapping[str, float], a: Mapping[str, Array]) -> Array:
    """[T,4,3]: hip, knee, ankle, foot of a right leg, from the hip; hangs from the vertical, however the trunk is bent."""
    shin = a["swing"] - a["knee"]
    knee = size["thigh"] * _hanging(a["swing"], a["spread"])
    ankle = knee + size["shank"] * _hanging(shin, a["spread"])
    pitch = 0.6 * shin - 0.25
    toes = np.stack([np.full_like(pitch, 0.2), np.sqrt(0.96) * np.sin(pitch), -np.sqrt(0.96) * np.cos(pitch)], -1)
    return np.stack([np.zeros_like(knee), knee, ankle, ankle + size["foot"] * toes], 1)


def _hanging(swing: Array, spread: Array) -> Array:
    return np.stack([np.sin(spread), -np.cos(spread) * np.cos(swing), -np.cos(spread) * np.sin(swing)], -1)


def _between(start: Array, side: Array, angle: Array) -> Array:
    return np.cos(angle)[:, None] * start + np.sin(angle)[:, None] * side


def _stance(ankles: Array) -> Array:
    """[T,2]: horizontal place (x, z) of the foot that carries, both when they are level; ankles [T,2,3]."""
    low = np.exp(-(ankles[..., 1] - ankles[..., 1].min(1, keepdims=True)) / 0.03)
    weight = low / low.sum(1, keepdims=True)
    place: Array = (ankles[..., [0, 2]] * weight[..., None]).sum(1)
    return place
