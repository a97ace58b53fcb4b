"""What a receipt says, and how it is written down: one JSON document whose every byte is fixed.

::

    {"cloudpush_receipt":1,
    "statement":{…canonical JSON…},
    "signature":{"alg":"Ed25519","kid":"…","value":"…"},
    "files":[
    {…canonical JSON, one file…},
    {…}
    ]}

The signature covers ``cloudpush-receipt-1``, a line feed, and the statement; the statement has the root of a Merkle tree
(``merkle``) whose leaves are the files' lines, without the comma, in the order of their ``seq``. So a million files are
written and checked line by line, in constant memory. Where the files are left out ``"files":null`` ends the document.
Format, for readers: docs/receipts.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from cloudpush.push.states import FileState
from cloudpush.push.trust.base64url import to_base64url
from cloudpush.push.trust.canonical import canonical
from cloudpush.push.trust.merkle import Tree

VERSION = 1
MEDIA_TYPE = "application/vnd.cloudpush.receipt+json"
#: What is signed begins with this, so that no signature of anything else passes for a receipt's.
DOMAIN = b"cloudpush-receipt-1\n"

FIRST = b'{"cloudpush_receipt":1,\n'
FILES, BETWEEN, LAST, NO_FILES = b'"files":[\n', b",\n", b"]}\n", b'"files":null}\n'

#: Of a file's object, in their order.
FILE_KEYS = (
    "error_code",
    "etag",
    "expected",
    "key",
    "mtime_ns",
    "path",
    "seq",
    "sha256",
    "size",
    "state",
    "strength",
    "uploaded_at",
    "version_id",
)


@dataclass(slots=True)
class Summary:
    """What the files of a push amount to; grown file by file. ``tree`` over their lines."""

    tree: Tree = field(default_factory=Tree)
    size: int = 0
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, FileState), 0))

    def add(self, line: bytes, state: str, size: int) -> None:
        """One more file."""
        self.tree.add(line)
        self.states[state] += 1
        self.size += size

    def extend(self, lines: Iterable[bytes], states: Mapping[str, int], size: int) -> None:
        """More files: in which states how many of them are, and how many bytes they have together."""
        for line in lines:
            self.tree.add(line)
        for state, count in states.items():
            self.states[state] += count
        self.size += size

    def told(self) -> dict[str, Any]:
        """As a statement says it."""
        return {
            "count": self.tree.size,
            "bytes": self.size,
            "root": self.tree.root().hex(),
            "states": {state: count for state, count in self.states.items() if count},
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """What the record says of a push that is over; see ``audit.receipts``. Values as Postgres gives them."""

    push: Mapping[str, Any]
    credential: Mapping[str, Any]
    chain: Mapping[str, Any]
    software: Mapping[str, str] = field(default_factory=dict)  # of the worker that was the last to take it up


#: Of the push's row, under their own names. What else a statement has of it is below.
REQUEST = (
    *("id", "owner", "actor", "source", "bucket", "prefix", "profile", "min_strength", "overwrite"),
    *("include", "exclude", "labels", "package", "retry_of"),
)
VERDICT = (
    *("state", "strength", "created_at", "started_at", "planned_at", "finished_at", "uploaded_at"),
    *("parts_total", "files_total", "files_verified", "files_skipped", "files_unverified", "files_failed"),
    *("bytes_total", "bytes_verified"),
)


def make_statement(
    facts: Facts, files: Mapping[str, Any], *, issuer: str, kid: str, at: datetime, software: Mapping[str, str]
) -> bytes:
    """The statement about a push, canonical. ``files``: see :meth:`Summary.told`. Raises ValueError, TypeError."""
    push = facts.push
    return canonical(
        {
            "version": VERSION,
            "issuer": issuer,
            "issued_at": moment(at),
            "kid": kid,
            "push": {
                **{name: _plain(push[name]) for name in REQUEST},
                "destination": push["uri"],
                "manifest_sha256": _plain(push["manifest_sha256"]),
            },
            "credential": _plain(facts.credential),
            "verdict": {
                **{name: _plain(push[name]) for name in VERDICT},
                "code": push["error_code"],
                "attempts": push["attempt"],
            },
            "files": files,
            "chain": _plain(facts.chain),
            "software": {"issuer": dict(software), "worker": dict(facts.software)},
        }
    )


def to_sign(statement: bytes) -> bytes:
    """What the signature of ``statement`` covers."""
    return DOMAIN + statement


def head(statement: bytes, kid: str, signature: bytes) -> bytes:
    """The document before its files."""
    return b"".join((FIRST, b'"statement":', statement, BETWEEN, signature_line(kid, to_base64url(signature))))


def signature_line(kid: str, value: str) -> bytes:
    """The line that has the signature."""
    return b'"signature":{"alg":"Ed25519","kid":"%s","value":"%s"},\n' % (kid.encode(), value.encode())


def document(statement: bytes, kid: str, signature: bytes, lines: Iterable[bytes] | None) -> Iterator[bytes]:
    """The whole document, chunk by chunk. ``lines``: the files' objects, canonical; None leaves them out."""
    yield head(statement, kid, signature)
    if lines is None:
        yield NO_FILES
        return
    separator = FILES
    for line in lines:
        yield separator + line
        separator = BETWEEN
    yield (FILES if separator is FILES else b"\n") + LAST


def moment(at: datetime) -> str:
    """A time as receipts write it: RFC 3339, UTC, with microseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_PLAIN: Mapping[type, Any] = MappingProxyType(
    {datetime: moment, bytes: bytes.hex, memoryview: lambda v: bytes(v).hex()}
)


def _plain(value: object) -> Any:
    """A value of the record as JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _PLAIN.get(type(value), str)(value)
