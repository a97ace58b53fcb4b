"""Browsers that are signed in: a cookie, a row, and what is derived from the cookie.

The cookie holds 256 random bits; Postgres their SHA-256, and everything else about the session. A token that we did not make
is never taken up: it finds no row. Signing in makes a new token and ends the old session, so that what somebody knew before
opens nothing afterwards. CSRF tokens are an HMAC under the session's token: nothing is stored, and another session's is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cloudpush.web.headers import own_origin

if TYPE_CHECKING:
    from cloudpush.audit.sessions import Session
    from cloudpush.wiring import WebServices

COOKIE = "__Host-cloudpush"
#: Somebody who is on the way to sign in has so long.
ANONYMOUS_SECONDS = 600.0
#: Who was signed in how.
VIA_LINK = "link"
VIA_OIDC = "oidc"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()


def new_token() -> str:
    """256 random bits, 43 characters."""
    return secrets.token_urlsafe(32)


def derive(token: str, purpose: str) -> str:
    """Something that only whoever has the session's token can compute; base64url without padding."""
    mac = hmac.new(token.encode(), purpose.encode(), hashlib.sha256).digest()
    return urlsafe_b64encode(mac).rstrip(b"=").decode()


def csrf_token(token: str) -> str:
    """What forms of this session carry."""
    return derive(token, "csrf")


def find(services: WebServices, request: Request, *, touch: bool = True) -> tuple[Session | None, str]:
    """The session of a request, and its token; (None, "") where it has none that is alive."""
    token = _cookie(request)
    if not _TOKEN.fullmatch(token):
        return None, ""
    idle = services.settings.web_idle_minutes * 60
    session = services.sessions.find(digest(token), idle_seconds=idle, touch=touch)
    return (session, token) if session else (None, "")


def _cookie(request: Request) -> str:
    """What the cookie of exactly our name holds; an empty string where there is none, or several.

    Read here, byte for byte: libraries trim names by Unicode's idea of a space, and take the last of several. A host beside ours
    may set cookies for both; one whose name begins with the byte A0 is no ``__Host-`` cookie to a browser, and must be none to us.
    """
    pairs = (pair.lstrip(" \t") for line in request.headers.getlist("cookie") for pair in line.split(";"))
    found = [pair[len(COOKIE) + 1 :].rstrip(" \t") for pair in pairs if pair.startswith(f"{COOKIE}=")]
    return found[0] if len(found) == 1 else ""


def start_anonymous(services: WebServices) -> tuple[Session, str]:
    """A session of nobody, for the way to signing in."""
    token = new_token()
    return services.sessions.start(digest(token), owner=None, via="", seconds=ANONYMOUS_SECONDS), token


def start(services: WebServices, owner: str, via: str, before: str) -> tuple[Session, str]:
    """Sign ``owner`` in under a token that nobody has seen; the session of the token ``before`` ends."""
    if before:
        services.sessions.end(digest(before))
    token = new_token()
    seconds = services.settings.web_session_hours * 3600
    return services.sessions.start(digest(token), owner=owner, via=via, seconds=seconds), token


def set_cookie(response: Response, token: str) -> None:
    """Give the browser its token; an empty one takes it away. No ``max_age``: it ends with the browser, at the latest."""
    if token:
        response.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="lax")
    else:
        response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")


def check_origin(request: Request, web_url: str) -> None:
    """Refuse what another site sent. Raises HTTPException 403.

    Our Referrer-Policy makes browsers write ``Origin: null`` into our own forms' requests, so that alone says nothing;
    ``Sec-Fetch-Site``, which no script can set, says it. Where a browser sends neither, the CSRF token has to do.
    """
    site = request.headers.get("sec-fetch-site", "")
    origin = request.headers.get("origin", "")
    if site not in ("", "same-origin", "none") or (origin not in ("", "null") and origin != own_origin(web_url)):
        raise HTTPException(403, "This request came from another site; nothing was changed.")


def check_csrf(token: str, given: str) -> None:
    """Refuse a form that is not one of this session's. Raises HTTPException 403."""
    if not token or not hmac.compare_digest(csrf_token(token).encode(), given.encode()):
        raise HTTPException(
            403, "This form is of another session, or of one that has ended: go back, reload and try again."
        )
