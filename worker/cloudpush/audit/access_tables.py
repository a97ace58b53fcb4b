"""Who may what, and what is owed to them: roles, API tokens, logins on the way, preflights, webhook deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from cloudpush.audit.tables import Instant, metadata, one_of
from cloudpush.push.access.model import Role, Scope

ROLES = tuple(str(r) for r in Role)
SCOPES = tuple(str(s) for s in Scope)
PREFLIGHT_STATES = ("queued", "running", "passed", "failed")

# Whoever has no role here is a `user`. Taken away by deleting the row; events tell the story.
principal_role = sa.Table(
    "principal_role",
    metadata,
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("granted_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("granted_by", sa.Text, nullable=False),
    sa.CheckConstraint(one_of("role", ROLES), name="role"),
)

# Only the hash of a token is here. `id` names it in events, lists and logs, and opens nothing.
api_token = sa.Table(
    "api_token",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("token_sha256", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text),  # at most this one of its owner's roles; NULL: all that the owner has when it is used
    sa.Column("scopes", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("created_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("used_at", Instant),  # written at most once a minute
    sa.Column("revoked_at", Instant),
    sa.CheckConstraint(f"role IS NULL OR {one_of('role', ROLES)}", name="role"),
    sa.CheckConstraint("cardinality(scopes) > 0", name="scopes"),
    sa.Index("ix_api_token_owner_created_at", "owner", "created_at"),
)

# RFC 8628: a command line on its way to a token. Rows live for minutes. The token itself is never here: it is made when
# the command fetches it.
device_login = sa.Table(
    "device_login",
    metadata,
    sa.Column("device_sha256", sa.LargeBinary, primary_key=True),  # of the code that the command polls with
    sa.Column("user_code", sa.Text, nullable=False, unique=True),  # what the user types or confirms
    sa.Column("asked_from", sa.Text, nullable=False, server_default=""),  # host name as told, address as seen
    sa.Column("scopes", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("created_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("polled_at", Instant),
    sa.Column("owner", sa.Text),  # who confirmed
    sa.Column("decided_at", Instant),
    sa.Column("denied", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("taken_at", Instant),  # the token was fetched: once
    sa.Index("ix_device_login_expires_at", "expires_at"),
)

# Whether a credential reaches a destination: asked for by a person, or by the first push of a new pair.
preflight = sa.Table(
    "preflight",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("push_id", sa.Uuid, sa.ForeignKey("push.id")),
    sa.Column("credential_id", sa.Uuid, sa.ForeignKey("credential.id"), nullable=False),
    sa.Column("credential_kind", sa.Text, nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("bucket", sa.Text, nullable=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("profile", sa.Text, nullable=False),
    sa.Column("wants", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),  # delete, abort: beside write and head
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("checks", pg.JSONB, nullable=False, server_default="[]"),
    sa.Column("created_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("taken_at", Instant),
    sa.Column("finished_at", Instant),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.CheckConstraint(one_of("state", PREFLIGHT_STATES), name="state"),
    sa.CheckConstraint("(finished_at IS NOT NULL) = (state IN ('passed', 'failed'))", name="finished"),
    sa.Index("ix_preflight_due", "created_at", postgresql_where=sa.text("state IN ('queued', 'running')")),
    sa.Index(
        "ix_preflight_passed",
        "credential_id",
        "bucket",
        "finished_at",
        postgresql_where=sa.text("state = 'passed'"),
    ),
    sa.Index("ix_preflight_owner_created_at", "owner", "created_at"),
)

# What is owed to webhooks: one row for each verdict and hook, written by a trigger in the verdict's own transaction.
delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("push_id", sa.Uuid, sa.ForeignKey("push.id"), primary_key=True),
    sa.Column("hook_id", sa.Uuid, sa.ForeignKey("credential.id"), primary_key=True),
    sa.Column("since", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("due_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("taken_at", Instant),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("done_at", Instant),  # delivered, or given up: see the error
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Index("ix_delivery_due_at", "due_at", postgresql_where=sa.text("done_at IS NULL")),
)
