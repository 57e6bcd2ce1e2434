"""Fuse the probed streams of a run: softmax probabilities x 0.5, added, joined by sample key (AC-SAR section 3.6)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acsar import probes
from acsar.streams import STREAMS
from jobs.run_folder import RunFolder, read_json, write_json
from jobs.scores import Scores, joined, read_scores
from jobs.targets import find_run
from shards.errors import InputError
from shards.manifest import sha256_of

LETTERS = {"joint": "J", "bone": "B", "motion": "M"}
WEIGHT = 0.5


@dataclass(frozen=True)
class Fuse:
    """Fuse the linear probes of a run's streams."""

    run: Path  # RUNS/NAME (or NAME below --runs)
    protocol: str = ""  # default: the one that the run was probed by
    streams: tuple[str, ...] = ()  # default: every stream that was probed
    seed: int = 0  # of the intervals
    runs: Path | None = None  # where a bare NAME is looked up; default $ACSAR_RUNS, else ./runs

    def __call__(self) -> dict[str, Any]:
        """{"streams", "top1", "top5", "n"}, percent of the n test clips; RUNS/NAME/fuse/PROTOCOL.json holds every subset and its interval.

        Raises InputError when streams were not probed, or not on the same samples."""
        run = find_run(self.run, self.runs)
        protocol = self.protocol or probed_protocol(run)
        streams = read_streams(run, protocol, self.streams)
        subsets = {
            "+".join(LETTERS[name] for name in names): _numbers([streams[name] for name in names], self.seed)
            for size in range(1, len(streams) + 1)
            for names in combinations(streams, size)
        }
        first = next(iter(streams.values()))
        full = list(subsets)[-1]
        whole = {"streams": list(streams), "top1": subsets[full]["top1"], "top5": subsets[full]["top5"], "n": len(first.keys)}
        report = {
            **whole,
            "intervals": subsets[full]["intervals"],
            "subsets": subsets,
            "gain": _gain(streams, self.seed),
            "protocol": protocol,
            "content_id": first.facts["content_id"],
            "transductive": _transductive(run, protocol, list(streams)),
            "rule": f"softmax x {WEIGHT:g}, added",
            "encoders": {name: scores.facts["encoder"] for name, scores in streams.items()},
        }
        write_json(run / "fuse" / f"{protocol}.json", report)
        return whole


def read_streams(run: Path, protocol: str, wanted: Sequence[str] = ()) -> dict[str, Scores]:
    """Scores of a run's probed streams with rows in one order, joint first.

    Raises InputError for a stream without scores, with scores of another encoder than the run's, or of other samples."""
    unknown = [name for name in wanted if name not in STREAMS]
    if unknown:
        raise InputError(f"unknown stream {unknown[0]!r}; one of {', '.join(STREAMS)}")
    folder = run / "probe" / protocol
    names = [name for name in STREAMS if name in wanted or (not wanted and (folder / f"{name}.scores.npz").is_file())]
    if not names:
        raise InputError(f"{folder} holds no scores; probe first: python launch/probe.py --run {run}")
    scores: dict[str, Scores] = {name: read_scores(folder / f"{name}.scores.npz") for name in names}
    for name, found in scores.items():
        encoder = RunFolder(run / name).encoder
        if encoder.is_file() and sha256_of(encoder) != found.facts["encoder"]:
            raise InputError(f"{folder / name}.scores.npz are scores of an older encoder than {encoder}; probe again")
    return joined(scores)


def probed_protocol(run: Path) -> str:
    """The protocol that a run was probed by. Raises InputError when there is none or several."""
    found = sorted(path.name for path in (run / "probe").glob("*") if any(path.glob("*.scores.npz")))
    if len(found) == 1:
        return found[0]
    configs = [RunFolder(run / name).config for name in STREAMS if RunFolder(run / name).config.is_file()]
    trained = read_json(configs[0])["facts"]["protocol"] if configs else ""
    if trained in found:
        return str(trained)
    if found:
        raise InputError(f"{run} was probed by several protocols; name one with --protocol: {', '.join(found)}")
    raise InputError(f"{run} has not been probed; do it first: python launch/probe.py --run {run}")


def fused(streams: Sequence[Scores]) -> Tensor:
    """[n,N] of streams whose rows are in one order."""
    return probes.fuse_scores([scores.scores for scores in streams], [WEIGHT] * len(streams))


def _numbers(streams: Sequence[Scores], seed: int) -> dict[str, Any]:
    """Top-1, top-5 in percent, and the interval of top-1 over test subjects (over samples where only one is known)."""
    scores, labels = fused(streams), streams[0].labels
    hit = probes.hits(scores, labels)
    low, high = probes.interval(hit, _groups(streams[0]), seed=seed)
    return {
        "top1": 100 * float(hit.double().mean()),
        "top5": 100 * probes.top_k(scores, labels, 5),
        "intervals": {"top1": [100 * low, 100 * high]},
    }


def _gain(streams: Mapping[str, Scores], seed: int) -> dict[str, Any]:
    """What fusing all adds to the first stream, percent, with the paired interval."""
    first, labels = next(iter(streams.values())), next(iter(streams.values())).labels
    gap = probes.hits(fused(list(streams.values())), labels).double() - probes.hits(first.scores, labels).double()
    low, high = probes.interval(gap, _groups(first), seed=seed)
    return {"value": 100 * float(gap.mean()), "interval": [100 * low, 100 * high]}


def _groups(scores: Scores) -> Tensor | None:
    return scores.subjects if len(torch.unique(scores.subjects)) > 1 else None


def _transductive(run: Path, protocol: str, streams: Sequence[str]) -> bool:
    paths = [run / "probe" / protocol / f"{name}.json" for name in streams]
    return any(bool(read_json(path)["transductive"]) for path in paths if path.is_file())
