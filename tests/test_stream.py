"""Streaming: one order whatever the ranks, threads and shards; exact seek; the same numbers from memory and from files."""

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.text import HashText
from shards import stream
from shards.errors import InputError
from shards.manifest import Caption
from shards.pack import pack
from shards.stream import NO_TEXT, PackedSet, Rows, batches, caption_of_epoch, epoch_order
from tests.toy import Toy

TEXTS = ("waves", "sits down", "kicks a ball")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    out = tmp_path_factory.mktemp("set") / "out"
    pack(Toy(count=37, texts=TEXTS), out, features=HashText(), per_shard=5)
    return PackedSet.open(out)


@pytest.fixture(scope="module")
def keys(packed: PackedSet) -> list[str]:
    return [record.key for record in packed.samples]


def joined(parts: list[Rows]) -> list[str]:
    return [key for part in parts for key in part.keys]


def same(a: Rows, b: Rows) -> None:
    assert a.keys == b.keys
    for name in ("joints", "frames", "text", "text_id", "label"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_rows_hold_what_the_source_gave(packed: PackedSet) -> None:
    source = Toy(count=37, texts=TEXTS)
    rows = packed.load(["K00012", "K00003", "K00030"])
    assert rows.keys == ["K00012", "K00003", "K00030"]
    clips = [source.read(key).bodies for key in rows.keys]
    longest = max(clip.shape[1] for clip in clips)
    assert rows.joints.shape == (3, 3, longest, 25, 2) and rows.joints.dtype == np.float32
    for row, frames, clip in zip(rows.joints, rows.frames, clips):
        assert frames == clip.shape[1]
        np.testing.assert_array_equal(row[:, :frames, :, : len(clip)], clip.transpose(3, 1, 2, 0))
        assert not row[:, frames:].any() and not row[:, :, :, len(clip) :].any()
    assert rows.label.tolist() == [0, 0, 0] and rows.label.dtype == rows.frames.dtype == np.int64
    assert rows.text is not None and rows.text_id is not None
    assert rows.text.dtype == np.float16 and len(set(rows.text_id.tolist())) == 1
    np.testing.assert_array_equal(rows.text[0], HashText()("waves"))
    assert packed.text_shape == (77, 512)
    same(rows, packed.read([12, 3, 30]))
    assert b'"text":"waves"' in packed.metadata("K00012")


def test_order_is_the_hash_of_seed_epoch_and_key() -> None:
    order = epoch_order(["b", "a", "c"], 3, 7)
    digests = [hashlib.sha256(f"3:7:{key}".encode()).digest() for key in "abc"]
    assert [digests[i] for i in order] == sorted(digests)
    assert order.dtype == np.int64


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    share=st.integers(1, 5),
    world=st.sampled_from((1, 2, 3, 4)),
    workers=st.integers(0, 3),
    seed=st.integers(0, 2**31),
    first=st.integers(0, 9),
    memory=st.booleans(),
)
def test_ranks_threads_and_seek_give_the_same_global_batches(
    packed: PackedSet, keys: list[str], share: int, world: int, workers: int, seed: int, first: int, memory: bool
) -> None:
    batch = share * world
    alone = list(batches(packed, list(reversed(keys)), batch, seed, 0, 12, memory=False))
    ranks = [list(batches(packed, keys, batch, seed, first, 12, rank, world, workers, memory)) for rank in range(world)]
    for step in range(first, 12):
        parts = [rank[step - first] for rank in ranks]
        assert joined(parts) == alone[step].keys
        longest = alone[step].joints.shape[2]
        joints = [np.pad(part.joints, ((0, 0), (0, 0), (0, longest - part.joints.shape[2]), (0, 0), (0, 0))) for part in parts]
        np.testing.assert_array_equal(np.concatenate(joints), alone[step].joints)
        for name in ("frames", "text", "text_id", "label"):
            np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(alone[step], name))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(per_shard=st.integers(1, 40), world=st.sampled_from((1, 2, 4)), size=st.integers(1, 9))
def test_pack_then_stream_keeps_every_key(tmp_path_factory: pytest.TempPathFactory, per_shard: int, world: int, size: int) -> None:
    out = tmp_path_factory.mktemp("set") / "out"
    pack(Toy(count=36), out, per_shard=per_shard)
    packed = PackedSet.open(out)
    names = [record.key for record in packed.samples]
    batch = size * world
    per_epoch = len(names) // batch
    if per_epoch:
        seen = [joined(list(batches(packed, names, batch, 1, 0, 2 * per_epoch, rank, world))) for rank in range(world)]
        own = per_epoch * size
        for epoch in range(2):
            together = [key for rank in seen for key in rank[epoch * own : (epoch + 1) * own]]
            assert len(together) == len(set(together)) == per_epoch * batch
            order = epoch_order(names, 1, epoch)
            assert sorted(together) == sorted(names[i] for i in order[: per_epoch * batch])


def test_epochs_differ_and_bytes_do_not_matter(packed: PackedSet, keys: list[str], tmp_path: Path) -> None:
    one = [rows.keys for rows in batches(packed, keys, 12, 5, 0, 6)]
    assert one[:3] != one[3:]
    pack(Toy(count=37, seed=9), tmp_path / "other", per_shard=50)
    assert [rows.keys for rows in batches(PackedSet.open(tmp_path / "other"), keys, 12, 5, 0, 6)] == one


def test_batches_that_cannot_be_are_named(packed: PackedSet, keys: list[str]) -> None:
    with pytest.raises(InputError, match="37 training samples do not fill a batch of 38"):
        batches(packed, keys, 38, 0, 0, 1)
    with pytest.raises(InputError, match="batch of 30 cannot be divided among 4 ranks; use --batch-size 28 or 32"):
        batches(packed, keys, 30, 0, 0, 1, world=4)
    with pytest.raises(InputError, match="batch of 2 cannot be divided among 4 ranks; use --batch-size 4"):
        batches(packed, keys, 2, 0, 0, 1, world=4)
    with pytest.raises(InputError, match="no sample 'nobody'"):
        batches(packed, [*keys, "nobody"], 4, 0, 0, 1)
    with pytest.raises(InputError, match="1 keys are named twice"):
        batches(packed, [*keys, keys[0]], 4, 0, 0, 1)


def streaming_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


def test_threads_end_with_the_iterator_and_pass_errors_on(packed: PackedSet, keys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    running = batches(packed, keys, 4, 0, 0, 500, workers=2, memory=False)
    next(running)
    assert streaming_threads()
    running.close()  # type: ignore[attr-defined]
    assert not streaming_threads()

    read = PackedSet.joints

    def failing(self: PackedSet, record: Any) -> Any:
        if record.key == "K00020":
            raise InputError("K00020 is damaged")
        return read(self, record)

    monkeypatch.setattr(PackedSet, "joints", failing)
    with pytest.raises(InputError, match="K00020"):
        list(batches(packed, keys, 4, 0, 0, 9, workers=2, memory=False))
    assert not streaming_threads()


def test_memory_is_used_where_it_is_small_and_free(packed: PackedSet, keys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = PackedSet.joints
    monkeypatch.setattr(PackedSet, "joints", lambda self, record: reads.append(record.key) or read(self, record))
    list(batches(packed, keys, 4, 0, 0, 30))
    assert len(reads) == 37
    reads.clear()
    monkeypatch.setattr(stream, "free_memory", lambda: 1 << 20)
    list(batches(packed, keys, 4, 0, 0, 30))
    assert len(reads) == 120
    assert stream.InMemory(packed, packed.samples)._texts.shape == (3, 77, 512)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    """37 samples with one to four captions; every fifth has none."""
    out = tmp_path_factory.mktemp("several") / "out"
    captions = {f"K{i:05d}": Caption(f"text {i % 7}", "import", tuple(f"text {i} {n}" for n in range(i % 4))) for i in range(37) if i % 5}
    pack(Toy(count=37), out, captions=captions, features=HashText(), per_shard=5, missing_text="train")
    return PackedSet.open(out)


def test_another_caption_each_epoch_by_seed_epoch_and_key_alone(several: PackedSet, keys: list[str]) -> None:
    counts = {record.key: 1 + len(record.more) for record in several.samples}
    chosen = [{key: caption_of_epoch(key, 5, epoch, counts[key]) for key in keys} for epoch in range(12)]
    for key in keys:
        assert [c[key] for c in chosen] == [(chosen[0][key] + epoch) % counts[key] for epoch in range(12)]
    assert any(chosen[0].values()) and chosen[0] != {key: caption_of_epoch(key, 6, 0, counts[key]) for key in keys}
    alone = list(batches(several, keys, 12, 5, 0, 36, memory=False, captions="each-epoch"))
    first = list(batches(several, keys, 12, 5, 0, 36))
    for step, rows in enumerate(alone):
        assert rows.keys == first[step].keys and rows.text is not None and rows.text_id is not None
        np.testing.assert_array_equal(rows.joints, first[step].joints)
        for i, key in enumerate(rows.keys):
            record = several.samples[several.index[key]].with_caption(chosen[step // 3][key])
            assert rows.text_id[i] == (NO_TEXT if record.text_id is None else record.text_id)
            if record.text:
                np.testing.assert_array_equal(rows.text[i], several.text(record))
    for world, workers, memory, start in ((2, 0, True, 7), (3, 2, False, 5)):
        ranks = [
            list(batches(several, keys, 12, 5, start, 36, rank, world, workers, memory, captions="each-epoch")) for rank in range(world)
        ]
        for step in range(start, 36):
            for name in ("text", "text_id", "text_tokens", "has_text", "frames"):
                together = np.concatenate([getattr(rank[step - start], name) for rank in ranks])
                np.testing.assert_array_equal(together, getattr(alone[step], name))
    assert stream.InMemory(several, several.samples)._texts.shape[0] == 7
    assert stream.InMemory(several, several.samples, "each-epoch")._texts.shape[0] == 7 + sum(i % 4 for i in range(37) if i % 5)
    sizes = [stream.InMemory.size(several, several.samples, captions) for captions in ("first", "each-epoch")]
    assert sizes[1] - sizes[0] == (2 * 77 * 512 + 128) * sum(i % 4 for i in range(37) if i % 5)


def test_rows_without_caption_are_told_in_every_batch_of_the_set(several: PackedSet, keys: list[str]) -> None:
    for memory in (True, False):
        for rows in batches(several, keys, 3, 0, 0, 24, memory=memory):
            assert rows.has_text is not None and rows.text is not None and rows.text_id is not None and rows.text_tokens is not None
            assert rows.has_text.tolist() == [int(key[1:]) % 5 > 0 for key in rows.keys]
            for i, key in enumerate(rows.keys):
                words = f"text {int(key[1:]) % 7}"
                expected = HashText()(words) if rows.has_text[i] else 0 * rows.text[i]
                np.testing.assert_array_equal(rows.text[i], expected)
                assert rows.text_tokens[i] == (HashText().tokens(words) if rows.has_text[i] else 0)
                assert (rows.text_id[i] == NO_TEXT) == (not rows.has_text[i])
    captioned = [key for key in keys if int(key[1:]) % 5]
    assert all(rows.has_text is None for rows in batches(several, captioned, 4, 0, 0, 7))
    bare = several.load([key for key in keys if int(key[1:]) % 5 == 0])
    assert bare.has_text is not None and not bare.has_text.any() and bare.text is not None and not bare.text.any()


def test_sets_of_before_are_read(packed: PackedSet, keys: list[str], tmp_path: Path) -> None:
    shutil.copytree(packed.path, tmp_path / "old")
    path = tmp_path / "old" / "manifest.json"
    about = json.loads(path.read_bytes())
    for sample in (sample for shard in about["shards"] for sample in shard["samples"]):
        del sample["tokens"]
    path.write_text(json.dumps(about))
    old, new = PackedSet.open(tmp_path / "old").load(keys), packed.load(keys)
    same(old, new)
    assert old.text_tokens is None and old.has_text is None and new.text_tokens is not None and new.has_text is None


def test_free_memory_is_plausible() -> None:
    assert 1 << 24 < stream.free_memory() < 1 << 50


def test_half_precision_sets_stream_as_single(tmp_path: Path) -> None:
    pack(Toy(), tmp_path / "half", dtype="float16")
    pack(Toy(), tmp_path / "whole")
    half, whole = PackedSet.open(tmp_path / "half"), PackedSet.open(tmp_path / "whole")
    assert half.content_id != whole.content_id
    for memory in (True, False):
        narrow, wide = (next(iter(batches(s, [r.key for r in s.samples], 8, 0, 0, 1, memory=memory))) for s in (half, whole))
        assert narrow.joints.dtype == np.float32
        np.testing.assert_allclose(narrow.joints, wide.joints, rtol=5e-4, atol=1e-6)
        assert narrow.text is None and narrow.text_id is None


def test_set_can_be_pickled_and_forked(packed: PackedSet, keys: list[str]) -> None:
    packed.load(keys[:3])
    same(pickle.loads(pickle.dumps(packed)).load(keys), packed.load(keys))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    children = [context.Process(target=lambda: answers.put(float(packed.load(keys).joints.sum(dtype=np.float64)))) for _ in range(2)]
    for child in children:
        child.start()
    assert {answers.get() for _ in children} == {float(packed.load(keys).joints.sum(dtype=np.float64))}
    for child in children:
        child.join()


def test_more_shards_than_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "OPEN_FILES", 4)
    pack(Toy(), tmp_path / "out", per_shard=1)
    packed = PackedSet.open(tmp_path / "out")
    before = len(list(Path("/proc/self/fd").iterdir()))
    packed.load([record.key for record in packed.samples])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


def test_damage_is_found_and_the_file_named(tmp_path: Path) -> None:
    pack(Toy(), tmp_path / "out", per_shard=8)
    packed = PackedSet.open(tmp_path / "out")
    packed.verify()
    shard = tmp_path / "out" / "shard-000001.tar"
    good = shard.read_bytes()
    record = packed.samples[9]
    for place in (record.joints[0] + 5000, len(good) - 1, 3):
        bad = bytearray(good)
        bad[place] ^= 16
        shard.write_bytes(bad)
        with pytest.raises(InputError, match=r"shard-000001.tar is damaged.*overwrite"):
            PackedSet.open(tmp_path / "out").verify()
    for place in range(128):
        bad = bytearray(good)
        bad[record.joints[0] + place] ^= 2
        shard.write_bytes(bad)
        with suppress(InputError):
            assert PackedSet.open(tmp_path / "out").load([record.key]).joints.shape[3:] == (25, 2)
    bad = bytearray(good)
    bad[record.joints[0] + 60] ^= 1
    shard.write_bytes(bad)
    with pytest.raises(InputError, match=r"shard-000001.tar is damaged"):
        PackedSet.open(tmp_path / "out").load([record.key])
    shard.write_bytes(good[:-600])
    with pytest.raises(InputError, match=r"shard-000001.tar has \d+ bytes"):
        PackedSet.open(tmp_path / "out")
    with pytest.raises(InputError, match=r"shard-000001.tar is cut short"):
        shard.write_bytes(good[: record.joints[0] + 100])
        packed.load([record.key])
    shard.unlink()
    with pytest.raises(InputError, match=r"shard-000001.tar is missing"):
        PackedSet.open(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ('{"version": 9}', "has version 9, this code reads version 1"),
        ('{"version": 1}', "lacks content_id"),
        ("[]", "has version None"),
    ],
)
def test_manifests_that_cannot_be_read_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        PackedSet.open(tmp_path)


def test_folder_without_manifest_is_no_set(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="is not a packed set"):
            PackedSet.open(path)


def test_plain_webdataset_reads_the_shards(packed: PackedSet, keys: list[str]) -> None:
    assert os.environ["WDS_SECURE"] == "1"
    import webdataset

    urls = [str(packed.path / shard["name"]) for shard in packed.manifest["shards"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert sorted(sample["__key__"] for sample in samples) == keys
    for sample in samples[:7]:
        rows = packed.load([sample["__key__"]])
        assert set(sample) >= {"joints.npy", "json", "text.npy"}
        np.testing.assert_array_equal(sample["joints.npy"], rows.joints[0][..., : sample["joints.npy"].shape[3]])
        assert rows.text is not None and rows.text_id is not None
        np.testing.assert_array_equal(sample["text.npy"], rows.text[0])
        assert sample["json"]["label"] == rows.label[0] and sample["json"]["caption"]["id"] == rows.text_id[0]
