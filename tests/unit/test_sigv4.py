from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import patch

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudpush.verify.sigv4 import Signer, encode_path, encode_query

ID, SECRET = "AKTEST00000000000001", "secret/with+odd=characters"

KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
HOSTS = st.sampled_from(["s3.example.org", "127.0.0.1:8333", "[2001:db8::1]:9000", "data.s3.eu-west-1.amazonaws.com"])
TIMES = st.integers(min_value=1_600_000_000, max_value=4_000_000_000)


def by_botocore(
    method: str, host: str, path: str, query: str, *, now: int, region: str, token: str, extra: dict[str, str]
) -> str:
    """The Authorization header that botocore makes of the same request."""
    url = f"http://{host}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, headers=dict(extra))
    auth = S3SigV4Auth(Credentials(ID, SECRET, token or None), "s3", region)
    with patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(now, UTC)):
        auth.add_auth(request)
    header: str = request.headers["Authorization"]
    return header


def ours(
    method: str, host: str, path: str, query: str, *, now: int, region: str, token: str, extra: dict[str, str]
) -> str:
    signer = Signer(access_key_id=ID, secret_access_key=SECRET, session_token=token, region=region, host=host)
    return signer.headers(method, path, query, now, extra)["Authorization"]


@settings(deadline=None, max_examples=100)
@given(
    method=st.sampled_from(["HEAD", "GET"]),
    host=HOSTS,
    key=KEYS,
    query=st.dictionaries(KEYS, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=4),
    now=TIMES,
    region=st.sampled_from(["us-east-1", "auto", "eu-central-003"]),
    token=st.sampled_from(["", "Fwo+GZXIv/YXdz=="]),
    extra=st.sampled_from([{}, {"x-amz-checksum-mode": "ENABLED"}, {"range": "bytes=0-0"}]),
)
@example("HEAD", "127.0.0.1:8333", "a b+c~d=é(1)'!*.csv", {}, 1_700_000_000, "auto", "", {})
@example("HEAD", "127.0.0.1:8333", "x//y\n%41?&#\\", {"list-type": "2"}, 1_700_000_000, "auto", "tok", {})
def test_signatures_are_those_of_botocore(
    method: str, host: str, key: str, query: dict[str, str], now: int, region: str, token: str, extra: dict[str, str]
) -> None:
    """For any key, query, host, region, token and time, both make the same Authorization header."""
    path, encoded = encode_path(f"/bucket/{key}"), encode_query(query)

    signature = ours(method, host, path, encoded, now=now, region=region, token=token, extra=extra)

    assert signature == by_botocore(method, host, path, encoded, now=now, region=region, token=token, extra=extra)


def test_a_signer_outlives_midnight() -> None:
    """The cached key is that of the day of each request, also backwards."""
    signer = Signer(access_key_id=ID, secret_access_key=SECRET, session_token="", region="auto", host="h")
    midnight = 1_700_006_400

    signed = [signer.headers("HEAD", "/b/k", "", midnight + s)["Authorization"] for s in (-1, 0, 0.9, -1)]

    assert signed == [
        by_botocore("HEAD", "h", "/b/k", "", now=midnight + s, region="auto", token="", extra={})
        for s in (-1, 0, 0, -1)
    ]


def test_all_that_is_sent_is_signed() -> None:
    """The headers are complete, and the secret is not among them nor in the signer's repr."""
    signer = Signer(access_key_id=ID, secret_access_key=SECRET, session_token="tok", region="auto", host="h:1")

    headers = signer.headers("HEAD", "/b/k", "", 1_700_000_000, {"x-amz-checksum-mode": "ENABLED"})

    assert {k: v for k, v in headers.items() if k != "Authorization"} == {
        "host": "h:1",
        "x-amz-checksum-mode": "ENABLED",
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20231114T221320Z",
        "x-amz-security-token": "tok",
    }
    assert SECRET not in repr(signer) + repr(headers)
