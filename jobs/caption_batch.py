"""One batch of clips to one batch of records: look, ask, judge, and ask once more what the gate flags."""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from jobs.caption_gate import Judged, Limits, judge
from jobs.caption_prompts import Prompt
from jobs.caption_record import Answer, Ask, Captioner, CaptionRecord

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Look:
    """What there is to see of a clip. error: why nothing can be asked about it; video, detector: what its strip was made of and by."""

    ask: Ask
    error: str = ""
    video: str = ""
    detector: str = ""


@dataclass(frozen=True)
class Told:
    """One answer to one prompt and what the gate says of it: the caption first, then what else is usable."""

    answer: Answer
    prompt: str
    judged: tuple[Judged, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        return self.judged[0].flags if self.judged else ()


def describe(
    looks: Sequence[Look], captioner: Captioner, prompts: Sequence[Prompt], count: Callable[[str], int], limits: Limits
) -> list[tuple[CaptionRecord, NDArray[np.float16] | None]]:
    """A record for every clip, in order, and the captioner's own features of its text where it gives them.

    prompts: the first is asked; what the gate flags is asked once more, with the second. No prompts: the captioner takes none.
    count: CLIP tokens of a text. InputError from a captioner that can answer nothing at all."""
    open_ = [look.ask for look in looks if not look.error]
    told = _ask(open_, captioner, prompts[0] if prompts else None, count, limits)
    asked = {key: tuple(prompt.id for prompt in prompts[:1]) for key in told}
    flagged = [ask for ask in open_ if told[ask.key].flags]
    if len(prompts) > 1 and flagged:
        for key, second in _ask(flagged, captioner, prompts[1], count, limits).items():
            asked[key] += (prompts[1].id,)
            if not second.answer.error and len(second.flags) < len(told[key].flags):
                told[key] = second
    return [_record(look, told.get(look.ask.key), asked.get(look.ask.key, ()), captioner) for look in looks]


def _ask(asks: Sequence[Ask], captioner: Captioner, prompt: Prompt | None, count: Callable[[str], int], limits: Limits) -> dict[str, Told]:
    """The captioner's answers by key, judged."""
    words = prompt.words if prompt else ""
    answers = captioner([Ask(ask.key, words, ask.strip, ask.skeleton) for ask in asks]) if asks else []
    told = {}
    for ask, answer in zip(asks, answers, strict=True):
        judged = [] if answer.error else [judge(text, words, count, limits) for text in answer.texts or ("",)]
        usable = [one for one in judged if not one.flags]
        told[ask.key] = Told(answer, prompt.id if prompt else "", tuple(usable or judged[:1]))
    return told


def _record(
    look: Look, told: Told | None, asked: tuple[str, ...], captioner: Captioner
) -> tuple[CaptionRecord, NDArray[np.float16] | None]:
    """What is kept of one clip."""
    strip, first = look.ask.strip, told.judged[0] if told and told.judged else None
    record = CaptionRecord(
        key=look.ask.key,
        text=first.text if first else "",
        provenance=captioner.provenance,
        captioner=captioner.name,
        model=captioner.model,
        revision=captioner.revision,
        prompt=told.prompt if told else "",
        asked=asked,
        decode=dict(captioner.decode),
        texts=tuple(one.text for one in told.judged[1:]) if told else (),
        flags=first.flags if first else (),
        notes=first.notes if first else (),
        error=look.error or (told.answer.error if told else ""),
        tokens=first.tokens if first else 0,
        video=look.video,
        frames=strip.frames if strip else (),
        boxes=strip.boxes if strip else (),
        crop=strip.crop if strip else "",
        mirrored=strip.mirrored if strip else False,
        detector=look.detector if strip else "",
    )
    return record, told.answer.hidden if told and record.text else None


def ahead(given: Sequence[Given], make: Callable[[Given], Made]) -> Iterator[Made]:
    """`make` of each, in order, the next one in a thread while the caller works with this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="look") as pool:
        futures: list[Future[Made]] = [pool.submit(make, one) for one in given[:1]]
        for at in range(len(given)):
            made = futures.pop().result()
            if at + 1 < len(given):
                futures.append(pool.submit(make, given[at + 1]))
            yield made


def npy(array: NDArray[np.float16]) -> bytes:
    """The array as an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
