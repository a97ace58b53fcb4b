"""The session's cookie is one that only our own host can have set, and nothing that looks like it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from cloudpush.web import sessions
from cloudpush.web.sessions import COOKIE, digest

OWN, MALLORYS = "a" * 43, "m" * 43


def token_in(*lines: bytes) -> str:
    """Whose session a request with these Cookie headers is in."""
    asked: list[bytes] = []

    def find(token_sha256: bytes, **_: Any) -> object:
        asked.append(token_sha256)
        return object()

    services: Any = SimpleNamespace(settings=SimpleNamespace(web_idle_minutes=1), sessions=SimpleNamespace(find=find))
    headers = [(b"cookie", line) for line in lines]
    _, token = sessions.find(services, Request({"type": "http", "headers": headers}))
    assert asked == ([digest(token)] if token else [])
    return token


@pytest.mark.parametrize(
    "line",
    [f"{COOKIE}={OWN}", f"a=1; {COOKIE}={OWN}; b=2", f"a=1;{COOKIE}={OWN}", f"a=1; \t{COOKIE}={OWN} ; b"],
)
def test_our_own_cookie_is_found_among_others(line: str) -> None:
    assert token_in(line.encode()) == OWN
    assert token_in(b"x=1", line.encode()) == OWN  # HTTP/2 proxies may divide it


@pytest.mark.parametrize("space", [b"\xa0", b"\x85", b"\x1f", b"\x0b", b"\x0c"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_neighbouring_host_cannot_put_its_session_over_ours(space: bytes, side: str) -> None:
    """`Set-Cookie: \\xa0__Host-cloudpush=…; Domain=.example.org` of another host below the same domain is no `__Host-`
    cookie to the browser. Where we took it for ours, Ada would work, and connect her accounts, in Mallory's session.
    """
    name = space + COOKIE.encode() if side == "before" else COOKIE.encode() + space
    tossed, own = name + b"=" + MALLORYS.encode(), f"{COOKIE}={OWN}".encode()
    assert token_in(tossed) == ""
    assert token_in(own + b"; " + tossed) == OWN
    assert token_in(tossed + b"; " + own) == OWN


@pytest.mark.parametrize(
    "line",
    [
        f"{COOKIE}={OWN}; {COOKIE}={MALLORYS}",
        f"{COOKIE}={OWN};{COOKIE}={OWN}",
        f"={COOKIE}={MALLORYS}",
        f'{COOKIE}="{MALLORYS}"',
        f"{COOKIE}",
        f"{COOKIE}={MALLORYS}x",
        f"{COOKIE.lower()}={MALLORYS}",
        "",
    ],
)
def test_what_is_not_exactly_one_is_none(line: str) -> None:
    assert token_in(line.encode()) == ""
