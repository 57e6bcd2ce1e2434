"""Captions from a chat endpoint: what is sent, what is retried, what becomes an error of a clip, and what ends the stage in one line."""

import base64
import io
import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.caption import Caption
from jobs.caption_endpoint import KEY, PATIENCE, Endpoint, _retry_after, data_url, endpoint_captioner
from jobs.caption_gate import Limits, judge
from jobs.caption_record import Ask, Strip
from jobs.encode_text import count_tokens
from shards.errors import InputError
from shards.synthetic import write_synthetic
from tests.chat_server import Chat, Move, drop, half, hang, ok, raw, status, trickle

SECRET = "sk-0123456789abcdef"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)


def ask(key: str = "a", prompt: str = "Describe it.") -> Ask:
    image = np.random.default_rng(0).integers(0, 256, (32, 80, 3), dtype=np.uint8)
    return Ask(key, prompt, Strip(key, image, (0, 1), ((0, 0, 8, 8), (0, 0, 8, 8)), "person"))


def made(chat: Chat, **changes: Any) -> Endpoint:
    return endpoint_captioner(chat.url, "tiny", **{"retries": 3, "backoff": 0.01, "timeout": 5.0, **changes})


def answers(*moves: Move, asks: int = 1, **changes: Any) -> tuple[list[Any], Chat]:
    with Chat(*moves) as chat:
        return made(chat, **changes)([ask(str(i)) for i in range(asks)]), chat


def test_the_strip_and_the_prompt_are_sent_and_the_caption_comes_back() -> None:
    [answer], chat = answers(ok("A person claps."))
    assert answer.texts == ("A person claps.",) and not answer.error
    [question] = chat.questions
    assert question["model"] == "tiny" and question["temperature"] == 0 and question["max_tokens"] == 128
    [picture, words] = question["messages"][0]["content"]
    assert words == {"type": "text", "text": "Describe it."}
    kind, _, data = picture["image_url"]["url"].partition(";base64,")
    assert kind == "data:image/jpeg" and Image.open(io.BytesIO(base64.b64decode(data))).size == (80, 32)


def test_a_png_is_the_strip_to_the_bit() -> None:
    strip = ask().strip
    assert strip is not None
    data = data_url(strip.image, "png").partition(";base64,")[2]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), strip.image)


@pytest.mark.parametrize(
    "trouble",
    [hang, trickle, half, drop, raw(200, b"{"), raw(200, b"[" * 100_000), raw(200, b"\xff\xfe"), raw(200, b'{"choices": []}'), status(500)],
    ids=["hangs", "trickles", "half", "drops", "half JSON", "nested", "no text", "no choices", "500"],
)
def test_trouble_is_met_with_another_try(trouble: Move) -> None:
    [answer], chat = answers(trouble, trouble, ok("A person claps."), timeout=0.5)
    assert answer.texts == ("A person claps.",) and len(chat.questions) == 3


@pytest.mark.parametrize(
    ("trouble", "named"),
    [
        (hang, "no answer within 0.5 s"),
        (half, "no JSON"),
        (drop, "RemoteDisconnected"),
        (status(429, "slow down"), "HTTP 429: slow down"),
        (status(500, "out of memory"), "HTTP 500: out of memory"),
        (raw(502, b"<html>bad\ngateway</html>"), "HTTP 502: <html>bad gateway</html>"),
    ],
    ids=["hangs", "half", "drops", "429", "500", "502"],
)
def test_after_the_last_try_the_trouble_is_named(trouble: Move, named: str) -> None:
    with Chat(by_prompt={"bad": [trouble] * 9}) as chat:
        bad, good = made(chat, retries=2, timeout=0.5)([ask("a", "bad"), ask("b", "good")])
    assert bad.texts == () and bad.error.startswith("endpoint fails: ") and named in bad.error and "last of 3 tries" in bad.error
    assert good.texts and not good.error
    assert len(chat.questions) == 4


def test_each_wait_is_longer_than_the_one_before() -> None:
    _, chat = answers(status(503), status(503), status(503), backoff=0.05)
    waits = np.diff(chat.times)
    assert len(waits) == 3 and all(wait >= 0.025 * 2**i for i, wait in enumerate(waits))


def test_the_server_says_how_long_to_wait() -> None:
    _, chat = answers(status(429, Retry_After="0.3"))
    assert chat.times[1] - chat.times[0] >= 0.3
    assert 50 < _retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
    assert [_retry_after(said) for said in (None, "", "soon", "-5", "nan", "Fri, 99 Foo")] == [0.0] * 6
    assert _retry_after("17") == 17


def test_what_the_server_will_not_take_is_an_error_of_that_clip_and_is_not_asked_again() -> None:
    with Chat(by_prompt={"big": [status(400, "the image is too large")]}) as chat:
        bad, good = made(chat)([ask("a", "big"), ask("b")])
    assert bad.error == "endpoint refuses: HTTP 400: the image is too large" and good.texts
    assert len(chat.questions) == 2


@pytest.mark.parametrize("move", [status(400, "no pictures here"), status(500, "broken")], ids=["400", "500"])
def test_a_server_that_fails_every_clip_ends_the_stage(move: Move) -> None:
    with Chat(otherwise=move) as chat, pytest.raises(InputError, match=rf"{chat.url}.*{PATIENCE} clips in a row .*HTTP"):
        made(chat, retries=0)([ask(str(i)) for i in range(40)])


def test_a_clip_between_two_good_ones_does_not_count_towards_the_end() -> None:
    moves = [status(400, "no"), ok()] * (2 * PATIENCE)
    told, _ = answers(*moves, asks=len(moves), concurrency=1)
    assert sum(bool(answer.error) for answer in told) == 2 * PATIENCE


@pytest.mark.parametrize("code", [401, 403])
def test_a_key_that_is_not_accepted_is_named_but_not_shown(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with Chat(otherwise=status(code, f"bad key {SECRET}")) as chat:
        captioner = made(chat)
        with pytest.raises(InputError, match=rf"does not accept the key in \${KEY} .*bad key \*\*\*") as caught:
            captioner([ask()])
        assert SECRET not in str(caught.value)
        assert chat.headers[0]["Authorization"] == f"Bearer {SECRET}"
        monkeypatch.delenv(KEY)
        with pytest.raises(InputError, match=f"without a key; put it into \\${KEY}"):
            made(chat)([ask()])
        assert "Authorization" not in chat.headers[1]


def test_the_key_is_checked_when_the_captioner_is_made() -> None:
    with Chat() as chat:
        chat.models = status(401, "who are you")
        with pytest.raises(InputError, match="who are you"):
            made(chat)


def test_the_key_is_in_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with Chat() as chat:
        captioner = made(chat)
    told = json.dumps([captioner.name, captioner.model, captioner.revision, captioner.provenance, captioner.decode])
    assert SECRET not in told + repr(captioner) and "tiny" in captioner.model


def test_a_key_with_a_line_break_cannot_add_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, f"{SECRET}\nX-Evil: 1")
    with pytest.raises(InputError, match=KEY) as caught:
        endpoint_captioner("http://127.0.0.1:1/v1", "tiny")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "move", [status(404, "The model `tiny` does not exist."), status(400, "Model not found: tiny"), status(404)], ids=["404", "400", "bare"]
)
def test_a_model_that_is_not_there_is_named_with_those_that_are(move: Move) -> None:
    with Chat(otherwise=move) as chat, pytest.raises(InputError, match=r"has no model 'tiny' .*it has tiny, other: name it with --model"):
        made(chat)([ask()])


def test_nobody_is_there() -> None:
    with Chat() as chat:
        url = chat.url
    with pytest.raises(InputError, match=f"no server at {url}: ConnectionRefusedError.*start it"):
        endpoint_captioner(url, "tiny", retries=1, backoff=0.01)


def test_a_server_that_dies_in_the_middle_is_named() -> None:
    with Chat() as chat:
        captioner = made(chat, concurrency=2)
        assert all(answer.texts for answer in captioner([ask(str(i)) for i in range(4)]))

        def die(handler: Any) -> None:
            threading.Thread(target=chat.stop).start()
            chat.thread.join(10)
            drop(handler)

        chat.moves = [ok(), die]
        with pytest.raises(InputError, match="no server at"):
            captioner([ask(str(i)) for i in range(6)])


def test_a_server_that_comes_back_is_waited_for() -> None:
    with Chat() as chat:
        captioner = made(chat, retries=8, backoff=0.02)
    port = chat.server.server_address[1]
    again = Chat()
    again.server.server_close()
    threading.Timer(0.3, lambda: _listen(again, port)).start()
    try:
        assert captioner([ask()])[0].texts
    finally:
        again.stop()


def _listen(chat: Chat, port: int) -> None:
    from http.server import ThreadingHTTPServer

    from tests.chat_server import Handler

    stopped = threading.Event()
    chat.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    chat.server.chat, chat.server.stopped = chat, stopped  # type: ignore[attr-defined]
    chat.thread = threading.Thread(target=chat.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    chat.thread.start()


def test_answers_keep_the_order_of_the_questions_and_go_out_together() -> None:
    gate = threading.Barrier(4, timeout=10)

    def meet(handler: Any) -> None:
        gate.wait()  # passes only when four are being answered at once
        handler.send(200, {"choices": [{"message": {"content": "met"}}]})

    with Chat(otherwise=meet) as chat:
        assert [answer.texts for answer in made(chat, concurrency=4)([ask(str(i)) for i in range(8)])] == [("met",)] * 8
        assert chat.most_at_once == 4
    with Chat(by_prompt={str(i): [ok(f"caption {i}")] for i in range(20)}) as chat:
        told = made(chat, concurrency=7)([ask(str(i), str(i)) for i in range(20)])
    assert [answer.texts[0] for answer in told] == [f"caption {i}" for i in range(20)]


def test_no_questions_no_answers() -> None:
    assert answers(asks=0)[0] == []


def test_what_ends_the_stage_does_not_wait_for_clips_that_hang() -> None:
    begun = threading.Event()

    def slow(handler: Any) -> None:
        begun.set()
        hang(handler)

    def refuse(handler: Any) -> None:
        begun.wait(20)
        status(401, "no")(handler)

    with Chat(by_prompt={"slow": [slow]}, otherwise=refuse) as chat:
        with pytest.raises(InputError, match="401"):
            made(chat, timeout=60.0)([ask("a", "slow"), ask("b")])
        for _ in range(200):  # the server may still be closing the one that it refused
            if chat.at_once == 1:
                break
            time.sleep(0.02)
        assert chat.at_once == 1, "the one that hangs is still being answered"


@pytest.mark.parametrize(
    ("answer", "flags"),
    [
        (ok("I'm sorry, but I can't help with identifying people."), ("refusal",)),
        (ok(None, refusal="I cannot assist with that."), ("refusal",)),
        (ok(None, refusal="Nope."), ("empty",)),
        (ok("A person", finish="content_filter"), ("empty",)),
        (ok(None), ("empty",)),
        (ok(""), ("empty",)),
    ],
)
def test_a_model_that_refuses_is_flagged_so_that_it_is_asked_again(answer: Move, flags: tuple[str, ...]) -> None:
    [told], _ = answers(answer)
    assert not told.error and judge(told.texts[0], "Describe it.", count_tokens, Limits()).flags == flags


def test_an_answer_in_parts_and_one_with_thoughts() -> None:
    [told], _ = answers(ok([{"type": "text", "text": "A person "}, {"type": "text", "text": "claps."}]))
    assert told.texts == ("A person claps.",)
    [told], _ = answers(ok("<think>Frames, hm.</think>\n\n**A person claps.**"))
    assert judge(told.texts[0], "", count_tokens, Limits()).text == "A person claps."


def test_a_redirect_is_not_followed_and_takes_no_key_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with Chat() as elsewhere, Chat(otherwise=status(307, Location=f"{elsewhere.url}/chat/completions")) as chat:
        with pytest.raises(InputError, match=f"sends us to {elsewhere.url}"):
            made(chat)([ask()])
        assert elsewhere.questions == []


def test_an_answer_without_end_is_not_read_to_the_end() -> None:
    [told], _ = answers(raw(200, b" " * (9 << 20)), ok())
    assert told.texts


def test_a_server_without_a_list_of_models_will_do() -> None:
    for move in (status(404), status(500), raw(200, b"[1]"), raw(200, b"not JSON"), raw(200, b'{"data": 3}')):
        with Chat() as chat:
            chat.models = move
            assert made(chat, retries=0)([ask()])[0].texts


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://node7:8000", "http://node7:8000/v1"),
        ("http://node7:8000/", "http://node7:8000/v1"),
        ("https://host/api/v1/", "https://host/api/v1"),
        ("http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/v1"),
    ],
)
def test_addresses_with_and_without_their_end(url: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoint, "models", lambda self: [])
    assert endpoint_captioner(url, "tiny").url == address


@pytest.mark.parametrize(
    "url", ["", "node7:8000", "ftp://node7/v1", "file:///etc/passwd", "http://", "http://h:99999999", "http://h/v1?key=1", "http://[h"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        endpoint_captioner(url, "tiny")


@pytest.mark.parametrize("url", ["http://me:geheim@node7:8000/v1", "http://me:geheim@node7:none", "http://node7/v1?api_key=geheim"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="--endpoint") as caught:
        endpoint_captioner(url, "tiny")
    assert "geheim" not in str(caught.value)


def test_no_secret_is_in_any_file_of_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    write_synthetic(tmp_path / "set", subjects=1, cameras=(1,), actions=6, frames=(20, 20), videos=True)
    job = Caption(
        out=tmp_path / "captions",
        videos=tmp_path / "set" / "videos",
        boxes=tmp_path / "set" / "boxes.jsonl",
        model="tiny",
        all=True,
        height=64,
    )
    with pytest.raises(InputError, match="password"):
        replace(job, endpoint="http://me:geheim@node7:8000/v1")()
    assert not (tmp_path / "captions").exists(), "nothing is written of an address with a password"
    moves = [status(429, Retry_After="0.01"), half, ok("I cannot help."), *(ok(f"A person lifts hand {i}.") for i in range(9))]
    with Chat(*moves) as chat:
        done = replace(job, endpoint=chat.url)()
        assert chat.headers[0]["Authorization"] == f"Bearer {SECRET}"
    records = [json.loads(line) for line in Path(done["captions"]).read_text().splitlines()]
    assert len(records) == 6 and len(chat.questions) == 9, "six clips, two tries more and one asked again"
    assert sorted(record["prompt"] for record in records) == ["again-en-1", *["describe-en-1"] * 5]
    assert {record["model"] for record in records} == {f"{chat.url} tiny"} and {record["crop"] for record in records} <= {"person", "union"}
    written = [path for path in (tmp_path / "captions").rglob("*") if path.is_file()]
    assert len(written) > 3 and not any(SECRET in path.read_text() for path in written)


def test_a_proxy_does_not_stand_before_this_machine_and_is_named_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with Chat() as dead:
        pass
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, dead.url.removesuffix("/v1"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert answers(ok())[0][0].texts
    with pytest.raises(InputError, match=r"through \$http_proxy; no_proxy=node7 goes there directly"):
        endpoint_captioner("http://node7:8000", "tiny", retries=0)


def test_a_question_without_a_strip_is_a_bug() -> None:
    with Chat() as chat, pytest.raises(ValueError, match="looks at strips"):
        made(chat)([Ask("a", "Describe it.")])
