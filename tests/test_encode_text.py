"""Text features: tokens counted as CLIP counts them, and features of captions against the tower's own results."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import assets, stages
from jobs import caption_slices as slices
from jobs.caption_record import CaptionRecord, Strip
from jobs.encode_slices import Encoded
from jobs.encode_text import GATHER, EncodeText, Tower, count_tokens, image_text_scores, parts_of, weights_of
from jobs.text import HashText, TextStore, write_store
from shards.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
HARD = (
    "A person raises the left arm, then lowers it.",
    "",
    " \t\n ",
    "don't they'll we've I'm NAÏVE",
    "naïve café — “quoted” &amp;lt;b&amp;gt; Ã©tat",
    "人在挥手，然后坐下。",
    "😀 waves 👋🏽",
    "\x00\x07\u200b\ud800",
    "<end_of_text> and <start_of_text>",
    "a" * 300 + " aa" * 20,
    "ſK İ ı ß 123456 3.5 ـ عربي",
)
SAID = [f"a person raises the {side} {part}" for side in ("left", "right") for part in ("arm", "leg", "hand", "foot")]


def texts(seed: int, count: int) -> list[str]:
    """Strings of letters, signs, other scripts and emoji."""
    draw = random.Random(seed)
    letters = [lambda: draw.randint(32, 126)] * 6 + [lambda: draw.randint(0, 0x3000), lambda: draw.randint(0x1F300, 0x1FAFF)]
    return ["".join(chr(draw.choice(letters)()) for _ in range(draw.randint(0, 40))) for _ in range(count)]


@pytest.fixture(autouse=True)
def nothing_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the hub's cache nor the assets of this machine, and no variable of the jobs stays set."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv(assets.VARIABLE, str(tmp_path / "assets"))
    for name in assets.OFFLINE:
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny CLIP with random weights, in open_clip's own classes and files."""
    from tests.tiny_models import tiny_clip

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_clip(folder)
    return folder


def captions_file(folder: Path, said: Sequence[str]) -> Path:
    """A file of captions, each of them for two samples."""
    path = folder / "captions.json"
    path.write_text(json.dumps({f"k{i:03d}": text for i, text in enumerate([*said, *said])}))
    return path


def job_of(folder: Path, clip: Path, out: str = "features", said: Sequence[str] = SAID, **more: Any) -> EncodeText:
    """The stage over a few captions, in slices of 3 and batches of 2."""
    return EncodeText(captions_file(folder, said), folder / out, **{"pretrained": str(clip), "slice": 3, "batch": 2, **more})


def content(folder: Path) -> dict[str, str]:
    """sha256 of the store's two files."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("texts.npy", "index.jsonl")}


# --- tokens


def test_tokens_are_counted_as_open_clip_counts_them(clip: Path) -> None:
    import open_clip

    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    for text in (*HARD, *texts(0, 500), *(ROOT / "README.md").read_text().splitlines()):
        assert count_tokens(text) == len(tokenizer.encode(text)), repr(text)


def test_counting_imports_no_torch() -> None:
    check = "import sys; from jobs.encode_text import count_tokens; assert count_tokens('a b') == 2; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


# --- the tower


def test_features_at_the_end_token_are_the_towers_own_sentence_features(clip: Path, tmp_path: Path) -> None:
    import open_clip
    import torch

    job = job_of(tmp_path, clip)
    tower = Tower(job, weights_of(job))
    said = [*SAID, "walk " * 200, "!", "a! ! !"]  # longer than the tower reads; and "!", whose id is the padding's
    made = tower(said)
    ids = open_clip.get_tokenizer("ViT-B-32")(said)
    with torch.inference_mode():
        sentence = tower.model.encode_text(ids)
        projection = tower.model.text_projection
        ends = torch.stack([torch.from_numpy(one.features[one.tokens - 1]).float() for one in made]) @ projection
    assert [one.features.shape for one in made] == [(77, 64)] * len(said) and made[0].features.dtype == np.float16
    assert torch.allclose(ends, sentence, atol=2e-3), "float16 is all that lies between them"
    assert not torch.allclose(ends[0], ends[1], atol=2e-2), "the test can tell captions apart"
    assert [one.tokens for one in made] == [min(count_tokens(text), 75) + 2 for text in said]
    short = Tower(replace(job, level="sentence"), weights_of(job))(said)
    assert short[0].features.shape == (1, 48) and short[0].tokens == 1
    assert np.allclose(np.concatenate([one.features for one in short]), sentence.numpy(), atol=2e-3)


def test_word_features_have_the_final_norm(clip: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, clip)
    tower = Tower(job, weights_of(job))
    words = tower(["a person waves"])[0].features.astype(np.float32)
    assert np.abs(words.mean(1)).max() < 2e-3 and np.abs(words.std(1) - 1).max() < 1e-2  # weights of a fresh norm are 1 and 0


def test_one_by_one_or_in_a_batch_is_the_same(clip: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, clip)
    tower = Tower(job, weights_of(job))
    alone = np.stack([tower([text])[0].features for text in SAID])
    together = np.stack([one.features for one in tower(SAID)])
    assert np.abs(alone.astype(np.float32) - together.astype(np.float32)).max() <= 4e-3


def test_the_tags_activation_is_built_and_a_bare_file_must_say_its_own(clip: Path, tmp_path: Path) -> None:
    """open_clip 3 only warns where OpenAI's weights get the other activation; features would be wrong, silently."""
    place = tmp_path / "assets" / "timm--vit_base_patch32_clip_224.openai"
    place.mkdir(parents=True)
    weights = clip / "open_clip_model.safetensors"
    (place / weights.name).write_bytes(weights.read_bytes())
    files = {weights.name: {"bytes": weights.stat().st_size, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}}
    manifest = {"name": assets.TEXT.name, "role": "text", "source": "", "revision": "", "files": files}
    (tmp_path / "assets" / f"{place.name}.json").write_text(json.dumps(manifest))
    job = EncodeText(captions_file(tmp_path, SAID), tmp_path / "features")
    found = weights_of(job)
    assert found.quick and "quickgelu" in found.name(job) and found.path == place / weights.name
    with pytest.raises(InputError, match="a file does not say which activation"):
        weights_of(replace(job, pretrained=str(weights)))
    assert weights_of(replace(job, pretrained=str(weights), activation="quickgelu")).quick
    assert not weights_of(replace(job, pretrained=str(weights), model="tiny-clip")).quick
    with pytest.raises(InputError, match=r"ViT-B-32/openai wants the other one"):
        weights_of(replace(job, activation="gelu"))
    with pytest.raises(InputError, match=r"ViT-B-32-quickgelu is the model with the other one"):
        weights_of(replace(job, pretrained=str(weights), model="ViT-B-32-quickgelu", activation="gelu"))
    (place / "open_clip_config.json").write_bytes((clip / "open_clip_config.json").read_bytes())
    report = job()  # the very defaults: found by its tag, with the configuration and the tokenizer of its folder
    assert report["rows"] == 8 and report["encoder"].startswith("open_clip ViT-B-32/openai quickgelu word fp32 sha256:")
    (place / "open_clip_config.json").unlink()
    assert weights_of(replace(job, pretrained=str(weights), model="ViT-B-32-quickgelu")).quick
    (place / weights.name).write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(InputError, match=r"wrong checksum \(sha256 .*fetch timm/vit_base_patch32_clip_224.openai again"):
        weights_of(job)
    tower = {
        kind: Tower(job, weights_of(replace(job, model="tiny-clip", pretrained=str(weights), activation=kind)))
        for kind in ("gelu", "quickgelu")
    }
    one, other = (tower[kind](["a person waves"])[0].features.astype(np.float32) for kind in ("gelu", "quickgelu"))
    assert np.abs(one - other).max() > 1e-3, "the activation reaches the network"


def test_towers_with_a_tokenizer_of_their_own_read_it_from_their_folder(tmp_path: Path, clip: Path) -> None:
    """As multilingual ones are: not causal, pooled at the last position, a tokenizer in transformers' files."""
    import open_clip
    from safetensors.torch import save_file

    from tests.tiny_models import tokenizer

    folder, words = tmp_path / "multilingual", tokenizer(())
    words.save_pretrained(folder)
    text = {"context_length": 64, "vocab_size": len(words), "width": 32, "heads": 4, "layers": 1}
    own = {
        "no_causal_mask": True,
        "pool_type": "last",
        "hf_tokenizer_name": "owner/multilingual",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 16, "patch_size": 8},
        "text_cfg": text | own,
    }
    save_file(open_clip.CustomTextCLIP(**json.loads(json.dumps(config))).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**config, "custom_text": True}}))
    said = ["一个人举起左手", "the left arm"]
    job = job_of(tmp_path, folder, said=said)
    store = TextStore.open(Path(job()["out"]))
    assert store.shape == (64, 32) and [store.tokens(text) for text in said] == [len(words(text)["input_ids"]) for text in said]
    assert (store(said[0]) != store(said[1])).any()
    for path in folder.glob("*token*"):
        path.unlink()
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"the tokenizer of local-dir:.* is not here"):
        replace(job, out=tmp_path / "other")()


def test_weights_that_are_missing_or_unknown_are_named(tmp_path: Path, clip: Path) -> None:
    job = EncodeText(captions_file(tmp_path, SAID), tmp_path / "features")
    with pytest.raises(
        InputError, match=r"(?s)weights are missing.*text tower: timm/vit_base_patch32_clip_224.openai is neither.*fetch_assets"
    ):
        job()
    assert not (tmp_path / "features").exists(), "nothing is begun without weights"
    assert any("it would stop: weights are missing" in line for line in job.foretell()["lines"])
    with pytest.raises(InputError, match=r"open_clip has no such model; it has .*ViT-B-32"):
        replace(job, model="ViT-B-23")()
    with pytest.raises(InputError, match=r"neither a file nor weights that open_clip knows for ViT-B-32 .openai, "):
        replace(job, pretrained="openia")()
    with pytest.raises(InputError, match=r"has open_clip_config.json and"):
        replace(job, pretrained=str(tmp_path))()
    with pytest.raises(InputError, match=r"cannot be loaded as local-dir:.*changed"):
        (tmp_path / "other").mkdir()
        config = json.loads((clip / "open_clip_config.json").read_text())
        config["model_cfg"]["text_cfg"]["width"] = 32
        (tmp_path / "other" / "open_clip_config.json").write_text(json.dumps(config))
        (tmp_path / "other" / "open_clip_model.safetensors").write_bytes((clip / "open_clip_model.safetensors").read_bytes())
        replace(job, pretrained=str(tmp_path / "other"), out=tmp_path / "features-2")()
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match=r"broken.safetensors cannot be loaded as tiny-clip"):
        replace(job, pretrained=str(tmp_path / "broken.safetensors"), model="tiny-clip")()


def test_a_file_with_a_program_in_it_is_not_run(tmp_path: Path, clip: Path) -> None:
    import torch

    path = tmp_path / "openai.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    job = EncodeText(captions_file(tmp_path, SAID), tmp_path / "features", model="tiny-clip", pretrained=str(path))
    with pytest.raises(InputError, match=r"OpenAI's own \.pt files hold programs"):
        job()


def test_random_vit_b_32_gives_77_by_512(tmp_path: Path, clip: Path) -> None:
    """The default tower's own shape, with random weights: no weights are to be had here."""
    import open_clip
    import torch

    from jobs.encode_text import end_positions, word_features

    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"]["layers"] = 1  # the text tower is what is tried
    model = open_clip.CLIP(**config).eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    ids = tokenizer(["a person waves", "x"])
    with torch.inference_mode():
        words, sentence = word_features(model, ids), model.encode_text(ids)
    assert words.shape == (2, 77, 512)
    assert torch.allclose(words[torch.arange(2), end_positions(tokenizer, ids)] @ model.text_projection, sentence, atol=1e-5)


# --- the stage


def test_each_caption_is_encoded_once_and_found_by_its_words(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    call = Tower.__call__

    def counted(self: Tower, said: Sequence[str]) -> list[Encoded]:
        seen.extend(said)
        return call(self, said)

    monkeypatch.setattr(Tower, "__call__", counted)
    steps: list[tuple[int, int]] = []
    job = job_of(tmp_path, clip)
    report = job(progress=lambda done, total: steps.append((done, total)))
    assert sorted(seen) == sorted(["a", *SAID]), "once each, and one word to learn the shape"
    assert report["rows"] == 8 and report["shape"] == [77, 64] and steps[-1] == (8, 8)
    store = TextStore.open(job.out)
    assert store.lacking(SAID) == [] and store.by == "caption" and store.encoder.startswith("open_clip tiny gelu word fp32 sha256:")
    tower = Tower(job, weights_of(job))
    for text in SAID:
        one = tower([text])[0]
        assert store.tokens(text) == one.tokens == count_tokens(text) + 2
        assert np.abs(store(text).astype(np.float32) - one.features.astype(np.float32)).max() <= 4e-3
    before, loaded = content(job.out), len(seen)
    assert job()["rows"] == 8 and content(job.out) == before and len(seen) == loaded, "finished, it does nothing"


def test_a_kill_inside_a_slice_costs_a_batch_and_changes_no_byte(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = job_of(tmp_path, clip, "whole", slice=8)
    whole()
    job, asked = job_of(tmp_path, clip, "killed", slice=8), list[int]()
    call = Tower.__call__

    def dies(self: Tower, said: Sequence[str]) -> list[Encoded]:
        asked.append(len(said))
        if len(asked) == 4:  # the shape, two batches, and then
            raise KeyboardInterrupt
        return call(self, said)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tower, "__call__", dies)
        job()
    plan = slices.read_plan(job.out)
    assert len(slices.written(job.out, "0000")) == 4 and plan.unfinished == ["0000"] and slices.progress(job.out).done == 4
    # torn ends, as a lost machine leaves them: half a row, half a line
    with (job.out / "attempts" / "0000.0001.f16").open("ab") as rows, (job.out / "attempts" / "0000.0001.jsonl").open("ab") as lines:
        rows.write(b"torn")
        lines.write(b'{"key": "torn')
    assert job("0000")["encoded"] == 4, "what was written is not made again"
    with pytest.raises(InputError, match="no slice '0001'"):
        job("0001")
    job(GATHER)
    assert content(job.out) == content(whole.out)
    assert not list((job.out / "attempts").glob("*.f16")), "the space is given back"


def test_slices_in_any_order_by_several_processes_merge_to_the_same_bytes(clip: Path, tmp_path: Path) -> None:
    whole, job = job_of(tmp_path, clip, "whole"), job_of(tmp_path, clip, "parts")
    whole()
    plan, lines = job.plan()
    description = stages.write_job(job, tmp_path / "job.json")
    assert lines[0] == "16 captions of 16 samples, 8 distinct" and plan.names == ["0000", "0001", "0002"]
    with pytest.raises(InputError, match="3 of 3 slices are not finished"):
        job(GATHER)
    for name in ("0002", "0000", "0001"):
        assert not stages.finished("encode-text", description, name)
        stages.run("encode-text", description, name)
        assert stages.finished("encode-text", description, name)
    told = stages.progress("encode-text", description, plan.names)
    assert told is not None and (told.done, told.total, told.what) == (8, 8, "captions")
    assert not stages.finished("encode-text", description, GATHER)
    assert stages.run("encode-text", description, GATHER)["rows"] == 8 and stages.finished("encode-text", description, GATHER)
    assert content(job.out) == content(whole.out)


def test_a_process_that_was_taken_over_stops_and_harms_nothing(clip: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, clip, slice=8)
    plan, _ = job.plan()
    slow = job._work(plan)
    load = slow.load

    def overtaken() -> Any:
        assert job("0000")["encoded"] == 8  # while the first one still loads its weights
        return load()

    slow.load = overtaken
    with pytest.raises(InputError, match="a newer attempt has taken over"):
        slow.slice("0000", lambda done, total: None)
    assert job(GATHER)["rows"] == 8 and TextStore.open(job.out).lacking(SAID) == []


def test_damaged_rows_are_found_when_they_are_merged(clip: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, clip)
    plan, _ = job.plan()
    for name in plan.names:
        job(name)
    path = job.out / "attempts" / "0001.0001.f16"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"0001\.0001\.f16 is damaged \(at byte 0\); remove .*0001\.jsonl"):
        job(GATHER)
    assert not (job.out / "index.jsonl").exists() and not (job.out / "texts.npy").exists()
    path.unlink()
    with pytest.raises(InputError, match="is damaged"):
        job(GATHER)


def test_other_captions_or_another_encoder_do_not_mix(clip: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, clip)
    job()
    with pytest.raises(InputError, match=r"8 .*now 7"):
        job_of(tmp_path, clip, said=SAID[:7])()
    captions_file(tmp_path, SAID)
    with pytest.raises(InputError, match=r"encoder was .*word.*now .*sentence"):
        replace(job, level="sentence")()
    with pytest.raises(InputError, match=r"encoder was .*now .hash"):
        replace(job, encoder="hash")()


def test_a_new_caption_is_encoded_alone_and_the_others_are_taken_over(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = job_of(tmp_path, clip, "old")
    old()
    new = job_of(tmp_path, clip, "new", said=[*SAID[1:], "another caption"], reuse=old.out)
    asked: list[str] = []
    call = Tower.__call__
    monkeypatch.setattr(Tower, "__call__", lambda self, said: asked.extend(said) or call(self, said))
    assert new()["rows"] == 8 and asked == ["a", "another caption"]
    first, second = TextStore.open(old.out), TextStore.open(new.out)
    assert all((first(text) == second(text)).all() and first.tokens(text) == second.tokens(text) for text in SAID[1:])
    write_store(tmp_path / "foreign", "another", (77, 64), {"a": np.zeros((77, 64), np.float16)})
    with pytest.raises(InputError, match=r"--reuse .*by another, wanted is open_clip"):
        job_of(tmp_path, clip, "third", reuse=tmp_path / "foreign")()


def test_the_weights_of_the_plan_are_the_weights_of_every_slice(clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    mine = tmp_path / "mine"
    mine.mkdir()
    for path in clip.iterdir():
        (mine / path.name).write_bytes(path.read_bytes())
    job = job_of(tmp_path, mine)
    job.plan()
    job("0000")
    changed = load_file(mine / "open_clip_model.safetensors")
    changed["ln_final.weight"][0] += 1
    save_file(changed, mine / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=r"open_clip_model.safetensors has a wrong checksum: it makes"):
        job("0001")


def test_the_stand_in_goes_through_the_same_stage_and_says_what_it_is(tmp_path: Path) -> None:
    job = EncodeText(captions_file(tmp_path, SAID), tmp_path / "features", encoder="hash", slice=3)
    report = job()
    assert report["encoder"] == "hash" and any("STAND-IN" in line for line in report["lines"])
    store = TextStore.open(job.out)
    assert (store(SAID[0]) == HashText()(SAID[0])).all() and store.tokens(SAID[0]) == HashText().tokens(SAID[0]) == 8
    with pytest.raises(InputError, match="word features only"):
        replace(job, level="sentence", out=tmp_path / "other")()


def test_flagged_captions_are_not_encoded_and_further_ones_are(tmp_path: Path) -> None:
    records = [
        CaptionRecord("a", "waves", "import", "import", "file", texts=("raises a hand", "waves")),
        CaptionRecord("b", "I cannot help with that", "vlm", "ovis2", "m", flags=("refusal",)),
        CaptionRecord("c", "", "vlm", "ovis2", "m", error="unreadable video"),
    ]
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(record.as_json()) + "\n" for record in records))
    job = EncodeText(path, tmp_path / "features", encoder="hash")
    assert job()["rows"] == 2 and TextStore.open(job.out).lacking(["waves", "raises a hand"]) == []


def captioned(folder: Path, hidden: dict[str, np.ndarray], revision: str = "1") -> Path:
    """A caption folder as captioning leaves it, with hidden states of some of its clips."""
    keys = [*sorted(hidden), "z"]
    slices.write_plan(folder, {"hidden": True}, [{"key": key} for key in keys], 2)
    for name in slices.read_plan(folder).names:
        attempt = slices.Attempt.begin(folder, name)
        entries = [entry["key"] for entry in slices.clips_of(slices.read_plan(folder), name)]
        for key in entries:
            flags = ("empty",) if key == "z" else ()
            attempt.append([CaptionRecord(key, "waves", "vlm", "ovis2", "repo", revision, flags=flags).as_json()])
            if key in hidden:
                path = slices.hidden_path(folder, name, key)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, hidden[key])
        attempt.finish(entries)
        attempt.close()
    lines = [line for name in slices.read_plan(folder).names for line in slices.read_slice(folder, name)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_captioners_own_features_are_stored_by_key_and_padded(tmp_path: Path) -> None:
    hidden = {key: np.random.default_rng(i).standard_normal((i + 2, 6)).astype(np.float16) for i, key in enumerate("abc")}
    folder = captioned(tmp_path / "captions", hidden)
    job = EncodeText(folder, tmp_path / "features", level="hidden")
    assert job.foretell()["captions"] == 3
    report = job()
    store = TextStore.open(job.out)
    assert report["by"] == store.by == "key" and store.shape == (4, 6) and store.encoder == "ovis2 repo 1 hidden"
    assert store.lacking(["a", "b", "c", "z"]) == ["z"], "equal words keep features of their own; a flagged caption has none"
    for key, array in hidden.items():
        assert (store(key)[: len(array)] == array).all() and not store(key)[len(array) :].any() and store.tokens(key) == len(array)
    assert job()["rows"] == 3
    slices.hidden_path(folder, "0000", "a").unlink()
    with pytest.raises(InputError, match=r"1 of 3 usable captions have none \(first: a\)"):
        job()
    with pytest.raises(InputError, match=r"is no folder of launch/caption.py --hidden"):
        EncodeText(captions_file(tmp_path, SAID), tmp_path / "other", level="hidden")()


def test_what_was_encoded_is_what_training_sees(clip: Path, tmp_path: Path) -> None:
    from jobs.pack import Pack
    from shards.stream import PackedSet
    from tests.test_pack_job import captions_file as packed_captions
    from tests.test_pack_job import exchange_file

    captions = packed_captions(tmp_path / "captions.jsonl")
    EncodeText(captions, tmp_path / "features", pretrained=str(clip))()
    Pack(data=exchange_file(tmp_path / "moves.npz"), out=tmp_path / "out", captions=captions, text=tmp_path / "features", jobs=1)()
    packed, store = PackedSet.open(tmp_path / "out"), TextStore.open(tmp_path / "features")
    rows = packed.load(["clip07", "clip02", "clip03"])
    assert rows.text is not None and rows.text_tokens is not None and packed.text_shape == (77, 64)
    assert (rows.text == np.stack([store("caption 2"), store("caption 2"), store("caption 3")])).all()
    assert rows.text_tokens.tolist() == [count_tokens("caption 2") + 2] * 3
    assert packed.manifest["text"] is not None and packed.manifest["text"]["encoder"] == store.encoder


# --- the command


def test_the_command_encodes_and_says_where_weights_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from launch import cli, encode_text

    monkeypatch.chdir(tmp_path)
    captions_file(tmp_path, SAID)
    words = ["--captions", "captions.json", "--out", "f", "--cluster", "local"]
    assert encode_text.main([*words, "--encoder", "hash", "--dry-run"]) == 0 and not (tmp_path / "f").exists()
    assert "1 slices of 8 captions" in capsys.readouterr().err
    assert encode_text.main([*words, "--encoder", "hash", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 8 and TextStore.open(tmp_path / "f").lacking(SAID) == []
    monkeypatch.setattr(sys, "argv", ["launch/encode_text.py", *words[:-3], "g", "--cluster", "local"])
    with pytest.raises(SystemExit) as ended:
        cli.finish(encode_text.main)
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 3 and "text tower: timm/" in lines[1] and "launch/fetch_assets.py" in lines[2]


# --- pictures


def test_a_strip_is_cut_where_its_frames_meet() -> None:
    from jobs.caption_strip import pasted

    frames = [np.full((60, 80, 3), value, np.uint8) for value in (10, 120, 240)]
    boxes = ((0, 0, 20, 60), (10, 0, 50, 40), (0, 0, 80, 60))
    strip = Strip("k", pasted(frames, boxes, 64), (0, 1, 2), boxes, "person")
    for part, value in zip(parts_of(strip), (10, 120, 240), strict=True):
        assert part.shape[1] > 0 and (part == value).all()


def test_image_text_scores_see_every_frame_of_a_strip(clip: Path) -> None:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 255, (40, 150, 3), dtype=np.uint8)
    strips = [
        Strip("k", picture, (1, 2, 3), ((0, 0, 1, 1),) * 3, "full")
        for picture in (image, np.concatenate([image[:, :100], 255 - image[:, 100:]], 1))
    ]
    one, other = image_text_scores(strips, ["a person waves"] * 2, pretrained=str(clip))
    assert -1 <= one <= 1 and one != other, "the last frame alone differs"
    assert image_text_scores(strips[:1], ["a person waves"], pretrained=str(clip)) == [one]
