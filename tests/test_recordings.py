"""Protocol evidence by names: the recordings of the public benchmarks, divided by our split functions, have the published counts."""

import pytest

from shards import facts
from shards.errors import InputError
from shards.ntu import sample_of
from shards.protocols import parts
from shards.recordings import NTU_PERFORMERS, recordings

# NTU: "skeleton-based action recognition" papers agree on these; PKU-MMD II by names (papers say 7 fewer, see below)
PUBLISHED = {
    ("ntu60", "xsub"): (40_091, 16_487),
    ("ntu60", "xview"): (37_646, 18_932),
    ("ntu120", "xsub"): (63_026, 50_919),
    ("ntu120", "xset"): (54_468, 59_477),
    ("pku2", "xsub"): (5_339, 1_613),
    ("pku2", "xview"): (4_622, 2_330),
}


@pytest.mark.parametrize("benchmark, protocol", PUBLISHED)
def test_the_published_counts_follow_from_the_names(benchmark: str, protocol: str) -> None:
    lacking = facts.missing(benchmark)
    train, test = parts([sample for sample in recordings(benchmark) if sample.key not in lacking], protocol, benchmark)
    assert (len(train), len(test)) == PUBLISHED[benchmark, protocol] == facts.COUNTS[benchmark][protocol]
    assert not set(train) & set(test)


@pytest.mark.parametrize("benchmark, raw, subjects", [("ntu60", 56_880, 40), ("ntu120", 114_480, 106), ("pku2", 6_952, 13)])
def test_the_raw_sets_are_whole(benchmark: str, raw: int, subjects: int) -> None:
    found = recordings(benchmark)
    keys = {sample.key for sample in found}
    assert len(found) == len(keys) == raw == facts.SAMPLES[benchmark][0]
    assert facts.missing(benchmark) <= keys, "a name of the missing list is a name of the set"
    assert {sample.subject for sample in found} == set(range(1, subjects + 1))
    assert {sample.camera for sample in found} == {1, 2, 3}


def test_ntu_names_say_what_the_reader_reads_from_them() -> None:
    for sample in recordings("ntu120")[::997]:
        assert sample_of(sample.key, "x") == sample
    assert sum(len(performers.split()) for performers in NTU_PERFORMERS.values()) == 318
    assert {sample.key for sample in recordings("ntu60")} < {sample.key for sample in recordings("ntu120")}


def test_pku_has_1009_videos_and_its_test_subjects() -> None:
    found = recordings("pku2")
    videos = {sample.key.partition("_")[0]: sample.subject for sample in found}
    assert len(videos) == 1_009
    assert sum(subject in (2, 3, 7) for subject in videos.values()) == 234 and sum(stem.endswith("-L") for stem in videos) == 338


def test_the_seven_that_papers_leave_out_are_not_reproduced() -> None:
    """5 335 / 1 610 are counts after dropping clips without any body; which these are, only the data can say."""
    assert facts.compare("pku2", "xsub", 5_335, 1_610).endswith("differs by -4 / -3")


def test_another_benchmark_is_refused() -> None:
    with pytest.raises(InputError, match="'ucla' are not known by name"):
        recordings("ucla")
