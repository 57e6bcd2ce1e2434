"""Probes on 1, 2 and 4 ranks: every clip once, the same bits of features, the same numbers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs import features
from jobs.frozen import REFERENCES
from jobs.run_folder import read_json
from jobs.scores import read_scores
from tests.moves import finished_run, packed_moves
from tests.probe_ranks import WORLDS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.distributed
def test_any_number_of_ranks_gives_the_same_features_and_numbers(tmp_path: Path) -> None:
    # 72 clips: three blocks, the last one short, and the last of four ranks has none; 36 in the statistics of the random encoder
    packed = packed_moves(tmp_path / "packed", per=6)
    run = finished_run(tmp_path / "run", packed)
    for world in WORLDS:
        shutil.copytree(run, tmp_path / f"w{world}" / "run")
    told = subprocess.run(
        [sys.executable, "-m", "tests.probe_ranks", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ},
        timeout=300,
    )
    assert told.returncode == 0, told.stderr
    found = [tmp_path / f"w{world}" for world in WORLDS]
    results = [json.loads((place / "0.json").read_text()) for place in found]
    assert results[0] == results[1] == results[2] and results[0]["joint"]["linear"] > 34
    assert all(json.loads(path.read_text()) == {} for place in found for path in place.glob("[1-9].json"))
    rows = [features.read(features.place(place / "run", packed.content_id, "joint")) for place in found]
    assert all(one.keys == sorted(record.key for record in packed.samples) for one in rows)
    assert all(np.array_equal(one.values.numpy(), rows[0].values.numpy()) for one in rows)
    untrained = [next((place / REFERENCES).glob("random-*.features.npz")).read_bytes() for place in found]
    assert untrained[0] == untrained[1] == untrained[2], "the statistics of the random encoder too"
    scores = [read_scores(place / "run" / "probe" / "split" / "joint.scores.npz") for place in found]
    assert all(one.keys == scores[0].keys and len(set(one.keys)) == 36 for one in scores), "every test clip once"
    assert all(np.allclose(one.scores.numpy(), scores[0].scores.numpy(), rtol=1e-4, atol=1e-4) for one in scores)
    reports = [read_json(place / "run" / "probe" / "split" / "joint.json") for place in found]
    assert len({report["epoch"] for report in reports}) == 1
