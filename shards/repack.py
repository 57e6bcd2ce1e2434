"""A packed set with some of its captions replaced: a new set, in which nothing else differs by a byte.

The old set is read as a source, its motion as it was normalised and its features as they were encoded: no raw data is needed, and only the
new captions want features. The order of training's batches depends on the keys, which stay, so runs on both sets see the same clips."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.manifest import Caption
from shards.pack import NO_CAPTION, PackReport, TextFeatures, pack
from shards.samples import Clip, Sample, Source
from shards.stream import PackedSet, Record

VERSION, BASE = "caption_version", "caption_base"  # in a set's options: which captions these are (from 1), and the content id of the first


@dataclass
class PackedSource(Source):
    """A packed set as something to pack."""

    packed: PackedSet | None = None

    @classmethod
    def of(cls, packed: PackedSet) -> "PackedSource":
        """The set's samples, classes and layout; what was done to its motion stays done."""
        about = packed.manifest
        return cls(
            path=packed.path,
            format=about["format"],
            benchmark=about["benchmark"],
            classes=tuple(about["classes"]),
            skeleton=about["skeleton"],
            normalised=True,
            packed=packed,
        )

    def samples(self) -> list[Sample]:
        """All samples, sorted by key."""
        return sorted((_sample(record) for record in self._set.samples), key=lambda sample: sample.key)

    def read(self, key: str) -> Clip:
        """The motion as it was packed."""
        return Clip(np.ascontiguousarray(self._joints(key).astype(np.float32).transpose(3, 1, 2, 0)))

    def digest(self, key: str) -> str:
        """sha256 of the motion as it was packed."""
        return hashlib.sha256(np.ascontiguousarray(self._joints(key)).tobytes()).hexdigest()

    def _joints(self, key: str) -> NDArray[Any]:
        return self._set.joints(self._set.samples[self._set.index[key]])

    @property
    def _set(self) -> PackedSet:
        assert self.packed is not None
        return self.packed


@dataclass(frozen=True)
class Features:
    """Features of a set's own captions, and of those that replace some of them."""

    packed: PackedSet
    places: Mapping[str, tuple[str, int]]  # caption, or key: (key of a sample that has it, number of the caption)
    new: TextFeatures | None
    changed: frozenset[str] = field(default_factory=frozenset)  # keys whose captions were replaced

    @property
    def encoder(self) -> str:
        return str(self._about["encoder"])

    @property
    def shape(self) -> tuple[int, int]:
        length, width = self._about["shape"]
        return int(length), int(width)

    @property
    def by(self) -> Literal["caption", "key"]:
        return "key" if self._about.get("by") == "key" else "caption"

    def digest(self, text: str) -> str:
        return hashlib.sha256(np.ascontiguousarray(self(text), np.float16).tobytes()).hexdigest()

    def tokens(self, text: str) -> int:
        record = self._record(text)
        if record is not None:
            return record.tokens
        assert self.new is not None
        return self.new.tokens(text)

    def __call__(self, text: str) -> NDArray[np.float16]:
        record = self._record(text)
        if record is not None:
            return np.asarray(self.packed.text(record), np.float16)
        assert self.new is not None
        return self.new(text)

    def _record(self, text: str) -> Record | None:
        """The packed sample that has this caption; None where it is a new one."""
        if text not in self.places or (self.by == "key" and text in self.changed):
            return None
        key, number = self.places[text]
        return self.packed.samples[self.packed.index[key]].with_caption(number)

    @property
    def _about(self) -> Mapping[str, Any]:
        text = self.packed.manifest["text"]
        assert text is not None
        return text


def captions_in(packed: PackedSet) -> dict[str, Caption]:
    """The captions that a set was packed with, by key."""
    found = {}
    for record in packed.samples:
        said = json.loads(packed.metadata(record.key))["caption"]
        if said:
            found[record.key] = Caption(said["text"], said["provenance"], tuple(one["text"] for one in said.get("more", ())))
    return found


def caption_version(packed: PackedSet) -> int:
    """Which captions a set has: 1 where none was replaced."""
    return int(packed.manifest["options"].get(VERSION, 1))


def caption_base(packed: PackedSet) -> str:
    """Content id of the set with the captions that came first: what runs on all versions share."""
    return str(packed.manifest["options"].get(BASE, packed.content_id))


def repack(
    packed: PackedSet,
    out: Path,
    captions: Mapping[str, Caption],
    features: TextFeatures | None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack the set anew into `out`, with these captions for their keys; see `pack` for what is complete or absent.

    features   of the new captions, by the encoder of the old ones
    Raises InputError for keys that are not in the set, for features of another encoder or shape, and for a set without captions."""
    text = packed.manifest["text"]
    if text is None:
        raise InputError(f"{packed.path} has no captions that could be replaced; pack its raw data with --captions")
    if unknown := sorted(set(captions) - set(packed.index)):
        raise InputError(f"{packed.path} has no sample {unknown[0]!r} ({len(unknown)} keys are unknown)")
    old = captions_in(packed)
    known = Features(packed, _places(old, str(text.get("by", "caption"))), features, frozenset(captions))
    _check(known, captions, packed.path)
    missing = {key: reason.removeprefix(f"{NO_CAPTION}: ") for reason, keys in text.get("missing", {}).items() for key in keys}
    source = PackedSource.of(packed)
    options = packed.manifest["options"]
    source.options = {
        "packed as": str(packed.manifest["normalise"]) if packed.manifest["normalise"] != "none" else str(options.get("packed as", "none")),
        VERSION: str(caption_version(packed) + 1),
        BASE: caption_base(packed),
    }
    new = {**old, **captions}
    return pack(
        source,
        out,
        captions=new,
        features=known,
        jobs=jobs,
        dtype=options.get("dtype", "float32"),
        progress=progress,
        missing_text="train" if set(packed.index) - set(new) else "error",
        unusable=missing,
    )


def _places(captions: Mapping[str, Caption], by: str) -> dict[str, tuple[str, int]]:
    if by == "key":
        return {key: (key, 0) for key in captions}
    places: dict[str, tuple[str, int]] = {}
    for key, caption in sorted(captions.items()):
        for number, words in enumerate(caption.texts):
            places.setdefault(words, (key, number))
    return places


def _check(known: Features, captions: Mapping[str, Caption], where: Path) -> None:
    """Refuse new captions that have no features of the old ones' kind."""
    names = set(captions) if known.by == "key" else {words for caption in captions.values() for words in caption.texts}
    wanting = {name for name in names if known._record(name) is None}
    if not wanting:
        return
    new = known.new
    if new is None:
        raise InputError(f"{len(wanting)} new captions have no features; encode them as those of {where} were, by {known.encoder}")
    if (new.encoder, tuple(new.shape), new.by) != (known.encoder, known.shape, known.by):
        raise InputError(
            f"the captions of {where} were encoded by {known.encoder} {known.shape}, the new ones by {new.encoder} {tuple(new.shape)}: "
            "their features do not mix; encode the new ones with the same flags"
        )


def _sample(record: Record) -> Sample:
    facts = {name: getattr(record, name) for name in ("label", "subject", "camera", "setup", "replication", "split")}
    return Sample(record.key, **facts)
