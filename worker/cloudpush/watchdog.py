"""A consumer that went deaf hears again.

Celery on Redis counts a message as unfinished until it is acknowledged, and takes no more than it may have unfinished.
When the broker dies between a message and its acknowledgement, the acknowledgement fails for good (Celery logs
"Couldn't ack" and goes on), and with as many of those as there are slots the consumer waits for ever: it listens to nothing, so it
does not even notice that its connection is gone. Seen by killing the broker at random moments.

The remedy is what Celery does for a lost connection that it notices: connect anew. What was unfinished is put back
into the queue, where a second delivery finds nothing to claim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps
from celery.worker import state

from cloudpush.errors import BrokerError
from cloudpush.logs import get_logger

log = get_logger(__name__)

#: Between two looks, and so half the time that a deaf consumer stays deaf.
SECONDS = 2.0


class Watch:
    """Looks from time to time; two looks in a row at a queue that waits for an idle worker are one too many."""

    def __init__(
        self, waiting: Callable[[], int], received: Callable[[], int], busy: Callable[[], int], slots: int
    ) -> None:
        self._waiting = waiting
        self._received = received
        self._busy = busy
        self._slots = slots
        self._suspect: int | None = None

    def look(self) -> None:
        """Raises ConnectionError where messages wait, slots are free and nothing was received since the last look."""
        try:
            idle = self._busy() < self._slots and self._waiting() > 0
        except BrokerError:
            idle = False  # away: that is noticed without us, or at the next look
        received = self._received()
        if idle and self._suspect == received:
            self._suspect = None
            log.warning("messages wait and none is received, connecting anew")
            raise ConnectionError("the consumer went deaf")
        self._suspect = received if idle else None


def watch_over(app: Celery, waiting: Callable[[], int]) -> None:
    """Let ``app``'s worker watch itself. ``waiting``: how many messages the queue holds; raises BrokerError."""

    class Watchdog(bootsteps.StartStopStep):  # type: ignore[misc]
        """Started with each connection, on the consumer's own loop: an error there ends the connection."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            watch = Watch(
                waiting,
                received=lambda: sum(state.total_count.values()),
                busy=lambda: len(state.active_requests),
                slots=parent.pool.limit or 1,
            )
            parent.timer.call_repeatedly(SECONDS, watch.look)

    app.steps["consumer"].add(Watchdog)
