"""A made-up history: a million pushes of ten million files, written by Postgres itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

PUSHES = 1_000_000
FILES = 10
#: One push has so many files of the ten million.
LARGE = 1_000_000
BATCH = 50_000
SPAN_DAYS = 730

#: As the migration makes them.
INDEXES = (
    (
        "CREATE INDEX ix_push_search_terms ON push_search USING gin (cloudpush_begun(terms)) "
        "WITH (gin_pending_list_limit = 512)"
    ),
    (
        "CREATE INDEX ix_push_search_tally ON push_search (created_at) "
        "INCLUDE (owner, bucket, credential_kind, state, strength, error_code, files, bytes)"
    ),
    "CREATE INDEX ix_push_search_owner_state ON push_search (owner, state, created_at, push_id)",
    "CREATE INDEX ix_push_search_owner_bucket ON push_search (owner, bucket, created_at, push_id)",
    "CREATE INDEX ix_push_label_newest ON push_label (label, created_at, push_id)",
)

#: Skewed: owner 0 has about 7 % of all, owner 999 about one in 30,000.
_OF = """
    md5('push' || n) AS h,
    floor(1000 * power(random(), 2.5))::int AS o, floor(200 * power(random(), 2))::int AS b, random() AS r, random() AS q,
    timestamptz '2024-12-01Z' + make_interval(secs => n * {step}::float8) AS at
"""

PUSH = """
INSERT INTO push (id, owner, actor, request_sha256, source, uri, bucket, prefix, profile, credential_id, credential_kind,
    min_strength, overwrite, labels, state, created_at, started_at, planned_at, finished_at, attempt, parts_total, parts_done,
    files_total, bytes_total, files_verified, files_failed, bytes_verified, strength, uploaded_at, error_code, error_message)
SELECT cloudpush_bench_id(n, at), 'owner-' || o, 'owner-' || o, decode(h, 'hex'),
    '/data/' || w[1 + (r * 1000)::int % 40] || '/run-' || n % 5000 || '/' || w[1 + (q * 1000)::int % 40],
    's3://bucket-' || b || '/' || w[1 + o % 40] || '/' || left(h, 2), 'bucket-' || b, w[1 + o % 40] || '/' || left(h, 2), '',
    ids[1 + o % 100], kinds[1 + o % 5], 'size', 'if-different',
    jsonb_build_object('run', (n % 5000)::text, 'project', 'p' || o % 300, 'stage', CASE WHEN n < {pushes} / 3 THEN 'pilot' ELSE 'main' END),
    state, at, at, at, CASE WHEN state NOT IN ('queued', 'awaiting_consent') THEN at + interval '90 seconds' END, 1, 1, 1,
    {files}, {files} * 1000000, {files} - failed, failed, ({files} - failed) * 1000000::bigint,
    strengths[1 + (q * 997)::int % 5], at + interval '80 seconds', code, CASE WHEN code IS NOT NULL THEN 'said so' END
FROM (
    SELECT *, CASE WHEN n > {pushes} * 0.9995 THEN 'queued' WHEN r < 0.03 THEN 'failed' WHEN r < 0.035 THEN 'unverified'
              WHEN r < 0.04 THEN 'cancelled' ELSE 'succeeded' END AS state,
        CASE WHEN r < 0.03 THEN 1 ELSE 0 END AS failed,
        CASE WHEN r < 0.0001 THEN 'TOO_LARGE' WHEN r < 0.01 THEN 'ACCESS_DENIED' WHEN r < 0.03 THEN 'THROTTLED' END AS code
    FROM (SELECT n, {of} FROM generate_series({first}, {last}) n OFFSET 0) made
) told, (SELECT array_agg(id ORDER BY id) AS ids FROM credential) c,
(SELECT ARRAY['genome','images','proteome','spectra','climate','survey','telescope','cells','protein','ocean','sensor','audio',
    'video','model','weights','reads','contigs','assembly','variants','atlas','brain','retina','cohort','trial','soil','forest',
    'river','glacier','comet','pulsar','quasar','nebula','lattice','alloy','enzyme','ligand','plasma','muon','photon','neutron'] AS w,
    ARRAY['access_key', 'oauth_grant', 'signed_urls', 'sas', 'access_key'] AS kinds,
    ARRAY['size', 'checksum', 'checksum', 'ingest', 'reread'] AS strengths) v
"""

FILE = """
INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state, strength, sha256, etag, uploaded_at)
SELECT p.id, s, path, p.prefix || '/' || path, 1000000, 1700000000000000000,
    CASE WHEN s <= p.files_failed THEN 'failed' ELSE 'verified' END, p.strength, sha256(convert_to(path, 'UTF8')), left(md5(path), 32), p.uploaded_at
FROM push p, generate_series(1, {files}) s,
LATERAL (SELECT 'lane-' || s % 4 || '/sample-' || (('x' || left(md5(p.id::text), 5))::bit(20)::int) || '_' || s || CASE s % 3 WHEN 0 THEN '.bam' WHEN 1 THEN '.fastq.gz' ELSE '.vcf' END AS path OFFSET 0) f
WHERE p.created_at >= :since AND p.created_at < :until
"""

SEARCH = """
INSERT INTO push_search SELECT id, created_at, owner, bucket, credential_kind, state, strength, error_code, files_total,
    bytes_total, cloudpush_search_terms(push) FROM push WHERE finished_at IS NOT NULL AND created_at >= :since AND created_at < :until
"""

LABELS = """
INSERT INTO push_label SELECT id, key || '=' || value, created_at FROM push, jsonb_each_text(labels)
WHERE finished_at IS NOT NULL AND created_at >= :since AND created_at < :until
"""

#: Real chains, by the door that the application uses: two events of a push that is over.
EVENTS = """
SELECT sum(cloudpush_append(id, owner, (ARRAY['push.queued', 'push.' || state])[1:many], (ARRAY[credential_id, NULL]::uuid[])[1:many],
    (ARRAY[json_build_object('uri', uri)::text, json_build_object('files', files_total)::text])[1:many]))
FROM push, LATERAL (SELECT CASE WHEN finished_at IS NULL THEN 1 ELSE 2 END AS many) AS events WHERE created_at >= :since AND created_at < :until
"""


def make(owner: sa.Engine, scale: float, say: Callable[[str], None], *, events: bool = True) -> None:
    """Fill a migrated database. Constraints that triggers hold are held by how the rows are made."""
    pushes, large = int(PUSHES * scale), int(LARGE * scale)
    per_push = FILES
    step = SPAN_DAYS * 86_400 / pushes
    with owner.begin() as c:
        c.execute(
            sa.text(
                """CREATE FUNCTION cloudpush_bench_id(n bigint, at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
                SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || left(md5(n::text), 3) || '8' || right(md5(n::text), 15))::uuid $$"""
            )
        )
        c.execute(
            sa.text(
                "INSERT INTO credential (id, owner, kind, name, state, created_by) "
                "SELECT gen_random_uuid(), 'owner-' || n, 'access_key', 'key', 'active', 'owner-' || n FROM generate_series(1, 100) n"
            )
        )
        months = "SELECT cloudpush_make_partition(t, m) FROM unnest(ARRAY['event', 'file']) t, generate_series(timestamptz '2024-12-01Z', now(), '1 month') m"
        c.execute(sa.text(months))
    # Indexes of what is written in bulk are made at the end.
    with owner.begin() as c:
        for definition in INDEXES:
            c.exec_driver_sql(f"DROP INDEX {definition.split()[2]}")
    begun = time.monotonic()
    for first in range(1, pushes + 1, BATCH):
        last = min(first + BATCH - 1, pushes)
        with owner.begin() as c:
            c.execute(sa.text("SET LOCAL session_replication_role = replica"))
            c.execute(sa.text("SET LOCAL statement_timeout = 0"))
            c.execute(sa.text("SET LOCAL synchronous_commit = off"))
            of = _OF.format(step=step)
            pushed = PUSH.format(first=first, last=last, of=of, pushes=pushes, files=per_push)
            c.exec_driver_sql(pushed.replace("%", "%%"))
            moments = {
                name: c.exec_driver_sql(
                    f"SELECT timestamptz '2024-12-01Z' + make_interval(secs => {n} * {step}::float8)"
                ).scalar_one()
                for name, n in (("since", first), ("until", last + 1))
            }
            c.execute(sa.text(FILE.replace("{files}", str(per_push)).replace("::", r"\:\:")), moments)
            c.execute(sa.text(SEARCH), moments)
            c.execute(sa.text(LABELS), moments)
            if events:
                c.execute(sa.text(EVENTS.replace("::", r"\:\:")), moments)
        say(f"{last:,} pushes, {last * per_push:,} files, {time.monotonic() - begun:.0f} s")
    finish(owner, large)
    say(f"indexed and vacuumed, {time.monotonic() - begun:.0f} s")


def finish(owner: sa.Engine, large: int) -> None:
    """One push of very many files; the indexes; what autovacuum would do."""
    with owner.begin() as c:
        c.execute(sa.text("SET LOCAL session_replication_role = replica"))
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))
        big = c.execute(
            sa.text("SELECT id FROM push WHERE state = 'succeeded' ORDER BY created_at DESC LIMIT 1")
        ).scalar_one()
        c.execute(
            sa.text(
                "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state, strength, sha256) "
                "SELECT :id, n, 'plate-' || n / 1000 || '/well-' || n || '.tif', 'k/' || n, 1000, 1, 'verified', 'checksum', sha256(convert_to(n\\:\\:text, 'UTF8')) "
                "FROM generate_series(11, :many) n"
            ),
            {"id": big, "many": large},
        )
        c.execute(
            sa.text("UPDATE push SET files_total = :n, files_verified = :n WHERE id = :id"), {"id": big, "n": large}
        )
        c.execute(sa.text("SET LOCAL maintenance_work_mem = '1GB'"))
        for definition in INDEXES:
            c.exec_driver_sql(definition)
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.execute(sa.text("SET statement_timeout = 0"))
        c.execute(sa.text("VACUUM (ANALYZE) push, push_search, push_label, file, event, credential, part, chain"))
