"""Verdicts that are owed to webhooks: kept until they are told, or given up."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from cloudpush.audit.database import append_events, statement, storable, transaction
from cloudpush.audit.rows import said
from cloudpush.errors import CloudPushError
from cloudpush.push.notices import Notice, Owed
from cloudpush.push.states import Event

ACTOR = "worker"


class Deliveries:
    """``push.notices.NoticeStore`` on Postgres. Thread-safe."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def chores(self, limit: int, taken_before: float) -> Sequence[Owed]:
        """See the port."""
        with transaction(self._engine) as c:
            return [Owed(*row) for row in c.execute(TAKE, {"limit": limit, "seconds": taken_before})]

    def following(self, owed: Owed) -> Owed | None:
        """See the port."""
        with transaction(self._engine) as c:
            row = c.execute(FOLLOWING, {"hook": owed.hook_id}).one_or_none()
        return None if row is None else Owed(*row)

    def get(self, owed: Owed) -> Notice | None:
        """See the port."""
        with statement(self._engine) as c:
            row = c.execute(GET, _key(owed)).mappings().one_or_none()
        return None if row is None else Notice(owed, row["since"], row["live"], dict(row))

    def end(self, owed: Owed, error: CloudPushError | None, *, told: bool = True) -> None:
        """See the port."""
        with transaction(self._engine) as c:
            if c.execute(END, {**_key(owed), **_error(error)}).rowcount and told:
                data = {"hook": str(owed.hook_id), "attempts": owed.attempt, **said(error)}
                append_events(c, owed.push_id, ACTOR, [(Event.PUSH_NOTIFIED, owed.hook_id, data)])

    def postpone(self, owed: Owed, error: CloudPushError, seconds: float) -> None:
        """See the port."""
        with statement(self._engine) as c:
            c.execute(POSTPONE, {**_key(owed), **_error(error), "seconds": seconds})


def _key(owed: Owed) -> dict[str, object]:
    return {"push": owed.push_id, "hook": owed.hook_id, "attempt": owed.attempt}


def _error(error: CloudPushError | None) -> dict[str, str | None]:
    return {
        "code": error.code.value if error else None,
        "message": storable(error.message) if error else None,
    }


# Two workers at the same moment may take up two of one webhook: no harm. A webhook that is owed something in vain comes after
# those that are not, the one that failed last at the end, and never gets the last free hand: each may cost a minute and a half,
# and have a day's verdicts that have been due for longer than anybody else's.
TAKE = sa.text("""
    WITH hook AS (
        SELECT hook_id, min(due_at) AS due_at, bool_or(error_code IS NOT NULL) AS failing,
            max(due_at) FILTER (WHERE error_code IS NOT NULL) AS failed
        FROM delivery WHERE done_at IS NULL GROUP BY hook_id
        HAVING min(due_at) <= clock_timestamp()
           AND coalesce(max(taken_at), '-infinity') <= clock_timestamp() - make_interval(secs => :seconds)),
    turn AS (
        SELECT *, row_number() OVER (PARTITION BY failing ORDER BY failed NULLS FIRST, due_at) AS place FROM hook),
    hand AS (
        SELECT hook_id FROM turn WHERE NOT failing OR place < :limit ORDER BY failing, place LIMIT :limit),
    due AS (
        SELECT one.* FROM hand CROSS JOIN LATERAL (
            SELECT push_id, hook_id FROM delivery d
            WHERE d.hook_id = hand.hook_id AND done_at IS NULL AND d.due_at <= clock_timestamp()
            ORDER BY d.due_at LIMIT 1 FOR UPDATE SKIP LOCKED) AS one)
    UPDATE delivery d SET taken_at = clock_timestamp(), attempts = attempts + 1
    FROM due WHERE d.push_id = due.push_id AND d.hook_id = due.hook_id
    RETURNING d.push_id, d.hook_id, d.attempts
""")

FOLLOWING = sa.text("""
    WITH due AS (
        SELECT push_id, hook_id FROM delivery
        WHERE hook_id = :hook AND done_at IS NULL AND taken_at IS NULL AND due_at <= clock_timestamp()
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    UPDATE delivery d SET taken_at = clock_timestamp(), attempts = attempts + 1
    FROM due WHERE d.push_id = due.push_id AND d.hook_id = due.hook_id
    RETURNING d.push_id, d.hook_id, d.attempts
""")

# Each try has its number: what is said by one that somebody else has overtaken counts no more.
GET = sa.text("""
    SELECT p.*, d.since, k.state = 'active' AND coalesce(k.expires_at > clock_timestamp(), true) AS live
    FROM delivery d JOIN push p ON p.id = d.push_id JOIN credential k ON k.id = d.hook_id
    WHERE d.push_id = :push AND d.hook_id = :hook AND d.attempts = :attempt AND d.done_at IS NULL
""")

END = sa.text("""
    UPDATE delivery SET done_at = clock_timestamp(), error_code = :code, error_message = :message
    WHERE push_id = :push AND hook_id = :hook AND attempts = :attempt AND done_at IS NULL
""")

POSTPONE = sa.text("""
    UPDATE delivery SET due_at = clock_timestamp() + make_interval(secs => :seconds), taken_at = NULL,
        error_code = :code, error_message = :message
    WHERE push_id = :push AND hook_id = :hook AND attempts = :attempt AND done_at IS NULL
""")
