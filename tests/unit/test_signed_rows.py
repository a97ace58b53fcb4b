"""Manifest rows become tickets, or say what is wrong with which column."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config

from cloudpush.errors import Code, InputError
from cloudpush.push.signed.forms import Policy, policy_of
from cloudpush.push.signed.model import Kind, Ticket
from cloudpush.push.signed.rows import COLUMNS, Rules, read_row, ticket_from_url
from cloudpush.push.signed.urls import Role, read_url
from links import AWS_HOST, AZURE_HOST, CANARY, GCS_HOST, LOCAL, form_fields, gcs, gcs_v2, s3, s3_v2, sas

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ONE = NOON + timedelta(hours=1)
RULES = Rules(LOCAL, NOON)
MIB = 1024 * 1024

PARTS = [s3("/k", f"partNumber={n}", "uploadId=U", expires="600") for n in (1, 2)]
COMPLETE = s3("/k", "uploadId=U")
MULTIPART = {"path": "k", "part_urls": PARTS, "complete_url": COMPLETE}


def policy(content: object) -> str:
    return b64encode(json.dumps(content).encode()).decode()


def refusal(row: dict[str, Any], rules: Rules = RULES) -> InputError:
    with pytest.raises(InputError) as caught:
        read_row(row, rules)
    assert CANARY not in f"{caught.value}{caught.value!r}{caught.value.detail}"
    return caught.value


def url(text: str, role: Role = Role.UPLOAD) -> Any:
    return read_url(text, field="url", styles=LOCAL, role=role)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"path": "d/a.csv", "url": s3()}, Ticket("d/a.csv", Kind.PUT, url(s3()), expires_at=ONE)),
        ({"path": "a", "url": sas()}, Ticket("a", Kind.PUT, url(sas()), expires_at=ONE)),
        ({"path": "a", "url": sas("/a", "si=p", se="")}, Ticket("a", Kind.PUT, url(sas("/a", "si=p", se="")))),
        (
            {
                "path": "a",
                "url": s3(),
                "head_url": s3("/runs/7/a.csv", "x-id=HeadObject", expires="60"),
                "get_url": None,
            },
            Ticket(
                "a",
                Kind.PUT,
                url(s3()),
                verify=url(s3("/runs/7/a.csv", "x-id=HeadObject", expires="60"), Role.VERIFY),
                verify_method="HEAD",
                expires_at=ONE,
            ),
        ),
        (
            {"path": "a", "url": gcs(), "get_url": gcs(), "head_url": ""},
            Ticket("a", Kind.PUT, url(gcs()), verify=url(gcs(), Role.VERIFY), verify_method="GET", expires_at=ONE),
        ),
        (
            {"path": "a", "url": gcs(headers="host;x-goog-resumable")},
            Ticket(
                "a",
                Kind.RESUMABLE,
                url(gcs(headers="host;x-goog-resumable")),
                headers={"x-goog-resumable": "start"},
                expires_at=ONE,
            ),
        ),
        (
            {"path": "a", "start_url": gcs_v2()},
            Ticket("a", Kind.RESUMABLE, url(gcs_v2()), headers={"x-goog-resumable": "start"}, expires_at=ONE),
        ),
        (  # a legacy start that only its header gives away
            {"path": "a", "url": gcs_v2(), "headers": {"X-Goog-Resumable": "start"}},
            Ticket("a", Kind.RESUMABLE, url(gcs_v2()), headers={"x-goog-resumable": "start"}, expires_at=ONE),
        ),
        *(
            (
                {"path": "a", column: GCS_HOST + "/k?upload_id=x"},
                Ticket("a", Kind.RESUMABLE, url(GCS_HOST + "/k?upload_id=x")),
            )
            for column in ("session_url", "url")
        ),
        (
            {"path": "a", "form_url": AWS_HOST, "fields": form_fields()},
            Ticket(
                "a",
                Kind.FORM,
                replace(
                    url(AWS_HOST + "/", Role.FORM), version="v4", key="runs/7/a.csv", starts_at=NOON, expires_at=ONE
                ),
                fields=form_fields(),
                expires_at=ONE,
            ),
        ),
        (
            MULTIPART | {"abort_url": s3("/k", "uploadId=U", expires="1"), "part_size": "64MiB"},
            Ticket(
                "k",
                Kind.MULTIPART,
                url(COMPLETE, Role.COMPLETE),
                parts=tuple(PARTS),
                abort=s3("/k", "uploadId=U", expires="1"),
                part_size=64 * MIB,
                expires_at=NOON + timedelta(minutes=10),  # the parts' URLs end first
            ),
        ),
        (
            {"path": "", "tree_sas_url": sas("/runs/", "sdd=1", sr="d"), "url": None},
            Ticket("", Kind.TREE, url(sas("/runs", "sdd=1", sr="d"), Role.TREE), expires_at=ONE),
        ),
    ],
)
def test_each_way_to_send_a_file_is_a_ticket(row: dict[str, Any], expected: Ticket) -> None:
    """Its kind, URLs, headers and the first time at which an upload URL ends."""
    assert read_row(row, RULES) == expected


def test_cells_of_a_csv_say_what_json_says() -> None:
    """Objects and lists as JSON text, numbers as text, nothing as an empty cell."""
    fromjson = read_row(MULTIPART | {"headers": {}, "part_size": 5 * MIB}, RULES)
    cells = dict.fromkeys(COLUMNS, "") | {"path": "k", "complete_url": COMPLETE, "part_size": "5 mib", "headers": "{}"}

    assert read_row(cells | {"part_urls": json.dumps(PARTS)}, RULES) == fromjson
    assert read_row(cells | {"part_urls": " ".join(PARTS)}, RULES) == fromjson


@pytest.mark.parametrize(
    ("column", "given", "found"),
    [
        ("sha256", "AB" * 32, "ab" * 32),
        ("sha256", b64encode(b"\xab" * 32).decode(), "ab" * 32),
        ("md5", "ab" * 16, "ab" * 16),
        ("md5", "q6urq6urq6urq6urq6urqw==", "ab" * 16),
        ("crc32c", "00C0FFEE", "00c0ffee"),
        ("crc32c", "AMD/7g==", "00c0ffee"),
        ("crc64nvme", "00" * 8, "00" * 8),
        ("crc64nvme", "AAAAAAAAAAA=", "00" * 8),
    ],
)
def test_digests_come_in_hex_and_base64(column: str, given: str, found: str) -> None:
    """And are kept in lower-case hex."""
    assert read_row({"path": "a", "url": s3(), column: given}, RULES).checksums == {column: found}


@pytest.mark.parametrize(
    ("text", "headers", "found"),
    [
        (s3(headers="content-type;host"), {"Content-Type": "a/b"}, {"content-type": "a/b"}),
        (s3(), {"content-type": "a/b"}, {"content-type": "a/b"}),  # S3 takes it unsigned
        (s3(), {"Cache-Control": "no-store"}, {"cache-control": "no-store"}),
        # the upload's own
        (s3(headers="content-length;content-md5;host;x-amz-checksum-sha256"), {}, {}),
        (s3(headers="host;x-amz-checksum-crc32c;x-amz-checksum-crc64nvme"), {}, {}),
        (gcs(headers="host;x-goog-hash"), {}, {}),
        (s3(headers="content-md5;host"), {"content-md5": "x"}, {"content-md5": "x"}),
        (s3(headers="host;x-amz-content-sha256"), {}, {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}),
        (s3("/k", "X-Amz-Security-Token=t", headers="host;x-amz-security-token"), {}, {}),
        (s3(headers="host;if-none-match"), {"If-None-Match": "*"}, {"if-none-match": "*"}),
        (s3_v2(), {"x-amz-meta-a": "b", "content-type": "a/b"}, {"x-amz-meta-a": "b", "content-type": "a/b"}),
        (gcs_v2(), {"x-goog-meta-a": "b"}, {"x-goog-meta-a": "b"}),
        (gcs(headers="host;x-goog-meta-a"), {"x-goog-meta-a": "b"}, {"x-goog-meta-a": "b"}),
        (sas(), {"x-ms-meta-a": "b", "Content-Type": "a/b"}, {"x-ms-meta-a": "b", "content-type": "a/b"}),
        (sas("/a", "srh=x-ms-blob-type"), {}, {"x-ms-blob-type": "BlockBlob"}),
    ],
)
def test_headers_that_go_with_an_upload(text: str, headers: dict[str, str], found: dict[str, str]) -> None:
    """What was given, if the provider takes it, and what the signature leaves no choice of."""
    assert read_row({"path": "a", "url": text, "headers": headers}, RULES).headers == found


def test_the_headers_of_a_multipart_upload_are_those_that_any_of_its_urls_signs() -> None:
    """Each goes with the requests whose URLs sign it."""
    row = MULTIPART | {
        "part_urls": [s3("/k", "partNumber=1", "uploadId=U", headers="host;x-amz-request-payer")],
        "complete_url": s3("/k", "uploadId=U", headers="host;x-amz-mp-object-size"),
    }
    headers = {"x-amz-request-payer": "requester", "x-amz-mp-object-size": "7"}

    assert read_row(row | {"headers": headers}, RULES).headers == headers
    assert refusal(row | {"headers": {"x-amz-mp-object-size": "7"}}).message.startswith("headers lacks x-amz-request-")


M, U, B, F = Code.BAD_MANIFEST, Code.URL_UNUSABLE, Code.BAD_INPUT, Code.ENDPOINT_FORBIDDEN
PUT = {"path": "a", "url": s3()}
FORM = {"path": "a", "form_url": AWS_HOST}


@pytest.mark.parametrize(
    ("row", "code", "field", "words"),
    [
        # columns
        ({"path": "a"}, M, "url", "is missing; write exactly one of url, part_urls,"),
        ({}, M, "url", "is missing"),
        (PUT | {"start_url": gcs()}, M, "start_url", "goes not together with another way"),
        (PUT | {"Url": s3()}, M, "Url", "is not a column; did you mean url?"),
        (PUT | {"sha-256": "x"}, M, "sha-256", "did you mean sha256?"),
        (PUT | {"colour": "x"}, M, "colour", "see docs/signed-urls.md"),
        ({s3(): "a"}, M, "columns", "have a name that is none; write the names of the columns"),  # no header row
        ({CANARY * 3: "a"}, M, "columns", "have a name that is none"),
        (PUT | {"complete_url": COMPLETE}, M, "complete_url", "goes with part_urls only"),
        (PUT | {"abort_url": COMPLETE}, M, "abort_url", "goes with part_urls only"),
        (PUT | {"part_size": "5MiB"}, M, "part_size", "goes with part_urls only"),
        (PUT | {"fields": {"a": "b"}}, M, "fields", "goes with form_url only"),
        ({"path": "a", "tree_sas_url": sas("", sr="c")}, M, "path", "goes not with tree_sas_url"),
        ({"path": "a", "url": 5}, M, "url", "is not text"),
        ({"path": "a", "url": [s3()]}, M, "url", "is not text"),
        # paths
        ({"url": s3()}, M, "path", "is missing"),
        *(
            ({"path": path, "url": s3()}, M, "path", words)
            for path, words in (
                ("/etc/passwd", "is absolute"),
                ("../a", "empty, . or .. segment"),
                ("a/../b", "empty, . or .. segment"),
                ("a/..", "empty, . or .. segment"),
                ("..", "empty, . or .. segment"),
                (".", "empty, . or .. segment"),
                ("./a", "empty, . or .. segment"),
                ("a//b", "empty, . or .. segment"),
                ("a/", "empty, . or .. segment"),
                ("a\x00b", "control character"),
                ("a\nb", "control character"),
                ("\x7f", "control character"),
                ("\ud800", "not UTF-8"),
                ("ü" * 2049, "not UTF-8 of at most 4096 bytes"),
                (5, "is not text"),
                (b"a", "is not text"),
            )
        ),
        # what read_url says comes with the column
        ({"path": "a", "url": sas(sp="r")}, U, "url", "neither write nor create"),
        ({"path": "a", "url": "ftp://h/" + CANARY}, B, "url", "does not start with https://"),
        ({"path": "a", "url": s3(host="https://10.0.0.1")}, F, "url", "is a private address"),
        (PUT | {"head_url": s3("/runs/7/a.csv", "x-id=PutObject")}, U, "head_url", "another operation"),
        ({"path": "a", "url": s3(date="20260301T100000Z")}, Code.URL_EXPIRED, "url", "expired at 2026-03-01T11:00:00Z"),
        ({"path": "a", "url": s3(date="20260301T140000Z")}, Code.URL_NOT_YET_VALID, "url", "2026-03-01T14:00:00Z"),
        # companions
        (PUT | {"head_url": s3(), "get_url": s3()}, M, "get_url", "goes not together with head_url"),
        (PUT | {"head_url": s3("/runs/8/a.csv")}, M, "head_url", "is of another object than the upload"),
        (PUT | {"get_url": s3(host="https://other.s3.eu-west-1.amazonaws.com")}, M, "get_url", "another object"),
        (PUT | {"get_url": s3("/bkt/runs/7/a.csv", host="http://127.0.0.1:8333")}, M, "get_url", "another object"),
        (PUT | {"head_url": gcs()}, M, "head_url", "is of another object"),
        (PUT | {"head_url": s3(headers="host;x-amz-expected")}, M, "head_url", "signs the header x-amz-expected"),
        ({"path": "a", "url": sas(), "head_url": sas()}, U, "head_url", "no read right"),
        # headers
        *(
            (PUT | {"headers": headers}, M, "headers", words)
            for headers, words in (
                ("x", "is not an object that JSON can be read from"),
                ('{"a": "b", "a": "c"}', "is not an object that JSON can be read from"),
                ('["a"]', "is not an object"),
                (["a"], "is not an object"),
                ({"Host": "evil"}, "has host, which is not for users to set"),
                ({"content-length": "5"}, "has content-length, which is not for users to set"),
                ({"Transfer-Encoding": "chunked"}, "has transfer-encoding, which is not"),
                ({"Authorization": CANARY}, "has authorization, which is not"),
                ({"cookie": CANARY}, "has cookie, which is not"),
                ({"connection": "close"}, "has connection, which is not"),
                ({"X-HTTP-Method-Override": "DELETE"}, "has x-http-method-override, which is not"),
                ({"X-Forwarded-Host": "h"}, "has x-forwarded-host, which is not"),
                ({"x-amz-copy-source": "b/k"}, "copies another object"),
                ({"a b": "c"}, "a name that no header can have"),
                ({"a:": "c"}, "a name that no header can have"),
                ({"": "c"}, "a name that no header can have"),
                ({"a\r\nb": "c"}, "a name that no header can have"),
                ({"content-type": f"{CANARY}\r\nx: y"}, "value of content-type that is not text of printable ASCII"),
                ({"content-type": f"{CANARY}\x00"}, "value of content-type that is not text"),
                ({"content-type": "ü"}, "value of content-type that is not text"),
                ({"content-type": 5}, "value of content-type that is not text"),
                ({"content-type": "x" * 8193}, "value of content-type that is not text"),
                ({"content-type": "a", "Content-Type": "b"}, "has content-type twice"),
                ({"x-amz-acl": "public-read"}, "has x-amz-acl, which the URL does not sign"),
                ({"content-md5": "x"}, "has content-md5, which the URL does not sign"),
                ({"x-amz-checksum-sha256": "x"}, "has x-amz-checksum-sha256, which the URL does not sign"),
                ({"if-none-match": "*"}, "has if-none-match, which the URL does not sign"),
                ({"x-ms-blob-type": "PageBlob"}, "another blob type"),
                ({"x-goog-resumable": "no"}, "x-goog-resumable that is not start"),
                ({"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, "STREAMING"),
                ({f"x{n}": "" for n in range(101)}, "has 101 headers"),
            )
        ),
        ({"path": "a", "url": gcs(), "headers": {"content-type": "a"}}, M, "headers", "which the URL does not sign"),
        ({"path": "a", "url": gcs(), "headers": {"content-md5": "a"}}, M, "headers", "which the URL does not sign"),
        (
            {"path": "a", "url": s3(headers="content-type;host")},
            *(M, "headers", "lacks content-type, which url signs; add it with the value that was signed"),
        ),
        ({"path": "a", "url": s3(headers="host;x-amz-checksum-crc32")}, M, "headers", "lacks x-amz-checksum-crc32,"),
        ({"path": "a", "url": s3(headers="host;x-amz-security-token")}, M, "headers", "lacks x-amz-security-token"),
        ({"path": "a", "session_url": GCS_HOST + "/k?upload_id=x", "headers": {"a": "b"}}, M, "headers", "session"),
        # digests
        *(
            (PUT | {column: digest}, M, column, "is no such digest; write its")
            for column, digest in (
                ("sha256", CANARY),
                ("sha256", "zz" * 32),
                ("sha256", "\u0660" * 64),
                ("sha256", "ab" * 16),
                ("md5", "!" * 24),
                ("md5", "ab " * 10 + "ab"),
                ("crc32c", "AAAAAA=A"),
                ("crc64nvme", "AAAA=AAAAAA="),
            )
        ),
        (PUT | {"md5": 5}, M, "md5", "is not text"),
        # multipart
        (MULTIPART | {"complete_url": ""}, M, "complete_url", "is missing"),
        (MULTIPART | {"part_urls": "[]"}, M, "part_urls", "is empty"),
        (MULTIPART | {"part_urls": '["a", 5]'}, M, "part_urls", "is not a list of strings"),
        (MULTIPART | {"part_urls": "[" + CANARY}, M, "part_urls", "is not a list that JSON can be read from"),
        (MULTIPART | {"part_urls": ["x"] * 10_001}, M, "part_urls", "has 10001 entries"),
        (MULTIPART | {"part_urls": PARTS[::-1]}, M, "part_urls[1]", "is signed for part 2; write the URLs"),
        (MULTIPART | {"part_urls": [PARTS[0], PARTS[0]]}, M, "part_urls[2]", "is signed for part 1"),
        (MULTIPART | {"part_urls": [PARTS[0], COMPLETE]}, U, "part_urls[2]", "lacks partNumber"),
        (MULTIPART | {"complete_url": s3("/k", "uploadId=V")}, M, "part_urls[1]", "is of another upload"),
        (MULTIPART | {"complete_url": s3("/j", "uploadId=U")}, M, "part_urls[1]", "is of another upload"),
        (MULTIPART | {"complete_url": s3("/k")}, U, "complete_url", "lacks uploadId"),
        (MULTIPART | {"abort_url": s3("/k", "uploadId=V")}, M, "abort_url", "is of another upload"),
        (
            MULTIPART | {"part_urls": [PARTS[0], s3("/k", "partNumber=2", "uploadId=U", headers="content-md5;host")]},
            *(M, "part_urls[2]", "signs other headers than part 1"),
        ),
        (MULTIPART | {"headers": {"cache-control": "no"}} | {"part_urls": PARTS}, None, "", ""),
        *(
            (MULTIPART | {"part_size": size}, M, "part_size", "is no size of a part; write 5MiB to 5GiB")
            for size in ("4MiB", "6GiB", "5 MB", "x", "-5MiB", 5 * MIB - 1, True, 5e6, "\u0665MiB")
        ),
        # forms
        (FORM, M, "fields", "lacks policy"),
        (FORM | {"fields": form_fields(), "headers": {"a": "b"}}, M, "headers", "goes not with a form"),
        *(
            (FORM | {"fields": fields}, M, "fields", words)
            for fields, words in (
                ({"policy": "e30="}, "lacks x-amz-algorithm"),
                (form_fields() | {"x-amz-signature": ""}, "lacks x-amz-signature"),
                (form_fields() | {"key": ""}, "has no key that names an object"),
                (form_fields() | {"key": "a/"}, "has no key that names an object"),
                (form_fields() | {"key": "a/../b"}, ". or .. as a segment"),
                (form_fields() | {"key": "k" * 1025}, "a key of more than 1024 bytes"),
                (form_fields("a/${filename}"), "has a placeholder in key"),
                (form_fields() | {"KEY": "b"}, "has key twice"),
                (form_fields() | {"File": "b"}, "has the field file"),
                (form_fields() | {"success_action_redirect": "https://evil"}, "redirects are not followed"),
                (form_fields() | {"acl": "a\r\nb"}, "a value of acl that is no line of text"),
                (form_fields() | {"acl": 5}, "a value of acl that is no line of text"),
                (form_fields() | {'a"; x="': CANARY}, "a name that no form field of S3 has"),
                (form_fields() | {f"x-amz-meta-{n}": "" for n in range(101)}, "fields; 100 are the most"),
                (form_fields() | {"policy": CANARY}, "a policy that is no JSON object in base64"),
                (form_fields() | {"policy": b64encode(b"[" * 15_000).decode()}, "a policy that is no JSON object"),
                (form_fields() | {"policy": b64encode(b"\xff").decode()}, "a policy that is no JSON object"),
                (form_fields() | {"policy": "A" * 20_481}, "a policy that is too long"),
                (form_fields() | {"policy": b64encode(b"{}").decode()}, "a policy without a valid expiration"),
                (form_fields() | {"policy": policy({"expiration": "2026-03-01T13:00:00Z"})}, "without conditions"),
                (form_fields() | {"policy": policy({"expiration": "9999-12-31T23:59:59Z"})}, "a time that is none"),
                (form_fields() | {"policy": policy({"expiration": "2026-02-31T23:59:59Z"})}, "a time that is none"),
                (form_fields() | {"x-amz-date": "noon"}, "a malformed x-amz-date"),
                (form_fields() | {"x-amz-date": "20261301T120000Z"}, "a time that is none"),
                (form_fields() | {"key": "elsewhere"}, "a policy for another key"),
                (form_fields("a", ["starts-with", "$key", "b/"]), "a policy for another key"),
                (form_fields("a", ["eq", "$bucket", "b"]), "a policy for another bucket"),
                (form_fields("a", ["content-length-range", 5, 1]), "a content-length-range that is none"),
                (form_fields("a", ["content-length-range", "x", 1]), "a content-length-range that is none"),
            )
        ),
        (FORM | {"form_url": AWS_HOST + "/?x=" + CANARY, "fields": form_fields()}, U, "form_url", "has a query"),
    ],
)
def test_a_row_that_is_wrong_names_the_column_and_the_fix(
    row: dict[str, Any], code: Code | None, field: str, words: str
) -> None:
    """And shows no value of it."""
    if code is None:
        read_row(row, RULES)
        return
    error = refusal(row)

    assert (error.code, error.field, words in error.message) == (code, field, True), error


def test_an_expired_form_is_refused_by_its_policy() -> None:
    """Its time is in a field."""
    error = refusal({"path": "a", "form_url": AWS_HOST, "fields": form_fields()}, Rules(LOCAL, ONE))

    assert (error.code, error.field) == (Code.URL_EXPIRED, "fields")


def test_without_a_time_nothing_is_expired() -> None:
    """Who reads an old row again asks for what it says, not whether it still works."""
    assert read_row({"path": "a", "url": s3(date="20200301T120000Z")}, Rules(LOCAL)).path == "a"


def test_a_single_file_needs_no_path() -> None:
    """The source is the file."""
    assert read_row({"url": s3()}, Rules(LOCAL, NOON, single=True)).path == ""


def test_companions_on_another_host_of_the_same_store_are_the_same_object() -> None:
    """Amazon and Google have one bucket of a name, whatever host leads to it."""
    accelerated = s3(host="https://bkt.s3-accelerate.amazonaws.com")

    assert read_row(PUT | {"head_url": accelerated}, RULES).verify is not None


def test_a_policy_says_which_sizes_it_takes() -> None:
    """Several ranges narrow each other down; numbers may be text."""
    ranges = (["content-length-range", 1, "900"], ["content-length-range", 5, 1000])

    assert policy_of(form_fields("a", *ranges)) == Policy(ONE, 5, 900)
    assert policy_of(form_fields("a")) == Policy(ONE, 0, None)


@pytest.mark.parametrize("signature_version", ["s3", "s3v4"])
def test_forms_of_boto3_are_read(signature_version: str) -> None:
    """Both signatures, with a size range."""
    sdk = boto3.client(
        "s3",
        region_name="eu-west-1",
        aws_access_key_id="AKIA",
        aws_secret_access_key="s",
        aws_session_token="t",
        config=Config(signature_version=signature_version),
    )
    form = sdk.generate_presigned_post("bkt", "a/b", Conditions=[["content-length-range", 1, 5]], ExpiresIn=60)

    ticket = read_row({"path": "x", "form_url": form["url"], "fields": form["fields"]}, Rules(LOCAL, datetime.now(UTC)))

    found = (ticket.kind, ticket.url.bucket, ticket.key, ticket.url.temporary, policy_of(ticket.fields).largest)
    assert found == (Kind.FORM, "bkt", "a/b", True, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (s3() + "\n", Ticket("", Kind.PUT, url(s3()), expires_at=ONE)),
        (sas(), Ticket("", Kind.PUT, url(sas()), expires_at=ONE)),
        (sas("", sr="c"), Ticket("", Kind.TREE, url(sas("", sr="c"), Role.TREE), expires_at=ONE)),
        (GCS_HOST + "/k?upload_id=x", Ticket("", Kind.RESUMABLE, url(GCS_HOST + "/k?upload_id=x"))),
        (
            ' {"path": "p", "url": "' + s3() + '", "md5": null}\n',
            Ticket("p", Kind.PUT, url(s3()), expires_at=ONE),
        ),
    ],
)
def test_one_url_alone_tells_its_kind(text: str, expected: Ticket) -> None:
    """White space around it does not count; a JSON object is a row."""
    assert ticket_from_url(text, RULES) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", B),
        ("{", M),
        ("{}", M),
        ('{"url": "' + s3() + '", "url": "' + s3() + '"}', M),
        (PARTS[0], U),
        (COMPLETE, U),
        (AWS_HOST, U),
        (AZURE_HOST, U),
        (s3() + "\n" + s3(), B),
    ],
)
def test_what_is_no_single_upload_is_refused(text: str, code: Code) -> None:
    """Parts, forms, nothing and two URLs; none is shown."""
    with pytest.raises(InputError) as caught:
        ticket_from_url(text, RULES)

    assert caught.value.code is code
    assert CANARY not in f"{caught.value}{caught.value!r}{caught.value.detail}"


def test_a_ticket_shows_no_secret_in_its_repr() -> None:
    """Whatever its kind."""
    rows = (
        PUT,
        MULTIPART | {"abort_url": s3("/k", "uploadId=U")},
        FORM | {"fields": form_fields()},
        {"path": "a", "url": s3_v2(), "headers": {"x-amz-meta-a": CANARY}},
    )

    assert CANARY not in repr([read_row(row, RULES) for row in rows])
