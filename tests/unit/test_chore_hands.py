"""Chores about grants: taken up beside the parts, a few at once, and none of them lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from uuid import UUID, uuid4

import pytest

from builders import an_error
from cloudpush.errors import Code, StoreError
from cloudpush.push.grants.hands import HANDS, TAKEN_SECONDS, Hands

PATIENCE = 20.0


class FakeChores:
    """Due chores, and what was asked for. ``done`` counts what was attended to; ``gate`` holds the hands."""

    def __init__(self) -> None:
        self.due: list[UUID] = []
        self.asked: list[tuple[int, float]] = []
        self.done: list[UUID] = []
        self.away = False
        self.gate = threading.Event()
        self.gate.set()
        self.changed = threading.Condition()

    def chores(self, limit: int, taken_before: float) -> Sequence[UUID]:
        self.asked.append((limit, taken_before))
        if self.away:
            raise StoreError(Code.DATABASE_UNREACHABLE, "Postgres is away.")
        found, self.due = self.due[:limit], self.due[limit:]
        return found

    def attend(self, grant_id: UUID) -> int:
        assert self.gate.wait(PATIENCE)
        with self.changed:
            self.done.append(grant_id)
            self.changed.notify_all()
        if len(self.done) == 1:
            raise an_error(Code.DATABASE_UNREACHABLE)
        return 1

    def wait_for(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.done) == count, PATIENCE)


@pytest.fixture
def chores() -> FakeChores:
    return FakeChores()


@pytest.fixture
def hands(chores: FakeChores) -> Iterator[Hands]:
    made = Hands(store=chores, keeping=chores, every=0.01)
    yield made
    chores.gate.set()
    made.stop()


def test_what_is_due_is_done_and_a_failure_keeps_no_hand(hands: Hands, chores: FakeChores) -> None:
    """The first one fails."""
    chores.due = [uuid4() for _ in range(HANDS + 3)]
    wanted = set(chores.due)

    hands.start()

    assert (chores.wait_for(HANDS + 3), set(chores.done)) == (True, wanted)


def test_no_more_is_taken_up_than_there_are_hands(hands: Hands, chores: FakeChores) -> None:
    """What a busy worker leaves, another takes."""
    chores.gate.clear()
    chores.due = [uuid4() for _ in range(HANDS + 1)]

    looks = (hands.look(), hands.look())

    assert (looks, chores.asked, len(chores.due)) == ((HANDS, 0), [(HANDS, TAKEN_SECONDS)], 1)


def test_a_database_that_is_away_is_asked_again(hands: Hands, chores: FakeChores) -> None:
    """Until it is back."""
    chores.away, chores.due = True, [uuid4()]
    hands.start()
    while len(chores.asked) < 3:
        assert threading.Event().wait(0.01) is False
    chores.away = False

    assert chores.wait_for(1)
