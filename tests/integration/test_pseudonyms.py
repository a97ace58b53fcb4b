"""A person who leaves: their name goes from every table, and nothing that is proved is lost."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner, Result

from builders import failed, failure, skipped
from cloudpush.audit import pseudonyms
from cloudpush.audit.access import AccessBook
from cloudpush.audit.database import append_event
from cloudpush.audit.findings import Report
from cloudpush.audit.grants import GrantBook
from cloudpush.audit.integrity import verify
from cloudpush.audit.names import Names, refuse, remains
from cloudpush.audit.pseudonyms import Pseudonyms
from cloudpush.audit.receipts import Receipts
from cloudpush.audit.sessions import Sessions
from cloudpush.cli import retention
from cloudpush.credentials.ed25519 import verify as verify_signature
from cloudpush.errors import Code, InputError
from cloudpush.push.access.model import Role, Scope
from cloudpush.push.states import Event
from cloudpush.push.trust.checking import check_receipt
from cloudpush.settings import Settings
from grant_builders import a_grant, a_share, its_credential, some_tokens
from past import Past
from records import Record
from servers import Database

NAME, ADDRESS, OTHER = "grace-hopper", "grace@navy.example", "grace-hopper-2"
PSEUDONYM = "person-0123456789ab"
LATER = datetime(2999, 1, 1, tzinfo=UTC)


class Scene(Past):
    """Somebody with pushes, a revoked grant, a share, a role, a token and a session; and somebody with a longer name."""

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        self.old = self.push(self.older, owner=NAME, actor=NAME, source=f"/home/{NAME}/runs")
        request: dict[str, Any] = {"labels": {"by": ADDRESS, NAME: "yes"}, "destination": f"s3://results/{NAME}/7"}
        results = [skipped(1), failed(2)]
        verdict = failure()
        self.push_id = record.finished(results, verdict, owner=NAME, actor=NAME, idempotency_key=NAME, **request)
        self.others = record.finished(owner=OTHER, actor=OTHER)
        with record.app.begin() as c:
            append_event(
                c,
                self.others,
                Event.PUSH_NOTIFIED,
                NAME,
                {"why": f'"{NAME}" said so\n{NAME}', "not": f"mary-{NAME}", OTHER: 1},
            )
        self._consent()
        book, sessions = AccessBook(record.app), Sessions(record.app)
        book.grant_role(NAME, Role.AUDITOR, NAME)
        words: dict[str, Any] = {"name": f"{NAME} at night", "role": None, "scopes": frozenset({Scope.READ})}
        self.token = book.add_token(bytes(32), owner=NAME, seconds=1e6, actor=NAME, **words)
        self.session = sessions.start(bytes(32), owner=NAME, via="oidc", seconds=1e6)
        sessions.add_link(bytes(32), owner=NAME, seconds=1e6)
        self.receipts()
        self.notary.seal()

    def _consent(self) -> None:
        book = GrantBook(self.record.app)
        mine, theirs = a_grant(owner=NAME, subject=ADDRESS), a_grant(owner=OTHER)
        for grant in (mine, theirs):
            book.add(its_credential(grant), grant, None, grant.owner)
            book.activate(grant.id, 1, grant.owner)
        _, number = book.start_refresh(mine, "worker-1")
        book.finish_refresh(mine, number, 1, some_tokens(), "worker-1")
        share = a_share(theirs.id, principal=NAME, until=LATER)
        book.share(share, OTHER)
        self.grant, self.share = mine, share

    def leave(self) -> None:
        """What is to be done first."""
        book = GrantBook(self.record.app)
        book.unshare(self.share.id, OTHER, OTHER)
        book.revoke(self.grant.id, NAME)
        book.end_revocation(self.grant.id, True, None, NAME)
        self.record.tamper("UPDATE credential SET state = 'purged', purged_at = now() WHERE owner = :name", name=NAME)

    names = Names(NAME, [ADDRESS], PSEUDONYM)

    def work(self, names: Names | None = None) -> Pseudonyms:
        signer = self.notary.signer
        return Pseudonyms(self.record.owner, names or self.names, signer, signer.signed)

    def report(self) -> Report:
        return verify(self.record.app, None, self.notary.witness())

    def faults(self) -> list[str]:
        return [f.what for f in self.report().faults]

    def dump(self) -> str:
        """Every row of every table as text."""
        with self.record.intruder.connect() as c:
            tables = c.execute(
                sa.text("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
            )
            rows = [c.execute(sa.text(f"SELECT t::text FROM {name} AS t")).scalars() for name in list(tables.scalars())]
            return "\n".join(text for table in rows for text in table)

    def run(self, *words: str) -> Result:
        """``cloudpush audit pseudonymise …``."""
        app = typer.Typer()
        app.command()(retention.pseudonymise)
        settings = Settings(database_admin_url=self.record.database.admin_url)

        @contextmanager
        def services() -> Iterator[Any]:
            yield SimpleNamespace(settings=settings)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(retention, "services", services)
            patch.setattr(
                "cloudpush.wiring.trust.make_erasing", lambda *_: (self.notary.signer, self.notary.signer.signed)
            )
            return CliRunner().invoke(app, words)

    def all(self, statement: str, **values: Any) -> list[Any]:
        with self.record.owner.connect() as c:
            return [tuple(row) for row in c.execute(sa.text(statement), values)]


@pytest.fixture(scope="module")
def scene(database: Database) -> Iterator[Scene]:
    record = Record(database)
    yield Scene(record)
    record.close()


def test_whoever_still_has_something_is_not_replaced(scene: Scene) -> None:
    """A key or a grant that works, a share, a push under way: each is named."""
    with pytest.raises(InputError) as caught:
        refuse(scene.record.owner, scene.names)

    word = caught.value.message
    assert all(
        s in word for s in (f"credential {scene.grant.id}", f"share {scene.share.id}", "purge, revoke or end these")
    )


@pytest.mark.parametrize(
    ("name", "pseudonym"), [("x", None), ("sweeper", None), ("a\nb", None), ("ada", "ada-2"), ("ada", "A B")]
)
def test_what_cannot_be_replaced_is_refused(name: str, pseudonym: str | None) -> None:
    with pytest.raises(InputError) as caught:
        Names(name, (), pseudonym)

    assert caught.value.code is Code.BAD_INPUT


def test_a_pseudonym_is_random() -> None:
    """Nobody finds the name by trying names."""
    assert len({Names(NAME).pseudonym for _ in range(3)}) == 3


CHANGES = {
    "event": "UPDATE event SET {} WHERE stream = :push AND seq = 1",
    "push": "UPDATE push SET {} WHERE id = :push",
    "credential": "UPDATE credential SET {} WHERE id = :grant",
    "receipt": "UPDATE receipt SET {} WHERE push_id = :push",
}


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("event", "actor = 'x', salt = NULL"),
        ("push", "owner = 'x'"),
        ("credential", "owner = 'x'"),
        ("receipt", "statement = 'x'"),
    ],
)
def test_the_application_replaces_nothing(scene: Scene, table: str, change: str) -> None:
    """Whatever its session says of itself; nor does the owner, without saying so."""
    asked = {"push": scene.push_id, "grant": scene.grant.id}

    words = [
        refusal(scene.record.app, CHANGES[table].format(change), asked, on=True),
        refusal(scene.record.owner, CHANGES[table].format(change), asked, on=False),
    ]

    assert ["permission denied" in words[0] or "is refused" in words[0], "is refused" in words[1]] == [True, True]


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("event", "actor = 'x'"),  # with its salt, the name could be tried
        ("event", "kind = 'push.failed', salt = NULL"),
        ("event", "hash = prev, salt = NULL"),
        ("event", "content = NULL, salt = NULL"),
        ("push", "state = 'succeeded'"),
        ("push", "files_failed = 0"),
        ("push", "owner = 'x', strength = 'reread'"),
        ("credential", "profile = 'x'"),
        ("receipt", "statement = 'x'"),
    ],
)
def test_whoever_replaces_a_name_replaces_nothing_else(scene: Scene, table: str, change: str) -> None:
    """The owner, in a session that says so."""
    word = refusal(
        scene.record.owner, CHANGES[table].format(change), {"push": scene.push_id, "grant": scene.grant.id}, on=True
    )

    assert "refused" in word


@pytest.mark.parametrize("table", ["event", "retired", "cut"])
@pytest.mark.parametrize("verb", ["DELETE FROM {}", "TRUNCATE {}", "INSERT INTO {} DEFAULT VALUES"])
def test_the_application_retires_nothing(scene: Scene, table: str, verb: str) -> None:
    word = refusal(scene.record.app, verb.format(table), {}, on=True)

    assert word == f"permission denied for table {table}"


def refusal(engine: sa.Engine, statement: str, asked: dict[str, Any], *, on: bool) -> str:
    """The database's word; nothing of it stays."""
    with engine.connect() as c:
        try:
            c.execute(sa.text("SELECT set_config('cloudpush.pseudonymising', :on, true)"), {"on": "on" if on else ""})
            c.execute(sa.text(statement), asked)
        except DBAPIError as e:
            return str(e.orig).partition("\n")[0]
        finally:
            c.rollback()
    return "it went through"


# -- the story ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(scene: Scene) -> Scene:
    """They left; the first try was interrupted after one batch."""
    scene.leave()
    scene.notary.seal()
    # An event of the first version, as an upgrade found it.
    scene.record.tamper(FIRST_VERSION, id=scene.grant.id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pseudonyms, "STREAMS", 1)
        replace, calls = Pseudonyms._replace, list[Any]()

        def once(self: Pseudonyms, streams: Any) -> None:
            if calls:
                raise KeyboardInterrupt
            calls.append(streams)
            replace(self, streams)

        patch.setattr(Pseudonyms, "_replace", once)
        with pytest.raises(KeyboardInterrupt):
            scene.work().run()
    scene.between = [w for w in scene.faults() if "edited after" not in w]  # type: ignore[attr-defined]
    scene.changed = scene.work().run()  # type: ignore[attr-defined]
    return scene


#: The chain of a stream as a release hashed it that knew no salt.
FIRST_VERSION = """
DO $$
DECLARE e event; link bytea;
BEGIN
    FOR e IN SELECT * FROM event WHERE kind = 'session.started' ORDER BY stream, seq LOOP
        link := sha256(convert_to(e.stream::text, 'UTF8'));
        UPDATE event SET prev = link, salt = NULL, content = NULL,
            hash = cloudpush_event_hash(link, stream, seq, at, kind, actor, credential_id, data::text)
            WHERE stream = e.stream AND seq = e.seq RETURNING hash INTO link;
        UPDATE chain SET hash = link WHERE stream = e.stream;
    END LOOP;
END $$
"""


def test_the_name_is_nowhere(left: Scene) -> None:
    """In no row of no table, but as a part of somebody else's."""
    found = left.dump()

    assert (
        found.replace(OTHER, "").replace(f"mary-{NAME}", "").count(NAME),
        found.count(ADDRESS),
        found.count(PSEUDONYM) > 20,
    ) == (0, 0, True)
    assert set(remains(left.record.owner, Names(ADDRESS))) == set()


def test_the_record_stays_sound(left: Scene) -> None:
    """While it was interrupted, and afterwards, events of the first version and sealed ones included."""
    left.receipts()
    left.notary.seal()
    report = left.report()

    assert (left.between, left.changed["events"] > 10, report.pseudonymised > 10) == ([], True, True)  # type: ignore[attr-defined]
    assert [f.what for f in report.faults if "edited after checkpoint" not in f.what] == []


def test_somebody_with_a_longer_name_keeps_it(left: Scene) -> None:
    """Rows and events."""
    rows = left.all("SELECT owner, actor FROM push WHERE id = :id", id=left.others)
    told = left.all("SELECT data FROM event WHERE stream = :id AND kind = 'push.notified'", id=left.others)

    assert rows == [(OTHER, OTHER)]
    assert told[0][0] == {"why": f'"{PSEUDONYM}" said so\n{PSEUDONYM}', "not": f"mary-{NAME}", OTHER: 1}


def test_what_opened_doors_is_gone(left: Scene) -> None:
    """Sessions, links, roles; the token is revoked. Events tell, without the name."""
    counts = "SELECT (SELECT count(*) FROM web_session), (SELECT count(*) FROM sign_in_link), (SELECT count(*) FROM principal_role)"
    tokens = left.all("SELECT owner, name, revoked_at IS NOT NULL FROM api_token")
    kinds = {row[0] for row in left.all("SELECT kind FROM event WHERE actor = 'operator'")}

    assert (left.all(counts), tokens) == ([(0, 0, 0)], [(PSEUDONYM, f"{PSEUDONYM} at night", True)])
    assert kinds == {"audit.pseudonymised", "role.revoked", "token.revoked", "session.ended"}


def test_receipts_are_issued_anew_without_the_name(left: Scene) -> None:
    """Those that were handed out before stay valid: they are files of their holders."""
    left.receipts()
    document = b"".join(Receipts(left.record.app).stream(left.old))

    proved = check_receipt(io.BytesIO(document), left.trusted, verify_signature)

    assert (NAME.encode() in document, proved.statement["push"]["owner"], proved.with_files) == (False, PSEUDONYM, True)


def test_auditors_find_the_pushes_by_the_pseudonym(left: Scene) -> None:
    found = left.all("SELECT count(*) FROM push_search WHERE :q = ANY (tsvector_to_array(terms))", q=f"o={PSEUDONYM}")
    by_name = left.all(
        "SELECT count(*) FROM push_search WHERE terms::text LIKE '%grace-hopper''%' OR owner = :n", n=NAME
    )

    labels = left.all("SELECT label FROM push_label WHERE push_id = :id ORDER BY label", id=left.push_id)

    assert (found, by_name) == ([(2,)], [(0,)])
    assert labels == left.all(
        "SELECT key || '=' || value FROM push, jsonb_each_text(labels) WHERE id = :id ORDER BY 1", id=left.push_id
    )
    assert len(labels) == 2
    assert NAME not in repr(labels)
    assert ADDRESS not in repr(labels)


def test_an_event_that_was_replaced_is_not_edited_again(left: Scene) -> None:
    """What took the name's place is told by a digest, in both versions with time and kind."""
    left.record.tamper("UPDATE event SET actor = 'mallory' WHERE stream = :id AND seq = 1", id=left.old)
    edited = left.faults()
    left.record.tamper("UPDATE event SET actor = :name WHERE stream = :id AND seq = 1", id=left.old, name=PSEUDONYM)
    left.record.tamper("UPDATE event SET kind = 'push.queued' WHERE kind = 'session.started'")
    moved = left.faults()
    left.record.tamper("UPDATE event SET kind = 'session.started' WHERE stream = :id AND seq = 1", id=left.session.id)

    word = "was pseudonymised, but no later event tells by what"
    assert (f"event 1 (push.queued) {word}" in edited, f"event 1 (push.queued) {word}" in moved) == (True, True)


def test_again_there_is_nothing_to_do(left: Scene) -> None:
    assert left.work().run() == {}


def test_the_command_says_what_is_left(left: Scene) -> None:
    """Within somebody else's name; and a dry run does so beforehand."""
    dry, real = left.run(NAME, "--dry-run"), left.run(NAME, "--also", ADDRESS)

    assert (dry.exit_code, "push.owner: 1 rows" in dry.stdout) == (0, True)
    assert (real.exit_code, "changed: nothing" in real.stdout, "push.owner: 1 rows have it still" in real.stderr) == (
        0,
        True,
        True,
    )
