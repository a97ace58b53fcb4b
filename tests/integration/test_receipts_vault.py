"""Receipts and webhooks from end to end, as processes build them: Vault's key and Vault's secrets, commands, real sockets."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import cloudpush.settings
import dev_vault
from builders import OWNER
from cloudpush.cli.main import app
from cloudpush.credentials.kinds import parse
from cloudpush.errors import Code
from cloudpush.push.credential import Caller
from cloudpush.push.grants.model import NOTIFY_HOOK
from cloudpush.settings import Settings
from cloudpush.stack.services import Valkey
from cloudpush.wiring import build, build_worker
from cloudpush.wiring.trust import make_notary
from integration.test_hook import SECRET, Pipeline, says
from records import Record
from servers import Database


@pytest.fixture(scope="module")
def settings(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with dev_vault.running(tmp_path_factory.mktemp("vault")) as vault:
        yield vault.settings.model_copy(update={"database_url": database.url, "web_url": "https://push.example"})


@pytest.fixture
def record(database: Database) -> Iterator[Record]:
    made = Record(database)
    yield made
    made.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["receipt", *words])


def test_a_receipt_is_issued_fetched_and_checked(
    record: Record, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before it is signed it is pending; afterwards it holds, on a machine that has neither settings nor a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDPUSH_LOCAL", "1")
    monkeypatch.setattr(cloudpush.settings, "read_settings", lambda: settings)
    push_id = str(record.finished())
    pending = run("get", push_id)

    with ExitStack() as stack:
        notary, _ = make_notary(settings, record.app, stack)
        notary.once()
    to_stdout, to_file = run("get", push_id), run("get", push_id, "-o", "receipt.json")
    Path("pem").write_text(run("key").stdout)
    Path("jwks").write_text(run("key", "--json").stdout)
    monkeypatch.setattr(cloudpush.settings, "read_settings", None)

    assert getattr(pending.exception, "code", None) is Code.RECEIPT_PENDING
    assert (to_stdout.exit_code, to_file.exit_code) == (0, 0), to_file.output
    assert to_stdout.stdout_bytes == Path("receipt.json").read_bytes()
    for key in ("pem", "jwks"):
        done = run("verify", "receipt.json", "--key", key, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["statement"]["issuer"] == "https://push.example"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_worker_tells_a_webhook_whose_secret_lies_in_vault(
    record: Record, settings: Settings, valkey: Valkey
) -> None:
    """What it POSTs is signed with the secret that was sealed; the push's history says that it was told."""
    webhook = Pipeline()
    webhook.answers = [says(b"", 204)]
    changed = settings.model_copy(update={"allowed_endpoints": (webhook.address,), "redis_url": valkey.url()})
    with closing(build(changed)) as desk:
        desk.custody.add(Caller(OWNER), parse(NOTIFY_HOOK, webhook.fields), name="told")
    push_id = record.finished()

    with closing(build_worker(changed)) as worker:
        for hands in worker.hands:
            hands.look()
        for _ in range(1000):
            if "push.notified" in record.kinds(push_id) or webhook.over.wait(0.02):
                break

    [(_, headers, body)] = webhook.questions
    webhook.close()
    said = f"{headers['CloudPush-Timestamp']}.{headers['CloudPush-Id']}.".encode() + body
    mac = hmac.new(SECRET.encode(), said, hashlib.sha256).hexdigest()
    assert headers["CloudPush-Signature"] == f"v1={mac}"
    assert json.loads(body)["receipt"] == f"https://push.example/v1/pushes/{push_id}/receipt"
