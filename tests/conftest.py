"""Fixtures: real servers, started when the first test asks for them, once per test process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
import structlog

import servers
from cloudpush.settings import Settings
from cloudpush.stack.azurite import Azurite
from cloudpush.stack.services import OpenBao, Postgres, Valkey

if TYPE_CHECKING:  # loaded by whoever asks for them: they and the providers' libraries take a second
    from doubles.aws_proxy import AwsProxy
    from doubles.gcs import GcsDouble

#: Directories of tests whose modules stay together.
GROUPED = {"contract", "integration", "migrations"}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A module that uses real servers stays on one process: its database, buckets and stages are made once."""
    for item in items:
        if item.path.parent.name in GROUPED and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nobody's own CloudPush, proxy or cloud account is seen by a test."""
    for name in os.environ:
        if name.startswith(("CLOUDPUSH_", "AWS_", "VAULT_", "BAO_", "RCLONE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDPUSH_DATA_DIR", str(tmp_path_factory.getbasetemp() / "no-stack"))


@pytest.fixture(autouse=True)
def _logs_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that a test calls in this process sets logging up for all that follows: undone, where one did."""
    configure, root = structlog.configure, logging.getLogger()
    handlers, level, srcfile = root.handlers[:], root.level, logging._srcfile
    # A logger that remembers how it was set up would do so for ever.
    monkeypatch.setattr(structlog, "configure", lambda **how: configure(**how | {"cache_logger_on_first_use": False}))
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        root.handlers[:], logging._srcfile = handlers, srcfile
        root.setLevel(level)
        logging.raiseExceptions = logging.logThreads = logging.logProcesses = logging.logMultiprocessing = True


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """Where this process' servers live: a short path, since sockets lie in it."""
    with servers.scratch() as path:
        yield path


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[Postgres]:
    """PostgreSQL; take `database` unless the server itself is the matter."""
    with servers.running(servers.make_postgres(server_dir)) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: Postgres) -> servers.Databases:
    """Makes databases: `.migrated()` at the newest schema, `.empty()` without tables."""
    return servers.Databases(postgres)


@pytest.fixture(scope="module")
def database(databases: servers.Databases) -> Iterator[servers.Database]:
    """A migrated database of this module's own."""
    made = databases.migrated()
    yield made
    databases.drop(made)


@pytest.fixture(scope="session")
def valkey_server(server_dir: Path) -> Iterator[Valkey]:
    """The broker with whatever other modules left in it."""
    with servers.running(servers.make_valkey(server_dir)) as server:
        yield server


@pytest.fixture(scope="module")
def valkey(valkey_server: Valkey) -> Valkey:
    """The broker, emptied for this module."""
    with redis.Redis.from_url(valkey_server.url()) as client:
        client.flushall()
    return valkey_server


@pytest.fixture(scope="session")
def openbao(server_dir: Path) -> Iterator[OpenBao]:
    """OpenBao, set up as `cloudpush up` sets it up: `.url`, `.auth_dir`."""
    with servers.running(servers.make_openbao(server_dir)) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(server_dir: Path) -> Iterator[servers.Cloud]:
    """A user's cloud: `.endpoint`, `.admin`, `.writer`, `.make_bucket()`, `.keys(bucket)`."""
    with servers.running(servers.make_seaweedfs(server_dir)) as server:
        yield servers.Cloud(server)


@pytest.fixture(scope="session")
def azurite(server_dir: Path) -> Iterator[Azurite]:
    """A user's storage account: `.endpoint`, `.account`, `.make_container()`."""
    with servers.running(servers.make_azurite(server_dir)) as server:
        yield server


@pytest.fixture(scope="module")
def aws(seaweedfs: servers.Cloud) -> Iterator[AwsProxy]:
    """The user's cloud behind a proxy that refuses what AWS refuses; the cloud's own keys sign."""
    from doubles.aws_proxy import AwsProxy

    keys = (seaweedfs.admin, seaweedfs.writer, seaweedfs.reader)
    with AwsProxy(seaweedfs.endpoint, seaweedfs.admin, keys) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsDouble]:
    """Google Cloud Storage with one bucket, `bucket`; the witness in signers.py signs."""
    from doubles.gcs import GcsDouble
    from signers import GcsSigner, gcs_key

    with GcsDouble({GcsSigner.ACCOUNT: gcs_key().public_key()}) as double:
        yield double


@pytest.fixture(scope="module")
def settings(
    database: servers.Database, valkey: Valkey, openbao: OpenBao, seaweedfs: servers.Cloud, server_dir: Path
) -> Settings:
    """Settings wired to all of these servers, with short leases."""
    return servers.make_settings(database, valkey, openbao, seaweedfs, server_dir)
