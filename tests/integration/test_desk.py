"""Intake's side of the store, on real Postgres."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from builders import ORIGIN, OWNER, a_destination, a_lease, a_page, a_request, done, paused, verified
from cloudpush.audit.credentials import Credentials
from cloudpush.audit.integrity import verify
from cloudpush.errors import Code, InputError
from cloudpush.push.admission import CredentialCard
from cloudpush.push.credential import Reason
from cloudpush.push.signed.desk import SignedCard
from cloudpush.push.states import State
from records import Record

DIGEST, OTHER = bytes(32), bytes([1] * 32)


@pytest.fixture(scope="module")
def card(record: Record) -> CredentialCard:
    """A credential of Ada's."""
    return record.credential()


def test_a_request_is_stored_as_it_was_made(record: Record, card: CredentialCard) -> None:
    """And its first event says the same."""
    request = a_request(labels={"run": "7"}, include=("*.csv",), idempotency_key="k1")

    push_id, created = record.desk.store(request, card, a_destination(), DIGEST)

    row, first = record.history.push(push_id), record.history.events(push_id)[0]
    kept = {k: row[k] for k in ("owner", "source", "uri", "bucket", "prefix", "include", "labels", "state")}
    assert (created, kept) == (
        True,
        {
            "owner": OWNER,
            "source": "/data/run",
            "uri": "s3://results/runs/7",
            "bucket": "results",
            "prefix": "runs/7",
            "include": ["*.csv"],
            "labels": {"run": "7"},
            "state": "queued",
        },
    )
    assert first["data"] == {
        "owner": OWNER,
        "source": "/data/run",
        "destination": "s3://results/runs/7",
        "profile": "seaweedfs",
        "endpoint": "http://127.0.0.1:8333",
        "credential": str(card.id),
        "credential_kind": "access_key",
        "min_strength": "checksum",
        "overwrite": "if-different",
        "include": ["*.csv"],
        "exclude": [],
        "labels": {"run": "7"},
    }


def test_the_newest_push_has_the_highest_id(record: Record, card: CredentialCard) -> None:
    """Ids are ordered by time, which keeps neighbours together on disk."""
    ids = [record.desk.store(a_request(), card, a_destination(), DIGEST)[0] for _ in range(20)]

    assert (ids, len(set(ids))) == (sorted(ids), 20)


def test_an_idempotency_key_stands_for_one_push(record: Record, card: CredentialCard) -> None:
    """Asked again, the answer is the same and nothing new is stored."""
    request = a_request(idempotency_key="again")
    first = record.desk.store(request, card, a_destination(), DIGEST)

    second = record.desk.store(request, card, a_destination(), DIGEST)

    assert (first[1], second) == (True, (first[0], False))


def test_an_idempotency_key_tells_its_push(record: Record, card: CredentialCard) -> None:
    """With the credential it named, gone or not; to its owner alone."""
    push_id, _ = record.desk.store(a_request(idempotency_key="mine"), card, a_destination(), DIGEST)

    known = record.desk.known(OWNER, "mine")

    assert known is not None
    assert (known.push_id, known.digest, known.credential_id) == (push_id, DIGEST, card.id)
    assert (record.desk.known("grace", "mine"), record.desk.known(OWNER, "other")) == (None, None)


def test_an_idempotency_key_cannot_stand_for_another_request(record: Record, card: CredentialCard) -> None:
    """The message names the key and the push that has it."""
    request = a_request(idempotency_key="taken")
    push_id, _ = record.desk.store(request, card, a_destination(), DIGEST)

    with pytest.raises(InputError) as caught:
        record.desk.store(request, card, a_destination(), OTHER)

    assert (caught.value.code, caught.value.field, caught.value.message) == (
        Code.IDEMPOTENCY_CONFLICT,
        "idempotency_key",
        f"idempotency key 'taken' already stands for another request, push {push_id}.",
    )


def test_idempotency_keys_are_the_owners_own(record: Record, card: CredentialCard) -> None:
    """Two owners may choose the same word."""
    other = record.credential("grace")
    one = record.desk.store(a_request(idempotency_key="nightly"), card, a_destination(), DIGEST)

    two = record.desk.store(a_request(owner="grace", idempotency_key="nightly"), other, a_destination(), OTHER)

    assert (one[1], two[1], one[0] == two[0]) == (True, True, False)


def test_submissions_without_a_key_are_all_different(record: Record, card: CredentialCard) -> None:
    """Nothing is guessed to be a repetition."""
    made = {record.desk.store(a_request(), card, a_destination(), DIGEST) for _ in range(3)}

    assert len(made) == 3


def test_a_key_that_eight_send_at_once_stands_for_one_push(record: Record, card: CredentialCard) -> None:
    """A client that repeats what timed out."""
    request = a_request(idempotency_key="rush")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: record.desk.store(request, card, a_destination(), DIGEST), range(8)))

    assert (len({push_id for push_id, _ in answers}), [c for _, c in answers].count(True)) == (1, 1)


# -- credentials ---------------------------------------------------------------------------------


def test_a_credential_is_found_by_id_and_by_name(record: Record) -> None:
    """By id it is anybody's: whose it is, intake decides."""
    card = record.credential("grace", name="cluster key")

    found = [
        record.desk.credential(str(card.id), "ada"),
        record.desk.credential("cluster key", "grace"),
        record.desk.credential("cluster key", "ada"),
        record.desk.credential(str(uuid4()), "grace"),
    ]

    assert found == [card, card, None, None]


def test_a_name_means_the_credential_that_lives(record: Record) -> None:
    """After one was purged, another may have its name; by id the purged one is still told."""
    old = record.credential(name="rotating")
    Credentials(record.app).start_purge(old.id, Reason.REQUESTED, OWNER)
    new = record.credential(name="rotating")

    by_name, by_id = record.desk.credential("rotating", OWNER), record.desk.credential(str(old.id), OWNER)

    assert by_id is not None
    assert (by_name, by_id.state) == (new, "purging")


def test_a_card_says_when_the_credential_expires(record: Record) -> None:
    """In aware time."""
    expires = record.now() + timedelta(hours=1)
    card = record.credential(expires_at=expires)

    found = record.desk.credential(str(card.id), OWNER)

    assert found is not None
    assert found.expires_at == expires


# -- cancelling ----------------------------------------------------------------------------------


def test_an_unknown_push_cannot_be_cancelled(record: Record) -> None:
    """The message names it."""
    missing = UUID(int=1)

    with pytest.raises(InputError) as caught:
        record.desk.cancel(missing, OWNER, OWNER)

    assert (caught.value.code, str(missing) in caught.value.message) == (Code.UNKNOWN_PUSH, True)


def test_somebody_elses_push_cannot_be_cancelled(record: Record) -> None:
    """Unless an operator asks."""
    push_id = record.submitted()

    with pytest.raises(InputError) as caught:
        record.desk.cancel(push_id, "mallory", "mallory")
    before = record.state(push_id)

    assert (caught.value.code, before, record.desk.cancel(push_id, None, "operator")) == (
        Code.NOT_OWNER,
        State.QUEUED,
        State.CANCELLED,
    )


def test_who_cancelled_is_recorded(record: Record) -> None:
    """The operator's name, not the owner's."""
    push_id = record.submitted()
    record.desk.cancel(push_id, None, "operator")

    events = record.history.events(push_id)

    assert ([(e["kind"], e["actor"]) for e in events[1:]], verify(record.app, push_id).faults) == (
        [("push.cancel_requested", "operator"), ("push.cancelled", "operator")],
        [],
    )


def test_a_push_that_waits_for_consent_is_cancelled_at_once(record: Record) -> None:
    """Nobody executes it."""
    push_id = record.submitted()
    record.tamper("UPDATE push SET state = 'awaiting_consent' WHERE id = :id", id=push_id)

    assert record.desk.cancel(push_id, OWNER, OWNER) is State.CANCELLED


def test_a_push_between_planning_and_its_parts_is_told(record: Record) -> None:
    """Its parts are due at once, and the first worker that takes one ends it."""
    push = record.planned()
    state = record.desk.cancel(push.id, OWNER, OWNER)

    claimed = record.ledger.claim_part(push.id, 1, a_lease())

    assert claimed is not None
    assert (state, claimed[0].cancelled) == (State.RUNNING, True)


# -- signed URLs ---------------------------------------------------------------------------------


def test_a_push_with_signed_urls_is_stored_with_its_hook_and_manifest(record: Record) -> None:
    """Its first event says the same: an auditor sees what was handed over, and whom the worker asks."""
    card, hook = record.set(), record.credential(kind="resign_hook")

    push_id, created = record.desk.store_signed(
        a_request(), card, a_destination(), DIGEST, hook_id=hook.id, manifest_sha256=OTHER
    )

    row, told = record.history.push(push_id), record.history.events(push_id)[0]["data"]
    assert (created, row["credential_kind"], row["hook_id"], row["manifest_sha256"]) == (
        True,
        "signed_urls",
        hook.id,
        OTHER.hex(),
    )
    assert (told["credential"], told["hook"], told["manifest_sha256"], verify(record.app, push_id).faults) == (
        str(card.id),
        str(hook.id),
        OTHER.hex(),
        [],
    )


def test_an_idempotency_key_stands_for_one_push_with_signed_urls(record: Record) -> None:
    """Although the URLs were signed anew, and so are in another set."""
    request = a_request(idempotency_key="signed")
    first = record.desk.store_signed(request, record.set(), a_destination(), DIGEST)

    second = record.desk.store_signed(request, record.set(), a_destination(), DIGEST)

    assert (first[1], second) == (True, (first[0], False))


def test_what_intake_needs_for_fresh_urls_is_told(record: Record) -> None:
    """Where its URLs led so far, and what it was asked for."""
    push_id = record.submitted_signed(manifest_sha256=OTHER)
    before = record.desk.signed_push(push_id, OWNER)
    tree = record.desk.signed_push(record.planned_signed().id, None)

    expected = SignedCard(
        OWNER, State.QUEUED, False, "/data/run", "s3://results/runs/7", ORIGIN, "results", "runs/7", OTHER
    )
    assert (before, tree.planned, tree.state, tree.manifest_sha256) == (expected, True, State.RUNNING, None)


@pytest.mark.parametrize(
    ("owner", "code"), [("mallory", Code.NOT_OWNER), (OWNER, Code.BAD_INPUT), (None, Code.UNKNOWN_PUSH)]
)
def test_a_push_that_takes_no_fresh_urls_is_refused(record: Record, owner: str | None, code: Code) -> None:
    """Another owner's, one with a key, one that is not there."""
    push_id = UUID(int=2) if owner is None else record.submitted() if owner == OWNER else record.submitted_signed()

    with pytest.raises(InputError) as caught:
        record.desk.signed_push(push_id, owner)

    assert (caught.value.code, str(push_id) in caught.value.message) == (code, True)


def test_open_files_are_those_without_a_verdict(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, page by page."""
    monkeypatch.setattr("cloudpush.audit.desk.STREAM_ROWS", 2)
    lease = a_lease()
    push = record.ledger.claim_push(record.submitted_signed(), lease)
    assert push is not None
    page = a_page(push.id, files=7, refusals=1)
    record.ledger.finish_plan_with(push, lease, page)
    record.ledger.record_files(page.part, lease, verified([2, 5]))

    found = list(record.desk.open_files_of(push.id))

    assert found == [(seq, f"file-{seq}", f"runs/7/file-{seq}") for seq in (1, 3, 4, 6, 7)]


def test_a_push_has_no_open_files_before_it_is_planned(record: Record) -> None:
    """Nor has one that is not there."""
    assert list(record.desk.open_files_of(record.submitted_signed())) == []


@pytest.mark.parametrize("planned", [True, False])
def test_urls_numbered_for_another_state_of_the_plan_are_refused(record: Record, *, planned: bool) -> None:
    """A plan that was finished while they were read numbers the files itself."""
    push_id = record.planned_signed().id if planned else record.submitted_signed()

    with pytest.raises(InputError) as caught:
        record.desk.resign(push_id, record.set().id, "portal", 2, planned=not planned)

    assert (caught.value.code, "was planned meanwhile" in caught.value.message) == (Code.BAD_INPUT, True)


def test_who_handed_over_fresh_urls_is_recorded(record: Record) -> None:
    """With the set and for how many files; and why the push goes on."""
    lease = a_lease()
    push = record.ledger.claim_push(record.submitted_signed(), lease)
    assert push is not None
    record.ledger.end_push(push, lease, paused())
    fresh = record.set()

    state = record.desk.resign(push.id, fresh.id, "portal", 3)

    resigned, resumed = record.history.events(push.id)[-2:]
    assert (state, resigned["actor"], resigned["credential_id"], resigned["data"], resumed["data"]) == (
        State.QUEUED,
        "portal",
        fresh.id,
        {"number": 1, "credential": str(fresh.id), "files": 3},
        {"why": "resigned", "parts": 0},
    )
    renewal = record.history.renewals(push.id)[0]
    assert (renewal["number"], renewal["credential_id"], renewal["actor"], renewal["files"], renewal["at"]) == (
        1,
        fresh.id,
        "portal",
        3,
        resigned["at"],
    )


def over(record: Record) -> UUID:
    lease = a_lease()
    push = record.ledger.claim_push(record.submitted_signed(), lease)
    assert push is not None
    page = a_page(push.id)
    record.ledger.finish_plan_with(push, lease, page)
    record.ledger.end_part(push, page.part, lease, done(), verified([1, 2]))
    return push.id


def being_cancelled(record: Record) -> UUID:
    push = record.planned_signed()
    record.desk.cancel(push.id, None, "operator")
    return push.id


@pytest.mark.parametrize(("which", "word"), [(over, "succeeded"), (being_cancelled, "being cancelled")])
def test_a_push_that_needs_no_fresh_urls_takes_none(record: Record, which: Callable[[Record], UUID], word: str) -> None:
    """Nothing is recorded; the message says why."""
    push_id = which(record)
    before = record.kinds(push_id)

    with pytest.raises(InputError) as caught:
        record.desk.resign(push_id, record.set().id, OWNER, 1)

    assert (caught.value.code, f" is {word}:" in caught.value.message, record.kinds(push_id)) == (
        Code.BAD_INPUT,
        True,
        before,
    )


def test_fresh_urls_for_a_push_that_uses_none_are_refused(record: Record) -> None:
    """A push with a key, and one that is not there: the message says which."""
    missing, with_key = UUID(int=3), record.submitted()
    told = []
    for push_id in (with_key, missing):
        with pytest.raises(InputError) as caught:
            record.desk.resign(push_id, record.set(endpoint="").id, OWNER, 1)
        told.append((caught.value.code, caught.value.message))

    assert told == [
        (Code.BAD_INPUT, f"push {with_key} has a credential of kind access_key: it uses no signed URLs."),
        (Code.UNKNOWN_PUSH, f"push {missing} is not known."),
    ]


@pytest.mark.parametrize(
    "what", ["another owner's", "elsewhere", "a key", "purged", "of another push", "unknown", "its own"]
)
def test_a_set_that_is_not_for_this_push_is_refused(record: Record, what: str) -> None:
    """Whoever calls this: the worker would unseal it as its owner, and send the files where it leads."""
    push_id = record.submitted_signed()
    match what:
        case "another owner's":
            wrong = record.set("mallory").id
        case "elsewhere":
            wrong = record.set(endpoint="https://evil.example").id
        case "a key":
            wrong = record.credential(endpoint=ORIGIN).id
        case "purged":
            wrong = record.set().id
            Credentials(record.app).start_purge(wrong, Reason.REQUESTED, OWNER)
        case "of another push":
            wrong = record.set().id
            record.desk.resign(record.submitted_signed(), wrong, OWNER, 1)
        case "its own":
            wrong = UUID(str(record.history.push(push_id)["credential_id"]))
        case _:
            wrong = uuid4()

    with pytest.raises(InputError) as caught:
        record.desk.resign(push_id, wrong, OWNER, 1)

    assert (caught.value.code, str(wrong) in caught.value.message, record.history.renewals(push_id)) == (
        Code.BAD_INPUT,
        True,
        [],
    )
