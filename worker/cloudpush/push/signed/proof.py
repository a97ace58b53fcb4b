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

All of this takes the provider at its word, so it holds where the host is known to be the provider's (``vouched``). Any
other host may have read the head of a request and nothing more. There, a digest that the request named anywhere, under
whatever name, counts as INGEST where it comes back and as nothing where it does not; one that the request did not name
is CHECKSUM as ever: only who has the bytes can know it.

Nothing here believes that a server keeps what it was told to itself: whatever of an answer is kept or shown has the form of
what it is called, is short, and holds nothing of the request.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

from cloudpush.errors import Code, DestinationError
from cloudpush.push.signed.model import Provider, SignedUrl, Ticket
from cloudpush.push.states import Strength

_MD5 = re.compile(r"[0-9a-f]{32}")
_COMPOSITE = re.compile(r"[0-9a-f]{32}-(?P<parts>[1-9][0-9]{0,4})")
#: Encryption under which an ETag is no MD5, although it may look like one (botocore's service model, PutObject).
_KMS = frozenset({"aws:kms", "aws:kms:dsse"})
_AMZ = "x-amz-checksum-"
#: In ``sent``: the URL of the request itself, where it is another one than ``url`` says: of a part, or below a tree.
URL = ":url"
#: A value of a request that is longer is worth something to who reads it: never kept or shown. Characters.
_HARMLESS = 7
_NAME = re.compile(r"[!-~]{1,256}")
_SHOWN = re.compile(r"[A-Za-z0-9+/=_-]{1,64}")
#: Digests by the names of the headers, fields and parameters that carry them; ``DIGESTS``: all of them.
DIGESTS = frozenset({"md5", "sha256", "crc32c", "crc64"})
_CARRIERS = {
    "content-md5": {"md5"},
    "x-ms-blob-content-md5": {"md5"},
    "x-ms-content-crc64": {"crc64"},
    "x-goog-hash": {"crc32c", "md5"},
    f"{_AMZ}md5": {"md5"},
    f"{_AMZ}sha256": {"sha256"},
    f"{_AMZ}crc32c": {"crc32c"},
    f"{_AMZ}crc64nvme": {"crc64"},
}


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
    ``sent``: the headers, and fields, that the request carried, and :data:`URL`; None: not known, so that on a host
    that is not vouched for it may have named every digest. Raises DestinationError CORRUPTED where a digest differs.
    """
    exchange = _Exchange.of(url, digests, answer, sent)
    match url.provider:
        case Provider.S3:
            proof = _s3(exchange)
        case Provider.GCS:
            proof = _gcs(exchange)
        case Provider.AZURE:
            proof = _azure(exchange)
    return proof


def sent_with(ticket: Ticket) -> dict[str, str]:
    """What uploads with ``ticket`` carry, as ``sent``: for who looks at an object without having sent it just now."""
    signed = set(ticket.url.signed_headers)
    for part in ticket.parts[:1]:  # all of them sign alike
        for pair in part.partition("?")[2].split("&"):
            name, _, value = pair.partition("=")
            if name.lower() in {"x-amz-signedheaders", "x-goog-signedheaders"}:
                signed |= {*unquote(value).lower().split(";")}
    # What is computed and sent because it is signed has no value here: its name is enough.
    return dict.fromkeys(signed, "") | {**_lower(ticket.fields), **_lower(ticket.headers), URL: ticket.url.text}


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
    """What the answer to one part or block proves about its bytes; ``sent`` as above. Raises DestinationError CORRUPTED.

    A part's ETag is the MD5 of its bytes, unless encryption makes it opaque. Azure's Put Block answers with the MD5 or
    the CRC-64 that it computed, Azurite with neither; a block that was taken together with our Content-MD5 is INGEST,
    whatever the answer says: the list of blocks is refused where the block itself did not get as far as Azure. On a host
    that is not vouched for, a part whose request named any digest is INGEST at most: the digest of the whole may be
    made of those of the parts.
    """
    proof = put_proof(url, digests, answer, sent)
    if url.provider is Provider.AZURE:
        taken = url.vouched and "content-md5" in _lower(sent or {})
        return proof._replace(strength=Strength.INGEST) if taken else _at_most_ingest(proof)
    if _told(url, digests, sent):
        return _at_most_ingest(proof)
    return proof


def multipart_proof(
    url: SignedUrl,
    digests: Digests,
    md5s: Sequence[bytes],
    weakest: Strength,
    answer: Mapping[str, str],
    result: Mapping[str, str] | None = None,
    sent: Mapping[str, str] | None = None,
) -> Proof:
    """What the answer that completes a multipart upload proves.

    ``md5s``: of the parts in order; ``weakest``: the least that the answer to any part proved; ``answer``: its headers;
    ``result``: elements of its body, named as headers are (``etag``, ``x-amz-checksum-crc64nvme``); ``sent``: with the
    request that completes, as above. Each part's own answer proves its bytes before the object exists, which is INGEST
    for the whole. Where the host is not vouched for, the whole is CHECKSUM only if each part was: otherwise its digest may
    be made of those that the parts' requests named. Raises DestinationError CORRUPTED.
    """
    exchange = _Exchange.of(url, digests, _lower(answer) | _lower(result or {}), sent)
    if not url.vouched and weakest < Strength.CHECKSUM:
        exchange = exchange._replace(told=DIGESTS)
    headers, etag = exchange.headers, exchange.etag
    computed = exchange.compare(_s3_checks(exchange) + _gcs_checks(exchange))
    if computed is not None and computed.strength is Strength.CHECKSUM:
        return computed
    ours = composite_etag(md5s)
    if etag == ours:
        # Made of MD5s, of which each part's answer has told whether its request named it.
        return exchange.equal(ours, told=not url.vouched and weakest < Strength.CHECKSUM)
    if computed is not None:
        return computed
    all_parts = min(weakest, Strength.INGEST)
    comparable = _COMPOSITE.fullmatch(etag) and not _is_opaque(url, headers) and url.provider is Provider.S3
    if comparable and (all_parts < Strength.INGEST or (url.vouched and url.flavour in _COMPOSITE_FLAVOURS)):
        raise exchange.corrupted("ETag", ours, etag)
    note = "the answer that completed the upload holds no digest that can be compared"
    if all_parts == Strength.INGEST:
        note = f"each part was proved by its own answer; {note}"
    return Proof(all_parts, ours, etag, exchange.version, note)


#: Stores known to build the ETag of a multipart upload as S3 does. Some of the others have a rule of their own, so there a
#: different one is no sign of damage where each part was proved.
_COMPOSITE_FLAVOURS = frozenset({"aws", "r2", "b2", "wasabi", "spaces"})


def blocks_proof(
    url: SignedUrl, weakest: Strength, answer: Mapping[str, str], sent: Mapping[str, str] | None = None
) -> Proof:
    """What Azure's answer to Put Block List proves: its ``Content-MD5`` is that of the list, so no more than the blocks.

    ``weakest``: the least that the answer to any block proved; ``sent``: with the list, as above.
    """
    exchange = _Exchange.of(url, Digests(0), answer, sent)
    # Azure names what it has committed. A bare 2xx may be anybody's.
    strength, note = Strength.INGEST, "Azure computes no digest of a blob that is made of blocks"
    if not exchange.etag:
        strength, note = Strength.RESPONSE, "the answer to the list of blocks does not name the blob"
    return Proof(min(weakest, strength), etag=exchange.etag, version_id=exchange.version, note=note)


def object_proof(
    url: SignedUrl,
    digests: Digests,
    size: int | None,
    answer: Mapping[str, str],
    md5s: Sequence[bytes] = (),
    sent: Mapping[str, str] | None = None,
) -> Proof | None:
    """What a HEAD or GET of the object proves about it; None where it is another one. Pure; raises nothing.

    ``size``: what the answer says of the object's length. ``md5s``: of the parts, where it was sent in parts. ``sent``: what
    uploads of it carried, see :func:`sent_with`; None: not known. A header that was stored with the object and comes back
    proves no more here than in the upload's own answer. Azure: never more than SIZE, its Content-MD5 may be what a
    client claimed.
    """
    exchange = _Exchange.of(url, digests, answer, sent)
    if size is not None and size != digests.size:
        return None
    strength = Strength.SIZE if size is not None else Strength.RESPONSE
    by_size = Proof(strength, str(digests.size), exchange.etag, exchange.version)
    if url.provider is Provider.AZURE:
        return by_size
    try:
        proof = _strongest(exchange, _s3_checks(exchange) + _gcs_checks(exchange))
    except DestinationError:
        return None
    if md5s and (proof is None or proof.strength < Strength.CHECKSUM) and exchange.etag == composite_etag(md5s):
        return exchange.equal(exchange.etag, told="md5" in exchange.told)
    return proof or by_size


def best(first: Proof, second: Proof) -> Proof:
    """The one that proves more; the first of equals. What either knows of the object is kept."""
    winner, other = (first, second) if first.strength >= second.strength else (second, first)
    return winner._replace(
        etag=winner.etag or other.etag,
        version_id=winner.version_id or other.version_id,
        note="" if winner.strength >= Strength.CHECKSUM else winner.note or other.note,
    )


def etag_of(answer: Mapping[str, str], secrets: Collection[str] = ()) -> str:
    """The ETag without quotes; an MD5 in lower case, anything else as it came; empty as ``clean_name`` says."""
    text = clean_name(answer.get("etag") or answer.get("ETag") or "", secrets).removeprefix("W/").strip('"')
    lowered = text.lower()
    return lowered if _MD5.match(lowered) else text


def clean_name(text: str, secrets: Collection[str]) -> str:
    """An ETag or version as it came; empty where it is none, or holds one of ``secrets``, or is a piece of one.

    It is stored and shown, so it must not be what a server repeats of the request.
    """
    text = text.strip()
    if not _NAME.fullmatch(text):
        return ""
    return "" if _repeats(text, secrets) else text


def secrets_of(url: str, sent: Mapping[str, str]) -> frozenset[str]:
    """What a request must not have repeated: each longer value of its query, headers and fields, as written and decoded.

    ``sent``: its headers and fields, and :data:`URL`.
    """
    values = set()
    for text in {url, sent.get(URL, "")}:
        for pair in text.partition("?")[2].split("&"):
            value = pair.partition("=")[2]
            values |= {value, unquote(value)}
    values.update(value for name, value in sent.items() if name != URL)
    return frozenset(value for value in values if len(value) > _HARMLESS)


def _repeats(text: str, secrets: Collection[str]) -> bool:
    inner = text.removeprefix("W/").strip('"=')
    return any(secret in text or (len(inner) > _HARMLESS and inner in secret) for secret in secrets)


def _told(url: SignedUrl, digests: Digests, sent: Mapping[str, str] | None) -> frozenset[str]:
    """Digests that whoever has read the head of the request knows; none where the provider is who it says it is."""
    if url.vouched:
        return frozenset()
    if sent is None:
        return DIGESTS
    known = _lower(sent)
    told = {digest for name in known for digest in _CARRIERS.get(name, ())}
    texts = [unquote(text) for text in (url.text, *known.values())]
    lowered = [text.lower() for text in texts]
    for name, raw in _raw(digests):
        written = {base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")}
        if any(form in text for form in written for text in texts) or any(raw.hex() in text for text in lowered):
            told.add(name)
    return frozenset(told)


def _raw(digests: Digests) -> Iterator[tuple[str, bytes]]:
    """Each digest that was taken, in both orders of bytes where there are two."""
    if digests.md5 is not None:
        yield "md5", digests.md5
    if digests.sha256 is not None:
        yield "sha256", digests.sha256
    if digests.crc32c is not None:
        yield "crc32c", digests.crc32c.to_bytes(4, "big")
    if digests.crc64 is not None:
        yield "crc64", digests.crc64.to_bytes(8, "big")
        yield "crc64", digests.crc64.to_bytes(8, "little")


# -- one provider each ---------------------------------------------------------------------

Headers = Mapping[str, str]


class _Check(NamedTuple):
    """A digest in the answer beside our own of the same bytes, both as the provider writes them."""

    name: str
    ours: str
    theirs: str
    digest: str


class _Exchange(NamedTuple):
    """A request and its answer. Names of headers in lower case; ``told``: digests that the request named, see _told."""

    url: SignedUrl
    digests: Digests
    headers: Headers
    sent: Headers
    told: frozenset[str]
    secrets: frozenset[str]
    etag: str
    version: str

    @classmethod
    def of(cls, url: SignedUrl, digests: Digests, answer: Headers, sent: Headers | None) -> _Exchange:
        headers, carried = _lower(answer), _lower(sent or {})
        secrets = secrets_of(url.text, carried)
        if digests.md5 is not None:
            secrets -= {digests.md5.hex()}  # a digest that was sent as metadata is no secret, and the ETag may be it
        told = _told(url, digests, sent)
        return cls(url, digests, headers, carried, told, secrets, etag_of(headers, secrets), _version(headers, secrets))

    def compare(self, checks: Sequence[_Check]) -> Proof | None:
        """What ``checks`` prove, None where there are none; raises CORRUPTED where any differs."""
        self.demand_equal(checks)
        best_one = next((check for check in checks if not self.repeats(check)), None)
        if best_one is not None:
            return self.equal(best_one.ours)
        return self.equal(checks[0].ours, told=True) if checks else None

    def demand_equal(self, checks: Sequence[_Check]) -> None:
        for check in checks:
            if check.ours != check.theirs:
                raise self.corrupted(check.name, check.ours, check.theirs)

    def repeats(self, check: _Check) -> bool:
        """Whether the answer may have it from the request."""
        if not self.url.vouched:
            return check.digest in self.told
        # Some stores repeat a checksum without looking at the bytes; AWS documents that it does.
        return self.url.provider is Provider.S3 and self.url.flavour != "aws" and check.name in self.sent

    def equal(self, ours: str, *, told: bool = False) -> Proof:
        if told:
            note = "the answer repeats a digest that was sent with it"
            return Proof(Strength.INGEST, ours, self.etag, self.version, note)
        return Proof(Strength.CHECKSUM, ours, self.etag, self.version)

    def without_digest(self, integrity: Sequence[str]) -> Proof:
        """What a 2xx without a comparable digest proves: that the provider checked ours, where one went with the request."""
        # Who has stored something names it; a host that nobody vouches for may name it unseen.
        for name in integrity if self.etag and self.url.vouched else ():
            if name in self.sent:
                note = f"the provider took the content together with our {name}, and answered with no digest of its own"
                return Proof(Strength.INGEST, self.sent[name], self.etag, self.version, note)
        note = "the answer holds no digest that can be compared"
        return Proof(Strength.RESPONSE, etag=self.etag, version_id=self.version, note=note)

    def corrupted(self, name: str, ours: str, theirs: str) -> DestinationError:
        # It may be anything, so it is shown only where it looks like what it is called.
        alike = len(theirs) == len(ours) or (theirs.isdecimal() and len(theirs) < len(ours) + 20)
        harmless = alike and _SHOWN.fullmatch(theirs) and not _repeats(theirs, self.secrets)
        return DestinationError(
            Code.CORRUPTED,
            f"The provider stored other bytes than were sent: its {name} differs from ours.",
            detail=f"{name}: ours {ours}, the provider's {repr(theirs) if harmless else 'is none'}",
        )


def _s3(exchange: _Exchange) -> Proof:
    checks = _s3_checks(exchange)
    if exchange.url.flavour == "gcs":
        checks += _gcs_checks(exchange)
    return _strongest(exchange, checks) or exchange.without_digest(("content-md5",))


def _gcs(exchange: _Exchange) -> Proof:
    """``x-goog-hash`` has the CRC-32C of every object and the MD5 of most (cloud.google.com, hashes-etags)."""
    size = str(exchange.digests.size)
    stored = exchange.headers.get("x-goog-stored-content-length", "")
    if stored and stored != size:
        raise exchange.corrupted("x-goog-stored-content-length", size, stored)
    # Its ETag is an MD5 for some objects only, and nothing says for which: it can confirm but not refute.
    proof = _strongest(exchange, _gcs_checks(exchange))
    return proof or exchange.without_digest(("content-md5", "x-goog-hash"))


def _azure(exchange: _Exchange) -> Proof:
    """Put Blob answers with the MD5 that it computed (run on Azurite), or with a CRC-64 (from memory)."""
    digests, headers = exchange.digests, exchange.headers
    checks = []
    if digests.md5 is not None and (theirs := headers.get("content-md5", "")):
        checks.append(_Check("content-md5", md5_base64(digests.md5), theirs, "md5"))
    elif digests.crc64 is not None and (theirs := headers.get("x-ms-content-crc64", "")):
        checks.append(_Check("x-ms-content-crc64", azure_crc64(digests.crc64), theirs, "crc64"))
    # Put Blob and Put Block answer with the digest that they checked (learn.microsoft.com, Put Blob: response headers).
    # Without one nobody says that the bytes got as far as Azure: something on the way may have answered.
    return exchange.compare(checks) or exchange.without_digest(())


def _s3_checks(exchange: _Exchange) -> list[_Check]:
    """Digests of the whole that S3 computed: base64, CRCs highest byte first (run on SeaweedFS; botocore's model)."""
    checks = []
    for name, ours in _ours(exchange.digests).items():
        theirs = exchange.headers.get(_AMZ + name, "")
        if theirs and not _is_composite(exchange.headers, name):
            checks.append(_Check(_AMZ + name, ours(), theirs, "crc64" if name == "crc64nvme" else name))
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


def _gcs_checks(exchange: _Exchange) -> list[_Check]:
    digests = exchange.digests
    checks = []
    for item in exchange.headers.get("x-goog-hash", "").split(","):
        name, _, theirs = item.strip().partition("=")
        if name == "crc32c" and digests.crc32c is not None:
            checks.append(_Check("x-goog-hash crc32c", base64_be(digests.crc32c, 4), theirs, name))
        elif name == "md5" and digests.md5 is not None:
            checks.append(_Check("x-goog-hash md5", md5_base64(digests.md5), theirs, name))
    return checks


def _strongest(exchange: _Exchange, checks: Sequence[_Check]) -> Proof | None:
    """What ``checks`` prove, or the ETag, where that is more; None without either. Raises CORRUPTED."""
    computed = exchange.compare(checks)
    if computed is not None and computed.strength is Strength.CHECKSUM:
        return computed
    by_etag = exchange.compare(_by_etag(exchange))
    if computed is None or (by_etag is not None and by_etag.strength is Strength.CHECKSUM):
        return by_etag
    return computed


def _by_etag(exchange: _Exchange) -> list[_Check]:
    """The ETag of content that was sent in one request; empty where it is no digest of it."""
    url, etag, md5 = exchange.url, exchange.etag, exchange.digests.md5
    if md5 is None or not _MD5.fullmatch(etag):
        return []
    different = etag != md5.hex()
    if different and (_is_opaque(url, exchange.headers) or url.provider is not Provider.S3 or url.flavour == "gcs"):
        return []
    return [_Check("ETag", md5.hex(), etag, "md5")]


def _is_opaque(url: SignedUrl, headers: Headers) -> bool:
    """Whether the ETag may look like an MD5 and be none: keys of KMS or the customer, and S3's directory buckets."""
    return (
        headers.get("x-amz-server-side-encryption", "") in _KMS
        or "x-amz-server-side-encryption-customer-algorithm" in headers
        or ".s3express-" in url.origin.host
    )


# -- what all share ------------------------------------------------------------------------


def _at_most_ingest(proof: Proof) -> Proof:
    return proof._replace(strength=min(proof.strength, Strength.INGEST))


def _version(headers: Headers, secrets: Collection[str]) -> str:
    told = headers.get("x-amz-version-id") or headers.get("x-goog-generation") or headers.get("x-ms-version-id") or ""
    return clean_name(told, secrets)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    """By lower-case name; a header that came more than once, as x-goog-hash does, joined by commas."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        joined[key] = f"{joined[key]},{value}" if key in joined else value
    return joined
