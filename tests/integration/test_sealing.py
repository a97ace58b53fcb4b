"""Sealing beside writers: what a checkpoint covers is complete, whoever had begun to write when it was made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import sqlalchemy as sa

from cloudpush.audit.database import append_events
from cloudpush.audit.integrity import verify
from cloudpush.push.states import Event
from cloudpush.push.trust.checkpoints import Anchored
from cloudpush.push.trust.sealing import Sealing
from notaries import FakeNotary
from records import Record
from servers import Database


@pytest.fixture
def record(database: Database) -> Iterator[Record]:
    made = Record(database)
    yield made
    made.close()


def test_an_event_that_is_not_committed_yet_is_never_passed_over(record: Record) -> None:
    """Although its transaction began after that of the newest event that was seen, and took its number before that one."""
    notary = FakeNotary(record.app)
    with record.app.connect() as older, record.app.connect() as younger:
        older.execute(sa.text("SELECT pg_current_xact_id()"))
        append_events(younger, uuid4(), "test", [(Event.CREDENTIAL_USED, None, {})])
        append_events(older, uuid4(), "test", [(Event.CREDENTIAL_USED, None, {})])
        older.commit()

        assert notary.sealing.once() is None
        assert notary.sealing.pending

        younger.commit()

    assert notary.seal() >= 2
    assert verify(record.app, None, notary.witness()).faults == []


def test_two_who_seal_at_once_do_not_take_each_other_for_an_intruder(record: Record) -> None:
    """An operator's `audit seal` beside the notary: the other's checkpoint comes while this one looks at what there is."""
    notary = FakeNotary(record.app)
    append_events_of(record)
    notary.seal()
    append_events_of(record)
    other = Sealing(notary.book, notary.signer, Meanwhile(notary))

    assert other.once() is None

    append_events_of(record)
    assert notary.seal() == 1


def append_events_of(record: Record) -> None:
    """One event."""
    with record.app.begin() as c:
        append_events(c, uuid4(), "test", [(Event.CREDENTIAL_USED, None, {})])


@dataclass
class Meanwhile:
    """Somebody else seals right before it is asked what is remembered."""

    notary: FakeNotary

    def read(self) -> Anchored | None:
        self.notary.seal()
        return self.notary.anchor.read()

    def move(self, to: Anchored) -> Anchored:
        return self.notary.anchor.move(to)
