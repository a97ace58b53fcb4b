"""The contract of ``push.signed.ports.SheetStore``, and pushes that pause: the fake and Postgres pass the same suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from builders import (
    ORIGIN,
    a_lease,
    a_page,
    a_piece,
    cancelled,
    done,
    failed,
    failure,
    paused,
    retry,
    unverified,
    verified,
)
from cloudpush.errors import Cancelled, Code, CredentialError, LeaseLost
from cloudpush.push.job import Lease, Part, Push
from cloudpush.push.signed.model import SheetCard
from cloudpush.push.states import FileState, State, Strength
from fakes import FileStanding, Standing
from stores import Subject

# -- givens ------------------------------------------------------------------------------------


def claimed(subject: Subject, lease: Lease, *, hook: bool = False) -> Push:
    """A push with signed URLs that ``lease`` holds, not planned yet."""
    push = subject.store.claim_push(subject.submit_signed(hook=hook), lease)
    assert push is not None
    return push


def small(subject: Subject, lease: Lease, *, files: int = 2, hook: bool = False) -> tuple[Push, Part]:
    """A push that was planned into the one part that ``lease`` holds."""
    push = claimed(subject, lease, hook=hook)
    page = a_page(push.id, files=files)
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


def taken(subject: Subject, push: Push, number: int, lease: Lease) -> tuple[Push, Part]:
    """A part, claimed by ``lease``, with its push."""
    found = subject.store.claim_part(push.id, number, lease)
    assert found is not None
    return found


def waiting(subject: Subject, *, files: int = 2) -> Push:
    """A push whose only part waits for fresh URLs."""
    lease = a_lease()
    push, part = small(subject, lease, files=files)
    assert subject.store.end_part(push, part, lease, paused()) is State.AWAITING_CONSENT
    return push


def waiting_unplanned(subject: Subject) -> Push:
    """A push that waits for fresh URLs before it was planned."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.store.end_push(push, lease, paused())
    return push


# -- claiming ----------------------------------------------------------------------------------


def test_a_claimed_push_says_where_its_urls_lead_and_whom_to_ask(subject: Subject) -> None:
    """The origin is its set's, the hook the one that was registered."""
    push, hooked = claimed(subject, a_lease()), claimed(subject, a_lease(), hook=True)

    assert (push.endpoint, push.hook_id, hooked.endpoint, hooked.hook_id is None) == (ORIGIN, None, ORIGIN, False)


def test_a_push_is_claimed_with_the_set_that_was_handed_over_last(subject: Subject) -> None:
    """Both as a whole and by its parts; the origin stays that of the first."""
    push_id = subject.submit_signed()
    subject.resign(push_id)
    second = subject.resign(push_id)
    lease = a_lease()
    push = subject.store.claim_push(push_id, lease)
    assert push is not None
    subject.store.record_page(push, lease, a_page(push_id))
    subject.store.finish_plan(push, lease, parts=1, files=2, bytes_=20)
    third = subject.resign(push_id)

    part_push, _ = taken(subject, push, 1, a_lease())

    assert (push.credential_id, part_push.credential_id, part_push.endpoint) == (second, third, ORIGIN)


# -- pausing -----------------------------------------------------------------------------------


def test_a_part_that_waits_lets_its_push_wait(subject: Subject) -> None:
    """What is proved stays proved, the rest stays planned, nobody holds a lease."""
    lease = a_lease()
    push, part = small(subject, lease, files=3)
    subject.store.record_files(part, lease, [*verified([1]), failed(2, Code.URL_EXPIRED)])

    state = subject.store.end_part(push, part, lease, paused())

    assert (state, subject.files(push.id), subject.part_standing(push.id, 1)) == (
        State.AWAITING_CONSENT,
        [
            FileStanding(1, FileState.VERIFIED, "checksum"),
            FileStanding(2, FileState.PLANNED, "none", "URL_EXPIRED"),
            FileStanding(3, FileState.PLANNED),
        ],
        Standing(State.AWAITING_CONSENT, "URL_EXPIRED", 0, 1),
    )
    assert (subject.standing(push.id), subject.events(push.id)[-3:]) == (
        Standing(State.AWAITING_CONSENT, "URL_EXPIRED", 0, 1),
        ["file.failed", "part.paused", "push.awaiting_consent"],
    )
    assert subject.store.extend([lease.token], 30) == {}


def test_results_are_stored_with_the_pause(subject: Subject) -> None:
    """The last batch's come with the verdict."""
    lease = a_lease()
    push, part = small(subject, lease)

    subject.store.end_part(push, part, lease, paused(), [*verified([1]), failed(2, Code.URL_EXPIRED)])

    assert subject.files(push.id) == [
        FileStanding(1, FileState.VERIFIED, "checksum"),
        FileStanding(2, FileState.PLANNED, "none", "URL_EXPIRED"),
    ]


def test_a_push_waits_only_when_all_that_is_left_waits(subject: Subject) -> None:
    """While another part is queued or runs, the push runs."""
    push = large(subject, parts=3)
    states = []
    for number in (2, 1):
        lease = a_lease()
        states.append(subject.store.end_part(*taken(subject, push, number, lease), lease, paused()))
    lease = a_lease()
    third_push, third = taken(subject, push, 3, lease)

    states.append(subject.store.end_part(third_push, third, lease, done(), verified([5, 6])))

    assert (states, subject.standing(push.id), subject.events(push.id)[-2:]) == (
        [State.RUNNING, State.RUNNING, State.AWAITING_CONSENT],
        Standing(State.AWAITING_CONSENT, "URL_EXPIRED", 0, 1, "checksum", (2, 0, 0, 0)),
        ["part.finished", "push.awaiting_consent"],
    )


def test_a_push_with_a_failed_part_waits_for_what_its_waiting_part_needs(subject: Subject) -> None:
    """Its code is the one that somebody can act on now."""
    push = large(subject)
    for number, verdict in ((1, failure(Code.ACCESS_DENIED)), (2, paused(Code.UPLOAD_GONE))):
        lease = a_lease()
        subject.store.end_part(*taken(subject, push, number, lease), lease, verdict)

    assert subject.standing(push.id) == Standing(State.AWAITING_CONSENT, "UPLOAD_GONE", 0, 1, None, (0, 0, 0, 2))


def test_a_part_that_waits_is_nobodys(subject: Subject) -> None:
    """Time alone brings nothing back."""
    push = waiting(subject)
    subject.let_pass(10_000)

    assert (subject.store.claim_part(push.id, 1, a_lease()), subject.store.claim_push(push.id, a_lease())) == (
        None,
        None,
    )


def test_a_push_can_wait_before_it_is_planned(subject: Subject) -> None:
    """Its URLs ran out while it was queued."""
    push = waiting_unplanned(subject)
    subject.let_pass(10_000)

    assert (subject.standing(push.id), subject.events(push.id)[-1], subject.store.claim_push(push.id, a_lease())) == (
        Standing(State.AWAITING_CONSENT, "URL_EXPIRED", 0, 1),
        "push.awaiting_consent",
        None,
    )


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda s, p, part, old: s.store.end_part(p, part, old, paused()), id="pause"),
        pytest.param(lambda s, p, part, old: s.sets.record_pieces(part, old, [a_piece(1)]), id="record_pieces"),
        pytest.param(lambda s, p, part, old: s.sets.record_pieces(part, old, []), id="record_pieces, none"),
        pytest.param(lambda s, p, part, old: s.sets.forget_pieces(part, old, 1), id="forget_pieces"),
        pytest.param(lambda s, p, part, old: s.sets.add_session(p, part, old, 1, 60), id="add_session"),
        pytest.param(lambda s, p, part, old: s.sets.note_resign(p, part, old, 1, 1, "host", ""), id="note_resign"),
    ],
)
def test_a_worker_that_lost_a_part_writes_nothing(
    subject: Subject, write: Callable[[Subject, Push, Part, Lease], object]
) -> None:
    """Its successor holds another token: neither standing, pieces, sheets nor events change."""
    old, new = a_lease(seconds=30), a_lease()
    push, part = small(subject, old)
    subject.sets.record_pieces(part, old, [a_piece(1, 7)])
    subject.let_pass(31)
    taken(subject, push, 1, new)

    def all_of_it() -> tuple[object, ...]:
        standing = subject.standing(push.id), subject.part_standing(push.id, 1), subject.events(push.id)
        return standing, subject.sets.pieces(part), subject.sets.sheets(push, 1, None)

    before = all_of_it()
    with pytest.raises(LeaseLost):
        write(subject, push, part, old)

    assert all_of_it() == before


def test_planning_that_lost_its_lease_cannot_pause(subject: Subject) -> None:
    """Likewise for a push without parts."""
    old = a_lease(seconds=30)
    push = claimed(subject, old)
    subject.let_pass(31)
    subject.store.claim_push(push.id, a_lease())

    with pytest.raises(LeaseLost):
        subject.store.end_push(push, old, paused())

    assert subject.standing(push.id) == Standing(State.RUNNING, attempt=2)


# -- going on ----------------------------------------------------------------------------------


def test_fresh_urls_set_a_planned_push_going_where_it_stopped(subject: Subject) -> None:
    """The next attempt finds the files that are still to do, and counts no strike."""
    lease, next_lease = a_lease(), a_lease()
    push, part = small(subject, lease, files=3)
    subject.store.record_files(part, lease, [*verified([1]), failed(2, Code.URL_EXPIRED)])
    subject.store.end_part(push, part, lease, paused())
    fresh = subject.resign(push.id)
    resumed = subject.standing(push.id), subject.part_standing(push.id, 1), subject.events(push.id)[-2:]

    again_push, again = taken(subject, push, 1, next_lease)
    left = [f.path for f in subject.store.open_files(again)]
    state = subject.store.end_part(again_push, again, next_lease, done(), verified([2, 3]))

    assert resumed == (
        Standing(State.RUNNING, None, 0, 1),
        Standing(State.QUEUED, None, 0, 1),
        ["push.resigned", "push.resumed"],
    )
    assert (again_push.credential_id, again.attempt, again.strikes, left, state, subject.standing(push.id)) == (
        fresh,
        2,
        0,
        ["file-2", "file-3"],
        State.SUCCEEDED,
        Standing(State.SUCCEEDED, None, 0, 1, "checksum", (3, 0, 0, 0)),
    )


@pytest.mark.parametrize(("helped", "strikes"), [(True, 0), (False, 1)])
def test_what_failed_before_fresh_urls_came_counts_no_more(subject: Subject, *, helped: bool, strikes: int) -> None:
    """What was waited for is there. A cancellation is no help of this kind."""
    lease, second, third = a_lease(), a_lease(), a_lease()
    push, part = small(subject, lease)
    subject.store.end_part(push, part, lease, retry(0))
    subject.store.end_part(*taken(subject, push, 1, second), second, paused())
    if helped:
        subject.resign(push.id)
    else:
        subject.cancel(push.id)

    _, again = taken(subject, push, 1, third)

    assert again.strikes == strikes


def test_fresh_urls_queue_a_push_that_was_not_planned(subject: Subject) -> None:
    """It is planned with them."""
    push = waiting_unplanned(subject)
    fresh = subject.resign(push.id)
    resumed = subject.standing(push.id)

    again = subject.store.claim_push(push.id, a_lease())

    assert again is not None
    assert (resumed, again.credential_id, again.attempt) == (Standing(State.QUEUED, None, 0, 1), fresh, 2)


def test_fresh_urls_wake_the_parts_that_wait_although_others_run(subject: Subject) -> None:
    """The push was running all the time, and what runs is left alone."""
    push = large(subject)
    first, second = a_lease(), a_lease()
    subject.store.end_part(*taken(subject, push, 1, first), first, paused())
    taken(subject, push, 2, second)

    subject.resign(push.id)

    assert (subject.part_standing(push.id, 1), subject.part_standing(push.id, 2), subject.events(push.id)[-1]) == (
        Standing(State.QUEUED, None, 0, 1),
        Standing(State.RUNNING, None, 0, 1),
        "push.resumed",
    )


def test_fresh_urls_for_a_push_that_does_not_wait_change_nothing_but_its_set(subject: Subject) -> None:
    """They are there for the next attempt."""
    push_id = subject.submit_signed()

    fresh = subject.resign(push_id)

    push = subject.store.claim_push(push_id, a_lease())
    assert push is not None
    assert (push.credential_id, subject.events(push_id)) == (fresh, ["push.queued", "push.resigned", "push.claimed"])


def test_a_part_that_pauses_after_fresh_urls_came_is_queued_at_once(subject: Subject) -> None:
    """They came while it ran with the old ones: nobody would hand them over again."""
    lease = a_lease()
    push, part = small(subject, lease)
    fresh = subject.resign(push.id)

    state = subject.store.end_part(push, part, lease, paused())

    again_push, again = taken(subject, push, 1, a_lease())
    assert (state, again_push.credential_id, again.strikes, subject.events(push.id)[-2:]) == (
        State.RUNNING,
        fresh,
        0,
        ["part.retry_scheduled", "part.claimed"],
    )


def test_planning_that_pauses_after_fresh_urls_came_is_queued_at_once(subject: Subject) -> None:
    """Likewise."""
    lease = a_lease()
    push = claimed(subject, lease)
    fresh = subject.resign(push.id)

    subject.store.end_push(push, lease, paused())

    again = subject.store.claim_push(push.id, a_lease())
    assert again is not None
    assert (again.credential_id, again.strikes) == (fresh, 0)


def test_a_push_that_goes_on_keeps_what_a_part_ended_with(subject: Subject) -> None:
    """Only what it waited for has come."""
    push = large(subject)
    for number, verdict in ((1, failure(Code.ACCESS_DENIED)), (2, paused())):
        lease = a_lease()
        subject.store.end_part(*taken(subject, push, number, lease), lease, verdict)

    subject.resign(push.id)

    assert subject.standing(push.id) == Standing(State.RUNNING, "ACCESS_DENIED", 0, 1, None, (0, 0, 0, 2))


def test_a_push_that_goes_on_does_not_take_over_what_passes(subject: Subject) -> None:
    """A part that is queued for its next attempt has its own words."""
    push = large(subject)
    for number, verdict in ((1, paused()), (2, retry(60, Code.NETWORK))):
        lease = a_lease()
        subject.store.end_part(*taken(subject, push, number, lease), lease, verdict)

    subject.resign(push.id)

    assert (subject.standing(push.id), subject.part_standing(push.id, 2)) == (
        Standing(State.RUNNING, None, 0, 1),
        Standing(State.QUEUED, "NETWORK", 1, 1),
    )


def test_parts_that_wait_again_pause_again(subject: Subject) -> None:
    """The second set ran out as the first did."""
    push = waiting(subject)
    subject.resign(push.id)
    lease = a_lease()

    state = subject.store.end_part(*taken(subject, push, 1, lease), lease, paused())

    assert (state, subject.events(push.id).count("push.awaiting_consent")) == (State.AWAITING_CONSENT, 2)


def test_a_retry_is_no_pause(subject: Subject) -> None:
    """A part that is queued for later keeps its push running, although the other one waits."""
    push = large(subject)
    first, second = a_lease(), a_lease()
    subject.store.end_part(*taken(subject, push, 1, first), first, paused())

    state = subject.store.end_part(*taken(subject, push, 2, second), second, retry(60))

    assert (state, subject.standing(push.id).state) == (State.RUNNING, State.RUNNING)


def test_whoever_waits_for_too_long_is_tried_once_more(subject: Subject) -> None:
    """A worker then ends it; before its time nothing happens."""
    push, unplanned = waiting(subject), waiting_unplanned(subject)
    subject.let_pass(1)
    subject.release_impatient(3600)
    early = subject.standing(push.id).state, subject.standing(unplanned.id).state

    subject.release_impatient(0)

    assert (early, subject.standing(push.id).state, subject.standing(unplanned.id).state) == (
        (State.AWAITING_CONSENT, State.AWAITING_CONSENT),
        State.RUNNING,
        State.QUEUED,
    )
    lease = a_lease()
    assert subject.store.end_part(*taken(subject, push, 1, lease), lease, failure(Code.URL_EXPIRED)) is State.FAILED


# -- cancelling --------------------------------------------------------------------------------


def test_a_push_that_waits_is_cancelled_by_the_next_worker(subject: Subject) -> None:
    """Its part is due at once: uploads that were begun are to be aborted."""
    push = waiting(subject)

    state = subject.cancel(push.id)

    lease = a_lease()
    again_push, again = taken(subject, push, 1, lease)
    ended = subject.store.end_part(again_push, again, lease, cancelled())
    assert (state, again_push.cancelled, ended, subject.standing(push.id)) == (
        State.RUNNING,
        True,
        State.CANCELLED,
        Standing(State.CANCELLED, "CANCELLED", 0, 1),
    )


def test_a_push_that_waits_without_a_plan_is_cancelled_at_once(subject: Subject) -> None:
    """Nothing was begun."""
    push = waiting_unplanned(subject)

    assert (subject.cancel(push.id), subject.standing(push.id)) == (
        State.CANCELLED,
        Standing(State.CANCELLED, "CANCELLED", 0, 1),
    )


def test_a_part_that_pauses_after_the_cancel_is_due_at_once(subject: Subject) -> None:
    """A cancelled push waits for nobody."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.cancel(push.id)

    state = subject.store.end_part(push, part, lease, paused())

    assert (state, taken(subject, push, 1, a_lease())[0].cancelled) == (State.RUNNING, True)


def test_planning_that_pauses_after_the_cancel_is_due_at_once(subject: Subject) -> None:
    """Likewise."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.cancel(push.id)

    subject.store.end_push(push, lease, paused())

    again = subject.store.claim_push(push.id, a_lease())
    assert again is not None
    assert again.cancelled


# -- whether the URLs may be used ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expired"), [("active", True), ("purging", False), ("purged", False), ("purged", True)]
)
def test_urls_that_are_gone_are_refused_at_use(subject: Subject, state: str, *, expired: bool) -> None:
    """With the code that pauses; no use is recorded."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.change_set(push.credential_id, state, expired=expired)
    before = subject.events(push.id)

    with pytest.raises(CredentialError) as caught:
        subject.store.record_credential_use(push, part, lease)

    assert (caught.value.code, subject.events(push.id)) == (Code.URL_EXPIRED, before)


def test_urls_that_are_gone_are_no_obstacle_where_a_callback_gives_fresh_ones(subject: Subject) -> None:
    """The worker asks it, file by file: at the start and for every part."""
    lease = a_lease()
    push = claimed(subject, lease, hook=True)
    subject.change_set(push.credential_id, "purged", expired=True)
    page = a_page(push.id)

    subject.store.finish_plan_with(push, lease, page)
    subject.store.record_credential_use(push, page.part, lease)

    assert subject.events(push.id)[-3:] == ["push.planned", "credential.used", "credential.used"]


def test_a_small_push_with_urls_that_are_gone_is_not_planned(subject: Subject) -> None:
    """Nothing of the plan is stored, and it waits."""
    lease = a_lease()
    push = claimed(subject, lease)
    subject.change_set(push.credential_id, expired=True)

    with pytest.raises(CredentialError) as caught:
        subject.store.finish_plan_with(push, lease, a_page(push.id))
    subject.store.end_push(push, lease, paused())

    assert (caught.value.code, subject.files(push.id), subject.standing(push.id).state) == (
        Code.URL_EXPIRED,
        [],
        State.AWAITING_CONSENT,
    )


def test_it_is_the_newest_set_that_counts(subject: Subject) -> None:
    """The first one's end is no obstacle any more."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.change_set(push.credential_id, "purged", expired=True)
    subject.resign(push.id)

    subject.store.record_credential_use(push, part, lease)

    assert subject.events(push.id)[-1] == "credential.used"


def test_an_upload_under_way_needs_no_fresh_url(subject: Subject) -> None:
    """Its session outlives the URL that began it, as long as its file has no verdict."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.sets.add_session(push, part, lease, 2, 3600)
    subject.change_set(push.credential_id, expired=True)
    subject.store.record_credential_use(push, part, lease)
    subject.store.record_files(part, lease, verified([2]))

    with pytest.raises(CredentialError) as caught:
        subject.store.record_credential_use(push, part, lease)

    assert caught.value.code is Code.URL_EXPIRED


def test_tidying_up_is_a_use_whatever_became_of_the_push(subject: Subject) -> None:
    """Neither that it was cancelled nor that the URLs have expired keeps it out of the record."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.change_set(push.credential_id, expired=True)
    subject.cancel(push.id)

    subject.store.record_credential_use(push, part, lease, ending=True)

    assert subject.events(push.id)[-1] == "credential.used"


def test_a_cancelled_push_asks_for_no_urls(subject: Subject) -> None:
    """That it was cancelled comes first."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.change_set(push.credential_id, expired=True)
    subject.cancel(push.id)

    with pytest.raises(Cancelled):
        subject.store.record_credential_use(push, part, lease)


# -- sheets ------------------------------------------------------------------------------------

SHEETS = [
    SheetCard(1, 1, 500, 1, 2),
    SheetCard(2, 1, 500, 2, 2),
    SheetCard(3, 501, 1000),
    SheetCard(4, 1001, 1001),
]


@pytest.mark.parametrize(
    ("first", "last", "numbers"),
    [
        (1, None, [1, 2, 3, 4]),
        (1, 500, [1, 2]),
        (500, 501, [1, 2, 3]),
        (600, 700, [3]),
        (1001, 1001, [4]),
        (1000, None, [3, 4]),
        (1002, None, []),
    ],
)
def test_sheets_are_found_by_the_files_in_them(
    subject: Subject, first: int, last: int | None, numbers: list[int]
) -> None:
    """Every block of a sheet, in order of number."""
    push = claimed(subject, a_lease())
    subject.seal(push.credential_id, *reversed(SHEETS))

    set_id, cards = subject.sets.sheets(push, first, last)

    assert (set_id, list(cards)) == (push.credential_id, [card for card in SHEETS if card.number in numbers])


def test_sheets_are_the_newest_sets(subject: Subject) -> None:
    """Although the worker claimed the push with an older one."""
    push = claimed(subject, a_lease())
    subject.seal(push.credential_id, *SHEETS)
    fresh = subject.resign(push.id)
    subject.seal(fresh, SheetCard(1, 7, 7))

    assert subject.sets.sheets(push, 1, None) == (fresh, [SheetCard(1, 7, 7)])


@pytest.mark.parametrize("state", ["purging", "purged"])
def test_a_set_that_is_destroyed_has_no_sheets(subject: Subject, state: str) -> None:
    """From the moment on when it begins."""
    push = claimed(subject, a_lease())
    subject.seal(push.credential_id, *SHEETS)
    subject.change_set(push.credential_id, state)

    assert subject.sets.sheets(push, 1, None) == (push.credential_id, [])


# -- sessions ------------------------------------------------------------------------------------


def test_a_session_is_a_block_of_the_set_beside_its_sheets(subject: Subject) -> None:
    """The next numbers, one after the other."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.seal(push.credential_id, SheetCard(1, 1, 2))

    places = [subject.sets.add_session(push, part, lease, seq, 60) for seq in (2, 1)]

    assert (places, subject.sets.sheets(push, 2, 2)) == (
        [(push.credential_id, 2), (push.credential_id, 3)],
        (push.credential_id, [SheetCard(1, 1, 2), SheetCard(2, 2, 2, session=True)]),
    )


def test_a_set_lives_as_long_as_its_sessions(subject: Subject) -> None:
    """And not shorter than it would have lived: here one hour."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.sets.add_session(push, part, lease, 1, 60)
    short = subject.due_for_purge(push.credential_id, 3000), subject.due_for_purge(push.credential_id, 4000)

    subject.sets.add_session(push, part, lease, 1, 86_400)

    assert (short, subject.due_for_purge(push.credential_id, 86_000)) == ((False, True), False)


def test_of_several_sessions_of_a_file_the_newest_counts(subject: Subject) -> None:
    """In whatever set of the push they lie; those of files that have a verdict are over."""
    lease = a_lease()
    push, part = small(subject, lease, files=3)
    for seq in (1, 1, 2, 3):
        subject.sets.add_session(push, part, lease, seq, 60)
    fresh = subject.resign(push.id)
    subject.sets.add_session(push, part, lease, 2, 60)
    subject.store.record_files(part, lease, verified([3]))

    assert subject.sets.sessions(part) == [
        (push.credential_id, SheetCard(2, 1, 1, session=True)),
        (fresh, SheetCard(1, 2, 2, session=True)),
    ]


def test_sessions_of_a_set_that_is_destroyed_are_gone(subject: Subject) -> None:
    """Nothing opens them."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.sets.add_session(push, part, lease, 1, 60)
    subject.change_set(push.credential_id, "purging")

    assert subject.sets.sessions(part) == []


def test_a_session_whose_set_was_destroyed_finds_another_place(subject: Subject) -> None:
    """URLs of a callback are nobody's set: theirs is made, for the session alone, and ends with the push."""
    lease = a_lease()
    push, part = small(subject, lease, hook=True)
    subject.change_set(push.credential_id, "purged", expired=True)

    made, number = subject.sets.add_session(push, part, lease, 1, 60)
    again = subject.sets.add_session(push, part, lease, 2, 60)

    assert (made == push.credential_id, number, again, subject.events(push.id).count("push.resigned")) == (
        False,
        1,
        (made, 2),
        1,
    )
    assert [card for _, card in subject.sets.sessions(part)] == [
        SheetCard(1, 1, 1, session=True),
        SheetCard(2, 2, 2, session=True),
    ]
    subject.store.end_part(push, part, lease, done(), verified([1, 2]))
    assert subject.due_for_purge(made)


# -- pieces ------------------------------------------------------------------------------------


def test_pieces_come_back_as_they_were(subject: Subject) -> None:
    """In order of file and number, to whoever takes the part up."""
    first, second = a_lease(seconds=30), a_lease()
    push, part = small(subject, first)
    pieces = [
        a_piece(1, 1, crc64=2**64 - 1, md5=b"\x00\xff" * 8, upload="0123456789abcdef", proof=Strength.INGEST),
        a_piece(1, 2, crc64=0, etag=""),
        a_piece(2, 1, offset=2**40, size=2**33),
    ]
    subject.sets.record_pieces(part, first, pieces[::-1])
    subject.let_pass(31)

    _, again = taken(subject, push, 1, second)

    assert subject.sets.pieces(again) == pieces


def test_a_piece_that_is_known_is_replaced(subject: Subject) -> None:
    """The later one counts, also of two in one call."""
    lease = a_lease()
    _, part = small(subject, lease)
    subject.sets.record_pieces(part, lease, [a_piece(1), a_piece(2, etag="old"), a_piece(2, etag="new")])

    subject.sets.record_pieces(part, lease, [replace(a_piece(1), etag="again")])

    assert [(p.seq, p.etag) for p in subject.sets.pieces(part)] == [(1, "again"), (2, "new")]


def test_a_piece_with_an_etag_that_is_no_text_does_not_cost_the_others(subject: Subject) -> None:
    """A server may answer with anything."""
    lease = a_lease()
    _, part = small(subject, lease)

    subject.sets.record_pieces(part, lease, [a_piece(1, etag="a\0b"), a_piece(2, etag="\udcff"), a_piece(2, 2)])

    assert [(p.seq, p.number) for p in subject.sets.pieces(part)] == [(1, 1), (2, 1), (2, 2)]


def test_pieces_outlive_a_pause(subject: Subject) -> None:
    """The push goes on at the same piece."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.sets.record_pieces(part, lease, [a_piece(2, 3)])
    subject.store.end_part(push, part, lease, paused())
    subject.resign(push.id)

    _, again = taken(subject, push, 1, a_lease())

    assert subject.sets.pieces(again) == [a_piece(2, 3)]


def test_pieces_of_files_with_a_verdict_are_over(subject: Subject) -> None:
    """Nobody sends those again."""
    lease = a_lease()
    _, part = small(subject, lease)
    subject.sets.record_pieces(part, lease, [a_piece(1), a_piece(2)])

    subject.store.record_files(part, lease, verified([1]))

    assert subject.sets.pieces(part) == [a_piece(2)]


def test_pieces_of_other_parts_and_pushes_are_theirs(subject: Subject) -> None:
    """A part sees its own."""
    push, lease, other = large(subject), a_lease(), a_lease()
    _, first = taken(subject, push, 1, lease)
    _, second = taken(subject, push, 2, other)
    _, elsewhere = small(subject, a_lease())
    subject.sets.record_pieces(first, lease, [a_piece(1)])
    subject.sets.record_pieces(second, other, [a_piece(3)])

    assert (subject.sets.pieces(first), subject.sets.pieces(second), subject.sets.pieces(elsewhere)) == (
        [a_piece(1)],
        [a_piece(3)],
        [],
    )


def test_an_upload_that_is_gone_leaves_neither_pieces_nor_session(subject: Subject) -> None:
    """Of that file alone."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.sets.record_pieces(part, lease, [a_piece(1), a_piece(1, 2), a_piece(2)])
    for seq in (1, 2):
        subject.sets.add_session(push, part, lease, seq, 60)

    subject.sets.forget_pieces(part, lease, 1)

    left = [(push.credential_id, SheetCard(2, 2, 2, session=True))]
    assert (subject.sets.pieces(part), subject.sets.sessions(part)) == ([a_piece(2)], left)
    assert subject.sets.sheets(push, 1, None) == (push.credential_id, [left[0][1]])


# -- the end -------------------------------------------------------------------------------------


def end_with_parts(subject: Subject) -> tuple[UUID, Push]:
    lease = a_lease()
    push, part = small(subject, lease)
    fresh = subject.resign(push.id)
    subject.store.end_part(push, part, lease, done(), [*verified([1]), unverified(2)])
    return fresh, push


def end_before_planning(subject: Subject) -> tuple[UUID, Push]:
    lease = a_lease()
    push = claimed(subject, lease)
    fresh = subject.resign(push.id)
    subject.store.end_push(push, lease, failure(Code.SOURCE_MISSING))
    return fresh, push


def cancel_while_queued(subject: Subject) -> tuple[UUID, Push]:
    push = waiting_unplanned(subject)
    fresh = subject.resign(push.id)
    subject.cancel(push.id)
    return fresh, push


@pytest.mark.parametrize("end", [end_with_parts, end_before_planning, cancel_while_queued])
def test_whatever_ends_a_push_ends_its_sets(subject: Subject, end: Callable[[Subject], tuple[UUID, Push]]) -> None:
    """Every one of them is due for destruction from that moment on."""
    fresh, push = end(subject)

    assert (
        subject.standing(push.id).state.final,
        subject.due_for_purge(fresh),
        subject.due_for_purge(push.credential_id),
    ) == (True, True, True)


def test_a_pause_ends_no_set(subject: Subject) -> None:
    """What is left of it may be of use."""
    push = waiting(subject)

    assert subject.due_for_purge(push.credential_id) is False


def test_a_push_that_is_over_has_no_pieces(subject: Subject) -> None:
    """They were of use only until then."""
    lease = a_lease()
    push, part = small(subject, lease)
    subject.sets.record_pieces(part, lease, [a_piece(1), a_piece(2)])

    subject.store.end_part(push, part, lease, done(), verified([1]))

    # File 2, which was forgotten, has no verdict of its own.
    assert (subject.sets.pieces(part), subject.files(push.id)[1].state) == ([], FileState.PLANNED)


# -- the record -----------------------------------------------------------------------------------


def test_the_record_tells_that_a_callback_was_asked(subject: Subject) -> None:
    """And the whole story of a push that paused."""
    lease, next_lease = a_lease(), a_lease()
    push, part = small(subject, lease, hook=True)
    subject.sets.note_resign(push, part, lease, 2, 0, "portal.example", "it answered 503")
    subject.store.end_part(push, part, lease, paused())
    subject.resign(push.id)
    again_push, again = taken(subject, push, 1, next_lease)
    subject.store.record_credential_use(again_push, again, next_lease)

    subject.store.end_part(again_push, again, next_lease, done(), verified([1, 2]))

    assert subject.events(push.id) == [
        "push.queued",
        "push.claimed",
        "push.planned",
        "credential.used",
        "push.resign_asked",
        "part.paused",
        "push.awaiting_consent",
        "push.resigned",
        "push.resumed",
        "part.claimed",
        "credential.used",
        "part.finished",
        "push.succeeded",
    ]
