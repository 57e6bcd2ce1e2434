"""The captioner `motion`: a caption written from the skeleton alone, by geometry; for sets without video, and the offline default.

Which limbs move, where to, how fast, in which order, how often; postures that change; of two people how they stand to each other.
Left and right are the person's own. It knows no classes and reads no labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from jobs.caption_arms import arm_events, hands_held
from jobs.caption_body import body_events, seated
from jobs.caption_events import Event, number
from jobs.caption_figures import FRAMES_PER_SECOND, SIDES, Figure, figures, smooth
from jobs.caption_record import Answer, Ask
from shards.samples import Clip

REVISION = "2"
"""Of the wording: another one gives other captions of the same clip."""

LONGEST = 64
"""Words and punctuation marks at most: every word used here is one CLIP token (tests look), so that 75 are never passed."""


@dataclass(frozen=True)
class MotionCaptioner:
    """Captions by geometry. `sees` a skeleton; needs no weights and no labels."""

    name: str = "motion"
    model: str = "jobs/caption_motion.py"
    revision: str = REVISION
    provenance: str = "motion"
    sees: Literal["strip", "skeleton", "nothing"] = "skeleton"
    decode: dict[str, Any] = field(default_factory=lambda: {"longest": LONGEST})

    def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """One caption for each; a clip without body is its answer's error. ValueError for a question without skeleton."""
        return [_answer(ask) for ask in asks]


def motion_captioner() -> MotionCaptioner:
    """The captioner that describes skeletons."""
    return MotionCaptioner()


def _answer(ask: Ask) -> Answer:
    if ask.skeleton is None:
        raise ValueError(f"{ask.key}: the captioner motion looks at skeletons; the question has none")
    people = figures(ask.skeleton)
    return Answer((describe(people),)) if people else Answer(error="no body in any frame")


def caption(clip: Clip) -> str:
    """The caption of one clip; "" where no frame holds a body."""
    people = figures(clip)
    return describe(people) if people else ""


def describe(people: Sequence[Figure]) -> str:
    """At most LONGEST words and marks about one or two persons. What is done comes first, as a reader by word position wants it."""
    told = [_events(person) for person in people]
    scene = _scene(people)
    kept = [_heaviest(events, 5 if len(people) == 1 else 4) for events in told]
    while True:
        text = _text(kept, people, scene)
        if _length(text) <= LONGEST or sum(map(len, kept)) <= 1:
            return text
        longest = max(kept, key=len) if len(kept[0]) < 4 else kept[0]
        longest.remove(min(longest, key=lambda event: event.weight))


def _length(text: str) -> int:
    return len(text.replace(",", " ,").replace(".", " .").split())


def _events(person: Figure) -> list[Event]:
    if person.frames < 8:
        return []
    body, arms = body_events(person), arm_events(person)
    if any(event.words.startswith(("walks", "runs")) for event in body):
        arms = [replace(event, weight=event.weight - 1.2) for event in arms]
    return sorted([*body, *arms], key=lambda event: event.start)


def _heaviest(events: list[Event], count: int) -> list[Event]:
    chosen = sorted(events, key=lambda event: -event.weight)[:count]
    return [event for event in events if event in chosen and event.weight > 0.9]


def _clauses(events: Sequence[Event]) -> str:
    """Events in their order; what overlaps in time is told with "while"."""
    parts: list[str] = []
    last: Event | None = None
    for event in events:
        words = event.words + (f" and {event.after}" if event.after else "")
        if last is None:
            parts.append(words)
        elif last.words == event.words:
            continue
        elif event.start < last.start + 0.5 * (last.stop - last.start) and event.limb != last.limb:
            parts.append(f", and {words}")
        else:
            parts.append(f", then {words}")
        last = event
    return "".join(parts)


def _text(kept: Sequence[Sequence[Event]], people: Sequence[Figure], scene: str) -> str:
    if len(people) == 1:
        posture = _posture(people[0])
        if kept[0]:
            return _sentences(f"A person {_clauses(kept[0])}", scene)
        return _sentences(f"A person {posture} and hardly moves", scene)
    first = _clauses(kept[0]) or f"{_posture(people[0])} and hardly moves"
    second = _clauses(kept[1]) or "hardly moves"
    return _sentences(f"One person {first}", f"the other {second}", scene)


def _posture(person: Figure) -> str:
    return "sits" if seated(person).mean() > 0.6 else "stands"


def _sentences(*parts: str) -> str:
    return " ".join(part[0].upper() + part[1:] + "." for part in parts if part)


def _scene(people: Sequence[Figure]) -> str:
    """Posture, tempo and time; of two people how they stand to each other and whether they come closer."""
    seconds = people[0].frames / FRAMES_PER_SECOND
    if len(people) == 2:
        return _pair(people)
    person = people[0]
    if person.frames < 8:
        return ""
    held = hands_held(person)
    whole = max(round(seconds), 1)
    long = f"This takes about {number(whole)} second{'s' if whole > 1 else ''}"
    return long + (", sitting" if seated(person).mean() > 0.8 else "") + (f", with {held}" if held else "")


def _pair(people: Sequence[Figure]) -> str:
    a, b = people
    between = smooth((b.at("SpineBase") - a.at("SpineBase")) * np.array([1.0, 0.0, 1.0]), 2.0)
    distance = np.linalg.norm(between, axis=1)
    unit = between / np.maximum(distance, 1e-6)[:, None]
    towards = float(np.median((a.ahead * unit).sum(1))), float(np.median((b.ahead * -unit).sum(1)))
    if min(towards) > 0.4:
        stance = "they face each other"
    elif max(towards) < -0.4:
        stance = "they stand back to back"
    elif abs(float(np.median((a.ahead * b.ahead).sum(1)))) > 0.6 and max(map(abs, towards)) < 0.6:
        stance = "they stand side by side"
    else:
        stance = "they are turned to different sides"
    start, end = float(distance[: max(len(distance) // 8, 1)].mean()), float(distance[-max(len(distance) // 8, 1) :].mean())
    if abs(end - start) > 0.25:
        change = "come closer" if end < start else "move apart"
        ends = f"from {_apart(start)} to {_apart(end)}" if _apart(start) != _apart(end) else f"about {_apart(end)}"
        return f"{stance} and {change}, {ends}"
    return f"{stance}, {_apart(float(np.median(distance)))} apart{_touch(a, b)}"


def _touch(a: Figure, b: Figure) -> str:
    """Which hand or foot of one comes to which part of the other."""
    found = []
    for mine, theirs in ((a, b), (b, a)):
        ends = [(f"{side} hand", mine.hand(side)) for side in SIDES] + [(f"{side} foot", mine.at("Ankle" + side.title())) for side in SIDES]
        goals = [(f"{side} hand", theirs.hand(side)) for side in SIDES]
        goals += [("head", theirs.at("Head")), ("chest", theirs.at("Top")), ("belly", theirs.at("SpineMid"))]
        for end, where in ends:
            for goal, place in goals:
                if "foot" in end and "hand" in goal:
                    continue
                near = float(np.quantile(np.linalg.norm(where - place, axis=1), 0.05))
                start = float(np.linalg.norm(where[: max(len(where) // 10, 1)] - place[: max(len(where) // 10, 1)], axis=1).mean())
                if near < (0.45 if "foot" in end else 0.32) and start > near + 0.25:
                    found.append((near - (0.08 if "hand" in goal else 0), end, goal))
    if not found:
        return ""
    _, end, goal = min(found)
    return f", a {end} meets a hand" if "hand" in goal else f", a {end} reaches the {goal}"


def _apart(metres: float) -> str:
    for most, words in ((0.65, "half a metre"), (1.25, "a metre"), (1.75, "one and a half metres"), (2.4, "two metres")):
        if metres < most:
            return words
    return "three metres"
