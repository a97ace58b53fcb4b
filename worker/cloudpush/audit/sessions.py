"""Signed-in browsers, and the links that sign one in once.

Only hashes of what a browser or a link holds are here: whoever reads these tables can sign in as nobody. A session ends by
itself at its time, and earlier where nobody used it for a while; both are compared with the database's own clock. Sign-ins
are events of the session's id; a browser on its way to sign in (no owner yet) is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from cloudpush.audit.database import append_events, transaction
from cloudpush.audit.tables import consent_attempt, sign_in_link
from cloudpush.audit.tables import web_session as t
from cloudpush.push.states import Event

#: That a session is used is written at most this often, in seconds: a page asks for many things.
TOUCH_SECONDS = 60.0
#: Expired rows that one sign-in sweeps away.
SWEEP_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Session:
    """A browser. ``id`` names it in events and opens nothing; ``owner`` None: on its way to sign in."""

    id: UUID
    owner: str | None
    via: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


class Sessions:
    """The rows of tables ``web_session`` and ``sign_in_link``. Thread-safe, as its engine is. Raises StoreError."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    # -- sessions ------------------------------------------------------------------------------

    def start(self, token_sha256: bytes, *, owner: str | None, via: str, seconds: float) -> Session:
        """A session that ends in ``seconds`` at the latest. What has expired is swept away by the way."""
        session_id = uuid4()
        row = {"token_sha256": token_sha256, "id": session_id, "owner": owner, "via": via}
        times = {"seen_at": NOW, "created_at": NOW, "expires_at": NOW + timedelta(seconds=seconds)}
        self.sweep()
        with transaction(self._engine) as c:
            made = Session(*c.execute(t.insert().values(row | times).returning(*SESSION)).one())
            if owner is not None:
                data = {"owner": owner, "via": via, "expires_at": made.expires_at.isoformat()}
                append_events(c, session_id, owner, [(Event.SESSION_STARTED, None, data)])
        return made

    def find(self, token_sha256: bytes, *, idle_seconds: float, touch: bool = True) -> Session | None:
        """The session of this token, unless it has ended or was not used for ``idle_seconds``.

        ``touch``: this is a use, and noted as one.
        """
        alive = (
            sa.select(*SESSION)
            .where(t.c.token_sha256 == token_sha256, t.c.ended_at.is_(None), t.c.expires_at > NOW)
            .where(t.c.seen_at > NOW - timedelta(seconds=idle_seconds))
        )
        stale = NOW - timedelta(seconds=min(TOUCH_SECONDS, idle_seconds / 10))
        touched = t.update().where(t.c.token_sha256 == token_sha256, t.c.seen_at < stale).values(seen_at=NOW)
        with transaction(self._engine) as c:
            row = c.execute(alive).one_or_none()
            if row is not None and touch:
                c.execute(touched)
        return Session(*row) if row else None

    def list(self, owner: str) -> Sequence[Session]:
        """The owner's sessions that have not ended, the one that was used last first; idle ones are among them."""
        query = (
            sa.select(*SESSION)
            .where(t.c.owner == owner, t.c.ended_at.is_(None), t.c.expires_at > NOW)
            .order_by(t.c.seen_at.desc(), t.c.id)
        )
        with transaction(self._engine) as c:
            return [Session(*row) for row in c.execute(query)]

    def end(self, token_sha256: bytes) -> None:
        """Sign this browser out. Repeatable."""
        self._end(t.c.token_sha256 == token_sha256)

    def end_all(self, owner: str) -> int:
        """Sign all of the owner's browsers out; how many that were."""
        return self._end(t.c.owner == owner)

    def _end(self, which: sa.ColumnElement[bool]) -> int:
        ended = t.update().where(which, t.c.ended_at.is_(None)).values(ended_at=NOW).returning(t.c.id, t.c.owner)
        with transaction(self._engine) as c:
            # In one order, for whoever ends all of an owner's at the same moment.
            rows = sorted(c.execute(ended), key=lambda row: row.id)
            for row in rows:
                if row.owner is not None:
                    append_events(c, row.id, row.owner, [(Event.SESSION_ENDED, None, {"why": "signed out"})])
        return len(rows)

    # -- links ---------------------------------------------------------------------------------

    def add_link(self, token_sha256: bytes, *, owner: str, seconds: float) -> None:
        """A link that signs ``owner`` in once, within ``seconds``."""
        self.sweep()
        row = {"token_sha256": token_sha256, "owner": owner}
        with transaction(self._engine) as c:
            c.execute(sign_in_link.insert().values(row | {"expires_at": NOW + timedelta(seconds=seconds)}))

    def link_owner(self, token_sha256: bytes) -> str | None:
        """Whom this link would sign in, without using it up; None as for ``use_link``."""
        columns = sign_in_link.c
        query = sa.select(columns.owner).where(
            columns.token_sha256 == token_sha256, columns.used_at.is_(None), columns.expires_at > NOW
        )
        with transaction(self._engine) as c:
            owner: str | None = c.execute(query).scalar_one_or_none()
        return owner

    def use_link(self, token_sha256: bytes) -> str | None:
        """Whom this link signs in: once; None where it was used, has expired or is none of ours."""
        columns = sign_in_link.c
        used = (
            sign_in_link.update()
            .where(columns.token_sha256 == token_sha256, columns.used_at.is_(None), columns.expires_at > NOW)
            .values(used_at=NOW)
            .returning(columns.owner)
        )
        with transaction(self._engine) as c:
            owner: str | None = c.execute(used).scalar_one_or_none()
        return owner

    # -- housekeeping --------------------------------------------------------------------------

    def sweep(self, limit: int = SWEEP_LIMIT) -> int:
        """Delete up to ``limit`` expired rows each of sessions, links and consent attempts; how many. Repeatable.

        A session that nobody ended has its event then.
        """
        with transaction(self._engine) as c:
            gone = 0
            for table, key in ((sign_in_link, sign_in_link.c.token_sha256), (consent_attempt, consent_attempt.c.id)):
                gone += c.execute(table.delete().where(key.in_(_expired(table, key, limit)))).rowcount
            key = t.c.token_sha256
            swept = t.delete().where(key.in_(_expired(t, key, limit))).returning(t.c.id, t.c.owner, t.c.ended_at)
            rows = sorted(c.execute(swept), key=lambda row: row.id)
            for row in rows:
                if row.owner is not None and row.ended_at is None:
                    append_events(c, row.id, row.owner, [(Event.SESSION_ENDED, None, {"why": "expired"})])
        return gone + len(rows)


def _expired(table: sa.Table, key: sa.ColumnElement[Any], limit: int) -> sa.Select[Any]:
    """Who sweeps at the same moment finds others."""
    expired = sa.select(key).where(table.c.expires_at <= NOW).order_by(table.c.expires_at)
    return expired.limit(limit).with_for_update(skip_locked=True)


SESSION = (t.c.id, t.c.owner, t.c.via, t.c.created_at, t.c.seen_at, t.c.expires_at)
NOW = sa.func.clock_timestamp()
