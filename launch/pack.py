"""Pack skeletons, and captions if there are any, into WebDataset shards.

Reads NTU RGB+D .skeleton folders or zips, PKU-MMD folders, the arrays of AGCN, SCD-Net and CTR-GCN, and exchange .npz files.
Killed halfway, the same command goes on; finished, it does nothing.

    python launch/pack.py --data nturgb+d_skeletons --out packed/ntu60
    python launch/pack.py --data moves.npz --out packed/moves --label label,correct
    python launch/pack.py --data nturgb+d_skeletons --out packed/ntu60 --captions captions.jsonl --text clip_features
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.pack import Pack
from launch.cli import finish, parse, print_json
from launch.data import say, with_bar


@dataclass(frozen=True)
class Command:
    """Flags of `pack`."""

    job: Annotated[Pack, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    dry_run: bool = False  # say what would be packed, write nothing
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Pack and report."""
    command = parse(Command, argv, __doc__ or "")
    report = command.job.preview() if command.dry_run else with_bar("packing", command.job)
    if command.json:
        print_json(report)
    else:
        for line in report["lines"]:
            say(line)
    return 0


if __name__ == "__main__":
    finish(main)
