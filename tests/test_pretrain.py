"""Whole pretraining jobs on a small synthetic set: killed and resumed, stopped, refused; what they leave behind."""

import json
import math
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from acsar.ac_sar import ACSAR
from acsar.recipes import RECIPES, build
from acsar.scdnet import SCDNet
from acsar.types import Batch
from jobs import journal, weights
from jobs.codec import decode, encode
from jobs.evaluation import Evaluation
from jobs.pretrain import Pretrain, plan
from jobs.run_folder import RunFolder, read_json, trusted
from jobs.stages import write_job
from jobs.worker import main
from shards import protocols
from shards.errors import InputError
from shards.manifest import Caption, sha256_of
from shards.pack import pack
from shards.samples import Source
from shards.sources import open_source
from shards.stream import PackedSet
from shards.synthetic import write_synthetic
from tests.moves import packed_moves
from tests.words import Words

STEPS, BATCH = 10, 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """72 raw clips: 4 subjects, 6 actions, 3 cameras."""
    raw = tmp_path_factory.mktemp("raw") / "clips"
    write_synthetic(raw, subjects=4, actions=6, frames=(20, 24))
    return open_source(raw)


@pytest.fixture(scope="module")
def packed(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips with two captions each class of the motion program."""
    out = tmp_path_factory.mktemp("packed") / "set"
    captions = {s.key: Caption(f"somebody does {s.label} in way {s.camera}", "program") for s in source.samples()}
    pack(source, out, captions=captions, features=Words())
    return out


@pytest.fixture(scope="module")
def plain(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips without captions."""
    out = tmp_path_factory.mktemp("plain") / "set"
    pack(source, out)
    return out


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def job(data: Path, runs: Path, name: str = "one", recipe: str = "scdnet-small", **changes: Any) -> Pretrain:
    """A job of seconds, with the recipe's own dropout."""
    method = replace(RECIPES[recipe].method, c1=8, width=16, heads=2, out=8, queue=8)
    settings = {"runs": runs, "method": method, "batch_size": BATCH, "steps": STEPS, "protocol": "xsub", "save_every": 3}
    return Pretrain.of(recipe, data, name, **{**settings, "evaluate_every": 0, **changes})


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in journal.read(folder) if record["type"] == "step"]


def evaluated(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [(record["step"], record["metrics"]) for record in journal.read(folder) if record["type"] == "eval"]


def last_end(folder: Path) -> dict[str, Any]:
    end = journal.last(journal.read(folder), "end")
    assert end is not None
    return end


def weights_of(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(RunFolder(folder).encoder)


def worker(description: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([sys.executable, "-m", "jobs.worker", str(description), "joint"], env=environment, stdout=subprocess.PIPE)


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.mark.distributed
def test_killed_and_interrupted_at_any_step_equals_never_stopped(packed: Path, runs: Path) -> None:
    """SIGTERM to one worker, SIGKILL to the next, the rest here: losses and weights bit-equal, with dropout."""
    settings = {"recipe": "acsar-small", "steps": 30, "evaluate_every": 2}
    assert job(packed, runs, **settings).method.dropout > 0
    job(packed, runs, "whole", **settings)("joint")
    broken = runs / "broken" / "joint"
    description = write_job(job(packed, runs, "broken", **settings), runs / "job.json")

    first = worker(description)
    when = 1 + secrets.randbelow(8)
    wait_for(lambda: len(losses(broken)) >= when)
    first.send_signal(signal.SIGTERM)
    out, _ = first.communicate(timeout=120)
    assert first.returncode == 0 and json.loads(out)["status"] == "interrupted"
    assert last_end(broken)["status"] == "interrupted" and not RunFolder(broken).result.exists()
    stopped = len(losses(broken))

    second = worker(description)
    when = stopped + 1 + secrets.randbelow(8)
    wait_for(lambda: len(losses(broken)) >= when)
    second.kill()
    second.communicate()
    result = job(packed, runs, "broken", **settings)("joint")

    assert (result["status"], result["attempts"]) == ("finished", 3)
    assert losses(broken) == losses(runs / "whole" / "joint") and len(losses(broken)) == 30
    whole = weights_of(runs / "whole" / "joint")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights_of(broken).items())
    evaluations = [evaluated(runs / name / "joint") for name in ("whole", "broken")]
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) > 1


def test_an_evaluation_that_an_interruption_skipped_is_made_up_for(packed: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal in the very step after which one is due, and in the last step: saved at once, evaluated by the next attempt."""
    whole = job(packed, runs, "whole", evaluate_every=1)
    whole("joint")
    forward, calls = SCDNet.forward, []
    epoch = plan(whole, 1).steps_per_epoch
    broken = runs / "broken" / "joint"

    def asked(method: SCDNet, batch: Batch) -> dict[str, Tensor]:
        calls.append(batch)
        if len(calls) in (epoch, STEPS):
            os.kill(os.getpid(), signal.SIGUSR2)
        return forward(method, batch)

    monkeypatch.setattr(SCDNet, "forward", asked)
    for step in (epoch, STEPS):
        left = job(packed, runs, "broken", evaluate_every=1)("joint")
        assert (left["status"], left["step"]) == ("interrupted", step)
        assert step not in [step for step, _ in evaluated(broken)]
    assert job(packed, runs, "broken", evaluate_every=1)("joint")["status"] == "finished"
    assert len(calls) == STEPS and len(evaluated(broken)) > 1
    assert evaluated(broken) == evaluated(runs / "whole" / "joint")
    assert losses(broken) == losses(runs / "whole" / "joint")
    both = weights_of(broken), weights_of(runs / "whole" / "joint")
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())


def test_the_best_evaluation_s_checkpoint_is_made_and_kept(packed: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accuracies of the evaluations are given here: the best is the second of five, two of them before an interruption."""
    given = iter([10.0, 50.0, 20.0, 50.0, None])
    monkeypatch.setattr(Evaluation, "__call__", lambda self: {"held_aside_knn1": next(given)})
    settings = {"evaluate_every": 1, "keep_best": True, "keep_last": 1, "save_every": 0}
    epoch = plan(job(packed, runs), 1).steps_per_epoch
    settings["steps"] = 5 * epoch
    job(packed, runs, stop_after=2 * epoch, **settings)("joint")
    folder = RunFolder(runs / "one" / "joint")
    assert [path.name for path in trusted(folder)] == [f"step_{2 * epoch}.a1"]
    job(packed, runs, **settings)("joint")
    assert [path.name for path in trusted(folder)] == [f"step_{5 * epoch}.a2", f"step_{2 * epoch}.a1"]
    with pytest.raises(InputError, match="--keep-last 0 would keep no checkpoint"):
        job(packed, runs, keep_last=0)("joint")


def test_what_a_run_says_of_itself_on_the_way(packed: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACSAR_TAG", "12_1.0.3")
    job(packed, runs, stop_after=2)("joint")
    folder = RunFolder(runs / "one" / "joint")
    beat = read_json(folder.heartbeat / "0.json")
    assert (beat["phase"], beat["step"], beat["attempt"], beat["tag"]) == ("ended", 2, 1, "12_1.0.3") and beat["busy_ms"] > 0
    start = journal.last(journal.read(folder.path), "start")
    assert start is not None and (start["tag"], start["job"]) == ("12_1.0.3", "12_1")
    claim = read_json(folder.attempts / "0001.json")
    assert (claim["tag"], claim["job"], claim["start"]) == ("12_1.0.3", "12_1", "")


def test_stop_after_leaves_a_resumable_run(packed: Path, runs: Path) -> None:
    job(packed, runs, "whole")("joint")
    stopped = job(packed, runs, stop_after=4)("joint")
    assert (stopped["status"], stopped["step"]) == ("stopped", 4)
    assert not RunFolder(runs / "one" / "joint").result.exists() and last_end(runs / "one" / "joint")["status"] == "stopped"
    assert job(packed, runs, stop_after=4)("joint")["step"] == 4
    assert job(packed, runs)("joint")["status"] == "finished"
    assert losses(runs / "one" / "joint") == losses(runs / "whole" / "joint")


def test_finished_work_is_not_done_twice_and_says_what_it_was(packed: Path, runs: Path) -> None:
    result = job(packed, runs)("joint")
    folder = RunFolder(runs / "one" / "joint")
    assert job(packed, runs, workers=2, save_every=1)("joint") == result == read_json(folder.result)
    assert len(list(folder.attempts.iterdir())) == 1
    assert result["encoder_sha256"] == sha256_of(folder.encoder)
    per_epoch = plan(job(packed, runs), 1).steps_per_epoch
    assert result["loss"] == pytest.approx(sum(losses(folder.path)[-per_epoch:]) / per_epoch)
    config = read_json(folder.config)
    assert decode(Pretrain, config["job"]) == job(packed, runs)
    facts = config["facts"]
    assert facts["content_id"] == PackedSet.open(packed).content_id
    assert (facts["protocol"], facts["benchmark"], facts["supervision"], facts["provenance"]) == ("xsub", "synthetic", "none", "")
    assert facts["versions"]["deepspeed"] and facts["host"] and facts["threads"] >= 1
    start = journal.last(journal.read(folder.path), "start")
    assert start is not None and start["resumed_from"] is None and (start["world"], start["pid"]) == (1, os.getpid())


def test_another_configuration_under_the_same_name_is_refused(packed: Path, plain: Path, runs: Path) -> None:
    first = job(packed, runs, stop_after=1)
    first("joint")
    with pytest.raises(InputError, match=r"belongs to another configuration: lr was 0\.01 and is 0\.02; give another --name"):
        replace(first, lr=0.02)("joint")
    with pytest.raises(InputError, match=r"method\.tau was 0\.2 and is 0\.1"):
        replace(first, method=replace(first.method, tau=0.1))("joint")
    with pytest.raises(InputError, match="content id of the data was"):
        replace(first, data=plain)("joint")
    assert replace(first, nodes=3, workers=1, stop_after=2, streams=("joint",), save_every=1)("joint")["step"] == 2


@pytest.mark.parametrize("protocol", ["split", "xsub", "xview", "xset"])
def test_training_never_sees_a_test_key_nor_one_held_aside(
    packed: Path, tmp_path: Path, runs: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if protocol == "split":
        packed = packed_moves(tmp_path / "moves", per=8).path
    seen: list[str] = []
    forward = SCDNet.forward

    def watched(method: SCDNet, batch: Batch) -> dict[str, Tensor]:
        assert batch.label is None and batch.text is None
        seen.extend(batch.keys)
        return forward(method, batch)

    monkeypatch.setattr(SCDNet, "forward", watched)
    this = job(packed, runs, protocol=protocol, steps=None, epochs=2, evaluate_every=1)
    this("joint")
    stored = PackedSet.open(packed)
    train, test = protocols.parts(stored.samples, protocol, stored.manifest["benchmark"])
    assert seen and not set(seen) & set(test) and not set(train) & set(test)
    told = plan(this, 1)
    aside = set(train) - set(seen)
    # what an epoch's last part of a batch leaves out differs by epoch
    assert told.aside <= len(aside) and told.train + told.aside == len(train) and told.test == len(test)
    assert len(seen) == told.steps * BATCH and told.steps == 2 * (told.train // BATCH)
    subjects = {record.key: record.subject for record in stored.samples}
    held = set(protocols.held_aside([r for r in stored.samples if r.key in set(train)], this.seed))
    assert told.held_aside == len(held) and len({subjects[key] for key in held}) == 1


def test_text_is_used_marked_and_measured_on_samples_never_trained_on(packed: Path, runs: Path) -> None:
    this = job(packed, runs, recipe="acsar-small", evaluate_every=1, steps=4, allow_large_queue=True)
    this("bone")
    folder = runs / "one" / "bone"
    assert read_json(RunFolder(folder).config)["facts"]["supervision"] == "text-from-label"
    steps = [record for record in journal.read(folder) if record["type"] == "step"]
    assert all(0 <= record["equal_captions"] <= 1 and "text" in record["losses"] for record in steps)
    evaluation = journal.last(journal.read(folder), "eval")
    assert evaluation is not None and evaluation["step"] == 4
    metrics = evaluation["metrics"]
    assert 0 <= metrics["held_aside_knn1"] <= 100
    assert math.isfinite(metrics["text_reliance"]) and metrics["equal_captions"] >= 0
    facts = read_json(RunFolder(folder).config)["facts"]
    assert (facts["caption_version"], facts["caption_base"]) == (1, facts["content_id"])
    trained = weights.load_whole(RunFolder(folder))
    fresh = build(trained.config, "ntu25", (77, 512), this.seed)
    assert isinstance(fresh, ACSAR) and not torch.equal(trained.text.score.weight, fresh.text.score.weight)


def test_the_share_of_equal_captions_is_that_of_the_global_batch(packed: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    forward = ACSAR.forward

    def watched(method: ACSAR, batch: Batch) -> dict[str, Tensor]:
        assert batch.text_id is not None
        ids = batch.text_id.tolist()
        shares.append(sum(ids.count(i) > 1 for i in ids) / len(ids))
        return forward(method, batch)

    monkeypatch.setattr(ACSAR, "forward", watched)
    job(packed, runs, recipe="acsar-small")("joint")
    told = [r["equal_captions"] for r in journal.read(runs / "one" / "joint") if r["type"] == "step"]
    assert told == shares and any(told)


def test_samples_without_caption_are_trained_on_and_told(
    source: Source, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = {s.key: Caption(f"take {s.camera}", "import", (f"second {s.key}",)) for i, s in enumerate(source.samples()) if i % 3}
    pack(source, tmp_path / "some", captions=captions, features=Words(), missing_text="train")
    seen: list[Batch] = []
    forward = ACSAR.forward

    def watched(method: ACSAR, batch: Batch) -> dict[str, Tensor]:
        seen.append(batch)
        return forward(method, batch)

    monkeypatch.setattr(ACSAR, "forward", watched)
    this = job(tmp_path / "some", runs, recipe="acsar-small", steps=6, evaluate_every=1, captions="each-epoch")
    lacking = {record.key for record in PackedSet.open(tmp_path / "some").samples if record.text_id is None}
    assert plan(this, 1).without_text > 0
    this("joint")
    assert read_json(RunFolder(runs / "one" / "joint").config)["facts"]["without_text"] == plan(this, 1).without_text
    steps = [record for record in journal.read(runs / "one" / "joint") if record["type"] == "step"]
    for batch, record in zip(seen, steps, strict=True):
        assert batch.has_text is not None and batch.text_id is not None
        assert [key not in lacking for key in batch.keys] == batch.has_text.tolist()
        ids = batch.text_id[batch.has_text].tolist()
        assert record["equal_captions"] == sum(ids.count(i) > 1 for i in ids) / len(ids)
        assert math.isfinite(record["losses"]["text"]) and record["losses"]["text"] > 0
    captioned = {key: set() for batch in seen for key in batch.keys}
    for batch in seen:
        assert batch.text_id is not None
        for key, id in zip(batch.keys, batch.text_id.tolist()):
            captioned[key].add(id)
    assert {len(captioned[key]) for key in captioned if key not in lacking} == {1, 2}
    metrics = journal.last(journal.read(runs / "one" / "joint"), "eval")
    assert metrics is not None and set(metrics["metrics"]) >= {"text_reliance", "equal_captions"}


def test_captions_that_the_training_samples_do_not_have_are_named(source: Source, packed: Path, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--captions each-epoch: no training sample of .* has several captions"):
        job(packed, runs, recipe="acsar-small", captions="each-epoch")("joint")
    captions = {s.key: Caption("walks") for s in source.samples() if s.subject % 2 == 0}
    pack(source, tmp_path / "test", captions=captions, features=Words(), missing_text="train")
    with pytest.raises(InputError, match=r"none of the \d+ training samples of .* has a caption"):
        job(tmp_path / "test", runs, recipe="acsar-small")("joint")
    assert job(tmp_path / "test", runs, stop_after=1)("joint")["step"] == 1


def test_runs_of_before_go_on(packed: Path, runs: Path) -> None:
    job(packed, runs, stop_after=1)("joint")
    folder = RunFolder(runs / "one" / "joint")
    config = read_json(folder.config)
    del config["job"]["captions"]
    folder.config.write_text(json.dumps(config))
    assert job(packed, runs, stop_after=2)("joint")["step"] == 2


def test_the_encoder_file_builds_the_method_again(packed: Path, runs: Path) -> None:
    this = job(packed, runs, recipe="acsar-small", steps=2)
    this("motion")
    path = RunFolder(runs / "one" / "motion").encoder
    assert weights.config(path) == replace(this.method, stream="motion")
    assert weights.metadata(path)["content_id"] == PackedSet.open(packed).content_id and weights.metadata(path)["step"] == "2"
    method = weights.load_encoder(path)
    rows = PackedSet.open(packed).read(range(3))
    first = method.encode(torch.from_numpy(rows.joints), torch.from_numpy(rows.frames))
    assert first.shape == (3, 32) and torch.isfinite(first).all()
    stored = safetensors.torch.load_file(path)
    for encoder in (weights.query(method), weights.key(method)):
        assert all(torch.equal(tensor, stored[name]) for name, tensor in encoder.state_dict().items())
    assert any("running_mean" in name for name in stored)


def test_equal_encoders_are_equal_files(tmp_path: Path) -> None:
    config = RECIPES["scdnet-small"].method
    facts = {name: name for name in "zyxwvutsrq"}
    for name in ("one", "two", "three"):
        weights.save_encoder(tmp_path / name, build(config, "ntu25", seed=1), config, "ntu25", facts)
    assert len({(tmp_path / name).read_bytes() for name in ("one", "two", "three")}) == 1
    assert weights.metadata(tmp_path / "one").items() >= facts.items() and weights.config(tmp_path / "one") == config


def test_init_starts_from_another_runs_weights(packed: Path, runs: Path, tmp_path: Path) -> None:
    job(packed, runs, steps=3)("joint")
    path = RunFolder(runs / "one" / "joint").encoder
    for number, init in enumerate(("one", str(runs / "one"), str(path))):
        again = job(packed, runs, f"two{number}", init=init, steps=1, lr=0.0)
        again("joint")
        old, new = weights_of(path.parent), weights_of(runs / f"two{number}" / "joint")
        assert all(torch.equal(new[name], old[name]) for name in old if "running" not in name and "tracked" not in name)
    with pytest.raises(InputError, match="--init nobody: neither a file"):
        job(packed, runs, "three", init="nobody")("joint")
    wider = job(packed, runs, "four", init="one")
    with pytest.raises(InputError, match=r"does not fit this recipe \(\d+ tensors differ, first"):
        replace(wider, method=replace(wider.method, width=32))("joint")
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no safetensors file"):
        job(packed, runs, "five", init=str(tmp_path / "no.safetensors"))("joint")


def test_settings_that_do_not_fit_are_one_clear_line(packed: Path, plain: Path, source: Source, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a batch of 8 cannot be divided among 3 ranks; use --batch-size 6 or 9"):
        plan(job(packed, runs), 3)
    with pytest.raises(InputError, match=r"\d+ training samples do not fill a batch of 512"):
        plan(job(packed, runs, batch_size=512, aside=0), 1)
    with pytest.raises(InputError, match=r"a queue of 256 is longer than half of the \d+ training samples.*--allow-large-queue"):
        plan(job(packed, runs, method=RECIPES["scdnet-small"].method), 1)
    assert plan(job(packed, runs, method=RECIPES["scdnet-small"].method, allow_large_queue=True), 1).steps == STEPS
    with pytest.raises(InputError, match="has no texts, which recipe acsar-small needs; pack again with --captions"):
        plan(job(plain, runs, recipe="acsar-small"), 1)
    labels = tmp_path / "labels"
    pack(source, labels, captions={s.key: Caption(source.classes[s.label], "label") for s in source.samples()}, features=Words())
    with pytest.raises(InputError, match="supervised by labels; add --allow-label-text"):
        plan(job(labels, runs, recipe="acsar-small"), 1)
    told = plan(job(labels, runs, recipe="acsar-small", allow_label_text=True), 1)
    assert (told.provenance, told.supervision) == ("label", "text-from-label")
    assert plan(job(labels, runs), 1).supervision == "none"
    with pytest.raises(InputError, match="the schedule has no steps; give --steps N or --epochs N"):
        plan(job(packed, runs, steps=None, epochs=None), 1)
    with pytest.raises(InputError, match="unknown recipe 'scd'; one of acsar, acsar-small"):
        Pretrain.of("scd", packed, "x")
    with pytest.raises(InputError, match="unknown stream 'bones'; one of joint, bone, motion"):
        job(packed, runs)("bones")
    with pytest.raises(InputError, match=r"cannot be built: c1 must be a multiple of 8"):
        job(packed, runs, method=replace(RECIPES["scdnet-small"].method, c1=6, queue=8))("joint")
    assert not runs.exists() or not list(runs.glob("*/*/config.json"))


def test_a_plan_says_the_arithmetic(packed: Path, runs: Path) -> None:
    told = plan(job(packed, runs, steps=None, epochs=9, aside=2), 2)
    assert (told.rows, told.world, told.aside) == (4, 2, 2)
    assert told.steps == 9 * told.steps_per_epoch and told.epochs == 9 and told.drop_step == 7 * told.steps_per_epoch
    assert plan(job(packed, runs, aside=0), 1).aside == 0
    # never more than a tenth of the part
    assert plan(job(packed, runs, aside=50), 1).aside == (told.train + told.aside) // 10


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    packed: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = SCDNet.forward, []

    def broken(method: SCDNet, batch: Batch) -> dict[str, Tensor]:
        calls.append(batch)
        found = forward(method, batch)
        return {**found, "gs": found["gs"] * math.nan} if len(calls) == 5 else found

    monkeypatch.setattr(SCDNet, "forward", broken)
    with pytest.raises(InputError, match=r"is not finite: step 5: .*the newest checkpoint stays"):
        job(packed, runs)("joint")
    folder = runs / "one" / "joint"
    end = last_end(folder)
    assert (end["status"], end["step"]) == ("nonfinite", 4) and all(key in end["message"] for key in calls[4].keys)
    assert [path.parent.name for path in RunFolder(folder).checkpoints.glob("*/COMPLETE")] == ["step_3.a1"]
    monkeypatch.undo()
    assert job(packed, runs)("joint")["status"] == "finished" and len(losses(folder)) == STEPS


def test_a_bug_is_recorded_and_keeps_its_traceback(packed: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(method: SCDNet, batch: Batch) -> dict[str, Tensor]:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(SCDNet, "forward", broken)
    with pytest.raises(ZeroDivisionError):
        job(packed, runs)("joint")
    end = last_end(runs / "one" / "joint")
    assert (end["status"], end["message"]) == ("failed", "ZeroDivisionError: a bug")


def test_a_whole_job_leaves_every_global_generator_alone(packed: Path, runs: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    job(packed, runs, recipe="acsar-small", steps=3, evaluate_every=1)("joint")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_jobs_survive_json_and_unknown_fields_are_named(packed: Path, runs: Path) -> None:
    for recipe in RECIPES:
        this = Pretrain.of(recipe, packed, "x", runs=runs, init="a", stop_after=3)
        assert decode(Pretrain, json.loads(json.dumps(encode(this)))) == this
    described = encode(job(packed, runs))
    with pytest.raises(InputError, match=r"Pretrain: unknown fields \['speed'\]"):
        decode(Pretrain, {**described, "speed": 2})
    with pytest.raises(InputError, match=r"missing fields \['data'\]"):
        decode(Pretrain, {name: value for name, value in described.items() if name != "data"})
    with pytest.raises(InputError, match="unknown kind 'UmURL'"):
        decode(Pretrain, {**described, "method": {**described["method"], "kind": "UmURL"}})


def test_the_worker_says_one_line_and_code_2(packed: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing.json", "joint"]) == 2
    assert "nothing.json does not exist" in capsys.readouterr().err
    description = write_job(job(packed, runs, batch_size=512, aside=0), tmp_path / "job.json")
    assert main([str(description), "joint"]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert main(["only one"]) == 2
    description = write_job(job(packed, runs, steps=1), tmp_path / "job.json")
    assert main([str(description), "joint"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"
