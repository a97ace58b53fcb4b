"""An S3 server that misbehaves on cue: what the inspector makes of it, and what it never does."""

from __future__ import annotations

import asyncio
import socket
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cloudpush.errors import Cancelled, CloudPushError, Code
from cloudpush.push.job import Destination, Profile, Seen
from cloudpush.push.ports import Control
from cloudpush.verify.heads import S3Inspector
from fakes_inspector import GoOn, PlainSecret
from names_served import refusing, resolving


@dataclass(frozen=True)
class Reply:
    """An answer to send. ``drop``: close the connection instead; ``hang``: wait until the test is over."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop: bool = False
    hang: bool = False


OK = Reply(headers={"ETag": '"0cc175b9c0f1b6a831c399e269772661"', "Content-Length": "1"})
SEEN = Seen(exists=True, size=1, etag="0cc175b9c0f1b6a831c399e269772661")


def error(status: int, code: str, more: str = "") -> Reply:
    return Reply(status, {}, f"<Error><Code>{code}</Code><Message>words</Message>{more}</Error>".encode())


class Server:
    """Answers by a function of (method, target); keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[str, str], Reply] = lambda _method, _target: OK
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                server.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                reply = server.answer(self.command, self.path)
                if reply.hang:
                    server.over.wait(30)
                if reply.drop or reply.hang:
                    self.close_connection = True
                    return
                self.send_response_only(reply.status)
                headers = {"Content-Length": str(len(reply.body)), **reply.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

            do_GET = do_HEAD  # noqa: N815 -- http.server's names

            def log_message(self, *_: object) -> None:
                """Quiet."""

        class Http(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # the default of 5 makes many connections at once wait for seconds

        self._http = Http(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def methods(self) -> Counter[str]:
        return Counter(method for method, _, _ in self.asked)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, kept and not waited for."""
    kept: list[float] = []

    async def sleep(seconds: float) -> None:
        kept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return kept


def destination(port: int, scheme: str = "http", *, trusted: bool = True, host: str = "127.0.0.1") -> Destination:
    return Destination("s3", "bkt", "", Profile("lab", "other", f"{scheme}://{host}:{port}", trusted=trusted))


def look(server: Server, *keys: str, secret: PlainSecret | None = None) -> list[Seen]:
    return list(S3Inspector().look(destination(server.port), secret or PlainSecret(), keys, GoOn()))


def failure(ask: Callable[[], object]) -> CloudPushError:
    with pytest.raises(CloudPushError) as caught:
        ask()
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.detail
    assert "canary" not in shown
    assert "Signature=" not in shown
    return caught.value


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_three_times(server: Server, status: int, pauses: list[float]) -> None:
    """Two failures and a good answer are a good answer; the pauses grow."""
    replies = iter([Reply(status), Reply(status), OK])
    server.answer = lambda _m, _t: next(replies)

    seen = look(server, "k")

    assert (seen, len(server.asked), [0.1 <= pauses[0] <= 0.2, 0.2 <= pauses[1] <= 0.4]) == ([SEEN], 3, [True, True])


def test_a_dropped_connection_is_tried_again(server: Server) -> None:
    """What broke on the way may pass, too."""
    replies = iter([Reply(drop=True), Reply(drop=True), OK])
    server.answer = lambda _m, _t: next(replies)

    assert look(server, "k") == [SEEN]


def test_retry_after_is_honoured_within_reason(server: Server, pauses: list[float]) -> None:
    """A server that asks for an hour gets five seconds; the caller's own back-off does the rest."""
    replies = iter([Reply(503, {"Retry-After": "3600"}), Reply(503, {"Retry-After": "2"}), OK])
    server.answer = lambda _m, _t: next(replies)

    look(server, "k")

    assert [2.5 <= pauses[0] <= 5, 1 <= pauses[1] <= 2] == [True, True]


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Reply(500), Code.PROVIDER_UNAVAILABLE), (Reply(429), Code.THROTTLED), (Reply(drop=True), Code.NETWORK)],
)
def test_one_key_that_fails_for_a_passing_reason(server: Server, fault: Reply, code: Code) -> None:
    """Its answer carries the error; the others are not touched by it."""
    server.answer = lambda _m, target: fault if target.endswith("/bad") else OK

    good, bad = look(server, "good", "bad")

    assert (good, bad.exists, bad.error.code if bad.error else None) == (SEEN, None, code)


@pytest.mark.parametrize("fault", [Reply(500), Reply(drop=True)])
def test_a_server_that_answers_nothing_properly_is_given_up(server: Server, fault: Reply) -> None:
    """A thousand keys are not tried three times each."""
    server.answer = lambda _m, _t: fault

    error = failure(lambda: look(server, *[f"k{i}" for i in range(1000)]))

    assert (error.code.retryable, len(server.asked) < 1000) == (True, True)


def test_single_failures_among_good_answers_do_not_add_up(server: Server) -> None:
    """Only an unbroken row of them says that the server is down."""
    server.answer = lambda _m, target: Reply(500) if "/bad" in target else OK
    keys = [f"{word}{i}" for i in range(20) for word in ("good", "bad")]

    seen = S3Inspector(concurrency=1).look(destination(server.port), PlainSecret(), keys, GoOn())

    assert [s.exists for s in seen] == [True, None] * 20


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (error(403, "SignatureDoesNotMatch"), Code.BAD_SIGNATURE),
        (error(400, "ExpiredToken"), Code.CREDENTIAL_EXPIRED),
        (error(403, "RequestTimeTooSkewed"), Code.CLOCK_SKEW),
        (error(404, "NoSuchBucket"), Code.NO_SUCH_BUCKET),
    ],
)
def test_a_status_is_put_into_words_by_one_get(server: Server, status: int, words: Reply, code: Code) -> None:
    """A HEAD has no body; one GET for the whole call says what it meant."""
    server.answer = lambda method, _t: words if method == "GET" else Reply(status)

    error = failure(lambda: look(server, *[f"k{i}" for i in range(100)]))

    assert (error.code, server.methods["GET"]) == (code, 1)


def test_a_forbidden_key_is_one_keys_matter(server: Server) -> None:
    """S3 says 403 for missing keys, too, to whoever may not list: the answer is that we cannot tell."""
    forbidden = error(403, "AccessDenied")
    server.answer = lambda _m, target: forbidden if "/no" in target else OK

    seen = look(server, "no1", "yes", "no2")

    assert [(s.exists, s.error.code if s.error else None, s.error.detail if s.error else "") for s in seen] == [
        (None, Code.ACCESS_DENIED, "HTTP 403 AccessDenied: words"),
        (True, None, ""),
        (None, Code.ACCESS_DENIED, "HTTP 403 AccessDenied: words"),
    ]
    assert server.methods["GET"] == 1


def test_a_redirect_is_not_followed_and_names_the_region(server: Server) -> None:
    """The bucket is elsewhere: say where, and send the signature nowhere else."""
    server.answer = lambda _m, _t: Reply(
        301, {"Location": f"http://127.0.0.1:{server.port}/evil", "x-amz-bucket-region": "eu-west-1"}
    )

    error = failure(lambda: look(server, "k"))

    assert (error.code, "region eu-west-1, not us-east-1" in error.message) == (Code.WRONG_REGION, True)
    assert [target for _, target, _ in server.asked] == ["/bkt/k", "/bkt/k"]


def test_encryption_makes_an_etag_opaque(server: Server) -> None:
    """Under KMS and customer keys an ETag looks like an MD5 and is none; under the plain kind it is one."""
    extra = {
        "kms": {"x-amz-server-side-encryption": "aws:kms"},
        "dsse": {"x-amz-server-side-encryption": "aws:kms:dsse"},
        "customer": {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
        "s3": {"x-amz-server-side-encryption": "AES256"},
    }
    server.answer = lambda _m, target: Reply(headers={**OK.headers, **extra[target.rpartition("/")[2]]})

    assert [s.opaque_etag for s in look(server, *extra)] == [True, True, True, False]


def test_versions_and_weak_etags_are_read(server: Server) -> None:
    """A proxy's W/ and a composite SHA-256 are no part of what is compared."""
    server.answer = lambda _m, _t: Reply(
        headers={"ETag": 'W/"e"', "x-amz-version-id": "v1", "x-amz-checksum-sha256": "abc=-2", "Content-Length": "7"}
    )

    assert look(server, "k") == [Seen(exists=True, size=7, etag="e", version_id="v1")]


def test_keys_go_over_the_wire_as_they_were_signed(server: Server) -> None:
    """Nothing on the way normalises a path."""
    look(server, "a//b", "a/./b", "a/../b", "%2e", "a b+c", "é~", "x?y#z")

    assert sorted(target for _, target, _ in server.asked) == sorted(
        ["/bkt/a//b", "/bkt/a/./b", "/bkt/a/../b", "/bkt/%252e", "/bkt/a%20b%2Bc", "/bkt/%C3%A9~", "/bkt/x%3Fy%23z"]
    )


def test_proxies_of_the_environment_are_ignored(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed request goes to the address that was checked and nowhere else."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert look(server, "k") == [SEEN]


def test_only_what_is_needed_is_sent(server: Server) -> None:
    """No agent, no cookies, no wish for compression: the headers are those that were signed, and Host."""
    look(server, "k", secret=PlainSecret(session_token="tok"))

    ((_, _, headers),) = server.asked
    assert sorted(headers) == [
        "authorization",
        "host",
        "x-amz-checksum-mode",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
    ]


@pytest.mark.parametrize(
    "listing",
    [
        error(403, "AccessDenied"),
        error(501, "NotImplemented"),
        Reply(200, {}, b"<html>login</html>"),
        Reply(200, {}, b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult>&a;</ListBucketResult>'),
        Reply(200, {}, b"<ListBucketResult>" + b" " * 9_000_000),
    ],
)
def test_a_listing_that_does_not_work_falls_back_to_heads(server: Server, listing: Reply) -> None:
    """Not allowed, not known, not XML, hostile or endless: every key is asked for by itself."""
    server.answer = lambda method, _t: listing if method == "GET" else OK
    keys = [f"k{i}" for i in range(40)]

    seen = S3Inspector().survey(destination(server.port), PlainSecret(), keys, GoOn())

    assert (list(seen), server.methods) == ([SEEN] * 40, Counter(HEAD=40, GET=1))


def test_cancelling_stops_what_hangs(server: Server) -> None:
    """The control is asked again and again, not only between answers."""
    server.answer = lambda _m, _t: Reply(hang=True)

    class StopOnceAsked(Control):
        def check(self) -> None:
            if server.asked:
                raise Cancelled

    with pytest.raises(Cancelled):
        S3Inspector().look(destination(server.port), PlainSecret(), [f"k{i}" for i in range(10)], StopOnceAsked())

    assert len(server.asked) <= 10


def test_nobody_listens() -> None:
    """A refused connection concerns every key."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]

    error = failure(lambda: S3Inspector().look(destination(port), PlainSecret(), ["a", "b"], GoOn()))

    assert error.code is Code.ENDPOINT_REFUSED


def test_no_such_host() -> None:
    """A name without address is found out before anything is sent."""
    gone = destination(443, "https", host="nowhere.invalid")

    error = failure(lambda: S3Inspector().look(gone, PlainSecret(), ["a"], GoOn()))

    assert error.code is Code.ENDPOINT_UNRESOLVABLE


def test_no_tls_where_tls_is_asked_for(server: Server) -> None:
    """A server that speaks plain HTTP on an https endpoint gets nothing of the request."""
    error = failure(lambda: S3Inspector().look(destination(server.port, "https"), PlainSecret(), ["a"], GoOn()))

    assert (error.code, server.asked) == (Code.TLS_FAILED, [])


def test_a_users_endpoint_that_leads_inside_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name looks public, its address is not: no connection is made."""
    resolving(monkeypatch, "127.0.0.1")
    theirs = destination(server.port, "https", trusted=False, host="s3.example.org")

    error = failure(lambda: S3Inspector().look(theirs, PlainSecret(), ["a"], GoOn()))

    assert (error.code, server.asked) == (Code.ENDPOINT_FORBIDDEN, [])


def test_the_address_that_was_checked_is_connected_to(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves differently the second time (DNS rebinding) is not asked a second time."""
    asked = resolving(monkeypatch, "8.8.8.8", "127.0.0.1", "127.0.0.1")
    connected = refusing(monkeypatch)
    theirs = destination(server.port, "https", trusted=False, host="s3.example.org")

    error = failure(lambda: S3Inspector().look(theirs, PlainSecret(), ["a"], GoOn()))

    assert (error.code, asked, set(connected)) == (
        Code.ENDPOINT_REFUSED,
        ["s3.example.org"],
        {("8.8.8.8", server.port)},
    )
