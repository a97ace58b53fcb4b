from __future__ import annotations

import pytest

from cloudpush.errors import Code, InputError
from cloudpush.push.job import Destination, Profile
from cloudpush.push.uris import BUILT_IN, key_below, parse_destination, unstorable

LAB = Profile("lab_1", "ceph", "https://s3.lab.example.org", trusted=True)
OURS = Profile("minio", "minio", "http://minio:9000", trusted=True)
PROFILES = {"lab_1": LAB, "minio": OURS, "weed": Profile("weed", "seaweedfs")} | {
    "emulator": Profile("emulator", "gcs", "http://127.0.0.1:4443", trusted=True)
}


@pytest.mark.parametrize(
    ("uri", "profile", "destination"),
    [
        ("s3://data", "", Destination("s3", "data", "", BUILT_IN["aws"])),
        ("S3://data/", "", Destination("s3", "data", "", BUILT_IN["aws"])),
        ("s3://data/a/b/", "", Destination("s3", "data", "a/b", BUILT_IN["aws"])),
        ("s3://data/50% off?#1 é", "", Destination("s3", "data", "50% off?#1 é", BUILT_IN["aws"])),
        ("s3://data/x", "lab_1", Destination("s3", "data", "x", LAB)),
        ("r2://data/x", "", Destination("r2", "data", "x", BUILT_IN["r2"])),
        ("b2://data/x", "", Destination("b2", "data", "x", BUILT_IN["b2"])),
        ("minio://data/x", "", Destination("minio", "data", "x", OURS)),
        ("seaweedfs://data/x", "weed", Destination("seaweedfs", "data", "x", PROFILES["weed"])),
        ("weed://data", "", Destination("weed", "data", "", PROFILES["weed"])),
        ("gs://da_ta.x/p", "", Destination("gs", "da_ta.x", "p", BUILT_IN["gcs"])),
        ("gcs://data/p", "", Destination("gs", "data", "p", BUILT_IN["gcs"])),
        ("gs://data/p", "gcs", Destination("gs", "data", "p", BUILT_IN["gcs"])),
        ("gs://data/p", "emulator", Destination("gs", "data", "p", PROFILES["emulator"])),
        ("az://da-ta/p/", "", Destination("az", "da-ta", "p", BUILT_IN["azure"])),
        ("azure://data", "", Destination("az", "data", "", BUILT_IN["azure"])),
        ("s3://" + "b" * 63 + "/" + "p" * 1022, "", Destination("s3", "b" * 63, "p" * 1022, BUILT_IN["aws"])),
    ],
)
def test_uris_that_name_a_destination(uri: str, profile: str, destination: Destination) -> None:
    """Scheme and profile choose the dialect; the prefix loses one trailing slash and nothing else."""
    assert parse_destination(uri, PROFILES, profile) == destination


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("data/x", "no scheme"),
        ("/data/x", "no scheme"),
        ("remote:data/x", "no scheme"),
        ("abfs://data/x", "the scheme 'abfs' of other tools"),
        ("gs://", "names no bucket"),
        ("gs://ab", "cannot be a bucket of Google"),
        ("gs://Data", "cannot be a bucket of Google"),
        ("gs://" + "b" * 64, "cannot be a bucket of Google"),
        ("gs://" + "b" * 64 + ".x", "cannot be a bucket of Google"),
        ("gs://a..b", "cannot be a bucket of Google"),
        ("gs://data_", "cannot be a bucket of Google"),
        ("gs://192.168.1.1", "cannot be a bucket of Google"),
        ("gs://goog-data", "cannot be a bucket of Google"),
        ("gs://my-google-data", "cannot be a bucket of Google"),
        ("gs://data/.well-known/acme-challenge/x", "keeps for itself"),
        ("az://", "names no container"),
        ("az://ab", "cannot be a container"),
        ("az://Data", "cannot be a container"),
        ("az://da_ta", "cannot be a container"),
        ("az://da--ta", "cannot be a container"),
        ("az://-data", "cannot be a container"),
        ("az://data-", "cannot be a container"),
        ("az://" + "b" * 64, "cannot be a container"),
        ("az://account.blob.core.windows.net/data", "the storage account is the connection's"),
        ("az://data/a./b", "ends with a dot"),
        ("az://data/a\\b", "backslash"),
        ("az://data/" + "/".join("a" * 255), "255 segments"),
        ("https://data/x", "unknown scheme 'https'"),
        ("lab_2://data", "unknown scheme 'lab_2'"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://ab", "'ab', which cannot be a bucket"),
        ("s3://" + "b" * 64, "cannot be a bucket"),
        ("s3://Data", "cannot be a bucket"),
        ("s3://da_ta", "cannot be a bucket"),
        ("s3://-data", "cannot be a bucket"),
        ("s3://data-", "cannot be a bucket"),
        ("s3://da..ta", "cannot be a bucket"),
        ("s3://192.168.1.1/x", "cannot be a bucket"),
        ("s3://xn--data", "cannot be a bucket"),
        ("s3://user:pw@data/x", "cannot be a bucket"),
        ("s3://data?x=1/y", "cannot be a bucket"),
        ("s3://data--use1-az4--x-s3/x", "directory bucket"),
        ("s3://data//x", "empty segment"),
        ("s3://data/x//", "empty segment"),
        ("s3://data/x/../y", "the segment '..'"),
        ("s3://data/./x", "the segment '.'"),
        ("s3://data/x\ny", "control character"),
        ("s3://data/x\0", "control character"),
        ("s3://data/\udcff", "not valid UTF-8"),
        ("s3://data/" + "é" * 512, "1024 bytes"),
    ],
)
def test_uris_that_are_refused(uri: str, words: str) -> None:
    """A refusal has one code, names the field and says what is wrong with the URI."""
    with pytest.raises(InputError, match=words.replace("(", r"\(").replace(".", r"\.")) as caught:
        parse_destination(uri, PROFILES)

    assert (caught.value.code, caught.value.field) == (Code.BAD_URI, "destination")


@pytest.mark.parametrize(
    ("uri", "profile"),
    [
        ("s3://data", "nope"),
        ("r2://data", "minio"),
        ("s3://data", "gcs"),
        ("s3://data", "azure"),
        ("gs://data", "azure"),
        ("gs://data", "aws"),
        ("az://data", "minio"),
    ],
)
def test_profiles_that_do_not_fit(uri: str, profile: str) -> None:
    """A profile that does not exist, or contradicts the scheme, is named."""
    with pytest.raises(InputError) as caught:
        parse_destination(uri, PROFILES, profile)

    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "profile")


def test_unknown_scheme_is_told_before_any_profile() -> None:
    """The profile may be the credential's: its user has never heard of it."""
    with pytest.raises(InputError) as caught:
        parse_destination("abfs://data", PROFILES, "lab_1")

    assert (caught.value.code, caught.value.field) == (Code.BAD_URI, "destination")


def test_a_uri_survives_the_round_trip() -> None:
    """What a destination says of itself leads to it again."""
    destination = parse_destination("s3://data/a/b c/", PROFILES)

    assert parse_destination(destination.uri, PROFILES) == destination


@pytest.mark.parametrize(("uri", "key"), [("s3://data", "x/y"), ("s3://data/p/q/", "p/q/x/y")])
def test_keys_lie_below_the_prefix(uri: str, key: str) -> None:
    """A key is the prefix and the path, or the path alone."""
    assert key_below(parse_destination(uri, {}), "x/y") == key


@pytest.mark.parametrize(
    ("dialect", "key", "words"),
    [
        ("aws", "a\nb/c./d\\e", ""),
        ("gcs", "a/b\\c./" + "d/" * 400, ""),
        ("gcs", "a\rb", "line break"),
        ("gcs", "a\nb", "line break"),
        ("gcs", ".well-known/acme-challenge/x", "keeps for itself"),
        ("gcs", "x/.well-known/acme-challenge/x", ""),
        ("azure", "a/.b/c..d/ e ", ""),
        ("azure", "/".join("a" * 254), ""),
        ("azure", "/".join("a" * 255), "255 segments"),
        ("azure", "a.", "ends with a dot"),
        ("azure", "a./b", "ends with a dot"),
        ("azure", "a./", "ends with a dot"),
        ("azure", "a\\", "backslash"),
        ("azure", "a\x01", "control character"),
        ("azure", "a\x7f", "control character"),
    ],
)
def test_keys_that_a_provider_cannot_store(dialect: str, key: str, words: str) -> None:
    """Why not is said in words; what can be stored gives none."""
    why = unstorable(dialect, key)

    assert (words in why, bool(why)) == (True, bool(words))
