"""A whole stack in a process of its own, as `cloudpush up` runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

#: Generous: the machine may be busy with other tests.
PATIENCE_SECONDS = 60.0

#: Stands for worker and sweeper: what they do is not the stack's matter.
IDLE = "import time\nwhile True: time.sleep(60)"
SCRIPT = """
import sys
import typer
from cloudpush.cli.stack import add_to
from cloudpush.errors import CloudPushError
from cloudpush.stack.up import UpOptions

program = sys.argv.pop(1)
UpOptions.programs = lambda self: {name: ("-c", program) for name in ("worker", "sweeper")}
app = typer.Typer()
add_to(app)
try:
    app()
except CloudPushError as e:
    sys.exit(str(e))
"""


def command(*words: str | Path, program: str = IDLE) -> list[str]:
    """`cloudpush up` or `cloudpush down` as a command, with ``program`` as worker and sweeper."""
    return [sys.executable, "-c", SCRIPT, program, *map(str, words)]


class Up:
    """One run of the stack on a data directory."""

    def __init__(self, data: Path, *, program: str = IDLE, output: Path | None = None) -> None:
        self.data = data
        self.output = output or data.with_name(data.name + ".out")
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                command("up", "--data-dir", data, program=program),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={k: v for k, v in os.environ.items() if not k.startswith("CLOUDPUSH_")},
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """All that it printed so far."""
        return self.output.read_text(errors="replace")

    def ready(self) -> Up:
        """Wait until it says that it is ready."""
        self.until(lambda: "CloudPush is ready" in self.said)
        return self

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for something to become true; fail with the output if it does not, or if the stack ends."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"status {self.process.poll()}, it said:\n{self.said}")
            time.sleep(0.02)

    def state(self) -> dict[str, Any]:
        """The state file."""
        found: dict[str, Any] = json.loads((self.data / "state.json").read_text())
        return found

    def service(self, name: str) -> dict[str, Any]:
        """What the state file says of one service."""
        found: dict[str, Any] = self.state()["services"][name]
        return found

    def pids(self) -> list[int]:
        """Itself and every process below it."""
        return [self.process.pid, *(p.pid for p in psutil.Process(self.process.pid).children(recursive=True))]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to it and wait for its end: the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


def gone(pids: list[int]) -> bool:
    """Whether none of these runs. One that ended, but was not waited for by its new parent, does not."""
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            continue
    return True
