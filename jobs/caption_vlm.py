"""Captions by a vision-language model of transformers: Ovis2, DeepSeek-VL, or any other that is native there. No remote code is ever run.

Decoding is greedy, in batches that are padded on the left. Nothing is downloaded: the weights are a folder, among the assets
(jobs/assets.py), or in the hub's cache."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from jobs import assets
from jobs.caption_record import Answer, Ask
from jobs.torchvision_ops import mend_torchvision
from shards.errors import InputError

DEFAULTS = {"ovis2": assets.CAPTIONER.name, "deepseek-vl": "deepseek-community/deepseek-vl-7b-chat"}
TYPES = {"ovis2": ("ovis2",), "deepseek-vl": ("deepseek_vl", "deepseek_vl_hybrid")}  # the 7B one has two vision towers: hybrid
NEEDED = (  # of each line one
    ("config.json",),
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "tokenizer.model", "vocab.json"),
    ("tokenizer_config.json",),
)
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
POINTER = b"version https://git-lfs"
LARGEST = 65504.0  # of float16

Inputs = dict[str, Tensor]
"""What a processor makes of one question: tensors of one row each; input_ids and attention_mask are [1,L]."""


@dataclass
class TransformersCaptioner:
    """A vision-language model behind the captioners' interface (caption_record.Captioner)."""

    name: str
    model: str
    revision: str
    decode: dict[str, Any]
    network: Any
    processor: Any
    batch: int  # strips at a time; halved for good when they do not fit in memory
    hidden: bool = False
    provenance: str = "vlm"
    sees: Literal["strip"] = "strip"

    @property
    def device(self) -> torch.device:
        return torch.device(self.network.device)

    def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers in the questions' order. Those with the most visual tokens go first, and only those of like shape go together."""
        rows = [self.prepare(ask) for ask in asks]
        answers: dict[int, Answer] = {}
        waiting = sorted(range(len(rows)), key=lambda i: (_shapes(rows[i]), rows[i]["input_ids"].shape[1], -i), reverse=True)
        while waiting:
            alike = [i for i in waiting[: self.batch] if _shapes(rows[i]) == _shapes(rows[waiting[0]])]
            made = self._answer([rows[i] for i in alike])
            if made is None:
                self._halve(asks[alike[0]], len(alike))
                continue
            answers.update(zip(alike, made, strict=True))
            waiting = waiting[len(alike) :]
        return [answers[i] for i in range(len(rows))]

    def prepare(self, ask: Ask) -> Inputs:
        """The model's inputs for one question: its strip cut into tiles, and its prompt in the model's own chat format."""
        if ask.strip is None:
            raise ValueError(f"{ask.key}: a vision-language model is asked about a strip, and there is none")
        made = self.processor(images=[ask.strip.image], text=[self._words(ask.prompt)], return_tensors="pt")
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}

    def _words(self, prompt: str) -> str:
        """The prompt with the picture before it, as this model was trained to be asked."""
        if self.processor.chat_template:
            said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
            return str(self.processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False))
        return f"{self.processor.image_token}\n{prompt}"

    def _answer(self, rows: Sequence[Inputs]) -> list[Answer] | None:
        """One answer for each row, or None if they do not fit in memory together."""
        try:
            tokens, states = self._generate(rows)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU's allocator raises a plain one
            if not out_of_memory(error):
                raise
            return None
        ends = set(self.network.generation_config.eos_token_id)
        answers = []
        for i, row in enumerate(tokens.tolist()):
            length = next((at for at, token in enumerate(row) if token in ends), len(row))
            text = self.processor.tokenizer.decode(row[:length], skip_special_tokens=True).strip()
            hidden = states[i, :length].cpu().numpy() if states is not None else None
            answers.append(Answer((text,), hidden))
        return answers

    def _generate(self, rows: Sequence[Inputs]) -> tuple[Tensor, Tensor | None]:
        """Greedy tokens [B,L] and, if wanted, the features that each was decoded from: [B,L,D] float16, the language head's input."""
        together = side_by_side(rows, self.network.generation_config.pad_token_id)
        inputs = {
            name: value.to(self.device, self.network.dtype if value.is_floating_point() else None) for name, value in together.items()
        }
        steps: list[Tensor] = []

        def note(_: Any, given: tuple[Tensor, ...]) -> None:
            steps.append(given[0][:, -1].float().clamp(-LARGEST, LARGEST).half())

        hook = self.network.get_output_embeddings().register_forward_pre_hook(note) if self.hidden else None
        try:
            with torch.inference_mode():
                tokens = self.network.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        finally:
            if hook is not None:
                hook.remove()
        return tokens, torch.stack(steps, 1) if self.hidden else None

    def _halve(self, ask: Ask, strips: int) -> None:
        """Half as many strips at a time from now on. InputError if one alone does not fit."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if strips == 1:
            raise InputError(
                f"captioner {self.name}: one strip ({ask.key}) does not fit in the memory of {self.device}: fewer --tiles, a smaller "
                "--model, or a device with more memory"
            )
        self.batch = max(1, strips // 2)
        print(f"{strips} strips did not fit in the memory of {self.device}: {self.batch} at a time from now on", file=sys.stderr)


def transformers_captioner(
    name: str,
    model: str = "",
    *,
    device: str = "auto",
    precision: str = "auto",
    max_tokens: int = 75,
    tiles: int | None = None,
    batch: int = 8,
    hidden: bool = False,
) -> TransformersCaptioner:
    """Load a model; nothing is fetched.

    name        ovis2, deepseek-vl, or the repository or folder of any other image-text-to-text model that transformers has itself
    model       repository or folder; "" = the name's own (Ovis2-8B, DeepSeek-VL-7B-chat)
    device      auto = cuda if there is one
    precision   fp32, bf16, or auto = bf16 on a GPU that has it
    max_tokens  tokens of the model's own at most
    tiles       parts at most that a strip is cut into, beside the overview; None = the model's own number
    hidden      keep the features of the generated tokens

    InputError for what is missing or does not fit, a line each."""
    assets.offline()
    for option, value in (("max_tokens", max_tokens), ("batch", batch), ("tiles", tiles)):
        if value is not None and value < 1:
            raise InputError(f"--{option.replace('_', '-')} {value} is less than 1")
    wanted = model or DEFAULTS.get(name, name)
    folder, known = find(name, wanted)
    config = checked(name, folder)
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: no CUDA device here; ask the scheduler for one, or say --device cpu")
    dtype = torch.bfloat16 if _bf16(precision, where) else torch.float32
    processor, network = _load(name, folder, config, dtype)
    cut = _cut(name, processor, tiles)
    _decode_greedily(network, processor, max_tokens)
    return TransformersCaptioner(
        name=name,
        model=str(folder) if Path(wanted).expanduser().is_dir() else wanted,
        revision=known,
        decode={
            "sampling": "greedy",
            "max_tokens": max_tokens,
            "precision": "bf16" if dtype == torch.bfloat16 else "fp32",
            "class": type(network).__name__,
            **cut,
        },
        network=network.to(where).eval(),
        processor=processor,
        batch=batch,
        hidden=hidden,
    )


def find(name: str, model: str) -> tuple[Path, str]:
    """A model's folder and revision: the folder that was typed, or that name among the assets or in the hub's cache. InputError if it is
    nowhere."""
    if Path(model).expanduser().is_dir():
        folder = Path(model).expanduser().resolve()
        return folder, revision(folder)
    found = assets.require({f"captioner {name}": model})[f"captioner {name}"]
    return found.path, found.revision or revision(found.path)


def checked(name: str, folder: Path) -> dict[str, Any]:
    """config.json of a model's folder. InputError with a line for every file that is missing or is none, or if the model is of another
    kind than the name says or not native in transformers."""
    wrong = list(_missing(folder))
    if wrong:
        raise InputError(f"captioner {name}: {folder} is not complete\n" + "\n".join(f"  {line}" for line in wrong))
    config = _json(folder / "config.json")
    kind = config.get("model_type", "")
    if kind not in TYPES.get(name, (kind,)):
        raise InputError(
            f"captioner {name}: {folder} holds a model of type {kind!r}, not {' or '.join(TYPES[name])}: name another --captioner"
        )
    from transformers import __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise InputError(
            f"captioner {name}: transformers {__version__} has no image-text-to-text model of type {kind!r} ({folder}); models that bring "
            "code of their own are not run"
        )
    return config


def _missing(folder: Path) -> list[str]:
    """A line for each file of a model that is not there, or that is there in name only."""
    lines = []
    weights = [WHOLE]
    for either in NEEDED:
        if not any((folder / one).is_file() for one in either):
            lines.append(f"{' or '.join(either)} is missing")
    if (folder / INDEX).is_file() and not (folder / WHOLE).is_file():
        try:
            weights = sorted(set(_json(folder / INDEX)["weight_map"].values()))
        except (KeyError, TypeError, AttributeError):
            return [*lines, f"{INDEX} has no weight_map"]
    for weight in weights:
        path = folder / Path(weight).name
        if not path.is_file():
            lines.append(f"{weight} is missing")
        elif path.open("rb").read(len(POINTER)) == POINTER:
            lines.append(f"{weight} is a pointer of git-lfs and not the weights: git lfs pull")
    return lines


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except ValueError:
        raise InputError(f"{path} is not JSON: fetch it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is no JSON object: fetch it again")
    return value


def revision(folder: Path) -> str:
    """The commit, if the folder is a snapshot of the hub's cache; else "sha256:" and the digest of config.json and of the weights' names
    and sizes: enough to tell models apart, without reading many gigabytes."""
    if folder.parent.name == "snapshots":
        return folder.name
    digest = sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"\n{path.name} {path.stat().st_size}".encode())
    return f"sha256:{digest.hexdigest()}"


def _bf16(precision: str, device: torch.device) -> bool:
    if precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"--precision {precision} is not auto, fp32 or bf16")
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def _load(name: str, folder: Path, config: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    """Processor and network. InputError where a file is damaged or the weights are not all there."""
    mend_torchvision()
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what it would say of weights that do not fit is said below
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(folder, **local)
    except (OSError, ValueError) as error:  # damaged files, or a processor that brings code of its own
        raise InputError(f"captioner {name}: the processor in {folder} cannot be loaded: {str(error).splitlines()[0]}") from None
    if not hasattr(processor, "image_processor"):
        raise InputError(f"captioner {name}: {folder} has no processor that takes pictures and words together")
    if not processor.chat_template and not hasattr(processor, "image_token"):
        raise InputError(f"captioner {name}: {folder} has neither a chat template nor an image token: how it is asked is not known")
    try:
        network, found = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **local
        )
    except SafetensorError as error:
        raise InputError(f"captioner {name}: the weights in {folder} are damaged ({error}): fetch them again") from None
    for said, keys in (("lack", found["missing_keys"]), ("have in another shape", [key for key, *_ in found["mismatched_keys"]])):
        if keys:  # they would be drawn at random
            raise InputError(
                f"captioner {name}: the weights in {folder} {said} {len(keys)} tensors of this {config['model_type']}, {min(keys)} among "
                "them: fetch the folder again"
            )
    return processor, network


def _cut(name: str, processor: Any, tiles: int | None) -> dict[str, Any]:
    """Set how a strip is cut into tiles. -> what the record keeps of it.

    Ovis2's own choice of the grid, as transformers has it, takes rows for columns: a strip of five frames side by side is squeezed to the
    width of one and cut into five bands. The grid nearest to the strip's aspect ratio, its other choice, is right."""
    pictures = processor.image_processor
    if not hasattr(pictures, "max_patches") or not hasattr(pictures, "crop_to_patches"):
        if tiles is not None:
            raise InputError(f"--tiles {tiles}: {name} does not cut pictures into tiles; leave it out")
        return {}
    if tiles is not None:
        pictures.crop_to_patches, pictures.max_patches = True, tiles
        pictures.min_patches = min(pictures.min_patches, tiles)
    told = {"tiles": pictures.max_patches if pictures.crop_to_patches else 1}
    if not hasattr(pictures, "use_covering_area_grid"):
        return told
    pictures.use_covering_area_grid = False
    return {**told, "grid": "aspect"}


def _decode_greedily(network: Any, processor: Any, max_tokens: int) -> None:
    """Replace a model's own settings of generation, which may sample or punish repetition, and keep its end tokens."""
    from transformers import GenerationConfig

    own, words = network.generation_config, processor.tokenizer
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    known = sorted({end for end in [*ends, words.eos_token_id] if end is not None})
    if not known:
        raise InputError(f"{network.config.name_or_path}: neither generation_config.json nor the tokenizer names an end token")
    pad = next(token for token in (words.pad_token_id, own.pad_token_id, known[0]) if token is not None)
    network.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=max_tokens, eos_token_id=known, pad_token_id=pad, bos_token_id=own.bos_token_id
    )


def side_by_side(rows: Sequence[Inputs], pad: int) -> Inputs:
    """One batch of several questions: what runs along the tokens ([1,L]) is padded on its left, where a model that writes on at the right
    does not see it; the rest is joined as it is."""
    longest = max(row["input_ids"].shape[1] for row in rows)
    joined = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        if all(part.shape == row["input_ids"].shape for part, row in zip(parts, rows, strict=True)):
            filling = pad if name == "input_ids" else 0
            parts = [torch.nn.functional.pad(part, (longest - part.shape[1], 0), value=filling) for part in parts]
        joined[name] = torch.cat(parts)
    return joined


def _shapes(row: Inputs) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """What two questions must have in common to be joined: the shapes of their tensors, less the first axis and less tokens."""
    tokens = row["input_ids"].shape
    return tuple((name, tuple(value.shape[1:])) for name, value in sorted(row.items()) if value.shape != tokens)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocator gave up: CUDA's has a class of its own, the CPU's only words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
