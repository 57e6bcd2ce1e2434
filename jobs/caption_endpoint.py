"""The captioner `endpoint`: a vision-language model behind a server that speaks the OpenAI chat protocol, such as vLLM on a cluster's node.

Strips go there as pictures inside the question. Whatever a server does wrong ends in one of three ways: another try, an error of this clip,
or one line that says what to mend.
"""

import base64
import hashlib
import http.client
import io
import json
import os
import queue
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from jobs.caption_gate import refuses
from jobs.caption_record import Answer, Ask
from jobs.tracking_address import without_secrets
from shards.errors import InputError

KEY = "ACSAR_ENDPOINT_KEY"
"""The environment variable that holds the server's key. It is sent to the server and written nowhere."""

PATIENCE = 8  # clips in a row without an answer, and it is the server that is at fault
LONGEST_WAIT = 120.0  # seconds between two tries, whatever the server asks for
LARGEST = 8 << 20  # bytes of an answer
LIST_TIMEOUT = 10.0  # seconds for the list of models, which costs a server nothing
UNKNOWN_MODEL = re.compile(r"\bmodel\b.{0,120}\b(?:not found|not exist|unknown|invalid)|\b(?:unknown|invalid) model\b", re.IGNORECASE)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Again(Exception):
    """No answer, but the next try may bring one. wait: seconds that the server asks for; absent: nobody listens there."""

    def __init__(self, why: str, wait: float = 0.0, absent: bool = False) -> None:
        super().__init__(why)
        self.wait = wait
        self.absent = absent


class _Refused(Exception):
    """The server does not take this question; asking again changes nothing. code: of HTTP."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


class _Stopped(Exception):
    """Another clip has ended the batch."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An address that sends us elsewhere is an error: the key would go along."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class Endpoint:
    """A model behind a server. Several threads ask at once; answers come in the order of the questions.

    url          up to and with /v1
    served       the model's name there
    concurrency  questions at once; more than a batch has questions do not help
    timeout      seconds for one try, the waiting for other people's questions in it
    retries      tries after the first one
    backoff      seconds before the second try; doubled each time, and never less than the server's Retry-After
    key          of the server, "" for none"""

    url: str
    served: str
    max_tokens: int = 128
    concurrency: int = 32
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    image: Literal["jpeg", "png"] = "jpeg"
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        proxies = {} if host in LOOPBACK or urllib.request.proxy_bypass(host) else urllib.request.getproxies()
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler(proxies))
        proxy = f"{parts.scheme}_proxy"
        self._where = f"{self.url} (through ${proxy}; no_proxy={host} goes there directly)" if parts.scheme in proxies else self.url
        self._lock = threading.Lock()
        self._unanswered = 0  # clips in a row

    name: str = field(default="endpoint", init=False)
    revision: str = field(default="", init=False)  # the protocol has none
    provenance: str = field(default="vlm", init=False)
    sees: Literal["strip", "skeleton", "nothing"] = field(default="strip", init=False)

    @property
    def model(self) -> str:
        """Server and model."""
        return f"{self.url} {self.served}"

    @property
    def decode(self) -> dict[str, Any]:
        """How captions are generated: greedily."""
        return {"max_tokens": self.max_tokens, "temperature": 0, "image": self.image}

    def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """An answer for every question; one that the server does not give is an error of its clip.

        InputError where no other clip would fare better: nobody listens, the key or the model's name is wrong, or PATIENCE clips in a row
        got no answer."""
        todo: queue.SimpleQueue[tuple[int, Ask]] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Answer | Exception]] = queue.SimpleQueue()
        stop = threading.Event()
        for number, ask in enumerate(asks):
            todo.put((number, ask))

        def work() -> None:
            while not stop.is_set():
                try:
                    number, ask = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((number, self._answer(ask, stop)))
                except _Stopped:
                    return
                except Exception as error:  # is raised again below
                    done.put((number, error))

        for _ in range(min(self.concurrency, len(asks))):
            threading.Thread(target=work, daemon=True, name="endpoint").start()  # daemon: a server that hangs does not hold the process
        answers: dict[int, Answer] = {}
        try:
            while len(answers) < len(asks):
                number, answer = done.get()
                if isinstance(answer, Exception):
                    raise answer
                answers[number] = answer
        finally:
            stop.set()
        return [answers[number] for number in range(len(asks))]

    def models(self) -> list[str]:
        """Names of the models that the server lists, none where it has no list. InputError where it is not there or wants another key."""
        try:
            listed = self._patiently("/models", None, "models", threading.Event())
        except (_Again, _Refused):  # it answers: that it has no list is no fault
            return []
        entries = listed.get("data") if isinstance(listed, dict) else None
        return [str(entry.get("id")) for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

    def _answer(self, ask: Ask, stop: threading.Event) -> Answer:
        if ask.strip is None:
            raise ValueError(f"{ask.key}: the captioner endpoint looks at strips; the question has none")
        content = [
            {"type": "image_url", "image_url": {"url": data_url(ask.strip.image, self.image)}},
            {"type": "text", "text": ask.prompt},
        ]
        question = {"model": self.served, "messages": [{"role": "user", "content": content}]}
        body = json.dumps({**question, "max_tokens": self.max_tokens, "temperature": 0}).encode()
        try:
            text = self._patiently("/chat/completions", body, ask.key, stop)
        except _Refused as refused:
            if refused.code == 404 or UNKNOWN_MODEL.search(str(refused)):
                names = ", ".join(map(self._safe, self.models()[:5])) or "(it lists none)"
                raise InputError(f"{self._where} has no model {self.served!r} ({refused}); it has {names}: name it with --model") from None
            return self._without(f"endpoint refuses: {refused}")
        except _Again as failed:
            return self._without(f"endpoint fails: {failed}, at the last of {self.retries + 1} tries")
        with self._lock:
            self._unanswered = 0
        return Answer((text,))

    def _without(self, why: str) -> Answer:
        """The answer of a clip that got none."""
        with self._lock:
            self._unanswered += 1
            if self._unanswered >= PATIENCE:
                raise InputError(
                    f"{self._where}: {self._unanswered} clips in a row without a caption, the last one: {why}; mend the server"
                )
        return Answer(error=why)

    def _patiently(self, path: str, body: bytes | None, key: str, stop: threading.Event) -> Any:
        """What the server answers, at the latest at the last try. _Again or _Refused where it does not; InputError where it cannot."""
        for tried in range(self.retries + 1):
            if stop.is_set():
                raise _Stopped
            try:
                return self._once(path, body)
            except _Again as failed:
                last = failed
            if tried < self.retries:
                # many tasks that failed together must not come back together
                spread = 0.5 + hashlib.sha256(f"{key} {tried}".encode()).digest()[0] / 512
                stop.wait(min(max(self.backoff * 2**tried * spread, last.wait), LONGEST_WAIT))
        if last.absent:
            raise InputError(f"no server at {self._where}: {last}; start it, or name another --endpoint")
        raise last

    def _once(self, path: str, body: bytes | None) -> Any:
        """One try."""
        timeout = self.timeout if body else min(self.timeout, LIST_TIMEOUT)
        until = time.monotonic() + timeout
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with self._opener.open(request, timeout=timeout) as response:
                data = _read(response, until)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error.code, self._said(error, until), error.headers)
        except urllib.error.URLError as error:
            raise self._unreached(error.reason, timeout) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreached(error, timeout) from None
        try:
            reply = json.loads(data)
        except (ValueError, RecursionError):
            raise _Again(f"its answer is no JSON: {self._safe(data.decode(errors='replace'))!r}") from None
        return reply if body is None else self._text(reply)

    def _unreached(self, error: object, timeout: float) -> _Again:
        """Why there was no answer at all. InputError for a certificate that nobody here trusts: that does not pass."""
        if isinstance(error, ssl.SSLCertVerificationError):
            raise InputError(
                f"{self._where}: its certificate is not trusted ({error.verify_message}); name a file of yours in SSL_CERT_FILE"
            )
        if isinstance(error, TimeoutError):
            return _Again(f"no answer within {timeout:g} s")
        nobody = isinstance(error, OSError) and not isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLError)
        return _Again(self._safe(f"{type(error).__name__}: {error}"), absent=nobody)

    def _refused(self, code: int, said: str, headers: Message) -> None:
        """Raise what an HTTP error means: for this try, for this clip, or for all of them."""
        told = f"HTTP {code}{f': {said}' if said else ''}"
        if code in (401, 403):
            key = f"the key in ${KEY}" if self.key else f"a question without a key; put it into ${KEY}"
            raise InputError(f"{self._where} does not accept {key} ({told})")
        if 300 <= code < 400:
            raise InputError(
                f"{self._where} sends us to {self._safe(headers.get('Location') or 'nowhere')} ({told}); name that as --endpoint"
            )
        if code in (408, 425, 429) or code >= 500:
            raise _Again(told, wait=_retry_after(headers.get("Retry-After")))
        raise _Refused(told, code)

    def _text(self, reply: Any) -> str:
        """The caption in an answer. A refusal is returned as such, for the gate to flag; without any words "", as good a refusal."""
        try:
            choice = reply["choices"][0]
            message = choice["message"]
            content = message.get("content") or ""
            if isinstance(content, list):
                content = "".join(part.get("text", "") for part in content)
            refusal = message.get("refusal") or ""
        except (LookupError, TypeError, AttributeError):
            raise _Again(f"its answer has no choices: {self._safe(json.dumps(reply))!r}") from None
        if choice.get("finish_reason") == "content_filter":
            return ""
        if refusal:
            return str(refusal) if refuses(str(refusal)) else ""
        return str(content)

    def _said(self, error: urllib.error.HTTPError, until: float) -> str:
        """What the server says to an error, in one line: its message where it sends JSON."""
        try:
            said = _read(error, until).decode(errors="replace")
        except (OSError, http.client.HTTPException, _Again):
            return ""
        try:
            told = json.loads(said)
            inner = told.get("error", told)
            said = str(inner.get("message") or inner.get("detail") or said) if isinstance(inner, dict) else str(inner)
        except (ValueError, AttributeError, RecursionError):
            pass
        return self._safe(said)

    def _safe(self, said: str) -> str:
        """Foreign words for a message: one line, not long, without the key."""
        said = said.replace(self.key, "***") if self.key else said
        return "".join(character for character in " ".join(said.split()) if character.isprintable())[:240]


def endpoint_captioner(
    url: str,
    model: str,
    *,
    max_tokens: int = 128,
    concurrency: int = 32,
    timeout: float = 120.0,
    retries: int = 5,
    backoff: float = 1.0,
    image: Literal["jpeg", "png"] = "jpeg",
) -> Endpoint:
    """The captioner behind the server at `url` (http://node7:8000, with or without /v1), whose key is in $ACSAR_ENDPOINT_KEY.

    InputError for an address that is none, a key that cannot be sent, and a server that is not there or does not accept the key."""
    key = os.environ.get(KEY, "").strip()
    if not key.isascii() or not key.isprintable():
        raise InputError(f"${KEY} holds characters that cannot be sent; put the key into it, in one line")
    made = Endpoint(address(url), model, max_tokens, concurrency, timeout, retries, backoff, image, key)
    made.models()
    return made


def address(url: str) -> str:
    """The server's address up to and with /v1. InputError for what is none, and for one with a password in it."""
    shown = without_secrets(url)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise InputError(f"--endpoint {shown!r} is no address; write http://HOST:PORT/v1") from None
    if parts.username or parts.password:
        raise InputError(f"--endpoint {shown!r}: a password in an address ends up in records; put the server's key into ${KEY}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"--endpoint {shown!r} is no address of a server; write http://HOST:PORT/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def data_url(image: NDArray[np.uint8], kind: Literal["jpeg", "png"] = "jpeg") -> str:
    """A picture [H,W,3] as an address that holds it: base64 of a JPEG (quality 95) or of a PNG (exact)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, kind.upper(), **({"quality": 95} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _read(response: Any, until: float) -> bytes:
    """The whole body. _Again when it does not come in time, or is too long to be an answer."""
    data = bytearray()
    while piece := response.read1(1 << 16):
        data += piece
        if time.monotonic() > until:
            raise _Again("its answer did not end in time")
        if len(data) > LARGEST:
            raise _Again(f"its answer is longer than {LARGEST >> 20} MB")
    return bytes(data)


def _retry_after(said: str | None) -> float:
    """Seconds that a Retry-After header asks for: a number or a date; 0 for none."""
    try:
        wait = float(said or 0)
    except ValueError:
        try:
            wait = (parsedate_to_datetime(said or "") - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            wait = 0.0
    return wait if wait > 0 else 0.0  # also for one that is no number
