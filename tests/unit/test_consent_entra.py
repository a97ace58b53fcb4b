"""Entra ID as it ships in config/providers.toml, before a server that stands for it: whose account it is, and of which tenant."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from cloudpush.credentials.consent import AuthlibConsent
from cloudpush.credentials.providers import read_providers
from cloudpush.errors import Code
from cloudpush.push.grants.consenting import Consenting, Outcome
from cloudpush.push.grants.model import Provider
from cloudpush.settings import Settings
from doubles.oauth_server import OAuthServer, Trouble
from fakes import FakeClock
from fakes_consent import CALLBACK, SESSION, FakeProviders, FakeSealer
from fakes_grants import FakeGrantStore

TENANT, ELSEWHERE = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
ISSUER = "https://login.microsoftonline.com/{tenantid}/v2.0"
ANSWERS = {"account": "labresults"}
KEY = RSAKey.generate_key(2048, {"kid": "one"})


class Entra:
    """Two people's browsers, and what the endpoints say."""

    def __init__(self, server: OAuthServer, shipped: Provider) -> None:
        self.server = server
        self.provider = replace(shipped, token_endpoint=f"{server.url}/token", jwks_uri=f"{server.url}/jwks")
        self.store = FakeGrantStore(FakeClock())
        client = AuthlibConsent(Secrets())
        self.consenting = Consenting(
            self.store, FakeProviders(self.provider), client, FakeSealer(), self.store.clock, CALLBACK
        )
        keys = json.dumps({"keys": [KEY.as_dict(private=False)]}).encode()
        server.troubles.append(Trouble(200, keys, path="/jwks"))

    def connect(
        self, *, sub: str = "ada", tid: str = TENANT, issuer_of: str = TENANT, again: Outcome | None = None
    ) -> Outcome:
        """One way there and back as ``sub`` of the tenant ``tid``, by a token that ``issuer_of`` signed."""
        reconnect = again.grant_id if again else None
        url = self.consenting.begin(SESSION, "ada", "azure", "", {} if reconnect else ANSWERS, reconnect).url
        asked = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
        now = int(time.time())
        said = {
            "iss": ISSUER.replace("{tenantid}", issuer_of),
            "aud": self.provider.client_id,
            "sub": sub,
            "tid": tid,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
        }
        answer = {
            "access_token": "access",
            "refresh_token": "refresh",
            "token_type": "Bearer",
            "expires_in": 3600,
            "scope": "https://storage.azure.com/user_impersonation",
            "id_token": jwt.encode({"alg": "RS256", "kid": "one"}, said, KEY),
        }
        self.server.troubles.append(Trouble(200, json.dumps(answer).encode()))
        return self.consenting.complete(SESSION, "azure", {"code": "code", "state": asked["state"]})


class Secrets:
    """CloudPush's own at Entra ID."""

    def secret(self, name: str) -> str:
        return f"secret of {name}"


@pytest.fixture
def entra(tmp_path: Path) -> Iterator[Entra]:
    own = tmp_path / "providers.toml"
    own.write_text('[azure]\nclient_id = "cloudpush"\n')
    with OAuthServer() as server:
        yield Entra(server, read_providers(Settings(providers_file=own)).get("azure"))


def test_the_account_is_known_and_may_reconnect(entra: Entra) -> None:
    """Entra ID does not list the protocol's own scopes among those that it granted: they were all the same."""
    first = entra.connect()
    assert first.granted, first
    assert "Not granted" not in first.message
    assert first.grant_id
    grant = entra.store.get(first.grant_id)
    assert grant
    assert (grant.subject, grant.settings) == ("ada", ANSWERS)
    assert entra.connect(again=first).granted


def test_another_account_may_not_reconnect(entra: Entra) -> None:
    """Else its pushes would go on in another's storage account."""
    refused = entra.connect(sub="bob", again=entra.connect())
    assert (refused.code, "not the account" in refused.message) == (Code.CONSENT_FAILED, True)


def test_a_tenant_speaks_for_itself_only(entra: Entra) -> None:
    """Any tenant may connect, but what it says of a user of another one is not believed."""
    assert entra.connect(tid=ELSEWHERE, issuer_of=ELSEWHERE).granted
    refused = entra.connect(tid=TENANT, issuer_of=ELSEWHERE)
    assert (refused.code, "(iss)" in refused.message) == (Code.CONSENT_FAILED, True)
