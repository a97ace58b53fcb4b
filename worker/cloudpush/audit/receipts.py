"""Receipts: those that are owed, those that were issued, and their documents."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.database import event_text, statement, transaction
from cloudpush.audit.trust_tables import receipt
from cloudpush.errors import Code, InputError
from cloudpush.push.states import Event
from cloudpush.push.trust.canonical import read_canonical
from cloudpush.push.trust.issuing import Issue, Page
from cloudpush.push.trust.receipts import Facts, document

ACTOR = "notary"
#: Files that one statement reads: at most a few MB.
PAGE = 10_000


@dataclass(frozen=True, slots=True)
class Opened:
    """A receipt that is about to be read. ``tag``: tells its bytes from others'. ``chunks``: of some MB at most."""

    tag: str
    chunks: Iterator[bytes]


class Receipts:
    """``push.trust.issuing.ReceiptStore``, and what readers get. Thread-safe."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    # -- reading -------------------------------------------------------------------------------

    def stream(self, push_id: UUID, owner: str | None = None) -> Iterator[bytes]:
        """The push's receipt as one document. Raises as :meth:`open`."""
        return self.open(push_id, owner).chunks

    def open(self, push_id: UUID, owner: str | None = None) -> Opened:
        """The push's receipt.

        Raises InputError UNKNOWN_PUSH, NOT_OWNER (with ``owner``, who alone may have it), RECEIPT_PENDING.
        """
        with self._read() as c:
            row = c.execute(ISSUED, {"id": push_id}).one_or_none()
        if row is None:
            raise InputError(Code.UNKNOWN_PUSH, f"push {push_id} is not known.", field="push")
        if owner is not None and row.owner != owner:
            raise InputError(Code.NOT_OWNER, f"push {push_id} belongs to another owner.", field="push")
        if row.statement is None:
            why = "has not ended" if row.finished_at is None else "has ended, and its receipt is about to be signed"
            if row.finished_at is not None and not row.owed:
                why = "had a receipt, which was taken back when a name in it was replaced; its files are archived"
            raise InputError(Code.RECEIPT_PENDING, f"push {push_id} {why}.", field="push")
        stated = read_canonical(row.statement.encode())
        chunks = self._chunks(push_id)
        first = next(chunks, None)
        # Without the rows of its files, which were archived, it says that they are left out.
        gone = first is None and stated["files"]["count"] > 0
        lines = None if gone else _again(first, chunks)
        statement, signature = row.statement.encode(), bytes(row.signature)
        tag = hashlib.sha256(statement + signature + (b"without its files" if gone else b"")).hexdigest()
        return Opened(tag, document(statement, stated["kid"], signature, lines))

    def issued_at(self, push_id: UUID) -> datetime | None:
        """When the push's receipt was issued; None while there is none."""
        with self._read() as c:
            found = c.execute(sa.select(receipt.c.issued_at).where(receipt.c.push_id == push_id)).scalar_one_or_none()
        return found if isinstance(found, datetime) else None

    # -- issuing -------------------------------------------------------------------------------

    def owed(self, limit: int) -> Sequence[Facts]:
        """See the port."""
        with self._read() as c:
            return [facts_of(row) for row in c.execute(OWED, {"limit": limit}).mappings()]

    def files(self, push_id: UUID) -> Iterator[Page]:
        """See the port. Each page is a transaction of its own: what a push that is over has does not change."""
        after = 0
        while True:
            with self._read() as c:
                row = c.execute(FILES, {"push": push_id, "after": after, "limit": PAGE}).one()
            if row.lines is not None:
                yield Page(row.lines.encode().split(b"\n"), Counter(row.states.split()), row.size)
            if row.count < PAGE:
                return
            after = row.last

    def issue(self, issues: Sequence[Issue]) -> int:
        """See the port."""
        by_id = {issue.push_id: issue for issue in issues}
        with transaction(self._engine) as c:
            # In one order, whoever else issues the same ones.
            owed = c.execute(HOLD, {"ids": list(by_id)}).scalars()
            stored = [by_id[push_id] for push_id in owed]
            if stored:
                c.execute(
                    ISSUE,
                    [
                        {
                            "id": issue.push_id,
                            "statement": issue.statement.decode(),
                            "signature": issue.signature,
                            "version": issue.version,
                        }
                        for issue in stored
                    ],
                )
                c.execute(
                    TELL,
                    {
                        "actor": ACTOR,
                        "kind": Event.PUSH_RECEIPT_ISSUED.value,
                        "ids": [issue.push_id for issue in stored],
                        "data": [event_text(_told(issue)) for issue in stored],
                    },
                )
        return len(stored)

    def _chunks(self, push_id: UUID) -> Iterator[bytes]:
        """Lines of the push's files, many at once, separated as a document separates them."""
        after = 0
        while True:
            with self._read() as c:
                page = c.execute(CHUNK, {"push": push_id, "after": after, "limit": PAGE}).one()
            if page.lines is not None:
                yield page.lines.encode()
            if page.count < PAGE:
                return
            after = page.last

    def _read(self) -> Any:
        return statement(self._engine)


def _again(first: bytes | None, others: Iterator[bytes]) -> Iterator[bytes]:
    if first is not None:
        yield first
    yield from others


def _told(issue: Issue) -> dict[str, object]:
    return {"statement_sha256": hashlib.sha256(issue.statement).hexdigest(), **issue.told}


def facts_of(row: sa.RowMapping) -> Facts:
    """A row of ``FACTS`` or ``OWED``."""
    return Facts(
        push=dict(row),
        credential={
            "id": row["credential_id"],
            "kind": row["credential_kind"],
            "owner": row["credential_owner"],
            "endpoint": row["credential_endpoint"],
            "grant": row["grant_id"],
            "provider": row["provider"],
            "renewals": row["renewals"],
        },
        chain={"stream": row["id"], "seq": row["chain_seq"], "hash": row["chain_hash"]},
        software=row["software"] or {},
    )


ISSUED = sa.text("""
    SELECT p.owner, p.finished_at, r.statement, r.signature, r.push_id IS NOT NULL AS owed
    FROM push p LEFT JOIN receipt r ON r.push_id = p.id WHERE p.id = :id
""")

_FACTS = """
    SELECT p.*, k.owner AS credential_owner, k.endpoint AS credential_endpoint, g.credential_id AS grant_id, g.provider,
        ARRAY(SELECT n.credential_id::text FROM renewal n WHERE n.push_id = p.id ORDER BY n.number) AS renewals,
        c.seq AS chain_seq, c.hash AS chain_hash,
        (SELECT e.data->'software' FROM event e WHERE e.stream = p.id AND e.kind IN ('push.claimed', 'part.claimed')
            ORDER BY e.seq DESC LIMIT 1) AS software
    FROM push p JOIN credential k ON k.id = p.credential_id JOIN chain c ON c.stream = p.id
        LEFT JOIN oauth_grant g ON g.credential_id = p.credential_id
"""
FACTS = sa.text(f"{_FACTS} WHERE p.id = :id")
OWED = sa.text(f"""
    {_FACTS} JOIN receipt r ON r.push_id = p.id
    WHERE r.statement IS NULL AND p.finished_at IS NOT NULL
    ORDER BY r.since, r.push_id LIMIT :limit
""")

HOLD = sa.text("""
    SELECT push_id FROM receipt WHERE push_id = ANY (CAST(:ids AS uuid[])) AND statement IS NULL
    ORDER BY push_id FOR UPDATE
""")

ISSUE = sa.text("""
    UPDATE receipt SET issued_at = clock_timestamp(), statement = :statement, signature = :signature,
        key_version = :version
    WHERE push_id = :id
""")

TELL = sa.text("""
    SELECT cloudpush_append(told.id, :actor, ARRAY[CAST(:kind AS text)], ARRAY[CAST(NULL AS uuid)], ARRAY[told.data])
    FROM unnest(CAST(:ids AS uuid[]), CAST(:data AS text[])) WITH ORDINALITY AS told (id, data, number)
    ORDER BY told.number
""")

# A file's object as canonical JSON: names in their order, no space, and text escaped by Postgres as RFC 8785 has it.
_TEXT = "coalesce(to_json({0})::text, 'null')"
LINE = (
    "'{' || "
    + " || ',' || ".join(
        f"'\"{name}\":' || {value}"
        for name, value in (
            ("error_code", _TEXT.format("error_code")),
            ("etag", _TEXT.format("etag")),
            ("expected", _TEXT.format("expected")),
            ("key", _TEXT.format("key")),
            ("mtime_ns", _TEXT.format("mtime_ns::text")),
            ("path", _TEXT.format("path")),
            ("seq", "seq"),
            ("sha256", _TEXT.format("encode(sha256, 'hex')")),
            ("size", "size"),
            ("state", _TEXT.format("state")),
            ("strength", _TEXT.format("strength")),
            (
                "uploaded_at",
                _TEXT.format("""to_char(uploaded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""),
            ),
            ("version_id", _TEXT.format("version_id")),
        )
    )
    + " || '}'"
).replace(":", "\\:")  # no parameters of SQLAlchemy's
_PAGE = f"""
    SELECT seq, state, size, {LINE} AS line
    FROM file WHERE push_id = :push AND seq > :after ORDER BY seq LIMIT :limit
"""  # noqa: S608 -- put together from constants
FILES = sa.text(f"""
    SELECT string_agg(line, E'\\n' ORDER BY seq) AS lines, string_agg(state, ' ') AS states, count(*) AS count,
        CAST(sum(size) AS bigint) AS size, max(seq) AS last FROM ({_PAGE}) AS page
""")  # noqa: S608 -- likewise
CHUNK = sa.text(f"""
    SELECT string_agg(line, E',\\n' ORDER BY seq) AS lines, count(*) AS count, max(seq) AS last FROM ({_PAGE}) AS page
""")  # noqa: S608 -- likewise
