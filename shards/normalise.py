"""From raw bodies to the arrays that methods see: person choice, padding, centring, rotation. Vectorised over frames and joints.

`agcn` is the preparation of AGCN, SCD-Net and their peers; `agcn-noz` leaves out the alignment to the vertical (UmURL);
`ctrgcn` is the preparation of CTR-GCN; `none` only chooses persons.
"""

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from acsar.skeleton import Skeleton
from shards.errors import InputError
from shards.samples import FRAMES_MAX, Clip

Normalisation: TypeAlias = Literal["agcn", "agcn-noz", "ctrgcn", "none"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
Second: TypeAlias = Literal["zeros", "copy"]
F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]

# Denoising of bodies (CTR-GCN code): fewest frames, widest x-extent relative to y-extent, largest share of such wide frames.
LENGTH_MIN = 12
SPREAD_MAX = 0.8
WIDE_SHARE_MAX = 0.69754


def normalise(clip: Clip, name: str, skeleton: Skeleton, frames_max: int = FRAMES_MAX, second: Second = "zeros") -> F32:
    """[C,T,V,M] float32: only the valid frames (at most frames_max), only the persons that are there (M is 1 or 2).

    second says what `ctrgcn` gives as second person of a one-person clip: none ("zeros"), or a copy of the first.
    InputError for an unknown name and where no person is left.
    """
    bodies = clip.bodies[:, :frames_max]
    if name in ("agcn", "agcn-noz"):
        persons = align(loop_padded(two_strongest(bodies)), skeleton, vertical=name == "agcn")
    elif name == "ctrgcn":
        persons = _ctrgcn(_bodies_by_id(clip, bodies, frames_max), skeleton, second)
    elif name == "none":
        persons = two_strongest(bodies) if len(bodies) > 2 else bodies
        persons = persons[_present(persons)]
    else:
        raise InputError(f"unknown normalisation {name!r}; one of {', '.join(NORMALISATIONS)}")
    if not len(persons):
        raise InputError("no body in any frame; remove this sample", reason="no person")
    return np.ascontiguousarray(persons.transpose(3, 1, 2, 0), np.float32)


def energy(body: F32) -> float:
    """How much a body [T,V,C] spreads: sum over axes of the standard deviation over joints and nonzero frames (AGCN code)."""
    seen = body[body.sum((1, 2)) != 0]
    return float(seen.reshape(-1, 3).std(0, dtype=np.float64).sum()) if len(seen) else 0.0


def two_strongest(bodies: F32) -> F32:
    """The two bodies of most energy of [M,T,V,C], strongest first, those that are all zero left out."""
    bodies = bodies[_present(bodies)]
    if len(bodies) < 2:
        return bodies
    # Ties go to the later slot, as a reversed ascending sort gives it.
    order = np.argsort([energy(body) for body in bodies], kind="stable")[::-1][:2]
    return bodies[order]


def _present(bodies: F32) -> NDArray[np.bool_]:
    present: NDArray[np.bool_] = np.any(bodies, axis=(1, 2, 3))
    return present


def loop_padded(persons: F32) -> F32:
    """Each person of [M,T,V,C] starts in frame 0 and repeats itself from its last frame on; gaps in the middle stay (AGCN code)."""
    frames = persons.shape[1]
    order = np.empty((len(persons), frames), np.intp)
    for m, seen in enumerate(persons.sum((2, 3)) != 0):
        own = np.flatnonzero(seen)
        if len(own) and own[0] == 0:
            own = np.arange(own[-1] + 1)
        order[m] = np.resize(own, frames) if len(own) else np.arange(frames)
    return persons[np.arange(len(persons))[:, None], order]


def align(persons: F32, skeleton: Skeleton, vertical: bool = True) -> F32:
    """Centre every frame of [M,T,V,C] on the first person's mid spine; then turn all by the first person's first frame: spine to
    +z (if vertical), then the shoulders' line, left to right, to +x. Joints at zero stay there (AGCN code)."""
    if not len(persons):
        return persons
    seen = persons.sum(3, keepdims=True) != 0
    centred = (persons - persons[:1, :, skeleton.centre : skeleton.centre + 1]) * seen
    first = centred[0, 0].astype(np.float64)
    turn = np.eye(3)
    if vertical:
        turn = rotation_between(first[skeleton.spine[1]] - first[skeleton.spine[0]], np.array([0.0, 0.0, 1.0]))
    left, right = skeleton.shoulders
    turn = rotation_between(turn @ (first[right] - first[left]), np.array([1.0, 0.0, 0.0])) @ turn
    turned: F32 = centred.reshape(-1, 3) @ turn.T.astype(np.float32)
    return turned.reshape(persons.shape)


def rotation_between(source: F64, target: F64) -> F64:
    """[3,3]: turns source [3] to the direction of target [3]. Identity where either, or their cross product, has a 1-norm below 1e-6
    (so opposite vectors are left alone), or the angle is below 1e-6: the thresholds of the AGCN code."""
    if np.abs(source).sum() < 1e-6 or np.abs(target).sum() < 1e-6:
        return np.eye(3)
    axis = np.cross(source, target)
    cosine = float(source @ target / np.sqrt((source @ source) * (target @ target)))
    angle = np.arccos(min(max(cosine, -1.0), 1.0))
    if np.abs(axis).sum() < 1e-6 or angle < 1e-6:
        return np.eye(3)
    x, y, z = axis / np.sqrt(axis @ axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: F64 = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return turn


Body: TypeAlias = tuple[int, F32]


def _bodies_by_id(clip: Clip, bodies: F32, frames_max: int) -> list[Body]:
    """(first frame, joints [t,V,C]) per body; where a source has no ids, its slots are the bodies."""
    if clip.by_id is not None:
        return [(first, joints[: frames_max - first]) for _, first, joints in clip.by_id if first < frames_max and joints.any()]
    seen: NDArray[np.bool_] = np.any(bodies, axis=(2, 3))
    filled = seen.any(0)
    seen, kept = seen[:, filled], bodies[:, filled]
    return [(int(np.argmax(here)), body[here]) for here, body in zip(seen, kept) if here.any()]


def _ctrgcn(found: list[Body], skeleton: Skeleton, second: Second) -> F32:
    """Bodies to two actors, moved so that the first actor's mid spine starts at the origin (CTR-GCN code)."""
    if not found:
        return np.zeros((0, 0, skeleton.size, 3), np.float32)
    frames = max(first + len(joints) for first, joints in found)
    chosen = _denoised(found) if len(found) > 1 else found
    actors = np.zeros((2, frames, skeleton.size, 3), np.float32)
    if len(chosen) == 1:
        actors = actors[:1]
        _place(actors[0], chosen[0])
    else:
        _cast(actors, chosen)
    actors = actors[:, actors.sum((0, 2, 3)) != 0]
    start = int(np.argmax(actors[0].any((1, 2))))
    seen = actors.sum((2, 3), keepdims=True) != 0
    if len(actors) == 1:
        seen[:] = True
    moved = np.where(seen, actors - actors[0, start, skeleton.centre], np.float32(0))
    moved = moved[seen.any((1, 2, 3))]
    return np.concatenate([moved, moved]) if second == "copy" and len(chosen) == 1 else moved


def _denoised(found: list[Body]) -> list[Body]:
    """Without short and wide bodies, by motion, most first. Where all are short (the public code fails) the one that moves most stays."""
    motions = {i: _motion(joints) for i, (_, joints) in enumerate(found)}
    left = [i for i, (_, joints) in enumerate(found) if len(joints) >= LENGTH_MIN] or [max(motions, key=lambda i: motions[i])]
    for i in list(left):
        if len(left) == 1:
            break
        joints = found[i][1]
        extent = joints.max(1) - joints.min(1)
        fine = extent[:, 0] <= np.float32(SPREAD_MAX) * extent[:, 1]
        if 1 - fine.mean() >= WIDE_SHARE_MAX:
            left.remove(i)
        elif not fine.all():
            motions[i] = min(motions[i], _motion(joints[fine]))
    return [found[i] for i in sorted(left, key=lambda i: -motions[i])]


def _motion(joints: F32) -> float:
    return float(joints.reshape(-1, 3).var(0, dtype=np.float64).sum())


def _cast(actors: F32, bodies: list[Body]) -> None:
    """The first body is actor 1; each further one joins the first actor whose interval it does not overlap, or nobody."""
    intervals = [(bodies[0][0], bodies[0][0] + len(bodies[0][1]) - 1), (0, 0)]
    _place(actors[0], bodies[0])
    for body in bodies[1:]:
        start, end = body[0], body[0] + len(body[1]) - 1
        for m, (s, e) in enumerate(intervals):
            if min(e, end) - max(s, start) <= 0:
                _place(actors[m], body)
                intervals[m] = (min(s, start), max(e, end))
                break


def _place(actor: F32, body: Body) -> None:
    actor[body[0] : body[0] + len(body[1])] = body[1]
