"""What an answer proves about a file: pure comparison of digests.

An S3 ETag is the MD5 of the bytes for an object that was put in one request, and ``md5(md5s of the pieces)-N`` for
one that was put in N. It is neither for objects under KMS or customer keys, where it may still look like an MD5; the
HEAD says so in its encryption headers. Some stores have ETags of another shape altogether. Google tells the MD5 that it
computed. Azure computes nothing that it tells: there it counts what was read back, or how the engine sent it.
"""

from __future__ import annotations

import base64
import re

from cloudpush.push.job import Fingerprint, Seen
from cloudpush.push.states import Strength

_MD5_ETAG = re.compile(r"[0-9a-f]{32}(?:-(?P<pieces>[1-9][0-9]{0,4}))?")


def strength_of(expected: Fingerprint, seen: Seen) -> Strength:
    """How strongly ``seen`` proves that the object is ``expected``; NONE where it is absent or differs.

    A digest that can be compared decides: equal is REREAD (of bytes that were read back) or CHECKSUM, different is NONE.
    Where none can (opaque or foreign ETag, another number of pieces), an equal size is what remains: INGEST where the
    pieces were checked as they came, else SIZE.
    """
    if not seen.exists or (seen.size is not None and seen.size != expected.size):
        return Strength.NONE
    if seen.reread:
        return Strength.REREAD if seen.reread == expected.sha256 else Strength.NONE
    if seen.md5 and expected.md5 is not None:
        return Strength.CHECKSUM if seen.md5 == expected.md5 else Strength.NONE
    if seen.sha256:
        ours = base64.b64encode(expected.sha256).decode()
        return Strength.CHECKSUM if seen.sha256 == ours else Strength.NONE
    equal = None if seen.opaque_etag else _same_etag(expected, seen.etag.lower())
    if equal is not None:
        return Strength.CHECKSUM if equal else Strength.NONE
    if seen.size is None:
        return Strength.RESPONSE
    return Strength.INGEST if seen.ingest else Strength.SIZE


def _same_etag(expected: Fingerprint, etag: str) -> bool | None:
    """Whether the ETags agree; None where they are not digests of the same thing."""
    match = _MD5_ETAG.fullmatch(etag)
    if match is None:
        return None
    if etag == expected.md5_etag:
        return True
    if match["pieces"] is None:
        return etag == expected.md5.hex() if expected.md5 is not None else None
    # Pieces of another size make another ETag of the same bytes; only an equal number makes it a difference.
    return False if expected.md5_etag.partition("-")[2] == match["pieces"] else None
