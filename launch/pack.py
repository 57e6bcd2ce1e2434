"""Pack skeletons, and captions if there are any, into WebDataset shards.

Reads NTU RGB+D .skeleton folders or zips, PKU-MMD folders, the arrays of AGCN, SCD-Net and CTR-GCN, and exchange .npz files.
Killed halfway, the same command goes on; finished, it does nothing.

    python launch/pack.py --data nturgb+d_skeletons --out packed/ntu60
    python launch/pack.py --data moves.npz --out packed/moves --label label,correct
    python launch/pack.py --data nturgb+d_skeletons --out packed/ntu60 --captions captions.jsonl --text clip_features
    python launch/pack.py --data nturgb+d_skeletons --out packed/ntu60 --captions captions --text clip_features --missing-text train
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.pack import Pack
from jobs.targets import default_runs
from launch import cli
from launch.cli import finish, parse
from launch.cluster import on_slurm
from launch.data import tell, with_bar
from launch.stage import Where, queue
from launch.unit import Unit


@dataclass(frozen=True)
class Command:
    """Flags of `pack`."""

    job: Annotated[Pack, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Pack, here or as a job, and report."""
    command = parse(Command, argv, __doc__ or "")
    job, where = rooted(command.job), command.where
    if where.dry_run:
        report = job.preview()
    elif on_slurm(where.cluster):
        code = queue(where, Unit(default_runs().resolve() / f"pack-{job.out.name}", "pack"), "pack", job, [""])
        if code or not where.wait:
            return code
        report = job()  # finds everything done
    else:
        report = with_bar("packing", job)
    tell(report, where.json)
    return 0


def rooted(job: Pack) -> Pack:
    """The job with paths that do not depend on the working directory."""
    return cli.rooted(job, ("data", "out", "captions", "text"))


if __name__ == "__main__":
    finish(main)
