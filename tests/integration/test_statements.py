"""What a push says to Postgres: round trips are what a small push costs. A consent adds one where its use is checked.

And the connection that it says it by.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from builders import a_destination, a_lease, a_page, a_request, done, verified
from cloudpush.push.admission import CredentialCard
from grant_stores import GrantsInPostgres, connected
from records import Record


class Counting:
    """Statements by step."""

    def __init__(self, engine: sa.Engine) -> None:
        self.steps: dict[str, int] = {}
        self._said = 0
        sa.event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self._said += 1

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._said = 0
        yield
        self.steps[name] = self._said


def steps(record: Record, card: CredentialCard) -> dict[str, int]:
    """A push of one part, from its submission to its verdict; and how an announced part begins."""
    said, ledger, request = Counting(record.app), record.ledger, a_request()
    with said.step("store"):
        push_id, _ = record.desk.store(request, card, a_destination(request.destination), bytes(32))
    with said.step("claim"):
        push = ledger.claim_push(push_id, lease := a_lease())
    assert push is not None
    page = a_page(push.id)
    with said.step("plan"):
        ledger.finish_plan_with(push, lease, page)
    with said.step("beat"):
        ledger.extend([lease.token], 30)
    with said.step("end"):
        ledger.end_part(push, page.part, lease, done(), verified([1, 2]))
    other = record.desk.store(request, card, a_destination(request.destination), bytes(32))[0]
    push = ledger.claim_push(other, lease := a_lease())
    assert push is not None
    for n in (1, 2):
        ledger.record_page(push, lease, a_page(push.id, n, first=2 * n - 1))
    ledger.finish_plan(push, lease, parts=2, files=4, bytes_=40)
    with said.step("part"):
        claimed = ledger.claim_part(push.id, 1, lease := a_lease())
    assert claimed is not None
    with said.step("use"):
        ledger.record_credential_use(*claimed, lease)
    return said.steps


#: As before there were consents: measured at the version before them.
KEY = {"store": 1, "claim": 1, "plan": 3, "beat": 2, "end": 5, "part": 3, "use": 3}


def test_push_with_an_access_key_costs_what_it_did_before_there_were_consents(record: Record) -> None:
    """None of its statements is about grants alone."""
    assert steps(record, record.credential()) == KEY


def test_push_with_a_consent_costs_one_more_where_its_use_is_checked(record: Record) -> None:
    """However many files it has."""
    grant = connected(GrantsInPostgres(record.app, record.owner))
    card = CredentialCard(grant.id, grant.owner, grant.kind, "active", None, "", "")

    assert steps(record, card) == KEY | {"plan": 4, "use": 4}


def test_host_that_is_gone_without_a_word_is_noticed_by_either_side(record: Record) -> None:
    """A worker's host that lost its power holds no grant's lock for two hours, and no thread waits so long for an answer."""
    asked: dict[str, object] = {}

    @sa.event.listens_for(record.app, "do_connect")
    def look(_dialect: object, _record: object, _args: object, parameters: dict[str, object]) -> None:
        asked.update(parameters)

    record.app.dispose()
    with record.app.connect() as c:
        assert c.execute(sa.text("SHOW statement_timeout")).scalar_one() == "1min"  # the options are taken

    assert (asked["keepalives_idle"], asked["tcp_user_timeout"]) == (15, 30_000)
    assert all(f"-c tcp_keepalives_{name}=" in str(asked["options"]) for name in ("idle", "interval", "count"))
