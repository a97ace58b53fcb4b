"""The text of an API token: made so that a typo is caught without asking anybody, and a leak by whoever scans for secrets.

::

    cpt_<43 characters of base64url: 256 random bits><6 characters of base 62: CRC-32 of all before>

The checksum is no secret and guards against nobody: it tells a mistyped or cut token from one that we do not know.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "cpt_"
#: For those who scan for secrets; docs/access.md names it.
PATTERN = r"cpt_[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}"
_SHAPE = re.compile(PATTERN)
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CHECK_CHARS = 6


def new_token() -> str:
    """A token that nobody has seen, 53 characters."""
    body = PREFIX + secrets.token_urlsafe(32)
    return body + _checksum(body)


def is_token(text: str) -> bool:
    """Whether ``text`` is a whole token, as far as it says itself."""
    return _SHAPE.fullmatch(text) is not None and _checksum(text[:-_CHECK_CHARS]) == text[-_CHECK_CHARS:]


def digest(text: str) -> bytes:
    """What is stored of a token, or of a device's code: SHA-256, 32 bytes. 256 random bits need no salt."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _checksum(body: str) -> str:
    number, made = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK_CHARS):
        number, digit = divmod(number, len(_DIGITS))
        made = _DIGITS[digit] + made
    return made
