"""What the end of a job's ranks means: the decision over made-up facts, and the facts over made-up folders."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.run_folder import write_json
from launch.aftermath import decide
from launch.evidence import End, Facts, collect, read_end, said_by_srun
from launch.unit import Submission, Unit

NODES = ["n1", "n2", "n3", "n4"]
RUNNING = {
    "JobState": "RUNNING",
    "Restarts": "0",
    "PreemptTime": "None",
    "RunTime": "00:10:00",
    "TimeLimit": "1-00:00:00",
    "Reason": "None",
}
PREEMPTED = {**RUNNING, "PreemptTime": "2026-01-01T00:00:00"}
SHORT = {**RUNNING, "RunTime": "00:00:50", "TimeLimit": "00:01:00"}
OVERDUE = {**RUNNING, "JobState": "COMPLETING", "Reason": "TimeLimit"}
CANCELLED = {**RUNNING, "JobState": "COMPLETING"}


def facts(**changes: Any) -> Facts:
    base = Facts("7.0.1", 0, seconds=600, nodes=NODES, usable=NODES, slurm=RUNNING, signal_s=10, batch=8)
    return replace(base, **changes)


def failure(rank: int, message: str = "out of memory", communication: bool = False, host: str = "", **changes: Any) -> dict[str, Any]:
    entry = {"tag": "7.0.1", "rank": rank, "host": host or f"n{rank + 1}", "kind": "RuntimeError", "message": message, "time": float(rank)}
    return {**entry, "communication": communication, "input": False, "trace": [], **changes}


def end(cause: str, before: int = 0, after: int = 0, **changes: Any) -> End:
    base = End("7.0.1", "7", 0, 1, 1, cause, "again", "", step_before=before, step_after=after, seconds=600)
    return replace(base, **changes)


ECHO = [failure(rank, "[gloo/pair] Connection closed by peer", communication=True) for rank in (0, 1, 3)]
CRASH = {"code": 1, "failures": [failure(2)]}
DECISIONS = {
    "finished": (facts(status="finished"), "finished", "done 0"),
    "finished, then a rank fell over": (facts(status="finished", code=139), "finished", "done 0"),
    "nothing was left to do": (facts(), "finished", "done 0"),
    "stopped where it was told to": (facts(status="stopped"), "stopped", "done 0"),
    "pre-empted": (facts(status="interrupted", slurm=PREEMPTED), "preempted", "requeue"),
    "pre-empted before the ranks listened": (facts(code=143, slurm=PREEMPTED), "preempted", "requeue"),
    "pre-empted, the others complain": (facts(code=143, slurm=PREEMPTED, failures=ECHO), "preempted", "requeue"),
    "time-out, saved": (facts(status="interrupted", slurm=SHORT), "timeout", "requeue"),
    "time-out, ended by Slurm": (facts(code=143, slurm=OVERDUE), "timeout", "requeue"),
    "time-out, killed by Slurm": (facts(code=137, slurm=OVERDUE), "timeout", "requeue"),
    "asked to leave, nobody says why": (facts(status="interrupted"), "interrupted", "requeue"),
    "crash": (facts(**CRASH), "crash", "again"),
    "crash under pre-emption": (facts(**CRASH, slurm=PREEMPTED), "crash", "requeue"),
    "killed": (facts(code=137, said=[("n3", 2, "Killed")]), "crash", "again"),
    "ended by a person's TERM, far from any limit": (facts(code=143), "crash", "again"),
    "Slurm cannot be asked": (facts(**CRASH, slurm={}), "crash", "again"),
    "Slurm does not answer": (facts(**CRASH, slurm=None), "unknown", "stop 75"),
    "cancelled": (facts(code=143, slurm=CANCELLED), "cancelled", "stop 143"),
    "cancelled, saved all the same": (facts(status="interrupted", slurm=CANCELLED), "cancelled", "stop 1"),
    "cancelled by launch/cancel.py": (facts(status="interrupted", cancelled=True), "cancelled", "stop 1"),
    "queued again by somebody else": (facts(code=143, slurm={**CANCELLED, "Restarts": "1"}), "interrupted", "requeue"),
    "an orphan of an earlier start": (facts(**CRASH, slurm={**RUNNING, "Restarts": "1"}), "crash", "requeue"),
    "a node died, Slurm has queued the job": (
        facts(done=False, slurm={**RUNNING, "JobState": "PENDING", "Restarts": "1"}),
        "interrupted",
        "requeue",
    ),
    "a node died, Slurm has not seen it yet": (facts(done=False, said=[("n3", -1, "node failure")]), "crash", "again"),
    "the user can mend it": (facts(code=2), "input", "stop 2"),
    "the user can mend it, srun says Killed": (facts(code=137, failures=[failure(0, "no text", input=True)]), "input", "stop 2"),
    "not started": (facts(code=2, refused="n3: RUNS is not there"), "input", "stop 2"),
    "third crash": (facts(**CRASH, earlier=[end("crash")] * 2), "crash", "stop 1"),
    "crash after progress": (facts(**CRASH, step_after=40, earlier=[end("crash")] * 5), "crash", "again"),
    "crashes before progress are forgotten": (facts(**CRASH, earlier=[end("crash"), end("crash", 0, 4), end("crash")]), "crash", "again"),
    "pre-emptions between crashes": (facts(**CRASH, earlier=[end("crash"), end("preempted"), end("crash")]), "crash", "stop 1"),
    "pre-empted often, with progress": (
        facts(status="interrupted", slurm=PREEMPTED, step_before=90, step_after=99, earlier=[end("preempted", i, i + 1) for i in range(9)]),
        "preempted",
        "requeue",
    ),
    "third interruption without progress": (
        facts(status="interrupted", slurm=SHORT, earlier=[end("timeout"), end("preempted")]),
        "timeout",
        "stop 1",
    ),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_decision(case: str) -> None:
    given, cause, line = DECISIONS[case]
    decided = decide(given)
    assert (decided.cause, decided.line) == (cause, line)
    assert decided.why


FAST = {"code": 1, "failures": [failure(2)], "seconds": 9}
STRUCK = [end("crash", host="n3", seconds=8)]
LEFT_OUT = {
    "first time": (facts(**FAST), "again"),
    "another host before": (facts(**FAST, earlier=[end("crash", host="n2", seconds=8)]), "again"),
    "slow": (facts(**{**FAST, "seconds": 500}, earlier=STRUCK), "again"),
    "fewer ranks that divide the batch": (facts(**FAST, earlier=STRUCK), "again --exclude=n3 --nodes=2 --ntasks=2"),
    "two ranks a node": (facts(**FAST, earlier=STRUCK, tasks_per_node=2), "again --exclude=n3 --nodes=2 --ntasks=4"),
    "a batch of twelve": (facts(**FAST, earlier=STRUCK, batch=12), "again --exclude=n3 --nodes=3 --ntasks=3"),
    "a spare": (facts(**FAST, earlier=STRUCK, usable=[*NODES, "n5"]), "resubmit n3"),
    "a second host": (facts(**FAST, earlier=STRUCK, left_out=["n1"], batch=2), "again --exclude=n1,n3 --nodes=2 --ntasks=2"),
    "an element of an array": (facts(**FAST, earlier=STRUCK, usable=[*NODES, "n5"], batch=0, tag="7_4.0.1"), "requeue"),
    "ZeRO 1": (facts(**FAST, earlier=STRUCK, zero=1), "stop 1"),
    "ZeRO 1, a spare": (facts(**FAST, earlier=STRUCK, zero=1, usable=[*NODES, "n5"]), "resubmit n3"),
    "progress since": (facts(**FAST, earlier=[*STRUCK, end("preempted", 0, 5)]), "again"),
    "several hosts": (facts(code=1, failures=[failure(2), failure(1)], seconds=9, earlier=STRUCK), "again"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_host_that_fails_twice_at_the_start_is_left_out(case: str) -> None:
    given, line = LEFT_OUT[case]
    decided = decide(given)
    assert decided.line == line
    if line == "stop 1":
        assert "n3 failed 2 times at the start" in decided.why and "launch/retry.py" in decided.why
    assert ("ZeRO 1" in decided.why) == (case == "ZeRO 1")


FIRST = {
    "not the echoes": (facts(code=1, failures=[*ECHO, failure(2)]), "n3", "rank 2 on n3: RuntimeError: out of memory"),
    "killed, others complain": (facts(code=137, failures=ECHO, said=[("n3", 2, "Killed")]), "n3", "rank 2 on n3: Killed"),
    "killed, another trips": (facts(code=1, failures=[failure(1)], said=[("n3", 2, "Killed")]), "n3", "rank 2 on n3: Killed"),
    "an exit code alone": (
        facts(code=1, failures=ECHO, said=[("n1", 0, "Exited with exit code 1"), ("n3", 2, "Exited with exit code 1")]),
        "n3",
        "rank 2 on n3: Exited with exit code 1",
    ),
    "silence": (facts(code=1, failures=ECHO), "n3", "rank 2 on n3: silent while the others waited for it"),
    "only echoes": (facts(code=1, failures=ECHO[:1]), "", "rank 0 on n1: RuntimeError: [gloo/pair] Connection closed by peer"),
    "nothing": (facts(code=9), "", "the ranks ended with code 9 and left no word"),
    "a node": (facts(done=False, said=[("n3", -1, "node failure")]), "n3", "n3: node failure"),
    "everybody": (facts(code=1, failures=[failure(0), failure(1)]), "", "rank 0 on n1: RuntimeError: out of memory"),
}


@pytest.mark.parametrize("case", FIRST)
def test_first_error(case: str) -> None:
    given, host, error = FIRST[case]
    decided = decide(given)
    assert (decided.host, decided.error) == (host, error)


def unit(tmp_path: Path, **changes: Any) -> Unit:
    """A stream's folder as one start of four ranks leaves it: ten steps saved, then an interruption."""
    made = Unit(tmp_path / "a run", "joint")
    write_json(tmp_path / "job.json", {"batch_size": 8, "zero": 0})
    submission = Submission(
        "pretrain", str(tmp_path / "job.json"), ["joint"], [("7", 0, 1)], 4, 1, 1, 0, {"signal_s": 9, "exclude": ["n9"]}, "code"
    )
    made.record(replace(submission, **changes))
    write_json(made.folder / "attempts" / "0001.json", {"attempt": 1, "start": "", "tag": "7.0.1"})
    (made.folder / "ckpt" / "step_10.a1").mkdir(parents=True)
    (made.folder / "ckpt" / "step_10.a1" / "COMPLETE").write_text("{}")
    (made.folder / "journal").mkdir()
    records = [{"type": "start"}, {"type": "end", "time": 1.0, "step": 10, "status": "interrupted", "message": '"status": "finished"'}]
    (made.folder / "journal" / "0001.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return made


ENVIRONMENT = {
    "ACSAR_TAG": "7.0.1",
    "ACSAR_SECONDS": "33",
    "ACSAR_JOB": "JobId=7 JobState=RUNNING Reason=None Restarts=0 RunTime=00:00:33 TimeLimit=1-00:00:00 PreemptTime=2026-01-01T00:00:00",
    "ACSAR_USABLE": "n[1-4],n9\nm7",
    "SLURM_JOB_NODELIST": "n[1-4]",
}


def test_facts_of_a_folder(tmp_path: Path) -> None:
    made = unit(tmp_path)
    found = collect(made, 0, ENVIRONMENT)
    assert (found.step_before, found.step_after, found.status) == (0, 10, "interrupted")
    assert (found.nodes, found.usable, found.signal_s, found.batch) == (NODES, [*NODES, "m7"], 9, 8)
    assert found.preempted and not found.ended and not found.cancelled
    assert decide(found).line == "requeue"
    assert not found.done
    made.folder.joinpath("result.json").touch()
    assert collect(made, 0, ENVIRONMENT).done


def test_a_start_that_made_no_attempt_has_no_end_of_an_earlier_one(tmp_path: Path) -> None:
    found = collect(unit(tmp_path), 1, {**ENVIRONMENT, "ACSAR_TAG": "7.1.1"})
    assert (found.step_before, found.step_after, found.status) == (10, 10, "")


def test_what_was_left_out_before(tmp_path: Path) -> None:
    found = collect(unit(tmp_path), 1, {**ENVIRONMENT, "ACSAR_FEWER": "--exclude=n1,n3 --nodes=2 --ntasks=2"})
    assert found.left_out == ["n1", "n3"]
    assert decide(found).nodes == ["n2", "n4"]


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    made = unit(tmp_path)
    made.submission.write_text('{"stage": "pre')
    (made.folder / "journal" / "0001.jsonl").write_bytes(b'{"type": "end", "status": "fin')
    made.ends.mkdir()
    (made.ends / "7.0.0.json").write_text("{")
    (made.ends / "6.0.0.json").write_text("[]")
    made.errors.mkdir()
    (made.errors / "7.0.1.2.json").write_text('{"rank": 2, "ho')
    found = collect(made, 143, {**ENVIRONMENT, "ACSAR_JOB": "", "ACSAR_USABLE": ""})
    assert (found.status, found.failures, found.earlier, found.slurm, found.batch) == ("", [], [], {}, 0)
    assert decide(found).line == "again"
    empty = Unit(tmp_path / "nothing", "pack")
    assert decide(collect(empty, 1, {"ACSAR_TAG": "7_2.0.1"})).line == "again"
    assert decide(collect(empty, 1, {"ACSAR_TAG": "7_2.0.1", "ACSAR_JOB": "silent"})).line == "stop 75"


def test_ends_that_count(tmp_path: Path) -> None:
    made = unit(tmp_path, history=["4", "5"], carried=["5"])
    for tag in ("4.0.1", "5.0.1", "7.0.1", "7.0.10", "7.0.9", "7.1.1", "8.0.1", "7_1.0.1"):
        job, restart, round_ = tag.rsplit(".", 2)
        write_json(made.ends / f"{tag}.json", {**vars(end("crash")), "tag": tag, "job": job, "restart": int(restart), "round": int(round_)})
    found = collect(made, 1, {**ENVIRONMENT, "ACSAR_TAG": "7.1.2"})
    assert [one.tag for one in found.earlier] == ["5.0.1", "7.0.1", "7.0.9", "7.0.10", "7.1.1"]


@pytest.mark.parametrize("named", ["7", "7_3"])
def test_cancelled_jobs_are_known(tmp_path: Path, named: str) -> None:
    made = unit(tmp_path)
    write_json(made.cancelled, {"jobs": ["5", named], "attempt": 73})
    assert collect(made, 0, {**ENVIRONMENT, "ACSAR_TAG": "7_3.0.1"}).cancelled
    assert not collect(made, 0, {**ENVIRONMENT, "ACSAR_TAG": "73.0.1"}).cancelled


def test_words_of_srun(tmp_path: Path) -> None:
    log = tmp_path / "7_0_log.out"
    log.write_text(
        "--- 7.0.1: starts on 4 node(s)\nsrun: error: n4: task 3: Killed\n--- 7.0.2: starts on 4 node(s)\nloss 3\n"
        "srun: error: n[1-2]: tasks 0-3: Exited with exit code 1\nsrun: error: n3: task 4: Segmentation fault\n"
        "slurmstepd-n1: error: *** STEP 7.2 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***\nsrun: error: n4: task 6: Terminated\n"
    )
    exited = "Exited with exit code 1"
    expected = [("n1", 0, exited), ("n1", 1, exited), ("n2", 2, exited), ("n2", 3, exited), ("n3", 4, "Segmentation fault")]
    assert said_by_srun(log, "7.0.2") == expected
    assert said_by_srun(tmp_path / "none", "7.0.2") == []
    with log.open("a") as file:
        file.write("--- 7.1.1: starts on 4 node(s)\nsrun: error: Node failure on n[1,3]\n")
    assert said_by_srun(log, "7.1.1") == [("n1", -1, "node failure"), ("n3", -1, "node failure")]


def test_the_program_writes_the_end_and_prints_one_line(tmp_path: Path) -> None:
    made = unit(tmp_path)
    command = [sys.executable, "-P", "-m", "launch.aftermath", str(made.logs), "0"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "requeue\n"
    assert done.stderr == "--- 7.0.1: preempted: goes on from step 10\n"
    written = read_end(made.ends / "7.0.1.json")
    assert written is not None and (written.cause, written.action, written.step_after, written.seconds) == ("preempted", "requeue", 10, 33)
    assert written.time > 0


def test_it_starts_quickly() -> None:
    code = "import sys, launch.aftermath; sys.exit('torch' in sys.modules or 'submitit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
