"""What an archive holds of each table, read from Postgres as record batches: to be written, and to be compared with later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
import sqlalchemy as sa

from cloudpush.audit.exported import Column, Format, Sort, _columns, written
from cloudpush.audit.parquet import PARSED_BYTES, batches_of
from cloudpush.audit.retired import bound, first_of, following
from cloudpush.audit.tables import event, file, push
from cloudpush.errors import Code, StoreError


@dataclass(frozen=True, slots=True)
class Table:
    """One table of an archive. ``order``: by which its rows are sorted; no two have the same."""

    name: str
    columns: tuple[Column, ...]
    order: tuple[sa.Column[Any], ...]

    def schema(self) -> Any:
        """As Arrow's."""
        import pyarrow as pa  # noqa: PLC0415 -- slow to import, and few commands need it

        types = {Sort.TIME: pa.timestamp("us", tz="UTC"), Sort.INTEGER: pa.int64()}
        return pa.schema([(c.name, types.get(c.sort, pa.string())) for c in self.columns])


TABLES = (
    Table("events", _columns(event, *event.c.keys()), (event.c.stream, event.c.seq, event.c.at)),
    Table("files", _columns(file, *file.c.keys()), (file.c.push_id, file.c.seq)),
    Table("pushes", _columns(push, *push.c.keys()), (push.c.id,)),
)


def batches(c: sa.Connection, table: Table, month: date) -> Iterator[Any]:
    """The month's rows in order, as record batches; constant memory. Raises StoreError."""
    return batches_of(table.schema(), _rows(c, table, month))


def same(theirs: Iterable[Any], ours: Iterable[Any]) -> bool:
    """Whether two ways of cutting a table into batches are of the same table."""
    left, right = iter(theirs), iter(ours)
    a = b = None
    while True:
        a = next(left, None) if a is None else a
        b = next(right, None) if b is None else b
        if a is None or b is None:
            return a is b
        n = min(a.num_rows, b.num_rows)
        if not a.slice(0, n).equals(b.slice(0, n)):
            return False
        a = a.slice(n) if n < a.num_rows else None
        b = b.slice(n) if n < b.num_rows else None


def _rows(c: sa.Connection, table: Table, month: date) -> Iterator[bytes]:
    """CSV with a header, as Postgres writes it."""
    query = sa.select(*(written(column, Format.PARQUET) for column in table.columns))
    query = query.where(*_of(table, month)).order_by(*table.order)
    compiled = query.compile(dialect=c.dialect)
    driver = c.connection.driver_connection
    assert driver is not None  # noqa: S101 -- a checked-out connection has one
    try:
        with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY ({compiled}) TO STDOUT (FORMAT csv, HEADER)", compiled.params) as copy,
        ):
            held, size = [], 0  # each of Postgres' messages is a row; what is read at once becomes a batch
            for row in copy:
                held.append(bytes(row))
                size += len(row)
                if size >= PARSED_BYTES:
                    yield b"".join(held)
                    held, size = [], 0
            yield b"".join(held)
    except psycopg.Error as e:
        raise StoreError(Code.DATABASE_UNREACHABLE, f"Postgres ended the reading: {type(e).__name__}.") from e


def _of(table: Table, month: date) -> tuple[sa.ColumnElement[bool], ...]:
    """Events by their time; files and pushes by the time that the push's id begins with."""
    after = following(month)
    if table.name == "events":
        return event.c.at >= first_of(month), event.c.at < first_of(after)
    key = file.c.push_id if table.name == "files" else push.c.id
    return key >= bound(month), key < bound(after)


def counted(c: sa.Connection, month: date) -> Mapping[str, Any]:
    """``events``, ``files``, ``pushes`` of the month, and ``first_id``, ``last_id`` of its events."""
    asked: dict[str, Any] = {"since": first_of(month), "until": first_of(following(month))}
    asked |= {"low": bound(month), "high": bound(following(month))}
    return dict(c.execute(COUNTED, asked).mappings().one())


COUNTED = sa.text("""
    SELECT e.*, (SELECT count(*) FROM file WHERE push_id >= :low AND push_id < :high) AS files,
        (SELECT count(*) FROM push WHERE id >= :low AND id < :high) AS pushes
    FROM (SELECT count(*) AS events, min(id) AS first_id, max(id) AS last_id FROM event WHERE at >= :since AND at < :until) AS e
""")
