"""What captioners are asked: prompts as data. Words that were used once are never changed; a better prompt is a new id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shards.errors import InputError


@dataclass(frozen=True)
class Prompt:
    """One question about a strip.

    id        what records keep: aim, language, version
    words     what the captioner is told, beside the picture
    language  of the words, and so most likely of the caption
    written   date
    source    where the words are from"""

    id: str
    words: str
    language: Literal["en", "zh"]
    written: str
    source: str


PROMPTS = (
    Prompt(
        "describe-en-1",
        "The picture shows moments of one short action, side by side, earliest on the left. In one or two plain English sentences of at "
        "most 45 words in all, say what the person does: which limbs move, left or right, where to, in which order, and what is held or "
        "touched. Leave out clothes, surroundings and the picture itself.",
        "en",
        "2026-11-21",
        "acsar-suite: the default; asks for what a skeleton can show, in the language that OpenAI's CLIP reads",
    ),
    Prompt(
        "again-en-1",
        'Describe the body movement in English, in one sentence of 15 to 40 words that begins with "A person" or "Two people". '
        "Name the arms, legs, head or trunk that move and their direction over time, from left to right. Only the sentence.",
        "en",
        "2026-11-21",
        "acsar-suite: asked where the default's caption was flagged; shorter, and gives the first words",
    ),
    Prompt(
        "interaction-en-1",
        "The picture shows moments of one short action of two people, side by side, earliest on the left. In one or two plain English "
        "sentences of at most 45 words in all, say what each of them does with which limbs, who begins, how the other answers, and whether "
        "they come closer, touch or move apart. Leave out clothes, surroundings and the picture itself.",
        "en",
        "2026-11-21",
        "acsar-suite: for sets of interactions",
    ),
    Prompt(
        "paper-zh",
        "这是一个沿时间结构拼接的动作图像,请描述其中的动作变化",
        "zh",
        "2025-11",
        "Li, Ma, Chen, Acta Electronica Sinica 2025, 53(11), word for word; printed for comparing captioners, the method's own is not",
    ),
    Prompt(
        "paper-en-1",
        "This is an action image assembled along time; please describe the change of the action in it in English.",
        "en",
        "2026-11-21",
        "acsar-suite: paper-zh in English, so that its wording can be measured apart from its language",
    ),
)
DEFAULT = ("describe-en-1", "again-en-1")
"""The default and the one that a flagged caption is asked again with."""


def prompts(ids: Sequence[str]) -> tuple[Prompt, ...]:
    """The prompts of these ids, in the order in which a flagged caption is asked again.

    InputError for an id that is not known, one that is named twice, and none at all."""
    known = {prompt.id: prompt for prompt in PROMPTS}
    unknown = [name for name in ids if name not in known]
    if unknown or not ids:
        raise InputError(f"{f'prompt {unknown[0]!r} is not known' if unknown else 'no prompt is named'}; there are {', '.join(known)}")
    twice = [name for name in known if ids.count(name) > 1]
    if twice:
        raise InputError(f"prompt {twice[0]!r} is named twice; asking again needs other words")
    return tuple(known[name] for name in ids)
