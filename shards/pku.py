"""PKU-MMD, parts I and II: untrimmed skeleton text, cut into actions by the label files.

    skeleton/STEM.txt  a line per frame: 2 bodies x 25 joints x xyz;   label/STEM.txt  a line per action: class,start,end,confidence
    split files (cross-subject / cross-view): a header, the training stems, a header, the test stems

An action is rows [start, end). Stems: part II A01N01-L (scene, subject, view), part I 0001-L. Key: stem, class and line of the label
file, A01N01-L_C048_L005. Views are cameras: L 1, M 2, R 3; the scene stands in `setup`.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.samples import FRAMES_MAX, Clip, Sample, Source, whole_clip

CLASSES = 51
STEM = re.compile(r"(?:A(?P<scene>\d{2})N(?P<subject>\d{2})|(?P<video>\d{4}))-(?P<view>[LMR])")
_PUBLISHED = re.compile(r"A(\d{3})N(\d{3})V(\d{3})C(\d{3})L(\d{3})")
_SPLIT = re.compile(r"cross[-_ ]?(subject|view)", re.IGNORECASE)
_PROTOCOL = {"subject": "xsub", "view": "xview"}


@dataclass
class PKUSource(Source):
    """Actions by key; an action is (skeleton file, first row, end row)."""

    by_key: dict[str, Sample] = field(default_factory=dict)
    actions: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    _last: tuple[str, list[bytes]] = field(default=("", []), init=False, repr=False)

    def samples(self) -> list[Sample]:
        return [self.by_key[key] for key in sorted(self.by_key)]

    def read(self, key: str) -> Clip:
        place, start, _ = self.actions[key]
        rows = self._rows(key)
        clip = whole_clip(_positions(rows[:FRAMES_MAX], place, start), f"{place}: {key}")
        return Clip(clip.bodies, frames=len(rows))

    def digest(self, key: str) -> str:
        said = json.dumps(asdict(self.by_key[key]), sort_keys=True).encode()
        return hashlib.sha256(b"\n".join([said, *self._rows(key)])).hexdigest()

    def _rows(self, key: str) -> list[bytes]:
        place, start, end = self.actions[key]
        # Keys are sorted, so a video's actions come one after the other: one read serves them.
        if self._last[0] != place:
            self._last = (place, Path(place).read_bytes().splitlines())
        rows = self._last[1][start:end]
        if not rows:
            raise InputError(f"{place}: {key} starts at row {start} of {len(self._last[1])}; label and skeleton differ", reason="truncated")
        return rows

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": ("", [])}


def _positions(rows: list[bytes], place: str, start: int) -> NDArray[np.float32]:
    """[2,T,25,3] of text rows."""
    tokens = [row.split() for row in rows]
    wrong = next((i for i, t in enumerate(tokens) if len(t) != 150), None)
    if wrong is not None:
        found = f"line {start + wrong + 1}: {len(tokens[wrong])} numbers"
        raise InputError(f"{place}: {found}; a frame has 150 (2 bodies x 25 joints x 3)", reason="wrong joint count")
    try:
        values = np.array([float(token) for row in tokens for token in row], np.float32)
    except ValueError as error:
        raise InputError(f"{place}: rows from {start}: {error}; fetch the file again", reason="damaged") from None
    return values.reshape(-1, 2, 25, 3).transpose(1, 0, 2, 3)


def is_pku(path: Path) -> bool:
    """Whether the folder has skeleton and label text as PKU-MMD lays them out."""
    return _folder(path, "skeleton") is not None and _folder(path, "label") is not None


def _folder(path: Path, word: str) -> Path | None:
    """The first folder below `path` whose name holds the word and which holds text files."""
    found = sorted(p for p in (*path.glob("*"), *path.glob("*/*")) if p.is_dir() and word in p.name.lower())
    return next((p for p in found if any(p.glob("*.txt"))), None)


def open_pku(path: Path) -> PKUSource:
    """The source of a PKU-MMD folder of part I or part II."""
    skeletons, labels = _folder(path, "skeleton"), label_folder(path)
    if skeletons is None or labels is None:
        raise InputError(f"{path}: needs a skeleton/ and a label/ folder of .txt files")
    splits = _splits(path, (skeletons, labels))
    source = PKUSource(path, "pku", "pku2", tuple(f"C{c + 1:02d}" for c in range(CLASSES)))
    parts = set()
    for file in sorted(labels.glob("*.txt")):
        match = STEM.fullmatch(file.stem)
        if match is None:
            raise InputError(f"{file}: {file.stem!r} is no PKU-MMD name (A01N01-L or 0001-L); rename or remove it", reason="bad name")
        place = skeletons / file.name
        if not place.is_file():
            raise InputError(f"{place}: missing, though {file} labels it; fetch it or remove the label file")
        parts.add("pku1" if match["video"] else "pku2")
        split = " ".join(f"{protocol}:{said[file.stem]}" for protocol, said in splits.items() if file.stem in said)
        for key, label, start, end in labelled(file):
            subject, scene = int(match["subject"] or 0), int(match["scene"] or 0)
            source.by_key[key] = Sample(key, label, subject, "LMR".index(match["view"]) + 1, scene, split=split)
            source.actions[key] = (str(place), start, end)
    if len(parts) > 1:
        raise InputError(f"{path}: stems of part I and part II together; give one part's folder")
    if not source.by_key:
        raise InputError(f"{labels}: no action in any label file; fetch them again")
    source.benchmark = parts.pop()
    return source


def own_key(name: str) -> str:
    """The key of an action that published descriptions (C2VL) call A013N008V002C048L005: scene, subject, view, class, line of the label
    file. Any other name as it is."""
    match = _PUBLISHED.fullmatch(name)
    if match is None:
        return name
    scene, subject, view, label, line = map(int, match.groups())
    return f"A{scene:02d}N{subject:02d}-{'LMR'[view - 1]}_C{label:03d}_L{line:03d}" if 1 <= view <= 3 else name


def label_folder(path: Path) -> Path | None:
    """The folder of label files below a folder of PKU-MMD, or None."""
    return _folder(path, "label")


def labelled(file: Path) -> Iterator[tuple[str, int, int, int]]:
    """(key, 0-based class, first row, end row) of each action of a label file. InputError naming the line."""
    for line, text in enumerate(file.read_text().splitlines(), 1):
        if not text.strip():
            continue
        try:
            said, start, end = (int(value) for value in text.split(",")[:3])
        except ValueError:
            raise InputError(f"{file}: line {line}: {text!r} is not class,start,end,confidence; fetch the file again") from None
        if not 1 <= said <= CLASSES:
            raise InputError(f"{file}: line {line}: unknown class {said}; known are 1 to {CLASSES}", reason="bad name")
        if not 0 <= start < end:
            raise InputError(f"{file}: line {line}: frames {start} to {end} are no interval; mend the line")
        yield f"{file.stem}_C{said:03d}_L{line:03d}", said - 1, start, end


def _splits(path: Path, others: tuple[Path, Path]) -> dict[str, dict[str, str]]:
    """{protocol: {stem: "train" or "test"}} of the split files that are there."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(path.rglob("*.txt")):
        match = _SPLIT.search(file.name)
        if match is None or file.parent in others:
            continue
        protocol = _PROTOCOL[match[1].lower()]
        if protocol in found:
            raise InputError(f"{file}: a second list for {protocol}; leave one split file for each protocol")
        lists = [STEM.finditer(text) for text in _lists(file)]
        if len(lists) != 2:
            raise InputError(f"{file}: {len(lists)} lists of videos; expected training and test videos, each after its header line")
        train, test = ({m[0] for m in stems} for stems in lists)
        if train & test:
            raise InputError(f"{file}: {min(train & test)} trains and tests; mend the file")
        found[protocol] = dict.fromkeys(train, "train") | dict.fromkeys(test, "test")
    return found


def _lists(file: Path) -> list[str]:
    """The texts that follow the header lines."""
    lists: list[str] = []
    for line in file.read_text().splitlines():
        if "videos" in line.lower() and not STEM.search(line):
            lists.append("")
        elif lists:
            lists[-1] += " " + line
    return lists
