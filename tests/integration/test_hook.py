"""The callback for fresh URLs: who asks is signed, whom we ask is judged, what it answers is bounded."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from builders import a_push
from cloudpush.errors import Cancelled, CloudPushError, Code, DestinationError
from cloudpush.net import Pool
from cloudpush.push.guard import Origin
from cloudpush.push.signed.model import Kind, Need
from cloudpush.transfer.hook import BASE_BYTES, FILE_BYTES, PART_BYTES, HttpHook
from cloudpush.transfer.hook import _most as most_of
from cloudpush.transfer.hook import _rows as rows_of
from cloudpush.transfer.webhook import TRIES
from fakes_inspector import GoOn
from names_served import refusing, resolving

SECRET = "canary-secret-0123456789"
PATH = "/canary-path?token=canary-query"
NEEDS = [Need(1, "a.csv", "run/a.csv", Kind.PUT), Need(7, "big.tar", "run/big.tar", Kind.MULTIPART, (3, 4))]
TREE = [Need(1, "", "run", Kind.TREE)]
ROW = {"path": "a.csv", "url": "https://bucket.example.org/run/a.csv?X-Amz-Signature=canary-fresh"}


class Pipeline:
    """A callback on a real socket: ``answers`` in turn, the last one for ever; ``questions`` that came."""

    def __init__(self) -> None:
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.questions: list[tuple[str, dict[str, str], bytes]] = []
        self.over = threading.Event()
        pipeline = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                pipeline.questions.append((self.path, dict(self.headers), body))
                (pipeline.answers.pop(0) if len(pipeline.answers) > 1 else pipeline.answers[0])(self)

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def fields(self) -> dict[str, str]:
        return {"url": f"http://{self.address}{PATH}", "secret": SECRET}

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


def says(body: object, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(2)


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    made = Pipeline()
    yield made
    made.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool("hook", aiohttp.ClientTimeout(total=60))
    yield made
    made.close()


def hook_of(pool: Pool, pipeline: Pipeline, **changes: Any) -> HttpHook:
    return HttpHook(pool, (pipeline.address,), **({"pause": 0.001} | changes))


def refusal(hook: HttpHook, fields: dict[str, str], needs: list[Need] = NEEDS) -> CloudPushError:
    """The error, which says nothing of what is secret, however it is shown."""
    with pytest.raises(DestinationError) as caught:
        hook.ask(fields, a_push(), needs, GoOn())
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caught.value.detail
    assert "canary" not in told
    return caught.value


def test_question_says_which_files_need_urls_and_is_signed(pool: Pool, pipeline: Pipeline) -> None:
    """Verified here as a pipeline would, by another implementation of HMAC."""
    pipeline.answers = [says({"files": [ROW]})]
    push = a_push()

    rows = hook_of(pool, pipeline).ask(pipeline.fields, push, NEEDS, GoOn())

    ((path, headers, body),) = pipeline.questions
    mac = hmac.HMAC(SECRET.encode(), hashes.SHA256())
    mac.update(f"{headers['CloudPush-Timestamp']}.{headers['CloudPush-Id']}.".encode() + body)
    mac.verify(bytes.fromhex(headers["CloudPush-Signature"].removeprefix("v1=")))
    assert (rows, path, headers["Content-Type"], json.loads(body)) == (
        [ROW],
        PATH,
        "application/json",
        {
            "version": 1,
            "push": str(push.id),
            "owner": push.owner,
            "destination": "s3://results/runs/7",
            "files": [
                {"seq": 1, "path": "a.csv", "key": "run/a.csv", "kind": "put", "parts": []},
                {"seq": 7, "path": "big.tar", "key": "run/big.tar", "kind": "multipart", "parts": [3, 4]},
            ],
        },
    )


@pytest.mark.parametrize("failure", [says({}, 503), says({}, 429), hangs_up], ids=["503", "429", "hangs up"])
def test_passing_failure_is_tried_again_under_the_same_id(
    pool: Pool, pipeline: Pipeline, failure: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    """So that the pipeline can tell a repetition from a replay."""
    pipeline.answers = [failure, failure, says({"files": [ROW]})]

    rows = hook_of(pool, pipeline).ask(pipeline.fields, a_push(), NEEDS, GoOn())

    ids = [headers["CloudPush-Id"] for _, headers, _ in pipeline.questions]
    assert (rows, len(ids), len(set(ids))) == ([ROW], 3, 1)


@pytest.mark.parametrize(
    ("answer", "code", "tries", "words"),
    [
        (says({}, 503), Code.PROVIDER_UNAVAILABLE, 3, "answers 503"),
        (hangs_up, Code.NETWORK, 3, "gave no answer"),
        (says({}, 401), Code.PROVIDER_REFUSED, 1, "verify the signature"),
        (says({"files": []}, 202), Code.PROVIDER_REFUSED, 1, "answers 202"),
        (says({}, 307, Location="http://127.0.0.1/canary"), Code.PROVIDER_REFUSED, 1, "redirects are not followed"),
        (says(b"<html>canary"), Code.PROVIDER_REFUSED, 1, "in JSON"),
        (says([ROW]), Code.PROVIDER_REFUSED, 1, "in JSON"),
        (says({"files": {"canary": 1}}), Code.PROVIDER_REFUSED, 1, "in JSON"),
        (says(b"[" * 1_000), Code.PROVIDER_REFUSED, 1, "in JSON"),
        (says(b"[" * 100_000), Code.PROVIDER_REFUSED, 1, "with 100,000 values, and 1,104 are the most"),
        (says(b'{"files": [], "files": [{"path": "canary"}]}'), Code.PROVIDER_REFUSED, 1, "in JSON"),
        (says({"files": [ROW] * 3}), Code.PROVIDER_REFUSED, 1, "answers for 3 files; it was asked for 2"),
        (says({"files": [ROW, ROW]}), Code.PROVIDER_REFUSED, 1, "in row 2 for a file"),
        (says({"files": [{"path": "canary"}]}), Code.PROVIDER_REFUSED, 1, "in row 1 for a file"),
        (says({"files": [{"url": "canary"}]}), Code.PROVIDER_REFUSED, 1, "in row 1 for a file"),
        (says({"files": [{"path": ["canary"]}]}), Code.PROVIDER_REFUSED, 1, "in row 1 for a file"),
        (says({"files": ["canary"]}), Code.PROVIDER_REFUSED, 1, "in row 1 for a file"),
    ],
    ids=[f"answer {n}" for n in range(17)],  # an address would differ between processes
)
def test_answer_that_is_of_no_use_is_refused_without_being_quoted(
    pool: Pool,
    pipeline: Pipeline,
    answer: Callable[[BaseHTTPRequestHandler], None],
    code: Code,
    tries: int,
    words: str,
) -> None:
    """The error names the host; only what may pass is tried again."""
    pipeline.answers = [answer]

    error = refusal(hook_of(pool, pipeline), pipeline.fields)

    assert (error.code, len(pipeline.questions)) == (code, tries)
    assert words in error.message
    assert pipeline.address in error.message


@pytest.mark.parametrize("needs", [TREE, NEEDS[:1]], ids=["tree", "single file"])
def test_only_thing_that_was_asked_for_needs_no_path(pool: Pool, pipeline: Pipeline, needs: list[Need]) -> None:
    """One SAS is for the whole tree; one file is the file."""
    pipeline.answers = [says({"files": [{"tree_sas_url": "https://…"}]})]

    assert hook_of(pool, pipeline).ask(pipeline.fields, a_push(), needs, GoOn()) == [{"tree_sas_url": "https://…"}]


def test_answer_without_end_is_cut(pool: Pool, pipeline: Pipeline) -> None:
    """Its size is not believed, but counted."""

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" " * 65536)
        except OSError:  # we hung up
            handler.close_connection = True

    pipeline.answers = [endless]

    error = refusal(hook_of(pool, pipeline), pipeline.fields)

    assert (error.code, len(pipeline.questions)) == (Code.PROVIDER_REFUSED, 1)
    assert "more than 229,376 bytes" in error.message  # for two files and two parts


@pytest.mark.parametrize(
    ("needs", "most"),
    [
        (NEEDS[:1], 128 * 1024),
        (NEEDS, (64 + 2 * 64 + 2 * 16) * 1024),
        ([Need(1, "big", "big", Kind.MULTIPART)], 16 * 1024 * 1024),  # all of its parts, however many they are
        ([replace(NEEDS[0], seq=n, path=str(n)) for n in range(500)], 16 * 1024 * 1024),
    ],
)
def test_answer_may_be_as_long_as_the_question_makes_it(needs: list[Need], most: int) -> None:
    """A callback that is asked for one file has nothing to say in megabytes."""
    assert most_of(needs, BASE_BYTES, FILE_BYTES, PART_BYTES) == most


@pytest.mark.parametrize("values", [b"[],", b"{},", b"[[],[]],", b'{"a":1},'])
def test_answer_of_many_small_values_is_not_even_read(values: bytes) -> None:
    """What takes three bytes there takes a hundred here."""
    needs = [Need(1, "big", "big", Kind.MULTIPART)]
    body = b'{"files":[' + values * (4_000_000 // len(values)) + b"[]]}"
    tracemalloc.start()
    try:
        with pytest.raises(DestinationError, match="values"):
            rows_of(body, needs, Origin("https", "h.example.org", 443))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 100_000


def test_full_answer_for_ten_thousand_parts_is_read() -> None:
    """As long as signed URLs are, with what some signers leave as it is."""
    url = "https://b.s3.example.org/a,b/k?se=2026-11-22T00:00:00Z&spr=https,http&partNumber=1&sig=" + "x" * 1000
    row = {"path": "big", "part_urls": [url] * 10_000, "complete_url": url, "headers": {"content-type": "a/b"}}
    body = json.dumps({"files": [row]}).encode()

    rows = rows_of(body, [Need(1, "big", "big", Kind.MULTIPART)], Origin("https", "h.example.org", 443))

    assert rows == [row]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 garbage\r\n\r\n", b""], ids=["no HTTP", "nothing"])
def test_nothing_that_led_to_a_failure_holds_the_address(pool: Pool, answer: bytes) -> None:
    """Not the error alone: whoever prints it may print what it came from, and aiohttp's has the whole URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"

        def answers() -> None:
            for _ in range(3):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=answers, daemon=True)
        thread.start()
        hook = HttpHook(pool, [address], pause=0)
        error: BaseException | None = None
        try:
            hook.ask({"url": f"http://{address}{PATH}", "secret": SECRET}, a_push(), NEEDS, GoOn())
        except DestinationError as e:
            error = e
        thread.join()

    assert error is not None
    while error is not None:
        said = f"{error!r} {error} {vars(error)} {getattr(getattr(error, 'request_info', None), 'real_url', '')}"
        assert "canary" not in said
        error = error.__cause__ or error.__context__


def test_address_that_is_no_url_is_not_what_its_refusal_came_from(pool: Pool, pipeline: Pipeline) -> None:
    """The library's own error quotes it."""
    error = refusal(hook_of(pool, pipeline), pipeline.fields | {"url": "https://[canary/"})

    assert (error.__cause__, error.__context__) == (None, None)


def test_answer_that_trickles_is_given_up(pool: Pool, pipeline: Pipeline) -> None:
    """A byte now and then keeps no worker waiting: the time of a try is bounded as a whole."""

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not pipeline.over.wait(0.02):
                handler.wfile.write(b" ")
        except OSError:
            handler.close_connection = True

    pipeline.answers = [trickle]

    assert refusal(hook_of(pool, pipeline, seconds=0.1), pipeline.fields).code is Code.NETWORK


def test_callback_that_keeps_us_waiting_is_left_when_the_push_is_cancelled(pool: Pool, pipeline: Pipeline) -> None:
    """Cancelled at the second look, long before the try is over."""

    class Soon(GoOn):
        looks = 0

        def check(self) -> None:
            self.looks += 1
            if self.looks > 1:
                raise Cancelled

    def silent(handler: BaseHTTPRequestHandler) -> None:
        pipeline.over.wait(60)

    pipeline.answers = [silent]

    with pytest.raises(Cancelled):
        hook_of(pool, pipeline).ask(pipeline.fields, a_push(), NEEDS, Soon())


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:9/canary", Code.ENDPOINT_FORBIDDEN),
        ("https://127.0.0.1/canary", Code.ENDPOINT_FORBIDDEN),
        ("https://[::1]/canary", Code.ENDPOINT_FORBIDDEN),
        ("https://169.254.169.254/canary", Code.ENDPOINT_FORBIDDEN),
        ("https://2130706433/canary", Code.BAD_INPUT),
        ("https://localhost/canary", Code.ENDPOINT_FORBIDDEN),
        ("https://canary:canary@example.org/", Code.PROVIDER_REFUSED),
        ("https://example.org/#canary", Code.PROVIDER_REFUSED),
        ("https://example.org/canary\r\nX-Canary: 1", Code.PROVIDER_REFUSED),
        ("https://example.org/canary HTTP/1.1", Code.PROVIDER_REFUSED),
        ("https://example.org\\canary", Code.PROVIDER_REFUSED),
        ("https://[canary/", Code.PROVIDER_REFUSED),
        ("ftp://example.org/canary", Code.BAD_INPUT),
        ("http://example.org/canary", Code.ENDPOINT_FORBIDDEN),
        ("https://example.org:25/canary", Code.ENDPOINT_FORBIDDEN),
    ],
)
def test_host_that_no_user_may_name_is_not_asked(pool: Pool, pipeline: Pipeline, url: str, code: Code) -> None:
    """Although the URL passed the gate once, when it was sealed."""
    assert refusal(hook_of(pool, pipeline), pipeline.fields | {"url": url}).code is code


def test_name_that_leads_to_a_private_address_is_not_asked(
    pool: Pool, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged when it is resolved, each time."""
    resolving(monkeypatch, "127.0.0.1")

    error = refusal(hook_of(pool, pipeline), pipeline.fields | {"url": "https://public.example.org/canary"})

    assert (error.code, pipeline.questions) == (Code.ENDPOINT_FORBIDDEN, [])


def test_address_that_was_judged_is_connected_to_at_every_try(
    pool: Pool, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads inside the second time (DNS rebinding) is not asked a second time."""
    asked = resolving(monkeypatch, "8.8.8.8", "127.0.0.1", "127.0.0.1", "127.0.0.1")
    connected = refusing(monkeypatch)

    error = refusal(hook_of(pool, pipeline), pipeline.fields | {"url": "https://rebind.example.org/canary"})

    assert (error.code, asked) == (Code.ENDPOINT_REFUSED, ["rebind.example.org"])
    assert connected == [("8.8.8.8", 443)] * TRIES


def test_callback_that_is_down_is_named(pool: Pool, pipeline: Pipeline) -> None:
    """By host and port."""
    hook, fields = hook_of(pool, pipeline), pipeline.fields
    pipeline.close()

    error = refusal(hook, fields)

    assert (error.code, pipeline.address in error.message) == (Code.ENDPOINT_REFUSED, True)


def test_certificate_that_nobody_trusts_ends_the_question(pool: Pool, pipeline: Pipeline, tmp_path: Path) -> None:
    """Before a byte of it is sent; and another try would not help."""
    key, name, now = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")]),
        datetime.now(UTC),
    )
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    pipeline.server.socket = context.wrap_socket(pipeline.server.socket, server_side=True)
    pipeline.answers = [says({"files": [ROW]})]

    error = refusal(hook_of(pool, pipeline), pipeline.fields | {"url": f"https://{pipeline.address}/canary"})

    assert (error.code, pipeline.questions) == (Code.TLS_FAILED, [])
