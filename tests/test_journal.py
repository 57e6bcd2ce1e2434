"""Journals: one line a record, cut where a later attempt began, and a torn last line does no harm."""

import json
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import journal
from jobs.journal import Journal
from jobs.run_folder import RunFolder, claim, record_start
from shards.errors import InputError


def attempt(folder: RunFolder, start: str, first: int, last: int) -> int:
    """An attempt that starts from `start` and writes steps first+1 ... last."""
    number = claim(folder)
    record_start(folder, number, start, {})
    with Journal(folder.journal(number)) as records:
        records.write("start", attempt=number, step=first)
        for step in range(first + 1, last + 1):
            records.write("step", step=step, loss=float(number))
    return number


def steps(path: Path) -> list[tuple[int, int]]:
    return [(r["step"], r["attempt"]) for r in journal.read(path) if r["type"] == "step"]


def test_each_step_appears_once_after_a_restart(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    attempt(folder, "", 0, 7)
    attempt(folder, "step_4.a1", 4, 6)
    assert steps(tmp_path) == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2)]
    assert [r["attempt"] for r in journal.read(tmp_path) if r["type"] == "start"] == [1, 2]


def test_an_attempt_that_runs_on_after_its_successor_began_is_cut(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = attempt(folder, "", 0, 5)
    attempt(folder, "step_2.a1", 2, 4)
    with Journal(folder.journal(first)) as late:
        late.write("step", step=6, loss=0.0)
        late.write("save", step=6, path="step_6.a1")
        late.write("eval", step=6, metrics={})
    assert steps(tmp_path) == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert not [r for r in journal.read(tmp_path) if r["type"] in ("save", "eval")]


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    number = attempt(folder, "", 0, 2)
    with folder.journal(number).open("ab") as file:
        file.write(b'{"type": "step", "ste')
    assert steps(tmp_path) == [(1, 1), (2, 1)]


def test_a_full_disk_leaves_whole_lines_and_is_one_line(tmp_path: Path) -> None:
    """The kernel takes a part of the record and refuses the rest, as a disk does that gets full."""
    folder = RunFolder(tmp_path)
    number = claim(folder)
    record_start(folder, number, "", {})
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(folder.journal(number)) as records:
        records.write("step", step=1, loss=0.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (folder.journal(number).stat().st_size + 20, size[1]))
        try:
            with pytest.raises(InputError, match=r"cannot write .*0001\.jsonl: .*; make room"):
                records.write("step", step=2, loss=0.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, size)
        assert records.step == 1 and folder.journal(number).read_bytes().endswith(b"}\n")
        records.write("end", step=1, status="failed", message="full")
    assert steps(tmp_path) == [(1, 1)] and [r["type"] for r in journal.read(tmp_path)] == ["step", "end"]


def test_records_are_readable_while_the_writer_is_open(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with Journal(folder.journal(1)) as records:
        records.write("note", text="hello")
        assert json.loads(folder.journal(1).read_text())["text"] == "hello"
        assert journal.last(journal.read(tmp_path), "note") == {**json.loads(folder.journal(1).read_text()), "attempt": 1}
    assert journal.last(journal.read(tmp_path), "end") is None


def test_no_journal_yet(tmp_path: Path) -> None:
    assert journal.read(tmp_path) == []


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with Journal(None) as records:
        records.write("step", step=3)
        records.sync()
        assert records.step == 3
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None)
@given(lengths=st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1)), min_size=1, max_size=5))
def test_steps_are_consecutive_whatever_was_killed_when(lengths: list[tuple[int, float]], tmp_path_factory: object) -> None:
    """Each attempt starts from some step that its predecessor reached: the steps read back are 1, 2, 3, ... without gap or repeat."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))  # type: ignore[attr-defined]
    first, number = 0, 0
    for length, share in lengths:
        number = attempt(folder, f"step_{first}.a{number}" if first else "", first, first + length)
        first += int(share * length)
    found = [step for step, _ in steps(folder.path)]
    assert found == list(range(1, len(found) + 1))
