"""The sweep: whatever the broker or a dead worker lost is found in Postgres and set going again.

One sweeper works at a time, guarded by a lock in Postgres; more may stand by. A pass is a few indexed
queries; nothing in it is needed for a push that goes well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from cloudpush.errors import BrokerError, CloudPushError
from cloudpush.logs import get_logger
from cloudpush.push.ports import Announcer
from cloudpush.push.states import State

log = get_logger(__name__)

#: Announced, still queued after this long, and the broker's queue is empty: the message was lost.
LOST_SECONDS = 2.0
#: Announced and queued this long behind a queue that is not empty: announce again all the same.
STALE_SECONDS = 600.0
#: Credentials are looked through this often: URLs of a push that is over live no longer than that.
HOUSE_SECONDS = 1.0
#: A worker whose clock is behind by less ends what waited too long; by more, it would go on waiting and be woken again.
MARGIN = timedelta(minutes=10)
#: Announcements in one pass; the rest is next second's.
AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Due:
    """Work that nobody knows of: pushes, and parts by push."""

    pushes: Sequence[UUID]
    parts: Sequence[tuple[UUID, int]]


class Broom(Protocol):
    """The sweep's side of the store."""

    def lead(self) -> bool:
        """Whether this sweeper is the one that works. Ask before each pass."""

    def release_expired(self, max_strikes: int) -> Sequence[tuple[UUID, State]]:
        """Queue again what a vanished worker held, as a strike; (push, state) of those that this ended."""

    def release_impatient(self, patience_seconds: float) -> int:
        """Queue again what waits for a user longer than that after submission, so that it ends; how many pushes."""

    def due(self, *, unannounced_for: float, limit: int) -> Due:
        """Queued work that is due and was not announced within so many seconds; marks it announced now."""


class Queue(Protocol):
    """How much the broker holds."""

    def length(self) -> int:
        """Messages that wait. Raises BrokerError."""


class Sweep:
    """Passes of the broom until told to stop.

    ``patience``: how long a push may wait for a user, from its submission; the policy of the workers has the same.
    ``keep_house`` destroys the credentials whose time has come and returns how many; it may raise VaultError or
    StoreError and is called again.
    """

    def __init__(
        self,
        *,
        broom: Broom,
        announcer: Announcer,
        queue: Queue,
        keep_house: Callable[[], int],
        max_strikes: int,
        patience: timedelta,
    ) -> None:
        self._broom = broom
        self._announcer = announcer
        self._queue = queue
        self._keep_house = keep_house
        self._kept_house_at = -HOUSE_SECONDS
        self._max_strikes = max_strikes
        self._patience = patience

    def run(self, stop: threading.Event, every: float) -> None:
        """Sweep every ``every`` seconds; an outage is logged and waited out."""
        troubled = False
        while not stop.wait(every):
            try:
                self.once()
                if troubled:
                    log.info("sweeping again")
                troubled = False
            except CloudPushError as e:
                (log.debug if troubled else log.warning)("sweep interrupted", error=str(e))
                troubled = True

    def once(self) -> int:
        """One pass; returns how many announcements it made. Raises CloudPushError."""
        if not self._broom.lead():
            return 0
        for push_id, state in self._broom.release_expired(self._max_strikes):
            self._announcer.ended(push_id, state)
        self._broom.release_impatient((self._patience + MARGIN).total_seconds())
        try:
            announced = self._announce()
        finally:
            # Not the broker's business: credentials are destroyed in time while it is away.
            self._keep_house_now_and_then()
        if announced:
            log.info("swept", announced=announced)
        return announced

    def _keep_house_now_and_then(self) -> None:
        if time.monotonic() - self._kept_house_at >= HOUSE_SECONDS:
            self._kept_house_at = time.monotonic()
            self._keep_house()

    def _announce(self) -> int:
        """A queue that holds nothing has lost what was announced a moment ago; a long one is only slow."""
        lost = self._queue.length() == 0
        due = self._broom.due(unannounced_for=LOST_SECONDS if lost else STALE_SECONDS, limit=AT_ONCE)
        by_push: dict[UUID, list[int]] = {}
        for push_id, number in due.parts:
            by_push.setdefault(push_id, []).append(number)
        try:
            for push_id in due.pushes:
                self._announcer.push(push_id)
            for push_id, numbers in by_push.items():
                self._announcer.parts(push_id, numbers)
        except BrokerError as e:
            log.warning("broker is away, announcing later", error=str(e))
        return len(due.pushes) + len(due.parts)
