"""A save killed at every operation, on each rank: the loader finds the newest whole state, and training goes on as if nothing was."""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shards.errors import InputError
from tests.faults.nursery import Nursery
from tests.faults.powercut import Disk
from tests.faults.shim import Fault, Operation, faults, kinds, logs
from tests.faults.sweep import hashes, loader_finds, losses, newest_whole

pytestmark = [pytest.mark.cluster, pytest.mark.distributed, pytest.mark.timeout(1800)]

WORLD = 2


@dataclass(frozen=True)
class Stage:
    """A run that stands at step 4 of 8 (`base`), the same run never stopped (`whole`), and its save at step 6 (`saved`)."""

    nursery: Nursery
    folder: Path
    zero: int
    digests: list[str]
    operations: list[list[Operation]]

    @classmethod
    def set_up(cls, nursery: Nursery, folder: Path, zero: int) -> "Stage":
        """Run what is compared with."""
        (folder / "out").mkdir()
        assert nursery.run("tiny", WORLD, folder / "whole", 0, zero, folder / "out") == [0, 0], nursery.said()
        digests = [(folder / "out" / str(rank)).read_text() for rank in range(WORLD)]
        assert nursery.run("tiny", WORLD, folder / "base", 4, zero) == [0, 0], nursery.said()
        shutil.copytree(folder / "base", folder / "saved")
        (folder / "log").mkdir()
        assert nursery.run("tiny_save", WORLD, folder / "saved", 6, zero, Fault(), folder / "log") == [0, 0], nursery.said()
        return cls(nursery, folder, zero, digests, logs(folder / "log", WORLD))

    def one(self, fault: Fault, broken: str = "") -> list[int]:
        """Inject one fault into the save at step 6; the ranks' exit codes. AssertionError unless all is well afterwards."""
        run, log, out = (self.folder / name for name in ("run", "log", "out"))
        for path in (run, log, out):
            shutil.rmtree(path, ignore_errors=True)
        log.mkdir()
        out.mkdir()
        shutil.copytree(self.folder / "base", run)
        codes = self.nursery.run("tiny_save", WORLD, run, 6, self.zero, fault, log, broken)
        if fault.harm == "full":
            # all leave together with one line for the user, or never needed room; without room in the journal rank 0 leaves alone
            assert codes in ([0, 0], [2, 2]) or (codes[0] == 2 and newest_whole(run) == "step_6.a2"), (codes, self.nursery.said())
            left = [path.name for path in (run / "ckpt").glob("step_*") if not (path / "COMPLETE").is_file()]
            assert not left, left
        else:
            assert codes[fault.rank] == -9, (codes, self.nursery.said())
        found = loader_finds(run, WORLD, self.zero)
        assert found in ("step_4.a1", "step_6.a2"), found
        assert hashes(run, found) == hashes(self.folder / "saved", found)
        assert self.nursery.run("tiny", WORLD, run, 0, self.zero, out) == [0, 0], self.nursery.said()
        assert [(out / str(rank)).read_text() for rank in range(WORLD)] == self.digests
        assert losses(run) == losses(self.folder / "whole")
        left = {path.name for path in (run / "ckpt").glob("step_*")}
        assert left == {"step_8.a3", "step_6.a3" if found == "step_4.a1" else "step_6.a2"}, left
        return codes

    def wrong(self, chosen: Iterable[tuple[Fault, Operation]], broken: str = "") -> Iterator[str]:
        """What went wrong, one line for each fault."""
        for fault, operation in chosen:
            try:
                self.one(fault, broken)
            except (AssertionError, InputError) as error:
                yield f"{fault.harm} {operation.kind} {operation.path.name} (operation {fault.operation} of rank {fault.rank}): {error}"


@pytest.mark.parametrize("zero", [0, 1])
def test_killed_at_every_operation(nursery: Nursery, tmp_path: Path, zero: int, figure: Callable[[str], None]) -> None:
    began = time.perf_counter()
    stage = Stage.set_up(nursery, tmp_path, zero)
    counts = [len(own) for own in stage.operations]
    # files, their folders, COMPLETE and what an old checkpoint leaves; under ZeRO 0 rank 1 makes and syncs the folder alone
    assert counts[0] >= 18 and counts[1] >= (6 if zero else 2), stage.operations
    chosen = list(faults(stage.operations))
    assert list(stage.wrong(chosen)) == []
    seconds = time.perf_counter() - began
    for rank, own in enumerate(stage.operations):
        figure(f"save, ZeRO {zero}, rank {rank}: n = {len(own)} ({kinds(own)})")
    figure(f"save, ZeRO {zero}: {len(chosen)} kills, {len(chosen)} clean recoveries, {seconds:.0f} s")


def test_every_byte_of_a_checkpoint_is_seen(nursery: Nursery, tmp_path: Path) -> None:
    """torch.save writes through C++ streams: the sizes show that no write escapes the count."""
    stage = Stage.set_up(nursery, tmp_path, 1)
    for path in (tmp_path / "saved" / "ckpt" / "step_6.a2").iterdir():
        written = [o for own in stage.operations for o in own if o.kind == "write" and o.path.name in (path.name, f".{path.name}.part")]
        if path.suffix == ".pt":
            assert sum(o.bytes for o in written) == path.stat().st_size, path


@pytest.mark.parametrize("broken", ["complete first", "removes first", "adds afterwards"])
def test_a_broken_save_is_caught(nursery: Nursery, tmp_path: Path, broken: str) -> None:
    """The same check of saves that are wrong on purpose."""
    stage = Stage.set_up(nursery, tmp_path, 0)
    faults_before = [(fault, operation) for fault, operation in faults(stage.operations) if fault.harm == "before"]
    assert next(stage.wrong(faults_before, broken), None)


def test_the_disk_full_from_any_operation_on(nursery: Nursery, tmp_path: Path, figure: Callable[[str], None]) -> None:
    """ENOSPC for whatever needs room from operation k on, on one rank: all ranks leave with a sentence, what was good stays good."""
    began = time.perf_counter()
    stage = Stage.set_up(nursery, tmp_path, 1)
    ended = []
    for rank, own in enumerate(stage.operations):
        for k, operation in enumerate(own, 1):
            if operation.kind in ("open", "write", "mkdir"):
                ended.append(stage.one(Fault(rank, "full", k)))
    refused, seconds = ended.count([2, 2]), time.perf_counter() - began
    assert refused > len(ended) / 2, ended
    figure(f"disk full from operation k on: {len(ended)} saves, {refused} refused, all continued; {seconds:.0f} s")


def test_a_writer_that_was_cut_off_and_comes_back(nursery: Nursery, tmp_path: Path, figure: Callable[[str], None]) -> None:
    """A rank that stands still before operation k of its save while a newer attempt finishes the run, and then goes on: no damage."""
    began = time.perf_counter()
    stage = Stage.set_up(nursery, tmp_path, 0)
    run, log, out = (tmp_path / name for name in ("run", "log", "out"))
    ended = Counter[str]()
    for rank, own in enumerate(stage.operations):
        for k, operation in enumerate(own, 1):
            where = f"before operation {k} of rank {rank}: {operation.kind} {operation.path.name}"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(tmp_path / "base", run)
            late = nursery.start("tiny_save", WORLD, run, 6, 0, Fault(rank, "stop", k), log, "")
            try:
                late.stopped(rank)
                assert nursery.run("tiny", WORLD, run, 0, 0, out) == [0, 0], (where, nursery.said())
                content = {path: path.read_bytes() for path in (run / "ckpt").rglob("*.a3/*")}
                os.kill(late.ranks[rank].pid or 0, signal.SIGCONT)
                ended[str(late.wait())] += 1
            finally:
                late.kill()
            assert loader_finds(run, WORLD) == "step_8.a3", where
            assert content and {path: path.read_bytes() for path in content} == content, where
            assert [(out / str(r)).read_text() for r in range(WORLD)] == stage.digests, where
            assert losses(run) == losses(tmp_path / "whole"), where
    told = ", ".join(f"{codes} {n} times" for codes, n in ended.items())
    figure(f"late writer: {sum(ended.values())} places to come back from, exit codes {told}; {time.perf_counter() - began:.0f} s")


def test_a_power_cut_takes_nothing_that_counts(nursery: Nursery, tmp_path: Path) -> None:
    """When COMPLETE appears, its checkpoint and the journal so far are on the disk; when an old checkpoint goes, COMPLETE is too."""
    (tmp_path / "log").mkdir()
    stream = tmp_path / "runs" / "one" / "joint"
    tmp_path.joinpath("runs").mkdir()
    assert nursery.run("tiny_attempt", WORLD, stream, 0, 1, Fault(), tmp_path / "log") == [0, 0], nursery.said()
    disk, completes, removals = Disk([tmp_path, tmp_path / "runs"]), 0, 0
    journal, root = stream / "journal" / "0001.jsonl", tmp_path / "runs"
    for operation in sorted((o for own in logs(tmp_path / "log", WORLD) for o in own), key=lambda o: o.clock):
        path, to = operation.path, operation.to
        if operation.kind == "rename" and to is not None and to.name == "COMPLETE":
            completes += 1
            shards = [file for file in disk.there if file.parent == to.parent and file.suffix == ".pt"]
            assert len(shards) == 3 and path not in disk.bytes
            assert [told for file in shards for told in disk.unsafe(file, to.parent)] == []
            assert disk.unsafe(journal, root) == []
        if operation.kind == "unlink" and path.name == "COMPLETE":
            removals += 1
            kept = [file for file in disk.there if file.name == "COMPLETE" and file != path]
            assert len(kept) == 2 and [told for file in kept for told in disk.unsafe(file, root)] == []
        disk.see(operation)
    assert (completes, removals) == (4, 2)
    assert disk.unsafe(stream / "attempts" / "0001.json", root) == []
