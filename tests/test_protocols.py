"""Protocols: who trains, who tests, that nobody does both, and who is held aside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import facts
from shards.errors import InputError
from shards.ntu import sample_of
from shards.protocols import PROTOCOLS, held_aside, parts, served
from shards.samples import Sample


def recordings(subjects: range, setups: range = range(1, 18)) -> list[Sample]:
    """One recording per subject, camera and replication; set-ups go round."""
    names = [f"S{setups[p % len(setups)]:03d}C{c:03d}P{p:03d}R{r:03d}A001" for p in subjects for c in (1, 2, 3) for r in (1, 2)]
    return [sample_of(name, "x") for name in names]


def subjects_of(keys: list[str]) -> set[int]:
    return {int(key[9:12]) for key in keys}


def test_the_lists_have_the_published_sizes() -> None:
    assert [len(facts.TRAIN_SUBJECTS[b]) for b in ("ntu60", "ntu120", "pku2")] == [20, 53, 10]
    assert facts.TRAIN_SUBJECTS["ntu60"] < facts.TRAIN_SUBJECTS["ntu120"] and max(facts.TRAIN_SUBJECTS["ntu120"]) <= 106
    small, large = facts.missing("ntu60"), facts.missing("ntu120")
    assert (len(small), len(large)) == (302, 535) and small < large and not facts.missing("pku2")
    samples = [sample_of(name, "missing list") for name in large]
    assert {s.key for s in samples if s.setup <= 17} == small
    train, test = parts([s for s in samples if s.setup <= 17], "xsub", "ntu60")
    assert (len(train), len(test)) == (229, 73)


def test_the_counts_add_up() -> None:
    for benchmark, protocols in facts.COUNTS.items():
        raw, kept = facts.SAMPLES[benchmark]
        assert raw - len(facts.missing(benchmark)) == kept
        assert all(train + test == kept for train, test in protocols.values())


def test_packed_counts_are_compared_with_the_published_ones() -> None:
    assert facts.compare("ntu60", "xsub", 40091, 16487) == "ntu60 xsub: expected 40091 / 16487, packed 40091 / 16487: as published"
    assert facts.compare("pku2", "xsub", 5335, 1610).endswith("differs by -4 / -3")
    assert facts.compare("exchange", "split", 1, 1) == ""


def test_ntu_protocols_divide_by_subject_camera_and_setup() -> None:
    sixty = recordings(range(1, 41))
    train, test = parts(sixty, "xsub", "ntu60")
    assert subjects_of(train) == {1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38} and len(test) == 120
    train, test = parts(sixty, "xview", "ntu60")
    assert {key[4:8] for key in train} == {"C002", "C003"} and {key[4:8] for key in test} == {"C001"}
    more = recordings(range(1, 107), range(1, 33))
    assert len(subjects_of(parts(more, "xsub", "ntu120")[0])) == len(subjects_of(parts(more, "xsub", "ntu120")[1])) == 53
    train, test = parts(more, "xset", "ntu120")
    assert {int(key[1:4]) % 2 for key in train} == {0} and {int(key[1:4]) % 2 for key in test} == {1}


def test_a_set_serves_only_what_its_metadata_can_say() -> None:
    assert served(recordings(range(1, 41)), "ntu60") == ["xsub", "xview"]
    assert served(recordings(range(1, 41), range(1, 33)), "ntu120") == ["xsub", "xset"]
    assert served(recordings(range(1, 5)), "synthetic") == ["xsub", "xview", "xset"]
    assert served(recordings(range(1, 5)), "exchange") == []
    rows = [Sample("a", 0, 1, 1, split="train"), Sample("b", 0, 2, 2, split="test")]
    assert served(rows, "exchange") == ["split"]
    with pytest.raises(InputError, match=r"'xsub'.*exchange set.*can serve split"):
        parts(rows, "xsub", "exchange")
    with pytest.raises(InputError, match=r"'loso'.*xsub, xview"):
        parts(recordings(range(1, 41)), "loso", "ntu60")
    with pytest.raises(InputError, match="none"):
        parts([*rows, Sample("c", 0)], "split", "exchange")
    with pytest.raises(InputError, match="'xset'"):
        parts(recordings(range(1, 41)), "xset", "ntu60")


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(InputError, match=r"'xsub'.*xview"):
        parts(recordings(range(1, 3)), "xsub", "ntu60")


def test_lists_that_a_source_ships_go_before_the_rule() -> None:
    rows = [Sample("a", 0, 1, split="xsub:test xview:train"), Sample("b", 0, 1, split="xsub:train"), Sample("c", 0, 1, split="xview:test")]
    assert parts(rows, "xsub", "pku2") == (["b"], ["a"])
    assert parts(rows, "xview", "pku2") == (["a"], ["c"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["ntu60", "ntu120", "pku2", "synthetic", "exchange"]), st.sampled_from(PROTOCOLS))
def test_no_key_ever_trains_and_tests(seed: int, benchmark: str, protocol: str) -> None:
    rng = np.random.default_rng(seed)
    samples = [
        Sample(f"k{i:03d}", 0, *map(int, rng.integers((1, 1, 1), (107, 4, 33))), split=str(rng.choice(["train", "test"])))
        for i in range(40)
    ]
    if protocol not in served(samples, benchmark):
        return
    train, test = parts(samples, protocol, benchmark)
    assert not set(train) & set(test) and set(train) | set(test) == {s.key for s in samples}
    assert train == sorted(train) and test == sorted(test)
    shuffled = [samples[i] for i in rng.permutation(40)]
    assert parts(shuffled, protocol, benchmark) == (train, test), "the order of samples does not matter"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 60), st.sampled_from([0.05, 0.1, 0.3, 1.0]))
def test_whole_subjects_are_held_aside_one_at_least_and_never_all(seed: int, count: int, share: float) -> None:
    train = recordings(range(1, count + 1))
    aside = held_aside(train, seed, share)
    chosen = subjects_of(aside)
    assert len(chosen) == min(max(1, round(share * count)), count - 1)
    assert aside == sorted(s.key for s in train if s.subject in chosen)
    assert aside == held_aside(train[::-1], seed, share)


def test_the_seed_chooses_who_is_held_aside() -> None:
    train = recordings(range(1, 41))
    assert len({tuple(held_aside(train, seed)) for seed in range(10)}) > 3


def test_without_subjects_samples_are_held_aside() -> None:
    rows = [Sample(f"k{i:02d}", 0) for i in range(30)]
    assert len(held_aside(rows, 0)) == 3
    with pytest.raises(InputError, match="1 training samples"):
        held_aside(rows[:1], 0)
