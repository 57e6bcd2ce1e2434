"""Predictions: arithmetic that must hold, fits that find known constants, and how far one is from what two ranks then take."""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jobs.costs import Costs, Rates, count
from jobs.pretrain import Plan, Pretrain, plan
from jobs.stages import write_job
from jobs.timings import Timing, of_earlier_runs
from launch.forecast import DeviceGuess, Forecast, exchange, fit, foretell, lines
from launch.pool import Ranks
from tests.clips import packed_clips
from tests.test_costs import METHODS

CPU = DeviceGuess("cpu")
H100 = DeviceGuess("NVIDIA H100 80GB HBM3", per_node=4)
SPEED = Rates(1e11, 1e11, 1e10, 1e-5)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_clips(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def job(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Pretrain:
    runs = tmp_path_factory.mktemp("runs")
    return Pretrain.of("scdnet-small", data=packed, name="x", method=METHODS[0], batch_size=8, steps=12, runs=runs, evaluate_every=0)


@pytest.fixture(scope="module")
def costs(job: Pretrain) -> Costs:
    return count(job, bf16=False)


@pytest.fixture(scope="module")
def forecast(job: Pretrain) -> Forecast:
    return foretell(job, replace(plan(job, 1), train=1000), CPU, 100.0, job.runs)


def test_arithmetic_that_must_hold(forecast: Forecast, costs: Costs) -> None:
    rows = {(row.nodes, row.batch): row for row in forecast.rows}
    assert set(rows) == {(1, 8), (2, 8), (2, 16), (4, 8), (4, 32), (8, 8), (8, 64)}
    assert rows[1, 8].efficiency == pytest.approx(1.0)
    same = [rows[nodes, 8] for nodes in (1, 2, 4, 8)]
    assert [row.rows for row in same] == [8, 4, 2, 1]
    assert all((a.efficiency or 0) > (b.efficiency or 0) for a, b in pairwise(same))
    for row in forecast.rows:
        assert row.step_ms and row.samples_per_s and row.efficiency and row.seconds
        assert row.samples_per_s == pytest.approx(1e3 * row.batch / row.step_ms)
        assert row.seconds == pytest.approx(12 * 8 / row.samples_per_s)
        assert row.source == "arithmetic"
    assert all((rows[n, 8 * n].efficiency or 0) > (rows[n, 8].efficiency or 0) for n in (2, 4, 8))
    assert forecast.gradient_bytes == 4 * costs.parameters


def test_a_ring_and_its_exchanges(costs: Costs) -> None:
    assert exchange(costs, "gpu", 1, 1, 100) == 0
    slow, fast = exchange(costs, "gpu", 4, 16, 10), exchange(costs, "gpu", 4, 16, 100)
    assert fast < slow and exchange(costs, "gpu", 2, 8, 100) < fast < exchange(costs, "gpu", 8, 32, 100)
    heavy = replace(costs, parameters=92_000_000, exchanges=0, exchange_bytes=0)
    gradients = 2 * 15 / 16 * 368e6 / 12.5e9
    assert exchange(heavy, "gpu", 4, 16, 100) == pytest.approx(gradients, rel=0.01)


def test_earlier_steps_give_back_the_constants_they_were_made_of(costs: Costs) -> None:
    def made(world: int, rows: int) -> Timing:
        seconds = 0.02 + 0.003 * rows + 2.5 * exchange(costs, "cpu", world, world, 100)
        return Timing(world, rows, 1e3 * seconds, 50, "2026-01-01")

    model = fit([made(1, 8), made(1, 16), made(2, 8), made(4, 2)], costs, CPU, 100, 16, SPEED)
    assert [model.fixed, model.per_row, model.exchange] == pytest.approx([0.02, 0.003, 2.5], rel=1e-3)
    assert model.step(8, 8, 4) == pytest.approx(made(8, 4).ms / 1e3, rel=1e-3)


def test_one_measurement_scales_the_arithmetic(costs: Costs) -> None:
    plain = fit([], costs, CPU, 100, 8, SPEED)
    took = 3 * plain.step(1, 1, 8)
    model = fit([Timing(1, 8, 1e3 * took, 20, "2026-01-01")], costs, CPU, 100, 8, SPEED)
    assert model.step(1, 1, 8) == pytest.approx(took, rel=1e-3)
    assert model.exchange == pytest.approx(1.0) and model.step(1, 1, 1) == pytest.approx(3 * plain.step(1, 1, 1), rel=0.01)


def test_nothing_costs_less_than_nothing(costs: Costs) -> None:
    """More rows that took less: noise, and no reason to predict negative times."""
    model = fit([Timing(1, 8, 50.0, 20, "x"), Timing(1, 16, 40.0, 20, "x"), Timing(2, 8, 30.0, 20, "x")], costs, CPU, 100, 16, SPEED)
    assert min(model.fixed, model.per_row, model.exchange) >= 0
    assert 0.01 < model.step(1, 1, 64) < 0.2


def test_rows_say_what_they_rest_on(job: Pretrain) -> None:
    taken = [Timing(1, 8, 40.0, 30, "2026-02-03")]
    rows = {(r.nodes, r.batch): r for r in foretell(job, plan(job, 1), CPU, 100.0, job.runs, taken).rows}
    assert rows[1, 8].source == "measured, 30 steps on 2026-02-03" and rows[1, 8].step_ms == 40.0
    assert "fit to 30 steps" in rows[2, 8].source and "exchange by arithmetic" in rows[2, 8].source
    assert "22 clips do not fill a batch" in rows[8, 64].source
    assert rows[8, 64].step_ms is None
    rows = {(r.nodes, r.batch): r for r in foretell(job, plan(job, 4), H100, 100.0, job.runs).rows}
    assert "32 ranks do not divide a batch of 8" in rows[8, 8].source


def test_steps_count_for_the_device_that_took_them() -> None:
    def timing(device: str, threads: int = 1) -> Timing:
        return Timing(1, 8, 40.0, 30, "2026-02-03", device, threads)

    h100, l40s = timing("NVIDIA H100 80GB HBM3"), timing("NVIDIA L40S")
    assert CPU.took(timing("cpu")) and not CPU.took(timing("cpu", threads=2)) and not CPU.took(h100)
    for named in (H100, DeviceGuess("h100"), DeviceGuess("gpu:h100:4"), DeviceGuess("gpu")):
        assert named.took(h100) and not named.took(timing("cpu"))
    assert not H100.took(l40s) and not DeviceGuess("l40s").took(h100) and DeviceGuess("L40S").took(l40s)


def full_size(job: Pretrain) -> Forecast:
    recipe = Pretrain.of("acsar", data=job.data, name="x", runs=job.runs, nodes=8, epochs=450)
    numbers = Plan(40091, 64, 4000, 16487, 32, 2, 626, 450 * 626, 219100, "vlm", "none")
    return foretell(recipe, numbers, H100, 100.0, job.runs)


def test_full_size_at_its_published_batch_wants_one_node_per_stream(job: Pretrain) -> None:
    forecast = full_size(job)
    assert forecast.recommendation.startswith("one node per stream (--nodes 1)")
    assert forecast.gradient_bytes / 1e6 == pytest.approx(366.9, abs=0.1)
    two_samples_each = next(r for r in forecast.rows if (r.nodes, r.batch) == (8, 64))
    assert two_samples_each.rows == 2 and (two_samples_each.efficiency or 1) < 0.3
    assert 1e9 < forecast.disk.checkpoint_bytes < 1.3e9
    assert forecast.disk.total_bytes > 3 * forecast.disk.checkpoints * forecast.disk.checkpoint_bytes
    assert forecast.seconds > 450 * 626 * forecast.exchange_ms / 1e3
    json.dumps(asdict(forecast))


def test_people_read_the_recommendation_the_model_and_its_sources(job: Pretrain, forecast: Forecast) -> None:
    for shown in (forecast, full_size(job)):
        text = "\n".join(lines(shown))
        assert shown.recommendation in text and "x rows of a rank + exchange" in text and "arithmetic" in text and "disk:" in text
        assert "better numbers: --measure" in text and len([line for line in lines(shown) if "samples/s" in line]) == 1
    tight = replace(forecast, disk=replace(forecast.disk, free_bytes=10))
    assert "not enough space" in "\n".join(lines(tight)) and "not enough space" not in "\n".join(lines(forecast))
    assert "taken for an A100" in DeviceGuess("gpu:l40s").describe() and "taken" not in H100.describe()


@pytest.mark.distributed
def test_two_real_ranks_against_what_one_rank_foretold(job: Pretrain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wide bounds: a machine that others use is no place for tight ones. What came out is printed."""
    here = replace(job, runs=tmp_path)
    for world, name in ((1, "one"), (2, "two")):
        run = replace(here, name=name, nodes=world)
        ranks = Ranks.start(write_job(run, tmp_path / name / "job.json"), "joint", tmp_path / name / "joint" / "logs", world, 0, 1)
        for process in ranks.processes:
            assert process.wait(timeout=300) == 0, ranks.log().read_text()
        if world == 1:
            foretold = foretell(here, plan(here, 1), CPU, 100.0, tmp_path)
            saved = next((tmp_path / "one" / "joint" / "ckpt").glob("step_*"))
    rows = {(row.nodes, row.batch): row for row in foretold.rows}
    took = next(t.ms for t in of_earlier_runs(tmp_path, here) if t.world == 2)
    with capsys.disabled():
        print(f"\ntwo ranks: {rows[2, 8].step_ms:.1f} ms foretold from one rank ({rows[1, 8].step_ms:.1f} ms), {took:.1f} ms taken")
    assert "measured, 9 steps" in rows[1, 8].source
    assert 0.1 < took / (rows[2, 8].step_ms or np.nan) < 10
    size = sum(file.stat().st_size for file in saved.iterdir())
    assert size == pytest.approx(foretold.disk.checkpoint_bytes, rel=0.5)
