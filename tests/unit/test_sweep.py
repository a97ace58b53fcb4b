"""The sweep: what was lost is found, whoever else is away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from cloudpush.errors import BrokerError, Code, StoreError, VaultError
from cloudpush.push.states import State
from cloudpush.push.sweep import LOST_SECONDS, STALE_SECONDS, Due, Sweep
from fakes import FakeAnnouncer

A, B = uuid4(), uuid4()


class FakeBroom:
    """What is due, and what was asked."""

    def __init__(self) -> None:
        self.leading = True
        self.found = Due([], [])
        self.ended: list[tuple[UUID, State]] = []
        self.asked: list[float] = []
        self.patience: list[float] = []
        self.failing: StoreError | None = None
        self.passes = 0

    def lead(self) -> bool:
        self.passes += 1
        if self.failing:
            raise self.failing
        return self.leading

    def release_expired(self, max_strikes: int) -> Sequence[tuple[UUID, State]]:
        assert max_strikes == 12
        return self.ended

    def release_impatient(self, patience_seconds: float) -> int:
        self.patience.append(patience_seconds)
        return 0

    def due(self, *, unannounced_for: float, limit: int) -> Due:
        self.asked.append(unannounced_for)
        return self.found


@pytest.fixture
def broom() -> FakeBroom:
    return FakeBroom()


@pytest.fixture
def announcer() -> FakeAnnouncer:
    return FakeAnnouncer()


@pytest.fixture
def kept() -> list[int]:
    """How often the house was kept."""
    return []


def a_sweep(broom: FakeBroom, announcer: FakeAnnouncer, keep: Callable[[], int]) -> Sweep:
    return Sweep(
        broom=broom,
        announcer=announcer,
        queue=announcer,
        keep_house=keep,
        max_strikes=12,
        patience=timedelta(days=7),
    )


@pytest.fixture
def sweep(broom: FakeBroom, announcer: FakeAnnouncer, kept: list[int]) -> Sweep:
    def keep() -> int:
        kept.append(1)
        return 0

    return a_sweep(broom, announcer, keep)


def test_what_is_due_is_announced(sweep: Sweep, broom: FakeBroom, announcer: FakeAnnouncer) -> None:
    """Pushes by id, parts by push."""
    broom.found = Due([A], [(B, 1), (A, 7), (B, 2)])

    assert (sweep.once(), announcer.pushes, announcer.announced) == (4, [A], [(B, 1), (B, 2), (A, 7)])


def test_watchers_hear_what_the_sweep_ended(sweep: Sweep, broom: FakeBroom, announcer: FakeAnnouncer) -> None:
    """No worker will tell them."""
    broom.ended = [(A, State.FAILED)]

    sweep.once()

    assert announcer.endings == [(A, State.FAILED)]


def test_what_waits_for_too_long_is_set_going_to_end(sweep: Sweep, broom: FakeBroom, announcer: FakeAnnouncer) -> None:
    """At each pass of the one that leads, and although the broker is away."""
    announcer.away = True
    with pytest.raises(BrokerError):
        sweep.once()
    broom.leading = False
    sweep.once()

    assert broom.patience == [7 * 86_400.0 + 600.0]  # by which clocks may differ


@pytest.mark.parametrize(("waiting", "seconds"), [(0, LOST_SECONDS), (1, STALE_SECONDS)])
def test_an_empty_queue_has_lost_what_it_was_given(
    sweep: Sweep, broom: FakeBroom, announcer: FakeAnnouncer, waiting: int, seconds: float
) -> None:
    """One that holds messages is only slow."""
    announcer.waiting = waiting

    sweep.once()

    assert broom.asked == [seconds]


def test_who_does_not_lead_does_nothing(
    sweep: Sweep, broom: FakeBroom, announcer: FakeAnnouncer, kept: list[int]
) -> None:
    """It stands by."""
    broom.leading = False
    broom.found = Due([A], [])

    assert (sweep.once(), announcer.pushes, kept) == (0, [], [])


def test_the_house_is_kept_now_and_then(sweep: Sweep, kept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every pass."""
    now = [100.0]
    monkeypatch.setattr("cloudpush.push.sweep.time.monotonic", lambda: now[0])
    for seconds in (0, 0.2, 0.7, 0.2, 0.3):
        now[0] += seconds
        sweep.once()

    assert len(kept) == 2


def test_the_house_is_kept_while_the_broker_is_away(sweep: Sweep, announcer: FakeAnnouncer, kept: list[int]) -> None:
    """Credentials are destroyed in time."""
    announcer.away = True

    with pytest.raises(BrokerError):
        sweep.once()

    assert kept == [1]


def test_a_vault_that_is_away_stops_no_announcement(broom: FakeBroom, announcer: FakeAnnouncer) -> None:
    """They come first."""

    def keep() -> int:
        raise VaultError(Code.VAULT_SEALED, "sealed")

    sweep = a_sweep(broom, announcer, keep)
    broom.found = Due([A], [])

    with pytest.raises(VaultError):
        sweep.once()

    assert announcer.pushes == [A]


def test_sweeping_outlives_an_outage_and_stops_when_told(sweep: Sweep, broom: FakeBroom) -> None:
    """Every pass is tried anew."""
    stop = threading.Event()
    broom.failing = StoreError(Code.DATABASE_UNREACHABLE, "away")
    thread = threading.Thread(target=sweep.run, args=(stop, 0.001))
    thread.start()
    passed = threading.Event()
    while broom.passes < 3 and not passed.wait(0.001):
        pass
    stop.set()
    thread.join(5)

    assert (thread.is_alive(), broom.passes >= 3) == (False, True)
