"""The only door to DeepSpeed: joining the ranks, wrapping a method in its engine, saving and loading its files.

One engine for every rank count, also for one rank on a CPU.
"""

import contextlib
import hashlib
import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from acsar.types import Batch, Method
from shards.errors import InputError

DeepSpeedEngine = Any  # DeepSpeed has no types
Result = TypeVar("Result")
UNWRITTEN = ("inline_container", "write()", "iostream error")  # how torch's writers say that the disk took nothing


@dataclass(frozen=True)
class Ranks:
    """Who this process is among the ranks, and what it computes on."""

    rank: int
    world: int
    device: torch.device
    backend: str
    note: str  # how the ranks talk, in one line


@contextlib.contextmanager
def group() -> Iterator[Ranks]:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe (alone without them); leave it
    at the end. A group that exists already is used and kept. For work that ranks share out among them: nothing is trained in it.

    NCCL when every rank has a GPU of its own, else gloo."""
    index = _device_index()
    device = torch.device("cpu") if index is None else torch.device("cuda", index)
    mine = not dist.is_initialized()
    backend = _init_group(device) if mine else str(dist.get_backend())
    rank, world = dist.get_rank(), dist.get_world_size()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        yield Ranks(rank, world, device, backend, _note(world, device, backend))
    finally:
        if mine and dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def join() -> Iterator[Ranks]:
    """As `group`, with DeepSpeed: for training."""
    before = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "DS_ACCELERATOR")}
    index, mine = _device_index(), not dist.is_initialized()
    if index is None:
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        with group() as ranks:
            # DeepSpeed takes its device from LOCAL_RANK, which a launcher may have narrowed to one visible GPU
            os.environ.update(RANK=str(ranks.rank), WORLD_SIZE=str(ranks.world), LOCAL_RANK=str(index or 0))
            try:
                _init_deepspeed(ranks.backend)
                yield ranks
            finally:
                if mine:
                    _leave()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def on_first(ranks: Ranks, action: Callable[[], Result]) -> Result:
    """What `action` returns on rank 0, on every rank; an InputError of it is raised on every rank."""
    outcome: list[Any] = [None, None]
    if ranks.rank == 0:
        try:
            outcome[0] = action()
        except InputError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: Result = outcome[0]
    return result


def on_all(ranks: Ranks, action: Callable[[], Result]) -> Result:
    """What `action` returns on this rank; an InputError on any rank is raised on every rank, and says on which host it came about."""
    result, told = None, None
    try:
        result = action()
    except InputError as error:
        told = f"{error} (so it is on {socket.gethostname()})" if ranks.world > 1 else str(error)
    gathered: list[Any] = [None] * ranks.world
    dist.all_gather_object(gathered, told)
    for found in gathered:
        if found is not None:
            raise InputError(found)
    return cast(Result, result)


class Forward(nn.Module):
    """A method's forward pass with the step's dropout seed and precision; no generator outside it changes."""

    def __init__(self, method: Method, device: torch.device, bf16: bool) -> None:
        super().__init__()
        self.method, self.device, self.bf16 = method, device, bf16

    def forward(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cuda), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            torch.default_generator.manual_seed(seed)
            if cuda:
                torch.cuda.manual_seed(seed)
            losses: dict[str, Tensor] = self.method(batch)
        return losses


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """The seed of one rank's dropout in one step."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}:{rank}".encode()).digest()[:8], "big") >> 1


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast: bf16 when asked for, or with "auto" on CUDA devices that have it."""
    if precision != "auto":
        return precision == "bf16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def wrap(method: Method, ranks: Ranks, batch_size: int, momentum: float, weight_decay: float, zero: int, bf16: bool) -> DeepSpeedEngine:
    """DeepSpeed's engine around the method with SGD on the parameters that take gradients; the learning rate is set at each step.

    The parameters stay fp32; a rank's share of the batch is one micro-batch."""
    method.to(ranks.device)
    parameters = [p for p in method.parameters() if p.requires_grad]
    engine, *_ = _deepspeed().initialize(
        model=Forward(method, ranks.device, bf16),
        model_parameters=parameters,
        optimizer=torch.optim.SGD(parameters, lr=0.0, momentum=momentum, weight_decay=weight_decay),
        config={
            "train_batch_size": batch_size,
            "train_micro_batch_size_per_gpu": batch_size // ranks.world,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,  # its own default is 1.0, which no published run of this field has
            "zero_optimization": {"stage": zero},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        },
    )
    return engine


def set_lr(engine: DeepSpeedEngine, lr: float) -> None:
    """Set the learning rate of the next step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def get_lr(engine: DeepSpeedEngine) -> float:
    """The learning rate that the optimiser holds."""
    return float(engine.optimizer.param_groups[0]["lr"])


def save(engine: DeepSpeedEngine, folder: Path) -> list[Path]:
    """Write the engine's state into the new `folder`, on all ranks together; returns the files that this rank wrote.

    Nothing here is crash-safe by itself: jobs/checkpoint.py makes it so. Raises OSError where this rank cannot write, and only after
    all ranks have left DeepSpeed's exchanges."""
    with _errors_last(engine):
        engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
    shards = sorted(folder.glob("*zero_pp_rank_*"))
    own = [path for path in shards if f"zero_pp_rank_{engine.global_rank}_" in path.name]
    if engine.global_rank == 0:
        own += sorted(path for path in folder.iterdir() if path not in shards)
    return own


@contextlib.contextmanager
def _errors_last(engine: DeepSpeedEngine) -> Iterator[None]:
    """Inside, what the engine's writing raises is kept, and raised at the end: the other ranks wait in a barrier for this one."""
    errors: list[Exception] = []

    def careful(write: Callable[..., Any]) -> Callable[..., None]:
        def call(*arguments: Any, **named: Any) -> None:
            try:
                write(*arguments, **named)
            except Exception as error:
                told = str(error).partition("\n")[0]
                unwritten = isinstance(error, RuntimeError) and any(word in told for word in UNWRITTEN)
                errors.append(OSError(told) if unwritten else error)

        return call

    writer = engine.checkpoint_engine
    writer.save, engine._copy_recovery_script = careful(writer.save), careful(engine._copy_recovery_script)
    try:
        yield
    finally:
        del writer.save, engine._copy_recovery_script  # the classes' own are seen again
    if errors:
        raise errors[0]


def state_bytes(engine: DeepSpeedEngine) -> int:
    """What a checkpoint takes at least: parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in engine.module.state_dict().values())


def load(engine: DeepSpeedEngine, folder: Path) -> None:
    """Load what `save` wrote, on all ranks together."""
    path, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    if path is None:
        raise RuntimeError(f"DeepSpeed loaded nothing from {folder}")


def _deepspeed() -> Any:
    # imported late: it takes time, and reads DS_ACCELERATOR
    with _absent("mlflow"):
        return importlib.import_module("deepspeed")


@contextlib.contextmanager
def _absent(name: str) -> Iterator[None]:
    """`import NAME` fails inside, unless it was imported before: DeepSpeed's autotuner, which nothing here uses, takes MLflow where it is
    installed, and with it pandas, polars and a web server: two CPU seconds of every rank's start."""
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's own way to say "not there"
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


def _device_index() -> int | None:
    """The GPU of this process, counted among the visible ones; None without any."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return int(os.environ.get("LOCAL_RANK", "0")) % count if count else None


def _init_group(device: torch.device) -> str:
    if "WORLD_SIZE" not in os.environ:
        store, rank, world = dist.HashStore(), 0, 1  # type: ignore[attr-defined]  # alone: no port that could be taken
    else:
        store, rank, world = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    identity = "cpu" if device.type == "cpu" else f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}"
    store.set(f"device/{rank}", identity)
    devices = [store.get(f"device/{r}").decode() for r in range(world)]
    own_gpus = "cpu" not in devices and len(set(devices)) == world
    backend = "nccl" if own_gpus else "gloo"
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=rank, world_size=world)  # type: ignore[attr-defined]
    return backend


def _init_deepspeed(backend: str) -> None:
    deepspeed = _deepspeed()
    # a shared-memory operator for inference, compiled for a minute at first use; training needs none of it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for handler in logging.getLogger("DeepSpeed").handlers:
        if type(handler) is logging.StreamHandler:
            handler.stream = sys.__stderr__
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def _leave() -> None:
    comm: Any = importlib.import_module("deepspeed.comm.comm")
    comm.destroy_process_group()
    comm.cdb = None  # else the next group in this process would talk through the one that is gone


def _note(world: int, device: torch.device, backend: str) -> str:
    if device.type == "cpu":
        return f"{world} rank(s) on CPU, {backend}"
    return f"{world} rank(s) on CUDA, {backend}" + (" because ranks share a GPU" if backend == "gloo" else "")
