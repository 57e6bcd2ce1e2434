"""What failing ranks leave behind: who, why, and whether it is only the echo of another rank's end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from jobs import failures
from shards.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of rank 3 of a scheduler's job."""
    monkeypatch.setenv("ACSAR_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("ACSAR_TAG", "12_3.0.1")
    monkeypatch.setenv("RANK", "3")
    return tmp_path / "logs"


def failed(error: BaseException) -> None:
    try:
        raise error
    except BaseException as raised:
        failures.record(raised)


def test_a_record_says_who_and_why(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed(ZeroDivisionError("a bug\nin two lines"))
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("SLURM_PROCID", "1")
    failed(InputError("no data; pack some"))
    monkeypatch.setenv("ACSAR_TAG", "12_3.0.10")
    failed(KeyError("another start of the ranks"))
    first, second = failures.read(logs, "12_3.0.1")
    assert (first["rank"], first["kind"], first["message"], first["input"]) == (1, "InputError", "no data; pack some", True)
    assert (second["rank"], second["kind"], second["communication"], second["input"]) == (3, "ZeroDivisionError", False, False)
    assert second["trace"][-2:] == ["ZeroDivisionError: a bug", "in two lines"] and second["tag"] == "12_3.0.1" and second["host"]
    assert [path.name for path in (logs / "errors").glob("*.10.*")] == ["12_3.0.10.1.json"]
    assert failures.job() == "12_3"


def test_outside_a_job_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACSAR_LOGS", str(tmp_path))
    monkeypatch.delenv("ACSAR_TAG", raising=False)
    failed(KeyError("x"))
    assert list(tmp_path.iterdir()) == [] and failures.job() == "" and failures.read(tmp_path, "1.0.1") == []


def test_a_folder_that_cannot_be_written_does_not_hide_the_error(logs: Path) -> None:
    logs.write_text("a file where the folder should be")
    failed(KeyError("x"))
    assert failures.read(logs, "12_3.0.1") == []


def test_a_file_cut_short_is_left_out(logs: Path) -> None:
    failed(KeyError("x"))
    (logs / "errors" / "12_3.0.1.0.json").write_text("{")
    assert [entry["rank"] for entry in failures.read(logs, "12_3.0.1")] == [3]


EXCHANGE = """
import os, sys, torch, torch.distributed as dist
from jobs import failures
rank = int(sys.argv[1])
dist.init_process_group("gloo", "file://" + sys.argv[2], rank=rank, world_size=2)
dist.all_reduce(torch.zeros(9))
if rank == 1:
    os._exit(9)
try:
    while True:
        dist.all_reduce(torch.zeros(9))
except BaseException as error:
    print(failures.communication(error), error)
"""


@pytest.mark.distributed
def test_the_echo_of_another_rank_s_end_is_told_from_a_cause(tmp_path: Path) -> None:
    words = [sys.executable, "-c", EXCHANGE]
    ranks = [subprocess.Popen([*words, str(rank), str(tmp_path / "meet")], cwd=ROOT, stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    told, _ = ranks[0].communicate(timeout=60)
    assert ranks[1].wait() == 9 and told.startswith("True "), told
    store = dist.DistNetworkError("The client socket has timed out after 1000ms")
    assert failures.communication(store) and failures.communication(ConnectionResetError("reset"))
    for cause in (InputError("Connection reset"), ValueError("NCCL"), RuntimeError("shape mismatch"), MemoryError(), OSError(28, "full")):
        assert not failures.communication(cause), cause
    assert not os.environ.get("ACSAR_TAG")
