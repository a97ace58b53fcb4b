"""Keys of a role for an identity token: our issuer with its key in a real vault, a real STS, real refusals.

What SeaweedFS cannot show: AWS' own trust policies (its conditions are called HOST:aud and HOST:sub), AWS' variables for
``*``, ``?`` and ``$`` in policies (recorded in test_policies), and the two-step check that a role refuses strangers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import boto3
import hvac
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

import dev_vault
import servers
from builders import OWNER, a_push
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.issuer import Issuer, PublicKeys
from cloudpush.credentials.mint_aws import Role, assume, session_policy
from cloudpush.credentials.minting import Mint
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.grants.model import WEB_IDENTITY, Grant, Pass, Provider, Tokens, Use
from cloudpush.push.job import Destination, Profile, Push
from cloudpush.settings import Settings
from cloudpush.stack.seaweedfs import SeaweedFS, role_arn, web_identity
from cloudpush.stack.services import OpenBao
from cloudpush.wiring import SystemClock
from fakes_mint import FakeAccess, Grants, OneProvider, a_provider, an_active_grant
from issuer_server import issuer

GRANT = an_active_grant(id=uuid4(), kind=WEB_IDENTITY, settings={"role_arn": role_arn("Pinned"), "region": "us-east-1"})
BUCKET, OTHER = "results", "secrets"
SESSION_SECONDS = 6


@dataclass(frozen=True)
class World:
    """A cloud that trusts our issuer, and the issuer."""

    cloud: SeaweedFS
    identity: Issuer
    connection: VaultConnection
    url: str

    @property
    def provider(self) -> Provider:
        """The cloud as an operator describes it; sessions live as short as it likes."""
        return a_provider(Use.WEB_IDENTITY, sts_endpoint=self.cloud.endpoint, session_seconds=SESSION_SECONDS)

    def mint(self, grant: Grant = GRANT, provider: Provider | None = None) -> Mint:
        """A mint that knows ``grant``."""
        grants = Grants(grant)
        return Mint(
            access=FakeAccess(grants, Tokens("none")),
            store=grants,  # type: ignore[arg-type]
            providers=OneProvider(provider or self.provider),
            identity=self.identity,
            clock=SystemClock(),
        )

    def push(self, prefix: str = "runs/7", bucket: str = BUCKET, **changes: Any) -> Push:
        """A push with the grant."""
        profile = Profile("seaweedfs", "seaweedfs", self.cloud.endpoint, trusted=True)
        destination = Destination("s3", bucket, prefix, profile)
        return a_push(destination=destination, credential_id=GRANT.id, owner=OWNER, **changes)

    def client(self, made: Pass) -> Any:
        """A boto3 client with what a pass opens."""
        fields = made.secret.reveal()
        return boto3.client(
            "s3",
            endpoint_url=self.cloud.endpoint,
            aws_access_key_id=fields["access_key_id"],
            aws_secret_access_key=fields["secret_access_key"],
            aws_session_token=fields["session_token"],
            region_name=fields["region"],
            config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}),
        )

    def refused(self, identity: str, role: str = "Open") -> CloudPushError:
        """How the STS refuses ``identity``."""
        chosen = Role(role_arn(role), self.cloud.endpoint, "us-east-1", "")
        policy = session_policy(self.push().destination, chosen.arn, listing=True)
        with pytest.raises(CloudPushError) as caught:
            assume(self.provider, chosen, identity, name="cloudpush-test", policy=policy)
        assert identity not in f"{caught.value!r} {caught.value.detail}"
        return caught.value


@pytest.fixture(scope="module")
def world(openbao: OpenBao) -> Iterator[World]:
    """Everything real: OpenBao with the roles that ship, uvicorn, SeaweedFS with STS."""
    settings = Settings(vault_url=openbao.url, vault_auth_dir=openbao.auth_dir)
    web, worker = VaultConnection(settings, "web"), VaultConnection(settings, "worker")
    with servers.scratch() as base, issuer(PublicKeys(web)) as url:
        roles = {"Pinned": str(GRANT.id), "Open": ""}
        document = web_identity(url, f"{url}/.well-known/jwks.json", "cloudpush", roles, session=f"{SESSION_SECONDS}s")
        server = SeaweedFS(base / "cloud", [servers.ADMIN], buckets=[BUCKET, OTHER], iam=document)
        with servers.running(server):
            yield World(server, Issuer(worker, url), worker, url)
    web.close()
    worker.close()


def status(ask: Any, **parameters: Any) -> int:
    """The status that a request of boto3's ends with."""
    try:
        answer = ask(**parameters)
    except ClientError as e:
        return int(e.response["ResponseMetadata"]["HTTPStatusCode"])
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def test_a_pass_writes_below_its_prefix_and_nowhere_else(world: World) -> None:
    """Put, in pieces too, HEAD and list below the prefix; 403 for a neighbour, another bucket, a listing, a deletion."""
    client = world.client(world.mint().mint(world.push()))
    inside = {"Bucket": BUCKET, "Key": "runs/7/a.csv"}
    assert status(client.put_object, **inside, Body=b"data") == 200
    assert status(client.head_object, **inside) == 200
    assert status(client.list_objects_v2, Bucket=BUCKET, Prefix="runs/7/") == 200
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="runs/7/big")["UploadId"]
    piece = {"Bucket": BUCKET, "Key": "runs/7/big", "UploadId": upload}
    assert status(client.upload_part, **piece, PartNumber=1, Body=b"x") == 200
    assert status(client.list_parts, **piece) == 200
    assert status(client.list_multipart_uploads, Bucket=BUCKET) == 200
    assert status(client.abort_multipart_upload, **piece) == 204

    assert status(client.put_object, Bucket=BUCKET, Key="runs/8/a.csv", Body=b"x") == 403
    assert status(client.put_object, Bucket=BUCKET, Key="runs/70/a.csv", Body=b"x") == 403
    assert status(client.put_object, Bucket=OTHER, Key="runs/7/a.csv", Body=b"x") == 403
    assert status(client.create_multipart_upload, Bucket=BUCKET, Key="runs/8/big") == 403
    assert status(client.get_object, Bucket=BUCKET, Key="runs/8/a.csv") == 403
    assert status(client.list_objects_v2, Bucket=BUCKET) == 403
    assert status(client.list_objects_v2, Bucket=BUCKET, Prefix="runs/") == 403
    assert status(client.list_objects_v2, Bucket=OTHER, Prefix="runs/7/") == 403
    assert status(client.delete_object, **inside) == 403


def test_a_push_to_the_whole_bucket_stays_in_it(world: World) -> None:
    client = world.client(world.mint().mint(world.push("")))
    assert status(client.put_object, Bucket=BUCKET, Key="top.csv", Body=b"x") == 200
    assert status(client.list_objects_v2, Bucket=BUCKET) == 200
    assert status(client.put_object, Bucket=OTHER, Key="top.csv", Body=b"x") == 403
    assert status(client.delete_object, Bucket=BUCKET, Key="top.csv") == 403


@pytest.mark.parametrize("prefix", ["runs/*", "run?", "${aws:username}", "runs\\"])
def test_a_prefix_that_would_widen_the_session_is_refused_before_anything_is_asked(world: World, prefix: str) -> None:
    """SeaweedFS takes each of these for a pattern and does not know AWS' way of writing them."""
    with pytest.raises(CloudPushError) as caught:
        world.mint().mint(world.push(prefix))
    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "destination")


def test_a_role_that_pins_its_connection_refuses_another_ones_token(world: World) -> None:
    """The open role takes the same token: it is `sub` that the pinned one refuses."""
    stranger = replace(GRANT, id=uuid4())
    identity = world.identity.issue(stranger, "cloudpush", 300)
    error = world.refused(identity, "Pinned")
    assert (error.code, error.code.actor) == (Code.ACCESS_DENIED, "user")
    assert "trust policy must name CloudPush" in error.message
    chosen = Role(role_arn("Open"), world.cloud.endpoint, "", "")
    policy = session_policy(world.push().destination, chosen.arn, listing=True)
    assert assume(world.provider, chosen, identity, name="cloudpush-test", policy=policy)


def test_tokens_that_are_old_damaged_or_for_somebody_else_are_refused(world: World) -> None:
    past = datetime.now(UTC) - timedelta(minutes=10)
    old = Issuer(world.connection, world.url, now=lambda: past).issue(GRANT, "cloudpush", 300)
    assert world.refused(old).code is Code.CLOCK_SKEW

    good = world.identity.issue(GRANT, "cloudpush", 300)
    head, body, signature = good.split(".")
    damaged = ("A" if signature[0] != "A" else "B") + signature[1:]
    assert world.refused(f"{head}.{body}.{damaged}").code is Code.ACCESS_DENIED

    other = world.identity.issue(GRANT, "somebody-else", 300)
    assert world.refused(other).code is Code.ACCESS_DENIED

    foreign = Issuer(world.connection, "https://elsewhere.example").issue(GRANT, "cloudpush", 300)
    assert world.refused(foreign).code is Code.ACCESS_DENIED

    assert world.refused(good, "Missing").code is Code.ACCESS_DENIED


def test_a_session_is_renewed_before_it_ends_and_the_old_one_dies(world: World) -> None:
    """Six-second sessions: the second pass comes while the first still works, and works when the first does not."""
    mint, push = world.mint(), world.push()
    first = mint.mint(push)
    assert mint.mint(push) is first
    assert first.renew_at is not None
    assert first.expires_at is not None
    until(lambda: mint.mint(push) is not first)
    assert datetime.now(UTC) < first.expires_at
    assert status(world.client(first).put_object, Bucket=BUCKET, Key="runs/7/old", Body=b"x") == 200
    second = mint.mint(push)
    until(lambda: status(world.client(first).head_object, Bucket=BUCKET, Key="runs/7/old") == 403)
    assert status(world.client(mint.mint(push)).put_object, Bucket=BUCKET, Key="runs/7/new", Body=b"x") == 200
    assert second.secret.reveal() != first.secret.reveal()


def until(so: Any, seconds: float = 30) -> None:
    """Ask until it is so."""
    ends_at = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def test_a_check_says_whether_the_role_accepts_us(world: World) -> None:
    world.mint().check(GRANT)
    stranger = replace(GRANT, id=uuid4())
    with pytest.raises(CloudPushError) as caught:
        world.mint(stranger).check(stranger)
    assert caught.value.code is Code.ACCESS_DENIED


def test_what_a_check_lends_may_do_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudpush.credentials import minting

    lent = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        lent.append(assume(*args, **kwargs))
        return lent[-1]

    monkeypatch.setattr(minting, "assume", spy)
    world.mint().check(GRANT)
    client = world.client(Pass(lent[0].secret, None, None))
    assert status(client.put_object, Bucket=BUCKET, Key="runs/7/a.csv", Body=b"x") == 403
    assert status(client.list_objects_v2, Bucket=BUCKET, Prefix="runs/7/") == 403


def test_metadata_and_keys_are_public_and_may_be_kept_for_a_while(world: World) -> None:
    about = requests.get(f"{world.url}/.well-known/openid-configuration", timeout=5)
    assert about.json()["issuer"] == world.url
    assert about.headers["cache-control"] == "public, max-age=3600"
    keys = requests.get(about.json()["jwks_uri"], timeout=5)
    assert keys.headers["cache-control"] == "public, max-age=300"
    assert keys.headers["content-type"] == "application/json"
    assert [set(key) for key in keys.json()["keys"]] == [{"kty", "use", "alg", "kid", "n", "e"}]
    assert requests.head(about.json()["jwks_uri"], timeout=5).status_code == 200
    assert requests.post(about.json()["jwks_uri"], timeout=5).status_code == 405


def test_a_rotated_key_is_published_before_it_signs(tmp_path: Any) -> None:
    """Whoever has a copy of the older keys can check every token in the meantime."""
    with dev_vault.running(tmp_path / "vault") as vault:
        worker, web = VaultConnection(vault.settings, "worker"), VaultConnection(vault.settings, "web")
        now = datetime.now(UTC)
        first = kid(Issuer(worker, "https://push.example", now=lambda: now).issue(GRANT, "cloudpush", 300))
        vault.root.secrets.transit.rotate_key("cloudpush-issuer")
        published = [key["kid"] for key in PublicKeys(web).jwks()["keys"]]
        assert len(published) == 2
        assert published[0] == first

        def soon(minutes: float) -> str:
            later = now + timedelta(minutes=minutes)
            return kid(Issuer(worker, "https://push.example", now=lambda: later).issue(GRANT, "cloudpush", 300))

        assert soon(5) == first
        assert soon(20) == published[1]


def test_only_workers_sign_and_nobody_gets_the_private_key(tmp_path: Any) -> None:
    with dev_vault.running(tmp_path / "vault") as vault:
        for role in dev_vault.ROLES:
            client = vault.token_of(role)
            with pytest.raises(hvac.exceptions.Forbidden):
                client.secrets.transit.export_key("cloudpush-issuer", key_type="signing-key")
            if role != "worker":
                with pytest.raises(hvac.exceptions.Forbidden):
                    client.secrets.transit.sign_data("cloudpush-issuer", hash_input="eA==")


def kid(token: str) -> str:
    """The key that signed it."""
    from joserfc import jws

    found = jws.extract_compact(token.encode()).headers()["kid"]
    return str(found)
