"""Draw every figure of a run: losses, accuracies, classes, confusions, maps of captions and skeletons, mistakes that move.

They lie in RUNS/NAME/figures and are forwarded to MLflow with the run. What the run's files do not allow is left out, with the reason:
a run that has not been probed has curves and maps, one without captions has maps of its skeletons only.
--against compares with another run on the same test clips: for AC-SAR the one with --method.interaction none, which is what modulation did.
Thousands of points take t-SNE minutes; --points 2000 draws a draft, --points 0 none.

    python launch/figures.py --run runs/NAME
    python launch/figures.py --run runs/NAME --against runs/WITHOUT-MODULATION
    python launch/figures.py --run runs/NAME --points 0 --mistakes 12
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from jobs.codec import encode
from jobs.drawn import read_record
from jobs.figures import Figures
from jobs.targets import find_run
from launch.cli import finish, parse, print_json, rooted
from launch.cluster import on_slurm
from launch.data import say
from launch.stage import Where, queue
from launch.unit import Unit


@dataclass(frozen=True)
class Command:
    """Flags of `figures`."""

    job: Annotated[Figures, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Draw, here or as a job, and say what was drawn and what it shows."""
    command = parse(Command, argv, __doc__ or "")
    where, job = command.where, rooted(command.job, ("data",))
    run = find_run(job.run, job.runs).resolve()
    job = replace(job, run=run, against=job.against and find_run(job.against, job.runs).resolve(), runs=None)
    if on_slurm(where.cluster):
        code = queue(where, Unit(run, "figures"), "figures", job, [""])
        if code or not where.wait or where.dry_run:
            return code
    elif where.dry_run:
        print_json(encode(job))
        return 0
    else:
        job(say)
    record = read_record(run)
    if where.json:
        print_json({"run": str(run), **{name: record[name] for name in ("drawn", "left_out", "findings")}})
    else:
        print(f"{sum(len(names) for names in record['drawn'].values())} files in {run / 'figures'}")
    return 0


if __name__ == "__main__":
    finish(main)
