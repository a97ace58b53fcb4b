"""The store of grants in memory: held to the same contract as the one on Postgres."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from cloudpush.errors import CloudPushError, Code, ConsentRevoked, CredentialError, InputError, StoreError, VaultError
from cloudpush.push.credential import Credential
from cloudpush.push.custody import REFRESH_PATIENCE
from cloudpush.push.grants.model import Attempt, AttemptEnd, Chore, Grant, GrantState, Share, Tokens
from cloudpush.push.grants.ports import GrantStore
from cloudpush.push.job import Push
from cloudpush.push.states import Event
from fakes import FakeClock, FakeStore

_OVER = (GrantState.REVOKING, GrantState.REVOKED)


@dataclass
class FakeBlock:
    """A generation's row: when it was begun, the version of the key that wraps it once it is sealed."""

    begun: datetime
    version: int | None = None
    gone: bool = False


@dataclass
class _Chore:
    due: datetime
    since: datetime
    taken: datetime | None = None


@dataclass
class _Attempt:
    attempt: Attempt
    used_at: datetime | None = None
    outcome: str = ""
    message: str = ""


@dataclass
class _Row:
    grant: Grant
    blocks: dict[int, FakeBlock] = field(default_factory=dict)
    chores: dict[Chore, _Chore] = field(default_factory=dict)
    purge_after: datetime | None = None


class FakeGrantStore(GrantStore):
    """``push.grants.ports.GrantStore`` in memory, and what the database does with it. Thread-safe.

    ``pushes``: the store whose pushes use these grants; it asks this one. ``failing`` is raised by every call while it is
    set. ``during`` runs once, at the start of the call it names, for what happens in between.
    """

    def __init__(self, clock: FakeClock | None = None, pushes: FakeStore | None = None) -> None:
        self.clock = clock or (pushes.clock if pushes else FakeClock())
        self.pushes = pushes or FakeStore(self.clock)
        self.pushes.consent = self.check
        self.failing: StoreError | None = None
        self.during: dict[str, Callable[[], None]] = {}
        self.calls: Counter[str] = Counter()
        self._rows: dict[UUID, _Row] = {}
        self._shares: dict[UUID, Share] = {}
        self._attempts: dict[UUID, _Attempt] = {}
        self._events: list[tuple[UUID, Event]] = []
        self._locks: dict[UUID, threading.Lock] = {}
        self._lock = threading.RLock()

    # -- what a test gives and looks at -------------------------------------------------------

    def give(self, grant: Grant) -> Grant:
        """A grant that is there already, its current generation sealed; no events."""
        row = _Row(grant)
        for number in range(1, grant.generation + 1):
            row.blocks[number] = FakeBlock(self.clock.now(), version=1, gone=number < grant.generation)
        self._rows[grant.id] = row
        return grant

    def credential_state(self, grant_id: UUID, state: str) -> None:
        """What custody makes of its credential."""
        row = self._rows[grant_id]
        row.grant = replace(row.grant, credential_state=state)

    def blocks(self, grant_id: UUID) -> dict[int, FakeBlock]:
        """Its generations by number."""
        return self._rows[grant_id].blocks

    def due_for_purge(self, grant_id: UUID) -> bool:
        """Whether custody is to destroy it."""
        after = self._rows[grant_id].purge_after
        return after is not None and after <= self.clock.now()

    def events(self, stream: UUID) -> list[str]:
        """What the record says of a grant, or of an attempt, in order."""
        return [kind.value for of, kind in self._events if of == stream]

    def check(self, push: Push) -> None:
        """Raise unless ``push`` may use its grant now."""
        with self._lock:
            row = self._rows.get(push.credential_id)
            if row is None or row.grant.credential_state != "active" or row.grant.state in _OVER:
                raise ConsentRevoked
            if row.grant.owner != push.owner and not self._covered(row.grant.id, push.owner, push.destination.uri):
                raise ConsentRevoked("It is not shared with the push's owner any more.")
            if row.grant.state is GrantState.RECONNECT:
                raise CredentialError(Code.CONSENT_NEEDED, "The connection needs its user's consent anew.")

    # -- reading ------------------------------------------------------------------------------

    def get(self, grant_id: UUID) -> Grant | None:
        with self._call("get"):
            row = self._rows.get(grant_id)
            return row.grant if row else None

    def find(self, owner: str | None, *, ended: bool = False) -> Sequence[Grant]:
        with self._call("find"):
            found = [row.grant for row in self._rows.values() if owner in (None, row.grant.owner)]
            return [g for g in reversed(found) if ended or _live(g)]

    def shared_with(self, principal: str) -> Sequence[tuple[Grant, Share]]:
        with self._call("shared_with"):
            now = self.clock.now()
            mine = [s for s in self._shares.values() if s.principal == principal and s.ended_at is None]
            found = [(self._rows[s.grant_id].grant, s) for s in reversed(mine) if now < s.until]
            return [(g, s) for g, s in found if g.credential_state == "active" and g.state not in _OVER]

    def shares(self, grant_id: UUID) -> Sequence[Share]:
        with self._call("shares"):
            return [s for s in reversed(self._shares.values()) if s.grant_id == grant_id]

    # -- consent -------------------------------------------------------------------------------

    def begin(self, attempt: Attempt, actor: str) -> None:
        with self._call("begin"):
            self._attempts[attempt.id] = _Attempt(attempt)
            if attempt.grant_id is not None:
                self._tell(attempt.grant_id, Event.GRANT_ASKED)

    def take(self, attempt_id: UUID, session: bytes) -> Attempt | None:
        with self._call("take"):
            row, now = self._attempts.get(attempt_id), self.clock.now()
            if row is None or row.used_at or row.attempt.session != session or row.attempt.expires_at <= now:
                return None
            row.used_at = now
            return row.attempt

    def end_attempt(self, attempt: Attempt, outcome: str, message: str) -> None:
        with self._call("end_attempt"):
            row = self._attempts[attempt.id]
            row.outcome, row.message = outcome, message
            if outcome != "granted":
                self._tell(attempt.grant_id or attempt.id, Event.GRANT_REFUSED)

    def attempt(self, attempt_id: UUID, session: bytes) -> AttemptEnd | None:
        with self._call("attempt"):
            row = self._attempts.get(attempt_id)
            if row is None or row.attempt.session != session:
                return None
            return AttemptEnd(row.attempt, row.used_at, row.outcome, row.message)

    def add(self, credential: Credential, grant: Grant, attempt: Attempt | None, actor: str) -> None:
        with self._call("add"):
            if any(_named(row.grant, credential) for row in self._rows.values()):
                raise InputError(Code.BAD_INPUT, f"name={credential.name!r} is taken.", field="name")
            now = self.clock.now()
            row = _Row(replace(grant, credential_state="sealing", created_at=grant.created_at or now))
            if grant.generation:
                row.blocks[grant.generation] = FakeBlock(now)
            self._rows[grant.id] = row
            self._tell(grant.id, Event.GRANT_ASKED, Event.CREDENTIAL_SEALING)

    def activate(self, grant_id: UUID, version: int | None, actor: str) -> None:
        with self._call("activate"):
            row = self._rows[grant_id]
            if row.grant.credential_state != "sealing":
                raise CredentialError(Code.CREDENTIAL_PURGED, "It was purged while it was being sealed.")
            row.grant = replace(row.grant, credential_state="active", granted_at=self.clock.now())
            self._sealed(row, row.grant.generation, version)
            self._tell(grant_id, Event.CREDENTIAL_CREATED, Event.GRANT_GRANTED)

    def reserve(self, grant_id: UUID) -> int:
        with self._call("reserve"):
            row = self._rows[grant_id]
            if row.grant.credential_state != "active" or row.grant.state in _OVER:
                raise CredentialError(Code.CONSENT_REVOKED, "The connection was revoked.")
            return self._reserve(row)

    def reconnect(
        self,
        grant_id: UUID,
        number: int,
        version: int,
        tokens: Tokens,
        granted: Sequence[str],
        actor: str,
    ) -> int:
        with self._call("reconnect"):
            row = self._rows[grant_id]
            if row.grant.credential_state != "active" or row.grant.state in _OVER or number <= row.grant.generation:
                raise CredentialError(Code.CONSENT_REVOKED, "The connection was revoked.")
            self._sealed(row, number, version)
            row.grant = replace(
                _untroubled(row.grant),
                state=GrantState.ACTIVE,
                generation=number,
                granted=tuple(granted),
                granted_at=self.clock.now(),
                access_expires_at=tokens.expires_at,
            )
            row.chores.pop(Chore.NOTIFY, None)
            self._tell(grant_id, Event.GRANT_RECONNECTED)
            return self.pushes.consented(grant_id, afresh=True)

    # -- keeping it alive ------------------------------------------------------------------------

    @contextmanager
    def lock(self, grant_id: UUID, seconds: float) -> Iterator[None]:
        with self._call("lock"):
            lock = self._locks.setdefault(grant_id, threading.Lock())
        if not lock.acquire(timeout=seconds):
            raise StoreError(Code.DATABASE_UNREACHABLE, "The grant's lock was not to be had in time.")
        try:
            yield
        finally:
            lock.release()

    def note_opened(self, grant: Grant, worker: str, *, ending: bool = False) -> None:
        with self._call("note_opened"):
            self._check_usable(self._rows[grant.id].grant, ending=ending)
            self._tell(grant.id, Event.GRANT_OPENED)

    def start_refresh(self, grant: Grant, worker: str) -> tuple[int, int]:
        with self._call("start_refresh"):
            row = self._rows[grant.id]
            self._check_usable(row.grant)
            marker, number = self._reserve(row), self._reserve(row)
            row.grant = replace(row.grant, pending_at=self.clock.now(), pending=number)
            self._tell(grant.id, Event.GRANT_REFRESHING)
            return marker, number

    def finish_refresh(self, grant: Grant, number: int, version: int | None, tokens: Tokens, worker: str) -> None:
        with self._call("finish_refresh"):
            row = self._rows[grant.id]
            self._sealed(row, number, version)
            if number <= row.grant.generation:
                return
            self._sealed(row, number - 1, version)
            well = row.grant.state is not GrantState.RECONNECT
            row.grant = replace(
                _untroubled(row.grant) if well else replace(row.grant, pending_at=None, pending=0),
                generation=number,
                refreshed_at=self.clock.now(),
                access_expires_at=tokens.expires_at,
            )
            self._tell(grant.id, Event.GRANT_REFRESHED)

    def fail_refresh(self, grant: Grant, error: CloudPushError, worker: str) -> None:
        with self._call("fail_refresh"):
            row = self._rows[grant.id]
            self._tell(grant.id, Event.GRANT_REFRESH_FAILED)
            if row.grant.generation != grant.generation:
                return
            if not isinstance(error, VaultError):
                for number, block in row.blocks.items():
                    if number > row.grant.generation and block.version is None:
                        block.version = 0
                row.grant = replace(row.grant, pending_at=None, pending=0)
            row.grant = replace(row.grant, trouble_code=error.code.value, trouble_message=error.message)
            if error.code is Code.CONSENT_NEEDED:
                self._needs_user(row, error)

    def need_reconnect(self, grant: Grant, error: CloudPushError, worker: str) -> None:
        with self._call("need_reconnect"):
            row = self._rows[grant.id]
            if row.grant.generation == grant.generation:
                self._needs_user(row, error)

    # -- taking it back, sharing it, trying it out -------------------------------------------------

    def revoke(self, grant_id: UUID, actor: str) -> None:
        with self._call("revoke"):
            row = self._known(grant_id)
            if row.grant.state in _OVER:
                return
            row.grant = replace(row.grant, state=GrantState.REVOKING, revoked_at=self.clock.now())
            row.chores.clear()
            self._want(row, Chore.REVOKE)
            self._tell(grant_id, Event.GRANT_REVOKING)
            self.pushes.consented(grant_id, over=True)

    def end_revocation(self, grant_id: UUID, told: bool, error: CloudPushError | None, actor: str) -> None:
        with self._call("end_revocation"):
            row = self._rows[grant_id]
            if row.grant.state is not GrantState.REVOKING:
                return
            row.grant = replace(
                row.grant,
                state=GrantState.REVOKED,
                provider_told=told,
                trouble_code=error.code.value if error else "",
                trouble_message=error.message if error else "",
            )
            row.purge_after = self.clock.now()
            row.chores.clear()
            self._tell(grant_id, Event.GRANT_REVOKED)

    def share(self, share: Share, actor: str) -> None:
        with self._call("share"):
            row = self._known(share.grant_id)
            if row.grant.credential_state != "active" or row.grant.state in _OVER:
                raise InputError(Code.CONSENT_REVOKED, "The connection is over.", field="grant")
            self._shares[share.id] = share
            self._tell(share.grant_id, Event.GRANT_SHARED)

    def unshare(self, share_id: UUID, owner: str | None, actor: str) -> Share:
        with self._call("unshare"):
            share = self._shares.get(share_id)
            if share is None:
                raise InputError(Code.UNKNOWN_GRANT, f"share {share_id} is not known.", field="share")
            if owner not in (None, self._rows[share.grant_id].grant.owner):
                raise InputError(Code.NOT_OWNER, f"share {share_id} is of another's connection.", field="share")
            if share.ended_at is None:
                share = self._shares[share_id] = replace(share, ended_at=self.clock.now())
                self._tell(share.grant_id, Event.GRANT_UNSHARED)
                self.pushes.consented(share.grant_id, share.principal, over=True)
            return share

    def want(self, grant_id: UUID, chore: Chore, actor: str) -> None:
        with self._call("want"):
            self._want(self._known(grant_id), chore)

    def chores(self, limit: int, taken_before: float) -> Sequence[UUID]:
        with self._call("chores"):
            now = self.clock.now()
            before = now - timedelta(seconds=taken_before)
            found: list[UUID] = []
            for grant_id, row in self._rows.items():
                due = [c for c in row.chores.values() if c.due <= now and (c.taken is None or c.taken <= before)]
                if due and len(found) < limit:
                    found.append(grant_id)
                    for chore in row.chores.values():
                        chore.taken = now
            return found

    def due_chores(self, grant_id: UUID) -> Mapping[Chore, datetime]:
        with self._call("due_chores"):
            now = self.clock.now()
            return {k: chore.since for k, chore in sorted(self._rows[grant_id].chores.items()) if chore.due <= now}

    def end_chore(self, grant_id: UUID, chore: Chore, error: CloudPushError | None, retry_in: float | None) -> None:
        with self._call("end_chore"):
            row = self._rows[grant_id]
            if retry_in is not None:
                if chore in row.chores:
                    since = row.chores[chore].since
                    row.chores[chore] = _Chore(self.clock.now() + timedelta(seconds=retry_in), since)
            else:
                row.chores.pop(chore, None)
            if chore is Chore.CHECK:
                code, message = (error.code.value, error.message) if error else ("", "")
                row.grant = replace(row.grant, checked_at=self.clock.now(), check_code=code, check_message=message)
                self._tell(grant_id, Event.GRANT_CHECKED)
            if chore is Chore.NOTIFY and retry_in is None:
                self._tell(grant_id, Event.GRANT_NOTIFIED)

    def waiting(self, grant_id: UUID) -> Sequence[UUID]:
        with self._call("waiting"):
            return self.pushes.waiting_for(grant_id)

    # -- housekeeping -----------------------------------------------------------------------------

    def superseded(self, limit: int) -> Sequence[tuple[UUID, Sequence[int]]]:
        with self._call("superseded"):
            found: list[tuple[UUID, Sequence[int]]] = []
            for grant_id, row in self._rows.items():
                if row.grant.credential_state != "active" or row.grant.pending_at is not None:
                    continue
                numbers = [n for n, block in sorted(row.blocks.items()) if self._superseded(row.grant, n, block)]
                if numbers and limit > 0:
                    found.append((grant_id, numbers[:limit]))
                    limit -= len(numbers[:limit])
            return found

    def note_superseded(self, grant_id: UUID, numbers: Iterable[int]) -> None:
        with self._call("note_superseded"):
            for number in numbers:
                block = self._rows[grant_id].blocks[number]
                block.gone, block.version = True, None
            self._tell(grant_id, Event.GRANT_SUPERSEDED)

    # -- pieces ------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self._lock:
            self.calls[name] += 1
            if name in self.during:
                self.during.pop(name)()
            if self.failing is not None:
                raise self.failing
            yield

    def _known(self, grant_id: UUID) -> _Row:
        row = self._rows.get(grant_id)
        if row is None:
            raise InputError(Code.UNKNOWN_GRANT, f"connection {grant_id} is not known.", field="grant")
        return row

    def _check_usable(self, grant: Grant, *, ending: bool = False) -> None:
        if ending and grant.credential_state == "active" and grant.state is not GrantState.REVOKED:
            return
        if grant.credential_state != "active" or grant.state in _OVER:
            raise ConsentRevoked
        if grant.state is GrantState.RECONNECT:
            raise CredentialError(Code.CONSENT_NEEDED, "The connection needs its user's consent anew.")

    def _needs_user(self, row: _Row, error: CloudPushError) -> None:
        if row.grant.state is not GrantState.ACTIVE:
            return
        row.grant = replace(
            row.grant, state=GrantState.RECONNECT, trouble_code=error.code.value, trouble_message=error.message
        )
        self._want(row, Chore.NOTIFY)
        self._tell(row.grant.id, Event.GRANT_RECONNECT_NEEDED)

    def _covered(self, grant_id: UUID, principal: str, uri: str) -> bool:
        mine = [s for s in self._shares.values() if s.grant_id == grant_id and s.principal == principal]
        return any(s.covers(uri, self.clock.now()) for s in mine)

    def _reserve(self, row: _Row) -> int:
        number = max(row.blocks, default=0) + 1
        row.blocks[number] = FakeBlock(self.clock.now())
        return number

    def _sealed(self, row: _Row, number: int, version: int | None) -> None:
        if number in row.blocks and not row.blocks[number].gone:
            row.blocks[number].version = version

    def _superseded(self, grant: Grant, number: int, block: FakeBlock) -> bool:
        if block.gone or number == grant.generation:
            return False
        old = block.version is not None or block.begun < self.clock.now() - REFRESH_PATIENCE
        return number < grant.generation or old

    def _want(self, row: _Row, chore: Chore) -> None:
        row.chores[chore] = _Chore(self.clock.now(), self.clock.now())

    def _tell(self, stream: UUID, *kinds: Event) -> None:
        self._events += [(stream, kind) for kind in kinds]


def _live(grant: Grant) -> bool:
    """Whether its user still sees it: connected, or on its way out."""
    return grant.state is GrantState.REVOKING or (
        grant.state is not GrantState.REVOKED and grant.credential_state == "active"
    )


def _named(grant: Grant, credential: Credential) -> bool:
    same = (grant.owner, grant.name) == (credential.owner, credential.name)
    return same and grant.credential_state in ("sealing", "active")


def _untroubled(grant: Grant) -> Grant:
    return replace(grant, pending_at=None, pending=0, trouble_code="", trouble_message="")
