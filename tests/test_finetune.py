"""Fine-tuning from a run folder to scores: what learns, from where, on which labels; stopped and resumed; on several ranks; refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import acsar
from acsar import probes
from acsar.augment import crop_resize, draws_for
from acsar.finetune import FineTuned, crop_only
from acsar.scdnet import SCDNet
from acsar.skeleton import SKELETONS
from acsar.streams import stream
from jobs import classifier, features, journal, stages, weights
from jobs.batches import to_batch
from jobs.finetune import Finetune, describe, plan, resolved
from jobs.run_folder import RunFolder, read_json
from jobs.scores import read_scores
from jobs.subsets import subset
from launch import finetune as command
from launch import retry, status
from shards import protocols
from shards.errors import InputError
from shards.stream import PackedSet
from tests.moves import TINY, finished_run, packed_moves
from tests.ranks import run_ranks

SHORT: dict[str, Any] = {"steps": 6, "batch_size": 8, "lr": 0.05}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    return packed_moves(tmp_path_factory.mktemp("moves") / "packed")


@pytest.fixture(scope="module")
def run(packed: PackedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "tiny", packed, ["joint", "motion"])


@pytest.fixture(scope="module")
def tuned(run: Path) -> tuple[dict[str, Any], RunFolder]:
    """The joint stream, to its end, with a look at the test part after every epoch of three steps."""
    job = Finetune(run, name="all", evaluate_every=1, **SHORT)
    return job("joint"), RunFolder(run / "finetune" / "all" / "joint")


def test_the_result_is_that_of_the_last_epochs_scores(tuned: tuple[dict[str, Any], RunFolder], run: Path, packed: PackedSet) -> None:
    result, folder = tuned
    scores = read_scores(folder.path / "scores.npz")
    assert scores.keys == protocols.parts(packed.samples, "split", "exchange")[1] and scores.facts["content_id"] == packed.content_id
    assert result["top1"] == pytest.approx(100 * probes.top_k(scores.scores, scores.labels))
    assert (result["status"], result["n"], result["labelled"], result["fraction"], result["draw"]) == (
        "finished",
        24,
        24,
        1.0,
        "unbalanced",
    )
    assert result["interval"][0] <= result["top1"] <= result["interval"][1] and result["interval_over"] == "subjects"
    looks = [record for record in journal.read(folder.path) if record["type"] == "eval"]
    assert [look["step"] for look in looks] == [3] and result["best_on_test"] == max(looks[0]["metrics"]["test_top1"], result["top1"])
    assert result["from_encoder_sha256"] == read_json(run / "joint" / "result.json")["encoder_sha256"] != result["encoder_sha256"]
    facts = read_json(folder.config)["facts"]
    assert facts["supervision"] == "labels" and facts["from_encoder_sha256"] == result["from_encoder_sha256"]


def test_encoder_and_classifier_that_are_left_give_those_scores(tuned: tuple[dict[str, Any], RunFolder], packed: PackedSet) -> None:
    result, folder = tuned
    method, head = weights.load_encoder(folder.encoder), classifier.load(folder.path / "classifier.safetensors")
    assert head.facts["encoder"] == result["encoder_sha256"] and head.classes == tuple(packed.manifest["classes"])
    scores = read_scores(folder.path / "scores.npz")
    rows = torch.cat(list(features.encoded(method.encode, packed, scores.keys, torch.device("cpu"))))
    torch.testing.assert_close(head(rows), scores.scores, rtol=1e-5, atol=1e-5)


def test_the_same_command_finds_it_finished(tuned: tuple[dict[str, Any], RunFolder], run: Path) -> None:
    result, folder = tuned
    job = resolved(Finetune(run, name="all", evaluate_every=1, **SHORT))
    assert job("joint") == result and not folder.journal(2).exists()
    description = stages.write_job(job, run / "job-of-all.json")
    assert stages.finished("finetune", description, "joint") and not stages.finished("finetune", description, "motion")
    assert stages.run("finetune", description, "joint") == result
    with pytest.raises(InputError, match=r"another configuration: lr was 0\.05 and is 0\.1"):
        replace(job, lr=0.1)("joint")
    with pytest.raises(InputError, match="another configuration"):
        describe(replace(job, fraction=0.5))
    describe(job)
    continues = retry.continues(job.folder)
    assert continues.startswith(f"python launch/finetune.py --run {run} ") and "--name all" in continues and "--lr 0.05" in continues


def test_stopped_and_resumed_is_bit_equal(tuned: tuple[dict[str, Any], RunFolder], run: Path) -> None:
    """With the recipe's dropout and crops; the look that a stop skipped is made up for."""
    result, folder = tuned
    job = Finetune(run, name="twice", evaluate_every=1, **SHORT)
    assert replace(job, stop_after=4)("joint")["status"] == "stopped"
    again = job("joint")
    assert again["encoder_sha256"] == result["encoder_sha256"] and again["best_on_test"] == result["best_on_test"]
    scores = (read_scores(path / "scores.npz").scores for path in (folder.path, run / "finetune" / "twice" / "joint"))
    assert torch.equal(*scores)


def test_what_learns_and_from_where(tuned: tuple[dict[str, Any], RunFolder], run: Path) -> None:
    start = weights.load_encoder(RunFolder(run / "joint").encoder).state_dict()

    def encoder_of(trial: str, **changes: Any) -> dict[str, torch.Tensor]:
        job = resolved(Finetune(run, name=trial, **{**SHORT, "steps": 1, **changes}))
        job("joint")
        return weights.load_encoder(RunFolder(job.folder / "joint").encoder).state_dict()

    own = [name for name in start if name.startswith("query.encoder.")]
    kept = encoder_of("frozen", frozen=True)
    assert own and all(torch.equal(kept[name], start[name]) for name in own)  # running statistics too
    moved = weights.load_encoder(tuned[1].encoder).state_dict()
    assert any(not torch.equal(moved[name], start[name]) for name in own)
    untrained = acsar.build(TINY, seed=7).state_dict()
    scratch = encoder_of("scratch", scratch=True, seed=7, lr=0.0)
    learnt = [name for name in own if name.endswith(("weight", "bias"))]
    assert all(torch.equal(scratch[name], untrained[name]) for name in learnt)
    result = read_json(run / "finetune" / "scratch" / "joint" / "result.json")
    assert result["scratch"] and result["from_encoder_sha256"] == ""


def test_a_training_view_is_a_crop_in_time_and_nothing_else(packed: PackedSet) -> None:
    pretrained = acsar.build(TINY, seed=1)
    assert isinstance(pretrained, SCDNet)
    method = FineTuned(pretrained, 3, crop_only(0.5), frozen=False, seed=0).eval()
    batch = to_batch(packed.load([record.key for record in packed.samples[:6]]), 0, 0, labels=True)
    drawn = draws_for(batch.draws, (0,), batch.frames, SKELETONS["ntu25"], crop_only(0.5))
    view = stream(crop_resize(batch.joints, drawn.start, drawn.length), "joint", SKELETONS["ntu25"])
    logits = method.classifier(torch.cat(method.encoder(view), 1))
    assert batch.label is not None
    assert method(batch)["cross_entropy"].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, batch.label).item())
    assert to_batch(packed.load([packed.samples[0].key]), 0, 0).label is None
    assert float(method.classifier.weight.detach().abs().mean()) < 0.02 and not bool(method.classifier.bias.any())


def test_a_share_of_the_labels_is_the_subset_that_everybody_takes(run: Path, packed: PackedSet) -> None:
    job = resolved(Finetune(run, fraction=0.5, draw="balanced", seed=3, batch_size=64, epochs=2))
    assert job.name == "split-0.5-balanced-seed3"
    numbers = plan(job, world=2)
    assert (numbers.labelled, numbers.batch_size, numbers.rows, numbers.steps_per_epoch, numbers.steps) == (12, 8, 4, 1, 2)
    result = job("joint")
    assert (result["labelled"], result["batch_size"]) == (12, 8)
    train = protocols.parts(packed.samples, "split", "exchange")[0]
    label = {record.key: record.label for record in packed.samples}
    chosen = subset(train, [label[key] for key in train], packed.content_id, "split", 0.5, 3, "balanced")
    seen = journal.read(RunFolder(job.folder / "joint").path)
    assert len(chosen) == 12 and sum(record["type"] == "step" for record in seen) == 2


def test_another_set_is_learnt_from_the_same_encoder(run: Path, tmp_path: Path) -> None:
    other = packed_moves(tmp_path / "other", seed=1, classes=("slow", "fast"))
    job = resolved(Finetune(run, transfer=other.path, **{**SHORT, "steps": 1}))
    assert job.name == "transfer-other-split-seed0"
    result = job("joint")
    assert (result["transfer"], result["content_id"], result["classes"]) == ("packed", other.content_id, 2)


def tuned_on(rank: int, world: int, run: Path) -> list[float]:
    """Losses and test accuracy on this group's ranks."""
    job = resolved(Finetune(run, name=f"world{world}", evaluate_every=1, **SHORT))
    result = job("joint")
    steps = [record for record in journal.read(RunFolder(job.folder / "joint").path) if record["type"] == "step"]
    return [*(record["loss"] for record in steps), result["top1"], float(result["n"])]


@pytest.mark.distributed
def test_ranks_agree(run: Path, tuned: tuple[dict[str, Any], RunFolder]) -> None:
    """One and two ranks: losses as near as sums in another order allow, every test clip once, the same accuracy."""
    result, folder = tuned
    alone = [record["loss"] for record in journal.read(folder.path) if record["type"] == "step"]
    for told in run_ranks(tuned_on, 2, run):
        assert told[:-2] == pytest.approx(alone, rel=1e-3)
        assert told[-2:] == [result["top1"], 24.0]
    ours, theirs = (read_scores(path / "scores.npz") for path in (run / "finetune" / "world2" / "joint", folder.path))
    assert ours.keys == theirs.keys
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=0.002)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fraction": 0.05}, r"labels 1 of 24 training samples \(unbalanced\), fewer than their 3 classes"),
        ({"scratch": True, "frozen": True}, "--scratch and --frozen"),
        ({"drops": (0.9, 0.5)}, "rising shares"),
        ({"protocol": "xsub"}, "pretrained by protocol split"),
        ({"epochs": 0}, "no steps"),
        ({"streams": ("bone",)}, "has no stream bone"),
        ({"streams": ("face",)}, "unknown stream 'face'"),
        ({"run": Path("nobody")}, "no run in"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        plan(resolved(replace(Finetune(run, **{**SHORT, "steps": None}), **changes)), 1)
    assert "\n" not in str(caught.value)


def test_a_run_that_never_finished_is_refused(packed: PackedSet, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "half", packed)
    (run / "joint" / "result.json").unlink()
    with pytest.raises(InputError, match="has not finished pretraining"):
        Finetune(run)("joint")


def test_a_trial_is_no_run_to_begin_from(tuned: tuple[dict[str, Any], RunFolder]) -> None:
    with pytest.raises(InputError, match="is a trial of fine-tuning"):
        Finetune(tuned[1].path.parent)("joint")
    seen = status.look_closely([tuned[1].path.parent])
    assert [(view.key, view.state) for views in seen.values() for view in views] == [("joint", "finished"), ("motion", "waiting")]
    assert status.afterwards(seen) == []


def test_a_dry_run_says_the_arithmetic(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--run", str(run), "--fraction", "0.5", "--batch-size", "8", "--cluster", "local", "--dry-run"]
    assert command.main([*words, "--streams", "joint,motion", "--drops", "0.5,0.75"]) == 0
    out = capsys.readouterr()
    document = json.loads(out.out)
    assert document["plan"]["labelled"] == 12 and document["job"]["streams"] == ["joint", "motion"]
    assert "12 of 24 training clips labelled" in out.err + out.out and "a tenth from step 40 and 60" in out.err + out.out
    assert not (run / "finetune" / document["job"]["name"]).exists()
