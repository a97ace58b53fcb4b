"""What arrived so far, kept so that a worker that is killed loses less than a second of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cloudpush.errors import CloudPushError, LeaseLost
from cloudpush.logs import get_logger
from cloudpush.push.job import Lease, Part, Push
from cloudpush.push.signed.model import Piece
from cloudpush.push.signed.ports import Safe, SheetStore
from cloudpush.push.signed.sheets import encode_session

log = get_logger(__name__)

#: Pieces wait at most this long for others, to be stored in one transaction.
GATHER_SECONDS = 0.5
#: How long a provider keeps the session of a resumable upload (Google: a week).
SESSION_SECONDS = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """Whose journal it is."""

    push: Push
    part: Part
    lease: Lease


class PartJournal:
    """``push.signed.ports.Journal`` of one attempt of a part.

    ``gather``: seconds that pieces wait. Pieces are stored by a thread of its own, which is there only where there are
    pieces; ``flush`` stores them now. Leaving the context stops it: what was not flushed by then is not stored.
    """

    def __init__(self, entry: Entry, store: SheetStore, safe: Safe, gather: float = GATHER_SECONDS) -> None:
        self._entry = entry
        self._store = store
        self._safe = safe
        self._gather = gather
        self._waiting: dict[tuple[int, int], Piece] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._some = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._refused: LeaseLost | None = None
        #: URIs of the uploads that are under way, by file.
        self.sessions: dict[int, str] = {}
        self._gone: set[int] = set()
        #: Files of which something arrived in this attempt.
        self.touched: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join()

    def arrived(self, piece: Piece) -> None:
        """Keep ``piece``. Raises LeaseLost where an earlier one could not be stored for that."""
        if self._refused is not None:
            raise LeaseLost(f"push {self._entry.push.id}") from self._refused
        with self._lock:
            self.touched.add(piece.seq)
            self._waiting[piece.seq, piece.number] = piece
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_storing, name="journal", daemon=True)
                self._thread.start()
        self._some.set()

    def began(self, seq: int, session: str) -> None:
        """Keep the URI of a resumable upload, sealed. Raises VaultError, StoreError, LeaseLost."""
        push, part, lease = self._entry.push, self._entry.part, self._entry.lease
        set_id, number = self._store.add_session(push, part, lease, seq, SESSION_SECONDS)
        self._safe.seal_sheet(set_id, push.owner, number, encode_session(session))
        with self._lock:
            self.sessions[seq] = session

    def lost(self, seq: int) -> None:
        """The upload is gone: its pieces and session are not to be used again. Raises StoreError, LeaseLost."""
        with self._writing:  # a piece that is being stored now would come back to life
            with self._lock:
                self._waiting = {key: piece for key, piece in self._waiting.items() if key[0] != seq}
                self.touched.discard(seq)
                self.sessions.pop(seq, None)
                self._gone.add(seq)
            self._store.forget_pieces(self._entry.part, self._entry.lease, seq)

    def resume(self, sessions: dict[int, str]) -> None:
        """Sessions that an earlier attempt left."""
        with self._lock:
            self.sessions.update({seq: uri for seq, uri in sessions.items() if seq not in self._gone})

    def flush(self) -> None:
        """Store what waits. Raises LeaseLost, StoreError; then it waits on."""
        with self._writing:
            with self._lock:
                batch, self._waiting = self._waiting, {}
            if not batch:
                return
            try:
                self._store.record_pieces(self._entry.part, self._entry.lease, list(batch.values()))
            except CloudPushError:
                with self._lock:
                    self._waiting = batch | self._waiting
                raise

    def _keep_storing(self) -> None:
        while self._some.wait() and not self._stop.wait(self._gather):
            self._some.clear()
            try:
                self.flush()
            except LeaseLost as e:
                self._refused = e
                return
            except CloudPushError as e:
                # Nothing is lost but the chance to send less again.
                log.warning("pieces not stored, trying again", push=str(self._entry.push.id), error=str(e))
                self._some.set()
