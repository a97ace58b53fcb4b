"""Pushes that wait go on: further sets of signed URLs, and what is queued again.

Whoever calls these holds the push's row.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import append_events
from cloudpush.audit.rows import EventRow
from cloudpush.audit.statements import RESUME_PARTS, RESUME_PUSH
from cloudpush.push.states import Event, State


def add_renewal(c: sa.Connection, push_id: UUID, credential_id: UUID, actor: str, files: int) -> None:
    """From now on the push's set is ``credential_id``, with URLs for that many files. Row and event say the same."""
    number = c.execute(NEXT_NUMBER, {"id": push_id}).scalar_one()
    data = {"number": number, "credential": credential_id, "files": files}
    append_events(c, push_id, actor, [(Event.PUSH_RESIGNED, credential_id, data)])
    c.execute(
        ADD_RENEWAL, {"id": push_id, "number": number, "credential": credential_id, "actor": actor, "files": files}
    )


def resume(c: sa.Connection, push_id: UUID, why: str, *, afresh: bool = False) -> tuple[State | None, list[EventRow]]:
    """Queue what waits again: (the push's state now, what is to be told); (None, []) where nothing waits.

    ``afresh``: what was waited for has come, so failures from before count no more.
    """
    params = {"id": push_id, "afresh": afresh}
    parts = c.execute(RESUME_PARTS, params).rowcount
    state = c.execute(RESUME_PUSH, params).scalar_one_or_none()
    if state is None:
        return None, []
    return State(state), [(Event.PUSH_RESUMED, None, {"why": why, "parts": parts})]


NEXT_NUMBER = sa.text("SELECT coalesce(max(number), 0) + 1 FROM renewal WHERE push_id = :id")

# The time is the event's own: a row that somebody moved in time differs from its event.
ADD_RENEWAL = sa.text("""
    INSERT INTO renewal (push_id, number, credential_id, at, actor, files)
    SELECT :id, :number, :credential, e.at, :actor, :files FROM event e
    WHERE e.stream = :id AND e.kind = 'push.resigned' ORDER BY e.seq DESC LIMIT 1
""")
