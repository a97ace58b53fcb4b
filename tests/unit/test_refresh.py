"""A refresh, step by step: what is spent when, and what every interruption leaves for the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import uuid4

import pytest

from cloudpush.credentials.providers import ProviderBook
from cloudpush.errors import CloudPushError, Code, ConsentRevoked, CredentialError, StoreError, VaultError
from cloudpush.push.grants.access import AGAIN_SECONDS, Access
from cloudpush.push.grants.model import OAUTH_GRANT, Flow, Grant, GrantState, Provider, Rotation, Tokens, Use
from cloudpush.push.grants.refresh import SETTLED, WRITE_SECONDS, Refresher
from cloudpush.push.retry import OUTAGES
from fakes import FakeClock
from fakes_grants import FakeGrantStore
from fakes_vault import FakeVault


class Killed(BaseException):
    """The process was killed here."""


class FakeEndpoint:
    """Issues numbered tokens; ``failing`` is raised, before or ``after`` it issued some."""

    def __init__(self, clock: FakeClock, life: float = 100.0) -> None:
        self.clock = clock
        self.life = life
        self.spent: list[str] = []
        self.failing: BaseException | None = None
        self.after = False
        self.during: Callable[[], None] = lambda: None

    def refresh(self, provider: Provider, refresh_token: str) -> Tokens:
        if self.failing and not self.after:
            raise self.failing
        self.spent.append(refresh_token)
        number = len(self.spent) + 1
        self.during()
        if self.failing:
            raise self.failing
        now = self.clock.now()
        return Tokens(f"at{number}", f"rt{number}", now + timedelta(seconds=self.life), now)

    def revoke(self, provider: Provider, tokens: Tokens) -> bool:
        return True


@dataclass
class World:
    clock: FakeClock
    store: FakeGrantStore
    vault: FakeVault
    endpoint: FakeEndpoint
    grant: Grant
    refresher: Refresher
    slept: list[float]

    def current(self) -> tuple[int, Tokens]:
        grant = self.store.get(self.grant.id)
        assert grant is not None
        return grant.generation, Tokens.load(self.vault.open_tokens(grant.id, grant.owner, grant.generation))

    def state(self) -> GrantState:
        grant = self.store.get(self.grant.id)
        assert grant is not None
        return grant.state

    def access(self) -> Access:
        return Access(
            store=self.store,
            safe=self.vault,
            renewing=self.refresher,
            clock=self.clock,
            worker="w",
            monotonic=lambda: self.clock.now().timestamp(),
        )


def world(rotation: Rotation = Rotation.SINGLE_USE, refresh_token: str = "rt1", life: float = 100.0) -> World:
    clock = FakeClock()
    store, vault, endpoint = FakeGrantStore(clock), FakeVault(), FakeEndpoint(clock, life)
    provider = Provider("box", "Box", Flow.CODE, Use.BEARER, "gcs", client_id="x", rotation=rotation)
    now, ends = clock.now(), clock.now() + timedelta(seconds=life)
    grant = store.give(
        Grant(
            uuid4(),
            "ada",
            "lab",
            OAUTH_GRANT,
            "box",
            GrantState.ACTIVE,
            "active",
            generation=1,
            access_expires_at=ends,
        )
    )
    vault.seal_tokens(grant.id, "ada", 1, Tokens("at1", refresh_token, ends, now).dump())
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    refresher = Refresher(
        store=store,
        safe=vault,
        endpoint=endpoint,
        providers=ProviderBook([provider]),
        clock=clock,
        worker="w",
        sleep=sleep,
        monotonic=lambda: clock.now().timestamp(),
    )
    return World(clock, store, vault, endpoint, grant, refresher, slept)


def failure(w: World, seen: int = 1) -> CloudPushError:
    with pytest.raises(CloudPushError) as caught:
        w.refresher.refresh(w.grant.id, seen)
    return caught.value


def test_a_refresh_seals_the_next_generation_and_tells_each_step() -> None:
    """The marker has number 2, the tokens have 3; who has seen less finds them."""
    w = world()
    w.refresher.refresh(w.grant.id, 1)
    w.refresher.refresh(w.grant.id, 1)

    assert (w.current()[0], w.current()[1].access_token, w.endpoint.spent) == (3, "at2", ["rt1"])
    assert w.store.events(w.grant.id) == ["grant.opened", "grant.refreshing", "grant.refreshed"]
    assert w.vault.open_tokens(w.grant.id, "ada", 2) == b""


@pytest.mark.parametrize("code", [Code.VAULT_SEALED, Code.VAULT_UNREACHABLE, Code.VAULT_DENIED])
@pytest.mark.parametrize("call", ["open_tokens", "prepare"])
def test_nothing_is_spent_while_vault_is_away(call: str, code: Code) -> None:
    """And once it is back nobody has to wait: the provider saw nothing."""
    w = world()
    w.vault.during = {call: lambda: w.vault.go_away(code)}

    error = failure(w)
    w.vault.come_back()
    spent = list(w.endpoint.spent)
    w.refresher.refresh(w.grant.id, 1)

    assert (error.code, isinstance(error, VaultError), spent, w.endpoint.spent, w.slept) == (
        code,
        True,
        [],
        ["rt1"],
        [],
    )
    assert w.current()[1].access_token == "at2"


def test_nothing_is_spent_once_vault_was_too_slow() -> None:
    """Else whoever waits for us would have stopped waiting before the provider answers."""
    w = world()
    w.vault.during = {"prepare": lambda: w.clock.advance(16)}

    assert (failure(w).code, w.endpoint.spent) == (Code.VAULT_UNREACHABLE, [])


def test_tokens_in_hand_are_offered_until_vault_is_back() -> None:
    """They are the only copy."""
    w = world()
    w.endpoint.during = w.vault.go_away
    tries: list[int] = []

    def back_after_five() -> None:
        tries.append(1)
        if len(tries) < 5:
            w.vault.during["write"] = back_after_five
        else:
            w.vault.come_back()

    w.vault.during["write"] = back_after_five
    w.refresher.refresh(w.grant.id, 1)

    assert (len(tries), w.slept, w.current()[1].access_token) == (5, [0.1, 0.2, 0.4, 0.8], "at2")


def test_tokens_that_vault_does_not_take_for_a_minute_are_told_as_lost() -> None:
    """A passing error; what comes next tries the old ones."""
    w = world()
    w.endpoint.during = w.vault.go_away
    error = failure(w)

    assert (error.code, WRITE_SECONDS <= sum(w.slept) <= WRITE_SECONDS + 3) == (Code.VAULT_UNREACHABLE, True)


def test_tokens_that_are_in_vault_and_not_in_postgres_are_found_and_nothing_is_spent() -> None:
    """Postgres was away for longer than anybody waits."""
    w = world()

    def lose_postgres() -> None:
        w.store.failing = StoreError(Code.DATABASE_UNREACHABLE, "away")

    w.store.during["finish_refresh"] = lose_postgres
    error = failure(w)
    w.store.failing = None
    w.refresher.refresh(w.grant.id, 1)

    assert (error.code, w.endpoint.spent, w.current()[0], w.current()[1].access_token) == (
        Code.DATABASE_UNREACHABLE,
        ["rt1"],
        3,
        "at2",
    )


@pytest.mark.parametrize("rotation", list(Rotation))
@pytest.mark.parametrize("where", ["start_refresh", "prepare", "spend", "write", "finish_refresh"])
def test_the_next_one_goes_on_from_wherever_the_last_was_killed(where: str, rotation: Rotation) -> None:
    """The table of the module, line by line: what is spent, and when it must wait for somebody who may live."""
    w = world(rotation)

    def die() -> None:
        raise Killed

    if where == "spend":
        w.endpoint.failing, w.endpoint.after = Killed(), True
    else:
        (w.vault if where in ("prepare", "write") else w.store).during[where] = die
    with pytest.raises(Killed):
        w.refresher.refresh(w.grant.id, 1)
    w.endpoint.failing = None
    w.clock.advance(100)  # the access token is over: who comes next waits
    w.refresher.refresh(w.grant.id, 1)

    spent = {"start_refresh": 1, "prepare": 1, "spend": 2, "write": 2, "finish_refresh": 1}[where]
    assert (w.endpoint.spent, w.current()[1].access_token) == (["rt1"] * spent, f"at{spent + 1}")
    if where in ("spend", "write"):
        assert w.store.events(w.grant.id).count("grant.refreshing") == 2


def test_who_may_live_is_waited_for_where_spending_twice_would_end_the_grant() -> None:
    """The lock is gone with a restart of Postgres, its holder goes on: his tokens are taken when they come."""
    w = world()
    marker, number = w.store.start_refresh(w.grant, "other")
    pen = w.vault.prepare(w.grant.id, "ada", marker, number)
    w.clock.advance(1)
    waiting_ahead = failure(w)  # the access token is good: nobody is kept waiting
    w.store._rows[w.grant.id].grant = replace(w.store.get(w.grant.id) or w.grant, access_expires_at=w.clock.now())
    w.vault.during["find_tokens"] = lambda: w.vault.during.update(
        find_tokens=lambda: (pen.write(Tokens("theirs", "rt-theirs").dump()), None)[1]
    )
    w.refresher.refresh(w.grant.id, 1)

    assert (waiting_ahead.code, w.endpoint.spent, w.slept) == (Code.WORKER_LOST, [], [0.5])
    assert (w.current()[0], w.current()[1].access_token) == (number, "theirs")


def test_nobody_is_waited_for_longer_than_an_answer_takes() -> None:
    """Then the old token is tried: better than none."""
    w = world(life=1.0)
    w.store.start_refresh(w.grant, "other")
    w.clock.advance(2)
    w.refresher.refresh(w.grant.id, 1)

    assert (w.endpoint.spent, sum(w.slept)) == (["rt1"], SETTLED.total_seconds() - 2)


@pytest.mark.parametrize("rotation", [Rotation.NEVER, Rotation.KEEPS_OLD])
def test_nobody_is_waited_for_where_the_old_token_stays_good(rotation: Rotation) -> None:
    """Spending it twice does no harm."""
    w = world(rotation)
    w.store.start_refresh(w.grant, "other")
    w.refresher.refresh(w.grant.id, 1)

    assert (w.slept, w.current()[1].access_token) == ([], "at2")


def test_a_dead_refresh_token_asks_for_a_reconnect() -> None:
    """And is not tried again."""
    w = world()
    w.endpoint.failing = CredentialError(Code.CONSENT_NEEDED, "Box no longer accepts it.")
    codes = [failure(w).code, failure(w).code]

    assert (codes, w.state()) == ([Code.CONSENT_NEEDED] * 2, GrantState.RECONNECT)
    assert w.store.events(w.grant.id)[-2:] == ["grant.refresh_failed", "grant.reconnect_needed"]


def test_access_without_leave_to_go_on_asks_for_a_reconnect_at_its_end() -> None:
    """A provider that gave no refresh token."""
    w = world(refresh_token="")

    assert (failure(w).code, w.endpoint.spent, w.state()) == (Code.CONSENT_NEEDED, [], GrantState.RECONNECT)


@pytest.mark.parametrize("code", [Code.THROTTLED, Code.PROVIDER_UNAVAILABLE, Code.NETWORK, Code.CLIENT_REJECTED])
def test_what_passes_is_tried_again(code: Code) -> None:
    """With the same token; nobody waits for a refresh that has ended."""
    w = world()
    w.endpoint.failing = CloudPushError(code, "Not now.")
    error = failure(w)
    w.endpoint.failing = None
    w.refresher.refresh(w.grant.id, 1)

    assert (error.code, w.state(), w.slept, w.current()[1].access_token) == (code, GrantState.ACTIVE, [], "at2")


def test_a_revocation_in_the_middle_waits_and_finds_the_newest_tokens() -> None:
    """New tokens are sealed all the same, under the lock that the chore takes, too."""
    w = world()
    order: list[str] = []
    chores: list[threading.Thread] = []

    def chore() -> None:
        with w.store.lock(w.grant.id, 10):
            order.append(w.current()[1].refresh_token)

    def revoke() -> None:
        w.store.revoke(w.grant.id, "ada")
        chores.append(threading.Thread(target=chore))
        chores[0].start()
        order.append("revoked")

    w.endpoint.during = revoke
    w.refresher.refresh(w.grant.id, 1)
    chores[0].join(10)

    assert (order, w.state()) == (["revoked", "rt2"], GrantState.REVOKING)
    with pytest.raises(ConsentRevoked):
        w.refresher.refresh(w.grant.id, 3)


# -- access ------------------------------------------------------------------------------------------


def test_tokens_stay_in_memory_until_they_are_due() -> None:
    """A fifth of their life before the end; Vault is asked once a generation."""
    w = world()
    access = w.access()
    found = []
    for seconds in (0, 40, 39, 2, 40, 40):
        w.clock.advance(seconds)
        found.append(access.tokens(w.grant.id)[1].access_token)

    assert (found, len(w.endpoint.spent)) == (["at1", "at1", "at1", "at2", "at2", "at3"], 2)
    assert w.store.events(w.grant.id).count("grant.opened") == 5  # three generations, and two refreshes


def test_a_refresh_that_fails_is_no_error_while_the_tokens_are_good() -> None:
    """It is tried again a little later; at their end the error is told."""
    w = world()
    access = w.access()
    w.endpoint.failing = CloudPushError(Code.PROVIDER_UNAVAILABLE, "Not now.")
    w.clock.advance(81)
    found = [access.tokens(w.grant.id)[1].access_token for _ in range(3)]
    failed = w.store.events(w.grant.id).count("grant.refresh_failed")
    w.clock.advance(18.5)
    with pytest.raises(CloudPushError, match="Not now"):
        access.tokens(w.grant.id)

    assert (found, failed) == (["at1"] * 3, 1)


def test_a_token_that_was_refused_before_its_time_is_replaced_once() -> None:
    """Whoever had it handed out as well does not spend another."""
    w = world()
    access = w.access()
    grant, _ = access.tokens(w.grant.id)
    found = [access.tokens(w.grant.id, beyond=grant.generation)[1].access_token for _ in range(2)]

    assert (found, w.endpoint.spent) == (["at2", "at2"], ["rt1"])


def test_tokens_in_memory_are_not_used_after_a_revocation_nor_before_a_reconnect() -> None:
    """The row is looked at each time."""
    w = world()
    access = w.access()
    access.tokens(w.grant.id)
    number = w.store.reserve(w.grant.id)
    fresh = Tokens("anew", "rt", w.clock.now() + timedelta(seconds=100), w.clock.now())
    w.store.reconnect(
        w.grant.id, number, w.vault.seal_tokens(w.grant.id, "ada", number, fresh.dump()), fresh, (), "ada"
    )
    after = access.tokens(w.grant.id)[1].access_token
    w.store.revoke(w.grant.id, "ada")
    with pytest.raises(ConsentRevoked):
        access.tokens(w.grant.id)

    assert after == "anew"


def test_a_generation_that_went_between_two_looks_is_looked_for_again() -> None:
    """Another worker refreshed, and the sweep destroyed the old one."""
    w = world()

    def somebody_refreshes() -> None:
        w.refresher.refresh(w.grant.id, 1)
        w.vault.purge_sheets(w.grant.id, [1])

    w.vault.during["open_tokens"] = somebody_refreshes

    assert w.access().tokens(w.grant.id)[1].access_token == "at2"


def test_threads_take_turns_and_spend_once() -> None:
    """Eight parts at the same moment."""
    w = world()
    access = w.access()
    access.tokens(w.grant.id)
    w.clock.advance(99.5)
    gate, found = threading.Barrier(8), list[str]()

    def ask() -> None:
        gate.wait(10)
        found.append(access.tokens(w.grant.id)[1].access_token)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert (found, w.endpoint.spent) == (["at2"] * 8, ["rt1"])


def test_nobody_waits_for_a_refresh_ahead_of_the_end() -> None:
    """While one thread asks the provider the others go on with a token that is good."""
    w = world()
    access = w.access()
    access.tokens(w.grant.id)
    w.clock.advance(85)
    meanwhile: list[str] = []

    def ask() -> None:
        other = threading.Thread(target=lambda: meanwhile.append(access.tokens(w.grant.id)[1].access_token))
        other.start()
        other.join(10)

    w.endpoint.during = ask

    assert (access.tokens(w.grant.id)[1].access_token, meanwhile) == ("at2", ["at1"])


@pytest.mark.parametrize(
    "code",
    [
        Code.PROVIDER_UNAVAILABLE,
        Code.THROTTLED,
        Code.NETWORK,
        Code.TLS_FAILED,
        Code.ENDPOINT_REFUSED,
        Code.ENDPOINT_UNRESOLVABLE,
        Code.WORKER_LOST,
    ],
)
def test_provider_that_is_down_when_the_token_ends_is_an_outage(code: Code) -> None:
    """A token endpoint that restarts must not cost a push its strikes, nor a certificate that ran out its life."""
    w = world()
    access = w.access()
    access.tokens(w.grant.id)
    w.clock.advance(101)
    w.endpoint.failing = CloudPushError(code, "Not now.")

    with pytest.raises(CloudPushError) as caught:
        access.tokens(w.grant.id)

    assert (caught.value.code, caught.value.code in OUTAGES, "Not now." in caught.value.message) == (
        Code.GRANT_UNAVAILABLE,
        True,
        True,
    )


def test_all_who_ask_a_provider_that_is_down_are_told_of_one_try() -> None:
    """A thousand parts that come up again do not fill the ledger, nor each wait as long as the provider keeps silent."""
    w = world()
    access = w.access()
    access.tokens(w.grant.id)
    w.clock.advance(101)
    w.endpoint.failing = CloudPushError(Code.NETWORK, "Silence.")
    for _ in range(50):
        with pytest.raises(CloudPushError):
            access.tokens(w.grant.id)
    tries = w.store.events(w.grant.id).count("grant.refreshing")
    w.clock.advance(AGAIN_SECONDS)
    w.endpoint.failing = None

    assert (tries, access.tokens(w.grant.id)[1].access_token) == (1, "at2")
