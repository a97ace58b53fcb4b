"""What a worker is to do about a grant: kept until it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from cloudpush.audit.database import append_events, storable, transaction
from cloudpush.audit.grant_rows import hold
from cloudpush.audit.rows import said
from cloudpush.audit.tables import chore as t
from cloudpush.audit.tables import oauth_grant
from cloudpush.errors import CloudPushError
from cloudpush.push.grants.model import Chore
from cloudpush.push.states import Event

ACTOR = "worker"


class Chores:
    """See ``push.grants.ports.GrantStore``."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def want(self, grant_id: UUID, chore: Chore, actor: str) -> None:
        with transaction(self._engine) as c:
            hold(c, grant_id, read=True)
            want(c, grant_id, chore, actor)

    def chores(self, limit: int, taken_before: float) -> Sequence[UUID]:
        with transaction(self._engine) as c:
            return list(c.execute(TAKE, {"limit": limit, "seconds": taken_before}).scalars())

    def due_chores(self, grant_id: UUID) -> Mapping[Chore, datetime]:
        is_due = (t.c.credential_id == grant_id) & (t.c.due_at <= sa.func.clock_timestamp())
        due = sa.select(t.c.kind, t.c.since).where(is_due).order_by(t.c.kind)
        with transaction(self._engine) as c:
            return {Chore(kind): since for kind, since in c.execute(due)}

    def end_chore(self, grant_id: UUID, chore: Chore, error: CloudPushError | None, retry_in: float | None) -> None:
        this = sa.and_(t.c.credential_id == grant_id, t.c.kind == chore.value)
        with transaction(self._engine) as c:
            hold(c, grant_id)
            if retry_in is None:
                c.execute(t.delete().where(this))
            else:
                later = sa.func.clock_timestamp() + timedelta(seconds=retry_in)
                c.execute(t.update().where(this).values(due_at=later, taken_at=None))
            match chore:
                case Chore.CHECK:
                    c.execute(
                        oauth_grant.update()
                        .where(oauth_grant.c.credential_id == grant_id)
                        .values(
                            checked_at=sa.func.clock_timestamp(),
                            check_code=error.code.value if error else None,
                            check_message=storable(error.message) if error else None,
                        )
                    )
                    append_events(c, grant_id, ACTOR, [(Event.GRANT_CHECKED, grant_id, said(error))])
                case Chore.NOTIFY if retry_in is None:
                    append_events(c, grant_id, ACTOR, [(Event.GRANT_NOTIFIED, grant_id, said(error))])
                case _:
                    pass  # a revocation tells its end itself


def want(c: sa.Connection, grant_id: UUID, chore: Chore, actor: str) -> None:
    """Somebody is to do this soon; whoever wanted it before waits no longer than now."""
    row = {"credential_id": grant_id, "kind": chore.value, "actor": actor}
    now = {"due_at": sa.func.clock_timestamp(), "taken_at": None}
    added = pg.insert(t).values(row | now)
    c.execute(added.on_conflict_do_update(index_elements=[t.c.credential_id, t.c.kind], set_=now))


TAKE = sa.text("""
    WITH due AS (
        SELECT credential_id FROM chore
        WHERE due_at <= clock_timestamp()
          AND coalesce(taken_at, '-infinity') <= clock_timestamp() - make_interval(secs => :seconds)
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED),
    taken AS (
        UPDATE chore SET taken_at = clock_timestamp() FROM due
        WHERE chore.credential_id = due.credential_id AND chore.due_at <= clock_timestamp()
        RETURNING chore.credential_id)
    SELECT DISTINCT credential_id FROM taken
""")
