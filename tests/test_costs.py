"""Costs counted on tensors without content are those of the real method; timings come from journals, and only from those that compare."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

import acsar
from acsar.ac_sar import ACSARConfig
from acsar.scdnet import SCDNetConfig
from acsar.types import Batch
from jobs.codec import encode
from jobs.costs import Costs, Rates, count, plain_products, this_cpu
from jobs.pretrain import Pretrain
from jobs.run_folder import write_json
from jobs.timings import WARM, Timing, measure, of_earlier_runs
from tests.clips import packed_clips
from tests.ranks import run_ranks

SMALL = {"c1": 8, "width": 16, "heads": 2, "out": 8, "queue": 8}
METHODS = [SCDNetConfig(**SMALL), ACSARConfig(**SMALL)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_clips(tmp_path_factory.mktemp("set"))


def job(packed: Path, method: SCDNetConfig = METHODS[0], recipe: str = "scdnet-small", runs: Path = Path("runs")) -> Pretrain:
    return Pretrain.of(recipe, data=packed, name="x", method=method, batch_size=8, runs=runs)


def batch(rows: int) -> Batch:
    clips, ids = torch.randn(rows, 3, 64, 25, 2, generator=torch.Generator().manual_seed(0)), torch.arange(rows)
    return Batch(clips, torch.full((rows,), 64), ids, [str(i) for i in ids], torch.ones(rows, 77, 512), ids)


def backward(method: torch.nn.Module, rows: int) -> None:
    torch.stack(list(method(batch(rows)).values())).sum().backward()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_parameters_and_arithmetic_are_the_real_ones(method: SCDNetConfig, packed: Path) -> None:
    costs = count(job(packed, method), bf16=False)
    real = acsar.build(method).train()
    trained = [p for p in real.parameters() if p.requires_grad]
    assert costs.parameters == sum(p.numel() for p in trained) and costs.gradient_bytes == sum(p.numel() * 4 for p in trained)
    assert costs.state_bytes == sum(t.numel() * t.element_size() for t in real.state_dict().values()) + costs.gradient_bytes
    with FlopCounterMode(display=False) as counter, plain_products():
        backward(real, 8)
    fixed = sum(flop for flop, *_ in costs.operations)
    # the text contrast is quadratic in the rows, and is nothing beside the rest
    assert fixed + 8 * costs.flops_per_row == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert not dist.is_initialized() and torch.backends.mkldnn.is_available()


def test_full_size_has_the_published_gradient() -> None:
    """Counted without allocating it: 368 MB for SCD-Net, a trunk less for AC-SAR."""
    for recipe, megabytes in (("scdnet", 368.1), ("acsar", 366.9)):
        with torch.device("meta"):
            method = acsar.build(recipe)
        assert sum(4 * p.numel() for p in method.parameters() if p.requires_grad) / 1e6 == pytest.approx(megabytes, abs=0.05)


def test_bf16_is_for_all_but_the_keys(packed: Path) -> None:
    def arithmetic(costs: Costs, low: bool) -> float:
        return sum(per_row for _, per_row, _, _, is_low in costs.operations if is_low is low)

    half, whole = count(job(packed), bf16=True), count(job(packed), bf16=False)
    assert half.flops_per_row == pytest.approx(whole.flops_per_row, rel=0.01)
    assert arithmetic(whole, low=True) == 0
    # query forwards and backwards against keys forwards: about three to one
    assert 1.5 < arithmetic(half, low=True) / arithmetic(half, low=False) < 4


def test_a_step_costs_more_with_more_rows_and_less_on_a_faster_device(packed: Path) -> None:
    costs = count(job(packed), bf16=False)
    slow, fast = Rates(1e10, 1e10, 1e9, 1e-5), Rates(1e11, 1e11, 1e10, 1e-6)
    times = [costs.seconds(rows, slow) for rows in (1, 2, 4, 8)]
    assert times == sorted(times) and times[3] > 2 * times[0]
    assert costs.seconds(8, fast) < costs.seconds(8, slow) / 5
    here = this_cpu(1)
    assert here.full > 1e8 and here.memory > 1e7 and torch.get_num_threads() >= 1


def _calls(rank: int, world: int, kind: str) -> Counter[str]:
    calls: Counter[str] = Counter()

    def counted(name: str) -> Any:
        real = getattr(dist, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return real(*args, **kwargs)

        return call

    method = next(m for m in METHODS if type(m).__name__ == kind)
    with patch.object(dist, "all_gather", counted("all_gather")), patch.object(dist, "all_reduce", counted("all_reduce")):
        backward(acsar.build(method).train(), 4)
    return calls


@pytest.mark.distributed
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_exchanges_are_those_of_two_real_ranks(method: SCDNetConfig, packed: Path) -> None:
    calls = run_ranks(_calls, 2, type(method).__name__)
    assert calls[0] == calls[1]
    assert count(job(packed, method), bf16=False).exchanges == sum(calls[0].values())


def test_a_short_measurement_here(packed: Path) -> None:
    taken = measure(job(packed), (2, 4), threads=1, steps=2)
    assert [(t.world, t.rows, t.steps) for t in taken] == [(1, 2, 2), (1, 4, 2)]
    assert all(0.1 < t.ms < 1e5 for t in taken)


def made_up(job: Pretrain, stream: str, world: int, took: float, attempt: int = 1, **facts: Any) -> None:
    """A run of 10 steps of `took` ms each, after slow first ones, and 5 ms of waiting for data."""
    folder = job.runs / job.name / stream
    write_json(folder / "config.json", {"job": encode(job), "stream": stream, "facts": {}})
    known = {"attempt": attempt, "start": "", "world": world, "device": "cpu", "threads": 1, **facts}
    write_json(folder / "attempts" / f"{attempt:04d}.json", known)
    records = [
        {"type": "step", "time": 86400.0, "step": i + 1, "step_ms": took + 5 + 1000 * (i < WARM), "data_wait_ms": 5.0}
        for i in range(10 + WARM)
    ]
    (folder / "journal").mkdir(exist_ok=True)
    (folder / "journal" / f"{attempt:04d}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_journals_of_the_same_method_and_device_count(packed: Path, tmp_path: Path) -> None:
    asked = job(packed, runs=tmp_path)
    made_up(replace(asked, name="a"), "joint", 2, 100)
    made_up(replace(asked, name="b", lr=0.5, batch_size=16), "motion", 1, 300)
    made_up(replace(asked, name="c", method=replace(asked.method, width=32)), "joint", 1, 7)
    made_up(replace(asked, name="d", precision="bf16"), "joint", 1, 7)
    made_up(replace(asked, name="e"), "joint", 1, 7, device="NVIDIA H100 80GB HBM3")
    made_up(replace(asked, name="f"), "joint", 1, 7, threads=4)
    (tmp_path / "g" / "joint").mkdir(parents=True)
    (tmp_path / "g" / "joint" / "config.json").write_text("{cut sho")
    (tmp_path / "a" / "joint" / "attempts" / "0002.json").write_text("")  # claimed, never started
    found = of_earlier_runs(tmp_path, asked)
    assert Timing(2, 4, 100.0, 10, "1970-01-02") in found and Timing(1, 16, 300.0, 10, "1970-01-02") in found
    assert {(t.device, t.threads) for t in found if t.ms == 7} == {("NVIDIA H100 80GB HBM3", 1), ("cpu", 4)} and len(found) == 4
    assert of_earlier_runs(tmp_path / "nothing", asked) == []
