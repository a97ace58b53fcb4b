"""The web pages over a real database, with a browser that runs no script, and people and things to show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.testclient import TestClient

from builders import a_destination, a_lease, a_page, a_request, an_error
from cloudpush.audit.grants import GrantBook
from cloudpush.errors import Code
from cloudpush.push.admission import CredentialCard
from cloudpush.push.grants.model import OAUTH_GRANT, WEB_IDENTITY, Grant
from cloudpush.push.job import Push, Verdict
from cloudpush.push.states import State
from cloudpush.settings import Settings
from cloudpush.web.app import make_app
from cloudpush.web.sessions import COOKIE, csrf_token, digest, new_token
from cloudpush.wiring import WebServices, build_web
from grant_builders import a_grant, its_credential
from records import Record
from servers import Database

WEB_URL = "https://push.example"

PROVIDERS = """
[google]
client_id = "cloudpush"

[azure]
client_id = "cloudpush"

[lab]
title = "Lab cloud"
flow = "code"
use = "bearer"
profile = "gcs"
client_id = "cloudpush"
issuer = "https://login.lab.example"
authorization_endpoint = "https://login.lab.example/authorize"
token_endpoint = "https://login.lab.example/token"
scopes = ["openid", "storage"]
needs = ["storage"]
rotation = "single_use"

[lab.explains]
openid = "Tell CloudPush which account you are"
storage = "Read and write your objects"
"""


@dataclass
class Site:
    """Everything that a test of pages needs."""

    record: Record
    services: WebServices
    app: Starlette
    grants: GrantBook = field(init=False)

    def __post_init__(self) -> None:
        self.grants = GrantBook(self.record.app)

    def browser(self, owner: str = "", **headers: str) -> Browser:
        """A browser; signed in as ``owner`` where one is named."""
        browser = Browser(self, headers)
        if owner:
            browser.sign_in(owner)
        return browser

    def link(self, owner: str, seconds: float = 600) -> str:
        """The token of a one-time link."""
        token = new_token()
        self.services.sessions.add_link(digest(token), owner=owner, seconds=seconds)
        return token

    def grant(self, owner: str, name: str = "lab data", **changes: Any) -> Grant:
        """An active grant of tokens that were never sealed anywhere."""
        now = datetime.now(UTC)
        kind = changes.get("kind", OAUTH_GRANT)
        values: dict[str, Any] = {
            "owner": owner,
            "name": name,
            "provider": "aws" if kind == WEB_IDENTITY else "lab",
            "subject": "ada@lab.example",
            "asked": ("openid", "storage"),
            "granted": ("openid", "storage"),
            "generation": 0 if kind == WEB_IDENTITY else 1,
            "access_expires_at": now + timedelta(minutes=40),
            "granted_at": now,
            "created_at": now,
        }
        grant = a_grant(**(values | changes))
        self.grants.add(replace(its_credential(grant, now), profile="gcs"), grant, None, owner)
        self.grants.activate(grant.id, 1, owner)
        found = self.grants.get(grant.id)
        assert found is not None
        return found

    def dead(self, grant: Grant) -> Grant:
        """Its refresh token is taken no more."""
        self.grants.start_refresh(grant, "worker-1")
        self.grants.fail_refresh(grant, an_error(Code.CONSENT_NEEDED), "worker-1")
        found = self.grants.get(grant.id)
        assert found is not None
        return found

    def push(self, grant: Grant, owner: str = "", **request: Any) -> UUID:
        """A push through ``grant`` that waits for a worker."""
        made = a_request(owner=owner or grant.owner, actor=owner or grant.owner, **request)
        card = CredentialCard(grant.id, grant.owner, grant.kind, "active", None, "", "")
        return self.record.desk.store(made, card, a_destination(made.destination), bytes(32))[0]

    def running(self, grant: Grant, files: int = 2, **request: Any) -> Push:
        """A push in the middle of its only part."""
        lease = a_lease(3600)
        push = self.record.ledger.claim_push(self.push(grant, **request), lease)
        assert push is not None
        page = a_page(push.id, files=files)
        self.record.ledger.finish_plan_with(push, lease, page)
        return push

    def paused(self, grant: Grant, **request: Any) -> UUID:
        """A push that waits for a reconnect."""
        lease = a_lease()
        push = self.record.ledger.claim_push(self.push(grant, **request), lease)
        assert push is not None
        self.record.ledger.end_push(push, lease, Verdict(State.AWAITING_CONSENT, an_error(Code.CONSENT_NEEDED)))
        return push.id

    def rename(self, push_id: UUID, **columns: Any) -> None:
        """Put hostile text where it should not be."""
        sets = ", ".join(f"{name} = :{name}" for name in columns)
        self.record.tamper(f"UPDATE push SET {sets} WHERE id = :id", id=push_id, **columns)

    def count(self, table: str, where: str = "true", **values: Any) -> int:
        """Rows."""
        with self.record.app.connect() as c:
            return int(c.execute(sa.text(f"SELECT count(*) FROM {table} WHERE {where}"), values).scalar_one())


class Browser(TestClient):
    """A browser that follows no redirect by itself and runs no script."""

    def __init__(self, site: Site, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(site.app, base_url=site.services.settings.web_url, follow_redirects=False)
        self.headers.update({"sec-fetch-site": "same-origin", **(headers or {})})
        self.site = site

    @property
    def token(self) -> str:
        """What its cookie holds."""
        return self.cookies.get(COOKIE) or ""

    @property
    def csrf(self) -> str:
        """What forms of its session carry."""
        return csrf_token(self.token)

    def sign_in(self, owner: str) -> Browser:
        """By a one-time link, as a person does."""
        token = self.site.link(owner)
        assert self.get("/sign-in/link", params={"token": token}).status_code == 200
        answer = self.send_form("/sign-in/link", token=token)
        assert answer.status_code == 303, answer.text
        return self

    def send_form(self, path: str, **fields: str) -> Any:
        """A form of ours, as a page of ours sends it."""
        return self.post(path, data={"csrf": self.csrf, **fields})


@contextmanager
def site(
    database: Database, redis_url: str, directory: Path, *, clients: Any = None, **settings: Any
) -> Iterator[Site]:
    """The pages over ``database``. ``clients``: stands for the client secrets in Vault."""
    providers = directory / f"providers-{uuid4()}.toml"
    providers.write_text(PROVIDERS)
    values: dict[str, Any] = {
        "database_url": database.url,
        "redis_url": redis_url,
        "vault_url": "http://127.0.0.1:9",  # nobody: pages that need no Vault do without
        "vault_auth_dir": directory,
        "providers_file": providers,
        "web_url": WEB_URL,
        "source_roots": (directory,),
    }
    with ExitStack() as closing:
        services = build_web(Settings(**(values | settings)))
        if clients is not None:
            services = replace(services, clients=clients)
        closing.callback(services.close)
        record = Record(database)
        closing.callback(record.close)
        yield Site(record, services, make_app(services))


def text_of(html: str) -> str:
    """What a page says, roughly."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
