"""Who else may push with a grant: where, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import append_events, transaction
from cloudpush.audit.grant_rows import WITH_CREDENTIAL, grant_of, hold, iso, live, resume_waiting
from cloudpush.audit.tables import credential, oauth_grant
from cloudpush.audit.tables import share as t
from cloudpush.errors import Code, InputError
from cloudpush.push.grants.model import Grant, GrantState, Share
from cloudpush.push.states import Event


class Shares:
    """See ``push.grants.ports.GrantStore``."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def shared_with(self, principal: str) -> Sequence[tuple[Grant, Share]]:
        shares = (t.c.id, t.c.credential_id, t.c.principal, t.c.uri, t.c.until, t.c.created_at, t.c.created_by)
        query = (
            WITH_CREDENTIAL.add_columns(*(column.label(f"share_{column.name}") for column in shares))
            .join(t, t.c.credential_id == credential.c.id)
            .where(t.c.principal == principal, t.c.ended_at.is_(None), t.c.until > sa.func.clock_timestamp())
            .where(credential.c.state == "active")
            .where(oauth_grant.c.state.in_((GrantState.ACTIVE.value, GrantState.RECONNECT.value)))
            .order_by(t.c.created_at.desc(), t.c.id)
        )
        with transaction(self._engine) as c:
            rows = c.execute(query).mappings().all()
        return [(grant_of(row), Share(*(row[f"share_{column.name}"] for column in shares))) for row in rows]

    def shares(self, grant_id: UUID) -> Sequence[Share]:
        query = sa.select(*SHARE).where(t.c.credential_id == grant_id).order_by(t.c.created_at.desc(), t.c.id)
        with transaction(self._engine) as c:
            return [Share(*row) for row in c.execute(query)]

    def share(self, share: Share, actor: str) -> None:
        row = {column.name: getattr(share, column.name) for column in SHARE if column.name != "credential_id"}
        with transaction(self._engine) as c:
            held = hold(c, share.grant_id, read=True)
            if held.credential_state != "active" or not live(held.state):
                raise InputError(
                    Code.CONSENT_REVOKED, f"connection {share.grant_id} is over: it cannot be shared.", field="grant"
                )
            c.execute(t.insert(), {**row, "credential_id": share.grant_id})
            append_events(c, share.grant_id, actor, [(Event.GRANT_SHARED, share.grant_id, _told(share))])

    def unshare(self, share_id: UUID, owner: str | None, actor: str) -> Share:
        one = sa.select(*SHARE).where(t.c.id == share_id)
        with transaction(self._engine) as c:
            row = c.execute(one).one_or_none()
            if row is None:
                raise InputError(Code.UNKNOWN_GRANT, f"share {str(share_id)!r} is not known.", field="share")
            share = Share(*row)
            held = hold(c, share.grant_id)
            if owner not in (None, held.owner):
                raise InputError(
                    Code.NOT_OWNER, f"share {str(share_id)!r} is of another owner's connection.", field="share"
                )
            ended = t.update().where(t.c.id == share_id, t.c.ended_at.is_(None))
            if c.execute(ended.values(ended_at=sa.func.clock_timestamp())).rowcount:
                resume_waiting(c, share.grant_id, actor, "share ended", owner=share.principal, over=True)
                append_events(c, share.grant_id, actor, [(Event.GRANT_UNSHARED, share.grant_id, _told(share))])
            return Share(*c.execute(one).one())


SHARE = (t.c.id, t.c.credential_id, t.c.principal, t.c.uri, t.c.until, t.c.created_at, t.c.created_by, t.c.ended_at)


def _told(share: Share) -> dict[str, object]:
    return {"share": share.id, "principal": share.principal, "uri": share.uri, "until": iso(share.until)}
