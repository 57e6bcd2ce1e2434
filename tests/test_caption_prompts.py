"""Prompts: what is asked never changes under its id, and the default can be answered within CLIP's length."""

import hashlib

import pytest

from jobs.caption_gate import Limits, judge
from jobs.caption_prompts import DEFAULT, PROMPTS, Prompt, prompts
from jobs.encode_text import count_tokens
from shards.errors import InputError

# sha256 of the words, first 16 digits: records name an id only, so the words behind it must stay
SUMS = {
    "describe-en-1": "d8b0fe9dd7766e40",
    "again-en-1": "3e5ac07f264fc5ca",
    "interaction-en-1": "2d57bfa0f8df7809",
    "paper-zh": "a80cc17795131ed6",
    "paper-en-1": "c624df49ec126b04",
}


def test_the_words_of_an_id_never_change() -> None:
    assert {prompt.id: hashlib.sha256(prompt.words.encode()).hexdigest()[:16] for prompt in PROMPTS} == SUMS


def test_every_prompt_says_where_it_is_from() -> None:
    for prompt in PROMPTS:
        assert prompt.written and prompt.source and prompt.words == " ".join(prompt.words.split())
        assert prompt.words.isascii() == (prompt.language == "en")


def test_the_default_asks_in_english_and_once_more() -> None:
    first, again = prompts(DEFAULT)
    assert first.language == again.language == "en" and "English" in first.words and "English" in again.words


def test_the_papers_prompt_is_kept() -> None:
    [paper] = prompts(["paper-zh"])
    assert paper.words == "这是一个沿时间结构拼接的动作图像,请描述其中的动作变化"


def test_the_order_is_the_one_that_was_asked_for() -> None:
    assert [prompt.id for prompt in prompts(["again-en-1", "paper-zh", "describe-en-1"])] == ["again-en-1", "paper-zh", "describe-en-1"]


@pytest.mark.parametrize(
    ("ids", "said"), [(["nope"], "'nope' is not known; there are describe-en-1"), ([], "no prompt"), (["paper-zh"] * 2, "twice")]
)
def test_ids_that_cannot_be_meant(ids: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        prompts(ids)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.id)
def test_an_answer_that_repeats_its_prompt_does_not_pass(prompt: Prompt) -> None:
    for multilingual in (False, True):
        for answer in (prompt.words, f"Sure! {prompt.words}", f"{prompt.words} A person waves."):
            assert "copy of the prompt" in judge(answer, prompt.words, count_tokens, Limits(multilingual=multilingual)).flags
