"""Ranks of one stream as processes of this machine: simulated nodes that talk over gloo (or NCCL, one GPU each)."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# glibc maps and unmaps every buffer above 32 MiB, and the page faults cost seconds per step; keep the memory instead
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "OMP_WAIT_POLICY": "passive"}
ROOT = Path(__file__).resolve().parents[1]


def own_code() -> dict[str, str]:
    """Environment of a child that runs this checkout's code, whichever checkout is installed and wherever it is started."""
    others = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{others}" if others else str(ROOT), "PYTHONSAFEPATH": "1"}


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_environment(rank: int, world: int, gpus: int, port: int, threads: int) -> dict[str, str]:
    """What a rank needs to know, in the standard names; ranks beyond the GPUs share them."""
    return {
        **os.environ,
        **KEEP_MEMORY,
        **own_code(),
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank % gpus if gpus else rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }


@dataclass
class Ranks:
    """All ranks of one stream. When one fails the others are stopped: nobody waits for the dead."""

    stream: str
    logs: Path
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    files: list[IO[bytes]] = field(default_factory=list)

    @classmethod
    def start(cls, job: Path, stream: str, logs: Path, world: int, gpus: int, threads: int, stage: str = "pretrain") -> "Ranks":
        """Start `world` processes of `python -m jobs.worker JOB STREAM STAGE`; each appends to logs/rank_NNNNN.log."""
        logs.mkdir(parents=True, exist_ok=True)
        ranks = cls(stream, logs)
        port = free_port()
        for rank in range(world):
            file = (logs / f"rank_{rank:05d}.log").open("ab")
            file.write(f"--- started {time.strftime('%Y-%m-%d %H:%M:%S')} ---\n".encode())
            file.flush()
            ranks.files.append(file)
            ranks.processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "jobs.worker", str(job), stream, stage],
                    env=rank_environment(rank, world, gpus, port, threads),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a terminal's Ctrl-C reaches the launcher alone, which passes it on once
                )
            )
        return ranks

    def poll(self) -> int | None:
        """None while it runs; then the worst exit code (a signal's number is negative)."""
        codes = [process.poll() for process in self.processes]
        if any(codes):
            self._stop_rest()
            codes = [process.wait() for process in self.processes]
        if any(code is None for code in codes):
            return None
        for file in self.files:
            file.close()
        return next((code for code in codes if code), 0)

    def interrupt(self) -> None:
        """Ask every rank to save at the next step and leave."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End every rank now."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def log(self) -> Path:
        """The log to read first: of the first rank that failed, else of rank 0."""
        for rank, process in enumerate(self.processes):
            if process.poll():
                return self.logs / f"rank_{rank:05d}.log"
        return self.logs / "rank_00000.log"

    def _stop_rest(self, patience: float = 5.0) -> None:
        """A rank died: the others hang in a collective that will never end, so they get a moment and are then killed."""
        end = time.monotonic() + patience
        while time.monotonic() < end and any(process.poll() is None for process in self.processes):
            time.sleep(0.1)
        self.kill()
