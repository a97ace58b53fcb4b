"""docs/audit.md: the script that it prints verifies a record without CloudPush, and notices what was changed."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloudpush.audit.database import append_event
from cloudpush.audit.names import Names
from cloudpush.audit.pseudonyms import Pseudonyms
from cloudpush.push.states import Event
from cloudpush.push.trust.erasures import Erasure
from notaries import FakeNotary
from records import Record
from servers import Database

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")


def test_the_script_on_the_page_verifies_the_record(database: Database, tmp_path: Path) -> None:
    """Chains of both versions, erasures in both, signatures, roots; then an edit, and one that is passed off as an erasure."""
    record = Record(database)
    script = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "verify.py").write_text(script)
    notary, push_id, old = FakeNotary(record.app), record.finished(), record.finished(owner="grace-hopper")
    record.tamper(FIRST_VERSION.replace(":id", f"'{old}'").replace(":=", "\\:="))
    notary.seal()
    record.finished(owner="grace-hopper")
    record.tamper("UPDATE credential SET state = 'purged', purged_at = now() WHERE owner = 'grace-hopper'")
    Pseudonyms(record.owner, Names("grace-hopper"), notary.signer, notary.signer.signed).run()
    with record.app.begin() as c:
        append_event(c, push_id, Event.AUDIT_EXPORTED, "zürich")
    notary.seal()
    public = notary.signer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(public)

    def verified() -> tuple[int, str]:
        command = [sys.executable, str(tmp_path / "verify.py"), database.url, str(tmp_path / "key.pem")]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return ended.returncode, (ended.stdout + ended.stderr).strip().splitlines()[-1]

    before = verified()
    record.tamper("UPDATE event SET actor = 'mallory' WHERE stream = :id AND seq = 2", id=push_id)
    after = verified()
    record.tamper("UPDATE event SET salt = NULL WHERE stream = :id AND seq = 2", id=push_id)
    passed_off = verified()
    told = Erasure.of(push_id, "mallory", datetime.now(UTC), []).data(bytes(64))
    with record.app.begin() as c:
        append_event(c, push_id, Event.AUDIT_PSEUDONYMISED, "operator", told)
    forged = verified()
    with record.app.connect() as c:
        events = c.execute(sa.text("SELECT count(*) - 1 FROM event")).scalar_one()
    record.close()

    assert (before[0], before[1].partition(";")[0]) == (0, f"sound: {events} events, {events} sealed")
    assert (after[0], after[1]) == (1, f"AssertionError: {push_id} 2: actor or data")
    assert passed_off == (1, f"AssertionError: {push_id} 2: replaced, and no erasure says so")
    assert forged == (1, "cryptography.exceptions.InvalidSignature")


# A chain as it was written before there was a second version.
FIRST_VERSION = """
DO $$
DECLARE e event; link bytea;
BEGIN
    FOR e IN SELECT * FROM event WHERE stream = :id ORDER BY seq LOOP
        link := coalesce(link, sha256(convert_to(e.stream::text, 'UTF8')));
        UPDATE event SET prev = link, salt = NULL, content = NULL, hash = cloudpush_event_hash(
            link, stream, seq, at, kind, actor, credential_id, data::text)
            WHERE stream = e.stream AND seq = e.seq RETURNING hash INTO link;
        UPDATE chain SET hash = link WHERE stream = e.stream;
    END LOOP;
END $$
"""
