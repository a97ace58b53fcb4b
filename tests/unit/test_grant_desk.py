"""The user's side of grants: whose they are, what is noted, what is announced."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from builders import NOON, OWNER
from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.push.credential import Caller
from cloudpush.push.grants.desk import LONGEST_SHARE, Grants
from cloudpush.push.grants.model import OAUTH_GRANT, Chore, Grant, GrantState, Share
from cloudpush.push.job import Destination, Profile
from fakes import FakeClock
from fakes_grants import FakeGrantStore
from unit.test_grant_keeping import Book

ADA = Caller(OWNER)
EVE = Caller("eve")
ROOT = Caller("root", operator=True)
UNTIL = NOON + timedelta(days=30)


def parse(uri: str, profile: str) -> Destination:
    """As intake's, for the one scheme that there is."""
    scheme, _, rest = uri.partition("://")
    if scheme != "gs" or profile != "gcs":
        raise InputError(Code.BAD_URI, f"{uri!r} is not for {profile!r}", field="destination")
    bucket, _, prefix = rest.partition("/")
    return Destination(scheme, bucket, prefix.removesuffix("/"), Profile(profile, "gcs"))


class Desk:
    """A desk with one grant of ada's."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeGrantStore(self.clock)
        self.grants = Grants(store=self.store, clock=self.clock, providers=Book(), parse=parse)
        self.id = self.give()

    def give(self, **changes: Any) -> UUID:
        """A further grant."""
        values: dict[str, Any] = {"id": uuid4(), "owner": OWNER, "name": "drive", "kind": OAUTH_GRANT}
        values |= {"provider": "google", "state": GrantState.ACTIVE, "credential_state": "active", "generation": 1}
        return self.store.give(Grant(**(values | changes))).id

    def share(self, **changes: Any) -> Share:
        """Shared with a pipeline, for a month."""
        values: dict[str, Any] = {"principal": "pipeline", "uri": "gs://results/run/", "until": UNTIL}
        return self.grants.share(ADA, self.id, **(values | changes))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_revoking_is_noted_once(desk: Desk) -> None:
    """However often it is asked for."""
    states = [desk.grants.revoke(ADA, desk.id).state for _ in range(2)]

    assert (states, list(desk.store.due_chores(desk.id))) == (
        [GrantState.REVOKING, GrantState.REVOKING],
        [Chore.REVOKE],
    )


@pytest.mark.parametrize("act", ["show", "revoke", "check", "shares", "waiting"])
def test_grants_are_their_owners_business(desk: Desk, act: str) -> None:
    """And an operator's."""
    getattr(desk.grants, act)(ROOT, desk.id)
    other = desk.give(owner="somebody", name="other")

    with pytest.raises(InputError) as caught:
        getattr(desk.grants, act)(EVE, other)

    assert caught.value.code is Code.NOT_OWNER
    assert list(desk.store.due_chores(other)) == []


@pytest.mark.parametrize("act", ["show", "revoke", "check", "shares", "waiting"])
def test_unknown_grants_are_refused(desk: Desk, act: str) -> None:
    """With the code that scripts know."""
    with pytest.raises(InputError) as caught:
        getattr(desk.grants, act)(ADA, uuid4())

    assert caught.value.code is Code.UNKNOWN_GRANT


def test_grant_is_found_by_id_and_by_name(desk: Desk) -> None:
    """By name among one's own."""
    assert (desk.grants.find(ADA, str(desk.id)).id, desk.grants.find(ADA, "drive").id) == (desk.id, desk.id)
    with pytest.raises(InputError) as caught:
        desk.grants.find(EVE, "drive")
    assert caught.value.code is Code.UNKNOWN_GRANT


def test_everyones_grants_are_an_operators_to_list(desk: Desk) -> None:
    """Nobody else's."""
    desk.give(owner="eve", name="hers")

    assert (len(desk.grants.list(ADA)), len(desk.grants.list(ROOT, everyone=True))) == (1, 2)
    with pytest.raises(InputError) as caught:
        desk.grants.list(ADA, everyone=True)
    assert caught.value.code is Code.NOT_OWNER


def test_check_is_a_chore(desk: Desk) -> None:
    """Noted, for a worker."""
    desk.grants.check(ADA, desk.id)

    assert list(desk.store.due_chores(desk.id)) == [Chore.CHECK]
    assert desk.grants.checking(ADA, desk.id)
    desk.store.end_chore(desk.id, Chore.CHECK, None, None)
    assert not desk.grants.checking(ADA, desk.id)


def test_what_is_revoked_is_not_tried_out(desk: Desk) -> None:
    """It is over."""
    desk.grants.revoke(ADA, desk.id)

    with pytest.raises(InputError) as caught:
        desk.grants.check(ADA, desk.id)

    assert caught.value.code is Code.CONSENT_REVOKED


def test_share_is_for_a_prefix_and_until_a_date(desk: Desk) -> None:
    """The prefix is written as pushes write theirs."""
    made = desk.share()

    assert (made.uri, made.principal, made.until, made.created_by) == ("gs://results/run", "pipeline", UNTIL, OWNER)
    assert [g.id for g, _ in desk.grants.shared_with(Caller("pipeline"))] == [desk.id]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"principal": ""}, "principal"),
        ({"principal": "x" * 201}, "principal"),
        ({"principal": "line\nbreak"}, "principal"),
        ({"principal": OWNER}, "principal"),
        ({"uri": "s3://results/run"}, "uri"),
        ({"until": NOON}, "until"),
        ({"until": NOON + LONGEST_SHARE + timedelta(seconds=1)}, "until"),
    ],
)
def test_share_that_makes_no_sense_is_refused(desk: Desk, changes: dict[str, Any], field: str) -> None:
    """With the field, and nothing stored."""
    with pytest.raises(InputError) as caught:
        desk.share(**changes)

    assert (caught.value.field, desk.store.shares(desk.id)) == (field, [])


def test_only_its_owner_and_operators_end_a_share(desk: Desk) -> None:
    """Not whom it was shared with."""
    made = desk.share()

    with pytest.raises(CloudPushError) as caught:
        desk.grants.unshare(Caller("pipeline"), made.id)
    ended = desk.grants.unshare(ROOT, made.id)

    assert (caught.value.code, ended.ended_at) == (Code.NOT_OWNER, NOON)
