"""What a real S3 server says to credentials that are wrong, and what becomes of it."""

from __future__ import annotations

import base64
import hashlib
import traceback
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cloudpush.errors import CloudPushError, Code
from cloudpush.net import Answer
from cloudpush.push.job import Destination, Profile, Seen
from cloudpush.push.uris import parse_destination
from cloudpush.verify.heads import S3Inspector
from cloudpush.verify.wire import Headers, Wire
from fakes_inspector import GoOn, PlainSecret
from servers import Cloud

pytestmark = pytest.mark.stack

MANY = [f"k{i:03d}" for i in range(50)]


@pytest.fixture
def destination(seaweedfs: Cloud) -> Destination:
    bucket = seaweedfs.make_bucket("verify")
    profiles = {"lab": Profile("lab", "seaweedfs", seaweedfs.endpoint, seaweedfs.region, trusted=True)}
    for key in MANY:
        seaweedfs.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    return parse_destination(f"lab://{bucket}", profiles)


def secret_of(cloud: Cloud, name: str = "admin") -> PlainSecret:
    identity = {"admin": cloud.admin, "writer": cloud.writer, "reader": cloud.reader}[name]
    return PlainSecret(identity.access_key, identity.secret_key)


def looked(destination: Destination, secret: PlainSecret, keys: Sequence[str]) -> Sequence[Seen]:
    return S3Inspector().look(destination, secret, keys, GoOn())


@pytest.mark.parametrize("keys", [MANY[:1], MANY])
def test_wrong_credentials_end_the_question(seaweedfs: Cloud, destination: Destination, keys: list[str]) -> None:
    """A HEAD says 403 only; the error says which part of the credential is wrong, and shows none of it."""
    good = secret_of(seaweedfs)
    wrong = {
        "secret": replace(good, secret_access_key="canary-secret-value"),
        "key id": replace(good, access_key_id="AKCANARY000000000001"),
        "session": replace(good, access_key_id="ASCANARY000000000001", session_token="canary-session-token"),
    }
    codes: dict[str, set[Code]] = {}

    for what, secret in wrong.items():
        for ask in (S3Inspector().look, S3Inspector().survey):
            with pytest.raises(CloudPushError) as caught:
                ask(destination, secret, keys, GoOn())
            shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caught.value.detail
            assert "canary" not in shown.lower()
            codes.setdefault(what, set()).add(caught.value.code)

    assert codes == {
        "secret": {Code.BAD_SIGNATURE},
        "key id": {Code.BAD_SIGNATURE},
        "session": {Code.CREDENTIAL_EXPIRED},
    }


def test_a_credential_that_may_only_write_sees_nothing(seaweedfs: Cloud, destination: Destination) -> None:
    """Neither present nor absent: each answer says that we may not look."""
    seen = S3Inspector().survey(destination, secret_of(seaweedfs, "writer"), [*MANY, "none"], GoOn())

    assert [(s.exists, s.error.code if s.error else None) for s in seen] == [(None, Code.ACCESS_DENIED)] * 51


def test_a_credential_that_may_only_read_sees_all(seaweedfs: Cloud, destination: Destination) -> None:
    """Looking needs no right to write."""
    seen = looked(destination, secret_of(seaweedfs, "reader"), [*MANY, "none"])

    assert [s.exists for s in seen] == [True] * 50 + [False]


def test_a_listing_saves_requests(seaweedfs: Cloud, destination: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty keys are surveyed with one page and not one HEAD."""
    asked: list[str] = []
    real = Wire.request

    async def noted(self: Wire, method: str, path: str, query: str, headers: Headers, *, limit: int = 0) -> Answer:
        asked.append("page" if "list-type=2" in query else method)
        return await real(self, method, path, query, headers, limit=limit)

    monkeypatch.setattr(Wire, "request", noted)

    S3Inspector().survey(destination, secret_of(seaweedfs), MANY, GoOn())

    assert asked == ["page"]


def test_a_checksum_that_the_server_computed_is_seen(seaweedfs: Cloud, destination: Destination) -> None:
    """An object that came with a SHA-256 carries it in the answer to a HEAD."""
    seaweedfs.client.put_object(Bucket=destination.bucket, Key="sum", Body=b"0123456789", ChecksumAlgorithm="SHA256")

    (seen,) = looked(destination, secret_of(seaweedfs), ["sum"])

    assert base64.b64decode(seen.sha256) == hashlib.sha256(b"0123456789").digest()
