"""Where requests for a destination go: its URL, region and addressing style.

One place decides it, so that the engine that uploads and the inspector that verifies never speak to
different servers. Order: the credential's own endpoint, the profile's, the dialect's default.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from cloudpush.errors import Code, InputError
from cloudpush.push.guard import Origin, check_endpoint, listed, parse_endpoint
from cloudpush.push.job import Destination, Secret

#: A region becomes part of a host name and of every signature, so nothing but these characters may pass.
_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

#: Endpoints that name their region: s3.eu-west-1.amazonaws.com, s3.dualstack.…, s3-fips.…, s3.eu-central-003.backblazeb2.com.
_REGION_IN_HOST = re.compile(
    r"(?:s3|s3-fips)(?:\.dualstack)?[.-](?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|backblazeb2\.com)"
)

_AMAZON = (".amazonaws.com", ".amazonaws.com.cn")

#: What signatures name where neither the credential nor the profile names a region.
_DEFAULT_REGION = {"cloudflare": "auto"}
_FALLBACK_REGION = "us-east-1"

#: How to fill in the endpoint of a dialect that has no default.
_ENDPOINT_HINTS = {
    "cloudflare": "https://ACCOUNT-ID.r2.cloudflarestorage.com",
    "backblaze": "https://s3.REGION.backblazeb2.com (or a region in the credential)",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A resolved S3 endpoint.

    ``url`` is scheme, host and, where it is not the scheme's own, port: no path, no trailing slash.
    ``path_style``: the bucket is the first segment of the path, not the first label of the host.
    ``trusted``: the operator named this endpoint, so it may be http and may be a private address;
    any other is https and its addresses are checked when they are connected to.
    """

    url: str
    region: str
    path_style: bool
    trusted: bool

    def bucket_url(self, bucket: str) -> str:
        """The URL of ``bucket`` without trailing slash; keys follow after a slash."""
        if self.path_style:
            return f"{self.url}/{bucket}"
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{bucket}.{rest}"


def resolve(destination: Destination, secret: Secret, allowed: Collection[str] = ()) -> Endpoint:
    """The endpoint of ``destination`` for the holder of ``secret``. No network is touched.

    ``allowed``: the operator's listed hosts (``host`` or ``host:port``). An endpoint is trusted if the
    profile that names it is, if it is listed, or if it is the dialect's own default.

    Raises InputError: BAD_INPUT for an endpoint or region that is missing or malformed,
    ENDPOINT_FORBIDDEN for an untrusted endpoint that is not https or plainly not public.
    """
    profile = destination.profile
    theirs = parse_endpoint(secret.endpoint) if secret.endpoint else None
    ours = parse_endpoint(profile.endpoint) if profile.endpoint else None
    region = _checked_region(secret.reveal().get("region") or profile.region)
    origin = theirs or ours or _default(profile.dialect, region, profile.name)
    # Nobody but the provider decides where its own names lead.
    default = theirs is None and ours is None
    trusted = default or (profile.trusted and origin == ours) or listed(origin.host, origin.port, allowed)
    if not trusted:
        check_endpoint(origin.url, allowed)
    # Host names for buckets need DNS and certificates made for it: every server but Amazon's understands paths.
    # A wildcard certificate covers one label, so a bucket with dots cannot be a host name under TLS either.
    foreign = origin != ours and not origin.host.endswith(_AMAZON)
    return Endpoint(
        url=origin.url,
        region=region or _region_of(origin.host) or _DEFAULT_REGION.get(profile.dialect, _FALLBACK_REGION),
        path_style=profile.path_style or foreign or "." in destination.bucket,
        trusted=trusted,
    )


def _default(dialect: str, region: str, profile: str) -> Origin:
    if dialect == "aws":
        region = region or _FALLBACK_REGION
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        return Origin("https", f"s3.{region}.{suffix}", 443)
    if dialect == "backblaze" and region:
        return Origin("https", f"s3.{region}.backblazeb2.com", 443)
    hint = _ENDPOINT_HINTS.get(dialect, "https://HOST[:PORT]")
    raise InputError(
        Code.BAD_INPUT,
        f"endpoint is missing: profile {profile!r} has no default; give the credential an endpoint such as {hint}",
        field="endpoint",
    )


def _checked_region(region: str) -> str:
    if region and not _REGION.fullmatch(region):
        raise InputError(
            Code.BAD_INPUT,
            f"region {region[:64]!r} is not a region: write lower-case letters, digits and dashes, such as eu-west-1",
            field="region",
        )
    return region


def _region_of(host: str) -> str:
    match = _REGION_IN_HOST.fullmatch(host)
    return match["region"] if match else ""
