"""Alembic's entry: run by `cloudpush db upgrade` with a connection of ours, never from an alembic.ini."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from cloudpush.audit.schema import metadata

#: A migration never makes the application wait for long: it gives up and is run again.
LOCK_TIMEOUT = "10s"
#: Two upgrades at once: the second waits for the first.
UPGRADE_LOCK = 0x636C6F7564707573  # "cloudpus"


def run(connection: sa.Connection) -> None:
    """Bring the schema to the requested revision, in one transaction."""
    context.configure(connection=connection, target_metadata=metadata, compare_type=True, compare_server_default=False)
    with context.begin_transaction():
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        context.run_migrations()


run(context.config.attributes["connection"])
