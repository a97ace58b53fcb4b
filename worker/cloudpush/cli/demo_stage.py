"""The demo's stage: the users' clouds, the provider that they consent at, and CloudPush itself, started and stopped."""

from __future__ import annotations

import importlib
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudpush.cli import demo_consent
from cloudpush.cli.demo_run import BUCKET, Run, say
from cloudpush.settings import ENV_FILE, PREFIX
from cloudpush.stack.azurite import Azurite
from cloudpush.stack.oauth_mock import OAuthClient, OAuthMock
from cloudpush.stack.ports import HOST, free_ports
from cloudpush.stack.seaweedfs import S3Identity, SeaweedFS

REGION = "us-east-1"
#: Python's own: thousands of real files, on every machine.
LIBRARY = sysconfig.get_paths()["stdlib"]


@dataclass(frozen=True)
class Clouds:
    """What belongs to users and not to CloudPush."""

    s3: SeaweedFS
    user: S3Identity
    azure: Azurite
    client: OAuthClient


@contextmanager
def stage(base: Path, *, keep: bool) -> Iterator[tuple[Run, Clouds]]:
    """Everything, running; the user's shell, and the clouds. Stopped at the end unless ``keep``."""
    user = S3Identity("user", "DEMO" + secrets.token_hex(8).upper(), secrets.token_hex(20))
    web_url = f"http://{HOST}:{free_ports(1)[0]}"
    with (
        _provider(base, web_url) as (mock, client),
        _s3(base, user, demo_consent.iam_document(mock.issuer, client.id)) as s3,
        _azure(base) as azure,
        _stack(base, [s3, azure], _web_settings(base, web_url, mock, client, s3), keep=keep) as run,
    ):
        yield run, Clouds(s3, user, azure, client)


def clear(base: Path) -> None:
    """Remove what an earlier demo left, its processes first."""
    if (base / "stack").exists():
        subprocess.run(
            [sys.executable, "-m", "cloudpush", "down", "--data-dir", str(base / "stack")],
            check=False,
            capture_output=True,
        )
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True, mode=0o700)
    (base / ".cloudpush-demo").touch()


def presigned(cloud: SeaweedFS, user: S3Identity, key: str) -> str:
    """A PUT URL that lives for five minutes, signed as any user of AWS's SDK does."""
    url: str = _client(cloud, user).generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": key}, ExpiresIn=300)
    return url


def objects(cloud: SeaweedFS, user: S3Identity, prefix: str) -> dict[str, int]:
    """Keys below ``prefix`` and their sizes, told by a witness that is not CloudPush."""
    pages = _client(cloud, user).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def _client(cloud: SeaweedFS, user: S3Identity) -> Any:
    boto3 = importlib.import_module("boto3")  # of the extra `demo`
    return boto3.client(
        "s3",
        endpoint_url=cloud.endpoint,
        aws_access_key_id=user.access_key,
        aws_secret_access_key=user.secret_key,
        region_name=REGION,
        config=importlib.import_module("botocore.config").Config(signature_version="s3v4"),
    )


@contextmanager
def _provider(base: Path, web_url: str) -> Iterator[tuple[OAuthMock, OAuthClient]]:
    """Where users consent, and CloudPush as its client."""
    server = OAuthMock(base / "provider", users=[demo_consent.USER, "bob@example.org"])
    say("Starting a local OpenID provider, oidc-provider-mock, where users consent …")
    server.start()
    try:
        server.ready()
        yield server, server.register(web_url + demo_consent.CALLBACK)
    finally:
        server.stop()


@contextmanager
def _s3(base: Path, user: S3Identity, iam: dict[str, Any]) -> Iterator[SeaweedFS]:
    """The user's cloud, with a bucket and a key of its own, and a role for whom the provider names."""
    server = SeaweedFS(base / "cloud", [user], buckets=[BUCKET], iam=iam)
    say("Starting a local S3 server, SeaweedFS, as the user's cloud …")
    server.start()
    try:
        server.ready()
        yield server
    finally:
        server.stop()


@contextmanager
def _azure(base: Path) -> Iterator[Azurite]:
    """Another user's cloud: a storage account with a container."""
    server = Azurite(base / "azure", containers=[BUCKET])
    say("Starting a local Azure Blob server, Azurite, as another user's …")
    server.start()
    try:
        server.ready()
        yield server
    finally:
        server.stop()


def _web_settings(base: Path, web_url: str, mock: OAuthMock, client: OAuthClient, s3: SeaweedFS) -> dict[str, str]:
    """What an operator sets for pages and API."""
    file = base / "providers.toml"
    demo_consent.write_provider(file, mock, client, s3.endpoint)
    return {
        PREFIX + "PROVIDERS_FILE": str(file),
        PREFIX + "WEB_URL": web_url,
        PREFIX + "WEB_PORT": web_url.rpartition(":")[2],
    }


@contextmanager
def _stack(base: Path, clouds: Sequence[SeaweedFS | Azurite], settings: dict[str, str], *, keep: bool) -> Iterator[Run]:
    """CloudPush itself: `cloudpush up`, detached. Gives the shell of whoever runs the demo."""
    run = Run(base)
    run.reports.mkdir(parents=True)
    for number in range(1, 4):
        (run.reports / f"report-{number}.txt").write_text(f"Report {number}\n" * 1000)
    where = ["--data-dir", str(base / "stack")]
    # `up` writes the file that operators' commands read their settings from.
    run.with_settings(settings)(
        *("up", "--detach", *where, "--source-root", LIBRARY, "--source-root", str(base / "data")),
        *(word for cloud in clouds for word in ("--allow-endpoint", cloud.address)),
    )
    shell = run.with_settings(
        {
            ENV_FILE: str(base / "stack" / "cloudpush.env"),
            PREFIX + "URL": settings[PREFIX + "WEB_URL"],
            PREFIX + "TOKEN_FILE": str(base / "token"),
        }
    )
    try:
        yield shell
    finally:
        if not keep:
            run("down", *where)
