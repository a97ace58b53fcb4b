"""Whose host it is, and where on it the bucket is told: in the name, or first in the path.

The table holds the hosts that providers document. On any other host a signed URL says nothing of the sort, so only
what the operator declared is believed: see :class:`Styles`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from cloudpush.push.guard import Origin, check_endpoint, listed, parse_endpoint, parse_origin

AWS, R2, B2, WASABI, SPACES, GCS, AZURE, OTHER = "aws", "r2", "b2", "wasabi", "spaces", "gcs", "azure", "other"

#: Hosts kept parsed and judged: a push has one, a hostile manifest one in each row.
_KEPT = 256

_REGION = r"(?:[a-z]{2}|eusc)(?:-[a-z]+)+-\d+"
_AMAZON = r"\.amazonaws\.(?:com|com\.cn|eu)"
_STACK = r"(?:-fips)?(?:\.dualstack)?"
_BUCKET = r"(?:(?P<bucket>.+)\.)?"
_OWN_BUCKET = r"(?P<bucket>.+)\."

#: Hosts by flavour. Where ``bucket`` matches, the host tells the bucket; otherwise the path's first segment does.
#: Source: provider-facts and the providers' endpoint pages.
_HOSTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (flavour, re.compile(pattern))
    for flavour, pattern in (
        (AWS, rf"{_BUCKET}s3{_STACK}[.-](?:{_REGION}|external-1){_AMAZON}"),
        (AWS, rf"{_BUCKET}s3{_AMAZON}"),
        (AWS, rf"{_OWN_BUCKET}s3-accelerate(?:\.dualstack)?{_AMAZON}"),
        (AWS, rf"{_OWN_BUCKET}s3-accesspoint{_STACK}\.{_REGION}{_AMAZON}"),
        (AWS, rf"{_OWN_BUCKET}s3express(?:-fips)?-[a-z0-9-]+(?:\.dualstack)?\.{_REGION}{_AMAZON}"),
        (AWS, rf"{_BUCKET}bucket\.vpce-[a-z0-9-]+\.s3\.{_REGION}\.vpce{_AMAZON}"),
        (R2, r"(?:(?P<bucket>[a-z0-9-]+)\.)??[a-z0-9]+(?:\.(?:eu|fedramp))?\.r2\.cloudflarestorage\.com"),
        (B2, rf"{_BUCKET}s3\.[a-z0-9-]+\.backblazeb2\.com"),
        (WASABI, rf"{_BUCKET}s3(?:\.[a-z0-9-]+)?\.wasabisys\.com"),
        (SPACES, rf"{_BUCKET}[a-z]{{3}}\d\.digitaloceanspaces\.com"),
        (GCS, rf"{_BUCKET}(?:storage|commondatastorage)\.googleapis\.com"),
        (GCS, rf"{_BUCKET}storage\.[a-z0-9-]+\.rep\.googleapis\.com"),
    )
)
#: Hosts of theirs that are not in the table (object lambda, outposts, …): whose they are is certain, the bucket is not.
_DOMAINS = (
    (".amazonaws.com", AWS),
    (".amazonaws.com.cn", AWS),
    (".amazonaws.eu", AWS),
    (".r2.cloudflarestorage.com", R2),
    (".r2.dev", R2),
    (".backblazeb2.com", B2),
    (".wasabisys.com", WASABI),
    (".digitaloceanspaces.com", SPACES),
    (".googleapis.com", GCS),
)
#: An account's host names one account; containers are in the path. ``dfs`` is the same account's other protocol.
_AZURE = re.compile(
    r"(?P<account>[a-z0-9]{3,24}(?:\.z\d{1,2})?)\.(?P<service>blob|dfs)\.(?P<domain>core\.windows\.net|core\.usgovcloudapi\.net"
    r"|core\.chinacloudapi\.cn|core\.cloudapi\.de|storage\.azure\.net|preprod\.core\.windows\.net)"
)


@dataclass(frozen=True, slots=True)
class Styles:
    """What the operator declared of hosts. Built once, by :meth:`of`.

    ``allowed``: the operator's listed hosts, as push.guard takes them. ``endpoints``: hosts (``host`` or ``host:port``,
    IPv6 in brackets before a port) that are S3 endpoints: on them the bucket is the path's first segment, and a host
    that ends with one of them begins with the bucket.
    """

    allowed: tuple[str, ...] = ()
    endpoints: frozenset[str] = frozenset()

    @classmethod
    def of(cls, allowed: Collection[str] = (), profile_endpoints: Collection[str] = ()) -> Styles:
        """``profile_endpoints``: ``https://HOST[:PORT]`` of the operator's profiles. Raises InputError."""
        names = {entry.strip().lower() for entry in allowed}
        names |= {_authority(parse_endpoint(url)) for url in profile_endpoints if url}
        return cls(tuple(allowed), frozenset(names))


@dataclass(frozen=True, slots=True)
class Place:
    """A host that may be named, and what it tells.

    ``bucket``: told by the host, else empty. ``path_style``: the path's first segment is the bucket. Neither: the
    host does not say. ``listed``: the operator named this very host. ``vouched``: that, or whoever answers there is the
    provider itself: on a host of the table TLS says so. A name below a provider's domain is not enough: under
    ``amazonaws.com`` everybody may run a server.
    """

    origin: Origin
    flavour: str
    bucket: str = ""
    path_style: bool = False
    listed: bool = False
    vouched: bool = False


@lru_cache(maxsize=_KEPT)
def place_of(head: str, styles: Styles) -> Place:
    """``head``: scheme, host and port as the user wrote them. Azure's ``dfs`` hosts become ``blob`` ones.

    Uploads go to the blob endpoint of the same account, where the same SAS is valid: a SAS signs ``/blob/ACCOUNT/…``
    for both. Raises NoOriginError; InputError ENDPOINT_FORBIDDEN.
    """
    origin = parse_origin(head)
    check_endpoint(origin.url, styles.allowed)
    named = listed(origin.host, origin.port, styles.allowed)
    if azure := _AZURE.fullmatch(origin.host):
        host = f"{azure['account']}.blob.{azure['domain']}"
        return Place(Origin(origin.scheme, host, origin.port), AZURE, path_style=True, listed=named, vouched=True)
    for flavour, pattern in _HOSTS:
        if match := pattern.fullmatch(origin.host):
            bucket = match["bucket"] or ""
            return Place(origin, flavour, bucket, path_style=not bucket, listed=named, vouched=True)
    flavour = next((flavour for domain, flavour in _DOMAINS if origin.host.endswith(domain)), OTHER)
    bucket, path_style = _declared(origin, styles.endpoints)
    vouched = named or listed(origin.host, origin.port, styles.endpoints)
    return Place(origin, flavour, bucket, path_style, named, vouched)


def _declared(origin: Origin, endpoints: Collection[str]) -> tuple[str, bool]:
    """Bucket and whether the path tells it, by the operator's endpoints; a host that fits both ways tells nothing."""
    path_style = listed(origin.host, origin.port, endpoints)
    buckets = {
        origin.host[: -len(host) - 1]
        for entry in endpoints
        for host, _, port in [entry.partition(":")]
        if host and origin.host.endswith(f".{host}") and port in {"", str(origin.port)}
    }
    if path_style and not buckets:
        return "", True
    if len(buckets) == 1 and not path_style:
        return buckets.pop(), False
    return "", False


def _authority(origin: Origin) -> str:
    return f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
