"""A strict authorization server for tests of tokens: real HTTP, in a thread of the test, everything counted.

What RFC 6749 §6, RFC 7009, RFC 7662 and RFC 9700 §4.14 say of refresh tokens, in the three ways that providers have. Consent is
not its business: :meth:`OAuthServer.grant` hands out a first generation as a consent would.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote

from cloudpush.push.grants.model import Flow, Provider, Rotation, Tokens, Use

CLIENT_ID = "cloudpush-test"
SCOPE = "storage.read_write"


@dataclass
class _Family:
    """One consent and every token that followed from it."""

    scope: str
    live: str = ""  # the refresh token that is good now, where it rotates
    revoked: bool = False
    reused: bool = False


@dataclass(frozen=True)
class Moment:
    """Something that happened: ``received`` (a spend began), ``issued``, ``answered``, ``refused``, ``revoked``."""

    what: str
    at: float  # of the monotonic clock, which all processes of a machine share
    token: str = field(repr=False, default="")


@dataclass
class Trouble:
    """An answer in place of the server's own. ``after`` the spend (the answer is lost), or instead of it."""

    status: int = 503
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    drop: bool = False  # no answer: the connection ends
    drip: bool = False  # an answer without end
    path: str = "/token"


class OAuthServer:
    """Lives as long as the `with` block. What can be set: before requests come, or between them."""

    def __init__(
        self,
        rotation: Rotation = Rotation.SINGLE_USE,
        *,
        life: float = 3600.0,
        client_secret: str = "",
        token_auth: str = "none",
    ) -> None:
        self.rotation = rotation
        self.life = life
        self.client_secret = client_secret
        self.token_auth = token_auth
        self.spends: Counter[str] = Counter()
        self.moments: list[Moment] = []
        self.troubles: list[Trouble] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []  # path, form, headers
        self.issuer_claim = ""  # what metadata call the issuer; empty: the truth
        self.extra: dict[str, Any] = {}  # added to an answer of /token
        self.between: Callable[[], None] = lambda: None  # runs after tokens were issued, before the answer
        self._families: dict[str, _Family] = {}  # refresh token → family
        self._access: dict[str, tuple[_Family, float]] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def provider(self, name: str = "box", **changes: Any) -> Provider:
        """As the operator's table would have it."""
        fields: dict[str, Any] = {
            "title": "Test Box",
            "flow": Flow.CODE,
            "use": Use.BEARER,
            "profile": "gcs",
            "client_id": CLIENT_ID,
            "token_endpoint": f"{self.url}/token",
            "authorization_endpoint": f"{self.url}/authorize",
            "revocation_endpoint": f"{self.url}/revoke",
            "scopes": (SCOPE,),
            "needs": (SCOPE,),
            "token_auth": self.token_auth,
            "rotation": self.rotation,
        }
        return Provider(name, **(fields | changes))

    def table(self, name: str = "box") -> str:
        """The same as TOML, for CLOUDPUSH_PROVIDERS_FILE."""
        return f"""
[{name}]
title = "Test Box"
flow = "code"
use = "bearer"
profile = "gcs"
client_id = "{CLIENT_ID}"
token_endpoint = "{self.url}/token"
authorization_endpoint = "{self.url}/authorize"
revocation_endpoint = "{self.url}/revoke"
scopes = ["{SCOPE}"]
token_auth = "{self.token_auth}"
rotation = "{self.rotation.value}"
"""

    def grant(self, scope: str = SCOPE) -> Tokens:
        """The first generation of a new family, as a consent would give it."""
        with self._lock:
            family = _Family(scope)
            access, refresh, now = self._issue(family), self._rotate(family), datetime.now(UTC)
        return Tokens(access, refresh, now + timedelta(seconds=self.life), now, scope)

    def is_good(self, access_token: str) -> bool:
        """Whether a resource server would serve it: what introspection says."""
        with self._lock:
            family, ends = self._access.get(access_token, (None, 0.0))
            return family is not None and not family.revoked and time.monotonic() < ends

    def lives(self, refresh_token: str) -> bool:
        """Whether the grant that it came from is not over."""
        with self._lock:
            return not self._families[refresh_token].revoked

    def reused(self) -> list[str]:
        """Refresh tokens whose second use ended their family."""
        with self._lock:
            return [token for token, n in self.spends.items() if n > 1 and self._families[token].reused]

    def last(self, what: str) -> float:
        """When that happened last; 0 for never."""
        with self._lock:
            return max((m.at for m in self.moments if m.what == what), default=0.0)

    def note(self, what: str, token: str = "") -> None:
        self.moments.append(Moment(what, time.monotonic(), token))

    # -- endpoints: status and body ---------------------------------------------------------------

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        given = form.get("refresh_token", "")
        with self._lock:
            self.note("received", given)
            if form.get("grant_type") != "refresh_token":
                return 400, {"error": "unsupported_grant_type"}
            family = self._families.get(given)
            self.spends[given] += 1
            if family is None or family.revoked:
                self.note("refused", given)
                return 400, {"error": "invalid_grant", "error_description": f"{given} is not known"}
            if self.rotation is Rotation.SINGLE_USE and given != family.live:
                family.revoked = family.reused = True
                self.note("refused", given)
                return 400, {"error": "invalid_grant", "error_description": f"{given[:12]} was used before"}
            answer: dict[str, Any] = {
                "access_token": self._issue(family),
                "token_type": "Bearer",
                "expires_in": self.life,
                "scope": family.scope,
            }
            if self.rotation is not Rotation.NEVER:
                answer["refresh_token"] = self._rotate(family)
            self.note("issued", given)
        self.between()
        return 200, answer | self.extra

    def revoke(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            token = form.get("token", "")
            family = self._families.get(token) or self._access.get(token, (None, 0.0))[0]
            if family is None:
                return 400, {"error": "invalid_token"}  # as Google has it; RFC 7009 wants 200
            family.revoked = True
            self.note("revoked", token)
            return 200, {}

    def introspect(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        return 200, {"active": self.is_good(form.get("token", ""))}

    def metadata(self) -> tuple[int, dict[str, Any]]:
        return 200, {
            "issuer": self.issuer_claim or self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "revocation_endpoint": f"{self.url}/revoke",
            "jwks_uri": f"{self.url}/jwks",
            "authorization_response_iss_parameter_supported": True,
        }

    def admits(self, form: dict[str, str], authorization: str) -> bool:
        """Whether it is our client, authenticated in the one way that is registered."""
        if self.token_auth == "client_secret_basic":
            scheme, _, rest = authorization.partition(" ")
            if scheme != "Basic" or "client_secret" in form:
                return False
            user, _, password = base64.b64decode(rest).decode().partition(":")
            return (unquote(user), unquote(password)) == (CLIENT_ID, self.client_secret)
        right = self.client_secret if self.token_auth == "client_secret_post" else ""
        return not authorization and (form.get("client_id"), form.get("client_secret", "")) == (CLIENT_ID, right)

    def trouble(self, path: str) -> Trouble | None:
        """What is to go wrong next at ``path``."""
        with self._lock:
            found = next((t for t in self.troubles if t.path == path), None)
            if found is not None:
                self.troubles.remove(found)
            return found

    def _issue(self, family: _Family) -> str:
        token = f"at-{secrets.token_urlsafe(24)}"
        self._access[token] = family, time.monotonic() + self.life
        return token

    def _rotate(self, family: _Family) -> str:
        family.live = f"rt-{secrets.token_urlsafe(24)}"
        self._families[family.live] = family
        return family.live


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients are killed in tests; that is no news."""


def _handler(server: OAuthServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            server.requests.append((self.path, {}, dict(self.headers)))
            trouble = server.trouble(self.path)
            if trouble:
                self._spoil(trouble)
            elif self.path == "/.well-known/openid-configuration":
                self._send(*server.metadata())
            else:
                self._send(404, {})

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            form = {name: values[0] for name, values in parse_qs(raw.decode(), keep_blank_values=True).items()}
            server.requests.append((self.path, form, dict(self.headers)))
            trouble = server.trouble(self.path)
            if trouble and not trouble.after:
                return self._spoil(trouble)
            endpoint = {"/token": server.token, "/revoke": server.revoke, "/introspect": server.introspect}
            if self.path not in endpoint:
                return self._send(404, {})
            if not server.admits(form, self.headers.get("Authorization", "")):
                return self._send(401, {"error": "invalid_client"})
            status, answer = endpoint[self.path](form)
            if trouble:
                return self._spoil(trouble)
            self._send(status, answer)
            if self.path == "/token" and status == 200:
                server.note("answered")
            return None

        def _spoil(self, trouble: Trouble) -> None:
            self.close_connection = True
            if trouble.drop:
                return
            self.send_response(trouble.status)
            for name, value in trouble.headers.items():
                self.send_header(name, value)
            if not trouble.drip:
                self.send_header("Content-Length", str(len(trouble.body)))
            self.end_headers()
            self.wfile.write(trouble.body)
            while trouble.drip:
                try:
                    self.wfile.write(b" " * 65536)
                except OSError:
                    return

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Cache-Control", "no-store")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:  # the client was killed
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's signature
            """Quiet."""

    return Handler
