"""The API over real servers: people of every role, with tokens, and things of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from starlette.applications import Starlette
from starlette.testclient import TestClient

from cloudpush.audit.access import AccessBook
from cloudpush.push.access.model import ALL_SCOPES, Role, Scope
from cloudpush.push.access.tokens import digest, new_token
from cloudpush.settings import Settings
from cloudpush.web.app import make_app
from cloudpush.wiring import WebServices, build_web
from records import Record
from servers import Database

WEB_URL = "https://push.example"
#: Accepted by every check before a worker looks at it.
SECRET = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "s3cr3t-canary-of-the-api", "region": "eu-central-1"}


@dataclass
class ApiSite:
    """Everything that a test of the API needs."""

    record: Record
    services: WebServices
    app: Starlette
    source: Path
    tokens: dict[tuple[str, Role | None], str] = field(default_factory=dict)

    def token(self, name: str, role: Role | None = None, scopes: frozenset[Scope] = ALL_SCOPES) -> str:
        """A token of ``name``'s; other roles than ``user`` and ``pipeline`` are granted first."""
        book = AccessBook(self.record.app)
        if role in (Role.AUDITOR, Role.ADMIN):
            book.grant_role(name, role, "tests")
        made = new_token()
        book.add_token(digest(made), owner=name, name=f"of {name}", role=role, scopes=scopes, seconds=3600, actor=name)
        return made

    def client(self, name: str = "", role: Role | None = None, scopes: frozenset[Scope] = ALL_SCOPES) -> TestClient:
        """A client of ``name``'s; of nobody's where none is given."""
        client = TestClient(self.app, base_url=WEB_URL, follow_redirects=False)
        if name:
            client.headers["authorization"] = f"Bearer {self.token(name, role, scopes)}"
        return client

    def credential(self, owner: str, **changes: Any) -> UUID:
        """An active key of ``owner``'s, which is in no Vault."""
        return self.record.credential(owner, **changes).id

    def body(self, credential: UUID | str, **changes: Any) -> dict[str, Any]:
        """A submission that is accepted."""
        given = {"source": str(self.source), "destination": "s3://lab-archive/run", "credential": str(credential)}
        return given | changes


@contextmanager
def api_site(database: Database, redis_url: str, directory: Path, **settings: Any) -> Iterator[ApiSite]:
    """The pages and the API over ``database``. Without Vault unless ``settings`` name one."""
    source = directory / "run"
    source.mkdir(exist_ok=True)
    (source / "a.txt").write_text("a")
    values: dict[str, Any] = {
        "database_url": database.url,
        "redis_url": redis_url,
        "vault_url": "http://127.0.0.1:9",
        "vault_auth_dir": directory,
        "web_url": WEB_URL,
        "source_roots": (directory,),
        "api_rate": 1e6,
        "api_burst": 1_000_000,
    }
    with ExitStack() as closing:
        services = build_web(Settings(**(values | settings)))
        closing.callback(services.close)
        record = Record(database)
        closing.callback(record.close)
        yield ApiSite(record, services, make_app(services), source)
