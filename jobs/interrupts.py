"""Signals that ask a job to save and leave. They only set a flag; the training loop reads it between steps, on every rank.

Schedulers announce pre-emption and time-out with USR2 (or what SUBMITIT_PREEMPT_SIGNAL names) and end jobs with SIGTERM. USR1 is left
to NCCL. Standard library only, so that a task can listen before anything heavy is imported.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_asked: list[int] = []  # the signals that came; a list, since a lock could be held by the very code that a signal interrupts
_listening = False


def listen() -> None:
    """From now on, until the process ends, SIGTERM and the pre-emption signal set the flag, and SIGCONT does nothing."""
    global _listening
    _listening = True
    _install(signal.SIGTERM, preemption())


def asked() -> bool:
    """Whether a signal has asked this process to save and leave."""
    return bool(_asked)


@contextmanager
def listening() -> Iterator[Callable[[], bool]]:
    """As `listen`, SIGINT too, until the end of the block; yields `asked`. Handlers, and what was asked, are then as before,
    unless the process itself listens: then a signal from before the block counts, and one from inside it stays.

    Outside the main thread no handler can be set, and nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = (signal.SIGTERM, preemption(), signal.SIGINT, signal.SIGCONT)
    before = {number: signal.getsignal(number) for number in numbers}
    _install(*numbers[:3])
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if not _listening:
            _asked.clear()


def preemption() -> signal.Signals:
    """The signal that announces pre-emption and time-out."""
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2").removeprefix("SIG")
    return getattr(signal, f"SIG{name}", signal.SIGUSR2) if name != "USR1" else signal.SIGUSR2


def _install(*numbers: signal.Signals) -> None:
    for number in numbers:
        signal.signal(number, _ask)
    signal.signal(signal.SIGCONT, signal.SIG_IGN)


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
