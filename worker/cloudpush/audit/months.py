"""The record by months: what each holds, which are archived, which are due; and taking one out of the database.

A month is dropped by command only, as the owner of the tables, and only by an archive that was verified down to its last
row. One transaction does it: the ends of chains are kept, an event tells, the partitions go. Whoever dies on the way leaves
everything as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cloudpush.audit.archive_check import Checked, compare_with_record, stored
from cloudpush.audit.archive_tables import TABLES, batches, counted, same
from cloudpush.audit.database import append_event, transaction
from cloudpush.audit.retired import (
    RETENTION_STREAM,
    RETIRED,
    bound,
    cuts_digest,
    first_of,
    following,
    put_away,
    told_of,
)
from cloudpush.errors import Code, InputError
from cloudpush.push.states import Event

#: The advisory lock of whoever drops a month or replaces a name.
RETENTION_LOCK = 0x636C6F7564726574  # "cloudret"
#: Seconds that a drop waits for its turn at the tables, while new statements of everybody else's wait behind it.
LOCK_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Month:
    """A month of the record. ``sealed``: wholly, by checkpoints. ``archived``: SHA-256 of its newest archive's manifest.

    By whom and when it was archived and dropped, as far as events tell that are in no archive.
    """

    month: date
    events: int
    files: int
    size: int
    sealed: bool
    archived: str | None
    dropped: bool
    due: bool
    archived_at: datetime | None = None
    archived_by: str | None = None
    dropped_at: datetime | None = None
    dropped_by: str | None = None


def read_month(text: str) -> date:
    """``2026-01``. Raises InputError."""
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as e:
        raise InputError(Code.BAD_INPUT, f"{text!r} is no month: write 2026-01.", field="month") from e


def months(engine: sa.Engine, keep: int) -> list[Month]:
    """Every month that has something, or had, oldest first. ``keep``: months that stay besides the present one; 0: all."""
    with transaction(engine) as c:
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))
        away = {row["month"]: row for row in put_away(c)}
        state = c.execute(STATE).one()
        found = {row.month: row for row in c.execute(MONTHS)}
        counts = {month: counted(c, month) for month in found}
    made = [_dropped(row) for row in away.values() if row["dropped_at"] is not None]
    gone = {month.month for month in made}
    for month, row in found.items():
        count = counts[month]
        if month in gone or not (count["events"] or count["files"]):
            continue
        past = (state.now.year - month.year) * 12 + state.now.month - month.month
        sealed = (count["last_id"] or 0) <= state.sealed
        told = away.get(f"{month:%Y-%m}", {})
        due = bool(keep) and past > keep
        made.append(
            Month(
                month,
                count["events"],
                count["files"],
                row.size,
                sealed,
                told.get("archive_sha256"),
                dropped=False,
                due=due,
                archived_at=told.get("archived_at"),
                archived_by=told.get("archived_by"),
            )
        )
    return sorted(made, key=lambda m: m.month)


def _dropped(row: Mapping[str, Any]) -> Month:
    who = {name: row[name] for name in ("archived_at", "archived_by", "dropped_at", "dropped_by")}
    month, archived = read_month(row["month"]), row["archive_sha256"]
    return Month(month, row["events"], row["files"], 0, sealed=True, archived=archived, dropped=True, due=False, **who)


def drop(owner: sa.Engine, month: date, place: Path, checked: Checked, actor: str) -> None:
    """Take the month out of the database. ``checked``: its archive at ``place``, as it was found a moment ago.

    Raises InputError where something speaks against it, and says what; StoreError. Nothing has changed then.
    """
    _refuse_archive(checked, month)
    manifest = checked.manifest
    asked = {
        "month": month,
        "since": first_of(month),
        "until": first_of(following(month)),
        "low": bound(month),
        "high": bound(following(month)),
    }
    with transaction(owner) as c:
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))
        c.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": RETENTION_LOCK})
        _refuse(c, asked)
        compare_with_record(c, checked)
        _refuse_archive(checked, month)
        for table in TABLES[:2]:  # pushes stay
            if not same(batches(c, table, month), stored(place, table.name)):
                raise _refusal(
                    f"the {table.name} in the archive are not those of the database: archive the month anew, elsewhere."
                )
        cuts = {"archive": bytes.fromhex(checked.sha256), "cuts": bytes.fromhex(manifest["cuts_sha256"])}
        c.execute(RETIRE, asked | cuts | {"events": manifest["events"], "files": manifest["files"]})
        c.execute(CUT, asked)
        if cuts_digest(c, month).hex() != manifest["cuts_sha256"]:
            raise _refusal("the ends of its chains are not those in the archive: archive the month anew, elsewhere.")
        if c.execute(STEPPED_BACK, asked).scalar_one():
            raise _refusal(
                "the database's clock went back over its end: an older event of a chain is of a later month."
            )
        # From here on nobody reads or writes either table, for as long as counting takes.
        c.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
        c.execute(sa.text("LOCK TABLE event, file IN ACCESS EXCLUSIVE MODE"))
        now = counted(c, month)
        if (now["events"], now["files"]) != (manifest["events"], manifest["files"]):
            raise _refusal("rows were added while it was looked at: archive the month anew, elsewhere.")
        told = {"month": f"{month:%Y-%m}", "months": [told_of(row) for row in c.execute(RETIRED)]}
        append_event(c, RETENTION_STREAM, Event.AUDIT_DROPPED, actor, told)
        for parent, condition in (
            ("file", "push_id >= :low AND push_id < :high"),
            ("event", "at >= :since AND at < :until"),
        ):
            _drop_partition(c, parent, condition, asked)


def _refuse_archive(checked: Checked, month: date) -> None:
    if not checked.report.sound:
        fault = checked.report.faults[0]
        raise _refusal(f"its archive is not sound: {fault.what}.")
    if any("signatures" in word for word in checked.report.unchecked):
        raise _refusal("its archive could not be checked: no public key is at hand.")
    if checked.manifest["month"] != f"{month:%Y-%m}":
        raise _refusal(f"its archive is of {checked.manifest['month']}.")


def _refuse(c: sa.Connection, asked: dict[str, Any]) -> None:
    row = c.execute(AGAINST, asked).one()
    if row.retired:
        raise _refusal("it was dropped already.")
    if not row.over:
        raise _refusal("it is not over yet.")
    if row.older is not None:
        raise _refusal(f"{row.older:%Y-%m} is older and still there: the oldest month goes first.")
    if row.unfinished is not None:
        raise _refusal(f"push {row.unfinished} of that month has not ended.")
    if row.owed is not None:
        raise _refusal(f"push {row.owed} of that month is owed its receipt.")


def _refusal(why: str) -> InputError:
    return InputError(Code.BAD_INPUT, f"the month is not dropped: {why}", field="month")


def _drop_partition(c: sa.Connection, parent: str, condition: str, asked: dict[str, Any]) -> None:
    """The month's own table, and what lies in the default one of it."""
    name = f"{parent}_{asked['month']:%Y_%m}"
    c.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
    if c.execute(sa.text(f"SELECT EXISTS (SELECT FROM {parent}_default WHERE {condition})"), asked).scalar_one():  # noqa: S608 -- constants
        trigger = "append_only" if parent == "event" else "plan_only"
        c.execute(sa.text(f"ALTER TABLE {parent}_default DISABLE TRIGGER {trigger}"))
        c.execute(sa.text(f"DELETE FROM {parent}_default WHERE {condition}"), asked)  # noqa: S608 -- likewise
        c.execute(sa.text(f"ALTER TABLE {parent}_default ENABLE TRIGGER {trigger}"))


# Months that have a partition, and those of rows that have none.
MONTHS = sa.text(r"""
    SELECT month, CAST(sum(size) AS bigint) AS size FROM (
        SELECT to_date(substring(relname FROM '_(\d{4}_\d{2})$'), 'YYYY_MM') AS month, pg_total_relation_size(c.oid) AS size
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('event'::regclass, 'file'::regclass) AND relname ~ '_\d{4}_\d{2}$'
        UNION ALL
        SELECT DISTINCT date_trunc('month', at)::date, 0 FROM event
        WHERE tableoid = (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'event'::regclass
            AND inhrelid::regclass::text ~ '_default$')
    ) AS each GROUP BY month ORDER BY month
""")

STATE = sa.text("SELECT now() AS now, coalesce((SELECT max(last_id) FROM checkpoint), 0) AS sealed")

AGAINST = sa.text("""
    SELECT EXISTS (SELECT FROM retired WHERE month = :month) AS retired, now() >= :until AS over,
        (SELECT min(at) FROM event WHERE at < :since) AS older,
        (SELECT id FROM push WHERE id >= :low AND id < :high AND finished_at IS NULL ORDER BY id LIMIT 1) AS unfinished,
        (SELECT push_id FROM receipt WHERE push_id >= :low AND push_id < :high AND statement IS NULL
            ORDER BY push_id LIMIT 1) AS owed
""")

RETIRE = sa.text("""
    INSERT INTO retired (month, events, files, archive_sha256, cuts_sha256)
    VALUES (:month, :events, :files, :archive, :cuts)
""")

CUT = sa.text("""
    INSERT INTO cut (stream, month, seq, hash)
    SELECT DISTINCT ON (stream) stream, :month, seq, hash FROM event WHERE at >= :since AND at < :until
    ORDER BY stream, seq DESC
""")

STEPPED_BACK = sa.text("""
    SELECT EXISTS (SELECT FROM cut k JOIN event e ON e.stream = k.stream AND e.seq <= k.seq
        WHERE k.month = :month AND e.at >= :until)
""")
