"""What every part of the stack can do: start, be asked whether it serves, stop."""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod

from cloudpush.errors import Code, StackError
from cloudpush.stack.process import POLL_SECONDS, Child, Pause


class Service(ABC):
    """One server process. Start it from a thread that lives as long as the process.

    A subclass says how to launch it and how to tell that it serves. It can be started again after it has
    ended, and is then found at the same place.
    """

    name: str
    #: Neighbours of the same group are asked to stop at the same time; empty: it stops alone.
    group: str = ""
    #: Seconds that it may take to serve, and to end when asked to.
    ready_seconds: float = 30.0
    stop_seconds: float = 15.0
    stop_signal: signal.Signals = signal.SIGTERM

    def __init__(self) -> None:
        self.child: Child | None = None
        self.version = ""
        self.remark = ""  # something that the user should know, such as another port

    @property
    @abstractmethod
    def where(self) -> str:
        """The address at which it serves, fit to be shown."""

    @abstractmethod
    def launch(self) -> Child:
        """Prepare what it needs and start its process. Raises StackError, OSError."""

    @abstractmethod
    def probe(self) -> bool:
        """Whether it serves; finishes its own set-up on the way and fills ``version``.

        Takes at most two seconds or so. Raises StackError where waiting cannot help.
        """

    def start(self) -> None:
        """Start the process. Raises StackError where that is impossible."""
        if self.alive:
            return
        try:
            self.child = self.launch()
        except OSError as e:
            raise StackError(Code.STACK, f"{self.name} cannot be started: {e}") from e

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.child is not None and self.child.alive

    def serves(self) -> bool:
        """One look: whether it serves. Raises StackError if its process has ended."""
        if self.child is None or not self.child.alive:
            raise StackError(Code.STACK, f"{self.name} {self.ending()}")
        return self.probe()

    def ending(self) -> str:
        """How its process ended, in words, with its last log lines."""
        return self.child.ending() if self.child else "was never started"

    def ready(self, pause: Pause = time.sleep) -> None:
        """Wait until it serves. Raises StackError if it ended, or does not serve in time."""
        deadline = time.monotonic() + self.ready_seconds
        while not self.serves():
            if time.monotonic() >= deadline:
                raise self.late()
            pause(POLL_SECONDS)

    def late(self) -> StackError:
        """It runs, but does not serve."""
        said = f"; its last log lines:\n{self.child.tail()}" if self.child else ""
        return StackError(Code.STACK, f"{self.name} does not serve after {self.ready_seconds:g} s{said}")

    def ask_to_stop(self) -> None:
        """Let it begin to end; :meth:`stop` waits for it."""
        if self.child is not None:
            self.child.ask(self.stop_signal)

    def stop(self, pause: Pause = time.sleep) -> bool:
        """Ask it to end, make it after ``stop_seconds``. Whether it ended by itself."""
        return self.child.stop(self.stop_signal, self.stop_seconds, pause) if self.child else True
