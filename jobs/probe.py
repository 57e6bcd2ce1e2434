"""Probe frozen encoders with a linear classifier and 1-NN, and put two reference points beside them: no network, and an untrained one.

RUNS/NAME/probe/SETTING/STREAM.json                    the report: numbers, intervals, sentences; written last
RUNS/NAME/probe/SETTING/STREAM.scores.npz              classifier B on the test part, at the epoch that classifier A chose
RUNS/NAME/probe/SETTING/STREAM.aside.npz               classifier A on the held-aside part, at that epoch
RUNS/NAME/probe/SETTING/STREAM.classifier.safetensors  classifier B, for clips that nobody has seen
RUNS/NAME/features/CONTENT/STREAM.npz                  frozen features of the whole set (jobs/frozen.py), the same for every SETTING
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from acsar import probes
from acsar.probes import LinearResult, ProbeSchedule
from jobs import classifier, engine, features
from jobs.classifier import Classifier
from jobs.engine import Ranks
from jobs.features import Features
from jobs.frozen import REFERENCES, Frozen, Progress, alone
from jobs.run_folder import read_json, write_json
from jobs.scores import Scores, read_arrays, write_arrays, write_scores
from jobs.settings import Schedule, setting
from jobs.targets import Target, check_streams, default_runs, find_run, of_run, of_transfer, of_weights, protocol_for
from jobs.verdicts import verdicts
from shards import protocols
from shards.errors import InputError
from shards.stream import PackedSet
from shards.workers import cores

MEASURED = ("linear", "knn1", "random_linear", "random_knn1", "raw_linear", "raw_knn1")  # these have intervals
ACCURACIES = (*MEASURED, *(f"{kind}linear_{which}" for kind in ("", "random_", "raw_") for which in ("last", "best_on_test")))
Say = Callable[[str], None]


@dataclass(frozen=True)
class Division:
    """Who trains and who tests: keys (sorted), labels [n] and subjects [n] of both parts.

    aside [n] bool: the training clips that classifier A does not train on, those of `aside_subjects` people; none of them where fewer
    than two training subjects are known, or the others have one class only: `not_aside` says so."""

    train: list[str]
    test: list[str]
    train_labels: Tensor
    train_subjects: Tensor
    test_labels: Tensor
    test_subjects: Tensor
    classes: tuple[str, ...]
    aside: Tensor
    not_aside: str

    @property
    def keys(self) -> list[str]:
        return self.train + self.test

    @property
    def aside_subjects(self) -> int:
        return len(torch.unique(self.train_subjects[self.aside]))


@dataclass(frozen=True)
class Answer:
    """What one representation says of the test clips: linear scores [n,N] at the epoch that counts and at the last one, 1-NN labels [n],
    and numbers: epoch (of `epochs`), linear_last and linear_best_on_test in percent, the training loss at the end, and
    held_aside_linear where A ran."""

    scores: Tensor
    last: Tensor
    nearest: Tensor
    numbers: dict[str, float]


@dataclass(frozen=True)
class Probe:
    """Probe the encoders of a run, or published weights, on a packed set."""

    run: Path | None = None  # RUNS/NAME (or NAME below --runs); data and protocol are the run's own
    weights: Path | None = None  # instead of a run: an official SCD-Net checkpoint, or an encoder.safetensors
    data: Path | None = None  # packed set; needed with --weights, with --run only where the set has moved
    streams: tuple[str, ...] = ()  # default: every stream of the run; joint with --weights
    protocol: str = ""  # default: the run's; another one is refused unless --transductive
    # of the linear classifier. official: SCD-Net's code, 80 epochs, x0.1 at 50 and 70; paper: AC-SAR, x0.1 after 3 epochs without gain on
    # held-aside training subjects, stop after 5
    schedule: Schedule = "official"
    transfer: Path | None = None  # another packed set, with protocols of its own: what the run's encoders are worth there
    features: Path | None = None  # folder with STREAM.npz, extracted elsewhere (another machine's RUNS/NAME/features/CONTENT)
    transductive: bool = False  # allow another protocol than the run's: the encoder may have seen test clips, and results say so
    seed: int = 0  # of the linear probe, who is held aside and the intervals (and of the random encoder, where pretraining's is not known)
    heads: int = 8  # attention heads of an official checkpoint (they are not in its file)
    out: Path | None = None  # with --weights: folder for results; default RUNS/probe-FILE
    runs: Path | None = None  # folder of all runs; default: the run's own folder's, else $ACSAR_RUNS, else ./runs

    def __call__(self, say: Say = lambda line: None, progress: Progress = lambda done, total: None) -> dict[str, dict[str, float]]:
        """Percent correct of the test part, {stream: {name: value}} by the names of ACCURACIES.

        Several ranks (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) share the encoders' passes; then rank 0 alone probes, and the others
        return {}. Writes the files that stand at the top of jobs/probe.py; `say` is told what goes on, and the sentences; `progress`
        hears of clips that have gone through an encoder. Raises InputError for what the user can mend."""
        with _ranks() as ranks:
            work = self._work(ranks)
            for one in work:
                one.extract(say if ranks.rank == 0 else lambda line: None, progress)
        if ranks.rank:
            return {}
        if ranks.world > 1:  # the other ranks of this host have gone, and with them what shared its processors
            torch.set_num_threads(min(cores(), torch.get_num_threads() * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        results: dict[str, dict[str, float]] = {}
        for one in work:
            report = one(say)
            results[one.target.stream] = {name: report[name] for name in ACCURACIES}
            for sentence in report["sentences"]:
                say(sentence)
        return results

    def _work(self, ranks: Ranks) -> "list[_Probed]":
        packed, targets, protocol, folder = self._resolve()
        division = divide(packed, protocol, self.seed)
        if self.schedule == "paper" and division.not_aside:
            raise InputError(f"--schedule paper watches held-aside subjects, but {division.not_aside}; use --schedule official")
        there = folder / "probe" / setting(protocol, self.schedule, self.transfer.resolve().name if self.transfer else "")
        references = (self.runs or folder.parent) / REFERENCES
        frozen = (
            Frozen(packed, target, protocol, division.train, folder, references, self.seed, self.features, ranks) for target in targets
        )
        return [_Probed(self.seed, self.schedule, division, there, one) for one in frozen]

    def _resolve(self) -> tuple[PackedSet, list[Target], str, Path]:
        """The packed set, the encoders, the protocol, and the folder of the run or of the results."""
        if (self.run is None) == (self.weights is None):
            raise InputError("give either --run RUNS/NAME, or --weights FILE with --data DIR")
        check_streams(self.streams)
        if self.run is not None:
            run = find_run(self.run, self.runs)
            if self.transfer is not None:
                return *of_transfer(run, self.streams, self.transfer, self.protocol, self.transductive), run
            return *of_run(run, self.streams, self.data, self.protocol, self.transductive), run
        assert self.weights is not None
        if self.transfer is not None:
            raise InputError("--transfer goes with --run; with --weights any packed set is named by --data")
        if self.data is None:
            raise InputError("--weights needs --data DIR, a packed set")
        out = self.out or (self.runs or default_runs()) / f"probe-{self.weights.name.split('.')[0]}"
        return *of_weights(self.weights, self.streams, self.data, self.protocol, self.transductive, self.heads), out


@dataclass(frozen=True)
class _Probed:
    """One encoder's way from features to its report."""

    seed: int
    schedule: Schedule
    division: Division
    folder: Path
    frozen: Frozen

    @property
    def target(self) -> Target:
        return self.frozen.target

    def extract(self, say: Say, progress: Progress) -> None:
        """Leave the features on disk; all ranks take part."""
        if self.frozen.given is not None:
            self.frozen.pretrained().rows(self.division.keys)
        say(f"{self.target.stream}: features of {len(self.frozen.keys)} clips")
        self.frozen.extract(progress)

    def __call__(self, say: Say) -> dict[str, Any]:
        """Probe features that are there, write the files, and return the report."""
        began, stream, d = time.monotonic(), self.target.stream, self.division
        encoders = probes.schedule_for(self.frozen.packed.manifest["benchmark"], self.schedule)
        answer, linear, aside = self._classified(self.frozen.pretrained(), encoders)
        say(f"{stream}: probes of the features took {time.monotonic() - began:.1f} s")
        answers = {"": answer, "random": self._random(encoders, say), "raw": self._raw(say)}
        facts = {**self._set(), "encoder": self.frozen.encoder, "seed": self.seed, "schedule": self.schedule}
        facts |= {"pretrain_seed": self.target.seed, "transfer": self.target.transfer}
        write_scores(self.folder / f"{stream}.scores.npz", Scores(d.test, answer.scores, d.test_labels, d.test_subjects, d.classes, facts))
        path = self.folder / f"{stream}.aside.npz"
        if aside is None:
            path.unlink(missing_ok=True)  # of an earlier probe
        else:
            keys = [key for key, held in zip(d.train, d.aside.tolist()) if held]
            labels, subjects = d.train_labels[d.aside], d.train_subjects[d.aside]
            write_scores(path, Scores(keys, aside, labels, subjects, d.classes, {**facts, "part": "held-aside"}))
        said = {"protocol": self.frozen.protocol, "stream": stream, "encoder": self.frozen.encoder, "schedule": self.schedule}
        made = Classifier(linear.weight.cpu(), linear.bias.cpu(), d.classes, classifier.set_facts(self.frozen.packed.manifest) | said)
        classifier.save(self.folder / f"{stream}.classifier.safetensors", made)
        report = self._report(answers, encoders)
        report["sentences"] = verdicts({stream: report})
        write_json(self.folder / f"{stream}.json", report)
        return report

    def _set(self) -> dict[str, Any]:
        return {"content_id": self.frozen.packed.content_id, "protocol": self.frozen.protocol, "stream": self.target.stream}

    def _classified(self, rows: Features, schedule: ProbeSchedule) -> tuple[Answer, LinearResult, Tensor | None]:
        """Classifiers A and B and 1-NN on these features; A's scores [m,N] of the held-aside clips, None where nobody is held aside."""
        d, device = self.division, self.frozen.ranks.device
        train, test, y = rows.of(d.train).to(device), rows.of(d.test).to(device), d.train_labels.to(device)
        course, aside, classes = None, None, len(d.classes)
        if not d.not_aside:
            course, aside = probes.course(train, y, d.aside.to(device), classes, schedule, self.seed)
            aside = aside.cpu()
        linear = probes.linear_probe(train, y, test, classes, schedule, self.seed, course, d.test_labels)
        epochs = len(linear.losses)
        numbers = {
            "epoch": epochs if course is None else course.epoch,
            "epochs": epochs,
            "linear_last": 100 * linear.accuracy[-1],
            "linear_best_on_test": 100 * max(linear.accuracy),
            "train_loss": linear.losses[-1],
        }
        if course is not None:
            numbers["held_aside_linear"] = 100 * course.accuracy[course.epoch - 1]
        return Answer(linear.scores.cpu(), linear.last.cpu(), probes.knn1(train, y, test).cpu(), numbers), linear, aside

    def _raw(self, say: Say) -> Answer:
        return self._reference("raw", {"crop": features.CROP}, self.frozen.raw, probes.unit(self.schedule), say)

    def _random(self, schedule: ProbeSchedule, say: Say) -> Answer:
        return self._reference("random", self.frozen.made_by, lambda: nullcontext(self.frozen.random()), schedule, say)

    def _reference(
        self, kind: str, made_by: dict[str, Any], rows: Callable[[], AbstractContextManager[Features]], schedule: ProbeSchedule, say: Say
    ) -> Answer:
        """What a reference reaches: looked up where it has been computed for the same set, recipe, stream, protocol, seed and schedule."""
        spec = {"kind": kind, "seed": self.seed, "schedule": dataclasses.asdict(schedule), **self._set(), **made_by, "version": 3}
        path = self.frozen.references / f"{kind}-{self.target.stream}-{features.fingerprint(spec)}.npz"
        if not path.is_file():
            say(f"{self.target.stream}: {kind} reference (once)")
            with rows() as found:
                answer, _, _ = self._classified(found, schedule)
            numbers = {name: np.float64(value) for name, value in answer.numbers.items()}
            tensors = {name: getattr(answer, name).numpy() for name in ("scores", "last", "nearest")}
            write_arrays(path, spec, **tensors, **numbers)
        arrays, _ = read_arrays(path)
        scores, last, nearest = (torch.from_numpy(arrays.pop(name)) for name in ("scores", "last", "nearest"))
        return Answer(scores, last, nearest, {name: float(value) for name, value in arrays.items()})

    def _report(self, answers: Mapping[str, Answer], schedule: ProbeSchedule) -> dict[str, Any]:
        d, facts, own = self.division, self.target.facts, answers[""]
        correct, numbers = dict[str, Tensor](), dict[str, float | None]()
        for kind, answer in answers.items():
            prefix = f"{kind}_" if kind else ""
            correct[f"{prefix}linear"] = probes.hits(answer.scores, d.test_labels)
            correct[f"{prefix}linear_last"] = probes.hits(answer.last, d.test_labels)
            correct[f"{prefix}knn1"] = answer.nearest == d.test_labels
            told = answer.numbers
            numbers |= {f"{prefix}{name}": told[name] for name in ("linear_last", "linear_best_on_test")}
            numbers |= {f"{prefix}{name}": int(told[name]) for name in ("epoch", "epochs")}
            numbers[f"{prefix}held_aside_linear"] = told.get("held_aside_linear")
        known = len(torch.unique(d.test_subjects)) > 1
        over = {"subjects": d.test_subjects if known else None, "samples": None}
        spans = {kind: {name: percent(v, groups, self.seed) for name, v in correct.items()} for kind, groups in over.items()}
        differences = {}
        for probe in ("linear", "linear_last", "knn1"):
            for reference in ("random", "raw"):
                gap = correct[probe].double() - correct[f"{reference}_{probe}"].double()
                span = percent(gap, over["subjects"], self.seed)
                differences[f"{probe}_over_{reference}"] = {"value": 100 * float(gap.mean()), "interval": span}
        trained = torch.bincount(d.train_labels, minlength=len(d.classes))
        return {
            **{name: 100 * float(correct[name].double().mean()) for name in MEASURED},
            **numbers,
            "top5": 100 * probes.top_k(own.scores, d.test_labels, 5),
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
            "held_aside_subjects": d.aside_subjects,
            "not_held_aside": d.not_aside,
            "untrained_classes": int((trained[d.test_labels] == 0).sum()),
            "train_loss": {kind or "pretrained": answer.numbers["train_loss"] for kind, answer in answers.items()},
            **self._set(),
            "benchmark": self.frozen.packed.manifest["benchmark"],
            "encoder": str(self.target.weights),
            "encoder_sha256": self.frozen.encoder,
            "recipe": facts.get("recipe", ""),
            "supervision": facts.get("supervision", "unknown"),
            "transductive": self.target.transductive,
            "transfer": self.target.transfer,
            "transfer_unchecked": self.target.unchecked,
            "seed": self.seed,
            "pretrain_seed": self.target.seed,
            "schedule": self.schedule,
            "linear_schedule": described(schedule, d, own),
            "raw_schedule": described(probes.unit(self.schedule), d, answers["raw"]),
            "knn": "1 nearest neighbour by cosine of the features as they are, gallery = training part",
        }


def setting_of(job: Probe) -> str:
    """The folder below RUNS/NAME/probe that a probe of a run fills."""
    assert job.run is not None
    protocol = job.protocol or protocol_for(job.run, job.transfer)
    return setting(protocol, job.schedule, job.transfer.resolve().name if job.transfer else "")


def read_accuracies(job: Probe, streams: Sequence[str]) -> dict[str, dict[str, float]]:
    """What `Probe` of a run returned for these streams, from its files."""
    reports = _read_reports(job, streams)
    return {stream: {name: report[name] for name in ACCURACIES if name in report} for stream, report in reports.items()}


def read_sentences(job: Probe, streams: Sequence[str]) -> list[str]:
    """The sentences that `Probe` of a run told of these streams, from its files."""
    return [sentence for report in _read_reports(job, streams).values() for sentence in report["sentences"]]


def _read_reports(job: Probe, streams: Sequence[str]) -> dict[str, dict[str, Any]]:
    assert job.run is not None
    folder = job.run / "probe" / setting_of(job)
    return {stream: read_json(folder / f"{stream}.json") for stream in streams}


def divide(packed: PackedSet, protocol: str, seed: int = 0) -> Division:
    """The two parts of a protocol, and which training subjects are held aside (design: 10 % of them, by seed; the same for every stream).

    Raises InputError where no probe can be trained, ValueError where the parts overlap."""
    train, test = protocols.parts(packed.samples, protocol, packed.manifest["benchmark"])
    if set(train) & set(test):
        raise ValueError(f"protocol {protocol} has keys in both parts, for example {sorted(set(train) & set(test))[0]}")
    entries = {entry.key: entry for entry in packed.samples}
    labels = torch.tensor([entries[key].label for key in train])
    if len(set(labels.tolist())) < 2:
        raise InputError(f"all {len(train)} training samples of protocol {protocol} have one class; pack with another --label")
    subjects = torch.tensor([entries[key].subject for key in train])
    held, why = set[str](), ""
    if len(torch.unique(subjects[subjects > 0])) < 2:
        why = f"fewer than two subjects of the training part of protocol {protocol} are known"
    else:
        held = set(protocols.held_aside([entries[key] for key in train if entries[key].subject > 0], seed))
    aside = torch.tensor([key in held for key in train])
    if held and len(torch.unique(labels[~aside])) < 2:
        why, aside = "without the held-aside subjects the training part has one class only", torch.zeros_like(aside)
    return Division(
        train,
        test,
        labels,
        subjects,
        torch.tensor([entries[key].label for key in test]),
        torch.tensor([entries[key].subject for key in test]),
        tuple(packed.manifest["classes"]),
        aside,
        why,
    )


def percent(values: Tensor, groups: Tensor | None, seed: int) -> list[float]:
    """[low, high] of the mean of values [n], in percent."""
    return [100 * bound for bound in probes.interval(values, groups, seed=seed)]


def described(schedule: ProbeSchedule, division: Division, answer: Answer) -> str:
    """A schedule in one line, and the epoch that counts."""
    epoch, epochs, people = int(answer.numbers["epoch"]), int(answer.numbers["epochs"]), division.aside_subjects
    rule = f"SGD lr {schedule.lr:g}, momentum {schedule.momentum:g}, weight decay {schedule.weight_decay:g}"
    drops = f"at {' and '.join(map(str, schedule.drops))}"
    if schedule.plateau:
        drops = f"after {schedule.plateau} epochs without gain, end after {schedule.stop}, {schedule.epochs} epochs at most"
    counts = f"epoch {epoch} of {epochs}, chosen on {people} held-aside training subject{'s' * (people > 1)}" if people else "last epoch"
    unit = "; features centred and divided by the root mean square of their norms" if schedule.unit else ""
    batch = schedule.batch_of(len(division.train))
    return f"{rule}, batch {batch}, {epochs} epochs, x{schedule.factor:g} {drops}, {counts}{unit}"


def _ranks() -> AbstractContextManager[Ranks]:
    """All ranks of this job; a process that is alone needs no group."""
    several = dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1
    return engine.group() if several else nullcontext(alone())
