"""rclone's words as our errors: one table, one boundary.

rclone passes on what the provider, the network, the file system and it itself said, in one line of text; its exit codes
and HTTP statuses tell less. The provider's own error code decides where there is one, then its HTTP status, then the
words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cloudpush.errors import CloudPushError, Code, DestinationError, EngineError, SourceError
from cloudpush.logs import redact

#: What AWS' library says about an answer; HEAD answers and foreign servers have no code of S3's.
_ANSWER = re.compile(
    r"https response error StatusCode: (?P<status>\d+), .*?(?:api error (?P<code>[\w.-]+): |request send failed)"
)

#: Where S3 says which region a signature should have named.
_EXPECTING = re.compile(r"expecting '(?P<region>[a-z0-9-]{1,40})'")

#: What Google's library says: the reason stands at the end, or in lines of its own where there are several.
_GOOGLE = re.compile(
    r"googleapi: (?:Error (?P<status>\d+): |got HTTP response code (?P<bare>\d+) with body: )(?P<rest>.*)", re.DOTALL
)
_REASON = re.compile(r", (?P<reason>\w+)$|^Reason: (?P<first>\w+), Message: ", re.MULTILINE)

#: What Microsoft's library says; HEAD answers have their code in a header, which it repeats here.
_AZURE = re.compile(r"RESPONSE (?P<status>\d{3}): .*?\nERROR CODE: (?P<code>[\w-]+)", re.DOTALL)

#: S3's error codes, with those that only some servers use.
CODES: dict[str, Code] = {
    "AccessDenied": Code.ACCESS_DENIED,
    "AllAccessDisabled": Code.ACCESS_DENIED,
    "AccountProblem": Code.ACCESS_DENIED,
    "InvalidObjectState": Code.ACCESS_DENIED,
    "MethodNotAllowed": Code.ACCESS_DENIED,
    "KMS.DisabledException": Code.ACCESS_DENIED,
    "SignatureDoesNotMatch": Code.BAD_SIGNATURE,
    "InvalidAccessKeyId": Code.BAD_SIGNATURE,
    "InvalidSecurity": Code.BAD_SIGNATURE,
    "InvalidToken": Code.BAD_SIGNATURE,
    "Unauthorized": Code.BAD_SIGNATURE,
    "AuthorizationHeaderMalformed": Code.WRONG_REGION,  # the signature names another region than the bucket's
    "ExpiredToken": Code.CREDENTIAL_EXPIRED,
    "ExpiredTokenException": Code.CREDENTIAL_EXPIRED,
    "ExpiredRequest": Code.CREDENTIAL_EXPIRED,
    "TokenRefreshRequired": Code.CREDENTIAL_EXPIRED,
    "NoSuchBucket": Code.NO_SUCH_BUCKET,
    "InvalidBucketName": Code.NO_SUCH_BUCKET,
    "PermanentRedirect": Code.WRONG_REGION,
    "TemporaryRedirect": Code.NO_SUCH_BUCKET,
    "IllegalLocationConstraintException": Code.WRONG_REGION,
    "NoSuchUpload": Code.PROVIDER_UNAVAILABLE,  # it forgot the pieces: they are sent again
    "KeyTooLongError": Code.NAME_NOT_A_KEY,
    "XMinioInvalidObjectName": Code.NAME_NOT_A_KEY,
    "RequestTimeTooSkewed": Code.CLOCK_SKEW,
    "SlowDown": Code.THROTTLED,
    "TooManyRequests": Code.THROTTLED,
    "RequestLimitExceeded": Code.THROTTLED,
    "ThrottlingException": Code.THROTTLED,
    "InternalError": Code.PROVIDER_UNAVAILABLE,
    "ServiceUnavailable": Code.PROVIDER_UNAVAILABLE,
    "RequestTimeout": Code.PROVIDER_UNAVAILABLE,
    "BadDigest": Code.CORRUPTED,
    "InvalidDigest": Code.CORRUPTED,
    "InvalidPart": Code.CORRUPTED,
    "IncompleteBody": Code.NETWORK,
    "XAmzContentSHA256Mismatch": Code.CORRUPTED,
    "EntityTooLarge": Code.TOO_LARGE,
    "PreconditionFailed": Code.CONFLICT,
    "OperationAborted": Code.CONFLICT,
    "ConditionalRequestConflict": Code.CONFLICT,
    "QuotaExceeded": Code.QUOTA_EXCEEDED,
    "InsufficientStorage": Code.QUOTA_EXCEEDED,
    "XMinioStorageFull": Code.QUOTA_EXCEEDED,
}

#: Reasons of Google's JSON API. What is not here is judged by its status.
GOOGLE: dict[str, Code] = {
    "authError": Code.CREDENTIAL_EXPIRED,  # expired or revoked: it does not say which, and a new one tells
    "required": Code.CREDENTIAL_EXPIRED,
    "expired": Code.CREDENTIAL_EXPIRED,
    "forbidden": Code.ACCESS_DENIED,
    "insufficientPermissions": Code.ACCESS_DENIED,
    "accountDisabled": Code.ACCESS_DENIED,
    "accountDisabledUserNotAMember": Code.ACCESS_DENIED,
    "userProjectMissing": Code.ACCESS_DENIED,
    "retentionPolicyNotMet": Code.CONFLICT,
    "objectUnderActiveHold": Code.CONFLICT,
    "conditionNotMet": Code.CONFLICT,
    "conflict": Code.CONFLICT,
    "notFound": Code.NO_SUCH_BUCKET,  # of an upload: there is no object yet that could be missing
    "rateLimitExceeded": Code.THROTTLED,
    "userRateLimitExceeded": Code.THROTTLED,
    "dailyLimitExceeded": Code.QUOTA_EXCEEDED,
    "quotaExceeded": Code.QUOTA_EXCEEDED,
    "uploadTooLarge": Code.TOO_LARGE,
    "backendError": Code.PROVIDER_UNAVAILABLE,
    "internalError": Code.PROVIDER_UNAVAILABLE,
}

#: Azure's error codes.
AZURE: dict[str, Code] = {
    "AuthenticationFailed": Code.CREDENTIAL_EXPIRED,  # signatures are made by ourselves: another one tells
    "InvalidAuthenticationInfo": Code.CREDENTIAL_EXPIRED,
    "AuthorizationFailure": Code.ACCESS_DENIED,
    "AuthorizationPermissionMismatch": Code.ACCESS_DENIED,
    "AuthorizationProtocolMismatch": Code.ACCESS_DENIED,
    "AuthorizationSourceIPMismatch": Code.ACCESS_DENIED,
    "AuthorizationServiceMismatch": Code.ACCESS_DENIED,
    "AuthorizationResourceTypeMismatch": Code.ACCESS_DENIED,
    "InsufficientAccountPermissions": Code.ACCESS_DENIED,
    "AccountIsDisabled": Code.ACCESS_DENIED,
    "ContainerNotFound": Code.NO_SUCH_BUCKET,
    "ContainerDisabled": Code.NO_SUCH_BUCKET,
    "ContainerBeingDeleted": Code.NO_SUCH_BUCKET,
    "ResourceNotFound": Code.NO_SUCH_BUCKET,
    "InvalidResourceName": Code.NAME_NOT_A_KEY,
    "OutOfRangeInput": Code.NAME_NOT_A_KEY,
    "ServerBusy": Code.THROTTLED,
    "OperationTimedOut": Code.PROVIDER_UNAVAILABLE,
    "InternalError": Code.PROVIDER_UNAVAILABLE,
    "InvalidBlobOrBlock": Code.PROVIDER_UNAVAILABLE,  # somebody's other upload to it got in between: sent again
    "InvalidBlockList": Code.PROVIDER_UNAVAILABLE,
    "Md5Mismatch": Code.CORRUPTED,
    "Crc64Mismatch": Code.CORRUPTED,
    "RequestBodyTooLarge": Code.TOO_LARGE,
    "BlockCountExceedsLimit": Code.TOO_LARGE,
    "BlobAlreadyExists": Code.CONFLICT,
    "InvalidBlobType": Code.CONFLICT,
    "BlobImmutableDueToPolicy": Code.CONFLICT,
    "BlobArchived": Code.CONFLICT,
    "BlobBeingRehydrated": Code.CONFLICT,
    "LeaseIdMissing": Code.CONFLICT,
    "ConditionNotMet": Code.CONFLICT,
    "SnapshotsPresent": Code.CONFLICT,
}

#: What a status means where the code is unknown or missing.
STATUSES: dict[int, Code] = {
    301: Code.WRONG_REGION,
    307: Code.NO_SUCH_BUCKET,
    308: Code.NO_SUCH_BUCKET,
    401: Code.ACCESS_DENIED,
    403: Code.ACCESS_DENIED,
    404: Code.NO_SUCH_BUCKET,  # of an upload: there is no object yet that could be missing
    408: Code.PROVIDER_UNAVAILABLE,
    409: Code.CONFLICT,
    412: Code.CONFLICT,
    413: Code.TOO_LARGE,
    425: Code.PROVIDER_UNAVAILABLE,
    429: Code.THROTTLED,
    507: Code.QUOTA_EXCEEDED,
}

_BROKEN = (
    r"(?i)i/o timeout|deadline exceeded|Client\.Timeout|timeout awaiting|connection timed out|connection reset"
    r"|broken pipe|\bEOF\b|closed (?:network )?connection|connection was closed|http2: |transport connection broken"
)

#: Words → code, the first that matches. Go's own words for its network, its TLS and its files, then rclone's.
WORDS: tuple[tuple[re.Pattern[str], Code], ...] = tuple(
    (re.compile(pattern), code)
    for pattern, code in (
        # the guarded way to endpoints that users name says the code itself: see egress.py
        (r"cloudpush: ENDPOINT_FORBIDDEN", Code.ENDPOINT_FORBIDDEN),
        (r"cloudpush: ENDPOINT_UNRESOLVABLE", Code.ENDPOINT_UNRESOLVABLE),
        (r"cloudpush: ENDPOINT_REFUSED", Code.ENDPOINT_REFUSED),
        (
            r"(?i)no such host|server misbehaving|failure in name resolution|no suitable address",
            Code.ENDPOINT_UNRESOLVABLE,
        ),
        (r"(?i)TLS handshake timeout", Code.NETWORK),
        (
            r"(?i)\bx509: |\btls: |certificate|server gave HTTP response to HTTPS client|malformed HTTP response",
            Code.TLS_FAILED,
        ),
        (
            r"(?i)connection refused|no route to host|network is unreachable|host is (?:down|unreachable)",
            Code.ENDPOINT_REFUSED,
        ),
        (r"no space left on device|disk quota exceeded", Code.DISK_FULL),
        # rclone was told of no further access token in time
        (r"token expired and there's no refresh token|couldn't fetch token", Code.CREDENTIAL_EXPIRED),
        (
            r"too many open files|cannot allocate memory|panic received|didn't find section in config",
            Code.ENGINE_CRASHED,
        ),
        (r"can't copy - source file is being updated|expected \d+ bytes in input, but got", Code.SOURCE_CHANGED),
        (r"corrupted on transfer: sizes differ", Code.SOURCE_CHANGED),
        (
            r"is a directory not a file|is a file not a directory|not a regular file|levels of symbolic links",
            Code.SOURCE_CHANGED,
        ),
        (r"corrupted on transfer|multipart upload corrupted", Code.CORRUPTED),
        (r"permission denied|operation not permitted", Code.SOURCE_UNREADABLE),
        (r"object not found|directory not found|no such file or directory", Code.SOURCE_MISSING),
        (r"input/output error|stale NFS file handle|is not a path within the local root", Code.SOURCE_UNREADABLE),
        (_BROKEN, Code.NETWORK),
    )
)

_MESSAGES: dict[Code, str] = {
    Code.ACCESS_DENIED: "The destination does not let this credential write {what}.",
    Code.BAD_SIGNATURE: "The destination does not accept the key or its secret.",
    Code.CREDENTIAL_EXPIRED: "The credential's session has expired.",
    Code.NO_SUCH_BUCKET: "The bucket {bucket!r} does not exist at {endpoint}, or is in another region.",
    Code.WRONG_REGION: "The bucket {bucket!r} is in another region than the credential or the profile says{region}.",
    Code.NAME_NOT_A_KEY: "The destination does not accept the key of {what}.",
    Code.CLOCK_SKEW: "The worker's clock and the destination's differ too much for signed requests.",
    Code.THROTTLED: "The destination asks to be sent less at a time.",
    Code.PROVIDER_UNAVAILABLE: "The destination is out of order at the moment{status}.",
    Code.PROVIDER_REFUSED: "The destination refused {what}{status}.",
    Code.QUOTA_EXCEEDED: "The quota of the destination is used up.",
    Code.TOO_LARGE: "The destination does not store objects as large as {what}.",
    Code.CONFLICT: "Something else writes to the key of {what}, or forbids to replace it.",
    Code.CORRUPTED: "The bytes of {what} changed on their way.",
    Code.NETWORK: "The connection to {endpoint} broke.",
    Code.ENDPOINT_UNRESOLVABLE: "The host name of {endpoint} does not resolve.",
    Code.ENDPOINT_REFUSED: "{endpoint} does not accept connections.",
    Code.ENDPOINT_FORBIDDEN: "{endpoint} leads to an address that may not be connected to.",
    Code.TLS_FAILED: "{endpoint} has no certificate that can be trusted, or does not speak TLS.",
    Code.DISK_FULL: "The worker's disk is full.",
    Code.ENGINE_CRASHED: "rclone is out of resources, or was started again in the meantime.",
    Code.SOURCE_CHANGED: "{what} changed while it was pushed.",
    Code.SOURCE_MISSING: "{what} vanished after it was planned.",
    Code.SOURCE_UNREADABLE: "{what} cannot be read by the worker.",
    Code.INTERNAL: "rclone failed with words that CloudPush does not know.",
}

#: Codes that concern everything that is sent through a session: another file cannot fare better now.
WIDE = frozenset(
    {
        Code.BAD_SIGNATURE,
        Code.CREDENTIAL_EXPIRED,
        Code.NO_SUCH_BUCKET,
        Code.WRONG_REGION,
        Code.CLOCK_SKEW,
        Code.QUOTA_EXCEEDED,
        Code.ENDPOINT_UNRESOLVABLE,
        Code.ENDPOINT_REFUSED,
        Code.ENDPOINT_FORBIDDEN,
        Code.TLS_FAILED,
        Code.DISK_FULL,
        Code.ENGINE_CRASHED,
    }
)

_CLASSES: dict[Code, type[CloudPushError]] = {
    Code.DISK_FULL: EngineError,
    Code.ENGINE_CRASHED: EngineError,
    Code.INTERNAL: EngineError,
    Code.SOURCE_CHANGED: SourceError,
    Code.SOURCE_MISSING: SourceError,
    Code.SOURCE_UNREADABLE: SourceError,
    Code.NAME_NOT_A_KEY: SourceError,
}


@dataclass(frozen=True, slots=True)
class Translator:
    """Knows what one session is about. ``secrets`` are masked in rclone's words."""

    bucket: str
    endpoint: str
    session: bool  # the credential has a session token: an unknown key is an expired one
    secrets: tuple[str, ...] = field(repr=False)
    ends: datetime | None = None  # the credential: what is refused after that has expired, whatever the words

    def error(self, text: str, path: str = "") -> CloudPushError:
        """The error that ``text`` amounts to; ``path`` is the file that it concerns, where it concerns one."""
        code, status = _judge(text, session=self.session)
        if code is Code.ACCESS_DENIED and self.ends is not None and datetime.now(UTC) >= self.ends:
            code = Code.CREDENTIAL_EXPIRED
        message = _MESSAGES[code].format(
            bucket=self.bucket,
            endpoint=self.endpoint,
            what=repr(path) if path else "some of the files",
            status=f" (HTTP {status})" if status else "",
            region=_region(text),
        )
        return _CLASSES.get(code, DestinationError)(code, message, detail=redact(text, *self.secrets))


def _region(text: str) -> str:
    """The bucket's own region as S3's words tell it, as the end of a sentence; empty where they do not."""
    found = _EXPECTING.search(text)
    return f": it is in {found['region']}" if found else ""


def accepted(text: str) -> bool:
    """Whether the upload succeeded in spite of ``text``.

    rclone asks for an object after sending it in pieces, whatever its options say. A credential that may only write is
    refused the answer; the pieces are put together all the same, and whoever verifies asks again.
    """
    return "failed to find object after copy" in text


def _judge(text: str, *, session: bool) -> tuple[Code, int]:
    if (google := _GOOGLE.search(text)) is not None:
        reason = _REASON.search(google["rest"])
        name = (reason["reason"] or reason["first"]) if reason else ""
        return _by(GOOGLE.get(name), int(google["status"] or google["bare"]), {401: Code.CREDENTIAL_EXPIRED})
    if (azure := _AZURE.search(text)) is not None:
        return _by(AZURE.get(azure["code"]), int(azure["status"]), {})
    answer = _ANSWER.search(text)
    status = int(answer["status"]) if answer else 0
    if answer and status:
        name = answer["code"] or ""
        if session and name in {"InvalidAccessKeyId", "InvalidToken"}:
            return Code.CREDENTIAL_EXPIRED, status
        return _by(CODES.get(name), status, {})
    return next((code for pattern, code in WORDS if pattern.search(text)), Code.INTERNAL), 0


def _by(known: Code | None, status: int, special: Mapping[int, Code]) -> tuple[Code, int]:
    """The code that is known, or what the status says; ``special`` before :data:`STATUSES`."""
    code = known or special.get(status) or STATUSES.get(status)
    return code or (Code.PROVIDER_UNAVAILABLE if status >= 500 else Code.PROVIDER_REFUSED), status
