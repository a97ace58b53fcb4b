"""A consent at Entra ID becomes files in an Azure container: real Postgres, Valkey, OpenBao, worker, rclone, and Azurite with
OAuth over TLS, whose certificate no machine trusts by itself.

What Azurite cannot show: roles (there are none, so no missing one is seen), the signature of an access token, keys that a
tenant revoked, and signatures for a directory.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

import servers
from builders import OWNER, a_push
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.minting import Mint
from cloudpush.credentials.providers import read_providers
from cloudpush.credentials.scribe import Scribe
from cloudpush.credentials.vault import TokenSafe
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.access import Access
from cloudpush.push.grants.model import Grant, Sas
from cloudpush.push.job import Destination, PlannedFile, Profile, Secret
from cloudpush.push.states import State
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.stack.azurite import Azurite
from cloudpush.transfer.rclone import Rclone
from cloudpush.verify.cloud import CloudInspector
from cloudpush.wiring import SystemClock
from clouds import blobs, on_azure, on_gcs, signature
from doubles.gcs import GcsDouble
from engines import pace
from entra import GRAPH, EntraServer
from fakes_inspector import GoOn
from fakes_mint import FakeIdentity
from grant_stage import PROVIDER, GrantStage, stage_with, until

MIB = 1024 * 1024
#: What a provider's table says that is Azure's.
AZURE = """
endpoint = "{endpoint}"
ca_file = "{ca_file}"
session_seconds = {seconds}

[[{name}.questions]]
name = "account"
title = "Storage account"
pattern = "[a-z0-9]{{3,24}}"
"""


@pytest.fixture(scope="module")
def account() -> Iterator[Azurite]:
    """A storage account that takes access tokens, and signatures that were made with them."""
    with servers.scratch() as base, servers.running(Azurite(base / "azurite", oauth=True)) as server:
        yield server


@pytest.fixture
def oauth() -> Iterator[EntraServer]:
    with EntraServer() as server:
        yield server


@pytest.fixture
def container(account: Azurite) -> str:
    name = f"mine-{os.urandom(4).hex()}"
    account.make_container(name)
    return name


def table(oauth: EntraServer, account: Azurite, seconds: int = 3600) -> str:
    """The account as an operator describes it."""
    ours = oauth.table(PROVIDER).replace('"bearer"', '"user_delegation_sas"').replace('"gcs"', '"azure"')
    said = AZURE.format(name=PROVIDER, endpoint=account.endpoint, ca_file=account.ca_file, seconds=seconds)
    return ours + said


def connected(stage: GrantStage, account: Azurite) -> Grant:
    return stage.connect(answers={"account": account.account.name})


@pytest.fixture
def stage(settings: Settings, tmp_path: Path, oauth: EntraServer, account: Azurite) -> Iterator[GrantStage]:
    """A worker and a sweeper run."""
    with stage_with(settings, tmp_path / "stage", oauth, table(oauth, account), part_files=5) as made:
        made.start("sweeper")
        made.start("worker")
        yield made


# -- from a consent to the verdict -----------------------------------------------------------------------


def test_files_arrive_and_are_proved(stage: GrantStage, account: Azurite, container: str) -> None:
    """Small ones are read back, a large one was compared block by block; nobody was told to demand that."""
    grant, source = connected(stage, account), stage.source(12, size=70_000)
    (source / "large").write_bytes(os.urandom(9 * MIB))
    (source / "none").touch()

    push_id = stage.push(grant, source, "runs/7", bucket=f"az://{container}")
    row = stage.wait(push_id)

    strengths = {f["path"]: f["strength"] for f in stage.services.history.files(push_id)}
    assert (row["state"], row["files_verified"], row["attempt"]) == ("succeeded", 14, 1), row
    assert Counter(strengths.values()) == {"reread": 13, "ingest": 1}
    assert strengths["large"] == "ingest"
    assert blobs(account, container) == {f"runs/7/{path.name}": path.read_bytes() for path in source.iterdir()}
    assert {"credential.used"} <= set(stage.events(push_id))
    assert "grant.opened" in stage.events(grant.id)


def test_push_outlives_its_signatures(
    settings: Settings,
    tmp_path: Path,
    oauth: EntraServer,
    account: Azurite,
    container: str,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """Signatures of four seconds and tokens of six: files that begin later go out with later ones, and none is refused."""
    oauth.life = 6.0
    with stage_with(settings, tmp_path / "stage", oauth, table(oauth, account, 4), part_files=8) as stage:
        stage.start("sweeper")
        stage.start("worker")
        grant, where = connected(stage, account), f"az://{container}"
        stage.wait(stage.push(grant, stage.source(1), "first", bucket=where))
        pace(settings, "4M")
        push_id = stage.push(grant, stage.source(240, size=MIB // 4), "long", bucket=where)
        row = stage.wait(push_id)

    took = (row["finished_at"] - row["started_at"]).total_seconds()
    issued = sum(m.what == "issued" for m in oauth.moments)
    record_testsuite_property(
        "azure", f"60 MiB in {took:.1f} s with signatures of 4 s, {issued} refreshes of 6 s tokens"
    )
    assert (row["state"], row["files_verified"]) == ("succeeded", 240), row
    assert took > 3 * 4
    assert len([key for key in blobs(account, container) if key.startswith("long/")]) == 240


def test_signature_that_ends_within_one_upload_is_told_as_such(
    settings: Settings, tmp_path: Path, oauth: EntraServer, account: Azurite, container: str
) -> None:
    """rclone cannot be given another in mid-upload here: whoever reads the error learns what to raise."""
    with stage_with(settings, tmp_path / "stage", oauth, table(oauth, account, 2), max_attempts=2) as stage:
        stage.start("sweeper")
        stage.start("worker")
        grant, where = connected(stage, account), f"az://{container}"
        stage.wait(stage.push(grant, stage.source(1), "first", bucket=where))
        pace(settings, "6M")
        row = stage.wait(stage.push(grant, stage.source(1, size=40 * MIB), "long", bucket=where))

    assert (row["state"], row["error_code"]) == ("failed", "PROVIDER_UNAVAILABLE"), row
    assert "session_seconds" in row["error_message"]
    assert "long/file-0000" not in blobs(account, container)


# -- what it opens, and for how long ---------------------------------------------------------------------


def minted(stage: GrantStage, grant: Grant, container: str) -> Sas:
    """What a worker opens a push of this grant to ``container`` with."""
    with (
        closing(VaultConnection(stage.settings, "worker")) as connection,
        closing(Scribe(stage.settings)) as scribe,
    ):
        clock, safe = SystemClock(), TokenSafe(connection)
        mint = Mint(
            access=Access(store=stage.book, safe=safe, renewing=scribe, clock=clock, worker="test"),
            store=stage.book,
            providers=read_providers(stage.settings),
            identity=FakeIdentity(),
            clock=clock,
        )
        destination = Destination("az", container, "runs/7", Profile("azure", "azure"))
        found = mint.mint(a_push(destination=destination, credential_id=grant.id, owner=OWNER)).secret
    assert isinstance(found, Sas)
    return found


def test_signature_is_for_its_own_container_only(stage: GrantStage, account: Azurite, container: str) -> None:
    """Whoever got hold of it could write there and read what is there; not list, not delete, and nothing elsewhere."""
    other = f"other-{os.urandom(4).hex()}"
    account.make_container(other)
    sas = minted(stage, connected(stage, account), container)

    def ask(method: str, where: str, **more: Any) -> int:
        url = f"{sas.endpoint}/{where}?{sas.query}"
        headers = {"x-ms-blob-type": "BlockBlob"} if method == "PUT" else {}
        return requests.request(method, url, headers=headers, verify=sas.ca_file, timeout=10, **more).status_code

    assert ask("PUT", f"{container}/a", data=b"x") == 201
    assert ask("GET", f"{container}/a") == 200
    assert ask("PUT", f"{other}/a", data=b"x") == 403
    assert ask("GET", f"{other}/a") == 403
    assert ask("GET", container, params={"restype": "container", "comp": "list"}) == 403
    assert ask("DELETE", f"{container}/a") == 403
    assert blobs(account, other) == {}


def test_token_that_the_account_refuses_pauses_its_pushes(
    stage: GrantStage, oauth: EntraServer, account: Azurite, container: str
) -> None:
    """As when the tenant ended the session: another is fetched once, then a person is asked; then the push goes on."""
    oauth.claims = {"aud": GRAPH}
    grant = connected(stage, account)

    push_id = stage.push(grant, stage.source(3), "paused", bucket=f"az://{container}")
    row = stage.wait(push_id, State.AWAITING_CONSENT)
    before = blobs(account, container)
    oauth.claims = {}
    resumed = stage.reconnect(grant)
    ended = stage.wait(push_id)

    assert (row["error_code"], before) == ("CONSENT_NEEDED", {})
    assert "does not take the access token of this connection: reconnect" in row["error_message"]
    assert sum(m.what == "issued" for m in oauth.moments) == 1
    assert (resumed, ended["state"], len(blobs(account, container))) == (1, "succeeded", 3), ended


def test_container_that_is_not_there_is_named(stage: GrantStage, account: Azurite) -> None:
    row = stage.wait(stage.push(connected(stage, account), stage.source(1), "x", bucket="az://no-such-container"))

    assert (row["state"], row["error_code"]) == ("failed", "NO_SUCH_BUCKET"), row
    assert "'no-such-container'" in row["error_message"]


# -- whom the engine and the inspector trust -------------------------------------------------------------


@pytest.fixture
def engine(server_dir: Path) -> Iterator[Rclone]:
    made = Rclone(Settings(rclone=str(binaries.rclone()), runtime_dir=server_dir / f"engine-{os.urandom(3).hex()}"))
    yield made
    made.stop()


@pytest.fixture
def inspector() -> Iterator[CloudInspector]:
    with closing(CloudInspector()) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> PlannedFile:
    where = tmp_path / "f"
    where.write_bytes(b"content")
    return PlannedFile(1, "f", "runs/7/f", 7, where.stat().st_mtime_ns)


def sent(engine: Rclone, destination: Destination, secret: Secret, root: Path, file: PlannedFile) -> object:
    """Nothing, or the code of what went wrong."""
    try:
        with engine.open(destination, secret, f"g-{os.urandom(4).hex()}") as session:
            return {seq: error.code for seq, error in session.send(root, [file], GoOn()).items()}
    except CloudPushError as e:
        return e.code


def looked(inspector: CloudInspector, destination: Destination, secret: Secret) -> object:
    """Whether the file is there, or the code of what went wrong."""
    try:
        return [seen.exists for seen in inspector.look(destination, secret, ["runs/7/f"], GoOn())]
    except CloudPushError as e:
        return e.code


def test_one_ca_is_trusted_for_its_own_requests_only(
    engine: Rclone, inspector: CloudInspector, account: Azurite, tmp_path: Path, file: PlannedFile
) -> None:
    """Without it the same account is refused before anybody trusted it; with somebody else's after that."""
    place = on_azure(account)
    good = place.secret(3600)
    assert isinstance(good, Sas)
    with servers.scratch() as base, servers.running(Azurite(base / "stranger", oauth=True)) as stranger:
        nobodys, strangers = replace(good, ca_file=""), replace(good, ca_file=str(stranger.ca_file))

        def ask(secret: Secret) -> tuple[object, object]:
            outcome = sent(engine, place.destination, secret, tmp_path, file)
            return outcome, looked(inspector, place.destination, secret)

        outcomes = [ask(secret) for secret in (nobodys, good, strangers)]

    assert outcomes == [(Code.TLS_FAILED, Code.TLS_FAILED), ({}, [True]), (Code.TLS_FAILED, Code.TLS_FAILED)]


def test_clouds_of_either_sort_are_pushed_to_at_once(
    engine: Rclone, azurite: Azurite, account: Azurite, tmp_path: Path, file: PlannedFile
) -> None:
    """rclone's remotes of one process share connections, whichever was first: here none has another's trust."""
    with GcsDouble({}) as double:
        places = [on_gcs(double), on_azure(azurite), on_azure(account)]
        for place in (*places, *reversed(places)):
            assert sent(engine, place.destination, place.secret(3600), tmp_path, file) == {}
        assert [place.stored() for place in places] == [{"runs/7/f": b"content"}] * 3


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_unusable_ca_is_told_and_ends_nothing(
    engine: Rclone, azurite: Azurite, tmp_path: Path, file: PlannedFile, content: bytes | None
) -> None:
    """rclone would end, with all that it is sending, where it cannot read such a file."""
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    place = on_azure(azurite)
    secret = place.secret(3600)
    assert isinstance(secret, Sas)
    engine.start()
    pid = engine.pid

    with pytest.raises(CloudPushError) as caught:
        engine.open(place.destination, replace(secret, ca_file=str(ca_file)), "g").__enter__()

    assert (caught.value.code, caught.value.field) == (Code.SETTINGS_INVALID, "ca_file")
    assert str(ca_file) in caught.value.message
    assert looked(CloudInspector(), place.destination, replace(secret, ca_file=str(ca_file))) == Code.SETTINGS_INVALID
    assert (sent(engine, place.destination, secret, tmp_path, file), engine.pid) == ({}, pid)


def test_rights_that_ended_or_lack_are_told_apart(
    engine: Rclone, inspector: CloudInspector, account: Azurite, tmp_path: Path, file: PlannedFile
) -> None:
    """Over TLS, too: expired, not allowed to write, not allowed to look."""
    place = on_azure(account)
    expired = place.secret(-60)
    to_look = signature(account, place.destination.bucket, 3600, permissions="r")
    to_write = signature(account, place.destination.bucket, 3600, permissions="cw")

    outcomes = [sent(engine, place.destination, secret, tmp_path, file) for secret in (expired, to_look)]
    assert outcomes == [Code.CREDENTIAL_EXPIRED, {1: Code.ACCESS_DENIED}]
    assert looked(inspector, place.destination, expired) == Code.CREDENTIAL_EXPIRED
    [seen] = inspector.look(place.destination, to_write, ["runs/7/f"], GoOn())
    assert (seen.exists, seen.error and seen.error.code) == (None, Code.ACCESS_DENIED)
    assert datetime.now(UTC) > expired.expires_at  # type: ignore[attr-defined]
    until(lambda: place.stored() == {}, "nothing was stored")
