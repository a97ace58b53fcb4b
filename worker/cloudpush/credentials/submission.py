"""Submission tokens: JWTs (RFC 7519) that the API signs with a key of Transit, and workers check with its public half.

::

    {"alg": "EdDSA", "typ": "cloudpush-submission+jwt"}
    {"iss": "<CLOUDPUSH_WEB_URL>", "aud": "cloudpush.submit", "sub": "<principal>", "act": {"sub": "<actor>"},
     "roles": ["pipeline"], "scope": "read submit", "tid": "<id of the API token>", "jti": "<UUID>",
     "iat": 1700000000, "exp": 1700000300, "req": "<base64url of the SHA-256 of the canonical request>"}

Only this algorithm is known here: what a token's header says about it is compared, never followed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.ed25519 import SIGNATURE_BYTES, verify
from cloudpush.credentials.notary import Signer
from cloudpush.push.access.model import Principal, Role, Scope
from cloudpush.push.access.ports import Submitter
from cloudpush.push.access.submission import AUDIENCE, MOST_SECONDS, refused
from cloudpush.push.grants.proofs import same
from cloudpush.push.trust.base64url import from_base64url, to_base64url

HEADER = {"alg": "EdDSA", "typ": "cloudpush-submission+jwt"}
#: What Vault says about the key holds for so long, and is asked for anew no sooner than after so long.
KEYS_SECONDS, AGAIN_SECONDS = 300.0, 5.0
#: Two clocks of ours may differ by so much.
LEEWAY_SECONDS = 10
MOST_CHARS = 8 * 1024


class SubmissionSigner:
    """Signs, as role ``web``. Thread-safe."""

    def __init__(self, connection: VaultConnection, key: str, issuer: str) -> None:
        self._signer = Signer(connection, key)
        self._issuer = issuer

    def sign(self, principal: Principal, request_digest: str) -> tuple[str, datetime]:
        """A token for this request of theirs, and when it expires. Raises VaultError."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": principal.name,
            "act": {"sub": principal.actor},
            "roles": sorted(principal.roles),
            "scope": " ".join(sorted(principal.scopes)),
            "jti": str(uuid4()),
            "iat": now,
            "exp": now + MOST_SECONDS,
            "req": request_digest,
        }
        if principal.token_id is not None:
            claims["tid"] = str(principal.token_id)
        text = f"{_part(HEADER)}.{_part(claims)}"
        signature = self._signer.sign([text.encode()]).signatures[0]
        return f"{text}.{to_base64url(signature)}", datetime.fromtimestamp(claims["exp"], UTC)


class SubmissionVerifier:
    """``push.access.submission.Verifier``, as role ``worker``: by every version of the key that is still there. Thread-safe."""

    def __init__(
        self,
        connection: VaultConnection,
        key: str,
        issuer: str,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        signer = Signer(connection, key)
        self._keys = _Keys(lambda: [found.raw for found in signer.keys()], clock)  # noqa: SIM118 -- no mapping
        self._issuer = issuer
        self._now = now

    def submitter(self, token: str, request_digest: str) -> Submitter:
        """See the port."""
        claims = self._claims(token)
        now = self._now()
        iat, exp = claims.get("iat"), claims.get("exp")
        if type(iat) is not int or type(exp) is not int or exp - iat > MOST_SECONDS:
            raise refused("its token says nothing of its time")
        if not iat - LEEWAY_SECONDS <= now < exp + LEEWAY_SECONDS:
            raise refused("its token has expired, or is not valid yet")
        if claims.get("iss") != self._issuer or claims.get("aud") != AUDIENCE:
            raise refused("its token was made for something else")
        if not same(str(claims.get("req", "")), request_digest):
            raise refused("its token was made for another request")
        try:
            return Submitter(
                name=_text(claims["sub"]),
                actor=_text(claims["act"]["sub"]),
                roles=frozenset(map(Role, claims["roles"])),
                scopes=frozenset(map(Scope, claims["scope"].split())),
                token_id=UUID(claims["tid"]) if "tid" in claims else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise refused("its token does not say for whom it is") from None

    def _claims(self, token: str) -> Mapping[str, Any]:
        """What a token says whose signature holds. Raises AccessError, VaultError."""
        text, _, last = token.rpartition(".")
        head, _, body = text.partition(".")
        try:
            header, claims, signature = _read(head), _read(body), from_base64url(last, SIGNATURE_BYTES)
        except (ValueError, RecursionError):
            header = {}
        if len(token) > MOST_CHARS or header != HEADER:
            raise refused("its token is none of ours")
        if not self._keys.any(lambda key: verify(key, signature, text.encode())):
            raise refused("its token's signature does not hold")
        return claims


class _Keys:
    """The public keys, kept for a while. Thread-safe."""

    def __init__(self, ask: Callable[[], Sequence[bytes]], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._known: Sequence[bytes] = ()
        self._at = 0.0

    def any(self, holds: Callable[[bytes], bool]) -> bool:
        """Whether it holds for one of them; if not, for one of those that Vault has now. Raises VaultError."""
        if any(map(holds, self._get(KEYS_SECONDS))):
            return True
        return any(map(holds, self._get(AGAIN_SECONDS)))

    def _get(self, age: float) -> Sequence[bytes]:
        with self._lock:
            if not self._known or self._clock() - self._at >= age:
                self._known, self._at = self._ask(), self._clock()
            return self._known


def _part(value: Mapping[str, Any]) -> str:
    return to_base64url(json.dumps(value, separators=(",", ":")).encode())


def _read(part: str) -> dict[str, Any]:
    found = json.loads(from_base64url(part))
    if not isinstance(found, dict):
        raise ValueError  # noqa: TRY004 -- of what was sent, like the others
    return found


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value
