"""Text features: tokens counted as CLIP counts them, and features of captions against the tower's own results."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.encode_text import count_tokens

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


def texts(seed: int, count: int) -> list[str]:
    """Strings of letters, signs, other scripts and emoji."""
    draw = random.Random(seed)
    letters = [lambda: draw.randint(32, 126)] * 6 + [lambda: draw.randint(0, 0x3000), lambda: draw.randint(0x1F300, 0x1FAFF)]
    return ["".join(chr(draw.choice(letters)()) for _ in range(draw.randint(0, 40))) for _ in range(count)]


def test_tokens_are_counted_as_open_clip_counts_them() -> None:
    from jobs.torchvision_ops import mend_torchvision

    mend_torchvision()
    tokenizer = pytest.importorskip("open_clip").get_tokenizer("ViT-B-32")
    for text in (*HARD, *texts(0, 500), *(ROOT / "README.md").read_text().splitlines()):
        assert count_tokens(text) == len(tokenizer.encode(text)), repr(text)


def test_counting_imports_no_torch() -> None:
    check = "import sys; from jobs.encode_text import count_tokens; assert count_tokens('a b') == 2; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
