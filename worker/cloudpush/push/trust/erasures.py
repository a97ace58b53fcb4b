"""Erasures: signed statements about events in which a person's name was replaced by a pseudonym.

An event that loses its salt can be compared with its hash no more. That it was a name that went, and by what it was
replaced, is said by an event of the same stream, and believed by its signature only: whoever owns the database could say
so of an edit of his own. Its data is::

    {"events": [{"seq": 2, "hash": "<the event's hash>", "sha256": "<digest of the replacement>"}],
     "made_at": "2026-01-02T03:04:05.678901Z", "pseudonym": "person-0123456789ab", "receipt": null, "signature": "<base64>"}

and what is signed is ``cloudpush-erasure-1``, a line feed, and canonical JSON::

    {"events": 1, "made_at": …, "pseudonym": …, "receipt": …, "root": "<hex>", "stream": "<uuid>", "version": 1}

``root`` is the root of a Merkle tree (RFC 9162) with a leaf an event, by number: the stream (16 bytes), the number (4, big-endian),
the event's hash (32), the digest of what took the place of actor and data (32). So neither another event, nor another text,
nor another pseudonym can be put in. ``receipt`` is the SHA-256 of the statement of the push's receipt, hex, where that had the
name in it and was taken back.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

from cloudpush.push.trust.canonical import canonical
from cloudpush.push.trust.merkle import Tree

#: What is signed begins with this, so that no other signature of ours passes for an erasure's.
PREFIX = b"cloudpush-erasure-1\n"
VERSION = 1
_HASH = 32
_MOST_SEQ = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Erased:
    """One event: its number, its hash, which stays, and the digest of what is there now in place of the name."""

    seq: int
    hash: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was replaced in one stream by one pseudonym. ``events``: by number."""

    stream: UUID
    pseudonym: str
    made_at: str
    events: tuple[Erased, ...]
    receipt: bytes | None = None

    @classmethod
    def of(
        cls, stream: UUID, pseudonym: str, made_at: datetime, events: Sequence[Erased], receipt: bytes | None = None
    ) -> Erasure:
        """One that is about to be signed."""
        at = made_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return cls(stream, pseudonym, at, tuple(sorted(events, key=lambda e: e.seq)), receipt)

    def to_sign(self) -> bytes:
        """What is signed."""
        tree = Tree()
        for event in self.events:
            tree.add(self.stream.bytes + event.seq.to_bytes(4, "big") + event.hash + event.sha256)
        return PREFIX + canonical(
            {
                "version": VERSION,
                "stream": str(self.stream),
                "pseudonym": self.pseudonym,
                "made_at": self.made_at,
                "receipt": _hex(self.receipt),
                "events": len(self.events),
                "root": tree.root().hex(),
            }
        )

    def data(self, signature: bytes) -> Mapping[str, Any]:
        """Data of the event that tells of it."""
        return {
            "pseudonym": self.pseudonym,
            "made_at": self.made_at,
            "receipt": _hex(self.receipt),
            "events": [{"seq": e.seq, "hash": e.hash.hex(), "sha256": e.sha256.hex()} for e in self.events],
            "signature": base64.b64encode(signature).decode(),
        }


def read_erasure(stream: UUID, data: str) -> tuple[Erasure, bytes] | None:
    """The erasure that an event of ``stream`` tells of, and its signature; None where it tells of no events.

    Raises ValueError for nonsense.
    """
    try:
        value = json.loads(data)
        if "events" not in value:
            return None
        events = tuple(_erased(told) for told in value["events"])
        pseudonym, made_at = value["pseudonym"], value["made_at"]
        receipt = bytes.fromhex(value["receipt"]) if value["receipt"] is not None else None
        signature = base64.b64decode(value["signature"], validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError("it tells of no erasure") from e
    rising = all(a.seq < b.seq for a, b in pairwise(events))
    if not (rising and isinstance(pseudonym, str) and isinstance(made_at, str)):
        raise ValueError("it tells of no erasure")
    return Erasure(stream, pseudonym, made_at, events, receipt), signature


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()


def _erased(told: Mapping[str, Any]) -> Erased:
    seq, found, sha256 = told["seq"], bytes.fromhex(told["hash"]), bytes.fromhex(told["sha256"])
    if type(seq) is not int or not 0 < seq <= _MOST_SEQ or (len(found), len(sha256)) != (_HASH, _HASH):
        raise ValueError
    return Erased(seq, found, sha256)
