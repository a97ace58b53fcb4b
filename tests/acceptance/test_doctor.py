"""`cloudpush doctor`: silent praise where all is well; what is wrong, and how to mend it, where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import sql

from acceptance.live import Cli, Exit, Live, closed_port

pytestmark = pytest.mark.xdist_group("live")

PARTS = [
    "cloudpush",
    "settings",
    "postgres",
    "postgres clock",
    "migrations",
    "audit role",
    "redis",
    "vault worker",
    "vault notary",
    "vault web",
    "vault intake",
    "vault keeper",
    "rclone",
    "source root",
    "web",
]


def test_everything_is_right_on_a_fresh_stack(cli: Cli) -> None:
    """Each part is looked at and found right."""
    run = cli("doctor", "--json")

    assert (run.code, [(c["part"], c["finding"]) for c in run.json]) == (
        Exit.SUCCEEDED,
        [(part, "ok") for part in PARTS],
    )


def no_level(live: Live, _tmp: Path) -> dict[str, str]:
    """A database without tables."""
    name = "never_upgraded"
    with live.superuser() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return {"CLOUDPUSH_DATABASE_URL": live.settings.database_url.replace("/cloudpush?", f"/{name}?")}


def no_roles(_live: Live, tmp: Path) -> dict[str, str]:
    """A directory without the files that the roles log in with."""
    return {"CLOUDPUSH_VAULT_AUTH_DIR": str(tmp)}


def no_root(_live: Live, tmp: Path) -> dict[str, str]:
    """A source root that does not exist."""
    return {"CLOUDPUSH_SOURCE_ROOTS": str(tmp / "gone")}


def no_rclone(_live: Live, tmp: Path) -> dict[str, str]:
    """An engine that is not there."""
    return {"CLOUDPUSH_RCLONE": str(tmp / "rclone")}


def old_rclone(_live: Live, tmp: Path) -> dict[str, str]:
    """An engine from before its control interface was mended."""
    program = tmp / "rclone"
    program.write_text("#!/bin/sh\necho 'rclone v1.60.1'\necho '- os/type: linux'\n")
    program.chmod(0o700)
    return {"CLOUDPUSH_RCLONE": str(program)}


def no_redis(_live: Live, _tmp: Path) -> dict[str, str]:
    """A broker that nobody runs."""
    return {"CLOUDPUSH_REDIS_URL": f"redis://127.0.0.1:{closed_port()}/0"}


@pytest.mark.parametrize(
    ("fault", "failing", "what", "fix"),
    [
        (no_level, {"migrations"}, "no level", "cloudpush db upgrade"),
        (no_roles, {"vault worker", "vault notary", "vault web", "vault intake", "vault keeper"}, "{auth}", "role"),
        (no_root, {"source root"}, "{tmp}/gone' is not a directory", "CLOUDPUSH_SOURCE_ROOTS"),
        (no_rclone, {"rclone"}, "{tmp}/rclone", "rclone 1.73.5"),
        (old_rclone, {"rclone"}, "1.60.1", "rclone 1.73.5"),
        (no_redis, {"redis"}, "refused", "CLOUDPUSH_REDIS_URL"),
    ],
)
def test_fault_is_named_with_its_mending(
    live: Live,
    tmp_path: Path,
    fault: Callable[[Live, Path], dict[str, str]],
    failing: set[str],
    what: str,
    fix: str,
) -> None:
    """What is wrong is told, with what to do about it; the other parts are found right all the same."""
    run = live.cli("doctor", "--json", **fault(live, tmp_path))

    wrong = [c for c in run.json if c["finding"] != "ok"]
    assert (run.code, {c["part"] for c in wrong}, {c["finding"] for c in wrong}) == (Exit.UNSOUND, failing, {"fail"})
    told = what.format(tmp=tmp_path, auth=tmp_path)
    assert [c for c in wrong if told not in c["what"] or fix not in c["fix"]] == []


def test_people_read_a_sign_and_an_arrow(cli: Cli) -> None:
    """The table for people carries the same words as the JSON."""
    run = cli("doctor", CLOUDPUSH_SOURCE_ROOTS="/nonexistent/root")

    assert run.code == Exit.UNSOUND
    assert "✗  source root" in run.out.replace("│", " ") or "✗ source root" in run.out
    assert "→ Create it, or correct CLOUDPUSH_SOURCE_ROOTS." in run.out
