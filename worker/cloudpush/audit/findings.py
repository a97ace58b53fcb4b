"""What a look at the record found, and what it looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from cloudpush.push.trust.checkpoints import Anchored

#: Faults that a report lists: of a record that was emptied there are as many as there were events.
MOST_FAULTS = 10_000


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was written. ``stream`` is None where it concerns no push, credential or grant alone."""

    stream: UUID | None
    seq: int | None
    what: str


@dataclass(slots=True)
class Report:
    """What was checked, and what was found.

    ``sealed`` of the ``events`` were compared with checkpoints. ``unchecked`` says in words what could not be looked at.
    """

    streams: int = 0
    events: int = 0
    parts: int = 0
    files: int = 0
    checkpoints: int = 0
    sealed: int = 0
    pseudonymised: int = 0
    retired_months: list[str] = field(default_factory=list)  # dropped by right; so many rows of theirs are in archives
    retired_events: int = 0
    retired_files: int = 0
    newest: int | None = None  # number of the newest checkpoint
    faults: list[Fault] = field(default_factory=list)
    unlisted: int = 0  # faults beyond the first MOST_FAULTS
    unchecked: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults

    def blame(self, stream: UUID | None, seq: int | None, what: str) -> None:
        """Add a fault."""
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(Fault(stream, seq, what))
        else:
            self.unlisted += 1


@dataclass(frozen=True, slots=True)
class Witness:
    """What stands outside of the database and speaks for or against it.

    ``signed(signature, text)``: whether an audit key signed ``text``; None where no public key is at hand.
    ``anchor``: the newest checkpoint as Vault remembers it, with ``asked``; ``saved``: checkpoints that somebody kept, as
    (number, SHA-256 of the statement in hex).
    """

    signed: Callable[[bytes, bytes], bool] | None = None
    anchor: Anchored | None = None
    asked: bool = False
    saved: tuple[tuple[int, str], ...] = ()
