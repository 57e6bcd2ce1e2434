"""The whole chain for one comparison: pack, pretrain every stream, probe, fuse. The same command does only what is missing.

On Slurm every stage is submitted at once, each waiting for the one before (afterok); what can no longer run is cancelled by Slurm.

    python launch/pipeline.py --recipe acsar --data nturgb+d_skeletons --protocol xsub --nodes 4
    python launch/pipeline.py --recipe demo
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import asdict, replace
from pathlib import Path

from jobs import InputError
from jobs.codec import encode
from jobs.fuse import Fuse
from jobs.prepare import OPEN, Prepare, named, packed_folder, packing, resolved
from jobs.pretrain import Pretrain, plan
from jobs.probe import Probe
from jobs.stages import finished, write_job
from launch import pretrain
from launch.cli import finish, print_json
from launch.cluster import on_slurm, place, profile_for, shape
from launch.data import say
from launch.profiles import Profile
from launch.queued import DONE, described, submit_missing, submit_streams, wait, what_next
from launch.snapshot import snapshot
from launch.submission import Shape
from launch.tracking import prepared, untracked
from launch.table import accuracy_table
from launch.unit import Unit


def main(argv: list[str]) -> int:
    """Do, or submit, every stage that is missing."""
    command = pretrain.read(argv, __doc__ or "")
    return on_cluster(command) if on_slurm(command.where.cluster) else here(command)


def here(command: pretrain.Command) -> int:
    """Every stage on this machine, one after the other."""
    where = command.where
    machine = place(command.job.nodes, len(command.job.streams))
    job = pretrain.resolve(command, machine.world)
    numbers = plan(job, machine.world)
    pretrain.show(job, numbers, machine.describe())
    if where.dry_run:
        print_json({"job": encode(job), "stages": ["pretrain", "probe", "fuse"]})
        return 0
    results = pretrain.train(job, machine, numbers, where.track)
    run = job.runs / job.name
    stopped = [stream for stream, result in results.items() if result["status"] != "finished"]
    if stopped:
        say(f"{', '.join(stopped)} stopped early; the same command without --stop-after goes on")
        return 0
    probe, _ = later(job)
    unprobed = [stream for stream in job.streams if not finished("probe", probe, stream)]
    accuracies = Probe(run=run, streams=job.streams)(say) if unprobed else {}
    fused = Fuse(run=run, streams=job.streams)()
    if where.json:
        print_json({"run": str(run), "streams": results, "probes": accuracies, "fused": fused})
        return 0
    if accuracies:
        accuracy_table(accuracies, job.name)
    print(f"fused {' + '.join(fused['streams'])}: top-1 {fused['top1']:.1f} %, top-5 {fused['top5']:.1f} % of {fused['n']} test clips")
    return 0


def on_cluster(command: pretrain.Command) -> int:
    """Every stage as jobs that wait for each other; returns when they are in the queue, with --wait when they have ended."""
    where, profile = command.where, profile_for(command.where.cluster_profile)
    asked = shape(profile, command.job.nodes, len(command.job.streams))
    job = pretrain.rooted(command.job)
    raw = packing(job.data, job.runs, where.label) is not None
    packed = packed_folder(job.data, job.runs, where.label)
    if raw and where.scale_lr:
        raise InputError(f"--lr auto needs the number of clips, and {job.data} is not packed yet: python launch/pack.py first")
    if raw and job.name == OPEN:
        job = replace(job, name=f"{job.recipe}-{named(job.data, packed)}-s{job.seed}")
    if not raw:
        job = resolved(job, packed)
        job = pretrain.scaled(job, asked.world) if where.scale_lr else job
        pretrain.show(job, plan(job, asked.world), asked.describe())
    order = ["pack"] * raw + [*job.streams, "probe", "fuse"]
    if where.dry_run:
        print_json({"job": encode(job), "stages": order, "place": encode(asked)})
        return 0
    with prepared(job.runs, job.name, where.track and not raw):
        snapshot(job.runs)
    jobs = submit_chain(job, raw, where.label, asked, profile if where.track else untracked(profile))
    run = job.runs / job.name
    what_next(run)
    views = wait(run, order, job.steps or 0, where.track) if where.wait else []
    if where.json:
        print_json({"run": str(run), "jobs": jobs, "units": [asdict(view) for view in views]})
    return 0 if all(view.state in DONE for view in views) else 1


def submit_chain(job: Pretrain, raw: bool, label: str, asked: Shape, profile: Profile) -> dict[str, list[str]]:
    """Submit what is missing of every stage; {unit: its jobs in the queue}."""
    run, code = job.runs / job.name, snapshot(job.runs)
    one = replace(asked, nodes=1, tasks_per_node=1, gpus_per_node=min(1, asked.gpus_per_node))
    jobs: dict[str, list[str]] = {}
    if raw:
        description = write_job(Prepare(job, label), run / "pack" / "job.json")
        jobs["pack"] = submit_missing(Unit(run, "pack"), "prepare", description, [""], one, profile, code)
    else:
        described(job)
    jobs |= submit_streams(job, asked, profile, jobs.get("pack", []))
    trained = [number for stream in job.streams for number in jobs[stream]]
    probe, fuse = later(job)
    jobs["probe"] = submit_missing(Unit(run, "probe"), "probe", probe, job.streams, one, profile, code, trained)
    jobs["fuse"] = submit_missing(Unit(run, "fuse"), "fuse", fuse, [""], one, profile, code, jobs["probe"])
    return jobs


def later(job: Pretrain) -> tuple[Path, Path]:
    """The descriptions of the stages that come after pretraining."""
    run = job.runs / job.name
    return (
        write_job(Probe(run=run, streams=job.streams), run / "probe" / "job.json"),
        write_job(Fuse(run=run, streams=job.streams), run / "fuse" / "job.json"),
    )


if __name__ == "__main__":
    finish(main)
