from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from awscrt import checksums
from multidict import CIMultiDict

from cloudpush.errors import Code, DestinationError
from cloudpush.push.guard import Origin
from cloudpush.push.signed.model import Kind, Provider, SignedUrl, Ticket
from cloudpush.push.signed.proof import (
    Digests,
    Proof,
    azure_crc64,
    base64_be,
    best,
    blocks_proof,
    clean_name,
    composite_etag,
    multipart_proof,
    needs_md5,
    object_proof,
    piece_proof,
    put_proof,
    secrets_of,
    sent_with,
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
    provider: Provider = Provider.S3,
    flavour: str = "aws",
    host: str = "b.s3.eu-west-1.amazonaws.com",
    *,
    vouched: bool = True,
) -> SignedUrl:
    text = f"https://{host}/k?sig=x"
    return SignedUrl(text, provider, flavour, "v4", Origin("https", host, 443), "b", "k", vouched=vouched)


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

    assert [blocks_proof(AZURE, weakest, answer)[:1] for weakest in (CHECKSUM, INGEST, RESPONSE)] == [
        (INGEST,),
        (INGEST,),
        (RESPONSE,),
    ]
    assert blocks_proof(AZURE, INGEST, answer)[2:4] == ("0x8DC", "v")


def test_a_list_of_blocks_that_nobody_vouches_for_proves_nothing() -> None:
    """Azure's answer names the blob; a bare 201 may come from anything on the way."""
    assert blocks_proof(AZURE, INGEST, {"Content-MD5": b64(MD5.digest())}).strength is RESPONSE


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


# -- hosts that nobody vouches for -----------------------------------------------------------------

STRANGER = url(flavour="other", host="evil.example.org", vouched=False)
NO_GCS = url(Provider.GCS, "gcs", "evil.example.org", vouched=False)
NO_AZURE = url(Provider.AZURE, "azure", "evil.example.org", vouched=False)
NO_AWS = url(flavour="aws", host="x.execute-api.eu-west-1.amazonaws.com", vouched=False)
MD5_64 = b64(MD5.digest())
AZURE_CRC = azure_crc64(OURS.crc64 or 0)


@pytest.mark.parametrize(
    ("where", "answer", "sent", "strength"),
    [
        # a digest that was not in the request: only who has the bytes knows it
        (STRANGER, {"ETag": ETAG}, {}, CHECKSUM),
        (STRANGER, {"x-amz-checksum-crc64nvme": CRC64}, {"content-md5": MD5_64}, CHECKSUM),
        (STRANGER, {"ETag": ETAG}, {"x-amz-checksum-sha256": SHA256}, CHECKSUM),
        (NO_GCS, {"x-goog-hash": f"crc32c={CRC32C}"}, {}, CHECKSUM),
        (NO_GCS, {"x-goog-hash": f"crc32c={CRC32C}"}, {"content-md5": MD5_64}, CHECKSUM),
        (NO_AZURE, {"x-ms-content-crc64": AZURE_CRC}, {"content-md5": MD5_64}, CHECKSUM),
        # one that was, under whatever name it went and comes back
        (STRANGER, {"ETag": ETAG}, {"content-md5": MD5_64}, INGEST),
        (STRANGER, {"ETag": ETAG}, {"x-amz-meta-anything": MD5.hexdigest().upper()}, INGEST),
        (STRANGER, {"x-amz-checksum-md5": MD5_64}, {"content-md5": MD5_64}, INGEST),
        (STRANGER, {"x-amz-checksum-sha256": SHA256}, {"x-amz-meta-sha": OURS.sha256.hex()}, INGEST),  # type: ignore[union-attr]  # taken
        (NO_AWS, {"x-amz-checksum-sha256": SHA256}, {"x-amz-checksum-sha256": SHA256}, INGEST),
        (NO_GCS, {"x-goog-hash": f"crc32c={CRC32C},md5={MD5_64}"}, {"x-goog-hash": f"crc32c={CRC32C},md5={MD5_64}"}, INGEST),
        (NO_GCS, {"x-goog-hash": f"md5={MD5_64}"}, {"content-md5": MD5_64}, INGEST),
        (NO_GCS, {"ETag": ETAG}, {"content-md5": MD5_64}, INGEST),
        (NO_AZURE, {"Content-MD5": MD5_64}, {"content-md5": MD5_64}, INGEST),
        (NO_AZURE, {"x-ms-content-crc64": AZURE_CRC}, {"x-ms-meta-crc": CRC64}, INGEST),
        # a form's fields, and a URL, are read before the content, too
        (STRANGER, {"ETag": ETAG}, {"policy": f'["eq","$Content-MD5","{MD5_64}"]'}, INGEST),
        (STRANGER, {"ETag": ETAG}, {":url": f"https://evil.example.org/{MD5.hexdigest()}?sig=x"}, INGEST),
        (replace(STRANGER, text=f"https://evil.example.org/k?Content-MD5={MD5_64.replace('=', '%3D')}"), {"ETag": ETAG}, {}, INGEST),
        # what comes without a digest is not taken in
        (STRANGER, {"ETag": '"x"'}, {"content-md5": MD5_64}, RESPONSE),
        (NO_AWS, {"ETag": OTHER_ETAG, **KMS}, {"content-md5": MD5_64}, RESPONSE),
        (NO_GCS, {"ETag": '"x"'}, {"x-goog-hash": f"crc32c={CRC32C}"}, RESPONSE),
        (NO_AZURE, {"ETag": '"x"'}, {"content-md5": MD5_64}, RESPONSE),
        (STRANGER, {}, {}, RESPONSE),
        # who does not know what was sent takes it that everything was
        (STRANGER, {"ETag": ETAG}, None, INGEST),
        (NO_GCS, {"x-goog-hash": f"crc32c={CRC32C}"}, None, INGEST),
        (S3, {"ETag": ETAG}, None, CHECKSUM),
    ],
)  # fmt: skip
def test_a_stranger_proves_nothing_by_what_the_head_of_the_request_says(
    where: SignedUrl, answer: dict[str, str], sent: dict[str, str] | None, strength: Strength
) -> None:
    """It need not have read a byte of the content to repeat that; nor does a signature's form make it the provider."""
    proof = put_proof(where, OURS, answer, sent)

    assert proof.strength is strength
    assert bool(proof.note) == (strength < CHECKSUM)


@pytest.mark.parametrize(
    ("where", "answer", "sent", "strength"),
    [
        (STRANGER, {"ETag": ETAG}, {}, CHECKSUM),
        # parts whose digests were named would make the digest of the whole
        (STRANGER, {"ETag": ETAG}, {"content-md5": MD5_64}, INGEST),
        (STRANGER, {"ETag": ETAG}, {"x-amz-checksum-crc32c": CRC32C}, INGEST),
        (STRANGER, {"ETag": '"x"'}, {"content-md5": MD5_64}, RESPONSE),
        (NO_AZURE, {"Content-MD5": MD5_64}, {"content-md5": MD5_64}, INGEST),
        (NO_AZURE, {"ETag": '"x"'}, {"content-md5": MD5_64}, RESPONSE),
        (NO_AZURE, {}, {"content-md5": MD5_64}, RESPONSE),
    ],
)
def test_a_stranger_proves_no_piece_by_what_it_was_told(
    where: SignedUrl, answer: dict[str, str], sent: dict[str, str], strength: Strength
) -> None:
    """Azure itself refuses a list of blocks that it does not have; a stranger refuses nothing."""
    assert piece_proof(where, OURS, answer, sent).strength is strength


@pytest.mark.parametrize(
    ("weakest", "answer", "sent", "strength"),
    [
        (CHECKSUM, {"etag": WHOLE}, {}, CHECKSUM),
        (INGEST, {"etag": WHOLE}, {}, INGEST),  # made of the MD5s that went with the parts
        (RESPONSE, {"etag": WHOLE}, {}, INGEST),
        (CHECKSUM, {"etag": "x", "x-amz-checksum-crc64nvme": CRC64}, {}, CHECKSUM),
        (CHECKSUM, {"etag": "x", "x-amz-checksum-crc64nvme": CRC64}, {"x-amz-checksum-crc64nvme": CRC64}, INGEST),
        (CHECKSUM, {"etag": WHOLE, "x-amz-checksum-crc64nvme": CRC64}, {"x-amz-checksum-crc64nvme": CRC64}, CHECKSUM),
        (INGEST, {"etag": "x", "x-amz-checksum-crc32c": CRC32C}, {}, INGEST),
        (INGEST, {"etag": "x"}, {}, INGEST),
        (RESPONSE, {"etag": "x"}, {}, RESPONSE),
    ],
)
def test_a_stranger_proves_no_whole_by_what_it_was_told_of_the_parts(
    weakest: Strength, answer: dict[str, str], sent: dict[str, str], strength: Strength
) -> None:
    """An ETag of ETags, and a CRC of CRCs, can be computed without the bytes."""
    assert multipart_proof(STRANGER, OURS, HALVES, weakest, answer, sent=sent).strength is strength


@pytest.mark.parametrize(
    ("where", "answer", "sent", "strength"),
    [
        (STRANGER, {"ETag": ETAG}, {}, CHECKSUM),
        (STRANGER, {"x-amz-checksum-sha256": SHA256}, {"x-amz-checksum-sha256": SHA256}, INGEST),
        (STRANGER, {"x-amz-checksum-sha256": SHA256}, {"x-amz-checksum-sha256": ""}, INGEST),
        (STRANGER, {"ETag": ETAG, "x-amz-checksum-sha256": SHA256}, {"x-amz-checksum-sha256": SHA256}, CHECKSUM),
        (STRANGER, {"ETag": ETAG}, None, INGEST),
        (NO_GCS, {"x-goog-hash": f"crc32c={CRC32C}"}, {"x-goog-hash": ""}, INGEST),
        (S3, {"ETag": ETAG}, None, CHECKSUM),
        # a store that is known may still repeat a header without looking at the bytes
        (STORE, {"x-amz-checksum-sha256": SHA256}, {"x-amz-checksum-sha256": SHA256}, INGEST),
    ],
)
def test_a_look_proves_no_more_by_what_the_upload_told(
    where: SignedUrl, answer: dict[str, str], sent: dict[str, str] | None, strength: Strength
) -> None:
    """A header that was stored comes back from HEAD as it went in."""
    proof = object_proof(where, OURS, 10, answer, sent=sent)

    assert proof is not None
    assert proof.strength is strength


def test_what_a_ticket_sends_is_known_without_sending_it() -> None:
    """Digests that are computed because they are signed have no value yet: their names count."""
    signed = replace(STRANGER, signed_headers=frozenset({"host", "x-amz-checksum-sha256"}))
    ticket = Ticket("a", Kind.PUT, signed, headers={"X-Amz-Meta-A": "1"}, fields={"Policy": "p"})

    assert sent_with(ticket) == {
        "host": "",
        "x-amz-checksum-sha256": "",
        "x-amz-meta-a": "1",
        "policy": "p",
        ":url": STRANGER.text,
    }


def test_what_goes_with_the_parts_of_a_multipart_upload_is_known_too() -> None:
    """Their URLs sign other headers than the one that completes it; a look then proves no more by their digests."""
    parts = (f"https://evil.example.org/k?X-Amz-SignedHeaders=content-md5%3Bhost&partNumber={n}&sig=x" for n in (1, 2))
    ticket = Ticket("a", Kind.MULTIPART, STRANGER, parts=tuple(parts))
    proofs = [object_proof(STRANGER, OURS, 10, {"ETag": WHOLE}, HALVES, sent) for sent in (sent_with(ticket), {})]

    assert sent_with(ticket).keys() == {"content-md5", "host", ":url"}
    assert [proof and proof.strength for proof in proofs] == [INGEST, CHECKSUM]


# -- what a server says instead of an ETag ---------------------------------------------------------

SIGNATURE = "5ec2e7" * 8
SIGNED = f"https://evil.example.org/k?X-Amz-Expires=600&sig={SIGNATURE}%2Bab"
KEY = {"x-amz-server-side-encryption-customer-key": "S3cretS3cret=="}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ('"abc-1"', True),
        ('W/"0x8DC12345"', True),
        ("x" * 256, True),
        ("600", True),
        ("x" * 257, False),
        ("two words", False),
        ("\u00fc", False),
        ("\udcff", False),
        ("a\nb", False),
        ("", False),
        (SIGNED, False),
        (f'"{SIGNATURE}+ab"', False),
        (f'"{SIGNATURE}%2Bab"', False),
        (f'W/"{SIGNATURE[:12]}"', False),
        ("xS3cretS3cret==x", False),
        ('"S3cretS3cret"', False),
    ],
)
def test_an_etag_or_version_is_none_if_it_is_what_the_request_held(name: str, kept: bool) -> None:
    """Both are stored, shown and sent on; so is nothing that opens something."""
    where, sent = replace(STRANGER, text=SIGNED), KEY
    proof = put_proof(where, OURS, {"ETag": name, "x-amz-version-id": name}, sent)

    assert clean_name(name, secrets_of(SIGNED, KEY)) == (name if kept else "")
    assert (proof.etag != "", proof.version_id) == (kept, name if kept else "")


def test_a_digest_that_was_sent_as_metadata_is_no_secret() -> None:
    """An ETag that is equal to it is still an ETag."""
    assert put_proof(S3, OURS, {"ETag": ETAG}, {"x-amz-meta-md5": MD5.hexdigest()}).etag == MD5.hexdigest()


@pytest.mark.parametrize(
    ("name", "theirs", "shown"),
    [
        ("x-amz-checksum-crc64nvme", base64_be(THEIRS.crc64 or 0, 8), True),
        ("x-amz-checksum-crc64nvme", SIGNATURE, False),
        ("x-amz-checksum-crc64nvme", SIGNATURE[:12], False),
        ("x-amz-checksum-crc64nvme", "A" * 24, False),
        ("x-amz-checksum-sha256", SIGNATURE[:44], False),
        ("x-amz-checksum-sha256", "two words" * 5, False),
        ("x-goog-stored-content-length", "17", True),
        ("x-goog-stored-content-length", "9" * 5000, False),
    ],
)
def test_a_digest_that_differs_is_shown_if_it_looks_like_one(name: str, theirs: str, shown: bool) -> None:
    """It is somebody's words otherwise."""
    where = replace(NO_GCS if "goog" in name else STRANGER, text=SIGNED)

    with pytest.raises(DestinationError) as failed:
        put_proof(where, OURS, {name: theirs}, KEY)

    assert (repr(theirs) in failed.value.detail, len(failed.value.detail) < 200) == (shown, True)
    assert SIGNATURE[:12] not in failed.value.detail
