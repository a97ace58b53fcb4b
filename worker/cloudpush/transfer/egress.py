"""The guarded way to endpoints that users name.

A name is judged when it is connected to, and the connection goes to exactly the address that was judged: rclone resolves
nothing itself but asks this proxy, on loopback, to connect (HTTP ``CONNECT``). Each session has a pass of its own, good
for one endpoint, so a redirect leads nowhere else. Only TLS goes through: the proxy sees no content.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import threading
from collections.abc import Collection
from dataclasses import dataclass, field

from cloudpush.errors import CloudPushError, Code
from cloudpush.push.guard import addresses, parse_endpoint

#: How long one address may take to answer before the next is tried.
CONNECT_SECONDS = 10.0
#: What a client may take to say where it wants to go.
REQUEST_SECONDS = 10.0
_BUFFER = 256 * 1024
_LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class Pass:
    """The right to connect to one endpoint, for as long as its session lasts."""

    host: str
    port: int
    token: str = field(repr=False)
    tasks: set[asyncio.Task[None]] = field(default_factory=set, repr=False)

    def leads_to(self, host: str, port: int) -> bool:
        """Whether it is good for ``host``: the endpoint itself, or a bucket's name before it."""
        return port == self.port and (host == self.host or host.endswith(f".{self.host}"))


class Egress:
    """A proxy in a thread of its own, started with the first pass. Thread-safe."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        """``allowed``: the hosts that the operator listed; others must have public addresses only."""
        self._allowed = tuple(allowed)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._port = 0
        self._passes: dict[str, Pass] = {}

    def admit(self, endpoint: str) -> Pass:
        """A pass to ``endpoint``, a URL. Raises InputError for one that is no URL."""
        origin = parse_endpoint(endpoint)
        with self._lock:
            if self._loop is None:
                self._start()
            granted = Pass(origin.host, origin.port, secrets.token_urlsafe(24))
            self._passes[granted.token] = granted
        return granted

    def url(self, granted: Pass) -> str:
        """What a client is told as its proxy; holds the pass, so it is a secret of the session."""
        return f"http://{granted.token}:x@{_LOOPBACK}:{self._port}"

    def dismiss(self, granted: Pass) -> None:
        """The pass is good for nothing any more, and its connections are closed."""
        with self._lock:
            self._passes.pop(granted.token, None)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(_cancel, granted.tasks)

    def stop(self) -> None:
        """Close everything. Repeatable."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self._passes.clear()
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _start(self) -> None:
        ready = threading.Event()
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(loop, ready), name="egress", daemon=True)
        self._thread.start()
        ready.wait()
        self._loop = loop

    def _run(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(asyncio.start_server(self._serve, _LOOPBACK, 0, limit=_BUFFER))
        self._port = server.sockets[0].getsockname()[1]
        ready.set()
        try:
            loop.run_forever()
        finally:
            server.close()
            _cancel(asyncio.all_tasks(loop))
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client: read where it wants to go, connect, carry bytes both ways."""
        granted: Pass | None = None
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server runs this in a task
        try:
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_SECONDS)
            host, port, token = _parse(request)
            granted = self._passes.get(token)
            if granted is None:
                await _refuse(writer, 407, "who are you")
                return
            granted.tasks.add(task)
            if not granted.leads_to(host, port):
                await _refuse(writer, 403, f"cloudpush: {Code.ENDPOINT_FORBIDDEN}")
                return
            try:
                upstream = await self._connect(host, port)
            except CloudPushError as e:
                await _refuse(writer, 403, f"cloudpush: {e.code}")
                return
            except OSError:
                await _refuse(writer, 502, f"cloudpush: {Code.ENDPOINT_REFUSED}")
                return
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await _carry((reader, writer), upstream)
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError, TimeoutError):
            pass  # the client went away or spoke no CONNECT: closing says enough
        except asyncio.CancelledError:
            pass  # the session is over
        finally:
            if granted is not None:
                granted.tasks.discard(task)
            writer.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to an address that was judged. Raises DestinationError, OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, addresses, host, port, self._allowed)
        failure: OSError = OSError("no address")
        for address in found:
            try:
                return await asyncio.wait_for(asyncio.open_connection(address, port, limit=_BUFFER), CONNECT_SECONDS)
            except OSError as e:  # TimeoutError is one
                failure = e
        raise failure


def _parse(request: bytes) -> tuple[str, int, str]:
    """Host, port and token of ``CONNECT host:port HTTP/1.1``. Raises ValueError."""
    head, *lines = request.decode("latin-1").split("\r\n")
    method, target, _version = head.split(" ")
    if method != "CONNECT":
        raise ValueError
    host, _, port = target.rpartition(":")
    token = ""
    for line in lines:
        name, _, value = line.partition(":")
        scheme, _, coded = value.strip().partition(" ")
        if name.lower() == "proxy-authorization" and scheme.lower() == "basic":
            token = base64.b64decode(coded).decode("latin-1").partition(":")[0]
    return host.strip("[]").lower(), int(port), token


async def _refuse(writer: asyncio.StreamWriter, status: int, reason: str) -> None:
    writer.write(f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()


async def _carry(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter], other: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    """Bytes in both directions until both sides have said all they have to say."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(one[0], other[1]))
            group.create_task(_pump(other[0], one[1]))
    except* (OSError, EOFError):
        pass  # one side is gone: so is the connection
    finally:
        other[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BUFFER):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()
