"""The nouns of a push: plain, frozen values that every layer may speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable
from uuid import UUID

from cloudpush.errors import CloudPushError
from cloudpush.push.states import FileState, Overwrite, Package, State, Strength


@dataclass(frozen=True, slots=True)
class Profile:
    """Where a destination's scheme leads: a dialect and an endpoint.

    ``dialect``: ``gcs``, ``azure``, or rclone's name of the S3 provider in lower case: ``aws``, ``minio``,
    ``cloudflare``, ``seaweedfs``, ``backblaze``, ``ceph``, ``other``. ``endpoint`` is empty where
    the dialect's own default holds. ``trusted`` says that the operator wrote this endpoint, so it may be
    a private address; a user's own endpoint never is.
    """

    name: str
    dialect: str
    endpoint: str = ""
    region: str = ""
    path_style: bool = True
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """A bucket, a prefix in it and the profile that leads there."""

    scheme: str
    bucket: str
    prefix: str  # without leading or trailing slash; may be empty
    profile: Profile

    @property
    def uri(self) -> str:
        """As the user writes it."""
        return f"{self.scheme}://{self.bucket}/{self.prefix}" if self.prefix else f"{self.scheme}://{self.bucket}"


@runtime_checkable
class Secret(Protocol):
    """An unsealed credential: lives in memory only and masks itself in ``repr``."""

    @property
    def kind(self) -> str:
        """``access_key``, ``resign_hook``; of a grant's pass ``bearer``, ``sas`` or ``access_key``."""

    @property
    def endpoint(self) -> str:
        """The credential's own endpoint, or an empty string."""

    def reveal(self) -> Mapping[str, str]:
        """Field name → plaintext, for the one place that hands it to the engine."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to execute now. The token fences every later write."""

    token: UUID
    worker: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Push:
    """One request, as a worker holds it."""

    id: UUID
    owner: str
    source: Path
    destination: Destination
    credential_id: UUID
    credential_kind: str
    min_strength: Strength
    overwrite: Overwrite
    created_at: datetime
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    attempt: int = 1  # how often it was claimed
    strikes: int = 0  # how many of those failures count against it
    cancelled: bool = False  # somebody asked to stop it before this claim
    endpoint: str = ""  # of its credential; with signed URLs the origin that all of them lead to
    hook_id: UUID | None = None  # a credential of kind resign_hook: whom to ask for fresh URLs
    credential_owner: str = ""  # whose grant it is, where it was shared with the push's owner; empty: the owner's own
    package: Package | None = None  # what is written beside the data
    labels: Mapping[str, str] = field(default_factory=dict)
    unproved: bool = False  # no preflight of its credential has passed for where it goes
    probe: bool = False  # it stands for a preflight: what its credential gives may delete the probe, too

    @property
    def sealed_for(self) -> str:
        """Whose name the credential is sealed under."""
        return self.credential_owner or self.owner


@dataclass(frozen=True, slots=True)
class Part:
    """A slice of a push that one task executes."""

    push_id: UUID
    number: int
    first: int  # sequence number of the first file
    last: int  # … and of the last, inclusive
    files: int
    bytes: int
    attempt: int = 1
    strikes: int = 0
    closing: bool = False  # the last part of a push with a package: what is written beside the data


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of the plan. ``path`` is relative to the source, ``key`` is the whole object key."""

    seq: int
    path: str
    key: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something the walk found that cannot be pushed. ``path`` is printable; ``seq`` counts with the files'."""

    seq: int
    path: str
    error: CloudPushError


@dataclass(frozen=True, slots=True)
class Page:
    """A part and its rows, as planning stores them."""

    part: Part
    rows: tuple[PlannedFile | Refusal, ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What the source was when it was read, once.

    ``md5_etag`` is the ETag that an S3-like destination computes over these bytes when they are
    sent in pieces of the engine's part size: plain MD5, or ``md5(md5s)-N``. ``md5`` is None for a
    file that is sent in pieces: taking both would double the cost of reading it.
    """

    size: int
    mtime_ns: int
    sha256: bytes
    md5: bytes | None
    md5_etag: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What the destination answered about one key. ``exists`` is None where it may not tell.

    ``etag`` is without quotes. ``opaque_etag``: the object is encrypted in a way that makes its ETag no
    digest of the bytes, although it may look like one. ``sha256``: the provider's own digest of the whole
    object, base64, where it gives one; ``md5``: likewise, 16 bytes. ``reread``: SHA-256 of the object's bytes, which
    were read back. ``ingest``: what is there was sent in pieces, each with a digest that the provider compares; only an
    answer right after an upload says so.
    """

    exists: bool | None
    size: int | None = None
    etag: str = ""
    version_id: str = ""
    opaque_etag: bool = False
    sha256: str = ""
    md5: bytes = b""
    reread: bytes = b""
    ingest: bool = False
    error: CloudPushError | None = None


@dataclass(frozen=True, slots=True)
class FileResult:
    """How one file ended in this attempt."""

    seq: int
    state: FileState
    strength: Strength = Strength.NONE
    sha256: bytes | None = None
    expected: str = ""  # the digest that the destination's check was compared with
    etag: str = ""
    version_id: str = ""
    uploaded_at: datetime | None = None
    error: CloudPushError | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a transfer. Speed in bytes per second, ETA in seconds."""

    bytes: int = 0
    files: int = 0
    speed: float = 0.0
    eta: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The value that a push or part ends an attempt with."""

    state: State
    error: CloudPushError | None = None
    retry_in: float | None = None  # seconds; only with state QUEUED
    strike: bool = False  # whether this failure counts against the push; only with state QUEUED


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the files of a part, or of a whole push."""

    verified: int = 0
    skipped: int = 0
    unverified: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def state(self) -> State:
        """The final state these counts amount to. Nothing at all is no success."""
        if self.cancelled:
            return State.CANCELLED
        if self.failed:
            return State.FAILED
        if self.unverified:
            return State.UNVERIFIED
        return State.SUCCEEDED if self.verified or self.skipped else State.FAILED


@dataclass(frozen=True, slots=True)
class Request:
    """What a pipeline asks for, already parsed but not yet checked against the store."""

    owner: str
    actor: str
    source: str
    destination: str
    credential: str  # an id, the name of one of the owner's, or OWNER/NAME of a grant that is shared with them
    profile: str = ""
    min_strength: Strength | None = None  # None: the destination's default
    overwrite: Overwrite = Overwrite.IF_DIFFERENT
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str = ""
    package: Package | None = None
    retry_of: UUID | None = None  # the push that this one tries again
