"""The sweep's side of the store."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import append_events, transaction
from cloudpush.audit.leader import SWEEPER, Leader
from cloudpush.audit.renewals import resume
from cloudpush.audit.rows import EventRow
from cloudpush.audit.statements import IMPATIENT
from cloudpush.errors import Code
from cloudpush.push.states import Event, State
from cloudpush.push.sweep import Due

ACTOR = "sweeper"
MESSAGE = "Its worker vanished and it ran out of attempts."
CANCELLED = "The push was cancelled."


class Broom:
    """``push.sweep.Broom`` on Postgres."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._leader = Leader(engine, SWEEPER)

    def lead(self) -> bool:
        """Whether this sweeper is the one."""
        return self._leader.lead()

    def close(self) -> None:
        """Give that up."""
        self._leader.close()

    def release_expired(self, max_strikes: int) -> Sequence[tuple[UUID, State]]:
        """Queue again what a vanished worker held. What vanished too often ends as WORKER_LOST."""
        ended: list[tuple[UUID, State]] = []
        told: dict[UUID, list[EventRow]] = {}
        with transaction(self._engine) as c:
            for row in c.execute(RELEASE_PARTS).all():
                lost: EventRow = (Event.PART_LEASE_EXPIRED, None, {"part": row.number, "worker": row.worker})
                told.setdefault(row.push_id, []).append(lost)
            for row in c.execute(RELEASE_PUSHES, {"max": max_strikes, "ended": MESSAGE, "cancelled": CANCELLED}).all():
                events = told.setdefault(row.id, [])
                events.append((Event.PUSH_LEASE_EXPIRED, None, {"worker": row.worker}))
                if row.state == State.FAILED:
                    events.append((Event.PUSH_FAILED, None, {"code": Code.WORKER_LOST, "message": MESSAGE}))
                if row.state == State.CANCELLED:
                    events.append((Event.PUSH_CANCELLED, None, {"code": Code.CANCELLED, "message": CANCELLED}))
                if State(row.state).final:
                    ended.append((row.id, State(row.state)))
            # Chains of many pushes in one transaction: by id, as whoever lets go on what waits for a grant takes them.
            for push_id in sorted(told):
                append_events(c, push_id, ACTOR, told[push_id])
        return ended

    def release_impatient(self, patience_seconds: float) -> int:
        """Queue again what has waited for a user since a push that is older than this: a worker then ends it.

        So it does with what waits for a grant that it may not use any more: its share ended while it waited.
        """
        with transaction(self._engine) as c:
            waiting = c.execute(IMPATIENT, {"seconds": patience_seconds}).all()
            for row in sorted(waiting, key=lambda row: row.id):
                _, events = resume(c, row.id, "patience is over" if row.consented else "consent over")
                append_events(c, row.id, ACTOR, events)
        return len(waiting)

    def due(self, *, unannounced_for: float, limit: int) -> Due:
        """Queued and due, but not announced lately: mark and return it."""
        params = {"seconds": unannounced_for, "limit": limit}
        with transaction(self._engine) as c:
            pushes = [row.id for row in c.execute(DUE_PUSHES, params)]
            parts = [(row.push_id, row.number) for row in c.execute(DUE_PARTS, params)]
        return Due(pushes, parts)


RELEASE_PARTS = sa.text("""
    WITH gone AS (
        SELECT push_id, number, worker FROM part
        WHERE state = 'running' AND lease_until < clock_timestamp() FOR UPDATE SKIP LOCKED LIMIT 500
    )
    UPDATE part SET state = 'queued', lease_token = NULL, lease_until = NULL, announced_at = NULL,
        strikes = strikes + 1, next_attempt_at = clock_timestamp(),
        error_code = 'WORKER_LOST', error_message = 'Its worker vanished.'
    FROM gone WHERE part.push_id = gone.push_id AND part.number = gone.number
    RETURNING part.push_id, part.number, gone.worker
""")

# Only pushes that were being planned hold a lease themselves.
RELEASE_PUSHES = sa.text("""
    WITH gone AS (
        SELECT id, worker, CASE
            WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN strikes + 1 >= :max THEN 'failed'
            ELSE 'queued' END AS next
        FROM push WHERE state = 'running' AND lease_until < clock_timestamp() FOR UPDATE SKIP LOCKED LIMIT 500
    )
    UPDATE push SET state = gone.next, lease_token = NULL, lease_until = NULL, announced_at = NULL,
        strikes = strikes + 1, next_attempt_at = clock_timestamp(),
        finished_at = CASE WHEN gone.next <> 'queued' THEN clock_timestamp() END,
        error_code = CASE WHEN gone.next = 'cancelled' THEN 'CANCELLED' ELSE 'WORKER_LOST' END,
        error_message = CASE gone.next WHEN 'cancelled' THEN :cancelled
            WHEN 'failed' THEN :ended ELSE 'Its worker vanished.' END
    FROM gone WHERE push.id = gone.id
    RETURNING push.id, push.state, gone.worker
""")

DUE_PUSHES = sa.text("""
    UPDATE push SET announced_at = clock_timestamp()
    WHERE id IN (
        SELECT id FROM push
        WHERE state = 'queued' AND coalesce(next_attempt_at, '-infinity') <= clock_timestamp()
          AND coalesce(announced_at, '-infinity') <= clock_timestamp() - make_interval(secs => :seconds)
        ORDER BY next_attempt_at NULLS FIRST LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING id
""")

DUE_PARTS = sa.text("""
    UPDATE part SET announced_at = clock_timestamp()
    FROM (
        SELECT q.push_id, q.number FROM part q JOIN push p ON p.id = q.push_id
        WHERE q.state = 'queued' AND p.planned_at IS NOT NULL
          AND coalesce(q.next_attempt_at, '-infinity') <= clock_timestamp()
          AND coalesce(q.announced_at, '-infinity') <= clock_timestamp() - make_interval(secs => :seconds)
        ORDER BY q.next_attempt_at NULLS FIRST LIMIT :limit FOR UPDATE OF q SKIP LOCKED) AS found
    WHERE part.push_id = found.push_id AND part.number = found.number
    RETURNING part.push_id, part.number
""")
