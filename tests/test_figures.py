"""Figures: what they show is what the files say; drawn without a screen and without global state."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import figure_probe
from jobs.figure_curves import loss_curves, smooth
from jobs.figure_probe import accuracy_bars, confusion_matrix
from jobs.figure_style import save
from jobs.figures import Figures
from jobs.fuse import Fuse
from jobs.probe import ACCURACIES, Probe
from jobs.scores import Scores
from shards.errors import InputError
from tests import runs_example
from tests.moves import finished_run, packed_moves


def records(first: float, evals: bool = True) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"type": "step", "step": i + 1, "loss": first * math.exp(-i / 50)} for i in range(100)]
    return found + [{"type": "eval", "step": 50, "metrics": {"held_aside_knn1": 40.0}}] * evals


def report(**changes: Any) -> dict[str, Any]:
    numbers = {name: 50.0 + 2 * i for i, name in enumerate(ACCURACIES)}
    spans = {name: [value - 3, value + 3] for name, value in numbers.items()}
    words = {"chance": 5.0, "test": 100, "classes": 20, "interval_over": "subjects", "test_subjects": 8}
    words |= {"transductive": False, "supervision": "none"}
    return {**numbers, "intervals": spans, **words, **changes}


def scores(count: int = 3) -> Scores:
    labels = torch.arange(4 * count) % count
    table = torch.nn.functional.one_hot(labels, count).float() * 5
    table[0] = table[0].roll(1)
    return Scores([f"k{i}" for i in range(len(labels))], table, labels, labels, tuple(f"class {i}" for i in range(count)), {})


def texts(axis: Any) -> str:
    return "\n".join([axis.get_title(loc="left"), *(text.get_text() for text in axis.texts)])


def test_loss_curves_show_every_stream() -> None:
    figure = loss_curves({"joint": records(20.0), "motion": records(10.0)})
    left, right = figure.axes
    assert [line.get_label() for line in left.get_lines() if not line.get_label().startswith("_")] == ["joint", "motion"]
    assert np.allclose(left.get_lines()[0].get_ydata(), [r["loss"] for r in records(20.0)[:100]])
    assert right.get_lines()[0].get_ydata()[-1] == 40.0 and "joint 40" in right.get_title(loc="left")
    assert len(loss_curves({"joint": records(20.0, evals=False)}).axes) == 1


def test_smoothing_keeps_length_level_and_ends() -> None:
    assert np.allclose(smooth(np.full(90, 3.0)), 3.0)
    assert smooth(np.arange(5.0)).tolist() == [0, 1, 2, 3, 4]
    assert np.allclose(smooth(np.arange(90.0))[30:60], np.arange(30.0, 60.0))


def test_bars_are_as_high_as_the_numbers() -> None:
    fusion = {"streams": ["joint", "bone"], "top1": 77.0, "intervals": {"top1": [70.0, 80.0]}}
    [axis] = accuracy_bars({"joint": report(), "bone": report(linear=66.6)}, fusion).axes
    heights = [round(bar.get_height(), 1) for bar in axis.patches]
    assert heights == [50.0, 54.0, 58.0, 66.6, 54.0, 58.0, 77.0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["joint", "bone", "J+B\nfused"]
    assert "66.6" in texts(axis) and "chance 5.0 %" in texts(axis) and "8 test subjects" in texts(axis)


def test_bars_carry_the_tags_that_make_numbers_incomparable() -> None:
    [axis] = accuracy_bars({"joint": report(transductive=True, supervision="text-from-label", interval_over="samples")}).axes
    assert all(words in texts(axis) for words in ("transductive", "supervision=text-from-label", "over test clips"))


def test_confusions_are_shares_of_the_true_class() -> None:
    axis, _ = confusion_matrix({"joint": scores()}).axes
    assert axis.images[0].get_array().tolist() == [[75.0, 25.0, 0.0], [0.0, 100.0, 0.0], [0.0, 0.0, 100.0]]
    assert "J: 91.7 % of 12 test clips right" in texts(axis) and "class 0 for class 1 (25 %)" in texts(axis)


def test_many_classes_are_numbered_not_named(tmp_path: Path) -> None:
    many = confusion_matrix({"joint": scores(60), "bone": scores(60)})
    assert not many.axes[0].texts and "J+B fused" in texts(many.axes[0])
    assert save(many, tmp_path / "many.png").stat().st_size > 10_000


def test_a_probed_run_gets_three_pictures(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", packed_moves(tmp_path / "packed"), ["joint", "bone"])
    for stream in ("joint", "bone"):
        runs_example.begin(run / stream, 1, "", 60)
        runs_example.training(run / stream, 1, 60)
    assert [path.name for path in Figures(run=run)()] == ["loss.png"]
    Probe(run=run)()
    Fuse(run=run)()
    paths = Figures(run=run)()
    assert [path.name for path in paths] == ["loss.png", "accuracy.png", "confusion.png"]
    assert all(path.parent == run / "figures" and path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run in"):
        Figures(run=tmp_path / "nothing")()


def test_pyplot_and_its_global_state_stay_out() -> None:
    confusion_matrix({"joint": scores()})
    assert "matplotlib.pyplot" not in sys.modules or not hasattr(figure_probe, "plt")
