"""Captions that answer back: the worst are asked for again, and nothing else of the set changes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.agreement import judge
from jobs.batches import choose
from jobs.caption_record import CaptionRecord
from jobs.codec import encode
from jobs.configuration import differences
from jobs.encode_text import EncodeText
from jobs.pretrain import Pretrain
from jobs.recaption import Recaption, count_of, retrain
from jobs.replay import stream_part
from jobs.run_folder import RunFolder, read_json, write_json
from jobs.stages import finished, write_job
from jobs.text import HashText, TextStore, read_captions, write_store
from launch import pretrain
from shards.errors import InputError
from shards.manifest import Caption
from shards.repack import caption_base, caption_version, captions_in, repack
from shards.stream import PackedSet, batches
from tests.believers import SAID, WRONG, believing, trained_run
from tests.moves import packed_moves
from tests.words import Words


@pytest.fixture(scope="module")
def believed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PackedSet]:
    return believing(tmp_path_factory.mktemp("believed") / "runs")


@pytest.fixture(scope="module")
def published(believed: tuple[Path, PackedSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody else says of every clip, rightly; of one with nothing that could be used."""
    texts = {key: SAID[int(key[3])] for key in believed[1].index}
    texts[WRONG[3]] = "I'm sorry, but I can't help with that."
    path = tmp_path_factory.mktemp("published") / "published.json"
    path.write_text(json.dumps(texts))
    return path


@pytest.fixture(scope="module")
def done(believed: tuple[Path, PackedSet], published: Path) -> dict[str, Any]:
    return Recaption(believed[0], worst="5%", captioner="import", published=published)()


def members(packed: PackedSet, key: str) -> dict[str, bytes]:
    """The bytes of a sample's members."""
    record = packed.samples[packed.index[key]]
    found = {name: packed._files.read(record.shard, place) for name, place in (("joints", record.joints), ("json", record.json))}
    return found | ({"text": packed._files.read(record.shard, record.text)} if record.text else {})


def test_only_the_worst_captions_change(believed: tuple[Path, PackedSet], done: dict[str, Any]) -> None:
    run, old = believed
    new = PackedSet.open(Path(done["packed"]))
    assert done["worst"] == 7 and done["new"] == sorted(WRONG[:3]) and Path(done["packed"]) == run / "captions-2" / "packed"
    assert sorted(new.index) == sorted(old.index)
    for key in old.index:
        before, after = members(old, key), members(new, key)
        assert before["joints"] == after["joints"]
        assert (before != after) == (key in done["new"]), key
    told = captions_in(new)
    assert all(told[key] == Caption(SAID[int(key[3])], "import") for key in done["new"])
    assert told[WRONG[3]] == captions_in(old)[WRONG[3]]
    apart_from_text = {"text": None, "text_id": None, "tokens": 0, "json": (0, 0), "joints": (0, 0)}
    one, other = ([replace(record, **apart_from_text) for record in packed.samples] for packed in (old, new))
    assert one == other


def test_batches_come_in_the_same_order(believed: tuple[Path, PackedSet], done: dict[str, Any]) -> None:
    old, new = believed[1], PackedSet.open(Path(done["packed"]))
    keys = choose(old, "split", 0, 18).keys
    assert choose(new, "split", 0, 18) == choose(old, "split", 0, 18)
    for one, other in zip(batches(old, keys, 18, 0, 0, 10), batches(new, keys, 18, 0, 0, 10), strict=True):
        assert one.keys == other.keys and np.array_equal(one.joints, other.joints) and np.array_equal(one.frames, other.frames)


def test_a_run_believes_the_new_captions_more(believed: tuple[Path, PackedSet], done: dict[str, Any], tmp_path: Path) -> None:
    before = read_json(believed[0] / "captions-2" / "agreement.json")["scores"]
    new = PackedSet.open(Path(done["packed"]))
    job = Pretrain.of("acsar-small", new.path, "again", batch_size=18, steps=150, runs=tmp_path, streams=("joint",))
    after = judge(trained_run(job, new)).scores
    assert all(after[key] > before[key] + 0.1 for key in done["new"])


def test_what_is_left_behind(believed: tuple[Path, PackedSet], done: dict[str, Any]) -> None:
    out = believed[0] / "captions-2"
    keys = (out / "keys.txt").read_text().split()
    asked = [json.loads(line) for line in (out / "asked" / "captions.jsonl").read_text().splitlines()]
    assert len(keys) == 7 and {record["key"] for record in asked} == set(keys)
    everything = read_captions(out)
    assert sorted(everything) == sorted(believed[1].index) and everything[WRONG[0]].text == SAID[0]
    html = (out / "worst.html").read_text()
    assert html.count("<section>") == 7 and "version 1" in html and "version 2" in html and "not taken: refusal" in html
    assert "agreement -0." in html and "text_reliance" in html
    told = "\n".join(done["lines"])
    assert "3 of 7 have a new caption; the others keep theirs" in told and "1 refusal" in told and "the same words again" in told


def test_the_same_command_does_nothing_twice(believed: tuple[Path, PackedSet], published: Path, done: dict[str, Any]) -> None:
    again = Recaption(believed[0], worst="5%", captioner="import", published=published)()
    assert again["lines"][0].startswith("nothing to do") and again["content_id"] == done["content_id"]
    with pytest.raises(InputError, match="worst was '5%' and is '10%'"):
        Recaption(believed[0], worst="10%", captioner="import", published=published)()
    job = Recaption(believed[0], captioner="import", published=published, out=believed[0] / "captions-2")
    assert finished("recaption", write_job(job, believed[0] / "job-of-recaption.json"), "")


def test_the_list_alone_asks_nobody(believed: tuple[Path, PackedSet], tmp_path: Path) -> None:
    report = Recaption(believed[0], worst="4", out=tmp_path / "out", list_only=True)()
    assert set(report["worst"]) == set(WRONG) and (tmp_path / "out" / "worst.html").is_file()
    assert not (tmp_path / "out" / "asked").exists() and not (tmp_path / "out" / "packed").exists()


def test_versions_are_told_to_the_tracker(believed: tuple[Path, PackedSet], done: dict[str, Any], tmp_path: Path) -> None:
    old, new = believed[1], PackedSet.open(Path(done["packed"]))
    assert (caption_version(old), caption_version(new)) == (1, 2) and caption_base(new) == caption_base(old) == old.content_id
    third = tmp_path / "third"
    repack(new, third, {WRONG[3]: Caption(SAID[0], "import")}, HashText())
    assert caption_version(PackedSet.open(third)) == 3 and caption_base(PackedSet.open(third)) == old.content_id
    folder = RunFolder(tmp_path / "runs" / "again" / "joint")
    facts = {"caption_version": caption_version(new), "caption_base": caption_base(new)}
    write_json(folder.config, {"job": {"name": "again", "method": {"tau_cross": 0.1}}, "stream": "joint", "facts": facts})
    part = stream_part(tmp_path / "runs" / "again", "joint", {})
    assert part.params["caption_version"] == "2" and part.params["caption_base"] == old.content_id


def test_the_next_command_is_the_same_training(believed: tuple[Path, PackedSet], done: dict[str, Any]) -> None:
    words = retrain(believed[0], Path(done["packed"]), 2).split()
    assert done["lines"][-1] == f"next: {' '.join(words)}" and words[:2] == ["python", "launch/pretrain.py"]
    there = read_json(RunFolder(believed[0] / "joint").config)["job"]
    asked = pretrain.read(words[2:], "", pretrain.Command).job
    assert asked.name == "believes-captions-2" and asked.data == Path(done["packed"])
    assert differences({**there, "name": asked.name}, encode(asked)) == ""


def test_a_run_that_ignores_its_captions_is_refused(tmp_path: Path, published: Path) -> None:
    run = believing(tmp_path / "runs", steps=0, permuted=True)[0]
    with pytest.raises(InputError, match="does not use its captions, so what it thinks of them is chance"):
        Recaption(run, captioner="import", published=published)()
    assert not (run / "captions-2").exists()


@pytest.mark.parametrize("worst", ["0%", "101%", "0", "1000", "-3", "half", "5 %%", "nan%"])
def test_shares_that_mean_nothing(worst: str) -> None:
    with pytest.raises(InputError, match="--worst"):
        count_of(worst, 100)


def test_shares_and_numbers() -> None:
    assert [count_of(worst, 135) for worst in ("5%", "0.1%", "100%", "12")] == [7, 1, 135, 12]


def test_who_cannot_be_asked_is_named(believed: tuple[Path, PackedSet], published: Path, tmp_path: Path) -> None:
    run, packed = believed
    job = Recaption(run, worst="4", out=tmp_path / "out")
    with pytest.raises(InputError, match="who wrote these captions is not known"):
        job()
    records = [CaptionRecord(key, caption.text, "motion", "motion", "motion") for key, caption in captions_in(packed).items()]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "captions.jsonl").write_text("".join(json.dumps(record.as_json()) + "\n" for record in records))
    with pytest.raises(InputError, match="motion would say the same again"):
        replace(job, captions=tmp_path / "set")()
    (tmp_path / "set" / "captions.jsonl").write_text(json.dumps(replace(records[0], text="other").as_json()) + "\n")
    with pytest.raises(InputError, match=r"is not what .* was packed with: .* has another caption in it"):
        replace(job, captions=tmp_path / "set")()
    same = tmp_path / "same.json"
    same.write_text(json.dumps({key: caption.text for key, caption in captions_in(packed).items()}))
    with pytest.raises(InputError, match=r"none of the 4 worst captions came back better \(4 the same words again"):
        replace(job, captioner="import", published=same)()


def test_features_of_another_kind_are_refused(tmp_path: Path) -> None:
    packed = packed_moves(tmp_path / "plain", subjects=1, per=1)
    with pytest.raises(InputError, match="has no captions that could be replaced"):
        repack(packed, tmp_path / "out", {}, None)
    key = believing_key(tmp_path)
    told = PackedSet.open(tmp_path / "packed")
    with pytest.raises(InputError, match="their features do not mix"):
        repack(told, tmp_path / "out", {key: Caption("a new one", "vlm")}, HashText())
    with pytest.raises(InputError, match="has no sample 'other'"):
        repack(told, tmp_path / "out", {"other": Caption("a new one", "vlm")}, Words())
    store = write_store(tmp_path / "store", "test", (3, 8), {"a new one": Words()("a new one")}, {"a new one": 3})
    repack(told, tmp_path / "out", {key: Caption("a new one", "vlm", ("one more", "and another"))}, TwoStores(store))
    new = PackedSet.open(tmp_path / "out")
    assert captions_in(new)[key].texts == ("a new one", "one more", "and another")
    record = new.samples[new.index[key]]
    assert record.tokens == 3 and np.array_equal(new.text(record), Words()("a new one"))
    assert np.array_equal(new.text(record.with_caption(2)), Words()("and another"))
    assert new.manifest["text"] is not None and new.manifest["text"]["provenances"] == {"import": 2, "vlm": 1}


class TwoStores(Words):
    """A store, and words for what is not in it."""

    def __init__(self, store: TextStore) -> None:
        self.store = store

    def tokens(self, text: str) -> int:
        return self.store.tokens(text) if not self.store.lacking([text]) else 0


def believing_key(folder: Path) -> str:
    """A small packed set with captions at FOLDER/packed; one of its keys."""
    from shards.pack import pack
    from tests.moves import Moves

    source = replace(Moves(), subjects=1, per=1)
    captions = {sample.key: Caption(SAID[sample.label], "import") for sample in source.samples()}
    pack(source, folder / "packed", captions=captions, features=Words())
    return source.samples()[0].key


def test_new_captions_are_encoded_as_the_old_ones_were(tmp_path: Path) -> None:
    from tests.tiny_models import tiny_clip

    tiny_clip(tmp_path / "clip")
    tiny_clip(tmp_path / "other", seed=1)
    (tmp_path / "said.json").write_text(json.dumps({str(i): text for i, text in enumerate(SAID)}))
    old = TextStore.open(Path(EncodeText(tmp_path / "said.json", tmp_path / "store", pretrained=str(tmp_path / "clip"))()["out"]))
    run, packed = believing(tmp_path / "runs", features=old)
    better = {key: f"{SAID[int(key[3])]}, again and again" for key in packed.index}
    (tmp_path / "better.json").write_text(json.dumps(better))
    job = Recaption(run, worst="4", captioner="import", published=tmp_path / "better.json", text_weights=str(tmp_path / "clip"))
    with pytest.raises(InputError, match="name the right ones: --text-weights"):
        replace(job, text_weights=str(tmp_path / "other"))()
    assert not (run / "captions-2" / "asked").exists()
    done = job()
    new, store = PackedSet.open(Path(done["packed"])), TextStore.open(run / "captions-2" / "text")
    assert len(done["new"]) == 4 and len(store.rows) == len({better[key] for key in done["new"]}) and store.encoder == old.encoder
    (tmp_path / "all.json").write_text(json.dumps(better))
    whole = TextStore.open(Path(EncodeText(tmp_path / "all.json", tmp_path / "all", pretrained=str(tmp_path / "clip"))()["out"]))
    for record in new.samples:
        wanted = whole(better[record.key]) if record.key in done["new"] else old(captions_in(packed)[record.key].text)
        np.testing.assert_allclose(new.text(record).astype(float), wanted.astype(float), atol=2e-3)


def test_the_next_prompts_are_other_words(tmp_path: Path) -> None:
    def record(key: str, prompt: str) -> CaptionRecord:
        return CaptionRecord(key, "x", "vlm", "ovis2", "m", prompt=prompt)

    job = Recaption(tmp_path)
    first = {"a": record("a", "describe-en-1"), "b": record("b", "describe-en-1"), "c": record("c", "again-en-1")}
    assert job.other_prompts(["a", "b", "c"], first) == ("again-en-1", "interaction-en-1")
    assert job.other_prompts(["c"], first) == ("describe-en-1", "interaction-en-1")
    assert replace(job, prompts=("paper-zh",)).other_prompts(["a"], first) == ("paper-zh",)
