"""Debian's Chromium, driven by Playwright: a fresh profile for each test, and everything noted that a page must not do."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, Request, Route

NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Without these, it looks for updates and services that are not part of any test.
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
AXE = Path(sys.prefix) / "browser-tests" / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE_MS = 30_000
Scheme = Literal["light", "dark"]

#: What `securitypolicyviolation` tells, kept where a test can read it; runs before any script of the page.
LISTEN = """
window.__violations = [];
document.addEventListener('securitypolicyviolation', e => window.__violations.push(
    `${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber}`));
"""
#: Parts of URLs that are secrets or open something.
SECRETS = re.compile(r"[?&#](code|state|access_token|id_token|refresh_token|token)=|/sign-in/[A-Za-z0-9_-]{20,}")


def executable() -> str:
    """The browser of this machine."""
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        if name and (found := shutil.which(name)):
            return found
    pytest.fail("no Chromium: `make test` installs it, or set CHROMIUM to the path of one")


def launched(playwright: Playwright) -> Browser:
    """One browser for all tests of a process."""
    return playwright.chromium.launch(
        executable_path=executable(),
        args=[*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])],
        chromium_sandbox=os.geteuid() != 0,
    )


@dataclass
class Visit:
    """One person with a browser of their own: a context, its page, and what was seen on the way."""

    context: BrowserContext
    page: Page
    origin: str  # of our pages
    referers: list[tuple[str, str]] = field(default_factory=list)  # URL, Referer that it was asked with
    problems: list[str] = field(default_factory=list)  # of our own pages: console errors, violations

    def listen(self, page: Page) -> None:
        """Note what ``page`` asks for and complains about."""
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("request", self._asked)

    def tab(self) -> Page:
        """A second tab of the same browser."""
        page = self.context.new_page()
        self.listen(page)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        where = message.location.get("url", "")
        if message.type == "error" and where.startswith(self.origin) and "status of 4" not in message.text:
            self.problems.append(f"console: {message.text} {where}")

    def _asked(self, request: Request) -> None:
        self.referers.append((request.url, request.headers.get("referer", "")))

    def violations(self) -> list[str]:
        """Of the content security policy, on the page that is shown."""
        found: list[str] = self.page.evaluate("window.__violations || []")
        return found

    def leaks(self) -> list[tuple[str, str]]:
        """Requests whose Referer is an address of ours with a secret in it, or any with one that we are sent.

        What a provider's own page tells that provider is not ours to keep.
        """
        told = [(url, referer) for url, referer in self.referers if SECRETS.search(referer)]
        return [
            (url, referer)
            for url, referer in told
            if self.origin in (referer[: len(self.origin)], url[: len(self.origin)])
        ]

    def judge(self, scheme: Scheme | None = None, *rules: str) -> list[str]:
        """What axe-core finds serious or worse on the page that is shown: rule, impact, where. ``rules``: by these only."""
        if scheme:
            self.page.emulate_media(color_scheme=scheme)
        only = f", runOnly: {list(rules)}" if rules else ""
        found = self.page.evaluate(
            # In an isolated world the page's own policy does not concern it.
            f"async () => {{ {axe()}; const r = await window.axe.run(document, {{resultTypes: ['violations']{only}}});"
            " return r.violations; }"
        )
        return [
            f"{scheme or ''} {v['id']} ({v['impact']}): {v['help']}: {n['target']} {n.get('failureSummary', '')}"
            for v in found
            if v["impact"] in ("serious", "critical")
            for n in v["nodes"]
        ]


@cache
def axe() -> str:
    """axe-core as `make` installed it."""
    if not AXE.is_file():
        pytest.fail(f"axe-core is not at {AXE}: `make test` installs it (deploy/browser-tests)")
    return AXE.read_text(encoding="utf-8")


@contextmanager
def visiting(browser: Browser, origin: str, **options: Any) -> Iterator[Visit]:
    """A fresh profile; ``options`` are Playwright's own. Nothing but this machine can be reached."""
    options = {"locale": "en-GB", "viewport": {"width": 1100, "height": 800}} | options
    context = browser.new_context(**options)
    context.route(lambda url: urlsplit(url).hostname != "127.0.0.1", _stay_here)
    context.add_init_script(LISTEN)
    visit = Visit(context, context.new_page(), origin)
    visit.listen(visit.page)
    try:
        yield visit
    finally:
        context.close()


def _stay_here(route: Route) -> None:
    route.abort()
