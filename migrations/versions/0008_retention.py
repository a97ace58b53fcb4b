"""Months that were dropped, and names that may be replaced: by the owner of the tables, by command only.

- ``retired`` says which months are gone and by which archive, ``cut`` where each chain begins that went on: append-only,
  and the application may only read them.
- What refuses every change lets one pass: the replacement of a person's name, in the columns that a name can be in, by the
  owner of the tables in a session that says ``cloudpush.pseudonymising = on``. The application has no right to any of it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# session_user, not current_user: what runs with its owner's rights on behalf of the application is not meant.
PSEUDONYMISED = r"""
CREATE FUNCTION cloudpush_pseudonymised(old jsonb, new jsonb, columns text[]) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog
AS $$
    SELECT coalesce(current_setting('cloudpush.pseudonymising', true), '') = 'on'
        AND pg_has_role(session_user, (SELECT relowner FROM pg_class WHERE oid = '{schema}.event'::regclass), 'MEMBER')
        AND old - columns = new - columns
        AND CASE WHEN NOT 'salt' = ANY (columns) THEN true
                 WHEN new->>'content' IS NULL THEN coalesce(new->>'salt' = '\x', false)
                 ELSE new->>'salt' IS NULL END
$$
"""

#: Table → columns that a name may be replaced in, trigger → (which rows it refuses, the function that refuses).
GUARDED = {
    "push": (
        (
            "owner",
            "actor",
            "source",
            "uri",
            "bucket",
            "prefix",
            "labels",
            "include",
            "exclude",
            "error_message",
            "idempotency_key",
            "request_sha256",
        ),
        "kept",
        "(OLD.finished_at IS NOT NULL OR OLD.planned_at IS NOT NULL AND NEW.planned_at IS DISTINCT FROM OLD.planned_at)",
        "cloudpush_kept",
    ),
    "credential": (
        ("owner", "name", "created_by"),
        "grant_kept",
        (
            "(OLD.kind IN ('oauth_grant', 'web_identity') AND (NEW.id, NEW.owner, NEW.kind, NEW.profile, NEW.endpoint) "
            "IS DISTINCT FROM (OLD.id, OLD.owner, OLD.kind, OLD.profile, OLD.endpoint) "
            "OR NEW.kind IN ('oauth_grant', 'web_identity') AND NEW.kind <> OLD.kind)"
        ),
        "cloudpush_grant_kept",
    ),
    "share": (("principal", "uri", "created_by"), "kept", "(OLD.ended_at IS NOT NULL)", "cloudpush_share_kept"),
}
APPENDED = {"event": ("actor", "data", "salt"), "renewal": ("actor",)}


def _unless(columns: tuple[str, ...]) -> str:
    return f"NOT cloudpush_pseudonymised(to_jsonb(OLD.*), to_jsonb(NEW.*), '{{{','.join(columns)}}}')"


def upgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.create_table(
        "retired",
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("dropped_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("archive_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("cuts_sha256", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("month = date_trunc('month', month::timestamp)::date", name=op.f("ck_retired_month")),
        sa.PrimaryKeyConstraint("month", name=op.f("pk_retired")),
    )
    op.create_table(
        "cut",
        sa.Column("stream", sa.Uuid(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["month"], ["retired.month"], name=op.f("fk_cut_month"), deferrable=True, initially="DEFERRED"
        ),
        sa.PrimaryKeyConstraint("stream", "month", name=op.f("pk_cut")),
    )
    op.create_index("ix_cut_month_stream", "cut", ["month", "stream"], unique=False)
    for table in ("retired", "cut"):
        for name, what, each in (("append_only", "UPDATE OR DELETE", "ROW"), ("no_truncate", "TRUNCATE", "STATEMENT")):
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {what} ON {table} FOR EACH {each} EXECUTE FUNCTION cloudpush_append_only()"
            )
        op.execute(f"GRANT SELECT ON {table} TO cloudpush_app")
    op.get_bind().exec_driver_sql(PSEUDONYMISED.replace("{schema}", schema))
    for table, (columns, trigger, refused, function) in GUARDED.items():
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
        op.execute(
            f"CREATE TRIGGER {trigger} BEFORE UPDATE ON {table} FOR EACH ROW "
            f"WHEN ({refused} AND {_unless(columns)}) EXECUTE FUNCTION {function}()"
        )
    for table, columns in APPENDED.items():
        op.execute(f"DROP TRIGGER append_only ON {table}")
        op.execute(
            f"CREATE TRIGGER append_only BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION cloudpush_append_only()"
        )
        op.execute(
            f"CREATE TRIGGER append_only_update BEFORE UPDATE ON {table} FOR EACH ROW "
            f"WHEN ({_unless(columns)}) EXECUTE FUNCTION cloudpush_append_only()"
        )


def downgrade() -> None:
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM retired) THEN "
        "RAISE EXCEPTION 'months were dropped: the older version would take that for tampering'; END IF; END $$"
    )
    for table in APPENDED:
        op.execute(f"DROP TRIGGER append_only_update ON {table}")
        op.execute(f"DROP TRIGGER append_only ON {table}")
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION cloudpush_append_only()"
        )
    for table, (_, trigger, refused, function) in GUARDED.items():
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
        op.execute(
            f"CREATE TRIGGER {trigger} BEFORE UPDATE ON {table} FOR EACH ROW "
            f"WHEN {refused} EXECUTE FUNCTION {function}()"
        )
    op.execute("DROP FUNCTION cloudpush_pseudonymised")
    op.drop_table("cut")
    op.drop_table("retired")
