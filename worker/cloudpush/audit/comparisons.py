"""Rows against what their events say.

A push's row must say what its first and its last event say, and the rows of further sets what their events say; so must a
grant's row and those of its shares. No row lacks its events, and no events their row.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.findings import Report
from cloudpush.audit.retired import Retirement
from cloudpush.push.states import ENDINGS


def verify_rows(c: sa.Connection, report: Report, stream: UUID | None, retirement: Retirement) -> None:
    """Compare the rows of one push, credential or grant, or all; with events that were dropped nothing can be compared."""
    verify_strays(c, report, stream)
    verify_requests(c, report, stream)
    verify_renewals(c, report, stream, retirement)
    verify_consents(c, report, stream, retirement)
    verify_endings(c, report, stream, retirement)
    verify_receipts(c, report, stream, retirement)


def verify_strays(c: sa.Connection, report: Report, push_id: UUID | None) -> None:
    """Events without a chain, rows without events, events whose row is gone."""
    for row in c.execute(STRAYS, {"push": push_id}):
        report.blame(row.stream, None, row.what)


def verify_requests(c: sa.Connection, report: Report, push_id: UUID | None) -> None:
    """A push's row says what its first event says: who asked, for what, to where, with which credential."""
    for row in c.execute(REQUESTS, {"push": push_id}):
        report.blame(row.id, None, f"the push's row differs from its first event in: {', '.join(row.fields)}")


def verify_renewals(c: sa.Connection, report: Report, push_id: UUID | None, retirement: Retirement) -> None:
    """Each further set of a push has its event, and each such event its row."""
    for row in c.execute(RENEWALS, {"push": push_id, "until": retirement.until}):
        report.blame(row.stream, row.seq, row.what)


def verify_consents(c: sa.Connection, report: Report, stream: UUID | None, retirement: Retirement) -> None:
    """A grant's row says what its events say, and each share has its event, and each such event its row."""
    for row in c.execute(CONSENTS, {"stream": stream, "until": retirement.until}):
        report.blame(row.id, None, f"the connection's row differs from its events in: {', '.join(row.fields)}")
    for row in c.execute(SHARES, {"stream": stream, "until": retirement.until}):
        report.blame(row.stream, row.seq, row.what)


def verify_endings(c: sa.Connection, report: Report, push_id: UUID | None, retirement: Retirement) -> None:
    """A push is over if and as its last word in the chain says, with the numbers that it says."""
    endings = {event.value: state.value for state, event in ENDINGS.items()}
    for row in c.execute(ENDED, {"push": push_id, "endings": list(endings)} | retirement.parameters()):
        told = endings.get(row.kind)
        if (
            row.state != told
            and (row.finished_at is not None or told is not None)
            and not (told is None and row.retired)
        ):
            what = f"the push's row says {row.state}, its events end with {row.kind or 'nothing'}"
            report.blame(row.id, None, what)
        if row.fields:
            what = f"the push's row differs from its last event in: {', '.join(row.fields)}"
            report.blame(row.id, None, what)
        if row.files != row.files_total:
            what = f"the push has {row.files} file rows, its plan had {row.files_total}"
            report.blame(row.id, None, what)


def verify_receipts(c: sa.Connection, report: Report, push_id: UUID | None, retirement: Retirement) -> None:
    """A push's receipt is the one that its event tells of: who may write rows can put another one there, which no key signed."""
    for row in c.execute(RECEIPTS, {"push": push_id, "until": retirement.until}):
        report.blame(row.push_id, None, row.what)


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
           OR e.kind = 'preflight.asked' AND NOT EXISTS (SELECT FROM preflight f WHERE f.id = e.stream)
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
            CASE WHEN e.data->>'manifest_sha256' IS DISTINCT FROM encode(p.manifest_sha256, 'hex') THEN 'manifest' END,
            CASE WHEN coalesce(e.data->>'package', '') <> p.package THEN 'package' END,
            CASE WHEN e.data->>'retry_of' IS DISTINCT FROM p.retry_of::text THEN 'retry_of' END
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
        AND NOT (told.stream IS NULL AND kept.at < :until)
    ORDER BY 1, 2
""")

# A consent that nobody finished was asked for, and that is all.
CONSENTS = sa.text("""
    SELECT id, fields FROM (
        SELECT g.credential_id AS id, array_remove(ARRAY[
            CASE WHEN asked.data->>'provider' IS DISTINCT FROM g.provider AND NOT (asked.data IS NULL AND k.created_at < :until)
                THEN 'provider' END,
            CASE WHEN granted.data->>'subject' <> g.subject THEN 'subject' END,
            CASE WHEN (granted.data IS NULL) <> (g.granted_at IS NULL) AND NOT (granted.data IS NULL AND g.granted_at < :until)
                THEN 'granted' END,
            CASE WHEN (g.revoked_at IS NOT NULL) <> EXISTS (
                SELECT FROM event e WHERE e.stream = g.credential_id AND e.kind = 'grant.revoking')
                AND g.revoked_at >= :until IS NOT FALSE THEN 'revoking' END,
            CASE WHEN (g.state = 'revoked') <> EXISTS (
                SELECT FROM event e WHERE e.stream = g.credential_id AND e.kind = 'grant.revoked')
                AND g.revoked_at >= :until IS NOT FALSE THEN 'revoked' END,
            CASE WHEN (g.state IN ('revoking', 'revoked')) <> (g.revoked_at IS NOT NULL) THEN 'state' END
        ], NULL) AS fields
        FROM oauth_grant g JOIN credential k ON k.id = g.credential_id
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
        SELECT s.credential_id, s.id::text, s.principal, s.uri, s.until, s.ended_at IS NOT NULL AS ended, s.created_at
        FROM share s WHERE CAST(:stream AS uuid) IS NULL OR s.credential_id = :stream
    )
    SELECT coalesce(told.stream, kept.credential_id) AS stream, told.seq, CASE
        WHEN kept.id IS NULL THEN 'share ' || told.id || ' is told by an event, but its row is gone'
        WHEN told.id IS NULL THEN 'share ' || kept.id || ' is told by no event'
        ELSE 'share ' || kept.id || ' differs from its events' END AS what
    FROM told FULL JOIN kept ON kept.credential_id = told.stream AND kept.id = told.id
    WHERE (kept.principal, kept.uri, kept.until, kept.ended)
        IS DISTINCT FROM (told.principal, told.uri, told.until, told.ended)
        AND NOT (told.id IS NULL AND kept.created_at < :until)
    ORDER BY 1, 2
""")

# An ending that tells no numbers is that of a push that did not get as far as parts.
ENDED = sa.text("""
    SELECT p.id, p.state, p.finished_at, e.kind, array_remove(ARRAY[
            CASE WHEN e.data->>'code' IS DISTINCT FROM p.error_code AND NOT (e.kind IS NULL AND p.finished_at < :until)
                THEN 'code' END,
            CASE WHEN (e.data->>'files')::bigint <> p.files_total THEN 'files' END,
            CASE WHEN (e.data->>'bytes')::bigint <> p.bytes_total THEN 'bytes' END,
            CASE WHEN (e.data->>'verified')::bigint <> p.files_verified THEN 'verified' END,
            CASE WHEN (e.data->>'skipped')::bigint <> p.files_skipped THEN 'skipped' END,
            CASE WHEN (e.data->>'unverified')::bigint <> p.files_unverified THEN 'unverified' END,
            CASE WHEN (e.data->>'failed')::bigint <> p.files_failed THEN 'failed' END,
            CASE WHEN e.data->>'files' IS NOT NULL AND e.data->>'strength' IS DISTINCT FROM p.strength THEN 'strength' END
        ], NULL) AS fields,
        p.files_total,
        p.finished_at < :until AS retired,
        CASE WHEN p.planned_at IS NULL OR EXISTS (
                SELECT FROM unnest(CAST(:lows AS uuid[]), CAST(:highs AS uuid[])) AS gone (low, high)
                WHERE p.id >= gone.low AND p.id < gone.high) THEN p.files_total
             ELSE (SELECT count(*) FROM file f WHERE f.push_id = p.id) END AS files
    FROM push p LEFT JOIN LATERAL (
        SELECT kind, data FROM event e WHERE e.stream = p.id AND e.kind = ANY (CAST(:endings AS text[]))
        ORDER BY e.seq DESC LIMIT 1
    ) AS e ON true
    WHERE (CAST(:push AS uuid) IS NULL OR p.id = :push) AND (p.finished_at IS NOT NULL OR e.kind IS NOT NULL)
""")

# One that was taken back, because a name in it was replaced, is issued anew, unless its files are archived. The erasure says
# which; whether it is signed is a matter of the chain.
RECEIPTS = sa.text("""
    WITH told AS (
        SELECT DISTINCT ON (e.stream) e.stream, e.seq, e.data->>'statement_sha256' AS digest FROM event e
        WHERE e.kind = 'push.receipt_issued' AND (CAST(:push AS uuid) IS NULL OR e.stream = :push)
        ORDER BY e.stream, e.seq DESC
    ), kept AS (
        SELECT push_id, issued_at, encode(sha256(convert_to(statement, 'UTF8')), 'hex') AS digest FROM receipt
        WHERE statement IS NOT NULL AND (CAST(:push AS uuid) IS NULL OR push_id = :push)
    )
    SELECT coalesce(told.stream, kept.push_id) AS push_id, CASE
        WHEN told.stream IS NULL THEN 'its receipt is told by no event'
        WHEN kept.push_id IS NULL THEN 'its receipt is told by an event, and is gone'
        ELSE 'its receipt is not the one that its event tells of' END AS what
    FROM told FULL JOIN kept ON kept.push_id = told.stream
    WHERE told.digest IS DISTINCT FROM kept.digest
        AND NOT (told.stream IS NULL AND coalesce(kept.issued_at < :until, false))
        AND NOT (kept.push_id IS NULL AND EXISTS (
            SELECT FROM event p WHERE p.stream = told.stream AND p.kind = 'audit.pseudonymised' AND p.seq > told.seq
                AND p.data->>'receipt' = told.digest))
    ORDER BY 1
""")
