"""Sheets: whatever tickets go in come out, in blocks that Vault takes, and damage is told without the text."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudpush.errors import CloudPushError, Code, CredentialError, DestinationError
from cloudpush.push.guard import Origin
from cloudpush.push.signed import sheets
from cloudpush.push.signed.model import MIB, Kind, Provider, SignedUrl, Ticket
from cloudpush.push.signed.sheets import (
    BLOCK_BYTES,
    decode,
    decode_session,
    encode,
    encode_session,
    weight,
)

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

times = st.none() | st.datetimes(timezones=st.just(UTC))
words = st.text(max_size=30)
origins = st.builds(Origin, st.sampled_from(["http", "https"]), words, st.integers(1, 65535))
urls = st.builds(
    SignedUrl,
    text=words,
    provider=st.sampled_from(Provider),
    flavour=words,
    version=words,
    origin=origins,
    bucket=words,
    key=words,
    starts_at=times,
    expires_at=times,
    signed_headers=st.frozensets(words, max_size=4),
    permissions=words,
    scope=words,
    part=st.none() | st.integers(0, 10_000),
    upload=words,
    session=st.booleans(),
    temporary=st.booleans(),
    vouched=st.booleans(),
)
mappings = st.dictionaries(words, words, max_size=3)
tickets = st.builds(
    Ticket,
    path=words,
    kind=st.sampled_from(Kind),
    url=urls,
    verify=st.none() | urls,
    verify_method=st.sampled_from(["", "HEAD", "GET"]),
    headers=mappings,
    checksums=mappings,
    fields=mappings,
    parts=st.lists(words, max_size=4).map(tuple),
    abort=words,
    part_size=st.integers(0, 2**40),
    expires_at=times,
)


def a_url(key: str = "runs/7/a", text: str = "") -> SignedUrl:
    return SignedUrl(
        text=text or f"https://b.s3.amazonaws.com/{key}?X-Amz-Signature=canary",
        provider=Provider.S3,
        flavour="aws",
        version="v4",
        origin=Origin("https", "b.s3.amazonaws.com", 443),
        bucket="b",
        key=key,
        starts_at=NOON,
        expires_at=NOON + timedelta(hours=1),
        signed_headers=frozenset({"host"}),
    )


def code_of(blocks: list[bytes]) -> tuple[Code, bool]:
    """The refusal's code, and whether it shows anything of what it refused."""
    with pytest.raises(CloudPushError) as caught:
        decode(blocks)
    return caught.value.code, "canary" in repr(caught.value.__cause__ or caught.value.__context__ or caught.value)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 2**40), tickets), max_size=4))
def test_tickets_come_out_as_they_went_in(rows: list[tuple[int, Ticket]]) -> None:
    """Every field, of every kind, equal and of the same type."""
    assert decode(encode(rows)) == rows


def test_a_kind_comes_out_as_a_kind() -> None:
    """An enum equals its text, so equality alone would not tell."""
    [(_, ticket)] = decode(encode([(1, Ticket("a", Kind.PUT, a_url()))]))

    assert (type(ticket.kind), type(ticket.url.provider)) == (Kind, Provider)


def test_a_ticket_of_ten_thousand_parts_takes_several_blocks_that_vault_stores() -> None:
    """800 random bytes in each URL: nothing is left for compression to find."""
    parts = tuple(f"https://b.s3.amazonaws.com/k?partNumber={n}&s={(b'%05d' % n).hex() * 79}" for n in range(1, 10_001))
    noise = json.dumps([zlib.crc32(str(i).encode()) for i in range(150_000)])
    rows = [(7, Ticket("a", Kind.MULTIPART, a_url(), parts=parts, abort=noise))]

    blocks = encode(rows)

    assert (len(blocks) > 1, max(map(len, blocks)) <= BLOCK_BYTES, decode(blocks) == rows) == (True, True, True)


def test_blocks_in_another_order_or_number_are_corrupt() -> None:
    """A sheet is whole or it is nothing."""
    noise = json.dumps([zlib.crc32(str(i).encode()) for i in range(150_000)])
    blocks = encode([(1, Ticket("canary", Kind.PUT, a_url(), abort=noise))])

    without_checksum = [*blocks[:-1], blocks[-1][:-4]]
    assert [code_of(b) for b in (blocks[::-1], blocks[:-1], [*blocks, blocks[0]], [], without_checksum)] == [
        (Code.CREDENTIAL_CORRUPT, False)
    ] * 5


@pytest.mark.parametrize(
    "plain",
    [
        b"canary",
        b"[]",
        b'{"v":2,"rows":[]}',
        b'{"v":1}',
        b'{"v":1,"rows":[{"canary":1}]}',
        b'{"v":1,"rows":["canary"]}',
        b'{"v":1,"rows":[{"n":1,"p":"","k":"canary","u":{}}]}',
        b"\xff\xfe",
        b"[" * 1_000_000,
    ],
    ids=lambda p: repr(p[:40]),
)
def test_what_is_no_sheet_is_corrupt(plain: bytes) -> None:
    """Whatever decrypts but holds no tickets is told by its code alone."""
    assert code_of([zlib.compress(plain)]) == (Code.CREDENTIAL_CORRUPT, False)


def test_decompression_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would unpack to more than any sheet holds is refused before it does."""
    monkeypatch.setattr(sheets, "PLAIN_BYTES", MIB)
    bomb = zlib.compress(bytes(16 * MIB))
    tracemalloc.start()
    try:
        refused = code_of([bomb])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (refused, peak < 4 * MIB) == ((Code.CREDENTIAL_CORRUPT, False), True)


def test_a_session_comes_out_as_it_went_in() -> None:
    """A session's block is one, and nothing else passes for it."""
    uri = "https://storage.googleapis.com/upload?upload_id=%C3%A4-canary"
    refused = []
    for block in (b"", b"canary", b'{"v":1}', b'{"v":1,"session":1}', b'{"v":2,"session":"canary"}', b"\xff"):
        with pytest.raises(CloudPushError) as caught:
            decode_session(block)
        refused.append((caught.value.code, "canary" in repr(caught.value.__context__)))

    assert (decode_session(encode_session(uri)), refused) == (uri, [(Code.CREDENTIAL_CORRUPT, False)] * 6)


@settings(max_examples=50)
@given(tickets)
def test_a_tickets_weight_is_near_its_share_of_the_plaintext(ticket: Ticket) -> None:
    """Near enough to close a sheet in time: within the fixed cost of its names, and tenfold for control characters."""
    plain = zlib.decompress(b"".join(encode([(1, ticket)])))

    assert len(plain) <= 10 * weight(ticket) + 2_000


@pytest.mark.parametrize(
    "uri",
    [
        "https://storage.googleapis.com/b/o?upload_id=\udcffcanary",
        "https://storage\u3002googleapis.com/b/o?upload_id=canary",
        "https://storage.googleapis.com/b/o?upload_id=c\u0101nary",
        "https://storage.googleapis.com/b o?upload_id=canary",
        "https://storage.googleapis.com/b?upload_id=canary\r\nX: y",
        "/b/o?upload_id=canary",
        "https://storage.googleapis.com/?upload_id=canary" + "x" * 16384,
        "",
    ],
)
def test_a_session_that_is_no_url_is_neither_kept_nor_taken_back(uri: str) -> None:
    """Whatever a server calls its address; it is not repeated."""
    with pytest.raises(DestinationError) as refused:
        encode_session(uri)
    kept = json.dumps({"v": 1, "session": uri}).encode()

    assert (refused.value.code, "nary" in str(refused.value)) == (Code.ENDPOINT_FORBIDDEN, False)
    with pytest.raises(CredentialError):
        decode_session(kept)


def test_a_sheet_from_before_hosts_were_vouched_for_vouches_for_none() -> None:
    """What is not said is not believed."""
    (packed,) = encode([(1, Ticket("a", Kind.PUT, replace(a_url(), vouched=True)))])
    row = json.loads(zlib.decompress(packed))
    del row["rows"][0]["u"]["w"]

    ((_, ticket),) = decode([zlib.compress(json.dumps(row).encode())])

    assert ticket.url == a_url()
