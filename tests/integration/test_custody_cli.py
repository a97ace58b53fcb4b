"""`cloudpush credential` and `cloudpush vault` as a user types them, on a real database and a vault in memory."""

from __future__ import annotations

import getpass
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner, Result

import servers
from cloudpush.audit.credentials import Credentials
from cloudpush.audit.database import make_engine
from cloudpush.cli import credential as credential_cli
from cloudpush.cli import local
from cloudpush.cli import vault as vault_cli
from cloudpush.errors import CloudPushError, InputError
from cloudpush.push.custody import Custody
from cloudpush.wiring import SystemClock
from fakes_vault import FakeVault

LINES = "access_key_id=AKCANARYID\nsecret_access_key=canary/secret\n"
REVEALED = {
    "access_key_id": "AKCANARYID",
    "secret_access_key": "canary/secret",
    "session_token": "",
    "endpoint": "",
    "region": "",
}


class Terminal:
    """The command line with services of its own; ``run`` returns what a user sees."""

    def __init__(self, custody: Custody, vault: FakeVault) -> None:
        self.custody, self.vault = custody, vault

    def run(self, *words: str, stdin: str = "") -> Result:
        app = vault_cli.app if words[0] == "vault" else credential_cli.app
        result = CliRunner().invoke(app, words[1:], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit | CloudPushError):
            raise result.exception
        assert "canary" not in f"{result.output} {result.exception}".lower()
        return result

    def json(self, *words: str, stdin: str = "") -> Any:
        return json.loads(self.run(*words, "--json", stdin=stdin).stdout)

    def revealed(self, credential_id: str) -> dict[str, str]:
        return dict(self.vault.unseal(UUID(credential_id), getpass.getuser(), "access_key").reveal())


@pytest.fixture
def terminal(databases: servers.Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    database = databases.migrated()
    engine, vault = make_engine(database.url), FakeVault()
    custody = Custody(Credentials(engine), vault, vault, SystemClock())

    @contextmanager
    def services() -> Iterator[Any]:
        yield SimpleNamespace(custody=custody)

    monkeypatch.setenv("CLOUDPUSH_LOCAL", "1")  # whatever login whoever runs this has
    monkeypatch.setattr(local, "services", services)
    monkeypatch.setattr(vault_cli, "services", services)
    yield Terminal(custody, vault)
    engine.dispose()
    databases.drop(database)


def test_secret_from_stdin_is_sealed_and_only_its_id_printed(terminal: Terminal) -> None:
    """What is printed can be used in the next command as it is."""
    result = terminal.run("credential", "add", "--name", "lab", "--from-stdin", stdin=LINES)

    assert terminal.revealed(result.stdout.strip()) == REVEALED


def test_options_go_into_the_sealed_credential_and_its_metadata(terminal: Terminal) -> None:
    """Endpoint and region are sealed with the key; the owner is the account of the operating system."""
    added = terminal.json(
        *("credential", "add", "--name", "lab", "--from-stdin", "--endpoint", "https://s3.example.org"),
        *("--region", "auto", "--profile", "r2", "--expires", "30d", "--purge-after", "2099-01-31"),
        stdin=LINES,
    )

    told = {k: added[k] for k in ("owner", "created_by", "name", "kind", "profile", "endpoint", "state", "purge_after")}
    assert (told, added["expires_at"] is None, terminal.revealed(added["id"])) == (
        {
            "owner": getpass.getuser(),
            "created_by": getpass.getuser(),
            "name": "lab",
            "kind": "access_key",
            "profile": "r2",
            "endpoint": "https://s3.example.org",
            "state": "active",
            "purge_after": "2099-01-31T00:00:00+00:00",
        },
        False,
        REVEALED | {"endpoint": "https://s3.example.org", "region": "auto"},
    )


def test_expiry_of_temporary_credentials_is_taken_over(terminal: Terminal) -> None:
    """The answer of an STS call says itself when it ends."""
    answer = {"AccessKeyId": "A", "SecretAccessKey": "S", "SessionToken": "T", "Expiration": "2099-01-01T00:00:00Z"}

    added = terminal.json(
        "credential", "add", "--name", "sts", "--from-stdin", stdin=json.dumps({"Credentials": answer})
    )

    assert (added["expires_at"], added["purge_after"]) == ("2099-01-01T00:00:00+00:00", "2099-01-31T00:00:00+00:00")


def test_secret_from_a_file_or_the_environment(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open file is taken with a warning; AWS's variables are enough."""
    path = tmp_path / "credentials"
    path.write_text("[lab]\naws_access_key_id=AKCANARYID\naws_secret_access_key=canary/secret\n")
    path.chmod(0o644)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKCANARYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary/secret")

    by_file = terminal.run("credential", "add", "--name", "f", "--from-file", str(path), "--aws-profile", "lab")
    by_env = terminal.run("credential", "add", "--name", "e", "--from-env")

    assert (
        "can be read by others" in by_file.stderr,
        terminal.revealed(by_file.stdout.strip()),
        terminal.revealed(by_env.stdout.strip()),
    ) == (True, REVEALED, REVEALED)


class Keyboard(io.StringIO):
    """A person."""

    def isatty(self) -> bool:
        return True


def test_secret_is_asked_for_without_being_shown(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id is shown while typed, secret and token are not; prompts stay out of stdout."""
    asked: list[tuple[str, bool]] = []
    answers = iter(["AKCANARYID", "canary/secret", ""])

    def prompt(label: str, *, hide_input: bool, err: bool, **_: Any) -> str:
        asked.append((label, hide_input and err))
        return next(answers)

    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr(credential_cli, "sys", SimpleNamespace(stdin=Keyboard(), stdout=sys.stdout))

    result = terminal.run("credential", "add", "--name", "lab")

    assert (terminal.revealed(result.stdout.strip()), asked) == (
        REVEALED,
        [("access key id", False), ("secret access key", True), ("session token (none: enter)", True)],
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--secret-access-key", "canary/secret"],
        ["--secret-access-key=canary/secret"],
        ["--access-key-id", "AKCANARYID"],
        ["canary/secret"],
        ["--from-stdin", "AKCANARYID", "canary/secret"],
    ],
    ids=str,
)
def test_secret_on_the_command_line_is_refused_and_not_repeated(terminal: Terminal, words: list[str]) -> None:
    """No option takes one, and the refusal says what to do instead."""
    result = terminal.run("credential", "add", "--name", "lab", *words, stdin=LINES)

    assert isinstance(result.exception, InputError)
    assert ("never belongs on the command line" in result.exception.message, terminal.vault.stored) == (True, {})


def test_no_option_of_add_is_named_like_a_secret() -> None:
    """The list of options is the whole list: a new one must be judged here."""
    command = get_command(credential_cli.app).commands["add"]  # type: ignore[attr-defined]  # a click group

    assert {option for parameter in command.params for option in parameter.opts} == {
        *("--name", "--kind", "--endpoint", "--region", "--profile", "--expires", "--purge-after", "--owner"),
        *("--from-stdin", "--from-file", "--aws-profile", "--from-env", "--operator", "--json"),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from-stdin", "--from-env"], "exclude each other"),
        ([], "No terminal to ask on"),
        (["--from-stdin", "--kind", "password"], "kind='password' is not a kind of credential"),
        (["--from-stdin", "--expires", "soon"], "expires 'soon' is no time"),
        (["--from-stdin", "--expires", "2020-01-01"], "is over; name a time to come"),
        (["--from-stdin", "--owner", "eve"], "belongs to 'eve'"),
    ],
    ids=str,
)
def test_wrong_request_is_refused_before_anything_is_stored(terminal: Terminal, words: list[str], message: str) -> None:
    """Field, value and fix; no row and no secret."""
    result = terminal.run("credential", "add", "--name", "lab", *words, stdin=LINES)

    assert isinstance(result.exception, InputError)
    assert (message in result.exception.message, terminal.vault.stored) == (True, {})


def test_list_and_show_tell_metadata_only(terminal: Terminal) -> None:
    """The same fields in both, names with brackets taken literally; nothing of the secret."""
    added = terminal.json("credential", "add", "--name", "[red]lab[/]", "--from-stdin", stdin=LINES)

    listed, shown = terminal.json("credential", "list"), terminal.json("credential", "show", added["id"])

    assert ([{**c, "uses": 0} for c in listed], shown) == ([shown], {**added, "uses": 0})
    assert "[red]lab[/]" in terminal.run("credential", "list").stdout
    assert "[red]lab[/]" in terminal.run("credential", "show", added["id"]).stdout


def test_purge_needs_a_confirmation(terminal: Terminal) -> None:
    """Without a terminal to ask on it needs --yes; then the secret is gone and the metadata shown."""
    credential_id = terminal.run("credential", "add", "--name", "lab", "--from-stdin", stdin=LINES).stdout.strip()

    unasked = terminal.run("credential", "purge", credential_id)
    kept = len(terminal.vault.stored)
    purged = terminal.json("credential", "purge", credential_id, "--yes")

    assert isinstance(unasked.exception, InputError)
    assert ("confirm with --yes" in unasked.exception.message, kept, purged["state"], terminal.vault.stored) == (
        True,
        1,
        "purged",
        {},
    )


def test_rotation_reports_what_it_did(terminal: Terminal) -> None:
    """Counts in words and as JSON."""
    terminal.run("credential", "add", "--name", "lab", "--from-stdin", stdin=LINES)

    words = terminal.run("vault", "rotate").stdout
    resumed = terminal.json("vault", "rotate", "--resume")

    assert (words, resumed) == (
        "Key version 2: 1 data keys rewrapped, 0 failed.\nOlder key versions are retired.\n",
        {"version": 2, "rewrapped": 0, "failed": [], "retired": True},
    )


def test_rotation_that_fails_for_one_names_it_and_its_exit_code_says_so(terminal: Terminal) -> None:
    """A script sees that something is left to do."""
    added = terminal.run("credential", "add", "--name", "lab", "--from-stdin", stdin=LINES).stdout.strip()
    terminal.vault.stored[UUID(added)]["wrapped"] = "vault:v1:QUJD"

    result = terminal.run("vault", "rotate")

    assert (result.exit_code, f"Failed: {added}" in result.stdout, "are kept" in result.stdout) == (8, True, True)
