"""How much at once: requests in flight to one server, and memory for what is in flight.

Requests are paced per server for the whole process: additive increase while all is well, multiplicative decrease when
the server asks to be asked less often, and a pause for as long as it says. The clock of the server is kept here, too.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar

T = TypeVar("T")

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
#: Seconds beyond which a Date says nothing of a clock: a page from a cache, or somebody who wants to mislead us.
_MOST_SKEW = 24 * 3600.0
#: Seconds for which a measurement counts: clocks are set, ours as well.
_SKEW_LIFE = 900.0


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
    async def hold(self, count: int) -> AsyncIterator[Hold]:
        """So many bytes, as soon as they are free; more than there are at all count as all. Do not nest."""
        held = Hold(self, min(count, self.size))
        await held.take()
        try:
            yield held
        finally:
            held.give_back()

    async def take(self, count: int) -> None:
        """Of ``Hold``."""
        if self._waiting or count > self._left:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.give_back(count)
                else:
                    self._wake()
                raise
        else:
            self._left -= count

    def give_back(self, count: int) -> None:
        """Of ``Hold``."""
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


class Hold:
    """Bytes of a budget that somebody holds."""

    def __init__(self, budget: Budget, count: int) -> None:
        self._budget = budget
        self._count = count
        self._held = False

    async def take(self) -> None:
        """As soon as they are free."""
        await self._budget.take(self._count)
        self._held = True

    def give_back(self) -> None:
        """If they are held."""
        if self._held:
            self._held = False
            self._budget.give_back(self._count)

    async def without(self, waiting: Awaitable[T]) -> T:
        """What ``waiting`` brings; until then the bytes, if they are held, are others'.

        Whoever is stopped does not get them back.
        """
        if not self._held:
            return await waiting
        self.give_back()
        try:
            brought = await waiting
        except Exception:
            await self.take()
            raise
        await self.take()
        return brought


class ServerClock:
    """What time it is at the server, as its Date headers tell. ``skew``: seconds that it is ahead of us.

    All pushes to a server share it, and any answer can claim any time. So what it says must keep nobody from sending:
    ``earliest`` and ``latest`` let whichever clock is in favour of sending decide, and the server itself in the end.
    """

    def __init__(
        self, now: Callable[[], datetime] = lambda: datetime.now(UTC), ticks: Callable[[], float] = time.monotonic
    ) -> None:
        """``ticks``: seconds that nobody sets."""
        self._now = now
        self._ticks = ticks
        self._skew: float | None = None
        self._learned_at = 0.0

    @property
    def skew(self) -> float:
        """Seconds; 0 where nothing is known, not any more, and within the precision of a Date header."""
        skew = self._known()
        return skew if skew is not None and abs(skew) > _PRECISION else 0.0

    def now(self) -> datetime:
        """The server's time."""
        return self._now() + timedelta(seconds=self.skew)

    def earliest(self, trust: float = 0.0) -> datetime:
        """What has expired by it has expired by both clocks. ``trust``: seconds that the server's may be ahead and count."""
        return self._now() + timedelta(seconds=min(self.skew, trust))

    def latest(self) -> datetime:
        """What has not begun by it has begun by neither clock."""
        return self._now() + timedelta(seconds=max(self.skew, 0.0))

    def learn(self, date: str) -> None:
        """A Date header that has just come; what is none, or cannot be meant, is ignored."""
        try:
            told = parsedate_to_datetime(date)
            if told.tzinfo is None:
                return
            # Half a second: the header names the second that has begun.
            seen = (told - self._now()).total_seconds() + _PRECISION / 2
        except (ValueError, TypeError, OverflowError):
            return
        if abs(seen) > _MOST_SKEW:
            return
        before = self._known()
        self._skew = seen if before is None else before + _WEIGHT * (seen - before)
        self._learned_at = self._ticks()

    def _known(self) -> float | None:
        return self._skew if self._ticks() - self._learned_at < _SKEW_LIFE else None
