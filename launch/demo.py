"""The whole chain in minutes: make a synthetic set, pack it, pretrain three streams with captions, probe, fuse, compare in MLflow.

    python launch/demo.py
    python launch/demo.py --nodes 4

Everything it prints about accuracy is about invented data: a stand-in for trying things, never a result.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
import os
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.figures import Figures
from jobs.fuse import Fuse
from jobs.pretrain import plan
from jobs.probe import Probe
from jobs.tracking import sync
from launch import pretrain
from launch.cli import finish, parse, print_json
from launch.cluster import place
from launch.data import say
from launch.table import accuracy_table


@dataclass(frozen=True)
class Demo:
    """Flags of `demo`."""

    runs: Path = Path(os.environ.get("ACSAR_RUNS", "runs"))  # folder of all runs
    name: str = "demo"  # the comparison's name
    nodes: int = 1  # simulated nodes per stream
    seed: int = 0  # of everything that is drawn
    steps: int = 0  # another length of the schedule; 0 = the recipe's
    dry_run: bool = False  # show the set and the arithmetic, train nothing
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Run the chain; every stage that is done already is passed by."""
    demo = parse(Demo, argv, __doc__ or "")
    began = time.monotonic()
    words = ["--recipe", "demo", "--runs", str(demo.runs), "--name", demo.name, "--nodes", str(demo.nodes), "--seed", str(demo.seed)]
    words += ["--evaluate-every", "4"]  # often enough for a curve of the held-aside people's accuracy
    command = pretrain.read(words + (["--steps", str(demo.steps)] if demo.steps else []), "", pretrain.Command)
    here = place(demo.nodes, len(command.job.streams))
    job = pretrain.resolve(command, here.world)
    numbers = plan(job, here.world)
    pretrain.show(job, numbers, here.describe())
    if demo.dry_run:
        return 0
    pretrain.train(job, here, numbers, track=True)
    run = job.runs / job.name
    accuracies = Probe(run=run)(say)
    fused = Fuse(run=run)()
    figures = Figures(run=run, points=240, mistakes=3)()
    tracked = sync(job.runs, name=job.name)
    say(f"tracking: {tracked.line()}")
    if demo.json:
        print_json({"run": str(run), "probes": accuracies, "fused": fused, "seconds": round(time.monotonic() - began)})
        return 0
    accuracy_table(accuracies, "synthetic data, stand-in captions and small numbers: for trying things, never a result")
    names = " + ".join(fused["streams"])
    print(f"fused {names}: top-1 {fused['top1']:.1f} %, top-5 {fused['top5']:.1f} % of {fused['n']} clips of unseen people")
    print(f"{len(figures)} figures in {run / 'figures'}: accuracy.png, confusion.png, tsne.png, mistakes.png and others")
    print(f"all of it in {time.monotonic() - began:.0f} s; compare: python launch/dashboard.py --runs {job.runs} --name {job.name}")
    return 0


if __name__ == "__main__":
    finish(main)
