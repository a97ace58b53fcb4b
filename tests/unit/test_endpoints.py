from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cloudpush.errors import Code, InputError
from cloudpush.push.endpoints import Endpoint, check_credential, resolve
from cloudpush.push.grants.model import Bearer, Sas
from cloudpush.push.job import Destination, Profile, Secret
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


GOOGLE, AZURE = BUILT_IN["gcs"], BUILT_IN["azure"]
LATER = datetime(2100, 1, 1, tzinfo=UTC)
CONTAINER = "https://lab.blob.core.windows.net/data"


def opened(profile: Profile, secret: Secret, scheme: str = "gs") -> Endpoint | Code:
    try:
        return resolve(Destination(scheme, "data", "", profile), secret)
    except InputError as e:
        return e.code


@pytest.mark.parametrize(
    ("profile", "named", "url"),
    [
        (GOOGLE, "", "https://storage.googleapis.com"),
        (GOOGLE, "http://127.0.0.1:4443/", "http://127.0.0.1:4443"),
        (replace(GOOGLE, endpoint="http://emulator:80", trusted=True), "", "http://emulator"),
        (
            replace(GOOGLE, endpoint="http://emulator:80", trusted=True),
            "https://other.example.org",
            "https://other.example.org",
        ),
    ],
)
def test_an_access_token_goes_where_the_operator_says(profile: Profile, named: str, url: str) -> None:
    """The provider's endpoint, his profile's, or Google's own: each is trusted."""
    assert opened(profile, Bearer("t", None, None, named)) == Endpoint(url, "", path_style=True, trusted=True)


def test_nothing_of_a_grant_goes_to_an_endpoint_that_nobody_vouches_for() -> None:
    """Not even where the secret names another: the profile is not the operator's."""
    theirs = "https://storage.example.org"

    assert [
        opened(replace(GOOGLE, endpoint=theirs), Bearer("t", None, None)),
        opened(replace(GOOGLE, endpoint=theirs), Bearer("t", None, None, "https://storage.googleapis.com")),
        opened(replace(AZURE, endpoint=theirs), Sas(CONTAINER, "sig=x", LATER), "az"),
    ] == [Code.ENDPOINT_FORBIDDEN] * 3


def test_whom_to_trust_is_a_part_of_where_to_go() -> None:
    """A further secret that names another CA leads elsewhere."""
    found = [
        opened(profile, secret, scheme)
        for profile, secret, scheme in (
            (GOOGLE, Bearer("t", None, None, ca_file="/lab/ca.pem"), "gs"),
            (AZURE, Sas(CONTAINER, "sig=x", LATER, ca_file="/lab/ca.pem"), "az"),
            (AZURE, Sas(CONTAINER, "sig=x", LATER), "az"),
        )
    ]

    assert [e.ca_file for e in found if isinstance(e, Endpoint)] == ["/lab/ca.pem", "/lab/ca.pem", ""]
    assert found[1] != found[2]


def test_a_signature_leads_to_its_container() -> None:
    """Host and, on an address, account; the bucket's URL is the signature's own."""
    local = "http://127.0.0.1:10000/devstoreaccount1/data"
    found = [opened(AZURE, Sas(url, "sig=x", LATER), "az") for url in (CONTAINER, local)]

    assert [e.bucket_url("data") for e in found if isinstance(e, Endpoint)] == [CONTAINER, local]


@pytest.mark.parametrize(
    "url",
    [
        "https://lab.blob.core.windows.net/other",
        "https://lab.blob.core.windows.net/a/b/data",
        "https://user@lab.blob.core.windows.net/data",
        "ftp://lab.blob.core.windows.net/data",
        "https://lab.blob.core.windows.net#/data",
        "data",
    ],
)
def test_a_signature_for_elsewhere_is_refused(url: str) -> None:
    """Another container, or an address that is none."""
    assert opened(AZURE, Sas(url, "sig=x", LATER), "az") is Code.BAD_INPUT


@pytest.mark.parametrize(
    ("profile", "secret"),
    [
        (GOOGLE, PlainSecret()),
        (AZURE, PlainSecret()),
        (AZURE, Bearer("t", None, None)),
        (GOOGLE, Sas(CONTAINER, "sig=x", LATER)),
        (BUILT_IN["aws"], Bearer("t", None, None)),
        (BUILT_IN["aws"], Sas(CONTAINER, "sig=x", LATER)),
    ],
)
def test_a_secret_of_another_kind_is_refused(profile: Profile, secret: Secret) -> None:
    """No secret goes where it is not understood."""
    assert opened(profile, secret) is Code.BAD_INPUT


@pytest.mark.parametrize(
    ("profile", "kind", "fits"),
    [
        ("aws", "access_key", True),
        ("aws", "oauth_grant", True),  # an identity provider of the customer's own
        ("aws", "web_identity", True),
        ("aws", "something", False),
        ("gcs", "oauth_grant", True),
        ("gcs", "access_key", False),
        ("gcs", "web_identity", False),
        ("azure", "oauth_grant", True),
        ("azure", "access_key", False),
        ("azure", "web_identity", False),
    ],
)
def test_intake_knows_which_credentials_cannot_open_a_destination(profile: str, kind: str, *, fits: bool) -> None:
    """The refusal names the credential and what to do."""
    destination = Destination("x", "data", "", BUILT_IN[profile])
    if fits:
        check_credential(destination, kind)
        return
    with pytest.raises(InputError) as raised:
        check_credential(destination, kind)
    assert (raised.value.code, raised.value.field) == (Code.BAD_INPUT, "credential")
