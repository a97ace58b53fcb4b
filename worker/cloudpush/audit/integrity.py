"""Is the record what was written? Chains, rows, checkpoints, and what Vault remembers of them.

What a chain proves is in ``chains``, what rows must say in ``comparisons``. Whoever can rewrite events, rows and heads
together leaves no trace there: that is what checkpoints are for (``seals``), signed by a key that no database has.
What a command dropped is expected to be gone, and nothing else (``retired``).
The recomputation is independent of the database's.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.chains import verify_chains
from cloudpush.audit.comparisons import verify_rows
from cloudpush.audit.database import transaction
from cloudpush.audit.findings import Fault, Report, Witness
from cloudpush.audit.retired import verify_retired
from cloudpush.audit.seals import verify_seals
from cloudpush.push.trust.chain import EPOCH, event_hash, genesis

__all__ = ["EPOCH", "Fault", "Report", "Witness", "event_hash", "genesis", "verify"]


def verify(engine: sa.Engine, push_id: UUID | None = None, witness: Witness | None = None) -> Report:
    """Check one push, credential or grant, or everything. Reads in pages; memory does not grow with the history.

    Without a ``witness`` neither signatures nor Vault's anchor are looked at, and the report says so.
    """
    report, witness = Report(), witness or Witness()
    # One snapshot: what is appended while we read is not half seen.
    with transaction(engine.execution_options(isolation_level="REPEATABLE READ")) as c:
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))  # a long history may take its time
        retirement = verify_retired(c, report, push_id)
        verify_chains(c, report, push_id, retirement, witness.signed)
        verify_rows(c, report, push_id, retirement)
        verify_seals(c, report, push_id, witness, retirement)
    return report
