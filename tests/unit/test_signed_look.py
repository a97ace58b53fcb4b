from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from awscrt import checksums

from cloudpush.errors import Cancelled, CloudPushError, Code, LeaseLost, StoreError, VaultError
from cloudpush.net import Answer
from cloudpush.push.signed.model import Arrival, Kind, Need, Piece, Provider, SignedUrl, Ticket
from cloudpush.push.signed.proof import Proof, composite_etag
from cloudpush.push.states import Overwrite, Strength
from cloudpush.transfer.signed import look
from cloudpush.transfer.signed.job import Job
from signed_jobs import SIGNATURE, Asked, a_url, bench, broken, error, expired, reply

DATA = b"0123456789"
MD5 = hashlib.md5(DATA).hexdigest()
ETAG = f'"{MD5}"'
CRC32C = base64.b64encode(checksums.crc32c(DATA).to_bytes(4, "big")).decode()
COMPANION = a_url("/bkt/key", "X-Amz-SignedHeaders=host")
HEAD = Ticket("file.bin", Kind.PUT, a_url(), COMPANION, "HEAD")
GET = replace(HEAD, verify_method="GET")
ALONE = replace(HEAD, verify=None, verify_method="")
AZURE = replace(ALONE, url=a_url(provider=Provider.AZURE, flavour="azure", permissions="rcw"))
GCS_URL = a_url(provider=Provider.GCS, flavour="gcs")
GCS = Ticket("file.bin", Kind.PUT, GCS_URL, GCS_URL, "GET")
SKIPPED = Arrival(hashlib.sha256(DATA).digest(), Strength.CHECKSUM, MD5, MD5, skipped=True)


def with_headers(url: SignedUrl, *names: str) -> SignedUrl:
    return replace(url, signed_headers=frozenset({"host", *names}))


def before(directory: Path, ticket: Ticket, answer: Answer | Exception, overwrite: Overwrite) -> Arrival | Code | None:
    def answers(_: Asked) -> Answer:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with bench(directory, DATA, ticket, answers, provider=ticket.url.provider, overwrite=overwrite) as made:
        try:
            return made.do(look.before)
        except CloudPushError as e:
            return Code.INTERNAL if SIGNATURE in f"{e} {e.detail}" else e.code


def after(directory: Path, ticket: Ticket, answer: Answer | Exception, proof: Proof) -> Proof | Code:
    async def work(job: Job) -> Proof:
        return await look.after(job, proof, await job.source.digests())

    def answers(_: Asked) -> Answer:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with bench(directory, DATA, ticket, answers, provider=ticket.url.provider) as made:
        try:
            return made.do(work)
        except CloudPushError as e:
            return Code.INTERNAL if SIGNATURE in f"{e} {e.detail}" else e.code


EQUAL = reply(Content_Length="10", ETag=ETAG)
OTHER = reply(Content_Length="10", ETag=f'"{"0" * 32}"')
LONGER = reply(Content_Length="11", ETag=ETAG)
OPAQUE = reply(Content_Length="10", ETag='"opaque"')
ABSENT, HIDDEN = reply(404), reply(403)
NEVER, DIFFERENT, ALWAYS = Overwrite.NEVER, Overwrite.IF_DIFFERENT, Overwrite.ALWAYS


@pytest.mark.parametrize(
    ("ticket", "answer", "overwrite", "outcome"),
    [
        # equal by digest: skipped
        (HEAD, EQUAL, DIFFERENT, SKIPPED),
        (HEAD, EQUAL, NEVER, SKIPPED),
        (GET, reply(206, Content_Range="bytes 0-0/10", Content_Length="1", ETag=ETAG), DIFFERENT, SKIPPED),
        (GET, reply(200, Content_Length="10", ETag=ETAG), DIFFERENT, SKIPPED),
        # different, or not proved equal
        (HEAD, OTHER, DIFFERENT, None),
        (HEAD, LONGER, DIFFERENT, None),
        (HEAD, OPAQUE, DIFFERENT, None),
        (HEAD, OTHER, NEVER, Code.OBJECT_EXISTS),
        (HEAD, OPAQUE, NEVER, Code.OBJECT_EXISTS),
        (GET, reply(416), NEVER, Code.OBJECT_EXISTS),
        # absent, or nobody can tell
        (HEAD, ABSENT, NEVER, None),
        (HEAD, ABSENT, DIFFERENT, None),
        (HEAD, HIDDEN, DIFFERENT, None),
        (HEAD, HIDDEN, NEVER, Code.URL_UNUSABLE),
        (ALONE, EQUAL, DIFFERENT, None),
        (ALONE, EQUAL, NEVER, Code.URL_UNUSABLE),
        # a companion that fails keeps nobody from sending, unless nothing may be overwritten
        (HEAD, expired(), DIFFERENT, None),
        (HEAD, broken(), DIFFERENT, None),
        (HEAD, error(503, "SlowDown"), DIFFERENT, None),
        (HEAD, broken(), NEVER, Code.NETWORK),
        # the upload fails by itself where there is an object
        (replace(HEAD, url=with_headers(HEAD.url, "if-none-match"), headers={"If-None-Match": "*"}), HIDDEN, NEVER, None),
        (replace(HEAD, headers={"If-None-Match": "*"}), HIDDEN, NEVER, Code.URL_UNUSABLE),
        (replace(AZURE, url=replace(AZURE.url, permissions="cw")), EQUAL, NEVER, None),
        # what looks equal at Azure proves nothing
        (AZURE, EQUAL, NEVER, Code.OBJECT_EXISTS),
        (AZURE, ABSENT, NEVER, None),
        (GCS, reply(Content_Length="10", x_goog_hash=f"crc32c={CRC32C}"), DIFFERENT, replace(SKIPPED, expected=CRC32C, etag="")),
    ],
)  # fmt: skip
def test_what_is_there_already_decides_by_the_rule_of_the_push(
    tmp_path: Path, ticket: Ticket, answer: Answer | Exception, overwrite: Overwrite, outcome: Arrival | Code | None
) -> None:
    """An equal object is skipped; a different one is replaced, or fails the file."""
    assert before(tmp_path, ticket, answer, overwrite) == outcome


@pytest.mark.parametrize(("ticket", "overwrite"), [(HEAD, ALWAYS), (ALONE, DIFFERENT), (AZURE, DIFFERENT)])
def test_nothing_is_asked_where_no_answer_could_change_anything(
    tmp_path: Path, ticket: Ticket, overwrite: Overwrite
) -> None:
    """A request for each file would be a request too many."""
    with bench(tmp_path, DATA, ticket, lambda _: EQUAL, overwrite=overwrite) as made:
        assert made.do(look.before) is None

    assert made.script.asked == []


ENOUGH, LITTLE = Proof(Strength.CHECKSUM, MD5, MD5), Proof(Strength.RESPONSE, note="no digest")


@pytest.mark.parametrize(
    ("ticket", "answer", "proof", "outcome"),
    [
        (HEAD, EQUAL, ENOUGH, ENOUGH),
        (HEAD, EQUAL, LITTLE, ENOUGH),
        (HEAD, OPAQUE, LITTLE, Proof(Strength.SIZE, "10", "opaque", note="no digest")),
        (HEAD, reply(Content_Length="10", ETag='"o"', x_amz_version_id="v2"), LITTLE, Proof(Strength.SIZE, "10", "o", "v2", "no digest")),
        (GCS, reply(x_goog_stored_content_length="10", x_goog_hash=f"crc32c={CRC32C}"), LITTLE, Proof(Strength.CHECKSUM, CRC32C)),
        (AZURE, reply(Content_Length="10", Content_MD5=base64.b64encode(bytes(16)).decode()), LITTLE, Proof(Strength.SIZE, "10", note="no digest")),
        # contradictions
        (HEAD, OTHER, ENOUGH, Code.CORRUPTED),
        (HEAD, LONGER, ENOUGH, Code.CORRUPTED),
        (AZURE, LONGER, LITTLE, Code.CORRUPTED),
        (HEAD, OPAQUE, ENOUGH, Code.CONFLICT),
        (HEAD, ABSENT, ENOUGH, Code.OBJECT_MISSING),
        # nothing seen: what the upload proved stays
        (HEAD, HIDDEN, ENOUGH, ENOUGH._replace(note="the companion URL could not look at the object")),
        (HEAD, expired(), LITTLE, LITTLE),
        (HEAD, broken(), LITTLE, LITTLE),
        (ALONE, OTHER, ENOUGH, ENOUGH),
        # an Azure URL looks only where it can add something
        (AZURE, LONGER, ENOUGH, ENOUGH),
    ],
)  # fmt: skip
def test_the_better_of_the_answer_and_the_look_counts(
    tmp_path: Path, ticket: Ticket, answer: Answer | Exception, proof: Proof, outcome: Proof | Code
) -> None:
    """And a contradiction is never a success."""
    seen = after(tmp_path, ticket, answer, proof)

    assert (
        seen._replace(note="")
        if isinstance(seen, Proof) and not isinstance(outcome, Code) and not outcome.note
        else seen
    ) == outcome


@pytest.mark.parametrize(
    ("ticket", "method", "headers"),
    [
        (HEAD, "HEAD", {}),
        (replace(HEAD, verify=with_headers(COMPANION, "x-amz-checksum-mode")), "HEAD", {"x-amz-checksum-mode": "ENABLED"}),
        (GET, "GET", {"Range": "bytes=0-0"}),
        (GCS, "HEAD", {}),  # a URL that was signed for GET serves for HEAD there
        (AZURE, "HEAD", {}),
    ],
)  # fmt: skip
def test_a_look_sends_nothing_that_is_not_signed(
    tmp_path: Path, ticket: Ticket, method: str, headers: dict[str, str]
) -> None:
    """Not even the header that makes S3 tell its checksums."""
    with bench(tmp_path, DATA, ticket, lambda _: EQUAL) as made:
        made.do(look.look)

    assert [(asked.method, asked.headers, asked.body) for asked in made.script.asked] == [(method, headers, b"")]


@pytest.mark.parametrize(
    ("answer", "sight"),
    [
        (EQUAL, (True, 10)),
        (reply(206, Content_Range="bytes 0-0/12345", Content_Length="1"), (True, 12345)),
        (reply(416), (True, 0)),
        (ABSENT, (False, None)),
        (HIDDEN, (None, None)),
        (reply(Content_Length="many"), (True, None)),
        (reply(Content_Length="9" * 5_000), (True, None)),
        (reply(206, Content_Range="bytes 0-0/*", Content_Length="1"), (True, None)),
    ],
)
def test_what_a_look_sees(tmp_path: Path, answer: Answer, sight: tuple[bool | None, int | None]) -> None:
    """The size of the object, never that of the answer."""
    with bench(tmp_path, DATA, GET, lambda _: answer) as made:
        seen = made.do(look.look)

    assert (seen.exists, seen.size) == sight


@pytest.mark.parametrize("error_", [VaultError, StoreError])
def test_a_companion_that_cannot_be_renewed_for_the_moment_costs_no_arrival(
    tmp_path: Path, error_: type[CloudPushError]
) -> None:
    """What is stored must not be sent again because Vault, or the database, is away."""
    away = error_(Code.VAULT_UNREACHABLE, "away")

    async def work(job: Job) -> Proof:
        return await look.after(job, LITTLE._replace(note=""), await job.source.digests())

    with bench(tmp_path, DATA, HEAD, lambda _: EQUAL) as made:
        made.script.trouble = {"HEAD X-Amz-SignedHeaders=host": [expired()]}

        async def ticket(_: Need) -> Ticket | None:
            raise away

        made.supply.ticket = ticket  # type: ignore[assignment, method-assign]  # a script
        proof = made.do(work)

    assert proof == LITTLE._replace(note="the companion URL could not look at the object")


@pytest.mark.parametrize("stop", [Cancelled, lambda: LeaseLost("part 1")])
def test_who_is_stopped_while_a_companion_is_renewed_is_stopped(
    tmp_path: Path, stop: Callable[[], CloudPushError]
) -> None:
    with bench(tmp_path, DATA, HEAD, lambda _: EQUAL) as made:
        made.script.trouble = {"HEAD X-Amz-SignedHeaders=host": [expired()]}

        async def ticket(_: Need) -> Ticket | None:
            raise stop()

        made.supply.ticket = ticket  # type: ignore[assignment, method-assign]  # a script
        with pytest.raises((Cancelled, LeaseLost)):
            made.do(look.before)


def pieces_of(data: bytes, *sizes: int) -> list[Piece]:
    found, offset = [], 0
    for number, size in enumerate(sizes, 1):
        md5 = hashlib.md5(data[offset : offset + size]).digest()
        found.append(Piece(1, number, offset, size, md5.hex(), md5, 0, "U", Strength.CHECKSUM))
        offset += size
    return found


@pytest.mark.parametrize(
    ("pieces", "stored", "there"),
    [
        (pieces_of(DATA, 4, 6), pieces_of(DATA, 4, 6), True),
        (pieces_of(DATA, 4), pieces_of(DATA, 4), False),  # no more of it arrived
        (pieces_of(DATA, 4, 6), pieces_of(DATA, 5, 5), False),
        (pieces_of(b"9876543210", 4, 6), pieces_of(b"9876543210", 4, 6), False),  # the file has changed since
        (pieces_of(DATA, 4, 6)[::-1], pieces_of(DATA, 4, 6)[::-1], False),
    ],
)
def test_an_upload_that_was_completed_by_a_worker_which_was_killed_is_there(
    tmp_path: Path, pieces: list[Piece], stored: list[Piece], there: bool
) -> None:
    """Its ETag is that of the pieces that it left, and they are the file's bytes."""
    etag = composite_etag([piece.md5 for piece in stored])
    answer = reply(Content_Length="10", ETag=f'"{etag}"')
    with bench(tmp_path, DATA, HEAD, lambda _: answer, pieces=pieces, overwrite=NEVER) as made:
        if there:
            assert made.do(look.before) == replace(SKIPPED, expected=etag, etag=etag)
            return
        with pytest.raises(CloudPushError) as failed:
            made.do(look.before)

    assert (failed.value.code, "may be our own" in failed.value.message) == (Code.OBJECT_EXISTS, True)
