"""What somebody with every right in the database can do to the record, and that it is found and named."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import (
    a_lease,
    a_page,
    a_request,
    done,
    failed,
    failure,
    paused,
    skipped,
    unverified,
    verified,
)
from cloudpush.audit.database import append_event, append_events
from cloudpush.audit.integrity import EPOCH, Fault, event_hash, genesis, verify
from cloudpush.errors import Code
from cloudpush.push.signed.places import read_destination
from cloudpush.push.states import Event
from cloudpush.push.trust.chain import content_hash, event_hash_2
from records import Record


@pytest.fixture
def push_id(record: Record) -> UUID:
    """A push that has succeeded: queued, claimed, planned, used, finished, succeeded."""
    return record.finished(labels={"run": "7", "of": "zürich"}, include=("*.csv",), exclude=("tmp/**",))


def found(record: Record, push_id: UUID) -> list[str]:
    """What verify says of a push."""
    return [f.what for f in verify(record.app, push_id).faults]


# -- a sound record ------------------------------------------------------------------------------


def test_a_sound_record_has_no_fault(record: Record) -> None:
    """Pushes that ended in every way, and some that have not ended."""
    queued, running = record.submitted(), record.running().id
    record.desk.cancel(queued, None, "operator")
    record.desk.cancel(running, None, "operator")
    mine = {
        queued,
        running,
        record.finished(),
        record.finished([skipped(1), *verified([2])]),
        record.finished([unverified(1), *verified([2])]),
        record.finished([failed(1, Code.THROTTLED), *verified([2])], failure(Code.NO_SUCH_BUCKET)),
        record.planned(3).id,
        record.credential().id,
    }

    assert [f for f in verify(record.app).faults if f.stream in mine] == []


def test_a_report_says_how_much_was_looked_at(record: Record, push_id: UUID) -> None:
    """One push, its six events, its part and its files."""
    report = verify(record.app, push_id)

    assert (report.streams, report.events, report.parts, report.files, report.sound) == (1, 6, 1, 2, True)


def test_everything_is_looked_at(record: Record, push_id: UUID) -> None:
    """Every chain that there is, credentials' included."""
    with record.app.connect() as c:
        chains = c.execute(sa.text("SELECT count(*), sum(seq) FROM chain")).one()

    report = verify(record.app)

    assert (report.streams, report.events) == tuple(chains)


# -- events ---------------------------------------------------------------------------------------

EDITS = {
    "data": "UPDATE event SET data = json_build_object('attempt', 2) WHERE stream = :id AND seq = 2",
    "actor": "UPDATE event SET actor = 'mallory' WHERE stream = :id AND seq = 2",
    "time": "UPDATE event SET at = at + interval '1 microsecond' WHERE stream = :id AND seq = 2",
    "kind": "UPDATE event SET kind = 'push.failed' WHERE stream = :id AND seq = 2",
    "credential": "UPDATE event SET credential_id = gen_random_uuid() WHERE stream = :id AND seq = 2",
    "whitespace": "UPDATE event SET data = (data::text || ' ')::json WHERE stream = :id AND seq = 2",
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_event_is_named(record: Record, push_id: UUID, what: str) -> None:
    """By its number."""
    record.tamper(EDITS[what], id=push_id)

    faults = verify(record.app, push_id).faults

    assert [(f.stream, f.seq, f.what.rpartition(" ")[2]) for f in faults if f.seq == 2] == [(push_id, 2, "edited")]


def test_an_edit_that_was_hashed_again_breaks_the_next_link(record: Record, push_id: UUID) -> None:
    """The event's own hash is right; its successor does not follow it."""
    record.tamper("UPDATE event SET actor = 'mallory' WHERE stream = :id AND seq = 2", REHASH, id=push_id, seq=2)

    assert found(record, push_id) == ["event 3 (push.planned) does not follow its predecessor"]


def test_a_chain_that_was_hashed_again_to_its_end_misses_its_head(record: Record, push_id: UUID) -> None:
    """Every link is right, but it does not end where it did."""
    with record.intruder.begin() as c:
        c.execute(sa.text("SET LOCAL session_replication_role = replica"))
        c.execute(sa.text("UPDATE event SET actor = 'mallory' WHERE stream = :id AND seq = 2"), {"id": push_id})
        for seq in range(2, 7):
            c.execute(sa.text(REHASH), {"id": push_id, "seq": seq})
            c.execute(sa.text(RELINK), {"id": push_id, "seq": seq + 1})

    assert found(record, push_id) == ["the chain ends at event 6, but its head says 6: events were cut off or added"]


REHASH = """
    UPDATE event SET salt = '\\x00', content = cloudpush_event_content('\\x00', actor, data::text),
        hash = cloudpush_event_hash_2(prev, stream, seq, at, kind, credential_id,
            cloudpush_event_content('\\x00', actor, data::text))
    WHERE stream = :id AND seq = :seq
"""
RELINK = """
    UPDATE event e SET prev = p.hash FROM event p
    WHERE e.stream = :id AND e.seq = :seq AND p.stream = e.stream AND p.seq = e.seq - 1
"""


def test_a_deleted_event_is_missing(record: Record, push_id: UUID) -> None:
    """In the middle."""
    record.tamper("DELETE FROM event WHERE stream = :id AND seq = 3", id=push_id)

    assert found(record, push_id) == ["event 3 is missing; the next one is 4"]


def test_a_deleted_event_is_missing_although_the_others_were_renumbered(record: Record, push_id: UUID) -> None:
    """Numbers are part of what was hashed."""
    record.tamper(
        "DELETE FROM event WHERE stream = :id AND seq = 3",
        "UPDATE event SET seq = seq - 1 WHERE stream = :id AND seq > 3",
        id=push_id,
    )

    assert found(record, push_id)[:2] == [
        "event 3 (credential.used) does not follow its predecessor",
        "event 3 (credential.used) was edited",
    ]


def test_a_tail_that_was_cut_off_is_missed(record: Record, push_id: UUID) -> None:
    """The head remembers how long the chain was, and the row how the push ended."""
    record.tamper("DELETE FROM event WHERE stream = :id AND seq = 6", id=push_id)

    assert found(record, push_id) == [
        "the chain ends at event 5, but its head says 6: events were cut off or added",
        "the push's row says succeeded, its events end with nothing",
    ]


def test_a_chain_that_lost_all_its_events_is_missed(record: Record, push_id: UUID) -> None:
    """The head is left."""
    record.tamper("DELETE FROM event WHERE stream = :id", id=push_id)

    assert found(record, push_id) == [
        "the chain ends at event 0, but its head says 6: events were cut off or added",
        "the push's row says succeeded, its events end with nothing",
    ]


def test_an_event_that_was_added_is_noticed(record: Record, push_id: UUID) -> None:
    """Rightly linked and hashed, past the head."""
    record.tamper(
        "INSERT INTO event (stream, seq, at, kind, actor, data, prev, hash) "
        "SELECT stream, 7, now(), 'push.succeeded', 'mallory', '{}', hash, '' FROM event WHERE stream = :id AND seq = 6",
        REHASH,
        id=push_id,
        seq=7,
    )

    assert found(record, push_id)[0] == "the chain ends at event 7, but its head says 6: events were cut off or added"


def test_an_event_that_was_inserted_is_noticed(record: Record, push_id: UUID) -> None:
    """In the middle, with everything after it moved along."""
    record.tamper(
        "UPDATE event SET seq = -seq - 1 WHERE stream = :id AND seq > 2",
        "UPDATE event SET seq = -seq WHERE stream = :id AND seq < 0",
        "INSERT INTO event (stream, seq, at, kind, actor, data, prev, hash) "
        "SELECT stream, 3, at, kind, actor, data, hash, hash FROM event WHERE stream = :id AND seq = 2",
        id=push_id,
    )

    assert found(record, push_id)[:2] == [
        "event 3 (push.claimed) was edited",
        "event 4 (push.planned) was edited",
    ]


def test_two_events_that_changed_places_are_noticed(record: Record, push_id: UUID) -> None:
    """Both of them."""
    record.tamper(
        "UPDATE event SET seq = -1 WHERE stream = :id AND seq = 2",
        "UPDATE event SET seq = 2 WHERE stream = :id AND seq = 3",
        "UPDATE event SET seq = 3 WHERE stream = :id AND seq = -1",
        id=push_id,
    )

    assert {what for what in found(record, push_id) if "edited" in what} == {
        "event 2 (push.planned) was edited",
        "event 3 (push.claimed) was edited",
    }


def test_events_of_one_push_do_not_pass_as_those_of_another(record: Record, push_id: UUID) -> None:
    """The stream is part of what was hashed."""
    other = record.finished()
    record.tamper(
        "DELETE FROM event WHERE stream = :id",
        "UPDATE event SET stream = :id WHERE stream = :other",
        "UPDATE chain SET hash = (SELECT hash FROM chain WHERE stream = :other) WHERE stream = :id",
        id=push_id,
        other=other,
    )

    assert found(record, push_id)[:2] == [
        "event 1 (push.queued) does not follow its predecessor",
        "event 1 (push.queued) was edited",
    ]


def test_events_without_a_chain_are_noticed(record: Record, push_id: UUID) -> None:
    """The head was removed."""
    record.tamper("DELETE FROM chain WHERE stream = :id", id=push_id)

    assert found(record, push_id) == ["events without a chain", "a push without events"]


def test_a_push_that_nobody_submitted_is_noticed(record: Record) -> None:
    """A row made by hand, without events."""
    card = record.credential()
    forged = uuid4()
    record.tamper(
        "INSERT INTO push (id, owner, actor, request_sha256, source, uri, bucket, prefix, profile, credential_id, "
        "credential_kind, min_strength, overwrite, state, finished_at) VALUES (:id, 'o', 'o', '', '/s', 's3://bucket', "
        "'bucket', '', 'aws', :card, 'access_key', 'checksum', 'never', 'succeeded', now())",
        id=forged,
        card=card.id,
    )

    assert found(record, forged) == [
        "a push without events",
        "the push's row says succeeded, its events end with nothing",
    ]


def test_a_row_that_was_deleted_is_missed(record: Record, push_id: UUID) -> None:
    """Its events are left."""
    record.tamper("DELETE FROM push WHERE id = :id", id=push_id)

    assert found(record, push_id) == ["events of a row that is gone"]


def test_a_credential_without_its_events_is_noticed(record: Record) -> None:
    """Its chain was removed as a whole."""
    card = record.credential()
    record.tamper("DELETE FROM event WHERE stream = :id", "DELETE FROM chain WHERE stream = :id", id=card.id)

    assert Fault(card.id, None, "a credential without events") in verify(record.app).faults


# -- rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "state = 'skipped'",
        "strength = 'reread'",
        "sha256 = decode(repeat('11', 32), 'hex')",
        "size = 11",
        "key = 'elsewhere'",
        "path = 'elsewhere'",
        "mtime_ns = 0",
        "etag = 'x'",
        "expected = 'x'",
        "version_id = 'x'",
        "uploaded_at = uploaded_at + interval '1 second'",
        "error_code = 'X'",
    ],
)
def test_an_edited_file_row_is_noticed(record: Record, push_id: UUID, change: str) -> None:
    """By the digest in its part's event."""
    record.tamper(f"UPDATE file SET {change} WHERE push_id = :id AND seq = 2", id=push_id)

    assert found(record, push_id) == ["file rows of part 1 are not those that its end recorded"]


def test_a_deleted_file_row_is_missed(record: Record, push_id: UUID) -> None:
    """By its part's digest and by the plan's count."""
    record.tamper("DELETE FROM file WHERE push_id = :id AND seq = 2", id=push_id)

    assert found(record, push_id) == [
        "file rows of part 1 are not those that its end recorded",
        "the push has 1 file rows, its plan had 2",
    ]


def test_a_file_row_that_was_added_is_noticed(record: Record, push_id: UUID) -> None:
    """Past the files of every part."""
    record.tamper(
        "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state) VALUES (:id, 99, 'p', 'k', 1, 1, 'verified')",
        id=push_id,
    )

    assert found(record, push_id) == ["the push has 3 file rows, its plan had 2"]


def test_a_failed_push_that_was_made_a_success_is_noticed(record: Record) -> None:
    """The last word in the chain says otherwise."""
    push_id = record.finished([failed(1), *verified([2])])
    record.tamper("UPDATE push SET state = 'succeeded', error_code = NULL WHERE id = :id", id=push_id)

    assert found(record, push_id) == [
        "the push's row says succeeded, its events end with push.failed",
        "the push's row differs from its last event in: code",
    ]


def test_a_push_that_was_opened_again_is_noticed(record: Record, push_id: UUID) -> None:
    """As if it had never ended."""
    record.tamper("UPDATE push SET state = 'queued', finished_at = NULL WHERE id = :id", id=push_id)

    assert found(record, push_id) == ["the push's row says queued, its events end with push.succeeded"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("files_total = 3", "files"),
        ("bytes_total = 0", "bytes"),
        ("files_verified = 0", "verified"),
        ("files_skipped = 9", "skipped"),
        ("files_unverified = 9", "unverified"),
        ("files_failed = 9", "failed"),
        ("strength = 'reread'", "strength"),
        ("error_code = 'X'", "code"),
    ],
)
def test_an_edited_verdict_is_noticed(record: Record, push_id: UUID, change: str, field: str) -> None:
    """The last event told the numbers."""
    record.tamper(f"UPDATE push SET {change} WHERE id = :id", id=push_id)

    assert found(record, push_id)[0] == f"the push's row differs from its last event in: {field}"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("owner = 'mallory'", "owner"),
        ("actor = 'mallory'", "actor"),
        ("source = '/etc'", "source"),
        ("bucket = 'mine'", "bucket"),
        ("uri = 's3://results/other'", "destination"),
        ("profile = 'aws'", "profile"),
        ("credential_id = gen_random_uuid()", "credential"),
        ("credential_kind = 'oauth_grant'", "credential_kind"),
        ("min_strength = 'size'", "min_strength"),
        ("overwrite = 'always'", "overwrite"),
        ("include = '{}'", "include"),
        ("exclude = '{a,b}'", "exclude"),
        ("labels = '{}'", "labels"),
    ],
)
def test_an_edited_request_is_noticed(record: Record, push_id: UUID, change: str, field: str) -> None:
    """The first event told what was asked for, by whom and to where."""
    record.tamper(f"UPDATE push SET {change} WHERE id = :id", id=push_id)

    assert found(record, push_id) == [f"the push's row differs from its first event in: {field}"]


# -- the hash ---------------------------------------------------------------------------------------

#: Text as Postgres stores it: everything but NUL and surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
MOMENTS = st.integers(-62_135_510_400_000_000, 253_402_128_000_000_000).map(
    lambda us: EPOCH + timedelta(microseconds=us)
)


@given(
    kind=TEXT,
    actor=TEXT,
    data=st.dictionaries(TEXT, TEXT | st.integers() | st.none()),
    at=MOMENTS,
    credential=st.none() | st.uuids(),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_python_and_the_database_hash_alike(
    record: Record, kind: str, actor: str, data: dict[str, str | int | None], at: datetime, credential: UUID | None
) -> None:
    """Control characters, quotes, every script; years long past and far ahead."""
    stream, text, salt = uuid4(), json.dumps(data, ensure_ascii=False), uuid4().bytes
    row = {"prev": genesis(stream), "s": stream, "at": at, "kind": kind, "actor": actor, "k": credential, "data": text}
    with record.app.connect() as c:
        theirs = [bytes(found) for found in c.execute(sa.text(HASH), row | {"salt": salt}).one()]

    content = content_hash(salt, actor, text)
    assert theirs == [
        event_hash(genesis(stream), stream, 7, at, kind, actor, credential, text),
        event_hash_2(genesis(stream), stream, 7, at, kind, credential, content),
        content,
    ]


HASH = """
    SELECT cloudpush_event_hash(:prev, :s, 7, CAST(:at AS timestamptz), :kind, :actor, CAST(:k AS uuid), :data),
        cloudpush_event_hash_2(:prev, :s, 7, CAST(:at AS timestamptz), :kind, CAST(:k AS uuid), content), content
    FROM cloudpush_event_content(:salt, :actor, :data) AS content
"""


@given(actor=TEXT, data=st.dictionaries(TEXT, TEXT))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_appended_verifies(record: Record, actor: str, data: dict[str, str]) -> None:
    """What comes back from the database is, to the byte, what was hashed."""
    stream = uuid4()
    with record.app.begin() as c:
        append_events(c, stream, actor, [(Event.PUSH_CLAIMED, None, data), (Event.PUSH_PLANNED, uuid4(), data)])

    report = verify(record.app, stream)

    assert (report.events, report.faults) == (2, [])


def test_fields_cannot_be_shifted_into_each_other() -> None:
    """An actor that looks like the end of one event and the beginning of its data."""
    stream, at = uuid4(), datetime(2026, 1, 1, tzinfo=UTC)

    one = event_hash(b"", stream, 1, at, "k", "a", None, "b\x1f{}")
    other = event_hash(b"", stream, 1, at, "k", "a\x1fb", None, "{}")

    assert one != other


def test_a_transaction_that_is_rolled_back_appends_nothing(record: Record) -> None:
    """State and event stand or fall together."""
    stream = uuid4()
    with record.app.connect() as c:
        append_event(c, stream, Event.PUSH_CLAIMED, "worker")
        c.rollback()

    assert (record.kinds(stream), verify(record.app, stream).streams) == ([], 0)


# -- signed URLs ---------------------------------------------------------------------------------


def renewed(record: Record, **changes: object) -> UUID:
    """A push with signed URLs whose part waited, and that was given fresh ones."""
    push_id = record.submitted_signed(**changes)
    push = record.ledger.claim_push(push_id, lease := a_lease())
    assert push is not None
    page = a_page(push.id)
    record.ledger.finish_plan_with(push, lease, page)
    record.ledger.end_part(push, page.part, lease, paused(), [failed(1, Code.URL_EXPIRED)])
    record.desk.resign(push_id, record.set().id, "portal", 2)
    return push_id


def test_pushes_that_waited_leave_a_sound_record(record: Record) -> None:
    """That wait, that go on, that ended; with a manifest and a hook; where the host does not tell the bucket."""
    ended = renewed(record)
    claimed = record.ledger.claim_part(ended, 1, lease := a_lease())
    assert claimed is not None
    record.sheets.note_resign(*claimed, lease, 2, 0, "portal.example", "no answer")
    record.sheets.add_session(*claimed, lease, 1, 60)
    record.ledger.end_part(*claimed, lease, done(), verified([1, 2]))
    no_bucket = read_destination("https://storage.example/runs/7")
    mine = {
        ended,
        renewed(record, hook_id=record.credential(kind="resign_hook").id, manifest_sha256=bytes(32)),
        record.planned_signed().id,
        record.desk.store_signed(a_request(), record.set(), no_bucket, bytes(32))[0],
    }

    assert [f for f in verify(record.app).faults if f.stream in mine] == []


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE renewal SET actor = 'mallory' WHERE push_id = :id", "renewal 1 differs from its event"),
        ("UPDATE renewal SET files = 7 WHERE push_id = :id", "renewal 1 differs from its event"),
        (
            "UPDATE renewal SET credential_id = gen_random_uuid() WHERE push_id = :id",
            "renewal 1 differs from its event",
        ),
        (
            "UPDATE renewal SET at = at + interval '1 microsecond' WHERE push_id = :id",
            "renewal 1 differs from its event",
        ),
        ("DELETE FROM renewal WHERE push_id = :id", "renewal 1 is told by an event, but its row is gone"),
        (
            "INSERT INTO renewal SELECT push_id, 2, gen_random_uuid(), at, actor, files FROM renewal WHERE push_id = :id",
            "renewal 2 is told by no event",
        ),
        (
            "UPDATE push SET hook_id = gen_random_uuid() WHERE id = :id",
            "the push's row differs from its first event in: hook",
        ),
        (
            "UPDATE push SET manifest_sha256 = '\\x00' WHERE id = :id",
            "the push's row differs from its first event in: manifest",
        ),
        ("UPDATE push SET bucket = '' WHERE id = :id", "the push's row differs from its first event in: bucket"),
    ],
)
def test_an_edit_to_what_was_handed_over_is_found(record: Record, statement: str, what: str) -> None:
    """Whose URLs a push used cannot be rewritten afterwards."""
    push_id = renewed(record)

    record.tamper(statement, id=push_id)

    assert found(record, push_id) == [what]


def test_an_event_of_nonsense_does_not_stop_the_search(record: Record) -> None:
    """An intruder cannot hide behind a number that is none."""
    push_id = renewed(record)
    record.tamper(
        "UPDATE event SET data = json_build_object('number', 'x') WHERE stream = :id AND kind = 'push.resigned'",
        id=push_id,
    )

    faults = found(record, push_id)

    assert [word for word in faults if "renewal" in word] == [
        "renewal x is told by an event, but its row is gone",
        "renewal 1 is told by no event",
    ]
    assert any("push.resigned) was edited" in word for word in faults)
