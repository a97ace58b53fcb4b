"""Grants in the real database: many at once, a connection that dies, and what the record says of a grant's life."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from builders import OWNER, URI, a_destination, a_lease, a_page, a_request, an_error, done, paused, verified
from cloudpush.audit import integrity
from cloudpush.audit.credentials import Credentials
from cloudpush.audit.grants import GrantBook, lock_key
from cloudpush.audit.history import Filter, Row
from cloudpush.errors import CloudPushError, Code, InputError, StoreError
from cloudpush.push.admission import CredentialCard
from cloudpush.push.credential import Caller, Reason
from cloudpush.push.custody import Custody
from cloudpush.push.grants.model import Chore, Grant, GrantState
from cloudpush.push.job import Lease, Push, Verdict
from cloudpush.push.states import State
from fakes import FakeClock
from fakes_vault import FakeVault
from grant_builders import SCOPE, a_grant, a_share, an_attempt, its_credential, some_tokens
from records import Record
from servers import Databases

WORKER = "worker-1"


@pytest.fixture(scope="module")
def book(record: Record) -> GrantBook:
    """The store of grants."""
    return GrantBook(record.app)


def connected(book: GrantBook, **changes: object) -> Grant:
    grant = a_grant(**changes)
    book.add(its_credential(grant), grant, None, grant.owner)
    book.activate(grant.id, 1, grant.owner)
    return seen(book, grant)


def seen(book: GrantBook, grant: Grant) -> Grant:
    found = book.get(grant.id)
    assert found is not None
    return found


def submitted(record: Record, grant: Grant, owner: str = OWNER, uri: str = URI) -> UUID:
    card = CredentialCard(grant.id, grant.owner, grant.kind, "active", None, "", "")
    return record.desk.store(a_request(owner=owner, destination=uri), card, a_destination(uri), bytes(32))[0]


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What each came to, all begun at the same moment."""
    together = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        together.wait(30)
        try:
            return call()
        except CloudPushError as e:
            return e.code

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# -- many at once ------------------------------------------------------------------------------------


def test_an_attempt_that_comes_back_twice_at_once_is_taken_once(book: GrantBook, record: Record) -> None:
    """A double click on the provider's button."""
    for _ in range(10):
        attempt = an_attempt(record.now())
        book.begin(attempt, OWNER)

        taken = at_once(*[partial(book.take, attempt.id, attempt.session)] * 4)

        assert sorted(t is None for t in taken) == [False, True, True, True]


def test_refreshers_take_turns_and_one_refreshes(book: GrantBook) -> None:
    """Whoever gets the lock later sees that somebody was quicker: eight at once spend one refresh token."""
    grant = connected(book)
    spent: list[int] = []

    def refresh() -> None:
        with book.lock(grant.id, 60):
            now = seen(book, grant)
            if now.generation != grant.generation:
                return
            _, number = book.start_refresh(now, WORKER)
            spent.append(number)
            book.finish_refresh(now, number, 1, some_tokens(), WORKER)

    at_once(*[refresh] * 8)

    assert (spent, seen(book, grant).generation) == ([3], 3)


def test_the_lock_of_a_refresher_that_died_is_free(book: GrantBook, record: Record) -> None:
    """Its connection is gone, and with it the lock; what it did in between does not end with an error of ours."""
    grant = connected(book)

    with suppress(StoreError), book.lock(grant.id, 5):
        with pytest.raises(StoreError), book.lock(grant.id, 0.05):
            pass
        with record.intruder.connect() as c:
            killed = c.execute(sa.text(KILL), {"key": lock_key(grant.id)}).scalars().all()
        with book.lock(grant.id, 30):
            pass

    assert killed == [True]


KILL = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND ((classid::bigint << 32) | objid::bigint) = CAST(:key AS bigint)
"""


def test_a_lock_is_nobodys_connection(book: GrantBook, record: Record) -> None:
    """More refreshers wait than the pool has connections, and transactions go on."""
    grants = [connected(book) for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        inside, leave = threading.Barrier(21), threading.Event()

        def hold(grant: Grant) -> None:
            with book.lock(grant.id, 60):
                inside.wait(60)
                leave.wait(60)

        held = [pool.submit(hold, grant) for grant in grants]
        inside.wait(60)
        found = seen(book, grants[0])
        leave.set()
        for one in held:
            one.result(60)

    assert found.state is GrantState.ACTIVE


def test_a_pause_and_a_reconnect_at_once_leave_nothing_waiting(book: GrantBook, record: Record) -> None:
    """Whichever is first: the push waits and is found, or it does not pause."""
    for _ in range(15):
        grant = connected(book)
        pushes = [claimed(record, grant) for _ in range(2)]
        book.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), WORKER)
        number = book.reserve(grant.id)

        at_once(
            *[partial(record.ledger.end_push, push, lease, needed()) for push, lease in pushes],
            partial(book.reconnect, grant.id, number, 1, some_tokens(), (SCOPE,), OWNER),
        )

        assert book.waiting(grant.id) == []
        assert {record.state(push.id) for push, _ in pushes} == {State.QUEUED}


def test_parts_that_pause_and_a_reconnect_at_once_leave_nothing_waiting(book: GrantBook, record: Record) -> None:
    """Likewise, with two parts of one push."""
    for _ in range(15):
        grant = connected(book)
        push, lease = claimed(record, grant)
        for n in (1, 2):
            record.ledger.record_page(push, lease, a_page(push.id, n, first=2 * n - 1))
        record.ledger.finish_plan(push, lease, parts=2, files=4, bytes_=40)
        leases = [a_lease(), a_lease()]
        parts = [record.ledger.claim_part(push.id, n, held) for n, held in enumerate(leases, 1)]
        book.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), WORKER)
        number = book.reserve(grant.id)

        ended = at_once(
            *[
                partial(record.ledger.end_part, *found, held, needed())
                for found, held in zip(parts, leases, strict=True)
                if found is not None
            ],
            partial(book.reconnect, grant.id, number, 1, some_tokens(), (SCOPE,), OWNER),
        )

        assert [e for e in ended if isinstance(e, Code)] == []
        assert (book.waiting(grant.id), record.state(push.id)) == ([], State.RUNNING)
        assert {row["state"] for row in record.history.parts(push.id)} == {"queued"}


def test_a_revocation_and_the_end_of_a_refresh_at_once_lose_nothing(book: GrantBook) -> None:
    """The grant is over, and the newest tokens are the ones that its provider is told of."""
    for _ in range(10):
        grant = connected(book)
        _, number = book.start_refresh(grant, WORKER)

        ended = at_once(
            partial(book.revoke, grant.id, OWNER),
            partial(book.finish_refresh, grant, number, 1, some_tokens(), WORKER),
        )

        now = seen(book, grant)
        assert (ended, now.state, now.generation, now.pending) == ([None, None], GrantState.REVOKING, number, 0)


def claimed(record: Record, grant: Grant) -> tuple[Push, Lease]:
    lease = a_lease()
    push = record.ledger.claim_push(submitted(record, grant), lease)
    assert push is not None
    return push, lease


def needed() -> Verdict:
    return paused(Code.CONSENT_NEEDED)


# -- custody -------------------------------------------------------------------------------------------


@pytest.fixture
def vault() -> FakeVault:
    """A vault in memory."""
    return FakeVault()


@pytest.fixture
def custody(record: Record, vault: FakeVault) -> Custody:
    """Custody with the real rows."""
    return Custody(Credentials(record.app), vault, vault, FakeClock(record.now() + timedelta(minutes=1)))


def sealed(book: GrantBook, vault: FakeVault, refreshes: int = 0) -> Grant:
    """A grant whose tokens are in the vault."""
    grant = a_grant()
    book.add(its_credential(grant), grant, None, grant.owner)
    book.activate(grant.id, vault.seal_tokens(grant.id, grant.owner, 1, b"1"), grant.owner)
    for _ in range(refreshes):
        marker, number = book.start_refresh(grant, WORKER)
        pen = vault.prepare(grant.id, grant.owner, marker, number)
        book.finish_refresh(grant, number, pen.write(b"2"), some_tokens(), WORKER)
    return seen(book, grant)


def test_a_grant_is_purged_by_its_revocation_only(book: GrantBook, custody: Custody, vault: FakeVault) -> None:
    """Its provider is to be told, so the way is named; afterwards each block is destroyed, by the sweep, too."""
    grant = sealed(book, vault, refreshes=2)
    with pytest.raises(InputError) as caught:
        custody.purge(Caller(OWNER), grant.id)
    book.revoke(grant.id, OWNER)
    book.end_revocation(grant.id, True, None, WORKER)

    custody.purge_due()

    assert f"cloudpush grant revoke {grant.id}" in caught.value.message
    assert [key for key in vault.sheets if key[0] == grant.id] == []
    assert seen(book, grant).credential_state == "purged"


def test_a_consent_that_nobody_finished_is_abandoned(book: GrantBook, record: Record, vault: FakeVault) -> None:
    """The web application died between the row and the seal; tokens that got there are destroyed."""
    grant = a_grant()
    book.add(its_credential(grant, record.now()), grant, None, grant.owner)
    vault.seal_tokens(grant.id, grant.owner, 1, b"1")
    clock = FakeClock(record.now())
    custody = Custody(Credentials(record.app), vault, vault, clock)

    early = custody.purge_due()
    clock.advance(121)
    custody.purge_due()

    assert (early, seen(book, grant).credential_state, dict(vault.sheets)) == (0, "purged", {})


def test_a_purge_waits_for_a_refresh_that_is_under_way(book: GrantBook, record: Record, vault: FakeVault) -> None:
    """What it seals yet would be left in Vault for good."""
    grant = sealed(book, vault)
    marker, number = book.start_refresh(grant, WORKER)
    pen = vault.prepare(grant.id, grant.owner, marker, number)
    book.revoke(grant.id, OWNER)
    book.end_revocation(grant.id, True, None, WORKER)
    custody = Custody(Credentials(record.app), vault, vault, FakeClock(record.now() + timedelta(minutes=10)))

    custody.purge_due()
    waits = seen(book, grant).credential_state
    book.finish_refresh(grant, number, pen.write(b"2"), some_tokens(), WORKER)
    custody.purge_due()

    assert (waits, seen(book, grant).credential_state) == ("purging", "purged")
    assert [key for key in vault.sheets if key[0] == grant.id] == []


@pytest.fixture
def empty_book(databases: Databases) -> Iterator[tuple[GrantBook, Record]]:
    """A database without anybody else's credentials: a rotation is about all of them."""
    made = databases.migrated()
    record = Record(made)
    yield GrantBook(record.app), record
    record.close()
    databases.drop(made)


def test_a_rotation_rewraps_the_current_generation(empty_book: tuple[GrantBook, Record], vault: FakeVault) -> None:
    """Earlier ones do not hold it back, destroyed or not: nobody opens them any more."""
    book, record = empty_book
    custody = Custody(Credentials(record.app), vault, vault, FakeClock(record.now()))
    kept, gone, going = (sealed(book, vault, refreshes=1) for _ in range(3))
    for grant in (gone, going):
        vault.purge_sheets(grant.id, [1, 2])
    book.note_superseded(gone.id, [1, 2])

    rotation = custody.rotate(Caller("operator", operator=True))

    assert (rotation.failed, rotation.retired) == ((), True)
    for grant in (kept, gone, going):
        assert vault.open_tokens(grant.id, grant.owner, grant.generation) == b"2"


def test_a_rotation_waits_for_a_refresh_that_is_under_way(
    empty_book: tuple[GrantBook, Record], vault: FakeVault
) -> None:
    """Its data key may be under the older version: that is not retired yet."""
    book, record = empty_book
    custody = Custody(Credentials(record.app), vault, vault, FakeClock(record.now()))
    grant = sealed(book, vault)
    marker, number = book.start_refresh(grant, WORKER)
    pen = vault.prepare(grant.id, grant.owner, marker, number)

    during = custody.rotate(Caller("operator", operator=True))
    book.finish_refresh(grant, number, pen.write(b"2"), some_tokens(), WORKER)
    after = custody.rotate(Caller("operator", operator=True), resume=True)

    assert (during.retired, after.retired) == (False, True)
    assert vault.open_tokens(grant.id, grant.owner, number) == b"2"


# -- who may push with it --------------------------------------------------------------------------------


def test_a_shared_grant_is_found_by_owner_and_name(record: Record, book: GrantBook) -> None:
    """By whom it is shared with; an own credential of that very name comes first."""
    grant, principal = connected(book, owner=f"grace-{uuid4()}"), f"pipeline-{uuid4()}"
    reference = f"{grant.owner}/{grant.name}"
    before = record.desk.credential(reference, principal)
    share = a_share(grant.id, record.now(), principal=principal)
    book.share(share, grant.owner)

    found, by_id = record.desk.credential(reference, principal), record.desk.credential(str(grant.id), principal)

    own = record.credential(principal, name=reference)
    named = record.desk.credential(reference, principal)
    stranger = record.desk.credential(str(grant.id), "mallory")
    assert (before, found) == (None, by_id)
    assert found is not None
    assert (found.id, found.owner, found.grant_state, found.shares) == (grant.id, grant.owner, "active", (share,))
    assert named is not None
    assert named.id == own.id
    assert stranger is not None
    assert stranger.shares == ()


def test_a_name_that_two_connections_have_is_nobodys(record: Record, book: GrantBook) -> None:
    """Mallory is called GRACE/team at the sign-in provider, and shares a connection with Grace's pipeline that nobody asked
    for: together its names read as Grace's own. az:// URIs name no account, so the data would go to *his*.
    """
    who, principal = f"grace-{uuid4()}", f"pipeline-{uuid4()}"
    graces = connected(book, owner=who, name="team/lab")
    mallorys = connected(book, owner=f"{who}/team", name="lab")
    reference = f"{who}/team/lab"
    for grant in (graces, mallorys):
        book.share(a_share(grant.id, record.now(), principal=principal), grant.owner)

    with pytest.raises(InputError) as caught:
        record.desk.credential(reference, principal)

    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "credential")
    by_id = record.desk.credential(str(graces.id), principal)
    assert by_id is not None
    assert by_id.owner == who


def test_a_push_says_whose_grant_it_uses(record: Record, book: GrantBook) -> None:
    """In its first event, and to the worker."""
    grant, principal = connected(book), f"pipeline-{uuid4()}"
    book.share(a_share(grant.id, record.now(), principal=principal), OWNER)
    push_id = submitted(record, grant, principal)

    push = record.ledger.claim_push(push_id, a_lease())

    assert push is not None
    assert (push.sealed_for, record.history.events(push_id)[0]["data"]["credential_owner"]) == (OWNER, OWNER)


# -- the record --------------------------------------------------------------------------------------------


def a_life(record: Record, book: GrantBook) -> tuple[Grant, UUID]:
    """A grant from its consent to its end, and the push that used it."""
    attempt = an_attempt(record.now())
    book.begin(attempt, OWNER)
    book.take(attempt.id, attempt.session)
    grant = a_grant()
    book.add(its_credential(grant, record.now()), grant, attempt, OWNER)
    book.activate(grant.id, 1, OWNER)
    book.end_attempt(attempt, "granted", "")
    lease = a_lease()
    push = record.ledger.claim_push(submitted(record, grant), lease)
    assert push is not None
    page = a_page(push.id)
    record.ledger.finish_plan_with(push, lease, page)
    book.note_opened(grant, WORKER)
    _, number = book.start_refresh(grant, WORKER)
    book.finish_refresh(grant, number, 1, some_tokens(), WORKER)
    record.ledger.record_files(page.part, lease, verified([1, 2]))
    record.ledger.end_part(push, page.part, lease, done())
    book.want(grant.id, Chore.CHECK, OWNER)
    book.end_chore(grant.id, Chore.CHECK, None, None)
    book.note_superseded(grant.id, [1, 2])
    book.revoke(grant.id, OWNER)
    book.end_revocation(grant.id, True, None, WORKER)
    custody = Credentials(record.app)
    custody.start_purge(grant.id, Reason.REVOKED, "sweeper")
    assert custody.end_purge(grant.id, "sweeper", record.now() - timedelta(minutes=2))
    return grant, push.id


LIFE = [
    "grant.asked",
    "credential.sealing",
    "credential.created",
    "grant.granted",
    "credential.used",
    "grant.opened",
    "grant.refreshing",
    "grant.refreshed",
    "grant.checked",
    "grant.superseded",
    "grant.revoking",
    "grant.revoked",
    "credential.purging",
    "credential.purged",
]


def test_the_ledger_tells_a_grants_whole_life(record: Record, book: GrantBook) -> None:
    """Asked, granted, each decrypt and use, refreshed, revoked, purged: in order, in pages, from either end."""
    grant, push_id = a_life(record, book)

    whole = record.history.ledger(grant.id)

    pages: list[Row] = []
    after = 0
    while page := record.history.ledger(grant.id, after=after, limit=4):
        pages, after = pages + page, page[-1]["id"]
    assert [row["kind"] for row in whole] == LIFE
    assert {row["stream"] for row in whole} == {grant.id, push_id}
    assert (pages, record.history.ledger(grant.id, limit=3, newest=True)) == (whole, whole[-3:])


def test_pushes_are_found_by_the_grant_that_they_use(record: Record, book: GrantBook) -> None:
    """For its page."""
    grant, push_id = a_life(record, book)
    a_life(record, book)

    assert [row["id"] for row in record.history.pushes(Filter(credential_id=grant.id))] == [push_id]


def test_a_record_with_grants_is_sound(record: Record, book: GrantBook) -> None:
    """Streams of grants and of refused attempts are chains as all others."""
    grant, _ = a_life(record, book)
    attempt = an_attempt(record.now())
    book.begin(attempt, OWNER)
    book.end_attempt(attempt, "CONSENT_FAILED", "You said no.\0")

    reports = [integrity.verify(record.app, stream) for stream in (grant.id, attempt.id)]

    assert [(report.sound, report.events) for report in reports] == [(True, len(LIFE) - 1), (True, 1)]
    assert integrity.verify(record.app).faults == []


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            "UPDATE oauth_grant SET provider = 'other' WHERE credential_id = :id",
            "row differs from its events in: provider",
        ),
        (
            "UPDATE oauth_grant SET subject = 'mallory' WHERE credential_id = :id",
            "row differs from its events in: subject",
        ),
        (
            "UPDATE oauth_grant SET state = 'active', revoked_at = NULL WHERE credential_id = :id",
            "row differs from its events in: revoking, revoked",
        ),
        ("UPDATE oauth_grant SET state = 'active' WHERE credential_id = :id", "in: revoked, state"),
        ("UPDATE oauth_grant SET granted_at = NULL WHERE credential_id = :id", "in: granted"),
        ("UPDATE share SET principal = 'mallory' WHERE credential_id = :id", "differs from its events"),
        ("UPDATE share SET uri = 's3://all' WHERE credential_id = :id", "differs from its events"),
        ("UPDATE share SET until = 'infinity' WHERE credential_id = :id", "differs from its events"),
        ("UPDATE share SET ended_at = NULL WHERE credential_id = :id", "differs from its events"),
        ("DELETE FROM share WHERE credential_id = :id", "is told by an event, but its row is gone"),
        (
            (
                "INSERT INTO share (id, credential_id, principal, uri, until, created_by) "
                "VALUES (gen_random_uuid(), :id, 'mallory', 's3://all', 'infinity', 'mallory')"
            ),
            "is told by no event",
        ),
    ],
)
def test_a_consent_that_was_edited_is_noticed(empty_book: tuple[GrantBook, Record], statement: str, what: str) -> None:
    """By an intruder whom no trigger stops."""
    book, record = empty_book
    grant = connected(book)
    for _ in range(2):
        share = a_share(grant.id, record.now())
        book.share(share, OWNER)
        book.unshare(share.id, OWNER, OWNER)
    book.revoke(grant.id, OWNER)
    book.end_revocation(grant.id, True, None, WORKER)
    before = integrity.verify(record.app).faults
    record.tamper(statement, id=grant.id)

    whole, one = integrity.verify(record.app), integrity.verify(record.app, grant.id)

    assert (before, {fault.stream for fault in whole.faults}, what in whole.faults[0].what) == ([], {grant.id}, True)
    assert one.faults == whole.faults


def test_no_token_is_in_the_database(record: Record, book: GrantBook) -> None:
    """Whatever the store was given."""
    canary = f"canary-{uuid4()}"
    grant = connected(book)
    _, number = book.start_refresh(grant, WORKER)
    tokens = some_tokens(access_token=canary, refresh_token=canary, id_token=canary)
    book.finish_refresh(grant, number, 1, tokens, WORKER)
    book.reconnect(grant.id, book.reserve(grant.id), 1, tokens, (SCOPE,), OWNER)

    with record.owner.connect() as c:
        tables = ("oauth_grant", "credential", "sheet", "event", "consent_attempt", "chore", "share")
        found = [t for t in tables if c.execute(sa.text(HOLDS.format(table=t)), {"word": f"%{canary}%"}).scalar_one()]

    assert found == []


HOLDS = "SELECT EXISTS (SELECT FROM {table} t WHERE t::text LIKE :word)"


def test_a_grant_that_was_deleted_is_missed(empty_book: tuple[GrantBook, Record]) -> None:
    """Its events are left, and begin with what was asked of the provider."""
    book, record = empty_book
    grant = connected(book)

    record.tamper(
        "DELETE FROM sheet WHERE credential_id = :id",
        "DELETE FROM oauth_grant WHERE credential_id = :id",
        "DELETE FROM credential WHERE id = :id",
        id=grant.id,
    )

    faults = [fault for fault in integrity.verify(record.app, grant.id).faults if fault.stream == grant.id]
    assert "events of a row that is gone" in [fault.what for fault in faults]
