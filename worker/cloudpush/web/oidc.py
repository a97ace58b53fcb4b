"""The operator's OpenID provider, as far as signing in goes: who somebody is, and nothing that lasts.

Authlib builds the request and redeems the code; the identity token is checked here with joserfc, Authlib's own library for that.
No redirects are followed, no proxy or CA of the environment is taken but OpenSSL's own (SSL_CERT_FILE), answers are bounded.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from cloudpush.credentials.wire import Careful
from cloudpush.errors import CloudPushError, Code, InputError, SettingsError
from cloudpush.logs import redact
from cloudpush.push.access.names import trouble_with
from cloudpush.push.grants.proofs import same

#: Seconds to connect, and to wait for more.
TIMEOUT = (5.0, 10.0)
#: Metadata are read again after so long; keys also when a token names one that we have not seen.
METADATA_SECONDS = 600.0
KEYS_SECONDS = 60.0
LEEWAY_SECONDS = 60
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class _Session(Careful, OAuth2Session):  # type: ignore[misc]
    """Authlib's session, whose answers come whole and within bounds."""


class SignInProvider:
    """One issuer, one client."""

    def __init__(
        self, *, issuer: str, client_id: str, secret: Callable[[], str], redirect_uri: str, claim: str
    ) -> None:
        """``secret`` is asked at each sign-in; an empty one: a public client. Raises SettingsError."""
        parts = urlsplit(issuer)
        key = "CLOUDPUSH_WEB_OIDC_ISSUER"
        if not parts.hostname or not (parts.scheme == "https" or _local(issuer)):
            raise SettingsError(Code.SETTINGS_INVALID, f"{key}={issuer!r} must be an https URL", field=key)
        if not client_id:
            key = "CLOUDPUSH_WEB_OIDC_CLIENT_ID"
            raise SettingsError(Code.SETTINGS_INVALID, f"{key} is missing beside WEB_OIDC_ISSUER", field=key)
        self._issuer = issuer
        self._client_id = client_id
        self._secret = secret
        self._redirect_uri = redirect_uri
        self._claim = claim
        self._lock = threading.Lock()
        self._metadata: tuple[float, Mapping[str, Any]] = (-METADATA_SECONDS, {})
        self._keys: tuple[float, KeySet | None] = (-KEYS_SECONDS, None)

    @property
    def host(self) -> str:
        """For people."""
        return urlsplit(self._issuer).netloc

    def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where the browser goes. Raises CloudPushError where the provider's metadata are not to be had."""
        scope = "openid email" if self._claim == "email" else "openid profile email"
        with self._session(scope=scope) as session:
            url, _ = session.create_authorization_url(
                self._endpoint("authorization_endpoint"), state=state, nonce=nonce, code_verifier=verifier
            )
        return str(url)

    def check_issuer(self, iss: str) -> None:
        """Against mix-up (RFC 9207). Raises InputError."""
        demanded = self.metadata().get("authorization_response_iss_parameter_supported") is True
        if (iss or demanded) and iss != self._issuer:
            raise _refused("The answer came from another provider than the one that was asked.")

    def owner(self, *, code: str, nonce: str, verifier: str) -> str:
        """Redeem the code; the owner's name, as the operator's claim gives it. Raises CloudPushError."""
        if not code:
            raise _refused("The provider sent no code.")
        with self._session(scope="openid") as session:
            try:
                answer = session.fetch_token(
                    self._endpoint("token_endpoint"),
                    code=code,
                    code_verifier=verifier,
                    grant_type="authorization_code",
                    allow_redirects=False,
                    timeout=TIMEOUT,
                )
            except AuthlibBaseError as e:
                raise self._rejected(str(e.error), str(e.description or "")) from None
            except (requests.RequestException, ValueError) as e:
                raise _away(self.host, type(e).__name__) from None
        claims = self._claims(str(answer.get("id_token") or ""), nonce)
        if self._claim not in claims:
            claims = {**self._user_info(str(answer.get("access_token") or ""), claims), **claims}
        return _owner(claims, self._claim)

    def metadata(self) -> Mapping[str, Any]:
        """The provider's own description. Raises CloudPushError."""
        with self._lock:
            at, found = self._metadata
            if time.monotonic() - at < METADATA_SECONDS:
                return found
            found = self._read(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self._issuer:
                raise SettingsError(
                    Code.SETTINGS_INVALID,
                    f"CLOUDPUSH_WEB_OIDC_ISSUER={self._issuer!r}: the provider calls itself {str(found.get('issuer'))[:200]!r}",
                    field="CLOUDPUSH_WEB_OIDC_ISSUER",
                )
            self._metadata = (time.monotonic(), found)
            return found

    def _endpoint(self, name: str) -> str:
        url = str(self.metadata().get(name) or "")
        if urlsplit(url).scheme != "https" and not (_local(url) and _local(self._issuer)):
            raise CloudPushError(Code.PROVIDER_UNAVAILABLE, f"The sign-in provider {self.host} names no usable {name}.")
        return url

    def _session(self, *, scope: str) -> Any:
        secret = self._secret()
        methods = self.metadata().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        session = _Session(  # type: ignore[call-arg]
            client_id=self._client_id,
            client_secret=secret or None,
            token_endpoint_auth_method=method if secret else "none",
            scope=scope,
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            default_timeout=TIMEOUT,
        )
        session.trust(_ca_file())
        return session

    def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        """What a checked identity token says."""
        if not token:
            raise _refused("The provider sent no identity token.")
        try:
            claims = self._decoded(token, fresh=False)
        except (JoseError, ValueError):
            claims = self._checked(token)
        registry = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
        )
        try:
            registry.validate(claims)
        except JoseError as e:
            raise _refused("The identity token is not for us, or not of now.", str(e)) from None
        if not same(str(claims.get("nonce", "")), nonce):
            raise _refused("The identity token belongs to another sign-in.")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else self._client_id) != self._client_id:
            raise _refused("The identity token was made for another application.")
        return claims

    def _checked(self, token: str) -> dict[str, Any]:
        """Once more, with the provider's keys of now: it may have changed them."""
        try:
            return self._decoded(token, fresh=True)
        except (JoseError, ValueError) as e:
            raise _refused("The identity token's signature does not hold.", type(e).__name__) from None

    def _decoded(self, token: str, *, fresh: bool) -> dict[str, Any]:
        return dict(jwt.decode(token, self._key_set(fresh=fresh), algorithms=ALGORITHMS).claims)

    def _key_set(self, *, fresh: bool) -> KeySet:
        with self._lock:
            at, found = self._keys
            old = time.monotonic() - at >= (KEYS_SECONDS if fresh else METADATA_SECONDS)
            if found is not None and not old:
                return found
        listed = self._read(self._endpoint("jwks_uri"))
        try:
            read = KeySet.import_key_set(listed)  # type: ignore[arg-type]
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as e:
            raise _away(self.host, type(e).__name__) from None
        with self._lock:
            self._keys = (time.monotonic(), read)
        return read

    def _user_info(self, access_token: str, claims: Mapping[str, Any]) -> Mapping[str, Any]:
        """Some providers tell the rest only here. It has to be about the same person."""
        if not access_token or not self.metadata().get("userinfo_endpoint"):
            return {}
        found = self._read(self._endpoint("userinfo_endpoint"), {"authorization": f"Bearer {access_token}"})
        if found.get("sub") != claims["sub"]:
            raise _refused("The provider spoke of two different people.")
        return found

    def _read(self, url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A JSON document. Raises CloudPushError."""
        with Careful() as session:
            session.trust(_ca_file())
            try:
                answer = session.get(url, headers=dict(headers or {}), timeout=TIMEOUT)
                found = json.loads(answer.content) if answer.status_code == 200 else None
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as e:
                raise _away(self.host, type(e).__name__) from None
        if not isinstance(found, dict):
            raise _away(self.host, f"status {answer.status_code}")
        return found

    def _rejected(self, error: str, description: str) -> CloudPushError:
        if error in ("invalid_client", "unauthorized_client"):
            return CloudPushError(
                Code.CLIENT_REJECTED,
                f"The sign-in provider {self.host} does not accept CloudPush's client id or secret.",
                detail=redact(f"{error} {description}", limit=300),
            )
        return _refused("The provider did not accept the code that it had sent.", f"{error} {description}")


def _owner(claims: Mapping[str, Any], claim: str) -> str:
    value = claims.get(claim)
    owner = value.strip() if isinstance(value, str) else ""
    if not owner:
        raise _refused(f"The provider does not say who you are: the claim {claim!r} is missing.")
    if trouble := trouble_with(owner):
        raise _refused(f"The provider calls you by a name that cannot be used here: it {trouble}.")
    if claim == "email" and claims.get("email_verified") in (False, "false"):
        raise _refused("The provider has not verified your e-mail address.")
    return owner


def _ca_file() -> str:
    return ssl.get_default_verify_paths().cafile or ""


def _local(url: str) -> bool:
    """Whether it never leaves this machine, so that TLS adds nothing."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")


def _refused(text: str, detail: str = "") -> InputError:
    return InputError(Code.SIGN_IN_REFUSED, text, detail=redact(detail.strip(), limit=300))


def _away(host: str, how: str) -> CloudPushError:
    return CloudPushError(
        Code.PROVIDER_UNAVAILABLE,
        f"The sign-in provider {host} does not answer as it should.",
        detail=how,
    )
