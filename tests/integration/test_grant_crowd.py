"""Users, workers, the sweep and the web application at the same few grants and pushes: no deadlock, and nobody is left over."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Barrier
from uuid import UUID

import pytest
import sqlalchemy as sa

from builders import OWNER, URI, a_lease, a_page, an_error, done, paused, retry, verified
from cloudpush.audit.broom import Broom
from cloudpush.audit.integrity import verify
from cloudpush.errors import Cancelled, CloudPushError, Code, ConsentRevoked, InputError, LeaseLost, StoreError
from cloudpush.push.grants.model import Chore, Grant, GrantState
from cloudpush.push.job import Lease, Part, Push, Verdict
from cloudpush.push.states import State
from grant_builders import SCOPE, a_share, some_tokens
from grant_stores import GrantsInPostgres, connected, half_waiting, seen
from records import Record
from servers import Database, Databases

THREADS, GRANTS, PUSHES, PARTS = 8, 3, 14, 3
ACTS = 70  # of each thread
SEED = 20261128
#: Seconds that a condition is waited for at most.
PATIENCE = 30
PIPELINE = "pipeline"


@pytest.fixture
def database(databases: Databases) -> Iterator[Database]:
    """A database of its own: the sweep looks at everything that there is."""
    made = databases.migrated()
    yield made
    databases.drop(made)


@pytest.fixture
def record(database: Database) -> Iterator[Record]:
    """A database with what the application does in it."""
    made = Record(database)
    yield made
    made.close()


@dataclass
class Crowd:
    """What anybody may do at any time, each as the application does it."""

    record: Record
    grants: list[Grant]
    stores: GrantsInPostgres
    broom: Broom
    pushes: list[UUID] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def submit(self, chance: random.Random) -> None:
        grant = chance.choice(self.grants)
        with suppress(InputError, StoreError):  # an intake that the share's end overtook is refused by the database
            self.pushes.append(self.stores.submit(grant, chance.choice((OWNER, PIPELINE)), URI))

    def act(self, chance: random.Random) -> None:
        """One thing, by chance."""
        acts: list[tuple[int, Callable[[random.Random], None]]] = [
            (10, self.plan),
            (30, self.part),
            (3, self.cancel),
            (6, self.reconnect),
            (6, self.refresh),
            (4, self.share),
            (4, self.sweep),
            (3, self.beat),
            (3, self.check),
        ]
        [act] = chance.choices([a for _, a in acts], [w for w, _ in acts])
        try:
            act(chance)
        except StoreError as e:
            self.faults.append(f"{act.__name__}: {e}")
        except (LeaseLost, Cancelled, ConsentRevoked, InputError):
            self.done[f"{act.__name__} refused"] += 1
        except CloudPushError as e:
            if e.code not in (Code.CONSENT_NEEDED, Code.CONSENT_REVOKED):
                self.faults.append(f"{act.__name__}: {e}")
            self.done[f"{act.__name__} refused"] += 1
        else:
            self.done[act.__name__] += 1

    # -- workers

    def plan(self, chance: random.Random) -> None:
        lease = a_lease(30)
        push = self.record.ledger.claim_push(chance.choice(self.pushes), lease)
        if push is not None:
            self.plan_out(push, lease, chance)

    def plan_out(self, push: Push, lease: Lease, chance: random.Random) -> None:
        ledger = self.record.ledger
        match chance.randrange(6):
            case 0:
                ledger.end_push(push, lease, paused(Code.CONSENT_NEEDED))
            case 1:
                ledger.end_push(push, lease, retry(0))
            case 2:
                page = a_page(push.id)
                try:
                    ledger.finish_plan_with(push, lease, page)
                except CloudPushError as e:
                    ledger.end_push(push, lease, _verdict(e))
                else:
                    self.end(push, page.part, lease, chance)
            case _:
                for n in range(1, PARTS + 1):
                    ledger.record_page(push, lease, a_page(push.id, n, first=2 * n - 1))
                ledger.finish_plan(push, lease, parts=PARTS, files=2 * PARTS, bytes_=20 * PARTS)

    def part(self, chance: random.Random) -> None:
        lease = a_lease(30)
        claimed = self.record.ledger.claim_part(chance.choice(self.pushes), chance.randint(1, PARTS), lease)
        if claimed is None:
            return
        push, part = claimed
        try:
            self.record.ledger.record_credential_use(push, part, lease)
        except (ConsentRevoked, Cancelled, CloudPushError) as e:
            if isinstance(e, LeaseLost | StoreError):
                raise
            self.record.ledger.end_part(push, part, lease, _verdict(e))
            return
        self.end(push, part, lease, chance)

    def end(self, push: Push, part: Part, lease: Lease, chance: random.Random) -> None:
        ledger = self.record.ledger
        match chance.randrange(8):
            case 0:
                self.record.late(push.id)  # its worker was killed
            case 1 | 2 | 3:
                self.record.ledger.record_files(part, lease, verified([part.first]))
                ledger.end_part(push, part, lease, paused(Code.CONSENT_NEEDED))
            case 4 | 5:
                ledger.end_part(push, part, lease, retry(chance.choice((0, 300))))
            case _:
                ledger.end_part(push, part, lease, done(), verified([part.first, part.last]))

    def beat(self, chance: random.Random) -> None:
        with self.record.owner.connect() as c:
            tokens = c.execute(sa.text("SELECT lease_token FROM part WHERE lease_token IS NOT NULL LIMIT 20")).scalars()
            held = list(tokens)
        chance.shuffle(held)
        self.record.ledger.extend(held, 30)

    def refresh(self, chance: random.Random) -> None:
        grant = seen(self.stores, chance.choice(self.grants))
        store = self.stores.store
        with store.lock(grant.id, 10):
            _, number = store.start_refresh(grant, "worker")
            store.note_opened(grant, "worker")
            if chance.random() < 0.5:
                store.finish_refresh(grant, number, 1, some_tokens(self.stores.now()), "worker")
            else:
                store.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), "worker")

    # -- users

    def reconnect(self, chance: random.Random) -> None:
        grant, store = chance.choice(self.grants[:-1]), self.stores.store
        with store.lock(grant.id, 10):
            number = store.reserve(grant.id)
            store.reconnect(grant.id, number, 1, some_tokens(self.stores.now()), (SCOPE,), grant.owner)

    def revoke(self) -> None:
        """The last one, which nobody reconnects: the others are to see much more."""
        self.stores.store.revoke(self.grants[-1].id, OWNER)

    def share(self, chance: random.Random) -> None:
        grant, store = chance.choice(self.grants), self.stores.store
        for share in store.shares(grant.id):
            if share.ended_at is None:
                store.unshare(share.id, grant.owner, grant.owner)
        store.share(a_share(grant.id, self.stores.now(), principal=PIPELINE, uri=URI), grant.owner)
        self.submit(chance)

    def cancel(self, chance: random.Random) -> None:
        self.record.desk.cancel(chance.choice(self.pushes), None, OWNER)

    def check(self, chance: random.Random) -> None:
        grant = chance.choice(self.grants)
        self.stores.store.want(grant.id, Chore.CHECK, OWNER)
        self.stores.store.end_chore(grant.id, Chore.CHECK, None, None)

    # -- the sweep

    def sweep(self, chance: random.Random) -> None:
        self.broom.release_expired(10**6)
        self.broom.release_impatient(3600)
        self.broom.due(unannounced_for=0, limit=100)
        for grant_id, numbers in self.stores.store.superseded(10):
            self.stores.store.note_superseded(grant_id, numbers)

    # -- afterwards

    def settle(self) -> set[State]:
        """All users reconnect what can be, and workers go on until nothing is due."""
        for grant in self.grants:
            with suppress(CloudPushError):
                number = self.stores.store.reserve(grant.id)
                self.stores.store.reconnect(grant.id, number, 1, some_tokens(self.stores.now()), (SCOPE,), grant.owner)
        for push_id in self.pushes:
            self.record.late(push_id)
        with self.record.owner.begin() as c:
            for table in ("push", "part"):
                c.execute(sa.text(f"UPDATE {table} SET next_attempt_at = NULL WHERE state = 'queued'"))
        for _ in range(3):
            self.broom.release_expired(10**6)
            self.broom.release_impatient(3600)
            due = self.broom.due(unannounced_for=0, limit=10_000)
            for push_id in due.pushes:
                self._finish_push(push_id)
            for push_id, number in due.parts:
                self._finish_part(push_id, number)
        return {self.record.state(push_id) for push_id in self.pushes}

    def _finish_push(self, push_id: UUID) -> None:
        ledger = self.record.ledger
        push = ledger.claim_push(push_id, lease := a_lease())
        if push is None:
            return
        page = a_page(push.id)
        try:
            if push.cancelled:
                raise Cancelled
            ledger.finish_plan_with(push, lease, page)
        except CloudPushError as e:
            ledger.end_push(push, lease, _verdict(e))
        else:
            ledger.end_part(push, page.part, lease, done(), verified([page.part.first, page.part.last]))

    def _finish_part(self, push_id: UUID, number: int) -> None:
        ledger = self.record.ledger
        claimed = ledger.claim_part(push_id, number, lease := a_lease())
        if claimed is None:
            return
        push, part = claimed
        try:
            ledger.record_credential_use(push, part, lease)
        except CloudPushError as e:
            ledger.end_part(push, part, lease, _verdict(e))
        else:
            ledger.end_part(push, part, lease, done(), verified([part.first, part.last]))


def _verdict(error: CloudPushError) -> Verdict:
    """As the policy has it."""
    if error.code is Code.CANCELLED:
        return Verdict(State.CANCELLED, error)
    return Verdict(State.AWAITING_CONSENT if error.code.waits else State.FAILED, error)


def test_whatever_happens_at_once_nobody_waits_for_ever(record: Record) -> None:
    """Locks are taken in one order: part, grant, push, chain; and who pauses and who resumes see each other."""
    stores = GrantsInPostgres(record.app, record.owner)
    crowd = Crowd(record, [connected(stores) for _ in range(GRANTS)], stores, Broom(record.app))
    for grant in crowd.grants:
        stores.store.share(a_share(grant.id, stores.now(), principal=PIPELINE, uri=URI), grant.owner)
    chance = random.Random(SEED)
    for _ in range(PUSHES):
        crowd.submit(chance)

    def go(number: int) -> None:
        mine = random.Random(SEED + number)
        for n in range(ACTS):
            if number == 0 and n == ACTS // 2:
                crowd.revoke()
            crowd.act(mine)
            if mine.random() < 0.08:
                crowd.submit(mine)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(go, range(THREADS)))

    assert crowd.faults == []
    states = crowd.settle()
    assert (states - {s for s in State if s.final}, verify(record.app).faults) == (set(), [])
    assert {seen(stores, g).state for g in crowd.grants} <= {GrantState.ACTIVE, GrantState.REVOKING}


def meet(*acts: Callable[[], object]) -> list[str]:
    """All of ``acts`` at the same moment; what Postgres refused."""
    barrier = Barrier(len(acts))

    def go(act: Callable[[], object]) -> str:
        barrier.wait(10)
        try:
            act()
        except StoreError as e:
            return str(e)
        return ""

    with ThreadPoolExecutor(len(acts)) as pool:
        return [fault for fault in pool.map(go, acts) if fault]


def blocked(record: Record, sessions: int) -> None:
    """Return once that many sessions of this database wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with record.intruder.connect() as c:
            if c.execute(sa.text(waiting)).scalar_one() >= sessions:
                return
        time.sleep(0.01)
    raise AssertionError("they do not wait")


def test_parts_that_pause_and_a_reconnect_at_the_same_moment(record: Record) -> None:
    """Part, grant, push: all wait for the grant's row before anybody holds a push; none is left waiting for nothing."""
    stores = GrantsInPostgres(record.app, record.owner)
    grant = connected(stores)
    stores.store.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), "worker")
    held: list[tuple[Push, Part, Lease]] = []
    for _ in range(5):
        lease = a_lease()
        claimed = record.ledger.claim_part(half_waiting(stores, grant), 2, lease)
        assert claimed is not None
        held.append((*claimed, lease))
    number = stores.store.reserve(grant.id)
    reconnect = partial(stores.store.reconnect, grant.id, number, 1, some_tokens(stores.now()), (SCOPE,), grant.owner)

    with ThreadPoolExecutor(6) as pool, record.owner.connect() as gate:
        gate.execute(sa.text("SELECT FROM oauth_grant WHERE credential_id = :id FOR UPDATE"), {"id": grant.id})
        first = pool.submit(reconnect)
        blocked(record, 1)
        others = [pool.submit(record.ledger.end_part, *h, paused(Code.CONSENT_NEEDED)) for h in held]
        blocked(record, 6)
        gate.rollback()
        errors = [first.exception(), *(f.exception() for f in others)]

    assert errors == [None] * 6
    assert (stores.store.waiting(grant.id), verify(record.app).faults) == ([], [])


def test_the_sweep_and_a_reconnect_take_chains_in_one_order(record: Record) -> None:
    """Both tell events of many pushes in one transaction: what vanished workers held, and what waited for the grant."""
    stores, broom = GrantsInPostgres(record.app, record.owner), Broom(record.app)
    faults: list[str] = []

    for _ in range(5):
        grant = connected(stores)
        stores.store.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), "worker")
        pushes = [half_waiting(stores, grant) for _ in range(12)]
        for push_id in pushes:
            assert record.ledger.claim_part(push_id, 2, a_lease()) is not None
        for push_id in reversed(pushes):  # rows lie in the order in which they were written last
            record.late(push_id)
        number = stores.store.reserve(grant.id)
        reconnect = partial(
            stores.store.reconnect, grant.id, number, 1, some_tokens(stores.now()), (SCOPE,), grant.owner
        )
        faults += meet(reconnect, partial(broom.release_expired, 10**6))
        assert {record.state(push_id) for push_id in pushes} == {State.RUNNING}

    assert (faults, verify(record.app).faults) == ([], [])
