"""What providers' answers mean: captured texts and what we make of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from multidict import CIMultiDict

from cloudpush.errors import Code
from cloudpush.net import Answer
from cloudpush.push.signed.model import Provider
from cloudpush.transfer.signed.answers import _AZURE, _MESSAGES, _S3, _STATUSES, is_error_body, pause_of, refusal

S3, GCS, AZURE = Provider.S3, Provider.GCS, Provider.AZURE
URL = "https://b.s3.amazonaws.com/k?X-Amz-Credential=AKIDEXAMPLE%2F20261120&X-Amz-Signature=c0ffeec0ffeec0ffee&X-Amz-Date=1"
SESSION = URL + "&X-Amz-Security-Token=5e5510n5e5510n5e5510n"


def xml(code: str, message: str = "", more: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>'
    ).encode()


AWS_EXPIRED = xml(
    "AccessDenied",
    "Request has expired",
    "<X-Amz-Expires>300</X-Amz-Expires><Expires>2025-06-03T12:26:02Z</Expires><ServerTime>2025-06-03T14:34:02Z</ServerTime>",
)
GCS_EXPIRED = xml(
    "ExpiredToken",
    "Invalid argument.",
    "<Details>The provided token has expired. Request signature expired at: 2026-01-01T00:00:00+00:00</Details>",
)
NOT_SIGNED = xml(
    "AccessDenied",
    "There were headers present in the request which were not signed",
    "<HeadersNotSigned>content-md5</HeadersNotSigned>",
)


def azure_time(current: str) -> bytes:
    return xml(
        "AuthenticationFailed",
        "Server failed to authenticate the request.\nRequestId:1",
        "<AuthenticationErrorDetail>Signature not valid in the specified time frame: Start [Tue, 03 Jun 2025 12:00:00 GMT] - "
        f"Expiry [Tue, 03 Jun 2025 13:00:00 GMT] - Current [{current}]</AuthenticationErrorDetail>",
    )


@pytest.mark.parametrize(
    ("provider", "status", "body", "late", "code"),
    [
        (S3, 403, AWS_EXPIRED, False, Code.URL_EXPIRED),
        (S3, 403, xml("AccessDenied", "Invalid according to Policy: Policy expired."), False, Code.URL_EXPIRED),
        (S3, 400, xml("ExpiredToken", "The provided token has expired."), False, Code.URL_EXPIRED),
        (S3, 400, xml("ExpiredRequest"), False, Code.URL_EXPIRED),
        (S3, 403, xml("AccessDenied", "Access Denied"), False, Code.ACCESS_DENIED),
        (S3, 400, xml("AccessDenied", "The difference between the request time …"), True, Code.URL_EXPIRED),
        (S3, 403, xml("RequestTimeTooSkewed"), False, Code.CLOCK_SKEW),
        (S3, 403, xml("RequestTimeTooSkewed"), True, Code.URL_EXPIRED),
        (S3, 403, xml("SignatureDoesNotMatch"), True, Code.BAD_SIGNATURE),
        (S3, 403, NOT_SIGNED, False, Code.URL_UNUSABLE),
        (S3, 403, xml("InvalidAccessKeyId"), False, Code.BAD_SIGNATURE),
        (S3, 403, b"", False, Code.ACCESS_DENIED),
        (S3, 403, b"", True, Code.URL_EXPIRED),
        (S3, 404, xml("NoSuchBucket"), False, Code.NO_SUCH_BUCKET),
        (S3, 404, xml("NoSuchUpload"), False, Code.UPLOAD_GONE),
        (S3, 404, b"<html>", False, Code.NO_SUCH_BUCKET),
        (S3, 400, xml("BadDigest"), False, Code.CORRUPTED),
        (S3, 400, xml("InvalidDigest"), False, Code.CORRUPTED),
        (S3, 400, xml("EntityTooLarge"), False, Code.TOO_LARGE),
        (S3, 412, xml("PreconditionFailed"), False, Code.OBJECT_EXISTS),
        (S3, 409, xml("ConditionalRequestConflict"), False, Code.CONFLICT),
        (S3, 503, xml("SlowDown"), False, Code.THROTTLED),
        (S3, 503, b"", False, Code.THROTTLED),
        (S3, 429, b"", False, Code.THROTTLED),
        (S3, 500, b"", False, Code.PROVIDER_UNAVAILABLE),
        (S3, 501, b"", False, Code.PROVIDER_REFUSED),
        (S3, 418, b"", False, Code.PROVIDER_REFUSED),
        (S3, 200, xml("InternalError"), False, Code.PROVIDER_UNAVAILABLE),
        (S3, 200, xml("SomethingNew"), False, Code.PROVIDER_UNAVAILABLE),
        (S3, 307, xml("TemporaryRedirect"), False, Code.PROVIDER_REFUSED),
        (GCS, 400, GCS_EXPIRED, False, Code.URL_EXPIRED),
        (GCS, 400, xml("MalformedSecurityHeader", "Header was included in signedheaders"), False, Code.URL_UNUSABLE),
        (GCS, 410, b"", False, Code.UPLOAD_GONE),
        (
            GCS,
            403,
            b'{"error":{"code":403,"message":"no","errors":[{"reason":"rateLimitExceeded"}]}}',
            False,
            Code.THROTTLED,
        ),
        (GCS, 401, b'{"error":{"code":401,"message":"Invalid Credentials"}}', False, Code.BAD_SIGNATURE),
        (AZURE, 403, azure_time("Tue, 03 Jun 2025 14:00:00 GMT"), False, Code.URL_EXPIRED),
        (AZURE, 403, azure_time("Tue, 03 Jun 2025 11:00:00 GMT"), False, Code.URL_NOT_YET_VALID),
        (AZURE, 403, azure_time("soon"), False, Code.URL_EXPIRED),
        (AZURE, 403, xml("AuthenticationFailed", "Signature did not match."), False, Code.BAD_SIGNATURE),
        (AZURE, 403, xml("AuthorizationFailure"), False, Code.ACCESS_DENIED),
        (AZURE, 403, xml("AuthorizationFailure"), True, Code.URL_EXPIRED),
        (AZURE, 403, xml("AuthorizationPermissionMismatch"), True, Code.ACCESS_DENIED),
        (AZURE, 404, xml("ContainerNotFound"), False, Code.NO_SUCH_BUCKET),
        (AZURE, 400, xml("Md5Mismatch"), False, Code.CORRUPTED),
        (AZURE, 400, xml("InvalidOperation", "Provided contentMD5 doesn't match."), False, Code.CORRUPTED),
        (AZURE, 409, xml("BlobAlreadyExists"), False, Code.OBJECT_EXISTS),
        (AZURE, 400, xml("InvalidBlockList"), False, Code.UPLOAD_GONE),
        (AZURE, 503, xml("ServerBusy"), False, Code.THROTTLED),
        (AZURE, 413, xml("RequestBodyTooLarge"), False, Code.TOO_LARGE),
    ],
)
def test_an_answer_means(provider: Provider, status: int, body: bytes, late: bool, code: Code) -> None:
    assert refusal(provider, Answer(status, CIMultiDict(), body), URL, late=late).code is code


def test_azure_says_its_code_in_a_header_where_there_is_no_body() -> None:
    refused = refusal(AZURE, Answer(404, CIMultiDict({"X-Ms-Error-Code": "BlobNotFound"})), URL, late=False)
    assert (refused.code, refused.status, refused.word) == (Code.OBJECT_MISSING, 404, "BlobNotFound")


def test_an_unknown_key_of_a_session_is_an_expired_one() -> None:
    answer = Answer(403, CIMultiDict(), xml("InvalidAccessKeyId"))
    assert refusal(S3, answer, SESSION, late=False).code is Code.URL_EXPIRED


def test_a_redirect_names_the_region_and_unsigned_headers_are_named() -> None:
    redirect = Answer(301, CIMultiDict({"x-amz-bucket-region": "eu-west-1"}), xml("PermanentRedirect"))
    assert "eu-west-1" in refusal(S3, redirect, URL, late=False).message
    assert "content-md5" in refusal(S3, Answer(403, CIMultiDict(), NOT_SIGNED), URL, late=False).message


@pytest.mark.parametrize(
    "message", [URL, URL.partition("?")[2], "c0ffeec0ffeec0ffee", "AKIDEXAMPLE%2F20261120", "AKIDEXAMPLE/20261120"]
)
def test_nothing_that_opens_something_is_kept_of_the_providers_words(message: str) -> None:
    body = xml("Weird", message.replace("&", "&amp;"))
    shown = refusal(S3, Answer(400, CIMultiDict(), body), URL, late=False)
    assert "c0ffee" not in shown.detail + shown.message
    assert "AKIDEXAMPLE" not in shown.detail + shown.message


SENT = {
    "x-amz-server-side-encryption-customer-key": "S0S0S0S0c0ffeekey64==",
    "policy": "c0ffeepolicy+c0ffee/x==",
    "acl": "private",
}


@pytest.mark.parametrize("secret", [*list(SENT.values())[:2], "S0S0S0S0c0ffeekey64%3D%3D"])
def test_headers_and_fields_of_the_request_are_not_kept_either(secret: str) -> None:
    """A form has its signature in its fields; a customer's key is a header."""
    answer = Answer(403, CIMultiDict(), xml("AccessDenied", f"no {secret} for private"))

    shown = refusal(S3, answer, URL, late=False, sent=SENT)

    assert shown.detail == "HTTP 403 AccessDenied: no [redacted] for private"


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("content-md5, x-amz-acl", "content-md5, x-amz-acl"),
        ("c0ffeec0ffeec0ffee", "(not shown)"),
        ("content-md5,c0ffeec0ffeec0ffee,S0S0S0S0c0ffeekey64==,S0S0S0S0c0ffeekey64", "content-md5"),
        ("c0ffeec0ffee", "(not shown)"),
        ("a b c0ffee d", "(not shown)"),
        ("", ""),
    ],
)
def test_headers_that_are_not_signed_are_named_and_nothing_else_is(told: str, named: str) -> None:
    """Names only: not what a server puts in their place, whole or in pieces."""
    body = xml("AccessDenied", "m", f"<HeadersNotSigned>{told}</HeadersNotSigned>")

    message = refusal(S3, Answer(403, CIMultiDict(), body), URL, late=False, sent=SENT).message

    assert message.partition("not signed: ")[2].removesuffix(".") == named


@pytest.mark.parametrize("code", ["c0ffeec0ffeec0ffee", "c0ffeec0ffee", "two words", "x" * 65])
def test_a_code_that_is_none_is_not_kept_as_one(code: str) -> None:
    """Nor a region that is a piece of the request."""
    answer = Answer(301, CIMultiDict({"x-amz-bucket-region": "c0ffeec0ffee"}), xml(code))

    shown = refusal(S3, answer, URL, late=False)

    assert (shown.word, "c0ffee" in shown.message) == ("", False)


def test_an_answer_shows_no_headers() -> None:
    """Where a resumable upload began, one of them is the session itself."""
    assert "canary" not in repr(Answer(201, CIMultiDict({"Location": "https://h/b?upload_id=canary"}), b"canary"))


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE x [<!ENTITY a 'b'>]><Error><Code>&a;</Code></Error>",
        b"<" * 60_000,
        b"<a>" * 20_000,
        b'{"error":' + b"[" * 30_000,
        b'{"error": [1, 2]}',
        b'{"error": {"errors": {"a": 1}}}',
        b"\xff\xfe\x00",
    ],
)
def test_hostile_bodies_are_judged_by_their_status(body: bytes) -> None:
    assert refusal(S3, Answer(403, CIMultiDict(), body), URL, late=False).code is Code.ACCESS_DENIED


def test_a_body_that_was_cut_still_tells_its_code() -> None:
    body = xml("NoSuchBucket", "x" * 1000)[:200]
    assert refusal(S3, Answer(403, CIMultiDict(), body), URL, late=False).code is Code.NO_SUCH_BUCKET


@pytest.mark.parametrize(
    ("body", "is_error"),
    [
        (b"", False),
        (b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>", False),
        (b"<R><Error><Code>not the root</Code></Error></R>", False),
        (b"    \n" + xml("InternalError"), True),
        (b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>InternalError</Code></Error>', True),
    ],
)
def test_an_error_in_a_success_is_found(body: bytes, is_error: bool) -> None:
    assert is_error_body(Answer(200, CIMultiDict(), body)) is is_error


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("", 0.0),
        ("7", 7.0),
        ("-7", 0.0),
        ("9" * 400, 999_999_999.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 11:00:30 GMT", 0.0),
        ("soon", 0.0),
        (f"Sun, 01 Mar 2026 12:00:30 +{'9' * 30}", 0.0),
    ],
)
def test_retry_after_is_read(told: str, seconds: float) -> None:
    headers = CIMultiDict({"retry-after": told})
    assert pause_of(headers, datetime(2026, 3, 1, 12, 0, tzinfo=UTC)) == seconds


def test_every_code_has_its_message() -> None:
    codes = {*_S3.values(), *_AZURE.values(), *_STATUSES.values(), Code.PROVIDER_UNAVAILABLE, Code.PROVIDER_REFUSED}
    assert codes - _MESSAGES.keys() == set()
