"""How looks at the whole record went, and what keeps it in months."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cloudpush.audit.database import statement, transaction
from cloudpush.audit.findings import Report

#: Faults that an inspection keeps; their number is told in any case.
KEPT = 100
#: Months made ahead of the present one: a sweeper that was away for half a year costs nothing.
AHEAD = 6


def summary(report: Report, *, faults: int | None = None) -> dict[str, Any]:
    """A report as JSON: its numbers and its first ``faults``, all by default."""
    return {
        "sound": report.sound,
        "chains": report.streams,
        "events": report.events,
        "parts": report.parts,
        "files": report.files,
        "checkpoints": report.checkpoints,
        "sealed": report.sealed,
        "pseudonymised": report.pseudonymised,
        "retired": {
            "months": list(report.retired_months),
            "events": report.retired_events,
            "files": report.retired_files,
        },
        "newest_checkpoint": report.newest,
        "faults_total": len(report.faults) + report.unlisted,
        "faults": [
            {"stream": str(f.stream) if f.stream else None, "seq": f.seq, "what": f.what}
            for f in report.faults[:faults]
        ],
        "unchecked": list(report.unchecked),
    }


class Inspections:
    """What inspections found, newest first, and the partitions of the months to come."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, started_at: datetime, by: str, report: Report) -> None:
        """Keep what was found. Raises StoreError."""
        with transaction(self._engine) as c:
            text = json.dumps(summary(report, faults=KEPT), ensure_ascii=False)
            c.execute(ADD, {"started_at": started_at, "by": by, "sound": report.sound, "report": text})

    def newest(self, limit: int = 1) -> list[dict[str, Any]]:
        """id, started_at, finished_at, by, sound and report of the newest ones. Raises StoreError."""
        with statement(self._engine) as c:
            return [dict(row) for row in c.execute(NEWEST, {"limit": limit}).mappings()]

    def age(self) -> float | None:
        """Seconds since the newest one began, by the database's clock; None before the first. Raises StoreError."""
        with statement(self._engine) as c:
            found = c.execute(AGE).scalar_one()
        return None if found is None else float(found)

    def make_months(self) -> int:
        """Make the partitions of the months to come; how many were lacking. Raises StoreError."""
        with statement(self._engine) as c:
            return int(c.execute(MAKE, {"ahead": AHEAD}).scalar_one())


ADD = sa.text("""
    INSERT INTO inspection (started_at, by, sound, report) VALUES (:started_at, :by, :sound, CAST(:report AS jsonb))
""")

NEWEST = sa.text("SELECT id, started_at, finished_at, by, sound, report FROM inspection ORDER BY id DESC LIMIT :limit")

AGE = sa.text("SELECT extract(epoch FROM clock_timestamp() - max(started_at)) FROM inspection")

MAKE = sa.text("SELECT cloudpush_make_partitions(:ahead)")
