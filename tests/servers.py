"""The real servers that tests run against, and what they need to speak to them.

Everything is private to one test process: its own directory, sockets and ports, so that several runs, and the
workers of one parallel run, never meet.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config

from cloudpush.audit.migrate import upgrade
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.stack.azurite import Azurite
from cloudpush.stack.postgres import OWNER
from cloudpush.stack.seaweedfs import S3Identity, SeaweedFS
from cloudpush.stack.service import Service
from cloudpush.stack.services import OpenBao, Postgres, Valkey

ADMIN = S3Identity("admin", "AKADMIN0000000000001", "adminsecret000000000000000000000000000001")
WRITER = S3Identity("writer", "AKWRITER000000000001", "writersecret00000000000000000000000000001", ("Write",))
READER = S3Identity("reader", "AKREADER000000000001", "readersecret00000000000000000000000000001", ("Read", "List"))
REGION = "us-east-1"
TEMPLATE = "cloudpush_template"

S = TypeVar("S", bound=Service)
_numbers = itertools.count(1)

#: How the names of tests' own directories begin.
SCRATCH = "cp-test-"


@contextmanager
def scratch() -> Iterator[Path]:
    """A private directory with a name short enough for sockets; gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix=SCRATCH))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(service: S) -> Iterator[S]:
    """``service``, started and ready; stopped afterwards."""
    try:
        service.start()
        service.ready()
        yield service
    finally:
        service.stop()


class Cloud:
    """A user's cloud: SeaweedFS with an administrator, and keys that may only write or only read."""

    def __init__(self, server: SeaweedFS) -> None:
        self.server = server
        self.endpoint = server.endpoint
        self.address = server.address
        self.region = REGION
        self.admin = ADMIN
        self.writer = WRITER
        self.reader = READER
        self.client = self.client_of(ADMIN)

    def client_of(self, identity: S3Identity) -> Any:
        """A boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=identity.access_key,
            aws_secret_access_key=identity.secret_key,
            region_name=REGION,
            config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}),
        )

    def make_bucket(self, prefix: str = "bucket") -> str:
        """A new, empty bucket."""
        name = f"{prefix}-{os.getpid()}-{next(_numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Every key below ``prefix`` with its size."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}

    def read(self, bucket: str, key: str) -> bytes:
        """The bytes of one object."""
        data: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    def uploads(self, bucket: str) -> list[str]:
        """Keys of multipart uploads that nobody has finished."""
        return [item["Key"] for item in self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


@dataclass(frozen=True)
class Database:
    """A database of its own, at the newest schema."""

    name: str
    url: str  # as the application role
    admin_url: str  # as the owner of the tables


class Databases:
    """Makes databases by copying one that was migrated once."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self._migrated = False

    def empty(self, prefix: str = "empty") -> Database:
        """A database without tables."""
        return self._make(prefix, "template0")

    def migrated(self, prefix: str = "db") -> Database:
        """A database at the newest schema."""
        if not self._migrated:
            self.server.create_database(TEMPLATE)
            upgrade(Settings(database_admin_url=self.server.url(OWNER, TEMPLATE)))
            self._migrated = True
        return self._make(prefix, TEMPLATE)

    def drop(self, database: Database) -> None:
        """Drop it, whoever is connected."""
        self.server.drop_database(database.name)

    def _make(self, prefix: str, template: str) -> Database:
        name = f"{prefix}_{next(_numbers)}"
        url = self.server.create_database(name, template)
        return Database(name, url, self.server.url(OWNER, name))


def make_postgres(base: Path) -> Postgres:
    """Fast and forgetful: what these tests store may be lost."""
    return Postgres(base / "postgres", base / "run", base / "logs" / "postgres.log", durable=False)


def make_valkey(base: Path) -> Valkey:
    """A broker."""
    return Valkey(base / "valkey", base / "run" / "valkey.sock", base / "logs" / "valkey.log")


def make_openbao(base: Path) -> OpenBao:
    """A vault on any free port, with the policies of this checkout."""
    return OpenBao(base / "openbao", base / "logs" / "openbao.log", ports=None)


def make_seaweedfs(base: Path) -> SeaweedFS:
    """A user's cloud without buckets."""
    return SeaweedFS(base / "seaweedfs", [ADMIN, WRITER, READER])


def make_azurite(base: Path) -> Azurite:
    """A user's storage account without containers."""
    return Azurite(base / "azurite")


def make_settings(
    database: Database, valkey: Valkey, openbao: OpenBao, cloud: Cloud, base: Path, **overrides: Any
) -> Settings:
    """Settings for all of them, with leases and pauses short enough for tests."""
    sources = base / "sources"
    sources.mkdir(exist_ok=True, mode=0o700)
    engine = base / "run" / "engine"
    engine.mkdir(exist_ok=True, mode=0o700, parents=True)
    values: dict[str, Any] = {
        "database_url": database.url,
        "database_admin_url": database.admin_url,
        "redis_url": valkey.url(),
        "vault_url": openbao.url,
        "vault_auth_dir": openbao.auth_dir,
        "source_roots": (sources,),
        "allowed_endpoints": (cloud.address,),
        "runtime_dir": engine,
        "rclone": str(binaries.rclone()),
        "lease_seconds": 3.0,
        "heartbeat_seconds": 0.5,
        "retry_base_seconds": 0.2,
        "sweep_seconds": 0.2,
    }
    return Settings(**(values | overrides))
