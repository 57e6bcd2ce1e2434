"""What trunk, head and legs do: postures that change, steps, jumps, bends, turns, kicks and lifted legs."""

import itertools

import numpy as np
from numpy.typing import NDArray

from jobs.caption_events import Event, number, often, spans, speed, way_long
from jobs.caption_figures import FRAMES_PER_SECOND, SIDES, Array, Figure, angle, bent, smooth, thigh
from jobs.caption_moves import turning_points


def body_events(figure: Figure) -> list[Event]:
    """Everything but the arms, in order of time; what only accompanies a jump, a walk or a change of posture is left out."""
    jumps, walks, rises = _jumps(figure), _walks(figure), _rises(figure)
    legs = [] if jumps or walks else _lifts(figure)
    if jumps:
        rises = [event for event in rises if "sits" in event.words or "stands" in event.words]
    if any("squats" in event.words or "sits" in event.words or "seat" in event.words for event in rises):
        legs = [event for event in legs if "kicks" in event.words]
    least = 35.0 if jumps or rises else 22.0
    events = [*jumps, *walks, *rises, *legs, *_bends(figure, least), *_nods(figure), *_turns(figure)]
    return sorted(events, key=lambda event: (event.start, event.limb))


def seated(figure: Figure) -> NDArray[np.bool_]:
    """[T] bool: thighs well off the vertical, the trunk so far behind the feet that nobody could stand like this, and no hand reaching
    far down (who picks something up squats)."""
    thighs = np.minimum(*(thigh(figure, side) for side in SIDES))
    feet = (figure.at("AnkleLeft") + figure.at("AnkleRight")) / 2
    behind = -figure.level((figure.at("SpineMid") + figure.at("SpineBase")) / 2 - feet)[:, 2] / figure.leg
    lowest = np.minimum(*(figure.hand(side)[:, 1] for side in SIDES)) - figure.floor
    return np.asarray((thighs > 45) & (behind > 0.24) & (bent(figure) < 40) & (lowest > 0.4 * figure.leg))


def _hips(figure: Figure) -> Array:
    """[T]: height of the pelvis in legs' lengths; about 1 is standing."""
    return (smooth(figure.at("SpineBase")[:, 1], 2.0) - figure.floor) / (figure.leg * 1.03)


def _knee(figure: Figure, side: str) -> Array:
    """[T] degrees by which the knee is bent."""
    hip, knee, ankle = (figure.at(name + side.title()) for name in ("Hip", "Knee", "Ankle"))
    return angle(knee - hip, ankle - knee)


def _jumps(figure: Figure) -> list[Event]:
    lowest = smooth(np.minimum(figure.at("AnkleLeft")[:, 1], figure.at("AnkleRight")[:, 1]), 1.0) - figure.floor
    hips = _hips(figure)
    standing = float(np.quantile(hips, 0.6))
    flights = [(a, b) for a, b in spans(lowest > 0.09, 3) if b - a <= 25 and lowest[a:b].max() > 0.11 and hips[a:b].max() > standing + 0.06]
    if not flights:
        return []
    words = f"jumps up {often(len(flights))} with both feet off the floor"
    return [Event(max(flights[0][0] - 8, 0), flights[-1][1], "body", words, 5.0)]


def _rises(figure: Figure) -> list[Event]:
    """Changes of the pelvis's height: sitting down, standing up, squats, lunges."""
    hips, sits = _hips(figure), seated(figure)
    points = turning_points(hips, 0.13)
    events = []
    for i, (a, b) in enumerate(itertools.pairwise(points)):
        up_again = points[i + 2] if i + 2 < len(points) else None
        on_seat = float(sits[max(b - 5, 0) : b + 6].mean()) > 0.5
        if hips[b] < hips[a] and on_seat:
            words = "bends the knees, lowers the hips backward and sits down" + (" and stands up again" if up_again else "")
            events.append(Event(a, b, "body", words, 4.5))
        elif hips[b] < hips[a] and hips[a] - hips[b] > 0.16:
            deep = "deeply" if hips[b] < 0.62 else "halfway" if hips[b] < 0.76 else "a little"
            words = _astride(figure, b) or f"squats {deep} with both knees bent"
            events.append(Event(a, b, "body", words + (" and comes up again" if up_again else ""), 3.8))
        elif i == 0 and hips[b] > hips[a] and float(sits[: a + 4].mean()) > 0.5:
            events.append(Event(a, b, "body", "rises from a seat, straightens the knees and stands up", 4.5))
    return events


def _astride(figure: Figure, t: int) -> str:
    """Words for low hips over legs that are far apart; "" where the feet are side by side."""
    apart = figure.level(figure.at("AnkleRight") - figure.at("AnkleLeft"))[t] / figure.leg
    knees = {side: float(_knee(figure, side)[t]) for side in SIDES}
    if abs(apart[2]) > 0.42 and abs(apart[2]) > abs(apart[0]):
        return f"lunges forward with the {'right' if apart[2] > 0 else 'left'} leg in front"
    if abs(apart[0]) > 0.5 and abs(knees["left"] - knees["right"]) > 20:
        return f"steps wide and lunges to the {max(knees, key=lambda side: knees[side])} side"
    return ""


def _walks(figure: Figure) -> list[Event]:
    """The pelvis travels while the body stays up."""
    place, hips = smooth(figure.at("SpineBase"), 3.0), _hips(figure)
    out, _, ahead = np.median(figure.level(np.broadcast_to(place[-1] - place[0], place.shape)), axis=0)
    distance = float(np.hypot(out, ahead))
    if distance < 0.32 or abs(hips[-1] - hips[0]) > 0.15 or hips.min() < 0.75:
        return []
    straight = abs(ahead) > abs(out)
    way = ("forward" if ahead > 0 else "backward") if straight else f"to the {'right' if out > 0 else 'left'}"
    feet = figure.level(figure.at("AnkleRight") - figure.at("AnkleLeft"))
    steps = max(len(turning_points(smooth(feet[:, 2 if straight else 0], 2.0) / figure.leg, 0.25)) - 1, 1)
    moved = np.linalg.norm((place - place[0]) * (1, 0, 1), axis=1)
    start, stop = int(np.argmax(moved > 0.1 * distance)), int(np.argmax(moved > 0.9 * distance))
    quick = distance * 0.8 / max((stop - start) / FRAMES_PER_SECOND, 0.1) > 2.0
    words = f"{'runs' if quick else 'walks'} {way}, {number(steps)} step{'s' if steps > 1 else ''}, {way_long(distance)}"
    return [Event(start, stop, "body", words, 4.2)]


def _bends(figure: Figure, least: float) -> list[Event]:
    """The trunk's inclination, forward and to the sides, from `least` degrees."""
    spine = figure.level(figure.spine)
    forward = smooth(np.rad2deg(np.arctan2(spine[:, 2], spine[:, 1])), 2.0)
    aside = smooth(np.rad2deg(np.arctan2(spine[:, 0], spine[:, 1])), 2.0)
    events = []
    for signal, words in (
        (forward, ("bends the trunk {far}forward", "leans the trunk back")),
        (aside, ("leans to the right", "leans to the left")),
    ):
        points = turning_points(signal, least)
        for i, (a, b) in enumerate(itertools.pairwise(points)):
            change = float(signal[b] - signal[a])
            if abs(signal[b]) < 0.6 * abs(signal[a]):  # back to upright: told with the bend, unless the clip begins bent
                if i == 0 and abs(signal[a]) > 30:
                    events.append(Event(a, b, "trunk", "straightens the trunk", 2.0))
                continue
            back = i + 2 < len(points) and abs(signal[points[i + 2]] - signal[b]) > 0.5 * abs(change)
            text = words[0 if change > 0 else 1].format(far="far " if abs(change) > 48 else "")
            text += " and comes up again" if back and text.startswith("bends") else ""
            events.append(Event(a, b, "trunk", text, 1.6 + abs(change) / 30))
    return events


def _nods(figure: Figure) -> list[Event]:
    """The head tipped back or bowed, from 13 degrees: against the trunk and against the room, so that a head which stays level over a
    trunk that bends is neither."""
    neck = figure.at("Head") - figure.at("Neck")
    on_trunk, level = figure.on_trunk(neck, "right"), figure.level(neck)
    own, free = (np.arctan2(x[:, 2], x[:, 1]) - np.arctan2(x[0, 2], x[0, 1]) for x in (on_trunk, level))
    pitch = smooth(np.rad2deg(np.where(own * free > 0, np.sign(own) * np.minimum(np.abs(own), np.abs(free)), 0)), 3.0)
    usual = float(np.median(pitch[: max(len(pitch) // 6, 1)]))
    for t in (int(pitch.argmin()), int(pitch.argmax())):
        change = float(pitch[t]) - usual
        if abs(change) > 13 and abs(change) == max(abs(pitch.min() - usual), abs(pitch.max() - usual)):
            start = max(t - 8, 0)
            return [Event(start, t, "head", "bows the head" if change > 0 else "tips the head back", 1.3 + abs(change) / 40)]
    return []


def _turns(figure: Figure) -> list[Event]:
    yaw = np.unwrap(np.arctan2(figure.ahead[:, 0], -figure.ahead[:, 2]))
    turned = float(np.rad2deg(yaw[-1] - yaw[0]))
    if abs(turned) < 50:
        return []
    much = "a little" if abs(turned) < 65 else "a quarter" if abs(turned) < 130 else "half around"
    moved = np.abs(yaw - yaw[0]) / abs(yaw[-1] - yaw[0])
    words = f"turns {much} to the {'right' if turned > 0 else 'left'}"
    return [Event(int(np.argmax(moved > 0.1)), int(np.argmax(moved > 0.9)), "body", words, 2.5)]


def _lifts(figure: Figure) -> list[Event]:
    """One foot that leaves the floor while the other one stands."""
    heights = {side: smooth(figure.at("Ankle" + side.title())[:, 1] - figure.floor, 1.0) / figure.leg for side in SIDES}
    events = []
    for side, other in (SIDES, SIDES[::-1]):
        up = (heights[side] > 0.11) & (heights[side] > heights[other] + 0.09)
        found = [(a, b) for a, b in spans(up, 5, 6) if heights[side][a:b].max() > 0.2]
        if found:
            a, b = max(found, key=lambda span: float(heights[side][span[0] : span[1]].max()))
            events.append(_lift(figure, side, max(a - 6, 0), min(b + 6, figure.frames), len(found)))
        else:
            events += _taps(figure, side)
    return [event for event in events if event.weight > 2.3]


def _taps(figure: Figure, side: str) -> list[Event]:
    """A foot that goes out to the side, near the floor, and comes back."""
    out = figure.level(figure.at("Ankle" + side.title()) - figure.at("SpineBase"), side)[:, 0] / figure.leg
    points = turning_points(smooth(out, 2.0), 0.16)
    peaks = [b for a, b in itertools.pairwise(points) if out[b] > out[a]]
    if len(points) < 3 or not peaks:
        return []
    words = f"steps the {side} foot out to the side and back" + (f" {often(len(peaks))}" if len(peaks) > 1 else "")
    return [Event(points[0], points[-1], f"{side} leg", words, 2.6)]


def _lift(figure: Figure, side: str, a: int, b: int, count: int) -> Event:
    foot = figure.level(figure.at("Ankle" + side.title()) - figure.at("Hip" + side.title()), side)[a:b] / figure.leg
    knees, thighs = _knee(figure, side)[a:b], thigh(figure, side)[a:b]
    out, up, ahead = foot.T
    farthest, top, high = int(ahead.argmax()), int(up.argmax()), float(up.max()) + 1
    height = "to hip height" if high > 0.75 else "to knee height" if high > 0.38 else "off the floor"
    height += f" {often(count)}" if count > 1 else ""
    low = int(ahead[: farthest + 1].argmin())
    swing = float(np.linalg.norm(foot[farthest] - foot[low])) * figure.leg / max(farthest - low, 1) * FRAMES_PER_SECOND
    leg, weight = f"{side} leg", 3.0 + high
    if swing > 1.7 and ahead[farthest] > 0.4 and speed(foot * figure.leg, low, farthest) > 2.2:
        back = "swings the leg back and " if ahead[low] < -0.22 else ""
        return Event(a, b, leg, f"{back}kicks forward with the {side} foot {height}", weight + 1)
    if thighs.max() > 50 and knees[int(thighs.argmax())] > 45:
        return Event(
            a, b, leg, f"lifts the bent {side} knee {'to hip height' if thighs.max() > 70 else 'high'} and puts the foot down", weight
        )
    if out.max() > 0.35 and out.max() > ahead.max():
        return Event(a, b, leg, f"lifts the {side} leg out to the side {height}", weight)
    if ahead.max() > 0.3 and knees[top] < 45:
        return Event(a, b, leg, f"lifts the straight {side} leg forward {height} and lowers it", weight)
    if ahead.min() < -0.25 and ahead.max() < 0.3:
        return Event(a, b, leg, f"lifts the {side} foot backward {height}", weight)
    return Event(a, b, leg, f"lifts the {side} foot {height}", weight - 1)
