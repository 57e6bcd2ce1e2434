"""Name the action in clips that nobody has labelled: .skeleton files, exchange .npz files, folders of both.

Needs a run that was probed (or fine-tuned: --trial), nothing else: no packed set, no captions, no video. Clips are prepared as the run's
own set was. What cannot be read is said in one line, the rest goes on, and the exit code is 2.

    python launch/predict.py --run runs/NAME S001C001P001R001A001.skeleton
    python launch/predict.py --run runs/NAME recordings/ more.npz --out answers.csv
    python launch/predict.py --run runs/NAME --streams joint recordings/ --json
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from jobs.predict import Predict
from launch.cli import finish, parse, print_json
from launch.data import say, with_bar


@dataclass(frozen=True)
class Command:
    """Flags of `predict`."""

    job: Annotated[Predict, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    # files and folders; labels in exchange files are not looked at
    inputs: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT ...")] = field(default_factory=list)
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Predict, print, and say what could not be read."""
    command = parse(Command, argv, __doc__ or "")
    result = with_bar("clips", lambda progress: command.job(command.inputs, say, progress))
    if command.json:
        print_json(result)
    elif result["clips"]:
        show(result)
    failed = len(result["failed"])
    if failed:
        say(f"predicted: {len(result['clips'])}, not predicted: {failed}")
    return 2 if failed else 0


def show(result: dict[str, Any]) -> None:
    """A table: each clip's most probable classes, with their probabilities."""
    streams = " + ".join(result["streams"])
    told = f"{streams}, {result['setting']}; shares among {result['classes']} classes, not calibrated"
    table = Table(title=result["run"], caption=told, title_justify="left", caption_justify="left")
    table.add_column("clip", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("%", justify="right")
    table.add_column("")
    for clip in result["clips"]:
        for rank, one in enumerate(clip["top"]):
            last = rank + 1 == len(clip["top"])
            share = 100 * one["probability"]
            table.add_row("" if rank else clip["clip"], one["spoken"], f"{share:.1f}", "█" * round(share / 10), end_section=last)
    Console().print(table)


if __name__ == "__main__":
    finish(main)
