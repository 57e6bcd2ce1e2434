"""Captioning as a stage: which clips, what becomes of bad ones, what is asked twice, what a kill costs, what the gate does to the stage."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from jobs import caption, stages
from jobs import caption_slices as slices
from jobs.caption import GATHER, Caption, Looks
from jobs.caption_batch import Look, ahead, describe
from jobs.caption_clips import choose
from jobs.caption_gate import Limits
from jobs.caption_prompts import prompts
from jobs.caption_record import Answer, Ask, CaptionRecord, VideoClip
from jobs.pack import Pack
from jobs.run_folder import read_json
from launch import caption as command
from launch.evidence import collect
from launch.queued import DONE
from launch.shown import details, line_of
from launch.submission import Submission
from launch.unit import Unit
from launch.view import look
from shards.errors import InputError
from shards.stream import PackedSet
from shards.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parents[1]
GOOD = "A person raises the left arm to the head and lowers it again."
REFUSAL = "I'm sorry, I cannot see any person in this image."
COUNT: Callable[[str], int] = lambda text: len(text.split())


@dataclass
class Toy:
    """A captioner that says what a function of (key, prompt) says."""

    say: Callable[[str, str], Answer] = lambda key, prompt: Answer((f"{GOOD[:-1]}, take {key}.",))
    sees: Literal["strip", "skeleton", "nothing"] = "skeleton"
    name: str = "toy"
    model: str = "tests"
    revision: str = "1"
    provenance: str = "vlm"
    decode: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        self.batches.append(len(asks))
        self.asked += [(ask.key, ask.prompt) for ask in asks]
        return [self.say(ask.key, ask.prompt) for ask in asks]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 synthetic clips of 4 subjects with rendered videos and the boxes of everybody in them."""
    folder = tmp_path_factory.mktemp("set") / "raw"
    write_synthetic(folder, subjects=4, cameras=(2,), actions=4, frames=(20, 24), videos=True)
    return folder


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Stands in for whatever captioner a job names, and needs no weights."""
    made = Toy()
    monkeypatch.setattr(caption, "captioner_of", lambda job: made)
    monkeypatch.setattr(Caption, "check_weights", lambda job: None)
    return made


def records(out: Path) -> list[CaptionRecord]:
    path = out / slices.CAPTIONS
    return [CaptionRecord.of(json.loads(line), str(path)) for line in path.read_text().splitlines()]


# --- which clips


def test_only_the_training_part_unless_all_are_asked_for(raw: Path) -> None:
    every = choose(None, None, raw, None, "", False, None)
    assert {key[8:12] for key in every.keys} == {"P001", "P003"} and len(every.keys) == 8  # odd subjects train under xsub
    assert every.lines[0] == f"training part of synthetic by xsub ({raw}): 8 of 16 samples"
    assert len(choose(None, None, raw, None, "", True, None).keys) == 16
    other = choose(None, None, raw, None, "xset", False, None)
    assert {key[:4] for key in other.keys} == {"S002"}
    with pytest.raises(InputError, match="can serve xsub, xset"):
        choose(None, None, raw, None, "xview", False, None)


def clips(*keys: str) -> list[VideoClip]:
    return [VideoClip(key, Path(f"/videos/{key}_rgb.avi")) for key in keys]


def test_names_say_who_trains_where_no_data_are_named(tmp_path: Path, raw: Path) -> None:
    names = ["S001C001P001R001A001", "S001C001P002R001A001", "S001C001P003R001A001", "S001C002P005R002A008"]
    ntu = choose(clips(*names), None, None, tmp_path, "", False, None)
    # subjects 1 and 2 train, 3 does not; the last name is on the authors' list of missing skeletons
    assert ntu.keys == names[:2] and ntu.lines[0] == "training part of ntu60 by xsub (the clips' names): 2 of 3 samples"
    invented = choose(clips("S001C001P001R001A001", "S001C001P002R001A001"), None, None, raw / "videos", "", False, None)
    assert invented.keys == ["S001C001P001R001A001"] and "synthetic" in invented.lines[0]  # about.json above says that it is not NTU
    with pytest.raises(InputError, match=r"which clips train and which test.*--data.*--all"):
        choose(clips("wave", "kick"), None, None, tmp_path, "", False, None)
    assert choose(clips("wave", "kick"), None, None, tmp_path, "", True, None).keys == ["kick", "wave"]


def test_clips_without_a_video_are_counted(raw: Path, tmp_path: Path) -> None:
    chosen = choose(clips("S001C002P001R001A001", "S001C002P002R001A001", "elsewhere"), None, raw, tmp_path, "", False, None)
    assert chosen.keys == ["S001C002P001R001A001"] and "7 of them have no video" in chosen.lines
    with pytest.raises(InputError, match="no video belongs to a clip that is to be captioned: 'elsewhere' is not among those of"):
        choose(clips("elsewhere"), None, raw, tmp_path, "", False, None)
    assert choose(None, ["S001C002P001R001A001"], raw, None, "", False, None).lines[1] == "7 of them have no published caption"


def test_a_file_of_keys(raw: Path, tmp_path: Path) -> None:
    only = tmp_path / "keys.txt"
    only.write_text("S002C002P003R001A002\n\nS001C002P001R001A001\n")
    assert choose(None, None, raw, None, "", False, only).keys == ["S001C002P001R001A001", "S002C002P003R001A002"]
    only.write_text("S001C002P002R001A001\n")
    with pytest.raises(InputError, match=r"1 of 1 keys \(first: 'S001C002P002R001A001'\) are not among the clips \(training part of"):
        choose(None, None, raw, None, "", False, only)
    with pytest.raises(InputError, match="cannot be read"):
        choose(None, None, raw, None, "", False, tmp_path / "none.txt")


def test_published_captions_and_their_keys(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "published.json"
    told = {"S001C002P001R001A001": [GOOD, "Someone lifts the left hand and puts it down."], "S001C002P002R001A001": "A person waves."}
    path.write_text(json.dumps(told))
    job = Caption(tmp_path / "out", captions=path, data=raw)
    assert job.name == "import" and "7 of them have no published caption" in job.chosen().lines
    job()
    (record,) = records(job.out)
    assert (record.text, record.texts, record.provenance) == (GOOD, ("Someone lifts the left hand and puts it down.",), "import")
    path.write_text(json.dumps({**told, "S009C002P001R001A001": "A person waves."}))
    with pytest.raises(InputError, match=r"no sample of .* has the key 'S009C002P001R001A001'"):
        job.chosen()
    with pytest.raises(InputError, match=r"--captions .*none\.json: no such file"):
        replace(job, captions=tmp_path / "none.json").chosen()


# --- one batch


def said(look_at: Sequence[Look], toy: Toy, ids: Sequence[str] = ()) -> list[CaptionRecord]:
    return [record for record, _ in describe(look_at, toy, prompts(ids) if ids else (), COUNT, Limits())]


def test_what_the_gate_flags_is_asked_once_more() -> None:
    first, second = prompts(["describe-en-1", "again-en-1"])

    def answer(key: str, prompt: str) -> Answer:
        if key == "good" or (key == "mends" and prompt == second.words):
            return Answer((GOOD,), hidden=np.full((2, 3), len(prompt), np.float16))
        return Answer((REFUSAL if prompt == first.words else "",), hidden=np.zeros((1, 3), np.float16))

    toy = Toy(answer, sees="strip")
    made = describe([Look(Ask(key)) for key in ("good", "mends", "never")], toy, (first, second), COUNT, Limits())
    good, mends, never = (record for record, _ in made)
    assert toy.batches == [3, 2] and [key for key, _ in toy.asked] == ["good", "mends", "never", "mends", "never"]
    assert (good.asked, good.prompt, good.usable) == (("describe-en-1",), "describe-en-1", True)
    assert (mends.asked, mends.prompt, mends.usable) == (("describe-en-1", "again-en-1"), "again-en-1", True)
    assert (never.asked, never.prompt, never.flags) == (("describe-en-1", "again-en-1"), "describe-en-1", ("refusal",))
    kept = [hidden[0, 0] if hidden is not None else None for _, hidden in made]
    assert kept == [len(first.words), len(second.words), 0.0]  # the features belong to the words that are kept


def test_an_error_of_a_clip_is_no_error_of_the_batch() -> None:
    toy = Toy(lambda key, prompt: Answer(error="server: gave up after 5 tries") if key == "b" else Answer((GOOD,)), sees="strip")
    a, b, c = said(
        [Look(Ask("a")), Look(Ask("b")), Look(Ask("c"), "unreadable video: c.avi ends early", "c.avi", "none")],
        toy,
        ["describe-en-1", "again-en-1"],
    )
    assert a.usable and not b.usable and b.error == "server: gave up after 5 tries" and b.asked == ("describe-en-1",)
    assert (c.error, c.video, c.asked, c.text) == ("unreadable video: c.avi ends early", "c.avi", (), "")
    assert [key for key, _ in toy.asked] == ["a", "b"]


def test_several_published_captions_of_a_clip() -> None:
    texts = (REFUSAL, GOOD, "", "Someone lifts the right knee.")
    toy = Toy(lambda key, prompt: Answer(texts if key == "a" else texts[:1]), sees="nothing", provenance="import")
    a, b = said([Look(Ask("a")), Look(Ask("b"))], toy)
    assert (a.text, a.texts, a.flags) == (GOOD, ("Someone lifts the right knee.",), ())
    assert (b.text, b.texts, b.flags) == (REFUSAL, (), ("refusal",))


def test_the_next_batch_is_looked_at_while_this_one_is_described() -> None:
    begun = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            begun.set()
        return number * number

    for made in ahead([0, 1, 2], make):
        if made == 0:
            assert begun.wait(30), "the second was not begun while the first was in use"
    assert list(ahead([3, 1, 2], make)) == [9, 1, 4] and list(ahead([], make)) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead([1, 0], lambda number: 1 / number))


# --- the stage


def test_a_kill_inside_a_slice_costs_a_batch(raw: Path, toy: Toy, tmp_path: Path) -> None:
    job = Caption(tmp_path / "a", data=raw, all=True, slice=5, batch=2)
    whole = job()
    assert whole["clips"] == 16 and len(toy.asked) == 16
    answer, calls = toy.say, 0

    def dies(key: str, prompt: str) -> Answer:
        nonlocal calls
        calls += 1
        if calls == 8:  # in the second batch of the second slice
            raise SystemExit("killed")
        return answer(key, prompt)

    again = replace(job, out=tmp_path / "b")
    toy.say, toy.asked = dies, []
    with pytest.raises(SystemExit):
        again()
    assert len(slices.written(again.out, "0001")) == 2 and not slices.is_finished(again.out, "0001")
    toy.asked = []
    report = again()
    assert len(toy.asked) == 16 - 7 and report["clips"] == 16
    assert (tmp_path / "b" / slices.CAPTIONS).read_bytes() == (tmp_path / "a" / slices.CAPTIONS).read_bytes()
    toy.asked = []
    stamp = (again.out / slices.CAPTIONS).stat().st_mtime_ns
    assert again()["sha256"] == whole["sha256"] and not toy.asked  # finished, it does nothing
    assert (again.out / slices.CAPTIONS).stat().st_mtime_ns == stamp


def test_a_clip_that_kills_processes_is_found_and_left_out(raw: Path, toy: Toy, tmp_path: Path) -> None:
    job = Caption(tmp_path / "out", data=raw, all=True, slice=16, batch=2)
    plan, _ = job.plan()
    keys = [clip["key"] for clip in slices.clips_of(plan)]
    answer = toy.say

    def dies(key: str, prompt: str) -> Answer:
        if key == keys[5]:
            raise RuntimeError("device-side assert")  # or a signal: nobody hears of it
        return answer(key, prompt)

    toy.say, reached = dies, []
    for _ in range(4):
        with pytest.raises(RuntimeError):
            job("0000")
        reached.append(len(slices.written(job.out, "0000")))
    assert reached == [4, 4, 5, 5]  # the third goes clip by clip, the fourth dies at the same clip alone
    job("0000")
    assert toy.batches[-7:] == [1, 1, 1, 1, 2, 2, 2]  # ten are left: those of two batches one by one, then in batches again
    with pytest.raises(InputError, match=r"without caption: 1 of 16 .*: crash 1\..*--errors again"):
        job(GATHER)
    assert json.loads((job.out / caption.REFUSED).read_text().splitlines()[5])["error"].startswith("crash: 2 processes died")
    toy.say = answer
    assert replace(job, errors="again")()["summary"]["usable"] == 16


def test_an_end_that_is_no_clips_fault_is_not_held_against_one(raw: Path, toy: Toy, tmp_path: Path) -> None:
    job = Caption(tmp_path / "out", data=raw, all=True, slice=16, batch=4)
    job.plan()
    answer = toy.say

    def refuses(key: str, prompt: str) -> Answer:
        raise InputError("the server does not know this key")

    toy.say = refuses
    for _ in range(3):
        with pytest.raises(InputError):
            job("0000")
    toy.say, toy.batches = answer, []
    job("0000")
    assert toy.batches == [4, 4, 4, 4]


def test_parts_are_done_in_any_order_and_gathered_last(raw: Path, toy: Toy, tmp_path: Path) -> None:
    job = Caption(tmp_path / "out", data=raw, all=True, slice=6)
    description = stages.write_job(job, tmp_path / "job.json")
    plan, _ = job.plan()
    assert plan.names == ["0000", "0001", "0002"]
    with pytest.raises(InputError, match=r"3 of 3 slices are not finished \(first: 0000\)"):
        stages.run("caption", description, GATHER)
    for part in ("0002", "0000", "0001"):
        assert not stages.finished("caption", description, part)
        assert stages.run("caption", description, part)["clips"] == plan.size(part)
        assert stages.finished("caption", description, part)
    assert not stages.finished("caption", description, GATHER)
    stages.run("caption", description, GATHER)
    assert stages.finished("caption", description, GATHER)
    assert [record.key for record in records(job.out)] == [clip["key"] for clip in slices.clips_of(plan)]
    stages.write_job(replace(job, limits=Limits(max_flagged=0.5)), description)
    assert not stages.finished("caption", description, GATHER), "other limits are another verdict"


def test_the_gate_fails_the_stage_before_any_training(raw: Path, toy: Toy, tmp_path: Path) -> None:
    toy.say = lambda key, prompt: Answer((REFUSAL if key.endswith("A001") else f"{GOOD[:-1]}, take {key}.",))
    job = Caption(tmp_path / "out", data=raw, all=True)
    with pytest.raises(
        InputError, match=r"the quality gate refuses these captions: flagged: 4 of 16 \(25\.0 %.*refusal 4.*--gate report"
    ) as told:
        job()
    assert "\n" not in str(told.value) and not (job.out / slices.CAPTIONS).exists() and len(toy.asked) == 16
    assert len((job.out / caption.REFUSED).read_text().splitlines()) == 16
    report = replace(job, gate="report")()
    assert not report["passed"] and "WORSE THAN THE LIMITS" in report["lines"][0] and len(toy.asked) == 16
    assert not (job.out / caption.REFUSED).exists() and sum(record.usable for record in records(job.out)) == 12
    with pytest.raises(InputError, match="the quality gate refuses"):  # what was let through by request does not stay through
        job()
    assert not (job.out / slices.CAPTIONS).exists()
    assert replace(job, limits=Limits(max_flagged=0.3))()["passed"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"captioner": "motion", "data": None}, "motion looks at skeletons: name raw data with --data"),
        ({"captioner": "ovis2"}, "ovis2 looks at videos: name their folder with --videos"),
        ({"captioner": "import"}, "name their file with --captions"),
        ({"captioner": "endpoint", "videos": Path("videos")}, "needs --endpoint URL and --model NAME"),
        ({"hidden": True}, "motion has no features of its own"),
        ({"slice": 0}, "--slice 0: at least 1"),
        ({"max_tokens": 0}, "--max-tokens 0: at least 1"),
        ({"videos": Path("videos"), "prompts": ("nonsense",)}, "prompt 'nonsense' is not known"),
        ({"protocol": "xviewer"}, "protocol 'xviewer' is not one that"),
    ],
)
def test_flags_that_cannot_be_meant(raw: Path, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        replace(Caption(tmp_path / "out", data=raw), **changes)()
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_named_one_line_each_before_anything_is_planned(raw: Path, tmp_path: Path) -> None:
    job = Caption(tmp_path / "out", videos=raw / "videos", data=raw, assets=tmp_path / "assets", model="nobody/has-this")
    with pytest.raises(InputError) as told:
        job()
    lines = str(told.value).splitlines()
    assert lines[1].strip().startswith("detector: yolov5mu") and lines[2].strip().startswith("captioner ovis2: nobody/has-this")
    assert not job.out.exists()


def test_another_prompt_is_another_set(raw: Path, toy: Toy, tmp_path: Path) -> None:
    job = Caption(tmp_path / "out", videos=raw / "videos", data=raw, detector="none", captioner="ovis2", height=32)
    job.plan()
    with pytest.raises(
        InputError,
        match=r'captions of another kind: prompts was \["describe-en-1", "again-en-1"\], now \["paper-en-1"\]; give another --out',
    ):
        replace(job, prompts=("paper-en-1",)).plan()
    replace(job, batch=3, gate="report", device="cpu", limits=Limits(max_flagged=0.4)).plan()  # how, not what


# --- videos


def test_bad_videos_are_records(raw: Path, toy: Toy, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    names = sorted((raw / "videos").iterdir())[:4]
    for path in names[:2]:
        (videos / path.name).write_bytes(path.read_bytes())
    (videos / names[2].name).write_bytes(b"")
    (videos / names[3].name).write_bytes(b"RIFF\0\0\0\0AVI " + bytes(range(256)) * 20)
    toy.sees = "strip"
    job = Caption(tmp_path / "out", videos=videos, all=True, captioner="ovis2", boxes=raw / "boxes.jsonl", height=64, frames=3)
    with pytest.raises(InputError, match=r"without caption: 2 of 4 \(50\.0 %, limit 2 %\): unreadable video 2"):
        job()
    replace(job, limits=Limits(max_errors=0.5))()
    good, other, empty, broken = records(job.out)
    assert good.usable and other.usable and good.crop == "person" and len(good.boxes) == len(good.frames) == 3
    assert good.video == names[0].name and good.detector.startswith("boxes boxes.jsonl sha256:")
    assert empty.error.startswith("unreadable video: ") and broken.error.startswith("unreadable video: ")
    assert {key for key, _ in toy.asked} == {good.key, other.key}

    (videos / names[2].name).write_bytes(names[2].read_bytes())  # fetched again
    toy.asked = []
    replace(job, limits=Limits(max_errors=0.5))()
    assert not toy.asked  # nothing is missing
    report = replace(job, limits=Limits(max_errors=0.5), errors="again")()
    assert [key for key, _ in toy.asked] == [empty.key] and report["summary"]["errors"] == {"unreadable video": 1}
    assert [record.usable for record in records(job.out)] == [True, True, True, False]
    # captions did not change, but the report that was thrown away is there again
    assert replace(job, limits=Limits(max_errors=0.5))()["sha256"] == report["sha256"]


def test_a_model_with_random_weights_fails_the_gate(raw: Path, tmp_path: Path) -> None:
    from tests.tiny_models import tiny_ovis2

    model = tiny_ovis2(tmp_path / "model")
    job = Caption(
        *(tmp_path / "out", raw / "videos", raw),
        model=str(model),
        boxes=raw / "boxes.jsonl",
        frames=3,
        height=56,
        max_tokens=64,
        tiles=1,
        slice=4,
        hidden=True,
        device="cpu",
    )
    with pytest.raises(InputError, match=r"the quality gate refuses these captions: flagged: [5678] of 8"):
        job()
    report = replace(job, gate="report")()
    found = records(job.out)
    assert not report["passed"] and len(found) == 8
    for record in found:
        assert record.asked == ("describe-en-1", "again-en-1") or record.usable
        assert record.captioner == "ovis2" and record.model == str(model) and record.revision and record.decode["max_tokens"] == 64
        if record.text:
            name = f"{[one.key for one in found].index(record.key) // 4:04d}"
            hidden = np.load(slices.hidden_path(job.out, name, record.key), allow_pickle=False)
            assert hidden.dtype == np.float16 and 1 <= len(hidden) <= 64


@pytest.mark.realdata
def test_real_clips_with_injected_boxes(real_data: Path, toy: Toy, tmp_path: Path) -> None:
    boxes = [
        {"key": key, "frame": frame, "boxes": [[width // 4, height // 8, width // 2, height - 10, 0.9]]}
        for key, count, width, height in (("pose_1", 120, 576, 576), ("pose_squats", 65, 720, 1280))
        for frame in range(count)
    ]
    (tmp_path / "boxes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in boxes))
    toy.sees = "strip"
    job = Caption(tmp_path / "out", videos=real_data / "video_samples", all=True, captioner="ovis2", boxes=tmp_path / "boxes.jsonl")
    assert job()["passed"]
    assert [(record.key, record.crop, len(record.frames)) for record in records(job.out)] == [
        ("pose_1", "person", 5),
        ("pose_squats", "person", 5),
    ]
    sheet = job.preview(2)
    assert Path(sheet["preview"]).read_bytes().startswith(b"\x89PNG") and "2 strips" in sheet["lines"][-1]


# --- what comes after, and around it


def test_packing_joins_the_folder(raw: Path, toy: Toy, tmp_path: Path) -> None:
    toy.say = lambda key, prompt: Answer((f"{GOOD[:-1]}, take {key}.",)) if not key.endswith("A001") else Answer((REFUSAL,))
    Caption(tmp_path / "captions", data=raw, gate="report")()
    job = Pack(raw, tmp_path / "packed", captions=tmp_path / "captions", missing_text="train", jobs=1)
    job()
    packed = PackedSet.open(job.out)
    with_text = {sample.key for sample in packed.samples if sample.text is not None}
    assert len(packed.samples) == 16 and with_text == {record.key for record in records(tmp_path / "captions") if record.usable}
    assert packed.manifest["text"] is not None and packed.manifest["text"]["provenance"] == "vlm"


def submitted(run: Path, job: Caption, names: Sequence[str]) -> Unit:
    """A unit whose slices were submitted as an array."""
    unit = Unit(run, "caption")
    description = stages.write_job(job, unit.folder / "job.json")
    unit.record(Submission("caption", str(description), list(names), [("7", 0, len(names))], 1, 1, 1, 0, {}, ""))
    return unit


def test_status_counts_clips(raw: Path, toy: Toy, tmp_path: Path) -> None:
    job = Caption(tmp_path / "out", data=raw, all=True, slice=6, batch=2)
    plan, _ = job.plan()
    unit = submitted(tmp_path / "runs" / "caption-out", job, plan.names)
    job("0000")
    attempt = slices.Attempt.begin(job.out, "0001")
    attempt.append([{"key": "S001C002P002R001A003", "text": GOOD}])
    (view,) = look(unit.run, ask=False)
    assert (view.step, view.steps, view.counted, view.parts["finished"]) == (7, 16, "clips", 1)
    assert "7/16 clips, 1/3 parts" in line_of(view) and "7/16 clips (44%), 1/3 parts" in details(view).plain
    for name in plan.names[1:]:
        job(name)
    (view,) = look(unit.run, ask=False)
    assert view.state in DONE and view.step == 16


def test_a_slice_that_advances_is_no_crash_in_a_row(raw: Path, toy: Toy, tmp_path: Path) -> None:
    job = Caption(tmp_path / "out", data=raw, all=True, slice=6)
    plan, _ = job.plan()
    unit = submitted(tmp_path / "runs" / "caption-out", job, plan.names)
    slices.Attempt.begin(job.out, "0001", tag="7_1.0.1").append([{"key": "a", "text": GOOD}])
    slices.Attempt.begin(job.out, "0001", tag="7_1.0.2").append([{"key": "b", "text": GOOD}])
    end = collect(unit, 137, {"ACSAR_TAG": "7_1.0.2"})
    assert (end.step_before, end.step_after, end.done) == (1, 2, False)
    nothing = collect(unit, 137, {"ACSAR_TAG": "7_1.0.3"})
    assert (nothing.step_before, nothing.step_after) == (2, 2)
    job("0001")
    assert collect(unit, 0, {"ACSAR_TAG": "7_1.0.4"}).done


def test_a_slice_without_a_model_starts_without_torch(raw: Path, tmp_path: Path) -> None:
    job = Caption(tmp_path / "out", data=raw, captioner="motion")
    job.plan()
    stages.write_job(job, tmp_path / "job.json")
    check = (
        "import sys, launch.task; from pathlib import Path; from jobs.worker import work; "
        f"code = work(Path({str(tmp_path / 'job.json')!r}), '0000', 'caption'); "
        "sys.exit(code or ' '.join({'torch', 'transformers', 'ultralytics', 'av', 'open_clip', 'mlflow'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == 8


def test_the_command(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(raw), "--out", "out", "--cluster", "local"]
    assert command.main([*words, "--dry-run"]) == 0
    foretold = capsys.readouterr().err
    assert "8 clips to caption" in foretold and "captioner motion" in foretold and not Path("out").exists()
    assert command.main([*words, "--preview", "3"]) == 0 and not Path("out").exists()
    assert capsys.readouterr().err.count("S00") == 3
    assert command.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 8 and read_json(tmp_path / "out" / "report.json")["passed"]
    assert command.main([*words, "--dry-run"]) == 0 and "done already: 8 of 8 clips" in capsys.readouterr().err
    with pytest.raises(InputError, match="its clips are others; give another --out"):
        command.main([*words, "--protocol", "xset"])
    with pytest.raises(InputError, match="unknown flag '--frame'; did you mean --frames"):
        command.main([*words, "--frame", "5"])


def test_looks_name_what_is_wrong_with_a_skeleton(raw: Path, tmp_path: Path) -> None:
    broken = tmp_path / "raw"
    broken.mkdir()
    for path in sorted((raw / "nturgb+d_skeletons").iterdir())[:2]:
        (broken / path.name).write_bytes(path.read_bytes()[:400])
    see = Looks.of(Caption(tmp_path / "out", data=broken))
    assert see({"key": "S001C002P001R001A001"}).error.startswith("truncated: ")
