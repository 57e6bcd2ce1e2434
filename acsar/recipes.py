"""Recipes: a method's variant and size with the schedule it was published (or tuned) with, by name."""

from dataclasses import dataclass

from acsar.ac_sar import ACSAR, ACSARConfig
from acsar.scdnet import SCDNet, SCDNetConfig
from acsar.skeleton import SKELETONS
from acsar.types import Method


@dataclass(frozen=True)
class Recipe:
    """How to pretrain.

    method        which method (by the type of its configuration) and its size
    batch_size    samples of the global batch
    epochs,steps  length of the schedule; exactly one is given
    drop_at       share of the schedule after which the learning rate is a tenth
    warmup        steps over which the learning rate rises to lr
    """

    method: SCDNetConfig
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    epochs: int | None = None
    steps: int | None = None
    drop_at: float = 350 / 450
    warmup: int = 0
    description: str = ""


@dataclass(frozen=True)
class Benchmark:
    """What AC-SAR sets per data set (its section 5.1): queue length, and batch, rate and decay of the linear probe."""

    queue: int
    probe_batch: int
    probe_lr: float
    probe_weight_decay: float


RECIPES = {
    "acsar": Recipe(
        ACSARConfig(), batch_size=64, lr=0.01, epochs=450, description="AC-SAR as published: one trunk, captions modulated by the skeleton"
    ),
    "acsar-small": Recipe(
        ACSARConfig(c1=8, width=128, heads=4, out=64, queue=256),
        batch_size=32,
        lr=0.01,
        steps=200,
        description="AC-SAR with smaller numbers, for a laptop",
    ),
    "scdnet": Recipe(SCDNetConfig(), batch_size=64, lr=0.01, epochs=450, description="SCD-Net as published: two trunks, no captions"),
    "scdnet-small": Recipe(
        SCDNetConfig(c1=8, width=128, heads=4, out=64, queue=256),
        batch_size=32,
        lr=0.01,
        steps=200,
        description="SCD-Net with smaller numbers, for a laptop",
    ),
    "demo": Recipe(
        ACSARConfig(c1=8, width=128, heads=4, out=64, queue=128, ema=0.99, tau_cross=0.3, weight=8.0),
        batch_size=32,
        lr=0.004,
        steps=150,
        warmup=10,
        description="AC-SAR small enough to watch it learn on the synthetic set",
    ),
}

BENCHMARKS = {
    "ntu60": Benchmark(queue=8192, probe_batch=1024, probe_lr=2.0, probe_weight_decay=0.0),
    "ntu120": Benchmark(queue=8192, probe_batch=1024, probe_lr=2.0, probe_weight_decay=0.0),
    "pku1": Benchmark(queue=8192, probe_batch=1024, probe_lr=2.0, probe_weight_decay=0.0),
    "pku2": Benchmark(queue=2048, probe_batch=256, probe_lr=0.032, probe_weight_decay=1e-3),
}


def build(recipe: str | SCDNetConfig, skeleton: str = "ntu25", text_shape: tuple[int, int] = (77, 512), seed: int = 0) -> Method:
    """The method of a recipe, or of a configuration, with fresh weights that are a function of `seed` alone.

    text_shape = (tokens L, features D) of the captions. Raises ValueError that lists the recipes or skeletons there are."""
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise ValueError(f"no recipe is called {recipe!r}; recipes: {', '.join(RECIPES)}")
    if skeleton not in SKELETONS:
        raise ValueError(f"no skeleton is called {skeleton!r}; skeletons: {', '.join(SKELETONS)}")
    config = RECIPES[recipe].method if isinstance(recipe, str) else recipe
    if isinstance(config, ACSARConfig):
        return ACSAR(config, SKELETONS[skeleton], text_shape, seed)
    return SCDNet(config, SKELETONS[skeleton], seed)
