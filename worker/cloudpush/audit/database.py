"""The way to Postgres: one engine a process, short transactions, foreign errors translated here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg.errors
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cloudpush.errors import Code, SettingsError, StoreError

CONNECT_SECONDS = 5
#: No statement of ours takes longer than a COPY of one part; a lock waited for longer is a fault.
STATEMENT_TIMEOUT = "60s"
LOCK_TIMEOUT = "15s"
#: A host that is gone without a word is noticed after about half a minute, by either side: a dead worker's session would
#: hold its locks (a grant's, the sweep's) for two hours, and a statement to a dead server would last as long.
_ALIVE = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}
_UNANSWERED_MS = 30_000


def database_url(text: str, *, key: str = "CLOUDPUSH_DATABASE_URL") -> URL:
    """``postgresql://…`` as SQLAlchemy wants it, with our driver. Raises SettingsError."""
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):
        # Without its cause, which may quote a piece of the password.
        raise SettingsError(
            Code.SETTINGS_INVALID, f"{key} is not a database URL: write postgresql://USER@HOST:PORT/DATABASE", field=key
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsError(
            Code.SETTINGS_INVALID, f"{key} must start with postgresql:// (found {url.drivername}://)", field=key
        )
    return url.set(drivername="postgresql+psycopg")


def make_engine(url: str, *, pool_size: int = 8) -> sa.Engine:
    """An engine; connects at first use. ``pool_size`` connections are kept, as many more may be opened."""
    return sa.create_engine(
        database_url(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=30,
        pool_pre_ping=False,  # a dead connection is found by its first statement; every caller can repeat
        pool_recycle=1800,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "cloudpush",
            "options": " ".join(
                [
                    f"-c statement_timeout={STATEMENT_TIMEOUT} -c lock_timeout={LOCK_TIMEOUT} -c timezone=UTC",
                    *(f"-c tcp_{name}={value}" for name, value in _ALIVE.items()),
                ]
            ),
            **_ALIVE,
            "tcp_user_timeout": _UNANSWERED_MS,
        },
    )


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction: committed at the end, rolled back on any error. Raises StoreError."""
    with translated(), engine.begin() as connection:
        yield connection


@contextmanager
def statement(engine: sa.Engine) -> Iterator[sa.Connection]:
    """For a single statement that is its own transaction: no round trips to begin and to commit. Raises StoreError."""
    with translated(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Postgres' and the driver's errors as ours. Errors that are defects of ours pass unchanged."""
    try:
        yield
    except PoolTimeout as e:
        raise StoreError(Code.DATABASE_UNREACHABLE, "No database connection became free within 30 s.") from e
    except DBAPIError as e:
        match e.orig:
            case (
                psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn() | psycopg.errors.UndefinedFunction()
            ):
                raise StoreError(
                    Code.DATABASE_SCHEMA,
                    f"The database is at another schema: {_first_line(e)}. Run `cloudpush db upgrade`.",
                ) from e
            case psycopg.errors.InsufficientPrivilege() | psycopg.errors.RaiseException():
                raise StoreError(Code.DATABASE_SCHEMA, f"Postgres refused: {_first_line(e)}.") from e
            case psycopg.errors.AdminShutdown() | psycopg.errors.CrashShutdown() | psycopg.errors.CannotConnectNow():
                raise StoreError(Code.DATABASE_UNREACHABLE, f"Postgres is going down: {_first_line(e)}") from e
            case psycopg.errors.LockNotAvailable() | psycopg.errors.QueryCanceled() | psycopg.errors.DeadlockDetected():
                raise StoreError(Code.DATABASE_UNREACHABLE, f"Postgres gave up waiting: {_first_line(e)}") from e
            case _:
                if e.connection_invalidated:
                    raise StoreError(
                        Code.DATABASE_UNREACHABLE, f"The connection to Postgres broke: {_first_line(e)}"
                    ) from e
                if isinstance(e, OperationalError | InterfaceError):
                    raise StoreError(
                        Code.DATABASE_UNREACHABLE, f"Postgres does not answer: {_first_line(e)}", detail=_first_line(e)
                    ) from e
                raise


def _first_line(error: DBAPIError) -> str:
    """The server's own first line: the statement and its parameters stay out."""
    return str(error.orig).strip().partition("\n")[0]


def append_event(
    connection: sa.Connection,
    stream: UUID,
    kind: str,
    actor: str,
    data: Mapping[str, Any] | None = None,
    *,
    credential_id: UUID | None = None,
) -> None:
    """Append one event to ``stream``'s hash chain, in the caller's transaction."""
    append_events(connection, stream, actor, [(kind, credential_id, data or {})])


def append_events(
    connection: sa.Connection,
    stream: UUID,
    actor: str,
    events: Sequence[tuple[str, UUID | None, Mapping[str, Any]]],
) -> None:
    """Append several, in order, in one round trip: (kind, credential, data) each."""
    connection.execute(
        _APPEND,
        {
            "stream": stream,
            "actor": actor,
            "kinds": [str(kind) for kind, _, _ in events],
            "credentials": [credential for _, credential, _ in events],
            "data": [event_text(data) for _, _, data in events],
        },
    )


def event_text(data: Mapping[str, Any]) -> str:
    """An event's data as the JSON text that is stored and hashed."""
    return storable(json.dumps(data, ensure_ascii=False, sort_keys=True, default=str))


def storable(text: str) -> str:
    """``text`` as Postgres can store it: foreign systems also answer with NUL and with what is no Unicode."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


_APPEND = sa.text(
    "SELECT cloudpush_append(:stream, :actor, CAST(:kinds AS text[]), CAST(:credentials AS uuid[]), CAST(:data AS text[]))"
)
