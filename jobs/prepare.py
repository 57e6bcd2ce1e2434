"""From what the user named to a job that can run: data packed (once), then protocol, name and sizes that the data decide."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.codec import encode
from jobs.configuration import same_configuration
from jobs.pack import Pack
from jobs.pretrain import STREAMS, Pretrain, default_protocol, fitted
from jobs.run_folder import RunFolder, write_json
from jobs.synthetic import Synthetic
from shards.errors import InputError
from shards.stream import PackedSet

OPEN = "auto"  # of a field that the data decide
SYNTHETIC = Path("synthetic")  # the data of a job that names none
STORE = ".data"  # below the folder of runs: sets that the suite packed by itself

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Texts:
    """Captions and features of raw data that earlier stages make: their folders, and a short name of what they are."""

    captions: Path
    features: Path
    name: str


@dataclass(frozen=True)
class Prepare:
    """Pack raw data and write the description of the pretraining that was waiting for it."""

    job: Pretrain  # its data are raw, or SYNTHETIC
    label: str = "label"  # label column(s) of the raw data
    texts: Texts | None = None  # none: the texts of the data, if any

    def __call__(self, progress: Progress | None = None) -> dict[str, Any]:
        """Pack, decide, write; what was decided. Finished parts of the packing are not done twice."""
        make = packing(self.job.data, self.job.runs, self.label, self.texts)
        if make is not None:
            make(progress)
        job = resolved(self.job, packed_folder(self.job.data, self.job.runs, self.label, self.texts))
        describe(job)
        return {"data": str(job.data), "protocol": job.protocol, "name": job.name}


def packed_folder(data: Path, runs: Path, label: str, texts: Texts | None = None) -> Path:
    """Where the packed form of `data` is, or will be once `packing` has run."""
    if data == SYNTHETIC:
        return runs / STORE / "synthetic" / "packed"
    if (data / "manifest.json").is_file():
        return data
    mark = hashlib.sha256(f"{data.resolve()}:{label}".encode()).hexdigest()[:8]
    stem = data.parent.name if data.name == "raw" else data.stem  # the synthetic set's raw files lie in synthetic/raw
    return runs / STORE / (f"{stem}-{mark}-{texts.name}" if texts else f"{stem}-{mark}")


def packing(data: Path, runs: Path, label: str, texts: Texts | None = None) -> Callable[[Progress | None], Any] | None:
    """What makes the packed form of `data`; None when it is there. Raises InputError when there is nothing at `data`.

    With texts that earlier stages make, which caption the training part only, all other samples stay, without the text term."""
    out = packed_folder(data, runs, label, texts)
    if (out / "manifest.json").is_file():
        return None
    if data == SYNTHETIC:
        return Synthetic(out=out.parent)
    if not data.exists():
        raise InputError(f"--data {data}: nothing there; name raw data, an exchange .npz or a packed folder")
    if texts is not None:
        return Pack(data=data, out=out, label=label, captions=texts.captions, text=texts.features, missing_text="train")
    return Pack(data=data, out=out, label=label)


def resolved(job: Pretrain, packed: Path) -> Pretrain:
    """The job on its packed data, with everything decided: protocol, name, what the paper sets per benchmark."""
    protocol = default_protocol(packed) if job.protocol == OPEN else job.protocol
    name = f"{job.recipe}-{named(job.data, packed)}-{protocol}-s{job.seed}" if job.name == OPEN else job.name
    return fitted(replace(job, data=packed.resolve(), protocol=protocol, name=name))


def describe(job: Pretrain) -> Path:
    """Write RUNS/NAME/job.json, from which every rank reads the job. Raises InputError when the name belongs to another configuration,
    and then leaves what is there: a run that is in a queue reads it again when it is restarted."""
    run, content_id = job.runs / job.name, PackedSet.open(job.data).content_id
    for stream in STREAMS:
        same_configuration(RunFolder(run / stream), job, {"content_id": content_id})
    write_json(run / "job.json", encode(job))
    return run / "job.json"


def named(data: Path, packed: Path) -> str:
    """The data's part of a run's name."""
    return "synthetic" if data == SYNTHETIC else packed.name
