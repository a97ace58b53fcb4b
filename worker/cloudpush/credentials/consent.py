"""The provider's half of a consent, by Authlib: where the browser goes, tokens for its code, and who consented.

Identity tokens are judged here although they come straight from the provider (OpenID Connect Core §3.1.3.7): signature
by the provider's published keys, issuer, audience, time, and the nonce that ties them to one browser. ``none`` and
symmetric algorithms are not among those that are taken. No error holds a code, a verifier or a token: what Authlib and
requests raise carries them, and goes no further than this module.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey, import_key

from cloudpush.credentials.answers import ClientSecrets, Errors, client_auth, reduced, tokens_of
from cloudpush.credentials.oauth import HttpTokenEndpoint
from cloudpush.credentials.wire import CONNECT_SECONDS, READ_SECONDS, Careful, asked, origin_of
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.consenting import Asking, Identity
from cloudpush.push.grants.judging import TENANT, is_issuer
from cloudpush.push.grants.model import Provider, Tokens
from cloudpush.push.grants.refusals import shown

#: Signatures that are taken: asymmetric ones.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
#: A provider's clock and ours may differ by so much.
LEEWAY_SECONDS = 60
#: Keys are asked for again after so long, and no sooner than so long after, for a key that nobody has seen.
KEYS_SECONDS = 3600.0
UNKNOWN_KEY_SECONDS = 30.0
#: Characters of what an identity token calls somebody.
NAMED = 200
#: What it knows somebody by (OpenID Connect Core §2): stored, compared, shown in pages and on terminals.
_SUBJECT = re.compile(r"[ -~]{1,255}")
TIMEOUT = (CONNECT_SECONDS, READ_SECONDS)

#: The provider's ``error`` at the token endpoint → our code and words.
_ERRORS: Errors = {
    "invalid_grant": (
        Code.CONSENT_FAILED,
        "{title} does not take the code that came back: it was used, is too old, or was made for another browser.",
    ),
    "invalid_client": (Code.CLIENT_REJECTED, "{title} does not know CloudPush's client id or secret."),
    "unauthorized_client": (Code.CLIENT_REJECTED, "{title} does not let CloudPush use this flow."),
    "invalid_scope": (Code.CLIENT_REJECTED, "{title} does not know, or does not allow, a permission that we ask for."),
    "temporarily_unavailable": (Code.PROVIDER_UNAVAILABLE, "{title} is not available just now."),
    "server_error": (Code.PROVIDER_UNAVAILABLE, "{title} had an error of its own."),
    "slow_down": (Code.THROTTLED, "{title} wants fewer requests."),
    "": (Code.CONSENT_FAILED, "{title} refused to give tokens."),
}


class _Session(Careful, OAuth2Session):  # type: ignore[misc]
    """Authlib's session, as careful as ours."""


def _session(provider: Provider, **client: Any) -> Any:
    """One for a request to ``provider``. Authlib says nothing of types."""
    session = _Session(client_id=provider.client_id, **client)  # type: ignore[call-arg]
    session.arm(provider)
    return session


class AuthlibConsent:
    """``push.grants.consenting.ConsentClient``. Thread-safe: each request has a session of its own."""

    def __init__(self, clients: ClientSecrets, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clients = clients
        self._endpoint = HttpTokenEndpoint(clients, now=now)
        self._now = now
        self._keys = ProviderKeys()

    def authorization_url(self, asking: Asking) -> str:
        """See the port."""
        provider = asking.provider
        extra = dict(provider.parameters)
        if "openid" in asking.scopes:
            extra["nonce"] = asking.nonce
        with _session(provider, code_challenge_method="S256") as session:
            url, _ = session.create_authorization_url(
                provider.authorization_endpoint,
                state=asking.state,
                code_verifier=asking.verifier,
                redirect_uri=asking.redirect_uri,
                scope=" ".join(asking.scopes),
                **extra,
            )
        return str(url)

    def exchange(self, provider: Provider, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """See the port."""
        secret, body, auth = client_auth(provider, self._clients)
        url, now, sent = provider.token_endpoint, self._now(), (code, verifier, secret)
        with _session(provider) as session:
            session.register_compliance_hook(
                "access_token_response", lambda answer: reduced(answer, provider, sent, _ERRORS)
            )
            found = asked(
                url,
                lambda: session.fetch_token(
                    url,
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=verifier,
                    redirect_uri=redirect_uri,
                    auth=auth or _as_it_is,
                    timeout=TIMEOUT,
                    **body,
                ),
            )
        return tokens_of(found, now)

    def identify(self, provider: Provider, tokens: Tokens, nonce: str) -> Identity:
        """See the port."""
        if not tokens.id_token:
            raise _distrusted(provider, "is missing")
        try:
            read = self._read(provider, tokens.id_token)
        except (JoseError, ValueError) as e:
            failed = _distrusted(provider, f"does not verify ({type(e).__name__})")
        else:
            return self._judged(provider, read, tokens, nonce)
        raise failed  # outside the handler: the cause may quote the token

    def revoke(self, provider: Provider, tokens: Tokens) -> bool:
        """See the port."""
        return self._endpoint.revoke(provider, tokens)

    def _read(self, provider: Provider, token: str) -> jwt.Token:
        """The identity token, verified by a key of the provider's; keys are asked for anew once where none fits."""
        keys, fresh = self._keys.of(provider, anew=False)
        try:
            return jwt.decode(token, keys, algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            if fresh:
                raise
        keys, _ = self._keys.of(provider, anew=True)
        return jwt.decode(token, keys, algorithms=ALGORITHMS)

    def _judged(self, provider: Provider, read: jwt.Token, tokens: Tokens, nonce: str) -> Identity:
        claims = CodeIDToken(
            read.claims,
            read.header,
            {"aud": {"essential": True, "value": provider.client_id}},
            {"nonce": nonce, "client_id": provider.client_id, "access_token": tokens.access_token},
        )
        try:
            claims.validate(now=int(self._now().timestamp()), leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError) as e:
            wrong = getattr(e, "claim", "") or type(e).__name__
        else:
            wrong = _wrong(provider, claims)
        if wrong:
            raise _distrusted(provider, f"is not the one that was asked for ({wrong})")
        verified = claims.get("email_verified") in (True, "true", None)
        account = (
            (claims.get("email") if verified else "") or claims.get("preferred_username") or claims.get("name") or ""
        )
        return Identity(subject=str(claims["sub"]), account=shown(str(account))[:NAMED])


class ProviderKeys:
    """The providers' public keys, kept for a while. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._known: dict[str, tuple[float, KeySet]] = {}

    def of(self, provider: Provider, *, anew: bool) -> tuple[KeySet, bool]:
        """The keys, and whether they were asked for just now. ``anew``: unless that was a moment ago.

        Raises CloudPushError: the way there failed, or what is there are no keys.
        """
        if not provider.jwks_uri:
            raise CloudPushError(
                Code.CLIENT_REJECTED,
                f"Nothing says where {provider.title} publishes its keys: the operator has to set jwks_uri or discovery.",
            )
        with self._lock:  # held for a moment: a slow provider keeps nobody from the others
            asking = self._asking.setdefault(provider.jwks_uri, threading.Lock())
        with asking:
            at, keys = self._known.get(provider.jwks_uri, (0.0, None))
            if keys is not None and self._clock() - at < (UNKNOWN_KEY_SECONDS if anew else KEYS_SECONDS):
                return keys, False
            keys = _fetch_keys(provider)
            self._known[provider.jwks_uri] = self._clock(), keys
            return keys, True


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """No authentication beside the body's; without any, Authlib adds what it thinks fit."""
    return request


def _wrong(provider: Provider, claims: Mapping[str, Any]) -> str:
    """The first claim that Authlib does not judge as we need it."""
    tenant = str(claims.get("tid", "")) if TENANT in provider.issuer else ""
    if TENANT in provider.issuer and not tenant:
        return "tid"
    if not is_issuer(provider.issuer, str(claims.get("iss", "")), tenant):
        return "iss"
    return "" if isinstance(claims["sub"], str) and _SUBJECT.fullmatch(claims["sub"]) else "sub"


def _distrusted(provider: Provider, why: str) -> CloudPushError:
    return CloudPushError(
        Code.CONSENT_FAILED,
        f"{provider.title} did not say who you are in a way that can be trusted: its identity token {why}.",
    )


def _fetch_keys(provider: Provider) -> KeySet:
    with Careful() as session:
        session.arm(provider)

        def ask() -> tuple[int, bytes]:
            answer = session.get(provider.jwks_uri, headers={"Accept": "application/json"}, timeout=TIMEOUT)
            return answer.status_code, answer.content

        status, body = asked(provider.jwks_uri, ask)
    try:
        listed = json.loads(body)["keys"] if status == 200 else []
    except (ValueError, TypeError, KeyError, RecursionError):
        listed = []
    keys = [key for key in map(_key, listed if isinstance(listed, list) else []) if key is not None]
    if keys:
        return KeySet([*keys])
    raise CloudPushError(
        Code.PROVIDER_UNAVAILABLE, f"What {origin_of(provider.jwks_uri)} answers are not the keys of {provider.title}."
    )


def _key(data: Any) -> RSAKey | ECKey | OKPKey | None:
    """A public key that verifies; None for what we do not know: it is no reason to go without the others."""
    try:
        key = import_key(data)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key if isinstance(key, RSAKey | ECKey | OKPKey) else None
