"""Server-sent events, as far as the API sends them: named events with one JSON document each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

#: Bytes of a line; a push's document has a few thousand.
_LINE = 1024**2


def events(pieces: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """(name, document) of each event. A comment is ("", None): somebody is there.

    What is no JSON is left out; so is an event whose end never came. Raises ValueError for an endless line or event.
    """
    name, data = "", ""
    for line in _lines(pieces):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            document = _document(data)
            if document is not None:
                yield name or "message", document
            name, data = "", ""
        elif not field:
            yield "", None
        elif field == "event":
            name = value
        elif field == "data":
            data += f"\n{value}" if data else value
            if len(data) > _LINE:
                raise ValueError("an event of a stream has no end")


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    left = b""
    for piece in pieces:
        left += piece
        *whole, left = left.replace(b"\r\n", b"\n").split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
        if len(left) > _LINE:
            raise ValueError("a line of an event stream has no end")


def _document(data: str) -> Any:
    """What ``data`` says; None where it is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
