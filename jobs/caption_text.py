"""The caption in a captioner's answer: what chat models put around it is left out, and what is too long is cut at a sentence's end."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable

# --- words and sentences -----------------------------------------------------------------------------------------------------------------

# scripts without blanks between words count by character
ALONE = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+(?:'[^\W_{ALONE}]+)*")
SENTENCE_END = re.compile(r"[.!?]+[\"')]*(?=\s|$)|[。！？]+[”’」』]*")
# what captions call the picture that they describe
PICTURE = r"(?:image|picture|photo(?:graph)?|frame|video|clip|strip|sequence|series|collage|montage|composite|panel|scene|snapshot)s?"


def words(text: str) -> list[str]:
    """The words of a text in small letters; each character of Chinese, Japanese or Korean is one."""
    return WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """The sentences of a text, without their ends."""
    return [sentence.strip() for sentence in SENTENCE_END.split(text) if sentence.strip()]


# --- cleaning ----------------------------------------------------------------------------------------------------------------------------

LONGEST = 10_000  # characters: many times what CLIP reads
MARKS = re.compile(r"<think>.*?(?:</think>|\Z)|<\|[^|<>\n]{0,40}\|>|</?s>|<image>|<img>|</img>|<pad>|<unk>", re.DOTALL | re.IGNORECASE)
FENCE = re.compile(r"^[ \t]*```\w*[ \t]*$", re.MULTILINE)
LINE_START = re.compile(r"^[ \t]*(?:(?:#{1,6}|>|[-*•]|\d{1,2}[.)])[ \t]+)+", re.MULTILINE)
EMPHASIS = re.compile(r"(\*\*\*|\*\*|__|`)(?=\S)(.+?)(?<=\S)\1|(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])")
LINK = re.compile(r"!?\[([^\]\n]*)\]\([^()\s]*\)")
QUOTES = str.maketrans({"‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"'})
OF_IMAGES = r"(?: of (?:\w+ )?(?:images|frames|pictures|photos))?"
# a beginning that only says that there is a picture; the caption follows it
PREAMBLE = re.compile(
    "|".join(
        (
            r"(?:sure|certainly|of course|absolutely|okay|ok)(?: thing)? ?[!,.:] ?",
            r"here(?:'s| is| are) (?:a|an|the|your|one)\b[^.:]{0,80}: ?",
            r"(?:caption|description|answer|assistant|output|response) ?: ?",
            rf"(?:in|across|throughout) (?:this|the|these) (?:\w+ ){{0,3}}?{PICTURE}{OF_IMAGES} ?, ?",
            rf"(?:this|the|these) (?:\w+ ){{0,3}}?{PICTURE}(?: {PICTURE})?{OF_IMAGES} (?:clearly )?"
            r"(?:shows?|depicts?|displays?|illustrates?|captures?|presents?|features?|showing|depicting) (?:that |how )?",
            r"(?:we|you|one) (?:can )?see (?:that )?",
        )
    ),
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """The caption in an answer: one line without what chat models put around it.

    Left out are control, format and private characters, lone surrogates and emoji (CLIP would spend several tokens on each, and no skeleton
    shows them), markdown, chat marks, thoughts between <think> and </think>, quotes around it all, and beginnings such as "The image
    shows", and all after LONGEST characters. Everything else stays as it is: what looks like markup or a path is text. Cleaning twice
    changes nothing more."""
    text = text[:LONGEST]
    for _ in range(20):  # what is taken away may uncover more of it
        cleaned = _cleaned(text)
        if cleaned == text:
            break
        text = cleaned
    return text


def _cleaned(text: str) -> str:
    text = FENCE.sub("", MARKS.sub(" ", unicodedata.normalize("NFC", text.translate(QUOTES))))
    text = LINK.sub(r"\1", LINE_START.sub("", text))
    text = EMPHASIS.sub(lambda found: found[2] or found[3], text)
    text = " ".join("".join(_shown(character) for character in text).split())
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        text = text[1:-1].strip()
    begun = PREAMBLE.match(text)
    if begun and len(words(text[begun.end() :])) > 2:
        text = _capital(text[begun.end() :])
    return text


def _capital(text: str) -> str:
    first = text[0].upper()
    return first + text[1:] if len(first) == 1 else text


def _shown(character: str) -> str:
    """The character, a blank for white space, nothing for what no reader sees and for what is a picture."""
    if character.isspace():
        return " "
    kind = unicodedata.category(character)
    unseen = kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Me")
    emoji = (kind == "So" and character >= "\u2000") or "\U0001f3fb" <= character <= "\U0001f3ff" or "\ufe00" <= character <= "\ufe0f"
    return "" if unseen or emoji else character


# --- cutting -----------------------------------------------------------------------------------------------------------------------------


def cut(text: str, count: Callable[[str], int], limit: int) -> str:
    """As many whole sentences from the beginning as have at most `limit` tokens; the text itself where not even one fits.

    count: tokens of a text. A first sentence that is too long is left for the gate to flag: half a sentence is another caption."""
    if not text or count(text) <= limit:
        return text
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    fit = bisect_right(ends, limit, key=lambda end: count(text[:end]))
    return text[: ends[fit - 1]] if fit else text
