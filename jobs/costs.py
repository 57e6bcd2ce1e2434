"""What one training step costs by its own code: arithmetic and memory traffic of every operation, exchanges between ranks, what is saved.

Nothing is computed: the method runs forwards and backwards on tensors without content, as one of two ranks that do not exist. Times come
from that by a roofline: an operation takes its arithmetic, its traffic or the time to start it, whichever is longest.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import acsar
from acsar.dense import on_cpu, product
from acsar.encoder import FRAMES, PEOPLE
from acsar.scdnet import SCDNetConfig
from acsar.skeleton import SKELETONS
from acsar.types import Batch
from jobs import weights
from jobs.pretrain import Pretrain
from shards.stream import PackedSet

ROWS = (2, 4)  # counted at these; what an operation costs is linear in the rows
OPTIMISER_PASSES = 8  # times that SGD with momentum and the exchange's buffers read or write as much as the parameters hold


@dataclass(frozen=True)
class Rates:
    """How fast a device is for one rank, as far as such steps get to use it."""

    low: float  # FLOP/s in bf16
    full: float  # FLOP/s in fp32
    memory: float  # bytes/s
    start: float  # seconds until an operation has started


@dataclass(frozen=True)
class Costs:
    """One step of a job. An operation is (FLOP, FLOP per row, bytes, bytes per row, whether it is in bf16)."""

    parameters: int  # trained ones
    state_bytes: int  # of a checkpoint: everything that the method holds, and a momentum per parameter
    encoder_bytes: int  # of encoder.safetensors
    operations: tuple[tuple[float, float, float, float, bool], ...]
    exchanges: int  # between ranks in a step, besides that of the gradients
    exchange_bytes: float  # that one rank sends in them

    @property
    def gradient_bytes(self) -> int:
        """What is averaged over the ranks in every step, in fp32."""
        return 4 * self.parameters

    @property
    def flops_per_row(self) -> float:
        """Arithmetic of one more row in a rank's share: forwards, keys, backwards."""
        return sum(per_row for _, per_row, *_ in self.operations)

    def seconds(self, rows: int, rates: Rates) -> float:
        """One step of one rank with `rows` rows, without exchanges."""
        spent = OPTIMISER_PASSES * self.gradient_bytes / rates.memory
        for flop, flop_row, size, size_row, low in self.operations:
            arithmetic = (flop + flop_row * rows) / (rates.low if low else rates.full)
            spent += max(arithmetic, (size + size_row * rows) / rates.memory, rates.start)
        return spent


def count(job: Pretrain, bf16: bool) -> Costs:
    """The costs of one step of the job, with or without bf16 autocast. Takes seconds at any size; no process group may be there."""
    packed = PackedSet.open(job.data)
    return _count(job.method, packed.manifest["skeleton"], packed.text_shape or (77, 512), bf16)


@functools.cache
def _count(config: SCDNetConfig, skeleton: str, text_shape: tuple[int, int], bf16: bool) -> Costs:
    with torch.device("meta"):
        method = acsar.build(config, skeleton, text_shape).train()
    state = sum(_bytes(tensor) for tensor in method.state_dict().values())
    encoder = sum(_bytes(tensor) for tensor in weights.query(method).state_dict().values())
    trained = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    counts = []
    with two_ranks(), FakeTensorMode(allow_non_fake_inputs=True), plain_products():
        method.to_empty(device="cpu")
        for rows in ROWS:
            with _Counter() as counter, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                losses = method(_batch(rows, SKELETONS[skeleton].size, text_shape))
                torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            method.zero_grad()  # a gradient that is there would be added to, with an operation more
            counts.append(counter)
    few, more = counts
    assert len(few.operations) == len(more.operations), "operations must not depend on the number of rows"
    operations = tuple(_linear(*pair) for pair in zip(few.operations, more.operations))
    return Costs(trained, state + 4 * trained, encoder, operations, more.exchanges, more.exchange_bytes)


def this_cpu(threads: int) -> Rates:
    """What this machine's processor gives to so many threads that have it alone, by a product of matrices and a copy; takes a moment."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        side = 768
        a, b = torch.rand(2, side, side).unbind()
        flops = 2 * side**3 / _best(lambda: product(a, b) if on_cpu(a, b) else a @ b, threads)
        big, copy = torch.rand(2, 1 << 24).unbind()
        memory = 2 * 4 * len(big) / _best(lambda: copy.copy_(big), threads)
    finally:
        torch.set_num_threads(before)
    return Rates(low=flops, full=flops, memory=memory, start=10e-6)


@contextmanager
def two_ranks() -> Iterator[None]:
    """Inside, torch.distributed is the first of two ranks; what it exchanges goes nowhere."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def plain_products() -> Iterator[None]:
    """Inside, methods take the operations that a GPU gets, not those of acsar.dense for CPUs: the same arithmetic in fewer calls."""
    with patch.object(torch.backends.mkldnn, "is_available", lambda: False):
        yield


class _Counter(TorchDispatchMode):
    """Notes FLOP, bytes and precision of every operation that does something, and every exchange."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[float, float, bool]] = []
        self.exchanges, self.exchange_bytes = 0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = list(_tensors((args, kwargs or {})))
        if func.namespace == "c10d":
            self.exchanges += 1
            self.exchange_bytes += max(map(_bytes, read), default=0)
        elif func.namespace != "prim" and not func.is_view:
            packet = func._overloadpacket
            flop = flop_registry[packet](*args, **(kwargs or {}), out_val=out) if packet in flop_registry else 0
            size = sum(map(_bytes, [*read, *_tensors(out)]))
            self.operations.append((flop, size, any(tensor.dtype == torch.bfloat16 for tensor in read)))
        return out


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _linear(few: tuple[float, float, bool], more: tuple[float, float, bool]) -> tuple[float, float, float, float, bool]:
    """The line through an operation's counts at both numbers of rows."""
    low, high = ROWS
    flop, size = ((y - x) / (high - low) for x, y in zip(few[:2], more[:2]))
    return few[0] - low * flop, flop, few[1] - low * size, size, few[2]


def _batch(rows: int, joints: int, text_shape: tuple[int, int]) -> Batch:
    whole = torch.zeros(rows, dtype=torch.int64)
    clips = torch.zeros(rows, 3, FRAMES, joints, PEOPLE)
    return Batch(clips, whole + FRAMES, whole, [str(i) for i in range(rows)], torch.zeros(rows, *text_shape), whole)


def _best(call: Callable[[], object], threads: int, times: int = 5) -> float:
    """The least CPU seconds of a call per thread: what else runs on this machine disturbs them little."""
    spent = []
    for _ in range(times):
        began = time.process_time()
        call()
        spent.append((time.process_time() - began) / threads)
    return min(spent)
