"""Tokens exist only inside Vault and in process memory: a grant is pushed with, renewed, refused and revoked, and then every
token that its provider ever gave, and CloudPush's own secret there, is looked for everywhere.

The search itself is proved in ``tests/acceptance/test_canary.py``.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from acceptance import searcher
from acceptance.searcher import Thing
from cloudpush.credentials.kinds import parse
from cloudpush.push.credential import Caller
from cloudpush.push.grants.model import NOTIFY_HOOK
from cloudpush.push.states import State
from cloudpush.settings import Settings
from doubles.oauth_server import OAuthServer
from grant_stage import OWNER, GrantStage, PacedGcs, grant_stage, until

#: Of the client and of the webhook: found by its stem.
STEM = "Kq" + secrets.token_hex(8)


@pytest.fixture
def oauth() -> Iterator[OAuthServer]:
    with OAuthServer(life=4.0, client_secret=f"{STEM}/client+secret", token_auth="client_secret_post") as server:
        yield server


@pytest.fixture
def gcs(oauth: OAuthServer) -> Iterator[PacedGcs]:
    with PacedGcs(oauth) as server:
        yield server


def everything(
    stage: GrantStage, traffic: searcher.Traffic, server_dir: Path, began: float, said: list[str]
) -> Iterator[Thing]:
    """Every table, key, message, file that was written since, argument, variable, and word of a command."""
    url = stage.settings.database_url.replace("cloudpush_app@", "postgres@")
    with psycopg.connect(url, autocommit=True) as superuser:
        yield from searcher.database(superuser)
    yield from chain(
        searcher.broker(stage.settings.redis_url),
        [("the broker's traffic", traffic.heard)],
        searcher.files(stage.base, server_dir, since=began),
        searcher.temporary(began, but=[server_dir]),
        searcher.processes(),
        [("what a command said", words.encode()) for words in said],
    )


def needles(oauth: OAuthServer) -> set[str]:
    """Every token there ever was."""
    return {STEM, *oauth._families, *oauth._access}


def test_no_token_is_anywhere(
    settings: Settings, tmp_path: Path, server_dir: Path, oauth: OAuthServer, gcs: PacedGcs
) -> None:
    """While a push runs and renews, after its success, after a refusal by the provider, after a revocation."""
    began = time.time()
    said: list[str] = []
    found: dict[str, list[str]] = {}
    overrides: dict[str, Any] = {"part_files": 5, "allowed_endpoints": (gcs.address, "127.0.0.1")}
    broker = unquote(urlsplit(settings.redis_url).path)
    with (
        searcher.traffic(broker) as traffic,
        grant_stage(settings, tmp_path / "stage", oauth, gcs, **overrides) as stage,
    ):

        def look(moment: str) -> None:
            found[moment] = searcher.hits(needles(oauth), everything(stage, traffic, server_dir, began, said))

        def say(*words: str) -> None:
            done = stage.run(*words)
            said.append(done.stdout + done.stderr)

        hook = {"url": f"http://127.0.0.1:1/{STEM}/path", "secret": f"{STEM}-shared-secret"}
        stage.services.custody.add(Caller(OWNER), parse(NOTIFY_HOOK, hook), name="pager")
        stage.start("sweeper")
        stage.start("worker")
        grant = stage.connect()
        gcs.seconds = 0.4
        push_id = stage.push(grant, stage.source(60), "running")
        until(lambda: sum(m.what == "issued" for m in oauth.moments) >= 1, "tokens were renewed", stage.logs)
        look("while a push runs")
        succeeded = stage.wait(push_id)
        say("show", str(push_id), "--json")
        say("grant", "ledger", str(grant.id), "--operator", "--json")
        look("after it succeeded")

        with oauth._lock:
            for family in oauth._families.values():
                family.revoked = True
        refused = stage.wait(stage.push(grant, stage.source(3), "refused"), State.AWAITING_CONSENT)
        until(lambda: "grant.reconnect_needed" in stage.events(grant.id), "a reconnect is needed")
        say("grant", "show", str(grant.id), "--operator")
        look("after a refusal")

        stage.reconnect(grant)
        stage.services.grants.revoke(Caller(OWNER), grant.id)
        until(lambda: stage.grant(grant.id).credential_state == "purged", "Vault is purged", stage.logs)
        say("grant", "show", str(grant.id), "--operator", "--json")
        look("after a revocation")
        logs = stage.logs()

    assert (succeeded["state"], refused["error_code"]) == ("succeeded", "CONSENT_NEEDED")
    assert len(oauth._families) >= 3, "there were tokens to look for"
    assert json.loads(said[0])["id"] == str(push_id)
    assert '"level": "debug"' in logs, "all that is ever logged was written"
    assert list(found.items()) == [
        ("while a push runs", []),
        ("after it succeeded", []),
        ("after a refusal", []),
        ("after a revocation", []),
    ]


def test_search_would_find_a_token(tmp_path: Path, oauth: OAuthServer) -> None:
    """In a log, so that not finding one means something."""
    token = oauth.grant().refresh_token
    (tmp_path / "worker.log").write_text(json.dumps({"event": "refresh", "body": f"refresh_token={token}"}))

    assert searcher.hits(needles(oauth), searcher.files(tmp_path)) == [str(tmp_path / "worker.log")]
