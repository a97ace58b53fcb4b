"""The nouns of signed URLs.

::

    signed URL   a capability: whoever holds it may make one kind of request until it expires
    ticket       everything that was handed over for one file: its URLs, headers and digests
    set          the tickets of one push: a credential of kind ``signed_urls``, sealed sheet by sheet
    sheet        tickets of neighbouring files, sealed together; cut into blocks that Vault stores
    piece        a part of a file that arrived: what a later attempt need not send again

URLs are secrets. None of these shows one in ``repr``, and nothing of a query string is stored outside Vault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from cloudpush.push.guard import Origin
from cloudpush.push.states import Strength

#: The kind of credential that a set is.
SIGNED_URLS = "signed_urls"
#: The kind of credential that a callback for fresh URLs is: ``url`` and ``secret``.
RESIGN_HOOK = "resign_hook"
#: The profile's name of a push with signed URLs.
PROFILE = "signed-url"

MIB = 1024 * 1024


class Provider(StrEnum):
    """Whose protocol a URL speaks."""

    S3 = "s3"
    GCS = "gcs"
    AZURE = "azure"


class Kind(StrEnum):
    """How a file is sent with its ticket."""

    PUT = "put"  # one request: S3 and GCS PUT; Azure blob SAS, in one request or in blocks
    FORM = "form"  # a POST policy form (S3)
    MULTIPART = "multipart"  # part URLs, a URL to complete and one to abort (S3, GCS XML)
    RESUMABLE = "resumable"  # GCS: a signed start, or the URI of a session
    TREE = "tree"  # Azure container or directory SAS: one ticket for every file of the push


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A signed URL and what it says of itself.

    ``bucket`` is empty where the host does not tell which part of the path it is; ``key`` is decoded, and then the
    whole path. Azure: ``bucket`` is the container, ``key`` the blob or directory. Times are aware, UTC; None where the
    URL does not say. ``signed_headers``: lower case; headers that a request must carry as they were signed.
    ``permissions`` and ``scope`` are Azure's ``sp`` and ``sr``. ``session``: the URI of a resumable upload under way.
    ``vouched``: the host is one that the provider documents as its own, or the operator listed it; on any other
    whoever is there may only speak the provider's protocol, and proves less (``proof``).
    """

    text: str = field(repr=False)
    provider: Provider
    flavour: str  # aws, r2, b2, wasabi, spaces, gcs, azure, other
    version: str  # v4, v2, sas, session
    origin: Origin
    bucket: str
    key: str
    starts_at: datetime | None = None
    expires_at: datetime | None = None
    signed_headers: frozenset[str] = frozenset()
    permissions: str = ""
    scope: str = ""
    part: int | None = None  # partNumber
    upload: str = field(default="", repr=False)  # uploadId
    session: bool = False
    temporary: bool = False  # signed with session credentials, which may end before it does
    vouched: bool = False


@dataclass(frozen=True, slots=True)
class Ticket:
    """What was handed over for one file. ``path`` is relative to the source, empty for the source itself or a TREE.

    ``url``: where to PUT; the form's address; a resumable upload's start or session; the SAS; the URL that completes a
    multipart upload. ``verify_method`` HEAD or GET goes with ``verify``. ``headers`` are to be sent with the upload,
    exactly so. ``checksums``: of the file, as its owner knows it, lower-case hex by ``sha256``, ``md5``, ``crc32c``,
    ``crc64nvme``. ``parts``: texts of the part URLs, of part 1 first. ``part_size``: bytes, 0 to choose.
    """

    path: str
    kind: Kind
    url: SignedUrl
    verify: SignedUrl | None = None
    verify_method: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    checksums: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    parts: tuple[str, ...] = field(default=(), repr=False)
    abort: str = field(default="", repr=False)
    part_size: int = 0
    expires_at: datetime | None = None  # the first of its upload URLs to expire

    @property
    def key(self) -> str:
        """The object's whole key; a TREE's is the directory that its SAS opens."""
        return self.url.key


@dataclass(frozen=True, slots=True)
class SheetCard:
    """Where a block of a sheet lies: metadata, in Postgres. ``first`` and ``last``: sequence numbers, inclusive.

    A sheet is ``blocks`` consecutive numbers; its plaintext is theirs, joined in order. ``session``: not tickets but
    the URI of the resumable upload of file ``first``.
    """

    number: int
    first: int
    last: int
    block: int = 1
    blocks: int = 1
    session: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file that the provider accepted. ``number`` counts from 1; ``offset`` and ``size`` in bytes.

    ``upload``: which upload it belongs to, as a fingerprint (the first 16 hex digits of the upload id's SHA-256;
    empty on Azure, where the blob itself keeps its blocks). ``md5`` of its bytes; ``proof``: what the answer proved.
    """

    seq: int
    number: int
    offset: int
    size: int
    etag: str
    md5: bytes
    crc64: int
    upload: str = ""
    proof: Strength = Strength.RESPONSE


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that was sent and accepted, with what the provider's own answers prove.

    ``expected``: the digest that the answer was compared with, as the provider writes it. ``sent``: bytes of the
    file's content that went out in this attempt. ``skipped``: an equal object was there; nothing was sent.
    ``note``: why it is not proved more strongly.
    """

    sha256: bytes
    strength: Strength
    expected: str = ""
    etag: str = ""
    version_id: str = ""
    sent: int = 0
    skipped: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Need:
    """A file that needs fresh URLs: what a callback is asked for. ``parts``: numbers of a multipart's missing parts."""

    seq: int
    path: str
    key: str
    kind: Kind
    parts: tuple[int, ...] = ()
