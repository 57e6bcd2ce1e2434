"""Fuse the probed streams of a run: every subset of them, softmax probabilities x 0.5, joined by sample key (the paper's table 3).

    python launch/fuse.py --run runs/NAME
    python launch/fuse.py --run runs/NAME --weights held-aside          weights that are best on held-aside people
    python launch/fuse.py --run runs/NAME --rule logits --weights 0.6,0.6,0.4
    python launch/fuse.py --run runs/NAME --compare J+M,J+B             class by class (the paper's figure 4)
    python launch/fuse.py --run runs/NAME --against runs/OTHER          this run and another one class by class
    python launch/fuse.py --run runs/NAME --finetune TRIAL --json

One file per setting, RUNS/NAME/fuse/SETTING.json: it holds the weights and the rule that were asked for last.
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
from jobs.fuse import Fuse
from jobs.tables import Cell, Row, Table, plain
from jobs.targets import find_run
from launch.cli import finish, parse, print_json, rooted
from launch.cluster import on_slurm
from launch.stage import Where, queue
from launch.unit import Unit

SHOWN = 5  # classes at either end of a comparison


@dataclass(frozen=True)
class Command:
    """Flags of `fuse`."""

    job: Annotated[Fuse, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Fuse, here or as a job, and print."""
    command = parse(Command, argv, __doc__ or "")
    job, where = command.job, command.where
    comparing = bool(job.compare) or job.against is not None  # takes a second of files that are there: it is done here
    if on_slurm(where.cluster) and not comparing:
        job = replace(rooted(job, ["transfer"]), run=find_run(job.run, job.runs).resolve())
        code = queue(where, Unit(job.run, "fuse"), "fuse", job, [""])
        if code or not where.wait or where.dry_run:
            return code
    elif where.dry_run:
        print_json(encode(job))
        return 0
    result = job()
    if where.json:
        print_json(result)
        return 0
    print(plain(fusions(result)))
    if "comparison" in result:
        print(plain(classes(result["comparison"])))
    print(f"{' + '.join(result['streams'])}: top-1 {result['top1']:.1f} %, top-5 {result['top5']:.1f} % of {result['n']} test clips")
    return 0


def fusions(report: Mapping[str, Any]) -> Table:
    """Every subset of the streams: the paper's table 3."""
    equal = any("over_equal" in row for row in report["subsets"].values())
    gains = len(report["streams"]) > 1
    rows = []
    for subset, found in report["subsets"].items():
        weights = " ".join(f"{round(weight, 2):g}" for weight in report["weights"][subset])
        cells = [Cell(found["top1"], interval=tuple(found["intervals"]["top1"])), Cell(found["top5"]), Cell(note=weights)]
        gain = found.get("gain")
        cells.append(Cell(note=f"{_signed(gain)} {gain['over']}") if gain else Cell(note=" "))
        rows.append(Row(subset, [*cells, *([Cell(note=_signed(found.get("over_equal")))] if equal else [])]))
    added = {"softmax": "softmax probabilities", "logits": "logits"}[report["rule"]]
    chosen = {"paper": "0.5 each", "given": "as given", "held-aside": f"best on {report['chosen_on']}"}[report["weights_from"]]
    notes = [
        f"Added: {added} x weight; weights: {chosen}.",
        f"Intervals over {report['interval_over']}" + ("; gains over the best single stream by the test clips, paired." if gains else "."),
        *(["Transductive: the encoders may have seen test clips."] if report["transductive"] else []),
    ]
    columns = ["top-1 %", "top-5 %", "weights", "gain over", *(["over 0.5 each"] if equal else [])]
    return Table(f"Fused streams, {report['setting']}, {report['n']} test clips", columns, rows, notes, head="streams")


def classes(comparison: Mapping[str, Any]) -> Table:
    """Where one result is best and worst against the other."""
    ranked = sorted(comparison["rows"], key=lambda row: -row["difference"])
    if len(ranked) > 2 * SHOWN:
        parts = [("best", ranked[:SHOWN]), ("worst", ranked[-SHOWN:])]
    else:
        parts = [("", ranked)]
    first, second = comparison["first"], comparison["second"]
    rows = [
        Row(
            row["name"],
            [
                Cell(row["first"]),
                Cell(row["second"]),
                Cell(note=_signed({"value": row["difference"], **row})),
                Cell(note=f"{row['clips']}"),
            ],
            group,
        )
        for group, found in parts
        for row in found
    ]
    return Table(
        f"{first} against {second}, class by class", [first, second, "difference", "clips"], rows, comparison["sentences"], head="class"
    )


def _signed(gap: Mapping[str, Any] | None) -> str:
    """A difference with its interval; a blank where there is none."""
    return f"{gap['value']:+.1f} [{gap['interval'][0]:+.1f}, {gap['interval'][1]:+.1f}]" if gap else " "


if __name__ == "__main__":
    finish(main)
