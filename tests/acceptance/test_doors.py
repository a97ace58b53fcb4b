"""One contract for every door: plain HTTP, the Python client and the command line agree about what happens."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from acceptance.doors import Door, Library, Refused, Rest, Shell
from acceptance.live import Live
from cloudpush.audit.access import AccessBook
from cloudpush.cli.main import app
from cloudpush.client import Client
from cloudpush.push.access.model import Role, Scope
from cloudpush.push.access.tokens import digest, new_token
from cloudpush.web.api.audit import Table

pytestmark = pytest.mark.xdist_group("live")

COMMAND = get_command(app)


@dataclass(frozen=True)
class Party:
    """Somebody with a key of their own, before each door."""

    doors: dict[str, Door]
    credential: str


@pytest.fixture(scope="module")
def party(live: Live) -> Iterator[Callable[[str], Party]]:
    """Somebody by name."""
    made: dict[str, Party] = {}
    clients: list[Client] = []

    def of(name: str) -> Party:
        if name not in made:
            token = new_token()
            AccessBook(live.services.database).add_token(
                digest(token), owner=name, name="doors", role=None, scopes=frozenset(Scope), seconds=3600, actor="test"
            )
            url = live.settings.web_url.rstrip("/")
            clients.append(Client(url, token))
            made[name] = Party(
                {
                    "rest": Rest(url, token),
                    "client": Library(clients[-1]),
                    "cli": Shell({"CLOUDPUSH_URL": url, "CLOUDPUSH_TOKEN": token, "CLOUDPUSH_LOCAL": "0"}),
                },
                live.credential(owner=name),
            )
        return made[name]

    yield of
    for client in clients:
        client.close()


@pytest.fixture
def ada(party: Callable[[str], Party]) -> Party:
    return party("ada")


@pytest.fixture(params=["rest", "client", "cli"])
def door(request: pytest.FixtureRequest, ada: Party, monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setattr("typer.testing._get_command", lambda _app: COMMAND)  # built once: it takes its time
    return ada.doors[request.param]


@pytest.fixture(scope="module")
def source(live: Live) -> Path:
    return live.source("doors", {"a.csv": b"1,2\n", "sub/b.csv": b"3,4\n"})


def test_a_push_is_waited_for_until_its_verdict(live: Live, ada: Party, door: Door, bucket: str, source: Path) -> None:
    """By a real worker, into a real bucket; all doors show the same row afterwards."""
    made = door.submit(source, f"s3://{bucket}/run", ada.credential, label="wait")

    ended = door.wait(made["push"])

    facts = ("id", "owner", "state", "strength", "files_verified", "labels", "source", "uri")
    assert [ended[name] for name in facts] == [
        *(made["push"], "ada", "succeeded", "checksum", 2, {"door": "wait"}, str(source), f"s3://{bucket}/run")
    ]
    assert made["created"] is True
    assert sorted(live.cloud.keys(bucket)) == ["run/a.csv", "run/sub/b.csv"]
    shown = [{name: other.show(made["push"])[name] for name in facts} for other in ada.doors.values()]
    assert shown == [{name: ended[name] for name in facts}] * 3


def test_a_repetition_is_the_same_push_and_another_request_a_conflict(
    ada: Party, door: Door, bucket: str, source: Path
) -> None:
    """Whichever door the first one came through."""
    key = secrets.token_hex(8)
    made = door.submit(source, f"s3://{bucket}/run", ada.credential, key=key)

    again = [other.submit(source, f"s3://{bucket}/run", ada.credential, key=key) for other in ada.doors.values()]

    assert again == [{"push": made["push"], "created": False}] * 3
    with pytest.raises(Refused, match="IDEMPOTENCY_CONFLICT"):
        door.submit(source, f"s3://{bucket}/elsewhere", ada.credential, key=key)


def test_what_is_wrong_is_refused_and_nothing_stored(ada: Party, door: Door, bucket: str, source: Path) -> None:
    """With the same code."""
    label = secrets.token_hex(8)
    wrong = {
        "UNKNOWN_CREDENTIAL": (source, f"s3://{bucket}", "nobodys"),
        "BAD_URI": (source, "nonsense", ada.credential),
        "SOURCE_OUTSIDE_ROOTS": (Path("/etc"), f"s3://{bucket}", ada.credential),
    }

    codes = []
    for words in wrong.values():
        with pytest.raises(Refused) as refused:
            door.submit(*words, label=label)
        codes.append(refused.value.code)

    assert (codes, door.list(label)) == ([*wrong], [])


def test_anothers_push_is_none(
    live: Live, ada: Party, party: Callable[[str], Party], door: Door, bucket: str, source: Path
) -> None:
    """It is not shown, listed, stopped or tried again, and nobody learns that it exists."""
    label = secrets.token_hex(8)
    bob = party("bob")
    push = bob.doors["rest"].submit(source, f"s3://{bucket}", bob.credential, label=label)["push"]

    for act in (door.show, door.cancel, door.retry, door.wait):
        if act == door.wait and isinstance(door, Rest):
            continue  # its stream is refused by urllib's own error, which the others' tests are about
        with pytest.raises(Refused, match="UNKNOWN_PUSH"):
            act(push)

    assert (door.list(label), bob.doors["rest"].list(label)) == ([], [push])
    with pytest.raises(Refused, match="UNKNOWN_CREDENTIAL"):
        door.submit(source, f"s3://{bucket}", bob.credential)


def test_a_cancelled_push_is_tried_again_once(live: Live, ada: Party, door: Door, bucket: str, source: Path) -> None:
    """As a new push, which a repetition answers with, too."""
    label = secrets.token_hex(8)
    with live.asleep("worker"):
        push = door.submit(source, f"s3://{bucket}", ada.credential, label=label)["push"]
        state = door.cancel(push)
        twice = door.cancel(push)

    first, second = door.retry(push), door.retry(push)

    assert (state, twice, door.show(push)["state"]) == ("cancelled", "cancelled", "cancelled")
    assert (first["created"], second) == (True, {"push": first["push"], "created": False})
    assert door.list(label) == [first["push"], push]
    assert (door.show(first["push"])["retry_of"], door.wait(first["push"])["state"]) == (push, "succeeded")
    with pytest.raises(Refused, match="BAD_INPUT"):
        door.retry(first["push"])


@pytest.fixture(scope="module")
def copied(live: Live, party: Callable[[str], Party], source: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """An auditor's token, and of each table a question that has the same answer at any time."""
    book, token = AccessBook(live.services.database), new_token()
    book.grant_role("eve", Role.AUDITOR, "test")
    book.add_token(
        digest(token), owner="eve", name="doors", role=None, scopes=frozenset({Scope.AUDIT}), seconds=3600, actor="test"
    )
    ada, bucket = party("ada"), live.cloud.make_bucket()
    rest = ada.doors["rest"]
    push = rest.submit(source, f"s3://{bucket}/copied", ada.credential)["push"]
    ended = rest.wait(push)
    of_push, of_credential = {"push": push}, {"credential": ada.credential, "until": ended["finished_at"]}
    return token, {
        **dict.fromkeys(("pushes", "files", "parts", "events"), of_push),
        **dict.fromkeys(("credentials", "ledger"), of_credential),
        "checkpoints": {"until": datetime.now(UTC).isoformat()},
    }


@pytest.mark.parametrize("table", get_args(Table))
def test_an_auditor_takes_the_same_copy_through_every_door(
    live: Live, copied: tuple[str, dict[str, dict[str, str]]], table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is told by an event."""
    token, asked = copied
    url, query = live.settings.web_url.rstrip("/"), asked[table] | {"format": "jsonl"}
    monkeypatch.setattr("typer.testing._get_command", lambda _app: COMMAND)

    address = Request(
        f"{url}/v1/audit/exports/{table}?{urlencode(query)}", headers={"Authorization": f"Bearer {token}"}
    )
    with urlopen(address, timeout=60) as answer:
        by_rest = answer.read()
    with Client(url, token) as client, client.export(table, **query) as pieces:
        by_client = b"".join(pieces)
    words = [word for name, value in query.items() for word in (f"--{name}", value)]
    environment = {"CLOUDPUSH_URL": url, "CLOUDPUSH_TOKEN": token, "CLOUDPUSH_LOCAL": "0"}
    by_shell = CliRunner().invoke(app, ["export", table, *words], env=environment).stdout_bytes

    with live.superuser() as c:
        told = c.execute(
            "SELECT data->>'sha256' FROM event WHERE kind = 'audit.exported' AND actor LIKE 'eve %%' AND data->>'table' = %s",
            [table],
        ).fetchall()
    assert by_rest == by_client == by_shell
    assert by_rest or table == "checkpoints"
    assert told == [(hashlib.sha256(by_rest).hexdigest(),)] * 3
