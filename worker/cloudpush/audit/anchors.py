"""Checkpoints against the newest one that Vault remembers: who owns the database cannot take that back."""

from __future__ import annotations

import sqlalchemy as sa

from cloudpush.audit.database import transaction
from cloudpush.audit.findings import Report, Witness
from cloudpush.push.trust.checkpoints import digest


def verify_anchor(c: sa.Connection, report: Report, witness: Witness) -> None:
    """Look up the newest checkpoint, and the one that Vault remembers, without looking at any other."""
    newest: int = c.execute(NEWEST).scalar_one()
    there = ""
    if witness.anchor is not None:
        text = c.execute(STATEMENT, {"number": witness.anchor.number}).scalar_one_or_none()
        there = digest(text.encode()) if text is not None else ""
        if not there and witness.anchor.number <= newest:
            report.blame(None, None, f"checkpoint {witness.anchor.number}, which Vault remembers, is missing")
    compare_anchor(report, witness, newest, there)


def verify_saved(c: sa.Connection, report: Report, witness: Witness) -> None:
    """The checkpoints of which somebody kept copies, without looking at any other."""
    for number, sha256 in witness.saved:
        text = c.execute(STATEMENT, {"number": number}).scalar_one_or_none()
        compare_saved(report, number, sha256, digest(text.encode()) if text is not None else "")


def compare_saved(report: Report, number: int, sha256: str, there: str) -> None:
    """``there``: the digest of the record's checkpoint of that number; empty where it is missing."""
    if not there:
        report.blame(None, None, f"checkpoint {number}, of which there is a copy, is gone")
    elif there != sha256:
        report.blame(None, None, f"checkpoint {number} is not the one of which there is a copy")


def compare_anchor(report: Report, witness: Witness, newest: int, there: str) -> None:
    """``newest``: the greatest number, 0 for none. ``there``: the digest of the remembered one; empty where it is missing."""
    anchor = witness.anchor
    if anchor is None:
        if witness.asked and newest:
            what = "Vault remembers no checkpoint, although there are some: its anchor was removed"
            report.blame(None, None, what)
    elif anchor.number > newest:
        gone = f"checkpoint {anchor.number} is" if anchor.number == newest + 1 else ""
        gone = gone or f"checkpoints {newest + 1} to {anchor.number} are"
        what = (
            f"the record was restored to an older state, or cut short: {gone} "
            f"gone, which Vault remembers (up to event id {anchor.last_id})"
        )
        report.blame(None, None, what)
    elif there not in ("", anchor.sha256):
        report.blame(None, None, f"checkpoint {anchor.number} is not the one that Vault remembers")


def anchored(engine: sa.Engine, witness: Witness) -> Report:
    """The same on the spot. Raises StoreError."""
    report = Report()
    with transaction(engine.execution_options(isolation_level="REPEATABLE READ")) as c:
        verify_anchor(c, report, witness)
    return report


NEWEST = sa.text("SELECT coalesce(max(number), 0) FROM checkpoint")

STATEMENT = sa.text("SELECT statement FROM checkpoint WHERE number = :number")
