"""What providers were seen or are documented to answer, where no server that can be started here answers so.

Only the answers are made up: the uploader sends as always, to a proxy that knows nothing else. Beside each stands why no
emulator can do it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from awscrt import checksums

from cloudpush.errors import CloudPushError, Code
from cloudpush.push.signed.model import Arrival
from cloudpush.push.states import Strength
from cloudpush.stack.azurite import AzureAccount
from cloudpush.transfer.signed import wire
from doubles.faults import Fault, FaultProxy, Reply, Rule
from matrix import FILE, Sender, secrets_of
from servers import ADMIN
from signers import MIB, AzureSigner, GcsSigner, Row, S3Signer

BODY = b"123456789"
MD5 = hashlib.md5(BODY).digest()
CRC64 = checksums.crc64nvme(BODY)
KEY = "runs/7/f.bin"

Make = Callable[[FaultProxy], Row]


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    """Whatever no rule answers fails: there is nothing behind it."""
    with FaultProxy("http://127.0.0.1:9") as one:
        yield one


@pytest.fixture(scope="module")
def sender(proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sender]:
    one = Sender(tmp_path_factory.mktemp("sources"), [proxy.address])
    yield one
    one.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PAUSE", 0.01)


def s3(proxy: FaultProxy) -> Row:
    return S3Signer(proxy.endpoint, ADMIN, "bucket").put(FILE, KEY)


def gcs(proxy: FaultProxy) -> Row:
    return GcsSigner(proxy.endpoint, "bucket").put(FILE, KEY)


def azure(proxy: FaultProxy) -> Row:
    return AzureSigner(proxy.endpoint, AzureAccount(), "container").put(FILE, KEY)


def answered(
    sender: Sender, proxy: FaultProxy, row: Row, *replies: Reply, body: bytes = BODY
) -> Arrival | CloudPushError:
    """What becomes of a file where the server gives these answers, the last one again and again."""
    rules = [Rule(Fault.SWALLOW, reply=reply, times=1) for reply in replies[:-1]]
    proxy.spoil(*rules, Rule(Fault.SWALLOW, reply=replies[-1]))
    outcome = sender.send(row, body)
    told = f"{outcome!r} {outcome} {getattr(outcome, 'detail', '')}"
    assert [secret for secret in secrets_of(row) if secret in told] == []
    return outcome


def error(status: int, code: str, message: str, more: str = "", **headers: str) -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# -- proofs ----------------------------------------------------------------------------------

KMS = {"x-amz-server-side-encryption": "aws:kms", "ETag": '"6f1ed002ab5595859014ebf0951522d9"'}


@pytest.mark.recorded  # SeaweedFS has no KMS: under SSE-KMS an ETag looks like an MD5 and is none
@pytest.mark.parametrize(
    ("headers", "strength"),
    [
        ({**KMS, "x-amz-checksum-crc64nvme": b64(CRC64.to_bytes(8, "big"))}, Strength.CHECKSUM),
        (KMS, Strength.RESPONSE),
        ({"ETag": f'"{MD5.hex()}"'}, Strength.CHECKSUM),
        ({}, Strength.RESPONSE),
    ],
    ids=["kms with crc64nvme", "kms alone", "plain", "nothing"],
)
def test_s3_proves_what_its_answer_holds(
    sender: Sender, proxy: FaultProxy, headers: dict[str, str], strength: Strength
) -> None:
    outcome = answered(sender, proxy, s3(proxy), Reply(200, headers))
    assert isinstance(outcome, Arrival), outcome
    assert outcome.strength is strength
    assert bool(outcome.note) is (strength is Strength.RESPONSE)


@pytest.mark.recorded  # as above
def test_a_crc_of_other_bytes_outweighs_any_etag(sender: Sender, proxy: FaultProxy) -> None:
    """The digest that AWS computed counts, even beside an ETag that is equal."""
    headers = {"ETag": f'"{MD5.hex()}"', "x-amz-checksum-crc64nvme": b64((CRC64 ^ 1).to_bytes(8, "big"))}
    outcome = answered(sender, proxy, s3(proxy), Reply(200, headers))
    assert isinstance(outcome, CloudPushError)
    assert outcome.code is Code.CORRUPTED


@pytest.mark.recorded  # Azurite answers 500 where x-ms-content-crc64 is asked for; real Azure writes it lowest byte first
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-ms-content-crc64": b64(CRC64.to_bytes(8, "little"))}, Strength.CHECKSUM),
        ({"Content-MD5": b64(MD5)}, Strength.CHECKSUM),
        ({"x-ms-content-crc64": b64((CRC64 ^ 1).to_bytes(8, "little"))}, Code.CORRUPTED),
        ({"Content-MD5": b64(bytes(16))}, Code.CORRUPTED),
    ],
    ids=["crc64", "md5", "wrong crc64", "wrong md5"],
)
def test_azure_proves_what_its_answer_holds(
    sender: Sender, proxy: FaultProxy, headers: dict[str, str], expected: Strength | Code
) -> None:
    outcome = answered(sender, proxy, azure(proxy), Reply(201, {"ETag": '"0x8DB"', **headers}))
    assert (outcome.strength if isinstance(outcome, Arrival) else outcome.code) is expected


# -- refusals --------------------------------------------------------------------------------

AZURE_DETAIL = (
    "<AuthenticationErrorDetail>Signature not valid in the specified time frame: Start [{}] - Expiry [{}] - "
    "Current [Sat, 21 Nov 2026 12:00:00 GMT]</AuthenticationErrorDetail>"
)


@pytest.mark.recorded  # captured answers; emulators use other words, or cannot be made to give them
@pytest.mark.parametrize(
    ("make", "reply", "code"),
    [
        (s3, error(403, "AccessDenied", "Request has expired", "<X-Amz-Expires>300</X-Amz-Expires>"), Code.URL_EXPIRED),
        (s3, error(400, "ExpiredToken", "The provided token has expired."), Code.URL_EXPIRED),
        (s3, error(400, "ExpiredRequest", "Request has expired"), Code.URL_EXPIRED),  # R2
        (s3, error(403, "RequestTimeTooSkewed", "The difference between the times is too large."), Code.CLOCK_SKEW),
        (s3, error(403, "AccessDenied", "Request is not valid yet"), Code.URL_NOT_YET_VALID),
        (s3, error(400, "KMS.DisabledException", "The key is disabled."), Code.ACCESS_DENIED),
        (s3, error(429, "TooManyRequests", "Reduce your rate of simultaneous writes."), Code.THROTTLED),  # R2
        (gcs, error(400, "ExpiredToken", "The provided token has expired."), Code.URL_EXPIRED),  # until 2021
        (gcs, error(400, "ExpiredToken", "Invalid argument."), Code.URL_EXPIRED),  # since
        (
            azure,
            error(
                403,
                "AuthenticationFailed",
                "Server failed to authenticate the request.",
                AZURE_DETAIL.format("Sat, 21 Nov 2026 09:00:00 GMT", "Sat, 21 Nov 2026 10:00:00 GMT"),
                x_ms_error_code="AuthenticationFailed",
            ),
            Code.URL_EXPIRED,
        ),
        (
            azure,
            error(
                403,
                "AuthenticationFailed",
                "Server failed to authenticate the request.",
                AZURE_DETAIL.format("Sat, 21 Nov 2026 13:00:00 GMT", "Sat, 21 Nov 2026 14:00:00 GMT"),
                x_ms_error_code="AuthenticationFailed",
            ),
            Code.URL_NOT_YET_VALID,
        ),
        (azure, error(400, "Md5Mismatch", "The MD5 value is other.", x_ms_error_code="Md5Mismatch"), Code.CORRUPTED),
        (azure, error(404, "ContainerNotFound", "", x_ms_error_code="ContainerNotFound"), Code.NO_SUCH_BUCKET),
        (azure, error(503, "ServerBusy", "", x_ms_error_code="ServerBusy", Retry_After="0"), Code.THROTTLED),
    ],
)
def test_refusals_mean_what_they_say(sender: Sender, proxy: FaultProxy, make: Make, reply: Reply, code: Code) -> None:
    outcome = answered(sender, proxy, make(proxy), reply)
    assert isinstance(outcome, CloudPushError)
    assert outcome.code is code


def test_a_redirect_is_never_followed(sender: Sender, proxy: FaultProxy) -> None:
    """Neither within S3, whose regions redirect, nor into somebody's own network."""
    for target in ("https://bucket.s3.eu-west-1.amazonaws.com/", "http://169.254.169.254/latest/meta-data/"):
        outcome = answered(sender, proxy, s3(proxy), Reply(307, {"Location": target}))
        assert isinstance(outcome, CloudPushError)
        assert (outcome.code, len(proxy.seen)) == (Code.PROVIDER_REFUSED, 1)
        assert "169.254" not in f"{outcome} {outcome.detail}"


def test_a_session_at_another_server_is_never_followed(sender: Sender, proxy: FaultProxy) -> None:
    """A start that answers with somebody else's address would lead our requests anywhere."""
    row = GcsSigner(proxy.endpoint, "bucket").start(FILE, KEY)
    outcome = answered(sender, proxy, row, Reply(201, {"Location": "http://127.0.0.1:9/bucket/k?upload_id=x"}))
    assert isinstance(outcome, CloudPushError)
    assert (outcome.code, len(proxy.seen)) == (Code.ENDPOINT_FORBIDDEN, 1)


def test_an_answer_without_end_is_cut(sender: Sender, proxy: FaultProxy) -> None:
    proxy.spoil(Rule(Fault.ENDLESS, reply=Reply(400)))
    outcome = sender.send(s3(proxy), BODY)
    assert isinstance(outcome, CloudPushError)
    assert outcome.code is Code.PROVIDER_REFUSED


def test_a_refusal_in_the_middle_of_a_body_ends_it(sender: Sender, proxy: FaultProxy) -> None:
    """Not all of a large file is sent to a server that has said no."""
    proxy.spoil(Rule(Fault.STALE, reply=error(403, "SignatureDoesNotMatch", "")))
    outcome = sender.send(s3(proxy), bytes(32 * MIB))
    assert isinstance(outcome, CloudPushError)
    assert outcome.code is Code.BAD_SIGNATURE
    assert proxy.received == {f"/bucket/{KEY}": 0}


def test_a_url_is_judged_by_its_server_not_by_what_its_clock_seems_to_be(sender: Sender, proxy: FaultProxy) -> None:
    """A Date is anybody's claim: what is valid by our own clock is tried, and only an answer can say that it has expired."""
    row = s3(proxy)
    proxy.spoil(Rule(Fault.SWALLOW, reply=Reply(200, {"ETag": f'"{MD5.hex()}"'})))
    proxy.clock_skew = timedelta(hours=1)
    other = Sender(sender.sources, [proxy.address])
    try:
        assert isinstance(other.send(row, BODY), Arrival)
        late = other.send(row, BODY)
    finally:
        other.close()
    assert (type(late), len(proxy.seen)) == (Arrival, 2)
