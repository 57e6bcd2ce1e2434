"""Whole pretraining attempts on two ranks, killed at every operation and at random moments: nothing is lost, nothing is done twice."""

import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from acsar.recipes import RECIPES
from jobs import journal
from jobs.pretrain import Pretrain
from jobs.run_folder import RunFolder, attempts, read_json
from shards.pack import pack
from shards.sources import open_source
from shards.synthetic import write_synthetic
from tests.faults.nursery import Nursery
from tests.faults.shim import Fault, faults, kinds, logs
from tests.faults.sweep import loader_finds, losses

pytestmark = [pytest.mark.cluster, pytest.mark.distributed, pytest.mark.timeout(1800)]

WORLD, STEPS, LONG, KILLS, SEED = 2, 6, 24, 30, 20


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 clips."""
    folder = tmp_path_factory.mktemp("packed")
    write_synthetic(folder / "raw", subjects=4, actions=6, frames=(20, 24))
    pack(open_source(folder / "raw"), folder / "set")
    return folder / "set"


def job(packed: Path, runs: Path, steps: int, **changes: Any) -> Pretrain:
    """Small, with the recipe's own dropout; a checkpoint every second step."""
    method = replace(RECIPES["scdnet-small"].method, c1=8, width=16, heads=2, out=8, queue=8)
    settings = {"method": method, "batch_size": 8, "protocol": "xsub", "steps": steps, "save_every": 2, "evaluate_every": 0}
    return Pretrain.of("scdnet-small", packed, "one", runs=runs, **{**settings, **changes})


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed, and what others are compared with."""

    stream: Path

    def same(self, stream: Path, steps: int) -> None:
        """AssertionError unless that run has finished with the same losses and the same encoder, bit by bit."""
        assert len(losses(stream)) == steps and losses(stream) == losses(self.stream)
        encoders = [safetensors.torch.load_file(RunFolder(path).encoder) for path in (stream, self.stream)]
        assert encoders[0].keys() == encoders[1].keys()
        assert all(tensor.equal(encoders[1][name]) for name, tensor in encoders[0].items())
        result, expected = read_json(RunFolder(stream).result), read_json(RunFolder(self.stream).result)
        assert (result["status"], result["step"], result["loss"]) == ("finished", steps, expected["loss"])
        assert evaluations(stream) == evaluations(self.stream)


def evaluations(stream: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and metrics of each evaluation."""
    return [(record["step"], record["metrics"]) for record in journal.read(stream) if record["type"] == "eval"]


def test_killed_at_every_operation(nursery: Nursery, packed: Path, tmp_path: Path, figure: Callable[[str], None]) -> None:
    """From the claim of the attempt to the journal's last line after result.json, evaluations and retention of the best included."""
    began, log = time.perf_counter(), tmp_path / "log"
    runs, whole = tmp_path / "runs", Whole(tmp_path / "whole" / "one" / "joint")
    stream = runs / "one" / "joint"
    log.mkdir()

    def run(folder: Path, fault: Fault) -> list[int]:
        this = job(packed, folder, STEPS, evaluate_every=1, keep_best=True, keep_last=1)
        return nursery.run("small_pretrain", WORLD, this, fault, log)

    assert run(tmp_path / "whole", Fault()) == [0, 0], nursery.said()
    operations = logs(log, WORLD)
    assert len(operations[0]) >= 60 and len(operations[1]) >= 4 and len(evaluations(whole.stream)) >= 1, operations
    chosen, states, finished = list(faults(operations, thin=True)), set(), 0
    for fault, operation in chosen:
        where = f"{fault.harm} operation {fault.operation} of rank {fault.rank}: {operation.kind} {operation.path}"
        shutil.rmtree(runs, ignore_errors=True)
        codes = run(runs, fault)
        assert codes[fault.rank] == -9, (where, codes, nursery.said())
        done, claimed, found = RunFolder(stream).result.is_file(), len(attempts(RunFolder(stream))), loader_finds(stream, WORLD)
        finished += done
        losses(stream)
        # most kills leave the same files as the one before: each such state is continued from once
        state = frozenset(
            re.sub(r"\d+\.part|shared\.\w+", "", str(path.relative_to(runs))) for path in runs.rglob("*") if "heartbeat" not in path.parts
        )
        if state in states:
            continue
        states.add(state)
        assert run(runs, Fault()) == [0, 0], (where, nursery.said())
        whole.same(stream, STEPS)
        # what is finished is not done again
        assert len(attempts(RunFolder(stream))) == claimed + (not done), where
        assert done or attempts(RunFolder(stream))[-1].start == found, where
    seconds = time.perf_counter() - began
    for rank, own in enumerate(operations):
        figure(f"attempt of a stream, rank {rank}: n = {len(own)} ({kinds(own)})")
    told = f"{len(chosen)} kills ({finished} after result.json), {len(states)} sets of files continued to the same encoder"
    figure(f"attempt of a stream: {told}; {seconds:.0f} s")


def test_killed_at_random_moments(nursery: Nursery, packed: Path, tmp_path: Path, figure: Callable[[str], None]) -> None:
    """30 times one rank of two, at any moment of an attempt of a real method."""
    began, draw = time.perf_counter(), random.Random(SEED)
    whole = Whole(tmp_path / "whole" / "one" / "joint")
    assert nursery.run("pretrain", WORLD, job(packed, tmp_path / "whole", LONG)) == [0, 0], nursery.said()
    takes = time.perf_counter() - began
    kills, runs = 0, 0
    while kills < KILLS:
        runs += 1
        this = job(packed, tmp_path / f"runs{runs}", LONG)
        stream = this.runs / "one" / "joint"
        codes, found = [-9], ""
        while any(codes):
            group, claims = nursery.start("pretrain", WORLD, this), len(attempts(RunFolder(stream)))
            killed = False
            if kills < KILLS:
                group.ranks[0].join(draw.uniform(0, takes / 3))
                killed = group.ranks[0].exitcode is None
                if killed:
                    group.ranks[draw.randrange(WORLD)].kill()
            codes = group.wait(rest=10.0)
            kills += -9 in codes
            # nobody but the killed one's neighbour complains, and an attempt starts from the newest whole state there was
            assert set(codes) <= {0, 1, -9} and (killed or not any(codes)), (codes, nursery.said())
            assert all(new.start in (None, found) for new in attempts(RunFolder(stream))[claims:])
            found = loader_finds(stream, WORLD)
            losses(stream)
        whole.same(stream, LONG)
    seconds = time.perf_counter() - began
    figure(f"random kill -9: {kills} kills in {runs} run(s) of {LONG} steps, as many clean recoveries, same encoders; {seconds:.0f} s")
