"""What an answer to an upload proves: pure comparison of the provider's digests with ours.

Three kinds of digest come back, and they are not worth the same:

::

    computed   x-amz-checksum-*, x-goog-hash, Azure's Content-MD5 and x-ms-content-crc64: the provider says
               that it digested these bytes. Equal is CHECKSUM, different is CORRUPTED.
    echoed     an x-amz-checksum-* that we sent ourselves: some stores repeat it without looking at the bytes, so it
               counts as INGEST, except on AWS, which documents that it checks.
    ETag       a digest by custom only. Equal is CHECKSUM (nobody guesses an MD5); different is CORRUPTED only where
               no computed digest was compared and nothing says that the ETag is opaque.

What the client stored as metadata proves nothing and is not read: after Put Block List, Azure's ``Content-MD5`` is what
the client claimed (run on Azurite: sixteen zero bytes came back).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cloudpush.errors import Code, DestinationError
from cloudpush.push.signed.model import Provider, SignedUrl
from cloudpush.push.states import Strength

_MD5 = re.compile(r"[0-9a-f]{32}")
_COMPOSITE = re.compile(r"[0-9a-f]{32}-(?P<parts>[1-9][0-9]{0,4})")
#: Encryption under which an ETag is no MD5, although it may look like one (botocore's service model, PutObject).
_KMS = frozenset({"aws:kms", "aws:kms:dsse"})
_AMZ = "x-amz-checksum-"


@dataclass(frozen=True, slots=True)
class Digests:
    """Of a file's or a piece's bytes, as they were sent; None: not taken. ``crc64`` is CRC-64/NVME."""

    size: int
    sha256: bytes | None = None
    md5: bytes | None = None
    crc64: int | None = None
    crc32c: int | None = None


class Proof(NamedTuple):
    """What an answer proves. ``expected``: the digest it was compared with, as the provider writes it."""

    strength: Strength
    expected: str = ""
    etag: str = ""
    version_id: str = ""
    note: str = ""


def base64_be(value: int, size: int) -> str:
    """A CRC as S3 and GCS write it: its bytes, highest first, in base64."""
    return base64.b64encode(value.to_bytes(size, "big")).decode()


def azure_crc64(value: int) -> str:
    """A CRC-64 as ``x-ms-content-crc64`` has it: the same CRC as S3's CRC64NVME, but lowest byte first.

    Polynomial: equal results from Azure's own azure-storage-extensions 0.1.0 (run). Order of bytes: azure-storage-blob
    12.31.1, ``_shared/validation.py`` (read). That the service answers with it is from memory: Azurite does not.
    """
    return base64.b64encode(value.to_bytes(8, "little")).decode()


def md5_base64(md5: bytes) -> str:
    """An MD5 as ``Content-MD5`` and ``x-goog-hash`` have it."""
    return base64.b64encode(md5).decode()


def composite_etag(md5s: Sequence[bytes]) -> str:
    """S3's ETag of an object made of parts: ``md5(md5s)-N``. Run on SeaweedFS."""
    return f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"


def put_proof(
    url: SignedUrl, digests: Digests, answer: Mapping[str, str], sent: Mapping[str, str] | None = None
) -> Proof:
    """What a 2xx answer proves about the whole content that was just sent to ``url`` in one request.

    Also of the last answer of a resumable upload. ``answer``: its headers, in any case, repeated ones included;
    ``sent``: the headers that the request carried. Raises DestinationError CORRUPTED where a digest differs.
    """
    headers, mine = _lower(answer), _lower(sent or {})
    match url.provider:
        case Provider.S3:
            proof = _s3(url, digests, headers, mine)
        case Provider.GCS:
            proof = _gcs(digests, headers, mine)
        case Provider.AZURE:
            proof = _azure(digests, headers, mine)
    return proof


def needs_md5(url: SignedUrl, answer: Mapping[str, str]) -> bool:
    """Whether only an MD5 can tell what ``answer`` proves, so that one is worth another pass over the file."""
    headers = _lower(answer)
    if url.provider is not Provider.S3:
        return url.provider is Provider.AZURE and "content-md5" in headers
    if any(headers.get(_AMZ + name) and not _is_composite(headers, name) for name in ("crc64nvme", "sha256")):
        return False
    return _MD5.fullmatch(etag_of(headers)) is not None and not _is_opaque(url, headers)


def piece_proof(
    url: SignedUrl, digests: Digests, answer: Mapping[str, str], sent: Mapping[str, str] | None = None
) -> Proof:
    """What the answer to one part or block proves about its bytes. Raises DestinationError CORRUPTED.

    A part's ETag is the MD5 of its bytes, unless encryption makes it opaque. Azure's Put Block answers with the MD5 or
    the CRC-64 that it computed, Azurite with neither; a block that was taken together with our Content-MD5 is INGEST,
    whatever the answer says: the list of blocks is refused where the block itself did not get as far as Azure.
    """
    proof = put_proof(url, digests, answer, sent)
    if url.provider is Provider.AZURE and (proof.strength > Strength.INGEST or "content-md5" in _lower(sent or {})):
        return proof._replace(strength=Strength.INGEST)
    return proof


def multipart_proof(
    url: SignedUrl,
    digests: Digests,
    md5s: Sequence[bytes],
    weakest: Strength,
    answer: Mapping[str, str],
    result: Mapping[str, str] | None = None,
) -> Proof:
    """What the answer that completes a multipart upload proves.

    ``md5s``: of the parts in order; ``weakest``: the least that the answer to any part proved; ``answer``: its headers;
    ``result``: elements of its body, named as headers are (``etag``, ``x-amz-checksum-crc64nvme``).
    Each part's own answer proves its bytes before the object exists, which is INGEST for the whole.
    Raises DestinationError CORRUPTED.
    """
    headers = _lower(answer) | _lower(result or {})
    etag, version = etag_of(headers), _version(headers)
    computed = _first_equal(_s3_checks(digests, headers) + _gcs_checks(digests, headers), etag, version)
    if computed is not None:
        return computed
    ours = composite_etag(md5s)
    if etag == ours:
        return Proof(Strength.CHECKSUM, ours, etag, version)
    all_parts = min(weakest, Strength.INGEST)
    comparable = _COMPOSITE.fullmatch(etag) and not _is_opaque(url, headers) and url.provider is Provider.S3
    if comparable and (all_parts < Strength.INGEST or url.flavour in _COMPOSITE_FLAVOURS):
        raise _corrupted("ETag", ours, etag)
    note = "the answer that completed the upload holds no digest that can be compared"
    if all_parts == Strength.INGEST:
        note = f"each part was proved by its own answer; {note}"
    return Proof(all_parts, ours, etag, version, note)


#: Stores known to build the ETag of a multipart upload as S3 does. Some of the others have a rule of their own, so there a
#: different one is no sign of damage where each part was proved.
_COMPOSITE_FLAVOURS = frozenset({"aws", "r2", "b2", "wasabi", "spaces"})


def blocks_proof(weakest: Strength, answer: Mapping[str, str]) -> Proof:
    """What Azure's answer to Put Block List proves: its ``Content-MD5`` is that of the list, so no more than the blocks.

    ``weakest``: the least that the answer to any block proved.
    """
    headers = _lower(answer)
    etag = etag_of(headers)
    # Azure names what it has committed. A bare 2xx may be anybody's.
    strength, note = Strength.INGEST, "Azure computes no digest of a blob that is made of blocks"
    if not etag:
        strength, note = Strength.RESPONSE, "the answer to the list of blocks does not name the blob"
    return Proof(min(weakest, strength), etag=etag, version_id=_version(headers), note=note)


def object_proof(
    url: SignedUrl, digests: Digests, size: int | None, answer: Mapping[str, str], md5s: Sequence[bytes] = ()
) -> Proof | None:
    """What a HEAD or GET of the object proves about it; None where it is another one. Pure; raises nothing.

    ``size``: what the answer says of the object's length. ``md5s``: of the parts, where it was sent in parts.
    Azure: never more than SIZE, its Content-MD5 may be what a client claimed.
    """
    headers = _lower(answer)
    etag, version = etag_of(headers), _version(headers)
    if size is not None and size != digests.size:
        return None
    by_size = Proof(Strength.SIZE if size is not None else Strength.RESPONSE, str(digests.size), etag, version)
    if url.provider is Provider.AZURE:
        return by_size
    try:
        computed = _first_equal(_s3_checks(digests, headers) + _gcs_checks(digests, headers), etag, version)
        proof = computed or _by_etag(url, digests, headers)
    except DestinationError:
        return None
    if proof is not None:
        return proof
    if md5s and etag == composite_etag(md5s):
        return Proof(Strength.CHECKSUM, etag, etag, version)
    return by_size


def best(first: Proof, second: Proof) -> Proof:
    """The one that proves more; the first of equals. What either knows of the object is kept."""
    winner, other = (first, second) if first.strength >= second.strength else (second, first)
    return winner._replace(
        etag=winner.etag or other.etag,
        version_id=winner.version_id or other.version_id,
        note="" if winner.strength >= Strength.CHECKSUM else winner.note or other.note,
    )


def etag_of(answer: Mapping[str, str]) -> str:
    """The ETag without quotes; an MD5 in lower case, anything else as it came."""
    raw = answer.get("etag") or answer.get("ETag") or ""
    text = raw.strip().removeprefix("W/").strip('"')
    lowered = text.lower()
    return lowered if _MD5.match(lowered) else text


# -- one provider each ---------------------------------------------------------------------

Headers = Mapping[str, str]


class _Check(NamedTuple):
    """A digest in the answer beside our own of the same bytes, both as the provider writes them."""

    name: str
    ours: str
    theirs: str


def _s3(url: SignedUrl, digests: Digests, headers: Headers, sent: Headers) -> Proof:
    etag, version = etag_of(headers), _version(headers)
    checks = _s3_checks(digests, headers) + (_gcs_checks(digests, headers) if url.flavour == "gcs" else [])
    _demand_equal(checks)
    computed = [c for c in checks if c.name not in sent or url.flavour == "aws"]
    if computed:
        return Proof(Strength.CHECKSUM, computed[0].ours, etag, version)
    by_etag = _by_etag(url, digests, headers)
    if by_etag is not None:
        return by_etag
    if checks:
        return Proof(
            Strength.INGEST, checks[0].ours, etag, version, "the answer repeats a digest that was sent with it"
        )
    return _without_digest(etag, version, sent, ("content-md5",))


def _gcs(digests: Digests, headers: Headers, sent: Headers) -> Proof:
    """``x-goog-hash`` has the CRC-32C of every object and the MD5 of most (cloud.google.com, hashes-etags)."""
    etag, version = etag_of(headers), _version(headers)
    stored = headers.get("x-goog-stored-content-length", "")
    if stored and stored != str(digests.size):
        raise _corrupted("x-goog-stored-content-length", str(digests.size), stored)
    computed = _first_equal(_gcs_checks(digests, headers), etag, version)
    if computed is not None:
        return computed
    # Its ETag is an MD5 for some objects only, and nothing says for which: it can confirm but not refute.
    if digests.md5 is not None and etag == digests.md5.hex():
        return Proof(Strength.CHECKSUM, etag, etag, version)
    return _without_digest(etag, version, sent, ("content-md5", "x-goog-hash"))


def _azure(digests: Digests, headers: Headers, sent: Headers) -> Proof:
    """Put Blob answers with the MD5 that it computed (run on Azurite), or with a CRC-64 (from memory)."""
    etag, version = etag_of(headers), _version(headers)
    checks = []
    if digests.md5 is not None and (theirs := headers.get("content-md5", "")):
        checks.append(_Check("content-md5", md5_base64(digests.md5), theirs))
    elif digests.crc64 is not None and (theirs := headers.get("x-ms-content-crc64", "")):
        checks.append(_Check("x-ms-content-crc64", azure_crc64(digests.crc64), theirs))
    computed = _first_equal(checks, etag, version)
    # Put Blob and Put Block answer with the digest that they checked (learn.microsoft.com, Put Blob: response headers).
    # Without one nobody says that the bytes got as far as Azure: something on the way may have answered.
    return computed or _without_digest(etag, version, sent, ())


def _s3_checks(digests: Digests, headers: Headers) -> list[_Check]:
    """Digests of the whole that S3 computed: base64, CRCs highest byte first (run on SeaweedFS; botocore's model)."""
    checks = []
    for name, ours in _ours(digests).items():
        theirs = headers.get(_AMZ + name, "")
        if theirs and not _is_composite(headers, name):
            checks.append(_Check(_AMZ + name, ours(), theirs))
    return checks


def _ours(digests: Digests) -> dict[str, Callable[[], str]]:
    known: dict[str, Callable[[], str]] = {}
    if (crc64 := digests.crc64) is not None:
        known["crc64nvme"] = lambda: base64_be(crc64, 8)
    if (sha256 := digests.sha256) is not None:
        known["sha256"] = lambda: base64.b64encode(sha256).decode()
    if (crc32c := digests.crc32c) is not None:
        known["crc32c"] = lambda: base64_be(crc32c, 4)
    if (md5 := digests.md5) is not None:
        known["md5"] = lambda: md5_base64(md5)
    return known


def _is_composite(headers: Headers, name: str) -> bool:
    """Whether a checksum is one of the parts' checksums, not of the bytes: it ends in ``-N``, or its type says so."""
    return headers.get(_AMZ + "type", "").upper() == "COMPOSITE" or "-" in headers.get(_AMZ + name, "")


def _gcs_checks(digests: Digests, headers: Headers) -> list[_Check]:
    checks = []
    for item in headers.get("x-goog-hash", "").split(","):
        name, _, theirs = item.strip().partition("=")
        if name == "crc32c" and digests.crc32c is not None:
            checks.append(_Check("x-goog-hash crc32c", base64_be(digests.crc32c, 4), theirs))
        elif name == "md5" and digests.md5 is not None:
            checks.append(_Check("x-goog-hash md5", md5_base64(digests.md5), theirs))
    return checks


def _by_etag(url: SignedUrl, digests: Digests, headers: Headers) -> Proof | None:
    """What the ETag proves of content that was sent in one request; None where it is no digest of it."""
    etag = etag_of(headers)
    if digests.md5 is None or not _MD5.fullmatch(etag):
        return None
    ours = digests.md5.hex()
    if etag == ours:
        return Proof(Strength.CHECKSUM, ours, etag, _version(headers))
    if _is_opaque(url, headers) or url.provider is not Provider.S3 or url.flavour == "gcs":
        return None
    raise _corrupted("ETag", ours, etag)


def _is_opaque(url: SignedUrl, headers: Headers) -> bool:
    """Whether the ETag may look like an MD5 and be none: keys of KMS or the customer, and S3's directory buckets."""
    return (
        headers.get("x-amz-server-side-encryption", "") in _KMS
        or "x-amz-server-side-encryption-customer-algorithm" in headers
        or ".s3express-" in url.origin.host
    )


# -- what all share ------------------------------------------------------------------------


def _first_equal(checks: Sequence[_Check], etag: str, version: str) -> Proof | None:
    """CHECKSUM by the first of ``checks``, None where there are none; raises CORRUPTED where any differs."""
    _demand_equal(checks)
    return Proof(Strength.CHECKSUM, checks[0].ours, etag, version) if checks else None


def _demand_equal(checks: Sequence[_Check]) -> None:
    for check in checks:
        if check.ours != check.theirs:
            raise _corrupted(check.name, check.ours, check.theirs)


def _without_digest(etag: str, version: str, sent: Headers, integrity: Sequence[str]) -> Proof:
    """What a 2xx without a comparable digest proves: that the provider checked ours, where one went with the request."""
    for name in integrity if etag else ():  # who has stored something names it
        if name in sent:
            note = f"the provider took the content together with our {name}, and answered with no digest of its own"
            return Proof(Strength.INGEST, sent[name], etag, version, note)
    return Proof(
        Strength.RESPONSE, etag=etag, version_id=version, note="the answer holds no digest that can be compared"
    )


def _corrupted(name: str, ours: str, theirs: str) -> DestinationError:
    return DestinationError(
        Code.CORRUPTED,
        f"The provider stored other bytes than were sent: its {name} differs from ours.",
        detail=f"{name}: ours {ours}, the provider's {theirs[:128]!r}",
    )


def _version(headers: Headers) -> str:
    return headers.get("x-amz-version-id") or headers.get("x-goog-generation") or headers.get("x-ms-version-id") or ""


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    """By lower-case name; a header that came more than once, as x-goog-hash does, joined by commas."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        joined[key] = f"{joined[key]},{value}" if key in joined else value
    return joined
