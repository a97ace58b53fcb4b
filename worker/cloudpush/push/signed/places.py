"""Where a push with signed URLs goes, as its row and its owner see it: told by its URLs, never by its user."""

from __future__ import annotations

from dataclasses import dataclass

from cloudpush.push.job import Destination, Profile
from cloudpush.push.signed.model import PROFILE, Kind, Provider, SignedUrl, Ticket

_BUCKETS = frozenset({"s3", "gs", "az"})


@dataclass(frozen=True, slots=True)
class HostDestination(Destination):
    """On a host that does not tell the bucket: ``bucket`` is empty, the profile's endpoint says where."""

    @property
    def uri(self) -> str:
        """``https://HOST[:PORT]/PREFIX``."""
        return f"{self.profile.endpoint}/{self.prefix}" if self.prefix else self.profile.endpoint


def destination_of(url: SignedUrl, prefix: str) -> Destination:
    """The destination that ``url``, and those beside it, lead to: below ``prefix``."""
    if not url.bucket:
        return HostDestination(url.origin.scheme, "", prefix, _profile(url.origin.url))
    return Destination(_scheme(url), url.bucket, prefix, _profile())


def read_destination(uri: str) -> Destination:
    """The inverse, for what is stored: ``uri`` as ``Destination.uri`` gave it. Raises ValueError for anything else."""
    scheme, separator, rest = uri.partition("://")
    place, _, prefix = rest.partition("/")
    if not separator or not place:
        raise ValueError(f"{uri!r} is no destination of signed URLs")
    if scheme in _BUCKETS:
        return Destination(scheme, place, prefix, _profile())
    return HostDestination(scheme, "", prefix, _profile(f"{scheme}://{place}"))


def common_directory(prefix: str, key: str) -> str:
    """The deepest directory of both: ``prefix`` is a directory (``a/b/`` or empty), ``key`` an object."""
    while not key.startswith(prefix):
        prefix = prefix[: prefix.rfind("/", 0, -1) + 1]
    return prefix


def directory_of(ticket: Ticket) -> str:
    """The directory that ``ticket`` puts something into, with its slash; empty for the bucket itself."""
    if ticket.kind is Kind.TREE:
        return f"{ticket.key}/" if ticket.key else ""
    return ticket.key[: ticket.key.rfind("/") + 1]


def _scheme(url: SignedUrl) -> str:
    if url.provider is Provider.AZURE:
        return "az"
    # Google takes S3's signatures, too; the bucket is in one place all the same.
    return "gs" if url.provider is Provider.GCS or url.flavour == "gcs" else "s3"


def _profile(endpoint: str = "") -> Profile:
    return Profile(PROFILE, dialect="", endpoint=endpoint)
