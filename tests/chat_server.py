"""A chat endpoint on this machine that does what it is told: answers, refuses, hangs, breaks off, limits the rate, dies."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Move = Callable[["Handler"], None]


def reply(text: Any, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """The body of an answer."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}]}


def ok(text: Any = "A person waves with the right hand.", **more: Any) -> Move:
    return lambda handler: handler.send(200, reply(text, **more))


def status(code: int, said: str = "", **headers: str) -> Move:
    body = {"error": {"message": said}} if said else {}
    return lambda handler: handler.send(code, body, {name.replace("_", "-"): value for name, value in headers.items()})


def raw(code: int, body: bytes) -> Move:
    return lambda handler: handler.send(code, body)


def half(handler: "Handler") -> None:
    """Announces a whole answer and sends half of it."""
    body = json.dumps(reply("A person waves.")).encode()
    handler.head(200, len(body))
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def drop(handler: "Handler") -> None:
    """Closes the connection without a word."""
    handler.close_connection = True


def hang(handler: "Handler") -> None:
    """Says nothing until the server stops."""
    handler.server.stopped.wait(30)  # type: ignore[attr-defined]
    handler.close_connection = True


def trickle(handler: "Handler") -> None:
    """An answer that never ends, a letter at a time."""
    handler.head(200, 1 << 20)
    try:
        while not handler.server.stopped.wait(0.02):  # type: ignore[attr-defined]
            handler.wfile.write(b" ")
    except OSError:
        pass
    handler.close_connection = True


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    def send(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.head(code, len(data), headers)
        self.wfile.write(data)

    def head(self, code: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.chat.gets.append(self.path)  # type: ignore[attr-defined]
        self.server.chat.models(self)  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        chat: Chat = self.server.chat  # type: ignore[attr-defined]
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat.next(question, dict(self.headers))(self)

    def log_message(self, *_: Any) -> None:
        pass


class Chat:
    """A server with a script: by the clip's prompt, or one move after the other, then `otherwise` for ever."""

    def __init__(self, *moves: Move, by_prompt: dict[str, list[Move]] | None = None, otherwise: Move | None = None) -> None:
        self.moves = list(moves)
        self.by_prompt = by_prompt or {}
        self.otherwise = otherwise or ok()
        self.models: Move = lambda handler: handler.send(200, {"data": [{"id": "tiny"}, {"id": "other"}]})
        self.questions: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.gets: list[str] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.chat = self  # type: ignore[attr-defined]
        self.server.stopped = threading.Event()  # type: ignore[attr-defined]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def next(self, question: dict[str, Any], headers: dict[str, str]) -> Move:
        """What to do with this question; counts how many are being answered at once."""
        prompt = question["messages"][0]["content"][1]["text"]
        with self.lock:
            self.questions.append(question)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            moves = self.by_prompt.get(prompt) or self.moves
            move = moves.pop(0) if moves else self.otherwise
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)

        def counted(handler: Handler) -> None:
            try:
                move(handler)
            finally:
                with self.lock:
                    self.at_once -= 1

        return counted

    def stop(self) -> None:
        """No more connections; those that hang are let go."""
        self.server.stopped.set()  # type: ignore[attr-defined]
        if self.thread.is_alive():
            self.server.shutdown()
        self.server.server_close()

    def __enter__(self) -> "Chat":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
