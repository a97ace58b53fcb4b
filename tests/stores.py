"""The store in memory and the one on Postgres, each with the hands that a contract test needs around it."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol
from uuid import UUID, uuid4

import sqlalchemy as sa

from builders import ORIGIN, OWNER, a_destination, a_push, a_request, a_signed_push
from cloudpush.audit.broom import Broom
from cloudpush.audit.database import append_event
from cloudpush.audit.desk import Desk
from cloudpush.audit.history import History
from cloudpush.audit.ledger import Ledger
from cloudpush.audit.sheets import Sheets
from cloudpush.push.admission import CredentialCard
from cloudpush.push.ports import Store
from cloudpush.push.signed.model import SIGNED_URLS, SheetCard
from cloudpush.push.signed.ports import SheetStore
from cloudpush.push.states import Event, FileState, Package, State
from fakes import FakeStore, FileStanding, Standing


class Subject(Protocol):
    """A store, with the hands that a test needs around it."""

    @property
    def store(self) -> Store: ...
    @property
    def sets(self) -> SheetStore: ...
    def submit(self, package: Package | None = None) -> UUID: ...
    def submit_signed(self, *, hook: bool = False) -> UUID: ...
    def resign(self, push_id: UUID) -> UUID: ...
    def cancel(self, push_id: UUID) -> State: ...
    def release_impatient(self, seconds: float) -> int: ...
    def let_pass(self, seconds: float) -> None: ...
    def credential(self, state: str = "active", *, expired: bool = False) -> None: ...
    def change_set(self, set_id: UUID, state: str = "active", *, expired: bool = False) -> None: ...
    def seal(self, set_id: UUID, *cards: SheetCard) -> None: ...
    def due_for_purge(self, set_id: UUID, seconds: float = 0) -> bool: ...
    def standing(self, push_id: UUID) -> Standing: ...
    def part_standing(self, push_id: UUID, number: int) -> Standing: ...
    def files(self, push_id: UUID) -> list[FileStanding]: ...
    def events(self, push_id: UUID) -> list[str]: ...


class InMemory:
    """The fake."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.sets = self.store
        self.cancel = self.store.cancel
        self.release_impatient = self.store.release_impatient
        self.let_pass = self.store.clock.advance
        self.standing = self.store.standing
        self.part_standing = self.store.part_standing
        self.files = self.store.files
        self.events = self.store.events

    def submit(self, package: Package | None = None) -> UUID:
        return self.store.add(a_push(package=package))

    def submit_signed(self, *, hook: bool = False) -> UUID:
        push = a_signed_push(credential_id=uuid4(), hook_id=uuid4() if hook else None)
        self.store.set_of(push.credential_id).purge_after = self.store.clock.now() + timedelta(hours=1)
        return self.store.add(push)

    def resign(self, push_id: UUID) -> UUID:
        made = uuid4()
        self.store.set_of(made).purge_after = self.store.clock.now() + timedelta(hours=1)
        self.store.resign(push_id, made)
        return made

    def credential(self, state: str = "active", *, expired: bool = False) -> None:
        self.store.credential_state = state
        now = self.store.clock.now()
        self.store.credential_expires = now - timedelta(seconds=1) if expired else None

    def change_set(self, set_id: UUID, state: str = "active", *, expired: bool = False) -> None:
        found = self.store.set_of(set_id)
        found.state = state
        found.expires = self.store.clock.now() - timedelta(seconds=1) if expired else None

    def seal(self, set_id: UUID, *cards: SheetCard) -> None:
        self.store.set_of(set_id).cards += cards

    def due_for_purge(self, set_id: UUID, seconds: float = 0) -> bool:
        after = self.store.set_of(set_id).purge_after
        return after is not None and after <= self.store.clock.now() + timedelta(seconds=seconds)


class InPostgres:
    """The ledger. Time passes by moving what is stored into the past."""

    def __init__(self, app: sa.Engine, owner: sa.Engine) -> None:
        self._owner = owner
        self._desk = Desk(app)
        self._history = History(app)
        self._broom = Broom(app)
        self._credential = self._add("access_key")
        self.store = Ledger(app, a_destination)
        self.sets = Sheets(app)

    def submit(self, package: Package | None = None) -> UUID:
        card = CredentialCard(self._credential, OWNER, "access_key", "active", None, "", "")
        return self._desk.store(a_request(package=package), card, a_destination(), bytes(32))[0]

    def submit_signed(self, *, hook: bool = False) -> UUID:
        card = CredentialCard(self._add(SIGNED_URLS), OWNER, SIGNED_URLS, "active", None, "", ORIGIN)
        hook_id = self._add("resign_hook") if hook else None
        return self._desk.store_signed(a_request(), card, a_destination(), bytes(32), hook_id=hook_id)[0]

    def resign(self, push_id: UUID) -> UUID:
        made = self._add(SIGNED_URLS)
        self._desk.resign(push_id, made, OWNER, 2)
        return made

    def cancel(self, push_id: UUID) -> State:
        return self._desk.cancel(push_id, OWNER, OWNER)

    def release_impatient(self, seconds: float) -> int:
        return self._broom.release_impatient(seconds)

    def let_pass(self, seconds: float) -> None:
        with self._owner.begin() as c:
            for table in ("push", "part"):
                c.execute(sa.text(LET_PASS.format(table=table)), {"by": timedelta(seconds=seconds)})

    def credential(self, state: str = "active", *, expired: bool = False) -> None:
        self.change_set(self._credential, state, expired=expired)

    def change_set(self, set_id: UUID, state: str = "active", *, expired: bool = False) -> None:
        with self._owner.begin() as c:
            c.execute(sa.text(SET_CREDENTIAL), {"id": set_id, "state": state, "expired": expired})

    def seal(self, set_id: UUID, *cards: SheetCard) -> None:
        with self._owner.begin() as c:
            for card in cards:
                row = {"id": set_id, "number": card.number, "first": card.first, "last": card.last}
                more = {"block": card.block, "blocks": card.blocks, "session": card.session}
                c.execute(sa.text(ADD_SHEET), row | more)

    def due_for_purge(self, set_id: UUID, seconds: float = 0) -> bool:
        with self._owner.begin() as c:
            return bool(c.execute(sa.text(DUE_FOR_PURGE), {"id": set_id, "seconds": seconds}).scalar_one())

    def standing(self, push_id: UUID) -> Standing:
        row = self._history.push(push_id)
        tally = (row["files_verified"], row["files_skipped"], row["files_unverified"], row["files_failed"])
        return Standing(State(row["state"]), row["error_code"], row["strikes"], row["attempt"], row["strength"], tally)

    def part_standing(self, push_id: UUID, number: int) -> Standing:
        row = self._history.parts(push_id)[number - 1]
        return Standing(State(row["state"]), row["error_code"], row["strikes"], row["attempt"])

    def files(self, push_id: UUID) -> list[FileStanding]:
        return [
            FileStanding(r["seq"], FileState(r["state"]), r["strength"], r["error_code"])
            for r in self._history.files(push_id)
        ]

    def events(self, push_id: UUID) -> list[str]:
        return [r["kind"] for r in self._history.events(push_id)]

    def _add(self, kind: str) -> UUID:
        made = uuid4()
        with self._owner.begin() as c:
            row = {"id": made, "name": str(made), "owner": OWNER, "kind": kind}
            c.execute(sa.text(ADD_CREDENTIAL), row | {"endpoint": ORIGIN if kind == SIGNED_URLS else ""})
            append_event(c, made, Event.CREDENTIAL_SEALING, OWNER, credential_id=made)
        return made


ADD_CREDENTIAL = """
    INSERT INTO credential (id, owner, kind, name, state, created_by, endpoint, purge_after)
    VALUES (:id, :owner, :kind, :name, 'active', :owner, :endpoint, now() + interval '1 hour')
"""
SET_CREDENTIAL = """
    UPDATE credential SET state = :state, expires_at = CASE WHEN :expired THEN now() - interval '1 second' END
    WHERE id = :id
"""
ADD_SHEET = """
    INSERT INTO sheet (credential_id, number, first_seq, last_seq, block, blocks, session)
    VALUES (:id, :number, :first, :last, :block, :blocks, :session)
"""
DUE_FOR_PURGE = """
    SELECT coalesce(purge_after <= clock_timestamp() + make_interval(secs => :seconds), false)
    FROM credential WHERE id = :id
"""
LET_PASS = """
    UPDATE {table} SET lease_until = lease_until - :by, next_attempt_at = next_attempt_at - :by
    WHERE finished_at IS NULL AND (lease_until IS NOT NULL OR next_attempt_at IS NOT NULL)
"""
