"""Fuse the probed streams of a run: softmax probabilities x 0.5, added, joined by sample key (AC-SAR section 3.6, table 3).

Every subset of the streams is a row: J, B, M, J+B, J+M, B+M, J+B+M. Other weights and raw logits (AimCLR's rule) can be asked for, and two
fusions, or two runs, compared class by class (figure 4).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from acsar import probes
from acsar.streams import LETTERS, STREAMS
from jobs import fusion_weights
from jobs.class_comparison import Comparison, compare
from jobs.fusion_weights import WEIGHT as WEIGHT
from jobs.run_folder import RunFolder, read_json, write_json
from jobs.scores import SAME_CLIPS, Scores, joined, read_scores
from jobs.settings import Schedule, setting
from jobs.targets import check_streams, find_run
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.protocols import PROTOCOLS

Rule = Literal["softmax", "logits"]
# what streams that are fused have in common: the set, who tests, and how their classifiers came about
SAME_WAY = (*SAME_CLIPS, "schedule", "transfer", "seed", "fraction", "draw", "frozen", "scratch")


@dataclass(frozen=True)
class Fuse:
    """Fuse the linear probes of a run's streams."""

    run: Path  # RUNS/NAME (or NAME below --runs)
    protocol: str = ""  # default: the one that the run was probed by
    schedule: Schedule = "official"  # of the linear probe
    transfer: Path | None = None  # the packed set that the run was probed on, where it is not the run's own
    finetune: str = ""  # TRIAL: instead of probes, the fine-tuned streams of RUNS/NAME/finetune/TRIAL
    streams: tuple[str, ...] = ()  # default: every stream that was probed
    weights: str = "paper"  # paper = 0.5 each; held-aside = the best on held-aside people; or one number per stream: 0.6,0.6,0.4
    rule: Rule = "softmax"  # what is added: softmax probabilities (AC-SAR), or logits as they are (AimCLR)
    compare: tuple[str, ...] = ()  # two fusions class by class: J+M,J+B; with --against one: J+B+M
    against: Path | None = None  # another run, to be compared class by class in the same fusion
    seed: int = 0  # of the intervals
    runs: Path | None = None  # where a bare NAME is looked up; default $ACSAR_RUNS, else ./runs

    def __call__(self) -> dict[str, Any]:
        """What RUNS/NAME/fuse/SETTING.json holds: "streams", "top1" and "top5" (percent of the "n" test clips), "weights", and "subsets"
        with intervals and paired gains; with `compare` or `against` also "comparison" (RUNS/NAME/fuse/classes/SETTING.A-B.json).

        Raises InputError when streams were not probed, not alike, or not on the same samples."""
        run = find_run(self.run, self.runs)
        own = self._fusion(run)
        report = self._report(run, own)
        comparison = self._comparison(run, own)
        write_json(run / "fuse" / f"{own.name}.json", report)
        if comparison is None:
            return report
        told = {**dataclasses.asdict(comparison), "sentences": comparison.sentences()}
        facts = {name: report[name] for name in ("setting", "protocol", "content_id", "rule", "weights_from")}
        names = "-".join(name.replace("/", "_") for name in (comparison.first, comparison.second))
        write_json(run / "fuse" / "classes" / f"{own.name}.{names}.json", {**facts, **told})
        return {**report, "comparison": told}

    def _fusion(self, run: Path) -> "Fusion":
        name = f"finetune-{self.finetune}" if self.finetune else probed_setting(run, self.protocol, self.schedule, _name(self.transfer))
        folder = run / "finetune" / self.finetune if self.finetune else run / "probe" / name
        streams = _read(run, folder, self.streams, bool(self.finetune))
        if self.weights == "paper":
            return Fusion(name, streams, self.rule, {subset: (WEIGHT,) * len(of) for subset, of in subsets(streams).items()})
        if self.weights == "held-aside":
            aside = _held_aside(folder, streams)
            best = {s: fusion_weights.chosen([aside[stream] for stream in of], self.rule) for s, of in subsets(streams).items()}
            return Fusion(name, streams, self.rule, best, aside[next(iter(aside))])
        weights = fusion_weights.given(self.weights, list(streams))
        return Fusion(name, streams, self.rule, {subset: tuple(weights[s] for s in of) for subset, of in subsets(streams).items()})

    def _report(self, run: Path, own: "Fusion") -> dict[str, Any]:
        """What RUNS/NAME/fuse/SETTING.json holds."""
        rows = {subset: _numbers(own, subset, self.seed) for subset in own.weights}
        first, whole = next(iter(own.streams.values())), rows[own.widest]
        return {
            "streams": list(own.streams),
            "top1": whole["top1"],
            "top5": whole["top5"],
            "n": len(first.keys),
            "intervals": whole["intervals"],
            "subsets": rows,
            "gain": _gap(own(own.widest), first, self.seed),
            "weights": {subset: list(weights) for subset, weights in own.weights.items()},
            "weights_from": self.weights if self.weights in ("paper", "held-aside") else "given",
            "chosen_on": _people(own.aside) if own.aside is not None else "",
            "rule": self.rule,
            "setting": own.name,
            "protocol": first.facts["protocol"],
            "content_id": first.facts["content_id"],
            "transductive": _transductive(run, own),
            "interval_over": "clips" if _groups(first) is None else "subjects",
            "encoders": {name: scores.facts["encoder"] for name, scores in own.streams.items()},
            "asked": {"weights": self.weights, "rule": self.rule, "streams": list(self.streams)},
        }

    def _comparison(self, run: Path, own: "Fusion") -> Comparison | None:
        """The comparison by class that is asked for. Raises InputError where it is not clear what is compared."""
        wanted = [own.subset(name) for name in self.compare]
        if self.against is None:
            if not wanted:
                return None
            if len(wanted) != 2 or wanted[0] == wanted[1]:
                raise InputError(f"--compare {','.join(self.compare)}: name two fusions, for example J+M,J+B, or one and --against RUN")
            return compare(own(wanted[0]), own(wanted[1]), (wanted[0], wanted[1]), self.seed)
        if len(wanted) > 1:
            raise InputError(f"--against compares one fusion of both runs; leave {self.compare[1]} out of --compare")
        other = find_run(self.against, self.runs)
        if other.resolve() == run.resolve():
            raise InputError(f"--against {self.against} is the run itself; name another one")
        subset = wanted[0] if wanted else own.widest
        names = (run.resolve().name, other.resolve().name)
        if names[0] == names[1]:
            names = (str(run), str(other))
        its = dataclasses.replace(self, streams=tuple(own.streams))._fusion(other)
        pair = joined({names[0]: own(subset), names[1]: its(subset)}, "runs")
        return compare(pair[names[0]], pair[names[1]], names, self.seed)


@dataclass(frozen=True)
class Fusion:
    """Streams with rows in one order, and the weights of every subset of them; called with a subset's name it gives the fused scores.

    name: the setting, PROTOCOL or what jobs/settings.py makes of it; aside: held-aside clips, where the weights were chosen on them."""

    name: str
    streams: Mapping[str, Scores]
    rule: Rule
    weights: Mapping[str, tuple[float, ...]]
    aside: Scores | None = None

    def __call__(self, subset: str) -> Scores:
        names = subsets(self.streams)[subset]
        first = self.streams[names[0]]
        scores = probes.fuse_scores([self.streams[name].scores for name in names], self.weights[subset], self.rule)
        return dataclasses.replace(first, scores=scores, facts={**first.facts, "stream": subset})

    @property
    def widest(self) -> str:
        return list(self.weights)[-1]

    def subset(self, name: str) -> str:
        """A subset's usual name: M+J is J+M. Raises InputError for one that is not there."""
        found = next((own for own in self.weights if sorted(own.split("+")) == sorted(name.upper().split("+"))), None)
        if found is None:
            raise InputError(f"no fusion {name!r} of the probed streams; there are {', '.join(self.weights)}")
        return found


def subsets(streams: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """{"J+M": ("joint", "motion")} for every subset of the streams, single ones first: the rows of the paper's table 3."""
    return {
        "+".join(LETTERS[name] for name in names): names for size in range(1, len(streams) + 1) for names in combinations(streams, size)
    }


def read_streams(run: Path, name: str, wanted: Sequence[str] = ()) -> dict[str, Scores]:
    """Scores of a run's probed streams (setting `name`) with rows in one order, joint first.

    Raises InputError for a stream without scores, with scores of another encoder than the run's, or of other samples, and for streams
    that were pretrained or probed differently."""
    return _read(run, run / "probe" / name, wanted, tuned=False)


def probed_setting(run: Path, protocol: str = "", schedule: str = "official", transfer: str = "") -> str:
    """The setting that a run was probed in; without a protocol the run's own, or the only one that there is by this schedule on this set.

    Raises InputError when there is none or several."""
    found = {path.name for path in (run / "probe").glob("*") if any(path.glob("*.scores.npz"))}
    if protocol:
        return setting(protocol, schedule, transfer)
    configs = [RunFolder(run / name).config for name in STREAMS if RunFolder(run / name).config.is_file()]
    trained = str(read_json(configs[0])["facts"]["protocol"]) if configs else ""
    if setting(trained, schedule, transfer) in found:
        return setting(trained, schedule, transfer)
    fitting = [name for name in PROTOCOLS if setting(name, schedule, transfer) in found]
    if len(fitting) == 1:
        return setting(fitting[0], schedule, transfer)
    if fitting:
        raise InputError(f"{run} was probed by several protocols; name one with --protocol: {', '.join(sorted(fitting))}")
    only = f" as {setting('PROTOCOL', schedule, transfer)}, only as {', '.join(sorted(found))}" if found else ""
    raise InputError(f"{run} has not been probed{only}; do it first: python launch/probe.py --run {run}")


def fused(streams: Sequence[Scores]) -> Tensor:
    """[n,N] of streams whose rows are in one order, by the paper's rule."""
    return probes.fuse_scores([scores.scores for scores in streams], [WEIGHT] * len(streams))


def _read(run: Path, folder: Path, wanted: Sequence[str], tuned: bool) -> dict[str, Scores]:
    """Scores of streams from RUNS/NAME/probe/SETTING, or (tuned) of RUNS/NAME/finetune/TRIAL."""
    check_streams(wanted)
    files: dict[str, Path] = {name: folder / (f"{name}/scores.npz" if tuned else f"{name}.scores.npz") for name in STREAMS}
    names = [name for name in STREAMS if name in wanted or (not wanted and files[name].is_file())]
    if not names:
        first = "fine-tune first: python launch/finetune.py" if tuned else "probe first: python launch/probe.py"
        raise InputError(f"{folder} holds no scores; {first} --run {run}")
    _check_alike(run, names)
    lacking = [name for name in names if tuned and not files[name].is_file()]
    if lacking:
        raise InputError(f"{files[lacking[0]]} does not exist; fine-tune that stream first: python launch/finetune.py --run {run}")
    scores: dict[str, Scores] = {name: read_scores(files[name]) for name in names}
    for name, found in scores.items():
        encoder = RunFolder((folder if tuned else run) / name).encoder
        if encoder.is_file() and sha256_of(encoder) != found.facts["encoder"]:
            raise InputError(f"{files[name]} are scores of an older encoder than {encoder}; {'fine-tune' if tuned else 'probe'} again")
    return joined(scores, facts=SAME_WAY)


def _check_alike(run: Path, names: Sequence[str]) -> None:
    """Raises InputError for streams that were pretrained on other data or from another seed: no parts of one comparison."""
    configs = {name: read_json(RunFolder(run / name).config) for name in names if RunFolder(run / name).config.is_file()}
    for name, config in configs.items():
        first_name, first = next(iter(configs.items()))
        for part, fact in (("facts", "content_id"), ("facts", "protocol"), ("job", "seed")):
            one, other = (found[part].get(fact) for found in (first, config))
            if one != other:
                pair = f"streams {first_name} and {name} were pretrained with another {fact}: {one} and {other}"
                raise InputError(f"{run}: {pair}; fuse streams of one training, see --streams")


def _held_aside(folder: Path, streams: Mapping[str, Scores]) -> dict[str, Scores]:
    """What the streams' classifiers A say of the held-aside people's clips."""
    files = {name: folder / f"{name}.aside.npz" for name in streams}
    for path in files.values():
        if not path.is_file():
            raise InputError(f"{path} does not exist: nobody was held aside there; probe again, or give --weights as numbers")
    aside = joined({name: read_scores(path) for name, path in files.items()}, "held-aside clips of streams", SAME_WAY)
    for name, scores in aside.items():
        if scores.facts["encoder"] != streams[name].facts["encoder"]:
            raise InputError(f"{files[name]} are scores of another encoder than {folder / name}.scores.npz; probe again")
    return aside


def _people(scores: Scores) -> str:
    people = len(torch.unique(scores.subjects))
    return f"{len(scores.keys)} clips of {people} held-aside training subject{'' if people == 1 else 's'}"


def _numbers(own: Fusion, subset: str, seed: int) -> dict[str, Any]:
    """Top-1, top-5 in percent, the interval of top-1 over test subjects (over clips where only one is known); of several streams the
    paired gain over the best of them, and with other weights that over equal ones."""
    together, names = own(subset), subsets(own.streams)[subset]
    scores, labels = together.scores, together.labels
    low, high = probes.interval(probes.hits(scores, labels), _groups(together), seed=seed)
    row: dict[str, Any] = {
        "top1": 100 * probes.top_k(scores, labels),
        "top5": 100 * probes.top_k(scores, labels, 5),
        "intervals": {"top1": [100 * low, 100 * high]},
    }
    if len(names) > 1:
        best = max(names, key=lambda name: probes.top_k(own.streams[name].scores, labels))
        row["gain"] = {"over": LETTERS[best], **_gap(together, own.streams[best], seed)}
        if len(set(own.weights[subset])) > 1:
            equal = dataclasses.replace(own, weights={subset: (WEIGHT,) * len(names)})(subset)
            row["over_equal"] = _gap(together, equal, seed)
    return row


def _gap(one: Scores, other: Scores, seed: int) -> dict[str, Any]:
    """What one result adds to another on the same rows, percent, with the paired interval."""
    gap = probes.hits(one.scores, one.labels).double() - probes.hits(other.scores, other.labels).double()
    low, high = probes.interval(gap, _groups(one), seed=seed)
    return {"value": 100 * float(gap.mean()), "interval": [100 * low, 100 * high]}


def _groups(scores: Scores) -> Tensor | None:
    return scores.subjects if len(torch.unique(scores.subjects)) > 1 else None


def _transductive(run: Path, own: Fusion) -> bool:
    """Has any of the encoders perhaps seen test clips? So say the probes' reports, or the facts of fine-tuned scores."""
    said: list[Mapping[str, Any]] = [scores.facts for scores in own.streams.values()]
    paths = [run / "probe" / own.name / f"{name}.json" for name in own.streams]
    said += [read_json(path) for path in paths if path.is_file()]
    return any(bool(facts.get("transductive")) for facts in said)


def _name(packed: Path | None) -> str:
    return packed.resolve().name if packed is not None else ""
