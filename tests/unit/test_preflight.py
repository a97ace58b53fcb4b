"""Trying a destination out with a tiny object before anything moves, with everything around it in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from cloudpush.errors import Cancelled, CloudPushError, Code, DestinationError, VaultError
from cloudpush.push.job import Seen
from cloudpush.push.preflight import ABORT, DELETE, PROBE, Check, Report
from cloudpush.push.states import State, Strength
from fakes import Standing
from fakes_inspector import GoOn
from worlds import SECRET, World

SEEN = Seen(exists=True)
DENIED = DestinationError(Code.ACCESS_DENIED, "No.")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A worker that tries new pairs out, and a source of two files."""
    source = tmp_path / "source"
    source.mkdir()
    made = World(source, preflight=True)
    made.write("a", "b")
    return made


def try_out(world: World, *wants: str, min_strength: Strength = Strength.SIZE) -> Report:
    """A preflight by itself."""
    preflight = world.cloudpush._preflight
    assert preflight is not None
    return preflight.run(world.submit(min_strength=min_strength), GoOn(), wants)


def found(report: Report) -> list[tuple[str, bool, Code | None]]:
    return [(check.name, check.ok, check.code) for check in report.checks]


# -- what is tried ----------------------------------------------------------------------------------


def test_probe_is_written_looked_at_and_deleted(world: World) -> None:
    """Below the prefix, under a name of its own; nothing stays, and the strength that can be had is told."""
    report = try_out(world)

    assert (found(report), report.error) == (
        [("write", True, None), ("head", True, None), ("delete", True, None)],
        None,
    )
    assert (report.checks[1].strength, world.bucket.objects) == ("checksum", {})
    assert [key.startswith(f"runs/7/{PROBE}") for key in world.carrier.removed] == [True]
    assert world.carrier.opened == 0


def test_destination_that_may_not_be_written_to_is_asked_nothing_more(world: World) -> None:
    """The first obstacle is the answer."""
    world.carrier.failing = DENIED

    report = try_out(world, DELETE, ABORT)

    assert (found(report), report.error and report.error.code) == (
        [("write", False, Code.ACCESS_DENIED)],
        Code.ACCESS_DENIED,
    )


@pytest.mark.parametrize(("wants", "ok"), [((), True), ((DELETE,), False)])
def test_probe_that_may_not_be_deleted_is_named(world: World, wants: tuple[str, ...], ok: bool) -> None:
    """A warning, or a failure where deleting was wished."""
    world.carrier.keeping = DENIED

    report = try_out(world, *wants)

    last = report.checks[-1]
    assert (last.name, last.ok, last.code, PROBE in last.message) == ("delete", ok, Code.ACCESS_DENIED, True)
    assert (report.error is None) is ok


@pytest.mark.parametrize(("demanded", "ok"), [(Strength.RESPONSE, True), (Strength.SIZE, False)])
def test_credential_that_may_not_look_is_enough_for_who_demands_no_proof(
    world: World, demanded: Strength, ok: bool
) -> None:
    """The probe is deleted all the same."""
    world.bucket.hidden = _Everything()

    report = try_out(world, min_strength=demanded)

    assert found(report) == [("write", True, None), ("head", ok, Code.ACCESS_DENIED), ("delete", True, None)]


def test_strength_that_cannot_be_had_is_told_before_anything_moves(world: World) -> None:
    """No destination rereads for us by itself."""
    report = try_out(world, min_strength=Strength.REREAD)

    assert (found(report)[1], report.checks[1].strength) == (("head", False, Code.NOT_VERIFIED), "checksum")


def test_what_arrives_damaged_or_not_at_all_fails(world: World) -> None:
    """As a file of a push would."""
    world.carrier.damaged = _Everything()
    damaged = try_out(world)
    world.carrier.dropped = _Everything()
    dropped = try_out(world)

    assert [report.error and report.error.code for report in (damaged, dropped)] == [
        Code.CORRUPTED,
        Code.OBJECT_MISSING,
    ]


def test_upload_is_begun_and_forgotten_where_that_is_wished(world: World) -> None:
    """By the engine, as after a killed worker."""
    report = try_out(world, ABORT)

    assert (found(report)[-1], world.bucket.uploads, len(world.carrier.abandoned)) == (("abort", True, None), {}, 1)


def test_upload_that_cannot_be_listed_is_ended_by_its_id(world: World) -> None:
    """It is a failure, but nothing is left behind."""
    world.carrier.tidying = DENIED

    report = try_out(world, ABORT)

    assert (found(report)[-1], world.bucket.uploads) == (("abort", False, Code.ACCESS_DENIED), {})


def test_upload_that_cannot_be_begun_fails(world: World) -> None:
    """Nothing is there to be aborted."""
    world.bucket.closed = DENIED

    assert found(try_out(world, ABORT))[-1] == ("abort", False, Code.ACCESS_DENIED)


def test_better_words_of_the_destination_are_taken(world: World) -> None:
    """The engine says that a region is wrong; the destination says which is right."""
    world.carrier.failing = DestinationError(Code.NO_SUCH_BUCKET, "Nothing there, or elsewhere.")
    world.bucket.error = DestinationError(Code.WRONG_REGION, "It is in eu-west-1.")

    report = try_out(world)

    assert str(report.error) == "WRONG_REGION: It is in eu-west-1."


def test_check_tells_json_what_it_has_and_no_more() -> None:
    """Empty fields are left out."""
    assert Check("head", ok=True, ms=3, strength="checksum").told() == {
        "name": "head",
        "ok": True,
        "ms": 3,
        "strength": "checksum",
    }


# -- in the life of a push ----------------------------------------------------------------------------


def test_push_of_a_new_pair_is_preceded_by_a_preflight_and_the_next_one_is_not(world: World) -> None:
    """Before it is planned; the use of the credential is recorded first."""
    first, second = world.submit(), world.submit()

    states = [world.run(push.id) for push in (first, second)]

    assert states == [State.SUCCEEDED, State.SUCCEEDED]
    assert world.store.events(first.id)[:5] == [
        "push.queued",
        "push.claimed",
        "credential.used",
        "push.preflight",
        "push.planned",
    ]
    assert "push.preflight" not in world.store.events(second.id)
    assert sorted(world.bucket.objects) == ["runs/7/a", "runs/7/b"]


def test_push_whose_preflight_fails_sends_nothing_and_says_why(world: World) -> None:
    """With the check's own code."""
    world.carrier.failing = DestinationError(Code.WRONG_REGION, "elsewhere")
    push = world.submit()

    state = world.run(push.id)

    assert (state, world.store.standing(push.id)) == (State.FAILED, Standing(State.FAILED, "WRONG_REGION", 0, 1))
    assert (world.store.calls["record_page"], world.store.calls["finish_plan_with"], world.carrier.sent) == (0, 0, [])
    assert world.store.events(push.id)[-2:] == ["push.preflight", "push.failed"]


def test_preflight_that_fails_in_passing_is_tried_again_with_its_push(world: World) -> None:
    """A throttled probe is a throttled push."""
    world.carrier.failing = DestinationError(Code.THROTTLED, "slow down")
    push = world.submit()
    world.run(push.id)
    queued = world.store.standing(push.id)
    world.carrier.failing = None
    world.clock.advance(600)

    assert (queued.state, queued.strikes, world.run(push.id)) == (State.QUEUED, 1, State.SUCCEEDED)


def test_cancelled_push_is_not_tried_out(world: World) -> None:
    """Somebody asked to stop it between the claim and the probe."""
    push = world.submit()

    def cancel() -> None:
        world.store.cancel(push.id)

    world.store.during["begin_preflight"] = cancel

    assert (world.run(push.id), world.carrier.sent) == (State.CANCELLED, [])


def test_push_that_is_cancelled_while_it_is_tried_out_ends_so(world: World) -> None:
    """It is no failure of the destination."""
    push = world.submit()

    def cancel(_path: str) -> None:
        raise Cancelled

    world.carrier.during = cancel

    assert (world.run(push.id), world.store.reports) == (State.CANCELLED, [])


def test_probe_of_a_push_that_is_cancelled_meanwhile_does_not_stay(world: World) -> None:
    """What was written goes, whatever became of who wrote it."""
    control = Stopping(after=2)
    preflight = world.cloudpush._preflight
    assert preflight is not None

    with pytest.raises(Cancelled):
        preflight.run(world.submit(), control)

    assert (len(world.carrier.removed), world.bucket.objects) == (1, {})


def test_probe_of_a_worker_that_was_killed_over_it_is_deleted_by_the_next_attempt(world: World) -> None:
    """Its name tells whose it is. Those of other pushes are let alone."""
    preflight = world.cloudpush._preflight
    assert preflight is not None
    push = world.submit()
    mine, another = (f"runs/7/{PROBE}{one.hex}-1" for one in (push.id, uuid4()))
    world.bucket.objects |= dict.fromkeys((mine, another), SEEN)

    preflight.run(replace(push, attempt=2), GoOn())

    assert list(world.bucket.objects) == [another]


def test_sealed_vault_is_no_failed_preflight(world: World) -> None:
    """Nothing was tried: the push waits, and nothing is recorded of its destination."""
    world.vault.failing = VaultError(Code.VAULT_SEALED, "sealed")
    push = world.submit()

    assert (world.run(push.id), world.store.reports) == (State.QUEUED, [])


def test_report_holds_no_secret(world: World) -> None:
    """Whatever the engine says is redacted where it arises; nothing else is added."""
    report = try_out(world, DELETE, ABORT)

    assert SECRET not in repr(report)


class Stopping:
    """A control that is asked to stop after so many looks."""

    def __init__(self, after: int) -> None:
        self.left = after

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled


class _Everything(set[str]):
    def __contains__(self, _item: object) -> bool:
        return True


def test_errors_of_reports_are_the_first_failed_checks() -> None:
    """A warning is none."""
    report = Report((Check("write", ok=True), Check("delete", ok=True, code=Code.ACCESS_DENIED, message="kept")))
    error = Report((*report.checks, Check("abort", ok=False, code=Code.THROTTLED, message="slow"))).error

    assert (report.error, isinstance(error, CloudPushError) and error.code) == (None, Code.THROTTLED)
