"""What the application's own role may not do, and what nobody may."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from builders import a_destination, a_request
from cloudpush.audit import integrity
from cloudpush.audit.database import append_event
from cloudpush.audit.grants import GrantBook
from cloudpush.push.admission import CredentialCard
from cloudpush.push.grants.model import Grant
from cloudpush.push.states import Event
from grant_builders import a_grant, a_share, its_credential, some_tokens
from records import Record
from servers import Database


@pytest.fixture(scope="module")
def record(database: Database) -> Iterator[Record]:
    """A database with what the application does in it."""
    made = Record(database)
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(record: Record) -> sa.Engine:
    """The application's way to the database."""
    return record.app


@pytest.fixture(scope="module")
def owner(record: Record) -> sa.Engine:
    """The owner's."""
    return record.owner


@pytest.fixture(scope="module")
def running(record: Record) -> UUID:
    """A push whose plan is complete, in the middle of its only part."""
    return record.running().id


@pytest.fixture(scope="module")
def finished(record: Record) -> UUID:
    """A push that has succeeded."""
    return record.finished()


@pytest.fixture(scope="module")
def renewed(record: Record) -> UUID:
    """A push that was given fresh URLs."""
    push_id = record.submitted_signed()
    record.desk.resign(push_id, record.set().id, "portal", 2)
    return push_id


def refusal(engine: sa.Engine, statement: str, **values: object) -> str | None:
    """The database's word of refusal, or None where it went through; nothing of it stays."""
    with engine.connect() as c:
        try:
            c.execute(sa.text(statement), values)
        except DBAPIError as e:
            return str(e.orig).partition("\n")[0]
        finally:
            c.rollback()
    return None


FORBIDDEN = [
    "UPDATE event SET actor = 'somebody else'",
    "DELETE FROM event",
    "TRUNCATE event",
    "INSERT INTO event OVERRIDING SYSTEM VALUE SELECT * FROM event",
    "UPDATE chain SET seq = 0",
    "DELETE FROM chain",
    "TRUNCATE chain",
    "INSERT INTO chain (stream, seq, hash) VALUES (gen_random_uuid(), 0, '')",
    "DELETE FROM push",
    "TRUNCATE push CASCADE",
    "TRUNCATE part",
    "TRUNCATE file",
    "DELETE FROM credential",
    "ALTER TABLE event DISABLE TRIGGER append_only",
    "ALTER TABLE event DISABLE TRIGGER ALL",
    "ALTER TABLE push DISABLE TRIGGER transition",
    "DROP TRIGGER append_only ON event",
    "DROP TABLE event",
    "SET session_replication_role = replica",
    "CREATE TABLE mine (a int)",
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION cloudpush_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE SCHEMA mine",
    "SET ROLE cloudpush_owner",
    "UPDATE alembic_version SET version_num = '0001'",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_application_may_not(app: sa.Engine, finished: UUID, statement: str) -> None:
    """Not a line of the record can be edited by whoever took the worker over."""
    word = refusal(app, statement)

    assert word is not None
    assert any(w in word for w in ("permission denied", "must be owner", "is refused")), word


@pytest.mark.parametrize(
    "column",
    ["owner", "actor", "source", "uri", "bucket", "profile", "credential_kind", "min_strength", "overwrite"],
)
def test_the_application_may_not_rewrite_what_was_asked_for(app: sa.Engine, running: UUID, column: str) -> None:
    """Only where a push stands changes."""
    word = refusal(app, f"UPDATE push SET {column} = 'else' WHERE id = :id", id=running)

    assert word == "permission denied for table push"


@pytest.mark.parametrize("column", ["hook_id", "manifest_sha256", "credential_id"])
def test_the_application_may_not_rewrite_whose_urls_a_push_uses(app: sa.Engine, running: UUID, column: str) -> None:
    """Further sets are appended, the first one and the hook stay."""
    word = refusal(app, f"UPDATE push SET {column} = NULL WHERE id = :id", id=running)

    assert word == "permission denied for table push"


@pytest.mark.parametrize("statement", ["UPDATE renewal SET files = 0", "DELETE FROM renewal", "TRUNCATE renewal"])
def test_renewals_are_only_appended(app: sa.Engine, owner: sa.Engine, renewed: UUID, statement: str) -> None:
    """By the application, and by the owner too."""
    verb = statement.split(maxsplit=1)[0]

    assert (refusal(app, statement), refusal(owner, statement)) == (
        "permission denied for table renewal",
        f"table renewal is append-only: {verb} is refused",
    )


def _misfit(record: Record, which: str) -> CredentialCard:
    match which:
        case "another owner's":
            return record.set("mallory")
        case "of another server":
            return record.set(endpoint="https://elsewhere.example")
        case "a key":
            return record.credential()
        case "another push's":
            card = record.set()
            record.desk.store_signed(a_request(), card, a_destination(), bytes(32))
            return card
        case _:
            return record.set()


@pytest.mark.parametrize(
    "which", ["another owner's", "of another server", "a key", "another push's", "for a push that is over"]
)
def test_the_application_may_not_give_a_push_a_set_that_is_not_its_own(
    app: sa.Engine, record: Record, finished: UUID, which: str
) -> None:
    """A worker would unseal and use it at once."""
    push_id = record.submitted_signed()
    card = _misfit(record, which)
    target = finished if which == "for a push that is over" else push_id

    word = refusal(
        app,
        "INSERT INTO renewal (push_id, number, credential_id, at, actor, files) VALUES (:push, 7, :set, now(), 'x', 1)",
        push=target,
        set=card.id,
    )

    assert word == f"set {card.id} is none that push {target} may go on with"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sheet SET credential_id = gen_random_uuid()",
        "UPDATE sheet SET first_seq = 1",
        "DELETE FROM sheet",
        "TRUNCATE sheet",
        "TRUNCATE piece",
    ],
)
def test_where_sheets_lie_is_kept(app: sa.Engine, statement: str) -> None:
    """Otherwise what lies in Vault could be forgotten there."""
    word = refusal(app, statement)

    assert word == f"permission denied for table {'piece' if 'piece' in statement else 'sheet'}"


def test_the_application_cannot_keep_sets_beyond_their_push(record: Record, app: sa.Engine) -> None:
    """Temporary tables of the same names do not mislead the trigger that ends them."""
    push_id = record.submitted_signed()
    with app.connect() as c:
        for table in ("credential", "renewal", "piece"):
            c.execute(sa.text(f"CREATE TEMP TABLE {table} AS SELECT * FROM public.{table} WITH NO DATA"))
        c.commit()
        statement = "UPDATE public.push SET state = 'cancelled', finished_at = now() WHERE id = :id"
        c.execute(sa.text(statement), {"id": push_id})
        c.commit()
        due = c.execute(
            sa.text(
                "SELECT purge_after <= clock_timestamp() FROM public.credential "
                "WHERE id = (SELECT credential_id FROM public.push WHERE id = :id)"
            ),
            {"id": push_id},
        ).scalar_one()
        c.execute(sa.text("DISCARD TEMP"))
        c.commit()
    record.tamper(
        "DELETE FROM push WHERE id = :id",
        "DELETE FROM event WHERE stream = :id",
        "DELETE FROM chain WHERE stream = :id",
        id=push_id,
    )

    assert due is True


@pytest.mark.parametrize("column", ["path", "key", "size", "mtime_ns"])
def test_the_application_may_not_rewrite_what_was_planned(app: sa.Engine, running: UUID, column: str) -> None:
    """Only what became of a file changes."""
    word = refusal(app, f"UPDATE file SET {column} = NULL WHERE push_id = :id", id=running)

    assert word == "permission denied for table file"


@pytest.mark.parametrize("table", ["part", "file"])
def test_a_complete_plan_is_kept(app: sa.Engine, owner: sa.Engine, running: UUID, table: str) -> None:
    """By the application and by the owner."""
    words = {refusal(e, f"DELETE FROM {table} WHERE push_id = :id", id=running) for e in (app, owner)}

    assert {_whole(word) for word in words} == {f"rows of a complete plan are kept: DELETE on {table} is refused"}


def _whole(word: str | None) -> str:
    """The refusal of a month's partition, as that of its table."""
    return re.sub(r"\b(event|file)_(?:\d{4}_\d{2}|default)\b", r"\1", word or "")


def test_a_plan_cannot_be_made_incomplete_again(app: sa.Engine, running: UUID) -> None:
    """Otherwise its rows could be deleted after all."""
    word = refusal(app, "UPDATE push SET planned_at = NULL WHERE id = :id", id=running)

    assert word == f"push {running} is over or its plan complete: this UPDATE is refused"


@pytest.mark.parametrize(
    "change", ["files_failed = 0", "error_code = 'X'", "uploaded_at = now()", "strength = 'reread'"]
)
def test_a_push_that_is_over_is_kept(app: sa.Engine, owner: sa.Engine, finished: UUID, change: str) -> None:
    """By the application and by the owner."""
    words = {refusal(e, f"UPDATE push SET {change} WHERE id = :id", id=finished) for e in (app, owner)}

    assert words == {f"push {finished} is over or its plan complete: this UPDATE is refused"}


@pytest.mark.parametrize("statement", ["UPDATE event SET actor = 'x'", "DELETE FROM event", "TRUNCATE event"])
def test_not_even_the_owner_edits_events(owner: sa.Engine, finished: UUID, statement: str) -> None:
    """Without taking the triggers away first, which is a deed of its own."""
    word = refusal(owner, statement)

    assert _whole(word) == f"table event is append-only: {statement.split(maxsplit=1)[0]} is refused"


@pytest.mark.parametrize("parent", ["event", "file"])
@pytest.mark.parametrize(
    "statement", ["SELECT * FROM {}", "DELETE FROM {}", "TRUNCATE {}", "INSERT INTO {} DEFAULT VALUES"]
)
def test_a_month_is_no_way_round(app: sa.Engine, finished: UUID, parent: str, statement: str) -> None:
    """What the application may not do to a table it may not do to its partitions, and there is no other way to them."""
    with app.connect() as c:
        months = c.execute(
            sa.text(f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{parent}'::regclass")
        )
        names = list(months.scalars())

    words = {name: refusal(app, statement.format(name)) for name in names}

    assert (words, len(names) > 7) == ({name: f"permission denied for table {name}" for name in names}, True)


@pytest.mark.parametrize("statement", ["TRUNCATE", "DELETE FROM"])
def test_not_even_the_owner_edits_a_month_of_events(owner: sa.Engine, finished: UUID, statement: str) -> None:
    """By its own name."""
    with owner.connect() as c:
        month = c.execute(sa.text("SELECT DISTINCT tableoid::regclass::text FROM event")).scalars().first()

    word = refusal(owner, f"{statement} {month}")

    assert word == f"table {month} is append-only: {statement.split(maxsplit=1)[0]} is refused"


def test_the_application_makes_months_and_cannot_choose_them(app: sa.Engine) -> None:
    """The sweeper asks for so many ahead; which, the database says."""
    words = [
        refusal(app, "SELECT cloudpush_make_partitions(1)"),
        refusal(app, "SELECT cloudpush_make_partition('event', '1999-01-01')"),
    ]

    assert words == [None, "permission denied for function cloudpush_make_partition"]


def test_the_application_cannot_put_its_own_tables_in_the_way(app: sa.Engine) -> None:
    """Temporary tables of the same names: the event goes into the real chain all the same."""
    stream = uuid4()
    with app.connect() as c:
        c.execute(sa.text("CREATE TEMP TABLE chain (stream uuid PRIMARY KEY, seq integer, hash bytea)"))
        c.execute(
            sa.text(
                "CREATE TEMP TABLE event (stream uuid, seq integer, at timestamptz, kind text, actor text, "
                "credential_id uuid, data json, prev bytea, hash bytea)"
            )
        )
        c.commit()
        append_event(c, stream, Event.PUSH_CLAIMED, "worker-1")
        c.commit()
        told = c.execute(sa.text("SELECT count(*) FROM public.event WHERE stream = :s"), {"s": stream}).scalar_one()
        c.execute(sa.text("DISCARD TEMP"))
        c.commit()

    assert told == 1


# -- consent -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def book(record: Record) -> GrantBook:
    """The store of grants."""
    return GrantBook(record.app)


@pytest.fixture(scope="module")
def grant(book: GrantBook) -> Grant:
    """A grant with two generations, shared with `pipeline` below s3://results/runs."""
    made = a_grant(settings={"account": "lab"})
    book.add(its_credential(made), made, None, "ada")
    book.activate(made.id, 1, "ada")
    _, number = book.start_refresh(made, "worker-1")
    book.finish_refresh(made, number, 1, some_tokens(), "worker-1")
    book.share(a_share(made.id, until=datetime(2999, 1, 1, tzinfo=UTC)), "ada")
    return made


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE oauth_grant SET provider = 'other' WHERE credential_id = :id",
        "UPDATE oauth_grant SET credential_id = gen_random_uuid() WHERE credential_id = :id",
        "UPDATE oauth_grant SET subject = 'mallory' WHERE credential_id = :id",
        "UPDATE oauth_grant SET settings = '{}' WHERE credential_id = :id",
        "UPDATE oauth_grant SET asked = '{}' WHERE credential_id = :id",
        "DELETE FROM oauth_grant WHERE credential_id = :id",
        "UPDATE share SET principal = 'mallory' WHERE credential_id = :id",
        "UPDATE share SET uri = 's3://results' WHERE credential_id = :id",
        "UPDATE share SET credential_id = gen_random_uuid() WHERE credential_id = :id",
        "DELETE FROM share WHERE credential_id = :id",
        "UPDATE credential SET owner = 'mallory' WHERE id = :id",
        "UPDATE credential SET kind = 'access_key' WHERE id = :id",
        "UPDATE credential SET name = 'x', endpoint = 'https://mallory.example' WHERE id = :id",
        "UPDATE consent_attempt SET owner = 'mallory' WHERE id = :id",
        "UPDATE consent_attempt SET session_sha256 = '' WHERE id = :id",
        "UPDATE consent_attempt SET expires_at = 'infinity' WHERE id = :id",
        "UPDATE chore SET kind = 'revoke' WHERE credential_id = :id",
    ],
)
def test_the_application_may_not_rewrite_what_a_consent_gave(app: sa.Engine, grant: Grant, statement: str) -> None:
    """Nor to whom, nor where."""
    word = refusal(app, statement, id=grant.id)

    assert word is not None
    assert word.startswith("permission denied for table")


@pytest.mark.parametrize("change", ["owner = 'mallory'", "kind = 'access_key'", "endpoint = 'https://x.example'"])
def test_not_even_the_owner_gives_a_grant_to_somebody_else(owner: sa.Engine, grant: Grant, change: str) -> None:
    """Without taking the trigger away first."""
    word = refusal(owner, f"UPDATE credential SET {change} WHERE id = :id", id=grant.id)

    assert word == f"grant {grant.id} belongs to whom it was given by: this UPDATE is refused"


def test_another_credential_does_not_become_a_grant(owner: sa.Engine, record: Record) -> None:
    """Its secret would be taken for tokens."""
    card = record.credential()

    word = refusal(owner, "UPDATE credential SET kind = 'oauth_grant' WHERE id = :id", id=card.id)

    assert word == f"grant {card.id} belongs to whom it was given by: this UPDATE is refused"


def test_a_credential_that_is_in_use_does_not_become_a_grant(app: sa.Engine, record: Record, grant: Grant) -> None:
    """A grant's row comes with its credential, before anything is sealed."""
    keys, active = record.credential(), record.credential(kind="oauth_grant")
    statement = "INSERT INTO oauth_grant (credential_id, provider, state) VALUES (:id, 'mock', 'active')"

    words = [refusal(app, statement, id=card.id) for card in (keys, active)]

    assert words == [f"credential {card.id} is none that a consent gave just now" for card in (keys, active)]


def test_a_generation_does_not_go_back(app: sa.Engine, grant: Grant) -> None:
    """Tokens that were replaced are spent."""
    word = refusal(app, "UPDATE oauth_grant SET generation = 1 WHERE credential_id = :id", id=grant.id)

    assert word == f"the generation of grant {grant.id} cannot go back from 3 to 1"


def test_a_share_that_has_ended_does_not_begin_again(app: sa.Engine, book: GrantBook, grant: Grant) -> None:
    """Another is made, which is another event."""
    share = a_share(grant.id, until=datetime(2999, 1, 1, tzinfo=UTC))
    book.share(share, "ada")
    book.unshare(share.id, "ada", "ada")

    words = {
        refusal(app, f"UPDATE share SET {c} WHERE id = :id", id=share.id) for c in ("ended_at = NULL", "until = now()")
    }

    assert words == {f"share {share.id} has ended: this UPDATE is refused"}


def test_a_grant_that_is_over_is_not_shared(app: sa.Engine, record: Record, book: GrantBook) -> None:
    """Whoever inserts."""
    made, card = a_grant(), record.credential()
    book.add(its_credential(made), made, None, "ada")
    book.activate(made.id, 1, "ada")
    book.revoke(made.id, "ada")
    statement = (
        "INSERT INTO share (id, credential_id, principal, uri, until, created_by) "
        "VALUES (gen_random_uuid(), :id, 'p', 's3://b', now(), 'ada')"
    )

    words = [refusal(app, statement, id=i) for i in (made.id, card.id)]

    assert words == [f"grant {i} is none that can be shared" for i in (made.id, card.id)]


@pytest.mark.parametrize(
    ("owner_", "kind", "uri", "taken"),
    [
        ("ada", "oauth_grant", "s3://elsewhere", True),
        ("pipeline", "oauth_grant", "s3://results/runs/7", True),
        ("pipeline", "oauth_grant", "s3://results/runs", True),
        ("pipeline", "oauth_grant", "s3://results/runs2", False),
        ("pipeline", "oauth_grant", "s3://results", False),
        ("mallory", "oauth_grant", "s3://results/runs/7", False),
        # As another kind it would be used without the checks of a grant.
        ("ada", "access_key", "s3://results/runs/7", False),
        ("pipeline", "access_key", "s3://results/runs/7", False),
        ("ada", "web_identity", "s3://results/runs/7", False),
    ],
)
def test_a_push_is_stored_with_a_grant_that_is_its_owners_or_shared(
    app: sa.Engine, grant: Grant, owner_: str, kind: str, uri: str, taken: bool
) -> None:
    """Whoever took the application over cannot push with anybody's grant to anywhere."""
    word = refusal(app, A_PUSH, owner=owner_, kind=kind, uri=uri, credential=grant.id)

    assert word == (None if taken else f"credential {grant.id} is none that {owner_} may push to {uri} with")


A_PUSH = """
    INSERT INTO push (id, owner, actor, request_sha256, source, uri, bucket, prefix, profile, credential_id,
                      credential_kind, min_strength, overwrite, state)
    VALUES (gen_random_uuid(), :owner, :owner, '\\x00', '/s', :uri, 'b', '', 'aws', :credential, :kind, 'checksum',
            'never', 'queued')
"""


def test_temporary_tables_do_not_mislead_what_guards_grants(app: sa.Engine, grant: Grant) -> None:
    """A share of one's own making, for instance."""
    app.dispose()  # a new connection: on an old one the guard's plans are made
    with app.connect() as c:
        c.execute(sa.text("CREATE TEMP TABLE share AS SELECT * FROM public.share WITH NO DATA"))
        c.execute(
            sa.text(
                "INSERT INTO pg_temp.share (id, credential_id, principal, uri, until, created_by) "
                "VALUES (gen_random_uuid(), :id, 'mallory', 's3://b', 'infinity', 'mallory')"
            ),
            {"id": grant.id},
        )
        c.commit()
        row = {"owner": "mallory", "kind": "oauth_grant", "uri": "s3://b", "credential": grant.id}
        with pytest.raises(DBAPIError) as caught:
            c.execute(sa.text(A_PUSH.replace("INTO push", "INTO public.push")), row)
        c.rollback()
        c.execute(sa.text("DISCARD TEMP"))
        c.commit()

    assert "is none that mallory may push" in str(caught.value.orig)


@pytest.mark.parametrize("table", ["web_session", "sign_in_link", "consent_attempt"])
def test_what_has_not_expired_is_not_deleted(app: sa.Engine, owner: sa.Engine, table: str) -> None:
    """A sign-in, a consent without a trace."""
    token = "sha256(gen_random_uuid()::text::bytea)"
    names, values = {
        "web_session": ("token_sha256, id", f"{token}, gen_random_uuid()"),
        "sign_in_link": ("token_sha256, owner", f"{token}, 'ada'"),
        "consent_attempt": ("id, session_sha256, owner, provider, name", f"gen_random_uuid(), {token}, 'o', 'p', 'n'"),
    }[table]
    with app.begin() as c:
        for expires in ("now() - interval '1 s'", "now() + interval '1 h'"):
            c.execute(sa.text(f"INSERT INTO {table} ({names}, expires_at) VALUES ({values}, {expires})"))
    past, future = (f"DELETE FROM {table} WHERE expires_at {sign} now()" for sign in "<>")

    words = [refusal(app, past), refusal(app, future), refusal(owner, future), refusal(app, f"TRUNCATE {table}")]

    kept = f"table {table}: a row that has not expired is kept, DELETE is refused"
    assert words == [None, kept, kept, f"permission denied for table {table}"]


SPY = """
    CREATE FUNCTION pg_temp.spy() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO pg_temp.ran_as VALUES (current_user); RETURN NEW; END'
"""


def test_the_application_cannot_borrow_the_owners_rights(app: sa.Engine) -> None:
    """A trigger on a temporary table would run as whoever writes to it: nobody does."""
    with app.connect() as c:
        for statement in (
            "CREATE TEMP TABLE ran_as (who name)",
            "CREATE TEMP TABLE chain (stream uuid PRIMARY KEY, seq integer, hash bytea)",
            SPY,
            "CREATE TRIGGER spy BEFORE INSERT ON pg_temp.chain FOR EACH ROW EXECUTE FUNCTION pg_temp.spy()",
            "GRANT ALL ON pg_temp.ran_as, pg_temp.chain TO PUBLIC",
        ):
            c.execute(sa.text(statement))
        c.commit()
        append_event(c, uuid4(), Event.PUSH_CLAIMED, "worker-1")
        c.commit()
        ran_as = c.execute(sa.text("SELECT who FROM pg_temp.ran_as")).all()
        c.execute(sa.text("DISCARD TEMP"))
        c.commit()

    assert ran_as == []


def test_what_the_application_did_in_these_tests_left_a_sound_record(app: sa.Engine, finished: UUID) -> None:
    """Refused is refused: nothing of it stayed."""
    assert integrity.verify(app).faults == []
