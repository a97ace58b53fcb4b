"""The command line loads what a command needs, and says where its work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from cloudpush.cli import lazy, local, main
from cloudpush.cli.context import os_user
from cloudpush.cli.desk import LOCAL
from cloudpush.cli.exits import exit_code_of
from cloudpush.errors import AccessError, CloudPushError, Code, ServerError
from doubles import api as double
from doubles.api import Api, Say, problem

PUSH = "019a9c5e-0000-7000-8000-000000000001"
ACCEPTED = Say(201, {"push": PUSH, "created": True, "announced": False, "warnings": ["soon"]})
ROW: dict[str, Any] = {
    "id": PUSH,
    "owner": "ada",
    "state": "running",
    "uri": "s3://lab/run",
    "created_at": "2026-03-01T12:00:00Z",
    "urls": None,
    "renewals": None,
    "labels": {},
    "bytes_total": 8,
    "files_total": 2,
}
COMMAND = get_command(main.app)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr("typer.testing._get_command", lambda _app: COMMAND)
    monkeypatch.delenv(LOCAL, raising=False)
    with double.running() as made:
        monkeypatch.setenv("CLOUDPUSH_URL", made.url)
        monkeypatch.setenv("CLOUDPUSH_TOKEN", "cpt_token")
        yield made


def run(*words: str, stdin: str = "") -> Result:
    result = CliRunner().invoke(main.app, [*words], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit | CloudPushError):
        raise result.exception
    return result


def test_every_command_is_in_the_module_that_is_named() -> None:
    """And no module has one that is not listed."""
    found = {name: module for module in set(main.COMMANDS.values()) for name in lazy.load(module)}

    assert found == main.COMMANDS


def test_with_an_address_the_api_is_asked(api: Api) -> None:
    """Warnings and a broker that is away are told as ever."""
    api.on("POST /v1/pushes", ACCEPTED)

    done = run("push", "/data/run", "s3://lab/run", "-c", "key", "--label", "a=b", "--idempotency-key", "k")

    [asked] = api.asked
    assert (done.exit_code, done.stdout) == (0, f"{PUSH}\n")
    assert done.stderr == (
        "Warning: soon\nThe broker is away; the push is stored and goes out by itself when it is back.\n"
    )
    assert asked.headers["idempotency-key"] == "k"
    assert asked.body == {
        "source": "/data/run",
        "destination": "s3://lab/run",
        "credential": "key",
        "overwrite": "if-different",
        "labels": {"a": "b"},
    }


def test_an_owner_is_asked_for_where_one_is_named(api: Api) -> None:
    """The operating system's name for whoever types means nothing there, unless they say so."""
    api.on("POST /v1/pushes", ACCEPTED)

    run("push", "/data/run", "s3://lab/run", "-c", "key")
    run("push", "/data/run", "s3://lab/run", "-c", "key", "--owner", os_user())

    assert [asked.body.get("owner") for asked in api.asked] == [None, os_user()]


def test_waiting_that_takes_too_long_has_its_exit_code(api: Api) -> None:
    """The push goes on."""
    counts = {"bytes_verified": 0, "sent_bytes": 0, "speed": None, "planned_at": None}
    api.on(f"GET /v1/pushes/{PUSH}", Say(200, ROW | counts))

    done = run("wait", PUSH, "--timeout", "0.01")

    assert (done.exit_code, "it goes on" in done.stderr) == (7, True)


@pytest.mark.parametrize("how", ["option", "variable"])
def test_local_means_local(api: Api, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The services of an own stack are used; the API hears nothing."""
    history = SimpleNamespace(push=lambda push_id: ROW, events=lambda push_id: [], files=lambda *a, **k: iter(()))
    built = SimpleNamespace(history=history)

    class Services:
        def __enter__(self) -> Any:
            return built

        def __exit__(self, *_: object) -> None:
            """Nothing to close."""

    monkeypatch.setattr(local, "services", Services)
    monkeypatch.setenv(LOCAL, "0" if how == "option" else "1")  # set in any case: the option's is taken back, too

    done = run(*(["--local"] if how == "option" else []), "show", PUSH, "--json")

    assert (done.exit_code, PUSH in done.stdout, api.asked) == (0, True, [])


def test_signed_urls_go_in_the_body_and_nowhere_else(api: Api) -> None:
    """A URL alone, and a manifest's rows without their lines."""
    api.on("POST /v1/pushes", ACCEPTED)
    url = "https://lab.s3.eu-central-1.amazonaws.com/run/a.csv?X-Amz-Signature=canary"
    inside = (
        "http://10.0.0.7:9000/lab/a.csv?X-Amz-Signature=canary"  # whether it may be called is the server's to judge
    )
    tree = "https://lab.blob.core.windows.net/run?sv=2024-11-04&sr=c&sp=cw&se=2030-01-01T00%3A00%3A00Z&sig=canary"

    for text in (url, inside, tree, f'{{"path": "a.csv", "url": "{url}"}}'):
        run("push", "/data/a.csv", "--signed-url", "-", stdin=text)
    run("push", "/data/run", "--manifest", "-", stdin=f"path,url\na.csv,{url}\n")

    row = {"path": "a.csv", "url": url}
    assert [asked.body["urls"] for asked in api.asked] == [
        [{"url": url}],
        [{"url": inside}],
        [{"tree_sas_url": tree}],
        [row],
        [row],
    ]
    assert {asked.path for asked in api.asked} == {"/v1/pushes"}


def test_a_push_is_shown_as_an_own_stack_shows_it(api: Api) -> None:
    """Events in their order, which the API turns around; no URLs where there are none."""
    happened: list[dict[str, Any]] = [
        {"seq": n, "at": "2026-03-01T12:00:00Z", "kind": "push.done", "actor": "ada", "data": {}} for n in (2, 1)
    ]
    api.on(f"GET /v1/pushes/{PUSH}", Say(200, ROW))
    api.on(f"GET /v1/pushes/{PUSH}/events", Say(200, {"items": happened, "next": None}))
    api.on(f"GET /v1/pushes/{PUSH}/files", Say(200, {"items": [], "next": None}))

    words, document = run("show", PUSH), run("show", PUSH, "--json")

    assert (words.exit_code, "2026-03-01 12:00:00" in words.stdout, "urls" in words.stdout) == (0, True, False)
    assert '"created_at": "2026-03-01T12:00:00+00:00"' in document.stdout
    assert document.stdout.index('"seq": 1') < document.stdout.index('"seq": 2')


def test_the_next_page_begins_after_the_push_that_is_named(api: Api) -> None:
    """As on an own stack, although the API's pages go by cursors."""
    ids = [str(UUID(int=n)) for n in (3, 2, 1)]
    items = [
        ROW | {"id": push, "state": "queued", "strength": None, "error_code": None, "credential_kind": ""}
        for push in ids
    ]
    api.on("GET /v1/pushes", Say(200, {"items": items, "next": None}))
    api.on(f"GET /v1/pushes/{ids[0]}", Say(200, items[0]))

    done = run("history", "--before", ids[0], "--limit", "1", "--json")

    assert [push in done.stdout for push in ids] == [False, True, False]


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (problem(401, "UNAUTHENTICATED"), AccessError, 2),
        (problem(403, "FORBIDDEN"), AccessError, 2),
        (problem(404, "UNKNOWN_PUSH"), CloudPushError, 2),
        (problem(500, "INTERNAL"), CloudPushError, 1),
        (Say(302, b"", {"location": "https://evil.example"}), ServerError, 6),
    ],
)
def test_refusals_have_their_exit_codes(api: Api, answer: Say, kind: type[CloudPushError], code: int) -> None:
    """As everywhere; a server that is none of ours is one that is away."""
    api.on(f"POST /v1/pushes/{PUSH}/cancel", answer)

    error = run("cancel", PUSH).exception

    assert isinstance(error, kind)
    assert exit_code_of(error) == code
    assert exit_code_of(CloudPushError(Code.SERVER_UNREACHABLE, "away")) == 6


def test_a_secret_goes_to_the_api_in_a_body(api: Api, tmp_path: Path) -> None:
    """Checked here first: what is wrong with it is told without asking."""
    row = {"id": PUSH, "owner": "ada", "name": "k", "kind": "access_key", "state": "active"}
    api.on("POST /v1/credentials", Say(201, row))
    good = '{"access_key_id": "AKCANARY", "secret_access_key": "canary/secret", "region": "eu-central-1"}'

    added = run("credential", "add", "--name", "k", "--from-stdin", stdin=good)
    refused = run("credential", "add", "--name", "k", "--from-stdin", stdin='{"access_key_id": "AKCANARY"}')

    assert (added.stdout, len(api.asked), os.environ.get("AWS_SECRET_ACCESS_KEY")) == (f"{PUSH}\n", 1, None)
    assert api.asked[0].body["secret"] == {
        "access_key_id": "AKCANARY",
        "secret_access_key": "canary/secret",
        "region": "eu-central-1",
    }
    assert isinstance(refused.exception, CloudPushError)
