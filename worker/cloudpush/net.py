"""Connections that go where they were checked to go: what every part of the outside world that speaks HTTP shares.

No redirects, no proxies from the environment, no cookies; addresses are resolved and judged before the first
connection, and connected to as they were judged.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar
from xml.parsers import expat

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from cloudpush.errors import Code, DestinationError, SettingsError
from cloudpush.push.ports import Control

T = TypeVar("T")

#: Connections of one pool to all destinations together; a call uses at most its own share.
CONNECTIONS = 512
#: Seconds between two questions whether to go on.
TICK = 0.25
#: Statuses that may pass by themselves within seconds.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. ``body`` is cut at the limit that was asked for. Headers may hold secrets: the URI of a session."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


class Pool:
    """Connections that outlive a call, on an event loop in a thread of their own; started at first use.

    A new loop, session and connection for each call cost 2 ms, as much as the request itself.
    """

    def __init__(self, name: str, timeout: aiohttp.ClientTimeout) -> None:
        """``name``: of the thread."""
        self._name = name
        self._timeout = timeout
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._pinned = _Pinned()

    def pin(self, host: str, checked: list[str]) -> None:
        """New connections to ``host`` go to one of these addresses."""
        self._pinned.pins[host] = checked

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which runs on the pool's loop. Blocks."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True).start()
            loop = self._loop
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def session(self) -> aiohttp.ClientSession:
        """The one session; to be asked for on the pool's loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, resolver=self._pinned, use_dns_cache=False),
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                trust_env=False,
            )
        return self._session

    def close(self) -> None:
        """Close the connections and end the thread; another call starts anew."""
        with self._lock:
            loop, session = self._loop, self._session
            self._loop = self._session = None
        if loop is None:
            return
        if session is not None:
            asyncio.run_coroutine_threadsafe(session.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)


@cache
def trusting(ca_file: str) -> ssl.SSLContext:
    """What takes certificates of the CAs in this file and of no others. Read once: another file needs another process.

    Raises SettingsError where nobody can be trusted by it.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        why = "has no certificate in PEM form"
    except OSError as e:
        why = f"cannot be read: {e.strerror}"
    raise SettingsError(
        Code.SETTINGS_INVALID,
        f"providers: ca_file = {ca_file!r} {why}; correct it in the file of CLOUDPUSH_PROVIDERS_FILE.",
        field="ca_file",
    )


async def watched(work: Coroutine[Any, Any, T], control: Control) -> T:
    """The result of ``work``, unless ``control`` raises before it is there: then ``work`` is stopped."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=TICK)
            control.check()
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def read_answer(response: aiohttp.ClientResponse, limit: int) -> Answer:
    """``response`` with at most ``limit`` bytes of its body."""
    body = b""
    while len(body) < limit and (more := await response.content.read(limit - len(body))):
        body += more
    if limit and not response.content.at_eof():
        response.close()  # hostile or not what we asked for: do not read on to save a connection
    return Answer(response.status, response.headers, body)


def no_answer(error: Exception, origin: str, host: str) -> DestinationError:
    """What went wrong on the way, in words that hold nothing of the request: not even its path."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    # What is not about the connection may quote the request, or what the server sent.
    words = f": {cause}" if isinstance(cause, OSError) and not isinstance(cause, aiohttp.ClientError) else ""
    detail = f"{type(error).__name__}{words}"[:300]
    if isinstance(error, aiohttp.ClientSSLError):
        return DestinationError(Code.TLS_FAILED, f"No trusted TLS connection to {host!r} is possible.", detail=detail)
    if isinstance(cause, ConnectionRefusedError):
        return DestinationError(
            Code.ENDPOINT_REFUSED, f"{origin} refuses connections: nothing listens there.", detail=detail
        )
    return DestinationError(Code.NETWORK, f"{origin} gave no answer.", detail=detail)


class BadXml(ValueError):
    """Not the XML of an answer: malformed, nested too deeply, or with a document type."""


#: Answers of S3, GCS and Azure have a depth of four.
_DEPTH = 16


def parse_xml(
    body: bytes, leaf: Callable[[tuple[str, ...], str], None], end: Callable[[str], None] | None = None
) -> None:
    """Call ``leaf`` with the path and text of each element and ``end`` with the name of each that closes.

    Names come without namespaces. Raises BadXml. No document type is accepted, so no entity can be defined, which is
    all that makes XML dangerous to read; the caller bounds the size.
    """
    path: list[str] = []
    text: list[str] = []

    def on_start(name: str, _attributes: dict[str, str]) -> None:
        if len(path) >= _DEPTH:
            raise BadXml("nested too deeply")
        path.append(name.rpartition(" ")[2])
        text.clear()

    def on_end(_name: str) -> None:
        leaf(tuple(path), "".join(text))
        text.clear()
        name = path.pop()
        if end is not None:
            end(name)

    def on_doctype(*_args: object) -> None:
        raise BadXml("has a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = on_start
    parser.EndElementHandler = on_end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = on_doctype
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, UnicodeError, ValueError) as e:
        raise BadXml(str(e)) from e


class _Pinned(AbstractResolver):
    """Answers every question with the addresses that were checked."""

    def __init__(self) -> None:
        self.pins: dict[str, list[str]] = {}

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002 -- aiohttp's signature; the answers have their own
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self.pins[host]
        ]

    async def close(self) -> None:
        """Nothing to close."""
