"""An action done by people: who they are, how this clip goes, and the joint positions that follow.

Every draw comes from the generators handed in; what belongs to the person, to the person's way of doing an action and to the single
clip are three generators, so that a person is recognisable across clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shards.actions import CHAIR, LAP, REST, Action, Manner, Phase, Script
from shards.kinematics import CHANNELS, INDEX, JOINT, SIDED, Array, Body, about_y, draw_body, forward, mirrored

FRAMES_PER_SECOND = 30

_SPREAD: Mapping[str, float] = {
    "lift": 10, "plane": 13, "twist": 14, "elbow": 11, "wrist": 9, "swing": 4, "spread": 3, "knee": 5,
    "bend": 5, "lean": 4, "turn": 7, "nod": 7, "look": 8, "rise": 0, "forward": 0,
}  # fmt: skip
_DEGREES = np.array([_SPREAD[name.rpartition(".")[2]] for name in CHANNELS])
"""How far people differ in each channel, one standard deviation."""

_ACTING = {"near": ("right",), "far": ("left",), "both": ("right", "left")}
_PHASES_AT_MOST = 12
_QUICKEST = 9
"""Frames that the quickest phases take, nearly a third of a second."""


@dataclass(frozen=True)
class Performer:
    """A person: body, habitual offset of every channel [K] in degrees, usual tempo and amplitude, preferred hand, restlessness."""

    body: Body
    posture: Array
    tempo: float
    amplitude: float
    side: str
    restless: float


@dataclass(frozen=True)
class Performance:
    """What happened on the stage (metres, y up, floor at 0): joints [T,M,25,3], the facts that captions tell; gap: metres between two."""

    joints: Array
    manner: Manner
    script: Script
    performers: tuple[Performer, ...]
    gap: float


def draw_performer(rng: np.random.Generator) -> Performer:
    """One in five prefers the left hand."""
    return Performer(
        body=draw_body(rng),
        posture=_posture(rng),
        tempo=float(np.exp(rng.normal(0, 0.14))),
        amplitude=float(np.clip(rng.normal(1, 0.09), 0.8, 1.2)),
        side="left" if rng.random() < 0.2 else "right",
        restless=float(rng.uniform(0.1, 0.35)),
    )


def _posture(rng: np.random.Generator) -> Array:
    """[K] degrees: how this person stands; mostly alike on both sides."""
    own, alike = rng.normal(0, 0.2, len(CHANNELS)), rng.normal(0, 0.45, len(CHANNELS))
    sides = len(SIDED)
    alike[sides : 2 * sides] = alike[:sides]
    return np.asarray((own + alike) * _DEGREES)


def draw_manner(action: Action, performer: Performer, habit: np.random.Generator, rng: np.random.Generator) -> Manner:
    """This clip's way: mostly the person's own (performer, habit), at times another."""
    favourite, seated = int(habit.integers(action.variants)), bool(habit.random() < 0.3)
    other = {"left": "right", "right": "left"}[performer.side]
    return Manner(
        side=performer.side if rng.random() < 0.88 else other,
        tempo=performer.tempo * float(np.exp(rng.normal(0, 0.1))),
        amplitude=performer.amplitude * float(np.clip(rng.normal(1, 0.06), 0.85, 1.15)),
        count=int(rng.integers(action.counts[0], action.counts[1] + 1)),
        variant=favourite if rng.random() < 0.7 else int(rng.integers(action.variants)),
        seated=action.sits and seated,
    )


def perform(
    action: Action, manner: Manner, performers: Sequence[Performer], habit: np.random.Generator, rng: np.random.Generator,
    frames: tuple[int, int] = (40, 90),
) -> Performance:  # fmt: skip
    """Joints of one clip. performers: the actor and, for an action of two, the other one; frames: fewest and most."""
    script = action.script(manner)
    length = int(np.clip(round(action.duration(manner.count) * FRAMES_PER_SECOND / manner.tempo * rng.uniform(0.9, 1.1)), *frames))
    habits = habit.normal(0, 0.8, (_PHASES_AT_MOST, len(CHANNELS)))
    figures = []
    for performer, phases in zip(performers, (script.mine, script.theirs)):
        chair = {**CHAIR, **{name.replace("both", "far"): value for name, value in LAP.items()}} if manner.seated else {}
        start = {**REST, **chair, **script.start}
        angles = _timeline(phases, start, manner, length, habits, rng) + performer.posture + _sway(length, performer.restless, rng)
        figures.append(forward(performer.body, angles, script.planted))
    gap = _gap(script, figures, rng)
    if manner.side == "left":
        figures = [mirrored(figure) for figure in figures]
    return Performance(_placed(figures, gap, script.facing, rng), manner, script, tuple(performers[: len(figures)]), gap)


def _timeline(
    phases: Sequence[Phase], start: Mapping[str, float], manner: Manner, frames: int, habits: Array, rng: np.random.Generator
) -> Array:
    """[T,K] degrees: eased from pose to pose, each pose missed by the person's habit and by chance, with the oscillations on top."""
    rest = _pose(np.zeros(len(CHANNELS)), REST)
    poses = [_pose(rest, start)]
    for phase, habit in zip(phases, habits):
        target = _pose(poses[-1], {})
        missed = (habit + rng.normal(0, 0.45, len(CHANNELS))) * _DEGREES
        for name, value in phase.pose.items():
            for i in _indices(name):
                target[i] = rest[i] + (value - rest[i]) * manner.amplitude + missed[i]
        poses.append(target)
    shares = np.array([phase.share for phase in phases]) * np.exp(rng.normal(0, 0.2, len(phases)))
    shares = np.maximum(shares / shares.sum(), _QUICKEST / frames)
    lead, tail = rng.uniform(0.0, 0.16), rng.uniform(0.0, 0.12)
    ends = lead + np.cumsum(shares) / shares.sum() * (1 - lead - tail)
    begins = np.concatenate([[lead], ends[:-1]])
    clock = np.linspace(0, 1, frames)[:, None]
    u = np.clip((clock - begins) / (ends - begins), 0, 1) ** np.exp(rng.normal(0, 0.15, len(phases)))
    angles: Array = poses[0] + (u**3 * (10 - 15 * u + 6 * u**2)) @ np.diff(np.stack(poses), axis=0)
    for phase, part in zip(phases, u.T):
        fade = np.minimum(1, 5 * np.minimum(part, 1 - part))
        jitter = rng.normal(0, 0.04)
        for beat in phase.beats:
            cycles = manner.count * beat.times * part + beat.shift + jitter
            for i in _indices(beat.channel):
                angles[:, i] += beat.degrees * manner.amplitude * fade * np.sin(2 * np.pi * cycles)
    return angles


def _sway(frames: int, restless: float, rng: np.random.Generator) -> Array:
    """[T,K] degrees: slow idle motion of every channel, two sinusoids each."""
    time = np.arange(frames)[:, None, None] / FRAMES_PER_SECOND
    speed, phase = rng.uniform(0.1, 0.8, (len(CHANNELS), 2)), rng.uniform(0, 1, (len(CHANNELS), 2))
    return np.asarray(np.sin(2 * np.pi * (speed * time + phase)).sum(-1) * _DEGREES * restless)


def _gap(script: Script, figures: Sequence[Array], rng: np.random.Generator) -> float:
    """Metres between two pelvises: so that what must meet meets, nearly."""
    if len(figures) == 1:
        return 0.0
    if not script.reach[0]:
        return float(script.gap * rng.uniform(0.85, 1.15))
    reached = [float(-figure[:, JOINT[name], 2].min()) if name else 0.12 for figure, name in zip(figures, script.reach)]
    return max(0.45, sum(reached) + float(rng.normal(0, 0.05)))


def _placed(figures: Sequence[Array], gap: float, facing: int, rng: np.random.Generator) -> Array:
    """[T,M,25,3] on the stage: one turned roughly to the middle camera, two on a line roughly across its view."""
    heading = rng.uniform(-25, 25) + (0 if len(figures) == 1 else rng.choice([-90, 90]))
    placed = []
    for figure, away in zip(figures, (1, -1)):
        turned = figure @ about_y(0 if away * facing > 0 else 180).T
        placed.append((turned + np.array([0, 0, away * gap / 2])) @ about_y(heading).T)
    spot = np.array([rng.uniform(-0.25, 0.25), 0, rng.uniform(-0.25, 0.25)])
    return np.asarray(np.stack(placed, 1) + spot)


def _pose(before: Array, named: Mapping[str, float]) -> Array:
    after = before.copy()
    for name, value in named.items():
        after[list(_indices(name))] = value
    return after


def _indices(name: str) -> tuple[int, ...]:
    """Channel numbers of a program's name: the acting side is the right one here, and mirrored afterwards."""
    which, dot, channel = name.partition(".")
    return tuple(INDEX[f"{side}.{channel}"] for side in _ACTING[which]) if dot else (INDEX[name],)
