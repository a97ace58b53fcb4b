"""The proxy that makes SeaweedFS answer as AWS does: it must refuse what AWS refuses, or tests on it prove nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import requests

import servers
from doubles.aws_proxy import AwsProxy, AwsSession
from signers import LONG_AGO, MIB, Row, S3Signer

BODY = b"123456789"
#: The check value of CRC-64/NVME.
CRC = base64.b64encode(0xAE8B14860A799888.to_bytes(8, "big")).decode()
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
AN_HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def bucket(seaweedfs: servers.Cloud) -> str:
    return seaweedfs.make_bucket()


@pytest.fixture(scope="module", params=["v4", "v2"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def signer(aws: AwsProxy, seaweedfs: servers.Cloud, bucket: str, version: str) -> S3Signer:
    return S3Signer(aws.endpoint, seaweedfs.writer, bucket, version=version)


@pytest.fixture
def kms(aws: AwsProxy) -> Iterator[AwsProxy]:
    aws.kms = True
    yield aws
    aws.kms = False


def put(url: str, body: bytes = BODY, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.put(url, data=body, headers=headers, timeout=10)


def said(answer: requests.Response) -> tuple[int, str]:
    """Status and code."""
    return answer.status_code, answer.text.partition("<Code>")[2].partition("</Code>")[0]


def test_a_put_is_stored_and_answered_with_the_checksum_that_aws_adds(
    signer: S3Signer, seaweedfs: servers.Cloud, bucket: str
) -> None:
    """Also under a key that needs every kind of encoding."""
    key = "a b+c~d=é(1)'!*/%41/x.csv"
    answer = put(signer.put("x", key)["url"])
    assert answer.status_code == 200
    assert answer.headers["x-amz-checksum-crc64nvme"] == CRC
    assert answer.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    assert answer.headers["etag"] == f'"{hashlib.md5(BODY).hexdigest()}"'
    assert seaweedfs.read(bucket, key) == BODY


@pytest.mark.parametrize("header", ["Content-MD5", "x-amz-checksum-crc32", "x-amz-meta-sha256", "x-amz-acl"])
def test_a_header_that_was_not_signed_is_refused_and_named(
    aws: AwsProxy, seaweedfs: servers.Cloud, bucket: str, header: str
) -> None:
    """What SeaweedFS accepts: the reason for this proxy."""
    url = S3Signer(aws.endpoint, seaweedfs.writer, bucket).put("x", "unsigned")["url"]
    answer = put(url, headers={header: MD5})
    assert said(answer) == (403, "AccessDenied")
    assert f"<HeadersNotSigned>{header.lower()}</HeadersNotSigned>" in answer.text
    assert put(url.replace(aws.endpoint, seaweedfs.endpoint)).status_code == 403  # signed for the proxy's address


def test_version_2_signs_content_md5_always(aws: AwsProxy, seaweedfs: servers.Cloud, bucket: str) -> None:
    """So one that comes unasked changes what is signed."""
    url = S3Signer(aws.endpoint, seaweedfs.writer, bucket, version="v2").put("x", "unsigned")["url"]
    assert said(put(url, headers={"content-md5": MD5})) == (403, "SignatureDoesNotMatch")
    assert said(put(url, headers={"x-amz-meta-a": "b"})) == (403, "SignatureDoesNotMatch")


def test_a_signed_digest_is_demanded_and_checked(signer: S3Signer) -> None:
    """Absent or changed: the signature is wrong. Right, but not of these bytes: refused as damaged."""
    url = signer.put("x", "signed", ContentMD5=MD5)["url"]
    assert said(put(url)) == (403, "SignatureDoesNotMatch")
    assert said(put(url, b"other", {"content-md5": MD5})) == (400, "BadDigest")
    assert said(put(url, headers={"content-md5": MD5})) == (200, "")


def test_every_other_request_with_this_url_is_refused(signer: S3Signer) -> None:
    """Method, path and query are signed."""
    url = signer.put("x", "one/key")["url"]
    assert requests.head(url, timeout=10).status_code == 403
    assert said(requests.get(url, timeout=10)) == (403, "SignatureDoesNotMatch")
    assert said(put(url.replace("one/key", "one/other"))) == (403, "SignatureDoesNotMatch")
    assert said(put(url + "&uploadId=x&partNumber=1")) == (403, "SignatureDoesNotMatch")


def test_an_expired_url_says_so_with_its_time(
    aws: AwsProxy, seaweedfs: servers.Cloud, bucket: str, version: str
) -> None:
    """With the elements that SeaweedFS leaves out."""
    old = S3Signer(aws.endpoint, seaweedfs.writer, bucket, version=version, ago=LONG_AGO)
    answer = put(old.put("x", "late")["url"])
    assert said(answer) == (403, "AccessDenied")
    assert "<Message>Request has expired</Message>" in answer.text
    assert "<Expires>" in answer.text
    assert "<ServerTime>" in answer.text


def test_session_credentials_work_until_they_end(seaweedfs: servers.Cloud, bucket: str, version: str) -> None:
    """Their URLs end with them, whatever X-Amz-Expires says."""
    now = datetime.now(UTC)
    good = AwsSession("ASIAGOOD", "secret", "token", now + AN_HOUR)
    over = AwsSession("ASIAOVER", "secret", "token", now)
    with AwsProxy(seaweedfs.endpoint, seaweedfs.admin, [], sessions=[good, over]) as proxy:
        assert put(S3Signer(proxy.endpoint, good, bucket, version=version).put("x", "s")["url"]).status_code == 200
        ended = put(S3Signer(proxy.endpoint, over, bucket, version=version).put("x", "s")["url"])
        assert said(ended) == (400, "ExpiredToken")
        unknown = put(S3Signer(proxy.endpoint, seaweedfs.writer, bucket, version=version).put("x", "s")["url"])
        assert said(unknown) == (403, "InvalidAccessKeyId")


def test_a_missing_key_is_forbidden_to_who_may_not_list(signer: S3Signer) -> None:
    """SeaweedFS says 404."""
    assert requests.head(signer.look("nowhere"), timeout=10).status_code == 403
    assert said(requests.get(signer.look("nowhere", "get"), timeout=10)) == (403, "AccessDenied")


def test_a_missing_bucket_is_said(aws: AwsProxy, seaweedfs: servers.Cloud, version: str) -> None:
    url = S3Signer(aws.endpoint, seaweedfs.writer, "no-such-bucket", version=version).put("x", "k")["url"]
    assert said(put(url)) == (404, "NoSuchBucket")


def test_a_body_without_length_is_refused(signer: S3Signer) -> None:
    answer = requests.put(signer.put("x", "chunked")["url"], data=iter([BODY]), timeout=10)
    assert said(answer) == (411, "MissingContentLength")


def upload(aws: AwsProxy, seaweedfs: servers.Cloud, bucket: str, key: str) -> tuple[Row, bytes]:
    """A multipart upload whose parts have arrived: its URLs, and the body that completes it."""
    name = seaweedfs.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    row = S3Signer(aws.endpoint, seaweedfs.writer, bucket).multipart("x", key, name, 2)
    etags = [put(url, bytes(size)).headers["etag"] for url, size in zip(row["part_urls"], (5 * MIB, 1), strict=True)]
    parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in enumerate(etags, 1))
    return row, f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()


def test_a_multipart_upload_can_be_completed_or_aborted(aws: AwsProxy, seaweedfs: servers.Cloud, bucket: str) -> None:
    row, body = upload(aws, seaweedfs, bucket, "parts")
    aws.failing_completes = 1
    failed = requests.post(row["complete_url"], data=body, timeout=10)
    assert said(failed) == (200, "InternalError")
    assert "parts" not in seaweedfs.keys(bucket)
    assert requests.post(row["complete_url"], data=body, timeout=10).status_code == 200
    assert seaweedfs.keys(bucket, "parts") == {"parts": 5 * MIB + 1}
    row, _ = upload(aws, seaweedfs, bucket, "aborted")
    assert requests.delete(row["abort_url"], timeout=10).status_code == 204
    assert seaweedfs.uploads(bucket) == []


def test_under_kms_etags_are_no_digests_and_still_complete_an_upload(
    kms: AwsProxy, seaweedfs: servers.Cloud, bucket: str
) -> None:
    """They look like an MD5, so only the header tells."""
    answer = put(S3Signer(kms.endpoint, seaweedfs.writer, bucket).put("x", "kms")["url"])
    assert answer.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert len(answer.headers["etag"]) == 34
    assert answer.headers["etag"] != f'"{hashlib.md5(BODY).hexdigest()}"'
    assert answer.headers["x-amz-checksum-crc64nvme"] == CRC
    row, body = upload(kms, seaweedfs, bucket, "kms-parts")
    assert requests.post(row["complete_url"], data=body, timeout=10).status_code == 200
    assert seaweedfs.keys(bucket, "kms-parts") == {"kms-parts": 5 * MIB + 1}


def post(row: Row, body: bytes = BODY, changed: dict[str, str] | None = None) -> requests.Response:
    fields = {**row["fields"], **(changed or {})}
    return requests.post(row["form_url"], data=fields, files={"file": body}, timeout=10)


def test_a_form_is_held_to_its_policy(aws: AwsProxy, seaweedfs: servers.Cloud, bucket: str) -> None:
    signer = S3Signer(aws.endpoint, seaweedfs.writer, bucket)
    row = signer.form("x", "form/key", most=9)
    assert post(row).status_code == 204
    assert seaweedfs.read(bucket, "form/key") == BODY
    assert said(post(row, BODY + b"0")) == (400, "EntityTooLarge")
    assert said(post(row, changed={"key": "form/other"})) == (403, "AccessDenied")
    assert said(post(row, changed={"x-amz-meta-a": "b"})) == (403, "AccessDenied")
    assert said(post(row, changed={"policy": base64.b64encode(b'{"conditions": []}').decode()})) == (
        403,
        "SignatureDoesNotMatch",
    )
    old = S3Signer(aws.endpoint, seaweedfs.writer, bucket, ago=LONG_AGO).form("x", "form/late")
    assert said(post(old)) == (403, "AccessDenied")
