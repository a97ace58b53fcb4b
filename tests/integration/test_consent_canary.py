"""What passes a browser and a provider during a consent is nowhere afterwards: session, state, nonce, verifier, code, tokens, link.

How tokens fare in the workers is ``test_grant_canary.py``; the search itself is proved in ``tests/acceptance``.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import psycopg
import pytest

import servers
import web_site
from acceptance import searcher
from cloudpush.credentials.clients import Clients
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.vault import TokenSafe
from cloudpush.push.grants import proofs
from cloudpush.push.grants.model import Tokens
from cloudpush.settings import Settings
from cloudpush.stack.services import OpenBao, Valkey
from cloudpush.web.sessions import csrf_token
from oidc_provider import running as certified
from web_site import WEB_URL

pytestmark = pytest.mark.stack

#: The browser is there, and writes down its own way.
AT_PROVIDER = threading.Event()
CALLBACK = f"{WEB_URL}/consent/callback/certified"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that any library of ours logs, at its most talkative; the browser's own is no matter."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    handler.addFilter(lambda record: not record.name.startswith("httpx") and not AT_PROVIDER.is_set())
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def test_nothing_of_a_consent_is_kept_but_in_vault(
    database: servers.Database,
    valkey: Valkey,
    openbao: OpenBao,
    tmp_path: Path,
    logged: io.StringIO,
    capfd: pytest.CaptureFixture[str],
) -> None:
    began, owner = time.time(), f"ada-{uuid4().hex[:8]}"
    vault: dict[str, Any] = {"vault_url": openbao.url, "vault_auth_dir": openbao.auth_dir}
    Clients(VaultConnection(Settings(**vault), "keeper")).put("certified", certified.CLIENT_SECRET)
    file = tmp_path / "certified.toml"
    with certified.running([CALLBACK], tmp_path / "provider.log") as provider:
        file.write_text(web_site.PROVIDERS + provider.table())
        with web_site.site(database, valkey.url(), tmp_path, providers_file=file, **vault) as site:
            browser, link = site.browser(), site.link(owner)
            browser.get("/sign-in/link", params={"token": link})
            before = browser.token
            browser.send_form("/sign-in/link", token=link)
            url = browser.send_form("/connect/certified").headers["location"]
            AT_PROVIDER.set()
            answer = certified.Visitor(CALLBACK).consent(url)
            AT_PROVIDER.clear()
            browser.get("/consent/callback/certified", params=answer)
            forged = browser.get("/consent/callback/certified", params=answer | {"code": "canary-forged-code-0001"})
            grant = site.grants.find(owner)[0]
            safe = TokenSafe(VaultConnection(Settings(**vault), "worker"))
            tokens = Tokens.load(safe.open_tokens(grant.id, owner, 1))
            session = browser.token

    asked = dict(parse_qsl(urlsplit(url).query))
    needles = {
        *(link, before, session, csrf_token(session), answer["code"], "canary-forged-code-0001"),
        *(asked["state"], asked["nonce"], asked["code_challenge"], proofs.verifier_of(session, grant.id)),
        *(tokens.access_token, tokens.refresh_token, certified.CLIENT_SECRET),
    }
    assert asked["state"] == answer["state"] == proofs.state_of(session, grant.id)
    assert forged.status_code == 303
    assert len(needles) == 13
    assert all(len(needle) > 15 for needle in needles)
    said = "".join(capfd.readouterr()) + logged.getvalue()
    assert "served" in said
    with psycopg.connect(database.url.replace("cloudpush_app@", "postgres@"), autocommit=True) as superuser:
        kept = [
            *searcher.database(superuser),
            *searcher.broker(valkey.url()),
            *searcher.files(tmp_path, since=began),
            *searcher.processes(),
            ("the log", said.encode()),
        ]
    assert searcher.hits(needles, kept) == []
    assert searcher.hits([owner], kept), "the search finds what is there"
