"""CLIP's tokens counted, without its weights and without torch."""

import gzip
import html
import importlib.util
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

from shards.errors import InputError

LIMIT = 75  # tokens between start and end: CLIP's 77 positions
MERGES = 49152 - 256 - 2  # of the vocabulary's file, the ones that CLIP uses
PATTERN = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SPECIAL = ("<start_of_text>", "<end_of_text>")


def count_tokens(text: str) -> int:
    """How many tokens CLIP's tokenizer makes of a text, without start and end.

    open_clip's own vocabulary and the same byte-pair merges as its tokenizer, but without importing torch, which would take longer than
    counting the captions of a slice; the tests hold it against the tokenizer itself. InputError where open_clip is not installed."""
    _vocabulary()
    import ftfy
    import regex

    cleaned = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
    return sum(_pieces(word) for word in regex.findall(PATTERN, cleaned, regex.IGNORECASE))


@cache
def _vocabulary() -> dict[tuple[str, str], int]:
    """Which two neighbours are merged, and in which order: the lowest rank first."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        raise InputError("open_clip is not installed, and its tokenizer is needed to count CLIP tokens: pip install -e '.[caption]'")
    with gzip.open(Path(found.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : MERGES + 1]
    pairs = (line.split() for line in lines)
    return {(first, second): rank for rank, (first, second) in enumerate(pairs)}


@cache
def _letters() -> list[str]:
    """A visible letter for each of the 256 bytes, as the vocabulary writes them: the byte's own where it has one, else from 256 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = {byte: 256 + i for i, byte in enumerate(byte for byte in range(256) if byte not in visible)}
    return [chr(others.get(byte, byte)) for byte in range(256)]


@lru_cache(maxsize=100_000)
def _pieces(word: str) -> int:
    """Into how many tokens one word falls: neighbours are merged while the vocabulary has the pair."""
    if word in SPECIAL:
        return 1
    ranks = _vocabulary()
    parts = [_letters()[byte] for byte in word.encode()]
    parts[-1] += "</w>"
    while len(parts) > 1:
        rank, best = min((ranks.get(pair, MERGES), pair) for pair in pairwise(parts))
        if rank == MERGES:
            break
        merged: list[str] = []
        for part in parts:
            if merged and (merged[-1], part) == best:
                merged[-1] += part
            else:
                merged.append(part)
        parts = merged
    return len(parts)
