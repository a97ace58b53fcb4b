"""Pushes with signed URLs, as users make them: the real command line, a real stack, a user's portal that signs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from acceptance.live import Exit, Live, until
from acceptance.portal import Portal, manifest
from cloudpush.push.credential import Caller, CredentialState
from cloudpush.push.job import Request
from doubles.faults import Fault, FaultProxy, Rule
from servers import ADMIN
from signers import Row

pytestmark = pytest.mark.xdist_group("live")

MIB = 1024 * 1024
#: Odd, and allowed in keys.
NAMES = ("plain.csv", "with space & +plus.txt", "ü/ø%41.bin", "deep/er/empty")


@pytest.fixture
def portal(live: Live, bucket: str) -> Iterator[Portal]:
    """Signs for the road that has a gate."""
    made = Portal(live.gate.endpoint, ADMIN, bucket)
    yield made
    made.close()


def hook(live: Live, portal: Portal) -> str:
    """The portal's callback, registered by the command line."""
    fields = json.dumps({"url": portal.callback, "secret": portal.secret})
    name = f"portal-{os.urandom(4).hex()}"
    added = live.cli("credential", "add", "--kind", "resign_hook", "--name", name, "--from-stdin", stdin=fields)
    assert added.code == Exit.SUCCEEDED, added.err
    return name


def states(live: Live, push_id: str) -> dict[str, tuple[str, str]]:
    """State and strength of each file, by path."""
    return {path: (f["state"], f["strength"]) for path, f in live.files(push_id).items()}


def sets_of(live: Live, push_id: str) -> list[UUID]:
    """The sets that the push ever had."""
    row = live.row(push_id)
    later = [e["data"]["credential"] for e in live.events(push_id) if e["kind"] == "push.resigned"]
    return [row["credential_id"], *map(UUID, later)]


def until_purged(live: Live, push_id: str) -> None:
    """The sweep has destroyed every URL of the push."""
    caller = Caller(live.owner)
    for set_id in sets_of(live, push_id):
        until(
            lambda s=set_id: live.services.custody.show(caller, s).state is CredentialState.PURGED,  # type: ignore[misc]
            f"the set {set_id} is purged",
        )


def submit_and_expire(live: Live, source: Path, rows: list[Row], seconds: float) -> str:
    """Submit while the worker sleeps, until the URLs have expired. In this process: a command takes a second to start."""
    request = Request(live.owner, live.owner, str(source), "", "")
    with live.asleep("worker"):
        push_id = live.services.signed.submit(request, enumerate(rows, 1)).push_id
        time.sleep(seconds + 0.5)
    return str(push_id)


def test_dataset_by_manifest_arrives_proved_by_its_own_answers(
    live: Live, bucket: str, portal: Portal, tmp_path: Path
) -> None:
    """Every file is at its key with its bytes, proved by checksum; the URLs are destroyed once the push is over."""
    source = live.source("signed", {name: name.encode() * 100 * (name != NAMES[-1]) for name in NAMES})
    file = manifest(portal.rows(NAMES), tmp_path / "manifest.jsonl")

    run = live.cli("push", source, "--manifest", file, "--wait", "--json")

    assert (run.code, run.json["uri"], run.json["strength"]) == (Exit.SUCCEEDED, f"s3://{bucket}/run", "checksum")
    assert states(live, run.json["id"]) == dict.fromkeys(NAMES, ("verified", "checksum"))
    assert {k: live.cloud.read(bucket, k) for k in live.cloud.keys(bucket)} == {
        f"run/{name}": (source / name).read_bytes() for name in NAMES
    }
    until_purged(live, run.json["id"])
    assert live.services.history.push(UUID(run.json["id"]))["credential_kind"] == "signed_urls"


def test_one_file_by_a_url_on_standard_input(live: Live, bucket: str, portal: Portal) -> None:
    """The shortest way: one URL, never in an argument."""
    source = live.source("one", {"a.bin": os.urandom(3 * MIB)}) / "a.bin"
    url = portal.signer().put("a.bin", "box/renamed.bin")["url"]

    run = live.cli("push", source, "--signed-url", "-", "--min-strength", "checksum", "--wait", stdin=url)

    assert (run.code, live.cloud.read(bucket, "box/renamed.bin")) == (Exit.SUCCEEDED, source.read_bytes())


def test_thirty_files_outlive_their_urls(live: Live, portal: Portal, tmp_path: Path) -> None:
    """URLs that live 20 s, an upload that takes longer: the callback signs again and nothing is sent twice."""
    names = [f"f{n:02}.bin" for n in range(30)]
    source = live.source("thirty", {name: os.urandom(MIB) for name in names})
    portal.seconds = 20
    file, callback = manifest(portal.rows(names), tmp_path / "m.jsonl"), hook(live, portal)
    signed_at, before = time.monotonic(), live.gate.carried
    with live.gate.closed():
        push = live.cli.start("push", source, "--manifest", file, "--resign-hook", callback, "--wait", "--json")
        until(lambda: live.gate.held, "uploads are stuck")
        until(lambda: time.monotonic() - signed_at > portal.seconds + 1, "the URLs have expired")
    run = live.cli.end(push)

    assert run.code == Exit.SUCCEEDED, run.err
    assert set(states(live, run.json["id"]).values()) == {("verified", "checksum")}
    assert sum(map(len, portal.asked)) > 0
    assert portal.unsigned == 0
    assert live.gate.carried - before <= 1.05 * 30 * MIB


def test_push_waits_for_fresh_urls_and_goes_on_with_them(
    live: Live, bucket: str, portal: Portal, tmp_path: Path
) -> None:
    """Without a callback an expired URL pauses the push; what was there is not sent again when it goes on."""
    source = live.source("pause", {"early.bin": b"early", "late.bin": b"late"})
    rows = [*portal.rows(["early.bin"]), *portal.rows(["late.bin"], seconds=2)]
    push_id = submit_and_expire(live, source, rows, 2)
    paused = live.cli("wait", push_id, "--until-paused", "--json")
    needs = live.cli("needs", push_id, "--json").json
    fresh = manifest(portal.rows([f["path"] for f in needs["files"]]), tmp_path / "fresh.jsonl")
    resigned = live.cli("resign", push_id, "--manifest", fresh, "--json")
    ended = live.cli("wait", push_id, "--json")

    assert (paused.code, paused.json["state"], paused.json["error_code"]) == (9, "awaiting_consent", "URL_EXPIRED")
    assert [f["path"] for f in needs["files"]] == ["late.bin"]
    assert (resigned.code, resigned.json["accepted"]) == (Exit.SUCCEEDED, 1)
    assert (ended.code, ended.json["strength"]) == (Exit.SUCCEEDED, "checksum")
    assert live.cloud.keys(bucket) == {"run/early.bin": 5, "run/late.bin": 4}
    assert live.cli("audit", "verify", push_id).code == Exit.SUCCEEDED
    until_purged(live, push_id)


def test_fresh_urls_that_lead_elsewhere_are_refused(live: Live, bucket: str, portal: Portal, tmp_path: Path) -> None:
    """Who may hand over URLs for a push may not thereby move it to another key or bucket."""
    source = live.source("moved", {"a.bin": b"a"})
    push_id = submit_and_expire(live, source, portal.rows(["a.bin"], seconds=2), 2)
    live.cli("wait", push_id, "--until-paused")
    moved = manifest(portal.rows(["a.bin"], prefix="elsewhere"), tmp_path / "moved.jsonl")
    other = Portal(live.gate.endpoint, ADMIN, live.cloud.make_bucket())
    foreign = manifest(other.rows(["a.bin"]), tmp_path / "foreign.jsonl")
    other.close()

    refusals = [live.cli("resign", push_id, "--manifest", file).refusal for file in (moved, foreign)]

    assert refusals == [(Exit.BAD_INPUT, "BAD_MANIFEST")] * 2
    assert live.row(push_id)["state"] == "awaiting_consent"
    assert live.cli("cancel", push_id).code == Exit.SUCCEEDED
    assert live.cli("wait", push_id).code == Exit.CANCELLED
    assert live.cloud.keys(bucket) == {}
    until_purged(live, push_id)


def test_killed_worker_sends_no_finished_part_again(live: Live, bucket: str, tmp_path: Path) -> None:
    """A multipart upload goes on at its missing parts; those that had arrived are asked for once."""
    source = live.source("parts", {"big.bin": os.urandom(64 * MIB)})
    with FaultProxy(live.cloud.endpoint) as proxy:
        upload = live.cloud.client.create_multipart_upload(Bucket=bucket, Key="run/big.bin")["UploadId"]
        portal = Portal(proxy.endpoint, ADMIN, bucket)
        row = portal.signer().multipart("big.bin", "run/big.bin", upload, 8, part_size=8 * MIB)
        portal.close()
        proxy.spoil(Rule(Fault.STALL, "PUT", "partNumber=8&", times=1))
        run = live.cli("push", source, "--manifest", manifest([row], tmp_path / "m.jsonl"), "--json")
        push_id = run.json["push"]
        until(
            lambda: len(_numbers(live, push_id)) == 7, "all but one part have arrived", lambda: str(live.row(push_id))
        )
        arrived = _numbers(live, push_id)
        os.kill(live.process("worker").pid, signal.SIGKILL)
        ended = live.cli("wait", push_id, "--json")
        sent = [int(s.target.partition("partNumber=")[2].partition("&")[0]) for s in proxy.seen if s.method == "PUT"]

    assert (ended.code, ended.json["strength"]) == (Exit.SUCCEEDED, "checksum")
    assert {number: sent.count(number) for number in arrived} == dict.fromkeys(arrived, 1)
    assert live.cloud.read(bucket, "run/big.bin") == (source / "big.bin").read_bytes()


def _numbers(live: Live, push_id: str) -> list[int]:
    with live.superuser() as connection:
        rows = connection.execute("SELECT number FROM piece WHERE push_id = %s", [push_id]).fetchall()
    return sorted(row[0] for row in rows)


def test_signatures_of_a_wrong_key_fail_with_what_to_do(
    live: Live, bucket: str, portal: Portal, tmp_path: Path
) -> None:
    """The provider's refusal becomes one code, an actor and a fix, without a word of the URL."""
    source = live.source("wrong", {"a.bin": b"a"})
    row = portal.rows(["a.bin"])[0]
    row["url"] = row["url"].replace("X-Amz-Signature=", "X-Amz-Signature=0000")[:-4]

    run = live.cli("push", source, "--manifest", manifest([row], tmp_path / "m.jsonl"), "--wait", "--json")

    assert (run.code, run.json["error_code"]) == (Exit.FAILED, "BAD_SIGNATURE")
    assert "X-Amz-" not in live.cli("show", run.json["id"]).out + run.out + run.err
    assert live.cloud.keys(bucket) == {}
