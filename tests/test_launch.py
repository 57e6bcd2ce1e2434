"""The command line: what a user may get wrong, what is shown before anything starts, and a whole small run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs import journal
from jobs.pack import Pack
from jobs.pretrain import Pretrain, fitted
from launch.pool import rank_environment
from shards.synthetic import write_synthetic
from tests.clips import TINY, packed_clips

ROOT = Path(__file__).resolve().parents[1]


def script(name: str, *words: str | Path, cwd: Path = ROOT, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run launch/NAME.py as a user would."""
    command = [sys.executable, str(ROOT / "launch" / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500, env={**os.environ, **changes})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 clips, packed: see tests/clips.py."""
    return packed_clips(tmp_path_factory.mktemp("set"))


def pretrain(packed: Path, runs: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return script("pretrain", "--data", packed, "--runs", runs, "--recipe", "scdnet-small", "--no-track", *TINY, *words)


@pytest.mark.parametrize("name", ["pack", "pretrain", "probe", "fuse", "dashboard", "demo"])
def test_help_teaches_from_any_folder(name: str, tmp_path: Path) -> None:
    shown = script(name, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert f"launch/{name}.py" in shown.stdout and "default" in shown.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stepz", "3"], "did you mean --steps?"),
        (["--recipe", "scd"], "one of acsar, acsar-small, demo, scdnet, scdnet-small"),
        (["--streams", "joint,bones"], "valid: joint, bone, motion"),
        (["--nodes", "0"], "at least one node"),
        (["--nodes", "3", "--steps", "2"], "use --batch-size"),
        (["--cluster", "slurm"], "--cluster local"),
        (["--protocol", "xset"], "xset"),
        (["--method.queue", "500"], "--allow-large-queue"),
        (["--batch-size", "64"], "--batch-size"),
        (["--recipe", "acsar-small", "--method.queue", "8"], "--captions"),
        (["--steps", "0"], "--steps N"),
    ],
)
def test_a_wrong_word_is_one_line_and_code_2(words: list[str], told: str, packed: Path, tmp_path: Path) -> None:
    ended = pretrain(packed, tmp_path, *words)
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert told in last and "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("*/*/ckpt"))


def test_data_that_is_not_there(tmp_path: Path) -> None:
    ended = script("pretrain", "--data", tmp_path / "nowhere", "--runs", tmp_path)
    assert ended.returncode == 2 and "nothing there" in ended.stderr
    (tmp_path / "empty").mkdir()
    ended = script("pretrain", "--data", tmp_path / "empty", "--runs", tmp_path)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr


def test_dry_run_shows_the_arithmetic_and_trains_nothing(packed: Path, tmp_path: Path) -> None:
    shown = pretrain(packed, tmp_path, "--nodes", "4", "--steps", "6", "--lr", "0.02", "--method.tau", "0.3", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert document["plan"]["rows"] == 2 and document["plan"]["steps"] == 6 and document["plan"]["train"] + document["plan"]["aside"] == 24
    assert document["job"]["lr"] == 0.02 and document["job"]["method"]["tau"] == 0.3
    assert "batch 8 = 4 x 2" in shown.stderr and "4 simulated nodes" in shown.stderr
    assert not list(tmp_path.glob("*/job.json"))


def test_epochs_replace_the_recipe_s_steps(packed: Path, tmp_path: Path) -> None:
    shown = pretrain(packed, tmp_path, "--epochs", "5", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["plan"]["steps"] == 5 * json.loads(shown.stdout)["plan"]["steps_per_epoch"]


def test_an_interpreter_without_the_packages_says_what_to_type(tmp_path: Path) -> None:
    bare = subprocess.run(
        [sys.executable, "-S", str(ROOT / "launch" / "pretrain.py"), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert bare.returncode == 2 and "make -C" in bare.stderr and "activate" in bare.stderr and "Traceback" not in bare.stderr


def steps(run: Path) -> list[dict[str, Any]]:
    """Every step record of the stream, in order."""
    return [record for record in journal.read(run) if record["type"] == "step"]


@pytest.mark.distributed
def test_a_run_on_simulated_nodes_is_interrupted_and_goes_on(packed: Path, tmp_path: Path) -> None:
    words = ["--nodes", "2", "--steps", "40", "--streams", "joint", "--name", "run", "--save-every", "0"]
    command = [sys.executable, str(ROOT / "launch" / "pretrain.py"), "--data", str(packed), "--runs", str(tmp_path), "--no-track"]
    process = subprocess.Popen([*command, "--recipe", "scdnet-small", *TINY, *words], stderr=subprocess.PIPE, text=True)
    written = tmp_path / "run" / "joint" / "journal" / "0001.jsonl"
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None and not (written.exists() and written.read_text().count('"step_ms"') >= 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=200)[1]
    assert process.returncode == 130, told
    assert "saving joint" in told and "Traceback" not in told
    assert 3 <= len(steps(tmp_path / "run" / "joint")) < 40
    assert list((tmp_path / "run" / "joint" / "ckpt").glob("step_*.a1/COMPLETE"))

    ended = pretrain(packed, tmp_path, *words)
    assert ended.returncode == 0, ended.stderr
    assert [record["step"] for record in steps(tmp_path / "run" / "joint")] == list(range(1, 41))
    assert (tmp_path / "run" / "joint" / "result.json").is_file()
    again = pretrain(packed, tmp_path, *words)
    assert again.returncode == 0 and not (tmp_path / "run" / "joint" / "journal" / "0003.jsonl").exists()
    other = pretrain(packed, tmp_path, *words, "--lr", "0.5")
    assert other.returncode == 2 and "lr was" in other.stderr and "--name" in other.stderr


def test_one_node_goes_through_submitit_and_chains_to_the_fused_number(packed: Path, tmp_path: Path) -> None:
    ended = pretrain(packed, tmp_path, "--steps", "3", "--streams", "joint,bone", "--name", "run", "--json")
    assert ended.returncode == 0, ended.stderr
    assert set(json.loads(ended.stdout)["streams"]) == {"joint", "bone"}
    assert list((tmp_path / "run" / "joint" / "logs" / "submitit").rglob("*_submitted.pkl"))
    probed = script("probe", "--run", tmp_path / "run", "--json")
    assert probed.returncode == 0, probed.stderr
    keys = {"linear", "knn1", "random_linear", "random_knn1", "raw_linear", "raw_knn1"}
    rows = json.loads(probed.stdout)
    assert set(rows) == {"joint", "bone"} and all(keys <= set(row) and all(0 <= v <= 100 for v in row.values()) for row in rows.values())
    fused = script("fuse", "--run", tmp_path / "run", "--json")
    assert fused.returncode == 0, fused.stderr
    assert json.loads(fused.stdout)["streams"] == ["joint", "bone"] and json.loads(fused.stdout)["n"] == 24


@pytest.mark.distributed
@pytest.mark.parametrize("nodes", ["1", "2"])
def test_a_damaged_shard_stops_every_rank_and_is_named(nodes: str, packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "packed"
    shutil.copytree(packed, copy)
    shard = next(copy.glob("*.tar"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    ended = pretrain(copy, tmp_path / "runs", "--steps", "2", "--streams", "joint", "--nodes", nodes)
    assert ended.returncode == 2 and str(shard) in ended.stderr and "Traceback" not in ended.stderr


def test_the_paper_s_queue_per_benchmark(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "raw", subjects=2, cameras=(1,), actions=2)
    Pack(data=tmp_path / "raw", out=tmp_path / "packed", jobs=1)()
    manifest = json.loads((tmp_path / "packed" / "manifest.json").read_text())
    for benchmark, recipe, queue in (("pku2", "acsar", 2048), ("ntu60", "acsar", 8192), ("pku2", "acsar-small", 256)):
        (tmp_path / "packed" / "manifest.json").write_text(json.dumps({**manifest, "benchmark": benchmark}))
        assert fitted(Pretrain.of(recipe, data=tmp_path / "packed", name="x")).method.queue == queue


def test_ranks_run_the_code_of_the_checkout_that_starts_them(tmp_path: Path) -> None:
    """Not a folder of the same name where they are started, and not another checkout that is installed."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("")
    environment = rank_environment(0, 1, 0, 1, 1)
    command = [sys.executable, "-c", "import jobs; print(jobs.__file__)"]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(told.stdout.strip()).parents[1] == ROOT
