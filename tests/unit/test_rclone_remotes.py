"""Destinations as rclone remotes, and the arithmetic of pieces."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudpush.errors import Code, InputError
from cloudpush.push.blocks import BLOCK, MAX_BLOCKS, MIB, block_size
from cloudpush.push.endpoints import Endpoint, resolve
from cloudpush.push.grants.model import Bearer, Sas
from cloudpush.push.job import Destination, Profile, Secret
from cloudpush.transfer.azure import AZURE
from cloudpush.transfer.backends import BACKENDS
from cloudpush.transfer.gcs import GCS
from cloudpush.transfer.remotes import CUTOFF, MAX_PIECES, PIECE, Backend, parameters, piece_size
from fakes_inspector import PlainSecret

GIB = 1024 * MIB


def destination(dialect: str) -> Destination:
    return Destination("s3", "results", "p", Profile("it", dialect))


@dataclass(frozen=True)
class SignedUrl(PlainSecret):
    @property
    def kind(self) -> str:
        return "signed_url"


@pytest.mark.parametrize(
    ("size", "piece"),
    [
        (0, None),
        (CUTOFF - 1, None),
        (CUTOFF, PIECE),
        (PIECE * MAX_PIECES, PIECE),
        (PIECE * MAX_PIECES + 1, PIECE + MIB),
        (200 * GIB, 21 * MIB),
        (5 * 1024 * GIB, 525 * MIB),
    ],
)
def test_pieces_grow_only_when_there_would_be_too_many(size: int, piece: int | None) -> None:
    """Small files go whole, larger ones in pieces of 16 MiB, huge ones in as many pieces as S3 takes."""
    assert piece_size(size) == piece


@given(st.integers(CUTOFF, 50 * 1024 * GIB))
def test_no_file_has_too_many_pieces(size: int) -> None:
    """Whatever its size, a file has at most ten thousand pieces of whole MiB."""
    piece = piece_size(size)

    assert piece is not None
    assert (-(-size // piece) <= MAX_PIECES, piece % MIB) == (True, 0)


@pytest.mark.parametrize(
    ("dialect", "url", "path_style", "provider"),
    [
        ("aws", "https://s3.eu-west-1.amazonaws.com", False, "AWS"),
        ("aws", "https://s3.eu-west-1.amazonaws.com", True, "Other"),  # rclone's AWS ignores the wish
        ("aws", "http://vpc.example.org", False, "Other"),  # and its checksums need TLS
        ("minio", "http://minio:9000", True, "Minio"),
        ("seaweedfs", "http://weed:8333", True, "SeaweedFS"),
        ("cloudflare", "https://a.r2.cloudflarestorage.com", True, "Cloudflare"),
        ("ceph", "https://rgw.example.org", True, "Ceph"),
        ("backblaze", "https://s3.eu-central-003.backblazeb2.com", True, "Other"),
        ("other", "https://s3.example.org", True, "Other"),
    ],
)
def test_dialects_are_rclones_providers(dialect: str, url: str, path_style: bool, provider: str) -> None:
    """Each dialect has rclone's provider, with the exceptions that rclone forces."""
    endpoint = Endpoint(url, "eu-west-1", path_style, trusted=True)

    found = parameters(destination(dialect), PlainSecret(), endpoint)

    assert (found["provider"], found["force_path_style"]) == (provider, "true" if path_style else "false")


def test_the_remote_is_complete() -> None:
    """Everything that rclone is told, in one view."""
    secret = PlainSecret("AK", "SK", session_token="ST")

    found = parameters(destination("minio"), secret, Endpoint("http://minio:9000", "eu-1", True, trusted=True))

    assert found == {
        "provider": "Minio",
        "env_auth": "false",
        "access_key_id": "AK",
        "secret_access_key": "SK",
        "session_token": "ST",
        "endpoint": "http://minio:9000",
        "region": "eu-1",
        "force_path_style": "true",
        "encoding": "Raw",
        "no_check_bucket": "true",
        "no_head": "true",
        "disable_checksum": "true",
        "upload_cutoff": "67108864B",
        "chunk_size": "16777216B",
        "upload_concurrency": "4",
    }


LATER = datetime(2100, 1, 1, tzinfo=UTC)
GOOGLE = Destination("gs", "results", "p", Profile("gcs", "gcs"))
CONTAINER = Destination("az", "results", "p", Profile("azure", "azure"))


@pytest.mark.parametrize(
    ("named", "option"),
    [("", {}), ("http://127.0.0.1:4443", {"endpoint": "http://127.0.0.1:4443/storage/v1/"})],
)
def test_googles_remote_is_complete(named: str, option: dict[str, str]) -> None:
    """A token with its expiry and no refresh token; another endpoint than Google's where the operator names one."""
    secret = Bearer("T", LATER, None, named)

    assert GCS.parameters(GOOGLE, secret, resolve(GOOGLE, secret)) == {
        "env_auth": "false",
        "token": '{"access_token":"T","token_type":"Bearer","expiry":"2100-01-01T00:00:10Z"}',
        "bucket_policy_only": "true",
        "no_check_bucket": "true",
        "encoding": "Raw",
        **option,
    }


def test_azures_remote_is_complete() -> None:
    """The signature as a URL, and blocks as the inspector counts on them."""
    secret = Sas("https://lab.blob.core.windows.net/results", "sig=S&sp=rcw", LATER)

    assert AZURE.parameters(CONTAINER, secret, resolve(CONTAINER, secret)) == {
        "env_auth": "false",
        "sas_url": "https://lab.blob.core.windows.net/results?sig=S&sp=rcw",
        "no_check_container": "true",
        "encoding": "Raw",
        "disable_checksum": "true",
        "chunk_size": "4194304B",
        "upload_concurrency": "4",
    }


@pytest.mark.parametrize("backend", BACKENDS.values())
def test_what_opens_a_remote_is_known_by_name(backend: Backend) -> None:
    """When a session ends exactly these options are emptied, and what is in them is masked."""
    secrets: list[Secret] = [
        PlainSecret("AK", "SK", session_token="ST"),
        Bearer("T", LATER, None),
        Sas("https://h/results", "sig=S", LATER),
    ]
    secret = next(s for s in secrets if BACKENDS[s.kind] is backend)

    found = backend.opens(secret)

    assert set(found) == set(backend.secrets)
    assert all(any(masked in value for masked in backend.masked(secret)) for value in found.values())


@pytest.mark.parametrize(
    ("size", "block"),
    [
        (0, None),
        (BLOCK, None),
        (BLOCK + 1, BLOCK),
        (BLOCK * MAX_BLOCKS, BLOCK),
        (BLOCK * MAX_BLOCKS + 1, BLOCK + MIB),
        (1024 * GIB, 21 * MIB),
    ],
)
def test_blocks_grow_only_when_there_would_be_too_many(size: int, block: int | None) -> None:
    """Small files go whole, larger ones in blocks of 4 MiB, huge ones in as many blocks as Azure takes."""
    assert block_size(size) == block


def test_another_kind_of_secret_is_refused_by_name() -> None:
    """Only key pairs open an S3 remote."""
    with pytest.raises(InputError) as raised:
        parameters(destination("minio"), SignedUrl(), Endpoint("http://minio:9000", "eu-1", True, trusted=True))

    assert (raised.value.code, raised.value.field) == (Code.BAD_INPUT, "kind")
