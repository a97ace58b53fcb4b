"""``cloudpush doctor``: is every part there, of the right version and with the right rights; if not, what to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import hvac
import requests
import sqlalchemy as sa
import typer
from rich.table import Table
from rich.text import Text

from cloudpush.audit.database import make_engine, transaction
from cloudpush.broker import Announcer, make_celery
from cloudpush.cli.context import console, print_json
from cloudpush.cli.exits import Exit
from cloudpush.credentials.connection import VaultConnection
from cloudpush.errors import CloudPushError, Code
from cloudpush.logs import setup_logs
from cloudpush.settings import Settings, read_settings
from cloudpush.transfer.binary import check_rclone
from cloudpush.wiring import destinations

#: Clocks that differ by more make signatures invalid at most providers (15 minutes), and audits confusing long before.
SKEW_SECONDS = 5.0
POSTGRES_AT_LEAST = 15
#: Seconds that the web pages may take to say that they are well.
WEB_SECONDS = 3.0


class Finding(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    part: str
    finding: Finding
    what: str
    fix: str = ""


def add_to(root: typer.Typer) -> None:
    """Add the command."""
    root.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Check every part and say how to mend what is wrong. Exit code 8 if something is."""
    setup_logs("error", "console")
    checks = list(examine())
    if as_json:
        print_json([{"part": c.part, "finding": c.finding, "what": c.what, "fix": c.fix} for c in checks])
    else:
        _show(checks)
    if any(c.finding is Finding.FAIL for c in checks):
        raise typer.Exit(Exit.UNSOUND)


def examine() -> Iterator[Check]:
    """Every check, in the order in which mending makes sense."""
    try:
        settings = read_settings()
    except CloudPushError as e:
        yield _failed("settings", e)
        return
    yield Check("cloudpush", Finding.OK, f"version {version('cloudpush')}")
    for part, look in LOOKS:
        try:
            yield from look(settings)
        except CloudPushError as e:
            yield _failed(part, e)


def _failed(part: str, error: CloudPushError) -> Check:
    return Check(part, Finding.FAIL, error.message, error.code.fix)


def _settings(settings: Settings) -> Iterator[Check]:
    destinations(settings)
    profiles = ", ".join(settings.profiles()) or "built-in ones only"
    yield Check("settings", Finding.OK, f"read; destination profiles: {profiles}")


def _postgres(settings: Settings) -> Iterator[Check]:
    from cloudpush.audit import migrate  # noqa: PLC0415 -- brings Alembic: not for every command to load

    engine = make_engine(settings.database_url, pool_size=1)
    try:
        with transaction(engine) as c:
            number = int(c.execute(sa.text("SHOW server_version_num")).scalar_one())
            where = f"PostgreSQL {number // 10000}.{number % 10000}"
            if number // 10000 < POSTGRES_AT_LEAST:
                yield Check(
                    "postgres", Finding.FAIL, f"{where} is too old", f"Upgrade to {POSTGRES_AT_LEAST} or newer."
                )
            else:
                yield Check("postgres", Finding.OK, where)
            skew = (c.execute(sa.text("SELECT clock_timestamp()")).scalar_one() - datetime.now(UTC)).total_seconds()
            yield _clock("postgres clock", skew)
            level, needed = migrate.level(c), migrate.head()
            if level != needed:
                fix = "Run `cloudpush db upgrade`."
                yield Check(
                    "migrations", Finding.FAIL, f"the database is at {level or 'no level'}, needed is {needed}", fix
                )
                return
            yield Check("migrations", Finding.OK, f"at {level}")
            yield from _append_only(c)
    finally:
        engine.dispose()


def _append_only(c: sa.Connection) -> Iterator[Check]:
    """The application's role must not be able to change an event."""
    row = c.execute(RIGHTS).one()
    held = (("UPDATE", row.may_update), ("DELETE", row.may_delete), ("TRUNCATE", row.may_truncate))
    excess = [name for name, may in held if may]
    if excess:
        yield Check(
            "audit role",
            Finding.WARN,
            f"role {row.role} may {', '.join(excess)} events; only triggers stand in the way",
            "Let CLOUDPUSH_DATABASE_URL log in as a role that is a member of cloudpush_app and owns nothing.",
        )
    else:
        yield Check("audit role", Finding.OK, f"role {row.role} can append events and not change them")


RIGHTS = sa.text("""
    SELECT current_user AS role, has_table_privilege('event', 'UPDATE') AS may_update,
           has_table_privilege('event', 'DELETE') AS may_delete, has_table_privilege('event', 'TRUNCATE') AS may_truncate
""")


def _redis(settings: Settings) -> Iterator[Check]:
    announcer = Announcer(make_celery(settings.redis_url), settings.redis_url)
    yield Check("redis", Finding.OK, f"{announcer.ping()}, {announcer.length()} messages waiting")


def _vault(settings: Settings) -> Iterator[Check]:
    for role, wanted in RIGHTS_OF.items():
        connection = VaultConnection(settings, role)
        try:
            yield _vault_role(settings, connection, role, _paths(settings, wanted))
        except CloudPushError as e:
            yield _failed(f"vault {role}", e)
            if e.code in (Code.VAULT_SEALED, Code.VAULT_UNREACHABLE):
                return
        finally:
            connection.close()


def _vault_role(settings: Settings, connection: VaultConnection, role: str, wanted: dict[str, set[str]]) -> Check:
    """Compare what the role may do with what it must be able to do: neither less nor more."""
    held = connection.run(lambda client: _capabilities(client, list(wanted)))
    less, more = [], []
    for path, needed in wanted.items():
        has = set(held.get(path, [])) - {"deny"}
        less += [f"{'+'.join(sorted(needed - has))} on {path}"] if needed - has else []
        more += [f"{'+'.join(sorted(has - needed))} on {path}"] if has - needed else []
    fix = f"Write config/vault/policies/{role}.hcl as the policy of role {role} (mounts: {settings.vault_kv_mount}, {settings.vault_transit_mount})."
    if less:
        return Check(f"vault {role}", Finding.FAIL, f"may not {'; '.join(less)}", fix)
    if more:
        return Check(f"vault {role}", Finding.WARN, f"may more than it needs: {'; '.join(more)}", fix)
    return Check(f"vault {role}", Finding.OK, "logs in, and may do what it needs and nothing more")


def _capabilities(client: hvac.Client, paths: list[str]) -> object:
    return client.adapter.post("/v1/sys/capabilities-self", json={"paths": paths})


#: Role → (path, capabilities). Paths that a role must not reach at all stand with none.
RIGHTS_OF: dict[str, list[tuple[str, set[str]]]] = {
    "worker": [
        ("{kv}/data/credentials/x", {"read"}),
        ("{kv}/metadata/credentials/x", set()),
        ("{transit}/decrypt/{key}", {"update"}),
        ("{kv}/data/sheets/x", {"create", "read"}),
        ("{kv}/metadata/sheets/x", set()),
        ("{transit}/datakey/plaintext/{key}", {"update"}),
        ("{transit}/keys/{key}", set()),
        ("{kv}/data/clients/x", {"read"}),
        ("{transit}/sign/{issuer}/sha2-256", {"update"}),
        ("{transit}/keys/{issuer}", {"read"}),
        ("{transit}/sign/{audit}", set()),
        ("{transit}/sign/{submission}", set()),
        ("{transit}/keys/{submission}", {"read"}),
    ],
    "notary": [
        ("{transit}/sign/{audit}", {"update"}),
        ("{transit}/keys/{audit}", {"read"}),
        ("{transit}/keys/{audit}/config", set()),
        ("{kv}/data/anchors/x", {"create", "read", "update"}),
        ("{kv}/metadata/anchors/x", set()),
        ("{kv}/data/credentials/x", set()),
        ("{transit}/decrypt/{key}", set()),
    ],
    "web": [
        ("{kv}/data/credentials/x", {"create"}),
        ("{kv}/metadata/credentials/x", set()),
        ("{kv}/data/anchors/x", {"read"}),
        ("{transit}/sign/{audit}", set()),
        ("{transit}/keys/{audit}", {"read"}),
        ("{transit}/sign/{submission}", {"update"}),
        ("{transit}/keys/{submission}", {"read"}),
        ("{kv}/data/sheets/x", {"create"}),
        ("{kv}/metadata/sheets/x", set()),
        ("{kv}/data/clients/x", {"read"}),
        ("{transit}/decrypt/{key}", set()),
        ("{transit}/datakey/plaintext/{key}", {"update"}),
        ("{transit}/sign/{issuer}/sha2-256", set()),
        ("{transit}/keys/{issuer}", {"read"}),
    ],
    "intake": [
        ("{kv}/data/credentials/x", {"create"}),
        ("{kv}/metadata/credentials/x", set()),
        ("{kv}/data/sheets/x", {"create"}),
        ("{kv}/metadata/sheets/x", set()),
        ("{transit}/decrypt/{key}", set()),
        ("{transit}/datakey/plaintext/{key}", {"update"}),
        ("{kv}/data/anchors/x", {"read"}),
        ("{transit}/keys/{audit}", {"read"}),
    ],
    "keeper": [
        ("{kv}/data/credentials/x", {"read", "update"}),
        ("{kv}/metadata/credentials/x", {"read", "update", "delete"}),
        ("{kv}/data/sheets/x", {"read", "update"}),
        ("{kv}/metadata/sheets/x", {"read", "update", "delete"}),
        ("{kv}/data/clients/x", {"create", "update"}),
        ("{kv}/metadata/clients/x", {"create", "read", "update", "delete"}),
        ("{transit}/decrypt/{key}", set()),
        ("{transit}/rewrap/{key}", {"update"}),
        ("{transit}/keys/{key}/rotate", {"update"}),
    ],
}


def _paths(settings: Settings, wanted: list[tuple[str, set[str]]]) -> dict[str, set[str]]:
    names = {
        "kv": settings.vault_kv_mount,
        "transit": settings.vault_transit_mount,
        "audit": settings.vault_audit_key,
        "submission": settings.vault_submission_key,
        "key": settings.vault_transit_key,
        "issuer": settings.vault_issuer_key,
    }
    return {path.format(**names): capabilities for path, capabilities in wanted}


def _rclone(settings: Settings) -> Iterator[Check]:
    yield Check("rclone", Finding.OK, f"version {check_rclone(settings.rclone)} at {settings.rclone}")


def _web(settings: Settings) -> Iterator[Check]:
    if not settings.web_url:
        yield Check("web", Finding.OK, "no web pages: CLOUDPUSH_WEB_URL is not set")
        return
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"{settings.web_url.rstrip('/')}/healthz", timeout=WEB_SECONDS, allow_redirects=False)
        well = answer.status_code == 200 and answer.text == "ok\n"
        said = f"answers {answer.status_code}, and not as CloudPush does"
    except requests.RequestException as e:
        well, said = False, f"does not answer ({type(e).__name__})"
    if not well:
        yield Check("web", Finding.FAIL, f"{settings.web_url} {said}", WEB_FIX)
    elif not settings.web_oidc_issuer and not settings.web_link_user:
        yield Check("web", Finding.OK, f"serves {settings.web_url}; people sign in by `cloudpush web-link` only")
    else:
        yield Check("web", Finding.OK, f"serves {settings.web_url}")


WEB_FIX = "Start `cloudpush web`, or correct CLOUDPUSH_WEB_URL or what stands in front of it."


def _roots(settings: Settings) -> Iterator[Check]:
    if not settings.source_roots:
        yield Check(
            "source roots", Finding.FAIL, "none", "Set CLOUDPUSH_SOURCE_ROOTS to the directories that may be pushed."
        )
    for root in settings.source_roots:
        yield _root(root)


def _root(root: Path) -> Check:
    if not root.is_dir():
        return Check(
            "source root",
            Finding.FAIL,
            f"{str(root)!r} is not a directory",
            "Create it, or correct CLOUDPUSH_SOURCE_ROOTS.",
        )
    if not os.access(root, os.R_OK | os.X_OK):
        return Check(
            "source root",
            Finding.FAIL,
            f"{str(root)!r} cannot be read by this account",
            "Give the worker's account read access.",
        )
    if root.resolve() == Path("/"):
        return Check(
            "source root", Finding.WARN, "the whole file system may be pushed", "Name the data directories only."
        )
    return Check("source root", Finding.OK, str(root))


def _clock(part: str, skew: float) -> Check:
    if abs(skew) > SKEW_SECONDS:
        return Check(part, Finding.FAIL, f"differs from this machine's by {skew:+.1f} s", "Set the clocks (NTP).")
    return Check(part, Finding.OK, f"within {SKEW_SECONDS:.0f} s of this machine's, {time.strftime('%Z')}")


LOOKS: tuple[tuple[str, Callable[[Settings], Iterator[Check]]], ...] = (
    ("settings", _settings),
    ("postgres", _postgres),
    ("redis", _redis),
    ("vault", _vault),
    ("rclone", _rclone),
    ("source roots", _roots),
    ("web", _web),
)

STYLES = {Finding.OK: ("green", "✓"), Finding.WARN: ("yellow", "!"), Finding.FAIL: ("red", "✗")}


def _show(checks: list[Check]) -> None:
    table = Table(show_header=False, box=None)
    for c in checks:
        colour, sign = STYLES[c.finding]
        table.add_row(Text(sign, style=colour), c.part, Text(c.what))
        if c.fix:
            table.add_row("", "", Text(f"→ {c.fix}", style=colour))
    console().print(table)
