"""Run a comparison's streams, as many side by side as fit, under one display; Ctrl-C leaves every stream resumable."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from jobs import InputError
from launch.cluster import Place, Running
from launch.progress import Display

PATIENCE = 120.0  # seconds for a stream to save after Ctrl-C
POLL = 0.5


def run_streams(place: Place, job: Path, run: Path, streams: tuple[str, ...], steps: int, stage: str = "pretrain") -> None:
    """Train `streams` of the job file into RUN/STREAM.

    Raises InputError quoting the log when a stream ended with code 2, RuntimeError when it failed otherwise,
    KeyboardInterrupt after all streams have saved and left."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # launch/cancel.py sends it; a shell's background jobs start with it ignored
    waiting, running, ended = list(streams), dict[str, Running](), dict[str, int]()
    with Display(run, streams, steps) as display:
        try:
            while waiting or running:
                while waiting and len(running) < place.at_once:
                    stream = waiting.pop(0)
                    running[stream] = place.start(job, stream, run / stream / "logs", stage)
                time.sleep(POLL)
                for stream, handle in list(running.items()):
                    code = handle.poll()
                    if code is not None:
                        ended[stream] = code
                        del running[stream]
                        if code:
                            failed(stream, code, handle.log())
                display.show(set(running), ended)
        except BaseException as stop:
            # whatever the reason, the other streams get to save what they have
            leave(running, patience=PATIENCE if isinstance(stop, KeyboardInterrupt) else 10.0, say=display.progress.console.print)
            raise


def leave(running: dict[str, Running], patience: float, say: Callable[[str], None]) -> None:
    """Ask all to save and leave; a second Ctrl-C, or running out of patience, ends them at once (the last checkpoint stays)."""
    if not running:
        return
    say(f"saving {', '.join(running)} and leaving (Ctrl-C again: leave at once)")
    for handle in running.values():
        handle.interrupt()
    end = time.monotonic() + patience
    try:
        while any(handle.poll() is None for handle in running.values()) and time.monotonic() < end:
            time.sleep(POLL)
    except KeyboardInterrupt:
        say("leaving at once; the newest complete checkpoint stays")
    for handle in running.values():
        handle.kill()


def failed(stream: str, code: int, log: Path) -> None:
    """Raise what a stream's end means, with its own last words."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    lines = [line for line in lines if line.strip() and not line.startswith("submitit ")]
    words = lines[-1] if lines else "it left no words"
    if code == 2:
        raise InputError(words)
    how = f"was ended by signal {-code}" if code < 0 else f"failed with code {code}"
    raise RuntimeError(f"stream {stream} {how}: {words}; whole log: {log}; the same command continues from the newest checkpoint")
