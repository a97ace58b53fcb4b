"""One stack and one Chromium for all of these tests, on one process; a fresh profile for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from browser import chrome, stage
from browser.chrome import Visit
from browser.stage import Stage
from browser.steps import sign_in


@pytest.fixture(scope="session")
def world() -> Iterator[Stage]:
    """CloudPush with its pages, the users' clouds and providers, running."""
    with stage.running() as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser itself. Not for the session: while Playwright is at work, no other test of this process could run an event loop."""
    expect.set_options(timeout=chrome.PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = chrome.launched(playwright)
        yield browser
        browser.close()


@pytest.fixture
def visit(world: Stage, chromium: Browser) -> Iterator[Visit]:
    """Somebody with a browser who was never here. At the end: no page of ours broke its own rules or told a secret."""
    world.clear()
    with chrome.visiting(chromium, world.url) as visiting:
        yield visiting
        assert (visiting.problems, visiting.leaks()) == ([], [])


@pytest.fixture
def person(world: Stage, visit: Visit) -> Visit:
    """Somebody who has signed in by a one-time link."""
    sign_in(visit.page, world)
    return visit
