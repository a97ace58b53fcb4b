"""One child process: its own session, its own log file, dead when we are dead.

Start children from a thread that lives as long as the process: Linux sends the death signal when the *thread*
that forked ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cloudpush.logs import redact

LAUNCHER = Path(__file__).with_name("launch.py")
#: A log that has grown past this is set aside at the next start; one older file is kept.
LOG_BYTES = 10 * 1024 * 1024
POLL_SECONDS = 0.02

#: Waits about so many seconds; may raise to end the waiting.
Pause = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Identity:
    """The account that a child becomes."""

    uid: int
    gid: int


class Child:
    """A program that runs until it ends or is stopped."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        identity: Identity | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Start ``command``. ``environment`` is all that it sees; ``log`` takes stdout and stderr. Raises OSError."""
        self.log = log
        self._asked = False
        with open_log(log) as file:
            self._log_start = file.seek(0, os.SEEK_END)
            who = f"{identity.uid}:{identity.gid}" if identity else "-"
            launch: list[str | Path] = [
                sys.executable,
                "-I",
                "-S",
                LAUNCHER,
                str(os.getpid()),
                str(int(death_signal)),
                who,
            ]
            self._process = subprocess.Popen(
                [*launch, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={"PATH": os.defpath, "LANG": "C.UTF-8"} if environment is None else dict(environment),
                cwd=directory or "/",
                start_new_session=True,  # a terminal's Ctrl-C is for us: we stop them in order
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs; reaps it if it has ended."""
        return self._process.poll() is None

    def ending(self) -> str:
        """How it ended, in words, with the end of what it said."""
        code = self._process.poll()
        if code is None:
            how = "is running"
        elif code < 0:
            how = f"ended with signal {-code} ({_signal_name(-code)})"
        else:
            how = f"ended with status {code}"
        said = self.tail()
        return f"{how}; its last log lines:\n{said}" if said else f"{how}; its log is empty"

    def tail(self, lines: int = 6) -> str:
        """The last lines that it wrote, redacted."""
        try:
            with self.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, end - 8192))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return redact("\n".join(f"  {line}" for line in text.splitlines()[-lines:] if line.strip()))

    def wait(self, seconds: float, pause: Pause = time.sleep) -> bool:
        """Whether it ended within ``seconds``."""
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() >= deadline:
                return False
            pause(POLL_SECONDS)
        return True

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        if self.alive:
            self._process.send_signal(number)

    def ask(self, number: signal.Signals) -> None:
        """Ask it to end, once: to a worker the same signal again means at once."""
        if not self._asked:
            self._asked = True
            self.send(number)

    def stop(self, number: signal.Signals, seconds: float, pause: Pause = time.sleep) -> bool:
        """Ask it to end, and after ``seconds`` make it. Whether it ended by itself."""
        self.ask(number)
        gentle = True
        try:
            gentle = self.wait(seconds, pause)
        finally:
            if self.alive:
                self.kill()
        return gentle

    def kill(self) -> None:
        """End it now, with whatever else is in its session's process group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.send(signal.SIGKILL)
        self._process.wait()

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()


def open_log(path: Path) -> BinaryIO:
    """A log file to append to, of mode 0600; one that has grown too long is set aside."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
