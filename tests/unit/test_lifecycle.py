"""The whole story of a push, from its message to its verdict, with everything around it in memory."""

from __future__ import annotations

import traceback
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from builders import a_lease, an_error
from cloudpush.errors import Code, DestinationError, EngineError, StoreError
from cloudpush.push import lifecycle
from cloudpush.push.job import Progress, Push, Seen
from cloudpush.push.planning import Limits
from cloudpush.push.retry import Policy
from cloudpush.push.states import FileState, Overwrite, State, Strength
from fakes import FileStanding, Standing
from worlds import SECRET, World

PREFIX = "runs/7/"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A worker, and a source of two files."""
    made = World(tmp_path)
    made.write("a", "b")
    return made


@pytest.fixture
def many(tmp_path: Path) -> World:
    """A worker that cuts into parts of two files, and a source of five."""
    made = World(tmp_path, Limits(files=2))
    made.write("a", "b", "c", "d", "e")
    return made


def proved(*seqs: int) -> list[FileStanding]:
    return [FileStanding(s, FileState.VERIFIED, "checksum") for s in seqs]


# -- a push that goes well -------------------------------------------------------------------------


def test_a_small_push_is_one_part_without_a_message(world: World) -> None:
    """It is planned, delivered, verified and ended by the worker that got its only message."""
    push = world.submit()

    state = world.run(push.id)

    assert (state, world.store.standing(push.id), world.store.events(push.id)) == (
        State.SUCCEEDED,
        Standing(State.SUCCEEDED, None, 0, 1, "checksum", (2, 0, 0, 0)),
        ["push.queued", "push.claimed", "push.planned", "credential.used", "part.finished", "push.succeeded"],
    )
    assert (world.announcer.announced, world.announcer.endings) == ([], [(push.id, State.SUCCEEDED)])


def test_files_arrive_under_the_prefix(world: World) -> None:
    """Directories become parts of the keys."""
    world.write("sub/c")
    push = world.submit()

    world.run(push.id)

    assert sorted(world.bucket.objects) == [PREFIX + "a", PREFIX + "b", PREFIX + "sub/c"]


def test_a_single_file_is_pushed_under_its_name(world: World) -> None:
    """The source may be a file."""
    push = world.submit(source=world.source / "a")

    state = world.run(push.id)

    assert (state, list(world.bucket.objects)) == (State.SUCCEEDED, [PREFIX + "a"])


def test_patterns_choose_what_is_pushed(world: World) -> None:
    """Include first, then exclude."""
    world.write("c.tmp", "d.csv", "e.csv")
    push = world.submit(include=("*.csv", "*.tmp"), exclude=("e.*",))

    world.run(push.id)

    assert sorted(world.carrier.sent) == ["c.tmp", "d.csv"]


def test_a_file_result_says_what_was_proved(world: World) -> None:
    """Digest, ETag and time are recorded with the verdict."""
    push = world.submit(source=world.source / "a")

    world.run(push.id)

    result = world.store.result(push.id, 1)
    assert result is not None
    assert result.sha256 is not None
    assert (result.sha256.hex()[:8], result.etag, result.expected, result.uploaded_at) == (
        "ca978112",
        "0cc175b9c0f1b6a831c399e269772661",
        "0cc175b9c0f1b6a831c399e269772661",
        world.clock.now(),
    )


def test_many_parts_are_announced_and_the_last_one_ends_the_push(many: World) -> None:
    """Planning ends with messages that carry numbers; the push runs until its last part is over."""
    push = many.submit()

    planned = many.run(push.id)
    ended = many.run_parts(push.id)

    assert (planned, many.announcer.announced, ended, many.store.standing(push.id).tally) == (
        State.RUNNING,
        [(push.id, 1), (push.id, 2), (push.id, 3)],
        [State.RUNNING, State.RUNNING, State.SUCCEEDED],
        (5, 0, 0, 0),
    )
    assert many.announcer.endings == [(push.id, State.SUCCEEDED)]


def test_a_second_message_does_nothing(world: World) -> None:
    """A push that is over, unknown or somebody else's is not executed."""
    push, other = world.submit(), world.submit()
    world.run(push.id)
    world.store.claim_push(other.id, a_lease())

    assert (world.run(push.id), world.run(other.id), world.run(uuid4())) == (None, None, None)
    assert world.store.events(push.id).count("push.claimed") == 1


def test_a_second_message_of_a_part_does_nothing(many: World) -> None:
    """Each part is executed once."""
    push = many.submit()
    many.run(push.id)
    many.run_parts(push.id)

    assert (many.run_parts(push.id), len(many.carrier.sent)) == ([None, None, None], 5)


def test_parts_go_out_later_when_the_broker_is_away(many: World) -> None:
    """They are stored: the sweep announces them."""
    push = many.submit()
    many.announcer.away = True

    state = many.run(push.id)

    assert (state, many.store.part_standing(push.id, 3)) == (State.RUNNING, Standing(State.QUEUED))


def test_the_secret_reaches_the_engine_and_is_forgotten(world: World) -> None:
    """The session is closed, and nothing that was recorded holds the secret."""
    world.carrier.failing = DestinationError(Code.BAD_SIGNATURE, "The signature does not match.")
    push = world.submit()

    world.run(push.id)

    error = world.store.error(push.id)
    assert error is not None
    assert (world.carrier.secrets[0]["secret_access_key"], world.carrier.opened) == (SECRET, 0)
    assert SECRET not in "".join(traceback.format_exception(error)) + repr(error)


def test_each_attempt_has_a_name_of_its_own_in_the_engine(many: World) -> None:
    """Two attempts of one part never share a remote."""
    push = many.submit()
    many.run(push.id)
    many.run_parts(push.id)

    assert len(set(many.carrier.groups)) == 3


def _tried_twice(world: World) -> Push:
    """A push of files that go in pieces, whose first attempt failed in passing."""
    world.carrier.piece = 1
    push = world.submit(min_strength=Strength.SIZE)
    world.carrier.failing = EngineError(Code.ENGINE_CRASHED, "rclone was killed")
    world.run(push.id)
    world.carrier.failing = None
    world.clock.advance(300)
    return push


def test_a_second_attempt_forgets_what_the_first_left_half_sent(world: World) -> None:
    """Pieces of an unfinished upload cost the user money; a first attempt has none to forget."""
    push = _tried_twice(world)
    before = list(world.carrier.abandoned)

    state = world.cloudpush.run_part(push.id, 1)

    files = len(world.store.files(push.id))
    assert (before, len(set(world.carrier.abandoned)), state) == ([], files, State.SUCCEEDED)


def test_a_credential_that_may_not_tidy_up_sends_all_the_same(world: World) -> None:
    """Listing uploads is a right of its own."""
    world.carrier.tidying = DestinationError(Code.ACCESS_DENIED, "may not list uploads")
    push = _tried_twice(world)

    assert world.cloudpush.run_part(push.id, 1) is State.SUCCEEDED


# -- planning that does not work ---------------------------------------------------------------------


def test_an_empty_source_fails(world: World) -> None:
    """Nothing matched is no success."""
    push = world.submit(exclude=("*",))

    assert (world.run(push.id), world.store.standing(push.id)) == (
        State.FAILED,
        Standing(State.FAILED, "SOURCE_EMPTY", 0, 1),
    )


def test_a_source_that_is_gone_fails(world: World) -> None:
    """It was there when the push was submitted."""
    push = world.submit(source=world.source / "gone")

    assert (world.run(push.id), world.store.standing(push.id), world.announcer.endings) == (
        State.FAILED,
        Standing(State.FAILED, "SOURCE_MISSING", 0, 1),
        [(push.id, State.FAILED)],
    )


def test_a_refused_file_fails_alone(world: World) -> None:
    """A link that leads nowhere; the others go on."""
    (world.source / "link").symlink_to("nowhere")
    push = world.submit()

    assert (world.run(push.id), world.store.files(push.id), world.store.standing(push.id).code) == (
        State.FAILED,
        [*proved(1, 2), FileStanding(3, FileState.FAILED, None, "SOURCE_MISSING")],
        "SOURCE_MISSING",
    )


def test_a_push_that_was_cancelled_before_its_claim_is_not_planned(world: World) -> None:
    """Its first worker vanished; the second ends it."""
    push = world.submit()
    world.store.claim_push(push.id, a_lease(seconds=30))
    world.store.cancel(push.id)
    world.clock.advance(31)

    assert (world.run(push.id), world.store.standing(push.id), world.carrier.sent) == (
        State.CANCELLED,
        Standing(State.CANCELLED, "CANCELLED", 0, 2),
        [],
    )


def test_a_large_push_that_was_cancelled_before_its_claim_is_not_walked(many: World) -> None:
    """Not a page of it is stored."""
    push = many.submit()
    many.store.claim_push(push.id, a_lease(seconds=30))
    many.store.cancel(push.id)
    many.clock.advance(31)

    assert (many.run(push.id), many.store.calls["record_page"]) == (State.CANCELLED, 0)


def test_planning_is_retried_while_the_database_is_away(world: World) -> None:
    """No verdict can be written either: the lease runs out and somebody begins anew."""
    push = world.submit()
    away = StoreError(Code.DATABASE_UNREACHABLE, "away")
    world.store.during["finish_plan_with"] = lambda: setattr(world.store, "failing", away)

    with pytest.raises(StoreError):
        world.run(push.id)
    world.store.failing = None
    world.clock.advance(31)

    assert world.run(push.id) is State.SUCCEEDED


def test_a_credential_that_went_while_the_push_waited_fails_it(world: World) -> None:
    """Nothing is unsealed and nothing is sent."""
    world.store.credential_state = "purged"
    push = world.submit()

    assert (world.run(push.id), world.store.standing(push.id).code, world.carrier.secrets) == (
        State.FAILED,
        "CREDENTIAL_PURGED",
        [],
    )


# -- errors that concern a whole part ------------------------------------------------------------------


def test_an_error_that_somebody_must_mend_ends_the_push(world: World) -> None:
    """A bucket that does not exist: every file takes its code."""
    push = world.submit()
    world.carrier.failing = DestinationError(Code.NO_SUCH_BUCKET, "no such bucket")

    assert (world.run(push.id), world.store.files(push.id), world.store.standing(push.id)) == (
        State.FAILED,
        [
            FileStanding(1, FileState.FAILED, None, "NO_SUCH_BUCKET"),
            FileStanding(2, FileState.FAILED, None, "NO_SUCH_BUCKET"),
        ],
        Standing(State.FAILED, "NO_SUCH_BUCKET", 0, 1, None, (0, 0, 0, 2)),
    )


def test_a_passing_error_is_retried_with_a_strike(world: World) -> None:
    """Later, by back-off; chance stands at its longest here."""
    push = world.submit()
    world.carrier.failing = DestinationError(Code.NETWORK, "connection reset")

    state = world.run(push.id)

    assert (state, world.store.part_standing(push.id, 1), world.store.due(push.id, 1)) == (
        State.RUNNING,
        Standing(State.QUEUED, "NETWORK", 1, 1),
        world.clock.now() + timedelta(seconds=2),
    )


def test_the_last_strike_ends_the_push(world: World) -> None:
    """Three strikes here; its error is the one that kept coming."""
    push = world.submit()
    world.carrier.failing = DestinationError(Code.NETWORK, "connection reset")
    states = [world.run(push.id)]
    for _ in range(2):
        world.clock.advance(300)
        states.append(world.cloudpush.run_part(push.id, 1))

    assert (states, world.store.standing(push.id).code) == (
        [State.RUNNING, State.RUNNING, State.FAILED],
        "NETWORK",
    )


def test_an_outage_of_our_own_is_no_strike(world: World) -> None:
    """Vault is sealed for a long time; then the push goes through."""
    push = world.submit()
    world.vault.go_away(Code.VAULT_SEALED)
    world.run(push.id)
    for _ in range(10):
        world.clock.advance(300)
        world.cloudpush.run_part(push.id, 1)
    waiting = world.store.part_standing(push.id, 1)
    world.vault.come_back()
    world.clock.advance(300)

    state = world.cloudpush.run_part(push.id, 1)

    assert (waiting, state) == (Standing(State.QUEUED, "VAULT_SEALED", 0, 11), State.SUCCEEDED)


def test_patience_with_an_outage_ends(world: World) -> None:
    """A week later nobody waits any more."""
    push = world.submit()
    world.vault.go_away()
    world.clock.advance(8 * 86_400)

    assert (world.run(push.id), world.store.standing(push.id).code) == (State.FAILED, "VAULT_UNREACHABLE")


def test_a_corrupt_credential_ends_the_push(world: World) -> None:
    """Nothing was sent."""
    push = world.submit(credential_id=uuid4())

    assert (world.run(push.id), world.store.standing(push.id).code, world.carrier.sent) == (
        State.FAILED,
        "CREDENTIAL_PURGED",
        [],
    )


def test_an_engine_that_does_not_start_is_waited_for(world: World) -> None:
    """rclone is missing on this worker: no fault of the push."""
    push = world.submit()
    world.carrier.unwilling = EngineError(Code.ENGINE_MISSING, "rclone is not there")

    world.run(push.id)

    assert world.store.part_standing(push.id, 1) == Standing(State.QUEUED, "ENGINE_MISSING", 0, 1)


def test_a_defect_of_ours_is_retried_and_then_named(world: World) -> None:
    """An exception that nobody foresaw: its words stay in the log, its kind is told."""
    push = world.submit()
    world.carrier.failing = ZeroDivisionError(f"with {SECRET} in it")
    world.run(push.id)
    waiting = world.store.part_standing(push.id, 1)
    for _ in range(2):
        world.clock.advance(300)
        world.cloudpush.run_part(push.id, 1)

    error = world.store.error(push.id)
    assert (waiting, error and error.code, error and error.message) == (
        Standing(State.QUEUED, "INTERNAL", 1, 1),
        Code.INTERNAL,
        "ZeroDivisionError inside CloudPush; the worker's log has it.",
    )


def test_a_part_that_takes_its_workers_with_it_is_ended(many: World) -> None:
    """It is not executed another time."""
    push = many.submit()
    many.run(push.id)
    for _ in range(3):
        many.clock.advance(300)
        claimed = many.store.claim_part(push.id, 1, lease := a_lease())
        assert claimed is not None
        many.store.end_part(*claimed, lease, Policy().decide(an_error(), strikes=0, age=timedelta(0), jitter=0))
    many.clock.advance(300)

    many.cloudpush.run_part(push.id, 1)

    assert (many.store.part_standing(push.id, 1), many.carrier.sent) == (
        Standing(State.FAILED, "WORKER_LOST", 3, 4),
        [],
    )


def test_a_verdict_that_cannot_be_written_leaves_the_lease_to_run_out(world: World) -> None:
    """The database went away at the end; the next worker finds the files there and proved."""
    push = world.submit()
    away = StoreError(Code.DATABASE_UNREACHABLE, "away")
    world.store.during["record_files"] = lambda: setattr(world.store, "failing", away)
    with pytest.raises(StoreError):
        world.run(push.id)
    world.store.failing = None
    world.clock.advance(31)

    state = world.cloudpush.run_part(push.id, 1)

    assert (state, world.store.standing(push.id).tally, len(world.carrier.sent)) == (State.SUCCEEDED, (0, 2, 0, 0), 2)


# -- errors of single files -----------------------------------------------------------------------------


def test_a_file_that_fails_for_good_fails_the_push(world: World) -> None:
    """The other one is there and proved, and stays so."""
    push = world.submit()
    world.carrier.refused["a"] = DestinationError(Code.TOO_LARGE, "too large")

    assert (world.run(push.id), world.store.files(push.id)) == (
        State.FAILED,
        [FileStanding(1, FileState.FAILED, "none", "TOO_LARGE"), *proved(2)],
    )


def test_a_file_that_fails_in_passing_is_tried_again_alone(world: World) -> None:
    """What is proved is not sent twice."""
    push = world.submit()
    world.carrier.refused["a"] = DestinationError(Code.THROTTLED, "slow down")
    first = world.run(push.id)
    world.carrier.refused.clear()
    world.clock.advance(300)

    second = world.cloudpush.run_part(push.id, 1)

    assert (first, second, world.carrier.sent, world.store.files(push.id)) == (
        State.RUNNING,
        State.SUCCEEDED,
        ["b", "a"],
        proved(1, 2),
    )


def test_an_upload_that_was_accepted_but_is_not_there_is_tried_again(world: World) -> None:
    """A 200 proves nothing."""
    push = world.submit()
    world.carrier.dropped.add("a")
    world.run(push.id)
    waiting = world.store.files(push.id)
    world.carrier.dropped.clear()
    world.clock.advance(300)

    state = world.cloudpush.run_part(push.id, 1)

    assert (waiting[0], state) == (FileStanding(1, FileState.PLANNED, "none", "OBJECT_MISSING"), State.SUCCEEDED)


def test_bytes_that_arrive_changed_are_corrupted_and_twice_is_too_often(world: World) -> None:
    """Never a success; the words say what was expected and what was seen."""
    push = world.submit()
    world.carrier.damaged.add("a")
    first = world.run(push.id)
    world.clock.advance(300)

    second = world.cloudpush.run_part(push.id, 1)

    error = world.store.error(push.id)
    assert (first, second, world.store.files(push.id)) == (
        State.RUNNING,
        State.FAILED,
        [FileStanding(1, FileState.FAILED, "none", "CORRUPTED"), *proved(2)],
    )
    assert error is not None
    assert "'runs/7/a' differs from its source: expected 1 bytes" in error.message


def test_a_file_that_changes_while_it_is_sent_is_noticed(world: World) -> None:
    """Its bytes at the destination are not those that were fingerprinted."""
    push = world.submit()
    world.carrier.during = lambda path: world.write(path, data=b"new content") if path == "a" else None

    assert (world.run(push.id), world.store.files(push.id)) == (
        State.FAILED,
        [FileStanding(1, FileState.FAILED, "none", "SOURCE_CHANGED"), *proved(2)],
    )


def test_a_file_that_changes_is_noticed_although_we_may_not_look(world: World) -> None:
    """Where only the answer counts, a change would otherwise pass as pushed."""
    world.bucket.hidden = {PREFIX + "a", PREFIX + "b"}
    push = world.submit(min_strength=Strength.RESPONSE)
    world.carrier.during = lambda path: world.write(path, data=b"new content") if path == "a" else None

    assert (world.run(push.id), world.store.files(push.id)) == (
        State.FAILED,
        [FileStanding(1, FileState.FAILED, "none", "SOURCE_CHANGED"), FileStanding(2, FileState.VERIFIED, "response")],
    )


def test_a_file_that_changed_since_it_was_planned_is_not_sent(many: World) -> None:
    """The plan is what was asked for."""
    push = many.submit()
    many.run(push.id)
    many.write("a", data=b"something else")

    many.cloudpush.run_part(push.id, 1)

    assert (many.store.files(push.id)[:2], many.carrier.sent) == (
        [FileStanding(1, FileState.FAILED, "none", "SOURCE_CHANGED"), *proved(2)],
        ["b"],
    )


def test_a_file_that_became_a_way_out_of_the_roots_is_not_read(
    many: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A link that was put in its place after planning, to a file of the same size and time."""
    push = many.submit()
    many.run(push.id)
    planned = many.source / "a"
    outside = tmp_path_factory.mktemp("outside") / "secret"
    planned.rename(outside)
    planned.symlink_to(outside)

    many.cloudpush.run_part(push.id, 1)

    assert (many.store.files(push.id)[:2], many.carrier.sent) == (
        [FileStanding(1, FileState.FAILED, "none", "SOURCE_OUTSIDE_ROOTS"), *proved(2)],
        ["b"],
    )


def test_a_file_that_vanished_fails_alone(many: World) -> None:
    """The others of its part go on."""
    push = many.submit()
    many.run(push.id)
    (many.source / "a").unlink()

    many.cloudpush.run_part(push.id, 1)

    assert many.store.files(push.id)[:2] == [FileStanding(1, FileState.FAILED, "none", "SOURCE_MISSING"), *proved(2)]


# -- what the destination tells -----------------------------------------------------------------------------


def test_an_upload_that_we_may_not_look_at_is_unverified(world: World) -> None:
    """A write-only key: the answer to the upload is all there is."""
    world.bucket.hidden = {PREFIX + "a", PREFIX + "b"}
    push = world.submit()

    state = world.run(push.id)

    error = world.store.error(push.id)
    assert (state, world.store.standing(push.id)) == (
        State.UNVERIFIED,
        Standing(State.UNVERIFIED, "NOT_VERIFIED", 0, 1, "response", (0, 0, 2, 0)),
    )
    assert error is not None
    assert error.message == (
        "'runs/7/a' is proved by response only ('runs/7/a' may not be looked at.); the push demands checksum."
    )


def test_a_push_that_demands_less_is_content_with_less(world: World) -> None:
    """The strength that is stored is still what was seen."""
    world.bucket.hidden = {PREFIX + "a", PREFIX + "b"}
    push = world.submit(min_strength=Strength.RESPONSE)

    assert (world.run(push.id), world.store.standing(push.id).strength) == (State.SUCCEEDED, "response")


def test_a_push_that_demands_more_than_can_be_proved_is_unverified(world: World) -> None:
    """Nothing reads the bytes back yet."""
    push = world.submit(min_strength=Strength.REREAD)

    assert (world.run(push.id), world.store.standing(push.id).strength) == (State.UNVERIFIED, "checksum")


def test_a_look_that_fails_in_passing_is_repeated(world: World) -> None:
    """The upload may be there: the next attempt will see."""
    push = world.submit(overwrite=Overwrite.ALWAYS)
    throttled = Seen(exists=None, error=DestinationError(Code.THROTTLED, "slow down"))
    world.carrier.dropped.add("a")
    world.bucket.objects[PREFIX + "a"] = throttled

    world.run(push.id)

    assert world.store.files(push.id) == [FileStanding(1, FileState.PLANNED, "none", "THROTTLED"), *proved(2)]


def test_looking_that_is_refused_as_a_whole_is_the_parts_error(world: World) -> None:
    """A session that expired: nothing of it can succeed."""
    push = world.submit()
    world.bucket.error = DestinationError(Code.CREDENTIAL_EXPIRED, "the session token expired")

    assert (world.run(push.id), world.store.standing(push.id).code) == (State.FAILED, "CREDENTIAL_EXPIRED")


# -- what is there already ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overwrite", "there", "sent", "standing"),
    [
        (Overwrite.IF_DIFFERENT, b"a", [], FileStanding(1, FileState.SKIPPED, "checksum")),
        (Overwrite.IF_DIFFERENT, b"x", ["a"], FileStanding(1, FileState.VERIFIED, "checksum")),
        (Overwrite.IF_DIFFERENT, b"longer", ["a"], FileStanding(1, FileState.VERIFIED, "checksum")),
        (Overwrite.IF_DIFFERENT, None, ["a"], FileStanding(1, FileState.VERIFIED, "checksum")),
        (Overwrite.ALWAYS, b"a", ["a"], FileStanding(1, FileState.VERIFIED, "checksum")),
        (Overwrite.NEVER, b"a", [], FileStanding(1, FileState.SKIPPED, "checksum")),
        (Overwrite.NEVER, b"x", [], FileStanding(1, FileState.FAILED, "none", "OBJECT_EXISTS")),
        (Overwrite.NEVER, b"longer", [], FileStanding(1, FileState.FAILED, "none", "OBJECT_EXISTS")),
        (Overwrite.NEVER, None, ["a"], FileStanding(1, FileState.VERIFIED, "checksum")),
    ],
)
def test_what_is_there_already_is_treated_as_asked(
    world: World, overwrite: Overwrite, there: bytes | None, sent: list[str], standing: FileStanding
) -> None:
    """An equal object is proved equal before it is skipped."""
    if there is not None:
        world.bucket.put(PREFIX + "a", there)
    push = world.submit(source=world.source / "a", overwrite=overwrite)

    world.run(push.id)

    assert (world.carrier.sent, world.store.files(push.id)) == (sent, [standing])


def test_never_overwriting_needs_to_know_what_is_there(world: World) -> None:
    """A key that may not look cannot promise it: nothing is sent."""
    world.bucket.hidden = {PREFIX + "a"}
    push = world.submit(overwrite=Overwrite.NEVER)

    assert (world.run(push.id), world.store.files(push.id), world.carrier.sent) == (
        State.FAILED,
        [FileStanding(1, FileState.FAILED, "none", "ACCESS_DENIED"), *proved(2)],
        ["b"],
    )


def test_a_skipped_file_too_must_be_proved_as_demanded(world: World) -> None:
    """It is there and its digest is equal, but the push wants its bytes read back."""
    world.bucket.put(PREFIX + "a", b"a")
    push = world.submit(source=world.source / "a", min_strength=Strength.REREAD)

    assert (world.run(push.id), world.store.files(push.id), world.carrier.sent) == (
        State.UNVERIFIED,
        [FileStanding(1, FileState.UNVERIFIED, "checksum", "NOT_VERIFIED")],
        [],
    )


def test_pushing_again_sends_nothing(world: World) -> None:
    """Everything is there and proved equal."""
    world.run(world.submit().id)
    again = world.submit()

    assert (world.run(again.id), world.store.standing(again.id).tally, len(world.carrier.sent)) == (
        State.SUCCEEDED,
        (0, 2, 0, 0),
        2,
    )


# -- leases -------------------------------------------------------------------------------------------------


def steal(world: World, push: Push) -> None:
    """Another worker takes the only part, as after a pause that was longer than the lease."""
    world.clock.advance(31)
    assert world.store.claim_part(push.id, 1, a_lease()) is not None


def test_a_worker_that_lost_its_lease_writes_nothing_and_returns(world: World) -> None:
    """It notices at the next heartbeat, in the middle of sending."""
    push = world.submit()

    def lose(path: str) -> None:
        steal(world, push)
        world.leases.beat()

    world.carrier.during = lose

    state = world.run(push.id)

    assert (state, world.store.files(push.id), world.store.part_standing(push.id, 1), world.carrier.sent) == (
        None,
        [FileStanding(1, FileState.PLANNED), FileStanding(2, FileState.PLANNED)],
        Standing(State.RUNNING, None, 0, 2),
        [],
    )


def test_a_worker_that_never_heard_of_it_writes_nothing_either(world: World) -> None:
    """The token fences its writes: the heartbeat is only quicker."""
    push = world.submit()
    world.store.during["record_files"] = lambda: steal(world, push)

    state = world.run(push.id)

    assert (state, world.store.files(push.id), world.announcer.endings) == (
        None,
        [FileStanding(1, FileState.PLANNED), FileStanding(2, FileState.PLANNED)],
        [],
    )


def test_a_lease_that_is_lost_as_far_as_we_know_is_not_used_for_a_last_word(world: World) -> None:
    """The heartbeat could not extend it in time. The store would still take our verdict: it gets none."""
    push = world.submit()

    def late(path: str) -> None:
        (hold,) = world.leases._all()
        hold.good_until = 0.0

    world.carrier.during = late

    assert (world.run(push.id), world.store.part_standing(push.id, 1)) == (None, Standing(State.RUNNING, None, 0, 1))


def test_a_planner_that_lost_its_lease_leaves_the_plan_to_its_successor(many: World) -> None:
    """Its remaining pages are refused."""
    push = many.submit()

    def lose() -> None:
        many.clock.advance(31)
        many.store.claim_push(push.id, a_lease())

    many.store.during["finish_plan"] = lose

    assert (many.run(push.id), many.announcer.announced, many.store.files(push.id)) == (None, [], [])


def test_progress_is_told_while_it_is_sent(world: World) -> None:
    """And no longer than that."""
    push = world.submit()
    world.carrier.during = lambda path: world.leases.publish()

    world.run(push.id)
    world.leases.publish()

    assert world.announcer.heard == [(push.id, Progress(0, 0)), (push.id, Progress(1, 1))]


# -- cancelling -----------------------------------------------------------------------------------------------


def test_cancelling_in_the_middle_stops_and_keeps_what_was_proved(many: World) -> None:
    """The second part hears of it before its second file."""
    push = many.submit()
    many.run(push.id)
    many.cloudpush.run_part(push.id, 1)

    def cancel(path: str) -> None:
        if path == "d":
            many.store.cancel(push.id)
            many.leases.beat()

    many.carrier.during = cancel

    states = [many.cloudpush.run_part(push.id, n) for n in (2, 3)]

    assert (states, many.carrier.sent, many.store.standing(push.id)) == (
        [State.RUNNING, State.CANCELLED],
        ["a", "b", "c"],
        Standing(State.CANCELLED, "CANCELLED", 0, 1, "checksum", (2, 0, 0, 0)),
    )
    assert many.announcer.endings == [(push.id, State.CANCELLED)]


def test_cancelling_while_planning_stops_the_planning(many: World) -> None:
    """Between two pages."""
    push = many.submit()

    def cancel() -> None:
        many.store.cancel(push.id)
        many.leases.beat()

    many.store.during["record_page"] = cancel

    assert (many.run(push.id), many.store.calls["record_page"], many.announcer.endings) == (
        State.CANCELLED,
        1,
        [(push.id, State.CANCELLED)],
    )


# -- batches in flight at once ------------------------------------------------------------------------------------


@pytest.fixture
def laned(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A part of four batches with one file each, two under way at once."""
    monkeypatch.setattr(lifecycle, "BATCH_FILES", 1)
    world.write("c", "d")
    return world


def test_batches_are_delivered_in_lanes(laned: World) -> None:
    """All of them, each recorded once."""
    push = laned.submit()

    assert (laned.run(push.id), laned.store.files(push.id), sorted(laned.carrier.sent)) == (
        State.SUCCEEDED,
        proved(1, 2, 3, 4),
        ["a", "b", "c", "d"],
    )


@pytest.mark.parametrize("error", [DestinationError(Code.NETWORK, "reset"), ZeroDivisionError()])
def test_what_the_other_lane_brought_is_recorded(laned: World, error: Exception) -> None:
    """One batch fails as a whole, whether foreseen or not; the other was sent and seen."""
    push = laned.submit()

    def fail(path: str) -> None:
        if path == "a":
            raise error

    laned.carrier.during = fail
    laned.run(push.id)

    verdicts = {f.seq: f.state for f in laned.store.files(push.id)}
    assert (verdicts[1], verdicts[2], laned.store.part_standing(push.id, 1).state) == (
        FileState.PLANNED,
        FileState.VERIFIED,
        State.QUEUED,
    )


def test_a_refused_batch_ends_the_part_without_starting_more(laned: World) -> None:
    """Access denied will not be different for the next thousand files."""
    push = laned.submit()
    laned.carrier.failing = DestinationError(Code.ACCESS_DENIED, "denied")

    assert (laned.run(push.id), laned.store.standing(push.id)) == (
        State.FAILED,
        Standing(State.FAILED, "ACCESS_DENIED", 0, 1, None, (0, 0, 0, 4)),
    )
