from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cloudpush.errors import Code
from cloudpush.net import BadXml, parse_xml
from cloudpush.verify.answers import FATAL, Refused, error_of, read_refusal

SECRET = "canary-secret-value"


def document(code: str, message: str = "words", more: str = "") -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>'.encode()


def code_of(status: int, body: bytes, *, region: str = "", session: bool = False) -> Code:
    refused = read_refusal(status, body, region)
    return error_of(refused, bucket="b", what="'k'", region="us-east-1", session=session, secrets=()).code


@pytest.mark.parametrize(
    ("status", "body", "session", "code"),
    [
        (403, document("SignatureDoesNotMatch"), False, Code.BAD_SIGNATURE),
        (403, document("InvalidAccessKeyId"), False, Code.BAD_SIGNATURE),
        (403, document("InvalidAccessKeyId"), True, Code.CREDENTIAL_EXPIRED),  # SeaweedFS forgets old sessions
        (400, document("ExpiredToken"), True, Code.CREDENTIAL_EXPIRED),
        (400, document("ExpiredRequest"), False, Code.CREDENTIAL_EXPIRED),
        (400, document("InvalidToken"), True, Code.CREDENTIAL_EXPIRED),
        (403, document("AccessDenied"), True, Code.ACCESS_DENIED),
        (403, document("RequestTimeTooSkewed"), False, Code.CLOCK_SKEW),
        (404, document("NoSuchBucket"), False, Code.NO_SUCH_BUCKET),
        (404, document("NoSuchKey"), False, Code.OBJECT_MISSING),
        (301, document("PermanentRedirect"), False, Code.WRONG_REGION),
        (400, document("AuthorizationHeaderMalformed", more="<Region>eu-west-1</Region>"), False, Code.WRONG_REGION),
        (400, document("AuthorizationHeaderMalformed"), False, Code.BAD_SIGNATURE),
        (503, document("SlowDown"), False, Code.THROTTLED),
        (429, b"", False, Code.THROTTLED),
        (500, b"", False, Code.PROVIDER_UNAVAILABLE),
        (503, b"<html>", False, Code.PROVIDER_UNAVAILABLE),
        (501, document("NotImplemented"), False, Code.PROVIDER_REFUSED),
        (400, b"", False, Code.PROVIDER_REFUSED),
        (401, b"", False, Code.ACCESS_DENIED),
        (403, b"<not xml", False, Code.ACCESS_DENIED),
        (404, b"", False, Code.OBJECT_MISSING),
        (307, b"", False, Code.NO_SUCH_BUCKET),
    ],
)
def test_what_error_answers_mean(status: int, body: bytes, session: bool, code: Code) -> None:
    """S3's code decides, then the status; a session makes an unknown key an expired one."""
    assert code_of(status, body, session=session) is code


def test_skewed_clock_is_told_by_how_much() -> None:
    """From the provider's own time, in its words or in the answer's Date."""
    told = document("RequestTimeTooSkewed", more="<ServerTime>2000-01-01T00:00:00Z</ServerTime>")
    dated = document("RequestTimeTooSkewed")
    found = [
        read_refusal(403, told, date="Mon, 01 Jan 2001 00:00:00 GMT"),
        read_refusal(403, dated, date="Sat, 01 Jan 2000 00:00:00 GMT"),
        read_refusal(403, dated, date="no date"),
    ]

    messages = [error_of(refused, bucket="data", what="", secrets=()).message for refused in found]

    assert [refused.time for refused in found] == [datetime(2000, 1, 1, tzinfo=UTC)] * 2 + [None]
    assert [" s ahead of the destination's" in message for message in messages] == [True, True, False]


def test_a_wrong_region_is_named() -> None:
    """Whoever signs for another region is told the right one."""
    refused = read_refusal(400, document("AuthorizationHeaderMalformed", more="<Region>eu-west-1</Region>"))

    error = error_of(refused, bucket="data", what="", region="us-east-1", session=False, secrets=())

    assert error.message == (
        "The bucket 'data' is in region eu-west-1, not us-east-1: give the credential or the profile that region."
    )


def test_the_providers_words_are_kept_without_secrets() -> None:
    """The detail holds status, code and message, redacted."""
    refused = Refused(403, "AccessDenied", f"no {SECRET} for AKIAABCDEFGHIJKLMNOP")

    error = error_of(refused, bucket="b", what="'k'", region="", session=False, secrets=(SECRET,))

    assert error.detail == "HTTP 403 AccessDenied: no [redacted] for [redacted]"


def test_what_concerns_the_whole_destination() -> None:
    """A denied key leaves hope for others; a wrong secret does not."""
    assert (Code.BAD_SIGNATURE in FATAL, Code.ACCESS_DENIED in FATAL, Code.OBJECT_MISSING in FATAL) == (
        True,
        False,
        False,
    )


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Error><Code>&b;</Code></Error>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><Error/>',
        b"<a>" * 100 + b"</a>" * 100,
        b"<Error><Code>x</Code>",
        b"",
        b"\xff\xfe",
        b"<Error>&undefined;</Error>",
    ],
)
def test_hostile_xml_is_refused(body: bytes) -> None:
    """Entities, document types, towers and fragments are no answers."""
    with pytest.raises(BadXml):
        parse_xml(body, lambda path, text: None)


def test_elements_come_with_path_and_text() -> None:
    """Namespaces are dropped, character references decoded."""
    seen: list[tuple[tuple[str, ...], str]] = []

    parse_xml(b'<r xmlns="urn:x"><a>1&#34;2</a><b><c>d</c></b></r>', lambda path, text: seen.append((path, text)))

    assert seen == [(("r", "a"), '1"2'), (("r", "b", "c"), "d"), (("r", "b"), ""), (("r",), "")]
