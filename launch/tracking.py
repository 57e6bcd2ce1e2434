"""MLflow beside a running comparison: journals are forwarded by a process of their own, and training never waits for it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from launch.data import say
from launch.forwarder import OFF, Forwarder
from launch.profiles import Profile

PREPARE = 30.0  # seconds that a submission waits for a tracker


@contextmanager
def tracked(runs: Path, name: str, on: bool, patience: float = 60.0) -> Iterator[None]:
    """While inside, RUNS/NAME is synced every few seconds, and once more at the end, which may take `patience` seconds; says what was
    forwarded."""
    if not on:
        yield
        return
    forwarder = Forwarder(runs, name)
    forwarder.start()
    try:
        yield
    finally:
        say(f"tracking: {forwarder.stop(patience).line()}")


def prepared(runs: Path, name: str, on: bool) -> AbstractContextManager[None]:
    """After it MLflow has its database, the experiment and the run of RUNS/NAME (whose job.json is written), made by one process before
    jobs start; it works while the block does. A tracker that is down is a line: jobs then make what is missing, once."""
    return tracked(runs, name, on, PREPARE)


def untracked(profile: Profile) -> Profile:
    """The profile of jobs that forward nothing."""
    return replace(profile, environment={**profile.environment, OFF: "0"})
