"""The control flow of launch/batch.sh within submitit's batch script, under bash. The scheduler's part in it is tested on a real Slurm."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.run_folder import read_json, write_json
from launch.profiles import Profile
from launch.submission import Shape, script
from launch.unit import Submission, Unit

ROOT = Path(__file__).parents[1]
JOB = "JobId=7 JobState=RUNNING Reason=None Restarts=0 RunTime=00:10:00 TimeLimit=1-00:00:00 PreemptTime=None "
PREEMPTED = JOB.replace("PreemptTime=None", "PreemptTime=2026-01-01T00:00:00")
OVERDUE = JOB.replace("RUNNING Reason=None", "COMPLETING Reason=TimeLimit")
WORDS = {
    # ranks: end with the next code of CODES; the look at the nodes: what is in ANSWERS
    "srun": """
case " $* " in *" look "*) cat "$HERE/answers"; exit;; esac
printf '%s|' "$ACSAR_TAG" "$@" >> "$HERE/starts"; echo >> "$HERE/starts"
read -r code < "$HERE/codes"; sed -i 1d "$HERE/codes"
case $code in
    0) : > "$ACSAR_LOGS/../result.json"; exit;;
    leave) trap 'exit 143' TERM;;
    hang) trap '' TERM;;
    *) exit "$code";;
esac
touch "$HERE/waiting"
sleep 30 & wait
""",
    "scontrol": """
case $1 in show) cat "$HERE/job";; requeue) echo "$2" >> "$HERE/requeued";; esac
""",
    "sinfo": "echo 'n[1-4]'",
    "sleep": 'case $1 in 30) exec /bin/sleep 30;; *) echo "$1" >> "$HERE/slept";; esac',
}


@dataclass
class Bench:
    """A batch script, the commands it calls, and what they are to answer."""

    here: Path
    unit: Unit
    profile: Profile
    environment: tuple[tuple[str, str], ...] = ()

    def run(self, *codes: int, job: str = JOB, answers: str = "n1 none\nn2 none") -> int:
        """Exit code of the job whose ranks end with `codes`, one a start."""
        script = self.prepare([*map(str, codes)], job, answers)
        return subprocess.run(
            ["bash", str(script)], env=self.env, stdout=self.log.open("ab"), stderr=subprocess.STDOUT, timeout=60
        ).returncode

    def prepare(self, codes: Sequence[str], job: str, answers: str = "") -> Path:
        for name, text in {"codes": "\n".join(codes) + "\n", "job": job, "answers": answers}.items():
            (self.here / name).write_text(text)
        text = script(self.unit, Shape(4), self.profile, ROOT)
        path = self.here / "job.sh"
        path.write_text(text.replace("# setup", "set -eu"))  # as strict as a profile's lines may have made it
        return path

    @property
    def env(self) -> dict[str, str]:
        given = {"HERE": str(self.here), "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "n[1-4]"}
        path = f"{self.here / 'bin'}:{os.environ['PATH']}"
        return {**given, "PATH": path, "SLURM_JOB_PARTITION": "main", "SLURMD_NODENAME": "n1", **dict(self.environment)}

    @property
    def log(self) -> Path:
        return self.unit.log("7")

    def lines(self, name: str) -> list[str]:
        path = self.here / name
        return path.read_text().splitlines() if path.exists() else []

    def starts(self) -> list[str]:
        return [line.split("|")[0] for line in self.lines("starts")]

    def ends(self) -> list[tuple[str, str]]:
        return [(path.stem, read_json(path)["action"]) for path in sorted(self.unit.ends.glob("*.json"))]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    here = tmp_path / "it's here"
    (here / "bin").mkdir(parents=True)
    for name, text in WORDS.items():
        (here / "bin" / name).write_text("#!/bin/bash\n" + text)
        (here / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")  # submitit looks for srun
    unit = Unit(here / "a run", "joint")
    write_json(here / "job.json", {"batch_size": 8, "zero": 0})
    unit.record(Submission("pretrain", str(here / "job.json"), ["joint"], [("7", 0, 1)], 4, 1, 1, 0, {}, str(ROOT)))
    return Bench(here, unit, Profile())


def test_ranks_that_finish(bench: Bench) -> None:
    assert bench.run(0) == 0
    assert bench.lines("starts") == [
        f"7.0.1|--unbuffered|--output|{bench.unit.logs}/%j_%t_log.out|--kill-on-bad-exit=1|{sys.executable}|-u|-m|submitit.core._submit|"
        f"{bench.unit.logs}|"
    ]
    assert bench.ends() == [("7.0.1", "done")]
    log = bench.log.read_text()
    assert "7.0.1: starts on 4 node(s), n[1-4]; this script runs on n1\n" in log
    assert "unbound" not in log
    assert not list(bench.unit.logs.glob(".7*"))


def test_a_crash_starts_the_ranks_again_in_the_same_place(bench: Bench) -> None:
    assert bench.run(1, 139, 0) == 0
    assert bench.starts() == ["7.0.1", "7.0.2", "7.0.3"]
    assert bench.lines("slept") == ["0", "5", "0", "10", "0"]  # before Slurm is asked, and longer and longer between starts
    assert bench.ends() == [("7.0.1", "again"), ("7.0.2", "again"), ("7.0.3", "done")]


def test_the_third_crash_is_the_job_s_exit_code(bench: Bench) -> None:
    assert bench.run(1, 1, 9, 0) == 9
    assert bench.starts() == ["7.0.1", "7.0.2", "7.0.3"]
    assert "3 crashes in a row without progress" in bench.log.read_text()


def test_what_the_user_can_mend_is_not_tried_again(bench: Bench) -> None:
    assert bench.run(2, 0) == 2
    assert bench.starts() == ["7.0.1"]


@pytest.mark.parametrize(("job", "requeued"), [(PREEMPTED, ["7"]), (OVERDUE, ["7"]), (JOB.replace("RUNNING", "CANCELLED"), [])])
def test_interrupted_jobs_go_back_into_the_queue_and_cancelled_ones_do_not(bench: Bench, job: str, requeued: list[str]) -> None:
    assert bench.run(143, 0, job=job) == (75 if requeued else 143)
    assert bench.lines("requeued") == requeued
    assert bench.starts() == ["7.0.1"]


def test_a_job_that_slurm_has_queued_itself_is_not_queued_twice(bench: Bench) -> None:
    assert bench.run(143, job=PREEMPTED.replace("Restarts=0", "Restarts=1")) == 75
    assert bench.lines("requeued") == []
    assert "is in the queue already" in bench.log.read_text()


def test_an_element_of_an_array(bench: Bench) -> None:
    bench.environment = (("SLURM_ARRAY_JOB_ID", "6"), ("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_RESTART_COUNT", "2"))
    assert bench.run(143, job=PREEMPTED.replace("Restarts=0", "Restarts=2")) == 75
    assert (bench.starts(), bench.lines("requeued")) == (["6_3.2.1"], ["6_3"])


def test_without_scontrol_a_person_goes_on(bench: Bench) -> None:
    (bench.here / "bin" / "scontrol").write_text('#!/bin/bash\n[ $1 = show ] && cat "$HERE/job" || exit 1\n')
    assert bench.run(143, job=PREEMPTED) == 75
    assert "launch/retry.py goes on" in bench.log.read_text()


def test_a_host_is_left_out(bench: Bench) -> None:
    error = {"tag": "", "host": "n3", "rank": 2, "kind": "OSError", "message": "", "communication": False, "input": False, "time": 1.0}
    for tag in ("7.0.1", "7.0.2"):
        write_json(bench.unit.errors / f"{tag}.2.json", {**error, "tag": tag})
    assert bench.run(1, 1, 0) == 0
    assert bench.lines("starts")[1].startswith("7.0.2|--unbuffered|")
    assert bench.lines("starts")[2].startswith("7.0.3|--exclude=n3|--nodes=2|--ntasks=2|--unbuffered|")


def test_a_new_job_that_nobody_takes_is_said(bench: Bench) -> None:
    (bench.here / "bin" / "sinfo").write_text("#!/bin/bash\necho 'n[1-8]'\n")
    (bench.here / "bin" / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: no more jobs' >&2; exit 1\n")
    (bench.here / "bin" / "sbatch").chmod(0o755)
    error = {"host": "n3", "rank": 2, "kind": "OSError", "message": "", "communication": False, "input": False, "time": 1.0}
    for tag in ("7.0.1", "7.0.2"):
        write_json(bench.unit.errors / f"{tag}.2.json", {**error, "tag": tag})
    assert bench.run(1, 1, 0) == 75
    assert bench.starts() == ["7.0.1", "7.0.2"]
    assert "no new job; launch/retry.py goes on with the run" in bench.log.read_text()


def test_nodes_that_cannot_take_part_are_named(bench: Bench) -> None:
    assert bench.run(0, answers="n1 none\nn3 blind\nn4 blind\nn2 bare\n") == 2
    assert bench.starts() == []
    end = read_json(bench.unit.ends / "7.0.1.json")
    assert (end["cause"], end["action"]) == ("input", "stop")
    assert end["error"] == (
        f"n3 n4: {bench.unit.logs} is not there: the folder of runs must be on a disk that all nodes share; "
        f"n2: {sys.executable} is not there: Python must be found on all nodes"
    )


def test_python_may_be_several_words(bench: Bench) -> None:
    bench.profile = Profile(python=f"env WORD='two words' {shlex.quote(sys.executable)}")
    assert bench.run(0) == 0
    assert bench.lines("starts")[0].split("|")[5:8] == ["env", "WORD=two words", sys.executable]
    assert bench.ends() == [("7.0.1", "done")]


@pytest.mark.parametrize("ranks", ["leave", "hang"])
def test_the_script_outlives_the_signal_by_which_slurm_ends_it(bench: Bench, ranks: str) -> None:
    with running(bench, ranks, OVERDUE) as script:
        os.killpg(script.pid, signal.SIGTERM)
        assert script.wait(30) == 75
        if ranks == "hang":
            os.killpg(script.pid, signal.SIGKILL)
    assert bench.lines("requeued") == ["7"]
    assert bench.starts() == ["7.0.1"]


def test_a_stray_signal_does_not_part_the_script_from_its_ranks(bench: Bench) -> None:
    with running(bench, "leave", JOB) as script:
        script.terminate()
        time.sleep(0.5)
        assert script.poll() is None
        os.killpg(script.pid, signal.SIGTERM)  # now the ranks too; Slurm still says RUNNING
        assert script.wait(30) == 0
    assert bench.starts() == ["7.0.1", "7.0.2"]
    assert bench.ends() == [("7.0.1", "again"), ("7.0.2", "done")]


@contextmanager
def running(bench: Bench, ranks: str, job: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The batch script while its ranks wait for a signal."""
    path = bench.prepare([ranks, "0"], job)
    with subprocess.Popen(
        ["bash", str(path)], env=bench.env, stdout=bench.log.open("ab"), stderr=subprocess.STDOUT, start_new_session=True
    ) as script:
        end = time.monotonic() + 30
        while not (bench.here / "waiting").exists() and time.monotonic() < end:
            time.sleep(0.02)
        yield script


def test_a_lost_node_is_no_end(bench: Bench) -> None:
    (bench.here / "bin" / "srun").write_text(
        "#!/bin/bash\ncase \" $* \" in *' look '*) ;; *) echo 'srun: error: Node failure on n3' >&2;; esac\n"
    )
    assert bench.run(job=JOB.replace("RUNNING", "NODE_FAIL").replace("Restarts=0", "Restarts=1")) == 75
    assert bench.ends() == [("7.0.1", "requeue")]
    assert bench.lines("requeued") == []


def test_no_decision_ends_the_job_with_the_ranks_code(bench: Bench) -> None:
    bench.unit.ends.parent.mkdir(parents=True, exist_ok=True)
    bench.unit.ends.write_text("in the way")
    assert bench.run(3, 0) == 3
    assert bench.starts() == ["7.0.1"]
    assert "came to no decision" in bench.log.read_text()
