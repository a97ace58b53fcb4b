"""Values of the story as rows and parameters, and as what an event tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import storable
from cloudpush.errors import CloudPushError
from cloudpush.push.job import FileResult, Lease, Part, Verdict

Params = dict[str, Any]

#: Kind, credential that it concerns, data.
EventRow = tuple[str, UUID | None, Mapping[str, Any]]


def lease_params(lease: Lease) -> Params:
    """Who takes something, and for how long."""
    return {"token": lease.token, "seconds": lease.seconds, "worker": lease.worker}


def part_key(part: Part) -> Params:
    """Which part."""
    return {"id": part.push_id, "number": part.number}


def part_span(part: Part) -> Params:
    """Which files."""
    return {"id": part.push_id, "first": part.first, "last": part.last}


def part_params(part: Part) -> Params:
    """A part as it is stored."""
    return {**part_key(part), "first": part.first, "last": part.last, "files": part.files, "bytes": part.bytes}


def part_of(row: sa.RowMapping) -> Part:
    """A stored part."""
    return Part(
        row["push_id"],
        row["number"],
        row["first_seq"],
        row["last_seq"],
        row["files"],
        row["bytes"],
        row["attempt"],
        row["strikes"],
        closing=row["closing"],
    )


def error_params(error: CloudPushError | None) -> Params:
    """A code and our words."""
    return {"code": error.code.value if error else None, "message": storable(error.message) if error else None}


def result_columns(results: Sequence[FileResult]) -> dict[str, list[Any]]:
    """Results as one array a column: a single statement updates them all."""
    return {
        "seq": [r.seq for r in results],
        "state": [r.state.value for r in results],
        "strength": [r.strength.word for r in results],
        "sha256": [r.sha256 for r in results],
        "expected": [r.expected or None for r in results],
        "etag": [storable(r.etag) or None for r in results],
        "version_id": [storable(r.version_id) or None for r in results],
        "uploaded_at": [r.uploaded_at for r in results],
        "code": [r.error.code.value if r.error else None for r in results],
        "message": [storable(r.error.message) if r.error else None for r in results],
    }


def told(verdict: Verdict) -> dict[str, Any]:
    """An attempt's end as an event tells it."""
    words = said(verdict.error)
    return words if verdict.retry_in is None else {**words, "retry_in_seconds": round(verdict.retry_in, 3)}


def said(error: CloudPushError | None) -> dict[str, Any]:
    """An error as an event tells it: our words, and the foreign system's, redacted where they arose."""
    if error is None:
        return {}
    words = {"code": error.code, "message": error.message, "who_must_act": error.code.actor}
    return {**words, "detail": error.detail} if error.detail else words


def shown(row: sa.RowMapping) -> dict[str, Any]:
    """A row as people and JSON see it: digests in hex, internals left out."""
    return {
        name: bytes(value).hex() if isinstance(value, bytes | memoryview) else value
        for name, value in row.items()
        if name not in ("lease_token", "request_sha256")
    }
