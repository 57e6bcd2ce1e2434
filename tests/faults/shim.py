"""The library of faults.c from Python: building it, arming it inside a process that has it preloaded, reading its log."""

import ctypes
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HARMS = ("count", "before", "after", "torn", "full", "stop")  # as in faults.c
SOURCE = Path(__file__).with_name("faults.c")


@dataclass(frozen=True)
class Fault:
    """Harm to one rank at its operation number `operation` (from 1); "count" does none."""

    rank: int = 0
    harm: str = "count"
    operation: int = 0


@dataclass(frozen=True)
class Operation:
    """One line of the log. `clock` is CLOCK_MONOTONIC in ns, the same for all processes; `to` is a rename's or link's second name."""

    clock: int
    kind: str
    bytes: int
    path: Path
    to: Path | None


def build(folder: Path) -> Path:
    """Compile the library; RuntimeError says why it could not be had."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("no C compiler (cc) on the PATH; install one to run the fault injection: apt-get install gcc libc6-dev")
    library = folder / "faults.so"
    words = [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    ended = subprocess.run(words, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"faults.c does not compile here: {ended.stderr}")
    return library


@contextmanager
def armed(fault: Fault, rank: int, root: Path, log: Path) -> Iterator[None]:
    """While inside, this thread's operations below `root` are counted and logged, and harmed if this is the fault's rank."""
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    book = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    harm = HARMS.index(fault.harm if rank == fault.rank else "count")
    library.faults_arm(os.fsencode(root.resolve()), harm, ctypes.c_long(fault.operation), book)
    try:
        yield
    finally:
        library.faults_disarm()
        os.close(book)


def read_log(log: Path) -> list[Operation]:
    """What was counted, in order."""
    operations = []
    for line in log.read_text().splitlines() if log.exists() else []:
        clock, kind, size, names = line.split(" ", 3)
        path, arrow, to = names.partition(" -> ")
        operations.append(Operation(int(clock), kind, int(size), Path(path), Path(to) if arrow else None))
    return operations


def kinds(operations: list[Operation]) -> str:
    """How many of which kind, in words."""
    return ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(o.kind for o in operations).items()))


def logs(folder: Path, world: int) -> list[list[Operation]]:
    """Each rank's operations."""
    return [read_log(folder / str(rank)) for rank in range(world)]


def faults(operations: list[list[Operation]], thin: bool = False) -> Iterator[tuple[Fault, Operation]]:
    """SIGKILL before and after each rank's every operation, and in the middle of each write.

    thin: of many writes to one file in a row the first, the middle and the last."""
    for rank, own in enumerate(operations):
        for k, operation in enumerate(own):
            if thin and k not in _ends(own, k):
                continue
            for harm in ("before", "after", "torn") if operation.kind == "write" else ("before", "after"):
                yield Fault(rank, harm, k + 1), operation


def _ends(own: list[Operation], k: int) -> tuple[int, int, int]:
    """First, middle and last of the writes to one file around k."""
    first = last = k
    while own[k].kind == "write" and first > 0 and own[first - 1].kind == "write" and own[first - 1].path == own[k].path:
        first -= 1
    while own[k].kind == "write" and last + 1 < len(own) and own[last + 1].kind == "write" and own[last + 1].path == own[k].path:
        last += 1
    return first, (first + last) // 2, last
