"""Slices: what a kill, a half line, a late writer or a damaged file may not do."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from jobs import caption_slices as slices
from jobs.caption_slices import Attempt, Plan
from shards.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
KEYS = [f"K{i:02d}" for i in range(10)]
CONFIGURATION = {"captioner": "motion", "frames": 5}


def planned(out: Path, keys: list[str] = KEYS, per_slice: int = 4, **changes: Any) -> Plan:
    return slices.write_plan(out, CONFIGURATION | changes, [{"key": key} for key in keys], per_slice)


def record(key: str, text: str = "A person waves.") -> dict[str, Any]:
    return {"key": key, "text": text}


def test_slices_are_ranges_of_the_plan_whatever_works_on_them(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert plan.names == ["0000", "0001", "0002"] and [plan.size(name) for name in plan.names] == [4, 4, 2]
    assert [clip["key"] for name in plan.names for clip in slices.clips_of(plan, name)] == KEYS
    assert planned(tmp_path) == plan == slices.read_plan(tmp_path)
    with pytest.raises(InputError, match="no slice '0003'; it has 0000 to 0002"):
        slices.clips_of(plan, "0003")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"frames": 8}, "frames was 5, now 8"),
        ({"per_slice": 5}, "slice was 4, now 5"),
        ({"keys": KEYS[:-1]}, "it is of 10 clips, now 9"),
        ({"keys": [*KEYS[:-1], "other"]}, "its clips are others"),
    ],
)
def test_another_configuration_in_the_same_folder_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    planned(tmp_path)
    with pytest.raises(InputError, match=told):
        planned(tmp_path, **changes)


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    path = tmp_path / slices.PLAN
    path.write_text(path.read_text().replace("K05", "K55"))
    with pytest.raises(InputError, match="damaged"):
        slices.clips_of(plan, "0000")
    with pytest.raises(InputError, match="no caption folder"):
        slices.read_plan(tmp_path / "nowhere")


def test_a_slice_goes_on_where_the_last_attempt_was_killed(tmp_path: Path) -> None:
    planned(tmp_path)
    first = Attempt.begin(tmp_path, "0000")
    first.append([record("K00"), record("K01")])
    with (tmp_path / slices.ATTEMPTS / "0000.0001.jsonl").open("ab") as file:
        file.write(b'{"key": "K02", "text": "A per')  # the kill came in the middle of a line
    second = Attempt.begin(tmp_path, "0000")
    assert (first.number, second.number) == (1, 2)
    assert second.known == {"K00": record("K00"), "K01": record("K01")}
    second.append([record("K02"), record("K03")])
    assert not slices.is_finished(tmp_path, "0000")
    second.finish(KEYS[:4])
    assert slices.read_slice(tmp_path, "0000") == [record(key) for key in KEYS[:4]]


def test_lines_after_a_power_cut_are_not_believed(tmp_path: Path) -> None:
    planned(tmp_path)
    Attempt.begin(tmp_path, "0000").append([record("K00")])
    path = tmp_path / slices.ATTEMPTS / "0000.0001.jsonl"
    path.write_bytes(path.read_bytes() + b"\0\0\0\0\n" + json.dumps(record("K01")).encode() + b"\n")
    assert list(slices.written(tmp_path, "0000")) == ["K00"]


def test_an_older_attempt_leaves_and_cannot_double_anything(tmp_path: Path) -> None:
    planned(tmp_path)
    orphan = Attempt.begin(tmp_path, "0000")
    orphan.append([record("K00", "first")])
    newer = Attempt.begin(tmp_path, "0000")
    assert orphan.superseded and not newer.superseded
    with pytest.raises(InputError, match=r"attempt 1 of slice 0000 .* stops after 1 clips: a newer attempt has taken over"):
        orphan.append([record("K01", "orphan")])
    orphan._write([record("K01", "orphan")])  # as if it had looked a moment before the newer one claimed
    newer.append([record(key, "second") for key in KEYS[1:4]])
    newer.finish(KEYS[:4])
    assert [one["text"] for one in slices.read_slice(tmp_path, "0000")] == ["first", "second", "second", "second"]


def test_the_first_whole_slice_stays(tmp_path: Path) -> None:
    planned(tmp_path)
    older, newer = Attempt.begin(tmp_path, "0000"), Attempt.begin(tmp_path, "0000")
    for attempt, text in ((older, "older"), (newer, "newer")):
        attempt.known.update({key: record(key, text) for key in KEYS[:4]})
    newer.finish(KEYS[:4])
    before = slices.final(tmp_path, "0000").read_bytes()
    older.finish(KEYS[:4])
    assert slices.final(tmp_path, "0000").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / slices.SLICES).iterdir()) == ["0000.jsonl"]


def test_a_damaged_slice_is_named_and_made_again_from_what_was_written(tmp_path: Path) -> None:
    planned(tmp_path)
    attempt = Attempt.begin(tmp_path, "0000")
    attempt.append([record(key) for key in KEYS[:4]])
    path = attempt.finish(KEYS[:4])
    whole = path.read_bytes()
    for damaged in (whole[:-3], whole.replace(b"waves", b"saves"), b"".join(whole.splitlines(keepends=True)[1:]), b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"0000\.jsonl is damaged .*remove it"):
            slices.read_slice(tmp_path, "0000")
    path.unlink()
    again = Attempt.begin(tmp_path, "0000")
    assert len(again.known) == 4
    again.finish(KEYS[:4])
    assert path.read_bytes() == whole


def test_any_text_is_one_line(tmp_path: Path) -> None:
    planned(tmp_path, ["K00"])
    odd = 'waves\n\r\u2028\x00\ud800 "quoted" 挥手 \U0001f44b </script> ../../etc'
    attempt = Attempt.begin(tmp_path, "0000")
    attempt.append([record("K00", odd)])
    attempt.finish(["K00"])
    assert slices.read_slice(tmp_path, "0000") == [record("K00", odd)] == list(slices.written(tmp_path, "0000").values())


def test_counts_rate_and_time_left_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(tmp_path)
    clock = iter(range(1000, 2000, 2))
    monkeypatch.setattr(slices.time, "time", lambda: float(next(clock)))
    nothing = slices.progress(tmp_path)
    assert (nothing.done, nothing.total, nothing.rate, nothing.left_s) == (0, 10, None, None)
    attempt = Attempt.begin(tmp_path, "0000")
    for key in KEYS[:4]:
        attempt.append([record(key)])
    attempt.finish(KEYS[:4])
    Attempt.begin(tmp_path, "0001").append([record("K04")])
    seen = slices.progress(tmp_path)
    assert (seen.done, seen.total, seen.rate, seen.left_s) == (5, 10, 0.5, 10.0)
    assert slices.reached(tmp_path, "0001", "7_1.0.1") == (1, 1)
    Attempt.begin(tmp_path, "0001", tag="7_1.1.1").append([record("K05")])
    assert slices.reached(tmp_path, "0001", "7_1.1.1") == (1, 2)


def test_two_processes_never_claim_one_number(tmp_path: Path) -> None:
    planned(tmp_path)
    script = "import sys, pathlib; from jobs.caption_slices import Attempt; print(Attempt.begin(pathlib.Path(sys.argv[1]), '0000').number)"
    started = [subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sorted(int(process.communicate()[0]) for process in started) == [1, 2, 3, 4]


def test_a_kill_in_the_middle_of_a_batch_loses_at_most_that_batch(tmp_path: Path) -> None:
    """The process dies by SIGKILL while it writes; what it had flushed is there, whole."""
    planned(tmp_path, [f"K{i:04d}" for i in range(1000)], per_slice=1000)
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from jobs.caption_slices import Attempt
        attempt = Attempt.begin(Path(sys.argv[1]), "0000")
        for i in range(1000):
            attempt.append([{"key": f"K{i:04d}", "text": "x" * 1000}])
            print(i, flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = -1
    while said < 20:
        said = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    said = max([said, *(int(line) for line in process.stdout.read().split())])
    process.wait()
    known = slices.written(tmp_path, "0000")
    assert list(known) == [f"K{i:04d}" for i in range(len(known))] and len(known) >= said + 1
    assert all(len(one["text"]) == 1000 for one in known.values())


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(tmp_path)
    attempt = Attempt.begin(tmp_path, "0000")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slices.os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device; make room, and give the same command again"):
        attempt.append([record("K00")])
