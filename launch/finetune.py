"""Fine-tune a run's encoders on labels, streams side by side: all of the training part, or a labelled share of it.

CMD's recipe: encoder and classifier both learn, 80 epochs of SGD, the number is that of the last epoch. --scratch starts from random
weights instead (the supervised reference), --frozen trains the classifier alone, --transfer fine-tunes on another packed set.
The same command continues what was interrupted; finished streams are not trained twice. On Slurm it submits a job per stream.

    python launch/finetune.py --run runs/NAME
    python launch/finetune.py --run runs/NAME --fraction 0.1 --seed 3
    python launch/finetune.py --run runs/NAME --scratch --nodes 2
    python launch/finetune.py --run runs/NAME --transfer packed/pku2 --protocol xsub --dry-run
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.codec import encode
from jobs.finetune import Finetune, Plan, data_of, describe, plan, resolved
from jobs.run_folder import read_json
from launch import stage
from launch.cli import finish, parse, print_json
from launch.cluster import on_slurm, place, profile_for, shape
from launch.data import say
from launch.queued import DONE, refuse_another, submit_missing, wait, what_next
from launch.snapshot import snapshot
from launch.streams import run_streams
from launch.submission import script
from launch.tracking import tracked, untracked
from launch.unit import Unit


@dataclass(frozen=True)
class Where(stage.Where):
    """Where and how the streams run."""

    track: bool = True  # bring the results to MLflow (training never waits for it)


@dataclass(frozen=True)
class Command:
    """Flags of `finetune`."""

    job: Annotated[Finetune, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Resolve, show, train or submit, say what came out."""
    command = parse(Command, argv, __doc__ or "")
    job = resolved(command.job)
    return queued(job, command.where) if on_slurm(command.where.cluster) else here(job, command.where)


def here(job: Finetune, where: Where) -> int:
    """Fine-tune on this machine until every stream has ended."""
    machine = place(job.nodes, len(job.streams))
    numbers = plan(job, machine.world)
    show(job, numbers, machine.describe())
    if where.dry_run:
        print_json({"job": encode(job), "place": asdict(machine), "plan": asdict(numbers)})
        return 0
    until = min(job.stop_after or numbers.steps, numbers.steps)
    with tracked(job.run.parent, job.run.name, where.track):
        run_streams(machine, describe(job), job.folder, job.streams, until, "finetune")
    tell(job, where)
    return 0


def queued(job: Finetune, where: Where) -> int:
    """Submit a job per stream to Slurm, and return; with --wait stay until they have ended."""
    profile = profile_for(where.cluster_profile)
    asked = shape(profile, job.nodes, len(job.streams))
    numbers = plan(job, asked.world)
    show(job, numbers, asked.describe())
    units = {stream: Unit(job.folder, stream) for stream in job.streams}
    if where.dry_run:
        texts = {stream: script(unit, asked, profile, job.run.parent / ".code" / "HASH") for stream, unit in units.items()}
        say(texts[job.streams[0]])
        print_json({"job": encode(job), "place": asdict(asked), "plan": asdict(numbers), "scripts": texts})
        return 0
    refuse_another(job.folder, job)
    description, code = describe(job), snapshot(job.run.parent)
    # jobs forward nothing: a trial's curves are its own, its results go to MLflow with those of the run
    quiet = untracked(profile)
    jobs = {stream: submit_missing(unit, "finetune", description, [stream], asked, quiet, code) for stream, unit in units.items()}
    if not where.wait:
        what_next(job.folder)
        if where.json:
            print_json({"run": str(job.folder), "jobs": jobs})
        return 0
    views = wait(job.folder, job.streams, min(job.stop_after or numbers.steps, numbers.steps), track=False)
    tell(job, where)
    return 0 if all(view.state in DONE for view in views) else 1


def show(job: Finetune, numbers: Plan, where: str) -> None:
    """The trial and its arithmetic in words."""
    p, start = numbers, "random weights" if job.scratch else f"the encoders of {job.run}"
    learns = "the classifier alone learns" if job.frozen else "encoder and classifier learn"
    say(f"{job.name}: {', '.join(job.streams)} from {start}; {learns}; protocol {job.protocol}, data {data_of(job)}")
    labelled = f"{p.labelled} of {p.train} training clips labelled" + (f" ({job.draw}, seed {job.seed})" if job.fraction < 1 else "")
    missing = f"; {p.unlabelled_classes} of {p.classes} classes have no labelled clip" if p.unlabelled_classes else ""
    say(f"  {labelled}, {p.test} test{missing}")
    batch = f"batch {p.batch_size} = {p.world} x {p.rows}" + (
        f", as {p.labelled} clips fill no {job.batch_size}" * (p.batch_size < job.batch_size)
    )
    rate = f"lr {job.lr:g}, a tenth from step {' and '.join(map(str, p.drop_steps))}"
    say(f"  {batch}; {p.steps} steps ({p.epochs:.1f} epochs of {p.steps_per_epoch}); {rate}")
    say(f"  on {where}")


def tell(job: Finetune, where: Where) -> None:
    """What every stream came to."""
    results = {stream: outcome(job.folder / stream) for stream in job.streams}
    if where.json:
        print_json({"run": str(job.folder), "streams": results})
        return
    for stream, result in results.items():
        say(f"{stream}: {in_words(result)}")


def outcome(stream: Path) -> dict[str, Any]:
    """A stream's result, or only that it has none yet."""
    path = stream / "result.json"
    return dict(read_json(path)) if path.is_file() else {"status": "stopped"}


def in_words(result: dict[str, Any]) -> str:
    """A stream's result as a sentence."""
    if result["status"] != "finished":
        return "stopped early; the same command goes on (without --stop-after, where that was given)"
    low, high = result["interval"]
    best = f"; the best look at the test part was {result['best_on_test']:.1f}" if result["best_on_test"] is not None else ""
    return f"{result['top1']:.1f} % of {result['n']} test clips [{low:.1f}, {high:.1f}] after the last of {result['steps']} steps{best}"


if __name__ == "__main__":
    finish(main)
