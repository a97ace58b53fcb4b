"""The Google Cloud Storage that tests run against: it must refuse what the real one refuses."""

from __future__ import annotations

import base64
import hashlib

import google_crc32c
import pytest
import requests

from doubles.gcs import GRAIN, PART_BYTES, GcsDouble
from signers import LONG_AGO, GcsSigner, gcs_key

BODY = b"123456789"
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
#: The check value of CRC-32C.
CRC = base64.b64encode(0xE3069283.to_bytes(4, "big")).decode()


@pytest.fixture(params=["v4", "v2"])
def signer(gcs: GcsDouble, request: pytest.FixtureRequest) -> GcsSigner:
    return GcsSigner(gcs.endpoint, "bucket", version=str(request.param))


def put(url: str, body: bytes = BODY, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.put(url, data=body, headers=headers, timeout=10)


def said(answer: requests.Response) -> tuple[int, str]:
    """Status and code."""
    return answer.status_code, answer.text.partition("<Code>")[2].partition("</Code>")[0]


def test_a_put_is_stored_and_answered_with_its_hashes(gcs: GcsDouble, signer: GcsSigner) -> None:
    key = "a b+c~d=é(1)'!*/x.csv"
    answer = put(signer.put("x", key)["url"])
    assert answer.status_code == 200
    assert answer.headers["x-goog-hash"] == f"crc32c={CRC}, md5={MD5}"
    assert answer.headers["x-goog-stored-content-length"] == "9"
    assert answer.headers["etag"] == f'"{hashlib.md5(BODY).hexdigest()}"'
    assert gcs.read("bucket", key) == BODY


@pytest.mark.parametrize("header", ["x-goog-hash", "x-goog-meta-a", "Content-MD5", "Content-Type"])
def test_a_header_that_was_not_signed_is_refused(gcs: GcsDouble, header: str) -> None:
    answer = put(GcsSigner(gcs.endpoint, "bucket").put("x", "unsigned")["url"], headers={header: "x"})
    assert said(answer) == (400, "MalformedSecurityHeader")
    assert ("bucket", "unsigned") not in gcs.objects
    old = put(GcsSigner(gcs.endpoint, "bucket", version="v2").put("x", "unsigned")["url"], headers={header: "x"})
    assert said(old) == (403, "SignatureDoesNotMatch")


def test_a_signed_header_is_demanded_and_checked(gcs: GcsDouble) -> None:
    row = GcsSigner(gcs.endpoint, "bucket").put("x", "signed", headers={"x-goog-hash": f"crc32c={CRC},md5={MD5}"})
    assert said(put(row["url"])) == (400, "MalformedSecurityHeader")
    assert said(put(row["url"], headers={"x-goog-hash": f"md5={MD5}"})) == (403, "SignatureDoesNotMatch")
    assert said(put(row["url"], b"other", row["headers"])) == (400, "BadDigest")
    assert ("bucket", "signed") not in gcs.objects
    assert said(put(row["url"], headers=row["headers"])) == (200, "")


def test_every_other_request_with_this_url_is_refused(signer: GcsSigner) -> None:
    url = signer.put("x", "one/key")["url"]
    assert requests.head(url, timeout=10).status_code == 403
    assert said(requests.get(url, timeout=10)) == (403, "SignatureDoesNotMatch")
    assert said(put(url.replace("one/key", "one/other"))) == (403, "SignatureDoesNotMatch")


def test_a_url_for_get_serves_head_too(signer: GcsSigner) -> None:
    """Unlike S3's."""
    row = signer.put("x", f"seen-{signer._version}", companion="get")
    assert requests.head(row["get_url"], timeout=10).status_code == 404
    put(row["url"])
    answer = requests.head(row["get_url"], timeout=10)
    assert (answer.status_code, answer.headers["content-length"]) == (200, "9")
    assert answer.headers["x-goog-hash"].startswith(f"crc32c={CRC}")
    assert requests.get(row["get_url"], timeout=10).content == BODY


@pytest.mark.parametrize("version", ["v4", "v2"])
def test_who_may_not_is_refused_as_google_does(gcs: GcsDouble, version: str) -> None:
    expired = put(GcsSigner(gcs.endpoint, "bucket", version=version, ago=LONG_AGO).put("x", "k")["url"])
    assert said(expired) == (400, "ExpiredToken")
    stranger = put(GcsSigner(gcs.endpoint, "bucket", version=version, key=gcs_key(1)).put("x", "k")["url"])
    assert said(stranger) == (403, "SignatureDoesNotMatch")
    nowhere = put(GcsSigner(gcs.endpoint, "nowhere", version=version).put("x", "k")["url"])
    assert said(nowhere) == (404, "NoSuchBucket")
    assert said(put(f"{gcs.endpoint}/bucket/k")) == (403, "AccessDenied")


def test_a_generation_that_does_not_match_is_refused(signer: GcsSigner) -> None:
    row = signer.put("x", f"once-{signer._version}", headers={"x-goog-if-generation-match": "0"})
    assert said(put(row["url"], headers=row["headers"])) == (200, "")
    assert said(put(row["url"], headers=row["headers"])) == (412, "PreconditionFailed")


def send(url: str, data: bytes, begin: int, end: int) -> tuple[int, str | None]:
    """One chunk; status and what the service has kept."""
    content_range = f"bytes {begin}-{end - 1}/{len(data)}" if end > begin else f"bytes */{len(data)}"
    answer = put(url, data[begin:end], {"content-range": content_range})
    return answer.status_code, answer.headers.get("range")


def test_a_resumable_upload_goes_on_where_the_service_says(gcs: GcsDouble, signer: GcsSigner) -> None:
    data = bytes(range(256)) * 4096
    url = signer.session("x", "resumed")["session_url"]
    assert send(url, data, 0, 0) == (308, None)
    assert send(url, data, 0, GRAIN + 7) == (308, f"bytes=0-{GRAIN - 1}")  # it keeps whole grains
    assert send(url, data, GRAIN + 7, 2 * GRAIN)[0] == 400  # a gap
    gcs.keeps = GRAIN
    assert send(url, data, GRAIN, 3 * GRAIN) == (308, f"bytes=0-{2 * GRAIN - 1}")
    gcs.keeps = None
    assert send(url, data, 0, 0) == (308, f"bytes=0-{2 * GRAIN - 1}")
    assert send(url, data, GRAIN, len(data)) == (200, None)  # what it has already is passed over
    assert send(url, data, 0, 0) == (200, None)
    assert gcs.read("bucket", "resumed") == data


def test_an_empty_file_can_be_resumable(gcs: GcsDouble, signer: GcsSigner) -> None:
    assert send(signer.session("x", "empty")["session_url"], b"", 0, 0) == (200, None)
    assert gcs.read("bucket", "empty") == b""


def test_a_session_ends_and_is_then_gone(gcs: GcsDouble, signer: GcsSigner) -> None:
    url = signer.session("x", "ended")["session_url"]
    assert requests.delete(url, timeout=10).status_code == 499
    assert send(url, BODY, 0, 9) == (410, None)
    assert send(url[:-3], BODY, 0, 9) == (404, None)
    old = signer.session("x", "ended")["session_url"]
    gcs.forget_sessions()
    assert send(old, BODY, 0, 9) == (410, None)
    assert gcs.open_uploads == 0


def test_a_start_is_only_a_start(signer: GcsSigner) -> None:
    url = signer.start("x", "started")["start_url"]
    assert put(url, BODY).status_code in {400, 403}
    assert requests.post(url, timeout=10).status_code in {400, 403}  # without x-goog-resumable


def test_parts_become_an_object_whose_etag_is_no_md5(gcs: GcsDouble) -> None:
    signer = GcsSigner(gcs.endpoint, "bucket")
    row = signer.multipart("x", "parts", signer.begin("parts"), 2)
    bodies = [bytes(PART_BYTES), b"end"]
    etags = [put(url, body).headers["etag"] for url, body in zip(row["part_urls"], bodies, strict=True)]

    def complete(*parts: tuple[int, str]) -> requests.Response:
        named = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in parts)
        body = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>"
        return requests.post(row["complete_url"], data=body, timeout=10)

    assert said(complete((1, etags[0]), (2, etags[0]))) == (400, "InvalidPart")
    assert said(complete((2, etags[1]), (1, etags[0]))) == (400, "InvalidPartOrder")
    answer = complete((1, etags[0]), (2, etags[1]))
    whole = b"".join(bodies)
    crc = base64.b64encode(google_crc32c.value(whole).to_bytes(4, "big")).decode()
    assert answer.headers["x-goog-hash"] == f"crc32c={crc}"
    assert gcs.read("bucket", "parts") == whole
    assert said(complete((1, etags[0]))) == (404, "NoSuchUpload")


def test_an_aborted_upload_is_gone(gcs: GcsDouble) -> None:
    signer = GcsSigner(gcs.endpoint, "bucket")
    row = signer.multipart("x", "aborted", signer.begin("aborted"), 1)
    assert requests.delete(row["abort_url"], timeout=10).status_code == 204
    assert said(put(row["part_urls"][0])) == (404, "NoSuchUpload")
    assert gcs.open_uploads == 0
