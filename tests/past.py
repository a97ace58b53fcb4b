"""A record whose clock the test sets: months that are over, made today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from unittest.mock import patch
from uuid import UUID, uuid4

import sqlalchemy as sa

from builders import a_lease, a_page, a_request, done, verified
from cloudpush.audit.receipts import Receipts
from cloudpush.audit.retired import first_of
from cloudpush.credentials.ed25519 import verify
from cloudpush.push.trust.issuing import Issuing
from fakes import FakeClock
from notaries import FakeNotary
from receipt_builders import Notary
from records import Record


def months_back(count: int) -> date:
    """The first day of the month so many before the present one."""
    now = datetime.now(UTC)
    total = now.year * 12 + now.month - 1 - count
    return date(total // 12, total % 12 + 1, 1)


class Past:
    """A record with three months: two that are over, and the present one. Sealed."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.notary = FakeNotary(record.app)
        self.issuer = Notary()
        self.older, self.newer = months_back(3), months_back(2)
        with record.owner.begin() as c:
            for month in (self.older, self.newer):
                for parent in ("event", "file"):
                    c.execute(sa.text("SELECT cloudpush_make_partition(:p, :m)"), {"p": parent, "m": first_of(month)})
            self._append = c.execute(
                sa.text(
                    "SELECT pg_get_functiondef('cloudpush_append(uuid, text, text[], uuid[], text[])'::regprocedure)"
                )
            ).scalar_one()

    @contextmanager
    def at(self, moment: datetime) -> Iterator[None]:
        """Events, and ids of pushes, are of then."""
        ago = datetime.now(UTC) - moment
        shifted = self._append.replace("clock_timestamp()", f"clock_timestamp() - interval '{ago.total_seconds()} s'")
        started = self.record.now()
        self._replace(shifted)
        try:
            with patch("cloudpush.audit.desk.uuid7", lambda: _uuid7(moment)):
                yield
        finally:
            self._replace(self._append)
            self._age(started, ago)

    def push(self, month: date, *, ends: date | None = None, **request: object) -> UUID:
        """A push of two files, submitted in the month; it ends in another one, or there, too."""
        record, lease = self.record, a_lease()
        begun = first_of(month) + timedelta(days=20)
        with self.at(begun):
            push = record.ledger.claim_push(record.submitted(a_request(**request)), lease)
            assert push is not None
            page = a_page(push.id)
            record.ledger.finish_plan_with(push, lease, page)
            if ends is None:
                record.ledger.record_files(page.part, lease, verified([1, 2]))
                assert record.ledger.end_part(push, page.part, lease, done()).final
        if ends is not None:
            with self.at(first_of(ends) + timedelta(days=3)):
                record.ledger.record_files(page.part, lease, verified([1, 2]))
                assert record.ledger.end_part(push, page.part, lease, done()).final
        return push.id

    def receipts(self, **software: str) -> None:
        """Issue those that are owed. ``software``: as they name it."""
        issuing = Issuing(
            Receipts(self.record.app),
            self.issuer,
            verify,
            FakeClock(),
            issuer="https://push.example",
            software=software,
        )
        while issuing.once():
            pass

    @property
    def trusted(self) -> Mapping[str, bytes]:
        """The keys of receipts."""
        return self.issuer.trusted

    def _replace(self, function: str) -> None:
        with self.record.owner.begin() as c:
            c.exec_driver_sql(function.replace("%", "%%"))

    def _age(self, since: datetime, ago: timedelta) -> None:
        """Rows that were written meanwhile are of then, too."""
        asked = {"since": since, "ago": ago}
        changes = []
        for table, columns in AGING.items():
            aged = ", ".join(
                f"{c} = CASE WHEN {c} >= :since THEN {c} - CAST(:ago AS interval) ELSE {c} END" for c in columns
            )
            changes.append(f"UPDATE {table} SET {aged}")
        self.record.tamper(*changes, **asked)


AGING = {
    "push": ("created_at", "started_at", "planned_at", "finished_at"),
    "credential": ("created_at", "purged_at"),
    "renewal": ("at",),
    "share": ("created_at",),
    "oauth_grant": ("granted_at", "revoked_at"),
}


def _uuid7(moment: datetime) -> UUID:
    tail = uuid4().int & ((1 << 80) - 1)
    return UUID(int=int(moment.timestamp() * 1000) << 80 | 0x7 << 76 | tail & ((1 << 76) - 1))
