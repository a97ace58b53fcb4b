"""What opens the destination on a trip: renewed ahead of its end, told to the session, and the trip's own stop."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from builders import a_file, an_error
from cloudpush.errors import (
    Cancelled,
    CloudPushError,
    Code,
    ConsentRevoked,
    CredentialError,
    EngineError,
    LeaseLost,
    VaultError,
)
from cloudpush.push.grants.model import Bearer, Pass
from cloudpush.push.job import FileResult, PlannedFile, Progress, Secret
from cloudpush.push.keys import LONGEST_PAUSE, PAUSE, FixedKey, RenewedKey
from cloudpush.push.ports import Control, Session
from cloudpush.push.states import FileState, Strength
from fakes import FakeClock
from fakes_inspector import GoOn, PlainSecret

LIFE = timedelta(seconds=10)


class Minting:
    """Makes passes that live ten seconds and are due after eight; ``failing`` is raised instead while it is set."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.failing: CloudPushError | None = None
        self.stuck = False
        self.made: list[Pass] = []
        self.refused: list[Secret | None] = []

    def __call__(self, refused: Secret | None) -> Pass:
        self.refused.append(refused)
        if self.failing is not None:
            raise self.failing
        if not self.stuck or not self.made:
            now = self.clock.now()
            token = Bearer(f"token-{len(self.made) + 1}", now + LIFE, now + LIFE * 0.8)
            self.made.append(Pass(token, token.expires_at, token.renew_at))
        return self.made[-1]


class Told(Session):
    """A session that keeps what it was told."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.failing: CloudPushError | None = None
        self.heard = threading.Event()

    def renew(self, secret: Secret) -> None:
        self.tokens.append(secret.reveal()["access_token"])
        self.heard.set()
        if self.failing is not None:
            raise self.failing

    def piece_size(self, size: int) -> int | None:
        return None

    def send(self, root: Path, files: Sequence[PlannedFile], control: Control) -> Mapping[int, CloudPushError]:
        return {}

    def abandon(self, keys: Sequence[str], control: Control) -> int:
        return 0

    def remove(self, keys: Sequence[str], control: Control) -> Mapping[str, CloudPushError]:
        return {}

    def progress(self) -> Progress:
        return Progress()


class Stopped(Control):
    def check(self) -> None:
        raise Cancelled


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def minting(clock: FakeClock) -> Minting:
    return Minting(clock)


def a_key(minting: Minting, control: Control | None = None) -> RenewedKey:
    return RenewedKey(minting, control or GoOn(), minting.clock, "a-push")


def token(key: RenewedKey) -> str:
    return key.secret().reveal()["access_token"]


def sent(*files: PlannedFile) -> list[FileResult]:
    return [FileResult(f.seq, FileState.VERIFIED, Strength.CHECKSUM) for f in files]


# -- ahead of its end --------------------------------------------------------------------------------


def test_pass_is_minted_once_until_it_is_due(clock: FakeClock, minting: Minting) -> None:
    """However often somebody looks."""
    key = a_key(minting)
    clock.advance(7.9)
    key.look()
    key.look()

    assert (len(minting.made), token(key), round(key.wait(), 1)) == (1, "token-1", 0.1)


def test_session_is_told_of_each_further_secret(clock: FakeClock, minting: Minting) -> None:
    """As soon as the pass is due, not when it has ended."""
    key, session = a_key(minting), Told()
    with key.kept_valid(session):
        for _ in range(3):
            clock.advance(8)
            key.look()

    assert (session.tokens, token(key)) == (["token-2", "token-3", "token-4"], "token-4")


def test_nobody_is_told_once_the_trip_is_over(clock: FakeClock, minting: Minting) -> None:
    """A session that is closed takes no secrets."""
    key, session = a_key(minting), Told()
    with key.kept_valid(session):
        pass
    clock.advance(8)
    key.look()

    assert session.tokens == []


def test_thread_renews_by_itself_and_ends_with_the_trip() -> None:
    """By the real clock, with a pass that is due at once."""

    class Now(FakeClock):
        def now(self) -> datetime:
            return datetime.now(UTC)

    minting, session = Minting(Now()), Told()
    made = minting(None)
    minting.made = [Pass(made.secret, made.expires_at, datetime.now(UTC))]
    minting.stuck = True
    key = a_key(minting)
    minting.stuck = False

    with key.kept_valid(session):
        [thread] = [t for t in threading.enumerate() if t.name == "renewer-a-push"]
        assert session.heard.wait(10)
    thread.join(10)

    assert (thread.daemon, thread.is_alive(), session.tokens) == (True, False, ["token-2"])


def test_a_pass_without_end_is_never_renewed(clock: FakeClock, minting: Minting) -> None:
    """There is nothing to wait for."""
    minting.made, minting.stuck = [Pass(PlainSecret(), None, None)], True
    key = a_key(minting)
    clock.advance(1e6)
    key.look()
    key.check()

    assert len(minting.refused) == 1


# -- where there is no further one ---------------------------------------------------------------------


def test_a_failure_that_may_pass_leaves_the_trip_alone_until_the_pass_ends(clock: FakeClock, minting: Minting) -> None:
    """Then it is the reason, not an expired credential."""
    key = a_key(minting)
    minting.failing = VaultError(Code.VAULT_SEALED, "sealed")
    clock.advance(8)
    key.look()
    key.check()
    clock.advance(2)

    with pytest.raises(VaultError) as caught:
        key.check()

    assert caught.value.code is Code.VAULT_SEALED


def test_a_failure_that_passed_is_forgotten(clock: FakeClock, minting: Minting) -> None:
    """The trip goes on."""
    key = a_key(minting)
    minting.failing = an_error(Code.PROVIDER_UNAVAILABLE)
    clock.advance(8)
    key.look()
    minting.failing = None
    key.look()
    clock.advance(11)  # beyond the end of the second one, too: the old failure is not its reason
    key.check()

    assert token(key) == "token-2"


def test_pauses_between_failures_grow(clock: FakeClock, minting: Minting) -> None:
    """A provider that is down is not hammered, nor one that gives the same token again."""
    key = a_key(minting)
    clock.advance(8)
    minting.stuck = True
    waits = []
    for _ in range(7):
        key.look()
        waits.append(key.wait())

    assert waits == [PAUSE, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE]


@pytest.mark.parametrize("why", [ConsentRevoked(), CredentialError(Code.CONSENT_NEEDED, "dead")])
def test_consent_that_is_gone_stops_the_trip_at_once(clock: FakeClock, minting: Minting, why: CloudPushError) -> None:
    """Although the pass would live on; and nobody asks again."""
    key = a_key(minting)
    minting.failing = why
    clock.advance(8)
    key.look()
    key.look()

    with pytest.raises(type(why)) as caught:
        key.check()

    assert (caught.value.code, len(minting.refused)) == (why.code, 2)


def test_a_defect_while_renewing_ends_nothing_before_the_pass_does(
    clock: FakeClock, minting: Minting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread lives on, and tries again."""
    key = a_key(minting)

    def broken(refused: Secret | None) -> Pass:
        raise ZeroDivisionError

    monkeypatch.setattr(key, "_mint", broken)
    clock.advance(8)
    key.look()
    key.check()
    clock.advance(2)

    with pytest.raises(CloudPushError) as caught:
        key.check()

    assert caught.value.code is Code.INTERNAL


def test_what_stops_the_push_stops_the_trip(minting: Minting) -> None:
    """Before anything about the pass."""
    with pytest.raises(Cancelled):
        a_key(minting, Stopped()).check()


def test_an_engine_that_takes_no_secret_does_not_end_the_trip(clock: FakeClock, minting: Minting) -> None:
    """What runs fails by itself, and is sent again with the new one."""
    key, session = a_key(minting), Told()
    session.failing = EngineError(Code.ENGINE_CRASHED, "gone")
    with key.kept_valid(session):
        clock.advance(8)
        key.look()
        key.check()

    assert token(key) == "token-2"


# -- refused before its end ------------------------------------------------------------------------------


def expired(*files: PlannedFile) -> list[FileResult]:
    return [FileResult(f.seq, FileState.FAILED, error=an_error(Code.CREDENTIAL_EXPIRED)) for f in files]


def test_files_refused_as_expired_are_sent_once_more_with_another_secret(minting: Minting) -> None:
    """And only they."""
    key = a_key(minting)
    first = key.secret()
    files = [a_file(1), a_file(2), a_file(3)]
    calls: list[tuple[str, list[int]]] = []

    def deliver(some: Sequence[PlannedFile]) -> list[FileResult]:
        calls.append((token(key), [f.seq for f in some]))
        return sent(*some) if len(calls) == 2 else [*sent(some[0]), *expired(*some[1:])]

    results = key.used(deliver, files)

    assert (calls, sorted(r.seq for r in results), {r.state for r in results}) == (
        [("token-1", [1, 2, 3]), ("token-2", [2, 3])],
        [1, 2, 3],
        {FileState.VERIFIED},
    )
    assert minting.refused == [None, first]


def test_batch_refused_as_expired_is_sent_once_more(minting: Minting) -> None:
    """As where the destination was only asked what is there."""
    key = a_key(minting)

    def deliver(some: Sequence[PlannedFile]) -> list[FileResult]:
        if token(key) == "token-1":
            raise an_error(Code.CREDENTIAL_EXPIRED)
        return sent(*some)

    assert [r.state for r in key.used(deliver, [a_file(1)])] == [FileState.VERIFIED]


@pytest.mark.parametrize("raising", [True, False])
def test_what_is_refused_again_may_pass(minting: Minting, raising: bool) -> None:
    """Nobody is told to add a credential: there is none to add."""
    key = a_key(minting)

    def deliver(some: Sequence[PlannedFile]) -> list[FileResult]:
        if raising:
            raise an_error(Code.CREDENTIAL_EXPIRED)
        return expired(*some)

    try:
        [result] = key.used(deliver, [a_file(1)])
        told: CloudPushError | None = result.error
        assert result.state is FileState.PLANNED
    except CloudPushError as e:
        told = e

    assert told is not None
    assert (told.code, len(minting.made)) == (Code.PROVIDER_UNAVAILABLE, 2)


@pytest.mark.parametrize(("seconds", "words"), [(9, "a moment ago"), (10, "raise the provider's session_seconds")])
def test_what_outlasted_its_secret_is_told_from_what_was_refused_early(
    clock: FakeClock, minting: Minting, seconds: float, words: str
) -> None:
    """An upload that is given nothing further under way: its user reads what is to be raised."""
    key = a_key(minting)

    def late(files: Sequence[PlannedFile]) -> list[FileResult]:
        clock.advance(seconds=seconds)
        return expired(*files)

    def later(files: Sequence[PlannedFile]) -> list[FileResult]:
        clock.advance(seconds=seconds)
        raise an_error(Code.CREDENTIAL_EXPIRED)

    [result] = key.used(late, [a_file(1)])
    with pytest.raises(CloudPushError) as raised:
        key.used(later, [a_file(1)])

    assert result.error is not None
    assert (result.state, result.error.code, raised.value.code) == (FileState.PLANNED, *[Code.PROVIDER_UNAVAILABLE] * 2)
    assert words in result.error.message
    assert words in raised.value.message


def test_two_lanes_that_are_refused_renew_once(minting: Minting) -> None:
    """The second one finds what the first one brought."""
    key = a_key(minting)
    both = threading.Barrier(2, timeout=10)

    def deliver(some: Sequence[PlannedFile]) -> list[FileResult]:
        if token(key) == "token-1":
            both.wait()
            raise an_error(Code.CREDENTIAL_EXPIRED)
        return sent(*some)

    lanes = [threading.Thread(target=key.used, args=(deliver, [a_file(n)])) for n in (1, 2)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join(10)

    assert len(minting.made) == 2


def test_consent_that_is_needed_anew_is_what_a_refusal_leads_to(minting: Minting) -> None:
    """Where the provider's own page revoked it, that is how we hear of it."""
    key = a_key(minting)
    minting.failing = CredentialError(Code.CONSENT_NEEDED, "invalid_grant")

    with pytest.raises(CredentialError) as caught:
        key.used(expired_batch, [a_file(1)])

    assert caught.value.code is Code.CONSENT_NEEDED


@pytest.mark.parametrize(
    "why", [CredentialError(Code.CONSENT_NEEDED, "invalid_grant"), an_error(Code.GRANT_UNAVAILABLE)]
)
def test_what_arrived_before_a_refusal_is_kept_where_no_other_secret_is_to_be_had(
    minting: Minting, why: CloudPushError
) -> None:
    """Else it would be sent again when its user has consented; with overwrite=never it would even fail."""
    key = a_key(minting)
    minting.failing = why

    def deliver(some: Sequence[PlannedFile]) -> list[FileResult]:
        return [*sent(some[0]), *expired(*some[1:])]

    results = key.used(deliver, [a_file(1), a_file(2)])

    assert [(r.seq, r.state, r.error) for r in results] == [
        (1, FileState.VERIFIED, None),
        (2, FileState.PLANNED, why),
    ]


def test_lost_lease_is_no_matter_of_files(minting: Minting) -> None:
    """Somebody else has taken over: nothing is written."""
    key = a_key(minting)
    calls: list[int] = []

    def deliver(some: Sequence[PlannedFile]) -> list[FileResult]:
        calls.append(len(some))
        if len(calls) == 2:
            raise LeaseLost("the part")
        return [*sent(some[0]), *expired(*some[1:])]

    with pytest.raises(LeaseLost):
        key.used(deliver, [a_file(1), a_file(2)])


def expired_batch(some: Sequence[PlannedFile]) -> list[FileResult]:
    return expired(*some)


def test_other_refusals_are_not_about_the_secret(minting: Minting) -> None:
    """They are told as they are."""
    key = a_key(minting)

    def deliver(some: Sequence[PlannedFile]) -> list[FileResult]:
        raise an_error(Code.ACCESS_DENIED)

    with pytest.raises(CloudPushError) as caught:
        key.used(deliver, [a_file(1)])

    assert (caught.value.code, len(minting.made)) == (Code.ACCESS_DENIED, 1)


def test_fixed_key_stays_refused() -> None:
    """An access key that expired is not sent with again."""
    key = FixedKey(PlainSecret(), GoOn())
    calls: list[int] = []

    def deliver(some: Sequence[PlannedFile]) -> list[FileResult]:
        calls.append(len(some))
        return expired(*some)

    results = key.used(deliver, [a_file(1)])

    assert (calls, results[0].state) == ([1], FileState.FAILED)
