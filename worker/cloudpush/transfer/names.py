"""File names and keys as rclone wants to hear them, so that they arrive byte for byte.

rclone takes every path in an encoding of its own ("standard") and decodes it before use: control characters are written
as U+2400 and following, ``/`` inside a name as U+FF0F, the names ``.`` and ``..`` in full-width stops, and a character
that would be mistaken for one of these is preceded by U+201B. A name that is handed over as it is would be changed
where it happens to contain such characters. With the encoding of both remotes set to ``Raw``, what arrives is exactly
what was encoded here.

Source: rclone, ``lib/encoder``: ``EncodeZero | EncodeSlash | EncodeCtl | EncodeDel | EncodeDot``.
"""

from __future__ import annotations

import re

_QUOTE = "\u201b"
_SYMBOLS = 0x2400  # SYMBOL FOR NULL; the symbol of each control character follows in order
_DELETE, _SYMBOL_FOR_DELETE = 0x7F, 0x2421
_FULLWIDTH_STOP = "\uff0e"
_FULLWIDTH_SLASH = "\uff0f"

_CONTROLS = range(0x20)
_TABLE: dict[int, str] = (
    {c: chr(_SYMBOLS + c) for c in _CONTROLS}
    | {_SYMBOLS + c: _QUOTE + chr(_SYMBOLS + c) for c in _CONTROLS}
    | {
        _DELETE: chr(_SYMBOL_FOR_DELETE),
        _SYMBOL_FOR_DELETE: _QUOTE + chr(_SYMBOL_FOR_DELETE),
        ord(_FULLWIDTH_SLASH): _QUOTE + _FULLWIDTH_SLASH,
        ord(_QUOTE): _QUOTE + _QUOTE,
    }
)
#: Whole names that are reserved, and what takes their place.
_RESERVED = {
    ".": _FULLWIDTH_STOP,
    "..": _FULLWIDTH_STOP * 2,
    _FULLWIDTH_STOP: _QUOTE + _FULLWIDTH_STOP,
    _FULLWIDTH_STOP * 2: (_QUOTE + _FULLWIDTH_STOP) * 2,
}
#: Printable ASCII without ``.`` as a whole name: most paths, which need no second look.
_PLAIN = re.compile(r"(?:(?!\.{1,2}(?:/|$))[ -.0-~]+(?:/|$)|/)*")


def standard(path: str) -> str:
    """``path``, relative or absolute, with slashes between its names, in rclone's standard encoding."""
    if _PLAIN.fullmatch(path):
        return path
    return "/".join(_RESERVED.get(name) or name.translate(_TABLE) for name in path.split("/"))
