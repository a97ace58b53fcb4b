"""The tables, as the application sees them. Migrations own the truth; a check holds both in step.

These are the record of pushes, credentials and consents. ``access_tables`` has who may what, ``trust_tables`` what is
sealed and signed; ``schema`` has all of them together.

What a secret could slip into does not exist here: credentials are metadata, events carry redacted
words, pushes carry ids.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from cloudpush.push.states import FileState, Package, State

CREDENTIAL_STATES = ("sealing", "active", "purging", "purged")
GRANT_STATES = ("active", "reconnect", "revoking", "revoked")
CHORES = ("check", "revoke", "notify")
PACKAGES = tuple(str(p) for p in Package)

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Instant = sa.DateTime(timezone=True)


def one_of(column: str, words: tuple[str, ...]) -> str:
    """The condition that ``column`` is one of ``words``."""
    return f"{column} IN ({', '.join(repr(w) for w in words)})"


STATES = tuple(str(s) for s in State)
FILE_STATES = tuple(str(s) for s in FileState)

credential = sa.Table(
    "credential",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("profile", sa.Text, nullable=False, server_default=""),
    sa.Column("endpoint", sa.Text, nullable=False, server_default=""),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("purge_after", Instant),
    sa.Column("transit_key_version", sa.Integer),
    sa.Column("purged_at", Instant),
    sa.CheckConstraint(one_of("state", CREDENTIAL_STATES), name="state"),
    # How often and by what it was used is told by events (event.credential_id): no hot row.
    sa.Index(
        "uq_credential_owner_name_live",
        "owner",
        "name",
        unique=True,
        postgresql_where=sa.text("state IN ('sealing', 'active')"),
    ),
    sa.Index("ix_credential_purge_after", "purge_after", postgresql_where=sa.text("state <> 'purged'")),
)

push = sa.Table(
    "push",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    # the request
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("request_sha256", sa.LargeBinary, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("bucket", sa.Text, nullable=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("profile", sa.Text, nullable=False),
    sa.Column("credential_id", sa.Uuid, sa.ForeignKey("credential.id"), nullable=False),
    sa.Column("credential_kind", sa.Text, nullable=False),
    sa.Column("min_strength", sa.Text, nullable=False),
    sa.Column("overwrite", sa.Text, nullable=False),
    sa.Column("include", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("exclude", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("labels", pg.JSONB, nullable=False, server_default="{}"),
    sa.Column("hook_id", sa.Uuid, sa.ForeignKey("credential.id")),  # whom to ask for fresh signed URLs
    sa.Column("manifest_sha256", sa.LargeBinary),  # of its paths and keys, in their order; None without one
    sa.Column(
        "package", sa.Text, nullable=False, server_default=""
    ),  # what is written beside the data: bagit, ro-crate
    sa.Column("retry_of", sa.Uuid, sa.ForeignKey("push.id")),  # the push that somebody tried again by this one
    # where it stands
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("started_at", Instant),
    sa.Column("planned_at", Instant),
    sa.Column("finished_at", Instant),
    sa.Column("cancel_requested_at", Instant),
    sa.Column("announced_at", Instant),
    sa.Column("next_attempt_at", Instant),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("strikes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_token", sa.Uuid),
    sa.Column("lease_until", Instant),
    sa.Column("worker", sa.Text),
    # what was planned and what became of it
    sa.Column("parts_total", sa.Integer, nullable=False, server_default="0"),
    sa.Column("parts_done", sa.Integer, nullable=False, server_default="0"),
    sa.Column("parts_paused", sa.Integer, nullable=False, server_default="0"),  # those that are awaiting_consent
    sa.Column("files_total", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("bytes_total", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("files_verified", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("files_skipped", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("files_unverified", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("files_failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("bytes_verified", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("strength", sa.Text),  # the weakest of its files
    sa.Column("uploaded_at", Instant),  # the last file's
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.CheckConstraint(one_of("state", STATES), name="state"),
    sa.CheckConstraint("(lease_token IS NULL) = (lease_until IS NULL)", name="lease"),
    sa.CheckConstraint(one_of("package", ("", *PACKAGES)), name="package"),
    sa.CheckConstraint(
        "(finished_at IS NOT NULL) = (state IN ('succeeded', 'unverified', 'failed', 'cancelled'))", name="finished"
    ),
    sa.Index(
        "uq_push_owner_idempotency_key",
        "owner",
        "idempotency_key",
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    ),
    # what auditors ask: newest first, by owner, by bucket, by state, by kind, by code
    sa.Index("ix_push_created_at", "created_at", "id"),
    sa.Index("ix_push_owner_created_at", "owner", "created_at", "id"),
    sa.Index("ix_push_bucket_created_at", "bucket", "created_at", "id"),
    sa.Index("ix_push_state_created_at", "state", "created_at", "id"),
    sa.Index("ix_push_credential_kind_created_at", "credential_kind", "created_at", "id"),
    sa.Index("ix_push_credential_id_created_at", "credential_id", "created_at", "id"),
    sa.Index(
        "ix_push_error_code_created_at",
        "error_code",
        "created_at",
        "id",
        postgresql_where=sa.text("error_code IS NOT NULL"),
    ),
    sa.Index("ix_push_live", "created_at", "id", postgresql_where=sa.text("finished_at IS NULL")),
    # what the sweep asks, once a second
    sa.Index("ix_push_queued", "next_attempt_at", postgresql_where=sa.text("state = 'queued'")),
    sa.Index("ix_push_leased", "lease_until", postgresql_where=sa.text("lease_until IS NOT NULL")),
    sa.Index("ix_push_lease_token", "lease_token", postgresql_where=sa.text("lease_token IS NOT NULL")),
    sa.Index(
        "ix_push_paused", "created_at", postgresql_where=sa.text("state = 'awaiting_consent' OR parts_paused > 0")
    ),
)

part = sa.Table(
    "part",
    metadata,
    sa.Column("push_id", sa.Uuid, sa.ForeignKey("push.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("files", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("strikes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("announced_at", Instant),
    sa.Column("next_attempt_at", Instant),
    sa.Column("lease_token", sa.Uuid),
    sa.Column("lease_until", Instant),
    sa.Column("worker", sa.Text),
    sa.Column("started_at", Instant),
    sa.Column("finished_at", Instant),
    sa.Column("sent_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("sent_files", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("speed", sa.Float),
    sa.Column("eta_seconds", sa.Float),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.CheckConstraint(one_of("state", STATES), name="state"),
    sa.CheckConstraint("(lease_token IS NOT NULL) = (state = 'running')", name="lease"),
    sa.Index("ix_part_queued", "next_attempt_at", postgresql_where=sa.text("state = 'queued'")),
    sa.Index("ix_part_leased", "lease_until", postgresql_where=sa.text("lease_until IS NOT NULL")),
    sa.Index("ix_part_lease_token", "lease_token", postgresql_where=sa.text("lease_token IS NOT NULL")),
)

file = sa.Table(
    "file",
    metadata,
    sa.Column("push_id", sa.Uuid, sa.ForeignKey("push.id"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),  # relative to the source; what is not UTF-8 is escaped
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("mtime_ns", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("strength", sa.Text),
    sa.Column("sha256", sa.LargeBinary),
    sa.Column("expected", sa.Text),  # what the destination's own digest was compared with
    sa.Column("etag", sa.Text),
    sa.Column("version_id", sa.Text),
    sa.Column("uploaded_at", Instant),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.CheckConstraint(one_of("state", FILE_STATES), name="state"),
    sa.Index("ix_file_trouble", "push_id", "seq", postgresql_where=sa.text("state IN ('failed', 'unverified')")),
    # One partition a month, by the moment that a push's id begins with. Every row is updated once, in place: a partition's
    # fillfactor of 75 leaves room on its page.
    postgresql_partition_by="RANGE (push_id)",
)

# A set of signed URLs is a credential; its sheets lie in Vault, block by block, under its id and their numbers.
sheet = sa.Table(
    "sheet",
    metadata,
    sa.Column("credential_id", sa.Uuid, sa.ForeignKey("credential.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("block", sa.Integer, nullable=False),
    sa.Column("blocks", sa.Integer, nullable=False),
    sa.Column("session", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("sealed_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("gone_at", Instant),  # a session: its upload is gone, so that it is not taken up again
    sa.Column("transit_key_version", sa.Integer),  # None: on its way to Vault, or not told
    sa.CheckConstraint("number > 0 AND first_seq <= last_seq AND block BETWEEN 1 AND blocks", name="span"),
    sa.Index("ix_sheet_credential_id_first_seq_last_seq", "credential_id", "first_seq", "last_seq"),
)

# Append-only: further sets that were handed over for a push. The newest counts.
renewal = sa.Table(
    "renewal",
    metadata,
    sa.Column("push_id", sa.Uuid, sa.ForeignKey("push.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("credential_id", sa.Uuid, sa.ForeignKey("credential.id"), nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("files", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("credential_id"),
)

# Working state, gone when the push ends: what arrived of files that are sent in pieces.
piece = sa.Table(
    "piece",
    metadata,
    sa.Column("push_id", sa.Uuid, sa.ForeignKey("push.id"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("etag", sa.Text, nullable=False),
    sa.Column("md5", sa.LargeBinary, nullable=False),
    sa.Column("crc64", sa.Numeric(20, 0), nullable=False),  # unsigned: bigint would not hold it
    sa.Column("upload", sa.Text, nullable=False),
    sa.Column("proof", sa.Text, nullable=False),
)

# What a consent gave. Its tokens are blocks in Vault, as the sheets of a set are: each generation has a row in `sheet`
# with first_seq = last_seq = 0. `generation` is the number of the current one.
oauth_grant = sa.Table(
    "oauth_grant",
    metadata,
    sa.Column("credential_id", sa.Uuid, sa.ForeignKey("credential.id"), primary_key=True),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False, server_default=""),
    sa.Column("asked", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("granted", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("settings", pg.JSONB, nullable=False, server_default="{}"),
    sa.Column("generation", sa.Integer, nullable=False, server_default="0"),
    sa.Column("access_expires_at", Instant),
    sa.Column("granted_at", Instant),
    sa.Column("refreshed_at", Instant),
    sa.Column("pending_at", Instant),  # a refresh was begun then and nobody said how it ended
    sa.Column("pending", sa.Integer, nullable=False, server_default="0"),  # the block that it was to fill
    sa.Column("trouble_code", sa.Text),
    sa.Column("trouble_message", sa.Text),
    sa.Column("checked_at", Instant),
    sa.Column("check_code", sa.Text),
    sa.Column("check_message", sa.Text),
    sa.Column("revoked_at", Instant),
    sa.Column("provider_told", sa.Boolean),
    sa.CheckConstraint(one_of("state", GRANT_STATES), name="state"),
)

# What a worker is to do about a grant, until it is done.
chore = sa.Table(
    "chore",
    metadata,
    sa.Column("credential_id", sa.Uuid, sa.ForeignKey("credential.id"), primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("since", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("due_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("taken_at", Instant),
    sa.CheckConstraint(one_of("kind", CHORES), name="kind"),
    sa.Index("ix_chore_due_at", "due_at"),
)

share = sa.Table(
    "share",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("credential_id", sa.Uuid, sa.ForeignKey("credential.id"), nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("until", Instant, nullable=False),
    sa.Column("created_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("ended_at", Instant),
    sa.Index("ix_share_credential_id", "credential_id"),
    sa.Index("ix_share_principal", "principal"),
)

# Signed-in browsers. Only the hash of what the browser holds is here. `owner` NULL: on the way to the sign-in provider.
web_session = sa.Table(
    "web_session",
    metadata,
    sa.Column("token_sha256", sa.LargeBinary, primary_key=True),
    sa.Column("id", sa.Uuid, nullable=False, unique=True),  # for events: names the session and opens nothing
    sa.Column("owner", sa.Text),
    sa.Column("via", sa.Text, nullable=False, server_default=""),  # link | oidc
    sa.Column("created_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("seen_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("ended_at", Instant),
    sa.Index("ix_web_session_expires_at", "expires_at"),
)

# One-time links of the embedded stack.
sign_in_link = sa.Table(
    "sign_in_link",
    metadata,
    sa.Column("token_sha256", sa.LargeBinary, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("used_at", Instant),
)

# Ways to a provider and back: each is used once. State, nonce and PKCE verifier follow from the browser's session.
consent_attempt = sa.Table(
    "consent_attempt",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("session_sha256", sa.LargeBinary, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("settings", pg.JSONB, nullable=False, server_default="{}"),
    sa.Column("asked", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("credential_id", sa.Uuid, sa.ForeignKey("credential.id")),  # the grant to reconnect
    sa.Column("created_at", Instant, nullable=False, server_default=sa.func.now()),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("used_at", Instant),
    sa.Column("outcome", sa.Text),
    sa.Column("message", sa.Text),
    sa.Index("ix_consent_attempt_expires_at", "expires_at"),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
    sa.Column("stream", sa.Uuid, primary_key=True),  # a push's or a credential's id: one hash chain each
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("at", Instant, primary_key=True),  # what it is partitioned by, so that every key must have it
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("credential_id", sa.Uuid),
    sa.Column("data", pg.JSON, nullable=False),  # json, not jsonb: the text is what was hashed
    sa.Column("prev", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("salt", sa.LargeBinary),  # 16 random bytes; NULL in events of the first version and in pseudonymised ones
    sa.Column("content", sa.LargeBinary),  # SHA-256 of salt, actor and data; NULL in events of the first version
    sa.Index("uq_event_id", "id", "at", unique=True),
    sa.Index("ix_event_at", "at"),
    sa.Index("ix_event_credential", "credential_id", "id", postgresql_where=sa.text("credential_id IS NOT NULL")),
    postgresql_partition_by="RANGE (at)",
)

chain = sa.Table(
    "chain",
    metadata,
    sa.Column("stream", sa.Uuid, primary_key=True),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    comment="The head of each hash chain; written by cloudpush_append only.",
)
