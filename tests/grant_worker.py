"""What a worker does with a grant, in a process that a test can kill: ``python grant_worker.py [--alone]``.

From standard input: settings as JSON, then ``GRANT BEYOND`` a line; it asks for tokens beyond that generation. To standard output:
``ready SCRIBE_PID``, then ``ok GENERATION`` or ``CODE`` a line. ``--alone``: refreshes itself, as a worker without a scribe would.
"""

from __future__ import annotations

import sys
from uuid import UUID

from cloudpush.audit.database import make_engine
from cloudpush.audit.grants import GrantBook
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.scribe import Scribe
from cloudpush.credentials.vault import TokenSafe
from cloudpush.errors import CloudPushError
from cloudpush.push.grants.access import Access
from cloudpush.push.grants.ports import Renewing
from cloudpush.settings import Settings
from cloudpush.wiring import SystemClock, build_refresher


def main() -> None:
    settings = Settings.model_validate_json(sys.stdin.readline())
    scribe = None if "--alone" in sys.argv else Scribe(settings)
    renewing: Renewing = scribe or build_refresher(settings)
    connection = VaultConnection(settings, "worker")
    connection.check()
    store = GrantBook(make_engine(settings.database_url, pool_size=2))
    if scribe is not None:
        scribe.start()
    access = Access(
        store=store, safe=TokenSafe(connection), renewing=renewing, clock=SystemClock(), worker="grant-worker"
    )
    sys.stdout.write(f"ready {scribe.pid if scribe else 0}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        grant_id, beyond = line.split()
        try:
            grant, _ = access.tokens(UUID(grant_id), beyond=int(beyond))
            said = f"ok {grant.generation}"
        except CloudPushError as e:
            said = str(e.code)
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
    if scribe is not None:
        scribe.close()


if __name__ == "__main__":
    main()
