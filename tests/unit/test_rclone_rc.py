"""The remote control's client, and the watch over calls that last, with a server of a few lines in rclone's place."""

from __future__ import annotations

import json
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cloudpush.errors import Cancelled, CloudPushError, Code, EngineError
from cloudpush.push.job import Progress
from cloudpush.push.ports import Control
from cloudpush.transfer import rc
from cloudpush.transfer.flight import Flight
from cloudpush.transfer.rc import RcClient, RcError, RcGoneError
from cloudpush.transfer.translate import Translator
from fakes_inspector import GoOn

Answer = tuple[int, dict[str, Any]]


class FakeRclone(socketserver.ThreadingUnixStreamServer):
    """Answers calls from ``answers``; ``close_after``: closes each connection after one answer without saying so."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Callable[[dict[str, Any]], Answer]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self.close_after = False
        super().__init__(str(path), _Handler)


def _nothing(_: dict[str, Any]) -> Answer:
    return 200, {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeRclone

    def handle(self) -> None:
        self.server.connections += 1
        super().handle()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.removeprefix("/")
        self.server.calls.append((path, body))
        status, answer = self.server.answers.get(path, _nothing)(body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = self.server.close_after

    def log_message(self, *_: object) -> None:
        pass


class FakeChild:
    """What a flight needs of rclone's process."""

    def __init__(self, rc: RcClient) -> None:
        self.rc = rc

    def crashed(self) -> EngineError:
        return EngineError(Code.ENGINE_CRASHED, "rclone was ended by signal 9 (SIGKILL).")


class After(Control):
    """A control that objects from the given question on."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled


@pytest.fixture(autouse=True)
def _look_up_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch is a matter of order here, not of time."""
    monkeypatch.setattr(rc, "WATCH_SECONDS", 0.005)


@pytest.fixture
def rclone() -> Iterator[FakeRclone]:
    """A server on a socket of its own."""
    with tempfile.TemporaryDirectory(prefix="cp-test-") as directory, FakeRclone(Path(directory) / "rc") as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def flight(rclone: FakeRclone) -> Flight:
    """A flight in the group ``g``."""
    words = Translator("results", "https://s3.example.org", session=False, secrets=())
    return Flight(FakeChild(RcClient(rclone.path)), words, "g")  # type: ignore[arg-type]  # all that it uses


def until_stopped(rclone: FakeRclone, then: Answer = (500, {"error": "context canceled"})) -> threading.Event:
    """Let ``sync/copy`` last until the group is stopped."""
    stopped = threading.Event()

    def stop(_: dict[str, Any]) -> Answer:
        stopped.set()
        return 200, {}

    def copy(_: dict[str, Any]) -> Answer:
        stopped.wait(10)
        return then

    rclone.answers |= {"job/stopgroup": stop, "sync/copy": copy}
    return stopped


def test_parameters_go_and_the_result_comes(rclone: FakeRclone) -> None:
    """A call is one POST of JSON, and connections are kept."""
    rclone.answers["core/version"] = lambda body: (200, {"version": "v1.75.2", "got": body})
    client = RcClient(rclone.path)

    answers = [client.call("core/version", a=1), client.call("core/version")]

    assert [a["got"] for a in answers] == [{"a": 1}, {}]
    assert rclone.connections == 1


def test_the_echo_of_a_failed_call_is_dropped(rclone: FakeRclone) -> None:
    """rclone repeats what it was given beside its error: only the error's text survives."""
    rclone.answers["x/y"] = lambda body: (500, {"error": "it broke", "input": body, "path": "x/y", "status": 500})

    with pytest.raises(RcError) as raised:
        RcClient(rclone.path).call("x/y", secret_access_key="canary")

    error = raised.value
    assert (error.path, error.text, error.status) == ("x/y", "it broke", 500)
    assert "canary" not in f"{error} {error!r} {vars(error)} {error.args}"


def test_an_idle_connection_that_was_closed_is_replaced(rclone: FakeRclone) -> None:
    """The server may close what lies idle; the next call does not notice."""
    rclone.close_after = True
    client = RcClient(rclone.path)

    assert [client.call("a/b"), client.call("a/b")] == [{}, {}]
    assert rclone.connections == 2


def test_nobody_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    """Without a listener there is no answer."""
    with pytest.raises(RcGoneError):
        RcClient(tmp_path / "nowhere.sock").call("rc/noop")


def test_a_cancelled_call_is_stopped_and_its_end_awaited(rclone: FakeRclone, flight: Flight) -> None:
    """The group is stopped, the call's own answer is waited for, and the reason is raised."""
    stopped = until_stopped(rclone)

    with pytest.raises(Cancelled):
        flight.run("sync/copy", {}, After(1))

    assert stopped.is_set()
    assert ("job/stopgroup", {"group": "g"}) in rclone.calls


def test_a_failure_of_all_files_stops_a_call_under_way(rclone: FakeRclone, flight: Flight) -> None:
    """What rclone noted as its last error is read while the call lasts."""
    refused = "dial tcp 127.0.0.1:1: connect: connection refused"
    rclone.answers["core/stats"] = lambda _: (200, {"errors": 1, "lastError": refused})
    until_stopped(rclone)

    with pytest.raises(CloudPushError) as raised:
        flight.run("sync/copy", {}, GoOn())

    assert raised.value.code is Code.ENDPOINT_REFUSED


def test_failures_without_a_success_between_stop_a_call(rclone: FakeRclone, flight: Flight) -> None:
    """One throttled file is no reason to stop, nor are many among successes; many in a row are."""
    throttled = "https response error StatusCode: 503, RequestID: 1, HostID: , api error SlowDown: slow down"
    counts = iter([(1, 1), (6, 2), (9, 2), (10, 2)])  # failures, successes
    looks = []

    def stats(_: dict[str, Any]) -> Answer:
        looks.append(next(counts))
        return 200, {"errors": looks[-1][0], "transfers": looks[-1][1], "lastError": throttled}

    rclone.answers["core/stats"] = stats
    until_stopped(rclone)

    with pytest.raises(CloudPushError) as raised:
        flight.run("sync/copy", {}, GoOn())

    assert (raised.value.code, looks[-1]) == (Code.THROTTLED, (10, 2))


def test_a_dead_engine_is_a_crash(rclone: FakeRclone, flight: Flight) -> None:
    """A connection that breaks in the middle is told as what it is."""

    def die(_: dict[str, Any]) -> Answer:
        rclone.path.unlink()
        rclone.shutdown()
        rclone.server_close()
        raise ConnectionAbortedError

    rclone.handle_error = lambda *_: None  # type: ignore[method-assign]  # it is meant to happen
    rclone.answers["sync/copy"] = die

    with pytest.raises(EngineError) as raised:
        flight.run("sync/copy", {}, GoOn())

    assert raised.value.code is Code.ENGINE_CRASHED


def test_progress_survives_an_engine_that_does_not_answer(rclone: FakeRclone, flight: Flight) -> None:
    """The last moment that was known stays, and nothing is raised."""
    rclone.answers["core/stats"] = lambda _: (200, {"bytes": 7, "transfers": 1, "speed": 3.5, "eta": None})
    known = flight.moment
    rclone.answers["core/stats"] = lambda _: (500, {"error": "no"})

    assert (known, flight.moment) == (Progress(7, 1, 3.5, None), known)
