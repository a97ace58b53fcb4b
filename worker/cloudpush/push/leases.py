"""Keeping leases alive while their parts execute, and telling the parts when to stop.

One thread a worker extends every lease it holds in one transaction. The same beat brings back who is
cancelled, whose consent was revoked and who lost its lease, and carries progress the other way. A second thread asks
the engine how far it is and tells those who watch: an engine or a broker that hangs costs nobody a lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

from cloudpush.errors import Cancelled, CloudPushError, ConsentRevoked, LeaseLost
from cloudpush.logs import get_logger, traceback_of
from cloudpush.push.job import Lease, Progress
from cloudpush.push.ports import Announcer, Store
from cloudpush.push.states import Wish

log = get_logger(__name__)

#: How often watchers hear of progress, in seconds; the row is written at the heartbeat's own pace.
PROGRESS_SECONDS = 0.5


class Hold:
    """One lease that this process holds: a Control, and where its progress is read."""

    def __init__(self, lease: Lease, push_id: UUID) -> None:
        self.lease = lease
        self.push_id = push_id
        self.wish = Wish.GO_ON
        self.lost = False
        self.progress: Callable[[], Progress] | None = None
        self.good_until = time.monotonic() + lease.seconds

    def check(self) -> None:
        """Raise LeaseLost, Cancelled or ConsentRevoked as soon as it is known.

        A lease that could not be extended in time is lost although nobody told us: another worker may
        hold it by now.
        """
        if self.lost or time.monotonic() > self.good_until:
            raise LeaseLost(f"push {self.push_id}")
        if self.wish is Wish.CANCEL:
            raise Cancelled
        if self.wish is Wish.REVOKED:
            raise ConsentRevoked

    @contextmanager
    def reporting(self, progress: Callable[[], Progress]) -> Iterator[None]:
        """Ask ``progress`` how far the transfer is, as long as the context lasts."""
        self.progress = progress
        try:
            yield
        finally:
            self.progress = None


class LeaseKeeper:
    """Extends leases in the background. ``start`` before the first hold, ``stop`` at the end."""

    def __init__(self, store: Store, announcer: Announcer, *, worker: str, seconds: float, heartbeat: float) -> None:
        self._store = store
        self._announcer = announcer
        self._worker = worker
        self._seconds = seconds
        self._heartbeat = heartbeat
        self._holds: dict[UUID, Hold] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._moments: dict[UUID, Progress] = {}

    def start(self) -> None:
        """Begin to beat."""
        for name, act, seconds in (
            ("leases", self.beat, self._heartbeat),
            ("progress", self.publish, min(self._heartbeat, PROGRESS_SECONDS)),
        ):
            thread = threading.Thread(target=self._repeat, args=(act, seconds), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop to beat; leases still held run out by themselves."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def new(self) -> Lease:
        """A lease of this worker, not yet held by anybody."""
        return Lease(token=uuid4(), worker=self._worker, seconds=self._seconds)

    @contextmanager
    def hold(self, lease: Lease, push_id: UUID) -> Iterator[Hold]:
        """Keep ``lease`` alive inside the context. It must have been written less than a beat ago."""
        hold = Hold(lease, push_id)
        with self._lock:
            self._holds[lease.token] = hold
        try:
            yield hold
        finally:
            with self._lock:
                self._holds.pop(lease.token, None)

    def _all(self) -> list[Hold]:
        with self._lock:
            return list(self._holds.values())

    def _repeat(self, act: Callable[[], None], seconds: float) -> None:
        while not self._stop.wait(seconds):
            try:
                act()
            except Exception as e:  # noqa: BLE001 -- without this thread all leases of the worker run out
                log.error("heartbeat failed", traceback=traceback_of(e))  # noqa: TRY400 -- it would show local variables

    def publish(self) -> None:
        """Tell watchers how far each transfer is, and keep it for the next beat."""
        moments: dict[UUID, Progress] = {}
        for hold in self._all():
            progress = hold.progress
            if progress is None:
                continue
            try:
                moment = progress()
            except CloudPushError as e:
                log.debug("no progress to report", push=str(hold.push_id), error=str(e))
                continue
            moments[hold.lease.token] = moment
            self._announcer.progress(hold.push_id, moment)
        self._moments = moments

    def beat(self) -> None:
        """Extend every lease held, and learn who is cancelled, whose consent is revoked and who lost its lease."""
        holds = self._all()
        if not holds:
            return
        asked_at = time.monotonic()
        try:
            answer = self._store.extend([h.lease.token for h in holds], self._seconds)
        except CloudPushError as e:
            log.warning("leases not extended", held=len(holds), error=str(e))
            return
        for hold in holds:
            if hold.lease.token not in answer:
                hold.lost = True
                continue
            hold.good_until = asked_at + self._seconds
            # What stops a push is never taken back: a consent that comes anew is for the pushes after it.
            hold.wish = max(hold.wish, answer[hold.lease.token])
        try:
            self._store.note_progress(self._moments)
        except CloudPushError as e:
            log.debug("progress not noted", error=str(e))
