"""An ablation on Slurm: a chain of jobs for each row, nothing twice, and the table when they have ended."""

import json
from pathlib import Path

import pytest

from jobs.pack import Pack
from tests.clips import TINY
from tests.slurm.conftest import launch

pytestmark = pytest.mark.usefixtures("box")


def test_rows_are_submitted_once_and_fill_their_table(packed: Path, tmp_path: Path) -> None:
    said = [json.dumps({"key": f"clip{i:02d}", "text": f"person {i} moves like {i % 7}"}) for i in range(48)]
    (tmp_path / "captions.jsonl").write_text("\n".join(said))
    for name in ("five", "three"):
        Pack(packed.parent / "moves.npz", tmp_path / name, captions=tmp_path / "captions.jsonl", jobs=1)()
    words = ["--table", "9", "--recipe", "acsar-small", "--data", tmp_path / "five", "--texts", f"frames3={tmp_path / 'three'}"]
    words += ["--seeds", "0", "--steps", "2", "--runs", tmp_path / "runs", "--name", "strips", "--no-track", "--cluster", "slurm", *TINY]
    first = launch("sweep", *words, "--json")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert set(document["runs"]) == {"strips-frames3-s0", "strips-s0"} and document["lacking"] == {"frames8": ["9: 8 frames"]}
    assert first.stderr.count("joint: job ") == first.stderr.count("probe: job ") == 2
    again = launch("sweep", *words, "--wait", timeout=600)
    assert again.returncode == 0, again.stderr
    assert ", log " not in again.stderr  # nothing is submitted twice
    assert "no captions frames8" in again.stdout and "not yet" not in again.stdout
    last = json.loads(launch("sweep", *words, "--json").stdout)
    assert all(run["done"] for run in last["runs"].values())
    assert [row["cells"][0]["value"] is not None for row in last["tables"]["9"]["rows"]] == [True, True, False]
