"""Heartbeats: what they say while a rank works, waits, is done, or cannot write; and that waiting for others is not being busy."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from jobs import heartbeat
from jobs.heartbeat import Heartbeat
from tests.ranks import run_ranks


def beat_of(folder: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{rank}.json").read_text())
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_it_beats_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.02)
    monkeypatch.setenv("ACSAR_TAG", "7.0.2")
    plain = dist.all_reduce
    with Heartbeat(tmp_path / "heartbeat", 3) as beat:
        wait_for((tmp_path / "heartbeat" / "3.json").exists)
        first = beat_of(tmp_path / "heartbeat", 3)
        assert (first["rank"], first["tag"], first["attempt"], first["step"], first["phase"]) == (3, "7.0.2", 0, 0, "starting")
        assert (first["pid"], first["busy_ms"]) == (os.getpid(), None) and first["host"] and first["time"]
        beat.attempt, beat.phase = 2, "data"
        for step in range(1, 6):
            beat.stepped(step, 0.01 * step)
        wait_for(lambda: beat_of(tmp_path / "heartbeat", 3)["step"] == 5)
        now = beat_of(tmp_path / "heartbeat", 3)
        assert (now["attempt"], now["phase"], now["busy_ms"]) == (2, "data", pytest.approx(30)) and now["count"] > first["count"]
        assert dist.all_reduce is not plain
    last = beat_of(tmp_path / "heartbeat", 3)
    assert last["phase"] == "ended" and last["count"] > now["count"] and dist.all_reduce is plain
    assert [path.name for path in (tmp_path / "heartbeat").iterdir()] == ["3.json"]


def test_a_beat_that_cannot_be_written_is_said_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.01)
    (tmp_path / "file").write_text("")
    with Heartbeat(tmp_path / "file" / "heartbeat"):
        time.sleep(0.1)
    assert capsys.readouterr().err.count("no heartbeat: NotADirectoryError") == 1


def test_without_a_folder_nothing_is_written_nor_timed() -> None:
    plain = dist.all_reduce
    with Heartbeat() as beat:
        beat.stepped(1, 0.1)
        assert dist.all_reduce is plain


def meet(rank: int, world: int, folder: str) -> list[str]:
    """Ten steps in which rank 1 works longer and all meet twice; the phases that a rank was seen in."""
    seen = set()
    with Heartbeat(Path(folder), rank) as beat:
        for step in range(10):
            began, beat.phase = time.perf_counter(), "compute"
            time.sleep(0.08 if rank == 1 else 0.01)
            dist.all_reduce(torch.zeros(3))
            seen.add(beat.phase)
            dist.barrier()
            beat.stepped(step + 1, time.perf_counter() - began)
    return sorted(seen)


@pytest.mark.distributed
def test_waiting_for_a_slower_rank_is_not_being_busy(tmp_path: Path) -> None:
    assert run_ranks(meet, 2, str(tmp_path)) == [["compute"], ["compute"]]
    fast, slow = beat_of(tmp_path, 0), beat_of(tmp_path, 1)
    assert slow["busy_ms"] >= 80 and fast["busy_ms"] < slow["busy_ms"] / 2, (fast, slow)
    assert fast["step"] == slow["step"] == 10
