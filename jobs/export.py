"""Write one stream's network, encoder and classifier, as TorchScript or ONNX, checked against the network that it was made from."""

import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acsar.augment import FRAMES, centre_view
from acsar.scdnet import SCDNet
from acsar.skeleton import SKELETONS, Skeleton
from acsar.streams import Stream, stream
from jobs import recogniser
from jobs.classifier import Classifier
from jobs.features import CROP
from jobs.recogniser import Recogniser
from jobs.run_folder import writing
from jobs.targets import find_run, finished, streams_in
from shards import protocols
from shards.errors import InputError
from shards.manifest import sync_folder
from shards.stream import PackedSet
from shards.unlabelled import clips_in, files_at

Format = Literal["onnx", "torchscript"]
NAME = "acsar"  # of the JSON inside either file
OUTPUTS = ("logits", "features")
OPSET = 17  # the smallest with LayerNormalization: what runtimes of 2022 read
CLIPS = 16  # that the check takes
TOLERANCE = 1e-4  # largest difference, relative to the largest output


class Network(nn.Module):
    """Normalised joints [B,3,64,V,M] -> (logits [B,N], features [B,D]): the stream, the frozen encoder, the classifier."""

    def __init__(self, one: Recogniser) -> None:
        super().__init__()
        assert isinstance(one.method, SCDNet)
        self.encoder = one.method.query.encoder
        self.name: Stream = one.stream
        self.skeleton: Skeleton = one.method.skeleton
        self.register_buffer("weight", one.classifier.weight)
        self.register_buffer("bias", one.classifier.bias)

    def forward(self, joints: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.cat(self.encoder(stream(joints, self.name, self.skeleton)), 1)
        return F.linear(features, self.get_buffer("weight"), self.get_buffer("bias")), features


@dataclass(frozen=True)
class Export:
    """Write a stream's network as one file that needs none of this code."""

    run: Path  # RUNS/NAME (or NAME below --runs), probed or fine-tuned
    out: Path  # the file to write
    stream: str = "joint"  # joint, bone or motion; one file each
    format: Format = "onnx"  # onnx: for any runtime; torchscript: for torch.jit.load, from Python or C++
    setting: str = ""  # which probe's classifier: a folder of RUNS/NAME/probe; default the only one, or the run's protocol
    trial: str = ""  # encoder and classifier of a fine-tuning instead: a folder of RUNS/NAME/finetune
    clips: Path | None = None  # raw clips for the check (as predict.py takes); default: test clips of the run's packed set
    normalise: str = ""  # of these raw clips; default: as the packed set was normalised
    runs: Path | None = None  # where a bare NAME is looked up; default $ACSAR_RUNS, else ./runs

    def __call__(self) -> dict[str, Any]:
        """{"file", "bytes", "clips", "difference", "scale", "lines"}: the largest difference of any output from the network's own.

        Raises InputError for a run that cannot name actions and where no clips are to be had, RuntimeError where outputs differ; then
        there is no file."""
        if self.format == "onnx" and not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
            raise InputError("--format onnx needs the packages onnx and onnxruntime: pip install -c constraints.txt -e '.[export]'")
        run = find_run(self.run, self.runs)
        (one,) = recogniser.load(run, self.setting, self.trial, (self.stream,))
        one.method.cpu()
        joints = self._joints(run, one)
        out = self.out.absolute()
        beside = out.with_name(f".{out.name}.{os.getpid()}.part")
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            try:
                beside.touch()  # torch has no error of its own for a folder that cannot be written
                write(beside, self.format, one)
                difference, scale = compared(one, READERS[self.format](beside), joints)
                if not difference <= TOLERANCE * scale:
                    said = f"by {difference:.2g} on outputs up to {scale:.3g}"
                    raise RuntimeError(f"the {self.format} file differs from the network {said}; it was not kept")
                beside.replace(out)
                sync_folder(out.parent)
            finally:
                beside.unlink(missing_ok=True)
        size, (clips, _, _, v, m) = out.stat().st_size, joints.shape
        lines = [
            f"{out}: {size / 1e6:.1f} MB, joints [B,3,{FRAMES},{v},{m}] -> logits [B,{len(one.classifier.classes)}], "
            f"features [B,{one.classifier.weight.shape[1]}]",
            f"checked on {clips} clips, all at once and one alone: largest difference {difference:.2g} (outputs up to {scale:.3g})",
        ]
        return {"file": str(out), "bytes": size, "clips": clips, "difference": difference, "scale": scale, "lines": lines}

    def _joints(self, run: Path, one: Recogniser) -> Tensor:
        """Real clips [B,3,64,V,M] for the check."""
        if self.clips is not None:
            recogniser.check_normalisation(one.classifier, self.normalise)
            found = [clip for file in files_at(self.clips) for clip in clips_in(file)][:CLIPS]
            read = [recogniser.prepared(clip.read(), one.classifier, clip.where, self.normalise) for clip in found]
            return view(*recogniser.batch(read), one.classifier)
        name = self.stream if self.stream in streams_in(run) else streams_in(run)[0]
        data = Path(finished(run, name)["job"]["data"])
        facts = one.classifier.facts
        if not (data / "manifest.json").is_file() or (packed := PackedSet.open(data)).content_id != facts["content_id"]:
            raise InputError(f"{data} does not hold the clips that this classifier was trained on; give some for the check: --clips PATH")
        _, test = protocols.parts(packed.samples, facts["protocol"], packed.manifest["benchmark"])
        rows = packed.load(sorted(test)[:CLIPS])
        return view(torch.from_numpy(rows.joints), torch.from_numpy(rows.frames), one.classifier)


def view(joints: Tensor, frames: Tensor, trained: Classifier) -> Tensor:
    """What the network takes, [B,3,64,V,M]: the middle 95 % of the valid frames of joints [B,3,T,V,M], resized to 64."""
    return centre_view(joints, frames, "joint", SKELETONS[trained.facts["skeleton"]], CROP)


def facts_of(one: Recogniser) -> dict[str, Any]:
    """What the file says about itself: classes, the classifier's facts, and how a clip becomes the network's input."""
    facts, layout = one.classifier.facts, SKELETONS[one.classifier.facts["skeleton"]]
    prepare = f"metres, camera axes; normalised as {facts['normalisation']}; middle {CROP:.0%} of the valid frames, resized to {FRAMES}"
    return {
        **facts,
        "classes": list(one.classifier.classes),
        "joints": list(layout.joints),
        "input": f"joints float32 [B,3,{FRAMES},{layout.size},2]; {prepare}; an absent second person is 0; the stream is made inside",
        "outputs": list(OUTPUTS),
    }


def write(path: Path, format: Format, one: Recogniser) -> None:
    """Record the network once (torch.jit.trace) and write it in this format, with `facts_of` as JSON inside under the name "acsar".

    ONNX too is written from the trace: torch's newer exporter gives the same numbers and takes 9 s instead of half a second."""
    network = Network(one).eval().requires_grad_(False)
    facts = json.dumps(facts_of(one), ensure_ascii=False)
    example = torch.zeros(2, 3, FRAMES, SKELETONS[one.classifier.facts["skeleton"]].size, 2)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of sizes that are constants here: the check runs two sizes of batch
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        if format == "torchscript":
            torch.jit.save(traced, str(path), _extra_files={NAME: facts})
            return
        free = {name: {0: "batch"} for name in ("joints", *OUTPUTS)}
        torch.onnx.export(
            traced,
            (example,),
            str(path),
            dynamo=False,
            input_names=["joints"],
            output_names=list(OUTPUTS),
            dynamic_axes=free,
            opset_version=OPSET,
        )
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {NAME: facts})
    onnx.save(model, str(path))


Run = Callable[[Tensor], Sequence[Tensor]]


def read_torchscript(path: Path) -> Run:
    """The file as a function of joints."""
    network = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return lambda joints: network(joints)


def read_onnx(path: Path) -> Run:
    """The file as a function of joints, by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda joints: [torch.from_numpy(output) for output in session.run(list(OUTPUTS), {"joints": joints.numpy()})]


READERS: dict[Format, Callable[[Path], Run]] = {"onnx": read_onnx, "torchscript": read_torchscript}


@torch.no_grad()
def compared(one: Recogniser, run: Run, joints: Tensor) -> tuple[float, float]:
    """Largest difference of the file's outputs from the method's own on joints [B,3,64,V,M], all at once and the first alone, and the
    largest of the method's outputs."""
    features = one.method.encode(joints)
    own = (one.classifier(features), features)
    pairs = [(found, wanted[: len(found)]) for rows in (joints, joints[:1]) for found, wanted in zip(run(rows), own)]
    return max(float((found - wanted).abs().max()) for found, wanted in pairs), max(float(wanted.abs().max()) for wanted in own)
