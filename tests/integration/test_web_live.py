"""Live progress, over a real server and a real broker."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
import requests
import uvicorn

import servers
import web_site
from builders import a_lease, a_page, done, verified
from cloudpush.push.job import Progress
from cloudpush.stack.services import Valkey
from cloudpush.web import live
from cloudpush.web.sessions import COOKIE, VIA_LINK, digest, start
from web_site import Site

#: Generous: the machine may be busy with other tests.
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def site(database: servers.Database, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with web_site.site(database, valkey.url(), tmp_path_factory.mktemp("web"), web_url=url) as made:
            server = uvicorn.Server(uvicorn.Config(made.app, lifespan="off", log_config=None, access_log=False))
            made.app.state.streams.stopping = lambda: server.should_exit
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            yield made
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()  # streams that are open end, too


class Viewer:
    """Somebody who is signed in and looks at a push."""

    def __init__(self, site: Site, owner: str) -> None:
        _, self.token = start(site.services, owner, VIA_LINK, "")
        self._site = site

    def open(self, push_id: object) -> requests.Response:
        """The stream, unread. Chromium sends Secure cookies to loopback; this client has to be told."""
        return requests.get(
            f"{self._site.services.settings.web_url}/pushes/{push_id}/events",
            headers={"cookie": f"{COOKIE}={self.token}"},
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


def test_a_push_is_watched_from_its_first_byte_to_its_verdict(site: Site) -> None:
    """Where it is at once; what a worker tells; that it got on; its end, and with it the stream's."""
    grant = site.grant("ada", "live")
    lease = a_lease(3600)
    push = site.record.ledger.claim_push(site.push(grant), lease)
    assert push is not None
    page = a_page(push.id, files=4)
    site.record.ledger.finish_plan_with(push, lease, page)
    with Viewer(site, "ada").open(push.id) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        told = events(answer)
        assert next(told) == (
            "progress",
            {"state": "running", "sent": 0, "total": 40, "percent": 0, "text": "0 bytes of 40 bytes"},
        )
        site.services.announcer.progress(push.id, Progress(bytes=20, files=2, speed=4.0))
        name, moment = next(told)
        assert (name, moment["sent"], moment["percent"], moment["text"]) == (
            "progress",
            20,
            50,
            "20 bytes of 40 bytes, 4 bytes a second, about 5 seconds left",
        )
        site.record.ledger.record_files(page.part, lease, verified([1, 2, 3, 4]))
        site.record.ledger.end_part(push, page.part, lease, done())
        site.services.announcer.ended(push.id, done().state)
        rest = list(told)
    assert rest[-1] == (
        "verdict",
        {"state": "succeeded", "sent": 40, "total": 40, "percent": 100, "text": "40 bytes of 40 bytes"},
    )


def test_a_push_that_is_over_has_its_verdict_at_once(site: Site) -> None:
    push = site.push(site.grant("ada", "over"))
    site.services.intake.cancel(push, "ada", "ada")
    with Viewer(site, "ada").open(push) as answer:
        assert [name for name, _ in events(answer)] == ["verdict"]


def test_nobody_else_hears_anything(site: Site) -> None:
    """Another owner's push and an unknown one look the same; without a session there is nothing."""
    push = site.push(site.grant("ada", "private"))
    theirs, nobodys = Viewer(site, "mallory").open(push), Viewer(site, "mallory").open(UUID(int=1))
    assert (theirs.status_code, nobodys.status_code) == (404, 404)
    assert theirs.text.replace(str(push), "").count("\n") == nobodys.text.count("\n")
    assert requests.get(theirs.url, timeout=PATIENCE_SECONDS).status_code == 403


def test_a_session_has_so_many_streams_and_gets_them_back(site: Site) -> None:
    push = site.push(site.grant("ada", "many"))
    viewer = Viewer(site, "ada")
    opened = [viewer.open(push) for _ in range(live.PER_SESSION)]
    told = [events(o) for o in opened]  # kept: a generator that is forgotten closes its connection
    assert [next(t)[0] for t in told] == ["progress"] * live.PER_SESSION
    assert viewer.open(push).status_code == 503
    with Viewer(site, "ada").open(push) as other:
        assert other.status_code == 200
    for answer in opened:
        answer.close()

    def again() -> bool:
        with viewer.open(push) as answer:
            return answer.status_code == 200

    until(again)


def test_a_stream_ends_with_its_session_and_keeps_it_not_alive(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.1)
    push = site.push(site.grant("ada", "ending"))
    viewer = Viewer(site, "ada")
    site.record.tamper(
        "UPDATE web_session SET seen_at = now() - interval '50 minutes' WHERE token_sha256 = :t", t=digest(viewer.token)
    )
    with viewer.open(push) as answer:
        told = events(answer)
        assert next(told)[0] == "progress"
        assert next(told)[0] == ""
        used = "token_sha256 = :t AND seen_at > now() - interval '49 minutes'"
        assert site.count("web_session", used, t=digest(viewer.token)) == 0
        site.services.sessions.end(digest(viewer.token))
        assert {name for name, _ in told} <= {""}
