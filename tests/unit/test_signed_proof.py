from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from awscrt import checksums
from multidict import CIMultiDict

from cloudpush.errors import Code, DestinationError
from cloudpush.push.guard import Origin
from cloudpush.push.signed.model import Provider, SignedUrl
from cloudpush.push.signed.proof import (
    Digests,
    Proof,
    azure_crc64,
    base64_be,
    best,
    blocks_proof,
    composite_etag,
    multipart_proof,
    needs_md5,
    object_proof,
    piece_proof,
    put_proof,
)
from cloudpush.push.states import Strength

NONE, RESPONSE, SIZE, INGEST, CHECKSUM = (Strength(n) for n in range(5))


def digests_of(data: bytes) -> Digests:
    return Digests(
        size=len(data),
        sha256=hashlib.sha256(data).digest(),
        md5=hashlib.md5(data).digest(),
        crc64=checksums.crc64nvme(data),
        crc32c=checksums.crc32c(data),
    )


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


DATA, OTHER = b"0123456789", b"9876543210"
OURS, THEIRS = digests_of(DATA), digests_of(OTHER)
MD5, OTHER_MD5 = hashlib.md5(DATA), hashlib.md5(OTHER)
ETAG, OTHER_ETAG = f'"{MD5.hexdigest()}"', f'"{OTHER_MD5.hexdigest()}"'
HALVES = [hashlib.md5(DATA[:5]).digest(), hashlib.md5(DATA[5:]).digest()]
CRC64 = base64_be(checksums.crc64nvme(DATA), 8)
CRC32C = base64_be(checksums.crc32c(DATA), 4)
OTHER_CRC32C = base64_be(checksums.crc32c(OTHER), 4)
SHA256 = b64(hashlib.sha256(DATA).digest())
KMS = {"x-amz-server-side-encryption": "aws:kms"}


def url(
    provider: Provider = Provider.S3, flavour: str = "aws", host: str = "b.s3.eu-west-1.amazonaws.com"
) -> SignedUrl:
    return SignedUrl(f"https://{host}/k?sig=x", provider, flavour, "v4", Origin("https", host, 443), "b", "k")


S3, STORE = url(), url(flavour="other", host="s3.example.org")
GCS, AZURE = url(Provider.GCS, "gcs", "storage.googleapis.com"), url(Provider.AZURE, "azure", "a.blob.core.windows.net")
EXPRESS = url(host="b--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com")


def bitwise_crc64(data: bytes) -> int:
    """CRC-64/NVME by its definition: reflected, begun with and turned over by all ones."""
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x9A6C9329AC4BC9B5 if crc & 1 else 0)
    return crc ^ ((1 << 64) - 1)


def test_both_clouds_write_the_same_crc_in_opposite_order() -> None:
    """The check value of CRC-64/NVME, and what S3 and Azure make of it."""
    value = checksums.crc64nvme(b"123456789")

    assert value == bitwise_crc64(b"123456789") == 0xAE8B14860A799888
    assert (base64.b64decode(base64_be(value, 8)).hex(), base64.b64decode(azure_crc64(value)).hex()) == (
        "ae8b14860a799888",
        "8898790a86148bae",
    )


@pytest.mark.parametrize(
    ("where", "answer", "sent", "strength", "expected"),
    [
        # S3: digests that the provider computed
        (S3, {"ETag": ETAG}, {}, CHECKSUM, MD5.hexdigest()),
        (S3, {"etag": ETAG.upper()}, {}, CHECKSUM, MD5.hexdigest()),
        (S3, {"X-Amz-Checksum-Crc64nvme": CRC64, "ETag": ETAG}, {}, CHECKSUM, CRC64),
        (S3, {"x-amz-checksum-sha256": SHA256, **KMS}, {}, CHECKSUM, SHA256),
        (S3, {"x-amz-checksum-crc32c": CRC32C, **KMS}, {}, CHECKSUM, CRC32C),
        (S3, {"x-amz-checksum-md5": b64(MD5.digest()), **KMS}, {}, CHECKSUM, b64(MD5.digest())),
        # a computed digest decides, whatever an ETag of unknown making looks like
        (S3, {"x-amz-checksum-crc64nvme": CRC64, "ETag": OTHER_ETAG}, {}, CHECKSUM, CRC64),
        # what looks like an MD5 and need not be one
        (S3, {"ETag": OTHER_ETAG, **KMS}, {}, RESPONSE, ""),
        (S3, {"ETag": OTHER_ETAG, "x-amz-server-side-encryption": "aws:kms:dsse"}, {}, RESPONSE, ""),
        (S3, {"ETag": OTHER_ETAG, "x-amz-server-side-encryption-customer-algorithm": "AES256"}, {}, RESPONSE, ""),
        (EXPRESS, {"ETag": OTHER_ETAG}, {}, RESPONSE, ""),
        (S3, {"ETag": '"abc-1"'}, {}, RESPONSE, ""),
        (S3, {}, {}, RESPONSE, ""),
        # checksums of checksums are not of these bytes
        (S3, {"x-amz-checksum-crc32c": OTHER_CRC32C + "-2"}, {}, RESPONSE, ""),
        (S3, {"x-amz-checksum-crc32c": OTHER_CRC32C, "x-amz-checksum-type": "COMPOSITE"}, {}, RESPONSE, ""),
        # the provider checked what we sent along
        (S3, {"ETag": OTHER_ETAG, **KMS}, {"Content-MD5": "sent"}, INGEST, "sent"),
        (S3, {"x-amz-checksum-sha256": SHA256, **KMS}, {"x-amz-checksum-sha256": SHA256}, CHECKSUM, SHA256),
        (STORE, {"x-amz-checksum-sha256": SHA256}, {"x-amz-checksum-sha256": SHA256}, INGEST, SHA256),
        (STORE, {}, {"x-amz-checksum-sha256": SHA256}, RESPONSE, ""),
        (STORE, {"ETag": ETAG, "x-amz-checksum-sha256": SHA256}, {"x-amz-checksum-sha256": SHA256}, CHECKSUM, MD5.hexdigest()),
        # GCS
        (GCS, {"x-goog-hash": f"crc32c={CRC32C}", "ETag": OTHER_ETAG}, {}, CHECKSUM, CRC32C),
        (GCS, {"x-goog-hash": f"crc32c={CRC32C}, md5={b64(MD5.digest())}"}, {}, CHECKSUM, CRC32C),
        (GCS, {"x-goog-hash": f"md5={b64(MD5.digest())}"}, {}, CHECKSUM, b64(MD5.digest())),
        (GCS, {"ETag": ETAG, "x-goog-stored-content-length": "10"}, {}, CHECKSUM, MD5.hexdigest()),
        (GCS, {"ETag": OTHER_ETAG}, {}, RESPONSE, ""),
        (GCS, {"ETag": OTHER_ETAG}, {"x-goog-hash": "sent"}, INGEST, "sent"),
        # a bare 2xx may be anybody's: who stored something names it
        (GCS, {}, {"x-goog-hash": "sent"}, RESPONSE, ""),
        (S3, {}, {"Content-MD5": "sent"}, RESPONSE, ""),
        # Azure
        (AZURE, {"Content-MD5": b64(MD5.digest())}, {"content-md5": "sent"}, CHECKSUM, b64(MD5.digest())),
        (AZURE, {"x-ms-content-crc64": azure_crc64(checksums.crc64nvme(DATA))}, {}, CHECKSUM, azure_crc64(checksums.crc64nvme(DATA))),
        (AZURE, {"ETag": '"0x8DC"'}, {"content-md5": "sent"}, RESPONSE, ""),
        (AZURE, {"ETag": OTHER_ETAG}, {}, RESPONSE, ""),
    ],
)  # fmt: skip
def test_what_the_answer_to_one_upload_proves(
    where: SignedUrl, answer: dict[str, str], sent: dict[str, str], strength: Strength, expected: str
) -> None:
    """A digest that the provider computed is the best; one that it checked comes next; a bare 2xx is only that."""
    proof = put_proof(where, OURS, answer, sent)

    assert (proof.strength, proof.expected) == (strength, expected)
    assert bool(proof.note) == (strength < CHECKSUM), "whoever falls short says why"


@pytest.mark.parametrize(
    ("where", "answer", "sent"),
    [
        (S3, {"ETag": OTHER_ETAG}, {}),
        (S3, {"ETag": OTHER_ETAG}, {"content-md5": "sent"}),
        (S3, {"x-amz-checksum-crc64nvme": base64_be(THEIRS.crc64 or 0, 8), "ETag": ETAG}, {}),
        (S3, {"x-amz-checksum-crc64nvme": CRC64, "x-amz-checksum-crc32c": OTHER_CRC32C}, {}),
        # S3's order of bytes is not Azure's
        (S3, {"x-amz-checksum-crc64nvme": azure_crc64(OURS.crc64 or 0)}, {}),
        (AZURE, {"x-ms-content-crc64": CRC64}, {}),
        # a store that repeats the checksum that it was sent, over other bytes
        (STORE, {"ETag": OTHER_ETAG, "x-amz-checksum-sha256": SHA256}, {"x-amz-checksum-sha256": SHA256}),
        (GCS, {"x-goog-hash": f"crc32c={CRC32C},md5={b64(OTHER_MD5.digest())}"}, {}),
        (GCS, {"x-goog-hash": f"crc32c={OTHER_CRC32C}", "ETag": ETAG}, {}),
        (GCS, {"x-goog-hash": f"crc32c={CRC32C}", "x-goog-stored-content-length": "9"}, {}),
        (url(flavour="gcs", host="storage.googleapis.com"), {"x-goog-hash": f"crc32c={OTHER_CRC32C}"}, {}),
        (AZURE, {"Content-MD5": b64(OTHER_MD5.digest())}, {}),
    ],
)
def test_a_digest_that_differs_is_corruption(where: SignedUrl, answer: dict[str, str], sent: dict[str, str]) -> None:
    """No other header of the answer makes up for it, and the message holds both digests but no URL."""
    with pytest.raises(DestinationError) as failed:
        put_proof(where, OURS, answer, sent)

    assert failed.value.code is Code.CORRUPTED
    assert "sig=" not in f"{failed.value} {failed.value.detail}"


@pytest.mark.parametrize("order", [1, -1])
def test_headers_that_come_twice_are_both_compared(order: int) -> None:
    """GCS sends x-goog-hash once for each digest; neither hides the other."""
    hashes = [f"crc32c={CRC32C}", f"md5={b64(OTHER_MD5.digest())}"][::order]

    with pytest.raises(DestinationError, match="x-goog-hash md5"):
        put_proof(GCS, OURS, CIMultiDict([("x-goog-hash", value) for value in hashes]))


def test_the_object_version_comes_along() -> None:
    """ETag and version as the audit keeps them."""
    assert put_proof(S3, OURS, {"ETag": ETAG, "x-amz-version-id": "v7"}) == Proof(
        CHECKSUM, MD5.hexdigest(), MD5.hexdigest(), "v7"
    )
    assert put_proof(GCS, OURS, {"x-goog-hash": f"crc32c={CRC32C}", "x-goog-generation": "17"}).version_id == "17"


@pytest.mark.parametrize(
    ("where", "answer", "needed"),
    [
        (S3, {"ETag": OTHER_ETAG}, True),
        (S3, {"ETag": OTHER_ETAG, "x-amz-checksum-crc64nvme": CRC64}, False),
        (S3, {"ETag": OTHER_ETAG, "x-amz-checksum-crc64nvme": CRC64, "x-amz-checksum-type": "COMPOSITE"}, True),
        (S3, {"ETag": OTHER_ETAG, **KMS}, False),
        (S3, {"ETag": '"opaque"'}, False),
        (AZURE, {"Content-MD5": "x"}, True),
        (AZURE, {"x-ms-content-crc64": "x"}, False),
        (GCS, {"ETag": OTHER_ETAG}, False),
    ],
)
def test_an_md5_is_worth_another_pass_only_where_nothing_else_tells(
    where: SignedUrl, answer: dict[str, str], needed: bool
) -> None:
    """Large files are sent without taking MD5 where the provider answers with something cheaper."""
    assert needs_md5(where, answer) is needed


@pytest.mark.parametrize(
    ("where", "answer", "sent", "strength"),
    [
        (S3, {"ETag": ETAG}, {}, CHECKSUM),
        (S3, {"ETag": OTHER_ETAG, **KMS}, {}, RESPONSE),
        (AZURE, {"Content-MD5": b64(MD5.digest())}, {"content-md5": "sent"}, INGEST),
        (AZURE, {}, {"content-md5": "sent"}, INGEST),
        (AZURE, {}, {}, RESPONSE),
    ],
)
def test_what_the_answer_to_a_piece_proves(
    where: SignedUrl, answer: dict[str, str], sent: dict[str, str], strength: Strength
) -> None:
    """A part's ETag is its MD5; a block is never more than taken in, since only the list makes an object of it."""
    assert piece_proof(where, OURS, answer, sent).strength is strength


WHOLE = composite_etag(HALVES)
FOREIGN = f"{'0' * 32}-2"


@pytest.mark.parametrize(
    ("where", "weakest", "answer", "strength"),
    [
        (S3, CHECKSUM, {"etag": f'"{WHOLE}"'}, CHECKSUM),
        (S3, RESPONSE, {"etag": WHOLE.upper()}, CHECKSUM),
        (S3, CHECKSUM, {"etag": FOREIGN, **KMS}, INGEST),
        (S3, RESPONSE, {"etag": FOREIGN, **KMS}, RESPONSE),
        (S3, RESPONSE, {"etag": FOREIGN, "x-amz-checksum-crc64nvme": CRC64, **KMS}, CHECKSUM),
        (S3, CHECKSUM, {"etag": "something"}, INGEST),
        (STORE, CHECKSUM, {"etag": FOREIGN}, INGEST),
        (GCS, CHECKSUM, {"etag": FOREIGN}, INGEST),
        (GCS, RESPONSE, {"etag": FOREIGN, "x-goog-hash": f"crc32c={CRC32C}"}, CHECKSUM),
    ],
)
def test_what_the_completion_of_a_multipart_upload_proves(
    where: SignedUrl, weakest: Strength, answer: dict[str, str], strength: Strength
) -> None:
    """The ETag of ETags, or a digest of the whole; without either, what each part's own answer proved."""
    proof = multipart_proof(where, OURS, HALVES, weakest, answer)

    assert proof.strength is strength
    assert bool(proof.note) == (strength < CHECKSUM)


@pytest.mark.parametrize(
    ("where", "weakest", "answer"),
    [
        (S3, CHECKSUM, {"etag": FOREIGN}),
        (STORE, RESPONSE, {"etag": FOREIGN}),
        (S3, CHECKSUM, {"etag": WHOLE, "x-amz-checksum-crc32c": OTHER_CRC32C, "x-amz-checksum-type": "FULL_OBJECT"}),
        (GCS, CHECKSUM, {"etag": WHOLE, "x-goog-hash": f"crc32c={OTHER_CRC32C}"}),
    ],
)
def test_a_whole_that_differs_is_corruption_although_its_parts_agree(
    where: SignedUrl, weakest: Strength, answer: dict[str, str]
) -> None:
    """Parts in another order, or one of them exchanged, have the same ETags each."""
    with pytest.raises(DestinationError) as failed:
        multipart_proof(where, OURS, HALVES, weakest, answer)

    assert failed.value.code is Code.CORRUPTED


def test_a_list_of_blocks_proves_no_more_than_its_blocks() -> None:
    """The Content-MD5 in its answer is that of the list."""
    answer = {"Content-MD5": b64(MD5.digest()), "ETag": '"0x8DC"', "x-ms-version-id": "v"}

    assert [blocks_proof(weakest, answer)[:1] for weakest in (CHECKSUM, INGEST, RESPONSE)] == [
        (INGEST,),
        (INGEST,),
        (RESPONSE,),
    ]
    assert blocks_proof(INGEST, answer)[2:4] == ("0x8DC", "v")


def test_a_list_of_blocks_that_nobody_vouches_for_proves_nothing() -> None:
    """Azure's answer names the blob; a bare 201 may come from anything on the way."""
    assert blocks_proof(INGEST, {"Content-MD5": b64(MD5.digest())}).strength is RESPONSE


@pytest.mark.parametrize(
    ("where", "size", "answer", "md5s", "strength"),
    [
        (S3, 10, {"ETag": ETAG}, [], CHECKSUM),
        (S3, 10, {"ETag": WHOLE}, HALVES, CHECKSUM),
        (S3, 10, {"ETag": WHOLE}, [], SIZE),
        (S3, 10, {"ETag": OTHER_ETAG, **KMS}, [], SIZE),
        (S3, 10, {"ETag": OTHER_ETAG}, [], None),
        (S3, 11, {"ETag": ETAG}, [], None),
        (S3, None, {}, [], RESPONSE),
        (S3, 10, {"x-amz-checksum-crc64nvme": CRC64, **KMS}, [], CHECKSUM),
        (S3, 10, {"ETag": ETAG, "x-amz-checksum-crc64nvme": azure_crc64(OURS.crc64 or 0)}, [], None),
        (GCS, 10, {"x-goog-hash": f"crc32c={CRC32C}"}, [], CHECKSUM),
        (GCS, 10, {"x-goog-hash": f"crc32c={OTHER_CRC32C}"}, [], None),
        # what a client once claimed of a blob proves nothing, either way
        (AZURE, 10, {"Content-MD5": b64(MD5.digest())}, [], SIZE),
        (AZURE, 10, {"Content-MD5": b64(bytes(16))}, [], SIZE),
        (AZURE, 9, {"Content-MD5": b64(MD5.digest())}, [], None),
    ],
)
def test_what_a_look_at_the_object_proves(
    where: SignedUrl, size: int | None, answer: dict[str, str], md5s: list[bytes], strength: Strength | None
) -> None:
    """None where it is another object; the size where no digest can be compared."""
    proof = object_proof(where, OURS, size, answer, md5s)

    assert (proof and proof.strength) == strength


def test_the_best_of_two_proofs_counts() -> None:
    """What either knew of the object is kept; a note about falling short goes with the falling short."""
    weak = Proof(RESPONSE, "", "etag", "v1", "no digest")
    strong = Proof(CHECKSUM, "md5")

    assert best(weak, strong) == best(strong, weak) == Proof(CHECKSUM, "md5", "etag", "v1")
    assert best(weak, Proof(SIZE, "10")) == Proof(SIZE, "10", "etag", "v1", "no digest")
    assert best(weak, Proof(SIZE, "10", note="opaque")) == Proof(SIZE, "10", "etag", "v1", "opaque")


def test_digests_that_were_not_taken_are_not_compared() -> None:
    """An answer is only as telling as what we know ourselves."""
    bare: dict[str, Any] = {"ETag": OTHER_ETAG, "x-amz-checksum-crc64nvme": CRC64, "x-amz-checksum-sha256": SHA256}

    assert put_proof(S3, Digests(10), bare).strength is RESPONSE
