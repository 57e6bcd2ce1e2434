"""Signals that ask a job to leave: they set a flag and nothing else, also before training, and never end a worker process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import interrupts
from shards.workers import each

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def process_listens() -> Iterator[None]:
    """As in a task of a scheduler: the process listens from its start; undone at the end."""
    numbers = (signal.SIGTERM, interrupts.preemption(), signal.SIGCONT)
    before = {number: signal.getsignal(number) for number in numbers}
    interrupts.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupts._asked.clear()
    interrupts._listening = False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_inside_a_signal_sets_the_flag_and_outside_all_is_as_before(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGCONT)]
    with interrupts.listening() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGCONT)
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked() and interrupts.asked()
    assert not interrupts.asked()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGCONT)] == before


def test_a_signal_before_training_counts_where_the_process_listens(process_listens: None) -> None:
    assert not interrupts.asked()
    os.kill(os.getpid(), signal.SIGUSR2)
    with interrupts.listening() as asked:
        assert asked()
    assert interrupts.asked()
    os.kill(os.getpid(), signal.SIGTERM)  # a second one does no harm


def test_the_signal_is_the_one_that_submitit_was_told_and_never_usr1(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("USR2", "SIGUSR2"), ("SIGHUP", "SIGHUP"), ("USR1", "SIGUSR2"), ("NONSENSE", "SIGUSR2")):
        monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", name)
        assert interrupts.preemption().name == number


def test_in_a_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def inside() -> None:
        with interrupts.listening() as asked:
            seen.extend([asked(), signal.getsignal(signal.SIGTERM) is before])

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [False, True]


def slow(i: int) -> int:
    time.sleep(0.3)
    return os.getpid()


def test_workers_ignore_what_their_parent_was_asked(process_listens: None) -> None:
    """Signals to the whole process group end no worker, and closing the iterator still does."""
    pieces = each(slow, 6, 2)
    pids = {next(pieces)[1], next(pieces)[1]}
    for pid in pids:
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            os.kill(pid, number)
    assert {next(pieces)[1], next(pieces)[1]} <= pids
    pieces.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_that_forgets_its_iterator_still_ends() -> None:
    words = "import sys, tests.test_interrupts as t; kept = t.each(t.slow, 50, 2); next(kept); sys.exit(3)"
    ended = subprocess.run([sys.executable, "-c", words], cwd=ROOT, timeout=60)
    assert ended.returncode == 3
