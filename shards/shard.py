"""One shard: a tar file whose bytes depend on the samples alone, written so that it is complete or absent."""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.manifest import SampleEntry, ShardEntry, canonical, text_id, write_file

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Described:
    """One caption of a clip: its words, their features [L,D] float16 or None, and how many positions are valid (0: not known)."""

    words: str
    features: NDArray[np.float16] | None
    tokens: int

    @property
    def id(self) -> int:
        """What equal captions share."""
        return text_id(self.words)


@dataclass(frozen=True)
class Packed:
    """One sample ready to be written: joints [C,T,V,M], its captions (none, one, or several), and its metadata."""

    key: str
    joints: NDArray[np.float32] | NDArray[np.float16]
    captions: tuple[Described, ...]
    provenance: str
    label: int
    subject: int
    camera: int
    setup: int
    replication: int
    split: str

    def facts(self) -> dict[str, object]:
        """What KEY.json says."""
        return {
            "label": self.label,
            "subject": self.subject,
            "camera": self.camera,
            "setup": self.setup,
            "replication": self.replication,
            "split": self.split,
            "frames": int(self.joints.shape[1]),
            "persons": int(self.joints.shape[3]),
            "caption": self._caption(),
        }

    def _caption(self) -> dict[str, object] | None:
        """{text, provenance, id}, and `more` of [{text, id}] where there are several."""
        if not self.captions:
            return None
        first, *rest = self.captions
        said: dict[str, object] = {"text": first.words, "provenance": self.provenance, "id": first.id}
        return {**said, "more": [{"text": one.words, "id": one.id} for one in rest]} if rest else said


def write_shard(path: Path, samples: Iterable[Packed]) -> ShardEntry:
    """Write members KEY.joints.npy, KEY.json and KEY.text.npy of each sample, KEY.text.1.npy and so on for further captions.

    One sample is in memory at a time.

    Equal samples give equal bytes: no clock, no user, no name of this machine."""
    entries: list[SampleEntry] = []
    digest = hashlib.sha256()
    size = 0

    def chunks() -> Iterator[bytes]:
        nonlocal size
        for sample in samples:
            places: dict[str, list[int]] = {}
            for extension, data in _members(sample):
                header = _header(f"{sample.key}.{extension}", len(data))
                places[extension] = [size + len(header), len(data)]
                block = b"".join((header, data, bytes(-len(data) % BLOCK)))
                digest.update(block)
                size += len(block)
                yield block
            entries.append(_entry(sample, places))
        end = bytes(2 * BLOCK)
        digest.update(end)
        size += len(end)
        yield end

    write_file(path, chunks())
    return {"name": path.name, "count": len(entries), "bytes": size, "sha256": digest.hexdigest(), "samples": entries}


def _members(sample: Packed) -> Iterator[tuple[str, bytes]]:
    yield "joints.npy", _npy(sample.joints)
    yield "json", canonical(sample.facts())
    for i, caption in enumerate(sample.captions):
        if caption.features is not None:
            yield _text_member(i), _npy(caption.features)


def _text_member(i: int) -> str:
    return f"text.{i}.npy" if i else "text.npy"


def _npy(array: NDArray[np.float32] | NDArray[np.float16]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o444
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _entry(sample: Packed, places: dict[str, list[int]]) -> SampleEntry:
    first = sample.captions[0] if sample.captions else None
    entry: SampleEntry = {
        "key": sample.key,
        "joints": places["joints.npy"],
        "json": places["json"],
        "text": places.get("text.npy"),
        "label": sample.label,
        "subject": sample.subject,
        "camera": sample.camera,
        "setup": sample.setup,
        "replication": sample.replication,
        "split": sample.split,
        "frames": int(sample.joints.shape[1]),
        "persons": int(sample.joints.shape[3]),
        "text_id": first.id if first else None,
    }
    if first and first.tokens:
        entry["tokens"] = first.tokens
    if len(sample.captions) > 1:
        entry["more"] = [
            {"text": places.get(_text_member(i)), "text_id": one.id, "tokens": one.tokens} for i, one in enumerate(sample.captions) if i
        ]
    return entry
