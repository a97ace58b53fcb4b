"""The web pages over a real database: who may see what, and what a page never lets through."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from starlette.routing import Route

import servers
import web_site
from builders import an_error
from cloudpush.audit.database import append_event
from cloudpush.errors import Code
from cloudpush.push.credential import Caller
from cloudpush.push.grants.model import WEB_IDENTITY, Chore, GrantState
from cloudpush.push.states import Event, State
from cloudpush.stack.services import Valkey
from cloudpush.web.sessions import COOKIE, digest, new_token
from web_site import Browser, Site, text_of

UNKNOWN = "00000000-0000-4000-8000-000000000000"
#: Pages that say nothing about anybody, or are for whoever is not signed in yet.
PUBLIC = {
    "/",
    "/healthz",
    "/favicon.ico",
    "/static/{digest}/{name}",
    "/sign-in",
    "/sign-in/link",
    "/consent/callback/{provider}",
    "/consent/nowhere",
    "/consent/refused",
    "/.well-known/openid-configuration",
    "/.well-known/jwks.json",
}


@pytest.fixture(scope="module")
def site(database: servers.Database, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with web_site.site(database, valkey.url(), tmp_path_factory.mktemp("web")) as made:
        yield made


@pytest.fixture
def ada(site: Site) -> str:
    """Somebody new each time, so that no test sees another's things."""
    return f"ada-{uuid4().hex[:8]}"


def routes(site: Site, method: str) -> list[str]:
    """Every path that takes ``method``."""
    return sorted({r.path for r in site.app.routes if isinstance(r, Route) and method in (r.methods or ())})


def filled(path: str, **ids: Any) -> str:
    """``path`` with its parameters: known ones as they are given, others anything."""
    usual = {"digest": "x", "name": "style.css", "provider": "lab", "share_id": UNKNOWN, "attempt_id": UNKNOWN}
    usual |= {"credential_id": UNKNOWN, "table": "pushes", "token_id": UNKNOWN}
    values = usual | {"grant_id": UNKNOWN, "push_id": UNKNOWN} | ids
    return re.sub(r"{(\w+)}", lambda m: str(values[m.group(1)]), path)


# -- who is signed in --------------------------------------------------------------------------


def test_every_page_but_a_few_asks_whoever_is_not_signed_in_to_sign_in(site: Site) -> None:
    """A new route that forgets to ask is caught here."""
    stranger = site.browser()
    for path in set(routes(site, "GET")) - PUBLIC - {"/pushes/{push_id}/events"}:
        answer = stranger.get(filled(path))
        assert (path, answer.status_code, answer.headers["location"].partition("?")[0]) == (path, 303, "/sign-in")
    assert stranger.get(f"/pushes/{UNKNOWN}/events").status_code == 403


def test_a_link_is_not_used_up_by_looking_and_signs_in_once(site: Site, ada: str) -> None:
    """A preview of the link costs nothing; the second use is refused."""
    link = site.link(ada)
    first, second = site.browser(), site.browser()
    for _ in range(3):
        assert first.get("/sign-in/link", params={"token": link}).status_code == 200
    second.get("/sign-in/link", params={"token": link})
    assert first.send_form("/sign-in/link", token=link).headers["location"] == "/connections"
    assert second.send_form("/sign-in/link", token=link).status_code == 403
    assert (first.get("/connections").status_code, second.get("/connections").status_code) == (200, 303)


@pytest.mark.parametrize("token", ["", "x", "../../etc", "A" * 43])
def test_a_link_of_somebody_elses_making_signs_nobody_in(site: Site, token: str) -> None:
    browser = site.browser()
    browser.get("/sign-in/link", params={"token": site.link("nobody")})
    assert browser.send_form("/sign-in/link", token=token).status_code == 403
    assert browser.get("/connections").status_code == 303


def test_an_old_link_signs_nobody_in(site: Site, ada: str) -> None:
    link = site.link(ada, seconds=0)
    browser = site.browser()
    browser.get("/sign-in/link", params={"token": link})
    assert browser.send_form("/sign-in/link", token=link).status_code == 403


def test_signing_in_makes_a_token_that_nobody_has_seen(site: Site, ada: str) -> None:
    """Session fixation: a token from before, ours or not, opens nothing afterwards, and a planted one is never adopted."""
    planted = new_token()
    browser = site.browser()
    browser.cookies.set(COOKIE, planted)
    link = site.link(ada)
    page = browser.get("/sign-in/link", params={"token": link})
    anonymous = page.cookies[COOKIE]
    browser.cookies.clear()
    browser.cookies.set(COOKIE, anonymous)
    browser.send_form("/sign-in/link", token=link)
    signed_in = browser.cookies.get(COOKIE, domain="push.example") or browser.token
    assert len({planted, anonymous, signed_in}) == 3
    for old in (planted, anonymous):
        assert site.services.sessions.find(digest(old), idle_seconds=3600) is None


def test_the_cookie_is_as_closed_as_a_cookie_can_be(site: Site, ada: str) -> None:
    link = site.link(ada)
    browser = site.browser()
    browser.get("/sign-in/link", params={"token": link})
    said = browser.send_form("/sign-in/link", token=link).headers["set-cookie"]
    name, *flags = [part.strip().lower() for part in said.split(";")]
    assert name.startswith("__host-cloudpush=")
    assert set(flags) == {"httponly", "secure", "path=/", "samesite=lax"}


def test_a_link_says_whom_it_signs_in_before_it_does(site: Site, ada: str) -> None:
    """Mallory sends Ada the link that signs *him* in: what she connects then would be his to push with."""
    adas = site.browser(ada)
    page = adas.get("/sign-in/link", params={"token": site.link("<b>mallory</b>")})
    assert "You will be <strong>&lt;b&gt;mallory&lt;/b&gt;</strong> here" in page.text
    assert f"You are signed in as {ada} now, and will not be any more." in text_of(page.text)
    own = adas.get("/sign-in/link", params={"token": site.link(ada)})
    assert "any more" not in text_of(own.text)
    assert f"It will belong to {ada} , as whom you are signed in here." in text_of(adas.get("/connect/lab").text)


def test_postgres_knows_no_token(site: Site, ada: str) -> None:
    """Neither of sessions nor of links."""
    link = site.link(ada)
    browser = site.browser(ada)
    for token in (browser.token, link):
        held = site.count("web_session", "encode(token_sha256, 'escape') LIKE :t", t=f"%{token}%")
        assert held + site.count("sign_in_link", "encode(token_sha256, 'escape') LIKE :t", t=f"%{token}%") == 0
    assert site.count("web_session", "token_sha256 = :t", t=digest(browser.token)) == 1


def test_signing_out_ends_the_session_here_or_everywhere(site: Site, ada: str) -> None:
    """The token is dead afterwards, wherever it was copied to."""
    here, there, third = (site.browser(ada) for _ in range(3))
    stolen = here.token
    assert here.send_form("/sign-out").status_code == 303
    thief = site.browser()
    thief.cookies.set(COOKIE, stolen)
    assert (thief.get("/connections").status_code, there.get("/connections").status_code) == (303, 200)
    assert there.send_form("/sign-out/everywhere").status_code == 303
    assert third.get("/connections").status_code == 303


def test_a_session_ends_when_nobody_uses_it_and_at_its_time(site: Site, ada: str) -> None:
    idle, old = site.browser(ada), site.browser(ada)
    for browser, change in ((idle, "seen_at = now() - interval '2 hours'"), (old, "expires_at = now()")):
        site.record.tamper(f"UPDATE web_session SET {change} WHERE token_sha256 = :t", t=digest(browser.token))
    assert [b.get("/connections").status_code for b in (idle, old)] == [303, 303]


# -- forms -----------------------------------------------------------------------------------


def forms(site: Site, owner: str) -> Iterator[tuple[str, str]]:
    """(route, address) of every form's target, with things of ``owner``'s in them."""
    grant = site.grant(owner, f"forms-{uuid4().hex[:6]}")
    push = site.push(grant)
    share = site.services.grants.share(
        Caller(owner), grant.id, principal="p", uri="gs://results/x", until=datetime.now(UTC) + timedelta(days=1)
    )
    for path in routes(site, "POST"):
        yield path, filled(path, grant_id=grant.id, push_id=push, share_id=share.id)


def test_no_form_is_taken_without_its_token(site: Site, ada: str) -> None:
    """Every POST route that there is: no token, a wrong one, another session's, and nothing has changed."""
    browser, other = site.browser(ada), site.browser(ada)
    events = "kind <> 'session.started'"
    for path, address in list(forms(site, ada)):
        before = site.count("event", events), site.count("chore"), site.count("consent_attempt")
        for wrong in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": other.csrf}, {"csrf": browser.csrf[:-1]}):
            assert (path, browser.post(address, data=wrong).status_code) == (path, 403)
        assert (site.count("event", events), site.count("chore"), site.count("consent_attempt")) == before
    assert browser.get("/connections").status_code == 200


@pytest.mark.parametrize(
    "foreign",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "", "origin": "https://evil.example"},
        {"sec-fetch-site": "same-origin", "origin": "https://push.example.evil.example"},
        {"sec-fetch-site": "same-origin", "origin": "http://push.example"},
    ],
)
def test_no_form_is_taken_from_another_site_even_with_its_token(site: Site, ada: str, foreign: dict[str, str]) -> None:
    browser = site.browser(ada)
    for path, address in list(forms(site, ada)):
        answer = browser.post(address, data={"csrf": browser.csrf}, headers=foreign)
        assert (path, answer.status_code) == (path, 403)


@pytest.mark.parametrize(
    "ours",
    [
        {"sec-fetch-site": "same-origin", "origin": "null"},  # what Chromium sends under no-referrer
        {"sec-fetch-site": "same-origin", "origin": web_site.WEB_URL},
        {"sec-fetch-site": "", "origin": web_site.WEB_URL},
        {"sec-fetch-site": "", "origin": ""},
    ],
)
def test_forms_of_ours_are_taken_from_every_browser(site: Site, ada: str, ours: dict[str, str]) -> None:
    browser = site.browser(ada)
    push = site.push(site.grant(ada, "forms"))
    answer = browser.post(f"/pushes/{push}/cancel", data={"csrf": browser.csrf}, headers=ours)
    assert (answer.status_code, site.record.state(push)) == (303, State.CANCELLED)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("application/x-www-form-urlencoded", b"a=" + b"x" * 70_000, 413),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(500)), 400),
        ("application/x-www-form-urlencoded", b"a=\xff%ff", 400),
    ],
    ids=["json", "multipart", "too long", "too many fields", "no text"],
)
def test_a_body_that_is_no_form_of_ours_is_refused(site: Site, ada: str, kind: str, body: bytes, status: int) -> None:
    answer = site.browser(ada).post("/sign-out", content=body, headers={"content-type": kind})
    assert answer.status_code == status


# -- whose things ------------------------------------------------------------------------------


def test_another_owners_things_look_exactly_as_unknown_ones_on_every_route(site: Site, ada: str) -> None:
    """Not one route with an id tells whether it exists. A new one is tested without being named here."""
    grant = site.grant(ada)
    push = site.push(grant)
    share = site.services.grants.share(
        Caller(ada), grant.id, principal="p", uri="gs://results/x", until=datetime.now(UTC) + timedelta(days=1)
    )
    mallory = site.browser("mallory")
    nobodys: dict[str, object] = {}
    mine = {"grant_id": grant.id, "push_id": push, "share_id": share.id}
    for method in ("GET", "POST"):
        for path in routes(site, method):
            if not re.search(r"{(grant|push|share)_id}", path):
                continue
            told = [_told(mallory, method, filled(path, **ids)) for ids in (mine, nobodys)]
            assert (path, told[0][0]) == (path, 404)
            assert told[0] == told[1]
    assert site.grants.get(grant.id).state is GrantState.ACTIVE  # type: ignore[union-attr]
    assert site.record.state(push) is State.QUEUED


def test_a_share_cannot_be_ended_by_way_of_another_connection(site: Site, ada: str) -> None:
    """Its own owner's connection in the path, another owner's share behind it."""
    grant = site.grant(ada)
    until = datetime.now(UTC) + timedelta(days=1)
    share = site.services.grants.share(Caller(ada), grant.id, principal="p", uri="gs://results/x", until=until)
    own = site.grant("mallory", f"own-{uuid4().hex[:6]}")
    answer = site.browser("mallory").send_form(f"/connections/{own.id}/shares/{share.id}/end")
    assert (answer.status_code, site.grants.shares(grant.id)[0].ended_at) == (404, None)


def _told(browser: Browser, method: str, address: str) -> tuple[int, str]:
    answer = browser.get(address) if method == "GET" else browser.send_form(address)
    return answer.status_code, re.sub(r'value="[^"]*"', "", answer.text)


def test_lists_show_ones_own_only(site: Site, ada: str) -> None:
    grant = site.grant(ada, "private name")
    push = site.push(grant)
    other = site.browser(f"grace-{uuid4().hex[:6]}")
    for path in ("/connections", "/connections?ended=1", "/pushes", "/pushes?state=queued", f"/pushes?before={push}"):
        page = other.get(path)
        assert page.status_code == 200
        assert "private name" not in page.text
        assert str(push) not in page.text.replace(f"before={push}", "")


# -- what pages say -----------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}",
    "</title></style><svg onload=alert(1)>",
    "&lt;b&gt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_are_shown_and_do_nothing(site: Site, ada: str, text: str) -> None:
    """Names, paths, labels, accounts, and what a provider said when something failed."""
    grant = site.grant(ada, text, subject=text, settings={"account": text})
    site.services.grants.share(
        Caller(ada), grant.id, principal=text[:60], uri="gs://results/x", until=datetime.now(UTC) + timedelta(days=1)
    )
    push = site.running(grant, labels={text: text})
    site.record.tamper(
        "UPDATE push SET source = :t, uri = :t, actor = :t, error_code = :t, error_message = :t WHERE id = :id",
        "UPDATE file SET path = :t, error_code = :t, error_message = :t WHERE push_id = :id",
        "UPDATE oauth_grant SET trouble_code = :t, trouble_message = :t, check_code = :t, check_message = :t,"
        " checked_at = now() WHERE credential_id = :grant",
        t=text,
        id=push.id,
        grant=grant.id,
    )
    browser = site.browser(ada)
    pages = (
        "/connections",
        f"/connections/{grant.id}",
        f"/connections/{grant.id}/revoke",
        "/pushes",
        f"/pushes/{push.id}",
    )
    for path in pages:
        page = browser.get(path)
        assert (path, page.status_code, text in html.unescape(page.text)) == (path, 200, True)
        seen = Elements(page.text)
        assert (seen.tags - KNOWN, seen.scripts, seen.images) == (set(), 1, 1)
        assert [a for a in seen.attributes if a.startswith("on") or a == "style"] == []
        assert [u for u in seen.urls if not u.startswith(("/", "#"))] == []


#: Every element that our templates use.
KNOWN = {
    "html",
    "head",
    "meta",
    "title",
    "link",
    "script",
    "body",
    "a",
    "header",
    "div",
    "img",
    "nav",
    "ul",
    "ol",
    "li",
    "form",
    "input",
    "button",
    "main",
    "h1",
    "h2",
    "h3",
    "p",
    "section",
    "article",
    "dl",
    "dt",
    "dd",
    "span",
    "time",
    "code",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "progress",
    "footer",
    "strong",
    "br",
    "label",
    "pre",
}


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.scripts = self.images = 0
        self.attributes: set[str] = set()
        self.urls: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.scripts += tag == "script"
        self.images += tag == "img"
        self.attributes |= {name for name, _ in attrs}
        self.urls |= {value or "" for name, value in attrs if name in ("href", "src", "action", "formaction")}


def test_a_connection_page_tells_everything(site: Site, ada: str) -> None:
    """Scope in plain words, account, use, expiry, share, ledger."""
    grant = site.grant(ada, "results", subject="ada@lab.example")
    until = datetime.now(UTC) + timedelta(days=3)
    site.services.grants.share(Caller(ada), grant.id, principal="nightly", uri="gs://results/x", until=until)
    page = web_site.text_of(site.browser(ada).get(f"/connections/{grant.id}").text)
    for words in (
        "results",
        "Connected",
        "Lab cloud",
        "ada@lab.example",
        "Read and write your objects",
        "renews itself when it is used",
        "nightly",
        "gs://results/x",
        "Consent was given by ada@lab.example for: Tell CloudPush which account you are; Read and write your objects.",
        "The provider was asked for: Tell CloudPush",
        "Shared with nightly for gs://results/x",
    ):
        assert words in page


def test_a_dead_connection_says_which_pushes_wait(site: Site, ada: str) -> None:
    grant = site.grant(ada, "archive")
    site.dead(grant)
    push = site.paused(grant)
    browser = site.browser(ada)
    assert "archive needs you" in browser.get("/connections").text
    assert f"/pushes/{push}" in browser.get(f"/connections/{grant.id}").text
    page = browser.get(f"/pushes/{push}").text
    assert "Waits for you" in page
    assert f"/connections/{grant.id}" in page


def test_revoking_asks_first_and_then_takes_back_at_once(site: Site, ada: str) -> None:
    """Without any script: a page that says what will happen, and a form."""
    grant = site.grant(ada)
    site.running(grant)
    browser = site.browser(ada)
    asked = web_site.text_of(browser.get(f"/connections/{grant.id}/revoke").text)
    assert "1 push of yours that uses it stops within seconds" in asked
    assert site.grants.get(grant.id).state is GrantState.ACTIVE  # type: ignore[union-attr]
    answer = browser.send_form(f"/connections/{grant.id}/revoke")
    assert answer.headers["location"] == f"/connections/{grant.id}?done=revoking"
    assert site.grants.get(grant.id).state is GrantState.REVOKING  # type: ignore[union-attr]
    again = browser.send_form(f"/connections/{grant.id}/revoke")
    assert again.status_code == 303


def test_sharing_and_ending_a_share(site: Site, ada: str) -> None:
    """What was typed wrong is told beside its field, with what was typed."""
    grant = site.grant(ada)
    browser = site.browser(ada)
    until = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
    shares = f"/connections/{grant.id}/shares"
    wrong = browser.send_form(shares, principal="nightly", uri="nonsense", until=until)
    assert (wrong.status_code, 'aria-invalid="true"' in wrong.text, 'value="nonsense"' in wrong.text) == (
        400,
        True,
        True,
    )
    assert browser.send_form(shares, principal="nightly", uri="gs://results/x", until="soon").status_code == 400
    assert browser.send_form(shares, principal="nightly", uri="gs://results/x", until=until).status_code == 303
    (share,) = site.grants.shares(grant.id)
    assert (share.principal, share.uri, share.until.date().isoformat()) == ("nightly", "gs://results/x", until)
    assert browser.send_form(f"{shares}/{share.id}/end").status_code == 303
    assert site.grants.shares(grant.id)[0].ended_at is not None


def test_checking_is_a_workers_chore(site: Site, ada: str) -> None:
    grant = site.grant(ada)
    assert site.browser(ada).send_form(f"/connections/{grant.id}/check").status_code == 303
    assert [c.value for c in site.grants.due_chores(grant.id)] == ["check"]


def test_what_came_of_a_check_stands_where_it_was_asked_for(site: Site, ada: str) -> None:
    """By itself with a script, by a link without; what an earlier check said is not told as this one's."""
    grant = site.grant(ada)
    site.grants.end_chore(grant.id, Chore.CHECK, None, None)
    browser = site.browser(ada)
    path = browser.send_form(f"/connections/{grant.id}/check").headers["location"]
    waiting = browser.get(path).text
    assert ("data-pending" in waiting, "Look again" in waiting, "Tried out: it works." in main_of(waiting)) == (
        True,
        True,
        False,
    )
    site.grants.end_chore(grant.id, Chore.CHECK, an_error(Code.ACCESS_DENIED), None)
    told = browser.get(path).text
    assert ("data-pending" in told, "Look again" in told, "<strong>ACCESS_DENIED</strong>" in told) == (
        False,
        False,
        True,
    )
    browser.send_form(f"/connections/{grant.id}/check")
    site.grants.end_chore(grant.id, Chore.CHECK, None, None)
    assert "Tried out: it works." in main_of(browser.get(path).text)


def main_of(page: str) -> str:
    """What stands above the facts."""
    return page.partition('id="facts"')[0]


def test_pushes_are_paged_by_key(site: Site, ada: str) -> None:
    """Every push once, newest first, however many come meanwhile."""
    grant = site.grant(ada)
    made = [site.push(grant) for _ in range(30)]
    browser = site.browser(ada)
    first = browser.get("/pushes").text
    site.push(grant)
    older = re.search(r'href="(/pushes\?before=[^"]+)"', first)
    assert older
    second = browser.get(older.group(1)).text
    seen = re.findall(r'href="/pushes/([0-9a-f-]{36})"', first) + re.findall(r'href="/pushes/([0-9a-f-]{36})"', second)
    assert seen == [str(p) for p in reversed(made)]


def test_a_push_is_cancelled_by_a_form(site: Site, ada: str) -> None:
    push = site.push(site.grant(ada))
    browser = site.browser(ada)
    assert browser.send_form(f"/pushes/{push}/cancel").headers["location"] == f"/pushes/{push}"
    assert site.record.state(push) is State.CANCELLED
    assert "Cancelled" in browser.get(f"/pushes/{push}").text


def test_a_connection_without_a_secret_leads_to_what_the_account_has_to_be_told(site: Site, ada: str) -> None:
    grant = site.grant(ada, "role", kind=WEB_IDENTITY, granted=(), settings={"role_arn": "arn:aws:iam::1:role/x"})
    assert f"/connections/{grant.id}/trust" in site.browser(ada).get(f"/connections/{grant.id}").text


@pytest.mark.parametrize("directory", [Path("/nonexistent")])
def test_a_database_that_is_away_is_told_as_such(site: Site, directory: Path) -> None:
    """503, who must act, the fix; no traceback."""
    from cloudpush.settings import Settings
    from cloudpush.web.app import make_app
    from cloudpush.wiring import build_web

    settings = Settings(
        database_url=f"postgresql://x@/x?host={directory}", web_url=web_site.WEB_URL, vault_auth_dir=directory
    )
    services = build_web(settings)
    browser = Browser(Site(site.record, services, make_app(services)))
    browser.cookies.set(COOKIE, new_token())
    answer = browser.get("/connections")
    services.close()
    assert answer.status_code == 503
    assert "The operator of this CloudPush has to act" in answer.text
    assert "Traceback" not in answer.text


def test_a_push_says_what_it_tries_again_how_it_is_packaged_and_how_its_probe_went(site: Site, ada: str) -> None:
    grant = site.grant(ada)
    first = site.push(grant)
    second = site.running(grant).id
    site.record.tamper("UPDATE push SET retry_of = :first, package = 'bagit' WHERE id = :id", first=first, id=second)
    with site.record.owner.begin() as c:
        append_event(
            c, second, Event.PUSH_PREFLIGHT, "worker-1", {"code": "ACCESS_DENIED", "message": "No <b>write</b>"}
        )
    page = site.browser(ada).get(f"/pushes/{second}").text
    assert f'href="/pushes/{first}"' in page
    assert "BagIt" in page
    assert "A probe of the destination failed: No &lt;b&gt;write&lt;/b&gt;" in page
