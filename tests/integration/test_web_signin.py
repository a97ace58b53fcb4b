"""Signing in at the operator's own OpenID provider, a real one, and what an attacker makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests

import servers
import web_site
from cloudpush.credentials.clients import SIGN_IN
from cloudpush.errors import InputError
from cloudpush.stack.oauth_mock import OAuthMock
from cloudpush.stack.services import Valkey
from cloudpush.web import oidc, sessions, signin
from cloudpush.web.oidc import SignInProvider
from web_site import WEB_URL, Browser, Site

ADA = "ada@lab.example"
CALLBACK = f"{WEB_URL}/sign-in/callback"


@dataclass
class Secrets:
    """Stands for Vault: the one secret that signing in needs."""

    held: str

    def secret(self, name: str) -> str:
        return self.held if name == SIGN_IN else ""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OAuthMock]:
    with servers.running(OAuthMock(tmp_path_factory.mktemp("mock"), users=[ADA])) as server:
        yield server


@pytest.fixture(scope="module")
def site(
    database: servers.Database, valkey: Valkey, provider: OAuthMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    client = provider.register(CALLBACK)
    with web_site.site(
        database,
        valkey.url(),
        tmp_path_factory.mktemp("web"),
        web_oidc_issuer=provider.issuer,
        web_oidc_client_id=client.id,
        clients=Secrets(client.secret),
    ) as made:
        yield made


def begin(browser: Browser, going: str = "") -> str:
    """Where the browser is sent."""
    answer = browser.get("/sign-in/oidc", params={"next": going} if going else {})
    assert answer.status_code == 303
    return str(answer.headers["location"])


def consent(url: str, **fields: str) -> str:
    """What the provider sends the browser back with: our callback's path and query."""
    answer = requests.post(url, data={"sub": ADA, **fields}, allow_redirects=False, timeout=10)
    assert answer.status_code == 302, answer.text
    assert answer.headers["location"].startswith(CALLBACK + "?")
    return answer.headers["location"].removeprefix(WEB_URL)


def came(browser: Browser, path: str) -> Any:
    """The provider's redirect: another site's doing, as the browser tells."""
    return browser.get(path, headers={"sec-fetch-site": "cross-site"})


def changed(path: str, **query: str) -> str:
    """``path`` with other parameters."""
    held = {k: v[0] for k, v in parse_qs(urlsplit(path).query).items()} | query
    return f"{urlsplit(path).path}?{urlencode(held)}"


def test_whoever_the_provider_vouches_for_is_signed_in_and_goes_on_where_they_wanted(site: Site) -> None:
    browser = site.browser()
    answer = came(browser, consent(begin(browser, "/pushes")))
    assert (answer.status_code, answer.headers["location"]) == (303, "/pushes")
    page = browser.get("/account").text
    assert ADA in page
    assert "sign-in" in page


def test_what_is_asked_is_as_little_as_can_be_and_bound_to_the_browser(site: Site, provider: OAuthMock) -> None:
    asked = parse_qs(urlsplit(begin(site.browser())).query)
    assert (asked["scope"], asked["response_type"], asked["redirect_uri"]) == (["openid email"], ["code"], [CALLBACK])
    assert (asked["code_challenge_method"], len(asked["code_challenge"][0])) == (["S256"], 43)
    assert asked["nonce"] != asked["state"]


def test_the_token_is_another_one_after_signing_in(site: Site) -> None:
    browser = site.browser()
    path = consent(begin(browser))
    before = browser.token
    came(browser, path)
    assert browser.token != before
    assert site.services.sessions.find(sessions.digest(before), idle_seconds=3600) is None


def test_a_state_is_good_once(site: Site) -> None:
    """The same answer again, in the same browser and in one that has the cookie from before."""
    browser, thief = site.browser(), site.browser()
    path = consent(begin(browser))
    thief.cookies.set(sessions.COOKIE, browser.token, domain="push.example")
    assert came(browser, path).status_code == 303
    assert came(thief, path).status_code == 403
    assert thief.get("/connections").status_code == 303


def test_an_answer_is_worth_nothing_in_another_browser(site: Site) -> None:
    """Login CSRF: an attacker's own answer signs nobody else in as the attacker."""
    attacker, victim = site.browser(), site.browser()
    path = consent(begin(attacker))
    begin(victim)
    assert came(victim, path).status_code == 403
    assert came(site.browser(), path).status_code == 403
    assert victim.get("/connections").status_code == 303


def test_a_code_is_worth_nothing_under_another_state(site: Site) -> None:
    """Code injection: PKCE's verifier and the nonce are the other browser's."""
    victim, attacker = site.browser(), site.browser()
    stolen = parse_qs(urlsplit(consent(begin(victim))).query)["code"][0]
    own = changed(consent(begin(attacker)), code=stolen)
    assert came(attacker, own).status_code == 403
    assert attacker.get("/connections").status_code == 303


@pytest.mark.parametrize(
    "query", [{"state": ""}, {"state": "x.y"}, {"iss": "https://evil.example"}, {"code": ""}, {"code": "x"}]
)
def test_an_answer_that_was_tampered_with_signs_nobody_in(site: Site, query: dict[str, str]) -> None:
    browser = site.browser()
    answer = came(browser, changed(consent(begin(browser)), **query))
    assert answer.status_code == 403
    assert browser.get("/connections").status_code == 303


def test_a_refusal_is_told_in_human_words_and_hostile_ones_are_inert(site: Site) -> None:
    browser = site.browser()
    path = changed(
        consent(begin(browser)),
        error="access_denied",
        error_description="<script>alert(1)</script> client_secret=hunter2",
    )
    answer = came(browser, path)
    assert answer.status_code == 403
    assert "You, or the provider, said no." in answer.text
    assert "<script>alert" not in answer.text
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "where",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/connections/../x",
        "/sign-out",
        "javascript:alert(1)",
        "/connections?x=//evil.example",
        "/pushes\n",
        "/pushes/" + "x" * 36,
    ],
)
def test_signing_in_leads_to_pages_of_ours_only(site: Site, where: str) -> None:
    """No open redirect: what is no page of ours is not even repeated."""
    browser = site.browser()
    page = browser.get("/sign-in", params={"next": where})
    assert 'href="/sign-in/oidc"' in page.text
    answer = came(browser, consent(begin(browser, where)))
    assert (answer.status_code, answer.headers["location"]) == (303, "/connections")


def test_where_to_go_on_cannot_be_changed_on_the_way(site: Site) -> None:
    """It is under the state's HMAC, and is one of our pages whoever sealed it."""
    browser = site.browser()
    begin(browser)
    token = browser.token
    assert signin.open_state(token, signin.seal_state(token, "n", "https://evil.example")) == ("n", "/connections")


# -- identity tokens ----------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, provider: OAuthMock) -> Callable[..., str]:
    """Who somebody is by an identity token with these claims: the checks on what it says, its signature aside."""
    relying = SignInProvider(
        issuer=provider.issuer, client_id="us", secret=lambda: "", redirect_uri=CALLBACK, claim="email"
    )
    import time

    def owner(**claims: Any) -> str:
        now = int(time.time())
        usual = {
            "iss": provider.issuer,
            "aud": "us",
            "sub": "1",
            "exp": now + 60,
            "iat": now,
            "nonce": "n",
            "email": ADA,
        }
        held = {k: v for k, v in (usual | claims).items() if v is not None}
        monkeypatch.setattr(SignInProvider, "_decoded", lambda self, token, fresh: held)
        return oidc._owner(relying._claims("token", "n"), "email")

    return owner


def test_a_good_identity_token_names_the_owner(told: Callable[..., str]) -> None:
    assert told() == ADA
    assert told(aud=["us"], email_verified=True) == ADA
    assert told(aud=["us", "them"], azp="us") == ADA


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "them"},
        {"aud": ["us", "them"]},
        {"azp": "them"},
        {"exp": 1},
        {"exp": None},
        {"iat": 4_000_000_000},
        {"nonce": "other"},
        {"nonce": None},
        {"sub": None},
        {"email": None},
        {"email": ""},
        {"email": ["a"]},
        {"email": "a\nb"},
        {"email_verified": False},
        {"email_verified": "false"},
    ],
    ids=json.dumps,
)
def test_any_other_is_refused(told: Callable[..., str], claims: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        told(**claims)


def test_a_token_that_somebody_else_signed_is_refused(provider: OAuthMock) -> None:
    from joserfc import jwt
    from joserfc.jwk import RSAKey

    relying = SignInProvider(
        issuer=provider.issuer, client_id="us", secret=lambda: "", redirect_uri=CALLBACK, claim="email"
    )
    key = RSAKey.generate_key(2048)
    forged = jwt.encode({"alg": "RS256"}, {"iss": provider.issuer, "aud": "us", "nonce": "n", "email": ADA}, key)
    unsigned = f"{forged.split('.')[0]}.{forged.split('.')[1]}."
    for token in (forged, unsigned, "x", "a.b.c"):
        with pytest.raises(InputError, match="signature"):
            relying._claims(token, "n")
