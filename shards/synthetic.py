"""The embedded default: a small invented data set as raw NTU RGB+D files, with a caption per clip from the motion program.

Every file is a function of the seed and its own name, whatever the other files and the number of processes.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.actions import ACTIONS
from shards.errors import InputError
from shards.kinect import YAW, Camera, camera, observe, skeleton_text
from shards.manifest import sync_folder
from shards.performance import Performance, Performer, draw_manner, draw_performer, perform
from shards.wording import caption
from shards.workers import each

FOLDER = "nturgb+d_skeletons"
VIDEOS = "videos"
SETUPS = 4

README = """Synthetic skeleton clips in the layout of NTU RGB+D raw files.

Invented by shards/synthetic.py: a jointed figure, joint-angle programs, a noisy depth camera. No recording of people is in it.
It stands in for real data when trying things out; numbers on it are never to be quoted as results.

{folder}/   one .skeleton file per clip; setup, camera, performer, replication and class are in its name
captions.jsonl       one caption per clip, put together from the motion program
classes.json         names of the classes, in the order of their numbers
about.json           what readers need to know beside the names
Made with seed {seed}: {subjects} performers, {actions} classes, {repetitions} repetitions, cameras {cameras}.
"""
VIDEO_README = """
videos/              one rendered video per clip: the figures without the camera's noise, frame by frame as in the .skeleton file
boxes.jsonl          the boxes of all figures in each frame of each video
"""


@dataclass(frozen=True)
class Plan:
    """What is to be written; `take` i is one performance, seen by all cameras."""

    seed: int
    subjects: int
    repetitions: int
    cameras: tuple[int, ...]
    actions: int
    frames: tuple[int, int]
    videos: bool = False

    @property
    def takes(self) -> int:
        """Number of performances."""
        return self.subjects * self.repetitions * self.actions

    def numbers(self, take: int) -> tuple[int, int, int]:
        """(subject, action, repetition) of a take, each from 1."""
        subject, rest = divmod(take, self.actions * self.repetitions)
        action, repetition = divmod(rest, self.repetitions)
        return subject + 1, action + 1, repetition + 1


@dataclass(frozen=True)
class Writing:
    """The work of one take: its files into `folder`; gives (key, caption, lines of boxes) per camera."""

    plan: Plan
    folder: Path

    def __call__(self, take: int) -> list[tuple[str, str, str]]:
        subject, action, repetition = self.plan.numbers(take)
        done = performance(self.plan.seed, subject, action, repetition, self.plan.frames)
        setup = setup_of(subject)
        said = []
        for number in self.plan.cameras:
            key = f"S{setup:03d}C{number:03d}P{subject:03d}R{repetition:03d}A{action:03d}"
            rng = _generator(self.plan.seed, "view", subject, action, repetition, number)
            text = skeleton_text(observe(done.joints, camera(number, setup), rng))
            _write(self.folder / FOLDER / f"{key}.skeleton", text, newline="\r\n")
            lines = self._video(key, subject, done, camera(number, setup)) if self.plan.videos else ""
            said.append((key, caption(done, rng), lines))
        return said

    def _video(self, key: str, subject: int, done: Performance, view: Camera) -> str:
        """Writes the video of a clip; gives its boxes, a line per frame."""
        from shards import render  # FFmpeg is needed by nothing else here

        looks = tuple(render.look(subject + 3 * i) for i in range(done.joints.shape[1]))
        _write_bytes(self.folder / VIDEOS / f"{key}.avi", render.video(done.joints, view, looks, setup_of(subject)))
        found = [[[*person, 1.0] for person in frame] for frame in render.boxes(done.joints, view).round(1).tolist()]
        return "".join(json.dumps({"key": key, "frame": t, "boxes": people}) + "\n" for t, people in enumerate(found))


def write_synthetic(
    out: Path,
    seed: int = 0,
    subjects: int = 16,
    repetitions: int = 1,
    cameras: Sequence[int] = (1, 2, 3),
    actions: int = len(ACTIONS),
    frames: tuple[int, int] = (40, 90),
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    videos: bool = False,
) -> int:
    """Write the set into the new folder `out` (complete or absent) and give the number of clips.

    actions: the first so many classes; frames: fewest and most per clip; progress: called with clips written and clips in all;
    videos: rendered ones in OUT/videos too, with the boxes of all figures in OUT/boxes.jsonl (needs the `caption` extra).
    InputError when `out` exists, cannot be written, or a number is out of range.
    """
    plan = Plan(seed, subjects, repetitions, tuple(cameras), actions, frames, videos)
    _check(plan)
    out = Path(out)
    if out.exists():
        raise InputError(f"{out}: is there already; remove it, or choose another folder for the synthetic set")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another folder for the synthetic set") from None
    try:
        count = _fill(beside, plan, jobs, progress)
        beside.chmod(0o755)
        beside.rename(out)
    except OSError as error:
        raise InputError(f"{out}: writing the synthetic set failed ({error.strerror}); free some space or choose another folder") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return count


def performance(seed: int, subject: int, action: int, repetition: int, frames: tuple[int, int] = (40, 90)) -> Performance:
    """What the performer does on the stage in that clip, before any camera; numbers from 1."""
    what = ACTIONS[action - 1]
    rng = _generator(seed, "take", subject, action, repetition)
    who = performer(seed, subject)
    people = [who]
    if what.pair:
        people.append(draw_performer(rng))
    habit = _generator(seed, "habit", subject, action)
    manner = draw_manner(what, who, habit, rng)
    return perform(what, manner, people, habit, rng, frames)


def performer(seed: int, subject: int) -> Performer:
    """The person of that number."""
    return draw_performer(_generator(seed, "person", subject))


def setup_of(subject: int) -> int:
    """Set-up number of a subject, from 1: two neighbours share one, so that each has training and test subjects of x-sub."""
    return 1 + (subject - 1) // 2 % SETUPS


def _check(plan: Plan) -> None:
    limits = (("subjects", plan.subjects, 999), ("repetitions", plan.repetitions, 999), ("actions", plan.actions, len(ACTIONS)))
    for what, value, most in limits:
        if not 1 <= value <= most:
            raise InputError(f"synthetic set: {what} is {value}; it can be 1 to {most}")
    if not plan.cameras or set(plan.cameras) - set(YAW) or len(set(plan.cameras)) < len(plan.cameras):
        raise InputError(f"synthetic set: cameras are {plan.cameras}; they can be some of {sorted(YAW)}, each once")
    if not 20 <= plan.frames[0] <= plan.frames[1] <= 300:
        raise InputError(f"synthetic set: frames are {plan.frames}; fewest and most can be 20 to 300")
    if plan.seed < 0:
        raise InputError(f"synthetic set: seed is {plan.seed}; it can be 0 or more")


def _fill(folder: Path, plan: Plan, jobs: int, progress: Callable[[int, int], None] | None) -> int:
    (folder / FOLDER).mkdir()
    if plan.videos:
        (folder / VIDEOS).mkdir()
    total = plan.takes * len(plan.cameras)
    captions: dict[str, str] = {}
    boxes: dict[str, str] = {}
    for _, said in each(Writing(plan, folder), plan.takes, jobs):
        captions.update((key, text) for key, text, _ in said)
        boxes.update((key, lines) for key, _, lines in said)
        if progress is not None:
            progress(len(captions), total)
    names = [action.name for action in ACTIONS[: plan.actions]]
    lines = [json.dumps({"key": key, "text": captions[key], "provenance": "program"}) for key in sorted(captions)]
    _write(folder / "captions.jsonl", "\n".join(lines) + "\n")
    _write(folder / "classes.json", json.dumps(names, indent=1) + "\n")
    _write(folder / "about.json", json.dumps({"benchmark": "synthetic", "classes": names, "provenance": "program"}) + "\n")
    said_cameras = ", ".join(map(str, plan.cameras))
    facts = {"folder": FOLDER, "seed": plan.seed, "subjects": plan.subjects, "actions": plan.actions, "repetitions": plan.repetitions}
    _write(folder / "README.txt", README.format(**facts, cameras=said_cameras) + (VIDEO_README if plan.videos else ""))
    if plan.videos:
        _write(folder / "boxes.jsonl", "".join(boxes[key] for key in sorted(boxes)))
        sync_folder(folder / VIDEOS)
    sync_folder(folder / FOLDER)
    sync_folder(folder)
    return total


def _write(path: Path, text: str, newline: str = "\n") -> None:
    _write_bytes(path, text.replace("\n", newline).encode())


def _write_bytes(path: Path, data: bytes) -> None:
    """To the disk itself, since the folder's rename says that all is there."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


_PURPOSES = ("person", "habit", "take", "view")


def _generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A stream of its own for each purpose and numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _PURPOSES.index(purpose), *numbers])))
