"""A road to a server that can be closed: uploads get stuck on it in mid-file, for as long as a test wants.

Speed limits make tests slow and their outcome a matter of luck; a closed gate does neither.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: A request may carry so much through a closed gate: heads, listings and aborts pass, the bodies of files do not.
PASSES_BYTES = 256 * 1024
BLOCK = 64 * 1024
#: How often a stuck transfer looks whether the other side has hung up.
LOOK_SECONDS = 0.05
#: The first byte of Linux's tcp_info. Any other state of a connection that was up means that it is ending.
_ESTABLISHED = 1


class Gate:
    """Forwards TCP connections to ``server`` (host, port)."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = threading.Event()
        self._open.set()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._held = 0
        self.carried = 0  # bytes that came from clients and were handed on
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:PORT``."""
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Nothing large passes inside this context."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def open(self) -> None:
        """Let everything pass again."""
        self._open.set()

    @property
    def held(self) -> bool:
        """Whether an upload is stuck in mid-file."""
        return self._held > 0

    def stop(self) -> None:
        """Take no more connections and let go of those that are stuck."""
        self._over.set()
        self._open.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                continue
            _Road(self, client, server).start()

    def hold(self, client: socket.socket) -> bool:
        """Stay until the gate is open; False where ``client`` hung up in the meantime."""
        with self._lock:
            self._held += 1
        try:
            while not self._open.wait(LOOK_SECONDS):
                if _hung_up(client):
                    return False
            return not self._over.is_set()
        finally:
            with self._lock:
                self._held -= 1

    def carry(self, count: int) -> None:
        """Count what is handed on."""
        with self._lock:
            self.carried += count

    @property
    def is_open(self) -> bool:
        """Whether large bodies pass."""
        return self._open.is_set()


class _Road:
    """One connection, both ways."""

    def __init__(self, gate: Gate, client: socket.socket, server: socket.socket) -> None:
        self._gate = gate
        self._client = client
        self._server = server
        self._since_answer = 0

    def start(self) -> None:
        """Begin to forward."""
        for way in (self._up, self._down):
            threading.Thread(target=self._run, args=(way,), daemon=True).start()

    def _run(self, way: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            way()
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _up(self) -> None:
        while block := self._client.recv(BLOCK):
            self._since_answer += len(block)
            if self._since_answer > PASSES_BYTES and not self._gate.is_open and not self._gate.hold(self._client):
                return
            self._gate.carry(len(block))
            self._server.sendall(block)

    def _down(self) -> None:
        while block := self._server.recv(BLOCK):
            self._since_answer = 0
            self._client.sendall(block)


def _hung_up(client: socket.socket) -> bool:
    """Whether a peer that has more to send than we read has gone: the kernel knows although we do not read."""
    try:
        state = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return True
    return bool(state != _ESTABLISHED)
