"""Every kind of signed URL against every way to fail: what is bad is never a success, and says what it is.

The servers really check: SeaweedFS, alone and behind a proxy that makes AWS of it, Azurite, and our Google Cloud Storage.
Between them and the uploader lies a proxy that spoils requests on cue.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import servers
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.signed.model import Arrival
from cloudpush.push.states import Strength
from cloudpush.stack.azurite import Azurite
from cloudpush.transfer.signed import blocks, put, resumable, wire
from doubles.aws_proxy import AwsProxy
from doubles.faults import Fault, FaultProxy, Reply, Rule, Seen
from doubles.gcs import GcsDouble
from matrix import CASES, FILE, NOW, Case, Memory, World, data_of, renamed, secrets_of
from signers import LONG_AGO, MIB, Row

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def world(
    seaweedfs: servers.Cloud,
    aws: AwsProxy,
    gcs: GcsDouble,
    azurite: Azurite,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        # Small files take the ways of large ones, and a server that does not answer is given up soon.
        patch.setattr(put, "AZURE_AT_ONCE", 4 * MIB)
        patch.setattr(blocks, "BLOCK", MIB)
        patch.setattr(resumable, "CHUNK", MIB)
        patch.setattr(wire, "PAUSE", 0.01)
        made = World.of(
            seaweedfs,
            aws,
            gcs,
            azurite,
            lambda upstream: stack.enter_context(FaultProxy(upstream)),
            tmp_path_factory.mktemp("sources"),
        )
        yield made
        made.sender.close()


@pytest.fixture
def key() -> str:
    """Of an object of this test's own, with letters that need encoding."""
    return f"runs/a b+ü/{next(_numbers)}.bin"


each_case = pytest.mark.parametrize("case", CASES, ids=str)


def send(world: World, case: Case, row: Row, *rules: Rule, data: bytes = b"", **how: Any) -> Arrival | CloudPushError:
    """What becomes of a file when the way to its server fails as ``rules`` say; no secret is told about it."""
    way = case.way(world)
    way.proxy.spoil(*rules)
    outcome = world.sender.send(row, data or data_of(case), **how)
    told = f"{outcome!r} {outcome} {getattr(outcome, 'detail', '')}"
    assert [secret for secret in secrets_of(row) if secret in told] == []
    return outcome


def code_of(outcome: Arrival | CloudPushError) -> Code:
    assert isinstance(outcome, CloudPushError), outcome
    return outcome.code


def stored_at(case: Case, key: str) -> str:
    return FILE if case.name == "azure-tree" else key


@each_case
def test_a_file_arrives_once_and_is_proved(world: World, case: Case, key: str) -> None:
    data = data_of(case)
    way = case.way(world)
    outcome = send(world, case, case.make(world, key, NOW), data=data)
    assert isinstance(outcome, Arrival), outcome
    proved = Strength.INGEST if case.name == "azure-blocks" else Strength.CHECKSUM
    assert (outcome.strength, outcome.sent, outcome.skipped) == (proved, len(data), False)
    assert way.read(stored_at(case, key)) == data
    overhead = sum(way.proxy.received.values()) - len(data)
    assert 0 <= overhead < 6_000  # forms have fields around the content, and lists of parts are sent, too


@each_case
def test_an_empty_file_arrives(world: World, case: Case, key: str) -> None:
    way = case.way(world)
    row = case.make(world, key, NOW)
    way.proxy.spoil()
    outcome = world.sender.send(row, b"")
    assert isinstance(outcome, Arrival), outcome
    assert outcome.strength >= Strength.INGEST
    assert way.read(stored_at(case, key)) == b""


@each_case
def test_a_flipped_bit_is_found(world: World, case: Case, key: str) -> None:
    rule = Rule(Fault.FLIP, case.method, case.second or case.pattern, at=100_000)
    assert code_of(send(world, case, case.make(world, key, NOW), rule)) == Code.CORRUPTED


#: What a server says of a request that a middlebox cut, where that is not simply other bytes.
TRUNCATED = {
    "s3-form": Code.PROVIDER_REFUSED,  # no form any more
    "gcs-resumable": Code.PROVIDER_REFUSED,  # Content-Range says another length
    "gcs-session": Code.PROVIDER_REFUSED,
}


@each_case
def test_a_truncated_request_is_found(world: World, case: Case, key: str) -> None:
    rule = Rule(Fault.TRUNCATE, case.method, case.second or case.pattern, at=100_000)
    outcome = send(world, case, case.make(world, key, NOW), rule)
    assert code_of(outcome) == TRUNCATED.get(case.name, Code.CORRUPTED)


def a_lie(seen: Seen) -> Reply:
    """As if it had arrived, with the right digest where a part's answer has one."""
    if "upload_id" in seen.target:
        last = seen.headers["content-range"].partition("-")[2].partition("/")[0]
        return Reply(308, {"Range": f"bytes=0-{last}"})
    if "partNumber" in seen.target:
        return Reply(200, {"ETag": f'"{seen.digest}"'})
    return Reply(201)


#: What comes of pieces that never reached the server.
DROPPED = {
    "s3-put-v4-head-url": Code.OBJECT_MISSING,
    "s3-multipart": Code.CORRUPTED,
    "gcs-multipart": Code.CORRUPTED,
    "azure-blocks": Code.UPLOAD_GONE,
    "gcs-resumable": Code.PROVIDER_REFUSED,
    "gcs-session": Code.PROVIDER_REFUSED,
}


@each_case
def test_what_was_dropped_on_the_way_is_no_success(world: World, case: Case, key: str) -> None:
    """An answer without a digest proves nothing; a list of parts, or a look, shows that one is missing."""
    once = case.second or case.name in {"gcs-resumable", "gcs-session"}
    rule = Rule(Fault.SWALLOW, case.method, case.second or case.pattern, reply=a_lie, times=1 if once else 99)
    if "upload_id" in case.pattern:
        rule.header = ("content-range", r"bytes \d")  # a chunk, not the question what is there
    outcome = send(world, case, case.make(world, key, NOW), rule)
    if isinstance(outcome, Arrival):
        assert case.name not in DROPPED
        assert outcome.strength is Strength.RESPONSE
        assert outcome.note
    else:
        assert outcome.code == DROPPED.get(case.name)


@each_case
def test_a_success_with_an_error_in_its_body_is_none(world: World, case: Case, key: str) -> None:
    error = (
        b"  \n<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We encountered an error.</Message></Error>"
    )
    rule = Rule(Fault.SWALLOW, *case.last, reply=Reply(200, {}, error))
    assert code_of(send(world, case, case.make(world, key, NOW), rule)) == Code.PROVIDER_UNAVAILABLE


#: A session is asked what it has after each failure, so it is seen that it stands still.
BROKEN = {"gcs-resumable": Code.PROVIDER_UNAVAILABLE, "gcs-session": Code.PROVIDER_UNAVAILABLE}


@each_case
@pytest.mark.parametrize("fault", [Fault.STALL, Fault.RESET], ids=str)
def test_a_way_that_stays_broken_is_a_failure_of_the_network(
    world: World, case: Case, key: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TRIES", 2)
    rule = Rule(fault, case.method, case.second or case.pattern, at=50_000)
    outcome = send(world, case, case.make(world, key, NOW), rule, hasty=True)
    assert code_of(outcome) == BROKEN.get(case.name, Code.NETWORK)


#: One that a server may send before something works.
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@each_case
def test_what_passes_is_survived_and_costs_its_own_piece_only(world: World, case: Case, key: str) -> None:
    """A reset in mid-body, then an answer that asks to go slower, then one that got lost: each is retried alone."""
    data = data_of(case)
    way = case.way(world)
    pattern = case.second or case.pattern
    rules = (
        Rule(Fault.RESET, case.method, pattern, at=50_000, times=1),
        Rule(Fault.SWALLOW, case.method, pattern, reply=Reply(503, {"Retry-After": "0"}, BUSY), times=1),
        Rule(Fault.LOSE, case.method, pattern, times=1),
    )
    outcome = send(world, case, case.make(world, key, NOW), *rules, data=data)
    assert isinstance(outcome, Arrival), outcome
    assert outcome.strength >= Strength.INGEST
    assert way.read(stored_at(case, key)) == data
    if case.second:
        others = Counter(seen.target for seen in way.proxy.seen if not re.search(pattern, seen.target))
        assert set(others.values()) == {1}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.size > 4 * MIB or "upload_id" in case.pattern], ids=str
)
def test_an_attempt_that_comes_after_goes_on_with_what_is_missing(
    world: World, case: Case, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed leaves pieces; none of them is sent a second time."""
    monkeypatch.setattr(wire, "TRIES", 1)
    data = data_of(case)
    row = case.make(world, key, NOW)
    way = case.way(world)
    left = Memory()
    broken = Rule(Fault.RESET, case.method, case.second or case.pattern, at=50_000, spare=0 if case.second else 2)
    assert code_of(send(world, case, row, broken, data=data, journal=left)) in {
        Code.NETWORK,
        Code.PROVIDER_UNAVAILABLE,
    }
    before = Counter(seen.target for seen in way.proxy.seen)
    session = left.sessions[-1] if left.sessions else ""
    outcome = send(world, case, row, data=data, pieces=list(left.pieces.values()), session=session)
    assert isinstance(outcome, Arrival), outcome
    assert outcome.strength >= Strength.INGEST
    assert way.read(stored_at(case, key)) == data
    assert 0 < outcome.sent < len(data)
    assert outcome.sent == sum(seen.body for seen in way.proxy.seen if re.search(case.pattern, seen.target))
    if case.second:
        repeated = [seen.target for seen in way.proxy.seen if seen.target in before]
        assert [target for target in repeated if not re.search(case.second, target)] == []


@each_case
def test_an_expired_url_is_not_even_tried(world: World, case: Case, key: str) -> None:
    """A session has no expiry of its own: it is gone."""
    row = case.make(world, key, LONG_AGO)
    if case.name == "gcs-session":
        world.gcs.double.forget_sessions()
        assert code_of(send(world, case, row)) == Code.UPLOAD_GONE
        return
    assert code_of(send(world, case, row)) == Code.URL_EXPIRED
    assert case.way(world).proxy.seen == []


#: A form's policy says its key, so intake sees it; Azurite does not tell a wrong signature from a missing right.
WRONG_KEY = {
    "s3-form": Code.BAD_MANIFEST,
    "azure-put-blob": Code.ACCESS_DENIED,
    "azure-blocks": Code.ACCESS_DENIED,
}


@each_case
def test_a_url_of_another_key_is_refused_by_the_server(world: World, case: Case, key: str) -> None:
    if case.name in {"azure-tree", "azure-account-sas", "gcs-session"}:
        pytest.skip("opens more than one key, or is bound to its upload alone")
    row = renamed(case.make(world, key, NOW), key, key.replace("runs/", "other/"))
    assert code_of(send(world, case, row)) == WRONG_KEY.get(case.name, Code.BAD_SIGNATURE)


@each_case
def test_a_url_of_another_method_is_refused(world: World, case: Case, key: str) -> None:
    """By the server; a shared access signature says what it allows, so it does not get as far."""
    if case.wrong_method is None:
        pytest.skip("signs no method")
    outcome = send(world, case, case.wrong_method(world, key, NOW))
    assert code_of(outcome) == (Code.URL_UNUSABLE if case.name.startswith("azure") else Code.BAD_SIGNATURE)
