"""The probe job from a run folder, or published weights, to numbers, files and sentences; and what it refuses."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import acsar
from acsar import interop, probes
from jobs import classifier, features, stages, targets, weights
from jobs.probe import ACCURACIES, REFERENCES, Probe, divide, read_accuracies
from jobs.run_folder import RunFolder, read_json, write_json
from jobs.scores import read_scores
from jobs.verdicts import verdicts
from shards import protocols
from shards.errors import InputError
from shards.stream import PackedSet
from tests.moves import TINY, finished_run, packed_moves

EPOCHS = 8


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """The schedules with a tenth of their epochs: on 24 clips the rest changes nothing that is asked here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, make in probes.SCHEDULES.items():
            patch.setitem(probes.SCHEDULES, name, lambda benchmark="", make=make: replace(make(benchmark), epochs=EPOCHS, drops=(4, 6)))
        yield


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    return packed_moves(tmp_path_factory.mktemp("moves") / "packed")


@pytest.fixture(scope="module")
def run(packed: PackedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = finished_run(tmp_path_factory.mktemp("runs") / "tiny", packed, ["joint", "motion"])
    Probe(run=run)()
    return run


def report_of(**changes: Any) -> dict[str, Any]:
    """What a probe writes, with made-up numbers."""
    numbers = dict.fromkeys(ACCURACIES, 60.0) | {"linear": 71.2, "random_linear": 63.0, "raw_linear": 75.7}
    spans = {"linear_over_random": [5.1, 11.3], "linear_over_raw": [-9.0, -1.0], "knn1_over_random": [-2.0, 2.0]}
    spans["knn1_over_raw"] = [0.0, 0.0]
    words = {"interval_over": "subjects", "transductive": False, "supervision": "none", "untrained_classes": 0, "test_subjects": 20}
    words["protocol"] = "split"
    return {**numbers, "differences": {name: {"interval": span} for name, span in spans.items()}, **words, **changes}


def test_results_have_the_names_that_stay_and_files_say_the_rest(run: Path) -> None:
    results = Probe(run=run)()
    assert list(results) == ["joint", "motion"] and all(list(row) == list(ACCURACIES) for row in results.values())
    report = read_json(run / "probe" / "split" / "joint.json")
    assert {name: report[name] for name in ACCURACIES} == results["joint"]
    assert all(0 <= value <= 100 for row in results.values() for value in row.values())
    assert all(low <= report[name] <= high for name, (low, high) in report["intervals"].items())
    assert report["train"] == report["test"] == 24 and report["test_subjects"] == 2 and report["chance"] == pytest.approx(100 / 3)
    assert report["interval_over"] == "subjects" and report["supervision"] == "none" and report["protocol"] == "split"
    assert report["sentences"] == verdicts({"joint": report})
    assert "held-aside training subject" in report["linear_schedule"] and "centred" in report["raw_schedule"]
    assert report["schedule"] == "official" and report["transfer"] == "" and report["epochs"] == EPOCHS


def test_raw_clips_of_these_classes_are_easy(run: Path) -> None:
    report = read_json(run / "probe" / "split" / "joint.json")
    assert report["raw_linear"] > 90 and report["raw_knn1"] > 90


def test_numbers_are_those_of_the_features_by_key(run: Path, packed: PackedSet) -> None:
    train, test = protocols.parts(packed.samples, "split", "exchange")
    labels = {record.key: record.label for record in packed.samples}
    method = weights.load_encoder(RunFolder(run / "joint").encoder)
    rows = {key: torch.cat(list(features.encoded(method.encode, packed, [key], torch.device("cpu")))) for key in (*train, *test)}
    gallery, queries = torch.cat([rows[key] for key in train]), torch.cat([rows[key] for key in test])
    truth = torch.tensor([labels[key] for key in test])
    nearest = probes.knn1(gallery, torch.tensor([labels[key] for key in train]), queries)
    report = read_json(run / "probe" / "split" / "joint.json")
    assert report["knn1"] == pytest.approx(100 * float((nearest == truth).double().mean()))
    scores = read_scores(run / "probe" / "split" / "joint.scores.npz")
    assert scores.keys == test and torch.equal(scores.labels, truth) and set(scores.subjects.tolist()) == {2, 4}
    assert report["linear"] == pytest.approx(100 * probes.top_k(scores.scores, truth))


def test_classifier_a_chooses_on_people_that_it_did_not_train_on_and_b_follows(run: Path, packed: PackedSet) -> None:
    division, folder = divide(packed, "split"), run / "probe" / "split"
    held = protocols.held_aside([record for record in packed.samples if record.key in division.train], 0)
    aside, report = read_scores(folder / "joint.aside.npz"), read_json(folder / "joint.json")
    assert aside.keys == held and not set(held) & set(division.test) and len(set(aside.subjects.tolist())) == 1
    assert report["held_aside_subjects"] == division.aside_subjects == 1
    rows = features.read(features.place(run, packed.content_id, "joint")).of(division.keys)
    x, y, q = rows[:24], division.train_labels, rows[24:]
    course, scores = probes.course(x, y, division.aside, 3, probes.unit(), 0)
    assert torch.equal(aside.scores, scores) and report["epoch"] == course.epoch
    assert report["held_aside_linear"] == pytest.approx(100 * probes.top_k(aside.scores, aside.labels))
    linear = probes.linear_probe(x, y, q, 3, probes.unit(), 0, course, division.test_labels)
    assert torch.equal(read_scores(folder / "joint.scores.npz").scores, linear.scores)
    assert report["linear_last"] == pytest.approx(100 * probes.top_k(linear.last, division.test_labels))
    assert report["linear_best_on_test"] == pytest.approx(100 * max(linear.accuracy)) and max(linear.accuracy) * 100 >= report["linear"]
    told = classifier.load(folder / "joint.classifier.safetensors")
    torch.testing.assert_close(told(q), linear.scores, rtol=1e-4, atol=1e-4)
    assert told.classes == division.classes and told.facts["encoder"] == report["encoder_sha256"]


def test_the_papers_schedule_stands_beside_the_official_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = read_json(run / "probe" / "split" / "joint.json")
    monkeypatch.setattr(features, "_block", None)  # no clip goes through an encoder again, only raw ones are made
    monkeypatch.setattr(features, "encoded", lambda *_: [torch.zeros(48, 5)])
    job = Probe(run=run, streams=("joint",), schedule="paper")
    result = job()
    report = read_json(run / "probe" / "split-paper" / "joint.json")
    assert report["schedule"] == "paper" and "end after 5" in report["linear_schedule"] and report["epochs"] <= EPOCHS
    assert report["epochs"] <= report["epoch"] + 5 and report["knn1"] == official["knn1"]
    assert read_json(run / "probe" / "split" / "joint.json") == official and read_accuracies(job, ["joint"]) == result


def test_train_and_test_share_no_key(packed: PackedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    division = divide(packed, "split")
    assert not set(division.train) & set(division.test) and len(division.keys) == len(packed.samples)
    monkeypatch.setattr(protocols, "parts", lambda *_: (["s1c0r00", "s1c1r00"], ["s1c1r00"]))
    with pytest.raises(ValueError, match="keys in both parts, for example s1c1r00"):
        divide(packed, "split")


def test_a_second_probe_computes_nothing_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Probe(run=run)()

    def unexpected(*_: object, **__: object) -> None:
        raise ValueError("features were extracted again")

    monkeypatch.setattr(features, "encoded", unexpected)
    assert Probe(run=run)() == first
    with pytest.raises(ValueError, match="extracted again"):
        Probe(run=run, seed=1)()


def test_references_are_shared_by_runs_of_one_recipe(run: Path, packed: PackedSet) -> None:
    before = sorted((run.parent / REFERENCES).iterdir())
    kept = {path.name.split("-")[0] for path in before if path.name.endswith(".features.npz")}
    assert kept == {"random"}, "features of random encoders are kept for every protocol and fraction, raw ones are quickly made"
    other = finished_run(run.parent / "other", packed, ["joint"], seed=9)
    result = Probe(run=other)()["joint"]
    assert sorted((run.parent / REFERENCES).iterdir()) == before
    reference = Probe(run=run, streams=("joint",))()["joint"]
    assert all(result[name] == reference[name] for name in ACCURACIES if name.startswith(("random", "raw")))


def test_the_random_encoder_is_where_pretraining_started(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    seeded = finished_run(tmp_path / "seeded", packed)
    path = RunFolder(seeded / "joint").config
    config = read_json(path)
    write_json(path, {**config, "job": {**config["job"], "seed": 3}})
    division, device = divide(packed, "split"), torch.device("cpu")
    method = features.random_encoder(TINY, "ntu25", packed, division.train, 3, device)
    rows = torch.cat(list(features.encoded(method.encode, packed, division.keys, device)))
    nearest = probes.knn1(rows[:24], division.train_labels, rows[24:])
    expected = 100 * float((nearest == division.test_labels).double().mean())
    assert Probe(run=seeded, runs=run.parent)()["joint"]["random_knn1"] == pytest.approx(expected)


def test_new_weights_of_a_run_are_probed_anew(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    again = finished_run(tmp_path / "again", packed)
    Probe(run=again, runs=run.parent)()
    first = features.read(features.place(again, packed.content_id, "joint"))
    finished_run(again, packed, seed=6)
    Probe(run=again, runs=run.parent)()
    second = features.read(features.place(again, packed.content_id, "joint"))
    assert first.spec["encoder"] != second.spec["encoder"] and not torch.equal(first.values, second.values)


def test_a_name_is_looked_up_in_the_folder_of_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACSAR_RUNS", str(run.parent))
    assert Probe(run=Path("tiny"), streams=("motion",))() == {"motion": Probe(run=run)()["motion"]}


def test_sentences_compare_with_both_reference_points() -> None:
    lines = verdicts({"joint": report_of()})
    assert lines[:4] == [
        "joint: pretrained 71.2 beats its random encoder 63.0 beyond the interval [+5.1, +11.3] (linear)",
        "joint: pretrained 71.2 does not beat the raw floor 75.7: it is below it, beyond the interval [-9.0, -1.0] (linear)",
        "joint: pretrained 60.0 does not beat its random encoder 60.0: it is level with it, within the interval [-2.0, +2.0] (1-NN)",
        "joint: pretrained 60.0 does not beat the raw floor 60.0: it is level with it, within the interval [+0.0, +0.0] (1-NN)",
    ]
    assert len(lines) == 4


def test_where_one_person_chose_the_epoch_the_last_one_is_compared_too() -> None:
    told = {"held_aside_subjects": 1, "held_aside_linear": 45.5, "epoch": 9, "epochs": 80, "not_held_aside": ""}
    report = report_of(**told, linear_last=75.9, linear_best_on_test=76.5, random_linear_last=70.0, raw_linear_last=75.0)
    last = {"linear_last_over_random": {"interval": [2.0, 9.0]}, "linear_last_over_raw": {"interval": [-3.0, 5.0]}}
    report = {**report, "differences": {**report["differences"], **last}}
    lines = verdicts({"joint": report})
    assert "joint: pretrained 75.9 beats its random encoder 70.0 beyond the interval [+2.0, +9.0] (linear, last epoch)" in lines
    assert "joint: pretrained 75.9 does not beat the raw floor 75.0: it is above it, within the interval [-3.0, +5.0]" in "\n".join(lines)
    assert "epoch 9 of 80, chosen on 1 held-aside training subject (45.5 there); the last epoch has 75.9" in lines[-1]
    assert "one person chooses roughly" in lines[-1]
    several = verdicts({"joint": {**report, "held_aside_subjects": 4}})
    assert len(several) == 5 and "4 held-aside training subjects" in several[-1] and "roughly" not in several[-1]


def test_sentences_warn_of_what_makes_numbers_incomparable() -> None:
    lines = verdicts({"bone": report_of(transductive=True, supervision="text-from-label", interval_over="samples", untrained_classes=3)})
    told = "\n".join(lines)
    assert any("only 2 test subjects" in line for line in verdicts({"bone": report_of(test_subjects=2)}))
    for words in ("transductive", "supervision=text-from-label", "over samples", "3 test clips are of classes"):
        assert words in told


def test_one_test_subject_gives_intervals_over_samples(tmp_path: Path) -> None:
    packed = packed_moves(tmp_path / "packed", subjects=2)
    run = finished_run(tmp_path / "runs" / "one", packed)
    Probe(run=run)()
    report = read_json(run / "probe" / "split" / "joint.json")
    assert report["interval_over"] == "samples" and report["test_subjects"] == 0
    assert report["intervals"] == report["sample_intervals"] and "over samples" in "".join(report["sentences"])
    # one training subject: nobody can be held aside
    assert (
        report["epoch"] == report["epochs"] == EPOCHS and report["held_aside_linear"] is None and report["linear"] == report["linear_last"]
    )
    assert any("linear is the last epoch's: fewer than two subjects" in line for line in report["sentences"])
    assert not (run / "probe" / "split" / "joint.aside.npz").exists()
    with pytest.raises(InputError, match="--schedule paper watches held-aside subjects, but fewer than two"):
        Probe(run=run, schedule="paper")()


def test_who_is_held_aside_is_the_same_for_every_stream_and_another_for_another_seed(tmp_path: Path) -> None:
    packed = packed_moves(tmp_path / "packed", subjects=9, per=1)
    chosen = [divide(packed, "split", seed) for seed in range(6)]
    assert {one.aside_subjects for one in chosen} == {1}
    assert len({tuple(one.train_subjects[one.aside].tolist()) for one in chosen}) > 1
    assert torch.equal(divide(packed, "split", 3).aside, chosen[3].aside)


def test_an_encoder_is_carried_over_to_another_set(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    other = packed_moves(tmp_path / "others", seed=1, classes=("slow", "fast"))
    job = Probe(run=run, streams=("joint",), transfer=other.path)
    told: list[str] = []
    result = job(told.append)["joint"]
    folder = run / "probe" / "transfer-others-split"
    report = read_json(folder / "joint.json")
    assert report["transfer"] == "packed" and report["content_id"] == other.content_id and report["classes"] == 2
    assert not report["transductive"] and any("pretrained on packed, probed on another set" in line for line in told)
    assert read_accuracies(job, ["joint"])["joint"] == result and features.place(run, other.content_id, "joint").is_file()
    assert stages.finished("probe", stages.write_job(replace(job, protocol="split"), tmp_path / "job.json"), "joint")
    assert classifier.load(folder / "joint.classifier.safetensors").classes == ("slow", "fast")


def test_what_cannot_be_carried_over_is_one_line(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is the set that .* was pretrained on; leave --transfer out"):
        Probe(run=run, transfer=packed.path)()
    # the same clips under another content id, since one is missing: its test clips were trained on by the other protocol
    same = packed_moves(tmp_path / "same", per=3)
    swapped = finished_run(tmp_path / "runs" / "swapped", packed)
    for record in same.samples:
        object.__setattr__(record, "split", "test" if record.split == "train" else "train")
    config = read_json(RunFolder(swapped / "joint").config)
    seen = targets.seen_before(same, "split", config)
    assert seen == sorted(record.key for record in same.samples if record.split == "test")
    moved = {**config, "job": {**config["job"], "data": str(tmp_path / "gone")}}
    assert targets.seen_before(same, "split", moved) is None
    plain = packed_moves(tmp_path / "ucla", seed=2)
    plain.manifest["skeleton"] = "ucla20"
    with pytest.raises(InputError, match=r"is an encoder of skeleton ntu25, .* has skeleton ucla20"):
        targets._target(swapped, "joint", config, plain, False)


def test_features_from_elsewhere_are_taken_if_they_are_of_this_encoder_and_set(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    there = features.place(run, packed.content_id, "joint").parent
    again = finished_run(tmp_path / "runs" / "again", packed)
    result = Probe(run=again, features=there, runs=run.parent)()["joint"]
    assert result == Probe(run=run, streams=("joint",))()["joint"] and not (again / "features").exists()
    found = features.read(there / "joint.npz")
    for name, keys, spec, message in (
        ("encoder", found.keys, {**found.spec, "encoder": "e" * 64}, "holds features of encoder eeeeeeeeeeee, not of"),
        ("set", found.keys, {**found.spec, "content_id": "c" * 64}, "holds features of set cccccccccccc, not of"),
        ("short", found.keys[:-1], found.spec, f"1 of 48 samples have no features, for example {found.keys[-1]}"),
    ):
        features.write(tmp_path / name / "joint.npz", keys, spec, [found.values[: len(keys)]])
        with pytest.raises(InputError, match=message):
            Probe(run=again, features=tmp_path / name)()
    with pytest.raises(InputError, match=r"joint\.npz does not exist"):
        Probe(run=again, features=tmp_path)()


def test_published_weights_are_probed_like_a_run(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    method = acsar.build(TINY, seed=5)
    path = tmp_path / "published.pth.tar"
    state = {f"module.encoder_q.{name}": value for name, value in interop.save_scdnet(method).items()}
    torch.save({"state_dict": state, "epoch": 450}, path)
    expected = Probe(run=run)()
    for stream in ("joint", "motion"):
        result = Probe(weights=path, data=packed.path, heads=2, streams=(stream,), runs=run.parent)()
        assert list(result) == [stream] and result[stream]["knn1"] == pytest.approx(expected[stream]["knn1"])
        assert result[stream]["raw_linear"] == expected[stream]["raw_linear"]
        assert (run.parent / "probe-published" / "probe" / "split" / f"{stream}.json").is_file()


def test_an_encoder_file_can_be_probed_by_itself(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    path = RunFolder(run / "motion").encoder
    found = Probe(weights=path, data=packed.path, out=tmp_path / "out", runs=run.parent)()
    assert found == {"motion": Probe(run=run)()["motion"]}
    with pytest.raises(InputError, match="is a motion encoder"):
        Probe(weights=path, data=packed.path, streams=("joint",), out=tmp_path / "out")()


class Ran:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_wants_to_run_code_does_not(packed: PackedSet, tmp_path: Path) -> None:
    torch.save({"state_dict": Ran(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="without running code"):
        Probe(weights=tmp_path / "evil.pth", data=packed.path)()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.zeros(2, 2)}, "does not fit SCD-Net"),
        ([1, 2], "holds no state dict"),
        ({"state_dict": {"epoch": 3}}, "holds no state dict"),
    ],
)
def test_other_checkpoints_are_refused(packed: PackedSet, tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=message):
        Probe(weights=tmp_path / "x.pth", data=packed.path)()


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors"])
def test_weights_that_are_not_there_are_one_line(packed: PackedSet, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"no such file|does not exist"):
        Probe(weights=tmp_path / name, data=packed.path)()


def test_what_cannot_be_probed_is_one_line(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    for job, message in (
        (Probe(), "either --run"),
        (Probe(run=run, weights=run), "either --run"),
        (Probe(weights=run / "joint" / "encoder.safetensors"), "needs --data"),
        (Probe(run=run, streams=("skeleton",)), "unknown stream 'skeleton'; one of joint, bone, motion"),
        (Probe(run=run, streams=("bone",)), "has no stream bone; it has joint, motion"),
        (Probe(run=tmp_path / "nothing"), "no run in"),
        (Probe(run=run, protocol="xview"), "was pretrained by protocol split, so by xview it may have seen test clips"),
        (Probe(run=run, data=tmp_path), "is not a packed set"),
        (Probe(run=run, transfer=tmp_path), "is not a packed set"),
        (Probe(weights=run / "joint" / "encoder.safetensors", data=tmp_path, transfer=tmp_path), "--transfer goes with --run"),
    ):
        with pytest.raises(InputError, match=message):
            job()


def test_a_run_that_has_not_finished_is_refused(packed: PackedSet, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "half", packed, ["joint", "bone"])
    RunFolder(run / "bone").result.unlink()
    with pytest.raises(InputError, match="bone has not finished pretraining"):
        Probe(run=run)()


def test_streams_of_different_sets_are_no_comparison(packed: PackedSet, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "mixed", packed, ["joint", "bone"])
    path = RunFolder(run / "bone").config
    config = read_json(path)
    write_json(path, {**config, "facts": {**config["facts"], "content_id": "0" * 64}})
    with pytest.raises(InputError, match="streams joint and bone differ in content_id"):
        Probe(run=run)()


def test_streams_of_different_seeds_are_no_comparison(packed: PackedSet, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "seeds", packed, ["joint", "bone"])
    path = RunFolder(run / "bone").config
    config = read_json(path)
    write_json(path, {**config, "job": {**config["job"], "seed": 7}})
    with pytest.raises(InputError, match="streams joint and bone differ in seed"):
        Probe(run=run)()


def test_another_packed_set_is_refused(run: Path, tmp_path: Path) -> None:
    other = packed_moves(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="was pretrained on"):
        Probe(run=run, data=other.path)()


def test_weights_of_another_shape_are_refused(packed: PackedSet, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "shape", packed)
    path = RunFolder(run / "joint").encoder
    config = replace(TINY, width=32)
    weights.save_encoder(path, acsar.build(TINY, seed=0), config, "ntu25", {})
    with pytest.raises(InputError, match="does not fit this recipe"):
        Probe(run=run)()


def test_one_class_cannot_be_probed(tmp_path: Path) -> None:
    packed = packed_moves(tmp_path / "one", classes=("slow",))
    with pytest.raises(InputError, match="have one class"):
        Probe(run=finished_run(tmp_path / "run", packed))()


def test_another_protocol_is_tagged_transductive(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    other = finished_run(tmp_path / "xview", packed, protocol="xsub")
    with pytest.raises(InputError, match="add --transductive"):
        Probe(run=other, protocol="split")()
    told: list[str] = []
    Probe(run=other, protocol="split", transductive=True, runs=run.parent)(told.append)
    assert read_json(other / "probe" / "split" / "joint.json")["transductive"] is True
    assert any("joint: transductive" in line for line in told)


def test_a_broken_encoder_names_the_sample(packed: PackedSet, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "nan", packed)
    method = acsar.build(TINY, seed=0)
    with torch.no_grad():
        weights.query(method).encoder.embed_t.first.weight.fill_(float("nan"))  # type: ignore[union-attr]
    weights.save_encoder(RunFolder(run / "joint").encoder, method, TINY, "ntu25", {})
    with pytest.raises(InputError, match=r"the features of sample s\dc\dr\d\d are not finite"):
        Probe(run=run)()
    assert not (run / "probe").exists() and not list((run / "features").rglob("*.npz"))


def test_score_files_hold_no_pickle_and_say_what_they_are(run: Path) -> None:
    with np.load(run / "probe" / "split" / "joint.scores.npz", allow_pickle=False) as archive:
        facts = json.loads(str(archive["spec"]))
        assert archive["scores"].dtype == np.float32 and archive["scores"].shape == (24, 3)
    assert facts["protocol"] == "split" and facts["stream"] == "joint" and len(facts["encoder"]) == 64


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_raw_floor_of_real_motion_is_as_strong_as_scikit_learns(real_data: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    from jobs.pack import Pack

    Pack(data=real_data / "uiprmd" / "uiprmd_kinect_ntu25.npz", out=tmp_path / "packed", label="label,correct", jobs=2)()
    packed = PackedSet.open(tmp_path / "packed")
    division, encode = divide(packed, "split"), features.raw_encode("joint", "ntu25")
    rows = torch.cat(list(features.encoded(encode, packed, division.keys, torch.device("cpu"), batch=250)))
    train, test = rows[: len(division.train)], rows[len(division.train) :]
    whole = probes.ProbeSchedule(min_batches=16, unit=True)  # all 80 epochs
    linear = probes.linear_probe(train, division.train_labels, test, len(division.classes), whole)
    own = 100 * probes.top_k(linear.scores, division.test_labels)
    peer = LogisticRegression(max_iter=100).fit(train.numpy(), division.train_labels.numpy())
    theirs = 100 * float(peer.score(test.numpy(), division.test_labels.numpy()))
    nearest = probes.knn1(train, division.train_labels, test)
    assert own > theirs - 1
    assert own > 70 and float((nearest == division.test_labels).double().mean()) > 0.65
