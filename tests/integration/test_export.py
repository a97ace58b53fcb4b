"""Whole tables as files, read back by others' readers."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from builders import OWNER
from cloudpush.audit.export import EXPORT_STREAM, TABLES, Exporter, Format, Wanted
from cloudpush.audit.filters import Filter
from cloudpush.errors import Code, InputError
from notaries import FakeNotary
from records import Record

NASTY = [
    "=1+1",
    "+x",
    "-x",
    "@x",
    "\tx",
    "\rx",
    "\nx",
    "\uff1d1+1",
    "\uff0bx",
    "\uff0dx",
    "\uff20x",
    'a"b',
    "a,b",
    "a\nb",
    "ü/\u2028\U0001f600",
    "'quoted",
    "\\.",
    "",
    "a\x01\x02b",
]


#: Rows at the least; two by default.
LEAST = {"series": 1}


@pytest.fixture(scope="module")
def nasty(record: Record) -> UUID:
    """A push whose files have names that no format likes; two others beside it."""
    notary = FakeNotary(record.app)
    push_id = record.finished(labels={"run": "7"})
    record.finished(owner="grace")
    record.submitted()
    for _ in range(2):
        notary.seal()
        record.submitted()
    values = [{"push": push_id, "seq": n, "path": path} for n, path in enumerate(NASTY, 100)]
    with record.intruder.begin() as c:
        c.execute(
            sa.text(
                "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state, etag, sha256) "
                "VALUES (:push, :seq, :path, 'k', 5, 6, 'failed', '', '\\xabcd')"
            ),
            values,
        )
    return push_id


def exported(record: Record, table: str, form: Format, **changes: Any) -> bytes:
    return b"".join(Exporter(record.app).stream(Wanted(table, form, **changes), "auditor"))


def last_told(record: Record) -> dict[str, Any]:
    data: dict[str, Any] = record.history.events(EXPORT_STREAM)[-1]["data"]
    return data


def test_csv_is_what_is_stored_and_no_cell_is_a_formula(record: Record, nasty: UUID) -> None:
    text = exported(record, "files", Format.CSV, push_id=nasty).decode()
    rows = [r for r in csv.DictReader(io.StringIO(text, newline="")) if int(r["seq"]) >= 100]

    guarded = ["'" + p if p[:1] and p[0] in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20" else p for p in NASTY]
    assert [r["path"] for r in rows] == guarded
    assert {(r["sha256"], r["size"], r["error_code"], r["etag"]) for r in rows} == {("abcd", "5", "", "")}


def test_json_lines_are_what_is_stored(record: Record, nasty: UUID) -> None:
    lines = exported(record, "files", Format.JSONL, push_id=nasty).decode().split("\n")
    rows = [r for r in map(json.loads, lines[:-1]) if r["seq"] >= 100]

    assert (lines[-1], [r["path"] for r in rows]) == ("", NASTY)
    assert {(r["sha256"], r["size"], r["error_code"], r["etag"]) for r in rows} == {("abcd", 5, None, "")}


def test_parquet_is_what_is_stored(record: Record, nasty: UUID) -> None:
    found = pq.read_table(io.BytesIO(exported(record, "files", Format.PARQUET, push_id=nasty)))
    rows = [r for r in found.to_pylist() if r["seq"] >= 100]

    assert [r["path"] for r in rows] == NASTY
    assert {(r["sha256"], r["size"], r["error_code"], r["etag"]) for r in rows} == {("abcd", 5, None, "")}
    assert {str(found.schema.field(n).type) for n in ("uploaded_at", "size", "path")} == {
        "timestamp[us, tz=UTC]",
        "int64",
        "string",
    }


@pytest.mark.parametrize("table", TABLES)
def test_every_format_has_the_same_rows(record: Record, nasty: UUID, table: str) -> None:
    """And times, numbers and JSON that mean the same."""
    whose = {"which": Filter(credential_id=record.history.push(nasty)["credential_id"])} if table == "life" else {}
    lines = [json.loads(line) for line in exported(record, table, Format.JSONL, **whose).decode().split("\n")[:-1]]
    columns = pq.read_table(io.BytesIO(exported(record, table, Format.PARQUET, **whose))).to_pylist()
    cells = list(csv.DictReader(io.StringIO(exported(record, table, Format.CSV, **whose).decode(), newline="")))

    # Each export is an event, so that the next one has one more.
    lines, columns, cells = (
        [r for r in rows if r.get("stream") != str(EXPORT_STREAM)] for rows in (lines, columns, cells)
    )
    names = [c.name for c in TABLES[table]]
    assert len(lines) >= LEAST.get(table, 2)
    assert [list(r) for r in (lines[0], columns[0], cells[0])] == [names] * 3
    key = next(name for name in ("seq", "id", "number", "start") if name in names)
    assert [str(r[key]) for r in lines] == [r[key] for r in cells]
    assert len(lines) == len(columns)
    for line, column in zip(lines, columns, strict=True):
        for c in TABLES[table]:
            there, here = column[c.name], line[c.name]
            if c.sort == "time" and there is not None:
                there = f"{there:%Y-%m-%dT%H:%M:%S.%fZ}"
            if c.sort == "json":
                there = json.loads(there)
            assert there == here, c.name


def test_only_what_is_asked_for_is_exported_and_an_event_says_so(record: Record, nasty: UUID) -> None:
    whole = exported(record, "pushes", Format.JSONL, which=Filter(owner=OWNER, labels=(("run", "7"),)))

    assert [json.loads(line)["id"] for line in whole.splitlines()] == [str(nasty)]
    assert last_told(record) == {
        "table": "pushes",
        "format": "jsonl",
        "filter": {"owner": OWNER, "labels": [["run", "7"]]},
        "rows": 1,
        "bytes": len(whole),
        "sha256": hashlib.sha256(whole).hexdigest(),
    }


@pytest.mark.parametrize("form", Format)
def test_an_export_whose_reader_goes_away_is_told_of_too(record: Record, nasty: UUID, form: Format) -> None:
    """And its connection comes back."""
    chunks = Exporter(record.app).stream(Wanted("files", form), "auditor")
    first = next(chunks)
    chunks.close()

    told = last_told(record)
    assert (told["aborted"], told["bytes"], told["sha256"]) == (True, len(first), hashlib.sha256(first).hexdigest())
    assert record.app.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_table_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        Wanted("web_session", Format.CSV)

    assert caught.value.code is Code.BAD_INPUT


def test_an_export_of_many_rows_holds_few(record: Record, nasty: UUID) -> None:
    """No chunk grows with the table, in any format."""
    with record.intruder.begin() as c:
        c.execute(
            sa.text(
                "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state) "
                "SELECT :push, n, 'data/' || md5(n::text), md5(n::text), n, n, 'verified' FROM generate_series(1000, 60999) n"
            ),
            {"push": nasty},
        )
    for form in Format:
        chunks = [len(chunk) for chunk in Exporter(record.app).stream(Wanted("files", form), "auditor")]

        assert last_told(record)["rows"] > 60_000
        assert (len(chunks) >= 2, max(chunks) < 8_000_000) == (True, True)
