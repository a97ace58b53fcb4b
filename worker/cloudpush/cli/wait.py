"""Waiting for a verdict: Redis tells at once, Postgres tells the truth.

A progress bar on a terminal, plain lines elsewhere, nothing where the caller wants JSON only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cloudpush.cli.context import size
from cloudpush.cli.desk import Moment
from cloudpush.errors import BrokerError, Code
from cloudpush.push.states import State

if TYPE_CHECKING:
    from cloudpush.wiring import Services

#: Postgres is asked this often even if Redis says nothing; every word of Redis that matters makes us ask at once.
POLL_SECONDS = 1.0
#: A plain line is written this often.
LINE_SECONDS = 5.0

Row = dict[str, Any]


class Display(Protocol):
    """Shows how a push gets on."""

    def show(self, row: Row, sent: int, speed: float | None) -> None:
        """``sent``: bytes on their way or verified."""


def wait_for(
    services: Services, push_id: UUID, timeout: float | None, *, quiet: bool = False, until_paused: bool = False
) -> Row:
    """The push's row once it is final, or as it is after ``timeout`` seconds.

    ``until_paused``: also as soon as it waits for somebody, who may be the one that waits here. Raises InputError
    UNKNOWN_PUSH, StoreError.
    """
    return watch(follow(services, push_id, timeout), quiet=quiet, until_paused=until_paused)


def watch(moments: Iterator[Moment], *, quiet: bool = False, until_paused: bool = False) -> Row:
    """Show a push getting on; its row as :func:`wait_for` returns it."""
    with _display(quiet=quiet) as display:
        for moment in moments:
            row = moment.row
            display.show(row, moment.sent, moment.speed)
            if until_paused and moment.asked and row["state"] == State.AWAITING_CONSENT:
                break
    return row


def follow(services: Services, push_id: UUID, timeout: float | None) -> Iterator[Moment]:
    """What Postgres and the broker say of a push until it is over, or for ``timeout`` seconds. Raises as wait_for."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with _messages(services, push_id) as next_message:
        while True:
            row = services.history.push(push_id)
            yield Moment(row, row["bytes_verified"] + row["sent_bytes"], row["speed"])
            if State(row["state"]).final or (deadline is not None and time.monotonic() >= deadline):
                return
            yield from _listen(next_message, row, _soonest(deadline))


def _listen(next_message: Callable[[float], Row | None], row: Row, until: float) -> Iterator[Moment]:
    """Live progress until the push ends or Postgres is due to be asked."""
    while (left := until - time.monotonic()) > 0:
        message = next_message(left)
        if message is None:
            continue
        if "state" in message:
            return
        yield Moment(row, row["bytes_verified"] + message["bytes"], message["speed"], asked=False)


def _soonest(deadline: float | None) -> float:
    poll = time.monotonic() + POLL_SECONDS
    return poll if deadline is None else min(poll, deadline)


@contextmanager
def _messages(services: Services, push_id: UUID) -> Iterator[Callable[[float], Row | None]]:
    """The broker's messages, or silence while it is away."""
    try:
        watching = services.announcer.watch(push_id)
        with watching as next_message:
            yield next_message
    except BrokerError:
        yield _silence


def _silence(seconds: float) -> None:
    time.sleep(seconds)


@contextmanager
def _display(*, quiet: bool) -> Iterator[Display]:
    if quiet:
        yield Quiet()
        return
    bar = Bar() if sys.stderr.isatty() else None
    with bar.progress if bar else nullcontext():
        yield bar or Lines()


def pause(row: Row) -> str:
    """Why a paused push waits, and for whom, in one line."""
    if not row["error_code"]:
        return "paused: it goes on once somebody has acted"
    code = Code(row["error_code"])
    return f"paused: {code} {row['error_message']} {code.actor} must act: {code.fix}"


class Quiet:
    """Shows nothing."""

    def show(self, row: Row, sent: int, speed: float | None) -> None:
        """Nothing."""


class Bar:
    """A progress bar for a terminal."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self.progress.add_task("queued", total=None)
        self._state = ""

    def show(self, row: Row, sent: int, speed: float | None) -> None:  # noqa: ARG002 -- the bar measures itself
        """Move the bar; above it, once, why the push waits."""
        if row["state"] != self._state:
            self._state = row["state"]
            if self._state == State.AWAITING_CONSENT:
                self.progress.console.print(pause(row), markup=False)
        total = row["bytes_total"] if row["planned_at"] else None
        self.progress.update(self._task, description=row["state"], total=total, completed=min(sent, total or sent))


class Lines:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._last: tuple[str, float] = ("", 0.0)

    def show(self, row: Row, sent: int, speed: float | None) -> None:
        """Write a line when the state changed or some seconds have passed."""
        state, at = self._last
        if row["state"] == state and time.monotonic() - at < LINE_SECONDS:
            return
        self._last = (row["state"], time.monotonic())
        pace = f", {size(speed)}/s" if speed else ""
        sys.stderr.write(f"{row['state']}: {size(sent)} of {size(row['bytes_total'])}{pace}\n")
        if row["state"] != state and row["state"] == State.AWAITING_CONSENT:
            sys.stderr.write(f"{pause(row)}\n")
