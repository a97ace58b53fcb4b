"""A server that reads the head of each request and none of the content: what it can make us believe, and tell of us."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from awscrt import checksums

from cloudpush.errors import Code, DestinationError
from cloudpush.net import Answer
from cloudpush.push.signed.model import Arrival, Kind, Piece, Provider, SignedUrl, Ticket
from cloudpush.push.signed.proof import composite_etag
from cloudpush.push.states import Overwrite, Strength
from cloudpush.transfer.signed import blocks, form, multipart, put
from cloudpush.transfer.signed.job import Job
from signed_jobs import MIB, SIGNATURE, Asked, a_url, bench, reply

Upload = Callable[[Job], Awaitable[Arrival]]
DATA = b"0123456789" * 100_000
KEY = "S3cretS3cretS3cret=="
KEY_HEADER = "x-amz-server-side-encryption-customer-key"
POLICY = base64.b64encode(json.dumps({"expiration": "2099-01-01T00:00:00Z", "conditions": []}).encode()).decode()
FIELDS = {"key": "key", "policy": POLICY, "x-amz-signature": "formsecretformsecret"}


def signed(*names: str) -> str:
    return f"X-Amz-SignedHeaders={'%3B'.join(['host', *names])}"


def stranger(query: str = "", provider: Provider = Provider.S3, flavour: str = "other", *names: str) -> SignedUrl:
    headers = frozenset({"host", *names})
    return a_url(query=query, provider=provider, flavour=flavour, signed_headers=headers, vouched=False)


def md5_of(headers: Mapping[str, str]) -> str:
    return base64.b64decode(headers["content-md5"]).hex()


def echo(asked: Asked) -> Answer:
    """Every digest that the request names, under every name that a provider has for it."""
    headers = {name: value for name, value in asked.headers.items() if "checksum" in name or "hash" in name}
    if md5 := asked.headers.get("content-md5"):
        headers |= {"Content-MD5": md5, "x-goog-hash": f"md5={md5}", "x-amz-checksum-md5": md5}
        headers["ETag"] = f'"{md5_of(asked.headers)}"'
    return replace(reply(), headers={"ETag": '"x"', **headers})


PUTS = [
    stranger("", Provider.S3, "other", "content-md5"),
    stranger("", Provider.S3, "aws", "x-amz-checksum-sha256"),
    stranger("", Provider.S3, "other", "x-amz-checksum-crc64nvme"),
    stranger("", Provider.GCS, "gcs", "x-goog-hash"),
    stranger("", Provider.GCS, "gcs", "content-md5"),
    stranger("", Provider.AZURE, "azure"),
]


@pytest.mark.parametrize("url", PUTS, ids=lambda url: f"{url.flavour} {min(url.signed_headers - {'host'}, default='')}")
@pytest.mark.parametrize(
    ("answer", "strength"), [(echo, Strength.INGEST), (lambda _: reply(ETag='"x"'), Strength.RESPONSE)], ids=["echo", "bare"]
)  # fmt: skip
def test_an_upload_is_not_proved_by_a_digest_that_went_with_it(
    tmp_path: Path, url: SignedUrl, answer: Callable[[Asked], Answer], strength: Strength
) -> None:
    """Whatever protocol the URL speaks; the very same from a host that is vouched for is worth what it was."""
    with bench(tmp_path, DATA, Ticket("file.bin", Kind.PUT, url), answer, provider=url.provider) as made:
        assert made.do(put.upload).strength is strength


def test_a_digest_that_did_not_go_with_it_proves_a_strangers_upload(tmp_path: Path) -> None:
    """It takes the bytes to know it."""
    ticket = Ticket("file.bin", Kind.PUT, stranger())

    with bench(tmp_path, DATA, ticket, lambda asked: reply(ETag=hashlib.md5(asked.body).hexdigest())) as made:
        assert made.do(put.upload).strength is Strength.CHECKSUM


class Parts:
    """Answers a multipart upload with digests that it takes from the heads of the requests."""

    def __init__(self) -> None:
        self.md5s: dict[int, bytes] = {}

    def __call__(self, asked: Asked) -> Answer:
        if asked.method == "POST":
            etag = composite_etag([self.md5s[n] for n in sorted(self.md5s)])
            body = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
            return reply(200, body.encode())
        self.md5s[int(asked.query["partNumber"])] = bytes.fromhex(md5_of(asked.headers))
        return reply(ETag=f'"{md5_of(asked.headers)}"')


def parts_ticket(headers: Mapping[str, str], *names: str) -> Ticket:
    query = f"{signed(*names)}&uploadId=U"
    return Ticket(
        "file.bin",
        Kind.MULTIPART,
        replace(stranger(query), upload="U"),
        headers=headers,
        parts=tuple(a_url(query=f"partNumber={n}&{query}").text for n in (1, 2)),
        part_size=5 * MIB,
    )


def test_an_etag_of_etags_is_made_without_a_byte_of_the_parts(tmp_path: Path) -> None:
    """Of the Content-MD5 of each."""
    with bench(tmp_path, bytes(6 * MIB), parts_ticket({}, "content-md5"), Parts()) as made:
        assert made.do(multipart.upload).strength is Strength.INGEST
        assert [piece.proof for piece in made.diary.pieces] == [Strength.INGEST] * 2


def test_a_digest_of_the_whole_that_no_part_told_proves_a_strangers_upload(tmp_path: Path) -> None:
    """Its ETag is no composite one: the CRC decides, of which no request spoke."""
    data = bytes(range(256)) * (6 * MIB // 256)
    crc = base64.b64encode(checksums.crc64nvme(data).to_bytes(8, "big")).decode()
    result = f"<ETag>x</ETag><ChecksumCRC64NVME>{crc}</ChecksumCRC64NVME>"

    def answer(asked: Asked) -> Answer:
        if asked.method == "POST":
            return reply(200, f"<CompleteMultipartUploadResult>{result}</CompleteMultipartUploadResult>".encode())
        return reply(ETag=hashlib.md5(asked.body).hexdigest())

    with bench(tmp_path, data, parts_ticket({}), answer) as made:
        assert made.do(multipart.upload).strength is Strength.CHECKSUM


@pytest.mark.parametrize(("answer", "strength"), [(echo, Strength.INGEST), (lambda _: reply(201, ETag='"x"'), Strength.RESPONSE)])  # fmt: skip
def test_blocks_are_not_taken_in_because_their_md5_went_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Asked], Answer], strength: Strength
) -> None:
    """Azure refuses a list of blocks that it does not have; a stranger takes any."""
    monkeypatch.setattr(blocks, "BLOCK", MIB)
    ticket = Ticket("file.bin", Kind.PUT, stranger("", Provider.AZURE, "azure"))

    with bench(tmp_path, bytes(2 * MIB), ticket, answer, provider=Provider.AZURE, overwrite=Overwrite.ALWAYS) as made:
        assert made.do(blocks.upload).strength is strength

    known = replace(ticket, url=replace(ticket.url, vouched=True))
    with bench(tmp_path, bytes(2 * MIB), known, answer, provider=Provider.AZURE, overwrite=Overwrite.ALWAYS) as made:
        assert made.do(blocks.upload).strength is Strength.INGEST


# -- what it gives back --------------------------------------------------------------------


def refused(path: Path, ticket: Ticket, upload: Upload, answer: Callable[[Asked], Answer]) -> str:
    """All that is said of a failure."""
    with bench(path, DATA, ticket, answer) as made, pytest.raises(DestinationError) as failed:
        made.do(upload)
    return f"{failed.value!r} {failed.value} {failed.value.detail}"


def says(text: str, element: str = "Message") -> Callable[[Asked], Answer]:
    body = f"<Error><Code>AccessDenied</Code><{element}>{text}</{element}></Error>"
    return lambda _: reply(403, body.encode())


@pytest.mark.parametrize("element", ["Message", "HeadersNotSigned"])
def test_a_refusal_shows_no_key_that_went_with_the_upload(tmp_path: Path, element: str) -> None:
    """A customer's own encryption key is a header like others."""
    ticket = Ticket("file.bin", Kind.PUT, stranger("", Provider.S3, "other", KEY_HEADER), headers={KEY_HEADER: KEY})

    assert "S3cret" not in refused(tmp_path, ticket, put.upload, says(KEY, element))


def test_a_refusal_shows_nothing_that_signs_a_form(tmp_path: Path) -> None:
    """It is in fields, not in the URL."""
    ticket = Ticket("file.bin", Kind.FORM, stranger(), fields=FIELDS)

    said = refused(tmp_path, ticket, form.upload, says(f"got {POLICY} and formsecretformsecret"))

    assert (POLICY in said, "formsecret" in said) == (False, False)


@pytest.mark.parametrize("name", ["ETag", "x-amz-version-id"])
def test_an_arrival_keeps_nothing_of_the_request_as_its_name(tmp_path: Path, name: str) -> None:
    """The ledger shows both to whoever may read it."""
    ticket = Ticket("file.bin", Kind.PUT, stranger())

    def answer(asked: Asked) -> Answer:
        return replace(reply(), headers={name: f"{asked.path}?sig=deadbeef"})

    with bench(tmp_path, DATA, ticket, answer) as made:
        arrival = made.do(put.upload)

    assert SIGNATURE not in repr(arrival)
    assert (arrival.etag, arrival.version_id) == ("", "")


@pytest.mark.parametrize("etag", [f"https://h/k?sig={SIGNATURE}", "\udcff\udcfe", "a b", "x" * 300])
def test_a_part_whose_etag_is_none_is_refused(tmp_path: Path, etag: str) -> None:
    """It would have to be kept, and sent back, to complete the upload."""
    with bench(tmp_path, bytes(6 * MIB), parts_ticket({}, "content-md5"), lambda _: reply(ETag=etag)) as made:
        with pytest.raises(DestinationError) as failed:
            made.do(multipart.upload)
        kept: list[Piece] = made.diary.pieces

    assert (failed.value.code, kept) == (Code.PROVIDER_REFUSED, [])
    assert SIGNATURE not in f"{failed.value!r} {failed.value.detail}"


def test_a_file_below_a_tree_whose_name_azure_reads_otherwise_is_not_sent(tmp_path: Path) -> None:
    """Its backslash may be a slash there: another blob than the one that the plan names."""
    tree = replace(a_url("/bkt/runs", provider=Provider.AZURE), key="runs")
    with bench(tmp_path, DATA, Ticket("", Kind.TREE, tree), echo, provider=Provider.AZURE) as made:
        made.job.errand = replace(made.job.errand, file=replace(made.job.file, key="runs/..\\other"))
        with pytest.raises(DestinationError) as failed:
            made.do(put.upload)

    assert (failed.value.code, made.script.asked) == (Code.NAME_NOT_A_KEY, [])
