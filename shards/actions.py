"""Twenty actions as joint-angle programs: what moves where, in which order, and the clauses that say so.

A program is a list of phases, each a pose in degrees (shards/kinematics.py) with clauses that describe it. `near` is the side that acts,
`far` the other one; a left-handed performance is the mirror image of a right-handed one. Names follow NTU RGB+D where it has the class.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

Pose: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Beat:
    """An oscillation inside a phase: degrees, shift as a share of the cycle; cycles = the clip's count times `times`."""

    channel: str
    degrees: float
    shift: float = 0.0
    times: float = 1.0


@dataclass(frozen=True)
class Phase:
    """One stretch of a program: its share of the time, the pose at its end, alternative clauses that say it, oscillations on the way."""

    share: float
    pose: Pose
    words: tuple[str, ...] = ()
    beats: tuple[Beat, ...] = ()


@dataclass(frozen=True)
class Manner:
    """How one clip is performed; captions are written from these values.

    side: the hand or foot that acts; tempo: 1 is usual, above is faster; amplitude: 1 is usual; count: oscillations or repeats;
    variant: which of the action's ways; seated: done on a chair.
    """

    side: str
    tempo: float
    amplitude: float
    count: int
    variant: int
    seated: bool


@dataclass(frozen=True)
class Script:
    """What is done: the phases of one figure, or of two that face each other (facing = 1) or turn their backs (facing = -1).

    reach: (acting joint, receiving joint or "") which must meet, or "" with `gap` metres between the pelvises at the start.
    """

    mine: tuple[Phase, ...]
    theirs: tuple[Phase, ...] = ()
    reach: tuple[str, str] = ("", "")
    gap: float = 0.9
    facing: int = 1
    start: Pose = field(default_factory=dict)
    planted: bool = True


@dataclass(frozen=True)
class Action:
    """One class: name, usual seconds at the least count, program, fewest and most counts, ways of doing it, whether it is also done on a
    chair, whether it takes two, seconds for each count more."""

    name: str
    seconds: float
    script: Callable[[Manner], Script]
    counts: tuple[int, int] = (1, 1)
    variants: int = 1
    sits: bool = False
    pair: bool = False
    per_count: float = 0.0

    def duration(self, count: int) -> float:
        """Usual seconds with that many counts."""
        return self.seconds + self.per_count * (count - self.counts[0])


REST: Pose = {
    "both.lift": 6, "both.plane": 25, "both.twist": 20, "both.elbow": 14, "both.wrist": 5,
    "both.swing": 1, "both.spread": 4, "both.knee": 4, "bend": 2, "lean": 0, "turn": 0, "nod": 0, "look": 0, "rise": 0,
}  # fmt: skip
CHAIR: Pose = {"both.swing": 82, "both.knee": 84, "both.spread": 8, "bend": 6}
LAP: Pose = {"both.lift": 11, "both.plane": 50, "both.twist": 55, "both.elbow": 60}
ARMS_DOWN: Pose = {name: REST[name] for name in ("both.lift", "both.plane", "both.twist", "both.elbow")}
NEAR_DOWN: Pose = {name.replace("both", "near"): value for name, value in ARMS_DOWN.items()}


def _arm(which: str, lift: float, plane: float, twist: float, elbow: float) -> Pose:
    return {f"{which}.lift": lift, f"{which}.plane": plane, f"{which}.twist": twist, f"{which}.elbow": elbow}


def _drink(m: Manner) -> Script:
    mouth = _arm("near", 92, 58, 55, 126)
    cup = _arm("near", 24, 70, 40, 80)
    sips = ("drinks {times}, tipping the head back", "tilts the {side} hand at the lips {times}", "sips {times} with the {side} hand")
    mine = (
        Phase(0.2, cup, ("bends the {side} elbow and brings the {side} hand in front of the chest", "lifts a cup with the {side} hand")),
        Phase(0.25, mouth | {"nod": 4}, ("raises the {side} hand to the mouth", "brings the {side} hand up to the lips")),
        Phase(0.3, {"nod": 14}, sips, (Beat("near.elbow", 6), Beat("near.lift", 5))),
        Phase(0.25, NEAR_DOWN | {"nod": 0}, ("lowers the {side} arm", "puts the {side} hand down again")),
    )
    return Script(mine if m.variant == 0 else mine[1:])


def _phone(m: Manner) -> Script:
    ear = _arm("near", 100, 45, 22, 128)
    hold = ("holds the {side} hand at the ear", "talks with the {side} hand at the ear", "keeps the {side} hand beside the head")
    mine = (
        Phase(0.2, _arm("near", 26, 66, 40, 84), ("bends the {side} elbow in front of the body", "takes a phone with the {side} hand")),
        Phase(0.25, ear | {"lean": 3}, ("raises the {side} hand to the ear", "lifts the {side} hand to the side of the head")),
        Phase(0.35, {"look": -6}, hold, (Beat("nod", 4), Beat("near.lift", 3))),
        Phase(0.2, NEAR_DOWN | {"look": 0, "lean": 0}, ("lowers the {side} arm", "takes the {side} hand down")),
    )
    return Script(mine if m.variant == 0 else mine[1:3] if m.variant == 1 else mine[1:])


def _wave(m: Manner) -> Script:
    high = _arm("near", 100, 25, 0, 82) if m.variant == 0 else _arm("near", 48, 40, 10, 118)
    where = "above the shoulder" if m.variant == 0 else "as high as the shoulder"
    return Script((
        Phase(0.25, high, (f"raises the {{side}} hand {where}", f"lifts the {{side}} arm until the hand is {where}")),
        Phase(0.5, {}, ("swings the {side} forearm from side to side {times}", "waves the {side} hand {times}"),
              (Beat("near.twist", 26), Beat("near.elbow", 12, 0.1))),
        Phase(0.25, NEAR_DOWN, ("lets the {side} arm sink", "lowers the {side} hand to the side")),
    ))  # fmt: skip


def _throw(m: Manner) -> Script:
    back = _arm("near", 78, -28, -5, 108) if m.variant == 0 else _arm("near", 42, -80, 0, 18)
    front = _arm("near", 92, 86, 30, 26) if m.variant == 0 else _arm("near", 74, 84, 10, 22)
    way = "overarm" if m.variant == 0 else "underarm"
    drawn = "behind the head" if m.variant == 0 else "behind the hip"
    return Script((
        Phase(0.35, back | {"turn": -22, "far.swing": 12},
              (f"draws the {{side}} hand back {drawn}", f"winds up with the {{side}} arm {drawn}")),
        Phase(0.24, front | {"turn": 18, "bend": 14},
              (f"flings the {{side}} arm forward {way}", f"throws forward {way} with the {{side}} hand")),
        Phase(0.15, _arm("near", 40, 105, 30, 30) | {"bend": 18},
              ("follows through across the body", "lets the {side} arm swing down across the body")),
        Phase(0.3, NEAR_DOWN | {"turn": 0, "bend": 2, "far.swing": 1}, ("comes back to rest", "drops the {side} arm")),
    ))  # fmt: skip


SITTING = CHAIR | LAP
HALFWAY: Pose = {"both.swing": 52, "both.knee": 62, "bend": 38, "both.lift": 24, "both.plane": 75, "both.elbow": 30}


def _sit(m: Manner) -> Script:
    end = SITTING if m.variant == 0 else CHAIR | ARMS_DOWN
    rest = "lays both hands on the lap" if m.variant == 0 else "lets both arms hang"
    return Script((
        Phase(0.5, HALFWAY, ("bends both knees and leans the trunk forward", "leans forward while the hips go back and down")),
        Phase(0.35, end, ("sits down on a seat", "lowers the hips onto a chair")),
        Phase(0.15, {}, (f"{rest}", "stays seated")),
    ))  # fmt: skip


def _stand(m: Manner) -> Script:
    start = SITTING if m.variant == 0 else CHAIR | ARMS_DOWN
    return Script((
        Phase(0.4, HALFWAY, ("leans the trunk forward from a seat", "shifts the weight forward on the chair")),
        Phase(0.4, REST, ("straightens both knees and rises", "pushes up with both legs until upright")),
        Phase(0.2, {}, ("stands upright", "remains standing with both arms down")),
    ), start=start)  # fmt: skip


SLEEVE_NEAR = _arm("near", 28, -48, 0, 70)
SLEEVE_FAR = _arm("far", 28, -48, 0, 70)
COLLAR_NEAR = _arm("near", 48, 60, 46, 134)
COLLAR_FAR = _arm("far", 48, 60, 46, 134)
LAPELS = _arm("both", 26, 66, 44, 118)


def _jacket_on(m: Manner) -> Script:
    first, second = ("near", "far") if m.variant == 0 else ("far", "near")
    a, b = ("{side}", "{other}") if m.variant == 0 else ("{other}", "{side}")
    return Script((
        Phase(0.14, _arm(second, 30, 74, 44, 96) | _arm(first, 22, 40, 20, 50),
              (f"holds a jacket with the {b} hand", "holds a jacket in front")),
        Phase(0.2, _arm(first, 30, -46, 0, 66) | {"turn": -8 if m.variant == 0 else 8},
              (f"pushes the {a} arm backwards into a sleeve", f"slides the {a} hand down and back into the jacket")),
        Phase(0.18, _arm(first, 46, 60, 46, 130), (f"pulls the collar over the {a} shoulder", f"brings the {a} hand up to the shoulder")),
        Phase(0.22, _arm(second, 32, -48, 0, 68) | {"turn": 8 if m.variant == 0 else -8},
              (f"puts the {b} arm into the other sleeve", f"reaches back with the {b} arm")),
        Phase(0.16, LAPELS | {"turn": 0}, ("pulls the front closed with both hands", "tugs the jacket with both hands"),
              (Beat("both.elbow", 6),)),
        Phase(0.1, ARMS_DOWN, ("lowers both arms",)),
    ))  # fmt: skip


def _jacket_off(m: Manner) -> Script:
    first, second = ("near", "far") if m.variant == 0 else ("far", "near")
    a, b = ("{side}", "{other}") if m.variant == 0 else ("{other}", "{side}")
    return Script((
        Phase(0.16, LAPELS, ("opens a jacket with both hands", "takes hold of the front of a jacket"), (Beat("both.elbow", 6),)),
        Phase(0.18, _arm(second, 46, 60, 46, 130) | {"turn": 8 if m.variant == 0 else -8},
              (f"pushes the collar off the {b} shoulder", f"lifts the {b} hand to the shoulder")),
        Phase(0.2, _arm(second, 32, -48, 0, 68),
              (f"draws the {b} arm backwards out of the sleeve", f"moves the {b} arm down behind the back")),
        Phase(0.2, _arm(first, 30, -46, 0, 66) | _arm(second, 36, 74, 44, 92) | {"turn": -8 if m.variant == 0 else 8},
              (f"slips the {a} arm out of the other sleeve", f"pulls the sleeve from the {a} arm behind the back")),
        Phase(0.14, _arm(first, 22, 40, 20, 50) | {"turn": 0}, (f"holds the jacket with the {b} hand", "holds the jacket in front")),
        Phase(0.12, ARMS_DOWN, ("lowers both arms",)),
    ))  # fmt: skip


PALMS = _arm("both", 24, 68, 60, 104)


def _clap(m: Manner) -> Script:
    high = PALMS if m.variant == 0 else _arm("both", 62, 72, 62, 92)
    where = "in front of the chest" if m.variant == 0 else "in front of the face"
    return Script((
        Phase(0.2, high, (f"lifts both hands {where}", f"brings both hands together {where}")),
        Phase(0.6, {}, ("claps {times}", "strikes the palms together {times}", "moves both hands apart and together {times}"),
              (Beat("both.twist", 15), Beat("both.plane", 7))),
        Phase(0.2, ARMS_DOWN, ("lowers both arms", "drops both hands")),
    ))  # fmt: skip


def _rub(m: Manner) -> Script:
    high = PALMS if m.variant == 0 else _arm("both", 14, 62, 62, 84)
    where = "in front of the chest" if m.variant == 0 else "in front of the belly"
    return Script((
        Phase(0.2, high, (f"brings both hands together {where}", f"joins the hands {where}")),
        Phase(0.6, {}, ("rubs the palms against each other {times}", "slides one hand up while the other goes down {times}"),
              (Beat("near.elbow", 9), Beat("far.elbow", -9), Beat("near.lift", 4), Beat("far.lift", -4))),
        Phase(0.2, ARMS_DOWN, ("lowers both arms", "takes the hands apart and down")),
    ))  # fmt: skip


def _palms(m: Manner) -> Script:
    high = _arm("both", 30, 68, 60, 110) if m.variant == 0 else _arm("both", 52, 72, 58, 108)
    where = "in front of the chest" if m.variant == 0 else "under the chin"
    return Script((
        Phase(0.35, high, (f"puts the palms together {where}", f"lifts both hands and presses them together {where}")),
        Phase(0.4, {"nod": -10, "bend": 8}, ("holds the palms still and bows the head", "keeps both hands pressed together"),
              (Beat("nod", 3),)),
        Phase(0.25, ARMS_DOWN | {"nod": 0, "bend": 2}, ("lowers both arms", "lets both hands sink")),
    ))  # fmt: skip


def _leg_kick(high: float) -> tuple[Phase, ...]:
    arms: Pose = {"far.lift": 24, "far.plane": 60, "near.lift": 20, "near.plane": -20}
    return (
        Phase(0.3, {"near.swing": -24, "near.knee": 55, "bend": 8} | arms,
              ("swings the {side} leg back", "bends the {side} knee behind the body")),
        Phase(0.22, {"near.swing": high, "near.knee": 8, "bend": -6, "far.knee": 14},
              ("kicks forward with the {side} foot", "swings the {side} leg forward and up")),
        Phase(0.2, {"near.swing": 20, "near.knee": 40, "bend": 2}, ("bends the {side} knee again", "pulls the {side} foot back")),
        Phase(0.28, {"near.swing": 1, "near.knee": 4, "far.knee": 4} | ARMS_DOWN,
              ("puts the {side} foot down", "sets the {side} foot on the floor")),
    )  # fmt: skip


def _kick(m: Manner) -> Script:
    return Script(_leg_kick(44 if m.variant == 0 else 66))


def _kick_other(m: Manner) -> Script:
    theirs = (
        Phase(0.42, {}),
        Phase(0.16, {"bend": 24, "forward": -0.05, "both.lift": 22, "both.plane": 75, "both.elbow": 50, "near.knee": 16},
              ("folds forward and steps back", "bends the trunk and draws both arms in")),
        Phase(0.42, {"bend": 4} | ARMS_DOWN),
    )  # fmt: skip
    return Script(_leg_kick(60 if m.variant == 0 else 74), theirs, reach=("FootRight", ""))


def _pick_up(m: Manner) -> Script:
    stoop = {"bend": 78, "both.swing": 26, "both.knee": 34} if m.variant == 0 else {"bend": 44, "both.swing": 100, "both.knee": 118}
    how = "bends the trunk far down" if m.variant == 0 else "squats with both knees bent"
    return Script((
        Phase(0.4, stoop | _arm("near", 80, 86, 10, 10) | {"far.lift": 12}, (f"{how} and reaches to the floor with the {{side}} hand",)),
        Phase(0.15, {"near.elbow": 22}, ("grasps something with the {side} hand", "picks something up with the {side} hand")),
        Phase(0.45, {"bend": 3, "both.swing": 1, "both.knee": 4, "far.lift": 6} | _arm("near", 22, 68, 34, 78),
              ("comes up again with the {side} elbow bent", "straightens up and keeps the {side} hand in front of the belly")),
    ))  # fmt: skip


def _jump(m: Manner) -> Script:
    crouch = {"both.swing": 48, "both.knee": 74, "bend": 28} | _arm("both", 34, -80, 0, 20)
    raised = _arm("both", 120, 82, 10, 20) if m.variant == 0 else _arm("both", 20, 60, 20, 30)
    up: Pose = {"both.swing": 2, "both.knee": 6, "bend": 0, "rise": 0.13} | raised
    arms = "swings both arms up" if m.variant == 0 else "keeps both arms low"
    land = {"both.swing": 34, "both.knee": 54, "bend": 18, "rise": 0.0} | _arm("both", 20, 40, 20, 24)
    one = (
        Phase(0.3, crouch, ("crouches with both knees bent", "bends both knees")),
        Phase(0.2, up, (f"jumps up {{times}} and {arms}", f"leaps off the floor {{times}} and {arms}")),
        Phase(0.2, land, ("lands on both feet", "comes down with bent knees")),
    )
    again = tuple(replace(phase, words=()) for phase in one) * (m.count - 1)
    return Script((*one, *again, Phase(0.3, REST, ("stands upright again",))))


def _punch(m: Manner) -> Script:
    guard = _arm("near", 20, 60, 30, 128) | _arm("far", 20, 66, 34, 120 if m.variant == 0 else 30)
    theirs = (
        Phase(0.42, {}),
        Phase(0.14, {"bend": -12, "nod": 16, "turn": 14, "forward": -0.04}, ("jerks the head back", "sways back and turns away")),
        Phase(0.44, {"bend": 2, "nod": 0, "turn": 0}),
    )
    return Script((
        Phase(0.3, guard | {"turn": -16}, ("pulls the {side} fist back to the shoulder", "raises the {side} fist")),
        Phase(0.18, _arm("near", 88, 94, 22, 12) | {"turn": 20, "bend": 10},
              ("punches at the head with the {side} fist", "strikes out with the {side} hand")),
        Phase(0.22, guard | {"turn": 0, "bend": 3}, ("draws the {side} fist back", "pulls the {side} arm in again")),
        Phase(0.3, ARMS_DOWN, ("lowers both arms",)),
    ), theirs, reach=("HandRight", ""))  # fmt: skip


def _push(m: Manner) -> Script:
    theirs = (
        Phase(0.45, {}),
        Phase(0.2, {"bend": -10, "forward": -0.16, "both.lift": 26, "both.plane": 60, "near.swing": -14},
              ("stumbles back a step", "is moved backwards and lifts both arms")),
        Phase(0.35, {"bend": 3, "near.swing": 1} | ARMS_DOWN),
    )  # fmt: skip
    return Script((
        Phase(0.3, _arm("both", 24, 60, 30, 118) | {"bend": 4}, ("raises both hands to the chest", "bends both elbows")),
        Phase(0.22, _arm("both", 74, 82, 34, 34) | {"bend": 16, "near.swing": 18},
              ("pushes forward with both hands", "straightens both arms against the chest of the other")),
        Phase(0.18, {}, ("keeps both arms out",) if m.variant == 0 else ()),
        Phase(0.3, ARMS_DOWN | {"bend": 3, "near.swing": 1}, ("lowers both arms", "lets both hands drop")),
    ), theirs, reach=("HandRight", ""))  # fmt: skip


def _handshake(m: Manner) -> Script:
    out = (
        Phase(0.3, _arm("near", 42, 88, 34, 54) | {"bend": 6}, ("holds out the {side} hand", "reaches forward with the {side} hand")),
        Phase(0.42, {}, ("shakes the other's hand up and down {times}", "moves the joined hands up and down {times}"),
              (Beat("near.lift", 6), Beat("near.elbow", 5))),
        Phase(0.28, NEAR_DOWN | {"bend": 2}, ("lets go and lowers the {side} arm", "drops the {side} hand")),
    )  # fmt: skip
    answer = replace(out[0], words=("takes it with the same hand", "meets it with the {side} hand"))
    theirs = (answer, *(replace(phase, words=()) for phase in out[1:]))
    return Script(out, theirs, reach=("HandRight", "HandRight"))


STEPS = (
    Beat("near.swing", 24, 0, 0.5), Beat("far.swing", -24, 0, 0.5), Beat("near.knee", 18, 0.3, 0.5), Beat("far.knee", -18, 0.3, 0.5),
    Beat("near.lift", -14, 0, 0.5), Beat("far.lift", 14, 0, 0.5),
)  # fmt: skip
"""One cycle is two steps, hence the halves; the arms swing against the legs."""


def _walk(m: Manner, facing: int) -> Script:
    stride = {"both.plane": 85.0, "both.lift": 2.0, "both.knee": 18.0}
    whole, still = 0.42, 0.42 if m.variant == 0 else 0.0
    away = "away from the other" if facing < 0 else "towards the other"
    said = (f"walks {away}, {{steps}}", f"takes {{steps}} {away}")
    halt = Phase(0.15, REST, ("stops with both arms down", "comes to a halt"))
    mine = (Phase(0.1, stride), Phase(0.75, {"forward": whole}, said, STEPS), halt)
    answer = ("does the same", "walks as well") if still else ("stands still", "waits")
    theirs = (Phase(0.1, stride if still else {}), Phase(0.75, {"forward": still}, answer, STEPS if still else ()), Phase(0.15, REST))
    return Script(mine, theirs, gap=0.75 if facing < 0 else 0.8 + 1.7 * (whole + still), facing=facing, planted=False)


ACTIONS: tuple[Action, ...] = (
    Action("drink water", 2.3, _drink, (1, 3), 2, sits=True, per_count=0.25),
    Action("handshaking", 1.8, _handshake, (2, 4), pair=True, per_count=0.25),
    Action("sit down", 1.8, _sit, variants=2),
    Action("stand up (from sitting position)", 1.7, _stand, variants=2),
    Action("hand waving", 1.8, _wave, (2, 4), 2, sits=True, per_count=0.35),
    Action("throw", 1.7, _throw, variants=2),
    Action("punch/slap other person", 1.7, _punch, variants=2, pair=True),
    Action("put on jacket", 2.7, _jacket_on, variants=2),
    Action("take off jacket", 2.7, _jacket_off, variants=2),
    Action("clapping", 1.7, _clap, (2, 5), 2, sits=True, per_count=0.25),
    Action("pushing other person", 1.8, _push, variants=2, pair=True),
    Action("rub two hands", 1.7, _rub, (2, 5), 2, sits=True, per_count=0.25),
    Action("phone call", 2.3, _phone, (1, 3), 3, sits=True),
    Action("kicking something", 1.7, _kick, variants=2),
    Action("kicking other person", 1.7, _kick_other, variants=2, pair=True),
    Action("pick up", 2.2, _pick_up, variants=2),
    Action("put palms together", 2.1, _palms, (1, 2), 2, sits=True),
    Action("walking towards", 2.0, partial(_walk, facing=1), (3, 5), 2, pair=True, per_count=0.25),
    Action("jump up", 1.5, _jump, (1, 2), 2, per_count=0.8),
    Action("walking apart", 2.0, partial(_walk, facing=-1), (3, 5), 2, pair=True, per_count=0.25),
)
