"""Of several processes one works: who holds a session's lock in Postgres."""

from __future__ import annotations

from contextlib import suppress

import sqlalchemy as sa

from cloudpush.audit.database import translated

#: The advisory locks of the one sweeper and the one notary that work.
SWEEPER = 0x636C6F7573776570  # "clouswep"
NOTARY = 0x636C6F756E6F7461  # "clounota"


class Leader:
    """An advisory lock, held for as long as its connection lives; a dead leader's lock is free at once. One thread's."""

    def __init__(self, engine: sa.Engine, key: int) -> None:
        self._engine = engine
        self._key = key
        self._leading: sa.Connection | None = None

    def lead(self) -> bool:
        """Whether this process is the one. Ask before each pass. Raises StoreError."""
        if self._leading is not None:
            try:
                with translated():
                    self._leading.execute(sa.text("SELECT 1"))
                    self._leading.rollback()
            except Exception:
                self.close()
                raise
            return True
        with translated():
            connection = self._engine.connect()
            try:
                asked = {"key": self._key}
                held = bool(connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), asked).scalar_one())
                connection.rollback()
            except Exception:
                connection.close()
                raise
        if held:
            self._leading = connection
        else:
            connection.close()
        return held

    def close(self) -> None:
        """Give the lock back: at once, where the connection still answers."""
        if self._leading is not None:
            # Asked for, since a server notices a closed connection only after a while.
            with suppress(sa.exc.SQLAlchemyError):
                self._leading.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})
            self._leading.invalidate()
            self._leading.close()
            self._leading = None
