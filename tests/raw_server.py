"""A server that shows what really came over the wire, and misbehaves on cue."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

DATE = "Thu, 01 Jan 1970 00:00:00 GMT"


@dataclass(frozen=True)
class Asked:
    """A request: its first line, its headers as they were spelt and ordered, its body."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(default=b"", repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def lower(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers}


@dataclass(frozen=True)
class Reply:
    """An answer. ``early``: sent before the body is read, of which then only so many bytes are; ``drop``: no answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    early: int | None = None
    drop: bool = False
    endless: bool = False


class RawServer:
    """Answers by a function of what was asked; a connection is used until either side closes it."""

    def __init__(self) -> None:
        self.answer: Callable[[Asked], Reply] = lambda _: Reply()
        self.asked: list[Asked] = []
        self.received = 0
        self.connections = 0
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def lines(self) -> list[str]:
        return [f"{a.method} {a.path}" for a in self.asked]

    def stop(self) -> None:
        self.over.set()
        for one in [self._listener, *self._open]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self._open.append(connection)
                    self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            stream = connection.makefile("rb")
            while first := stream.readline():
                method, target, _ = first.decode("latin-1").split(" ", 2)
                headers = []
                while line := stream.readline().decode("latin-1").rstrip("\r\n"):
                    name, _, value = line.partition(":")
                    headers.append((name, value.strip()))
                asked = Asked(method, target, tuple(headers))
                length = int(asked.lower.get("content-length", "0"))
                reply = self.answer(asked)
                body = self._read(stream.read1, length if reply.early is None else reply.early)
                with self._lock:
                    self.asked.append(Asked(method, target, tuple(headers), body))
                if reply.drop:
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                if reply.early is not None and reply.status == 0:
                    self.over.wait(30)  # takes no more, says nothing
                    return
                values = {"Content-Length": str(len(reply.body)), **reply.headers}
                if reply.endless:
                    values["Content-Length"] = str(1 << 40)
                head = "".join(f"{k}: {v}\r\n" for k, v in values.items())
                connection.sendall(f"HTTP/1.1 {reply.status} Words\r\n{head}\r\n".encode() + reply.body)
                if reply.early is not None:
                    self.over.wait(30)
                    return
                while reply.endless:
                    connection.sendall(b"x" * 65536)

    def _read(self, read: Callable[[int], bytes], left: int) -> bytes:
        parts = []
        while left and (data := read(min(left, 1 << 20))):
            left -= len(data)
            parts.append(data)
            with self._lock:
                self.received += len(data)
        return b"".join(parts)


@contextmanager
def raw_server() -> Iterator[RawServer]:
    server = RawServer()
    try:
        yield server
    finally:
        server.stop()
