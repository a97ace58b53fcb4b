"""Bearer JWTs of the operator's identity provider (OpenID Connect Discovery, RFC 7519, RFC 9068).

Three algorithms are known, all asymmetric; which one, the key says as well as the token. Keys come from the issuer's own JWKS and
from nowhere else: what a token's header says of keys (``jwk``, ``jku``, ``x5u``) is not looked at. A token is for us if its
``aud`` names us: an identity token that the same provider made for another application is refused by that.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import requests
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from cloudpush.credentials import urls
from cloudpush.credentials.wire import CONNECT_SECONDS, READ_SECONDS, Careful, asked, origin_of
from cloudpush.errors import AccessError, CloudPushError, Code, SettingsError
from cloudpush.logs import get_logger
from cloudpush.push.access.identity import unauthenticated
from cloudpush.push.access.model import ALL_SCOPES, Role, Scope
from cloudpush.push.access.names import trouble_with
from cloudpush.push.access.ports import Identified
from cloudpush.push.trust.base64url import from_base64url

log = get_logger(__name__)

ALGORITHMS: Mapping[str, type[RSAKey | ECKey | OKPKey]] = {"RS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey}
#: What a token may call itself: nothing, a JWT, an access token. A logout token or a proof is no bearer token.
TYPES = frozenset({"", "jwt", "at+jwt"})
#: Shorter RSA keys are as good as none (NIST SP 800-131A).
RSA_BITS = 2048
#: Keys are read again after so long, and where a token names one that we have not seen: no sooner than after so long.
KEYS_SECONDS, AGAIN_SECONDS = 600.0, 60.0
LEEWAY_SECONDS = 60
KEY = "CLOUDPUSH_API_OIDC_ISSUER"


class BearerTokens:
    """``push.access.ports.BearerJwts``: one issuer, one audience. Thread-safe."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        owner_claim: str,
        roles_claim: str = "",
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises SettingsError."""
        try:
            urls.check(issuer)
        except ValueError as e:
            raise SettingsError(Code.SETTINGS_INVALID, f"{KEY}={issuer!r} {e}", field=KEY) from None
        if not audience:
            key = "CLOUDPUSH_API_OIDC_AUDIENCE"
            raise SettingsError(Code.SETTINGS_INVALID, f"{key} is missing beside API_OIDC_ISSUER", field=key)
        self._issuer = issuer
        self._audience = audience
        self._owner_claim = owner_claim
        self._roles_claim = roles_claim
        self._now = now
        self._keys = _Keys(issuer, clock)

    def identify(self, token: str) -> Identified:
        """Whom it names. Raises AccessError UNAUTHENTICATED; CloudPushError where the issuer's keys are not to be had."""
        claims = self._claims(token)
        self._check(claims)
        owner = claims.get(self._owner_claim)
        if not isinstance(owner, str) or not owner:
            raise _no(f"it does not say who you are: the claim {self._owner_claim!r} is missing")
        if trouble := trouble_with(owner):
            raise _no(f"its claim {self._owner_claim!r} {trouble}")
        if self._owner_claim == "email" and claims.get("email_verified") in (False, "false"):
            raise _no("the provider has not verified your e-mail address")
        return Identified(owner, self._roles(claims), _scopes(claims), datetime.fromtimestamp(claims["exp"], UTC))

    def _claims(self, token: str) -> dict[str, Any]:
        """What a token says whose signature holds."""
        header = _header(token)
        algorithm, kid = str(header.get("alg")), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise _no(f"its algorithm is none of {', '.join(ALGORITHMS)}")
        kind = str(header.get("typ", "")).lower().removeprefix("application/")
        if kind not in TYPES or "crit" in header or "b64" in header:
            raise _no("it is no bearer token")
        for key in self._keys.of(kid if isinstance(kid, str) else None, ALGORITHMS[algorithm]):
            try:
                return dict(jwt.decode(token, key, algorithms=[algorithm]).claims)
            except (JoseError, ValueError, TypeError, RecursionError):
                continue
        raise _no("its signature does not hold")

    def _check(self, claims: Mapping[str, Any]) -> None:
        now = self._now()
        audiences = claims.get("aud")
        if claims.get("iss") != self._issuer:
            raise _no("another issuer made it")
        if self._audience not in (audiences if isinstance(audiences, list) else [audiences]):
            raise _no("it was made for another application")
        times = {name: claims.get(name) for name in ("exp", "iat", "nbf")}
        if any(type(value) not in (int, float) for name, value in times.items() if name != "nbf" or value is not None):
            raise _no("it does not say when it was made and when it expires")
        # Compared as they are: an integer may be larger than any float.
        if not now - LEEWAY_SECONDS < claims["exp"] < _LAST:
            raise _no("it has expired")
        if not (claims["iat"] <= now + LEEWAY_SECONDS and (claims.get("nbf") or 0) <= now + LEEWAY_SECONDS):
            raise _no("it is not valid yet")

    def _roles(self, claims: Mapping[str, Any]) -> frozenset[Role] | None:
        if not self._roles_claim:
            return None
        value: Any = claims
        for part in self._roles_claim.split("."):  # realm_access.roles, as Keycloak has it
            value = value.get(part) if isinstance(value, Mapping) else None
        words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        return frozenset(role for role in Role if role.value in words)


class _Keys:
    """The issuer's keys. Thread-safe: one thread asks, others wait for it."""

    def __init__(self, issuer: str, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._clock = clock
        self._lock = threading.Lock()
        self._known: KeySet | None = None
        self._fresh_until = 0.0
        self._again_at = 0.0

    def of(self, kid: str | None, kind: type[RSAKey | ECKey | OKPKey]) -> list[Any]:
        """Keys of that name (any, where a token names none) and kind. Raises CloudPushError."""
        found = self._matching(self._get(anew=False), kid, kind)
        return found or self._matching(self._get(anew=True), kid, kind)

    @staticmethod
    def _matching(keys: KeySet, kid: str | None, kind: type[RSAKey | ECKey | OKPKey]) -> list[Any]:
        return [
            key
            for key in keys.keys
            if isinstance(key, kind)
            and (kid is None or key.kid == kid)
            and key.as_dict().get("use", "sig") == "sig"
            and (not isinstance(key, RSAKey) or key.public_key.key_size >= RSA_BITS)
        ]

    def _get(self, *, anew: bool) -> KeySet:
        with self._lock:
            now = self._clock()
            known = self._known
            if known is not None and (now < self._again_at or (not anew and now < self._fresh_until)):
                return known
            if known is None and now < self._again_at:
                raise _away(self._issuer, "it did not a moment ago")
            self._again_at = now + (AGAIN_SECONDS if known is not None else 5.0)
            try:
                self._known = known = self._read()
            except CloudPushError as e:
                if known is None:
                    raise
                log.warning("issuer's keys not renewed", code=e.code, error=e.message)
            else:
                self._fresh_until, self._again_at = now + KEYS_SECONDS, now + AGAIN_SECONDS
            return known

    def _read(self) -> KeySet:
        metadata = _document(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != self._issuer:
            raise _away(self._issuer, f"it calls itself {str(metadata.get('issuer'))[:200]!r}")
        where = metadata.get("jwks_uri")
        try:
            urls.check(where if isinstance(where, str) else "")
        except ValueError:
            raise _away(self._issuer, "it names no usable jwks_uri") from None
        listed = _document(str(where)).get("keys")
        keys: list[Any] = []
        for one in listed if isinstance(listed, list) else []:
            try:  # one at a time: kinds that we do not know stand among those that we do
                keys += KeySet.import_key_set({"keys": [one]}).keys
            except (JoseError, ValueError, TypeError, KeyError, AttributeError):
                continue
        if not keys:
            raise _away(self._issuer, "it lists no keys")
        return KeySet(keys)


def _document(url: str) -> dict[str, Any]:
    with Careful() as session:
        session.trust(ssl.get_default_verify_paths().cafile or "")

        def ask() -> requests.Response:
            return session.get(url, headers={"accept": "application/json"}, timeout=(CONNECT_SECONDS, READ_SECONDS))

        answer = asked(url, ask)
    try:
        found = json.loads(answer.content) if answer.status_code == 200 else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _away(url, f"it answers {answer.status_code} with something else")
    return found


def _header(token: str) -> dict[str, Any]:
    first = token.partition(".")[0]
    try:
        found = json.loads(from_base64url(first))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _no("it is none")
    return found


#: What a JWT that names no scope of ours may be used for.
UNSAID = ALL_SCOPES - {Scope.ADMIN}


def _scopes(claims: Mapping[str, Any]) -> frozenset[Scope]:
    """Those of ours among its scopes. Where none of ours is there it is about other things: all but ``admin``.

    A JWT lives for minutes: unless its issuer says so, it makes no API token that lives for a year.
    """
    value = claims.get("scope", claims.get("scp", ""))
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(scope for scope in Scope if scope.value in words) or UNSAID


#: The year 9999: what lies beyond is no time here.
_LAST = 253_402_300_799


def _no(why: str) -> AccessError:
    """What is wrong with a JWT may be told: whoever has it can read it."""
    return unauthenticated(f"This JWT is not taken: {why}.")


def _away(url: str, why: str) -> CloudPushError:
    return CloudPushError(
        Code.PROVIDER_UNAVAILABLE,
        f"The issuer of bearer tokens at {origin_of(url)} does not answer as it should: {why}.",
    )
