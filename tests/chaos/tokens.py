"""SIGKILL while tokens are refreshed: ``PYTHONPATH=tests python -m chaos.tokens [--rounds 100] [--victim worker|scribe] [--alone]``.

Each round a fresh worker refreshes a grant and is killed at a random moment, or its scribe is. Then the grant must be usable: with
a provider that rotates and revokes the family where a spent token comes again, that is the whole question. Exit code 1 if a grant
was lost that must not be: ``--alone`` and ``--victim scribe`` show what is lost without the scribe, and with the scribe killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import sqlalchemy as sa

import servers
from cloudpush.audit.database import make_engine
from cloudpush.audit.grants import GrantBook
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.vault import TokenSafe, TokenSealer
from cloudpush.errors import CloudPushError, Code
from cloudpush.logs import setup_logs
from cloudpush.push.credential import Credential, CredentialState
from cloudpush.push.grants import refresh
from cloudpush.push.grants.access import Access
from cloudpush.push.grants.model import OAUTH_GRANT, Grant, GrantState, Rotation
from cloudpush.settings import Settings
from cloudpush.stack.services import OpenBao
from cloudpush.wiring import SystemClock, build_refresher
from doubles.oauth_server import OAuthServer

#: The provider's own time for an answer.
LATENCY_SECONDS = 0.02
#: A kill falls up to so long after the step that it waited for: a step takes about as much.
JITTER_SECONDS = 0.015
#: What a refresh is seen to do, in its order: the first two and the last in Postgres, the others at the provider.
STEPS = ("opened", "refreshing", "received", "issued", "answered", "refreshed")
PATIENCE_SECONDS = 60.0
WORKER = Path(__file__).parent.parent / "grant_worker.py"


class Client:
    """A worker process, warm: it has its scribe and its way to Vault."""

    def __init__(self, settings: Settings, *, alone: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *(["--alone"] if alone else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.write(settings.model_dump_json())
        self._scribe: int | None = None

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    @property
    def scribe(self) -> int:
        """Its scribe's process id; waits until it is ready."""
        if self._scribe is None:
            word, _, number = self.read().partition(" ")
            assert word == "ready", word
            self._scribe = int(number)
        return self._scribe

    def ask(self, grant_id: UUID, beyond: int) -> None:
        self.write(f"{grant_id} {beyond}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Let it end; its scribe too."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait(PATIENCE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


def gone(pid: int) -> None:
    """Wait until that process has ended. It is no child of ours."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} does not end"
        time.sleep(0.01)


@dataclass
class Outcome:
    """What came of a round. ``fell``: between which steps the victim was killed."""

    fell: str
    lost: bool
    after: float


class Stand:
    """Postgres, OpenBao and an authorization server, and grants between them."""

    def __init__(self, database: servers.Database, openbao: OpenBao, oauth: OAuthServer, base: Path) -> None:
        self.table = base / f"providers-{uuid4()}.toml"
        self.table.write_text(oauth.table())
        self.oauth = oauth
        self.settings = Settings(
            database_url=database.url,
            vault_url=openbao.url,
            vault_auth_dir=openbao.auth_dir,
            providers_file=self.table,
            log_level="error",
        )
        self.engine = make_engine(database.url, pool_size=4)
        self.store = GrantBook(self.engine)
        self.worker = VaultConnection(self.settings, "worker")
        self.web = VaultConnection(self.settings, "web")
        self.safe = TokenSafe(self.worker)
        self.refresher = build_refresher(self.settings)

    def close(self) -> None:
        self.refresher.close()
        self.worker.close()
        self.web.close()
        self.engine.dispose()

    def grant(self) -> UUID:
        """A connection, as the web application makes one."""
        grant_id, name, now = uuid4(), f"lab-{secrets.token_hex(4)}", datetime.now(UTC)
        tokens = self.oauth.grant()
        credential = Credential(
            grant_id, "ada", OAUTH_GRANT, name, "gcs", "", CredentialState.SEALING, created_at=now, created_by="ada"
        )
        grant = Grant(
            grant_id,
            "ada",
            name,
            OAUTH_GRANT,
            "box",
            GrantState.ACTIVE,
            "sealing",
            generation=1,
            access_expires_at=tokens.expires_at,
        )
        self.store.add(credential, grant, None, "ada")
        version = TokenSealer(self.web).seal_tokens(grant_id, "ada", 1, tokens.dump())
        self.store.activate(grant_id, version, "ada")
        return grant_id

    def row(self, grant_id: UUID) -> Grant:
        found = self.store.get(grant_id)
        assert found is not None
        return found

    def access(self) -> Access:
        return Access(store=self.store, safe=self.safe, renewing=self.refresher, clock=SystemClock(), worker="judge")

    def rotate(self, rotation: Rotation) -> None:
        """Let the provider be another kind, and the operator's table say so."""
        self.oauth.rotation = rotation
        self.table.write_text(self.oauth.table())
        self.refresher.close()
        self.refresher = build_refresher(self.settings)

    def unreachable_safe(self) -> TokenSafe:
        """The way to a Vault where nothing listens."""
        return TokenSafe(
            VaultConnection(self.settings.model_copy(update={"vault_url": "http://127.0.0.1:9"}), "worker")
        )

    def break_connections(self) -> None:
        """What a restart of Postgres does to everybody who is connected, locks included."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with self.engine.begin() as c:  # the same role may
            c.execute(sa.text(query))

    def everything(self) -> str:
        """Every row of every table, as text."""
        with self.engine.connect() as c:
            tables = ("credential", "oauth_grant", "sheet", "event", "chore")
            return "\n".join(str(row) for t in tables for row in c.execute(sa.text(f"SELECT * FROM {t}")))

    def recovers(self, grant_id: UUID, beyond: int) -> bool:
        """Whether tokens beyond that generation are to be had, and are good; waits for what passes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                _, tokens = self.access().tokens(grant_id, beyond=beyond)
            except CloudPushError as e:
                if e.code is not Code.WORKER_LOST or time.monotonic() > deadline:
                    return False
                time.sleep(0.1)
            else:
                return self.oauth.is_good(tokens.access_token)

    def events(self, grant_id: UUID) -> list[tuple[str, float]]:
        """Its events with their moments, of the clock on the wall."""
        query = sa.text("SELECT kind, extract(epoch FROM at) AS at FROM event WHERE stream = :id ORDER BY seq")
        with self.engine.connect() as c:
            return [(row.kind, float(row.at)) for row in c.execute(query, {"id": grant_id})]

    def await_step(self, grant_id: UUID, step: str, events_before: int) -> None:
        """Wait until the refresh has come so far."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if step in ("received", "issued", "answered"):
                if self.oauth.last(step):
                    return
            elif any(kind == f"grant.{step}" for kind, _ in self.events(grant_id)[events_before:]):
                return
            time.sleep(0.0005)
        raise AssertionError(f"no refresh came as far as {step}")

    def fell(self, grant_id: UUID, killed: float, events_before: int) -> str:
        """Between which steps ``killed`` (of the monotonic clock) was."""
        offset = time.time() - time.monotonic()
        steps = [(kind.removeprefix("grant."), at - offset) for kind, at in self.events(grant_id)[events_before:]]
        with self.oauth._lock:
            steps += [(m.what, m.at) for m in self.oauth.moments]
        first = {name: min((at for kind, at in steps if kind == name), default=float("inf")) for name in STEPS}
        passed = [name for name in STEPS if first[name] <= killed]
        return f"after {passed[-1]}" if passed else "before anything"


@contextmanager
def stand(rotation: Rotation = Rotation.SINGLE_USE) -> Iterator[Stand]:
    """All servers of its own."""
    with (
        servers.scratch() as base,
        servers.running(servers.make_postgres(base)) as postgres,
        servers.running(servers.make_openbao(base)) as openbao,
        OAuthServer(rotation) as oauth,
    ):
        made = Stand(servers.Databases(postgres).migrated(), openbao, oauth, base)
        try:
            yield made
        finally:
            made.close()


def rounds(
    s: Stand, number: int, *, chance: random.Random, victim: str = "worker", alone: bool = False
) -> Iterator[Outcome]:
    """``number`` kills, each in the midst of a refresh of one grant; a lost grant is followed by another."""
    s.oauth.between = lambda: time.sleep(LATENCY_SECONDS)
    grant_id, warm = s.grant(), deque([Client(s.settings, alone=alone)])
    for left in range(number, 0, -1):
        client = warm.popleft()
        scribe = client.scribe
        if left > 1:
            warm.append(Client(s.settings, alone=alone))
        beyond, before = s.row(grant_id).generation, len(s.events(grant_id))
        with s.oauth._lock:
            s.oauth.moments.clear()
        step, after = chance.choice(STEPS), chance.uniform(0, JITTER_SECONDS)
        client.ask(grant_id, beyond)
        s.await_step(grant_id, step, before)
        time.sleep(after)
        if victim == "scribe":
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(scribe).kill()
        killed = time.monotonic()
        client.kill()
        if scribe:
            gone(scribe)
        fell = s.fell(grant_id, killed, before)
        lost = not s.recovers(grant_id, beyond)
        yield Outcome(fell, lost, after)
        if lost:
            grant_id = s.grant()


def window(s: Stand, number: int = 50) -> list[float]:
    """Seconds between the provider's answer and its tokens in Vault, of so many refreshes in this process."""
    grant_id, moments, found = s.grant(), dict[str, float](), list[float]()
    inner = s.refresher.refresher
    endpoint, safe = inner._endpoint, inner._safe

    class Timed:
        def refresh(self, *given: object) -> object:
            answer = endpoint.refresh(*given)  # type: ignore[arg-type]
            moments["answer"] = time.monotonic()
            return answer

        def prepare(self, *given: object) -> object:
            pen = safe.prepare(*given)  # type: ignore[arg-type]
            write = pen.write

            class Pen:
                def write(self, plaintext: bytes) -> int:
                    version = write(plaintext)
                    found.append(time.monotonic() - moments["answer"])
                    return version

            return Pen()

        def __getattr__(self, name: str) -> object:
            return getattr(safe, name)

    inner._endpoint = inner._safe = Timed()  # type: ignore[assignment]
    for _ in range(number):
        inner.refresh(grant_id, s.row(grant_id).generation)
    inner._endpoint, inner._safe = endpoint, safe
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--victim", choices=("worker", "scribe"), default="worker")
    parser.add_argument("--alone", action="store_true", help="workers refresh themselves, without a scribe")
    parser.add_argument("--rotation", choices=[r.value for r in Rotation], default=Rotation.SINGLE_USE.value)
    args = parser.parse_args()
    setup_logs("error")
    refresh.SETTLED = timedelta(seconds=1)  # nobody lives who could be waited for
    fell, lost = Counter[str](), Counter[str]()
    with stand(Rotation(args.rotation)) as s:
        spans = sorted(window(s))
        print(
            f"seed {args.seed}; answer to Vault: median {statistics.median(spans) * 1e3:.1f} ms, worst {spans[-1] * 1e3:.1f} ms"
        )
        chance = random.Random(args.seed)
        for outcome in rounds(s, args.rounds, chance=chance, victim=args.victim, alone=args.alone):
            print(f"  {outcome.fell}{', lost' if outcome.lost else ''}", flush=True)
            fell[outcome.fell] += 1
            lost[outcome.fell] += outcome.lost
        print(json.dumps({"fell": dict(fell), "lost": {k: v for k, v in lost.items() if v}}, indent=2))
        total = sum(lost.values())
        print(
            f"{args.rounds} kills of the {args.victim}, {total} grants lost, {len(s.oauth.reused())} families revoked by reuse"
        )
    sys.exit(1 if total and args.victim == "worker" and not args.alone else 0)


if __name__ == "__main__":
    main()
