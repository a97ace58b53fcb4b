"""Reading the record: what was pushed, where it stands, what happened to it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import statement, transaction
from cloudpush.audit.tables import credential, event, file, part, push, renewal
from cloudpush.errors import Code, InputError
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.states import FileState, State

Row = dict[str, Any]

#: Rows fetched at once when a whole table is streamed.
STREAM_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which pushes. Empty means all; several fields mean all of them at once."""

    owner: str | None = None
    bucket: str | None = None
    state: State | None = None
    credential_kind: str | None = None
    credential_id: UUID | None = None
    error_code: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    label: tuple[str, str] | None = None


class History:
    """Questions that users and auditors ask."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def pushes(self, which: Filter, *, limit: int = 50, before: UUID | None = None) -> list[Row]:
        """The newest pushes first; ``before``: only those older than this one, for the next page."""
        query = sa.select(push).order_by(push.c.created_at.desc(), push.c.id.desc()).limit(limit)
        for condition in _conditions(which):
            query = query.where(condition)
        if before is not None:
            older = sa.select(push.c.created_at, push.c.id).where(push.c.id == before).subquery()
            query = query.where(
                sa.tuple_(push.c.created_at, push.c.id) < sa.select(older.c.created_at, older.c.id).scalar_subquery()
            )
        with transaction(self._engine) as c:
            return [_shown(row) for row in c.execute(query).mappings()]

    def push(self, push_id: UUID, owner: str | None = None) -> Row:
        """One push, with what its running parts have sent. Raises InputError UNKNOWN_PUSH, NOT_OWNER.

        With signed URLs also ``urls``: the current set's ``credential_id``, ``state``, ``expires_at``, and the
        ``origin`` that they lead to; and ``renewals``, as the method of that name gives them.
        """
        with statement(self._engine) as c:
            row = c.execute(sa.select(push).where(push.c.id == push_id)).mappings().one_or_none()
            if row is None:
                raise InputError(Code.UNKNOWN_PUSH, f"push {push_id} is not known.", field="push")
            if owner is not None and row["owner"] != owner:
                raise InputError(Code.NOT_OWNER, f"push {push_id} belongs to another owner.", field="push")
            live = c.execute(
                sa.select(
                    # Postgres adds bigints up to a numeric, which is no number in JSON.
                    sa.cast(sa.func.coalesce(sa.func.sum(part.c.sent_bytes), 0), sa.BigInteger).label("sent_bytes"),
                    sa.cast(sa.func.coalesce(sa.func.sum(part.c.sent_files), 0), sa.BigInteger).label("sent_files"),
                    sa.func.sum(part.c.speed).label("speed"),
                    sa.func.max(part.c.eta_seconds).label("eta_seconds"),
                ).where(part.c.push_id == push_id, part.c.state == State.RUNNING)
            ).mappings()
            shown = {**_shown(row), **live.one()}
            return shown | _signed(c, row) if row["credential_kind"] == SIGNED_URLS else shown

    def renewals(self, push_id: UUID) -> list[Row]:
        """Further sets of signed URLs that were handed over for a push, in order: when, by whom, for how many files."""
        with statement(self._engine) as c:
            return _renewals(c, push_id)

    def parts(self, push_id: UUID) -> list[Row]:
        """The push's parts in order."""
        query = sa.select(part).where(part.c.push_id == push_id).order_by(part.c.number)
        with transaction(self._engine) as c:
            return [_shown(row) for row in c.execute(query).mappings()]

    def events(self, stream: UUID) -> list[Row]:
        """Everything that happened to a push or a credential, in order."""
        query = sa.select(
            event.c.seq, event.c.at, event.c.kind, event.c.actor, event.c.credential_id, event.c.data, event.c.hash
        )
        with transaction(self._engine) as c:
            rows = c.execute(query.where(event.c.stream == stream).order_by(event.c.seq)).mappings()
            return [_shown(row) for row in rows]

    def ledger(
        self, credential_id: UUID, *, after: int = 0, limit: int | None = None, newest: bool = False
    ) -> list[Row]:
        """A credential's or grant's whole life, in order: its own events, and those of pushes that are about it.

        ``stream``: whose event it is, its own id or a push's. ``id``: for the next page, which begins ``after`` that one.
        ``newest``: the last ``limit`` events and not the first, in order all the same.
        """
        columns = (event.c.id, event.c.stream, event.c.seq, event.c.at, event.c.kind, event.c.actor, event.c.data)
        of_it = (event.c.stream == credential_id, event.c.credential_id == credential_id)
        order = event.c.id.desc() if newest else event.c.id
        # Each half by its own index and no more rows than are wanted: a busy grant has a long life.
        halves = [
            sa.select(*columns, event.c.hash).where(half, event.c.id > after).order_by(order).limit(limit).subquery()
            for half in of_it
        ]
        # An event's data is json, which Postgres cannot compare: doubles are left out by number.
        own, named = (sa.select(half) for half in halves)
        both = own.union_all(named.where(halves[1].c.stream != credential_id)).subquery()
        query = sa.select(both).order_by(both.c.id.desc() if newest else both.c.id).limit(limit)
        with transaction(self._engine) as c:
            rows = [_shown(row) for row in c.execute(query).mappings()]
        return rows[::-1] if newest else rows

    def files(
        self, push_id: UUID, *, states: Sequence[FileState] = (), after: int = 0, limit: int | None = None
    ) -> Iterator[Row]:
        """The push's files in order, streamed in constant memory; ``after``: a sequence number, for the next page."""
        left = limit
        while left is None or left > 0:
            rows = self._file_page(push_id, states, after, min(STREAM_ROWS, left or STREAM_ROWS))
            yield from rows
            if len(rows) < min(STREAM_ROWS, left or STREAM_ROWS):
                return
            after = rows[-1]["seq"]
            left = None if left is None else left - len(rows)

    def _file_page(self, push_id: UUID, states: Sequence[FileState], after: int, limit: int) -> list[Row]:
        query = sa.select(file).where(file.c.push_id == push_id, file.c.seq > after)
        if states:
            query = query.where(file.c.state.in_([s.value for s in states]))
        with transaction(self._engine) as c:
            return [_shown(row) for row in c.execute(query.order_by(file.c.seq).limit(limit)).mappings()]


def _signed(c: sa.Connection, row: sa.RowMapping) -> Row:
    """What a push with signed URLs has beside the others."""
    renewals = _renewals(c, row["id"])
    current = renewals[-1]["credential_id"] if renewals else row["credential_id"]
    columns = credential.c
    query = sa.select(
        columns.id.label("credential_id"), columns.state, columns.expires_at, columns.endpoint.label("origin")
    )
    return {"urls": dict(c.execute(query.where(columns.id == current)).mappings().one()), "renewals": renewals}


def _renewals(c: sa.Connection, push_id: UUID) -> list[Row]:
    query = sa.select(renewal).where(renewal.c.push_id == push_id).order_by(renewal.c.number)
    return [_shown(row) for row in c.execute(query).mappings()]


def _conditions(which: Filter) -> Iterator[sa.ColumnElement[bool]]:
    columns = push.c
    for column, value in (
        (columns.owner, which.owner),
        (columns.bucket, which.bucket),
        (columns.state, which.state and which.state.value),
        (columns.credential_kind, which.credential_kind),
        (columns.credential_id, which.credential_id),
        (columns.error_code, which.error_code),
    ):
        if value is not None:
            yield column == value
    if which.since is not None:
        yield columns.created_at >= which.since
    if which.until is not None:
        yield columns.created_at < which.until
    if which.label is not None:
        key, value = which.label
        yield columns.labels.contains({key: value})


def _shown(row: sa.RowMapping) -> Row:
    """A row as people and JSON see it: digests in hex, internals left out."""
    return {
        name: bytes(value).hex() if isinstance(value, bytes | memoryview) else value
        for name, value in row.items()
        if name not in ("lease_token", "request_sha256")
    }
