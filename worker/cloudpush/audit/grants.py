"""Grants in Postgres: what a consent gave, and what became of it. Metadata and events, never a token.

Implements :class:`cloudpush.push.grants.ports.GrantStore`, split by who calls: :mod:`.consents` (the web application),
:mod:`.shares`, :mod:`.chores`; here is what keeps a grant alive and ends it. Guards stand in the UPDATE. Locks are taken in
one order, part, grant, push, chain: what may change whether a push can use a grant locks the grant's row first, and finds
its pushes then. A push that is just being paused holds that row too (``endings``), so none is left waiting for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

import psycopg.errors
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from cloudpush.audit.chores import Chores, want
from cloudpush.audit.consents import Consents
from cloudpush.audit.database import append_events, storable, transaction, translated
from cloudpush.audit.grant_rows import (
    WITH_CREDENTIAL,
    Held,
    grant_of,
    hold,
    iso,
    live,
    next_block,
    resume_waiting,
    seal_block,
    settled,
    untroubled,
)
from cloudpush.audit.rows import EventRow, said
from cloudpush.audit.shares import Shares
from cloudpush.audit.tables import chore as chores
from cloudpush.audit.tables import credential, push, sheet
from cloudpush.audit.tables import oauth_grant as t
from cloudpush.audit.usable import check_grant
from cloudpush.errors import CloudPushError, Code, StoreError, VaultError
from cloudpush.push.custody import REFRESH_PATIENCE
from cloudpush.push.grants.model import Chore, Grant, GrantState, Tokens
from cloudpush.push.states import Event, State

#: Distinguishes locks of grants from others in this database.
_LOCK_SPACE = 0x6772616E74  # "grant"


class GrantBook(Consents, Shares, Chores):
    """The rows of table ``oauth_grant`` and what belongs to them. Thread-safe, as its engine is."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)

    # -- reading -------------------------------------------------------------------------------

    def get(self, grant_id: UUID) -> Grant | None:
        with transaction(self._engine) as c:
            row = c.execute(WITH_CREDENTIAL.where(t.c.credential_id == grant_id)).mappings().one_or_none()
        return grant_of(row) if row else None

    def find(self, owner: str | None, *, ended: bool = False) -> Sequence[Grant]:
        query = WITH_CREDENTIAL.order_by(credential.c.created_at.desc(), credential.c.id)
        if owner is not None:
            query = query.where(credential.c.owner == owner)
        if not ended:
            connected = (credential.c.state == "active") & (t.c.state != GrantState.REVOKED)
            query = query.where(connected | (t.c.state == GrantState.REVOKING))
        with transaction(self._engine) as c:
            return [grant_of(row) for row in c.execute(query).mappings()]

    def waiting(self, grant_id: UUID) -> Sequence[UUID]:
        query = (
            sa.select(push.c.id)
            .where(push.c.credential_id == grant_id)
            .where((push.c.state == State.AWAITING_CONSENT.value) | (push.c.parts_paused > 0))
            .where(push.c.finished_at.is_(None))
            .order_by(push.c.created_at, push.c.id)
        )
        with transaction(self._engine) as c:
            return list(c.execute(query).scalars())

    # -- keeping it alive ----------------------------------------------------------------------

    @contextmanager
    def lock(self, grant_id: UUID, seconds: float) -> Iterator[None]:
        """See the port. The connection is the lock: it is none of the pool's, and closed at the end."""
        with translated():
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            with translated():
                connection.detach()
                self._take(connection, grant_id, seconds)
            yield
        finally:
            with suppress(Exception):  # a connection that broke has given its lock back
                connection.execute(sa.text("SELECT pg_advisory_unlock_all()"))
            with suppress(Exception):
                connection.close()

    def _take(self, connection: sa.Connection, grant_id: UUID, seconds: float) -> None:
        limits = {"lock": f"{max(int(seconds * 1000), 1)}ms"}
        connection.execute(
            sa.text("SELECT set_config('lock_timeout', :lock, false), set_config('statement_timeout', '0', false)"),
            limits,
        )
        try:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": lock_key(grant_id)})
        except DBAPIError as e:
            if not isinstance(e.orig, psycopg.errors.LockNotAvailable):
                raise
            raise StoreError(
                Code.DATABASE_UNREACHABLE,
                f"Somebody else has been refreshing connection {grant_id} for {seconds:g} s; it is tried again.",
            ) from e

    def note_opened(self, grant: Grant, worker: str, *, ending: bool = False) -> None:
        with transaction(self._engine) as c:
            held = hold(c, grant.id, read=True)
            if not (ending and held.credential_state == "active" and held.state != GrantState.REVOKED):
                check_grant(grant.id, held.state, held.credential_state)
            data = {"generation": grant.generation, "worker": worker}
            append_events(c, grant.id, worker, [(Event.GRANT_OPENED, grant.id, data)])

    def start_refresh(self, grant: Grant, worker: str) -> tuple[int, int]:
        with transaction(self._engine) as c:
            held = hold(c, grant.id)
            check_grant(grant.id, held.state, held.credential_state)
            marker = next_block(c, grant.id)
            number = next_block(c, grant.id)
            c.execute(_of(grant.id).values(pending_at=sa.func.clock_timestamp(), pending=number))
            data = {"generation": held.generation, "block": number}
            append_events(c, grant.id, worker, [(Event.GRANT_REFRESHING, grant.id, data)])
        return marker, number

    def finish_refresh(self, grant: Grant, number: int, version: int | None, tokens: Tokens, worker: str) -> None:
        with transaction(self._engine) as c:
            held = hold(c, grant.id)
            seal_block(c, grant.id, [number], version)
            if number <= held.generation:
                return
            # The marker before it is in Vault by now, and nobody will ask by which key.
            seal_block(c, grant.id, [number - 1], version)
            # That it needs its user is no matter of tokens where somebody found out while they were fetched.
            well = settled() if held.state == GrantState.RECONNECT else untroubled()
            c.execute(
                _of(grant.id).values(
                    **well,
                    generation=number,
                    refreshed_at=sa.func.clock_timestamp(),
                    access_expires_at=tokens.expires_at,
                )
            )
            data = {"generation": number, "access_expires_at": iso(tokens.expires_at)}
            append_events(c, grant.id, worker, [(Event.GRANT_REFRESHED, grant.id, data)])

    def fail_refresh(self, grant: Grant, error: CloudPushError, worker: str) -> None:
        events: list[EventRow] = [(Event.GRANT_REFRESH_FAILED, grant.id, said(error))]
        with transaction(self._engine) as c:
            held = hold(c, grant.id)
            if held.generation == grant.generation:
                events += _failed(c, grant.id, held, error, worker)
            append_events(c, grant.id, worker, events)

    def need_reconnect(self, grant: Grant, error: CloudPushError, worker: str) -> None:
        with transaction(self._engine) as c:
            held = hold(c, grant.id)
            if held.generation == grant.generation and (events := _needs_user(c, grant.id, held, error, worker)):
                append_events(c, grant.id, worker, events)

    # -- taking it back ------------------------------------------------------------------------

    def revoke(self, grant_id: UUID, actor: str) -> None:
        with transaction(self._engine) as c:
            held = hold(c, grant_id)
            if not live(held.state):
                return
            c.execute(_of(grant_id).values(state=GrantState.REVOKING.value, revoked_at=sa.func.clock_timestamp()))
            c.execute(chores.delete().where(chores.c.credential_id == grant_id))
            want(c, grant_id, Chore.REVOKE, actor)
            resumed = resume_waiting(c, grant_id, actor, "consent revoked", over=True)
            data = {"pushes": resumed}
            append_events(c, grant_id, actor, [(Event.GRANT_REVOKING, grant_id, data)])

    def end_revocation(self, grant_id: UUID, told: bool, error: CloudPushError | None, actor: str) -> None:
        with transaction(self._engine) as c:
            held = hold(c, grant_id)
            if held.state != GrantState.REVOKING:
                return
            c.execute(
                _of(grant_id).values(
                    state=GrantState.REVOKED.value,
                    provider_told=told,
                    trouble_code=error.code.value if error else None,
                    trouble_message=storable(error.message) if error else None,
                )
            )
            c.execute(
                credential.update()
                .where(credential.c.id == grant_id, credential.c.state.in_(("sealing", "active")))
                .values(purge_after=sa.func.clock_timestamp())
            )
            c.execute(chores.delete().where(chores.c.credential_id == grant_id))
            data = {"provider_told": told, **said(error)}
            append_events(c, grant_id, actor, [(Event.GRANT_REVOKED, grant_id, data)])

    # -- housekeeping --------------------------------------------------------------------------

    def superseded(self, limit: int) -> Sequence[tuple[UUID, Sequence[int]]]:
        found: dict[UUID, list[int]] = {}
        with transaction(self._engine) as c:
            for row in c.execute(SUPERSEDED, {"limit": limit, "patience": REFRESH_PATIENCE}):
                found.setdefault(row.credential_id, []).append(row.number)
        return list(found.items())

    def note_superseded(self, grant_id: UUID, numbers: Iterable[int]) -> None:
        gone = sorted(numbers)
        with transaction(self._engine) as c:
            done = c.execute(
                sheet.update()
                .where(sheet.c.credential_id == grant_id, sheet.c.number.in_(gone), sheet.c.gone_at.is_(None))
                .values(gone_at=sa.func.clock_timestamp(), transit_key_version=None)
            )
            if done.rowcount:
                data = {"blocks": done.rowcount, "last": gone[-1]}
                append_events(c, grant_id, "sweeper", [(Event.GRANT_SUPERSEDED, grant_id, data)])


def _failed(c: sa.Connection, grant_id: UUID, held: Held, error: CloudPushError, worker: str) -> list[EventRow]:
    """What a refresh that brought nothing changes; returns what is to be told."""
    trouble = {"trouble_code": error.code.value, "trouble_message": storable(error.message)}
    if isinstance(error, VaultError):
        # Perhaps it got there all the same: whoever comes next looks.
        c.execute(_of(grant_id).values(**trouble))
        return []
    begun = sheet.update().where(
        sheet.c.credential_id == grant_id, sheet.c.number > held.generation, sheet.c.transit_key_version.is_(None)
    )
    c.execute(begun.values(transit_key_version=0))  # nothing of it comes any more
    c.execute(_of(grant_id).values(**trouble, **settled()))
    return _needs_user(c, grant_id, held, error, worker) if error.code is Code.CONSENT_NEEDED else []


def _needs_user(c: sa.Connection, grant_id: UUID, held: Held, error: CloudPushError, worker: str) -> list[EventRow]:
    """Only the grant's user can help; returns what is to be told."""
    if held.state != GrantState.ACTIVE:
        return []
    trouble = {"trouble_code": error.code.value, "trouble_message": storable(error.message)}
    c.execute(_of(grant_id).values(**trouble, state=GrantState.RECONNECT.value))
    want(c, grant_id, Chore.NOTIFY, worker)
    return [(Event.GRANT_RECONNECT_NEEDED, grant_id, said(error))]


def lock_key(grant_id: UUID) -> int:
    """The advisory lock of a grant: 64 bits of its id, signed, apart from our other locks."""
    key = (grant_id.int >> 64) ^ (grant_id.int & (2**64 - 1)) ^ _LOCK_SPACE
    return key - 2**64 if key >= 2**63 else key


def _of(grant_id: UUID) -> sa.Update:
    return t.update().where(t.c.credential_id == grant_id)


# Whole grants are not locked: whoever destroys a block, and then another does, destroys nothing twice. A block that nobody
# says is sealed may be on its way for an hour.
SUPERSEDED = sa.text("""
    SELECT s.credential_id, s.number
    FROM oauth_grant g JOIN credential c ON c.id = g.credential_id JOIN sheet s ON s.credential_id = c.id
    WHERE c.state = 'active' AND g.pending_at IS NULL AND s.gone_at IS NULL AND (s.number < g.generation
        OR s.number > g.generation AND (s.transit_key_version IS NOT NULL
            OR s.sealed_at < clock_timestamp() - CAST(:patience AS interval)))
    ORDER BY s.credential_id, s.number LIMIT :limit
""")
