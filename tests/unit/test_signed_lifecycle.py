"""The whole story of a push with signed URLs, with everything around it in memory."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from builders import a_lease, a_piece
from cloudpush.errors import Code, DestinationError, EngineError
from cloudpush.push import lifecycle
from cloudpush.push.job import Destination, Profile, Push
from cloudpush.push.planning import Limits
from cloudpush.push.retry import Policy
from cloudpush.push.signed.model import Kind, Need, Provider
from cloudpush.push.states import FileState, State, Strength, Wish
from fakes import FileStanding, Standing
from fakes_uploader import HOOK, PREFIX, SIGNATURE, SignedWorld, a_ticket, a_url

HOUR = 3600.0


@pytest.fixture
def world(tmp_path: Path) -> SignedWorld:
    """A worker, and a source of three files."""
    made = SignedWorld(tmp_path)
    made.write("a", "b", "c")
    return made


@pytest.fixture
def many(tmp_path: Path) -> SignedWorld:
    """A worker that cuts into parts of two files, and a source of three."""
    made = SignedWorld(tmp_path, Limits(files=2))
    made.write("a", "b", "c")
    return made


def proved(*seqs: int) -> list[FileStanding]:
    return [FileStanding(s, FileState.VERIFIED, "checksum") for s in seqs]


def waiting(*seqs: int) -> list[FileStanding]:
    return [FileStanding(s, FileState.PLANNED, "none", "URL_EXPIRED") for s in seqs]


# -- a push that goes well -------------------------------------------------------------------------


def test_a_signed_push_has_the_same_life_as_any_other(world: SignedWorld) -> None:
    """One message, one part; its URLs are unsealed once, and are due for destruction when it ends."""
    push = world.hand_over(a_ticket("a"), a_ticket("b"), a_ticket("c"))

    state = world.run(push.id)

    assert (state, world.store.files(push.id), world.store.events(push.id)) == (
        State.SUCCEEDED,
        proved(1, 2, 3),
        ["push.queued", "push.claimed", "push.planned", "credential.used", "part.finished", "push.succeeded"],
    )
    assert sorted(world.uploader.there) == [f"{PREFIX}/a", f"{PREFIX}/b", f"{PREFIX}/c"]
    assert (world.uploader.opened, world.store.set_of(push.credential_id).purge_after) == (0, world.clock.now())


def test_many_parts_take_their_own_tickets(many: SignedWorld) -> None:
    """The second part unseals what it needs."""
    push = many.hand_over(a_ticket("a"), a_ticket("b"), a_ticket("c"))

    many.run(push.id)
    states = many.run_parts(push.id)

    assert (states, many.store.files(push.id)) == ([State.RUNNING, State.SUCCEEDED], proved(1, 2, 3))


def test_one_worker_carries_with_keys_and_with_urls(world: SignedWorld) -> None:
    """Each by its own courier."""
    by_url, by_key = world.hand_over(a_ticket("a")), world.submit()

    states = [world.run(by_url.id), world.run(by_key.id)]

    assert (states, world.uploader.sent, world.carrier.sent) == (
        [State.SUCCEEDED, State.SUCCEEDED],
        ["a"],
        ["a", "b", "c"],
    )


def test_a_kind_that_nobody_carries_is_no_success(world: SignedWorld) -> None:
    """A worker of another version may."""
    push = world.submit(credential_kind="carrier_pigeon")

    assert (world.run(push.id), world.store.standing(push.id)) == (
        State.QUEUED,
        Standing(State.QUEUED, "INTERNAL", 1, 1),
    )


def test_one_sas_carries_everything_below_the_source(many: SignedWorld) -> None:
    """It lies with the first file, and serves the parts that follow."""
    many.write("sub/d")
    destination = Destination("az", "results", PREFIX, Profile("signed-url", "other"))
    sas = a_ticket("", Kind.TREE, url=a_url(PREFIX, provider=Provider.AZURE))
    push = many.hand_over(sas, destination=destination, exclude=("b",))

    many.run(push.id)
    states = many.run_parts(push.id)

    assert (states, sorted(many.uploader.there)) == (
        [State.RUNNING, State.SUCCEEDED],
        [f"{PREFIX}/a", f"{PREFIX}/c", f"{PREFIX}/sub/d"],
    )


# -- what arrived, and what it proves ----------------------------------------------------------------


def test_what_is_proved_less_than_demanded_is_unverified(world: SignedWorld) -> None:
    """The words say why."""
    world.uploader.weak = {"a": Strength.INGEST, "b": Strength.RESPONSE}
    push = world.hand_over(a_ticket("a"), a_ticket("b"))

    state = world.run(push.id)

    error = world.store.error(push.id)
    assert (state, world.store.files(push.id), error and error.message) == (
        State.UNVERIFIED,
        [
            FileStanding(1, FileState.VERIFIED, "ingest"),
            FileStanding(2, FileState.UNVERIFIED, "response", "NOT_VERIFIED"),
        ],
        "'runs/7/b' is proved by response only (the answer had no digest); the push demands ingest.",
    )


def test_what_is_there_already_is_skipped_if_that_is_proved(world: SignedWorld) -> None:
    """By as much as the push demands."""
    world.uploader.same = {"a", "b"}
    world.uploader.weak = {"b": Strength.SIZE}
    push = world.hand_over(a_ticket("a"), a_ticket("b"))

    world.run(push.id)

    assert (world.store.files(push.id), world.uploader.sent) == (
        [
            FileStanding(1, FileState.SKIPPED, "checksum"),
            FileStanding(2, FileState.UNVERIFIED, "size", "NOT_VERIFIED"),
        ],
        [],
    )


def test_a_file_result_says_what_the_answer_said(world: SignedWorld) -> None:
    """Digest, ETag, version and time."""
    push = world.hand_over(a_ticket("a"))

    world.run(push.id)

    result = world.store.result(push.id, 1)
    assert result is not None
    assert result.sha256 is not None
    assert (result.sha256.hex()[:8], result.etag, result.expected, result.version_id, result.uploaded_at) == (
        "ca978112",
        "e",
        "e",
        "v",
        world.clock.now(),
    )


def test_a_file_that_changes_while_it_is_sent_is_noticed(world: SignedWorld) -> None:
    """Although the answer proves that its bytes arrived."""
    push = world.hand_over(a_ticket("a"), a_ticket("b"))
    world.uploader.during = lambda path: world.write("a", data=b"new content") if path == "a" else None

    assert (world.run(push.id), world.store.files(push.id)) == (
        State.FAILED,
        [FileStanding(1, FileState.FAILED, "none", "SOURCE_CHANGED"), *proved(2)],
    )


# -- expiry --------------------------------------------------------------------------------------------


def test_urls_that_expired_pause_the_push(world: SignedWorld) -> None:
    """No failure and no strike: it waits for fresh ones, and nobody is told of an end."""
    push = world.hand_over(a_ticket("a"), a_ticket("b", expires=world.clock.now()))

    state = world.run(push.id)

    assert (state, world.store.standing(push.id), world.store.files(push.id)) == (
        State.AWAITING_CONSENT,
        Standing(State.AWAITING_CONSENT, "URL_EXPIRED", 0, 1),
        [*proved(1), *waiting(2)],
    )
    assert (world.announcer.endings, world.uploader.aborted) == ([], [])


def test_fresh_urls_go_on_where_the_push_stopped(world: SignedWorld) -> None:
    """What arrived is not sent again."""
    push = world.hand_over(a_ticket("a"), a_ticket("b", expires=world.clock.now()))
    world.run(push.id)
    world.resign(push, {2: a_ticket("b")})

    state = world.cloudpush.run_part(push.id, 1)

    assert (state, world.uploader.sent, world.store.files(push.id)) == (State.SUCCEEDED, ["a", "b"], proved(1, 2))


def test_parts_that_can_go_on_do_so_while_another_waits(many: SignedWorld) -> None:
    """The push waits once all of them are over or wait."""
    push = many.hand_over(a_ticket("a", expires=many.clock.now()), a_ticket("b"), a_ticket("c"))
    many.run(push.id)

    states = many.run_parts(push.id)

    assert (states, many.store.files(push.id)) == (
        [State.RUNNING, State.AWAITING_CONSENT],
        [*waiting(1), *proved(2, 3)],
    )


def test_what_may_pass_is_tried_again_before_anybody_waits(world: SignedWorld) -> None:
    """A throttled file needs nobody; the expired one comes up again."""
    world.uploader.refused["a"] = DestinationError(Code.THROTTLED, "slow down")
    push = world.hand_over(a_ticket("b", expires=world.clock.now()), a_ticket("a"))
    first = world.run(push.id)
    world.uploader.refused.clear()
    world.clock.advance(300)

    second = world.cloudpush.run_part(push.id, 1)

    assert (first, second, world.store.files(push.id)) == (
        State.RUNNING,
        State.AWAITING_CONSENT,
        [*waiting(1), *proved(2)],
    )


def test_an_upload_goes_on_at_the_same_part_with_fresh_urls(world: SignedWorld) -> None:
    """Its URLs expired between the second part and the third."""
    world.write("big", data=b"aaaabbbbcccc")
    push = world.hand_over(a_ticket("big", Kind.MULTIPART, expires=world.in_an_hour()))
    world.uploader.during = lambda name: world.clock.advance(HOUR) if name == "big#3" else None
    paused = world.run(push.id)
    before = list(world.uploader.sent)
    world.resign(push, {1: a_ticket("big", Kind.MULTIPART)})

    state = world.cloudpush.run_part(push.id, 1)

    assert (paused, before, state, world.uploader.sent) == (
        State.AWAITING_CONSENT,
        ["big#1", "big#2"],
        State.SUCCEEDED,
        ["big#1", "big#2", "big#3"],
    )


def test_a_registered_callback_is_asked_and_nobody_waits(world: SignedWorld) -> None:
    """For what expired alone."""
    push = world.hand_over(a_ticket("a"), a_ticket("b", expires=world.clock.now()), hook_id=HOOK)

    state = world.run(push.id)

    assert (state, [[n.path for n in needs] for needs in world.hook.asked]) == (State.SUCCEEDED, [["b"]])
    assert "push.resign_asked" in world.store.events(push.id)


def test_a_callback_that_refuses_pauses_the_push(world: SignedWorld) -> None:
    """It is not asked for every file."""
    world.hook.failing = DestinationError(Code.PROVIDER_REFUSED, "the callback said 403")
    push = world.hand_over(*(a_ticket(n, expires=world.clock.now()) for n in "abc"), hook_id=HOOK)

    assert (world.run(push.id), len(world.hook.asked), world.store.files(push.id)) == (
        State.AWAITING_CONSENT,
        1,
        waiting(1, 2, 3),
    )


def test_a_callback_that_is_away_for_a_moment_is_asked_again(world: SignedWorld) -> None:
    """Nobody has to act: the part is tried again, and goes on with what the callback signs then."""
    world.hook.failing = DestinationError(Code.NETWORK, "the callback gave no answer")
    push = world.hand_over(*(a_ticket(n, expires=world.clock.now()) for n in "abc"), hook_id=HOOK)
    world.run(push.id)
    first = world.store.part_standing(push.id, 1)
    world.hook.failing = None
    world.clock.advance(HOUR)

    assert (first.state, first.code) == (State.QUEUED, "RESIGN_FAILED")
    assert (world.cloudpush.run_part(push.id, 1), world.store.files(push.id)) == (State.SUCCEEDED, proved(1, 2, 3))


def test_urls_that_were_destroyed_are_asked_for_anew(many: SignedWorld) -> None:
    """The last URL expired before the second part began; nobody knows any more of which kind it was."""
    push = many.hand_over(*(a_ticket(n, expires=many.in_an_hour()) for n in "abc"), hook_id=HOOK)
    many.run(push.id)
    many.cloudpush.run_part(push.id, 1)
    many.clock.advance(HOUR)
    many.purge(push.credential_id)

    assert (many.cloudpush.run_part(push.id, 2), many.store.files(push.id)) == (State.SUCCEEDED, proved(1, 2, 3))


def test_a_sas_that_was_destroyed_is_asked_for_once(many: SignedWorld) -> None:
    """For the whole directory, after the callback has refused to sign for single files."""
    many.write("d")
    tree = a_ticket("", Kind.TREE, url=a_url(PREFIX, provider=Provider.AZURE))

    def sign(needs: Sequence[Need]) -> list[object]:
        if needs[0].kind is not Kind.TREE:
            raise DestinationError(Code.PROVIDER_REFUSED, "the callback answers for a file that it was not asked for")
        return [{"ticket": tree}]

    destination = Destination("az", "results", PREFIX, Profile("signed-url", "other"))
    push = many.hand_over(replace(tree, expires_at=many.in_an_hour()), destination=destination, hook_id=HOOK)
    many.run(push.id)
    many.cloudpush.run_part(push.id, 1)
    many.clock.advance(HOUR)
    many.purge(push.credential_id)
    many.hook.rows = sign

    state = many.cloudpush.run_part(push.id, 2)

    assert (state, many.hook.asked) == (
        State.SUCCEEDED,
        [
            [Need(3, "c", f"{PREFIX}/c", Kind.PUT), Need(4, "d", f"{PREFIX}/d", Kind.PUT)],
            [Need(1, "", PREFIX, Kind.TREE)],
        ],
    )


def test_urls_that_expired_before_the_push_was_planned_pause_it(world: SignedWorld) -> None:
    """Their set was destroyed: nobody knows any more which files it was for."""
    push = world.hand_over(a_ticket("a", expires=world.in_an_hour()))
    world.clock.advance(HOUR)
    world.purge(push.credential_id)
    paused = world.run(push.id)
    standing = world.store.standing(push.id)
    world.resign(push, {1: a_ticket("a"), 2: a_ticket("b")})

    state = world.run(push.id)

    assert (paused, standing, state, world.store.files(push.id)) == (
        State.AWAITING_CONSENT,
        Standing(State.AWAITING_CONSENT, "URL_EXPIRED", 0, 1),
        State.SUCCEEDED,
        proved(1, 2),
    )


def test_patience_with_a_pause_ends(world: SignedWorld) -> None:
    """A week after its submission the sweep queues it again, and the policy ends it."""
    push = world.hand_over(a_ticket("a"), a_ticket("b", expires=world.clock.now()))
    world.run(push.id)
    world.clock.advance(7 * 86_400 + 1)
    released = world.store.release_impatient(7 * 86_400)

    state = world.cloudpush.run_part(push.id, 1)

    assert (released, state, world.store.files(push.id), world.announcer.endings) == (
        1,
        State.FAILED,
        [*proved(1), FileStanding(2, FileState.FAILED, "none", "URL_EXPIRED")],
        [(push.id, State.FAILED)],
    )


def test_patience_ends_for_a_push_that_was_never_planned(world: SignedWorld) -> None:
    """Likewise."""
    push = world.hand_over(a_ticket("a", expires=world.clock.now()))
    world.run(push.id)
    world.clock.advance(7 * 86_400 + 1)
    world.store.release_impatient(7 * 86_400)

    assert (world.run(push.id), world.store.standing(push.id).code) == (State.FAILED, "URL_EXPIRED")


def test_fresh_urls_that_came_while_a_part_ran_are_used_at_once(world: SignedWorld) -> None:
    """It was claimed with the old ones: it does not pause."""
    push = world.hand_over(a_ticket("a", expires=world.in_an_hour()), a_ticket("b", expires=world.in_an_hour()))

    def late(name: str) -> None:
        world.uploader.during = lambda name: None
        world.clock.advance(HOUR)
        world.resign(push, {1: a_ticket("a"), 2: a_ticket("b")})

    world.uploader.during = late
    first = world.run(push.id)

    assert (first, world.cloudpush.run_part(push.id, 1), world.store.files(push.id)) == (
        State.RUNNING,
        State.SUCCEEDED,
        proved(1, 2),
    )


# -- workers that vanish ---------------------------------------------------------------------------------


def _killed(world: SignedWorld, push: Push, at: str) -> None:
    """A worker that is killed before it sends ``at``: what its journal stored is all that is left."""

    def die(name: str) -> None:
        if name == at:
            world.uploader.during = lambda name: None
            raise SystemExit

    world.uploader.during = die
    with pytest.raises(SystemExit):
        world.run(push.id)
    world.clock.advance(31)


def test_the_successor_of_a_killed_worker_sends_what_is_missing(world: SignedWorld) -> None:
    """At the part, not at the file."""
    world.write("big", data=b"aaaabbbbcccc")
    push = world.hand_over(a_ticket("big", Kind.MULTIPART))
    _killed(world, push, "big#3")

    state = world.cloudpush.run_part(push.id, 1)

    assert (state, world.uploader.sent, [p.number for p in world.uploader.errands[1].pieces]) == (
        State.SUCCEEDED,
        ["big#1", "big#2", "big#3"],
        [1, 2],
    )


def test_the_successor_of_a_killed_worker_takes_up_its_session(world: SignedWorld) -> None:
    """The URI of a resumable upload was sealed before its first byte, and is in no record."""
    push = world.hand_over(a_ticket("a", Kind.RESUMABLE))
    _killed(world, push, "a#session")

    state = world.cloudpush.run_part(push.id, 1)

    assert (
        state,
        SIGNATURE in world.uploader.errands[1].session,
        len(world.store.set_of(push.credential_id).cards),
    ) == (
        State.SUCCEEDED,
        True,
        2,
    )


def test_a_session_goes_on_without_fresh_urls(world: SignedWorld) -> None:
    """It outlives the URL that began it, and the set that was handed over last: nobody is asked."""
    push = world.hand_over(a_ticket("a", Kind.RESUMABLE), hook_id=HOOK)
    _killed(world, push, "a#session")
    world.resign(push, {})

    assert (world.cloudpush.run_part(push.id, 1), world.hook.asked) == (State.SUCCEEDED, [])


def test_a_worker_that_lost_its_lease_writes_nothing_and_returns(world: SignedWorld) -> None:
    """Not even what arrived: somebody else sends it."""
    push = world.hand_over(a_ticket("a"))

    def lose(path: str) -> None:
        world.clock.advance(31)
        assert world.store.claim_part(push.id, 1, a_lease()) is not None
        world.leases.beat()

    world.uploader.during = lose

    assert (world.run(push.id), world.store.files(push.id)) == (None, [FileStanding(1, FileState.PLANNED)])


def test_an_outage_of_vault_is_waited_out(world: SignedWorld) -> None:
    """No strike, no pause."""
    push = world.hand_over(a_ticket("a"))
    world.store.during["finish_plan_with"] = lambda: world.vault.go_away(Code.VAULT_SEALED)
    first = world.run(push.id)
    standing = world.store.part_standing(push.id, 1)
    world.vault.come_back()
    world.clock.advance(300)

    assert (first, standing, world.cloudpush.run_part(push.id, 1)) == (
        State.RUNNING,
        Standing(State.QUEUED, "VAULT_SEALED", 0, 1),
        State.SUCCEEDED,
    )


# -- what will not arrive -----------------------------------------------------------------------------------


def test_a_file_that_fails_for_good_has_its_upload_aborted(world: SignedWorld) -> None:
    """The others go on; what cannot be aborted is said with its error."""
    world.uploader.refused = {n: DestinationError(Code.TOO_LARGE, f"{n!r} is too large.") for n in "ab"}
    world.uploader.behind["a"] = "Its parts stay behind: no abort URL was handed over."
    push = world.hand_over(a_ticket("a", Kind.MULTIPART), a_ticket("b", Kind.MULTIPART), a_ticket("c"))

    state = world.run(push.id)

    errors = [r.error.message for seq in (1, 2) if (r := world.store.result(push.id, seq)) and r.error]
    assert (state, world.uploader.aborted, errors) == (
        State.FAILED,
        ["a", "b"],
        ["'a' is too large. Its parts stay behind: no abort URL was handed over.", "'b' is too large."],
    )


def test_a_part_that_ends_without_success_aborts_what_is_open(world: SignedWorld) -> None:
    """The bucket is gone: files that were never begun have uploads, too, if their URLs are of one."""
    world.uploader.failing = EngineError(Code.NO_SUCH_BUCKET, "no such bucket")
    world.uploader.behind["a"] = "Its parts stay behind."
    push = world.hand_over(a_ticket("a", Kind.MULTIPART), a_ticket("b"), a_ticket("c", Kind.MULTIPART))

    state = world.run(push.id)

    result = world.store.result(push.id, 1)
    assert (state, world.uploader.aborted, result and result.error and result.error.message) == (
        State.FAILED,
        ["a", "c"],
        "no such bucket Its parts stay behind.",
    )
    assert [f.code for f in world.store.files(push.id)] == ["NO_SUCH_BUCKET"] * 3


def test_the_last_strike_aborts_what_did_not_arrive(tmp_path: Path) -> None:
    """Each file keeps the error of its own; what arrived in the same batch is let alone."""
    world = SignedWorld(tmp_path, policy=Policy(strikes=1))
    world.write("a", "b", "c")
    world.uploader.refused = {
        "a": DestinationError(Code.NETWORK, "connection reset"),
        "b": DestinationError(Code.THROTTLED, "slow down"),
    }
    world.uploader.behind = {"a": "Its parts stay behind.", "b": "Its parts stay behind.", "c": "It is there."}
    push = world.hand_over(*(a_ticket(n, Kind.MULTIPART) for n in "abc"))

    state = world.run(push.id)

    errors = [str(r.error) for seq in (1, 2) if (r := world.store.result(push.id, seq))]
    assert (state, world.uploader.aborted, errors, world.store.files(push.id)[2:]) == (
        State.FAILED,
        ["a", "b"],
        ["NETWORK: connection reset Its parts stay behind.", "THROTTLED: slow down Its parts stay behind."],
        proved(3),
    )


def test_a_passing_failure_aborts_nothing(world: SignedWorld) -> None:
    """The next attempt goes on."""
    world.uploader.refused["a"] = DestinationError(Code.NETWORK, "connection reset")
    push = world.hand_over(a_ticket("a", Kind.MULTIPART))

    assert (world.run(push.id), world.uploader.aborted) == (State.RUNNING, [])


def test_an_upload_is_aborted_with_the_newest_that_is_known_of_it(world: SignedWorld) -> None:
    """The URL that was renewed, the session that was begun."""
    old = a_ticket("a", Kind.MULTIPART, expires=world.clock.now())
    push = world.hand_over(old, a_ticket("b", Kind.RESUMABLE), hook_id=HOOK)

    def refuse(name: str) -> None:
        if name in {"a", "b#session"}:
            raise DestinationError(Code.ACCESS_DENIED, "denied")

    world.uploader.during = refuse

    world.run(push.id)

    aborted = {e.file.path: e for e in world.uploader.abandoned}
    assert (aborted["a"].ticket == old, aborted["a"].ticket is None, SIGNATURE in aborted["b"].session) == (
        False,
        False,
        True,
    )


def test_blocks_that_arrived_are_aborted_whatever_the_ticket(world: SignedWorld) -> None:
    """A URL for one PUT may take blocks."""
    push = world.hand_over(a_ticket("a"), a_ticket("b"))

    def arrive(path: str) -> None:
        if path == "a":
            world.uploader._journal.arrived(a_piece(1))
        raise DestinationError(Code.ACCESS_DENIED, "denied")

    world.uploader.during = arrive

    assert (world.run(push.id), world.uploader.aborted) == (State.FAILED, ["a"])


def test_cancelling_aborts_what_is_open(world: SignedWorld) -> None:
    """Although everything else stops at once."""
    world.write("big", data=b"aaaabbbbcccc")
    world.uploader.behind["big"] = "Its parts stay behind."
    push = world.hand_over(a_ticket("a"), a_ticket("big", Kind.MULTIPART))

    def cancel(name: str) -> None:
        if name == "big#2":
            world.store.cancel(push.id)
            world.leases.beat()

    world.uploader.during = cancel

    state = world.run(push.id)

    result = world.store.result(push.id, 2)
    assert (state, world.uploader.sent, world.uploader.aborted) == (State.CANCELLED, ["a", "big#1"], ["big"])
    assert (result and result.state, result and result.error and result.error.message) == (
        FileState.CANCELLED,
        "The push was cancelled. Its parts stay behind.",
    )


def test_cancelling_a_push_that_waits_aborts_what_an_earlier_attempt_began(world: SignedWorld) -> None:
    """A worker ends it, and sends nothing."""
    world.write("big", data=b"aaaabbbbcccc")
    push = world.hand_over(a_ticket("big", Kind.MULTIPART, expires=world.in_an_hour()))
    world.uploader.during = lambda name: world.clock.advance(HOUR) if name == "big#2" else None
    world.run(push.id)
    world.store.cancel(push.id)

    state = world.cloudpush.run_part(push.id, 1)

    assert (state, world.uploader.aborted, world.uploader.sent, world.announcer.endings) == (
        State.CANCELLED,
        ["big"],
        ["big#1"],
        [(push.id, State.CANCELLED)],
    )
    assert world.store.events(push.id)[-4:] == ["part.claimed", "credential.used", "part.finished", "push.cancelled"]


def test_a_vault_that_is_away_keeps_no_verdict_back(world: SignedWorld) -> None:
    """What stays behind is said."""
    world.write("big", data=b"aaaabbbbcccc")
    push = world.hand_over(a_ticket("big", Kind.MULTIPART))
    _killed(world, push, "big#3")
    world.store.cancel(push.id)
    world.vault.go_away()

    state = world.cloudpush.run_part(push.id, 1)

    result = world.store.result(push.id, 1)
    assert (state, result and result.error and result.error.message) == (
        State.CANCELLED,
        "The push was cancelled. Its unfinished upload was not aborted (VAULT_UNREACHABLE).",
    )


def test_a_defect_in_tidying_up_keeps_no_verdict_back(world: SignedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be met by every successor."""
    monkeypatch.setattr(world.uploader, "abort", lambda errands, control: 1 / 0)
    world.uploader.failing = EngineError(Code.NO_SUCH_BUCKET, "no such bucket")
    push = world.hand_over(a_ticket("a", Kind.MULTIPART))

    assert (world.run(push.id), world.store.standing(push.id).code) == (State.FAILED, "NO_SUCH_BUCKET")


def test_a_worker_that_lost_its_lease_aborts_nothing(world: SignedWorld) -> None:
    """Its successor is in the middle of that very upload."""
    push = world.hand_over(a_ticket("a", Kind.MULTIPART))

    def lose(path: str) -> None:
        (hold,) = world.leases._all()
        hold.lost, hold.wish = True, Wish.CANCEL
        raise EngineError(Code.NO_SUCH_BUCKET, "no such bucket")

    world.uploader.during = lose

    assert (world.run(push.id), world.uploader.aborted) == (None, [])


# -- secrets -------------------------------------------------------------------------------------------------


def test_no_signature_is_in_what_is_kept(world: SignedWorld) -> None:
    """Neither in errors nor in what shows the worker's values."""
    push = world.hand_over(a_ticket("a", expires=world.clock.now()), a_ticket("b", Kind.RESUMABLE), hook_id=HOOK)
    world.hook.failing = DestinationError(Code.NETWORK, "no answer")
    world.run(push.id)

    errors = [r.error for seq in (1, 2) if (r := world.store.result(push.id, seq)) and r.error]
    shown = "".join("".join(traceback.format_exception(e)) + repr(e) for e in errors)
    assert SIGNATURE not in shown + repr(world.uploader.errands) + repr(world.store.asked) + repr(world.kit)


def test_batches_are_sent_in_lanes(world: SignedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each opens the sheets that it needs."""
    monkeypatch.setattr(lifecycle, "BATCH_FILES", 1)
    push = world.hand_over(a_ticket("a"), a_ticket("b"), a_ticket("c"))

    assert (world.run(push.id), sorted(world.uploader.sent)) == (State.SUCCEEDED, ["a", "b", "c"])


def test_an_unsealed_set_that_came_after_the_claim_is_recorded_as_used(world: SignedWorld) -> None:
    """It was handed over in the moment between."""
    push = world.hand_over(a_ticket("a"))
    world.store.during["finish_plan_with"] = lambda: world.resign(push, {1: a_ticket("a")})

    state = world.run(push.id)

    assert (state, world.store.events(push.id).count("credential.used")) == (State.SUCCEEDED, 2)
