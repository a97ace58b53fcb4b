"""Whole tables as files: CSV, JSON Lines and Parquet, streamed in constant memory, from one snapshot.

Postgres writes the rows itself (COPY … TO STDOUT); for Parquet, pyarrow turns what it writes into columns. When an export
ends, also one whose reader went away, an event says who took what.

- Times are RFC 3339 in UTC, digests hex, what is structured (labels, an event's data) JSON.
- CSV: RFC 4180 with a header line. A text that begins with ``= + - @`` (also of full width), a tab or a line's end gets a leading
  apostrophe: a spreadsheet would take it for a formula. NULL is an empty cell, an empty text ``""``.
- Parquet: timestamps, integers and texts as such; zstd; row groups of bounded size.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa

from cloudpush.audit.charts import series
from cloudpush.audit.database import append_event, transaction, translated
from cloudpush.audit.exported import TABLES, Format, Wanted, line, query_of, written
from cloudpush.audit.parquet import parquet
from cloudpush.errors import Code, StoreError
from cloudpush.push.states import Event

__all__ = ["TABLES", "Exporter", "Format", "Wanted"]

#: Stream of the events that tell of exports.
EXPORT_STREAM = UUID("00000000-0000-0000-0000-0000000000e0")
#: Bytes that are handed on at once.
CHUNK = 128 * 1024


class Exporter:
    """Streams tables of the record out of it."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def stream(self, wanted: Wanted, actor: str) -> Generator[bytes]:
        """The file in chunks; at the end an event is appended. Raises StoreError before the first chunk or on the way.

        Close the iterator when its reader has gone: the event then says that it was cut short.
        """
        digest, size, ended = hashlib.sha256(), 0, False
        source = (_Numbers if wanted.table == "series" else _Source)(self._engine, wanted)
        chunks = parquet(source.columns, source.chunks()) if wanted.format is Format.PARQUET else source.chunks()
        try:
            with closing(chunks), translated():
                for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    yield chunk
                ended = True
        except psycopg.Error as e:
            raise StoreError(Code.DATABASE_UNREACHABLE, f"Postgres ended the export: {type(e).__name__}.") from e
        finally:
            data = {
                "table": wanted.table,
                "format": wanted.format,
                "filter": wanted.told(),
                "rows": max(0, source.rows),
                "bytes": size,
                "sha256": digest.hexdigest(),
                **({} if ended else {"aborted": True}),
            }
            with transaction(self._engine) as c:
                append_event(c, EXPORT_STREAM, Event.AUDIT_EXPORTED, actor, data)


class _Source:
    """Rows as Postgres writes them, in one snapshot. ``rows``: how many came so far."""

    def __init__(self, engine: sa.Engine, wanted: Wanted) -> None:
        self._engine = engine
        self.columns = TABLES[wanted.table]
        self.rows = 0
        self._wanted = wanted

    def chunks(self) -> Generator[bytes]:
        """CSV or JSON Lines."""
        lines = self._wanted.format is Format.JSONL
        query = query_of(
            self._wanted, [line(self.columns)] if lines else [written(c, self._wanted.format) for c in self.columns]
        )
        compiled = query.compile(dialect=self._engine.dialect, compile_kwargs={"render_postcompile": True})
        if lines:
            # Neither of these two characters can stand in JSON as it is: a line is the JSON text, and nothing else.
            statement = (
                f"COPY ({compiled}) TO STDOUT "
                r"(FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')"
            )
        else:
            statement = f"COPY ({compiled}) TO STDOUT (FORMAT csv, HEADER)"
        snapshot = self._engine.execution_options(isolation_level="REPEATABLE READ")
        with snapshot.connect() as c, c.begin():
            c.execute(sa.text("SET TRANSACTION READ ONLY"))
            c.execute(sa.text("SET LOCAL statement_timeout = 0"))
            driver = c.connection.driver_connection
            assert driver is not None  # noqa: S101 -- a checked-out connection has one
            # The statement is read in our own time: whoever is slow to read must not hold the others' connections up.
            with driver.cursor() as cursor, cursor.copy(statement, compiled.params) as copy:
                self.rows = 0 if lines else -1  # the header is none
                yield from self._gathered(copy)

    def _gathered(self, copy: Iterable[Any]) -> Iterator[bytes]:
        """Each of Postgres' messages is a row: many of them at once."""
        held: list[bytes] = []
        size = 0
        for row in copy:
            self.rows += 1
            held.append(row)
            size += len(row)
            if size >= CHUNK:
                yield b"".join(held)
                held, size = [], 0
        if held:
            yield b"".join(held)


class _Numbers(_Source):
    """What no table has: counts and bytes over time."""

    def chunks(self) -> Generator[bytes]:
        """CSV or JSON Lines."""
        with transaction(self._engine) as c:
            buckets = series(c, self._wanted.which, self._wanted.step)
        out = io.StringIO()
        names = [column.name for column in self.columns]
        lines = self._wanted.format is Format.JSONL
        table = csv.DictWriter(out, names, lineterminator="\n")
        if not lines:
            table.writeheader()
        for bucket in buckets:
            row = asdict(bucket) | {"start": f"{bucket.start:%Y-%m-%dT%H:%M:%S.%fZ}"}
            if lines:
                out.write(f"{json.dumps(row)}\n")
            else:
                table.writerow(row)
        self.rows = len(buckets)
        yield out.getvalue().encode()
