"""What was dropped from the record, as far as it is told by an event: the months, and where chains begin since.

Each ``audit.dropped`` repeats every month that is gone, with the digests of its archive and of its cuts. So a row of
``retired`` or ``cut`` that somebody made, changed or took away is found, and nothing that is missing is excused by it.
Months are dropped oldest first: whatever is older than the end of the newest one is gone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.findings import Report
from cloudpush.push.states import Event

#: Stream of the events that tell of archives, of dropped months and of pseudonyms as a whole.
RETENTION_STREAM = UUID("00000000-0000-0000-0000-0000000000a0")
PAGE = 10_000


def first_of(month: date) -> datetime:
    """When the month begins."""
    return datetime(month.year, month.month, 1, tzinfo=UTC)


def following(month: date) -> date:
    """The month after."""
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def bound(month: date) -> UUID:
    """The least id (UUIDv7) that a push submitted in the month may have."""
    return UUID(int=int(first_of(month).timestamp() * 1000) << 80)


def month_of(push_id: UUID) -> date:
    """In which month a push was submitted, as its id (UUIDv7) begins with; nonsense of another kind of id."""
    moment = datetime.fromtimestamp(min((push_id.int >> 80) / 1000, 32_503_680_000), tz=UTC)
    return date(moment.year, moment.month, 1)


def archive_of(c: sa.Connection, push_id: UUID) -> Any:
    """``month`` and ``archive_sha256`` of the archive that the push's file rows are in, and nowhere else; else None."""
    return c.execute(ARCHIVE_OF, {"month": month_of(push_id)}).mappings().one_or_none()


@dataclass(frozen=True, slots=True)
class Retirement:
    """Months that are gone, as an event tells. ``until``: no older event is to be expected."""

    months: tuple[date, ...] = ()

    @property
    def until(self) -> datetime:
        """The end of the newest month that is gone."""
        return first_of(following(max(self.months))) if self.months else datetime(1970, 1, 1, tzinfo=UTC)

    @property
    def spans(self) -> list[tuple[UUID, UUID]]:
        """Ids of pushes, from and below, whose file rows are gone."""
        return [(bound(month), bound(following(month))) for month in self.months]

    def has_files_of(self, push_id: UUID) -> bool:
        """Whether the file rows of this push are gone."""
        return any(low <= push_id < high for low, high in self.spans)

    def parameters(self) -> dict[str, Any]:
        """For statements that compare."""
        spans = self.spans
        return {"until": self.until, "lows": [low for low, _ in spans], "highs": [high for _, high in spans]}


def told_of(row: Any) -> dict[str, Any]:
    """What an event says of a row of ``retired``."""
    return {
        "month": row.month.strftime("%Y-%m"),
        "events": row.events,
        "files": row.files,
        "archive_sha256": bytes(row.archive_sha256).hex(),
        "cuts_sha256": bytes(row.cuts_sha256).hex(),
    }


def verify_retired(c: sa.Connection, report: Report, stream: UUID | None) -> Retirement:
    """The months that are gone by right. Of one ``stream``, the digest of each month's cuts is not computed."""
    rows = c.execute(RETIRED).all()
    found = c.execute(NEWEST, {"stream": RETENTION_STREAM, "kind": Event.AUDIT_DROPPED.value}).one_or_none()
    told = {entry["month"]: entry for entry in _months(found.data)} if found is not None else {}
    honoured = []
    for row in rows:
        name = row.month.strftime("%Y-%m")
        if told.pop(name, None) != told_of(row):
            what = f"month {name} is said to have been dropped, and no event tells of it so"
            report.blame(RETENTION_STREAM, found.seq if found else None, what)
        elif stream is None and cuts_digest(c, row.month) != bytes(row.cuts_sha256):
            what = f"the ends of chains in month {name} are not those that were kept when it was dropped"
            report.blame(RETENTION_STREAM, found.seq if found else None, what)
        else:
            honoured.append(row.month)
            report.retired_months.append(name)
            report.retired_events += row.events
            report.retired_files += row.files
    for name in told:
        report.blame(
            RETENTION_STREAM, found.seq if found else None, f"the row of month {name}, which was dropped, is gone"
        )
    return Retirement(tuple(honoured))


def _months(data: str) -> Sequence[dict[str, Any]]:
    try:
        return [{name: entry[name] for name in KEYS} for entry in json.loads(data)["months"]]
    except (ValueError, KeyError, TypeError):
        return []


KEYS = ("month", "events", "files", "archive_sha256", "cuts_sha256")


def cuts_digest(c: sa.Connection, month: date) -> bytes:
    """SHA-256 over the month's cuts in the order of their streams: stream (16 bytes), number (4), hash."""
    digest, after = hashlib.sha256(), UUID(int=0)
    while True:
        page = c.execute(CUTS, {"month": month, "after": after, "limit": PAGE}).one()
        if page.entries is not None:
            digest.update(bytes(page.entries))
        if page.entries_read < PAGE:
            return digest.digest()
        after = page.last


def cuts_of(c: sa.Connection, streams: Iterable[bytes], retirement: Retirement) -> dict[bytes, dict[int, bytes]]:
    """Stream → number → hash of the ends that its dropped months left."""
    found: dict[bytes, dict[int, bytes]] = {}
    asked = {"streams": [UUID(bytes=s) for s in set(streams)], "months": list(retirement.months)}
    for row in c.execute(OF_STREAMS, asked):
        found.setdefault(row.stream.bytes, {})[row.seq] = bytes(row.hash)
    return found


def put_away(c: sa.Connection) -> list[dict[str, Any]]:
    """Months that were archived or dropped, oldest first: by whom, when, by which archive, how many rows.

    ``month`` is ``2026-01``; ``dropped_at`` is None while it is there. Who did it is None where the event that told so lies
    in an archive itself.
    """
    asked = {"stream": RETENTION_STREAM, "archived": Event.AUDIT_ARCHIVED.value, "dropped": Event.AUDIT_DROPPED.value}
    return [dict(row) for row in c.execute(PUT_AWAY, asked).mappings()]


def pseudonyms(c: sa.Connection) -> int:
    """How many people's names were replaced, as far as the events that tell of it as a whole are not in archives."""
    asked = {"stream": RETENTION_STREAM, "kind": Event.AUDIT_PSEUDONYMISED.value}
    return int(c.execute(PSEUDONYMS, asked).scalar_one())


# A month that is there: its newest archive. One that was dropped: the archive that it was dropped by.
PUT_AWAY = sa.text(
    """
    WITH told AS (
        SELECT seq, at, actor, kind, data->>'month' AS month, (data->>'events')::bigint AS events,
            (data->>'files')::bigint AS files, data->>'archive_sha256' AS sha256
        FROM event WHERE stream = :stream AND kind IN (:archived, :dropped)
    ), gone AS (
        SELECT to_char(month, 'YYYY-MM') AS month, dropped_at, events, files, encode(archive_sha256, 'hex') AS sha256
        FROM retired
    ), archived AS (
        SELECT DISTINCT ON (t.month) t.* FROM told t LEFT JOIN gone g ON g.month = t.month
        WHERE t.kind = :archived AND (g.sha256 IS NULL OR g.sha256 = t.sha256) ORDER BY t.month, t.seq DESC
    )
    SELECT month, coalesce(g.events, a.events) AS events, coalesce(g.files, a.files) AS files,
        coalesce(g.sha256, a.sha256) AS archive_sha256, a.at AS archived_at, a.actor AS archived_by, g.dropped_at,
        (SELECT d.actor FROM told d WHERE d.kind = :dropped AND d.month = g.month ORDER BY d.seq LIMIT 1) AS dropped_by
    FROM gone g FULL JOIN archived a USING (month) ORDER BY month
""".replace("::", "\\:\\:")
)

PSEUDONYMS = sa.text("""
    SELECT count(DISTINCT data->>'pseudonym') FROM event WHERE stream = :stream AND kind = :kind
""")

RETIRED = sa.text("SELECT month, events, files, archive_sha256, cuts_sha256 FROM retired ORDER BY month")

ARCHIVE_OF = sa.text("SELECT month, archive_sha256 FROM retired WHERE month = :month")

NEWEST = sa.text("""
    SELECT seq, data::text AS data FROM event WHERE stream = :stream AND kind = :kind ORDER BY seq DESC LIMIT 1
""")

CUTS = sa.text("""
    SELECT string_agg(uuid_send(stream) || int4send(seq) || hash, ''::bytea ORDER BY stream) AS entries,
        count(*) AS entries_read, (array_agg(stream ORDER BY stream DESC))[1] AS last
    FROM (SELECT stream, seq, hash FROM cut WHERE month = :month AND stream > :after ORDER BY stream LIMIT :limit) AS k
""")

OF_STREAMS = sa.text("""
    SELECT stream, seq, hash FROM cut
    WHERE stream = ANY (CAST(:streams AS uuid[])) AND month = ANY (CAST(:months AS date[]))
""")
