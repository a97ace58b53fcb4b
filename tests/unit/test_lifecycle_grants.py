"""The story of a push with a grant: the same as with a key, until its consent is renewed, needed anew or taken back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from builders import CREDENTIAL, NOON, OWNER, an_error
from cloudpush.errors import CloudPushError, Code, CredentialError
from cloudpush.push.couriers import GrantCourier
from cloudpush.push.grants.model import OAUTH_GRANT, Bearer, Grant, GrantState, Pass, Share, Tokens
from cloudpush.push.job import Push, Secret
from cloudpush.push.planning import Limits
from cloudpush.push.states import FileState, State
from fakes import Standing
from fakes_grants import FakeGrantStore
from worlds import World

LIFE = timedelta(seconds=3600)
DEAD = CredentialError(Code.CONSENT_NEEDED, "The provider answers invalid_grant.")


class Minting:
    """Passes of an hour for whoever pushes; ``failing`` is raised instead while it is set."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.failing: CloudPushError | None = None
        self.pushes: list[UUID] = []
        self.refused: list[Secret] = []

    def mint(self, push: Push, refused: Secret | None = None) -> Pass:
        self.pushes.append(push.id)
        self.refused += [refused] if refused is not None else []
        if self.failing is not None:
            raise self.failing
        now = self.world.clock.now()
        token = Bearer(f"token-{len(self.refused) + 1}", now + LIFE, now + LIFE * 0.8)
        return Pass(token, token.expires_at, token.renew_at)

    def check(self, grant: Grant) -> None:
        raise AssertionError("nobody asks here")


class GrantWorld(World):
    """A worker that carries with a grant of the push's owner."""

    def __init__(self, source: Path, limits: Limits | None = None) -> None:
        super().__init__(source, limits)
        self.minting = Minting(self)
        self.couriers[OAUTH_GRANT] = GrantCourier(
            minter=self.minting, engine=self.carrier, inspector=self.bucket, clock=self.clock, roots=(source,)
        )
        self.grants = FakeGrantStore(pushes=self.store)
        self.grant = self.grants.give(
            Grant(
                id=CREDENTIAL,
                owner=OWNER,
                name="drive",
                kind=OAUTH_GRANT,
                provider="google",
                state=GrantState.ACTIVE,
                credential_state="active",
                generation=1,
                created_at=NOON,
            )
        )

    def submit(self, **changes: Any) -> Push:
        return super().submit(**({"credential_kind": OAUTH_GRANT} | changes))

    def die(self) -> None:
        """The provider says that the refresh token is dead."""
        self.minting.failing = DEAD
        self.grants.fail_refresh(self.grant, DEAD, "worker-1")

    def reconnect(self) -> int:
        """The user consents anew; how many pushes go on."""
        self.minting.failing = None
        number = self.grants.reserve(CREDENTIAL)
        return self.grants.reconnect(CREDENTIAL, number, 1, Tokens("t"), (), OWNER)

    def at(self, path: str, do: Callable[[], object]) -> None:
        """Do it, and let a beat pass, when ``path`` is about to be sent."""

        def during(now: str) -> None:
            if now == path:
                do()
                self.leases.beat()

        self.carrier.during = during


@pytest.fixture
def world(tmp_path: Path) -> GrantWorld:
    """A source of three files, which are one part."""
    made = GrantWorld(tmp_path)
    made.write("a", "b", "c")
    return made


@pytest.fixture
def many(tmp_path: Path) -> GrantWorld:
    """A source of three files, which are three parts."""
    made = GrantWorld(tmp_path, Limits(files=1))
    made.write("a", "b", "c")
    return made


def test_push_goes_as_with_a_key(world: GrantWorld) -> None:
    """Planned, carried with one pass, verified, recorded."""
    push = world.submit()

    world.run(push.id)

    assert (world.store.standing(push.id), world.store.events(push.id)[3], world.carrier.secrets) == (
        Standing(State.SUCCEEDED, None, 0, 1, "checksum", (3, 0, 0, 0)),
        "credential.used",
        [{"access_token": "token-1"}],
    )
    assert world.minting.pushes == [push.id]


def test_nothing_is_minted_before_its_use_is_recorded(world: GrantWorld) -> None:
    """As a key is not unsealed."""
    push = world.submit()
    world.grants.revoke(CREDENTIAL, OWNER)

    state = world.run(push.id)

    assert (state, world.store.standing(push.id).code, world.minting.pushes, world.carrier.sent) == (
        State.FAILED,
        "CONSENT_REVOKED",
        [],
        [],
    )


def test_revocation_stops_what_runs(world: GrantWorld) -> None:
    """In the middle of a batch, at the next beat."""
    push = world.submit()
    world.at("b", lambda: world.grants.revoke(CREDENTIAL, OWNER))

    state = world.run(push.id)

    assert (state, world.store.standing(push.id).code, world.carrier.sent, world.carrier.opened) == (
        State.FAILED,
        "CONSENT_REVOKED",
        ["a"],
        0,
    )
    assert {f.code for f in world.store.files(push.id)} == {"CONSENT_REVOKED"}


def test_revocation_ends_parts_that_are_queued(many: GrantWorld) -> None:
    """What was proved before stays so."""
    push = many.submit()
    many.run(push.id)
    many.at("b", lambda: many.grants.revoke(CREDENTIAL, OWNER))

    many.run_parts(push.id)

    assert (many.store.standing(push.id), [f.state for f in many.store.files(push.id)]) == (
        Standing(State.FAILED, "CONSENT_REVOKED", 0, 1, "checksum", (1, 0, 0, 2)),
        [FileState.VERIFIED, FileState.FAILED, FileState.FAILED],
    )


def test_revocation_while_it_is_planned_ends_it(many: GrantWorld) -> None:
    """A walk of hours stops as well."""
    push = many.submit()

    def revoke() -> None:
        many.grants.revoke(CREDENTIAL, OWNER)
        many.leases.beat()

    many.store.during["record_page"] = revoke

    assert (many.run(push.id), many.store.standing(push.id).code) == (State.FAILED, "CONSENT_REVOKED")


def test_share_that_ends_stops_whom_it_was_shared_with(world: GrantWorld) -> None:
    """And nobody else."""
    share = Share(CREDENTIAL, CREDENTIAL, "pipeline", "s3://results/runs", NOON + LIFE, NOON, OWNER)
    world.grants.share(share, OWNER)
    theirs = world.submit(owner="pipeline", credential_owner=OWNER)
    world.at("b", lambda: world.grants.unshare(share.id, OWNER, OWNER))
    world.run(theirs.id)
    world.carrier.during = lambda path: None
    mine = world.submit()
    world.run(mine.id)

    assert (world.store.standing(theirs.id).code, world.store.standing(mine.id).state) == (
        "CONSENT_REVOKED",
        State.SUCCEEDED,
    )


def test_push_waits_for_consent_and_goes_on_where_it_stopped(many: GrantWorld) -> None:
    """Files with a verdict are not sent again."""
    push = many.submit()
    many.run(push.id)
    many.cloudpush.run_part(push.id, 1)
    many.die()
    for number in (2, 3):
        many.cloudpush.run_part(push.id, number)
    waiting = many.store.standing(push.id)
    sent = list(many.carrier.sent)

    resumed = many.reconnect()
    many.run_parts(push.id)

    assert (waiting.state, waiting.code, sent, resumed) == (State.AWAITING_CONSENT, "CONSENT_NEEDED", ["a"], 1)
    assert (many.store.standing(push.id).tally, many.carrier.sent) == ((3, 0, 0, 0), ["a", "b", "c"])


def test_push_waits_before_it_is_planned_to_its_end(world: GrantWorld) -> None:
    """One part: it is planned and executed in one go."""
    push = world.submit()
    world.die()

    assert (world.run(push.id), world.store.standing(push.id).code) == (State.AWAITING_CONSENT, "CONSENT_NEEDED")


def test_part_stops_where_consent_is_needed_on_the_way(world: GrantWorld) -> None:
    """The renewer hears of it, and the part with it."""
    push = world.submit()

    def due() -> None:
        world.die()
        raise an_error(Code.CREDENTIAL_EXPIRED)

    world.carrier.during = lambda path: due() if path == "b" else None

    assert (world.run(push.id), world.store.standing(push.id).code) == (State.AWAITING_CONSENT, "CONSENT_NEEDED")


def test_token_that_is_refused_is_renewed_in_the_middle_of_a_part(world: GrantWorld) -> None:
    """Once, and the push succeeds as if nothing had been."""
    push = world.submit()
    refusals = [an_error(Code.CREDENTIAL_EXPIRED)]

    def during(path: str) -> None:
        if path == "b" and refusals:
            raise refusals.pop()

    world.carrier.during = during

    assert world.run(push.id) is State.SUCCEEDED
    assert (len(world.minting.refused), world.store.standing(push.id).strikes) == (1, 0)


@pytest.mark.parametrize(
    ("code", "strikes"), [(Code.CLIENT_REJECTED, 0), (Code.VAULT_SEALED, 0), (Code.PROVIDER_UNAVAILABLE, 1)]
)
def test_what_passes_is_tried_again(world: GrantWorld, code: Code, strikes: int) -> None:
    """What is the operator's to mend counts against nobody."""
    push = world.submit()
    world.minting.failing = an_error(code)

    world.run(push.id)

    standing = world.store.part_standing(push.id, 1)
    assert (standing.state, standing.code, standing.strikes) == (State.QUEUED, code.value, strikes)
