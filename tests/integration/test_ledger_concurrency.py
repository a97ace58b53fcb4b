"""Many workers at one push, on real Postgres: exactly one does each thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from threading import Barrier
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from builders import (
    OWNER,
    a_destination,
    a_file,
    a_lease,
    a_page,
    a_request,
    an_error,
    cancelled,
    done,
    failed,
    paused,
    retry,
    verified,
)
from cloudpush.audit.database import append_events, transaction
from cloudpush.audit.integrity import verify
from cloudpush.audit.ledger import Ledger
from cloudpush.errors import Code, InputError, LeaseLost
from cloudpush.push.job import Destination, Lease, Page, Part, Push
from cloudpush.push.states import Event, State, Wish
from records import Record

T = TypeVar("T")
THREADS = 8


def at_once(act: Callable[[int], T], times: int = THREADS) -> list[T]:
    """``act`` from that many threads, let go at the same moment."""
    barrier = Barrier(times)

    def go(number: int) -> T:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(go, range(times)))


def meeting(*acts: Callable[[], object]) -> list[object]:
    """All of ``acts`` at the same moment."""
    return at_once(lambda i: acts[i](), len(acts))


def claimed_with_page(record: Record) -> tuple[Push, Page, Lease]:
    """A push that is about to be planned into one part."""
    lease = a_lease()
    push = record.ledger.claim_push(record.submitted(), lease)
    assert push is not None
    return push, a_page(push.id), lease


def test_one_of_many_claims_a_push(record: Record) -> None:
    """The message was delivered eight times."""
    push_id = record.submitted()

    won = [p for p in at_once(lambda _: record.ledger.claim_push(push_id, a_lease())) if p]

    assert (len(won), record.kinds(push_id)) == (1, ["push.queued", "push.claimed"])


def test_one_of_many_claims_an_expired_part(record: Record) -> None:
    """Its worker vanished."""
    push = record.running()
    record.late(push.id)

    won = [p for p in at_once(lambda _: record.ledger.claim_part(push.id, 1, a_lease())) if p]

    assert (len(won), won[0][1].attempt, record.kinds(push.id).count("part.claimed")) == (1, 2, 1)


def test_one_of_many_ends_the_push(record: Record) -> None:
    """Its parts end at the same moment: none is forgotten, none counted twice."""
    push = record.planned(THREADS)
    held = []
    for n in range(1, THREADS + 1):
        claimed = record.ledger.claim_part(push.id, n, lease := a_lease())
        assert claimed is not None
        record.ledger.record_files(claimed[1], lease, verified([2 * n - 1, 2 * n]))
        held.append((*claimed, lease))

    states = at_once(lambda i: record.ledger.end_part(*held[i], done()))

    row = record.history.push(push.id)
    assert (Counter(states), row["state"], row["parts_done"], row["files_verified"]) == (
        {State.RUNNING: THREADS - 1, State.SUCCEEDED: 1},
        "succeeded",
        THREADS,
        2 * THREADS,
    )
    assert (record.kinds(push.id).count("push.succeeded"), verify(record.app, push.id).faults) == (1, [])


def held_parts(record: Record, push: Push) -> list[tuple[Push, Part, Lease]]:
    """Every part of the push, each claimed by a worker of its own."""
    held = []
    for n in range(1, THREADS + 1):
        found = record.ledger.claim_part(push.id, n, lease := a_lease())
        assert found is not None
        held.append((*found, lease))
    return held


def test_parts_that_end_and_pause_at_the_same_moment_let_the_push_wait(record: Record) -> None:
    """Whoever is last notices that nothing is left but to wait; those that tell of failed files stand in nobody's way."""
    for _ in range(5):
        push = record.planned_signed(THREADS)
        held = held_parts(record, push)

        def end(i: int, held: list[tuple[Push, Part, Lease]] = held) -> State:
            if i % 2:
                return record.ledger.end_part(*held[i], paused(), [failed(2 * i + 1, Code.URL_EXPIRED)])
            return record.ledger.end_part(*held[i], done(), verified([2 * i + 1, 2 * i + 2]))

        states = at_once(end)

        row = record.history.push(push.id)
        assert (Counter(states), row["state"], row["parts_done"], row["parts_paused"]) == (
            {State.RUNNING: THREADS - 1, State.AWAITING_CONSENT: 1},
            "awaiting_consent",
            THREADS // 2,
            THREADS // 2,
        )
        assert (record.kinds(push.id).count("push.awaiting_consent"), verify(record.app, push.id).faults) == (1, [])


def test_a_pause_and_fresh_urls_meet(record: Record) -> None:
    """However they interleave, no part is left waiting for what was handed over."""
    for _ in range(10):
        push = record.planned_signed(THREADS)
        held = held_parts(record, push)
        fresh = record.set().id
        pauses = [partial(record.ledger.end_part, *held[i], paused()) for i in range(THREADS - 1)]

        meeting(*pauses, partial(record.desk.resign, push.id, fresh, OWNER, 2))

        again = [record.ledger.claim_part(push.id, n, a_lease()) for n in range(1, THREADS)]
        assert [found and found[0].credential_id for found in again] == [fresh] * (THREADS - 1)
        assert (record.history.push(push.id)["parts_paused"], verify(record.app, push.id).faults) == (0, [])


def test_a_pause_and_a_cancel_meet(record: Record) -> None:
    """However they interleave, no cancelled part waits for anybody."""
    for _ in range(10):
        push = record.planned_signed(1)
        found = record.ledger.claim_part(push.id, 1, lease := a_lease())
        assert found is not None

        meeting(
            partial(record.ledger.end_part, *found, lease, paused()),
            partial(record.desk.cancel, push.id, None, "operator"),
        )

        assert record.ledger.claim_part(push.id, 1, a_lease()) is not None


def test_sets_that_are_handed_over_at_the_same_moment_all_count(record: Record) -> None:
    """Each has its number, and row and event say the same."""
    push_id = record.submitted_signed()
    sets = [record.set().id for _ in range(THREADS)]

    at_once(lambda i: record.desk.resign(push_id, sets[i], OWNER, i))

    rows = record.history.renewals(push_id)
    assert ([r["number"] for r in rows], {r["credential_id"] for r in rows}) == (
        list(range(1, THREADS + 1)),
        set(sets),
    )
    assert verify(record.app, push_id).faults == []


def test_sessions_that_begin_at_the_same_moment_have_numbers_of_their_own(record: Record) -> None:
    """Of one part by several threads, and of several parts; also where a set must be made for them first."""
    for state in ("active", "purged"):
        push = record.planned_signed(THREADS)
        held = held_parts(record, push)
        record.tamper("UPDATE credential SET state = :state WHERE id = :id", id=push.credential_id, state=state)

        def begin(i: int, held: list[tuple[Push, Part, Lease]] = held) -> tuple[UUID, int]:
            mine, part, lease = held[i // 2]
            return record.sheets.add_session(mine, part, lease, part.first + i % 2, 60)

        places = at_once(begin)

        assert sorted(number for _, number in places) == list(range(1, THREADS + 1))
        assert len({set_id for set_id, _ in places}) == 1


def test_a_push_and_its_cancel_meet(record: Record) -> None:
    """Whoever comes first, the push is over in one way and its record sound."""
    for _ in range(5):
        push_id = record.submitted()

        claimed, state = meeting(
            partial(record.ledger.claim_push, push_id, a_lease()),
            partial(record.desk.cancel, push_id, None, "operator"),
        )

        assert state is (State.CANCELLED if claimed is None else State.RUNNING)
        assert verify(record.app, push_id).faults == []


def test_a_retry_and_a_cancel_meet(record: Record) -> None:
    """However they interleave, no cancelled part waits an hour for its next attempt."""
    for _ in range(10):
        push, page, lease = claimed_with_page(record)
        record.ledger.finish_plan_with(push, lease, page)

        meeting(
            partial(record.ledger.end_part, push, page.part, lease, retry(3600)),
            partial(record.desk.cancel, push.id, None, "operator"),
        )

        assert record.ledger.claim_part(push.id, 1, a_lease()) is not None


def test_a_lease_that_moves_to_its_part_is_never_called_lost(record: Record) -> None:
    """The heartbeat runs while a small push's lease goes from the push to its only part."""
    for _ in range(10):
        push, page, lease = claimed_with_page(record)
        beat = partial(record.ledger.extend, [lease.token], 30)

        answers = meeting(partial(record.ledger.finish_plan_with, push, lease, page), beat, beat, beat)

        assert answers[1:] == [{lease.token: Wish.GO_ON}] * 3


def test_appends_to_one_stream_keep_its_chain_sound(record: Record) -> None:
    """Eight writers, ten transactions each."""
    stream = uuid4()

    def append(number: int) -> None:
        for _ in range(10):
            with record.app.begin() as c:
                append_events(c, stream, f"worker-{number}", [(Event.PART_CLAIMED, None, {"n": number})] * 2)

    at_once(append)

    report = verify(record.app, stream)
    assert (report.events, report.faults) == (160, [])


def test_the_owner_of_a_lost_lease_cannot_interfere(record: Record) -> None:
    """Old and new worker end the part at the same moment: only the new one's verdict counts."""
    old, new = a_lease(), a_lease()
    push = record.ledger.claim_push(record.submitted(), old)
    assert push is not None
    page = a_page(push.id)
    record.ledger.finish_plan_with(push, old, page)
    record.late(push.id)
    taken = record.ledger.claim_part(push.id, 1, new)
    assert taken is not None
    record.ledger.record_files(taken[1], new, verified([1, 2]))

    def end(number: int) -> State | None:
        try:
            if number:
                return record.ledger.end_part(*taken, new, done())
            return record.ledger.end_part(push, page.part, old, cancelled())
        except LeaseLost:
            return None

    assert (at_once(end, 2), verify(record.app, push.id).faults) == ([None, State.SUCCEEDED], [])


def test_a_planner_that_was_held_up_after_its_claim_drops_nothing(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ran out before it came to clear the first attempt's pages: those it finds are its successor's."""
    push_id = record.submitted()
    record.ledger.claim_push(push_id, a_lease())
    record.late(push_id)
    successor = a_lease()

    def held_up(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
        monkeypatch.undo()
        record.late(push_id)
        push = record.ledger.claim_push(push_id, successor)
        assert push is not None
        record.ledger.record_page(push, successor, a_page(push_id))
        return transaction(engine)

    monkeypatch.setattr("cloudpush.audit.ledger.transaction", held_up)

    claimed = record.ledger.claim_push(push_id, a_lease())

    assert (claimed, len(list(record.history.files(push_id)))) == (None, 2)


# -- an operator's change in between ---------------------------------------------------------------


def no_such_profile(_uri: str, _name: str) -> Destination:
    raise InputError(Code.BAD_INPUT, "profile 'lab' does not exist", field="profile")


def test_a_push_whose_profile_is_gone_fails_with_that_reason(record: Record) -> None:
    """It does not stay claimed by a worker that cannot even read it."""
    push_id = record.submitted()

    claimed = Ledger(record.app, no_such_profile).claim_push(push_id, a_lease())

    row = record.history.push(push_id)
    assert (claimed, row["state"], row["error_code"], row["error_message"]) == (
        None,
        "failed",
        "BAD_INPUT",
        "profile 'lab' does not exist",
    )


def test_a_part_whose_profile_is_gone_fails_with_that_reason(record: Record) -> None:
    """Likewise, and its push with it."""
    push = record.running()
    record.late(push.id)

    claimed = Ledger(record.app, no_such_profile).claim_part(push.id, 1, a_lease())

    row = record.history.push(push.id)
    assert (claimed, row["state"], row["error_code"], verify(record.app, push.id).faults) == (
        None,
        "failed",
        "BAD_INPUT",
        [],
    )


def test_a_large_page_is_stored_quickly_enough_to_be_one_transaction(record: Record) -> None:
    """Five thousand rows by COPY; awkward names come back as they were."""
    lease = a_lease()
    push = record.ledger.claim_push(record.submitted(), lease)
    assert push is not None
    page = a_page(push.id, files=5_000)
    odd = ["tab\there", "new\nline", "back\\slash", "\\N", "quote'\"", "ünïcödé", "\x01control", "100%"]
    rows = [*(a_file(i, name=name) for i, name in enumerate(odd, 1)), *page.rows[len(odd) :]]

    record.ledger.finish_plan_with(push, lease, replace(page, rows=tuple(rows)))

    assert list(record.ledger.open_files(page.part)) == rows


def test_failures_beyond_the_first_few_have_rows_but_no_events(record: Record) -> None:
    """A thousand refused files do not make a thousand events."""
    lease = a_lease()
    push = record.ledger.claim_push(record.submitted(), lease)
    assert push is not None
    record.ledger.finish_plan_with(push, lease, a_page(push.id, files=0, refusals=50))

    rows = list(record.history.files(push.id))
    assert (record.kinds(push.id).count("file.failed"), len(rows), {r["error_code"] for r in rows}) == (
        20,
        50,
        {"SOURCE_NOT_A_FILE"},
    )


def test_an_event_tells_the_providers_words_and_who_must_act(record: Record) -> None:
    """What an operator reads when asking why."""
    lease = a_lease(worker="host:1")
    push = record.ledger.claim_push(record.submitted(), lease)
    assert push is not None
    error = an_error(Code.PROVIDER_REFUSED)
    error.detail = "<Code>Odd</Code>"

    record.ledger.end_push(push, lease, replace(retry(12.3456), error=error))

    last = record.history.events(push.id)[-1]
    assert (last["kind"], last["actor"], last["data"]) == (
        "push.retry_scheduled",
        "host:1",
        {
            "code": "PROVIDER_REFUSED",
            "message": "The provider said PROVIDER_REFUSED.",
            "who_must_act": "user",
            "detail": "<Code>Odd</Code>",
            "retry_in_seconds": 12.346,
        },
    )


def test_a_credentials_use_is_found_by_the_credential(record: Record) -> None:
    """Which push, which part, which worker."""
    card = record.credential()
    lease = a_lease(worker="host:7")
    push = record.ledger.claim_push(record.submitted(a_request(), card), lease)
    assert push is not None
    record.ledger.finish_plan_with(push, lease, a_page(push.id))

    with record.app.connect() as c:
        used = c.execute(
            sa.text("SELECT stream, actor, data FROM event WHERE credential_id = :id AND kind = 'credential.used'"),
            {"id": card.id},
        ).one()

    assert tuple(used) == (push.id, "host:7", {"part": 1, "push": str(push.id), "worker": "host:7"})


def test_destinations_are_made_of_what_was_stored(record: Record) -> None:
    """URI and profile name, nothing else."""
    asked: list[tuple[str, str]] = []

    def remember(uri: str, name: str) -> Destination:
        asked.append((uri, name))
        return a_destination(uri)

    push_id: UUID = record.submitted(a_request(destination="s3://results/x"))
    Ledger(record.app, remember).claim_push(push_id, a_lease())

    assert asked == [("s3://results/x", "seaweedfs")]
