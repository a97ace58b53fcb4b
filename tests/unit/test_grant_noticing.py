"""A consent that is needed anew is written down, whoever says so first."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from builders import OWNER, a_push, an_error
from cloudpush.errors import CloudPushError, Code, CredentialError
from cloudpush.push.grants.model import OAUTH_GRANT, Chore, Grant, GrantState, Pass
from cloudpush.push.grants.noticing import NoticingMinter
from cloudpush.push.job import Push, Secret
from cloudpush.push.retry import OUTAGES
from fakes_grants import FakeGrantStore
from fakes_inspector import PlainSecret

NEEDED = CredentialError(Code.CONSENT_NEEDED, "The storage account does not take the token.")


@dataclass
class Minting:
    """Fails as it is told."""

    failing: CloudPushError | None = None
    refused: list[Secret | None] = field(default_factory=list)

    def mint(self, push: Push, refused: Secret | None = None) -> Pass:
        self.refused.append(refused)
        self.check(None)
        return Pass(PlainSecret(), None, None)

    def check(self, grant: Grant | None) -> None:
        if self.failing is not None:
            raise self.failing


class Stage:
    def __init__(self) -> None:
        self.store = FakeGrantStore()
        self.minting = Minting()
        self.grant = self.store.give(
            Grant(
                id=uuid4(),
                owner=OWNER,
                name="lab",
                kind=OAUTH_GRANT,
                provider="azure",
                state=GrantState.ACTIVE,
                credential_state="active",
                generation=1,
            )
        )
        self.minter = NoticingMinter(self.minting, self.store, "worker-1")
        self.push = a_push(credential_id=self.grant.id, credential_kind=OAUTH_GRANT)

    @property
    def state(self) -> GrantState:
        found = self.store.get(self.grant.id)
        assert found is not None
        return found.state


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize("act", ["mint", "check"])
def test_destination_that_wants_another_consent_makes_the_grant_say_so(stage: Stage, act: str) -> None:
    """Its pushes wait, its user is told."""
    stage.minting.failing = NEEDED

    with pytest.raises(CredentialError):
        getattr(stage.minter, act)(stage.push if act == "mint" else stage.grant)

    assert (stage.state, list(stage.store.due_chores(stage.grant.id))) == (GrantState.RECONNECT, [Chore.NOTIFY])


@pytest.mark.parametrize(
    "error",
    [
        an_error(Code.ACCESS_DENIED),
        CredentialError(Code.CREDENTIAL_CORRUPT, "broken"),
        an_error(Code.ENDPOINT_UNRESOLVABLE),  # a user's answer is part of the host's name
    ],
)
def test_other_failures_are_not_about_consent(stage: Stage, error: CloudPushError) -> None:
    """They go up as they are."""
    stage.minting.failing = error

    with pytest.raises(type(error)):
        stage.minter.mint(stage.push)

    assert stage.state is GrantState.ACTIVE


@pytest.mark.parametrize("code", [Code.PROVIDER_UNAVAILABLE, Code.THROTTLED, Code.NETWORK])
def test_access_that_cannot_be_lent_just_now_is_an_outage(stage: Stage, code: Code) -> None:
    """Nothing of the push was tried: STS may be down for longer than twelve strikes last."""
    stage.minting.failing = an_error(code)

    with pytest.raises(CloudPushError) as caught:
        stage.minter.mint(stage.push)

    assert (caught.value.code, caught.value.code in OUTAGES) == (Code.GRANT_UNAVAILABLE, True)


def test_what_is_known_is_not_told_again(stage: Stage) -> None:
    """One notice for each reconnect."""
    stage.minting.failing = NEEDED
    for _ in range(2):
        with pytest.raises(CredentialError):
            stage.minter.mint(stage.push)

    assert stage.store.events(stage.grant.id).count("grant.reconnect_needed") == 1


def test_refused_secret_reaches_the_minter(stage: Stage) -> None:
    """And a pass comes back."""
    secret = PlainSecret()

    stage.minter.mint(stage.push, secret)

    assert stage.minting.refused == [secret]
