"""A grant's story on the real parts: renewed in mid-push, revoked in mid-push, needed anew, shared, survived by a killed worker.

What only Google itself can tell (that a token taken at the start of a request lasts to its end) is the double's word here.
"""

from __future__ import annotations

import getpass
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac

from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.kinds import parse
from cloudpush.credentials.vault import TokenSafe
from cloudpush.errors import Code, CredentialError, InputError
from cloudpush.push.credential import Caller
from cloudpush.push.grants.model import NOTIFY_HOOK, GrantState
from cloudpush.push.states import State
from cloudpush.settings import Settings
from doubles.oauth_server import OAuthServer
from grant_stage import BUCKET, OWNER, GrantStage, PacedGcs, grant_stage, until

SECRET = "canary-shared-secret-of-the-webhook"
#: A lifetime of an access token; it is renewed after eight.
LIFE_SECONDS = 10.0
PART_FILES = 5


@pytest.fixture
def oauth() -> Iterator[OAuthServer]:
    """Refresh tokens rotate, and using one twice ends the grant."""
    with OAuthServer(life=3600.0) as server:
        yield server


@pytest.fixture
def gcs(oauth: OAuthServer) -> Iterator[PacedGcs]:
    with PacedGcs(oauth) as server:
        yield server


@pytest.fixture
def stage(settings: Settings, tmp_path: Path, oauth: OAuthServer, gcs: PacedGcs) -> Iterator[GrantStage]:
    """Heartbeats as in production. The sweeper runs, a worker has to be started."""
    overrides: dict[str, Any] = {"part_files": PART_FILES, "heartbeat_seconds": 2.0, "lease_seconds": 10.0}
    with grant_stage(settings, tmp_path / "stage", oauth, gcs, **overrides) as made:
        made.start("sweeper")
        yield made


@pytest.fixture
def worker(stage: GrantStage) -> Any:
    """One worker of four threads."""
    return stage.start("worker")


# -- renewed ahead of its end ---------------------------------------------------------------------------


def test_push_outlives_its_tokens_with_one_refresh_each(
    stage: GrantStage,
    oauth: OAuthServer,
    gcs: PacedGcs,
    worker: Any,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """200 files in 40 parts through four threads, for more than three lifetimes of ten seconds."""
    oauth.life, gcs.seconds = LIFE_SECONDS, 0.7
    grant = stage.connect()
    push_id = stage.push(grant, stage.source(200), "long")

    row = stage.wait(push_id)

    took = (row["finished_at"] - row["started_at"]).total_seconds()
    issued = sum(m.what == "issued" for m in oauth.moments)
    most, least = took / (LIFE_SECONDS * 0.8) + 1, took / LIFE_SECONDS - 1
    record_testsuite_property("outlived", f"{took:.1f} s, {issued} refreshes, {least:.1f} to {most:.1f} expected")
    assert (row["state"], row["files_verified"], row["parts_total"]) == ("succeeded", 200, 40), row
    assert took > 3 * LIFE_SECONDS
    assert least <= issued <= most
    assert (oauth.reused(), max(oauth.spends.values())) == ([], 1)
    kinds = Counter(stage.events(push_id))
    # A machine that is busy for long renews too late: then the parts under way are sent again, and nothing else.
    again = PART_FILES * (kinds["part.retry_scheduled"] + kinds["part.lease_expired"])
    sent = gcs.sent("long")
    assert set(sent) == {f"long/file-{n:04}" for n in range(200)}
    assert len(sent) <= 200 + again, kinds
    assert "credential.used" in kinds
    assert Counter(stage.events(grant.id))["grant.refreshed"] == issued


def test_large_file_goes_on_when_its_token_ends(
    stage: GrantStage, oauth: OAuthServer, gcs: PacedGcs, worker: Any
) -> None:
    """A single upload of many pieces: what was sent is not sent again, rclone goes on with the next token."""
    oauth.life, gcs.seconds, gcs.at_once = 4.0, 1.0, type(gcs.at_once)(1)  # six pieces: longer than a token lives
    grant = stage.connect()
    source = stage.source(1, size=96 * 1024 * 1024)
    push_id = stage.push(grant, source, "large")

    row = stage.wait(push_id)

    tokens = {entry.token for entry in gcs.log if entry.what == "piece"}
    assert (row["state"], row["attempt"], gcs.sent("large")) == ("succeeded", 1, ["large/file-0000"]), row
    assert len(tokens) > 1, "the token was not swapped in mid-upload"


# -- revoked in mid-push ----------------------------------------------------------------------------------


def test_revoking_stops_what_runs_and_ends_what_waits(
    stage: GrantStage,
    oauth: OAuthServer,
    gcs: PacedGcs,
    worker: Any,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """The provider hears of it, Vault is purged, the ledger tells it all."""
    gcs.seconds = 0.5
    grant = stage.connect()
    running = stage.push(grant, stage.source(200), "running")
    until(lambda: len(gcs.sent("running")) >= 10, "some files have arrived", stage.logs)
    queued = stage.push(grant, stage.source(20), "queued")

    began = time.monotonic()
    stage.services.grants.revoke(Caller(OWNER), grant.id)
    ended = stage.wait(running)
    stopped = time.monotonic() - began
    waiting = stage.wait(queued)
    until(lambda: stage.grant(grant.id).credential_state == "purged", "Vault is purged", stage.logs)
    purged = time.monotonic() - began

    record_testsuite_property("revoked", f"running push ended after {stopped:.2f} s, Vault purged after {purged:.2f} s")
    assert (ended["state"], ended["error_code"]) == ("failed", "CONSENT_REVOKED"), ended
    assert (waiting["state"], waiting["error_code"]) == ("failed", "CONSENT_REVOKED"), waiting
    assert stopped < 10, "the issue's own limit, with the heartbeat of production"
    sent = len(gcs.sent("running"))
    assert (sent < 200, gcs.sent("queued")) == (True, [])
    assert [m.what for m in oauth.moments].count("revoked") == 1
    over = stage.grant(grant.id)
    assert (over.state, over.provider_told) == (GrantState.REVOKED, True)
    with closing(VaultConnection(stage.settings, "worker")) as connection, pytest.raises(CredentialError) as caught:
        TokenSafe(connection).open_tokens(grant.id, OWNER, over.generation)
    assert caught.value.code is Code.CREDENTIAL_PURGED
    kinds = [e["kind"] for e in stage.services.history.ledger(grant.id)]
    for kind in (
        "credential.sealing",
        "grant.asked",
        "grant.granted",
        "grant.opened",
        "credential.used",
        "grant.revoking",
        "grant.revoked",
        "credential.purging",
        "credential.purged",
    ):
        assert kind in kinds, f"the ledger lacks {kind}: {kinds}"


# -- needed anew -------------------------------------------------------------------------------------------


class Hook:
    """A webhook that keeps what came."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.calls.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def told(self) -> list[tuple[dict[str, str], bytes]]:
        """Messages in order; one that came again, as it may, is the same."""
        told: dict[str, tuple[dict[str, str], bytes]] = {}
        for headers, body in self.calls:
            told.setdefault(headers["CloudPush-Id"], (headers, body))
        return [*told.values()]


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


def end_every_grant(oauth: OAuthServer) -> None:
    """As a user does on the provider's own page: refresh tokens and access tokens are dead from now on."""
    with oauth._lock:
        for family in oauth._families.values():
            family.revoked = True


def test_dead_grant_pauses_its_pushes_until_it_is_reconnected(
    settings: Settings, tmp_path: Path, oauth: OAuthServer, gcs: PacedGcs, hook: Hook
) -> None:
    """The owner's webhook hears of it, signed; files with a verdict are not sent again."""
    oauth.life, gcs.seconds = 5.0, 0.4
    overrides = {"part_files": 5, "allowed_endpoints": (gcs.address, hook.address)}
    with grant_stage(settings, tmp_path / "stage", oauth, gcs, **overrides) as stage:
        fields = {"url": f"http://{hook.address}/notify?token=canary", "secret": SECRET}
        stage.services.custody.add(Caller(OWNER), parse(NOTIFY_HOOK, fields), name="pager")
        stage.start("sweeper")
        stage.start("worker")
        grant = stage.connect()
        push_id = stage.push(grant, stage.source(100), "paused")
        until(lambda: len(gcs.sent("paused")) >= 10, "some files have arrived", stage.logs)
        end_every_grant(oauth)

        row = stage.wait(push_id, State.AWAITING_CONSENT)
        until(lambda: bool(hook.calls), "the webhook is told", stage.logs)
        until(lambda: "grant.notified" in stage.events(grant.id), "that is an event")
        waiting, before = stage.grant(grant.id), gcs.sent("paused")
        code = stage.run("wait", str(push_id), "--until-paused").returncode
        oauth.life = 3600.0
        resumed = stage.reconnect(grant)
        ended = stage.wait(push_id)
        until(lambda: len(hook.told) > 1, "the webhook is told the verdict, too", stage.logs)

    assert (row["error_code"], waiting.state, waiting.trouble_code, code) == (
        "CONSENT_NEEDED",
        GrantState.RECONNECT,
        "CONSENT_NEEDED",
        9,
    )
    [(headers, body), (_, verdict)] = hook.told
    signature = hmac.HMAC(SECRET.encode(), hashes.SHA256())
    signature.update(f"{headers['CloudPush-Timestamp']}.{headers['CloudPush-Id']}.".encode() + body)
    signature.verify(bytes.fromhex(headers["CloudPush-Signature"].removeprefix("v1=")))
    assert json.loads(body)["pushes"] == [str(push_id)]
    assert json.loads(verdict)["event"] == "push.succeeded"
    assert (resumed, ended["state"], ended["files_verified"]) == (1, "succeeded", 100), ended
    assert 10 <= len(before) < 100
    # A file may be sent twice only where it had no verdict yet: those in flight when the grant died.
    again = [key for key, times in Counter(gcs.sent("paused")).items() if times > 1]
    assert len(again) <= 4 * 5, again


# -- shared ---------------------------------------------------------------------------------------------------


def test_share_lets_another_push_below_its_prefix_until_it_ends(stage: GrantStage, gcs: PacedGcs, worker: Any) -> None:
    """Beside the prefix it is refused at the door; what runs when the share ends stops."""
    grant, desk = stage.connect(), stage.services.grants
    until_then = datetime.now(UTC) + timedelta(hours=1)
    share = desk.share(Caller(OWNER), grant.id, principal="pipeline", uri=f"gs://{BUCKET}/shared", until=until_then)
    name = f"{OWNER}/{grant.name}"

    done = stage.wait(stage.push(grant, stage.source(3), "shared/run-1", owner="pipeline", credential=name))
    refusals = []
    for prefix, owner in (("elsewhere", "pipeline"), ("shared-not", "pipeline"), ("shared/run-2", "eve")):
        with pytest.raises((InputError, CredentialError)) as caught:
            stage.push(grant, stage.source(1), prefix, owner=owner, credential=name)
        refusals.append(caught.value.code)
    gcs.seconds = 0.5
    running = stage.push(grant, stage.source(100), "shared/run-3", owner="pipeline", credential=name)
    until(lambda: len(gcs.sent("shared/run-3")) >= 5, "some files have arrived", stage.logs)
    desk.unshare(Caller(OWNER), share.id)
    ended = stage.wait(running)
    gcs.seconds = 0
    mine = stage.wait(stage.push(grant, stage.source(3), "mine"))

    assert (done["state"], done["files_verified"]) == ("succeeded", 3), done
    assert set(refusals) <= {Code.NOT_OWNER, Code.UNKNOWN_CREDENTIAL, Code.CONSENT_REVOKED}, refusals
    assert (ended["state"], ended["error_code"], mine["state"]) == ("failed", "CONSENT_REVOKED", "succeeded")
    assert len(gcs.sent("shared/run-3")) < 100


# -- survived --------------------------------------------------------------------------------------------------


def test_killed_worker_is_followed_by_another(
    stage: GrantStage, oauth: OAuthServer, gcs: PacedGcs, worker: Any
) -> None:
    """In mid-upload, with tokens that end meanwhile: the grant lives, and the push succeeds."""
    oauth.life, gcs.seconds = 5.0, 0.5
    grant = stage.connect()
    push_id = stage.push(grant, stage.source(60), "killed")
    until(lambda: len(gcs.sent("killed")) >= 10, "some files have arrived", stage.logs)

    worker.send_signal(signal.SIGKILL)
    worker.wait(30)
    stage.start("worker")
    row = stage.wait(push_id)

    assert (row["state"], row["files_verified"]) == ("succeeded", 60), row
    assert (oauth.reused(), stage.grant(grant.id).state) == ([], GrantState.ACTIVE)
    assert "part.lease_expired" in stage.events(push_id)


# -- from a shell -------------------------------------------------------------------------------------------------


def test_shell_shows_shares_checks_and_revokes(stage: GrantStage, oauth: OAuthServer, worker: Any) -> None:
    """`cloudpush grant`, as a script uses it: JSON and exit codes, nothing of a token."""
    me = getpass.getuser()
    grant = stage.connect("drive", owner=me)
    other = stage.connect("theirs", owner="somebody")

    listed = json.loads(stage.run("grant", "list", "--json").stdout)
    shared = stage.run(
        "grant", "share", "drive", "--with", "pipe", "--below", f"gs://{BUCKET}/x", "--until", "2d", "--json"
    )
    shown = json.loads(stage.run("grant", "show", "drive", "--json").stdout)
    works = stage.run("grant", "check", "drive", "--json")
    refused = stage.run("grant", "revoke", str(other.id), "--yes")
    unconfirmed = stage.run("grant", "revoke", "drive")
    revoked = stage.run("grant", "revoke", "drive", "--yes", "--wait", "--json")
    broken = stage.run("grant", "check", str(grant.id))
    ledger = json.loads(stage.run("grant", "ledger", str(grant.id), "--json").stdout)
    table = stage.run("grant", "ledger", str(grant.id)).stdout

    assert [g["name"] for g in listed["grants"]] == ["drive"]
    assert (shared.returncode, [s["principal"] for s in shown["shares"]]) == (0, ["pipe"]), shared.stderr
    assert (works.returncode, json.loads(works.stdout)["check_code"]) == (0, ""), works.stderr
    assert (refused.returncode, refused.stderr.split()[0]) == (2, "NOT_OWNER")
    assert (unconfirmed.returncode, stage.grant(other.id).state) == (2, GrantState.ACTIVE)
    assert (revoked.returncode, json.loads(revoked.stdout)["provider_told"]) == (0, True), revoked.stderr
    assert (broken.returncode, broken.stderr.split()[0]) == (2, "CONSENT_REVOKED")
    kinds = [e["kind"] for e in ledger]
    assert [
        k for k in ("grant.asked", "grant.granted", "grant.shared", "grant.checked", "grant.revoked") if k not in kinds
    ] == []
    assert "grant.revoked" in table
    said = "".join(r.stdout + r.stderr for r in (shared, works, revoked)) + json.dumps([listed, shown, ledger]) + table
    assert not any(token in said for token in [*oauth._families, *oauth._access])
