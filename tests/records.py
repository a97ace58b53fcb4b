"""Pushes in a real database, stored and executed through the doors that the application uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from builders import ORIGIN, OWNER, a_destination, a_lease, a_page, a_request, done, verified
from cloudpush.audit.credentials import Credentials
from cloudpush.audit.database import make_engine
from cloudpush.audit.desk import Desk
from cloudpush.audit.history import History
from cloudpush.audit.ledger import Ledger
from cloudpush.audit.sheets import Sheets
from cloudpush.push.admission import CredentialCard
from cloudpush.push.credential import Credential, CredentialState
from cloudpush.push.job import FileResult, Push, Request, Verdict
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.states import State
from cloudpush.stack.postgres import SUPERUSER
from servers import Database


class Record:
    """A database at the newest schema, seen by the application (``app``), its ``owner`` and an ``intruder``.

    The intruder is a superuser, whom no right and no trigger stops.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.app = make_engine(database.url)
        self.owner = make_engine(database.admin_url)
        self.intruder = make_engine(database.admin_url.replace("cloudpush_owner", SUPERUSER))
        self.desk = Desk(self.app)
        self.ledger = Ledger(self.app, a_destination)
        self.sheets = Sheets(self.app)
        self.history = History(self.app)

    def close(self) -> None:
        """Give the connections back."""
        for engine in (self.app, self.owner, self.intruder):
            engine.dispose()

    def credential(self, owner: str = OWNER, **changes: Any) -> CredentialCard:
        """An active credential."""
        made: dict[str, Any] = {
            "id": uuid4(),
            "owner": owner,
            "kind": "access_key",
            "name": f"key-{uuid4()}",
            "profile": "",
            "endpoint": "",
            "state": CredentialState.SEALING,
            "created_at": self.now(),
            "created_by": owner,
        }
        credential = Credential(**(made | changes))
        credentials = Credentials(self.app)
        credentials.add(credential, owner)
        credentials.activate(credential.id, 1, owner)
        return CredentialCard(
            credential.id,
            owner,
            credential.kind,
            "active",
            credential.expires_at,
            "",
            credential.endpoint,
            name=credential.name,
        )

    def set(self, owner: str = OWNER, **changes: Any) -> CredentialCard:
        """A set of signed URLs, sealed and active."""
        return self.credential(owner, **({"kind": SIGNED_URLS, "endpoint": ORIGIN} | changes))

    def submitted(self, request: Request | None = None, card: CredentialCard | None = None) -> UUID:
        """A push that waits."""
        request = request or a_request()
        card = card or self.credential(request.owner)
        return self.desk.store(request, card, a_destination(request.destination), bytes(32))[0]

    def submitted_signed(self, **changes: Any) -> UUID:
        """A push with signed URLs that waits; ``changes``: what ``store_signed`` takes by name."""
        request = a_request()
        return self.desk.store_signed(request, self.set(), a_destination(request.destination), bytes(32), **changes)[0]

    def planned_signed(self, parts: int = 2) -> Push:
        """A push with signed URLs of that many parts with two files each, all queued."""
        return self._planned(self.submitted_signed(), parts, "planner")

    def running(self, seconds: float = 30, **request: Any) -> Push:
        """A push whose plan is complete, in the middle of its only part."""
        lease = a_lease(seconds)
        push = self.ledger.claim_push(self.submitted(a_request(**request)), lease)
        assert push is not None
        self.ledger.finish_plan_with(push, lease, a_page(push.id))
        return push

    def planned(self, parts: int = 2, *, worker: str = "planner") -> Push:
        """A push of that many parts with two files each, all queued."""
        return self._planned(self.submitted(), parts, worker)

    def _planned(self, push_id: UUID, parts: int, worker: str) -> Push:
        lease = a_lease(worker=worker)
        push = self.ledger.claim_push(push_id, lease)
        assert push is not None
        for n in range(1, parts + 1):
            self.ledger.record_page(push, lease, a_page(push.id, n, first=2 * n - 1))
        self.ledger.finish_plan(push, lease, parts=parts, files=2 * parts, bytes_=20 * parts)
        return push

    def finished(
        self, results: Sequence[FileResult] | None = None, verdict: Verdict | None = None, **request: Any
    ) -> UUID:
        """A push of two files that has come to its end."""
        lease = a_lease()
        push = self.ledger.claim_push(self.submitted(a_request(**request)), lease)
        assert push is not None
        page = a_page(push.id)
        self.ledger.finish_plan_with(push, lease, page)
        self.ledger.record_files(page.part, lease, verified([1, 2]) if results is None else results)
        assert self.ledger.end_part(push, page.part, lease, verdict or done()).final
        return push.id

    def state(self, push_id: UUID) -> State:
        """Where a push stands."""
        return State(self.history.push(push_id)["state"])

    def kinds(self, stream: UUID) -> list[str]:
        """What happened to a push or a credential, in order."""
        return [row["kind"] for row in self.history.events(stream)]

    def now(self) -> Any:
        """The database's time."""
        with self.app.connect() as c:
            return c.execute(sa.text("SELECT clock_timestamp()")).scalar_one()

    def tamper(self, *statements: str, **values: Any) -> None:
        """What an intruder with every right does, past all triggers and foreign keys."""
        with self.intruder.begin() as c:
            c.execute(sa.text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                c.execute(sa.text(statement), values)

    def late(self, push_id: UUID) -> None:
        """The push's leases, and those of its parts, have run out."""
        with self.owner.begin() as c:
            for table, key in (("push", "id"), ("part", "push_id")):
                statement = f"UPDATE {table} SET lease_until = now() - interval '1 second' WHERE {key} = :id"
                c.execute(sa.text(statement + " AND lease_until IS NOT NULL"), {"id": push_id})
