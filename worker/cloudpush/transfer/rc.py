"""A thin client of rclone's remote control over a Unix socket.

Connections are kept and used by one thread at a time. rclone answers a failed call with an echo of the whole ``input``,
secrets included: the echo is dropped here, before anything else sees it.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: How long an ordinary call may take. None of them waits for a network.
CALL_SECONDS = 30.0
#: How often a long call looks up from its waiting.
WATCH_SECONDS = 0.2

_JSON = {"Content-Type": "application/json"}


class RcError(Exception):
    """rclone answered with an error: ``text`` in its own words, not yet redacted. Never leaves this package."""

    def __init__(self, path: str, text: str, status: int) -> None:
        super().__init__(f"{path} failed with status {status}")
        self.path = path
        self.text = text
        self.status = status


class RcGoneError(Exception):
    """Nobody answers: rclone has ended, or hangs."""


class RcClient:
    """Calls to the rclone that listens on ``path``. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[_Connection] = deque()

    def call(self, path: str, /, **parameters: Any) -> dict[str, Any]:
        """The result of the call. Raises RcError, RcGoneError."""
        return self.call_watched(path, parameters, None)

    def call_watched(
        self, path: str, parameters: Mapping[str, Any], watch: Callable[[], float | None] | None
    ) -> dict[str, Any]:
        """The result of a call that may take long.

        ``watch`` is called every :data:`WATCH_SECONDS` until the answer is there, and once before. It returns None to
        wait on, or for how many seconds at most the answer is still worth waiting for; then RcGoneError is raised, and
        the connection is closed, which cancels the call. Raises RcError, RcGoneError.
        """
        body = json.dumps(parameters).encode()
        connection = self._take()
        fresh = connection.sock is None
        try:
            try:
                return self._exchange(connection, path, body, watch)
            except (ConnectionError, http.client.BadStatusLine):
                if fresh:
                    raise
                # The server may have closed a connection that lay idle, before it saw this request.
                connection.close()
                return self._exchange(connection, path, body, watch)
        except (OSError, http.client.HTTPException) as e:
            connection.close()
            raise RcGoneError(f"{path}: {type(e).__name__}") from e
        except BaseException:
            if connection.busy:
                connection.close()
            raise
        finally:
            self._idle.append(connection)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> _Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return _Connection(self._path)

    def _exchange(
        self, connection: _Connection, path: str, body: bytes, watch: Callable[[], float | None] | None
    ) -> dict[str, Any]:
        connection.busy = True
        connection.request("POST", f"/{path}", body, _JSON)
        if watch is not None:
            _wait(connection, watch)
        response = connection.getresponse()
        answer = response.read()
        connection.busy = False
        return _result(path, response.status, answer)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket. ``busy``: an answer is outstanding, so it cannot be used again."""

    def __init__(self, path: Path) -> None:
        super().__init__("rclone", timeout=CALL_SECONDS)
        self._socket_path = str(path)
        self.busy = False

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_SECONDS)
        self.sock.connect(self._socket_path)


def _wait(connection: _Connection, watch: Callable[[], float | None]) -> None:
    """Return when the answer begins to arrive; TimeoutError when ``watch`` has run out of patience."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    deadline: float | None = None
    while True:
        patience = watch()
        if patience is not None and deadline is None:
            deadline = time.monotonic() + patience
        if poll.poll(WATCH_SECONDS * 1000):
            return
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError


def _result(path: str, status: int, answer: bytes) -> dict[str, Any]:
    try:
        result = json.loads(answer)
    except ValueError:
        result = None
    if not isinstance(result, dict):
        raise RcError(path, "no JSON object", status)
    if status != http.HTTPStatus.OK:
        raise RcError(path, str(result.get("error", "")), status)
    return result
