"""What people do in the pages, in their own words."""

from __future__ import annotations

import re

from playwright.sync_api import Page

from browser.stage import ALICE, ROLE, TITLE, Stage
from cloudpush.push.grants.model import GrantState
from cloudpush.wiring import sign_in_link

LEAVE = re.compile("^(Connect|Continue)")


def sign_in(page: Page, world: Stage) -> None:
    """By a one-time link."""
    page.goto(world.link())
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/connections")


def sign_in_as(page: Page, world: Stage, owner: str) -> None:
    """The same, as somebody else."""
    page.goto(sign_in_link(world.settings, owner, seconds=60))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/connections")


def set_out(page: Page, world: Stage, name: str, *, provider: str = TITLE) -> None:
    """From anywhere to the form of a provider, filled in; the button is not pressed yet."""
    page.goto(f"{world.url}/connect")
    page.get_by_role("link", name=re.compile(rf"Connect {provider}")).click()
    page.locator("input[name=name]").fill(name)
    role = page.locator("input[name='answer.role_arn']")
    if role.count():
        role.fill(ROLE)


def go(page: Page) -> None:
    """To the provider."""
    page.get_by_role("button", name=LEAVE).click()


def connect(page: Page, world: Stage, name: str, *, user: str = ALICE, provider: str = TITLE) -> None:
    """All of it, as it should go."""
    set_out(page, world, name, provider=provider)
    go(page)
    consent(page, world, user)


def consent(page: Page, world: Stage, user: str = ALICE) -> None:
    """At the mock provider: the button of ``user``, and back."""
    page.get_by_role("button", name=user).first.click()
    page.wait_for_url(f"{world.url}/**")


def names(world: Stage) -> list[str]:
    """Connections that work."""
    return sorted(g.name for g in world.grants() if g.state is GrantState.ACTIVE)
