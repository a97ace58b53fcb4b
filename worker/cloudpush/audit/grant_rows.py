"""Grants as rows, and what every change of one does: hold it, seal a block of it, let go on what waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import append_events
from cloudpush.audit.renewals import resume
from cloudpush.audit.tables import credential, push, sheet
from cloudpush.audit.tables import oauth_grant as t
from cloudpush.errors import Code, InputError
from cloudpush.push.grants.model import Grant, GrantState
from cloudpush.push.states import State


class Held(NamedTuple):
    """Where a grant stands, its row held."""

    state: str
    credential_state: str
    owner: str
    generation: int


def hold(c: sa.Connection, grant_id: UUID, *, read: bool = False) -> Held:
    """Hold the grant's row to the end of the transaction. Raises InputError UNKNOWN_GRANT.

    ``read``: against changes only; others may read it so at the same time.
    """
    row = sa.select(t.c.state).where(t.c.credential_id == grant_id)
    held = row.with_for_update(read=True) if read else row.with_for_update(key_share=True)
    if c.execute(held).one_or_none() is None:
        raise unknown(grant_id)
    # A statement of its own, which sees what was committed while this one waited.
    query = (
        sa.select(t.c.state, credential.c.state, credential.c.owner, t.c.generation)
        .join_from(t, credential, credential.c.id == t.c.credential_id)
        .where(t.c.credential_id == grant_id)
    )
    return Held(*c.execute(query).one())


def live(state: str) -> bool:
    """Whether nobody took it back."""
    return state in (GrantState.ACTIVE, GrantState.RECONNECT)


def next_block(c: sa.Connection, grant_id: UUID) -> int:
    """Insert the row of a further block and return its number. The grant is held."""
    last = sa.select(sa.func.coalesce(sa.func.max(sheet.c.number), 0)).where(sheet.c.credential_id == grant_id)
    number = int(c.execute(last).scalar_one()) + 1
    add_block(c, grant_id, number)
    return number


def add_block(c: sa.Connection, grant_id: UUID, number: int) -> None:
    """Insert the row of a block, before it is sealed."""
    span = {"first_seq": 0, "last_seq": 0, "block": 1, "blocks": 1}
    c.execute(sheet.insert(), {"credential_id": grant_id, "number": number, **span})


def seal_block(c: sa.Connection, grant_id: UUID, numbers: Sequence[int], version: int | None) -> None:
    """Blocks are in Vault, their data keys under this version of the key."""
    c.execute(
        sheet.update()
        .where(sheet.c.credential_id == grant_id, sheet.c.number.in_(numbers), sheet.c.gone_at.is_(None))
        .values(transit_key_version=version)
    )


def settled() -> dict[str, int | None]:
    """No refresh is under way."""
    return {"pending_at": None, "pending": 0}


def untroubled() -> dict[str, int | None]:
    """All is well: nothing is under way, and what went wrong before is forgotten."""
    return settled() | {"trouble_code": None, "trouble_message": None}


def resume_waiting(
    c: sa.Connection,
    grant_id: UUID,
    actor: str,
    why: str,
    *,
    owner: str | None = None,
    afresh: bool = False,
    over: bool = False,
) -> int:
    """What waits for the grant goes on, ``owner``'s only where given; how many pushes do. The grant is held.

    ``over``: to its end. What is queued for a later attempt is then due at once, too, since that would only end it.
    """
    waits = (push.c.state == State.AWAITING_CONSENT.value) | (push.c.parts_paused > 0)
    query = (
        sa.select(push.c.id, waits.label("waits"))
        .where(push.c.credential_id == grant_id, push.c.finished_at.is_(None) if over else waits)
        .order_by(push.c.id)
        .with_for_update(key_share=True)
    )
    if owner is not None:
        query = query.where(push.c.owner == owner)
    held = c.execute(query).all()
    if over:
        # Before the first chain is held: whoever claims a part of these holds that part, and then wants its push's.
        for statement in DUE_NOW:
            c.execute(statement, {"ids": [row.id for row in held]})
    resumed = 0
    for push_id in [row.id for row in held if row.waits]:
        _, events = resume(c, push_id, why, afresh=afresh)
        if events:
            append_events(c, push_id, actor, events)
            resumed += 1
    return resumed


DUE_NOW = (
    sa.text("""
        UPDATE push SET next_attempt_at = NULL, announced_at = NULL
        WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'queued' AND next_attempt_at > clock_timestamp()
    """),
    sa.text("""
        UPDATE part SET next_attempt_at = NULL, announced_at = NULL
        WHERE push_id = ANY (CAST(:ids AS uuid[])) AND state = 'queued' AND next_attempt_at > clock_timestamp()
    """),
)


def unknown(grant_id: UUID) -> InputError:
    """Nobody has such a grant."""
    return InputError(Code.UNKNOWN_GRANT, f"connection {str(grant_id)!r} is not known.", field="grant")


def iso(moment: datetime | None) -> str | None:
    """As events tell a time."""
    return moment.isoformat() if moment else None


def grant_of(row: sa.RowMapping) -> Grant:
    """A row of WITH_CREDENTIAL."""
    fields: dict[str, Any] = {name: row[name] for name in _SAME} | {name: row[name] or "" for name in _WORDS}
    fields |= {"state": GrantState(row["state"]), "asked": tuple(row["asked"]), "granted": tuple(row["granted"])}
    return Grant(**fields)


_WORDS = ("trouble_code", "trouble_message", "check_code", "check_message")
_SAME = (
    *("id", "owner", "name", "kind", "provider", "credential_state", "subject", "settings", "generation"),
    *("access_expires_at", "created_at", "granted_at", "refreshed_at", "pending_at", "pending", "checked_at"),
    *("revoked_at", "provider_told"),
)
_credential = (credential.c.id, credential.c.owner, credential.c.name, credential.c.kind, credential.c.created_at)
WITH_CREDENTIAL = sa.select(
    *_credential,
    credential.c.state.label("credential_state"),
    *(c for c in t.c if c.name != "credential_id"),
).join_from(t, credential, credential.c.id == t.c.credential_id)
