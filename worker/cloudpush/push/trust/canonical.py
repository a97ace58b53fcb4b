"""The one way in which what is signed is written down: JSON as RFC 8785 (JCS) writes it, without floating-point numbers.

Keys in the order of their UTF-16 code units, no space, every character that JSON does not force to be escaped as itself,
UTF-8. So one value has one text, and a text that is not its value's own text was changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Integers beyond this are not the same number to every reader of JSON (RFC 7493): write them as strings.
MOST = 2**53 - 1


def canonical(value: object) -> bytes:
    """``value`` as canonical JSON. Raises TypeError, ValueError for what has none: floats, large integers, lone surrogates."""
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def read_canonical(text: bytes) -> Any:
    """The value of ``text``. Raises ValueError unless ``text`` is exactly what :func:`canonical` makes of it."""
    try:
        value = json.loads(text.decode(), parse_float=_refuse, parse_constant=_refuse)
        same = canonical(value) == text
    except (ValueError, TypeError, RecursionError):
        raise ValueError("it is no canonical JSON") from None
    if not same:
        raise ValueError("it is no canonical JSON")
    return value


def _ordered(value: object) -> object:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys are strings")
        return {key: _ordered(value[key]) for key in sorted(value, key=lambda k: k.encode("utf-16-be"))}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        if abs(value) > MOST:
            raise ValueError(f"{value} is beyond what every reader of JSON takes for the same number")
        return value
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def _refuse(word: str) -> object:
    raise ValueError(f"{word} has no canonical form")
