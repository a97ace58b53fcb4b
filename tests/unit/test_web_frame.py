"""What surrounds every page, and what sessions are made of: nothing here needs a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

import cloudpush.web
from cloudpush.errors import Code, SettingsError
from cloudpush.push.states import ENDINGS, Event, FileState, State
from cloudpush.web import sessions, signin, words
from cloudpush.web.assets import Assets
from cloudpush.web.headers import POLICY, Surroundings, own_origin
from cloudpush.web.pages import HOME, safe_next

STATIC = Path(cloudpush.web.__file__).parent / "static"
TEMPLATES = STATIC.with_name("templates")


SECRET = "what no page may say"


def client(url: str = "https://push.example") -> TestClient:
    """An application with a page and a hole, surrounded."""

    async def page(_: Request) -> Response:
        return PlainTextResponse("page")

    async def hole(_: Request) -> Response:
        raise HTTPException(418)

    async def defect(_: Request) -> Response:
        raise RuntimeError(SECRET)

    app = Starlette(
        routes=[Route("/", page), Route("/hole", hole), Route("/defect", defect)],
        middleware=[Middleware(Surroundings, web_url=url)],
    )
    return TestClient(app, base_url=url)


@pytest.mark.parametrize("path", ["/", "/hole", "/nowhere", "/healthz", "/defect"])
def test_every_answer_has_every_header(path: str) -> None:
    """Errors and what is not there, too."""
    headers = client().get(path).headers
    wanted = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "x-frame-options": "DENY",
        "cache-control": "no-store",
        "strict-transport-security": "max-age=63072000; includeSubDomains",
    }
    assert {name: headers.get(name) for name in wanted} == wanted
    assert len(headers["x-request-id"]) == 32


def test_a_defect_is_told_by_its_number_only() -> None:
    """No traceback, no word of the error; headers and number as everywhere."""
    answer = client().get("/defect")
    assert (answer.status_code, SECRET in answer.text) == (500, False)
    assert answer.headers["x-request-id"] in answer.text


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    """Each directive, as the brief of the pages says it."""
    directives = dict(d.strip().split(" ", 1) for d in POLICY.split(";"))
    assert directives == {
        "default-src": "'none'",
        "style-src": "'self'",
        "script-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "font-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


def test_no_strict_transport_on_this_machines_own_http() -> None:
    assert "strict-transport-security" not in client("http://127.0.0.1:8765").get("/").headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("push.example", 200),
        ("PUSH.example", 200),
        ("push.example:443", 200),
        ("push.example:444", 421),
        ("evil.example", 421),
        ("push.example.evil.example", 421),
        ("push.example@evil.example", 421),
        ("", 421),
    ],
)
def test_only_our_own_host_is_answered(host: str, status: int) -> None:
    """Whatever a proxy or an attacker writes there; nothing of it is repeated."""
    answer = client().get("/", headers={"host": host, "x-forwarded-host": "evil.example"})
    assert answer.status_code == status
    assert "evil" not in answer.text


def test_health_is_told_under_any_name() -> None:
    answer = client().get("/healthz", headers={"host": "10.0.0.7:8765"})
    assert (answer.status_code, answer.text) == (200, "ok\n")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "push.example",
        "http://push.example",
        "ftp://push.example",
        "https://push.example/sub",
        "https://u@x",
        "https://x?y",
    ],
)
def test_a_web_url_that_cannot_work_is_named(url: str) -> None:
    with pytest.raises(SettingsError, match="CLOUDPUSH_WEB_URL") as caught:
        own_origin(url)
    assert caught.value.code is Code.SETTINGS_INVALID


def test_csrf_tokens_are_the_sessions_own() -> None:
    """The same for a session, another for another, and no way back to the session's token."""
    one, other = sessions.new_token(), sessions.new_token()
    assert sessions.csrf_token(one) == sessions.csrf_token(one)
    assert sessions.csrf_token(one) != sessions.csrf_token(other)
    assert one not in sessions.csrf_token(one)
    sessions.check_csrf(one, sessions.csrf_token(one))
    for wrong in (
        "",
        "x",
        sessions.csrf_token(other),
        sessions.csrf_token(one)[:-1],
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
    ):
        with pytest.raises(HTTPException):
            sessions.check_csrf(one, wrong)
    with pytest.raises(HTTPException):
        sessions.check_csrf("", sessions.csrf_token(""))


def test_state_opens_in_the_session_that_it_was_sealed_in_only() -> None:
    """Nor does it open when a letter of it is another one."""
    token = sessions.new_token()
    state = signin.seal_state(token, "n", "/pushes")
    assert signin.open_state(token, state) == ("n", "/pushes")
    assert signin.open_state(sessions.new_token(), state) is None
    for i in range(len(state)):
        changed = state[:i] + ("A" if state[i] != "A" else "B") + state[i + 1 :]
        assert signin.open_state(token, changed) is None
    for wrong in ("", ".", "x.y", state.partition(".")[0], "\N{LATIN SMALL LETTER E WITH ACUTE}"):
        assert signin.open_state(token, wrong) is None


ID = "01a223df-8e41-71cb-9d5d-5f64fcd5c11a"


@pytest.mark.parametrize(
    "path", ["/connections", f"/connections/{ID}", "/pushes", f"/pushes/{ID}", "/connect", "/connect/google"]
)
def test_pages_that_show_something_may_come_next(path: str) -> None:
    assert safe_next(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "//evil",
        "https://evil",
        "/\\evil",
        "/sign-out",
        f"/connections/{ID}/revoke",
        "/pushes/../x",
        "/pushes\n",
        "/connect/A",
        " /pushes",
    ],
)
def test_anything_else_may_not(path: str) -> None:
    assert safe_next(path) == HOME


def test_every_state_and_every_event_has_words() -> None:
    """A new one is told by its name until somebody finds better words, and that is caught here."""
    assert set(words.PUSH_STATES) == {s.value for s in State}
    assert set(words.FILE_STATES) == {s.value for s in FileState}
    told = {e.value for e in Event if e.value.partition(".")[0] in ("push", "part", "file", "grant", "credential")}
    assert told - set(words.SENTENCES) == set()
    assert {e.value for e in ENDINGS.values()} <= set(words.SENTENCES)
    for kind in words.SENTENCES:
        assert words.sentence(kind, {})
    assert words.sentence("grant.invented_later", {}) == "grant: invented later."


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        ("grant.asked", {"scopes": ["drive", "x"]}, "The provider was asked for: Write objects; x."),
        ("grant.asked", {"scopes": []}, "The connection was asked for."),
        ("grant.granted", {"scopes": ["drive"], "subject": "ada"}, "Consent was given by ada for: Write objects."),
        ("grant.granted", {"scopes": [], "subject": ""}, "Connected; it keeps no secret."),
        ("credential.created", {"blocks": 0}, "There is nothing secret to seal."),
        ("credential.created", {"transit_key_version": 1}, "Its secrets are sealed in Vault."),
        ("grant.revoked", {"provider_told": True}, "Revoked; the provider was told, and no longer accepts its tokens."),
        ("grant.revoked", {"provider_told": False, "message": "No."}, "Revoked; the provider could not be told: No."),
    ],
)
def test_an_event_is_told_in_plain_words(kind: str, data: dict[str, Any], told: str) -> None:
    """Scopes as the operator explains them; no secret is spoken of where there is none."""
    assert words.sentence(kind, data, {"drive": "Write objects"}) == told


def test_marks_in_fixed_words_become_elements_and_nothing_else_does() -> None:
    assert words.prose("Press *Reconnect* or run `a <b>`.") == (
        "Press <strong>Reconnect</strong> or run <code>a &lt;b&gt;</code>."
    )


def test_assets_are_served_for_ever_under_their_digest_only() -> None:
    """An old page's address still works, and is not kept."""
    assets = Assets.read(STATIC)
    browser = TestClient(Starlette(routes=[*assets.routes()]))
    kept = browser.get(assets.path("style.css"))
    old = browser.get("/static/0000000000000000/style.css")
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert kept.headers["content-type"] == "text/css; charset=utf-8"
    assert old.headers["cache-control"] == "no-cache"
    for path in ("/static/x/../app.py", "/static/x/%2e%2e%2fapp.py", "/static/x/none.css"):
        assert browser.get(path).status_code == 404


def test_pages_need_nothing_inline_and_nothing_from_elsewhere() -> None:
    """What the policy would forbid, templates do not try."""
    for template in TEMPLATES.glob("*.html"):
        text = template.read_text()
        assert " style=" not in text, template.name
        assert "<style" not in text, template.name
        assert "|safe" not in text.replace(" ", ""), template.name
        for script in text.split("<script")[1:]:
            assert script.startswith(' type="module" src="{{ asset('), template.name
        assert "http-equiv" not in text, template.name
        for form in text.split("<form")[1:]:
            head = form.partition("</form>")[0]
            assert ('method="post"' in head) is ("csrf_field(visit)" in head), template.name
    for asset in STATIC.iterdir():
        assert "http" not in asset.read_text().replace("http://www.w3.org/2000/svg", ""), asset.name
