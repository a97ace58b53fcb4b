"""Signed URLs: sets and their sheets, renewals, pieces that arrived, and pushes that pause.

- ``sheet`` says where the blocks of a sealed set lie; what is in them only Vault knows.
- ``renewal`` appends each further set that was handed over for a push.
- ``piece`` is working state: what arrived of files that are not there yet. It goes when its push ends.
- A push that ends makes its sets due for destruction, whoever ended it: a trigger sees to that.
- A planned push that waited goes on with its parts: ``awaiting_consent`` → ``running``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TRANSITION = """
CREATE OR REPLACE FUNCTION cloudpush_transition() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF OLD.state <> NEW.state AND NOT (OLD.state || '>' || NEW.state = ANY (ARRAY[
        'queued>running', 'queued>awaiting_consent', 'queued>failed', 'queued>cancelled',
        'running>queued', 'running>awaiting_consent', 'running>succeeded', 'running>unverified',
        'running>failed', 'running>cancelled',
        'awaiting_consent>queued', {resumed}'awaiting_consent>failed', 'awaiting_consent>cancelled'
    ])) THEN
        RAISE EXCEPTION 'a % cannot go from % to %', TG_TABLE_NAME, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$
"""
RESUMED = "'awaiting_consent>running', "

# The original set and every renewal. What is being destroyed or due already keeps its time.
END_OF_SETS = """
CREATE FUNCTION cloudpush_end_of_sets() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
BEGIN
    UPDATE credential c SET purge_after = clock_timestamp()
        WHERE c.id IN (SELECT NEW.credential_id UNION ALL
                       SELECT r.credential_id FROM renewal r WHERE r.push_id = NEW.id)
          AND c.state IN ('sealing', 'active')
          AND coalesce(c.purge_after, 'infinity') > clock_timestamp();
    DELETE FROM piece WHERE push_id = NEW.id;
    RETURN NULL;
END
$$
"""

# A worker takes the newest set of a push as its own: no other owner's, nobody's of another server, and none twice.
RENEWAL_FITS = """
CREATE FUNCTION cloudpush_renewal_fits() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM push p
        JOIN credential mine ON mine.id = p.credential_id
        JOIN credential c ON c.id = NEW.credential_id
        WHERE p.id = NEW.push_id AND p.finished_at IS NULL AND p.credential_kind = 'signed_urls'
          AND c.kind = 'signed_urls' AND c.owner = p.owner AND c.endpoint = mine.endpoint AND c.state = 'active'
          AND NOT EXISTS (SELECT FROM push other WHERE other.credential_id = c.id)
          AND NOT EXISTS (SELECT FROM renewal other WHERE other.credential_id = c.id)
    ) THEN
        RAISE EXCEPTION 'set % is none that push % may go on with', NEW.credential_id, NEW.push_id
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$
"""

GRANTS = """
GRANT SELECT, INSERT ON sheet TO cloudpush_app;
GRANT UPDATE (sealed_at, gone_at, transit_key_version) ON sheet TO cloudpush_app;
GRANT SELECT, INSERT ON renewal TO cloudpush_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON piece TO cloudpush_app;
GRANT UPDATE (parts_paused) ON push TO cloudpush_app;
"""


def upgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    _create_tables()
    op.execute(TRANSITION.format(resumed=RESUMED))
    op.execute(END_OF_SETS.replace("{schema}", schema))
    op.execute(
        "CREATE TRIGGER end_of_sets AFTER UPDATE OF finished_at ON push FOR EACH ROW WHEN ("
        "OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.credential_kind = 'signed_urls') "
        "EXECUTE FUNCTION cloudpush_end_of_sets()"
    )
    op.execute(RENEWAL_FITS.replace("{schema}", schema))
    op.execute("CREATE TRIGGER fits BEFORE INSERT ON renewal FOR EACH ROW EXECUTE FUNCTION cloudpush_renewal_fits()")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON renewal "
        "FOR EACH ROW EXECUTE FUNCTION cloudpush_append_only()"
    )
    op.execute(
        "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON renewal "
        "FOR EACH STATEMENT EXECUTE FUNCTION cloudpush_append_only()"
    )
    for grant in GRANTS.strip().split(";\n"):
        op.execute(grant)


def _create_tables() -> None:
    op.add_column("push", sa.Column("hook_id", sa.Uuid(), nullable=True))
    op.add_column("push", sa.Column("manifest_sha256", sa.LargeBinary(), nullable=True))
    op.add_column("push", sa.Column("parts_paused", sa.Integer(), server_default="0", nullable=False))
    op.create_foreign_key(op.f("fk_push_hook_id"), "push", "credential", ["hook_id"], ["id"])
    op.create_index(
        "ix_push_paused",
        "push",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("state = 'awaiting_consent' OR parts_paused > 0"),
    )
    op.create_table(
        "sheet",
        sa.Column("credential_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("blocks", sa.Integer(), nullable=False),
        sa.Column("session", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("transit_key_version", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "number > 0 AND first_seq <= last_seq AND block BETWEEN 1 AND blocks", name=op.f("ck_sheet_span")
        ),
        sa.ForeignKeyConstraint(["credential_id"], ["credential.id"], name=op.f("fk_sheet_credential_id")),
        sa.PrimaryKeyConstraint("credential_id", "number", name=op.f("pk_sheet")),
    )
    op.create_index(
        "ix_sheet_credential_id_first_seq_last_seq", "sheet", ["credential_id", "first_seq", "last_seq"], unique=False
    )
    op.create_table(
        "renewal",
        sa.Column("push_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("credential_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["push_id"], ["push.id"], name=op.f("fk_renewal_push_id")),
        sa.ForeignKeyConstraint(["credential_id"], ["credential.id"], name=op.f("fk_renewal_credential_id")),
        sa.PrimaryKeyConstraint("push_id", "number", name=op.f("pk_renewal")),
        sa.UniqueConstraint("credential_id", name=op.f("uq_renewal_credential_id")),
    )
    op.create_table(
        "piece",
        sa.Column("push_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("md5", sa.LargeBinary(), nullable=False),
        sa.Column("crc64", sa.Numeric(20, 0), nullable=False),
        sa.Column("upload", sa.Text(), nullable=False),
        sa.Column("proof", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["push_id"], ["push.id"], name=op.f("fk_piece_push_id")),
        sa.PrimaryKeyConstraint("push_id", "seq", "number", name=op.f("pk_piece")),
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER end_of_sets ON push")
    op.execute("DROP FUNCTION cloudpush_end_of_sets")
    op.execute(TRANSITION.format(resumed=""))
    for table in ("piece", "renewal", "sheet"):
        op.drop_table(table)
    op.execute("DROP FUNCTION cloudpush_renewal_fits")
    op.drop_index("ix_push_paused", "push")
    for column in ("parts_paused", "manifest_sha256", "hook_id"):
        op.drop_column("push", column)
