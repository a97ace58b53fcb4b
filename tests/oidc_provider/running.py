"""Runs the certified OpenID provider, and visits it as a browser without JavaScript would."""

from __future__ import annotations

import contextlib
import html
import json
import re
import selectors
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import requests

from cloudpush.push.grants.model import Flow, Provider, Rotation, Use
from cloudpush.stack import binaries

HERE = Path(__file__).parent
#: Where `make` installs the provider's modules.
MODULES = Path(sys.prefix) / "browser-tests"
START_SECONDS = 60.0
CLIENT_ID, CLIENT_SECRET = "cloudpush-tests", "canary-client-secret-000000000000000000001"
#: Steps from the first page to the redirect back: login, consent, and a redirect or two after each.
STEPS = 20


@dataclass(frozen=True)
class OidcProvider:
    """The running provider."""

    issuer: str

    def provider(self, name: str = "certified", **overrides: Any) -> Provider:
        """It as the operator would describe it."""
        fields: dict[str, Any] = {
            "title": "Certified Storage",
            "flow": Flow.CODE,
            "use": Use.BEARER,
            "profile": "gcs",
            "client_id": CLIENT_ID,
            "issuer": self.issuer,
            "discovery": f"{self.issuer}/.well-known/openid-configuration",
            "scopes": ("openid", "email", "offline_access", "storage.write"),
            "needs": ("storage.write",),
            "explains": {"storage.write": "Write objects into your buckets"},
            "parameters": {"prompt": "consent"},
            "token_auth": "client_secret_basic",
            "rotation": Rotation.SINGLE_USE,
        }
        return Provider(name=name, **(fields | overrides))

    def table(self, title: str = "Certified Storage", name: str = "certified") -> str:
        """The same as TOML, for CLOUDPUSH_PROVIDERS_FILE."""
        return f"""
[{name}]
title = "{title}"
flow = "code"
use = "bearer"
profile = "gcs"
client_id = "{CLIENT_ID}"
issuer = "{self.issuer}"
discovery = "{self.issuer}/.well-known/openid-configuration"
scopes = ["openid", "email", "offline_access", "storage.write"]
needs = ["storage.write"]
parameters = {{ prompt = "consent" }}
token_auth = "client_secret_basic"
rotation = "single_use"

[{name}.explains]
openid = "Tell CloudPush which account you are"
email = "Show CloudPush the account's e-mail address"
offline_access = "Go on while you are away, until you revoke it"
"storage.write" = "Write objects into your buckets"
"""


@contextlib.contextmanager
def running(
    redirect_uris: Sequence[str],
    log: Path,
    *,
    access_token_seconds: int = 3600,
    rotate: bool = True,
    client_scope: str = "",
    port: int = 0,
) -> Iterator[OidcProvider]:
    """Start it with one confidential client and stop it afterwards. Raises RuntimeError with its own words."""
    client = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "redirect_uris": list(redirect_uris),
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        **({"scope": client_scope} if client_scope else {}),
    }
    told = {
        "modules": str(MODULES),
        "clients": [client],
        "accessTokenSeconds": access_token_seconds,
        "rotate": rotate,
        "port": port,
    }
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [binaries.node(), HERE / "server.mjs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={},
            text=True,
        )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        yield OidcProvider(json.loads(_first_line(process, log))["issuer"])
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _first_line(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_SECONDS) else ""
    if not line:
        raise RuntimeError(f"oidc-provider did not start from {MODULES}: {log.read_text()[-2000:]}")
    return line


class Visitor:
    """A browser at the provider: keeps cookies, fills in the forms, stops where it is sent back to us."""

    def __init__(self, redirect_uri: str) -> None:
        self._redirect_uri = redirect_uri
        self.session = requests.Session()
        self.session.trust_env = False

    def consent(self, url: str, login: str = "ada") -> dict[str, str]:
        """Sign in as ``login`` where asked, allow everything; the query that the provider sends back."""
        return self._walk(url, login, abort=False)

    def deny(self, url: str, login: str = "ada") -> dict[str, str]:
        """Sign in where asked, then say no."""
        return self._walk(url, login, abort=True)

    def open(self, url: str) -> requests.Response:
        """The provider's first page, and no further."""
        return self.session.get(url, timeout=30)

    def _walk(self, url: str, login: str, *, abort: bool) -> dict[str, str]:
        answer = self._go("GET", url)
        for _ in range(STEPS):
            if answer.is_redirect:
                where = urljoin(answer.url, answer.headers["location"])
                if where.startswith(self._redirect_uri):
                    return dict(parse_qsl(urlsplit(where).query))
                answer = self._go("GET", where)
                continue
            assert answer.status_code == 200, f"{answer.status_code} {answer.text[:500]}"
            if abort and 'name="login"' not in answer.text:
                answer = self._go("GET", urljoin(answer.url, _attribute(answer.text, r'<a href="([^"]*abort[^"]*)"')))
                continue
            form = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', answer.text))
            if 'name="login"' in answer.text:
                form |= {"login": login, "password": "any"}
            answer = self._go("POST", urljoin(answer.url, _attribute(answer.text, r'action="([^"]+)"')), form)
        raise AssertionError("the provider never sent the browser back")

    def _go(self, method: str, url: str, form: dict[str, str] | None = None) -> requests.Response:
        return self.session.request(method, url, data=form, allow_redirects=False, timeout=30)


def _attribute(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    assert found, text[:2000]
    return html.unescape(found[1])
