"""Givens: values that a test needs but does not care about. Say only what the test is about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from cloudpush.errors import CloudPushError, Code, DestinationError, SourceError
from cloudpush.push.job import (
    Destination,
    FileResult,
    Lease,
    Page,
    Part,
    PlannedFile,
    Profile,
    Push,
    Refusal,
    Request,
    Verdict,
)
from cloudpush.push.signed.model import PROFILE, SIGNED_URLS, Piece
from cloudpush.push.states import FileState, Overwrite, State, Strength

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CREDENTIAL = UUID("c0ffee00-0000-4000-8000-000000000001")
OWNER = "ada"
BUCKET = "results"
URI = f"s3://{BUCKET}/runs/7"
#: Where signed URLs lead to.
ORIGIN = "https://storage.example"


def a_destination(uri: str = URI, profile: str = "seaweedfs") -> Destination:
    """A bucket on a server that the operator vouches for; ``uri`` must be ``s3://BUCKET/PREFIX``."""
    bucket, _, prefix = uri.partition("://")[2].partition("/")
    return Destination("s3", bucket, prefix, Profile(profile, "seaweedfs", "http://127.0.0.1:8333", trusted=True))


def a_push(source: Path = Path("/data/run"), **changes: Any) -> Push:
    """A push of ``source`` with the defaults of the command line."""
    values: dict[str, Any] = {
        "id": uuid4(),
        "owner": OWNER,
        "source": source,
        "destination": a_destination(),
        "credential_id": CREDENTIAL,
        "credential_kind": "access_key",
        "min_strength": Strength.CHECKSUM,
        "overwrite": Overwrite.IF_DIFFERENT,
        "created_at": NOON,
    }
    return Push(**(values | changes))


def a_signed_push(source: Path = Path("/data/run"), **changes: Any) -> Push:
    """A push of ``source`` with signed URLs."""
    values: dict[str, Any] = {
        "destination": Destination("s3", BUCKET, "runs/7", Profile(PROFILE, "other")),
        "credential_kind": SIGNED_URLS,
        "min_strength": Strength.INGEST,
        "endpoint": ORIGIN,
    }
    return a_push(source, **(values | changes))


def a_piece(seq: int, number: int = 1, **changes: Any) -> Piece:
    """A part of 8 MiB that arrived."""
    size = 8 * 1024 * 1024
    values: dict[str, Any] = {"offset": (number - 1) * size, "size": size, "etag": f"e{number}", "md5": bytes(16)}
    return Piece(seq, number, **({"crc64": 2**64 - number} | values | changes))


def a_request(**changes: Any) -> Request:
    """What the command line sends for a plain push."""
    values: dict[str, Any] = {
        "owner": OWNER,
        "actor": OWNER,
        "source": "/data/run",
        "destination": URI,
        "credential": str(CREDENTIAL),
        "profile": "seaweedfs",
    }
    return Request(**(values | changes))


def a_lease(seconds: float = 30.0, worker: str = "worker-1") -> Lease:
    """A lease that nobody else has."""
    return Lease(uuid4(), worker, seconds)


def a_file(seq: int, size: int = 10, name: str = "") -> PlannedFile:
    """A planned file."""
    name = name or f"file-{seq}"
    return PlannedFile(seq, name, f"runs/7/{name}", size, mtime_ns=1_700_000_000_000_000_000 + seq)


def a_refusal(seq: int) -> Refusal:
    """A device that the walk met."""
    return Refusal(seq, f"dev-{seq}", SourceError(Code.SOURCE_NOT_A_FILE, f"'dev-{seq}' is a device"))


def a_page(push_id: UUID, number: int = 1, *, first: int = 1, files: int = 2, refusals: int = 0) -> Page:
    """A part of ``files`` files of 10 bytes and then ``refusals`` refusals, numbered from ``first``."""
    rows: list[PlannedFile | Refusal] = [a_file(first + i) for i in range(files)]
    rows += [a_refusal(first + files + i) for i in range(refusals)]
    part = Part(push_id, number, first, first + len(rows) - 1, len(rows), bytes=10 * files)
    return Page(part, tuple(rows))


def verified(seqs: Sequence[int], strength: Strength = Strength.CHECKSUM) -> list[FileResult]:
    """Files that were uploaded and proved."""
    return [
        FileResult(s, FileState.VERIFIED, strength, sha256=bytes(32), expected="e", etag="e", uploaded_at=NOON)
        for s in seqs
    ]


def failed(seq: int, code: Code = Code.ACCESS_DENIED) -> FileResult:
    """A file that failed: for good, or until it is retried or what it waits for comes."""
    state = FileState.PLANNED if code.retryable or code.waits else FileState.FAILED
    return FileResult(seq, state, error=an_error(code))


def unverified(seq: int, strength: Strength = Strength.SIZE) -> FileResult:
    """A file that is there, proved less than demanded."""
    return FileResult(seq, FileState.UNVERIFIED, strength, uploaded_at=NOON, error=an_error(Code.NOT_VERIFIED))


def skipped(seq: int, strength: Strength = Strength.CHECKSUM) -> FileResult:
    """A file that was there already."""
    return FileResult(seq, FileState.SKIPPED, strength, sha256=bytes(32), expected="e", etag="e")


def an_error(code: Code = Code.THROTTLED) -> CloudPushError:
    """An error whose words name its code."""
    return DestinationError(code, f"The provider said {code}.")


def done() -> Verdict:
    """A part went through."""
    return Verdict(State.SUCCEEDED)


def retry(seconds: float = 60.0, code: Code = Code.THROTTLED, *, strike: bool = True) -> Verdict:
    """Try again later."""
    return Verdict(State.QUEUED, an_error(code), retry_in=seconds, strike=strike)


def failure(code: Code = Code.NO_SUCH_BUCKET) -> Verdict:
    """Nothing more will come of it."""
    return Verdict(State.FAILED, an_error(code))


def paused(code: Code = Code.URL_EXPIRED) -> Verdict:
    """Somebody must hand over what it needs."""
    return Verdict(State.AWAITING_CONSENT, an_error(code))


def cancelled() -> Verdict:
    """Somebody asked to stop."""
    return Verdict(State.CANCELLED, an_error(Code.CANCELLED))
