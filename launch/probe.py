"""Probe frozen encoders: linear classifier and nearest neighbour, with the raw data and a random encoder beside them.

    python launch/probe.py --run runs/NAME
    python launch/probe.py --run runs/NAME --streams joint --json
    python launch/probe.py --weights scdnet_ntu60.pth.tar --data packed/ntu60 --protocol xsub
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.codec import encode
from jobs.probe import Probe
from launch.cli import finish, parse, print_json
from launch.data import say
from launch.table import accuracy_table


@dataclass(frozen=True)
class Command:
    """Flags of `probe`."""

    job: Annotated[Probe, tyro.conf.arg(name="")] = field(default_factory=Probe, metadata={"flat": True})
    dry_run: bool = False  # print the resolved configuration, compute nothing
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Probe and print."""
    command = parse(Command, argv, __doc__ or "")
    if command.dry_run:
        print_json(encode(command.job))
        return 0
    results = command.job(say)
    if command.json:
        print_json(results)
    else:
        accuracy_table(results, f"{command.job.run or command.job.weights}")
    return 0


if __name__ == "__main__":
    finish(main)
