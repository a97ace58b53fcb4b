"""The record of pushes: requests, parts, files, credentials and events.

The functions, triggers and grants that guard it are the next revision.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chain",
        sa.Column("stream", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("stream", name=op.f("pk_chain")),
        comment="The head of each hash chain; written by cloudpush_append only.",
    )
    op.create_table(
        "credential",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), server_default="", nullable=False),
        sa.Column("endpoint", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("purge_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("transit_key_version", sa.Integer(), nullable=True),
        sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('sealing', 'active', 'purging', 'purged')", name=op.f("ck_credential_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credential")),
    )
    op.create_index(
        "ix_credential_purge_after",
        "credential",
        ["purge_after"],
        unique=False,
        postgresql_where=sa.text("state <> 'purged'"),
    )
    op.create_index(
        "uq_credential_owner_name_live",
        "credential",
        ["owner", "name"],
        unique=True,
        postgresql_where=sa.text("state IN ('sealing', 'active')"),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("stream", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("credential_id", sa.Uuid(), nullable=True),
        sa.Column("data", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("prev", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("stream", "seq", name=op.f("pk_event")),
    )
    op.create_index("ix_event_at", "event", ["at"], unique=False)
    op.create_index(
        "ix_event_credential",
        "event",
        ["credential_id", "id"],
        unique=False,
        postgresql_where=sa.text("credential_id IS NOT NULL"),
    )
    op.create_index("uq_event_id", "event", ["id"], unique=True)
    op.create_table(
        "push",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("credential_id", sa.Uuid(), nullable=False),
        sa.Column("credential_kind", sa.Text(), nullable=False),
        sa.Column("min_strength", sa.Text(), nullable=False),
        sa.Column("overwrite", sa.Text(), nullable=False),
        sa.Column("include", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("exclude", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("planned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("strikes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("parts_total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("parts_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("files_total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("files_verified", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("files_skipped", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("files_unverified", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("files_failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_verified", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("strength", sa.Text(), nullable=True),
        sa.Column("uploaded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('succeeded', 'unverified', 'failed', 'cancelled'))",
            name=op.f("ck_push_finished"),
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'awaiting_consent', 'succeeded', 'unverified', 'failed', 'cancelled')",
            name=op.f("ck_push_state"),
        ),
        sa.CheckConstraint("(lease_token IS NULL) = (lease_until IS NULL)", name=op.f("ck_push_lease")),
        sa.ForeignKeyConstraint(["credential_id"], ["credential.id"], name=op.f("fk_push_credential_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_push")),
    )
    op.create_index("ix_push_bucket_created_at", "push", ["bucket", "created_at", "id"], unique=False)
    op.create_index("ix_push_created_at", "push", ["created_at", "id"], unique=False)
    op.create_index("ix_push_credential_id", "push", ["credential_id"], unique=False)
    op.create_index("ix_push_credential_kind_created_at", "push", ["credential_kind", "created_at", "id"], unique=False)
    op.create_index(
        "ix_push_error_code_created_at",
        "push",
        ["error_code", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("error_code IS NOT NULL"),
    )
    op.create_index(
        "ix_push_lease_token",
        "push",
        ["lease_token"],
        unique=False,
        postgresql_where=sa.text("lease_token IS NOT NULL"),
    )
    op.create_index(
        "ix_push_leased", "push", ["lease_until"], unique=False, postgresql_where=sa.text("lease_until IS NOT NULL")
    )
    op.create_index("ix_push_owner_created_at", "push", ["owner", "created_at", "id"], unique=False)
    op.create_index(
        "ix_push_queued", "push", ["next_attempt_at"], unique=False, postgresql_where=sa.text("state = 'queued'")
    )
    op.create_index("ix_push_state_created_at", "push", ["state", "created_at", "id"], unique=False)
    op.create_index(
        "uq_push_owner_idempotency_key",
        "push",
        ["owner", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "file",
        sa.Column("push_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("strength", sa.Text(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("expected", sa.Text(), nullable=True),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("uploaded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('planned', 'verified', 'skipped', 'unverified', 'failed', 'cancelled')",
            name=op.f("ck_file_state"),
        ),
        sa.ForeignKeyConstraint(["push_id"], ["push.id"], name=op.f("fk_file_push_id")),
        sa.PrimaryKeyConstraint("push_id", "seq", name=op.f("pk_file")),
        postgresql_with={"fillfactor": "75"},
    )
    op.create_index(
        "ix_file_trouble",
        "file",
        ["push_id", "seq"],
        unique=False,
        postgresql_where=sa.text("state IN ('failed', 'unverified')"),
    )
    op.create_table(
        "part",
        sa.Column("push_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("strikes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sent_files", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("speed", sa.Float(), nullable=True),
        sa.Column("eta_seconds", sa.Float(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.CheckConstraint("(lease_token IS NOT NULL) = (state = 'running')", name=op.f("ck_part_lease")),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'awaiting_consent', 'succeeded', 'unverified', 'failed', 'cancelled')",
            name=op.f("ck_part_state"),
        ),
        sa.ForeignKeyConstraint(["push_id"], ["push.id"], name=op.f("fk_part_push_id")),
        sa.PrimaryKeyConstraint("push_id", "number", name=op.f("pk_part")),
    )
    op.create_index(
        "ix_part_lease_token",
        "part",
        ["lease_token"],
        unique=False,
        postgresql_where=sa.text("lease_token IS NOT NULL"),
    )
    op.create_index(
        "ix_part_leased", "part", ["lease_until"], unique=False, postgresql_where=sa.text("lease_until IS NOT NULL")
    )
    op.create_index(
        "ix_part_queued", "part", ["next_attempt_at"], unique=False, postgresql_where=sa.text("state = 'queued'")
    )


def downgrade() -> None:
    for table in ("file", "part", "push", "event", "credential", "chain"):
        op.drop_table(table)
