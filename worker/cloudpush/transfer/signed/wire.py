"""Requests with signed URLs to one server: exactly the headers they were given, paced, timed, retried.

No error, log line or ``repr`` holds anything of a URL beyond its origin.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from datetime import timedelta
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter
from yarl import URL

from cloudpush.errors import CloudPushError, Code, DestinationError, InputError, SourceError
from cloudpush.logs import get_logger
from cloudpush.net import Answer, Pool, no_answer, read_answer
from cloudpush.push.guard import Origin, parse_endpoint
from cloudpush.push.signed.model import Provider
from cloudpush.transfer.signed.answers import Refused, is_error_body, pause_of, refusal
from cloudpush.transfer.signed.pace import LONGEST_PAUSE, SKEW_WARNING, Pace, ServerClock
from cloudpush.transfer.signed.request import Request, Stream
from cloudpush.transfer.signed.source import Meter

log = get_logger(__name__)

TRIES = 4
#: Seconds before the second try; doubled before each further one; by chance between half and all of it.
PAUSE = 0.25
#: Seconds: to connect.
CONNECT_SECONDS = 5.0
#: Seconds without a byte of progress after which a connection is given up.
STALL_SECONDS = 60.0
#: Seconds from the last byte of a request to the last of its answer: completing a large upload takes minutes.
ANSWER_SECONDS = 600.0
#: Seconds that a URL must still live when a request with it is sent.
MARGIN = timedelta(seconds=2)
#: Bytes of a body in memory that are handed over at a time; a smaller one goes with its headers.
_SLICE = 256 * 1024
_AT_ONCE = 64 * 1024
#: How often a body looks whether the server takes anything, within the time it may take nothing.
_LOOKS = 4

_PASSING = frozenset({Code.THROTTLED, Code.PROVIDER_UNAVAILABLE, Code.NETWORK, Code.ENDPOINT_REFUSED})
_TOO_FAST = frozenset({429, 503})
_WITH_BODY = frozenset({"PUT", "POST"})


def timeouts(stall: float) -> aiohttp.ClientTimeout:
    """What a pool for signed URLs is given; what it cannot time is timed here."""
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=stall)


class Server:
    """What a process knows of one server: how much it bears, and what time it is there."""

    def __init__(self, most: int) -> None:
        """``most``: requests in flight at most."""
        self.pace = Pace(most)
        self.clock = ServerClock()
        self._warned = False

    def learn(self, origin: Origin, date: str) -> None:
        """The Date header of an answer that has just come. Far apart clocks are worth a line in the log, once."""
        self.clock.learn(date)
        if abs(self.clock.skew) > SKEW_WARNING and not self._warned:
            self._warned = True
            log.warning("clocks.differ", server=origin.url, seconds=round(self.clock.skew))


class Wire:
    """The way to one server. Every request goes to ``origin``, or not at all."""

    def __init__(self, pool: Pool, origin: Origin, provider: Provider, server: Server, stall: float) -> None:
        """``origin`` is pinned in ``pool`` by the caller; ``stall``: seconds, see STALL_SECONDS."""
        self._pool = pool
        self._origin = origin
        self._provider = provider
        self._server = server
        self._stall = stall

    @property
    def clock(self) -> ServerClock:
        """The server's."""
        return self._server.clock

    async def send(self, request: Request, meter: Meter) -> Answer:
        """See ``job.Sender``. ``meter`` counts the file's content, where the body is in memory."""
        url = self._checked(request.url)
        for left in reversed(range(TRIES)):
            try:
                return await self._in_turn(request, url, meter)
            except DestinationError as e:
                told = e.pause if isinstance(e, Refused) else 0.0
                if not left or e.code not in _PASSING or told > LONGEST_PAUSE:
                    raise
            await asyncio.sleep(PAUSE * 2 ** (TRIES - 1 - left) * random.uniform(0.5, 1))  # noqa: S311 -- spreads load
        raise AssertionError("unreachable: the last try returns or raises")

    def _checked(self, text: str) -> URL:
        """Encoded by the signer and left alone by yarl: what goes over the wire is what was signed."""
        bare = text.partition("#")[0]
        if not bare.startswith(f"{self._origin.url}/"):
            parts = urlsplit(bare)
            try:
                same = parse_endpoint(f"{parts.scheme}://{parts.netloc}") == self._origin
            except InputError:
                same = False
            if not same:
                raise DestinationError(
                    Code.ENDPOINT_FORBIDDEN,
                    f"A URL leads to another server than {self._origin.url}: it is not followed.",
                )
        return URL(bare, encoded=True)

    async def _in_turn(self, request: Request, url: URL, meter: Meter) -> Answer:
        pace = self._server.pace
        sent = 0

        def count() -> None:
            nonlocal sent
            sent += request.content
            meter.add(request.content)

        began = await pace.enter()
        well = False
        try:
            self._check_expiry(request)
            answer = await self._once(request, url, count)
            self._server.learn(self._origin, answer.headers.get("Date", ""))
            if answer.status in _TOO_FAST:
                pace.slower(began, pause_of(answer.headers))
            well = answer.status < 400
            if answer.status in request.accepts or (200 <= answer.status < 300 and not is_error_body(answer)):
                sent -= request.content  # all but this counts as sent in vain
                return answer
        finally:
            meter.take_back(sent)
            pace.leave(well=well)
        raise refusal(self._provider, answer, request.url, late=self._late(request), sent=request.sent)

    async def _once(self, request: Request, url: URL, count: Callable[[], None]) -> Answer:
        """One try; ``count`` is called when its body is sent.

        Raises DestinationError where no answer came, and what the body's source raises.
        """
        body = _Body(request.body, self._stall) if request.body or not isinstance(request.body, bytes) else None
        headers = dict(request.headers)
        if request.method in _WITH_BODY:
            headers["Content-Length"] = str(body.size if body is not None else 0)
        failure: CloudPushError
        try:
            async with asyncio.timeout(None) as limit:

                def out(limit: asyncio.Timeout = limit) -> None:
                    """From now on there is an end to waiting."""
                    limit.reschedule(asyncio.get_running_loop().time() + ANSWER_SECONDS)
                    count()

                if body is None:
                    out()
                else:
                    body.on_end = out
                async with self._pool.session().request(
                    request.method, url, headers=headers, data=body, allow_redirects=False
                ) as response:
                    early = body is not None and not body.handed
                    if early:
                        limit.reschedule(asyncio.get_running_loop().time() + ANSWER_SECONDS)
                    answer = await read_answer(response, request.limit)
            if not early or answer.status >= 300:
                return answer
            # It cannot have what it says it has.
            failure = DestinationError(
                Code.CORRUPTED, f"{self._origin.url} accepted an upload before all of it was sent."
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            # Not raised here: the cause may quote the URL, and what is raised from it keeps it.
            failure = no_answer(e, self._origin.url, self._origin.host)
        if body is not None and body.error is not None:
            raise body.error
        raise failure

    def _check_expiry(self, request: Request) -> None:
        """Raise DestinationError URL_EXPIRED where both clocks say so.

        Else the server is the judge: its answer tells what time it is there, so that a wrong idea of it does not last.
        """
        if request.expires_at is None or self._server.clock.earliest() + MARGIN < request.expires_at:
            return
        raise DestinationError(
            Code.URL_EXPIRED, f"The signed URL expired at {request.expires_at:%Y-%m-%d %H:%M:%S} UTC."
        )

    def _late(self, request: Request) -> bool:
        """Whether a refusal that does not say why is to be taken for expiry; so far a server's clock may be ahead of ours."""
        return request.expires_at is not None and self._server.clock.earliest(SKEW_WARNING) >= request.expires_at


class Line:
    """``job.Sender``: a wire, and the meter of the one file that is sent over it."""

    def __init__(self, wire: Wire, meter: Meter) -> None:
        self._wire = wire
        self._meter = meter

    async def send(self, request: Request) -> Answer:
        """See ``job.Sender``."""
        return await self._wire.send(request, self._meter)


class _Body(aiohttp.Payload):
    """A body that remembers whether all of it was handed over, and gives up a server that takes nothing any more."""

    def __init__(self, body: bytes | Stream, stall: float) -> None:
        super().__init__(None)
        self._body = body
        self._size = len(body) if isinstance(body, bytes) else body.size
        self._stall = stall
        self.handed = False
        self.error: CloudPushError | None = None
        self.on_end: Callable[[], None] = lambda: None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 -- aiohttp's signature
        """Nothing that may be shown."""
        return ""

    async def write(self, writer: AbstractStreamWriter) -> None:
        """See aiohttp.Payload. What is raised here becomes an error of aiohttp's own, so ours is kept beside."""
        self.handed = not self._size
        if isinstance(self._body, bytes) and len(self._body) <= _AT_ONCE:
            self.handed = True
            await writer.write(self._body)
            self.on_end()
            return
        watch = _Watch(writer, self._stall)
        try:
            if isinstance(self._body, bytes):
                await self._slices(writer, memoryview(self._body))
            else:
                await self._chunks(writer, self._body)
        except CloudPushError as e:
            self.error = e
            raise
        finally:
            watch.end()
        self.on_end()

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002
        """See aiohttp.Payload. The length is our own."""
        await self.write(writer)

    async def _slices(self, writer: AbstractStreamWriter, data: memoryview) -> None:
        for start in range(0, len(data), _SLICE):
            self.handed = start + _SLICE >= len(data)
            await writer.write(data[start : start + _SLICE])

    async def _chunks(self, writer: AbstractStreamWriter, stream: Stream) -> None:
        left = stream.size
        async with aclosing(stream.chunks()) as chunks:
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    break
                self.handed = not left
                await writer.write(chunk)
        if left:
            raise SourceError(Code.SOURCE_CHANGED, "the body of a request has not the size that was planned")


class _Watch:
    """Breaks a connection off when the server has taken nothing for so long that it will not any more."""

    def __init__(self, writer: AbstractStreamWriter, stall: float) -> None:
        self._transport = writer.transport if isinstance(writer, StreamWriter) else None
        self._every = stall / _LOOKS
        self._waiting = 0
        self._looks = 0
        self._timer = asyncio.get_running_loop().call_later(self._every, self._look)

    def end(self) -> None:
        """All is handed over, or given up."""
        self._timer.cancel()

    def _look(self) -> None:
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        # Bytes that wait and do not get fewer. More of them means that some went out since the last look: none are
        # added while many wait.
        self._looks = self._looks + 1 if waiting and waiting == self._waiting else 0
        self._waiting = waiting
        if self._looks >= _LOOKS and self._transport is not None:
            self._transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(self._every, self._look)
