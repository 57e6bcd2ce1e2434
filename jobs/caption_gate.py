"""The quality gate: what is wrong with a caption, and whether a set of captions is good enough to train on.

A caption is cleaned, cut to what CLIP reads, and flagged; `judge` does all three. Rules are written down here as patterns and shares, none
is learnt: a flag has to be explained to the person who wrote the prompt. They err on the side of a caption; a set that is bad as a whole
shows in its rates.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.caption_record import CaptionRecord
from jobs.caption_text import PICTURE, clean, cut, sentences, words
from shards.errors import InputError

FLAGS = ("empty", "refusal", "repeated phrase", "copy of the prompt", "wrong language", "too long", "boiler-plate")


@dataclass(frozen=True)
class Limits:
    """What a caption may be, and which share of a set may be worse.

    Copies are held against a set only where one text is everywhere: of ten actions each tenth caption may well be the same."""

    max_flagged: float = 0.05  # share of captions with a flag after the last prompt
    max_duplicates: float = 0.25  # share of captions that repeat the commonest one
    max_errors: float = 0.02  # share of clips without caption: unreadable videos, an endpoint that gave up
    max_tokens: int = 75  # CLIP tokens between start and end
    multilingual: bool = False  # the text tower reads other languages than English: none is wrong

    def __post_init__(self) -> None:
        for name in ("max_flagged", "max_duplicates", "max_errors"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"--limits.{name.replace('_', '-')} {getattr(self, name)}: a share lies between 0 and 1; 5 percent are 0.05"
                )
        if self.max_tokens < 1:
            raise InputError(f"--limits.max-tokens {self.max_tokens}: at least 1 is needed; CLIP reads 75")


@dataclass(frozen=True)
class Judged:
    """A caption as it is kept, and what is held against it.

    notes   "cut": sentences were left out at the end; no fault
    tokens  CLIP tokens between start and end, of the text as it is kept"""

    text: str
    flags: tuple[str, ...]
    notes: tuple[str, ...]
    tokens: int


def judge(text: str, prompt: str, count: Callable[[str], int], limits: Limits) -> Judged:
    """Clean a captioner's answer, cut it at a sentence's end where it is too long, and flag what is left.

    prompt: the words that were asked, "" where none were; count: CLIP tokens of a text, between start and end."""
    cleaned = clean(text)
    kept = cut(cleaned, count, limits.max_tokens)
    tokens = count(kept) if kept else 0
    return Judged(kept, flags(kept, prompt, tokens, limits), ("cut",) if kept != cleaned else (), tokens)


# --- one caption -------------------------------------------------------------------------------------------------------------------------

REFUSAL = re.compile(
    "|".join(
        (
            r"\bI(?:'m| am)? (?:(?:really|very|so|truly) )?(?:sorry|afraid|unable|not able|cannot|can't|can not|couldn't|apologi[sz]e)\b",
            r"\bI (?:don't|do not) (?:see|have|know)\b|\bI (?:won't|will not|could not)\b",
            r"^(?:sorry|apologies|my apologies)\b",
            r"\bas an? (?:AI|artificial|(?:large )?language model|assistant)\b",
            r"\b(?:unable|not possible|impossible|difficult) to (?:determine|identify|describe|view|analy[sz]e|provide|assist|tell)\b",
            r"\bcan(?:not|'t) be (?:determined|identified|described)\b",
            r"\bplease (?:provide|upload|share|send)\b",
            r"\bno (?:image|picture|video|visible (?:person|people|action)|person (?:is )?(?:visible|present))\b",
            r"抱歉|对不起|无法(?:描述|识别|确定|查看|看到|提供|判断)|作为(?:一个)?(?:AI|人工智能|语言模型)|请(?:提供|上传)",
        )
    ),
    re.IGNORECASE,
)
# talk with the one who asked: once is enough
CHAT = re.compile(
    r"\b(?:let me know|feel free to|hope (?:this|that) helps|as requested|you asked|your (?:request|question)|happy to help"
    r"|would you like me|in (?:at most )?\d+ words|word count)\b",
    re.IGNORECASE,
)
# sentences about the picture, its quality and its mood: a caption must not mostly consist of them
PICTURE_DOES = (
    r"(?:is|are|was|were|has|have|(?:seem|appear|show|capture|suggest|convey|depict|illustrate|consist|display)s?"
    r"|conveying|showing|depicting)"
)
PADDING = re.compile(
    "|".join(
        (
            r"^(?:overall|in summary|in conclusion|additionally|furthermore)\b",
            rf"\b(?:the|this|these|each|every) (?:\w+ ){{0,3}}?{PICTURE} (?:\w+ )?{PICTURE_DOES}\b",
            r"\b(?:series|sequence|collage|montage|set) of (?:\w+ )?(?:images|frames|pictures|photos|shots)\b",
            r"\b(?:background|setting|lighting|room|environment|atmosphere) (?:\w+ )?(?:is|are|appears?|seems?|suggests?|remains?)\b",
            r"\b(?:dynamic|vivid|captivating) (?:scene|sequence|moment|image|picture|display|sense)\b",
            r"\b(?:sense of (?:movement|motion|action)|various stages of|blurr(?:y|ed)|low (?:quality|resolution)|watermark)\b",
            r"\b(?:suggest|indicat|imply)(?:e?s|ing) (?:that )?(?:an? )?(?:movement|motion|action|activity|dynamic)\b",
        )
    ),
    re.IGNORECASE,
)
# words without which English hardly goes on: of running text they are a third and more
ENGLISH = frozenset(
    words(
        """a an the and or but of to with without his her their its he she they it is are was be has then from by this that these as at
        for in on into onto off over under toward towards through around across against along between after before until while when
        where which who both each other another one two first second again back up down left right out away forward forwards backward
        backwards upward upwards downward downwards sideways above below near next behind together apart slowly quickly twice once same
        not"""
    )
)
# a word as people write it: one case or a capital first, parts joined by - / or ', marks before and after it
WRITTEN = re.compile(
    r"[(\[\"'“«]*([^\W\d_]+|\d+(?:[.,:]\d+)?[^\W\d_]{0,4})(?:['/–-]+([^\W\d_]+|\d+))*[°%]*[)\]\"'”».,;:!?。，、！？；：]*|[-–—&/+=]"
)


def refuses(text: str) -> bool:
    """Whether these words decline to describe."""
    return bool(REFUSAL.search(text))


def flags(text: str, prompt: str, tokens: int, limits: Limits) -> tuple[str, ...]:
    """What is wrong with a cleaned caption: names out of FLAGS, in that order; none for a good one.

    prompt: the words that were asked, "" where none were; tokens: CLIP tokens of the text between start and end."""
    said = words(text)
    if not any(character.isalpha() for character in text):
        return ("empty",)
    checks = {
        "refusal": refuses(text),
        "repeated phrase": _repeats(text, said),
        "copy of the prompt": _copies(said, words(prompt)),
        "wrong language": _garbled(text) or (not limits.multilingual and _foreign(text, said)),
        "too long": tokens > limits.max_tokens,
        "boiler-plate": bool(CHAT.search(text)) or _pads(text),
    }
    return tuple(name for name in FLAGS if checks.get(name))


def _repeats(text: str, said: Sequence[str]) -> bool:
    """A loop: the same letters or words time after time, a sentence twice, or mostly words that were there before.

    Three or four claps are a description ("left, right, left, right, left, right"), so short phrases may come three times in a row."""
    if re.search(r"([^\W\d_]{1,12}?)\1{3,}", text[:4000].lower()):
        return True
    for size in range(1, 13):
        times = 3 if size > 3 else 4
        run = 0
        for at in range(size, len(said)):
            run = run + 1 if said[at] == said[at - size] else 0
            if run >= size * (times - 1):
                return True
    told = Counter(" ".join(words(sentence)) for sentence in sentences(text))
    if any(times > 1 and sentence.count(" ") > 3 for sentence, times in told.items()):
        return True
    return _shared(said, said[:0]) > 0.5


def _shared(said: Sequence[str], asked: Sequence[str], size: int = 4) -> float:
    """The share of `said` that lies in runs of `size` words which occur in `asked`, or earlier in `said` itself where nothing was asked."""
    seen = {tuple(asked[at : at + size]) for at in range(len(asked) - size + 1)}
    covered: set[int] = set()
    for at in range(len(said) - size + 1):
        run = tuple(said[at : at + size])
        if run in seen:
            covered.update(range(at, at + size))
        elif not asked:
            seen.add(run)
    return len(covered) / max(len(said), 1)


def _copies(said: Sequence[str], asked: Sequence[str]) -> bool:
    """Half of it, or ten words in a row, are the prompt's."""
    return bool(asked) and (_shared(said, asked) >= 0.5 or _shared(said, asked, 10) > 0)


def _foreign(text: str, said: Sequence[str]) -> bool:
    """Mostly letters that are not Latin, or too few of the words that English needs: one in eight, after the first ten words."""
    letters = [character for character in text if character.isalpha()]
    latin = sum(unicodedata.name(character, "").startswith(("LATIN", "FULLWIDTH LATIN")) for character in letters)
    return 2 * latin < len(letters) or 8 * sum(word in ENGLISH for word in said) < len(said) - 10


def _garbled(text: str) -> bool:
    """Of six or more pieces between blanks, more than every sixth is not written as words of any language are: "raiseK", "2^", "take&"."""
    pieces = text.split()
    return len(pieces) >= 6 and 6 * sum(not _written(piece) for piece in pieces) > len(pieces)


def _written(piece: str) -> bool:
    if WRITTEN.fullmatch(piece):
        return all(
            part.islower() or part.isupper() or part.istitle() or not part.upper().isupper() for part in re.findall(r"[^\W\d_]+", piece)
        )
    return any(ord(character) >= 0x2E80 for character in piece)  # scripts without blanks: a piece is a sentence


def _pads(text: str) -> bool:
    """At least half of its sentences are padding."""
    told = sentences(text)
    return 2 * sum(bool(PADDING.search(sentence)) for sentence in told) >= max(len(told), 1)


# --- a set of captions -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What a set of records is like.

    flags       captions that have it, by flag
    errors      clips without caption, by reason (what stands before the first colon)
    prompts     captions by the id of the prompt that they answer
    copies      {k: how many different texts stand in exactly k captions}: the histogram of duplicates
    commonest   the five texts that most captions have, with their number
    sentences   the five sentences that most captions have: a captioner's boiler-plate shows here first
    again       clips that were asked more than once
    cut         captions that were cut to a sentence's end
    full        clips whose strip shows whole frames because no person was found"""

    records: int = 0
    usable: int = 0
    flagged: int = 0
    again: int = 0
    cut: int = 0
    full: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    commonest: tuple[tuple[str, int], ...] = ()
    sentences: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, records: Iterable[CaptionRecord]) -> "Summary":
        """Read all records, one at a time; their different texts are kept in memory."""
        numbers: Counter[str] = Counter()
        held: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        prompts: Counter[str] = Counter()
        texts: Counter[str] = Counter()
        for record in records:
            numbers.update(records=1, usable=record.usable, flagged=bool(record.flags), again=len(record.asked) > 1)
            numbers.update(cut="cut" in record.notes, full=record.crop == "full")
            if record.error or not (record.text or record.flags):
                errors[record.error.partition(":")[0] or "no caption"] += 1
                continue
            held.update(record.flags)
            prompts.update([record.prompt] if record.prompt else [])
            texts.update([record.text])
        told: Counter[str] = Counter()
        for text, times in texts.items():
            for sentence in set(sentences(text)):
                told[sentence] += times
        return cls(
            **numbers,
            flags={name: held[name] for name in FLAGS if held[name]},
            errors=dict(sorted(errors.items())),
            prompts=dict(sorted(prompts.items())),
            copies=dict(sorted(Counter(texts.values()).items())),
            commonest=_first(texts),
            sentences=_first(told),
        )

    @property
    def captions(self) -> int:
        """Clips that have a caption, flagged or not."""
        return self.records - sum(self.errors.values())

    @property
    def repeated(self) -> int:
        """Captions that repeat the commonest one."""
        return max(self.copies, default=1) - 1

    @property
    def duplicates(self) -> int:
        """Captions that only repeat another one's words: all but one of each text."""
        return sum((copies - 1) * texts for copies, texts in self.copies.items())

    def as_json(self) -> dict[str, Any]:
        """Its fields as JSON values, with the numbers that follow from them."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **own,
            "copies": {str(copies): texts for copies, texts in self.copies.items()},
            "duplicates": self.duplicates,
            "repeated": self.repeated,
        }


def _first(counted: Counter[str]) -> tuple[tuple[str, int], ...]:
    """The five most frequent that occur more than once; equal ones by alphabet, so that the order of records says nothing."""
    ranked = sorted(((text, times) for text, times in counted.items() if times > 1), key=lambda pair: (-pair[1], pair[0]))
    return tuple(ranked[:5])


@dataclass(frozen=True)
class Verdict:
    """passes: the set may be trained on; lines: what was found, for people, the reasons of a failure first and marked FAILED."""

    passes: bool
    lines: tuple[str, ...]


def verdict(summary: Summary, limits: Limits) -> Verdict:
    """Compare the rates of a set with the limits. A set without any caption never passes."""
    rates = (
        ("flagged", summary.flagged, summary.captions, limits.max_flagged, _listed(summary.flags)),
        ("without caption", sum(summary.errors.values()), summary.records, limits.max_errors, _listed(summary.errors)),
        ("repeating the commonest caption", summary.repeated, summary.captions, limits.max_duplicates, _histogram(summary)),
    )
    failed, passed = [], []
    for name, number, of, limit, detail in rates:
        rate = number / of if of else 0.0
        line = f"{name}: {number} of {of} ({100 * rate:.1f} %, limit {100 * limit:g} %){f': {detail}' if detail else ''}"
        if rate > limit:
            failed.append(f"FAILED {line}")
        else:
            passed.append(line)
    if not summary.captions:
        failed.insert(0, f"FAILED no caption in {summary.records} records")
    notes = [f"{summary.usable} of {summary.records} clips have a usable caption; {summary.again} were asked again, {summary.cut} cut"]
    if summary.full:
        notes.append(f"{summary.full} strips show whole frames: no person was found")
    notes += [f"{number} times: {text[:100]!r}" for text, number in summary.commonest]
    return Verdict(not failed, (*failed, *notes[:1], *passed, *notes[1:]))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:8])


def _histogram(summary: Summary) -> str:
    """Texts by number of copies, in bins that double."""
    bins: Counter[int] = Counter()
    for times, texts in summary.copies.items():
        bins[times.bit_length() - 1] += texts
    names = {power: f"{2**power}-{2 ** (power + 1) - 1} times" if power else "once" for power in bins}
    told = ", ".join(f"{bins[power]} {names[power]}" for power in sorted(bins))
    return f"{sum(bins.values())} different ones: {told}; {summary.duplicates} repeat another one" if bins else ""
