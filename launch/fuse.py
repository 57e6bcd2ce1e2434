"""Fuse the probed streams of a run: softmax probabilities x 0.5, joined by sample key.

python launch/fuse.py --run runs/NAME
python launch/fuse.py --run runs/NAME --json
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from jobs.codec import encode
from jobs.fuse import Fuse
from jobs.targets import find_run
from launch.cli import finish, parse, print_json
from launch.cluster import on_slurm
from launch.stage import Where, queue
from launch.unit import Unit


@dataclass(frozen=True)
class Command:
    """Flags of `fuse`."""

    job: Annotated[Fuse, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Fuse, here or as a job, and print."""
    command = parse(Command, argv, __doc__ or "")
    job, where = command.job, command.where
    if on_slurm(where.cluster):
        job = replace(job, run=find_run(job.run, job.runs).resolve())
        code = queue(where, Unit(job.run, "fuse"), "fuse", job, [""])
        if code or not where.wait or where.dry_run:
            return code
    elif where.dry_run:
        print_json(encode(job))
        return 0
    result = job()
    if where.json:
        print_json(result)
    else:
        print(f"{' + '.join(result['streams'])}: top-1 {result['top1']:.1f} %, top-5 {result['top5']:.1f} % of {result['n']} test clips")
    return 0


if __name__ == "__main__":
    finish(main)
