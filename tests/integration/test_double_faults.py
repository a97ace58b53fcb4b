"""The proxy that spoils requests: each fault is what its name says, and every byte is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
import requests
from aiohttp import web

from doubles.faults import Fault, FaultProxy, Reply, Rule, Seen
from doubles.serving import HttpDouble, whole

BODY = bytes(range(256)) * 4096  # 1 MiB


class Store(HttpDouble):
    """Keeps what it is given by path."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, bytes] = {}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PUT":
            self.kept[request.raw_path] = await whole(request)
            return web.Response(headers={"ETag": "real"})
        if request.method == "GET":  # a body without a length: chunked
            answer = web.StreamResponse()
            answer.enable_chunked_encoding()
            await answer.prepare(request)
            await answer.write(self.kept[request.raw_path])
            return answer
        return web.Response(status=405, text="no")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as server:
        yield server


@pytest.fixture(scope="module")
def one(store: Store) -> Iterator[FaultProxy]:
    with FaultProxy(store.endpoint) as server:
        yield server


@pytest.fixture
def proxy(one: FaultProxy, store: Store) -> FaultProxy:
    one.spoil()
    store.kept.clear()
    return one


def put(proxy: FaultProxy, path: str = "/a", body: bytes = BODY) -> requests.Response:
    return requests.put(proxy.endpoint + path, data=body, timeout=(5, 1))


def test_without_a_rule_everything_passes_and_is_counted(proxy: FaultProxy, store: Store) -> None:
    with requests.Session() as session:
        for path in ("/a%20b?secret=1", "/c", "/c"):
            assert session.put(proxy.endpoint + path, data=BODY, timeout=5).headers["etag"] == "real"
        assert session.get(proxy.endpoint + "/c", timeout=5).content == BODY
        assert session.post(proxy.endpoint + "/c", timeout=5).text == "no"
    assert store.kept == {"/a%20b?secret=1": BODY, "/c": BODY}
    assert proxy.received == {"/a b": len(BODY), "/c": 2 * len(BODY)}
    assert [seen.method for seen in proxy.seen] == ["PUT", "PUT", "PUT", "GET", "POST"]
    assert proxy.seen[0].digest == hashlib.md5(BODY).hexdigest()


def test_flip_changes_one_bit(proxy: FaultProxy, store: Store) -> None:
    proxy.spoil(Rule(Fault.FLIP, at=700_001))
    assert put(proxy).ok
    different = [(i, a ^ b) for i, (a, b) in enumerate(zip(store.kept["/a"], BODY, strict=True)) if a != b]
    assert different == [(700_001, 0x10)]


def test_truncate_gives_the_server_less_and_the_client_its_success(proxy: FaultProxy, store: Store) -> None:
    proxy.spoil(Rule(Fault.TRUNCATE, at=400_000))
    assert put(proxy).ok
    assert store.kept["/a"] == BODY[:400_000]
    assert proxy.received["/a"] == len(BODY)


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.STALL, Fault.LOSE])
def test_these_never_answer(proxy: FaultProxy, store: Store, fault: Fault) -> None:
    proxy.spoil(Rule(fault, at=1000, times=1))
    with pytest.raises((requests.ConnectionError, requests.Timeout)):
        requests.put(proxy.endpoint + "/a", data=BODY, timeout=(5, 0.2))
    assert ("/a" in store.kept) is (fault is Fault.LOSE)
    assert put(proxy).headers["etag"] == "real"  # once only


def test_swallow_answers_for_a_server_that_saw_nothing(proxy: FaultProxy, store: Store) -> None:
    def forged(seen: Seen) -> Reply:
        return Reply(200, {"ETag": seen.digest})

    proxy.spoil(Rule(Fault.SWALLOW, reply=forged))
    assert put(proxy).headers["etag"] == hashlib.md5(BODY).hexdigest()
    assert store.kept == {}


def test_replace_answers_otherwise_after_the_server_has_done_it(proxy: FaultProxy, store: Store) -> None:
    proxy.spoil(Rule(Fault.REPLACE, reply=Reply(503, {"Retry-After": "1"}, b"<Error/>")))
    answer = put(proxy)
    assert (answer.status_code, answer.headers["retry-after"], answer.content) == (503, "1", b"<Error/>")
    assert store.kept["/a"] == BODY


def test_stale_answers_before_the_body_came(proxy: FaultProxy, store: Store) -> None:
    proxy.spoil(Rule(Fault.STALE, reply=Reply(403)))
    answer = requests.put(proxy.endpoint + "/a", data=b"x", timeout=5)
    assert answer.status_code == 403
    assert proxy.received["/a"] == 0


def test_endless_never_ends(proxy: FaultProxy) -> None:
    proxy.spoil(Rule(Fault.ENDLESS, "GET"))
    with requests.get(proxy.endpoint + "/a", stream=True, timeout=5) as answer:
        assert len(answer.raw.read(3 * 1024 * 1024)) == 3 * 1024 * 1024


def test_a_rule_takes_what_it_names(proxy: FaultProxy) -> None:
    """By method, path and header, after so many that it spares, so many times."""
    proxy.spoil(
        Rule(Fault.SWALLOW, "PUT", "part=2", reply=Reply(500), spare=1, times=1),
        Rule(Fault.SWALLOW, header=("x-which", "^this$"), reply=Reply(418)),
    )
    statuses = [put(proxy, f"/a?part={n}").status_code for n in (2, 1, 2, 2)]
    assert statuses == [200, 200, 500, 200]
    assert requests.put(proxy.endpoint, data=b"", headers={"x-which": "this"}, timeout=5).status_code == 418


def test_the_clock_of_the_server_can_be_wrong(proxy: FaultProxy) -> None:
    proxy.clock_skew = timedelta(hours=1)
    told = parsedate_to_datetime(put(proxy).headers["date"])
    assert timedelta(minutes=59) < told - datetime.now(UTC) < timedelta(minutes=61)
