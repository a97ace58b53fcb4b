"""Checkpoints: signed statements about every event since the one before, chained to each other.

A statement is canonical JSON::

    {"events": 3, "first_id": 101, "last_id": 104, "made_at": "2026-01-02T03:04:05.678901Z", "number": 7,
     "previous": "<SHA-256 of the previous statement, hex>", "root": "<hex>", "version": 1}

It covers each event whose id is from ``first_id`` to ``last_id``; ``first_id`` follows the previous ``last_id``, so that no
event can hide between two checkpoints. ``previous`` is null in the first. ``root`` is the root of a Merkle tree (RFC 9162)
with a leaf an event, ordered by id: the id (8 bytes), the stream (16), the event's number in it (4), all big-endian, and the
event's hash (32). What is signed is ``cloudpush-checkpoint-1``, a line feed, and the statement. A statement with ``"gone": [from, to]`` goes on after checkpoints
that the record lost, which an operator acknowledged: ``previous`` is then that of the last one lost, as the anchor knew it.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cloudpush.push.trust.canonical import canonical, read_canonical
from cloudpush.push.trust.merkle import Tree

#: What is signed begins with this, so that no other signature of ours passes for a checkpoint's.
PREFIX = b"cloudpush-checkpoint-1\n"
VERSION = 1
#: Leaves of a stored chunk: its root is a node of the tree. 2**CHUNK_HEIGHT of them.
CHUNK_HEIGHT = 12
CHUNK = 1 << CHUNK_HEIGHT
LEAF_BYTES = 60
#: Events of one checkpoint at most; the rest is the next one's.
MOST = 1_000_000
_HASH = 32
_LEAF = struct.Struct(">q16sI32s")


@dataclass(frozen=True, slots=True)
class Anchored:
    """The newest checkpoint as it is remembered outside of the database. ``sha256``: of its statement, hex.

    ``events``: how many events all checkpoints up to it cover.
    """

    number: int
    sha256: str
    last_id: int
    events: int


@dataclass(frozen=True, slots=True)
class Statement:
    """What a checkpoint says. ``gone``: numbers of the first and last checkpoint that were lost before it."""

    number: int
    first_id: int
    last_id: int
    events: int
    root: bytes
    previous: str | None
    made_at: datetime
    gone: tuple[int, int] | None = None

    def text(self) -> bytes:
        """Its canonical JSON."""
        value: dict[str, object] = {
            "version": VERSION,
            "number": self.number,
            "first_id": self.first_id,
            "last_id": self.last_id,
            "events": self.events,
            "root": self.root.hex(),
            "previous": self.previous,
            "made_at": self.made_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        if self.gone is not None:
            value["gone"] = list(self.gone)
        return canonical(value)

    @classmethod
    def read(cls, text: bytes) -> Statement:
        """The statement in ``text``. Raises ValueError unless it is exactly one."""
        value = read_canonical(text)
        try:
            gone = value.get("gone")
            found = cls(
                number=value["number"],
                first_id=value["first_id"],
                last_id=value["last_id"],
                events=value["events"],
                root=bytes.fromhex(value["root"]),
                previous=value["previous"],
                made_at=datetime.fromisoformat(value["made_at"]),
                gone=(gone[0], gone[1]) if gone is not None else None,
            )
            same = found.text() == text and len(found.root) == _HASH and found._is_typed()
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as e:
            raise ValueError(f"it is no checkpoint: {e}") from None
        if not same:
            raise ValueError("it is no checkpoint: it has fields that none has")
        return found

    def _is_typed(self) -> bool:
        numbers = (self.number, self.first_id, self.last_id, self.events, *(self.gone or ()))
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        return whole and (self.previous is None or isinstance(self.previous, str))


def digest(statement: bytes) -> str:
    """What the next statement calls this one: SHA-256, hex."""
    return hashlib.sha256(statement).hexdigest()


def signed_text(statement: bytes) -> bytes:
    """What is signed for a statement."""
    return PREFIX + statement


def document(statement: bytes, signature: bytes) -> bytes:
    """A checkpoint as a file or a line of one: its statement, and the signature over it. Canonical JSON.

    Raises ValueError for what is no canonical JSON.
    """
    value = {"checkpoint": read_canonical(statement), "signature": base64.b64encode(signature).decode()}
    return canonical(value)


def read_document(text: bytes) -> tuple[Statement, bytes, bytes]:
    """A document's statement, the text of it, and the signature. Raises ValueError."""
    value = read_canonical(text)
    try:
        statement = canonical(value["checkpoint"])
        signature = base64.b64decode(value["signature"], validate=True)
    except (KeyError, TypeError) as e:
        raise ValueError("it is no checkpoint with its signature") from e
    return Statement.read(statement), statement, signature


def leaf(event_id: int, stream: bytes, seq: int, event_hash: bytes) -> bytes:
    """One event's leaf: 60 bytes. ``stream``: the bytes of its UUID."""
    return _LEAF.pack(event_id, stream, seq, event_hash)


def leaves(entries: bytes) -> Iterator[tuple[int, bytes, int, bytes]]:
    """(event id, stream, number in it, hash) of each leaf. Raises ValueError where it is no whole number of them."""
    if len(entries) % LEAF_BYTES:
        raise ValueError("a chunk is a whole number of leaves")
    return _LEAF.iter_unpack(entries)


def _tree(entries: bytes) -> Tree:
    tree = Tree()
    for at in range(0, len(entries), LEAF_BYTES):
        tree.add(entries[at : at + LEAF_BYTES])
    return tree


class Seal:
    """The tree of one checkpoint, chunk by chunk."""

    def __init__(self) -> None:
        self._tree = Tree()

    @property
    def events(self) -> int:
        """Leaves so far."""
        return self._tree.size

    def add(self, entries: bytes) -> bytes:
        """Add a chunk's leaves and return the chunk's root. Raises ValueError after one that was not full."""
        chunk = _tree(entries)
        if chunk.size == CHUNK:
            self._tree.graft(chunk.root(), CHUNK_HEIGHT)
            return chunk.root()
        if self._tree.size % CHUNK:
            raise ValueError("only the last chunk may have fewer leaves")
        for at in range(0, len(entries), LEAF_BYTES):
            self._tree.add(entries[at : at + LEAF_BYTES])
        return chunk.root()

    def root(self) -> bytes:
        """The root over all of them."""
        return self._tree.root()
