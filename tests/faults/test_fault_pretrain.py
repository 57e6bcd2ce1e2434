"""Whole pretraining attempts on two ranks, killed at every operation and at random moments: nothing is lost, nothing is done twice."""

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

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
from tests.faults.shim import Fault, kinds
from tests.faults.sweep import faults, loader_finds, logs, losses, newest_whole

pytestmark = [pytest.mark.cluster, pytest.mark.distributed]

WORLD, KILLS, SEED = 2, 30, 20


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 clips."""
    folder = tmp_path_factory.mktemp("packed")
    write_synthetic(folder / "raw", subjects=4, actions=6, frames=(20, 24))
    pack(open_source(folder / "raw"), folder / "set")
    return folder / "set"


def job(packed: Path, runs: Path, steps: int) -> Pretrain:
    """Steps of some 30 ms, with the recipe's own dropout; a checkpoint every second."""
    method = replace(RECIPES["scdnet-small"].method, c1=8, width=16, heads=2, out=8, queue=8)
    settings = {"method": method, "batch_size": 8, "protocol": "xsub", "steps": steps, "save_every": 2, "evaluate_every": 0}
    return Pretrain.of("scdnet-small", packed, "one", runs=runs, **settings)


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
        ends = [record for record in journal.read(stream) if record["type"] == "end" and record["status"] == "finished"]
        assert len(ends) <= 1


def test_killed_at_every_operation(nursery: Nursery, packed: Path, tmp_path: Path, figure: Callable[[str], None]) -> None:
    """From the claim of the attempt to result.json; where a run of writes goes to one file, at its first, middle and last."""
    began, steps, log = time.perf_counter(), 4, tmp_path / "log"
    runs, whole = tmp_path / "runs", Whole(tmp_path / "whole" / "one" / "joint")
    stream = runs / "one" / "joint"
    log.mkdir()
    assert nursery.run("pretrain", WORLD, job(packed, tmp_path / "whole", steps), Fault(), log) == [0, 0], nursery.said()
    operations = logs(log, WORLD)
    assert len(operations[0]) >= 60 and len(operations[1]) >= 4, operations
    chosen = list(faults(operations, thin=True))
    finished = 0
    for fault, operation in chosen:
        where = f"{fault.harm} operation {fault.operation} of rank {fault.rank}: {operation.kind} {operation.path}"
        shutil.rmtree(runs, ignore_errors=True)
        codes = nursery.run("pretrain", WORLD, job(packed, runs, steps), fault, log)
        assert codes[fault.rank] == -9, (where, codes, nursery.said())
        done = RunFolder(stream).result.is_file()
        finished += done
        found = loader_finds(stream, WORLD)
        began_at = len(attempts(RunFolder(stream)))
        assert nursery.run("pretrain", WORLD, job(packed, runs, steps), Fault(), log) == [0, 0], (where, nursery.said())
        whole.same(stream, steps)
        if done:
            assert len(attempts(RunFolder(stream))) == began_at, where
        else:
            assert attempts(RunFolder(stream))[-1].start == found, where
        assert not list(stream.rglob("*.part")), where
    for rank, own in enumerate(operations):
        figure(f"attempt of a stream, rank {rank}: n = {len(own)} ({kinds(own)})")
    seconds = time.perf_counter() - began
    figure(f"attempt of a stream: {len(chosen)} kills ({finished} of them after result.json), {len(chosen)} same encoders, {seconds:.0f} s")


def test_killed_at_random_moments(nursery: Nursery, packed: Path, tmp_path: Path, figure: Callable[[str], None]) -> None:
    """30 times one rank of two, at any moment from its start on."""
    began, steps, log, draw = time.perf_counter(), 60, tmp_path / "log", random.Random(SEED)
    log.mkdir()
    whole = Whole(tmp_path / "whole" / "one" / "joint")
    start = time.perf_counter()
    assert nursery.run("pretrain", WORLD, job(packed, tmp_path / "whole", steps), Fault(), log) == [0, 0], nursery.said()
    takes = time.perf_counter() - start
    kills, runs, starts = 0, 0, []
    while kills < KILLS:
        runs += 1
        this = job(packed, tmp_path / f"runs{runs}", steps)
        stream = this.runs / "one" / "joint"
        codes = [-9]
        while any(codes):
            group = nursery.start("pretrain", WORLD, this, Fault(), log)
            if kills < KILLS:
                group.ranks[0].join(draw.uniform(0, takes / 3))
                if group.ranks[0].exitcode is None:
                    group.ranks[draw.randrange(WORLD)].kill()
                    kills += 1
            expected = newest_whole(stream)
            codes = group.wait()
            # who was not killed complains about its neighbour; nobody ever finds a run that cannot be continued
            assert set(codes) <= {0, 1, -9} and (not any(codes) or -9 in codes), (codes, nursery.said())
            starts += [expected]
        whole.same(stream, steps)
    figure(
        f"random kill -9: {kills} kills in {runs} run(s) of {steps} steps, each finished with the same encoder, "
        f"journal with every step once; {time.perf_counter() - began:.0f} s"
    )
