"""Passes: made once, kept while they are not due, renewed before they end, never across a reconnect."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from builders import NOON, OWNER, a_push
from cloudpush.credentials import minting
from cloudpush.credentials.kinds import parse
from cloudpush.credentials.mint_aws import IdentityOverError, Keys
from cloudpush.credentials.mint_azure import DelegationKey
from cloudpush.credentials.minting import Mint
from cloudpush.errors import CloudPushError, Code, ConsentRevoked, CredentialError, DestinationError
from cloudpush.push.credential import CredentialState
from cloudpush.push.grants.model import Bearer, GrantState, Pass, Provider, Sas, Tokens, Use
from cloudpush.push.job import Destination, Profile, Push
from cloudpush.push.states import Overwrite
from fakes import FakeClock
from fakes_mint import ROLE, FakeAccess, FakeIdentity, Grants, OneProvider, a_provider, an_active_grant, some_tokens

HOUR = timedelta(hours=1)


@dataclass
class World:
    """A mint whose providers are functions that the test owns."""

    provider: Provider
    tokens: list[Tokens]
    monkeypatch: pytest.MonkeyPatch
    clock: FakeClock = field(default_factory=FakeClock)
    identity: FakeIdentity = field(default_factory=FakeIdentity)
    asked: list[dict[str, Any]] = field(default_factory=list)
    failing: list[CloudPushError] = field(default_factory=list)
    gate: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.grants = Grants(an_active_grant())
        self.access = FakeAccess(self.grants, *self.tokens)
        self.mint = Mint(
            access=self.access,
            store=self.grants,  # type: ignore[arg-type]
            providers=OneProvider(self.provider),
            identity=self.identity,
            clock=self.clock,
        )
        self.monkeypatch.setattr(minting, "assume", self._assume)
        self.monkeypatch.setattr(minting, "fetch_key", self._fetch_key)

    def _enter(self, **what: Any) -> int:
        self.asked.append(what)
        self.gate()
        if self.failing:
            raise self.failing.pop(0)
        return len(self.asked)

    def _assume(self, provider: Provider, role: Any, identity: str, *, name: str, policy: str) -> Keys:
        number = self._enter(role=role.arn, identity=identity, name=name, policy=policy)
        given = {"access_key_id": f"AK{number}", "secret_access_key": f"secret-{number}", "session_token": f"t{number}"}
        return Keys(parse("access_key", given), self.clock.now() + timedelta(seconds=provider.session_seconds))

    def _fetch_key(self, provider: Provider, account: Any, access_token: str, now: datetime) -> DelegationKey:
        number = self._enter(account=account.name, token=access_token)
        life = 2 * timedelta(seconds=provider.session_seconds)
        value = f"key {number}".encode()
        return DelegationKey("oid", "tid", "start", "expiry", "b", "v", value, now, now + life)

    def push(self, prefix: str = "runs/7", bucket: str = "results", **changes: Any) -> Push:
        """A push with the grant."""
        destination = Destination("s3", bucket, prefix, Profile("seaweedfs", "seaweedfs"))
        return a_push(**({"destination": destination} | changes))


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """Makes a world for one use of grants."""

    def make(use: Use, *tokens: Tokens, **changes: Any) -> World:
        held = list(tokens) or [some_tokens("1", expires_at=NOON + HOUR), some_tokens("2", expires_at=NOON + HOUR)]
        return World(a_provider(use, **changes), held, monkeypatch)

    return make


Maker = Callable[..., World]
KEPT = [Use.USER_DELEGATION_SAS, Use.WEB_IDENTITY]


# -- bearer ------------------------------------------------------------------------------------------


def test_a_bearer_pass_is_the_access_token_until_it_is_due(make: Maker) -> None:
    """A fifth of its life before its end, ten minutes at most."""
    world = make(Use.BEARER, some_tokens("1", expires_at=NOON + HOUR), endpoint="https://storage.example")
    due = NOON + timedelta(minutes=50)
    assert world.mint.mint(world.push()) == Pass(
        Bearer("access-1", NOON + HOUR, due, "https://storage.example"), NOON + HOUR, due
    )


@pytest.mark.parametrize("use", [Use.BEARER, Use.USER_DELEGATION_SAS])
@pytest.mark.parametrize("ends", [NOON + HOUR, None])
def test_what_is_made_trusts_whom_the_provider_does(make: Maker, use: Use, ends: datetime | None) -> None:
    made = make(use, some_tokens("1", expires_at=ends), ca_file="/lab/ca.pem")
    secret = made.mint.mint(made.push()).secret
    assert isinstance(secret, Bearer | Sas)
    assert secret.ca_file == "/lab/ca.pem"


def test_a_token_without_an_end_is_never_due(make: Maker) -> None:
    world = make(Use.BEARER, some_tokens("1"))
    assert world.mint.mint(world.push()) == Pass(Bearer("access-1", None, None), None, None)


def test_a_token_that_could_not_be_renewed_is_used_on_and_asked_for_again_soon(make: Maker) -> None:
    """Not at once and not for ever: whoever keeps a push valid would ask without pause."""
    world = make(Use.BEARER, some_tokens("1", expires_at=NOON + HOUR))
    for minutes, pause in ((55, 30), (59, 30), (59.9, 3), (59.99, 1)):
        world.clock.moment = NOON + timedelta(minutes=minutes)
        made = world.mint.mint(world.push())
        assert made.renew_at is not None
        assert made.renew_at - world.clock.now() == timedelta(seconds=pause)


def test_a_refused_token_is_exchanged_for_one_of_a_later_generation_once(make: Maker) -> None:
    """Whoever was refused the first gets the second; so does whoever comes later with the first."""
    world = make(Use.BEARER)
    push = world.push()
    first = world.mint.mint(push)
    second = world.mint.mint(push, first.secret)
    assert second.secret.reveal() == {"access_token": "access-2"}
    assert world.mint.mint(push, first.secret).secret.reveal() == {"access_token": "access-2"}
    assert world.access.asked == [0, 1, 0]


# -- what is kept ------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", KEPT)
def test_a_pass_is_kept_until_it_is_due(make: Maker, use: Use) -> None:
    world = make(use)
    push = world.push()
    first = world.mint.mint(push)
    assert (first.expires_at, first.renew_at) == (NOON + HOUR, NOON + timedelta(minutes=50))
    world.clock.moment = NOON + timedelta(minutes=49)
    assert world.mint.mint(push) is first
    world.clock.moment = NOON + timedelta(minutes=50)
    second = world.mint.mint(push)
    assert second is not first
    assert second.expires_at == NOON + timedelta(minutes=110)


@pytest.mark.parametrize("use", KEPT)
def test_whoever_asks_meanwhile_waits_for_the_one_that_is_made(make: Maker, use: Use) -> None:
    world = make(use)
    inside, go_on = threading.Event(), threading.Event()

    def gate() -> None:
        inside.set()
        assert go_on.wait(10)

    world.gate = gate
    push, made = world.push(), []
    threads = [threading.Thread(target=lambda: made.append(world.mint.mint(push))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(world.asked) == 1
    assert len({id(one) for one in made}) == 1
    assert len(made) == 8


@pytest.mark.parametrize("use", KEPT)
def test_others_do_not_wait(make: Maker, use: Use) -> None:
    """While one account's pass is made, another grant's is made, too."""
    world = make(use)
    other = an_active_grant(id=uuid4(), settings={"account": "other", "role_arn": f"{ROLE}2", "region": "eu-west-1"})
    world.grants.known[other.id] = other
    meeting = threading.Barrier(2, timeout=10)

    def gate() -> None:
        meeting.wait()

    world.gate = gate
    pushes = [world.push(), world.push(credential_id=other.id)]
    threads = [threading.Thread(target=world.mint.mint, args=(push,)) for push in pushes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not meeting.broken
    assert len(world.asked) == 2


@pytest.mark.parametrize("use", KEPT)
def test_a_reconnect_ends_what_was_kept(make: Maker, use: Use) -> None:
    """It may be another account's."""
    world = make(use)
    push = world.push()
    first = world.mint.mint(push)
    world.grants.change(granted_at=NOON + HOUR)
    assert world.mint.mint(push) is not first
    assert len(world.asked) == 2


@pytest.mark.parametrize("use", KEPT)
def test_a_refused_pass_is_not_given_again(make: Maker, use: Use) -> None:
    world = make(use)
    push = world.push()
    first = world.mint.mint(push)
    second = world.mint.mint(push, first.secret)
    assert second.secret.reveal() != first.secret.reveal()
    assert world.mint.mint(push, first.secret) is second  # has happened by now
    assert len(world.asked) == 2


def test_a_renewal_that_may_yet_succeed_is_no_error_while_the_pass_lives(make: Maker) -> None:
    world = make(Use.WEB_IDENTITY)
    push = world.push()
    first = world.mint.mint(push)
    away = DestinationError(Code.PROVIDER_UNAVAILABLE, "away")
    world.clock.moment = NOON + timedelta(minutes=55)
    world.failing = [away]
    kept = world.mint.mint(push)
    assert kept == replace(first, renew_at=world.clock.now() + timedelta(seconds=30))
    assert world.mint.mint(push) is kept
    world.clock.moment = NOON + HOUR
    world.failing = [away]
    with pytest.raises(DestinationError):
        world.mint.mint(push)
    assert world.mint.mint(push).expires_at == NOON + 2 * HOUR


@pytest.mark.parametrize("code", [Code.ACCESS_DENIED, Code.CONSENT_NEEDED])
def test_a_refusal_for_good_is_told_although_the_pass_lives(make: Maker, code: Code) -> None:
    world = make(Use.WEB_IDENTITY)
    push = world.push()
    world.mint.mint(push)
    world.clock.moment = NOON + timedelta(minutes=55)
    world.failing = [CloudPushError(code, "no")]
    with pytest.raises(CloudPushError) as caught:
        world.mint.mint(push)
    assert caught.value.code is code


@pytest.mark.parametrize("seconds", [-3600, 0])
def test_a_session_that_seems_to_be_over_is_not_asked_for_without_pause(make: Maker, seconds: int) -> None:
    """Two clocks disagree: whoever keeps a push valid would ask STS in a loop."""
    world = make(Use.WEB_IDENTITY, session_seconds=seconds)
    push = world.push()
    made = world.mint.mint(push)
    assert made.renew_at == NOON + timedelta(seconds=1)
    assert world.mint.mint(push) is made


@pytest.mark.parametrize("use", KEPT)
def test_what_is_over_is_forgotten(make: Maker, use: Use) -> None:
    """Thousands of pushes leave nothing behind; nor do those that failed."""
    world = make(use)
    world.failing = [DestinationError(Code.ACCESS_DENIED, "no")]
    with pytest.raises(DestinationError):
        world.mint.mint(world.push("failed"))
    for number in range(20):
        world.clock.advance(7200)
        world.mint.mint(world.push(f"runs/{number}", f"results-{number}"))
    assert len(world.mint._passes._slots) == 1
    assert len(world.mint._keys._slots) <= 1


# -- Azure ---------------------------------------------------------------------------------------------


def test_containers_share_a_key_and_have_signatures_of_their_own(make: Maker) -> None:
    world = make(Use.USER_DELEGATION_SAS)
    one, two = (world.mint.mint(world.push(bucket=name)).secret for name in ("one", "two"))
    assert isinstance(one, Sas)
    assert isinstance(two, Sas)
    assert one.container_url == "https://labresults.blob.core.windows.net/one"
    assert one.query != two.query
    assert world.asked == [{"account": "labresults", "token": "access-1"}]


def test_prefixes_of_a_flat_account_share_a_signature_and_directories_do_not(make: Maker) -> None:
    world = make(Use.USER_DELEGATION_SAS)
    assert world.mint.mint(world.push("a")) is world.mint.mint(world.push("b"))
    world.grants.change(settings={"account": "labresults", "namespace": "hierarchical"})
    one, two = world.mint.mint(world.push("a")), world.mint.mint(world.push("b"))
    assert one is not two
    assert "sr=d" in one.secret.reveal()["query"]


def test_a_key_signs_for_the_first_half_of_its_life(make: Maker) -> None:
    """So that what is signed last has its whole life."""
    world = make(Use.USER_DELEGATION_SAS)
    world.mint.mint(world.push())
    world.clock.moment = NOON + timedelta(minutes=59)
    made = world.mint.mint(world.push(bucket="late"))
    assert made.expires_at == NOON + timedelta(minutes=119)
    assert len(world.asked) == 1
    world.clock.moment = NOON + HOUR
    world.mint.mint(world.push(bucket="later"))
    assert len(world.asked) == 2


def test_a_key_that_azure_refuses_the_token_for_is_asked_for_with_the_next(make: Maker) -> None:
    world = make(Use.USER_DELEGATION_SAS)
    world.failing = [CredentialError(Code.CONSENT_NEEDED, "bad token")]
    world.mint.mint(world.push())
    assert [call["token"] for call in world.asked] == ["access-1", "access-2"]
    assert world.access.asked == [0, 1]


# -- AWS -----------------------------------------------------------------------------------------------


def test_a_session_bears_the_name_of_its_push(make: Maker) -> None:
    """The account's own log says which push it was, so two pushes share none."""
    world = make(Use.WEB_IDENTITY)
    one, two = world.push(), world.push()
    world.mint.mint(one)
    world.mint.mint(two)
    assert [call["name"] for call in world.asked] == [f"cloudpush-{one.id}", f"cloudpush-{two.id}"]
    assert len(f"cloudpush-{one.id}") <= 64
    assert world.identity.issued == [(world.push().credential_id, "cloudpush", 300)] * 2


def test_who_overwrites_whatever_is_there_may_not_list(make: Maker) -> None:
    world = make(Use.WEB_IDENTITY)
    world.mint.mint(world.push(overwrite=Overwrite.ALWAYS))
    world.mint.mint(world.push(overwrite=Overwrite.IF_DIFFERENT))
    assert ['s3:ListBucket"' in call["policy"] for call in world.asked] == [False, True]


def test_their_own_identity_token_is_the_consents(make: Maker) -> None:
    tokens = [some_tokens("1", id_token="theirs-1"), some_tokens("2", id_token="theirs-2")]
    world = make(Use.WEB_IDENTITY, *tokens, identity_token="theirs")
    world.mint.mint(world.push())
    assert world.asked[0]["identity"] == "theirs-1"
    assert world.identity.issued == []


def test_an_identity_token_that_ended_before_the_access_token_is_renewed(make: Maker) -> None:
    tokens = [some_tokens("1", id_token="theirs-1"), some_tokens("2", id_token="theirs-2")]
    world = make(Use.WEB_IDENTITY, *tokens, identity_token="theirs")
    world.failing = [IdentityOverError(Code.PROVIDER_UNAVAILABLE, "over")]
    world.mint.mint(world.push())
    assert [call["identity"] for call in world.asked] == ["theirs-1", "theirs-2"]


def test_a_consent_without_identity_token_needs_another(make: Maker) -> None:
    world = make(Use.WEB_IDENTITY, some_tokens("1"), identity_token="theirs")
    with pytest.raises(CredentialError, match="openid") as caught:
        world.mint.mint(world.push())
    assert caught.value.code is Code.CONSENT_NEEDED


# -- who may ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", list(Use))
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": GrantState.REVOKING}, Code.CONSENT_REVOKED),
        ({"state": GrantState.REVOKED}, Code.CONSENT_REVOKED),
        ({"state": GrantState.RECONNECT}, Code.CONSENT_NEEDED),
        ({"credential_state": CredentialState.PURGING}, Code.CREDENTIAL_PURGED),
        ({"credential_state": CredentialState.SEALING}, Code.CREDENTIAL_PURGED),
        ({"owner": "mallory"}, Code.NOT_OWNER),
        ({"provider": "gone"}, Code.UNKNOWN_PROVIDER),
    ],
)
def test_nothing_is_given_out_of_memory_that_may_not_be_used(
    make: Maker, use: Use, changes: dict[str, Any], code: Code
) -> None:
    """Looked up before each pass, the kept ones too."""
    world = make(use)
    push = world.push()
    world.mint.mint(push)
    world.grants.change(**changes)
    with pytest.raises(CloudPushError) as caught:
        world.mint.mint(push)
    assert caught.value.code is code


def test_revoked_is_an_outcome_of_its_own(make: Maker) -> None:
    world = make(Use.BEARER)
    world.grants.change(state=GrantState.REVOKED)
    with pytest.raises(ConsentRevoked):
        world.mint.mint(world.push())


def test_an_unknown_grant_is_named(make: Maker) -> None:
    world = make(Use.BEARER)
    with pytest.raises(CredentialError) as caught:
        world.mint.mint(world.push(credential_id=UUID(int=7)))
    assert caught.value.code is Code.UNKNOWN_GRANT


def test_a_shared_grant_is_its_owners(make: Maker) -> None:
    world = make(Use.BEARER)
    assert world.mint.mint(world.push(owner="pipeline", credential_owner=OWNER))
    with pytest.raises(CredentialError):
        world.mint.mint(world.push(owner="pipeline"))


@pytest.mark.parametrize("use", list(Use))
def test_what_a_grant_gives_goes_to_its_own_cloud_only(make: Maker, use: Use) -> None:
    world = make(use)
    elsewhere = Destination("s3", "results", "x", Profile("mallorys", "other", "https://mallory.example"))
    with pytest.raises(CloudPushError) as caught:
        world.mint.mint(world.push(destination=elsewhere))
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "profile")
    assert world.asked == []
    assert world.access.asked == []


# -- trying it out ---------------------------------------------------------------------------------------


def test_a_check_of_tokens_asks_for_them(make: Maker) -> None:
    world = make(Use.BEARER)
    world.mint.check(an_active_grant())
    assert world.access.asked == [0]


def test_a_check_of_an_account_asks_for_a_key_and_keeps_none(make: Maker) -> None:
    world = make(Use.USER_DELEGATION_SAS)
    world.mint.check(an_active_grant())
    world.mint.mint(world.push())
    assert len(world.asked) == 2


def test_a_check_of_a_role_borrows_nothing_and_sees_that_strangers_are_refused(make: Maker) -> None:
    world = make(Use.WEB_IDENTITY)
    world.gate = lambda: refuse_from_second(world)
    world.mint.check(an_active_grant())
    assert [call["policy"] for call in world.asked] == [
        '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}'
    ] * 2
    (mine, _, _), (stranger, _, _) = world.identity.issued
    assert mine == an_active_grant().id
    assert stranger != mine


def refuse_from_second(world: World) -> None:
    """As a role with a proper trust policy does."""
    if len(world.asked) == 2:
        raise DestinationError(Code.ACCESS_DENIED, "no")


def test_a_role_that_accepts_everybody_fails_the_check(make: Maker) -> None:
    """Without `sub` in its trust policy any other user of this CloudPush could name it and have its keys."""
    world = make(Use.WEB_IDENTITY)
    with pytest.raises(CloudPushError, match=f"`sub` is {an_active_grant().id}") as caught:
        world.mint.check(an_active_grant())
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "role_arn")


def test_a_check_that_could_not_be_finished_is_no_success(make: Maker) -> None:
    world = make(Use.WEB_IDENTITY)

    def gate() -> None:
        if len(world.asked) == 2:
            raise DestinationError(Code.THROTTLED, "slow down")

    world.gate = gate
    with pytest.raises(DestinationError) as caught:
        world.mint.check(an_active_grant())
    assert caught.value.code is Code.THROTTLED


@pytest.mark.parametrize("arn", ["arn:aws:iam::role/Push"])
def test_a_server_of_ones_own_is_not_asked_about_strangers(make: Maker, arn: str) -> None:
    """It has one trust policy for all of its users, which is its operator's business."""
    world = make(Use.WEB_IDENTITY)
    world.grants.change(settings={"role_arn": arn, "region": "us-east-1"})
    world.mint.check(an_active_grant())
    assert len(world.asked) == 1
