"""launch/scheduler.py against a real Slurm: every state, arrays, requeue, what the controller forgot, accounting off, no controller."""

from pathlib import Path

import pytest

from jobs import InputError
from launch import scheduler
from launch.scheduler import accounting, answers, cancel, configuration, hosts, jobs, max_array_size, partitions
from tests.slurm.box import Box
from tests.slurm.conftest import wait_for


def submit(box: Box, *options: str, run: str = "sleep 600") -> str:
    """Submit a line of shell; the job's id."""
    return box.run("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", run)


def state(job: str) -> str:
    known = jobs([job])
    return known[job].state if job in known else ""


def test_every_state(box: Box) -> None:
    done = submit(box, run="true")
    failed = submit(box, "--job-name=a|b", run="exit 7")
    running = submit(box, "--nodes=2", "--job-name=runs")
    held = submit(box, "--hold")
    stopped = submit(box)
    waiting = submit(box, f"--dependency=afterok:{held}")
    ids = [done, failed, running, held, stopped, waiting]
    wait_for(lambda: [state(job) for job in (done, failed, running, stopped)] == ["COMPLETED", "FAILED", "RUNNING", "RUNNING"], 60)
    cancel([stopped])
    wait_for(lambda: state(stopped) == "CANCELLED", 60)
    known = jobs([*ids, "1"])
    assert set(known) == set(ids)  # nobody knows job 1
    assert (known[held].state, known[held].reason, known[held].nodes) == ("PENDING", "JobHeldUser", "")
    assert (known[waiting].state, known[waiting].reason) == ("PENDING", "Dependency")
    assert (known[failed].name, known[failed].reason, len(hosts(known[failed].nodes))) == ("a|b", "NonZeroExitCode", 1)
    assert (known[running].name, known[running].partition, len(hosts(known[running].nodes))) == ("runs", "main", 2)
    assert {job for job in ids if scheduler.over(known[job].state)} == {done, failed, stopped}
    wait_for(lambda: jobs([running])[running].elapsed_s > 0, 30)


def test_an_array(box: Box) -> None:
    array = submit(box, "--array=0-5%2", run="test $SLURM_ARRAY_TASK_ID != 1; exit $?")
    held = submit(box, "--array=0-3", "--hold")
    assert sorted(jobs([held])) == [f"{held}_{i}" for i in range(4)]
    assert list(jobs([f"{held}_2", f"{held}_9"])) == [f"{held}_2"]
    wait_for(lambda: all(scheduler.over(job.state) for job in jobs([array]).values()), 60)
    states = {job: one.state for job, one in jobs([array]).items()}
    assert states == {f"{array}_{i}": "FAILED" if i == 1 else "COMPLETED" for i in range(6)}
    cancel([f"{held}_1"])
    wait_for(lambda: state(f"{held}_1") == "", 30)  # Slurm forgets at once what never started
    assert [state(f"{held}_{i}") for i in (0, 2, 3)] == ["PENDING"] * 3
    cancel([held])
    wait_for(lambda: state(f"{held}_3") == "CANCELLED", 30)


def test_what_the_controller_forgot_is_looked_up(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accounting says the same of jobs as the controller does, also of those that were started twice."""
    twice = submit(box, "--requeue")
    array = submit(box, "--array=0-2", run="test $SLURM_ARRAY_TASK_ID != 1; exit $?")
    never = submit(box, "--array=0-2%1", "--hold")
    gone = submit(box, "--hold")
    wait_for(lambda: state(twice) == "RUNNING", 60)
    box.run("scontrol", "requeue", twice)
    wait_for(lambda: jobs([twice])[twice].restarts == 1 and state(twice) == "RUNNING", 90)
    cancel([twice, never, gone])
    wait_for(lambda: all(scheduler.over(job.state) for job in jobs([twice, array, never, gone]).values()), 60)
    live = jobs([twice, array, never, gone])
    assert len(live) == 8
    assert live[twice].restarts == 1
    monkeypatch.setattr(scheduler, "_queued", lambda ids: {})  # as after MinJobAge
    wait_for(lambda: jobs([twice]).get(twice) is not None and jobs([twice])[twice].state == "CANCELLED", 30)
    late = jobs([twice, array, never, gone, "1"])
    assert {job: (one.state, one.nodes, one.restarts) for job, one in late.items()} == {
        job: (one.state, one.nodes, one.restarts) for job, one in live.items()
    }


def test_partitions_and_limits(box: Box) -> None:
    main, urgent = partitions()
    assert (main.name, main.default, main.nodes, main.usable, main.cpus_per_node) == ("main", True, 4, 4, 4)
    assert (main.memory_mb, main.gpus_per_node, main.limit_minutes) == (4000, box.gpus, None)
    assert (urgent.name, urgent.default) == ("urgent", False)
    assert max_array_size() == box.max_array_size
    assert configuration()["ClusterName"] == "box"
    assert accounting()
    box.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    wait_for(lambda: partitions()[0].usable == 3, 30)


def test_a_users_settings_do_not_change_the_answer(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(box, "--hold")  # a job that is cancelled in the moment of its start can keep its node for minutes
    for name, value in (("SQUEUE_PARTITION", "urgent"), ("SQUEUE_FORMAT", "%i"), ("SINFO_FORMAT", "%N"), ("SQUEUE_STATES", "CD")):
        monkeypatch.setenv(name, value)
    assert job in jobs([job])
    assert [partition.nodes for partition in partitions()] == [4, 4]


def test_cancel_ended_and_unknown_jobs(box: Box) -> None:
    job = submit(box, run="true")
    wait_for(lambda: state(job) == "COMPLETED", 60)
    cancel([job, job])
    assert state(job) == "COMPLETED"
    with pytest.raises(InputError, match="scancel"):
        cancel(["no-job"])


def test_accounting_off(bare: Box) -> None:
    job = submit(bare, run="exit 3")
    wait_for(lambda: state(job) == "FAILED", 60)
    assert not accounting()
    assert list(jobs([job, "1"])) == [job]
    assert jobs(["1"]) == {}
    assert answers()


def test_no_controller(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in box.conf.read_text().splitlines() if not line.startswith(("SlurmctldPort", "Include"))]
    (tmp_path / "slurm.conf").write_text("\n".join([*lines, "SlurmctldPort=9"]) + "\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert not answers()
    with pytest.raises(InputError, match="squeue"):
        jobs(["1", "2"])
