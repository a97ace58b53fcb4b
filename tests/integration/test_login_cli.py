"""``cloudpush login`` and what follows, over HTTP to a server of our own."""

from __future__ import annotations

import gc
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import platformdirs
import pytest
import uvicorn
from typer.testing import CliRunner

from cloudpush.audit.access import AccessBook
from cloudpush.cli.main import app
from cloudpush.client.logins import login_file
from cloudpush.errors import AccessError, Code
from cloudpush.stack.services import Valkey
from servers import Database
from web_site import Site, site


@pytest.fixture(scope="module")
def served(database: Database, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with site(database, valkey.url(), tmp_path_factory.mktemp("site"), web_url=url) as made:
            server = uvicorn.Server(uvicorn.Config(made.app, lifespan="off", log_config=None))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            yield made
            server.should_exit = True
            thread.join(20)
    gc.collect()  # what is left of connections complains now, and not while pytest ends


class NoRing:
    priority = 0.0


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("URL", "TOKEN", "TOKEN_FILE", "LOCAL"):
        monkeypatch.delenv(f"CLOUDPUSH_{name}", raising=False)
    monkeypatch.setattr(platformdirs, "user_config_path", lambda _: tmp_path / "config")
    monkeypatch.setattr(keyring, "get_keyring", NoRing)


def run(*words: str) -> Any:
    found = CliRunner().invoke(app, list(words))
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def document(found: Any) -> Any:
    """What it printed, without the lines of the server, which logs in this process."""
    return json.loads(next(line for line in found.output.splitlines() if line.startswith("{")))


def decided(monkeypatch: pytest.MonkeyPatch, served: Site, *, approve: bool) -> None:
    """Somebody decides while the command waits."""

    def sleep(_seconds: float) -> None:
        code = served.record.intruder.connect().exec_driver_sql(
            "SELECT user_code FROM device_login WHERE owner IS NULL"
        )
        AccessBook(served.record.app).decide(code.scalar_one(), "ada", approve=approve)

    monkeypatch.setattr("cloudpush.cli.login.time.sleep", sleep)


def test_somebody_signs_in_makes_a_token_for_a_pipeline_and_signs_out(
    served: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided(monkeypatch, served, approve=True)
    url = served.services.settings.web_url
    said = run("login", url, "--no-browser")
    assert re.search(r"confirm the code [A-Z]{4}-[A-Z]{4}", said.output)
    kept = json.loads(login_file().read_text())["logins"][url]["token"]
    assert kept not in said.output
    assert document(run("whoami", "--json"))["name"] == "ada"
    made = document(run("token", "create", "nightly", "--role", "pipeline", "--json"))
    assert (made["role"], made["scopes"]) == ("pipeline", ["submit", "read"])
    assert "nightly" in run("token", "list").output
    run("token", "revoke", made["id"])
    run("logout")
    assert AccessBook(served.record.app).tokens("ada") == []
    assert kept not in login_file().read_text()
    with pytest.raises(AccessError) as caught:
        run("whoami")
    assert caught.value.code is Code.UNAUTHENTICATED


def test_a_login_that_is_denied_leaves_nothing_here(served: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(monkeypatch, served, approve=False)
    with pytest.raises(AccessError, match="denied"):
        run("login", served.services.settings.web_url, "--no-browser")
    assert not login_file().exists()
