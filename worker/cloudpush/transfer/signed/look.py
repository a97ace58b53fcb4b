"""What is stored under the key: before sending, where nothing may be overwritten in vain; after it, as a further proof.

Only a companion URL can tell: S3 signs the method, so an upload URL cannot look. Azure's signatures do not, so one with
the right to read looks by itself; GCS lets a URL that was signed for GET be used for HEAD.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloudpush.errors import Cancelled, CloudPushError, Code, DestinationError, LeaseLost
from cloudpush.net import Answer
from cloudpush.push.signed.model import Arrival, Provider, SignedUrl, Ticket
from cloudpush.push.signed.proof import Digests, Proof, best, object_proof, sent_with
from cloudpush.push.states import Overwrite, Strength
from cloudpush.transfer.signed.job import Job
from cloudpush.transfer.signed.request import Request, object_url
from cloudpush.transfer.signed.source import Take

#: Answers that say something: there, a part of it, not there, or not for us (S3 says so of what is absent, too), empty.
_ACCEPTED = frozenset({206, 403, 404, 416})
_RANGE = re.compile(r"bytes (?:\*|\d+-\d+)/(?P<size>\d{1,19})")
_NUMBER = re.compile(r"\d{1,19}")
_CHECKSUM_MODE = "x-amz-checksum-mode"
#: Said of an object that nobody can tell to be another.
_OWN = "It may be our own, of an earlier request whose answer was lost: no digest tells."
#: Signed headers with which the upload itself fails where there is an object already.
_GUARDS = {"if-none-match": "*", "x-goog-if-generation-match": "0"}


@dataclass(frozen=True, slots=True)
class Sight:
    """What a look saw. ``exists`` None: it may not tell, or there is nothing to look with."""

    exists: bool | None
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


BLIND = Sight(None)


def can_look(ticket: Ticket) -> bool:
    """Whether the ticket has a companion, or serves as its own."""
    return ticket.verify is not None or _reads_itself(ticket)


async def look(job: Job) -> Sight:
    """What is stored under the key now. Raises as ``Job.ask`` does."""
    if not can_look(await job.current()):
        return BLIND
    answer = await job.ask(lambda ticket: _request(job, ticket))
    match answer.status:
        case 404:
            return Sight(exists=False)
        case 403:
            return BLIND
        case 416:  # no first byte: it is empty
            return Sight(exists=True, size=0, headers=answer.headers)
    return Sight(exists=True, size=_size(answer), headers=answer.headers)


async def before(job: Job) -> Arrival | None:
    """What the push's overwrite rule makes of an object that is there already: skipped, or None to send the file.

    Raises DestinationError: OBJECT_EXISTS (never, and it is not proved equal), URL_UNUSABLE (never, and there is no way
    to know); SourceError where the file cannot be read.
    """
    if job.overwrite is Overwrite.ALWAYS:
        return None
    never = job.overwrite is Overwrite.NEVER
    if not never and (await _seen_by(job)).provider is Provider.AZURE:
        return None  # no look at a blob proves it equal, so it is sent whatever is there
    sight, own = await _glance(job) if not never else await look(job), ""
    if sight.exists is False:
        return None
    if sight.exists and sight.size == job.file.size:
        digests = await job.source.digests()
        proof = await _proof(job, digests, sight)
        if proof is not None and proof.strength < Strength.CHECKSUM:
            proof = await _of_pieces(job, digests, sight) or proof
        if proof is not None and proof.strength >= Strength.CHECKSUM:
            return arrival_of(digests, proof, skipped=True)
        own = f" {_OWN}" if proof is not None else ""
    if sight.exists and never:
        raise DestinationError(
            Code.OBJECT_EXISTS,
            f"{job.file.key!r} is there already and not proved equal; overwrite=never keeps it.{own}",
        )
    if never and not _is_guarded(await job.current()):
        raise DestinationError(
            Code.URL_UNUSABLE,
            f"overwrite=never needs to know whether {job.file.key!r} exists: hand over a head_url or get_url that may tell, "
            f"or sign the upload with if-none-match: *.",
        )
    return None


async def mine(job: Job, refused: DestinationError) -> Arrival:
    """The arrival of a file whose upload was refused because there is an object, where that has the file's bytes.

    It may be our own: of a request whose answer was lost, or of a worker that was killed before it could say so.
    Raises ``refused`` otherwise, and says so of an object that nobody can tell to be another.
    """
    sight = await _glance(job)
    another = sight.exists is False
    if sight.exists:
        digests = await job.source.digests()
        proof = await _proof(job, digests, sight, job.md5s)
        if proof is not None and proof.strength >= Strength.CHECKSUM:
            return arrival_of(digests, proof, sent=job.sent, skipped=True)
        another = proof is None
    if another or refused.code is not Code.OBJECT_EXISTS:
        raise refused
    raise DestinationError(refused.code, f"{refused.message} {_OWN}", detail=refused.detail) from refused


async def _of_pieces(job: Job, digests: Digests, sight: Sight) -> Proof | None:
    """The proof of an object that was made of the pieces which an earlier attempt sent; None where it was not."""
    pieces = job.pieces
    if not pieces or sum(piece.size for piece in pieces) != job.file.size:
        return None
    proof = await _proof(job, digests, sight, [piece.md5 for piece in pieces])
    if proof is None or proof.strength < Strength.CHECKSUM:
        return None
    offset = 0
    for piece in pieces:  # they were the file's bytes when they were sent: are they still?
        now = await job.source.digests(offset, piece.size, Take.MD5)
        if piece.offset != offset or now.md5 != piece.md5:
            return None
        offset += piece.size
    return proof


async def after(job: Job, proof: Proof, digests: Digests, md5s: Sequence[bytes] = ()) -> Proof:
    """The better of ``proof`` (of the upload's own answer) and what a look at the object proves.

    An Azure URL that can look by itself does so only where the upload's answer proved less than a digest: it cannot prove
    more. Raises DestinationError: OBJECT_MISSING, CORRUPTED (another content is there), CONFLICT (another object is).
    """
    ticket = job.ticket
    if ticket is None or not can_look(ticket):
        return proof
    if ticket.verify is None and proof.strength >= Strength.CHECKSUM:
        return proof
    sight = await _glance(job)
    if sight.exists is False:
        raise DestinationError(
            Code.OBJECT_MISSING, f"The provider accepted {job.file.key!r}, but the companion URL finds nothing there."
        )
    if not sight.exists:
        return proof._replace(note=proof.note or "the companion URL could not look at the object")
    seen = await _proof(job, digests, sight, md5s)
    if seen is None:
        raise DestinationError(Code.CORRUPTED, f"What is stored under {job.file.key!r} is not what was sent.")
    if seen.strength < Strength.CHECKSUM and proof.etag and seen.etag and proof.etag != seen.etag:
        raise DestinationError(
            Code.CONFLICT, f"Another object than the one that was sent is stored under {job.file.key!r} by now."
        )
    return best(proof, seen)


async def arrival(job: Job, proof: Proof, digests: Digests, md5s: Sequence[bytes] = ()) -> Arrival:
    """The file's arrival, with the better of ``proof`` and what a look proves. Raises as ``after`` does."""
    return arrival_of(digests, await after(job, proof, digests, md5s), sent=job.sent)


def arrival_of(digests: Digests, proof: Proof, *, sent: int = 0, skipped: bool = False) -> Arrival:
    """``proof`` as the arrival of the file that ``digests`` are of."""
    return Arrival(
        sha256=digests.sha256 or b"",
        strength=proof.strength,
        expected=proof.expected,
        etag=proof.etag,
        version_id=proof.version_id,
        sent=sent,
        skipped=skipped,
        note=proof.note,
    )


async def _glance(job: Job) -> Sight:
    """As ``look``; BLIND where that fails, or a fresh companion: what the upload proved does not become less by it."""
    try:
        return await look(job)
    except (Cancelled, LeaseLost):
        raise
    except CloudPushError:
        return BLIND


async def _proof(job: Job, digests: Digests, sight: Sight, md5s: Sequence[bytes] = ()) -> Proof | None:
    """What was seen proves; None of another object."""
    sent = sent_with(await job.current())
    return object_proof(await _seen_by(job), digests, sight.size, sight.headers, md5s, sent)


async def _seen_by(job: Job) -> SignedUrl:
    ticket = await job.current()
    return ticket.verify or ticket.url


def _reads_itself(ticket: Ticket) -> bool:
    return ticket.url.provider is Provider.AZURE and "r" in ticket.url.permissions


def _is_guarded(ticket: Ticket) -> bool:
    """Whether the upload itself fails where there is an object: Azure's is sent so, others must be signed so."""
    given = {name.lower(): value for name, value in ticket.headers.items()}
    signed = ticket.url.signed_headers
    return ticket.url.provider is Provider.AZURE or any(
        name in signed and given.get(name) == value for name, value in _GUARDS.items()
    )


def _request(job: Job, ticket: Ticket) -> Request:
    verify = ticket.verify
    if verify is None:
        return Request("HEAD", object_url(ticket, job.file.key), accepts=_ACCEPTED, expires_at=ticket.url.expires_at)
    # S3 gives its checksums only to who asks, and lets only those ask whose URL was signed so.
    headers = {_CHECKSUM_MODE: "ENABLED"} if _CHECKSUM_MODE in verify.signed_headers else {}
    if ticket.verify_method == "GET" and verify.provider is Provider.S3:
        headers["Range"] = "bytes=0-0"
        return Request("GET", verify.text, headers, accepts=_ACCEPTED, expires_at=verify.expires_at)
    return Request("HEAD", verify.text, headers, accepts=_ACCEPTED, expires_at=verify.expires_at)


def _size(answer: Answer) -> int | None:
    """Of the object, not of the answer: GCS' own word for it, the total of a range, or what a whole one is long."""
    told = answer.headers.get("x-goog-stored-content-length", "")
    if not told and (answer.status == 206 or "Content-Range" in answer.headers):
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        told = found["size"] if found else ""
    elif not told:
        told = answer.headers.get("Content-Length", "")
    return int(told) if _NUMBER.fullmatch(told) else None
