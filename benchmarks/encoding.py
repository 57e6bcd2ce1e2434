"""Text features: captions per second of one core through a ViT-B-32 text tower (random weights), and of counting tokens.

python -m benchmarks.encoding
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.table import Row, show
from jobs.encode_text import EncodeText, Tower, clip_library, count_tokens, weights_of
from jobs.text import HashText

BATCH, ROUNDS, CLIPS = 32, 3, 100_000
SAID = [f"The person raises the left hand to shoulder height, holds it there and lowers it slowly, {i} times in all." for i in range(256)]


def measure() -> list[Row]:
    """Rates by the process's own time, so that other programs on the machine do not count."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        weights = random_tower(Path(folder))
        towers, seconds = {}, 0.0
        for precision in ("fp32", "bf16"):
            job = EncodeText(Path(folder), Path(folder), pretrained=str(weights), precision=precision)
            began = time.perf_counter()
            towers[precision] = Tower(job, weights_of(job))
            seconds = time.perf_counter() - began
        rate = {name: per_second(lambda tower=tower: tower(SAID[:BATCH]), BATCH) for name, tower in towers.items()}
        exact, rough = (np.stack([one.features for one in towers[name](SAID[:BATCH])]).astype(np.float64) for name in ("fp32", "bf16"))
    cosine = float(((exact * rough).sum(2) / np.linalg.norm(exact, axis=2) / np.linalg.norm(rough, axis=2)).min())
    mine = per_second(lambda: [count_tokens(text) for text in SAID], len(SAID))
    tokenizer = clip_library().get_tokenizer("ViT-B-32")
    theirs = per_second(lambda: [len(tokenizer.encode(text)) for text in SAID], len(SAID))
    return [
        Row("text tower ViT-B-32, fp32, one core", rate["fp32"], "captions/s"),
        Row(
            "text tower ViT-B-32, bf16, one core (peer: fp32)",
            rate["bf16"],
            "captions/s",
            rate["fp32"],
            rate["bf16"] / rate["fp32"],
        ),
        Row("least cosine of a bf16 word feature with fp32's", cosine, ""),
        Row("loading the tower", seconds, "s"),
        Row(f"{CLIPS} distinct captions, fp32, one core", CLIPS / rate["fp32"] / 3600, "hours"),
        Row("hash features, one core", per_second(lambda: [HashText()(text) for text in SAID], len(SAID)), "captions/s"),
        Row("counting CLIP tokens (peer: open_clip's tokenizer)", mine, "captions/s", theirs, mine / theirs),
    ]


def random_tower(folder: Path) -> Path:
    """ViT-B-32 with random weights as a folder that open_clip reads; of the picture tower, which is not used, one layer."""
    from safetensors.torch import save_file

    clip = clip_library()
    config: dict[str, Any] = clip.get_model_config("ViT-B-32")
    config["vision_cfg"]["layers"] = 1
    torch.manual_seed(0)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def per_second(call: Callable[[], object], items: int) -> float:
    """Items per second of processor time: the median of some rounds after a first one."""
    call()
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        call()
        found.append(items / (time.process_time() - began))
    return statistics.median(found)


def main() -> None:
    """Print the table."""
    show(measure())


if __name__ == "__main__":
    main()
