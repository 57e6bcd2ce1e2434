"""Fusion by sample key: equal to a hand calculation, blind to the order of rows, and refusing what does not belong together."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import fusion_weights, replay, stages
from jobs.fuse import Fuse, fused
from jobs.run_folder import RunFolder, read_json, write_json
from jobs.scores import Scores, joined, read_scores, write_arrays, write_scores
from launch import fuse as command
from shards.errors import InputError

FACTS = {"content_id": "c" * 64, "protocol": "xsub", "encoder": "e", "seed": 0}
SUBSETS = ["J", "B", "M", "J+B", "J+M", "B+M", "J+B+M"]


def scores(seed: int, count: int = 8, **changes: Any) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 4, generator=generator)
    labels, subjects = torch.arange(count) % 4, torch.arange(count) % 3
    made = Scores([f"k{i:02d}" for i in range(count)], values, labels, subjects, ("a", "b", "c", "d"), dict(FACTS))
    return replace(made, **changes)


def taken(s: Scores, order: list[int]) -> Scores:
    return replace(s, keys=[s.keys[i] for i in order], scores=s.scores[order], labels=s.labels[order], subjects=s.subjects[order])


def run_of(path: Path, streams: dict[str, Scores], protocol: str = "xsub", seed: int = 0) -> Path:
    for name, found in streams.items():
        write_json(RunFolder(path / name).config, {"facts": {"protocol": protocol}, "job": {"protocol": protocol, "seed": seed}})
        write_scores(path / "probe" / protocol / f"{name}.scores.npz", found)
    return path


def by_hand() -> dict[str, Scores]:
    keys, labels = ["x", "y"], torch.tensor([0, 1])
    rows = {
        "joint": [[math.log(8), math.log(1), math.log(1)], [math.log(6), math.log(3), math.log(1)]],
        "bone": [[0.0, 0.0, 0.0], [math.log(1), math.log(8), math.log(1)]],
        "motion": [[math.log(1), math.log(2), math.log(2)], [math.log(2), math.log(1), math.log(2)]],
    }
    return {n: Scores(keys, torch.tensor(r), labels, torch.tensor([1, 2]), ("a", "b", "c"), dict(FACTS)) for n, r in rows.items()}


def three(**changes: Any) -> dict[str, Scores]:
    return {name: scores(i, **changes) for i, name in enumerate(("joint", "bone", "motion"))}


def test_three_streams_by_hand(tmp_path: Path) -> None:
    streams = by_hand()
    expected = 0.5 * torch.tensor(
        [[0.8 + 1 / 3 + 0.2, 0.1 + 1 / 3 + 0.4, 0.1 + 1 / 3 + 0.4], [0.6 + 0.1 + 0.4, 0.3 + 0.8 + 0.2, 0.1 + 0.1 + 0.4]]
    )
    torch.testing.assert_close(fused(list(streams.values())), expected)
    report = Fuse(run=run_of(tmp_path / "run", streams))()
    assert report == read_json(tmp_path / "run" / "fuse" / "xsub.json")
    assert [report[name] for name in ("streams", "top1", "top5", "n")] == [["joint", "bone", "motion"], 100.0, 100.0, 2]
    assert {name: row["top1"] for name, row in report["subsets"].items()} == {
        "J": 50.0, "B": 100.0, "M": 0.0, "J+B": 100.0, "J+M": 50.0, "B+M": 50.0, "J+B+M": 100.0
    }  # fmt: skip
    assert report["gain"]["value"] == 50.0 and (report["rule"], report["weights_from"]) == ("softmax", "paper")
    assert report["weights"]["J+B+M"] == [0.5, 0.5, 0.5] and report["weights"]["M"] == [0.5]
    assert not any("weights" in name for name in replay.numbers(report))  # a pair of weights is no interval to be tracked
    gains = {name: (row["gain"]["over"], row["gain"]["value"]) for name, row in report["subsets"].items() if "gain" in row}
    assert gains == {"J+B": ("B", 0.0), "J+M": ("J", 0.0), "B+M": ("B", -50.0), "J+B+M": ("B", 0.0)}


def test_given_weights_and_logits_by_hand(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", by_hand())
    weighted = Fuse(run=run, weights="0.1, 0.1, 2")()
    # row y: 0.1 (.6, .3, .1) + 0.1 (.1, .8, .1) + 2 (.4, .2, .4); row x: the motion stream decides
    assert (weighted["top1"], weighted["weights_from"], weighted["weights"]["B+M"]) == (0.0, "given", [0.1, 2.0])
    assert weighted["subsets"]["J+B+M"]["over_equal"]["value"] == -100.0 and "over_equal" not in weighted["subsets"]["J+B"]
    added = Fuse(run=run, rule="logits", streams=("joint", "bone"), weights="3,1")()
    # row y: 3 (log 6, log 3, 0) + (0, log 8, 0): log 216 and log 216, a tie, and the smaller class comes first
    assert added["subsets"]["J+B"]["top1"] == 50.0 and Fuse(run=run, rule="logits", streams=("joint", "bone"))()["top1"] == 100.0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("0.6,0.4", "0.6,0.4: 2 weights for 3 streams .joint, bone, motion."),
        ("best", "give paper, held-aside, or one number per stream"),
        ("0.6,0,0.4", "weights must be above 0; leave a stream out"),
        ("0.6,nan,0.4", "weights must be above 0"),
    ],
)
def test_weights_that_cannot_be_meant(tmp_path: Path, weights: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Fuse(run=run_of(tmp_path / "run", three()), weights=weights)()


def test_the_grid_holds_equal_shares_first() -> None:
    assert len(fusion_weights.grid(2)) == 13 and len(fusion_weights.grid(3)) == 91 and fusion_weights.grid(1) == [(0.5,)]
    assert fusion_weights.grid(2)[:3] == [(0.5, 0.5), (7 / 12, 5 / 12), (5 / 12, 7 / 12)]
    assert fusion_weights.grid(3)[0] == (0.5, 0.5, 0.5) and all(math.isclose(sum(row), 1.5) for row in fusion_weights.grid(3))


def sure(rows: list[list[float]], labels: list[int]) -> Scores:
    """Scores whose softmax is `rows`."""
    return scores(0, len(rows), scores=torch.tensor(rows).log(), labels=torch.tensor(labels), classes=("a", "b"))


def test_weights_from_held_aside_people_by_hand() -> None:
    # the first stream is right on both clips, the second is surely wrong on one: a (.6, .4) + b (.1, .9) is right for a > 4 b
    first, second = sure([[0.6, 0.4], [0.6, 0.4]], [0, 0]), sure([[0.1, 0.9], [0.9, 0.1]], [0, 0])
    assert fusion_weights.chosen([first, second], "softmax") == (10 / 12, 2 / 12)
    assert fusion_weights.chosen([first, first], "softmax") == (0.5, 0.5)
    assert fusion_weights.chosen([second, second, second], "logits") == (0.5, 0.5, 0.5)  # nothing helps: as equal as can be


def aside_of(run: Path, found: dict[str, Scores]) -> Path:
    for name, one in found.items():
        write_scores(run / "probe" / "xsub" / f"{name}.aside.npz", one)
    return run


def test_held_aside_weights_never_see_a_test_clip(tmp_path: Path) -> None:
    aside = {name: scores(10 + i, 30, keys=[f"a{k:02d}" for k in range(30)]) for i, name in enumerate(("joint", "bone", "motion"))}
    run = aside_of(run_of(tmp_path / "run", three()), aside)
    report = Fuse(run=run, weights="held-aside")()
    assert report["weights"]["J+M"] == list(fusion_weights.chosen([aside["joint"], aside["motion"]], "softmax"))
    assert report["weights_from"] == "held-aside" and report["weights"]["B"] == [0.5]
    assert report["chosen_on"] == "30 clips of 3 held-aside training subjects"
    other = run_of(run, three(labels=(torch.arange(8) + 1) % 4))
    assert Fuse(run=other, weights="held-aside")()["weights"] == report["weights"]


def test_held_aside_files_that_do_not_fit(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"joint": scores(0), "bone": scores(1)})
    job = Fuse(run=run, weights="held-aside")
    with pytest.raises(InputError, match=r"joint.aside.npz does not exist: nobody was held aside"):
        job()
    aside_of(run, {"joint": scores(2), "bone": scores(3, 7)})
    with pytest.raises(InputError, match="held-aside clips of streams joint and bone have other samples"):
        job()
    aside_of(run, {"bone": scores(3, facts={**FACTS, "encoder": "older"})})
    with pytest.raises(InputError, match=r"bone.aside.npz are scores of another encoder"):
        job()


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
    for subjects, over in ((torch.arange(8) % 3, "subjects"), (torch.zeros(8, dtype=torch.int64), "clips")):
        streams = {name: scores(i, subjects=subjects) for i, name in enumerate(("joint", "motion"))}
        report = Fuse(run=run_of(tmp_path / over, streams))()
        assert report["interval_over"] == over
        for row in report["subsets"].values():
            low, high = row["intervals"]["top1"]
            assert low <= row["top1"] <= high and (high > low or row["top1"] in (0, 100))


def test_some_streams_can_be_chosen(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", three())
    assert list(Fuse(run=run)()["subsets"]) == SUBSETS
    some = Fuse(run=run, streams=("motion", "joint"))()
    assert some["streams"] == ["joint", "motion"] and list(some["subsets"]) == ["J", "M", "J+M"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (taken(scores(2), [0, 1, 2, 3, 4, 5, 6]), "8 and 7 keys, 1 in one only, for example k07"),
        (scores(2, keys=[f"k{i:02d}" for i in range(1, 9)]), "8 and 8 keys, 2 in one only, for example k00"),
        (scores(2, labels=(torch.arange(8) + 1) % 4), "other labels, for example for k00"),
        (scores(2, facts={**FACTS, "content_id": "d" * 64}), "differ in content_id"),
        (scores(2, facts={**FACTS, "protocol": "xview"}), "differ in protocol: xsub and xview"),
        (scores(2, facts={**FACTS, "seed": 1}), "differ in seed: 0 and 1"),
        (scores(2, facts={**FACTS, "schedule": "paper"}), "differ in schedule: None and paper"),
        (scores(2, classes=("a", "b", "c", "e")), "other classes"),
        (taken(scores(2), [0, 1, 2, 3, 4, 5, 6, 7, 0]), "a key is there twice, for example k00"),
    ],
)
def test_streams_that_do_not_belong_together_are_refused(tmp_path: Path, other: Scores, message: str) -> None:
    run = run_of(tmp_path / "run", {"joint": scores(1), "bone": other})
    with pytest.raises(InputError, match=message):
        Fuse(run=run)()
    assert not (run / "fuse").exists()


def test_streams_of_other_pretraining_seeds_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"joint": scores(1)})
    run_of(run, {"bone": scores(2)}, seed=1)
    with pytest.raises(InputError, match="joint and bone were pretrained with another seed: 0 and 1; fuse streams of one training"):
        Fuse(run=run)()
    assert Fuse(run=run, streams=("bone",))()["streams"] == ["bone"]


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
        (Fuse(run=run, schedule="paper"), "has not been probed as PROTOCOL-paper, only as xsub; do it first"),
        (Fuse(run=run, transfer=Path("packed/ntu60")), "has not been probed as transfer-ntu60-PROTOCOL, only as xsub"),
        (Fuse(run=run, streams=("joint", "bone")), "bone.scores.npz does not exist; probe that stream first"),
        (Fuse(run=run, streams=("joint", "skin")), "unknown stream 'skin'"),
        (Fuse(run=run, finetune="all"), "holds no scores; fine-tune first"),
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


def test_every_setting_is_fused_into_its_own_file(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"joint": scores(1)})
    for name, job in (
        ("xsub-paper", Fuse(run=run, schedule="paper")),
        ("transfer-small-xview", Fuse(run=run, transfer=Path("packed/small"))),
    ):
        write_scores(run / "probe" / name / "joint.scores.npz", scores(1, facts={**FACTS, "protocol": name}))
        assert job()["protocol"] == name and (run / "fuse" / f"{name}.json").is_file()


def test_fine_tuned_streams_are_fused_too(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", three())
    facts = {**FACTS, "fraction": 0.1, "draw": "balanced", "transductive": True}
    for i, name in enumerate(("joint", "bone")):
        write_scores(run / "finetune" / "tenth" / name / "scores.npz", scores(i, facts=facts))
    job = Fuse(run=run, finetune="tenth")
    report = job()
    assert report["streams"] == ["joint", "bone"] and report["transductive"] and (run / "fuse" / "finetune-tenth.json").is_file()
    with pytest.raises(InputError, match=r"motion/scores.npz does not exist; fine-tune that stream first"):
        replace(job, streams=("bone", "motion"))()
    with pytest.raises(InputError, match="nobody was held aside there"):
        replace(job, weights="held-aside")()
    write_scores(run / "finetune" / "tenth" / "bone" / "scores.npz", scores(1, facts={**facts, "fraction": 0.05}))
    with pytest.raises(InputError, match=r"differ in fraction: 0.1 and 0.05"):
        job()


def test_a_fusion_is_finished_when_it_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", three())
    job = Fuse(run=run)
    job()
    for name in ("joint", "bone", "motion"):
        write_json(run / "probe" / "xsub" / f"{name}.json", {"encoder_sha256": "e", "transductive": False})
    done = lambda job: stages.finished("fuse", stages.write_job(job, tmp_path / "job.json"), "")
    assert done(job) and done(replace(job, streams=("joint",)))
    assert not any(done(replace(job, **other)) for other in ({"rule": "logits"}, {"weights": "1,1,2"}, {"schedule": "paper"}))
    write_json(run / "probe" / "xsub" / "bone.json", {"encoder_sha256": "newer"})
    assert not done(job) and done(replace(job, streams=("joint",)))


def test_two_fusions_class_by_class(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", three(count=40))
    told = Fuse(run=run, compare=("m+j", "J+B"))()["comparison"]
    assert (told["first"], told["second"]) == ("J+M", "J+B") and [row["name"] for row in told["rows"]] == ["a", "b", "c", "d"]
    subsets = read_json(run / "fuse" / "xsub.json")["subsets"]
    assert math.isclose(told["whole"]["difference"], subsets["J+M"]["top1"] - subsets["J+B"]["top1"])
    assert math.isclose(sum(row["clips"] * row["first"] for row in told["rows"]) / 40, subsets["J+M"]["top1"])
    kept = read_json(run / "fuse" / "classes" / "xsub.J+M-J+B.json")
    assert kept["rows"] == [{**row, "interval": list(row["interval"])} for row in told["rows"]] and kept["protocol"] == "xsub"


def test_two_runs_class_by_class(tmp_path: Path) -> None:
    run = run_of(tmp_path / "film", {"joint": scores(1, 40), "bone": scores(2, 40)})
    run_of(tmp_path / "none", {"joint": taken(scores(3, 40), [*range(39, -1, -1)]), "bone": scores(4, 40)}, seed=1)
    told = Fuse(run=run, against=tmp_path / "none")()["comparison"]
    assert (told["first"], told["second"]) == ("film", "none")
    other = Fuse(run=tmp_path / "none")()
    assert math.isclose(told["whole"]["second"], other["top1"])
    alone = Fuse(run=run, against=Path("none"), runs=tmp_path, compare=("B",))()["comparison"]
    assert math.isclose(alone["whole"]["second"], other["subsets"]["B"]["top1"])
    assert sorted(path.name for path in (run / "fuse" / "classes").iterdir()) == ["xsub.film-none.json"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"compare": ("J+M",)}, "name two fusions, for example J[+]M,J[+]B"),
        ({"compare": ("J", "J")}, "name two fusions"),
        ({"compare": ("J", "X")}, "no fusion 'X' of the probed streams; there are J, B, M, J[+]B"),
        ({"compare": ("J", "B"), "against": Path("other")}, "compares one fusion of both runs; leave B out"),
        ({"against": Path("run")}, "is the run itself"),
        ({"against": Path("missing")}, "no run in"),
        ({"against": Path("other")}, "runs run and other have other samples"),
        ({"against": Path("apart")}, "runs run and apart differ in content_id"),
    ],
)
def test_comparisons_that_cannot_be_meant(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    run = run_of(tmp_path / "run", three())
    run_of(tmp_path / "other", three(count=9))
    run_of(tmp_path / "apart", three(facts={**FACTS, "content_id": "d" * 64}))
    with pytest.raises(InputError, match=message):
        Fuse(run=run, runs=tmp_path, **flags)()


def test_the_command_prints_table_3_and_where_a_fusion_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", three(count=40))
    assert command.main(["--run", str(run), "--cluster", "local", "--compare", "J+B,M", "--weights", "1,1,2"]) == 0
    shown = capsys.readouterr().out
    report = read_json(run / "fuse" / "xsub.json")
    for subset, row in report["subsets"].items():
        assert any(line.split()[:2] == [subset, f"{row['top1']:.1f}"] for line in shown.splitlines())
    assert "1 1 2" in shown and "over 0.5 each" in shown and "J+B against M, class by class" in shown
    assert f"of {report['n']} test clips" in shown.splitlines()[-1]


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
