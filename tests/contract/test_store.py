"""The contract of ``push.ports.Store``: the fake and Postgres pass the same suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from builders import (
    a_lease,
    a_page,
    a_push,
    an_error,
    cancelled,
    done,
    failed,
    failure,
    retry,
    skipped,
    unverified,
    verified,
)
from cloudpush.errors import Cancelled, Code, CredentialError, LeaseLost
from cloudpush.push.job import FileResult, Lease, Part, PlannedFile, Progress, Push
from cloudpush.push.ports import Store
from cloudpush.push.states import FileState, State, Strength, Wish
from fakes import FileStanding, Standing
from stores import Subject

# -- givens ------------------------------------------------------------------------------------


def claimed(subject: Subject, lease: Lease) -> Push:
    """A push that ``lease`` holds, not planned yet."""
    push = subject.store.claim_push(subject.submit(), lease)
    assert push is not None
    return push


def small(subject: Subject, lease: Lease, *, files: int = 2, refusals: int = 0) -> tuple[Push, Part]:
    """A push that was planned into the one part that ``lease`` holds."""
    push = claimed(subject, lease)
    page = a_page(push.id, files=files, refusals=refusals)
    subject.store.finish_plan_with(push, lease, page)
    return push, page.part


def large(subject: Subject, *, parts: int = 2) -> Push:
    """A push that was planned into ``parts`` parts of two files each, all queued."""
    lease = a_lease()
    push = claimed(subject, lease)
    for n in range(1, parts + 1):
        subject.store.record_page(push, lease, a_page(push.id, n, first=2 * n - 1))
    subject.store.finish_plan(push, lease, parts=parts, files=2 * parts, bytes_=20 * parts)
    return push


def part_of(subject: Subject, push: Push, number: int, lease: Lease) -> Part:
    """A part, claimed by ``lease``."""
    found = subject.store.claim_part(push.id, number, lease)
    assert found is not None
    return found[1]


def paths(files: Sequence[PlannedFile]) -> list[str]:
    return [f.path for f in files]


# -- claiming ----------------------------------------------------------------------------------


def test_a_claimed_push_is_as_it_was_asked_for(subject: Subject) -> None:
    """Everything that the request said reaches the worker."""
    push_id = subject.submit()

    push = subject.store.claim_push(push_id, a_lease())

    assert push is not None
    assert push == a_push(
        Path("/data/run"),
        id=push_id,
        credential_id=push.credential_id,
        created_at=push.created_at,
        attempt=1,
        unproved=True,
    )


def test_a_push_is_claimed_once_although_two_ask(subject: Subject) -> None:
    """A message that is delivered twice finds nothing to claim."""
    push_id = subject.submit()
    subject.store.claim_push(push_id, a_lease())

    second = subject.store.claim_push(push_id, a_lease())

    assert (second, subject.standing(push_id)) == (None, Standing(State.RUNNING, attempt=1))


def test_an_unknown_push_is_not_claimed(subject: Subject) -> None:
    """A message may be older than a database that was restored."""
    assert subject.store.claim_push(uuid4(), a_lease()) is None


def test_a_push_is_claimed_again_after_its_lease_ran_out(subject: Subject) -> None:
    """A worker that vanished holds nothing for ever."""
    push = claimed(subject, a_lease(seconds=30))
    subject.let_pass(31)

    again = subject.store.claim_push(push.id, a_lease())

    assert again is not None
    assert (again.attempt, subject.standing(push.id)) == (2, Standing(State.RUNNING, attempt=2))


def test_a_planned_push_is_not_claimed_as_a_whole(subject: Subject) -> None:
    """Once it is planned it is its parts that are claimed."""
    push = large(subject)
    subject.let_pass(1000)

    assert subject.store.claim_push(push.id, a_lease()) is None


def test_a_part_is_claimed_once_although_two_ask(subject: Subject) -> None:
    """Only the first gets it."""
    push = large(subject)
    part_of(subject, push, 1, a_lease())

    second = subject.store.claim_part(push.id, 1, a_lease())

    assert (second, subject.part_standing(push.id, 1)) == (None, Standing(State.RUNNING, attempt=1))


def test_a_part_is_claimed_with_its_push(subject: Subject) -> None:
    """The part says which files, the push says where to."""
    push = large(subject)

    found = subject.store.claim_part(push.id, 2, a_lease())

    assert found is not None
    assert (found[0].destination, found[1]) == (push.destination, Part(push.id, 2, 3, 4, 2, 20, attempt=1))


def test_the_only_part_belongs_to_the_one_who_planned_it(subject: Subject) -> None:
    """The fast path needs no second claim, and nobody else gets in between."""
    push, _ = small(subject, a_lease())

    second = subject.store.claim_part(push.id, 1, a_lease())

    assert (second, subject.part_standing(push.id, 1)) == (None, Standing(State.RUNNING, attempt=1))


def test_a_part_is_claimed_again_after_its_lease_ran_out(subject: Subject) -> None:
    """The next worker goes on with the files that have no verdict yet."""
    lease = a_lease(seconds=30)
    push, part = small(subject, lease, files=3)
    subject.store.record_files(part, lease, verified([1]))
    subject.let_pass(31)

    again = part_of(subject, push, 1, a_lease())

    assert (again.attempt, paths(subject.store.open_files(again))) == (2, ["file-2", "file-3"])


def test_a_part_of_an_unfinished_plan_is_not_claimed(subject: Subject) -> None:
    """Its push may be planned anew."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.store.record_page(push, lease, a_page(push.id))

    assert subject.store.claim_part(push.id, 1, a_lease()) is None


def test_a_part_that_is_over_is_not_claimed(subject: Subject) -> None:
    """What is finished is never repeated."""
    push = large(subject)
    lease = a_lease()
    part = part_of(subject, push, 1, lease)
    subject.store.record_files(part, lease, verified([1, 2]))
    subject.store.end_part(push, part, lease, done())
    subject.let_pass(1000)

    assert subject.store.claim_part(push.id, 1, a_lease()) is None


# -- a lost lease writes nothing ------------------------------------------------------------------


def before_and_after(subject: Subject, push: Push, act: Callable[[], object]) -> None:
    """``act`` raises LeaseLost and leaves no trace."""

    def all_of_it() -> tuple[object, ...]:
        return subject.standing(push.id), subject.files(push.id), subject.events(push.id)

    before = all_of_it()
    with pytest.raises(LeaseLost):
        act()
    assert all_of_it() == before


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda s, p, old: s.record_page(p, old, a_page(p.id)), id="record_page"),
        pytest.param(lambda s, p, old: s.finish_plan(p, old, parts=1, files=2, bytes_=20), id="finish_plan"),
        pytest.param(lambda s, p, old: s.finish_plan_with(p, old, a_page(p.id)), id="finish_plan_with"),
        pytest.param(lambda s, p, old: s.end_push(p, old, retry()), id="end_push, retry"),
        pytest.param(lambda s, p, old: s.end_push(p, old, failure()), id="end_push, failed"),
        pytest.param(lambda s, p, old: s.end_push(p, old, cancelled()), id="end_push, cancelled"),
    ],
)
def test_a_worker_that_lost_a_push_writes_nothing(
    subject: Subject, write: Callable[[Store, Push, Lease], object]
) -> None:
    """Its successor holds another token."""
    old = a_lease(seconds=30)
    push = claimed(subject, old)
    subject.let_pass(31)
    subject.store.claim_push(push.id, a_lease())

    before_and_after(subject, push, lambda: write(subject.store, push, old))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda s, p, part, old: s.record_credential_use(p, part, old), id="record_credential_use"),
        pytest.param(lambda s, p, part, old: s.record_files(part, old, verified([1])), id="record_files"),
        pytest.param(lambda s, p, part, old: s.end_part(p, part, old, done()), id="end_part, done"),
        pytest.param(lambda s, p, part, old: s.end_part(p, part, old, retry()), id="end_part, retry"),
        pytest.param(lambda s, p, part, old: s.end_part(p, part, old, failure()), id="end_part, failed"),
        pytest.param(lambda s, p, part, old: s.end_part(p, part, old, cancelled()), id="end_part, cancelled"),
    ],
)
def test_a_worker_that_lost_a_part_writes_nothing(
    subject: Subject, write: Callable[[Store, Push, Part, Lease], object]
) -> None:
    """Its successor holds another token."""
    old = a_lease(seconds=30)
    push, part = small(subject, old)
    subject.let_pass(31)
    part_of(subject, push, 1, a_lease())

    before_and_after(subject, push, lambda: write(subject.store, push, part, old))


def test_a_worker_cannot_write_to_a_part_that_it_gave_back(subject: Subject) -> None:
    """A scheduled retry ends the lease as well."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.store.end_part(push, part, lease, retry())

    before_and_after(subject, push, lambda: subject.store.record_files(part, lease, verified([1])))


# -- planning -----------------------------------------------------------------------------------


def test_planning_that_crashed_begins_anew(subject: Subject) -> None:
    """Pages of the first attempt are gone, so no file is there twice."""
    first, second = a_lease(seconds=30), a_lease()
    push = claimed(subject, first)
    subject.store.record_page(push, first, a_page(push.id, 1, files=3))
    subject.let_pass(31)
    again = subject.store.claim_push(push.id, second)
    assert again is not None

    subject.store.finish_plan_with(again, second, a_page(push.id, 1, files=1))

    assert subject.files(push.id) == [FileStanding(1, FileState.PLANNED)]


def test_a_refusal_is_a_failed_file_with_its_reason(subject: Subject) -> None:
    """It fails that file, not the others."""
    push, part = small(subject, a_lease(), files=1, refusals=1)

    assert (subject.files(push.id), paths(subject.store.open_files(part))) == (
        [FileStanding(1, FileState.PLANNED), FileStanding(2, FileState.FAILED, None, "SOURCE_NOT_A_FILE")],
        ["file-1"],
    )


def test_a_push_of_refusals_only_fails_with_their_reason(subject: Subject) -> None:
    """Nothing was uploaded, so nothing succeeded."""
    lease = a_lease()
    push, part = small(subject, lease, files=0, refusals=2)

    state = subject.store.end_part(push, part, lease, done())

    assert (state, subject.standing(push.id)) == (
        State.FAILED,
        Standing(State.FAILED, "SOURCE_NOT_A_FILE", 0, 1, None, (0, 0, 0, 2)),
    )


def test_planning_gives_the_pushs_own_lease_back(subject: Subject) -> None:
    """Its parts hold theirs: a planner that goes on can write nothing more."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.store.record_page(push, lease, a_page(push.id))
    subject.store.finish_plan(push, lease, parts=1, files=2, bytes_=20)

    before_and_after(subject, push, lambda: subject.store.end_push(push, lease, failure()))


# -- files ------------------------------------------------------------------------------------


def test_open_files_are_what_was_planned(subject: Subject) -> None:
    """Path, key, size and time come back as the walk found them."""
    lease = a_lease()
    push = claimed(subject, lease)
    page = a_page(push.id)
    subject.store.finish_plan_with(push, lease, page)

    assert list(subject.store.open_files(page.part)) == list(page.rows)


def test_files_of_other_parts_are_not_open(subject: Subject) -> None:
    """A part deals with its own."""
    push = large(subject)

    assert paths(subject.store.open_files(part_of(subject, push, 2, a_lease()))) == ["file-3", "file-4"]


def test_a_passing_failure_leaves_its_file_open(subject: Subject) -> None:
    """The next attempt takes it up; what has a verdict is left alone."""
    lease = a_lease()
    push, part = small(subject, lease, files=3)

    subject.store.record_files(part, lease, [*verified([1]), failed(2, Code.THROTTLED), failed(3, Code.ACCESS_DENIED)])

    assert (subject.files(push.id), paths(subject.store.open_files(part))) == (
        [
            FileStanding(1, FileState.VERIFIED, "checksum"),
            FileStanding(2, FileState.PLANNED, "none", "THROTTLED"),
            FileStanding(3, FileState.FAILED, "none", "ACCESS_DENIED"),
        ],
        ["file-2"],
    )


def test_recording_files_may_be_repeated(subject: Subject) -> None:
    """The first verdict stays."""
    lease = a_lease()
    push, part = small(subject, lease, files=1)
    subject.store.record_files(part, lease, verified([1]))

    subject.store.record_files(part, lease, [failed(1)])

    assert subject.files(push.id) == [FileStanding(1, FileState.VERIFIED, "checksum")]


def test_recording_nothing_writes_nothing(subject: Subject) -> None:
    """Not even an event."""
    lease = a_lease()
    push, part = small(subject, lease)
    before = subject.events(push.id)

    subject.store.record_files(part, lease, [])

    assert subject.events(push.id) == before


# -- verdicts -----------------------------------------------------------------------------------

VERDICTS = [
    pytest.param(verified([1, 2]), State.SUCCEEDED, None, "checksum", (2, 0, 0, 0), id="all proved"),
    pytest.param([*verified([1]), skipped(2)], State.SUCCEEDED, None, "checksum", (1, 1, 0, 0), id="one was there"),
    pytest.param([skipped(1), skipped(2)], State.SUCCEEDED, None, "checksum", (0, 2, 0, 0), id="all were there"),
    pytest.param(
        [*verified([1], Strength.REREAD), *verified([2], Strength.INGEST)],
        State.SUCCEEDED,
        None,
        "ingest",
        (2, 0, 0, 0),
        id="the weakest proof counts",
    ),
    pytest.param(
        [*verified([1]), unverified(2)], State.UNVERIFIED, "NOT_VERIFIED", "size", (1, 0, 1, 0), id="one unproved"
    ),
    pytest.param(
        [unverified(1), failed(2)], State.FAILED, "ACCESS_DENIED", "size", (0, 0, 1, 1), id="failed beats unverified"
    ),
    pytest.param([*verified([1]), failed(2)], State.FAILED, "ACCESS_DENIED", "checksum", (1, 0, 0, 1), id="one failed"),
    pytest.param([failed(1), failed(2)], State.FAILED, "ACCESS_DENIED", None, (0, 0, 0, 2), id="all failed"),
    pytest.param(verified([1]), State.FAILED, None, "checksum", (1, 0, 0, 1), id="one forgotten is no success"),
]


@pytest.mark.parametrize(("results", "state", "code", "strength", "tally"), VERDICTS)
def test_a_push_is_what_its_files_amount_to(
    subject: Subject,
    results: list[FileResult],
    state: State,
    code: str | None,
    strength: str | None,
    tally: tuple[int, int, int, int],
) -> None:
    """Failed beats unverified beats succeeded."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.store.record_files(part, lease, results)

    answer = subject.store.end_part(push, part, lease, done())

    assert (answer, subject.standing(push.id)) == (state, Standing(state, code, 0, 1, strength, tally))


def test_what_has_no_verdict_takes_that_of_its_part(subject: Subject) -> None:
    """A file that failed in passing before keeps its own words."""
    lease = a_lease()
    push, part = small(subject, lease, files=3)
    subject.store.record_files(part, lease, [*verified([1]), failed(2, Code.THROTTLED)])

    subject.store.end_part(push, part, lease, failure(Code.NO_SUCH_BUCKET))

    assert (subject.files(push.id), subject.part_standing(push.id, 1)) == (
        [
            FileStanding(1, FileState.VERIFIED, "checksum"),
            FileStanding(2, FileState.FAILED, "none", "THROTTLED"),
            FileStanding(3, FileState.FAILED, None, "NO_SUCH_BUCKET"),
        ],
        Standing(State.FAILED, "THROTTLED", 0, 1),
    )


def test_the_last_part_ends_the_push(subject: Subject) -> None:
    """Counted by the store: parts end in any order."""
    push = large(subject, parts=3)
    states = []

    for number in (2, 3, 1):
        lease = a_lease()
        part = part_of(subject, push, number, lease)
        subject.store.record_files(part, lease, verified([2 * number - 1, 2 * number]))
        states.append(subject.store.end_part(push, part, lease, done()))

    assert (states, subject.standing(push.id)) == (
        [State.RUNNING, State.RUNNING, State.SUCCEEDED],
        Standing(State.SUCCEEDED, None, 0, 1, "checksum", (6, 0, 0, 0)),
    )


def test_a_failed_push_says_why_it_failed(subject: Subject) -> None:
    """Not merely what an unverified part had said before."""
    push = large(subject)
    for number, results in ((1, [unverified(1), unverified(2)]), (2, [failed(3), *verified([4])])):
        lease = a_lease()
        part = part_of(subject, push, number, lease)
        subject.store.record_files(part, lease, results)
        subject.store.end_part(push, part, lease, done())

    assert subject.standing(push.id) == Standing(State.FAILED, "ACCESS_DENIED", 0, 1, "size", (1, 0, 2, 1))


def test_a_push_can_end_before_it_has_parts(subject: Subject) -> None:
    """A source that is not there, a bucket that cannot be named."""
    lease = a_lease()
    push = claimed(subject, lease)

    subject.store.end_push(push, lease, failure(Code.SOURCE_MISSING))

    assert (subject.standing(push.id), subject.events(push.id)) == (
        Standing(State.FAILED, "SOURCE_MISSING", 0, 1),
        ["push.queued", "push.claimed", "push.failed"],
    )


# -- retries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strike", "strikes"), [(True, 1), (False, 0)])
def test_a_push_is_retried_when_it_is_due(subject: Subject, *, strike: bool, strikes: int) -> None:
    """Not before; an outage is no strike."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.store.end_push(push, lease, retry(60, strike=strike))
    early = subject.store.claim_push(push.id, a_lease())
    subject.let_pass(61)

    late = subject.store.claim_push(push.id, a_lease())

    assert late is not None
    assert (early, late.attempt, late.strikes) == (None, 2, strikes)


@pytest.mark.parametrize(("strike", "strikes"), [(True, 1), (False, 0)])
def test_a_part_is_retried_when_it_is_due(subject: Subject, *, strike: bool, strikes: int) -> None:
    """Not before; an outage is no strike."""
    lease = a_lease()
    push, part = small(subject, lease)
    state = subject.store.end_part(push, part, lease, retry(60, strike=strike))
    early = subject.store.claim_part(push.id, 1, a_lease())
    subject.let_pass(61)

    late = part_of(subject, push, 1, a_lease())

    assert (state, early, late.attempt, late.strikes) == (State.RUNNING, None, 2, strikes)


def test_a_part_that_waits_says_for_what(subject: Subject) -> None:
    """The code of the last attempt is there to be read."""
    lease = a_lease()
    push, part = small(subject, lease)

    subject.store.end_part(push, part, lease, retry(code=Code.NETWORK))

    assert subject.part_standing(push.id, 1) == Standing(State.QUEUED, "NETWORK", 1, 1)


def test_a_retry_that_succeeds_leaves_no_error_behind(subject: Subject) -> None:
    """What was passing has passed."""
    first, second = a_lease(), a_lease()
    push, part = small(subject, first)
    subject.store.record_files(part, first, [*verified([1]), failed(2, Code.NETWORK)])
    subject.store.end_part(push, part, first, retry(0, Code.NETWORK))
    subject.let_pass(1)
    again = part_of(subject, push, 1, second)
    subject.store.record_files(again, second, verified([2]))

    subject.store.end_part(push, again, second, done())

    assert (subject.standing(push.id), subject.part_standing(push.id, 1)) == (
        Standing(State.SUCCEEDED, None, 0, 1, "checksum", (2, 0, 0, 0)),
        Standing(State.SUCCEEDED, None, 1, 2),
    )


# -- credentials --------------------------------------------------------------------------------


def test_each_use_of_a_credential_is_recorded(subject: Subject) -> None:
    """Before the secret is unsealed: by a part that is claimed, and with the plan of a small push."""
    lease = a_lease()
    push = large(subject)
    part = part_of(subject, push, 1, lease)

    subject.store.record_credential_use(push, part, lease)
    single, _ = small(subject, a_lease())

    assert (subject.events(push.id)[-1], subject.events(single.id)[-1]) == ("credential.used", "credential.used")


@pytest.mark.parametrize(
    ("state", "expired", "code"),
    [
        ("purging", False, Code.CREDENTIAL_PURGED),
        ("purged", False, Code.CREDENTIAL_PURGED),
        ("active", True, Code.CREDENTIAL_EXPIRED),
        ("purged", True, Code.CREDENTIAL_PURGED),
    ],
)
def test_a_credential_that_went_is_refused_at_use(subject: Subject, state: str, code: Code, *, expired: bool) -> None:
    """It was good when the push was submitted; no use is recorded."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.credential(state, expired=expired)
    before = subject.events(push.id)

    with pytest.raises(CredentialError) as caught:
        subject.store.record_credential_use(push, part, lease)

    assert (caught.value.code, subject.events(push.id)) == (code, before)


@pytest.mark.parametrize(("state", "code"), [("purged", Code.CREDENTIAL_PURGED), ("active", Code.CREDENTIAL_EXPIRED)])
def test_a_small_push_without_its_credential_is_not_planned(subject: Subject, state: str, code: Code) -> None:
    """Nothing of the plan is stored, and the push can end with the reason."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.credential(state, expired=state == "active")

    with pytest.raises(CredentialError) as caught:
        subject.store.finish_plan_with(push, lease, a_page(push.id))
    subject.store.end_push(push, lease, failure(code))

    assert (caught.value.code, subject.files(push.id), subject.standing(push.id)) == (
        code,
        [],
        Standing(State.FAILED, code.value, 0, 1),
    )


def test_a_small_push_that_is_cancelled_is_not_planned(subject: Subject) -> None:
    """It ends before it has a part."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.cancel(push.id)

    with pytest.raises(Cancelled):
        subject.store.finish_plan_with(push, lease, a_page(push.id))

    assert subject.files(push.id) == []


def test_a_cancelled_push_uses_no_credential(subject: Subject) -> None:
    """A part that begins after the cancel ends before it touches a secret."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.cancel(push.id)

    with pytest.raises(Cancelled):
        subject.store.record_credential_use(push, part, lease)


# -- cancelling ---------------------------------------------------------------------------------


def test_a_queued_push_is_cancelled_at_once(subject: Subject) -> None:
    """Nobody has to be told."""
    push_id = subject.submit()

    state = subject.cancel(push_id)

    assert (state, subject.standing(push_id), subject.store.claim_push(push_id, a_lease())) == (
        State.CANCELLED,
        Standing(State.CANCELLED, "CANCELLED"),
        None,
    )


def test_a_push_that_waits_for_its_retry_is_cancelled_at_once(subject: Subject) -> None:
    """Nothing was planned, nothing is left to do."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.store.end_push(push, lease, retry(3600))

    assert (subject.cancel(push.id), subject.standing(push.id)) == (
        State.CANCELLED,
        Standing(State.CANCELLED, "CANCELLED", 1, 1),
    )


def test_a_push_that_is_planned_hears_of_it(subject: Subject) -> None:
    """Its planner is told by the heartbeat and ends it."""
    lease = a_lease()
    push = claimed(subject, lease)
    state = subject.cancel(push.id)
    told = subject.store.extend([lease.token], 30)

    subject.store.end_push(push, lease, cancelled())

    assert (state, dict(told), subject.standing(push.id)) == (
        State.RUNNING,
        {lease.token: Wish.CANCEL},
        Standing(State.CANCELLED, "CANCELLED", 0, 1),
    )


def test_a_push_that_is_claimed_after_the_cancel_knows(subject: Subject) -> None:
    """Its first worker vanished before it heard."""
    push = claimed(subject, a_lease(seconds=30))
    subject.cancel(push.id)
    subject.let_pass(31)

    again = subject.store.claim_push(push.id, a_lease())

    assert again is not None
    assert again.cancelled


def test_cancelling_in_the_middle_keeps_what_is_proved(subject: Subject) -> None:
    """The push is cancelled, its finished files are verified all the same."""
    lease = a_lease()
    push, part = small(subject, lease, files=3)
    subject.store.record_files(part, lease, [*verified([1]), failed(2, Code.THROTTLED)])
    subject.cancel(push.id)

    state = subject.store.end_part(push, part, lease, cancelled())

    assert (state, subject.files(push.id), subject.standing(push.id)) == (
        State.CANCELLED,
        [
            FileStanding(1, FileState.VERIFIED, "checksum"),
            FileStanding(2, FileState.CANCELLED, "none", "CANCELLED"),
            FileStanding(3, FileState.CANCELLED, None, "CANCELLED"),
        ],
        Standing(State.CANCELLED, "CANCELLED", 0, 1, "checksum", (1, 0, 0, 0)),
    )


def test_parts_that_wait_are_due_at_once_when_cancelled(subject: Subject) -> None:
    """An hour of back-off does not keep a cancelled push alive."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.store.end_part(push, part, lease, retry(3600))

    subject.cancel(push.id)

    assert subject.store.claim_part(push.id, 1, a_lease()) is not None


def test_an_attempt_that_fails_after_the_cancel_is_due_at_once(subject: Subject) -> None:
    """The failure came first to the worker, the cancel first to the store."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.cancel(push.id)

    subject.store.end_part(push, part, lease, retry(3600))

    assert subject.store.claim_part(push.id, 1, a_lease()) is not None


def test_planning_that_fails_after_the_cancel_is_due_at_once(subject: Subject) -> None:
    """Likewise for a push without parts."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.cancel(push.id)

    subject.store.end_push(push, lease, retry(3600))

    assert subject.store.claim_push(push.id, a_lease()) is not None


def test_one_cancelled_part_cancels_the_push(subject: Subject) -> None:
    """Although the other had ended well, and a file in it had failed."""
    push = large(subject)
    leases = [a_lease(), a_lease()]
    first, second = (part_of(subject, push, n, leases[n - 1]) for n in (1, 2))
    subject.store.record_files(first, leases[0], [*verified([1]), failed(2)])
    subject.store.end_part(push, first, leases[0], done())
    subject.cancel(push.id)

    subject.store.end_part(push, second, leases[1], cancelled())

    assert subject.standing(push.id) == Standing(State.CANCELLED, "CANCELLED", 0, 1, "checksum", (1, 0, 0, 1))


def test_a_cancel_that_comes_too_late_changes_nothing(subject: Subject) -> None:
    """What is over stays what it is."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.store.record_files(part, lease, verified([1, 2]))
    subject.store.end_part(push, part, lease, done())
    before = subject.events(push.id)

    assert (subject.cancel(push.id), subject.events(push.id)) == (State.SUCCEEDED, before)


def test_a_cancel_may_be_repeated(subject: Subject) -> None:
    """It is recorded once."""
    push, _ = small(subject, a_lease())

    states = [subject.cancel(push.id), subject.cancel(push.id)]

    assert (states, subject.events(push.id).count("push.cancel_requested")) == ([State.RUNNING, State.RUNNING], 1)


def test_a_part_that_was_done_when_the_cancel_came_succeeds(subject: Subject) -> None:
    """Every file is there and proved: nothing was left to cancel."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.store.record_files(part, lease, verified([1, 2]))
    subject.cancel(push.id)

    assert subject.store.end_part(push, part, lease, cancelled()) is State.SUCCEEDED


# -- the heartbeat ------------------------------------------------------------------------------


def test_an_extended_lease_lasts(subject: Subject) -> None:
    """Both of a push that is planned and of a part."""
    planning, executing = a_lease(seconds=30), a_lease(seconds=30)
    push = claimed(subject, planning)
    other, _ = small(subject, executing)
    subject.store.extend([planning.token, executing.token], 300)
    subject.let_pass(31)

    assert (
        subject.store.claim_push(push.id, a_lease()),
        subject.store.claim_part(other.id, 1, a_lease()),
    ) == (None, None)


def test_the_heartbeat_tells_lost_and_cancelled_leases(subject: Subject) -> None:
    """A token that is missing in the answer has lost its lease."""
    good, stopped, lost = a_lease(), a_lease(), a_lease(seconds=30)
    small(subject, good)
    push, _ = small(subject, stopped)
    subject.cancel(push.id)
    taken, _ = small(subject, lost)
    subject.store.extend([good.token, stopped.token], 300)
    subject.let_pass(31)
    part_of(subject, taken, 1, a_lease())

    answer = subject.store.extend([good.token, stopped.token, lost.token, uuid4()], 30)

    assert dict(answer) == {good.token: Wish.GO_ON, stopped.token: Wish.CANCEL}


def test_a_lease_that_ran_out_but_was_not_taken_can_be_extended(subject: Subject) -> None:
    """Nobody was harmed: the worker was only slow."""
    lease = a_lease(seconds=30)
    small(subject, lease)
    subject.let_pass(31)

    assert dict(subject.store.extend([lease.token], 30)) == {lease.token: Wish.GO_ON}


def test_progress_of_a_lost_lease_is_passed_over(subject: Subject) -> None:
    """Best effort: it raises nothing."""
    lease = a_lease()
    push, _ = small(subject, lease)

    subject.store.note_progress({lease.token: Progress(5, 1, 2.5, 3.0), uuid4(): Progress(9, 9)})
    subject.store.note_progress({})

    assert subject.part_standing(push.id, 1) == Standing(State.RUNNING, attempt=1)


# -- the record ---------------------------------------------------------------------------------


def test_the_record_tells_the_whole_story(subject: Subject) -> None:
    """One event for each step, in order."""
    first, second = a_lease(), a_lease()
    push, part = small(subject, first, refusals=1)
    subject.store.record_files(part, first, [*verified([1]), failed(2, Code.NETWORK)])
    subject.store.end_part(push, part, first, retry(0))
    subject.let_pass(1)
    again = part_of(subject, push, 1, second)
    subject.store.record_credential_use(push, again, second)
    subject.store.record_files(again, second, verified([2]))

    subject.store.end_part(push, again, second, done())

    assert subject.events(push.id) == [
        "push.queued",
        "push.claimed",
        "push.planned",
        "file.failed",
        "credential.used",
        "file.failed",
        "part.retry_scheduled",
        "part.claimed",
        "credential.used",
        "part.finished",
        "push.failed",
    ]


def test_words_that_no_database_stores_are_kept_as_well_as_can_be(subject: Subject) -> None:
    """A provider may answer with NUL and with bytes that are no text."""
    lease = a_lease()
    push, part = small(subject, lease, files=1)
    error = an_error(Code.PROVIDER_REFUSED)
    error.message, error.detail = "nul \0 and \udcff", "detail \0 \ud800"

    subject.store.record_files(part, lease, [FileResult(1, FileState.FAILED, etag="\udcff\0", error=error)])
    subject.store.end_part(push, part, lease, done())

    assert subject.standing(push.id) == Standing(State.FAILED, "PROVIDER_REFUSED", 0, 1, None, (0, 0, 0, 1))
