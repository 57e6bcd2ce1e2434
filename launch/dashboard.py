"""Compare runs in MLflow: forward what the run folders tell, start a server on this machine only, print the comparison's page.

    python launch/dashboard.py                  forward, serve, keep forwarding; Ctrl-C ends it
    python launch/dashboard.py sync             forward only (safe to repeat, safe to interrupt)
    python launch/dashboard.py --name NAME      show this comparison instead of the newest one

Where there are several, the first address has them all: streams, methods, captions and seeds as axes of one chart.

With MLFLOW_TRACKING_URI=http://... everything goes to that server and none is started.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
import getpass
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jobs import InputError
from jobs.replay import comparisons
from jobs.tracking import Comparison, SyncReport, server_command, sync
from jobs.tracking_address import address, without_secrets
from launch.cli import finish, parse
from launch.presence import by_scheduler

FIRST_PORT = 5000
START_LIMIT = 120.0  # seconds; a cold server takes about ten
GRACE = 10.0  # seconds between asking the server to end and ending it


@dataclass(frozen=True)
class Dashboard:
    """Flags of `dashboard`."""

    verb: Annotated[Literal["serve", "sync"], tyro.conf.Positional] = "serve"  # sync = forward only
    runs: Path = field(default_factory=lambda: Path(os.environ.get("ACSAR_RUNS", "runs")))  # folder of all runs
    name: str | None = None  # the comparison to forward and to show; default: forward all, show the newest
    port: int | None = None  # of the server on 127.0.0.1; default: the first free one from 5000
    every: float = 10.0  # seconds between forwarding while it serves; 0 = only at the start


def main(argv: list[str]) -> int:
    """Forward, then serve."""
    command = parse(Dashboard, argv, __doc__ or "")
    runs = command.runs.resolve()
    known = comparisons(runs)
    if not known:
        raise InputError(f"no runs in {runs}: `python launch/pretrain.py` makes one, --runs names another folder")
    if command.name is not None and command.name not in known:
        raise InputError(f"no comparison {command.name!r} in {runs}; there are {', '.join(known)}")
    where = address(runs)
    report = sync(runs, name=command.name, wait=60.0, witness=by_scheduler)
    print(report.line(), flush=True)
    if command.verb == "sync":
        return 1 if report.problems else 0
    chosen = report.comparisons.get(command.name or known[-1])
    if chosen is None:
        raise InputError(f"{report.uri} has no comparison to show; see the reason above")
    if where.server:
        print_pages(without_secrets(where.uri).replace("***@", "").rstrip("/"), report, chosen)
        return 0
    port = free_port(command.port)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT too: a shell's background jobs start with it ignored
        signal.signal(number, _interrupt)
    try:
        with server(runs, where.uri, port) as process:
            base = f"http://127.0.0.1:{port}"
            print_pages(base, report, chosen)
            print(f"from another machine:  ssh -N -L {port}:127.0.0.1:{port} {getpass.getuser()}@{socket.getfqdn()}")
            print("Ctrl-C ends the server", flush=True)
            follow(process, runs, command, report)
    except KeyboardInterrupt:
        print("server ended")
        return 0
    raise InputError(f"the server ended by itself; see {runs / 'mlflow-server.log'}")


def follow(process: "subprocess.Popen[bytes]", runs: Path, command: Dashboard, report: SyncReport) -> None:
    """Keep forwarding what running jobs write, until the server ends."""
    problems = report.problems
    while process.poll() is None:
        try:
            process.wait(max(command.every, 9 * report.seconds) if command.every > 0 else None)
        except subprocess.TimeoutExpired:
            report = sync(runs, name=command.name, witness=by_scheduler)
            if report.problems != problems:
                print(report.line(), flush=True)
            problems = report.problems


def free_port(asked: int | None) -> int:
    """The asked port of 127.0.0.1, or the first free one. Raises InputError when it is taken."""
    for port in range(FIRST_PORT, FIRST_PORT + 200) if asked is None else [asked]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise InputError(f"--port {asked} is taken" if asked is not None else f"no free port in {FIRST_PORT}-{FIRST_PORT + 199}: give --port")


@contextmanager
def server(runs: Path, uri: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A server that answers; it and whatever it started are gone afterwards."""
    arguments, environment = server_command(runs, uri, port)
    log = runs / "mlflow-server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(arguments, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_until_up(process, port, log)
        yield process
    finally:
        _end(process)


def _wait_until_up(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + START_LIMIT
    while time.monotonic() < until:
        if process.poll() is not None:
            raise InputError(f"the server did not start: {_last_line(log)} ({log})")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise InputError(f"the server did not answer within {START_LIMIT:.0f} s; see {log}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the server's whole process group, also when the server itself is gone and left helpers behind."""
    for sign, limit in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        until = time.monotonic() + limit
        while time.monotonic() < until:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def pages(base: str, experiment: str, chosen: Comparison) -> dict[str, str]:
    """Addresses for one comparison: charts of its streams, streams and probes side by side, its summary."""
    charts = urllib.parse.urlencode({"compareRunsMode": "CHART", "viewStateShareKey": chosen.view})
    found = {"charts": f"{base}/#/experiments/{experiment}/runs?{charts}"}
    for what, runs in (("streams", chosen.streams), ("probes", chosen.probes)):
        if runs:
            query = {"runs": json.dumps(list(runs.values())), "experiments": json.dumps([experiment])}
            found[what] = f"{base}/#/compare-runs?{urllib.parse.urlencode(query)}"
    return {**found, "summary": f"{base}/#/experiments/{experiment}/runs/{chosen.parent}"}


def print_pages(base: str, report: SyncReport, chosen: Comparison) -> None:
    """The addresses, one a line; of several comparisons first the page that has them all."""
    if report.everything:
        query = urllib.parse.urlencode({"compareRunsMode": "CHART", "viewStateShareKey": report.everything})
        print(f"all comparisons:  {base}/#/experiments/{report.experiment}/runs?{query}", flush=True)
    for what, page in pages(base, report.experiment, chosen).items():
        print(f"{chosen.name}, {what + ':':9} {page}", flush=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    finish(main)
