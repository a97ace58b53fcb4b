"""The web pages as a part of the stack: a program that has an address."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from cloudpush.stack.ports import HOST, free_ports, is_free
from cloudpush.stack.program import Program

#: Seconds that it may take to say that it is well.
PROBE_SECONDS = 1.0


class Website(Program):
    """``cloudpush web`` on a port of its own, which stays the same from start to start where it can."""

    #: The port that everybody expects.
    PREFERRED: ClassVar[int] = 8765

    def __init__(
        self, name: str, arguments: Sequence[str], env_file: Path, log: Path, *, port: int = PREFERRED, url: str = ""
    ) -> None:
        """``port``: the one of the last time; ``url``: where browsers find it, if something else stands in front."""
        super().__init__(name, arguments, env_file, log)
        self.port = port
        self._url = url

    @property
    def url(self) -> str:
        """Where browsers find it."""
        return self._url or f"http://{HOST}:{self.port}"

    @property
    def where(self) -> str:
        """The same."""
        return self.url

    def choose_port(self) -> None:
        """Another port where somebody has ours. Call it once, before the port is told to anybody."""
        if not is_free(self.port):
            taken = self.port
            self.port = free_ports(1)[0]
            self.remark = f"port {taken} is taken, so it is at {self.port} now"

    def probe(self) -> bool:
        """Whether it answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PROBE_SECONDS)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
