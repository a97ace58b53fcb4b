"""Everything secret that can be said to the API, said to it: in requests that it takes, and in ones that it refuses."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import servers
from acceptance.live import STEM, Live, Run, marked
from cloudpush.audit.access import AccessBook
from cloudpush.push.access.model import Scope
from cloudpush.push.access.tokens import PREFIX, _checksum, digest

SECONDS = 30


@dataclass
class Spoken:
    """What was said: ``needles`` beside the canaries that are marked, and the status of each answer."""

    credential: str = ""
    needles: set[str] = field(default_factory=set)
    statuses: dict[str, int] = field(default_factory=dict)


def speak(live: Live) -> Spoken:
    """Say all of it. Every answer but those that hand a secret out is among what was said by commands, to be searched."""
    spoken, token = Spoken(), _marked_token()
    made = AccessBook(live.services.database).add_token(
        digest(token), owner=live.owner, name="spoken", role=None, scopes=frozenset(Scope), seconds=3600, actor="test"
    )

    def say(
        what: str, path: str, body: Any, *, bearer: str = token, raw: bytes | None = None, kept: bool = True
    ) -> Any:
        headers = {"authorization": f"Bearer {bearer}", "content-type": "application/json"}
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        method = "POST" if data is not None else "GET"
        url = live.settings.web_url.rstrip("/") + "/v1" + path
        try:
            with urlopen(Request(url, data, headers, method=method), timeout=SECONDS) as answer:
                status, text = answer.status, answer.read().decode()
        except HTTPError as e:
            status, text = e.code, e.read().decode()
        spoken.statuses[what] = status
        if kept:
            live.cli.keep(Run(status, text, ""))
        return json.loads(text)

    key = {
        "access_key_id": live.canary.access_key,
        "secret_access_key": live.canary.secret_key,
        "region": servers.REGION,
    }
    credential = {"kind": "access_key", "name": "spoken", "profile": "seaweedfs", "endpoint": live.gate.endpoint}
    spoken.credential = say("a key", "/credentials", {**credential, "secret": key})["id"]
    hook = {"url": f"https://hooks.example/{marked()}", "secret": marked()}
    say("a webhook", "/credentials", {"kind": "notify_hook", "name": "spoken-hook", "secret": hook})
    # Refused by the story, by the kind, by the shape, and before anything could be read.
    wrong = {**key, "secret_access_key": marked()}
    say("a name again", "/credentials", {**credential, "secret": wrong})
    say("no kind", "/credentials", {**credential, "kind": "password", "secret": wrong})
    say("a field too many", "/credentials", {**credential, "name": "n", "secret": {**wrong, marked(): marked()}})
    say("a secret elsewhere", "/credentials", {**credential, "name": "n", "secret": wrong, "password": marked()})
    say("a list", "/credentials", {**credential, "name": "n", "secret": [marked()]})
    say("a number", "/credentials", {**credential, "name": "n", "secret": {"secret_access_key": [marked()]}})
    say(
        "a hidden URL",
        "/credentials",
        {"kind": "notify_hook", "name": "n", "secret": {**hook, "url": f"http://{marked()}"}},
    )
    say("no JSON", "/credentials", None, raw=f'{{"secret": {{"secret_access_key": "{marked()}"'.encode())
    rows = [{"path": "a", "method": "PUT", "url": f"https://x.example/a?X-Amz-Signature={marked()}", marked(): 1}]
    say("a bad row", "/pushes", {"source": "/a", "urls": rows})
    say(
        "a URL for a name",
        "/pushes",
        {"source": 3, "destination": f"https://x.example/?sig={marked()}", "credential": {}},
    )
    batch = [{"source": "/a", "urls": [{"path": "a", "url": marked()}]}, {"source": "/a", "urls": rows}]
    say("a batch", "/pushes/batch", {"pushes": batch})
    # Tokens: ours, wrong ones, ones at the wrong place.
    say("whoever has none", "/me", None, bearer=marked())
    say("who am I", "/me", None)
    say("in the address", f"/me?access_token={token}", None)
    say("tokens", "/tokens", None)
    child = say("a child", "/tokens", {"name": "child", "scopes": ["read"]}, kept=False)["token"]
    request = {"source": str(live.source("spoken", {"a": b"a"})), "destination": "s3://b/p", "credential": "spoken"}
    sealed = say("a submission", "/submission-tokens", {"request": request, "idempotency_key": "k"}, kept=False)[
        "token"
    ]
    say("a submission as a bearer", "/me", None, bearer=sealed)
    begun = say("a login", "/login/device", {"host": "spoken"}, kept=False)["device_code"]
    say("a login that waits", "/login/token", {"device_code": begun})
    say("a token for a code", "/login/token", {"device_code": token})
    # Few: each of them is looked for in every spelling, in everything there is.
    spoken.needles |= {child[4:44], sealed.rpartition(".")[2], begun}
    AccessBook(live.services.database).revoke_token(made.id, live.owner, "test")
    return spoken


def _marked_token() -> str:
    """An API token that is found by what every canary has in it."""
    body = PREFIX + f"{STEM}{secrets.token_urlsafe(32)}"[:43]
    return body + _checksum(body)
