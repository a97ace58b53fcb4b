"""rclone's words as our errors: the texts are those that rclone 1.75 gave, shortened only where a dash says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cloudpush.errors import CloudPushError, Code, DestinationError, EngineError, SourceError
from cloudpush.transfer.translate import AZURE, CODES, GOOGLE, STATUSES, Translator, accepted
from cloudpush.verify import answers

SECRETS = ("AKCANARY000000000001", "canary-secret", "canary-token")


def translated(text: str, *, session: bool = False, path: str = "a.bin") -> CloudPushError:
    return Translator("results", "https://s3.example.org", session, SECRETS).error(text, path)


def put(status: int, code: str, operation: str = "PutObject") -> str:
    return (
        f"operation error S3: {operation}, https response error StatusCode: {status}, RequestID: 18E9C94FF1C03A53, "
        f"HostID: , api error {code}: the provider's own words"
    )


def unsent(words: str) -> str:
    return (
        "operation error S3: PutObject, exceeded maximum number of attempts, 1, https response error StatusCode: 0, "
        f'RequestID: , HostID: , request send failed, Put "http://s3.example.org/results/a?x-id=PutObject": {words}'
    )


def azure(status: int, code: str) -> str:
    line = "-" * 80
    return (
        f"PUT https://lab.blob.core.windows.net/results/a.bin\n{line}\nRESPONSE {status}: {status} Its own words.\n"
        f"ERROR CODE: {code}\n{line}\n<?xml version='1.0'?><Error><Code>{code}</Code></Error>\n{line}\n"
    )


ROWS = [
    # what the provider said
    (put(403, "AccessDenied"), Code.ACCESS_DENIED),
    (put(403, "Forbidden"), Code.ACCESS_DENIED),
    (put(403, "SignatureDoesNotMatch"), Code.BAD_SIGNATURE),
    (put(403, "InvalidAccessKeyId"), Code.BAD_SIGNATURE),
    (put(400, "ExpiredToken"), Code.CREDENTIAL_EXPIRED),
    (put(403, "RequestTimeTooSkewed"), Code.CLOCK_SKEW),
    (put(404, "NoSuchBucket"), Code.NO_SUCH_BUCKET),
    (put(404, "NotFound"), Code.NO_SUCH_BUCKET),
    (put(301, "PermanentRedirect"), Code.WRONG_REGION),
    (put(400, "AuthorizationHeaderMalformed"), Code.WRONG_REGION),
    (
        "multi-thread copy: failed to open chunk writer: create multipart upload failed: "
        + put(404, "NoSuchBucket", "CreateMultipartUpload"),
        Code.NO_SUCH_BUCKET,
    ),
    (
        "multi-thread copy: failed to write chunk: failed to upload chunk 3 with 16777216 bytes: "
        + put(404, "NoSuchUpload", "UploadPart"),
        Code.PROVIDER_UNAVAILABLE,
    ),
    (put(400, "KeyTooLongError"), Code.NAME_NOT_A_KEY),
    (put(400, "BadDigest"), Code.CORRUPTED),
    (put(400, "EntityTooLarge"), Code.TOO_LARGE),
    (put(412, "PreconditionFailed"), Code.CONFLICT),
    (put(409, "OperationAborted"), Code.CONFLICT),
    (put(507, "InsufficientStorage"), Code.QUOTA_EXCEEDED),
    (put(429, "TooManyRequests"), Code.THROTTLED),
    (put(503, "SlowDown"), Code.THROTTLED),
    (put(503, "ServiceUnavailable"), Code.PROVIDER_UNAVAILABLE),
    (put(400, "RequestTimeout"), Code.PROVIDER_UNAVAILABLE),
    (put(502, "BadGateway"), Code.PROVIDER_UNAVAILABLE),
    (put(500, "InternalError"), Code.PROVIDER_UNAVAILABLE),
    (put(400, "SomethingNew"), Code.PROVIDER_REFUSED),
    # what the network said
    (unsent("dial tcp: lookup nohost.invalid on 10.0.0.53:53: no such host"), Code.ENDPOINT_UNRESOLVABLE),
    (unsent("dial tcp: lookup nohost on 10.0.0.53:53: server misbehaving"), Code.ENDPOINT_UNRESOLVABLE),
    (unsent("dial tcp 127.0.0.1:38781: connect: connection refused"), Code.ENDPOINT_REFUSED),
    (unsent("dial tcp 192.0.2.1:443: connect: no route to host"), Code.ENDPOINT_REFUSED),
    (unsent("http: server gave HTTP response to HTTPS client"), Code.TLS_FAILED),
    (unsent("tls: failed to verify certificate: x509: certificate signed by unknown authority"), Code.TLS_FAILED),
    (unsent("tls: failed to verify certificate: x509: certificate has expired or is not yet valid"), Code.TLS_FAILED),
    (unsent("net/http: TLS handshake timeout"), Code.NETWORK),
    (unsent("dial tcp 192.0.2.1:443: i/o timeout"), Code.NETWORK),
    (unsent("net/http: timeout awaiting response headers"), Code.NETWORK),
    (unsent("write tcp 127.0.0.1:50468->127.0.0.1:45165: write: connection reset by peer"), Code.NETWORK),
    (unsent("write tcp 127.0.0.1:50468->127.0.0.1:45165: write: broken pipe"), Code.NETWORK),
    (unsent("EOF"), Code.NETWORK),
    (unsent("cloudpush: ENDPOINT_FORBIDDEN"), Code.ENDPOINT_FORBIDDEN),
    (unsent("cloudpush: ENDPOINT_UNRESOLVABLE"), Code.ENDPOINT_UNRESOLVABLE),
    (unsent("cloudpush: ENDPOINT_REFUSED"), Code.ENDPOINT_REFUSED),
    # what the file system and rclone said
    ("object not found", Code.SOURCE_MISSING),
    ("directory not found", Code.SOURCE_MISSING),
    ("failed to open source object: open /data/a.bin: permission denied", Code.SOURCE_UNREADABLE),
    ("failed to open source object: open /data/a.bin: no such file or directory", Code.SOURCE_MISSING),
    ("multi-thread copy: failed to read chunk: read /data/a.bin: input/output error", Code.SOURCE_UNREADABLE),
    ("can't copy - source file is being updated (size changed from 5 to 6)", Code.SOURCE_CHANGED),
    (
        "corrupted on transfer: sizes differ src(Local file system at /data) 5 vs dst(S3 bucket results) 6",
        Code.SOURCE_CHANGED,
    ),
    ("is a directory not a file", Code.SOURCE_CHANGED),
    ("is a file not a directory", Code.SOURCE_CHANGED),
    ('corrupted on transfer: md5 hashes differ src(Local) "9d5e" vs dst(S3) "0cc1"', Code.CORRUPTED),
    ("multipart upload corrupted: Etag differ: expecting 4c7c-64 but got 5d8d-64", Code.CORRUPTED),
    ("write /run/cloudpush/x.list: no space left on device", Code.DISK_FULL),
    ("open /data/a.bin: too many open files", Code.ENGINE_CRASHED),
    ("didn't find section in config file", Code.ENGINE_CRASHED),
    ("something that nobody has seen before", Code.INTERNAL),
    # what Google said
    ("googleapi: Error 401: Invalid Credentials, authError", Code.CREDENTIAL_EXPIRED),
    ("googleapi: got HTTP response code 401 with body: ", Code.CREDENTIAL_EXPIRED),
    ("googleapi: Error 403: the caller does not have storage.objects.create access, forbidden", Code.ACCESS_DENIED),
    (
        "googleapi: Error 403: Request had insufficient authentication scopes., insufficientPermissions",
        Code.ACCESS_DENIED,
    ),
    ("googleapi: Error 404: The specified bucket does not exist., notFound", Code.NO_SUCH_BUCKET),
    ("googleapi: Error 412: At least one of the pre-conditions did not hold., conditionNotMet", Code.CONFLICT),
    ("googleapi: Error 403: Rate Limit Exceeded, rateLimitExceeded", Code.THROTTLED),
    ("googleapi: Error 429: The object exceeded the rate limit, rateLimitExceeded", Code.THROTTLED),
    ("googleapi: Error 403: The quota is used up, quotaExceeded", Code.QUOTA_EXCEEDED),
    (
        "googleapi: Error 503: We encountered an internal error. Please try again., backendError",
        Code.PROVIDER_UNAVAILABLE,
    ),
    ("googleapi: got HTTP response code 502 with body: <html>bad gateway</html>", Code.PROVIDER_UNAVAILABLE),
    ("googleapi: Error 400: Something new, neverHeardOf", Code.PROVIDER_REFUSED),
    (
        "googleapi: Error 403: Two things\nMore details:\nReason: forbidden, Message: One\nReason: other, Message: Two\n",
        Code.ACCESS_DENIED,
    ),
    (
        'Post "https://storage.googleapis.com/upload/storage/v1/b/x/o?name=y": token expired and there\'s no refresh token',
        Code.CREDENTIAL_EXPIRED,
    ),
    # what Azure said
    (azure(403, "AuthenticationFailed"), Code.CREDENTIAL_EXPIRED),
    (azure(403, "AuthorizationFailure"), Code.ACCESS_DENIED),
    (azure(403, "AuthorizationPermissionMismatch"), Code.ACCESS_DENIED),
    (azure(404, "ContainerNotFound"), Code.NO_SUCH_BUCKET),
    (azure(400, "Md5Mismatch"), Code.CORRUPTED),
    (azure(400, "InvalidBlockList"), Code.PROVIDER_UNAVAILABLE),
    (azure(409, "BlobImmutableDueToPolicy"), Code.CONFLICT),
    (azure(413, "RequestBodyTooLarge"), Code.TOO_LARGE),
    (azure(503, "ServerBusy"), Code.THROTTLED),
    (azure(500, "OperationTimedOut"), Code.PROVIDER_UNAVAILABLE),
    (azure(403, "SomethingNew"), Code.ACCESS_DENIED),
    (azure(400, "SomethingNew"), Code.PROVIDER_REFUSED),
]


@pytest.mark.parametrize(("text", "code"), ROWS, ids=[f"{code}-{n}" for n, (_, code) in enumerate(ROWS)])
def test_words_become_a_code(text: str, code: Code) -> None:
    """Each text has one code."""
    assert translated(text).code is code


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "InvalidToken"])
def test_an_unknown_key_with_a_session_token_has_expired(code: str) -> None:
    """Servers forget temporary keys: what is unknown with a token was known once."""
    assert translated(put(403, code), session=True).code is Code.CREDENTIAL_EXPIRED


@pytest.mark.parametrize("code", ["AuthorizationFailure", "SomethingNew"])
def test_what_is_refused_after_its_end_has_expired(code: str) -> None:
    """Some servers say no more than no to a signature whose time is over: the clock knows."""
    now = datetime.now(UTC)
    found = [
        Translator("b", "e", session=False, secrets=(), ends=now + timedelta(seconds=left)).error(azure(403, code)).code
        for left in (-1, 60)
    ]

    assert found == [Code.CREDENTIAL_EXPIRED, Code.ACCESS_DENIED]


def test_right_region_is_named_where_the_provider_tells_it() -> None:
    """S3 says which one it expects the signature to name."""
    text = put(400, "AuthorizationHeaderMalformed") + "; the region 'us-east-1' is wrong; expecting 'eu-central-1'"

    assert translated(text).message.endswith("says: it is in eu-central-1.")


def test_the_message_names_what_it_is_about() -> None:
    """A user reads of the bucket, the endpoint or the file; rclone's own words are kept beside."""
    error = translated(put(404, "NoSuchBucket"))

    assert (str(error), error.detail) == (
        "NO_SUCH_BUCKET: The bucket 'results' does not exist at https://s3.example.org, or is in another region.",
        put(404, "NoSuchBucket"),
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (put(403, "AccessDenied"), DestinationError),
        ("object not found", SourceError),
        ("disk quota exceeded", EngineError),
    ],
)
def test_the_class_says_whose_fault_it_is(text: str, kind: type[CloudPushError]) -> None:
    """Destination, source and engine are different errors."""
    assert type(translated(text)) is kind


def test_secrets_are_masked_everywhere() -> None:
    """Nothing of the session's secret is in what the error, or the translator, shows."""
    error = translated(put(403, "AccessDenied") + " " + " ".join(SECRETS))
    shown = f"{error} {error!r} {error.detail} {Translator('b', 'e', False, SECRETS)!r}"

    assert [s for s in SECRETS if s in shown] == []


def test_an_unseen_object_was_uploaded_all_the_same() -> None:
    """A credential that may only write is refused the look that rclone takes after the pieces were put together."""
    text = "multi-thread copy: failed to find object after copy: " + put(403, "Forbidden", "HeadObject")

    assert (accepted(text), accepted(put(403, "Forbidden"))) == (True, False)


def test_both_readers_of_s3_answers_agree() -> None:
    """What the provider says to an upload and to a look at it means the same; a missing key cannot hinder an upload."""
    common = CODES.keys() & answers.CODES.keys()

    assert {c: CODES[c] for c in common} == {c: answers.CODES[c] for c in common}
    assert answers.CODES.keys() - CODES.keys() == {"NoSuchKey"}
    both = AZURE.keys() & answers.AZURE.keys() - {"BlobArchived"}  # may be replaced by nobody, and read by nobody
    assert {c: AZURE[c] for c in both} == {c: answers.AZURE[c] for c in both}


def test_every_code_has_words() -> None:
    """No answer leads to a code without a message."""
    for status in STATUSES:
        assert translated(put(status, "Unknown")).message
    for name in CODES:
        assert translated(put(400, name)).message
    for name in GOOGLE:
        assert translated(f"googleapi: Error 400: its own words, {name}").message
    for name in AZURE:
        assert translated(azure(400, name)).message
