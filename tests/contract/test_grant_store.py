"""The contract of ``push.grants.ports.GrantStore``: the fake and Postgres pass the same suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from builders import OWNER, a_lease, a_page, an_error, paused, retry
from cloudpush.errors import CloudPushError, Code, ConsentRevoked, CredentialError, InputError, StoreError, VaultError
from cloudpush.push.grants.model import WEB_IDENTITY, Chore, Grant, GrantState
from cloudpush.push.states import State, Wish
from grant_builders import SCOPE, a_grant, a_share, its_credential, some_tokens
from grant_stores import GrantSubject, begun, connected, half_waiting, nobody, seen, shared, waiting

WORKER = "worker-1"


def needs_reconnect(grants: GrantSubject, **changes: object) -> Grant:
    """A grant whose refresh token is dead."""
    grant = connected(grants, **changes)
    grants.store.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), WORKER)
    return seen(grants, grant)


def refreshed(grants: GrantSubject, grant: Grant) -> Grant:
    """The next generation."""
    _, number = grants.store.start_refresh(grant, WORKER)
    grants.store.finish_refresh(grant, number, 1, some_tokens(grants.now()), WORKER)
    return seen(grants, grant)


def chores(grants: GrantSubject, grant: Grant) -> list[Chore]:
    """What is due for it."""
    return list(grants.store.due_chores(grant.id))


def reconnected(grants: GrantSubject, grant: Grant) -> int:
    """The same account consented anew; how many pushes go on."""
    number = grants.store.reserve(grant.id)
    return grants.store.reconnect(grant.id, number, 1, some_tokens(grants.now()), (SCOPE,), grant.owner)


# -- consent -------------------------------------------------------------------------------------


def test_an_attempt_is_taken_once(grants: GrantSubject) -> None:
    """A callback that is replayed finds nothing."""
    attempt = begun(grants)

    taken = [grants.store.take(attempt.id, attempt.session) for _ in range(2)]

    assert taken == [attempt, None]


def test_an_attempt_is_taken_by_the_session_that_began_it(grants: GrantSubject) -> None:
    """A code that was stolen is of no use in another browser, and does not use the attempt up."""
    attempt = begun(grants)

    stolen = grants.store.take(attempt.id, b"\1" * 32)

    assert (stolen, grants.store.take(attempt.id, attempt.session)) == (None, attempt)


def test_an_attempt_ends_after_ten_minutes(grants: GrantSubject) -> None:
    """Whoever comes back later begins anew."""
    attempt = begun(grants)
    grants.let_pass(601)

    assert grants.store.take(attempt.id, attempt.session) is None


def test_an_attempt_that_nobody_began_is_not_taken(grants: GrantSubject) -> None:
    """A state that was made up."""
    assert grants.store.take(nobody(), bytes(32)) is None


def test_how_an_attempt_ended_is_told_to_its_session_only(grants: GrantSubject) -> None:
    """The page that the browser comes back to."""
    attempt = begun(grants)
    grants.store.take(attempt.id, attempt.session)
    grants.store.end_attempt(attempt, "CONSENT_FAILED", "You said no.")

    told = grants.store.attempt(attempt.id, attempt.session)

    assert told is not None
    assert (told.attempt.id, told.outcome, told.message, told.used_at is None) == (
        attempt.id,
        "CONSENT_FAILED",
        "You said no.",
        False,
    )
    assert grants.store.attempt(attempt.id, b"\1" * 32) is None


def test_a_refusal_is_on_record_under_the_attempt(grants: GrantSubject) -> None:
    """There is no grant that it could be told of."""
    attempt = begun(grants)

    grants.store.end_attempt(attempt, "SCOPE_TOO_NARROW", "Too little.")

    assert grants.events(attempt.id) == ["grant.refused"]


def test_a_new_grant_is_used_once_its_tokens_are_sealed(grants: GrantSubject) -> None:
    """Row first, secret then: asked, granted, and everything about it is kept."""
    attempt = begun(grants, settings={"account": "labresults"})
    grant = a_grant(settings={"account": "labresults"}, access_expires_at=grants.now() + timedelta(hours=1))
    grants.store.add(its_credential(grant, grants.now()), grant, attempt, "ada")
    before = seen(grants, grant)

    grants.store.activate(grant.id, 3, "ada")

    after = seen(grants, grant)
    assert (before.credential_state, before.granted_at) == ("sealing", None)
    assert after.granted_at is not None
    assert after == replace(grant, credential_state="active", created_at=after.created_at, granted_at=after.granted_at)
    assert grants.sealed(grant.id) == {1: 3}
    assert grants.events(grant.id) == ["grant.asked", "credential.sealing", "credential.created", "grant.granted"]


def test_a_grant_without_tokens_has_no_block(grants: GrantSubject) -> None:
    """A role that trusts us: nothing is stored."""
    grant = connected(grants, kind=WEB_IDENTITY, generation=0)

    assert (grant.credential_state, grant.generation, grants.sealed(grant.id)) == ("active", 0, {})


def test_two_live_grants_of_an_owner_have_different_names(grants: GrantSubject) -> None:
    """Pipelines name them."""
    first = connected(grants)
    second = a_grant(name=first.name)

    with pytest.raises(InputError) as caught:
        grants.store.add(its_credential(second, grants.now()), second, None, "ada")

    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "name")


def test_a_grant_that_was_given_up_meanwhile_is_not_activated(grants: GrantSubject) -> None:
    """The sweep was quicker."""
    grant = a_grant()
    grants.store.add(its_credential(grant, grants.now()), grant, None, "ada")
    grants.credential_state(grant.id, "purging")

    with pytest.raises(CredentialError):
        grants.store.activate(grant.id, 1, "ada")


def test_grants_are_listed_by_owner(grants: GrantSubject) -> None:
    """Newest first; one that is being connected is not there yet, one that was revoked on demand."""
    owner = f"owner-{nobody()}"
    first, second, third = (connected(grants, owner=owner) for _ in range(3))
    unfinished = a_grant(owner=owner)
    grants.store.add(its_credential(unfinished, grants.now()), unfinished, None, owner)
    grants.store.revoke(second.id, owner)
    grants.store.end_revocation(second.id, True, None, WORKER)

    found = [g.id for g in grants.store.find(owner)]
    everything = {g.id for g in grants.store.find(owner, ended=True)}

    assert set(found) == {first.id, third.id}
    assert everything == {first.id, second.id, third.id, unfinished.id}
    assert {first.id, third.id} <= {g.id for g in grants.store.find(None)}
    assert grants.store.get(nobody()) is None


# -- keeping it alive ------------------------------------------------------------------------------


def test_a_refresh_is_written_ahead(grants: GrantSubject) -> None:
    """Before anything is spent the record says so, and where the tokens will be."""
    grant = connected(grants)

    marker, number = grants.store.start_refresh(grant, WORKER)

    now = seen(grants, grant)
    assert (marker, number, now.pending, now.generation) == (2, 3, 3, 1)
    assert now.pending_at is not None
    assert grants.sealed(grant.id) == {1: 1, 2: None, 3: None}
    assert grants.events(grant.id)[-1] == "grant.refreshing"


def test_a_refresh_makes_a_further_generation(grants: GrantSubject) -> None:
    """Nothing is under way any more, and trouble is forgotten."""
    grant = connected(grants)
    grants.store.fail_refresh(grant, an_error(Code.PROVIDER_UNAVAILABLE), WORKER)
    _, number = grants.store.start_refresh(grant, WORKER)
    tokens = some_tokens(grants.now())

    grants.store.finish_refresh(grant, number, 7, tokens, WORKER)

    now = seen(grants, grant)
    assert (now.generation, now.access_expires_at, now.pending_at, now.pending, now.trouble_code) == (
        3,
        tokens.expires_at,
        None,
        0,
        "",
    )
    assert now.refreshed_at is not None
    assert grants.sealed(grant.id) == {1: 1, 2: 7, 3: 7}
    assert grants.events(grant.id)[-1] == "grant.refreshed"


def test_a_refresh_that_ends_twice_ends_once(grants: GrantSubject) -> None:
    """Its answer was lost, and it says it again."""
    grant = connected(grants)
    _, number = grants.store.start_refresh(grant, WORKER)

    for _ in range(2):
        grants.store.finish_refresh(grant, number, 1, some_tokens(grants.now()), WORKER)

    assert grants.events(grant.id).count("grant.refreshed") == 1


def test_a_refresh_that_comes_after_a_reconnect_takes_nothing_back(grants: GrantSubject) -> None:
    """The later generation stays."""
    grant = connected(grants)
    _, number = grants.store.start_refresh(grant, WORKER)
    reconnected(grants, grant)

    grants.store.finish_refresh(grant, number, 1, some_tokens(grants.now()), WORKER)

    assert (seen(grants, grant).generation, grants.sealed(grant.id)[number]) == (4, 1)


def test_a_refresh_that_fails_in_passing_leaves_the_grant_as_it_is(grants: GrantSubject) -> None:
    """What happened is shown, and nothing is under way."""
    grant = connected(grants)
    grants.store.start_refresh(grant, WORKER)

    grants.store.fail_refresh(grant, an_error(Code.PROVIDER_UNAVAILABLE), WORKER)

    now = seen(grants, grant)
    assert (now.state, now.trouble_code, now.pending_at) == (GrantState.ACTIVE, "PROVIDER_UNAVAILABLE", None)
    assert chores(grants, grant) == []
    assert grants.events(grant.id)[-1] == "grant.refresh_failed"


def test_a_refresh_whose_tokens_may_be_sealed_is_still_under_way(grants: GrantSubject) -> None:
    """Vault did not answer: whoever comes next looks for the block."""
    grant = connected(grants)
    _, number = grants.store.start_refresh(grant, WORKER)

    grants.store.fail_refresh(grant, VaultError(Code.VAULT_UNREACHABLE, "No answer."), WORKER)

    now = seen(grants, grant)
    assert (now.pending, now.pending_at is None, now.trouble_code) == (number, False, "VAULT_UNREACHABLE")


def test_a_dead_refresh_token_needs_its_user(grants: GrantSubject) -> None:
    """The webhook is due, and nothing can be opened or refreshed until then."""
    grant = needs_reconnect(grants)

    assert (grant.state, grant.trouble_code) == (GrantState.RECONNECT, "CONSENT_NEEDED")
    assert chores(grants, grant) == [Chore.NOTIFY]
    assert grants.events(grant.id)[-2:] == ["grant.refresh_failed", "grant.reconnect_needed"]
    for use in (grants.store.note_opened, grants.store.start_refresh):
        with pytest.raises(CredentialError) as caught:
            use(grant, WORKER)
        assert caught.value.code is Code.CONSENT_NEEDED


def test_a_refresh_that_failed_before_somebody_reconnected_changes_nothing(grants: GrantSubject) -> None:
    """The token that was refused is not the current one any more."""
    grant = connected(grants)
    reconnected(grants, grant)

    grants.store.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), WORKER)

    now = seen(grants, grant)
    assert (now.state, now.trouble_code, chores(grants, grant)) == (GrantState.ACTIVE, "", [])


def test_a_grant_whose_tokens_the_storage_refuses_needs_its_user(grants: GrantSubject) -> None:
    """A refresh that is under way goes on, and its tokens do not make it well."""
    grant = connected(grants)
    _, number = grants.store.start_refresh(grant, WORKER)

    grants.store.need_reconnect(grant, an_error(Code.CONSENT_NEEDED), WORKER)

    during = seen(grants, grant)
    told = (grants.events(grant.id)[-1], chores(grants, grant), superseded(grants, grant))
    grants.store.finish_refresh(grant, number, 1, some_tokens(grants.now()), WORKER)
    grants.store.need_reconnect(grant, an_error(Code.CONSENT_NEEDED), WORKER)
    after = seen(grants, grant)
    assert (during.state, during.trouble_code, during.pending) == (GrantState.RECONNECT, "CONSENT_NEEDED", number)
    assert told == ("grant.reconnect_needed", [Chore.NOTIFY], [])
    assert (after.state, after.trouble_code, after.generation, after.pending) == (
        GrantState.RECONNECT,
        "CONSENT_NEEDED",
        number,
        0,
    )
    assert grants.events(grant.id).count("grant.reconnect_needed") == 1


def test_a_refresh_in_between_does_not_hide_what_was_begun(grants: GrantSubject) -> None:
    """A reconnect that came to nothing reserved a later block: the one to look for is still the refresh's."""
    grant = connected(grants)
    _, number = grants.store.start_refresh(grant, WORKER)

    grants.store.reserve(grant.id)

    assert seen(grants, grant).pending == number


def test_what_opens_a_grant_is_on_record(grants: GrantSubject) -> None:
    """Each decryption."""
    grant = connected(grants)

    grants.store.note_opened(grant, WORKER)

    assert grants.events(grant.id)[-1] == "grant.opened"


def test_one_refresher_at_a_time(grants: GrantSubject) -> None:
    """Who waits for too long is told; another grant has another lock; what was left can be taken."""
    grant, other = connected(grants), connected(grants)

    with (
        grants.store.lock(grant.id, 5),
        grants.store.lock(other.id, 5),
        pytest.raises(StoreError) as caught,
        grants.store.lock(grant.id, 0.05),
    ):
        pass
    with grants.store.lock(grant.id, 5):
        pass

    assert caught.value.code is Code.DATABASE_UNREACHABLE


# -- reconnecting ------------------------------------------------------------------------------------


def test_a_reconnect_lets_what_waited_go_on(grants: GrantSubject) -> None:
    """One click: the grant is active, trouble forgotten, nobody is to be told any more."""
    grant = needs_reconnect(grants)
    unplanned, planned = waiting(grants, grant), half_waiting(grants, grant)
    found = set(grants.store.waiting(grant.id))

    resumed = reconnected(grants, grant)

    now = seen(grants, grant)
    assert (found, resumed, grants.store.waiting(grant.id)) == ({unplanned, planned}, 2, [])
    assert (now.state, now.generation, now.granted, now.trouble_code) == (GrantState.ACTIVE, 2, (SCOPE,), "")
    assert (grants.push_state(unplanned), grants.push_state(planned)) == (State.QUEUED, State.RUNNING)
    assert chores(grants, grant) == []
    assert grants.events(grant.id)[-1] == "grant.reconnected"
    assert grants.events(unplanned)[-1] == "push.resumed"


def test_a_revoked_grant_is_not_reconnected(grants: GrantSubject) -> None:
    """It is connected anew, as another."""
    grant = connected(grants)
    number = grants.store.reserve(grant.id)
    grants.store.revoke(grant.id, "ada")

    with pytest.raises(CredentialError) as reserving:
        grants.store.reserve(grant.id)
    with pytest.raises(CredentialError) as connecting:
        grants.store.reconnect(grant.id, number, 1, some_tokens(), (SCOPE,), "ada")

    assert {reserving.value.code, connecting.value.code} == {Code.CONSENT_REVOKED}
    assert seen(grants, grant).state is GrantState.REVOKING


def test_a_push_that_pauses_after_its_grant_was_reconnected_goes_on(grants: GrantSubject) -> None:
    """It learnt of the dead token before, and says so too late."""
    grant, lease = needs_reconnect(grants), a_lease()
    push = grants.pushes.claim_push(grants.submit(grant), lease)
    assert push is not None
    reconnected(grants, grant)

    grants.pushes.end_push(push, lease, paused(Code.CONSENT_NEEDED))

    assert grants.push_state(push.id) is State.QUEUED
    assert grants.events(push.id)[-1] == "push.retry_scheduled"


def test_a_part_that_pauses_after_its_grant_was_reconnected_goes_on(grants: GrantSubject) -> None:
    """Likewise."""
    grant, lease = connected(grants), a_lease()
    push = grants.pushes.claim_push(grants.submit(grant), lease)
    assert push is not None
    page = a_page(push.id)
    grants.pushes.finish_plan_with(push, lease, page)
    grants.store.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), WORKER)
    reconnected(grants, grant)

    state = grants.pushes.end_part(push, page.part, lease, paused(Code.CONSENT_NEEDED))

    assert (state, grants.store.waiting(grant.id)) == (State.RUNNING, [])
    assert grants.events(push.id)[-1] == "part.retry_scheduled"


# -- what pushes see -----------------------------------------------------------------------------------


def running(grants: GrantSubject, grant: Grant, **changes: str) -> tuple[UUID, UUID]:
    """A push in the middle of its only part: (its id, its lease's token)."""
    lease = a_lease()
    push = grants.pushes.claim_push(grants.submit(grant, **changes), lease)
    assert push is not None
    grants.pushes.finish_plan_with(push, lease, a_page(push.id))
    return push.id, lease.token


def revoke(grants: GrantSubject, grant: Grant) -> None:
    grants.store.revoke(grant.id, "ada")


def purge(grants: GrantSubject, grant: Grant) -> None:
    grants.credential_state(grant.id, "purging")


def need_reconnect(grants: GrantSubject, grant: Grant) -> None:
    grants.store.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), WORKER)


@pytest.mark.parametrize(
    ("happens", "wish"),
    [(revoke, Wish.REVOKED), (purge, Wish.REVOKED), (need_reconnect, Wish.GO_ON)],
    ids=["revoked", "purged", "needs its user"],
)
def test_the_heartbeat_says_whether_a_running_push_may_go_on(
    grants: GrantSubject, happens: Callable[[GrantSubject, Grant], None], wish: Wish
) -> None:
    """What it made of a grant whose refresh token is dead lasts on; a revocation ends it."""
    grant = connected(grants)
    _, token = running(grants, grant)
    before = grants.pushes.extend([token], 30)

    happens(grants, grant)

    assert (before, grants.pushes.extend([token], 30)) == ({token: Wish.GO_ON}, {token: wish})


@pytest.mark.parametrize(
    ("happens", "error"),
    [(revoke, ConsentRevoked), (purge, ConsentRevoked), (need_reconnect, CredentialError)],
    ids=["revoked", "purged", "needs its user"],
)
def test_a_push_does_not_begin_with_a_grant_that_may_not_be_used(
    grants: GrantSubject, happens: Callable[[GrantSubject, Grant], None], error: type[CloudPushError]
) -> None:
    """It was queued before."""
    grant, lease = connected(grants), a_lease()
    push = grants.pushes.claim_push(grants.submit(grant), lease)
    assert push is not None
    happens(grants, grant)

    with pytest.raises(error) as caught:
        grants.pushes.finish_plan_with(push, lease, a_page(push.id))

    assert caught.value.code in (Code.CONSENT_REVOKED, Code.CONSENT_NEEDED)


# -- taking it back ------------------------------------------------------------------------------------


def test_a_revocation_takes_effect_at_once_and_ends_at_the_provider(grants: GrantSubject) -> None:
    """Nobody opens it any more but who tells the provider; then its tokens are due for destruction."""
    grant = connected(grants)

    grants.store.revoke(grant.id, "ada")

    revoking = seen(grants, grant)
    with pytest.raises(ConsentRevoked):
        grants.store.note_opened(grant, WORKER)
    with pytest.raises(ConsentRevoked):
        grants.store.start_refresh(grant, WORKER)
    grants.store.note_opened(grant, WORKER, ending=True)
    to_do, due = chores(grants, grant), grants.due_for_purge(grant.id)
    grants.store.end_revocation(grant.id, True, None, WORKER)
    revoked = seen(grants, grant)
    assert (revoking.state, revoking.revoked_at is None, to_do, due) == (
        GrantState.REVOKING,
        False,
        [Chore.REVOKE],
        False,
    )
    assert (revoked.state, revoked.provider_told, revoked.trouble_code) == (GrantState.REVOKED, True, "")
    assert (grants.due_for_purge(grant.id), chores(grants, grant)) == (True, [])
    assert grants.events(grant.id)[-3:] == ["grant.revoking", "grant.opened", "grant.revoked"]


def test_a_revocation_that_the_provider_did_not_take_is_one_all_the_same(grants: GrantSubject) -> None:
    """What it said is kept."""
    grant = connected(grants)
    grants.store.revoke(grant.id, "ada")

    grants.store.end_revocation(grant.id, False, an_error(Code.PROVIDER_UNAVAILABLE), WORKER)

    now = seen(grants, grant)
    assert (now.state, now.provider_told, now.trouble_code) == (GrantState.REVOKED, False, "PROVIDER_UNAVAILABLE")


def test_a_revocation_may_be_repeated(grants: GrantSubject) -> None:
    """A double click, a task that was delivered twice."""
    grant = connected(grants)

    for _ in range(2):
        grants.store.revoke(grant.id, "ada")
    for told in (True, False):
        grants.store.end_revocation(grant.id, told, None, WORKER)
    grants.store.revoke(grant.id, "ada")

    now = seen(grants, grant)
    tellings = [kind for kind in grants.events(grant.id) if kind in ("grant.revoking", "grant.revoked")]
    assert (now.state, now.provider_told, tellings) == (GrantState.REVOKED, True, ["grant.revoking", "grant.revoked"])


def test_a_grant_that_nobody_has_is_not_revoked(grants: GrantSubject) -> None:
    """Say so."""
    with pytest.raises(InputError) as caught:
        grants.store.revoke(nobody(), "ada")

    assert caught.value.code is Code.UNKNOWN_GRANT


def test_what_waits_goes_on_to_its_end_when_its_grant_is_revoked(grants: GrantSubject) -> None:
    """A worker takes it and ends it."""
    grant = needs_reconnect(grants)
    push_id = waiting(grants, grant)

    grants.store.revoke(grant.id, "ada")

    assert (grants.push_state(push_id), grants.store.waiting(grant.id)) == (State.QUEUED, [])


@pytest.mark.parametrize("planned", [False, True])
def test_what_is_to_be_tried_later_is_due_at_once_when_its_grant_is_revoked(
    grants: GrantSubject, planned: bool
) -> None:
    """It can only end, and nobody is to wait for minutes to see that it does."""
    grant = connected(grants)
    push_id = later(grants, grant, planned=planned)

    grants.store.revoke(grant.id, "ada")

    assert claimed(grants, push_id, planned=planned)


def test_what_is_to_be_tried_later_is_due_at_once_when_its_share_ends(grants: GrantSubject) -> None:
    """And nobody else's."""
    grant, owner = connected(grants), f"pipeline-{nobody()}"
    share = shared(grants, grant, principal=owner)
    theirs, own = later(grants, grant, owner), later(grants, grant)

    grants.store.unshare(share.id, "ada", "ada")

    assert [claimed(grants, push_id) for push_id in (theirs, own)] == [True, False]


def later(grants: GrantSubject, grant: Grant, owner: str = OWNER, *, planned: bool = False) -> UUID:
    """A push whose next attempt, or that of its only part, is in five minutes."""
    lease = a_lease()
    push = grants.pushes.claim_push(grants.submit(grant, owner), lease)
    assert push is not None
    if planned:
        page = a_page(push.id)
        grants.pushes.finish_plan_with(push, lease, page)
        grants.pushes.end_part(push, page.part, lease, retry(300))
    else:
        grants.pushes.end_push(push, lease, retry(300))
    assert not claimed(grants, push.id, planned=planned)
    return push.id


def claimed(grants: GrantSubject, push_id: UUID, *, planned: bool = False) -> bool:
    """Whether a worker that heard of it may take it now."""
    store = grants.pushes
    taken = store.claim_part(push_id, 1, a_lease()) if planned else store.claim_push(push_id, a_lease())
    return taken is not None


def test_a_refresh_that_a_revocation_overtook_is_recorded(grants: GrantSubject) -> None:
    """So that the newest tokens are the ones that the provider is told of, and all are purged."""
    grant = connected(grants)
    _, number = grants.store.start_refresh(grant, WORKER)
    grants.store.revoke(grant.id, "ada")

    grants.store.finish_refresh(grant, number, 1, some_tokens(grants.now()), WORKER)

    now = seen(grants, grant)
    assert (now.state, now.generation, now.pending_at) == (GrantState.REVOKING, number, None)


# -- sharing -------------------------------------------------------------------------------------------


def test_a_share_lets_somebody_else_push_below_a_prefix(grants: GrantSubject) -> None:
    """Its owner is told to the worker, since the tokens are sealed under that name."""
    grant, owner = connected(grants), f"pipeline-{nobody()}"
    share = shared(grants, grant, principal=owner)

    push = grants.pushes.claim_push(grants.submit(grant, owner), a_lease())

    assert push is not None
    assert (push.owner, push.credential_owner, push.sealed_for) == (owner, grant.owner, grant.owner)
    assert grants.store.shared_with(owner) == [(seen(grants, grant), share)]
    assert grants.store.shares(grant.id) == [share]
    assert grants.events(grant.id)[-1] == "grant.shared"


def test_a_grant_of_ones_own_has_no_other_owner(grants: GrantSubject) -> None:
    """Nothing to tell."""
    push = grants.pushes.claim_push(grants.submit(connected(grants)), a_lease())

    assert push is not None
    assert (push.credential_owner, push.sealed_for) == ("", push.owner)


def end_it(grants: GrantSubject, share_id: UUID) -> None:
    grants.store.unshare(share_id, "ada", "ada")


def outlive_it(grants: GrantSubject, share_id: UUID) -> None:
    assert share_id
    grants.let_pass(2 * 24 * 3600)


@pytest.mark.parametrize("over", [end_it, outlive_it], ids=["unshared", "its time has come"])
def test_a_share_that_is_over_ends_what_uses_it(
    grants: GrantSubject, over: Callable[[GrantSubject, UUID], None]
) -> None:
    """What runs hears it by heartbeat; what is queued does not begin; the owner's own pushes go on."""
    grant, owner = connected(grants), f"pipeline-{nobody()}"
    share = shared(grants, grant, principal=owner)
    _, theirs = running(grants, grant, owner=owner)
    _, own = running(grants, grant)
    lease = a_lease()
    queued = grants.pushes.claim_push(grants.submit(grant, owner), lease)
    assert queued is not None

    over(grants, share.id)

    assert grants.pushes.extend([theirs, own], 30) == {theirs: Wish.REVOKED, own: Wish.GO_ON}
    with pytest.raises(ConsentRevoked):
        grants.pushes.finish_plan_with(queued, lease, a_page(queued.id))
    assert grants.store.shared_with(owner) == []


def test_another_share_covers_what_the_first_did(grants: GrantSubject) -> None:
    """Segment by segment: a bucket, a prefix, but no longer name that begins alike."""
    grant, owner = connected(grants), f"pipeline-{nobody()}"
    first = shared(grants, grant, principal=owner)
    _, token = running(grants, grant, owner=owner)
    shared(grants, grant, principal=owner, uri="s3://results")
    shared(grants, grant, principal="somebody else")

    grants.store.unshare(first.id, "ada", "ada")

    assert grants.pushes.extend([token], 30) == {token: Wish.GO_ON}


def test_a_share_for_a_name_that_begins_alike_covers_nothing(grants: GrantSubject) -> None:
    """``s3://results/runs/7`` is not below ``s3://results/run``."""
    grant, owner = connected(grants), f"pipeline-{nobody()}"
    first = shared(grants, grant, principal=owner)
    _, token = running(grants, grant, owner=owner)
    shared(grants, grant, principal=owner, uri="s3://results/run")

    grants.store.unshare(first.id, "ada", "ada")

    assert grants.pushes.extend([token], 30) == {token: Wish.REVOKED}


def test_an_end_of_a_share_may_be_repeated(grants: GrantSubject) -> None:
    """And is told once; an operator may end it."""
    grant = connected(grants)
    share = shared(grants, grant)

    first, second = (grants.store.unshare(share.id, None, "operator") for _ in range(2))

    assert (first.ended_at is None, first == second) == (False, True)
    assert grants.store.shares(grant.id) == [first]
    assert grants.events(grant.id).count("grant.unshared") == 1


def test_a_share_is_ended_by_the_grants_owner_only(grants: GrantSubject) -> None:
    """Not by whom it is for."""
    share = shared(grants, connected(grants))

    with pytest.raises(InputError) as theirs:
        grants.store.unshare(share.id, "pipeline", "pipeline")
    with pytest.raises(InputError) as nobodys:
        grants.store.unshare(nobody(), "ada", "ada")

    assert (theirs.value.code, nobodys.value.code) == (Code.NOT_OWNER, Code.UNKNOWN_GRANT)


def test_a_grant_that_is_over_is_not_shared(grants: GrantSubject) -> None:
    """Nor listed for whom it was shared with."""
    grant = connected(grants)
    share = shared(grants, grant)
    grants.store.revoke(grant.id, "ada")

    with pytest.raises(InputError) as caught:
        grants.store.share(a_share(grant.id, grants.now()), "ada")

    assert caught.value.code is Code.CONSENT_REVOKED
    assert share.id not in {s.id for _, s in grants.store.shared_with(share.principal)}


def test_what_waits_by_a_share_goes_on_to_its_end_when_that_ends(grants: GrantSubject) -> None:
    """And nobody else's."""
    grant, owner = needs_reconnect(grants), f"pipeline-{nobody()}"
    share = shared(grants, grant, principal=owner)
    theirs, own = waiting(grants, grant, owner), waiting(grants, grant)

    grants.store.unshare(share.id, "ada", "ada")

    assert (grants.push_state(theirs), grants.push_state(own)) == (State.QUEUED, State.AWAITING_CONSENT)


# -- chores --------------------------------------------------------------------------------------------


def due(grants: GrantSubject, grant: Grant) -> bool:
    """Whether the sweep announces it now."""
    return grant.id in grants.store.chores(1000, 30)


def test_a_chore_is_announced_until_somebody_does_it(grants: GrantSubject) -> None:
    """Not at once again: its message is on its way."""
    grant = connected(grants)
    grants.store.want(grant.id, Chore.CHECK, "ada")

    told = [due(grants, grant), due(grants, grant)]
    grants.let_pass(31)
    told.append(due(grants, grant))
    grants.store.end_chore(grant.id, Chore.CHECK, None, None)
    grants.let_pass(31)
    told.append(due(grants, grant))

    assert told == [True, False, True, False]


def test_a_chore_that_failed_in_passing_is_due_later(grants: GrantSubject) -> None:
    """And announced then, however lately it was."""
    grant = connected(grants)
    grants.store.revoke(grant.id, "ada")
    due(grants, grant)

    grants.store.end_chore(grant.id, Chore.REVOKE, an_error(Code.THROTTLED), 20)

    before = (chores(grants, grant), due(grants, grant))
    grants.let_pass(21)
    assert (before, chores(grants, grant), due(grants, grant)) == (([], False), [Chore.REVOKE], True)


def test_what_is_wanted_twice_is_done_once_and_soon(grants: GrantSubject) -> None:
    """Another click does not wait for the pause after a failure."""
    grant = connected(grants)
    grants.store.want(grant.id, Chore.CHECK, "ada")
    grants.store.end_chore(grant.id, Chore.CHECK, an_error(), 300)

    grants.store.want(grant.id, Chore.CHECK, "ada")

    assert (chores(grants, grant), due(grants, grant)) == ([Chore.CHECK], True)


@pytest.mark.parametrize("code", [None, Code.ACCESS_DENIED])
def test_what_came_of_a_check_is_kept(grants: GrantSubject, code: Code | None) -> None:
    """An empty code: it works."""
    grant = connected(grants)
    grants.store.want(grant.id, Chore.CHECK, "ada")

    grants.store.end_chore(grant.id, Chore.CHECK, an_error(code) if code else None, None)

    now = seen(grants, grant)
    assert (now.checked_at is None, now.check_code) == (False, code.value if code else "")
    assert bool(now.check_message) is bool(code)
    assert grants.events(grant.id)[-1] == "grant.checked"


def test_that_the_owner_was_told_is_on_record(grants: GrantSubject) -> None:
    """Once it is over, not with each attempt."""
    grant = needs_reconnect(grants)
    grants.store.end_chore(grant.id, Chore.NOTIFY, an_error(), 5)
    before = grants.events(grant.id)[-1]

    grants.store.end_chore(grant.id, Chore.NOTIFY, None, None)

    assert (before, grants.events(grant.id)[-1]) == ("grant.reconnect_needed", "grant.notified")


def test_nothing_can_be_wanted_of_a_grant_that_nobody_has(grants: GrantSubject) -> None:
    """Say so."""
    with pytest.raises(InputError) as caught:
        grants.store.want(nobody(), Chore.CHECK, "ada")

    assert caught.value.code is Code.UNKNOWN_GRANT


# -- housekeeping ----------------------------------------------------------------------------------------


def superseded(grants: GrantSubject, grant: Grant) -> list[int]:
    """Blocks of it that are to be destroyed."""
    return list(dict(grants.store.superseded(10_000)).get(grant.id, []))


def test_earlier_generations_are_destroyed(grants: GrantSubject) -> None:
    """Marker and all; once."""
    grant = refreshed(grants, connected(grants))
    before = superseded(grants, grant)

    grants.store.note_superseded(grant.id, before)

    assert (before, superseded(grants, grant), grants.sealed(grant.id)) == ([1, 2], [], {3: 1})
    assert grants.events(grant.id)[-1] == "grant.superseded"


def test_nothing_is_destroyed_while_a_refresh_is_under_way(grants: GrantSubject) -> None:
    """Should it come to nothing, the earlier tokens are tried once more."""
    grant = refreshed(grants, connected(grants))
    grants.store.start_refresh(grant, WORKER)
    grants.let_pass(2 * 3600)

    assert superseded(grants, grant) == []


def test_what_a_failed_refresh_left_is_destroyed(grants: GrantSubject) -> None:
    """Its marker."""
    grant = connected(grants)
    grants.store.start_refresh(grant, WORKER)

    grants.store.fail_refresh(grant, an_error(Code.PROVIDER_UNAVAILABLE), WORKER)

    assert superseded(grants, grant) == [2, 3]


def test_what_a_reconnect_left_that_came_to_nothing_is_destroyed_after_an_hour(grants: GrantSubject) -> None:
    """Until then it may come yet."""
    grant = connected(grants)
    grants.store.reserve(grant.id)
    before = superseded(grants, grant)
    grants.let_pass(3601)

    assert (before, superseded(grants, grant)) == ([], [2])


def test_a_revoked_grants_blocks_are_custodys(grants: GrantSubject) -> None:
    """All of them are purged."""
    grant = refreshed(grants, connected(grants))
    grants.credential_state(grant.id, "purging")

    assert superseded(grants, grant) == []
