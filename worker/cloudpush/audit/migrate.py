"""The schema's level: what it is, what it should be, and bringing it there.

Migrations travel with the package, so an installed wheel can upgrade without the checkout.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from cloudpush.audit.database import make_engine, translated
from cloudpush.audit.schema import metadata
from cloudpush.errors import Code, StoreError
from cloudpush.resources import resource
from cloudpush.settings import Settings


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resource("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The revision that this version of CloudPush needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise StoreError(Code.DATABASE_SCHEMA, "No migrations are installed; install cloudpush again.")
    return revision


def level(connection: sa.Connection) -> str | None:
    """The revision that the database is at; None before the first upgrade."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(settings: Settings) -> str:
    """Bring the database to :func:`head` as its owner and return that revision.

    Raises StoreError: unreachable, locked by someone else, or the role may not create tables.
    """
    engine = make_engine(settings.database_admin_url or settings.database_url, pool_size=1)
    try:
        with translated(), engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            command.upgrade(_config(connection), "head")
    finally:
        engine.dispose()
    return head()


def drift(connection: sa.Connection) -> list[Any]:
    """How the database differs from the tables in the code; empty is right. Partitions follow from their tables."""
    partitions = set(connection.execute(PARTITIONS).scalars())

    def compared(_: object, name: str | None, kind: str, reflected: bool, __: object) -> bool:
        return not (kind == "table" and reflected and name in partitions)

    opts = {"compare_type": True, "target_metadata": metadata, "include_object": compared}
    context = MigrationContext.configure(connection, opts=opts)
    return list(compare_metadata(context, metadata))


PARTITIONS = sa.text("SELECT relname FROM pg_class WHERE relispartition AND relkind IN ('r', 'p')")
