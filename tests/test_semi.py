"""Semi-supervised classifiers of frozen features: whose labels, whose epoch, beside which references, in which files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acsar import probes
from jobs import features, semi, stages
from jobs.frozen import REFERENCES
from jobs.probe import divide
from jobs.run_folder import read_json
from jobs.semi import Semi, recipe, resolved
from jobs.subsets import subset
from launch import semi as command
from shards.errors import InputError
from shards.stream import PackedSet
from tests.moves import finished_run, packed_moves

FRACTIONS = (0.2, 0.5)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    """72 clips of 3 classes by 6 people, three of whom train."""
    return packed_moves(tmp_path_factory.mktemp("moves") / "packed", subjects=6)


@pytest.fixture(scope="module")
def run(packed: PackedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "tiny", packed, ["joint", "motion"])


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return Semi(run, FRACTIONS, repeats=2, streams=("joint",), schedule="official")()["joint"]


def test_each_number_is_a_classifier_of_the_shared_subset(report: dict[str, Any], run: Path, packed: PackedSet) -> None:
    """Trained here again, from the kept features and jobs/subsets.py alone."""
    d = divide(packed, "split")
    rows = features.read(features.place(run, packed.content_id, "joint"))
    for row in report["rows"]:
        for repeat in row["repeats"][:1]:
            keys = subset(d.train, d.train_labels.tolist(), packed.content_id, "split", row["fraction"], repeat["seed"])
            y = d.train_labels[[d.train.index(key) for key in keys]]
            schedule = recipe("exchange", "official")
            linear = probes.linear_probe(rows.of(keys), y, rows.of(d.test), 3, schedule, repeat["seed"])
            assert repeat["watched"] == 0 and repeat["epoch"] == 80 and row["labelled"] == len(keys)
            assert repeat["top1"] == pytest.approx(100 * probes.top_k(linear.scores, d.test_labels))


def test_the_report_says_mean_deviation_interval_and_references(report: dict[str, Any], run: Path, packed: PackedSet) -> None:
    assert read_json(run / "semi" / "split-official" / "joint.json") == json.loads(json.dumps(report))
    assert (report["encoder"], report["draw"], report["content_id"]) == ("frozen", "unbalanced", packed.content_id)
    for row in report["rows"]:
        tops = [repeat["top1"] for repeat in row["repeats"]]
        assert row["mean"] == pytest.approx(sum(tops) / 2) and row["deviation"] == pytest.approx(abs(tops[0] - tops[1]) / 2**0.5)
        assert row["interval"][0] - 1e-9 <= row["mean"] <= row["interval"][1] + 1e-9
        for name in ("random", "raw"):
            assert row["differences"][f"over_{name}"]["value"] == pytest.approx(row["mean"] - row[f"{name}_mean"])
            assert row[f"{name}_mean"] == pytest.approx(sum(repeat[name] for repeat in row["repeats"]) / 2)
    assert (
        sum("the raw floor" in line for line in report["sentences"]) == sum("random encoder" in line for line in report["sentences"]) == 2
    )
    assert report["rows"][1]["raw_mean"] > 90  # these moves are easy without a network


def test_references_are_computed_once_for_all_runs(report: dict[str, Any], run: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (run.parent / REFERENCES).glob("semi-*.npz")}
    again = Semi(run, FRACTIONS, repeats=2, streams=("joint",), schedule="official")()["joint"]
    assert again == report and len(kept) == 2
    assert {path: path.stat().st_mtime_ns for path in (run.parent / REFERENCES).glob("semi-*.npz")} == kept


def test_labelled_clips_of_held_aside_people_choose_the_epoch(run: Path, packed: PackedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's schedule watches them, where they are not too few; it is never told a test label."""
    seen: list[tuple[int, int]] = []
    course = probes.course

    def watched(x: torch.Tensor, y: torch.Tensor, aside: torch.Tensor, *rest: Any) -> Any:
        seen.append((len(y), int(aside.sum())))
        return course(x, y, aside, *rest)

    monkeypatch.setattr(probes, "course", watched)
    found = Semi(run, (0.2, 1.0), repeats=1, streams=("joint",))()["joint"]
    few, whole = (row["repeats"][0] for row in found["rows"])
    assert seen == [(36, 12)] * 3 and whole["watched"] == 12 and 1 <= whole["epoch"] <= 80
    assert few["watched"] == 0 and few["epoch"] == 80
    assert any(f"fewer than {semi.WATCHED} labelled clips" in line for line in found["sentences"])


def test_the_published_recipe_is_for_published_benchmarks() -> None:
    ours, theirs = recipe("exchange", "paper"), recipe("ntu60", "paper")
    assert (theirs.batch, theirs.lr, theirs.plateau, theirs.stop, theirs.unit, theirs.batch_of(400)) == (64, 0.01, 3, 5, False, 64)
    assert (ours.batch, ours.lr, ours.unit) == (64, 2.0, True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fractions": (0.05,)}, r"labels 1 of 36 training samples \(unbalanced\), fewer than their 3 classes"),
        ({"fractions": (2.0,)}, "a fraction of 2"),
        ({"repeats": 0}, "--repeats 0"),
        ({"streams": ("face",)}, "unknown stream 'face'"),
        ({"protocol": "xsub"}, "pretrained by protocol split"),
        ({"run": Path("nobody")}, "no run in"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        replace(Semi(run, streams=("joint",)), **changes)()
    assert "\n" not in str(caught.value)


def test_the_command_prints_table_fives_layout(report: dict[str, Any], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--run", str(run), "--fractions", "0.2,0.5", "--repeats", "2", "--streams", "joint", "--schedule", "official"]
    assert command.main([*words, "--cluster", "local"]) == 0
    out = capsys.readouterr().out
    assert "20 % (7)" in out and "50 % (18)" in out and "random encoder" in out and f"{report['rows'][0]['mean']:.1f}" in out
    job = resolved(Semi(run, FRACTIONS, repeats=2, streams=("joint",), schedule="official"))
    description = stages.write_job(job, run / "semi.json")
    assert stages.finished("semi", description, "joint") and not stages.finished("semi", description, "motion")
    assert not stages.finished("semi", stages.write_job(replace(job, repeats=3), description), "joint")
