"""A report of finished runs: one HTML page that needs nothing else, and its tables as Markdown, CSV and LaTeX.

python launch/report.py                                 every run below runs/, into runs/reports/report/
python launch/report.py --runs NAME1 NAME2 --name mine  these runs, into runs/reports/mine/
python launch/report.py --runs runs/ntu60-* --json

Runs that differ in nothing but the seed are one row: mean and deviation. The published numbers stand beside ours where set and
protocol are those of the paper. It reads files only and takes seconds; make figures first (launch/figures.py) to have them in the page.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.report import Report
from launch.cli import finish, parse, print_json


@dataclass(frozen=True)
class Command:
    """Flags of `report`."""

    job: Annotated[Report, tyro.conf.arg(name="")] = field(default_factory=Report, metadata={"flat": True})
    dry_run: bool = False  # name the runs that would be read, do nothing
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Write the report here: it reads what other jobs have written, and needs no job of its own."""
    command = parse(Command, argv, __doc__ or "")
    if command.dry_run:
        found = [str(path) for path in command.job.found()]
        print_json({"runs": found, "out": str(command.job.place())}) if command.json else print("\n".join(found))
        return 0
    told = command.job()
    if command.json:
        print_json(told)
        return 0
    for line in (*told["sentences"], *told["unfinished"]):
        print(line)
    print(f"\n{Path(told['html']).resolve()}\nbeside it: {', '.join(Path(file).name for file in told['files'][1:])}")
    return 0


if __name__ == "__main__":
    finish(main)
