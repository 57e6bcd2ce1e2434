"""The quality gate and the chat endpoint: captions per second, and what the client itself costs.

python -m benchmarks.caption_gate

The gate's rates are per second of processor time. The endpoint's server stands on this machine and takes 0.2 s for every answer, whatever
the number of questions, as a server that batches does; its rates are per second of the clock, against asking one question after the other.
"""

import json
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.table import Row, show
from jobs.caption_endpoint import Endpoint, endpoint_captioner
from jobs.caption_gate import Limits, Summary, judge
from jobs.caption_prompts import DEFAULT, prompts
from jobs.caption_record import Ask, CaptionRecord, Strip
from jobs.encode_text import count_tokens
from shards.kinect import camera
from shards.render import look, pictures
from shards.synthetic import performance, write_synthetic
from tests.chat_server import Chat, Handler, reply

ROUNDS, ANSWER = 5, 0.2
CLIPS = 96
PROMPT = prompts(DEFAULT)[0].words


def measure() -> list[Row]:
    """The gate for one caption and for a set; the endpoint with 8 and 32 questions at once."""
    return [*_gate(), *_endpoint()]


def _gate() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        write_synthetic(Path(name) / "set", subjects=6, cameras=(1,))
        told = [json.loads(line)["text"] for line in (Path(name) / "set" / "captions.jsonl").read_text().splitlines()]
    seconds = [_processor(told) for _ in range(ROUNDS + 1)][1:]
    records = [CaptionRecord(f"k{i}", f"{told[i % len(told)]} {i // 3}", "vlm", "ovis2", "m") for i in range(20_000)]
    began = time.process_time()
    Summary.of(records)
    return [
        Row("gate: cleaned, counted, cut, flagged", len(told) / median(seconds), "captions/s"),
        Row("gate: summary of a set", len(records) / (time.process_time() - began), "captions/s"),
    ]


def _processor(told: list[str]) -> float:
    began = time.process_time()
    for text in told:
        judge(text, PROMPT, count_tokens, Limits())
    return time.process_time() - began


def _endpoint() -> list[Row]:
    asks = [Ask(f"k{i}", PROMPT, Strip(f"k{i}", _strip(i), (0,), ((0, 0, 1, 1),), "full")) for i in range(CLIPS)]
    with Chat(otherwise=_later) as chat:
        single = _rate(endpoint_captioner(chat.url, "tiny", concurrency=1), asks[:16])
        rows = []
        for together in (8, 32):
            rate = _rate(endpoint_captioner(chat.url, "tiny", concurrency=together), asks)
            rows.append(Row(f"endpoint: {together} questions at once (peer: one)", rate, "clips/s", single, rate / single))
        kib = median(len(json.dumps(question)) for question in chat.questions) / 1024
    return [*rows, Row("endpoint: a question with its strip as JPEG", kib, "KiB")]


def _strip(number: int) -> np.ndarray:
    """Five views of the synthetic figure, 448 pixels high."""
    drawn = pictures(performance(0, 1 + number % 8, 1 + number % 20, 1).joints[:40], camera(2, 1), (look(1),))
    views = np.concatenate([picture[:, :120] for picture in list(drawn)[::8][:5]], axis=1)
    return views.repeat(-(-448 // len(views)), 0)[:448].repeat(2, 1)


def _later(handler: Handler) -> None:
    time.sleep(ANSWER)
    handler.send(200, reply("A person waves with the right hand."))


def _rate(captioner: Endpoint, asks: list[Ask]) -> float:
    began = time.perf_counter()
    answers = captioner(asks)
    assert not any(answer.error for answer in answers)
    return len(asks) / (time.perf_counter() - began)


def main() -> None:
    """Print the table."""
    show(measure())


if __name__ == "__main__":
    main()
