"""Pretraining of one comparison: its dataclass is the flags, what a scheduler pickles, what MLflow records and what tests call."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shards.errors import InputError

if TYPE_CHECKING:
    from acsar.ac_sar import ACSARConfig
    from acsar.scdnet import SCDNetConfig

STREAMS = ("joint", "bone", "motion")
# what may change between two calls of the same run; everything else under the same name is another experiment
MAY_DIFFER = ("data", "runs", "streams", "nodes", "workers", "stop_after", "save_every")


@dataclass(frozen=True)
class Pretrain:
    """Pretrain streams of one method on the training part of one packed set. Call it once per stream, on every rank."""

    data: Path  # packed set
    name: str  # the comparison's name: RUNS/NAME
    method: "SCDNetConfig | ACSARConfig"  # the method's own hyper-parameters; its stream is set by the call
    recipe: str  # where the numbers below come from
    batch_size: int  # global batch, over all ranks
    lr: float  # learning rate after the warm-up
    epochs: int | None = None  # length of the schedule in epochs (floor(samples / batch) steps each)
    steps: int | None = None  # length of the schedule in steps; wins over epochs
    runs: Path = Path("runs")  # folder of all runs
    protocol: str = "split"  # split, xsub, xview or xset: only that training part is ever seen
    streams: tuple[str, ...] = STREAMS  # trained one by one, each a model of its own
    momentum: float = 0.9  # of SGD
    weight_decay: float = 1e-4
    drop_at: float = 350 / 450  # share of the schedule after which the learning rate is a tenth
    warmup: int = 0  # steps of linear warm-up
    seed: int = 0  # of initialisation, order, augmentation and dropout
    nodes: int = 1  # machines, or simulated ones
    zero: Literal[0, 1, 2] = 0  # DeepSpeed ZeRO stage
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto = bf16 autocast on CUDA devices that have it, else fp32
    save_every: int = 500  # steps between checkpoints; the last two are kept
    evaluate_every: int = 10  # epochs between 1-NN evaluations on held-aside training subjects; 0 = never
    stop_after: int | None = None  # end early, resumable, after this many steps of the schedule
    init: str | None = None  # start from the weights of another run (RUNS/NAME or NAME) or of an encoder.safetensors
    aside: int | None = None  # training samples never trained on, for text_reliance; default one batch, at most a tenth; 0 = none
    allow_label_text: bool = False  # pretrain with texts that are a function of the class
    allow_large_queue: bool = False  # permit a queue longer than half the training set
    workers: int = 0  # prefetch threads; they never change the order

    @classmethod
    def of(cls, recipe: str, data: Path, name: str, **changes: Any) -> "Pretrain":
        """The job that a recipe describes, with changed fields. Raises InputError naming the recipes for an unknown one."""
        from acsar.recipes import RECIPES

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
