"""The quality gate: good captions pass, each fault is found by its name, and a model without training does not get through."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.caption_gate import FLAGS, Judged, Limits, Summary, flags, judge, verdict
from jobs.caption_prompts import DEFAULT, prompts
from jobs.caption_record import CaptionRecord
from jobs.caption_text import clean, cut, words
from jobs.encode_text import count_tokens
from shards.actions import ACTIONS
from shards.errors import InputError
from shards.synthetic import write_synthetic

PROMPT = prompts(DEFAULT)[0].words
GOOD = (
    "A person raises the right arm above the head and waves the hand from side to side.",
    "Someone takes off a jacket: first the left arm is pulled out of the sleeve, then the right one.",
    "Two people walk towards each other, shake right hands, and step back again.",
    "Waving.",
    "Sits down slowly, both hands on the knees, and stands up again after two seconds.",
    "She claps, claps, claps, then lowers both hands.",
    "The person steps left, right, left, right, left, right, while the arms swing.",
    "The man lifts his left hand. The man lifts his right hand. He lowers both hands to 0.5 m above the floor.",
    "The person's arms form a T-pose; the left elbow bends by 90°, the hand reaches the nose and/or mouth.",
    "A person opens a bottle (held in the left hand), drinks twice, and puts it back.",
    "A man apologises and says sorry, both hands pressed together in front of the chest.",
    "The person cannot reach the shelf, so they jump up with the right arm stretched.",
    "The person points at the picture on the wall with the right index finger and turns away.",
    "A woman takes a photo with her phone, the phone is held up in front of her face with both hands.",
    "bend over, scoop up, rise, lift arm",
    "Doing dynamic, acrobatic movements including flips, on hands or head, in various poses.",
    "right hand up, left hand down, both knees bend, trunk leans forward, then both arms swing back, right foot steps out",
)
BAD = {
    "empty": ("", " \n", "...", "😀🎉", "\u200b\u202e", "123 45", "<|im_end|>", "<think>What do I see?</think>"),
    "refusal": (
        "I'm sorry, but I can't help with identifying people in images.",
        "I’m unable to view images. Please provide a description.",
        "As an AI language model, I have no eyes.",
        "Sorry, the strip is too dark.",
        "I cannot determine which action is shown.",
        "It is difficult to determine what the person does.",
        "There is no person visible in these frames.",
        "The action cannot be identified.",
    ),
    "repeated phrase": (
        "the the the the the the",
        "A person waves, waves, waves, waves, waves.",
        "aaaaaaaaaaaaaaaa",
        "A person raises the arm and lowers it and raises the arm and lowers it and raises the arm and lowers it and raises the arm",
        "A person raises the left arm. Then a dog barks. A person raises the left arm.",
        "the hand moves up the hand moves up the hand moves up",
        "foot head turns tak down lower o tak down lower o tak down lower o tak down lower oF ar",
    ),
    "wrong language": (
        "这个人举起右手，然后挥手。",
        "Человек поднимает правую руку и машет ею три раза.",
        "يرفع الشخص ذراعه اليمنى ثم يلوح بها ثلاث مرات",
        "人物が右手を挙げて、三回振ります。",
        "Die Person hebt den rechten Arm und winkt dann dreimal mit der rechten Hand, bevor sie sich setzt.",
        "La personne lève le bras droit, puis salue trois fois de la main droite avant de s'asseoir sur une chaise.",
        "La persona levanta el brazo derecho y luego saluda tres veces con la mano derecha antes de sentarse.",
        "cla armu thr2HC drink oth wav wave dri wal c rig stan takMU ofD bal drinksDt; whilS turn ra",
        "_init (){ ImGui ->next; %s += 2^n \\frac{a} &amp;nbsp ]]> </div> getValue()",
    ),
    "boiler-plate": (
        "The image is a collage of five frames. The background is plain.",
        "Overall, the sequence conveys a sense of movement.",
        "A dynamic scene in a gym. The lighting is dim. The person jumps.",
        "A person waves with the right hand. Let me know if you need more details!",
        "A person waves with the right hand, told in 8 words.",
    ),
}


def verdict_of(text: str, prompt: str = PROMPT, **limits: bool) -> Judged:
    return judge(text, prompt, count_tokens, Limits(**limits))


@pytest.mark.parametrize("text", GOOD)
def test_good_captions_pass_as_they_are(text: str) -> None:
    judged = verdict_of(text)
    assert judged == Judged(text, (), (), count_tokens(text))


@pytest.mark.parametrize(("flag", "text"), [(flag, text) for flag, texts in BAD.items() for text in texts])
def test_each_fault_is_found(flag: str, text: str) -> None:
    assert flag in verdict_of(text).flags


def test_every_flag_has_a_name_that_is_used() -> None:
    assert {*BAD, "copy of the prompt", "too long"} == set(FLAGS)


def test_a_copy_of_the_prompt_is_one_of_this_prompt() -> None:
    part = "In one or two plain English sentences of at most 45 words in all, say what the person does."
    assert verdict_of(part).flags == ("copy of the prompt",)
    assert "copy of the prompt" not in verdict_of(part, prompt="").flags
    assert not verdict_of("The person does a short action: which limbs move is said here, the left arm, then the right arm.").flags


def test_other_languages_pass_where_the_text_tower_reads_them() -> None:
    for text in BAD["wrong language"][:7]:
        assert verdict_of(text, multilingual=True).flags in ((), ("too long",))
    for text in BAD["wrong language"][7:]:
        assert verdict_of(text, multilingual=True).flags == ("wrong language",)  # noise is no language


def test_faults_are_found_in_chinese_too() -> None:
    assert "refusal" in verdict_of("抱歉，我无法描述这张图片。", multilingual=True).flags
    assert "repeated phrase" in verdict_of("他挥手，他挥手，他挥手，他挥手，他挥手。", multilingual=True).flags
    [paper] = prompts(["paper-zh"])
    assert "copy of the prompt" in verdict_of(paper.words + "。", prompt=paper.words, multilingual=True).flags
    assert not verdict_of("一个人举起右手，左右挥动三次，然后放下。", prompt=paper.words, multilingual=True).flags


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("  A person\r\n\twaves.\n", "A person waves."),
        ("The image shows a person raising the left arm.", "A person raising the left arm."),
        ("In this sequence of frames, a man kicks a ball.", "A man kicks a ball."),
        ("This image strip depicts how someone sits down.", "Someone sits down."),
        ("Sure! Here is a description of the picture: **A man** kicks a `ball`.", "A man kicks a ball."),
        ("Certainly. The series of images depicts a woman who jumps.", "A woman who jumps."),
        ("Caption: A person bows.", "A person bows."),
        ('"A person bows."', "A person bows."),
        ("## Action\n\n1. A person bows.\n2. The person claps.", "Action A person bows. The person claps."),
        ("- A person bows.\n- The person claps.", "A person bows. The person claps."),
        ("```text\nA person bows.\n```", "A person bows."),
        ("A person [bows](http://example.org/x).", "A person bows."),
        ("<think>It\nmay be a bow.</think>A person bows.<|im_end|></s>", "A person bows."),
        ("<think>It may be a bow and it never ends", ""),
        ("A person\x00 \x1b[31mbows\x07\u202e\ufeff.", "A person [31mbows."),
        ("A person bows 🙇🏽‍♂️ twice 👍.", "A person bows twice ."),
        ("A 90° turn — “slowly”, it’s cafe\u0301 style.", 'A 90° turn — "slowly", it\'s café style.'),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("We see that the person claps.", "The person claps."),
        ("A person sees an image, then we see nothing.", "A person sees an image, then we see nothing."),
        ("The image shows nothing.", "The image shows nothing."),
        ("5 * 3 and 2 * 4", "5 * 3 and 2 * 4"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("../../etc/passwd", "../../etc/passwd"),
    ],
)
def test_cleaning(said: str, kept: str) -> None:
    assert clean(said) == kept


PIECES = st.sampled_from(
    ("The image shows ", "Sure! ", "Caption: ", "**", "*", "`", '"', "- ", "1. ", "\n", "<think>", "</think>", "<|x|>", "# ", "a person ")
    + ("[b](c)", "“", "\u0301", "😀", "\u200d", "ß", "ŉ", "we see that ", "In this picture, ", "waves. ", "```\n", "\ud800", "\U0010ffff")
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=14).map("".join)))
def test_cleaning_twice_changes_nothing_and_leaves_one_printable_line(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert cleaned == " ".join(cleaned.split()) and cleaned.isprintable()
    cleaned.encode()  # no lone surrogates: it can be written


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.sampled_from(["", PROMPT]))
def test_no_text_breaks_the_gate(text: str, prompt: str) -> None:
    judged = judge(text, prompt, lambda said: len(words(said)), Limits())
    assert set(judged.flags) <= set(FLAGS) and judged.tokens <= max(75, len(words(judged.text)))
    assert ("too long" in judged.flags) == (judged.tokens > 75)


@pytest.mark.parametrize(
    "piece", ["**a ", "__a ", "\n", " \n\t", "a", "the image ", "<think>", "[a](", "1. ", "A. ", "``` ", "' a", "I am ", '"']
)
def test_answers_without_end_are_judged_all_the_same(piece: str) -> None:
    judged = verdict_of(piece * 200_000)
    assert judged.flags and len(judged.text) <= 10_000


def test_long_captions_end_with_a_sentence_that_fits() -> None:
    sentence = "A person raises arm number {} and lowers it again."
    whole = " ".join(sentence.format(i) for i in range(12))
    judged = verdict_of(whole.replace("arm number", "another arm, number"))
    assert judged.notes == ("cut",) and judged.text.endswith("again.") and judged.tokens <= 75
    assert judged.tokens == count_tokens(judged.text) and whole.startswith(judged.text.replace("another arm, number", "arm number"))
    assert count_tokens(whole[: len(judged.text) + 60]) > 75, "as many as fit"


def test_a_first_sentence_that_is_too_long_is_not_halved() -> None:
    whole = (
        "A person "
        + ", ".join(f"lifts {part}" for part in ("one arm", "both legs", "two hands", "a foot", "the head", "a chin", "four fingers") * 4)
        + "."
    )
    judged = verdict_of(whole)
    assert judged.text == whole and "too long" in judged.flags and judged.notes == () and judged.tokens > 75


def test_sentences_end_in_chinese_too_and_not_inside_numbers() -> None:
    assert cut("他举手。他坐下。", len, 5) == "他举手。"
    assert cut("It moves 0.5 m. It stops there.", len, 16) == "It moves 0.5 m."
    assert cut("short", len, 75) == "short" and cut("", len, 0) == ""


# --- sets --------------------------------------------------------------------------------------------------------------------------------


def record(key: int, text: str = "", **more: object) -> CaptionRecord:
    made: dict[str, object] = {"key": f"k{key:05d}", "text": text, "provenance": "vlm", "captioner": "ovis2", "model": "m", **more}
    return CaptionRecord(**made)  # type: ignore[arg-type]


def test_a_good_set_passes() -> None:
    records = [record(i, f"A person lifts the right hand {i} times.", prompt="describe-en-1", asked=("describe-en-1",)) for i in range(100)]
    summary = Summary.of(records)
    assert (summary.records, summary.usable, summary.captions, summary.duplicates, summary.copies) == (100, 100, 100, 0, {1: 100})
    judged = verdict(summary, Limits())
    assert judged.passes and not any("FAILED" in line for line in judged.lines)


def test_rates_are_of_the_right_numbers() -> None:
    records = [record(i, f"A person lifts the right hand {i} times.") for i in range(90)]
    records += [
        record(i, "I cannot.", flags=("refusal",), asked=("describe-en-1", "again-en-1"), prompt="again-en-1") for i in range(90, 94)
    ]
    records += [record(i, flags=("empty",)) for i in range(94, 96)]
    records += [record(i, error=f"unreadable video: /videos/{i}.avi") for i in range(96, 99)] + [
        record(99, error="endpoint fails: HTTP 500")
    ]
    summary = Summary.of(records)
    assert (summary.records, summary.usable, summary.captions, summary.flagged, summary.again) == (100, 90, 96, 6, 4)
    assert summary.flags == {"empty": 2, "refusal": 4} and summary.errors == {"endpoint fails": 1, "unreadable video": 3}
    assert summary.copies == {1: 90, 2: 1, 4: 1} and summary.duplicates == 4 and summary.repeated == 3
    judged = verdict(summary, Limits())
    assert not judged.passes
    assert judged.lines[0].startswith("FAILED flagged: 6 of 96 (6.2 %, limit 5 %): refusal 4, empty 2")
    assert judged.lines[1].startswith("FAILED without caption: 4 of 100 (4.0 %, limit 2 %): unreadable video 3, endpoint fails 1")
    assert verdict(summary, Limits(max_flagged=0.07, max_errors=0.04)).passes


def test_one_caption_everywhere_fails_though_each_of_them_is_good() -> None:
    records = [record(i, GOOD[0]) for i in range(40)] + [record(100 + i, f"A person lifts hand {i}.") for i in range(60)]
    judged = verdict(Summary.of(records), Limits())
    assert not judged.passes
    assert judged.lines[0].startswith(
        "FAILED repeating the commonest caption: 39 of 100 (39.0 %, limit 25 %): 61 different ones: 60 once, 1 32-63 times"
    )
    assert any(line.startswith("40 times: 'A person raises") for line in judged.lines)
    few = [record(i, f"A person does action {i % 10}.") for i in range(1000)]
    assert verdict(Summary.of(few), Limits()).passes, "ten actions, each told in one way"
    assert verdict(Summary.of([record(0, "A person waves.")]), Limits()).passes, "a single clip repeats nothing"


@pytest.mark.parametrize(("name", "value"), [("max_flagged", 5), ("max_errors", -0.1), ("max_duplicates", float("nan")), ("max_tokens", 0)])
def test_limits_that_cannot_be_meant(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--limits.{name.replace('_', '-')}"):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_sentences_that_stand_everywhere_are_shown() -> None:
    records = [record(i, f"A person lifts hand {i}. The floor is wooden.") for i in range(9)]
    assert Summary.of(records).sentences == (("The floor is wooden", 9),)


def test_nothing_never_passes() -> None:
    for records in ([], [record(0, error="unreadable video: x")]):
        judged = verdict(Summary.of(records), Limits(max_errors=1.0, max_flagged=1.0, max_duplicates=1.0))
        assert not judged.passes and judged.lines[0].startswith("FAILED no caption in")


def test_a_summary_is_json_and_does_not_depend_on_the_order() -> None:
    records = [record(i, ("A person waves.", "A person bows.", "A person claps.")[i % 3]) for i in range(30)]
    one, other = Summary.of(records).as_json(), Summary.of(reversed(records)).as_json()
    assert json.dumps(one) == json.dumps(other) and one["copies"] == {"10": 3} and one["duplicates"] == 27


def test_the_captions_of_the_synthetic_set_pass(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "set", subjects=2, cameras=(1,), actions=len(ACTIONS))
    told = [json.loads(line)["text"] for line in (tmp_path / "set" / "captions.jsonl").read_text().splitlines()]
    assert len(told) == 2 * len(ACTIONS)
    assert {text: flags(text, PROMPT, count_tokens(text), Limits()) for text in told} == dict.fromkeys(told, ())
    assert [clean(text) for text in told] == told


@pytest.mark.realdata
def test_descriptions_that_people_wrote_pass(real_data: Path) -> None:
    with np.load(real_data / "cmu_clips" / "cmu_clips_ntu25.npz", allow_pickle=False) as arrays:
        told = sorted(set(arrays["text"].tolist()))
    assert len(told) > 50
    assert {text: verdict_of(text).flags for text in told} == dict.fromkeys(told, ())


# --- a model without training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.02, 0.5], ids=["trained size", "varied"])
def test_a_random_model_fails_the_gate(spread: float, tmp_path: Path) -> None:
    """The real class with random weights. Its vocabulary is 40 English words and bytes: noise that reads like words, the hard case."""
    from jobs.caption_record import Ask, Strip
    from jobs.caption_vlm import transformers_captioner
    from tests.tiny_models import tiny_ovis2

    folder = tiny_ovis2(tmp_path / "ovis2", spread=spread)
    captioner = transformers_captioner("ovis2", str(folder), device="cpu", precision="fp32", max_tokens=64, tiles=1, batch=8, hidden=False)
    pictures = np.random.default_rng(0).integers(0, 256, (16, 56, 280, 3), dtype=np.uint8)
    strips = [Strip(f"k{i}", picture, (0,), ((0, 0, 1, 1),), "full") for i, picture in enumerate(pictures)]
    records = []
    for number, answer in enumerate(captioner([Ask(strip.key, PROMPT, strip) for strip in strips])):
        judged = verdict_of(answer.texts[0])
        records.append(record(number, judged.text, flags=judged.flags))
    summary = Summary.of(records)
    print(f"random weights, spread {spread}: {summary.flagged} of {summary.captions} flagged: {summary.flags}; not a model's captions")
    assert not verdict(summary, Limits()).passes
    assert summary.flagged > len(records) / 2
