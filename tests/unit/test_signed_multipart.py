from __future__ import annotations

import base64
import hashlib
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from awscrt import checksums

from cloudpush.errors import CloudPushError, Code, StoreError
from cloudpush.net import Answer
from cloudpush.push.signed.model import Arrival, Kind, Need, Piece, Provider, Ticket
from cloudpush.push.signed.proof import composite_etag
from cloudpush.push.states import Strength
from cloudpush.transfer.signed import multipart
from cloudpush.transfer.signed.pieces import Slice, cut, size_of
from signed_jobs import (
    MIB,
    SIGNATURE,
    Asked,
    Bench,
    S3Uploads,
    a_url,
    bench,
    broken,
    error,
    expired,
    multipart_ticket,
    reply,
)

PART = MIB
DATA = random.Random(1).randbytes(2 * PART + 100)
CUTS = [(1, DATA[:PART]), (2, DATA[PART : 2 * PART]), (3, DATA[2 * PART :])]
MD5S = [hashlib.md5(data).digest() for _, data in CUTS]
ARRIVED = Arrival(
    sha256=hashlib.sha256(DATA).digest(),
    strength=Strength.CHECKSUM,
    expected=composite_etag(MD5S),
    etag=composite_etag(MD5S),
    sent=len(DATA),
)
PARTS = ["PUT partNumber=1", "PUT partNumber=2", "PUT partNumber=3"]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "SMALLEST_PART", PART)


def pieces(upload: str, *numbers: int) -> list[Piece]:
    """What an earlier attempt left of DATA."""
    name = hashlib.sha256(upload.encode()).hexdigest()[:16]
    return [
        Piece(1, n, (n - 1) * PART, len(data), f'"{hashlib.md5(data).hexdigest()}"', hashlib.md5(data).digest(),
              checksums.crc64nvme(data), name, Strength.CHECKSUM)
        for n, data in CUTS if n in numbers
    ]  # fmt: skip


def cloud_with(upload: str, *numbers: int) -> S3Uploads:
    cloud = S3Uploads(upload)
    cloud.open[upload] = {n: data for n, data in CUTS if n in numbers}
    return cloud


def failure(made: Bench) -> CloudPushError:
    with pytest.raises(CloudPushError) as failed:
        made.do(multipart.upload)
    assert SIGNATURE not in f"{failed.value} {failed.value.detail} {failed.value!r}"
    return failed.value


def test_a_file_arrives_in_parts_and_is_proved_by_its_composite_etag(tmp_path: Path) -> None:
    """Each part once, kept in the journal; then one request completes the upload."""
    cloud = S3Uploads("U")
    with bench(tmp_path, DATA, multipart_ticket("U", 3), cloud) as made:
        arrival = made.do(multipart.upload)

    assert (arrival, cloud.object == DATA) == (ARRIVED, True)
    assert (sorted(made.script.lines[:3]), made.script.lines[3:]) == (PARTS, ["POST"])
    assert sorted(made.diary.pieces, key=lambda p: p.number) == pieces("U", 1, 2, 3)
    assert all(not asked.headers for asked in made.script.asked), "nothing is signed, so nothing may be sent"


def test_part_urls_are_read_once_and_not_once_for_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload may have 10,000 of them."""
    calls: list[Ticket] = []
    read = multipart.part_urls

    def counted(ticket: Ticket) -> dict[int, str]:
        calls.append(ticket)
        return read(ticket)

    monkeypatch.setattr(multipart, "part_urls", counted)
    with bench(tmp_path, DATA, multipart_ticket("U", 3), S3Uploads("U")) as made:
        made.do(multipart.upload)

    assert len(calls) == 2, "to cut the file, and to send its parts"


@pytest.mark.parametrize("size", [0, 1, MIB])
def test_a_small_file_is_one_part(tmp_path: Path, size: int) -> None:
    """An empty file, too: an upload without parts cannot be completed."""
    cloud = S3Uploads("U")
    with bench(tmp_path, DATA[:size], multipart_ticket("U", 4), cloud) as made:
        arrival = made.do(multipart.upload)

    assert (cloud.object, arrival.strength, arrival.sent) == (DATA[:size], Strength.CHECKSUM, size)
    assert made.script.lines == ["PUT partNumber=1", "POST"]


@pytest.mark.parametrize("kept", [(1,), (2,), (3,), (1, 3), (1, 2, 3)])
def test_parts_of_an_earlier_attempt_are_not_sent_again(tmp_path: Path, kept: tuple[int, ...]) -> None:
    """Wherever the earlier attempt was cut off; the digest is still that of the whole file."""
    with bench(tmp_path, DATA, multipart_ticket("U", 3), cloud_with("U", *kept), pieces=pieces("U", *kept)) as made:
        arrival = made.do(multipart.upload)

    missing = [data for n, data in CUTS if n not in kept]
    assert arrival == replace(ARRIVED, sent=sum(map(len, missing)))
    assert len(made.script.lines) == len(missing) + 1


def test_a_part_whose_bytes_changed_since_is_sent_again(tmp_path: Path) -> None:
    """A piece is kept for its bytes, not for its number."""
    changed = [replace(p, md5=bytes(16)) if p.number == 2 else p for p in pieces("U", 1, 2)]
    with bench(tmp_path, DATA, multipart_ticket("U", 3), cloud_with("U", 1, 2), pieces=changed) as made:
        arrival = made.do(multipart.upload)

    assert (arrival.sent, made.script.lines) == (
        len(DATA) - PART,
        ["PUT partNumber=3", "PUT partNumber=2", "POST"],
    )


def test_pieces_that_do_not_add_up_to_the_file_are_noticed(tmp_path: Path) -> None:
    """The SHA-256 that is recorded is that of what was sent, or nothing is completed."""
    wrong = [replace(p, crc64=p.crc64 ^ 1) for p in pieces("U", 1)]
    with bench(tmp_path, DATA, multipart_ticket("U", 3), cloud_with("U", 1), pieces=wrong) as made:
        assert failure(made).code is Code.SOURCE_CHANGED

    assert "POST" not in made.script.lines


def test_pieces_of_another_upload_are_forgotten(tmp_path: Path) -> None:
    """They are at the provider under an id that these URLs do not speak of."""
    with bench(tmp_path, DATA, multipart_ticket("NEW", 3), S3Uploads("NEW"), pieces=pieces("OLD", 1, 2)) as made:
        arrival = made.do(multipart.upload)

    assert (arrival, made.diary.events[0]) == (ARRIVED, "lost")


def test_earlier_pieces_decide_how_the_rest_is_cut(tmp_path: Path) -> None:
    """Another number of fresh URLs must not move the cuts: everything would be sent twice."""
    with bench(tmp_path, DATA, multipart_ticket("U", 2), cloud_with("U", 1), pieces=pieces("U", 1)) as made:
        error_ = failure(made)

    assert (error_.code, "none for part 3" in error_.message) == (Code.URL_UNUSABLE, True)
    with bench(tmp_path, DATA, multipart_ticket("U", 9), cloud_with("U", 1), pieces=pieces("U", 1)) as made:
        assert made.do(multipart.upload).sent == len(DATA) - PART


def test_only_missing_parts_need_fresh_urls_and_the_same_upload_goes_on(tmp_path: Path) -> None:
    """URLs that expire in mid-upload: those that arrived stay, the callback is asked for the others."""
    fresh = multipart_ticket("U", 0, numbers=[2, 3])
    with bench(tmp_path, DATA, multipart_ticket("U", 3), S3Uploads("U"), pieces=[], fresh=[fresh]) as made:
        made.script.trouble = {"PUT partNumber=2": [expired()], "PUT partNumber=3": [expired()]}
        arrival = made.do(multipart.upload)

    assert len(made.supply.needs) == 1
    need = made.supply.needs[0]
    assert (replace(need, parts=()), set(need.parts) >= {2, 3}) == (Need(1, "file.bin", "key", Kind.MULTIPART), True)
    assert arrival == replace(ARRIVED, sent=arrival.sent)
    assert sorted(made.diary.events) == ["arrived 1", "arrived 2", "arrived 3", "flushed"]


def test_urls_that_nobody_renews_leave_what_arrived(tmp_path: Path) -> None:
    """The next attempt, with fresh URLs, goes on from there."""
    with bench(tmp_path, DATA, multipart_ticket("U", 3), S3Uploads("U")) as made:
        made.script.trouble = {"PUT partNumber=2": [expired()]}
        assert failure(made).code is Code.URL_EXPIRED

    assert "lost" not in made.diary.events
    assert "DELETE" not in made.script.lines


def test_fresh_urls_of_another_upload_begin_anew_and_abort_the_old_one(tmp_path: Path) -> None:
    """What arrived in the old one is lost and must not be paid for for ever."""
    cloud = S3Uploads("OLD", "NEW")
    with bench(tmp_path, DATA, multipart_ticket("OLD", 3), cloud, fresh=[multipart_ticket("NEW", 3)]) as made:
        made.script.trouble = {"PUT partNumber=2": [expired()]}
        arrival = made.do(multipart.upload)

    assert (replace(arrival, sent=len(DATA)), cloud.object == DATA) == (ARRIVED, True)
    assert (cloud.open, "DELETE" in made.script.lines) == ({}, True)
    assert {p.upload for p in made.diary.pieces} == {pieces("NEW", 1)[0].upload}


def test_an_upload_that_is_gone_loses_its_pieces(tmp_path: Path) -> None:
    """Nothing at the provider belongs to them any more; the user is asked for a new upload."""
    with bench(tmp_path, DATA, multipart_ticket("U", 3), S3Uploads(), pieces=pieces("U", 1)) as made:
        assert failure(made).code is Code.UPLOAD_GONE

    assert made.diary.events == ["lost"]


def test_a_part_that_arrived_otherwise_than_it_was_sent_is_sent_once_more(tmp_path: Path) -> None:
    """Its ETag is the MD5 of what the provider has."""
    with bench(tmp_path, DATA, multipart_ticket("U", 3), S3Uploads("U")) as made:
        made.script.trouble = {"PUT partNumber=2": [reply(ETag=f'"{"0" * 32}"')]}
        arrival = made.do(multipart.upload)

    assert arrival == replace(ARRIVED, sent=len(DATA) + PART)


def test_a_part_that_is_corrupted_twice_fails_the_file(tmp_path: Path) -> None:
    """And the upload is never completed with it."""
    with bench(tmp_path, DATA, multipart_ticket("U", 3), S3Uploads("U")) as made:
        made.script.trouble = {"PUT partNumber=2": [reply(ETag=f'"{"0" * 32}"'), error(400, "BadDigest")]}
        assert failure(made).code is Code.CORRUPTED

    assert "POST" not in made.script.lines


def test_a_part_that_the_provider_does_not_have_after_all_ends_all_trust_in_the_parts(tmp_path: Path) -> None:
    """A part that was acknowledged and dropped is found out when the upload is completed."""
    with bench(tmp_path, DATA, multipart_ticket("U", 3), S3Uploads("U")) as made:
        made.script.trouble = {"PUT partNumber=2": [reply(ETag=f'"{MD5S[1].hex()}"')]}
        assert failure(made).code is Code.CORRUPTED

    assert made.diary.events[-1] == "lost"


def test_a_part_without_an_etag_is_refused(tmp_path: Path) -> None:
    """It could not be named when the upload is completed."""
    with bench(tmp_path, DATA, multipart_ticket("U", 3), S3Uploads("U")) as made:
        made.script.trouble = {"PUT partNumber=2": [reply()]}
        assert failure(made).code is Code.PROVIDER_REFUSED


@pytest.mark.parametrize(
    "answer",
    [
        error(200, "InternalError"),
        reply(200),
        reply(200, b"   "),
        reply(200, b"<CompleteMultipartUploadResult/>"),
        reply(200, b"<html>welcome</html>"),
        reply(200, b'<!DOCTYPE a [<!ENTITY e "x">]><CompleteMultipartUploadResult><ETag>&e;</ETag></CompleteMultipartUploadResult>'),
    ],
)  # fmt: skip
def test_a_200_that_does_not_say_complete_is_no_success(tmp_path: Path, answer: object) -> None:
    """S3 sends its status before it knows; and what arrived stays for the next try."""
    with bench(tmp_path, DATA[:100], multipart_ticket("U", 1), S3Uploads("U")) as made:
        made.script.trouble = {"POST": [answer]}  # type: ignore[list-item]  # parametrized
        assert failure(made).code is Code.PROVIDER_UNAVAILABLE

    assert made.diary.events == ["arrived 1", "flushed"]


def test_another_object_than_was_sent_is_corruption(tmp_path: Path) -> None:
    """The ETag of the whole names other parts, or another order, on a store that is known to build it as S3 does."""
    body = f"<CompleteMultipartUploadResult><ETag>{'0' * 32}-1</ETag></CompleteMultipartUploadResult>"
    ticket = multipart_ticket("U", 1)
    with bench(tmp_path, DATA[:100], replace(ticket, url=replace(ticket.url, flavour="aws")), S3Uploads("U")) as made:
        made.script.trouble = {"POST": [reply(200, body.encode())]}
        assert failure(made).code is Code.CORRUPTED


def test_completing_again_after_a_lost_answer_succeeds(tmp_path: Path) -> None:
    """A provider answers once more for an upload that it has completed."""
    cloud = cloud_with("U", 1, 2, 3)
    with bench(tmp_path, DATA, multipart_ticket("U", 3), cloud, pieces=pieces("U", 1, 2, 3)) as made:
        made.script.trouble = {"POST": [broken()]}
        assert failure(made).code is Code.NETWORK
    with bench(tmp_path, DATA, multipart_ticket("U", 3), cloud, pieces=pieces("U", 1, 2, 3)) as made:
        arrival = made.do(multipart.upload)

    assert (arrival, made.script.lines) == (replace(ARRIVED, sent=0), ["POST"])


@pytest.mark.parametrize("companion", [True, False])
def test_after_a_lost_answer_only_a_companion_can_tell(tmp_path: Path, companion: bool) -> None:
    """A provider that has forgotten the upload may have completed it; without a look the verdict says so."""
    cloud = cloud_with("U", 1, 2, 3)
    ticket = multipart_ticket("U", 3, verify=companion)
    cloud.object, cloud.done, cloud.open = DATA, {"?": composite_etag(MD5S)}, {}
    with bench(tmp_path, DATA, ticket, cloud, pieces=pieces("U", 1, 2, 3)) as made:
        if companion:
            assert made.do(multipart.upload) == replace(ARRIVED, sent=0)
        else:
            error_ = failure(made)
            assert (error_.code, "answer was lost" in error_.message) == (Code.UPLOAD_GONE, True)


def test_a_companion_confirms_what_was_completed(tmp_path: Path) -> None:
    """Its HEAD names the same parts; another object in its place is noticed."""
    cloud = S3Uploads("U")
    with bench(tmp_path, DATA, multipart_ticket("U", 3, verify=True), cloud) as made:
        assert made.do(multipart.upload) == ARRIVED
        assert made.script.lines[-1] == "HEAD"
    with bench(tmp_path, DATA[:9], multipart_ticket("U", 3, verify=True), S3Uploads("U")) as made:
        made.script.trouble = {"HEAD": [reply(Content_Length="10")]}
        assert failure(made).code is Code.CORRUPTED


def test_gcs_proves_the_whole_by_its_crc32c(tmp_path: Path) -> None:
    """Its ETag of a multipart upload is no digest of anything."""
    ticket = multipart_ticket("U", 3)
    ticket = replace(ticket, url=replace(ticket.url, provider=Provider.GCS, flavour="gcs"))
    crc = checksums.crc32c(DATA).to_bytes(4, "big")
    expected = base64.b64encode(crc).decode()
    result = reply(
        200,
        b"<CompleteMultipartUploadResult><ETag>abc</ETag></CompleteMultipartUploadResult>",
        x_goog_hash=f"crc32c={expected}",
    )
    with bench(tmp_path, DATA, ticket, S3Uploads("U"), provider=Provider.GCS) as made:
        made.script.trouble = {"POST": [result]}
        arrival = made.do(multipart.upload)

    assert (arrival.strength, arrival.expected) == (Strength.CHECKSUM, expected)


def test_gcs_proves_a_part_by_its_crc32c_too(tmp_path: Path) -> None:
    """A part whose ETag would do, and whose hash is that of other bytes, is sent again."""
    ticket = multipart_ticket("U", 3)
    ticket = replace(ticket, url=replace(ticket.url, provider=Provider.GCS, flavour="gcs"))
    with bench(tmp_path, DATA, ticket, S3Uploads("U"), provider=Provider.GCS) as made:
        wrong = reply(ETag=f'"{MD5S[1].hex()}"', x_goog_hash="crc32c=AAAAAA==")
        made.script.trouble = {"PUT partNumber=2": [wrong]}
        assert made.do(multipart.upload).sent == len(DATA) + PART


def test_headers_that_are_signed_are_sent_and_no_others(tmp_path: Path) -> None:
    """Digests that the signer wanted to see are filled in, each of its own part or of the whole."""
    signed = "X-Amz-SignedHeaders=host%3Bcontent-md5%3Bx-amz-checksum-crc64nvme%3Bx-amz-request-payer&uploadId=U"
    complete = a_url(query="X-Amz-SignedHeaders=host%3Bx-amz-mp-object-size&uploadId=U", upload="U")
    ticket = replace(
        multipart_ticket("U", 3),
        url=complete,
        parts=tuple(a_url(query=f"partNumber={n}&{signed}").text for n in (1, 2, 3)),
        headers={"X-Amz-Request-Payer": "requester", "Content-Type": "text/csv"},
    )
    with bench(tmp_path, DATA, ticket, S3Uploads("U")) as made:
        made.do(multipart.upload)

    by_number = {asked.query.get("partNumber", asked.method): asked.headers for asked in made.script.asked}
    assert by_number["2"] == {
        "content-md5": base64.b64encode(MD5S[1]).decode(),
        "x-amz-checksum-crc64nvme": base64.b64encode(checksums.crc64nvme(CUTS[1][1]).to_bytes(8, "big")).decode(),
        "x-amz-request-payer": "requester",
    }
    assert by_number["POST"] == {"x-amz-mp-object-size": str(len(DATA))}


@pytest.mark.parametrize(
    ("size", "urls", "part_size", "code"),
    [
        (11 * MIB, 2, 5 * MIB, Code.URL_UNUSABLE),  # three parts of that size
        (11 * MIB, 1, 5 * MIB, Code.URL_UNUSABLE),
        (11 * 1024 * MIB, 2, 0, Code.TOO_LARGE),  # 5.5 GiB each
        (60_000 * MIB, 10_001, 5 * MIB, Code.TOO_LARGE),  # 12,000 parts
    ],
)
def test_urls_that_cannot_hold_the_file_are_refused_before_the_first_byte(
    tmp_path: Path, size: int, urls: int, part_size: int, code: Code
) -> None:
    """With the number of URLs that it takes."""
    with bench(tmp_path, b"", multipart_ticket("U", urls, size=part_size), S3Uploads("U")) as made:
        made.job.errand = replace(made.job.errand, file=replace(made.job.file, size=size))
        assert failure(made).code is code

    assert made.script.asked == []


@pytest.mark.parametrize(
    ("size", "urls", "part_size", "expected"),
    [
        (100 * MIB, 10, 0, (10, 10 * MIB)),
        (100 * MIB + 1, 10, 0, (10, 11 * MIB)),
        (10 * MIB, 1_000, 0, (10, PART)),  # unused URLs are left over
        (100 * MIB, 1_000, 64 * MIB, (2, 64 * MIB)),
        (0, 3, 0, (1, 0)),
    ],
)
def test_how_a_file_is_cut(tmp_path: Path, size: int, urls: int, part_size: int, expected: tuple[int, int]) -> None:
    """As small as the URLs allow, not smaller than allowed, all but the last one equal."""
    ticket = multipart_ticket("U", urls, size=part_size)
    with bench(tmp_path, b"", ticket, S3Uploads("U")) as made:
        made.job.errand = replace(made.job.errand, file=replace(made.job.file, size=size))
        slices = multipart.slices_of(made.job, ticket, [])

    assert (len(slices), slices[0].size) == expected
    assert len({s.size for s in slices[:-1]}) <= 1
    assert slices[-1].end == size


def test_pieces_tell_how_they_were_cut() -> None:
    """Unless they disagree; the last one alone tells, too."""
    kept = pieces("U", 1, 2, 3)

    assert [size_of(some, len(DATA)) for some in (kept, kept[:1], kept[2:], [])] == [PART, PART, PART, None]
    assert size_of([kept[0], replace(kept[1], offset=7)], len(DATA)) is None
    assert size_of([replace(kept[0], size=3)], len(DATA)) == 3
    assert size_of([replace(kept[0], number=2, offset=0)], 9) is None
    assert cut(7, 3) == [Slice(1, 0, 3), Slice(2, 3, 3), Slice(3, 6, 1)]


@pytest.mark.parametrize(
    ("ticket", "answer", "says"),
    [
        (multipart_ticket("U", 3), None, ""),
        (multipart_ticket("GONE", 3), None, ""),
        (multipart_ticket("U", 3, abort=False), None, "no abort_url was handed over"),
        (multipart_ticket("U", 3), expired(), "failed with URL_EXPIRED"),
        (multipart_ticket("U", 3), error(403, "AccessDenied"), "failed with ACCESS_DENIED"),
        (None, None, "was destroyed"),
    ],
)
def test_aborting_says_what_stays_behind(
    tmp_path: Path, ticket: Ticket | None, answer: Exception | None, says: str
) -> None:
    """Nothing, where the provider has dropped the parts; otherwise why not, and no URL."""
    with bench(tmp_path, b"x", ticket, S3Uploads("U")) as made:
        if answer is not None:
            made.script.trouble = {"DELETE": [answer]}
        left = made.do(multipart.abort)

    assert (says in left, bool(left), SIGNATURE in left) == (True, bool(says), False)


def test_a_source_that_changes_is_never_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed while a part is read, and the parts that arrived prove nothing."""
    monkeypatch.setattr("cloudpush.transfer.signed.pieces.LANES", 1)  # the others are read after the first has arrived
    cloud = S3Uploads("U")

    def answer(asked: Asked) -> object:
        made.path.write_bytes(DATA[:-1] + b"!")
        os.utime(made.path, ns=(1, 1))  # the system's own time of a file has a grain of milliseconds
        return cloud(asked)

    with bench(tmp_path, DATA, multipart_ticket("U", 3), answer) as made:  # type: ignore[arg-type]  # answers as the cloud does
        assert failure(made).code is Code.SOURCE_CHANGED

    assert "POST" not in made.script.lines


def test_all_parts_are_stored_before_the_upload_is_completed(tmp_path: Path) -> None:
    """Once it is complete none can be sent again: an attempt that knew of fewer could not go on."""
    cloud = S3Uploads("U")
    with bench(tmp_path, DATA, multipart_ticket("U", 3), cloud) as made:
        answer = made.script.answer
        noted: list[list[str]] = []

        def noting(asked: Asked) -> Answer:
            if asked.method == "POST":
                noted.append(list(made.diary.events))
            return answer(asked)

        made.script.answer = noting
        made.do(multipart.upload)

    assert [(sorted(events[:-1]), events[-1]) for events in noted] == [
        (["arrived 1", "arrived 2", "arrived 3"], "flushed")
    ]


def test_an_upload_whose_parts_cannot_be_stored_is_not_completed_yet(tmp_path: Path) -> None:
    """Postgres is away: the parts wait at the provider for the next attempt."""
    cloud = S3Uploads("U")
    with bench(tmp_path, DATA, multipart_ticket("U", 3), cloud) as made:
        made.diary.trouble = StoreError(Code.DATABASE_UNREACHABLE, "Postgres does not answer.")
        error = failure(made)

    assert (error.code, sorted(made.script.lines)) == (Code.DATABASE_UNREACHABLE, PARTS)
