"""The roles of `deploy/postgres/roles.sql`, made by psql from files as the image of PostgreSQL does at its first start."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

import servers
from cloudpush.audit.migrate import upgrade
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.stack.services import Postgres

ROOT = Path(__file__).parents[2]
ROLES_SQL = (ROOT / "deploy" / "postgres" / "roles.sql").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PASSWORDS = {"owner": "the owner's $ecret", "app": "it's the \\ workers'"}


@dataclass(frozen=True)
class Installation:
    """A cluster to which `roles.sql` was given; only its superuser gets in without a password."""

    server: Postgres

    def url(self, role: str, password: str) -> str:
        return self.server.url(f"{role}:{quote(password, safe='')}", "cloudpush")

    def psql(self, script: str, database: str = "postgres") -> None:
        """As the superuser, up to the first error."""
        subprocess.run(
            [binaries.postgres("psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-d", self.server.url("postgres", database)],
            input=script,
            text=True,
            check=True,
            capture_output=True,
            timeout=60,
        )


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    with servers.scratch() as base, servers.running(servers.make_postgres(base)) as server:
        with server.connect() as c:  # what the embedded stack has made, and the image has not
            c.execute("DROP DATABASE cloudpush")
            c.execute("DROP ROLE cloudpush_owner, cloudpush_app")
        hba = server.directory / "hba.conf"
        hba.write_text("local all postgres peer map=stack\nlocal all all scram-sha-256\n")
        with server.connect() as c:
            c.execute("SELECT pg_reload_conf()")
        for name, password in PASSWORDS.items():
            (base / f"postgres-{name}-password").write_text(password)
        made = Installation(server)
        made.psql(ROLES_SQL.replace("/run/secrets", str(base)))
        upgrade(Settings(database_admin_url=made.url("cloudpush_owner", PASSWORDS["owner"])))
        yield made


def test_workers_log_in_by_their_password_and_cannot_change_the_record(installation: Installation) -> None:
    """As a member of cloudpush_app, which owns nothing."""
    with psycopg.connect(installation.url("cloudpush_worker", PASSWORDS["app"]), autocommit=True) as c:
        pushes = c.execute("SELECT count(*) FROM push").fetchone()
        with pytest.raises(InsufficientPrivilege):
            c.execute("DELETE FROM event")
        with pytest.raises(InsufficientPrivilege):
            c.execute("CREATE TABLE mine ()")

    assert pushes == (0,)


@pytest.mark.parametrize(
    ("role", "password"), [("cloudpush_worker", PASSWORDS["owner"]), ("cloudpush_app", ""), ("cloudpush_app", "x")]
)
def test_nobody_else_gets_in(installation: Installation, role: str, password: str) -> None:
    """Neither by the other's password, nor as the role that only carries rights."""
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(installation.url(role, password))


def test_the_monitors_role_and_queries_work_as_the_page_has_them(installation: Installation) -> None:
    """Every statement of the section *Monitoring*, with the rights of the section *Rights*."""
    grants = PAGE.partition("CREATE ROLE cloudpush_monitor")[2].partition("```")[0]
    grants = re.sub(r"(?m)^\\.*$", "", grants.replace("\\connect cloudpush", ""))
    queries = PAGE.partition("## Monitoring")[2].partition("```sql")[2].partition("```")[0]

    installation.psql("CREATE ROLE cloudpush_monitor" + grants, "cloudpush")
    installation.psql("SET ROLE cloudpush_monitor;" + queries, "cloudpush")

    assert queries.count(";") >= 8
