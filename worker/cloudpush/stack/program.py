"""A process of CloudPush itself: a worker, the sweeper."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cloudpush.settings import ENV_FILE
from cloudpush.stack.process import Child
from cloudpush.stack.service import Service

#: A program that lives this long has read its settings and imported what it needs.
SETTLED_SECONDS = 1.0


class Program(Service):
    """``python -m cloudpush …``, told its settings by the env file and by nothing else."""

    stop_seconds = 30.0
    stop_signal = signal.SIGTERM

    def __init__(self, name: str, arguments: Sequence[str], env_file: Path, log: Path) -> None:
        super().__init__()
        self.name = name
        self.group = " ".join(arguments)  # all workers are told together: each may take its time
        self._arguments = tuple(arguments)
        self._env_file = env_file
        self._log = log
        self._started = 0.0

    @property
    def where(self) -> str:
        """It has no address: its work comes to it."""
        return ""

    def launch(self) -> Child:
        """Start it with what finds programs, a home and the words of the user; nothing else of our environment."""
        environment = {ENV_FILE: str(self._env_file)} | {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ
        }
        self._started = time.monotonic()
        return Child([sys.executable, *self._arguments], self._log, environment=environment)

    def probe(self) -> bool:
        """Whether it has lived long enough to be past what ends a program at its start."""
        return time.monotonic() - self._started >= SETTLED_SECONDS
