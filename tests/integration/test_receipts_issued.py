"""Receipts of pushes in a real database: owed by their end, issued once, and read as they were signed."""

from __future__ import annotations

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import NOON, OWNER, cancelled, failed, failure, skipped, unverified, verified
from cloudpush.audit import receipts as module
from cloudpush.audit.integrity import verify as verify_record
from cloudpush.audit.receipts import Receipts
from cloudpush.credentials.ed25519 import verify
from cloudpush.errors import CloudPushError, Code, InputError, StoreError, VaultError
from cloudpush.push.trust.canonical import canonical
from cloudpush.push.trust.checking import Proved, check_receipt
from cloudpush.push.trust.issuing import Issuing
from fakes import FakeClock
from receipt_builders import Notary
from records import Record


@pytest.fixture
def notary() -> Notary:
    return Notary()


@pytest.fixture
def receipts(record: Record, notary: Notary) -> Receipts:
    """Nothing is owed yet."""
    made = Receipts(record.app)
    while _issuing(made, notary).once():
        pass
    notary.calls = 0
    return made


def _issuing(receipts: Receipts, notary: Notary, **options: Any) -> Issuing:
    return Issuing(
        receipts, notary, verify, FakeClock(), issuer="https://push.example", software={"cloudpush": "1"}, **options
    )


def _check(receipts: Receipts, push_id: UUID, notary: Notary) -> Proved:
    return check_receipt(io.BytesIO(b"".join(receipts.stream(push_id))), notary.trusted, verify)


def _pending(receipts: Receipts, push_id: UUID) -> str:
    with pytest.raises(InputError) as caught:
        receipts.stream(push_id)
    assert caught.value.code is Code.RECEIPT_PENDING
    return caught.value.message


def test_a_push_that_ended_has_a_receipt_that_says_what_its_row_says(
    record: Record, receipts: Receipts, notary: Notary
) -> None:
    push_id = record.finished(labels={"of": "zürich"}, exclude=("tmp/**",))

    assert _issuing(receipts, notary).once() == 1

    stated, row = _check(receipts, push_id, notary).statement, record.history.push(push_id)
    assert (stated["issuer"], stated["issued_at"]) == ("https://push.example", "2026-03-01T12:00:00.000000Z")
    assert stated["push"] == {
        "actor": row["actor"],
        "bucket": row["bucket"],
        "destination": row["uri"],
        "exclude": ["tmp/**"],
        "id": str(push_id),
        "include": [],
        "labels": {"of": "zürich"},
        "manifest_sha256": None,
        "min_strength": row["min_strength"],
        "overwrite": row["overwrite"],
        "owner": OWNER,
        "package": "",
        "prefix": row["prefix"],
        "profile": row["profile"],
        "retry_of": None,
        "source": row["source"],
    }
    assert stated["credential"]["id"] == str(row["credential_id"])
    assert (stated["verdict"]["state"], stated["verdict"]["strength"]) == ("succeeded", "checksum")
    assert (stated["files"]["count"], stated["files"]["bytes"]) == (2, 20)


def test_every_way_to_end_is_told_and_is_checked(record: Record, receipts: Receipts, notary: Notary) -> None:
    pushes = [
        record.finished(),
        record.finished([*verified([1]), unverified(2)]),
        record.finished([*verified([1]), failed(2)]),
        record.finished([skipped(1), skipped(2)]),
        record.finished(verified([1]), verdict=cancelled()),
        record.finished([failed(1)], verdict=failure()),
        record.submitted(),
    ]
    record.desk.cancel(pushes[-1], OWNER, OWNER)

    assert _issuing(receipts, notary).once() == len(pushes)

    stated = [_check(receipts, push_id, notary).statement for push_id in pushes]
    rows = [record.history.push(push_id) for push_id in pushes]
    assert [s["verdict"]["state"] for s in stated] == [row["state"] for row in rows]
    assert [s["verdict"]["code"] for s in stated] == [row["error_code"] for row in rows]
    assert stated[-1]["files"]["count"] == 0
    assert notary.calls == 1


def test_no_receipt_before_the_end(record: Record, receipts: Receipts, notary: Notary) -> None:
    """Even if somebody wrote down that one is owed."""
    running = record.running().id
    record.tamper("INSERT INTO receipt (push_id) VALUES (:id)", id=running)

    assert (_issuing(receipts, notary).once(), "has not ended" in _pending(receipts, running)) == (0, True)


def test_receipts_that_cannot_be_written_keep_no_others_waiting(
    record: Record, receipts: Receipts, notary: Notary
) -> None:
    """However many of them are older; they are owed still."""
    older = [record.running().id for _ in range(3)]
    record.tamper(*(f"INSERT INTO receipt (push_id) VALUES ('{push_id}')" for push_id in older))
    younger = record.finished()
    issuing = _issuing(receipts, notary, at_once=2)

    issued = [issuing.once(), issuing.once()]
    record.tamper(*(f"DELETE FROM receipt WHERE push_id = '{push_id}'" for push_id in older))

    assert issued == [1, 0]
    assert _check(receipts, younger, notary).with_files


def test_a_receipt_that_is_owed_is_pending(record: Record, receipts: Receipts) -> None:
    assert "about to be signed" in _pending(receipts, record.finished())


def test_nobody_gets_a_receipt_of_another_s_push(record: Record, receipts: Receipts) -> None:
    with pytest.raises(InputError) as others:
        receipts.stream(record.finished(), "bob")
    with pytest.raises(InputError) as unknown:
        receipts.stream(uuid4())

    assert (others.value.code, unknown.value.code) == (Code.NOT_OWNER, Code.UNKNOWN_PUSH)


def test_the_chain_says_what_was_signed_and_the_receipt_where_the_chain_stood(
    record: Record, receipts: Receipts, notary: Notary
) -> None:
    """Neither can be made anew without the other; and the record is sound."""
    push_id = record.finished()
    _issuing(receipts, notary).once()

    [*_, before, last] = record.history.events(push_id)
    text = b"".join(receipts.stream(push_id)).splitlines()[1].removeprefix(b'"statement":').removesuffix(b",")
    chain = json.loads(text)["chain"]
    assert chain == {"stream": str(push_id), "seq": before["seq"], "hash": before["hash"]}
    assert (last["kind"], last["actor"]) == ("push.receipt_issued", "notary")
    assert last["data"]["statement_sha256"] == hashlib.sha256(text).hexdigest()
    assert last["data"]["root"] == json.loads(text)["files"]["root"]
    assert verify_record(record.app, push_id).sound


def test_two_notaries_at_once_issue_each_receipt_once(record: Record, receipts: Receipts, notary: Notary) -> None:
    pushes = [record.finished() for _ in range(12)]

    with ThreadPoolExecutor(4) as pool:
        issued = list(pool.map(lambda _: _issuing(receipts, notary).once(), range(4)))

    assert sum(issued) == len(pushes)
    for push_id in pushes:
        assert record.kinds(push_id).count("push.receipt_issued") == 1
        assert _check(receipts, push_id, notary).with_files


def test_a_receipt_that_was_issued_cannot_be_changed(record: Record, receipts: Receipts, notary: Notary) -> None:
    push_id = record.finished()
    _issuing(receipts, notary).once()

    with pytest.raises(sa.exc.DBAPIError, match="was issued"), record.app.begin() as c:
        c.execute(sa.text("UPDATE receipt SET statement = '{}' WHERE push_id = :id"), {"id": push_id})


def test_what_vault_or_postgres_refuses_is_owed_still(record: Record, receipts: Receipts, notary: Notary) -> None:
    push_id = record.finished()

    class Away(Notary):
        def sign(self, texts: Any) -> Any:
            raise VaultError(Code.VAULT_SEALED, "Vault is sealed.")

    class Full(Receipts):
        def issue(self, issues: Any) -> int:
            raise StoreError(Code.DATABASE_UNREACHABLE, "Postgres is away.")

    for issuing in (_issuing(receipts, Away()), _issuing(Full(record.app), notary)):
        with pytest.raises(CloudPushError):
            issuing.once()

    _pending(receipts, push_id)
    assert _issuing(receipts, notary).once() == 1


def test_a_key_that_is_rotated_meanwhile_is_the_one_that_the_statement_names(
    record: Record, receipts: Receipts, notary: Notary
) -> None:
    push_id = record.finished()
    issuing = _issuing(receipts, notary)
    notary.rotates_in_mid_call = 1

    issuing.once()

    assert _check(receipts, push_id, notary).kid == notary.keys()[-1].kid


def test_a_signature_that_does_not_hold_is_not_stored(record: Record, receipts: Receipts) -> None:
    """It could not be taken back."""
    push_id = record.finished()

    class Other(Notary):
        def sign(self, texts: Any) -> Any:
            return super().sign([text + b" " for text in texts])

    with pytest.raises(VaultError, match="another key"):
        _issuing(receipts, Other()).once()

    _pending(receipts, push_id)


def test_what_cannot_be_written_keeps_no_other_waiting(record: Record, receipts: Receipts, notary: Notary) -> None:
    """A number that not every reader of JSON takes for the same: somebody tampered with it."""
    broken, sound = record.finished(), record.finished()
    record.tamper("UPDATE push SET bytes_total = 9223372036854775807 WHERE id = :id", id=broken)

    assert (_issuing(receipts, notary).once(), _issuing(receipts, notary).once()) == (1, 0)

    assert _check(receipts, sound, notary).with_files
    _pending(receipts, broken)
    record.tamper("UPDATE push SET bytes_total = 20 WHERE id = :id", id=broken)


def test_the_oldest_are_issued_first(record: Record, receipts: Receipts, notary: Notary) -> None:
    pushes = [record.finished() for _ in range(3)]
    issuing = _issuing(receipts, notary, at_once=2)

    assert issuing.once() == 2
    _pending(receipts, pushes[2])
    assert (issuing.once(), issuing.once()) == (1, 0)


def test_a_receipt_of_many_files_is_read_page_by_page(
    record: Record, receipts: Receipts, notary: Notary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pages' length, the bytes are the same."""
    push_id = record.finished()
    _add_files(record, push_id, 10)
    _issuing(receipts, notary).once()
    whole = b"".join(receipts.stream(push_id))

    for page in (1, 3, 5, 12):
        monkeypatch.setattr(module, "PAGE", page)
        assert b"".join(receipts.stream(push_id)) == whole
        assert [line for page_ in receipts.files(push_id) for line in page_.lines] == [
            line.removesuffix(b",") for line in whole.splitlines()[4:-1]
        ]

    assert _check(receipts, push_id, notary).statement["files"]["count"] == 12


def test_a_receipt_whose_file_rows_are_gone_is_one_without_files(
    record: Record, receipts: Receipts, notary: Notary
) -> None:
    push_id = record.finished()
    _issuing(receipts, notary).once()
    record.tamper("DELETE FROM file WHERE push_id = :id", id=push_id)

    proved = _check(receipts, push_id, notary)

    assert (proved.with_files, proved.statement["files"]["count"]) == (False, 2)


def test_a_file_row_that_was_edited_since_spoils_the_receipt(
    record: Record, receipts: Receipts, notary: Notary
) -> None:
    """Whoever can write the database cannot sign."""
    push_id = record.finished()
    _issuing(receipts, notary).once()
    record.tamper("UPDATE file SET size = 11 WHERE push_id = :id AND seq = 2", id=push_id)

    with pytest.raises(InputError, match="their root is another"):
        _check(receipts, push_id, notary)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS | st.sampled_from(['\x7f\x1f\b\f\t\r\n"\\/', "\u2028\u2029\ufeff\U0001f600"]), min_size=4))
def test_what_postgres_writes_is_canonical_json(record: Record, texts: list[str]) -> None:
    """Byte by byte as RFC 8785 has it, whatever stands in a name or an answer."""
    path, key, etag, version = (texts * 4)[:4]
    with record.app.connect() as c:
        row = c.execute(
            sa.text(
                "SELECT line FROM (SELECT "
                + module.LINE
                + """ AS line FROM (SELECT CAST(:path AS text) AS path, CAST(:key AS text) AS key, CAST(:etag AS text) AS
                etag, CAST(:version AS text) AS version_id, NULL::text AS error_code, 'md5\\:x' AS expected,
                9223372036854775807 AS mtime_ns, 7 AS seq, '\\x00ff'::bytea AS sha256, 0 AS size, 'verified' AS state,
                'size' AS strength, CAST(:at AS timestamptz) AS uploaded_at) AS file) AS made"""
            ),
            {"path": path, "key": key, "etag": etag, "version": version, "at": NOON},
        ).scalar_one()

    assert row.encode() == canonical(
        {
            "error_code": None,
            "etag": etag,
            "expected": "md5:x",
            "key": key,
            "mtime_ns": "9223372036854775807",
            "path": path,
            "seq": 7,
            "sha256": "00ff",
            "size": 0,
            "state": "verified",
            "strength": "size",
            "uploaded_at": "2026-03-01T12:00:00.000000Z",
            "version_id": version,
        }
    )


def _add_files(record: Record, push_id: UUID, count: int) -> None:
    """Beside the two that it has."""
    record.tamper(
        """INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state, strength)
        SELECT :id, n + 2, 'g' || n, 'run/g' || n, 10, 0, 'verified', 'checksum' FROM generate_series(1, :count) n""",
        id=push_id,
        count=count,
    )
