"""A person connects a cloud in a real browser, and everything that people do instead of what a form expects."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import chrome
from browser.chrome import Visit
from browser.stage import ALICE, BOB, CERTIFIED_TITLE, ROLE, TITLE, Stage
from browser.steps import LEAVE, connect, go, names, set_out, sign_in
from cloudpush.push.grants.model import GrantState

pytestmark = pytest.mark.xdist_group("browser")


# -- as it should go ------------------------------------------------------------------------------


def test_connecting_takes_a_consent_and_nothing_else(world: Stage, person: Visit) -> None:
    """What is asked for stands there in plain words; afterwards the connection says who consented to what."""
    page = person.page
    set_out(page, world, "lab")
    expect(page.get_by_text("Show CloudPush your e-mail address").first).to_be_visible()

    go(page)
    assert page.url.startswith(world.mock.issuer)
    page.get_by_role("button", name=ALICE).click()
    page.wait_for_url(f"{world.url}/**")

    expect(page.get_by_role("heading", level=1)).to_contain_text("onnect")
    [grant] = world.grants()
    assert (grant.name, grant.provider, grant.state, set(grant.granted)) == (
        "lab",
        "demo",
        GrantState.ACTIVE,
        {"openid", "email"},
    )
    assert "code=" not in page.url
    page.goto(f"{world.url}/connections")
    expect(page.get_by_role("link", name="lab", exact=True)).to_be_visible()


def test_a_push_goes_through_what_was_connected(world: Stage, person: Visit) -> None:
    """And the connection says which push used it last."""
    connect(person.page, world, "lab")

    push_id = world.push(world.source(), "lab")
    row = world.wait(push_id, "succeeded", "failed", "unverified")

    person.page.goto(f"{world.url}/connections")
    assert (row["state"], row["error_message"]) == ("succeeded", None)
    expect(person.page.locator(f"a[href='/pushes/{push_id}']")).to_be_visible()


# -- as it goes otherwise --------------------------------------------------------------------------


def test_who_says_no_is_told_that_nothing_was_connected(world: Stage, person: Visit) -> None:
    set_out(person.page, world, "lab")
    go(person.page)

    person.page.get_by_role("button", name="Deny").click()
    person.page.wait_for_url(f"{world.url}/**")

    expect(person.page.get_by_role("main")).to_contain_text(
        re.compile("nothing was connected|not connected", re.IGNORECASE)
    )
    assert names(world) == []


def test_who_walks_away_in_the_middle_has_connected_nothing(world: Stage, person: Visit) -> None:
    """And can begin again at once, under the same name."""
    set_out(person.page, world, "lab")
    go(person.page)

    person.page.goto(f"{world.url}/connections")
    between = names(world)
    connect(person.page, world, "lab")

    assert (between, names(world)) == ([], ["lab"])


def test_the_back_button_after_consent_connects_nothing_twice(world: Stage, person: Visit) -> None:
    """The provider's page is there again; what it sends was used already, and the page says how it ended then."""
    connect(person.page, world, "lab")

    for _ in range(3):
        person.page.go_back()
        if person.page.url.startswith(world.mock.issuer):
            break
    person.page.get_by_role("button", name=ALICE).first.click()
    person.page.wait_for_url(f"{world.url}/**")

    assert names(world) == ["lab"]
    expect(person.page.get_by_role("main")).to_contain_text("lab")


def test_a_double_click_is_one_click(world: Stage, person: Visit) -> None:
    """On our button and on the provider's."""
    set_out(person.page, world, "lab")
    person.page.get_by_role("button", name=LEAVE).dblclick()
    person.page.wait_for_url(f"{world.mock.issuer}/**")
    person.page.get_by_role("button", name=ALICE).dblclick()
    person.page.wait_for_url(f"{world.url}/**")

    person.page.goto(f"{world.url}/connections")
    assert names(world) == ["lab"]


def test_who_takes_longer_than_ten_minutes_is_told_so(world: Stage, person: Visit) -> None:
    set_out(person.page, world, "lab")
    go(person.page)
    world.sql(
        "UPDATE consent_attempt SET created_at = created_at - %s, expires_at = expires_at - %s WHERE used_at IS NULL",
        timedelta(minutes=11),
        timedelta(minutes=11),
    )

    person.page.get_by_role("button", name=ALICE).click()
    person.page.wait_for_url(f"{world.url}/**")

    expect(person.page.get_by_role("main")).to_contain_text("longer than 10 minutes")
    assert names(world) == []


def test_two_tabs_do_not_disturb_each_other(world: Stage, person: Visit) -> None:
    """Each has an attempt of its own, whichever comes back first."""
    second = person.tab()
    set_out(person.page, world, "first")
    go(person.page)
    set_out(second, world, "second")
    go(second)

    person.page.get_by_role("button", name=ALICE).first.click()
    person.page.wait_for_url(f"{world.url}/**")
    second.get_by_role("button", name=BOB).first.click()
    second.wait_for_url(f"{world.url}/**")

    assert names(world) == ["first", "second"]


def test_an_answer_is_worth_nothing_in_another_browser(world: Stage, person: Visit, chromium: Browser) -> None:
    """Code and state, taken from one browser and put into another that is signed in as well: nothing comes of it."""
    set_out(person.page, world, "lab")
    go(person.page)
    # What the provider's page would send, by hand, so that nobody follows where it leads: the code is still good.
    answer = person.context.request.post(person.page.url, form={"sub": ALICE}, max_redirects=0)
    with chrome.visiting(chromium, world.url) as other:
        sign_in(other.page, world)
        other.page.goto(answer.headers["location"])
        expect(other.page.get_by_role("main")).to_contain_text("does not belong to anything that you began")

    assert names(world) == []


# -- the certified provider ---------------------------------------------------------------------


def test_the_certified_provider_connects(world: Stage, person: Visit) -> None:
    """Its own pages for login and consent, PKCE demanded, `iss` in the answer (RFC 9207)."""
    set_out(person.page, world, "certified", provider=CERTIFIED_TITLE)
    go(person.page)
    person.page.locator("input[name=login]").fill("ada")
    person.page.locator("input[name=password]").fill("any")
    person.page.get_by_role("button", name=re.compile("Sign-in", re.IGNORECASE)).click()
    person.page.get_by_role("button", name="Continue").click()
    person.page.wait_for_url(f"{world.url}/**")

    [grant] = world.grants()
    assert (grant.name, grant.state, "storage.write" in grant.granted) == ("certified", GrantState.ACTIVE, True)


def test_the_certified_provider_is_told_no(world: Stage, person: Visit) -> None:
    """Its way out is a link; its own words are shown as such."""
    set_out(person.page, world, "certified", provider=CERTIFIED_TITLE)
    go(person.page)
    person.page.locator("input[name=login]").fill("ada")
    person.page.locator("input[name=password]").fill("any")
    person.page.get_by_role("button", name=re.compile("Sign-in", re.IGNORECASE)).click()

    person.page.get_by_role("link", name=re.compile("Cancel", re.IGNORECASE)).click()
    person.page.wait_for_url(f"{world.url}/**")

    expect(person.page.get_by_role("main")).to_contain_text(
        re.compile("nothing was connected|not connected", re.IGNORECASE)
    )
    assert names(world) == []


# -- other people, other browsers -------------------------------------------------------------------


def test_all_of_it_works_without_javascript(world: Stage, chromium: Browser) -> None:
    """Sign in, connect, look, revoke: forms and links only."""
    world.clear()
    with chrome.visiting(chromium, world.url, java_script_enabled=False) as visit:
        page = visit.page
        sign_in(page, world)
        connect(page, world, "plain")
        between = names(world)
        push_id = world.push(world.source(), "plain")
        row = world.wait(push_id, "succeeded", "failed", "unverified")
        page.goto(f"{world.url}/pushes/{push_id}")
        expect(page.get_by_role("main")).to_contain_text(re.compile("succeeded|verified|Done", re.IGNORECASE))

        page.goto(f"{world.url}/connections")
        page.get_by_role("link", name="plain", exact=True).click()
        page.get_by_role("link", name=re.compile("Revoke|Take it back", re.IGNORECASE)).first.click()
        page.get_by_role("button", name=re.compile("Revoke|Take it back", re.IGNORECASE)).click()

    assert (between, row["state"], names(world)) == (["plain"], "succeeded", [])


def test_the_keyboard_alone_is_enough(world: Stage, person: Visit) -> None:
    """Tab and Enter from the first page to the provider, and the focus can be seen all the way."""
    page = person.page
    page.goto(f"{world.url}/connections")
    tab_to(page, "a", "Connect an account")
    page.keyboard.press("Enter")
    page.wait_for_url("**/connect")
    tab_to(page, "a", f"Connect {TITLE}")
    page.keyboard.press("Enter")
    page.wait_for_url("**/connect/demo")
    tab_to(page, "input", "answer.role_arn")
    page.keyboard.type(ROLE)
    tab_to(page, "button", "Connect")
    page.keyboard.press("Enter")

    page.wait_for_url(f"{world.mock.issuer}/**")


def tab_to(page: Page, tag: str, words: str) -> None:
    """Press Tab until an element of that kind has the focus whose text, or name, begins with ``words``."""
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate(
            r"""() => { const e = document.activeElement, s = getComputedStyle(e); return {
                tag: e.tagName.toLowerCase(), words: (e.name || e.innerText || '').replace(/\s+/g, ' ').trim(),
                seen: s.outlineStyle !== 'none' || s.boxShadow !== 'none' }; }"""
        )
        seen.append(f"{found['tag']} {found['words'][:30]}")
        if found["tag"] == tag and found["words"].startswith(words):
            assert found["seen"], f"no visible focus on {found}"
            return
    pytest.fail(f"Tab never reached {tag} {words!r}, only {seen}")
