"""What the uploader really sends, and what it makes of a server that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from builders import a_destination, a_push
from cloudpush.errors import Cancelled, CloudPushError, Code, DestinationError
from cloudpush.push.guard import parse_endpoint
from cloudpush.push.job import PlannedFile
from cloudpush.push.ports import Control
from cloudpush.push.signed.model import Arrival, Kind, Need, Piece, Provider, SignedUrl, Ticket
from cloudpush.push.signed.ports import Errand, UrlSession
from cloudpush.push.states import Overwrite, Strength
from cloudpush.transfer.signed import pace, wire
from cloudpush.transfer.signed import uploader as uploads
from cloudpush.transfer.signed.renewer import Renewer
from cloudpush.transfer.signed.request import Request
from cloudpush.transfer.signed.source import Meter, OpenSource
from cloudpush.transfer.signed.uploader import STREAK, SignedSession, SignedUploader
from fakes_inspector import GoOn
from raw_server import Asked, RawServer, Reply, raw_server

MIB = 1024 * 1024
SIGNATURE = "5ecre75ecre75ecre75ecre7"
QUERY = f"X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature={SIGNATURE}"


class Notes:
    """``Journal``: nothing of these tests is in pieces."""

    def arrived(self, piece: Piece) -> None:
        raise AssertionError

    def flush(self) -> None:
        raise AssertionError

    def began(self, seq: int, session: str) -> None:
        raise AssertionError

    def lost(self, seq: int) -> None:
        raise AssertionError


@dataclass
class Signer:
    """``Renewals``: answers by a function of what is needed."""

    sign: Callable[[Need], Ticket | None] = lambda _: None
    asked: list[list[int]] = field(default_factory=list)

    def fresh(self, needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        self.asked.append([n.seq for n in needs])
        found = {n.seq: self.sign(n) for n in needs}
        return {seq: ticket for seq, ticket in found.items() if ticket is not None}


@dataclass
class World:
    server: RawServer
    root: Path
    uploader: SignedUploader
    signer: Signer = field(default_factory=Signer)
    files: int = 0

    def url(self, path: str, provider: Provider = Provider.S3, query: str = QUERY, **more: Any) -> SignedUrl:
        text = f"{self.server.url}/bkt/{path}?{query}"
        values: dict[str, Any] = {"flavour": "other", "version": "v4", "bucket": "bkt", "key": path, "vouched": True}
        return SignedUrl(text, provider, origin=parse_endpoint(self.server.url), **(values | more))

    def errand(self, data: bytes, url: SignedUrl | None = None, kind: Kind = Kind.PUT, **more: Any) -> Errand:
        self.files += 1
        name = f"f{self.files}"
        path = self.root / name
        path.write_bytes(data)
        planned = PlannedFile(self.files, name, name, len(data), path.stat().st_mtime_ns)
        return Errand(planned, Ticket(name, kind, url or self.url(name), **more))

    def session(self, stack: ExitStack, overwrite: Overwrite = Overwrite.ALWAYS, endpoint: str = "") -> UrlSession:
        push = replace(a_push(self.root), endpoint=endpoint or self.server.url, destination=a_destination())
        roots = [os.path.realpath(self.root)]
        opened = self.uploader.open(push, self.root, roots, overwrite, Notes(), self.signer, "group")
        return stack.enter_context(opened)

    def send(
        self, *errands: Errand, control: Control | None = None, endpoint: str = ""
    ) -> Mapping[int, Arrival | CloudPushError]:
        with ExitStack() as stack:
            return self.session(stack, endpoint=endpoint).send(errands, control or GoOn())

    def send_one(self, errand: Errand) -> Arrival:
        (outcome,) = self.send(errand).values()
        assert isinstance(outcome, Arrival), outcome
        return outcome

    def failure(self, errand: Errand) -> CloudPushError:
        """Of one file, or of the whole batch."""
        try:
            (outcome,) = self.send(errand).values()
        except CloudPushError as e:
            return e
        assert not isinstance(outcome, Arrival)
        return outcome


@pytest.fixture
def server() -> Iterator[RawServer]:
    with raw_server() as made:
        yield made


@pytest.fixture
def world(server: RawServer, tmp_path: Path) -> Iterator[World]:
    uploader = SignedUploader(allowed_endpoints=(server.address,), stall=0.4)
    yield World(server, tmp_path, uploader)
    uploader.close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PAUSE", 0.0)


def md5_etag(asked_body: bytes) -> dict[str, str]:
    return {"ETag": f'"{hashlib.md5(asked_body).hexdigest()}"'}


def stores(data: bytes) -> Callable[[Asked], Reply]:
    """A server that has stored exactly ``data``."""
    return lambda _: Reply(headers=md5_etag(data))


def error(status: int, code: str, message: str = "words", **more: Any) -> Reply:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return Reply(status, body=body, **more)


# -- what goes over the wire ---------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 100_000, 3 * MIB + 7])
def test_a_put_has_no_header_but_host_and_length_and_exactly_the_signed_target(world: World, size: int) -> None:
    data = os.urandom(size)
    world.server.answer = stores(data)
    errand = world.errand(data, world.url("a%20b+c~/%C3%A9(1)'!*.csv"))
    arrival = world.send_one(errand)
    (asked,) = world.server.asked
    assert (asked.method, asked.target) == ("PUT", f"/bkt/a%20b+c~/%C3%A9(1)'!*.csv?{QUERY}")
    assert asked.headers == (("Host", world.server.address), ("Content-Length", str(size)))
    assert asked.body == data
    md5 = hashlib.md5(data).hexdigest()
    assert arrival == Arrival(hashlib.sha256(data).digest(), Strength.CHECKSUM, md5, md5, sent=size)


def test_signed_integrity_headers_are_computed_and_given_ones_are_sent_as_they_are(world: World) -> None:
    data = b"content"
    world.server.answer = stores(data)
    signed = frozenset({"host", "content-md5", "x-amz-checksum-sha256", "x-amz-meta-run", "content-type"})
    errand = world.errand(
        data, world.url("k", signed_headers=signed), headers={"X-Amz-Meta-Run": "7", "Content-Type": "text/csv"}
    )
    world.send_one(errand)
    (asked,) = world.server.asked
    assert asked.lower == {
        "host": world.server.address,
        "content-length": "7",
        "content-md5": base64.b64encode(hashlib.md5(data).digest()).decode(),
        "content-type": "text/csv",
        "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(data).digest()).decode(),
        "x-amz-meta-run": "7",
    }


@pytest.mark.parametrize("size", [7, 2 * MIB])
def test_azure_gets_its_blob_type_and_the_md5_although_nothing_is_signed(world: World, size: int) -> None:
    data = os.urandom(size)
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    world.server.answer = lambda _: Reply(201, {"ETag": '"0x8D"', "Content-MD5": md5})
    url = world.url("k", Provider.AZURE, "sv=2022-11-02&sp=cw&sr=b&sig=abc", permissions="cw", scope="b")
    arrival = world.send_one(world.errand(data, url))
    (asked,) = world.server.asked
    assert asked.lower == {
        "host": world.server.address,
        "content-length": str(size),
        "content-md5": md5,
        "x-ms-blob-type": "BlockBlob",
    }
    assert (arrival.strength, arrival.expected, arrival.sent) == (Strength.CHECKSUM, md5, size)


def test_a_tree_goes_to_the_key_below_its_directory(world: World) -> None:
    data = b"x"
    world.server.answer = lambda _: Reply(201, {"ETag": '"0x8D"'})
    sas = world.url("ds/1", Provider.AZURE, "sv=2022-11-02&sp=cw&sr=d&sdd=2&sig=abc", permissions="cw", scope="d")
    errand = world.errand(data, sas, Kind.TREE)
    errand = replace(errand, file=replace(errand.file, key="ds/1/a b/ü.csv"))
    world.send_one(errand)
    assert world.server.asked[0].target == "/bkt/ds/1/a%20b/%C3%BC.csv?sv=2022-11-02&sp=cw&sr=d&sdd=2&sig=abc"


@pytest.mark.parametrize("size", [10, 2 * MIB + 5])
def test_a_form_has_its_fields_in_order_and_the_file_last(world: World, size: int) -> None:
    data = os.urandom(size)
    world.server.answer = lambda _: Reply(204, md5_etag(data))
    policy = base64.b64encode(b'{"expiration": "2999-01-01T00:00:00Z", "conditions": []}').decode()
    fields = {"key": "k", "policy": policy, "x-amz-signature": SIGNATURE}
    arrival = world.send_one(world.errand(data, world.url("", query=""), Kind.FORM, fields=fields))
    (asked,) = world.server.asked
    boundary = asked.lower["content-type"].removeprefix("multipart/form-data; boundary=").encode()
    parts = [part.partition(b"\r\n\r\n") for part in asked.body.split(b"--" + boundary)[1:-1]]
    names = [head.partition(b'name="')[2].partition(b'"')[0].decode() for head, _, _ in parts]
    assert names == ["key", "policy", "x-amz-signature", "file"]
    assert parts[-1][2] == data + b"\r\n"
    assert int(asked.lower["content-length"]) == len(asked.body)
    assert (arrival.strength, arrival.sent) == (Strength.CHECKSUM, size)


def test_a_file_that_the_policy_does_not_take_is_not_sent(world: World) -> None:
    text = b'{"expiration": "2999-01-01T00:00:00Z", "conditions": [["content-length-range", 5, 8]]}'
    policy = base64.b64encode(text).decode()
    outcomes = [
        world.failure(world.errand(b"x" * size, kind=Kind.FORM, fields={"policy": policy})).code for size in (4, 9)
    ]
    assert (outcomes, world.server.asked) == ([Code.URL_UNUSABLE, Code.TOO_LARGE], [])


# -- the source ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 2 * MIB])
def test_a_file_that_is_not_as_described_is_not_sent(world: World, size: int) -> None:
    data = os.urandom(size)
    wrong = {"sha256": hashlib.sha256(data).hexdigest(), "md5": "0" * 32}
    error_ = world.failure(world.errand(data, checksums=wrong))
    assert (error_.code, world.server.asked) == (Code.SOURCE_DIFFERS, [])


def test_a_given_header_that_is_of_another_file_stops_it(world: World) -> None:
    errand = world.errand(b"mine", headers={"Content-MD5": base64.b64encode(bytes(16)).decode()})
    assert (world.failure(errand).code, world.server.asked) == (Code.SOURCE_DIFFERS, [])


def test_a_signed_header_without_a_value_stops_it(world: World) -> None:
    errand = world.errand(b"mine", world.url("k", signed_headers=frozenset({"host", "x-amz-acl"})))
    assert (world.failure(errand).code, world.server.asked) == (Code.URL_UNUSABLE, [])


def test_a_file_that_changes_while_it_is_sent_never_arrives_complete(world: World) -> None:
    data = os.urandom(24 * MIB)
    errand = world.errand(data)
    path = world.root / errand.file.path

    def answer(_: Asked) -> Reply:
        os.utime(path, ns=(1, 1))  # the first bytes are on their way
        return Reply(headers=md5_etag(data))

    world.server.answer = answer
    assert world.failure(errand).code is Code.SOURCE_CHANGED
    assert world.server.received < len(data)


def test_a_link_out_of_the_roots_is_not_read(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    errand = world.errand(b"mine")
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_bytes(b"his!")
    path = world.root / errand.file.path
    path.unlink()
    path.symlink_to(secret)
    assert (world.failure(errand).code, world.server.asked) == (Code.SOURCE_OUTSIDE_ROOTS, [])


# -- servers that misbehave ----------------------------------------------------------------


def test_an_answer_with_another_digest_is_no_success(world: World) -> None:
    world.server.answer = stores(b"other")
    assert world.failure(world.errand(b"mine")).code is Code.CORRUPTED


def test_a_success_with_an_error_in_it_is_none(world: World) -> None:
    world.server.answer = lambda _: replace(error(200, "InternalError"), headers=md5_etag(b"mine"))
    assert world.failure(world.errand(b"mine")).code is Code.PROVIDER_UNAVAILABLE
    assert len(world.server.asked) == wire.TRIES


def test_a_success_without_any_digest_is_a_response(world: World) -> None:
    arrival = world.send_one(world.errand(b"mine"))
    assert (arrival.strength, bool(arrival.note)) == (Strength.RESPONSE, True)


def test_a_success_before_all_was_sent_is_none(world: World) -> None:
    world.server.answer = lambda _: Reply(headers=md5_etag(b""), early=1000)
    assert world.failure(world.errand(os.urandom(32 * MIB))).code in {Code.CORRUPTED, Code.NETWORK}


def test_an_empty_stream_is_a_complete_body(world: World) -> None:
    errand = world.errand(b"x" * (2 * MIB))
    with ExitStack() as stack:
        session = world.session(stack)
        session.send([errand], GoOn())  # pins the address
        source = OpenSource(errand.file, world.uploader.shared.readers, Meter())
        source.open(world.root / errand.file.path, [os.path.realpath(world.root)])
        request = Request("PUT", world.url("k").text, body=source.stream(0, 0))
        assert isinstance(session, SignedSession)
        answer = world.uploader._pool.run(session._wire.send(request, Meter()))
        source.close()
    assert (answer.status, world.server.asked[-1].lower["content-length"]) == (200, "0")


def test_an_error_before_all_was_sent_is_heard_and_the_rest_is_not_sent(world: World) -> None:
    world.server.answer = lambda _: error(403, "SignatureDoesNotMatch", early=1000)
    assert world.failure(world.errand(os.urandom(32 * MIB))).code is Code.BAD_SIGNATURE
    assert world.server.received < 32 * MIB


def test_a_redirect_is_not_followed(world: World) -> None:
    with raw_server() as other:
        for status in (301, 302, 307, 308):
            headers = {"Location": f"{other.url}/x", "x-amz-bucket-region": "eu-west-1"}
            world.server.answer = lambda _, s=status, h=headers: Reply(s, h)  # type: ignore[misc]  # defaults bind
            failure = world.failure(world.errand(b"mine"))
            assert (failure.code, "eu-west-1" in failure.message) == (Code.PROVIDER_REFUSED, True)
        assert other.asked == []


def test_a_server_that_takes_nothing_any_more_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TRIES", 1)
    world.server.answer = lambda _: Reply(0, early=1000)
    assert world.failure(world.errand(os.urandom(32 * MIB))).code is Code.NETWORK


def test_a_server_that_does_not_answer_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TRIES", 1)
    world.server.answer = lambda _: Reply(0, early=4)
    assert world.failure(world.errand(b"mine")).code is Code.NETWORK


def test_an_endless_answer_is_cut(world: World) -> None:
    world.server.answer = lambda _: replace(error(403, "AccessDenied"), endless=True)
    assert world.failure(world.errand(b"mine")).code is Code.ACCESS_DENIED


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_what_passes_is_tried_again_and_what_was_sent_is_counted(world: World, size: int) -> None:
    data = os.urandom(size)
    replies = iter([Reply(drop=True), error(503, "SlowDown"), error(500, "InternalError")])
    world.server.answer = lambda _: next(replies, Reply(headers=md5_etag(data)))
    with ExitStack() as stack:
        session = world.session(stack)
        (arrival,) = session.send([world.errand(data)], GoOn()).values()
        progress = session.progress()
    assert isinstance(arrival, Arrival)
    assert (arrival.strength, [a.body == data for a in world.server.asked]) == (Strength.CHECKSUM, [True] * 4)
    assert (progress.bytes, progress.files) == (size, 1)
    assert arrival.sent >= size


def test_a_pause_that_is_asked_for_is_kept_by_everybody(world: World) -> None:
    first = threading.Event()

    def answer(_: Asked) -> Reply:
        if not first.is_set():
            first.set()
            return error(503, "SlowDown", headers={"Retry-After": "100000"})
        return Reply()

    world.server.answer = answer
    # Longer than anybody waits within a call: left to the part's own back-off.
    assert world.failure(world.errand(b"mine")).code is Code.THROTTLED
    server = next(iter(world.uploader._servers.values()))
    assert (server.pace.limit, len(world.server.asked)) == (pace.START / 2, 1)
    assert not server.pace._free()


def test_a_server_that_refuses_connections_ends_the_batch(world: World) -> None:
    errands = [world.errand(b"mine") for _ in range(50)]
    world.server.stop()
    with pytest.raises(DestinationError) as caught:
        world.send(*errands)
    assert caught.value.code is Code.ENDPOINT_REFUSED


def test_a_streak_of_failures_ends_the_batch_but_what_arrived_is_told(world: World) -> None:
    good, bad = world.errand(b"mine"), [world.errand(b"mine") for _ in range(500)]
    world.server.answer = lambda asked: (
        Reply(headers=md5_etag(b"mine")) if asked.path.endswith("/f1") else error(500, "InternalError")
    )
    outcomes = world.send(good, *bad)
    assert isinstance(outcomes[1], Arrival)
    assert {o.code for o in outcomes.values() if isinstance(o, CloudPushError)} == {Code.PROVIDER_UNAVAILABLE}
    assert len(outcomes) == 501
    assert STREAK * wire.TRIES <= len(world.server.asked) < 500


@pytest.mark.parametrize("told", ["x-goog-stored-content-length", "Content-Range"])
def test_a_number_beyond_all_numbers_is_none(world: World, told: str) -> None:
    """Python refuses to read 5,000 digits, which must not cost the other files."""
    value = "9" * 5_000 if told != "Content-Range" else f"bytes 0-0/{'9' * 5_000}"
    world.server.answer = lambda asked: Reply(headers={told: value} if asked.method == "HEAD" else md5_etag(b"mine"))
    errands = [world.errand(b"mine") for _ in range(3)]
    errands += [world.errand(b"mine", verify=world.url("f4"), verify_method="HEAD")]
    assert [type(o) for o in world.send(*errands).values()] == [Arrival] * 4


@pytest.mark.parametrize("where", ["_protocol", "OpenSource.open"])
def test_a_defect_is_one_files_failure_and_what_is_told_of_it_holds_no_url(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The others' arrivals are told all the same: what they stored must not be sent again."""
    world.server.answer = lambda _: Reply(headers=md5_etag(b"mine"))
    errands = [world.errand(b"mine") for _ in range(3)]
    ticket = errands[1].ticket
    assert ticket is not None
    words = f"cannot read {ticket.url.text} nor {SIGNATURE}"
    told: list[str] = []
    monkeypatch.setattr(uploads.log, "error", lambda event, **fields: told.append(repr((event, fields))))
    if where == "_protocol":
        protocol = uploads._protocol

        def choose(chosen: Ticket, size: int) -> Any:
            if chosen is ticket:
                raise ValueError(words)
            return protocol(chosen, size)

        monkeypatch.setattr(uploads, "_protocol", choose)
    else:
        opens = OpenSource.open

        def open_(self: OpenSource, path: Path, roots: Sequence[str]) -> None:
            if self.planned.seq == 2:
                raise ValueError(words)
            opens(self, path, roots)

        monkeypatch.setattr(OpenSource, "open", open_)
    outcomes = world.send(*errands)
    failure = outcomes[2]
    assert isinstance(failure, CloudPushError)
    assert (failure.code, [type(outcomes[n]) for n in (1, 3)]) == (Code.INTERNAL, [Arrival, Arrival])
    shown = "".join([*told, *traceback.format_exception(failure), failure.detail])
    assert ("ValueError: cannot read" in shown, SIGNATURE in shown, len(told)) == (True, False, 1)


def test_one_bad_file_is_its_own_failure(world: World) -> None:
    world.server.answer = lambda asked: (
        error(403, "SignatureDoesNotMatch") if asked.path.endswith("/f2") else Reply(headers=md5_etag(b"mine"))
    )
    outcomes = world.send(*[world.errand(b"mine") for _ in range(40)])
    assert [seq for seq, o in outcomes.items() if not isinstance(o, Arrival)] == [2]


# -- hostile URLs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1:1/bkt/k?x=1", "http://{a}@evil.example/k", "http://{a}.evil.example/k", "file:///etc/passwd"],
)
def test_a_url_that_leads_elsewhere_is_not_followed(world: World, text: str) -> None:
    url = replace(world.url("k"), text=text.replace("{a}", world.server.address))
    assert (world.failure(world.errand(b"mine", url)).code, world.server.asked) == (Code.ENDPOINT_FORBIDDEN, [])


def test_an_address_that_nobody_listed_is_not_connected_to(world: World) -> None:
    guarded = replace(world, uploader=SignedUploader())
    with pytest.raises(CloudPushError) as caught:
        guarded.send(world.errand(b"mine"))
    assert (caught.value.code, world.server.connections) == (Code.ENDPOINT_FORBIDDEN, 0)


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Names resolve to these addresses, one after the other; what was asked for."""
    asked: list[str] = []
    left = iter(answers)

    def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(left), port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_that_leads_to_a_private_address_is_not_connected_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "127.0.0.1")
    port = world.server.address.rpartition(":")[2]
    with pytest.raises(CloudPushError) as caught:
        world.send(world.errand(b"mine"), endpoint=f"https://files.example:{port}")
    assert (caught.value.code, world.server.connections) == (Code.ENDPOINT_FORBIDDEN, 0)


def test_the_address_that_was_judged_is_the_one_that_is_connected_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(monkeypatch, "127.0.0.1", "192.0.2.1")
    address = f"files.example:{world.server.address.rpartition(':')[2]}"
    named = replace(world, uploader=SignedUploader(allowed_endpoints=(address,)))
    url = replace(world.url("k"), text=f"http://{address}/bkt/k?{QUERY}")
    outcomes = named.send(world.errand(b"mine", url), endpoint=f"http://{address}")
    named.uploader.close()
    assert (asked, [type(o) for o in outcomes.values()], world.server.lines) == (
        ["files.example"],
        [Arrival],
        ["PUT /bkt/k"],
    )


@pytest.mark.parametrize(
    "reply",
    [
        Reply(drop=True),
        Reply(drop=True, early=1000),
        Reply(307, {"Location": f"/x?X-Amz-Signature={SIGNATURE}"}),
        error(403, "SignatureDoesNotMatch", f"of X-Amz-Signature={SIGNATURE} or {SIGNATURE}"),
        error(400, "Weird", f"http://x/bkt/f1?{QUERY}"),
        Reply(500, body=SIGNATURE.encode()),
    ],
)
def test_nothing_of_a_url_is_in_an_error(world: World, reply: Reply) -> None:
    world.server.answer = lambda _: reply
    assert_silent(world)


@pytest.mark.parametrize(
    "words",
    [
        lambda url: aiohttp.ClientOSError(32, f"Can not write request body for {url}"),
        aiohttp.InvalidURL,
    ],
)
def test_nothing_of_a_url_is_in_what_the_client_library_says_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch, words: Callable[[object], Exception]
) -> None:
    def request(_: object, __: str, url: object, **___: object) -> None:
        raise words(url)

    monkeypatch.setattr(aiohttp.ClientSession, "request", request)
    assert_silent(world)


def assert_silent(world: World) -> None:
    errand = world.errand(os.urandom(2 * MIB))
    failure = world.failure(errand)
    shown = "".join(
        [repr(failure), failure.message, failure.detail, *traceback.format_exception(failure), repr(errand)]
    )
    shown += "".join(map(str, [failure.__context__, failure.__cause__]))
    assert SIGNATURE not in shown


# -- expiry --------------------------------------------------------------------------------

NOW = datetime.now(UTC)


def test_an_expired_url_is_not_used_and_nobody_renews_it(world: World) -> None:
    failure = world.failure(world.errand(b"mine", world.url("k", expires_at=NOW - timedelta(seconds=5))))
    assert (failure.code, world.server.asked, world.signer.asked) == (Code.URL_EXPIRED, [], [[1]])


def test_urls_that_expire_together_are_renewed_together(world: World) -> None:
    world.server.answer = lambda _: Reply(headers=md5_etag(b"mine"))
    world.signer.sign = lambda need: Ticket(need.path, need.kind, world.url(f"fresh-{need.seq}"))
    errands = [world.errand(b"mine", world.url("k", expires_at=NOW)) for _ in range(20)]
    outcomes = world.send(*errands)
    assert all(isinstance(o, Arrival) for o in outcomes.values())
    assert {a.path for a in world.server.asked} == {f"/bkt/fresh-{n}" for n in range(1, 21)}
    assert sum(map(len, world.signer.asked)) == 20
    assert len(world.signer.asked) <= 2


def test_needs_that_arise_soon_after_each_other_are_one_question(world: World) -> None:
    async def story() -> None:
        async with aclosing(Renewer(world.signer, GoOn(), world.uploader.shared.renewals)) as renewer:
            waiting = []
            for seq in range(3):
                waiting.append(asyncio.create_task(renewer.ticket(Need(seq, "f", "f", Kind.PUT))))
                for _ in range(20):
                    await asyncio.sleep(0)
            await asyncio.gather(*waiting)

    asyncio.run(story())
    assert world.signer.asked == [[0, 1, 2]]


def test_a_purged_ticket_is_asked_for(world: World) -> None:
    world.server.answer = lambda _: Reply(headers=md5_etag(b"mine"))
    world.signer.sign = lambda need: Ticket(need.path, need.kind, world.url("fresh"))
    world.send_one(replace(world.errand(b"mine"), ticket=None))
    assert (world.server.lines, world.signer.asked) == (["PUT /bkt/fresh"], [[1]])


def test_a_url_that_the_server_calls_expired_is_renewed_once(world: World) -> None:
    world.server.answer = lambda _: error(403, "AccessDenied", "Request has expired")
    world.signer.sign = lambda need: Ticket(need.path, need.kind, world.url("fresh"))
    failure = world.failure(world.errand(b"mine"))
    assert (failure.code, world.server.lines) == (Code.URL_EXPIRED, ["PUT /bkt/f1", "PUT /bkt/fresh"])


def dated(ahead: timedelta) -> Reply:
    """A success of somebody whose clock is off."""
    date = format_datetime(datetime.now(UTC) + ahead, usegmt=True)
    return Reply(headers={**md5_etag(b"mine"), "Date": date})


@pytest.mark.parametrize("ahead", [1, 23, 24 * 365, -23])
def test_a_date_that_is_wrong_keeps_nobody_from_sending(world: World, ahead: int) -> None:
    """Else nothing would be sent any more, and nothing better be learned: all pushes to a server share its clock."""
    world.server.answer = lambda _: dated(timedelta(hours=ahead))
    now = datetime.now(UTC)
    world.send_one(world.errand(b"mine"))
    sas: dict[str, Any] = {"permissions": "cw", "version": "sas", "starts_at": now - timedelta(hours=1)}
    for more in ({}, sas):
        world.send_one(world.errand(b"mine", world.url("k", expires_at=now + timedelta(minutes=30), **more)))


def test_a_refusal_is_no_expiry_because_a_date_was_wrong(world: World) -> None:
    """It would wait for fresh URLs that would be refused as well."""
    world.server.answer = lambda _: dated(timedelta(hours=23))
    world.send_one(world.errand(b"mine"))
    world.server.answer = lambda _: error(403, "AccessDenied")
    soon = datetime.now(UTC) + timedelta(minutes=30)
    assert world.failure(world.errand(b"mine", world.url("k", expires_at=soon))).code is Code.ACCESS_DENIED


def test_a_url_that_has_expired_by_our_clock_alone_is_tried(world: World) -> None:
    world.server.answer = lambda _: dated(timedelta(hours=-1))
    world.send_one(world.errand(b"mine"))
    world.send_one(world.errand(b"mine", world.url("k", expires_at=datetime.now(UTC) - timedelta(minutes=30))))


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", f"Sun, 01 Mar 2026 12:00:00 +{'9' * 30}"])
def test_a_date_beyond_all_time_is_ignored(world: World, date: str) -> None:
    world.server.answer = lambda _: Reply(headers={**md5_etag(b"mine"), "Date": date})
    soon = datetime.now(UTC) + timedelta(minutes=30)
    for _ in range(2):
        world.send_one(world.errand(b"mine", world.url("k", expires_at=soon)))


def test_a_url_of_tomorrow_is_refused_and_one_of_now_is_waited_for(world: World) -> None:
    world.server.answer = lambda _: Reply(headers=md5_etag(b"mine"))
    sas: dict[str, Any] = {"permissions": "cw", "version": "sas"}
    tomorrow = world.url("k", starts_at=datetime.now(UTC) + timedelta(days=1), **sas)
    soon = world.url("k", starts_at=datetime.now(UTC) + timedelta(seconds=0.2), **sas)
    assert world.failure(world.errand(b"mine", tomorrow)).code is Code.URL_NOT_YET_VALID
    assert world.send_one(world.errand(b"mine", soon)).strength is Strength.CHECKSUM


# -- what is shared with other owners ------------------------------------------------------


@dataclass
class Slow:
    """``Renewals``: a callback that does not answer before ``gate`` opens."""

    gate: threading.Event = field(default_factory=threading.Event)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def fresh(self, needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        self.asked.release()
        assert self.gate.wait(30)
        return {}


def beside(world: World, slow: Slow, uploads_: Sequence[Sequence[Errand]], work: Callable[[], object]) -> bool:
    """Whether ``work`` ends while each of the other uploads waits for its callback."""
    patient = replace(world, signer=slow)  # type: ignore[arg-type]  # both are Renewals
    threads = [threading.Thread(target=patient.send, args=each) for each in uploads_]
    mine = threading.Thread(target=work)
    for thread in threads:
        thread.start()
    for _ in threads:
        assert slow.asked.acquire(timeout=10)
    mine.start()
    mine.join(10)
    over = not mine.is_alive()
    slow.gate.set()
    for thread in [*threads, mine]:
        thread.join()
    return over


@pytest.mark.parametrize(
    ("size", "says"), [(2 * MIB, "we"), (2 * MIB, "they"), (700_000, "we"), (700_000, "they"), (700_000, "nobody")]
)
def test_a_callback_keeps_no_memory_from_others(world: World, size: int, says: str) -> None:
    """Nobody but its own files waits for it, whoever noticed that their URLs have expired, or are gone."""
    data = os.urandom(size)
    past = datetime.now(UTC) - timedelta(seconds=5) if says == "we" else None

    def answer(asked: Asked) -> Reply:
        late = asked.path.startswith("/bkt/old")
        return error(403, "AccessDenied", "Request has expired") if late else Reply(headers=md5_etag(data))

    world.server.answer = answer
    old = [world.errand(data, world.url(f"old{n}", expires_at=past)) for n in range(16)]
    if says == "nobody":
        old = [replace(errand, ticket=None) for errand in old]
    other = world.errand(data)
    assert beside(world, Slow(), [old], lambda: world.send_one(other))


def test_a_callback_keeps_no_journal_waiting(world: World) -> None:
    """Pieces are to be kept within a second."""
    past = datetime.now(UTC) - timedelta(seconds=5)
    old = [[world.errand(b"x", world.url("old", expires_at=past))] for _ in range(8)]
    assert beside(world, Slow(), old, lambda: world.uploader.shared.clerks.submit(int).result())


def test_a_small_file_whose_url_expired_is_read_again_and_sent_once(world: World) -> None:
    """A renewal that succeeds costs one further request, and a second refusal is final."""
    world.server.answer = lambda asked: (
        Reply(headers=md5_etag(b"mine"))
        if asked.path.startswith("/bkt/fresh")
        else error(403, "AccessDenied", "Request has expired")
    )
    world.signer.sign = lambda need: Ticket(need.path, need.kind, world.url("fresh" if need.seq < 3 else "old"))
    outcomes = world.send(*[world.errand(b"mine") for _ in range(3)])
    assert [o.strength if isinstance(o, Arrival) else o.code for _, o in sorted(outcomes.items())] == [
        Strength.CHECKSUM,
        Strength.CHECKSUM,
        Code.URL_EXPIRED,
    ]
    assert sorted(a.path for a in world.server.asked) == sorted(
        ["/bkt/f1", "/bkt/f2", "/bkt/f3", "/bkt/fresh", "/bkt/fresh", "/bkt/old"]
    )


# -- what is there already -----------------------------------------------------------------


@pytest.mark.parametrize(("size", "status"), [(4, 412), (4, 409), (2 * MIB, 412)])
@pytest.mark.parametrize("companion", [True, False])
def test_our_own_object_whose_answer_was_lost_is_not_called_anothers(
    world: World, size: int, status: int, companion: bool
) -> None:
    """The wire tries again, and the guard that was signed refuses what we stored ourselves."""
    data = os.urandom(size)
    stored: list[bytes] = []

    def answer(asked: Asked) -> Reply:
        if asked.method == "HEAD":
            found = {**md5_etag(stored[0]), "Content-Range": f"bytes 0-0/{size}"} if stored else {}
            return Reply(200 if stored else 404, found)
        if stored:
            return error(status, "PreconditionFailed" if status == 412 else "ConditionalRequestConflict")
        stored.append(data)
        return Reply(drop=True)

    world.server.answer = answer
    guard = frozenset({"host", "if-none-match"})
    more: dict[str, Any] = {"verify": world.url("f1"), "verify_method": "HEAD"} if companion else {}
    errand = world.errand(data, world.url("f1", signed_headers=guard), headers={"if-none-match": "*"}, **more)
    with ExitStack() as stack:
        (outcome,) = world.session(stack, Overwrite.NEVER).send([errand], GoOn()).values()
    if companion:
        assert isinstance(outcome, Arrival), outcome
        assert (outcome.strength, outcome.skipped, outcome.sent >= size) == (Strength.CHECKSUM, True, True)
    else:
        assert isinstance(outcome, CloudPushError)
        assert ("may be our own" in outcome.message) == (status == 412)
        assert outcome.code is (Code.OBJECT_EXISTS if status == 412 else Code.CONFLICT)


def test_an_object_of_somebody_else_is_not_called_our_own(world: World) -> None:
    world.server.answer = lambda asked: (
        Reply(200, {**md5_etag(b"his!"), "Content-Range": "bytes 0-0/4"})
        if asked.method == "HEAD" and len(world.server.asked) > 2
        else error(412, "PreconditionFailed")
        if asked.method == "PUT"
        else Reply(404)
    )
    errand = world.errand(b"mine", verify=world.url("f1"), verify_method="HEAD")
    with ExitStack() as stack:
        (outcome,) = world.session(stack, Overwrite.NEVER).send([errand], GoOn()).values()
    assert isinstance(outcome, CloudPushError)
    assert (outcome.code, "our own" in outcome.message) == (Code.OBJECT_EXISTS, False)


# -- stopping ------------------------------------------------------------------------------


@dataclass
class StopWhen(Control):
    """Says stop from the moment that ``reached`` holds."""

    reached: Callable[[], bool]

    def check(self) -> None:
        if self.reached():
            raise Cancelled


def test_a_cancelled_push_stops_what_is_in_flight(world: World) -> None:
    world.server.answer = lambda _: Reply(0, early=1000)
    uploader = SignedUploader(allowed_endpoints=(world.server.address,), stall=60)
    slow = replace(world, uploader=uploader)
    errands = [world.errand(os.urandom(8 * MIB)) for _ in range(3)]
    with pytest.raises(Cancelled):
        slow.send(*errands, control=StopWhen(lambda: world.server.connections == 3))
    session = uploader._pool.session()
    assert session.connector is not None
    assert not session.connector._acquired  # no connection is in use
    uploader.close()


def test_who_is_cancelled_before_sends_nothing(world: World) -> None:
    with pytest.raises(Cancelled):
        world.send(world.errand(b"mine"), control=StopWhen(lambda: True))
    assert world.server.connections == 0


@pytest.mark.parametrize("what", ["send", "abort"])
def test_who_is_stopped_does_not_wait_for_a_resolver(world: World, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """It may take minutes."""
    gate, asked, waited = threading.Event(), threading.Event(), list[bool]()

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        asked.set()
        waited.append(gate.wait(10))
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    endpoint = "https://files.example"
    with ExitStack() as stack:
        session = world.session(stack, endpoint=endpoint)
        work = session.send if what == "send" else session.abort
        with pytest.raises(Cancelled):
            work([world.errand(b"mine")], StopWhen(asked.is_set))
    assert waited == []
    gate.set()


def test_who_is_stopped_does_not_wait_for_the_second_reading_of_others(world: World) -> None:
    """Large files that go on where they stopped are read from their beginning, as many at a time as there are threads."""
    gate = threading.Event()
    busy = [world.uploader.shared.readers.whole.submit(gate.wait, 10) for _ in range(40)]
    query = f"{QUERY}&uploadId=U"
    parts = tuple(world.url("big", query=f"{query}&partNumber={n}").text for n in (1, 2, 3))
    url = world.url("big", query=query, upload="U")
    errand = world.errand(os.urandom(12 * MIB), url, Kind.MULTIPART, parts=parts)
    world.server.answer = lambda _: Reply(0, early=4)
    with pytest.raises(Cancelled):
        world.send(errand, control=StopWhen(lambda: world.server.connections > 0))
    assert not any(each.done() for each in busy)
    gate.set()
