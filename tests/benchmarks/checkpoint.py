"""How long a checkpoint over a million events takes, what memory it needs, and how fast the record is verified."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import sqlalchemy as sa

from cloudpush.audit.database import make_engine
from cloudpush.audit.integrity import verify
from notaries import FakeNotary
from servers import Database, Databases, make_postgres, running, scratch

EVENTS = 1_000_000
#: Events of each stream, as a small push has them.
EACH = 5

# Through the application's own function, so that each event has its hash; committed a thousand streams at a time.
APPEND = """
DO $$ BEGIN FOR i IN 1..{streams} LOOP
    PERFORM cloudpush_append(gen_random_uuid(), 'benchmark', ARRAY['push.claimed', 'push.planned', 'part.started',
        'credential.used', 'push.lease_expired'], array_fill(NULL::uuid, ARRAY[5]), array_fill('{{"number": 1, "worker": "a"}}'::text,
        ARRAY[5]));
    IF i % 1000 = 0 THEN COMMIT; END IF;
END LOOP; END $$
"""


def fill(database: Database, events: int) -> float:
    """Append so many events; seconds."""
    engine = make_engine(database.admin_url)
    start = time.perf_counter()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.execute(sa.text("SET statement_timeout = 0"))
        c.exec_driver_sql(APPEND.format(streams=events // EACH).replace("%", "%%"))
        for table in ("event", "chain"):
            c.execute(sa.text(f"VACUUM ANALYZE {table}"))
    engine.dispose()
    return time.perf_counter() - start


def run(database: Database | None = None, *, events: int = EVENTS) -> dict[str, Any]:
    """Figures: what ``database`` holds unsealed is sealed and verified; without one, a server is started and filled."""
    if database is not None:
        return _measure(database)
    with scratch() as directory, running(make_postgres(directory)) as postgres:
        made = Databases(postgres).migrated()
        filled = fill(made, events)
        return {"append_seconds": round(filled, 1)} | _measure(made)


def _measure(database: Database) -> dict[str, Any]:
    engine = make_engine(database.url)
    notary = FakeNotary(engine)
    before, sealed, start = _memory(), 0, time.perf_counter()
    while count := notary.seal():
        sealed += count
    sealing = time.perf_counter() - start
    after, start = _memory(), time.perf_counter()
    report = verify(engine, None, notary.witness())
    verifying = time.perf_counter() - start
    engine.dispose()
    return {
        "sealed_events": sealed,
        "checkpoint_seconds": round(sealing, 2),
        "checkpoint_memory_mib": round((after - before) / 1024, 1),
        "verified_events": report.events,
        "verify_seconds": round(verifying, 1),
        "verified_per_second": round(report.events / verifying) if verifying else 0,
        "faults": len(report.faults),
    }


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    for name, value in run().items():
        sys.stdout.write(f"{name:>24}  {value}\n")
