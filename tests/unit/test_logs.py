"""No secret survives a log line, whichever system said it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from cloudpush.logs import MASK, get_logger, redact, setup_logs

S3_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>SignatureDoesNotMatch</Code><Message>The request signature '
    "we calculated does not match</Message><AWSAccessKeyId>AKIACANARYCANARY1234</AWSAccessKeyId><StringToSign>AWS4-"
    "HMAC-SHA256\n20260101T000000Z\ncanary</StringToSign><SignatureProvided>canary0123</SignatureProvided>"
    "<CanonicalRequest>HEAD\n/results/canary</CanonicalRequest><CanonicalRequestBytes>48 canary</CanonicalRequestBytes>"
    "</Error>"
)

SAMPLES = {
    "an S3 error": S3_ERROR,
    "an expired session": "<Error><Code>ExpiredToken</Code><Token-0>canaryIQoJb3JpZ2luX2VjE</Token-0></Error>",
    "an STS answer": "<AssumeRoleResult><AccessKeyId>ASIACANARYCANARY1234</AccessKeyId><SecretAccessKey>canary/+1"
    "</SecretAccessKey><SessionToken>canary//==</SessionToken></AssumeRoleResult>",
    "an Azure SAS": "https://acct.blob.core.windows.net/c/b?sv=2024-11-04&sp=cw&se=2026-01-01&sig=canary%2Bx%3D",
    "an Azure connection string": "AccountName=acct;AccountKey=canary+/==;EndpointSuffix=core.windows.net",
    "a Google signed URL": "https://storage.googleapis.com/b/k?X-Goog-Credential=canary%40p&X-Goog-Signature=canary12",
    "an S3 presigned URL": "https://b.s3.amazonaws.com/k?X-Amz-Credential=AKIACANARYCANARY1234%2F20260101&"
    "X-Amz-Security-Token=canary%2F%2F&X-Amz-Signature=canaryff",
    "an authorization header": "Authorization: AWS4-HMAC-SHA256 Credential=AKIACANARYCANARY1234/x, SignedHeaders=host, "
    "Signature=canary",
    "a login of any other scheme": "Authorization: SharedKey acct:canary+/=",
    "a bearer token": "Authorization: Bearer canary.token-value~x",
    "a bearer token in a repr": "{'Authorization': 'Bearer canary.token-value'}",
    "a basic login": "proxy-authorization: Basic Y2FuYXJ5OmNhbmFyeQ==canary",
    "a URL with a password": "cannot connect to postgresql://app:canary@db.lab:5432/cloudpush",
    "a URL with an @ in its password": "redis://:can@ary/canary@cache.lab:6379/0",
    "an access key": "InvalidAccessKeyId: AKIACANARYCANARY1234 does not exist",
    "a Vault token": "permission denied for token hvs.canaryCAESIJcanaryCAESIJcanary",
    "an OpenBao token": "X-Vault-Token: s.canarycanarycanarycanary",
    "a wrapped data key": "cannot decrypt vault:v3:canary0123456789+/=",
    "JSON": '{"secret_access_key": "canary, with spaces & quotes \\" canary", "size": 7}',
    "JSON in a string": '"{\\"secret_id\\": \\"canary\\"}"',
    "a repr": "{'client_secret': 'canary with spaces', 'scope': 'x'}",
    "a form": "grant_type=refresh_token&refresh_token=canary&client_id=x",
    "an INI file": "aws_secret_access_key = canary/+\nregion = eu-west-1",
    "an identity token": "id_token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.canarycanary",
    "a command line": "rclone --s3-secret-access-key=canary --password 'x'",
    "a log line with a passphrase": "PASSPHRASE: canary",
}


@pytest.mark.parametrize("what", SAMPLES)
def test_what_opens_something_is_masked(what: str) -> None:
    """By its shape alone: nobody told which secrets there are."""
    clean = redact(SAMPLES[what])

    assert MASK in clean
    assert [word for word in ("canary", "CANARY", "Y2FuYXJ5", "eyJzdWIi") if word in clean] == [], clean


@pytest.mark.parametrize(
    "text",
    [
        "<Error><Code>NoSuchBucket</Code><BucketName>results</BucketName><RequestId>16A</RequestId></Error>",
        "https://minio.lab:9000/bucket/key?versionId=7",
        "dial tcp 10.0.0.7:9000: connect: connection refused",
        "The push demands checksum; 12 of 5,000 files failed.",
        "AccessDenied: Access Denied. status code: 403",
        "postgresql://app@/cloudpush?host=/run/postgres&port=5432",
    ],
)
def test_what_opens_nothing_is_left(text: str) -> None:
    """An error must still say what was wrong."""
    assert redact(text) == text


def test_a_masked_error_still_says_what_it_was() -> None:
    """Code and message stay."""
    clean = redact(S3_ERROR)

    assert ("<Code>SignatureDoesNotMatch</Code>" in clean, "we calculated does not match" in clean) == (True, True)


SECRETS = st.text(st.characters(exclude_characters="[]", exclude_categories=["Cs"]), min_size=4, max_size=60).filter(
    lambda s: s not in MASK
)
AROUND = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(before=AROUND, secret=SECRETS, between=AROUND, after=AROUND)
def test_a_known_secret_never_survives(before: str, secret: str, between: str, after: str) -> None:
    """Wherever it stands, and however often."""
    text = before + secret + between + secret + secret + after

    assert secret not in redact(text, secret).replace(MASK, "")


@example(secret="pass word/+&<1")
@given(secret=st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="[]"), min_size=8, max_size=40))
def test_a_known_secret_does_not_survive_in_disguise(secret: str) -> None:
    """As URLs, JSON and XML spell it."""
    for spelt in (quote(secret, safe=""), json.dumps(secret), json.dumps(secret, ensure_ascii=False), escape(secret)):
        inner = spelt.strip('"') if spelt.startswith('"') else spelt

        assert inner not in redact(f"told: {spelt}!", secret)


def test_the_longest_secret_is_masked_first() -> None:
    """A short one that is part of it does not leave its rest behind."""
    assert redact("key=abcd-long-rest end", "abcd", "abcd-long-rest").endswith(f"{MASK} end")


def test_words_of_three_letters_are_no_secrets() -> None:
    """Masking them would make every text unreadable."""
    assert redact("the end", "end", "") == "the end"


def test_text_is_bounded() -> None:
    """A hostile answer does not fill the disk."""
    assert redact("x" * 5_000, limit=100) == "x" * 100 + "…"


def test_a_secret_at_the_limit_is_not_half_shown() -> None:
    """It is masked before the text is cut."""
    assert "canary" not in redact("x" * 95 + "canarysecret", "canarysecret", limit=103)


# -- log lines --------------------------------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What goes to stderr once logs are set up as in a worker."""
    root, raising = logging.getLogger(), logging.raiseExceptions
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    setup_logs("info", "json")
    yield stream
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_is_one_json_object_with_what_was_bound_at_the_door(lines: io.StringIO) -> None:
    """Ids are bound once."""
    with structlog.contextvars.bound_contextvars(push="7"):
        get_logger("cloudpush.test").info("part executed", part=3)

    told = json.loads(lines.getvalue())
    assert {k: told[k] for k in ("event", "level", "logger", "push", "part")} == {
        "event": "part executed",
        "level": "info",
        "logger": "cloudpush.test",
        "push": "7",
        "part": 3,
    }


def test_lines_below_the_level_are_left_out(lines: io.StringIO) -> None:
    """Debug here."""
    get_logger("cloudpush.test").debug("chatter")

    assert lines.getvalue() == ""


def fail() -> None:
    raise ValueError("password=canary-1 for https://u:canary-2@host")


def test_a_traceback_is_masked(lines: io.StringIO) -> None:
    """Of our own lines and of other libraries'."""
    for log in (get_logger("cloudpush.test"), logging.getLogger("celery.test")):
        try:
            fail()
        except ValueError:
            log.exception("it failed")

    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [("ValueError" in t["exception"], "canary" in json.dumps(t)) for t in told] == [(True, False)] * 2


def test_other_libraries_lines_are_masked(lines: io.StringIO) -> None:
    """They may quote what they were given, also as an argument."""
    logging.getLogger("kombu").warning("cannot connect to %s", "redis://:canary@host:6379")

    told = json.loads(lines.getvalue())
    assert (told["event"], told["logger"]) == (f"cannot connect to redis://:{MASK}@host:6379", "kombu")


def test_a_full_disk_does_not_end_the_work_that_is_logged(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is lost, nothing else."""

    def full(_text: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lines, "write", full)

    get_logger("cloudpush.test").info("part executed")
