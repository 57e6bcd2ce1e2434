"""Packing as a job: captions and text features joined by key, the report, and real data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.caption_record import CaptionRecord
from jobs.pack import Pack
from jobs.text import HashText, write_store
from shards import exchange
from shards.errors import InputError
from shards.stream import PackedSet, batches
from shards.synthetic import write_synthetic
from tests.skeleton_text import moving, skeleton_text


def exchange_file(path: Path, texts: list[str] | None = None) -> Path:
    rng = np.random.default_rng(0)
    count = 12
    exchange.write_exchange(
        path,
        [rng.standard_normal((8 + i, 1, 25, 3)).astype(np.float32) for i in range(count)],
        label=[i % 2 for i in range(count)],
        subject=[1 + i % 3 for i in range(count)],
        name=[f"clip{i:02d}" for i in range(count)],
        text=texts,
        split=["train" if i % 3 else "test" for i in range(count)],
        meta={"classes": ["wave", "kick"]},
    )
    return path


def captions_file(path: Path, count: int = 12) -> Path:
    lines = [json.dumps({"key": f"clip{i:02d}", "text": f"caption {i % 5}", "provenance": "motion"}) for i in range(count)]
    path.write_text("\n".join(lines))
    return path


def test_captions_are_joined_by_key_and_encoded_by_the_stand_in(tmp_path: Path) -> None:
    job = Pack(
        data=exchange_file(tmp_path / "moves.npz"), out=tmp_path / "out", captions=captions_file(tmp_path / "c.jsonl"), jobs=2, per_shard=5
    )
    preview = job.preview()
    assert not (tmp_path / "out").exists()
    assert (preview["samples"], preview["captions"], preview["classes"]) == (12, 12, 2)
    report = job()
    assert (report["samples"], report["shards"], report["broken"], report["excluded"]) == (12, 3, {}, {})
    assert "text features: hash (offline stand-in, not CLIP)" in report["lines"]
    assert "split: 8 train, 4 test" in report["lines"]
    packed = PackedSet.open(tmp_path / "out")
    rows = packed.load(["clip07", "clip02"])
    assert rows.text is not None and rows.text_id is not None and rows.text_id[0] == rows.text_id[1]
    np.testing.assert_array_equal(rows.text[0], HashText()("caption 2"))
    assert json.loads(packed.metadata("clip07"))["caption"]["provenance"] == "motion"
    text = packed.manifest["text"]
    assert text is not None
    assert (text["provenance"], text["encoder"], text["shape"], text["distinct"]) == ("motion", "hash", [77, 512], 5)
    again = job()
    assert again["up_to_date"] and again["content_id"] == report["content_id"]


def test_without_captions_the_texts_of_the_data_are_used(tmp_path: Path) -> None:
    data = exchange_file(tmp_path / "moves.npz", texts=["waves", "kicks"] * 6)
    report = Pack(data=data, out=tmp_path / "out", jobs=1)()
    assert report["text"]["determines_label"] and report["text"]["distinct"] == 2
    assert any("determine the label" in line for line in report["lines"])
    plain = Pack(data=exchange_file(tmp_path / "plain.npz"), out=tmp_path / "plain", jobs=1)()
    assert plain["text"] is None and PackedSet.open(tmp_path / "plain").text_shape is None


def test_features_come_from_a_folder_and_must_be_complete(tmp_path: Path) -> None:
    data, captions = exchange_file(tmp_path / "moves.npz"), captions_file(tmp_path / "c.jsonl")
    features = {f"caption {i}": np.full((4, 6), i, np.float16) for i in range(5)}
    write_store(tmp_path / "most", "clip-b32", (4, 6), {text: features[text] for text in list(features)[:4]})
    with pytest.raises(InputError, match=r"most has no features of 1 of 5 texts \(first: 'caption 4'\)"):
        Pack(data=data, out=tmp_path / "out", captions=captions, text=tmp_path / "most")()
    write_store(tmp_path / "all", "clip-b32", (4, 6), features)
    report = Pack(data=data, out=tmp_path / "out", captions=captions, text=tmp_path / "all", jobs=2, per_shard=3)()
    assert "text features: clip-b32" in report["lines"]
    packed = PackedSet.open(tmp_path / "out")
    rows = packed.load(["clip04", "clip10"])
    assert packed.text_shape == (4, 6) and rows.text is not None
    assert rows.text[:, 0, 0].tolist() == [4, 0]
    with pytest.raises(InputError, match="the samples have none"):
        Pack(data=data, out=tmp_path / "other", text=tmp_path / "all")()


def test_samples_without_caption(tmp_path: Path) -> None:
    data, captions = exchange_file(tmp_path / "moves.npz"), captions_file(tmp_path / "c.jsonl", count=9)
    with pytest.raises(InputError, match="3 of 12 samples have no caption"):
        Pack(data=data, out=tmp_path / "out", captions=captions)()
    report = Pack(data=data, out=tmp_path / "out", captions=captions, missing_text="drop", jobs=1)()
    assert report["samples"] == 9 and report["excluded"] == {"no caption": 3}


def records_folder(folder: Path) -> Path:
    """Captioning's own folder: 8 usable captions, one flagged, one clip without, nothing of the last two."""
    folder.mkdir()
    about: dict[str, Any] = {"provenance": "vlm", "captioner": "ovis2", "model": "m"}
    records = [CaptionRecord(f"clip{i:02d}", f"caption {i % 5}", **about) for i in range(8)]
    records += [
        CaptionRecord("clip08", "As an AI", flags=("refusal",), **about),
        CaptionRecord("clip09", "", error="unreadable video", **about),
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(record.as_json()) + "\n" for record in records))
    return folder


def test_the_folder_of_captioning_is_joined_and_what_has_none_is_said(tmp_path: Path) -> None:
    data, captions = exchange_file(tmp_path / "moves.npz"), records_folder(tmp_path / "captions")
    with pytest.raises(InputError, match=r"4 of 12 samples have no caption .*of these 1 flagged refusal, 1 unreadable video"):
        Pack(data=data, out=tmp_path / "out", captions=captions, jobs=1)()
    job = Pack(data=data, out=tmp_path / "out", captions=captions, missing_text="train", jobs=1)
    assert job.preview()["captions"] == 8 and "no caption that can be used: 1 (flagged refusal)" in job.preview()["lines"]
    report = job()
    assert report["samples"] == 12 and report["excluded"] == {}
    assert "no caption, so no text term where they train: 1 (no caption: flagged refusal): clip08" in report["lines"]
    packed = PackedSet.open(tmp_path / "out")
    rows = packed.load(["clip08", "clip01", "clip11"])
    assert rows.text is not None and rows.text_id is not None and rows.has_text is not None
    assert rows.has_text.tolist() == [False, True, False] and not rows.text[[0, 2]].any()
    np.testing.assert_array_equal(rows.text[1], HashText()("caption 1"))
    assert packed.load(["clip01"]).has_text is None
    dropped = Pack(data=data, out=tmp_path / "drop", captions=captions, missing_text="drop", jobs=1)()
    assert dropped["excluded"] == {"no caption": 2, "no caption: flagged refusal": 1, "no caption: unreadable video": 1}


def test_features_found_by_key_belong_to_their_sample(tmp_path: Path) -> None:
    data, captions = exchange_file(tmp_path / "moves.npz"), captions_file(tmp_path / "c.jsonl")
    features = np.stack([np.full((4, 6), i, np.float16) for i in range(12)])
    for name, count in (("all", 12), ("most", 11)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "texts.npy", features[:count])
        lines = [{"key": f"clip{i:02d}", "row": i, "encoder": "vlm", "sha256": f"{i}", "tokens": 1 + i % 4} for i in range(count)]
        (tmp_path / name / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"most has no features of 1 of 12 samples \(first: 'clip11'\)"):
        Pack(data=data, out=tmp_path / "out", captions=captions, text=tmp_path / "most")()
    report = Pack(data=data, out=tmp_path / "out", captions=captions, text=tmp_path / "all", jobs=1, per_shard=5)()
    assert "text features: vlm, by sample" in report["lines"]
    packed = PackedSet.open(tmp_path / "out")
    rows = packed.load(["clip02", "clip07"])  # the same words
    assert rows.text is not None and rows.text_id is not None and rows.text_tokens is not None
    assert rows.text_id[0] == rows.text_id[1] and rows.text[:, 0, 0].tolist() == [2, 7] and rows.text_tokens.tolist() == [3, 4]
    held = next(batches(packed, [record.key for record in packed.samples], 12, 0, 0, 1, memory=True))
    assert held.text is not None and held.text[:, 0, 0].tolist() == [int(key[4:]) for key in held.keys]
    several = tmp_path / "several.json"
    several.write_text(json.dumps({f"clip{i:02d}": ["waves", "waves a hand"] for i in range(12)}))
    with pytest.raises(InputError, match=r"clip00 has 2 captions, but the text features are one per sample"):
        Pack(data=data, out=tmp_path / "other", captions=several, text=tmp_path / "all", jobs=1)()
    assert "text features: hash (offline stand-in, not CLIP)" in Pack(data=data, out=tmp_path / "x", captions=several, jobs=1)()["lines"]


def test_raw_skeletons_with_a_broken_file_among_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for i in range(24):
        name = f"S{1 + i % 2:03d}C{1 + i % 3:03d}P{1 + i % 4:03d}R001A{1 + i % 6:03d}.skeleton"
        (raw / name).write_text(skeleton_text(moving(frames=10, seed=i)))
    files = sorted(raw.iterdir())
    broken = files[3]
    broken.write_text(broken.read_text()[:900])
    with pytest.raises(InputError, match=rf"1 of {len(files)} samples cannot be read .*{broken.stem}.*--max-broken"):
        Pack(data=raw, out=tmp_path / "out", jobs=1)()
    report = Pack(data=raw, out=tmp_path / "out", jobs=2, max_broken=0.2, per_shard=4)()
    assert report["samples"] == len(files) - 1 and sum(report["broken"].values()) == 1
    assert any(broken.stem in line for line in report["lines"])
    assert any(line.startswith("ntu60: expected 56578 of 56880") for line in report["lines"])
    assert any(line.startswith("ntu60 xsub: expected 40091 / 16487, packed") and "differs by" in line for line in report["lines"])


def test_synthetic_set_is_packed_by_the_same_path(tmp_path: Path) -> None:
    count = write_synthetic(tmp_path / "raw", subjects=4, actions=3, frames=(20, 24))
    report = Pack(data=tmp_path / "raw", out=tmp_path / "out", captions=tmp_path / "raw" / "captions.jsonl", jobs=1)()
    assert report["samples"] == count
    packed = PackedSet.open(tmp_path / "out")
    packed.verify()
    assert packed.manifest["benchmark"] == "synthetic" and packed.manifest["normalise"] == "agcn"
    assert report["text"]["provenance"] == "program"


def test_bad_flags(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--jobs -1"):
        Pack(data=exchange_file(tmp_path / "moves.npz"), out=tmp_path / "out", jobs=-1)()


@pytest.mark.realdata
def test_real_motion_capture(real_data: Path, tmp_path: Path) -> None:
    job = Pack(data=real_data / "uiprmd" / "uiprmd_kinect_ntu25.npz", out=tmp_path / "out", label="label,correct", jobs=2)
    report = job()
    assert report["samples"] == 2000 and report["broken"] == {}
    assert "split: 1000 train, 1000 test" in report["lines"]
    packed = PackedSet.open(tmp_path / "out")
    assert len(packed.manifest["classes"]) == 20 and packed.manifest["text"] is not None
    assert packed.manifest["text"]["provenance"] == "label" and packed.manifest["text"]["distinct"] == 10
    assert any("the class determines the text" in line for line in report["lines"])
    rows = packed.load([record.key for record in packed.samples[:50]])
    assert np.isfinite(rows.joints).all() and np.abs(rows.joints).max() < 10
