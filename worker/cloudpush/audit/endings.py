"""How attempts of parts, parts and pushes end: verdicts of files, retries, pauses, final states.

Locks are taken in one order, part, grant, push, chain, so that parts that end at the same moment wait for each other and
nothing worse. That is why events are appended last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cloudpush.audit.plan import TOLD_FAILURES
from cloudpush.audit.rows import EventRow, error_params, part_key, part_span, result_columns, said, told
from cloudpush.audit.statements import (
    CLOSE_FILES,
    CLOSE_PUSH,
    COUNT_FILES,
    DUE_CLOSING,
    END_PART,
    END_PUSH,
    HOLD_PART,
    LOCK_PUSH,
    PAUSE_PART,
    PAUSE_PUSH,
    PAUSE_UNPLANNED,
    RECORD_FILES,
    RETRY_PART,
    RETRY_PUSH,
    USABLE,
)
from cloudpush.audit.usable import needs_consent
from cloudpush.errors import LeaseLost
from cloudpush.push.grants.model import GRANT_KINDS
from cloudpush.push.job import FileResult, Lease, Part, Push, Tally, Verdict
from cloudpush.push.states import ENDINGS, Event, FileState, State

#: Seconds until an attempt follows on a consent that is there already.
SOON = 1.0


def hold_part(c: sa.Connection, part: Part, lease: Lease) -> None:
    """Lock the part's row. Raises LeaseLost."""
    if c.execute(HOLD_PART, {**part_key(part), "token": lease.token}).one_or_none() is None:
        raise _lost(part)


def record_files(c: sa.Connection, part: Part, lease: Lease, results: Sequence[FileResult]) -> list[EventRow]:
    """Store verdicts of files; returns what is to be told. Raises LeaseLost."""
    if not results:
        return []
    if c.execute(RECORD_FILES, {**part_key(part), "token": lease.token, **result_columns(results)}).rowcount == 0:
        # The lease is gone, or all of it is known already.
        hold_part(c, part, lease)
    failures = [r for r in results if r.error is not None][:TOLD_FAILURES]
    return [(Event.FILE_FAILED, None, {"part": part.number, "seq": r.seq, **said(r.error)}) for r in failures]


def schedule_part(c: sa.Connection, part: Part, lease: Lease, verdict: Verdict) -> tuple[State, list[EventRow]]:
    """The part is tried again. Raises LeaseLost."""
    params = {"token": lease.token, "seconds": verdict.retry_in, "strike": int(verdict.strike)}
    if c.execute(RETRY_PART, {**part_key(part), **params, **error_params(verdict.error)}).rowcount != 1:
        raise _lost(part)
    return State.RUNNING, [(Event.PART_RETRY_SCHEDULED, None, {"part": part.number, **told(verdict)})]


def pause_part(
    c: sa.Connection, push: Push, part: Part, lease: Lease, verdict: Verdict
) -> tuple[State, list[EventRow]]:
    """The part waits for a user, unless what it waits for is there already. Raises LeaseLost."""
    if _came_meanwhile(c, push):
        return schedule_part(c, part, lease, _at_once(push, verdict))
    params = {**part_key(part), "token": lease.token, **error_params(verdict.error)}
    row = c.execute(PAUSE_PART, params).mappings().one_or_none()
    if row is None:
        raise _lost(part)
    state, waits = pause_where_all_wait(c, row)
    return state, [(Event.PART_PAUSED, None, {"part": part.number, **told(verdict)}), *waits]


def end_part(c: sa.Connection, part: Part, lease: Lease, verdict: Verdict) -> tuple[State, list[EventRow]]:
    """The part is over, and with the last one its push. Raises LeaseLost."""
    error = error_params(verdict.error)
    if verdict.state is not State.SUCCEEDED:
        word = FileState.CANCELLED if verdict.state is State.CANCELLED else FileState.FAILED
        c.execute(CLOSE_FILES, {**part_span(part), "state": word, **error})
    counts = dict(c.execute(COUNT_FILES, part_span(part)).mappings().one())
    if part.closing:
        counts["bytes"] = 0  # bytes are the data's, as in the plan
    tally = Tally(counts["verified"], counts["skipped"], counts["unverified"], counts["failed"], counts["cancelled"])
    verdict_row = {
        "token": lease.token,
        "state": tally.state,
        "code": counts["code"] or error["code"],
        "message": counts["message"] or error["message"],
    }
    row = c.execute(END_PART, {**part_key(part), **counts, **verdict_row}).mappings().one_or_none()
    if row is None:
        raise _lost(part)
    if row["package"] and row["parts_done"] == row["parts_total"] - 1:
        c.execute(DUE_CLOSING, {"id": part.push_id, "number": row["parts_total"]})
    finished: EventRow = (Event.PART_FINISHED, None, _part_finished(part, tally, counts))
    state, more = _end_push(c, row) if row["parts_done"] == row["parts_total"] else pause_where_all_wait(c, row)
    return state, [finished, *more]


def pause_where_all_wait(c: sa.Connection, row: sa.RowMapping) -> tuple[State, list[EventRow]]:
    """The push waits if each of its parts is over or waits. ``row``: its counts, with its lock held."""
    # The closing part waits for the others, not for a user.
    closing = bool(row["package"]) and row["parts_done"] < row["parts_total"] - 1
    if row["parts_done"] + row["parts_paused"] + closing < row["parts_total"]:
        return State(row["state"]), []
    waits = c.execute(PAUSE_PUSH, {"id": row["id"]}).one()
    data = {"parts": row["parts_paused"], "code": waits.error_code, "message": waits.error_message}
    return State.AWAITING_CONSENT, [(Event.PUSH_AWAITING_CONSENT, None, data)]


def end_attempt(c: sa.Connection, push_id: Any, lease: Lease, verdict: Verdict) -> list[EventRow]:
    """An attempt ends that did not get as far as parts, by a retry or for good. Raises LeaseLost."""
    params = {"id": push_id, "token": lease.token, **error_params(verdict.error)}
    if verdict.state is State.QUEUED:
        ended = c.execute(RETRY_PUSH, {**params, "seconds": verdict.retry_in, "strike": int(verdict.strike)})
        event = Event.PUSH_RETRY_SCHEDULED
    else:
        ended = c.execute(CLOSE_PUSH, {**params, "state": verdict.state})
        event = ENDINGS[verdict.state]
    if ended.rowcount != 1:
        raise LeaseLost(f"push {push_id}")
    return [(event, None, told(verdict))]


def pause_unplanned(c: sa.Connection, push: Push, lease: Lease, verdict: Verdict) -> list[EventRow]:
    """A push without a plan waits for a user, unless what it waits for is there already. Raises LeaseLost."""
    if _came_meanwhile(c, push):
        return end_attempt(c, push.id, lease, _at_once(push, verdict))
    params = {"id": push.id, "token": lease.token, **error_params(verdict.error)}
    if c.execute(PAUSE_UNPLANNED, params).rowcount != 1:
        raise LeaseLost(f"push {push.id}")
    return [(Event.PUSH_AWAITING_CONSENT, None, told(verdict))]


def _came_meanwhile(c: sa.Connection, push: Push) -> bool:
    """Whether fresh URLs, a consent, or a wish to stop, came after this worker's claim: it does not know of them.

    Takes the grant's lock, if it has one, and then the push's.
    """
    consented = push.credential_kind in GRANT_KINDS and not needs_consent(c, push)
    c.execute(LOCK_PUSH, {"id": push.id})
    now = c.execute(USABLE, {"id": push.id}).one()
    return consented or bool(now.cancelled) or now.credential_id != push.credential_id


def _at_once(push: Push, verdict: Verdict) -> Verdict:
    """Try again now; with a grant in a second, for whoever thinks that it needs a consent which the record has."""
    seconds = SOON if push.credential_kind in GRANT_KINDS else 0.0
    return Verdict(State.QUEUED, verdict.error, retry_in=seconds)


def _end_push(c: sa.Connection, row: sa.RowMapping) -> tuple[State, list[EventRow]]:
    """The last part is over: write the push's own verdict from what its files amount to."""
    seen = (row["files_verified"], row["files_skipped"], row["files_unverified"], row["files_failed"])
    tally = Tally(*seen, cancelled=row["files_total"] - sum(seen))
    ended = c.execute(END_PUSH, {"id": row["id"], "state": tally.state}).one()
    data = {
        "files": row["files_total"],
        "bytes": row["bytes_total"],
        "verified": tally.verified,
        "skipped": tally.skipped,
        "unverified": tally.unverified,
        "failed": tally.failed,
        "cancelled": tally.cancelled,
        "strength": row["strength"],
        **({"code": ended.error_code, "message": ended.error_message} if ended.error_code else {}),
    }
    return tally.state, [(ENDINGS[tally.state], None, data)]


def _part_finished(part: Part, tally: Tally, counts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "part": part.number,
        "first": part.first,
        "last": part.last,
        "verified": tally.verified,
        "skipped": tally.skipped,
        "unverified": tally.unverified,
        "failed": tally.failed,
        "cancelled": tally.cancelled,
        "files_sha256": bytes(counts["digest"]).hex(),
    }


def _lost(part: Part) -> LeaseLost:
    return LeaseLost(f"part {part.number} of push {part.push_id}")
