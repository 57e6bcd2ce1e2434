"""Caption the training part of a set: slices of clips, as array jobs on Slurm or one after the other here, then the quality gate.

Looks at videos (ovis2, deepseek-vl, other models, an endpoint), at skeletons alone (motion), or takes over what others published (import).
Killed halfway, the same command goes on inside the slice; finished, it does nothing.

    python launch/caption.py --videos nturgb+d_rgb --out captions/ntu60 --preview 12
    python launch/caption.py --videos nturgb+d_rgb --out captions/ntu60 --captioner ovis2 --array 64
    python launch/caption.py --data nturgb+d_skeletons --out captions/ntu60-motion
    python launch/caption.py --captions published.json --data PKUMMDv2 --out captions/pku-published
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from jobs import InputError
from jobs.caption import GATHER, Caption
from jobs.caption_slices import PLAN, Plan, progress
from jobs.stages import write_job
from launch import cli
from launch.cli import finish, parse, print_json
from launch.cluster import on_slurm, profile_for, shape
from launch.data import say, tell, with_bar
from launch.profiles import Profile
from launch.queued import DONE, submit_missing, wait, what_next
from launch.snapshot import snapshot
from launch.stage import Where
from launch.submission import Shape, script
from launch.unit import Unit

STAGE = "caption"
LIGHT_CPUS = 2  # processors of a slice without a model: one describes, one looks ahead


@dataclass(frozen=True)
class Command:
    """Flags of `caption`."""

    job: Annotated[Caption, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    array: int = 32  # on Slurm: slices that are worked on at the same time, at most
    preview: int = 0  # look at so many clips and stop: a contact sheet of their strips (without videos: their captions)
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Caption, here or as jobs, and report."""
    command = parse(Command, argv, __doc__ or "")
    job, where = rooted(command.job), command.where
    if command.array < 1 or command.preview < 0:
        raise InputError(f"--array {command.array} and --preview {command.preview}: at least 1 slice at a time, and no negative preview")
    if command.preview:
        report = job.preview(command.preview)
    elif where.dry_run:
        return foretold(command, job)
    elif on_slurm(where.cluster):
        plan, lines = job.plan()
        for line in lines:
            say(line)
        code = queue(command, job, plan)
        if code or not where.wait:
            return code
        report = job(GATHER)
    else:
        report = with_bar("captions", lambda progress: job(progress=progress, say=say))
    tell(report, where.json)
    return 0


def queue(command: Command, job: Caption, plan: Plan) -> int:
    """Submit the slices that are neither finished nor queued, and what comes after them; with --wait stay until they have ended."""
    where, profile = command.where, profile_for(command.where.cluster_profile)
    run = run_of(job)
    slices, gather = Unit(run, STAGE), Unit(run, GATHER)
    description = write_job(job, slices.folder / "job.json")
    code = snapshot(run.parent)
    at_once = replace(profile, at_once=command.array)
    asked = asked_of(job, profile)
    jobs = {STAGE: submit_missing(slices, STAGE, description, plan.names, asked, at_once, code)}
    after = write_job(job, gather.folder / "job.json")
    jobs[GATHER] = submit_missing(gather, STAGE, after, [GATHER], Shape(cpus_per_task=1), profile, code, jobs[STAGE])
    if where.wait:
        ended = wait(run, [STAGE, GATHER], 0, track=False)
        return 0 if all(view.state in DONE for view in ended) else 1
    what_next(run)
    if where.json:
        print_json({"run": str(run), "jobs": jobs, "slices": len(plan.names), "clips": plan.clips})
    else:
        say("the same command with --wait prints the report")
    return 0


def asked_of(job: Caption, profile: Profile) -> Shape:
    """What a slice asks of Slurm: a GPU and its share of the node's processors where a model runs, else two processors."""
    whole = shape(profile, 1, 1)
    if job.on_device:
        return replace(whole, tasks_per_node=1, gpus_per_node=min(1, whole.gpus_per_node))
    cpus = profile.cpus_per_task or min(LIGHT_CPUS, whole.cpus_per_task)
    return Shape(cpus_per_task=cpus)


def foretold(command: Command, job: Caption) -> int:
    """Say what would be done, and what is missing for it; nothing is written."""
    chosen = job.chosen()
    count = -(-len(chosen.keys) // job.slice)
    here = not on_slurm(command.where.cluster)
    place = "one after the other on this machine" if here else f"as an array of jobs, at most {command.array} at a time"
    lines = [
        *chosen.lines,
        f"slices of {min(job.slice, len(chosen.keys))} clips: {count}, {place}, then the quality gate",
        f"captioner {job.name}{f' ({job.model})' if job.model else ''}"
        + (f", prompts {' then '.join(job.prompts)}" if job.sees == "strip" else ""),
        f"captions: {job.out / 'captions.jsonl'}",
    ]
    if (job.out / PLAN).is_file():
        done = progress(job.out)
        lines.append(f"done already: {done.done} of {done.total} clips")
    if command.where.json:
        print_json({"clips": len(chosen.keys), "slices": count, "captioner": job.name, "lines": lines})
        return 0
    if not here:
        profile = profile_for(command.where.cluster_profile)
        run = run_of(job)
        print(
            script(Unit(run, STAGE), asked_of(job, profile), replace(profile, at_once=command.array), run.parent / ".code" / "HASH", count)
        )
    for line in lines:
        say(line)
    job.check_weights()
    return 0


def run_of(job: Caption) -> Path:
    """Where the jobs' logs lie, RUNS/caption-NAME."""
    from jobs.targets import default_runs  # torch: seconds that captioning here, without a model, need not wait

    return default_runs().resolve() / f"caption-{job.out.name}"


def rooted(job: Caption) -> Caption:
    """The job with paths that do not depend on the working directory."""
    return cli.rooted(job, ("out", "videos", "data", "keys", "captions", "boxes", "assets"), ("model", "detector"))


if __name__ == "__main__":
    finish(main)
