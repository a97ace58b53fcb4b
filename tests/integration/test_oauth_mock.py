"""The demo's provider behaves as a provider in what matters: registered clients, exact redirect URIs, dead tokens."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator

import pytest
import requests

import servers
from cloudpush.cli.demo_visitor import Visitor
from cloudpush.stack.oauth_mock import OAuthClient, OAuthMock

CALLBACK = "http://127.0.0.1:1/consent/callback"
USER = "alice@example.org"


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OAuthMock]:
    with servers.running(OAuthMock(tmp_path_factory.mktemp("mock"), users=[USER])) as server:
        yield server


@pytest.fixture(scope="module")
def client(mock: OAuthMock) -> OAuthClient:
    return mock.register(CALLBACK)


def ask(mock: OAuthMock, client: str, callback: str = CALLBACK) -> str:
    query = f"response_type=code&client_id={client}&redirect_uri={callback}&scope=openid+email&state=s"
    return f"{mock.issuer}/oauth2/authorize?{query}"


def tokens(mock: OAuthMock, client: OAuthClient, **fields: str) -> requests.Response:
    return requests.post(
        f"{mock.issuer}/oauth2/token", data=fields, auth=(client.id, client.secret), timeout=10, proxies={}
    )


def code(mock: OAuthMock, client: OAuthClient) -> str:
    """What a consent of USER gives."""
    sent = requests.post(ask(mock, client.id), data={"sub": USER}, allow_redirects=False, timeout=10)
    return sent.headers["Location"].partition("code=")[2].partition("&")[0]


def test_only_registered_clients_and_addresses_are_served(mock: OAuthMock, client: OAuthClient) -> None:
    visitor = Visitor()

    answers = [
        visitor.go(url).status
        for url in (ask(mock, client.id), ask(mock, "another"), ask(mock, client.id, CALLBACK + "/../evil"))
    ]

    assert answers == [200, 400, 400]


def test_users_have_a_button_each(mock: OAuthMock, client: OAuthClient) -> None:
    page = Visitor().go(ask(mock, client.id))

    assert USER in [words for form in page.forms for words in form.buttons]


def test_tokens_are_dead_once_their_user_says_so(mock: OAuthMock, client: OAuthClient) -> None:
    """As on a provider's own page: the next refresh gets `invalid_grant`."""
    given = tokens(mock, client, grant_type="authorization_code", code=code(mock, client), redirect_uri=CALLBACK).json()
    refreshed = tokens(mock, client, grant_type="refresh_token", refresh_token=given["refresh_token"])
    mock.revoke_tokens(USER)
    dead = tokens(mock, client, grant_type="refresh_token", refresh_token=given["refresh_token"])

    assert (refreshed.status_code, dead.status_code, dead.json()["error"]) == (200, 400, "invalid_grant")


def test_identity_tokens_name_their_key(mock: OAuthMock, client: OAuthClient) -> None:
    """As AWS and SeaweedFS demand; the key is in the set that the issuer publishes."""
    given = tokens(mock, client, grant_type="authorization_code", code=code(mock, client), redirect_uri=CALLBACK).json()
    head = json.loads(urlsafe_b64decode(given["id_token"].partition(".")[0] + "=="))
    keys = requests.get(f"{mock.issuer}/jwks", timeout=10).json()["keys"]

    assert head["kid"] in {key["kid"] for key in keys}


def test_a_secret_is_shown_by_no_repr(client: OAuthClient) -> None:
    assert client.secret not in repr(client)
