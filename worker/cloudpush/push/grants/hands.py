"""Chores are done beside the parts, not between them: about grants, preflights, and webhooks that are owed a verdict.

Parts may keep every slot of every worker busy for hours; a revocation must not wait for that. So each worker looks for
chores by itself, once a beat, and has a few hands for them. No message is needed, and none can be lost.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from cloudpush.errors import CloudPushError
from cloudpush.logs import get_logger, traceback_of

log = get_logger(__name__)

#: Of one sort, that one worker attends to at once: a provider that does not answer keeps one hand busy, not all.
HANDS = 4
#: A chore that somebody took up so many seconds ago and that is still due: its worker was killed.
TAKEN_SECONDS = 120.0

T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")


class ChoreStore(Protocol[T_co]):
    """The hands' side of the store."""

    def chores(self, limit: int, taken_before: float) -> Sequence[T_co]:
        """What has chores, a grant for one, that are due and that nobody took up in so many seconds; they are taken up now."""


class Attending(Protocol[T_contra]):
    """Does chores."""

    def attend(self, what: T_contra, /) -> int:
        """Do what is due for it; how many chores. Raises StoreError."""


class Hands:
    """Looks for chores every ``every`` seconds and does them. ``start`` once, ``stop`` at the end."""

    def __init__(self, *, store: ChoreStore[T], keeping: Attending[T], every: float) -> None:
        self._store: ChoreStore[Any] = store
        self._keeping: Attending[Any] = keeping
        self._every = every
        self._stop = threading.Event()
        self._busy: set[Future[None]] = set()
        self._pool = ThreadPoolExecutor(HANDS, "chore")
        self._thread = threading.Thread(target=self._run, name="chores", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what is under way goes on as long as the process does. Repeatable."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> int:
        """Take up what free hands can do; how many things. Raises StoreError."""
        self._busy = {f for f in self._busy if not f.done()}
        free = HANDS - len(self._busy)
        found = self._store.chores(free, TAKEN_SECONDS) if free else ()
        self._busy |= {self._pool.submit(self._attend, what) for what in found}
        return len(found)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.look()
            except CloudPushError as e:
                log.debug("no look at chores", error=str(e))
            except Exception as e:  # noqa: BLE001 -- without this thread nothing is ever revoked
                log.error("looking for chores failed", traceback=traceback_of(e))  # noqa: TRY400 -- it would show local variables

    def _attend(self, what: object) -> None:
        try:
            log.info("chores attended to", of=str(what), chores=self._keeping.attend(what))
        except CloudPushError as e:
            log.warning("chores not attended to", of=str(what), code=e.code, error=e.message)
        except Exception as e:  # noqa: BLE001 -- nobody asks this hand what it met
            log.error("defect", of=str(what), traceback=traceback_of(e))  # noqa: TRY400 -- it would show local variables
