"""Fine-tuning on labels: a pretrained encoder and a new classifier, both trained, on all or a labelled share of a training part."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import acsar
from acsar import probes
from acsar.finetune import FineTuned, crop_only
from acsar.scdnet import SCDNet
from acsar.types import Batch, Method
from jobs import checkpoint, classifier, environment, features, journal, weights
from jobs import engine as deepspeed
from jobs.batches import batches, check_batch, without_text
from jobs.classifier import Classifier
from jobs.codec import encode
from jobs.configuration import same_configuration
from jobs.fit import Fit, fit
from jobs.probe import Division, divide, percent
from jobs.run_folder import RunFolder, superseded, write_json, writing
from jobs.schedule import Schedule
from jobs.scores import Scores, write_scores
from jobs.settings import setting
from jobs.subsets import Draw, subset, unlabelled_classes
from jobs.targets import (
    Target,
    check_streams,
    checked_protocol,
    configurations,
    find_run,
    of_run,
    of_transfer,
    streams_of,
    transfer_protocol,
)
from jobs.train_loop import Interrupted, Outcome
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.stream import PackedSet

FOLDER = "finetune"  # RUNS/NAME/finetune/TRIAL/STREAM


@dataclass(frozen=True)
class Finetune:
    """Fine-tune the encoders of a run. Call it once per stream, on every rank.

    The recipe is CMD's (Mao et al. 2022), the rule that AC-SAR's semi-supervised numbers cite: SGD, 80 epochs, rate 0.01 divided by ten
    at 50 and 70, no weight decay, crops in time and nothing else. The number is that of the last epoch: choosing an epoch on held-aside
    subjects would cost a second training, and choosing it on test accuracy, the habit of the field, is only reported beside it
    (--evaluate-every)."""

    run: Path  # RUNS/NAME (or NAME below --runs) whose encoders are the start; data and protocol are the run's own
    name: str = ""  # of this trial, RUNS/NAME/finetune/TRIAL; default: made of protocol, fraction, draw and seed
    data: Path | None = None  # packed set; needed only where the run's set has moved
    transfer: Path | None = None  # another packed set to fine-tune and test on
    protocol: str = ""  # default: the run's (of another set: the run's where it can serve it, else its only one)
    transductive: bool = False  # allow a protocol or set whose test clips pretraining may have seen; results say so
    streams: tuple[str, ...] = ()  # default: every stream of the run; trained one by one, each a model of its own
    fraction: float = 1.0  # share of the training samples whose labels are used
    draw: Draw = "unbalanced"  # unbalanced: a share of the samples, whatever their classes (CMD); balanced: of each class (AimCLR)
    seed: int = 0  # of the labelled samples, the classifier's first weights, order, crops and dropout
    frozen: bool = False  # train the classifier alone, under the fine-tuning recipe; see also semi.py
    scratch: bool = False  # random weights in place of the run's: the supervised reference
    batch_size: int = 64  # global batch, over all ranks; fewer labelled samples: the largest power of two that they fill
    lr: float = 0.01  # learning rate at the start
    drops: tuple[float, ...] = (50 / 80, 70 / 80)  # shares of the schedule after which the rate is a tenth of what it was
    epochs: int = 80  # length of the schedule in epochs (floor(samples / batch) steps each)
    steps: int | None = None  # length of the schedule in steps; wins over epochs
    momentum: float = 0.9  # of SGD
    weight_decay: float = 0.0  # of SGD
    min_crop: float = 0.5  # smallest share of a clip's frames that a training crop keeps (64 frames at least, where there are as many)
    nodes: int = 1  # machines, or simulated ones
    zero: Literal[0, 1, 2] = 0  # DeepSpeed ZeRO stage
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto = bf16 autocast on CUDA devices that have it, else fp32
    evaluate_every: int = 0  # epochs between looks at the test part, reported as the best on test beside the last epoch; 0 = never
    save_every: int = 500  # steps between checkpoints; 0 = only where it ends
    keep_last: int = 1  # newest checkpoints that are kept
    keep_every: int = 0  # checkpoints at multiples of this many steps are kept too; 0 = none
    stop_after: int | None = None  # end early, resumable, after this many steps of the schedule
    workers: int = 0  # prefetch threads; they never change the order
    runs: Path | None = None  # folder of all runs; default: $ACSAR_RUNS, else ./runs

    def __call__(self, stream: str) -> dict[str, Any]:
        """Fine-tune one stream to its end, to --stop-after or until a signal, from wherever it stands; every rank calls this.

        Returns what result.json holds once it is finished; see `jobs.fit.fit`. Raises InputError for what the user can mend."""
        check_streams([stream])
        job = resolved(self)
        start = {"from_encoder_sha256": start_of(job, stream)}
        return fit(job, stream, RunFolder(job.folder / stream), data_of(job), start, _Run)

    @property
    def folder(self) -> Path:
        """RUNS/NAME/finetune/TRIAL, of a resolved job."""
        return self.run / FOLDER / self.name


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a job: samples by part, batch, steps."""

    train: int
    labelled: int
    test: int
    classes: int
    unlabelled_classes: int  # of the training part, that no labelled sample has
    world: int
    batch_size: int
    rows: int  # of each rank
    steps_per_epoch: int
    steps: int
    drop_steps: tuple[int, ...]  # from which the learning rate is a tenth of what it was

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch


def resolved(job: Finetune) -> Finetune:
    """The job with everything decided that the run decides: its folder, streams, protocol, and the trial's name.

    Raises InputError for settings that do not fit the run or each other."""
    if job.scratch and job.frozen:
        raise InputError("--scratch and --frozen: random weights that stay as they are learn nothing; leave one of them out")
    if any(not 0 < share < 1 for share in job.drops) or list(job.drops) != sorted(job.drops):
        raise InputError(f"--drops {' '.join(map(str, job.drops))}: give rising shares of the schedule, such as 0.625 0.875")
    check_streams(job.streams)
    run = find_run(job.run, job.runs).resolve()
    streams = job.streams or tuple(streams_of(run))
    facts = _configuration(run, streams)["facts"]
    if job.transfer is None:
        protocol = checked_protocol(job.protocol, facts["protocol"], job.transductive, run)
    else:
        protocol = transfer_protocol(PackedSet.open(job.transfer), job.protocol, facts["protocol"])
    data, transfer = (path and path.resolve() for path in (job.data, job.transfer))
    job = replace(job, run=run, streams=streams, protocol=protocol, data=data, transfer=transfer, runs=run.parent)
    return replace(job, name=job.name or trial(job))


def trial(job: Finetune) -> str:
    """A name that tells a trial from others of the same run."""
    words = [setting(job.protocol, transfer=job.transfer.name if job.transfer else "")]
    words += [f"{job.fraction:g}-{job.draw}"] if job.fraction < 1 else []
    return "-".join([*words, *(["frozen"] if job.frozen else []), *(["scratch"] if job.scratch else []), f"seed{job.seed}"])


def data_of(job: Finetune) -> Path:
    """The packed set of a resolved job."""
    return job.transfer or job.data or Path(_configuration(job.run, job.streams)["job"]["data"])


def start_of(job: Finetune, stream: str) -> str:
    """sha256 of the encoder that a stream starts from; "" for random weights."""
    return "" if job.scratch else sha256_of(RunFolder(job.run / stream).encoder)


def describe(job: Finetune) -> Path:
    """Write the resolved job as RUNS/NAME/finetune/TRIAL/job.json, from which every rank reads it. Raises InputError when the name belongs
    to another configuration, and then leaves what is there."""
    content_id = PackedSet.open(data_of(job)).content_id
    for stream in job.streams:
        ids = {"content_id": content_id, "from_encoder_sha256": start_of(job, stream)}
        same_configuration(RunFolder(job.folder / stream), job, ids)
    write_json(job.folder / "job.json", encode(job))
    return job.folder / "job.json"


def plan(job: Finetune, world: int) -> Plan:
    """What a resolved job will do on `world` ranks. Raises InputError for every setting that does not fit the data or the ranks."""
    packed, _ = _target(job, job.streams[0])
    division = divide(packed, job.protocol)
    return _plan(job, division, _labelled(job, packed, division), world)


def _configuration(run: Path, streams: Sequence[str]) -> dict[str, Any]:
    """config.json of the first of a run's streams; they agree in data, protocol and seed."""
    return next(iter(configurations(run, streams).values()))


def _target(job: Finetune, stream: str) -> tuple[PackedSet, Target]:
    if job.transfer is not None:
        packed, targets, _ = of_transfer(job.run, [stream], job.transfer, job.protocol, job.transductive)
    else:
        packed, targets, _ = of_run(job.run, [stream], job.data, job.protocol, job.transductive)
    return packed, targets[0]


def _labelled(job: Finetune, packed: PackedSet, division: Division) -> list[str]:
    labels = division.train_labels.tolist()
    return subset(division.train, labels, packed.content_id, job.protocol, job.fraction, job.seed, job.draw)


def _plan(job: Finetune, division: Division, labelled: list[str], world: int) -> Plan:
    size = min(job.batch_size, 1 << (len(labelled).bit_length() - 1))
    check_batch(size, len(labelled), world)
    per_epoch = len(labelled) // size
    steps = job.epochs * per_epoch if job.steps is None else job.steps
    if steps < 1:
        raise InputError("the schedule has no steps; give --steps N or --epochs N")
    return Plan(
        train=len(division.train),
        labelled=len(labelled),
        test=len(division.test),
        classes=len(division.classes),
        unlabelled_classes=unlabelled_classes(division.train, division.train_labels.tolist(), labelled),
        world=world,
        batch_size=size,
        rows=size // world,
        steps_per_epoch=per_epoch,
        steps=steps,
        drop_steps=tuple(round(share * steps) for share in job.drops),
    )


@dataclass
class _Run(Fit):
    """One stream on this rank, from its start to its outcome."""

    job: Finetune
    plan: Plan = field(init=False)
    division: Division = field(init=False)
    labelled: list[str] = field(init=False)
    target: Target = field(init=False)

    def prepare(self) -> None:
        self.packed = without_text(self.packed)
        self.target = deepspeed.on_all(self.ranks, lambda: _target(self.job, self.stream))[1]
        self.division = divide(self.packed, self.job.protocol)
        self.labelled = _labelled(self.job, self.packed, self.division)
        self.plan = _plan(self.job, self.division, self.labelled, self.ranks.world)

    @property
    def batch_size(self) -> int:
        return self.plan.batch_size

    def method(self) -> FineTuned:
        try:
            augmentation = crop_only(self.job.min_crop)
        except ValueError as error:
            raise InputError(f"--min-crop {self.job.min_crop:g}: {error}") from None
        pretrained = self.target.method
        if self.job.scratch:
            pretrained = acsar.build(self.target.config, self.target.skeleton, seed=self.job.seed)
        assert isinstance(pretrained, SCDNet)
        self.network = pretrained  # shares its query encoder with what is trained
        return FineTuned(pretrained, self.plan.classes, augmentation, self.job.frozen, self.job.seed)

    def facts(self) -> dict[str, Any]:
        p, target = self.plan, self.target
        return {
            **self.identity(),
            "benchmark": self.packed.manifest["benchmark"],
            "skeleton": self.packed.manifest["skeleton"],
            "recipe": target.facts.get("recipe", ""),
            "pretrain_supervision": target.facts.get("supervision", "unknown"),
            "provenance": target.facts.get("provenance", ""),
            "supervision": "labels",
            "train": p.train,
            "labelled": p.labelled,
            "test": p.test,
            "batch_size": p.batch_size,
            "steps": p.steps,
            "steps_per_epoch": p.steps_per_epoch,
            **environment.facts(),
        }

    def identity(self) -> dict[str, Any]:
        """Which experiment this is, for config.json, the scores and the result."""
        job, target = self.job, self.target
        return {
            "data": str(self.packed.path.resolve()),
            "content_id": self.packed.content_id,
            "protocol": job.protocol,
            "stream": self.stream,
            "from_encoder_sha256": start_of(job, self.stream),
            "fraction": job.fraction,
            "draw": job.draw,
            "seed": job.seed,
            "pretrain_seed": target.seed,
            "frozen": job.frozen,
            "scratch": job.scratch,
            "transfer": target.transfer,
            "transductive": target.transductive,
        }

    def schedule(self) -> Schedule:
        return Schedule(self.plan.steps, self.job.lr, 0, self.job.drops)

    def train(
        self,
        engine: deepspeed.DeepSpeedEngine,
        method: Method,
        start: checkpoint.Start,
        records: journal.Journal,
        interrupted: Interrupted,
    ) -> Outcome:
        p, ranks = self.plan, self.ranks
        assert isinstance(method, FineTuned)

        def evaluate(step: int) -> bool:
            if step < p.steps:  # the last epoch is the result: `finish` looks at it
                records.write("eval", step=step, metrics={"test_top1": self.top1(self.scores(method))})
            return False

        cadence = self.cadence()
        if deepspeed.on_first(ranks, lambda: cadence.evaluates(start.step, p.steps) and start.step not in self.evaluations()):
            evaluate(start.step)
        return self.loop(engine, self.batches(start.step), start, records, interrupted, evaluate)

    def batches(self, first: int) -> Iterator[Batch]:
        """This rank's rows of the labelled samples, from step `first` on."""
        job, ranks = self.job, self.ranks
        where = (job.seed, first, self.plan.steps, ranks.rank, ranks.world, job.workers, ranks.device)
        return batches(self.packed, self.labelled, self.batch_size, *where, labels=True)

    def scores(self, method: FineTuned) -> list[Tensor]:
        """Logits [b,N] of the test part, block by block, on rank 0; every rank computes its share, and every clip goes through once."""
        self.beat.phase = "evaluate"
        return list(features.shared_out(method.logits, self.packed, self.division.test, self.ranks))

    def top1(self, scores: list[Tensor]) -> float | None:
        """Accuracy in percent, on rank 0."""
        return 100 * probes.top_k(torch.cat(scores), self.division.test_labels) if self.ranks.rank == 0 else None

    def finish(self, method: Method, attempt: int, outcome: Outcome) -> dict[str, Any]:
        assert isinstance(method, FineTuned)
        scores = self.scores(method) if outcome.status == "finished" else []
        return deepspeed.on_first(self.ranks, lambda: self.written(method, attempt, outcome, scores))

    def written(self, method: FineTuned, attempt: int, outcome: Outcome, scores: list[Tensor]) -> dict[str, Any]:
        """At the schedule's end the scores, the encoder and its classifier, then result.json; what it says."""
        result: dict[str, Any] = {"status": outcome.status, "step": outcome.step, **self.identity()}
        if outcome.status != "finished" or superseded(self.folder, attempt):
            return result
        d, said = self.division, self.identity()
        rows = torch.cat(scores)
        steps = [record for record in journal.read(self.folder.path) if record["type"] == "step"]
        with writing(self.folder.path):
            # without the set's folder: equal encoders are equal files
            facts = {name: str(value) for name, value in said.items() if name != "data"} | {"supervision": "labels"}
            weights.save_encoder(self.folder.encoder, self.network, self.target.config, self.target.skeleton, facts)
            encoder = sha256_of(self.folder.encoder)
            head = {**classifier.set_facts(self.packed.manifest), "protocol": self.job.protocol, "stream": self.stream}
            head |= {"encoder": encoder, "schedule": "finetune"}
            tuned = method.classifier
            classifier.save(self.folder.path / "classifier.safetensors", Classifier(tuned.weight, tuned.bias, d.classes, head))
            write_scores(
                self.folder.path / "scores.npz",
                Scores(d.test, rows, d.test_labels, d.test_subjects, d.classes, {**said, "encoder": encoder}),
            )
            result |= self.numbers(rows) | {
                "steps": outcome.step,
                "loss": statistics.fmean(record["loss"] for record in steps[-self.plan.steps_per_epoch :]),
                "seconds": round(sum(record["step_ms"] for record in steps) / 1e3, 3),
                "attempts": attempt,
                "encoder_sha256": encoder,
            }
            write_json(self.folder.result, result)
        return result

    def numbers(self, rows: Tensor) -> dict[str, Any]:
        """What the test part's logits [n,N] come to."""
        d, p = self.division, self.plan
        right = probes.hits(rows, d.test_labels)
        known = len(set(d.test_subjects.tolist())) > 1
        top1 = 100 * float(right.double().mean())
        looks = [metrics["test_top1"] for metrics in self.evaluations().values()]
        return {
            "top1": top1,
            "top5": 100 * probes.top_k(rows, d.test_labels, 5),
            "interval": percent(right, d.test_subjects if known else None, self.job.seed),
            "interval_over": "subjects" if known else "samples",
            "best_on_test": max([top1, *looks]) if self.job.evaluate_every else None,
            "n": len(d.test),
            "train": p.train,
            "labelled": p.labelled,
            "classes": p.classes,
            "unlabelled_classes": p.unlabelled_classes,
            "epochs": p.epochs,
            "batch_size": p.batch_size,
            "benchmark": self.packed.manifest["benchmark"],
            "recipe": self.target.facts.get("recipe", ""),
        }
