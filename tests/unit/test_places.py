"""Where URLs lead, as a push's row tells it: written and read again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudpush.push.guard import Origin
from cloudpush.push.job import Destination
from cloudpush.push.signed.model import Kind, Provider, SignedUrl, Ticket
from cloudpush.push.signed.places import common_directory, destination_of, directory_of, read_destination

URL = SignedUrl("t", Provider.S3, "aws", "v4", Origin("https", "h.example.org", 443), "bkt", "a/b/c")


@pytest.mark.parametrize(
    ("url", "prefix", "uri"),
    [
        (URL, "a/b", "s3://bkt/a/b"),
        (URL, "", "s3://bkt"),
        (replace(URL, flavour="r2"), "a", "s3://bkt/a"),
        (replace(URL, provider=Provider.GCS, flavour="gcs"), "a", "gs://bkt/a"),
        (replace(URL, flavour="gcs"), "a", "gs://bkt/a"),
        (replace(URL, provider=Provider.AZURE, flavour="azure"), "a", "az://bkt/a"),
        (replace(URL, bucket=""), "a/b", "https://h.example.org/a/b"),
        (replace(URL, bucket="", origin=Origin("http", "::1", 9000)), "", "http://[::1]:9000"),
        (replace(URL, bucket=""), "50% off?#é", "https://h.example.org/50% off?#é"),
    ],
)
def test_a_destination_is_read_as_it_was_written(url: SignedUrl, prefix: str, uri: str) -> None:
    """Scheme, bucket and prefix; without a bucket the host stands for it."""
    made = destination_of(url, prefix)

    read = read_destination(uri)
    assert (made.uri, read, read.uri, read.bucket, read.prefix) == (uri, made, uri, url.bucket, prefix)


@pytest.mark.parametrize("uri", ["", "bkt/a", "s3://", "s3:///a"])
def test_what_is_no_destination_is_refused(uri: str) -> None:
    """Nothing else was ever stored."""
    with pytest.raises(ValueError, match="is no destination"):
        read_destination(uri)


@given(st.lists(st.text("ab/", min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_common_directory_is_the_deepest(keys: list[str]) -> None:
    """Segment by segment, as a witness computes it."""
    made = directory_of(Ticket("", Kind.PUT, replace(URL, key=keys[0])))
    for key in keys[1:]:
        made = common_directory(made, directory_of(Ticket("", Kind.PUT, replace(URL, key=key))))

    witness = []
    for segments in zip(*(key.split("/")[:-1] for key in keys), strict=False):
        if len(set(segments)) > 1:
            break
        witness.append(segments[0])
    assert made == "".join(f"{segment}/" for segment in witness)


@pytest.mark.parametrize(("key", "directory"), [("ds/1", "ds/1/"), ("", "")])
def test_a_tree_is_its_own_directory(key: str, directory: str) -> None:
    """What its SAS opens."""
    assert directory_of(Ticket("", Kind.TREE, replace(URL, key=key))) == directory


def test_a_destination_without_a_bucket_is_not_one_with_an_empty_bucket() -> None:
    """They compare as two, since they lead to two places."""
    assert read_destination("https://h.example.org/a") != Destination("https", "", "a", URL_PROFILE)


URL_PROFILE = destination_of(URL, "").profile
