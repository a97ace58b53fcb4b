"""The demo's visitor does what a person with a browser without JavaScript could do, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from cloudpush.cli.demo_visitor import Visitor
from cloudpush.errors import StackError

PAGE = """<!doctype html><html><head><title>no</title><style>no</style></head><body>
<h1>Connect <b>it</b></h1><a href="/there?x=1"><span>Con</span>nect Cloud</a>
<form method="post" action="/other"><button>Sign out</button></form>
<form method="post"><input type="hidden" name="csrf" value="a&amp;b"><input name="name" value="old">
<input type="checkbox" name="off" value="1"><input type="checkbox" name="on" value="2" checked>
<select name="pick"><option value="p">P</option><option value="q" selected>Q</option></select>
<button name="go" value="yes">Connect <span>now</span></button></form></body></html>"""


class Site(BaseHTTPRequestHandler):
    """One page with forms; POST sets a Secure cookie and redirects; /away leads elsewhere."""

    seen: ClassVar[list[tuple[str, str, str, str]]] = []

    def do_GET(self) -> None:
        self._note("")
        if self.path == "/away":
            self._redirect("http://cloudpush.example/")
        else:
            self.send_response(404 if self.path == "/missing" else 200)
            self.end_headers()
            self.wfile.write(PAGE.encode())

    def do_POST(self) -> None:
        self._note(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._redirect("/done", "__Host-x=1; Secure; HttpOnly; Path=/; SameSite=Lax")

    def _redirect(self, where: str, cookie: str = "") -> None:
        self.send_response(303)
        self.send_header("Location", where)
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.end_headers()

    def _note(self, body: str) -> None:
        self.seen.append((self.command, self.path, body, self.headers.get("Cookie", "")))

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    Site.seen.clear()
    server = HTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_page_is_read_as_people_see_it(site: str) -> None:
    page = Visitor().go(f"{site}/start")

    assert (page.status, page.heading, page.links) == (200, "Connect it", {"Con nect Cloud": f"{site}/there?x=1"})
    assert "no" not in page.text.split()


def test_a_form_is_sent_with_what_is_in_it(site: str) -> None:
    """Hidden fields, ticked boxes and the chosen option; the address of the page where it names no other."""
    visitor = Visitor()

    visitor.press(visitor.go(f"{site}/start?a=1"), "Connect", {"name": "new"})

    assert Site.seen[1][:3] == ("POST", "/start?a=1", "csrf=a%26b&name=new&on=2&pick=q&go=yes")


def test_secure_cookies_come_back_to_this_machine(site: str) -> None:
    """As browsers do it: loopback counts as secure."""
    visitor = Visitor()

    visitor.press(visitor.go(site), "Connect")

    assert Site.seen[-1] == ("GET", "/done", "", "__Host-x=1")


def test_an_error_is_a_page(site: str) -> None:
    page = Visitor().go(f"{site}/missing")

    assert (page.status, page.heading) == (404, "Connect it")


@pytest.mark.parametrize("path", ["/away", ""])
def test_it_leaves_this_machine_for_nobody(site: str, path: str) -> None:
    with pytest.raises(StackError, match=r"not to http://cloudpush\.example"):
        Visitor().go(f"{site}{path}" if path else "http://cloudpush.example/")


def test_a_button_that_is_missing_is_named(site: str) -> None:
    page = Visitor().go(site)

    with pytest.raises(StackError, match="'Connect it' has no button 'Revoke'"):
        page.form("Revoke")
