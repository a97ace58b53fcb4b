"""Manifests in each format: what rows they give, and what is refused with its line and without being quoted."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudpush.errors import Code, InputError
from cloudpush.manifest import FORMATS, ROW_BYTES, detect, rows

#: Keys in order of each format's own rules; values that every format can carry.
names = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n;"), min_size=1, max_size=8).filter(
    lambda name: name == name.strip()
)
values = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=20)


def read(text: str | bytes, format_: str) -> list[tuple[int, Mapping[str, object]]]:
    return list(rows(io.BytesIO(text.encode() if isinstance(text, str) else text), format_))


def refusal(text: str | bytes, format_: str) -> str:
    with pytest.raises(InputError) as caught:
        read(text, format_)
    error = caught.value
    assert (error.code, error.field) == (Code.BAD_MANIFEST, "manifest")
    chain = (error, error.__cause__, error.__context__)
    assert "canary" not in " ".join(f"{e!r} {e}" for e in chain), "a row was quoted"
    return error.message.removeprefix("The manifest's ").replace("cannot be read: ", "")


TWO = [{"path": "a", "url": "u"}, {"path": "b", "url": "v"}]


@pytest.mark.parametrize(
    ("format_", "text", "lines"),
    [
        ("csv", "path,url\na,u\nb,v\n", [2, 3]),
        ("csv", '\ufeffpath,url\r\na,u\r\n\r\n"b",v', [2, 4]),
        ("csv", '"path", url\na,u\nb,v', [2, 3]),
        ("jsonl", '{"path":"a","url":"u"}\n\n {"path":"b","url":"v"}', [1, 3]),
        ("jsonl", '\ufeff{"path":"a","url":"u"}\r\n{"path":"b","url":"v"}\r\n', [1, 2]),
        ("json", '[{"path":"a","url":"u"},{"path":"b","url":"v"}]', [1, 1]),
        ("json", '\ufeff[\n {"path":"a",\n"url":"u"}\n,\n{"path":"b","url":"v"}\n]\n', [2, 5]),
        ("json", '{"files":\n[{"path":"a","url":"u"},\n{"path":"b","url":"v"}]}', [2, 3]),
    ],
    ids=range(8),
)
def test_rows_come_with_the_line_that_they_begin_on(format_: str, text: str, lines: list[int]) -> None:
    """Each format gives the same rows; told or detected."""
    expected = list(zip(lines, TWO, strict=True))

    assert (read(text, format_), read(text, "auto")) == (expected, expected)


def test_a_cell_may_hold_what_is_quoted_and_an_empty_one_is_not_given() -> None:
    """Commas, quotes and line breaks in a path; columns that not every row needs."""
    text = 'path,url,md5\n"a,""b\nc",u,\nd,v,0\n'

    assert read(text, "csv") == [(2, {"path": 'a,"b\nc', "url": "u"}), (4, {"path": "d", "url": "v", "md5": "0"})]


@given(st.lists(st.dictionaries(names, values, min_size=1, max_size=4), min_size=1, max_size=5))
def test_json_rows_are_read_as_they_were_written(made: list[dict[str, str]]) -> None:
    """However the document is laid out."""
    found = [
        [row for _, row in read(text, format_)]
        for format_, text in (
            ("json", json.dumps(made)),
            ("json", json.dumps({"files": made}, indent=1, ensure_ascii=False)),
            ("jsonl", "\n".join(json.dumps(row) for row in made)),
        )
    ]

    assert found == [made] * 3


@given(st.lists(names, min_size=1, max_size=4, unique=True), st.data())
def test_csv_rows_are_read_as_they_were_written(columns: list[str], data: st.DataObject) -> None:
    """The standard library's writer is the witness."""
    cells = data.draw(st.lists(st.lists(values, min_size=len(columns), max_size=len(columns)), min_size=1, max_size=4))
    text = io.StringIO()
    csv.writer(text).writerows([columns, *cells])

    assert [row for _, row in read(text.getvalue(), "csv")] == [dict(zip(columns, c, strict=True)) for c in cells]


@pytest.mark.parametrize(
    ("name", "head", "format_"),
    [
        ("m.csv", b"[", "csv"),
        ("M.JSON", b"path,url", "json"),
        ("m.jsonl", b"[", "jsonl"),
        ("m.ndjson", b"", "jsonl"),
        ("-", b" \n[{", "json"),
        ("m.txt", b'\xef\xbb\xbf{"files" : [', "json"),
        ("", b'{"path": "a", "files"', "jsonl"),
        ("", b"path,url", "csv"),
        ("", b"", "csv"),
    ],
)
def test_a_format_is_told_by_the_name_or_by_the_first_bytes(name: str, head: bytes, format_: str) -> None:
    """A suffix that says nothing leaves it to the content."""
    assert detect(name, head) == format_


QUOTES = 'its quotes are wrong: a cell with a comma, quote or line break is "quoted", a quote in it doubled.'


@pytest.mark.parametrize(
    ("format_", "text", "why"),
    [
        ("csv", "path,url\na,canary,c\n", "line 2 it has 3 cells, and the first line names 2 columns."),
        ("csv", "path,url\na,b\n\ncanary\n", "line 4 it has 1 cells, and the first line names 2 columns."),
        ("csv", "path,canary,canary\na,b,c\n", "line 1 the name of column 2 is there twice."),
        ("csv", "path,,url\n", "line 1 column 2 has no name."),
        ("csv", "canary," * 100 + "canary\n", "line 1 it names 101 columns, and 100 are the most."),
        ("csv", "," * 1_000_000, "line 1 it names 1000001 columns, and 100 are the most."),
        ("csv", "path;canary\na;b\n", "line 1 its columns are separated by semicolons; use commas."),
        ("csv", 'path,url\na,b\n"canary\nd,e\n', f"line 3 {QUOTES}"),
        ("csv", 'path,url\n"canary"x,b\n', f"line 2 {QUOTES}"),
        ("csv", b"path,url\na,can\0ary\n", "line 2 it holds a NUL character."),
        ("csv", b"path,url\nb\xfc,canary\n", "line 2 it is not UTF-8 text."),
        ("csv", "path,url\na,canary\n".encode("utf-16"), "line 1 the manifest is UTF-16; save it as plain UTF-8 text."),
        ("json", '[{"path":"canary"}]'.encode("utf-32"), "line 1 the manifest is UTF-32; save it as plain UTF-8 text."),
        ("csv", b"\x1f\x8bcanary", "line 1 the manifest is gzip; save it as plain UTF-8 text."),
        ("jsonl", '{"path":"a"}\n{"path":"canary"', "line 2 it is not JSON."),
        ("jsonl", '"canary"', "line 1 it is no JSON object."),
        ("jsonl", '{"path":"canary","path":"canary"}', "line 1 a key is there twice."),
        ("jsonl", '{"headers":{"canary":"1","canary":"2"}}', "line 1 a key is there twice."),
        ("jsonl", '{"part_size":NaN}', "line 1 it is not JSON."),
        ("jsonl", '{"part_size":' + "9" * 5000 + "}", "line 1 it is not JSON."),
        ("jsonl", "[" * 100_000, "line 1 it is not JSON."),
        ("jsonl", b'{"path":"canary\xe4"}', "line 1 it is not UTF-8 text."),
        ("json", '[{"path":"a"},\n{"path":"canary"', "line 2 this element is not JSON, or cut short."),
        ("json", '[{"path":"a"},\n{"path":"canary"}', "line 2 ] is missing: it is not JSON, or cut short."),
        ("json", '[{"path":"a"},\n]', "line 2 this element is no object."),
        ("json", '[\n"canary"]', "line 2 this element is no object."),
        ("json", "[" * 100_000, "line 1 this element is no object."),
        ("json", '[{"a":' + "[" * 100_000, "line 1 this element is nested too deeply."),
        ("json", '[\n{"path":"a","path":"canary"}]', "line 2 a key is there twice in this element."),
        ("json", '{"canary":[]}', 'line 1 it is an object, and its only key is not "files".'),
        ("json", '{"files":[{"path":"a"}],\n"canary":1}', "line 1 } is missing: it is not JSON, or cut short."),
        ("json", '[{"path":"a"}]\ncanary', "line 2 something follows the end of the document."),
        ("json", b'[{"path":"canary\xe4"}]', "line 1 from here on it is not UTF-8 text."),
        ("json", b'[{"path":"canary\xe4', "line 1 from here on it is not UTF-8 text."),
        ("json", "canary", "line 1 [ is missing: it is not JSON, or cut short."),
        ("csv", "path,url\n", "The manifest has no rows."),
        ("csv", "", "The manifest has no rows."),
        ("json", "[]", "The manifest has no rows."),
        ("json", '{"files": [ ]}', "The manifest has no rows."),
        ("jsonl", "\n \n", "The manifest has no rows."),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_cannot_be_read_is_refused_with_its_line_and_not_quoted(format_: str, text: str | bytes, why: str) -> None:
    """The line, why and, where there is one, the fix."""
    assert refusal(text, format_) == why


def test_a_format_that_is_not_known_is_refused_at_once() -> None:
    """Before anything is read."""
    with pytest.raises(InputError) as caught:
        rows(io.BytesIO(b""), "xml")

    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "manifest_format")


class Endless(io.RawIOBase):
    """A stream that never ends; ``given`` counts what was taken from it."""

    def __init__(self, head: bytes, rest: bytes) -> None:
        self._head, self._rest = head, rest * (65536 // len(rest))
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # a buffer is all we get
        part = (self._head or self._rest)[: len(buffer)]
        self._head = self._head[len(part) :]
        buffer[: len(part)] = part
        self.given += len(part)
        return len(part)


@pytest.mark.parametrize(
    ("format_", "head", "rest", "why"),
    [
        ("csv", b"path,url\na,", b"x", "line 2 it is longer than 16 MiB."),
        ("csv", b'path,url\na,"', b"x" * 1023 + b"\n", "line 2 it is longer than 16 MiB, or a quote is not closed."),
        (
            "csv",
            b"path,url\n",
            b'"' + b"x" * 1020 + b'\n",',
            "line 2 it is longer than 16 MiB, or a quote is not closed.",
        ),
        ("jsonl", b'{"path":"', b"x", "line 1 it is longer than 16 MiB."),
        ("json", b'[{"path":"', b"x", "line 1 this element is longer than 16 MiB, or not JSON."),
        ("json", b'[{"path":', b"[1],", "line 1 this element is longer than 16 MiB, or not JSON."),
        ("json", b'{"', b"x", "line 1 this element is longer than 16 MiB, or not JSON."),
    ],
    ids=range(7),
)
def test_a_row_that_never_ends_is_given_up(format_: str, head: bytes, rest: bytes, why: str) -> None:
    """A quote that is not closed, or an attack: after about two rows' worth it is over."""
    stream = Endless(head, rest)

    with pytest.raises(InputError) as caught:
        list(rows(io.BufferedReader(stream), format_))

    told = caught.value.message.removeprefix("The manifest's ").replace("cannot be read: ", "")
    assert (caught.value.code, told.startswith(why), stream.given < 3 * ROW_BYTES) == (Code.BAD_MANIFEST, True, True)


class Generated(io.RawIOBase):
    """A stream of what ``pieces`` give, none of it held."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # a buffer is all we get
        self._left = self._left or next(self._pieces, b"")
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def pieces(format_: str, count: int) -> Iterator[bytes]:
    url = "https://b.s3.amazonaws.com/k?X-Amz-Signature=" + "0" * 400
    yield {"csv": b"path,url\n", "json": b"[\n", "jsonl": b""}[format_]
    for n in range(count):
        row = f"f{n},{url}" if format_ == "csv" else f'{{"path":"f{n}","url":"{url}"}}'
        yield f"{row}{',' if format_ == 'json' and n < count - 1 else ''}\n".encode()
    yield b"]" if format_ == "json" else b""


@pytest.mark.parametrize("format_", FORMATS)
def test_memory_does_not_grow_with_the_rows(format_: str) -> None:
    """Ten thousand rows, five megabytes, take less than one; none of them is lost."""
    tracemalloc.start()
    try:
        count = sum(1 for _ in rows(io.BufferedReader(Generated(pieces(format_, 10_000))), format_))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (count, peak < 2**20) == (10_000, True)
