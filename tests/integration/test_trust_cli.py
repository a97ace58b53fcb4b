"""The sweeper's notary with a real Vault, and `cloudpush audit …` as an auditor types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner, Result

import dev_vault
from cloudpush import wiring
from cloudpush.audit.inspections import Inspections
from cloudpush.audit.receipts import Receipts
from cloudpush.cli import receipt, retention
from cloudpush.cli import trust as trust_cli
from cloudpush.cli.exits import Exit
from cloudpush.credentials.ed25519 import pem_of
from cloudpush.errors import CloudPushError
from cloudpush.settings import Settings
from notaries import FakeSigner
from past import Past
from records import Record
from servers import Database


class Office:
    """A database and a Vault, a notary that works for both, and a command line. ``push_id``: the newest push."""

    push_id: UUID

    def __init__(self, record: Record, settings: Settings, vault: dev_vault.DevVault) -> None:
        self.record, self.settings, self.vault = record, settings, vault

    def run(self, *words: str) -> Result:
        app = typer.Typer()
        trust_cli.add_to(app)
        retention.add_to(app)
        result = CliRunner().invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit | CloudPushError):
            raise result.exception
        return result

    def verified(self, *words: str) -> Any:
        return json.loads(self.run("verify", "--json", *words).stdout)


@pytest.fixture(scope="module")
def office(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    with dev_vault.running(tmp_path_factory.mktemp("vault")) as vault:
        urls = {"database_url": database.url, "database_admin_url": database.admin_url}
        settings = vault.settings.model_copy(update=urls | {"checkpoint_seconds": 0.001})
        record = Record(database)
        with pytest.MonkeyPatch.context() as patch:

            @contextmanager
            def services() -> Iterator[Any]:
                yield SimpleNamespace(settings=settings, database=record.app)

            for module in (trust_cli, retention, receipt):
                patch.setattr(module, "services", services)
            yield Office(record, settings, vault)
        record.close()


@pytest.fixture
def sealed(office: Office) -> Office:
    """With a push, sealed by the sweeper's own notary."""
    office.push_id = office.record.finished()
    sweep(office)
    return office


def sweep(office: Office) -> None:
    """Until nothing is owed and all is sealed; then inspect."""
    sweeper = wiring.build_sweeper(office.settings)
    try:
        while _open(office):
            sweeper.notary.once()
        assert sweeper.inspector.once()
    finally:
        sweeper.close()


def _open(office: Office) -> bool:
    """Whether something is owed or not sealed."""
    with office.record.app.connect() as c:
        return bool(c.execute(sa.text(OPEN)).scalar_one())


OPEN = """
    SELECT EXISTS (SELECT FROM receipt WHERE statement IS NULL)
        OR coalesce((SELECT max(id) FROM event), 0) > coalesce((SELECT max(last_id) FROM checkpoint), 0)
"""


def test_the_sweepers_notary_issues_seals_and_inspects(sealed: Office) -> None:
    """With Vault's key; and the months to come are there."""
    told = sealed.verified()
    inspected = Inspections(sealed.record.app).newest()

    assert (told["sound"], told["unchecked"], told["events"] - told["sealed"]) == (True, [], 0)
    assert [(row["by"], row["sound"], row["report"]["faults_total"]) for row in inspected] == [("notary", True, 0)]


def test_a_thief_of_the_newest_checkpoint_is_found_by_the_command(sealed: Office, tmp_path: Path) -> None:
    """Exit code 8, by Vault's word or by a copy that an auditor kept."""
    saved = sealed.run("checkpoint", "--save", str(tmp_path)).stdout.strip()
    newest = json.loads(Path(saved).read_text())["checkpoint"]["number"]
    keys = tmp_path / "audit.pem"
    keys.write_text(sealed.run("key").stdout)
    apart = ("verify", "--offline", "--key", str(keys), "--anchor", saved)
    before = sealed.run(*apart)
    with sealed.record.intruder.begin() as c:
        c.execute(sa.text("SET LOCAL session_replication_role = replica"))
        c.execute(sa.text("CREATE TABLE kept_checkpoint AS SELECT * FROM checkpoint"))
        c.execute(sa.text("DELETE FROM checkpoint WHERE number = :n"), {"n": newest})

    results = [sealed.run("verify"), sealed.run(*apart)]

    with sealed.record.intruder.begin() as c:
        c.execute(sa.text("INSERT INTO checkpoint SELECT * FROM kept_checkpoint WHERE number = :n"), {"n": newest})
        c.execute(sa.text("DROP TABLE kept_checkpoint"))
    assert (before.exit_code, [r.exit_code for r in results]) == (0, [Exit.UNSOUND, Exit.UNSOUND])
    words = [" ".join(r.stdout.split()) for r in results]
    assert f"checkpoint {newest} is gone, which Vault remembers" in words[0]
    assert f"checkpoint {newest}, of which there is a copy, is gone" in words[1]


def test_what_cannot_be_checked_without_vault_is_said(sealed: Office) -> None:
    """Offline by wish, or because Vault is away."""
    away = sealed.settings.model_copy(update={"vault_url": "http://127.0.0.1:1"})
    offline = sealed.verified("--offline")
    with pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def services() -> Iterator[Any]:
            yield SimpleNamespace(settings=away, database=sealed.record.app)

        patch.setattr(trust_cli, "services", services)
        unreachable = sealed.verified()

    assert (offline["sound"], len(offline["unchecked"])) == (True, 2)
    assert (unreachable["sound"], len(unreachable["unchecked"])) == (True, 3)


def test_checkpoints_are_listed_and_made_by_hand(sealed: Office) -> None:
    """What a command seals, the sweeper need not."""
    sealed.record.credential()
    before = json.loads(sealed.run("checkpoints", "--json").stdout)
    made = sealed.run("seal").stdout
    after = json.loads(sealed.run("checkpoints", "--json").stdout)
    nothing = sealed.run("seal").stdout

    assert (before["unsealed"], after["unsealed"], len(after["checkpoints"]) - len(before["checkpoints"])) == (2, 0, 1)
    assert ("2 events sealed" in made, "nothing new" in nothing) == (True, True)


def test_a_saved_checkpoint_that_was_edited_is_refused(sealed: Office, tmp_path: Path) -> None:
    """It says so, instead of comparing the record with nonsense."""
    saved = Path(sealed.run("checkpoint", "--save", str(tmp_path)).stdout.strip())
    value = json.loads(saved.read_text())
    value["checkpoint"]["events"] += 1
    saved.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")))

    result = sealed.run("verify", "--anchor", str(saved))

    assert result.exit_code == Exit.UNSOUND
    assert "is not signed by the audit key" in " ".join(result.stdout.split())


def test_a_receipt_is_compared_with_the_record_by_the_command(sealed: Office, tmp_path: Path) -> None:
    """By Vault's key and against the record; then it was changed, then the record was, then the key is another's."""
    path, changed, keys, others = (tmp_path / name for name in ("receipt", "changed", "audit.pem", "others.pem"))
    path.write_bytes(b"".join(Receipts(sealed.record.app).stream(sealed.push_id)))
    changed.write_bytes(path.read_bytes().replace(b'"size":10', b'"size":11', 1))
    keys.write_text(sealed.run("key").stdout)
    others.write_text(pem_of(FakeSigner().key.public_key().public_bytes_raw()))
    asked = ("verify", "--json", "--receipt")

    sound = sealed.run(*asked, str(path))
    offline = sealed.run(*asked, str(path), "--offline", "--key", str(keys))
    words = " ".join(sealed.run("verify", "--receipt", str(path)).stdout.split())
    invalid, foreign = sealed.run(*asked, str(changed)), sealed.run(*asked, str(path), "--key", str(others))
    edit = "UPDATE push SET files_verified = files_verified {} 1 WHERE id = :id"
    sealed.record.tamper(edit.format("-"), id=sealed.push_id)
    edited = sealed.run(*asked, str(path))
    sealed.record.tamper(edit.format("+"), id=sealed.push_id)

    results = (sound, offline, invalid, foreign, edited)
    assert [r.exit_code for r in results] == [0, 0, *[Exit.UNSOUND] * 3]
    told = [json.loads(r.stdout) for r in results]
    newest = sealed.verified()["newest_checkpoint"]
    assert told[0]["receipt"] == {
        "valid": True,
        "push": str(sealed.push_id),
        "statement_sha256": told[0]["receipt"]["statement_sha256"],
        "after": 6,
        "issued": 7,
        "sealed_by": told[0]["receipt"]["sealed_by"],
        "files": "same",
    }
    assert (told[0]["unchecked"], 0 < told[0]["receipt"]["sealed_by"] <= newest) == ([], True)
    assert "event 7 tells of it; its files are the record's" in words
    assert [t["receipt"]["valid"] for t in told] == [True, True, False, False, True]
    assert "its files are not those that were signed" in told[2]["faults"][0]["what"]
    assert "is not among those that you trust" in told[3]["faults"][0]["what"]
    assert "the record differs from the receipt in: verdict.files_verified" in [f["what"] for f in told[4]["faults"]]


def test_a_receipt_takes_a_key(sealed: Office, tmp_path: Path) -> None:
    """Offline there is none but one that is given; and one thing is verified at a time."""
    words = [
        sealed.run("verify", "--receipt", str(tmp_path / "r"), *more) for more in (["--offline"], [str(UUID(int=1))])
    ]

    assert [getattr(w.exception, "field", None) for w in words] == ["key", "receipt"]


def test_a_month_is_put_away_and_a_name_replaced_with_a_real_vault(office: Office, tmp_path: Path) -> None:
    """Archive, verify by Vault's word and by a kept key, drop, replace: each by command, and all stays sound."""
    past = Past(office.record)
    past.push(past.older, owner="grace-hopper", actor="grace-hopper")
    office.push_id = office.record.finished(owner="grace-hopper", actor="grace-hopper")
    sweep(office)
    month, keys = f"{past.older:%Y-%m}", tmp_path / "audit.pem"
    keys.write_text(office.run("key").stdout)
    place = str(tmp_path / f"cloudpush-{month}")

    made = office.run("archive", month, "--to", str(tmp_path))
    online, offline = (
        office.run("verify", "--archive", place),
        office.run("verify", "--archive", place, "--key", str(keys)),
    )
    dropped = office.run("drop", month, "--archive", place)
    office.record.tamper("UPDATE credential SET state = 'purged', purged_at = now() WHERE owner = 'grace-hopper'")
    replaced = office.run("pseudonymise", "grace-hopper", "--pseudonym", "person-1")
    sweep(office)
    told = office.verified()
    office.record.tamper(FORGE, id=office.push_id)
    forged = [f["what"] for f in office.verified(str(office.push_id))["faults"]]

    results = (made, online, offline, dropped, replaced)
    assert [(r.exit_code, r.output) for r in results if r.exit_code] == []
    assert (told["sound"], told["unchecked"], told["retired"]["months"]) == (True, [], [month])
    assert f" {told['pseudonymised']} events" in " ".join(replaced.stdout.split())
    assert any(
        w.startswith("event 1 (push.queued) was pseudonymised, but no later event tells by what") for w in forged
    )


#: Another pseudonym is put in, where Vault signed one.
FORGE = (
    "UPDATE event SET data = replace(data\\:\\:text, 'person-1', 'person-2')\\:\\:json WHERE stream = :id AND seq = 1"
)
