from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from awscrt import checksums

from cloudpush.errors import CloudPushError, Code
from cloudpush.net import Answer
from cloudpush.push.signed.model import Arrival, Kind, Provider, Ticket
from cloudpush.push.states import Strength
from cloudpush.transfer.signed import resumable
from signed_jobs import MIB, SIGNATURE, Asked, Bench, Session, a_url, bench, broken, error, expired, reply

CHUNK = MIB
GRAIN = 256 * 1024
DATA = random.Random(3).randbytes(2 * CHUNK + 100)
SIZE = len(DATA)


def crc_of(data: bytes) -> str:
    return base64.b64encode(checksums.crc32c(data).to_bytes(4, "big")).decode()


ARRIVED = Arrival(hashlib.sha256(DATA).digest(), Strength.CHECKSUM, crc_of(DATA), "etag", sent=SIZE)
START = Ticket(
    "file.bin",
    Kind.RESUMABLE,
    a_url(provider=Provider.GCS, flavour="gcs", signed_headers=frozenset({"host", "x-goog-resumable"})),
)
BEGAN = f"began {Session().uri('S1')}"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "CHUNK", CHUNK)


def handed_over(cloud: Session) -> Ticket:
    """The URI of a session instead of a start."""
    url = replace(START.url, text=cloud.uri("S1"), session=True, version="session")
    cloud.stored["S1"] = bytearray()
    return replace(START, url=url)


def gcs(
    directory: Path, data: bytes, cloud: Callable[[Asked], Answer], ticket: Ticket | None = START, **more: Any
) -> AbstractContextManager[Bench]:
    return bench(directory, data, ticket, cloud, provider=Provider.GCS, **more)


def ranges(made: Bench) -> list[str]:
    return [
        asked.headers["content-range"].removeprefix("bytes ") for asked in made.script.asked if asked.method == "PUT"
    ]


def failure(made: Bench) -> CloudPushError:
    with pytest.raises(CloudPushError) as failed:
        made.do(resumable.upload)
    assert SIGNATURE not in f"{failed.value} {failed.value.detail} {failed.value!r}"
    return failed.value


def test_a_file_arrives_chunk_by_chunk(tmp_path: Path) -> None:
    """A session is started and kept before its first byte; the last answer holds the digest of the whole."""
    cloud = Session()
    ticket = replace(START, headers={"Content-Type": "text/csv"})
    with gcs(tmp_path, DATA, cloud, ticket) as made:
        arrival = made.do(resumable.upload)

    assert (arrival, cloud.object == DATA, made.diary.events) == (ARRIVED, True, [BEGAN])
    assert made.script.asked[0].headers == {"content-type": "text/csv", "x-goog-resumable": "start"}
    assert ranges(made) == [
        f"0-{CHUNK - 1}/{SIZE}",
        f"{CHUNK}-{2 * CHUNK - 1}/{SIZE}",
        f"{2 * CHUNK}-{SIZE - 1}/{SIZE}",
    ]
    assert all(set(asked.headers) == {"content-range"} for asked in made.script.asked[1:])


@pytest.mark.parametrize("size", [0, 1, MIB])
def test_small_and_empty_files_arrive(tmp_path: Path, size: int) -> None:
    """An empty one is complete with a range of nothing."""
    cloud = Session()
    with gcs(tmp_path, DATA[:size], cloud) as made:
        arrival = made.do(resumable.upload)

    assert (cloud.object, arrival.strength) == (DATA[:size], Strength.CHECKSUM)
    assert ranges(made) == ([f"0-{size - 1}/{size}"] if size else ["*/0"])


def test_a_session_goes_on_where_the_server_says(tmp_path: Path) -> None:
    """Not where we stopped: it stores grains, and may have less than was sent."""
    cloud = Session()
    cloud.stored["S1"] = bytearray(DATA[: 3 * GRAIN])
    with gcs(tmp_path, DATA, cloud, session=cloud.uri("S1")) as made:
        arrival = made.do(resumable.upload)

    start = 3 * GRAIN
    assert (arrival, cloud.object == DATA) == (replace(ARRIVED, sent=SIZE - start), True)
    assert ranges(made)[:2] == [f"*/{SIZE}", f"{start}-{start + CHUNK - 1}/{SIZE}"]
    assert made.diary.events == []


def test_a_chunk_that_was_stored_in_part_is_continued(tmp_path: Path) -> None:
    """After an interruption the session is asked before anything is sent again."""
    cloud = Session()

    def half(asked: Asked) -> Answer:
        if asked.headers.get("content-range", "").startswith("0-", 6):
            cloud.stored["S1"][:] = asked.body[: CHUNK // 2]
            raise resumable._AskFirstError
        return cloud(asked)

    with gcs(tmp_path, DATA, half) as made:
        arrival = made.do(resumable.upload)

    assert (cloud.object == DATA, arrival.strength, arrival.sent) == (True, Strength.CHECKSUM, SIZE + CHUNK // 2)
    assert ranges(made)[1:3] == [f"*/{SIZE}", f"{CHUNK // 2}-{CHUNK // 2 + CHUNK - 1}/{SIZE}"]


def test_a_failed_chunk_is_never_repeated_blindly(tmp_path: Path) -> None:
    """Its body refuses to be sent a second time, so that the wire's own retry ends up with the question."""
    cloud = Session()
    with gcs(tmp_path, DATA, cloud) as made:
        send = made.script.send

        async def twice(request: Any) -> Answer:
            answer = await send(request)
            if not isinstance(request.body, bytes) and len(made.script.asked) == 2:
                return await send(request)  # the answer was lost
            return answer

        made.script.send = twice  # type: ignore[method-assign]  # a wire that retries
        arrival = made.do(resumable.upload)

    assert (arrival, ranges(made)[1]) == (ARRIVED, f"*/{SIZE}")


def test_an_upload_that_is_complete_is_not_sent_again(tmp_path: Path) -> None:
    """The last answer was lost; the session says so when it is asked."""
    cloud = Session()
    cloud.stored["S1"] = bytearray(DATA)
    with gcs(tmp_path, DATA, cloud, session=cloud.uri("S1")) as made:
        assert made.do(resumable.upload) == replace(ARRIVED, sent=0)


def test_a_session_needs_no_signed_url_any_more(tmp_path: Path) -> None:
    """It outlives the expiry and the destruction of the start."""
    cloud = Session()
    cloud.stored["S1"] = bytearray(DATA[:CHUNK])
    with gcs(tmp_path, DATA, cloud, None, session=cloud.uri("S1")) as made:
        arrival = made.do(resumable.upload)

    # What its start said is not known any more: on a host that nobody vouches for it may have named the digest.
    assert arrival == replace(ARRIVED, strength=Strength.INGEST, sent=SIZE - CHUNK, note=arrival.note)
    assert (made.supply.needs, bool(arrival.note)) == ([], True)


def test_a_session_of_google_needs_no_ticket_to_prove_the_digest(tmp_path: Path) -> None:
    """Whoever answers there computed it."""
    cloud = Session()
    cloud.host = "storage.googleapis.com"
    cloud.stored["S1"] = bytearray(DATA[:CHUNK])
    with gcs(tmp_path, DATA, cloud, None, session=cloud.uri("S1")) as made:
        assert made.do(resumable.upload) == replace(ARRIVED, sent=SIZE - CHUNK)


def test_a_lost_session_is_begun_anew(tmp_path: Path) -> None:
    """With the signed start, as long as there is one."""
    cloud = Session()
    with gcs(tmp_path, DATA, cloud, session=cloud.uri("OLD")) as made:
        arrival = made.do(resumable.upload)

    assert (arrival, made.diary.events) == (ARRIVED, ["lost", BEGAN])


def test_a_session_that_is_lost_while_it_is_used_is_not_used_again(tmp_path: Path) -> None:
    """The next attempt begins anew."""
    with gcs(tmp_path, DATA, Session()) as made:
        made.script.trouble = {"PUT upload_id=S1": [reply(410)]}
        assert failure(made).code is Code.UPLOAD_GONE

    assert made.diary.events == [BEGAN, "lost"]


@pytest.mark.parametrize("status", [404, 410])
def test_a_lost_session_without_a_start_is_gone(tmp_path: Path, status: int) -> None:
    """Whoever handed over the session's URI has to start another."""
    cloud = Session()
    with gcs(tmp_path, DATA, lambda asked: reply(status), handed_over(cloud)) as made:
        assert failure(made).code is Code.UPLOAD_GONE

    assert made.diary.events == ["lost"]


def test_a_session_that_was_handed_over_works_like_our_own(tmp_path: Path) -> None:
    """It is asked first: part of the file may be there."""
    cloud = Session()
    with gcs(tmp_path, DATA, cloud, handed_over(cloud)) as made:
        assert made.do(resumable.upload) == ARRIVED

    assert (ranges(made)[0], made.diary.events) == (f"*/{SIZE}", [])


@pytest.mark.parametrize(
    "location",
    [
        "",
        "/bkt/key?upload_id=x",
        f"http://storage.example/bkt/key?upload_id=x&sig={SIGNATURE}",
        f"https://storage.example:8443/bkt/key?upload_id=x&sig={SIGNATURE}",
        f"https://storage.example.evil.test/bkt/key?upload_id=x&sig={SIGNATURE}",
        f"https://storage.example@169.254.169.254/x?sig={SIGNATURE}",
        f"https://169.254.169.254/latest?sig={SIGNATURE}",
        f"file:///etc/passwd?sig={SIGNATURE}",
        f"https://[::1/x?sig={SIGNATURE}",
        f"https://storage.example/{'x' * 20_000}?sig={SIGNATURE}",
    ],
)
def test_a_session_elsewhere_is_never_followed(tmp_path: Path, location: str) -> None:
    """A hostile server must not point us into somebody's network."""
    with gcs(tmp_path, DATA, lambda asked: reply(201, Location=location)) as made:
        assert failure(made).code is Code.ENDPOINT_FORBIDDEN

    assert (len(made.script.asked), made.diary.events) == (1, [])


@pytest.mark.parametrize("told", ["bytes=0-99999999999", "bytes=5-10", "bytes 0-10", "lots", "bytes=0--1"])
def test_a_range_that_cannot_be_is_refused(tmp_path: Path, told: str) -> None:
    """More than was sent, or not from the beginning."""
    with gcs(tmp_path, DATA, Session()) as made:
        made.script.trouble = {"PUT upload_id=S1": [reply(308, Range=told)]}
        assert failure(made).code is Code.PROVIDER_REFUSED


def test_a_session_that_stores_nothing_is_given_up(tmp_path: Path) -> None:
    """Not sent to for ever."""
    with gcs(tmp_path, DATA, Session()) as made:
        made.script.trouble = {"PUT upload_id=S1": [reply(308)] * 9}
        assert failure(made).code is Code.PROVIDER_UNAVAILABLE

    assert len(ranges(made)) == resumable.STANDSTILLS


def test_complete_before_all_was_sent_is_no_success(tmp_path: Path) -> None:
    """Somebody in between swallows chunks and says 200."""
    with gcs(tmp_path, DATA, Session()) as made:
        made.script.trouble = {"PUT upload_id=S1": [reply(200)]}
        assert failure(made).code is Code.CORRUPTED


def test_another_digest_than_ours_is_corruption(tmp_path: Path) -> None:
    """Of the whole object, however many chunks and attempts it took."""
    cloud = Session()
    cloud.stored["S1"] = bytearray(b"\0" * CHUNK)
    with gcs(tmp_path, DATA, cloud, session=cloud.uri("S1")) as made:
        assert failure(made).code is Code.CORRUPTED


def test_a_start_that_expired_is_renewed(tmp_path: Path) -> None:
    """A fresh start, or a session that the callback has started itself."""
    for fresh in (START, handed_over(Session())):
        cloud = Session()
        cloud.stored["S1"] = bytearray()
        with gcs(tmp_path, DATA, cloud, None, fresh=[fresh]) as made:
            assert made.do(resumable.upload) == ARRIVED
        assert made.supply.needs[0].seq == 1


def test_a_start_that_nobody_renews_waits(tmp_path: Path) -> None:
    """Nothing was sent."""
    with gcs(tmp_path, DATA, Session()) as made:
        made.script.trouble = {"POST": [expired()]}
        assert failure(made).code is Code.URL_EXPIRED


@pytest.mark.parametrize(
    ("session", "trouble", "says"),
    [
        ("S1", None, ""),
        ("GONE", None, ""),
        ("", None, ""),
        ("S1", broken(), "failed with NETWORK"),
        ("S1", error(403, "AccessDenied"), "failed with ACCESS_DENIED"),
    ],
)
def test_aborting_cancels_the_session(tmp_path: Path, session: str, trouble: Any, says: str) -> None:
    """Nothing stays behind where it was cancelled, or never was."""
    cloud = Session()
    cloud.stored["S1"] = bytearray(b"x")
    with gcs(tmp_path, DATA, cloud, session=cloud.uri(session) if session else "") as made:
        if trouble is not None:
            made.script.trouble = {"DELETE upload_id=S1": [trouble]}
        left = made.do(resumable.abort)

    assert (says in left, bool(left), SIGNATURE in left) == (True, bool(says), False)


def test_a_session_that_forgets_what_it_had_is_given_up(tmp_path: Path) -> None:
    """A server that says now a little, now nothing, could keep us sending for ever."""
    told: list[Answer] = []

    def flapping(asked: Asked) -> Answer:
        if asked.method == "POST":
            return Session()(asked)
        told.append(reply(308) if told and "Range" in told[-1].headers else reply(308, Range=f"bytes=0-{GRAIN - 1}"))
        return told[-1] if len(told) <= 50 else reply(400)

    with gcs(tmp_path, DATA, flapping) as made:
        assert failure(made).code is Code.PROVIDER_UNAVAILABLE

    assert len(told) == 1 + resumable.STANDSTILLS


def test_an_upload_that_became_something_else_is_not_asked_again(tmp_path: Path) -> None:
    """Its session is complete and would give the same answer for a week: the next attempt begins anew."""
    cloud = Session()

    def other(asked: Asked) -> Answer:
        answer = cloud(asked)
        return answer if cloud.object is None else reply(200, x_goog_hash="crc32c=AAAAAA==")

    with gcs(tmp_path, DATA, other) as made:
        assert failure(made).code is Code.CORRUPTED

    assert made.diary.events == [BEGAN, "lost"]


def test_the_new_session_of_a_ticket_replaces_the_one_that_is_gone(tmp_path: Path) -> None:
    """Fresh URLs that were handed over may be another session's."""
    cloud = Session()
    with gcs(tmp_path, DATA, cloud, handed_over(cloud), session=cloud.uri("OLD")) as made:
        arrival = made.do(resumable.upload)

    assert (arrival, cloud.object == DATA, made.diary.events) == (ARRIVED, True, ["lost"])
