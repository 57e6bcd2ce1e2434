"""Tiny models with random weights, built on the spot and saved as the real ones are: Ovis2, DeepSeek-VL, and open_clip's CLIP.

The classes, processors, tokenizers, files and loading are the real ones; only sizes and weights are not. What they say is noise."""

import json
from pathlib import Path
from typing import Any

import torch

from jobs.torchvision_ops import mend_torchvision

TILE = 56  # side of a tile in pixels; 4 visual tokens each
STRIDE = 2
SEQUENCE = (TILE // 14 // STRIDE) ** 2
CLIP = "tiny-clip"
INDICATORS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
WORDS = (
    "a person the left right arm leg hand foot head raises lowers bends turns walks sits down stands up slowly fast twice towards away "
    "from other and then while both knees shoulders back throws kicks drinks waves claps picks puts on takes off jacket cup phone ball"
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}IMAGE\n{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(special: tuple[str, ...], named: dict[str, str] | None = None) -> Any:
    """Qwen2's own tokenizer class over the 256 bytes and a few words of its own, so that noise reads like words. named: special tokens
    that are attributes of it too."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    vocabulary = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in WORDS.split():
        left = "Ġ"  # the byte-level sign of a space
        for letter in word:
            if left + letter not in vocabulary:
                vocabulary.append(left + letter)
                merges.append((left, letter))
            left += letter
    made = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(vocabulary)},
        merges=merges,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=named or {},
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *special]})
    return made


def tiny_ovis2(folder: Path, seed: int = 0, spread: float = 0.5) -> Path:
    """Ovis2 with 4 visual tokens per tile, as `from_pretrained` reads it. spread: deviation of the language model's weights; at 0.02, as
    in training, it repeats one token for ever. -> folder"""
    mend_torchvision()
    from transformers import Ovis2ForConditionalGeneration

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config, processor = ovis2(TILE, {**shape, "num_key_value_heads": 2}, {**shape, "vocab_size": 128}, spread)
    processor.save_pretrained(folder)
    return save(Ovis2ForConditionalGeneration, config, processor.tokenizer, folder, seed)


def ovis2(tile: int, text: dict[str, Any], vision: dict[str, Any], spread: float) -> tuple[Any, Any]:
    """Configuration and processor of an Ovis2 whose tiles have a side of `tile` pixels, a multiple of 28. A larger vocabulary than the
    tokenizer's may be named in `text`."""
    mend_torchvision()
    import transformers as hf

    words = tokenizer(("<image>", "<IMG_ATOM>", *INDICATORS))
    template = TEMPLATE.replace("IMAGE", "<image>")
    pictures = hf.Ovis2ImageProcessor(crop_to_patches=True, max_patches=9, size={"height": tile, "width": tile})
    length = (tile // 14 // STRIDE) ** 2
    processor = hf.Ovis2Processor(image_processor=pictures, tokenizer=words, chat_template=template, image_seq_length=length)
    language = hf.Qwen2Config(**{"max_position_embeddings": 4096, **of_words(words, spread), **text})
    atom, *indicators = (int(words.convert_tokens_to_ids(name)) for name in ("<IMG_ATOM>", *INDICATORS))
    config = hf.Ovis2Config(
        text_config=language,
        vision_config=hf.Ovis2VisionConfig(**{"image_size": tile, "hidden_stride": STRIDE, "initializer_range": 0.2, **vision}),
        image_token_id=atom,
        visual_indicator_token_ids=indicators,
        vocab_size=language.vocab_size,
        hidden_size=language.hidden_size,
        tie_word_embeddings=language.tie_word_embeddings,
    )
    return config, processor


def tiny_deepseek_vl(folder: Path, seed: int = 0, hybrid: bool = True) -> Path:
    """DeepSeek-VL with 16 visual tokens per picture. hybrid: as the 7B one, with two vision towers; else as the 1.3B one. -> folder"""
    mend_torchvision()
    import transformers as hf

    words = tokenizer(("<image_placeholder>",), {"image_token": "<image_placeholder>"})
    template, size = TEMPLATE.replace("IMAGE", "<image_placeholder>"), {"height": TILE, "width": TILE}
    shared = {"tokenizer": words, "chat_template": template, "num_image_tokens": 16}
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    towers: dict[str, Any] = {
        "text_config": hf.LlamaConfig(**of_words(words), **shape),
        "vision_config": hf.SiglipVisionConfig(image_size=TILE, patch_size=14, **shape),
        "image_token_id": int(words.convert_tokens_to_ids("<image_placeholder>")),
        "tie_word_embeddings": False,
    }
    if not hybrid:
        hf.DeepseekVLProcessor(image_processor=hf.DeepseekVLImageProcessor(size=size), **shared).save_pretrained(folder)
        return save(hf.DeepseekVLForConditionalGeneration, hf.DeepseekVLConfig(**towers), words, folder, seed)
    pictures = hf.DeepseekVLHybridImageProcessor(size=size, high_res_size={"height": 2 * TILE, "width": 2 * TILE})
    hf.DeepseekVLHybridProcessor(image_processor=pictures, **shared).save_pretrained(folder)
    second = hf.SamVisionConfig(
        hidden_size=32, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=2 * TILE, global_attn_indexes=[0, 1]
    )
    config = hf.DeepseekVLHybridConfig(high_res_vision_config=second, **towers)
    return save(hf.DeepseekVLHybridForConditionalGeneration, config, words, folder, seed)


def tiny_qwen2_vl(folder: Path, seed: int = 0) -> Path:
    """Qwen2-VL, for "any other model": a picture is as many patches as it has room for, with their grid beside them. -> folder"""
    mend_torchvision()
    import transformers as hf

    words = tokenizer(("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"))
    hf.Qwen2VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 16),
        tokenizer=words,
        video_processor=hf.Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)
    token = {name: int(words.convert_tokens_to_ids(f"<|{name}|>")) for name in ("image_pad", "video_pad", "vision_start", "vision_end")}
    config = hf.Qwen2VLConfig(
        text_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
            **of_words(words),
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
        image_token_id=token["image_pad"],
        video_token_id=token["video_pad"],
        vision_start_token_id=token["vision_start"],
        vision_end_token_id=token["vision_end"],
        tie_word_embeddings=False,
    )
    return save(hf.Qwen2VLForConditionalGeneration, config, words, folder, seed)


def of_words(words: Any, spread: float = 0.5) -> dict[str, Any]:
    """What a language model's configuration takes from a tokenizer, and how far its weights spread."""
    return {
        "vocab_size": len(words),
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": None,
        "tie_word_embeddings": False,
        "initializer_range": spread,
    }


def save(kind: Any, config: Any, words: Any, folder: Path, seed: int) -> Path:
    """The model of a class with weights drawn from a seed, with its generation settings, as a folder of files."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = kind(config)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    model.save_pretrained(folder)
    return folder


def tiny_clip(folder: Path, seed: int = 0) -> tuple[str, Path]:
    """CLIP with real tokens (49,408 of them, 77 positions), text width 64, joint width 48, pictures of 32 x 32 pixels.

    -> ("tiny-clip", the weight file): a name that open_clip knows in this process alone. For another process, `local-dir:FOLDER` is the
    same model: the folder also holds what open_clip looks for there."""
    mend_torchvision()
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
    }
    (folder / f"{CLIP}.json").write_text(json.dumps(config))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    open_clip.add_model_config(folder / f"{CLIP}.json")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = open_clip.create_model(CLIP, pretrained=None)
    weights = folder / "open_clip_model.safetensors"
    save_file(model.state_dict(), weights)
    return CLIP, weights
