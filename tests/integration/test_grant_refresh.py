"""Tokens refreshed for real: Postgres, OpenBao, an authorization server that punishes reuse, and processes that are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

import servers
from chaos.tokens import Client, Stand, gone, rounds
from cloudpush.credentials.scribe import Scribe
from cloudpush.errors import CloudPushError, Code, CredentialError, StoreError, VaultError
from cloudpush.push.grants import refresh
from cloudpush.push.grants.model import GrantState, Rotation, Tokens
from cloudpush.stack.services import OpenBao
from doubles.oauth_server import OAuthServer, Trouble

PATIENCE = 60


@pytest.fixture
def stand(database: servers.Database, openbao: OpenBao, tmp_path: Path) -> Iterator[Stand]:
    """A grant's world; the provider rotates and revokes the family on reuse."""
    with OAuthServer() as oauth:
        made = Stand(database, openbao, oauth, tmp_path)
        yield made
        made.close()


@pytest.fixture
def scribe(stand: Stand) -> Iterator[Scribe]:
    """A worker's scribe: another process."""
    made = Scribe(stand.settings)
    yield made
    made.close()


def wait_for(happened: threading.Event) -> None:
    assert happened.wait(PATIENCE)


def test_eight_workers_at_once_spend_a_refresh_token_once(stand: Stand) -> None:
    """Eight processes, each with its scribe; all of them get the one new generation."""
    grant_id = stand.grant()
    with contextlib.ExitStack() as stack:
        clients = [Client(stand.settings) for _ in range(8)]
        for client in clients:
            stack.callback(client.close)
        assert all(client.scribe for client in clients)
        for client in clients:
            client.ask(grant_id, 1)
        said = [client.read() for client in clients]

    assert (said, stand.row(grant_id).generation) == (["ok 3"] * 8, 3)
    assert (sum(stand.oauth.spends.values()), stand.oauth.reused()) == (1, [])


def test_workers_that_are_killed_in_the_midst_of_a_refresh_lose_no_grant(stand: Stand) -> None:
    """Ten here; `python -m chaos.tokens` does a hundred and tells where they fell. Nobody waits for the dead."""
    outcomes = list(rounds(stand, 10, chance=random.Random(4)))

    assert ([o for o in outcomes if o.lost], stand.oauth.reused()) == ([], [])


def test_a_worker_that_is_killed_between_answer_and_write_loses_nothing(stand: Stand) -> None:
    """The worst moment, held open: the provider has issued, the answer is on its way, the worker dies."""
    grant_id, issued, go_on = stand.grant(), threading.Event(), threading.Event()

    def hold() -> None:
        issued.set()
        go_on.wait(PATIENCE)

    stand.oauth.between = hold
    client = Client(stand.settings)
    scribe = client.scribe
    client.ask(grant_id, 1)
    wait_for(issued)
    client.kill()
    lives = psutil.pid_exists(scribe)
    go_on.set()
    gone(scribe)

    assert (lives, stand.row(grant_id).generation, stand.row(grant_id).pending) == (True, 3, 0)
    assert stand.recovers(grant_id, 0)


@pytest.mark.parametrize("rotation", list(Rotation))
def test_a_scribe_that_is_killed_between_answer_and_write(
    stand: Stand, rotation: Rotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one place where a grant is lost, and only with a provider that rotates: its user is asked to reconnect."""
    monkeypatch.setattr(refresh, "SETTLED", timedelta(0))
    stand.rotate(rotation)
    grant_id, issued, go_on = stand.grant(), threading.Event(), threading.Event()

    def hold() -> None:
        issued.set()
        go_on.wait(PATIENCE)

    stand.oauth.between = hold
    worker = Scribe(stand.settings)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(worker.refresh, grant_id, 1)
        wait_for(issued)
        pid = worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        error = waiting.exception(PATIENCE)
    stand.oauth.between = lambda: None
    go_on.set()
    recovered = stand.recovers(grant_id, 1)
    worker.close()

    assert isinstance(error, CloudPushError)
    assert (error.code, recovered, stand.row(grant_id).state) == (
        Code.WORKER_LOST,
        rotation is not Rotation.SINGLE_USE,
        GrantState.RECONNECT if rotation is Rotation.SINGLE_USE else GrantState.ACTIVE,
    )


def test_a_scribe_is_started_again(stand: Stand, scribe: Scribe) -> None:
    """Idle or not, its end is no end of refreshes; the settings reach it neither by arguments nor by its environment."""
    grant_id = stand.grant()
    scribe.refresh(grant_id, 1)
    first = scribe.pid
    assert first is not None
    shown = b"".join(Path(f"/proc/{first}/{what}").read_bytes() for what in ("cmdline", "environ"))
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while scribe.pid is not None:  # until its worker has noticed; whoever asks before is told that it passes
        assert time.monotonic() < deadline
        time.sleep(0.01)
    scribe.refresh(grant_id, 3)

    assert (stand.row(grant_id).generation, scribe.pid not in (None, first)) == (5, True)
    assert (stand.settings.database_url.encode() in shown, b"CLOUDPUSH_" in shown) == (False, False)


def test_a_scribe_ignores_what_ends_its_worker_and_ends_when_nobody_asks(stand: Stand, scribe: Scribe) -> None:
    """Signals are its worker's; the end of its input is its own."""
    grant_id = stand.grant()
    scribe.refresh(grant_id, 1)
    pid = scribe.pid
    assert pid is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    scribe.refresh(grant_id, 3)
    same, session = scribe.pid == pid, os.getsid(pid)
    scribe.close()
    gone(pid)

    assert (same, session, stand.row(grant_id).generation) == (True, pid, 5)


def test_what_a_scribe_tells_is_what_a_refresher_raises(stand: Stand, scribe: Scribe) -> None:
    """Of the same kind, with the same words: the pipe carries both, and no token."""
    grant_id = stand.grant()
    stand.oauth.troubles = [
        Trouble(429),
        Trouble(503),
        Trouble(401, b"{}"),
        Trouble(400, b'{"error": "invalid_grant"}'),
    ]
    said = []
    for _ in range(5):
        with pytest.raises(CloudPushError) as caught:
            scribe.refresh(grant_id, 1)
        said.append((type(caught.value), caught.value.code))
    stand.store.revoke(grant_id, "ada")
    with pytest.raises(CloudPushError) as caught:
        scribe.refresh(grant_id, 1)

    assert said == [
        (CloudPushError, Code.THROTTLED),
        (CloudPushError, Code.PROVIDER_UNAVAILABLE),
        (CloudPushError, Code.CLIENT_REJECTED),
        (CredentialError, Code.CONSENT_NEEDED),
        (CredentialError, Code.CONSENT_NEEDED),
    ]
    assert (caught.value.code, stand.row(grant_id).trouble_code) == (Code.CONSENT_REVOKED, Code.CONSENT_NEEDED)


def test_nothing_is_spent_while_vault_is_away(stand: Stand) -> None:
    """The real way to a Vault that does not answer, between the look and the spend."""
    grant_id = stand.grant()
    inner = stand.refresher.refresher
    safe = inner._safe

    class Away:
        def prepare(self, *given: object) -> object:
            return stand.unreachable_safe().prepare(*given)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(safe, name)

    inner._safe = Away()  # type: ignore[assignment]
    with pytest.raises(VaultError):
        inner.refresh(grant_id, 1)
    spent = sum(stand.oauth.spends.values())
    inner._safe = safe
    inner.refresh(grant_id, 1)

    assert (spent, stand.row(grant_id).generation) == (0, 5)


def test_a_lock_that_somebody_holds_is_waited_for_and_then_told(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tokens that are good nobody waits long."""
    monkeypatch.setattr(refresh, "LOCK_SECONDS_AHEAD", 0.1)
    grant_id = stand.grant()
    with stand.store.lock(grant_id, 1), pytest.raises(StoreError):
        stand.refresher.refresh(grant_id, 1)

    assert sum(stand.oauth.spends.values()) == 0


def test_a_restart_of_postgres_in_the_midst_of_a_refresh_spends_nothing_twice(stand: Stand) -> None:
    """The lock is gone and its holder goes on; whoever gets it waits for his tokens."""
    grant_id, issued, go_on = stand.grant(), threading.Event(), threading.Event()

    def hold() -> None:
        issued.set()
        go_on.wait(PATIENCE)

    stand.oauth.between = hold
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(stand.refresher.refresh, grant_id, 1)
        wait_for(issued)
        stand.break_connections()
        codes = []
        for _ in range(2):  # the first finds that its connections are gone, too
            with pytest.raises(CloudPushError) as ahead:
                stand.refresher.refresh(grant_id, 1)
            codes.append(ahead.value.code)
        go_on.set()
        error = first.exception(PATIENCE)

    # The lock is free and the token good: nobody is kept waiting, and nothing is spent.
    assert (codes, error) == ([Code.DATABASE_UNREACHABLE, Code.WORKER_LOST], None)
    assert stand.row(grant_id).generation == 3
    assert (sum(stand.oauth.spends.values()), stand.oauth.reused()) == (1, [])


def test_no_token_is_anywhere_in_postgres(stand: Stand) -> None:
    """Not in a row, not in an event."""
    grant_id = stand.grant()
    stand.refresher.refresh(grant_id, 1)
    held = Tokens.load(stand.safe.open_tokens(grant_id, "ada", 3))
    dump = stand.everything()

    assert str(grant_id) in dump
    assert [t for t in (held.access_token, held.refresh_token) if t in dump] == []
    assert held.expires_at is not None
    assert held.expires_at > datetime.now(UTC)


def test_a_scribe_that_hangs_is_left_to_itself_and_another_one_asked(
    stand: Stand, scribe: Scribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every refresh of its worker would take five minutes and fail, for as long as the worker lives.

    It is not killed: it may have the only tokens in hand. Once it goes on it ends by itself.
    """
    grant_id = stand.grant()
    scribe.refresh(grant_id, 0)  # nothing to do: it is up
    hanging = scribe.pid
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    try:
        with monkeypatch.context() as hurried:
            hurried.setattr("cloudpush.credentials.scribe.ANSWER_SECONDS", 0.5)
            with pytest.raises(CloudPushError) as caught:
                scribe.refresh(grant_id, 1)
        scribe.refresh(grant_id, 1)
        lives = psutil.pid_exists(hanging)
    finally:
        os.kill(hanging, signal.SIGCONT)
    gone(hanging)

    assert (caught.value.code, lives, stand.row(grant_id).generation) == (Code.WORKER_LOST, True, 3)
    assert stand.oauth.reused() == []
