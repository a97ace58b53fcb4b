"""Speaking OAuth with providers that are broken or hostile, and identity tokens that are not what they seem."""

from __future__ import annotations

import base64
import hmac
import json
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from cloudpush.credentials import consent as module
from cloudpush.credentials.consent import AuthlibConsent, ProviderKeys
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.consenting import Asking
from cloudpush.push.grants.model import Provider, Tokens
from doubles.oauth_server import CLIENT_ID, OAuthServer, Trouble

CODE, VERIFIER, SECRET = "canary-code-000000000001", "canary-verifier-" + "v" * 27, "canary/secret:%41+0001"
REDIRECT = "https://push.example.org/consent/callback"
ISSUER, NONCE = "https://lab.example.org", "n" * 43
NOW = datetime.now(UTC)
GOOD = {"access_token": "canary-access-token", "token_type": "Bearer", "expires_in": 3600}


class Secrets:
    """Client secrets by name."""

    def __init__(self, secret: str = SECRET) -> None:
        self._secret = secret

    def secret(self, name: str) -> str:
        return self._secret


@pytest.fixture
def server() -> Iterator[OAuthServer]:
    with OAuthServer(client_secret=SECRET, token_auth="client_secret_basic") as running:
        yield running


def answered(server: OAuthServer, answer: object, status: int = 200, **headers: str) -> None:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    server.troubles.append(Trouble(status, body, headers))


def exchange(provider: Provider, secret: str = SECRET) -> Tokens:
    client = AuthlibConsent(Secrets(secret), now=lambda: NOW)
    return client.exchange(provider, CODE, VERIFIER, REDIRECT)


# -- where the browser goes -----------------------------------------------------------------------


def test_the_authorization_request_has_what_was_asked_and_what_the_operator_adds() -> None:
    provider = OAuthServer().provider(
        scopes=("openid", "a b"[:1]),
        parameters={"access_type": "offline"},
        authorization_endpoint=f"{ISSUER}/auth?tenant=1",
    )
    url = AuthlibConsent(Secrets()).authorization_url(
        Asking(provider, REDIRECT, provider.scopes, "state", NONCE, VERIFIER)
    )
    query = parse_qs(urlsplit(url).query)
    challenge = query.pop("code_challenge")[0]
    assert query == {
        "tenant": ["1"],
        "response_type": ["code"],
        "client_id": [CLIENT_ID],
        "redirect_uri": [REDIRECT],
        "scope": ["openid a"],
        "state": ["state"],
        "nonce": [NONCE],
        "code_challenge_method": ["S256"],
        "access_type": ["offline"],
    }
    assert len(challenge) == 43
    assert VERIFIER not in url


# -- code for tokens --------------------------------------------------------------------------------


@pytest.mark.parametrize("token_auth", ["client_secret_basic", "client_secret_post", "none"])
def test_a_code_is_spent_in_the_way_that_the_client_is_registered(server: OAuthServer, token_auth: str) -> None:
    server.token_auth = token_auth
    answered(server, GOOD | {"refresh_token": "r", "scope": "a b", "id_token": "i"})
    tokens = exchange(server.provider())
    path, form, headers = server.requests[0]
    assert path == "/token"
    assert {k: form[k] for k in ("grant_type", "code", "code_verifier", "redirect_uri")} == {
        "grant_type": "authorization_code",
        "code": CODE,
        "code_verifier": VERIFIER,
        "redirect_uri": REDIRECT,
    }
    if token_auth == "none":
        assert "client_secret" not in form
    else:
        assert server.admits(form, headers.get("Authorization", ""))
    assert tokens == Tokens(GOOD_ACCESS, "r", NOW + timedelta(hours=1), NOW, "a b", "i")


GOOD_ACCESS = str(GOOD["access_token"])


@pytest.mark.parametrize(
    ("expires_in", "seconds"), [("3600", 3600), (10, 10), (None, None), ("soon", None), (-5, 1), (1e300, 315360000)]
)
def test_an_expiry_that_makes_no_sense_is_none(server: OAuthServer, expires_in: object, seconds: int | None) -> None:
    answered(server, GOOD | {"expires_in": expires_in})
    assert exchange(server.provider()).expires_at == (None if seconds is None else NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (400, {"error": "invalid_grant", "error_description": f"{CODE} {VERIFIER}"}, Code.CONSENT_FAILED),
        (401, {"error": "invalid_client", "error_description": f"{SECRET}"}, Code.CLIENT_REJECTED),
        (400, {"error": "unauthorized_client"}, Code.CLIENT_REJECTED),
        (400, {"error": "whatever"}, Code.CONSENT_FAILED),
        (400, {"error": ["a"], "error_description": {"b": CODE}}, Code.CONSENT_FAILED),
        (400, {"error": "slow_down"}, Code.THROTTLED),
        (429, b"later", Code.THROTTLED),
        (503, b"<html>canary</html>", Code.PROVIDER_UNAVAILABLE),
        (200, b"<html>canary</html>", Code.PROVIDER_UNAVAILABLE),
        (200, [GOOD], Code.PROVIDER_UNAVAILABLE),
        (200, {"token_type": "Bearer"}, Code.PROVIDER_UNAVAILABLE),
        (200, GOOD | {"access_token": 7}, Code.PROVIDER_UNAVAILABLE),
        (200, GOOD | {"token_type": "mac"}, Code.PROVIDER_UNAVAILABLE),
        pytest.param(200, b"[" * 100_000, Code.PROVIDER_UNAVAILABLE, id="deep"),
        (404, b"", Code.PROVIDER_UNAVAILABLE),
    ],
)
def test_a_bad_answer_is_an_error_of_ours_that_holds_nothing_of_what_was_sent(
    server: OAuthServer, status: int, answer: object, code: Code
) -> None:
    answered(server, answer, status)
    with pytest.raises(CloudPushError) as caught:
        exchange(server.provider())
    assert caught.value.code is code
    told = "".join(traceback.format_exception(caught.value)) + caught.value.detail
    assert "canary" not in told.replace("canary_", "")


def test_a_redirect_is_not_followed_and_the_code_goes_nowhere_else(server: OAuthServer) -> None:
    with OAuthServer() as evil:
        answered(server, b"", 307, Location=f"{evil.url}/token")
        with pytest.raises(CloudPushError) as caught:
            exchange(server.provider())
        assert (caught.value.code, evil.requests) == (Code.PROVIDER_UNAVAILABLE, [])


def test_an_answer_without_end_is_read_within_bounds(server: OAuthServer) -> None:
    server.troubles.append(Trouble(200, b"", drip=True))
    with pytest.raises(CloudPushError) as caught:
        exchange(server.provider())
    assert caught.value.code is Code.PROVIDER_UNAVAILABLE


def test_no_answer_is_an_error_of_the_way_there(server: OAuthServer) -> None:
    server.troubles.append(Trouble(drop=True))
    with pytest.raises(CloudPushError) as caught:
        exchange(server.provider())
    assert caught.value.code is Code.NETWORK
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_a_proxy_of_the_environment_gets_nothing(server: OAuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with OAuthServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        answered(server, GOOD)
        assert exchange(server.provider()).access_token == GOOD_ACCESS
        assert not proxy.requests


def test_without_a_client_secret_nothing_is_sent_and_the_operator_is_told(server: OAuthServer) -> None:
    with pytest.raises(CloudPushError, match="set-secret box") as caught:
        exchange(server.provider(), secret="")
    assert (caught.value.code, server.requests) == (Code.CLIENT_REJECTED, [])


# -- identity tokens ---------------------------------------------------------------------------------

KEY = RSAKey.generate_key(2048, {"kid": "one"})
OTHER = RSAKey.generate_key(2048, {"kid": "two"})


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    said = {"iss": ISSUER, "sub": "ada", "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": NONCE}
    return {k: v for k, v in (said | changes).items() if v is not None}


def signed(said: dict[str, Any], key: Any = KEY, alg: str = "RS256", **head: Any) -> Tokens:
    # Not by `jwt.encode`: a hostile provider escapes in JSON what is no Unicode.
    text = jws.serialize_compact({"alg": alg, "kid": "one"} | head, json.dumps(said).encode(), key, algorithms=[alg])
    return Tokens("access", id_token=text)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, server: OAuthServer) -> list[Any]:
    """The keys that the provider publishes; they may be changed. Each time they are asked for, the server notes it."""
    keys: list[Any] = [KEY]
    fetch = module._fetch_keys

    def fetch_now(provider: Provider) -> Any:
        listed = [key.as_dict(private=False) if isinstance(key, RSAKey) else key for key in keys]
        server.troubles.append(Trouble(200, json.dumps({"keys": listed}).encode(), path="/jwks"))
        return fetch(provider)

    monkeypatch.setattr(module, "_fetch_keys", fetch_now)
    return keys


def its(server: OAuthServer, **changes: Any) -> Provider:
    return server.provider(**({"issuer": ISSUER, "jwks_uri": f"{server.url}/jwks", "scopes": ("openid",)} | changes))


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("said", "account"),
    [
        ({"email": "ada@example.org", "email_verified": True}, "ada@example.org"),
        ({"email": "ada@example.org"}, "ada@example.org"),
        ({"email": "boss@example.org", "email_verified": False, "preferred_username": "ada"}, "ada"),
        ({"name": "Ada\x00\u202e L."}, "Ada L."),
        ({}, ""),
    ],
)
def test_who_consented_is_what_a_good_identity_token_says(
    server: OAuthServer, said: dict[str, Any], account: str
) -> None:
    found = AuthlibConsent(Secrets()).identify(its(server), signed(claims(**said)), NONCE)
    assert (found.subject, found.account) == ("ada", account)


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"iss": "https://mallory.example.org"}, "iss"),
        ({"iss": None}, "iss"),
        ({"aud": "somebody-else"}, "aud"),
        ({"aud": [CLIENT_ID, "somebody-else"]}, "azp"),
        ({"aud": [CLIENT_ID, "somebody-else"], "azp": "somebody-else"}, "azp"),
        ({"azp": "somebody-else"}, "azp"),
        ({"exp": 1}, "exp"),
        ({"exp": None}, "exp"),
        ({"iat": int(time.time()) + 3600}, "iat"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "\x1b[2Jada"}, "sub"),
        ({"sub": "\ud800"}, "sub"),
        ({"sub": "a" * 256}, "sub"),
        ({"iss": "\ud800"}, "iss"),
        ({"at_hash": "x" * 22}, "at_hash"),
    ],
)
def test_an_identity_token_with_a_wrong_claim_is_not_believed(
    server: OAuthServer, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(CloudPushError) as caught:
        AuthlibConsent(Secrets()).identify(its(server), signed(claims(**changes)), NONCE)
    assert caught.value.code is Code.CONSENT_FAILED
    assert f"({why})" in caught.value.message


@pytest.mark.usefixtures("published")
def test_a_signature_by_anybody_else_or_by_no_key_is_not_believed(server: OAuthServer) -> None:
    said = claims()
    body = signed(said).id_token.split(".")[1]
    head = json.dumps({"alg": "HS256", "kid": "one"}).encode()
    by_public_key = f"{b64(head)}.{body}"
    tag = hmac.digest(KEY.as_pem(private=False), by_public_key.encode(), "sha256")
    for tokens in (
        signed(said, OTHER),
        signed(said, OTHER, kid="unknown"),
        Tokens("access", id_token=f"{by_public_key}.{b64(tag)}"),
        signed(said, ECKey.generate_key("P-256"), "ES256"),
        Tokens("access", id_token=f"eyJhbGciOiJub25lIn0.{body}."),
        Tokens("access", id_token="no token at all"),
        Tokens("access"),
    ):
        with pytest.raises(CloudPushError) as caught:
            AuthlibConsent(Secrets()).identify(its(server), tokens, NONCE)
        assert caught.value.code is Code.CONSENT_FAILED
        assert body not in "".join(traceback.format_exception(caught.value))


def test_keys_are_asked_for_once_and_again_when_a_new_one_signs(server: OAuthServer, published: list[Any]) -> None:
    now = [0.0]
    client = AuthlibConsent(Secrets())
    client._keys = ProviderKeys(clock=lambda: now[0])
    provider = its(server)
    for _ in range(3):
        client.identify(provider, signed(claims()), NONCE)
    assert len(server.requests) == 1
    published[:] = [OTHER, {"kty": "unknown"}, {"kty": "EC", "crv": "none"}, "no key"]
    with pytest.raises(CloudPushError):  # a moment after the keys came: who sends unknown keys makes us ask no more
        client.identify(provider, signed(claims(), OTHER, kid="two"), NONCE)
    assert len(server.requests) == 1
    now[0] += module.UNKNOWN_KEY_SECONDS
    assert client.identify(provider, signed(claims(), OTHER, kid="two"), NONCE).subject == "ada"
    assert len(server.requests) == 2


@pytest.mark.usefixtures("published")
def test_an_issuer_of_many_tenants_is_the_one_that_the_token_names(server: OAuthServer) -> None:
    tenant, other = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
    provider = its(server, issuer="https://login.example.org/{tenantid}/v2.0")
    issued = f"https://login.example.org/{tenant}/v2.0"
    client = AuthlibConsent(Secrets())
    assert client.identify(provider, signed(claims(iss=issued, tid=tenant)), NONCE).subject == "ada"
    for said in (claims(iss=issued, tid=other), claims(iss=issued), claims(iss=provider.issuer, tid="{tenantid}")):
        with pytest.raises(CloudPushError):
            client.identify(provider, signed(said), NONCE)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_without_keys_nobody_is_believed(server: OAuthServer) -> None:
    for provider, code in ((its(server), Code.PROVIDER_UNAVAILABLE), (its(server, jwks_uri=""), Code.CLIENT_REJECTED)):
        with pytest.raises(CloudPushError) as caught:
            AuthlibConsent(Secrets()).identify(provider, signed(claims()), NONCE)
        assert caught.value.code is code
