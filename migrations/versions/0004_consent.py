"""Consent: grants, what is to be done about them, shares, browsers' sessions and ways to a provider.

- ``oauth_grant`` says what a consent gave; its tokens are blocks in Vault whose rows are in ``sheet``. What it gave
  (provider, account, settings) is never rewritten, and its generation only rises.
- A grant belongs to whom its credential belongs to, for good. A push may be stored with somebody else's only where a
  live share covers its destination, and the kind that a push says is its credential's: its checks depend on it.
- ``share`` is only ended, or its time changed; what it is for is kept.
- Sessions, links and attempts are used up by columns of their own, and deleted only once they have expired.
- The application may no longer rewrite whose a credential is, or what it is: only where it stands.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

GRANT_TRANSITION = """
CREATE FUNCTION cloudpush_grant_transition() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF OLD.state <> NEW.state AND NOT (OLD.state || '>' || NEW.state = ANY (ARRAY[
        'active>reconnect', 'active>revoking', 'reconnect>active', 'reconnect>revoking', 'revoking>revoked'
    ])) THEN
        RAISE EXCEPTION 'a grant cannot go from % to %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.generation < OLD.generation THEN
        RAISE EXCEPTION 'the generation of grant % cannot go back from % to %', OLD.credential_id, OLD.generation,
            NEW.generation USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$
"""

# Tokens are sealed for the credential's owner before anybody may use them.
GRANT_FITS = """
CREATE FUNCTION cloudpush_grant_fits() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM credential c
        WHERE c.id = NEW.credential_id AND c.kind IN ('oauth_grant', 'web_identity') AND c.state = 'sealing'
    ) THEN
        RAISE EXCEPTION 'credential % is none that a consent gave just now', NEW.credential_id
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$
"""

# A grant that was given cannot be given to somebody else: neither its row nor what lies in Vault.
GRANT_KEPT = """
CREATE FUNCTION cloudpush_grant_kept() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'grant % belongs to whom it was given by: this UPDATE is refused', OLD.id
        USING ERRCODE = 'insufficient_privilege';
END
$$
"""

SHARE_FITS = """
CREATE FUNCTION cloudpush_share_fits() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM oauth_grant g JOIN credential c ON c.id = g.credential_id
        WHERE g.credential_id = NEW.credential_id AND g.state IN ('active', 'reconnect') AND c.state = 'active'
    ) THEN
        RAISE EXCEPTION 'grant % is none that can be shared', NEW.credential_id
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$
"""

SHARE_KEPT = """
CREATE FUNCTION cloudpush_share_kept() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'share % has ended: this UPDATE is refused', OLD.id USING ERRCODE = 'insufficient_privilege';
END
$$
"""

# What a worker checks of a grant (that nobody revoked it, that a share covers the push) depends on these being true.
PUSH_FITS = """
CREATE FUNCTION cloudpush_push_fits() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM credential c
        WHERE c.id = NEW.credential_id
          AND (c.kind IN ('oauth_grant', 'web_identity') OR NEW.credential_kind IN ('oauth_grant', 'web_identity'))
          AND NOT (c.kind = NEW.credential_kind AND (c.owner = NEW.owner OR EXISTS (
              SELECT FROM share s
              WHERE s.credential_id = c.id AND s.principal = NEW.owner AND s.ended_at IS NULL
                AND s.until > clock_timestamp() AND (NEW.uri = s.uri OR starts_with(NEW.uri, s.uri || '/')))))
    ) THEN
        RAISE EXCEPTION 'credential % is none that % may push to % with', NEW.credential_id, NEW.owner, NEW.uri
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$
"""

ONLY_EXPIRED = """
CREATE FUNCTION cloudpush_delete_only_expired() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF OLD.expires_at > clock_timestamp() THEN
        RAISE EXCEPTION 'table %: a row that has not expired is kept, DELETE is refused', TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END
$$
"""

FUNCTIONS = (GRANT_TRANSITION, GRANT_FITS, GRANT_KEPT, SHARE_FITS, SHARE_KEPT, PUSH_FITS, ONLY_EXPIRED)

TRIGGERS = (
    "CREATE TRIGGER transition BEFORE UPDATE ON oauth_grant FOR EACH ROW EXECUTE FUNCTION cloudpush_grant_transition()",
    "CREATE TRIGGER fits BEFORE INSERT ON oauth_grant FOR EACH ROW EXECUTE FUNCTION cloudpush_grant_fits()",
    (
        "CREATE TRIGGER grant_kept BEFORE UPDATE ON credential FOR EACH ROW WHEN ("
        "OLD.kind IN ('oauth_grant', 'web_identity') AND (NEW.id, NEW.owner, NEW.kind, NEW.profile, NEW.endpoint) "
        "IS DISTINCT FROM (OLD.id, OLD.owner, OLD.kind, OLD.profile, OLD.endpoint) "
        "OR NEW.kind IN ('oauth_grant', 'web_identity') AND NEW.kind <> OLD.kind) "
        "EXECUTE FUNCTION cloudpush_grant_kept()"
    ),
    "CREATE TRIGGER fits BEFORE INSERT ON share FOR EACH ROW EXECUTE FUNCTION cloudpush_share_fits()",
    (
        "CREATE TRIGGER kept BEFORE UPDATE ON share FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL) "
        "EXECUTE FUNCTION cloudpush_share_kept()"
    ),
    "CREATE TRIGGER fits BEFORE INSERT ON push FOR EACH ROW EXECUTE FUNCTION cloudpush_push_fits()",
    *(
        f"CREATE TRIGGER only_expired BEFORE DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION cloudpush_delete_only_expired()"
        for table in ("web_session", "sign_in_link", "consent_attempt")
    ),
)

GRANTS = """
REVOKE UPDATE ON credential FROM cloudpush_app;
GRANT UPDATE (state, expires_at, purge_after, transit_key_version, purged_at) ON credential TO cloudpush_app;
GRANT SELECT, INSERT ON oauth_grant TO cloudpush_app;
GRANT UPDATE ({where_it_stands}) ON oauth_grant TO cloudpush_app;
GRANT SELECT, INSERT, DELETE ON chore TO cloudpush_app;
GRANT UPDATE (actor, since, due_at, taken_at) ON chore TO cloudpush_app;
GRANT SELECT, INSERT ON share TO cloudpush_app;
GRANT UPDATE (ended_at, until) ON share TO cloudpush_app;
GRANT SELECT, INSERT, DELETE ON web_session TO cloudpush_app;
GRANT UPDATE (seen_at, ended_at, expires_at) ON web_session TO cloudpush_app;
GRANT SELECT, INSERT, DELETE ON sign_in_link TO cloudpush_app;
GRANT UPDATE (used_at) ON sign_in_link TO cloudpush_app;
GRANT SELECT, INSERT, DELETE ON consent_attempt TO cloudpush_app;
GRANT UPDATE (used_at, outcome, message) ON consent_attempt TO cloudpush_app;
"""

WHERE_IT_STANDS = """
    state, granted, generation, access_expires_at, granted_at, refreshed_at, pending_at, pending, trouble_code,
    trouble_message, checked_at, check_code, check_message, revoked_at, provider_told
"""


def upgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    _create_tables()
    for function in FUNCTIONS:
        op.execute(function.replace("{schema}", schema))
    for trigger in TRIGGERS:
        op.execute(trigger)
    for grant in GRANTS.format(where_it_stands=WHERE_IT_STANDS).strip().split(";\n"):
        op.execute(grant)


def _create_tables() -> None:
    op.create_table(
        "oauth_grant",
        sa.Column("credential_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), server_default="", nullable=False),
        sa.Column("asked", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("granted", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("settings", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("access_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("granted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pending_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pending", sa.Integer(), server_default="0", nullable=False),
        sa.Column("trouble_code", sa.Text(), nullable=True),
        sa.Column("trouble_message", sa.Text(), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("check_code", sa.Text(), nullable=True),
        sa.Column("check_message", sa.Text(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("provider_told", sa.Boolean(), nullable=True),
        sa.CheckConstraint(
            "state IN ('active', 'reconnect', 'revoking', 'revoked')", name=op.f("ck_oauth_grant_state")
        ),
        sa.ForeignKeyConstraint(["credential_id"], ["credential.id"], name=op.f("fk_oauth_grant_credential_id")),
        sa.PrimaryKeyConstraint("credential_id", name=op.f("pk_oauth_grant")),
    )
    op.create_table(
        "chore",
        sa.Column("credential_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('check', 'revoke', 'notify')", name=op.f("ck_chore_kind")),
        sa.ForeignKeyConstraint(["credential_id"], ["credential.id"], name=op.f("fk_chore_credential_id")),
        sa.PrimaryKeyConstraint("credential_id", "kind", name=op.f("pk_chore")),
    )
    op.create_index("ix_chore_due_at", "chore", ["due_at"], unique=False)
    op.create_table(
        "share",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("credential_id", sa.Uuid(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["credential_id"], ["credential.id"], name=op.f("fk_share_credential_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share")),
    )
    op.create_index("ix_share_credential_id", "share", ["credential_id"], unique=False)
    op.create_index("ix_share_principal", "share", ["principal"], unique=False)
    op.create_table(
        "web_session",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("via", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_web_session")),
        sa.UniqueConstraint("id", name=op.f("uq_web_session_id")),
    )
    op.create_index("ix_web_session_expires_at", "web_session", ["expires_at"], unique=False)
    op.create_table(
        "sign_in_link",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_sign_in_link")),
    )
    op.create_table(
        "consent_attempt",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("session_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("settings", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("asked", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("credential_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["credential_id"], ["credential.id"], name=op.f("fk_consent_attempt_credential_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consent_attempt")),
    )
    op.create_index("ix_consent_attempt_expires_at", "consent_attempt", ["expires_at"], unique=False)


def downgrade() -> None:
    for table in ("push", "credential"):
        op.execute(f"DROP TRIGGER {'fits' if table == 'push' else 'grant_kept'} ON {table}")
    op.execute(
        "REVOKE UPDATE (state, expires_at, purge_after, transit_key_version, purged_at) ON credential FROM cloudpush_app"
    )
    op.execute("GRANT UPDATE ON credential TO cloudpush_app")
    for table in ("consent_attempt", "sign_in_link", "web_session", "share", "chore", "oauth_grant"):
        op.drop_table(table)
    for function in (
        "cloudpush_delete_only_expired",
        "cloudpush_push_fits",
        "cloudpush_share_kept",
        "cloudpush_share_fits",
        "cloudpush_grant_kept",
        "cloudpush_grant_fits",
        "cloudpush_grant_transition",
    ):
        op.execute(f"DROP FUNCTION {function}")
