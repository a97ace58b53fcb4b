"""What auditors search by: a row of terms for each push that is over, and one for each of its labels.

A trigger writes them once, in the verdict's own transaction. Of a push with more than 10,000 files an even sample of so many
paths is looked at, and no more than 7,000 words are kept, so that a verdict never waits long for it and the terms always fit
into a tsvector (1 MB). What somebody looks for is cut into words in the same way, by ``audit/filters.py``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

#: Every ASCII character that is neither letter nor digit separates words.
APART = "".join(f"\\{i:03o}" for i in range(1, 128) if not chr(i).isalnum())

WORDS = r"""
CREATE FUNCTION cloudpush_words(paths text) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog
AS $$
    SELECT coalesce(array_agg(DISTINCT 'w=' || left(word, 30)), '{}')
    FROM string_to_table(translate(lower(paths), E'{apart}', repeat(' ', {many})), ' ') word WHERE word <> ''
$$
""".replace("{apart}", APART).replace("{many}", str(APART.count("\\")))

TERMS = """
CREATE FUNCTION cloudpush_search_terms(p {schema}.push) RETURNS tsvector
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
DECLARE
    day CONSTANT text := to_char(p.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD');
    paths text;
    found text[];
BEGIN
    IF p.files_total <= 10000 THEN
        SELECT string_agg(f.path, ' ') INTO paths FROM file f WHERE f.push_id = p.id;
    ELSE
        SELECT string_agg(f.path, ' ') INTO paths
        FROM generate_series(1, p.files_total, ceil(p.files_total / 10000.0)::bigint) n
        CROSS JOIN LATERAL (SELECT path FROM file WHERE push_id = p.id AND seq = n OFFSET 0) f;
    END IF;
    found := (cloudpush_words(concat_ws(' ', p.source, p.uri)))[:3000];
    found := found || (cloudpush_words(paths))[:7000 - cardinality(found)];
    SELECT found || array_agg(left(t, 402)) INTO found FROM (VALUES
        ('o=' || p.owner), ('b=' || p.bucket), ('k=' || p.credential_kind), ('c=' || p.credential_id), ('s=' || p.state),
        ('x=' || p.strength), ('e=' || p.error_code), ('y=' || left(day, 4)), ('m=' || left(day, 7)), ('d=' || day)
    ) AS each (t) WHERE t IS NOT NULL;
    SELECT found || coalesce(array_agg(left('l=' || key || '=' || value, 402)), '{}') INTO found FROM jsonb_each_text(p.labels);
    IF p.prefix <> '' THEN
        -- a/b/c: a/, a/b/, a/b/c/
        SELECT found || array_agg(left('p=' || dirs, 402)) INTO found FROM (
            SELECT string_agg(name, '/') OVER (ORDER BY n) || '/' AS dirs
            FROM string_to_table(rtrim(p.prefix, '/'), '/') WITH ORDINALITY AS part (name, n) ORDER BY n LIMIT 30) AS each;
    END IF;
    RETURN array_to_tsvector(found);
END
$$
"""

# What the index has: also how words, and the levels of a prefix, begin, up to eight letters. Without that, a beginning that
# many words have would be looked up word by word. It need not lie in the table.
BEGUN = """
CREATE FUNCTION cloudpush_begun(terms tsvector) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog
AS $$
    WITH stored AS MATERIALIZED (SELECT tsvector_to_array(terms) AS all_of),
    more AS MATERIALIZED (
        SELECT all_of || ARRAY(
            SELECT DISTINCT 'v=' || substr(t, 3, n)
            FROM unnest(all_of) t, generate_series(1, least(8, length(t) - 2)) n WHERE starts_with(t, 'w=')
        ) || ARRAY(
            -- p=a/bc/: q=a/b, q=a/bc
            SELECT DISTINCT 'q=' || left(dirs, length(dirs) - length(name) + n)
            FROM unnest(all_of) t, left(substr(t, 3), -1) dirs, split_part(dirs, '/', -1) name,
                 generate_series(1, least(8, length(name))) n WHERE starts_with(t, 'p=')
        ) AS all_of FROM stored)
    -- A tsvector holds 1 MB of letters.
    SELECT CASE WHEN (SELECT sum(octet_length(t)) FROM unnest(all_of) t) < 1000000 THEN array_to_tsvector(all_of) ELSE terms END
    FROM more
$$
"""

SEARCHABLE = """
CREATE FUNCTION cloudpush_searchable() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
BEGIN
    INSERT INTO push_search (push_id, created_at, owner, bucket, credential_kind, state, strength, error_code, files, bytes, terms)
        VALUES (NEW.id, NEW.created_at, NEW.owner, NEW.bucket, NEW.credential_kind, NEW.state, NEW.strength, NEW.error_code,
                NEW.files_total, NEW.bytes_total, cloudpush_search_terms(NEW))
        ON CONFLICT DO NOTHING;
    IF NEW.labels <> '{}' THEN
        INSERT INTO push_label (push_id, label, created_at)
            SELECT NEW.id, key || '=' || value, NEW.created_at FROM jsonb_each_text(NEW.labels)
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$
"""

#: Pushes that ended before.
FILL = """
INSERT INTO push_search (push_id, created_at, owner, bucket, credential_kind, state, strength, error_code, files, bytes, terms)
    SELECT id, created_at, owner, bucket, credential_kind, state, strength, error_code, files_total, bytes_total,
           cloudpush_search_terms(push)
    FROM push WHERE finished_at IS NOT NULL ORDER BY created_at
"""

FILL_LABELS = """
INSERT INTO push_label (push_id, label, created_at)
    SELECT id, key || '=' || value, created_at FROM push, jsonb_each_text(labels) WHERE finished_at IS NOT NULL ORDER BY created_at
"""

TRIGGER = (
    "CREATE TRIGGER searchable AFTER UPDATE OF state ON push FOR EACH ROW "
    "WHEN (NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL) EXECUTE FUNCTION cloudpush_searchable()"
)


def upgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.create_table(
        "push_search",
        sa.Column("push_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("credential_kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("strength", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("terms", postgresql.TSVECTOR(), nullable=False),
        sa.ForeignKeyConstraint(["push_id"], ["push.id"], name=op.f("fk_push_search_push_id")),
        sa.PrimaryKeyConstraint("push_id", name=op.f("pk_push_search")),
    )
    op.create_table(
        "push_label",
        sa.Column("push_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["push_id"], ["push.id"], name=op.f("fk_push_label_push_id")),
        sa.PrimaryKeyConstraint("push_id", "label", name=op.f("pk_push_label")),
    )
    for function in (WORDS, TERMS, BEGUN, SEARCHABLE):
        op.get_bind().exec_driver_sql(function.replace("{schema}", schema))
    op.execute(FILL)
    op.execute(FILL_LABELS)
    op.create_index("ix_push_label_newest", "push_label", ["label", "created_at", "push_id"], unique=False)
    # A short pending list: searches read all of it.
    op.create_index(
        "ix_push_search_terms",
        "push_search",
        [sa.text("cloudpush_begun(terms)")],
        unique=False,
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": "512"},
    )
    op.create_index(
        "ix_push_search_tally",
        "push_search",
        ["created_at"],
        unique=False,
        postgresql_include=[
            *("owner", "bucket", "credential_kind", "state", "strength", "error_code", "files", "bytes"),
        ],
    )
    for other in ("state", "bucket"):
        op.create_index(
            f"ix_push_search_owner_{other}", "push_search", ["owner", other, "created_at", "push_id"], unique=False
        )
    op.create_index(
        "ix_push_live", "push", ["created_at", "id"], unique=False, postgresql_where=sa.text("finished_at IS NULL")
    )
    op.create_index("ix_push_credential_id_created_at", "push", ["credential_id", "created_at", "id"], unique=False)
    op.drop_index("ix_push_credential_id", table_name="push")
    op.execute(TRIGGER)
    op.execute("GRANT SELECT, INSERT ON push_search, push_label TO cloudpush_app")


def downgrade() -> None:
    op.create_index("ix_push_credential_id", "push", ["credential_id"], unique=False)
    op.drop_index("ix_push_credential_id_created_at", table_name="push")
    op.drop_index("ix_push_live", table_name="push")
    op.execute("DROP TRIGGER searchable ON push")
    op.execute("DROP FUNCTION cloudpush_searchable")
    op.execute("DROP FUNCTION cloudpush_search_terms")
    op.drop_table("push_label")
    op.drop_table("push_search")
    op.execute("DROP FUNCTION cloudpush_begun")
    op.execute("DROP FUNCTION cloudpush_words")
