"""A server that answers as a test says, one answer after the other, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Say:
    """One answer. ``cut``: the connection breaks after the body, which goes on in ``Content-Length`` or in chunks."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


Answer = Say | Callable[[Asked], Say]


@dataclass
class Api:
    """Answers of each path in turn; the last one for ever."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    def on(self, route: str, *answers: Answer) -> None:
        """``route``: ``GET /v1/pushes``, without the query."""
        self.answers[route] = list(answers)

    def heard(self, route: str) -> list[Asked]:
        """What was asked of a route."""
        return [a for a in self.asked if f"{a.method} {a.path.partition('?')[0]}" == route]


def problem(status: int, code: str, detail: str = "no", field: str | None = None, **headers: str) -> Say:
    """A refusal as the API writes it."""
    body = {"status": status, "code": code, "detail": detail, "field": field, "title": "t", "request_id": "r-1"}
    return Say(status, body, {"content-type": "application/problem+json", **headers})


def stream(*events: tuple[str, Any], cut: bool = False) -> Say:
    """Server-sent events, between comments."""
    text = "retry: 2000\n\n: here\n\n" + "".join(f"event: {name}\ndata: {json.dumps(d)}\n\n" for name, d in events)
    return Say(200, text.encode(), {"content-type": "text/event-stream"}, cut=cut)


@contextmanager
def running() -> Iterator[Api]:
    """A server on loopback."""
    api = Api()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            raw = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, json.loads(raw) if raw else None)
            with lock:
                api.asked.append(asked)
                left = api.answers.get(f"{self.command} {self.path.partition('?')[0]}", [problem(404, "NOT_FOUND")])
                answer = left.pop(0) if len(left) > 1 else left[0]
            self.say(answer if isinstance(answer, Say) else answer(asked))

        def say(self, answer: Say) -> None:
            self.close_connection = self.close_connection or answer.cut
            if answer.status == 0:  # no answer at all
                self.close_connection = True
                return
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"content-type": "application/json", **answer.headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body) + (1000 if answer.cut else 0)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 -- the library asks for these names

        def log_message(self, *args: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that go away in the middle are what tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
