"""What a push leaves for others when it is over: its receipt, the webhook's message, the package beside its data."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections import defaultdict
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from chaos.stand import BUCKET, OWNER, Expected
from cloudpush.audit.findings import Witness
from cloudpush.audit.integrity import verify
from cloudpush.credentials import ed25519
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.kinds import parse
from cloudpush.errors import CloudPushError
from cloudpush.push.credential import Caller
from cloudpush.push.grants.model import NOTIFY_HOOK
from cloudpush.push.packages import MANIFEST, NAMES, TAGS
from cloudpush.push.states import Event, Package, State
from cloudpush.push.trust.checking import Proved, check_receipt
from cloudpush.settings import Settings
from cloudpush.stack.ports import HOST
from cloudpush.wiring import Services, audit_keys
from cloudpush.wiring.trust import witness_of

#: Until a receipt is there: Vault, Postgres or the notary itself may be what was killed.
RECEIPT_SECONDS = 60.0
#: Until webhooks have been told everything: what a worker had taken up that was killed is another's after two minutes.
TOLD_SECONDS = 180.0
SECRET = "chaos-webhook-secret-0123456789"


class Receiver:
    """A webhook that says yes. ``heard``: by push, the ids of the messages and the states that they told."""

    def __init__(self) -> None:
        self.heard: dict[UUID, list[tuple[str, str]]] = defaultdict(list)
        self.forged = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                signed = f"{self.headers['CloudPush-Timestamp']}.{self.headers['CloudPush-Id']}.".encode() + body
                good = "v1=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
                if hmac.compare_digest(good, self.headers["CloudPush-Signature"]):
                    told = json.loads(body)
                    receiver.heard[UUID(told["push"])].append((self.headers["CloudPush-Id"], told["state"]))
                else:
                    receiver.forged += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}/verdicts"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        self._server.shutdown()
        self._server.server_close()


class Aftermath:
    """Looks at it. Each method returns what is wrong, in sentences."""

    def __init__(self, settings: Settings, services: Services, s3: Any, data: Path, closing: ExitStack) -> None:
        self._settings = settings
        self._services = services
        self._s3 = s3
        self._data = data
        self._receiver = Receiver()
        self._pushes: list[Expected] = []
        closing.callback(self._receiver.close)
        hook = parse(NOTIFY_HOOK, {"url": self._receiver.url, "secret": SECRET})
        services.custody.add(Caller(OWNER), hook, name="verdicts")
        self._keys = {key.kid: key.raw for key in audit_keys(settings)}

    def issued(self, one: Expected) -> bool:
        """Whether its receipt is there."""
        with suppress(CloudPushError):
            return self._services.receipts.issued_at(one.push_id) is not None
        return False

    def check(self, one: Expected) -> list[str]:
        """One receipt that holds and says what the record says; the whole package."""
        self._pushes.append(one)
        row = self._services.history.push(one.push_id)
        return [f"push {one.push_id}: {what}" for what in (*self._receipt(one, row), *self._bag(row))]

    def settled(self) -> bool:
        """Whether no webhook is owed anything any more."""
        with suppress(sa.exc.SQLAlchemyError), self._services.database.connect() as c:
            return bool(c.execute(SETTLED).scalar_one())
        return False

    def messages(self) -> list[str]:
        """Of every push that was checked one message came, perhaps twice."""
        problems = []
        for one in self._pushes:
            row = self._services.history.push(one.push_id)
            problems += [f"push {one.push_id}: {what}" for what in self._told(one, row)]
        return problems

    def audit(self) -> list[str]:
        """The whole record, its checkpoints, and what Vault remembers of them."""
        connection = VaultConnection(self._settings, "intake")
        try:
            witness: Witness = witness_of(self._settings, connection)
            report = verify(self._services.database, None, witness)
        finally:
            connection.close()
        forged = [f"{self._receiver.forged} messages were not signed right"] if self._receiver.forged else []
        return (
            [f"audit: {f.stream}: {f.what}" for f in report.faults] + [f"audit: {w}" for w in report.unchecked] + forged
        )

    def summary(self) -> str:
        """What came of it all, in numbers."""
        with self._services.database.connect() as c:
            told = c.execute(COUNTS).mappings().one()
        heard = self._receiver.heard
        twice = sum(len(messages) > 1 for messages in heard.values())
        return (
            f"{told['receipts']} receipts, {told['owed']} owed; {told['told']} verdicts told to a webhook, {told['untold']} "
            f"not, {twice} twice; {told['checkpoints']} checkpoints; {told['probes']} preflights"
        )

    # -- one by one ------------------------------------------------------------------------------

    def _events(self, one: Expected, kind: Event) -> list[Any]:
        return [e for e in self._services.history.events(one.push_id) if e["kind"] == kind]

    def _receipt(self, one: Expected, row: Any) -> list[str]:
        if self._services.receipts.issued_at(one.push_id) is None:
            return ["no receipt"]
        problems = []
        if (issued := len(self._events(one, Event.PUSH_RECEIPT_ISSUED))) != 1:
            problems.append(f"{issued} events tell of its receipt")
        path = self._data / f"{one.push_id}.receipt"
        path.write_bytes(b"".join(self._services.receipts.stream(one.push_id)))
        try:
            with path.open("rb") as source:
                proved: Proved = check_receipt(source, self._keys, ed25519.verify)
        except CloudPushError as e:
            return [*problems, e.message]
        finally:
            path.unlink()
        verdict = proved.statement["verdict"]
        stated = {
            name: verdict[name] for name in ("state", "strength", "files_total", "files_verified", "bytes_verified")
        }
        if stated != {name: row[name] for name in stated}:
            problems.append(f"its receipt states {stated}")
        return problems

    def _told(self, one: Expected, row: Any) -> list[str]:
        heard = self._receiver.heard.get(one.push_id, [])
        events = self._events(one, Event.PUSH_NOTIFIED)
        if not heard or not events:
            return ["its webhook was not told"]
        problems = []
        if len({message for message, _ in heard}) != 1 or {state for _, state in heard} != {row["state"]}:
            problems.append(f"its webhook was told {heard}")
        if len(events) != 1 or "code" in events[0]["data"]:
            problems.append(f"its events tell of the webhook: {[e['data'] for e in events]}")
        return problems

    def _bag(self, row: Any) -> list[str]:
        """Of a bag that arrived: every file of it where the manifests say, and nothing else."""
        if row["package"] != Package.BAGIT or row["state"] != State.SUCCEEDED:
            return []
        sums = {}
        prefix = row["prefix"] + "/"
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for item in page.get("Contents", []):
                body = self._s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
                sums[item["Key"].removeprefix(prefix)] = (hashlib.sha256(body).hexdigest(), body)
        listed = {}
        for name in (MANIFEST, TAGS):
            for line in sums.get(name, ("", b""))[1].decode().splitlines():
                digest, _, path = line.partition("  ")
                listed[path] = digest
        source = Path(row["source"])
        wanted = {f"data/{path.relative_to(source)}" for path in source.rglob("*") if path.is_file()}
        there = {path: digest for path, (digest, _) in sums.items() if path != TAGS}
        if set(there) != wanted | {name for name in NAMES[Package.BAGIT] if name != TAGS}:
            return [f"its bag holds {sorted(set(there) ^ wanted)} besides or without"]
        return [] if listed == there else ["its manifests are not those of its files"]


SETTLED = sa.text("SELECT NOT EXISTS (SELECT FROM delivery WHERE done_at IS NULL)")

COUNTS = sa.text("""
    SELECT (SELECT count(*) FROM receipt WHERE statement IS NOT NULL) AS receipts,
        (SELECT count(*) FROM receipt WHERE statement IS NULL) AS owed,
        (SELECT count(*) FROM delivery WHERE done_at IS NOT NULL AND error_code IS NULL) AS told,
        (SELECT count(*) FROM delivery WHERE done_at IS NULL OR error_code IS NOT NULL) AS untold,
        (SELECT count(*) FROM checkpoint) AS checkpoints, (SELECT count(*) FROM preflight) AS probes
""")
