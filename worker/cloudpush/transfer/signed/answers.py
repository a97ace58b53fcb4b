"""What providers' error answers to uploads mean, as our own errors: one table, one boundary.

The provider's own error code decides where there is one, then the HTTP status. Bodies are hostile: they are bounded,
read with a parser that refuses document types and entities, and redacted before they are kept. The codes and texts are
those of the providers' documentation and of captured answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, urlsplit

from cloudpush.errors import Code, DestinationError
from cloudpush.logs import redact
from cloudpush.net import PASSING, Answer, BadXml, parse_xml
from cloudpush.push.signed.model import Provider

#: Error codes of S3 and everything that speaks it, and of GCS' XML and JSON answers.
_S3: dict[str, Code] = {
    "AccessDenied": Code.ACCESS_DENIED,
    "AllAccessDisabled": Code.ACCESS_DENIED,
    "AccountProblem": Code.ACCESS_DENIED,
    "KMS.DisabledException": Code.ACCESS_DENIED,
    "MethodNotAllowed": Code.ACCESS_DENIED,
    "forbidden": Code.ACCESS_DENIED,
    "SignatureDoesNotMatch": Code.BAD_SIGNATURE,
    "InvalidAccessKeyId": Code.BAD_SIGNATURE,
    "InvalidSecurity": Code.BAD_SIGNATURE,
    "InvalidToken": Code.BAD_SIGNATURE,
    "Unauthorized": Code.BAD_SIGNATURE,
    "AuthenticationRequired": Code.BAD_SIGNATURE,
    "authError": Code.BAD_SIGNATURE,
    "ExpiredToken": Code.URL_EXPIRED,
    "ExpiredTokenException": Code.URL_EXPIRED,
    "ExpiredRequest": Code.URL_EXPIRED,  # R2
    "TokenRefreshRequired": Code.URL_EXPIRED,
    "RequestTimeTooSkewed": Code.CLOCK_SKEW,
    "RequestNotYetValid": Code.URL_NOT_YET_VALID,
    "AuthorizationQueryParametersError": Code.URL_UNUSABLE,
    "UnsupportedAlgorithm": Code.URL_UNUSABLE,
    "MalformedSecurityHeader": Code.URL_UNUSABLE,  # GCS: a header that is not signed, or one that is and was not sent
    "NoSuchBucket": Code.NO_SUCH_BUCKET,
    "InvalidBucketName": Code.NO_SUCH_BUCKET,
    "NoSuchKey": Code.OBJECT_MISSING,
    "NoSuchUpload": Code.UPLOAD_GONE,
    "SlowDown": Code.THROTTLED,
    "TooManyRequests": Code.THROTTLED,
    "RequestLimitExceeded": Code.THROTTLED,
    "ThrottlingException": Code.THROTTLED,
    "rateLimitExceeded": Code.THROTTLED,
    "userRateLimitExceeded": Code.THROTTLED,
    "InternalError": Code.PROVIDER_UNAVAILABLE,
    "ServiceUnavailable": Code.PROVIDER_UNAVAILABLE,
    "RequestTimeout": Code.PROVIDER_UNAVAILABLE,
    "backendError": Code.PROVIDER_UNAVAILABLE,
    "IncompleteBody": Code.NETWORK,
    "BadDigest": Code.CORRUPTED,
    "InvalidDigest": Code.CORRUPTED,
    "InvalidPart": Code.CORRUPTED,
    "XAmzContentSHA256Mismatch": Code.CORRUPTED,
    "XAmzContentChecksumMismatch": Code.CORRUPTED,
    "EntityTooLarge": Code.TOO_LARGE,
    "KeyTooLongError": Code.NAME_NOT_A_KEY,
    "XMinioInvalidObjectName": Code.NAME_NOT_A_KEY,
    "PreconditionFailed": Code.OBJECT_EXISTS,
    "OperationAborted": Code.CONFLICT,
    "ConditionalRequestConflict": Code.CONFLICT,
    "QuotaExceeded": Code.QUOTA_EXCEEDED,
    "quotaExceeded": Code.QUOTA_EXCEEDED,
    "InsufficientStorage": Code.QUOTA_EXCEEDED,
    "XMinioStorageFull": Code.QUOTA_EXCEEDED,
}

#: Azure's ``x-ms-error-code``.
_AZURE: dict[str, Code] = {
    "AuthenticationFailed": Code.BAD_SIGNATURE,
    "InvalidAuthenticationInfo": Code.BAD_SIGNATURE,
    "NoAuthenticationInformation": Code.BAD_SIGNATURE,
    "AuthorizationFailure": Code.ACCESS_DENIED,
    "AuthorizationPermissionMismatch": Code.ACCESS_DENIED,
    "AuthorizationProtocolMismatch": Code.ACCESS_DENIED,
    "AuthorizationResourceTypeMismatch": Code.ACCESS_DENIED,
    "AuthorizationServiceMismatch": Code.ACCESS_DENIED,
    "AuthorizationSourceIPMismatch": Code.ACCESS_DENIED,
    "InsufficientAccountPermissions": Code.ACCESS_DENIED,
    "AccountIsDisabled": Code.ACCESS_DENIED,
    "BlobImmutableDueToPolicy": Code.ACCESS_DENIED,
    "ContainerNotFound": Code.NO_SUCH_BUCKET,
    "ContainerBeingDeleted": Code.NO_SUCH_BUCKET,
    "ContainerDisabled": Code.NO_SUCH_BUCKET,
    "ResourceNotFound": Code.NO_SUCH_BUCKET,
    "BlobNotFound": Code.OBJECT_MISSING,
    "BlobAlreadyExists": Code.OBJECT_EXISTS,
    "ConditionNotMet": Code.OBJECT_EXISTS,
    "LeaseIdMissing": Code.CONFLICT,
    "LeaseLost": Code.CONFLICT,
    "InvalidBlobType": Code.CONFLICT,
    "Md5Mismatch": Code.CORRUPTED,
    "InvalidMd5": Code.CORRUPTED,
    "Crc64Mismatch": Code.CORRUPTED,
    "InvalidBlockList": Code.UPLOAD_GONE,  # it does not know the blocks, or not any more
    "InvalidBlobOrBlock": Code.UPLOAD_GONE,
    "RequestBodyTooLarge": Code.TOO_LARGE,
    "BlockCountExceedsLimit": Code.TOO_LARGE,
    "ServerBusy": Code.THROTTLED,
    "InternalError": Code.PROVIDER_UNAVAILABLE,
    "OperationTimedOut": Code.PROVIDER_UNAVAILABLE,
}

#: What a status means where the code is unknown or missing.
_STATUSES: dict[int, Code] = {
    401: Code.BAD_SIGNATURE,
    403: Code.ACCESS_DENIED,
    404: Code.NO_SUCH_BUCKET,  # of an upload: there is no object yet that could be missing
    409: Code.CONFLICT,
    410: Code.UPLOAD_GONE,
    412: Code.OBJECT_EXISTS,
    413: Code.TOO_LARGE,
    429: Code.THROTTLED,
    501: Code.PROVIDER_REFUSED,
    503: Code.THROTTLED,
    507: Code.QUOTA_EXCEEDED,
}

_MESSAGES: dict[Code, str] = {
    Code.ACCESS_DENIED: "The provider does not allow what this URL was signed for.",
    Code.BAD_SIGNATURE: "The provider does not accept the URL's signature: it was signed for another method, key, "
    "header or host, or with a wrong secret.",
    Code.URL_EXPIRED: "The provider says that the signed URL has expired.",
    Code.URL_NOT_YET_VALID: "The provider says that the signed URL is not valid yet.",
    Code.URL_UNUSABLE: "The provider cannot use a URL that was signed like this.",
    Code.CLOCK_SKEW: "The clock of whoever signed the URL and the provider's differ too much.",
    Code.NO_SUCH_BUCKET: "The bucket or container that the URL names does not exist.",
    Code.OBJECT_MISSING: "The object does not exist.",
    Code.UPLOAD_GONE: "The provider does not know the upload, or not any more.",
    Code.THROTTLED: "The provider asks to be asked less often.",
    Code.PROVIDER_UNAVAILABLE: "The provider is out of order at the moment (HTTP {status}).",
    Code.PROVIDER_REFUSED: "The provider refused the request (HTTP {status}).",
    Code.NETWORK: "The provider did not receive all of the request.",
    Code.CORRUPTED: "The provider received other bytes than were sent.",
    Code.TOO_LARGE: "The provider does not take so many bytes with this URL.",
    Code.NAME_NOT_A_KEY: "The provider does not accept the object's key.",
    Code.OBJECT_EXISTS: "There is an object under this key already.",
    Code.CONFLICT: "Something else writes to the same key, or holds it.",
    Code.QUOTA_EXCEEDED: "The quota of the destination is used up.",
}

#: A value of a request that is longer is worth something to who reads it; characters.
_HARMLESS = 7
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: A header that a provider says is not signed; how many of them are named.
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_MOST_NAMES = 10
_TIME_FRAME = re.compile(
    r"Start \[(?P<start>[^\]]{0,64})\] - Expiry \[[^\]]{0,64}\] - Current \[(?P<current>[^\]]{0,64})\]"
)


class Refused(DestinationError):
    """An answer that is an error.

    ``status`` and ``word`` (the provider's own error code; empty where it is none) as they came; ``pause``: seconds to wait.
    """

    def __init__(
        self, code: Code, message: str, *, status: int, word: str = "", pause: float = 0.0, detail: str = ""
    ) -> None:
        super().__init__(code, message, detail=detail)
        self.status = status
        self.word = word
        self.pause = pause


@dataclass(frozen=True, slots=True)
class _Words:
    """An error document. ``more``: its other elements."""

    code: str = ""
    message: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


def refusal(
    provider: Provider, answer: Answer, url: str, *, late: bool, sent: Mapping[str, str] | None = None
) -> Refused:
    """The error that ``answer`` amounts to.

    ``url`` of its request and ``sent``, its headers and fields: nothing of them is repeated. ``late``: whether the URL
    has expired by our own clock, which decides where the provider does not say it clearly.
    """
    secrets = [*secrets_of(url), *(value for value in (sent or {}).values() if len(value) > _HARMLESS)]
    words = _read(answer)
    code = _judge(provider, answer, words, late=late, temporary="security-token=" in url.lower())
    message = _MESSAGES[code].format(status=answer.status)
    if 300 <= answer.status < 400:
        region = answer.headers.get("x-amz-bucket-region", "") or words.more.get("Region", "")
        told = re.fullmatch(r"[a-z0-9-]{1,32}", region) and not any(region in secret for secret in secrets)
        where = f" it is in region {region}" if told else " it may be in another region"
        message = f"The provider answered with a redirect, which is never followed:{where}; sign for the bucket's own endpoint."
    elif words.more.get("HeadersNotSigned"):
        message = f"{message} These headers are not signed: {_names(words.more['HeadersNotSigned'], secrets)}."
    said = ": ".join(x for x in (words.code, words.message) if x)
    detail = redact(f"HTTP {answer.status} {said}".strip(), *secrets, limit=500)
    word = words.code if _WORD.fullmatch(words.code) and not any(words.code in secret for secret in secrets) else ""
    return Refused(code, message, status=answer.status, word=word, pause=pause_of(answer.headers), detail=detail)


def is_error_body(answer: Answer) -> bool:
    """Whether an answer with status 2xx is an error all the same: its body says so.

    S3 sends the status of a long CompleteMultipartUpload before it knows the result.
    """
    return b"<Error" in answer.body and bool(_read_xml(answer.body))


def pause_of(headers: Mapping[str, str], now: datetime | None = None) -> float:
    """Seconds that Retry-After names; 0 where it names none."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return float(asked[:9])
    try:
        until = parsedate_to_datetime(asked)
        return max(0.0, (until - (now or datetime.now(UTC))).total_seconds()) if until.tzinfo else 0.0
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _judge(provider: Provider, answer: Answer, words: _Words, *, late: bool, temporary: bool) -> Code:
    status = answer.status
    if 300 <= status < 400:
        return Code.PROVIDER_REFUSED
    code = _azure(words, late=late) if provider is Provider.AZURE else _s3(words, late=late, temporary=temporary)
    if code is not None:
        return code
    if late and status in {400, 401, 403}:
        return Code.URL_EXPIRED  # of a HEAD there is nothing but the status
    if 200 <= status < 300:
        return Code.PROVIDER_UNAVAILABLE  # an error that came after its status: it was meant to succeed
    return _STATUSES.get(status) or (Code.PROVIDER_UNAVAILABLE if status in PASSING else Code.PROVIDER_REFUSED)


def _s3(words: _Words, *, late: bool, temporary: bool) -> Code | None:
    message = words.message.lower()
    if words.code == "AccessDenied":
        if "has expired" in message or "policy expired" in message:
            return Code.URL_EXPIRED
        if words.more.get("HeadersNotSigned") or "not signed" in message:
            return Code.URL_UNUSABLE
        if "not valid yet" in message or "not yet valid" in message:
            return Code.URL_NOT_YET_VALID
    if words.code in {"InvalidAccessKeyId", "InvalidToken"} and temporary:
        return Code.URL_EXPIRED  # some servers forget a session that has run out
    if late and words.code in {"AccessDenied", "RequestTimeTooSkewed"}:
        return Code.URL_EXPIRED
    return _S3.get(words.code)


def _azure(words: _Words, *, late: bool) -> Code | None:
    told = f"{words.more.get('AuthenticationErrorDetail', '')} {words.message}"
    if words.code == "AuthenticationFailed" and "specified time frame" in told:
        return Code.URL_NOT_YET_VALID if _before_start(told) else Code.URL_EXPIRED
    if words.code in {"AuthorizationFailure", "AuthenticationFailed"} and late:
        return Code.URL_EXPIRED  # Azurite says no more than this
    if words.code == "InvalidOperation" and "md5" in told.lower():
        return Code.CORRUPTED  # Azurite's word for Md5Mismatch
    return _AZURE.get(words.code)


def _before_start(told: str) -> bool:
    found = _TIME_FRAME.search(told)
    try:
        return found is not None and parsedate_to_datetime(found["current"]) < parsedate_to_datetime(found["start"])
    except (ValueError, TypeError, OverflowError):
        return False


def _read(answer: Answer) -> _Words:
    fields = _read_xml(answer.body) or _read_json(answer.body)
    code = answer.headers.get("x-ms-error-code", "") or fields.pop("Code", "")
    return _Words(code[:100], fields.pop("Message", "")[:2_000], fields)


def _read_xml(body: bytes) -> dict[str, str]:
    """The leaves of an ``<Error>`` document; empty where it is none."""
    fields: dict[str, str] = {}

    def leaf(path: tuple[str, ...], text: str) -> None:
        if len(path) == 2 and path[0] == "Error":
            fields.setdefault(path[1], text.strip())

    try:
        parse_xml(body.strip(), leaf)
    except BadXml:
        return fields if "Code" in fields else {}  # cut off at the limit: what came first is the code
    return fields


def _read_json(body: bytes) -> dict[str, str]:
    if not body.lstrip().startswith(b"{"):
        return {}
    try:
        error = json.loads(body).get("error")
        first = (error.get("errors") or [{}])[0]
        return {"Code": str(first.get("reason") or error.get("code", "")), "Message": str(error.get("message", ""))}
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError):
        return {}


def _names(text: str, secrets: Collection[str]) -> str:
    """Names of headers in ``text``, without what is none but was taken from the request."""
    names = [name for name in text.split(",", _MOST_NAMES)[:_MOST_NAMES] if _HEADER.fullmatch(name.strip())]
    known = [name.strip() for name in names if not any(name.strip() in secret for secret in secrets)]
    return ", ".join(known) or "(not shown)"


def secrets_of(url: str) -> Iterator[str]:
    """Everything of ``url`` that opens something: the whole, its query, and each value in it."""
    query = urlsplit(url).query
    yield url
    yield query
    for _, value in parse_qsl(query):
        if len(value) >= 16:
            yield value
