"""What error answers mean, as our own errors: a table for each sort of provider, one boundary.

A HEAD has no body, so its status alone rarely tells; the words come from a GET that is sent for this purpose. Bodies are
hostile: they are bounded, read with a parser that refuses document types and entities, and redacted before they are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cloudpush.errors import Code, DestinationError
from cloudpush.logs import redact
from cloudpush.net import PASSING, BadXml, parse_xml

#: S3's own error codes. What is not here is judged by its status.
CODES: dict[str, Code] = {
    "AccessDenied": Code.ACCESS_DENIED,
    "AllAccessDisabled": Code.ACCESS_DENIED,
    "AccountProblem": Code.ACCESS_DENIED,
    "InvalidObjectState": Code.ACCESS_DENIED,
    "KMS.DisabledException": Code.ACCESS_DENIED,
    "SignatureDoesNotMatch": Code.BAD_SIGNATURE,
    "InvalidAccessKeyId": Code.BAD_SIGNATURE,
    "InvalidSecurity": Code.BAD_SIGNATURE,
    "InvalidToken": Code.BAD_SIGNATURE,
    "Unauthorized": Code.BAD_SIGNATURE,
    "ExpiredToken": Code.CREDENTIAL_EXPIRED,
    "ExpiredTokenException": Code.CREDENTIAL_EXPIRED,
    "ExpiredRequest": Code.CREDENTIAL_EXPIRED,
    "TokenRefreshRequired": Code.CREDENTIAL_EXPIRED,
    "NoSuchBucket": Code.NO_SUCH_BUCKET,
    "InvalidBucketName": Code.NO_SUCH_BUCKET,
    "PermanentRedirect": Code.WRONG_REGION,
    "TemporaryRedirect": Code.NO_SUCH_BUCKET,
    "IllegalLocationConstraintException": Code.WRONG_REGION,
    "AuthorizationHeaderMalformed": Code.WRONG_REGION,  # the signature names another region than the bucket's
    "NoSuchKey": Code.OBJECT_MISSING,
    "RequestTimeTooSkewed": Code.CLOCK_SKEW,
    "SlowDown": Code.THROTTLED,
    "TooManyRequests": Code.THROTTLED,
    "RequestLimitExceeded": Code.THROTTLED,
    "ThrottlingException": Code.THROTTLED,
    "InternalError": Code.PROVIDER_UNAVAILABLE,
    "ServiceUnavailable": Code.PROVIDER_UNAVAILABLE,
    "RequestTimeout": Code.PROVIDER_UNAVAILABLE,
    "QuotaExceeded": Code.QUOTA_EXCEEDED,
}

#: Google's XML API has S3's codes, and some of its own.
GOOGLE: dict[str, Code] = CODES | {
    "AuthenticationRequired": Code.CREDENTIAL_EXPIRED,
    "UserProjectMissing": Code.ACCESS_DENIED,
    "UserProjectAccountProblem": Code.ACCESS_DENIED,
    "InsufficientQuota": Code.QUOTA_EXCEEDED,
}

#: Azure's codes, which come in a header, too.
AZURE: dict[str, Code] = {
    "AuthenticationFailed": Code.CREDENTIAL_EXPIRED,  # signatures are made by ourselves: another one tells
    "AuthorizationFailure": Code.ACCESS_DENIED,
    "AuthorizationPermissionMismatch": Code.ACCESS_DENIED,
    "AuthorizationProtocolMismatch": Code.ACCESS_DENIED,
    "AuthorizationSourceIPMismatch": Code.ACCESS_DENIED,
    "AccountIsDisabled": Code.ACCESS_DENIED,
    "ContainerNotFound": Code.NO_SUCH_BUCKET,
    "ContainerDisabled": Code.NO_SUCH_BUCKET,
    "ContainerBeingDeleted": Code.NO_SUCH_BUCKET,
    "BlobNotFound": Code.OBJECT_MISSING,
    "BlobArchived": Code.ACCESS_DENIED,
    "ServerBusy": Code.THROTTLED,
    "OperationTimedOut": Code.PROVIDER_UNAVAILABLE,
    "InternalError": Code.PROVIDER_UNAVAILABLE,
}

#: What concerns the whole destination, so that asking for another key is pointless.
FATAL = frozenset(
    {
        Code.BAD_SIGNATURE,
        Code.CREDENTIAL_EXPIRED,
        Code.NO_SUCH_BUCKET,
        Code.WRONG_REGION,
        Code.CLOCK_SKEW,
        Code.QUOTA_EXCEEDED,
    }
)

_MESSAGES: dict[Code, str] = {
    Code.ACCESS_DENIED: "The destination does not let this credential look at {what}.",
    Code.BAD_SIGNATURE: "The destination does not accept the key or its secret.",
    Code.CREDENTIAL_EXPIRED: "The credential's session has expired.",
    Code.NO_SUCH_BUCKET: "The bucket {bucket!r} does not exist at this endpoint.",
    Code.WRONG_REGION: "The bucket {bucket!r} is in another region than {region}.",
    Code.OBJECT_MISSING: "{what} does not exist.",
    Code.CLOCK_SKEW: "The worker's clock and the destination's differ too much for signed requests.",
    Code.THROTTLED: "The destination asks to be asked less often.",
    Code.PROVIDER_UNAVAILABLE: "The destination is out of order at the moment (HTTP {status}).",
    Code.PROVIDER_REFUSED: "The destination refused the request (HTTP {status}).",
    Code.QUOTA_EXCEEDED: "The quota of the destination is used up.",
}


@dataclass(frozen=True, slots=True)
class Refused:
    """An error answer as it came: status, S3's code and message (may be empty), the region it hints at.

    ``time``: the provider's own, from the answer; None where it tells none.
    """

    status: int
    code: str = ""
    message: str = ""
    region: str = ""
    time: datetime | None = None


def read_refusal(status: int, body: bytes, region: str = "", date: str = "") -> Refused:
    """``body`` as S3's error document; a body that is none gives a Refused without code.

    ``region`` and ``date``: from the answer's headers.
    """
    time = _http_date(date)
    fields: dict[str, str] = {}

    def leaf(path: tuple[str, ...], text: str) -> None:
        if len(path) == 2 and path[0] == "Error":
            fields.setdefault(path[1], text)

    try:
        parse_xml(body, leaf)
    except BadXml:
        return Refused(status, region=region, time=time)
    hinted = fields.get("Region", "") if fields.get("Code") == "AuthorizationHeaderMalformed" else ""
    told = _iso_date(fields.get("ServerTime", "")) or time
    return Refused(status, fields.get("Code", ""), fields.get("Message", ""), region or hinted, told)


def _http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _iso_date(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _skew(time: datetime) -> str:
    """How far the worker's clock is from the provider's, in words."""
    ahead = round((datetime.now(UTC) - time).total_seconds())
    return f"The worker's clock is {abs(ahead):,} s {'ahead of' if ahead >= 0 else 'behind'} the destination's."


def error_of(
    refused: Refused,
    *,
    bucket: str,
    what: str,
    secrets: tuple[str, ...],
    region: str = "",
    session: bool = False,
    codes: Mapping[str, Code] = CODES,
    ended: bool = False,
) -> DestinationError:
    """The error that ``refused`` amounts to.

    ``what``: the object in words; ``codes``: the provider's; ``ended``: the credential's time is over, so that what is
    refused has expired whatever the words; ``region``: the one we signed for; ``session``: whether the credential has a
    session token, which makes an unknown key an expired one (some servers forget a session that has run out);
    ``secrets``: masked in the provider's words.
    """
    code = _code(refused, codes, session=session)
    if ended and code is Code.ACCESS_DENIED:
        code = Code.CREDENTIAL_EXPIRED
    message = _MESSAGES[code].format(bucket=bucket, what=what, status=refused.status, region=region or "ours")
    if code is Code.CLOCK_SKEW and refused.time is not None:
        message = f"{_skew(refused.time)} Signed requests allow no more than some minutes."
    if code is Code.WRONG_REGION and refused.region and refused.region != region:
        message = (
            f"The bucket {bucket!r} is in region {refused.region}, not {region}: "
            f"give the credential or the profile that region."
        )
    words = ": ".join(x for x in (refused.code, refused.message) if x)
    return DestinationError(code, message, detail=redact(f"HTTP {refused.status} {words}".strip(), *secrets, limit=500))


def _code(refused: Refused, codes: Mapping[str, Code], *, session: bool) -> Code:
    if session and refused.code in {"InvalidAccessKeyId", "InvalidToken"}:
        return Code.CREDENTIAL_EXPIRED
    if refused.code == "AuthorizationHeaderMalformed" and not refused.region:
        return Code.BAD_SIGNATURE
    known = codes.get(refused.code)
    if known is not None:
        return known
    if refused.status == 301:
        return Code.WRONG_REGION
    if refused.status in {307, 308}:
        return Code.NO_SUCH_BUCKET
    if refused.status in {401, 403}:
        return Code.ACCESS_DENIED
    if refused.status == 404:
        return Code.OBJECT_MISSING
    if refused.status == 429:
        return Code.THROTTLED
    return Code.PROVIDER_UNAVAILABLE if refused.status in PASSING else Code.PROVIDER_REFUSED
