from __future__ import annotations

import base64
import hashlib
import random
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from awscrt import checksums

from cloudpush.errors import CloudPushError, Code
from cloudpush.net import Answer
from cloudpush.push.signed.model import Arrival, Kind, Piece, Provider, Ticket
from cloudpush.push.states import Overwrite, Strength
from cloudpush.transfer.signed import blocks
from signed_jobs import MIB, SIGNATURE, Asked, Bench, Blob, a_url, bench, broken, error, expired

BLOCK = MIB
DATA = random.Random(2).randbytes(2 * BLOCK + 100)
CUTS = [(1, DATA[:BLOCK]), (2, DATA[BLOCK : 2 * BLOCK]), (3, DATA[2 * BLOCK :])]
TICKET = Ticket("file.bin", Kind.PUT, a_url(provider=Provider.AZURE, flavour="azure", permissions="cw"))
NOTE = "Azure computes no digest of a blob that is made of blocks"
ARRIVED = Arrival(hashlib.sha256(DATA).digest(), Strength.INGEST, etag="0x1", sent=len(DATA), note=NOTE)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)


def pieces(*numbers: int) -> list[Piece]:
    return [
        Piece(1, n, (n - 1) * BLOCK, len(data), blocks.block_id("0" * 18, n), hashlib.md5(data).digest(),
              checksums.crc64nvme(data), "", Strength.INGEST)
        for n, data in CUTS if n in numbers
    ]  # fmt: skip


def blob_with(*numbers: int) -> Blob:
    blob = Blob()
    blob.blocks = {piece.etag: dict(CUTS)[piece.number] for piece in pieces(*numbers)}
    return blob


def azure(
    directory: Path, data: bytes, blob: Blob, ticket: Ticket = TICKET, **more: Any
) -> AbstractContextManager[Bench]:
    return bench(directory, data, ticket, blob, provider=Provider.AZURE, **more)


def failure(made: Bench) -> CloudPushError:
    with pytest.raises(CloudPushError) as failed:
        made.do(blocks.upload)
    assert SIGNATURE not in f"{failed.value} {failed.value.detail} {failed.value!r}"
    return failed.value


def test_a_file_arrives_in_blocks_each_with_its_md5(tmp_path: Path) -> None:
    """Azure checks each block as it takes it; what a list makes of them has no digest of Azure's own."""
    blob = Blob()
    with azure(tmp_path, DATA, blob) as made:
        arrival = made.do(blocks.upload)

    assert (arrival, blob.object == DATA) == (ARRIVED, True)
    assert [asked.query["comp"] for asked in made.script.asked] == ["block"] * 3 + ["blocklist"]
    assert {p.number: (p.size, p.proof) for p in made.diary.pieces} == {
        n: (len(data), Strength.INGEST) for n, data in CUTS
    }


def test_ids_of_blocks_are_of_one_length_and_of_one_upload(tmp_path: Path) -> None:
    """Whoever else sends to the same blob has other ids, so our list never names their bytes."""
    ids = []
    for _ in range(2):
        with azure(tmp_path, DATA, Blob()) as made:
            made.do(blocks.upload)
        ids += [asked.query["blockid"] for asked in made.script.asked if "blockid" in asked.query]

    assert (len(set(ids)), {len(name) for name in ids}) == (6, {32})
    assert len(blocks.block_id("0" * 18, 50_000)) == 32


def test_an_empty_file_is_one_empty_block(tmp_path: Path) -> None:
    """As with any other."""
    blob = Blob()
    with azure(tmp_path, b"", blob) as made:
        assert made.do(blocks.upload).strength is Strength.INGEST

    assert blob.object == b""


@pytest.mark.parametrize("kept", [(1,), (2,), (1, 3), (1, 2, 3)])
def test_blocks_of_an_earlier_attempt_are_not_sent_again(tmp_path: Path, kept: tuple[int, ...]) -> None:
    """They wait at the blob under the ids that they were sent with."""
    blob = blob_with(*kept)
    with azure(tmp_path, DATA, blob, pieces=pieces(*kept)) as made:
        arrival = made.do(blocks.upload)

    missing = sum(len(data) for n, data in CUTS if n not in kept)
    assert (arrival, blob.object == DATA) == (replace(ARRIVED, sent=missing), True)


def test_blocks_that_azure_has_lost_are_sent_anew(tmp_path: Path) -> None:
    """They vanish after a week, or when somebody else commits to the blob."""
    blob = Blob()
    with azure(tmp_path, DATA, blob, pieces=pieces(1, 2)) as made:
        arrival = made.do(blocks.upload)

    assert (blob.object == DATA, arrival.strength) == (True, Strength.INGEST)
    assert made.diary.events.count("lost") == 1


def test_blocks_that_vanish_again_and_again_end_the_file(tmp_path: Path) -> None:
    """Not for ever in circles."""
    with azure(tmp_path, DATA[:9], Blob()) as made:
        made.script.trouble = {"PUT comp=blocklist": [error(400, "InvalidBlockList")] * 2}
        assert failure(made).code is Code.UPLOAD_GONE


def test_a_block_that_arrives_corrupted_is_sent_once_more(tmp_path: Path) -> None:
    """Azure refuses it by its MD5; a second time fails the file."""
    with azure(tmp_path, DATA[:9], Blob()) as made:
        line = "PUT comp=block blockid="
        broken_once = [error(400, "Md5Mismatch")]
        answer = made.script.answer

        made.script.answer = lambda asked: (
            broken_once.pop() if asked.line.startswith(line) and broken_once else answer(asked)
        )
        assert made.do(blocks.upload).sent == 18
    with azure(tmp_path, DATA[:9], Blob()) as made:
        made.script.answer = lambda asked: error(400, "Md5Mismatch")
        assert failure(made).code is Code.CORRUPTED


def test_what_arrived_stays_when_the_urls_expire(tmp_path: Path) -> None:
    """Nothing is lost or aborted; the next attempt names those blocks, too."""
    with azure(tmp_path, DATA, Blob()) as made:
        made.script.trouble = {"PUT comp=blocklist": [expired()]}
        assert failure(made).code is Code.URL_EXPIRED

    assert sorted(made.diary.events) == ["arrived 1", "arrived 2", "arrived 3"]


def test_never_overwriting_is_left_to_azure_itself(tmp_path: Path) -> None:
    """Somebody may create the blob while we send."""
    blob = Blob()
    blob.object = b"other"
    with azure(tmp_path, DATA[:9], blob, overwrite=Overwrite.NEVER) as made:
        assert failure(made).code is Code.OBJECT_EXISTS

    assert blob.object == b"other"


def test_headers_of_the_blob_go_with_the_list(tmp_path: Path) -> None:
    """Under the names that it has for them; a block carries none of them."""
    ticket = replace(
        TICKET,
        headers={
            "Content-Type": "text/csv",
            "x-ms-blob-type": "BlockBlob",
            "x-ms-meta-run": "7",
            "x-ms-lease-id": "lease",
        },
    )
    with azure(tmp_path, DATA[:9], Blob(), ticket) as made:
        made.do(blocks.upload)

    block, listing = (dict(asked.headers) for asked in made.script.asked)
    md5 = base64.b64encode(hashlib.md5(made.script.asked[1].body).digest()).decode()
    assert block == {
        "content-md5": base64.b64encode(hashlib.md5(DATA[:9]).digest()).decode(),
        "x-ms-lease-id": "lease",
    }
    assert listing == {
        "content-md5": md5,
        "x-ms-blob-content-type": "text/csv",
        "x-ms-meta-run": "7",
        "x-ms-lease-id": "lease",
    }


def test_a_tree_sends_each_file_to_its_own_key(tmp_path: Path) -> None:
    """The SAS of a directory opens what lies below it."""
    url = a_url("/cont/ds", provider=Provider.AZURE, flavour="azure", permissions="cw", key="ds")
    with azure(tmp_path, DATA[:9], Blob(), Ticket("", Kind.TREE, url)) as made:
        made.job.errand = replace(made.job.errand, file=replace(made.job.file, key="ds/a b/c#.bin"))
        made.do(blocks.upload)

    assert {asked.path for asked in made.script.asked} == {"/cont/ds/a%20b/c%23.bin"}


def test_a_sas_that_may_read_confirms_the_size(tmp_path: Path) -> None:
    """And no more than that: the Content-MD5 of such a blob is what a client claims."""
    readable = replace(TICKET, url=replace(TICKET.url, permissions="rcw"))
    with azure(tmp_path, DATA[:9], Blob(), readable) as made:
        assert made.do(blocks.upload).strength is Strength.INGEST
    with azure(tmp_path, DATA[:9], Blob(), readable) as made:
        made.script.trouble = {"HEAD": [error(404, "BlobNotFound")]}
        assert failure(made).code is Code.OBJECT_MISSING


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, (1, 0)),
        (50_000 * BLOCK, (50_000, BLOCK)),
        (50_000 * BLOCK + 1, (25_001, 2 * MIB)),
    ],
)
def test_blocks_grow_with_the_file(tmp_path: Path, size: int, expected: tuple[int, int]) -> None:
    """At most 50,000 of them."""
    with azure(tmp_path, b"", Blob()) as made:
        made.job.errand = replace(made.job.errand, file=replace(made.job.file, size=size))
        slices = blocks.slices_of(made.job, [])

    assert (len(slices), slices[0].size) == expected


def test_a_file_that_no_blob_can_hold_is_refused(tmp_path: Path) -> None:
    """190.7 TiB."""
    with azure(tmp_path, b"", Blob()) as made:
        made.job.errand = replace(made.job.errand, file=replace(made.job.file, size=50_000 * 4_000 * MIB + 1))
        assert failure(made).code is Code.TOO_LARGE


def test_an_interrupted_block_keeps_the_others(tmp_path: Path) -> None:
    """Those on their way arrive; nothing new is begun."""
    with azure(tmp_path, DATA, Blob()) as made:
        answer = made.script.answer

        def fail_the_last(asked: Asked) -> Answer:
            if len(asked.body) == 100:
                raise broken()
            return answer(asked)

        made.script.answer = fail_the_last
        assert failure(made).code is Code.NETWORK

    assert sorted(made.diary.events) == ["arrived 1", "arrived 2"]
