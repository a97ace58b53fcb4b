"""The schema: it comes and goes as a whole, and says what Python says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from psycopg.errors import CheckViolation, InsufficientPrivilege

from cloudpush.audit import integrity, migrate
from cloudpush.audit.database import make_engine
from cloudpush.audit.tables import CHORES, CREDENTIAL_STATES, GRANT_STATES, metadata
from cloudpush.errors import Code, StoreError
from cloudpush.push.credential import CredentialState
from cloudpush.push.grants.model import GRANT_TRANSITIONS, Chore, GrantState
from cloudpush.push.states import TRANSITIONS, FileState, State
from cloudpush.settings import Settings
from servers import Database, Databases


@pytest.fixture
def empty(databases: Databases) -> Iterator[Database]:
    """A database without tables."""
    made = databases.empty()
    yield made
    databases.drop(made)


@pytest.fixture(scope="module")
def owner(database: Database) -> Iterator[sa.Engine]:
    """The owner's way to a database at the newest schema."""
    engine = make_engine(database.admin_url)
    yield engine
    engine.dispose()


def settings_of(database: Database) -> Settings:
    return Settings(database_url=database.url, database_admin_url=database.admin_url)


def contents(url: str) -> list[str]:
    """What the public schema holds: tables, functions, triggers."""
    engine = make_engine(url)
    with engine.connect() as c:
        names = [str(name) for name in c.execute(sa.text(CONTENTS)).scalars()]
    engine.dispose()
    return names


def sources(url: str) -> list[str]:
    """The bodies of the functions."""
    engine = make_engine(url)
    with engine.connect() as c:
        query = "SELECT prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY proname"
        found = [str(body) for body in c.execute(sa.text(query)).scalars()]
    engine.dispose()
    return found


CONTENTS = """
    SELECT 'table ' || tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal
    ORDER BY 1
"""


def test_an_upgrade_brings_everything_and_may_be_repeated(empty: Database) -> None:
    """The second one finds nothing to do."""
    first = migrate.upgrade(settings_of(empty))
    after_first = contents(empty.admin_url)

    second = migrate.upgrade(settings_of(empty))

    assert (first, second, contents(empty.admin_url)) == (migrate.head(), migrate.head(), after_first)
    assert {f"table {name}" for name in metadata.tables} < set(after_first)


def test_a_downgrade_leaves_nothing_and_an_upgrade_brings_it_back(empty: Database) -> None:
    """Functions and triggers included."""
    migrate.upgrade(settings_of(empty))
    before = contents(empty.admin_url)
    engine = make_engine(empty.admin_url)
    with engine.begin() as c:
        command.downgrade(migrate._config(c), "base")
    engine.dispose()
    between = contents(empty.admin_url)

    migrate.upgrade(settings_of(empty))

    assert (between, contents(empty.admin_url)) == ([], before)


def test_a_step_back_takes_what_its_revision_brought(empty: Database) -> None:
    """Its functions are those of the revision before, whatever a later one made of them."""
    engine = make_engine(empty.admin_url)
    with engine.begin() as c:
        command.upgrade(migrate._config(c), "0002")
    before = contents(empty.admin_url), sources(empty.admin_url)
    migrate.upgrade(settings_of(empty))
    between = contents(empty.admin_url), sources(empty.admin_url)
    with engine.begin() as c:
        command.downgrade(migrate._config(c), "0002")
    engine.dispose()

    assert (before == between, (contents(empty.admin_url), sources(empty.admin_url)) == before) == (False, True)


def test_an_upgrade_moves_what_is_there_into_months(empty: Database) -> None:
    """Events and files of a database at the revision before, whatever month they are of: none is lost, each chain holds."""
    engine = make_engine(empty.admin_url)
    with engine.begin() as c:
        command.upgrade(migrate._config(c), "0006")
        for statement in BEFORE_MONTHS:
            c.exec_driver_sql(statement)
        before = [c.execute(sa.text(query)).all() for query in SURVIVORS]
    migrate.upgrade(settings_of(empty))

    with engine.begin() as c:
        after = [c.execute(sa.text(query)).all() for query in SURVIVORS]
        months = "SELECT tableoid::regclass::text AS month, count(*) AS n FROM {} GROUP BY 1"
        events = {row.month: row.n for row in c.execute(sa.text(months.format("event")))}
        files = {row.month: row.n for row in c.execute(sa.text(months.format("file")))}
        c.exec_driver_sql("SELECT cloudpush_append(md5('1')::uuid, 'x', '{push.claimed}', '{NULL}', '{1}')")
        newest = c.execute(sa.text("SELECT id, seq FROM event WHERE content IS NOT NULL")).one()
    faults = {fault.what for fault in integrity.verify(engine).faults}
    engine.dispose()

    assert (before == after, newest) == (True, (25, 9))
    assert {name for name in events if re.fullmatch(r"event_2026_0[1-3]", name)} == {
        "event_2026_01",
        "event_2026_02",
        "event_2026_03",
    }
    assert (sum(events.values()), files) == (24, {"file_2026_02": 5, "file_default": 5})
    assert not {what for what in faults if "edited" in what or "missing" in what or "follow" in what or "head" in what}


def test_months_are_made_ahead_but_not_where_rows_are_in_the_way(empty: Database) -> None:
    """Rows of a month that nobody made lie in the default partition; that month stays there, the others are made."""
    migrate.upgrade(settings_of(empty))
    engine = make_engine(empty.admin_url)
    with engine.begin() as c:
        at = c.execute(sa.text("SELECT date_trunc('month', now()) + interval '8 months 3 days'")).scalar_one()
        c.execute(sa.text(LATER), {"at": at})

        made = [c.execute(sa.text("SELECT cloudpush_make_partitions(9)")).scalar_one() for _ in range(2)]

        where = c.execute(sa.text("SELECT tableoid::regclass::text FROM event")).scalars().all()
        rights = c.execute(sa.text(RIGHTS)).scalars().all()
    engine.dispose()

    # Of months 7, 8 and 9 ahead: events without the eighth, files of all three.
    assert (made, list(where), list(rights)) == ([5, 0], ["event_default"], [])


LATER = """
    INSERT INTO event (stream, seq, at, kind, actor, data, prev, hash)
    VALUES (gen_random_uuid(), 1, :at, 'push.queued', 'x', '{}', '', '')
"""
RIGHTS = """
    SELECT relname FROM pg_class
    WHERE relispartition AND relkind = 'r' AND has_table_privilege('cloudpush_app', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
"""

BEFORE_MONTHS = (
    """SELECT cloudpush_append(md5(s::text)::uuid, 'x', '{push.claimed}', '{NULL}', ARRAY['{"a": 1}'])
        FROM generate_series(1, 3) s, generate_series(1, 8) n""",
    # As if they had been written then: rehashed in order, so that the chains hold.
    "ALTER TABLE event DISABLE TRIGGER USER",
    """DO $$ DECLARE e event; link bytea; BEGIN
        FOR e IN SELECT * FROM event ORDER BY stream, seq LOOP
            link := CASE e.seq WHEN 1 THEN sha256(convert_to(e.stream::text, 'UTF8')) ELSE link END;
            e.at := '2026-01-15'::timestamptz + make_interval(days => 10 * (e.seq - 1));
            UPDATE event SET at = e.at, prev = link, hash = cloudpush_event_hash(
                link, e.stream, e.seq, e.at, e.kind, e.actor, e.credential_id, e.data::text)
                WHERE stream = e.stream AND seq = e.seq RETURNING hash INTO link;
            UPDATE chain SET hash = link WHERE stream = e.stream;
        END LOOP; END $$""",
    "ALTER TABLE event ENABLE TRIGGER USER",
    # A UUIDv7 of February 2026, and an id of another kind.
    "INSERT INTO credential (id, owner, kind, name, state, created_by) VALUES (md5('c')::uuid, 'o', 'k', 'n', 'active', 'o')",
    """INSERT INTO push (id, owner, actor, request_sha256, source, uri, bucket, prefix, profile, credential_id,
        credential_kind, min_strength, overwrite, state, created_at)
        SELECT id, 'o', 'o', '', '/s', 's3://b', 'b', '', 'aws', md5('c')::uuid, 'k', 'size', 'never', 'queued', '2026-02-10'
        FROM unnest('{019c454f-2400-7000-8000-000000000001,fedcba98-0000-4000-8000-000000000001}'::uuid[]) AS id""",
    """INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state)
        SELECT id, n, 'p' || n, 'k', 1, 1, 'planned' FROM push, generate_series(1, 5) n""",
)
SURVIVORS = (
    "SELECT id, stream, seq, at, kind, actor, credential_id, data::text, prev, hash FROM event ORDER BY id",
    "SELECT * FROM file ORDER BY push_id, seq",
    "SELECT * FROM chain ORDER BY stream",
)


def test_two_upgrades_at_once_make_one_schema(empty: Database) -> None:
    """Of two processes the second waits for the first."""
    script = "from cloudpush.audit.migrate import upgrade; from cloudpush.settings import read_settings; "
    script += "print(upgrade(read_settings()))"
    env = {"CLOUDPUSH_DATABASE_ADMIN_URL": empty.admin_url, "PYTHONPATH": os.pathsep.join(sys.path)}
    upgrades = [
        subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]

    heads = [upgrade.communicate(timeout=60)[0].strip() for upgrade in upgrades]

    assert heads == [migrate.head()] * 2


def test_the_schema_is_the_one_in_the_code(owner: sa.Engine) -> None:
    """Tables, columns, types and indices: no drift."""
    with owner.connect() as c:
        assert (migrate.drift(c), migrate.level(c)) == ([], migrate.head())


def test_drift_is_noticed(empty: Database) -> None:
    """A column that somebody added by hand."""
    migrate.upgrade(settings_of(empty))
    engine = make_engine(empty.admin_url)
    with engine.begin() as c:
        c.execute(sa.text("ALTER TABLE push ADD COLUMN surprise text"))
        c.execute(sa.text("DROP INDEX ix_push_queued"))

        found = migrate.drift(c)
    engine.dispose()

    assert {str(change[0]) for change in found} == {"remove_column", "add_index"}


def test_a_database_without_tables_has_no_level(empty: Database) -> None:
    """That is how `doctor` knows it was never upgraded."""
    engine = make_engine(empty.admin_url)
    with engine.connect() as c:
        assert migrate.level(c) is None
    engine.dispose()


def test_a_role_that_may_not_create_tables_is_told(empty: Database) -> None:
    """The application's own role cannot upgrade."""
    with pytest.raises(StoreError) as caught:
        migrate.upgrade(Settings(database_url=empty.url))

    assert (caught.value.code, "permission denied" in caught.value.message) == (Code.DATABASE_SCHEMA, True)


def test_a_database_that_is_not_there_is_told(empty: Database) -> None:
    """One line, without the URL."""
    url = empty.admin_url.replace(empty.name, "nowhere")

    with pytest.raises(StoreError) as caught:
        migrate.upgrade(Settings(database_url=url))

    assert (caught.value.code, '"nowhere" does not exist' in caught.value.message) == (Code.DATABASE_UNREACHABLE, True)


def test_a_database_of_an_older_schema_is_told(empty: Database) -> None:
    """Whoever asks hears which command mends it."""
    from cloudpush.audit.history import Filter, History

    engine = make_engine(empty.url)
    with pytest.raises(StoreError) as caught:
        History(engine).pushes(Filter())
    engine.dispose()

    assert (caught.value.code, "cloudpush db upgrade" in caught.value.message) == (Code.DATABASE_SCHEMA, True)


# -- states and constraints ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def push_id(owner: sa.Engine) -> str:
    """A push that the probes copy."""
    made = str(uuid4())
    with owner.begin() as c:
        c.execute(sa.text(A_CREDENTIAL), {"id": made})
        c.execute(sa.text(A_PUSH), {"id": made, "credential": made, "state": "queued"})
    return made


A_CREDENTIAL = """
    INSERT INTO credential (id, owner, kind, name, state, created_by) VALUES (:id, 'o', 'access_key', 'probe', 'active', 'o')
"""
A_PUSH = """
    INSERT INTO push (id, owner, actor, request_sha256, source, uri, bucket, prefix, profile, credential_id,
                      credential_kind, min_strength, overwrite, state, finished_at)
    VALUES (:id, 'o', 'o', '\\x00', '/s', 's3://bucket', 'bucket', '', 'aws', :credential, 'access_key', 'checksum',
            'never', :state, CASE WHEN CAST(:state AS text) IN ('succeeded', 'unverified', 'failed', 'cancelled') THEN now() END)
"""
A_PART = """
    INSERT INTO part (push_id, number, first_seq, last_seq, files, bytes, state, lease_token)
    VALUES (:push, 1, 1, 1, 1, 1, :state, CASE WHEN CAST(:state AS text) = 'running' THEN gen_random_uuid() END)
"""
MOVE_PUSH = """
    UPDATE push SET state = :to,
        finished_at = CASE WHEN CAST(:to AS text) IN ('succeeded', 'unverified', 'failed', 'cancelled') THEN now() END
    WHERE id = :id
"""
MOVE_PART = """
    UPDATE part SET state = :to, lease_token = CASE WHEN CAST(:to AS text) = 'running' THEN gen_random_uuid() END
    WHERE push_id = :id
"""

A_SEALING = """
    INSERT INTO credential (id, owner, kind, name, state, created_by) VALUES (:id, 'o', 'oauth_grant', 'a grant', 'sealing', 'o')
"""
A_GRANT = "INSERT INTO oauth_grant (credential_id, provider, state) VALUES (:id, 'mock', :state)"
MOVE_GRANT = "UPDATE oauth_grant SET state = :to WHERE credential_id = :id"

MOVES = [(a, b) for a, b in product(State, State) if a is not b]


def accepted(c: sa.Connection, statement: str, **values: object) -> bool:
    """Whether the database takes it; nothing of it stays."""
    point = c.begin_nested()
    try:
        c.execute(sa.text(statement), values)
    except sa.exc.DBAPIError as e:
        if not isinstance(e.orig, CheckViolation | InsufficientPrivilege):
            raise
        return False
    else:
        return True
    finally:
        point.rollback()


def test_pushes_move_in_the_database_as_in_python(owner: sa.Engine, push_id: str) -> None:
    """Every pair of states, asked of the real trigger."""
    allowed = set()
    with owner.connect() as c:
        for a, b in MOVES:
            point, probe = c.begin_nested(), str(uuid4())
            c.execute(sa.text(A_PUSH), {"id": probe, "credential": push_id, "state": a.value})
            if accepted(c, MOVE_PUSH, id=probe, to=b.value):
                allowed.add((a, b))
            point.rollback()

    assert allowed == {(a, b) for a in State for b in TRANSITIONS[a]}


def test_parts_move_in_the_database_as_in_python(owner: sa.Engine, push_id: str) -> None:
    """Likewise."""
    allowed = set()
    with owner.connect() as c:
        for a, b in MOVES:
            point = c.begin_nested()
            c.execute(sa.text(A_PART), {"push": push_id, "state": a.value})
            if accepted(c, MOVE_PART, id=push_id, to=b.value):
                allowed.add((a, b))
            point.rollback()

    assert allowed == {(a, b) for a in State for b in TRANSITIONS[a]}


def test_grants_move_in_the_database_as_in_python(owner: sa.Engine) -> None:
    """Likewise."""
    allowed = set()
    with owner.connect() as c:
        for a, b in product(GrantState, GrantState):
            point, probe = c.begin_nested(), str(uuid4())
            c.execute(sa.text(A_SEALING), {"id": probe})
            c.execute(sa.text(A_GRANT), {"id": probe, "state": a.value})
            if a is not b and accepted(c, MOVE_GRANT, id=probe, to=b.value):
                allowed.add((a, b))
            point.rollback()

    assert allowed == {(a, b) for a in GrantState for b in GRANT_TRANSITIONS[a]}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("push", {s.value for s in State}),
        ("part", {s.value for s in State}),
        ("file", {s.value for s in FileState}),
        ("credential", {s.value for s in CredentialState}),
        ("credential", set(CREDENTIAL_STATES)),
        ("oauth_grant", {s.value for s in GrantState}),
        ("oauth_grant", set(GRANT_STATES)),
        ("chore", {c.value for c in Chore}),
        ("chore", set(CHORES)),
    ],
)
def test_constraints_hold_exactly_the_words_of_the_enums(owner: sa.Engine, table: str, words: set[str]) -> None:
    """No state more, none less."""
    with owner.connect() as c:
        row = {"name": f"ck_{table}_{'kind' if table == 'chore' else 'state'}"}
        rule = c.execute(sa.text(RULE), row)

    assert set(re.findall(r"'(\w+)'::text", str(rule.scalar_one()))) == words


# Partitions have their table's constraints under the same names.
RULE = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name AND coninhcount = 0"


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("UPDATE push SET state = 'done' WHERE id = :id", id="a word that is no state"),
        pytest.param("UPDATE push SET lease_token = gen_random_uuid() WHERE id = :id", id="a lease without an end"),
        pytest.param("UPDATE push SET finished_at = now() WHERE id = :id", id="finished in a state that is not final"),
        pytest.param("UPDATE push SET state = 'cancelled' WHERE id = :id", id="final without a time"),
        pytest.param(
            "INSERT INTO part (push_id, number, first_seq, last_seq, files, bytes, state) "
            "VALUES (:id, 1, 1, 1, 1, 1, 'running')",
            id="a part that runs without a lease",
        ),
        pytest.param(
            "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state) VALUES (:id, 1, 'p', 'k', 1, 1, 'fine')",
            id="a word that is no file state",
        ),
        pytest.param(
            "INSERT INTO sheet (credential_id, number, first_seq, last_seq, block, blocks) VALUES (:id, 1, 2, 1, 1, 1)",
            id="a sheet that ends before it begins",
        ),
        pytest.param(
            "INSERT INTO sheet (credential_id, number, first_seq, last_seq, block, blocks) VALUES (:id, 1, 1, 1, 2, 1)",
            id="a block that its sheet does not have",
        ),
    ],
)
def test_rows_that_make_no_sense_are_refused(owner: sa.Engine, push_id: str, statement: str) -> None:
    """Whoever writes them."""
    with owner.connect() as c, pytest.raises(sa.exc.IntegrityError) as caught:
        c.execute(sa.text(statement), {"id": push_id})

    assert isinstance(caught.value.orig, CheckViolation)
