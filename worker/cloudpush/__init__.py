"""CloudPush pushes datasets into users' own cloud buckets and proves what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudpush.client import Client as Client
    from cloudpush.client import Submission as Submission


def __getattr__(name: str) -> object:
    """``cloudpush.Client``, loaded when it is asked for: a worker has no need of it."""
    if name in ("Client", "Submission"):
        from cloudpush import client  # noqa: PLC0415 -- see above

        return getattr(client, name)
    raise AttributeError(f"module 'cloudpush' has no attribute {name!r}")
