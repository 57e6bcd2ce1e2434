"""Put several captioners side by side: the same clips, their strips, what each captioner said, what the quality gate holds against it.

One HTML file that needs nothing else. Captions that are there already are read; captioners that are named are run on the same clips here.

    python launch/compare_captions.py --captions captions/ovis2,captions/motion --videos nturgb+d_rgb --out comparison
    python launch/compare_captions.py --captioners ovis2,deepseek-vl --videos nturgb+d_rgb --clips 50 --out comparison
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from jobs.compare_captions import CompareCaptions
from launch.cli import finish, parse
from launch.data import say, tell


@dataclass(frozen=True)
class Command:
    """Flags of `compare_captions`."""

    job: Annotated[CompareCaptions, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Compare, and say where the page is."""
    command = parse(Command, argv, __doc__ or "")
    report = replace(command.job, out=command.job.out.resolve())(say)
    tell(report, command.json)
    return 0


if __name__ == "__main__":
    finish(main)
