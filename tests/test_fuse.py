"""Fusion by sample key: equal to a hand calculation, blind to the order of rows, and refusing what does not belong together."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.fuse import Fuse, fused
from jobs.run_folder import RunFolder, read_json, write_json
from jobs.scores import Scores, joined, read_scores, write_arrays, write_scores
from shards.errors import InputError

FACTS = {"content_id": "c" * 64, "protocol": "xsub", "encoder": "e", "seed": 0}


def scores(seed: int, count: int = 8, **changes: Any) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 4, generator=generator)
    labels, subjects = torch.arange(count) % 4, torch.arange(count) % 3
    made = Scores([f"k{i:02d}" for i in range(count)], values, labels, subjects, ("a", "b", "c", "d"), dict(FACTS))
    return replace(made, **changes)


def taken(s: Scores, order: list[int]) -> Scores:
    return replace(s, keys=[s.keys[i] for i in order], scores=s.scores[order], labels=s.labels[order], subjects=s.subjects[order])


def run_of(path: Path, streams: dict[str, Scores], protocol: str = "xsub") -> Path:
    for name, found in streams.items():
        write_json(RunFolder(path / name).config, {"facts": {"protocol": protocol}, "job": {}})
        write_scores(path / "probe" / protocol / f"{name}.scores.npz", found)
    return path


def test_three_streams_by_hand(tmp_path: Path) -> None:
    keys, labels = ["x", "y"], torch.tensor([0, 1])
    rows = {
        "joint": [[math.log(8), math.log(1), math.log(1)], [math.log(6), math.log(3), math.log(1)]],
        "bone": [[0.0, 0.0, 0.0], [math.log(1), math.log(8), math.log(1)]],
        "motion": [[math.log(1), math.log(2), math.log(2)], [math.log(2), math.log(1), math.log(2)]],
    }
    streams = {n: Scores(keys, torch.tensor(r), labels, torch.tensor([1, 2]), ("a", "b", "c"), dict(FACTS)) for n, r in rows.items()}
    expected = 0.5 * torch.tensor(
        [[0.8 + 1 / 3 + 0.2, 0.1 + 1 / 3 + 0.4, 0.1 + 1 / 3 + 0.4], [0.6 + 0.1 + 0.4, 0.3 + 0.8 + 0.2, 0.1 + 0.1 + 0.4]]
    )
    torch.testing.assert_close(fused(list(streams.values())), expected)
    result = Fuse(run=run_of(tmp_path / "run", streams))()
    assert result == {"streams": ["joint", "bone", "motion"], "top1": 100.0, "top5": 100.0, "n": 2}
    report = read_json(tmp_path / "run" / "fuse" / "xsub.json")
    assert {name: row["top1"] for name, row in report["subsets"].items()} == {
        "J": 50.0, "B": 100.0, "M": 0.0, "J+B": 100.0, "J+M": 50.0, "B+M": 50.0, "J+B+M": 100.0
    }  # fmt: skip
    assert report["gain"]["value"] == 50.0 and report["rule"] == "softmax x 0.5, added"


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(8)), st.permutations(range(8)))
def test_joining_ignores_the_order_of_rows(first: list[int], second: list[int]) -> None:
    plain = {"joint": scores(1), "bone": scores(2)}
    mixed = joined({"joint": taken(plain["joint"], first), "bone": taken(plain["bone"], second)})
    expected = joined(plain)
    for name, found in mixed.items():
        assert found.keys == expected[name].keys and torch.equal(found.labels, expected[name].labels)
    assert torch.equal(fused(list(mixed.values())), fused(list(expected.values())))


def test_intervals_hold_the_value_and_one_subject_falls_back_to_samples(tmp_path: Path) -> None:
    for subjects in (torch.arange(8) % 3, torch.zeros(8, dtype=torch.int64)):
        streams = {name: scores(i, subjects=subjects) for i, name in enumerate(("joint", "motion"))}
        Fuse(run=run_of(tmp_path / f"run{int(subjects.max())}", streams))()
        report = read_json(tmp_path / f"run{int(subjects.max())}" / "fuse" / "xsub.json")
        for row in report["subsets"].values():
            low, high = row["intervals"]["top1"]
            assert low <= row["top1"] <= high and (high > low or row["top1"] in (0, 100))


def test_some_streams_can_be_chosen(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {name: scores(i) for i, name in enumerate(("joint", "bone", "motion"))})
    assert Fuse(run=run, streams=("motion", "joint"))()["streams"] == ["joint", "motion"]
    assert list(read_json(run / "fuse" / "xsub.json")["subsets"]) == ["J", "J+M", "M"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (taken(scores(2), [0, 1, 2, 3, 4, 5, 6]), "8 and 7 keys, 1 in one only, for example k07"),
        (scores(2, keys=[f"k{i:02d}" for i in range(1, 9)]), "8 and 8 keys, 2 in one only, for example k00"),
        (scores(2, labels=(torch.arange(8) + 1) % 4), "other labels, for example for k00"),
        (scores(2, facts={**FACTS, "content_id": "d" * 64}), "differ in content_id"),
        (scores(2, facts={**FACTS, "protocol": "xview"}), "differ in protocol: xsub and xview"),
        (scores(2, classes=("a", "b", "c", "e")), "other classes"),
        (taken(scores(2), [0, 1, 2, 3, 4, 5, 6, 7, 0]), "a key is there twice, for example k00"),
    ],
)
def test_streams_that_do_not_belong_together_are_refused(tmp_path: Path, other: Scores, message: str) -> None:
    run = run_of(tmp_path / "run", {"joint": scores(1), "bone": other})
    with pytest.raises(InputError, match=message):
        Fuse(run=run)()
    assert not (run / "fuse").exists()


def test_scores_of_an_older_encoder_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"joint": scores(1)})
    RunFolder(run / "joint").encoder.write_bytes(b"trained further")
    with pytest.raises(InputError, match="scores of an older encoder"):
        Fuse(run=run)()


def test_what_was_not_probed_cannot_be_fused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"joint": scores(1)})
    for job, message in (
        (Fuse(run=tmp_path / "none"), "no run in"),
        (Fuse(run=run, protocol="xview"), "holds no scores; probe first"),
        (Fuse(run=run, streams=("joint", "bone")), "bone.scores.npz does not exist; probe that stream first"),
        (Fuse(run=run, streams=("joint", "skin")), "unknown stream 'skin'"),
    ):
        with pytest.raises(InputError, match=message):
            job()


def test_the_runs_own_protocol_is_taken_of_several(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"joint": scores(1)})
    write_scores(run / "probe" / "xview" / "joint.scores.npz", scores(1, facts={**FACTS, "protocol": "xview"}))
    assert Fuse(run=run)()["n"] == 8 and (run / "fuse" / "xsub.json").is_file()
    write_json(RunFolder(run / "joint").config, {"facts": {"protocol": "xset"}, "job": {}})
    with pytest.raises(InputError, match="name one with --protocol: xsub, xview"):
        Fuse(run=run)()


def test_damaged_scores_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "joint.scores.npz"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="is damaged"):
        read_scores(path)
    write_arrays(path, {"classes": ["a"]}, keys=torch.zeros(1).numpy())
    with pytest.raises(InputError, match="no finite scores"):
        read_scores(path)
    write_scores(path, scores(1, scores=torch.full((8, 4), math.nan)))
    with pytest.raises(InputError, match="no finite scores"):
        read_scores(path)
