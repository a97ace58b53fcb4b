"""Preflights, retries and packages with real parts: Postgres, rclone and SeaweedFS."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from builders import OWNER, a_destination, a_lease, a_push, a_request, failure, retry
from cloudpush.audit.integrity import verify
from cloudpush.audit.ledger import Ledger
from cloudpush.audit.preflights import MOST_OPEN, MOST_TRIED
from cloudpush.audit.preflights import Preflights as Book
from cloudpush.credentials.kinds import parse
from cloudpush.errors import AccessError, CloudPushError, Code, InputError, StoreError
from cloudpush.push.couriers import KeyCourier
from cloudpush.push.intake import Accepted, Intake
from cloudpush.push.job import Destination, Profile, Push
from cloudpush.push.leases import LeaseKeeper
from cloudpush.push.lifecycle import CloudPush
from cloudpush.push.planning import Limits
from cloudpush.push.preflight import ABORT, DELETE, Preflight, Report
from cloudpush.push.preflights import Preflights, Trying
from cloudpush.push.retry import Policy
from cloudpush.push.states import Package, State, Strength
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.transfer.rclone import Rclone
from cloudpush.verify.cloud import CloudInspector
from cloudpush.wiring.common import SystemClock
from fakes import FakeAnnouncer
from fakes_inspector import GoOn
from fakes_vault import FakeVault
from records import Record
from servers import Cloud


@dataclass
class Worker:
    """What executes, with a real engine and a bucket of its own."""

    cloud: Cloud
    record: Record
    preflight: Preflight
    vault: FakeVault
    courier: KeyCourier
    bucket: str
    root: Path

    def where(self, uri: str = "", _profile: str = "") -> Destination:
        weed = Profile("seaweedfs", "seaweedfs", self.cloud.endpoint, trusted=True)
        prefix = uri.partition("://")[2].partition("/")[2] if uri else "runs/7"
        return Destination("s3", self.bucket, prefix, weed)

    def credential(self, identity: Any = None) -> Any:
        made = self.record.credential()
        identity = identity or self.cloud.admin
        secret = parse("access_key", {"access_key_id": identity.access_key, "secret_access_key": identity.secret_key})
        self.vault.seal(made.id, OWNER, secret)
        return made

    def try_out(self, identity: Any = None, *wants: str, **changes: Any) -> Report:
        card = self.credential(identity)
        push = a_push(destination=self.where(), credential_id=card.id, min_strength=Strength.SIZE, **changes)
        return self.preflight.run(push, GoOn(), wants)


@pytest.fixture(scope="module")
def engine(seaweedfs: Cloud) -> Iterator[Rclone]:
    """The real engine."""
    made = Rclone(Settings(rclone=str(binaries.rclone()), allowed_endpoints=(seaweedfs.address,), transfers=4))
    yield made
    made.stop()


@pytest.fixture
def worker(seaweedfs: Cloud, engine: Rclone, record: Record, tmp_path: Path) -> Iterator[Worker]:
    """A worker whose messages the test delivers."""
    inspector, vault = CloudInspector(), FakeVault()
    courier = KeyCourier(vault=vault, engine=engine, inspector=inspector, clock=SystemClock(), roots=(tmp_path,))
    preflight = Preflight(inspector, {"access_key": courier.visit})
    yield Worker(seaweedfs, record, preflight, vault, courier, seaweedfs.make_bucket("preflight"), tmp_path)
    inspector.close()


def found(report: Report) -> list[tuple[str, bool, Code | None]]:
    return [(check.name, check.ok, check.code) for check in report.checks]


# -- with a real destination --------------------------------------------------------------------------


def test_key_that_may_do_everything_passes_and_leaves_nothing(worker: Worker) -> None:
    """Neither the probe nor half an upload."""
    report = worker.try_out(None, DELETE, ABORT)

    assert found(report) == [(name, True, None) for name in ("write", "head", "delete", "abort")], report
    assert (report.checks[1].strength, worker.cloud.keys(worker.bucket), worker.cloud.uploads(worker.bucket)) == (
        "checksum",
        {},
        [],
    )


def test_key_that_may_only_write_is_told_so(worker: Worker) -> None:
    """It may not look, which ends a push that demands any proof of its own."""
    report = worker.try_out(worker.cloud.writer, ABORT)

    assert [(check.name, check.ok) for check in report.checks][:2] == [("write", True), ("head", False)]
    assert report.error is not None
    assert report.error.code is Code.ACCESS_DENIED
    assert (worker.cloud.keys(worker.bucket), worker.cloud.uploads(worker.bucket)) == ({}, [])


def test_key_that_may_only_read_is_told_that_it_may_not_write(worker: Worker) -> None:
    """Nothing else is tried."""
    assert found(worker.try_out(worker.cloud.reader, DELETE)) == [("write", False, Code.ACCESS_DENIED)]


def test_bucket_that_is_not_there_is_named(worker: Worker) -> None:
    """Before any data moves."""
    worker.bucket = "no-such-bucket-here"

    report = worker.try_out()

    assert found(report) == [("write", False, Code.NO_SUCH_BUCKET)]
    assert "no-such-bucket-here" in report.checks[0].message


# -- on demand ----------------------------------------------------------------------------------------


class Doors:
    """Who asks, and the worker's hands."""

    def __init__(self, worker: Worker) -> None:
        self.book = Book(worker.record.app)
        self.desk = Preflights(
            store=self.book, cards=worker.record.desk, clock=SystemClock(), parse=worker.where, allowed_endpoints=()
        )
        self.trying = Trying(store=self.book, preflight=worker.preflight, parse=worker.where, worker="worker-1")

    def attend(self) -> None:
        for preflight_id in self.book.chores(100, 120):
            self.trying.attend(preflight_id)


def test_preflight_that_is_asked_for_is_done_by_a_worker(worker: Worker) -> None:
    """Its stream tells who asked, that the credential was used, and what came of it; the record is sound."""
    doors, card = Doors(worker), worker.credential()
    asked = doors.desk.ask(OWNER, "grace", "s3://x/runs/8", card.name, wants=[DELETE])
    doors.attend()

    shown = doors.desk.show(asked.id, OWNER)

    assert (asked.state, shown.state, shown.error_code, shown.actor, shown.wants) == (
        "queued",
        "passed",
        None,
        "grace",
        ["delete"],
    )
    assert [check["name"] for check in shown.checks] == ["write", "head", "delete"]
    assert worker.record.kinds(asked.id) == ["preflight.asked", "credential.used", "preflight.ended"]
    assert verify(worker.record.app).faults == []


def test_preflight_of_a_killed_worker_is_taken_up_again(worker: Worker) -> None:
    """After a while, by anybody; whoever comes late writes nothing."""
    doors, card = Doors(worker), worker.credential()
    asked = doors.desk.ask(OWNER, OWNER, "s3://x/runs/8", str(card.id))
    doors.book.chores(100, 120)
    meanwhile = doors.book.chores(100, 120)
    again = doors.book.chores(100, -1)

    doors.trying.attend(asked.id)

    assert (asked.id in meanwhile, asked.id in again, doors.desk.show(asked.id, None).state) == (False, True, "passed")
    assert not doors.book.end(asked.id, Report(), None, "late")


def test_preflight_with_a_purged_credential_opens_nothing(worker: Worker) -> None:
    """The answer says why."""
    doors, card = Doors(worker), worker.credential()
    asked = doors.desk.ask(OWNER, OWNER, "s3://x/runs/8", str(card.id))
    worker.record.tamper("UPDATE credential SET state = 'purging' WHERE id = :id", id=card.id)
    doors.attend()

    shown = doors.desk.show(asked.id, OWNER)

    assert (shown.state, shown.error_code, shown.checks) == ("failed", "CREDENTIAL_PURGED", [])
    assert worker.record.kinds(asked.id) == ["preflight.asked", "preflight.ended"]


def test_nobody_sees_anothers_preflights(worker: Worker) -> None:
    """They are as unknown as ones that never were; an operator sees them, newest first and page by page."""
    doors, card = Doors(worker), worker.credential()
    made = [doors.desk.ask(OWNER, OWNER, "s3://x/runs/8", str(card.id)).id for _ in range(3)]

    for unknown, owner in ((made[0], "mallory"), (uuid4(), None)):
        with pytest.raises(InputError) as raised:
            doors.desk.show(unknown, owner)
        assert raised.value.code is Code.UNKNOWN_PREFLIGHT
    pages = [doors.desk.list(OWNER, limit=2), doors.desk.list(OWNER, limit=1, before=made[1])]

    assert doors.desk.list("mallory") == []
    assert [[asked.id for asked in page] for page in pages] == [[made[2], made[1]], [made[0]]]
    worker.record.tamper("UPDATE credential SET state = 'purging' WHERE id = :id", id=card.id)
    for _ in made:
        doors.attend()  # two of one owner at a time; none is left to the tests that follow


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"credential": "nobody's"}, Code.UNKNOWN_CREDENTIAL),
        ({"owner": "mallory"}, Code.NOT_OWNER),
        ({"wants": ["purge"]}, Code.BAD_INPUT),
    ],
)
def test_question_that_is_wrong_is_refused(worker: Worker, changes: dict[str, Any], code: Code) -> None:
    """As a submission would be, and nothing is stored."""
    doors, card = Doors(worker), worker.credential()
    given = {"owner": OWNER, "credential": str(card.id), "wants": []} | changes

    with pytest.raises(CloudPushError) as raised:
        doors.desk.ask(given["owner"], OWNER, "s3://x/runs/8", given["credential"], wants=given["wants"])

    assert raised.value.code is code


def test_defect_while_trying_ends_the_preflight(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken up for ever; a store that is away is waited for."""
    doors, card = Doors(worker), worker.credential()
    asked = doors.desk.ask(OWNER, OWNER, "s3://x/runs/8", str(card.id))
    doors.book.chores(100, 120)
    monkeypatch.setattr(worker.preflight, "run", _raise(StoreError(Code.DATABASE_UNREACHABLE, "away")))
    with pytest.raises(StoreError):
        doors.trying.attend(asked.id)
    monkeypatch.setattr(worker.preflight, "run", _raise(ZeroDivisionError()))

    doors.trying.attend(asked.id)

    assert doors.desk.show(asked.id, OWNER).error_code == "INTERNAL"


def test_pair_is_known_below_a_prefix_that_was_tried_and_for_some_days(worker: Worker) -> None:
    """Not beside it, and not for ever."""
    doors, card = Doors(worker), worker.credential()
    asked = doors.desk.ask(OWNER, OWNER, "s3://x/runs", str(card.id))
    doors.attend()
    assert doors.desk.show(asked.id, OWNER).state == "passed"

    unproved = {
        uri: _claimed(worker, card, uri, days).unproved
        for uri, days in (("s3://x/runs", 30.0), ("s3://x/runs/7", 30), ("s3://x/runs7", 30), ("s3://x/runs/8", 1e-9))
    }

    assert unproved == {"s3://x/runs": False, "s3://x/runs/7": False, "s3://x/runs7": True, "s3://x/runs/8": True}


# -- packages ------------------------------------------------------------------------------------------


def test_bag_at_the_destination_is_a_bag(worker: Worker) -> None:
    """Read as RFC 8493 says: complete, and every digest is that of what is there; the record is sound."""
    source = worker.root / "source"
    (source / "d").mkdir(parents=True)
    (source / "a b%\n.txt").write_bytes(b"odd")
    (source / "d" / "ü").write_bytes(b"more")
    row, objects = _pushed(worker, source, Package.BAGIT)

    bag = {key.removeprefix("runs/7/"): data for key, data in objects.items()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in bag.items()}
    manifest, tags = (_manifest(bag[name]) for name in ("manifest-sha256.txt", "tagmanifest-sha256.txt"))
    assert bag["bagit.txt"] == b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
    assert manifest == {name: digest for name, digest in digests.items() if name.startswith("data/")}
    assert tags == {name: digests[name] for name in ("bagit.txt", "bag-info.txt", "manifest-sha256.txt")}
    assert b"Payload-Oxum: 7.2\n" in bag["bag-info.txt"]
    assert (row["state"], row["files_total"], row["files_verified"], row["bytes_total"], row["bytes_verified"]) == (
        "succeeded",
        6,
        6,
        7,
        7,
    )
    assert verify(worker.record.app, row["id"]).faults == []


def test_package_that_was_not_made_leaves_a_sound_record(worker: Worker) -> None:
    """Its files have their verdict, and the numbers of the push agree."""
    source = worker.root / "source"
    source.mkdir()
    (source / "ro-crate-metadata.json").write_text("{}")
    (source / "a").write_text("a")
    row, objects = _pushed(worker, source, Package.RO_CRATE)

    assert (row["state"], row["error_code"], list(objects)) == ("failed", "NAME_NOT_A_KEY", ["runs/7/a"])
    assert (row["files_total"], row["files_failed"]) == (3, 2)
    assert verify(worker.record.app, row["id"]).faults == []


# -- retry -----------------------------------------------------------------------------------------------


def an_intake(record: Record, root: Path) -> tuple[Intake, FakeAnnouncer]:
    announcer = FakeAnnouncer()
    intake = Intake(
        desk=record.desk,
        announcer=announcer,
        clock=SystemClock(),
        parse=a_destination,
        roots=(root,),
        allowed_endpoints=(),
    )
    return intake, announcer


def ended(record: Record, root: Path, card: Any, state: State = State.FAILED, **changes: Any) -> UUID:
    """A push of ``root`` that ended so before it was planned."""
    request = a_request(source=str(root), credential=str(card.id), **changes)
    push_id = record.desk.store(request, card, a_destination(), bytes(32))[0]
    push = record.ledger.claim_push(push_id, lease := a_lease())
    assert push is not None
    record.ledger.end_push(push, lease, replace(failure(), state=state, retry_in=600))
    return push_id


def test_failed_push_is_tried_again_as_a_new_one(record: Record, tmp_path: Path) -> None:
    """The same request, once: whoever asks again gets the same push. The record says which one it repeats."""
    intake, announcer = an_intake(record, tmp_path)
    first = ended(record, tmp_path, record.credential(), labels={"run": "7"}, package=Package.BAGIT)

    again, repeated = (intake.retry(first, OWNER, "grace") for _ in range(2))

    assert isinstance(again, Accepted)
    assert isinstance(repeated, Accepted)
    assert (again.created, repeated.created, again.push_id) == (True, False, repeated.push_id)
    row, told = record.history.push(again.push_id), record.history.events(again.push_id)[0]["data"]
    assert (row["state"], row["actor"], row["labels"], row["package"]) == ("queued", "grace", {"run": "7"}, "bagit")
    assert (row["retry_of"], told["retry_of"], told["package"]) == (first, str(first), "bagit")
    assert verify(record.app, again.push_id).faults == []
    assert announcer.pushes == [again.push_id] * 2


@pytest.mark.parametrize("column", ["package = 'ro-crate'", "retry_of = NULL"])
def test_edited_package_or_origin_is_found(record: Record, tmp_path: Path, column: str) -> None:
    """The row must say what its first event says."""
    intake, _ = an_intake(record, tmp_path)
    again = intake.retry(ended(record, tmp_path, record.credential(), package=Package.BAGIT), OWNER, OWNER)
    assert isinstance(again, Accepted)
    record.tamper(f"UPDATE push SET {column} WHERE id = :id", id=again.push_id)

    faults = [fault.what for fault in verify(record.app, again.push_id).faults]

    assert faults == [f"the push's row differs from its first event in: {column.partition(' ')[0]}"]


def test_push_that_waits_for_its_next_attempt_is_due_now(record: Record, tmp_path: Path) -> None:
    """Before it is planned, and its parts after that; the record says why."""
    intake, announcer = an_intake(record, tmp_path)
    push_id = ended(record, tmp_path, record.credential(), State.QUEUED)
    planned = record.planned()
    found = record.ledger.claim_part(planned.id, 1, lease := a_lease())
    assert found is not None
    record.ledger.end_part(*found, lease, retry(600))

    states = [intake.retry(push_id, OWNER, OWNER), intake.retry(planned.id, OWNER, OWNER)]

    assert states == [State.QUEUED, State.RUNNING]
    assert record.history.events(push_id)[-1]["data"] == {"why": "retried"}
    assert record.ledger.claim_push(push_id, a_lease()) is not None
    assert record.ledger.claim_part(planned.id, 1, a_lease()) is not None
    assert announcer.pushes == [push_id, planned.id]


def test_push_that_needs_no_retry_has_none(record: Record, tmp_path: Path) -> None:
    """Succeeded, running, waiting for nothing, with signed URLs, somebody else's, unknown: each is refused in words."""
    intake, _ = an_intake(record, tmp_path)
    signed = record.submitted_signed()
    push = record.ledger.claim_push(signed, lease := a_lease())
    assert push is not None
    record.ledger.end_push(push, lease, failure())
    tried = [
        (record.finished(), OWNER, "has succeeded"),
        (record.running().id, OWNER, "is under way"),
        (record.submitted(), OWNER, "is under way"),
        (signed, OWNER, "had signed URLs"),
        (record.finished(), "mallory", "another owner"),
        (uuid4(), None, "not known"),
    ]

    said: list[bool] = []
    for push_id, owner, words in tried:
        with pytest.raises(InputError) as raised:
            intake.retry(push_id, owner, OWNER)
        said.append(words in raised.value.message)

    assert said == [True] * len(tried)


def test_retry_checks_the_credential_anew(record: Record, tmp_path: Path) -> None:
    """A purged one starts nothing."""
    intake, _ = an_intake(record, tmp_path)
    card = record.credential()
    push_id = ended(record, tmp_path, card)
    record.tamper("UPDATE credential SET state = 'purged', purged_at = now() WHERE id = :id", id=card.id)

    with pytest.raises(CloudPushError) as raised:
        intake.retry(push_id, OWNER, OWNER)

    assert raised.value.code is Code.CREDENTIAL_PURGED


# -- pieces ------------------------------------------------------------------------------------------------


def _claimed(worker: Worker, card: Any, uri: str, days: float) -> Push:
    ledger = Ledger(worker.record.app, worker.where, proved_days=days)
    request = a_request(destination=uri, credential=str(card.id))
    push = ledger.claim_push(worker.record.desk.store(request, card, worker.where(uri), bytes(32))[0], a_lease())
    assert push is not None
    return push


def _pushed(worker: Worker, source: Path, package: Package) -> tuple[Any, dict[str, bytes]]:
    """A push of ``source`` that was executed to its end: its row, and what is at the destination."""
    announcer, card = FakeAnnouncer(), worker.credential()
    ledger = Ledger(worker.record.app, worker.where)
    leases = LeaseKeeper(ledger, announcer, worker="worker-1", seconds=30, heartbeat=1)
    cloudpush = CloudPush(
        store=ledger,
        announcer=announcer,
        couriers={"access_key": worker.courier},
        leases=leases,
        clock=SystemClock(),
        policy=Policy(),
        limits=Limits(),
        preflight=worker.preflight,
    )
    request = a_request(source=str(source), credential=str(card.id), package=package)
    push_id = worker.record.desk.store(request, card, worker.where(), bytes(32))[0]
    cloudpush.run(push_id)
    while announcer.announced:
        cloudpush.run_part(*announcer.announced.pop(0))
    keys = worker.cloud.keys(worker.bucket)
    return worker.record.history.push(push_id), {key: worker.cloud.read(worker.bucket, key) for key in keys}


def _manifest(data: bytes) -> dict[str, str]:
    """Path → digest."""
    pairs = (line.split("  ", 1) for line in data.decode().splitlines())
    return {path.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%"): digest for digest, path in pairs}


def _raise(error: Exception) -> Any:
    def run(*_: object) -> Any:
        raise error

    return run


def test_one_owners_preflights_keep_no_others_waiting(worker: Worker) -> None:
    """Fifty questions about a destination that never answers were tried one after the other by all hands, for an hour."""
    greedy, other = f"greedy-{uuid4()}", f"other-{uuid4()}"
    book = Book(worker.record.app)
    cards = {owner: worker.record.credential(owner) for owner in (greedy, other)}
    asked = [book.add(greedy, greedy, cards[greedy], a_destination(), ()) for _ in range(MOST_OPEN)]
    with pytest.raises(AccessError) as e:
        book.add(greedy, greedy, cards[greedy], a_destination(), ())
    assert e.value.code is Code.RATE_LIMITED
    theirs = book.add(other, other, cards[other], a_destination(), ())
    assert set(book.chores(4, 600.0)) == {*asked[:MOST_TRIED], theirs}
    assert book.chores(4, 600.0) == []  # theirs are being tried
