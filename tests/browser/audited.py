"""A history worth auditing: two years of pushes, put into the stack's database with their events and files, and a few real ones.

The rows are made up, their chains are not: the notary inspects all of it, with the stack's own Vault, and finds it sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from secrets import token_bytes, token_hex
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import sqlalchemy as sa

from browser.stage import Stage, until
from builders import verified
from cloudpush.wiring import build_sweeper
from records import Record
from servers import Database

#: Hours after which an inspection is due again.
NOW = 1e-9
AUDITOR = "noether"
#: Pushes of the made-up history, and files of its largest one.
MANY, FILES = 900, 20_000
LARGE = uuid4()


@dataclass(frozen=True)
class Audited:
    """What tests open."""

    real: str  # a push that is sound
    large: str  # a push of many files
    credential: str

    def inspect(self, world: Stage) -> None:
        """The notary's own inspection, now."""
        sweeper = build_sweeper(world.settings.model_copy(update={"inspect_hours": NOW}))
        try:
            assert sweeper.inspector.once()
        finally:
            sweeper.close()

    @contextmanager
    def broken(self, world: Stage) -> Iterator[None]:
        """Somebody with every right has edited one event of the real push, and an inspection has found it."""
        [(actor,)] = world.sql("SELECT actor FROM event WHERE stream = %s AND seq = 2", self.real)
        edit = "UPDATE event SET actor = :actor WHERE stream = :id AND seq = 2"
        record = _record(world)
        try:
            record.tamper(edit, actor="mallory", id=self.real)
            self.inspect(world)
            yield
        finally:
            record.tamper(edit, actor=actor, id=self.real)
            self.inspect(world)
            record.close()

    @contextmanager
    def restored(self, world: Stage) -> Iterator[None]:
        """Somebody has put an older copy of the database in place: the newest checkpoint is not there any more."""
        kept = "CREATE TABLE kept_{0} AS SELECT * FROM {0} WHERE {1} = (SELECT max(number) FROM checkpoint)"
        gone = "DELETE FROM {0} WHERE {1} IN (SELECT {1} FROM kept_{0})"
        back = "INSERT INTO {0} SELECT * FROM kept_{0}"
        tables = (("checkpoint_chunk", "checkpoint"), ("checkpoint", "number"))
        record = _record(world)
        try:
            record.tamper(*(text.format(*t) for text in (kept, gone) for t in tables))
            yield
        finally:
            record.tamper(*(text.format(*t) for text in (back, "DROP TABLE kept_{0}") for t in tables[::-1]))
            record.close()


def audited(world: Stage) -> Audited:
    """Fill the database."""
    world.sql(
        "INSERT INTO principal_role (principal, role, granted_by) VALUES (%s, 'auditor', 'operator')"
        " ON CONFLICT DO NOTHING",
        AUDITOR,
    )
    record = _record(world)
    try:
        now = datetime.now(UTC)
        done = [replace(file, uploaded_at=now, sha256=token_bytes(32), etag=token_hex(16)) for file in verified([1, 2])]
        labels = {"project": "genomes", "run": "2026-11"}
        real = record.finished(done, owner="grace", actor="grace", labels=labels)
        credential = record.credential("grace", name="key of the laboratory").id
        record.tamper(
            PUSHES, SEARCH, LABELS, FILE_ROWS, EVENTS, credential=credential, many=MANY, files=FILES, large=LARGE
        )
        for owner, name in (("ada", "archive key"), ("emmy", "sequencer"), ("hypatia", "survey bucket")):
            record.credential(owner, name=name)
        with record.owner.begin() as c:
            c.execute(sa.text("INSERT INTO receipt (push_id) VALUES (:large)"), {"large": LARGE})
    finally:
        record.close()
    signed = "SELECT 1 FROM receipt WHERE push_id IN (%s, %s) AND statement IS NOT NULL"
    until(lambda: len(world.sql(signed, LARGE, real)) == 2, "their receipts are signed")
    until(lambda: world.sql("SELECT 1 FROM checkpoint") != [], "something is sealed")
    made = Audited(str(real), str(LARGE), str(credential))
    made.inspect(world)
    return made


def _record(world: Stage) -> Record:
    url = world.settings.database_url
    database = SimpleNamespace(url=url, admin_url=url.replace("cloudpush_app@", "cloudpush_owner@"))
    return Record(cast("Database", database))


# One in eleven has failed, one in seventeen is not proved.
PUSHES = r"""
INSERT INTO push (id, owner, actor, request_sha256, source, uri, bucket, prefix, profile, credential_id, credential_kind,
    min_strength, overwrite, labels, state, created_at, started_at, planned_at, finished_at, parts_total, parts_done,
    files_total, files_verified, files_failed, files_unverified, bytes_total, bytes_verified, strength, error_code,
    error_message, attempt)
SELECT CASE n WHEN 3 THEN CAST(:large AS uuid) ELSE gen_random_uuid() END, owner, owner, sha256(n\:\:text\:\:bytea),
    '/data/runs/' || project || '/' || n, 's3://' || bucket || '/' || project || '/run-' || n, bucket,
    project || '/run-' || n, '', :credential, 'access_key', 'checksum', 'if-different',
    jsonb_build_object('project', project, 'run', n\:\:text), state, at, at + interval '1 second',
    at + interval '3 seconds', at + interval '4 minutes', 1, 1, files, files - bad, CASE state WHEN 'failed' THEN bad ELSE 0 END,
    CASE state WHEN 'unverified' THEN bad ELSE 0 END, files * each, (files - bad) * each,
    CASE state WHEN 'unverified' THEN 'size' ELSE 'checksum' END,
    CASE state WHEN 'failed' THEN 'ACCESS_DENIED' WHEN 'unverified' THEN 'NOT_VERIFIED' END,
    CASE state WHEN 'failed' THEN 'The provider refused 2 files: Access Denied.'
        WHEN 'unverified' THEN '2 files are proved by their size only.' END, 1
FROM (SELECT n, now() - n * interval '17 hours' * (0.7 + sin(n / 40.0) * 0.2) AS at,
        (ARRAY['ada', 'grace', 'emmy', 'hypatia', 'mary'])[1 + n * 7 % 5] AS owner,
        (ARRAY['results', 'archive', 'sequencing'])[1 + n * 11 % 3] AS bucket,
        (ARRAY['genomes', 'microscopy', 'climate', 'survey'])[1 + n * 13 % 4] AS project,
        CASE WHEN n % 11 = 0 OR n = 3 THEN 'failed' WHEN n % 17 = 0 THEN 'unverified' ELSE 'succeeded' END AS state,
        CASE WHEN n % 11 = 0 OR n % 17 = 0 OR n = 3 THEN 2 ELSE 0 END AS bad, CASE n WHEN 3 THEN 5242880 ELSE 734003200 END\:\:bigint AS each,
        CASE n WHEN 3 THEN :files ELSE 2 + n * 7919 % 24 END AS files FROM generate_series(1, :many) n) AS made
"""

SEARCH = r"""
INSERT INTO push_search (push_id, created_at, owner, bucket, credential_kind, state, strength, error_code, files, bytes, terms)
SELECT id, created_at, owner, bucket, credential_kind, state, strength, error_code, files_total, bytes_total,
    cloudpush_search_terms(push) FROM push WHERE source LIKE '/data/runs/%'
"""

LABELS = r"""
INSERT INTO push_label SELECT id, key || '=' || value, created_at FROM push, jsonb_each_text(labels)
WHERE source LIKE '/data/runs/%' AND finished_at IS NOT NULL
"""

# Of the large one, two in the middle have failed.
FILE_ROWS = r"""
INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state, strength, sha256, etag, version_id, uploaded_at, error_code,
    error_message)
SELECT p.id, n, 'plate-' || lpad((n / 500)\:\:text, 3, '0') || '/sample-' || lpad(n\:\:text, 6, '0') || '.fastq.gz', 'k' || n,
    p.bytes_total / p.files_total, 0, CASE WHEN bad THEN p.state ELSE 'verified' END,
    CASE WHEN NOT bad THEN 'checksum' WHEN p.state = 'unverified' THEN 'size' ELSE 'none' END,
    sha256(n\:\:text\:\:bytea), md5(n\:\:text), md5('v' || n), p.created_at + interval '3 seconds' + n * interval '10 milliseconds',
    CASE WHEN bad THEN p.error_code END, CASE WHEN bad THEN p.error_message END
FROM push p, generate_series(1, p.files_total) n, LATERAL (SELECT p.files_total > p.files_verified
    AND CASE p.id WHEN :large THEN n IN (911, 972) ELSE n <= 2 END AS bad) AS b
WHERE p.source LIKE '/data/runs/%'
"""

# By the door that the application uses.
EVENTS = r"""
SELECT count(cloudpush_append(p.id, p.actor, ARRAY['push.queued'], ARRAY[NULL\:\:uuid],
    ARRAY[jsonb_build_object('owner', p.owner, 'source', p.source, 'destination', p.uri, 'profile', p.profile,
        'credential', p.credential_id, 'credential_kind', p.credential_kind, 'min_strength', p.min_strength,
        'overwrite', p.overwrite, 'include', p.include, 'exclude', p.exclude, 'labels', p.labels, 'hook', NULL,
        'manifest_sha256', NULL, 'package', p.package, 'retry_of', NULL)\:\:text])),
    count(cloudpush_append(p.id, 'worker-1', ARRAY['credential.used', 'push.' || p.state], ARRAY[p.credential_id, NULL],
    ARRAY[jsonb_build_object('push', p.id, 'part', 1, 'worker', 'worker-1')\:\:text,
    (jsonb_build_object('files', p.files_total, 'bytes', p.bytes_total, 'verified', p.files_verified, 'skipped', 0,
        'unverified', p.files_unverified, 'failed', p.files_failed, 'strength', p.strength)
        || CASE WHEN p.error_code IS NULL THEN '{}' ELSE jsonb_build_object('code', p.error_code, 'message', p.error_message)
        END)\:\:text]))
FROM push p WHERE p.source LIKE '/data/runs/%'
"""
