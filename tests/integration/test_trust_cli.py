"""The sweeper's notary with a real Vault, and `cloudpush audit …` as an auditor types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner, Result

import dev_vault
from cloudpush import wiring
from cloudpush.audit.inspections import Inspections
from cloudpush.cli import trust as trust_cli
from cloudpush.cli.exits import Exit
from cloudpush.errors import CloudPushError
from cloudpush.settings import Settings
from records import Record
from servers import Database


class Office:
    """A database and a Vault, a notary that works for both, and a command line."""

    def __init__(self, record: Record, settings: Settings, vault: dev_vault.DevVault) -> None:
        self.record, self.settings, self.vault = record, settings, vault

    def run(self, *words: str) -> Result:
        app = typer.Typer()
        trust_cli.add_to(app)
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

            patch.setattr(trust_cli, "services", services)
            yield Office(record, settings, vault)
        record.close()


@pytest.fixture
def sealed(office: Office) -> Office:
    """With a push, sealed by the sweeper's own notary."""
    push_id = office.record.finished()
    sweeper = wiring.build_sweeper(office.settings)
    try:
        while office.record.history.push(push_id) and _open(office):
            sweeper.notary.once()
        assert sweeper.inspector.once()
    finally:
        sweeper.close()
    return office


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
