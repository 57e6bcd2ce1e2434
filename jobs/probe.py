"""Probe frozen encoders with a linear classifier and 1-NN, and put two reference points beside them: no network, and an untrained one."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acsar import probes
from acsar.probes import ProbeSchedule
from acsar.streams import STREAMS
from jobs import codec, features
from jobs.features import Features
from jobs.run_folder import RunFolder, read_json, write_json
from jobs.scores import Scores, read_arrays, write_arrays, write_scores
from jobs.targets import Target, default_runs, find_run, of_run, of_weights
from jobs.verdicts import verdicts
from shards import protocols
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.stream import PackedSet

REFERENCES = ".references"  # below the folder of runs: what raw clips and random encoders reach, computed once
ACCURACIES = ("linear", "knn1", "random_linear", "random_knn1", "raw_linear", "raw_knn1")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Division:
    """Who trains and who tests: keys (sorted), labels [n] and subjects [n] of both parts."""

    train: list[str]
    test: list[str]
    train_labels: Tensor
    test_labels: Tensor
    test_subjects: Tensor
    classes: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        return self.train + self.test


@dataclass(frozen=True)
class Answer:
    """What one representation says of the test clips: linear scores [n,N], 1-NN labels [n], the linear probe's last training loss."""

    scores: Tensor
    nearest: Tensor
    loss: float


@dataclass(frozen=True)
class Probe:
    """Probe the encoders of a run, or published weights, on a packed set."""

    run: Path | None = None  # RUNS/NAME (or NAME below --runs); data and protocol are the run's own
    weights: Path | None = None  # instead of a run: an official SCD-Net checkpoint, or an encoder.safetensors
    data: Path | None = None  # packed set; needed with --weights, with --run only where the set has moved
    streams: tuple[str, ...] = ()  # default: every stream of the run; joint with --weights
    protocol: str = ""  # default: the run's; another one is refused unless --transductive
    transductive: bool = False  # allow another protocol than the run's: the encoder may have seen test clips, and results say so
    seed: int = 0  # of the linear probe and the intervals (and of the random encoder, where that of pretraining is not known)
    heads: int = 8  # attention heads of an official checkpoint (they are not in its file)
    out: Path | None = None  # with --weights: folder for results; default RUNS/probe-FILE
    runs: Path | None = None  # folder of all runs; default: the run's own folder's, else $ACSAR_RUNS, else ./runs

    def __call__(self, say: Say = lambda line: None) -> dict[str, dict[str, float]]:
        """Percent correct of the test part: {stream: {linear, knn1, random_linear, random_knn1, raw_linear, raw_knn1}}.

        Writes STREAM.json (with intervals and sentences), STREAM.scores.npz and STREAM.features.npz below probe/PROTOCOL; `say` is told
        what goes on, and the sentences.
        Raises InputError for what the user can mend."""
        packed, targets, protocol, folder = self._resolve()
        division = divide(packed, protocol)
        references = (self.runs or folder.parent) / REFERENCES
        results: dict[str, dict[str, float]] = {}
        for target in targets:
            report = _Probed(self.seed, packed, division, protocol, folder / "probe" / protocol, references, target, say)()
            results[target.stream] = {name: report[name] for name in ACCURACIES}
            for sentence in report["sentences"]:
                say(sentence)
        return results

    def _resolve(self) -> tuple[PackedSet, list[Target], str, Path]:
        """The packed set, the encoders, the protocol, and the folder of the run or of the results."""
        if (self.run is None) == (self.weights is None):
            raise InputError("give either --run RUNS/NAME, or --weights FILE with --data DIR")
        wrong = [name for name in self.streams if name not in STREAMS]
        if wrong:
            raise InputError(f"unknown stream {wrong[0]!r}; one of {', '.join(STREAMS)}")
        if self.run is not None:
            run = find_run(self.run, self.runs)
            return *of_run(run, self.streams, self.data, self.protocol, self.transductive), run
        assert self.weights is not None
        if self.data is None:
            raise InputError("--weights needs --data DIR, a packed set")
        out = self.out or (self.runs or default_runs()) / f"probe-{self.weights.name.split('.')[0]}"
        return *of_weights(self.weights, self.streams, self.data, self.protocol, self.transductive, self.heads), out


@dataclass(frozen=True)
class _Probed:
    """One encoder's way from features to its report."""

    seed: int
    packed: PackedSet
    division: Division
    protocol: str
    folder: Path
    references: Path
    target: Target
    say: Say

    def __call__(self) -> dict[str, Any]:
        target, device = self.target, device_of()
        self.say(f"{target.stream}: features of {len(self.division.keys)} clips")
        sha, method = sha256_of(target.weights), target.method.to(device)
        spec = {**self._set(), "encoder": sha, "crop": features.CROP}
        rows = lambda: features.encoded(method.encode, self.packed, self.division.keys, device)
        features.kept(self.folder / f"{target.stream}.features.npz", self.division.keys, spec, rows)
        own = features.read(self.folder / f"{target.stream}.features.npz")
        schedule = probes.schedule_for(self.packed.manifest["benchmark"])
        self.say(f"{target.stream}: probes")
        answers = {"": self._answer(own, schedule), "random": self._random(schedule, device), "raw": self._raw(device)}
        d, facts = self.division, {**self._set(), "encoder": sha, "seed": self.seed}
        scores = Scores(d.test, answers[""].scores, d.test_labels, d.test_subjects, d.classes, facts)
        write_scores(self.folder / f"{target.stream}.scores.npz", scores)
        report = self._report(answers, sha, schedule)
        report["sentences"] = verdicts({target.stream: report})
        write_json(self.folder / f"{target.stream}.json", report)
        return report

    def _set(self) -> dict[str, Any]:
        return {"content_id": self.packed.content_id, "protocol": self.protocol, "stream": self.target.stream}

    def _answer(self, rows: Features, schedule: ProbeSchedule) -> Answer:
        d, count = self.division, len(self.division.train)
        train, test = rows.values[:count], rows.values[count:]
        linear = probes.linear_probe(train, d.train_labels, test, len(d.classes), schedule, self.seed)
        return Answer(linear.scores, probes.knn1(train, d.train_labels, test), linear.losses[-1])

    def _raw(self, device: torch.device) -> Answer:
        encode = features.raw_encode(self.target.stream, self.target.skeleton)
        rows = lambda: features.encoded(encode, self.packed, self.division.keys, device)
        return self._reference("raw", {"crop": features.CROP}, rows, probes.unit())

    def _random(self, schedule: ProbeSchedule, device: torch.device) -> Answer:
        t, d, seed = self.target, self.division, self.seed if self.target.seed is None else self.target.seed

        def rows() -> Iterable[Tensor]:
            method = features.random_encoder(t.config, t.skeleton, self.packed, d.train, seed, device)
            return features.encoded(method.encode, self.packed, d.keys, device)

        made_by = {"method": {"kind": type(t.config).__name__, **codec.encode(t.config)}, "weights": seed, "crop": features.CROP}
        return self._reference("random", made_by, rows, schedule)

    def _reference(self, kind: str, made_by: dict[str, Any], rows: Callable[[], Iterable[Tensor]], schedule: ProbeSchedule) -> Answer:
        """What a reference reaches: looked up where it has been computed for the same set, recipe, stream, protocol, seed and schedule."""
        spec = {"kind": kind, "seed": self.seed, "schedule": dataclasses.asdict(schedule), **self._set(), **made_by}
        name = f"{kind}-{self.target.stream}-{features.fingerprint(spec)}"
        path = self.references / f"{name}.npz"
        if not path.is_file():
            self.say(f"{self.target.stream}: {kind} reference (once)")
            aside = self.references / f"{name}.features.npz"
            features.kept(aside, self.division.keys, spec, rows)
            answer = self._answer(features.read(aside), schedule)
            write_arrays(path, spec, scores=answer.scores.numpy(), nearest=answer.nearest.numpy(), loss=np.float64(answer.loss))
            aside.unlink(missing_ok=True)
        arrays, _ = read_arrays(path)
        return Answer(torch.from_numpy(arrays["scores"]), torch.from_numpy(arrays["nearest"]), float(arrays["loss"]))

    def _report(self, answers: Mapping[str, Answer], sha: str, schedule: ProbeSchedule) -> dict[str, Any]:
        d, facts = self.division, self.target.facts
        correct = {}
        for kind, answer in answers.items():
            prefix = f"{kind}_" if kind else ""
            correct[f"{prefix}linear"] = probes.hits(answer.scores, d.test_labels)
            correct[f"{prefix}knn1"] = answer.nearest == d.test_labels
        known = len(torch.unique(d.test_subjects)) > 1
        over = {"subjects": d.test_subjects if known else None, "samples": None}
        spans = {kind: {name: percent(v, groups, self.seed) for name, v in correct.items()} for kind, groups in over.items()}
        differences = {}
        for probe in ("linear", "knn1"):
            for reference in ("random", "raw"):
                gap = correct[probe].double() - correct[f"{reference}_{probe}"].double()
                span = percent(gap, over["subjects"], self.seed)
                differences[f"{probe}_over_{reference}"] = {"value": 100 * float(gap.mean()), "interval": span}
        trained = torch.bincount(d.train_labels, minlength=len(d.classes))
        return {
            **{name: 100 * float(correct[name].double().mean()) for name in ACCURACIES},
            "top5": 100 * probes.top_k(answers[""].scores, d.test_labels, 5),
            "chance": 100 / len(d.classes),
            "most_frequent": 100 * float((d.test_labels == int(trained.argmax())).double().mean()),
            "intervals": spans["subjects"],
            "interval_over": "subjects" if known else "samples",
            "sample_intervals": spans["samples"],
            "differences": differences,
            "train": len(d.train),
            "test": len(d.test),
            "classes": len(d.classes),
            "test_subjects": len(torch.unique(d.test_subjects)) if known else 0,
            "untrained_classes": int((trained[d.test_labels] == 0).sum()),
            "train_loss": {kind or "pretrained": answer.loss for kind, answer in answers.items()},
            **self._set(),
            "benchmark": self.packed.manifest["benchmark"],
            "encoder": str(self.target.weights),
            "encoder_sha256": sha,
            "recipe": facts.get("recipe", ""),
            "supervision": facts.get("supervision", "unknown"),
            "transductive": self.target.transductive,
            "seed": self.seed,
            "linear_schedule": described(schedule, len(d.train)),
            "raw_schedule": described(probes.unit(), len(d.train)),
            "knn": "1 nearest neighbour by cosine of the features as they are, gallery = training part",
        }


def read_accuracies(run: Path, protocol: str, streams: Sequence[str]) -> dict[str, dict[str, float]]:
    """What `Probe` returned for these streams, from its files; protocol "" = the run's own."""
    protocol = protocol or str(read_json(RunFolder(run / streams[0]).config)["job"]["protocol"])
    reports = {stream: read_json(run / "probe" / protocol / f"{stream}.json") for stream in streams}
    return {stream: {name: report[name] for name in ACCURACIES} for stream, report in reports.items()}


def divide(packed: PackedSet, protocol: str) -> Division:
    """The two parts of a protocol. Raises InputError where no probe can be trained, ValueError where they overlap."""
    train, test = protocols.parts(packed.samples, protocol, packed.manifest["benchmark"])
    if set(train) & set(test):
        raise ValueError(f"protocol {protocol} has keys in both parts, for example {sorted(set(train) & set(test))[0]}")
    entries = {entry.key: entry for entry in packed.samples}
    labels = [entries[key].label for key in train]
    if len(set(labels)) < 2:
        raise InputError(f"all {len(train)} training samples of protocol {protocol} have one class; pack with another --label")
    return Division(
        train,
        test,
        torch.tensor(labels),
        torch.tensor([entries[key].label for key in test]),
        torch.tensor([entries[key].subject for key in test]),
        tuple(packed.manifest["classes"]),
    )


def device_of() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def percent(values: Tensor, groups: Tensor | None, seed: int) -> list[float]:
    """[low, high] of the mean of values [n], in percent."""
    return [100 * bound for bound in probes.interval(values, groups, seed=seed)]


def described(schedule: ProbeSchedule, samples: int) -> str:
    """A schedule in one line."""
    rule = f"SGD lr {schedule.lr:g}, momentum {schedule.momentum:g}, weight decay {schedule.weight_decay:g}"
    drops = " and ".join(map(str, schedule.drops))
    unit = "; features centred and divided by the root mean square of their norms" if schedule.unit else ""
    return f"{rule}, batch {schedule.batch_of(samples)}, {schedule.epochs} epochs, x{schedule.factor:g} at {drops}, last epoch{unit}"
