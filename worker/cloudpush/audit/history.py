"""Reading the record: what was pushed, where it stands, what happened to it. Changes nothing."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit import listings
from cloudpush.audit.anchors import anchored
from cloudpush.audit.charts import Bucket, Step, Totals, series, totals
from cloudpush.audit.database import statement, transaction
from cloudpush.audit.export import Exporter, Wanted
from cloudpush.audit.filters import Filter
from cloudpush.audit.findings import Report, Witness
from cloudpush.audit.integrity import verify
from cloudpush.audit.listings import LedgerFilter
from cloudpush.audit.pages import Cursor, Page, newest
from cloudpush.audit.retired import archive_of, pseudonyms, put_away
from cloudpush.audit.rows import shown
from cloudpush.audit.tables import credential, event, file, part, push, renewal
from cloudpush.audit.trust_tables import checkpoint, inspection
from cloudpush.errors import Code, InputError
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.states import FileState, State

__all__ = ["Bucket", "Cursor", "FileRows", "Filter", "History", "LedgerFilter", "Page", "Row", "Step", "Totals"]

Row = dict[str, Any]

#: Rows fetched at once when a whole table is streamed.
STREAM_ROWS = 2_000
#: Events that are not sealed yet are counted up to so many.
UNSEALED = 100_000


@dataclass(frozen=True, slots=True)
class FileRows:
    """Files in their order, and after which number the next page begins; None: there is none."""

    rows: list[Row]
    after: int | None


class History:
    """Questions that users and auditors ask."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def page(self, which: Filter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """The newest pushes first, and the cursor of the next page. Raises InputError for a cursor of another question."""
        question = which.fingerprint()
        after = Cursor.decode(cursor, question) if cursor else None
        with transaction(self._engine) as c:
            rows = newest(c, which, limit + 1, after)
        last = rows[limit - 1] if len(rows) > limit else None
        following = Cursor(last["created_at"], last["id"]).encode(question) if last else None
        return Page([shown(row) for row in rows[:limit]], following)

    def pushes(self, which: Filter, *, limit: int = 50, before: UUID | None = None) -> list[Row]:
        """The newest pushes first, without a cursor; ``before``: only those older than this one."""
        with transaction(self._engine) as c:
            after = None
            if before is not None:
                row = c.execute(sa.select(push.c.created_at).where(push.c.id == before)).one_or_none()
                if row is None:
                    return []
                after = Cursor(row.created_at, before)
            return [shown(row) for row in newest(c, which, limit, after)]

    def totals(self, which: Filter) -> Totals:
        """How many pushes, files and bytes, and how many pushes in each state; ``exact`` says whether that is all."""
        with transaction(self._engine) as c:
            return totals(c, which)

    def series(self, which: Filter, step: Step | str = Step.DAY) -> list[Bucket]:
        """How many pushes and bytes began in each day, week or month, in order, from the first to the last of them."""
        with transaction(self._engine) as c:
            return series(c, which, Step(step))

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
            found = {**shown(row), **live.one()}
            return found | _signed(c, row) if row["credential_kind"] == SIGNED_URLS else found

    def renewals(self, push_id: UUID) -> list[Row]:
        """Further sets of signed URLs that were handed over for a push, in order: when, by whom, for how many files."""
        with statement(self._engine) as c:
            return _renewals(c, push_id)

    def archived(self, push_id: UUID) -> Row | None:
        """``month`` and ``archive_sha256`` of the archive that has the push's file rows, if they were dropped from here."""
        with statement(self._engine) as c:
            found = archive_of(c, push_id)
        return dict(found) if found is not None else None

    def parts(self, push_id: UUID, *, after: int = 0, limit: int | None = None) -> list[Row]:
        """The push's parts in order, all of them by default; ``after``: the number of a part."""
        query = sa.select(part).where(part.c.push_id == push_id, part.c.number > after).order_by(part.c.number)
        with transaction(self._engine) as c:
            return [shown(row) for row in c.execute(query.limit(limit)).mappings()]

    def events(
        self,
        stream: UUID,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> list[Row]:
        """What happened to a push or a credential, in order, all of it by default; ``after``: the number of an event.

        ``newest``: the last ``limit`` events (``before`` that one) and not the first, in order all the same.
        """
        query = sa.select(
            event.c.seq, event.c.at, event.c.kind, event.c.actor, event.c.credential_id, event.c.data, event.c.hash
        )
        with transaction(self._engine) as c:
            of_it = query.where(event.c.stream == stream, event.c.seq > after)
            if before is not None:
                of_it = of_it.where(event.c.seq < before)
            order = event.c.seq.desc() if newest else event.c.seq
            rows = [shown(row) for row in c.execute(of_it.order_by(order).limit(limit)).mappings()]
        return rows[::-1] if newest else rows

    def ledger(
        self,
        credential_id: UUID,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> list[Row]:
        """A credential's or grant's whole life, in order: its own events, and those of pushes that are about it.

        ``stream``: whose event it is, its own id or a push's. ``id``: for the next page, which begins ``after`` that one.
        ``newest``: the last ``limit`` events (``before`` that one) and not the first, in order all the same.
        """
        columns = (event.c.id, event.c.stream, event.c.seq, event.c.at, event.c.kind, event.c.actor, event.c.data)
        of_it = (event.c.stream == credential_id, event.c.credential_id == credential_id)
        order = event.c.id.desc() if newest else event.c.id
        span = [event.c.id > after, *([] if before is None else [event.c.id < before])]
        # Each half by its own index and no more rows than are wanted: a busy grant has a long life.
        halves = [
            sa.select(*columns, event.c.hash).where(half, *span).order_by(order).limit(limit).subquery()
            for half in of_it
        ]
        # An event's data is json, which Postgres cannot compare: doubles are left out by number.
        own, named = (sa.select(half) for half in halves)
        both = own.union_all(named.where(halves[1].c.stream != credential_id)).subquery()
        query = sa.select(both).order_by(both.c.id.desc() if newest else both.c.id).limit(limit)
        with transaction(self._engine) as c:
            rows = [shown(row) for row in c.execute(query).mappings()]
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

    def file_page(
        self, push_id: UUID, *, states: Sequence[FileState] = (), text: str = "", after: int = 0, limit: int = 200
    ) -> FileRows:
        """A page of the push's files in order, those whose path contains ``text``; and after which number the next begins.

        It may have fewer than ``limit`` and still have one after it: no more than a bounded number is looked at.
        """
        with transaction(self._engine) as c:
            page = listings.files(c, push_id, states, text, after, limit)
        return FileRows([shown(row) for row in page.rows], page.after)

    def ledger_all(self, which: LedgerFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """What happened to credentials and consents, newest first, across all of them.

        Each with its credential's ``owner``, ``credential_kind`` and ``name``. A page may have fewer than ``limit`` and
        still have one after it. Raises InputError for a cursor of another question.
        """
        with transaction(self._engine) as c:
            rows, following = listings.ledger(c, which, limit, cursor)
        return Page([shown(row) for row in rows], following)

    def integrity(self) -> Row:
        """``inspection``: the last one, None before the first. ``checkpoint``: the newest. ``unsealed``: events since.

        ``unsealed`` is counted up to ``UNSEALED``, and ``unsealed_more`` says that there are more. ``months``: those that were
        archived or dropped; ``pseudonyms``: how many people's names were replaced.
        """
        with transaction(self._engine) as c:
            last = c.execute(sa.select(inspection).order_by(inspection.c.id.desc()).limit(1)).mappings().one_or_none()
            newest_one = sa.select(checkpoint).order_by(checkpoint.c.number.desc()).limit(1)
            sealed = c.execute(newest_one).mappings().one_or_none()
            later = sa.select(event.c.id).where(event.c.id > (sealed["last_id"] if sealed else 0))
            unsealed = c.execute(
                sa.select(sa.func.count()).select_from(later.limit(UNSEALED + 1).subquery())
            ).scalar_one()
            months, replaced = put_away(c), pseudonyms(c)
        return {
            "inspection": shown(last) if last else None,
            "checkpoint": shown(sealed) if sealed else None,
            "unsealed": min(unsealed, UNSEALED),
            "unsealed_more": unsealed > UNSEALED,
            "months": months,
            "pseudonyms": replaced,
        }

    def verify(self, push_id: UUID, witness: Witness | None = None) -> Report:
        """A look at every row of one push; without a ``witness`` at nothing but the database."""
        return verify(self._engine, push_id, witness)

    def anchored(self, witness: Witness) -> Report:
        """Whether the checkpoints that Vault remembers are there, and nothing else."""
        return anchored(self._engine, witness)

    def export(self, wanted: Wanted, actor: str) -> Generator[bytes]:
        """A table as a file, in chunks; close it when its reader has gone. Raises StoreError."""
        return Exporter(self._engine).stream(wanted, actor)

    def checkpoints(self, *, limit: int = 50, before: int | None = None) -> list[Row]:
        """The newest first; ``before``: only those with a lower number."""
        query = sa.select(checkpoint).order_by(checkpoint.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(checkpoint.c.number < before)
        with transaction(self._engine) as c:
            return [shown(row) for row in c.execute(query).mappings()]

    def _file_page(self, push_id: UUID, states: Sequence[FileState], after: int, limit: int) -> list[Row]:
        query = sa.select(file).where(file.c.push_id == push_id, file.c.seq > after)
        if states:
            query = query.where(file.c.state.in_([s.value for s in states]))
        with transaction(self._engine) as c:
            return [shown(row) for row in c.execute(query.order_by(file.c.seq).limit(limit)).mappings()]


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
    return [shown(row) for row in c.execute(query).mappings()]
