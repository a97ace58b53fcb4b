"""Keeping leases alive while their parts execute, and telling the parts when to stop.

One thread a worker extends every lease it holds in one statement. The same beat brings back who is
cancelled and who lost its lease, and carries progress the other way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

from cloudpush.errors import Cancelled, CloudPushError, LeaseLost
from cloudpush.logs import get_logger
from cloudpush.push.job import Lease, Progress
from cloudpush.push.ports import Announcer, Store

log = get_logger(__name__)

#: How often watchers hear of progress, in seconds; the row is written at the heartbeat's own pace.
PROGRESS_SECONDS = 0.5


class Hold:
    """One lease that this process holds: a Control, and where its progress is read."""

    def __init__(self, lease: Lease, push_id: UUID) -> None:
        self.lease = lease
        self.push_id = push_id
        self.cancelled = False
        self.lost = False
        self.progress: Callable[[], Progress] | None = None
        self.good_until = time.monotonic() + lease.seconds

    def check(self) -> None:
        """Raise LeaseLost or Cancelled as soon as either is known.

        A lease that could not be extended in time is lost although nobody told us: another worker may
        hold it by now.
        """
        if self.lost or time.monotonic() > self.good_until:
            raise LeaseLost(f"push {self.push_id}")
        if self.cancelled:
            raise Cancelled


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
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop to beat; leases still held run out by themselves."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

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

    def _run(self) -> None:
        step = min(self._heartbeat, PROGRESS_SECONDS)
        next_beat = time.monotonic() + self._heartbeat
        while not self._stop.wait(step):
            moments = self._publish()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + self._heartbeat
                self._beat(moments)

    def _publish(self) -> dict[UUID, Progress]:
        moments: dict[UUID, Progress] = {}
        for hold in self._all():
            if hold.progress is None:
                continue
            try:
                moment = hold.progress()
            except CloudPushError as e:
                log.debug("no progress to report", push=str(hold.push_id), error=str(e))
                continue
            moments[hold.lease.token] = moment
            self._announcer.progress(hold.push_id, moment)
        return moments

    def _beat(self, moments: dict[UUID, Progress]) -> None:
        holds = self._all()
        if not holds:
            return
        asked_at = time.monotonic()
        try:
            answer = self._store.extend([h.lease.token for h in holds], self._seconds)
            self._store.note_progress(moments)
        except CloudPushError as e:
            log.warning("leases not extended", held=len(holds), error=str(e))
            return
        for hold in holds:
            if hold.lease.token not in answer:
                hold.lost = True
                continue
            hold.good_until = asked_at + self._seconds
            hold.cancelled = hold.cancelled or answer[hold.lease.token]
