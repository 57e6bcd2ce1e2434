"""Jobs through submitit: on this machine for one node (one process per GPU); its local executor cannot simulate several nodes."""

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import submitit
from submitit.core.utils import UncompletedJobError

from launch.pool import KEEP_MEMORY, own_code
from launch.task import run

A_MONTH = 60 * 24 * 30  # minutes; submitit's local default would end every job after two


@dataclass
class LocalJob:
    """One stream as a submitit job on this machine. Has the same calls as launch.pool.Ranks."""

    stream: str
    job: "submitit.Job[Any]"
    controller: "subprocess.Popen[bytes]"

    @classmethod
    def start(cls, job: Path, stream: str, logs: Path, gpus: int, threads: int, stage: str = "pretrain") -> "LocalJob":
        """Submit to submitit's local executor; its logs and results go below the stream's log folder."""
        executor = submitit.LocalExecutor(folder=logs / "submitit" / "%j")
        executor.update_parameters(timeout_min=A_MONTH, tasks_per_node=max(1, gpus), gpus_per_node=gpus, stderr_to_stdout=True)
        before = os.environ.copy()
        os.environ.update(KEEP_MEMORY, **own_code(), OMP_NUM_THREADS=str(threads))
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is passed on once, by the launcher
        try:
            submitted = executor.submit(run, str(job), stream, stage)
        finally:
            signal.signal(signal.SIGINT, handler)
            os.environ.clear()
            os.environ.update(before)
        controller = cast("submitit.LocalJob[int]", submitted)._process  # submitit's handle of what it started; there is no public one
        assert controller is not None
        return cls(stream, submitted, controller)

    def poll(self) -> int | None:
        """None while it runs; then 0, or the code of what went wrong."""
        if self.controller.poll() is None:
            return None
        try:
            return next((code for code in self.job.results() if code), 0)
        except UncompletedJobError:  # the task left no result or an exception; its log says which
            return 1

    def interrupt(self) -> None:
        """Ask the tasks to save at the next step and leave: the controller passes SIGTERM on and waits for them."""
        if self.controller.poll() is None:
            self.controller.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the tasks now, and the controller."""
        if self.controller.poll() is None:
            for process in [*psutil.Process(self.controller.pid).children(recursive=True), self.controller]:
                process.kill()
            self.controller.wait()

    def log(self) -> Path:
        """The log to read first."""
        return Path(self.job.paths.stdout)
