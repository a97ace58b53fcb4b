"""Events and files by month; events whose personal data can be replaced later without breaking their chain.

- ``event`` is partitioned by the month of ``at``, ``file`` by the month in which its push was submitted, which the push's id
  (UUIDv7) begins with. Rows of no month (ids of another kind, a clock gone wrong) lie in a default partition. Months are
  made ahead by ``cloudpush_make_partitions``, which the sweeper calls; the application has no right to a partition itself.
- Existing rows are moved: an upgrade rewrites both tables while nobody else uses them.
- An event's hash covers its actor and data through ``content``: SHA-256 over a random ``salt``, the actor and the data.
  Without the salt nobody can guess what they were, and the chain still holds. Older events have neither and stay valid.
- A checkpoint's row may follow its chunks: they are written as they are read.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

#: Months made by the upgrade beyond the present one; the sweeper keeps as many.
AHEAD = 6

# How the partition of one month is bounded. The first 48 bits of a UUIDv7 are milliseconds since 1970.
BOUND = """
CREATE FUNCTION cloudpush_month_bound(parent text, month timestamptz) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog
SET timezone = 'UTC'
AS $$
    SELECT CASE parent
        WHEN 'event' THEN month::text
        ELSE (lpad(to_hex((extract(epoch FROM month) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid::text END
$$
"""

# A month's table is made beside and then attached: that waits for users of the default partition, and with `file`, for its
# foreign key, for transactions that have written to `push`; whoever comes meanwhile waits behind it, a second at most (see
# lock_timeout below). Where the default partition has rows of the month already, they stay there.
MAKE_PARTITION = """
CREATE FUNCTION cloudpush_make_partition(parent text, month timestamptz) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    since CONSTANT timestamptz := date_trunc('month', month);
    made CONSTANT text := parent || to_char(since, '_YYYY_MM');
    low CONSTANT text := {schema}.cloudpush_month_bound(parent, since);
    high CONSTANT text := {schema}.cloudpush_month_bound(parent, since + interval '1 month');
    key CONSTANT text := CASE parent WHEN 'event' THEN 'at' ELSE 'push_id' END;
    taken boolean;
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE relname = made AND relnamespace = '{schema}'::regnamespace) THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM {schema}.%I WHERE %I >= %L AND %2$I < %4$L)',
        parent || '_default', key, low, high) INTO taken;
    IF taken THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) %s',
        made, parent, CASE parent WHEN 'file' THEN 'WITH (fillfactor = 75)' ELSE '' END);
    EXECUTE format('REVOKE ALL ON {schema}.%I FROM PUBLIC, cloudpush_app', made);
    EXECUTE format('ALTER TABLE {schema}.%I ATTACH PARTITION {schema}.%I FOR VALUES FROM (%L) TO (%L)',
        parent, made, low, high);
    IF parent = 'event' THEN
        EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {schema}.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION {schema}.cloudpush_append_only()', made);
    END IF;
    RETURN true;
END
$$
"""

MAKE_PARTITIONS = """
CREATE FUNCTION cloudpush_make_partitions(ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, {schema}, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '1s'
AS $$
DECLARE
    made integer := 0;
    parent text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cloudpush_make_partitions', 0));
    FOR n IN 0 .. least(ahead, 120) LOOP
        FOREACH parent IN ARRAY ARRAY['event', 'file'] LOOP
            IF {schema}.cloudpush_make_partition(parent, date_trunc('month', now()) + make_interval(months => n)) THEN
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$
"""

# What the hash of an event covers in place of its actor and its data. With an empty salt: what a pseudonymised event was
# replaced by, as the event about that tells it.
CONTENT = r"""
CREATE FUNCTION cloudpush_event_content(salt bytea, actor text, data text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT sha256(salt || convert_to(octet_length(actor)::text || E'\x1f' || actor || E'\x1f' || data, 'UTF8'))
$$
"""

HASH_2 = r"""
CREATE FUNCTION cloudpush_event_hash_2(
    prev bytea, stream uuid, seq integer, at timestamptz, kind text, credential uuid, content bytea
) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT sha256(prev || convert_to(
        E'cloudpush-event-2\x1f' || stream::text || E'\x1f' || seq::text || E'\x1f'
        || (extract(epoch FROM at) * 1000000)::bigint::text || E'\x1f' || kind || E'\x1f'
        || coalesce(credential::text, '-') || E'\x1f' || encode(content, 'hex'), 'UTF8'))
$$
"""

# The chain's row is locked before an id is taken, and a lock on a row takes a transaction id: so whoever waits until every
# transaction is over that had begun when an event was seen knows that no event with a smaller id will appear (checkpoints
# depend on it).
APPEND = """
CREATE OR REPLACE FUNCTION cloudpush_append(
    stream uuid, actor text, kinds text[], credentials uuid[], data text[]
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
DECLARE
    head chain;
    moment timestamptz;
    salt bytea;
    content bytea;
    link bytea;
BEGIN
    INSERT INTO chain (stream, seq, hash)
        VALUES (cloudpush_append.stream, 0, sha256(convert_to(cloudpush_append.stream::text, 'UTF8')))
        ON CONFLICT DO NOTHING;
    SELECT * INTO head FROM chain c WHERE c.stream = cloudpush_append.stream FOR UPDATE;
    FOR i IN 1 .. cardinality(kinds) LOOP
        head.seq := head.seq + 1;
        moment := clock_timestamp();
        salt := uuid_send(gen_random_uuid());
        content := {schema}.cloudpush_event_content(salt, cloudpush_append.actor, cloudpush_append.data[i]);
        link := {schema}.cloudpush_event_hash_2(
            head.hash, head.stream, head.seq, moment, kinds[i], credentials[i], content);
        INSERT INTO event (stream, seq, at, kind, actor, credential_id, data, prev, hash, salt, content)
            VALUES (head.stream, head.seq, moment, kinds[i], cloudpush_append.actor, credentials[i],
                    cloudpush_append.data[i]::json, head.hash, link, salt, content);
        head.hash := link;
    END LOOP;
    UPDATE chain c SET seq = head.seq, hash = head.hash WHERE c.stream = head.stream;
    RETURN head.seq;
END
$$
"""

# As it was before.
OLD_APPEND = """
CREATE OR REPLACE FUNCTION cloudpush_append(
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

FUNCTIONS = (BOUND, MAKE_PARTITION, MAKE_PARTITIONS, CONTENT, HASH_2, APPEND)

# What stands on a table besides its columns, as statements that make it anew once the table of that name is another one.
# Checks come with the columns; the primary key and what must contain the partition's key are written out below.
STANDING = """
SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i
WHERE i.indrelid = '{table}'::regclass AND NOT i.indisunique
UNION ALL
SELECT format('ALTER TABLE {table} ADD CONSTRAINT %I %s', c.conname, pg_get_constraintdef(c.oid)) FROM pg_constraint c
WHERE c.conrelid = '{table}'::regclass AND c.contype = 'f' AND c.conparentid = 0
UNION ALL
SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE t.tgrelid = '{table}'::regclass AND NOT t.tgisinternal
UNION ALL
SELECT format('GRANT %s ON {table} TO %s', a.privilege_type,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
FROM pg_class k, aclexplode(k.relacl) a WHERE k.oid = '{table}'::regclass AND a.grantee <> k.relowner
UNION ALL
SELECT format('GRANT %s (%I) ON {table} TO %s', a.privilege_type, n.attname,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
FROM pg_attribute n, aclexplode(n.attacl) a WHERE n.attrelid = '{table}'::regclass
UNION ALL
SELECT format('COMMENT ON TABLE {table} IS %L', d.description) FROM pg_description d
WHERE d.objoid = '{table}'::regclass AND d.objsubid = 0 AND d.description IS NOT NULL
"""

COLUMNS = """
SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
"""

PARTITION_KEYS = {"event": "at", "file": "push_id"}


def upgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for function in FUNCTIONS:
        op.execute(function.replace("{schema}", schema))
    # As writers take them: files before events.
    _partition("file", "ALTER TABLE file ADD CONSTRAINT pk_file PRIMARY KEY (push_id, seq)")
    last = _last_event_id()
    _partition(
        "event",
        "ALTER TABLE event ADD CONSTRAINT pk_event PRIMARY KEY (stream, seq, at)",
        "CREATE UNIQUE INDEX uq_event_id ON event (id, at)",
        f"ALTER TABLE event ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (START WITH {last + 1})",
        "ALTER TABLE event ADD COLUMN salt bytea, ADD COLUMN content bytea",
    )
    for function in ("cloudpush_make_partition(text, timestamptz)", "cloudpush_make_partitions(integer)"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION cloudpush_make_partitions(integer) TO cloudpush_app")
    op.execute(
        "ALTER TABLE checkpoint_chunk ALTER CONSTRAINT fk_checkpoint_chunk_checkpoint DEFERRABLE INITIALLY DEFERRED"
    )


def _last_event_id() -> int:
    found = op.get_bind().exec_driver_sql(
        "SELECT last_value FROM pg_sequences WHERE sequencename = 'event_id_seq' AND schemaname = current_schema()"
    )
    return int(found.scalar() or 0)


def _partition(table: str, *keys: str) -> None:
    """Put a partitioned table in the place of ``table``, with its rows and whatever stands on it."""
    bind = op.get_bind()
    standing = [row[0] for row in bind.exec_driver_sql(STANDING.replace("{table}", table).replace("%", "%%"))]
    columns = bind.exec_driver_sql(COLUMNS.replace("{table}", table)).scalar_one()
    key = PARTITION_KEYS[table]
    op.execute(f"ALTER TABLE {table} RENAME TO {table}_before")
    op.execute(
        f"CREATE TABLE {table} (LIKE {table}_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED) "
        f"PARTITION BY RANGE ({key})"
    )
    op.execute(
        f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT"
        + (" WITH (fillfactor = 75)" if table == "file" else "")
    )
    op.execute(f"REVOKE ALL ON {table}_default FROM PUBLIC, cloudpush_app")
    op.execute(
        f"SELECT cloudpush_make_partition('{table}', month) FROM generate_series("
        f"(SELECT date_trunc('month', coalesce(min({'at' if table == 'event' else 'created_at'}), now())) "
        f"FROM {'event_before' if table == 'event' else 'push'}), "
        f"now() + make_interval(months => {AHEAD}), interval '1 month') AS month"
    )
    op.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}_before")
    op.execute(f"DROP TABLE {table}_before")
    for statement in (*keys, *standing):
        op.execute(statement.replace(":", r"\:"))
    if table == "event":
        op.execute(
            "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON event_default "
            "FOR EACH STATEMENT EXECUTE FUNCTION cloudpush_append_only()"
        )


def downgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM event WHERE content IS NOT NULL) THEN "
        "RAISE EXCEPTION 'there are events that the older version could not check'; END IF; END $$"
    )
    op.execute("ALTER TABLE checkpoint_chunk ALTER CONSTRAINT fk_checkpoint_chunk_checkpoint NOT DEFERRABLE")
    op.execute(OLD_APPEND.replace("{schema}", schema))
    last = _last_event_id()
    _gather(
        "file",
        "ALTER TABLE file ADD CONSTRAINT pk_file PRIMARY KEY (push_id, seq)",
        "ALTER TABLE file SET (fillfactor = 75)",
    )
    op.execute("ALTER TABLE event DROP COLUMN salt, DROP COLUMN content")
    _gather(
        "event",
        "ALTER TABLE event ADD CONSTRAINT pk_event PRIMARY KEY (stream, seq)",
        "CREATE UNIQUE INDEX uq_event_id ON event (id)",
        f"ALTER TABLE event ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (START WITH {last + 1})",
    )
    for function in (
        "cloudpush_make_partitions",
        "cloudpush_make_partition",
        "cloudpush_month_bound",
        "cloudpush_event_hash_2",
        "cloudpush_event_content",
    ):
        op.execute(f"DROP FUNCTION {function}")


def _gather(table: str, *keys: str) -> None:
    """Put one plain table in the place of a partitioned one."""
    bind = op.get_bind()
    standing = [row[0] for row in bind.exec_driver_sql(STANDING.replace("{table}", table).replace("%", "%%"))]
    columns = bind.exec_driver_sql(COLUMNS.replace("{table}", table)).scalar_one()
    op.execute(f"ALTER TABLE {table} RENAME TO {table}_before")
    op.execute(
        f"CREATE TABLE {table} (LIKE {table}_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)"
    )
    op.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}_before")
    op.execute(f"DROP TABLE {table}_before")
    for statement in (*keys, *standing):
        # Definitions of a partitioned table's indices say ON ONLY.
        op.execute(statement.replace(" ON ONLY ", " ON ").replace(":", r"\:"))
