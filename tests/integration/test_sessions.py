"""Signed-in browsers and one-time links, in the real database."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from cloudpush.audit import integrity
from cloudpush.audit.sessions import Session, Sessions
from records import Record

HOUR = 3600.0


@pytest.fixture(scope="module")
def sessions(record: Record) -> Sessions:
    """The store."""
    return Sessions(record.app)


def a_token() -> bytes:
    return os.urandom(32)


def an_owner() -> str:
    return f"owner-{uuid4()}"


def signed_in(sessions: Sessions, token: bytes, owner: str | None = "ada", seconds: float = HOUR) -> Session:
    return sessions.start(token, owner=owner, via="link", seconds=seconds)


def let_pass(record: Record, seconds: float) -> None:
    with record.owner.begin() as c:
        for statement in (
            (
                "UPDATE web_session SET seen_at = seen_at - :by * interval '1 second', "
                "expires_at = expires_at - :by * interval '1 second'"
            ),
            "UPDATE sign_in_link SET expires_at = expires_at - :by * interval '1 second'",
        ):
            c.execute(sa.text(statement), {"by": seconds})


def rows(record: Record) -> int:
    query = "SELECT (SELECT count(*) FROM web_session) + (SELECT count(*) FROM sign_in_link)"
    with record.owner.connect() as c:
        return int(c.execute(sa.text(query)).scalar_one())


def test_a_session_is_found_by_its_token(record: Record, sessions: Sessions) -> None:
    """And by no other."""
    token = a_token()
    session = signed_in(sessions, token)

    found = sessions.find(token, idle_seconds=60)

    assert (found, sessions.find(a_token(), idle_seconds=60)) == (session, None)
    assert record.kinds(session.id) == ["session.started"]


def test_a_session_that_is_used_lives_on(record: Record, sessions: Sessions) -> None:
    """A minute of idleness ends one that may be idle for a minute, unless it is used before."""
    used, unused, watched = a_token(), a_token(), a_token()
    for token in (used, unused, watched):
        signed_in(sessions, token)
    let_pass(record, 40)
    sessions.find(used, idle_seconds=60)
    sessions.find(watched, idle_seconds=60, touch=False)
    let_pass(record, 40)

    found = [sessions.find(token, idle_seconds=60) is not None for token in (used, unused, watched)]

    assert found == [True, False, False]


def test_a_use_is_not_written_at_once_again(record: Record, sessions: Sessions) -> None:
    """A page asks for many things."""
    token = a_token()
    session = signed_in(sessions, token)

    sessions.find(token, idle_seconds=HOUR)

    again = sessions.find(token, idle_seconds=HOUR)
    assert again is not None
    assert again.seen_at == session.seen_at


def test_a_session_ends_at_its_time(record: Record, sessions: Sessions) -> None:
    """However much it is used; its row goes, and its end is on record."""
    token = a_token()
    session = signed_in(sessions, token, seconds=100)
    let_pass(record, 101)

    found = sessions.find(token, idle_seconds=HOUR)
    sessions.sweep()

    assert (found, record.kinds(session.id)) == (None, ["session.started", "session.ended"])


def test_a_session_that_is_ended_is_over(record: Record, sessions: Sessions) -> None:
    """Once; nobody can use its token any more."""
    token = a_token()
    session = signed_in(sessions, token)

    for _ in range(2):
        sessions.end(token)

    assert sessions.find(token, idle_seconds=HOUR) is None
    assert record.kinds(session.id) == ["session.started", "session.ended"]


def test_all_of_an_owner_end_at_once(sessions: Sessions) -> None:
    """And nobody else's."""
    owner, tokens, others = an_owner(), [a_token(), a_token()], a_token()
    mine = {signed_in(sessions, token, owner).id for token in tokens}
    signed_in(sessions, others, an_owner())

    listed = {session.id for session in sessions.list(owner)}
    ended = sessions.end_all(owner)

    assert (listed, ended, sessions.list(owner)) == (mine, 2, [])
    assert sessions.find(others, idle_seconds=HOUR) is not None


def test_a_browser_on_its_way_is_nobody(record: Record, sessions: Sessions) -> None:
    """It has no owner, is in no list and in no event."""
    token = a_token()
    session = signed_in(sessions, token, None)

    found = sessions.find(token, idle_seconds=HOUR)
    sessions.end(token)

    assert found is not None
    assert (found.owner, record.kinds(session.id)) == (None, [])


def test_a_link_signs_in_once_although_two_click(sessions: Sessions) -> None:
    """At the same moment."""
    token = a_token()
    sessions.add_link(token, owner="ada", seconds=60)

    with ThreadPoolExecutor(8) as pool:
        used = list(pool.map(sessions.use_link, [token] * 8))

    assert sorted(used, key=str) == [None] * 7 + ["ada"]


def test_a_link_that_has_expired_signs_nobody_in(record: Record, sessions: Sessions) -> None:
    """Nor one that was made up."""
    token = a_token()
    sessions.add_link(token, owner="ada", seconds=60)
    let_pass(record, 61)

    assert (sessions.use_link(token), sessions.use_link(a_token())) == (None, None)


def test_what_has_expired_is_swept_away_by_the_next_sign_in(record: Record, sessions: Sessions) -> None:
    """Nothing else sweeps."""
    signed_in(sessions, a_token(), seconds=10)
    sessions.add_link(a_token(), owner="ada", seconds=10)
    let_pass(record, 10 * HOUR)

    kept = signed_in(sessions, a_token())

    assert (rows(record), kept.id in {s.id for s in sessions.list("ada")}) == (1, True)


def test_what_is_stored_of_a_token_signs_nobody_in(record: Record, sessions: Sessions) -> None:
    """The application's role may not give a session to somebody, nor a link."""
    token = a_token()
    session = signed_in(sessions, token)
    for statement in (
        "UPDATE web_session SET owner = 'mallory' WHERE id = :id",
        "UPDATE web_session SET token_sha256 = '' WHERE id = :id",
        "UPDATE sign_in_link SET owner = 'mallory' WHERE :id IS NOT NULL",
    ):
        with record.app.connect() as c, pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            c.execute(sa.text(statement), {"id": session.id})


def test_what_has_not_expired_cannot_be_deleted(record: Record, sessions: Sessions) -> None:
    """It would be a sign-in without a trace."""
    session = signed_in(sessions, a_token())

    with record.app.connect() as c, pytest.raises(sa.exc.ProgrammingError, match="DELETE is refused"):
        c.execute(sa.text("DELETE FROM web_session WHERE id = :id"), {"id": session.id})


def test_the_record_is_sound(record: Record, sessions: Sessions) -> None:
    """Sessions are streams of their own."""
    session: UUID = signed_in(sessions, a_token()).id

    report = integrity.verify(record.app, session)

    assert (report.sound, report.events, integrity.verify(record.app).sound) == (True, 1, True)
