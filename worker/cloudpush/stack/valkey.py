"""Valkey on a Unix socket: a broker that may forget.

The truth is in Postgres and what was announced is announced again, so nothing is written to disk.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import redis

from cloudpush.stack import binaries
from cloudpush.stack.private import private_dir
from cloudpush.stack.process import Child
from cloudpush.stack.service import Service


class Valkey(Service):
    """A server that works in ``directory`` and listens on ``socket`` only."""

    name = "valkey"

    def __init__(self, directory: Path, socket: Path, log: Path) -> None:
        super().__init__()
        self.directory = directory
        self.socket = socket
        self._log = log

    @property
    def where(self) -> str:
        """The socket."""
        return str(self.socket)

    def url(self, database: int = 0) -> str:
        """As redis-py spells it."""
        return f"unix://{quote(str(self.socket), safe='/')}?db={database}"

    def launch(self) -> Child:
        """Start the server; it replaces a socket that a dead one left."""
        private_dir(self.directory)
        private_dir(self.socket.parent)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "logfile": "",
            "always-show-logo": "no",
        }
        command = [x for key, value in options.items() for x in (f"--{key}", value)]
        return Child([binaries.valkey(), *command], self._log, directory=self.directory)

    def probe(self) -> bool:
        """Whether it answers."""
        with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=2, protocol=2) as client:
            try:
                seen = client.info("server")
            except redis.RedisError:
                return False
        self.version = str(seen.get("valkey_version") or seen["redis_version"])
        return True
