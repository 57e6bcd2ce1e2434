"""Captions by sample key, and token features of texts: read from a folder, or made by the offline stand-in `hash`."""

import csv
import hashlib
import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.caption_record import CaptionRecord
from shards.errors import InputError
from shards.manifest import Caption, write_file
from shards.pku import own_key

PROVENANCES = ("vlm", "motion", "import", "program", "label")
WORD = re.compile(r"\w+|[^\w\s]")
ARRAY, INDEX = "texts.npy", "index.jsonl"
FOLDER_FILE = "captions.jsonl"  # of captioning, in its folder


@dataclass(frozen=True)
class Captions:
    """What a file says of its samples.

    usable   captions by sample key
    reasons  why a sample of the file has none, by key: it is empty, the captioner failed, the quality gate holds something against it"""

    usable: dict[str, Caption]
    reasons: dict[str, str]


def read_captions(path: Path) -> dict[str, Caption]:
    """The usable captions of `captions_of`, by sample key."""
    return captions_of(path).usable


def captions_of(path: Path) -> Captions:
    """Captions by sample key from a .jsonl, .json or .csv file, or from the folder that launch/caption.py has filled.

    Records are {"key", "text"[, "provenance"]} ("import" where it is not said), or key: text pairs; a list of texts, or "texts" beside
    "text", are several captions of one sample. Records of captioning (those with "captioner") count only when they are usable; PKU-MMD's
    actions may be called as C2VL calls them (shards/pku.py, own_key).
    InputError names the line that is wrong, a key that comes twice and a provenance that is none of PROVENANCES."""
    file = _caption_file(path)
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
    if file.suffix not in readers:
        raise InputError(f"{path}: captions are read from {', '.join(readers)} files, or from a folder of captioning")
    found = Captions({}, {})
    try:
        for said in readers[file.suffix](file):
            texts = _texts(said)
            said = said._replace(key=own_key(said.key))
            if said.key in found.usable or said.key in found.reasons:
                raise InputError(f"{said.where}: a second caption for {said.key}; keep one")
            if said.reason or not texts:
                found.reasons[said.key] = said.reason or "empty"
            else:
                found.usable[said.key] = Caption(texts[0], said.provenance, texts[1:])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of captions") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    if not found.usable:
        most = Counter(found.reasons.values()).most_common(3)
        raise InputError(f"{path}: no caption in it{' that can be used: ' if most else ''}{', '.join(f'{n} {why}' for why, n in most)}")
    return found


def _caption_file(path: Path) -> Path:
    """The file of a folder of captioning, or the path itself."""
    if not path.is_dir():
        return path
    if not (path / FOLDER_FILE).is_file():
        raise InputError(f"{path} has no {FOLDER_FILE}: captioning is not finished, or stopped at its quality gate; run it again")
    return path / FOLDER_FILE


class Said(NamedTuple):
    """One record as it stands in a file: `text` may be anything; reason: why it cannot be used."""

    where: str
    key: Any
    text: Any
    provenance: str = "import"
    reason: str = ""


def _texts(said: Said) -> tuple[str, ...]:
    """The distinct captions of a record, without empty ones."""
    texts = said.text if isinstance(said.text, list) else [said.text]
    if not isinstance(said.key, str) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{said.where}: a caption is a key and a text; found {said.key!r} and {said.text!r}")
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise InputError(f"{said.where}: the caption of {said.key} has half a character in it (a lone surrogate); write the text anew")
    if said.provenance not in PROVENANCES:
        raise InputError(f"{said.where}: provenance {said.provenance!r} of {said.key} is not known; one of {', '.join(PROVENANCES)}")
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


Told = Iterator[Said]


def _jsonl(path: Path) -> Told:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield from _record(_parsed(line, f"{path}:{number}"), f"{path}:{number}")


def _json(path: Path) -> Told:
    whole = _parsed(path.read_text(encoding="utf-8"), str(path))
    for number, record in enumerate(whole if isinstance(whole, list) else [whole], 1):
        yield from _record(record, f"{path}, record {number}" if isinstance(whole, list) else str(path))


def _csv(path: Path) -> Told:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if not {"key", "text"} <= set(rows.fieldnames or ()):
            raise InputError(f"{path}: its first line must name the columns key and text (and provenance); it is {rows.fieldnames}")
        for row in rows:
            yield Said(f"{path}:{rows.line_num}", row["key"], row["text"], row.get("provenance") or "import")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, where))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from None


def _object(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """A JSON object in which no key comes twice (json keeps the last one, silently)."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InputError(f"{where}: {twice!r} comes twice in one object; keep one")
    return found


def _record(record: Any, where: str) -> Told:
    """One record, or an object of key: text, key: [texts] or key: {text, provenance} pairs."""
    if not isinstance(record, dict):
        raise InputError(f"{where}: a caption is an object with key and text, or of key: text pairs; found {type(record).__name__}")
    if "captioner" in record:
        yield _of_captioning(CaptionRecord.of(record, where), where)
    elif "key" in record:
        yield _simple(record["key"], record, where)
    else:
        for key, said in record.items():
            yield _simple(key, said, where) if isinstance(said, dict) else Said(where, key, said)


def _simple(key: Any, record: dict[str, Any], where: str) -> Said:
    """{text, provenance}, with several in `texts`."""
    text, more = record.get("text"), record.get("texts")
    if isinstance(more, list):
        text = [*([] if text is None else [text]), *more]
    return Said(where, key, text, record.get("provenance") or "import")


def _of_captioning(record: CaptionRecord, where: str) -> Said:
    """What captioning says of a clip; the gate's flags hold for all of its texts."""
    reason = record.error or (f"flagged {', '.join(record.flags)}" if record.flags else "")
    return Said(where, record.key, [record.text, *record.texts], record.provenance, reason)


@dataclass(frozen=True)
class HashText:
    """Word features without any weights, for trying things offline: the same word always has the same vector, nothing means anything.

    Laid out as CLIP's token features are, [77,512]: start, up to 75 words or punctuation marks in lower case, end, zeros. A word's vector
    is 512 signs, the bits of SHAKE-256 of the word: components of unit variance, as CLIP's final LayerNorm leaves them, and almost
    orthogonal to every other word's."""

    encoder: str = "hash"
    shape: tuple[int, int] = (77, 512)
    by: Literal["caption", "key"] = "caption"

    def digest(self, text: str) -> str:
        """The same for all texts: the features follow from the words."""
        return f"{self.encoder} {self.shape}"

    def __call__(self, text: str) -> NDArray[np.float16]:
        """[L,D] features of one text."""
        width = self.shape[1]
        words = self._words(text)
        features = np.zeros(self.shape, np.float16)
        bits = np.frombuffer(b"".join(hashlib.shake_256(word.encode()).digest(-(-width // 8)) for word in words), np.uint8)
        signs = np.unpackbits(bits).reshape(len(words), -1)[:, :width].astype(np.float32) * 2 - 1
        features[: len(words)] = signs
        return features

    def tokens(self, text: str) -> int:
        """Valid positions: start, words, end."""
        return len(self._words(text))

    def _words(self, text: str) -> list[str]:
        return ["<start>", *WORD.findall(text.lower())[: self.shape[0] - 2], "<end>"]


class Row(NamedTuple):
    """Where the features of one text lie: row of the array, sha256 of its bytes, valid positions (0: not known)."""

    row: int
    sha256: str
    tokens: int


@dataclass(frozen=True)
class TextStore:
    """A folder of text features made elsewhere: texts.npy float16 [n,L,D] and index.jsonl, one line per row.

    A line is {"caption": sha256 of the caption's words} or {"key": the sample's key}, and "row", "encoder", "sha256" of the row's bytes
    and "tokens", the valid positions with start and end (left out or 0: not known). One folder has lines of one kind.

    by    what features are found by: "caption", the words; "key", the sample, for features that no other clip with the same words shares
    rows  sha256 of a caption, or a key -> its row"""

    folder: Path
    encoder: str
    shape: tuple[int, int]
    rows: Mapping[str, Row]
    by: Literal["caption", "key"] = "caption"

    @classmethod
    def open(cls, folder: Path) -> "TextStore":
        """InputError when the folder is no text feature store, or its two files disagree."""
        try:
            features = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
            lines = [json.loads(line) for line in (folder / INDEX).read_text(encoding="utf-8").splitlines()]
            by: Literal["caption", "key"] = "key" if lines and "key" in lines[0] else "caption"
            rows = {str(line[by]): Row(int(line["row"]), str(line["sha256"]), int(line.get("tokens", 0))) for line in lines}
            encoders = {str(line["encoder"]) for line in lines}
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"{folder} is not a folder of text features: {error.filename} is missing") from None
        except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise InputError(f"{folder} is a damaged folder of text features ({error}); encode the texts again") from None
        if features.ndim != 3 or features.dtype != np.float16 or len(features) != len(lines) or len(encoders) != 1:
            raise InputError(
                f"{folder} is a damaged folder of text features: {ARRAY} is {features.dtype} {features.shape}, {INDEX} has {len(lines)} "
                f"lines of {len(encoders)} encoders; encode the texts again"
            )
        wrong = [name for name, row in rows.items() if not (0 <= row.row < len(features) and 0 <= row.tokens <= features.shape[1])]
        if wrong or len(rows) != len(lines):
            told = f"{wrong[0]} is at {rows[wrong[0]]}" if wrong else f"{len(lines) - len(rows)} lines come twice"
            raise InputError(f"{folder} is a damaged folder of text features: {INDEX}: {told}; encode the texts again")
        return cls(folder, encoders.pop(), (features.shape[1], features.shape[2]), rows, by)

    def lacking(self, texts: Iterable[str]) -> list[str]:
        """Those of the texts (of the keys, where `by` is "key") that have no features here."""
        return sorted({text for text in texts if self._name(text) not in self.rows})

    def digest(self, text: str) -> str:
        """A name for the features of this text (key) that changes when they or their valid positions do."""
        row = self._row(text)
        return f"{row.sha256}:{row.tokens}" if row.tokens else row.sha256

    def tokens(self, text: str) -> int:
        """Valid positions of the features of this text (key), start and end among them; 0 where the folder does not say."""
        return self._row(text).tokens

    def __call__(self, text: str) -> NDArray[np.float16]:
        """[L,D] features of one text (key); InputError when the folder does not have it."""
        row = self._row(text).row
        features: NDArray[np.float16] = np.array(np.load(self.folder / ARRAY, mmap_mode="r", allow_pickle=False)[row])
        return features

    def _row(self, text: str) -> Row:
        if self._name(text) not in self.rows:
            raise InputError(f"{self.folder} has no features of {text[:60]!r}; encode the texts again")
        return self.rows[self._name(text)]

    def _name(self, text: str) -> str:
        return caption_sha256(text) if self.by == "caption" else text


Rows = Iterable[tuple[str, NDArray[np.float16], int]]
"""(text or key, features [L,D], valid positions or 0) of each row."""


def write_store(
    folder: Path,
    encoder: str,
    shape: tuple[int, int],
    texts: Mapping[str, NDArray[np.float16]] | Iterable[tuple[str, Any]],
    tokens: Mapping[str, int] | None = None,
    by: Literal["caption", "key"] = "caption",
) -> TextStore:
    """Write the features [L,D] of some texts, each text once (by="key": of some samples), as a folder that is complete or absent.

    `texts` are (text, features) pairs, one of which is in memory at a time when an iterator gives them; `tokens`: their valid positions."""
    if folder.exists():
        raise InputError(f"{folder} exists; remove it or choose another folder for the text features")
    half = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    half.mkdir(parents=True)
    pairs = texts.items() if isinstance(texts, Mapping) else texts
    try:
        write_rows(half, encoder, shape, ((text, features, (tokens or {}).get(text, 0)) for text, features in pairs), by)
        half.rename(folder)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    return TextStore.open(folder)


def write_rows(folder: Path, encoder: str, shape: tuple[int, int], rows: Rows, by: Literal["caption", "key"] = "caption") -> TextStore:
    """Write a store's two files into a folder that is there. The index gets its name last: without it there is no store."""
    beside = folder / f".{ARRAY}.{uuid.uuid4().hex}"
    lines: list[bytes] = []
    try:
        with beside.open("wb") as file:
            _header(file, (0, *shape))
            for name, features, tokens in rows:
                if features.shape != shape:
                    raise ValueError(f"features of {name[:60]!r} have shape {features.shape}, not {shape}")
                data = np.ascontiguousarray(features, np.float16).tobytes()
                said = {by: caption_sha256(name) if by == "caption" else name, "row": len(lines), "encoder": encoder}
                said |= {"sha256": hashlib.sha256(data).hexdigest(), **({"tokens": tokens} if tokens else {})}
                lines.append(json.dumps(said).encode() + b"\n")
                file.write(data)
            file.seek(0)
            _header(file, (len(lines), *shape))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / ARRAY)
        write_file(folder / INDEX, lines)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return TextStore.open(folder)


def _header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """The array's description. NumPy leaves room for any first number, so that it can be written again when the rows are counted."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})


def caption_sha256(text: str) -> str:
    """By what a caption is known in stores and plans: sha256 hex of its words."""
    return hashlib.sha256(text.encode()).hexdigest()
