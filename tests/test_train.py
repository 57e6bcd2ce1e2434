"""The loop and its engine on a tiny method: one engine for all, ZeRO stages agree, global generators stay, bad losses stop everybody."""

import json
import logging
import os
import random
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from acsar.types import Batch
from jobs import engine as deepspeed
from jobs import interrupts
from jobs.heartbeat import Heartbeat
from jobs.journal import Journal, read
from jobs.run_folder import RunFolder, claim, record_start
from jobs.schedule import Schedule
from jobs.train_loop import Cadence, Outcome, train
from tests.ranks import run_ranks
from tests.tiny import Tiny, batch_of, batches

SIZE = 8
CADENCE = Cadence(seed=3, batch_size=SIZE, steps_per_epoch=5, save_every=0, evaluate_every=0, stop_after=0)


def nothing(step: int) -> None:
    return None


def loop(
    engine: Any,
    source: Iterable[Batch],
    steps: int,
    journal: Journal,
    cadence: Cadence = CADENCE,
    interrupted: Callable[[], bool] = lambda: False,
    save: Callable[[int], None] = nothing,
    evaluate: Callable[[int], None] = nothing,
) -> Outcome:
    return train(engine, source, Schedule(steps, 0.05, warmup=2), 0, cadence, journal, Heartbeat(), interrupted, save, evaluate, nothing)


def losses_of(folder: Path, zero: int = 0, steps: int = 6) -> tuple[list[float], dict[str, Tensor], str]:
    """Losses, final state and class of the engine of a short training on this group's ranks."""
    run = RunFolder(folder)
    with deepspeed.join() as ranks, Journal(run.journal(1) if ranks.rank == 0 else None) as journal:
        method = Tiny()
        engine = deepspeed.wrap(method, ranks, SIZE, 0.9, 1e-4, zero, bf16=False)
        outcome = loop(engine, batches(0, steps, SIZE, ranks.rank, ranks.world), steps, journal)
        assert outcome == Outcome(steps, "finished")
        name = f"{type(engine).__module__}.{type(engine).__name__}"
        engine.destroy()
    losses = [record["loss"] for record in read(folder) if record["type"] == "step"]
    return losses, {n: t.detach().clone() for n, t in method.state_dict().items()}, name


def test_one_rank_on_a_cpu_trains_through_deepspeeds_engine(tmp_path: Path) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")
    before = [os.environ.get(name) for name in names]
    losses, _, name = losses_of(tmp_path)
    assert name == "deepspeed.runtime.engine.DeepSpeedEngine"
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert not dist.is_initialized() and [os.environ.get(name) for name in names] == before


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_the_engine_is_plain_sgd(zero: int) -> None:
    """Large gradients too: nothing is clipped, scaled or skipped."""
    mine, plain = Tiny(dropout=0.0), Tiny(dropout=0.0)
    sgd = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], lr=0.01, momentum=0.9, weight_decay=0.01)
    with deepspeed.join() as ranks:
        engine = deepspeed.wrap(mine, ranks, SIZE, 0.9, 0.01, zero, bf16=False)
        for step in range(4):
            deepspeed.set_lr(engine, 0.01)
            engine.backward(30 * sum(engine(batch_of(step, SIZE), 0).values()))
            engine.step()
            sgd.zero_grad()
            loss = torch.stack(list(plain(batch_of(step, SIZE)).values())).sum()
            (30 * loss).backward()
            assert torch.nn.utils.get_total_norm([p.grad for p in plain.parameters() if p.grad is not None]) > 3
            sgd.step()
        engine.destroy()
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(mine.state_dict()[name], tensor, rtol=1e-5, atol=1e-6), name


def test_zero_stages_compute_the_same(tmp_path: Path) -> None:
    plain, weights, _ = losses_of(tmp_path / "0")
    for zero in (1, 2):
        losses, other, _ = losses_of(tmp_path / str(zero), zero)
        assert losses == pytest.approx(plain, rel=1e-5)
        for name, tensor in weights.items():
            assert torch.allclose(other[name], tensor, rtol=1e-5, atol=1e-6), name


def test_training_leaves_every_global_generator_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    losses_of(tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_dropout_depends_on_seed_step_and_rank_alone() -> None:
    forward = deepspeed.Forward(Tiny(dropout=0.5), torch.device("cpu"), bf16=False)
    seeds = {deepspeed.dropout_seed(seed, step, rank) for seed in range(3) for step in range(3) for rank in range(3)}
    assert len(seeds) == 27 and all(0 <= seed < 2**63 for seed in seeds)
    first = forward(batch_of(0, SIZE), 1)["push"]
    torch.rand(7)
    forward.method.load_state_dict(Tiny().state_dict())
    assert torch.equal(first, forward(batch_of(0, SIZE), 1)["push"])
    forward.method.load_state_dict(Tiny().state_dict())
    assert not torch.equal(first, forward(batch_of(0, SIZE), 2)["push"])


def test_bf16_is_autocast_over_fp32_parameters() -> None:
    seen = []

    class Watching(Tiny):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            seen.append(self.query(batch.joints.flatten(1)).dtype)
            return super().forward(batch)

    with deepspeed.join() as ranks:
        engine = deepspeed.wrap(Watching(), ranks, SIZE, 0.9, 0.0, 0, bf16=True)
        engine(batch_of(0, SIZE), 0)
        assert seen == [torch.bfloat16]
        assert {p.dtype for p in engine.module.parameters()} == {torch.float32}
        assert not engine.bfloat16_enabled()
        engine.destroy()
    assert deepspeed.use_bf16("auto", torch.device("cpu")) is False
    assert deepspeed.use_bf16("bf16", torch.device("cpu")) is True


def test_saves_evaluations_and_stops_happen_when_they_should(tmp_path: Path) -> None:
    saved: list[int] = []
    seen: list[int] = []
    cadence = Cadence(seed=0, batch_size=SIZE, steps_per_epoch=2, save_every=3, evaluate_every=4, stop_after=7)
    with deepspeed.join() as ranks, Journal(None) as journal:
        engine = deepspeed.wrap(Tiny(), ranks, SIZE, 0.9, 0.0, 0, bf16=False)
        outcome = loop(engine, batches(0, 10, SIZE), 10, journal, cadence, save=saved.append, evaluate=seen.append)
        engine.destroy()
    assert (outcome.step, outcome.status) == (7, "stopped")
    assert saved == [3, 6, 7] and seen == [4]


def test_a_signal_ends_the_step_saves_and_leaves() -> None:
    saved: list[int] = []

    def source() -> Iterable[Batch]:
        for step in range(10):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch_of(step, SIZE)

    before = signal.getsignal(signal.SIGTERM)
    with interrupts.listening() as interrupted, deepspeed.join() as ranks, Journal(None) as journal:
        engine = deepspeed.wrap(Tiny(), ranks, SIZE, 0.9, 0.0, 0, bf16=False)
        outcome = loop(engine, source(), 10, journal, interrupted=interrupted, save=saved.append)
        engine.destroy()
    assert (outcome.step, outcome.status, saved) == (3, "interrupted", [3])
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_journal_says_what_a_step_cost(tmp_path: Path) -> None:
    losses_of(tmp_path)
    record = next(record for record in read(tmp_path) if record["type"] == "step")
    assert record["loss"] == pytest.approx(sum(record["losses"].values()))
    assert set(record["losses"]) == {"pull", "push"}
    assert 0 <= record["data_wait_ms"] <= record["step_ms"]
    assert record["samples_per_s"] == pytest.approx(SIZE / record["step_ms"] * 1e3, rel=0.01)
    assert (record["step"], record["epoch"], record["equal_captions"]) == (1, 0, None)


def test_deepspeed_keeps_standard_output_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    losses_of(tmp_path, zero=1)
    logging.getLogger("DeepSpeed").warning("seen")
    assert capfd.readouterr().out == ""


def on_several_ranks(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Everything that needs two ranks, in one group: ZeRO stages, a bad loss on one rank, a signal to one rank."""
    out: dict[str, Any] = {"zero": [losses_of(Path(folder) / f"zero{zero}", zero)[0] for zero in (0, 1, 2)]}
    with deepspeed.join() as ranks:
        assert (ranks.rank, ranks.world, ranks.backend) == (rank, world, "gloo")
        engine = deepspeed.wrap(Tiny(), ranks, SIZE, 0.9, 0.0, 0, bf16=False)

        def poisoned() -> Iterable[Batch]:
            for step, batch in enumerate(batches(0, 10, SIZE, rank, world)):
                if step == 3 and rank == 1:
                    batch.joints[0] = torch.nan
                yield batch

        saved: list[int] = []
        end = loop(engine, poisoned(), 10, Journal(None), Cadence(0, SIZE, 5, 2, 0, 0), save=saved.append)
        out["nonfinite"] = (end.step, end.status, end.message, saved)
        engine.destroy()
        engine = deepspeed.wrap(Tiny(), ranks, SIZE, 0.9, 0.0, 0, bf16=False)
        asked: list[int] = []

        def interrupted() -> bool:
            asked.append(rank)
            return rank == 1 and len(asked) == 4

        end = loop(engine, batches(0, 10, SIZE, rank, world), 10, Journal(None), interrupted=interrupted)
        out["signal"] = (end.step, end.status)
        engine.destroy()
    return out


@pytest.mark.distributed
def test_ranks_agree_on_losses_stops_and_signals(tmp_path: Path) -> None:
    alone, _, _ = losses_of(tmp_path / "alone")
    first, second = run_ranks(on_several_ranks, 2, str(tmp_path))
    # dropout differs by rank, so a run on two ranks is near the run on one, and equal over ZeRO stages
    for losses in first["zero"]:
        assert losses == pytest.approx(first["zero"][0], rel=1e-5)
        assert losses == pytest.approx(alone, rel=0.3)
    assert first["signal"] == second["signal"] == (4, "interrupted")
    step, status, message, saved = first["nonfinite"]
    assert (step, status, saved) == (3, "nonfinite", [2]) and second["nonfinite"] == first["nonfinite"]
    # the one broken clip is named, although the gather has made every rank's loss bad
    assert message.startswith("step 4:") and message.endswith("samples k28")


def test_records_are_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    record_start(folder, claim(folder), "", {})
    losses_of(tmp_path)
    for line in folder.journal(1).read_text().splitlines():
        assert json.loads(line)["type"] == "step"
