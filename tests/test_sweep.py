"""An ablation as runs: names, captions that rows need, what a command still has to do, and the table, partly done and wholly."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acsar import probes
from acsar.ablations import ABLATIONS, TEXTS
from jobs import tables
from jobs.pack import Pack
from jobs.pretrain import Pretrain
from jobs.run_folder import read_json
from jobs.sweep import Sweep, how_to_make, texts_of
from jobs.text import write_store
from launch import sweep as command
from shards.errors import InputError
from tests.clips import TINY, packed_clips


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """48 clips, packed with captions by words, by sentences, and undecoded; and 47 of them by sentences."""
    folder = tmp_path_factory.mktemp("sets")
    packed_clips(folder)
    said = {f"clip{i:02d}": f"person {i} moves like {i % 7}" for i in range(48)}
    rng = np.random.default_rng(0)

    def packed(name: str, shape: tuple[int, int], encoder: str, clips: int = 48) -> Path:
        some = dict(list(said.items())[:clips])
        lines = [json.dumps({"key": key, "text": text}) for key, text in some.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
        features = {text: rng.normal(size=shape).astype(np.float16) for text in some.values()}
        store = write_store(folder / f"{name}-features", encoder, shape, features)
        out = folder / f"packed-{name}"
        missing: Any = "drop" if clips < 48 else "error"
        Pack(folder / "moves.npz", out, captions=folder / f"{name}.jsonl", text=store.folder, jobs=1, missing_text=missing)()
        return out

    return {
        "word": packed("word", (7, 6), "open_clip x gelu word fp32"),
        "sentence": packed("sentence", (1, 6), "open_clip x gelu sentence fp32"),
        "undecoded75": packed("undecoded75", (4, 9), "ovis2 model hidden"),
        "fewer": packed("fewer", (1, 6), "open_clip x gelu sentence fp32", clips=47),
    }


def base(data: Path, runs: Path) -> Pretrain:
    job = Pretrain.of("acsar-small", data, "tiny", runs=runs, steps=2, streams=("joint",), batch_size=8)
    return replace(job, method=replace(job.method, c1=8, width=16, heads=2, out=8, queue=8))


def test_a_line_that_stands_in_several_tables_is_one_run(sets: dict[str, Path], tmp_path: Path) -> None:
    sweep = Sweep(base(sets["word"], tmp_path), ("all",), {"sentence": sets["sentence"]}, (0, 1))
    jobs = sweep.jobs()
    names = [job.name for job in jobs]
    assert len(names) == len(set(names)) == 2 * 13  # 10 by words, 2 without captions, 1 by sentences
    assert {"tiny-s0", "tiny-interaction-none-s1", "tiny-tau-cross-0.2-s0", "tiny-scdnet-split-s0", "tiny-sentence-s1"} <= set(names)
    assert [job.seed for job in jobs] == [0] * 13 + [1] * 13  # a whole table of one seed comes before the next seed
    assert {job.data for job in jobs if "sentence" in job.name} == {sets["sentence"]}
    assert set(sweep.lacking()) == set(TEXTS) - {"word", "sentence"}
    assert sweep.lacking()["undecoded75"] == ["6: undecoded, unmodulated", "6: undecoded, modulated", "8: 75 tokens, undecoded"]


def test_how_captions_are_made_is_said_in_flags_that_exist() -> None:
    from jobs.caption import Caption
    from jobs.encode_text import EncodeText
    from launch.cli import flags

    known = {"caption": flags(Caption, Caption(out=Path("x"))), "encode_text": flags(EncodeText), "pack": flags(Pack)}
    for name in TEXTS:
        for line in how_to_make(name):
            words = line.split()
            stage = words[1].removeprefix("launch/").removesuffix(".py")
            assert {word for word in words if word.startswith("--")} <= set(known[stage]), line
    assert "--hidden --max-tokens 512 --limits.max-tokens 512" in how_to_make("undecoded512")[0]
    assert "--frames 3" in how_to_make("frames3")[0]


def test_bad_input_is_one_clear_line(sets: dict[str, Path], tmp_path: Path) -> None:
    job, word = base(sets["word"], tmp_path), sets["word"]

    def refused(match: str, make: Callable[[], Sweep]) -> None:
        with pytest.raises(InputError, match=match) as told:
            make().jobs()
        assert "\n" not in str(told.value)

    refused("--table 10: tables are all, 6 .Text and modulation: table 6.", lambda: Sweep(job, ("10",), {}, (0,)))
    refused("--seeds: at least one", lambda: Sweep(job, ("7",), {}, ()))
    refused("has word features .*wanted: sentence", lambda: Sweep(job, ("8",), {"sentence": word}, (0,)))
    refused("fewer are not of|not of the same clips .1 clips.*clip47", lambda: Sweep(job, ("8",), {"sentence": sets["fewer"]}, (0,)))
    refused("--texts frames4=...: captions are called sentence,", lambda: Sweep(job, ("9",), {"frames4": word}, (0,)))
    scdnet = Pretrain.of("scdnet-small", word, "x", runs=tmp_path)
    refused("--recipe scdnet-small has no captions to vary", lambda: Sweep(scdnet, ("7",), {}, (0,)))
    for words, match in ((("sentence",), "NAME=PACKED"), (("word=x",), "those of --data"), (("sentence=a", "sentence=b"), "come twice")):
        with pytest.raises(InputError, match=match):
            texts_of(words)
    with pytest.raises(InputError, match="--seed: every row has it; give --seeds"):
        command.read(["--table", "7", "--seed", "3", "--data", str(word)])
    with pytest.raises(InputError, match="--table NAME is needed: all, 6"):
        command.main(["--data", "nothing there"])
    with pytest.raises(InputError, match="--seeds 0,x: whole numbers"):
        command.resolved(command.read(["--table", "7", "--seeds", "0,x", "--data", str(word), "--runs", str(tmp_path), *TINY]))


def in_this_process(job: Pretrain, *_: Any) -> dict[str, Any]:
    """What pretrain.train does in processes of its own."""
    job.runs.mkdir(exist_ok=True)
    return {stream: job(stream) for stream in job.streams}


def test_two_rows_are_trained_and_their_table_filled(
    sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.pretrain.train", in_this_process)
    for name, make in probes.SCHEDULES.items():  # a tenth of the epochs: how good the classifier is is not asked here
        monkeypatch.setitem(probes.SCHEDULES, name, lambda benchmark="", make=make: replace(make(benchmark), epochs=8, drops=(4, 6)))
    words = ["--table", "8", "--recipe", "acsar-small", "--data", str(sets["word"]), "--texts", f"sentence={sets['sentence']}"]
    words += ["--runs", str(tmp_path / "runs"), "--name", "tiny", "--steps", "2", "--seeds", "0", "--evaluate-every", "1", *TINY]
    words += ["--cluster", "local", "--no-track"]
    assert command.main([*words, "--dry-run"]) == 0
    told = capsys.readouterr()
    assert (
        "tiny-s0: to do" in told.err
        and "python launch/caption.py" in told.err
        and "no captions undecoded75" in told.out
        and "not yet" in told.out
    )
    assert not (tmp_path / "runs" / "tiny-s0").exists()

    assert command.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {name: run["done"] for name, run in document["runs"].items()} == {"tiny-s0": True, "tiny-sentence-s0": True}
    assert set(document["lacking"]) == {"undecoded75", "undecoded512"}

    sweep = Sweep(replace(base(sets["word"], tmp_path / "runs"), evaluate_every=1), ("8",), {"sentence": sets["sentence"]}, (0,))
    table = sweep.table("8")
    rows = {row.name: row.cells for row in table.rows}
    for name, run in (("75 tokens, CLIP sentence feature", "tiny-sentence-s0"), ("75 tokens, CLIP word features", "tiny-s0")):
        probed = read_json(tmp_path / "runs" / run / "probe" / "split" / "joint.json")
        assert rows[name][0] and rows[name][0].value == pytest.approx(probed["linear"])
        assert rows[name][0].interval == pytest.approx(tuple(probed["intervals"]["linear"]))
        assert rows[name][3] and rows[name][3].value == pytest.approx(probed["held_aside_linear"])
        assert rows[name][4] is not None
    gap = rows["75 tokens, CLIP sentence feature"][2]
    assert gap and gap.value == pytest.approx(
        rows["75 tokens, CLIP sentence feature"][0].value - rows["75 tokens, CLIP word features"][0].value
    )
    assert gap.interval and gap.interval[0] <= gap.value <= gap.interval[1]
    assert rows["75 tokens, undecoded"][0] == tables.Cell(note="no captions undecoded75")
    assert all(cell.published is None for cell in table.cells)  # not NTU RGB+D 60: nothing to compare with
    assert any("cannot be compared" in note for note in table.notes)
    held = {name: rows[name][3].value for name in ("75 tokens, CLIP sentence feature", "75 tokens, CLIP word features") if rows[name][3]}
    assert any(f"by it {max(held, key=lambda name: held[name] or 0)} would be chosen" in note for note in table.notes)

    # done is done; with a second seed the table is partly done, and says so
    monkeypatch.setattr("launch.pretrain.train", lambda *_: pytest.fail("trained again"))
    assert command.main(words) == 0
    assert (tmp_path / "runs" / "reports" / "sweep-tiny" / "table-8.md").is_file()
    more = replace(sweep, seeds=(0, 1)).table("8")
    assert "1 of 2 seeds" in tables.plain(more)
    # another configuration under the same names is refused, not mixed in
    with pytest.raises(InputError, match=r"belongs to another configuration: .*steps was 2 and is 3"):
        command.main([*words, "--steps", "3"])


def test_published_numbers_stand_beside_ours_where_they_belong(sets: dict[str, Path], tmp_path: Path) -> None:
    sweep = Sweep(replace(base(sets["word"], tmp_path), protocol="xsub"), ("figure5",), {}, (0,))
    sweep._sets["word"].manifest["benchmark"] = "ntu60"
    found = [row.cells[0].published for row in sweep.table("figure5").rows if row.cells[0]]
    assert found == [row.published for row in ABLATIONS["figure5"].rows] == [85.8, 86.8, 86.4, 86.5, 87.3]
    assert "Published numbers: AC-SAR" in tables.plain(sweep.table("figure5"))
