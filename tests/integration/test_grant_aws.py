"""A role that trusts CloudPush becomes files in a bucket: real Postgres, Valkey, OpenBao, worker, rclone, `cloudpush web` as the
issuer, and SeaweedFS with its STS. Nothing of the user's is stored.

That a session's policy refuses every other prefix and bucket is seen in test_web_identity. What SeaweedFS cannot show is AWS' own
reading of our metadata and trust policies, and what it says while it cannot fetch our keys: here that is a plain AccessDenied.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import requests

import dev_vault
import servers
from cloudpush.credentials.kinds import parse
from cloudpush.credentials.notary import ANCHOR
from cloudpush.credentials.providers import read_providers
from cloudpush.push.credential import Caller
from cloudpush.push.grants.consenting import Consenting
from cloudpush.push.grants.model import WEB_IDENTITY, Grant
from cloudpush.settings import Settings
from cloudpush.stack.ports import HOST, free_ports
from cloudpush.stack.seaweedfs import SeaweedFS, role_arn, web_identity
from cloudpush.wiring import SystemClock
from dev_vault import DevVault
from doubles.faults import FaultProxy
from doubles.oauth_server import OAuthServer
from engines import pace
from fakes import FakeClock
from fakes_consent import FakeConsentClient
from grant_stage import OWNER, PROVIDER, GrantStage, stage_with, until

MIB = 1024 * 1024
BUCKET = "results"
#: A session of the role lives so long; its keys are renewed two seconds before.
SESSION_SECONDS = 6
#: What Vault holds of nobody: whether it is set up, and the newest checkpoint of the record.
NOT_THEIRS = ("ready", ANCHOR)

TABLE = """
[{name}]
title = "The lab's S3"
flow = "web_identity"
use = "web_identity"
profile = "seaweedfs"
audience = "cloudpush"
sts_endpoint = "{sts}"
endpoint = "{storage}"
session_seconds = {seconds}

[[{name}.questions]]
name = "role_arn"
title = "Role ARN"
pattern = "arn:aws:iam::role/[A-Za-z]+"

[[{name}.questions]]
name = "region"
title = "Region"
pattern = "[a-z0-9-]+"
"""


@dataclass
class Lab:
    """The cloud, the proxy before it, which sees every request, and CloudPush."""

    cloud: SeaweedFS
    proxy: FaultProxy
    stage: GrantStage
    trusted: UUID  # the connection that the role trusts: SeaweedFS reads its roles once, at its start
    vault: DevVault

    def connect(self, grant_id: UUID | None = None) -> Grant:
        """As the page does it: no tokens, no secret. ``grant_id``: another than the role trusts."""
        stage, made_id = self.stage, grant_id or self.trusted
        made = Consenting(
            stage.book,
            read_providers(stage.settings),
            FakeConsentClient(FakeClock()),
            stage.sealer,
            SystemClock(),
            f"{stage.settings.web_url}/consent/callback",
            new_id=lambda: made_id,
        ).register(OWNER, PROVIDER, f"lab-{made_id}", {"role_arn": role_arn("Pinned"), "region": "us-east-1"})
        return stage.grant(made.id)

    def sessions(self, method: str = "", pattern: str = "") -> list[str]:
        """The key of every request of this sort, in order."""
        signed = [
            seen.headers.get("authorization", "")
            for seen in self.proxy.seen
            if (not method or seen.method == method) and re.search(pattern, seen.target)
        ]
        return [m[1] for s in signed if (m := re.search(r"Credential=([^/]+)/", s))]


@pytest.fixture
def lab(settings: Settings, tmp_path: Path) -> Iterator[Lab]:
    """The web application, a worker and a sweeper run."""
    port, trusted = free_ports(1)[0], uuid4()
    url = f"http://{HOST}:{port}"
    document = web_identity(
        url, f"{url}/.well-known/jwks.json", "cloudpush", {"Pinned": str(trusted)}, session=f"{SESSION_SECONDS}s"
    )
    with ExitStack() as opened:
        vault = opened.enter_context(dev_vault.running(tmp_path / "vault"))
        ours = {"vault_url": vault.settings.vault_url, "vault_auth_dir": vault.settings.vault_auth_dir}
        base = opened.enter_context(servers.scratch())
        cloud = SeaweedFS(base / "cloud", [servers.ADMIN], buckets=[BUCKET], iam=document)
        opened.enter_context(servers.running(cloud))
        proxy = opened.enter_context(FaultProxy(cloud.endpoint))
        proxy.spoil()
        table = TABLE.format(
            name=PROVIDER, sts=cloud.endpoint, storage=f"http://{proxy.address}", seconds=SESSION_SECONDS
        )
        overrides: dict[str, Any] = ours | {
            "web_url": url,
            "web_port": port,
            "allowed_endpoints": (proxy.address, cloud.address),
            "part_files": 20,
        }
        oauth = opened.enter_context(OAuthServer())  # nobody asks it
        stage = opened.enter_context(stage_with(settings, tmp_path / "stage", oauth, table, **overrides))
        for word in ("web", "sweeper", "worker"):
            stage.start(word)
        until(lambda: answers(f"{url}/.well-known/openid-configuration"), "the issuer answers", stage.logs)
        yield Lab(cloud, proxy, stage, trusted, vault)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False


def stored(lab: Lab) -> dict[str, bytes]:
    """Every object with its bytes, as the bucket's owner sees it."""
    owner = servers.Cloud(lab.cloud)
    return {key: owner.read(BUCKET, key) for key in owner.keys(BUCKET)}


def test_push_outlives_the_sessions_of_its_role(
    lab: Lab, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Small files and a large one that goes up for several sessions: its keys change under way, nothing is sent twice."""
    stage = lab.stage
    grant = lab.connect()
    until(lambda: stage.grant(grant.id).checked_at is not None, "a worker has tried the role", stage.logs)
    stage.wait(stage.push(grant, stage.source(1), "first", bucket=f"s3://{BUCKET}"))
    pace(stage.settings, "6M")
    lab.proxy.spoil()
    source = stage.source(60)
    (source / "large").write_bytes(os.urandom(96 * MIB))

    push_id = stage.push(grant, source, "runs/7", bucket=f"s3://{BUCKET}")
    row = stage.wait(push_id)

    took = (row["finished_at"] - row["started_at"]).total_seconds()
    pieces = [seen for seen in lab.proxy.seen if seen.method == "PUT" and "partNumber=" in seen.target]
    keys = list(dict.fromkeys(lab.sessions("PUT", "partNumber=")))
    record_testsuite_property(
        "web_identity",
        f"96 MiB + 60 files in {took:.1f} s with sessions of {SESSION_SECONDS} s, {len(keys)} of them in one upload",
    )
    assert stage.grant(grant.id).check_code == ""
    assert (row["state"], row["files_verified"], row["attempt"]) == ("succeeded", 61, 1), row
    assert {p["attempt"] for p in stage.services.history.parts(push_id)} == {1}
    assert {f["strength"] for f in stage.services.history.files(push_id)} == {"checksum"}
    assert took > 2 * SESSION_SECONDS
    assert len(keys) > 1, "the keys were not swapped in mid-upload"
    assert len({seen.target.partition("uploadId=")[2].partition("&")[0] for seen in pieces}) == 1
    assert (
        Counter(seen.target.partition("partNumber=")[2].partition("&")[0] for seen in pieces).most_common(1)[0][1] == 1
    )
    assert {k.removeprefix("runs/7/"): v for k, v in stored(lab).items() if k.startswith("runs/7/")} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    assert "credential.used" in stage.events(push_id)


def sealed(lab: Lab, path: str = "") -> list[str]:
    """Every path that Vault has something under, as its root sees it."""
    found = lab.vault.root.list(f"{lab.stage.settings.vault_kv_mount}/metadata/{path}")
    names = found["data"]["keys"] if found else []
    return [p for n in names for p in (sealed(lab, path + n) if n.endswith("/") else [path + n])]


def test_nothing_of_the_user_is_stored(lab: Lab) -> None:
    """Nothing in Vault, no block in its books, no session key in a log: only the role's name. An access key is in Vault."""
    stage = lab.stage
    grant = lab.connect()
    fields = {"access_key_id": "AKIA0000000000000001", "secret_access_key": "canary", "region": "us-east-1"}
    other = stage.services.custody.add(Caller(OWNER), parse("access_key", fields), name=f"key-{grant.id}")
    done = stage.wait(stage.push(grant, stage.source(3), "x", bucket=f"s3://{BUCKET}"))

    keys = set(lab.sessions())
    with psycopg.connect(stage.settings.database_url.replace("cloudpush_app@", "postgres@")) as superuser:
        blocks = superuser.execute("SELECT count(*) FROM sheet WHERE credential_id = %s", [grant.id]).fetchone()
    assert (done["state"], grant.kind, grant.generation, len(keys) > 0) == ("succeeded", WEB_IDENTITY, 0, True)
    assert blocks == (0,)
    assert [str(other.id) in path for path in sealed(lab) if path not in NOT_THEIRS] == [True]
    assert [key for key in keys if key in stage.logs()] == []


def test_role_refuses_another_connection(lab: Lab) -> None:
    """The same owner, the same role, the same issuer: it is `sub` that differs. The check says so before any push."""
    stage = lab.stage
    grant = lab.connect(uuid4())
    until(lambda: stage.grant(grant.id).checked_at is not None, "a worker has tried the role", stage.logs)

    row = stage.wait(stage.push(grant, stage.source(3), "x", bucket=f"s3://{BUCKET}"))

    checked = stage.grant(grant.id)
    assert (row["state"], row["error_code"], row["files_verified"]) == ("failed", "ACCESS_DENIED", 0), row
    assert "its trust policy must name CloudPush" in row["error_message"]
    assert (checked.check_code, stored(lab)) == ("ACCESS_DENIED", {})
    assert lab.sessions() == []
