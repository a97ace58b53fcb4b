"""The door for signed URLs, with the real Postgres behind it and a vault that fails when told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

import servers
from builders import a_lease
from cloudpush.audit.credentials import Credentials
from cloudpush.audit.database import make_engine, transaction
from cloudpush.audit.desk import Desk
from cloudpush.audit.ledger import Ledger
from cloudpush.errors import CloudPushError
from cloudpush.push.custody import Custody
from cloudpush.push.intake import Accepted
from cloudpush.push.job import Page, Part, PlannedFile, Request
from cloudpush.push.signed.book import TicketBook
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.intake import SignedIntake
from cloudpush.push.signed.model import SheetCard, Ticket
from cloudpush.push.signed.places import read_destination
from cloudpush.push.signed.sets import Sets
from cloudpush.push.states import Strength
from fakes import FakeAnnouncer
from fakes_vault import FakeVault
from signed_rows import CANARY, a_row, numbered


class Clock:
    """Starts at the present, to the second, and is moved by hand."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC).replace(microsecond=0)

    def now(self) -> datetime:
        return self.moment

    def jitter(self) -> float:
        return 0.0


class Door:
    """A signed intake over empty tables and a source of three files."""

    def __init__(self, engine: sa.Engine, root: Path) -> None:
        self.engine = engine
        self.source = root / "run"
        (self.source / "d").mkdir(parents=True)
        for name in ("a", "b", "d/c"):
            (self.source / name).write_bytes(b"12345")
        self.clock, self.vault, self.announcer = Clock(), FakeVault(), FakeAnnouncer()
        self.store, self.desk = Credentials(engine), Desk(engine)
        self.custody = Custody(self.store, self.vault, self.vault, self.clock)
        self.roots = (root,)
        self.intake = self.door()

    def door(self, desk: Desk | None = None) -> SignedIntake:
        return SignedIntake(
            desk=desk or self.desk,
            sets=Sets(self.store, self.vault, self.custody, self.clock),
            announcer=self.announcer,
            clock=self.clock,
            roots=self.roots,
            styles=Styles.of(("files.lab.example",)),
        )

    def request(self, **changes: Any) -> Request:
        made = Request("ada", "ada", str(self.source), "", "", min_strength=Strength.INGEST)
        return replace(made, **changes)

    def rows(self, *paths: str, **options: Any) -> list[dict[str, object]]:
        return [a_row(path, self.clock.now(), **options) for path in paths or ("a", "b", "d/c")]

    def submit(self, *rows: Mapping[str, object], hook: str = "", **changes: Any) -> Accepted:
        return self.intake.submit(self.request(**changes), numbered(*rows or self.rows()), hook)

    def refusal(self, *rows: Mapping[str, object], **changes: Any) -> CloudPushError:
        with pytest.raises(CloudPushError) as caught:
            self.submit(*rows, **changes)
        told = f"{caught.value!r} {caught.value} {caught.value.detail} {caught.value.__cause__!r}"
        assert (CANARY in told, "X-Amz" in told, "sig=" in told) == (False, False, False)
        assert (self.one("SELECT count(*) FROM push"), self.vault.sheets) == (0, {}), "something is left"
        return caught.value

    def one(self, query: str, **values: Any) -> Any:
        with transaction(self.engine) as c:
            return c.execute(sa.text(query), values).scalar_one()

    def sets(self) -> list[str]:
        with transaction(self.engine) as c:
            query = sa.text("SELECT state FROM credential WHERE kind = 'signed_urls' ORDER BY created_at, id")
            return list(c.execute(query).scalars())

    def set_of(self, push_id: UUID) -> sa.Row[Any]:
        with transaction(self.engine) as c:
            query = sa.text("SELECT c.* FROM credential c JOIN push p ON c.id = p.credential_id WHERE p.id = :id")
            return c.execute(query, {"id": push_id}).one()

    def tickets(self, set_id: UUID) -> list[tuple[int, Ticket]]:
        """What a worker would read."""
        with transaction(self.engine) as c:
            query = sa.text(
                "SELECT number, first_seq, last_seq, block, blocks FROM sheet "
                "WHERE credential_id = :id AND NOT session ORDER BY number"
            )
            cards = [SheetCard(*row) for row in c.execute(query, {"id": set_id})]
        return list(TicketBook(self.vault, "ada", set_id, cards).rows())

    def plan(self, push_id: UUID, *files: tuple[str, str], done: int = 0) -> None:
        """What a worker does: claim and plan; the last ``done`` files have got their verdict."""
        ledger, lease = Ledger(self.engine, lambda uri, _: read_destination(uri)), a_lease()
        push = ledger.claim_push(push_id, lease)
        assert push is not None
        planned = tuple(PlannedFile(n, path, key, 5, 1) for n, (path, key) in enumerate(files, 1))
        ledger.record_page(push, lease, Page(Part(push_id, 1, 1, len(files), len(files), 5), planned))
        ledger.finish_plan(push, lease, parts=1, files=len(files), bytes_=5 * len(files))
        with transaction(self.engine) as c:
            query = sa.text("UPDATE file SET state = 'verified' WHERE push_id = :id AND seq > :n")
            c.execute(query, {"id": push_id, "n": len(files) - done})


@contextmanager
def opened(database: servers.Database, root: Path) -> Iterator[Door]:
    """A door over tables that are empty, events aside."""
    owner, engine = make_engine(database.admin_url), make_engine(database.url)
    with owner.begin() as c:  # the application itself may delete nothing
        for table in (
            *("piece", "renewal", "file", "part", "receipt", "delivery", "preflight"),
            *("push_search", "push_label"),
            *("push", "sheet", "credential"),
        ):
            c.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
            c.execute(sa.text(f"DELETE FROM {table}"))
            c.execute(sa.text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
    owner.dispose()
    yield Door(engine, root)
    engine.dispose()
