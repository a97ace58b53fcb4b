"""Manifests: rows from CSV, JSON or JSON Lines, streamed, with the line that each one begins on.

Nothing here knows what the columns mean. A row is bounded, so a million of them, or one that never ends, take no more
memory than a single large one. Rows are full of secrets: no error quotes one.

::

    CSV     RFC 4180, UTF-8, first line names the columns; an empty cell means that the column is not given
    JSON    an array of objects, or {"files": [objects]}
    JSONL   an object on each line
"""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from cloudpush.errors import Code, InputError

#: Bytes of one row at most: it may hold the URLs of 10,000 parts.
ROW_BYTES = 16 * 1024 * 1024
FORMATS = ("csv", "json", "jsonl")
#: Columns of a CSV at most: several times those that there are.
_MOST_COLUMNS = 100

_AUTO = "auto"
_CHUNK = 64 * 1024
_SUFFIXES = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}
#: What other encodings begin with; the longer first.
_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "a ZIP or spreadsheet file"),
)
_BLANK = " \t\r\n"

Row = tuple[int, Mapping[str, object]]


def detect(name: str, head: bytes) -> str:
    """The format of a manifest called ``name`` that begins with ``head``: by its name, otherwise by its first bytes."""
    for suffix, found in _SUFFIXES.items():
        if name.lower().endswith(suffix):
            return found
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"["):
        return "json"
    if not text.startswith(b"{"):
        return "csv"
    # {"files": [… is one document. Of rows, each on a line of its own, every line is one.
    key = text[1:].lstrip()
    return "json" if key.startswith(b'"files"') else "jsonl"


def rows(stream: BinaryIO, format: str = _AUTO) -> Iterator[Row]:  # noqa: A002 -- the word that its option has
    """Each row with the line that it begins on, counted from 1. Reads on as rows are asked for; can be read once.

    ``format``: one of FORMATS, or ``auto``. Raises InputError: BAD_INPUT for another format; BAD_MANIFEST, naming the
    line, for what cannot be read, and for a manifest without rows.
    """
    if format not in (_AUTO, *FORMATS):
        raise InputError(
            Code.BAD_INPUT,
            f"format={format!r} is not a format of manifests; use one of: {_AUTO}, {', '.join(FORMATS)}.",
            field="manifest_format",
        )
    return _rows(_Source(stream), format)


def _rows(source: _Source, format_: str) -> Iterator[Row]:
    head = source.peek()
    for mark, what in _OTHER_ENCODINGS:
        if head.startswith(mark):
            raise _bad(1, f"the manifest is {what}; save it as plain UTF-8 text")
    chosen = detect("", head) if format_ == _AUTO else format_
    found = {"csv": _csv_rows, "json": _json_rows, "jsonl": _jsonl_rows}[chosen](source)
    line = 0
    for line, row in found:
        yield line, row
    if not line:
        raise InputError(Code.BAD_MANIFEST, "The manifest has no rows.", field="manifest")


class _Source:
    """Bytes and lines of a stream, as text, bounded. ``line``: the number of the last line that was returned."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._head: bytes | None = None
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("strict").decode
        self.line = 0

    def peek(self) -> bytes:
        """The first bytes, which are read again later."""
        if self._head is None:
            self._head = self._stream.read(_CHUNK)
        return self._head

    def chunk(self) -> str | None:
        """The next characters, as many as there are; None at the end. Raises InputError, UnicodeDecodeError."""
        raw, self._head = (self._head, b"") if self._head else (self._stream.read(_CHUNK), b"")
        text = self._decode(raw, final=not raw)
        return text if raw else None

    def lines(self) -> Iterator[str]:
        """Lines with their ends. Raises InputError for one that is too long, holds NUL or is not UTF-8."""
        while raw := self._line():
            self.line += 1
            if len(raw) > ROW_BYTES:
                raise too_long(self.line)
            if b"\0" in raw:
                raise _bad(self.line, "it holds a NUL character")
            if self.line == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            text = _text(raw)
            if text is None:
                raise not_utf8(self.line)
            yield text

    def _line(self) -> bytes:
        if not self._head:
            return self._stream.readline(ROW_BYTES + 1)
        at = self._head.find(b"\n") + 1
        if at:
            raw, self._head = self._head[:at], self._head[at:]
            return raw
        raw, self._head = self._head, b""
        return raw + self._stream.readline(ROW_BYTES + 1)


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None  # this error holds what it could not decode


# -- CSV --------------------------------------------------------------------------------------------


def _csv_rows(source: _Source) -> Iterator[Row]:
    # The module's own bound, one for the whole process, is 128 KiB: part URLs of one file take more.
    csv.field_size_limit(ROW_BYTES)
    columns: list[str] | None = None
    for line, cells in _csv_cells(source):
        if not cells:
            continue  # an empty line
        if columns is None:
            columns = _columns(line, cells)
        elif len(cells) != len(columns):
            raise _bad(line, f"it has {len(cells)} cells, and the first line names {len(columns)} columns")
        else:
            yield line, {name: cell for name, cell in zip(columns, cells, strict=True) if cell}


def _csv_cells(source: _Source) -> Iterator[tuple[int, list[str]]]:
    """Cells with the line that they begin on. A quoted cell may hold line breaks, but no more than a row may."""
    held = 0

    def bounded() -> Iterator[str]:
        nonlocal held
        for text in source.lines():
            held += len(text)
            if held > ROW_BYTES:
                raise _bad(line, f"it is longer than {_MIB} MiB, or a quote is not closed")
            yield text

    reader = csv.reader(bounded(), strict=True)
    line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error:
            cells = None
            broken = True
        else:
            broken = False
        if broken:
            raise _bad(
                line,
                'its quotes are wrong: a cell with a comma, quote or line break is "quoted", a quote in it doubled',
            )
        if cells is None:
            return
        yield line, cells
        line, held = source.line + 1, 0


def _columns(line: int, names: list[str]) -> list[str]:
    if len(names) > _MOST_COLUMNS:
        raise _bad(line, f"it names {len(names)} columns, and {_MOST_COLUMNS} are the most")
    columns = [name.strip() for name in names]
    if not all(columns):
        raise _bad(line, f"column {columns.index('') + 1} has no name")
    if doubled := {name for name, times in Counter(columns).items() if times > 1}:
        # Not by its name: without a header, this line is a row, and a URL the name.
        at = next(n for n, name in enumerate(columns, 1) if name in doubled)
        raise _bad(line, f"the name of column {at} is there twice")
    if len(columns) == 1 and ";" in columns[0]:
        raise _bad(line, "its columns are separated by semicolons; use commas")
    return columns


# -- JSON -------------------------------------------------------------------------------------------


class _Twice(Exception):
    """A key stands twice in one object. Never leaves this module."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _no_number(_: str) -> object:
    raise ValueError


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)


def _jsonl_rows(source: _Source) -> Iterator[Row]:
    for text in source.lines():
        if text.isspace():
            continue
        yield source.line, _object(text, source.line)


def _object(text: str, line: int) -> Mapping[str, object]:
    why = ""
    value: object = None
    try:
        value = _DECODER.decode(text)
    except _Twice:
        why = "a key is there twice"
    except (ValueError, RecursionError):  # not chained: this error holds the text
        why = "it is not JSON"
    if not why and not isinstance(value, dict):
        why = "it is no JSON object"
    if why or not isinstance(value, dict):
        raise _bad(line, why)
    return value


def _json_rows(source: _Source) -> Iterator[Row]:
    """Elements one by one: at most one of them, and a chunk, is held."""
    text = _Document(source)
    wrapped = text.next() == "{"
    if wrapped:
        text.take("{")
        if text.key() != "files":
            raise text.bad('it is an object, and its only key is not "files"')
        text.take(":")
    text.take("[")
    if text.next() == "]":
        text.take("]")
    else:
        while True:
            text.next()  # so that the line is that of the element
            yield text.line, text.element()
            if text.next() != ",":
                text.take("]")
                break
            text.take(",")
    if wrapped:
        text.take("}")
    if text.next():
        raise text.bad("something follows the end of the document")


class _Document:
    """JSON text of which a window is held. ``line``: that of the next character that is no blank, after ``next``."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._window = ""
        self._at = 0
        self._over = False
        self.line = 1

    def next(self) -> str:
        """The next character that is no blank, not taken; empty at the end."""
        while True:
            at = self._at
            while at < len(self._window) and self._window[at] in _BLANK:
                at += 1
            self.line += self._window.count("\n", self._at, at)
            self._at = at
            if at < len(self._window):
                return self._window[at]
            if not self._more(_CHUNK):
                return ""

    def take(self, wanted: str) -> None:
        """Go past the character ``wanted``."""
        if self.next() != wanted:
            raise self.bad(f"{wanted} is missing: it is not JSON, or cut short")
        self._at += 1

    def key(self) -> str:
        """Go past a key."""
        if self.next() != '"':
            raise self.bad("a key is missing: it is not JSON, or cut short")
        return str(self._value())

    def element(self) -> Mapping[str, object]:
        """Go past an object."""
        if self.next() != "{":
            raise self.bad("this element is no object")
        value = self._value()
        if not isinstance(value, dict):
            raise self.bad("this element is no object")
        return value

    def bad(self, why: str) -> InputError:
        """The refusal of what stands here."""
        return _bad(self.line, why)

    def _value(self) -> object:
        """Go past one value. Cut off by the window's end, it is read again with twice as much."""
        while True:
            why = ""
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except _Twice:
                why = "a key is there twice in this element"
            except RecursionError:
                why = "this element is nested too deeply"
            except ValueError:  # not chained: this error holds the text
                value = None
            else:
                self.line += self._window.count("\n", self._at, end)
                self._at = end
                return value
            if why:
                raise self.bad(why)
            held = len(self._window) - self._at
            if held > ROW_BYTES:
                raise self.bad(f"this element is longer than {_MIB} MiB, or not JSON")
            if not self._more(max(held, _CHUNK)):
                raise self.bad("this element is not JSON, or cut short")

    def _more(self, wanted: int) -> bool:
        """Let the window begin where we are and grow by about ``wanted`` characters; whether it grew."""
        pieces = [self._window[self._at :]]
        got = 0
        while got < wanted and not self._over:
            try:
                piece = self._source.chunk()
            except UnicodeDecodeError:
                piece = None
                undecodable = True
            else:
                undecodable = False
            if undecodable:
                raise not_utf8(self.line, "from here on")
            if piece is None:
                self._over = True
            else:
                pieces.append(piece)
                got += len(piece)
        self._window, self._at = "".join(pieces), 0
        return got > 0


# -- refusals ---------------------------------------------------------------------------------------

_MIB = ROW_BYTES // 2**20


def too_long(line: int) -> InputError:
    """A line is more than any row takes."""
    return _bad(line, f"it is longer than {_MIB} MiB")


def not_utf8(line: int, where: str = "it") -> InputError:
    """The text is in another encoding."""
    return _bad(line, f"{where} is not UTF-8 text" if where == "it" else f"{where} it is not UTF-8 text")


def _bad(line: int, why: str) -> InputError:
    return InputError(Code.BAD_MANIFEST, f"The manifest's line {line} cannot be read: {why}.", field="manifest")
