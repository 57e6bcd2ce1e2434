"""Captions from files, the hash features, and the folder of text features."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.caption_record import CaptionRecord
from jobs.text import HashText, TextStore, captions_of, read_captions, write_store
from shards.errors import InputError
from shards.manifest import Caption

EXPECTED = {"a": Caption("waves", "vlm"), "b": Caption("sits, slowly", "import")}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.jsonl", '{"key": "a", "text": "waves", "provenance": "vlm", "seconds": 3}\n\n{"key": "b", "text": " sits, slowly "}\n'),
        ("c.jsonl", '{"a": {"text": "waves", "provenance": "vlm"}}\n{"b": "sits, slowly"}\n'),
        ("c.json", '[{"key": "a", "text": "waves", "provenance": "vlm"}, {"key": "b", "text": "sits, slowly"}]'),
        ("c.json", '{"a": {"text": "waves", "provenance": "vlm"}, "b": "sits, slowly"}'),
        ("c.csv", 'key,text,provenance\na,waves,vlm\nb,"sits, slowly",\n'),
        ("c.json", '[{"key": "a", "texts": ["waves", " waves"], "provenance": "vlm"}, {"key": "b", "text": ["sits, slowly", " "]}]'),
    ],
)
def test_captions_are_read_from_each_kind_of_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_captions(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", '{"key": "a", "text": "x"}\n{"key": "a", "text": "y"}\n', r"c.jsonl:2: a second caption for a"),
        ("c.jsonl", '{"key": "a", "text": "x"}\n{"key": "b"', r"c.jsonl:2: not JSON"),
        ("c.jsonl", '{"key": "a"}\n', r"c.jsonl:1: a caption is a key and a text"),
        ("c.jsonl", '{"key": "a", "text": "x", "provenance": "magic"}\n', r"'magic' of a is not known; one of vlm, motion"),
        ("c.jsonl", "3\n", r"c.jsonl:1: a caption is an object"),
        ("c.jsonl", "\n", r"no caption in it"),
        ("c.json", '["a"]', r"record 1: a caption is an object"),
        ("c.csv", "name,caption\na,b\n", r"must name the columns key and text"),
        ("c.json", '{"a": "waves \\ud83d"}', r"the caption of a has half a character"),
        ("c.txt", "a b", r"read from .jsonl, .json, .csv"),
    ],
)
def test_captions_that_are_wrong_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_captions(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.json", '{"a": ["waves", "moves an arm ", "", "waves"], "b": "sits"}'),
        ("c.jsonl", '{"key": "a", "text": "waves", "texts": ["moves an arm"]}\n{"key": "b", "texts": ["sits"]}\n'),
        ("c.jsonl", '{"a": ["waves", "moves an arm"]}\n{"b": {"texts": ["sits"]}}\n'),
    ],
)
def test_several_captions_of_a_sample_are_kept_in_order(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_captions(tmp_path / name) == {"a": Caption("waves", "import", ("moves an arm",)), "b": Caption("sits")}
    assert read_captions(tmp_path / name)["a"].texts == ("waves", "moves an arm")


def caption_folder(folder: Path) -> Path:
    """What captioning leaves: one caption as it should be, one with a second text, one flagged, one clip without."""
    about: dict[str, Any] = {"captioner": "ovis2", "model": "m", "provenance": "vlm"}
    records = [
        CaptionRecord("a", "waves", tokens=1, **about),
        CaptionRecord("b", "sits", texts=("sits", "sits down"), **about),
        CaptionRecord("c", "I cannot help", flags=("refusal", "too long"), **about),
        CaptionRecord("d", "", error="unreadable video", **about),
        CaptionRecord("e", "", **about),
    ]
    folder.mkdir()
    (folder / "captions.jsonl").write_text("".join(json.dumps(record.as_json()) + "\n" for record in records))
    return folder


def test_captions_come_from_the_folder_of_captioning_and_unusable_ones_count_as_none(tmp_path: Path) -> None:
    found = captions_of(caption_folder(tmp_path / "captions"))
    assert found.usable == {"a": Caption("waves", "vlm"), "b": Caption("sits", "vlm", ("sits down",))}
    assert found.reasons == {"c": "flagged refusal, too long", "d": "unreadable video", "e": "empty"}
    assert captions_of(tmp_path / "captions" / "captions.jsonl") == found


def test_folders_of_captioning_that_do_not_serve_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no captions.jsonl: captioning is not finished"):
        read_captions(tmp_path)
    folder = caption_folder(tmp_path / "captions")
    lines = (folder / "captions.jsonl").read_text().splitlines()
    (folder / "captions.jsonl").write_text("\n".join(lines[2:]))
    with pytest.raises(InputError, match=r"no caption in it that can be used: 1 flagged refusal, too long, 1 unreadable video, 1 empty"):
        read_captions(folder)
    (folder / "captions.jsonl").write_text(lines[0] + "\n" + lines[3].replace('"key": "d"', '"key": "a"'))
    with pytest.raises(InputError, match=r"captions.jsonl:2: a second caption for a"):
        read_captions(folder)
    (folder / "captions.jsonl").write_text(lines[0].replace('"tokens"', '"tokeens"'))
    with pytest.raises(InputError, match=r"captions.jsonl:1: not a caption record of this version \(unknown \['tokeens'\]"):
        read_captions(folder)


def test_caption_files_that_are_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_captions(tmp_path / "c.jsonl")
    (tmp_path / "c.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        read_captions(tmp_path / "c.jsonl")


def test_hash_features_are_laid_out_like_token_features() -> None:
    features = HashText()("A person waves, waves.")
    assert features.shape == (77, 512) and features.dtype == np.float16
    lengths = np.linalg.norm(features.astype(np.float32), axis=1)
    np.testing.assert_allclose(lengths[:8], np.sqrt(512), atol=1e-3)
    assert not features[8:].any()
    np.testing.assert_array_equal(features[3], features[5])
    np.testing.assert_array_equal(features[0], HashText()("x")[0])
    np.testing.assert_array_equal(features[7], HashText()("x")[2])
    products = features[:8].astype(np.float32) @ features[:8].astype(np.float32).T / 512
    assert np.abs(products[np.triu_indices(8, 1)]).max() > 0.99 and np.sort(np.abs(products[np.triu_indices(8, 1)]))[-2] < 0.25
    np.testing.assert_array_equal(features, HashText()("a PERSON  waves , waves ."))
    assert np.packbits(features[1] > 0).tobytes() == hashlib.shake_256(b"a").digest(64)


def test_hash_features_end_long_texts_with_the_end_token() -> None:
    features = HashText()(" ".join(f"word{i}" for i in range(200)))
    np.testing.assert_array_equal(features[76], HashText()("")[1])
    assert features.any(1).all()


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=200))
def test_hash_features_take_any_text(text: str) -> None:
    features = HashText()(text)
    assert np.isfinite(features).all() and features[0].any()


def test_store_gives_back_what_was_written(tmp_path: Path) -> None:
    texts = {f"text {i}": np.full((4, 3), i, np.float16) for i in range(5)}
    store = write_store(tmp_path / "store", "clip", (4, 3), iter(texts.items()))
    assert (store.encoder, store.shape) == ("clip", (4, 3)) and len(store.rows) == 5
    for text, features in texts.items():
        np.testing.assert_array_equal(store(text), features)
    assert len({store.digest(text) for text in texts}) == 5
    assert store.lacking([*texts, "other", "other"]) == ["other"]
    again = TextStore.open(tmp_path / "store")
    assert again == store
    assert np.load(tmp_path / "store" / "texts.npy", allow_pickle=False).shape == (5, 4, 3)
    with pytest.raises(InputError, match="no features of 'other'"):
        store("other")
    with pytest.raises(InputError, match="exists"):
        write_store(tmp_path / "store", "clip", (4, 3), texts)


def test_store_is_complete_or_absent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        write_store(tmp_path / "store", "clip", (4, 3), {"a": np.zeros((4, 3), np.float16), "b": np.zeros((2, 3), np.float16)})
    assert list(tmp_path.iterdir()) == []


def test_stores_that_are_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder of text features"):
        TextStore.open(tmp_path)
    folder = tmp_path / "store"
    write_store(folder, "clip", (4, 3), {"a": np.zeros((4, 3), np.float16)})
    index = folder / "index.jsonl"
    index.write_text(index.read_text() * 2)
    with pytest.raises(InputError, match="2 lines"):
        TextStore.open(folder)
    index.write_text(json.dumps({"row": 0}) + "\n")
    with pytest.raises(InputError, match="damaged"):
        TextStore.open(folder)


def by_key(folder: Path, tokens: tuple[int, ...] = (3, 2, 4)) -> Path:
    """A folder of three rows found by sample key."""
    features = np.stack([np.full((4, 3), i, np.float16) for i in range(len(tokens))])
    folder.mkdir()
    np.save(folder / "texts.npy", features)
    lines = [
        {"key": f"k{i}", "row": i, "encoder": "vlm", "sha256": hashlib.sha256(features[i].tobytes()).hexdigest(), "tokens": n}
        for i, n in enumerate(tokens)
    ]
    (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_features_are_found_by_key_and_say_how_long_they_are(tmp_path: Path) -> None:
    store = TextStore.open(by_key(tmp_path / "store"))
    assert (store.by, store.encoder, store.shape, [store.tokens(f"k{i}") for i in range(3)]) == ("key", "vlm", (4, 3), [3, 2, 4])
    np.testing.assert_array_equal(store("k2"), np.full((4, 3), 2, np.float16))
    assert store.lacking(["k1", "k7", "k7"]) == ["k7"]
    assert TextStore.open(by_key(tmp_path / "longer", (4, 2, 4))).digest("k0") != store.digest("k0")
    with pytest.raises(InputError, match="no features of 'k7'"):
        store.tokens("k7")
    assert HashText().tokens("A person waves.") == 6 and HashText().tokens("word " * 200) == 77 and HashText().tokens("") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": 3}, r"k1 is at Row\(row=3"),
        ({"row": -1}, r"k1 is at"),
        ({"tokens": 5}, r"k1 is at Row\(row=1.*tokens=5"),
        ({"key": "k0"}, r"1 lines come twice"),
        ({"tokens": None}, r"damaged"),
        ({"key": None, "caption": "k1"}, r"damaged"),
    ],
)
def test_lines_of_a_store_that_are_wrong_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = by_key(tmp_path / "store")
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    lines[1] = {name: value for name, value in {**lines[1], **change}.items() if name != "key" or value is not None}
    (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=message):
        TextStore.open(folder)
