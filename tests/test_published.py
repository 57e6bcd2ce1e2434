"""Published numbers: as many as columns, and what the paper's sentences say of them follows."""

import pytest

from jobs import published
from jobs.published import BENCHMARKS, LINEAR, PEERS, SEMI


def test_every_row_has_a_number_or_a_dash_per_column() -> None:
    columns = [*LINEAR.values(), *(peer.joint for peer in PEERS), *(peer.three for peer in PEERS)]
    assert {len(column) for column in columns} == {len(BENCHMARKS)} and {len(c) for peer in SEMI for c in (peer.xsub, peer.xview)} == {3}
    found = [value for column in columns for value in column if value is not None]
    assert all(20 < value < 95 for value in found)
    assert len({peer.name for peer in PEERS}) == len(PEERS) and len({peer.name for peer in SEMI}) == len(SEMI)


def test_the_gains_that_the_paper_names_follow() -> None:
    """Over the reproduced SCD-Net: 2.6 / 0.9 / 0.5 / 0.7 / 5.0."""
    reproduced = next(peer for peer in PEERS if "reproduced" in peer.name)
    gains = [ours - theirs for ours, theirs in zip(LINEAR["J"], reproduced.joint) if ours is not None and theirs is not None]
    assert gains == pytest.approx([2.6, 0.9, 0.5, 0.7, 5.0])


def test_numbers_are_looked_up_by_set_protocol_and_streams() -> None:
    assert published.linear("AC-SAR", "ntu60", "xsub") == 87.3 and published.linear("AC-SAR", "pku2", "xsub", "J+B+M") == 60.0
    assert published.linear("SCD-Net", "ntu60", "xsub", "J+B+M") == 87.3 and published.linear("SCD-Net", "ntu60", "xview", "J+B+M") is None
    assert published.linear("SCD-Net", "ntu60", "xsub", "B") is None and published.linear("AC-SAR", "exchange", "split") is None
    assert published.linear("AC-SAR", "pku2", "xview") is None  # a protocol that the paper does not report
    assert published.semi("AC-SAR", "ntu60", "xview", 0.05) == 82.1 and published.semi("SCD-Net", "ntu60", "xsub", 0.05) is None
    assert published.semi("AC-SAR", "ntu120", "xsub", 0.05) is None and published.semi("AC-SAR", "ntu60", "xsub", 0.2) is None
