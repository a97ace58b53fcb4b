"""The contract of ``push.ports.Store`` about preflights of pushes and closing parts: the fake and Postgres pass the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from builders import a_lease, a_page, done, failed, failure, paused, retry, verified
from cloudpush.errors import Cancelled, Code, CredentialError, LeaseLost
from cloudpush.push.job import Lease, PlannedFile, Push
from cloudpush.push.packages import closing_page, unwritten
from cloudpush.push.preflight import Check, Report
from cloudpush.push.states import FileState, Package, State, Strength
from stores import Subject

PASSED = Report((Check("write", ok=True), Check("head", ok=True, strength="checksum")))
FAILED = Report((Check("write", ok=False, code=Code.WRONG_REGION, message="elsewhere"),))


def claimed(subject: Subject, lease: Lease, push_id: UUID | None = None) -> Push:
    push = subject.store.claim_push(push_id or subject.submit(), lease)
    assert push is not None
    return push


def tried(subject: Subject, report: Report) -> Push:
    push = claimed(subject, lease := a_lease())
    subject.store.begin_preflight(push, lease)
    subject.store.record_preflight(push, lease, report)
    return push


def packed(subject: Subject, parts: int = 2) -> Push:
    """A push of that many parts of two files and a closing one, all queued."""
    push = claimed(subject, lease := a_lease(), subject.submit(Package.BAGIT))
    for n in range(1, parts + 1):
        subject.store.record_page(push, lease, a_page(push.id, n, first=2 * n - 1))
    subject.store.record_page(push, lease, closing_page(push, parts + 1, 2 * parts + 1))
    subject.store.finish_plan(push, lease, parts=parts + 1, files=2 * parts + 4, bytes_=20 * parts)
    return push


def end(subject: Subject, push: Push, number: int, *, fails: bool = False) -> State:
    found = subject.store.claim_part(push.id, number, lease := a_lease())
    assert found is not None
    push, part = found
    results = [failed(part.first), *verified([part.last])] if fails else verified([part.first, part.last])
    return subject.store.end_part(push, part, lease, done(), results)


def made(push: Push, first: int) -> list[PlannedFile]:
    assert push.package is not None
    return [replace(f, size=7, mtime_ns=9) for f in unwritten(push.package, push.destination.prefix, first)]


# -- preflights ---------------------------------------------------------------------------------------


def test_pair_is_known_once_a_preflight_of_it_has_passed(subject: Subject) -> None:
    """Not after one that failed."""
    first = tried(subject, FAILED)
    second = tried(subject, PASSED)

    third = claimed(subject, a_lease())

    assert [push.unproved for push in (first, second, third)] == [True, True, False]


def test_preflight_of_a_push_is_told_with_the_use_of_its_credential(subject: Subject) -> None:
    """In the push's own stream, before anything else."""
    push = tried(subject, FAILED)

    assert subject.events(push.id) == ["push.queued", "push.claimed", "credential.used", "push.preflight"]


def test_preflight_needs_the_lease(subject: Subject) -> None:
    """Nothing is recorded by who has lost it."""
    push = claimed(subject, a_lease())

    calls: list[Callable[[], None]] = [
        lambda: subject.store.begin_preflight(push, a_lease()),
        lambda: subject.store.record_preflight(push, a_lease(), PASSED),
    ]
    for call in calls:
        with pytest.raises(LeaseLost):
            call()


def test_preflight_unseals_nothing_that_may_not_be_used(subject: Subject) -> None:
    """A credential that expired; a push that somebody stopped meanwhile."""
    push = claimed(subject, lease := a_lease())
    subject.credential(expired=True)
    with pytest.raises(CredentialError):
        subject.store.begin_preflight(push, lease)
    subject.credential()
    subject.cancel(push.id)
    with pytest.raises(Cancelled):
        subject.store.begin_preflight(push, lease)


# -- closing parts ------------------------------------------------------------------------------------


def test_closing_part_is_due_when_every_other_is_over(subject: Subject) -> None:
    """Not before: whoever tries to claim it earlier gets nothing."""
    push = packed(subject)
    seen: list[object] = []
    for n in (2, 1):
        seen += [subject.store.claim_part(push.id, 3, a_lease()), subject.store.closing_due(push.id)]
        seen.append(end(subject, push, n))

    found = subject.store.claim_part(push.id, 3, a_lease())

    assert seen == [None, None, State.RUNNING] * 2
    assert found is not None
    assert (found[1].closing, found[1].first, found[1].files, found[0].package) == (True, 5, 4, Package.BAGIT)


def test_closing_part_is_told_of_while_it_is_due(subject: Subject) -> None:
    """Until somebody claims it."""
    push = packed(subject, parts=1)
    end(subject, push, 1)

    before = subject.store.closing_due(push.id)
    subject.store.claim_part(push.id, 2, a_lease())

    assert (before, subject.store.closing_due(push.id)) == (2, None)


def test_what_arrived_is_read_in_order_and_without_the_closing_parts_own(subject: Subject) -> None:
    """With its state and digest."""
    push = packed(subject)
    end(subject, push, 1, fails=True)
    end(subject, push, 2)
    found = subject.store.claim_part(push.id, 3, lease := a_lease())
    assert found is not None
    subject.store.add_files(found[1], lease, made(push, 5))

    arrived = [(f.seq, f.path, f.size, f.state, f.sha256, f.code) for f in subject.store.arrived(found[1])]

    ok = (10, FileState.VERIFIED, bytes(32), "")
    assert arrived == [
        (1, "file-1", 10, FileState.FAILED, None, "ACCESS_DENIED"),
        *((n, f"file-{n}", *ok) for n in (2, 3, 4)),
    ]


def test_files_of_a_closing_part_are_added_once(subject: Subject) -> None:
    """And executed as any others; with them the push ends."""
    push = packed(subject, parts=1)
    end(subject, push, 1)
    found = subject.store.claim_part(push.id, 2, lease := a_lease())
    assert found is not None
    for _ in range(2):
        subject.store.add_files(found[1], lease, made(push, 3))
    files = subject.store.open_files(found[1])

    state = subject.store.end_part(*found, lease, done(), verified([3, 4, 5, 6]))

    assert ([(f.seq, f.size) for f in files], state) == ([(n, 7) for n in (3, 4, 5, 6)], State.SUCCEEDED)
    assert subject.standing(push.id).tally == (6, 0, 0, 0)
    with pytest.raises(LeaseLost):
        subject.store.add_files(found[1], lease, made(push, 3))


def test_files_that_were_never_made_have_their_verdict(subject: Subject) -> None:
    """Whatever kept the closing part from making them."""
    push = packed(subject, parts=1)
    end(subject, push, 1)
    found = subject.store.claim_part(push.id, 2, lease := a_lease())
    assert found is not None

    state = subject.store.end_part(*found, lease, failure(Code.PACKAGE_INCOMPLETE))

    assert (state, [f.code for f in subject.files(push.id)]) == (
        State.FAILED,
        [None, None, *["PACKAGE_INCOMPLETE"] * 4],
    )


def test_push_waits_for_its_user_though_its_closing_part_was_never_due(subject: Subject) -> None:
    """What waits for the others keeps nobody from seeing that the push is paused."""
    push = packed(subject)
    end(subject, push, 1)
    found = subject.store.claim_part(push.id, 2, lease := a_lease())
    assert found is not None

    state = subject.store.end_part(*found, lease, paused())

    assert (state, subject.standing(push.id).state) == (State.AWAITING_CONSENT, State.AWAITING_CONSENT)


def test_cancelled_push_lets_its_closing_part_end_at_once(subject: Subject) -> None:
    """It need not wait for the others any more."""
    push = packed(subject, parts=1)
    subject.cancel(push.id)

    found = subject.store.claim_part(push.id, 2, a_lease())

    assert found is not None
    assert found[0].cancelled


def test_closing_part_that_is_tried_again_waits_for_its_time(subject: Subject) -> None:
    """As any part."""
    push = packed(subject, parts=1)
    end(subject, push, 1)
    found = subject.store.claim_part(push.id, 2, lease := a_lease())
    assert found is not None
    subject.store.end_part(*found, lease, retry(60))

    early = (subject.store.claim_part(push.id, 2, a_lease()), subject.store.closing_due(push.id))
    subject.let_pass(61)

    assert (early, subject.store.closing_due(push.id)) == ((None, None), 2)
    assert Strength.CHECKSUM.word == subject.standing(push.id).strength
