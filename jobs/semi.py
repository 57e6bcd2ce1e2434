"""Semi-supervised classifiers of frozen features: a few labels, several draws of them, with raw clips and a random encoder beside.

RUNS/NAME/semi/SETTING/STREAM.json: the report. Labelled samples are those of jobs/subsets.py, the same for every stream and for all
three representations. The encoder stays as it is ("supervised fine-tuning of the classifier", AC-SAR section 5.1); training it too, as
CMD does, is jobs/finetune.py.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acsar import probes
from acsar.probes import ProbeSchedule
from acsar.recipes import BENCHMARKS
from jobs import features
from jobs.features import Features
from jobs.frozen import REFERENCES, Frozen, Progress, alone
from jobs.probe import Division, divide, percent
from jobs.run_folder import write_json
from jobs.scores import read_arrays, write_arrays
from jobs.settings import Schedule, semi_setting
from jobs.subsets import Draw, subset, unlabelled_classes
from jobs.targets import Target, check_streams, checked_protocol, configurations, find_run, of_run, of_transfer, transfer_protocol
from jobs.verdicts import compare
from shards.errors import InputError
from shards.stream import PackedSet

BATCH, RATE = 64, 0.01  # AC-SAR section 5.1
WATCHED = 10  # labelled clips of held-aside subjects below which their accuracy says nothing


@dataclass(frozen=True)
class Semi:
    """Train linear classifiers of a run's frozen features on a share of the labels."""

    run: Path  # RUNS/NAME (or NAME below --runs); data and protocol are the run's own
    fractions: tuple[float, ...] = (0.01, 0.05, 0.1)  # shares of the training samples whose labels are used
    repeats: int = 5  # subsets drawn for each share: seeds seed, seed + 1, ...
    draw: Draw = "unbalanced"  # unbalanced: a share of the samples, whatever their classes (CMD); balanced: of each class (AimCLR)
    # paper: rate x0.1 after 3 epochs without gain on the labelled clips of held-aside training subjects, stop after 5; official: 80 epochs,
    # x0.1 at 50 and 70
    schedule: Schedule = "paper"
    data: Path | None = None  # packed set; needed only where the run's set has moved
    streams: tuple[str, ...] = ()  # default: every stream of the run
    protocol: str = ""  # default: the run's; another one is refused unless --transductive
    transfer: Path | None = None  # another packed set, with protocols of its own
    transductive: bool = False  # allow a protocol or set whose test clips pretraining may have seen; results say so
    seed: int = 0  # of the first subset, who is held aside and the intervals
    runs: Path | None = None  # folder of all runs; default: $ACSAR_RUNS, else ./runs

    def __call__(self, say: Any = lambda line: None, progress: Progress = lambda done, total: None) -> dict[str, dict[str, Any]]:
        """{stream: report}, also written to RUNS/NAME/semi/SETTING/STREAM.json; `say` is told what goes on, and the sentences; `progress`
        hears of clips that have gone through an encoder. Raises InputError for what the user can mend."""
        if self.repeats < 1 or not self.fractions:
            raise InputError(f"--repeats {self.repeats} --fractions {','.join(map(str, self.fractions))}: give one of each at least")
        check_streams(self.streams)
        job = resolved(self)
        run = job.run
        if job.transfer is None:
            packed, targets, protocol = of_run(run, job.streams, job.data, job.protocol, job.transductive)
        else:
            packed, targets, protocol = of_transfer(run, job.streams, job.transfer, job.protocol, job.transductive)
        division = divide(packed, protocol, self.seed)
        drawn = self.drawn(division, packed.content_id, protocol)  # before anything is extracted: a share may be too small
        reports = {}
        for target in targets:
            references = (self.runs or run.parent) / REFERENCES
            frozen = Frozen(packed, target, protocol, division.train, run, references, self.seed, None, alone())
            say(f"{target.stream}: features of {len(frozen.keys)} clips")
            frozen.extract(progress)
            report = _Classified(self, division, drawn, frozen).report(say)
            write_json(job.folder / f"{target.stream}.json", report)
            for sentence in report["sentences"]:
                say(sentence)
            reports[str(target.stream)] = report
        return reports

    @property
    def folder(self) -> Path:
        """Where the reports of a resolved job lie."""
        name = self.transfer.resolve().name if self.transfer else ""
        return self.run / "semi" / semi_setting(self.protocol, self.draw, self.schedule, name)

    def drawn(self, division: Division, content_id: str, protocol: str) -> list[list[list[str]]]:
        """The labelled keys of every fraction and repeat. Raises InputError as `jobs.subsets.subset`."""
        labels = division.train_labels.tolist()
        return [
            [subset(division.train, labels, content_id, protocol, share, self.seed + i, self.draw) for i in range(self.repeats)]
            for share in self.fractions
        ]


def resolved(job: Semi) -> Semi:
    """The job with its run's folder and the protocol, which the run or the other set decides. Raises InputError where that is not clear."""
    run = find_run(job.run, job.runs).resolve()
    trained = next(iter(configurations(run, job.streams).values()))["facts"]["protocol"]
    if job.transfer is None:
        protocol = checked_protocol(job.protocol, trained, job.transductive, run)
    else:
        protocol = transfer_protocol(PackedSet.open(job.transfer), job.protocol, trained)
    return replace(job, run=run, protocol=protocol)


@dataclass(frozen=True)
class Answers:
    """What one representation says: right [F,R,n] bool by fraction, repeat and test clip; epoch [F,R] that counted; watched [F,R] clips
    that chose it (0 = the last epoch of a fixed schedule)."""

    right: Tensor
    epoch: Tensor
    watched: Tensor


@dataclass(frozen=True)
class _Classified:
    """One stream's classifiers on every subset."""

    job: Semi
    division: Division
    drawn: list[list[list[str]]]
    frozen: Frozen

    @property
    def target(self) -> Target:
        return self.frozen.target

    def report(self, say: Any) -> dict[str, Any]:
        """Numbers, intervals and sentences."""
        d, stream = self.division, self.target.stream
        benchmark = self.frozen.packed.manifest["benchmark"]
        schedule = recipe(benchmark, self.job.schedule)
        say(f"{stream}: {sum(map(len, self.drawn))} subsets")
        own = self.answers(self.frozen.pretrained(), schedule)
        random = self.reference("random", schedule, say)
        raw = self.reference("raw", recipe("", self.job.schedule), say)
        known = len(torch.unique(d.test_subjects)) > 1
        groups = d.test_subjects if known else None
        rows = [self.row(i, own, random, raw, groups) for i in range(len(self.drawn))]
        facts = self.target.facts
        report = {
            "stream": stream,
            "data": str(self.frozen.packed.path.resolve()),
            "content_id": self.frozen.packed.content_id,
            "protocol": self.frozen.protocol,
            "benchmark": benchmark,
            "encoder_sha256": self.frozen.encoder,
            "encoder": "frozen",
            "draw": self.job.draw,
            "schedule": self.job.schedule,
            "linear_schedule": dataclasses.asdict(schedule),
            "recipe": facts.get("recipe", ""),
            "supervision": facts.get("supervision", "unknown"),
            "pretrain_seed": self.target.seed,
            "transductive": self.target.transductive,
            "transfer": self.target.transfer,
            "seed": self.job.seed,
            "train": len(d.train),
            "test": len(d.test),
            "classes": len(d.classes),
            "interval_over": "subjects" if known else "samples",
            "rows": rows,
        }
        report["sentences"] = [sentence for row in rows for sentence in sentences(str(stream), row, str(report["interval_over"]))]
        return report

    def row(self, i: int, own: Answers, random: Answers, raw: Answers, groups: Tensor | None) -> dict[str, Any]:
        """One fraction: every repeat, their mean and deviation, and what they are worth beside the references on the same subsets."""
        d, seed = self.division, self.job.seed
        tops = {name: (100 * answers.right[i].double().mean(1)).tolist() for name, answers in _named(own, random, raw)}
        means = {name: answers.right[i].double().mean(0) for name, answers in _named(own, random, raw)}  # [n] over repeats
        over = {}
        for name in ("random", "raw"):
            gap = means["top1"] - means[name]
            over[f"over_{name}"] = {"value": 100 * float(gap.mean()), "interval": percent(gap, groups, seed)}
        labelled = [len(keys) for keys in self.drawn[i]]
        missing = [unlabelled_classes(d.train, d.train_labels.tolist(), keys) for keys in self.drawn[i]]
        repeats = [
            {
                "seed": seed + r,
                **{name: values[r] for name, values in tops.items()},
                "epoch": int(own.epoch[i, r]),
                "watched": int(own.watched[i, r]),
                "unlabelled_classes": missing[r],
            }
            for r in range(len(labelled))
        ]
        return {
            "fraction": self.job.fractions[i],
            "labelled": labelled[0],
            "repeats": repeats,
            "mean": statistics.fmean(tops["top1"]),
            "deviation": statistics.stdev(tops["top1"]) if len(labelled) > 1 else None,
            "interval": percent(means["top1"], groups, seed),
            "random_mean": statistics.fmean(tops["random"]),
            "raw_mean": statistics.fmean(tops["raw"]),
            "differences": over,
            "unlabelled_classes": max(missing),
        }

    def reference(self, kind: str, schedule: ProbeSchedule, say: Any) -> Answers:
        """What a reference reaches on these subsets: looked up where it has been computed before, for this or another run."""
        job, frozen = self.job, self.frozen
        made_by = frozen.made_by if kind == "random" else {"crop": features.CROP}
        what = {name: getattr(job, name) for name in ("fractions", "repeats", "draw", "seed")}
        set_ = {"content_id": frozen.packed.content_id, "protocol": frozen.protocol, "stream": self.target.stream}
        spec = {"kind": f"semi-{kind}", **what, **set_, **made_by, "schedule": dataclasses.asdict(schedule), "watched": WATCHED}
        path = frozen.references / f"semi-{kind}-{self.target.stream}-{features.fingerprint(spec)}.npz"
        if not path.is_file():
            say(f"{self.target.stream}: {kind} reference (once)")
            if kind == "random":
                found = self.answers(frozen.random(), schedule)
            else:
                with frozen.raw() as rows:
                    found = self.answers(rows, schedule)
            write_arrays(path, spec, **{name: np.asarray(getattr(found, name)) for name in ("right", "epoch", "watched")})
        arrays, _ = read_arrays(path)
        return Answers(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def answers(self, rows: Features, schedule: ProbeSchedule) -> Answers:
        """A classifier for every subset, from these features."""
        test = rows.of(self.division.test).to(self.frozen.ranks.device)
        found = [[self.classifier(rows, keys, test, schedule, self.job.seed + r) for r, keys in enumerate(row)] for row in self.drawn]
        right = torch.stack([torch.stack([right for right, _, _ in row]) for row in found])
        return Answers(right, *(torch.tensor([[one[k] for one in row] for row in found]) for k in (1, 2)))

    def classifier(self, rows: Features, keys: Sequence[str], test: Tensor, schedule: ProbeSchedule, seed: int) -> tuple[Tensor, int, int]:
        """(right [n], epoch, watched): classifier B of these labelled clips, at the epoch that A found on those of held-aside subjects.

        Where too few of them are labelled, or the others have one class, the rate falls at fixed epochs and the last one counts."""
        d, device = self.division, test.device
        place = {key: i for i, key in enumerate(d.train)}
        chosen = torch.tensor([place[key] for key in keys])
        x, y, aside = rows.of(keys).to(device), d.train_labels[chosen].to(device), d.aside[chosen].to(device)
        watched = int(aside.sum())
        enough = watched >= WATCHED and len(torch.unique(y[~aside])) > 1
        course = probes.course(x, y, aside, len(d.classes), schedule, seed)[0] if enough else None
        linear = probes.linear_probe(x, y, test, len(d.classes), schedule, seed, course)
        epoch = len(linear.losses) if course is None else course.epoch
        return probes.hits(linear.scores.cpu(), d.test_labels), epoch, watched if enough else 0


def recipe(benchmark: str, schedule: Schedule) -> ProbeSchedule:
    """How a classifier is trained on few labels: batch 64 and lr 0.01, otherwise as the linear probe (AC-SAR section 5.1).

    Those are numbers for features of published benchmarks. Elsewhere, and for raw clips (benchmark ""), features are centred and scaled
    as for the linear probe, whose rate of 2 goes with that, and an epoch of a small set has 16 batches at least."""
    linear = probes.schedule_for(benchmark, schedule)
    return replace(linear, batch=BATCH, lr=RATE, min_batches=1) if benchmark in BENCHMARKS else replace(linear, batch=BATCH)


def sentences(stream: str, row: dict[str, Any], over: str) -> list[str]:
    """What one fraction's numbers say, in words."""
    lines = []
    for reference, name in (("random", "its random encoder"), ("raw", "the raw floor")):
        low, high = row["differences"][f"over_{reference}"]["interval"]
        told = compare(row["mean"], name, row[f"{reference}_mean"], low, high, over)
        lines.append(f"{stream}: with {100 * row['fraction']:g} % of the labels ({row['labelled']}) {row['mean']:.1f} {told}")
    if row["unlabelled_classes"]:
        lines.append(f"{stream}: in a draw of {100 * row['fraction']:g} % up to {row['unlabelled_classes']} classes have no labelled clip")
    if not all(repeat["watched"] for repeat in row["repeats"]):
        told = f"fewer than {WATCHED} labelled clips are of held-aside subjects"
        lines.append(f"{stream}: {100 * row['fraction']:g} %: {told} in some draws: there the last epoch of a fixed schedule counts")
    return lines


def _named(own: Answers, random: Answers, raw: Answers) -> tuple[tuple[str, Answers], ...]:
    return (("top1", own), ("random", random), ("raw", raw))
