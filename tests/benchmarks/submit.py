"""Submissions a second through the API, with everything on this machine: servers, Postgres, Valkey and who asks.

``PYTHONPATH=tests python -m benchmarks.submit [--rounds 5] [--seconds 4] [--processes 2]``
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import servers
from cloudpush.audit.access import AccessBook
from cloudpush.push.access.model import ALL_SCOPES
from cloudpush.push.access.tokens import digest, new_token
from cloudpush.stack.ports import free_ports
from records import Record

OWNER = "bench"
#: Connections that are kept, each with one request at a time.
CLIENTS = 16
#: Connections that send batches, of so many pushes each.
BATCHERS, BATCH = 2, 1000
GOALS = {"one by one": 300.0, "batched": 3000.0}


@dataclass
class Measure:
    """Pushes a second, round by round."""

    name: str
    values: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.latencies, n=100)
        return (
            f"{self.name}: {self.median:,.0f} pushes/s ({min(self.values):,.0f}–{max(self.values):,.0f}); a request takes "
            f"{cuts[49] * 1000:.1f} ms, 95 % {cuts[94] * 1000:.1f} ms, 99 % {cuts[98] * 1000:.1f} ms; goal {GOALS[self.name]:,.0f}"
        )


class _Asking:
    """A connection that is kept, with little of its own to do."""

    def __init__(self, port: int, request: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request

    def ask(self) -> int:
        """The status."""
        self._socket.sendall(self._request)
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._more()
        head, _, body = head.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        left = length - len(body)
        while left > 0:
            left -= len(self._more())
        return int(head[9:12])

    def _more(self) -> bytes:
        got = self._socket.recv(1 << 20)
        if not got:
            raise ConnectionError("the server went away")
        return got

    def close(self) -> None:
        self._socket.close()


def run(*, rounds: int = 5, seconds: float = 4.0, processes: int = 2) -> list[Measure]:
    """One measure for single submissions, one for batches: their rounds in turn."""
    with _running(processes) as (port, token, body):
        one = _request(port, token, "/v1/pushes", body)
        many = _request(port, token, "/v1/pushes/batch", {"pushes": [body] * BATCH})
        single, batched = Measure("one by one"), Measure("batched")
        _round(Measure(""), port, one, CLIENTS, 1, 201, 1.0)
        for _ in range(rounds):
            _round(single, port, one, CLIENTS, 1, 201, seconds)
            _round(batched, port, many, BATCHERS, BATCH, 200, seconds)
    return [single, batched]


def _round(measure: Measure, port: int, request: bytes, clients: int, pushes: int, status: int, seconds: float) -> None:
    done: list[float] = []
    wrong: list[int] = []
    until = time.monotonic() + seconds

    def ask() -> None:
        asking = _Asking(port, request)
        while (began := time.monotonic()) < until:
            if (got := asking.ask()) != status:
                wrong.append(got)
                break
            done.append(time.monotonic() - began)
        asking.close()

    began = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise RuntimeError(f"answers with the statuses {set(wrong)}")
    measure.values.append(len(done) * pushes / (time.monotonic() - began))
    measure.latencies += done


def _request(port: int, token: str, path: str, body: object) -> bytes:
    text = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


@contextmanager
def _running(processes: int) -> Iterator[tuple[int, str, dict[str, str]]]:
    """A server over a database and a broker of its own: its port, a token, and a submission that it takes."""
    with (
        servers.scratch() as base,
        servers.running(servers.make_postgres(base)) as postgres,
        servers.running(servers.make_valkey(base)) as valkey,
    ):
        database = servers.Databases(postgres).migrated()
        record = Record(database)
        credential = record.credential(OWNER, name="lab")
        token = new_token()
        AccessBook(record.app).add_token(
            digest(token), owner=OWNER, name="bench", role=None, scopes=ALL_SCOPES, seconds=3600, actor=OWNER
        )
        record.close()
        source = base / "dataset"
        source.mkdir()
        with serving(base, database.url, valkey.url(), processes) as port:
            yield port, token, {"source": str(source), "destination": "s3://lab/run", "credential": credential.name}


@contextmanager
def serving(base: Path, database_url: str, redis_url: str, processes: int) -> Iterator[int]:
    """The web server, without Vault: its port."""
    (port,) = free_ports(1)
    env = {k: v for k, v in os.environ.items() if not k.startswith("CLOUDPUSH_")} | {
        "CLOUDPUSH_DATABASE_URL": database_url,
        "CLOUDPUSH_REDIS_URL": redis_url,
        "CLOUDPUSH_VAULT_URL": "http://127.0.0.1:9",
        "CLOUDPUSH_VAULT_AUTH_DIR": str(base),
        "CLOUDPUSH_WEB_URL": f"http://127.0.0.1:{port}",
        "CLOUDPUSH_WEB_PORT": str(port),
        "CLOUDPUSH_WEB_PROCESSES": str(processes),
        "CLOUDPUSH_SOURCE_ROOTS": str(base),
        "CLOUDPUSH_API_RATE": "1000000",
        "CLOUDPUSH_API_BURST": "1000000",
        "CLOUDPUSH_LOG_LEVEL": "info",
        "CLOUDPUSH_DATA_DIR": str(base / "none"),
    }
    with (base / "web.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "cloudpush", "web"], env=env, stdout=log, stderr=log)
        try:
            _await(port, server, base / "web.log")
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def _await(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            probe = _Asking(port, f"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
        except OSError:
            time.sleep(0.1)
            continue
        status = probe.ask()
        probe.close()
        if status == 200:
            return
    raise RuntimeError(log.read_text())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    for measure in run(rounds=given.rounds, seconds=given.seconds, processes=given.processes):
        sys.stdout.write(f"{measure}\n")


if __name__ == "__main__":
    main()
