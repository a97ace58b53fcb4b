"""Erasures: what is signed when a name is replaced, and what is read back from the event that tells of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from cloudpush.push.trust.checkpoints import PREFIX as CHECKPOINT
from cloudpush.push.trust.erasures import Erased, Erasure, read_erasure
from cloudpush.push.trust.receipts import DOMAIN as RECEIPT

STREAM = UUID("3c0e0000-0000-4000-8000-000000000001")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENTS = (Erased(2, b"\x02" * 32, b"\x12" * 32), Erased(5, b"\x05" * 32, b"\x15" * 32))
STATED = Erasure.of(STREAM, "person-1", NOON, EVENTS[::-1], b"\x33" * 32)


def test_what_is_signed_is_fixed() -> None:
    """Byte by byte: whoever verifies it elsewhere builds the same text. The root was computed apart."""
    text = STATED.to_sign()

    head, _, body = text.partition(b"\n")
    assert (head, json.loads(body)) == (
        b"cloudpush-erasure-1",
        {
            "version": 1,
            "stream": str(STREAM),
            "pseudonym": "person-1",
            "made_at": "2026-03-01T12:00:00.000000Z",
            "receipt": "33" * 32,
            "events": 2,
            "root": "e771f92fdd8cf506351ada79c36a3416fee4f27a95c9a16cb707f63e616c5925",
        },
    )
    assert not any(text.startswith(other) for other in (CHECKPOINT, RECEIPT))


@pytest.mark.parametrize("events", [EVENTS, ()])
@pytest.mark.parametrize("receipt", [None, b"\x33" * 32])
def test_what_is_told_is_read_back(events: tuple[Erased, ...], receipt: bytes | None) -> None:
    stated = Erasure.of(STREAM, "person-1", NOON, events, receipt)

    assert read_erasure(STREAM, json.dumps(stated.data(b"signature"))) == (stated, b"signature")


def test_an_event_about_a_pseudonym_as_a_whole_tells_of_no_erasure() -> None:
    assert read_erasure(STREAM, '{"pseudonym": "person-1", "streams": 3, "replaced": 7}') is None


@pytest.mark.parametrize(
    "change",
    [
        {"events": None},
        {"events": [7]},
        {"events": [{"seq": 2}]},
        {"events": [{"seq": True, "hash": "02" * 32, "sha256": "12" * 32}]},
        {"events": [{"seq": 2**31, "hash": "02" * 32, "sha256": "12" * 32}]},
        {"events": [{"seq": 2, "hash": "02" * 31, "sha256": "12" * 33}]},
        {"events": STATED.data(b"")["events"][::-1]},
        {"events": STATED.data(b"")["events"][:1] * 2},
        {"signature": "!"},
        {"signature": None},
        {"pseudonym": 7},
        {"made_at": None},
        {"receipt": "x"},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    """Numbers rise, so that no event is told of twice in different words."""
    with pytest.raises(ValueError, match="tells of no erasure"):
        read_erasure(STREAM, json.dumps(dict(STATED.data(b"x")) | change))


@pytest.mark.parametrize("text", ["", "7", "{", '{"events": []}'])
def test_no_erasure_at_all_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="tells of no erasure"):
        read_erasure(STREAM, text)
