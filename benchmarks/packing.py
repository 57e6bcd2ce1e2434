"""Packing: samples per second, and the peak memory of packing ten times as many samples.

python -m benchmarks.packing
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.streaming import Invented
from benchmarks.table import Row, show
from jobs.text import HashText
from shards.pack import pack

FEW, MANY, JOBS = 2_000, 20_000, 2
NTU120 = 114_480


def measure() -> list[Row]:
    """Rate and peak memory (parent and the largest worker) for FEW and MANY samples, in processes of their own.

    Clips are invented while packing, so that no source has to lie on the disk; that is part of the time."""
    found = {count: _apart(count) for count in (FEW, MANY)}
    (rate_few, memory_few), (rate_many, memory_many) = found[FEW], found[MANY]
    per_sample = max(0.0, memory_many - memory_few) / (MANY - FEW)
    return [
        Row(f"pack {FEW} samples, {JOBS} processes", rate_few, "samples/s"),
        Row(f"pack {MANY} samples, {JOBS} processes", rate_many, "samples/s", rate_few, rate_many / rate_few),
        Row(f"peak memory of packing {FEW} samples", memory_few, "MiB"),
        Row(f"peak memory of packing {MANY} samples", memory_many, "MiB", memory_few, memory_many / memory_few),
        Row(f"the same, extended to the {NTU120} of NTU RGB+D 120", memory_many + per_sample * (NTU120 - MANY), "MiB"),
    ]


def _apart(count: int) -> tuple[float, float]:
    """(samples per second, MiB) of packing in a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_pack, args=(count, there.send))
    process.start()
    there.close()
    rate, memory = here.recv()
    process.join()
    return float(rate), float(memory)


def _pack(count: int, tell: Callable[[tuple[float, float]], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        pack(Invented(count=count), Path(folder) / "set", features=HashText(), jobs=JOBS)
        seconds = time.perf_counter() - began
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    tell((count / seconds, (own + JOBS * worker) / 1024))


def main() -> None:
    """Print the table."""
    show(measure())


if __name__ == "__main__":
    main()
