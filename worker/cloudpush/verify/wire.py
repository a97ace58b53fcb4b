"""Signed requests to one bucket, many at once, on connections that go where they were checked to go.

No redirects, no proxies from the environment, no cookies; addresses are resolved and judged once, before the first
connection. A request is tried three times where its failure may pass.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from cloudpush.errors import Code, DestinationError
from cloudpush.push.endpoints import Endpoint
from cloudpush.push.guard import addresses
from cloudpush.push.job import Secret
from cloudpush.verify.answers import PASSING
from cloudpush.verify.sigv4 import Signer, encode_path, encode_query

T = TypeVar("T")

#: Connections of one worker to all destinations together; a call uses at most its own share.
CONNECTIONS = 512
TRIES = 3
#: Seconds before the second try; doubled before the third; by chance between half and all of it.
PAUSE = 0.2
#: Seconds that a Retry-After may keep us within a call; a longer one is left to the caller's own back-off.
LONGEST_PAUSE = 5.0
#: Seconds: to connect, between two packets, and for a request as a whole.
TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5, sock_read=20)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. ``body`` is cut at the limit that was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)


class Pool:
    """Connections that outlive a call, on an event loop in a thread of their own; started at first use.

    A new loop, session and connection for each call cost 2 ms, as much as the request itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._pinned = _Pinned()

    def pin(self, host: str, checked: list[str]) -> None:
        """New connections to ``host`` go to one of these addresses."""
        self._pinned.pins[host] = checked

    def run(self, work: Coroutine[None, None, T]) -> T:
        """The result of ``work``, which runs on the pool's loop. Blocks."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="inspector", daemon=True).start()
            loop = self._loop
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def session(self) -> aiohttp.ClientSession:
        """The one session; to be asked for on the pool's loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, resolver=self._pinned, use_dns_cache=False),
                timeout=TIMEOUT,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
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


class Wire:
    """Signed requests to one bucket with one secret."""

    def __init__(self, pool: Pool, endpoint: Endpoint, bucket: str, secret: Secret, allowed: Collection[str]) -> None:
        """Resolves the host, which blocks. Raises DestinationError ENDPOINT_UNRESOLVABLE, ENDPOINT_FORBIDDEN."""
        url = urlsplit(endpoint.bucket_url(bucket))
        self._host = url.hostname or ""
        port = url.port or (443 if url.scheme == "https" else 80)
        self._pool = pool
        pool.pin(self._host, addresses(self._host, port, {self._host} if endpoint.trusted else allowed))
        self._origin = f"{url.scheme}://{url.netloc}"
        self._base = url.path
        fields = secret.reveal()
        self._signer = Signer(
            access_key_id=fields.get("access_key_id", ""),
            secret_access_key=fields.get("secret_access_key", ""),
            session_token=fields.get("session_token", ""),
            region=endpoint.region,
            host=url.netloc,
        )

    async def head(self, key: str) -> Answer:
        """HEAD of an object, with the digests that the provider computed."""
        return await self._request("HEAD", self._path(key), "", {"x-amz-checksum-mode": "ENABLED"}, limit=0)

    async def first_byte(self, key: str) -> Answer:
        """GET of an object's first byte: says in words what a HEAD says by status only."""
        return await self._request("GET", self._path(key), "", {"range": "bytes=0-0"}, limit=64 * 1024)

    async def page(self, parameters: Mapping[str, str], limit: int) -> Answer:
        """GET of the bucket itself."""
        return await self._request("GET", self._base or "/", encode_query(parameters), {}, limit=limit)

    def _path(self, key: str) -> str:
        return f"{self._base}/{encode_path(key)}"

    async def _request(self, method: str, path: str, query: str, extra: Mapping[str, str], limit: int) -> Answer:
        """The answer, whatever its status; the last one where all tries failed for a passing reason.

        Raises DestinationError where there was no answer: ENDPOINT_REFUSED, TLS_FAILED, NETWORK.
        """
        # Encoded by us and left alone by yarl: what goes over the wire is what was signed.
        url = URL(f"{self._origin}{path}?{query}" if query else f"{self._origin}{path}", encoded=True)
        for left in reversed(range(TRIES)):
            pause = PAUSE * 2 ** (TRIES - 1 - left)
            try:
                answer = await self._once(
                    method, url, self._signer.headers(method, path, query, time.time(), extra), limit
                )
            except (aiohttp.ClientError, TimeoutError, OSError) as e:
                error = self._no_answer(e)
                if not left or not error.code.retryable:
                    raise error from e
            else:
                if answer.status not in PASSING or not left:
                    return answer
                asked = answer.headers.get("Retry-After", "")
                pause = max(pause, min(float(asked), LONGEST_PAUSE)) if asked.isdecimal() else pause
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads load, guards nothing
        raise AssertionError("unreachable: the last try returns or raises")

    async def _once(self, method: str, url: URL, headers: Mapping[str, str], limit: int) -> Answer:
        async with self._pool.session().request(method, url, headers=headers, allow_redirects=False) as response:
            body = b""
            while len(body) < limit and (more := await response.content.read(limit - len(body))):
                body += more
            if limit and not response.content.at_eof():
                response.close()  # hostile or not what we asked for: do not read on to save a connection
            return Answer(response.status, response.headers, body)

    def _no_answer(self, error: Exception) -> DestinationError:
        """What went wrong on the way, in words that hold nothing of the request."""
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        detail = f"{type(error).__name__}: {cause}"[:300]
        if isinstance(error, aiohttp.ClientSSLError):
            return DestinationError(
                Code.TLS_FAILED, f"No trusted TLS connection to {self._host!r} is possible.", detail=detail
            )
        if isinstance(cause, ConnectionRefusedError):
            return DestinationError(
                Code.ENDPOINT_REFUSED, f"{self._origin} refuses connections: nothing listens there.", detail=detail
            )
        return DestinationError(Code.NETWORK, f"{self._origin} gave no answer.", detail=detail)


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
