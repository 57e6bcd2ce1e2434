"""Probe frozen encoders: linear classifier and nearest neighbour, with the raw data and a random encoder beside them.

The epoch of the linear classifier is chosen on held-aside training subjects; what the last epoch has, and the best one on the test part
(the field's habit), stand beside it. Features go through an encoder once and are kept: another --schedule costs seconds.

    python launch/probe.py --run runs/NAME
    python launch/probe.py --run runs/NAME --schedule paper --streams joint --json
    python launch/probe.py --run runs/NAME --transfer packed/pku2 --protocol xsub
    python launch/probe.py --run runs/NAME --nodes 4
    python launch/probe.py --weights scdnet_ntu60.pth.tar --data packed/ntu60 --protocol xsub
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from jobs import InputError
from jobs.codec import decode, encode
from jobs.probe import Probe, read_accuracies, read_sentences, setting_of
from jobs.run_folder import read_json
from jobs.stages import write_job
from jobs.targets import find_run, protocol_for, streams_of
from launch.cli import finish, parse, print_json, rooted
from launch.cluster import check_nodes, on_slurm, place
from launch.data import say, with_bar
from launch.queued import in_queue
from launch.stage import Where, queue
from launch.table import accuracy_table
from launch.unit import Unit

POLL = 0.5  # seconds between two looks at the ranks


@dataclass(frozen=True)
class Command:
    """Flags of `probe`."""

    job: Annotated[Probe, tyro.conf.arg(name="")] = field(default_factory=Probe, metadata={"flat": True})
    nodes: int = 1  # that share the encoders' passes: ranks of one job on Slurm, simulated ones here; every number stays the same
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Probe, here or as a job per stream, and print."""
    command = parse(Command, argv, __doc__ or "")
    job, where, nodes = command.job, command.where, command.nodes
    check_nodes(nodes)
    if nodes > 1 and job.run is None:
        raise InputError(f"--nodes {nodes} goes with --run: published weights are probed by one process")
    if job.run is not None and on_slurm(where.cluster):  # published weights are probed here
        job = settled(job)
        assert job.run is not None
        unit = Unit(job.run, "probe")
        refuse_another(unit, job)
        code = queue(where, unit, "probe", job, job.streams, nodes)
        if code or not where.wait or where.dry_run:
            return code
        results = read_accuracies(job, job.streams)
    elif where.dry_run:
        print_json(encode(job))
        return 0
    elif nodes > 1:
        job = settled(job)
        shared_out(job, nodes)
        results = read_accuracies(job, job.streams)
        for sentence in read_sentences(job, job.streams):
            say(sentence)
    else:
        results = with_bar("clips", lambda progress: job(say, progress))
    if where.json:
        print_json(results)
    else:
        accuracy_table(results, f"{job.run or job.weights}")
    return 0


def settled(job: Probe) -> Probe:
    """The job of a run with everything named: paths that do not depend on a working directory, its streams, its protocol."""
    assert job.run is not None
    run = find_run(job.run, job.runs).resolve()
    job = rooted(replace(job, run=run, streams=job.streams or tuple(streams_of(run))), ("data", "transfer", "features", "runs"))
    return replace(job, protocol=job.protocol or protocol_for(run, job.transfer))


def refuse_another(unit: Unit, job: Probe) -> None:
    """Raise InputError while probes of another setting wait in the queue: they read what they are to do when they start."""
    waiting = in_queue(unit)
    if not waiting:
        return
    there = decode(Probe, read_json(unit.folder / "job.json"))
    if setting_of(there) != setting_of(job):
        told = f"{unit.run.name} is being probed as {setting_of(there)} (job {', '.join(waiting.values())})"
        raise InputError(f"{told}; give this command again when that has ended")


def shared_out(job: Probe, nodes: int) -> None:
    """Probe with as many ranks of this machine as nodes were asked for. Raises InputError quoting the log for what the user can mend,
    RuntimeError where a rank failed otherwise."""
    assert job.run is not None
    machine, logs = place(nodes, 1), job.run / "probe" / "logs"
    say(f"on {machine.describe()}; log {logs / 'rank_00000.log'}")
    ranks = machine.start(write_job(job, job.run / "probe" / "job.json"), "", logs, "probe")
    try:
        while (code := ranks.poll()) is None:
            time.sleep(POLL)
    except BaseException:
        ranks.kill()
        raise
    if code:
        raise (InputError if code == 2 else RuntimeError)(last_words(ranks.log()))


def last_words(log: Path) -> str:
    """The last line that a rank wrote."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'a rank left no words'}; whole log: {log}"


if __name__ == "__main__":
    finish(main)
