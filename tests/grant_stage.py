"""A whole CloudPush around one grant: real Postgres, Valkey, OpenBao, rclone, worker and sweeper; a strict OAuth server and
Google Cloud Storage, which takes the server's access tokens and no others, are doubles. Other clouds take their place by a
provider's table of their own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from aiohttp import web

from cloudpush.audit.grants import GrantBook
from cloudpush.credentials.clients import Clients
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.vault import TokenSealer
from cloudpush.push.grants.model import Grant, Tokens
from cloudpush.push.job import Request
from cloudpush.push.states import Overwrite, State
from cloudpush.settings import PREFIX, Settings
from cloudpush.wiring import Services, build
from doubles.gcs import GcsDouble, GcsObject
from doubles.gcs_json import Tokens as TokenTable
from doubles.oauth_server import SCOPE, OAuthServer
from grant_builders import a_grant, its_credential

OWNER = "ada"
BUCKET = "bucket"
PROVIDER = "mock"
#: How long anything may take before a test gives up on it: the machine may be busy.
PATIENCE_SECONDS = 90.0

#: What the double's table does not say.
MORE = """
manage_url = "https://provider.example/connections"
endpoint = "{storage}"
"""


class Introspected(TokenTable):
    """Tokens that the OAuth server calls good."""

    def __init__(self, oauth: OAuthServer) -> None:
        super().__init__()
        self._oauth = oauth

    def good(self, token: str) -> bool:
        return self._oauth.is_good(token)


class PacedGcs(GcsDouble):
    """Takes a while for each upload through the JSON API, and so many at a time. ``arrived``: keys, as often as they came."""

    def __init__(self, oauth: OAuthServer) -> None:
        super().__init__({}, [BUCKET])
        self.tokens = Introspected(oauth)
        self.seconds = 0.0
        self.at_once = asyncio.Semaphore(4)
        self.arrived: list[str] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if not request.raw_path.startswith("/upload/") or not self.seconds:
            return await super().answer(request)
        answer = await super().answer(request)  # the token is judged when the request begins
        async with self.at_once:
            await asyncio.sleep(self.seconds)
        return answer

    def _store_json(self, bucket: str, key: str, data: bytes) -> GcsObject:
        self.arrived.append(key)
        return super()._store_json(bucket, key, data)

    def sent(self, prefix: str) -> list[str]:
        """Keys below ``prefix`` that were uploaded, once for each time."""
        return sorted(key for key in self.arrived if key.startswith(f"{prefix}/"))


def until(true: Callable[[], bool], what: str, instead: Callable[[], object] = lambda: "") -> None:
    """Poll until it is true; fail with ``what``, and what was seen ``instead``, where it never is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"never came true: {what} {instead()}"
        time.sleep(0.02)


@dataclass
class GrantStage:
    """The parts, and a user's hands on them."""

    settings: Settings
    services: Services
    oauth: OAuthServer
    base: Path
    env_file: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.book = GrantBook(self.services.database)
        self._web = VaultConnection(self.settings, "web")
        self.sealer = TokenSealer(self._web)

    # -- processes -----------------------------------------------------------------------------

    def start(self, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        """`cloudpush WORDS` in the background, its log beside the others."""
        log = (self.base / f"{words[0]}-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "cloudpush", *words],
            env=self.environment | {PREFIX + k.upper(): v for k, v in variables.items()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        self.processes.append(process)
        return process

    @property
    def environment(self) -> dict[str, str]:
        """Of every process: nothing but the way to the settings."""
        home = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self.base)}
        return home | {"CLOUDPUSH_ENV_FILE": str(self.env_file)}

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`cloudpush WORDS` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "cloudpush", *words],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def logs(self) -> str:
        """What the processes wrote."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.base.glob("*.log")))

    def close(self) -> None:
        """Stop the processes."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait(PATIENCE_SECONDS)
        self._web.close()

    # -- the user --------------------------------------------------------------------------------

    def connect(self, name: str = "", owner: str = OWNER, answers: Mapping[str, str] | None = None) -> Grant:
        """A grant as a consent leaves it: sealed by the web application's own hand. ``answers``: to the provider's questions."""
        now, tokens = datetime.now(UTC), self.tokens()
        grant = a_grant(
            owner=owner,
            name=name or f"drive-{uuid4().hex[:6]}",
            provider=PROVIDER,
            subject=f"{owner}@provider.example",
            asked=(SCOPE,),
            granted=(SCOPE,),
            settings=answers or {},
            access_expires_at=tokens.expires_at,
            created_at=now,
        )
        self.book.add(replace(its_credential(grant, now), profile=""), grant, None, owner)
        self.book.activate(grant.id, self.sealer.seal_tokens(grant.id, owner, 1, tokens.dump()), owner)
        return self.grant(grant.id)

    def reconnect(self, grant: Grant) -> int:
        """The user consents anew; how many pushes go on."""
        tokens = self.tokens()
        with self.book.lock(grant.id, 20):
            number = self.book.reserve(grant.id)
            version = self.sealer.seal_tokens(grant.id, grant.owner, number, tokens.dump())
            return self.book.reconnect(grant.id, number, version, tokens, (SCOPE,), grant.owner)

    def tokens(self) -> Tokens:
        """What the provider gives for a code."""
        return self.oauth.grant()

    def grant(self, grant_id: UUID) -> Grant:
        """As it stands."""
        found = self.book.get(grant_id)
        assert found is not None
        return found

    # -- pushes ------------------------------------------------------------------------------------

    def source(self, files: int, size: int = 100) -> Path:
        """A directory of so many files below the source root."""
        top = self.settings.source_roots[0] / f"run-{secrets.token_hex(4)}"
        top.mkdir()
        for number in range(files):
            (top / f"file-{number:04}").write_bytes(secrets.token_bytes(size))
        return top

    def push(
        self,
        grant: Grant,
        source: Path,
        prefix: str,
        *,
        owner: str = OWNER,
        credential: str = "",
        bucket: str = f"gs://{BUCKET}",
    ) -> UUID:
        """Submit one to BUCKET/PREFIX."""
        request = Request(
            owner=owner,
            actor=owner,
            source=str(source),
            destination=f"{bucket}/{prefix}",
            credential=credential or str(grant.id),
            overwrite=Overwrite.ALWAYS,
        )
        return self.services.intake.submit(request).push_id

    def row(self, push_id: UUID) -> dict[str, Any]:
        """Where a push stands."""
        return self.services.history.push(push_id)

    def wait(self, push_id: UUID, *states: State) -> dict[str, Any]:
        """Its row once it is in one of these states; by default once it is over."""

        def there() -> bool:
            state = State(self.row(push_id)["state"])
            assert state in states or not (states and state.final), f"{self.row(push_id)} {self.logs()[-6000:]}"
            return state in states if states else state.final

        until(there, f"push {push_id} is {states or 'over'}", lambda: f"{self.row(push_id)} {self.logs()[-6000:]}")
        return self.row(push_id)

    def events(self, stream: UUID) -> list[str]:
        """Kinds of what happened to a push or grant, in order."""
        return [e["kind"] for e in self.services.history.events(stream)]


@contextmanager
def grant_stage(
    settings: Settings, base: Path, oauth: OAuthServer, gcs: PacedGcs, **overrides: Any
) -> Iterator[GrantStage]:
    """Settings, providers and services for these servers; no process is started."""
    table = oauth.table(PROVIDER) + MORE.format(storage=gcs.endpoint)
    allowed = {"allowed_endpoints": (*settings.allowed_endpoints, gcs.address)}
    # What these tests count is what their pushes send.
    quiet = {"preflight": "never"}
    with stage_with(settings, base, oauth, table, **(quiet | allowed | overrides)) as made:
        yield made


@contextmanager
def stage_with(
    settings: Settings, base: Path, oauth: OAuthServer, table: str, **overrides: Any
) -> Iterator[GrantStage]:
    """The same for a provider whose ``table`` says where its storage is. ``oauth`` gives the tokens of grants that have any."""
    with ExitStack() as closing:
        base.mkdir(parents=True, exist_ok=True)
        providers = base / "providers.toml"
        providers.write_text(table)
        values: dict[str, Any] = {
            "providers_file": providers,
            "concurrency": 4,
            "log_level": "debug",
        }
        made = settings.model_copy(update=values | overrides)
        env_file = base / "cloudpush.env"
        env_file.write_text("".join(f"{PREFIX}{name.upper()}={_text(value)}\n" for name, value in made if _said(value)))
        keeper = VaultConnection(made, "keeper")
        closing.callback(keeper.close)
        if oauth.client_secret:
            Clients(keeper).put(PROVIDER, oauth.client_secret)
        services = build(made)
        closing.callback(services.close)
        stage = GrantStage(made, services, oauth, base, env_file)
        closing.callback(stage.close)
        yield stage


def _said(value: object) -> bool:
    return value not in (None, "", ())


def _text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return (os.pathsep if value and isinstance(value[0], Path) else ",").join(map(str, value))
    return str(value)
