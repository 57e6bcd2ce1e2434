"""Write one stream's network as TorchScript or ONNX: normalised joints [B,3,64,V,M] -> logits [B,N] and features [B,D].

The stream (bone, motion) is made inside, B is free. The file is checked on real clips against the network that it was made from; where
they differ there is no file. Classes, normalisation and ids are JSON inside the file. It needs none of this code:

    import json, onnxruntime                                       import json, torch
    net = onnxruntime.InferenceSession("joint.onnx")               facts = {"acsar": ""}
    facts = net.get_modelmeta().custom_metadata_map["acsar"]       net = torch.jit.load("joint.pt", _extra_files=facts)
    logits, features = net.run(None, {"joints": clips})            logits, features = net(clips)
    print(json.loads(facts)["classes"][logits[0].argmax()])        print(json.loads(facts["acsar"])["classes"][logits[0].argmax()])

json.loads(facts)["input"] says how a clip is prepared; all streams of a run in one answer, from raw files: launch/predict.py.

    python launch/export.py --run runs/NAME --stream joint --format onnx --out joint.onnx
    python launch/export.py --run runs/NAME --stream bone --format torchscript --out bone.pt
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.export import Export
from launch.cli import finish, parse
from launch.data import tell


@dataclass(frozen=True)
class Command:
    """Flags of `export`."""

    job: Annotated[Export, tyro.conf.arg(name="")] = field(metadata={"flat": True})
    json: bool = False  # print one JSON document and nothing else


def main(argv: list[str]) -> int:
    """Export, check, and say how far the outputs differ."""
    command = parse(Command, argv, __doc__ or "")
    tell(command.job(), command.json)
    return 0


if __name__ == "__main__":
    finish(main)
