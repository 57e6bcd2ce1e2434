"""Checkpoints on a tiny method: resume is bit-equal, and nothing half-written, damaged or superseded is ever loaded."""

import json
import resource
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs import checkpoint
from jobs import engine as deepspeed
from jobs.checkpoint import Keep
from jobs.heartbeat import Heartbeat
from jobs.journal import Journal, read
from jobs.run_folder import RunFolder, claim, record_start, trusted
from jobs.schedule import Schedule
from jobs.train_loop import Cadence, train
from shards.errors import InputError
from tests.ranks import run_ranks
from tests.tiny import Tiny, batches

SIZE = 8


def attempt(path: Path, steps: int = 8, until: int = 0, every: int = 2, zero: int = 0, keep: Keep | None = None) -> dict[str, Tensor]:
    """One attempt at `steps` steps, with dropout, on this group's ranks; leaves after step `until`. Returns the final state."""
    folder = RunFolder(path)
    with deepspeed.join() as ranks:
        method = Tiny(dropout=0.5)
        start = checkpoint.begin(folder, ranks, zero, {})
        engine = deepspeed.wrap(method, ranks, SIZE, 0.9, 1e-4, zero, bf16=False)
        schedule = Schedule(steps, 0.05, warmup=3)
        if start.checkpoint:
            checkpoint.resume(engine, folder, start, schedule)
        with Journal(folder.journal(start.attempt) if ranks.rank == 0 else None) as journal:
            train(
                engine,
                batches(start.step, steps, SIZE, ranks.rank, ranks.world),
                schedule,
                start.step,
                Cadence(0, SIZE, 4, every, 0, until),
                journal,
                Heartbeat(),
                lambda: False,
                lambda step: checkpoint.save(engine, folder, start.attempt, step, ranks, journal, keep or Keep()),
                lambda step: False,
                lambda step: None,
            )
        engine.destroy()
    return {name: tensor.detach().clone() for name, tensor in method.state_dict().items()}


def losses(path: Path) -> list[float]:
    return [record["loss"] for record in read(path) if record["type"] == "step"]


def names(path: Path) -> list[str]:
    return [folder.name for folder in trusted(RunFolder(path))]


def choose(path: Path, world: int = 1, zero: int = 0) -> tuple[str, list[str]]:
    folder = RunFolder(path)
    return checkpoint.choose(folder, claim(folder), world, zero)


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_resume_equals_never_having_stopped(tmp_path: Path, zero: int) -> None:
    whole = attempt(tmp_path / "whole", zero=zero)
    attempt(tmp_path / "parts", until=3, every=0, zero=zero)
    resumed = attempt(tmp_path / "parts", zero=zero)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    attempt(tmp_path, steps=7)
    assert names(tmp_path) == ["step_7.a1", "step_6.a1"]
    assert len(list(RunFolder(tmp_path).checkpoints.glob("step_*"))) == 2
    marker = json.loads((RunFolder(tmp_path).checkpoint(7, 1) / "COMPLETE").read_text())
    assert (marker["step"], marker["attempt"], marker["world"]) == (7, 1, 1)
    assert {entry["name"] for entry in marker["files"]} == {"mp_rank_00_model_states.pt"}


def test_without_complete_it_does_not_count(tmp_path: Path) -> None:
    attempt(tmp_path)
    (RunFolder(tmp_path).checkpoint(8, 1) / "COMPLETE").unlink()
    assert choose(tmp_path) == ("step_6.a1", [])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_file_is_found_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    attempt(tmp_path)
    file = RunFolder(tmp_path).checkpoint(8, 1) / "mp_rank_00_model_states.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(bytes(content) if damage == "flipped" else content[:-9])
    name, notes = choose(tmp_path)
    assert name == "step_6.a1"
    assert len(notes) == 1 and notes[0].startswith("step_8.a1 is not used") and file.name in notes[0]


def test_progress_that_cannot_be_loaded_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    attempt(tmp_path)
    shutil.rmtree(RunFolder(tmp_path).checkpoints)
    with pytest.raises(InputError, match=r"has made progress but no checkpoint of it can be loaded \(none is left\)"):
        choose(tmp_path)


def test_all_checkpoints_damaged_is_an_error(tmp_path: Path) -> None:
    attempt(tmp_path)
    for file in RunFolder(tmp_path).checkpoints.glob("*/*.pt"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"step_8\.a1 is not used.*step_6\.a1 is not used"):
        choose(tmp_path)


def test_an_attempt_that_never_saved_means_starting_at_0_and_saying_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    record_start(folder, claim(folder), "", {})
    with Journal(folder.journal(1)) as journal:
        journal.write("step", step=1, loss=1.0)
    name, notes = choose(tmp_path)
    assert name == "" and "starting at step 0" in notes[0]


def test_a_superseded_attempt_leaves_and_its_checkpoint_is_ignored(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    attempt(tmp_path, until=2)

    class Late(Exception):
        pass

    original = checkpoint.deepspeed.save

    def save(engine: Any, path: Path) -> list[Path]:
        # a newer attempt claims the run while this one is writing
        record_start(folder, claim(folder), "step_2.a1", {})
        return original(engine, path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="a newer attempt has taken over"):
        patch.setattr(checkpoint.deepspeed, "save", save)
        attempt(tmp_path, until=4, every=0)
    assert folder.checkpoint(4, 2).is_dir() and not (folder.checkpoint(4, 2) / "COMPLETE").exists()
    assert names(tmp_path) == ["step_2.a1"]
    assert choose(tmp_path)[0] == "step_2.a1"


def test_an_attempt_that_wakes_up_late_harms_nothing(tmp_path: Path) -> None:
    """While one attempt hangs in a save, a newer one starts, trains on, saves and leaves; then the first one wakes up."""
    folder = RunFolder(tmp_path)
    attempt(tmp_path, until=2)
    original = checkpoint.deepspeed.save
    states: list[dict[str, Tensor]] = []

    def save(engine: Any, path: Path) -> list[Path]:
        if not states:
            states.append({})
            states.append(attempt(tmp_path, until=4))
        return original(engine, path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="a newer attempt has taken over"):
        patch.setattr(checkpoint.deepspeed, "save", save)
        attempt(tmp_path, until=4, every=0)
    assert names(tmp_path) == ["step_4.a3", "step_2.a1"]
    assert not list(folder.checkpoints.glob("step_*.a2/COMPLETE"))
    whole = attempt(tmp_path / "whole")
    resumed = attempt(tmp_path)
    assert losses(tmp_path) == losses(tmp_path / "whole")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("moment", ["before COMPLETE", "after COMPLETE"])
def test_what_a_newer_attempt_starts_from_is_never_removed(tmp_path: Path, moment: str) -> None:
    """The newer attempt claims and chooses around the very moment at which the older one completes its save, of which it keeps one."""
    folder = RunFolder(tmp_path)
    chosen: list[str] = []
    original = checkpoint.write_json

    def write_json(path: Path, value: Any) -> None:
        if moment == "after COMPLETE":
            original(path, value)
        if not chosen and path.parent.name == "step_4.a1":
            number = claim(folder)
            chosen.append(checkpoint.choose(folder, number, 1, 0)[0])
            record_start(folder, number, chosen[0], {})
        if moment == "before COMPLETE":
            original(path, value)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="a newer attempt has taken over"):
        patch.setattr(checkpoint, "write_json", write_json)
        attempt(tmp_path, keep=Keep(last=1))
    assert chosen == ["step_2.a1" if moment == "before COMPLETE" else "step_4.a1"]
    assert names(tmp_path)[0] == chosen[0] and checkpoint.verify(folder.checkpoints / chosen[0]) is None
    assert attempt(tmp_path) and len(losses(tmp_path)) == 8


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (Keep(last=1), [9]),
        (Keep(last=3), [9, 8, 6]),
        (Keep(last=1, every=4), [9, 8, 4]),
        (Keep(last=1, best=2), [9, 2]),
        (Keep(last=2, every=6, best=4), [9, 8, 6, 4]),
    ],
)
def test_what_is_kept(tmp_path: Path, keep: Keep, kept: list[int]) -> None:
    attempt(tmp_path, steps=9, keep=keep)
    assert names(tmp_path) == [f"step_{step}.a1" for step in kept]
    assert len(list(RunFolder(tmp_path).checkpoints.glob("step_*"))) == len(kept)


def test_a_start_that_is_gone_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for start in ("", "step_2.a1"):
        record_start(folder, claim(folder), start, {})
    with pytest.raises(InputError, match=r"has made progress but no checkpoint of it can be loaded \(none is left\)"):
        choose(tmp_path)


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_zero_shards_are_refused_before_anything_is_touched(tmp_path: Path) -> None:
    attempt(tmp_path, until=4, zero=1)
    before = files(tmp_path)
    two = deepspeed.Ranks(0, 2, torch.device("cpu"), "gloo", "")
    with deepspeed.join(), pytest.raises(InputError, match="resume with 1 ranks"):
        checkpoint.begin(RunFolder(tmp_path), two, 1, {})
    assert files(tmp_path) == before


def test_a_disk_without_room_is_seen_before_the_save(tmp_path: Path) -> None:
    attempt(tmp_path, until=4)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError) as error:
        patch.setattr(checkpoint.deepspeed, "state_bytes", lambda engine: 10**18)
        attempt(tmp_path)
    told = str(error.value)
    assert "step_6.a2 could not be written" in told and "the disk is full" in told and "step_4.a1 stays good" in told, told
    assert names(tmp_path) == ["step_4.a1", "step_2.a1"] and not RunFolder(tmp_path).checkpoint(6, 2).exists()
    assert "\n" not in told


def test_a_file_that_appears_late_on_a_network_file_system_is_waited_for(tmp_path: Path) -> None:
    late = threading.Timer(0.5, lambda: (tmp_path / "token").write_text("content"))
    late.start()
    assert checkpoint._appears(tmp_path / "token", "content")
    late.join()


def test_zero_shards_of_another_number_of_ranks_are_refused(tmp_path: Path) -> None:
    attempt(tmp_path, zero=1)
    with pytest.raises(InputError, match=r"saved by 1 ranks with ZeRO 1.*do not fit 2; resume with 1 ranks"):
        choose(tmp_path, world=2, zero=1)


def on_two_ranks(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Everything that needs two ranks, in one group: resume under ZeRO 0 and 2, and an error of rank 0 that all raise."""
    out: dict[str, Any] = {}
    for zero in (0, 2):
        whole = attempt(Path(folder) / f"whole{zero}", zero=zero)
        attempt(Path(folder) / f"parts{zero}", until=5, zero=zero)
        parts = attempt(Path(folder) / f"parts{zero}", zero=zero)
        out[f"equal{zero}"] = all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    try:
        attempt(Path(folder) / "one", zero=2)
    except InputError as error:
        out["refused"] = str(error)
    attempt(Path(folder) / "other")
    for full in range(world):
        # half of what this rank writes fits; the other ranks write all of theirs
        with no_room(full == rank, 4000), pytest.raises(InputError) as told:
            attempt(Path(folder) / f"full{full}", zero=2)
        out[f"full{full}"] = str(told.value)
        attempt(Path(folder) / f"full{full}", zero=2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError) as told:
        patch.setattr(checkpoint, "PATIENCE", 0.5)
        attempt(Path(folder) / "apart" / str(rank))
    out["apart"] = str(told.value)
    return out


@contextmanager
def no_room(here: bool, most: int) -> Iterator[None]:
    """While engines save, this process cannot write files longer than `most`: the kernel refuses in the middle, as a full disk does."""
    original, limits = checkpoint._written, resource.getrlimit(resource.RLIMIT_FSIZE)

    def written(engine: Any, path: Path) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most if here and path.name.startswith("step_6") else limits[0], limits[1]))
        try:
            return original(engine, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_written", written)
        yield


@pytest.mark.distributed
def test_two_ranks(tmp_path: Path) -> None:
    attempt(tmp_path / "one", until=4, zero=2)
    attempt(tmp_path / "other", until=4)
    for out in run_ranks(on_two_ranks, 2, str(tmp_path)):
        assert out["equal0"] and out["equal2"]
        assert "saved by 1 ranks with ZeRO 2" in out["refused"]
        # a rank that cannot write: all say so, what was good stays, and the same command goes on
        for full in (0, 1):
            assert "checkpoint step_6.a1 could not be written" in out[f"full{full}"] and "step_4.a1 stays good" in out[f"full{full}"]
            assert socket.gethostname() in out[f"full{full}"] and "MB are free" in out[f"full{full}"]
        assert out["apart"].startswith(f"{tmp_path / 'apart'}") and f"{socket.gethostname()} cannot see" in out["apart"]
    assert not list((tmp_path / "apart").glob("*/attempts/*"))
    for full in (0, 1):
        assert losses(tmp_path / f"full{full}") == losses(tmp_path / "whole2")
        assert names(tmp_path / f"full{full}") == ["step_8.a2", "step_6.a2"]
        assert len(list((tmp_path / f"full{full}" / "ckpt").glob("step_*"))) == 2
    for zero in (0, 2):
        assert losses(tmp_path / f"parts{zero}") == losses(tmp_path / f"whole{zero}")
    # under ZeRO 0 another number of ranks goes on
    assert len(losses(tmp_path / "other")) == 8
    marker = json.loads((RunFolder(tmp_path / "whole2").checkpoint(8, 1) / "COMPLETE").read_text())
    assert sorted(entry["name"] for entry in marker["files"]) == [
        "mp_rank_00_model_states.pt",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "zero_pp_rank_1_mp_rank_00_optim_states.pt",
    ]
