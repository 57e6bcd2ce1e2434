"""From raw bodies to figures that can be described: tracked across slots, gaps filled, smoothed, levelled, with axes of their own.

No labels, no torch. Axes of a clip as the camera's: metres, y up, z away from the camera (shards.exchange says more).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from acsar.skeleton import by_joints
from shards.samples import Clip

Array = NDArray[np.float64]

FRAMES_PER_SECOND = 30
SIDES = ("left", "right")

_MEDIAN, _GAUSS = 5, 1.3  # frames: what a sensor gets wrong for a moment, and its jitter
_JUMP, _JUMP_PER_FRAME, _JUMP_MOST = 0.5, 0.08, 1.5  # metres that a body may be from where it was last seen
_SMALLEST = 0.5  # metres from head to feet: smaller things are no persons
_LEAST_SHARE = 0.3  # of the longest track: what is there for less is no second person
_LEVEL_MOST = 25.0  # degrees that a camera may be tilted; straight legs farther from the vertical than that are lying or lifted ones


@dataclass(frozen=True)
class Figure:
    """One person of a clip.

    joints [T,V,3] metres, y up against gravity, every frame filled; seen [T]: frames in which the sensor had the person;
    floor: height under the lower foot."""

    joints: Array
    seen: NDArray[np.bool_]
    floor: float

    @property
    def frames(self) -> int:
        """T."""
        return len(self.joints)

    def at(self, name: str) -> Array:
        """[T,3] of a joint by its name in the 20 joints that both layouts share; "Top" is the upper end of the spine;
        SpineBase, SpineMid and Neck are called so in both, where the older layout has no joint of that name."""
        return self.joints[:, _index(self.joints.shape[1], name)]

    def hand(self, side: str) -> Array:
        """[T,3]: between wrist and hand, which jitters less than either."""
        return np.asarray((self.at("Wrist" + side.title()) + self.at("Hand" + side.title())) / 2)

    @cached_property
    def arm(self) -> float:
        """Metres from the shoulder to the hand along the arm; from the sides' medians, never 0."""
        pairs = (("Shoulder", "Elbow"), ("Elbow", "Wrist"))
        return max(sum(self._length(a, b) for a, b in pairs) + self._length("Wrist", "Hand") / 2, 0.2)

    @cached_property
    def leg(self) -> float:
        """Metres from the hip to the ankle along the leg."""
        return max(self._length("Hip", "Knee") + self._length("Knee", "Ankle"), 0.3)

    @cached_property
    def right(self) -> Array:
        """[T,3] unit, level: to the person's own right, by shoulders and hips."""
        across = sum(self.at(joint + "Right") - self.at(joint + "Left") for joint in ("Shoulder", "Hip"))
        across = smooth(np.asarray(across, np.float64) * (1, 0, 1), 3.0)
        length = np.linalg.norm(across, axis=1, keepdims=True)
        return np.asarray(np.where(length > 1e-6, across / np.maximum(length, 1e-6), (1.0, 0.0, 0.0)))

    @cached_property
    def ahead(self) -> Array:
        """[T,3] unit, level: where the trunk faces."""
        return np.cross((0.0, 1.0, 0.0), self.right)

    @cached_property
    def spine(self) -> Array:
        """[T,3] unit: from pelvis to neck."""
        return _unit(self.at("Top") - self.at("SpineBase"), (0.0, 1.0, 0.0))

    def on_trunk(self, offset: Array, side: str) -> Array:
        """[T,3] (outward to `side`, along the spine, ahead) of vectors [T,3], in axes that turn and bend with the trunk."""
        up = self.spine
        across = _unit(self.right - (self.right * up).sum(1, keepdims=True) * up, (1.0, 0.0, 0.0))
        ahead = np.cross(up, across)
        outward = across if side == "right" else -across
        return np.stack([(offset * axis).sum(1) for axis in (outward, up, ahead)], 1)

    def level(self, offset: Array, side: str = "right") -> Array:
        """[T,3] (outward to `side`, up, ahead) of vectors [T,3], in axes that turn with the person but stay level."""
        outward = self.right if side == "right" else -self.right
        return np.stack([(offset * outward).sum(1), offset[:, 1], (offset * self.ahead).sum(1)], 1)

    def part(self, frames: slice) -> "Figure":
        """The same person in some frames only, with the axes of the whole."""
        part = Figure(self.joints[frames], self.seen[frames], self.floor)
        for name in ("right", "ahead", "spine"):
            part.__dict__[name] = getattr(self, name)[frames]
        return part

    def _length(self, a: str, b: str) -> float:
        return float(np.median([np.linalg.norm(self.at(a + s.title()) - self.at(b + s.title()), axis=1) for s in SIDES]))


def figures(clip: Clip) -> list[Figure]:
    """One or two persons, the one that moves most first; none where no frame holds a body. All have the clip's frames."""
    tracks = _tracks(np.where(np.isfinite(clip.bodies), clip.bodies, 0).astype(np.float64))
    tracks = [track for track in tracks if len(tracks) == 1 or _is_person(track)] or tracks[:1]
    longest = max((_count(track) for track in tracks), default=0)
    tracks = [track for track in tracks if _count(track) >= max(_LEAST_SHARE * longest, 1)]
    first = min((int(np.argmax(_seen(track))) for track in tracks), default=0)
    last = max((len(track) - int(np.argmax(_seen(track)[::-1])) for track in tracks), default=0)
    filled = [(_filled(track[first:last]), _seen(track[first:last])) for track in tracks]
    filled.sort(key=lambda one: -_movement(one[0]))
    turn = _levelling([joints for joints, _ in filled[:2]])
    return [_figure(joints @ turn.T, seen) for joints, seen in filled[:2]]


def smooth(x: Array, sigma: float) -> Array:
    """Gaussian mean along the first axis [T,...]; the ends are repeated."""
    radius = int(np.ceil(2.5 * sigma))
    if len(x) < 2 or radius < 1:
        return x
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.pad(x, [(radius, radius)] + [(0, 0)] * (x.ndim - 1), mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=0) @ (kernel / kernel.sum()))


def angle(a: Array, b: Array) -> Array:
    """Degrees [T] between vectors [T,3]."""
    cosine = (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-9)
    return np.asarray(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))


def thigh(figure: Figure, side: str) -> Array:
    """[T] degrees between a thigh and straight down."""
    limb = figure.at("Knee" + side.title()) - figure.at("Hip" + side.title())
    return angle(limb, np.broadcast_to((0.0, -1.0, 0.0), limb.shape))


def bent(figure: Figure) -> Array:
    """[T] degrees between the spine and straight up."""
    return angle(figure.spine, np.broadcast_to((0.0, 1.0, 0.0), figure.spine.shape))


def _index(joints: int, name: str) -> int:
    layout = by_joints(joints)
    if name == "Top":
        return layout.joints.index("SpineShoulder") if "SpineShoulder" in layout.joints else layout.joints.index("ShoulderCenter")
    older = {"SpineBase": "HipCenter", "SpineMid": "Spine", "Neck": "ShoulderCenter"}
    return layout.joints.index(name if name in layout.joints else older[name])


def _tracks(bodies: Array) -> list[Array]:
    """Bodies [M,T,V,3] by slot -> one array [T,V,3] per person, absent frames zero: two that change slots stay themselves."""
    present: NDArray[np.bool_] = np.any(bodies, axis=(2, 3))
    bodies, present = bodies[np.any(present, axis=1)], present[np.any(present, axis=1)]
    if len(bodies) < 2:
        return list(bodies)
    tracks: list[Array] = []
    lasts: list[tuple[int, Array]] = []
    for t in range(bodies.shape[1]):
        here = [m for m in range(len(bodies)) if present[m, t]]
        pairs = sorted(
            (float(np.linalg.norm(bodies[m, t, 0] - place)), m, i, t - when) for m in here for i, (when, place) in enumerate(lasts)
        )
        taken: dict[int, int] = {}
        for distance, m, i, gap in pairs:
            near = distance < min(_JUMP + _JUMP_PER_FRAME * gap, _JUMP_MOST)
            if near and m not in taken and i not in taken.values():
                taken[m] = i
        for m in here:
            if m not in taken:
                taken[m] = len(tracks)
                tracks.append(np.zeros(bodies.shape[1:]))
                lasts.append((t, bodies[m, t, 0]))
            tracks[taken[m]][t] = bodies[m, t]
            lasts[taken[m]] = (t, bodies[m, t, 0])
    return tracks


def _seen(track: Array) -> NDArray[np.bool_]:
    return np.asarray(np.any(track, axis=(1, 2)))


def _count(track: Array) -> int:
    return int(_seen(track).sum())


def _is_person(track: Array) -> bool:
    body = track[_seen(track)]
    head, feet = (
        body[:, _index(track.shape[1], "Head")],
        body[:, [_index(track.shape[1], "AnkleLeft"), _index(track.shape[1], "AnkleRight")]],
    )
    return float(np.median(np.linalg.norm(head[:, None] - feet, axis=2).max(1))) > _SMALLEST


def _filled(track: Array) -> Array:
    """Gaps by straight lines, ends by what is nearest; then without glitches and jitter."""
    frames = np.flatnonzero(_seen(track))
    flat = track[frames].reshape(len(frames), -1)
    if len(frames) < len(track):
        flat = np.stack([np.interp(np.arange(len(track)), frames, column) for column in flat.T], 1)
    if len(flat) >= _MEDIAN:
        padded = np.pad(flat, [(_MEDIAN // 2, _MEDIAN // 2), (0, 0)], mode="edge")
        flat = np.median(np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN, axis=0), axis=-1)
    return smooth(flat, _GAUSS).reshape(track.shape)


def _movement(joints: Array) -> float:
    """How much is going on: joints' spread over time, rounded so that noise does not decide who comes first."""
    return round(float(joints.std(0).sum(-1).mean()), 2)


def _levelling(persons: list[Array]) -> Array:
    """[3,3]: turns the direction of the legs to +y where somebody stands: both straight, the feet side by side (a walker's legs are
    straight only when they slant). The identity where nobody does."""
    found = []
    for joints in persons:
        part = {name: joints[:, [_index(joints.shape[1], name + side.title()) for side in SIDES]] for name in ("Hip", "Knee", "Ankle")}
        leg = part["Hip"].mean(1) - part["Ankle"].mean(1)
        straight = (angle(part["Hip"] - part["Knee"], part["Knee"] - part["Ankle"]) < 20).all(1)
        beside = np.linalg.norm(part["Ankle"][:, 0] - part["Ankle"][:, 1], axis=1) < 0.45 * np.linalg.norm(leg, axis=1)
        upright = angle(leg, np.broadcast_to((0.0, 1.0, 0.0), leg.shape)) < _LEVEL_MOST
        found.append(_unit(leg, (0.0, 1.0, 0.0))[straight & beside & upright])
    legs = np.concatenate(found) if found else np.zeros((0, 3))
    if len(legs) < 5:
        return np.eye(3)
    up = _unit(np.median(legs, axis=0)[None], (0.0, 1.0, 0.0))[0]
    axis, cosine = np.cross(up, (0.0, 1.0, 0.0)), float(up[1])
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + cross + cross @ cross / (1 + cosine))


def _figure(joints: Array, seen: NDArray[np.bool_]) -> Figure:
    ankles = [joints[:, _index(joints.shape[1], "Ankle" + side.title()), 1] for side in SIDES]
    return Figure(joints, seen, float(np.quantile(np.minimum(*ankles), 0.1)))


def _unit(vectors: Array, fallback: tuple[float, float, float]) -> Array:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(np.where(length > 1e-9, vectors / np.maximum(length, 1e-9), fallback))
