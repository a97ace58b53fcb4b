"""Leases that are kept alive, and what their holders are told."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest

from builders import a_lease, a_page, a_push
from cloudpush.errors import Cancelled, Code, EngineError, LeaseLost, StoreError
from cloudpush.push.job import Lease, Progress, Push
from cloudpush.push.leases import Hold, LeaseKeeper
from fakes import FakeAnnouncer, FakeStore

AWAY = StoreError(Code.DATABASE_UNREACHABLE, "away")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def announcer() -> FakeAnnouncer:
    return FakeAnnouncer()


@pytest.fixture
def keeper(store: FakeStore, announcer: FakeAnnouncer) -> LeaseKeeper:
    """Not started: the tests beat themselves."""
    return LeaseKeeper(store, announcer, worker="host:1", seconds=30, heartbeat=1)


def running(store: FakeStore, lease: Lease) -> Push:
    """A push in its only part, under ``lease``."""
    push = store.claim_push(store.add(a_push()), lease)
    assert push is not None
    store.finish_plan_with(push, lease, a_page(push.id))
    return push


def test_a_new_lease_is_the_workers_own(keeper: LeaseKeeper) -> None:
    """A token that nobody has had before."""
    one, two = keeper.new(), keeper.new()

    assert (one.worker, one.seconds, one.token == two.token) == ("host:1", 30, False)


def test_a_beat_extends_what_is_held_and_nothing_else(store: FakeStore, keeper: LeaseKeeper) -> None:
    """One that was let go runs out."""
    held, let_go = keeper.new(), keeper.new()
    pushes = [running(store, held), running(store, let_go)]
    with keeper.hold(let_go, pushes[1].id):
        pass
    with keeper.hold(held, pushes[0].id):
        store.clock.advance(29)
        keeper.beat()
        store.clock.advance(2)

        taken = [store.claim_part(p.id, 1, a_lease()) is not None for p in pushes]

    assert taken == [False, True]


def test_a_hold_that_is_well_lets_its_holder_go_on(store: FakeStore, keeper: LeaseKeeper) -> None:
    """However often it is asked."""
    lease = keeper.new()
    push = running(store, lease)
    with keeper.hold(lease, push.id) as hold:
        keeper.beat()
        hold.check()
        hold.check()


def test_the_holder_hears_that_the_push_is_cancelled(store: FakeStore, keeper: LeaseKeeper) -> None:
    """At the next beat, and from then on."""
    lease = keeper.new()
    push = running(store, lease)
    with keeper.hold(lease, push.id) as hold:
        store.cancel(push.id)
        hold.check()
        keeper.beat()
        for _ in range(2):
            with pytest.raises(Cancelled):
                hold.check()


def test_the_holder_hears_that_the_lease_was_lost(store: FakeStore, keeper: LeaseKeeper) -> None:
    """Being lost is told before being cancelled: nothing may be written about it."""
    lease = keeper.new()
    push = running(store, lease)
    with keeper.hold(lease, push.id) as hold:
        store.cancel(push.id)
        keeper.beat()
        store.clock.advance(31)
        store.claim_part(push.id, 1, a_lease())
        keeper.beat()
        with pytest.raises(LeaseLost):
            hold.check()


def test_a_lease_that_could_not_be_extended_in_time_is_lost() -> None:
    """Nobody told us, but another worker may hold it by now."""
    hold = Hold(a_lease(seconds=-1), uuid4())

    with pytest.raises(LeaseLost):
        hold.check()


def test_a_beat_without_holds_asks_nobody(store: FakeStore, keeper: LeaseKeeper) -> None:
    """An idle worker is quiet."""
    keeper.beat()

    assert store.calls["extend"] == 0


def test_an_outage_of_the_database_is_waited_out(store: FakeStore, keeper: LeaseKeeper) -> None:
    """The lease is good until its time is up; the next beat may be in time."""
    lease = keeper.new()
    push = running(store, lease)
    with keeper.hold(lease, push.id) as hold:
        until = hold.good_until
        store.failing = AWAY
        keeper.beat()
        during = hold.good_until
        store.failing = None
        keeper.beat()
        hold.check()

        assert (during, hold.good_until > until) == (until, True)


def test_progress_that_cannot_be_noted_costs_no_lease(store: FakeStore, keeper: LeaseKeeper) -> None:
    """It was extended already."""
    lease = keeper.new()
    push = running(store, lease)
    with keeper.hold(lease, push.id) as hold:
        until = hold.good_until
        store.during["note_progress"] = lambda: setattr(store, "failing", AWAY)
        keeper.beat()

        assert hold.good_until > until


def test_progress_goes_to_watchers_and_with_the_next_beat_into_the_row(
    store: FakeStore, announcer: FakeAnnouncer, keeper: LeaseKeeper
) -> None:
    """Only of holds that have something to report."""
    lease, quiet = keeper.new(), keeper.new()
    push, other = running(store, lease), running(store, quiet)
    moment = Progress(10, 1, 5.0, 2.0)
    with keeper.hold(lease, push.id) as hold, keeper.hold(quiet, other.id), hold.reporting(lambda: moment):
        keeper.publish()
        before = dict(store.moments)
        keeper.beat()

    assert (announcer.heard, before, store.moments) == ([(push.id, moment)], {}, {lease.token: moment})


def test_nothing_is_asked_after_the_reporting_ended(keeper: LeaseKeeper, announcer: FakeAnnouncer) -> None:
    """Whether it ended well or not: the session is closed."""
    hold_of = keeper.hold(keeper.new(), uuid4())
    with hold_of as hold:
        with pytest.raises(ZeroDivisionError), hold.reporting(Progress):
            raise ZeroDivisionError
        keeper.publish()

    assert (hold.progress, announcer.heard) == (None, [])


def test_an_engine_that_cannot_say_how_far_it_is_disturbs_nobody(
    store: FakeStore, announcer: FakeAnnouncer, keeper: LeaseKeeper
) -> None:
    """The other holds are reported all the same."""
    first, second = keeper.new(), keeper.new()

    def broken() -> Progress:
        raise EngineError(Code.ENGINE_CRASHED, "gone")

    with (
        keeper.hold(first, uuid4()) as one,
        keeper.hold(second, push_id := uuid4()) as two,
        one.reporting(broken),
        two.reporting(Progress),
    ):
        keeper.publish()

    assert announcer.heard == [(push_id, Progress())]


def test_the_heartbeat_survives_what_nobody_foresaw(store: FakeStore, announcer: FakeAnnouncer) -> None:
    """Its thread is what every lease of the worker hangs on."""
    keeper = LeaseKeeper(store, announcer, worker="host:1", seconds=30, heartbeat=0.001)
    lease = keeper.new()
    push = running(store, lease)
    beaten_again = threading.Event()

    def defect() -> None:
        store.during["extend"] = beaten_again.set
        raise ZeroDivisionError

    store.during["extend"] = defect
    with keeper.hold(lease, push.id):
        keeper.start()
        again = beaten_again.wait(5)
        keeper.stop()

    assert again


def test_an_engine_that_hangs_costs_no_lease(store: FakeStore, announcer: FakeAnnouncer) -> None:
    """Progress and heartbeat do not wait for each other."""
    keeper = LeaseKeeper(store, announcer, worker="host:1", seconds=30, heartbeat=0.001)
    lease = keeper.new()
    push = running(store, lease)
    asked, answer, beaten = threading.Event(), threading.Event(), threading.Event()

    def hanging() -> Progress:
        asked.set()
        store.during["extend"] = beaten.set
        answer.wait(5)
        return Progress()

    with keeper.hold(lease, push.id) as hold, hold.reporting(hanging):
        keeper.start()
        seen = (asked.wait(5), beaten.wait(5))
        answer.set()
        keeper.stop()

    assert seen == (True, True)
