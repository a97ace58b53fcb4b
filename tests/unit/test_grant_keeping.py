"""The worker's side of grants: chores done, tried again, given up in words that help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from builders import NOON, OWNER, an_error
from cloudpush.errors import CloudPushError, Code, CredentialError, InputError
from cloudpush.push.grants.keeping import LATEST, PATIENCE, SOONEST, GrantKeeping
from cloudpush.push.grants.model import (
    OAUTH_GRANT,
    WEB_IDENTITY,
    Chore,
    Flow,
    Grant,
    GrantState,
    Pass,
    Provider,
    Tokens,
    Use,
)
from cloudpush.push.job import Push, Secret
from fakes import FakeClock
from fakes_grants import FakeGrantStore
from fakes_vault import FakeVault

MANAGE = "https://provider.example/connections"
PROVIDER = Provider("google", "Google", Flow.CODE, Use.BEARER, "gcs", client_id="us", manage_url=MANAGE)


class Book:
    """One provider for all; ``resolve`` marks what it was asked about."""

    def get(self, name: str) -> Provider:
        return replace(PROVIDER, name=name)

    def all(self) -> Sequence[Provider]:
        return [PROVIDER]

    def resolve(self, provider: Provider) -> Provider:
        return replace(provider, revocation_endpoint="https://provider.example/revoke")


@dataclass
class Endpoint:
    """Keeps what was revoked. ``answers``: what revoking gives, or raises, each time; the last one for ever."""

    answers: list[bool | CloudPushError] = field(default_factory=lambda: [True])
    revoked: list[tuple[str, str]] = field(default_factory=list)

    def refresh(self, provider: Provider, refresh_token: str) -> Tokens:
        raise AssertionError("nothing here refreshes")

    def revoke(self, provider: Provider, tokens: Tokens) -> bool:
        self.revoked.append((provider.revocation_endpoint, tokens.refresh_token))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, CloudPushError):
            raise answer
        return answer


@dataclass
class Minting:
    """Tries grants out."""

    failing: Exception | None = None
    checked: list[UUID] = field(default_factory=list)

    def mint(self, push: Push, refused: Secret | None = None) -> Pass:
        raise AssertionError("nothing here pushes")

    def check(self, grant: Grant) -> None:
        self.checked.append(grant.id)
        if self.failing is not None:
            raise self.failing


@dataclass
class Telling:
    """Webhooks of whoever it is."""

    answers: list[bool | CloudPushError] = field(default_factory=lambda: [True])
    told: list[UUID] = field(default_factory=list)

    def reconnect_needed(self, grant: Grant, waiting: Sequence[UUID]) -> bool:
        self.told.append(grant.id)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, CloudPushError):
            raise answer
        return answer


class Bench:
    """A worker with one grant."""

    def __init__(self, **changes: object) -> None:
        self.clock = FakeClock()
        self.store = FakeGrantStore(self.clock)
        self.vault = FakeVault()
        self.endpoint, self.minting, self.telling = Endpoint(), Minting(), Telling()
        values = {"kind": OAUTH_GRANT, "state": GrantState.ACTIVE, "generation": 1} | changes
        self.grant = self.store.give(
            Grant(
                id=uuid4(),
                owner=OWNER,
                name="drive",
                provider="google",
                credential_state="active",
                created_at=NOON,
                granted_at=NOON,
                **values,  # type: ignore[arg-type]
            )
        )
        if self.grant.generation:
            self.vault.seal_tokens(self.grant.id, OWNER, self.grant.generation, Tokens("a", "refresh-1").dump())
        self.keeping = GrantKeeping(
            store=self.store,
            providers=Book(),
            safe=self.vault,
            endpoint=self.endpoint,
            minter=self.minting,
            notifier=self.telling,
            clock=self.clock,
            worker="worker-1",
        )

    def attend(self) -> int:
        return self.keeping.attend(self.grant.id)

    @property
    def now(self) -> Grant:
        found = self.store.get(self.grant.id)
        assert found is not None
        return found

    @property
    def due(self) -> list[Chore]:
        return list(self.store.due_chores(self.grant.id))

    def revoke(self) -> None:
        self.store.revoke(self.grant.id, OWNER)

    def standing(self) -> tuple[GrantState, bool | None, bool]:
        """State, whether the provider was told, whether its secrets are due for purge."""
        return self.now.state, self.now.provider_told, self.store.due_for_purge(self.grant.id)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- revoke -------------------------------------------------------------------------------------------


def test_provider_is_told_and_the_secrets_are_due(bench: Bench) -> None:
    """With the tokens unsealed, which is an event."""
    bench.revoke()

    assert (bench.attend(), bench.endpoint.revoked, bench.standing()) == (
        1,
        [("https://provider.example/revoke", "refresh-1")],
        (GrantState.REVOKED, True, True),
    )
    assert bench.store.events(bench.grant.id) == ["grant.revoking", "grant.opened", "grant.revoked"]


def test_second_message_tells_nobody(bench: Bench) -> None:
    """There is nothing left to do."""
    bench.revoke()
    bench.attend()

    assert (bench.attend(), len(bench.endpoint.revoked)) == (0, 1)


def test_who_was_slower_tells_nobody(bench: Bench) -> None:
    """Two workers with the same message: the lock lets one after the other."""
    bench.revoke()
    bench.store.during["lock"] = lambda: bench.store.end_revocation(bench.grant.id, True, None, "worker-2")

    bench.attend()

    assert (bench.endpoint.revoked, bench.standing()) == ([], (GrantState.REVOKED, True, True))


def test_tokens_of_a_refresh_that_nobody_ended_are_revoked(bench: Bench) -> None:
    """The ones before were spent: a provider may not know them any more."""
    _, number = bench.store.start_refresh(bench.grant, "worker-2")
    bench.vault.seal_tokens(bench.grant.id, OWNER, number, Tokens("b", "refresh-2").dump())
    bench.revoke()

    bench.attend()

    assert [token for _, token in bench.endpoint.revoked] == ["refresh-2"]


def test_provider_that_is_down_is_told_later(bench: Bench) -> None:
    """Meanwhile nobody may use the grant, and its tokens are kept."""
    bench.endpoint.answers = [an_error(Code.PROVIDER_UNAVAILABLE), True]
    bench.revoke()

    bench.attend()
    first = (bench.due, bench.standing())
    bench.clock.advance(SOONEST)
    bench.attend()

    assert (first, bench.standing()) == (
        ([], (GrantState.REVOKING, None, False)),
        (GrantState.REVOKED, True, True),
    )


def test_pauses_grow_with_how_long_it_has_been_tried(bench: Bench) -> None:
    """From seconds to a quarter of an hour."""
    bench.endpoint.answers = [an_error(Code.NETWORK)]
    bench.revoke()
    pauses = []
    for _ in range(80):
        bench.attend()
        seconds = 0
        while not bench.due:
            bench.clock.advance(1)
            seconds += 1
        pauses.append(seconds)

    assert (pauses[0], max(pauses), pauses == sorted(pauses)) == (SOONEST, LATEST, True)


def test_after_a_day_its_user_is_told_where_to_end_it(bench: Bench) -> None:
    """The secrets are destroyed all the same."""
    bench.endpoint.answers = [an_error(Code.PROVIDER_UNAVAILABLE)]
    bench.revoke()
    bench.clock.advance(PATIENCE.total_seconds() + 1)

    bench.attend()

    assert (bench.standing(), MANAGE in bench.now.trouble_message) == ((GrantState.REVOKED, False, True), True)


@pytest.mark.parametrize(
    "changes", [{"kind": WEB_IDENTITY, "generation": 0}, {"generation": 0}], ids=["web-identity", "never-sealed"]
)
def test_where_nothing_is_held_nobody_is_asked(changes: dict[str, object]) -> None:
    """The user is told where the trust can be ended."""
    bench = Bench(**changes)
    bench.revoke()

    bench.attend()

    assert (bench.endpoint.revoked, bench.standing(), MANAGE in bench.now.trouble_message) == (
        [],
        (GrantState.REVOKED, False, True),
        True,
    )


def test_provider_without_revocation_is_no_failure(bench: Bench) -> None:
    """But its user hears of it."""
    bench.endpoint.answers = [False]
    bench.revoke()

    bench.attend()

    assert (bench.standing(), MANAGE in bench.now.trouble_message) == ((GrantState.REVOKED, False, True), True)


def test_tokens_that_cannot_be_read_hold_nothing_up(bench: Bench) -> None:
    """They are destroyed without."""
    bench.vault.sheets.clear()
    bench.revoke()

    bench.attend()

    assert (bench.endpoint.revoked, bench.standing()) == ([], (GrantState.REVOKED, False, True))


def test_vault_that_is_sealed_is_waited_for(bench: Bench) -> None:
    """It is our own trouble."""
    bench.revoke()
    bench.vault.go_away(Code.VAULT_SEALED)
    bench.attend()
    bench.vault.come_back()
    bench.clock.advance(SOONEST)
    bench.attend()

    assert bench.standing() == (GrantState.REVOKED, True, True)


# -- check ----------------------------------------------------------------------------------------------


def test_check_that_succeeds_says_so(bench: Bench) -> None:
    """When it was, and no code."""
    bench.store.want(bench.grant.id, Chore.CHECK, OWNER)

    bench.attend()

    assert (bench.minting.checked, bench.now.checked_at, bench.now.check_code, bench.due) == (
        [bench.grant.id],
        NOON,
        "",
        [],
    )


@pytest.mark.parametrize("code", [Code.ACCESS_DENIED, Code.PROVIDER_UNAVAILABLE])
def test_check_that_fails_is_an_answer(bench: Bench, code: Code) -> None:
    """Whether or not it would pass: its user waits for it."""
    bench.minting.failing = an_error(code)
    bench.store.want(bench.grant.id, Chore.CHECK, OWNER)

    bench.attend()
    bench.clock.advance(PATIENCE.total_seconds() - 1)

    assert (bench.now.check_code, bench.due) == (code.value, [])


def test_check_of_what_needs_its_user_says_so(bench: Bench) -> None:
    """Nobody is asked: what the provider said last is the answer."""
    needed(bench)
    bench.store.want(bench.grant.id, Chore.CHECK, OWNER)

    bench.attend()

    assert (bench.minting.checked, bench.now.check_code, bench.now.check_message) == (
        [],
        "CONSENT_NEEDED",
        "invalid_grant",
    )


def test_defect_in_a_chore_is_not_announced_for_ever(bench: Bench) -> None:
    """It ends as INTERNAL, without the words of the exception."""
    bench.minting.failing = ZeroDivisionError("canary")
    bench.store.want(bench.grant.id, Chore.CHECK, OWNER)

    bench.attend()

    assert (bench.now.check_code, "canary" in bench.now.check_message) == ("INTERNAL", False)


# -- notify ------------------------------------------------------------------------------------------------


def needed(bench: Bench) -> None:
    bench.store.fail_refresh(bench.grant, CredentialError(Code.CONSENT_NEEDED, "invalid_grant"), "worker-2")


def test_owner_is_told_that_a_reconnect_is_needed(bench: Bench) -> None:
    """Once."""
    needed(bench)

    bench.attend()

    assert (bench.telling.told, bench.due) == ([bench.grant.id], [])


def test_webhook_that_is_down_is_told_later(bench: Bench) -> None:
    """For a day."""
    bench.telling.answers = [an_error(Code.NETWORK)]
    needed(bench)
    bench.attend()
    bench.clock.advance(SOONEST)
    again = bench.due
    bench.attend()
    bench.clock.advance(timedelta(days=2).total_seconds())
    bench.attend()

    assert (again, len(bench.telling.told), bench.due) == ([Chore.NOTIFY], 3, [])


def test_webhook_that_says_no_is_not_asked_again(bench: Bench) -> None:
    """Somebody must mend it first."""
    bench.telling.answers = [an_error(Code.PROVIDER_REFUSED)]
    needed(bench)

    bench.attend()

    assert (len(bench.telling.told), bench.due) == (1, [])


def test_nobody_is_told_of_what_is_well_again(bench: Bench) -> None:
    """The user was quicker."""
    bench.store.want(bench.grant.id, Chore.NOTIFY, "worker-2")

    bench.attend()

    assert (bench.telling.told, bench.due) == ([], [])


def test_unknown_grant_is_nobodys_chore(bench: Bench) -> None:
    """A message that outlived its database."""
    with pytest.raises((InputError, KeyError)):
        bench.keeping.attend(uuid4())


def test_a_grant_whose_provider_is_in_nobodys_table_any_more_is_purged_all_the_same(bench: Bench) -> None:
    """An operator takes the provider away, and then its users take back what they gave: the tokens must not stay for ever."""

    def gone(name: str) -> Provider:
        raise InputError(Code.UNKNOWN_PROVIDER, f"provider={name!r} is not in the operator's list.", field="provider")

    bench.keeping._providers.get = gone  # type: ignore[method-assign]
    bench.store.revoke(bench.grant.id, OWNER)
    bench.attend()
    assert (bench.now.state, bench.now.provider_told) == (GrantState.REVOKED, False)
    assert "remove its access yourself at google" in bench.now.trouble_message
