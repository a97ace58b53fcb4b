"""An old backup that is brought back: Postgres' own data directory, while Vault remembers what came after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import dev_vault
import servers
from cloudpush.audit.filters import Filter
from cloudpush.cli import trust as trust_cli
from cloudpush.cli.exits import Exit
from cloudpush.errors import Code, StoreError
from cloudpush.settings import Settings
from cloudpush.wiring.trust import make_sealing
from records import Record


def seal(settings: Settings, record: Record, *, accept_loss: bool = False) -> None:
    """As the sweeper's notary does, with Vault's key and Vault's anchor."""
    with ExitStack() as closing:
        sealing = make_sealing(settings, record.app, closing)
        while sealing.once(accept_loss=accept_loss) is None and sealing.pending:
            pass


def run(settings: Settings, record: Record, *words: str) -> Result:
    """``cloudpush audit …``."""
    app = typer.Typer()
    trust_cli.add_to(app)

    @contextmanager
    def services() -> Iterator[Any]:
        yield SimpleNamespace(settings=settings, database=record.app)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust_cli, "services", services)
        return CliRunner().invoke(app, words)


def test_a_backup_that_was_brought_back_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is sound in itself; Vault remembers more. Nothing is sealed until an operator says so, and that is told for good."""
    with dev_vault.running(tmp_path_factory.mktemp("vault")) as vault, servers.scratch() as base:
        postgres = servers.make_postgres(base)
        with servers.running(postgres):
            database = servers.Databases(postgres).migrated("restored")
            settings = vault.settings.model_copy(update={"database_url": database.url})
            record = Record(database)
            kept = record.finished()
            seal(settings, record)
            record.close()
        shutil.copytree(postgres.data, base / "backup")
        with servers.running(servers.make_postgres(base)):
            record = Record(database)
            lost = record.finished()
            seal(settings, record)
            record.finished()
            seal(settings, record)
            before = run(settings, record, "verify")
            record.close()
        shutil.rmtree(postgres.data)
        shutil.move(base / "backup", postgres.data)
        with servers.running(servers.make_postgres(base)):
            record = Record(database)
            pushes = [row["id"] for row in record.history.pushes(Filter(), limit=10)]
            offline, told = run(settings, record, "verify", "--offline"), run(settings, record, "verify", "--json")
            one = run(settings, record, "verify", str(kept))
            record.finished()
            with pytest.raises(StoreError) as refused:
                seal(settings, record)
            seal(settings, record, accept_loss=True)
            after = run(settings, record, "verify", "--json")
            accepted = json.loads(run(settings, record, "checkpoint").stdout)["checkpoint"]
            record.close()

    said = "the record was restored to an older state, or cut short: checkpoints 2 to 3 are gone, which Vault remembers"
    assert (before.exit_code, offline.exit_code, pushes, lost in pushes) == (0, 0, [kept], False)
    assert (told.exit_code, one.exit_code, refused.value.code) == (Exit.UNSOUND, Exit.UNSOUND, Code.RECORD_UNSOUND)
    [fault] = json.loads(told.stdout)["faults"]
    assert fault["what"].startswith(said)
    assert (after.exit_code, json.loads(after.stdout)["unchecked"]) == (0, [])
    assert (accepted["number"], accepted["gone"]) == (4, [2, 3])
