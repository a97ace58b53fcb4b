"""CloudPush as an OpenID Connect issuer: identity tokens about grants, and the public keys that they are checked with.

The private key is made in Vault Transit and never leaves it. A token (a JWT, RFC 7519) says::

    {"alg": "RS256", "typ": "JWT", "kid": "<RFC 7638 thumbprint>"}
    {"iss": "<CLOUDPUSH_WEB_URL>", "sub": "<the grant's id>", "aud": "<the provider's audience>",
     "iat": 1700000000, "nbf": 1700000000, "exp": 1700000300, "jti": "<a UUID>"}

Times are whole seconds: AWS refuses fractions. Each version of the key is published; the newest one signs once whoever keeps
a copy of our keys has had the time to see it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cloudpush.credentials.connection import VaultConnection
from cloudpush.errors import Code, VaultError
from cloudpush.logs import get_logger
from cloudpush.push.grants.model import Grant
from cloudpush.push.trust.base64url import to_base64url

#: How long what Vault says about the key holds.
KNOWN_SECONDS = 60.0
#: How long it holds where Vault cannot be asked: public keys are no secret, and without them no token can be checked.
STALE_SECONDS = 3_600.0
#: A key version signs this long after it was made: longer than ours and a verifier's copies of the older list are kept.
SETTLED = timedelta(minutes=15)
#: A verifier's clock may be behind ours. AWS allows for that itself; others do not.
SKEW_SECONDS = 5

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One version of the issuer's key. ``n``, ``e``: big-endian, base64url, as RFC 7518 wants them."""

    version: int
    made_at: datetime
    n: str
    e: str

    @property
    def kid(self) -> str:
        """The key's thumbprint (RFC 7638): the digest of its required members in alphabetic order."""
        members = json.dumps({"e": self.e, "kty": "RSA", "n": self.n}, separators=(",", ":"))
        return to_base64url(hashlib.sha256(members.encode()).digest())

    def jwk(self) -> dict[str, str]:
        """As a JSON Web Key."""
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": self.n, "e": self.e}


class _Keys:
    """What Vault says about the issuer's key, kept for a minute. Thread-safe: one thread asks, others wait for it."""

    def __init__(self, connection: VaultConnection, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock
        self._lock = threading.Lock()
        self._known: tuple[PublicKey, ...] = ()
        self._at = 0.0

    def all(self) -> Sequence[PublicKey]:
        """Every version that is still there, oldest first; at least one. Raises VaultError."""
        with self._lock:
            age = self._clock() - self._at
            if self._known and age < KNOWN_SECONDS:
                return self._known
            try:
                self._known = self._ask()
            except VaultError as e:
                if not self._known or age >= STALE_SECONDS:
                    raise
                log.warning("issuer.keys_stale", code=str(e.code), seconds=round(age))
                return self._known
            self._at = self._clock()
            return self._known

    def _ask(self) -> tuple[PublicKey, ...]:
        settings = self._connection.settings
        found = self._connection.run(
            lambda vault: vault.secrets.transit.read_key(
                settings.vault_issuer_key, mount_point=settings.vault_transit_mount
            )
        )
        return _read(found, settings.vault_issuer_key)


def _read(found: Mapping[str, Any], name: str) -> tuple[PublicKey, ...]:
    try:
        versions = sorted((int(version), made) for version, made in found["keys"].items())
        keys = tuple(_public(version, made) for version, made in versions)
    except (KeyError, TypeError, ValueError, AttributeError):
        keys = ()
    if not keys:
        raise VaultError(
            Code.VAULT_DENIED,
            f"The Transit key {name!r} cannot sign identity tokens: it must be of type rsa-2048 (CLOUDPUSH_VAULT_ISSUER_KEY).",
        )
    return keys


def _public(version: int, made: Mapping[str, str]) -> PublicKey:
    key = load_pem_public_key(made["public_key"].encode())
    if not isinstance(key, RSAPublicKey):
        raise TypeError
    numbers = key.public_numbers()
    return PublicKey(version, datetime.fromisoformat(made["creation_time"]), _b64uint(numbers.n), _b64uint(numbers.e))


class PublicKeys:
    """The keys that our identity tokens are checked with (role ``web``, or any that may read them). Thread-safe."""

    def __init__(self, connection: VaultConnection, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds, for how long answers are kept."""
        self._keys = _Keys(connection, clock)

    def jwks(self) -> dict[str, Any]:
        """A JSON Web Key Set of every version of the key, oldest first. Raises VaultError where Vault never told them."""
        return {"keys": [key.jwk() for key in self._keys.all()]}


class Issuer:
    """Signs identity tokens (role ``worker``). Implements ``push.grants.ports.IdentityTokens``. Thread-safe."""

    def __init__(
        self, connection: VaultConnection, url: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """``url``: CLOUDPUSH_WEB_URL, what ``iss`` says, without trailing slash."""
        self._connection = connection
        self._url = url.rstrip("/")
        self._now = now
        self._keys = _Keys(connection, time.monotonic)

    def issue(self, grant: Grant, audience: str, seconds: int) -> str:
        """See the port."""
        if not self._url:
            raise VaultError(
                Code.SETTINGS_INVALID,
                "CLOUDPUSH_WEB_URL is not set: without the address that our keys are found at, no cloud trusts our tokens.",
            )
        now = self._now()
        key = self._signing(now)
        at = int(now.timestamp())
        claims = {
            "iss": self._url,
            "sub": str(grant.id),
            "aud": audience,
            "iat": at,
            "nbf": at - SKEW_SECONDS,
            "exp": at + seconds,
            "jti": str(uuid4()),
        }
        said = f"{_part({'alg': 'RS256', 'typ': 'JWT', 'kid': key.kid})}.{_part(claims)}"
        return f"{said}.{self._sign(said, key.version)}"

    def _signing(self, now: datetime) -> PublicKey:
        """The newest key that verifiers can know by now; of a fresh installation the only one there is."""
        keys = self._keys.all()
        settled = [key for key in keys if now - key.made_at >= SETTLED]
        return settled[-1] if settled else keys[0]

    def _sign(self, said: str, version: int) -> str:
        settings = self._connection.settings
        answer = self._connection.run(
            lambda vault: vault.secrets.transit.sign_data(
                settings.vault_issuer_key,
                hash_input=base64.b64encode(said.encode()).decode(),
                key_version=version,
                hash_algorithm="sha2-256",
                signature_algorithm="pkcs1v15",
                mount_point=settings.vault_transit_mount,
            )
        )
        # vault:v1:<base64>
        return to_base64url(base64.b64decode(str(answer["signature"]).rpartition(":")[2]))


def _part(value: Mapping[str, object]) -> str:
    return to_base64url(json.dumps(value, separators=(",", ":")).encode())


def _b64uint(number: int) -> str:
    return to_base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))
