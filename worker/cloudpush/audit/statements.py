"""What the ledger says to Postgres. Every statement carries its guards with it.

The fragments that are put together here are constants of this file; values travel as parameters.
"""

from __future__ import annotations

import sqlalchemy as sa

# The set of signed URLs that was handed over last; any other push has the one credential for good.
_CURRENT_SET = """CASE WHEN p.credential_kind = 'signed_urls' THEN coalesce((
        SELECT r.credential_id FROM renewal r WHERE r.push_id = p.id ORDER BY r.number DESC LIMIT 1), p.credential_id)
    ELSE p.credential_id END"""

_PUSH_COLUMNS = f"""
    p.id, p.owner, p.source, p.uri, p.profile, {_CURRENT_SET} AS credential_id, p.credential_kind, p.min_strength,
    p.overwrite, p.include, p.exclude, p.created_at, p.attempt, p.strikes,
    p.cancel_requested_at IS NOT NULL AS cancelled, p.hook_id, p.package, p.labels,
    (SELECT k.endpoint FROM credential k WHERE k.id = p.credential_id) AS endpoint,
    (SELECT k.owner FROM credential k WHERE k.id = p.credential_id AND k.owner <> p.owner) AS credential_owner"""

# Whether a grant of somebody else is shared with the push's owner just now, for where the push goes. `covers` in
# push/grants/model.py says the same.
_SHARED = """EXISTS (SELECT FROM share s WHERE s.credential_id = p.credential_id AND s.principal = p.owner
        AND s.ended_at IS NULL AND s.until > clock_timestamp()
        AND (p.uri = s.uri OR starts_with(p.uri, s.uri || '/')))"""

# Whether the push may use its grant for as long as what it made from it lasts; true for any other credential.
_CONSENTED = f"""(p.credential_kind NOT IN ('oauth_grant', 'web_identity') OR EXISTS (
        SELECT FROM credential k JOIN oauth_grant g ON g.credential_id = k.id
        WHERE k.id = p.credential_id AND k.state = 'active' AND g.state IN ('active', 'reconnect')
            AND (k.owner = p.owner OR {_SHARED})))"""

# Whether nobody knows yet that the push's credential reaches where it goes: no preflight passed lately there, or above.
# With signed URLs there is nothing to try.
_UNPROVED = """p.credential_kind <> 'signed_urls' AND NOT EXISTS (
        SELECT FROM preflight f
        WHERE f.state = 'passed' AND f.credential_id = p.credential_id AND f.bucket = p.bucket AND f.profile = p.profile
            AND (f.prefix IN ('', p.prefix) OR starts_with(p.prefix, f.prefix || '/'))
            AND f.finished_at > clock_timestamp() - make_interval(secs => :proved_seconds))"""

_WISH = f"CASE WHEN p.cancel_requested_at IS NOT NULL THEN 2 WHEN {_CONSENTED} THEN 0 ELSE 1 END"

_LEASE = "lease_token = :token, lease_until = clock_timestamp() + make_interval(secs => :seconds), worker = :worker"
_NO_LEASE = "lease_token = NULL, lease_until = NULL"

# A push is claimed to be planned; once planned it is its parts that are claimed. Claims tell their event in the
# same statement, which is then its own transaction: one round trip to the database and not four. A claim need not reach
# the disk at once: should Postgres crash right then, the push is queued again and the claimer has lost its lease.
CLAIM_PUSH = sa.text(f"""
    WITH claimed AS (
    UPDATE push p SET state = 'running', {_LEASE}, attempt = p.attempt + 1,
        started_at = coalesce(p.started_at, clock_timestamp()), next_attempt_at = NULL
    WHERE p.id = :id AND p.planned_at IS NULL AND (
        p.state = 'queued' AND coalesce(p.next_attempt_at, '-infinity') <= clock_timestamp()
        OR p.state = 'running' AND p.lease_until < clock_timestamp())
    RETURNING {_PUSH_COLUMNS}, {_UNPROVED} AS unproved)
    SELECT claimed.*, cloudpush_append(id, :worker, ARRAY['push.claimed'], ARRAY[NULL::uuid],
        ARRAY[json_build_object('attempt', attempt, 'software', CAST(:software AS json))::text]), set_config('synchronous_commit', 'off', true)
    FROM claimed
""")

READ_PUSH = sa.text(f"SELECT {_PUSH_COLUMNS} FROM push p WHERE p.id = :id")

CLAIM_PART = sa.text(f"""
    UPDATE part SET state = 'running', {_LEASE}, attempt = attempt + 1,
        started_at = coalesce(started_at, clock_timestamp()), next_attempt_at = NULL, sent_bytes = 0, sent_files = 0
    WHERE push_id = :id AND number = :number AND (
        state = 'queued' AND coalesce(next_attempt_at, '-infinity') <= clock_timestamp()
        OR state = 'running' AND lease_until < clock_timestamp())
      AND EXISTS (SELECT FROM push p WHERE p.id = :id AND p.planned_at IS NOT NULL)
    RETURNING push_id, number, first_seq, last_seq, files, bytes, attempt, strikes,
        (SELECT p.package <> '' AND p.parts_total = part.number FROM push p WHERE p.id = :id) AS closing
""")

DROP_PLAN_FILES = sa.text("DELETE FROM file WHERE push_id = :id")
DROP_PLAN_PARTS = sa.text("DELETE FROM part WHERE push_id = :id")

HOLD_PUSH = sa.text("SELECT id FROM push WHERE id = :id AND lease_token = :token AND state = 'running' FOR UPDATE")

HOLD_PART = sa.text("""
    SELECT number FROM part
    WHERE push_id = :id AND number = :number AND lease_token = :token AND state = 'running' FOR UPDATE
""")

_USABLE = """c.id AS credential_id, c.state AS credential_state, c.expires_at,
    coalesce(c.expires_at <= clock_timestamp(), false) AS expired, p.cancel_requested_at IS NOT NULL AS cancelled"""

# Of a push with a grant. Whoever pauses for it holds it to the end of the transaction, before the push's own row: a
# reconnect and a pause at the same moment see each other.
_CONSENT = f"SELECT g.state, c.state AS credential_state, c.owner = p.owner OR {_SHARED} AS shared"
_OF_PUSH = """FROM push p JOIN oauth_grant g ON g.credential_id = p.credential_id
    JOIN credential c ON c.id = p.credential_id WHERE p.id = :id"""
CONSENT = sa.text(f"{_CONSENT} {_OF_PUSH}")
LOCK_CONSENT = sa.text("SELECT state FROM oauth_grant WHERE credential_id = :id FOR SHARE")

USABLE = sa.text(f"""
    SELECT {_USABLE}
    FROM push p JOIN credential c ON c.id = {_CURRENT_SET} WHERE p.id = :id
""")

# The set's own row comes in any case, with empty columns where it has no such block.
CARDS = sa.text(f"""
    SELECT c.id AS credential_id, s.number, s.first_seq, s.last_seq, s.block, s.blocks, s.session
    FROM push p JOIN credential c ON c.id = {_CURRENT_SET}
        LEFT JOIN sheet s ON s.credential_id = c.id AND c.state = 'active' AND s.gone_at IS NULL
            AND s.last_seq >= :first AND s.first_seq <= coalesce(CAST(:last AS int8), s.first_seq)
    WHERE p.id = :id
    ORDER BY s.number
""")

# The URI of an upload that is under way outlives the URL that began it.
SESSIONS_LEFT = sa.text("""
    SELECT EXISTS (
        SELECT FROM push p
            JOIN credential c ON c.state = 'active' AND (c.id = p.credential_id
                OR c.id IN (SELECT r.credential_id FROM renewal r WHERE r.push_id = p.id))
            JOIN sheet s ON s.credential_id = c.id AND s.session AND s.gone_at IS NULL
            JOIN file f ON f.push_id = p.id AND f.seq = s.first_seq AND f.state = 'planned'
        WHERE p.id = :id)
""")

INSERT_PART = sa.text("""
    INSERT INTO part (push_id, number, first_seq, last_seq, files, bytes, state, lease_token, lease_until, worker,
                      attempt, announced_at, started_at, next_attempt_at)
    VALUES (:id, :number, :first, :last, :files, :bytes, :state, :token,
            clock_timestamp() + make_interval(secs => :seconds), :worker, :attempt, clock_timestamp(),
            CASE WHEN CAST(:state AS text) = 'running' THEN clock_timestamp() END,
            CASE WHEN CAST(:closing AS boolean) THEN TIMESTAMPTZ '9999-12-31 00:00:00Z' END)
""")

# Every other part is over. The closing part is nobody's before that, so that its row is locked after the push's.
DUE_CLOSING = sa.text("""
    UPDATE part SET next_attempt_at = clock_timestamp(), announced_at = clock_timestamp()
    WHERE push_id = :id AND number = :number AND state = 'queued' AND attempt = 0
""")

CLOSING_DUE = sa.text("""
    SELECT q.number FROM part q JOIN push p ON p.id = q.push_id
    WHERE p.id = :id AND p.package <> '' AND q.number = p.parts_total AND q.state = 'queued'
      AND coalesce(q.next_attempt_at, '-infinity') <= clock_timestamp()
""")

ARRIVED = sa.text("""
    SELECT seq, path, size, mtime_ns, state, sha256, coalesce(error_code, '') FROM file
    WHERE push_id = :id AND seq > :after AND seq < :first ORDER BY seq LIMIT :limit
""")

ADD_FILES = sa.text("""
    INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state)
    SELECT :id, r.*, 'planned' FROM unnest(CAST(:seqs AS int8[]), CAST(:paths AS text[]), CAST(:keys AS text[]),
        CAST(:sizes AS int8[]), CAST(:mtimes AS int8[])) AS r
    ON CONFLICT DO NOTHING
""")

# A few rows and their part in one statement; many go by COPY.
INSERT_PAGE = sa.text("""
    WITH files AS (
        INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state, error_code, error_message)
        SELECT :id, r.* FROM unnest(CAST(:seqs AS int8[]), CAST(:paths AS text[]), CAST(:keys AS text[]),
            CAST(:sizes AS int8[]), CAST(:mtimes AS int8[]), CAST(:states AS text[]), CAST(:codes AS text[]),
            CAST(:messages AS text[])) AS r)
    INSERT INTO part (push_id, number, first_seq, last_seq, files, bytes, state, lease_token, lease_until, worker,
                      attempt, announced_at, started_at)
    VALUES (:id, :number, :first, :last, :files, :bytes, :state, :token,
            clock_timestamp() + make_interval(secs => :seconds), :worker, :attempt, clock_timestamp(),
            CASE WHEN CAST(:state AS text) = 'running' THEN clock_timestamp() END)
""")

COPY_FILES = "COPY file (push_id, seq, path, key, size, mtime_ns, state, error_code, error_message) FROM STDIN"

# The push gives its lease back: from here on its parts hold theirs.
FINISH_PLAN = sa.text(f"""
    UPDATE push p SET planned_at = clock_timestamp(), {_NO_LEASE}, parts_total = :parts, files_total = :files,
        bytes_total = :bytes, error_code = NULL, error_message = NULL
    FROM credential c
    WHERE p.id = :id AND p.lease_token = :token AND p.state = 'running' AND p.planned_at IS NULL AND c.id = {_CURRENT_SET}
    RETURNING {_USABLE}
""")

OPEN_FILES = sa.text("""
    SELECT seq, path, key, size, mtime_ns FROM file
    WHERE push_id = :id AND seq BETWEEN :first AND :last AND state = 'planned' ORDER BY seq
""")

# Without the lease no row is found, and none is changed.
RECORD_FILES = sa.text("""
    WITH held AS MATERIALIZED (
        SELECT push_id FROM part
        WHERE push_id = :id AND number = :number AND lease_token = :token AND state = 'running' FOR UPDATE)
    UPDATE file SET state = r.state, strength = r.strength, sha256 = coalesce(r.sha256, file.sha256),
        expected = coalesce(r.expected, file.expected), etag = r.etag, version_id = r.version_id,
        uploaded_at = r.uploaded_at, error_code = r.code, error_message = r.message
    FROM unnest(CAST(:seq AS int8[]), CAST(:state AS text[]), CAST(:strength AS text[]), CAST(:sha256 AS bytea[]),
                CAST(:expected AS text[]), CAST(:etag AS text[]), CAST(:version_id AS text[]),
                CAST(:uploaded_at AS timestamptz[]), CAST(:code AS text[]), CAST(:message AS text[]))
         AS r (seq, state, strength, sha256, expected, etag, version_id, uploaded_at, code, message)
    WHERE file.push_id = :id AND file.seq = r.seq AND file.state = 'planned' AND EXISTS (SELECT FROM held)
""")

# What failed in passing keeps its own words when its time is up; what was cancelled was cancelled.
CLOSE_FILES = sa.text("""
    UPDATE file SET state = :state,
        error_code = coalesce(CASE WHEN CAST(:state AS text) = 'failed' THEN error_code END, :code),
        error_message = coalesce(CASE WHEN CAST(:state AS text) = 'failed' THEN error_message END, :message)
    WHERE push_id = :id AND seq BETWEEN :first AND :last AND state = 'planned'
""")

# `planned` cannot be left over in a part that ends; if it ever were, it counts as failed, never as success.
COUNT_FILES = sa.text("""
    SELECT count(*) FILTER (WHERE state = 'verified') AS verified,
           count(*) FILTER (WHERE state = 'skipped') AS skipped,
           count(*) FILTER (WHERE state = 'unverified') AS unverified,
           count(*) FILTER (WHERE state IN ('failed', 'planned')) AS failed,
           count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
           coalesce(sum(size) FILTER (WHERE state IN ('verified', 'skipped')), 0) AS bytes,
           min(array_position(ARRAY['none', 'response', 'size', 'ingest', 'checksum', 'reread'], strength))
               FILTER (WHERE state IN ('verified', 'skipped', 'unverified')) AS weakest,
           max(uploaded_at) AS uploaded_at,
           (array_agg(error_code ORDER BY state <> 'cancelled', state <> 'failed', seq)
               FILTER (WHERE error_code IS NOT NULL))[1] AS code,
           (array_agg(error_message ORDER BY state <> 'cancelled', state <> 'failed', seq)
               FILTER (WHERE error_code IS NOT NULL))[1] AS message,
           cloudpush_files_digest(:id, :first, :last) AS digest
    FROM file WHERE push_id = :id AND seq BETWEEN :first AND :last
""")

# The part's verdict, and the push's counts in the same breath.
END_PART = sa.text(f"""
    WITH ended AS (
        UPDATE part SET state = :state, {_NO_LEASE}, finished_at = clock_timestamp(), error_code = :code,
            error_message = :message, speed = NULL, eta_seconds = NULL
        WHERE push_id = :id AND number = :number AND lease_token = :token AND state = 'running'
        RETURNING push_id, error_code, error_message)
    UPDATE push p SET parts_done = parts_done + 1, files_verified = files_verified + :verified,
        files_skipped = files_skipped + :skipped, files_unverified = files_unverified + :unverified,
        files_failed = files_failed + :failed, bytes_verified = bytes_verified + :bytes,
        strength = (ARRAY['none', 'response', 'size', 'ingest', 'checksum', 'reread'])[least(
            array_position(ARRAY['none', 'response', 'size', 'ingest', 'checksum', 'reread'], strength),
            CAST(:weakest AS integer))],
        uploaded_at = greatest(uploaded_at, CAST(:uploaded_at AS timestamptz)),
        error_code = coalesce(p.error_code, ended.error_code),
        error_message = coalesce(p.error_message, ended.error_message)
    FROM ended WHERE p.id = ended.push_id
    RETURNING p.id, p.state, parts_done, parts_paused, parts_total, files_total, bytes_total, files_verified, files_skipped,
              files_unverified, files_failed, strength, p.error_code, p.error_message, p.package
""")

# Who asked to stop does not wait for the next attempt; the lock makes this and a cancel see each other.
RETRY_PART = sa.text(f"""
    WITH asked AS (SELECT cancel_requested_at IS NOT NULL AS cancelled FROM push WHERE id = :id FOR SHARE)
    UPDATE part SET state = 'queued', {_NO_LEASE}, strikes = strikes + :strike, announced_at = NULL,
        next_attempt_at = clock_timestamp() + make_interval(secs => CASE WHEN asked.cancelled THEN 0 ELSE :seconds END),
        error_code = :code, error_message = :message
    FROM asked
    WHERE push_id = :id AND number = :number AND lease_token = :token AND state = 'running'
""")

# The push's words are those of a part that ended as the push does: a failed push never says merely "not verified".
END_PUSH = sa.text("""
    UPDATE push SET state = :state, finished_at = clock_timestamp(), (error_code, error_message) = (
        SELECT p.error_code, p.error_message FROM part p WHERE p.push_id = :id AND p.state = :state ORDER BY p.number LIMIT 1)
    WHERE id = :id AND state = 'running'
    RETURNING error_code, error_message
""")

RETRY_PUSH = sa.text(f"""
    UPDATE push SET state = 'queued', {_NO_LEASE}, strikes = strikes + :strike, announced_at = NULL,
        next_attempt_at = clock_timestamp()
            + make_interval(secs => CASE WHEN cancel_requested_at IS NULL THEN :seconds ELSE 0 END),
        error_code = :code, error_message = :message
    WHERE id = :id AND lease_token = :token AND state = 'running' AND planned_at IS NULL
""")

CLOSE_PUSH = sa.text(f"""
    UPDATE push SET state = :state, {_NO_LEASE}, finished_at = clock_timestamp(), error_code = :code, error_message = :message
    WHERE id = :id AND lease_token = :token AND state = 'running' AND planned_at IS NULL
""")

# Parts that pause, end or go on at the same moment do so one after the other. What is read under this lock is read by
# a statement of its own, which sees what was committed meanwhile.
LOCK_PUSH = sa.text("SELECT id FROM push WHERE id = :id FOR NO KEY UPDATE")

PAUSE_PART = sa.text(f"""
    WITH paused AS (
        UPDATE part SET state = 'awaiting_consent', {_NO_LEASE}, next_attempt_at = NULL, error_code = :code,
            error_message = :message, speed = NULL, eta_seconds = NULL
        WHERE push_id = :id AND number = :number AND lease_token = :token AND state = 'running'
        RETURNING push_id)
    UPDATE push p SET parts_paused = parts_paused + 1 FROM paused WHERE p.id = paused.push_id
    RETURNING p.id, p.state, parts_done, parts_paused, parts_total, p.package
""")

# Every part is over or waits: so does the push, for what its first part waits for.
PAUSE_PUSH = sa.text("""
    UPDATE push SET state = 'awaiting_consent', (error_code, error_message) = (
        SELECT p.error_code, p.error_message FROM part p
        WHERE p.push_id = :id AND p.state = 'awaiting_consent' ORDER BY p.number LIMIT 1)
    WHERE id = :id AND state = 'running'
    RETURNING error_code, error_message
""")

PAUSE_UNPLANNED = sa.text(f"""
    UPDATE push SET state = 'awaiting_consent', {_NO_LEASE}, next_attempt_at = NULL, error_code = :code,
        error_message = :message
    WHERE id = :id AND lease_token = :token AND state = 'running' AND planned_at IS NULL
""")

RESUME_PARTS = sa.text("""
    UPDATE part SET state = 'queued', announced_at = NULL, next_attempt_at = clock_timestamp(), error_code = NULL,
        error_message = NULL, strikes = CASE WHEN :afresh THEN 0 ELSE strikes END
    WHERE push_id = :id AND state = 'awaiting_consent'
""")

# What a part ended with stays the push's error; what it waited for has come.
RESUME_PUSH = sa.text("""
    UPDATE push SET parts_paused = 0, strikes = CASE WHEN :afresh THEN 0 ELSE strikes END, state = CASE WHEN planned_at IS NULL THEN 'queued' ELSE 'running' END,
        announced_at = CASE WHEN planned_at IS NOT NULL THEN announced_at END,
        next_attempt_at = CASE WHEN planned_at IS NULL THEN clock_timestamp() END,
        (error_code, error_message) = (
            SELECT p.error_code, p.error_message FROM part p
            WHERE p.push_id = :id AND p.finished_at IS NOT NULL AND p.error_code IS NOT NULL
            ORDER BY p.finished_at LIMIT 1)
    WHERE id = :id AND (state = 'awaiting_consent' OR parts_paused > 0)
    RETURNING state
""")

# What waits for a user: for too long, or by a share that has ended.
IMPATIENT = sa.text(f"""
    SELECT p.id, {_CONSENTED} AS consented FROM push p
    WHERE (p.state = 'awaiting_consent' OR p.parts_paused > 0)
      AND (p.created_at < clock_timestamp() - make_interval(secs => :seconds) OR NOT {_CONSENTED})
    ORDER BY p.created_at LIMIT 500 FOR NO KEY UPDATE OF p SKIP LOCKED
""")

EXTEND_PARTS = sa.text(f"""
    UPDATE part SET lease_until = clock_timestamp() + make_interval(secs => :seconds)
    FROM push p
    WHERE p.id = part.push_id AND part.lease_token = ANY (CAST(:tokens AS uuid[])) AND part.state = 'running'
    RETURNING part.lease_token, {_WISH}
""")

EXTEND_PUSHES = sa.text(f"""
    UPDATE push p SET lease_until = clock_timestamp() + make_interval(secs => :seconds)
    WHERE p.lease_token = ANY (CAST(:tokens AS uuid[])) AND p.state = 'running'
    RETURNING p.lease_token, {_WISH}
""")

NOTE_PROGRESS = sa.text("""
    UPDATE part SET sent_bytes = :bytes, sent_files = :files, speed = :speed, eta_seconds = :eta
    WHERE lease_token = :token AND state = 'running'
""")
