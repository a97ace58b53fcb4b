"""A receipt against the record: what was signed once is compared with what the record says now."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cloudpush.audit import archives, months
from cloudpush.audit.archive_check import check_archive
from cloudpush.audit.findings import Report, Witness
from cloudpush.audit.names import Names
from cloudpush.audit.pseudonyms import Pseudonyms
from cloudpush.audit.receipt_check import NAMED, Placed, verify_receipt
from cloudpush.audit.receipts import Receipts
from cloudpush.credentials.ed25519 import verify as verify_signature
from cloudpush.push.trust.checking import Proved, check_receipt
from integration.test_tampering import REHASH_ALL
from past import Past
from records import Record
from servers import Databases

ADA = "ada-lovelace"


class Scene(Past):
    """A push that is over, with its receipt in somebody's hands, sealed."""

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        self.push_id = record.finished(owner=ADA, actor=ADA)
        self.receipts()
        self.notary.seal()
        self.document = b"".join(Receipts(record.app).stream(self.push_id))

    def read(self, on_file: Callable[[Mapping[str, Any]], None]) -> Proved:
        return check_receipt(io.BytesIO(self.document), self.trusted, verify_signature, on_file)

    def compare(self, witness: Witness | None = None) -> tuple[Report, Placed]:
        proved = self.read(lambda _: None)
        return verify_receipt(self.record.app, proved, self.read, witness or self.notary.witness())

    def faults(self) -> list[str]:
        """What is said besides what `verify` of the push says of its seals."""
        return [f.what for f in self.compare()[0].faults if "checkpoint" not in f.what]

    def tamper(self, *statements: str) -> None:
        """As a superuser who makes every chain fit again."""
        with self.record.intruder.begin() as c:
            c.execute(sa.text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                c.execute(sa.text(statement), {"id": self.push_id})
            c.execute(sa.text(REHASH_ALL))


@pytest.fixture
def scene(databases: Databases) -> Iterator[Scene]:
    made = databases.migrated("receipt")
    record = Record(made)
    yield Scene(record)
    record.close()
    databases.drop(made)


def test_a_receipt_fits_the_record(scene: Scene) -> None:
    """Row, files, the event that it was made after, the one that tells of it, and the checkpoint that seals them."""
    report, placed = scene.compare()

    assert (report.faults, report.unchecked) == ([], [])
    assert (placed.push, placed.after, placed.issued, placed.sealed_by, placed.files) == (
        str(scene.push_id),
        6,
        7,
        1,
        "same",
    )


EDITS = {
    "where it went": (
        ("UPDATE push SET bucket = 'elsewhere' WHERE id = :id",),
        "the record differs from the receipt in: push.bucket",
    ),
    "whose it was": (
        (
            "UPDATE push SET owner = 'mallory' WHERE id = :id",
            'UPDATE event SET data = (data::jsonb || \'{"owner": "mallory"}\')::json WHERE stream = :id AND seq = 1',
        ),
        "the record differs from the receipt in: push.owner",
    ),
    "how it ended": (
        ("UPDATE push SET strength = 'reread', files_failed = 1 WHERE id = :id",),
        "the record differs from the receipt in: verdict.files_failed, verdict.strength",
    ),
    "whose key it used": (
        ("UPDATE credential SET owner = 'mallory' WHERE id = (SELECT credential_id FROM push WHERE id = :id)",),
        "the record differs from the receipt in: credential.owner",
    ),
    "a file": (
        ("UPDATE file SET size = size + 1, sha256 = sha256('x') WHERE push_id = :id AND seq = 2",),
        "differs from the receipt in: sha256, size",
    ),
    "a file that is gone": (
        ("DELETE FROM file WHERE push_id = :id AND seq = 1",),
        "of the receipt is not in the record",
    ),
    "a file that was added": (
        (
            (
                "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state) "
                "SELECT push_id, 3, 'p3', 'k3', 1, 1, 'failed' FROM file WHERE push_id = :id AND seq = 1"
            ),
        ),
        "file 3 (p3) is not in the receipt",
    ),
    "an event, hashed anew": (
        ("UPDATE event SET actor = 'mallory' WHERE stream = :id AND seq = 3",),
        "event 6 is not the one after which the receipt was made",
    ),
    "the end of its chain": (
        ("DELETE FROM event WHERE stream = :id AND seq > 5",),
        "event 6, after which the receipt was made, is gone",
    ),
    "the event that tells of it": (
        ("DELETE FROM event WHERE stream = :id AND seq = 7",),
        "no event of the record tells that this receipt was issued",
    ),
    "everything of it": (
        (
            "DELETE FROM event WHERE stream = :id",
            "DELETE FROM chain WHERE stream = :id",
            "DELETE FROM file WHERE push_id = :id",
            "DELETE FROM part WHERE push_id = :id",
            "DELETE FROM receipt WHERE push_id = :id",
            "DELETE FROM push WHERE id = :id",
        ),
        "the push of this receipt is not in the record: it is of another installation, or its row is gone",
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_record_that_was_edited_after_the_receipt_is_named(scene: Scene, what: str) -> None:
    """By a superuser who hashed every chain anew: the holder of the receipt says what it was."""
    statements, expected = EDITS[what]
    scene.tamper(*(statement.replace("::", r"\:\:").replace('": "', r'"\: "') for statement in statements))

    found = scene.faults()

    assert [w for w in found if expected in w] != [], found


def test_a_receipt_of_another_history_is_named(scene: Scene) -> None:
    """The record was restored to before, and issued another receipt with the same key."""
    scene.record.tamper(
        "DELETE FROM event WHERE stream = :id AND seq = 7",
        "UPDATE chain SET seq = 6, hash = (SELECT hash FROM event WHERE stream = :id AND seq = 6) WHERE stream = :id",
        "DELETE FROM receipt WHERE push_id = :id",
        "INSERT INTO receipt (push_id) VALUES (:id)",
        id=scene.push_id,
    )
    scene.receipts(cloudpush="another")

    assert scene.faults() == ["no event of the record tells that this receipt was issued"]


def test_of_many_files_that_differ_the_first_are_named(scene: Scene) -> None:
    """And the number of the others."""
    many = NAMED + 5
    scene.tamper(
        "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state) "
        rf"SELECT :id, n, 'p' || n, 'k' || n, 1, 1, 'failed' FROM generate_series(3, {many + 2}) n"
    )

    found = [w for w in scene.faults() if "receipt" in w]

    assert (len(found), found[-1]) == (NAMED + 1, "5 more files differ from the receipt")


@pytest.mark.parametrize(
    "told",
    [
        """json_build_object('receipt', '{receipt}')""",
        """json_build_object('receipt', '{receipt}', 'events', '[]'::json)""",
        """json_build_object('receipt', '{receipt}', 'events', '[]'::json, 'pseudonym', 'p-1', 'made_at', 'now', 'signature', 'AAAA')""",
    ],
    ids=["of no events", "half of one", "not signed"],
)
def test_an_erasure_that_nobody_signed_excuses_nothing(scene: Scene, told: str) -> None:
    """A superuser edits the row, and has an event say that a name was replaced in this receipt."""
    receipt = scene.compare()[1].statement_sha256
    scene.tamper(
        "UPDATE push SET owner = 'mallory' WHERE id = :id",
        "SELECT cloudpush_append(:id, 'operator', ARRAY['audit.pseudonymised'], ARRAY[NULL]::uuid[], "
        f"ARRAY[{told.format(receipt=receipt)}::text])".replace("::", r"\:\:"),
    )

    assert "the record differs from the receipt in: push.owner" in scene.faults()


def test_a_name_that_was_replaced_since_is_no_fault(scene: Scene) -> None:
    """The erasure names this receipt, and is signed; what differs is said."""
    signer = scene.notary.signer
    purged = "UPDATE credential SET state = 'purged', purged_at = now() WHERE owner = :name"
    scene.record.tamper(purged, name=ADA)
    before = scene.compare()[0].unchecked
    Pseudonyms(scene.record.owner, Names(ADA, (), "person-1"), signer, signer.signed).run()
    scene.receipts()
    scene.notary.seal()

    report, placed = scene.compare()

    assert (before, report.faults, placed.sealed_by, placed.files) == ([], [], 1, "same")
    where = "push.actor, push.owner, credential.owner"
    assert report.unchecked == [f"{where}: a name was replaced there since the receipt was issued, by a signed erasure"]


def test_what_is_not_sealed_yet_is_said(scene: Scene) -> None:
    """A receipt may be compared within the minute."""
    scene.push_id = scene.record.finished(owner=ADA)
    scene.receipts()
    scene.document = b"".join(Receipts(scene.record.app).stream(scene.push_id))

    report, placed = scene.compare()

    assert (report.faults, placed.sealed_by) == ([], None)
    assert report.unchecked == ["whether event 6 is sealed: no checkpoint covers it yet"]


def test_a_copy_of_a_checkpoint_counts_for_one_push_as_well(scene: Scene) -> None:
    """Whoever kept one is not told that all is well where the record has another."""
    of_another = scene.notary.witness((1, "00" * 32), (2, "11" * 32))

    found = [f.what for f in scene.compare(of_another)[0].faults]

    assert found == [
        "checkpoint 1 is not the one of which there is a copy",
        "checkpoint 2, of which there is a copy, is gone",
    ]


def test_a_receipt_whose_push_was_dropped_still_has_its_place(scene: Scene, tmp_path: Path) -> None:
    """Its rows of files and its events are in an archive; the end of its chain is not, and its row is not."""
    scene.push_id = scene.push(scene.older, owner=ADA)
    scene.receipts()
    scene.document = b"".join(Receipts(scene.record.app).stream(scene.push_id))
    scene.notary.seal()
    place, _ = archives.write_archive(scene.record.app, scene.older, tmp_path, "keys", "ada")
    checked = check_archive(place, scene.notary.witness())
    months.drop(scene.record.owner, scene.older, place, checked, "ada")

    report, placed = scene.compare()
    scene.record.tamper("UPDATE push SET bucket = 'elsewhere' WHERE id = :id", id=scene.push_id)
    edited = scene.faults()

    assert (report.faults, placed.issued, placed.files) == ([], 7, "archived")
    assert report.unchecked == ["files of the receipt: their rows are in an archive"]
    assert edited == ["the record differs from the receipt in: push.bucket"]
