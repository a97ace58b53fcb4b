"""Hosts, texts and rows that mean harm: where they may lead, and what an error may repeat of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloudpush.errors import Code, InputError
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.model import SignedUrl, Ticket
from cloudpush.push.signed.rows import COLUMNS, Rules, read_row, ticket_from_url
from cloudpush.push.signed.urls import Role, read_url
from links import CANARY, LOCAL, PUBLIC, form_fields, gcs, s3, sas

F, B = Code.ENDPOINT_FORBIDDEN, Code.BAD_INPUT


def told(error: InputError) -> str:
    """Everything of ``error`` that can end up somewhere: its words, and those of whatever it came from."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    return "".join(f"{e}{e!r}{e.args}{getattr(e, 'detail', '')}" for e in causes) + "".join(
        traceback.format_exception(error)
    )


def attempt(read: Callable[[], Any]) -> Any:
    """What ``read`` returns, or the InputError that it raises; which repeats no secret."""
    try:
        return read()
    except InputError as e:
        error = e
    assert CANARY not in told(error)
    return error


def judged(host: str, *allowed: str) -> str | Code:
    """The origin that a URL on ``host`` leads to, or the code of its refusal."""
    found = attempt(lambda: read_url(s3("/bkt/k", host=host), field="url", styles=Styles.of(allowed)))
    return found.code if isinstance(found, InputError) else str(found.origin.url)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("https://s3.example.org:9000", "https://s3.example.org:9000"),
        ("https://8.8.8.8", "https://8.8.8.8"),
        ("https://[2606:4700::1111]", "https://[2606:4700::1111]"),
        ("https://bücher.example.org", "https://xn--bcher-kva.example.org"),
        # IPv4 in other spellings
        ("https://127.0.0.1", F),
        ("https://127.0.0.1.", F),
        ("https://127.1", B),
        ("https://2130706433", B),
        ("https://0x7f000001", B),
        ("https://0x7f.0.0.1", B),
        ("https://0177.0.0.1", B),
        ("https://017700000001", B),
        ("https://127.0.0.01", B),
        ("https://0", B),
        ("https://\uff11\uff12\uff17.0.0.1", F),
        ("https://127\u30020\u30020\u30021", F),
        ("https://\u2460\u2461\u2466.0.0.1", F),
        # IPv6
        ("https://[::1]", F),
        ("https://[::]", F),
        ("https://[::ffff:127.0.0.1]", F),
        ("https://[::ffff:a9fe:a9fe]", F),
        ("https://[64:ff9b::169.254.169.254]", F),
        ("https://[2002:7f00:1::]", F),
        ("https://[fe80::1%25eth0]", B),
        ("https://[fe80::1]", F),
        ("https://[fd00:ec2::254]", F),
        ("https://[::1", B),
        # metadata and private networks
        ("https://169.254.169.254", F),
        ("https://168.63.129.16", F),
        ("https://100.100.100.200", F),
        ("https://10.0.0.1", F),
        ("https://192.168.0.1", F),
        ("https://metadata.google.internal", F),
        ("https://localhost", F),
        ("https://LocalHost.", F),
        ("https://x.localhost", F),
        ("https://\uff4cocalhost", F),
        ("https://printer.local", F),
        ("https://minio", F),
        # userinfo
        ("https://s3.amazonaws.com@127.0.0.1", B),
        ("https://user:pw@s3.amazonaws.com", B),
        ("https://@s3.amazonaws.com", B),
        ("https://s3.amazonaws.com%40evil.example.org", B),
        ("https://s3.amazonaws.com\\@127.0.0.1", B),
        ("https://s3.amazonaws.com:443@127.0.0.1:80", B),
        # schemes
        ("http://s3.amazonaws.com", F),
        ("ftp://s3.amazonaws.com", B),
        ("file://", B),
        ("gopher://127.0.0.1:6379", B),
        ("dict://127.0.0.1:11211", B),
        ("javascript://s3.amazonaws.com", B),
        ("unix:///run/x.sock", B),
        ("//s3.amazonaws.com", B),
        ("https:/s3.amazonaws.com", B),
        ("https:s3.amazonaws.com", B),
        (" https://s3.amazonaws.com", B),
        ("https://", B),
        ("https://:443", B),
        # ports
        ("https://s3.amazonaws.com:22", F),
        ("https://s3.amazonaws.com:80", F),
        ("https://s3.amazonaws.com:6379", "https://s3.amazonaws.com:6379"),
        ("https://s3.amazonaws.com:0", B),
        ("https://s3.amazonaws.com:65536", B),
        ("https://s3.amazonaws.com:-1", B),
        ("https://s3.amazonaws.com:x", B),
        # letters that only look right
        ("https://s3.\u0430mazonaws.com", "https://s3.xn--mazonaws-06g.com"),
        ("https://xn--.com", B),
        ("https://s3..amazonaws.com", B),
        ("https://s3.amazonaws.com\u2100x", B),
        ("https://s3.amazonaws.com\u200b", B),
        ("https://s3.amazonaws.com\r\nHost: x", B),
        ("https://s3.amazonaws.com\t", B),
    ],
)
def test_where_a_url_may_lead(host: str, expected: str | Code) -> None:
    """To public https hosts in normal form; a refusal repeats nothing of the query, nor of what stood before an @."""
    assert judged(host) == expected


def test_a_look_alike_is_not_the_provider() -> None:
    """A host in other letters is nobody's in the table."""
    url = read_url(s3("/b/k", host="https://s3.\u0430mazonaws.com"), field="url", styles=PUBLIC)

    assert (url.flavour, url.bucket) == ("other", "")


@pytest.mark.parametrize(
    ("host", "allowed", "expected"),
    [
        ("http://127.0.0.1:8333", ["127.0.0.1:8333"], "http://127.0.0.1:8333"),
        ("http://127.0.0.1:8334", ["127.0.0.1:8333"], F),
        ("https://2130706433:8333", ["127.0.0.1:8333"], B),
        ("http://x@127.0.0.1:8333", ["127.0.0.1:8333"], B),
        ("http://evilminio", ["minio"], F),
        ("http://bkt.minio", ["minio"], F),
        ("http://MINIO:80", [" Minio "], "http://minio"),
    ],
)
def test_the_operators_list_opens_exactly_what_it_names(host: str, allowed: list[str], expected: str | Code) -> None:
    """Neither other ports nor names below it."""
    assert judged(host, *allowed) == expected


@pytest.mark.parametrize(
    "text",
    [
        f"https://s3.amazonaws.com/b/k&X-Amz-Signature={CANARY}",  # the ? was lost
        f"https://s3.amazonaws.com/b/k;X-Amz-Signature={CANARY}",
        f"https://s3.amazonaws.com/b/k%3FX-Amz-Signature%3D{CANARY}",  # quoted as a whole
        f"https://s3.amazonaws.com/b/k%253FX-Amz-Signature%253D{CANARY}",
        f"https://s3.amazonaws.com/b/k#X-Amz-Signature={CANARY}",
        f"https://s3.amazonaws.com&X-Amz-Signature={CANARY}",
        f"https://s3.amazonaws.com%3FX-Amz-Signature={CANARY}",
        f"https://sig={CANARY}",
        f"https://user:{CANARY}@s3.amazonaws.com/b/k",
        f"https://user:{CANARY}/x@s3.amazonaws.com/b/k",
        f"https:s3.amazonaws.com/b/k?sig={CANARY}",
        f"sv=2022-11-02&sig={CANARY}",
        f"?sig={CANARY}",
        CANARY,
        f"https://s3.amazonaws.com/b/k?{CANARY}&{CANARY}",
        f"https://s3.amazonaws.com/b/k?X-Amz-Signature={CANARY}&X-Amz-Signature={CANARY}",
        f"https://s3.amazonaws.com/b/k?X-Amz-Algorithm={CANARY}",
        s3("/b/k", host="https://s3.amazonaws.com", expires=CANARY),
        s3("/b/k", host="https://s3.amazonaws.com", date=CANARY),
        s3("/b/k", host="https://s3.amazonaws.com", headers=f"{CANARY} x"),
        s3("/b/k", "uploadId=U", f"partNumber={CANARY}", host="https://s3.amazonaws.com"),
        s3("/b/k", f"x-id={CANARY}", host="https://s3.amazonaws.com"),
        sas("/a", f"st={CANARY}"),
        sas(sr=CANARY),
        sas("/a", f"srq={CANARY}"),
    ],
)
@pytest.mark.parametrize("role", list(Role))
def test_no_refusal_shows_a_secret(text: str, role: Role) -> None:
    """Also where a typo put it elsewhere than into the query; nor does what the error came from."""
    with pytest.raises(InputError) as caught:
        read_url(text, field="url", styles=LOCAL, role=role)

    assert CANARY not in told(caught.value)


#: Pieces of URLs and of what breaks them, put together in any order.
PIECES = st.sampled_from(
    [
        *(
            "https://",
            "http://",
            "HTTPS://",
            "s3.amazonaws.com",
            "acct.blob.core.windows.net",
            "storage.googleapis.com",
        ),
        *(
            "127.0.0.1:8333",
            "[::1]",
            "@",
            ":",
            "/",
            "//",
            "..",
            ".",
            "%2e",
            "%2F",
            "%00",
            "%FF",
            "%",
            "?",
            "&",
            "=",
            "#",
        ),
        *("\\", " ", "\n", "\x00", "ü", "\ud800", "b/k", "sig=", "sv=2022-11-02", "sr=b", "sp=cw", "se=2026-03-01"),
        *("X-Amz-Signature=", "X-Amz-Date=20260301T120000Z", "X-Amz-Expires=60", "X-Amz-SignedHeaders=host"),
        *("X-Amz-Credential=A%2F20260301%2Fr%2Fs3%2Faws4_request", "X-Amz-Algorithm=AWS4-HMAC-SHA256"),
        *(
            "X-Amz-Date=99991231T235959Z",
            "st=0001-01-01T00:00:00%2B23:59",
            "Expires=253402300799",
            "X-Amz-Expires=604800",
        ),
        *("upload_id=x", "AWSAccessKeyId=A", "Expires=1", "Signature=x", "partNumber=1", "uploadId=U"),
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=25).map("".join), st.sampled_from([s3(), gcs(), sas()]))


@given(TEXTS, st.sampled_from(list(Role)))
@example("https://[", Role.UPLOAD)
@example("https://s3.amazonaws.com/b/\ud800", Role.UPLOAD)
def test_any_text_is_read_or_refused(text: str, role: Role) -> None:
    """Nothing but InputError comes out, and nothing of a query with it."""
    hidden = f"?x-canary={CANARY}&{text}"
    for given_text in (text, f"https://s3.amazonaws.com/b/k{hidden}", text + hidden):
        found = attempt(partial(read_url, given_text, field="url", styles=LOCAL, role=role))

        assert isinstance(found, SignedUrl | InputError)
        assert CANARY not in repr(found)


VALUES: st.SearchStrategy[Any] = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.lists(TEXTS, max_size=3),
    st.dictionaries(st.text(max_size=5), st.one_of(TEXTS, st.integers()), max_size=3),
    st.sampled_from([form_fields(), [s3("/k", "partNumber=1", "uploadId=U")], s3("/k", "uploadId=U")]),
)


@given(st.dictionaries(st.one_of(st.sampled_from(sorted(COLUMNS)), st.text(max_size=8)), VALUES, max_size=6))
def test_any_row_is_read_or_refused(row: dict[str, Any]) -> None:
    """Whatever the types of its values."""
    assert isinstance(attempt(lambda: read_row(row, Rules(LOCAL))), Ticket | InputError)


@given(TEXTS)
def test_any_text_alone_is_read_or_refused(text: str) -> None:
    """Also where it looks like JSON."""
    for given_text in (text, "{" + text, '{"url": "' + text + '"}'):
        found = attempt(partial(ticket_from_url, given_text, Rules(LOCAL)))

        assert isinstance(found, Ticket | InputError)
