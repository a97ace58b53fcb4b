"""The store of grants in memory and the one on Postgres, each with the hands that a contract test needs around it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID, uuid4

import sqlalchemy as sa

from builders import OWNER, URI, a_destination, a_lease, a_page, a_push, a_request, paused
from cloudpush.audit.desk import Desk
from cloudpush.audit.grants import GrantBook
from cloudpush.audit.history import History
from cloudpush.audit.ledger import Ledger
from cloudpush.errors import Code
from cloudpush.push.admission import CredentialCard
from cloudpush.push.grants.model import Attempt, Grant, Share
from cloudpush.push.grants.ports import GrantStore
from cloudpush.push.ports import Store
from cloudpush.push.states import State
from fakes import FakeStore
from fakes_grants import FakeGrantStore
from grant_builders import a_grant, a_share, an_attempt, its_credential


class GrantSubject(Protocol):
    """A store of grants, the store of the pushes that use them, and what happens around both."""

    @property
    def store(self) -> GrantStore: ...
    @property
    def pushes(self) -> Store: ...
    def now(self) -> datetime: ...
    def let_pass(self, seconds: float) -> None: ...
    def credential_state(self, grant_id: UUID, state: str) -> None: ...
    def due_for_purge(self, grant_id: UUID) -> bool: ...
    def submit(self, grant: Grant, owner: str = OWNER, uri: str = URI) -> UUID: ...
    def push_state(self, push_id: UUID) -> State: ...
    def sealed(self, grant_id: UUID) -> dict[int, int | None]: ...
    def events(self, stream: UUID) -> list[str]: ...


class GrantsInMemory:
    """The fake."""

    def __init__(self) -> None:
        self.pushes = FakeStore()
        self.store = FakeGrantStore(pushes=self.pushes)
        self.now = self.store.clock.now
        self.let_pass = self.store.clock.advance
        self.credential_state = self.store.credential_state
        self.due_for_purge = self.store.due_for_purge

    def submit(self, grant: Grant, owner: str = OWNER, uri: str = URI) -> UUID:
        whose = "" if owner == grant.owner else grant.owner
        push = a_push(credential_id=grant.id, credential_kind=grant.kind, credential_owner=whose)
        return self.pushes.add(replace(push, owner=owner, destination=a_destination(uri)))

    def push_state(self, push_id: UUID) -> State:
        return self.pushes.standing(push_id).state

    def sealed(self, grant_id: UUID) -> dict[int, int | None]:
        return {n: block.version for n, block in self.store.blocks(grant_id).items() if not block.gone}

    def events(self, stream: UUID) -> list[str]:
        return self.store.events(stream) or self.pushes.events(stream)


class GrantsInPostgres:
    """The book. Time passes by moving what is stored into the past."""

    def __init__(self, app: sa.Engine, owner: sa.Engine) -> None:
        self._app = app
        self._owner = owner
        self._desk = Desk(app)
        self._history = History(app)
        self.pushes = Ledger(app, a_destination)
        self.store = GrantBook(app)
        self.grants: list[UUID] = []

    def now(self) -> datetime:
        with self._app.connect() as c:
            moment: datetime = c.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        return moment

    def let_pass(self, seconds: float) -> None:
        with self._owner.begin() as c:
            for statement in LET_PASS:
                c.execute(sa.text(statement), {"by": timedelta(seconds=seconds)})

    def credential_state(self, grant_id: UUID, state: str) -> None:
        with self._owner.begin() as c:
            c.execute(sa.text("UPDATE credential SET state = :state WHERE id = :id"), {"id": grant_id, "state": state})

    def due_for_purge(self, grant_id: UUID) -> bool:
        query = "SELECT coalesce(purge_after <= clock_timestamp(), false) FROM credential WHERE id = :id"
        with self._owner.connect() as c:
            return bool(c.execute(sa.text(query), {"id": grant_id}).scalar_one())

    def submit(self, grant: Grant, owner: str = OWNER, uri: str = URI) -> UUID:
        card = CredentialCard(grant.id, grant.owner, grant.kind, "active", None, "", "")
        request = a_request(owner=owner, actor=owner, destination=uri)
        return self._desk.store(request, card, a_destination(uri), bytes(32))[0]

    def push_state(self, push_id: UUID) -> State:
        return State(self._history.push(push_id)["state"])

    def sealed(self, grant_id: UUID) -> dict[int, int | None]:
        query = "SELECT number, transit_key_version FROM sheet WHERE credential_id = :id AND gone_at IS NULL ORDER BY number"
        with self._owner.connect() as c:
            return {row.number: row.transit_key_version for row in c.execute(sa.text(query), {"id": grant_id})}

    def events(self, stream: UUID) -> list[str]:
        return [row["kind"] for row in self._history.events(stream)]


LET_PASS = (
    "UPDATE chore SET due_at = due_at - :by, taken_at = taken_at - :by",
    "UPDATE share SET until = until - :by, created_at = created_at - :by WHERE ended_at IS NULL",
    "UPDATE sheet SET sealed_at = sealed_at - :by",
    "UPDATE oauth_grant SET pending_at = pending_at - :by",
    "UPDATE consent_attempt SET expires_at = expires_at - :by",
    "UPDATE push SET next_attempt_at = next_attempt_at - :by WHERE finished_at IS NULL",
)


# -- givens ------------------------------------------------------------------------------------------


def begun(subject: GrantSubject, **changes: object) -> Attempt:
    """A browser that was sent to the provider."""
    attempt = an_attempt(subject.now(), **changes)
    subject.store.begin(attempt, attempt.owner)
    return attempt


def connected(subject: GrantSubject, **changes: object) -> Grant:
    """A grant that may be used."""
    grant = a_grant(**changes)
    subject.store.add(its_credential(grant, subject.now()), grant, None, grant.owner)
    subject.store.activate(grant.id, 1 if grant.generation else None, grant.owner)
    return seen(subject, grant)


def seen(subject: GrantSubject, grant: Grant) -> Grant:
    """The grant as it stands now."""
    found = subject.store.get(grant.id)
    assert found is not None
    return found


def shared(subject: GrantSubject, grant: Grant, **changes: object) -> Share:
    """Somebody else may push with it, too."""
    share = a_share(grant.id, subject.now(), **changes)
    subject.store.share(share, grant.owner)
    return share


def waiting(subject: GrantSubject, grant: Grant, owner: str = OWNER) -> UUID:
    """A push that waits for the grant's user, whose grant must be ``reconnect``."""
    lease = a_lease()
    push = subject.pushes.claim_push(subject.submit(grant, owner), lease)
    assert push is not None
    subject.pushes.end_push(push, lease, paused(Code.CONSENT_NEEDED))
    return push.id


def half_waiting(subject: GrantSubject, grant: Grant) -> UUID:
    """A push one of whose two parts waits."""
    lease = a_lease()
    push = subject.pushes.claim_push(subject.submit(grant), lease)
    assert push is not None
    for n in (1, 2):
        subject.pushes.record_page(push, lease, a_page(push.id, n, first=2 * n - 1))
    subject.pushes.finish_plan(push, lease, parts=2, files=4, bytes_=40)
    mine = a_lease()
    found = subject.pushes.claim_part(push.id, 1, mine)
    assert found is not None
    subject.pushes.end_part(found[0], found[1], mine, paused(Code.CONSENT_NEEDED))
    return push.id


def nobody() -> UUID:
    """An id that nothing has."""
    return uuid4()
