"""Which clips are captioned: those of the training part, as far as there is a video, a skeleton or a published caption of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.caption_record import VideoClip
from jobs.run_folder import read_json
from shards import facts, protocols
from shards.errors import InputError
from shards.ntu import sample_of
from shards.samples import Sample
from shards.sources import open_source
from shards.stream import PackedSet

Described = Sequence[protocols.Described]


@dataclass(frozen=True)
class Chosen:
    """keys, sorted; the video of each, where there are videos; and lines that say what was chosen from what, for people."""

    keys: list[str]
    videos: dict[str, VideoClip]
    lines: list[str]


def choose(
    videos: Sequence[VideoClip] | None,
    captions: Iterable[str] | None,
    data: Path | None,
    folder: Path | None,
    protocol: str,
    everything: bool,
    only: Path | None,
) -> Chosen:
    """The clips to caption, out of `videos`, the keys of published `captions`, or else the skeletons of `data`.

    data       packed set or raw data: which samples there are and who trains
    folder     where the videos or the captions lie: without `data`, NTU names and an about.json there say who trains
    protocol   "" = the first that the samples can serve
    everything the test part too
    only       a file of keys, one a line
    Raises InputError where nobody can tell who trains, where nothing is left, and for keys that are not among the clips."""
    by_key = {clip.key: clip for clip in videos or ()}
    there = list(by_key) if videos is not None else None if captions is None else list(captions)
    samples, benchmark, where = _samples(data, folder, there, everything)
    keys, lines = _part(samples, benchmark, where, protocol, everything)
    if there is not None:
        what = "video" if videos is not None else "published caption"
        keys, more = _overlap(keys, there, what, where)
        lines += more
    if only is not None:
        keys = _only(keys, only, lines[0])
    if not keys:
        raise InputError(f"no clip to caption: {'; '.join(lines)}")
    return Chosen(sorted(keys), {key: by_key[key] for key in keys} if videos is not None else {}, [*lines, f"{len(keys)} clips to caption"])


def known_keys(data: Path) -> set[str]:
    """All samples that there are, with those that packing or a list of missing recordings left out; packed set or raw data."""
    if (data / "manifest.json").is_file():
        packed = PackedSet.open(data)
        return {sample.key for sample in packed.samples}.union(*packed.manifest["dropped"].values())
    return {sample.key for sample in open_source(data).samples()}


def _samples(data: Path | None, folder: Path | None, there: Sequence[str] | None, everything: bool) -> tuple[Described, str, str]:
    """(what is known of each sample, the benchmark whose rules apply, where that is from)."""
    if data is not None:
        if (data / "manifest.json").is_file():
            packed = PackedSet.open(data)
            return packed.samples, packed.manifest["benchmark"], str(data)
        source = open_source(data)
        left_out = source.excluded()
        return [sample for sample in source.samples() if sample.key not in left_out], source.benchmark, str(data)
    if there is None:
        raise InputError("nothing to caption: name videos with --videos, or skeletons with --data")
    if everything:
        return [Sample(key, 0) for key in there], "", "all that is there"
    try:
        samples = [sample_of(key, key) for key in there]
    except InputError:
        raise InputError(
            "which clips train and which test? Their names do not say (they are no NTU names): name the packed set or the raw skeletons "
            "with --data, or caption all with --all"
        ) from None
    benchmark = _benchmark(samples, folder)
    missing = facts.missing(benchmark)
    return [sample for sample in samples if sample.key not in missing], benchmark, "the clips' names"


def _benchmark(samples: Sequence[Sample], folder: Path | None) -> str:
    """By about.json in the folder of videos or above it (data of another origin under NTU's names), else NTU RGB+D 60 or 120."""
    for place in (folder, folder.parent) if folder is not None else ():
        if place is not None and (place / "about.json").is_file():
            about = read_json(place / "about.json")
            if isinstance(about, dict) and isinstance(about.get("benchmark"), str):
                return str(about["benchmark"])
    return "ntu60" if all(sample.setup <= 17 and sample.label < 60 for sample in samples) else "ntu120"


def _part(samples: Described, benchmark: str, where: str, protocol: str, everything: bool) -> tuple[list[str], list[str]]:
    """The keys of the training part, or all, and what was decided, in a line."""
    if everything:
        return [sample.key for sample in samples], [f"all {len(samples)} clips ({where}), test clips included"]
    if not protocol:
        served = protocols.served(samples, benchmark)
        if not served:
            raise InputError(f"{where}: nothing says which samples train and which test; caption all with --all")
        protocol = served[0]
    train, test = protocols.parts(samples, protocol, benchmark)
    return train, [f"training part of {benchmark} by {protocol} ({where}): {len(train)} of {len(train) + len(test)} samples"]


def _overlap(keys: Sequence[str], there: Sequence[str], what: str, where: str) -> tuple[list[str], list[str]]:
    """The keys that there is something of, and how many are not."""
    have, wanted = set(there), set(keys)
    both = [key for key in keys if key in have]
    if not both and keys and there:
        names = f"{min(have)!r} is not among those of {where} ({min(wanted)!r})"
        raise InputError(f"no {what} belongs to a clip that is to be captioned: {names}")
    without = len(keys) - len(both)
    return both, [f"{without} of them have no {what}"] if without else []


def _only(keys: Sequence[str], path: Path, where: str) -> list[str]:
    """Those named in a file, one a line. InputError for keys that are not there."""
    try:
        asked = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--keys {path}: cannot be read ({error}); it is a text file of keys, one a line") from None
    known = set(keys)
    unknown = [key for key in asked if key not in known]
    if unknown or not asked:
        told = f"{len(unknown)} of {len(asked)} keys (first: {unknown[0]!r}) are not among the clips" if unknown else "no key in it"
        raise InputError(f"--keys {path}: {told} ({where})")
    return sorted(set(asked))
