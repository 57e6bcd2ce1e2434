"""NTU RGB+D `.skeleton` text files, in a folder (at any depth) or in zips.

Format (shahroudy/NTURGB-D, read_skeleton_file.m): number of frames; per frame the number of bodies; per body a line of ten
fields, the number of joints, and a line of twelve fields per joint.
"""

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import facts
from shards.errors import InputError
from shards.samples import FRAMES_MAX, Clip, Sample, Source, unique, whole_clip

JOINTS = 25
SLOTS_MAX = 4
_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")


@dataclass(frozen=True)
class Recording:
    """Everything in one file. A record is one body in one frame, in file order; R of them.

    frame, slot [R]; body_id [R]; flags [R,6]: clipped edges, left hand confidence and state, right hand confidence and
    state, is restricted; lean [R,2]; tracking [R]; joints [R,25,12]: xyz in metres, depth xy and colour xy in pixels, orientation
    wxyz, tracking state.
    """

    frames: int
    frame: NDArray[np.int64]
    slot: NDArray[np.int64]
    body_id: NDArray[np.uint64]
    flags: NDArray[np.int64]
    lean: NDArray[np.float64]
    tracking: NDArray[np.int64]
    joints: NDArray[np.float64]


@dataclass(frozen=True)
class _Layout:
    """Where things are in a file, by line: the body lines' fields and the first joint line of each record."""

    frames: int
    frame: list[int]
    slot: list[int]
    bodies: list[list[bytes]]
    starts: list[int]


def parse(data: bytes, where: str) -> Recording:
    """All fields of one file. `where` names it in messages. InputError where it is truncated or not a number."""
    lines = data.split(b"\n")
    layout = _layout(lines, where)
    tokens = _joint_tokens(lines, layout, where)
    try:
        values = list(map(float, tokens))
    except ValueError:
        values = list(map(_loose, tokens))
    joints = np.array(values, np.float64).reshape(-1, JOINTS, 12)
    try:
        head = [([int(f) for f in b[:7]], [float(b[7]), float(b[8])], int(b[9])) for b in layout.bodies]
    except (ValueError, IndexError):
        bad = next(start - 1 for start, b in zip(layout.starts, layout.bodies) if not _is_head(b))
        raise InputError(f"{where}: line {bad}: a body line has 10 numbers; fetch the file again", reason="damaged") from None
    return Recording(
        frames=layout.frames,
        frame=np.array(layout.frame, np.int64),
        slot=np.array(layout.slot, np.int64),
        body_id=np.array([h[0][0] for h in head], np.uint64),
        flags=np.array([h[0][1:] for h in head], np.int64).reshape(-1, 6),
        lean=np.array([h[1] for h in head], np.float64).reshape(-1, 2),
        tracking=np.array([h[2] for h in head], np.int64),
        joints=joints,
    )


def parse_clip(data: bytes, where: str) -> Clip:
    """Only what a clip needs: positions by slot (4 at most) and by body id. Errors as `parse`, and where nobody is seen."""
    lines = data.split(b"\n")
    layout = _layout(lines, where)
    if not layout.frame:
        raise InputError(f"{where}: no body in any of {layout.frames} frames; remove this file", reason="no person")
    records = _positions(lines, layout, where)
    frame, slot = np.array(layout.frame), np.array(layout.slot)
    bodies = np.zeros((min(int(slot.max()) + 1, SLOTS_MAX), layout.frames, JOINTS, 3), np.float32)
    kept = slot < SLOTS_MAX
    bodies[slot[kept], frame[kept]] = records[kept]
    clip = whole_clip(bodies, where)
    if not kept.all() and not np.isfinite(records).all():
        raise InputError(f"{where}: a coordinate is not finite; repair or remove this sample", reason="not finite")
    return Clip(clip.bodies, _by_id(layout, records), clip.frames)


def _by_id(layout: _Layout, records: NDArray[np.float32]) -> list[tuple[int, int, NDArray[np.float32]]]:
    rows: dict[int, list[int]] = {}
    for row, (frame, fields) in enumerate(zip(layout.frame, layout.bodies)):
        if frame < FRAMES_MAX:
            rows.setdefault(int(fields[0]), []).append(row)
    order = {frame: i for i, frame in enumerate(dict.fromkeys(layout.frame))}
    return [(body, order[layout.frame[mine[0]]], records[mine]) for body, mine in rows.items()]


def _layout(lines: list[bytes], where: str) -> _Layout:
    """Walks the counts of a file. The line number in a message is 1-based."""
    if not any(line.strip() for line in lines[:2]):
        raise InputError(f"{where}: the file is empty; fetch it again or remove it", reason="empty")
    at = 0
    layout = _Layout(_count(lines, 0, where, "frames"), [], [], [], [])
    for frame in range(layout.frames):
        at += 1
        for slot in range(_count(lines, at, where, "bodies")):
            joints = _count(lines, at + 2, where, "joints")
            if joints != JOINTS:
                raise InputError(f"{where}: line {at + 3}: {joints} joints; NTU RGB+D files have {JOINTS}", reason="wrong joint count")
            fields = lines[at + 1].split()
            if not fields or not fields[0].isdigit():
                raise InputError(f"{where}: line {at + 2}: no body id; the file is damaged, fetch it again", reason="damaged")
            layout.frame.append(frame)
            layout.slot.append(slot)
            layout.bodies.append(fields)
            layout.starts.append(at + 3)
            at += 2 + JOINTS
    if at >= len(lines):
        raise _truncated(lines, where)
    return layout


def _count(lines: list[bytes], at: int, where: str, what: str) -> int:
    if at >= len(lines) or not lines[at].strip():
        raise _truncated(lines, where)
    try:
        count = int(lines[at])
    except ValueError:
        count = -1
    if count < 0:
        said = lines[at][:40].decode(errors="replace").strip()
        raise InputError(f"{where}: line {at + 1}: number of {what} expected, found {said!r}; fetch the file again", reason="damaged")
    return count


def _truncated(lines: list[bytes], where: str) -> InputError:
    return InputError(f"{where}: truncated after line {len(lines)}; fetch the file again or remove it", reason="truncated")


def _positions(lines: list[bytes], layout: _Layout, where: str) -> NDArray[np.float32]:
    """[R,25,3]. Most of the time of reading goes here, so only the first three fields of a line are taken apart."""
    chosen = [line for start in layout.starts for line in lines[start : start + JOINTS]]
    whole = b" ".join(chosen).count(b" ") == 12 * JOINTS * len(layout.starts) - 1 and len(chosen[-1].split()) == 12
    if not whole:
        tokens = _joint_tokens(lines, layout, where)
        chosen = [b" ".join(tokens[i : i + 12]) for i in range(0, len(tokens), 12)]
    values: list[float] = []
    try:
        for line in chosen:
            x, y, z, _ = line.split(b" ", 3)
            values += (float(x), float(y), float(z))
    except ValueError:
        raise _bad_number(lines, layout, where) from None
    return np.array(values, np.float32).reshape(-1, JOINTS, 3)


def _joint_tokens(lines: list[bytes], layout: _Layout, where: str) -> list[bytes]:
    chosen = [line for start in layout.starts for line in lines[start : start + JOINTS]]
    tokens = b" ".join(chosen).split()
    if len(tokens) == 12 * JOINTS * len(layout.starts) and (not chosen or len(chosen[-1].split()) == 12):
        return tokens
    for start in layout.starts:
        for at in range(start, start + JOINTS):
            found = len(lines[at].split()) if at < len(lines) else 0
            if found != 12:
                if at >= len(lines) - 2:
                    raise _truncated(lines, where)
                raise InputError(f"{where}: line {at + 1}: 12 numbers make a joint, found {found}; fetch the file again", reason="damaged")
    return tokens


def _bad_number(lines: list[bytes], layout: _Layout, where: str) -> InputError:
    for start in layout.starts:
        for at in range(start, start + JOINTS):
            for token in lines[at].split()[:3]:
                if not _is_number(token):
                    said = token.decode(errors="replace")
                    return InputError(f"{where}: line {at + 1}: {said!r} is not a number; fetch the file again", reason="damaged")
    return InputError(f"{where}: damaged; fetch the file again", reason="damaged")


def _is_number(token: bytes) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _loose(token: bytes) -> float:
    """A number, or NaN: pixels and orientations of lost joints are spelt in several ways ("-1.#IND")."""
    try:
        return float(token)
    except ValueError:
        return float("nan")


def _is_head(fields: list[bytes]) -> bool:
    return len(fields) == 10 and all(f.lstrip(b"-").isdigit() for f in fields[:7] + fields[9:]) and all(map(_is_number, fields[7:9]))


def is_ntu(name: str) -> bool:
    """Whether this is a name such as NTU RGB+D has."""
    return _NAME.fullmatch(name) is not None


def sample_of(name: str, where: str) -> Sample:
    """The sample that a name like S001C002P003R002A013 speaks of. InputError for another name, class, camera or set-up."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{where}: {name!r} is not an NTU RGB+D name (S001C001P001R001A001); rename or remove it", reason="bad name")
    setup, camera, subject, replication, action = map(int, match.groups())
    for what, value, most in (("set-up", setup, 32), ("camera", camera, 3), ("class", action, 120)):
        if not 1 <= value <= most:
            raise InputError(f"{where}: unknown {what} {value} in the name; known are 1 to {most}", reason="bad name")
    return Sample(name, action - 1, subject, camera, setup, replication)


@dataclass
class NTUSource(Source):
    """Files by key; a place is (zip or "", name)."""

    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    _zips: dict[str, zipfile.ZipFile] = field(default_factory=dict, init=False, repr=False)
    _last: tuple[str, bytes] = field(default=("", b""), init=False, repr=False)

    def samples(self) -> list[Sample]:
        return [sample_of(key, _spoken(self.places[key])) for key in sorted(self.places)]

    def read(self, key: str) -> Clip:
        return parse_clip(self._bytes(key), _spoken(self.places[key]))

    def digest(self, key: str) -> str:
        return hashlib.sha256(self._bytes(key)).hexdigest()

    def excluded(self) -> Mapping[str, str]:
        return {key: "missing skeleton list" for key in facts.missing(self.benchmark) if key in self.places}

    def recording(self, key: str) -> Recording:
        """All fields of one file."""
        return parse(self._bytes(key), _spoken(self.places[key]))

    def _bytes(self, key: str) -> bytes:
        # The digest and the clip are asked for one after the other: one read serves both.
        if self._last[0] != key:
            archive, name = self.places[key]
            self._last = (key, self._unzip(archive, name) if archive else Path(name).read_bytes())
        return self._last[1]

    def _unzip(self, archive: str, name: str) -> bytes:
        try:
            if archive not in self._zips:
                self._zips[archive] = zipfile.ZipFile(archive)
            return self._zips[archive].read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise InputError(f"{archive}: unreadable at {name} ({error}); fetch the zip again", reason="unreadable zip") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zips": {}, "_last": ("", b"")}


def _spoken(place: tuple[str, str]) -> str:
    return f"{place[0]}:{place[1]}" if place[0] else place[1]


def zip_members(path: Path) -> list[str]:
    """Names of the `.skeleton` files in a zip. InputError where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: unreadable zip ({error}); fetch it again", reason="unreadable zip") from None
    return [n for n in names if n.endswith(".skeleton") and not n.rsplit("/", 1)[-1].startswith("._")]


def find_places(path: Path) -> list[tuple[str, str]]:
    """(zip or "", name) of every `.skeleton` file at `path`: a zip, or a folder of files and zips at any depth."""
    if path.is_file():
        return [(str(path), name) for name in zip_members(path)]
    found: list[tuple[str, str]] = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            full = os.path.join(folder, name)  # noqa: PTH118 - a hundred thousand Path objects are slow
            if name.endswith(".skeleton") and not name.startswith("._"):
                found.append(("", full))
            elif name.endswith(".zip"):
                found.extend((full, member) for member in zip_members(Path(full)))
    return found


def open_ntu(path: Path, places: list[tuple[str, str]]) -> NTUSource:
    """The source of these places. A file about.json beside the data ({"benchmark", "classes", "provenance"}) describes a set of
    another origin in the same format; without it the names say whether this is NTU RGB+D 60 or 120."""
    stems = [(place[1].replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".skeleton"), place) for place in places]
    unique((stem, _spoken(place)) for stem, place in stems)
    samples = [sample_of(stem, _spoken(place)) for stem, place in stems]
    small = all(s.setup <= 17 and s.label < 60 for s in samples)
    source = NTUSource(path, "ntu", "ntu60" if small else "ntu120", tuple(f"A{a + 1:03d}" for a in range(60 if small else 120)))
    source.places = dict(stems)
    about = path / "about.json"
    if about.is_file():
        _describe(source, about, samples)
    return source


def _describe(source: NTUSource, about: Path, samples: list[Sample]) -> None:
    try:
        said = json.loads(about.read_text())
        source.benchmark, source.classes = str(said["benchmark"]), tuple(map(str, said["classes"]))
        source.provenance = str(said.get("provenance", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{about}: not {{"benchmark": ..., "classes": [...]}} ({error}); mend or remove it') from None
    worst = max(samples, key=lambda s: s.label)
    if worst.label >= len(source.classes):
        raise InputError(f"{about}: {len(source.classes)} classes, but {worst.key} has class {worst.label + 1}; list them all")
