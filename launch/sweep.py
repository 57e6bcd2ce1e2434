"""Run an ablation of the paper: every row of a table as a run, then the table from the runs' files. Done is done: give the command again.

Rows with other captions than --data's are run where --texts names a packed set of the same clips with them; otherwise the commands that
make it are printed. On Slurm every run is pretrain -> probe -> fuse, submitted at once; here one run comes after the other. --dry-run
prints the plan and the table as far as it is. All flags of pretrain.py hold for every row; --streams is joint unless said, as in the paper.

    python launch/sweep.py --table 7 --recipe acsar --data packed/ntu60 --protocol xsub
    python launch/sweep.py --table 6,8 --data packed/ntu60 --texts sentence=packed/ntu60-sentence --texts undecoded75=packed/ntu60-hidden
    python launch/sweep.py --table figure5 --recipe acsar-small --data packed/uiprmd --seeds 0 --steps 100

tables: 6 text and modulation, 7 temperature and weight, 8 length and form, 9 frames of the strip, figure5 interaction, captioner, stem, all
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jobs import InputError, tables
from jobs.codec import encode
from jobs.fuse import Fuse
from jobs.pretrain import Pretrain, plan
from jobs.prepare import OPEN, named
from jobs.probe import Probe
from jobs.sweep import Sweep, asked, how_to_make, probed, texts_of
from launch import pipeline, pretrain
from launch.cli import finish, print_json, value_of
from launch.cluster import on_slurm, place, profile_for, shape
from launch.data import say
from launch.queued import DONE, wait
from launch.snapshot import snapshot
from launch.tracking import prepared, untracked


@dataclass(frozen=True)
class Command(pretrain.Command):
    """Flags of `sweep`: those of pretraining, which hold for every row, and of the ablation."""

    table: tuple[str, ...] = ()  # 6, 7, 8, 9, figure5, captioner, stem, or all
    texts: tuple[str, ...] = ()  # NAME=PACKED: sentence, undecoded75, undecoded512, frames3, frames8, deepseek-vl, video-ccam
    seeds: tuple[str, ...] = ("0", "1", "2")  # of each row
    out: Path | None = None  # folder of the tables; default: RUNS/reports/sweep-NAME


def main(argv: list[str]) -> int:
    """Run or submit what is missing, and print the tables."""
    command = read(argv)
    slurm = on_slurm(command.where.cluster)
    sweep = resolved(command)
    jobs = sweep.jobs()
    for name, rows in sweep.lacking().items():
        say(f"captions {name} were not given ({'; '.join(rows)}); --texts {name}=PACKED after:")
        for line in how_to_make(name):
            say(f"  {line}")
    failed: list[str] = []
    if command.where.dry_run:
        for job in jobs:
            say(f"{job.name}: {'done' if done(job) else 'to do'}")
    elif slurm:
        failed = queued(command, jobs)
    else:
        failed = here(command, jobs)
    show(command, sweep, jobs)
    return 1 if failed else 0


def read(argv: list[str]) -> Command:
    """The command line. Raises InputError for a seed that is none, and where a row's own flags are given."""
    for flag, instead in (("--seed", "--seeds 0,1,2"), ("--method.stream", "--streams")):
        if value_of(argv, flag, ""):
            raise InputError(f"{flag}: every row has it; give {instead}")
    streams = [] if value_of(argv, "--streams", "") else ["--streams", "joint"]
    return pretrain.read(_together([*argv, *streams], "--texts"), __doc__ or "", Command)


def resolved(command: Command) -> Sweep:
    """The sweep with everything decided: packed data, protocol, the beginning of the runs' names."""
    asked(command.table)
    texts = texts_of(command.texts)
    try:
        seeds = tuple(dict.fromkeys(int(word) for word in command.seeds))
    except ValueError:
        raise InputError(f"--seeds {','.join(command.seeds)}: whole numbers with commas between them, such as 0,1,2") from None
    job = pretrain.resolve(command, 1)
    if command.job.name == OPEN:
        job = replace(job, name=f"{job.recipe}-{named(command.job.data, job.data)}-{job.protocol}")
    return Sweep(job, command.table, texts, seeds)


def fits(jobs: list[Pretrain], world: int, where: str) -> None:
    """Say the arithmetic of a run on each set. Raises InputError for what fits no run, before anything is trained."""
    for job in {job.data: job for job in reversed(jobs)}.values():
        pretrain.show(job, plan(job, world), where)


def done(job: Pretrain) -> bool:
    """Is this run pretrained and probed?"""
    return all(probed(job, stream) for stream in job.streams)


def here(command: Command, jobs: list[Pretrain]) -> list[str]:
    """One run after the other on this machine; names of those that failed, whose reason has been said. The others go on."""
    machine, failed = place(command.job.nodes, len(command.job.streams)), []
    fits(jobs, machine.world, machine.describe())
    for i, job in enumerate(jobs, 1):
        if done(job):
            say(f"[{i}/{len(jobs)}] {job.name}: done before")
            continue
        say(f"[{i}/{len(jobs)}] {job.name}")
        try:
            numbers = plan(job, machine.world)
            results = pretrain.train(job, machine, numbers, command.where.track)
            if any(result["status"] != "finished" for result in results.values()):
                say(f"{job.name} stopped early; the same command without --stop-after goes on")
                continue
            unprobed = tuple(stream for stream in job.streams if not probed(job, stream))
            Probe(run=job.runs / job.name, streams=unprobed)(say)
            if len(job.streams) > 1:
                Fuse(run=job.runs / job.name, streams=job.streams)()
        except (InputError, RuntimeError) as error:
            say(f"{job.name} failed: {error}")
            failed.append(job.name)
    return failed


def queued(command: Command, jobs: list[Pretrain]) -> list[str]:
    """Submit what is missing of every run; with --wait stay until all have ended. Names of runs with a unit that failed."""
    where, profile, failed = command.where, profile_for(command.where.cluster_profile), []
    asked = shape(profile, command.job.nodes, len(command.job.streams))
    missing = [job for job in jobs if not done(job)]
    fits(missing, asked.world, asked.describe())
    for job in missing:
        with prepared(job.runs, job.name, where.track):
            snapshot(job.runs)
        say(job.name)
        pipeline.submit_chain(job, False, where.label, asked, profile if where.track else untracked(profile), None)
    if missing and not where.wait:
        say("the same command prints the table as far as it is; follow: python launch/status.py --watch")
    for job in missing if where.wait else []:
        views = wait(job.runs / job.name, [*job.streams, "probe", "fuse"], job.steps or 0, where.track)
        failed += [job.name] if any(view.state not in DONE for view in views) else []
    return failed


def show(command: Command, sweep: Sweep, jobs: list[Pretrain]) -> None:
    """The tables on the terminal, and as files where something has been trained."""
    found = {name: sweep.table(name) for name in sweep.ablations()}
    files: list[Path] = []
    if any(cell.value is not None for table in found.values() for cell in table.cells):
        files = sweep.write(command.out or sweep.base.runs / "reports" / f"sweep-{sweep.base.name}")
    if command.where.json:
        document: dict[str, Any] = {
            "base": encode(sweep.base),
            "runs": {job.name: {"method": encode(job.method), "data": str(job.data), "seed": job.seed, "done": done(job)} for job in jobs},
            "lacking": sweep.lacking(),
            "tables": {name: asdict(table) for name, table in found.items()},
            "files": [str(path) for path in files],
        }
        print_json(document)
        return
    for table in found.values():
        print(tables.plain(table))
    if files:
        say(f"written: {files[0].parent}")


def _together(argv: list[str], flag: str) -> list[str]:
    """The words with a flag that comes several times given once, its values with commas between them."""
    rest, values, words = [], [], iter(argv)
    for word in words:
        if word == flag:
            values.append(next(words, ""))
        elif word.startswith(flag + "="):
            values.append(word.removeprefix(flag + "="))
        else:
            rest.append(word)
    return [*rest, flag, ",".join(values)] if values else rest


if __name__ == "__main__":
    finish(main)
