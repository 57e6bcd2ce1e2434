"""status, logs, cancel and retry on jobs of a real Slurm: running, waiting, silent, cancelled, unable to write."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from jobs.run_folder import read_json
from launch import scheduler
from launch.status import look_closely
from launch.view import UnitView
from tests.clips import TINY
from tests.slurm.box import Box
from tests.slurm.conftest import launch, wait_for

PATIENCE = 240.0  # seconds for what takes ten on an idle machine
ENDLESS = 100_000  # steps


def submit(packed: Path, runs: Path, streams: str, steps: int = ENDLESS, name: str = "one", profile: Sequence[str] = ()) -> None:
    """RUNS/NAME: these streams on two nodes each, one rank a node."""
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"{streams}.toml"
    path.write_text("\n".join(["cpus_per_task = 1", 'time = "20"', *profile]))
    where = ["--data", packed, "--runs", runs, "--name", name, "--cluster", "slurm", "--cluster-profile", path, "--no-track"]
    what = ["--recipe", "scdnet-small", "--streams", streams, "--steps", steps, "--save-every", "20", "--nodes", "2"]
    done = launch("pretrain", *map(str, [*where, *what, *TINY]))
    assert done.returncode == 0, done.stderr


def status(runs: Path, name: str = "one") -> dict[str, UnitView]:
    """{unit: what launch/status.py shows}."""
    return {view.key: view for view in look_closely([runs / name])[runs / name]}


def trains(runs: Path, key: str, beyond: int = 2) -> bool:
    """The unit runs and has gone beyond this step."""
    view = status(runs)[key]
    assert view.state in ("queued", "waiting", "requeued", "running"), view
    return view.state == "running" and (view.step or 0) > beyond and len(view.ranks) == 2


def test_jobs_are_seen_cancelled_and_submitted_again(box: Box, packed: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    submit(packed, runs, "joint,bone")
    submit(packed, runs, "motion", profile=["[sbatch]", 'begin = "now+1hour"'])
    for key in ("joint", "bone"):
        wait_for(lambda key=key: trains(runs, key, 20), PATIENCE, every=1)  # type: ignore[misc]

    seen = status(runs)
    assert [seen[key].state for key in ("joint", "bone", "motion")] == ["running", "running", "queued"]
    assert seen["motion"].why.startswith("BeginTime: its time to start has not come yet")
    joint = seen["joint"]
    known = scheduler.jobs(joint.jobs)[joint.jobs[0]]
    assert joint.hosts == scheduler.hosts(known.nodes) == [rank.host for rank in joint.ranks]
    assert joint.left_s > 0 and joint.steps == ENDLESS and joint.checkpoint and joint.restarts == 0
    assert not any("no beat" in words for words in joint.remarks)
    told = launch("status", "one", "--runs", runs).stdout
    assert f"job {joint.jobs[0]}" in told and "newest checkpoint" in told
    followed = launch("logs", "one", "joint", "--runs", runs, "--lines", "5").stdout
    assert f"{joint.jobs[0]}_0_log.out" in followed.splitlines()[0]

    # a rank that stands still is named, from its beats alone
    still = joint.ranks[1]
    os.kill(still.pid, signal.SIGSTOP)
    remarks: list[str] = []

    def named() -> bool:
        remarks[:] = status(runs)["joint"].remarks
        return bool(remarks) and "no beat" in remarks[0]

    wait_for(named, 90)
    assert len(remarks) == 1 and remarks[0].startswith(f"rank 1 on {still.host}: no beat") and "while others are at step" in remarks[0]
    os.kill(still.pid, signal.SIGCONT)

    # retry leaves what runs and what waits
    left = json.loads(launch("retry", "one", "--runs", runs, "--json").stdout)["units"]
    assert {unit["action"] for unit in left} == {"left"} and status(runs)["joint"].jobs == joint.jobs

    cancelled = launch("cancel", "one", "bone", "motion", "--runs", runs)
    assert cancelled.returncode == 0 and f"job {seen['bone'].jobs[0]} is being ended" in cancelled.stdout, cancelled.stderr
    wait_for(lambda: [status(runs)[key].state for key in ("bone", "motion")] == ["cancelled", "cancelled"], 90)
    wait_for(lambda: scheduler.over(scheduler.jobs(seen["bone"].jobs)[seen["bone"].jobs[0]].state), 90)
    assert "nothing to cancel: cancelled" in launch("cancel", "one", "bone", "--runs", runs).stdout
    bone = status(runs)["bone"]
    assert bone.state == "cancelled" and status(runs)["joint"].state == "running"

    # what somebody else ended is told apart from what goes on; retry submits only what is missing
    box.run("scancel", joint.jobs[0])
    wait_for(lambda: status(runs)["joint"].state == "cancelled", 90)
    dry = json.loads(launch("retry", "one", "bone", "joint", "--runs", runs, "--dry-run", "--json").stdout)["units"]
    assert [unit["action"] for unit in dry] == ["would submit"] * 2 and status(runs)["bone"].jobs == bone.jobs
    again = launch("retry", "one", "bone", "--runs", runs)
    assert again.returncode == 0, again.stderr
    wait_for(lambda: trains(runs, "bone", bone.step), PATIENCE, every=1)
    now = status(runs)["bone"]
    assert now.history == bone.jobs and now.jobs != bone.jobs and now.attempts == 2
    assert read_json(runs / "one" / "bone" / "attempts" / "0002.json")["start"].startswith("step_")
    assert launch("cancel", "one", "--runs", runs).returncode == 0


def test_a_chain_is_submitted_again_with_its_order(box: Box, packed: Path, tmp_path: Path) -> None:
    runs, profile = tmp_path / "runs", tmp_path / "later.toml"
    profile.write_text('time = "20"\n[sbatch]\nbegin = "now+1hour"\n')
    words = ["--data", packed, "--runs", runs, "--name", "one", "--recipe", "scdnet-small", "--streams", "joint", "--steps", "2", *TINY]
    done = launch("pipeline", *map(str, words), "--cluster", "slurm", "--cluster-profile", profile, "--no-track")
    assert done.returncode == 0, done.stderr
    before = status(runs)
    assert [(key, view.state) for key, view in before.items()] == [("joint", "queued"), ("probe", "waiting"), ("fuse", "waiting")]
    assert before["probe"].why.startswith("for joint (Dependency") and before["fuse"].why.startswith("for probe (Dependency")

    box.run("scancel", before["joint"].jobs[0])
    wait_for(lambda: all(view.state == "cancelled" for view in status(runs).values()), 90)
    assert status(runs)["fuse"].why == "by Slurm, since it waited for what went wrong: probe cancelled"
    (alone,) = json.loads(launch("retry", "one", "fuse", "--runs", runs, "--json").stdout)["units"]
    assert alone["action"] == "left" and "needs probe" in alone["why"]
    again = launch("retry", "one", "--runs", runs)
    assert again.returncode == 0, again.stderr
    now = status(runs)
    assert [view.state for view in now.values()] == ["queued", "waiting", "waiting"]
    assert (now["probe"].after, now["fuse"].after) == (now["joint"].jobs, now["probe"].jobs)
    needs = dict(line.split() for line in box.run("squeue", "--noheader", "--format=%i %E").splitlines())
    assert needs[now["probe"].jobs[0]].startswith(f"afterok:{now['joint'].jobs[0]}(")
    assert needs[now["fuse"].jobs[0]].startswith(f"afterok:{now['probe'].jobs[0]}(")

    # what waits for a cancelled unit is cancelled with it, and told
    told = launch("cancel", "one", "probe", "--runs", runs).stdout
    assert f"probe: was waiting; job {now['probe'].jobs[0]} is being ended" in told and "fuse: was waiting" in told and "joint" not in told
    assert [view.state for view in status(runs).values()] == ["queued", "cancelled", "cancelled"]
    assert launch("retry", "one", "probe", "--runs", runs).returncode == 0
    assert status(runs)["probe"].after == now["joint"].jobs


def test_a_job_whose_nodes_see_another_disk(box: Box, packed: Path) -> None:
    """The folder of runs exists on every node, but it is not the same one."""
    runs = box.node_local / "runs"
    submit(packed, runs, "joint")
    wait_for(lambda: status(runs)["joint"].state not in ("queued", "running"), PATIENCE)
    view = status(runs)["joint"]
    assert view.state == "failed" and view.next, view
    assert "that all nodes share" in view.why or "all nodes share" in view.error, view


def test_watch_ends_with_the_job(box: Box, packed: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    submit(packed, runs, "joint", steps=12)
    told = launch("status", "one", "--runs", runs, "--watch", timeout=PATIENCE)
    assert told.returncode == 0 and told.stdout.splitlines()[-1].startswith("one joint  finished"), told.stdout
    followed = launch("logs", "one", "--runs", runs, "--follow", timeout=60)
    assert followed.returncode == 0 and "finished" in followed.stdout
