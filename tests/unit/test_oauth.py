"""Token endpoints: what is sent, what an answer means, and that nothing of a token gets out."""

from __future__ import annotations

import json
import logging
import socket
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from cloudpush.credentials.answers import quoteless
from cloudpush.credentials.oauth import HttpTokenEndpoint
from cloudpush.errors import CloudPushError, Code, CredentialError
from cloudpush.push.grants.model import Provider, Rotation, Tokens
from doubles.oauth_server import CLIENT_ID, OAuthServer, Trouble

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
CANARY = "rt-canary-refresh-token-0123456789"
SECRET = "canary client+secret/%"


class Secrets:
    def __init__(self, secret: str = "") -> None:
        self._secret = secret

    def secret(self, name: str) -> str:
        return self._secret if name == "box" else ""


@pytest.fixture
def server() -> Iterator[OAuthServer]:
    with OAuthServer(life=600) as server:
        yield server


def endpoint(secret: str = "") -> HttpTokenEndpoint:
    return HttpTokenEndpoint(Secrets(secret), now=lambda: NOW)


def failure(provider: Provider, token: str = CANARY, secret: str = "") -> CloudPushError:
    with pytest.raises(CloudPushError) as caught:
        endpoint(secret).refresh(provider, token)
    return caught.value


@pytest.mark.parametrize("rotation", list(Rotation))
def test_a_refresh_brings_the_next_generation(rotation: Rotation) -> None:
    """With the old refresh token where the provider sends no new one."""
    with OAuthServer(rotation, life=600) as server:
        first = server.grant()
        fresh = endpoint().refresh(server.provider(), first.refresh_token)

        assert (fresh.issued_at, fresh.expires_at, fresh.scope) == (NOW, NOW + timedelta(seconds=600), first.scope)
        assert server.is_good(fresh.access_token)
        assert (fresh.access_token != first.access_token, fresh.refresh_token == first.refresh_token) == (
            True,
            rotation is Rotation.NEVER,
        )


@pytest.mark.parametrize("token_auth", ["none", "client_secret_post", "client_secret_basic"])
def test_the_client_says_who_it_is_in_the_one_way_that_is_registered(token_auth: str) -> None:
    """Characters that forms and headers encode included; nothing beside it is sent."""
    secret = SECRET if token_auth != "none" else ""
    with OAuthServer(token_auth=token_auth, client_secret=secret) as server:
        first = server.grant()
        fresh = endpoint(secret).refresh(server.provider(), first.refresh_token)
        told = endpoint(secret).revoke(server.provider(), fresh)
        (path, form, headers), (path2, form2, headers2) = server.requests

    who = {"none": {"client_id"}, "client_secret_post": {"client_id", "client_secret"}}.get(token_auth, set())
    assert (path, set(form)) == ("/token", {"grant_type", "refresh_token"} | who)
    assert (path2, set(form2), told) == ("/revoke", {"token", "token_type_hint"} | who, True)
    assert [("Authorization" in h) for h in (headers, headers2)] == [token_auth == "client_secret_basic"] * 2


def test_a_client_secret_that_is_missing_is_told_before_anything_is_sent(server: OAuthServer) -> None:
    """With what to do."""
    error = failure(server.provider(token_auth="client_secret_post"))

    assert (error.code, "provider set-secret box" in error.message, server.requests) == (Code.CLIENT_REJECTED, True, [])


ANSWERS: dict[str, tuple[Trouble, Code]] = {
    "invalid_grant": (Trouble(400, b'{"error": "invalid_grant"}'), Code.CONSENT_NEEDED),
    "invalid_grant with 200": (Trouble(200, b'{"error": "invalid_grant"}'), Code.CONSENT_NEEDED),
    "invalid_rapt": (
        Trouble(400, b'{"error": "invalid_grant", "error_subtype": "invalid_rapt"}'),
        Code.CONSENT_NEEDED,
    ),
    "interaction_required": (Trouble(400, b'{"error": "interaction_required"}'), Code.CONSENT_NEEDED),
    "invalid_scope": (Trouble(400, b'{"error": "invalid_scope"}'), Code.CONSENT_NEEDED),
    "invalid_client": (Trouble(401, b'{"error": "invalid_client"}'), Code.CLIENT_REJECTED),
    "unauthorized_client": (Trouble(400, b'{"error": "unauthorized_client"}'), Code.CLIENT_REJECTED),
    "unsupported_grant_type": (Trouble(400, b'{"error": "unsupported_grant_type"}'), Code.CLIENT_REJECTED),
    "401 without words": (Trouble(401, b""), Code.CLIENT_REJECTED),
    "429": (Trouble(429, b"slow"), Code.THROTTLED),
    "slow_down": (Trouble(400, b'{"error": "slow_down"}'), Code.THROTTLED),
    "500": (Trouble(500, b"<html>"), Code.PROVIDER_UNAVAILABLE),
    "503": (Trouble(503, b"{}"), Code.PROVIDER_UNAVAILABLE),
    "temporarily_unavailable": (Trouble(400, b'{"error": "temporarily_unavailable"}'), Code.PROVIDER_UNAVAILABLE),
    "404": (Trouble(404, b"<html>"), Code.PROVIDER_UNAVAILABLE),
    "redirect": (Trouble(307, b"", {"Location": "https://evil.example/"}), Code.PROVIDER_UNAVAILABLE),
    "no JSON": (Trouble(200, b"access_token=x"), Code.PROVIDER_UNAVAILABLE),
    "no token": (Trouble(200, b"{}"), Code.PROVIDER_UNAVAILABLE),
    "no text for a token": (Trouble(200, b'{"access_token": 7}'), Code.PROVIDER_UNAVAILABLE),
    "another kind of token": (
        Trouble(200, b'{"access_token": "x", "token_type": "mac"}'),
        Code.PROVIDER_UNAVAILABLE,
    ),
    "nested without end": (Trouble(200, b"[" * 100_000), Code.PROVIDER_UNAVAILABLE),
    "without end": (Trouble(200, drip=True), Code.PROVIDER_UNAVAILABLE),
    "nothing": (Trouble(drop=True), Code.NETWORK),
    "the answer lost": (Trouble(drop=True, after=True), Code.NETWORK),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_an_answer_means(server: OAuthServer, case: str) -> None:
    """A dead token is told apart from a wrong client and from what passes."""
    trouble, code = ANSWERS[case]
    server.troubles = [trouble]

    error = failure(server.provider(), server.grant().refresh_token)

    assert (error.code, isinstance(error, CredentialError)) == (code, code is Code.CONSENT_NEEDED)
    assert all(path == "/token" for path, _, _ in server.requests)  # no redirect was followed


def test_a_dead_token_is_told_in_words_for_its_user(server: OAuthServer) -> None:
    """Not in those of a specification."""
    server.troubles = [ANSWERS["invalid_grant"][0], ANSWERS["invalid_rapt"][0]]

    assert [failure(server.provider()).message for _ in range(2)] == [
        "Test Box no longer accepts this connection: it was revoked, it expired, or it was replaced by a later one.",
        "Your organisation wants you to sign in at Test Box again from time to time, and that time has come.",
    ]


def test_who_does_not_listen_and_who_has_no_name_is_told() -> None:
    """Nothing was sent there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with OAuthServer() as server:
        refused = failure(server.provider(token_endpoint=f"http://127.0.0.1:{port}/token"))
        unknown = failure(server.provider(token_endpoint="https://nowhere.invalid/token"))
        untrusted = failure(server.provider(token_endpoint=f"{server.url.replace('http', 'https')}/token"))
        forbidden = failure(server.provider(token_endpoint="http://box.example/token"))

    assert [e.code for e in (refused, unknown, untrusted, forbidden)] == [
        Code.ENDPOINT_REFUSED,
        Code.ENDPOINT_UNRESOLVABLE,
        Code.TLS_FAILED,
        Code.CLIENT_REJECTED,
    ]


HOSTILE = json.dumps(
    {"error": "invalid_grant", "error_description": f"unknown: {CANARY} or {CANARY[8:22]}, {SECRET}"}
).encode()


@pytest.mark.parametrize(
    "trouble",
    [
        *(trouble for trouble, _ in ANSWERS.values()),
        Trouble(400, HOSTILE),
        Trouble(500, HOSTILE),
        Trouble(200, json.dumps({"access_token": CANARY, "token_type": CANARY}).encode()),
        Trouble(302, b"", {"Location": f"/?token={CANARY}"}),
    ],
)
def test_nothing_of_a_token_is_in_an_error_its_causes_or_the_log(
    server: OAuthServer, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a piece of it either, as a provider may quote it; nor the client secret. The library's log says nothing."""
    caplog.set_level(logging.DEBUG)
    server.troubles = [trouble]

    error = failure(server.provider(token_auth="client_secret_post"), CANARY, SECRET)

    told = [error.message, error.detail, repr(error), "".join(traceback.format_exception(error)), caplog.text]
    leaks = [piece for piece in (CANARY, CANARY[8:22], SECRET, "canary") for text in told if piece in text]
    assert (leaks, error.__cause__, error.__context__) == ([], None, None)


def test_nothing_of_a_token_is_in_the_log_of_a_refresh(server: OAuthServer, caplog: pytest.LogCaptureFixture) -> None:
    """At level debug the library writes both the request and the answer."""
    caplog.set_level(logging.DEBUG)
    first = server.grant()
    fresh = endpoint().refresh(server.provider(), first.refresh_token)

    secrets = (first.refresh_token, first.access_token, fresh.refresh_token, fresh.access_token)
    assert [s for s in secrets if s in caplog.text + repr(fresh)] == []


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(3599, 3599), ("3600", 3600), (10.9, 10), (-5, 1), (1e99, 315360000), ("soon", None), (None, None), ([], None)],
)
def test_a_life_is_read_however_it_is_written(server: OAuthServer, given: object, seconds: int | None) -> None:
    """No sense in it: unknown."""
    server.extra = {"expires_in": given}
    fresh = endpoint().refresh(server.provider(), server.grant().refresh_token)

    assert fresh.expires_at == (None if seconds is None else NOW + timedelta(seconds=seconds))


def test_an_id_token_is_kept_and_nothing_else_of_an_answer(server: OAuthServer) -> None:
    """For providers whose identity tokens a cloud trusts."""
    server.extra = {"id_token": "eyJ.canary.x", "scope": "a b", "surprise": {"x": [1]}, "refresh_token": ""}
    first = server.grant()
    fresh = endpoint().refresh(server.provider(), first.refresh_token)

    assert (fresh.id_token, fresh.scope, fresh.refresh_token) == ("eyJ.canary.x", "a b", first.refresh_token)


def test_revoking_ends_the_grant_and_is_repeatable(server: OAuthServer) -> None:
    """By the refresh token where there is one; a token that is dead already is no failure."""
    first, second = server.grant(), server.grant()
    short = Tokens(second.access_token)
    told = [endpoint().revoke(server.provider(), t) for t in (first, first, short, Tokens("unknown"))]

    assert (told, server.lives(first.refresh_token), server.is_good(second.access_token)) == ([True] * 4, False, False)
    assert [(f["token_type_hint"], f["client_id"]) for _, f, _ in server.requests] == [
        ("refresh_token", CLIENT_ID),
        ("refresh_token", CLIENT_ID),
        ("access_token", CLIENT_ID),
        ("access_token", CLIENT_ID),
    ]


def test_a_provider_without_a_way_to_revoke_is_not_asked(server: OAuthServer) -> None:
    """The user is told where to do it."""
    assert (endpoint().revoke(server.provider(revocation_endpoint=""), server.grant()), server.requests) == (False, [])


def test_a_revocation_that_fails_is_told(server: OAuthServer) -> None:
    """It is tried again."""
    server.troubles = [
        Trouble(503, path="/revoke"),
        Trouble(401, b"{}", path="/revoke"),
        Trouble(drop=True, path="/revoke"),
    ]
    codes = []
    for _ in range(3):
        with pytest.raises(CloudPushError) as caught:
            endpoint().revoke(server.provider(), Tokens("at", CANARY))
        codes.append(caught.value.code)

    assert codes == [Code.PROVIDER_UNAVAILABLE, Code.CLIENT_REJECTED, Code.NETWORK]


def test_words_lose_what_is_a_secrets_however_it_was_cut() -> None:
    """And keep the rest."""
    words = quoteless(
        f"AADSTS700082: token {CANARY[3:30]}… has\nexpired, {CANARY}; see https://box.example/help", CANARY
    )

    assert words == "AADSTS700082: token [redacted]… has expired, [redacted]; see https://box.example/help"
