"""manifest.json of a packed set: what is in it, where each member lies in which shard, and the sums that check the bytes."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from shards.errors import InputError

NAME = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Caption:
    """What describes one clip, and where it comes from: vlm, motion, import, program or label.

    more: further descriptions of the same clip, in the order of their file."""

    text: str
    provenance: str = "import"
    more: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All descriptions of the clip."""
        return (self.text, *self.more)


class MoreText(TypedDict):
    """A further caption of a sample: [offset, size] of its features, its id, valid positions of the features (0: not known)."""

    text: list[int] | None
    text_id: int
    tokens: int


class SampleEntry(TypedDict):
    """One sample: metadata, and [offset, size] of each member's data within the tar file.

    text and text_id are None for a sample without caption; tokens: valid positions of the text's features, where they are known."""

    key: str
    joints: list[int]
    json: list[int]
    text: list[int] | None
    label: int
    subject: int
    camera: int
    setup: int
    replication: int
    split: str
    frames: int
    persons: int
    text_id: int | None
    tokens: NotRequired[int]
    more: NotRequired[list[MoreText]]


class ShardEntry(TypedDict):
    """One tar file: its name, number of samples, size, sha256, and its samples in order."""

    name: str
    count: int
    bytes: int
    sha256: str
    samples: NotRequired[list[SampleEntry]]


class TextEntry(TypedDict):
    """The text of a set. `provenance` is the one nearest to the label among `provenances`; `shape` is [L,D].

    determines_label: few distinct texts, and each belongs to one class only, so that text is the label in other words.
    one_per_label: all clips of a class have the same text.
    by: "key" where features belong to the sample and not to its words, so that equal texts have different ones.
    most: captions of a sample at most, where that is more than one.
    missing: samples without caption among those that have one, by reason."""

    provenance: str
    provenances: dict[str, int]
    encoder: str
    shape: list[int]
    distinct: int
    determines_label: bool
    one_per_label: bool
    by: NotRequired[str]
    most: NotRequired[int]
    missing: NotRequired[dict[str, list[str]]]


class Manifest(TypedDict):
    """The whole file; `shards` comes last so that it can be written one shard at a time."""

    version: int
    content_id: str
    format: str
    benchmark: str
    classes: list[str]
    skeleton: str
    normalise: str
    options: dict[str, Any]
    text: TextEntry | None
    samples: int
    dropped: dict[str, list[str]]
    shards: list[ShardEntry]


def text_id(text: str) -> int:
    """A number in [0, 2**63) that equal captions share: from the first 8 bytes of the text's sha256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def canonical(value: object) -> bytes:
    """JSON that is the same bytes for equal values: sorted names, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def content_id(format: str, options: dict[str, Any], sources: Iterable[tuple[str, str]]) -> str:
    """sha256 hex of (format, options, sorted [key, sha256 of what the sample is made of]): names the set everywhere."""
    return hashlib.sha256(canonical([format, options, sorted(sources)])).hexdigest()


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file that is complete or absent: a temporary name beside it, fsync, rename, fsync of the folder."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """sha256 hex of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write(folder: Path, head: Manifest, shards: Iterable[ShardEntry]) -> None:
    """Write FOLDER/manifest.json: `head` (its own list of shards is left out), then the shards as they come."""

    def chunks() -> Iterable[bytes]:
        rest = {name: value for name, value in head.items() if name != "shards"}
        yield json.dumps(rest, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()[:-1]
        for i, shard in enumerate(shards):
            yield (b',\n"shards":[\n' if i == 0 else b",\n") + json.dumps(shard, separators=(",", ":"), ensure_ascii=False).encode()
        yield b"\n]}\n"

    write_file(folder / NAME, chunks())


def read(folder: Path) -> Manifest:
    """The manifest of a packed set. InputError when there is none, it is damaged, or of another version."""
    path = folder / NAME
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} is not a packed set (no {NAME}); pack one with: python launch/pack.py --data PATH --out {folder}"
        ) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); pack again with --mode overwrite") from None
    version = found.get("version") if isinstance(found, dict) else None
    if version != VERSION:
        raise InputError(f"{path} has version {version!r}, this code reads version {VERSION}; pack again with --mode overwrite")
    missing = [name for name in Manifest.__annotations__ if name not in found]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; pack again with --mode overwrite")
    result: Manifest = found
    return result
