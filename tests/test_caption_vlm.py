"""Vision-language models as captioners: the real classes of Ovis2, DeepSeek-VL and Qwen2-VL with tiny random weights."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs import assets, caption_vlm
from jobs.caption_people import whole
from jobs.caption_record import Answer, Ask, Captioner, Strip
from jobs.caption_strip import make_strip
from jobs.caption_videos import find_clips
from jobs.caption_vlm import TransformersCaptioner, side_by_side, transformers_captioner
from shards.errors import InputError
from tests.tiny_models import SEQUENCE, TILE, tiny_deepseek_vl, tiny_ovis2, tiny_qwen2_vl

WIDE = 5 * TILE
SAID = (
    "Describe what is done with the left arm, and then with the right arm.",
    "a",
    "Describe.",
    "a",
    "the person walks, sits down, claps",
)
WIDTHS = (WIDE, TILE, 2 * TILE, WIDE, 3 * TILE)
TOKENS = 12


def ask(i: int, width: int, prompt: str) -> Ask:
    """A question about a strip of noise."""
    image = np.random.default_rng(i).integers(0, 256, (TILE, width, 3), dtype=np.uint8)
    return Ask(f"k{i}", prompt, Strip(f"k{i}", image, (0,), ((0, 0, width, TILE),), "full"))


ASKS = [ask(i, width, prompt) for i, (width, prompt) in enumerate(zip(WIDTHS, SAID, strict=True))]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the network for anything fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a captioner reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {
        "ovis2": tiny_ovis2(place / "ovis2"),
        "deepseek-vl": tiny_deepseek_vl(place / "deepseek"),
        "small": tiny_deepseek_vl(place / "small", hybrid=False),
        "qwen": tiny_qwen2_vl(place / "qwen"),
    }


@pytest.fixture
def ovis2(folders: dict[str, Path]) -> TransformersCaptioner:
    return transformers_captioner("ovis2", str(folders["ovis2"]), device="cpu", max_tokens=TOKENS, batch=8, hidden=True)


def copy_of(folder: Path, to: Path) -> Path:
    """The same model, to be damaged."""
    return Path(shutil.copytree(folder, to))


def same(a: list[Answer], b: list[Answer]) -> bool:
    return [answer.texts for answer in a] == [answer.texts for answer in b]


def last_logits(made: TransformersCaptioner, batch: dict[str, Tensor]) -> Tensor:
    """What decides the first token: logits of the last position, [B,words]."""
    inputs = made.network.prepare_inputs_for_generation(is_first_iteration=True, use_cache=False, **batch)
    with torch.inference_mode():
        return Tensor(made.network(**inputs).logits[:, -1])


def rightwards(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The same batch padded on the wrong side."""
    joined = side_by_side(rows, 0)
    for name in ("input_ids", "attention_mask"):
        joined[name] = torch.nn.utils.rnn.pad_sequence([row[name][0] for row in rows], batch_first=True)
    return joined


@pytest.mark.parametrize("name", ["ovis2", "deepseek-vl", "small"])
def test_a_batch_has_the_logits_of_its_questions_one_by_one(folders: dict[str, Path], name: str) -> None:
    made = transformers_captioner(name if name in caption_vlm.TYPES else str(folders[name]), str(folders[name]), device="cpu")
    rows = [made.prepare(ask) for ask in ASKS]
    assert len({row["input_ids"].shape[1] for row in rows}) > 2, "questions of one length would not show padding"
    together = side_by_side(rows, made.network.generation_config.pad_token_id)
    alone = torch.cat([last_logits(made, row) for row in rows])
    assert (last_logits(made, together) - alone).abs().max() < 1e-4 * alone.abs().max()
    assert (last_logits(made, rightwards(rows)) - alone).abs().max() > 0.1 * alone.abs().max(), "this test would not see wrong padding"


@pytest.mark.parametrize("name", ["ovis2", "deepseek-vl", "small", "qwen"])
def test_answers_come_in_the_order_of_the_questions_whatever_the_batch(folders: dict[str, Path], name: str) -> None:
    known = name in caption_vlm.TYPES
    made: Captioner = transformers_captioner(
        name if known else str(folders[name]), str(folders[name]) if known else "", device="cpu", max_tokens=TOKENS, batch=3
    )
    together, alone = made(ASKS), [made([ask])[0] for ask in ASKS]
    assert same(together, alone) and len({answer.texts for answer in together}) == len(ASKS), "the model should not say one thing of all"
    assert all(answer.hidden is None and not answer.error and len(answer.texts) == 1 for answer in together)
    assert (made.provenance, made.sees, made.decode["sampling"], made.decode["max_tokens"]) == ("vlm", "strip", "greedy", TOKENS)
    assert made([]) == []


def test_the_real_classes_are_loaded(folders: dict[str, Path]) -> None:
    classes = {name: transformers_captioner(str(folder), device="cpu").decode["class"] for name, folder in folders.items()}
    assert classes == {
        "ovis2": "Ovis2ForConditionalGeneration",
        "deepseek-vl": "DeepseekVLHybridForConditionalGeneration",
        "small": "DeepseekVLForConditionalGeneration",
        "qwen": "Qwen2VLForConditionalGeneration",
    }


def test_fewer_tiles_are_fewer_tokens(folders: dict[str, Path]) -> None:
    lengths = {}
    for tiles in (None, 1, 2, 5):
        made = transformers_captioner("ovis2", str(folders["ovis2"]), device="cpu", tiles=tiles)
        row = made.prepare(ASKS[0])
        lengths[tiles] = row["input_ids"].shape[1]
        parts = row["pixel_values"].shape[0]
        assert parts == {1: 1, 2: 3, 5: 6, None: 6}[tiles], "five frames side by side are five tiles and an overview"
        assert (row["input_ids"] == made.network.config.image_token_id).sum() == SEQUENCE * parts
        assert made.decode["tiles"] == (tiles or 9) and made.decode["grid"] == "aspect"
    assert lengths[1] < lengths[2] < lengths[5] == lengths[None]


def test_tiles_follow_the_strip_from_left_to_right(ovis2: TransformersCaptioner) -> None:
    image = np.zeros((TILE, WIDE, 3), np.uint8)
    for i in range(5):
        image[:, i * TILE : (i + 1) * TILE] = 50 * (i + 1)
    strip = Strip("k", image, (0,), ((0, 0, WIDE, TILE),), "full")
    overview, *tiles = ovis2.prepare(Ask("k", "a", strip))["pixel_values"]
    means = [float(tile[0].mean()) for tile in tiles]
    assert all(float(tile[0].std()) < 0.1 for tile in tiles), "a tile holds one frame, not a band of all"
    assert means == sorted(means) and means[0] < float(overview[0].mean()) < means[-1]


def test_a_model_without_tiles_says_so(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"--tiles 3: deepseek-vl does not cut pictures into tiles"):
        transformers_captioner("deepseek-vl", str(folders["deepseek-vl"]), device="cpu", tiles=3)


def test_hidden_states_are_what_each_token_was_decoded_from(ovis2: TransformersCaptioner) -> None:
    answers = ovis2(ASKS)
    for i, answer in ((0, answers[0]), (1, answers[1])):
        row = ovis2.prepare(ASKS[i])
        with torch.inference_mode():
            tokens = ovis2.network.generate(**row)[:, row["input_ids"].shape[1] :]
            forced = {**row, "input_ids": torch.cat([row["input_ids"], tokens], 1)}
            forced["attention_mask"] = torch.ones_like(forced["input_ids"])
            states = ovis2.network.model(**forced).last_hidden_state[0, -tokens.shape[1] - 1 : -1]
            again = ovis2.network.lm_head(torch.from_numpy(np.array(answer.hidden)).float()).argmax(-1)
        assert answer.hidden is not None and answer.hidden.dtype == np.float16 and answer.hidden.shape == (TOKENS, 64)
        assert np.abs(answer.hidden - states.numpy()).max() < 2e-3 * float(states.abs().max())
        assert torch.equal(again, tokens[0]), "the language head turns them into the caption"


def test_a_caption_ends_at_the_end_token(ovis2: TransformersCaptioner) -> None:
    whole, settings = ovis2(ASKS), ovis2.network.generation_config
    row = ovis2.prepare(ASKS[0])
    tokens = ovis2.network.generate(**row)[0, row["input_ids"].shape[1] :].tolist()
    end = tokens[4]
    length = tokens.index(end)
    settings.eos_token_id = [*settings.eos_token_id, end]
    short = ovis2(ASKS)
    first, full = short[0].hidden, whole[0].hidden
    assert first is not None and full is not None and first.shape == (length, 64)
    assert np.abs(first - full[:length]).max() < 2e-3 * np.abs(full).max()
    assert whole[0].texts[0].startswith(short[0].texts[0].rstrip("\N{REPLACEMENT CHARACTER}")) and len(short[0].texts[0]) < len(
        whole[0].texts[0]
    )


def test_a_models_own_sampling_is_not_used(folders: dict[str, Path], ovis2: TransformersCaptioner, tmp_path: Path) -> None:
    folder = copy_of(folders["ovis2"], tmp_path / "sampling")
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "top_k": 50, "repetition_penalty": 1.3, "num_beams": 2, "min_new_tokens": 12}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    sampling = transformers_captioner("ovis2", str(folder), device="cpu", max_tokens=TOKENS)
    assert same(sampling(ASKS), ovis2(ASKS)) and same(sampling(ASKS), sampling(ASKS))


class LittleMemory:
    """`generate` of a device that holds `room` strips at a time."""

    def __init__(self, network: Any, room: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.generate, self.room, self.error, self.tried = network.generate, room, error, list[int]()

    def __call__(self, **inputs: Tensor) -> Any:
        self.tried.append(len(inputs["input_ids"]))
        if self.tried[-1] > self.room:
            raise self.error("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return self.generate(**inputs)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_batch_for_good(
    ovis2: TransformersCaptioner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    expected = ovis2(ASKS)
    memory = LittleMemory(ovis2.network, 2, error)
    monkeypatch.setattr(ovis2.network, "generate", memory)
    assert same(ovis2(ASKS), expected)
    assert memory.tried == [5, 2, 2, 1] and ovis2.batch == 2
    assert capsys.readouterr().err == "5 strips did not fit in the memory of cpu: 2 at a time from now on\n"
    memory.tried.clear()
    assert same(ovis2(ASKS), expected) and memory.tried == [2, 2, 1]


def test_one_strip_that_does_not_fit_stops_with_a_way_out(ovis2: TransformersCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovis2.network, "generate", LittleMemory(ovis2.network, 0))
    with pytest.raises(InputError, match=r"one strip \(k0\) does not fit in the memory of cpu: fewer --tiles"):
        ovis2(ASKS)


def test_another_error_is_not_taken_for_lack_of_memory(ovis2: TransformersCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Tensor) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(ovis2.network, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ovis2(ASKS)


def test_the_longest_go_first(ovis2: TransformersCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    generate = ovis2.network.generate

    def watched(**inputs: Tensor) -> Any:
        seen.append(inputs["attention_mask"].sum(1).tolist())
        return generate(**inputs)

    monkeypatch.setattr(ovis2.network, "generate", watched)
    ovis2.batch = 2
    ovis2(ASKS)
    lengths = [length for batch in seen for length in batch]
    assert lengths == sorted(lengths, reverse=True) and [len(batch) for batch in seen] == [2, 2, 1]


def test_bf16_is_recorded(folders: dict[str, Path]) -> None:
    made = transformers_captioner("ovis2", str(folders["ovis2"]), device="cpu", precision="bf16", max_tokens=4, hidden=True)
    (answer,) = made(ASKS[:1])
    assert made.network.dtype == torch.bfloat16 and made.decode["precision"] == "bf16"
    assert answer.hidden is not None and answer.hidden.dtype == np.float16
    assert transformers_captioner("ovis2", str(folders["ovis2"]), device="cpu").decode["precision"] == "fp32"


def test_weights_are_found_offline_in_the_hubs_cache_and_among_the_assets(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ACSAR_ASSETS", str(tmp_path / "assets"))
    home, commit = tmp_path / "hub" / "models--someone--Ovis2-hf", "0123456789abcdef0123456789abcdef01234567"
    snapshot = copy_of(folders["ovis2"], home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    made = transformers_captioner("ovis2", "someone/Ovis2-hf", device="cpu")
    assert (made.model, made.revision) == ("someone/Ovis2-hf", commit)
    with pytest.raises(
        InputError, match=r"captioner ovis2: thisisiron/Ovis2-8B-hf is neither a path, nor in .*assets.*\n.*fetch_assets\.py"
    ):
        transformers_captioner("ovis2", device="cpu")
    with pytest.raises(InputError, match=r"captioner deepseek-vl: deepseek-community/deepseek-vl-7b-chat is neither"):
        transformers_captioner("deepseek-vl", device="cpu")
    copy_of(snapshot, tmp_path / "hand" / "Ovis2-8B-hf")
    assets.bring(assets.CAPTIONER, tmp_path / "hand", say=lambda _: None)
    made = transformers_captioner("ovis2", device="cpu", max_tokens=2)
    assert made.model == caption_vlm.DEFAULTS["ovis2"] == assets.CAPTIONER.name and made.revision.startswith("sha256:")
    assert made(ASKS[:1])[0].texts


def test_a_folder_is_known_by_a_digest_that_other_weights_change(folders: dict[str, Path], tmp_path: Path) -> None:
    made = transformers_captioner("ovis2", str(folders["ovis2"]), device="cpu")
    assert made.model == str(folders["ovis2"]) and made.revision.startswith("sha256:") and len(made.revision) == 71
    assert caption_vlm.revision(copy_of(folders["ovis2"], tmp_path / "copy")) == made.revision
    (tmp_path / "copy" / "model.safetensors").open("ab").write(b" ")
    assert caption_vlm.revision(tmp_path / "copy") != made.revision


def test_every_missing_file_has_a_line(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(folders["ovis2"], tmp_path / "some")
    for name in ("model.safetensors", "tokenizer.json", "processor_config.json"):
        (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")  # never read
    with pytest.raises(InputError) as error:
        transformers_captioner("ovis2", str(folder), device="cpu")
    assert str(error.value).splitlines() == [
        f"captioner ovis2: {folder} is not complete",
        "  preprocessor_config.json or processor_config.json is missing",
        "  tokenizer.json or tokenizer.model or vocab.json is missing",
        "  model.safetensors is missing",
    ]


def test_missing_shards_and_pointers_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(folders["ovis2"], tmp_path / "some")
    (folder / "model.safetensors").unlink()
    shards = {f"t{i}": f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / shards["t2"]).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    (folder / shards["t3"]).write_bytes(b"x")
    with pytest.raises(InputError) as error:
        transformers_captioner("ovis2", str(folder), device="cpu")
    assert str(error.value).splitlines()[1:] == [
        "  model-00001-of-00003.safetensors is missing",
        "  model-00002-of-00003.safetensors is a pointer of git-lfs and not the weights: git lfs pull",
    ]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_damaged_files_are_named(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = copy_of(folders["ovis2"], tmp_path / "some")
    (folder / name).write_text((folder / name).read_text()[:150])
    with pytest.raises(InputError, match=rf"the processor in {folder} cannot be loaded: "):
        transformers_captioner("ovis2", str(folder), device="cpu")


def test_damaged_weights_and_weights_that_lack_tensors(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load, save_file

    folder = copy_of(folders["ovis2"], tmp_path / "some")
    weights = folder / "model.safetensors"
    tensors = load(weights.read_bytes())
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"are damaged .*fetch them again"):
        transformers_captioner("ovis2", str(folder), device="cpu")
    lost = next(name for name in sorted(tensors) if "language_model" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"lack 1 tensors of this ovis2, {lost} among them"):
        transformers_captioner("ovis2", str(folder), device="cpu")
    save_file(tensors | {lost: torch.zeros(3)}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"have in another shape 1 tensors of this ovis2, {lost} among"):
        transformers_captioner("ovis2", str(folder), device="cpu")


def test_models_of_another_kind_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a model of type 'qwen2_vl', not ovis2: name another --captioner"):
        transformers_captioner("ovis2", str(folders["qwen"]), device="cpu")
    folder = copy_of(folders["ovis2"], tmp_path / "remote")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "ovis", "auto_map": {"AutoModelForCausalLM": "modeling_ovis.Ovis"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_ovis.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(
        InputError, match=r"has no image-text-to-text model of type 'ovis' .*models that bring code of their own are not run"
    ):
        transformers_captioner(str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()
    (folder / "config.json").write_text((folders["ovis2"] / "config.json").read_text())
    settings = json.loads((folder / "processor_config.json").read_text())
    brought = settings | {"processor_class": "OvisProcessor", "auto_map": {"AutoProcessor": "modeling_ovis.Ovis"}}
    (folder / "processor_config.json").write_text(json.dumps(brought))
    with pytest.raises(InputError, match=r"the processor in .* cannot be loaded: .* custom code"):
        transformers_captioner(str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not JSON"):
        transformers_captioner(str(folder), device="cpu")
    with pytest.raises(InputError, match=r"\./nowhere/at/all is neither a path"):
        transformers_captioner("ovis2", "./nowhere/at/all", device="cpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 0}, "--batch 0"),
        ({"tiles": 0}, "--tiles 0"),
        ({"max_tokens": -1}, "--max-tokens -1"),
        ({"precision": "fp8"}, "--precision fp8"),
    ],
)
def test_options_out_of_range_are_named(folders: dict[str, Path], options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        transformers_captioner("ovis2", str(folders["ovis2"]), device="cpu", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_gpu_that_is_not_there_is_named(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="--device cuda: no CUDA device here"):
        transformers_captioner("ovis2", str(folders["ovis2"]), device="cuda")


def test_a_question_without_a_strip_is_a_mistake_of_the_caller(ovis2: TransformersCaptioner) -> None:
    with pytest.raises(ValueError, match="k: a vision-language model is asked about a strip"):
        ovis2([Ask("k", "a")])


@pytest.mark.realdata
def test_strips_of_real_clips_are_described(real_data: Path, ovis2: TransformersCaptioner) -> None:
    """Noise, since the weights are random; but of real strips, each its own, and the same every time."""
    strips = [make_strip(clip, 5, whole(), TILE) for clip in find_clips(real_data / "video_samples")]
    questions = [Ask(strip.key, prompt, strip) for strip in strips for prompt in ("Describe the left arm.", "a")]
    answers = ovis2(questions)
    assert [strip.key for strip in strips] == ["pose_1", "pose_squats"] and len({answer.texts for answer in answers}) == 4
    assert all(answer.hidden is not None and np.isfinite(answer.hidden).all() for answer in answers) and same(ovis2(questions), answers)
