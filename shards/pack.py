"""Packing: a source becomes a folder of shards and a manifest, in parallel, byte for byte the same, complete or absent.

Work goes on in OUT.packing/try.N/{set,done}: a shard and its record in done/ outlive a crash, and the last step renames set/ to OUT."""

import contextlib
import errno
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from acsar.skeleton import SKELETONS
from shards import manifest
from shards.claim import Claim
from shards.errors import InputError
from shards.manifest import Caption, Manifest, ShardEntry, TextEntry, canonical, sha256_of
from shards.normalise import NORMALISATIONS, normalise
from shards.samples import Sample, Source
from shards.shard import Described, Packed, write_shard
from shards.workers import each

Mode = Literal["incremental", "overwrite"]
MissingText = Literal["error", "drop", "train"]
Progress = Callable[[int, int], None]
NO_CAPTION = "no caption"
REASONS_SHOWN = 6
NEAREST_TO_LABEL = ("label", "program", "motion", "import", "vlm")
DTYPES = ("float32", "float16")
FULL = (errno.ENOSPC, errno.EDQUOT)


class TextFeatures(Protocol):
    """Token features of captions. `encoder` names what made them; `shape` is [L,D].

    They are found `by` the caption's words or by the sample's key; `text` below is the one or the other."""

    @property
    def encoder(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def by(self) -> Literal["caption", "key"]: ...

    def digest(self, text: str) -> str:
        """A name for the features of this text that changes when they do."""

    def tokens(self, text: str) -> int:
        """How many of the L positions are valid; 0 where that is not known."""

    def __call__(self, text: str) -> NDArray[np.float16]:
        """[L,D] features of one text."""


@dataclass(frozen=True)
class PackReport:
    """What packing did. `excluded` are keys the source lists as unusable and `broken` those that could not be read, by reason.

    motion_error: what float16 does to the steps from frame to frame, root mean square relative to theirs; None for float32."""

    out: Path
    content_id: str
    samples: int
    shards: int
    bytes: int
    reused: int
    up_to_date: bool
    cut: int
    excluded: dict[str, list[str]]
    broken: dict[str, list[str]]
    text: TextEntry | None
    motion_error: float | None = None

    def lines(self) -> list[str]:
        """The report for people."""
        if self.up_to_date:
            return [f"nothing to do: {self.out} already holds this set ({self.samples} samples, content {self.content_id[:12]})"]
        again = f", {self.reused} of them from an earlier try" if self.reused else ""
        lines = [
            f"packed {self.samples} samples into {self.shards} shards{again} ({self.bytes / 1e6:.1f} MB) at {self.out}, "
            f"content {self.content_id[:12]}"
        ]
        missing = self.text.get("missing", {}) if self.text else {}
        untold = "no caption, so no text term where they train"
        for what, found in (("left out", self.excluded), ("dropped", self.broken), (untold, missing)):
            lines += _reasons(what, found)
        if self.cut:
            lines.append(f"{self.cut} clips were longer than 300 frames and cut there")
        if self.motion_error is not None:
            lines.append(f"float16: the motion stream is off by {self.motion_error:.2%} (root mean square, relative to the motion)")
        if self.text:
            lines += _text_lines(self.text, self.samples)
        return lines


def _reasons(what: str, found: Mapping[str, list[str]]) -> Iterator[str]:
    """A line for each reason, those of most samples; the rest in one."""
    most = sorted(found, key=lambda reason: (-len(found[reason]), reason))
    shown = most if len(most) <= REASONS_SHOWN + 1 else most[:REASONS_SHOWN]
    for reason, keys in found.items():
        if reason in shown:
            yield f"{what}: {len(keys)} ({reason}): {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
    if rest := most[len(shown) :]:
        yield f"{what}: {sum(len(found[reason]) for reason in rest)} for {len(rest)} other reasons"


def _text_lines(text: TextEntry, samples: int) -> Iterator[str]:
    missing = sum(len(keys) for keys in text.get("missing", {}).values())
    several = f", up to {text['most']} of one sample" if "most" in text else ""
    yield f"text: {text['distinct']} distinct captions for {samples - missing} samples, provenance {text['provenance']}{several}"
    if text["encoder"]:
        stand_in = " (offline stand-in, not CLIP)" if text["encoder"] == "hash" else ""
        yield f"text features: {text['encoder']}{stand_in}{', by sample' if text.get('by') == 'key' else ''}"
    distinct = f"these {text['distinct']} texts"
    if text["determines_label"]:
        also = ", and the class determines the text" if text["one_per_label"] else ""
        yield f"note: {distinct} determine the label{also}: training with them is not unsupervised"
    elif text["one_per_label"]:
        yield f"note: the class determines the text: {distinct} say part of the label, and training with them is not unsupervised"


@dataclass(frozen=True)
class Part:
    """What one shard's worker says: how many samples, what they were made of, and which could not be read.

    steps: sums of squares of what storing lost of the steps from frame to frame, and of the steps."""

    count: int
    sources: list[tuple[str, str]]
    broken: dict[str, str]
    cut: int
    steps: tuple[float, float]
    reused: bool


@dataclass
class Seen:
    """What is noted while a shard is written."""

    broken: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    lost: float = 0.0
    moved: float = 0.0

    def stored(self, joints: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
        """The joints as they are stored. InputError where they do not fit."""
        if dtype == "float32":
            return joints
        with np.errstate(over="ignore"):
            stored: NDArray[np.float32] = joints.astype(dtype)
        if not np.isfinite(stored).all():
            raise InputError(f"a coordinate is too large for {dtype}", reason=f"too large for {dtype}")
        steps = np.diff(joints, axis=1)
        self.moved += float(np.square(steps).sum(dtype=np.float64))
        self.lost += float(np.square(np.diff(stored.astype(np.float32), axis=1) - steps).sum(dtype=np.float64))
        return stored


@dataclass(frozen=True)
class Work:
    """Everything a worker needs to build shard i: a slice of the sorted samples."""

    source: Source
    samples: list[Sample]
    captions: Mapping[str, Caption]
    uncaptioned: Mapping[str, list[str]]  # samples without caption among those that have one, by reason
    features: TextFeatures | None
    normalise: str
    dtype: str
    per_shard: int
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-len(self.samples) // self.per_shard)

    def slice(self, i: int) -> list[Sample]:
        """The samples of shard i."""
        return self.samples[i * self.per_shard : (i + 1) * self.per_shard]

    def sources(self, i: int) -> list[tuple[str, str]]:
        """[key, sha256 of what the sample is made of] for shard i: source bytes, metadata, caption, features."""
        return [(sample.key, self._made_of(sample)) for sample in self.slice(i)]

    def _made_of(self, sample: Sample) -> str:
        try:
            digest = self.source.digest(sample.key)
        except InputError as error:
            digest = f"unreadable: {error.reason}"
        caption = self.captions.get(sample.key)
        said: list[Any] | None = None
        if caption:
            said = [caption.text, caption.provenance, self._digest(sample.key, caption.text)]
            said += [[words, self._digest(sample.key, words)] for words in caption.more]
        facts = [sample.label, sample.subject, sample.camera, sample.setup, sample.replication, sample.split]
        return hashlib.sha256(canonical([digest, facts, said])).hexdigest()

    def _digest(self, key: str, words: str) -> str:
        return self.features.digest(key if self.features.by == "key" else words) if self.features else ""

    def described(self, key: str) -> tuple[Described, ...]:
        """The captions of a sample with their features."""
        caption = self.captions.get(key)
        return tuple(self._described(key, words) for words in caption.texts) if caption else ()

    def _described(self, key: str, words: str) -> Described:
        if self.features is None:
            return Described(words, None, 0)
        name = key if self.features.by == "key" else words
        return Described(words, self.features(name), self.features.tokens(name))

    def tar(self, i: int) -> Path:
        """Where shard i is written."""
        return self.folder / "set" / f"shard-{i:06d}.tar"

    def record(self, i: int) -> Path:
        """What says that shard i is finished, and what it was made of."""
        return self.folder / "done" / f"shard-{i:06d}.json"

    def __call__(self, i: int) -> Part:
        """Build shard i, or find it finished."""
        sources = self.sources(i)
        made_of = hashlib.sha256(canonical([self.source.format, self.options, sources])).hexdigest()
        done = self.finished(i, made_of)
        if done is not None:
            return Part(sources=sources, reused=True, **done["said"])
        seen = Seen()
        entry = write_shard(self.tar(i), self._packed(i, seen))
        if not entry["count"]:
            self.tar(i).unlink()
        said: dict[str, Any] = {"count": entry["count"], "broken": seen.broken, "cut": seen.cut, "steps": (seen.lost, seen.moved)}
        manifest.write_file(self.record(i), [canonical({"made_of": made_of, "entry": entry, "said": said})])
        return Part(sources=sources, reused=False, **said)

    def finished(self, i: int, made_of: str) -> dict[str, Any] | None:
        """The record of shard i if it was made of the same inputs and the file still has the bytes it should have."""
        try:
            done: dict[str, Any] = json.loads(self.record(i).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        whole = done["made_of"] == made_of and (not done["entry"]["count"] or _intact(self.tar(i), done["entry"]))
        return done if whole else None

    def _packed(self, i: int, seen: Seen) -> Iterator[Packed]:
        skeleton = SKELETONS[self.source.skeleton]
        for sample in self.slice(i):
            try:
                clip = self.source.read(sample.key)
                normal = normalise(clip, self.normalise, skeleton)
                if not np.isfinite(normal).all():
                    raise InputError("a coordinate is not finite", reason="not finite")
                joints = seen.stored(normal, self.dtype)
            except InputError as error:
                seen.broken[sample.key] = error.reason or str(error)
                continue
            seen.cut += clip.cut
            caption = self.captions.get(sample.key)
            yield Packed(
                key=sample.key,
                joints=joints,
                captions=self.described(sample.key),
                provenance=caption.provenance if caption else "",
                label=sample.label,
                subject=sample.subject,
                camera=sample.camera,
                setup=sample.setup,
                replication=sample.replication,
                split=sample.split,
            )


def pack(
    source: Source,
    out: Path,
    normalise: str = "auto",
    captions: Mapping[str, Caption] | None = None,
    features: TextFeatures | None = None,
    jobs: int = 1,
    mode: Mode = "incremental",
    per_shard: int = 256,
    dtype: Literal["float32", "float16"] = "float32",
    progress: Progress | None = None,
    missing_text: MissingText = "error",
    max_broken: float = 0.05,
    unusable: Mapping[str, str] | None = None,
) -> PackReport:
    """Pack a source into the folder `out`; the bytes do not depend on `jobs`, the machine or the time.

    normalise  "auto" is "agcn", or "none" for arrays that come normalised
    captions   by key; None: the source's own texts, if it has any
    mode       incremental: go on where a killed packer stopped, and leave a finished folder of the same content alone;
               overwrite: pack anew and replace the folder at the end
    progress   called here with (samples done, samples in all)
    max_broken share of samples that may be unreadable
    missing_text  what becomes of samples without caption among others that have one: an error, left out (drop), or packed so that
               training leaves them out of the text term (train)
    unusable   why there is no caption of a sample, where that is known

    InputError for bad options, a folder that holds something else or is being packed, a full disk, too many broken samples."""
    name = _normalisation(normalise, source)
    for said, value, known in (
        ("dtype", dtype, DTYPES),
        ("mode", mode, get_args(Mode)),
        ("missing_text", missing_text, get_args(MissingText)),
    ):
        if value not in known:
            raise InputError(f"unknown {said} {value!r}; one of {', '.join(known)}")
    if per_shard < 1:
        raise InputError(f"per_shard is {per_shard}; a shard holds one sample at least")
    out = out.absolute()
    _free_or_packed(out)
    samples, excluded = _usable(source)
    samples, texts, lacking = _captioned(source, samples, captions, missing_text, unusable or {})
    if missing_text != "train":
        excluded, lacking = {**excluded, **lacking}, {}
    if features and features.by == "key" and (several := [key for key, caption in texts.items() if caption.more]):
        raise InputError(
            f"{several[0]} has {len(texts[several[0]].texts)} captions, but the text features are one per sample; give features of "
            "captions, or one caption each"
        )
    options = {
        **source.options,
        "normalise": name,
        "dtype": dtype,
        "classes": list(source.classes),
        "skeleton": source.skeleton,
        "benchmark": source.benchmark,
        "text": features.encoder if features and texts else "",
    }
    folder = out.with_name(out.name + ".packing")
    try:
        claim = Claim.take(folder)
        try:
            work = Work(
                source=source,
                samples=samples,
                captions=texts,
                uncaptioned=lacking,
                features=features if texts else None,
                normalise=name,
                dtype=dtype,
                per_shard=per_shard,
                folder=_latest_try(folder, claim.number),
                options=options,
            )
            report = _pack(work, out, mode, excluded, max_broken, max(1, jobs), progress)
            claim.discard()
        except BaseException:
            claim.release()
            raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise InputError(
            f"the disk is full: {out.parent} has {shutil.disk_usage(out.parent).free / 1e6:.0f} MB left; the finished shards are kept in "
            f"{folder}: make room and run the same command again"
        ) from None
    return report


def _latest_try(folder: Path, number: int) -> Path:
    """FOLDER/try.NUMBER, which takes over what the owner before has left.

    A worker that outlives its killed packer for a moment finds its folder renamed and cannot put its shard among ours."""
    mine = folder / f"try.{number:04d}"
    left = sorted(path for path in folder.glob("try.*") if path != mine)
    if left and not mine.exists():
        left.pop().rename(mine)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return mine


def _pack(
    work: Work, out: Path, mode: Mode, excluded: dict[str, list[str]], max_broken: float, jobs: int, progress: Progress | None
) -> PackReport:
    """All of packing that happens under the claim."""
    if out.exists() and any(out.iterdir()) and mode == "incremental":
        return _up_to_date(work, out, excluded, jobs)
    if mode == "overwrite":
        for name in ("set", "done"):
            shutil.rmtree(work.folder / name, ignore_errors=True)
    for name in ("set", "done"):
        (work.folder / name).mkdir(parents=True, exist_ok=True)
    _remove_halves(work.folder)
    parts: dict[int, Part] = {}
    done = 0
    if progress:
        progress(0, len(work.samples))
    try:
        with contextlib.closing(each(work, work.count, jobs)) as results:
            for i, part in results:
                parts[i] = part
                done += len(part.sources)
                if progress:
                    progress(done, len(work.samples))
                _check_broken({k: r for p in parts.values() for k, r in p.broken.items()}, len(work.samples), max_broken)
    finally:
        _remove_halves(work.folder)
    broken = _by_reason({key: reason for part in parts.values() for key, reason in part.broken.items()})
    id = manifest.content_id(work.source.format, work.options, [pair for part in parts.values() for pair in part.sources])
    head = _head(work, id, _merged(excluded, broken), sum(part.count for part in parts.values()))
    manifest.write(work.folder / "set", head, _entries(work))
    _publish(work, out)
    return PackReport(
        out=out,
        content_id=id,
        samples=head["samples"],
        shards=sum(part.count > 0 for part in parts.values()),
        bytes=sum(path.stat().st_size for path in out.iterdir()),
        reused=sum(part.reused for part in parts.values()),
        up_to_date=False,
        cut=sum(part.cut for part in parts.values()),
        excluded=excluded,
        broken=broken,
        text=head["text"],
        motion_error=_motion_error(parts.values()) if work.dtype != "float32" else None,
    )


def _remove_halves(folder: Path) -> None:
    """What workers that were stopped have left of their shards; whole shards stay."""
    for half in folder.glob("*/.*.part"):
        half.unlink(missing_ok=True)


def _motion_error(parts: Iterable[Part]) -> float:
    lost, moved = np.sum([part.steps for part in parts], axis=0)
    return float(np.sqrt(lost / moved)) if moved else 0.0


def _up_to_date(work: Work, out: Path, excluded: dict[str, list[str]], jobs: int) -> PackReport:
    """Say that a finished folder holds what is asked for; InputError when it holds another set or is damaged."""
    with contextlib.closing(each(work.sources, work.count, jobs)) as results:
        sources = [pair for _, pairs in results for pair in pairs]
    id = manifest.content_id(work.source.format, work.options, sources)
    there = manifest.read(out)
    if there["content_id"] != id:
        raise InputError(
            f"{out} holds another set (content {there['content_id'][:12]}, this one is {id[:12]}): choose another --out, or replace it "
            "with --mode overwrite"
        )
    check_sizes(out, there["shards"])
    dropped = {reason: keys for reason, keys in there["dropped"].items() if reason not in excluded}
    size = sum(path.stat().st_size for path in out.iterdir())
    return PackReport(out, id, there["samples"], len(there["shards"]), size, 0, True, 0, excluded, dropped, there["text"])


def check_sizes(folder: Path, shards: list[ShardEntry]) -> None:
    """InputError naming the first shard that is missing or has not the size its manifest says."""
    for shard in shards:
        path = folder / shard["name"]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise InputError(f"{path} is missing; pack again with --mode overwrite") from None
        if size != shard["bytes"]:
            raise InputError(f"{path} has {size} bytes, its manifest says {shard['bytes']}: damaged; pack again with --mode overwrite")


def _intact(path: Path, entry: ShardEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and sha256_of(path) == entry["sha256"]


def _normalisation(name: str, source: Source) -> str:
    if source.skeleton not in SKELETONS:
        raise InputError(f"{source.path}: skeleton layout {source.skeleton!r} is not known; known: {', '.join(SKELETONS)}")
    if name == "auto":
        return "none" if source.normalised else "agcn"
    if name not in NORMALISATIONS:
        raise InputError(f"unknown normalisation {name!r}; one of auto, {', '.join(NORMALISATIONS)}")
    return name


def _free_or_packed(out: Path) -> None:
    """Nothing may be at `out`, or an empty folder, or a packed set."""
    if out.is_dir() and any(out.iterdir()):
        if not (out / manifest.NAME).is_file():
            raise InputError(f"{out} holds other files and no packed set; choose another --out")
    elif out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out.parent}: {error.strerror}; choose another --out") from None


def _usable(source: Source) -> tuple[list[Sample], dict[str, list[str]]]:
    """The samples that can be packed, and those the source says are not to be, by reason."""
    unusable = source.excluded()
    found = source.samples()
    samples = [sample for sample in found if sample.key not in unusable]
    for sample in samples:
        if not sample.key or any(c in sample.key for c in "./\\\n\0"):
            raise InputError(
                f"{source.path}: sample name {sample.key!r} has a dot, slash or line break, which shards cannot hold; rename it"
            )
    excluded = _by_reason({sample.key: unusable[sample.key] for sample in found if sample.key in unusable})
    if not samples:
        raise InputError(f"{source.path}: no sample to pack")
    return samples, excluded


def _captioned(
    source: Source,
    samples: list[Sample],
    captions: Mapping[str, Caption] | None,
    missing: MissingText,
    unusable: Mapping[str, str],
) -> tuple[list[Sample], dict[str, Caption], dict[str, list[str]]]:
    """The samples to pack, their captions, and which have none, by reason; no caption at all is fine."""
    if captions is None:
        texts = {sample.key: Caption(sample.text.strip(), source.provenance) for sample in samples if sample.text.strip()}
    else:
        texts = {sample.key: captions[sample.key] for sample in samples if sample.key in captions and captions[sample.key].text.strip()}
        if not texts:
            raise InputError(f"none of the {len(captions)} captions is for a sample of {source.path}: their keys must be its sample names")
    lacking = [sample.key for sample in samples if sample.key not in texts]
    if not texts or not lacking:
        return samples, texts, {}
    reasons = _by_reason({key: f"{NO_CAPTION}: {unusable[key]}" if key in unusable else NO_CAPTION for key in lacking})
    if missing == "error":
        known = Counter({reason.removeprefix(f"{NO_CAPTION}: "): len(keys) for reason, keys in reasons.items() if reason != NO_CAPTION})
        why = f"; of these {', '.join(f'{n} {reason}' for reason, n in known.most_common(3))}" if known else ""
        first = f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}"
        raise InputError(
            f"{len(lacking)} of {len(samples)} samples have no caption ({first}{why}); "
            "caption them, keep them for testing and for training without the text term with --missing-text train, or leave them out with "
            "--missing-text drop"
        )
    return samples if missing == "train" else [sample for sample in samples if sample.key in texts], texts, reasons


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for key, reason in sorted(reasons.items(), key=lambda pair: (pair[1], pair[0])):
        grouped.setdefault(reason, []).append(key)
    return grouped


def _merged(first: dict[str, list[str]], second: dict[str, list[str]]) -> dict[str, list[str]]:
    return {reason: sorted(first.get(reason, []) + second.get(reason, [])) for reason in sorted({*first, *second})}


def _check_broken(broken: dict[str, str], total: int, allowed: float) -> None:
    if broken and (len(broken) > allowed * total or len(broken) == total):
        key, reason = sorted(broken.items())[0]
        counts = ", ".join(f"{n} {what}" for what, n in Counter(broken.values()).most_common(4))
        raise InputError(
            f"at least {len(broken)} of {total} samples cannot be read ({counts}; first: {key}, {reason}), more than {allowed:.0%}: "
            "repair the data, or raise --max-broken"
        )


def _entries(work: Work) -> Iterator[ShardEntry]:
    """The finished shards in order, read back one at a time."""
    for i in range(work.count):
        entry: ShardEntry = json.loads(work.record(i).read_bytes())["entry"]
        if entry["count"]:
            yield entry


def _head(work: Work, content_id: str, dropped: dict[str, list[str]], samples: int) -> Manifest:
    return {
        "version": manifest.VERSION,
        "content_id": content_id,
        "format": work.source.format,
        "benchmark": work.source.benchmark,
        "classes": list(work.source.classes),
        "skeleton": work.source.skeleton,
        "normalise": work.normalise,
        "options": work.options,
        "text": _text(work) if work.captions else None,
        "samples": samples,
        "dropped": dropped,
        "shards": [],
    }


def _text(work: Work) -> TextEntry:
    provenances: Counter[str] = Counter()
    labels: dict[int, set[int]] = {}
    texts: dict[int, set[tuple[int, ...]]] = {}
    count = most = 0
    packed = set()
    for entry in _entries(work):
        for sample in entry["samples"]:
            packed.add(sample["key"])
            if sample["text_id"] is None:
                continue
            provenances[work.captions[sample["key"]].provenance] += 1
            ids = (sample["text_id"], *(one["text_id"] for one in sample.get("more", ())))
            for id in ids:
                labels.setdefault(id, set()).add(sample["label"])
            texts.setdefault(sample["label"], set()).add(tuple(sorted(ids)))
            count, most = count + len(ids), max(most, len(ids))
    # a text of its own for each clip also "determines" the class; it says something only where texts are shared, four clips each on average
    few = 4 * len(labels) <= count
    nearest = [p for p in NEAREST_TO_LABEL if p in provenances] or sorted(provenances)
    text: TextEntry = {
        "provenance": nearest[0],
        "provenances": dict(sorted(provenances.items())),
        "encoder": work.features.encoder if work.features else "",
        "shape": list(work.features.shape) if work.features else [],
        "distinct": len(labels),
        "determines_label": few and all(len(found) == 1 for found in labels.values()),
        "one_per_label": all(len(found) == 1 for found in texts.values()),
    }
    if work.features and work.features.by == "key":
        text["by"] = "key"
    if most > 1:
        text["most"] = most
    missing = {reason: [key for key in keys if key in packed] for reason, keys in work.uncaptioned.items()}
    if any(missing.values()):
        text["missing"] = {reason: keys for reason, keys in missing.items() if keys}
    return text


def _publish(work: Work, out: Path) -> None:
    """Rename the finished set to its place; whatever was there is gone only afterwards."""
    ready = work.folder / "set"
    wanted = {work.tar(i).name for i in range(work.count)} | {manifest.NAME}
    for path in ready.iterdir():
        if path.name not in wanted:
            path.unlink()
    manifest.sync_folder(ready)
    old = work.folder / "old"
    if old.exists():
        shutil.rmtree(old)
    if out.exists():
        out.rename(old)
    ready.rename(out)
    manifest.sync_folder(out.parent)
