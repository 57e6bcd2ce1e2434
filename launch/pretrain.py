"""Pretrain a method on joint, bone and motion, side by side, on one part of one data set.

With nothing else than `--nodes 4` it makes a small synthetic set, packs it and trains three streams, each on 4 simulated nodes.
Where Slurm answers it submits a job per stream and returns: docs/cluster.md. The same command continues what was interrupted; finished
streams are not trained twice.

    python launch/pretrain.py --nodes 4
    python launch/pretrain.py --nodes 4 --cluster slurm --cluster-profile my.toml --wait
    python launch/pretrain.py --data packed/ntu60 --protocol xsub --recipe acsar
    python launch/pretrain.py --data moves.npz --recipe scdnet-small --streams joint --steps 300 --dry-run
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from jobs import InputError
from jobs.codec import encode
from jobs.prepare import OPEN, SYNTHETIC, describe, resolved
from jobs.pretrain import STREAMS, Plan, Pretrain, plan
from jobs.run_folder import read_json
from jobs.schedule import scaled_lr
from jobs.timings import measure
from launch.cli import finish, parse, print_json, value_of, without
from launch.cluster import Cluster, Place, gpu_name, on_slurm, partition_of, place, profile_for, shape
from launch.data import packed_set, say
from launch.forecast import NETWORK_GBIT, DeviceGuess, Forecast, lines, foretell
from launch.queued import DONE, described, submit_streams, wait, what_next
from launch.snapshot import snapshot
from launch.streams import run_streams
from launch.submission import script
from launch.tracking import prepared, tracked, untracked
from launch.unit import Unit


@dataclass(frozen=True)
class Where:
    """Where and how the streams run."""

    cluster: Cluster = "auto"  # auto = Slurm if its controller answers, else this machine
    cluster_profile: Path | None = None  # TOML file: partition, account, time, modules, ... (docs/cluster.toml); or $ACSAR_CLUSTER_PROFILE
    scale_lr: bool = False  # or --lr auto: the recipe's rate times batch / the recipe's batch, with warm-up; the recipe does not do that
    network_gbit: float = NETWORK_GBIT  # of --dry-run's forecasts: the network of a node
    device: str = "auto"  # of --dry-run's forecasts: cpu, H100, A100, ...; auto = as here, or what the partition has
    measure: bool = False  # --dry-run takes a few steps here for better forecasts
    wait: bool = False  # on Slurm: stay until every stream has ended, with a live table
    label: str = "label"  # of raw data: the label column(s), as in pack.py
    dry_run: bool = False  # print the resolved configuration and the batch arithmetic, train nothing
    track: bool = True  # replay journals to MLflow while training (training never waits for it)
    json: bool = False  # print one JSON document with the results and nothing else


@dataclass(frozen=True)
class Command:
    """Flags of `pretrain`."""

    job: Annotated[Pretrain, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


Commands = TypeVar("Commands", bound=Command)


def read(argv: list[str], about: str, kind: type[Commands]) -> Commands:
    """The command line over the recipe's numbers; what only the data can decide is still open."""
    recipe = value_of(argv, "--recipe", "acsar" if value_of(argv, "--data", "") else "demo")
    runs = Path(os.environ.get("ACSAR_RUNS", "runs"))
    default = Pretrain.of(recipe, data=SYNTHETIC, name=OPEN, runs=runs, protocol=OPEN)
    if value_of(argv, "--lr", "") == "auto":
        argv = [*without(argv, "--lr"), "--scale-lr"]
    if value_of(argv, "--epochs", ""):
        default = replace(default, steps=None)  # the recipe's number of steps would win over what was asked for
    command = parse(kind, argv, about, default=kind(default))
    unknown = [stream for stream in command.job.streams if stream not in STREAMS]
    if unknown or not command.job.streams:
        raise InputError(f"--streams {','.join(command.job.streams)}: unknown {', '.join(unknown)!r}; valid: {', '.join(STREAMS)}")
    return command


def resolve(command: Command, world: int) -> Pretrain:
    """The job with everything decided: packed data, protocol, name, learning rate."""
    job = rooted(command.job)
    job = resolved(job, packed_set(job.data, job.runs, command.where.label))
    return scaled(job, world) if command.where.scale_lr else job


def scaled(job: Pretrain, world: int) -> Pretrain:
    """The job with the recipe's learning rate scaled to its batch."""
    recipe, numbers = Pretrain.of(job.recipe, job.data, job.name), plan(job, world)
    lr, warmup = scaled_lr(recipe.lr, recipe.batch_size, job.batch_size, recipe.warmup, numbers.steps, numbers.steps_per_epoch)
    return replace(job, lr=lr, warmup=warmup, lr_rule="linear")


def rooted(job: Pretrain) -> Pretrain:
    """The job with paths that do not depend on the working directory."""
    return replace(job, runs=job.runs.resolve(), data=job.data if job.data == SYNTHETIC else job.data.resolve())


def show(job: Pretrain, numbers: Plan, where: str) -> None:
    """The batch arithmetic in words."""
    batch = f"batch {job.batch_size} = {numbers.world} x {numbers.rows}"
    steps = f"{numbers.steps} steps ({numbers.epochs:.1f} epochs of {numbers.steps_per_epoch})"
    share = f"{job.method.queue / numbers.train:.0%} of the training clips"
    say(f"{job.name}: recipe {job.recipe}, streams {', '.join(job.streams)}, protocol {job.protocol}, data {job.data}")
    say(f"  {numbers.train} clips train, {numbers.aside} kept aside, {numbers.test} test; {batch}; {steps}")
    rate = f"lr {job.lr:g}, a tenth from step {numbers.drop_step}"
    if job.lr_rule:
        rate += f", scaled with the batch after {job.warmup} steps of warm-up: a deviation from the recipe"
    say(f"  queue {job.method.queue} = {share}; {rate}")
    if numbers.provenance:
        marked = "; tagged supervision=text-from-label" if numbers.supervision != "none" else ""
        lacking = f", {numbers.without_text} clips train without the text term" if numbers.without_text else ""
        several = ", another one each epoch" if job.captions == "each-epoch" else ""
        say(f"  captions: {numbers.provenance}{several}{lacking}{marked}")
    say(f"  on {where}")


def foresee(job: Pretrain, numbers: Plan, device: DeviceGuess, where: Where) -> Forecast:
    """Say what the job will cost."""
    device = device if where.device == "auto" else replace(device, name=where.device)
    measured = measure(job, sorted({max(1, numbers.rows // 4), numbers.rows}), device.threads) if where.measure else ()
    predicted = foretell(job, numbers, device, where.network_gbit, job.runs, measured)
    for line in lines(predicted):
        say(line)
    return predicted


def here(command: Command) -> int:
    """Train on this machine until every stream has ended."""
    where = command.where
    machine = place(command.job.nodes, len(command.job.streams))
    job = resolve(command, machine.world)
    numbers = plan(job, machine.world)
    show(job, numbers, machine.describe())
    if where.dry_run:
        device = DeviceGuess(gpu_name() if machine.gpus else "cpu", max(1, machine.gpus // machine.nodes), machine.threads)
        predicted = foresee(job, numbers, device, where)
        print_json({"job": encode(job), "place": asdict(machine), "plan": asdict(numbers), "predicted": asdict(predicted)})
        return 0
    results = train(job, machine, numbers, where.track)
    run = job.runs / job.name
    if where.json:
        print_json({"run": str(run), "streams": results})
        return 0
    for stream, result in results.items():
        say(f"{stream}: {in_words(result)}")
    say(f"next: python launch/probe.py --run {run}")
    return 0


def queued(command: Command) -> int:
    """Submit a job per stream to Slurm, and return; with --wait stay until they have ended."""
    where = command.where
    profile = profile_for(where.cluster_profile)
    asked = shape(profile, command.job.nodes, len(command.job.streams))
    job = resolve(command, asked.world)
    numbers = plan(job, asked.world)
    run = job.runs / job.name
    show(job, numbers, asked.describe())
    if where.dry_run:
        device = DeviceGuess(
            (partition_of(profile).gpu or "gpu") if asked.gpus_per_node else "cpu", asked.tasks_per_node, asked.cpus_per_task
        )
        predicted = foresee(job, numbers, device, where)
        texts = {stream: script(Unit(run, stream), asked, profile, job.runs / ".code" / "HASH") for stream in job.streams}
        say(texts[job.streams[0]])
        print_json({"job": encode(job), "place": asdict(asked), "plan": asdict(numbers), "predicted": asdict(predicted), "scripts": texts})
        return 0
    described(job)
    with prepared(job.runs, job.name, where.track):  # before jobs start, so that three of them do not make it at once
        snapshot(job.runs)
    jobs = submit_streams(job, asked, profile if where.track else untracked(profile))
    what_next(run)
    views = wait(run, job.streams, min(job.stop_after or numbers.steps, numbers.steps), where.track) if where.wait else []
    if where.json:
        print_json({"run": str(run), "jobs": jobs, "units": [asdict(view) for view in views]})
    return 0 if all(view.state in DONE for view in views) else 1


def train(job: Pretrain, here: Place, numbers: Plan, track: bool) -> dict[str, dict[str, Any]]:
    """Train every stream of a resolved job; what each came to. Finished streams are passed by."""
    run = job.runs / job.name
    until = min(job.stop_after or numbers.steps, numbers.steps)
    with tracked(job.runs, job.name, track):
        run_streams(here, describe(job), run, job.streams, until)
    return {stream: outcome(run / stream) for stream in job.streams}


def main(argv: list[str]) -> int:
    """Resolve, show, train or submit, say what came out and what comes next."""
    command = read(argv, __doc__ or "", Command)
    return queued(command) if on_slurm(command.where.cluster) else here(command)


def outcome(stream: Path) -> dict[str, Any]:
    """What a stream came to: its result, or only that it stopped."""
    path = stream / "result.json"
    return dict(read_json(path)) if path.is_file() else {"status": "stopped"}


def in_words(result: dict[str, Any]) -> str:
    """A stream's result as a sentence."""
    if result["status"] != "finished":
        return "stopped early; the same command without --stop-after goes on"
    return f"finished {result['steps']} steps in {result['seconds']:.0f} s, mean loss of the last epoch {result['loss']:.3f}"


if __name__ == "__main__":
    finish(main)
