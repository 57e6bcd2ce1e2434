"""Ranks that start warm: a server that has imported torch and DeepSpeed once forks them, each with the library of faults.c in it."""

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import random
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from shards.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
LEAVES_BY_ITSELF = 60.0  # seconds in which a rank ends after another one died


@dataclass(frozen=True)
class Group:
    """The ranks of one run."""

    ranks: list[BaseProcess]

    def wait(self, seconds: float = 300.0, rest: float = 0.0) -> list[int]:
        """Exit codes (a signal's number is negative), once all have ended.

        A rank that still goes on when another one has failed is killed after `rest` seconds, as a launcher would do: one that makes a
        new group with the dead waits long. Without `rest`, or when none has failed, one that goes on too long is an AssertionError."""
        now, first = time.monotonic, 0.0  # when the first one failed
        end = now() + seconds
        while any(rank.exitcode is None for rank in self.ranks):
            multiprocessing.connection.wait([rank.sentinel for rank in self.ranks if rank.exitcode is None], timeout=1.0)
            if not first and any(rank.exitcode for rank in self.ranks):
                first = now()
            late = [i for i, rank in enumerate(self.ranks) if rank.exitcode is None]
            if late and now() > (first + (rest or LEAVES_BY_ITSELF) if first else end):
                self.kill()
                assert first and rest, f"ranks {late} do not end by themselves"
        return [int(rank.exitcode or 0) for rank in self.ranks]

    def stopped(self, rank: int, seconds: float = 60.0) -> None:
        """Wait until a rank has stopped itself."""
        end = time.monotonic() + seconds
        state = Path(f"/proc/{self.ranks[rank].pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < end and self.ranks[rank].exitcode is None, "it does not stop"
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL to those that still live."""
        for rank in self.ranks:
            rank.kill()
            rank.join()


class Nursery:
    """Starts groups of ranks. `folder` gets their logs."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.folder = folder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.faults.scenes"])
        settings = {
            "LD_PRELOAD": str(library),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "DS_ACCELERATOR": "cpu",
        }
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value

    def start(self, scene: str, world: int, *arguments: Any) -> Group:
        """A function of scenes.py, called with (rank, *arguments), on `world` ranks whose environment describes their group."""
        port = free_port()
        ranks: list[BaseProcess] = []
        for rank in range(world):
            process = self.context.Process(target=_rank, args=(scene, rank, world, port, self.folder / f"rank_{rank}.log", arguments))
            process.start()
            ranks.append(process)
        return Group(ranks)

    def run(self, scene: str, world: int, *arguments: Any) -> list[int]:
        """Start and wait; exit codes."""
        return self.start(scene, world, *arguments).wait()

    def said(self) -> str:
        """The end of what the ranks have printed, for a failure's message."""
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("rank_*.log")))


def free_port() -> int:
    """A TCP port that nobody listens on, below those that the kernel gives away by itself."""
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def _rank(scene: str, rank: int, world: int, port: int, log: Path, arguments: tuple[Any, ...]) -> None:
    scenes = sys.modules.get("tests.faults.scenes")  # an import that fails in the server is not heard of there
    assert scenes is not None and os.environ.get("LD_PRELOAD"), "the server did not preload"
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        getattr(scenes, scene)(rank, *arguments)
    except InputError as error:
        print(error)
        sys.exit(2)
