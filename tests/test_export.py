"""Export: what the file says is what the network says, for any number of clips; a file that differs is not kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

from jobs import classifier, export, recogniser
from jobs.classifier import Classifier
from jobs.export import Export, Format, view
from jobs.run_folder import RunFolder
from launch import export as command
from shards import open_source
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.stream import PackedSet
from tests.clips import packed_clips
from tests.moves import finished_run

GOLDEN = Path(__file__).parent / "data" / "golden_raw"
CLASSES = ("sit down", "stand up", "wave", "Ä and ö")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two streams with classifiers of drawn numbers."""
    packed = PackedSet.open(packed_clips(tmp_path_factory.mktemp("moves")))
    run = finished_run(tmp_path_factory.mktemp("runs") / "tiny", packed, ("joint", "bone"))
    numbers = torch.Generator().manual_seed(0)
    for stream in ("joint", "bone"):
        facts = classifier.set_facts(packed.manifest) | {"protocol": "split", "stream": stream, "schedule": "official"}
        facts["encoder"] = sha256_of(RunFolder(run / stream).encoder)
        drawn = Classifier(torch.randn(4, 32, generator=numbers), torch.randn(4, generator=numbers), CLASSES, facts)
        classifier.save(run / f"probe/split/{stream}.classifier.safetensors", drawn)
    return run


def recordings(run: Path, stream: str) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The three recordings of NTU as the network takes them, and what the run's own network says of them."""
    (one,) = recogniser.load(run, streams=(stream,))
    source = open_source(GOLDEN)
    clips = [recogniser.prepared(source.read(sample.key), one.classifier, sample.key) for sample in source.samples()]
    joints, frames = recogniser.batch(clips)
    features = one.method.encode(joints, frames)
    return view(joints, frames, one.classifier), (one.classifier(features), features)


def test_onnx_says_what_the_network_says(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "bone.onnx"
    report = Export(run=run, out=out, stream="bone")()
    assert report["clips"] == 16 and report["difference"] <= 1e-4 * report["scale"] and report["bytes"] == out.stat().st_size
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 25, 2]
    joints, own = recordings(run, "bone")
    for count in (1, 3):
        found = session.run(None, {"joints": joints[:count].numpy()})
        assert all(torch.allclose(torch.from_numpy(a), b[:count], atol=1e-4, rtol=1e-4) for a, b in zip(found, own))
    assert_facts(json.loads(session.get_modelmeta().custom_metadata_map["acsar"]), "bone")


def test_torchscript_says_what_the_network_says(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "joint.pt"
    words = ["--run", str(run), "--out", str(out), "--format", "torchscript", "--clips", str(GOLDEN)]
    assert command.main(words) == 0
    told = capsys.readouterr().err
    assert "joints [B,3,64,25,2] -> logits [B,4], features [B,32]" in told and "checked on 3 clips" in told
    facts = {"acsar": ""}
    network = torch.jit.load(str(out), _extra_files=facts)  # type: ignore[no-untyped-call]
    joints, own = recordings(run, "joint")
    for count in (1, 3):
        found = network(joints[:count])
        assert all(torch.allclose(a, b[:count], atol=1e-4, rtol=1e-4) for a, b in zip(found, own))
    assert_facts(json.loads(facts["acsar"]), "joint")
    with pytest.raises(InputError, match=r"motion\.classifier\.safetensors does not exist; probe or fine-tune that stream first"):
        command.main([*words, "--stream", "motion"])


def assert_facts(facts: dict[str, Any], stream: str) -> None:
    assert tuple(facts["classes"]) == CLASSES and facts["stream"] == stream and facts["normalisation"] == "agcn"
    assert len(facts["content_id"]) == len(facts["encoder"]) == 64 and len(facts["joints"]) == 25 and "95%" in facts["input"]


def test_a_file_that_differs_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = export.write

    def wrong(path: Path, format: Format, one: recogniser.Recogniser) -> None:
        write(path, format, replace(one, classifier=replace(one.classifier, bias=one.classifier.bias + 0.5)))

    monkeypatch.setattr(export, "write", wrong)
    with pytest.raises(RuntimeError, match=r"the torchscript file differs from the network by 0\.5"):
        Export(run=run, out=tmp_path / "out", format="torchscript", clips=GOLDEN)()
    assert list(tmp_path.iterdir()) == []
