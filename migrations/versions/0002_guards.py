"""What the database itself refuses: edited events, impossible transitions, rights nobody needs.

- ``cloudpush_append`` is the only way to an event: it locks the chain's head, numbers the event, hashes it
  and moves the head. It runs with its owner's rights; the application may call it and nothing else.
- Events refuse UPDATE, DELETE and TRUNCATE, whoever asks.
- States change only as ``push/states.py`` says; a push that is over, and the completeness of a plan, are kept.
- What was asked for cannot be rewritten: the application may update only where a push stands.
- The application's role ``cloudpush_app`` may never delete, except the rows of a plan that is not complete.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cloudpush_app') THEN
        CREATE ROLE cloudpush_app NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'role cloudpush_app does not exist and % may not create it', current_user
        USING HINT = 'As a superuser run: CREATE ROLE cloudpush_app NOLOGIN; then grant it to the application''s login role.';
END
$$
"""

# Functions that run with their owner's rights name pg_temp last: left out, it would be searched first, and a caller's
# temporary table would take the place of ours. The text that is hashed: previous hash, then these fields joined by U+001F. `actor` is free text and so
# carries its length; `data` is the last and so needs none. Times are microseconds since 1970.
HASH = r"""
CREATE FUNCTION cloudpush_event_hash(
    prev bytea, stream uuid, seq integer, at timestamptz, kind text, actor text, credential uuid, data text
) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog
AS $$
    SELECT sha256(prev || convert_to(concat_ws(
        E'\x1f', 'cloudpush-event-1', stream::text, seq::text,
        (extract(epoch FROM at) * 1000000)::bigint::text,
        kind, coalesce(credential::text, '-'), octet_length(actor)::text, actor, data
    ), 'UTF8'))
$$
"""

APPEND = """
CREATE FUNCTION cloudpush_append(
    stream uuid, actor text, kinds text[], credentials uuid[], data text[]
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
DECLARE
    head chain;
    moment timestamptz;
    link bytea;
BEGIN
    INSERT INTO chain (stream, seq, hash)
        VALUES (cloudpush_append.stream, 0, sha256(convert_to(cloudpush_append.stream::text, 'UTF8')))
        ON CONFLICT DO NOTHING;
    SELECT * INTO head FROM chain c WHERE c.stream = cloudpush_append.stream FOR UPDATE;
    FOR i IN 1 .. cardinality(kinds) LOOP
        head.seq := head.seq + 1;
        moment := clock_timestamp();
        link := {schema}.cloudpush_event_hash(
            head.hash, head.stream, head.seq, moment, kinds[i], cloudpush_append.actor, credentials[i], data[i]);
        INSERT INTO event (stream, seq, at, kind, actor, credential_id, data, prev, hash)
            VALUES (head.stream, head.seq, moment, kinds[i], cloudpush_append.actor,
                    credentials[i], data[i]::json, head.hash, link);
        head.hash := link;
    END LOOP;
    UPDATE chain c SET seq = head.seq, hash = head.hash WHERE c.stream = head.stream;
    RETURN head.seq;
END
$$
"""

# Order and separators make the text of a file row unambiguous: free text carries its length.
FILES_DIGEST = r"""
CREATE FUNCTION cloudpush_files_digest(push uuid, first bigint, last bigint) RETURNS bytea
LANGUAGE sql STABLE
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
    SELECT sha256(convert_to(coalesce(string_agg(concat_ws(
        E'\x1f', f.seq, octet_length(f.path), f.path, octet_length(f.key), f.key, f.size, f.mtime_ns, f.state,
        coalesce(f.strength, '-'), coalesce(encode(f.sha256, 'hex'), '-'), coalesce(f.expected, '-'),
        octet_length(f.etag), coalesce(f.etag, '-'), octet_length(f.version_id), coalesce(f.version_id, '-'),
        coalesce((extract(epoch FROM f.uploaded_at) * 1000000)::bigint::text, '-'), coalesce(f.error_code, '-')
    ), E'\n' ORDER BY f.seq), ''), 'UTF8'))
    FROM file f WHERE f.push_id = push AND f.seq BETWEEN first AND last
$$
"""

APPEND_ONLY = """
CREATE FUNCTION cloudpush_append_only() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$
"""

TRANSITION = """
CREATE FUNCTION cloudpush_transition() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF OLD.state <> NEW.state AND NOT (OLD.state || '>' || NEW.state = ANY (ARRAY[
        'queued>running', 'queued>awaiting_consent', 'queued>failed', 'queued>cancelled',
        'running>queued', 'running>awaiting_consent', 'running>succeeded', 'running>unverified',
        'running>failed', 'running>cancelled',
        'awaiting_consent>queued', 'awaiting_consent>failed', 'awaiting_consent>cancelled'
    ])) THEN
        RAISE EXCEPTION 'a % cannot go from % to %', TG_TABLE_NAME, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$
"""

KEPT = """
CREATE FUNCTION cloudpush_kept() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'push % is over or its plan complete: this UPDATE is refused', OLD.id
        USING ERRCODE = 'insufficient_privilege';
END
$$
"""

PLAN_ONLY = """
CREATE FUNCTION cloudpush_delete_only_while_planning() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (SELECT FROM {schema}.push p WHERE p.id = OLD.push_id AND p.planned_at IS NOT NULL) THEN
        RAISE EXCEPTION 'rows of a complete plan are kept: DELETE on % is refused', TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END
$$
"""

GRANTS = """
REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM cloudpush_app;
GRANT USAGE ON SCHEMA {schema} TO cloudpush_app;
GRANT SELECT ON event, chain, alembic_version TO cloudpush_app;
GRANT SELECT, INSERT ON push TO cloudpush_app;
GRANT UPDATE ({where_it_stands}) ON push TO cloudpush_app;
GRANT SELECT, INSERT, UPDATE ON credential TO cloudpush_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON part TO cloudpush_app;
GRANT SELECT, INSERT, DELETE ON file TO cloudpush_app;
GRANT UPDATE ({what_became_of_it}) ON file TO cloudpush_app;
REVOKE ALL ON FUNCTION cloudpush_append(uuid, text, text[], uuid[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloudpush_append(uuid, text, text[], uuid[], text[]) TO cloudpush_app;
"""

WHERE_IT_STANDS = """
    state, started_at, planned_at, finished_at, cancel_requested_at, announced_at, next_attempt_at, attempt, strikes,
    lease_token, lease_until, worker, parts_total, parts_done, files_total, bytes_total, files_verified,
    files_skipped, files_unverified, files_failed, bytes_verified, strength, uploaded_at, error_code, error_message
"""
WHAT_BECAME_OF_IT = """
    state, strength, sha256, expected, etag, version_id, uploaded_at, error_code, error_message
"""


def upgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(ROLE)
    for function in (HASH, APPEND, FILES_DIGEST, APPEND_ONLY, TRANSITION, KEPT, PLAN_ONLY):
        op.execute(function.replace("{schema}", schema))
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON event "
        "FOR EACH ROW EXECUTE FUNCTION cloudpush_append_only()"
    )
    op.execute(
        "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON event "
        "FOR EACH STATEMENT EXECUTE FUNCTION cloudpush_append_only()"
    )
    for table in ("push", "part"):
        op.execute(
            f"CREATE TRIGGER transition BEFORE UPDATE OF state ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION cloudpush_transition()"
        )
    op.execute(
        "CREATE TRIGGER kept BEFORE UPDATE ON push FOR EACH ROW WHEN (OLD.finished_at IS NOT NULL "
        "OR OLD.planned_at IS NOT NULL AND NEW.planned_at IS DISTINCT FROM OLD.planned_at) "
        "EXECUTE FUNCTION cloudpush_kept()"
    )
    for table in ("part", "file"):
        op.execute(
            f"CREATE TRIGGER plan_only BEFORE DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION cloudpush_delete_only_while_planning()"
        )
    grants = GRANTS.format(schema=schema, where_it_stands=WHERE_IT_STANDS, what_became_of_it=WHAT_BECAME_OF_IT)
    for grant in grants.strip().split(";\n"):
        op.execute(grant)


def downgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute("DROP TRIGGER kept ON push")
    for table in ("part", "file"):
        op.execute(f"DROP TRIGGER plan_only ON {table}")
    for table in ("push", "part"):
        op.execute(f"DROP TRIGGER transition ON {table}")
    op.execute("DROP TRIGGER no_truncate ON event")
    op.execute("DROP TRIGGER append_only ON event")
    for function in (
        "cloudpush_delete_only_while_planning",
        "cloudpush_kept",
        "cloudpush_transition",
        "cloudpush_append_only",
        "cloudpush_files_digest",
        "cloudpush_append",
        "cloudpush_event_hash",
    ):
        op.execute(f"DROP FUNCTION {function}")
    op.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM cloudpush_app")
    op.execute(f"REVOKE USAGE ON SCHEMA {schema} FROM cloudpush_app")
