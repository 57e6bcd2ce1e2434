"""Probe frozen encoders: linear classifier and nearest neighbour, with the raw data and a random encoder beside them.

python launch/probe.py --run runs/NAME
python launch/probe.py --run runs/NAME --streams joint --json
python launch/probe.py --weights scdnet_ntu60.pth.tar --data packed/ntu60 --protocol xsub
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from jobs.codec import encode
from jobs.probe import Probe, read_accuracies
from jobs.targets import find_run, streams_of
from launch.cli import finish, parse, print_json
from launch.cluster import on_slurm
from launch.data import say
from launch.stage import Where, queue
from launch.table import accuracy_table
from launch.unit import Unit


@dataclass(frozen=True)
class Command:
    """Flags of `probe`."""

    job: Annotated[Probe, tyro.conf.arg(name="")] = field(default_factory=Probe, metadata={"flat": True})
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Probe, here or as a job per stream, and print."""
    command = parse(Command, argv, __doc__ or "")
    job, where = command.job, command.where
    if job.run is not None and on_slurm(where.cluster):  # published weights are probed here
        run = find_run(job.run, job.runs).resolve()
        job, streams = replace(job, run=run, data=job.data and job.data.resolve()), list(job.streams) or streams_of(run)
        code = queue(where, Unit(run, "probe"), "probe", job, streams)
        if code or not where.wait or where.dry_run:
            return code
        results = read_accuracies(run, job.protocol, streams)
    elif where.dry_run:
        print_json(encode(job))
        return 0
    else:
        results = job(say)
    if where.json:
        print_json(results)
    else:
        accuracy_table(results, f"{job.run or job.weights}")
    return 0


if __name__ == "__main__":
    finish(main)
