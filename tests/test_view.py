"""The state of a comparison's units, told by run folders in the very forms that training and submitting leave them in."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from jobs import InputError
from jobs.run_folder import RunFolder, write_json
from launch.evidence import End
from launch.scheduler import Job
from launch.shown import cells_of, details, duration, line_of, table
from launch.traces import find, names
from launch.unit import Unit
from launch.view import Known, UnitView, doubtful, look, look_at, reason_in_words
from tests.runs_example import SUBMITTED, begin, comparison, config, end, training

HERE = socket.gethostname()
BEGAN = 1_760_000_000.0


def says(*jobs: Job) -> Callable[[Sequence[str]], Known]:
    """A scheduler that knows these jobs and no others."""
    return lambda ids: {job.id: job for job in jobs if job.id in ids}


def job(state: str, reason: str = "", number: str = "12", nodes: str = "", restarts: int = 0) -> Job:
    return Job(number, state, reason, nodes, restarts, 10, "one-joint", "main")


def ended(action: str, cause: str, why: str, tag: str = "12.0.1", error: str = "") -> End:
    number, restart, count = tag.split(".")
    return End(tag=tag, job=number, restart=int(restart), round=int(count), code=1, cause=cause, action=action, why=why, error=error)


def beat(stream: Path, rank: int, **changes: Any) -> None:
    """One rank's newest beat."""
    fields = {"rank": rank, "host": f"n{rank + 1}", "pid": 100 + rank, "tag": "12.0.1", "attempt": 1, "step": 60, "phase": "exchange"}
    document = {**fields, "busy_ms": 100.0, "count": 50, "time": BEGAN, **changes}
    path = stream / "heartbeat" / f"{rank}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """RUNS/one with a joint stream that was submitted as job 12."""
    write_json(tmp_path / "one" / "joint" / "config.json", config("one", "joint", 120))
    unit(tmp_path / "one").record(SUBMITTED)
    return tmp_path / "one"


def unit(run: Path, key: str = "joint") -> Unit:
    return Unit(run, key)


def began(run: Path, attempt: int = 1, start: str = "", number: str = "12", restart: int = 0, last: int = 60) -> None:
    """An attempt of job `number`, up to step `last`."""
    folder = run / "joint"
    begin(folder, attempt, start, 120)
    write_json(
        folder / "attempts" / f"{attempt:04d}.json", {"start": start, "job": number, "tag": f"{number}.{restart}.1" if number else ""}
    )
    step = int(start.removeprefix("step_").partition(".")[0]) if start else 0
    training(folder, step + 1, last, attempt)


def saved(run: Path, step: int, attempt: int = 1) -> None:
    folder = RunFolder(run / "joint").checkpoint(step, attempt)
    folder.mkdir(parents=True)
    (folder / "COMPLETE").write_text("{}")


def joint(run: Path, ask: bool | Callable[[Sequence[str]], Known] = False, before: Sequence[UnitView] = ()) -> UnitView:
    return look(run, ask, before)[0]


# --- what files decide, nobody is asked


def nobody(ids: Sequence[str]) -> Known:
    raise AssertionError(f"files decide, but Slurm was asked about {ids}")


def test_a_finished_comparison_needs_no_scheduler(tmp_path: Path) -> None:
    run = comparison(tmp_path, "done", steps=30)
    views = look(run, nobody)
    assert [(view.key, view.state) for view in views] == [("joint", "finished"), ("bone", "finished"), ("motion", "finished")]
    assert all(view.step == 30 and view.steps == 30 and not view.next and not view.missing for view in views)
    unit(run).record(SUBMITTED)
    assert joint(run, nobody).state == "finished"


def test_a_job_that_stopped_says_why_and_what_to_type(run: Path) -> None:
    began(run)
    saved(run, 50)
    write_json(run / "joint" / "logs" / "ends" / "12.0.1.json", asdict(ended("again", "crash", "crash 1 of 3")))
    last = ended("stop", "crash", "3 crashes in a row without progress (step 50)", "12.0.3", "rank 2 on n3: Killed")
    write_json(run / "joint" / "logs" / "ends" / "12.0.3.json", asdict(last))
    view = joint(run, nobody)
    assert view.state == "failed" and view.why == "rank 2 on n3: Killed; 3 crashes in a row without progress (step 50)"
    assert view.checkpoint == "step_50.a1" and view.behind == 10 and view.attempts == 1
    assert view.next == f"python launch/retry.py one joint --runs {run.parent}" and view.missing == ["joint"]
    assert view.left_s is None


def test_an_older_end_does_not_decide_once_ranks_were_started_again(run: Path) -> None:
    write_json(run / "joint" / "logs" / "ends" / "12.0.1.json", asdict(ended("stop", "crash", "3 crashes in a row")))
    began(run, restart=1)
    assert joint(run, says(job("RUNNING", nodes="n[1-2]", restarts=1))).state == "running"


def test_ends_of_an_earlier_submission_do_not_count(run: Path) -> None:
    write_json(run / "joint" / "logs" / "ends" / "12.0.3.json", asdict(ended("stop", "crash", "3 crashes in a row", "12.0.3")))
    unit(run).record(replace(SUBMITTED, jobs=[("13", 0, 1)], history=["12"]))
    view = joint(run, says(job("PENDING", "Priority", "13")))
    assert view.state == "queued" and "higher priority" in view.why and view.history == ["12"]


@pytest.mark.parametrize(
    ("action", "cause", "state"),
    [("done", "stopped", "stopped"), ("done", "finished", "stopped"), ("stop", "input", "failed"), ("stop", "cancelled", "cancelled")],
)
def test_last_words(action: str, cause: str, state: str, run: Path) -> None:
    write_json(run / "joint" / "logs" / "ends" / "12.0.1.json", asdict(ended(action, cause, "words")))
    view = joint(run, nobody)
    assert view.state == state and view.why.startswith("words")


# --- what the scheduler adds


@pytest.mark.parametrize(
    ("reason", "state", "words"),
    [
        ("Resources", "queued", "Resources: it is next, as soon as enough nodes are free"),
        ("Priority", "queued", "Priority: jobs of higher priority come first"),
        ("Dependency", "waiting", "Dependency: another job must end well first"),
        ("DependencyNeverSatisfied", "waiting", "DependencyNeverSatisfied: a job that it waits for failed"),
        ("AssocGrpCpuLimit", "queued", "AssocGrpCpuLimit: a limit of its account is reached"),
        ("ReqNodeNotAvail, UnavailableNodes:n3", "queued", "ReqNodeNotAvail, UnavailableNodes:n3: nodes that it needs are down"),
        ("SomethingNew", "queued", "SomethingNew"),
        ("", "queued", "Slurm has not looked at it yet"),
    ],
)
def test_why_a_job_waits_in_words(reason: str, state: str, words: str, run: Path) -> None:
    view = joint(run, says(job("PENDING", reason)))
    assert (view.state, view.steps) == (state, 120) and view.why.startswith(words) and not view.next
    assert reason_in_words(reason).startswith(words)


def test_a_running_job_shows_pace_time_left_and_hosts(run: Path) -> None:
    began(run)
    saved(run, 50)
    view = joint(run, says(job("RUNNING", nodes="n[1-4]")))
    assert view.state == "running" and view.hosts == ["n1", "n2", "n3", "n4"] and view.step == 60 and view.steps == 120
    assert view.left_s == pytest.approx(60 * 0.39, rel=0.05) and view.samples_per_s == pytest.approx(82, abs=1)
    assert not view.missing and not view.next


@pytest.mark.parametrize("cause", ["preempted", "timeout"])
def test_a_job_that_was_put_back_into_the_queue(cause: str, run: Path) -> None:
    began(run)
    end(run / "joint", 60, "interrupted")
    write_json(run / "joint" / "logs" / "ends" / "12.0.1.json", asdict(ended("requeue", cause, "goes on from step 60")))
    view = joint(run, says(job("PENDING", "BeginTime", restarts=1)))
    assert view.state == "requeued" and view.why.startswith(f"{cause}; goes on from step 60; BeginTime") and view.restarts == 1
    # Slurm ended it for good before the request to queue it again went through
    view = joint(run, says(job("TIMEOUT")))
    assert view.state == "stopped" and "step 60" in view.why and view.next


def test_no_last_word_and_no_job_is_killed_with_or_without_accounting(run: Path) -> None:
    began(run)
    for known, words in ((says(job("NODE_FAIL")), "job 12 ended (NODE_FAIL)"), (says(), "Slurm no longer knows job 12")):
        view = joint(run, known)
        assert view.state == "killed" and words in view.why and view.next and view.left_s is None


def test_without_an_answer_files_tell_what_they_can(run: Path) -> None:
    view = joint(run)
    assert view.state == "queued" and "does not answer" in view.why
    began(run)
    assert joint(run, lambda ids: None).state == "running"


def test_a_journal_that_says_how_it_failed(run: Path) -> None:
    began(run)
    end(run / "joint", 60, "failed")
    assert joint(run, says()).state == "failed"


def test_a_job_that_could_not_write(run: Path) -> None:
    view = joint(run, says(job("FAILED")))
    assert view.state == "failed" and "job 12 ended (FAILED) before it could write below" in view.why and "all nodes share" in view.why
    assert joint(run, says()).state == "lost"
    unit(run).log("12").parent.mkdir(parents=True, exist_ok=True)
    unit(run).log("12").write_text("bash: no such file\n")
    assert joint(run, says(job("FAILED"))).state == "killed"


def test_the_cause_comes_before_its_echoes(run: Path) -> None:
    for rank, kind, echo in ((0, "RuntimeError", True), (2, "OutOfMemoryError", False)):
        entry = {
            "tag": "12.0.1",
            "rank": rank,
            "host": f"n{rank + 1}",
            "kind": kind,
            "message": f"words of {rank}\nmore",
            "communication": echo,
        }
        write_json(unit(run).errors / f"12.0.1.{rank}.json", {**entry, "input": False, "trace": [], "time": BEGAN})
    assert joint(run, says(job("FAILED"))).why == "OutOfMemoryError on rank 2 (n3): words of 2"


def test_cancelled_by_us_and_by_others(run: Path) -> None:
    assert joint(run, says(job("CANCELLED"))).state == "cancelled"
    write_json(unit(run).cancelled, {"jobs": ["12"], "attempt": 0})
    assert joint(run, says()).why == "by launch/cancel.py"
    late = joint(run, says(job("RUNNING")))
    assert late.state == "running" and "has not ended it yet" in late.why
    unit(run).record(replace(SUBMITTED, jobs=[("13", 0, 1)], history=["12"]))
    assert joint(run, says(job("PENDING", "Priority", "13"))).state == "queued"


def test_what_waited_for_something_that_went_wrong_was_cancelled_by_slurm(run: Path) -> None:
    probe = replace(SUBMITTED, stage="probe", description=str(run / "probe" / "job.json"), jobs=[("13", 0, 1)], after=["12"])
    unit(run, "probe").record(probe)
    views = look(run, says(job("PENDING", "Dependency", "13"), job("RUNNING")))
    assert [(view.state, view.why) for view in views][1] == ("waiting", "for joint (Dependency: another job must end well first)")
    began(run)
    for known in (says(job("CANCELLED", number="13"), job("NODE_FAIL")), says()):  # with accounting, and without
        views = look(run, known)
        assert [view.state for view in views] == ["killed", "cancelled"] and "joint killed" in views[1].why


def test_the_last_word_that_came_between_reading_and_asking(run: Path) -> None:
    """A job that is over by the time Slurm is asked has written its result after the first reading."""

    def over(ids: Sequence[str]) -> Known:
        write_json(run / "joint" / "result.json", {"status": "finished", "steps": 120})
        return {"12": job("COMPLETED")}

    assert joint(run, over).state == "finished"


def test_a_job_that_was_submitted_again_in_between(run: Path) -> None:
    asked: list[list[str]] = []

    def moved(ids: Sequence[str]) -> Known:
        asked.append(list(ids))
        unit(run).record(replace(SUBMITTED, jobs=[("13", 0, 1)], history=["12"]))
        return {"13": job("PENDING", "Priority", "13")} if "13" in ids else {"12": job("FAILED")}

    assert joint(run, moved).state == "queued" and asked == [["12"], ["13"]]


def test_array_units_count_their_parts(tmp_path: Path) -> None:
    run = comparison(tmp_path, "done", steps=30)
    write_json(run / "probe" / "job.json", {"run": str(run), "protocol": "", "streams": ["joint", "bone", "motion"]})
    (run / "probe" / "xsub" / "bone.json").unlink()
    (run / "probe" / "xsub" / "motion.json").unlink()
    submitted = replace(SUBMITTED, stage="probe", description=str(run / "probe" / "job.json"), parts=["joint", "bone", "motion"])
    unit(run, "probe").record(replace(submitted, jobs=[("20", 0, 3)]))
    write_json(unit(run, "probe").ends / "20_2.0.1.json", asdict(ended("stop", "crash", "3 crashes", "20_2.0.3")))
    view = look(run, says(job("RUNNING", number="20_1", nodes="n2")))[-1]
    assert view.parts == {"finished": 1, "running": 1, "failed": 1} and view.state == "running" and view.missing == ["motion"]
    assert cells_of(view)[0] == "1/3 parts" and "parts: 1 finished, 1 running, 1 failed" in details(view).plain
    view = look(run, says(job("FAILED", number="20_1")))[-1]
    assert view.state == "failed" and view.missing == ["bone", "motion"]


# --- ranks


def ranks(run: Path, **third: Any) -> None:
    for rank in range(4):
        beat(run / "joint", rank, **(third if rank == 3 else {}))


def test_the_slow_rank_by_name(run: Path) -> None:
    began(run)
    ranks(run, busy_ms=210.0, phase="compute")
    view = joint(run, says(job("RUNNING", nodes="n[1-4]")))
    assert view.remarks == ["rank 3 on n4: 2.1x the median busy time (210 ms per step, others 100)"]
    ranks(run, busy_ms=115.0)
    assert joint(run, says(job("RUNNING", nodes="n[1-4]"))).remarks == []


def test_the_silent_rank_is_found_by_its_count_and_no_clock(run: Path) -> None:
    began(run)
    running = says(job("RUNNING", nodes="n[1-4]"))
    ranks(run, step=59, phase="compute", time=BEGAN + 9000)  # its clock is far ahead
    first = joint(run, running)
    assert first.remarks == [] and doubtful([first])
    for rank in range(3):
        beat(run / "joint", rank, count=52, time=BEGAN + 3)
    second = joint(run, running, [first])
    assert second.remarks == ["rank 3 on n4: no beat between two looks (step 59, compute) while others are at step 60 in exchange"]
    ranks(run, step=59, phase="compute", time=BEGAN - 40)
    first = joint(run, running)
    for rank in range(3):
        beat(run / "joint", rank, count=52)
    assert joint(run, running, [first]).remarks[0].startswith("rank 3 on n4: no beat for 40 s")
    # a disk that shows old content to all says nothing about one
    assert joint(run, running, [joint(run, running)]).remarks == []


def test_beats_of_an_earlier_start_are_not_looked_at(run: Path) -> None:
    began(run, restart=1)
    ranks(run)
    for rank in range(2):
        beat(run / "joint", rank, tag="12.1.1", attempt=2)
    view = joint(run, says(job("RUNNING", restarts=1)))
    assert [rank.tag for rank in view.ranks] == ["12.1.1"] * 2 and not doubtful([view])
    beat(run / "joint", 0, tag="12.1.1", phase="loading")
    beat(run / "joint", 1, tag="12.1.1", phase="loading")
    assert joint(run, says(job("RUNNING", restarts=1))).why == "loading"


# --- runs without a scheduler


@pytest.fixture
def local(run: Path) -> Path:
    unit(run).submission.unlink()
    return run


def test_a_local_run_lives_as_long_as_its_process(local: Path) -> None:
    begin(local / "joint", 1, "", 120, time=4e9)
    assert joint(local, nobody).state == "running"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    begin(local / "joint", 2, "", 120, pid=gone.pid)
    view = joint(local, nobody)
    assert view.state == "killed" and view.attempts == 2 and "retry" in view.next
    end(local / "joint", 60, "interrupted", attempt=2)
    assert joint(local, nobody).state == "stopped"


def test_a_local_run_that_is_only_loading_lives_too(local: Path) -> None:
    assert joint(local, nobody).state == "waiting"
    beat(local / "joint", 0, tag="", host=HERE, pid=os.getpid(), attempt=0, phase="loading", time=4e9)
    view = joint(local, nobody)
    assert view.state == "running" and view.why == "loading" and view.hosts == [HERE]


def test_a_local_run_on_another_host_is_told_by_beats_that_move(local: Path) -> None:
    begin(local / "joint", 1, "", 120, host="elsewhere")
    beat(local / "joint", 0, tag="", host="elsewhere")
    first = joint(local, nobody)
    assert first.state == "lost" and "elsewhere" in first.why and doubtful([first])
    assert joint(local, nobody, [first]).state == "lost"
    beat(local / "joint", 0, tag="", host="elsewhere", count=51)
    assert joint(local, nobody, [first]).state == "running"


def test_a_submitted_run_that_somebody_continued_by_hand(run: Path) -> None:
    began(run)
    begin(run / "joint", 2, "", 120, time=4e9)
    write_json(run / "joint" / "attempts" / "0002.json", {"start": "", "job": "", "tag": ""})
    assert joint(run, says(job("FAILED"))).state == "running"


# --- finding and showing


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is none"):
        find(tmp_path, "one")
    comparison(tmp_path, "one", streams=("joint", "bone"))
    comparison(tmp_path, "two")
    assert set(names(tmp_path)) == {"one", "two"}
    with pytest.raises(InputError, match=r"no comparison 'three'.*known: (one, two|two, one)"):
        find(tmp_path, "three")
    with pytest.raises(InputError, match="no unit 'motion'; known: joint, bone"):
        find(tmp_path, "one", ["motion"])
    assert set(look_at([tmp_path / "one", tmp_path / "two"], nobody)) == {tmp_path / "one", tmp_path / "two"}


def test_a_planned_stream_waits(tmp_path: Path) -> None:
    write_json(tmp_path / "one" / "job.json", {"streams": ["bone", "joint"], "steps": 7})
    assert [(view.key, view.state, view.steps) for view in look(tmp_path / "one", nobody)] == [
        ("joint", "waiting", 7),
        ("bone", "waiting", 7),
    ]


def test_a_damaged_file_is_named(run: Path) -> None:
    unit(run).submission.write_text("{")
    with pytest.raises(InputError, match=r"submission\.json"):
        look(run, nobody)


def test_lines_and_tables(run: Path) -> None:
    began(run)
    view = joint(run, says(job("RUNNING", nodes="n[1-4]")))
    assert line_of(view).startswith("one joint  running   step 60/120; ") and "job 12, n1, n2, n3, n4" in line_of(view)
    assert table([view]).row_count == 1
    told = details(view).plain
    assert "step 60/120 (50%)" in told and "attempt 1" in told
    json.dumps(asdict(view))
    assert [duration(seconds) for seconds in (40, 720, 3 * 3600 + 300)] == ["40 s", "12 min", "3 h 05 min"]
