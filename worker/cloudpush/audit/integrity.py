"""Is the record what was written? Recomputes every hash chain and compares file rows with their digests.

What a chain proves: an event that was edited, inserted, reordered or deleted in its middle breaks the
link that follows it; a deleted tail leaves the chain's head behind; a file row edited after its part ended no longer
matches the digest in the part's own event; a push's row must say what its first and its last event say, and the rows
of further sets what their events say; so must a grant's row and those of its shares. The
recomputation here is independent of the database's. Whoever can rewrite events, rows and heads together leaves no trace
here: what was signed or copied away before is what proves it then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import transaction
from cloudpush.audit.tables import chain
from cloudpush.push.states import ENDINGS, Event

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
VERSION = "cloudpush-event-1"
PAGE = 5_000


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was written."""

    stream: UUID
    seq: int | None
    what: str


@dataclass(slots=True)
class Report:
    """What was checked, and what was found."""

    streams: int = 0
    events: int = 0
    parts: int = 0
    files: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


def event_hash(
    prev: bytes, stream: UUID, seq: int, at: datetime, kind: str, actor: str, credential: UUID | None, data: str
) -> bytes:
    """The link of one event: SHA-256 over the previous link and the event's fields.

    Fields are joined by U+001F; ``actor`` is preceded by its length in bytes and ``data`` is last, so that no
    two events have the same text. ``data`` is the stored JSON text itself. Times count microseconds since 1970.
    """
    since = at - EPOCH
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    fields = (
        VERSION,
        str(stream),
        str(seq),
        str(micros),
        kind,
        str(credential) if credential else "-",
        str(len(actor.encode())),
        actor,
        data,
    )
    return hashlib.sha256(prev + "\x1f".join(fields).encode()).digest()


def genesis(stream: UUID) -> bytes:
    """The link before a stream's first event."""
    return hashlib.sha256(str(stream).encode()).digest()


def verify(engine: sa.Engine, push_id: UUID | None = None) -> Report:
    """Check one push, or everything. Reads in pages; memory does not grow with the history."""
    report = Report()
    # One snapshot: what is appended while we read is not half seen.
    with transaction(engine.execution_options(isolation_level="REPEATABLE READ")) as c:
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))  # a long history may take its time
        for stream, seq, head in _heads(c, push_id):
            report.streams += 1
            _verify_chain(c, report, stream, seq, bytes(head))
        _verify_strays(c, report, push_id)
        _verify_requests(c, report, push_id)
        _verify_renewals(c, report, push_id)
        _verify_consents(c, report, push_id)
        _verify_endings(c, report, push_id)
    return report


def _heads(c: sa.Connection, push_id: UUID | None) -> Iterator[tuple[UUID, int, bytes]]:
    query = sa.select(chain.c.stream, chain.c.seq, chain.c.hash).order_by(chain.c.stream).limit(PAGE)
    if push_id is not None:
        query = query.where(chain.c.stream == push_id)
    last: UUID | None = None
    while True:
        rows = c.execute(query if last is None else query.where(chain.c.stream > last)).all()
        for row in rows:
            yield row.stream, row.seq, row.hash
        if len(rows) < PAGE:
            return
        last = rows[-1].stream


def _verify_chain(c: sa.Connection, report: Report, stream: UUID, head_seq: int, head: bytes) -> None:
    link, seq = genesis(stream), 0
    while True:
        rows = c.execute(EVENTS, {"stream": stream, "after": seq, "limit": PAGE}).all()
        for row in rows:
            report.events += 1
            if row.seq != seq + 1:
                report.faults.append(Fault(stream, seq + 1, f"event {seq + 1} is missing; the next one is {row.seq}"))
            elif bytes(row.prev) != link:
                report.faults.append(
                    Fault(stream, row.seq, f"event {row.seq} ({row.kind}) does not follow its predecessor")
                )
            expected = event_hash(
                bytes(row.prev), stream, row.seq, row.at, row.kind, row.actor, row.credential_id, row.data
            )
            if expected != bytes(row.hash):
                report.faults.append(Fault(stream, row.seq, f"event {row.seq} ({row.kind}) was edited"))
            if row.kind == Event.PART_FINISHED:
                _verify_files(c, report, stream, row)
            link, seq = bytes(row.hash), row.seq
        if len(rows) < PAGE:
            break
    if (seq, link) != (head_seq, head):
        report.faults.append(
            Fault(
                stream,
                seq,
                f"the chain ends at event {seq}, but its head says {head_seq}: events were cut off or added",
            )
        )


def _verify_files(c: sa.Connection, report: Report, stream: UUID, row: sa.Row[tuple[object, ...]]) -> None:
    """A part's file rows against the digest that its event carries."""
    told = c.execute(FILES, {"data": row.data, "push": stream}).one()
    report.parts += 1
    report.files += told.files
    if told.expected != told.actual:
        report.faults.append(
            Fault(stream, row.seq, f"file rows of part {told.part} are not those that its end recorded")
        )


def _verify_strays(c: sa.Connection, report: Report, push_id: UUID | None) -> None:
    """Events without a chain, rows without events, events whose row is gone."""
    for row in c.execute(STRAYS, {"push": push_id}):
        report.faults.append(Fault(row.stream, None, row.what))


def _verify_requests(c: sa.Connection, report: Report, push_id: UUID | None) -> None:
    """A push's row says what its first event says: who asked, for what, to where, with which credential."""
    for row in c.execute(REQUESTS, {"push": push_id}):
        report.faults.append(
            Fault(row.id, None, f"the push's row differs from its first event in: {', '.join(row.fields)}")
        )


def _verify_renewals(c: sa.Connection, report: Report, push_id: UUID | None) -> None:
    """Each further set of a push has its event, and each such event its row."""
    for row in c.execute(RENEWALS, {"push": push_id}):
        report.faults.append(Fault(row.stream, row.seq, row.what))


def _verify_consents(c: sa.Connection, report: Report, stream: UUID | None) -> None:
    """A grant's row says what its events say, and each share has its event, and each such event its row."""
    for row in c.execute(CONSENTS, {"stream": stream}):
        report.faults.append(
            Fault(row.id, None, f"the connection's row differs from its events in: {', '.join(row.fields)}")
        )
    for row in c.execute(SHARES, {"stream": stream}):
        report.faults.append(Fault(row.stream, row.seq, row.what))


def _verify_endings(c: sa.Connection, report: Report, push_id: UUID | None) -> None:
    """A push is over if and as its last word in the chain says, with the numbers that it says."""
    endings = {event.value: state.value for state, event in ENDINGS.items()}
    for row in c.execute(ENDED, {"push": push_id, "endings": list(endings)}):
        told = endings.get(row.kind)
        if row.state != told and (row.finished_at is not None or told is not None):
            what = f"the push's row says {row.state}, its events end with {row.kind or 'nothing'}"
            report.faults.append(Fault(row.id, None, what))
        if row.fields:
            what = f"the push's row differs from its last event in: {', '.join(row.fields)}"
            report.faults.append(Fault(row.id, None, what))
        if row.files != row.files_total:
            what = f"the push has {row.files} file rows, its plan had {row.files_total}"
            report.faults.append(Fault(row.id, None, what))


EVENTS = sa.text("""
    SELECT seq, at, kind, actor, credential_id, data::text AS data, prev, hash FROM event
    WHERE stream = :stream AND seq > :after ORDER BY seq LIMIT :limit
""")

FILES = sa.text("""
    SELECT d.part, d.files_sha256 AS expected, encode(cloudpush_files_digest(:push, d.first, d.last), 'hex') AS actual,
           (SELECT count(*) FROM file f WHERE f.push_id = :push AND f.seq BETWEEN d.first AND d.last) AS files
    FROM json_to_record(CAST(:data AS json)) AS d (part integer, first bigint, last bigint, files_sha256 text)
""")

STRAYS = sa.text("""
    SELECT DISTINCT e.stream, 'events without a chain' AS what FROM event e
    WHERE (CAST(:push AS uuid) IS NULL OR e.stream = :push)
      AND NOT EXISTS (SELECT FROM chain c WHERE c.stream = e.stream)
    UNION ALL
    SELECT p.id, 'a push without events' FROM push p
    WHERE (CAST(:push AS uuid) IS NULL OR p.id = :push)
      AND NOT EXISTS (SELECT FROM chain c WHERE c.stream = p.id)
    UNION ALL
    SELECT k.id, 'a credential without events' FROM credential k
    WHERE CAST(:push AS uuid) IS NULL AND NOT EXISTS (SELECT FROM chain c WHERE c.stream = k.id)
    UNION ALL
    SELECT e.stream, 'events of a row that is gone' FROM event e
    WHERE (CAST(:push AS uuid) IS NULL OR e.stream = :push) AND e.seq = 1
      AND (e.kind = 'push.queued' AND NOT EXISTS (SELECT FROM push p WHERE p.id = e.stream)
           OR e.kind IN ('credential.sealing', 'grant.asked') AND NOT EXISTS (SELECT FROM credential k WHERE k.id = e.stream))
""")

REQUESTS = sa.text("""
    SELECT id, fields FROM (
        SELECT p.id, array_remove(ARRAY[
            CASE WHEN e.actor <> p.actor THEN 'actor' END,
            CASE WHEN e.data->>'owner' IS DISTINCT FROM p.owner THEN 'owner' END,
            CASE WHEN e.data->>'source' IS DISTINCT FROM p.source THEN 'source' END,
            CASE WHEN e.data->>'destination' IS DISTINCT FROM p.uri THEN 'destination' END,
            CASE WHEN p.bucket <> split_part(p.uri, '/', 3) AND NOT (p.bucket = '' AND p.uri ~ '^https?://')
                THEN 'bucket' END,
            CASE WHEN e.data->>'profile' IS DISTINCT FROM p.profile THEN 'profile' END,
            CASE WHEN e.data->>'credential' IS DISTINCT FROM p.credential_id::text THEN 'credential' END,
            CASE WHEN e.data->>'credential_kind' IS DISTINCT FROM p.credential_kind THEN 'credential_kind' END,
            CASE WHEN e.data->>'min_strength' IS DISTINCT FROM p.min_strength THEN 'min_strength' END,
            CASE WHEN e.data->>'overwrite' IS DISTINCT FROM p.overwrite THEN 'overwrite' END,
            CASE WHEN (e.data->'include')::jsonb IS DISTINCT FROM to_jsonb(p.include) THEN 'include' END,
            CASE WHEN (e.data->'exclude')::jsonb IS DISTINCT FROM to_jsonb(p.exclude) THEN 'exclude' END,
            CASE WHEN (e.data->'labels')::jsonb IS DISTINCT FROM p.labels THEN 'labels' END,
            CASE WHEN e.data->>'hook' IS DISTINCT FROM p.hook_id::text THEN 'hook' END,
            CASE WHEN e.data->>'manifest_sha256' IS DISTINCT FROM encode(p.manifest_sha256, 'hex') THEN 'manifest' END
        ], NULL) AS fields
        FROM push p JOIN event e ON e.stream = p.id AND e.seq = 1
        WHERE CAST(:push AS uuid) IS NULL OR p.id = :push
    ) AS compared
    WHERE cardinality(fields) > 0
""")

RENEWALS = sa.text("""
    WITH told AS (
        SELECT e.stream, e.seq, e.at, e.actor, e.data->>'number' AS number, e.data->>'credential' AS credential_id,
            e.data->>'files' AS files
        FROM event e WHERE e.kind = 'push.resigned' AND (CAST(:push AS uuid) IS NULL OR e.stream = :push)
    ), kept AS (
        SELECT r.push_id, r.at, r.actor, r.number::text, r.credential_id::text, r.files::text
        FROM renewal r WHERE CAST(:push AS uuid) IS NULL OR r.push_id = :push
    )
    SELECT coalesce(told.stream, kept.push_id) AS stream, told.seq, CASE
        WHEN kept.push_id IS NULL THEN 'renewal ' || told.number || ' is told by an event, but its row is gone'
        WHEN told.stream IS NULL THEN 'renewal ' || kept.number || ' is told by no event'
        ELSE 'renewal ' || kept.number || ' differs from its event' END AS what
    FROM told FULL JOIN kept ON kept.push_id = told.stream AND kept.number = told.number
    WHERE (kept.at, kept.actor, kept.credential_id, kept.files)
        IS DISTINCT FROM (told.at, told.actor, told.credential_id, told.files)
    ORDER BY 1, 2
""")

# A consent that nobody finished was asked for, and that is all.
CONSENTS = sa.text("""
    SELECT id, fields FROM (
        SELECT g.credential_id AS id, array_remove(ARRAY[
            CASE WHEN asked.data->>'provider' IS DISTINCT FROM g.provider THEN 'provider' END,
            CASE WHEN granted.data->>'subject' <> g.subject THEN 'subject' END,
            CASE WHEN (granted.data IS NULL) <> (g.granted_at IS NULL) THEN 'granted' END,
            CASE WHEN (g.revoked_at IS NOT NULL) <> EXISTS (
                SELECT FROM event e WHERE e.stream = g.credential_id AND e.kind = 'grant.revoking') THEN 'revoking' END,
            CASE WHEN (g.state = 'revoked') <> EXISTS (
                SELECT FROM event e WHERE e.stream = g.credential_id AND e.kind = 'grant.revoked') THEN 'revoked' END,
            CASE WHEN (g.state IN ('revoking', 'revoked')) <> (g.revoked_at IS NOT NULL) THEN 'state' END
        ], NULL) AS fields
        FROM oauth_grant g
            LEFT JOIN LATERAL (SELECT e.data FROM event e WHERE e.stream = g.credential_id AND e.kind = 'grant.asked'
                ORDER BY e.seq LIMIT 1) AS asked ON true
            LEFT JOIN LATERAL (SELECT e.data FROM event e WHERE e.stream = g.credential_id AND e.kind = 'grant.granted'
                ORDER BY e.seq LIMIT 1) AS granted ON true
        WHERE CAST(:stream AS uuid) IS NULL OR g.credential_id = :stream
    ) AS compared
    WHERE cardinality(fields) > 0
""")

SHARES = sa.text("""
    WITH told AS (
        SELECT e.stream, e.seq, e.data->>'share' AS id, e.data->>'principal' AS principal, e.data->>'uri' AS uri,
            (e.data->>'until')::timestamptz AS until, EXISTS (
                SELECT FROM event u WHERE u.stream = e.stream AND u.kind = 'grant.unshared'
                    AND u.data->>'share' = e.data->>'share') AS ended
        FROM event e WHERE e.kind = 'grant.shared' AND (CAST(:stream AS uuid) IS NULL OR e.stream = :stream)
    ), kept AS (
        SELECT s.credential_id, s.id::text, s.principal, s.uri, s.until, s.ended_at IS NOT NULL AS ended
        FROM share s WHERE CAST(:stream AS uuid) IS NULL OR s.credential_id = :stream
    )
    SELECT coalesce(told.stream, kept.credential_id) AS stream, told.seq, CASE
        WHEN kept.id IS NULL THEN 'share ' || told.id || ' is told by an event, but its row is gone'
        WHEN told.id IS NULL THEN 'share ' || kept.id || ' is told by no event'
        ELSE 'share ' || kept.id || ' differs from its events' END AS what
    FROM told FULL JOIN kept ON kept.credential_id = told.stream AND kept.id = told.id
    WHERE (kept.principal, kept.uri, kept.until, kept.ended)
        IS DISTINCT FROM (told.principal, told.uri, told.until, told.ended)
    ORDER BY 1, 2
""")

# An ending that tells no numbers is that of a push that did not get as far as parts.
ENDED = sa.text("""
    SELECT p.id, p.state, p.finished_at, e.kind, array_remove(ARRAY[
            CASE WHEN e.data->>'code' IS DISTINCT FROM p.error_code THEN 'code' END,
            CASE WHEN (e.data->>'files')::bigint <> p.files_total THEN 'files' END,
            CASE WHEN (e.data->>'bytes')::bigint <> p.bytes_total THEN 'bytes' END,
            CASE WHEN (e.data->>'verified')::bigint <> p.files_verified THEN 'verified' END,
            CASE WHEN (e.data->>'skipped')::bigint <> p.files_skipped THEN 'skipped' END,
            CASE WHEN (e.data->>'unverified')::bigint <> p.files_unverified THEN 'unverified' END,
            CASE WHEN (e.data->>'failed')::bigint <> p.files_failed THEN 'failed' END,
            CASE WHEN e.data->>'files' IS NOT NULL AND e.data->>'strength' IS DISTINCT FROM p.strength THEN 'strength' END
        ], NULL) AS fields,
        p.files_total,
        CASE WHEN p.planned_at IS NULL THEN p.files_total
             ELSE (SELECT count(*) FROM file f WHERE f.push_id = p.id) END AS files
    FROM push p LEFT JOIN LATERAL (
        SELECT kind, data FROM event e WHERE e.stream = p.id AND e.kind = ANY (CAST(:endings AS text[]))
        ORDER BY e.seq DESC LIMIT 1
    ) AS e ON true
    WHERE (CAST(:push AS uuid) IS NULL OR p.id = :push) AND (p.finished_at IS NOT NULL OR e.kind IS NOT NULL)
""")
