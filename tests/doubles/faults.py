"""A way to a server that fails on cue: between a client and any HTTP server, it spoils what a rule names.

The head of a request goes on unchanged, Host included, so a URL that is signed for the proxy's address is checked as
signed by the server behind it. What arrives is counted by path: whether a byte was sent twice shows here.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from enum import StrEnum
from urllib.parse import unquote

from cloudpush.stack.ports import HOST
from doubles.serving import CHUNK, Double

_HEAD_BYTES = 64 * 1024


class Fault(StrEnum):
    """What happens to a request."""

    NONE = "none"  # it is only counted
    FLIP = "flip"  # one bit of the body is another; the answer is the server's own
    TRUNCATE = "truncate"  # the server is told of, and gets, only the first `at` bytes: a middlebox that cuts
    RESET = "reset"  # the connection is reset once `at` bytes of the body came
    STALL = "stall"  # nothing is read after `at` bytes of the body, and nothing is answered
    SWALLOW = "swallow"  # the server never sees it; the answer is the rule's
    REPLACE = "replace"  # the server does it; the answer is the rule's
    LOSE = "lose"  # the server does it; the connection ends without an answer
    ENDLESS = "endless"  # the answer is the rule's head and a body without end
    STALE = "stale"  # as SWALLOW, but nothing of the body is read before the answer


@dataclass(frozen=True)
class Seen:
    """One request. ``target`` as sent; ``body``: bytes that came, whatever became of them."""

    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    body: int
    digest: str = ""  # MD5 of the body, as far as it came


@dataclass(frozen=True)
class Reply:
    """An answer of a rule's own."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


#: A reply, or what makes one out of the request.
MakeReply = Reply | Callable[[Seen], Reply]


@dataclass
class Rule:
    """The requests that it names fail: by method, by a pattern in the target, after so many that it spares."""

    fault: Fault
    method: str = ""
    pattern: str = ""
    at: int = 0
    reply: MakeReply = field(default_factory=Reply)
    spare: int = 0
    times: int = 1_000_000
    header: tuple[str, str] = ("", "")  # name and pattern of a header's value

    def takes(self, method: str, target: str, headers: dict[str, str]) -> bool:
        """Whether this request is one of them; counts it."""
        if (self.method and method != self.method) or not re.search(self.pattern, target):
            return False
        name, pattern = self.header
        if name and not re.search(pattern, headers.get(name, "")):
            return False
        if self.spare:
            self.spare -= 1
            return False
        if not self.times:
            return False
        self.times -= 1
        return True


class FaultProxy(Double):
    """In front of ``upstream``, an ``http://HOST:PORT``. Without rules it passes everything on."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        host, _, port = upstream.removeprefix("http://").split("/")[0].partition(":")
        self._upstream = (host, int(port))
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._requests: list[tuple[_Head, _Body]] = []
        #: Added to the Date of every answer.
        self.clock_skew = timedelta()
        self._connections: set[asyncio.Task[None]] = set()

    def spoil(self, *rules: Rule) -> None:
        """From now on these rules, the first that fits, and a clean record."""
        with self._lock:
            self._rules = list(rules)
            self._requests.clear()
            self.clock_skew = timedelta()

    @property
    def seen(self) -> list[Seen]:
        """Every request since :meth:`spoil`, as far as it came."""
        with self._lock:
            return [_seen(request, body) for request, body in self._requests]

    @property
    def received(self) -> Counter[str]:
        """Bytes of bodies that came for each path, decoded, without its query."""
        counted: Counter[str] = Counter()
        for one in self.seen:
            counted[unquote(one.target.partition("?")[0])] += one.body
        return counted

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, HOST, 0, limit=_HEAD_BYTES)

    async def close(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            with suppress(OSError):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; whether the connection goes on."""
        request = await _Head.read(reader)
        if request.headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = _Body(reader, request.length)
        with self._lock:
            self._requests.append((request, body))
            fits = (rule for rule in self._rules if rule.takes(request.method, request.target, request.headers))
            rule = next(fits, Rule(Fault.NONE))
        return await self._pass(rule, request, body, writer)

    async def _pass(self, rule: Rule, request: _Head, body: _Body, writer: asyncio.StreamWriter) -> bool:
        fault = rule.fault
        if fault in {Fault.SWALLOW, Fault.ENDLESS, Fault.STALE}:
            if fault is not Fault.STALE:
                await body.drain()
            await self._reply(rule, request, body, writer)
            return fault is Fault.SWALLOW
        up_reader, up_writer = await asyncio.open_connection(*self._upstream, limit=_HEAD_BYTES)
        try:
            length = min(request.length, rule.at) if fault is Fault.TRUNCATE else request.length
            up_writer.write(request.encoded(length))
            sending = asyncio.create_task(self._send(rule, body, up_writer, writer))
            reading = asyncio.create_task(_final_head(up_reader))
            try:
                await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
                if fault is Fault.STALL:
                    await sending
                if sending.done() and isinstance(sending.exception(), EOFError):
                    raise EOFError  # the client went away; a server that went away may have answered before
                answer = await reading
                if fault in {Fault.TRUNCATE, Fault.REPLACE, Fault.LOSE}:
                    await sending
                whole = sending.done() and not sending.exception()
                if fault is Fault.LOSE:
                    await _discard(answer, up_reader, request)
                    return False
                if fault is Fault.REPLACE:
                    await _discard(answer, up_reader, request)
                    await self._reply(rule, request, body, writer)
                    return True
                await self._return(answer, up_reader, writer, request, keep=whole)
                return whole
            finally:
                sending.cancel()
                reading.cancel()
                await asyncio.gather(sending, reading, return_exceptions=True)
        finally:
            with suppress(OSError):
                up_writer.transport.abort()

    async def _send(
        self, rule: Rule, body: _Body, up_writer: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        """The body, spoiled as ``rule`` says."""
        place = 0
        while data := await body.some():
            if rule.fault is Fault.FLIP and place <= rule.at < place + len(data):
                spoiled = bytearray(data)
                spoiled[rule.at - place] ^= 0x10
                data = bytes(spoiled)
            place += len(data)
            if rule.fault is Fault.TRUNCATE:
                data = data[: max(0, rule.at - (place - len(data)))]
            if rule.fault is Fault.RESET and place >= rule.at:
                _reset(writer)
                up_writer.transport.abort()
                return
            if rule.fault is Fault.STALL and place >= rule.at:
                up_writer.transport.abort()  # the server need not wait with us: some serve only so many at a time
                await asyncio.Event().wait()
            up_writer.write(data)
            await up_writer.drain()

    async def _reply(self, rule: Rule, request: _Head, body: _Body, writer: asyncio.StreamWriter) -> None:
        """The rule's own answer."""
        reply = rule.reply(_seen(request, body)) if callable(rule.reply) else rule.reply
        headers = {"Content-Length": str(len(reply.body)), "Date": self._date(datetime.now(UTC)), **reply.headers}
        if rule.fault is Fault.ENDLESS:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
        if rule.fault in {Fault.ENDLESS, Fault.STALE}:
            headers["Connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} Spoiled\r\n{lines}\r\n".encode())
        if rule.fault is Fault.ENDLESS:
            block = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            while not writer.is_closing():
                writer.write(block)
                await writer.drain()
        if request.method != "HEAD":
            writer.write(reply.body)
        await writer.drain()

    async def _return(
        self, answer: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: _Head, *, keep: bool
    ) -> None:
        """The server's answer, with the proxy's clock."""
        if "date" in answer.headers:
            answer.replace("Date", self._date(parsedate_to_datetime(answer.headers["date"])))
        answer.replace("Connection", "keep-alive" if keep and answer.framed(request) else "close")
        writer.write(answer.encoded(None))
        await _discard(answer, reader, request, writer)
        await writer.drain()
        if not (keep and answer.framed(request)):
            raise EOFError

    def _date(self, when: datetime) -> str:
        return format_datetime(when + self.clock_skew, usegmt=True)


class _Head:
    """The head of a request or an answer, kept as it was sent."""

    def __init__(self, raw: bytes) -> None:
        lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.first = lines[0]
        self.lines = lines[1:]
        self.headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in self.lines)
        }

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> _Head:
        return cls(await reader.readuntil(b"\r\n\r\n"))

    @property
    def length(self) -> int:
        """Of the body. Chunked requests are no matter here: whoever sends files knows their length."""
        assert "chunked" not in self.headers.get("transfer-encoding", "") or self.first.startswith("HTTP/")
        return int(self.headers.get("content-length", "0"))

    @property
    def method(self) -> str:
        return self.first.split(" ", 2)[0]

    @property
    def target(self) -> str:
        return self.first.split(" ", 2)[1]

    @property
    def status(self) -> int:
        return int(self.first.split(" ", 2)[1])

    def framed(self, request: _Head) -> bool:
        """Whether the end of this answer is known without the connection ending."""
        return self.bodyless(request) or "content-length" in self.headers or self.chunked

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "")

    def bodyless(self, request: _Head) -> bool:
        return request.method == "HEAD" or self.status in {204, 304}

    def replace(self, name: str, value: str) -> None:
        self.lines = [line for line in self.lines if line.partition(":")[0].strip().lower() != name.lower()]
        self.lines.append(f"{name}: {value}")

    def encoded(self, length: int | None) -> bytes:
        """As bytes; with another Content-Length where it is another."""
        if length is not None and length != self.length:
            self.replace("Content-Length", str(length))
        lines = [line for line in self.lines if not line.lower().startswith("expect:")]
        return "\r\n".join([self.first, *lines, "", ""]).encode("latin-1")


class _Body:
    """The body of a request, counted as it comes."""

    def __init__(self, reader: asyncio.StreamReader, length: int) -> None:
        self._reader = reader
        self._left = length
        self.came = 0
        self.md5 = hashlib.md5(usedforsecurity=False)

    async def some(self) -> bytes:
        """The next bytes; none at the end. Raises EOFError where the sender went away."""
        if not self._left:
            return b""
        data = await self._reader.read(min(CHUNK, self._left))
        if not data:
            raise EOFError
        self._left -= len(data)
        self.came += len(data)
        self.md5.update(data)
        return data

    async def drain(self) -> None:
        while await self.some():
            pass


def _seen(request: _Head, body: _Body) -> Seen:
    return Seen(request.method, request.target, request.headers, body.came, body.md5.hexdigest())


async def _final_head(reader: asyncio.StreamReader) -> _Head:
    """The head of an answer, after those that only say 100 Continue."""
    head = await _Head.read(reader)
    while head.status == 100:
        head = await _Head.read(reader)
    return head


async def _discard(
    answer: _Head, reader: asyncio.StreamReader, request: _Head, writer: asyncio.StreamWriter | None = None
) -> None:
    """Read the body of ``answer``, and hand it on to ``writer``."""
    if answer.bodyless(request):
        return

    def hand_on(data: bytes) -> None:
        if writer:
            writer.write(data)

    if answer.chunked:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            hand_on(line + await reader.readexactly(size + 2))
            if not size:
                return
    left = int(answer.headers.get("content-length", "-1"))
    while left and (data := await reader.read(CHUNK if left < 0 else min(CHUNK, left))):
        hand_on(data)
        left -= len(data)
    if left > 0:
        raise EOFError


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a crash does: with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
