"""The probe command: what it settles before a job is queued, what it refuses, and its table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.probe import ACCURACIES, Probe, read_accuracies, setting_of
from jobs.run_folder import write_json
from jobs.settings import setting
from jobs.stages import finished, write_job
from launch import probe
from launch.cluster import Place
from launch.table import accuracy_table
from launch.unit import Unit
from shards.errors import InputError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two streams by protocol xsub, as far as the command looks at it."""
    for stream in ("joint", "bone"):
        facts = {"protocol": "xsub", "content_id": "c" * 64}
        job = {"streams": ["joint", "bone"], "protocol": "xsub", "seed": 0, "data": str(tmp_path / "packed")}
        write_json(tmp_path / "runs" / "one" / stream / "config.json", {"job": job, "facts": facts})
    return tmp_path / "runs" / "one"


def test_settings_have_names_of_their_own() -> None:
    names = [setting("xsub"), setting("xsub", "paper"), setting("xsub", transfer="pku2"), setting("xsub", "paper", "pku2")]
    assert names == ["xsub", "xsub-paper", "transfer-pku2-xsub", "transfer-pku2-xsub-paper"]


def test_a_job_is_settled_before_it_is_queued(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    job = probe.settled(Probe(run=Path("one"), data=Path("packed"), schedule="paper", runs=Path()))
    assert (job.run, job.data, job.streams, job.protocol) == (run, run.parent / "packed", ("joint", "bone"), "xsub")
    assert setting_of(job) == "xsub-paper"


def test_a_queued_probe_of_another_setting_is_not_overwritten(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, job = Unit(run, "probe"), Probe(run=run, streams=("joint",))
    monkeypatch.setattr(probe, "in_queue", lambda unit: {"joint": "17"})
    write_job(job, unit.folder / "job.json")
    probe.refuse_another(unit, replace(job, streams=("bone",), protocol="xsub"))
    with pytest.raises(InputError, match=r"one is being probed as xsub \(job 17\)"):
        probe.refuse_another(unit, replace(job, schedule="paper"))
    monkeypatch.setattr(probe, "in_queue", lambda unit: {})
    probe.refuse_another(unit, replace(job, schedule="paper"))


def test_what_is_finished_depends_on_the_setting(run: Path, tmp_path: Path) -> None:
    report = dict.fromkeys(ACCURACIES[:-1], 50.0)
    write_json(run / "probe" / "xsub-paper" / "joint.json", report)
    for job, done in (
        (Probe(run=run), False),
        (Probe(run=run, schedule="paper"), True),
        (Probe(run=run, schedule="paper", protocol="xsub"), True),
        (Probe(run=run, schedule="paper", protocol="xsub", transfer=tmp_path / "pku2"), False),
    ):
        assert finished("probe", write_job(job, tmp_path / "job.json"), "joint") is done
    assert read_accuracies(Probe(run=run, schedule="paper"), ["joint"]) == {"joint": report}


def test_nodes_are_for_runs_and_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one node"):
        probe.main(["--run", "x", "--nodes", "0"])
    with pytest.raises(InputError, match="--nodes 2 goes with --run"):
        probe.main(["--weights", "x.pth", "--data", str(tmp_path), "--nodes", "2"])


class Ended:
    """Ranks that have ended with a code."""

    def __init__(self, code: int, log: Path) -> None:
        self.code, self.path = code, log

    def poll(self) -> int:
        return self.code

    def log(self) -> Path:
        return self.path


def test_a_rank_that_fails_is_quoted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = run / "rank_00001.log"
    log.write_text("joint: features of 9 clips\nthe set has moved; name it with --data\n\n")
    started: list[tuple[Any, ...]] = []
    for code, error in ((2, InputError), (1, RuntimeError)):
        monkeypatch.setattr(Place, "start", lambda self, *words, code=code: started.append((self.nodes, *words)) or Ended(code, log))
        with pytest.raises(error, match="the set has moved; name it with --data; whole log"):
            probe.shared_out(Probe(run=run), 2)
    assert started[0] == (2, run / "probe" / "job.json", "", run / "probe" / "logs", "probe")


def test_the_table_shows_three_epochs_and_a_dash_for_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"joint": {name: 50.0 + i for i, name in enumerate(ACCURACIES)}, "bone": dict.fromkeys(ACCURACIES[:6], 40.0)}
    accuracy_table(rows, "title")
    told = capsys.readouterr().out
    assert all(word in told for word in ("last", "best*", "50.0", "56.0", "57.0", "the field's habit"))
    assert next(line for line in told.splitlines() if "bone" in line).count("-") == 2
