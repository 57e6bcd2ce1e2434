"""The process that forwards journals to MLflow beside running jobs: `python -m launch.forwarder RUNS --name NAME [--stream STREAM]`.

It is told to end through its standard input, so it also ends when whoever started it is gone. Signals pass it by: a scheduler sends
them to every process of a job, and this one has to bring the last steps home. It imports nothing of training.
"""

import argparse
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs.replay import STREAMS, Witness
from jobs.tracking import Comparison, SyncReport, sync
from jobs.tracking_address import VARIABLE, is_server
from launch.presence import by_scheduler, in_its_job

DEAF = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
EVERY = 5.0  # seconds between two syncs
PATIENCE = 5.0  # seconds that the end of a job waits for the last sync; a later one brings the rest
OFF = "ACSAR_TRACK"  # set to 0: jobs forward nothing


class Forwarder:
    """A process of its own that syncs RUNS/NAME every few seconds, and once more at the end.

    `stream`: of the children only this one; `uri`: by default $MLFLOW_TRACKING_URI, else the sqlite file of RUNS."""

    def __init__(self, runs: Path, name: str, uri: str | None = None, every: float = EVERY, stream: str = "") -> None:
        self.runs = runs.resolve()
        self.name = name
        self.stream = stream
        self.every = every
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **({VARIABLE: uri} if uri else {})}
        self.log = self.runs / name / stream / "logs" / "tracking.log"
        self.process: subprocess.Popen[str] | None = None
        self.trouble = ""

    def start(self) -> None:
        """Start watching. What it has to say besides its report goes to logs/tracking.log. Raises nothing: see stop()."""
        # -P: a folder named jobs where the user happens to stand must not be imported
        command = [sys.executable, "-P", "-m", "launch.forwarder", str(self.runs), "--name", self.name, "--every", str(self.every)]
        # blocked from its first instruction on; here they wait for the moment that this takes
        before = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF)
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a") as errors:
                self.process = subprocess.Popen(
                    [*command, "--stream", self.stream],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                    env=self.environment,
                )
        except OSError as error:
            self.trouble = f"the forwarder did not start: {error}"
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self, limit: float = 60.0) -> SyncReport:
        """Last sync, then the end; after `limit` seconds it is left unfinished, for a later `dashboard.py sync`."""
        process, self.process = self.process, None
        if process is None:
            return SyncReport("", problems=[self.trouble] if self.trouble else [])
        try:
            out, _ = process.communicate(input="end\n", timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return SyncReport(
                "", problems=[f"MLflow did not take everything within {limit:.0f} s; `python launch/dashboard.py sync` goes on"]
            )
        last = out.strip().rpartition("\n")[2]
        if process.returncode != 0 or not last:
            return SyncReport("", problems=[f"the forwarder ended with {process.returncode}, see {self.log}"])
        return _report(json.loads(last))

    def __enter__(self) -> "Forwarder":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


@contextmanager
def forwarding(folder: Path) -> Iterator[None]:
    """While inside, a job's own process forwards RUNS/NAME/KEY to an MLflow server: of a stream that child, of another stage everything.

    Does nothing without a server (an sqlite file belongs to the submitting host), on other ranks than 0, and with ACSAR_TRACK=0."""
    if not is_server(os.environ.get(VARIABLE, "")) or os.environ.get("RANK", "0") != "0" or os.environ.get(OFF) == "0":
        yield
        return
    forwarder = Forwarder(folder.parents[1], folder.parent.name, stream=folder.name if folder.name in STREAMS else "")
    forwarder.start()
    try:
        yield
    finally:
        print(f"tracking: {forwarder.stop(PATIENCE).line()}", flush=True)


def watch(runs: Path, name: str, every: float, stream: str, witness: Witness) -> SyncReport:
    """Sync until standard input says something or ends, then once more. At most a tenth of a core, however long the journal gets."""
    points = artifacts = 0
    problems: list[str] = []
    ended = False
    while True:
        ended = ended or bool(select.select([sys.stdin], [], [], 0)[0])
        report = sync(runs, name=name, stream=stream, witness=witness)
        points, artifacts = points + report.points, artifacts + report.artifacts
        if report.problems != problems:
            print(report.line(), file=sys.stderr, flush=True)
        problems = report.problems
        if ended:
            return dataclasses.replace(report, points=points, artifacts=artifacts)
        select.select([sys.stdin], [], [], max(every, 9 * report.seconds))


def _report(document: Mapping[str, Any]) -> SyncReport:
    found = {name: Comparison(**value) for name, value in document["comparisons"].items()}
    return SyncReport(**{**document, "comparisons": found})


def main(argv: Sequence[str] | None = None) -> int:
    """What Forwarder starts."""
    parser = argparse.ArgumentParser(description=watch.__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--every", type=float, default=EVERY)
    parser.add_argument("--stream", default="")
    arguments = parser.parse_args(argv)
    os.nice(10)
    witness = in_its_job if "ACSAR_TAG" in os.environ else by_scheduler
    report = watch(arguments.runs, arguments.name, arguments.every, arguments.stream, witness)
    print(json.dumps(dataclasses.asdict(report)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
