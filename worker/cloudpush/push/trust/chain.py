"""The hash chain of each stream of events, recomputed: what the database hashes when it appends, hashed here again.

Fields are joined by U+001F. Times count microseconds since 1970. The first version covers every field itself::

    SHA-256(previous || "cloudpush-event-1" stream seq time kind credential-or-"-" bytes-of-actor actor data)

The second covers actor and data by a digest, salted with 16 random bytes, so that they can be replaced later (a person who
leaves) without breaking the chain, and without anybody being able to guess what they were::

    content = SHA-256(salt || bytes-of-actor actor data)
    SHA-256(previous || "cloudpush-event-2" stream seq time kind credential-or-"-" content-in-hex)

``actor`` is preceded by its length in bytes and ``data`` is last, so that no two events have the same text; ``data`` is the
stored JSON text itself. The link before a stream's first event is the SHA-256 of the stream's id as text.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
VERSION_1 = "cloudpush-event-1"
VERSION_2 = "cloudpush-event-2"
_UNIT = "\x1f"


def genesis(stream: UUID) -> bytes:
    """The link before a stream's first event."""
    return hashlib.sha256(str(stream).encode()).digest()


def event_hash(
    prev: bytes, stream: UUID, seq: int, at: datetime, kind: str, actor: str, credential: UUID | None, data: str
) -> bytes:
    """The link of one event of the first version."""
    return _link(prev, VERSION_1, stream, seq, at, kind, credential, str(len(actor.encode())), actor, data)


def event_hash_2(
    prev: bytes, stream: UUID, seq: int, at: datetime, kind: str, credential: UUID | None, content: bytes
) -> bytes:
    """The link of one event of the second version. ``content``: what :func:`content_hash` says."""
    return _link(prev, VERSION_2, stream, seq, at, kind, credential, content.hex())


def content_hash(salt: bytes, actor: str, data: str) -> bytes:
    """What stands for actor and data in the second version; with an empty salt, what tells what replaced them."""
    text = _UNIT.join((str(len(actor.encode())), actor, data))
    return hashlib.sha256(salt + text.encode()).digest()


def _link(
    prev: bytes, version: str, stream: UUID, seq: int, at: datetime, kind: str, credential: UUID | None, *last: str
) -> bytes:
    fields = (version, str(stream), str(seq), str(_micros(at)), kind, str(credential) if credential else "-", *last)
    return hashlib.sha256(prev + _UNIT.join(fields).encode()).digest()


def _micros(at: datetime) -> int:
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
