"""What surrounds every answer: security headers, the one host that we are, an id, a line in the log.

Plain ASGI, outermost: an answer that anything below makes, an error's too, goes through here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from urllib.parse import urlsplit
from uuid import uuid4

import structlog
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudpush.errors import Code, SettingsError
from cloudpush.logs import get_logger, redact

log = get_logger(__name__)

#: Nothing from anywhere but here; no inline script or style; no frame around us; forms lead to us.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
#: Two years, as browsers' preload lists ask.
HSTS = "max-age=63072000; includeSubDomains"
#: Load balancers ask this by whatever name they know us: it says nothing but that we run.
HEALTH = "/healthz"


def own_origin(web_url: str) -> str:
    """``scheme://host[:port]`` of the settings' web_url. Raises SettingsError."""
    key = "CLOUDPUSH_WEB_URL"
    parts = urlsplit(web_url)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise SettingsError(
            Code.SETTINGS_INVALID, f"{key}={web_url!r} is no URL of a server: write https://HOST[:PORT]", field=key
        )
    if parts.path.strip("/"):
        raise SettingsError(Code.SETTINGS_INVALID, f"{key}={web_url!r} has a path: give CloudPush a host", field=key)
    if parts.scheme == "http" and not local:
        raise SettingsError(
            Code.SETTINGS_INVALID, f"{key}={web_url!r} must be https: browsers keep sessions on no other", field=key
        )
    return f"{parts.scheme}://{parts.netloc.lower()}"


class Surroundings:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, web_url: str) -> None:
        self._app = app
        origin = urlsplit(own_origin(web_url))
        self._hosts = {origin.netloc}
        default = {"https": 443, "http": 80}[origin.scheme]
        if origin.port in (None, default):
            self._hosts = {str(origin.hostname), f"{origin.hostname}:{default}"}
        always = ALWAYS | ({"strict-transport-security": HSTS} if origin.scheme == "https" else {})
        self._always = [(name.encode(), value.encode()) for name, value in always.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Nobody else's id: it would be written into our log.
        request_id = uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add(message, [*self._always, (b"x-request-id", request_id.encode())])
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                await self._serve(scope, receive, send_with_headers)
            except Exception:  # what no page caught: nothing of it may reach the other side
                log.exception("request failed", path=_shown(scope))
                if not status:
                    words = f"Something went wrong; it has been logged under the number {request_id}.\n"
                    await PlainTextResponse(words, 500)(scope, receive, send_with_headers)
            finally:
                # The path has ids only, unless somebody put a token in their place; queries may hold a link's token or a provider's code.
                log.log(
                    logging.DEBUG if scope["path"] == HEALTH else logging.INFO,
                    "served",
                    method=scope["method"],
                    path=_shown(scope),
                    status=status,
                    ms=round((time.monotonic() - began) * 1000),
                )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["path"] == HEALTH:
            await PlainTextResponse("ok\n")(scope, receive, send)
        elif headers.getlist("host") and all(h.lower() in self._hosts for h in headers.getlist("host")):
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("This is no address of CloudPush.\n", 421)(scope, receive, send)


def _shown(scope: Scope) -> str:
    """The path, for the log."""
    return redact(scope["path"], limit=200)


def _add(start: Message, always: Iterable[tuple[bytes, bytes]]) -> None:
    """Add what every answer has, in place of what it has of that already; and what it has not said otherwise."""
    ours = dict(always)
    headers = [(name, value) for name, value in start["headers"] if name not in ours]
    said = {name for name, _ in headers}
    start["headers"] = [*headers, *ours.items(), *(item for item in _UNLESS if item[0] not in said)]


_UNLESS = (
    (b"content-security-policy", POLICY.encode()),
    # Pages are somebody's own, and go with the session; assets say otherwise themselves.
    (b"cache-control", b"no-store"),
)
