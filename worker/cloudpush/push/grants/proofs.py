"""What ties a consent to one browser: state, nonce, PKCE verifier and CSRF token, all computed from its session.

Each is an HMAC-SHA256 under the session's token, which only the browser has. So nothing of an attempt is a stored
secret, who reads the database can answer no callback, and a callback in another session computes other values: its
state does not verify, and the verifier that would go with the code is not the one that the provider was given.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from uuid import UUID

#: A state is the attempt's id and its tag, 48 bytes; nothing longer is looked at.
_STATE_CHARS = 64


def session_hash(token: str) -> bytes:
    """What Postgres knows a session by: SHA-256, 32 bytes."""
    return hashlib.sha256(token.encode()).digest()


def state_of(token: str, attempt_id: UUID) -> str:
    """The ``state`` of an attempt: its id, and a tag that only its session can make. 64 characters."""
    return _text(attempt_id.bytes + _tag(token, b"state", attempt_id))


def attempt_of(token: str, state: str) -> UUID | None:
    """The attempt that ``state`` names; None where it was not made by this session. Constant time in the tag."""
    if len(state) != _STATE_CHARS:
        return None
    try:
        raw = base64.b64decode(state, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    attempt_id = UUID(bytes=raw[:16])
    return attempt_id if hmac.compare_digest(raw[16:], _tag(token, b"state", attempt_id)) else None


def verifier_of(token: str, attempt_id: UUID) -> str:
    """The PKCE verifier (RFC 7636) of an attempt. 43 characters."""
    return _text(_tag(token, b"pkce", attempt_id))


def nonce_of(token: str, attempt_id: UUID) -> str:
    """The ``nonce`` that comes back in the identity token. 43 characters."""
    return _text(_tag(token, b"nonce", attempt_id))


def same(one: str, other: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(*(text.encode(errors="surrogatepass") for text in (one, other)))


def _tag(token: str, what: bytes, attempt_id: UUID) -> bytes:
    if not token:
        raise ValueError("a session without a token ties nothing to anybody")
    return hmac.new(token.encode(), what + attempt_id.bytes, hashlib.sha256).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
