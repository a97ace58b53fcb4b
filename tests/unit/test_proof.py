from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest

from cloudpush.push.job import Fingerprint, Seen
from cloudpush.push.states import Strength
from cloudpush.verify.proof import strength_of
from fakes_inspector import etag_of, print_of

DATA, OTHER = b"0123456789", b"9876543210"
SHA256 = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
WHOLE, PIECES = print_of(DATA), print_of(DATA, 4)
SEEN = Seen(exists=True, size=10, etag=etag_of(DATA))


@pytest.mark.parametrize(
    ("expected", "seen", "strength"),
    [
        # nothing, or nothing that we may know
        (WHOLE, Seen(exists=False), Strength.NONE),
        (WHOLE, Seen(exists=None), Strength.NONE),
        # digests of the same thing
        (WHOLE, SEEN, Strength.CHECKSUM),
        (WHOLE, replace(SEEN, etag=SEEN.etag.upper()), Strength.CHECKSUM),
        (PIECES, replace(SEEN, etag=etag_of(DATA, 4)), Strength.CHECKSUM),
        (WHOLE, replace(SEEN, size=None), Strength.CHECKSUM),
        (WHOLE, replace(SEEN, etag=etag_of(OTHER)), Strength.NONE),
        (PIECES, replace(SEEN, etag=etag_of(OTHER, 4)), Strength.NONE),
        # what a provider tells besides its ETag, what was read back, how it was sent
        (WHOLE, replace(SEEN, md5=hashlib.md5(DATA).digest(), opaque_etag=True), Strength.CHECKSUM),
        (WHOLE, replace(SEEN, md5=hashlib.md5(OTHER).digest()), Strength.NONE),
        (PIECES, replace(SEEN, md5=hashlib.md5(DATA).digest(), opaque_etag=True), Strength.SIZE),
        (WHOLE, replace(SEEN, reread=hashlib.sha256(DATA).digest()), Strength.REREAD),
        (WHOLE, replace(SEEN, reread=hashlib.sha256(OTHER).digest()), Strength.NONE),
        (PIECES, replace(SEEN, ingest=True, opaque_etag=True), Strength.INGEST),
        (PIECES, replace(SEEN, ingest=True, size=11), Strength.NONE),
        (PIECES, replace(SEEN, ingest=True, size=None, opaque_etag=True), Strength.RESPONSE),
        # size first
        (WHOLE, replace(SEEN, size=11), Strength.NONE),
        (WHOLE, replace(SEEN, size=11, etag=""), Strength.NONE),
        # ETags that are digests of something else, or none
        (WHOLE, replace(SEEN, etag=etag_of(DATA, 4)), Strength.SIZE),
        (PIECES, replace(SEEN, etag=etag_of(DATA)), Strength.SIZE),
        (PIECES, replace(SEEN, etag=etag_of(DATA, 5)), Strength.SIZE),
        (WHOLE, replace(SEEN, etag=""), Strength.SIZE),
        (WHOLE, replace(SEEN, etag="not-an-md5"), Strength.SIZE),
        (WHOLE, replace(SEEN, etag=SEEN.etag + "-0"), Strength.SIZE),
        (WHOLE, replace(SEEN, etag="", size=None), Strength.RESPONSE),
        # encrypted with KMS: looks like an MD5 and is none
        (WHOLE, replace(SEEN, etag=etag_of(OTHER), opaque_etag=True), Strength.SIZE),
        (WHOLE, replace(SEEN, etag=etag_of(OTHER), opaque_etag=True, size=9), Strength.NONE),
        # the provider's own SHA-256 decides
        (WHOLE, replace(SEEN, etag="", sha256=SHA256), Strength.CHECKSUM),
        (WHOLE, replace(SEEN, etag=etag_of(OTHER), opaque_etag=True, sha256=SHA256), Strength.CHECKSUM),
        (WHOLE, replace(SEEN, sha256=SHA256[::-1]), Strength.NONE),
    ],
)
def test_what_answers_prove(expected: Fingerprint, seen: Seen, strength: Strength) -> None:
    """A comparable digest decides; without one an equal size is what remains; a difference proves nothing."""
    assert strength_of(expected, seen) is strength


def test_an_empty_file_is_proved_like_any_other() -> None:
    """The MD5 of nothing is a digest, too."""
    seen = Seen(exists=True, size=0, etag="d41d8cd98f00b204e9800998ecf8427e")

    assert strength_of(print_of(b""), seen) is Strength.CHECKSUM
