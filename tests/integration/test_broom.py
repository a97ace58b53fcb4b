"""The sweep's side of the store, on real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
import sqlalchemy as sa

from builders import a_lease, a_page, an_error, failure, paused, retry, verified
from cloudpush.audit.broom import Broom
from cloudpush.audit.integrity import verify
from cloudpush.errors import Code, ConsentRevoked, StoreError
from cloudpush.push.states import State
from cloudpush.push.sweep import Due
from grant_stores import GrantsInPostgres, connected, shared
from grant_stores import waiting as waiting_for
from records import Record
from servers import Database, Databases

NEVER_LATE = 3600.0


@pytest.fixture
def database(databases: Databases) -> Iterator[Database]:
    """A database of each test's own: the sweep looks at everything that there is."""
    made = databases.migrated()
    yield made
    databases.drop(made)


@pytest.fixture
def record(database: Database) -> Iterator[Record]:
    """A database with what the application does in it."""
    made = Record(database)
    yield made
    made.close()


@pytest.fixture
def broom(record: Record) -> Iterator[Broom]:
    """The sweeper's hands."""
    made = Broom(record.app)
    yield made
    made.close()


def due(broom: Broom, seconds: float = NEVER_LATE) -> tuple[list[UUID], list[tuple[UUID, int]]]:
    found = broom.due(unannounced_for=seconds, limit=100)
    return sorted(found.pushes), sorted(found.parts)


# -- what is due ---------------------------------------------------------------------------------


def test_nothing_is_due_while_all_goes_well(record: Record, broom: Broom) -> None:
    """Announced a moment ago, running, or over."""
    record.submitted()
    record.running()
    record.finished()
    record.planned()

    assert (due(broom), broom.release_expired(3)) == (([], []), [])


def test_what_was_announced_in_vain_is_due(record: Record, broom: Broom) -> None:
    """The broker lost its messages: pushes, and parts of planned ones."""
    queued, planned = record.submitted(), record.planned(2)

    assert due(broom, 0) == ([queued], [(planned.id, 1), (planned.id, 2)])


def test_what_was_found_is_not_found_again_at_once(record: Record, broom: Broom) -> None:
    """It counts as announced from then on."""
    record.submitted()
    broom.due(unannounced_for=0, limit=100)

    assert due(broom, 60) == ([], [])


def test_retries_are_due_in_their_time(record: Record, broom: Broom) -> None:
    """Not while they wait; afterwards at once, although they were announced lately."""
    lease = a_lease()
    push = record.ledger.claim_push(record.submitted(), lease)
    assert push is not None
    record.ledger.end_push(push, lease, retry(3600))
    before = due(broom)
    with record.owner.begin() as c:
        c.execute(sa.text("UPDATE push SET next_attempt_at = now()"))

    assert (before, due(broom)) == (([], []), ([push.id], []))


def test_parts_of_a_plan_that_is_not_complete_are_not_due(record: Record, broom: Broom) -> None:
    """They may be gone in a moment."""
    record.planned(2)
    record.tamper("UPDATE push SET planned_at = NULL")

    assert due(broom, 0) == ([], [])


def test_as_many_are_found_as_were_asked_for(record: Record, broom: Broom) -> None:
    """The rest is the next pass's."""
    for _ in range(5):
        record.submitted()

    found = [
        len(broom.due(unannounced_for=0.0, limit=3).pushes),
        len(broom.due(unannounced_for=NEVER_LATE, limit=3).pushes),
    ]

    assert found == [3, 0]


# -- leases that ran out ---------------------------------------------------------------------------


def test_a_part_whose_worker_vanished_is_queued_again_with_a_strike(record: Record, broom: Broom) -> None:
    """And due at once."""
    push = record.running()
    record.late(push.id)

    ended = broom.release_expired(3)

    row = record.history.parts(push.id)[0]
    assert (ended, row["state"], row["strikes"], row["error_code"], due(broom)) == (
        [],
        "queued",
        1,
        "WORKER_LOST",
        ([], [(push.id, 1)]),
    )
    assert record.history.events(push.id)[-1]["data"] == {"part": 1, "worker": "worker-1"}


def test_a_push_whose_planner_vanished_is_queued_again_with_a_strike(record: Record, broom: Broom) -> None:
    """Likewise."""
    push_id = record.submitted()
    record.ledger.claim_push(push_id, a_lease())
    record.late(push_id)

    ended = broom.release_expired(3)

    row = record.history.push(push_id)
    assert (ended, row["state"], row["strikes"], record.kinds(push_id)[-1]) == (
        [],
        "queued",
        1,
        "push.lease_expired",
    )


def test_planning_that_takes_its_workers_with_it_ends(record: Record, broom: Broom) -> None:
    """Row and event say the same."""
    push_id = record.submitted()
    record.ledger.claim_push(push_id, a_lease())
    record.late(push_id)

    ended = broom.release_expired(1)

    row = record.history.push(push_id)
    assert (ended, row["error_code"], row["error_message"], verify(record.app, push_id).faults) == (
        [(push_id, State.FAILED)],
        "WORKER_LOST",
        "Its worker vanished and it ran out of attempts.",
        [],
    )


def test_a_cancelled_push_whose_planner_vanished_ends(record: Record, broom: Broom) -> None:
    """Nobody has to claim it for that."""
    push_id = record.submitted()
    record.ledger.claim_push(push_id, a_lease())
    record.desk.cancel(push_id, None, "operator")
    record.late(push_id)

    ended = broom.release_expired(3)

    row = record.history.push(push_id)
    assert (ended, row["error_code"], row["error_message"], verify(record.app, push_id).faults) == (
        [(push_id, State.CANCELLED)],
        "CANCELLED",
        "The push was cancelled.",
        [],
    )


def test_a_worker_whose_lease_was_released_cannot_go_on(record: Record, broom: Broom) -> None:
    """Its token is gone although nobody has claimed the part yet."""
    lease = a_lease()
    push = record.ledger.claim_push(record.submitted(), lease)
    assert push is not None
    record.late(push.id)
    broom.release_expired(3)

    assert record.ledger.extend([lease.token], 30) == {}


def test_the_next_worker_finishes_what_the_vanished_one_began(record: Record, broom: Broom) -> None:
    """From the last committed step."""
    push = record.running()
    record.late(push.id)
    broom.release_expired(3)
    claimed = record.ledger.claim_part(push.id, 1, lease := a_lease())
    assert claimed is not None
    record.ledger.record_files(claimed[1], lease, verified([1, 2]))

    state = record.ledger.end_part(*claimed, lease, retry(0, strike=False))

    assert (state, claimed[1].strikes, claimed[1].attempt) == (State.RUNNING, 1, 2)


# -- patience ----------------------------------------------------------------------------------------


def waiting(record: Record) -> list[UUID]:
    """A push that waits without a plan, one whose parts all wait, and one of whose parts one waits."""
    lease = a_lease()
    unplanned = record.ledger.claim_push(record.submitted_signed(), lease)
    assert unplanned is not None
    record.ledger.end_push(unplanned, lease, paused())
    found = [unplanned.id]
    for parts in (1, 2):
        push = record.planned_signed(parts)
        claimed = record.ledger.claim_part(push.id, 1, lease := a_lease())
        assert claimed is not None
        record.ledger.end_part(*claimed, lease, paused())
        found.append(push.id)
    return found


def test_what_waits_for_a_user_is_not_due(record: Record, broom: Broom) -> None:
    """However long; the part that is queued beside it is."""
    unplanned, _, half = waiting(record)
    record.late(unplanned)

    assert (broom.release_expired(1), due(broom, 0), broom.release_impatient(3600)) == ([], ([], [(half, 2)]), 0)


def test_what_waited_for_too_long_is_due_so_that_a_worker_ends_it(record: Record, broom: Broom) -> None:
    """Once; and the record says why."""
    unplanned, whole, half = waiting(record)
    record.running()

    released = [broom.release_impatient(0), broom.release_impatient(0)]

    assert (released, due(broom)) == ([3, 0], ([unplanned], sorted([(whole, 1), (half, 1)])))
    for push_id, parts in ((unplanned, 0), (whole, 1), (half, 1)):
        last = record.history.events(push_id)[-1]
        assert (last["kind"], last["actor"], last["data"]) == (
            "push.resumed",
            "sweeper",
            {"why": "patience is over", "parts": parts},
        )
    claimed = record.ledger.claim_part(whole, 1, lease := a_lease())
    assert claimed is not None
    assert record.ledger.end_part(*claimed, lease, failure()) is State.FAILED
    assert verify(record.app).faults == []


def test_what_waits_by_a_share_that_is_over_by_its_date_is_due_so_that_a_worker_ends_it(
    record: Record, broom: Broom
) -> None:
    """Nobody unshared it, so nobody else wakes it: it would wait for a week. What has a right to wait waits on."""
    grants = GrantsInPostgres(record.app, record.owner)
    grant = connected(grants)
    share = shared(grants, grant, principal="pipeline")
    grants.store.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), "worker-1")
    theirs, own = waiting_for(grants, grant, share.principal), waiting_for(grants, grant)
    before = broom.release_impatient(NEVER_LATE)
    grants.let_pass(2 * 24 * 3600)

    released = [broom.release_impatient(NEVER_LATE), broom.release_impatient(NEVER_LATE)]

    assert (before, released, record.state(theirs), record.state(own)) == (
        0,
        [1, 0],
        State.QUEUED,
        State.AWAITING_CONSENT,
    )
    assert record.history.events(theirs)[-1]["data"] == {"why": "consent over", "parts": 0}
    push = record.ledger.claim_push(theirs, lease := a_lease())
    assert push is not None
    with pytest.raises(ConsentRevoked):
        record.ledger.finish_plan_with(push, lease, a_page(push.id))


def test_a_planner_that_vanished_too_often_ends_its_sets(record: Record, broom: Broom) -> None:
    """The sweep ends the push, the database its sets."""
    push = record.ledger.claim_push(record.submitted_signed(), a_lease())
    assert push is not None
    record.late(push.id)

    broom.release_expired(1)

    with record.app.connect() as c:
        query = "SELECT purge_after <= clock_timestamp() FROM credential WHERE id = :id"
        assert c.execute(sa.text(query), {"id": push.credential_id}).scalar_one() is True


# -- one sweeper at a time ---------------------------------------------------------------------------


def test_one_sweeper_leads(record: Record, broom: Broom) -> None:
    """The other stands by until the first is gone."""
    standby = Broom(record.app)
    first = [broom.lead(), standby.lead(), broom.lead()]
    broom.close()

    second = standby.lead()
    standby.close()

    assert (first, second) == ([True, False, True], True)


def test_a_leader_that_lost_its_connection_does_not_know_better(record: Record, broom: Broom) -> None:
    """Its lock went with the connection: it says so once, and asks anew."""
    broom.lead()
    with record.intruder.begin() as c:
        c.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )

    with pytest.raises(StoreError):
        broom.lead()

    assert broom.lead()


def test_what_a_pass_returns_is_a_value(broom: Broom) -> None:
    """Of two sequences."""
    assert broom.due(unannounced_for=0, limit=1) == Due([], [])
