"""Encode captions into text features: each distinct caption once, in slices, as array jobs on Slurm or one after the other here.

The default is CLIP's ViT-B-32 by OpenAI, a vector per token; its weights are fetched once by launch/fetch_assets.py. `--encoder hash`
needs no weights and means nothing: for trying things. Killed halfway, the same command goes on inside the slice; finished, it does nothing.

    python launch/encode_text.py --captions captions/ntu60 --out features/ntu60
    python launch/encode_text.py --captions captions/ntu60 --out features/ntu60 --pretrained mine.safetensors --activation quickgelu
    python launch/encode_text.py --captions captions/ntu60 --out features/ntu60-hidden --level hidden
    python launch/encode_text.py --captions captions.jsonl --out features/trial --encoder hash
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs import InputError
from jobs.assets import assets_folder
from jobs.encode_text import GATHER, EncodeText
from jobs.stages import write_job
from jobs.targets import default_runs
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

STAGE = "encode-text"


@dataclass(frozen=True)
class Command:
    """Flags of `encode_text`."""

    job: Annotated[EncodeText, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    array: int = 8  # on Slurm: slices that are worked on at the same time, at most
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where, metadata={"flat": True})


def main(argv: list[str]) -> int:
    """Encode, here or as jobs, and report."""
    command = parse(Command, argv, __doc__ or "")
    job, where = rooted(command.job), command.where
    if command.array < 1:
        raise InputError(f"--array {command.array}: at least 1 slice at a time is needed")
    if where.dry_run:
        report = job.foretell()
        if on_slurm(where.cluster) and not where.json:
            unit, profile = Unit(run_of(job), STAGE), replace(profile_for(where.cluster_profile), at_once=command.array)
            print(script(unit, asked_of(job, profile), profile, unit.run.parent / ".code" / "HASH", max(1, report["slices"])))
    elif on_slurm(where.cluster):
        code = queue(command, job)
        if code or not where.wait:
            return code
        report = job(GATHER)
    else:
        report = with_bar("captions", lambda progress: job(progress=progress))
    tell(report, where.json)
    return 0


def queue(command: Command, job: EncodeText) -> int:
    """Submit the slices that are neither finished nor queued, and the merging after them; with --wait stay until they have ended."""
    where, profile = command.where, profile_for(command.where.cluster_profile)
    run, jobs = run_of(job), dict[str, Any]()
    code = snapshot(run.parent)
    if job.level != "hidden":
        plan, lines = job.plan()
        for line in lines:
            say(line)
        unit, at_once = Unit(run, STAGE), replace(profile, at_once=command.array)
        description = write_job(job, unit.folder / "job.json")
        jobs[STAGE] = submit_missing(unit, STAGE, description, plan.names, asked_of(job, profile), at_once, code)
    gather = Unit(run, GATHER)
    description = write_job(job, gather.folder / "job.json")
    jobs[GATHER] = submit_missing(gather, STAGE, description, [GATHER], Shape(), profile, code, jobs.get(STAGE, ()))
    if where.wait:
        ended = wait(run, list(jobs), 0, track=False)
        return 0 if all(view.state in DONE for view in ended) else 1
    what_next(run)
    if where.json:
        print_json({"run": str(run), "jobs": jobs})
    else:
        say("the same command with --wait prints the result")
    return 0


def asked_of(job: EncodeText, profile: Profile) -> Shape:
    """What a slice asks of Slurm: a GPU and its share of the node's processors for a tower, one processor for the stand-in."""
    whole = shape(profile, 1, 1)
    return replace(whole, tasks_per_node=1, gpus_per_node=min(1, whole.gpus_per_node)) if job.on_device else Shape()


def run_of(job: EncodeText) -> Path:
    """Where the jobs' logs lie, RUNS/encode-text-NAME."""
    return default_runs().resolve() / f"{STAGE}-{job.out.name}"


def rooted(job: EncodeText) -> EncodeText:
    """The job with paths that do not depend on the working directory, nor on this shell's variables."""
    return replace(cli.rooted(job, ("captions", "out", "reuse"), ("pretrained",)), assets=assets_folder(job.assets))


if __name__ == "__main__":
    finish(main)
