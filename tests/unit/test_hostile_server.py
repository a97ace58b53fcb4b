"""A server that means harm, against the command line and the client: each test was seen to fail before it was mended."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import keyring
import platformdirs
import pytest
from typer.testing import CliRunner

from cloudpush.audit.findings import Report
from cloudpush.cli import audit, trust
from cloudpush.cli.main import app
from cloudpush.client.problems import error_of
from cloudpush.client.stream import events
from cloudpush.client.transport import Answer, Transport
from cloudpush.errors import Code, ServerError

ESCAPE = "\x1b]0;owned\x07"
#: Rich would take it for its own, and end with an error.
MARKUP = "[/nobody]"
DEEP = b"[" * 200_000


class NoRing:
    priority = 0.0


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What a browser was told to open, by a command whose server lies wherever it can."""
    for name in ("URL", "TOKEN", "TOKEN_FILE", "LOCAL"):
        monkeypatch.delenv(f"CLOUDPUSH_{name}", raising=False)
    monkeypatch.setattr(platformdirs, "user_config_path", lambda _: tmp_path / "config")
    monkeypatch.setattr(keyring, "get_keyring", NoRing)
    pages: list[str] = []
    monkeypatch.setattr("webbrowser.open", pages.append)
    answers = {
        "/login/device": {
            "device_code": "d",
            "user_code": f"A{ESCAPE}",
            "verification_uri": f"https://push.example/{ESCAPE}",
            "verification_uri_complete": "file:///etc/passwd",
            "expires_in": 600,
            "interval": 0,
        },
        "/login/token": {
            "token": "cpt_x",
            "token_id": "1",
            "name": f"ada{ESCAPE}",
            "scopes": [],
            "expires_at": f"2030-01-0{ESCAPE}",
        },
        "/me": {"name": f"ada{ESCAPE}", "roles": [ESCAPE], "scopes": [ESCAPE], "expires_at": ESCAPE, "token_id": None},
    }

    def call(_self: Transport, _method: str, path: str, **_: Any) -> Answer:
        return Answer(200, {}, json.dumps(answers[path]).encode())

    monkeypatch.setattr(Transport, "call", call)
    return pages


@pytest.mark.parametrize("command", [["login", "https://push.example"], ["whoami"]])
def test_a_server_says_nothing_to_the_terminal(command: list[str], opened: list[str]) -> None:
    if command == ["whoami"]:
        CliRunner().invoke(app, ["login", "https://push.example"])
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    assert "\\x1b]0;owned" in found.output
    assert not set("\x1b\x07") & set(found.output)


def test_a_server_has_no_file_opened(opened: list[str]) -> None:
    assert CliRunner().invoke(app, ["login", "https://push.example"]).exit_code == 0
    assert opened == []


def test_an_answer_that_is_too_deep_is_no_traceback() -> None:
    with pytest.raises(ServerError):
        _ = Answer(200, {}, DEEP).json
    assert error_of(500, DEEP).code is Code.INTERNAL
    assert list(events([b"data: " + DEEP + b"\n\n"])) == []


def test_an_event_without_an_end_is_not_kept_for_ever() -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"data: " + b"x" * 65_000 + b"\n"

    with pytest.raises(ValueError, match="no end"):
        list(events(endless()))


def test_nobodys_words_are_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ETag of a destination's, a kind that somebody wrote into an event, a name: each ended the command that showed it."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    report = Report()
    report.blame(uuid4(), 5, f"event 5 ({MARKUP}) was edited")
    report.unchecked.append(MARKUP)
    trust.tell(report, as_json=False)
    now = datetime.now(UTC)
    audit._show_events([{"seq": 1, "at": now, "kind": MARKUP, "actor": MARKUP, "data": {}}])
    file = {"path": "a", "size": 1, "state": "verified", "strength": None, "sha256": None, "etag": MARKUP}
    audit._show_files([{**file, "uploaded_at": None, "error_code": None}], 1)
    assert out.getvalue().count(MARKUP) == 5
