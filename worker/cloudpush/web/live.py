"""A push while it runs, as server-sent events.

::

    event: progress   {"state", "sent", "total", "percent", "text"}: now and then
    event: changed    the same: its state is another one, or its files have got on: the page is worth asking for again
    event: verdict    the same: it is over, and so is the stream
    : …               a comment every few seconds, so that a dead connection is noticed

The broker's messages are hints, Postgres is asked every second. A browser connects again by itself when a stream ends without a
verdict, as each does after some minutes: whether the session is still good is asked then, and now and then in between.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
from anyio.to_thread import run_sync
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from cloudpush.errors import BrokerError, CloudPushError
from cloudpush.logs import get_logger
from cloudpush.push.states import State
from cloudpush.web.failing import error_response
from cloudpush.web.pages import Visit, visit_of
from cloudpush.web.pushes import snapshot

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

log = get_logger(__name__)

Row = Mapping[str, Any]
Listen = Callable[[float], Row | None]

POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 10.0
#: A browser connects anew after so long.
STREAM_SECONDS = 300.0
#: Each browser tab that shows a push has one; each waits in a thread.
PER_SESSION = 6
AT_ONCE = 200
#: Milliseconds until a browser that lost its stream asks again.
RETRY_MS = 2000


class Streams:
    """How many there are, for each session and in all."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self.stopping = stopping
        self._open: Counter[Hashable] = Counter()
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def limiter(self) -> anyio.CapacityLimiter:
        """Threads of their own: pages must not wait for streams."""
        if self._limiter is None:  # needs the event loop that it is used on
            self._limiter = anyio.CapacityLimiter(AT_ONCE)
        return self._limiter

    def full(self, session: Hashable, most: int = PER_SESSION) -> bool:
        """Whether this session, or principal of the API, may have no further one."""
        return self._open[session] >= most or self._open.total() >= AT_ONCE

    @contextmanager
    def one(self, session: Hashable) -> Iterator[None]:
        """Counted while it is open."""
        self._open[session] += 1
        try:
            yield
        finally:
            self._open[session] -= 1
            if not self._open[session]:
                del self._open[session]


def routes(_services: WebServices) -> list[BaseRoute]:
    """The one route."""
    return [Route("/pushes/{push_id}/events", events, methods=["GET"])]


async def events(request: Request) -> Response:
    """The stream, for the push's owner only."""
    # A page that is left open keeps no session alive.
    visit = await run_in_threadpool(lambda: visit_of(request, touch=False))
    streams: Streams = request.app.state.streams
    if visit.trouble or not visit.owner or visit.session is None:
        return PlainTextResponse("Sign in first.\n", 403)
    try:
        push_id = visit.id("push_id")
        row = await run_in_threadpool(visit.services.history.push, push_id, visit.owner)
    except Exception as e:  # noqa: BLE001 -- told as any page tells it
        return await run_in_threadpool(error_response, visit, e)
    if streams.full(visit.session.id):
        return PlainTextResponse("Too many live pages are open.\n", 503, headers={"retry-after": "10"})
    return StreamingResponse(
        _stream(visit, push_id, row, streams),
        media_type="text/event-stream",
        # A reverse proxy must not collect what is meant to be seen at once.
        headers={"x-accel-buffering": "no"},
    )


async def _stream(visit: Visit, push_id: UUID, row: Row, streams: Streams) -> AsyncIterator[str]:
    assert visit.session is not None  # noqa: S101 -- seen by the caller
    with streams.one(visit.session.id):
        watch = await run_sync(watching, visit.services, push_id)
        listen = await run_sync(watch.__enter__)
        try:
            yield f"retry: {RETRY_MS}\n\n"
            async for text in _moments(visit, push_id, row, listen, streams):
                yield text
        except CloudPushError as e:
            log.warning("stream ended", push=str(push_id), code=e.code)
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(watch.__exit__, None, None, None)


async def _moments(visit: Visit, push_id: UUID, row: Row, listen: Listen, streams: Streams) -> AsyncIterator[str]:
    """Events until the verdict, or until it is time to look whether the browser is still there."""
    began = heard = time.monotonic()
    told: dict[str, Any] = {}
    seen = _worth_a_look(row)
    while not streams.stopping() and time.monotonic() - began < STREAM_SECONDS:
        now = snapshot(row)
        if State(row["state"]).final:
            yield _event("verdict", now)
            return
        if _worth_a_look(row) != seen:
            seen = _worth_a_look(row)
            yield _event("changed", now)
        elif now != told:
            yield _event("progress", now)
        if time.monotonic() - heard > HEARTBEAT_SECONDS:
            heard = time.monotonic()
            if not await run_sync(_still_there, visit):
                return
            yield ": still here\n\n"
        told = now
        message = await run_sync(listen, POLL_SECONDS, limiter=streams.limiter)
        if message is not None and "bytes" in message:
            told = snapshot(row, sent=int(message["bytes"]), speed=message["speed"])
            yield _event("progress", told)
            await anyio.sleep(PACE_SECONDS)
        row = await run_in_threadpool(visit.services.history.push, push_id, visit.owner)


#: Seconds between two moments at the least, however often workers tell theirs.
PACE_SECONDS = 0.25


def _worth_a_look(row: Row) -> tuple[Any, ...]:
    """What a page shows beside the bar; when it changes, the page is asked for again."""
    return (
        row["state"],
        row["error_code"],
        row["planned_at"],
        row["parts_done"],
        row["parts_paused"],
        row["cancel_requested_at"],
    )


def _still_there(visit: Visit) -> bool:
    """Whether the session is as good as when it began. Looking at a push keeps no session alive."""
    again = visit_of(visit.request, touch=False)
    return again.trouble is not None or again.owner == visit.owner


def watching(services: WebServices, push_id: UUID) -> AbstractContextManager[Listen]:
    """The broker's messages, or silence while it is away."""
    return _Watching(services, push_id)


class _Watching(AbstractContextManager[Listen]):
    """Listens where there is a broker; else only lets time pass."""

    def __init__(self, services: WebServices, push_id: UUID) -> None:
        self._inner: AbstractContextManager[Listen] = services.announcer.watch(push_id)

    def __enter__(self) -> Listen:
        try:
            return self._inner.__enter__()
        except BrokerError:
            self._inner = nullcontext(_silence)
            return _silence

    def __exit__(self, *_: object) -> None:
        self._inner.__exit__(None, None, None)


def _silence(seconds: float) -> None:
    time.sleep(seconds)


def _event(name: str, value: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n"
