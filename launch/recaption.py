"""List the captions that a finished run believes least, ask for them again, and pack its set with the new ones.

A caption's score is how much better it fits its own skeleton than other captions would, by the run's own FiLM. A run that does not use its
captions (text_reliance about 0) is not asked. Nothing of the run or of its set is changed: the new set is another one, with the same clips
in the same order; the command that pretrains on it is the last line. Killed halfway, the same command goes on.

    python launch/recaption.py --run runs/ntu60-xsub --worst 5% --captions captions/ntu60 --videos nturgb+d_rgb --list-only
    python launch/recaption.py --run runs/ntu60-xsub --worst 5% --captions captions/ntu60 --videos nturgb+d_rgb
    python launch/recaption.py --run runs/ntu60-xsub --worst 5% --captions captions/ntu60 --videos nturgb+d_rgb --captioner deepseek-vl
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from jobs.codec import encode
from jobs.recaption import Recaption
from jobs.targets import find_run
from launch import cli
from launch.cli import finish, parse, print_json
from launch.cluster import on_slurm
from launch.data import say, tell
from launch.stage import Where, queue
from launch.unit import Unit


@dataclass(frozen=True)
class Command:
    """Flags of `recaption`."""

    job: Annotated[Recaption, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Judge and ask, here or as a job, and report."""
    command = parse(Command, argv, __doc__ or "")
    job, where = rooted(command.job), command.where
    if on_slurm(where.cluster):
        code = queue(where, Unit(job.run, "recaption"), "recaption", job, [""])
        if code or not where.wait or where.dry_run:
            return code
        report = job()  # finds everything done
    elif where.dry_run:
        print_json(encode(job))
        return 0
    else:
        report = job(say)
    tell(report, where.json)
    return 0


def rooted(job: Recaption) -> Recaption:
    """The job with paths that do not depend on the working directory, and its folder decided."""
    run = find_run(job.run, job.runs).resolve()
    paths = ("captions", "videos", "data", "published", "boxes", "packed")
    job = replace(cli.rooted(job, paths, ("model", "detector", "text_weights")), run=run)
    return replace(job, out=job.folder(run, job.set_of(run)))


if __name__ == "__main__":
    finish(main)
