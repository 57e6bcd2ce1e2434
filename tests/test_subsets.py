"""The labelled part of a training set: always the same one, nested, and refused where it could teach nothing."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.subsets import Draw, subset, unlabelled_classes
from shards.errors import InputError

KEYS = [f"S001C001P{person:03d}R001A{action:03d}" for action in range(1, 11) for person in range(1, 41)]
LABELS = [i // 40 for i in range(400)]
SET = "5a" * 32
PINNED = [
    "S001C001P001R001A005",
    "S001C001P004R001A008",
    "S001C001P016R001A009",
    "S001C001P017R001A007",
    "S001C001P018R001A007",
    "S001C001P020R001A001",
    "S001C001P022R001A003",
    "S001C001P030R001A003",
    "S001C001P031R001A002",
    "S001C001P038R001A005",
]


@pytest.mark.parametrize("draw", ["unbalanced", "balanced"])
def test_a_subset_is_a_function_of_its_arguments(draw: Draw) -> None:
    chosen = subset(KEYS, LABELS, SET, "xsub", 0.1, 0, draw)
    assert chosen == sorted(chosen) and len(set(chosen)) == 40
    mixed = sorted(range(400), key=lambda i: (i * 77) % 400)
    assert subset([KEYS[i] for i in mixed], [LABELS[i] for i in mixed], SET, "xsub", 0.1, 0, draw) == chosen
    others = [(SET, "xview", 0), ("6b" * 32, "xsub", 0), (SET, "xsub", 1)]
    assert all(subset(KEYS, LABELS, content, protocol, 0.1, seed, draw) != chosen for content, protocol, seed in others)


def test_the_draw_is_pinned() -> None:
    """Published numbers name a seed: the samples behind it must stay what they are."""
    assert subset(KEYS, LABELS, SET, "xsub", 0.025, 0) == PINNED


@given(small=st.floats(0.03, 1), large=st.floats(0.03, 1), seed=st.integers(0, 5), draw=st.sampled_from(["unbalanced", "balanced"]))
def test_smaller_parts_lie_inside_larger_ones(small: float, large: float, seed: int, draw: Draw) -> None:
    small, large = sorted((small, large))
    assert set(subset(KEYS, LABELS, SET, "xsub", small, seed, draw)) <= set(subset(KEYS, LABELS, SET, "xsub", large, seed, draw))


def test_the_published_rules() -> None:
    """NTU-60 x-sub: 400, 2004 and 4009 of 40 091 samples (CMD); a balanced draw takes the same share of every class (AimCLR)."""
    keys = [f"k{i:05d}" for i in range(40091)]
    labels = [i % 60 for i in range(40091)]
    assert [len(subset(keys, labels, SET, "xsub", share, 0)) for share in (0.01, 0.05, 0.1)] == [400, 2004, 4009]
    label_of = dict(zip(KEYS, LABELS))
    counts = Counter(label_of[key] for key in subset(KEYS, LABELS, SET, "xsub", 0.04, 3, "balanced"))
    assert set(counts.values()) == {round(0.04 * 40)} and len(counts) == 10
    assert len({*Counter(label_of[key] for key in subset(KEYS, LABELS, SET, "xsub", 0.1, 3)).values()}) > 1
    assert subset(KEYS, LABELS, SET, "xsub", 1.0, 0) == sorted(KEYS)


def test_what_could_teach_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"labels 4 of 400 training samples \(unbalanced\), fewer than their 10 classes; use 0\.025"):
        subset(KEYS, LABELS, SET, "xsub", 0.01, 0)
    with pytest.raises(InputError, match=r"labels 0 of 400 training samples \(balanced\)"):
        subset(KEYS, LABELS, SET, "xsub", 0.01, 0, "balanced")
    for share in (0.0, 1.5, -0.1):
        with pytest.raises(InputError, match="fraction"):
            subset(KEYS, LABELS, SET, "xsub", share, 0)


def test_classes_without_a_label_are_counted() -> None:
    assert unlabelled_classes(KEYS, LABELS, KEYS[:40]) == 9
    assert unlabelled_classes(KEYS, LABELS, KEYS) == 0
