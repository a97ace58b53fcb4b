"""What a signer is told: which files wait for URLs, and which of their parts are there, on real Postgres."""

from __future__ import annotations

import pytest

from builders import a_lease, a_piece, failed, paused, verified
from cloudpush.audit import needs
from cloudpush.audit.needs import needs_of
from cloudpush.errors import Code
from records import Record


def test_files_without_a_verdict_need_urls(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, page after page, with the parts that arrived; files that are done are left out."""
    monkeypatch.setattr(needs, "PAGE", 2)
    push = record.planned_signed(parts=2)
    claimed = record.ledger.claim_part(push.id, 1, lease := a_lease())
    assert claimed is not None
    record.sheets.record_pieces(claimed[1], lease, [a_piece(2, 2), a_piece(2, 1)])
    record.ledger.end_part(*claimed, lease, paused(), [*verified([1]), failed(2, Code.URL_EXPIRED)])

    assert [(row["seq"], row["error_code"], row["arrived"]) for row in needs_of(record.app, push.id)] == [
        (2, "URL_EXPIRED", [1, 2]),
        (3, None, []),
        (4, None, []),
    ]


def test_files_are_named_as_they_were_planned(record: Record) -> None:
    """Path, key and size."""
    push = record.planned_signed(parts=1)

    assert list(needs_of(record.app, push.id)) == [
        {"seq": n, "path": f"file-{n}", "key": f"runs/7/file-{n}", "size": 10, "error_code": None, "arrived": []}
        for n in (1, 2)
    ]
