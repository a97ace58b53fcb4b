"""Where a login is kept, and found again."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import keyring
import platformdirs
import pytest

from cloudpush.client.logins import Kept, Login, find_login, forget_login, keep_login, known_login, login_file
from cloudpush.errors import InputError

URL, OTHER, TOKEN = "https://push.example", "https://other.example", "cpt_secret"


class Ring:
    """A keyring in memory."""

    priority = 5.0

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, name: str) -> str | None:
        return self.kept.get((service, name))

    def set_password(self, service: str, name: str, secret: str) -> None:
        self.kept[service, name] = secret

    def delete_password(self, service: str, name: str) -> None:
        del self.kept[service, name]


class Broken(Ring):
    def set_password(self, service: str, name: str, secret: str) -> None:
        raise RuntimeError("locked")


class InTheOpen(Ring):
    priority = 0.5


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("URL", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"CLOUDPUSH_{name}", raising=False)
    monkeypatch.setattr(platformdirs, "user_config_path", lambda _: tmp_path / "config")


def use(monkeypatch: pytest.MonkeyPatch, ring: Any) -> Any:
    monkeypatch.setattr(keyring, "get_keyring", lambda: ring)
    return ring


def test_nobody_is_signed_in_at_first() -> None:
    assert find_login() is None
    assert known_login() is None


def test_a_keyring_keeps_the_token_and_no_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = use(monkeypatch, Ring())
    assert keep_login(Kept(URL, "ada"), TOKEN) == "keyring"
    assert find_login() == Login(URL, TOKEN, "keyring")
    assert TOKEN not in login_file().read_text()
    forget_login(URL)
    assert (ring.kept, find_login()) == ({}, None)


@pytest.mark.parametrize("ring", [Broken, InTheOpen])
def test_without_a_keyring_that_keeps_secrets_a_private_file_does(monkeypatch: pytest.MonkeyPatch, ring: Any) -> None:
    use(monkeypatch, ring())
    keep_login(Kept(URL, "ada", "id", "2026-01-31"), TOKEN)
    assert login_file().stat().st_mode & 0o777 == 0o600
    assert login_file().parent.stat().st_mode & 0o777 == 0o700
    assert find_login() == Login(URL, TOKEN, "file")
    assert known_login() == Kept(URL, "ada", "id", "2026-01-31")
    forget_login(URL)
    assert TOKEN not in login_file().read_text()


def test_a_token_is_never_used_for_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Broken())
    keep_login(Kept(URL), TOKEN)
    monkeypatch.setenv("CLOUDPUSH_URL", OTHER)
    assert find_login() == Login(OTHER, "", "")
    monkeypatch.setenv("CLOUDPUSH_URL", f"{URL}/v1/")
    assert find_login() == Login(URL, TOKEN, "file")


def test_the_environment_is_stronger_than_a_file_and_that_than_what_was_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, Broken())
    keep_login(Kept(URL), TOKEN)
    named = tmp_path / "token"
    named.touch(0o600)
    named.write_text("cpt_file\n")
    monkeypatch.setenv("CLOUDPUSH_TOKEN_FILE", str(named))
    assert find_login() == Login(URL, "cpt_file", "CLOUDPUSH_TOKEN_FILE")
    monkeypatch.setenv("CLOUDPUSH_TOKEN", "cpt_environment")
    assert find_login() == Login(URL, "cpt_environment", "CLOUDPUSH_TOKEN")


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o602])
def test_a_file_that_others_can_read_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int) -> None:
    named = tmp_path / "token"
    named.write_text(TOKEN)
    named.chmod(mode)
    monkeypatch.setenv("CLOUDPUSH_URL", URL)
    monkeypatch.setenv("CLOUDPUSH_TOKEN_FILE", str(named))
    with pytest.raises(InputError, match="by others") as caught:
        find_login()
    assert TOKEN not in str(caught.value)


def test_a_login_file_that_others_can_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Broken())
    keep_login(Kept(URL), TOKEN)
    login_file().chmod(0o644)
    with pytest.raises(InputError, match="by others"):
        find_login()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"logins": []}', '{"url": "https://push.example", "logins": {"https://push.example": 7}}']
)
def test_a_login_file_that_somebody_else_wrote_does_no_harm(text: str) -> None:
    login_file().parent.mkdir()
    login_file().touch(0o600)
    login_file().write_text(text)
    found: object = None
    with suppress(InputError):
        found = find_login()
    assert found in (None, Login(URL, "", ""))


def test_no_token_is_in_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Broken())
    keep_login(Kept(URL), TOKEN)
    assert TOKEN in json.dumps(json.loads(login_file().read_text()))
    assert TOKEN not in repr(find_login())
