"""The notary: what makes the record believable to others, done beside the sweep by one process at a time.

Every second it issues the receipts that are owed; every minute or so it seals the new events; once a day it makes the months
to come. Inspections of the whole record, which may take long, have a thread of their own. While Vault or Postgres is away
each step waits and is tried again: whatever is owed is in Postgres.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from cloudpush.errors import CloudPushError, Code
from cloudpush.logs import get_logger, traceback_of

log = get_logger(__name__)

EVERY_SECONDS = 1.0
#: While an older transaction is not over, or a checkpoint was full, sealing is tried again this soon.
AGAIN_SECONDS = 1.0
MONTHS_SECONDS = 86_400.0
#: Making a month waits, for a second, for whoever reads the default partition, such as an inspection: not often.
MONTHS_AGAIN_SECONDS = 600.0
#: Batches of receipts in one pass: after so many it is looked whether something else is due.
BATCHES = 20
#: How often is asked whether an inspection is due.
ASK_SECONDS = 60.0


class Leader(Protocol):
    """Of several processes one works."""

    def lead(self) -> bool:
        """Whether it is this one. Raises StoreError."""


@dataclass(slots=True)
class _Step:
    """Something that is done every so often, and whose trouble is told once."""

    name: str
    do: Callable[[], object]
    every: float
    again: float = AGAIN_SECONDS
    due: float = -1.0
    _trouble: str = field(default="", repr=False)

    def turn(self, now: float) -> None:
        """Do it if it is due. Never raises: without its thread nothing would be issued or sealed any more."""
        if now < self.due:
            return
        try:
            done = self.do()
        except CloudPushError as e:
            self.due = now + self.again
            level = log.error if e.code is Code.RECORD_UNSOUND else log.warning
            (log.debug if self._trouble == e.code else level)(
                "notary waits", step=self.name, code=str(e.code), error=e.message
            )
            self._trouble = e.code
            return
        except Exception as e:  # noqa: BLE001 -- a defect of ours in one step is not to stop the others
            self.due = now + self.again
            told = type(e).__name__
            if self._trouble != told:
                log.error("defect", step=self.name, traceback=traceback_of(e))  # noqa: TRY400 -- it would show local variables
            self._trouble = told
            return
        if self._trouble:
            log.info("notary goes on", step=self.name)
            self._trouble = ""
        self.due = now + (self.every if done else self.again)


class Notary:
    """Passes until told to stop.

    ``issue`` issues some receipts and returns how many; ``seal`` makes a checkpoint and returns whether another one can wait
    until its time; ``make_months`` makes the partitions that are lacking. Each raises CloudPushError and is called again.
    """

    def __init__(
        self,
        leader: Leader,
        *,
        issue: Callable[[], int],
        seal: Callable[[], bool],
        make_months: Callable[[], object],
        checkpoint_seconds: float,
    ) -> None:
        self._leader = leader
        self.leading = False
        self._steps = [
            _Step("receipts", lambda: self._issue(issue), 0.0, 0.0),
            _Step("checkpoint", seal, checkpoint_seconds),
            _Step("months", lambda: make_months() or True, MONTHS_SECONDS, MONTHS_AGAIN_SECONDS),
        ]
        self._lead = _Step("lead", self._ask, 0.0, 0.0)

    def run(self, stop: threading.Event, every: float = EVERY_SECONDS) -> None:
        """Work until told to stop; an outage is logged once and waited out."""
        while not stop.wait(every):
            self.once()

    def once(self) -> None:
        """One pass. Never raises."""
        now = time.monotonic()
        self.leading = False
        self._lead.turn(now)
        if self.leading:
            for step in self._steps:
                step.turn(now)

    def _ask(self) -> bool:
        self.leading = self._leader.lead()
        return True

    @staticmethod
    def _issue(issue: Callable[[], int]) -> bool:
        for _ in range(BATCHES):
            if not issue():
                break
        return True


class Inspector:
    """Looks at the whole record every so often, while its process leads."""

    def __init__(
        self,
        notary: Notary,
        *,
        age: Callable[[], float | None],
        inspect: Callable[[datetime], bool],
        every_seconds: float,
    ) -> None:
        """``age``: seconds since the last inspection began. ``inspect``: look, keep what was found; whether all is sound."""
        self._notary = notary
        self._age = age
        self._inspect = inspect
        self._every = every_seconds
        self._step = _Step("inspection", self.once, 0.0, 0.0)

    def run(self, stop: threading.Event, every: float = ASK_SECONDS) -> None:
        """Ask until told to stop whether it is time."""
        while not stop.wait(every):
            if self._notary.leading:
                self._step.turn(time.monotonic())

    def once(self) -> bool:
        """Inspect if it is time. Raises StoreError, VaultError."""
        age = self._age()
        if age is not None and age < self._every:
            return True
        if self._inspect(datetime.now(UTC)):
            log.info("record inspected")
        else:
            log.error("record unsound")
        return True
