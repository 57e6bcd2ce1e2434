"""MLflow beside a running comparison: journals are forwarded by a process of their own, and training never waits for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.tracking import Forwarder
from launch.data import say


@contextmanager
def tracked(runs: Path, name: str, on: bool) -> Iterator[None]:
    """While inside, RUNS/NAME is synced every few seconds, and once more at the end; says what was forwarded."""
    if not on:
        yield
        return
    forwarder = Forwarder(runs, name)
    forwarder.start()
    try:
        yield
    finally:
        say(f"tracking: {forwarder.stop().line()}")
