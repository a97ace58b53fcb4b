"""Files that travel with the package: migrations, policies, server configuration.

In a wheel they lie inside the package; in a checkout they lie at its root.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """The directory ``migrations`` or ``config``. Raises FileNotFoundError for a broken installation."""
    for base in (PACKAGE, PACKAGE.parent.parent):
        path = base / name
        if path.is_dir():
            return path
    raise FileNotFoundError(f"cloudpush is installed without its {name} directory; install it again")
