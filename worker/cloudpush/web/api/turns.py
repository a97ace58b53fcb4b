"""What takes long is done for a few at a time: else one principal keeps every thread, or every connection to Postgres, busy.

An export holds a connection for as long as its reader takes, so a reader that does not read is sent away.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from cloudpush.errors import AccessError, Code
from cloudpush.logs import get_logger, redact
from cloudpush.push.access.model import Principal

log = get_logger(__name__)

#: In all, and of one principal, in this process: walks of a source, checks of a push's chain. Of forty threads.
AT_ONCE, EACH = 8, 2
#: Each reads the database for minutes, and writes what it reads as fast as it can. Of sixteen connections.
EXPORTS = 3
#: Seconds after which somebody may ask again.
AGAIN_SECONDS = 10
#: A chunk of a file that nobody took within so many seconds ends it.
READ_SECONDS = 60.0

#: Exports of the API and of the pages together.
exports = threading.BoundedSemaphore(EXPORTS)


class Busy(AccessError):
    """Others are at it. ``seconds``: seconds until it may be asked again."""

    def __init__(self) -> None:
        super().__init__(Code.RATE_LIMITED, f"Only a few of these are done at a time: ask again in {AGAIN_SECONDS} s.")
        self.seconds = AGAIN_SECONDS


class Turns:
    """Who is at it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()

    @contextmanager
    def one(self, principal: Principal) -> Iterator[None]:
        """One of them is this principal's. Raises AccessError RATE_LIMITED: a ``Busy``."""
        with self._lock:
            if self._busy[principal.name] >= EACH or self._busy.total() >= AT_ONCE:
                raise Busy
            self._busy[principal.name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy[principal.name] -= 1
                if not self._busy[principal.name]:
                    del self._busy[principal.name]


def turns_of(request: Request) -> Turns:
    """Those of the application that a request is for."""
    found: Turns = request.app.state.turns
    return found


class Hurried(StreamingResponse):
    """A file that ends where its reader does not read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def in_time(message: Message) -> None:
            with anyio.fail_after(READ_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, in_time)
        except (TimeoutError, ClientDisconnect):
            log.warning("file not read", path=redact(scope["path"], limit=200))
