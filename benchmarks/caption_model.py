"""A vision-language captioner: strips per second in batches against one at a time, and what a strip's time goes into.

python -m benchmarks.caption_model [--size small|1b] [--device cpu|cuda] [--batch 8] [--tiles N] [--threads 1] [--repeats 1]

Weights are random, so nothing is said about captions; every caption is as long as it may be. On a CPU, seconds are those that it worked:
clips per second of one core that does nothing else. `small` keeps Ovis2's shape at a size that a
processor does in seconds; `1b` has the sizes of Ovis2-1B (AIMv2-large on tiles of 448 pixels, Qwen2.5-0.5B).
"""

import argparse
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.table import Row, show
from jobs.caption_record import Ask, Strip
from jobs.caption_vlm import TransformersCaptioner
from jobs.torchvision_ops import mend_torchvision
from tests.tiny_models import ovis2

HEIGHT, WIDTHS = 448, (1120, 1400, 1680, 2240)  # strips of five persons, from slim to wide
PROMPT = (
    "These five pictures show one action in order of time. Describe how the person moves."  # by the letter: as many tokens as a long one
)
TOKENS = 75
SIZES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "small": (
        224,
        {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2},
        {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 4096},
    ),
    "1b": (
        448,
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 8, "vocab_size": 65536},
    ),
}


def measure(size: str = "small", device: str = "cpu", batch: int = 8, tiles: int = 3, threads: int = 1, repeats: int = 1) -> list[Row]:
    """Medians over `repeats` passes over a batch of strips."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _rows(model(size, device, batch, tiles), repeats)
    finally:
        torch.set_num_threads(threads_before)


def model(size: str, device: str, batch: int, tiles: int) -> TransformersCaptioner:
    """Ovis2 of a size, random weights drawn on the device: bf16 on a GPU, and where it is large."""
    mend_torchvision()
    from transformers import GenerationConfig, Ovis2ForConditionalGeneration

    tile, text, vision = SIZES[size]
    config, processor = ovis2(tile, text, vision, spread=0.02)
    processor.image_processor.max_patches, processor.image_processor.use_covering_area_grid = tiles, False
    dtype = torch.bfloat16 if device != "cpu" or size != "small" else torch.float32
    with torch.device(device), torch.random.fork_rng([device] if device != "cpu" else []):
        torch.manual_seed(0)
        network = Ovis2ForConditionalGeneration._from_config(config, dtype=dtype).eval()
    end = processor.tokenizer.eos_token_id
    network.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS, eos_token_id=[end], pad_token_id=processor.tokenizer.pad_token_id
    )
    return TransformersCaptioner("ovis2", f"random {size}", "", {}, network, processor, batch)


def asks(count: int) -> list[Ask]:
    """Questions about strips of noise of the usual widths."""
    noise = np.random.default_rng(0)
    made = []
    for i in range(count):
        width = WIDTHS[i % len(WIDTHS)]
        strip = Strip(f"k{i}", noise.integers(0, 256, (HEIGHT, width, 3), dtype=np.uint8), (0,), ((0, 0, width, HEIGHT),), "full")
        made.append(Ask(strip.key, PROMPT, strip))
    return made


def _rows(made: TransformersCaptioner, repeats: int) -> list[Row]:
    batch, questions = made.batch, asks(made.batch)
    weights = sum(parameter.numel() for parameter in made.network.parameters())
    name = f"captions, Ovis2 of {weights / 1e6:,.0f} M random weights"
    made(questions[:1])  # to warm up
    together = median(_seconds(lambda: made(questions), made, repeats))
    prepared = median(_seconds(lambda: [made.prepare(ask) for ask in questions], made, repeats))
    short = _first_token(made)
    first = median(_seconds(lambda: short(questions), made, repeats))
    made.batch = short.batch = 1
    single = median(_seconds(lambda: made(questions), made, repeats))
    single_first = median(_seconds(lambda: short(questions), made, repeats))
    made.batch = batch
    rate, alone = batch / together, batch / single
    words, words_alone = (batch * (TOKENS - 1) / taken for taken in (together - first, single - single_first))
    tokens = median(made.prepare(ask)["input_ids"].shape[1] for ask in questions)
    return [
        Row(f"{name}, {batch} at once against 1", rate, "clips/s", alone, rate / alone),
        Row(f"  of it tiles and tokens ({tokens:.0f} a strip)", 100 * prepared / together, "%"),
        Row("  of it prefill: the strip, the prompt, one token", 100 * (first - prepared) / together, "%"),
        Row(f"  of it decoding {TOKENS - 1} more tokens", 100 * (together - first) / together, "%"),
        Row("  decoding alone", words, "tokens/s", words_alone, words / words_alone),
    ]


def _first_token(made: TransformersCaptioner) -> TransformersCaptioner:
    """The same model, which stops after one token."""
    settings = copy(made.network.generation_config)
    settings.max_new_tokens = settings.min_new_tokens = 1
    network = copy(made.network)  # shares its weights
    network.generation_config = settings
    return replace(made, network=network)


def _seconds(call: Callable[[], Any], made: TransformersCaptioner, repeats: int) -> Sequence[float]:
    """Time of each repeat: of a CPU what it worked, so that others on it disturb little; of a GPU what went by."""
    on_gpu = made.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    taken = []
    for _ in range(repeats):
        began = clock()
        call()
        if on_gpu:
            torch.cuda.synchronize(made.device)
        taken.append(clock() - began)
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for option, value in (("batch", 8), ("tiles", 3), ("threads", 1), ("repeats", 1)):
        parser.add_argument(f"--{option}", type=int, default=value)
    show(measure(**vars(parser.parse_args())))
