"""Prediction: answers are those of the probe, one by one as in a batch; what cannot be read is one line and the rest goes on."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acsar.skeleton import SKELETONS
from acsar.streams import STREAMS
from jobs import classifier, recogniser
from jobs.predict import Predict
from jobs.probe import Probe
from jobs.run_folder import RunFolder
from jobs.scores import read_scores
from jobs.weights import load_encoder
from launch import predict as command
from shards import open_source, write_exchange
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.normalise import normalise
from shards.npz import Npz
from shards.stream import PackedSet
from tests.clips import packed_clips
from tests.moves import finished_run
from tests.skeleton_text import moving, skeleton_text

GOLDEN = Path(__file__).parent / "data" / "golden_raw"


@pytest.fixture(scope="module")
def moves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """moves.npz, its clips packed beside it, and few.npz: nine of them without labels and names."""
    folder = packed_clips(tmp_path_factory.mktemp("moves")).parent
    whole = Npz(folder / "moves.npz")
    np.savez(folder / "few.npz", joints=whole["joints"][: whole["offsets"][9]], offsets=whole["offsets"][:10])
    return folder


@pytest.fixture(scope="module")
def run(moves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three streams: joint is probed; bone and motion have a classifier of drawn numbers."""
    packed = PackedSet.open(moves / "packed")
    run = finished_run(tmp_path_factory.mktemp("runs") / "tiny", packed, STREAMS)
    Probe(run=run, streams=("joint",))()
    trained = classifier.load(run / "probe/split/joint.classifier.safetensors")
    for stream in ("bone", "motion"):
        drawn = torch.randn(trained.weight.shape, generator=torch.Generator().manual_seed(len(stream)))
        facts = {**trained.facts, "stream": stream, "encoder": sha256_of(RunFolder(run / stream).encoder)}
        classifier.save(run / f"probe/split/{stream}.classifier.safetensors", replace(trained, weight=drawn, facts=facts))
    return run


def probabilities(answer: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Rows [N] by clip, by label."""
    rows = {}
    for clip in answer["clips"]:
        rows[clip["clip"]] = np.array([one["probability"] for one in sorted(clip["top"], key=lambda one: one["label"])])
    return rows


def test_answers_are_those_of_the_probe(run: Path, moves: Path) -> None:
    answer = Predict(run=run, streams=("joint",))([moves / "moves.npz"])
    assert answer["streams"] == ["joint"] and answer["failed"] == [] and len(answer["clips"]) == 48
    found, scores = probabilities(answer), read_scores(run / "probe/split/joint.scores.npz")
    assert len(scores.keys) == 24
    for key, row in zip(scores.keys, torch.softmax(scores.scores.double(), 1)):
        assert found[key] == pytest.approx(row.numpy(), abs=1e-5)
        assert answer["clips"][int(key.removeprefix("clip"))]["top"][0]["label"] == int(row.argmax())


def test_one_by_one_the_numbers_are_those_of_a_batch(run: Path, moves: Path) -> None:
    together = Predict(run=run, streams=("motion", "joint"))([moves / "few.npz"])
    assert len(together["clips"]) == 9 and together["streams"] == ["joint", "motion"]
    assert Predict(run=run, streams=("joint", "motion"), batch=1)([moves / "few.npz"]) == together


def test_a_recording_of_ntu_by_hand(run: Path) -> None:
    answer = Predict(run=run)([GOLDEN])
    assert [Path(clip["file"]).parent for clip in answer["clips"]] == [GOLDEN] * 3 and answer["failed"] == []
    source, found = open_source(GOLDEN), probabilities(answer)
    for sample in source.samples():
        joints = torch.from_numpy(normalise(source.read(sample.key), "agcn", SKELETONS["ntu25"]))
        clip = torch.zeros(1, 3, joints.shape[1], 25, 2)
        clip[0, ..., : joints.shape[3]] = joints
        shares = []
        for stream in STREAMS:
            features = load_encoder(RunFolder(run / stream).encoder).encode(clip, torch.tensor([joints.shape[1]]))
            shares.append(torch.softmax(classifier.load(run / f"probe/split/{stream}.classifier.safetensors")(features), 1)[0])
        assert found[sample.key] == pytest.approx(torch.stack(shares).mean(0).numpy(), abs=1e-5)
        assert found[sample.key].sum() == pytest.approx(1)


def test_labels_and_names_are_not_needed(run: Path, moves: Path) -> None:
    answer, told = (Predict(run=run, streams=("bone",))([moves / name]) for name in ("few.npz", "moves.npz"))
    assert [clip["clip"] for clip in answer["clips"]] == [f"{i:06d}" for i in range(9)]
    assert [clip["top"] for clip in answer["clips"]] == [clip["top"] for clip in told["clips"][:9]]


def test_what_cannot_be_read_is_one_line_and_the_rest_goes_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    good = skeleton_text(moving(frames=30, bodies=2))
    (folder / "good one.skeleton").write_text(good)
    (folder / "long.skeleton").write_text(skeleton_text(moving(frames=310)))
    (folder / "cut.skeleton").write_text(good[: len(good) // 2])
    (folder / "nobody.skeleton").write_text("2\n0\n0\n")
    (folder / "empty.skeleton").write_bytes(b"")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 cut short")
    np.savez(folder / "other.npz", x=np.zeros(3))
    clip, lost = np.random.default_rng(0).standard_normal((2, 20, 1, 25, 3)).astype(np.float32)
    write_exchange(folder / "three.npz", [clip, 0 * lost, clip + 1], label=[0, 0, 0], name=["first", "gone", "last"])
    write_exchange(folder / "kinect1.npz", [clip[:, :, :20]], label=[0])
    (tmp_path / "notes.txt").write_text("no clip")
    (tmp_path / "bare").mkdir()
    inputs = [folder, tmp_path / "notes.txt", tmp_path / "bare", tmp_path / "missing.skeleton"]
    out = tmp_path / "answers.csv"
    assert command.main(["--run", str(run), *map(str, inputs), "--json", "--out", str(out)]) == 2
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert [clip["clip"] for clip in answer["clips"]] == ["good one", "long", "first", "last"]
    *lines, long, last = shown.err.splitlines()
    expected = ["notes.txt: neither", "bare: no .skeleton and no .npz", "missing.skeleton: no such file", "broken.npz: not a readable .npz"]
    expected += ["other.npz: no exchange file", "cut.skeleton: truncated", "nobody.skeleton: no body", "empty.skeleton: the file is empty"]
    expected += ["gone: no body", "kinect1.npz: 000000: 20 joints (ucla20), but the run was trained on 25 (ntu25)"]
    assert len(lines) == len(expected) == len(answer["failed"]) and last == "predicted: 4, not predicted: 10"
    assert long == f"1 of 4 are longer than 300 frames; the first 300 count, as in training: {folder / 'long.skeleton'}"
    assert all(sum(part in line for line in lines) == 1 for part in expected), lines
    assert sorted(failure["reason"] for failure in answer["failed"]) == sorted(lines)
    rows = list(csv.DictReader(out.open()))
    assert [row["clip"] for row in rows] == ["good one", "long", "first", "last"]
    assert [float(rows[0][f"probability{rank}"]) for rank in (1, 2, 3, 4)] == pytest.approx(
        [one["probability"] for one in answer["clips"][0]["top"]], abs=1e-6
    )


def test_the_table_is_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = GOLDEN / "S001C001P001R001A001.skeleton"
    assert command.main(["--run", str(run), str(file), "--top", "2"]) == 0
    shown = capsys.readouterr().out
    assert "S001C001P001R001A001" in shown and "joint + bone + motion" in shown and "%" in shown and shown.count("\n") < 14


def test_a_run_that_cannot_name_actions_is_one_line(run: Path, moves: Path, tmp_path: Path) -> None:
    clip, packed = moves / "moves.npz", PackedSet.open(moves / "packed")
    bare = finished_run(tmp_path / "bare", packed)

    def refused(said: str, **fields: Any) -> None:
        with pytest.raises(InputError, match=said) as told:
            Predict(**{"run": run, **fields})([clip])
        assert "\n" not in str(told.value)

    refused("has no classifier; probe it first", run=bare)
    refused("no classifier by xsub; there are split", setting="xsub")
    refused("has no fine-tuning first; it has none", trial="first")
    refused("unknown stream 'bones'", streams=("bones",))
    refused("at least 1", top=0)
    refused("unknown normalisation 'agc'", normalise="agc")
    with pytest.raises(InputError, match="no INPUT"):
        Predict(run=run)([])


def test_a_classifier_goes_with_its_encoder_alone(run: Path, moves: Path, tmp_path: Path) -> None:
    packed = PackedSet.open(moves / "packed")
    other = finished_run(tmp_path / "other", packed, ["joint", "bone"], seed=9)
    for stream in ("joint", "bone"):
        trained = classifier.load(run / f"probe/split/{stream}.classifier.safetensors")
        classifier.save(other / f"probe/split/{stream}.classifier.safetensors", trained)
    with pytest.raises(InputError, match=r"goes with encoder .*probe the run again"):
        recogniser.load(other)
    joint, bone = recogniser.load(run, streams=("joint", "bone"))
    later = replace(bone.classifier, facts={**bone.classifier.facts, "content_id": "another", "schedule": "paper"})
    again = finished_run(tmp_path / "again", packed, ["joint", "bone"])
    for stream, trained in (("joint", joint.classifier), ("bone", later)):
        classifier.save(again / f"probe/split/{stream}.classifier.safetensors", trained)
    with pytest.raises(InputError, match="joint and bone differ in content_id and schedule"):
        recogniser.load(again)


def test_a_fine_tuning_names_actions_with_its_own_encoder(run: Path, moves: Path, tmp_path: Path) -> None:
    packed = PackedSet.open(moves / "packed")
    again = finished_run(tmp_path / "again", packed, seed=7)
    tuned = finished_run(again / "finetune" / "all", packed) / "joint"  # the encoder of `run`
    trained = recogniser.load(run, streams=("joint",))[0].classifier
    with pytest.raises(InputError, match=r"no stream of .*/all has finished"):
        Predict(run=again, trial="all")([moves / "few.npz"])
    classifier.save(tuned / "classifier.safetensors", trained)
    answer, probed = Predict(run=again, trial="all")([moves / "few.npz"]), Predict(run=run, streams=("joint",))([moves / "few.npz"])
    assert answer["setting"] == "finetune all" and answer["clips"] == probed["clips"]


def test_arrays_that_came_normalised_do_not_say_how(run: Path, moves: Path, tmp_path: Path) -> None:
    again = finished_run(tmp_path / "arrays", PackedSet.open(moves / "packed"))
    trained = recogniser.load(run, streams=("joint",))[0].classifier
    facts = {**trained.facts, "format": "ctrgcn", "normalisation": "none"}
    classifier.save(again / "probe/split/joint.classifier.safetensors", replace(trained, facts=facts))
    with pytest.raises(InputError, match="--normalise ctrgcn"):
        Predict(run=again)([moves / "moves.npz"])
    assert len(Predict(run=again, normalise="ctrgcn")([moves / "few.npz"])["clips"]) == 9
