"""Pretraining of one comparison: its dataclass is the flags, what a scheduler pickles, what MLflow records and what tests call."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import acsar
from acsar.ac_sar import ACSAR, ACSARConfig
from acsar.recipes import BENCHMARKS, RECIPES
from acsar.scdnet import SCDNetConfig
from acsar.types import Method
from jobs import checkpoint, environment, journal, weights
from jobs import engine as deepspeed
from jobs.batches import EqualCaptions, TrainingSet, batches, check_batch, choose, without_text
from jobs.evaluation import Evaluation
from jobs.fit import Fit, fit
from jobs.run_folder import RunFolder, superseded, write_json, writing
from jobs.schedule import Schedule
from jobs.train_loop import Interrupted, Outcome
from shards import protocols
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.repack import caption_base, caption_version
from shards.stream import PackedSet

STREAMS = ("joint", "bone", "motion")


@dataclass(frozen=True)
class Pretrain:
    """Pretrain streams of one method on the training part of one packed set. Call it once per stream, on every rank."""

    data: Path  # packed set
    name: str  # the comparison's name: RUNS/NAME
    method: SCDNetConfig | ACSARConfig  # the method's own hyper-parameters; its stream is set by the call
    recipe: str  # where the numbers below come from
    batch_size: int  # global batch, over all ranks
    lr: float  # learning rate after the warm-up
    epochs: int | None = None  # length of the schedule in epochs (floor(samples / batch) steps each)
    steps: int | None = None  # length of the schedule in steps; wins over epochs
    runs: Path = Path("runs")  # folder of all runs
    protocol: str = "split"  # split, xsub, xview or xset: only that training part is ever seen
    streams: tuple[str, ...] = STREAMS  # trained one by one, each a model of its own
    momentum: float = 0.9  # of SGD
    weight_decay: float = 1e-4  # of SGD, on everything
    drop_at: float = 350 / 450  # share of the schedule after which the learning rate is a tenth
    warmup: int = 0  # steps of linear warm-up
    lr_rule: Literal["", "linear"] = ""  # linear: lr and warm-up were scaled with the batch (--lr auto), which the recipe does not do
    seed: int = 0  # of initialisation, order, augmentation and dropout
    nodes: int = 1  # machines, or simulated ones
    zero: Literal[0, 1, 2] = 0  # DeepSpeed ZeRO stage
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto = bf16 autocast on CUDA devices that have it, else fp32
    save_every: int = 500  # steps between checkpoints; 0 = only where it ends
    keep_last: int = 2  # newest checkpoints that are kept
    keep_every: int = 0  # checkpoints at multiples of this many steps are kept too; 0 = none
    keep_best: bool = False  # make and keep a checkpoint of the best 1-NN evaluation so far
    evaluate_every: int = 10  # epochs between 1-NN evaluations on held-aside training subjects; 0 = never
    stop_after: int | None = None  # end early, resumable, after this many steps of the schedule
    init: str | None = None  # start from the weights of another run (RUNS/NAME or NAME) or of an encoder.safetensors
    aside: int | None = None  # training samples never trained on, for text_reliance; default one batch, at most a tenth; 0 = none
    captions: Literal["first", "each-epoch"] = "first"  # of a sample that has several: the first, or another one each epoch
    allow_label_text: bool = False  # pretrain with texts that are a function of the class
    allow_large_queue: bool = False  # permit a queue longer than half the training set
    workers: int = 0  # prefetch threads; they never change the order

    @classmethod
    def of(cls, recipe: str, data: Path, name: str, **changes: Any) -> "Pretrain":
        """The job that a recipe describes, with changed fields. Raises InputError naming the recipes for an unknown one."""
        if recipe not in RECIPES:
            raise InputError(f"unknown recipe {recipe!r}; one of {', '.join(sorted(RECIPES))}")
        r = RECIPES[recipe]
        job = cls(
            data=data,
            name=name,
            recipe=recipe,
            method=r.method,
            batch_size=r.batch_size,
            lr=r.lr,
            momentum=r.momentum,
            weight_decay=r.weight_decay,
            epochs=r.epochs,
            steps=r.steps,
            drop_at=r.drop_at,
            warmup=r.warmup,
        )
        return replace(job, **changes)

    def __call__(self, stream: str) -> dict[str, Any]:
        """Train one stream to its end, to --stop-after or until a signal, from wherever it stands; every rank calls this.

        Returns {"status": "finished" | "stopped" | "interrupted", "step", ...}: what result.json holds once it is finished. The ranks
        come from RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; without them there is one.
        Raises InputError for what the user can mend."""
        if stream not in STREAMS:
            raise InputError(f"unknown stream {stream!r}; one of {', '.join(STREAMS)}")
        return fit(self, stream, RunFolder(self.runs / self.name / stream), self.data, {}, _Run)


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a job: samples by part, rows per rank, steps."""

    train: int
    aside: int
    held_aside: int
    test: int
    world: int
    rows: int  # of each rank
    steps_per_epoch: int
    steps: int
    drop_step: int  # from which the learning rate is a tenth
    provenance: str  # of the texts that are used; "" = none
    supervision: str  # "none", or "text-from-label" when texts are a function of the class or of the motion program
    without_text: int = 0  # training samples without caption, which the text term leaves out

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch


def plan(job: Pretrain, world: int) -> Plan:
    """What the job will do on `world` ranks. Raises InputError for every setting that does not fit the data or the ranks."""
    return _plan(job, PackedSet.open(job.data), world)[1]


def default_protocol(data: Path) -> str:
    """The first protocol that the packed set can serve: its own split, else cross-subject, cross-view, cross-set-up."""
    packed = PackedSet.open(data)
    served = protocols.served(packed.samples, packed.manifest["benchmark"])
    if not served:
        raise InputError(f"{data} has no split, subjects, cameras or set-ups to divide it by; pack a set that says which samples train")
    return served[0]


def fitted(job: Pretrain) -> Pretrain:
    """The job with what the paper sets per benchmark: the queue's length, unless it was changed or the recipe is a small one."""
    benchmark = BENCHMARKS.get(PackedSet.open(job.data).manifest["benchmark"])
    full_size = job.method.width == SCDNetConfig().width and job.method.queue == RECIPES[job.recipe].method.queue
    if benchmark is None or not full_size:
        return job
    return replace(job, method=replace(job.method, queue=benchmark.queue))


def _plan(job: Pretrain, packed: PackedSet, world: int) -> tuple[TrainingSet, Plan]:
    data = choose(packed, job.protocol, job.seed, job.batch_size if job.aside is None else job.aside)
    check_batch(job.batch_size, len(data.keys), world)
    steps_per_epoch = len(data.keys) // job.batch_size
    steps = job.steps if job.steps is not None else (job.epochs or 0) * steps_per_epoch
    if steps < 1:
        raise InputError("the schedule has no steps; give --steps N or --epochs N")
    if job.method.queue > len(data.keys) / 2 and not job.allow_large_queue:
        raise InputError(
            f"a queue of {job.method.queue} is longer than half of the {len(data.keys)} training samples, so that they would be "
            f"their own negatives; use --method.queue {len(data.keys) // 2} or less, or --allow-large-queue"
        )
    provenance = _provenance(job, packed)
    without_text = _without_text(job, packed, data.keys) if provenance else 0
    return data, Plan(
        train=len(data.keys),
        aside=len(data.aside),
        held_aside=len(data.queries),
        test=data.test_count,
        world=world,
        rows=job.batch_size // world,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        drop_step=round(job.drop_at * steps),
        provenance=provenance,
        supervision="text-from-label" if provenance in ("label", "program") else "none",
        without_text=without_text,
    )


def _provenance(job: Pretrain, packed: PackedSet) -> str:
    """Where the texts that the method uses come from; "" when it uses none."""
    if not isinstance(job.method, ACSARConfig):
        return ""
    text = packed.manifest["text"]
    if text is None:
        raise InputError(
            f"{job.data} has no texts, which recipe {job.recipe} needs; pack again with --captions FILE (and --text DIR for features), "
            "or use recipe scdnet"
        )
    if text["provenance"] == "label" and not job.allow_label_text:
        raise InputError(
            f"the texts of {job.data} are a function of the class: pretraining with them is supervised by labels; "
            "add --allow-label-text to do it anyway (the run is marked), or use recipe scdnet"
        )
    return text["provenance"]


def _without_text(job: Pretrain, packed: PackedSet, keys: list[str]) -> int:
    """How many of the training samples have no caption. Raises InputError when --captions asks for what the samples do not have."""
    records = [packed.samples[packed.index[key]] for key in keys]
    lacking = sum(record.text_id is None for record in records)
    if lacking == len(records):
        raise InputError(f"none of the {lacking} training samples of {job.data} has a caption; pack again with captions of them")
    if job.captions == "each-epoch" and not any(record.more for record in records):
        raise InputError(f"--captions each-epoch: no training sample of {job.data} has several captions; use --captions first")
    return lacking


@dataclass
class _Run(Fit):
    """One stream on this rank, from its start to its outcome."""

    job: Pretrain
    plan: Plan = field(init=False)
    data: TrainingSet = field(init=False)
    best: float = field(default=-1.0, init=False)  # of the evaluations so far, in percent

    def prepare(self) -> None:
        self.data, self.plan = _plan(self.job, self.packed, self.ranks.world)

    def method(self) -> Method:
        """The method of this stream, built from the seed, with --init's weights."""
        config = weights.with_stream(self.job.method, self.stream)
        try:
            method = acsar.build(config, self.packed.manifest["skeleton"], self.packed.text_shape or (77, 512), self.job.seed)
        except ValueError as error:
            raise InputError(f"recipe {self.job.recipe} with these --method settings cannot be built: {error}") from error
        if self.job.init is not None:
            weights.load_into(method, weights.find(self.job.init, self.job.runs, self.stream))
        return method

    def facts(self) -> dict[str, Any]:
        p = self.plan
        return {
            "content_id": self.packed.content_id,
            "protocol": self.job.protocol,
            "benchmark": self.packed.manifest["benchmark"],
            "skeleton": self.packed.manifest["skeleton"],
            "provenance": p.provenance,
            **({"caption_version": caption_version(self.packed), "caption_base": caption_base(self.packed)} if p.provenance else {}),
            "supervision": p.supervision,
            "without_text": p.without_text,
            "train": p.train,
            "aside": p.aside,
            "held_aside": p.held_aside,
            "test": p.test,
            "steps": p.steps,
            "steps_per_epoch": p.steps_per_epoch,
            **environment.facts(),
        }

    def schedule(self) -> Schedule:
        return Schedule(self.plan.steps, self.job.lr, self.job.warmup, (self.job.drop_at,))

    def train(
        self,
        engine: deepspeed.DeepSpeedEngine,
        method: Method,
        start: checkpoint.Start,
        records: journal.Journal,
        interrupted: Interrupted,
    ) -> Outcome:
        job, p, ranks = self.job, self.plan, self.ranks
        packed = self.packed if method.needs_text else without_text(self.packed)
        evaluation = Evaluation(method, packed, self.data, job.seed, ranks.device)
        equal = EqualCaptions(self.packed.samples, self.data.keys, job.batch_size, job.seed, job.captions)
        where = (job.seed, start.step, p.steps, ranks.rank, ranks.world, job.workers, ranks.device)

        def evaluate(step: int) -> bool:
            self.beat.phase = "evaluate"
            # the other ranks wait for rank 0 in the next exchange
            best = ranks.rank == 0 and self.evaluate(evaluation, step, records)
            return deepspeed.on_first(ranks, lambda: best) if job.keep_best else False

        if deepspeed.on_first(ranks, lambda: self.catches_up(start.step)):
            evaluate(start.step)
        return self.loop(
            engine,
            batches(packed, self.data.keys, job.batch_size, *where, captions=job.captions),
            start,
            records,
            interrupted,
            evaluate,
            equal_captions=lambda step: equal(step) if method.needs_text and ranks.rank == 0 else None,
        )

    def evaluate(self, evaluation: Evaluation, step: int, records: journal.Journal) -> bool:
        """Evaluate, say so in the journal, and tell whether this is the best step so far."""
        metrics = evaluation()
        records.write("eval", step=step, metrics=metrics)
        return self.judge(step, metrics)

    def judge(self, step: int, metrics: dict[str, float | None]) -> bool:
        """Whether this step is better than all before; the best one's checkpoint is kept."""
        accuracy = metrics.get("held_aside_knn1") if self.job.keep_best else None
        if accuracy is None or accuracy <= self.best:
            return False
        self.best, self.keep.best = accuracy, step
        return True

    def catches_up(self, step: int) -> bool:
        """Whether the evaluation that is due after the start's step is missing: an attempt that was asked to leave skips it.

        Also recalls which of the earlier evaluations was the best."""
        cadence = self.cadence()
        if not step or not (self.job.keep_best or cadence.evaluates(step, self.plan.steps)):
            return False
        evaluated = self.evaluations()
        for then, metrics in evaluated.items():
            self.judge(then, metrics)
        return cadence.evaluates(step, self.plan.steps) and step not in evaluated

    def finish(self, method: Method, attempt: int, outcome: Outcome) -> dict[str, Any]:
        return deepspeed.on_first(self.ranks, lambda: self.written(method, attempt, outcome))

    def written(self, method: Method, attempt: int, outcome: Outcome) -> dict[str, Any]:
        """At the schedule's end the encoder, then result.json; what it says, without them where the end is still to come."""
        result: dict[str, Any] = {"status": outcome.status, "step": outcome.step, "stream": self.stream}
        if outcome.status != "finished" or superseded(self.folder, attempt):
            return result
        facts = {"recipe": self.job.recipe, "content_id": self.packed.content_id, "step": str(outcome.step)}
        config = weights.with_stream(self.job.method, self.stream)
        steps = [record for record in journal.read(self.folder.path) if record["type"] == "step"]
        epoch = steps[-self.plan.steps_per_epoch :]
        with writing(self.folder.path):
            weights.save_encoder(self.folder.encoder, method, config, self.packed.manifest["skeleton"], facts)
            if isinstance(method, ACSAR):
                weights.save_text(self.folder.text, method, facts)
            result |= {
                "steps": outcome.step,
                "loss": sum(record["loss"] for record in epoch) / len(epoch),
                "seconds": round(sum(record["step_ms"] for record in steps) / 1e3, 3),
                "attempts": attempt,
                "encoder_sha256": sha256_of(self.folder.encoder),
            }
            write_json(self.folder.result, result)
        return result
