"""Where requests for a destination go: its URL, region and addressing style.

One place decides it, so that the engine that uploads and the inspector that verifies never speak to
different servers. Order: the credential's own endpoint, the profile's, the dialect's default. What a grant gives names an
endpoint of the operator's, and goes nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from cloudpush.errors import Code, InputError
from cloudpush.push.grants.model import GRANT_KINDS, OAUTH_GRANT, Bearer, Sas
from cloudpush.push.guard import NoOriginError, Origin, check_endpoint, listed, parse_endpoint, parse_origin
from cloudpush.push.job import Destination, Secret
from cloudpush.push.uris import AZURE, GCS, TITLES

#: Secrets that open destinations, see ``credentials.kinds`` and ``push.grants.model``.
ACCESS_KEY, BEARER, SAS = "access_key", "bearer", "sas"
#: Dialect → the kind of secret that opens it; every other dialect is S3's.
_SECRETS = {GCS: BEARER, AZURE: SAS}
#: Dialect → kinds of credentials that such a secret comes from.
_CREDENTIALS = {GCS: frozenset({OAUTH_GRANT}), AZURE: frozenset({OAUTH_GRANT})}
_S3_CREDENTIALS = GRANT_KINDS | {ACCESS_KEY}

_GOOGLE = Origin("https", "storage.googleapis.com", 443)

#: A region becomes part of a host name and of every signature, so nothing but these characters may pass.
_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

#: Endpoints that name their region: s3.eu-west-1.amazonaws.com, s3.dualstack.…, s3-fips.…, s3.eu-central-003.backblazeb2.com.
_REGION_IN_HOST = re.compile(
    r"(?:s3|s3-fips)(?:\.dualstack)?[.-](?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|backblazeb2\.com)"
)

#: https://HOST[:PORT], and the account where it is no part of the host's name.
_STORAGE = re.compile(r"(?P<origin>https?://[^/?#]+)(?P<account>/[a-z0-9-]{1,63})?")

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
    """A resolved endpoint.

    ``url`` is scheme, host and, where it is not the scheme's own, port: no path, no trailing slash. Of Azure it ends with
    the account where that is no part of the host.
    ``path_style``: the bucket is the first segment of the path, not the first label of the host.
    ``trusted``: the operator named this endpoint, so it may be http and may be a private address;
    any other is https and its addresses are checked when they are connected to.
    ``ca_file``: the CAs that alone vouch for it; empty: the machine's own.
    """

    url: str
    region: str
    path_style: bool
    trusted: bool
    ca_file: str = ""

    def bucket_url(self, bucket: str) -> str:
        """The URL of ``bucket`` without trailing slash; keys follow after a slash."""
        if self.path_style:
            return f"{self.url}/{bucket}"
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{bucket}.{rest}"


def resolve(destination: Destination, secret: Secret, allowed: Collection[str] = ()) -> Endpoint:
    """The endpoint of ``destination`` for the holder of ``secret``. No network is touched.

    ``allowed``: the operator's listed hosts (``host`` or ``host:port``). An endpoint is trusted if the
    profile that names it is, if it is listed, if it is the dialect's own default, or if a grant's secret names it.

    Raises InputError: BAD_INPUT for a secret of the wrong kind and for an endpoint or region that is missing or
    malformed, ENDPOINT_FORBIDDEN for an untrusted endpoint that is not https or plainly not public, and for any
    untrusted one where a grant's secret would go there.
    """
    check_secret(destination, secret)
    if secret.kind == BEARER:
        return _for_bearer(destination, secret)
    if secret.kind == SAS:
        return _for_sas(destination, secret)
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


def check_secret(destination: Destination, secret: Secret) -> None:
    """Raise InputError BAD_INPUT unless secrets of this kind open ``destination``."""
    wanted = _SECRETS.get(destination.profile.dialect, ACCESS_KEY)
    if secret.kind != wanted:
        raise InputError(
            Code.BAD_INPUT,
            f"A credential of kind {secret.kind!r} cannot open {destination.uri!r}; use {wanted}.",
            field="kind",
        )


def check_credential(destination: Destination, kind: str) -> None:
    """Raise InputError BAD_INPUT unless a credential of this kind may open ``destination``: what intake can know.

    Whether a grant is one of the right provider is not judged here.
    """
    dialect = destination.profile.dialect
    if kind in _CREDENTIALS.get(dialect, _S3_CREDENTIALS):
        return
    title = TITLES.get(dialect)
    fix = (
        f"it lies in {title}: connect your account under *Connections* and push with that connection"
        if title
        else "use an access key or a connection"
    )
    raise InputError(
        Code.BAD_INPUT, f"a credential of kind {kind!r} cannot open {destination.uri!r}; {fix}.", field="credential"
    )


def _for_bearer(destination: Destination, secret: Secret) -> Endpoint:
    """Where an access token goes: the operator's endpoint for its provider, his profile's, or Google's own."""
    profile = destination.profile
    if profile.endpoint and not profile.trusted:
        raise InputError(
            Code.ENDPOINT_FORBIDDEN,
            f"profile {profile.name!r} names an endpoint that the operator does not vouch for: no access token goes there.",
            field="profile",
        )
    named = secret.endpoint or profile.endpoint
    url = (parse_endpoint(named) if named else _GOOGLE).url
    return Endpoint(url, region="", path_style=True, trusted=True, ca_file=_ca_of(secret))


def _for_sas(destination: Destination, secret: Secret) -> Endpoint:
    """Where a shared access signature leads, which is to one container: it must be the destination's."""
    profile = destination.profile
    if profile.endpoint and not profile.trusted:
        raise InputError(
            Code.ENDPOINT_FORBIDDEN,
            f"profile {profile.name!r} names an endpoint that the operator does not vouch for: no signature goes there.",
            field="profile",
        )
    url = secret.reveal()["sas_url"].partition("?")[0]
    base, _, container = url.rpartition("/")
    match = _STORAGE.fullmatch(base)
    try:
        origin = parse_origin(match["origin"]) if match else None
    except NoOriginError:
        origin = None
    if match is None or origin is None or container != destination.bucket:
        raise InputError(
            Code.BAD_INPUT,
            f"The signature is for {url!r}, which is not the container of {destination.uri!r}.",
            field="destination",
        )
    url = f"{origin.url}{match['account'] or ''}"
    return Endpoint(url, region="", path_style=True, trusted=True, ca_file=_ca_of(secret))


def _ca_of(secret: Secret) -> str:
    return secret.ca_file if isinstance(secret, Bearer | Sas) else ""


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
