"""Signed URLs where steps of different people cross: a plan and fresh URLs, a purge, an outage, a callback."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloudpush.errors import Code, DestinationError, StoreError
from cloudpush.push.planning import Limits
from cloudpush.push.ports import Control
from cloudpush.push.retry import Policy
from cloudpush.push.signed.courier import UrlCourier
from cloudpush.push.signed.model import SIGNED_URLS, Arrival, Kind
from cloudpush.push.signed.ports import Errand
from cloudpush.push.states import State
from fakes_uploader import HOOK, PREFIX, FakeUploader, SignedWorld, a_ticket

HOUR = 3601


class Faithful(FakeUploader):
    """Stores content where its URL leads, as a provider does, not where the plan says."""

    def __init__(self, world: SignedWorld) -> None:
        super().__init__(world.clock.now)
        self.stored: dict[str, bytes] = {}

    def _send(self, errand: Errand, control: Control) -> Arrival:
        outcome = super()._send(errand, control)
        if errand.ticket is not None:
            self.stored[errand.ticket.key] = (self._root / errand.file.path).read_bytes()
        return outcome


@pytest.fixture
def world(tmp_path: Path) -> SignedWorld:
    return SignedWorld(tmp_path)


def test_fresh_urls_in_another_order_put_no_content_under_a_foreign_key(world: SignedWorld) -> None:
    """They come while the files are planned, numbered their own way: those that do not fit are not used."""
    world.write("a", "b")
    uploader = Faithful(world)
    world.couriers[SIGNED_URLS] = UrlCourier(replace(world.kit, uploader=uploader))
    push = world.hand_over(a_ticket("a"), a_ticket("b"))
    world.store.during["finish_plan_with"] = lambda: world.resign(push, {1: a_ticket("b"), 2: a_ticket("a")})

    world.run(push.id)  # a set that came meanwhile is looked at before anybody waits
    world.store.during.clear()
    paused = world.cloudpush.run_part(push.id, 1)

    assert (paused, uploader.stored) == (State.AWAITING_CONSENT, {})
    world.resign(push, {1: a_ticket("a"), 2: a_ticket("b")})
    assert world.cloudpush.run_part(push.id, 1) is State.SUCCEEDED
    assert uploader.stored == {f"{PREFIX}/a": b"a", f"{PREFIX}/b": b"b"}


@pytest.mark.parametrize("hook", [None, HOOK])
def test_a_set_that_is_destroyed_while_it_is_planned_shortens_no_plan(tmp_path: Path, hook: object) -> None:
    """A plan that lacks a file would end as a success: the push waits for all of its URLs instead."""
    world = SignedWorld(tmp_path, Limits(files=2))
    names = "abcdefgh"
    world.write(*names)
    push = world.hand_over(*(a_ticket(n, expires=world.in_an_hour()) for n in names), hook_id=hook)
    world.store.during["record_page"] = lambda: world.purge(push.credential_id)

    state = world.run(push.id)

    assert (state, world.store.standing(push.id).code) == (State.AWAITING_CONSENT, "URL_EXPIRED")


def test_pieces_that_cannot_be_stored_undo_nothing_that_arrived(world: SignedWorld) -> None:
    """Postgres is away for a moment: what was sent is not sent again."""
    world.write("a", "m", data=b"12345678")
    push = world.hand_over(a_ticket("a"), a_ticket("m", Kind.MULTIPART))

    def away() -> None:
        raise StoreError(Code.DATABASE_UNREACHABLE, "away")

    world.store.during["record_pieces"] = away

    assert (world.run(push.id), world.uploader.sent.count("a")) == (State.SUCCEEDED, 1)


def test_failures_before_fresh_urls_came_do_not_count_after(tmp_path: Path) -> None:
    """A callback that was away used all attempts up; then its push was helped, and the network fails once."""
    world = SignedWorld(tmp_path, policy=Policy(strikes=2))
    world.write("a")
    push = world.hand_over(a_ticket("a", expires=world.clock.now()), hook_id=HOOK)
    world.hook.failing = DestinationError(Code.NETWORK, "away")
    world.run(push.id)
    world.clock.advance(HOUR)
    paused = world.cloudpush.run_part(push.id, 1)
    world.resign(push, {1: a_ticket("a")})
    world.uploader.refused = {"a": DestinationError(Code.NETWORK, "a moment")}

    state = world.cloudpush.run_part(push.id, 1)

    assert (paused, state, world.store.part_standing(push.id, 1).strikes) == (
        State.AWAITING_CONSENT,
        State.RUNNING,
        1,
    )


def test_a_part_of_refusals_alone_waits_for_no_urls(tmp_path: Path) -> None:
    """Nobody could hand over URLs for files that are not there."""
    world = SignedWorld(tmp_path, Limits(files=1))
    world.write("a")
    push = world.hand_over(*(a_ticket(n, expires=world.in_an_hour()) for n in ("a", "missing")))
    world.run(push.id)
    world.cloudpush.run_part(push.id, 1)
    world.clock.advance(HOUR)

    assert world.cloudpush.run_part(push.id, 2) is State.FAILED
    assert world.store.events(push.id).count("credential.used") == 1


def test_a_callback_is_told_that_an_upload_in_parts_is_under_way(world: SignedWorld) -> None:
    """Its set is gone, so nothing but its parts shows it; one URL for all of it would begin anew."""
    world.write("m", data=b"123456789012")
    push = world.hand_over(a_ticket("m", Kind.MULTIPART, expires=world.in_an_hour()), hook_id=HOOK)

    def fail(name: str) -> None:
        if name == "m#3":
            raise DestinationError(Code.NETWORK, "gone")

    world.uploader.during = fail
    world.run(push.id)
    world.uploader.during = lambda _name: None
    world.clock.advance(HOUR)
    world.purge(push.credential_id)
    world.cloudpush.run_part(push.id, 1)

    assert world.hook.asked[0][0].kind is Kind.MULTIPART
