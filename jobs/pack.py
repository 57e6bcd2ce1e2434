"""Packing as a job: raw data, and captions if there are any, to a folder of shards."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.text import Captions, HashText, TextStore, captions_of
from shards import facts, protocols
from shards.errors import InputError
from shards.pack import REASONS_SHOWN, TextFeatures, pack
from shards.sources import Source, open_source
from shards.stream import PackedSet
from shards.workers import cores


@dataclass(frozen=True)
class Pack:
    """Pack one data set. Killed halfway, the same job goes on; finished, it does nothing."""

    data: Path  # raw folder, zip, arrays or exchange file
    out: Path  # folder of the shards
    normalise: Literal["auto", "agcn", "agcn-noz", "ctrgcn", "none"] = "auto"  # auto: agcn, or none for arrays that come normalised
    label: str = "label"  # columns of an exchange file, by commas; several give their cross product
    captions: Path | None = None  # folder of captioning, or .jsonl, .json or .csv with key, text, provenance; none: the data's own texts
    text: Path | None = None  # folder of text features; none: the offline stand-in `hash`
    missing_text: Literal["error", "drop", "train"] = "error"  # samples without caption; train: they stay, without the text term
    jobs: int = 0  # processes; 0 = all cores
    mode: Literal["incremental", "overwrite"] = "incremental"  # overwrite: pack anew and replace what is there
    per_shard: int = 256  # samples per shard
    float16: bool = False  # half the size; loses steps below 1 mm, which the motion stream sees
    max_broken: float = 0.05  # share of samples that may be unreadable

    def __call__(self, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Pack; counts, reasons of what was dropped, and `lines` for people."""
        source, captions = self._inputs()
        report = pack(
            source,
            self.out,
            normalise=self.normalise,
            captions=captions.usable if captions else None,
            unusable=captions.reasons if captions else None,
            features=self._features(source, captions),
            jobs=self.jobs or cores(),
            mode=self.mode,
            per_shard=self.per_shard,
            dtype="float16" if self.float16 else "float32",
            progress=progress,
            missing_text=self.missing_text,
            max_broken=self.max_broken,
        )
        return {
            "out": str(report.out),
            "content_id": report.content_id,
            "samples": report.samples,
            "shards": report.shards,
            "reused": report.reused,
            "bytes": report.bytes,
            "up_to_date": report.up_to_date,
            "cut": report.cut,
            "excluded": {reason: len(keys) for reason, keys in report.excluded.items()},
            "broken": {reason: len(keys) for reason, keys in report.broken.items()},
            "text": report.text,
            "lines": [*report.lines(), *_against_published(PackedSet.open(self.out), len(source.samples()))],
        }

    def preview(self) -> dict[str, Any]:
        """What would be packed; nothing is written and no motion is read."""
        source, captions = self._inputs()
        samples, excluded = source.samples(), source.excluded()
        left = [sample for sample in samples if sample.key not in excluded]
        keys = {sample.key for sample in left}
        texts = [sample for sample in left if (sample.key in captions.usable if captions is not None else sample.text)]
        reasons = Counter(reason for key, reason in captions.reasons.items() if key in keys) if captions else Counter()
        lines = [
            f"{self.data}: {len(samples)} samples of {len(source.classes)} classes ({source.format}, {source.benchmark})",
            f"{len(left)} to pack into {-(-len(left) // self.per_shard)} shards at {self.out}",
            f"captions for {len(texts)} of them, features: {self.text or 'hash (offline stand-in, not CLIP)'}" if texts else "no captions",
            *(f"no caption that can be used: {count} ({reason})" for reason, count in reasons.most_common(REASONS_SHOWN)),
        ]
        counts = {"samples": len(samples), "excluded": len(samples) - len(left), "captions": len(texts), "classes": len(source.classes)}
        return {"out": str(self.out), **counts, "lines": lines}

    def _inputs(self) -> tuple[Source, Captions | None]:
        if self.jobs < 0:
            raise InputError(f"--jobs {self.jobs}: a number of processes, or 0 for all cores")
        source = open_source(self.data, tuple(column.strip() for column in self.label.split(",") if column.strip()))
        return source, captions_of(self.captions) if self.captions else None

    def _features(self, source: Source, captions: Captions | None) -> TextFeatures:
        if self.text is None:
            return HashText()
        store = TextStore.open(self.text)
        samples = source.samples()
        texts: dict[str, tuple[str, ...]]
        if captions is None:
            texts = {sample.key: (sample.text.strip(),) for sample in samples if sample.text.strip()}
        else:
            texts = {sample.key: captions.usable[sample.key].texts for sample in samples if sample.key in captions.usable}
        if not texts:
            raise InputError(f"--text {self.text}: features of texts, but the samples have none; name them with --captions")
        wanted = set(texts) if store.by == "key" else {text for several in texts.values() for text in several}
        if lacking := store.lacking(wanted):
            what = "samples" if store.by == "key" else "texts"
            raise InputError(
                f"{self.text} has no features of {len(lacking)} of {len(wanted)} {what} (first: {lacking[0][:60]!r}); encode them and "
                "try again"
            )
        return store


def _against_published(packed: PackedSet, found: int) -> list[str]:
    """How many samples there are, beside the numbers that the benchmark's authors give."""
    benchmark = str(packed.manifest["benchmark"])
    lines = []
    if benchmark in facts.SAMPLES:
        raw, valid = facts.SAMPLES[benchmark]
        lines.append(f"{benchmark}: expected {valid} of {raw}, packed {len(packed.samples)} of {found}")
    served = protocols.served(packed.samples, benchmark)
    for protocol in served:
        train, test = protocols.parts(packed.samples, protocol, benchmark)
        lines.append(facts.compare(benchmark, protocol, len(train), len(test)) or f"{protocol}: {len(train)} train, {len(test)} test")
    return lines
