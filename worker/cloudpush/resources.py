"""What a process has to live with: files that travel with the package, memory, and the collector of its garbage.

Migrations, policies and server configuration lie inside the package in a wheel, and at its root in a checkout.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource as limits
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


#: glibc's mallopt(3): the number of the setting.
M_ARENA_MAX = -8


def share_memory() -> None:
    """Call before threads are started: they take memory from one heap, not from one each that is never given back.

    Worth 10 MiB of a worker's 150 (measured: 5,000 × 10 KiB, 1 GiB). A C library that knows no such setting has no such
    heaps either.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


def keep_secrets_off_disk() -> None:
    """Neither this process nor one that it starts leaves tokens or keys in a file that nobody asked for.

    No crash writes memory to disk; and TLS writes its keys nowhere, as it would where a developer's variable is set.
    """
    limits.setrlimit(limits.RLIMIT_CORE, (0, 0))
    os.environ.pop("SSLKEYLOGFILE", None)


def calm_collector() -> None:
    """Call once everything is imported and built: what lives as long as the process is not looked through again.

    A push of thousands of files makes garbage that reference counts free; with the defaults the collector went through
    all modules a dozen times meanwhile, a tenth of a worker's time (measured: 5,000 × 10 KiB).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
