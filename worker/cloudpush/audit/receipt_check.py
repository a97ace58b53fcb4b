"""A receipt against the record: whether the record still says what was signed, and knows of this receipt.

That the receipt itself holds is ``push.trust.checking``'s matter, and comes first. Then the push is verified as any other
(chain, rows, seals), and compared: its row, its files, the event that the receipt was made after, the event that tells that
it was issued, and the checkpoint that seals them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit.chains import Signed
from cloudpush.audit.database import transaction
from cloudpush.audit.findings import Report, Witness
from cloudpush.audit.integrity import verify
from cloudpush.audit.receipts import FACTS, FILES, PAGE, facts_of
from cloudpush.audit.retired import Retirement, cuts_of, verify_retired
from cloudpush.push.states import Event
from cloudpush.push.trust.canonical import canonical, read_canonical
from cloudpush.push.trust.checking import Proved
from cloudpush.push.trust.erasures import read_erasure
from cloudpush.push.trust.merkle import Tree
from cloudpush.push.trust.receipts import make_statement

#: Files that are named; of more their number is told.
NAMED = 20
#: Where a statement may have a person's name.
NAMES = {"push": {"owner", "actor", "source", "destination", "bucket", "prefix", "labels", "include", "exclude"}}
NAMES |= {"credential": {"owner"}}

File = Mapping[str, Any]
#: Reads the receipt once more, and tells of each of its files.
Reread = Callable[[Callable[[File], None]], object]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a receipt stands in the record. ``issued``: the number of the event that tells of it; ``sealed_by``: of the checkpoint.

    ``files``: ``same``, ``differ``, ``archived``, or ``unknown`` where the push is.
    """

    push: str
    statement_sha256: str
    after: int
    issued: int | None
    sealed_by: int | None
    files: str


def verify_receipt(engine: sa.Engine, proved: Proved, reread: Reread, witness: Witness) -> tuple[Report, Placed]:
    """Verify the push of a receipt that holds, and compare them. Raises StoreError."""
    push_id = UUID(proved.statement["push"]["id"])
    report = verify(engine, push_id, witness)
    with transaction(engine.execution_options(isolation_level="REPEATABLE READ")) as c:
        c.execute(sa.text("SET LOCAL statement_timeout = 0"))
        retirement = verify_retired(c, Report(), push_id)
        return report, _Comparison(c, report, proved, push_id, retirement, witness.signed).place(reread)


class _Comparison:
    """One receipt and one push, in one snapshot."""

    def __init__(
        self,
        c: sa.Connection,
        report: Report,
        proved: Proved,
        push_id: UUID,
        retirement: Retirement,
        signed: Signed | None,
    ) -> None:
        self._c, self._report, self._proved, self._push_id, self._retirement = c, report, proved, push_id, retirement
        self._signed = signed
        self._stated = proved.statement
        self._sha256 = hashlib.sha256(canonical(proved.statement)).hexdigest()
        kept = cuts_of(c, [push_id.bytes], retirement).get(push_id.bytes, {}) if retirement.months else {}
        self._archived = max(kept, default=0)  # events up to this number are in archives
        self._ends = kept

    def place(self, reread: Reread) -> Placed:
        """Compare everything."""
        after = int(self._stated["chain"]["seq"])
        row = self._c.execute(FACTS, {"id": self._push_id}).mappings().one_or_none()
        if row is None:
            self._blame(
                "the push of this receipt is not in the record: it is of another installation, or its row is gone"
            )
            return Placed(str(self._push_id), self._sha256, after, None, None, "unknown")
        self._compare_row(row)
        sealed_by = self._compare_chain(after)
        return Placed(
            str(self._push_id), self._sha256, after, self._compare_issue(), sealed_by, self._compare_files(reread)
        )

    # -- row ---------------------------------------------------------------------------------------

    def _compare_row(self, row: sa.RowMapping) -> None:
        """What the record would state today, but for who states it and when."""
        stated = self._stated
        text = make_statement(
            facts_of(row),
            stated["files"],
            issuer=stated["issuer"],
            kid=stated["kid"],
            at=datetime.fromisoformat(stated["issued_at"]),
            software={},
        )
        now = read_canonical(text)
        replaced = any(map(self._took_back, self._c.execute(ERASURES, {"id": self._push_id}).scalars()))
        differ, excused = list[str](), list[str]()
        for section in ("push", "credential", "verdict"):
            for name in sorted({*stated[section], *now[section]}):
                if stated[section].get(name) != now[section].get(name):
                    by_name = replaced and name in NAMES.get(section, ())
                    (excused if by_name else differ).append(f"{section}.{name}")
        if differ:
            self._blame(f"the record differs from the receipt in: {', '.join(differ)}")
        if excused:
            self._report.unchecked.append(
                f"{', '.join(excused)}: a name was replaced there since the receipt was issued, by a signed erasure"
            )

    def _took_back(self, data: str) -> bool:
        """Whether an event's data is an erasure, signed, that this receipt had the name in. No key at hand: believed."""
        try:
            found = read_erasure(self._push_id, data)
            if found is None or found[0].receipt != bytes.fromhex(self._sha256):
                return False
            return self._signed is None or self._signed(found[1], found[0].to_sign())
        except ValueError:
            return False

    # -- chain -------------------------------------------------------------------------------------

    def _compare_chain(self, after: int) -> int | None:
        """The event that the receipt was made after. The number of the checkpoint that seals it."""
        found = self._c.execute(EVENT, {"id": self._push_id, "seq": after}).one_or_none()
        told = self._ends.get(after) if found is None else bytes(found.hash)
        if told is None:
            if after <= self._archived:
                self._report.unchecked.append(f"event {after}, after which the receipt was made: it is in an archive")
            else:
                self._blame(f"event {after}, after which the receipt was made, is gone", after)
            return None
        if (self._stated["chain"]["stream"], told.hex()) != (str(self._push_id), self._stated["chain"]["hash"]):
            self._blame(f"event {after} is not the one after which the receipt was made", after)
        if found is not None and found.checkpoint is None:
            self._report.unchecked.append(f"whether event {after} is sealed: no checkpoint covers it yet")
        return found.checkpoint if found is not None else None

    def _compare_issue(self) -> int | None:
        """The event that tells of this very receipt."""
        asked = {"id": self._push_id, "kind": Event.PUSH_RECEIPT_ISSUED.value, "sha256": self._sha256}
        issued: int | None = self._c.execute(ISSUED, asked).scalar_one_or_none()
        if issued is None and self._archived > int(self._stated["chain"]["seq"]):
            self._report.unchecked.append("whether an event tells of this receipt: it would be in an archive")
        elif issued is None:
            self._blame("no event of the record tells that this receipt was issued")
        return issued

    # -- files -------------------------------------------------------------------------------------

    def _compare_files(self, reread: Reread) -> str:
        if self._retirement.has_files_of(self._push_id):
            self._report.unchecked.append("files of the receipt: their rows are in an archive")
            return "archived"
        tree = Tree()
        for lines in self._pages():
            for line in lines:
                tree.add(line)
        if (tree.size, tree.root().hex()) == (self._stated["files"]["count"], self._stated["files"]["root"]):
            return "same"
        if self._proved.with_files:
            differences = _Differences(self._blame, (line for lines in self._pages() for line in lines))
            reread(differences.compare)
            differences.end()
        else:
            self._blame("the push's files are not those that the receipt's root covers")
        return "differ"

    def _pages(self) -> Iterator[list[bytes]]:
        after = 0
        while True:
            row: Any = self._c.execute(FILES, {"push": self._push_id, "after": after, "limit": PAGE}).one()
            if row.lines is not None:
                yield row.lines.encode().split(b"\n")
            if row.count < PAGE:
                return
            after = row.last

    def _blame(self, what: str, seq: int | None = None) -> None:
        self._report.blame(self._push_id, seq, what)


class _Differences:
    """Files of a receipt and of the record, both in the order of their numbers, side by side."""

    def __init__(self, blame: Callable[[str], None], lines: Iterator[bytes]) -> None:
        self._blame, self._lines = blame, lines
        self._ahead = self._following()
        self._found = 0

    def compare(self, told: File) -> None:
        """The receipt's next file."""
        while self._ahead is not None and self._ahead["seq"] < told["seq"]:
            self._name(f"file {self._ahead['seq']} ({self._ahead['path']}) is not in the receipt")
            self._ahead = self._following()
        if self._ahead is None or self._ahead["seq"] != told["seq"]:
            self._name(f"file {told['seq']} ({told['path']}) of the receipt is not in the record")
            return
        now, self._ahead = self._ahead, self._following()
        fields = [name for name in told if told[name] != now.get(name)]
        if fields:
            self._name(f"file {told['seq']} ({told['path']}) differs from the receipt in: {', '.join(fields)}")

    def end(self) -> None:
        """The receipt has no more."""
        while self._ahead is not None:
            self._name(f"file {self._ahead['seq']} ({self._ahead['path']}) is not in the receipt")
            self._ahead = self._following()
        if self._found > NAMED:
            self._blame(f"{self._found - NAMED} more files differ from the receipt")

    def _following(self) -> File | None:
        line = next(self._lines, None)
        return None if line is None else read_canonical(line)

    def _name(self, what: str) -> None:
        self._found += 1
        if self._found <= NAMED:
            self._blame(what)


ERASURES = sa.text("SELECT data::text FROM event WHERE stream = :id AND kind = 'audit.pseudonymised' ORDER BY seq")

EVENT = sa.text("""
    SELECT e.hash, (SELECT number FROM checkpoint k WHERE e.id BETWEEN k.first_id AND k.last_id) AS checkpoint
    FROM event e WHERE e.stream = :id AND e.seq = :seq
""")

ISSUED = sa.text("""
    SELECT min(seq) FROM event WHERE stream = :id AND kind = :kind AND data->>'statement_sha256' = :sha256
""")
