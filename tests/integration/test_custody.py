"""A credential's life in Postgres, with a vault that fails when told to."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

import servers
from cloudpush.audit.credentials import VAULT_STREAM, Credentials
from cloudpush.audit.database import append_event, make_engine, transaction
from cloudpush.audit.tables import CREDENTIAL_STATES, event
from cloudpush.audit.tables import credential as table
from cloudpush.credentials.kinds import parse
from cloudpush.errors import CloudPushError, Code, CredentialError, VaultError
from cloudpush.push.credential import CREDENTIAL_TRANSITIONS, Caller, Credential, CredentialState, Rotation, Use
from cloudpush.push.custody import SEALING_PATIENCE, Custody
from fakes_vault import FakeVault

SECRET = parse(
    "access_key",
    {"access_key_id": "AKCANARYID", "secret_access_key": "canary/secret", "endpoint": "https://s3.example.org"},
)
ADA, EVE, OPERATOR = Caller("ada"), Caller("eve"), Caller("olga", operator=True)
DAY = timedelta(days=1)


class Clock:
    """Starts at the present and is moved by hand."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC)

    def now(self) -> datetime:
        return self.moment

    def jitter(self) -> float:
        return 0.0


class House:
    """Custody over an empty table, with the vault and the clock in the test's hands."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.vault = FakeVault()
        self.clock = Clock()
        self.store = Credentials(engine)
        self.custody = Custody(self.store, self.vault, self.vault, self.clock)

    def add(self, name: str = "lab", **options: Any) -> Credential:
        return self.custody.add(ADA, SECRET, name=name, **options)

    def state(self, credential_id: UUID) -> str:
        with transaction(self.engine) as c:
            return str(c.execute(sa.select(table.c.state).where(table.c.id == credential_id)).scalar_one())

    def ids(self) -> list[UUID]:
        with transaction(self.engine) as c:
            return list(c.execute(sa.select(table.c.id).order_by(table.c.created_at)).scalars())

    def events(self, stream: UUID) -> list[tuple[str, str]]:
        with transaction(self.engine) as c:
            rows = c.execute(
                sa.select(event.c.kind, event.c.actor).where(event.c.stream == stream).order_by(event.c.seq)
            )
            return [(row.kind, row.actor) for row in rows]

    def sealing(self) -> UUID:
        """A row that a process left when it died between its first commit and Vault's answer."""
        died = Custody(self.store, Dying(), self.vault, self.clock)
        with pytest.raises(KeyboardInterrupt):
            died.add(ADA, SECRET, name=f"died {uuid4()}")
        return self.ids()[-1]


class Dying:
    """A sealer in whose midst the process is killed."""

    def seal(self, *_: object) -> int:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def engine(database: servers.Database) -> Iterator[sa.Engine]:
    made = make_engine(database.url)
    yield made
    made.dispose()


@pytest.fixture
def house(engine: sa.Engine, database: servers.Database) -> House:
    owner = make_engine(database.admin_url)
    with owner.begin() as c:  # the application itself may delete nothing
        c.execute(sa.text("DELETE FROM push"))
        c.execute(sa.text("DELETE FROM credential"))
    owner.dispose()
    return House(engine)


def refused(act: Any, *args: Any, **options: Any) -> tuple[Code, str]:
    with pytest.raises(CloudPushError) as caught:
        act(*args, **options)
    return caught.value.code, caught.value.field


def test_states_and_their_names_in_the_database_agree() -> None:
    """Python's states, the transition table and the column's constraint are one list."""
    assert (CREDENTIAL_STATES, set(CREDENTIAL_TRANSITIONS)) == (tuple(CredentialState), set(CredentialState))


def test_added_credential_is_active_and_recorded(house: House) -> None:
    """Metadata in Postgres, the secret in Vault, two events; the 30 days after expiry are the policy."""
    expires = house.clock.now() + DAY

    added = house.add(profile="minio", expires_at=expires)

    assert added == Credential(
        id=added.id,
        owner="ada",
        kind="access_key",
        name="lab",
        profile="minio",
        endpoint="https://s3.example.org",
        state=CredentialState.ACTIVE,
        created_at=house.clock.now(),
        created_by="ada",
        expires_at=expires,
        purge_after=expires + 30 * DAY,
        transit_key_version=1,
    )
    assert (house.custody.show(ADA, added.id), house.events(added.id), [*house.vault.stored]) == (
        Credential(**{f: getattr(added, f) for f in added.__dataclass_fields__ if f != "use"}, use=Use(count=0)),
        [("credential.sealing", "ada"), ("credential.created", "ada")],
        [added.id],
    )


def test_nothing_of_the_secret_reaches_postgres(house: House) -> None:
    """Rows and events of a whole life hold no byte of it."""
    added = house.add()
    house.custody.rotate(OPERATOR)
    house.custody.purge(ADA, added.id)

    with transaction(house.engine) as c:
        rows = [str(row) for t in ("credential", "event") for row in c.execute(sa.text(f"SELECT * FROM {t}"))]

    assert (len(rows) > 4, [row for row in rows if "canary" in row.lower()]) == (True, [])


def test_operator_may_add_for_somebody_else(house: House) -> None:
    """The owner is who may use it, the creator who brought it; nobody else may choose an owner."""
    added = house.custody.add(OPERATOR, SECRET, name="lab", owner="ada")

    assert (added.owner, added.created_by, refused(house.custody.add, EVE, SECRET, name="x", owner="ada")) == (
        "ada",
        "olga",
        (Code.NOT_OWNER, "owner"),
    )


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"name": ""}, Code.BAD_INPUT, "name"),
        ({"name": "a\nb"}, Code.BAD_INPUT, "name"),
        ({"name": "x" * 201}, Code.BAD_INPUT, "name"),
        ({"name": "no text: \udcff"}, Code.BAD_INPUT, "name"),
        ({"profile": "a\x00"}, Code.BAD_INPUT, "profile"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, Code.BAD_INPUT, "expires"),
        ({"purge_after": datetime(2020, 1, 1, tzinfo=UTC)}, Code.BAD_INPUT, "purge_after"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_anything_is_stored(
    house: House, options: dict[str, Any], code: Code, field: str
) -> None:
    """No row, no event, nothing in Vault."""
    assert (refused(house.add, **options), house.ids(), house.vault.stored) == ((code, field), [], {})


def test_endpoint_that_users_may_not_name_is_refused(house: House) -> None:
    """A private address is refused at the door, unless the operator listed it."""
    private = parse("access_key", {**SECRET.reveal(), "endpoint": "http://127.0.0.1:8333"})
    listed = Custody(house.store, house.vault, house.vault, house.clock, allowed=("127.0.0.1:8333",))

    code, _ = refused(house.custody.add, ADA, private, name="lab")

    assert (code, listed.add(ADA, private, name="lab").endpoint) == (Code.ENDPOINT_FORBIDDEN, "http://127.0.0.1:8333")


def test_name_is_unique_among_an_owners_live_credentials(house: House) -> None:
    """Another owner may use it at once, the same one after a purge."""
    first = house.add()
    taken = refused(house.add)
    other = house.custody.add(EVE, SECRET, name="lab")
    house.custody.purge(ADA, first.id)
    again = house.add()

    assert (taken, {c.id for c in house.custody.list(OPERATOR, everyone=True)}) == (
        (Code.BAD_INPUT, "name"),
        {other.id, again.id},
    )


def test_failed_seal_leaves_nothing_usable(house: House) -> None:
    """While Vault is away the row waits as purging; the sweep ends it once Vault is back. The name is free."""
    house.vault.go_away()
    code, _ = refused(house.add)
    [credential_id] = house.ids()
    waiting = house.state(credential_id)
    house.vault.come_back()
    purged = house.custody.purge_due()

    assert (code, waiting, purged, house.state(credential_id), house.add().state) == (
        Code.VAULT_UNREACHABLE,
        "purging",
        1,
        "purged",
        "active",
    )


def test_seal_that_died_half_way_is_purged_when_its_time_is_over(house: House) -> None:
    """A row left as sealing by a crash is nobody's: the sweep gives it time, then destroys it."""
    credential_id = house.sealing()
    early = house.custody.purge_due()
    house.clock.moment += SEALING_PATIENCE + timedelta(seconds=1)

    assert (early, house.custody.purge_due(), house.state(credential_id), house.events(credential_id)) == (
        0,
        1,
        "purged",
        [("credential.sealing", "ada"), ("credential.purging", "sweeper"), ("credential.purged", "sweeper")],
    )


def test_seal_that_comes_after_its_purge_leaves_nothing_in_vault(house: House) -> None:
    """A process that was suspended and seals after the sweep gave it up destroys what it just sealed."""

    def sweep_meanwhile() -> None:
        house.clock.moment += SEALING_PATIENCE + timedelta(seconds=1)
        house.custody.purge_due()

    house.vault.during["seal"] = sweep_meanwhile

    with pytest.raises(CredentialError) as caught:
        house.add()

    assert (caught.value.code, house.vault.stored, [house.state(i) for i in house.ids()]) == (
        Code.CREDENTIAL_PURGED,
        {},
        ["purged"],
    )


def test_only_the_owner_or_an_operator_sees_and_purges(house: House) -> None:
    """For anyone else it is not theirs; an unknown one is unknown to all."""
    added = house.add()
    custody, nobody = house.custody, uuid4()

    assert (
        [refused(act, EVE, added.id) for act in (custody.show, custody.purge)],
        [refused(act, OPERATOR, nobody) for act in (custody.show, custody.purge)],
        refused(custody.list, EVE, everyone=True),
        [c.id for c in custody.list(EVE)],
        custody.show(OPERATOR, added.id).id,
    ) == (
        [(Code.NOT_OWNER, "owner")] * 2,
        [(Code.UNKNOWN_CREDENTIAL, "credential")] * 2,
        (Code.NOT_OWNER, "everyone"),
        [],
        added.id,
    )


def test_purged_credential_keeps_its_metadata(house: House) -> None:
    """Gone from Vault and from the list, kept for the auditor; purging again changes nothing."""
    added = house.add()
    purged = house.custody.purge(ADA, added.id)
    again = house.custody.purge(ADA, added.id)

    assert (purged.state, purged.purged_at is not None, again, house.vault.stored) == ("purged", True, purged, {})
    assert (house.custody.list(ADA), [c.id for c in house.custody.list(ADA, purged=True)]) == ([], [added.id])
    assert house.events(added.id)[2:] == [("credential.purging", "ada"), ("credential.purged", "ada")]


def test_purge_that_vault_cannot_follow_bars_the_credential_at_once(house: House) -> None:
    """Its state says so from the first commit on; the sweep destroys it when Vault is back."""
    added = house.add()
    house.vault.go_away(Code.VAULT_SEALED)
    code, _ = refused(house.custody.purge, ADA, added.id)
    barred = house.state(added.id)
    house.vault.come_back()

    assert (code, barred, house.custody.purge_due(), house.state(added.id), house.vault.stored) == (
        Code.VAULT_SEALED,
        "purging",
        1,
        "purged",
        {},
    )


def test_sweep_destroys_what_is_due_and_notes_what_expired(house: House) -> None:
    """Expired first, once; destroyed thirty days later; one without dates stays."""
    kept = house.add("kept")
    mortal = house.add("mortal", expires_at=house.clock.now() + DAY)
    counts = []
    for step in (timedelta(0), 2 * DAY, DAY, 30 * DAY, DAY):
        house.clock.moment += step
        counts.append(house.custody.purge_due())

    assert (counts, house.state(kept.id), [kind for kind, _ in house.events(mortal.id)]) == (
        [0, 0, 0, 1, 0],
        "active",
        ["credential.sealing", "credential.created", "credential.expired", "credential.purging", "credential.purged"],
    )


def test_two_sweeps_at_once_record_each_step_once(house: House) -> None:
    """Expiry and purge are each one event, however many sweepers look at the same moment."""
    due = [
        house.add(f"n{i}", expires_at=house.clock.now() + DAY, purge_after=house.clock.now() + 2 * DAY)
        for i in range(5)
    ]
    house.clock.moment += 3 * DAY
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: house.custody.purge_due(), range(4)))

    assert {tuple(kind.partition(".")[2] for kind, _ in house.events(c.id)) for c in due} == {
        ("sealing", "created", "expired", "purging", "purged")
    }


def test_use_is_counted_from_the_events_of_pushes(house: House) -> None:
    """The last push and worker are shown; a list does not count."""
    added = house.add()
    pushes = [uuid4(), uuid4()]
    for push in pushes:
        with transaction(house.engine) as c:
            append_event(c, push, "credential.used", f"worker of {push}", {}, credential_id=added.id)

    shown, [listed] = house.custody.show(ADA, added.id).use, house.custody.list(ADA)

    assert (shown, listed.use) == (
        Use(2, shown.last_at, pushes[1], f"worker of {pushes[1]}"),
        Use(None, shown.last_at, pushes[1], f"worker of {pushes[1]}"),
    )


def test_rotation_rewraps_everything_and_retires_the_old_key(house: House) -> None:
    """Purged ones are passed over; the secrets open as before; each step is an event."""
    live = [house.add(f"n{i}") for i in range(3)]
    gone = house.add("gone")
    house.custody.purge(ADA, gone.id)

    done = house.custody.rotate(OPERATOR)

    assert (
        done,
        [house.vault.unseal(c.id, "ada", "access_key") for c in live],
        {house.custody.show(ADA, c.id).transit_key_version for c in live},
        house.events(live[0].id)[2:],
        house.events(VAULT_STREAM)[-2:],
    ) == (
        Rotation(version=2, rewrapped=3, failed=(), retired=True),
        [SECRET] * 3,
        {2},
        [("credential.rewrapped", "olga")],
        [("vault.key_rotated", "olga"), ("vault.key_retired", "olga")],
    )


def test_interrupted_rotation_is_resumed(house: House) -> None:
    """What was done is not done again, no further key version is made, and the old one is retired at the end."""
    live = [house.add(f"n{i}") for i in range(3)]
    house.vault.during["rewrap"] = lambda: house.vault.during.update(rewrap=house.vault.go_away)  # at the second
    stopped = refused(house.custody.rotate, OPERATOR)
    house.vault.come_back()
    late = house.add("late")

    done = house.custody.rotate(OPERATOR, resume=True)

    assert (stopped[0], done, [house.vault.unseal(c.id, "ada", "access_key") for c in (*live, late)]) == (
        Code.VAULT_UNREACHABLE,
        Rotation(version=2, rewrapped=2, failed=(), retired=True),
        [SECRET] * 4,
    )


def test_damaged_credential_is_reported_and_keeps_the_old_key_alive(house: House) -> None:
    """A rotation goes past it, names it and retires nothing."""
    damaged, sound = house.add("damaged"), house.add("sound")
    house.vault.stored[damaged.id]["wrapped"] = "vault:v1:QUJD"

    done = house.custody.rotate(OPERATOR)

    assert (done, house.vault.unseal(sound.id, "ada", "access_key")) == (
        Rotation(version=2, rewrapped=1, failed=(damaged.id,), retired=False),
        SECRET,
    )


def test_rotation_retires_nothing_while_somebody_adds_a_credential(house: House) -> None:
    """What is being sealed may have its data key from the old version already."""
    house.sealing()

    assert house.custody.rotate(OPERATOR) == Rotation(version=2, rewrapped=0, failed=(), retired=False)


def test_only_an_operator_rotates(house: House) -> None:
    """The key stays as it is."""
    assert (refused(house.custody.rotate, ADA), house.vault.newest()) == ((Code.NOT_OWNER, "operator"), 1)


def test_vault_error_of_a_seal_is_what_the_caller_sees(house: House) -> None:
    """Not the one of the clean-up that follows."""
    house.vault.during["seal"] = lambda: house.vault.go_away(Code.VAULT_SEALED)
    house.vault.during["purge"] = lambda: house.vault.go_away(Code.VAULT_DENIED)

    with pytest.raises(VaultError) as caught:
        house.add()

    assert caught.value.code is Code.VAULT_SEALED
