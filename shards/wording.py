"""Captions of the synthetic set: sentences put together from what a performance did, in varying words."""

from collections.abc import Sequence

import numpy as np

from shards.actions import Phase
from shards.performance import FRAMES_PER_SECOND, Performance

LONGEST = 60
"""Words of a caption at most."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_TIMES = ("never", "once", "twice", *(f"{word} times" for word in _NUMBERS[3:]))


def caption(performance: Performance, rng: np.random.Generator) -> str:
    """One to three sentences, at most LONGEST words: which limb moves where and in which order, side, tempo, extent, counts, distance."""
    mine = _clauses(performance, performance.script.mine, rng)
    partner = _one(("the other person", "the second one", "the partner"), rng)
    theirs = [f"{partner} {said}" for said in _clauses(performance, performance.script.theirs, rng)[:1]]
    if len(mine) > 2:
        mine = mine[int(rng.random() < 0.25) : len(mine) - int(rng.random() < 0.35)]
    scene, who = _scene(performance, rng)
    detail = _detail(performance, rng)
    pace = _pace(performance.manner.tempo, rng)
    link, split = _one((", then ", ", after that ", ", and then "), rng), bool(rng.random() < 0.5)
    while len((text := _sentences(scene, who, mine, theirs, pace, detail, link, split)).split()) > LONGEST:
        mine, detail = mine[:-1], ""
    return text


def _clauses(performance: Performance, phases: Sequence[Phase], rng: np.random.Generator) -> list[str]:
    manner = performance.manner
    facts = {
        "side": manner.side,
        "other": "left" if manner.side == "right" else "right",
        "times": _TIMES[manner.count],
        "steps": f"{_NUMBERS[manner.count]} steps",
    }
    return [_one(phase.words, rng).format(**facts) for phase in phases if phase.words]


def _scene(performance: Performance, rng: np.random.Generator) -> tuple[str, str]:
    """A sentence about the scene (may be empty) and how the actor is called."""
    height = performance.performers[0].body.height
    adjective = "tall " if height > 1.78 else "short " if height < 1.62 else ""
    if len(performance.performers) == 1:
        where = _one(("sitting", "on a chair", "seated"), rng) if performance.manner.seated else ""
        scene = f"it is a {adjective}person" if adjective else ""
        scene = f"{scene}, {where}" if scene and where else scene or (f"this is done {where}" if where else "")
        return scene, _one(("a person", "the person", "a performer", "the performer"), rng)
    apart = _distance(performance.gap)
    stance = "face each other" if performance.script.facing > 0 else "stand back to back"
    said = (
        f"Two people {stance} {apart} apart",
        f"Two persons {stance}, {apart} between them",
        f"At a distance of {apart} two people {stance}",
    )
    who = f", the first one is {adjective.strip()}" if adjective else ""
    return _one(said, rng) + who, _one(("one person", "the first", "one performer", "one actor"), rng)


def _distance(metres: float) -> str:
    if metres < 0.6:
        return "about half a metre"
    if metres < 0.85:
        return "less than a metre"
    if metres < 1.2:
        return "about one metre"
    return "more than two metres" if metres > 2 else "one to two metres"


def _detail(performance: Performance, rng: np.random.Generator) -> str:
    """A closing sentence about the manner, or none."""
    manner, facts = performance.manner, []
    if manner.amplitude > 1.07:
        facts.append(_one(("The movement is large", "The gesture is wide", "All of it is done with a big motion"), rng))
    if manner.amplitude < 0.93:
        facts.append(_one(("The movement is small", "The gesture stays close to the body", "All of it is done with little motion"), rng))
    seconds = len(performance.joints) / FRAMES_PER_SECOND
    length = "less than two seconds" if seconds < 1.75 else "about two seconds" if seconds < 2.5 else "nearly three seconds"
    facts.append(_one((f"It takes {length}", "", ""), rng))
    return _one(facts, rng)


def _pace(tempo: float, rng: np.random.Generator) -> str:
    if tempo > 1.15:
        return _one(("quickly", "briskly", "in a fast way"), rng)
    if tempo < 0.87:
        return _one(("slowly", "without haste", "in a slow way"), rng)
    return _one(("", "at a steady pace", ""), rng)


def _sentences(scene: str, who: str, mine: Sequence[str], theirs: Sequence[str], pace: str, detail: str, link: str, split: bool) -> str:
    # what is done comes first: AC-SAR reads a caption by word position, and a scene of varying length would push the verb about
    first, rest = mine[0], list(mine[1:])
    if split and len(rest) > 1:
        body = [f"{who} {first}{link}{rest[0]}", "next, this person " + " and ".join(rest[1:])]
    else:
        body = [f"{who} " + link.join([first, *rest])]
    body[-1] = f"{body[-1]}, all {pace}" if pace else body[-1]
    sentences = [*body, *theirs, scene, detail]
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences if sentence)


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
