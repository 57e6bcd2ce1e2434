"""Semi-supervised accuracy: linear classifiers of a run's frozen features on 1, 5 and 10 % of the labels, several draws of each.

Raw clips and a random encoder stand beside it, on the same labelled clips. The encoder stays frozen, as AC-SAR's text says; training it
too, as CMD does, is launch/finetune.py --fraction 0.1.

    python launch/semi.py --run runs/NAME
    python launch/semi.py --run runs/NAME --fractions 0.05,0.1 --repeats 3 --draw balanced
    python launch/semi.py --run runs/NAME --streams joint --json
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro

from jobs.codec import encode
from jobs.run_folder import read_json
from jobs.semi import Semi, resolved
from jobs.tables import Row, Table, over_seeds, plain
from jobs.targets import streams_of
from launch.cli import finish, parse, print_json, rooted
from launch.cluster import on_slurm
from launch.data import say, with_bar
from launch.stage import Where, queue
from launch.unit import Unit


@dataclass(frozen=True)
class Command:
    """Flags of `semi`."""

    job: Annotated[Semi, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Train the classifiers, here or as a job per stream, and print."""
    command = parse(Command, argv, __doc__ or "")
    job, where = command.job, command.where
    if on_slurm(where.cluster):
        job = resolved(rooted(job, ["data", "transfer"]))
        streams = list(job.streams) or streams_of(job.run)
        code = queue(where, Unit(job.run, "semi"), "semi", job, streams)
        if code or not where.wait or where.dry_run:
            return code
        reports = {stream: read_json(job.folder / f"{stream}.json") for stream in streams}
    elif where.dry_run:
        print_json(encode(job))
        return 0
    else:
        reports = with_bar("features", lambda progress: job(say, progress))
    if where.json:
        print_json(reports)
    else:
        print(plain(table(reports)))
    return 0


def table(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Streams and their references by share of the labels: the paper's table 5."""
    first = next(iter(reports.values()))
    rows = []
    for stream, report in reports.items():
        for kind, name in (("top1", "pretrained"), ("random", "random encoder"), ("raw", "raw clips")):
            cells = []
            for row in report["rows"]:
                cell = over_seeds({one["seed"]: one[kind] for one in row["repeats"]})
                cells.append(replace(cell, interval=tuple(row["interval"])) if kind == "top1" else cell)
            rows.append(Row(name, cells, stream))
    columns = [f"{100 * row['fraction']:g} % ({row['labelled']})" for row in first["rows"]]
    notes = [
        f"Labels drawn {first['draw']}, over seeds of the draw; encoder frozen; intervals over test {first['interval_over']}.",
        *(["Transductive: the encoders may have seen test clips."] if first["transductive"] else []),
    ]
    return Table(f"Few labels, {first['protocol']}, {first['test']} test clips, top-1 in %", columns, rows, notes, head="stream")


if __name__ == "__main__":
    finish(main)
