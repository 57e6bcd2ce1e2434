"""What names the action in a clip: a run's encoder and the classifier that a probe or a fine-tuning left; no packed set, no text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acsar.skeleton import SKELETONS, by_joints
from acsar.streams import STREAMS, Stream
from acsar.types import Method
from jobs import classifier, environment, weights
from jobs.classifier import Classifier
from jobs.run_folder import RunFolder
from jobs.targets import check_streams, finished, streams_in
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.normalise import F32, NORMALISATIONS, normalise
from shards.samples import Clip

SUFFIX = ".classifier.safetensors"
ARRAYS = ("agcn", "ctrgcn")  # formats whose arrays come normalised, as their names say
SHARED = ("content_id", "protocol", "schedule")  # facts that streams of one answer have in common


@dataclass(frozen=True)
class Recogniser:
    """One stream's network, in evaluation mode: joints [B,3,T,V,M] with `frames` [B] valid frames -> logits [B,N] on the CPU."""

    stream: Stream
    method: Method
    classifier: Classifier

    def __call__(self, joints: Tensor, frames: Tensor) -> Tensor:
        device = next(self.method.parameters()).device
        features = self.method.encode(joints.to(device), frames.to(device)).float().cpu()
        # one row at a time: a product of several rows may round otherwise, and an answer shall not depend on its neighbours
        return torch.cat([self.classifier(row[None]) for row in features])


def load(run: Path, setting: str = "", trial: str = "", streams: Sequence[str] = ()) -> list[Recogniser]:
    """The recognisers of RUNS/NAME: of a probe's setting (default: the only one, or that of the run's protocol), or of a fine-tuning.

    Streams: those that have a classifier, unless they are named. Raises InputError where there is none, where a classifier goes with
    another encoder, and where streams were trained on different sets, protocols, schedules or classes."""
    check_streams(streams)
    if setting and trial:
        raise InputError("--setting names a probe and --trial a fine-tuning; give one of them")
    place = _trial(run, trial) if trial else _setting(run, setting)
    found = [name for name in STREAMS if (name in streams if streams else place(name)[0].is_file())]
    networks = [_network(name, *place(name)) for name in found]
    if not networks and trial:
        raise InputError(f"no stream of {run / 'finetune' / trial} has finished; give its finetune command again")
    if not networks:
        raise InputError(f"{run} has no classifier; probe it first: python launch/probe.py --run {run}")
    first = networks[0]
    for other in networks[1:]:
        differing = [fact for fact in SHARED if other.classifier.facts[fact] != first.classifier.facts[fact]]
        differing += [] if other.classifier.classes == first.classifier.classes else ["classes"]
        if differing:
            raise InputError(
                f"{run}: the classifiers of {first.stream} and {other.stream} differ in {' and '.join(differing)}; probe both again, or "
                f"give one of them: --streams {first.stream}"
            )
    return networks


def prepared(clip: Clip, trained: Classifier, where: str, normalisation: str = "") -> F32:
    """[C,T,V,M] of a raw clip, as the packed set of the classifier holds its clips; `where` names it in messages.

    `normalisation` replaces the set's own. Raises InputError for another skeleton, a clip without a person, and a set whose arrays came
    normalised, unless the normalisation is named."""
    facts, joints = trained.facts, clip.bodies.shape[2]
    if joints != SKELETONS[facts["skeleton"]].size:
        ours, theirs = SKELETONS[facts["skeleton"]], by_joints(joints)
        raise InputError(f"{where}: {joints} joints ({theirs.name}), but the run was trained on {ours.size} ({ours.name})")
    name = normalisation or facts["normalisation"]
    try:
        clip_of_set = normalise(clip, name, SKELETONS[facts["skeleton"]])
    except InputError as error:
        raise InputError(f"{where}: {error}", reason=error.reason) from None
    if not np.isfinite(clip_of_set).all():
        raise InputError(f"{where}: a coordinate is not finite; repair or remove this clip", reason="not finite")
    return clip_of_set.astype(facts["dtype"]).astype(np.float32)


def check_normalisation(trained: Classifier, normalisation: str) -> None:
    """Raise InputError for an unknown normalisation, and where the set's own is not known because its arrays came normalised."""
    if normalisation and normalisation not in NORMALISATIONS:
        raise InputError(f"unknown normalisation {normalisation!r}; one of {', '.join(NORMALISATIONS)}")
    made = trained.facts["format"]
    if not normalisation and made in ARRAYS and trained.facts["normalisation"] == "none":
        raise InputError(
            f"the run was trained on {made} arrays, which came normalised, so how raw clips become such is not known; say it with "
            f"--normalise {made} (what such arrays usually are)"
        )


def batch(clips: Sequence[F32]) -> tuple[Tensor, Tensor]:
    """Joints [B,3,T,V,2], zero after each clip's end and for a second person who is not there, and valid frames [B]."""
    frames = [clip.shape[1] for clip in clips]
    joints = torch.zeros(len(clips), 3, max(frames), clips[0].shape[2], 2)
    for row, clip in zip(joints, clips):
        row[:, : clip.shape[1], :, : clip.shape[3]] = torch.from_numpy(clip)
    return joints, torch.tensor(frames)


Place = Callable[[Stream], tuple[Path, Path]]  # where a stream's classifier and encoder lie


def _setting(run: Path, setting: str) -> Place:
    """The files of a probe."""
    known = sorted({path.parent.name for path in (run / "probe").glob(f"*/*{SUFFIX}")})
    if setting and setting not in known:
        raise InputError(f"{run / 'probe'} holds no classifier by {setting}; there are {', '.join(known) or 'none'}: probe again")
    if not setting and len(known) > 1:
        own = {finished(run, name)["facts"]["protocol"] for name in streams_in(run)[:1]}
        setting = next((name for name in known if name in own), "")
        if not setting:
            raise InputError(f"{run} was probed in several ways; name one with --setting: {', '.join(known)}")
    folder = run / "probe" / (setting or next(iter(known), "PROTOCOL"))
    return lambda stream: (folder / f"{stream}{SUFFIX}", RunFolder(run / stream).encoder)


def _trial(run: Path, trial: str) -> Place:
    """The files of a fine-tuning."""
    folder = run / "finetune" / trial
    if not folder.is_dir():
        known = sorted(path.name for path in (run / "finetune").glob("*"))
        raise InputError(f"{run} has no fine-tuning {trial}; it has {', '.join(known) or 'none'}")
    return lambda stream: (folder / stream / SUFFIX[1:], RunFolder(folder / stream).encoder)


def _network(stream: Stream, head: Path, encoder: Path) -> Recogniser:
    """The pair, once it is seen to belong together."""
    trained = classifier.load(head)
    sha = sha256_of(encoder) if encoder.is_file() else ""
    if trained.facts["encoder"] != sha:
        told = f"encoder {trained.facts['encoder'][:12]}, but {encoder} is {sha[:12] or 'not there'}"
        raise InputError(f"{head} goes with {told}; probe the run again")
    method = weights.load_encoder(encoder)
    width = trained.weight.shape[1]
    if weights.config(encoder).stream != stream or trained.facts["stream"] != stream or width != 2 * weights.config(encoder).width:
        raise InputError(f"{head} and {encoder} are not of one {stream} encoder; probe the run again")
    return Recogniser(stream, method.to(environment.device()), trained)
