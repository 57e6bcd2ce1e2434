"""Class by class: accuracies, intervals and confusions equal to hand calculations, and figures that show them at 3, 60 and 120 classes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from jobs.class_comparison import compare, pairs
from jobs.figure_classes import class_bars, confusable_pairs, confusion_pair
from jobs.figure_style import save
from jobs.scores import Scores
from shards.class_names import named


def answers(predicted: list[int], labels: list[int], classes: tuple[str, ...], subjects: list[int] | None = None) -> Scores:
    """A result that says `predicted`."""
    said, true = torch.tensor(predicted), torch.tensor(labels)
    people = torch.tensor(subjects) if subjects else torch.arange(len(labels)) % 4
    table = torch.nn.functional.one_hot(said, len(classes)).float()
    return Scores([f"k{i:05d}" for i in range(len(labels))], table, true, people, classes, {})


LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
FIRST = answers([0, 0, 0, 1, 1, 1, 0, 0, 2, 2], LABELS, ("walk", "run", "sit"))
SECOND = answers([0, 1, 1, 1, 1, 1, 1, 0, 2, 2], LABELS, ("walk", "run", "sit"))


def many(count: int) -> tuple[Scores, Scores]:
    """Two results on a set of NTU RGB+D's classes; the second takes more of each class for the next one."""
    labels = [label for label in range(count) for _ in range(10)]
    wrong = lambda often: [(label + 1) % count if i % 10 < (label + often) % 5 else label for i, label in enumerate(labels)]
    names = tuple(f"A{i + 1:03d}" for i in range(count))
    return answers(wrong(1), labels, names), answers(wrong(2), labels, names)


def words(figure: Figure) -> str:
    """Every text of a figure that has been drawn."""
    return "\n".join(text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text")))


def test_classes_by_hand() -> None:
    found = compare(FIRST, SECOND, ("J+M", "J+B"))
    assert [(row.name, row.clips, row.first, row.second, row.difference) for row in found.rows] == [
        ("walk", 4, 75.0, 25.0, 50.0),
        ("run", 4, 50.0, 75.0, -25.0),
        ("sit", 2, 100.0, 100.0, 0.0),
    ]
    assert (found.whole.first, found.whole.second, found.whole.clips) == (70.0, 60.0, 10)
    assert [row.name for row in found.ranked()] == ["walk", "sit", "run"]
    assert all(row.interval[0] <= row.difference <= row.interval[1] for row in (*found.rows, found.whole))
    assert not found.rows[2].beyond and found.rows[2].interval == (0.0, 0.0)


def test_an_interval_is_paired_and_over_subjects() -> None:
    """Every subject loses the same share: the difference has no width, though each result's own accuracy would."""
    subjects = [0, 0, 0, 0, 1, 1, 1, 1]
    labels = [0, 1] * 4
    one = answers(labels, labels, ("a", "b"), subjects)
    other = answers([0, 1, 0, 0] * 2, labels, ("a", "b"), subjects)
    [_, b] = compare(one, other, ("one", "other")).rows
    assert b.interval == (50.0, 50.0) and b.beyond and b.over == "subjects"
    alone = compare(replace(one, subjects=torch.zeros(8)), replace(other, subjects=torch.zeros(8)), ("one", "other")).rows[1]
    assert alone.over == "clips" and alone.interval[0] < 50 < alone.interval[1]


def test_sentences_say_how_many_classes_chance_would_give() -> None:
    first, second = many(60)
    whole, classes = compare(first, second, ("with", "without")).sentences()
    assert whole.startswith("with 80.0, without 80.0: difference +0.0, within the interval") and classes.endswith(
        "of 60 beyond the class's own interval; by chance alone there would be about 3"
    )


def test_other_clips_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="not results on the same clips in one order"):
        compare(FIRST, replace(SECOND, keys=SECOND.keys[::-1]), ("one", "other"))


def test_a_class_without_test_clips_is_left_out() -> None:
    one = answers([0, 0, 2], [0, 0, 2], ("a", "b", "c"))
    assert [row.name for row in compare(one, one, ("x", "y")).rows] == ["a", "c"]


def test_confused_pairs_by_hand() -> None:
    [pair] = pairs(FIRST)
    assert (pair.first, pair.second, pair.there, pair.back, pair.clips, pair.share) == ("walk", "run", 1, 2, 8, 37.5)
    assert pairs(answers(LABELS, LABELS, ("walk", "run", "sit"))) == []


def test_bars_are_as_long_as_the_numbers() -> None:
    figure = class_bars(compare(FIRST, SECOND, ("J+M", "J+B")))
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [50.0, 100.0, 75.0, 75.0, 100.0, 25.0]  # from the bottom: run, sit, walk
    assert [bar.get_width() for bar in right.patches] == [-25.0, 0.0, 50.0]
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["run (4)", "sit (2)", "walk (4)"]
    assert "J+M 70.0, J+B 60.0: difference +10.0" in words(figure)


def test_matrices_side_by_side_frame_what_changed() -> None:
    figure = confusion_pair(FIRST, SECOND, ("without modulation", "with modulation"))
    left, right = figure.axes[:2]
    assert left.images[0].get_array().tolist() == [[75.0, 25.0, 0.0], [50.0, 50.0, 0.0], [0.0, 0.0, 100.0]]
    assert right.images[0].get_array().tolist() == [[25.0, 75.0, 0.0], [25.0, 75.0, 0.0], [0.0, 0.0, 100.0]]
    assert "1  walk taken for run: 25 → 75 %" in words(figure) and "2  run taken for walk: 50 → 25 %" in words(figure)
    assert "without modulation: 70.0 % of 10" in words(figure) and len(left.patches) == len(right.patches) == 2
    assert "The two do not differ." in words(confusion_pair(FIRST, FIRST, ("one", "other")))
    with pytest.raises(ValueError, match="have other classes"):
        confusion_pair(FIRST, many(60)[0], ("one", "other"))


def test_confusable_pairs_show_the_other_result_beside() -> None:
    figure = confusable_pairs(FIRST, "with modulation", SECOND, "without modulation")
    [axis] = figure.axes
    assert [bar.get_width() for bar in axis.patches] == [12.5, 25.0] and axis.get_lines()[0].get_xdata() == [50.0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["walk ↔ run"]
    assert "with modulation: 1 pair holds 100 % of its 3 mistakes" in words(figure)
    perfect = answers(LABELS, LABELS, ("walk", "run", "sit"))
    assert "no mistake" in words(confusable_pairs(perfect, "joint"))


def test_all_names_of_60_classes_are_there(tmp_path: Path) -> None:
    first, second = many(60)
    figure = class_bars(compare(first, second, ("J+M", "J+B")))
    assert len(figure.axes[0].get_yticklabels()) == 60 and "hand waving (10)" in words(figure)
    assert save(figure, tmp_path / "bars.png").stat().st_size > 20_000


def test_all_names_of_120_classes_are_there() -> None:
    first, second = many(120)
    left = confusion_pair(first, second, ("without", "with")).axes[0]
    assert [tick.get_text() for tick in left.get_yticklabels()][119].startswith("finger-guessing game") and len(left.patches) == 6


def test_numbered_classes_get_their_names() -> None:
    assert named(["A001", "A060", "A120"]) == (
        "drink water",
        "walking apart from each other",
        "finger-guessing game (playing rock-paper-scissors)",
    )
    assert named([f"C{i:02d}" for i in (1, 12, 51)]) == ("bow", "giving something to other person", "writing")
    assert named(["A001", "walk"]) == ("A001", "walk") and named(["A000"]) == ("A000",) and named([]) == ()
    # PKU-MMD's part II lacks these: the actions of two people, and those about pockets
    two = named([f"C{i:02d}" for i in (12, 14, 16, 18, 21, 24, 26, 27)])
    assert all("other person" in name or name == "handshaking" for name in two)
    assert all("pocket" in name for name in named(["C29", "C38"]))
