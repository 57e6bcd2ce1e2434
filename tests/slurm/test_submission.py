"""What happens between the command and the queue: code that is edited later, jobs inside jobs, names that are taken, large arrays."""

import shlex
import shutil
import sys
from pathlib import Path

from jobs.fuse import Fuse
from jobs.stages import write_job
from launch import scheduler
from launch.evidence import read_end
from launch.profiles import Profile
from launch.snapshot import PACKAGES, snapshot
from launch.submission import Shape, submit
from launch.unit import Unit
from tests.clips import TINY
from tests.slurm.box import Box
from tests.slurm.conftest import ROOT, launch, wait_for
from tests.test_fuse import run_of, scores

PATIENCE = 240.0


def words(packed: Path, runs: Path, *more: str | Path) -> list[str | Path]:
    """The flags of a joint stream of two steps on two nodes."""
    small = ["--recipe", "scdnet-small", "--streams", "joint", "--steps", "2", "--nodes", "2", "--name", "run", "--no-track", *TINY]
    return ["--data", packed, "--runs", runs, *small, "--cluster", "slurm", *more]


def test_a_job_submitted_inside_a_job_runs_the_code_of_that_moment(box: Box, packed: Path, tmp_path: Path) -> None:
    code, runs, profile = tmp_path / "checkout", tmp_path / "runs", tmp_path / "later.toml"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    profile.write_text('[sbatch]\nbegin = "now+1hour"\n')
    command = [sys.executable, code / "launch" / "pretrain.py", *words(packed, runs, "--cluster-profile", profile)]
    inside = box.run("sbatch", "--parsable", "--nodes=2", f"--output={tmp_path}/outer.log", "--wrap", shlex.join(map(str, command)))
    wait_for(lambda: scheduler.over(scheduler.jobs([inside])[inside].state), PATIENCE)
    unit = Unit(runs / "run", "joint")
    submission = unit.submitted()
    assert submission is not None, (tmp_path / "outer.log").read_text()
    job = submission.job_of(0)
    assert (scheduler.jobs([job])[job].state, submission.nodes) == ("PENDING", 2)

    again = launch("pretrain", *words(packed, runs, "--cluster-profile", profile))
    assert again.returncode == 0 and f"job {job} is in the queue already" in again.stderr
    other = launch("pretrain", *words(packed, runs, "--cluster-profile", profile, "--lr", "0.5"))
    assert other.returncode == 2 and "lr was 0.01 and is 0.5" in other.stderr and job in other.stderr and "--name" in other.stderr

    (code / "jobs" / "worker.py").write_text("raise SystemExit('edited after the submission')\n")
    box.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for(lambda: scheduler.over(scheduler.jobs([job])[job].state), PATIENCE)
    assert (unit.folder / "result.json").is_file(), unit.log(job).read_text()
    assert "edited after" not in unit.log(job).read_text()
    assert scheduler.hosts(scheduler.jobs([job])[job].nodes) == ["n1", "n2"]

    done = launch("pretrain", *words(packed, runs))
    assert done.returncode == 0 and "joint: finished before" in done.stderr


def test_an_array_of_forty_runs_every_part_once(box: Box, tmp_path: Path) -> None:
    """Four at a time; each part fuses the same two streams, which may be done any number of times."""
    run = run_of(tmp_path / "runs" / "many", {"joint": scores(1), "bone": scores(2)})
    unit = Unit(run, "fuse")
    description = write_job(Fuse(run=run), unit.folder / "job.json")
    parts = [str(i) for i in range(40)]
    submission = submit(unit, "fuse", description, parts, Shape(), Profile(at_once=4, time="10"), snapshot(tmp_path / "runs"))
    assert len(submission.jobs) == 1 and len(set(submission.job_ids())) == 40
    array = submission.jobs[0][0]
    assert "--array=0-39%4" in unit.logs.joinpath(f"{array}_submission.sh").read_text()
    most = 0

    def over() -> bool:
        nonlocal most
        states = [job.state for job in scheduler.jobs([array]).values()]
        most = max(most, states.count("RUNNING"))
        return len(states) == 40 and all(map(scheduler.over, states))

    wait_for(over, 400)
    assert {job.state for job in scheduler.jobs([array]).values()} == {"COMPLETED"}
    ends = [read_end(path) for path in unit.ends.glob("*.json")]
    assert sorted(end.tag for end in ends if end) == sorted(f"{job}.0.1" for job in submission.job_ids())
    assert 2 <= most <= 4
    told = [unit.log(job).read_text() for job in submission.job_ids()]
    assert all(text.count('"streams": ["joint", "bone"]') == 1 for text in told)
