"""Packing as a job: raw data, and captions if there are any, to a folder of shards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.text import HashText, TextStore, read_captions
from shards import facts, protocols
from shards.errors import InputError
from shards.manifest import Caption
from shards.pack import TextFeatures, pack
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
    captions: Path | None = None  # .jsonl, .json or .csv with key, text, provenance; none: the texts of the data, if any
    text: Path | None = None  # folder of text features; none: the offline stand-in `hash`
    missing_text: Literal["error", "drop"] = "error"  # samples without a caption among others that have one
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
            captions=captions,
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
        texts = [sample for sample in left if (sample.key in captions if captions is not None else sample.text)]
        lines = [
            f"{self.data}: {len(samples)} samples of {len(source.classes)} classes ({source.format}, {source.benchmark})",
            f"{len(left)} to pack into {-(-len(left) // self.per_shard)} shards at {self.out}",
            f"captions for {len(texts)} of them, features: {self.text or 'hash (offline stand-in, not CLIP)'}" if texts else "no captions",
        ]
        counts = {"samples": len(samples), "excluded": len(samples) - len(left), "captions": len(texts), "classes": len(source.classes)}
        return {"out": str(self.out), **counts, "lines": lines}

    def _inputs(self) -> tuple[Source, dict[str, Caption] | None]:
        if self.jobs < 0:
            raise InputError(f"--jobs {self.jobs}: a number of processes, or 0 for all cores")
        source = open_source(self.data, tuple(column.strip() for column in self.label.split(",") if column.strip()))
        return source, read_captions(self.captions) if self.captions else None

    def _features(self, source: Source, captions: Mapping[str, Caption] | None) -> TextFeatures:
        if self.text is None:
            return HashText()
        store = TextStore.open(self.text)
        if captions is None:
            texts = [sample.text.strip() for sample in source.samples() if sample.text.strip()]
        else:
            texts = [captions[sample.key].text for sample in source.samples() if sample.key in captions and captions[sample.key].text]
        if not texts:
            raise InputError(f"--text {self.text}: features of texts, but the samples have none; name them with --captions")
        if lacking := store.lacking(texts):
            raise InputError(
                f"{self.text} has no features of {len(lacking)} of {len(set(texts))} texts (first: {lacking[0][:60]!r}); encode them and "
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
