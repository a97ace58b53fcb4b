"""The API's live stream of a push, over a real server and a real broker."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
import uvicorn

from api_site import ApiSite, api_site
from builders import a_lease, a_page, done, verified
from cloudpush.audit.access import AccessBook
from cloudpush.push.access import identity
from cloudpush.push.access.model import Role
from cloudpush.push.job import Progress, Request
from cloudpush.stack.services import Valkey
from cloudpush.web.api import progress
from servers import Database

#: Generous: the machine may be busy with other tests.
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def site(database: Database, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSite]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with api_site(database, valkey.url(), tmp_path_factory.mktemp("live"), web_url=url) as made:
            server = uvicorn.Server(uvicorn.Config(made.app, lifespan="off", log_config=None, access_log=False))
            made.app.state.streams.stopping = lambda: server.should_exit
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            yield made
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()  # streams that are open end, too


@pytest.fixture
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams ask at every turn whether their token is still good."""
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(identity, "KEPT_SECONDS", 0.0)


def queued(site: ApiSite, owner: str) -> UUID:
    card = site.credential(owner)
    return site.services.intake.submit(
        Request(owner, owner, str(site.source), "s3://lab-archive/run", str(card))
    ).push_id


def follow(site: ApiSite, push_id: object, token: str) -> requests.Response:
    """The stream, unread."""
    return requests.get(
        f"{site.services.settings.web_url}/v1/pushes/{push_id}/progress",
        headers={"authorization": f"Bearer {token}"},
        stream=True,
        timeout=PATIENCE_SECONDS,
    )


def events(answer: requests.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """(event, data) as they come; comments as ("", {})."""
    name = ""
    for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
        elif line.startswith(":"):
            yield "", {}


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_push_is_followed_from_its_first_byte_to_its_end(site: ApiSite) -> None:
    lease = a_lease(3600)
    push = site.record.ledger.claim_push(queued(site, "ada"), lease)
    assert push is not None
    page = a_page(push.id, files=4)
    site.record.ledger.finish_plan_with(push, lease, page)
    with follow(site, push.id, site.token("ada")) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = events(answer)
        (first, shown), (second, begun) = next(told), next(told)
        assert (first, shown["state"], second, begun["bytes"], begun["bytes_total"]) == (
            *("state", "running", "progress", 0, 40),
        )
        site.services.announcer.progress(push.id, Progress(bytes=20, files=2, speed=4.0))
        assert next(told) == (
            "progress",
            {"bytes": 20, "files": 2, "bytes_total": 40, "files_total": 4, "speed": 4.0, "eta": None},
        )
        site.record.ledger.record_files(page.part, lease, verified([1, 2, 3, 4]))
        site.record.ledger.end_part(push, page.part, lease, done())
        site.services.announcer.ended(push.id, done().state)
        rest = list(told)
    assert rest[-1][0] == "state"
    assert (rest[-1][1]["state"], rest[-1][1]["bytes_verified"]) == ("succeeded", 40)


@pytest.mark.usefixtures("asked_often")
def test_a_stream_ends_with_its_token(site: ApiSite) -> None:
    push, token = queued(site, "ada"), site.token("ada")
    with follow(site, push, token) as answer:
        told = events(answer)
        assert next(told)[0] == "state"
        while next(told)[0] != "":
            pass
        found = site.services.access.identify(token)
        assert found.token_id is not None
        AccessBook(site.record.app).revoke_token(found.token_id, "ada", "ada")
        assert {name for name, _ in told} <= {"", "progress"}


@pytest.mark.usefixtures("asked_often")
def test_a_stream_of_anothers_push_ends_with_the_role_that_let_it_be_seen(site: ApiSite) -> None:
    token = site.token("eve", Role.AUDITOR)
    with follow(site, queued(site, "ada"), token) as answer:
        told = events(answer)
        while next(told)[0] != "":
            pass
        AccessBook(site.record.app).revoke_role("eve", Role.AUDITOR, "tests")
        assert {name for name, _ in told} <= {"", "progress"}


def test_anothers_push_is_none(site: ApiSite) -> None:
    token = site.token("mallory")
    theirs, none = follow(site, queued(site, "ada"), token), follow(site, uuid4(), token)
    assert (theirs.status_code, none.status_code) == (404, 404)
    assert [a.json()["code"] for a in (theirs, none)] == ["UNKNOWN_PUSH"] * 2
    assert follow(site, uuid4(), "none").status_code == 401


def test_a_principal_has_so_many_streams_and_gets_them_back(site: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PER_PRINCIPAL", 2)
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.05)
    push, tokens = queued(site, "grace"), [site.token("grace") for _ in range(2)]
    opened = [follow(site, push, token) for token in tokens]  # another token is no other principal
    told = [events(o) for o in opened]  # kept: a generator that is forgotten closes its connection
    assert [next(t)[0] for t in told] == ["state", "state"]
    full = follow(site, push, tokens[0])
    assert (full.status_code, full.json()["code"]) == (429, "RATE_LIMITED")
    with follow(site, queued(site, "ada"), site.token("ada")) as other:
        assert other.status_code == 200
    for answer in opened:
        answer.close()

    def again() -> bool:
        with follow(site, push, tokens[0]) as answer:
            return answer.status_code == 200

    until(again)
