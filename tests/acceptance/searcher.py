"""Looks for secrets everywhere they must not be: database, broker, disk, processes, words."""

from __future__ import annotations

import base64
import errno
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import hyperscan
import psycopg
import redis
from psycopg import sql

from servers import SCRATCH

Thing = tuple[str, bytes]  # where, and what is there

#: A spelling shorter than this would be found by chance.
LEAST = 8
BLOCK = 4 * 1024**2


def spellings(secret: str) -> frozenset[bytes]:
    """``secret`` as it is, as a URL has it, in hexadecimal, and as base64 has it wherever it begins."""
    raw = secret.encode()
    found = {raw, quote(secret, safe="").encode(), quote(secret).encode(), quote_plus(secret).encode()}
    found.add(raw.hex().encode())
    for before in range(3):
        # The first and last signs depend on the neighbours: they are left out.
        coded = base64.b64encode(b"\0" * before + raw).rstrip(b"=")[(0, 2, 3)[before] : -1]
        found |= {coded, coded.replace(b"+", b"-").replace(b"/", b"_")}
    return frozenset(spelt for spelt in found if len(spelt) >= LEAST)


def hits(secrets: Iterable[str], things: Iterable[Thing]) -> list[str]:
    """The places where any of ``secrets`` is found, in any spelling: one pass over each looks for all of them."""
    wanted = sorted(frozenset().union(*map(spellings, secrets)))
    automaton = hyperscan.Database()
    automaton.compile(
        expressions=[re.escape(spelt) for spelt in wanted],
        ids=list(range(len(wanted))),
        elements=len(wanted),
        flags=[hyperscan.HS_FLAG_SINGLEMATCH] * len(wanted),
    )

    def found_in(data: bytes) -> bool:
        found = False

        def stop(*_: object) -> bool:
            nonlocal found
            found = True
            return True  # one is enough

        with suppress(hyperscan.ScanTerminated):
            automaton.scan(data, match_event_handler=stop)
        return found

    return [where for where, data in things if found_in(data)]


def database(superuser: psycopg.Connection[Any]) -> Iterator[Thing]:
    """Every row of every table but the system's own, and every statement that runs."""
    tables = superuser.execute(
        # Rows of a partitioned table are its partitions'.
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' "
        "AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    ).fetchall()
    assert tables, "there is no table to look into"
    for schema, name in tables:
        with superuser.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(schema, name))) as rows:
            yield f"table {schema}.{name}", b"".join(bytes(row) for row in rows)
    statements = superuser.execute("SELECT query FROM pg_stat_activity").fetchall()
    yield "running statements", repr(statements).encode()


def broker(url: str) -> Iterator[Thing]:
    """Every key and value of every database of the broker, messages that wait included."""
    for number in range(2):
        with redis.Redis.from_url(url.replace("db=0", f"db={number}")) as client:
            for key in client.scan_iter():
                yield f"key {number}:{key!r}", bytes(key) + repr(_value(client, key)).encode()


def _value(client: redis.Redis, key: bytes) -> object:
    match client.type(key):
        case b"string":
            return client.get(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return client.smembers(key)
        case b"hash":
            return client.hgetall(key)
        case b"zset":
            return client.zrange(key, 0, -1)
        case other:
            raise AssertionError(f"{key!r} is a {other!r}, and nobody looks into those")


class Traffic:
    """All that the broker is told, messages published included, while it listens."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.sendall(b"MONITOR\r\n")
        assert self._socket.recv(64).startswith(b"+OK")
        self._heard = bytearray()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while data := self._socket.recv(65536):
                self._heard += data

    @property
    def heard(self) -> bytes:
        """What was said so far."""
        return bytes(self._heard)

    def stop(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextmanager
def traffic(path: str) -> Iterator[Traffic]:
    """Listen to the broker on the Unix socket ``path``."""
    listening = Traffic(path)
    try:
        yield listening
    finally:
        listening.stop()


def files(*tops: Path, since: float = 0.0, but: Sequence[Path] = ()) -> Iterator[Thing]:
    """Every file below ``tops`` that was written at ``since`` (seconds since the epoch) or later, name and content."""
    for top in tops:
        for directory, below, names in os.walk(top):
            here = Path(directory)
            below[:] = [name for name in below if here / name not in but]
            for name in names:
                yield from _file(here / name, since)


def _file(path: Path, since: float) -> Iterator[Thing]:
    with suppress(OSError):  # it may be gone by now
        if not path.is_file() or path.stat().st_mtime < since:
            return
        yield f"name of {path}", str(path).encode(errors="replace")
        with path.open("rb", buffering=0) as file:
            for begins, ends in _written(file):
                file.seek(begins)
                tail = b""
                while block := file.read(min(BLOCK, ends - file.tell())):
                    yield str(path), tail + block
                    tail = block[-4096:]  # a secret may lie across two blocks


def _written(file: FileIO) -> Iterator[tuple[int, int]]:
    """Where there is something in ``file``, in bytes from its beginning: other tests make terabytes of nothing."""
    ends = 0
    while True:
        try:
            begins = os.lseek(file.fileno(), ends, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        ends = os.lseek(file.fileno(), begins, os.SEEK_HOLE)
        yield begins, ends


def temporary(since: float, but: Sequence[Path]) -> Iterator[Thing]:
    """What was written to the directory for temporary files; not the servers of other tests, which run meanwhile."""
    top = Path(tempfile.gettempdir())
    return files(top, since=since, but=[*but, *top.glob(f"{SCRATCH}*")])


def processes() -> Iterator[Thing]:
    """Arguments and environment of every process of this machine that we may look at."""
    for directory in Path("/proc").glob("[0-9]*"):
        for what in ("cmdline", "environ"):
            with suppress(OSError):
                yield f"{what} of process {directory.name}", (directory / what).read_bytes()
