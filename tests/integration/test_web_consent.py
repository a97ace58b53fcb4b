"""The pages of consent: from *Connect* to an outcome, and what attackers make of them.

Where the test names a broken copy, the attack is seen to succeed against it. What the story itself refuses is in
tests/unit/test_consent_attacks.py; here it is forms, redirects, headers and what ends up in a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import pytest
from starlette.responses import Response

import servers
import web_site
from cloudpush.credentials.clients import Clients
from cloudpush.credentials.connection import VaultConnection
from cloudpush.push.grants.model import WEB_IDENTITY
from cloudpush.settings import Settings
from cloudpush.stack.services import OpenBao, Valkey
from cloudpush.web import headers, sessions
from cloudpush.web.consent import Consent
from cloudpush.web.pages import Visit
from oidc_provider import running as certified
from web_site import WEB_URL, Browser, Site, text_of

pytestmark = pytest.mark.stack

REDIRECT = f"{WEB_URL}/consent/callback"
ROLE = "arn:aws:iam::123456789012:role/cloudpush"
OUTCOME = re.compile(r"/consent/outcome/[0-9a-f-]{36}")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[certified.OidcProvider]:
    with certified.running([f"{REDIRECT}/certified"], tmp_path_factory.mktemp("oidc") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def site(
    database: servers.Database,
    valkey: Valkey,
    openbao: OpenBao,
    provider: certified.OidcProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("web")
    file = directory / "certified.toml"
    file.write_text(web_site.PROVIDERS + provider.table())
    vault: dict[str, Any] = {"vault_url": openbao.url, "vault_auth_dir": openbao.auth_dir}
    Clients(VaultConnection(Settings(**vault), "keeper")).put("certified", certified.CLIENT_SECRET)
    with web_site.site(database, valkey.url(), directory, providers_file=file, **vault) as made:
        yield made


@pytest.fixture
def ada(site: Site) -> Browser:
    return site.browser(f"ada-{uuid4().hex[:8]}")


def set_out(browser: Browser, name: str = "certified", **fields: str) -> str:
    """*Connect*; the provider's URL."""
    answer = browser.send_form(f"/connect/{name}", **fields)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def come_back(browser: Browser, answer: dict[str, str]) -> Any:
    """The provider's redirect, which is another site's; the answer of ours."""
    return browser.get("/consent/callback/certified", params=answer, headers={"sec-fetch-site": "cross-site"})


def arrive(browser: Browser, answer: dict[str, str]) -> Any:
    """The same, and on to the page where it ends."""
    sent_on = come_back(browser, answer)
    assert sent_on.status_code == 303, sent_on.text
    return browser.get(sent_on.headers["location"])


def state_of(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["state"]


def links(page: str) -> list[str]:
    """Where the page's own part leads, in order."""
    main = page.partition("<main")[2].partition("</main")[0]
    return [unescape(href) for href in re.findall(r'<a href="([^"]+)"', main)]


# -- the way -------------------------------------------------------------------------------------


def test_a_user_reads_what_is_asked_connects_and_is_back_with_a_connection(ada: Browser) -> None:
    page = ada.get("/connect/certified")
    assert page.status_code == 200
    assert "Write objects into your buckets storage.write (needed)" in text_of(page.text)
    assert "Go on while you are away" in page.text
    url = set_out(ada)
    origin = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    assert f"form-action 'self' {origin}" in page.headers["content-security-policy"]
    end = arrive(ada, certified.Visitor(REDIRECT).consent(url))
    assert end.status_code == 200
    assert "Pipelines push with it as 'Certified Storage (ada@example.org)'." in unescape(text_of(end.text))
    connection = ada.get(links(end.text)[0])
    assert "Certified Storage (ada@example.org)" in connection.text


def test_a_user_who_says_no_reads_so_and_has_one_next_step(ada: Browser) -> None:
    end = arrive(ada, certified.Visitor(REDIRECT).deny(set_out(ada)))
    assert "Certified Storage is not connected" in end.text
    assert "You said no at Certified Storage" in end.text
    assert links(end.text)[0] == "/connect/certified"


def test_who_grants_too_little_is_told_which_permission_is_missing(ada: Browser) -> None:
    end = arrive(ada, certified.Visitor(REDIRECT).consent(set_out(ada), "narrow"))
    assert "a permission that a push cannot do without: Write objects into your buckets" in end.text
    assert "taken back at once" in end.text


def test_reload_and_back_change_nothing_and_tell_the_same(ada: Browser, site: Site) -> None:
    answer = certified.Visitor(REDIRECT).consent(set_out(ada))
    first, second = come_back(ada, answer), come_back(ada, answer)
    assert first.headers["location"] == second.headers["location"]
    pages = [ada.get(first.headers["location"]).text for _ in range(2)]
    assert pages[0] == pages[1]
    assert site.count("oauth_grant g JOIN credential c ON c.id = g.credential_id", "owner = :o", o=owner_of(ada)) == 1


def test_a_double_click_and_a_second_tab_end_in_connections_and_never_in_an_error(ada: Browser) -> None:
    first, second = set_out(ada), set_out(ada)
    visitor = certified.Visitor(REDIRECT)
    end = arrive(ada, visitor.consent(second))
    assert "is connected" in end.text
    waiting = ada.get(f"/consent/outcome/{attempt_in(ada, first)}")
    assert "Not finished yet" in waiting.text
    assert "(2)&#39;." in arrive(ada, visitor.consent(first)).text


def test_cancel_in_the_middle_leaves_nothing_and_the_next_try_works(ada: Browser, site: Site) -> None:
    visitor = certified.Visitor(REDIRECT)
    visitor.open(set_out(ada))  # and away: the tab is closed at the provider
    assert not site.grants.find(owner_of(ada))
    assert "is connected" in arrive(ada, visitor.consent(set_out(ada))).text


def test_an_attempt_that_took_too_long_says_so(ada: Browser, site: Site) -> None:
    url = set_out(ada)
    answer = certified.Visitor(REDIRECT).consent(url)
    site.record.tamper(
        "UPDATE consent_attempt SET expires_at = now() - interval '1s' WHERE id = :id", id=attempt_in(ada, url)
    )
    end = arrive(ada, answer)
    assert "It took longer than 10 minutes" in end.text
    assert links(end.text)[0] == "/connect/certified"


def test_a_session_that_ended_on_the_way_is_told_and_the_code_is_not_left_in_the_address(
    ada: Browser, site: Site
) -> None:
    answer = certified.Visitor(REDIRECT).consent(set_out(ada))
    site.services.sessions.end(sessions.digest(ada.token))
    sent_on = come_back(ada, answer)
    assert sent_on.headers["location"] == "/consent/nowhere"
    page = ada.get("/consent/nowhere")
    assert "Your session here ended" in page.text
    assert links(page.text)[0] == "/sign-in"


def test_a_refusal_without_state_is_told_without_anything_that_a_stranger_could_write(ada: Browser) -> None:
    end = arrive(ada, {"error": "access_denied", "error_description": "canary words"})
    assert "you said no there" in end.text
    assert "canary" not in end.text


def test_a_dead_connection_is_reconnected_by_one_click(ada: Browser, site: Site) -> None:
    arrive(ada, certified.Visitor(REDIRECT).consent(set_out(ada)))
    grant = site.dead(site.grants.find(owner_of(ada))[0])
    page = ada.get(f"/connections/{grant.id}")
    answer = ada.send_form(f"/connections/{grant.id}/reconnect")
    origin = f"http://{urlsplit(answer.headers['location']).netloc}"
    assert origin in page.headers["content-security-policy"]
    eve = arrive(ada, certified.Visitor(REDIRECT).consent(answer.headers["location"], "eve"))
    assert "which is not the account" in eve.text
    assert links(eve.text)[0] == f"/connections/{grant.id}"
    again = ada.send_form(f"/connections/{grant.id}/reconnect").headers["location"]
    end = arrive(ada, certified.Visitor(REDIRECT).consent(again))
    assert "No push was waiting for it." in end.text


# -- forms ---------------------------------------------------------------------------------------


def test_what_was_typed_wrong_is_told_beside_its_field_with_what_was_typed(ada: Browser) -> None:
    answer = ada.send_form("/connect/azure", **{"answer.account": "NOT <b>good</b>", "name": "my name"})
    assert answer.status_code == 400
    assert "NOT &lt;b&gt;good" in answer.text
    assert 'value="my name"' in answer.text
    assert re.search(
        r'id="answer-account"[^>]*aria-invalid="true"[^>]*aria-describedby="[^"]*wrong-account', answer.text
    )
    assert "https://login.microsoftonline.com" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/connect/cognito", 200, "is not set up here"),
        ("/connect/nobody", 404, "Nothing here"),
        ("/connect/https:%2F%2Fevil.example.org", 404, "Nothing here"),
        ("/consent/outcome/6f9619ff-8b86-4011-b42d-00cf4fc964ff", 200, "does not belong to anything"),
        ("/consent/outcome/7", 404, "Nothing here"),
    ],
)
def test_what_is_not_there_is_told_in_words(ada: Browser, path: str, status: int, words: str) -> None:
    answer = ada.get(path)
    assert answer.status_code == status
    assert words in answer.text


def test_a_role_is_registered_and_its_page_has_what_the_account_must_trust(ada: Browser, site: Site) -> None:
    wrong = ada.send_form("/connect/aws", **{"answer.role_arn": "role/x", "answer.region": "eu-central-1"})
    assert (wrong.status_code, "Role ARN" in wrong.text) == (400, True)
    made = ada.send_form("/connect/aws", **{"answer.role_arn": ROLE, "answer.region": "eu-central-1", "name": "lab"})
    grant = site.grants.find(owner_of(ada))[0]
    assert made.headers["location"] == f"/connections/{grant.id}/trust"
    assert (grant.kind, grant.name) == (WEB_IDENTITY, "lab")
    page = ada.get(made.headers["location"])
    for words in (WEB_URL, str(grant.id), "AWS::IAM::OIDCProvider", "aws_iam_role", "sts:AssumeRoleWithWebIdentity"):
        assert words in page.text
    assert "s3:PutObject" not in page.text
    with_bucket = ada.get(made.headers["location"], params={"bucket": "lab-data", "prefix": 'x"<script>'})
    assert "s3:PutObject" in with_bucket.text
    assert "<script>" not in with_bucket.text.partition("<main")[2]
    hostile = ada.get(made.headers["location"], params={"bucket": "<b>"})
    assert (hostile.status_code, "<b>" in hostile.text) == (400, False)
    assert ada.send_form(f"/connections/{grant.id}/check").status_code == 303


# -- attacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [False, True])
def test_what_a_provider_says_of_an_error_is_text_and_never_markup(
    ada: Browser, site: Site, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XSS through `error` and `error_description`. The broken copy has templates that escape nothing."""
    if broken:
        monkeypatch.setattr(site.app.state, "templates", site.app.state.templates.overlay(autoescape=False))
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    state = state_of(set_out(ada))
    issuer = site.services.providers.get("certified").issuer
    end = arrive(ada, {"error": evil, "error_description": evil, "state": state, "iss": issuer})
    assert "is not connected" in end.text
    assert (evil in end.text) is broken
    assert "script-src 'self'" in end.headers["content-security-policy"]  # and would not have run


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("forged", ["no token", "another session's token", "from another site"])
def test_another_site_cannot_begin_or_reconnect(
    ada: Browser, site: Site, forged: str, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CSRF: Ada's browser sends a form that Eve's page wrote. The broken copy checks neither token nor origin."""
    if broken:
        monkeypatch.setattr(sessions, "check_csrf", lambda *_: None)
        monkeypatch.setattr(sessions, "check_origin", lambda *_: None)
    grant = site.grant(owner_of(ada), name=f"lab {uuid4()}")
    eve = site.browser("eve")
    fields = {"no token": {}, "another session's token": {"csrf": eve.csrf}, "from another site": {"csrf": ada.csrf}}
    site_ = {"sec-fetch-site": "cross-site"} if forged == "from another site" else {}
    before = site.count("consent_attempt")
    for path in ("/connect/lab", f"/connections/{grant.id}/reconnect"):
        answer = ada.post(path, data=fields[forged], headers=site_)
        assert answer.status_code == (303 if broken else 403)
    assert site.count("consent_attempt") == before + (2 if broken else 0)


def test_nobody_reconnects_or_looks_at_what_is_anothers(ada: Browser, site: Site) -> None:
    grant = site.grant("somebody else", name=f"lab {uuid4()}")
    assert ada.send_form(f"/connections/{grant.id}/reconnect").status_code == 404
    assert ada.get(f"/connections/{grant.id}/trust").status_code == 404
    eve = site.browser("eve")
    url = set_out(eve, "lab")
    assert "does not belong to anything" in ada.get(f"/consent/outcome/{attempt_in(eve, url)}").text


def shown_where_it_came(page: Consent, visit: Visit) -> Response:
    """Broken: the outcome is a page under the address that has the code in it."""
    return page._ended(visit, page._consenting.complete(visit.token, "certified", dict(visit.request.query_params)))


@pytest.mark.parametrize("sends_on", [True, False], ids=["sent on", "not sent on"])
@pytest.mark.parametrize("policy", [True, False], ids=["no referrer", "any referrer"])
def test_a_code_is_told_to_no_other_page(
    ada: Browser, site: Site, sends_on: bool, policy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Referer`: what a browser tells the next site is the address of the page, unless the page forbids it.

    The code leaves the address bar at once, and pages forbid it, too: one of both suffices, and without either it is told.
    """
    if not sends_on:
        monkeypatch.setattr("cloudpush.web.consent.Consent.complete", shown_where_it_came)
    if not policy:
        monkeypatch.setitem(headers.ALWAYS, "referrer-policy", "unsafe-url")
    web = site if sends_on and policy else remade(site)
    browser = Browser(web)
    browser.cookies = ada.cookies
    answer = certified.Visitor(REDIRECT).consent(set_out(browser))
    first = come_back(browser, answer)
    last = browser.get(first.headers["location"]) if first.status_code == 303 else first
    assert last.status_code == 200
    told = "" if last.headers["referrer-policy"] == "no-referrer" else str(last.url)
    assert (answer["code"] in told) is (not sends_on and not policy)
    assert answer["code"] not in last.text
    if sends_on:
        assert OUTCOME.fullmatch(first.headers["location"])
        assert not first.content


def test_no_page_of_consent_loads_anything_from_elsewhere(ada: Browser) -> None:
    """So that nobody else is asked for anything while a browser has to do with a code."""
    pages = [ada.get(path) for path in ("/connect/certified", "/connect/aws", "/consent/nowhere")]
    pages.append(arrive(ada, certified.Visitor(REDIRECT).deny(set_out(ada))))
    for page in pages:
        loaded = re.findall(r'<(?:img|script|link|iframe|source|video)\b[^>]*\b(?:src|href)="([^"]*)"', page.text)
        assert loaded
        assert all(address.startswith("/static/") for address in loaded)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("more", [{"next": "https://evil.example.org"}, {"redirect_uri": "//evil.example.org"}])
def test_a_callback_leads_to_a_page_of_ours_whatever_comes_with_it(ada: Browser, more: dict[str, str]) -> None:
    """Open redirect: the only thing in the address that matters is the state, and it leads to its own outcome."""
    url = set_out(ada, **more)
    assert "evil" not in url
    answer = certified.Visitor(REDIRECT).consent(url) | more
    assert OUTCOME.fullmatch(come_back(ada, answer).headers["location"])
    forged = come_back(ada, answer | {"state": "//evil.example.org"})
    assert forged.headers["location"] == "/consent/nowhere"


def test_a_parameter_that_comes_twice_makes_the_whole_answer_worthless(ada: Browser) -> None:
    answer = certified.Visitor(REDIRECT).consent(set_out(ada))
    twice = ada.get(f"/consent/callback/certified?{urlencode([*answer.items(), ('code', 'another')])}")
    assert twice.headers["location"] == "/consent/nowhere"
    assert "is connected" in arrive(ada, answer).text


def test_codes_and_states_are_in_no_log(ada: Browser, capfd: pytest.CaptureFixture[str]) -> None:
    url = set_out(ada)
    answer = certified.Visitor(REDIRECT).consent(url)
    arrive(ada, answer)
    printed = "".join(capfd.readouterr())
    assert all(answer[name] not in printed for name in ("code", "state"))


def owner_of(browser: Browser) -> str:
    session = browser.site.services.sessions.find(sessions.digest(browser.token), idle_seconds=3600, touch=False)
    assert session
    assert session.owner
    return session.owner


def attempt_in(browser: Browser, url: str) -> str:
    from cloudpush.push.grants.proofs import attempt_of

    return str(attempt_of(browser.token, state_of(url)))


def remade(site: Site) -> Site:
    """The same services behind an application that is made again: a broken copy takes effect."""
    from cloudpush.web.app import make_app

    return Site(site.record, site.services, make_app(site.services))
