"""Who may what, what is owed to them, and what is signed: roles, tokens, preflights, webhooks, receipts, checkpoints.

A push that ends owes a receipt, and a message to each live webhook of its owner's: a trigger writes both rows in the
verdict's own transaction, so that neither can be lost. Checkpoints and their leaves are append-only.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROLES = "('pipeline', 'user', 'auditor', 'admin')"

OWED = """
CREATE FUNCTION cloudpush_owed() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
BEGIN
    INSERT INTO receipt (push_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    INSERT INTO delivery (push_id, hook_id)
        SELECT NEW.id, c.id FROM credential c
        WHERE c.owner = NEW.owner AND c.kind = 'notify_hook' AND c.state = 'active'
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$
"""

# What was signed stays as it was signed: a receipt is issued once.
ISSUED = """
CREATE FUNCTION cloudpush_receipt_kept() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'the receipt of push % was issued: this UPDATE is refused', OLD.push_id
        USING ERRCODE = 'insufficient_privilege';
END
$$
"""

TRIGGERS = (
    (
        "CREATE TRIGGER owed AFTER UPDATE OF state ON push FOR EACH ROW "
        "WHEN (NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL) EXECUTE FUNCTION cloudpush_owed()"
    ),
    (
        "CREATE TRIGGER kept BEFORE UPDATE ON receipt FOR EACH ROW WHEN (OLD.statement IS NOT NULL) "
        "EXECUTE FUNCTION cloudpush_receipt_kept()"
    ),
    *(
        f"CREATE TRIGGER {name} BEFORE {what} ON {table} FOR EACH {each} EXECUTE FUNCTION cloudpush_append_only()"
        for table in ("checkpoint", "checkpoint_chunk")
        for name, what, each in (("append_only", "UPDATE OR DELETE", "ROW"), ("no_truncate", "TRUNCATE", "STATEMENT"))
    ),
    *(
        f"CREATE TRIGGER only_expired BEFORE DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION cloudpush_delete_only_expired()"
        for table in ("device_login",)
    ),
)

GRANTS = """
GRANT SELECT, INSERT, DELETE ON principal_role TO cloudpush_app;
GRANT SELECT, INSERT ON api_token TO cloudpush_app;
GRANT UPDATE (used_at, revoked_at) ON api_token TO cloudpush_app;
GRANT SELECT, INSERT, DELETE ON device_login TO cloudpush_app;
GRANT UPDATE (polled_at, owner, decided_at, denied, taken_at) ON device_login TO cloudpush_app;
GRANT SELECT, INSERT ON preflight TO cloudpush_app;
GRANT UPDATE (state, checks, taken_at, finished_at, error_code, error_message) ON preflight TO cloudpush_app;
GRANT SELECT, INSERT ON delivery TO cloudpush_app;
GRANT UPDATE (due_at, taken_at, attempts, done_at, error_code, error_message) ON delivery TO cloudpush_app;
GRANT SELECT, INSERT ON receipt TO cloudpush_app;
GRANT UPDATE (issued_at, statement, signature, key_version) ON receipt TO cloudpush_app;
GRANT SELECT, INSERT ON checkpoint, checkpoint_chunk, inspection TO cloudpush_app;
"""


def upgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.add_column("push", sa.Column("package", sa.Text(), server_default="", nullable=False))
    op.add_column("push", sa.Column("retry_of", sa.Uuid(), nullable=True))
    op.create_check_constraint(op.f("ck_push_package"), "push", "package IN ('', 'bagit', 'ro-crate')")
    op.create_foreign_key(op.f("fk_push_retry_of"), "push", "push", ["retry_of"], ["id"])
    _create_access()
    _create_trust()
    for function in (OWED, ISSUED):
        op.execute(function.replace("{schema}", schema))
    for trigger in TRIGGERS:
        op.execute(trigger)
    for grant in GRANTS.strip().split(";\n"):
        op.execute(grant)
    # Pushes that ended before there were receipts get theirs, too.
    op.execute("INSERT INTO receipt (push_id) SELECT id FROM push WHERE finished_at IS NOT NULL")


def _create_access() -> None:
    op.create_table(
        "principal_role",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("granted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("granted_by", sa.Text(), nullable=False),
        sa.CheckConstraint(f"role IN {ROLES}", name=op.f("ck_principal_role_role")),
        sa.PrimaryKeyConstraint("principal", "role", name=op.f("pk_principal_role")),
    )
    op.create_table(
        "api_token",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=True),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(f"role IS NULL OR role IN {ROLES}", name=op.f("ck_api_token_role")),
        sa.CheckConstraint("cardinality(scopes) > 0", name=op.f("ck_api_token_scopes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_api_token_token_sha256")),
    )
    op.create_index("ix_api_token_owner_created_at", "api_token", ["owner", "created_at"], unique=False)
    op.create_table(
        "device_login",
        sa.Column("device_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("user_code", sa.Text(), nullable=False),
        sa.Column("asked_from", sa.Text(), server_default="", nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("polled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("denied", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("device_sha256", name=op.f("pk_device_login")),
        sa.UniqueConstraint("user_code", name=op.f("uq_device_login_user_code")),
    )
    op.create_index("ix_device_login_expires_at", "device_login", ["expires_at"], unique=False)
    op.create_table(
        "preflight",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("push_id", sa.Uuid(), nullable=True),
        sa.Column("credential_id", sa.Uuid(), nullable=False),
        sa.Column("credential_kind", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("wants", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("checks", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('queued', 'running', 'passed', 'failed')", name=op.f("ck_preflight_state")),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('passed', 'failed'))", name=op.f("ck_preflight_finished")
        ),
        sa.ForeignKeyConstraint(["push_id"], ["push.id"], name=op.f("fk_preflight_push_id")),
        sa.ForeignKeyConstraint(["credential_id"], ["credential.id"], name=op.f("fk_preflight_credential_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_preflight")),
    )
    op.create_index(
        "ix_preflight_due",
        "preflight",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index("ix_preflight_owner_created_at", "preflight", ["owner", "created_at"], unique=False)
    op.create_index(
        "ix_preflight_passed",
        "preflight",
        ["credential_id", "bucket", "finished_at"],
        unique=False,
        postgresql_where=sa.text("state = 'passed'"),
    )
    op.create_table(
        "delivery",
        sa.Column("push_id", sa.Uuid(), nullable=False),
        sa.Column("hook_id", sa.Uuid(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["push_id"], ["push.id"], name=op.f("fk_delivery_push_id")),
        sa.ForeignKeyConstraint(["hook_id"], ["credential.id"], name=op.f("fk_delivery_hook_id")),
        sa.PrimaryKeyConstraint("push_id", "hook_id", name=op.f("pk_delivery")),
    )
    op.create_index(
        "ix_delivery_due_at", "delivery", ["due_at"], unique=False, postgresql_where=sa.text("done_at IS NULL")
    )


def _create_trust() -> None:
    op.create_table(
        "receipt",
        sa.Column("push_id", sa.Uuid(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("statement", sa.Text(), nullable=True),
        sa.Column("signature", sa.LargeBinary(), nullable=True),
        sa.Column("key_version", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "(statement IS NULL) = (signature IS NULL) AND (statement IS NULL) = (issued_at IS NULL)",
            name=op.f("ck_receipt_issued"),
        ),
        sa.ForeignKeyConstraint(["push_id"], ["push.id"], name=op.f("fk_receipt_push_id")),
        sa.PrimaryKeyConstraint("push_id", name=op.f("pk_receipt")),
    )
    op.create_index("ix_receipt_due", "receipt", ["since"], unique=False, postgresql_where=sa.text("statement IS NULL"))
    op.create_table(
        "checkpoint",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_id", sa.BigInteger(), nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("key_version", sa.Integer(), nullable=False),
        sa.CheckConstraint("number > 0 AND first_id <= last_id AND events > 0", name=op.f("ck_checkpoint_span")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_checkpoint")),
    )
    op.create_table(
        "checkpoint_chunk",
        sa.Column("checkpoint", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_id", sa.BigInteger(), nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.Column("leaves", sa.Integer(), nullable=False),
        sa.Column("entries", sa.LargeBinary(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint"], ["checkpoint.number"], name=op.f("fk_checkpoint_chunk_checkpoint")),
        sa.PrimaryKeyConstraint("checkpoint", "number", name=op.f("pk_checkpoint_chunk")),
    )
    op.create_table(
        "inspection",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("sound", sa.Boolean(), nullable=False),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inspection")),
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER owed ON push")
    for table in ("inspection", "checkpoint_chunk", "checkpoint", "receipt", "delivery", "preflight", "device_login"):
        op.drop_table(table)
    for table in ("api_token", "principal_role"):
        op.drop_table(table)
    for function in ("cloudpush_receipt_kept", "cloudpush_owed"):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_constraint(op.f("fk_push_retry_of"), "push", type_="foreignkey")
    op.drop_constraint(op.f("ck_push_package"), "push", type_="check")
    op.drop_column("push", "retry_of")
    op.drop_column("push", "package")
