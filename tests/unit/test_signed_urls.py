"""What signed URLs say of themselves, kind by kind and host by host."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import boto3
import pytest
from botocore.config import Config

from cloudpush.errors import Code, InputError
from cloudpush.push.guard import Origin
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.model import Provider, SignedUrl
from cloudpush.push.signed.urls import Role, at_key, opens_tree, read_url, starts_upload, usable_at
from links import AWS_HOST, AZURE_HOST, CANARY, GCS_HOST, LOCAL, PUBLIC, gcs, gcs_v2, s3, s3_v2, sas

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ONE = NOON + timedelta(hours=1)
HOUR = timedelta(hours=1)


def read(text: str, role: Role = Role.UPLOAD, styles: Styles = LOCAL) -> SignedUrl:
    return read_url(text, field="url", styles=styles, role=role)


def refusal(text: str, role: Role = Role.UPLOAD, styles: Styles = LOCAL) -> InputError:
    with pytest.raises(InputError) as caught:
        read(text, role, styles)
    return caught.value


def https(host: str) -> Origin:
    return Origin("https", host, 443)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            s3(headers="content-md5;host"),
            {
                "provider": Provider.S3,
                "flavour": "aws",
                "version": "v4",
                "origin": https("bkt.s3.eu-west-1.amazonaws.com"),
                "bucket": "bkt",
                "key": "runs/7/a.csv",
                "starts_at": NOON,
                "expires_at": ONE,
                "signed_headers": frozenset({"host", "content-md5"}),
            },
        ),
        (
            s3("/k", "X-Amz-Security-Token=" + CANARY),
            {
                "provider": Provider.S3,
                "flavour": "aws",
                "version": "v4",
                "origin": https("bkt.s3.eu-west-1.amazonaws.com"),
                "bucket": "bkt",
                "key": "k",
                "starts_at": NOON,
                "expires_at": ONE,
                "signed_headers": frozenset({"host"}),
                "temporary": True,
            },
        ),
        (
            s3_v2(),
            {
                "provider": Provider.S3,
                "flavour": "aws",
                "version": "v2",
                "origin": https("bkt.s3.eu-west-1.amazonaws.com"),
                "bucket": "bkt",
                "key": "runs/7/a.csv",
                "expires_at": ONE,
            },
        ),
        (
            gcs(headers="content-type;host"),
            {
                "provider": Provider.GCS,
                "flavour": "gcs",
                "version": "v4",
                "origin": https("storage.googleapis.com"),
                "bucket": "bkt",
                "key": "runs/7/a.csv",
                "starts_at": NOON,
                "expires_at": ONE,
                "signed_headers": frozenset({"host", "content-type"}),
            },
        ),
        (
            gcs_v2(),
            {
                "provider": Provider.GCS,
                "flavour": "gcs",
                "version": "v2",
                "origin": https("storage.googleapis.com"),
                "bucket": "bkt",
                "key": "runs/7/a.csv",
                "expires_at": ONE,
            },
        ),
        (  # Google's XML API with HMAC keys speaks S3
            s3(host=GCS_HOST),
            {
                "provider": Provider.S3,
                "flavour": "gcs",
                "version": "v4",
                "origin": https("storage.googleapis.com"),
                "bucket": "bkt",
                "key": "runs/7/a.csv",
                "starts_at": NOON,
                "expires_at": ONE,
                "signed_headers": frozenset({"host"}),
            },
        ),
        (  # a session outlives the signature that it was begun with
            gcs("/runs/7/a.csv", "upload_id=" + CANARY),
            {
                "provider": Provider.GCS,
                "flavour": "gcs",
                "version": "session",
                "origin": https("storage.googleapis.com"),
                "bucket": "bkt",
                "key": "runs/7/a.csv",
                "session": True,
            },
        ),
        (
            "https://storage.googleapis.com/upload/storage/v1/b/bkt/o?uploadType=resumable&name=a%2Fb&upload_id=x",
            {
                "provider": Provider.GCS,
                "flavour": "gcs",
                "version": "session",
                "origin": https("storage.googleapis.com"),
                "bucket": "bkt",
                "key": "a/b",
                "session": True,
            },
        ),
        (
            sas("/runs/7/a.csv", "st=2026-03-01T11%3A00Z", "spr=https"),
            {
                "provider": Provider.AZURE,
                "flavour": "azure",
                "version": "sas",
                "origin": https("acct.blob.core.windows.net"),
                "bucket": "cont",
                "key": "runs/7/a.csv",
                "starts_at": NOON - HOUR,
                "expires_at": ONE,
                "permissions": "cw",
                "scope": "b",
            },
        ),
        (  # user delegation: the delegation key may end first; a date alone is its midnight
            sas("/a", "skoid=o", "sktid=t", "skt=2026-03-01T10:00:00.1234567Z", "ske=2026-03-02", se="2026-03-05"),
            {
                "provider": Provider.AZURE,
                "flavour": "azure",
                "version": "sas",
                "origin": https("acct.blob.core.windows.net"),
                "bucket": "cont",
                "key": "a",
                "starts_at": NOON - 2 * HOUR,
                "expires_at": NOON + 12 * HOUR,
                "permissions": "cw",
                "scope": "b",
            },
        ),
        (  # a stored policy holds rights and times
            sas("/a", "si=policy", sp="", se=""),
            {
                "provider": Provider.AZURE,
                "flavour": "azure",
                "version": "sas",
                "origin": https("acct.blob.core.windows.net"),
                "bucket": "cont",
                "key": "a",
                "scope": "b",
            },
        ),
        (  # an account SAS; and headers that a SAS signs
            sas("/a", "ss=bq", "srt=co", "srh=X-Ms-Meta-A,content-type", sr=""),
            {
                "provider": Provider.AZURE,
                "flavour": "azure",
                "version": "sas",
                "origin": https("acct.blob.core.windows.net"),
                "bucket": "cont",
                "key": "a",
                "expires_at": ONE,
                "signed_headers": frozenset({"x-ms-meta-a", "content-type"}),
                "permissions": "cw",
                "scope": "account",
            },
        ),
    ],
)
def test_each_kind_says_what_it_is(text: str, expected: dict[str, Any]) -> None:
    """Provider, place, times, headers and rights come from the URL alone; what it does not say is None or empty."""
    assert read(text) == SignedUrl(text=text, **expected, vouched=True)


@pytest.mark.parametrize(
    ("text", "vouched"),
    [
        (s3(host="https://bkt.s3.eu-west-1.amazonaws.com"), True),
        (s3(host="https://bkt.abc.r2.cloudflarestorage.com"), True),
        (s3(host=GCS_HOST), True),
        (sas("/a"), True),
        (gcs("/a", "upload_id=x"), True),
        # below a provider's domain everybody may run a server
        (s3("/b/k", host="https://abc.execute-api.eu-west-1.amazonaws.com"), False),
        (s3("/b/k", host="https://ec2-198-51-100-1.eu-west-1.compute.amazonaws.com"), False),
        (gcs("/a", "upload_id=x").replace("storage.", "other."), False),
        # whoever speaks a protocol is not the provider for it
        (s3("/b/k", host="https://s3.example.org"), False),
        (gcs("/a").replace("storage.googleapis.com", "storage.example.org"), False),
        (sas("/a").replace("acct.blob.core.windows.net", "blob.example.org"), False),
        (s3("/b/k", host="https://s3.amazonaws.com.example.org"), False),
        # but the operator's word counts, for this very host
        (s3("/b/k", host="https://minio.example.net:9000"), True),
        (s3("/b/k", host="https://profile.example.net"), True),
        (s3("/b/k", host="https://other.minio.example.net:9000"), False),
    ],
)
def test_a_host_is_vouched_for_by_its_provider_or_by_the_operator(text: str, vouched: bool) -> None:
    """Not by the signature that it carries, which anybody can write."""
    styles = Styles.of(("minio.example.net:9000",), ("https://profile.example.net",))

    assert read(text, styles=styles).vouched is vouched


def test_the_address_of_a_form_is_vouched_for_likewise() -> None:
    """It has no query that says anything."""
    known, other = ("https://bkt.s3.amazonaws.com/", "https://forms.example.org/")

    assert [read(text, role=Role.FORM).vouched for text in (known, other)] == [True, False]


@pytest.mark.parametrize("key", ["a%5Cb", "x%2F..%5C..%5Cy", "..%5Cy"])
def test_a_backslash_in_a_key_is_azures_slash_and_others_letter(key: str) -> None:
    """A blob must not become another one than was signed, on the way or there."""
    for text, role in ((sas(f"/{key}"), Role.UPLOAD), (sas(f"/{key}", sr="c"), Role.TREE)):
        with pytest.raises(InputError, match="backslash") as refused:
            read(text, role=role)
        assert refused.value.code is Code.URL_UNUSABLE

    assert read(s3(f"/{key}")).key == unquote(key)


@pytest.mark.parametrize(
    ("host", "flavour", "bucket"),
    [
        ("bkt.s3.amazonaws.com", "aws", "bkt"),
        ("bkt.s3.us-east-1.amazonaws.com", "aws", "bkt"),
        ("bkt.s3-us-west-2.amazonaws.com", "aws", "bkt"),
        ("bkt.s3.dualstack.eu-west-1.amazonaws.com", "aws", "bkt"),
        ("bkt.s3-fips.us-gov-west-1.amazonaws.com", "aws", "bkt"),
        ("bkt.s3-fips.dualstack.us-east-1.amazonaws.com", "aws", "bkt"),
        ("bkt.s3-accelerate.amazonaws.com", "aws", "bkt"),
        ("bkt.s3-accelerate.dualstack.amazonaws.com", "aws", "bkt"),
        ("bkt.s3.cn-north-1.amazonaws.com.cn", "aws", "bkt"),
        ("bkt.s3.eusc-de-east-1.amazonaws.eu", "aws", "bkt"),
        ("my.bkt.s3.eu-west-1.amazonaws.com", "aws", "my.bkt"),
        ("s3.s3.eu-west-1.amazonaws.com", "aws", "s3"),
        ("ap-123456789012.s3-accesspoint.eu-west-1.amazonaws.com", "aws", "ap-123456789012"),
        ("bkt--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com", "aws", "bkt--usw2-az1--x-s3"),
        ("bkt.bucket.vpce-0e25-x.s3.us-east-1.vpce.amazonaws.com", "aws", "bkt"),
        ("bkt.acc0unt.r2.cloudflarestorage.com", "r2", "bkt"),
        ("bkt.acc0unt.eu.r2.cloudflarestorage.com", "r2", "bkt"),
        ("bkt.s3.us-west-004.backblazeb2.com", "b2", "bkt"),
        ("bkt.s3.wasabisys.com", "wasabi", "bkt"),
        ("bkt.s3.eu-central-1.wasabisys.com", "wasabi", "bkt"),
        ("bkt.fra1.digitaloceanspaces.com", "spaces", "bkt"),
        ("bkt.storage.googleapis.com", "gcs", "bkt"),
        ("bkt.storage.europe-west3.rep.googleapis.com", "gcs", "bkt"),
        ("bkt.s3.lab.example.org", "other", "bkt"),  # a profile's endpoint
    ],
)
def test_a_virtual_host_tells_the_bucket(host: str, flavour: str, bucket: str) -> None:
    """The key is the whole path then."""
    url = read(s3("/a/b", host=f"https://{host}"))

    assert (url.flavour, url.bucket, url.key, url.origin.host) == (flavour, bucket, "a/b", host)


@pytest.mark.parametrize(
    ("origin", "flavour"),
    [
        ("https://s3.amazonaws.com", "aws"),
        ("https://s3.eu-west-1.amazonaws.com", "aws"),
        ("https://s3-external-1.amazonaws.com", "aws"),
        ("https://s3.dualstack.eu-west-1.amazonaws.com", "aws"),
        ("https://bucket.vpce-0e25-x.s3.us-east-1.vpce.amazonaws.com", "aws"),
        ("https://acc0unt.r2.cloudflarestorage.com", "r2"),
        ("https://acc0unt.eu.r2.cloudflarestorage.com", "r2"),
        ("https://acc0unt.fedramp.r2.cloudflarestorage.com", "r2"),
        ("https://s3.us-west-004.backblazeb2.com", "b2"),
        ("https://s3.wasabisys.com", "wasabi"),
        ("https://fra1.digitaloceanspaces.com", "spaces"),
        ("https://storage.googleapis.com", "gcs"),
        ("https://storage.europe-west3.rep.googleapis.com", "gcs"),
        ("https://s3.lab.example.org", "other"),
        ("http://127.0.0.1:8333", "other"),
        ("http://minio:9000", "other"),
    ],
)
def test_a_path_style_host_has_the_bucket_in_the_path(origin: str, flavour: str) -> None:
    """The first segment is the bucket."""
    url = read(s3("/bkt/a/b", host=origin))

    assert (url.flavour, url.bucket, url.key, url.origin.url) == (flavour, "bkt", "a/b", origin)


@pytest.mark.parametrize(
    ("host", "flavour"),
    [
        ("https://files.example.org", "other"),
        ("https://8.8.8.8:9000", "other"),
        ("https://evils3.lab.example.org", "other"),  # ends like a declared endpoint, without the dot
        ("https://x.mrap.accesspoint.s3-global.amazonaws.com", "aws"),
        ("https://s3.eu-west-1.amazonaws.com.example.org", "other"),  # begins like Amazon's
        ("https://notamazonaws.com", "other"),
    ],
)
def test_an_unknown_host_tells_no_bucket(host: str, flavour: str) -> None:
    """Nothing is guessed: the key is the whole path."""
    url = read(s3("/bkt/a/b", host=host))

    assert (url.flavour, url.bucket, url.key) == (flavour, "", "bkt/a/b")


def test_a_host_that_fits_two_ways_tells_no_bucket() -> None:
    """Listed itself and below another listed host: nobody can say which it is."""
    url = read(s3("/bkt/a", host="https://s3.example.org"), styles=Styles.of(["s3.example.org", "example.org"]))

    assert (url.bucket, url.key) == ("", "bkt/a")


@pytest.mark.parametrize(
    ("host", "bucket", "key", "text_host"),
    [
        (AZURE_HOST, "cont", "d/a", AZURE_HOST),
        ("https://acct.z12.blob.storage.azure.net/cont", "cont", "d/a", "https://acct.z12.blob.storage.azure.net/cont"),
        (
            "https://acct.blob.core.usgovcloudapi.net/cont",
            "cont",
            "d/a",
            "https://acct.blob.core.usgovcloudapi.net/cont",
        ),
        ("https://acct.blob.core.chinacloudapi.cn/cont", "cont", "d/a", "https://acct.blob.core.chinacloudapi.cn/cont"),
        # uploads go to the account's blob endpoint
        ("https://acct.dfs.core.windows.net/cont", "cont", "d/a", AZURE_HOST),
        ("https://files.example.org/cont", "cont", "d/a", "https://files.example.org/cont"),
        # Azurite
        ("http://127.0.0.1:10000/acct1/cont", "cont", "d/a", "http://127.0.0.1:10000/acct1/cont"),
        ("https://acct.blob.core.windows.net/%24web", "$web", "d/a", "https://acct.blob.core.windows.net/%24web"),
    ],
)
def test_azure_has_the_container_in_the_path(host: str, bucket: str, key: str, text_host: str) -> None:
    """After the account's name only on an operator's own server; ``dfs`` becomes ``blob``."""
    url = read(sas("/d/a", host=host))

    assert (url.bucket, url.key, url.text) == (bucket, key, sas("/d/a", host=text_host))


def test_google_and_microsoft_protocols_keep_their_flavour_on_other_hosts() -> None:
    """Nobody else speaks them."""
    assert read(gcs("/bkt/k", host="http://127.0.0.1:8333")).flavour == "gcs"
    assert read(sas("/k", host="http://127.0.0.1:10000/acct/cont")).flavour == "azure"


def test_hosts_come_back_in_normal_form_and_the_rest_as_it_was_signed() -> None:
    """Two spellings of one host are one origin; path and query are not touched."""
    url = read(s3("/A%20b/~c+d", host="HTTPS://BKT.S3.eu-west-1.amazonaws.com.:443"))

    assert (url.text, url.key) == (s3("/A%20b/~c+d", host=AWS_HOST), "A b/~c+d")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/%C3%BC/%E6%97%A5", "ü/日"),
        ("/a%2Fb", "a/b"),
        ("/a//b", "a//b"),
        ("/a%3Fb%23c%25d", "a?b#c%d"),
        ("/..a/b../.c", "..a/b../.c"),
        ("/a%5Cb", "a\\b"),
        ("/" + "k" * 1024, "k" * 1024),
    ],
)
def test_keys_are_decoded_once(path: str, key: str) -> None:
    """Whatever S3 may have as a key."""
    assert read(s3(path)).key == key


def test_parameter_names_are_known_in_any_case() -> None:
    """Some signers write them in lower case."""
    path, _, query = s3().partition("?")

    assert read(f"{path}?{query.replace('X-Amz-', 'x-amz-')}").expires_at == ONE


def test_multipart_urls_tell_upload_and_part() -> None:
    """For parts, completion and abort alike."""
    part = read(s3("/k", "partNumber=12", "uploadId=up%2F1"), Role.PART)
    complete = read(s3("/k", "uploadId=up%2F1"), Role.COMPLETE)
    abort = read(gcs("/k", "uploadId=up%2F1"), Role.ABORT)

    assert [(u.part, u.upload) for u in (part, complete, abort)] == [(12, "up/1"), (None, "up/1"), (None, "up/1")]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        (gcs(headers="host;x-goog-resumable"), True),
        (gcs(headers="content-type;host"), False),
        (s3(host=GCS_HOST, headers="host;x-goog-resumable"), True),
    ],
)
def test_a_resumable_start_is_known_by_its_signed_header(text: str, starts: bool) -> None:
    """That header is signed for nothing else."""
    assert starts_upload(read(text)) is starts


def test_a_session_of_s3_express_ends_after_five_minutes() -> None:
    """Whatever was signed with it."""
    host = "https://b--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com"
    url = read(s3("/k", "X-Amz-S3session-Token=t", host=host))

    assert (url.expires_at, url.temporary) == (NOON + timedelta(minutes=5), True)


@pytest.mark.parametrize(
    ("text", "directory", "path"),
    [
        (sas("", sr="c", sp="rcwl"), "", "/cont"),
        (sas("/", sr="c"), "", "/cont"),
        (sas("/runs/7/", sr="c"), "runs/7", "/cont/runs/7"),
        (sas("/runs/7", "sdd=2", sr="d"), "runs/7", "/cont/runs/7"),
        (sas("/runs/7/deep", "sdd=2", sr="d"), "runs/7/deep", "/cont/runs/7/deep"),
        (sas("", "srt=sco", "ss=b", sr=""), "", "/cont"),
    ],
)
def test_a_tree_is_a_container_or_a_directory(text: str, directory: str, path: str) -> None:
    """Its key is the directory; its path ends without slash."""
    url = read(text, Role.TREE)

    assert (url.bucket, url.key, url.text.partition("?")[0]) == ("cont", directory, AZURE_HOST[:-5] + path)
    assert (
        at_key(url, f"{directory}/ü b/c".lstrip("/"))
        == f"{AZURE_HOST[:-5]}{path}/%C3%BC%20b/c?{text.partition('?')[2]}"
    )


def test_nothing_outside_of_a_tree_has_a_url() -> None:
    """Neither a neighbour with the same beginning nor the directory itself."""
    tree = read(sas("/runs/7", "sdd=2", sr="d"), Role.TREE)

    for key in ("runs/77/a", "runs/7", "runs/7/", "a"):
        with pytest.raises(ValueError, match="not below"):
            at_key(tree, key)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        (sas("", sr="c"), True),
        (sas("/d", "sdd=1", sr="d"), True),
        (sas(), False),
        (sas("", "srt=co", "ss=b", sr=""), True),
        (sas("/d/", "srt=co", "ss=b", sr=""), True),
        (sas("/d", "srt=co", "ss=b", sr=""), False),
        (sas("", "srt=co", "ss=b", sr="", host="http://127.0.0.1:10000/acct/cont"), True),
        (s3(), False),
    ],
)
def test_a_tree_is_told_by_its_url(text: str, tree: bool) -> None:
    """``sr`` says it; an account SAS, which opens everything, by where its path ends."""
    assert opens_tree(text, field="url", styles=LOCAL) is tree


def test_what_boto3_signs_is_read() -> None:
    """Every operation that a user hands over, as the real SDK writes it."""
    sdk = boto3.client(
        "s3",
        region_name="eu-west-1",
        aws_access_key_id="AKIA",
        aws_secret_access_key="s",
        aws_session_token="t",
        config=Config(signature_version="s3v4"),
    )

    def signed(operation: str, **params: object) -> str:
        return str(sdk.generate_presigned_url(operation, Params={"Bucket": "bkt", "Key": "a b/ü", **params}))

    urls = [
        read(signed("put_object", ContentMD5="x", ContentType="a/b", IfNoneMatch="*")),
        read(signed("upload_part", UploadId="U", PartNumber=3), Role.PART),
        read(signed("complete_multipart_upload", UploadId="U"), Role.COMPLETE),
        read(signed("abort_multipart_upload", UploadId="U"), Role.ABORT),
        read(signed("head_object"), Role.VERIFY),
        read(signed("get_object"), Role.VERIFY),
    ]

    assert {(u.flavour, u.bucket, u.key, u.temporary) for u in urls} == {("aws", "bkt", "a b/ü", True)}
    assert urls[0].signed_headers == {"host", "content-md5", "content-type", "if-none-match"}
    assert [(u.part, u.upload) for u in urls[1:4]] == [(3, "U"), (None, "U"), (None, "U")]


U = Code.URL_UNUSABLE
B = Code.BAD_INPUT
UPLOAD, PART, COMPLETE, VERIFY, START, TREE, FORM = (
    *(Role.UPLOAD, Role.PART, Role.COMPLETE),
    *(Role.VERIFY, Role.START, Role.TREE, Role.FORM),
)
JSON_API = "https://storage.googleapis.com/upload/storage/v1"
R2_HOST = "https://acc.r2.cloudflarestorage.com"


@pytest.mark.parametrize(
    ("text", "role", "code", "words"),
    [
        # what a signature lacks
        (AWS_HOST + "/k", UPLOAD, U, "carries no signature that is known"),
        (AWS_HOST + "/k?Policy=p&Signature=s&Key-Pair-Id=i", UPLOAD, U, "carries no signature that is known"),
        (s3() + "&" + sas().partition("?")[2], UPLOAD, U, "signatures of more than one kind"),
        *(
            (s3().replace(f"{name}=", "x="), UPLOAD, U, f"lacks {name}")
            for name in ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature")
        ),
        (gcs().replace("X-Goog-Signature=", "x="), UPLOAD, U, "lacks X-Goog-Signature"),
        (gcs().replace("X-Goog-Algorithm=", "x="), UPLOAD, U, "lacks X-Goog-Algorithm"),
        (s3_v2().replace("Signature=", "x="), UPLOAD, U, "lacks Signature"),
        (gcs_v2().replace("Expires=", "x="), UPLOAD, U, "lacks Expires"),
        (sas().replace("sv=", "x="), UPLOAD, U, "lacks sv"),
        (sas(sr=""), UPLOAD, U, "lacks sr"),
        (sas(sp=""), UPLOAD, U, "lacks sp"),
        (sas(se=""), UPLOAD, U, "lacks se"),
        (sas("/a", "skoid=x"), UPLOAD, U, "lacks ske"),
        (GCS_HOST + "/k?upload_id=", UPLOAD, U, "lacks the value of upload_id"),
        (JSON_API + "/b/bkt/o?upload_id=x", UPLOAD, U, "does not tell which object it makes"),
        (JSON_API + "/b/%2E%2E/o?upload_id=x&name=k", UPLOAD, U, "names no bucket"),
        (JSON_API + "/b/bkt/o?upload_id=x&name=..%2Fk", UPLOAD, U, ". or .. as a segment"),
        # times
        (s3(expires="604801"), UPLOAD, U, "lives 604801 seconds; sign it for 1 to 604800 seconds (7 days)"),
        (gcs(expires="604801"), UPLOAD, U, "lives 604801 seconds"),
        (s3(expires="-5"), UPLOAD, U, "lives -5 seconds"),
        (s3(expires="0"), UPLOAD, U, "no number of seconds above 0"),
        (s3(expires="1h"), UPLOAD, U, "no number of seconds above 0"),
        (s3(expires="٣٦٠٠"), UPLOAD, U, "no number of seconds above 0"),
        (s3(date="2026-03-01T12:00:00Z"), UPLOAD, U, "malformed x-amz-date"),
        (s3(date="20260231T120000Z"), UPLOAD, U, "malformed x-amz-date"),
        (s3(date="99991231T235959Z"), UPLOAD, U, "malformed x-amz-date"),
        (sas("/a", "st=0001-01-01T00:00:00%2B01:00"), UPLOAD, U, "malformed st"),
        (s3_v2(expires="253402300799"), UPLOAD, U, "Expires that is no time"),
        (s3_v2(expires="1772370000000"), UPLOAD, U, "Expires that is no time"),
        (s3_v2(expires="tomorrow"), UPLOAD, U, "Expires that is no time"),
        (sas().replace("sv=2022-11-02", "sv=latest"), UPLOAD, U, "malformed sv"),
        (sas("/a", "st=2026-03-01T12:00:00%2B99:00"), UPLOAD, U, "malformed st"),
        (sas(se="01.03.2026"), UPLOAD, U, "malformed se"),
        (sas(se="2026-13-01"), UPLOAD, U, "malformed se"),
        (sas("/a", "st=now"), UPLOAD, U, "malformed st"),
        # for something else
        (s3().replace("%2Fs3%2F", "%2Fsts%2F"), UPLOAD, U, "x-amz-credential that is not"),
        (s3().replace("AKIA%2F20260301", "AKIA%2F20260228"), UPLOAD, U, "x-amz-credential that is not"),
        (s3("/k", "x-id=GetObject"), UPLOAD, U, "another operation than the one needed (x-id); sign a PUT"),
        (s3("/k", "x-id=PutObject"), VERIFY, U, "another operation than the one needed (x-id); sign a HEAD or GET"),
        (s3("/k", "uploads="), UPLOAD, U, "begins a multipart upload; begin it yourself"),
        (s3("/k", "uploads"), COMPLETE, U, "begins a multipart upload"),
        (s3("/k", "acl"), UPLOAD, U, "not for the object's bytes"),
        (s3("/k", "tagging="), UPLOAD, U, "not for the object's bytes"),
        (s3("/k", "versionId=1"), VERIFY, U, "not for the object's bytes"),
        (s3("/k", "x-amz-copy-source=b%2Fk"), UPLOAD, U, "not for the object's bytes"),
        (s3("/k", "partNumber=1", "uploadId=U"), UPLOAD, U, "is for a part of a multipart upload; sign a PUT"),
        (s3("/k", "uploadId=U"), UPLOAD, U, "belongs to a multipart upload"),
        (s3("/k", "uploadId=U"), PART, U, "lacks partNumber; sign upload_part"),
        (s3("/k", "partNumber=1"), PART, U, "lacks uploadId"),
        (s3("/k", "partNumber=1", "uploadId=U"), COMPLETE, U, "is for a part"),
        (s3("/k"), COMPLETE, U, "lacks uploadId; sign complete_multipart_upload"),
        (s3("/k", "partNumber=0", "uploadId=U"), PART, U, "partNumber that is none"),
        (s3("/k", "partNumber=10001", "uploadId=U"), PART, U, "partNumber that is none"),
        (s3("/k", "partNumber=1e1", "uploadId=U"), PART, U, "partNumber that is none"),
        (gcs(), START, U, "does not sign the header x-goog-resumable; sign a POST"),
        (sas(), START, U, "is of a kind that cannot be used here"),
        (s3(), TREE, U, "is of a kind that cannot be used here"),
        (GCS_HOST + "/k?upload_id=x", VERIFY, U, "is of a kind that cannot be used here"),
        # headers
        (s3(headers="content-type"), UPLOAD, U, "does not sign the header host"),
        (s3(headers="host;transfer-encoding"), UPLOAD, U, "signs the header transfer-encoding"),
        (s3(headers="authorization;host"), UPLOAD, U, "signs the header authorization"),
        (s3(headers="host;x-amz-copy-source"), UPLOAD, U, "signed to copy another object"),
        (s3(headers="host;x-amz-decoded-content-length"), UPLOAD, U, "UNSIGNED-PAYLOAD"),
        (s3("/k", "X-Amz-Content-Sha256=STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), UPLOAD, U, "UNSIGNED-PAYLOAD"),
        (s3(headers="host;;x"), UPLOAD, U, "lists signed headers that are none"),
        (s3(headers="host;a b"), UPLOAD, U, "lists signed headers that are none"),
        # Azure
        (sas("/a", "sduoid=x", "skoid=x", "ske=2026-03-02"), UPLOAD, U, "bound to a user's own token (sduoid)"),
        (sas(sp="r"), UPLOAD, U, "neither write nor create right (sp); generate the SAS with c and w"),
        (sas("", sr="c", sp="rl"), TREE, U, "neither write nor create right"),
        (sas(sp="cw"), VERIFY, U, "no read right (sp); generate the SAS with r"),
        (sas(sr="bs"), UPLOAD, U, "opens a snapshot or version"),
        (sas(sr="bv"), UPLOAD, U, "opens a snapshot or version"),
        (sas(sr="f"), UPLOAD, U, "no blob, container or directory (sr)"),
        (sas("/a", "snapshot=2026"), UPLOAD, U, "operation, snapshot or version"),
        (sas("", "restype=container", "comp=list", sr="c"), TREE, U, "operation, snapshot or version"),
        (sas("/a", "srt=sc", "ss=b", sr=""), UPLOAD, U, "account SAS that does not open blobs"),
        (sas("/a", "srt=o", "ss=qt", sr=""), UPLOAD, U, "account SAS that does not open blobs"),
        (sas("/a", "srq=comp"), UPLOAD, U, "signs query parameters that it does not carry (srq)"),
        (sas("/a", "spr=https", host="http://127.0.0.1:10000/acct/cont"), UPLOAD, U, "over https only (spr)"),
        (sas("", sr="c"), UPLOAD, U, "names no object"),
        (sas("/a", sr="b"), TREE, U, "opens one blob (sr=b)"),
        (sas("/a", sr="d"), TREE, U, "lacks sdd"),
        (sas("/a", "sdd=2", sr="d"), TREE, U, "cut above the directory that it opens (sdd)"),
        (sas("/a//b", sr="c"), TREE, U, "empty segment"),
        (
            sas("", host="https://acct.blob.core.windows.net", sr="c"),
            TREE,
            U,
            "does not begin its path with a container",
        ),
        (sas("/../cont/a", host="http://127.0.0.1:10000"), UPLOAD, U, "does not begin its path with an account"),
        # hosts that do not go with it
        (s3(host=AZURE_HOST), UPLOAD, U, "an S3 signature on another provider's host"),
        (gcs(host=AWS_HOST), UPLOAD, U, "a Google signature on another provider's host"),
        (sas(host=GCS_HOST), UPLOAD, U, "an Azure SAS on another provider's host"),
        (s3(host="https://pub-1.r2.dev"), UPLOAD, U, "public R2 host"),
        (s3(host=R2_HOST + "/bkt"), FORM, U, "has a query"),
        (R2_HOST + "/bkt", FORM, U, "takes no POST policy forms"),
        (GCS_HOST, FORM, U, "Google form"),
        (AWS_HOST + "/k", FORM, U, "not the address of a bucket"),
        ("https://s3.amazonaws.com/b/k", FORM, U, "not the address of a bucket"),
        # said twice
        (s3("/k", "X-Amz-Expires=60"), UPLOAD, U, "has x-amz-expires twice"),
        (s3("/k", "x-amz-EXPIRES=60"), UPLOAD, U, "has x-amz-expires twice"),
        (s3("/k", "X%2DAmz-Expires=60"), UPLOAD, U, "has x-amz-expires twice"),
        (sas("/k", "sig=x"), UPLOAD, U, "has sig twice"),
        (s3("/k", CANARY, CANARY), UPLOAD, U, "has a parameter twice"),
        # keys
        (s3("/"), UPLOAD, U, "names no object"),
        (s3(""), UPLOAD, U, "names no object"),
        (s3("/dir/"), UPLOAD, U, "names no object"),
        (s3("/bkt", host="https://s3.amazonaws.com"), UPLOAD, U, "names no object"),
        (s3("//k", host="https://s3.amazonaws.com"), UPLOAD, U, "does not begin its path with a bucket"),
        (s3("/b%2Fc/k", host="https://s3.amazonaws.com"), UPLOAD, U, "does not begin its path with a bucket"),
        (s3("/../k", host="https://s3.amazonaws.com"), UPLOAD, U, "does not begin its path with a bucket"),
        (s3("/a/../b"), UPLOAD, U, ". or .. as a segment"),
        (s3("/a/./b"), UPLOAD, U, ". or .. as a segment"),
        (s3("/a/%2e%2E/b"), UPLOAD, U, ". or .. as a segment"),
        (s3("/a%2F..%2Fb"), UPLOAD, U, ". or .. as a segment"),
        (s3("/a/.%2e"), UPLOAD, U, ". or .. as a segment"),
        (s3("/."), UPLOAD, U, ". or .. as a segment"),
        (sas("/../x", sr="c"), TREE, U, ". or .. as a segment"),
        (s3("/" + "k" * 1025), UPLOAD, U, "has a key of 1025 bytes"),
        (s3("/" + "%C3%BC" * 513), UPLOAD, U, "has a key of 1026 bytes"),
        (s3("/a%00b"), UPLOAD, B, "control character"),
        (s3("/a%0Ab"), UPLOAD, B, "control character"),
        (s3("/a%C2%9Bb"), UPLOAD, B, "control character"),
        (s3("/a%FFb"), UPLOAD, B, "not UTF-8"),
        (s3("/a%C3"), UPLOAD, B, "not UTF-8"),
        # no URL
        (s3("/k", "x=%FF"), UPLOAD, B, "not UTF-8"),
        (s3("/k", "x=%F"), UPLOAD, B, "no percent-encoding"),
        (s3("/100%"), UPLOAD, B, "no percent-encoding"),
        (s3() + "#x", UPLOAD, B, "has a fragment"),
        (s3("/a b"), UPLOAD, B, "contains a space"),
        (s3("/ü"), UPLOAD, B, "not ASCII"),
        (s3("/a\\b"), UPLOAD, B, "a backslash"),
        (s3() + "\n", UPLOAD, B, "contains a space"),
        (s3() + "\x00", UPLOAD, B, "contains a space"),
        (s3("/" + "k" * 17_000), UPLOAD, B, "URLs have at most 16384"),
        ("", UPLOAD, B, "does not start with https://"),
        (CANARY, UPLOAD, B, "does not start with https://"),
    ],
)
def test_what_can_never_work_is_refused_with_the_fix(text: str, role: Role, code: Code, words: str) -> None:
    """Its code, field and words; nothing of the query is shown."""
    error = refusal(text, role)

    assert (error.code, error.field, words in error.message, ";" in error.message) == (code, "url", True, True), error
    assert CANARY not in f"{error}{error!r}{error.detail}"


@pytest.mark.parametrize(
    "pair",
    [
        "x-amz-checksum-crc32=AAAAAA%3D%3D",
        "x-amz-checksum-crc32c=AAAAAA==",
        "x-amz-checksum-crc64nvme=AAAAAAAAAAA%3D",
        "x-amz-checksum-sha1=2jmj7l5rSw0yVb%2FvlWAYkK%2FYBwk%3D",
        "x-amz-checksum-sha256=47DEQpj8HBSa%2B/TImW%2B5JCeuQeRkm5NMpJWZG3hSuFU%3D",
        "Content-MD5=1B2M2Y8AsgTpgAmY7PhCfg%3D%3D",
    ],
)
def test_a_hoisted_checksum_of_nothing_is_refused_wherever_it_is_checked(pair: str) -> None:
    """Amazon ignores it; every other host would refuse every upload."""
    read(s3("/k", pair))
    error = refusal(s3("/b/k", pair, host=R2_HOST))

    assert error.code is Code.URL_UNUSABLE
    assert error.message.endswith("sign it with requestChecksumCalculation: WHEN_REQUIRED")


def test_a_hoisted_checksum_of_something_may_be_right() -> None:
    """It is the file's own then."""
    assert read(s3("/b/k", "x-amz-checksum-crc32=V34QFw%3D%3D", host=R2_HOST)).key == "k"


def test_http_is_for_hosts_that_the_operator_listed() -> None:
    """A signature over http is anybody's who listens."""
    assert read(s3("/b/k", host="http://127.0.0.1:8333")).origin.url == "http://127.0.0.1:8333"
    assert refusal(s3(host=AWS_HOST.replace("https", "http"))).code is Code.ENDPOINT_FORBIDDEN
    assert refusal(s3("/b/k", host="http://127.0.0.1:8333"), styles=PUBLIC).code is Code.ENDPOINT_FORBIDDEN


@pytest.mark.parametrize(
    ("text", "at", "skew", "code"),
    [
        (s3(), NOON, timedelta(0), None),
        (s3(), ONE - timedelta(seconds=1), timedelta(0), None),
        (s3(), ONE, timedelta(0), Code.URL_EXPIRED),
        (s3(), NOON, HOUR, Code.URL_EXPIRED),  # the provider's clock is ahead of ours
        (s3(), ONE, -HOUR, None),
        (s3(), NOON - timedelta(minutes=15), timedelta(0), None),
        (s3(), NOON - timedelta(minutes=16), timedelta(0), Code.URL_NOT_YET_VALID),
        (sas("/a", "st=2026-03-01T12:00:00Z"), NOON - timedelta(seconds=1), timedelta(0), Code.URL_NOT_YET_VALID),
        (sas("/a", "st=2026-03-01T13:00:00%2B01:00"), NOON, timedelta(0), None),
        (sas("/a", "si=p", se=""), NOON + 9999 * HOUR, timedelta(0), None),
        (GCS_HOST + "/k?upload_id=x", NOON + 9999 * HOUR, timedelta(0), None),
    ],
)
def test_a_url_is_usable_between_its_times(text: str, at: datetime, skew: timedelta, code: Code | None) -> None:
    """By the provider's clock; a V4 date may be 15 minutes in the future, as the providers allow."""
    url = read(text)

    if code is None:
        usable_at(url, at, skew)
    else:
        with pytest.raises(InputError) as caught:
            usable_at(url, at, skew)
        assert caught.value.code is code


def test_an_expired_url_says_when_it_expired() -> None:
    """With the time and the place, without the signature."""
    with pytest.raises(InputError) as caught:
        read_url(s3(), field="get_url", styles=PUBLIC, now=ONE + HOUR)

    assert (caught.value.field, caught.value.message) == (
        "get_url",
        f"get_url '{AWS_HOST}/runs/7/a.csv' expired at 2026-03-01T13:00:00Z; sign it again",
    )


def test_a_url_shows_no_secret_in_its_repr() -> None:
    """Neither its text nor its upload id."""
    shown = repr(read(s3("/k", "uploadId=" + CANARY, "X-Amz-Security-Token=" + CANARY), Role.COMPLETE))

    assert CANARY not in shown
