"""Fuse the probed streams of a run: softmax probabilities x 0.5, joined by sample key.

    python launch/fuse.py --run runs/NAME
    python launch/fuse.py --run runs/NAME --json
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.codec import encode
from jobs.fuse import Fuse
from launch.cli import finish, parse, print_json


@dataclass(frozen=True)
class Command:
    """Flags of `fuse`."""

    job: Annotated[Fuse, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    dry_run: bool = False  # print the resolved configuration, compute nothing
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Fuse and print."""
    command = parse(Command, argv, __doc__ or "")
    if command.dry_run:
        print_json(encode(command.job))
        return 0
    result = command.job()
    if command.json:
        print_json(result)
    else:
        print(f"{' + '.join(result['streams'])}: top-1 {result['top1']:.1f} %, top-5 {result['top5']:.1f} % of {result['n']} test clips")
    return 0


if __name__ == "__main__":
    finish(main)
