"""`cloudpush provider`, against a real Vault: secrets go in by stdin, come out nowhere, and are gone when forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloudpush.cli.main import app
from cloudpush.credentials.clients import Clients
from cloudpush.credentials.connection import VaultConnection
from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.settings import Settings
from doubles.oauth_server import OAuthServer

CANARY = "canary-client-secret-0123456789"


@pytest.fixture
def oauth() -> Iterator[OAuthServer]:
    with OAuthServer(client_secret=CANARY, token_auth="client_secret_post") as server:
        yield server


@pytest.fixture
def shell(settings: Settings, tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A shell in which one provider, `box`, is offered."""
    providers = tmp_path / "providers.toml"
    providers.write_text(oauth.table())
    for name, value in (
        ("PROVIDERS_FILE", providers),
        ("VAULT_URL", settings.vault_url),
        ("VAULT_AUTH_DIR", settings.vault_auth_dir),
        ("WEB_URL", "https://cloudpush.example"),
    ):
        monkeypatch.setenv(f"CLOUDPUSH_{name}", str(value))
    return CliRunner()


def stored(settings: Settings) -> str:
    """What a worker finds."""
    with closing(VaultConnection(settings, "worker")) as connection:
        return Clients(connection).secret("box")


def test_secret_is_put_by_stdin_and_forgotten(shell: CliRunner, settings: Settings) -> None:
    """Nothing of it is said."""
    put = shell.invoke(app, ["provider", "set-secret", "box"], input=f"{CANARY}\n")
    found = stored(settings)
    forgotten = shell.invoke(app, ["provider", "forget-secret", "box"])

    assert (put.exit_code, found, forgotten.exit_code, stored(settings)) == (0, CANARY, 0, "")
    assert "canary" not in put.output + forgotten.output


def test_secret_on_the_command_line_is_refused_without_being_repeated(shell: CliRunner, settings: Settings) -> None:
    """Others could read it there."""
    done = shell.invoke(app, ["provider", "set-secret", "box", CANARY])

    assert isinstance(done.exception, InputError)
    assert ("canary" in str(done.exception), stored(settings)) == (False, "")


@pytest.mark.parametrize("name", ["bx", "../clients/box"])
def test_unknown_provider_has_no_secret(shell: CliRunner, name: str) -> None:
    """Nor a path in Vault."""
    done = shell.invoke(app, ["provider", "set-secret", name], input=CANARY)

    assert isinstance(done.exception, CloudPushError)
    assert done.exception.code is Code.UNKNOWN_PROVIDER


def test_list_says_who_is_offered(shell: CliRunner) -> None:
    """Those that ship are in it, without a client id."""
    found = json.loads(shell.invoke(app, ["provider", "list", "--json"]).stdout)

    offered = {p["name"]: p["offered"] for p in found}
    assert (offered["box"], offered["google"], offered["azure"]) == (True, False, False)


def test_check_finds_a_missing_secret(shell: CliRunner) -> None:
    """By its exit code, too."""
    shell.invoke(app, ["provider", "forget-secret", "box"])
    missing = shell.invoke(app, ["provider", "check", "box"])
    shell.invoke(app, ["provider", "set-secret", "box"], input=CANARY)
    there = shell.invoke(app, ["provider", "check", "box"])

    assert (missing.exit_code, there.exit_code) == (8, 0), missing.output + there.output
    assert "provider set-secret box" in missing.output
