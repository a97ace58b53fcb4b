"""A visitor of web pages for the scripted demo: reads forms, presses buttons, keeps cookies, runs no script.

What it does a person with a browser without JavaScript could do: it fills in the forms that the pages show, and sends
the hidden fields with them. It goes to loopback only.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.client import HTTPMessage
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import IO
from urllib.parse import urlencode, urljoin, urlsplit

from cloudpush.errors import Code, StackError
from cloudpush.stack.ports import HOST

#: How long a page may take, seconds.
PAGE_SECONDS = 20.0
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "source", "wbr"})
_SILENT = frozenset({"script", "style", "title", "head", "svg", "template"})


@dataclass(slots=True)
class Form:
    """A form of a page: its fields with what is in them, and its buttons by what is written on them."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, tuple[str, str]] = field(default_factory=dict)  # words → name and value that it sends


@dataclass(slots=True)
class Page:
    """What came back: where it is, what it says, and what can be done there."""

    url: str
    status: int
    heading: str = ""
    text: str = ""
    forms: list[Form] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)  # words → absolute URL

    def form(self, button: str) -> tuple[Form, str]:
        """The first form with a button whose words begin with ``button``, and all its words. Raises StackError."""
        for form in self.forms:
            for words in form.buttons:
                if words.startswith(button):
                    return form, words
        raise StackError(Code.STACK, f"The page {self.heading!r} has no button {button!r}; it says: {self.text[:300]}")


class Visitor:
    """One browser's worth of cookies. Loopback counts as secure, as it does for browsers."""

    def __init__(self) -> None:
        policy = DefaultCookiePolicy(secure_protocols=("http", "https"))
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar(policy)), _OnLoopback()
        )

    def go(self, url: str) -> Page:
        """Open ``url`` and follow where it leads. Raises StackError where nothing answers."""
        return self._open(urllib.request.Request(_loopback(url)))  # noqa: S310 - checked

    def press(self, page: Page, button: str, fields: Mapping[str, str] | None = None) -> Page:
        """Fill in ``fields`` and press the button of ``page`` whose words begin with ``button``. Raises StackError."""
        form, words = page.form(button)
        name, value = form.buttons[words]
        sent = form.fields | dict(fields or {}) | ({name: value} if name else {})
        url, data = _loopback(form.action), urlencode(sent)
        if form.method != "post":
            return self.go(f"{url.partition('?')[0]}?{data}")
        return self._open(
            urllib.request.Request(  # noqa: S310 - checked
                url,
                data.encode(),
                {"Content-Type": "application/x-www-form-urlencoded", "Origin": _origin(page.url)},
            )
        )

    def _open(self, request: urllib.request.Request) -> Page:
        try:
            with self._opener.open(request, timeout=PAGE_SECONDS) as answer:
                return _read(answer.url, answer.status, answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as e:  # a page, too
            with e:
                return _read(e.url, e.code, e.read().decode(errors="replace"))
        except OSError as e:
            raise StackError(Code.STACK, f"{_origin(request.full_url)} does not answer: {e}") from e


class _OnLoopback(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not off this machine."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        return super().redirect_request(req, fp, code, msg, headers, _loopback(newurl))


def _loopback(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname != HOST:
        raise StackError(Code.STACK, f"The demo's visitor goes to http://{HOST} only, not to {_origin(url)}.")
    return url


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _read(url: str, status: int, html: str) -> Page:
    reader = _Reader(Page(url, status))
    reader.feed(html)
    reader.close()
    return reader.page


class _Reader(HTMLParser):
    """Fills a page from its HTML."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self._open: list[str] = []
        self._form: Form | None = None
        self._button: tuple[str, str] | None = None
        self._link = ""
        self._select = ""
        self._words: list[str] = []  # of the button, link or heading that is being read

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what opens."""
        found = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self._open.append(tag)
        match tag:
            case "form":
                self._form = Form(
                    urljoin(self.page.url, found.get("action") or self.page.url), found.get("method", "get").lower()
                )
                self.page.forms.append(self._form)
            case "button":
                self._button, self._words = (found.get("name", ""), found.get("value", "")), []
            case "a":
                self._link, self._words = found.get("href", ""), []
            case "h1":
                self._words = []
            case "input" if self._form is not None:
                self._input(found)
            case "select":
                self._select = found.get("name", "")
            case "option" if self._form is not None and self._select:
                if "selected" in found or self._select not in self._form.fields:
                    self._form.fields[self._select] = found.get("value", "")

    def _input(self, found: dict[str, str]) -> None:
        form, kind, name = self._form, found.get("type", "text"), found.get("name", "")
        if form is None:
            return
        if kind == "submit":
            form.buttons[found.get("value", "")] = (name, found.get("value", "") if name else "")
        elif name and (kind not in ("checkbox", "radio") or "checked" in found):
            form.fields[name] = found.get("value", "on" if kind in ("checkbox", "radio") else "")

    def handle_endtag(self, tag: str) -> None:
        """Note what closes."""
        while tag in self._open and self._open.pop() != tag:
            pass
        words = " ".join(" ".join(self._words).split())
        match tag:
            case "form":
                self._form = None
            case "button" if self._form is not None and self._button is not None:
                self._form.buttons[words] = self._button
                self._button = None
            case "a" if self._link:
                self.page.links[words] = urljoin(self.page.url, self._link)
                self._link = ""
            case "h1" if not self.page.heading:
                self.page.heading = words
            case "select":
                self._select = ""

    def handle_data(self, data: str) -> None:
        """Keep what a reader sees."""
        if not _SILENT.intersection(self._open) and data.strip():
            self._words.append(data)
            self.page.text = f"{self.page.text} {' '.join(data.split())}".strip()
