"""What steps of a job took: in earlier runs, by their journals, and in a short measurement on this machine."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import acsar
from acsar.encoder import FRAMES, PEOPLE
from acsar.skeleton import SKELETONS
from acsar.types import Batch
from jobs import environment
from jobs.codec import encode
from jobs.engine import use_bf16
from jobs.journal import read
from jobs.pretrain import STREAMS, Pretrain
from jobs.run_folder import RunFolder, read_json
from shards.errors import InputError
from shards.stream import PackedSet

WARM = 3  # steps at the beginning of an attempt that do not count
ENOUGH = 5  # fewer steps than these say nothing
SAME = ("method", "precision", "zero")  # what a step's cost depends on besides ranks, rows and device


@dataclass(frozen=True)
class Timing:
    """The median step of one attempt, or of a measurement here."""

    world: int
    rows: int  # of each rank
    ms: float
    steps: int  # that the median is of
    date: str  # YYYY-MM-DD, by the clock of the host that wrote it
    device: str = "cpu"  # or the GPU's name
    threads: int = 1  # of each rank


def of_earlier_runs(runs: Path, job: Pretrain) -> list[Timing]:
    """Attempts below RUNS of the same method, precision and ZeRO stage, on whatever device. Waiting for data, evaluations and saves are
    not in it. What cannot be read is passed by."""
    found = []
    for stream in STREAMS:
        for path in sorted(runs.glob(f"*/{stream}/config.json")):
            try:
                found += _attempts(RunFolder(path.parent), job)
            except (InputError, KeyError, ValueError, OSError):
                continue  # a run that is being written, or of another version
    return found


def measure(job: Pretrain, rows: Iterable[int], threads: int, steps: int = 3) -> list[Timing]:
    """Train a few steps of the real method in this process, alone, on this machine's device, with each number of rows.

    threads: of a CPU; this process keeps so many."""
    torch.set_num_threads(threads)
    device = environment.device()
    packed = PackedSet.open(job.data)
    shape, skeleton = packed.text_shape or (77, 512), packed.manifest["skeleton"]
    method = acsar.build(job.method, skeleton, shape, job.seed).train().to(device)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.0, momentum=job.momentum)
    bf16 = use_bf16(job.precision, device)
    found = []
    for count in rows:
        joints = torch.randn(count, 3, FRAMES, SKELETONS[skeleton].size, PEOPLE)
        ids = torch.arange(count)
        batch = Batch(joints, torch.full((count,), FRAMES), ids, [str(i) for i in ids], torch.randn(count, *shape), ids).to(device)
        spent = []
        for _ in range(steps + 1):
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = torch.stack(list(method(batch).values())).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad()
            loss.item()  # the device is done only now
            spent.append(1e3 * (time.perf_counter() - began))
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        found.append(Timing(1, count, median(spent[1:]), steps, time.strftime("%Y-%m-%d"), name, threads))
    return found


def _attempts(folder: RunFolder, job: Pretrain) -> list[Timing]:
    config = read_json(folder.config)["job"]
    if any(_plain(config)[name] != _plain(encode(job))[name] for name in SAME):
        return []
    records = read(folder.path)
    found = []
    for path in sorted(folder.attempts.glob("[0-9]*.json")):
        facts: dict[str, Any] = read_json(path) if path.stat().st_size else {"attempt": 0}  # claimed, and never started
        steps = [r for r in records if r["type"] == "step" and r["attempt"] == facts["attempt"]][WARM:]
        if len(steps) < ENOUGH:
            continue
        spent = median(r["step_ms"] - r["data_wait_ms"] for r in steps)
        day = time.strftime("%Y-%m-%d", time.gmtime(steps[-1]["time"]))
        rows = config["batch_size"] // facts["world"]
        found.append(Timing(facts["world"], rows, spent, len(steps), day, facts["device"], facts["threads"]))
    return found


def _plain(job: dict[str, Any]) -> dict[str, Any]:
    """The job's fields, its method without the stream, which costs nothing."""
    return {**job, "method": {**job["method"], "stream": None}}
