"""Name the action in clips that nobody has labelled, by a run's encoders and classifiers: skeletons only, no text, no video."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acsar import probes
from jobs import recogniser
from jobs.features import BATCH
from jobs.recogniser import Recogniser
from jobs.run_folder import write_bytes, writing
from jobs.targets import find_run
from shards.class_names import named
from shards.errors import InputError
from shards.normalise import F32
from shards.samples import FRAMES_MAX
from shards.unlabelled import Unlabelled, clips_in, files_at

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
Fail = Callable[[str, InputError], None]


@dataclass(frozen=True)
class Named:
    """A class, as the packed set numbers and calls it and as people do, and how probable it is."""

    label: int
    name: str
    spoken: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one clip, first of all the first."""

    clip: str
    file: str
    top: tuple[Named, ...]


@dataclass(frozen=True)
class Predict:
    """Name the action in clips. Needs the run's folder alone: no packed set, no captions."""

    run: Path  # RUNS/NAME (or NAME below --runs), probed or fine-tuned
    streams: tuple[str, ...] = ()  # default: every stream that has a classifier; several are fused, softmax x 0.5
    setting: str = ""  # which probe's classifiers: a folder of RUNS/NAME/probe; default the only one, or the run's protocol
    trial: str = ""  # classifiers and encoders of a fine-tuning instead: a folder of RUNS/NAME/finetune
    top: int = 5  # how many classes are named
    normalise: str = ""  # default: as the packed set was normalised; needed where that was made of arrays that came normalised
    batch: int = BATCH  # clips that pass the encoder at once; on a CPU the numbers do not depend on it
    out: Path | None = None  # also a table for programs, FILE.csv: a row per clip
    runs: Path | None = None  # where a bare NAME is looked up; default $ACSAR_RUNS, else ./runs

    def __call__(
        self, inputs: Sequence[Path], say: Say = lambda line: None, progress: Progress = lambda done, total: None
    ) -> dict[str, Any]:
        """{"run", "streams", "setting", "classes", "clips": predictions, "cut": files and clips that are longer than what is looked at,
        "failed": [{"input", "reason"}]}. Probabilities are the classifiers' own and nobody has calibrated them.

        inputs: .skeleton files, exchange .npz files (their labels are not looked at), folders of both. What cannot be read is told to
        `say`, one line each, and the rest goes on; `progress` hears of clips done and clips in all.
        Raises InputError where the run cannot name actions, and for --top and --batch below 1."""
        if self.top < 1 or self.batch < 1:
            raise InputError(f"--top {self.top} and --batch {self.batch} must be at least 1")
        if not inputs:
            raise InputError("no INPUT; give .skeleton files, exchange .npz files, or folders of them")
        run = find_run(self.run, self.runs)
        networks = recogniser.load(run, self.setting, self.trial, self.streams)
        recogniser.check_normalisation(networks[0].classifier, self.normalise)
        failed: list[dict[str, str]] = []
        cut: list[str] = []

        def fail(where: str, error: InputError) -> None:
            failed.append({"input": where, "reason": str(error)})
            say(str(error))

        clips = list(_clips(inputs, fail))
        found: list[Prediction] = []
        for start in range(0, len(clips), self.batch):
            progress(start, len(clips))
            found += self._named(networks, clips[start : start + self.batch], fail, cut.append)
        progress(len(clips), len(clips))
        if cut:
            say(f"{len(cut)} of {len(found)} are longer than {FRAMES_MAX} frames; the first {FRAMES_MAX} count, as in training: {cut[0]}")
        if self.out is not None:
            with writing(self.out):
                write_bytes(self.out, table(found, self.top).encode())
        facts, names = networks[0].classifier.facts, networks[0].classifier.classes
        setting = f"finetune {self.trial}" if self.trial else self.setting or facts["protocol"]
        return {
            "run": str(run),
            "streams": [network.stream for network in networks],
            "setting": setting,
            "classes": len(names),
            "clips": [asdict(one) for one in found],
            "cut": cut,
            "failed": failed,
        }

    def _named(self, networks: Sequence[Recogniser], clips: Sequence[Unlabelled], fail: Fail, long: Say) -> list[Prediction]:
        """The predictions of those clips that can be read."""
        trained, read, bodies = networks[0].classifier, list[Unlabelled](), list[F32]()
        for clip in clips:
            try:
                raw = clip.read()
                bodies.append(recogniser.prepared(raw, trained, clip.where, self.normalise))
            except InputError as error:
                fail(clip.where, error)
                continue
            read.append(clip)
            if raw.cut:
                long(clip.where)
        if not read:
            return []
        shares = probabilities(networks, bodies)
        spoken = named(trained.classes)
        found = []
        for clip, row in zip(read, shares):
            order = torch.argsort(row, descending=True, stable=True)[: self.top].tolist()
            top = tuple(Named(label, trained.classes[label], spoken[label], float(row[label])) for label in order)
            found.append(Prediction(clip.name, str(clip.file), top))
        return found


def _clips(inputs: Sequence[Path], fail: Fail) -> Iterator[Unlabelled]:
    """All clips of all inputs that can be opened."""
    for path in inputs:
        try:
            files = files_at(path)
        except InputError as error:
            fail(str(path), error)
            continue
        for file in files:
            try:
                yield from clips_in(file)
            except InputError as error:
                fail(str(file), error)


def probabilities(networks: Sequence[Recogniser], clips: Sequence[F32]) -> Tensor:
    """[B,N], rows that add up to 1: each stream's softmax x 0.5, added (AC-SAR section 3.6), over the sum of the weights.

    clips: joints [C,T,V,M] each, normalised as the set that the classifiers were trained on."""
    joints, frames = recogniser.batch(clips)
    scores = [network(joints, frames).double() for network in networks]
    total = probes.fuse_scores(scores)
    return total / total.sum(1, keepdim=True)


def table(predictions: Sequence[Prediction], top: int) -> str:
    """CSV: clip, file, and class and probability of each rank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    most = max((len(one.top) for one in predictions), default=top)
    ranks = [f"{what}{rank}" for rank in range(1, most + 1) for what in ("class", "probability")]
    writer.writerow(["clip", "file", *ranks])
    for one in predictions:
        writer.writerow([one.clip, one.file, *(word for c in one.top for word in (c.spoken, f"{c.probability:.6f}"))])
    return text.getvalue()
