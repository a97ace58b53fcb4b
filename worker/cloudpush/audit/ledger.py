"""The store of pushes in Postgres: every step one transaction, every state change guarded and recorded.

Two guards stand in every statement that changes something: the state it may leave, and the lease
token of whoever changes it. A statement that finds no row has lost its lease: nothing of its transaction stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import append_events, statement, storable, transaction
from cloudpush.audit.statements import (
    CLAIM_PART,
    CLAIM_PUSH,
    CLOSE_FILES,
    CLOSE_PUSH,
    COPY_FILES,
    COUNT_FILES,
    DROP_PLAN_FILES,
    DROP_PLAN_PARTS,
    END_PART,
    END_PUSH,
    EXTEND_PARTS,
    EXTEND_PUSHES,
    FINISH_PLAN,
    HOLD_PART,
    HOLD_PUSH,
    INSERT_PAGE,
    INSERT_PART,
    NOTE_PROGRESS,
    OPEN_FILES,
    READ_PUSH,
    RECORD_FILES,
    RETRY_PART,
    RETRY_PUSH,
    USABLE,
)
from cloudpush.errors import Cancelled, CloudPushError, Code, CredentialError, InputError, LeaseLost
from cloudpush.push.job import (
    Destination,
    FileResult,
    Lease,
    Page,
    Part,
    PlannedFile,
    Progress,
    Push,
    Refusal,
    Tally,
    Verdict,
)
from cloudpush.push.states import ENDINGS, Event, FileState, Overwrite, State, Strength

#: Failed files that get an event of their own, with the provider's words, per transaction; all have their row.
TOLD_FAILURES = 20

#: Up to so many rows go by one INSERT; beyond, COPY is quicker.
FEW_ROWS = 50

EventRow = tuple[str, UUID | None, Mapping[str, Any]]


class Ledger:
    """``push.ports.Store`` on Postgres.

    ``destination`` turns a stored URI and profile name into a Destination.
    """

    def __init__(self, engine: sa.Engine, destination: Callable[[str, str], Destination]) -> None:
        self._engine = engine
        self._destination = destination

    # -- claiming ----------------------------------------------------------------------------

    def claim_push(self, push_id: UUID, lease: Lease) -> Push | None:
        with statement(self._engine) as c:
            row = c.execute(CLAIM_PUSH, {"id": push_id, **_params(lease)}).mappings().one_or_none()
        if row is None:
            return None
        if row["attempt"] > 1:
            with transaction(self._engine) as c:
                # A worker that was held up since its claim must not drop the pages of its successor.
                if c.execute(HOLD_PUSH, {"id": push_id, "token": lease.token}).one_or_none() is None:
                    return None
                c.execute(DROP_PLAN_FILES, {"id": push_id})
                c.execute(DROP_PLAN_PARTS, {"id": push_id})
        try:
            return self._push(row)
        except InputError as e:
            # It was right when it was submitted: the operator has changed the profile since.
            self._end_attempt(push_id, lease, Verdict(State.FAILED, e))
            return None

    def claim_part(self, push_id: UUID, number: int, lease: Lease) -> tuple[Push, Part] | None:
        with transaction(self._engine) as c:
            found = c.execute(CLAIM_PART, {"id": push_id, "number": number, **_params(lease)}).mappings().one_or_none()
            if found is None:
                return None
            part = _part(found)
            row = c.execute(READ_PUSH, {"id": push_id}).mappings().one()
            append_events(
                c, push_id, lease.worker, [(Event.PART_CLAIMED, None, {"part": number, "attempt": part.attempt})]
            )
        try:
            return self._push(row), part
        except InputError as e:
            self._end_part(part, lease, Verdict(State.FAILED, e))
            return None

    def _push(self, row: sa.RowMapping) -> Push:
        return Push(
            id=row["id"],
            owner=row["owner"],
            source=Path(row["source"]),
            destination=self._destination(row["uri"], row["profile"]),
            credential_id=row["credential_id"],
            credential_kind=row["credential_kind"],
            min_strength=Strength.of(row["min_strength"]),
            overwrite=Overwrite(row["overwrite"]),
            include=tuple(row["include"]),
            exclude=tuple(row["exclude"]),
            created_at=row["created_at"],
            attempt=row["attempt"],
            strikes=row["strikes"],
            cancelled=row["cancelled"],
        )

    # -- planning ----------------------------------------------------------------------------

    def record_page(self, push: Push, lease: Lease, page: Page) -> None:
        with transaction(self._engine) as c:
            _hold_push(c, push, lease)
            _copy_files(c, page)
            c.execute(
                INSERT_PART,
                {
                    **_part_params(page.part),
                    "state": State.QUEUED,
                    "token": None,
                    "seconds": None,
                    "worker": None,
                    "attempt": 0,
                },
            )
            events = _refusals(page)
            if events:
                append_events(c, push.id, lease.worker, events)

    def finish_plan(self, push: Push, lease: Lease, *, parts: int, files: int, bytes_: int) -> None:
        with transaction(self._engine) as c:
            _finish_plan(c, push, lease, parts=parts, files=files, bytes_=bytes_)
            append_events(c, push.id, lease.worker, [_planned(parts, files, bytes_)])

    def finish_plan_with(self, push: Push, lease: Lease, page: Page) -> None:
        part = page.part
        with transaction(self._engine) as c:
            _check_usable(_finish_plan(c, push, lease, parts=1, files=part.files, bytes_=part.bytes), push)
            mine = {**_part_params(part), "state": State.RUNNING, "attempt": 1, **_params(lease)}
            if len(page.rows) <= FEW_ROWS:
                c.execute(INSERT_PAGE, {**mine, **_rows(page)})
            else:
                _copy_files(c, page)
                c.execute(INSERT_PART, mine)
            events = [_planned(1, part.files, part.bytes), *_refusals(page), _used(push, part, lease)]
            append_events(c, push.id, lease.worker, events)

    def open_files(self, part: Part) -> Sequence[PlannedFile]:
        with transaction(self._engine) as c:
            rows = c.execute(OPEN_FILES, {"id": part.push_id, "first": part.first, "last": part.last})
            return [PlannedFile(*row) for row in rows]

    # -- executing ---------------------------------------------------------------------------

    def record_credential_use(self, push: Push, part: Part, lease: Lease) -> None:
        with transaction(self._engine) as c:
            _hold_part(c, part, lease)
            _check_usable(c.execute(USABLE, {"id": push.id}).one(), push)
            append_events(c, push.id, lease.worker, [_used(push, part, lease)])

    def record_files(self, part: Part, lease: Lease, results: Sequence[FileResult]) -> None:
        if results:
            with transaction(self._engine) as c:
                _record_files(c, part, lease, results)

    def end_part(
        self,
        push: Push,  # noqa: ARG002 -- the port's
        part: Part,
        lease: Lease,
        verdict: Verdict,
        results: Sequence[FileResult] = (),
    ) -> State:
        return self._end_part(part, lease, verdict, results)

    def _end_part(self, part: Part, lease: Lease, verdict: Verdict, results: Sequence[FileResult] = ()) -> State:
        with transaction(self._engine) as c:
            if results:
                _record_files(c, part, lease, results)
            if verdict.state is State.QUEUED:
                return _schedule_part(c, part, lease, verdict)
            error = _error_params(verdict.error)
            if verdict.state is not State.SUCCEEDED:
                word = FileState.CANCELLED if verdict.state is State.CANCELLED else FileState.FAILED
                c.execute(CLOSE_FILES, {**_span(part), "state": word, **error})
            counts = c.execute(COUNT_FILES, _span(part)).mappings().one()
            tally = _tally(counts)
            row = (
                c.execute(
                    END_PART,
                    {
                        **_key(part),
                        **counts,
                        "token": lease.token,
                        "state": tally.state,
                        "code": counts["code"] or error["code"],
                        "message": counts["message"] or error["message"],
                    },
                )
                .mappings()
                .one_or_none()
            )
            if row is None:
                raise LeaseLost(f"part {part.number} of push {part.push_id}")
            events: list[EventRow] = [(Event.PART_FINISHED, None, _part_finished(part, tally, counts))]
            state = State(row["state"])
            if row["parts_done"] == row["parts_total"]:
                state = _end_push(c, row, events)
            append_events(c, part.push_id, lease.worker, events)
        return state

    def end_push(self, push: Push, lease: Lease, verdict: Verdict) -> None:
        self._end_attempt(push.id, lease, verdict)

    def _end_attempt(self, push_id: UUID, lease: Lease, verdict: Verdict) -> None:
        with transaction(self._engine) as c:
            error = _error_params(verdict.error)
            params = {"id": push_id, "token": lease.token, **error}
            if verdict.state is State.QUEUED:
                ended = c.execute(RETRY_PUSH, {**params, "seconds": verdict.retry_in, "strike": int(verdict.strike)})
                event = (Event.PUSH_RETRY_SCHEDULED, None, _told(verdict))
            else:
                ended = c.execute(CLOSE_PUSH, {**params, "state": verdict.state})
                event = (ENDINGS[verdict.state], None, _told(verdict))
            if ended.rowcount != 1:
                raise LeaseLost(f"push {push_id}")
            append_events(c, push_id, lease.worker, [event])

    # -- the heartbeat -------------------------------------------------------------------------

    def extend(self, tokens: Iterable[UUID], seconds: float) -> Mapping[UUID, bool]:
        params = {"tokens": list(tokens), "seconds": seconds}
        with transaction(self._engine) as c:
            # In this order: a lease that moves from a push to its only part meanwhile is met at least once.
            rows = [*c.execute(EXTEND_PUSHES, params), *c.execute(EXTEND_PARTS, params)]
        answer: dict[UUID, bool] = {}
        for token, cancelled in rows:
            answer[token] = answer.get(token, False) or cancelled
        return answer

    def note_progress(self, moments: Mapping[UUID, Progress]) -> None:
        if not moments:
            return
        rows = [
            {"token": t, "bytes": p.bytes, "files": p.files, "speed": p.speed, "eta": p.eta} for t, p in moments.items()
        ]
        with transaction(self._engine) as c:
            c.execute(NOTE_PROGRESS, rows)


# -- pieces of a transaction ---------------------------------------------------------------------


def _hold_push(c: sa.Connection, push: Push, lease: Lease) -> None:
    if c.execute(HOLD_PUSH, {"id": push.id, "token": lease.token}).one_or_none() is None:
        raise LeaseLost(f"push {push.id}")


def _hold_part(c: sa.Connection, part: Part, lease: Lease) -> None:
    if c.execute(HOLD_PART, {**_key(part), "token": lease.token}).one_or_none() is None:
        raise LeaseLost(f"part {part.number} of push {part.push_id}")


def _record_files(c: sa.Connection, part: Part, lease: Lease, results: Sequence[FileResult]) -> None:
    if c.execute(RECORD_FILES, {**_key(part), "token": lease.token, **_columns(results)}).rowcount == 0:
        # The lease is gone, or all of it is known already.
        _hold_part(c, part, lease)
    events = [_file_failed(part, r) for r in results if r.error is not None][:TOLD_FAILURES]
    if events:
        append_events(c, part.push_id, lease.worker, events)


def _finish_plan(c: sa.Connection, push: Push, lease: Lease, *, parts: int, files: int, bytes_: int) -> sa.Row[Any]:
    """Returns what ``_check_usable`` looks at. Raises LeaseLost."""
    row = c.execute(
        FINISH_PLAN, {"id": push.id, "token": lease.token, "parts": parts, "files": files, "bytes": bytes_}
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"push {push.id}")
    return row


def _check_usable(row: sa.Row[Any], push: Push) -> None:
    """Raise unless the push goes on and its credential may be unsealed now."""
    if row.cancelled:
        raise Cancelled
    if row.credential_state != "active":
        raise CredentialError(
            Code.CREDENTIAL_PURGED, f"Credential {push.credential_id} is {row.credential_state}: its secret is gone."
        )
    if row.expired:
        raise CredentialError(
            Code.CREDENTIAL_EXPIRED,
            f"Credential {push.credential_id} expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC.",
        )


def _used(push: Push, part: Part, lease: Lease) -> EventRow:
    return (
        Event.CREDENTIAL_USED,
        push.credential_id,
        {"push": push.id, "part": part.number, "worker": lease.worker},
    )


def _schedule_part(c: sa.Connection, part: Part, lease: Lease, verdict: Verdict) -> State:
    done = c.execute(
        RETRY_PART,
        {
            **_key(part),
            "token": lease.token,
            "seconds": verdict.retry_in,
            "strike": int(verdict.strike),
            **_error_params(verdict.error),
        },
    )
    if done.rowcount != 1:
        raise LeaseLost(f"part {part.number} of push {part.push_id}")
    append_events(
        c, part.push_id, lease.worker, [(Event.PART_RETRY_SCHEDULED, None, {"part": part.number, **_told(verdict)})]
    )
    return State.RUNNING


def _end_push(c: sa.Connection, row: sa.RowMapping, events: list[EventRow]) -> State:
    """The last part is over: write the push's own verdict from what its files amount to."""
    tally = Tally(
        row["files_verified"],
        row["files_skipped"],
        row["files_unverified"],
        row["files_failed"],
        row["files_total"]
        - row["files_verified"]
        - row["files_skipped"]
        - row["files_unverified"]
        - row["files_failed"],
    )
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
    events.append((ENDINGS[tally.state], None, data))
    return tally.state


def _rows(page: Page) -> dict[str, list[Any]]:
    """A page as one array a column."""
    columns = zip(*(_file_row(r) for r in page.rows), strict=True)
    names = ("seqs", "paths", "keys", "sizes", "mtimes", "states", "codes", "messages")
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def _file_row(r: PlannedFile | Refusal) -> tuple[Any, ...]:
    if isinstance(r, Refusal):
        return (r.seq, r.path, "", 0, 0, "failed", r.error.code.value, storable(r.error.message))
    return (r.seq, r.path, r.key, r.size, r.mtime_ns, "planned", None, None)


def _copy_files(c: sa.Connection, page: Page) -> None:
    """COPY: thousands of rows in tens of milliseconds."""
    driver = c.connection.driver_connection
    assert driver is not None  # noqa: S101 -- a checked-out connection has one
    with driver.cursor().copy(COPY_FILES) as copy:
        copy.set_types(["uuid", "int8", "text", "text", "int8", "int8", "text", "text", "text"])
        for r in page.rows:
            copy.write_row((page.part.push_id, *_file_row(r)))


def _refusals(page: Page) -> list[EventRow]:
    refused = [r for r in page.rows if isinstance(r, Refusal)]
    return [
        (Event.FILE_FAILED, None, {"seq": r.seq, "path": r.path, "code": r.error.code, "message": r.error.message})
        for r in refused[:TOLD_FAILURES]
    ]


def _planned(parts: int, files: int, bytes_: int) -> EventRow:
    return (Event.PUSH_PLANNED, None, {"parts": parts, "files": files, "bytes": bytes_})


def _file_failed(part: Part, r: FileResult) -> EventRow:
    return (Event.FILE_FAILED, None, {"part": part.number, "seq": r.seq, **_said(r.error)})


def _part_finished(part: Part, tally: Tally, counts: sa.RowMapping) -> dict[str, Any]:
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


def _told(verdict: Verdict) -> dict[str, Any]:
    told = _said(verdict.error)
    return told if verdict.retry_in is None else {**told, "retry_in_seconds": round(verdict.retry_in, 3)}


def _said(error: CloudPushError | None) -> dict[str, Any]:
    """An error as an event tells it: our words, and the foreign system's, redacted where they arose."""
    if error is None:
        return {}
    said = {"code": error.code, "message": error.message, "who_must_act": error.code.actor}
    return {**said, "detail": error.detail} if error.detail else said


def _tally(counts: sa.RowMapping) -> Tally:
    return Tally(counts["verified"], counts["skipped"], counts["unverified"], counts["failed"], counts["cancelled"])


def _params(lease: Lease) -> dict[str, Any]:
    return {"token": lease.token, "seconds": lease.seconds, "worker": lease.worker}


def _key(part: Part) -> dict[str, Any]:
    return {"id": part.push_id, "number": part.number}


def _span(part: Part) -> dict[str, Any]:
    return {"id": part.push_id, "first": part.first, "last": part.last}


def _part(row: sa.RowMapping) -> Part:
    return Part(
        row["push_id"],
        row["number"],
        row["first_seq"],
        row["last_seq"],
        row["files"],
        row["bytes"],
        row["attempt"],
        row["strikes"],
    )


def _part_params(part: Part) -> dict[str, Any]:
    return {**_key(part), "first": part.first, "last": part.last, "files": part.files, "bytes": part.bytes}


def _error_params(error: CloudPushError | None) -> dict[str, Any]:
    return {"code": error.code.value if error else None, "message": storable(error.message) if error else None}


def _columns(results: Sequence[FileResult]) -> dict[str, list[Any]]:
    """Results as one array a column: a single statement updates them all."""
    return {
        "seq": [r.seq for r in results],
        "state": [r.state.value for r in results],
        "strength": [r.strength.word for r in results],
        "sha256": [r.sha256 for r in results],
        "expected": [r.expected or None for r in results],
        "etag": [storable(r.etag) or None for r in results],
        "version_id": [storable(r.version_id) or None for r in results],
        "uploaded_at": [r.uploaded_at for r in results],
        "code": [r.error.code.value if r.error else None for r in results],
        "message": [storable(r.error.message) if r.error else None for r in results],
    }
