"""status, logs, retry and cancel, as a user types them: on run folders of every kind, and on a comparison that runs here and now."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from jobs import InputError
from jobs.codec import decode
from jobs.pretrain import Pretrain
from jobs.run_folder import read_json, write_json
from jobs.stages import write_job
from launch import cancel, logs, pretrain, retry, status
from launch.evidence import End
from launch.unit import Unit
from launch.view import look
from tests.clips import TINY, packed_clips
from tests.runs_example import SUBMITTED, begin, comparison, config, end, training

ROOT = Path(__file__).resolve().parents[1]


def script(name: str, *words: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "launch" / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "in vain"
        time.sleep(0.1)


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """RUNS/one: joint failed as job 12, bone finished."""
    run = tmp_path / "one"
    comparison(tmp_path, "one", steps=30, streams=("bone",))
    write_json(run / "joint" / "config.json", config("one", "joint", 120))
    unit = Unit(run, "joint")
    unit.record(SUBMITTED)
    begin(run / "joint", 1, "", 120)
    write_json(run / "joint" / "attempts" / "0001.json", {"start": "", "job": "12", "tag": "12.0.1"})
    training(run / "joint", 1, 60)
    unit.log("12").write_text("".join(f"line {i} of rank 0\n" for i in range(5000)))
    unit.log("12", 2).write_text("line of rank 2\n")
    for rank, kind, message, echo in ((0, "RuntimeError", "Connection closed by peer", True), (2, "MemoryError", "no memory", False)):
        entry = {"tag": "12.0.3", "rank": rank, "host": f"n{rank + 1}", "kind": kind, "message": message, "communication": echo}
        write_json(unit.errors / f"12.0.3.{rank}.json", {**entry, "input": False, "trace": [f"File x, line {rank}"], "time": 1.0})
    last = End(tag="12.0.3", job="12", restart=0, round=3, code=1, cause="crash", action="stop", why="3 crashes", error="no memory")
    write_json(unit.ends / "12.0.3.json", asdict(last))
    return run


# --- every script


@pytest.mark.parametrize("name", ["status", "logs", "retry", "cancel"])
def test_help_from_any_folder_and_names_that_do_not_exist(name: str, tmp_path: Path) -> None:
    shown = script(name, "--help", cwd=tmp_path)
    assert shown.returncode == 0 and f"launch/{name}.py" in shown.stdout and "--json" in shown.stdout, shown.stderr
    comparison(tmp_path, "one", streams=("joint",))
    lost = script(name, "two", "--runs", tmp_path)
    assert lost.returncode == 2 and "known: one" in lost.stderr and "Traceback" not in lost.stderr
    if name != "status":
        lost = script(name, "one", "motion", "--runs", tmp_path)
        assert lost.returncode == 2 and "known: joint" in lost.stderr and "Traceback" not in lost.stderr


# --- status


def test_status_of_all_and_of_one(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison(failed.parent, "two", steps=30, streams=("joint",))
    runs = str(failed.parent)
    assert status.main(["--runs", runs]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in told] == [["one", "joint", "failed"], ["one", "bone", "finished"], ["two", "joint", "finished"]]
    assert status.main(["one", "--runs", runs]) == 0
    told = capsys.readouterr().out
    assert "no memory; 3 crashes" in told and f"next: python launch/retry.py one joint --runs {runs}" in told
    assert status.main(["--runs", runs, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [view["state"] for view in document["comparisons"]["one"]] == ["failed", "finished"]
    assert status.main(["two", "--runs", runs, "--watch"]) == 0  # nothing runs: one look
    assert capsys.readouterr().out.startswith("two joint  finished")


def test_status_without_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runs in"):
        status.main(["--runs", str(tmp_path)])


# --- logs


def test_logs_begin_with_what_went_wrong(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = str(failed.parent)
    assert logs.main(["one", "--runs", runs]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"== joint (failed): {failed}/joint/logs/12_2_log.out" and "no memory; 3 crashes" in told[1]
    assert told[-1] == "line of rank 2" and "bone" not in told[0]
    assert logs.main(["one", "joint", "--rank", "0", "--lines", "3", "--runs", runs]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [f"line {i} of rank 0" for i in (4997, 4998, 4999)]
    assert logs.main(["one", "--errors", "--runs", runs]) == 0
    told = capsys.readouterr().out
    assert told.index("rank 2 on n3: MemoryError: no memory") < told.index("rank 0 on n1: RuntimeError") and "File x, line 2" in told
    assert logs.main(["one", "bone", "--errors", "--runs", runs]) == 0
    assert "no rank left an error" in capsys.readouterr().out
    assert logs.main(["one", "--json", "--runs", runs]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [error["rank"] for error in document["units"][0]["errors"]] == [2, 0] and document["units"][0]["lines"] == ["line of rank 2"]
    with pytest.raises(InputError, match=r"rank 7 of .* has no log; there are 0, 2"):
        logs.main(["one", "joint", "--rank", "7", "--runs", runs])


def test_follow_ends_when_nobody_writes(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.main(["one", "--follow", "--runs", str(failed.parent)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "line of rank 2"


def test_logs_of_local_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = comparison(tmp_path, "one", steps=30, streams=("joint", "bone"))
    for path, words in (("joint/logs/rank_00001.log", "pool"), ("bone/logs/submitit/7/7_0_log.out", "submitit")):
        (run / path).parent.mkdir(parents=True)
        (run / path).write_text(f"{words}\n")
    assert logs.main(["one", "--rank", "1", "joint", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "pool"
    assert logs.main(["one", "bone", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "submitit"


# --- retry


def test_retry_submits_nothing_while_slurm_does_not_answer(failed: Path) -> None:
    with pytest.raises(InputError, match="nothing was submitted"):
        retry.main(["one", "--runs", str(failed.parent)])
    assert Unit(failed, "joint").submitted() == SUBMITTED


def test_retry_leaves_what_is_finished_or_was_told_to_stop(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert retry.reason_to_leave(failed, look(failed, lambda ids: {})[1]) == "finished"
    Unit(failed, "joint").submission.unlink()
    end(failed / "joint", 60, "stopped")
    write_json(failed / "job.json", {"streams": ["joint", "bone"], "stop_after": 60})
    assert retry.main(["one", "--runs", str(failed.parent), "--json"]) == 0
    joint, bone = json.loads(capsys.readouterr().out)["units"]
    assert joint["action"] == bone["action"] == "left" and "--stop-after 60" in joint["why"]


@pytest.mark.parametrize(
    "words",
    [
        ["--recipe", "scdnet-small", "--nodes", "2", "--steps", "9", "--streams", "joint,bone", "--lr", "0.003", *TINY],
        ["--recipe", "scdnet-small", "--epochs", "4", "--aside", "0", "--seed", "3", "--allow-large-queue", *TINY],
        [
            "--recipe",
            "acsar",
            "--data",
            "x",
            "--method.tau-cross",
            "0.2",
            "--method.augmentation.probability",
            "0.25",
            "--precision",
            "fp32",
        ],
        ["--recipe", "demo", "--method.stem", "split", "--save-every", "7"],
    ],
)
def test_the_command_that_continues_a_local_run_says_the_same_job(words: list[str], tmp_path: Path) -> None:
    typed = [*words, "--data", str(tmp_path / "set"), "--runs", str(tmp_path)]
    job = replace(pretrain.read(typed, "", pretrain.Command).job, name="a name", protocol="xsub")
    write_job(job, job.runs / job.name / "job.json")
    typed = shlex.split(retry.continues(tmp_path / "a name"))
    assert typed[:2] == ["python", "launch/pretrain.py"] and typed[-2:] == ["--cluster", "local"]
    assert pretrain.read(typed[2:], "", pretrain.Command).job == decode(Pretrain, read_json(tmp_path / "a name" / "job.json")) == job


# --- cancel


def test_cancel_what_is_over_does_nothing(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cancel.main(["one", "--runs", str(failed.parent), "--json"]) == 0
    assert all(unit["why"].startswith("nothing to cancel") for unit in json.loads(capsys.readouterr().out)["units"])
    assert not Unit(failed, "joint").cancelled.exists()


def test_cancel_writes_its_word_before_slurm_answers(failed: Path) -> None:
    Unit(failed, "joint").record(replace(SUBMITTED, jobs=[("13", 0, 1)], history=["12"]))
    with pytest.raises(InputError, match="scancel"):
        cancel.main(["one", "--runs", str(failed.parent)])
    assert read_json(Unit(failed, "joint").cancelled) == {"jobs": ["13"], "attempt": 1}


# --- a comparison that runs here and now


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 clips, packed: see tests/clips.py."""
    return packed_clips(tmp_path_factory.mktemp("set"))


def start(packed: Path, runs: Path, *words: str) -> "subprocess.Popen[str]":
    """pretrain on two simulated nodes, as a shell's background job: SIGINT is ignored at its start."""
    command = [
        sys.executable,
        str(ROOT / "launch" / "pretrain.py"),
        "--data",
        str(packed),
        "--runs",
        str(runs),
        "--no-track",
        *TINY,
        *words,
    ]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.distributed
def test_a_local_comparison_is_seen_cancelled_and_continued(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "scdnet-small", "--nodes", "2", "--steps", "100000", "--streams", "joint,bone", "--name", "one"]
    launcher = start(packed, tmp_path, *words, "--cluster", "local")
    run, runs = tmp_path / "one", str(tmp_path)

    def states() -> list[Any]:
        return [(view.key, view.state) for view in look(run)] if (run / "job.json").is_file() else []

    def trains() -> bool:
        assert launcher.poll() is None, launcher.stderr and launcher.stderr.read()
        return bool(states()) and (look(run)[0].step or 0) >= 3

    wait_for(trains, 200)
    assert states() == [("joint", "running"), ("bone", "waiting")]
    assert status.main(["one", "--runs", runs, "--json"]) == 0
    joint = json.loads(capsys.readouterr().out)["comparisons"]["one"][0]
    assert joint["steps"] == 100000 and joint["left_s"] > 0 and joint["samples_per_s"] > 0 and joint["attempts"] == 1
    assert len(joint["ranks"]) == 2 and not joint["remarks"] and joint["missing"] == []
    assert retry.main(["one", "joint", "--runs", runs]) == 0
    assert "joint: runs on" in capsys.readouterr().out

    assert cancel.main(["one", "--runs", runs]) == 0
    assert "joint: was running; 2 process(es) here were asked to save and leave" in capsys.readouterr().out
    assert launcher.wait(200) == 130
    views = look(run)
    assert [(view.key, view.state) for view in views] == [("joint", "cancelled"), ("bone", "waiting")]
    assert views[0].checkpoint and views[0].behind == 0  # it saved before it left
    assert cancel.main(["one", "--runs", runs]) == 0
    assert "joint: nothing to cancel: cancelled" in capsys.readouterr().out

    assert retry.main(["one", "--runs", runs]) == 0
    typed = [line.removeprefix("type: ") for line in capsys.readouterr().out.splitlines() if line.startswith("type: ")]
    assert len(typed) == 1
    again = shlex.split(typed[0])
    launcher = subprocess.Popen([sys.executable, str(ROOT / again[1]), *again[2:], "--no-track"], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: look(run)[0].attempts == 2 and (look(run)[0].step or 0) > (views[0].step or 0), 200)
    pids = [rank.pid for rank in look(run)[0].ranks]
    launcher.kill()  # nobody is left to notice
    launcher.wait()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: look(run)[0].state == "killed", 60)
    joint = look(run)[0]
    assert "left no last word" in joint.why and joint.attempts == 2 and joint.checkpoint == views[0].checkpoint
    assert (joint.behind or 0) > 0 and (joint.step or 0) > (views[0].step or 0)
