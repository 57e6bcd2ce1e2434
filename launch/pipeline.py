"""The whole chain for one comparison: pack, pretrain every stream, probe, fuse. The same command does only what is missing.

With --describe it begins with the captions: caption (an array of slices), gate, text features, then all the rest.
On Slurm every stage is submitted at once, each waiting for the one before (afterok); what can no longer run is cancelled by Slurm.

    python launch/pipeline.py --recipe acsar --data nturgb+d_skeletons --protocol xsub --nodes 4
    python launch/pipeline.py --recipe acsar --data nturgb+d_skeletons --describe --caption.videos nturgb+d_rgb --nodes 4
    python launch/pipeline.py --recipe acsar-small --data moves.npz --describe --encode.encoder hash
    python launch/pipeline.py --recipe demo
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from jobs import InputError
from jobs.caption import GATHER, Caption
from jobs.codec import encode
from jobs.encode_text import EncodeText
from jobs.fuse import Fuse
from jobs.prepare import OPEN, STORE, SYNTHETIC, Prepare, Texts, named, packed_folder, packing, resolved
from jobs.pretrain import Pretrain, plan
from jobs.probe import Probe
from jobs.stages import finished, write_job
from jobs.synthetic import Synthetic
from launch import caption as captioning
from launch import encode_text as encoding
from launch import pretrain
from launch.cli import finish, print_json
from launch.cluster import on_slurm, place, profile_for, shape
from launch.data import packed_set, say, with_bar
from launch.profiles import Profile
from launch.queued import DONE, described, submit_missing, submit_streams, wait, what_next
from launch.snapshot import snapshot
from launch.submission import Shape
from launch.tracking import prepared, untracked
from launch.table import accuracy_table
from launch.unit import Unit


@dataclass(frozen=True)
class Command(pretrain.Command):
    """Flags of `pipeline`: those of pretraining, and of the captions that come before it."""

    describe: bool = False  # begin with captions: --caption.captioner, --caption.videos, ...; features by --encode.encoder
    caption: Caption = field(default_factory=lambda: Caption(out=Path(OPEN)))
    encode: EncodeText = field(default_factory=lambda: EncodeText(captions=Path(OPEN), out=Path(OPEN)))


@dataclass(frozen=True)
class Describing:
    """The stages before packing, and where they leave their texts."""

    caption: Caption
    encode: EncodeText
    texts: Texts

    @classmethod
    def of(cls, command: Command, data: Path, runs: Path) -> "Describing | None":
        """Both stages on these raw data, everything in its place below RUNS/.data; None where the command describes nothing.

        Raises InputError where data are packed already, or captions are asked for in a place of their own."""
        given = (command.caption.out, command.encode.captions, command.encode.out)
        if not command.describe:
            return None
        if set(given) != {Path(OPEN)}:
            raise InputError(
                "the chain keeps captions and features below its runs: leave --caption.out, --encode.captions and --encode.out out"
            )
        if (data / "manifest.json").is_file():
            raise InputError(
                f"--data {data} is packed already, with or without texts: --describe wants the raw data that it was packed from"
            )
        caption = captioning.rooted(replace(command.caption, out=runs, data=command.caption.data or data))
        protocol = "" if command.job.protocol == OPEN else command.job.protocol
        name = "".join(letter if letter.isalnum() else "-" for letter in f"{caption.name}-{command.encode.encoder}")
        packed = packed_folder(data, runs, command.where.label, Texts(runs, runs, name))
        texts = Texts(packed.with_name(f"{packed.name}.captions"), packed.with_name(f"{packed.name}.features"), name)
        caption = replace(caption, out=texts.captions, protocol=caption.protocol or protocol)
        return cls(caption, encoding.rooted(replace(command.encode, captions=texts.captions, out=texts.features)), texts)


def main(argv: list[str]) -> int:
    """Do, or submit, every stage that is missing."""
    command = pretrain.read(argv, __doc__ or "", Command)
    job = pretrain.rooted(command.job)
    if command.describe and job.data == SYNTHETIC:
        job = replace(job, data=synthetic(job.runs))
    command = replace(command, job=job)
    describing = Describing.of(command, job.data, job.runs)
    return on_cluster(command, describing) if on_slurm(command.where.cluster) else here(command, describing)


def synthetic(runs: Path) -> Path:
    """The raw files of the synthetic set, made if needed."""
    say("no --data: making the synthetic set (a stand-in for trying things, never quoted as a result)")
    with_bar("synthetic", Synthetic(out=runs / STORE / "synthetic"))
    return runs / STORE / "synthetic" / "raw"


def here(command: Command, describing: Describing | None) -> int:
    """Every stage on this machine, one after the other."""
    where = command.where
    machine = place(command.job.nodes, len(command.job.streams))
    job = command.job
    if describing is not None:
        if where.dry_run:
            raise InputError("--dry-run of a chain that begins with captions: python launch/caption.py --dry-run shows its first stage")
        describing.encode.ready()
        for what, stage in (("captions", describing.caption), ("text features", describing.encode)):
            for line in with_bar(what, lambda progress, stage=stage: stage(progress=progress))["lines"]:  # type: ignore[misc]
                say(line)
    texts = describing.texts if describing else None
    job = resolved(job, packed_set(job.data, job.runs, where.label, texts))
    job = pretrain.scaled(job, machine.world) if where.scale_lr else job
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


def on_cluster(command: Command, describing: Describing | None) -> int:
    """Every stage as jobs that wait for each other; returns when they are in the queue, with --wait when they have ended."""
    where, profile = command.where, profile_for(command.where.cluster_profile)
    asked = shape(profile, command.job.nodes, len(command.job.streams))
    job, texts = command.job, describing.texts if describing else None
    raw = packing(job.data, job.runs, where.label, texts) is not None
    packed = packed_folder(job.data, job.runs, where.label, texts)
    if raw and where.scale_lr:
        raise InputError(f"--lr auto needs the number of clips, and {job.data} is not packed yet: python launch/pack.py first")
    if raw and job.name == OPEN:
        job = replace(job, name=f"{job.recipe}-{named(job.data, packed)}-s{job.seed}")
    if not raw:
        job = resolved(job, packed)
        job = pretrain.scaled(job, asked.world) if where.scale_lr else job
        pretrain.show(job, plan(job, asked.world), asked.describe())
    order = [*(["caption", "captions", "encode-text"] if raw and describing else []), *["pack"] * raw, *job.streams, "probe", "fuse"]
    if where.dry_run:
        print_json({"job": encode(job), "stages": order, "place": encode(asked)})
        return 0
    with prepared(job.runs, job.name, where.track and not raw):
        snapshot(job.runs)
    jobs = submit_chain(job, raw, where.label, asked, profile if where.track else untracked(profile), describing)
    run = job.runs / job.name
    what_next(run)
    views = wait(run, order, job.steps or 0, where.track) if where.wait else []
    if where.json:
        print_json({"run": str(run), "jobs": jobs, "units": [asdict(view) for view in views]})
    return 0 if all(view.state in DONE for view in views) else 1


def submit_chain(
    job: Pretrain, raw: bool, label: str, asked: Shape, profile: Profile, describing: Describing | None
) -> dict[str, list[str]]:
    """Submit what is missing of every stage; {unit: its jobs in the queue}."""
    run, code = job.runs / job.name, snapshot(job.runs)
    one = replace(asked, nodes=1, tasks_per_node=1, gpus_per_node=min(1, asked.gpus_per_node))
    jobs: dict[str, list[str]] = {}
    if raw:
        before = submit_texts(describing, run, profile, code) if describing else {}
        jobs |= before
        description = write_job(Prepare(job, label, describing.texts if describing else None), run / "pack" / "job.json")
        jobs["pack"] = submit_missing(Unit(run, "pack"), "prepare", description, [""], one, profile, code, before.get("encode-text", []))
    else:
        described(job)
    jobs |= submit_streams(job, asked, profile, jobs.get("pack", []))
    trained = [number for stream in job.streams for number in jobs[stream]]
    probe, fuse = later(job)
    jobs["probe"] = submit_missing(Unit(run, "probe"), "probe", probe, job.streams, one, profile, code, trained)
    jobs["fuse"] = submit_missing(Unit(run, "fuse"), "fuse", fuse, [""], one, profile, code, jobs["probe"])
    return jobs


def submit_texts(describing: Describing, run: Path, profile: Profile, code: Path) -> dict[str, list[str]]:
    """Submit what is missing of captions, gate and text features; {unit: its jobs in the queue}. The features are one job, since how many
    distinct captions there will be is not known yet."""
    describing.encode.ready()  # missing weights are better known before hours of captioning than after
    plan, lines = describing.caption.plan()
    for line in lines:
        say(line)
    jobs: dict[str, list[str]] = {}
    for key, stage, work, parts, asked in (
        ("caption", "caption", describing.caption, plan.names, captioning.asked_of(describing.caption, profile)),
        ("captions", "caption", describing.caption, [GATHER], Shape()),
        ("encode-text", "encode-text", describing.encode, [""], encoding.asked_of(describing.encode, profile)),
    ):
        description = write_job(work, run / key / "job.json")
        after = list(jobs.values())[-1] if jobs else []
        jobs[key] = submit_missing(Unit(run, key), stage, description, parts, asked, profile, code, after)
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
