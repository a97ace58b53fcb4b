"""What was seen of a manifest of any length, in flat memory: a temporary database that nobody else can open.

SQLite keeps the beginning in memory and the rest in a file that has no name. Only paths and keys go in, mostly as
digests; never a URL.
"""

from __future__ import annotations

import sqlite3
from hashlib import blake2b

#: Of a digest. Two of a thousand million texts share one with a chance of one in 10^20.
DIGEST_BYTES = 16
#: Of SQLite's page cache, in KiB, before it writes to its file.
_CACHE_KIB = 16 * 1024


def _digest(kind: str, text: str) -> bytes:
    # A path may come from a file system that knows no Unicode.
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=DIGEST_BYTES, key=kind.encode()).digest()


def _database(table: str) -> sqlite3.Connection:
    """A private database with one table. Nothing of it is worth a journal: it dies with the process."""
    database = sqlite3.connect("", isolation_level=None)
    for command in (
        "PRAGMA journal_mode = OFF",
        "PRAGMA synchronous = OFF",
        "PRAGMA locking_mode = EXCLUSIVE",
        f"PRAGMA cache_size = -{_CACHE_KIB}",
        table,
        "BEGIN",
    ):
        database.execute(command)
    return database


class PathBook:
    """Finds texts that come a second time. ``kind`` keeps paths and keys apart. For one thread."""

    def __init__(self) -> None:
        self._database = _database("CREATE TABLE seen (digest BLOB PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID")

    def add(self, kind: str, text: str, line: int) -> int | None:
        """Remember ``text``; the line where it stood before, or None."""
        digest = _digest(kind, text)
        if self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, line)).rowcount:
            return None
        [found] = self._database.execute("SELECT line FROM seen WHERE digest = ?", (digest,)).fetchone()
        return int(found)

    def close(self) -> None:
        """Forget everything."""
        self._database.close()


class FileBook:
    """The files of a push by their paths: (sequence number, key). For one thread."""

    def __init__(self) -> None:
        self._database = _database(
            "CREATE TABLE file (digest BLOB PRIMARY KEY, seq INTEGER NOT NULL, key TEXT NOT NULL) WITHOUT ROWID"
        )

    def put(self, path: str, seq: int, key: str) -> None:
        """Remember a file."""
        self._database.execute("INSERT INTO file VALUES (?, ?, ?)", (_digest("path", path), seq, key))

    def find(self, path: str) -> tuple[int, str] | None:
        """Its number and key; None where it was not put in."""
        row = self._database.execute("SELECT seq, key FROM file WHERE digest = ?", (_digest("path", path),)).fetchone()
        return None if row is None else (int(row[0]), str(row[1]))

    def close(self) -> None:
        """Forget everything."""
        self._database.close()
