"""Who may write a run, and which checkpoint counts."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs import run_folder
from jobs.run_folder import Attempt, RunFolder, chain, claim, record_start, superseded, trusted
from shards.errors import InputError


def complete(folder: RunFolder, step: int, attempt: int) -> None:
    path = folder.checkpoint(step, attempt)
    path.mkdir(parents=True)
    (path / "COMPLETE").write_text("{}")


def names(folder: RunFolder, before: int | None = None) -> list[str]:
    return [path.name for path in trusted(folder, before)]


def test_claims_are_unique_among_many_at_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: claim(folder), range(24)))
    assert sorted(numbers) == list(range(1, 25))


def test_a_claim_supersedes_older_ones_before_it_records_its_start(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = claim(folder)
    record_start(folder, first, "", {})
    assert not superseded(folder, first)
    second = claim(folder)
    assert superseded(folder, first) and not superseded(folder, second)
    assert run_folder.attempts(folder) == [Attempt(1, ""), Attempt(2, None)]


def test_only_checkpoints_on_the_newest_chain_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for start in ("", "step_10.a1", "step_10.a1"):
        record_start(folder, claim(folder), start, {})
    for step, attempt in ((10, 1), (20, 1), (30, 2), (15, 3)):
        complete(folder, step, attempt)
    # 20 of attempt 1 came after the start of attempt 3; attempt 2 is no ancestor of it
    assert names(folder) == ["step_15.a3", "step_10.a1"]
    assert names(folder, before=3) == ["step_30.a2", "step_10.a1"]


def test_incomplete_and_foreign_folders_do_not_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    record_start(folder, claim(folder), "", {})
    folder.checkpoint(5, 1).mkdir(parents=True)
    complete(folder, 3, 1)
    complete(folder, 99, 7)
    (folder.checkpoints / "step_x.a1").mkdir()
    (folder.checkpoints / "step_x.a1" / "COMPLETE").write_text("{}")
    assert names(folder) == ["step_3.a1"]


def test_a_claim_that_died_before_its_start_is_skipped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    record_start(folder, claim(folder), "", {})
    complete(folder, 4, 1)
    claim(folder)
    assert names(folder, before=claim(folder)) == ["step_4.a1"]


def test_chain_stops_at_the_beginning() -> None:
    claims = [Attempt(1, ""), Attempt(2, "step_5.a1"), Attempt(3, ""), Attempt(4, "step_9.a3")]
    assert chain(claims) == {4: float("inf"), 3: 9}
    assert chain([]) == {}


def test_what_cannot_be_written_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*runs: .*file.*; make room or choose another --runs"):  # noqa: SIM117
        with run_folder.writing(tmp_path / "runs"):
            run_folder.write_json(tmp_path / "file" / "a.json", {})


def test_json_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    with pytest.raises(FileNotFoundError):
        run_folder.read_json(path)
    run_folder.write_json(path, {"b": [1, 2]})
    assert json.loads(path.read_text()) == run_folder.read_json(path) == {"b": [1, 2]}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    path.write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        run_folder.read_json(path)
