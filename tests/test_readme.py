"""The README's command blocks run, and the demo says in words what it found."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.text import HashText, read_captions, write_store
from shards.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
# what a laptop test changes in the NTU commands: size and length, nothing else
SMALL = {"--recipe acsar": "--recipe demo --steps 2 --streams joint,bone --no-track"}


def blocks(language: str) -> list[list[str]]:
    """The command lines of every fenced block of a language."""
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return [[line for line in block.splitlines() if line.strip()] for block in found]


def run(line: str, cwd: Path, runs: Path) -> "subprocess.CompletedProcess[str]":
    """Run one line as it stands, with this interpreter for python."""
    words = shlex.split(line)
    if Path(words[0]).name == "python":
        words = [sys.executable, str(ROOT / words[1]), *words[2:]]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=900, env={**os.environ, "ACSAR_RUNS": str(runs)})


def test_make_targets_exist() -> None:
    targets = [line.split()[1] for block in blocks("bash") for line in block if line.startswith("make ")]
    assert targets == ["demo", "test"]
    for target in [*targets, "check", "bench", "install"]:
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert planned.returncode == 0 and planned.stdout, planned.stderr


def test_named_files_exist() -> None:
    for name in re.findall(r"`((?:acsar|shards|jobs|launch|docs)/[\w./]+)`", README) + re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / name).exists(), name


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo cut short: its runs folder and what it printed."""
    runs = tmp_path_factory.mktemp("demo") / "runs"
    ended = run(f"python launch/demo.py --steps 3 --runs {runs}", runs.parent, runs)
    assert ended.returncode == 0, ended.stderr
    return runs, ended.stdout + ended.stderr


def test_the_demo_says_whether_pretraining_helped(demo: tuple[Path, str]) -> None:
    _, told = demo
    for stream in ("joint", "bone", "motion"):
        verdict = re.search(rf"{stream}: pretrained ([\d.]+) (beats|does not beat) its random encoder ([\d.]+).*\(linear\)", told)
        assert verdict, told
        assert verdict[2] == "does not beat" or float(verdict[1]) > float(verdict[3])
    assert "never a result" in told and "supervision=text-from-label" in told and re.search(r"fused joint \+ bone \+ motion: top-1", told)


def test_the_demo_leaves_a_comparison_in_mlflow(demo: tuple[Path, str]) -> None:
    runs, _ = demo
    assert (runs / "mlflow.db").is_file() and (runs / "demo" / "figures" / "accuracy.png").stat().st_size > 10_000
    for stream in ("joint", "bone", "motion"):
        assert (runs / "demo" / stream / "result.json").is_file() and (runs / "demo" / "probe" / "xsub" / f"{stream}.json").is_file()


def test_the_pictures_are_made_again_by_one_command(demo: tuple[Path, str], tmp_path: Path) -> None:
    runs, _ = demo
    told = {**os.environ, "PYTHON": sys.executable}
    ended = subprocess.run(
        ["sh", "docs/figures.sh", str(runs), str(tmp_path)], cwd=ROOT, capture_output=True, text=True, env=told, timeout=900
    )
    assert ended.returncode == 0, ended.stderr
    made = {"accuracy.png", "tsne.png", "mistakes.png", "mistake.gif"} | ({"compare.png"} if "no chromium" not in ended.stderr else set())
    assert {path.name for path in tmp_path.iterdir()} == made and all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())


def test_bash_blocks_run(demo: tuple[Path, str]) -> None:
    runs, _ = demo
    lines = [line for block in blocks("bash") for line in block if not line.startswith("make ")]
    assert lines
    for line in lines:
        ended = run(line, runs.parent, runs)
        assert ended.returncode == 0, ended.stderr


def test_ntu_in_four_commands(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "made", subjects=6, cameras=(1,), actions=6)
    (tmp_path / "made" / "nturgb+d_skeletons").rename(tmp_path / "nturgb+d_skeletons")
    (tmp_path / "made" / "captions.jsonl").rename(tmp_path / "captions.jsonl")
    hashed = HashText()
    texts = {caption.text: hashed(caption.text) for caption in read_captions(tmp_path / "captions.jsonl").values()}
    write_store(tmp_path / "clip_features", "hash", hashed.shape, texts)
    [lines] = [block for block in blocks("text") if "nturgb" in block[0]]
    assert len(lines) == 4
    for line in lines:
        for full, small in SMALL.items():
            line = line.replace(full, f"{small} --batch-size 8 --method.queue 8")
        ended = run(line, tmp_path, tmp_path / "runs")
        assert ended.returncode == 0, f"{line}\n{ended.stderr}"
    assert (tmp_path / "runs" / "ntu60-xsub" / "fuse" / "xsub.json").is_file()
