from __future__ import annotations

from collections.abc import Collection

import pytest

from cloudpush.errors import Code, InputError
from cloudpush.push.endpoints import Endpoint, resolve
from cloudpush.push.job import Destination, Profile
from cloudpush.push.uris import BUILT_IN
from fakes_inspector import PlainSecret

INTERNAL = Profile("lab", "minio", endpoint="http://minio.lab:9000/", region="lab-1", trusted=True)


def resolved(
    profile: Profile, secret: PlainSecret, *, bucket: str = "data", allowed: Collection[str] = ()
) -> Endpoint | Code:
    try:
        return resolve(Destination("s3", bucket, "", profile), secret, allowed)
    except InputError as e:
        return e.code


@pytest.mark.parametrize(
    ("profile", "secret", "endpoint"),
    [
        (BUILT_IN["aws"], PlainSecret(), Endpoint("https://s3.us-east-1.amazonaws.com", "us-east-1", False, True)),
        (
            BUILT_IN["aws"],
            PlainSecret(region="eu-west-1"),
            Endpoint("https://s3.eu-west-1.amazonaws.com", "eu-west-1", False, True),
        ),
        (
            BUILT_IN["aws"],
            PlainSecret(region="cn-north-1"),
            Endpoint("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", False, True),
        ),
        (
            BUILT_IN["aws"],
            PlainSecret(own_endpoint="https://s3.dualstack.eu-west-3.amazonaws.com/"),
            Endpoint("https://s3.dualstack.eu-west-3.amazonaws.com", "eu-west-3", False, False),
        ),
        (
            BUILT_IN["aws"],
            PlainSecret(own_endpoint="https://objects.example.org"),
            Endpoint("https://objects.example.org", "us-east-1", True, False),
        ),
        (
            BUILT_IN["r2"],
            PlainSecret(own_endpoint="https://abc.r2.cloudflarestorage.com"),
            Endpoint("https://abc.r2.cloudflarestorage.com", "auto", True, False),
        ),
        (
            BUILT_IN["b2"],
            PlainSecret(region="eu-central-003"),
            Endpoint("https://s3.eu-central-003.backblazeb2.com", "eu-central-003", True, True),
        ),
        (
            BUILT_IN["b2"],
            PlainSecret(own_endpoint="https://s3.us-west-004.backblazeb2.com"),
            Endpoint("https://s3.us-west-004.backblazeb2.com", "us-west-004", True, False),
        ),
        (INTERNAL, PlainSecret(), Endpoint("http://minio.lab:9000", "lab-1", True, True)),
        (
            INTERNAL,
            PlainSecret(own_endpoint="http://MINIO.lab.:9000", region="lab-2"),
            Endpoint("http://minio.lab:9000", "lab-2", True, True),
        ),
        (
            INTERNAL,
            PlainSecret(own_endpoint="https://evil.example.org"),
            Endpoint("https://evil.example.org", "lab-1", True, False),
        ),
        (INTERNAL, PlainSecret(own_endpoint="http://10.0.0.1:9000"), Code.ENDPOINT_FORBIDDEN),
        (BUILT_IN["r2"], PlainSecret(), Code.BAD_INPUT),
        (BUILT_IN["minio"], PlainSecret(), Code.BAD_INPUT),
        (BUILT_IN["aws"], PlainSecret(region="evil.example.org/#"), Code.BAD_INPUT),
        (BUILT_IN["aws"], PlainSecret(region="evil.example"), Code.BAD_INPUT),
        (BUILT_IN["aws"], PlainSecret(own_endpoint="ftp://example.org"), Code.BAD_INPUT),
    ],
)
def test_where_requests_go(profile: Profile, secret: PlainSecret, endpoint: Endpoint | Code) -> None:
    """The credential's endpoint comes first, then the profile's, then the dialect's; only a user's is not trusted."""
    assert resolved(profile, secret) == endpoint


def test_a_listed_host_is_trusted() -> None:
    """What the operator listed may be http and private, for any credential."""
    secret = PlainSecret(own_endpoint="http://127.0.0.1:9000")

    endpoint = resolved(BUILT_IN["minio"], secret, allowed=["127.0.0.1:9000"])

    assert endpoint == Endpoint("http://127.0.0.1:9000", "us-east-1", path_style=True, trusted=True)


@pytest.mark.parametrize(
    ("bucket", "url"),
    [
        ("data", "https://data.s3.us-east-1.amazonaws.com"),
        ("my.data", "https://s3.us-east-1.amazonaws.com/my.data"),  # no certificate covers two labels
    ],
)
def test_bucket_url_of_amazon(bucket: str, url: str) -> None:
    """Amazon's buckets are host names, unless TLS forbids it."""
    endpoint = resolved(BUILT_IN["aws"], PlainSecret(), bucket=bucket)

    assert isinstance(endpoint, Endpoint)
    assert endpoint.bucket_url(bucket) == url
