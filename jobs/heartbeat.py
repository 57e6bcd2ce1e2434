"""A rank's sign of life: RUNS/NAME/STREAM/heartbeat/RANK.json, rewritten by a thread every two seconds.

    rank, host, pid, tag (of the start of the ranks; "" outside a scheduler), attempt (0 = not claimed yet), step (completed),
    phase     starting, loading, data, compute, exchange (waits for other ranks), evaluate, save, ended
    busy_ms   median time of a step, less the time for which this rank waited in exchanges; null before the first
    count     beats so far: grows while the process lives, whatever the training does
    time      this host's clock, for people to read

The loop only assigns attributes. A beat never stops or slows training: what goes wrong with it is said once, on stderr.
"""

import json
import os
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs import failures

EVERY = 2.0  # seconds
PATIENCE = 5.0  # seconds at the end, for a file system that does not answer
STEP = ("data", "compute")  # phases in which a step is made
EXCHANGES = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce", "reduce_scatter_tensor", "barrier")


class Heartbeat:
    """Beats inside a `with`; without a folder (or outside the `with`) it only holds what it is told."""

    def __init__(self, folder: Path | None = None, rank: int = 0) -> None:
        self.rank, self.attempt, self.step, self.phase = rank, 0, 0, "starting"
        self._folder, self._count, self._said = folder, 0, False
        self._busy, self._waited = deque[float](maxlen=64), 0.0
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._plain: dict[str, Callable[..., Any]] = {}

    def stepped(self, step: int, seconds: float) -> None:
        """A step was completed after so many seconds."""
        self.step = step
        self._busy.append(1e3 * (seconds - self._waited))
        self._waited = 0.0

    def __enter__(self) -> "Heartbeat":
        if self._folder is not None:
            self._time_exchanges()
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.phase = "ended"
        if self._folder is not None:
            self._stop.set()
            self._thread.join(PATIENCE)
            for name, plain in self._plain.items():
                setattr(_distributed(), name, plain)

    def _time_exchanges(self) -> None:
        """Time torch.distributed's calls, wherever they come from: ranks meet many times in a step (synchronised norms, gathers,
        gradients), so the step's length alone is that of the slowest rank on all of them. NCCL's calls return at once: there a
        step counts as busy throughout."""
        for name in EXCHANGES:
            self._plain[name] = getattr(_distributed(), name)
            setattr(_distributed(), name, self._timed(self._plain[name]))

    def _timed(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.phase not in STEP:
                return plain(*arguments, **named)
            phase, self.phase = self.phase, "exchange"
            began = time.perf_counter()
            try:
                return plain(*arguments, **named)
            finally:
                self._waited += time.perf_counter() - began
                self.phase = phase

        return call

    def _beat(self) -> None:
        while True:
            stop = self._stop.is_set()
            try:
                self._write()
            except Exception as error:
                # a full or absent disk is training's to report, where it matters
                if not self._said:
                    print(f"no heartbeat: {type(error).__name__}: {error}", file=sys.stderr)
                self._said = True
            if stop:
                return
            self._stop.wait(EVERY)

    def _write(self) -> None:
        assert self._folder is not None
        self._count += 1
        busy = round(statistics.median(self._busy.copy()), 3) if self._busy else None
        beat = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "tag": failures.tag(),
            "attempt": self.attempt,
            "step": self.step,
            "phase": self.phase,
            "busy_ms": busy,
            "count": self._count,
            "time": round(time.time(), 3),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        # whole or not at all for readers, but not durable: the next one comes in two seconds
        beside = self._folder / f".{self.rank}.{socket.gethostname()}.{os.getpid()}.part"
        beside.write_text(json.dumps(beat) + "\n")
        beside.replace(self._folder / f"{self.rank}.json")


def _distributed() -> Any:
    import torch.distributed  # late: who reads beats needs no torch

    return torch.distributed
