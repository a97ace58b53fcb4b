"""Base64url without padding (RFC 7515), with one text for the same bytes."""

from __future__ import annotations

import base64


def to_base64url(data: bytes) -> str:
    """``data`` as text."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str, length: int | None = None) -> bytes:
    """The bytes that ``text`` encodes, ``length`` of them where it is given.

    Raises ValueError, also where another text would be these bytes' own.
    """
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
    if length not in (None, len(data)) or to_base64url(data) != text:
        raise ValueError(f"it is not the base64url of {length or 'any'} bytes")
    return data
