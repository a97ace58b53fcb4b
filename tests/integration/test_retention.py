"""Months that are archived and dropped: by command only, by an archive that is whole, and without a gap in what is proved."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner, Result

from cloudpush import wiring
from cloudpush.audit import archives, months
from cloudpush.audit.archive_check import check_archive, compare_with_record
from cloudpush.audit.database import append_event
from cloudpush.audit.findings import Report, Witness
from cloudpush.audit.integrity import verify
from cloudpush.audit.receipts import Receipts
from cloudpush.audit.retired import cuts_digest, first_of
from cloudpush.cli import retention, trust
from cloudpush.cli.context import os_user
from cloudpush.cli.exits import Exit
from cloudpush.credentials.ed25519 import pem_of
from cloudpush.credentials.ed25519 import verify as verify_signature
from cloudpush.errors import InputError
from cloudpush.push.states import Event
from cloudpush.push.trust.chain import content_hash
from cloudpush.push.trust.checking import check_receipt
from cloudpush.push.trust.erasures import Erased, Erasure
from cloudpush.settings import Settings
from past import Past, months_back
from records import Record
from servers import Databases

REFUSED = "the month is not dropped: "


class Scene(Past):
    """Pushes in each of two months that are over, one that goes from the one into the other, and one of today."""

    def __init__(self, record: Record, directory: Path) -> None:
        super().__init__(record)
        self.directory = directory
        self.first = self.push(self.older)
        self.across = self.push(self.older, ends=self.newer)
        self.second = self.push(self.newer)
        self.today = record.finished()
        self.notary.seal()

    def archive(self, month: date | None = None, to: Path | None = None) -> Path:
        """The older month's archive, or another's."""
        return archives.write_archive(self.record.app, month or self.older, to or self.directory, "keys", "ada")[0]

    def drop(self, place: Path, month: date | None = None) -> None:
        """By the archive at ``place``."""
        checked = check_archive(place, self.notary.witness())
        months.drop(self.record.owner, month or self.older, place, checked, "ada")

    def refusal(self, place: Path, month: date | None = None) -> str:
        """Why a drop is refused."""
        with pytest.raises(InputError) as caught:
            self.drop(place, month)
        return caught.value.message.removeprefix(REFUSED)

    def run(self, *words: str, owner: bool = True) -> Result:
        """``cloudpush audit …``, with what Vault would say."""
        app = typer.Typer()
        retention.add_to(app)
        trust.add_to(app)
        urls: dict[str, Any] = {"database_url": self.record.database.url, "keep_months": 1}
        settings = Settings(**(urls | ({"database_admin_url": self.record.database.admin_url} if owner else {})))

        @contextmanager
        def services() -> Iterator[Any]:
            yield SimpleNamespace(settings=settings, database=self.record.app)

        with pytest.MonkeyPatch.context() as patch:
            for module in (retention, trust):
                patch.setattr(module, "services", services)
            patch.setattr(trust, "outside_witness", lambda *_, **__: (self.notary.witness(), ""))
            patch.setattr(wiring, "audit_keys", lambda _: [SimpleNamespace(raw=self.public)])
            return CliRunner().invoke(app, words)

    @property
    def public(self) -> bytes:
        """The audit key's public half."""
        return self.notary.signer.key.public_key().public_bytes_raw()

    def report(self, push_id: UUID | None = None) -> Report:
        return verify(self.record.app, push_id, self.notary.witness())

    def faults(self) -> list[str]:
        return [f.what for f in self.report().faults]

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self.record.owner.connect() as c:
            return list(c.execute(sa.text(statement), values).scalars())

    def all(self, statement: str, **values: Any) -> list[Any]:
        with self.record.owner.connect() as c:
            return [tuple(row) for row in c.execute(sa.text(statement), values)]

    def told(self, kind: Event) -> list[Any]:
        """Data of each event of that kind."""
        return self.rows("SELECT data FROM event WHERE kind = :kind ORDER BY id", kind=kind.value)


@pytest.fixture
def scene(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """In a database of each test's own: what one seals, archives or edits is no other's matter."""
    database = databases.migrated()
    record = Record(database)
    yield Scene(record, tmp_path_factory.mktemp("archives"))
    record.close()
    databases.drop(database)


@pytest.fixture
def paid(scene: Scene) -> Scene:
    """Receipts were issued, and sealed: nothing is owed."""
    scene.receipts()
    scene.notary.seal()
    return scene


def faults_of(place: Path, witness: Witness) -> list[str]:
    return [fault.what for fault in check_archive(place, witness).report.faults]


# -- before anything is dropped -------------------------------------------------------------------


def test_months_are_listed_with_what_is_due(scene: Scene) -> None:
    """By so many months that are kept besides the present one; none where all are."""
    found = months.months(scene.record.app, 2)
    none_due = months.months(scene.record.app, 0)

    assert [(m.month, m.files, m.sealed, m.archived, m.dropped, m.due) for m in found] == [
        (scene.older, 4, True, None, False, True),
        (scene.newer, 2, True, None, False, False),
        (months_back(0), 2, True, None, False, False),
    ]
    assert not any(m.due for m in none_due)


def test_a_month_that_is_not_sealed_is_not_archived(scene: Scene) -> None:
    """Nothing would prove its newest events."""
    with scene.at(first_of(scene.older) + timedelta(days=25)):
        scene.record.credential()
    with pytest.raises(InputError) as caught:
        scene.archive()
    scene.notary.seal()

    assert "is not wholly sealed yet" in caught.value.message


def test_what_is_owed_keeps_a_month(scene: Scene) -> None:
    """A receipt that nobody could issue any more without the files."""
    place = scene.archive()

    assert scene.refusal(place).endswith("of that month is owed its receipt.")


@pytest.mark.parametrize(
    ("back", "why"),
    [(0, "is not over yet."), (9, "there are no events of")],
)
def test_a_month_that_is_not_over_or_has_nothing_is_not_archived(scene: Scene, back: int, why: str) -> None:
    with pytest.raises(InputError) as caught:
        scene.archive(months_back(back))

    assert why in caught.value.message


def test_an_archive_is_sound_by_the_public_key_alone(paid: Scene) -> None:
    """Each event is one that was sealed, each file row one that its part's end recorded."""
    with paid.at(first_of(paid.older) + timedelta(days=25)):
        paid.record.credential()
    paid.notary.seal()
    place = paid.archive()

    report = check_archive(place, Witness(paid.notary.signer.signed)).report
    other = faults_of(place, Witness(lambda _, __: False))

    assert (report.faults, report.events, report.sealed, report.files) == ([], report.sealed, report.events, 2)
    assert report.unchecked == ["2 file rows of parts that ended after the month, or never"]
    assert other == [f"checkpoint {n} is not signed by the audit key" for n in (1, 2, 3)]


def _copy_with_a_changed_byte(scene: Scene, place: Path, name: str) -> Path:
    shutil.copytree(scene.archive(), place)
    data = bytearray((place / name).read_bytes())
    data[len(data) // 2] ^= 1
    (place / name).write_bytes(bytes(data))
    return place


@pytest.mark.parametrize("name", archives.FILES)
def test_an_archive_with_a_changed_byte_is_refused(scene: Scene, tmp_path: Path, name: str) -> None:
    """In whichever file, and so is one that lacks it."""
    place = _copy_with_a_changed_byte(scene, tmp_path / "copy", name)
    changed = faults_of(place, scene.notary.witness())
    (place / name).unlink()

    assert (changed, faults_of(place, scene.notary.witness())) == ([f"{name} was changed"], [f"{name} is missing"])
    assert scene.refusal(place) == f"its archive is not sound: {name} is missing."


def test_a_manifest_with_a_changed_byte_tells_of_other_files(scene: Scene, tmp_path: Path) -> None:
    """In the middle of one of the digests."""
    place = _copy_with_a_changed_byte(scene, tmp_path / "copy", archives.MANIFEST)

    assert scene.refusal(place).startswith("its archive is not sound: ")


def _forged(place: Path, table: str, column: str, value: object, push_id: UUID) -> None:
    """One value of a Parquet file is another, in the first row of a push, and the manifest was made to fit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = place / f"{table}.parquet"
    found = pq.read_table(path)
    at = found["stream" if table == "events" else "push_id"].to_pylist().index(str(push_id))
    values = found[column].to_pylist()
    values[at] = value
    index = found.schema.get_field_index(column)
    kind = found.schema.field(index)
    pq.write_table(found.set_column(index, kind, pa.array(values, kind.type)), path)
    _, manifest = archives.read_manifest(place)
    text = (place / archives.MANIFEST).read_text()
    (place / archives.MANIFEST).write_text(text.replace(manifest["sha256"][path.name], archives.sha256_of(path)))


@pytest.mark.parametrize(
    ("table", "column", "value", "said"),
    [
        ("events", "actor", "mallory", "event 1 ("),
        ("events", "hash", "00" * 32, "event 1 ("),
        ("events", "id", 999, "is not one that was sealed"),
        ("files", "sha256", "11" * 32, "file rows of part 1 are not those that its end recorded"),
    ],
)
def test_an_archive_that_was_forged_is_found(
    scene: Scene, tmp_path: Path, table: str, column: str, value: object, said: str
) -> None:
    """Manifest and all: the checkpoints speak against it."""
    place = tmp_path / "copy"
    shutil.copytree(scene.archive(), place)
    _forged(place, table, column, value, scene.first)

    assert any(said in what for what in faults_of(place, scene.notary.witness()))


def test_an_archive_of_other_rows_than_the_database_has_is_refused(paid: Scene) -> None:
    """Also in what no digest covers, such as the words of an error."""
    place = paid.archive()
    paid.record.tamper("UPDATE file SET error_message = 'x' WHERE push_id = :id AND seq = 1", id=paid.first)
    try:
        word = paid.refusal(place)
    finally:
        paid.record.tamper("UPDATE file SET error_message = NULL WHERE push_id = :id", id=paid.first)

    assert word == "the files in the archive are not those of the database: archive the month anew, elsewhere."


def test_a_push_that_has_not_ended_keeps_its_month(scene: Scene) -> None:
    scene.record.tamper("UPDATE push SET finished_at = NULL, state = 'running' WHERE id = :id", id=scene.first)
    try:
        word = scene.refusal(scene.archive())
    finally:
        scene.record.tamper(
            "UPDATE push SET finished_at = created_at, state = 'succeeded' WHERE id = :id", id=scene.first
        )

    assert word == f"push {scene.first} of that month has not ended."


def test_the_oldest_month_goes_first(scene: Scene) -> None:
    """So that a chain lacks nothing but its beginning."""
    word = scene.refusal(scene.archive(scene.newer), scene.newer)

    assert word == f"{scene.older:%Y-%m} is older and still there: the oldest month goes first."


def test_an_archive_of_another_month_is_refused(scene: Scene) -> None:
    assert scene.refusal(scene.archive(), scene.newer) == f"its archive is of {scene.older:%Y-%m}."


def test_a_month_with_an_edit_that_is_passed_off_as_a_replaced_name_is_not_dropped(paid: Scene, tmp_path: Path) -> None:
    """The archive alone cannot tell whether a later event tells of it; the record can, and must before it is all there is."""
    with kept_as_it_is(paid, paid.first):
        paid.record.tamper(REPLACED, id=paid.first)
        place = paid.archive(to=tmp_path)
        [(stream, event_hash)] = paid.all(
            "SELECT stream, hash FROM event WHERE stream = :id AND seq = 2", id=paid.first
        )
        alone = check_archive(place, paid.notary.witness()).report
        untold = paid.refusal(place)
        erased = Erased(2, event_hash, content_hash(b"", "p-1", "{}"))
        stated = Erasure.of(stream, "p-1", datetime.now(UTC), [erased])
        with paid.record.app.begin() as c:
            append_event(c, stream, Event.AUDIT_PSEUDONYMISED, "operator", stated.data(bytes(64)))
        unsigned = paid.refusal(place)
        with paid.record.app.begin() as c:
            signature = paid.notary.signer.sign([stated.to_sign()]).signatures[0]
            append_event(c, stream, Event.AUDIT_PSEUDONYMISED, "operator", stated.data(signature))
        signed = check_archive(place, paid.notary.witness())
        with paid.record.app.begin() as c:
            compare_with_record(c, signed)

    word = "1 events that were pseudonymised, as later events tell that are not in it"
    assert (alone.faults, word in alone.unchecked) == ([], True)
    assert (
        untold == "its archive is not sound: event 2 was pseudonymised, but no later event of the record tells by what."
    )
    assert unsigned.endswith("tells of an erasure that the audit key did not sign.")
    assert (word in signed.report.unchecked, signed.untold) == (False, [])
    assert paid.faults() == []


REPLACED = "UPDATE event SET actor = 'p-1', data = '{}', salt = NULL WHERE stream = :id AND seq = 2"


@contextmanager
def kept_as_it_is(scene: Scene, stream: UUID) -> Iterator[None]:
    """The stream's events are put back afterwards."""
    columns = "id, stream, seq, at, kind, actor, credential_id, data, prev, hash, salt, content"
    scene.record.tamper("CREATE TABLE aside AS SELECT * FROM event WHERE stream = :id", id=stream)
    try:
        yield
    finally:
        scene.record.tamper(
            "DELETE FROM event WHERE stream = :id",
            f"INSERT INTO event ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM aside",
            "UPDATE chain k SET (seq, hash) = (SELECT seq, hash FROM aside ORDER BY seq DESC LIMIT 1) WHERE stream = :id",
            "DROP TABLE aside",
            id=stream,
        )


def test_a_crash_leaves_no_half_an_archive(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing before it is whole; whole and not yet told of, the next call tells."""
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_write_checkpoints", _die)
        with pytest.raises(KeyboardInterrupt):
            scene.archive(to=tmp_path)
    after_first = list(tmp_path.iterdir())
    before = len(scene.told(Event.AUDIT_ARCHIVED))
    with monkeypatch.context() as patch:
        patch.setattr(archives, "append_event", _die)
        with pytest.raises(KeyboardInterrupt):
            scene.archive(to=tmp_path)
    untold = len(scene.told(Event.AUDIT_ARCHIVED))
    place = scene.archive(to=tmp_path)
    scene.archive(to=tmp_path)

    assert (after_first, untold - before, len(scene.told(Event.AUDIT_ARCHIVED)) - before) == ([], 0, 1)
    assert faults_of(place, scene.notary.witness()) == []


def _die(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["append_event", "cuts_digest"])
def test_a_crash_while_dropping_changes_nothing(paid: Scene, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """One transaction."""
    place = paid.archive()
    with monkeypatch.context() as patch:
        patch.setattr(months, where, _die)
        with pytest.raises(KeyboardInterrupt):
            paid.drop(place)

    assert (paid.faults(), paid.rows("SELECT count(*) FROM retired UNION ALL SELECT count(*) FROM cut")) == (
        [],
        [0, 0],
    )


# -- afterwards -----------------------------------------------------------------------------------


@pytest.fixture
def dropped(paid: Scene) -> Scene:
    """The older month is gone, by the command, its receipts were issued before."""
    result = paid.run("drop", f"{paid.older:%Y-%m}", "--archive", str(paid.archive()))
    assert (result.exit_code, " dropped. Keep " in result.stdout) == (0, True)
    paid.notary.seal()
    return paid


def test_the_record_is_sound_without_the_month(dropped: Scene) -> None:
    """And says what is gone; a push whose beginning is gone goes on from where it was cut."""
    report = dropped.report()
    alone = {dropped.report(push_id).sound for push_id in (dropped.first, dropped.across, dropped.second)}

    assert (report.faults, report.retired_months, report.retired_files) == ([], [f"{dropped.older:%Y-%m}"], 4)
    assert (report.retired_events > 10, alone) == (True, {True})
    assert (
        dropped.rows("SELECT relname::text FROM pg_class WHERE relname ~ :name", name=f"_{dropped.older:%Y_%m}$") == []
    )
    assert dropped.rows("SELECT count(*) FROM file WHERE push_id = :id", id=dropped.first) == [0]


def test_the_archive_is_the_one_that_the_record_tells_of(dropped: Scene, tmp_path: Path) -> None:
    """Whoever shows another one is told so."""
    checked = check_archive(dropped.archive(), dropped.notary.witness())
    with dropped.record.app.connect() as c:
        compare_with_record(c, checked)
        genuine = list(checked.report.faults)
        checked.sha256 = "00" * 32
        checked.digests[1] = "00" * 32
        compare_with_record(c, checked)

    assert (genuine, [f.what for f in checked.report.faults]) == (
        [],
        [
            "checkpoint 1 is not the one that the record has",
            "the month was dropped by another archive than this one",
        ],
    )


def test_a_receipt_of_a_push_whose_files_are_archived_leaves_them_out(dropped: Scene) -> None:
    """It still proves what it states; the root is in it."""
    document = b"".join(Receipts(dropped.record.app).stream(dropped.first))

    proved = check_receipt(io.BytesIO(document), dropped.trusted, verify_signature)

    assert (proved.with_files, proved.statement["files"]["count"]) == (False, 2)


def test_a_month_that_was_dropped_cannot_be_archived_or_dropped_again(dropped: Scene, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        dropped.archive(to=tmp_path)

    assert (
        caught.value.message.endswith("was dropped: its archive is all there is."),
        dropped.refusal(dropped.archive()),
    ) == (
        True,
        "it was dropped already.",
    )


def test_a_month_is_archived_verified_and_listed_on_the_command_line(dropped: Scene, tmp_path: Path) -> None:
    """With a key that somebody kept the archive is enough; without, the record is asked, too."""
    key, month = tmp_path / "audit.pem", f"{dropped.newer:%Y-%m}"
    key.write_text(pem_of(dropped.public))
    made = dropped.run("archive", month, "--to", str(tmp_path))
    place = str(tmp_path / f"cloudpush-{month}")
    offline = dropped.run("verify", "--archive", place, "--key", str(key), "--json")
    online = dropped.run("verify", "--archive", place)
    (tmp_path / f"cloudpush-{month}" / archives.LEAVES).write_bytes(b"")
    changed = dropped.run("verify", "--archive", place)
    listed = json.loads(dropped.run("months", "--json").stdout)["months"]

    assert [r.exit_code for r in (made, offline, online, changed)] == [0, 0, 0, Exit.UNSOUND]
    assert ("leaves.bin was changed" in changed.stdout, json.loads(offline.stdout)["sound"]) == (True, True)
    assert [(m["dropped"], m["due"], m["archived"] is not None) for m in listed] == [
        (True, False, True),
        (False, True, True),
        (False, False, False),
    ]


def test_who_put_a_month_away_is_told(dropped: Scene) -> None:
    """To commands, and to whoever asks how the record stands: when, by which archive, how many rows."""
    [told] = [m for m in dropped.record.history.integrity()["months"] if m["dropped_at"]]
    [listed] = [m for m in months.months(dropped.record.app, 0) if m.dropped]
    table = dropped.run("months").stdout
    with dropped.record.owner.connect() as c:
        [(at, digest)] = c.execute(sa.text("SELECT dropped_at, archive_sha256 FROM retired")).all()

    assert told == {
        "month": f"{dropped.older:%Y-%m}",
        "events": listed.events,
        "files": 4,
        "archive_sha256": digest.hex(),
        "archived_at": listed.archived_at,
        "archived_by": "ada",
        "dropped_at": at,
        "dropped_by": os_user(),
    }
    assert (listed.archived_by, listed.dropped_by, listed.dropped_at) == ("ada", os_user(), at)
    assert "by ada" in " ".join(table.split())


def test_only_the_owner_of_the_tables_drops(dropped: Scene) -> None:
    result = dropped.run(
        "drop", f"{dropped.newer:%Y-%m}", "--archive", str(dropped.archive(dropped.newer)), owner=False
    )

    assert isinstance(result.exception, InputError)
    assert result.exception.field == "CLOUDPUSH_DATABASE_ADMIN_URL"


def test_verify_says_what_was_dropped(dropped: Scene) -> None:
    assert f"file rows of {dropped.older:%Y-%m}" in dropped.run("verify").stdout.replace("\n", " ")


FORGED = {
    "a retired row that nobody told of": (
        "INSERT INTO retired SELECT :newer, now(), events, files, archive_sha256, cuts_sha256 FROM retired",
        "DELETE FROM retired WHERE month = :newer",
        "month {newer} is said to have been dropped, and no event tells of it so",
    ),
    "a retired row that was changed": (
        "UPDATE retired SET events = events + 1",
        "UPDATE retired SET events = events - 1",
        "month {older} is said to have been dropped, and no event tells of it so",
    ),
    "a retired row that is gone": (
        "CREATE TABLE aside AS TABLE retired; DELETE FROM retired",
        "INSERT INTO retired SELECT * FROM aside; DROP TABLE aside",
        "the row of month {older}, which was dropped, is gone",
    ),
    "an end that was moved": (
        "UPDATE cut SET seq = seq + 1 WHERE stream = :across",
        "UPDATE cut SET seq = seq - 1 WHERE stream = :across",
        "the ends of chains in month {older} are not those that were kept when it was dropped",
    ),
    "an end that was added": (
        "INSERT INTO cut SELECT :second, month, 6, hash FROM cut WHERE stream = :across",
        "DELETE FROM cut WHERE stream = :second",
        "the ends of chains in month {older} are not those that were kept when it was dropped",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_is_said_of_dropped_months_cannot_be_forged(dropped: Scene, what: str) -> None:
    """Each event that is missing is named then, too."""
    do, undo, expected = FORGED[what]
    ids = {"newer": dropped.newer, "across": dropped.across, "second": dropped.second}
    dropped.record.tamper(*do.split("; "), **ids)
    try:
        found = dropped.faults()
    finally:
        dropped.record.tamper(*undo.split("; "), **ids)

    assert expected.format(older=f"{dropped.older:%Y-%m}", newer=f"{dropped.newer:%Y-%m}") in found
    assert dropped.faults() == []


def test_rows_that_a_superuser_dropped_are_named(dropped: Scene) -> None:
    """With a row in `retired` and ends for each chain, as the command would have made them, but for the event."""
    ids = {"newer": dropped.newer, "second": dropped.second}
    dropped.record.tamper(
        "CREATE TABLE aside AS SELECT * FROM event WHERE stream = :second",
        "INSERT INTO retired SELECT :newer, now(), 6, 2, archive_sha256, cuts_sha256 FROM retired",
        "INSERT INTO cut SELECT DISTINCT ON (stream) stream, CAST(:newer AS date), seq, hash FROM event "
        "WHERE stream = :second ORDER BY stream, seq DESC",
        "DELETE FROM event WHERE stream = :second",
        **ids,
    )
    try:
        found = [w for w in dropped.faults() if "was deleted: checkpoint 1 sealed it" in w]
    finally:
        columns = "id, stream, seq, at, kind, actor, credential_id, data, prev, hash, salt, content"
        dropped.record.tamper(
            f"INSERT INTO event ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM aside",
            "DROP TABLE aside",
            "DELETE FROM cut WHERE stream = :second",
            "DELETE FROM retired WHERE month = :newer",
            **ids,
        )

    assert (len(found), dropped.faults()) == (6, [])


def test_a_forged_drop_whose_ends_are_not_what_was_sealed_is_named(dropped: Scene) -> None:
    """Even where an event tells of it: the leaf of the chain's last event is another one."""
    ids = {"newer": dropped.newer, "second": dropped.second}
    dropped.record.tamper(
        "INSERT INTO cut SELECT stream, CAST(:newer AS date), 3, hash FROM cut WHERE stream = :across",
        across=dropped.across,
        newer=dropped.newer,
    )
    dropped.record.tamper("UPDATE cut SET stream = :second WHERE month = :newer", **ids)
    with dropped.record.owner.begin() as c:
        digest = cuts_digest(c, dropped.newer)
    dropped.record.tamper(
        "INSERT INTO retired SELECT :newer, now(), 6, 2, archive_sha256, :digest FROM retired",
        "SELECT cloudpush_append('00000000-0000-0000-0000-0000000000a0', 'x', '{audit.dropped}', '{NULL}', ARRAY[("
        "SELECT json_build_object('months', json_agg(json_build_object('month', to_char(month, 'YYYY-MM'), 'events', events, "
        "'files', files, 'archive_sha256', encode(archive_sha256, 'hex'), 'cuts_sha256', encode(cuts_sha256, 'hex')))) "
        "FROM retired)::text])",
        "DELETE FROM event WHERE stream = :second AND seq <= 3",
        digest=digest,
        **ids,
    )

    found = dropped.faults()

    assert "the chain is said to go on after event 3, which checkpoint 1 sealed as another one" in found
