"""What the arms do: where the hands are relative to the body, from where to where they go, what they repeat, and what they do together."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jobs.caption_events import Event, often, pace, speed
from jobs.caption_figures import FRAMES_PER_SECOND, SIDES, Array, Figure, bent, smooth, thigh
from jobs.caption_moves import Pose, Repetition, poses, repetition

# In arms' lengths: how far a path must leave the straight way to have a turning point, and how near is still the same place.
_APART, _REST, _LEAST_MOVE = 0.24, 0.17, 0.25
_WAYS = ("from side to side", "up and down", "forward and back")


@dataclass(frozen=True)
class Place:
    """Where a hand is. where completes "the hand is ..."; to completes "lifts the hand ..."; kind: rest, floor, knee, over, out, head,
    back, front; height: of the hand above the shoulder along the trunk, in arms' lengths."""

    kind: str
    where: str
    to: str
    height: float = 0.0

    @property
    def resting(self) -> bool:
        """Hanging, or on the lap."""
        return self.kind == "rest"


@dataclass(frozen=True)
class _Move:
    """One hand goes from a place to another; rise and forth in arms' lengths, top speed in m/s, seconds that it stays."""

    start: int
    stop: int
    sides: tuple[str, ...]
    before: Place
    after: Place
    distance: float
    rise: float
    forth: float
    top: float
    stays: float
    last: bool
    way: str = ""
    joined: bool = False


def arm_events(figure: Figure) -> list[Event]:
    """What the hands do, in order of time; told of both where both do about the same."""
    moves: list[_Move] = []
    beats: list[tuple[str, Repetition]] = []
    for side in SIDES:
        path = smooth(figure.on_trunk(figure.hand(side) - figure.at("Shoulder" + side.title()), side), 1.0) / figure.arm
        again = _beats(figure, side, path) or _shakes(figure, side, path)
        moves += _moves(figure, side, path, again)
        beats += [(side, again)] if again is not None else []
    against = _against(figure)
    told = [_told(move, [*(r for _, r in beats), *(r for r, _ in against)]) for move in _paired(figure, moves)]
    if not against:
        told += _again(figure, beats)
    return sorted([*told, *(event for _, event in against)], key=lambda event: (event.start, event.limb))


def hands_held(figure: Figure) -> str:
    """Where hands stay raised for the whole clip: "both hands above the head"; "" where they hang, lie on the lap or move about."""
    still = {}
    for side in SIDES:
        path = figure.on_trunk(figure.hand(side) - figure.at("Shoulder" + side.title()), side) / figure.arm
        place = hand_place(figure, side, slice(None))
        calm = float(np.linalg.norm(np.quantile(path, 0.9, axis=0) - np.quantile(path, 0.1, axis=0))) < 0.45
        if calm and not place.resting and place.kind not in ("floor", "knee"):
            still[side] = place
    if len(still) == 2:
        left, right = still["left"], still["right"]
        if left.where == right.where:
            return f"both hands {left.where}"
        if left.kind == right.kind and left.kind != "head":
            return f"both hands {_height_words(left, right) or left.where}"
    return next((f"the {side} hand {place.where}" for side, place in still.items()), "") if len(still) == 1 else ""


def hand_place(figure: Figure, side: str, frames: slice) -> Place:
    """Where the hand of that side is, on the median of these frames."""
    axes, title = figure.part(frames), side.title()
    hand = axes.hand(side)
    of_body = np.stack(
        [
            *axes.on_trunk(hand - axes.at("Shoulder" + title), side).T,
            *axes.level(hand - axes.at("Head"), side).T,
            axes.on_trunk(hand - axes.at("Top"), side)[:, 0],
            np.linalg.norm(hand - axes.at("Knee" + title), axis=1),
        ]
    )
    out, up, ahead, *head, middle, knee = np.median(of_body, axis=1) / figure.arm
    low, stoops, lap = np.median([hand[:, 1] - figure.floor, bent(axes), thigh(axes, side)], axis=1)
    if low < 0.45 * figure.leg and (stoops > 30 or head[1] < -1.0):
        return Place("floor", "near the floor", "down to the floor", up)
    if lap > 55 and up < -0.45 and knee < 0.75 and ahead > -0.1:
        return Place("rest", "on the lap", "on the lap", up)
    if up < -0.72 and abs(ahead) < 0.42 and out < 0.6:
        return Place("rest", "down at the side", "down to the side", up)
    if (stoops > 35 or low < 0.8 * figure.leg) and knee < 0.4:
        return Place("knee", "at the knee", "down to the knee", up)
    if head[1] > 0.14 and up > 0.55:
        return Place("over", "above the head", "up above the head", up)
    if float(np.linalg.norm((out, up, ahead))) > 0.82 and up > -0.75:
        return _stretched(out, up, ahead)
    if head[1] > -0.45 and np.hypot(head[0], head[2]) < 0.95:
        return _at_head(np.array(head), up)
    if ahead < -0.15:
        return Place("back", "behind the back", "back behind the body", up)
    if middle < -0.1:
        return Place("across", f"across the {_level(up)}", f"across the {_level(up)}", up)
    if up > -0.2 and out > ahead:
        return Place("head", "beside the shoulder", "up beside the shoulder", up)
    if out > ahead + 0.1:
        return Place("side", "out beside the body", "out beside the body", up)
    return Place("front", f"in front of the {_level(up)}", f"in front of the {_level(up)}", up)


def _level(up: float) -> str:
    return "shoulder" if up > -0.2 else "chest" if up > -0.5 else "belly"


def _at_head(head: Array, up: float) -> Place:
    """Beside, before or behind it; head: [3] from head to hand, level (outward, up, ahead), in arms' lengths (0.25 is a head's width)."""
    near, out, ahead = float(np.linalg.norm(head)), abs(float(head[0])), float(head[2])
    if ahead < -0.12 and ahead < -0.5 * out:
        return Place("head", "behind the head", "back behind the head", up)
    if out < 0.26 or (ahead > 1.1 * out and out < 0.4):
        return (
            Place("face", "at the mouth", "up to the mouth", up)
            if near < 0.6
            else Place("face", "in front of the face", "in front of the face", up)
        )
    if out < 0.45:
        return Place("head", "at the ear", "up to the ear", up)
    return (
        Place("head", "beside the head", "up beside the head", up)
        if out < 0.62
        else Place("high", "out beside the head", "up and out beside the head", up)
    )


def _stretched(out: float, up: float, ahead: float) -> Place:
    """A stretched arm's direction."""
    flat = max(float(np.hypot(out, ahead)), 1e-6)
    if up > 0.6 and flat < 0.35:
        return Place("out", "stretched straight up", "straight up", up)
    if ahead < -0.35 * flat:
        way = "backward"
    elif ahead > 0.85 * flat:
        way = "forward"
    elif ahead > 0.45 * flat and out > 0:
        way = "forward and outward"
    else:
        way = "out to the side" if out > 0 else "forward across the body"
    level = "high up" if up > 0.3 else "at shoulder height" if up > -0.28 else "below the chest"
    return Place("out", f"stretched {way} {level}", f"{way} {level}", up)


def _beats(figure: Figure, side: str, path: Array) -> Repetition | None:
    """Repetition in an arm's path [T,3]: wide enough not to be jitter, and no by-product of a wider movement across it."""
    found = repetition(path, 0.1)
    if found is None:
        return None
    frames = slice(found.start, found.stop)
    others = np.delete(np.quantile(path[frames], 0.95, axis=0) - np.quantile(path[frames], 0.05, axis=0), found.axis)
    least = 0.35 if hand_place(figure, side, frames).resting else 0.17 if found.count < 3 else 0.14
    return found if found.width > max(least, 0.7 * float(others.max())) else None


def _shakes(figure: Figure, side: str, path: Array) -> Repetition | None:
    """Small repetition where a hand is held: the path there without its slow drift."""
    best: Repetition | None = None
    for stop in poses(smooth(path, 1.5), _APART, _REST):
        frames = slice(stop.start, stop.stop)
        if stop.stop - stop.start < 16 or hand_place(figure, side, frames).resting:
            continue
        found = repetition(path[frames] - smooth(path[frames], 9.0), 0.08)
        if found is not None and found.width > (0.12 if found.count < 3 else 0.1) and (best is None or found.width > best.width):
            best = replace(found, start=stop.start + found.start, stop=stop.start + found.stop)
    return best


def _again(figure: Figure, beats: Sequence[tuple[str, Repetition]]) -> list[Event]:
    """Repetitions in words; of both hands where they go the same way at the same time."""
    if len(beats) == 2:
        (_, left), (_, right) = beats
        both = min(left.stop, right.stop) - max(left.start, right.start) > 0.5 * min(left.stop - left.start, right.stop - right.start)
        if both and left.axis == right.axis:
            wider = max(left, right, key=lambda one: one.width)
            merged = replace(wider, count=max(left.count, right.count))
            return [_beat(figure, ("left", "right"), merged)]
    return [_beat(figure, (side,), one) for side, one in beats]


def _beat(figure: Figure, sides: tuple[str, ...], again: Repetition) -> Event:
    place = hand_place(figure, sides[-1], slice(again.start, again.stop))
    way, limb = _WAYS[again.axis], _limb(sides)
    if place.resting:
        words = f"swings {'both arms' if len(sides) == 2 else f'the {sides[0]} arm'} {way} {often(again.count)}"
    else:
        words = f"moves {limb} {'far ' if again.width > 0.9 else ''}{way} {often(again.count)} {place.where}"
    return Event(again.start, again.stop, limb, words, 1.4 + min(again.width * (again.count + 1), 2.0) + 0.4 * (len(sides) - 1))


def _moves(figure: Figure, side: str, path: Array, again: Repetition | None) -> list[_Move]:
    """The ways of one hand between the places where it turns or stays; a repetition counts as staying."""
    calm = path.copy()
    if again is not None:
        calm[again.start : again.stop] = path[again.start : again.stop].mean(0)
    stops = _without_passing(poses(smooth(calm, 1.5), _APART, _REST))
    places = [hand_place(figure, side, _around(stop)) for stop in stops]
    height = figure.hand(side)[:, 1]
    found = []
    for i in range(1, len(stops)):
        before, after = stops[i - 1], stops[i]
        distance = float(np.linalg.norm(after.place - before.place))
        if distance < _LEAST_MOVE or (places[i].where == places[i - 1].where and distance < 0.6):
            continue
        leave, arrive = max(before.stop - 1, 0), max(after.start, before.stop)
        found.append(
            _Move(
                start=leave,
                stop=arrive + 1,
                sides=(side,),
                before=places[i - 1],
                after=places[i],
                distance=distance,
                rise=float(height[after.start : after.stop].mean() - height[before.start : before.stop].mean()) / figure.arm,
                forth=float(after.place[2] - before.place[2]),
                top=speed(path * figure.arm, leave, arrive),
                stays=(after.stop - after.start) / FRAMES_PER_SECOND,
                last=i + 1 == len(stops),
                way=_way(path[leave : arrive + 1]) if places[i].kind == "over" and places[i - 1].resting else "",
            )
        )
    return found


def _way(path: Array) -> str:
    """By which way a hand comes from below to above the head: [T,3] (outward, along the spine, ahead) from the shoulder."""
    level = path[np.abs(path[:, 1]) < 0.5]
    if not len(level):
        return ""
    out, ahead = float(level[:, 0].mean()), float(level[:, 2].mean())
    return "forward" if ahead > 1.2 * out else "out to the side" if out > 1.2 * ahead else "forward and outward"


def _around(stop: Pose) -> slice:
    """The frames that show a pose: at its turn where it is one, all of it where the hand stays."""
    if stop.stop - stop.start > 14:
        return slice(stop.start, stop.stop)
    return slice(max(stop.turn - 2, 0), stop.turn + 3)


def _without_passing(stops: list[Pose]) -> list[Pose]:
    """Poses without those that are only passed on the way: short, and left in about the direction in which they were reached."""
    if len(stops) < 2:
        return stops
    kept = stops[:1]
    for stop, following in itertools.pairwise(stops[1:]):
        came, goes = stop.place - kept[-1].place, following.place - stop.place
        straight = float(came @ goes) > 0.25 * float(np.linalg.norm(came) * np.linalg.norm(goes))
        if not (straight and stop.stop - stop.start < 9):
            kept.append(stop)
    return [*kept, stops[-1]]


def _paired(figure: Figure, moves: Sequence[_Move]) -> list[_Move]:
    """Moves of left and right at about the same time to places of the same kind become one of both hands."""
    rest = [move for move in moves if move.sides == ("right",)]
    found = []
    for left in (move for move in moves if move.sides == ("left",)):
        twin = next((right for right in rest if _alike(left, right)), None)
        if twin is None:
            found.append(left)
            continue
        rest.remove(twin)
        found.append(_joined(figure, left, twin))
    return sorted([*found, *rest], key=lambda move: move.start)


def _alike(left: _Move, right: _Move) -> bool:
    at_once = min(left.stop, right.stop) - max(left.start, right.start) > -7
    front = {left.after.kind, right.after.kind} <= {"front", "face", "across"} and abs(left.after.height - right.after.height) < 0.5
    same = left.after.kind == right.after.kind and (left.after.where == right.after.where or left.after.kind not in ("out", "head", "rest"))
    return at_once and (front or same) and left.before.resting == right.before.resting


def _joined(figure: Figure, left: _Move, right: _Move) -> _Move:
    start, stop = min(left.start, right.start), max(left.stop, right.stop)
    frames = slice(max(stop - 3, 0), stop + 3)
    apart = float(np.median(np.linalg.norm(figure.hand("left") - figure.hand("right"), axis=1)[frames])) / figure.arm
    words = _height_words(left.after, right.after)
    after = replace(right.after, where=words, to=words) if words else right.after
    return replace(
        left, start=start, stop=stop, sides=("left", "right"), after=after, distance=max(left.distance, right.distance),
        rise=(left.rise + right.rise) / 2, forth=(left.forth + right.forth) / 2, top=max(left.top, right.top),
        stays=min(left.stays, right.stays), last=left.last and right.last, joined=apart < 0.62,
    )  # fmt: skip


def _height_words(left: Place, right: Place) -> str:
    """One phrase for two hands in front of the body at slightly different heights; "" for other places."""
    if not {left.kind, right.kind} <= {"front", "face", "across"}:
        return ""
    height = (left.height + right.height) / 2
    return "in front of the face" if height > 0.05 else f"in front of the {'chest' if height > -0.5 else 'belly'}"


def _limb(sides: tuple[str, ...]) -> str:
    return "both hands" if len(sides) == 2 else f"the {sides[0]} hand"


def _told(move: _Move, beats: Sequence[Repetition]) -> Event:
    """A move in words; that it stays is left out where a repetition says so."""
    beaten = any(move.stop - 6 <= beat.start <= move.stop + int(move.stays * FRAMES_PER_SECOND) for beat in beats)
    holds = move.stays > 0.6 and not move.last and not move.after.resting and not beaten
    after = f"holds {'them' if len(move.sides) == 2 else 'it'} there" if holds else ""
    weight = 1.0 + move.distance * (0.5 if move.after.resting else 1.0) + 0.4 * (len(move.sides) - 1)
    adverb = pace(move.top)
    return Event(move.start, move.stop, _limb(move.sides), _move_words(move) + (f" {adverb}" if adverb else ""), weight, after)


def _move_words(move: _Move) -> str:
    limb, to = _limb(move.sides), move.after.to
    arms = "both arms" if len(move.sides) == 2 else f"the {move.sides[0]} arm"
    if to == "on the lap":
        return f"lays {limb} on the lap"
    if move.after.resting:
        return f"lowers {arms}"
    if move.after.kind == "out":
        return f"stretches {arms} {to}"
    if move.joined and move.after.kind in ("front", "face", "across"):
        return f"brings both hands together {to}"
    if move.way:
        return f"lifts {arms} {move.way} and {to}"
    if move.rise > 0.25:
        return f"lifts {limb} {to}"
    to = to.removeprefix("up ")
    if move.rise < -0.3:
        return f"lowers {limb} {to.removeprefix('down ')}"
    if move.forth < -0.3:
        return f"draws {limb} {to}"
    return f"moves {limb} {to}"


def _against(figure: Figure) -> list[tuple[Repetition, Event]]:
    """What the raised hands do against each other: come apart and together, or slide up and down."""
    between = smooth(figure.level(figure.hand("right") - figure.hand("left")), 1.0) / figure.arm
    apart = np.linalg.norm(between, axis=1)
    raised = np.minimum(*(_raised(figure, side) for side in SIDES)) > -0.75
    near = np.flatnonzero((apart < 0.95) & raised)
    if len(near) < 8:
        return []
    start, stop = int(near[0]), int(near[-1]) + 1
    quick = between[start:stop] - smooth(between[start:stop], 9.0)
    claps, rubs = repetition(quick[:, :1], 0.08), repetition(quick[:, 1:2], 0.08)
    kind = claps if claps is not None and claps.width > 0.15 and (rubs is None or claps.width > 0.8 * rubs.width) else rubs
    if kind is None or kind.width < (0.14 if kind.count < 3 else 0.11):
        return []
    again = replace(kind, start=start + kind.start, stop=start + kind.stop)
    frames = slice(again.start, again.stop)
    height = sum(float(np.median(_raised(figure, side)[frames])) for side in SIDES) / 2
    place = "in front of the " + ("face" if height > 0.05 else "chest" if height > -0.5 else "belly")
    close = float(np.median(apart[frames])) < 0.65
    rubbing = "slides the hands up and down against each other" if close else "moves both hands up and down in turn"
    doing = "moves both hands apart and together" if kind is claps else rubbing
    return [(again, Event(again.start, again.stop, "both hands", f"{doing} {often(again.count)} {place}", 3.0))]


def _raised(figure: Figure, side: str) -> Array:
    return figure.on_trunk(figure.hand(side) - figure.at("Shoulder" + side.title()), side)[:, 1] / figure.arm
