"""The pages in a real browser: signing in, what is live, who can use them, and what they must never do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from browser import chrome
from browser.chrome import Visit
from browser.stage import ALICE, BOB, SHORT_SECONDS, SHORT_TITLE, Stage, until
from browser.steps import connect, consent, go, names, set_out, sign_in
from cloudpush.push.grants.model import GrantState

pytestmark = pytest.mark.xdist_group("browser")

#: Where `make browser PICTURES=docs/pictures` puts screenshots; empty: nowhere.
PICTURES = os.environ.get("PICTURES", "")
REVOKE = re.compile("Revoke", re.IGNORECASE)


def revoke(page: Page, world: Stage, name: str) -> None:
    """From the list of connections."""
    page.goto(f"{world.url}/connections")
    page.get_by_role("link", name=name, exact=True).first.click()
    page.get_by_role("link", name=REVOKE).first.click()
    page.get_by_role("button", name=REVOKE).click()


# -- signing in -----------------------------------------------------------------------------------


def test_a_one_time_link_signs_in_once(world: Stage, visit: Visit, chromium: Browser) -> None:
    """Looking at it uses nothing up; pressing the button does, and a second browser is told so."""
    link = world.link()
    visit.page.goto(link)
    visit.page.reload()
    visit.page.get_by_role("button", name="Sign in").click()
    visit.page.wait_for_url("**/connections")

    with chrome.visiting(chromium, world.url) as second:
        second.page.goto(link)
        button = second.page.get_by_role("button", name="Sign in")
        if button.count():
            button.click()
        expect(second.page.get_by_role("main")).to_contain_text("used before")
        second.page.goto(f"{world.url}/connections")
        assert "/sign-in" in second.page.url


def test_the_operators_provider_signs_in(world: Stage, visit: Visit) -> None:
    """And leads to where the person wanted to go. Signing out ends it."""
    visit.page.goto(f"{world.url}/pushes")
    visit.page.get_by_role("link", name=re.compile("Continue at")).click()
    consent(visit.page, world, BOB)
    assert visit.page.url == f"{world.url}/pushes"
    expect(visit.page.get_by_text(BOB).first).to_be_visible()

    visit.page.get_by_role("button", name="Sign out").click()
    visit.page.goto(f"{world.url}/pushes")
    assert "/sign-in" in visit.page.url


def test_the_session_cookie_is_for_this_host_and_for_no_script(world: Stage, person: Visit) -> None:
    """As the browser itself sees it; signing in has changed it."""
    [cookie] = [c for c in person.context.cookies() if c["name"].startswith("__Host-")]

    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"], cookie["domain"]) == (
        True,
        True,
        "Lax",
        "/",
        "127.0.0.1",
    )
    assert (cookie["expires"], person.page.evaluate("document.cookie")) == (-1, "")


# -- while something runs ----------------------------------------------------------------------------


def test_a_push_is_seen_to_get_on_and_to_end(world: Stage, person: Visit) -> None:
    """Nobody reloads the page: events from the server change it."""
    connect(person.page, world, "lab")
    with world.gate.closed():
        push_id = world.push(world.source(mebibytes=24), "lab")
        world.wait_until_stuck()
        person.page.goto(f"{world.url}/pushes/{push_id}")
        person.page.evaluate("window.__same = true")
        expect(person.page.get_by_role("progressbar")).to_be_visible()
    world.wait(push_id, "succeeded")

    expect(person.page.get_by_role("main")).to_contain_text(re.compile("succeeded", re.IGNORECASE))
    assert person.page.evaluate("window.__same === true"), "the page was loaded anew"


def test_a_running_push_stops_when_its_consent_is_taken_back(world: Stage, person: Visit) -> None:
    """Within ten seconds, in mid-file; what waits ends as well, and the page of the connection tells all of it."""
    connect(person.page, world, "lab")
    [grant] = world.grants()
    with world.gate.closed():
        push_id = world.push(world.source(mebibytes=48), "lab")
        world.wait_until_stuck()

        revoke(person.page, world, "lab")
        row = world.wait(push_id, "failed", "succeeded", "cancelled")

    assert (row["state"], row["error_code"]) == ("failed", "CONSENT_REVOKED")
    assert names(world) == []
    person.page.goto(f"{world.url}/connections/{grant.id}")
    expect(person.page.get_by_role("main")).to_contain_text(re.compile("revoked|taken back", re.IGNORECASE))


def test_what_came_of_a_check_appears_by_itself(world: Stage, person: Visit) -> None:
    """Nobody reloads the page: it looks again until a worker has tried the connection out."""
    connect(person.page, world, "lab")
    [grant] = world.grants()
    person.page.goto(f"{world.url}/connections/{grant.id}")
    person.page.get_by_role("button", name="Check that it works").click()
    person.page.wait_for_url("**?done=checking")
    person.page.evaluate("window.__same = true")

    expect(person.page.get_by_role("status")).to_contain_text("Tried out: it works.", timeout=60_000)
    assert person.page.evaluate("window.__same === true"), "the page was loaded anew"


def test_reconnecting_lets_what_waited_go_on(world: Stage, person: Visit) -> None:
    """The provider has forgotten the consent: the push waits, the page says so, and one click sets it going."""
    connect(person.page, world, "hasty", provider=SHORT_TITLE)
    [grant] = world.grants()
    world.hasty.revoke_tokens(ALICE)
    until(lambda: _due(world, grant.name), f"tokens of {SHORT_SECONDS} s are due")
    push_id = world.push(world.source(), "hasty")
    waiting = world.wait(push_id, "awaiting_consent", "failed", "succeeded")

    person.page.goto(f"{world.url}/connections")
    expect(person.page.get_by_role("main")).to_contain_text(re.compile("reconnect", re.IGNORECASE))
    person.page.get_by_role("button", name="Reconnect").first.click()
    consent(person.page, world, ALICE)
    row = world.wait(push_id, "succeeded", "failed", "unverified")

    assert (waiting["state"], waiting["error_code"]) == ("awaiting_consent", "CONSENT_NEEDED")
    assert (row["state"], names(world)) == ("succeeded", ["hasty"])


def test_another_account_is_no_reconnect(world: Stage, person: Visit) -> None:
    """Pushes would go to somebody else's cloud."""
    connect(person.page, world, "lab")
    [grant] = world.grants()
    person.page.goto(f"{world.url}/connections/{grant.id}")
    person.page.get_by_role("button", name="Reconnect").first.click()
    consent(person.page, world, BOB)

    expect(person.page.get_by_role("main")).to_contain_text("not the account")
    assert [(g.name, g.subject) for g in world.grants()] == [("lab", grant.subject)]


def _due(world: Stage, name: str) -> bool:
    from datetime import UTC, datetime, timedelta

    [grant] = [g for g in world.grants() if g.name == name]
    return grant.access_expires_at is not None and datetime.now(UTC) > grant.access_expires_at - timedelta(seconds=2)


# -- every page --------------------------------------------------------------------------------------


def every_page(world: Stage, visit: Visit) -> list[tuple[str, str]]:
    """Names and addresses of all pages that there are, with something on each."""
    page = visit.page
    connect(page, world, "lab")
    [grant] = world.grants()
    page.goto(f"{world.url}/connect/aws")
    page.get_by_label("Role ARN").fill("arn:aws:iam::123456789012:role/cloudpush")
    page.get_by_label("Region").fill("eu-central-1")
    go(page)
    page.wait_for_url("**/trust")
    trust = page.url.removeprefix(world.url)
    push_id = world.push(world.source(), "lab")
    world.wait(push_id, "succeeded", "failed", "unverified")
    bad = world.push(world.source(), "lab", "no-such-bucket-here")
    world.wait(bad, "succeeded", "failed", "unverified")
    return [
        ("connections", "/connections"),
        ("connect", "/connect"),
        ("consent", "/connect/demo"),
        ("consent-aws", "/connect/aws"),
        ("trust", trust),
        ("connection", f"/connections/{grant.id}"),
        ("revoke", f"/connections/{grant.id}/revoke"),
        ("pushes", "/pushes"),
        ("push", f"/pushes/{push_id}"),
        ("push-failed", f"/pushes/{bad}"),
        ("account", "/account"),
        ("tokens", "/tokens"),
        ("device", "/device"),
        ("device, wrong", "/device?code=AAAA-AAAA"),
        ("device, approve", f"/device?code={login_code(world)}"),
        ("nothing", "/nothing-here"),
    ]


def login_code(world: Stage) -> str:
    """What a command line shows that asks to be signed in."""
    answer = requests.post(f"{world.url}/v1/login/device", json={"host": "hpc7.example"}, timeout=30)
    assert answer.status_code == 200, answer.text
    code: str = answer.json()["user_code"]
    return code


def test_every_page_can_be_used_by_everybody_and_breaks_no_rule(world: Stage, person: Visit) -> None:
    """axe-core finds nothing serious, light or dark; no violation of the content policy; no page wider than a telephone."""
    found: list[str] = []
    pages = every_page(world, person)
    for name, path in pages:
        person.page.goto(f"{world.url}{path}")
        for scheme in ("light", "dark"):
            found += [f"{name}: {problem}" for problem in person.judge(scheme)]
        found += [f"{name}: {problem}" for problem in person.violations()]
        person.page.set_viewport_size({"width": 320, "height": 640})
        wide = person.page.evaluate("document.documentElement.scrollWidth")
        found += [f"{name}: {wide} pixels wide on a screen of 320"] if wide > 320 else []
        person.page.set_viewport_size({"width": 1100, "height": 800})
        found += [f"{name}: {n} headings of level 1"] if (n := person.page.locator("h1").count()) != 1 else []

    assert found == []


def test_pages_before_signing_in_can_be_used_by_everybody(world: Stage, visit: Visit) -> None:
    found: list[str] = []
    for path in ("/sign-in", world.link().removeprefix(world.url), "/consent/nowhere"):
        visit.page.goto(f"{world.url}{path}")
        for scheme in ("light", "dark"):
            found += [f"{path}: {problem}" for problem in visit.judge(scheme)]
        found += visit.violations()

    assert found == []


def test_the_judges_see_what_is_wrong(world: Stage, visit: Visit) -> None:
    """A picture without words, and a style that the policy forbids: else their silence on the other pages would say nothing."""
    visit.page.goto(f"{world.url}/sign-in")
    visit.page.evaluate("document.querySelector('main').append(document.createElement('img'))")
    visit.page.evaluate(
        "document.querySelector('main').insertAdjacentHTML('beforeend', '<p style=\"color:red\">x</p>')"
    )

    judged, violations = visit.judge("light"), visit.violations()

    visit.problems.clear()  # the console complains of it, too
    assert [line.split()[1] for line in judged] == ["image-alt"]
    assert [line.split()[0] for line in violations] == ["style-src-attr"]


def test_no_address_of_ours_reaches_a_provider(world: Stage, person: Visit) -> None:
    """Whatever is asked of another origin carries no Referer at all."""
    connect(person.page, world, "lab")

    abroad = [(url, referer) for url, referer in person.referers if not url.startswith(world.url) and referer]
    assert [(url, referer) for url, referer in abroad if referer.startswith(world.url)] == []


# -- pictures for the docs -----------------------------------------------------------------------------


@pytest.mark.skipif(not PICTURES, reason="only where PICTURES names a directory: `make browser PICTURES=docs/pictures`")
def test_pictures_are_taken(world: Stage, visit: Visit, chromium: Browser) -> None:
    """Of what the docs show; made anew by hand when pages change."""
    target = Path(PICTURES)
    target.mkdir(parents=True, exist_ok=True)

    def shoot(page: Page, name: str) -> None:
        page.evaluate("document.activeElement && document.activeElement.blur()")
        page.screenshot(path=target / f"{name}.png", full_page=True, animations="disabled")

    page = visit.page
    page.set_viewport_size({"width": 960, "height": 640})
    page.goto(f"{world.url}/sign-in")
    shoot(page, "sign-in")
    sign_in(page, world)
    connect(page, world, "lab")
    shoot(page, "connected")
    push_id = world.push(world.source(files=12), "lab")
    world.wait(push_id, "succeeded", "failed")
    set_out(page, world, "archive")
    shoot(page, "connect")
    go(page)
    consent(page, world, BOB)
    connect(page, world, "hasty", provider=SHORT_TITLE)
    page.goto(f"{world.url}/connections")
    shoot(page, "connections")
    page.emulate_media(color_scheme="dark")
    shoot(page, "connections-dark")
    page.emulate_media(color_scheme="light")
    with world.gate.closed():
        running = world.push(world.source(mebibytes=64, files=5), "lab")
        world.wait_until_stuck()
        page.goto(f"{world.url}/pushes/{running}")
        expect(page.get_by_role("progressbar")).to_be_visible()
        shoot(page, "push")
        [grant] = [g for g in world.grants() if g.name == "lab"]
        page.goto(f"{world.url}/connections/{grant.id}/revoke")
        shoot(page, "revoke")
    world.wait(running, "succeeded")
    page.goto(f"{world.url}/connections/{grant.id}")
    shoot(page, "connection")
    page.goto(f"{world.url}/device?code={login_code(world)}")
    shoot(page, "device")
    page.get_by_role("button", name="Approve").click()
    page.goto(f"{world.url}/tokens")
    page.get_by_label("Name").fill("nightly run on hpc7")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("heading", name="Your new token")).to_be_visible()
    shown = page.get_by_role("region", name="Your new token").locator("code")
    shown.evaluate(
        "e => { e.textContent = e.textContent.slice(0, 8) + '…'.repeat(12); }"
    )  # a picture is no place for it
    shoot(page, "tokens")
    page.emulate_media(color_scheme="dark")
    shoot(page, "tokens-dark")
    page.emulate_media(color_scheme="light")
    page.goto(f"{world.url}/pushes")
    shoot(page, "pushes")
    world.hasty.revoke_tokens(ALICE)
    until(lambda: _due(world, "hasty"), "tokens are due")
    world.wait(world.push(world.source(), "hasty"), "awaiting_consent")
    page.goto(f"{world.url}/connections")
    shoot(page, "reconnect")
    assert {g.state for g in world.grants()} >= {GrantState.RECONNECT}
