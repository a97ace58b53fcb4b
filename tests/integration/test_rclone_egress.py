"""Endpoints that users name: the address that was judged is the one connected to, and nothing else is."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloudpush.errors import CloudPushError, Code, DestinationError
from cloudpush.push import guard
from cloudpush.push.endpoints import Endpoint
from cloudpush.push.job import Destination, PlannedFile, Profile
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.transfer import egress as egress_module
from cloudpush.transfer import rclone as rclone_module
from cloudpush.transfer.egress import Egress
from cloudpush.transfer.rclone import Rclone
from fakes_inspector import GoOn, PlainSecret

HELLO = b"hello from upstream\n"


class Upstream:
    """A listener on loopback that greets, echoes and counts who came."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.visitors = 0
        self.first_bytes: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.visitors += 1
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                self.first_bytes.append(data[:1])
                connection.sendall(HELLO + data)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """Something to connect to."""
    server = Upstream()
    yield server
    server.socket.close()


@pytest.fixture
def egress() -> Iterator[Egress]:
    """A proxy that admits public addresses only."""
    proxy = Egress()
    yield proxy
    proxy.stop()


def judged_as(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """Let every name be judged to be at ``found``."""
    monkeypatch.setattr(egress_module, "addresses", lambda *_: list(found))


def resolves_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let every name resolve to ``address``, which is then judged as it is in earnest."""
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]
    found = SimpleNamespace(getaddrinfo=lambda *_, **__: answers, SOCK_STREAM=socket.SOCK_STREAM)
    monkeypatch.setattr(guard, "socket", found)


@contextmanager
def asked(url: str, target: str) -> Iterator[tuple[socket.socket, bytes]]:
    """A connection to the proxy that has asked for ``target``, and what it was answered."""
    user, _, proxy = url.removeprefix("http://").partition("@")
    host, _, port = proxy.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        authorization = base64.b64encode(user.encode()).decode()
        client.sendall(
            f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {authorization}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer and (data := client.recv(4096)):
            answer += data
        yield client, answer.partition(b"\r\n")[0]


def test_bytes_go_both_ways_to_the_address_that_was_judged(
    egress: Egress, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is resolved once, by the guard; what it found is connected to."""
    judged_as(monkeypatch, "127.0.0.1")
    granted = egress.admit(f"https://s3.example.org:{upstream.port}")

    with asked(egress.url(granted), f"bucket.s3.example.org:{upstream.port}") as (client, answer):
        client.sendall(b"x" * 100_000)
        client.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: client.recv(65536), b""))

    assert (answer, got.replace(HELLO, b"")) == (b"HTTP/1.1 200 OK", b"x" * 100_000)


@pytest.mark.parametrize("target", ["other.example.org:{port}", "xs3.example.org:{port}", "s3.example.org:1"])
def test_a_pass_leads_to_its_endpoint_only(
    egress: Egress, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Another host or port, as a redirect would have it, is refused."""
    judged_as(monkeypatch, "127.0.0.1")
    granted = egress.admit(f"https://s3.example.org:{upstream.port}")

    with asked(egress.url(granted), target.format(port=upstream.port)) as (_, answer):
        pass

    assert (answer, upstream.visitors) == (b"HTTP/1.1 403 cloudpush: ENDPOINT_FORBIDDEN", 0)


def test_a_name_that_resolves_to_loopback_is_refused(
    egress: Egress, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public name with a private address is judged when it is connected to."""
    resolves_to(monkeypatch, "127.0.0.1")
    granted = egress.admit(f"https://rebind.example.org:{upstream.port}")

    with asked(egress.url(granted), f"rebind.example.org:{upstream.port}") as (_, answer):
        pass

    assert (answer, upstream.visitors) == (b"HTTP/1.1 403 cloudpush: ENDPOINT_FORBIDDEN", 0)


def test_nobody_passes_without_a_pass(egress: Egress, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other users of the machine gain nothing, nor does a session that is over."""
    judged_as(monkeypatch, "127.0.0.1")
    granted = egress.admit(f"https://s3.example.org:{upstream.port}")
    url = egress.url(granted)
    egress.dismiss(granted)

    with asked(url, f"s3.example.org:{upstream.port}") as (_, answer):
        pass

    assert (answer, upstream.visitors) == (b"HTTP/1.1 407 who are you", 0)


def test_connections_end_with_their_session(
    egress: Egress, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a session left open is closed with it."""
    judged_as(monkeypatch, "127.0.0.1")
    granted = egress.admit(f"https://s3.example.org:{upstream.port}")

    with asked(egress.url(granted), f"s3.example.org:{upstream.port}") as (client, answer):
        egress.dismiss(granted)
        end = client.recv(1)

    assert (answer, end) == (b"HTTP/1.1 200 OK", b"")


@pytest.mark.parametrize("request_", [b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n", b"\0" * 20 + b"\r\n\r\n"])
def test_only_connect_is_understood(egress: Egress, request_: bytes) -> None:
    """Plain requests are not carried anywhere."""
    url = egress.url(egress.admit("https://s3.example.org"))
    host, _, port = url.rpartition("@")[2].partition(":")

    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(request_)
        assert client.recv(1) == b""


@pytest.fixture
def engine(server_dir: Path) -> Iterator[Rclone]:
    """The real engine; no endpoint is listed."""
    made = Rclone(
        Settings(rclone=str(binaries.rclone()), runtime_dir=server_dir / f"egress-{os.urandom(3).hex()}", transfers=4)
    )
    yield made
    made.stop()


def sent_to(engine: Rclone, tmp_path: Path) -> CloudPushError:
    """What becomes of a file for an endpoint that nobody vouches for."""
    (tmp_path / "f").write_bytes(b"x")
    destination = Destination("s3", "bucket", "p", Profile("theirs", "other", "https://theirs.example.org"))
    with engine.open(destination, PlainSecret(), "g") as session, pytest.raises(DestinationError) as raised:
        session.send(tmp_path, [PlannedFile(1, "f", "p/f", 1, 0)], GoOn())
    return raised.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "rebind.example.org"])
def test_rclone_goes_through_the_guard_even_to_loopback(
    engine: Rclone, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """An address that may not be connected to is refused with its own code, and nobody is connected to."""
    endpoint = Endpoint(f"https://{host}:{upstream.port}", "us-east-1", path_style=True, trusted=False)
    monkeypatch.setattr(rclone_module, "resolve", lambda *_: endpoint)
    resolves_to(monkeypatch, "127.0.0.1")

    error = sent_to(engine, tmp_path)

    assert (error.code, upstream.visitors) == (Code.ENDPOINT_FORBIDDEN, 0)


def test_rclone_speaks_tls_through_the_guard(
    engine: Rclone, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the judged address is a TLS handshake: the guard sees no content."""
    endpoint = Endpoint(f"https://theirs.example.org:{upstream.port}", "us-east-1", path_style=True, trusted=False)
    monkeypatch.setattr(rclone_module, "resolve", lambda *_: endpoint)
    judged_as(monkeypatch, "127.0.0.1")

    error = sent_to(engine, tmp_path)

    assert (error.code, set(upstream.first_bytes)) == (Code.TLS_FAILED, {b"\x16"})


def test_a_name_that_does_not_resolve_is_told_as_such(
    engine: Rclone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard's own findings come back through rclone with their codes."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(guard, "socket", SimpleNamespace(getaddrinfo=fail, SOCK_STREAM=socket.SOCK_STREAM))

    assert sent_to(engine, tmp_path).code is Code.ENDPOINT_UNRESOLVABLE
