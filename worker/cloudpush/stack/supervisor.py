"""Keeps services running: starts them in order, sees a crash at once, starts again, stops in reverse order.

Everything happens in the thread that calls, which has to live as long as the process. Signals are not handled but waited
for, so that nothing is ever interrupted in the middle: a stop is noticed between two steps.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby
from types import TracebackType
from typing import Protocol, Self

import psutil

from cloudpush.errors import Code, StackError
from cloudpush.stack.launch import become_subreaper
from cloudpush.stack.service import Service

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
WAITED_FOR = STOP_SIGNALS | {signal.SIGCHLD}
#: More crashes than a passing fault explains.
CRASHES = 5
CRASH_WINDOW_SECONDS = 60.0
BACKOFF_SECONDS = 0.2
BACKOFF_CAP_SECONDS = 5.0
#: How often to look while something starts, and while nothing happens. A death wakes us anyway.
BUSY_SECONDS = 0.02
#: A killed process ends at once, unless the kernel waits for a disk on its behalf.
ORPHAN_SECONDS = 2.0
IDLE_SECONDS = 1.0


class Phase(StrEnum):
    """Where a service stands."""

    WAITING = "waiting"  # its turn to start has not come
    STARTING = "starting"
    RUNNING = "running"
    CRASHED = "crashed"  # about to be started again
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(slots=True)
class Watched:
    """A service and what is known of its life."""

    service: Service
    phase: Phase = Phase.WAITING
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    restarts: int = 0
    deadline: float = 0.0  # STARTING: until when it must serve
    again_at: float = 0.0  # CRASHED: when to start it again
    crashes: deque[float] = field(default_factory=lambda: deque(maxlen=CRASHES))
    served: bool = False  # it has been RUNNING once

    def enter(self, phase: Phase) -> None:
        """Change the phase, noting when."""
        self.phase = phase
        self.since = datetime.now(UTC)

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self.service.child.pid if self.service.child and self.service.alive else None


class View(Protocol):
    """Where people, or a log file, see what happens."""

    def show(self, watched: Sequence[Watched]) -> None:
        """How everything stands now; called often."""

    def say(self, text: str) -> None:
        """Something that happened."""


class StopAsked(Exception):
    """Somebody wants us to stop: the way out of every wait."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


class Supervisor:
    """A context: services added inside are stopped at its end, whatever ends it."""

    def __init__(self, services: Sequence[Service], view: View, *, changed: Callable[[], None] = lambda: None) -> None:
        """``services`` in the order of their start; ``changed`` is called after each change of a phase."""
        self.watched = [Watched(service) for service in services]
        self._view = view
        self._changed = changed
        self._hurry = False
        self._mask: set[int] = set()
        self._strangers: set[int] = set()  # children of this process that are none of our business

    def __enter__(self) -> Self:
        self._mask = {int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)}
        become_subreaper()
        self._strangers = {process.pid for process in psutil.Process().children()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Stop everything. A stop that was asked for ends here."""
        try:
            self._stop_all()
        finally:
            for number in STOP_SIGNALS:  # a second Ctrl-C that came while we were stopping has been obeyed
                while number in signal.sigpending():
                    signal.sigtimedwait({number}, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        return isinstance(error, StopAsked)

    def start(self, services: Sequence[Service]) -> None:
        """Start these in order and return when all of them serve. Raises StackError, StopAsked."""
        turn = [w for w in self.watched if w.service in services]
        for w in turn:
            self._launch(w)
        while any(w.phase is not Phase.RUNNING for w in turn):
            self._tick(BUSY_SECONDS)
        self._view.show(self.watched)

    def watch(self) -> None:
        """Keep everything running. Ends by raising StopAsked or, when a service is beyond help, StackError."""
        while True:
            calm = all(w.phase in (Phase.RUNNING, Phase.WAITING) for w in self.watched)
            self._tick(IDLE_SECONDS if calm else BUSY_SECONDS)

    def check(self) -> None:
        """Look once, without waiting. Raises StackError, StopAsked."""
        self._tick(0)

    def _tick(self, seconds: float) -> None:
        self._view.show(self.watched)
        self._wait(seconds)
        for w in self.watched:
            match w.phase:
                case Phase.STARTING:
                    self._look_at_start(w)
                case Phase.RUNNING if not w.service.alive:
                    self._crashed(w, w.service.ending())
                case Phase.CRASHED if time.monotonic() >= w.again_at:
                    self._launch(w)
                case _:
                    pass

    def _wait(self, seconds: float) -> None:
        """Until a signal comes, at most ``seconds``."""
        with suppress(InterruptedError):
            seen = signal.sigtimedwait(WAITED_FOR, seconds)
            if seen is not None and seen.si_signo in STOP_SIGNALS:
                raise StopAsked(signal.Signals(seen.si_signo))
            if seen is not None:
                self._end_orphans()

    def _launch(self, w: Watched) -> None:
        w.enter(Phase.STARTING)
        w.deadline = time.monotonic() + w.service.ready_seconds
        self._view.show(self.watched)
        try:
            w.service.start()
        except StackError as e:
            if not w.served:
                raise  # nothing of ours can mend what was wrong from the beginning
            self._crashed(w, e.message)
        else:
            if w.service.remark:
                self._view.say(f"{w.service.name}: {w.service.remark}")
                w.service.remark = ""

    def _look_at_start(self, w: Watched) -> None:
        if not w.service.alive:
            self._crashed(w, w.service.ending())
            return
        try:
            serves = w.service.probe()
        except StackError as e:
            if not w.served:
                raise
            self._kill(w)
            self._crashed(w, e.message)
            return
        if serves:
            w.served = True
            w.enter(Phase.RUNNING)
            self._changed()
        elif time.monotonic() >= w.deadline:
            late = w.service.late().message.removeprefix(f"{w.service.name} ")
            self._kill(w)
            self._crashed(w, late)

    def _crashed(self, w: Watched, how: str) -> None:
        """Say it, and start again a little later each time. Raises StackError when it happens too often."""
        now = time.monotonic()
        w.crashes.append(now)
        recent = [t for t in w.crashes if now - t < CRASH_WINDOW_SECONDS]
        if len(recent) >= CRASHES:
            w.enter(Phase.STOPPED)
            raise StackError(
                Code.STACK, f"{w.service.name} crashed {CRASHES} times within a minute, giving up: it {how}"
            )
        pause = min(BACKOFF_CAP_SECONDS, BACKOFF_SECONDS * 2 ** (len(recent) - 1))
        w.restarts += 1
        w.again_at = now + pause
        w.enter(Phase.CRASHED)
        self._view.say(f"{w.service.name} {how}\n{w.service.name}: starting it again in {pause:g} s")
        self._changed()

    def _kill(self, w: Watched) -> None:
        if w.service.child is not None:
            w.service.child.kill()

    def _stop_all(self) -> None:
        for _, neighbours in groupby(reversed(self.watched), key=lambda w: w.service.group or w.service.name):
            self._stop_group(list(neighbours))
        self._end_orphans()
        self._changed()

    def _stop_group(self, group: Sequence[Watched]) -> None:
        for w in group:
            if w.service.alive:
                w.enter(Phase.STOPPING)
                w.service.ask_to_stop()
        self._view.show(self.watched)
        for w in group:
            if w.phase is Phase.STOPPING and not w.service.stop(self._pause):
                how = "at once" if self._hurry else f"after {w.service.stop_seconds:g} s"
                self._view.say(f"{w.service.name} was killed {how}")
            w.enter(Phase.STOPPED)
            self._view.show(self.watched)

    def _pause(self, seconds: float) -> None:
        """Wait while something stops. Asked to stop once more, we do not wait any longer."""
        if not self._hurry:
            try:
                self._wait(seconds)
            except StopAsked:
                self._hurry = True
                self._view.say("stopping at once")
        if self._hurry:
            self._kill_stopping()

    def _kill_stopping(self) -> None:
        for w in self.watched:
            if w.phase is Phase.STOPPING:
                self._kill(w)

    def _end_orphans(self) -> None:
        """End the children that a dead service left: the kernel gave them to us."""
        spared = self._strangers | {w.service.child.pid for w in self.watched if w.service.child}
        for process in psutil.Process().children():
            if process.pid not in spared:
                with suppress(psutil.Error):
                    process.kill()
                    process.wait(timeout=ORPHAN_SECONDS)
