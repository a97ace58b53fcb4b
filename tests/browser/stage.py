"""A whole CloudPush with its web pages, the clouds of its users, and the providers where they consent. One for all browser tests."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg

import servers
from acceptance.gate import Gate
from acceptance.live import FAST, HOST, PATIENCE_SECONDS, Cli, _end
from cloudpush.audit.history import Filter
from cloudpush.cli import demo_consent
from cloudpush.push.credential import Caller
from cloudpush.push.grants.model import Grant
from cloudpush.settings import Settings, read_settings
from cloudpush.stack.oauth_mock import OAuthClient, OAuthMock
from cloudpush.stack.ports import free_ports
from cloudpush.stack.seaweedfs import SeaweedFS
from cloudpush.wiring import Services, build
from oidc_provider import running as certified

#: Who may consent at the mock provider, by a button each.
ALICE, BOB = "alice@example.org", "bob@example.org"
#: Access tokens of the provider for tests of renewal live so long.
SHORT_SECONDS = 10
ROLE = demo_consent.ROLE_ARN
TITLE, SHORT_TITLE, CERTIFIED_TITLE = "Demo Cloud", "Hasty Cloud", "Certified Storage"


@dataclass(frozen=True)
class Stage:
    """What runs, and the ways to it."""

    sources: Path
    settings: Settings
    cli: Cli
    services: Services  # to look at the record without starting a process
    cloud: servers.Cloud
    gate: Gate
    mock: OAuthMock
    hasty: OAuthMock

    @property
    def url(self) -> str:
        """Of the pages."""
        return self.settings.web_url

    @property
    def owner(self) -> str:
        """Whom one-time links sign in."""
        return self.settings.web_link_user

    def link(self) -> str:
        """A new one-time link."""
        run = self.cli("web-link")
        assert run.code == 0, run
        return demo_consent.find_link(run.out)

    def grants(self, owner: str = "") -> list[Grant]:
        """Connections that are alive, newest first."""
        return list(self.services.grants.list(Caller(owner or self.owner)))

    def clear(self) -> None:
        """Take every connection back, so that a test begins with none."""
        for owner in (self.owner, ALICE, BOB):
            for grant in self.grants(owner):
                self.services.grants.revoke(Caller(owner), grant.id)

    def source(self, mebibytes: int = 0, files: int = 3) -> Path:
        """A directory: a few small files, and a large one on demand."""
        top = self.sources / f"data-{secrets.token_hex(4)}"
        top.mkdir()
        for number in range(files):
            (top / f"report {number}.csv").write_text("sample,value\n" * 100)
        if mebibytes:
            (top / "measurement.bin").write_bytes(os.urandom(2**20) * mebibytes)
        return top

    def push(self, source: Path, credential: str, bucket: str = "") -> str:
        """Submit a push through a connection; its id."""
        bucket = bucket or self.cloud.make_bucket()
        run = self.cli("push", source, f"s3://{bucket}/run", "--credential", credential)
        assert run.code == 0, run
        return run.out.strip()

    def row(self, push_id: str) -> dict[str, Any]:
        """Where a push stands."""
        return self.services.history.push(UUID(push_id))

    def wait(self, push_id: str, *states: str) -> dict[str, Any]:
        """Until it is in one of ``states``."""
        until(lambda: self.row(push_id)["state"] in states, f"push {states}", lambda: str(self.row(push_id)))
        return self.row(push_id)

    def wait_until_stuck(self) -> None:
        """Until an upload is held at the gate."""
        until(
            lambda: self.gate.held, "an upload is stuck", lambda: str(self.services.history.pushes(Filter(), limit=3))
        )

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """As the database's superuser."""
        url = self.settings.database_url.replace("cloudpush_app@", "postgres@")
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []


def until(true: Callable[[], bool], what: str, instead: Callable[[], str] = lambda: "") -> None:
    """Poll until it is true; fail with ``what`` where it never is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"never came true: {what} {instead()}"
        time.sleep(0.02)


def iam(*trusted: tuple[str, OAuthMock, OAuthClient]) -> dict[str, Any]:
    """The storage's settings: it trusts several providers."""
    documents = [demo_consent.iam_document(mock.issuer, client.id) for _, mock, client in trusted]
    for (name, _, _), document in zip(trusted, documents, strict=True):
        document["providers"][0]["name"] = name
        document["roles"][0]["trustPolicy"]["Statement"][0]["Principal"]["Federated"] = name
    first = documents[0]
    first["providers"] = [d["providers"][0] for d in documents]
    first["roles"][0]["trustPolicy"]["Statement"] = [d["roles"][0]["trustPolicy"]["Statement"][0] for d in documents]
    return first


@contextmanager
def running() -> Iterator[Stage]:
    """Everything, stopped and removed afterwards."""
    with ExitStack() as closing:
        base = closing.enter_context(servers.scratch())
        data, sources, home = base / "stack", base / "data", base / "home"
        for path in (sources, home):
            path.mkdir(mode=0o700)
        port = free_ports(1)[0]
        url = f"http://{HOST}:{port}"
        callback = f"{url}/consent/callback"

        mock = closing.enter_context(servers.running(OAuthMock(base / "mock", users=[ALICE, BOB])))
        hasty = closing.enter_context(
            servers.running(OAuthMock(base / "hasty", users=[ALICE, BOB], token_seconds=SHORT_SECONDS))
        )
        own = closing.enter_context(certified.running([f"{callback}/certified"], base / "certified.log"))
        client, hasty_client = mock.register(f"{callback}/demo"), hasty.register(f"{callback}/hasty")
        sign_in = mock.register(f"{url}/sign-in/callback")

        trust = iam(("demo", mock, client), ("hasty", hasty, hasty_client))
        seaweedfs = closing.enter_context(servers.running(SeaweedFS(base / "cloud", [servers.ADMIN], iam=trust)))
        gate = Gate((HOST, int(urlsplit(seaweedfs.endpoint).port or 0)))
        closing.callback(gate.stop)
        providers = base / "providers.toml"
        providers.write_text(
            demo_consent.table("demo", TITLE, mock, client, gate.endpoint)
            + demo_consent.table("hasty", SHORT_TITLE, hasty, hasty_client, gate.endpoint)
            + own.table(CERTIFIED_TITLE),
            encoding="utf-8",
        )

        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home)}
        env_file = {"CLOUDPUSH_ENV_FILE": str(data / "cloudpush.env")}
        ours = {
            "CLOUDPUSH_PROVIDERS_FILE": str(providers),
            "CLOUDPUSH_WEB_URL": url,
            "CLOUDPUSH_WEB_PORT": str(port),
            "CLOUDPUSH_WEB_OIDC_ISSUER": mock.issuer,
            "CLOUDPUSH_WEB_OIDC_CLIENT_ID": sign_in.id,
            "CLOUDPUSH_WEB_OIDC_OWNER_CLAIM": "sub",
        }
        closing.callback(_end, data, environment)
        subprocess.run(
            [
                *(sys.executable, "-m", "cloudpush", "up", "--detach", "--data-dir", str(data)),
                *("--source-root", str(sources), "--allow-endpoint", HOST),
            ],
            env=environment | FAST | ours,
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE_SECONDS * 2,
            check=True,
        )
        settings = read_settings(env_file)
        services = build(settings)
        closing.callback(services.close)
        cli = Cli(environment | env_file)
        secret_of = {
            "demo": client.secret,
            "hasty": hasty_client.secret,
            "sign-in": sign_in.secret,
            "certified": certified.CLIENT_SECRET,
        }
        for name, secret in secret_of.items():
            done = cli("provider", "set-secret", name, stdin=secret)
            assert done.code == 0, done
        yield Stage(sources, settings, cli, services, servers.Cloud(seaweedfs), gate, mock, hasty)
