"""How much at once: requests in flight to one server, and memory for what is in flight.

Requests are paced per server for the whole process: additive increase while all is well, multiplicative decrease when
the server asks to be asked less often, and a pause for as long as it says. The clock of the server is kept here, too.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

#: Requests in flight at first, where nothing is known of the server.
START = 16
#: Seconds that a Retry-After may keep everybody; a longer one is left to the part's own back-off.
LONGEST_PAUSE = 60.0
#: What remains of the limit when the server complains.
CUT = 0.5
#: Seconds that a clock may be off before it is worth a warning.
SKEW_WARNING = 300.0
#: How much a new measurement of the skew counts.
_WEIGHT = 0.2
#: Seconds: a Date header has no more precision than this.
_PRECISION = 1.0


class Pace:
    """Turns for requests to one server. To be used on one event loop."""

    def __init__(self, most: int, start: int = START, now: Callable[[], float] = time.monotonic) -> None:
        """``most``: requests in flight at most; ``now``: seconds."""
        self.most = most
        self.limit = float(min(start, most))
        self._flying = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._now = now
        self._cut_at = 0.0
        self._pause_until = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def flying(self) -> int:
        """Requests in flight."""
        return self._flying

    async def enter(self) -> float:
        """Wait for a turn; when it began. To be followed by ``leave``."""
        if self._waiting or not self._free():
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self._arm()
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._flying -= 1
                    self._wake()
                raise
        else:
            self._flying += 1
        return self._now()

    def leave(self, *, well: bool) -> None:
        """The request is over; ``well``: the server had no complaint about the pace, so there may be a little more."""
        self._flying -= 1
        # Only who uses the limit learns that it could be higher.
        if well and self._flying + 1 >= int(self.limit):
            self.limit = min(float(self.most), self.limit + 1 / int(self.limit))
        self._wake()

    def slower(self, began: float, pause: float = 0.0) -> None:
        """The server asks to be asked less often; ``pause``: seconds that it names, ``began``: of that request.

        Complaints about requests that began before the last cut are about the old pace: they count only once.
        """
        now = self._now()
        if began >= self._cut_at:
            self.limit = max(1.0, self.limit * CUT)
            self._cut_at = now
        self._pause_until = max(self._pause_until, now + min(pause, LONGEST_PAUSE))

    def _free(self) -> bool:
        return self._flying < int(self.limit) and self._now() >= self._pause_until

    def _wake(self) -> None:
        while self._waiting and self._free():
            turn = self._waiting.popleft()
            if not turn.done():
                self._flying += 1
                turn.set_result(None)
        self._arm()

    def _arm(self) -> None:
        """After a pause nobody may be left who would wake the others."""
        if not self._waiting or self._alarm is not None or (left := self._pause_until - self._now()) <= 0:
            return

        def ring() -> None:
            self._alarm = None
            self._wake()

        self._alarm = asyncio.get_running_loop().call_later(left, ring)


class Budget:
    """Bytes of memory that all files together may hold. To be used on one event loop; first come, first served."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        """So many bytes, as soon as they are free; more than there are at all count as all. Do not nest."""
        count = min(count, self.size)
        if self._waiting or count > self._left:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(count)
                else:
                    self._wake()
                raise
        else:
            self._left -= count
        try:
            yield
        finally:
            self._give_back(count)

    def _give_back(self, count: int) -> None:
        self._left += count
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            count, turn = self._waiting[0]
            if not turn.done():
                if count > self._left:
                    return
                self._left -= count
                turn.set_result(None)
            self._waiting.popleft()


class ServerClock:
    """What time it is at the server, as its Date headers tell. ``skew``: seconds that it is ahead of us."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._skew: float | None = None

    @property
    def skew(self) -> float:
        """Seconds; 0 where nothing is known, and within the precision of a Date header."""
        return self._skew if self._skew is not None and abs(self._skew) > _PRECISION else 0.0

    def now(self) -> datetime:
        """The server's time."""
        return self._now() + timedelta(seconds=self.skew)

    def learn(self, date: str) -> None:
        """A Date header that has just come; what is none is ignored."""
        try:
            told = parsedate_to_datetime(date)
        except (ValueError, TypeError):
            return
        if told.tzinfo is None:
            return
        # Half a second: the header names the second that has begun.
        seen = (told - self._now()).total_seconds() + _PRECISION / 2
        self._skew = seen if self._skew is None else self._skew + _WEIGHT * (seen - self._skew)
