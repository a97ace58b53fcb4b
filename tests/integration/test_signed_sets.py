"""Sets of signed URLs: nothing of them outlives a failure, their push or their last URL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

import servers
import signed_door
from cloudpush.audit.database import transaction
from cloudpush.audit.desk import Desk
from cloudpush.errors import CloudPushError, Code, CredentialError, StoreError, VaultError
from cloudpush.push.credential import Caller
from cloudpush.push.custody import SEALING_PATIENCE, SET_PATIENCE
from cloudpush.push.signed.sets import Sets
from signed_door import Door
from signed_rows import CANARY, ORIGIN, numbered

HOUR = timedelta(hours=1)
#: By so much Postgres' clock may be ahead of the one that is moved by hand.
MINUTE = timedelta(minutes=1)


@pytest.fixture
def door(database: servers.Database, tmp_path: Path) -> Iterator[Door]:
    with signed_door.opened(database, tmp_path) as made:
        yield made


def test_a_vault_that_goes_away_while_sealing_leaves_nothing_after_the_sweep(door: Door) -> None:
    """What cannot be destroyed now waits as purging."""
    door.vault.during["seal_sheet"] = door.vault.go_away
    with pytest.raises(VaultError):
        door.submit(*door.rows(*(f"f{n}" for n in range(1200))))
    waiting = door.sets()
    door.vault.come_back()
    door.clock.moment += SEALING_PATIENCE + MINUTE
    door.custody.purge_due()

    assert (waiting, door.sets(), door.vault.sheets) == (["purging"], ["purged"], {})


def test_a_process_that_is_killed_while_sealing_leaves_nothing_after_the_sweep(door: Door) -> None:
    """Rows stand in Postgres before their blocks are in Vault, so the sweep finds every one; not too early."""
    making = Sets(door.store, door.vault, door.custody, door.clock).open(Caller("ada"), "ada", ORIGIN)
    making.add(1, 500, [b"1", b"2"])
    making._pool.shutdown()  # both are in Vault when the process dies
    found = len(door.vault.sheets)
    door.clock.moment += SEALING_PATIENCE + MINUTE
    early = door.custody.purge_due()
    door.clock.moment += SET_PATIENCE
    late = door.custody.purge_due()

    assert (found, early, late, door.sets(), door.vault.sheets) == (2, 0, 1, ["purged"], {})


def test_a_manifest_that_takes_long_to_read_is_not_given_up_meanwhile(door: Door) -> None:
    """It began long ago, and a block was sealed just now."""
    door.clock.moment -= 2 * SET_PATIENCE
    making = Sets(door.store, door.vault, door.custody, door.clock).open(Caller("ada"), "ada", ORIGIN)
    door.clock.moment += 2 * SET_PATIENCE
    making.add(1, 500, [b"1"])

    assert (door.custody.purge_due(), making.finish(None).state, door.sets()) == (0, "active", ["active"])


def test_rows_that_come_slowly_are_sealed_before_they_fill_a_sheet(door: Door) -> None:
    """A signer at the other end of a pipe: what it gave is sealed each minute."""

    def rows() -> Iterator[tuple[int, Mapping[str, object]]]:
        for line, row in numbered(*door.rows(*"abcd")):
            yield line, row
            door.clock.moment += timedelta(seconds=40)

    door.intake.submit(door.request(), rows())

    assert door.one("SELECT array_agg(ARRAY[first_seq, last_seq] ORDER BY number) FROM sheet") == [[1, 3], [4, 4]]


def test_a_set_that_was_purged_while_it_was_sealed_takes_no_more(door: Door) -> None:
    """Whoever still seals learns of it, and destroys what it sealed meanwhile."""

    def purge() -> None:
        door.custody.purge(Caller("ada"), door.one("SELECT id FROM credential"))

    door.vault.during["seal_sheet"] = purge

    error = door.refusal(*door.rows(*(f"f{n}" for n in range(1001))))

    assert (error.code, door.sets()) == (Code.CREDENTIAL_PURGED, ["purged"])


def test_no_block_is_begun_in_a_set_that_is_being_destroyed(door: Door) -> None:
    """Its row would come too late for the purge to see it."""
    making = Sets(door.store, door.vault, door.custody, door.clock).open(Caller("ada"), "ada", ORIGIN)
    making.add(1, 500, [b"1"])
    door.custody.purge(Caller("ada"), making.id)

    with pytest.raises(CredentialError) as caught:
        making.add(501, 1000, [b"2"])
    making.abandon()

    assert (caught.value.code, door.one("SELECT count(*) FROM sheet"), door.vault.sheets, door.sets()) == (
        Code.CREDENTIAL_PURGED,
        1,
        {},
        ["purged"],
    )


class LosingDesk(Desk):
    """Postgres goes away while it answers: nobody knows whether the push was stored."""

    stored = False

    def store_signed(self, *args: Any, **options: Any) -> tuple[UUID, bool]:
        if self.stored:
            super().store_signed(*args, **options)
        raise StoreError(Code.DATABASE_UNREACHABLE, "Postgres is away.")


@pytest.mark.parametrize(("stored", "state"), [(False, "purged"), (True, "active")])
def test_a_set_whose_push_may_have_been_stored_is_looked_after_by_the_sweep(
    door: Door, stored: bool, state: str
) -> None:
    """If a push has it, it stays; otherwise it is destroyed, long before its URLs expire."""
    desk = LosingDesk(door.engine)
    desk.stored = stored
    with pytest.raises(StoreError):
        door.door(desk).submit(door.request(), numbered(*door.rows(life=86_400)))
    door.clock.moment += SET_PATIENCE + MINUTE
    door.custody.purge_due()

    assert (door.sets(), bool(door.vault.sheets)) == ([state], stored)


# -- the end of a set ----------------------------------------------------------------------------


def purge_reasons(door: Door) -> list[str]:
    with transaction(door.engine) as c:
        ours = sa.text(
            "SELECT data ->> 'reason' FROM event JOIN credential c ON stream = c.id WHERE event.kind = :kind"
        )
        return list(c.execute(ours, {"kind": "credential.purging"}).scalars())


def test_urls_are_destroyed_when_the_last_of_them_expires(door: Door) -> None:
    """At the sweep's next look, and not before; events say so."""
    door.submit(*door.rows("a"), *door.rows("b", life=7200))
    counts = []
    for step in (HOUR, HOUR):
        door.clock.moment += step + timedelta(seconds=1)
        counts.append(door.custody.purge_due())

    assert (counts, door.sets(), door.vault.sheets, purge_reasons(door)) == ([0, 1], ["purged"], {}, ["urls_expired"])


def test_urls_are_destroyed_when_their_push_ends(door: Door) -> None:
    """However it ends: here it is cancelled before it began."""
    accepted = door.submit()
    door.desk.cancel(accepted.push_id, "ada", "ada")
    door.clock.moment = datetime.now(UTC) + timedelta(seconds=1)

    assert (door.custody.purge_due(), door.sets(), door.vault.sheets, purge_reasons(door)) == (
        1,
        ["purged"],
        {},
        ["push_ended"],
    )


def test_a_session_that_may_still_be_sealed_is_looked_for_again(door: Door) -> None:
    """A worker reserved a block and is slow: the set is purged at once, and once more before it counts as gone."""
    accepted = door.submit()
    made = door.set_of(accepted.push_id).id
    with transaction(door.engine) as c:
        c.execute(
            sa.text(
                "INSERT INTO sheet (credential_id, number, first_seq, last_seq, block, blocks, session) "
                "VALUES (:id, 2, 1, 1, 1, 1, true)"
            ),
            {"id": made},
        )
    first = door.custody.purge(Caller("ada"), made).state
    gone = dict(door.vault.sheets)
    door.vault.seal_sheet(made, "ada", 2, b"late")
    again, waits = door.custody.purge_due(), len(door.vault.sheets)
    door.clock.moment += SEALING_PATIENCE + MINUTE

    assert (first, gone, again, waits, door.custody.purge_due(), door.sets(), door.vault.sheets) == (
        "purging",
        {},
        0,
        1,
        1,
        ["purged"],
        {},
    )


def test_a_rotation_rewraps_every_block_and_then_retires_the_old_key(door: Door) -> None:
    """One event for the set; a block that nobody sealed does not stand in the way for ever."""
    operator = Caller("olga", operator=True)
    accepted = door.submit(*door.rows(*(f"f{n}" for n in range(1001))))
    made = door.set_of(accepted.push_id).id
    with transaction(door.engine) as c:
        c.execute(
            sa.text(
                "INSERT INTO sheet (credential_id, number, first_seq, last_seq, block, blocks, session) "
                "VALUES (:id, 4, 1, 1, 1, 1, true)"
            ),
            {"id": made},
        )
    young = door.custody.rotate(operator)
    door.clock.moment += SEALING_PATIENCE + MINUTE
    old = door.custody.rotate(operator, resume=True)

    assert (
        (young.version, young.rewrapped, young.failed, young.retired),
        (old.version, old.rewrapped, old.failed, old.retired),
        len(door.tickets(made)),
        door.one("SELECT array_agg(DISTINCT transit_key_version) FROM sheet"),
        door.one("SELECT count(*) FROM event WHERE stream = :id AND kind = 'credential.rewrapped'", id=made),
    ) == ((2, 3, (), False), (2, 0, (), True), 1001, [2], 2)


def test_a_damaged_block_is_reported_once_and_keeps_the_old_key_alive(door: Door) -> None:
    """By its set."""
    accepted = door.submit(*door.rows(*(f"f{n}" for n in range(1001))))
    made = door.set_of(accepted.push_id).id
    for number in (1, 2):
        door.vault.sheets[made, number]["wrapped"] = "vault:v1:QUJD"

    done = door.custody.rotate(Caller("olga", operator=True))

    assert (done.rewrapped, done.failed, done.retired) == (1, (made,), False)


def test_nothing_of_a_signature_reaches_postgres(door: Door) -> None:
    """Of a whole life: accepted, refused, renewed, rotated, purged."""
    accepted = door.submit(idempotency_key="k")
    door.submit(idempotency_key="k")
    with pytest.raises(CloudPushError):
        door.submit(*door.rows("a", "a"))
    door.intake.resign(accepted.push_id, "ada", "ada", numbered(*door.rows()))
    door.custody.rotate(Caller("olga", operator=True))
    door.desk.cancel(accepted.push_id, "ada", "ada")
    door.clock.moment = datetime.now(UTC) + timedelta(seconds=1)
    door.custody.purge_due()

    with transaction(door.engine) as c:
        tables = ("credential", "event", "push", "sheet", "renewal", "file", "part")
        rows = [str(row) for table in tables for row in c.execute(sa.text(f"SELECT * FROM {table}"))]
    assert (len(rows) > 10, [row for row in rows if CANARY in row or "X-Amz" in row], door.vault.sheets) == (
        True,
        [],
        {},
    )
