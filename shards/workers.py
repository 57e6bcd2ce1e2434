"""Many pieces of work on several processes of this machine, in the order in which they finish."""

import atexit
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

Result = TypeVar("Result")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def each(work: Callable[[int], Result], count: int, jobs: int) -> Generator[tuple[int, Result], None, None]:
    """(i, work(i)) for every i < count on `jobs` processes, as they finish; with one job in this process, in order.

    `work` reaches each process once. What it raises is raised here with the process's traceback as a note; a process that dies is a
    RuntimeError. Closing the iterator stops the processes; they stop by themselves when this process dies. Signals that ask a whole job
    to end reach them too: they ignore them, since what happens then is for this process to say."""
    if min(jobs, count) <= 1:
        for i in range(count):
            yield i, work(i)
        return
    # a forked worker shares the caller's lists of keys and captions; elsewhere than on Linux forking is not safe
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting = iter(range(count))
    running: dict[Connection, tuple[Any, int]] = {}
    processes: list[Any] = []

    def stop() -> None:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()

    atexit.register(stop)  # multiprocessing's own would wait for processes that ignore SIGTERM
    try:
        for _ in range(min(jobs, count)):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(work, there, os.getpid()), daemon=True)
            process.start()
            processes.append(process)
            there.close()
            i = next(waiting)
            here.send(i)
            running[here] = (process, i)
        while running:
            for here in wait(list(running)):
                assert isinstance(here, Connection)
                process, i = running.pop(here)
                try:
                    done, value = here.recv()
                except EOFError:
                    process.join()
                    code = process.exitcode
                    raise RuntimeError(f"a worker process ended by itself (exit code {code}; -9 is mostly a lack of memory)") from None
                if not done:
                    raise value
                following = next(waiting, None)
                if following is not None:
                    here.send(following)
                    running[here] = (process, following)
                yield i, value
    finally:
        stop()
        atexit.unregister(stop)


def _serve(work: Callable[[int], object], pipe: Connection, parent: int) -> None:
    """The worker's loop: ends when it is told to, or when its parent is gone."""
    handled = {number for number in signal.valid_signals() if callable(signal.getsignal(number))}  # by the parent, before the fork
    for number in {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2} | handled:
        signal.signal(number, signal.SIG_IGN)
    while True:
        while not pipe.poll(1.0):
            if os.getppid() != parent:
                return
        try:
            answer: tuple[bool, object] = (True, work(pipe.recv()))
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = (False, error)
        try:
            pipe.send(answer)
        except (BrokenPipeError, EOFError):
            return
