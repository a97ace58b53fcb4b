"""What is said of a URL that is refused. A signed URL is a secret: its query appears in no error, nor what may be one."""

from __future__ import annotations

import re

from cloudpush.errors import Code, InputError

#: As much of a path as a person needs to recognise a row.
_SHOWN_CHARACTERS = 120
#: Up to what may begin a query, also where that is percent-encoded: a URL that was quoted twice hides its signature there.
_HARMLESS = re.compile(r"(?:[A-Za-z0-9/._~!$'()*+,:@-]|%(?!3[BDFbdf]|2[356])[0-9A-Fa-f]{2})*")
_HOST = re.compile(r"https?://[A-Za-z0-9._-]+", re.IGNORECASE)


def shown(origin: str, path: str) -> str:
    """``origin`` and the beginning of ``path``, as a message may show them."""
    harmless = _HARMLESS.match(path)
    text = harmless.group()[:_SHOWN_CHARACTERS] if harmless else ""
    return f"'{origin}{text}{'' if text == path else '…'}'"


def shown_head(head: str) -> str:
    """What a message may show of a ``head`` (all before the path) that is no origin; it may be a secret itself."""
    host = None if "@" in head else _HOST.match(head)
    return f"'{host.group()[:_SHOWN_CHARACTERS]}…'" if host else "(not shown)"


def bad(field: str, why: str, fix: str) -> InputError:
    """The input is no such thing at all."""
    return InputError(Code.BAD_INPUT, f"{field} {why}; {fix}", field=field)


def unusable(field: str, what: str, why: str, fix: str) -> InputError:
    """The URL is well formed and can never do what it is for. ``what``: as :func:`shown` gives it."""
    return InputError(Code.URL_UNUSABLE, f"{field} {what} {why}; {fix}", field=field)


def bad_row(column: str, why: str, fix: str) -> InputError:
    """A row of a manifest is wrong in ``column``; its value is not shown."""
    return InputError(Code.BAD_MANIFEST, f"{column} {why}; {fix}", field=column)
