"""An installed wheel can upgrade a database: what it needs travels with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cloudpush.audit.migrate import head
from servers import Databases

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(ROOT)]
    subprocess.run(command, check=True, timeout=240)
    (built,) = out.glob("cloudpush-*.whl")
    return built


def test_migrations_and_configuration_are_in_the_wheel(wheel: Path) -> None:
    """Every file of both directories."""
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"cloudpush/{path.relative_to(ROOT).as_posix()}"
        for directory in ("migrations", "config")
        for path in (ROOT / directory).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }

    assert expected - names == set()
    assert {"cloudpush/migrations/env.py", "cloudpush/config/vault/policies/worker.hcl", "cloudpush/py.typed"} <= names


def test_an_installed_wheel_upgrades_a_database(wheel: Path, databases: Databases, tmp_path: Path) -> None:
    """Without the checkout: everything is found inside the package."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    empty = databases.empty()
    script = (
        "import cloudpush; from cloudpush.audit.migrate import upgrade; from cloudpush.settings import read_settings; "
        "print(cloudpush.__file__, upgrade(read_settings()))"
    )
    paths = [str(tmp_path), *(p for p in sys.path if p.endswith("site-packages"))]
    env = {"CLOUDPUSH_DATABASE_ADMIN_URL": empty.admin_url, "PYTHONPATH": os.pathsep.join(paths)}

    told = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
    databases.drop(empty)

    assert told == [str(tmp_path / "cloudpush" / "__init__.py"), head()]
