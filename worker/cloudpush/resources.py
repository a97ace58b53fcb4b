"""What a process has to live with: files that travel with the package, and the collector of its garbage.

Migrations, policies and server configuration lie inside the package in a wheel, and at its root in a checkout.
"""

from __future__ import annotations

import gc
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """The directory ``migrations`` or ``config``. Raises FileNotFoundError for a broken installation."""
    for base in (PACKAGE, PACKAGE.parent.parent):
        path = base / name
        if path.is_dir():
            return path
    raise FileNotFoundError(f"cloudpush is installed without its {name} directory; install it again")


#: Objects made before the young are looked through, and how many such looks until the next older are.
GC_THRESHOLDS = (20_000, 20, 20)


def calm_collector() -> None:
    """Call once everything is imported and built: what lives as long as the process is not looked through again.

    A push of thousands of files makes garbage that reference counts free; with the defaults the collector went through
    all modules a dozen times meanwhile, a tenth of a worker's time (measured: 5,000 × 10 KiB).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
