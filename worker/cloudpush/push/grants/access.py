"""Access: the tokens of a grant, for as long as they are good, renewed ahead of their end.

One refresh a lifetime, however many parts ask: what is not due stays in memory, threads of this process take turns, and
among processes the refresh itself sees that somebody was quicker. Each call looks at the grant's row, so that what was
revoked is not used out of memory and what was reconnected is used at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from cloudpush.errors import CloudPushError, Code, CredentialError
from cloudpush.logs import get_logger
from cloudpush.push.grants.model import Grant, Tokens, renew_at
from cloudpush.push.grants.ports import GrantStore, Renewing, TokenSafe
from cloudpush.push.grants.refresh import usable
from cloudpush.push.ports import Clock

log = get_logger(__name__)

#: Grants whose tokens are kept at most; the longest unused goes first.
KNOWN = 1024
#: After a refresh that failed for a passing reason: who asks sooner is told the same, or uses tokens that are good still.
AGAIN_SECONDS = 5.0
#: How often the generation may change between a look at the row and one into Vault.
TRIES = 4
#: An access token that ends so soon is not handed out: a request would arrive too late.
LEAST = timedelta(seconds=1)
_OVER = (Code.CONSENT_NEEDED, Code.CONSENT_REVOKED)
#: What is said when a provider's endpoints, or the way there, or the scribe, are out of order. They are the operator's, so
#: that nothing of a push is wrong; said as it is, each would count against it, and a provider's bad hour would end it.
_AWAY = frozenset(
    {
        Code.PROVIDER_UNAVAILABLE,
        Code.THROTTLED,
        Code.NETWORK,
        Code.TLS_FAILED,
        Code.ENDPOINT_UNRESOLVABLE,
        Code.ENDPOINT_REFUSED,
        Code.WORKER_LOST,
    }
)


@dataclass(frozen=True, slots=True)
class _Held:
    """Tokens in memory, and the generation that they are."""

    generation: int
    tokens: Tokens
    due_at: datetime | None

    def is_good(self, now: datetime) -> bool:
        """Whether a request with it will still be served."""
        ends = self.tokens.expires_at
        return ends is None or now < ends - LEAST


@dataclass(slots=True)
class _Seat:
    """One grant's turn. ``users``: threads that hold it or wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    held: _Held | None = None
    trouble: CloudPushError | None = None  # why the last refresh brought nothing
    again_at: float = 0.0
    users: int = 0


class Access:
    """The tokens of grants. One instance a worker process. Thread-safe."""

    def __init__(
        self,
        *,
        store: GrantStore,
        safe: TokenSafe,
        renewing: Renewing,
        clock: Clock,
        worker: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._safe = safe
        self._renewing = renewing
        self._clock = clock
        self._worker = worker
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._seats: dict[UUID, _Seat] = {}

    def tokens(self, grant_id: UUID, *, beyond: int = 0) -> tuple[Grant, Tokens]:
        """The grant and its tokens, which are good now; ``Grant.generation`` says which. May block for a refresh.

        ``beyond``: a generation that a destination refused before its time; what is handed out is a later one.

        Raises CredentialError CONSENT_NEEDED, ConsentRevoked, CredentialError (corrupt), VaultError, StoreError, and
        GRANT_UNAVAILABLE where the provider cannot be asked. A refresh that fails and may yet succeed is no error while the
        tokens are good.
        """
        with self._seat(grant_id) as seat:
            if not seat.lock.acquire(blocking=False):
                # Somebody refreshes ahead of the end: no reason to wait for him.
                held = self._good_meanwhile(seat, grant_id, beyond)
                if held is not None:
                    return held
                seat.lock.acquire()
            try:
                return self._tokens(seat, grant_id, beyond)
            except CloudPushError as e:
                if e.code in _OVER:
                    seat.held = None  # what nobody may use need not stay in memory
                raise
            finally:
                seat.lock.release()

    def _good_meanwhile(self, seat: _Seat, grant_id: UUID, beyond: int) -> tuple[Grant, Tokens] | None:
        held = seat.held
        if held is None or held.generation <= beyond or not held.is_good(self._clock.now()):
            return None
        grant = usable(self._store, grant_id)
        return (grant, held.tokens) if grant.generation == held.generation else None

    def _tokens(self, seat: _Seat, grant_id: UUID, beyond: int) -> tuple[Grant, Tokens]:
        grant, held = self._current(seat, grant_id)
        refused = held.generation <= beyond
        if not refused and not self._is_due(seat, held):
            return grant, held.tokens
        try:
            self._refresh(seat, grant_id, held.generation)
        except CloudPushError as e:
            if refused or e.code in _OVER or not held.is_good(self._clock.now()):
                raise
            log.warning("grant.not_refreshed_yet", grant=str(grant_id), code=str(e.code))
            return grant, held.tokens
        grant, held = self._current(seat, grant_id)
        return grant, held.tokens

    def _refresh(self, seat: _Seat, grant_id: UUID, generation: int) -> None:
        """Have a further generation made. All who ask while the provider is out of order are told of one try."""
        if seat.trouble is not None and self._monotonic() < seat.again_at:
            raise seat.trouble.with_traceback(None)
        try:
            self._renewing.refresh(grant_id, generation)
        except CloudPushError as e:
            if e.code in _OVER:
                raise
            away = CloudPushError(Code.GRANT_UNAVAILABLE, f"No access just now: {e.message}", detail=e.detail)
            seat.trouble = away if e.code in _AWAY else e
            seat.again_at = self._monotonic() + AGAIN_SECONDS
            raise seat.trouble from e
        seat.trouble = None

    def _is_due(self, seat: _Seat, held: _Held) -> bool:
        now = self._clock.now()
        if held.due_at is None or now < held.due_at:
            return False
        if not held.is_good(now):
            return True
        # Good and due: ahead of its end, unless that cannot be or has just failed.
        return bool(held.tokens.refresh_token) and self._monotonic() >= seat.again_at

    def _current(self, seat: _Seat, grant_id: UUID) -> tuple[Grant, _Held]:
        """The grant as it stands and its current generation: from memory where that is the one, else from Vault."""
        for _ in range(TRIES):
            grant = usable(self._store, grant_id)
            if seat.held is not None and seat.held.generation == grant.generation:
                return grant, seat.held
            seat.held = None
            self._store.note_opened(grant, self._worker)
            try:
                tokens = Tokens.load(self._safe.open_tokens(grant.id, grant.owner, grant.generation))
            except CredentialError as e:
                if e.code is not Code.CREDENTIAL_PURGED:
                    raise
                gone = e  # a later generation, or the end of the grant: look again
            else:
                seat.held, seat.trouble, seat.again_at = _Held(grant.generation, tokens, _due_at(tokens)), None, 0.0
                return grant, seat.held
        raise gone

    @contextmanager
    def _seat(self, grant_id: UUID) -> Iterator[_Seat]:
        """The grant's seat, which stays while somebody uses it."""
        with self._guard:
            # Taken out and put back: the order is that of last use.
            found = self._seats.pop(grant_id, None)
            seat = self._seats[grant_id] = _Seat() if found is None else found
            seat.users += 1
            idle = [one for one, other in self._seats.items() if not other.users] if len(self._seats) > KNOWN else []
            for one in idle[: len(self._seats) - KNOWN]:
                del self._seats[one]
        try:
            yield seat
        finally:
            with self._guard:
                seat.users -= 1


def _due_at(tokens: Tokens) -> datetime | None:
    if tokens.expires_at is None:
        return None
    if tokens.issued_at is None:
        return tokens.expires_at - LEAST
    return renew_at(tokens.issued_at, tokens.expires_at)
