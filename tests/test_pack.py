"""Packing: the same bytes however it is done, complete or absent, one packer at a time, nothing dropped in silence."""

import contextlib
import errno
import io
import json
import multiprocessing
import os
import signal
import socket
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.text import HashText
from shards import manifest, workers
from shards.claim import Claim
from shards.errors import InputError
from shards.manifest import Caption
from shards.pack import pack
from shards.stream import PackedSet
from tests.toy import Toy


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def neighbours(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("jobs", [2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path, jobs: int) -> None:
    source = Toy(count=23, texts=("waves", "sits down", "kicks"), broken=("K00007",))
    pack(source, tmp_path / "one", features=HashText(), jobs=1, per_shard=4)
    pack(source, tmp_path / "many", features=HashText(), jobs=jobs, per_shard=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert neighbours(tmp_path) == ["many", "one"]


def test_manifest_says_where_each_member_lies(tmp_path: Path) -> None:
    source = Toy(count=9, texts=("waves", "sits"))
    report = pack(source, tmp_path / "out", features=HashText(), per_shard=4)
    about = manifest.read(tmp_path / "out")
    assert (about["samples"], about["benchmark"], about["normalise"], about["classes"]) == (9, "synthetic", "none", ["a", "b", "c"])
    assert [shard["count"] for shard in about["shards"]] == [4, 4, 1]
    assert about["content_id"] == report.content_id
    for shard in about["shards"]:
        path = tmp_path / "out" / shard["name"]
        assert path.stat().st_size == shard["bytes"]
        data = path.read_bytes()
        with tarfile.open(path) as tar:
            members = {info.name: (info.offset_data, info.size, info.mtime, info.uid, info.uname) for info in tar}
        assert list(members) == [f"{s['key']}.{m}" for s in shard["samples"] for m in ("joints.npy", "json", "text.npy")]
        for entry in shard["samples"]:
            assert members[f"{entry['key']}.joints.npy"] == (*entry["joints"], 0, 0, "")
            offset, size = entry["joints"]
            joints = np.load(io.BytesIO(data[offset : offset + size]), allow_pickle=False)
            np.testing.assert_array_equal(joints.transpose(3, 1, 2, 0), source.read(entry["key"]).bodies)
            assert (joints.dtype, joints.shape[1], joints.shape[3]) == (np.float32, entry["frames"], entry["persons"])
            offset, size = entry["json"]
            facts = json.loads(data[offset : offset + size])
            assert facts["caption"] == {"text": facts["caption"]["text"], "provenance": "", "id": entry["text_id"]}
            assert facts["frames"] == entry["frames"] and facts["label"] == entry["label"]


def test_content_id_follows_the_content_alone(tmp_path: Path) -> None:
    def content(name: str, source: Toy, **options: object) -> str:
        return pack(source, tmp_path / name, **options).content_id  # type: ignore[arg-type]

    first = content("a", Toy(), per_shard=3)
    assert content("b", Toy(), per_shard=7, jobs=2) == first
    others = {
        content("c", Toy(seed=1)),
        content("d", Toy(count=19)),
        content("e", Toy(), dtype="float16"),
        content("f", Toy(texts=("waves",))),
        content("g", Toy(texts=("waves",)), features=HashText()),
        content("h", Toy(texts=("sits",))),
        content("i", Toy(), captions={f"K{i:05d}": Caption("waves", "vlm") for i in range(20)}),
        content("j", Toy(options={"label": "label,correct"})),
        first,
    }
    assert len(others) == 9


def test_finished_set_is_left_alone_and_another_one_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(Toy(broken=("K00003",)), out, per_shard=8)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = pack(Toy(broken=("K00003",)), out, per_shard=8)
    assert again.up_to_date and "nothing to do" in again.lines()[0]
    assert again.broken == {"truncated": ["K00003"]} and again.samples == 19
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(InputError, match=r"holds another set.*--mode overwrite"):
        pack(Toy(seed=1), out)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    changed = pack(Toy(seed=1), out, mode="overwrite", per_shard=50)
    assert PackedSet.open(out).content_id == changed.content_id and neighbours(out) == ["manifest.json", "shard-000000.tar"]
    assert neighbours(tmp_path) == ["out"]


def test_finished_set_that_is_damaged_is_named(tmp_path: Path) -> None:
    pack(Toy(), tmp_path / "out", per_shard=8)
    os.truncate(tmp_path / "out" / "shard-000001.tar", 5000)
    with pytest.raises(InputError, match=r"shard-000001.tar has 5000 bytes.*overwrite"):
        pack(Toy(), tmp_path / "out", per_shard=8)


def test_folders_that_are_no_packed_set_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("words")
    for mode in ("incremental", "overwrite"):
        with pytest.raises(InputError, match="holds other files"):
            pack(Toy(), tmp_path / "thesis", mode=mode)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        pack(Toy(), tmp_path / "file")
    with pytest.raises(InputError, match="cannot make"):
        pack(Toy(), tmp_path / "file" / "below" / "out")
    (tmp_path / "empty").mkdir()
    assert pack(Toy(), tmp_path / "empty").samples == 20
    assert neighbours(tmp_path) == ["empty", "file", "thesis"] and neighbours(tmp_path / "thesis") == ["chapter.tex"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_packer_is_continued_to_the_same_bytes(tmp_path: Path, jobs: int) -> None:
    out, per_shard = tmp_path / "out", 3
    context = multiprocessing.get_context("fork")
    packer = context.Process(target=pack, args=(Toy(count=30, seconds=0.02), out), kwargs={"per_shard": per_shard, "jobs": jobs})
    packer.start()
    done = tmp_path / "out.packing" / "try.0000" / "done"
    deadline = time.monotonic() + 20
    while len(list(done.glob("shard-*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert packer.pid is not None
    os.kill(packer.pid, signal.SIGKILL)
    packer.join()
    assert not out.exists() and len(list(done.glob("shard-*.json"))) >= 3
    victim = sorted((tmp_path / "out.packing" / "try.0000" / "set").glob("*.tar"))[0]
    data = bytearray(victim.read_bytes())
    data[700] ^= 1
    victim.write_bytes(data)
    report = pack(Toy(count=30), out, per_shard=per_shard)
    assert 2 <= report.reused < 10
    pack(Toy(count=30), tmp_path / "whole", per_shard=per_shard)
    assert contents(out) == contents(tmp_path / "whole")
    assert neighbours(tmp_path) == ["out", "whole"]


def test_workers_that_outlive_their_packer_spoil_nothing(tmp_path: Path) -> None:
    out, slow = tmp_path / "out", Toy(count=8, seconds=0.1)
    context = multiprocessing.get_context("fork")
    packer = context.Process(target=pack, args=(slow, out), kwargs={"per_shard": 4, "jobs": 2})
    packer.start()
    halves = tmp_path / "out.packing" / "try.0000" / "set"
    deadline = time.monotonic() + 20
    while len(list(halves.glob(".*.part"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert packer.pid is not None
    os.kill(packer.pid, signal.SIGKILL)
    packer.join()
    late = Toy(count=8, seed=7, seconds=0.02)
    pack(late, out, per_shard=4)
    time.sleep(0.6)
    PackedSet.open(out).verify()
    pack(late, tmp_path / "whole", per_shard=4)
    assert contents(out) == contents(tmp_path / "whole")
    assert neighbours(tmp_path) == ["out", "whole"]


def test_shards_of_other_inputs_are_not_taken_over(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        pack(Toy(count=20, broken=("K00018", "K00019")), tmp_path / "out", per_shard=2)
    report = pack(Toy(count=20, seed=5), tmp_path / "out", per_shard=3)
    assert report.reused == 0
    pack(Toy(count=20, seed=5), tmp_path / "whole", per_shard=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_second_packer_is_told_who_the_first_is(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path / "out.packing")
    with pytest.raises(InputError, match=rf"in use by pid {os.getpid()} on {socket.gethostname()} since 20.*remove"):
        pack(Toy(), tmp_path / "out")
    claim.release()
    assert not (tmp_path / "out.packing").exists()
    assert pack(Toy(), tmp_path / "out").samples == 20


def test_claims_of_the_dead_and_of_other_hosts(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path / "f")
    owner = json.loads(claim.record.read_text())
    claim.record.write_text(json.dumps({**owner, "started": "1"}))
    second = Claim.take(tmp_path / "f")
    assert second.record.name == "owner.0001.json"
    second.record.write_text(json.dumps({**owner, "host": "elsewhere", "pid": 4}))
    with pytest.raises(InputError, match="pid 4 on elsewhere"):
        Claim.take(tmp_path / "f")


def _race(folder: Path, start: float, answers: "multiprocessing.SimpleQueue[str]") -> None:
    time.sleep(max(0.0, start - time.time()))
    try:
        Claim.take(folder)
        answers.put("won")
        time.sleep(0.5)
    except InputError:
        answers.put("lost")


def test_only_one_of_many_claims_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    racers = [context.Process(target=_race, args=(tmp_path / "f", time.time() + 0.2, answers)) for _ in range(6)]
    for racer in racers:
        racer.start()
    said = sorted(answers.get() for _ in racers)
    for racer in racers:
        racer.join()
    assert said == ["lost"] * 5 + ["won"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_full_disk_is_one_clear_line_and_finished_shards_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    whole = manifest.write_file

    def full(path: Path, chunks: object) -> None:
        if path.name == "shard-000003.tar":
            time.sleep(0.3)  # so that the shards before are finished, whoever builds them
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path, chunks)  # type: ignore[arg-type]

    monkeypatch.setattr("shards.shard.write_file", full)
    with pytest.raises(InputError, match=rf"disk is full: {tmp_path} .*finished shards are kept"):
        pack(Toy(), tmp_path / "out", per_shard=4, jobs=jobs)
    assert neighbours(tmp_path) == ["out.packing"] and not list(tmp_path.rglob(".*.part"))
    monkeypatch.undo()
    assert pack(Toy(), tmp_path / "out", per_shard=4).reused >= 3
    pack(Toy(), tmp_path / "whole", per_shard=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_half_a_file_is_never_left_behind(tmp_path: Path) -> None:
    def chunks() -> object:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        manifest.write_file(tmp_path / "file", chunks())  # type: ignore[arg-type]
    assert neighbours(tmp_path) == []


def test_what_is_dropped_is_counted_by_reason(tmp_path: Path) -> None:
    source = Toy(count=100, broken=("K00003", "K00090", "K00091", "K00092"), left_out=("K00004", "K00005"))
    report = pack(source, tmp_path / "out", per_shard=10)
    assert report.samples == 94
    assert report.broken == {"truncated": ["K00003", "K00090", "K00091", "K00092"]}
    assert report.excluded == {"missing skeleton list": ["K00004", "K00005"]}
    assert "dropped: 4 (truncated): K00003, K00090, K00091, ..." in report.lines()
    assert manifest.read(tmp_path / "out")["dropped"] == {**report.broken, **report.excluded}


def test_too_much_that_is_broken_stops_packing(tmp_path: Path) -> None:
    source = Toy(count=20, broken=("K00003", "K00009"))
    with pytest.raises(InputError, match=r"2 of 20 samples cannot be read \(2 truncated; first: K00003.*--max-broken"):
        pack(source, tmp_path / "out")
    assert pack(source, tmp_path / "out", max_broken=0.1).samples == 18
    with pytest.raises(InputError, match="20 of 20"):
        pack(Toy(broken=tuple(f"K{i:05d}" for i in range(20))), tmp_path / "all", max_broken=1.0)


def test_numbers_that_are_not_finite_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Toy.read

    def huge(self: Toy, key: str) -> object:
        clip = read(self, key)
        if key == "K00002":
            clip.bodies[0, 0, 0, 0] = 1e6
        return clip

    monkeypatch.setattr(Toy, "read", huge)
    assert pack(Toy(), tmp_path / "wide").samples == 20
    assert pack(Toy(), tmp_path / "narrow", dtype="float16").broken == {"too large for float16": ["K00002"]}


def test_what_half_precision_costs_the_motion_stream_is_said(tmp_path: Path) -> None:
    report = pack(Toy(), tmp_path / "half", dtype="float16", per_shard=6)
    packed = PackedSet.open(tmp_path / "half")
    lost, moved = 0.0, 0.0
    for key in (record.key for record in packed.samples):
        steps = np.diff(Toy().read(key).bodies, axis=1).astype(np.float64)
        stored = packed.joints(packed.samples[packed.index[key]]).astype(np.float64).transpose(3, 1, 2, 0)
        lost, moved = lost + np.square(np.diff(stored, axis=1) - steps).sum(), moved + np.square(steps).sum()
    assert report.motion_error == pytest.approx(np.sqrt(lost / moved), rel=1e-3)
    assert any(line.startswith("float16: the motion stream is off by 0.0") for line in report.lines())
    assert pack(Toy(), tmp_path / "whole").motion_error is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise": "best"}, "unknown normalisation 'best'; one of auto, agcn"),
        ({"mode": "extend"}, "unknown mode 'extend'; one of incremental, overwrite"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"per_shard": 0}, "per_shard is 0"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pack(Toy(), tmp_path / "out", **options)  # type: ignore[arg-type]
    assert neighbours(tmp_path) == []


def test_bad_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no sample"):
        pack(Toy(count=0), tmp_path / "out")
    with pytest.raises(InputError, match="skeleton layout 'ape'"):
        pack(Toy(skeleton="ape"), tmp_path / "out")
    samples = Toy(count=2).samples()
    monkeypatch.setattr(Toy, "samples", lambda self: [samples[0], type(samples[1])("a.b", 0)])
    with pytest.raises(InputError, match=r"'a\.b' has a dot"):
        pack(Toy(), tmp_path / "out")


def test_worker_that_dies_is_a_bug_not_a_set(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended by itself"):
        pack(Toy(dies_at="K00011"), tmp_path / "out", per_shard=3, jobs=2)
    assert not (tmp_path / "out").exists()
    assert pack(Toy(), tmp_path / "out", per_shard=3, jobs=2).reused >= 2


def _square(i: int) -> int:
    if i == 40:
        raise KeyError("forty")
    return i * i


def test_workers_do_everything_once_and_pass_errors_on() -> None:
    assert sorted(workers.each(_square, 40, 3)) == [(i, i * i) for i in range(40)]
    with pytest.raises(KeyError) as found:
        list(workers.each(_square, 41, 2))
    assert "in _square" in "".join(found.value.__notes__)
    with contextlib.closing(workers.each(_square, 40, 2)) as some:
        next(some)
    assert not multiprocessing.active_children()


def test_progress_is_told_in_this_process(tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    pack(Toy(count=10), tmp_path / "out", per_shard=3, jobs=2, progress=lambda done, total: told.append((done, total, os.getpid())))
    assert {pid for _, _, pid in told} == {os.getpid()}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[0][:2] == (0, 10) and told[-1][:2] == (10, 10)


def test_texts_that_give_the_class_away_are_said(tmp_path: Path) -> None:
    by_class = pack(Toy(count=30, texts=("waves", "sits", "kicks"), provenance="label"), tmp_path / "a")
    assert by_class.text is not None
    assert (by_class.text["determines_label"], by_class.text["one_per_label"], by_class.text["distinct"]) == (True, True, 3)
    assert by_class.text["provenance"] == "label"
    assert any("these 3 texts determine the label" in line for line in by_class.lines())
    part = pack(Toy(count=30, texts=("waves", "waves", "kicks")), tmp_path / "d")
    assert part.text is not None and part.text["one_per_label"] and not part.text["determines_label"]
    assert any("the class determines the text: these 2 texts" in line for line in part.lines())
    own = pack(Toy(count=30, texts=tuple(f"text {i}" for i in range(30))), tmp_path / "b").text
    assert own is not None and not own["determines_label"] and not own["one_per_label"]
    mixed = pack(Toy(count=30, texts=("waves", "sits")), tmp_path / "c").text
    assert mixed is not None and not mixed["determines_label"]


def test_samples_without_caption_are_an_error_or_left_out(tmp_path: Path) -> None:
    captions = {f"K{i:05d}": Caption("waves", "vlm" if i else "motion") for i in range(15)} | {"other": Caption("x")}
    with pytest.raises(InputError, match=r"5 of 20 samples have no caption \(K00015.*--missing-text drop"):
        pack(Toy(), tmp_path / "out", captions=captions)
    report = pack(Toy(), tmp_path / "out", captions=captions, features=HashText(), missing_text="drop")
    assert report.samples == 15 and len(report.excluded["no caption"]) == 5
    assert report.text is not None
    assert report.text["provenance"] == "motion" and report.text["provenances"] == {"motion": 1, "vlm": 14}
    assert "text features: hash (offline stand-in, not CLIP)" in report.lines()
    with pytest.raises(InputError, match="none of the 1 captions"):
        pack(Toy(), tmp_path / "x", captions={"other": Caption("x")})


def test_samples_without_caption_stay_where_training_leaves_them_out(tmp_path: Path) -> None:
    captions = {f"K{i:05d}": Caption("waves", "vlm") for i in range(14)}
    unusable = {"K00014": "flagged refusal", "K00015": "flagged refusal", "K00016": "unreadable video", "other": "empty"}
    with pytest.raises(
        InputError, match=r"6 of 20 .*K00016, \.\.\.; of these 2 flagged refusal, 1 unreadable video\).*--missing-text train"
    ):
        pack(Toy(), tmp_path / "out", captions=captions, unusable=unusable)
    settings = {"captions": captions, "unusable": unusable, "features": HashText(), "missing_text": "train", "per_shard": 6}
    report = pack(Toy(broken=("K00019",)), tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert report.samples == 19 and report.excluded == {} and report.text is not None
    missing = {
        "no caption": ["K00017", "K00018"],
        "no caption: flagged refusal": ["K00014", "K00015"],
        "no caption: unreadable video": ["K00016"],
    }
    assert report.text["missing"] == missing and manifest.read(tmp_path / "out")["text"] == report.text
    assert "text: 1 distinct captions for 14 samples, provenance vlm" in report.lines()
    assert "no caption, so no text term where they train: 2 (no caption: flagged refusal): K00014, K00015" in report.lines()
    records = PackedSet.open(tmp_path / "out").samples
    assert (
        {r.key for r in records if r.text_id is None}
        == {r.key for r in records if r.text is None}
        == {k for v in missing.values() for k in v}
    )
    again = pack(Toy(broken=("K00019",)), tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert again.up_to_date and again.text == report.text
    dropped = pack(Toy(broken=("K00019",)), tmp_path / "drop", **{**settings, "missing_text": "drop"})  # type: ignore[arg-type]
    assert dropped.excluded == {**missing, "no caption": ["K00017", "K00018", "K00019"]} and dropped.text is not None
    assert "missing" not in dropped.text and dropped.content_id != report.content_id


def test_several_captions_of_a_sample_are_packed_side_by_side(tmp_path: Path) -> None:
    captions = {f"K{i:05d}": Caption("waves", "import", tuple(f"text {n} of {i % 3}" for n in range(i % 4))) for i in range(20)}
    report = pack(Toy(), tmp_path / "out", captions=captions, features=HashText(), per_shard=7)
    assert report.text is not None and (report.text["distinct"], report.text["most"]) == (10, 4)
    assert "text: 10 distinct captions for 20 samples, provenance import, up to 4 of one sample" in report.lines()
    packed = PackedSet.open(tmp_path / "out")
    assert [len(record.more) for record in packed.samples] == [i % 4 for i in range(20)]
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        names = [name for name in tar.getnames() if name.startswith("K00003")]
    assert names == [f"K00003.{member}" for member in ("joints.npy", "json", "text.npy", "text.1.npy", "text.2.npy", "text.3.npy")]
    assert [text["text"] for text in json.loads(packed.metadata("K00003"))["caption"]["more"]] == [f"text {n} of 0" for n in range(3)]
    for record, caption in zip(packed.samples, captions.values()):
        described = record.with_each_caption()
        for one, words in zip(described, caption.texts, strict=True):
            np.testing.assert_array_equal(packed.text(one), HashText()(words))
            assert (one.text_id, one.tokens) == (manifest.text_id(words), HashText().tokens(words))
    one_each = {key: Caption(caption.text, "import") for key, caption in captions.items()}
    assert pack(Toy(), tmp_path / "one", captions=one_each, features=HashText()).content_id != report.content_id


def test_the_names_of_sets_without_these_features_are_as_they_were(tmp_path: Path) -> None:
    ids = [
        pack(Toy(count=5, texts=("waves", "sits")), tmp_path / "a", features=HashText()).content_id,
        pack(Toy(count=5), tmp_path / "b", captions={f"K{i:05d}": Caption(f"t{i}", "vlm") for i in range(5)}).content_id,
    ]
    assert [id[:16] for id in ids] == ["0b4fd3035e662f3e", "c7ec573af1edd096"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 30), per_shard=st.integers(1, 35), jobs=st.integers(1, 2))
def test_every_key_is_packed_once(tmp_path_factory: pytest.TempPathFactory, count: int, per_shard: int, jobs: int) -> None:
    out = tmp_path_factory.mktemp("packed") / "out"
    report = pack(Toy(count=count), out, per_shard=per_shard, jobs=jobs)
    assert report.shards == -(-count // per_shard)
    assert [record.key for record in PackedSet.open(out).samples] == [f"K{i:05d}" for i in range(count)]
